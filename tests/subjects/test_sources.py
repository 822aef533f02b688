"""Loading: what is right loads with its geometry, what is wrong is refused in one sentence."""

import gzip
import hashlib
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ies_helpers import Subject, load_subject
from ies_helpers.subjects import layouts
from ies_helpers.subjects import sources as finding
from ies_helpers.subjects import sources as loading
from tests.patients import AFFINE, SPOTS, ball, write_image, write_patient

SPOT = {"TP": (12, 12, 12)}
SHAPE = (24, 24, 24)


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    return write_patient(tmp_path / "patient", side=24, spots=SPOT)


def file_of(patient: Path, suffix: str) -> Path:
    return patient / f"sub-p1_{suffix}.nii.gz"


def refused(patient: Path, rule: str, error: type[Exception] = ValueError) -> None:
    """Loading fails with one line that states `rule`."""
    with pytest.raises(error, match=rule) as caught:
        load_subject(patient)
    assert "\n" not in str(caught.value)


# What is right


def test_a_folder_loads_z_scored_on_its_own_grid(patient: Path) -> None:
    subject = load_subject(patient)
    scan = np.asanyarray(nibabel.load(file_of(patient, "FLAIR")).dataobj).astype(np.float64)
    inside = scan[scan != 0]
    expected = np.where(scan != 0, (scan - inside.mean()) / inside.std(), 0)
    assert subject.name == "p1"
    assert subject.channels == ("flair", "t1")
    assert np.abs(subject.image[0].numpy() - expected).max() < 1e-5  # float32 of z-scores below 20
    assert np.array_equal(subject.affine, AFFINE)
    assert subject.target is not None
    assert subject.target.dtype == torch.bool
    assert torch.equal(
        subject.target,
        torch.from_numpy(np.asanyarray(nibabel.load(file_of(patient, "label-lesion_mask")).dataobj) == 1),
    )


def test_files_by_name_load_as_the_folder_does(patient: Path) -> None:
    folder = load_subject(patient)
    files = load_subject(flair=file_of(patient, "FLAIR"), t1=file_of(patient, "T1w"))
    assert torch.equal(files.image, folder.image)
    assert files.target is None


@pytest.mark.parametrize("how", ["folder", "files"])
def test_the_source_of_a_subject_loads_it_again_from_any_folder(patient: Path, monkeypatch, tmp_path, how) -> None:
    monkeypatch.chdir(patient.parent)
    by_files = {"flair": "patient/sub-p1_FLAIR.nii.gz", "t1": "patient/sub-p1_T1w.nii.gz"}
    subject = load_subject("patient") if how == "folder" else load_subject(**by_files)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_subject(**subject.source)
    assert torch.equal(again.image, subject.image)
    assert again.source == subject.source


def test_scaled_integers_load_as_the_values_they_stand_for(patient: Path) -> None:
    plain = load_subject(patient).image
    path = file_of(patient, "FLAIR")
    image = nibabel.load(path)
    stored = np.asanyarray(image.dataobj)
    scaled = nibabel.Nifti1Image(stored, image.affine, image.header)
    scaled.header.set_slope_inter(2.0, 0.0)
    nibabel.save(scaled, path)
    assert torch.allclose(load_subject(patient).image, plain, atol=1e-5)


def test_other_voxel_sizes_are_told_and_nothing_is_resampled(tmp_path: Path) -> None:
    affine = AFFINE @ np.diag([1, 1, 3, 1])
    for name in ("FLAIR", "T1"):
        write_image(tmp_path / f"{name}.nii.gz", np.random.default_rng(0).normal(size=SHAPE), affine)
    with pytest.warns(UserWarning, match=r"1\.00 x 1\.00 x 3\.00 mm.*Nothing was resampled"):
        assert load_subject(tmp_path).shape == SHAPE


def test_the_published_layout_loads_as_it_lies_and_visits_have_their_own_names(tmp_path: Path) -> None:
    """ROOT/<subject>/<session>/<file name per modality>, the same names everywhere."""
    for visit in ("ses-1", "20240305"):
        write_patient(tmp_path / visit, side=16, spots={})
        folder = tmp_path / "root" / "p07" / visit
        folder.mkdir(parents=True)
        for old, new in (("FLAIR", "FLAIR.nii.gz"), ("T1w", "MPRAGE_reg.nii.gz"), ("label-lesion_mask", "mask.nii.gz")):
            (tmp_path / visit / f"sub-p1_{old}.nii.gz").rename(folder / new)
    names = [load_subject(tmp_path / "root" / "p07" / visit).name for visit in ("ses-1", "20240305")]
    assert names == ["p07ses1", "p0720240305"]
    with pytest.raises(ValueError, match=r"must hold one flair image, .*p07 holds 2"):
        load_subject(tmp_path / "root" / "p07")


