"""`ies perilesional`: subjects in, curves, tables and a figure out, and no work for a mistake that shows at once."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from ies_helpers import cli as command
from ies_helpers.__main__ import main
from tests.patients import SPOTS, files_below, write_image, write_network, write_patient


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, two patients with a true positive, one without."""
    home = tmp_path_factory.mktemp("home")
    write_network(home / "narrow.safetensors")
    for seed, (name, spots) in enumerate({"a": SPOTS, "b": SPOTS, "c": {"FP": SPOTS["FP"]}}.items()):
        write_patient(home / name, name, seed=seed, spots=spots)
    return home


def run(home: Path, *arguments: object, lesions: str = "TP") -> int:
    common = ["--network", home / "narrow.safetensors", "--lesions", lesions]
    return main([str(a) for a in ["perilesional", *arguments, *common]])


def test_a_subject_without_a_lesion_is_noted_and_the_others_are_finished(home, tmp_path, capsys) -> None:
    assert run(home, home / "a", home / "c", home / "b", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    assert "Note: c: There must be a lesion to work on; of 'TP' there is none among Lesions(1 FP)." in captured.err
    assert "only 2 subjects: their interval is likely too narrow" in captured.out
    made = {name: pd.read_csv(tmp_path / f"perilesional_{name}.tsv", sep="\t") for name in ("summary", "medians")}
    assert made["summary"]["subject"].tolist() == ["a", "b"]
    assert made["medians"][["measure", "subjects"]].to_numpy().tolist() == [["first_seen_mm", 2], ["keeps_mm", 2]]
    curves = pd.read_csv(tmp_path / "perilesional.csv")
    average = pd.read_csv(tmp_path / "perilesional_average.tsv", sep="\t")
    assert average["mean"].to_numpy() == pytest.approx(curves.groupby("distance_mm")["score"].mean(), rel=1e-5)
    assert (average["low"] <= average["mean"]).all()
    assert (average["mean"] <= average["high"]).all()
    assert (tmp_path / "figures" / "perilesional.png").is_file()


def test_without_any_lesion_it_is_refused_with_every_subject_s_reason(home, tmp_path, capsys) -> None:
    assert run(home, home / "a", home / "c", "--out", tmp_path, lesions="TP:2-3") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ies: a: There must be a lesion to work on; of 'TP:2-3' there is none among Lesions(1 TP")
    assert "c: There must be a lesion to work on; of 'TP:2-3' there is none among Lesions(1 FP)." in error
    assert not (tmp_path / "perilesional.csv").exists()


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("phantom:x", "A phantom is named by its seed, as phantom:7; got 'phantom:x'."),
        ("openms:patient99", "'openms:patient99' is no name to fetch"),
        ("nowhere", "there is no folder nowhere"),
        ("again/a", "must have different names, {home}/again/a is the second a; rename its files"),
    ],
)
def test_a_mistake_in_the_last_name_is_met_before_the_first_is_worked_on(
    second, told, home, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(command, "segment_subject", lambda *_: pytest.fail("work was begun"))
    write_patient(home / "again" / "a", "a")
    second = home / second if "/" in second else second
    assert run(home, home / "a", second, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert told.format(home=home) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_files_by_name_are_a_subject_as_in_other_commands(home, tmp_path, capsys) -> None:
    flair, t1, target = (home / "a" / f"sub-a_{s}.nii.gz" for s in ("FLAIR", "T1w", "label-lesion_mask"))
    files = ["--flair", flair, "--t1", t1]
    assert run(home, *files, "--target", target, "--out", tmp_path / "files", "--json") == 0
    data = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [row["subject"] for row in data["lesions"]] == ["a"]
    assert {row["note"] for row in data["medians"]} == {"one subject: no interval over subjects"}
    assert data["medians"][0]["low"] is None
    assert run(home, home / "a", "--out", tmp_path / "folder") == 0
    assert (tmp_path / "files/perilesional.csv").read_bytes() == (tmp_path / "folder/perilesional.csv").read_bytes()
    capsys.readouterr()
    assert run(home, home / "b", *files, "--out", tmp_path / "both") == 2
    assert "one name, or the files flair and t1 (and target) by name; got subject, flair, t1" in capsys.readouterr().err


def test_a_corrected_header_is_no_finished_curve(tmp_path, capsys) -> None:
    """The curves of 1 mm were kept for an image of 2 mm."""
    write_network(tmp_path / "narrow.safetensors")
    patient, out = write_patient(tmp_path / "p", "p"), tmp_path / "out"
    assert run(tmp_path, patient, "--out", out) == 0
    before = (out / "perilesional.csv").read_bytes()
    for path in patient.glob("*.nii.gz"):
        values = np.asanyarray(nibabel.load(path).dataobj)
        write_image(path, values, np.diag([2.0, 2.0, 2.0, 1.0]))
    capsys.readouterr()
    assert run(tmp_path, patient, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("lesion 1 of p with another image, affine or place; take another --out to make it anew.")
    assert (out / "perilesional.csv").read_bytes() == before
    assert [name for name in files_below(out) if ".part" in name] == []
