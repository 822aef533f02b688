"""Saving: the input's space, every bit of a value, names and sidecars that BIDS accepts, whole or not at all."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers import Subject, explain, load_network, load_subject, save_map
from ies_helpers.measures.evaluation import evaluate_maps
from ies_helpers.subjects import folder as saving
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.folder import (
    INDEX,
    MapRecord,
    Scans,
    add_lesions,
    finished,
    open_derivative,
    read_index,
    read_maps,
    save_lesions,
    write_index,
)
from ies_helpers.subjects.subject import CHANNELS, Channel
from tests.bench.index import write_sidecars
from tests.folders import explain_toy, found_in
from tests.patients import AFFINE, ball, files_below, subject_in_memory, write_image, write_patient

RECORD = MapRecord("toy", "net", "abc", 3, "TP", 40, "smoothgrad", "whole", "logit", "max", 50, 0, 0.05, 0.4)
CAM = MapRecord("toy", "net", "abc", 3, "TP", 40, "gradcam++", "whole", "weighted", layer="down")


def drawn(subject, channels: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(channels, *subject.shape)).astype(np.float32))


# Space and values


def test_a_map_comes_back_bit_by_bit_in_the_space_of_its_scan(tmp_path: Path) -> None:
    subject = load_subject(write_patient(tmp_path / "in", side=24, spots={"TP": (12, 12, 12)}))
    saliency = drawn(subject)
    saliency[0, 0, 0, :3] = torch.tensor([1e-38, -3e38, 0.0])
    paths = save_map(tmp_path, subject, saliency, replace(RECORD, subject="p1"))
    scan = nibabel.load(tmp_path / "in" / "sub-p1_FLAIR.nii.gz")
    for path, values in zip(paths, saliency, strict=True):
        image = nibabel.load(path)
        assert image.get_data_dtype() == np.float32
        assert np.asanyarray(image.dataobj).tobytes() == values.numpy().tobytes()
        assert np.array_equal(image.affine, scan.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b", "pixdim"):
            assert np.array_equal(image.header[field], scan.header[field]), field
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 1)
        assert image.header.get_xyzt_units() == ("mm", "sec")


def test_scaling_and_display_range_of_the_scan_do_not_reach_the_map(tmp_path: Path) -> None:
    subject = subject_in_memory()
    assert subject.header is not None
    subject.header.set_slope_inter(3.0, 7.0)
    subject.header["cal_max"] = 99
    (path, _) = save_map(tmp_path, subject, drawn(subject), RECORD)
    image = nibabel.load(path)
    assert (image.dataobj.slope, image.dataobj.inter, float(image.header["cal_max"])) == (1.0, 0.0, 0.0)
    assert np.array_equal(np.asanyarray(image.dataobj), drawn(subject)[0])


def test_a_subject_without_a_header_is_saved_with_its_affine(tmp_path: Path) -> None:
    subject = replace(subject_in_memory(), header=None)
    (path, _) = save_map(tmp_path, subject, drawn(subject), RECORD)
    assert np.array_equal(nibabel.load(path).affine, AFFINE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    subject = subject_in_memory()
    saliency = drawn(subject)
    saliency[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"A map must be finite .* with 1 values that are not finite"):
        save_map(tmp_path, subject, saliency, RECORD)
    assert files_below(tmp_path) == []


def test_a_map_on_another_grid_is_refused(tmp_path: Path) -> None:
    subject = subject_in_memory()
    with pytest.raises(ValueError, match=r"on the subject's grid \(24, 28, 20\), got \(2, 24, 28, 19\)"):
        save_map(tmp_path, subject, drawn(subject)[..., :-1], RECORD)


# Names, sidecars, index


def test_file_names_are_those_of_bids_derivatives(tmp_path: Path) -> None:
    subject = subject_in_memory()
    labels = torch.zeros(subject.shape, dtype=torch.int32)
    save_lesions(tmp_path, subject, torch.rand(subject.shape), {"TP": labels, "unknown": labels})
    save_map(tmp_path, subject, drawn(subject), RECORD)
    save_map(tmp_path, subject, drawn(subject, 1), CAM)
    assert files_below(tmp_path / "sub-toy" / "anat") == [
        "sub-toy_desc-gradcamppL003_FLAIR.json",
        "sub-toy_desc-gradcamppL003_FLAIR.nii.gz",
        "sub-toy_desc-smoothgradmaxL003_FLAIR.json",
        "sub-toy_desc-smoothgradmaxL003_FLAIR.nii.gz",
        "sub-toy_desc-smoothgradmaxL003_T1w.json",
        "sub-toy_desc-smoothgradmaxL003_T1w.nii.gz",
        "sub-toy_desc-tp_dseg.nii.gz",
        "sub-toy_desc-unknown_dseg.nii.gz",
        "sub-toy_label-lesion_probseg.nii.gz",
    ]


def test_the_sidecar_says_how_the_map_was_made(tmp_path: Path) -> None:
    subject = replace(subject_in_memory(), background={"flair": "0", "t1": "-0.0008", "t2": "0"})
    saliency = drawn(subject)
    (path, _) = save_map(tmp_path, subject, saliency, RECORD, {"command": "ies explain here"})
    saved = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    told = {
        **{"subject": "toy", "network": "net", "digest": "abc", "lesion": 3, "group": "TP", "voxels": 40},
        **{"method": "smoothgrad", "aggregate": "max", "draws": 50, "seed": 0, "noise": 0.05, "sigma": 0.4},
        **{"through": "whole", "unit": "logit", "modality": "flair", "status": "ok", "command": "ies explain here"},
        **{"minimum": float(saliency[0].min()), "maximum": float(saliency[0].max())},
        "path": "sub-toy/anat/sub-toy_desc-smoothgradmaxL003_FLAIR.nii.gz",
        "background": {"flair": "0", "t1": "-0.0008"},
    }
    assert {key: saved[key] for key in told} == told
    assert saved["versions"]["torch"] == torch.__version__


def test_a_map_of_zeros_says_so(tmp_path: Path) -> None:
    subject = subject_in_memory()
    saliency = drawn(subject)
    saliency[1] = 0
    paths = save_map(tmp_path, subject, saliency, RECORD)
    status = [json.loads(p.with_name(p.name.replace(".nii.gz", ".json")).read_text())["status"] for p in paths]
    assert status == ["ok", "empty"]


def test_the_index_has_one_row_a_map_and_nothing_else(tmp_path: Path) -> None:
    subject = subject_in_memory()
    save_map(tmp_path, subject, drawn(subject), RECORD)
    save_map(tmp_path, subject, drawn(subject, 1), CAM)
    write_index(tmp_path)
    returned = read_index(tmp_path)
    table = pd.read_csv(tmp_path / "maps.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    columns = "subject network lesion group method aggregate draws seed modality path"
    assert list(table.columns) == INDEX == columns.split()
    images = [n for n in files_below(tmp_path) if n.endswith(".nii.gz")]
    assert sorted(table["path"]) == sorted(returned["path"]) == images
    assert table["draws"].tolist()[1:] == [50, 50]
    assert (tmp_path / "maps.tsv").read_text().splitlines()[1].split("\t")[5:8] == ["n/a", "n/a", "n/a"]
    assert (tmp_path / "maps.tsv").read_text().splitlines()[2].split("\t")[5:8] == ["max", "50", "0"]


def test_an_index_that_grows_is_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cohort grows; then after a deletion, a map made anew, and an index that is damaged or another's."""
    reads: list[str] = []
    read, table = Path.read_bytes, tmp_path / "maps.tsv"
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or read(path))

    def indexed() -> int:
        time.sleep(0.02)  # a file system's clock ticks
        reads.clear()
        write_index(tmp_path)
        count, grown, written = sum(n.endswith(".json") for n in reads), table.read_text(), table.stat().st_mtime_ns
        write_index(tmp_path, anew=True)
        assert sorted(table.read_text().splitlines()) == sorted(grown.splitlines())
        table.write_text(grown)
        os.utime(table, ns=(written, written))
        return count

    for name in ("b", "a", "c"):
        before = table.read_text() if table.exists() else ""
        write_sidecars(tmp_path, name, 4)
        assert indexed() == 4
        assert table.read_text().startswith(before)
    assert indexed() == 0
    (tmp_path / "sub-b/anat/sub-b_desc-smoothgradmaxL001_FLAIR.json").unlink()
    assert indexed() == 3
    anew = tmp_path / "sub-a/anat/sub-a_desc-smoothgradmaxL002_T1w.json"
    write_text(anew, anew.read_text().replace('"TP"', '"FN"'))
    assert indexed() == 4
    assert read_index(tmp_path)["group"].value_counts().to_dict() == {"TP": 10, "FN": 1}
    whole = table.read_text()
    for damage in ("", "subject\tpath\n", whole.replace("L001", "L009"), whole[:-7], whole + whole[-90:]):
        table.write_text(damage)
        assert indexed() == 3 + 4 + 4
    shutil.rmtree(tmp_path / "sub-c")
    assert indexed() == 0
    assert set(read_index(tmp_path)["subject"]) == {"a", "b"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_rows_are_appended_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    write_sidecars(tmp_path, "a", 4)
    write_index(tmp_path)
    before, utime = (tmp_path / "maps.tsv").read_text(), os.utime
    write_sidecars(tmp_path, "b", 4)

    def stopping(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, "utime", stopping)
    with pytest.raises(type(error)):
        write_index(tmp_path)
    assert (tmp_path / "maps.tsv").read_text() == before
    monkeypatch.setattr(os, "utime", utime)
    write_index(tmp_path)
    assert len(read_index(tmp_path)) == 8


def test_the_index_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose times only its owner may set."""
    utime = os.utime

    def refusing(path: Path, **how: Any) -> None:
        if path == tmp_path / "maps.tsv":
            raise PermissionError
        utime(path, **how)

    for name in ("a", "b"):
        write_sidecars(tmp_path, name, 4)
        write_index(tmp_path)
        monkeypatch.setattr(os, "utime", refusing)
    assert read_index(tmp_path)["subject"].tolist() == ["a"] * 4 + ["b"] * 4


def grow(folder: Path, names: Iterable[str]) -> None:
    """What one process of a cohort does to the index."""
    for name in names:
        for maps in (2, 6):
            write_sidecars(folder, name, maps)
            write_index(folder)


def test_two_processes_grow_one_index(tmp_path: Path) -> None:
    """Each sees the other's subjects half done; every map is listed, and once."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        list(pool.map(grow, [tmp_path] * 2, [[f"{who}{n:02d}" for n in range(20)] for who in "ab"]))
    paths = read_index(tmp_path)["path"].tolist()
    assert len(paths) == 2 * 20 * 6
    write_index(tmp_path, anew=True)
    assert sorted(paths) == read_index(tmp_path)["path"].tolist()


def test_a_map_of_any_channels_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """One, two or three, known to BIDS or not, with entities of their own; all at once has the first suffix."""
    row = Channel("gd", "T1 Gd", "T1w", "gd", entities="ce-gadolinium")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHANNELS, "gd", row)
        for name, channels in {"one": ("flair",), "three": ("t2", "flair", "dir"), "gd": ("t1", "gd")}.items():
            shape = (8, 9, 7)
            image = torch.from_numpy(np.random.default_rng(0).normal(size=(len(channels), *shape)).astype(np.float32))
            subject, folder = Subject(name, image, AFFINE, channels), tmp_path / name
            label = torch.zeros(shape, dtype=torch.int32)
            label[0, 0, :4] = 3
            save_lesions(folder, subject, torch.rand(shape), {"TP": label})
            gradients = replace(RECORD, subject=name, voxels=4)
            cam = replace(CAM, subject=name, voxels=4)
            save_map(folder, subject, image * 2, gradients)
            save_map(folder, subject, image[:1] * 3, cam)
            assert finished(folder, subject, gradients)
            assert finished(folder, subject, cam)
            at_once, each = sorted(read_maps(folder), key=lambda saved: len(saved.stem))
            assert at_once.modalities == ("all",)
            assert each.modalities == each.channels == at_once.channels == channels
            assert torch.equal(each.load()[0], image * 2)
            assert torch.equal(at_once.load()[0], image[:1] * 3)
            assert each.stem == f"sub-{name}_desc-smoothgradmaxL003"
    names = [path.name for path in (tmp_path / "gd").rglob("*smoothgrad*.nii.gz")]
    assert sorted(names) == [
        "sub-gd_ce-gadolinium_desc-smoothgradmaxL003_T1w.nii.gz",
        "sub-gd_desc-smoothgradmaxL003_T1w.nii.gz",
    ]
    assert (tmp_path / "three/sub-three/anat/sub-three_desc-gradcamppL003_T2w.nii.gz").is_file()


