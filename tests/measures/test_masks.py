"""Masks from files: the same grid as it is, another grid resampled and told; joined labels; tissues by template."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers import Subject
from ies_helpers.measures.regions import TISSUES, brain_tissues, join, read_labels, read_structures, template_affine
from ies_helpers.subjects.phantom import template_tissues
from ies_helpers.subjects.subject import normalise
from tests.patients import AFFINE, subject_in_memory, write_image

LABELS = np.zeros((24, 28, 20), dtype=np.int16)
LABELS[4:8, 5:9, 6:10] = 1
LABELS[12:16, 5:9, 6:10] = 3


def test_labels_on_the_same_grid_are_taken_as_they_are_without_a_word(tmp_path: Path) -> None:
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = read_labels(path, subject_in_memory())
        named = read_structures(path, subject_in_memory(), {3: "three"})
    assert (got == LABELS).all()
    assert list(named) == ["three"]
    assert (named["three"] == (LABELS == 3)).all()
    assert list(read_structures(path, subject_in_memory())) == ["label 1", "label 3"]
    mask = write_image(tmp_path / "thalamus.nii.gz", (LABELS == 1).astype(np.uint8))
    assert list(read_structures(mask, subject_in_memory())) == ["thalamus"]


def test_a_file_on_another_grid_is_resampled_to_the_nearest_voxel_and_a_warning_says_so(tmp_path: Path) -> None:
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 23], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = write_image(tmp_path / "flipped.nii.gz", LABELS[::-1], flipped)
    with pytest.warns(UserWarning, match=r"flipped.nii.gz lies on another grid .*affine up to 23 apart.* resampled"):
        got = read_labels(path, subject_in_memory())
    assert (got == LABELS).all()
    coarse = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = (AFFINE @ [0.5, 0.5, 0.5, 1])[:3]
    path = write_image(tmp_path / "coarse.nii.gz", LABELS[::2, 1::2, ::2], coarse)
    with pytest.warns(UserWarning, match=r"shape \(12, 14, 10\)"):
        got = read_labels(path, subject_in_memory())
    middle = np.repeat(np.repeat(np.repeat(LABELS[::2, 1::2, ::2], 2, 0), 2, 1), 2, 2)
    assert set(np.unique(got)) == {0, 1, 3}
    assert (got == middle)[:-1, :-1, :-1].all()


def test_what_is_no_label_image_or_elsewhere_is_refused(tmp_path: Path) -> None:
    subject = subject_in_memory()
    scores = write_image(tmp_path / "scores.nii.gz", LABELS * 0.3)
    with pytest.raises(ValueError, match=r"whole numbers, scores.nii.gz holds others; save labels, not scores"):
        read_labels(scores, subject)
    with pytest.raises(ValueError, match="must have 3 axes"):
        read_labels(write_image(tmp_path / "four.nii.gz", np.stack([LABELS] * 2, axis=3)), subject)
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read_labels(tmp_path / "none.nii.gz", subject)
    far = AFFINE.copy()
    far[:3, 3] += 500
    with (
        pytest.warns(UserWarning, match="another grid"),
        pytest.raises(ValueError, match=r"no label of far.nii.gz lies in toy's grid"),
    ):
        read_labels(write_image(tmp_path / "far.nii.gz", LABELS, far), subject)
    with pytest.raises(ValueError, match=r"must hold a label, empty.nii.gz is zero everywhere"):
        read_structures(write_image(tmp_path / "empty.nii.gz", 0 * LABELS), subject)
    noise = np.random.default_rng(0).integers(0, 99, LABELS.shape).astype(np.int16)
    path = write_image(tmp_path / "cut.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"must be whole, cut.nii.gz is truncated or damaged"):
        read_labels(path, subject)


def test_labels_of_one_name_are_one_structure(tmp_path: Path) -> None:
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    both = read_structures(path, subject_in_memory(), {1: "white matter", 3: "white matter"})["white matter"]
    assert np.array_equal(both, (LABELS == 1) | (LABELS == 3))


def test_structures_without_voxels_or_outside_the_brain_are_told(tmp_path: Path) -> None:
    subject = subject_in_memory()
    subject.image[:, 10:] = 0
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    with pytest.warns(UserWarning, match="Of regions") as told:
        structures = read_structures(path, subject, {1: "inside", 2: "absent", 3: "outside"})
    assert [str(w.message) for w in told] == [
        "Of regions.nii.gz these have no voxel of toy: absent.",
        "Of regions.nii.gz these lie outside the brain of toy: outside.",
    ]
    assert [int(mask.sum()) for mask in structures.values()] == [64, 0, 64]


def test_joined_structures_are_unions_and_unknown_names_are_refused() -> None:
    parts = {"left": LABELS == 1, "right": LABELS == 3, "other": LABELS == 0}
    joined = join(parts, {"both": ["left", "right"], "all": list(parts)})
    assert (joined["both"] == (LABELS > 0)).all()
    assert joined["all"].all()
    with pytest.raises(ValueError, match=r"got \['top'\]; there are left, right, other"):
        join(parts, {"both": ["left", "top"]})


def template_subject(stretch: tuple[float, float, float] = (1, 1, 1)) -> tuple[Subject, np.ndarray]:
    """The template itself as a T1 at 4 mm, its brain stretched along each world axis, and its tissue at each voxel."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-110, -140, -90]
    shape = (55, 66, 50)
    world = np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3, None, None, None]
    seen = world / np.reshape(stretch, (3, 1, 1, 1))
    white, grey, csf, _ = template_tissues(seen.astype(np.float32))
    brain = ndimage.binary_fill_holes(white + grey > 0.5)
    truth = np.where(brain, np.stack([white, grey, csf]).argmax(axis=0), -1)
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, *shape))
    flair, t1 = np.array([1.0, 1.2, 0.2, 0.0])[truth], np.array([1.0, 0.6, 0.2, 0.0])[truth]
    return Subject("template", normalise((np.stack([flair, t1]) + noise) * brain), affine), truth


