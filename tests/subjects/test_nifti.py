"""What a NIfTI header claims is looked at before memory is asked for it, and what nibabel mends is told."""

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from ies_helpers import load_subject
from tests.patients import write_image

SHAPE = (9, 8, 7)


def scan(path: Path, affine: np.ndarray | None = None, offset: float = 0.0) -> Path:
    """A noisy scan of 504 voxels."""
    values = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32) + np.float32(offset)
    return write_image(path, values, np.eye(4) if affine is None else affine)


def overwrite(path: Path, at: int, kind: str, value: float) -> None:
    """Put a number into the header of an unpacked file."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, at, value)
    path.write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
def test_a_small_file_that_announces_a_large_volume_is_refused_before_memory_is_asked_for(tmp_path, packed) -> None:
    """32000^3 voxels of 4 bytes are 122 TB; a test that asked for them would not come back."""
    path = scan(tmp_path / "p_FLAIR.nii")
    for axis in range(3):
        overwrite(path, 42 + 2 * axis, "h", 32000)
    if packed:
        path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".nii.gz")
    rule = (
        r"must be whole, p_FLAIR\.nii.* is truncated or damaged \(its header announces \(32000, 32000, 32000\) voxels"
    )
    with pytest.raises(ValueError, match=rule):
        load_subject(flair=path, t1=path)


def test_a_scan_of_zeros_packs_far_below_its_size_and_is_still_believed(tmp_path: Path) -> None:
    values = np.zeros((64, 64, 64), dtype=np.float32)
    values[30:34] = np.arange(4)[:, None, None] + 1
    path = write_image(tmp_path / "p_FLAIR.nii.gz", values, np.eye(4))
    assert path.stat().st_size * 100 < values.nbytes
    assert load_subject(flair=path, t1=path).shape == (64, 64, 64)


@pytest.mark.parametrize(("size", "told"), [(1e-4, "0.0001 x 1 x 1"), (2e3, "2e+03 x 1 x 1")])
def test_voxels_of_no_size_in_mm_are_refused(tmp_path: Path, size: float, told: str) -> None:
    path = scan(tmp_path / "p_FLAIR.nii", np.diag([size, 1, 1, 1]))
    with pytest.raises(ValueError, match=rf"must have voxels in mm, p_FLAIR.nii has {told.replace('+', '.')}; mend"):
        load_subject(flair=path, t1=path)


def test_two_axes_that_run_the_same_way_are_no_geometry(tmp_path: Path) -> None:
    path = scan(tmp_path / "p_FLAIR.nii")
    for n, row in enumerate([(1, 1, 0), (0, 1e-7, 0), (0, 0, 1)]):
        for m, value in enumerate(row):
            overwrite(path, 280 + 16 * n + 4 * m, "f", value)
    with pytest.raises(ValueError, match="must have an invertible affine"):
        load_subject(flair=path, t1=path)


@pytest.mark.parametrize("at", [292, 308, 324])
def test_an_affine_that_leads_nowhere_is_refused(tmp_path: Path, at: int) -> None:
    path = scan(tmp_path / "p_FLAIR.nii")
    overwrite(path, at, "f", float("nan"))
    with pytest.raises(ValueError, match="must have an invertible affine"):
        load_subject(flair=path, t1=path)


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_values_too_far_from_zero_for_their_range_are_refused(tmp_path: Path, offset: float) -> None:
    """float32 would leave some hundred steps of them, and their mean would not come out as 0."""
    path = scan(tmp_path / "p_FLAIR.nii", offset=offset)
    with pytest.raises(ValueError, match=r"values that can be z-scored, those of p_FLAIR\.nii run from -?[\d.e+]+ to"):
        load_subject(flair=path, t1=path)


def test_what_is_mended_in_a_header_is_one_warning_and_nothing_else(tmp_path: Path, capfd) -> None:
    path = scan(tmp_path / "p_FLAIR.nii")
    overwrite(path, 252, "h", 16)  # qform_code
    overwrite(path, 0, "i", 12)  # sizeof_hdr
    before = logging.getLogger("nibabel.global").handlers
    with pytest.warns(UserWarning, match=r"header of p_FLAIR\.nii is not .*sizeof_hdr.*; qform_code 16 not valid"):
        load_subject(flair=path, t1=path)
    assert capfd.readouterr().err == ""
    assert logging.getLogger("nibabel.global").handlers == before != []