def test_a_map_of_other_channels_than_the_subject_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each of flair, t1, or one for all, got 3"):
        save_map(tmp_path, subject_in_memory(), drawn(subject_in_memory(), 3), RECORD)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("channels", [("flair", "t1"), ("flair",), ("flair", "t1", "t2"), ("dir",)])
def test_the_validator_of_bids_accepts_the_folder(tmp_path: Path, channels: tuple[str, ...]) -> None:
    scan = load_subject(write_patient(tmp_path / "in", side=24, spots={"TP": (12, 12, 12)}))
    subject = replace(scan, image=scan.image[:1].expand(len(channels), -1, -1, -1), channels=channels)
    out = open_derivative(tmp_path / "out")
    label = torch.zeros(subject.shape, dtype=torch.int32)
    save_lesions(out, subject, torch.rand(subject.shape), {"TP": label, "FP": label, "FN": label})
    save_map(out, subject, drawn(subject, len(channels)), replace(RECORD, subject="p1"))
    save_map(out, subject, drawn(subject, 1), replace(CAM, subject="p1"))
    write_index(out)
    open_derivative(out)  # keeps what is ignored for this folder
    for made in ("sub-p1/lesions.tsv", "figures/map.png", "sub-p1/.running/sum.npz"):
        write_text(out / made, "")
    validator = Path(sys.executable).with_name("bids-validator-deno")
    answer = subprocess.run([validator, "--format", "json", out], capture_output=True, text=True, check=False)
    issues = json.loads(answer.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert answer.returncode == 0


# Finished or not


def test_a_map_is_finished_only_with_all_its_files(tmp_path: Path) -> None:
    """Whichever file a killed run did not reach."""
    subject = subject_in_memory()
    paths = save_map(tmp_path, subject, drawn(subject), RECORD)
    everything = [*paths, *(p.with_name(p.name.replace(".nii.gz", ".json")) for p in paths)]
    assert finished(tmp_path, subject, RECORD)
    for path in everything:
        content = path.read_bytes()
        path.unlink()
        assert not finished(tmp_path, subject, RECORD), path.name
        path.write_bytes(content)
    for path in paths[1:] + everything[3:]:  # T1's two files: what is left looks like a map of all modalities
        path.unlink()
    assert not finished(tmp_path, subject, RECORD)


def test_a_map_of_all_modalities_is_finished_with_its_one_image(tmp_path: Path) -> None:
    subject = subject_in_memory()
    save_map(tmp_path, subject, drawn(subject, 1), CAM)
    assert finished(tmp_path, subject, CAM)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"draws": 20}, "draws 50 instead of 20"),
        ({"seed": 1, "noise": 0.1}, "seed 0 instead of 1, noise 0.05 instead of 0.1"),
        ({"digest": "xyz"}, "digest abc instead of xyz"),
        ({"through": "windows"}, "through whole instead of windows"),
        ({"image": "other scan"}, "image None instead of other scan"),
    ],
)
def test_a_map_made_otherwise_is_refused_with_what_differs(tmp_path: Path, change: dict, told: str) -> None:
    subject = subject_in_memory()
    save_map(tmp_path, subject, drawn(subject), RECORD)
    with pytest.raises(ValueError, match=rf"was made with {told}\. Take another --out"):
        finished(tmp_path, subject, replace(RECORD, **change))