def test_maps_written_below_the_patient_are_not_taken_for_scans(patient: Path) -> None:
    made = patient / "ies-out"
    write_image(made / "sub-p1" / "anat" / "sub-p1_desc-gradcamL001_FLAIR.nii.gz", np.ones(SHAPE))
    (made / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "ies-helpers"}]}')
    assert load_subject(patient).shape == SHAPE


# What is wrong


def test_images_of_different_shape_are_refused(patient: Path) -> None:
    write_image(file_of(patient, "T1w"), np.random.default_rng(0).normal(size=(24, 24, 23)))
    refused(patient, r"FLAIR and T1 must lie on one grid, got \(24, 24, 24\) and \(24, 24, 23\); resample")


def test_images_of_different_affine_are_refused_and_rounding_is_not(patient: Path) -> None:
    scan = np.random.default_rng(0).normal(size=SHAPE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.0009
    write_image(file_of(patient, "T1w"), scan, shifted)
    assert load_subject(patient).shape == SHAPE
    shifted[0, 3] += 0.5
    write_image(file_of(patient, "T1w"), scan, shifted)
    refused(patient, r"on one grid, their voxels lie up to 0\.501 mm apart; resample")


def test_a_four_dimensional_file_is_refused(patient: Path) -> None:
    write_image(file_of(patient, "FLAIR"), np.ones((*SHAPE, 2)))
    refused(
        patient,
        r"FLAIR image must have 3 axes, sub-p1_FLAIR\.nii\.gz has \(24, 24, 24, 2\), 2 volumes; save one volume",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_refused(patient: Path, value: float) -> None:
    scan = np.random.default_rng(0).normal(size=SHAPE)
    scan[3, 4, :5] = value
    write_image(file_of(patient, "T1w"), scan)
    refused(patient, "T1 image must be finite, sub-p1_T1w.nii.gz has 5 NaN or infinite voxels")


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_refused(patient: Path, value: int) -> None:
    write_image(file_of(patient, "FLAIR"), np.full(SHAPE, value, dtype=np.int16))
    refused(patient, "FLAIR image must vary over its non-zero voxels, sub-p1_FLAIR.nii.gz is constant")


@pytest.mark.parametrize(("suffix", "left"), [("FLAIR", "t1"), ("T1w", "flair")])
def test_a_folder_of_one_channel_loads_and_the_shipped_network_says_which_it_lacks(patient, suffix, left) -> None:
    both = load_subject(patient)
    file_of(patient, suffix).unlink()
    alone = load_subject(patient)
    assert alone.channels == (left,)
    assert torch.equal(alone.image[0], both.image[both.channels.index(left)])
    lacks = {"flair": "t1", "t1": "flair"}[left]
    with pytest.raises(ValueError, match=f"takes flair, t1; p1 has {left} and lacks {lacks}: give it, as --image"):
        alone.with_channels(("flair", "t1"))


def test_a_folder_without_a_channel_is_refused(patient: Path) -> None:
    file_of(patient, "FLAIR").unlink()
    file_of(patient, "T1w").rename(patient / "scan.nii.gz")
    refused(
        patient,
        "has no file named like flair, t1, t2, pd, t1c, ct among scan.nii.gz, .*Name the files",
        FileNotFoundError,
    )


def add_channel(patient: Path, suffix: str, shape: tuple[int, ...] = SHAPE, seed: int = 3) -> Path:
    return write_image(file_of(patient, suffix), np.random.default_rng(seed).normal(size=shape))


def test_a_folder_loads_every_channel_it_holds_and_a_network_takes_its_own(patient: Path) -> None:
    two = load_subject(patient)
    add_channel(patient, "PDw")
    add_channel(patient, "T2w", seed=4)
    four = load_subject(patient)
    assert four.channels == ("flair", "t1", "t2", "pd")
    assert torch.equal(four.with_channels(two.channels).image, two.image)
    t2 = np.random.default_rng(4).normal(size=SHAPE)
    assert torch.allclose(four.image[2], torch.from_numpy((t2 - t2.mean()) / t2.std()).float(), atol=1e-5)
    assert four.source == two.source


EXTRA = {
    "another grid": (lambda patient: add_channel(patient, "T2w", (24, 24, 23)), r"got \(24, 24, 24\) and"),
    "four axes": (lambda patient: add_channel(patient, "T2w", (*SHAPE, 2)), "must have 3 axes"),
    "no image": (lambda patient: file_of(patient, "T2w").write_text("<html>"), "not readable"),
    "two": (lambda patient: [add_channel(patient, s) for s in ("T2w", "run-2_T2w")], "holds 2"),
}


@pytest.mark.parametrize("what", EXTRA)
def test_a_channel_that_cannot_join_the_papers_two_is_left_out_and_said(patient: Path, what: str) -> None:
    two = load_subject(patient)
    EXTRA[what][0](patient)
    with pytest.warns(UserWarning, match=f"T2 .*is left out.*{EXTRA[what][1]}"):
        again = load_subject(patient)
    assert torch.equal(again.image, two.image)
    for suffix in ("FLAIR", "T1w"):
        file_of(patient, suffix).unlink()
    refused(patient, EXTRA[what][1].replace(r"got \(24, 24, 24\) and", r"lie on one grid, got \(24, 24, 23\)"))


@pytest.mark.parametrize("kind", ["FLAIR", "T1w", "label-lesion_mask"])
def test_two_candidates_for_one_image_are_refused(patient: Path, kind: str) -> None:
    shutil.copy(file_of(patient, kind), patient / f"sub-p1_run-2_{kind.removeprefix('label-')}.nii.gz")
    refused(patient, r"must hold one \w+ image, .* holds 2 .*name a smaller folder, or the files")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["FLAIR", "label-lesion_mask"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(patient: Path, kind: str, share: float, zipped: bool) -> None:
    path = file_of(patient, kind)
    content = path.read_bytes()
    if not zipped:
        path.unlink()
        content, path = gzip.decompress(content), path.with_suffix("")
    path.write_bytes(content[: int(len(content) * share)])
    refused(patient, r"must be (a NIfTI file|whole), .*sub-p1.*(not readable|truncated or damaged)")


def test_a_file_whose_check_sum_is_wrong_is_refused(patient: Path) -> None:
    path = file_of(patient, "FLAIR")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    refused(patient, "FLAIR image must be whole, .*CRC check failed")


def test_a_file_that_is_no_nifti_is_refused(patient: Path) -> None:
    path = file_of(patient, "FLAIR")
    path.write_text("<html>Please log in</html>")
    refused(patient, "FLAIR image must be a NIfTI file, .* is not readable as one")
    path.write_bytes(gzip.compress(b"<html>Please log in</html>"))
    refused(patient, "FLAIR image must be a NIfTI file, .* is not readable as one")


@pytest.mark.parametrize("name", ["scanner/IM1.dcm", "scanner/IM1"])
def test_dicom_is_sent_to_a_converter(patient: Path, name: str) -> None:
    (patient / "scanner").mkdir()
    (patient / name).write_bytes(bytes(128) + b"DICM" + bytes(64))
    assert load_subject(patient).name == "p1"  # what is there as NIfTI is taken
    rule = r"is DICOM; convert it first \(dcm2niix -z y -f %p_%s .*\)\.$"
    with pytest.raises(ValueError, match=f"T1 image must be a NIfTI file, .*IM1.* {rule}"):
        load_subject(flair=file_of(patient, "FLAIR"), t1=patient / name)
    for path in patient.glob("*.nii.gz"):
        path.unlink()
    refused(patient, f"as NIfTI, .*{name} {rule}", FileNotFoundError)


def test_another_format_of_nibabel_is_named_as_such(patient: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.GiftiImage(), tmp_path / "scan.gii")
    with pytest.raises(ValueError, match=r"must be a NIfTI file, scan\.gii is another format"):
        load_subject(flair=tmp_path / "scan.gii", t1=file_of(patient, "T1w"))


HEADERS = {"datatype": (70, 99), "colours": (70, 128), "complex": (70, 32), "sides": (42, 32000)}


@pytest.mark.parametrize("mistake", HEADERS)
def test_a_header_that_lies_is_refused(patient: Path, mistake: str) -> None:
    """One two-byte field is overwritten: a type nobody knows, colours, complex numbers, a side of 32000 voxels."""
    place, value = HEADERS[mistake]
    path = file_of(patient, "FLAIR")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[place : place + 2] = value.to_bytes(2, "little")
    content[72:74] = {"colours": 24, "complex": 64}.get(mistake, 16).to_bytes(2, "little")
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ValueError, match=r"FLAIR image must (be a NIfTI file|be whole|hold one real number a voxel), "):
        load_subject(flair=path, t1=path)


def test_an_affine_that_cannot_be_inverted_is_refused(patient: Path) -> None:
    path = file_of(patient, "FLAIR")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:296] = bytes(16)  # srow_x
    path.write_bytes(gzip.compress(bytes(content)))
    refused(patient, "must have an invertible affine, sub-p1_FLAIR.nii.gz has none; mend its header")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            (0, 1, 2),
            r"must say which of its labels is lesion, .* holds 1 \(\d+ voxels in \d+ pieces?\), 2 .*--target-label",
        ),
        ((0, 0.5), "none above 0.5, its largest value is 0.5; take another target_threshold"),
        ((0, -1), "no number below 0, .* holds -1; write 0"),
        ((0, 300.5), "whole numbers or probabilities, .* holds others, from 0 to 300"),
    ],
)
def test_a_target_that_can_be_read_in_two_ways_or_none_is_refused(patient: Path, labels: tuple, told: str) -> None:
    values = np.resize(np.asarray(labels, dtype=np.float32), SHAPE)
    write_image(file_of(patient, "label-lesion_mask"), values)
    refused(patient, told)