def test_tissues_of_the_template_itself_are_found_and_fill_the_brain() -> None:
    subject, truth = template_subject()
    tissues = brain_tissues(subject)
    assert tuple(tissues) == TISSUES
    assert (np.sum(list(tissues.values()), axis=0) == (truth >= 0)).all()
    found = np.select([tissues["white matter"], tissues["grey matter"]], [0, 1], 2)
    assert float((found == truth)[truth >= 0].mean()) > 0.98
    litres = {name: float(mask.sum()) * 64e-6 for name, mask in tissues.items()}
    assert 0.005 < litres["ventricles"] < 0.1
    middle = subject.affine[:3, :3] @ np.argwhere(tissues["ventricles"]).mean(axis=0) + subject.affine[:3, 3]
    assert np.abs(middle - [0, -16, 12]).max() < 12


def test_a_smaller_brain_is_stretched_to_the_template() -> None:
    subject, _ = template_subject((0.85, 0.9, 0.8))
    affine = template_affine(subject)
    stretched = np.diag(affine[:3, :3]) / 4
    assert stretched == pytest.approx([1 / 0.85, 1 / 0.9, 1 / 0.8], rel=0.02)
    origin = np.linalg.inv(subject.affine) @ [0, 0, 0, 1]
    assert np.abs((affine @ origin)[:3]).max() < 2


def test_a_brain_that_is_not_in_mni_space_is_refused() -> None:
    subject, _ = template_subject()
    moved = subject.affine.copy()
    moved[1, 3] += 150
    for affine in (moved, np.eye(4)):
        with pytest.raises(ValueError, match="A template needs a brain in MNI space; that of template overlaps it"):
            brain_tissues(Subject("template", subject.image, affine))
    with pytest.raises(ValueError, match=r"Dice coefficient of 0\.00"):
        brain_tissues(Subject("empty", torch.zeros(2, 8, 8, 8), np.eye(4)))