def test_lesions_that_maps_refer_to_cannot_be_renumbered(tmp_path: Path) -> None:
    subject = subject_in_memory()
    labels = torch.zeros(subject.shape, dtype=torch.int32)
    labels[3:6, 3:6, 3:6] = 3
    first = {"TP": labels, "FN": torch.zeros_like(labels)}
    probability = torch.rand(subject.shape)
    save_lesions(tmp_path, subject, probability, first)
    save_lesions(tmp_path, subject, probability, {"TP": labels})  # no maps yet: the new set replaces the old
    assert [n for n in files_below(tmp_path / "sub-toy" / "anat") if "fn" in n] == []
    save_map(tmp_path, subject, drawn(subject), RECORD)
    save_lesions(tmp_path, subject, probability, {"TP": labels})
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)}
    for other in ({"TP": labels.roll(1, 0)}, first, {"FP": labels}):
        with pytest.raises(ValueError, match=r"maps of other lesions of toy .* Take another --out"):
            save_lesions(tmp_path, subject, probability, other)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)} == before


def test_controls_that_explain_wrote_stay_when_the_subject_is_predicted_again(tmp_path: Path) -> None:
    subject = subject_in_memory()
    labels, probability = torch.zeros(subject.shape, dtype=torch.int32), torch.rand(subject.shape)
    labels[3:6, 3:6, 3:6] = 3
    add_lesions(tmp_path, subject, [(9, "TN", np.array([[8, 8, 8]]))])
    save_lesions(tmp_path, subject, probability, {"TP": labels})
    save_map(tmp_path, subject, drawn(subject), RECORD)
    save_lesions(tmp_path, subject, probability, {"TP": labels})
    found = nibabel.load(tmp_path / "sub-toy/anat/sub-toy_desc-tn_dseg.nii.gz").get_fdata()
    assert np.argwhere(found == 9).tolist() == [[8, 8, 8]]


