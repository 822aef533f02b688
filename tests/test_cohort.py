"""A cohort: what the commands make, whoever does the work, in whichever order, after whatever went wrong."""

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ies_helpers
from ies_helpers import cohort as run
from ies_helpers import cohort as work
from ies_helpers import load_network
from ies_helpers.__main__ import main
from ies_helpers.cli import cohort
from ies_helpers.cohort import Config, Workforce, find_workers, list_tasks, read_config, run_cohort
from tests.cohort.dying import Mortal, die
from tests.patients import SPOTS, strays, write_image, write_network, write_patient

TEXT = """
subjects = ["patients/*"]
out = "{out}"

[network]
name = "narrow.safetensors"

[[explain]]
aggregate = "mean"
lesions = "TP"
draws = 1

[[explain]]
method = "gradcam++"

[[perilesional]]
lesions = "TP"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good patients, one without a true positive, and one whose FLAIR is constant."""
    home = tmp_path_factory.mktemp("cohort")
    write_network(home / "narrow.safetensors")
    write_patient(home / "patients" / "a", "a", seed=1)
    write_patient(home / "patients" / "b", "b", seed=2, spots={"FP": SPOTS["FP"]})
    write_patient(home / "patients" / "c", "c", seed=3, spots={})
    write_image(home / "patients/c/sub-c_FLAIR.nii.gz", np.full((96,) * 3, 7, dtype=np.int16))
    return home


def config_of(home: Path, out: str, **replaced: str) -> Config:
    """The configuration, written and read; words are replaced by others."""
    text = TEXT.format(out=out)
    for old, new in replaced.items():
        text = text.replace(old, new)
    (home / out).mkdir(exist_ok=True)
    path = home / "cohort.toml"
    path.write_text(text)
    return read_config(path)


def run_it(config: Config, crew: Workforce = Workforce(1)) -> pd.DataFrame:  # noqa: B008
    return run_cohort(config, load_network(**config.network), crew)


@pytest.fixture(scope="module")
def serial(home: Path) -> tuple[Config, pd.DataFrame]:
    """One process, one subject after another."""
    config = config_of(home, "serial")
    return config, run_it(config)


def bits(out: Path) -> dict[str, str]:
    """The hash of every file, but for those that hold times and the folder's own name, and for what is made of maps."""
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.stem != "cohort" and "evaluation" not in p.parts]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# What is made


def test_the_cohort_writes_what_the_commands_write(home: Path, serial: tuple[Config, pd.DataFrame], capsys) -> None:
    out, weights = home / "commands", home / "narrow.safetensors"
    for name, wanted in (("a", "TP"), ("b", "")):
        common = ["explain", f"{home}/patients/{name}", "--network", f"{weights}", "--out", f"{out}", "--json"]
        if wanted:
            assert main([*common, "--aggregate", "mean", "--lesions", wanted, "--draws", "1"]) == 0
        assert main([*common, "--method", "gradcam++"]) == 0
    capsys.readouterr()
    options = ["--network", f"{weights}", "--lesions", "TP", "--out", f"{home}/curves", "--json"]
    assert main(["perilesional", f"{home}/patients/a", *options]) == 0
    images = {name: digest for name, digest in bits(out).items() if not name.endswith(".json")}
    made = bits(serial[0].out)
    assert {name: made[name] for name in images} == images
    assert set(made) - set(bits(out)) == {
        "figures/perilesional.png",
        "perilesional.csv",
        "perilesional_average.tsv",
        "perilesional_medians.tsv",
        "perilesional_summary.tsv",
        "sub-a/perilesional.csv",
    }
    for name in ("perilesional.csv", *(f"perilesional_{name}.tsv" for name in ("average", "medians", "summary"))):
        assert (serial[0].out / name).read_text() == (home / "curves" / name).read_text()


def test_the_table_says_what_was_done_and_what_failed_where_and_why(serial: tuple[Config, pd.DataFrame]) -> None:
    table = pd.read_csv(serial[0].out / "cohort.tsv", sep="\t").set_index("subject")
    assert table["status"].to_dict() == {"a": "done", "b": "done", "c": "failed"}
    assert table.loc["c", ["step", "why"]].tolist() == [
        "load",
        "The FLAIR image must vary over its non-zero voxels, sub-c_FLAIR.nii.gz is constant.",
    ]
    assert table[["lesions", "maps", "curves"]].iloc[:2].to_numpy().tolist() == [[3, 5, 1], [1, 1, 0]]
    assert "of 'TP' there is none among Lesions(1 FP)" in table.loc["b", "notes"]
    assert "The axes of a run to P, S, R" in table.loc["a", "notes"]
    index = pd.read_csv(serial[0].out / "maps.tsv", sep="\t")
    assert index.groupby("subject").size().to_dict() == {"a": 5, "b": 1}
    assert strays(serial[0].out) == []


