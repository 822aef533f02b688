"""Where a scan of any format lies, what its header claims, what nibabel mends in it, and what is refused by name."""

import gzip
import json
import logging
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ies_helpers import explain, load_subject
from ies_helpers.__main__ import main
from ies_helpers.subjects.nifti import save_image, stem_of
from tests.networks import unet
from tests.patients import AFFINE, ball, lesion_of, write_image, write_network

SHAPE = (9, 8, 7)

MICROMETRE = 1e-3
"""In mm."""


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


# Every format and geometry: the same voxel has one place in the world, in the scan and in what is written beside it.

MARKED = (6, 2, 5)  # the brightest voxel


def marked() -> np.ndarray:
    """A noisy scan of which one voxel is the brightest."""
    values = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    values[MARKED] = 300
    return values


def turned(degrees: float, sides: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    """Axes permuted, one flipped, and all of them turned about three axes; far from the origin."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix()
    affine[:3, :3] = turn @ AFFINE[:3, :3] @ np.diag(sides)
    affine[:3, 3] = -131.7, 88.3, 61.9
    return affine


def nifti(kind: Any = nibabel.Nifti1Image, codes: tuple[int, int] = (1, 4), stored: Any = None) -> Callable[..., None]:
    """Writes NIfTI with these codes of qform and sform, and values stored as such a type."""

    def write(path: Path, affine: np.ndarray) -> None:
        image = kind(marked(), affine)
        image.set_qform(affine, codes[0])
        image.set_sform(affine, codes[1])
        if stored:
            image.set_data_dtype(stored)
        nibabel.save(image, path)

    return write


def big_endian(path: Path, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(marked(), affine, nibabel.Nifti1Header(endianness=">")), path)


def one_frame(path: Path, affine: np.ndarray) -> None:
    values: Any = marked()[..., None, None]
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def opened(path: Path) -> Any:
    """What nibabel makes of a file."""
    return nibabel.load(path)


def mgh(path: Path, affine: np.ndarray) -> None:
    values: Any = marked()
    nibabel.save(nibabel.MGHImage(values, affine), path)


def without_intercept(path: Path, affine: np.ndarray) -> None:
    """Stored as a third of its values, with a slope of 3 and an intercept that is no number."""
    thirds: Any = (marked() / 3).astype(np.int16)
    kind = nibabel.Nifti1Pair if path.suffix == ".img" else nibabel.Nifti1Image
    nibabel.save(kind(thirds, affine), path)
    header = path.with_suffix(".hdr") if path.suffix == ".img" else path
    overwrite(header, 112, "f", 3.0)
    overwrite(header, 116, "f", float("nan"))


WRITTEN = {
    "NIfTI": ("p.nii", nifti(), turned(0)),
    "packed": ("p.nii.gz", nifti(), turned(0)),
    "in capitals": ("P.NII.GZ", nifti(), turned(0)),
    "NIfTI-2": ("p.nii", nifti(nibabel.Nifti2Image), turned(15)),
    "two files": ("p.img", nifti(nibabel.Nifti1Pair), turned(15)),
    "two files by the header": ("p.hdr", nifti(nibabel.Nifti1Pair), turned(15)),
    "big-endian": ("p.nii", big_endian, turned(15)),
    "scaled integers": ("p.nii", nifti(stored=np.int16), turned(15)),
    "sform alone": ("p.nii", nifti(codes=(0, 2)), turned(15)),
    "qform alone": ("p.nii", nifti(codes=(1, 0)), turned(15)),
    "oblique": ("p.nii", nifti(), turned(45, (0.9, 1, 3))),
    "one frame of four axes": ("p.nii.gz", one_frame, turned(15)),
    "no intercept": ("p.nii", without_intercept, turned(15)),
    "no intercept in two files": ("p.img", without_intercept, turned(15)),
    "MGH": ("p.mgh", mgh, turned(15, (0.9, 1, 3))),
    "MGZ": ("p.mgz", mgh, turned(45)),
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.filterwarnings("ignore:.*(scl_inter|networks|unclosed)")
def test_a_map_lies_on_its_scan_in_every_format(tmp_path: Path, how: str) -> None:
    name, write, affine = WRITTEN[how]
    write(tmp_path / name, affine)
    subject = load_subject(flair=tmp_path / name)
    place = affine @ (*MARKED, 1)
    assert np.abs(subject.affine @ (*MARKED, 1) - place).max() < MICROMETRE
    assert subject.raw is not None
    assert np.allclose(subject.raw[0], marked(), atol=3)  # of integers scaled by 3; else far less
    save_image(tmp_path / "map.nii.gz", subject.raw[0].numpy(), subject)
    image = opened(tmp_path / "map.nii.gz")
    assert type(image) is nibabel.Nifti1Image
    at = np.unravel_index(np.argmax(np.asanyarray(image.dataobj)), SHAPE)
    assert at == MARKED
    forms = [form for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)) if code]
    for form in (image.affine, *forms):
        assert np.abs(np.asarray(form) @ (*at, 1) - place).max() < MICROMETRE


def test_an_analyze_scan_lies_about_its_centre_and_its_side_is_told(tmp_path: Path) -> None:
    image = nibabel.AnalyzeImage(marked(), np.diag([-2, 1.5, 3, 1]))
    nibabel.save(image, tmp_path / "p.img")
    with pytest.warns(UserWarning, match=r"p\.img is Analyze, .* taken to run to L, A, S, as nibabel"):
        subject = load_subject(flair=tmp_path / "p.img")
    middle = (np.array(SHAPE) - 1) / 2
    place = (np.array(MARKED) - middle) * [-2, 1.5, 3]
    save_image(tmp_path / "map.nii.gz", subject.image[0].numpy(), subject)
    written = opened(tmp_path / "map.nii.gz")
    for form in (subject.affine, written.affine, written.get_qform()):
        assert np.abs((form @ (*MARKED, 1))[:3] - place).max() < MICROMETRE
    assert any("is Analyze" in note for note in subject.notes)
    (tmp_path / "p.img").unlink()
    with pytest.raises(ValueError, match=r"p\.hdr is not readable as one \(it lies without p\.img; copy both files\)"):
        load_subject(flair=tmp_path / "p.hdr")


def test_of_two_places_in_a_header_the_sform_is_taken_and_the_distance_told(tmp_path: Path) -> None:
    """A shift of 20 mm along an axis, then a mirror along the first axis: its last voxel is 16 voxels off."""
    for name, other, told in (
        ("shifted", AFFINE + 20 * np.eye(4, k=3), r"sform and qform, up to 20 mm apart: the sform"),
        ("mirrored", AFFINE @ np.diag([-1, 1, 1, 1]), r"sform and qform, up to 16 mm apart and mirrored: the sform"),
    ):
        image = nibabel.Nifti1Image(marked(), AFFINE)
        image.set_sform(AFFINE, 4)
        image.set_qform(other, 1)
        nibabel.save(image, tmp_path / f"{name}.nii")
        with pytest.warns(UserWarning, match=told):
            subject = load_subject(flair=tmp_path / f"{name}.nii")
        assert np.abs(subject.affine - AFFINE).max() < MICROMETRE
        save_image(tmp_path / "map.nii.gz", subject.image[0].numpy(), subject)
        assert np.abs(opened(tmp_path / "map.nii.gz").get_qform() - other).max() < MICROMETRE  # as the scan's


def test_a_header_without_a_place_is_told_and_stands_in_the_sidecar(tmp_path: Path) -> None:
    write = nifti(codes=(0, 0))
    write(tmp_path / "p_FLAIR.nii", np.diag([1.0, 1, 2, 1]))
    with pytest.warns(
        UserWarning, match=r"p_FLAIR\.nii does not say where it lies .* run to L, A, S, about its centre"
    ):
        subject = load_subject(flair=tmp_path / "p_FLAIR.nii")
    assert np.allclose(subject.affine @ (4, 3.5, 3, 1), (0, 0, 0, 1))
    assert "does not say where it lies" in " ".join(subject.notes)
    lesion = lesion_of(ball(SHAPE, (4, 4, 4), 1.2))
    explain(subject, unet((3, 4), inputs=1), [lesion], tmp_path / "out", method="gradient", aggregate="mean")
    (sidecar,) = (tmp_path / "out").rglob("*L003_FLAIR.json")
    assert json.loads(sidecar.read_text())["subject_notes"] == list(subject.notes)


@pytest.mark.parametrize(("by", "told"), [(2e-5, None), (0.05, None), (0.12, r"0\.12 mm apart, 12% of a voxel's side")])
def test_a_little_turn_is_taken_and_told_in_mm_from_a_tenth_of_a_voxel_on(tmp_path: Path, by: float, told: str) -> None:
    """The second image is turned so that the farthest corner of the volume, 12 mm from the first, moves `by` mm."""
    along = np.hypot(*(np.array(SHAPE[:2]) - 1))
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("z", 2 * np.arcsin(by / along / 2)).as_matrix()
    write_image(tmp_path / "FLAIR.nii", marked(), np.eye(4))
    write_image(tmp_path / "T1.nii", marked() + 1, moved)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_subject(flair=tmp_path / "FLAIR.nii", t1=tmp_path / "T1.nii")
    found = [str(w.message) for w in caught if "apart" in str(w.message)]
    assert len(found) == (told is not None)
    if told:
        assert re.search(told, found[0])


@pytest.mark.parametrize("shift", [0.0011, 0.5])
def test_an_origin_a_little_off_is_taken_and_half_a_voxel_is_refused(tmp_path: Path, shift: float) -> None:
    moved = np.eye(4) + shift * np.eye(4, k=3)
    write_image(tmp_path / "FLAIR.nii", marked(), np.eye(4))
    write_image(tmp_path / "T1.nii", marked() + 1, moved)
    if shift < 0.1:
        assert load_subject(tmp_path).channels == ("flair", "t1")
        return
    with pytest.raises(ValueError, match=r"FLAIR and T1 must lie on one grid, their voxels lie up to 0\.5 mm apart"):
        load_subject(tmp_path)


# What is no image, or another program's, is named as what it is.


@pytest.mark.parametrize(("at", "number"), [(4, 0), (20, 7), (20, 65536)])
def test_a_damaged_mgh_file_is_refused_in_one_sentence(tmp_path: Path, at: int, number: int) -> None:
    """A side of 0, and types that nobody knows."""
    mgh(tmp_path / "p.mgh", np.eye(4))
    content = bytearray((tmp_path / "p.mgh").read_bytes())
    content[at : at + 4] = number.to_bytes(4, "big")
    (tmp_path / "p.mgh").write_bytes(content)
    with pytest.raises(ValueError, match=r"FLAIR image must be a NIfTI file, .*p\.mgh is not readable as one \("):
        load_subject(flair=tmp_path / "p.mgh")


FOREIGN = {
    "p.nrrd": r"is NRRD; convert it first \(c3d .*p\.nrrd -o .*p\.nii\.gz\)",
    "p.MHA": r"is MetaImage; convert it first \(c3d .*p\.MHA -o .*p\.nii\.gz\)",
    "p.mnc": r"is MINC; convert it first \(mnc2nii .*p\.mnc .*p\.nii\.gz\)",
    "p.PAR": r"is PAR/REC; convert it first \(dcm2niix -z y -f %p_%s .*p\.PAR\)",
    "p+orig.HEAD": r"is AFNI; convert it first \(3dAFNItoNIFTI -prefix .*p\+orig\.nii\.gz .*p\+orig\.HEAD\)",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_programs_file_is_named_with_what_converts_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("anything")
    with pytest.raises(ValueError, match=FOREIGN[name]):
        load_subject(flair=tmp_path / name)


POINTERS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": r"a Git LFS pointer, .*\(git lfs pull\)",
    "/annex/objects/MD5E-s4--00.nii.gz\n": r"a git-annex pointer, .*\(git annex get p\.nii\.gz\)",
    "<!DOCTYPE html><title>Log in</title>": "a web page",
    "": "an empty file",
}


@pytest.mark.parametrize("content", POINTERS)
def test_what_was_never_fetched_is_named_as_what_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.nii.gz").write_text(content)
    with pytest.raises(ValueError, match=rf"p\.nii\.gz is not readable as one \({POINTERS[content]}"):
        load_subject(flair=tmp_path / "p.nii.gz")


@pytest.mark.parametrize(
    ("to", "told"),
    [("../.git/annex/objects/XX/k.nii.gz", r"git annex get p\.nii\.gz"), ("none.nii.gz", "a link to no")],
)
def test_a_link_to_nothing_is_named_as_such(tmp_path: Path, to: str, told: str) -> None:
    (tmp_path / "p.nii.gz").symlink_to(to)
    with pytest.raises(FileNotFoundError, match=told):
        load_subject(flair=tmp_path / "p.nii.gz")


def test_a_stem_is_a_name_without_its_ending() -> None:
    names = ("p.1_FLAIR.nii.gz", "p.NII", "p.mgz", "p.img.gz", "p.hdr", "notes.txt")
    assert [stem_of(name) for name in names] == ["p.1_FLAIR", "p", "p", "p", "p", "notes.txt"]


@pytest.mark.parametrize("how", ["MGZ", "one frame of four axes"])
def test_the_command_line_writes_beside_a_scan_of_another_format(tmp_path: Path, how: str, capsys) -> None:
    name, write, affine = WRITTEN[how]
    write(tmp_path / name, affine)
    network = write_network(tmp_path / "narrow.safetensors", channels=("flair",))
    out = tmp_path / "out"
    command = ["predict", "--image", f"flair={tmp_path / name}", "--network", str(network), "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    written = opened(out / "sub-p" / "anat" / "sub-p_label-lesion_probseg.nii.gz")
    assert written.shape == SHAPE
    assert np.abs(written.affine - affine).max() < MICROMETRE
    (tmp_path / "p.nrrd").write_text("NRRD0005")
    command[2] = f"flair={tmp_path / 'p.nrrd'}"
    command[-1] = str(tmp_path / "none")
    assert main(command) == 2
    assert "is NRRD; convert it first (c3d" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