@pytest.mark.parametrize("change", ["affine", "shape"])
def test_lesions_and_maps_of_a_changed_header_are_refused_and_nothing_is_overwritten(tmp_path: Path, change) -> None:
    subject = subject_in_memory()
    labels = torch.zeros(subject.shape, dtype=torch.int32)
    labels[3:6, 3:6, 3:6] = 3
    save_lesions(tmp_path, subject, torch.rand(subject.shape), {"TP": labels})
    save_map(tmp_path, subject, drawn(subject), RECORD)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)}
    moved, told = replace(subject, affine=AFFINE + np.eye(4, k=3) * 5), r"their voxels lie up to 5 mm apart;"
    if change == "shape":
        moved, labels = subject_in_memory((24, 28, 21)), torch.zeros(24, 28, 21, dtype=torch.int32)
        told = r"got \(24, 28, 20\) and \(24, 28, 21\);"
    rule = rf"toy .*{told}.* take another --out"
    with pytest.raises(ValueError, match=rule):
        save_lesions(tmp_path, moved, torch.rand(moved.shape), {"TP": labels})
    with pytest.raises(ValueError, match=rule):
        finished(tmp_path, moved, RECORD)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)} == before
    rounded = replace(subject, affine=AFFINE + 1e-5)
    assert finished(tmp_path, rounded, RECORD)


