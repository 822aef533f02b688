"""NIfTI files, a folder or a name -> a `Subject` that a network can read, or one sentence that says why not."""

import gzip
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ies_helpers.resources import data_folder
from ies_helpers.subjects.downloads import fetch
from ies_helpers.subjects.finding import Found, conversion, find_subject, is_dicom
from ies_helpers.subjects.headers import check_header, open_nifti
from ies_helpers.subjects.phantom import phantom
from ies_helpers.subjects.subject import MODALITIES, Subject, normalise
from ies_helpers.types import LabelMap

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, at which two affines count as the same."""

SPACING_TOLERANCE = 0.15
"""Difference from 1 mm, in mm, from which on it is told."""

SQUARE_TOLERANCE = 0.01
"""Largest cosine of the angle between two voxel axes that count as square; rounding in a header leaves 0.0001."""

ORIENTATIONS = ("LAS", "RAS")
"""Where the voxel axes of the scans that the shipped networks were trained on run to; left and right were swapped."""

LARGEST_BRAIN = 2.2
"""Litres with ventricles and sulci; a head has twice as much."""

SQUARABLE = 1e15
"""Values above it, or a range below its inverse, have no standard deviation in float32."""

RESOLVED = 1e-3
"""A range that is a smaller share of the largest value is too coarse in float32."""

UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError, MemoryError, OverflowError)
"""What nibabel raises for a file that is damaged, or is none of its own."""


def load_subject(
    subject: str | Path | None = None,
    *,
    flair: str | Path | None = None,
    t1: str | Path | None = None,
    target: str | Path | None = None,
) -> Subject:
    """Load one patient: FLAIR, T1 and, where there is one, the lesions an expert drew.

    Args:
        subject: `demo` (shipped), `phantom:SEED` (made on the spot), `openms:patientNN` (downloaded once), or a
            folder, plain or BIDS, that holds one FLAIR, one T1 and at most one lesion mask; also
            `ROOT/<subject>/<session>` with one file a modality, as the paper's scripts want it.
        flair, t1, target: files by name, instead of `subject`.

    Returns:
        The subject on the scan's own grid, each channel z-scored over its non-zero voxels.

    Raises:
        ValueError: files that do not fit together or cannot be read as what they should be.
        FileNotFoundError: a missing file or modality.
    """
    named = {"subject": subject, "flair": flair, "t1": t1, "target": target}
    source = {key: str(value) for key, value in named.items() if value is not None}
    found = find_subject(**source)
    if flair:
        loaded = _read(found.name, *found.files)
        return replace(loaded, source={key: str(Path(path).absolute()) for key, path in source.items()})
    name = str(subject or "demo")
    where = str(Path(name).absolute()) if Path(name).is_dir() and name != "demo" else name
    return replace(_by_name(name, found), source={"subject": where})


def _by_name(name: str, found: Found) -> Subject:
    if name == "demo":
        folder = data_folder() / "demo"
        files = [folder / f"sub-demo_{suffix}.nii.gz" for suffix in ("FLAIR", "T1w", "label-lesion_mask")]
        return _read("demo", *files)
    if name.startswith("phantom:"):
        return phantom(int(name.removeprefix("phantom:")))
    if not found.files:
        files = fetch(name)
        return _read(found.name, files["flair"], files["t1"], files["target"])
    return _read(found.name, *found.files)


def _read(name: str, flair: Path, t1: Path, target: Path | None = None) -> Subject:
    images = {"FLAIR": read_image(flair, "FLAIR"), "T1": read_image(t1, "T1")}
    first = images["FLAIR"]
    _check_same_grid(first, images["T1"], "T1")
    raw = np.stack([_values(image, modality) for modality, image in images.items()])
    affine = np.asarray(first.affine, dtype=np.float64)
    truth = None if target is None else _target(read_image(target, "target"), first)
    subject = Subject(name, normalise(raw), affine, MODALITIES, truth, first.header)
    for remark in remarks(subject):
        warnings.warn(remark, stacklevel=3)
    return subject


def read_image(path: Path, what: str) -> nibabel.Nifti1Image:
    """A 3D NIfTI image, its values not yet read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NIfTI image or has other than three axes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The {what} image must be a file, there is none at {path}.")
    if is_dicom(path):
        raise ValueError(
            f"The {what} image must be a NIfTI file, {path} is DICOM; {conversion(path.absolute().parent)}."
        )
    try:
        image = open_nifti(path)
    except UNREADABLE as error:
        raise ValueError(f"The {what} image must be a NIfTI file, {path} is not readable as one ({error}).") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise ValueError(f"The {what} image must be a NIfTI file, {path.name} is another format; convert it.")
    if len(image.shape) != 3:
        raise ValueError(f"The {what} image must have 3 axes, {path.name} has {image.shape}; save one volume of it.")
    kind = np.dtype(image.get_data_dtype())
    if kind.kind not in "iuf":
        raise ValueError(f"The {what} image must hold one real number a voxel, {path.name} holds {kind}; convert it.")
    check_header(image, path, what)
    return image