def masked(subject: Subject) -> torch.Tensor:
    """Its target, which it must have."""
    assert subject.target is not None
    return subject.target


def test_how_a_target_is_read_is_chosen_told_and_remembered(patient: Path) -> None:
    mask = masked(load_subject(patient))
    half = torch.where(torch.arange(24)[:, None, None] < 12, mask.int(), 2 * mask.int())
    write_image(file_of(patient, "label-lesion_mask"), half.numpy().astype(np.uint8))
    for label, wanted in ((2, half == 2), ("1,2", mask), ("instances", mask)):
        subject = load_subject(patient, target_label=label)
        assert torch.equal(masked(subject), wanted)
        assert (subject.instances is None) == (label != "instances")
        again = load_subject(**subject.source)
        assert torch.equal(masked(again), wanted)
        assert again.source == subject.source == {"subject": str(patient), "target_label": label}
    numbers = load_subject(patient, target_label="instances").instances
    assert numbers is not None
    assert torch.equal(numbers, half)
    known = finding.replace(finding.find_subject(patient), label=1)
    with pytest.warns(UserWarning, match="label 1 is taken for lesion, and 2 left aside"):
        subject = loading._read(known)
    assert torch.equal(masked(subject), half == 1)
    assert "label 1 is taken for lesion" in " ".join(subject.notes)
    files = {"flair": file_of(patient, "FLAIR"), "target": file_of(patient, "label-lesion_mask")}
    assert torch.equal(masked(load_subject(**files, target_threshold=1.5)), half == 2)
    assert finding.find_subject(patient, target_label=2).name == "p1"