# Whole or not at all


def test_a_full_disk_leaves_no_half_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image, path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(nibabel, "save", full)
    subject = subject_in_memory()
    with pytest.raises(OSError, match="No space left"):
        save_map(tmp_path, subject, drawn(subject), RECORD)
    assert files_below(tmp_path) == []
    assert not finished(tmp_path, subject, RECORD)


def test_the_second_image_failing_leaves_a_map_that_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    subject, save, count = subject_in_memory(), nibabel.save, []

    def second_fails(image, path) -> None:
        count.append(path)
        if len(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    monkeypatch.setattr(nibabel, "save", second_fails)
    with pytest.raises(OSError, match="No space left"):
        save_map(tmp_path, subject, drawn(subject), RECORD)
    assert not finished(tmp_path, subject, RECORD)
    save_map(tmp_path, subject, drawn(subject), RECORD)
    assert finished(tmp_path, subject, RECORD)


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        open_derivative(tmp_path / "file" / "out")
    with pytest.raises(OSError, match="file"):
        open_derivative(tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(saving.tempfile, "TemporaryFile", read_only)
    with pytest.raises(OSError, match="Read-only file system"):
        open_derivative(tmp_path)
    assert files_below(tmp_path) == []


def test_a_derivative_says_what_made_it(tmp_path: Path) -> None:
    open_derivative(tmp_path / "new" / "out")
    described = json.loads((tmp_path / "new" / "out" / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "ies-helpers"
    stamps = [(tmp_path / "new" / "out" / n).stat().st_mtime_ns for n in ("dataset_description.json", ".bidsignore")]
    open_derivative(tmp_path / "new" / "out")
    assert stamps == [
        (tmp_path / "new" / "out" / n).stat().st_mtime_ns for n in ("dataset_description.json", ".bidsignore")
    ]


# Lesions added to a folder: beside those that are there, never over them.

SUBJECT = subject_in_memory()
FIRST, SECOND = (np.argwhere(ball(SUBJECT.shape, centre, 1.5)) for centre in ((5, 6, 7), (15, 16, 9)))


def labels(folder: Path, group: str) -> np.ndarray:
    return np.asanyarray(nibabel.load(folder / f"sub-toy/anat/sub-toy_desc-{group}_dseg.nii.gz").dataobj)


def test_lesions_come_beside_those_of_earlier_calls_in_the_place_of_the_scan(tmp_path: Path) -> None:
    add_lesions(tmp_path, SUBJECT, [(1, "unknown", FIRST)])
    add_lesions(tmp_path, SUBJECT, [(1, "unknown", FIRST), (2, "unknown", SECOND), (3, "TN", FIRST)])
    expected = np.zeros(SUBJECT.shape)
    expected[tuple(FIRST.T)], expected[tuple(SECOND.T)] = 1, 2
    assert np.array_equal(labels(tmp_path, "unknown"), expected)
    assert np.array_equal(np.argwhere(labels(tmp_path, "tn") == 3), FIRST)
    assert np.array_equal(nibabel.load(tmp_path / "sub-toy/anat/sub-toy_desc-tn_dseg.nii.gz").affine, AFFINE)


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    add_lesions(tmp_path, SUBJECT, [(1, "TP", FIRST), (2, "TP", SECOND)])
    path = tmp_path / "sub-toy/anat/sub-toy_desc-tp_dseg.nii.gz"
    stamp = path.stat().st_mtime_ns
    add_lesions(tmp_path, SUBJECT, [(2, "TP", SECOND)])
    assert path.stat().st_mtime_ns == stamp


OTHERS = {
    "moved": (1, "TP", FIRST + 1),
    "smaller": (1, "TP", FIRST[1:]),
    "larger": (1, "TP", np.concatenate([FIRST, SECOND])),
    "of another group": (1, "FN", SECOND),
    "in its place": (2, "TP", FIRST + 1),
}


@pytest.mark.parametrize("how", OTHERS)
def test_another_lesion_is_refused_and_nothing_is_written(tmp_path: Path, how: str) -> None:
    add_lesions(tmp_path, SUBJECT, [(1, "TP", FIRST)])
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)}
    rule = rf"has another lesion {OTHERS[how][0]} of toy, or one in its place\. Take another --out"
    with pytest.raises(ValueError, match=rule):
        add_lesions(tmp_path, SUBJECT, [(9, "unknown", SECOND), OTHERS[how]])
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)} == before


