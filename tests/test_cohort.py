"""A cohort: what the commands make, whoever does the work, in whichever order, after whatever went wrong."""

import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

import ies_helpers
from ies_helpers import cohort as module
from ies_helpers import find_lesions, gradient, load_network, load_subject, road
from ies_helpers.__main__ import main
from ies_helpers.cli import cohort
from ies_helpers.cohort import Config, Plan, Workforce, find_workers, list_tasks, plan_cohort, read_config, run_cohort
from ies_helpers.segmentation.network import prepare
from ies_helpers.subjects.sources import find_subject
from tests.dying import Mortal, die
from tests.patients import SPOTS, files_below, strays, write_image, write_network, write_patient
from tests.results import write_results

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


def test_a_results_folder_goes_through_a_cohort_and_is_asked_for_the_faithfulness_of_its_maps(tmp_path: Path) -> None:
    """On a grid of its own, coarser than the scan's: maps and ROAD are those of the network brought to the scan."""
    results = write_results(tmp_path, spacing=[6.0, 4.0, 4.0], patch_size=[16, 24, 24])
    write_patient(tmp_path / "p1", side=28, spots={"TP": (14, 14, 14)})
    text = f"""
        subjects = ["p1"]
        out = "out"
        [network]
        name = "{results.relative_to(tmp_path)}:0"
        mirroring = false
        [[explain]]
        method = "gradient"
        aggregate = "mean"
        lesions = "1"
        [evaluate]
        faithfulness = true
        seed = 2"""
    (tmp_path / "cohort.toml").write_text(textwrap.dedent(text))
    assert main(["cohort", f"{tmp_path / 'cohort.toml'}"]) == 0
    network, subject = prepare(load_network(f"{results}:0", mirroring=False), load_subject(tmp_path / "p1"))
    lesion = find_lesions(network, subject)[1]
    saliency = gradient(network, subject.image, lesion, aggregate="mean")
    folder = tmp_path / "out/sub-p1/anat"
    for values, suffix in zip(saliency.numpy(), ("FLAIR", "T1w"), strict=True):
        saved = nibabel.load(folder / f"sub-p1_desc-gradientmeanL001_{suffix}.nii.gz")
        np.testing.assert_array_equal(np.asarray(saved.dataobj), values)
    measures = pd.read_csv(tmp_path / "out/evaluation/measures.csv").set_index("measure")["value"]
    wanted = road(network, subject.image, lesion, saliency, seed=2).mean
    assert float(measures["road"]) == pytest.approx(wanted, rel=1e-5)


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
    monkeypatch.setattr(module, "work_on", die)
    rows = list(module._rows([Mortal("bad"), Mortal("good"), Mortal("better")], Workforce(2)))  # pyright: ignore
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
            with module._borrowed(lent):
                pass

    threads = [threading.Thread(target=borrow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(seen) == [0, 0, 0, 1, 1, 1]
    assert lent.qsize() == 2


def test_there_is_one_process_a_gpu_and_no_more_threads_than_cores(monkeypatch) -> None:
    monkeypatch.setattr(module.joblib, "cpu_count", lambda: 8)
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
    monkeypatch.setattr(module, "find_spec", lambda name: None)
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


def test_a_channel_that_the_network_does_not_take_is_no_part_of_what_is_finished(home: Path) -> None:
    """A scan of T2 beside is left alone: it may come, change and go, by folder and by name; of no names all count."""
    patient, config = home / "patients" / "a", config_of(home, "beside")
    files = {name: str(patient / f"sub-a_{suffix}.nii.gz") for name, suffix in (("flair", "FLAIR"), ("t1", "T1w"))}
    beside = {**files, "t2": str(patient / "sub-a_T2w.nii.gz")}

    def key(source: dict[str, Any], channels: tuple[str, ...] | None) -> str:
        return module.Task(config, source, find_subject(**source), "digest", channels).key

    folder = {"subject": str(patient)}
    before = [key(source, channels) for source in (folder, files) for channels in (("flair", "t1"), None)]
    write_image(Path(beside["t2"]), np.zeros((8, 8, 8), dtype=np.uint8))
    try:
        after = [key(source, channels) for source in (folder, beside) for channels in (("flair", "t1"), None)]
    finally:
        os.remove(beside["t2"])
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True, False]
    assert key(files, ("flair",)) != key(files, ("flair", "t1"))


def test_a_mistake_that_nobody_foresaw_says_where_it_happened(home: Path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel\nhere")

    monkeypatch.setattr(module, "make_maps", broken)
    config = config_of(home, "broken")
    task = list_tasks(config, load_network(home / "narrow.safetensors"))[0][0]
    row = module.work_on(task)
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


def test_the_command_prints_the_plan_first_and_stops_there_if_asked(home: Path, serial, capsys) -> None:
    config = config_of(home, "command")
    assert cohort(config.path, dry_run=True) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 subjects to do, 0 done before, 0 not to be found.\nIf all are like a: 15 maps and 3 ")
    assert list(config.out.iterdir()) == []
    assert cohort(config_of(home, "serial").path, as_json=True) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["kept", "kept", "failed"]
    assert cohort(config.path) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 subject to do, 2 done before, 0 not to be found.\n")
    assert "\nc failed at load: " in said
    assert "\n2 of 3 subjects are done, see " in said


def test_the_command_refuses_frozen_statistics_of_a_network_without_instance_norms_at_once(home: Path, capsys) -> None:
    config = config_of(home, "frozen", **{'"gradcam++"': '"gradient"\nstatistics = "frozen"'})
    with pytest.raises(ValueError, match=r"but for norms; narrow has none\. Take statistics='exact'"):
        cohort(config.path, dry_run=True)
    assert capsys.readouterr().out == ""


# The file


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A BIDS folder of two subjects, one of them seen twice, with masks apart, and a plain folder."""
    for name, visit in (("01", "ses-1"), ("01", "ses-2"), ("02", "")):
        folder = tmp_path / "bids" / f"sub-{name}" / visit / "anat"
        write_patient(folder, f"{name}_{visit}" if visit else name, side=8, spots={})
        mask = next(folder.glob("*mask.nii.gz"))
        masks = tmp_path / "bids/derivatives/manual" / f"sub-{name}" / visit
        masks.mkdir(parents=True)
        mask.rename(masks / mask.name)
    write_patient(tmp_path / "plain" / "patient9", "9", side=8, spots={})
    return tmp_path


def written(scans: Path, text: str) -> Path:
    path = scans / "cohort.toml"
    path.write_text(text)
    return path


def test_patients_of_several_layouts_go_into_one_cohort(tmp_path: Path) -> None:
    """A tree of one data set stands for all its patients, a case of another for itself, a rater is named beside."""
    names = [f"M/train/P1/{t}/P1_{t}_{kind}" for t in ("T1", "T2") for kind in ("FLAIR", "T1")]
    names += [f"D/imagesTr/ms_{n}_{c:04}" for n in (1, 2) for c in (0, 1)] + ["R/FLAIR", "R/T1", "R/mask1", "R/mask2"]
    for n, name in enumerate(names):
        mask = (np.arange(64) == n) if "mask" in name else np.arange(64) + n
        write_image(tmp_path / f"{name}.nii.gz", mask.reshape(4, 4, 4).astype(np.uint8))
    (tmp_path / "D" / "dataset.json").write_text('{"channel_names": {"0": "FLAIR", "1": "T1"}}')
    several = '{subject = "R", rater = "mask2"}, {subject = "wmh2017:training/Utrecht/0", rater = "o3"}'
    text = f'subjects = ["M/train", "D/imagesTr/ms_2", {several}]\nout = "o"\n[[explain]]\nmethod = "gradient"\n'
    sources = read_config(written(tmp_path, text)).sources
    assert [find_subject(**source).name for source in sources] == ["P1T1", "P1T2", "ms2", "R", "Utrecht0"]
    assert [source.get("rater") for source in sources] == [None, None, None, "mask2", "o3"]
    assert load_subject(**sources[3]).target.flatten().nonzero().tolist() == [[11]]
    words = {str(tmp_path / name) for name in ("M/train/P1/T1", "M/train/P1/T2", "D/imagesTr/ms_2", "R")}
    assert {source["subject"] for source in sources} == words | {"wmh2017:training/Utrecht/0"}


def test_the_documented_example_is_read_as_it_says(scans: Path) -> None:
    (example,) = re.findall(r"\n\n((?: {4}.*\n|\n)+)", module.__doc__ or "")
    read = read_config(written(scans, textwrap.dedent(example)))
    folders = ["bids/sub-01/ses-1", "bids/sub-01/ses-2", "bids/sub-02", "plain/patient9"]
    names = ["demo", "phantom:3", "openms:patient26", *(str(scans / folder) for folder in folders)]
    assert [source["subject"] for source in read.sources] == names
    assert read.out == scans / "derivatives" / "ies"
    assert read.network == {"network": "unet", "device": "auto"}
    (run,) = read.explain
    run = run.as_table()
    assert {k: run[k] for k in ("method", "aggregate", "lesions", "draws", "noise", "seed")} == {
        **{"method": "smoothgrad", "aggregate": "max", "lesions": "TP", "draws": 50, "noise": 0.05, "seed": 0}
    }
    assert read.evaluate == {"faithfulness": False, "seed": 0}
    (curves,) = read.perilesional
    assert curves.as_table() == {"lesions": "TP:91-119", "fill": "zero", "by": "steps"}


def test_masks_that_lie_apart_are_found_by_name(scans: Path) -> None:
    text = 'subjects = ["bids"]\ntargets = "bids/derivatives/manual/**/{sub}_*mask.nii.gz"'
    sources = read_config(written(scans, text)).sources
    masks = ["sub-01_ses-1_label-lesion_mask", "sub-01_ses-2_label-lesion_mask", "sub-02_label-lesion_mask"]
    assert [Path(source["target"]).name.split(".")[0] for source in sources] == masks
    assert [Path(source["flair"]).name for source in sources] == [
        "sub-01_ses-1_FLAIR.nii.gz",
        "sub-01_ses-2_FLAIR.nii.gz",
        "sub-02_FLAIR.nii.gz",
    ]
    write_image(scans / "bids/derivatives/manual/sub-02/sub-02_run-2_mask.nii.gz", np.zeros((8, 8, 8)))
    with pytest.raises(ValueError, match="must find one mask a subject, for 02 it finds 2; narrow it"):
        read_config(written(scans, text))


def test_files_and_weights_are_found_from_the_file_and_not_from_here(scans: Path, monkeypatch) -> None:
    (scans / "weights.pth").touch()
    text = 'subjects = [{flair = "F.nii", t1 = "T.nii"}]\nnetwork = {name = "weights.pth", threshold = 0.4}'
    written(scans, text)
    monkeypatch.chdir(scans.parent)
    read = read_config(Path(scans.name) / "cohort.toml")
    assert read.sources == ({"flair": str(scans / "F.nii"), "t1": str(scans / "T.nii")},)
    written(scans, 'subjects = [{dir = "D.nii", target = "M.nii"}]')
    assert read_config(scans / "cohort.toml").sources == (
        {"dir": str(scans / "D.nii"), "target": str(scans / "M.nii")},
    )
    assert read.network == {"network": str(scans / "weights.pth"), "threshold": 0.4, "device": "auto"}


def test_how_targets_are_read_stands_beside_their_subjects(scans: Path) -> None:
    one, two = (write_patient(scans / name, name, side=8, spots={}) for name in ("a1", "a2"))
    files = '{flair = "F.nii", target = "M.nii", target_label = 2}'
    written(scans, f'subjects = [{{subject = "a*", rater = "majority"}}, {files}, "demo"]')
    sources = read_config(scans / "cohort.toml").sources
    assert sources == (
        *({"subject": str(folder), "rater": "majority"} for folder in (one, two)),
        {"flair": str(scans / "F.nii"), "target": str(scans / "M.nii"), "target_label": 2},
        {"subject": "demo"},
    )
    written(scans, 'subjects = [{subject = "a1", target_label = 2}, {subject = "a?", target_label = 2}]')
    with pytest.raises(ValueError, match=r"names a subject twice: .*a1, target_label 2; take one of them out"):
        read_config(scans / "cohort.toml")
    written(scans, 'subjects = [{subject = "a1", target_label = 1.5}]')
    with pytest.raises(ValueError, match=r"got \{'subject': 'a1', 'target_label': 1\.5\}; beside them, .* rater, ta"):
        read_config(scans / "cohort.toml")


MISTAKES = {
    "an unknown key": ('subject = ["demo"]', r"cohort.toml has no key 'subject'; allowed are subjects, out, targets"),
    "an unknown key of the network": (
        'subjects = ["demo"]\n[network]\nweights = "w.pth"',
        r"\[network\] of cohort.toml has no key 'weights'; allowed are name, architecture, settings, channels, merging",
    ),
    "an unknown key of explain": (
        'subjects = ["demo"]\n[[explain]]\nlesion = "TP"',
        r"\[\[explain\]\] of cohort.toml has no key 'lesion'; allowed are method, aggregate, draws, noise",
    ),
    "an unknown key of perilesional": (
        'subjects = ["demo"]\n[[perilesional]]\nsteps = 3',
        r"\[\[perilesional\]\] of cohort.toml has no key 'steps'; allowed are lesions, fill, by",
    ),
    "a word for a number": ('subjects = ["demo"]\n[[explain]]\ndraws = "50"', "draws must be at least 1 .* got '50' "),
    "a number for a list": ("subjects = 3", r"subjects of cohort.toml must be of type list, as \[\], got 3"),
    "one table for many": ('subjects = ["demo"]\n[explain]\ndraws = 5', "explain of cohort.toml must be of type list"),
    "an unknown method": ('subjects = ["demo"]\n[[explain]]\nmethod = "lime"', "method must be one of .* 'lime'"),
    "unknown lesions": ('subjects = ["demo"]\n[[explain]]\nlesions = "big"', "lesions must be all, .* got 'big'"),
    "an unknown fill": (
        'subjects = ["demo"]\n[[perilesional]]\nfill = "one"',
        "fill must be one of zero, mean, blurred, got 'one'",
    ),
    "a seed below 0": ('subjects = ["demo"]\n[evaluate]\nseed = -1', "seed of cohort.toml must be 0 or more, got -1"),
    "frozen without max": (
        'subjects = ["demo"]\n[[explain]]\nstatistics = "frozen"\naggregate = "mean"',
        "smoothgrad and gradient with max, got smoothgrad with mean; leave it out",
    ),
    "unknown statistics": (
        'subjects = ["demo"]\n[[explain]]\nstatistics = "frzen"',
        "statistics must be one of exact, frozen, got 'frzen'",
    ),
    "two maps of one name": (
        'subjects = ["demo"]\n[[explain]]\ndraws = 2\nlesions = "TP"\n[[explain]]\ndraws = 3\nlesions = "TP:90-120"',
        r"two \[\[explain\]\] of cohort.toml make smoothgrad max exact, with draws 2 and 3\. Take one out, choose",
    ),
    "curves of two groups by two measures, which are averaged": (
        'subjects = ["demo"]\n[[perilesional]]\nlesions = "TP"\n[[perilesional]]\nlesions = "FN"\nby = "mm"',
        r"make curves of fill zero, with by 'steps' and 'mm'\. Take one out, or make two cohorts\.",
    ),
    "two curves of one fill": (
        'subjects = ["demo"]\n[[perilesional]]\nlesions = "all"\n[[perilesional]]\nby = "mm"',
        r"two \[\[perilesional\]\] of cohort.toml make curves of fill zero, with by 'steps' and 'mm'\. Take one out",
    ),
    "no subjects": ('out = "here"', "must name its subjects, as subjects"),
    "no threads": ('subjects = ["demo"]\nthreads = 0', "threads of cohort.toml must be 1 or more, got 0"),
    "one subject twice": ('subjects = ["demo", "demo"]', "names a subject twice: demo; take one of them out"),
    "no scan": ('subjects = [{target = "F.nii"}]', "is a name, or files as {flair = ..., t1 = ..., target = ...}, got"),
    "no TOML": ("subjects = [", "cohort.toml must be a TOML file, it is not readable as one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(scans: Path, mistake: str) -> None:
    text, rule = MISTAKES[mistake]
    with pytest.raises(ValueError, match=rule) as caught:
        read_config(written(scans, text))
    assert "\n" not in str(caught.value)


def test_entries_of_one_name_that_cannot_meet_or_differ_are_kept(scans: Path) -> None:
    groups = [f'[[explain]]\nlesions = "{lesions}"\ndraws = {n}' for n, lesions in enumerate(("TP:9-", "FP", "FN"), 2)]
    same = ['[[explain]]\nmethod = "gradcam"\nlesions = "TP"', '[[explain]]\nmethod = "gradcam"']
    other = ['[[explain]]\naggregate = "mean"\ndraws = 9', '[[explain]]\nstatistics = "frozen"\ndraws = 9']
    curves = ['[[perilesional]]\nby = "mm"\nfill = "mean"', "[[perilesional]]"]
    entries = [*groups, *same, *other, *curves]
    read = read_config(written(scans, "\n".join(['subjects = ["demo"]', *entries])))
    assert (len(read.explain), len(read.perilesional)) == (7, 2)


def test_what_is_not_there_is_named(scans: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a name or a folder; nothing matches nobody"):
        read_config(written(scans, 'subjects = ["nobody*"]'))
    with pytest.raises(FileNotFoundError, match=r"A cohort is a TOML file, there is none at .*none\.toml"):
        read_config(scans / "none.toml")


# The plan

PLANNED = """
subjects = ["patients/a", "patients/b", "nobody"]
out = "planned"

[network]
name = "narrow.safetensors"

[[explain]]
aggregate = "sum"
draws = 1

[[explain]]
method = "gradcam++"
lesions = "TP"

[[perilesional]]
lesions = "TP"
"""


def test_maps_curves_and_gigabytes_are_those_of_the_run(home: Path) -> None:
    (home / "nobody").mkdir()
    (home / "planned.toml").write_text(PLANNED)
    config = read_config(home / "planned.toml")
    network, before = load_network(**config.network), files_below(home)
    plan = plan_cohort(config, network, *list_tasks(config, network), Workforce(2))
    assert files_below(home) == before
    assert (plan.waiting, plan.kept, plan.failed, plan.pilot, plan.maps, plan.curves) == (2, 0, 1, "a", 2 * 7, 2)
    (why,) = plan.why
    assert why.startswith("nobody: ")
    assert str(home / "nobody") in why
    config = replace(config, perilesional=())
    run_cohort(config, network, Workforce(1))
    maps = [*config.out.rglob("*_desc-*L00*.nii.gz")]
    assert len([path for path in maps if "sub-a" in path.parts]) == 7
    of_pilot = sum(path.stat().st_size for path in maps if "sub-a" in path.parts) / 1e9
    assert plan.gigabytes == pytest.approx(2 * of_pilot, rel=0.2)
    after = plan_cohort(config, network, *list_tasks(config, network), Workforce(2))
    assert (after.waiting, after.kept, after.failed, after.pilot) == (0, 2, 1, "")


def test_a_plan_is_two_sentences_with_the_time_of_all_processes_together() -> None:
    told = str(Plan(4, 1, 0, Workforce(2), "p1", maps=80, curves=8, seconds=7200.0, gigabytes=1.234))
    assert told == (
        "4 subjects to do, 1 done before, 0 not to be found.\n"
        "If all are like p1: 80 maps and 8 perilesional curves, 1.2 GB on disk, "
        "about 60 min with 2 processes of 1 thread."
    )
    assert str(Plan(1, 0, 0, Workforce(1))) == "1 subject to do, 0 done before, 0 not to be found."
    assert "all workers of the Dask cluster." in str(Plan(1, 0, 0, Workforce(None, dask="tcp://x:1"), "p1"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_saved_with_a_mark_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "cohort.toml").write_text('subjects = ["demo"]\nout = "Müller"\n', encoding=encoding)
    config = read_config(tmp_path / "cohort.toml")
    assert config.out == (tmp_path / "Müller").resolve()
    assert config.text == 'subjects = ["demo"]\nout = "Müller"\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (rb'subjects = ["C:\Users\p1"]', "backslashes stand between single quotes"),
        (rb'out = "C:\data"', "backslashes stand between single quotes"),
        ('out = "M\u00fcller"'.encode("latin-1"), "must be UTF-8, .*cohort.toml is not"),
        (b"subjects = [", "must be a TOML file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_with_the_remedy(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "cohort.toml").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_config(tmp_path / "cohort.toml")


def test_a_subject_whose_table_was_cut_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "cohort.toml").write_text('subjects = ["demo"]\nout = "out"\n')
    config = read_config(tmp_path / "cohort.toml")
    task = module.Task(config, {"subject": "demo"}, find_subject("demo"), "abc")
    task.folder.mkdir(parents=True)
    table = task.folder / "perilesional.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    record = {"key": task.key, "row": {"status": "done"}, "files": [table.name], "tables": {table.name: 12}}
    (task.folder / "cohort.json").write_text(json.dumps(record))
    assert task.kept() == {"status": "kept"}
    table.write_text("a,b\n1,2\n3,4\n5,6\n")
    assert task.kept() == {"status": "kept"}
    table.write_text("a,b\n1,2\n")
    assert task.kept() is None


def test_without_processes_one_worker_works_here_and_several_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOBLIB_MULTIPROCESSING=0 ended in an assertion of joblib's."""
    monkeypatch.setattr(module.joblib.parallel, "mp", None)
    with pytest.raises(ValueError, match="JOBLIB_MULTIPROCESSING"):
        find_workers(2)
    with module._backend(Workforce(1)):
        rows = list(module._parallel([], 1, None))
        assert (
            module.joblib.Parallel(n_jobs=1)(module.joblib.delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
        )
    assert rows == []