def test_a_choice_without_a_target_to_read_is_refused(patient: Path) -> None:
    with pytest.raises(ValueError, match="The target of demo is a mask of 0 and 1, got target_label; leave it out"):
        load_subject("demo", target_label=1)
    file_of(patient, "label-lesion_mask").unlink()
    with pytest.raises(ValueError, match=r"target_threshold says how a target is read, p1 has none, got 0\.3; give a"):
        load_subject(patient, target_threshold=0.3)


def test_the_majority_of_raters_in_a_folder_is_a_target(patient: Path) -> None:
    mask = masked(load_subject(patient))
    drawn = [mask.numpy().copy() for _ in range(3)]
    drawn[0][:12], drawn[1][12:] = False, False
    file_of(patient, "label-lesion_mask").unlink()
    for n, one in enumerate(drawn, 1):
        write_image(patient / f"lesion_rater{n}.nii.gz", one.astype(np.uint8))
    refused(patient, r"has rater1, rater2, rater3\. Name one, as rater=NAME .* or take what more .* as majority")
    with pytest.warns(UserWarning, match=rf"more than half of 3 raters drew, {int(mask.sum())} voxels"):
        subject = load_subject(patient, rater="majority")
    assert torch.equal(masked(subject), mask)
    assert subject.source == {"subject": str(patient), "rater": "majority"}
    assert torch.equal(masked(load_subject(patient, rater="rater2")), torch.from_numpy(drawn[1]))


def test_a_target_on_another_grid_is_refused(patient: Path) -> None:
    path = file_of(patient, "label-lesion_mask")
    write_image(path, np.zeros((24, 24, 25), dtype=np.uint8))
    refused(patient, r"FLAIR and target must lie on one grid, got \(24, 24, 24\) and \(24, 24, 25\)")
    write_image(path, np.zeros(SHAPE, dtype=np.uint8), np.eye(4))
    refused(patient, "FLAIR and target must lie on one grid, their voxels lie up to")


@pytest.mark.parametrize("arguments", [{"target": "m"}, {"subject": "p", "target": "m"}, {"subject": "p", "pd": "f"}])
def test_a_target_alone_or_a_name_and_files_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"one name, or the files .*; got {', '.join(arguments)}\."):
        load_subject(**arguments)