# Maps read back: what was saved, or one sentence that says why not.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def only(folder: Path, stem: str):
    return next(saved for saved in read_maps(folder) if saved.stem.endswith(stem))


def test_a_map_comes_back_with_its_lesion_affine_and_modalities(made: Path) -> None:
    subject = load_subject(made.parent / "in")
    _, lesions = found_in(subject)
    maps = read_maps(made)
    assert [(m.record["lesion"], m.record["method"]) for m in maps] == [
        (n, method) for n in (1, 2, 3) for method in ("gradcam++", "gradient")
    ]
    for saved in maps:
        saliency, mask, affine = saved.load()
        assert len(saliency) == len(saved.modalities) == len(saved.images)
        assert saved.modalities == (("all",) if saved.record["method"] == "gradcam++" else ("flair", "t1"))
        assert float(saliency[0].max()) == saved.record["maximum"]
        assert np.array_equal(np.argwhere(mask.numpy()), lesions[saved.record["lesion"]].voxels)
        assert np.allclose(affine, subject.affine)
    assert maps[1].stem == "sub-p1_desc-gradientmeanL001"
    assert maps[1].title == f"p1, lesion 1 (TP, {len(lesions[1])} voxels)"


def test_a_folder_named_twice_is_read_once_and_several_are_read_together(made: Path, copied: Path) -> None:
    assert len(read_maps([made, made / ".." / "out"])) == 6
    assert len(read_maps([made, copied])) == 12