def test_what_the_maps_depend_on_is_kept_beside_them(home: Path, serial: tuple[Config, pd.DataFrame]) -> None:
    config = serial[0]
    assert (config.out / "cohort.toml").read_text() == config.text
    kept = json.loads((config.out / "cohort.json").read_text())
    assert kept["digest"] == load_network(home / "narrow.safetensors").digest()
    assert kept["versions"]["torch"] == torch.__version__
    assert kept["explain"] == [request.as_table() for request in config.explain]
    (sidecar, *_) = sorted(config.out.rglob("*smoothgradmean*_FLAIR.json"))
    assert json.loads(sidecar.read_text())["command"] == "ies cohort cohort.toml"


def test_maps_are_evaluated_at_the_end_as_the_command_does(home: Path, serial, tmp_path: Path, capsys) -> None:
    path = home / "evaluated.toml"
    path.write_text(serial[0].text + "\n[evaluate]\nseed = 3\n")
    assert cohort(path, as_json=True) == 1
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["kept", "kept", "failed"]
    assert main(["evaluate", f"{serial[0].out}", "--seed", "3", "--out", f"{tmp_path}", "--json"]) == 0
    made = serial[0].out / "evaluation"
    for name in ("measures.csv", "ranking.csv", "summary.md"):
        assert (made / name).read_text() == (tmp_path / name).read_text()
    assert len(pd.read_csv(made / "measures.csv")["path"].unique()) == 5  # a: SmoothGrad of 1, Grad-CAM++ of 3; b: 1


def test_the_validator_of_bids_accepts_the_folder(serial: tuple[Config, pd.DataFrame]) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    command = [validator, "--format", "json", serial[0].out]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [i for i in json.loads(answer.stdout)["issues"]["issues"] if i["severity"] == "error"] == []
    assert answer.returncode == 0


# Whoever does the work


def test_two_processes_and_two_workers_of_a_cluster_make_the_same_bits(home: Path, serial) -> None:
    from dask.distributed import LocalCluster

    expected = bits(serial[0].out)
    two = config_of(home, "two")
    table = run_it(two, Workforce(2))
    assert bits(two.out) == expected
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        dask = config_of(home, "dask")
        (home / "scheduler.json").write_text(json.dumps(cluster.scheduler.identity(), default=str))
        assert len(cluster.scheduler_info["workers"]) == 2
        other = run_it(dask, find_workers(dask=str(home / "scheduler.json")))
    assert bits(dask.out) == expected
    for made in (table, other):
        pd.testing.assert_frame_equal(made.drop(columns="seconds"), serial[1].drop(columns="seconds"))


def test_a_process_that_dies_is_told_and_the_others_are_done(monkeypatch) -> None:
    monkeypatch.setattr(run, "work_on", die)
    rows = list(run._rows([Mortal("bad"), Mortal("good"), Mortal("better")], Workforce(2)))  # pyright: ignore
    assert {row["subject"]: row["status"] for row in rows} == {"bad": "failed", "good": "done", "better": "done"}
    (bad,) = [row for row in rows if row["subject"] == "bad"]
    assert bad["why"] == "Its process died; the usual reason is too little memory."