def test_any_channels_load_by_name_in_the_order_given_and_load_again(patient: Path) -> None:
    flair, t1 = file_of(patient, "FLAIR"), file_of(patient, "T1w")
    two, mask = load_subject(patient), file_of(patient, "label-lesion_mask")
    subject = load_subject(images={"dir": t1, "T2": flair}, target=mask)
    assert subject.channels == ("dir", "t2")
    assert torch.equal(subject.image, two.image.flip(0))
    assert subject.source == {"dir": str(t1), "t2": str(flair), "target": str(mask)}
    again = load_subject(**subject.source)
    assert torch.equal(again.image, subject.image)
    assert torch.equal(again.target, two.target)
    three = load_subject(images={"pd": flair}, t1=t1, flair=flair)
    assert three.channels == ("flair", "t1", "pd")
    with pytest.raises(ValueError, match="got t1 twice"):
        load_subject(images={"T1": t1}, t1=t1)
    with pytest.raises(ValueError, match="got dir, DIR"):
        load_subject(images={"dir": t1, "DIR": t1})
    with pytest.warns(UserWarning, match="are dir, t2; they are taken in the order t2, dir"):
        assert torch.equal(subject.with_channels(("t2", "dir")).image, two.image)


def test_one_of_several_raters_is_asked_for_by_name(patient: Path) -> None:
    found, mask = finding.find_subject(patient), file_of(patient, "label-lesion_mask")
    empty = write_image(patient / "other.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    two = finding.replace(found, target=None, targets={"mask1": mask, "mask2": empty})
    assert two.files == (*found.images.values(), mask, empty)
    assert finding.of_rater(two, "mask2").target == empty
    with pytest.raises(ValueError, match=r"has mask1, mask2\. Name one, as rater=NAME \(--rater NAME"):
        finding.of_rater(two)
    with pytest.raises(ValueError, match=r"has mask1, mask2, got mask3\. Name one"):
        finding.of_rater(two, "mask3")
    for words in ({"subject": "demo"}, {"flair": file_of(patient, "FLAIR")}):
        with pytest.raises(ValueError, match="A rater is one of those whose masks lie in a folder"):
            load_subject(**words, rater="mask1")


def test_a_new_source_is_a_row(patient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry: it is loaded, found, told from a folder, prepared, and named where a word belongs to none."""
    asked: list[str] = []
    row = loading.Source(
        words="clinic:NUMBER",
        claims=lambda word: word.startswith("clinic:"),
        find=lambda word: layouts.Found(word.replace(":", "")),
        load=lambda word: loading.replace(load_subject(patient), name=word.replace(":", "")),
        prepare=asked.append,
    )
    monkeypatch.setitem(loading.SOURCES, "clinic", row)
    subject = load_subject("clinic:7")
    assert (subject.name, subject.source) == ("clinic7", {"subject": "clinic:7"})
    assert torch.equal(load_subject(**subject.source).image, subject.image)
    assert loading.find_subject("clinic:7").name == "clinic7"
    loading.source_of("clinic:7").prepare("clinic:7")
    assert asked == ["clinic:7"]
    assert [loading.is_word(w) for w in ("clinic:7", "demo", "openms:x", str(patient), "p*")] == [1, 1, 1, 0, 0]
    with pytest.raises(FileNotFoundError, match=r"openms:patientNN, .*, clinic:NUMBER or a folder .* no folder nobody"):
        load_subject("nobody")


def test_a_file_that_is_not_there_is_named(patient: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"The T1 image must be a file, there is none at .*none\.nii"):
        load_subject(flair=file_of(patient, "FLAIR"), t1=patient / "none.nii")


def mirrored(mirror: Path) -> None:
    """Copies of the data sets' records, of the one archive and of the single files, in their own layout, small."""
    wmh = "wmh2017/training/Utrecht/0"
    beside = wmh.replace("wmh2017", "wmh2017/additional_annotations/observer_o3")
    scans = [f"mslesseg/train/P1/T1/P1_T1_{kind}" for kind in ("FLAIR", "T1")]
    scans += [f"mslesseg/train/P1/T2/P1_T2_{kind}" for kind in ("FLAIR", "T1")]
    scans += ["mslesseg/test/P54/P54_FLAIR", "mslesseg/test/P54/P54_T1", f"{wmh}/pre/FLAIR", f"{wmh}/pre/T1"]
    masks = ["mslesseg/train/P1/T1/P1_T1_MASK", "mslesseg/test/P54/P54_MASK", f"{wmh}/wmh", f"{beside}/result"]
    for n, path in enumerate([*scans, f"{wmh}/pre/3DT1", f"{wmh}/orig/FLAIR"]):
        write_image(mirror / f"{path}.nii.gz", 10 * n + np.arange(64, dtype=np.float32).reshape(4, 4, 4))
    for n, path in enumerate(masks):
        write_image(mirror / f"{path}.nii.gz", (np.arange(64) == n).astype(np.uint8).reshape(4, 4, 4))
    archive = mirror / "mslesseg" / "MSLesSeg Dataset.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted((mirror / "mslesseg").rglob("*.nii.gz")):
            made.write(path, f"MSLesSeg Dataset/{path.relative_to(mirror / 'mslesseg').as_posix()}")
        made.writestr("MSLesSeg Dataset/info_dataset/clinical_data.csv", "P1")
    facts = {"name": archive.name, "size": archive.stat().st_size, "download_url": "https://nowhere.invalid/1"}
    facts["computed_md5"] = hashlib.md5(archive.read_bytes()).hexdigest()
    (archive.parent / "record.json").write_text(json.dumps({"files": [facts]}))
    files = []
    for n, path in enumerate(sorted((mirror / "wmh2017").rglob("*.nii.gz"))):
        sums = {"type": "SHA-1", "value": hashlib.sha1(path.read_bytes()).hexdigest()}
        place = path.parent.relative_to(mirror / "wmh2017").as_posix()
        data = {"id": n, "filesize": path.stat().st_size, "checksum": sums}
        files.append({"label": path.name, "directoryLabel": place, "dataFile": data})
    (mirror / "wmh2017" / "record.json").write_text(json.dumps({"data": {"latestVersion": {"files": files}}}))


def test_open_data_is_read_by_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the shipped registry, from a mirror on disk: which file became which, verified and as laid out."""
    mirrored(tmp_path / "mirror")
    monkeypatch.setenv("IES_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "cache"))
    ms3seg = tmp_path / "cache/ms3seg/MS_100_patient_nifti/001"
    write_image(ms3seg / "001_FLAIR.nii.gz", 100 + np.arange(64, dtype=np.float32).reshape(4, 4, 4))
    write_image(ms3seg / "001_T1WI_reg.nii.gz", 110 + np.arange(64, dtype=np.float32).reshape(4, 4, 4))
    wanted = {
        "mslesseg:P1/T2": (20, None),
        "mslesseg:P1/T1": (0, 0),
        "mslesseg:P54": (40, 1),
        "ms3seg:001": (100, None),
    }
    wanted["wmh2017:training/Utrecht/0"] = (60, 2)
    for word, (first, lesion) in wanted.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            subject = load_subject(word)
        assert subject.raw is not None
        assert [float(values.min()) for values in subject.raw] == [first, first + 10]
        assert subject.target is None if lesion is None else torch.nonzero(subject.target.flatten()) == lesion
        assert subject.name == finding.find_subject(word).name
        assert subject.source == {"subject": word}
        asked = [str(w.message) for w in told if "is under CC BY" in str(w.message)]
        assert len(asked) == (word in ("mslesseg:P1/T2", "wmh2017:training/Utrecht/0"))  # before a download, no other
        assert all("not for commercial use" in text for text in asked) == (word != "mslesseg:P1/T2")
    kept = sorted(path.name for path in (tmp_path / "cache/wmh2017/training").rglob("*.nii.gz"))
    assert kept == ["FLAIR.nii.gz", "T1.nii.gz", "wmh.nii.gz"]
    third = load_subject("wmh2017:training/Utrecht/0", rater="o3")
    assert torch.nonzero(third.target.flatten()) == 3


def test_one_file_in_place_of_a_folder_is_told_how_to_be_named(patient: Path) -> None:
    path = file_of(patient, "FLAIR")
    with pytest.raises(ValueError, match=rf"name this one, as --flair {re.escape(str(path))}"):
        load_subject(path)


@pytest.mark.parametrize("name", ["nobody", "openms:", "Demo"])
def test_an_unknown_subject_is_told_what_there_is(name: str) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=f"demo, phantom:SEED, openms:patientNN, mslesseg:P1/T1, .* or a folder .* no folder {name}",
    ):
        load_subject(name)


def test_a_wrong_number_after_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="named by its seed, as phantom:7; got 'phantom:x'"):
        load_subject("phantom:x")
    with pytest.raises(ValueError, match=re.escape("'openms:patient99' is no name to fetch: try openms:patient")):
        load_subject("openms:patient99")


def test_the_spots_of_the_scenes_lie_where_they_say(tmp_path: Path) -> None:
    subject = load_subject(write_patient(tmp_path))
    assert subject.target is not None
    assert {g: bool(subject.target[c]) for g, c in SPOTS.items()} == {"TP": True, "FP": False, "FN": True}
    assert {g: bool(subject.image[0][c] > 5) for g, c in SPOTS.items()} == {"TP": True, "FP": True, "FN": False}


# What is told


def warned(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_subject(folder)
    return [str(warning.message) for warning in caught if "networks" in str(warning.message)]


TURNED = {"LAS": (-1, 1, 1), "RAS": (1, 1, 1), "LPS": (-1, -1, 1), "RAI": (1, 1, -1)}


@pytest.mark.parametrize("axes", TURNED)
def test_axes_that_no_shipped_network_was_trained_on_are_told(tmp_path: Path, axes: str) -> None:
    for name in ("FLAIR", "T1"):
        values = np.random.default_rng(0).normal(size=(8, 8, 8))
        write_image(tmp_path / f"{name}.nii.gz", values, np.diag([*TURNED[axes], 1]).astype(float))
    told = warned(tmp_path)
    assert [f"run to {', '.join(axes)}; the networks were trained on L, A, S" in text for text in told] == (
        [] if axes in ("LAS", "RAS") else [True]
    )


def test_voxel_axes_that_are_not_square_are_told_and_a_turned_head_is_not(tmp_path: Path) -> None:
    """A tilted gantry shears, tan 15 degrees a slice; a head turned by three angles, rounded to float32, does not."""
    sheared = np.eye(4)
    sheared[1, 2] = np.tan(np.radians(15))
    turned = np.eye(4)
    turned[:3, :3] = np.float32(Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix())
    for name, affine in (("sheared", sheared), ("turned", turned), ("uneven", turned @ np.diag([1, 1.1, 0.9, 1]))):
        for modality in ("FLAIR", "T1"):
            values = np.random.default_rng(0).normal(size=(8, 8, 8))
            write_image(tmp_path / name / f"{modality}.nii.gz", values, affine)
    with pytest.warns(UserWarning, match=r"of sheared meet at 75 degrees and not at 90 .* resample onto a square grid"):
        load_subject(tmp_path / "sheared")
    for name in ("turned", "uneven"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            load_subject(tmp_path / name)
        assert not [w for w in told if "degrees" in str(w.message)]


@pytest.mark.parametrize(("litres", "told"), [(1.7, False), (2.6, True)])
def test_a_head_that_is_not_stripped_is_told(tmp_path: Path, litres: float, told: bool) -> None:
    """A block of tissue in air, at 4 mm so that it is small; the zeros around it do not count."""
    values = np.zeros((50, 50, 50), dtype=np.float32)
    count = round(litres * 1e6 / 64)
    values.reshape(-1)[:count] = np.random.default_rng(0).uniform(1, 2, count)
    for name in ("FLAIR", "T1"):
        write_image(tmp_path / f"{name}.nii.gz", values, np.diag([-4.0, 4, 4, 1]))
    found = [text for text in warned(tmp_path) if "skull-stripped" in text]
    assert len(found) == told
    assert not told or f"has {litres:.1f} litres of FLAIR that is not 0" in found[0]


def told_of(folder: Path, word: str) -> list[str]:
    """The remarks with a word in them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_subject(folder)
    return [str(warning.message) for warning in caught if word in str(warning.message)]


def changed(patient: Path, suffix: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A scan of a patient, written again."""
    path = file_of(patient, suffix)
    write_image(path, change(np.asanyarray(nibabel.load(path).dataobj).astype(np.float32)))


def test_a_background_that_is_not_0_is_told_and_gives_the_same_image(patient: Path) -> None:
    plain = load_subject(patient)
    assert plain.background == {"flair": "0", "t1": "0"}
    assert told_of(patient, "background") == []
    changed(patient, "FLAIR", lambda v: np.where(v == 0, np.nan, v))
    changed(patient, "T1w", lambda v: np.where(v == 0, -1024, v))
    (said,) = told_of(patient, "background")
    assert said.startswith("The background of p1 is not exactly 0: it is NaN in FLAIR, -1024 in T1.")
    again = load_subject(patient)
    assert torch.equal(again.image, plain.image)
    assert again.background == {"flair": "NaN", "t1": "-1024"}
    assert again.raw is not None
    assert (again.raw[0] == plain.raw[0]).all()
    assert again.raw[1].min() == -1024  # what a network that normalises by itself is given


def test_nan_in_the_brain_is_refused_though_the_background_is_nan(patient: Path) -> None:
    changed(patient, "T1w", lambda v: np.where((v == 0) | (np.indices(v.shape) // 2 == 6).all(axis=0), np.nan, v))
    refused(patient, "T1 image must be finite, sub-p1_T1w.nii.gz has 8 NaN or infinite voxels; mend it")


def test_every_channel_is_judged_and_not_the_first_alone(patient: Path, tmp_path: Path) -> None:
    """Volumes are those of 4 mm voxels: 0.3 litres of brain, in air that is not 0 a head of 2.6, and less than both."""
    large = np.diag([-4.0, 4, 4, 1])
    values = {s: np.asanyarray(nibabel.load(file_of(patient, s)).dataobj).astype("f4") for s in ("FLAIR", "T1w")}
    head = np.random.default_rng(0).uniform(20, 60, (36, 36, 36)).astype(np.float32)
    flair, t1 = (np.pad(v, 6) for v in values.values())
    cases = {
        "head": (flair, np.where(t1 > 0, t1, head), "has 3.0 litres of T1 that is not 0, more than a brain"),
        "scalp": (
            flair,
            np.where((t1 == 0) & ball(t1.shape, (18, 18, 18), 12.2), 80, t1),
            "either T1 is not skull-str",
        ),
        "cut": (flair, np.where(np.indices(t1.shape)[2] > 17, t1, 0), r"litres of FLAIR .* T1 is cut or nearly empty"),
        "mask": (flair, np.where(t1 > 100, 2, t1 > 0), "T1 of mask has 2 different values in 98 % of what is not 0"),
        "right": (flair, t1, None),
    }
    for name, (one, other, rule) in cases.items():
        write_image(tmp_path / name / "FLAIR.nii.gz", one.astype("f4"), large)
        write_image(tmp_path / name / "T1.nii.gz", other.astype("f4"), large)
        said = told_of(tmp_path / name, "not 0")
        assert len(said) == (rule is not None), name
        assert rule is None or re.search(rule, said[0])
        assert told_of(tmp_path / name, "swapped") == []


def test_one_file_for_two_channels_is_told(patient: Path) -> None:
    shutil.copy(file_of(patient, "FLAIR"), file_of(patient, "T1w"))
    (said,) = told_of(patient, "same values")
    assert said == "T1 of p1 holds the same values as FLAIR: one file seems to stand for both."


def test_nan_in_one_outer_slice_is_background(tmp_path: Path) -> None:
    """As programs that move a scan onto another leave it; five voxels at a side are damage."""
    values = np.random.default_rng(0).normal(100, 10, (60, 40, 40)).astype(np.float32)
    values[0] = np.nan
    write_image(tmp_path / "p_FLAIR.nii.gz", values)
    assert load_subject(tmp_path).background == {"flair": "NaN"}


def test_an_image_that_is_nearly_empty_is_refused(patient: Path) -> None:
    write_image(file_of(patient, "T1w"), np.where(np.arange(24**3) < 13, np.arange(24**3), 0.0).reshape(SHAPE))
    refused(patient, "T1 image must show a brain, sub-p1_T1w.nii.gz has 12 of 13824 voxels that are not background")


def test_flair_and_t1_that_are_swapped_are_told() -> None:
    demo = Path(finding.data_folder()) / "demo"
    flair, t1 = demo / "sub-demo_FLAIR.nii.gz", demo / "sub-demo_T1w.nii.gz"
    with pytest.warns(UserWarning, match="FLAIR and T1 of demo look as if they were swapped"):
        load_subject(flair=t1, t1=flair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_subject("demo")


def test_an_affine_with_nan_is_refused(patient: Path) -> None:
    path = file_of(patient, "FLAIR")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[292:296] = np.float32(np.nan).tobytes()  # the shift of srow_x
    path.write_bytes(gzip.compress(bytes(content)))
    refused(patient, r"must have an invertible affine, sub-p1_FLAIR\.nii\.gz has none; mend its header")


def test_two_sessions_of_a_bids_subject_have_two_names(tmp_path: Path) -> None:
    for visit in ("ses-1", "ses-02"):
        write_patient(tmp_path / visit, f"07_{visit}", side=16, spots={})
    names = [load_subject(tmp_path / visit).name for visit in ("ses-1", "ses-02")]
    assert names == ["07ses1", "07ses02"]
    found = finding.find_subject(str(tmp_path / "ses-1"))
    assert [path.name for path in found.files] == [
        f"sub-07_ses-1_{kind}.nii.gz" for kind in ("FLAIR", "T1w", "label-lesion_mask")
    ]


def test_names_are_known_without_loading_or_downloading() -> None:
    asked = ("demo", "phantom:007", "openms:patient26")
    assert [finding.find_subject(name).name for name in asked] == ["demo", "phantom7", "patient26"]
    assert finding.find_subject(flair="x/p1_FLAIR.nii", t1="x/p1_T1.nii").files == (
        Path("x/p1_FLAIR.nii"),
        Path("x/p1_T1.nii"),
    )