def test_a_map_that_is_being_written_is_left_out(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL002_T1w.json").unlink()
    assert "sub-p1_desc-gradientmeanL002" not in {saved.stem for saved in read_maps(copied)}
    assert len(read_maps(copied)) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", r"must be JSON, .*L001_FLAIR.json is damaged"),
        ("[]", r"must say how its map was made, .*L001_FLAIR.json has no subject, network"),
        ('{"subject": "p1", "network": "unet"}', r"has no digest, lesion, group"),
    ],
)
def test_a_damaged_sidecar_is_refused(copied: Path, text: str, told: str) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_maps(copied)


def test_a_truncated_map_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"map's image must be whole, .*L001_T1w.nii.gz is truncated or damaged"):
        only(copied, "gradientmeanL001").load()


def test_a_map_that_is_gone_is_refused(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_T1w.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"map's image must be a file, there is none at .*L001_T1w.nii.gz"):
        only(copied, "gradientmeanL001").load()


def test_lesions_that_are_gone_are_told_with_the_remedy(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz").unlink()
    rule = r"needs its lesion beside it, there is no .*desc-tp_dseg\.nii\.gz; explain the lesion again into the same"
    with pytest.raises(FileNotFoundError, match=rule):
        read_maps(copied)


def test_lesions_on_another_grid_are_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz"
    labels = nibabel.load(path)
    write_image(path, np.asarray(labels.dataobj), labels.affine + np.diag([0.0, 0.0, 0.1, 0.0]))
    with pytest.raises(ValueError, match=r"dseg.nii.gz, must lie on one grid, their voxels lie up to 2\.3 mm"):
        only(copied, "gradientmeanL001").load()
    write_image(path, np.zeros((24, 24, 25), dtype=np.int16), labels.affine)
    with pytest.raises(ValueError, match=r"dseg.nii.gz, must lie on one grid, got \(24, 24, 24\) and \(24, 24, 25\)"):
        only(copied, "gradientmeanL001").load()


def test_a_lesion_that_is_not_there_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz"
    labels = nibabel.load(path)
    write_image(path, 5 * np.asarray(labels.dataobj), labels.affine)
    with pytest.raises(ValueError, match=r"p1, lesion 1 \(TP, 123 voxels\) has 0 voxels in sub-p1_desc-tp_dseg.nii.gz"):
        only(copied, "gradientmeanL001").load()


def test_a_map_with_nan_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.nii.gz"
    saved = nibabel.load(path)
    values = np.array(saved.dataobj)
    values[0, 0, 0] = np.nan
    write_image(path, values, saved.affine)
    with pytest.raises(ValueError, match=r"must be finite, .*L001_FLAIR.nii.gz is not"):
        only(copied, "gradientmeanL001").load()


def test_a_scan_is_loaded_once_for_all_its_maps(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(saving, "load_subject", lambda **source: loaded.append(source) or load_subject(**source))
    scans = Scans()
    assert len({id(scans(saved)) for saved in read_maps(made)}) == 1
    assert loaded == [{"subject": str(made.parent / "in")}]


def test_another_scan_of_the_same_name_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "load_subject", lambda **_: subject_in_memory(name="p1"))
    with pytest.raises(ValueError, match=r"maps of p1 have the grid \(24, 24, 24\), its scan is now \(24, 28, 20\)"):
        Scans()(read_maps(made)[0])


def test_the_sidecar_tells_the_network_that_made_the_map(made: Path) -> None:
    network = load_network(made.parent / "tiny.safetensors", device="cpu")
    path = made / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.json"
    assert json.loads(path.read_text())["network_origin"] == "tiny.safetensors says itself that it is unet"
    assert json.loads(path.read_text())["digest"] == network.digest() == only(made, "gradientmeanL001").record["digest"]


# Output that lasts: a folder moved, a scan replaced, an image or a sidecar changed behind it.


def test_a_folder_moved_with_its_scan_finds_it(made: Path, tmp_path: Path) -> None:
    """A drive renamed: `view` asked for the old path."""
    home = Path(shutil.copytree(made.parent, tmp_path / "old" / "study"))
    subject = load_subject(home / "in")
    out, network = home / "again", load_network(home / "tiny.safetensors", device="cpu")
    explain(subject, network, [ball(subject.shape, (8, 8, 8), 3)], out, method="gradcam++")
    moved = Path(shutil.move(tmp_path / "old", tmp_path / "Müller's new")) / "study"
    (saved,) = read_maps(moved / "again")
    assert not Path(saved.record["source"]["subject"]).exists()
    found = Scans()(saved)
    assert torch.equal(found.image, subject.image)
    assert found.source == {"subject": str(moved / "in")}


def test_a_folder_moved_alone_is_told_where_its_scan_lies(made: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "far" / "out"))
    for path in out.glob("sub-p1/anat/*.json"):
        gone = {"subject": str(tmp_path / "gone"), "target_label": 1}
        record = json.loads(path.read_text()) | {"source": gone}
        path.write_text(json.dumps(record))
    saved = read_maps(out)[0]
    with pytest.raises(FileNotFoundError, match=rf"there is no {tmp_path}/gone; say by --subject where it lies now"):
        Scans()(saved)
    here = Path(shutil.copytree(made.parent / "in", tmp_path / "here"))
    assert Scans([str(here)])(saved).source == {"subject": str(here), "target_label": 1}  # read as it was