def test_each_process_borrows_a_gpu_of_its_own(monkeypatch) -> None:
    """Two devices, six pieces of work in two threads: never two at once on one device."""
    busy: set[int] = set()
    seen: list[int] = []

    @contextmanager
    def device(number: int) -> Iterator[None]:
        assert number not in busy
        busy.add(number)
        seen.append(number)
        barrier.wait(timeout=20)  # both are inside at the same time
        busy.remove(number)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    lent: queue.Queue[int] = queue.Queue()
    lent.put(0)
    lent.put(1)
    barrier = threading.Barrier(2)

    def borrow() -> None:
        for _ in range(3):
            with work._borrowed(lent):
                pass

    threads = [threading.Thread(target=borrow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(seen) == [0, 0, 0, 1, 1, 1]
    assert lent.qsize() == 2


def test_there_is_one_process_a_gpu_and_no_more_threads_than_cores(monkeypatch) -> None:
    monkeypatch.setattr(run.joblib, "cpu_count", lambda: 8)
    assert find_workers() == Workforce(1, 1)
    assert find_workers(4, threads=2) == Workforce(4, 2)
    with pytest.raises(ValueError, match=r"a core for each thread, 8 here; got 5 workers of 2\. Take fewer"):
        find_workers(5, threads=2)
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        find_workers(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_workers() == Workforce(3, 1, devices=3)
    assert find_workers(device="cpu") == Workforce(1, 1)
    with pytest.raises(ValueError, match="a GPU for each worker, 3 here; got 4 workers"):
        find_workers(4)


def test_a_cluster_without_dask_is_told(monkeypatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs dask: pip install 'ies-helpers\[cluster\]'"):
        find_workers(dask="tcp://nowhere:1")


# After whatever went wrong


def test_an_interrupted_run_goes_on_by_subject_and_by_lesion(home: Path, serial, monkeypatch) -> None:
    """Interrupted before the second Grad-CAM++ map of a; then in b; then whole."""
    config = config_of(home, "again")
    made: list[tuple[str, int]] = []
    save = ies_helpers.saliency.explain.save_map

    def stop_after(count: int):
        def saving(folder, subject, saliency, record, notes):
            if len(made) == count:
                raise KeyboardInterrupt
            made.append((record.subject, record.lesion))
            return save(folder, subject, saliency, record, notes)

        return saving

    for count in (2, 4, 99):
        monkeypatch.setattr(ies_helpers.saliency.explain, "save_map", stop_after(count))
        if count < 99:
            with pytest.raises(KeyboardInterrupt):
                run_it(config)
            continue
        table = run_it(config)
    assert made == [("a", 1), ("a", 1), ("a", 2), ("a", 3), ("b", 1)]
    assert table["status"].tolist() == ["kept", "done", "failed"]
    assert bits(config.out) == bits(serial[0].out)


def test_a_second_run_does_only_what_is_not_there_or_is_another(home: Path, serial) -> None:
    config, network = serial[0], load_network(home / "narrow.safetensors")
    before = bits(config.out)
    tasks, rows = list_tasks(config, network)
    assert [(task.name, rows[str(home / "patients" / task.name)]["status"]) for task in tasks] == [("c", "waiting")]
    lost = sorted(config.out.glob("sub-b/anat/*gradcam*.nii.gz"))[0]
    lost.unlink()
    assert [task.name for task in list_tasks(config, network)[0]] == ["b", "c"]
    assert run_it(config)["status"].tolist() == ["kept", "done", "failed"]
    assert bits(config.out) == before
    more = config_of(home, "serial", **{'"gradcam++"': '"gradcam++"\nlesions = "TP"'})
    assert [task.name for task in list_tasks(more, network)[0]] == ["a", "b", "c"]
    scan = home / "patients" / "a" / "sub-a_FLAIR.nii.gz"
    stamp = scan.stat()
    os.utime(scan, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert [task.name for task in list_tasks(config, network)[0]] == ["a", "c"]
    os.utime(scan, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert [task.name for task in list_tasks(config, network)[0]] == ["c"]


def test_a_mistake_that_nobody_foresaw_says_where_it_happened(home: Path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel\nhere")

    monkeypatch.setattr(work, "make_maps", broken)
    config = config_of(home, "broken")
    task = list_tasks(config, load_network(home / "narrow.safetensors"))[0][0]
    row = work.work_on(task)
    assert (row["status"], row["step"]) == ("failed", "explain smoothgrad of TP")
    assert row["why"].startswith("RuntimeError: no such kernel here (test_cohort.py, line ")
    assert not (config.out / "sub-a" / "cohort.json").exists()


def test_two_subjects_of_one_name_are_refused_before_any_work(home: Path, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_patient(tmp_path / "patients" / folder, "same", side=8, spots={})
    write_network(tmp_path / "narrow.safetensors")
    config = config_of(tmp_path, "out")
    with pytest.raises(ValueError, match=r"different names, same is both .*/x and .*/y; rename the files"):
        run_it(config)
    assert not (config.out / "cohort.tsv").exists()


# The command


def test_the_command_prints_the_plan_first_and_stops_there_if_asked(home: Path, capsys) -> None:
    config = config_of(home, "command")
    assert cohort(config.path, dry_run=True) == 0
    told = capsys.readouterr().out
    assert told.startswith("3 subjects to do, 0 done before, 0 not to be found.\nIf all are like a: 15 maps and 3 ")
    assert list(config.out.iterdir()) == []
    assert cohort(config.path, as_json=True) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert cohort(config.path) == 1
    told = capsys.readouterr().out
    assert told.startswith("1 subject to do, 2 done before, 0 not to be found.\n")
    assert "\nc failed at load: The FLAIR image must vary" in told
    assert "\n2 of 3 subjects are done, see " in told


def test_the_command_refuses_frozen_statistics_of_a_network_without_instance_norms_at_once(home: Path, capsys) -> None:
    config = config_of(home, "frozen", **{'"gradcam++"': '"gradient"\nstatistics = "frozen"'})
    with pytest.raises(ValueError, match=r"but for instance norms; narrow is not\. Take statistics='exact'"):
        cohort(config.path, dry_run=True)
    assert capsys.readouterr().out == ""
