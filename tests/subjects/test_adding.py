"""Lesions added to a folder: beside those that are there, never over them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from ies_helpers.subjects.folder import add_lesions
from tests.patients import AFFINE, ball, files_below, subject_in_memory

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