def replaced(folder: Path, made: Path) -> Path:
    """A copy of a study, its scan replaced by one of the same grid."""
    home = Path(shutil.copytree(made.parent, folder / "study"))
    for path in home.glob("out/sub-p1/anat/*.json"):
        path.write_text(path.read_text().replace(str(made.parent), str(home)))
    flair = home / "in" / "sub-p1_FLAIR.nii.gz"
    image = nibabel.load(flair)
    write_image(flair, np.roll(np.asanyarray(image.dataobj), 2, axis=0), image.affine)
    return home / "out"


def test_a_scan_replaced_behind_a_finished_folder_is_noticed(made: Path, tmp_path: Path) -> None:
    """`view` drew old maps over the new scan, and `evaluate` measured them, without a word."""
    out = replaced(tmp_path, made)
    maps = read_maps(out)
    with pytest.raises(ValueError, match=r"maps of p1 are of another scan than .*/study/in is now; .* --subject"):
        Scans()(maps[0])
    with pytest.warns(UserWarning, match="of another scan.*What its maps measure is of the scan before") as told:
        measures, _ = evaluate_maps(maps)
    assert sum("of another scan" in str(one.message) for one in told) == 1
    before, _ = evaluate_maps(read_maps(made))
    assert np.array_equal(measures["value"], before["value"], equal_nan=True)
    assert torch.equal(Scans([str(made.parent / "in")])(maps[0]).image, load_subject(made.parent / "in").image)


@pytest.mark.parametrize("old", [False, True])
def test_an_image_changed_behind_its_sidecar_is_refused(copied: Path, old: bool) -> None:
    """Two lesions' images exchanged; sidecars of old tell the ends of their values alone."""
    one, other = (copied / f"sub-p1/anat/sub-p1_desc-gradientmeanL00{n}_T1w.nii.gz" for n in (1, 2))
    only(copied, "gradientmeanL001").load()
    shutil.copy(other, one)
    if old:
        path = one.with_name(one.name.replace(".nii.gz", ".json"))
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "values"}))
    with pytest.raises(ValueError, match=r"the one that its sidecar tells of, .*L001_T1w.nii.gz was changed"):
        only(copied, "gradientmeanL001").load()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_sidecars_that_an_editor_saved_with_a_mark_are_read(copied: Path, encoding: str) -> None:
    wanted = [saved.record for saved in read_maps(copied)]
    for path in copied.glob("sub-p1/anat/*_*L00*.json"):
        path.write_text(path.read_text(), encoding=encoding)
    assert [saved.record for saved in read_maps(copied)] == wanted
    write_index(copied, anew=True)
    assert len(read_index(copied)) == 9


def test_an_index_that_was_cut_is_whole_again(copied: Path) -> None:
    whole = (copied / "maps.tsv").read_text()
    (copied / "maps.tsv").write_text(whole[: len(whole) // 2])
    write_index(copied)
    assert (copied / "maps.tsv").read_text() == whole


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError, match=r"out is a link to .*/unmounted, which is not there"):
        open_derivative(tmp_path / "out")
