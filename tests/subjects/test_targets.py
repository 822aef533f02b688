"""What the values of a target mean: every kind of file by its lesions, voxel by voxel, and what is asked or refused."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from ies_helpers.__main__ import main
from ies_helpers.subjects.targets import Reading, count_pieces, interpret, number_lesions, read_numbers, read_target
from tests.patients import AFFINE, write_image, write_network, write_patient

SHAPE = (12, 11, 10)
GRID: Any = SimpleNamespace(shape=SHAPE, affine=AFFINE)
BRAIN = int(np.prod(SHAPE))

# Boxes: the first two touch by a face, the third lies apart.
BOXES = (np.s_[1:4, 1:4, 1:4], np.s_[4:6, 1:4, 1:4], np.s_[8:11, 7:10, 6:9])


def labels(*numbers: int) -> np.ndarray:
    """One number on each box."""
    volume = np.zeros(SHAPE, dtype=np.int16)
    for number, box in zip(numbers, BOXES, strict=False):
        volume[box] = number
    return volume


MASK = labels(1, 1, 1)
AROUND = np.pad(MASK[1:-1, 1:-1, 1:-1].astype(float), 1, constant_values=np.nan)

MASKS = {
    "0 and 1": (MASK, ""),
    "true": (MASK > 0, ""),
    "0 and 255": (255 * MASK, "holds 0 and 255: 255 is taken for lesion"),
    "scaled integers": (0.99999 * MASK + 7e-6, ""),
    "a little more than 1": (np.float32(1.0000001) * MASK, ""),
    "0 and 255, scaled": (np.float32(1 / 255) * (255 * MASK), ""),
    "NaN for 0": (np.where(MASK > 0, 1, np.nan), ""),
    "NaN around, 0 inside": (AROUND, ""),
    "nothing": (0 * MASK, ""),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_one_however_it_is_stored(kind: str) -> None:
    values, note = MASKS[kind]
    target = interpret(values, "m.nii")
    assert np.array_equal(target.mask, np.nan_to_num(values.astype(float)) > 0.5)
    assert target.instances is None
    assert (note in target.note) if note else target.note == ""


NUMBERED = {
    "1 to n": (labels(1, 2, 3), "holds 3 numbers from 1 to 3, each in one piece: each is taken for a lesion"),
    "1 to n, scaled": (labels(1, 2, 3) + 0.004, "each in one piece"),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_one_lesion_a_number_is_kept_where_lesions_touch(kind: str) -> None:
    values, note = NUMBERED[kind]
    target = interpret(values, "m.nii")
    assert note in target.note
    assert target.instances is not None
    assert np.array_equal(target.instances, labels(1, 2, 3))
    assert np.array_equal(target.mask, MASK > 0)


def test_many_numbers_are_lesions_though_one_is_broken_and_numbers_lack() -> None:
    volume = np.zeros((44, 5, 5), dtype=np.int32)
    for n in range(11):
        volume[4 * n : 4 * n + 2, 1:3, 1:3] = 3 * n + 2
    volume[0, 4, 4] = 2
    target = interpret(volume, "m.nii")
    assert "holds 11 numbers from 2 to 32, 91% of them in one piece" in target.note
    assert target.instances is not None
    assert np.array_equal(target.instances, volume)
    volume[4, 4, 4] = 5
    with pytest.raises(ValueError, match=r"m\.nii holds 2 \(9 voxels in 2 pieces\), 5 \(9 voxels in 2 pieces\), 8"):
        interpret(volume, "m.nii")


ASKED = {
    "two numbers": (
        labels(1, 2),
        r"holds 1 \(27 voxels in 1 piece\), 2 \(18 voxels in 1 piece\); give target_label=N, or",
    ),
    "a class in pieces": (labels(1, 2, 1), r"holds 1 \(54 voxels in 2 pieces\), 2 \(18 voxels in 1 piece\); give"),
    "classes with a gap": (labels(1, 2, 4), r"holds 1 \(27 voxels in 1 piece\), 2 .*, 4 \(27 .*; give target_label=N"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_where_two_readings_are_possible_the_label_is_asked_for(kind: str) -> None:
    values, told = ASKED[kind]
    with pytest.raises(ValueError, match=told):
        interpret(values, "m.nii")


def test_a_chosen_label_is_the_lesion_and_a_layouts_is_told() -> None:
    values = labels(1, 2, 1)
    for label, wanted in ((1, values == 1), ("2", values == 2), ("1,2", values > 0)):
        target = interpret(values, "m.nii", Reading(label=label))
        assert np.array_equal(target.mask, wanted)
        assert target.instances is None
        assert target.note == ""
    kept = interpret(values, "m.nii", Reading(label="instances"))
    assert kept.instances is not None
    assert np.array_equal(kept.instances, values)
    known = interpret(values, "wmh.nii.gz", Reading(known=1))
    assert np.array_equal(known.mask, values == 1)
    assert known.note == "Of wmh.nii.gz label 1 is taken for lesion, and 2 left aside."
    assert not interpret(labels(0, 2), "wmh.nii.gz", Reading(known=1)).mask.any()
    assert np.array_equal(interpret(values, "wmh.nii.gz", Reading(label=2, known=1)).mask, values == 2)
    with pytest.raises(ValueError, match=r"must be a label of the target, m\.nii has 1, 2, and not 3; choose another"):
        interpret(values, "m.nii", Reading(label=3))


def test_probabilities_are_cut_at_a_threshold_that_is_said() -> None:
    values = np.linspace(0, 1, BRAIN).reshape(SHAPE) ** 2
    target = interpret(values, "m.nii")
    assert np.array_equal(target.mask, values > 0.5)
    count = int((values > 0.5).sum())
    assert (
        f"holds values from 0 to 1, which are read as probabilities: lesion is what is above 0.5, {count} voxels"
        in (target.note)
    )
    assert np.array_equal(interpret(values, "m.nii", Reading(threshold=0.2)).mask, values > 0.2)
    percent = interpret(100 * values + 0.3, "m.nii", Reading(threshold=30))
    assert np.array_equal(percent.mask, 100 * values + 0.3 > 30)


REFUSED = {
    "below 0": (MASK - 2 * (MASK == 0), Reading(), "no number below 0, m.nii holds -2"),
    "minus one": (np.where(np.indices(SHAPE)[0] == 0, -1.0, MASK), Reading(), "no number below 0, m.nii holds -1"),
    "NaN inside": (np.where(np.indices(SHAPE).sum(axis=0) == 9, np.nan, MASK), Reading(), "NaN voxels inside"),
    "a NaN in a corner": (np.where(np.indices(SHAPE).sum(axis=0) == 0, np.nan, MASK), Reading(), "has 1 NaN voxels"),
    "NaN around and inside": (
        np.where((np.indices(SHAPE).T == 5).all(axis=-1).T, np.nan, AROUND),
        Reading(),
        "NaN voxels",
    ),
    "infinity": (np.where(MASK > 0, np.inf, 0), Reading(), "holds infinity"),
    "intensities": (MASK * 812.3, Reading(), "whole numbers or probabilities, m.nii holds others, from 0 to 812; say"),
    "faint": (MASK * 0.4, Reading(), r"none above 0\.5, its largest value is 0\.4; take another target_threshold"),
    "a label of none": (MASK * 0.4, Reading(label=1), "chooses among whole numbers, m.nii holds others"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_means_nothing_is_refused(kind: str) -> None:
    values, reading, told = REFUSED[kind]
    with pytest.raises(ValueError, match=told):
        interpret(values, "m.nii", reading)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"label": "lesion"}, "target_label must be a label's number, several as 1,2, or instances .* got 'lesion'"),
        ({"label": 0}, "got 0"),
        ({"threshold": -1.0}, "target_threshold must be above 0, got -1"),
        ({"label": 1, "threshold": 0.5}, "got target_label 1 and target_threshold 0.5; leave one out"),
    ],
)
def test_a_reading_that_cannot_be_is_refused(asked: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Reading(**asked)


def test_pieces_are_counted_as_by_a_loop_over_voxels() -> None:
    volume = np.random.default_rng(0).choice([0, 0, 0, 0, 3, 7], SHAPE)
    for number, count in count_pieces(volume).items():
        left = set(map(tuple, np.argwhere(volume == number)))
        pieces = 0
        while left:
            pieces, edge = pieces + 1, [left.pop()]
            while edge:
                at = edge.pop()
                near = {tuple(np.add(at, step) - 1) for step in np.ndindex(3, 3, 3)} & left
                left -= near
                edge += near
        assert count == pieces
    assert sorted(count_pieces(volume)) == [3, 7]


# Files.


def test_the_majority_of_raters_is_what_more_than_half_of_them_drew(tmp_path: Path) -> None:
    drawn = {"a": labels(1, 1), "b": labels(1, 0, 1), "c": 255 * labels(0, 1, 1)}
    paths = {name: write_image(tmp_path / f"{name}.nii", values) for name, values in drawn.items()}
    with pytest.warns(UserWarning, match=r"more than half of 3 raters drew, 72 voxels \(of a 45, b 54, c 45\)"):
        target = read_target(paths, GRID, "FLAIR", BRAIN)
    assert np.array_equal(target.mask, sum((values > 0).astype(int) for values in drawn.values()) >= 2)
    two = {name: paths[name] for name in ("a", "b")}
    with pytest.warns(UserWarning, match="more than half of 2 raters drew, 27 voxels"):
        assert np.array_equal(read_target(two, GRID, "FLAIR", BRAIN).mask, labels(1) > 0)


@pytest.mark.parametrize(
    ("litres", "brain", "told"),
    [(0.6, 9.0, "it seems to be a mask of the brain"), (0.06, 0.12, "it seems to be a mask"), (0.06, 0.3, "see that")],
)
def test_a_target_as_large_as_a_brain_is_refused_and_a_large_one_told(tmp_path, litres, brain, told) -> None:
    """Voxels of a tenth of a litre each; shares of the brain beside."""
    affine = np.diag([np.cbrt(litres * 1e6 / 6)] * 3 + [1])
    mask = np.zeros((2, 3, 4), dtype=np.uint8)
    mask[..., :1] = 1  # 6 voxels
    path = write_image(tmp_path / "mask.nii", mask, affine)
    grid: Any = SimpleNamespace(shape=mask.shape, affine=affine)
    voxels = round(brain / litres * 6)
    if told == "see that":
        with pytest.warns(
            UserWarning, match=rf"mask\.nii covers {litres:g} litres, 20% .* see that it is a mask of les"
        ):
            assert read_target(path, grid, "FLAIR", voxels).mask.sum() == 6
        return
    with pytest.raises(ValueError, match=rf"must be lesions, mask\.nii covers {litres:g} litres, .* {told}"):
        read_target(path, grid, "FLAIR", voxels)
    with pytest.warns(UserWarning, match="see that it is a mask of lesions"):
        assert read_target(path, grid, "FLAIR", voxels, Reading(label=1)).mask.sum() == 6


def test_a_target_named_as_a_brain_mask_is_told(tmp_path: Path) -> None:
    for name, is_told in (
        ("T1_bet_mask.nii", True),
        ("p1_brain_mask.nii", True),
        ("FLAIR_brain_lesion_mask.nii", False),
    ):
        path = write_image(tmp_path / name, MASK)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert np.array_equal(read_target(path, GRID, "FLAIR", BRAIN).mask, MASK > 0)
        assert ["named as a mask of the brain" in str(w.message) for w in caught] == [True] * is_told


def test_lesions_of_a_file_keep_their_numbers_and_pieces_of_one_number_get_some(tmp_path: Path) -> None:
    path = write_image(tmp_path / "lesions.nii.gz", labels(7, 2, 7))
    assert np.array_equal(read_numbers(path, GRID), labels(7, 2, 7))
    assert np.array_equal(number_lesions(labels(5), "it"), labels(5))
    with pytest.warns(UserWarning, match="it holds one number on 2 pieces: each piece is taken for a lesion"):
        assert np.array_equal(number_lesions(labels(5, 5, 5), "it"), labels(1, 1, 2))
    for values, told in ((0 * MASK, "no number but 0"), (0.5 * MASK, "0.5"), (40000 * MASK.astype(int), "40000")):
        with pytest.raises(ValueError, match=f"must hold whole numbers from 1 to 32767, it holds {told}"):
            number_lesions(values, "it")
    moved: Any = SimpleNamespace(shape=SHAPE, affine=AFFINE + np.eye(4, k=3))
    with pytest.raises(ValueError, match=r"Scan and lesions, lesions\.nii\.gz, must lie on one grid, .* 1 mm apart"):
        read_numbers(path, moved)


# At the command line.


def test_the_command_line_explains_the_lesions_of_a_file_and_asks_for_a_label(tmp_path: Path, capsys) -> None:
    """A target of two classes and a file of three lesions, of which two touch; the second meets class 2 alone."""
    patient = write_patient(tmp_path / "p", side=24, spots={"TP": (12, 12, 12)}, suffixes=("FLAIR",))
    network = write_network(tmp_path / "narrow.safetensors", channels=("flair",))
    classes, numbers = np.zeros((24,) * 3, dtype=np.uint8), np.zeros((24,) * 3, dtype=np.uint16)
    classes[8:10, 8:10, 8:10], classes[12:14, 8:10, 8:10] = 1, 2
    for number, start in ((4, 9), (11, 11), (2, 13)):
        numbers[start : start + 2, 8:10, 8:10] = number
    write_image(patient / "sub-p1_label-lesion_mask.nii.gz", classes)
    lesions = write_image(tmp_path / "lesions.nii.gz", numbers)
    out = tmp_path / "out"
    command = ["explain", str(patient), "--network", str(network), "--method", "gradient", "--aggregate", "mean"]
    command += ["--lesions", str(lesions), "--out", str(out)]
    assert main(command) == 2
    assert "which of its labels is lesion, sub-p1_label-lesion_mask.nii.gz holds 1 (8" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--target-label", "2"]) == 0, capsys.readouterr().err
    table = pd.read_csv(out / "sub-p1" / "lesions.tsv", sep="\t")
    assert table[["lesion", "group", "voxels"]].to_numpy().tolist() == [[2, "TP", 8], [4, "FP", 8], [11, "TP", 8]]
    files: dict[str, Any] = {g: nibabel.load(out / f"sub-p1/anat/sub-p1_desc-{g}_dseg.nii.gz") for g in ("tp", "fp")}
    written = {g: np.asanyarray(image.dataobj) for g, image in files.items()}
    assert np.array_equal(written["tp"] + written["fp"], numbers)
    assert set(np.unique(written["fp"])) == {0, 4}
    sidecars = [json.loads(path.read_text()) for path in sorted(out.rglob("*L[0-9]*.json"))]
    assert [(s["lesion"], s["group"], s["source"]["target_label"]) for s in sidecars] == [
        *((2, "TP", "2"), (4, "FP", "2"), (11, "TP", "2"))
    ]
    capsys.readouterr()
    assert main([*command, "--target-threshold", "0"]) == 2
    assert "target_threshold must be above 0" in capsys.readouterr().err
    command[command.index(str(lesions))] = str(tmp_path / "none.nii.gz")
    assert main([*command, "--target-label", "2"]) == 2
    assert "none.nii.gz" in capsys.readouterr().err