def remarks(subject: Subject) -> list[str]:
    """One sentence for each way in which a scan is unlike those that the shipped networks were trained on."""
    told, axes = [], [str(axis) for axis in nibabel.aff2axcodes(subject.affine)]
    if max(abs(s - 1) for s in subject.spacing) > SPACING_TOLERANCE:
        sides = " x ".join(f"{s:.2f}" for s in subject.spacing)
        told.append(
            f"{subject.name} has voxels of {sides} mm; the networks were trained at 1 mm, so sizes in voxels, window "
            "extents and distances mean something else here, and predictions may be poor. Nothing was resampled."
        )
    along = subject.affine[:3, :3] / np.linalg.norm(subject.affine[:3, :3], axis=0)
    cosine = float(np.abs(along.T @ along - np.eye(3)).max())
    if cosine > SQUARE_TOLERANCE:
        told.append(
            f"The voxel axes of {subject.name} meet at {np.degrees(np.arccos(cosine)):.0f} degrees and not at 90 (a "
            "tilted gantry?); distances in mm are taken as if they did, and are wrong. Nothing was resampled; "
            "resample onto a square grid."
        )
    if "".join(axes) not in ORIENTATIONS:
        told.append(
            f"The axes of {subject.name} run to {', '.join(axes)}; the networks were trained on L, A, S and may find "
            "less in a turned brain. Nothing was turned; nibabel.as_closest_canonical turns a file."
        )
    litres = float((subject.image[0] != 0).sum()) * abs(float(np.linalg.det(subject.affine[:3, :3]))) / 1e6
    if litres > LARGEST_BRAIN:
        told.append(
            f"{subject.name} has {litres:.1f} litres of FLAIR that is not 0, more than a brain: it seems not to be "
            "skull-stripped. Its z-scores are then those of a head, and the networks know brains only; strip it first."
        )
    return told


def _values(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    path = Path(image.get_filename() or "")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is told below
        values = read_values(image, what).astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"The {what} image must be finite, {path.name} has {bad} NaN or infinite voxels; mend it.")
    inside = values[values != 0]
    if inside.size == 0 or inside.min() == inside.max():
        raise ValueError(f"The {what} image must vary over its non-zero voxels, {path.name} is constant.")
    low, high = float(inside.min()), float(inside.max())
    largest = max(-low, high)
    if largest > SQUARABLE or high - low < max(1 / SQUARABLE, RESOLVED * largest):
        told = f"from {low:g} to {high:g}; mend the scale factor in its header"
        raise ValueError(f"The {what} image must have values that can be z-scored, those of {path.name} run {told}.")
    return values


def read_values(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    """The values of an image from `read_image`, read to the file's end and its check sum.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    path = Path(image.get_filename() or "")
    try:
        values = np.asanyarray(image.dataobj)
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(2**20):  # to its end, where the check sum is
                    pass
        return values
    except UNREADABLE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"The {what} image must be whole, {path.name} is truncated or damaged ({why}); copy it again."
        ) from error


def _target(image: nibabel.Nifti1Image, reference: nibabel.Nifti1Image) -> LabelMap:
    _check_same_grid(reference, image, "target")
    path = Path(image.get_filename() or "")
    values = read_values(image, "target")
    labels = np.unique(values)
    if not np.isin(labels, (0, 1)).all():
        some = ", ".join(f"{v:g}" for v in labels[:6])
        raise ValueError(f"A target must hold 0 and 1 only, {path.name} holds {some}; keep the lesion label as 1.")
    return torch.from_numpy(values == 1)


def _check_same_grid(first: nibabel.Nifti1Image, other: nibabel.Nifti1Image, what: str) -> None:
    if first.shape != other.shape:
        raise ValueError(
            f"FLAIR and {what} must share their grid, got shapes {first.shape} and {other.shape}; "
            "resample one onto the other first."
        )
    difference = float(np.abs(np.asarray(first.affine) - np.asarray(other.affine)).max())
    if not difference <= AFFINE_TOLERANCE:
        raise ValueError(
            f"FLAIR and {what} must share their affine, they differ by up to {difference:.3g} mm; "
            "resample one onto the other first."
        )
