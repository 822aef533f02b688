"""NIfTI files: opened without belief in what the header claims, judged, read to the check sum, written and renamed."""

import gzip
import logging
import math
import shlex
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger
from nibabel.spatialimages import HeaderDataError

from ies_helpers.arrays import spacing_of
from ies_helpers.subjects.files import replacing
from ies_helpers.subjects.subject import Subject

DEFLATE = 1032  # how many bytes one byte of a `.gz` can become at most
VOXEL_MM = (1e-3, 1e3)  # sides of a voxel that are believed, in mm
SQUARABLE = 1e15  # values above it, or a range below its inverse, have no standard deviation in float32
RESOLVED = 1e-3  # a range that is a smaller share of the largest value is too coarse in float32

# What nibabel raises for a file that is damaged, or is none of its own.
UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError, MemoryError, OverflowError)


def read_image(path: Path, what: str) -> nibabel.Nifti1Image:
    """A 3D NIfTI image, its values not yet read; `what` it is, as errors shall name it."""
    if not path.is_file():
        raise FileNotFoundError(f"The {what} image must be a file, there is none at {path}.")
    if is_dicom(path):
        remedy = conversion(path.absolute().parent)
        raise ValueError(f"The {what} image must be a NIfTI file, {path} is DICOM; {remedy}.")
    try:
        image = _open_nifti(path)
    except UNREADABLE as error:
        raise ValueError(f"The {what} image must be a NIfTI file, {path} is not readable as one ({error}).") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise ValueError(f"The {what} image must be a NIfTI file, {path.name} is another format; convert it.")
    if len(image.shape) != 3:
        raise ValueError(f"The {what} image must have 3 axes, {path.name} has {image.shape}; save one volume of it.")
    kind = np.dtype(image.get_data_dtype())
    if kind.kind not in "iuf":
        raise ValueError(f"The {what} image must hold one real number a voxel, {path.name} holds {kind}; convert it.")
    _check_header(image, path, what)
    return image


def _open_nifti(path: Path) -> Any:
    """What nibabel makes of a file; what it mends in the header on the way is a warning, not lines on stderr."""
    mended: dict[str, None] = {}
    listener = logging.Handler()
    listener.emit = lambda record: mended.setdefault(record.getMessage())
    kept, logger.handlers = logger.handlers, [listener]
    try:
        image = nibabel.load(path)
    finally:
        logger.handlers = kept
    if mended:
        warnings.warn(f"The header of {path.name} is not as it should be ({'; '.join(mended)}).", stacklevel=4)
    return image


def _check_header(image: nibabel.Nifti1Image, path: Path, what: str) -> None:
    """Refuse a geometry that cannot be, and more voxels than the file has room for, before memory is asked for them."""
    affine = np.asarray(image.affine, dtype=np.float64)
    sides = np.array(spacing_of(affine))
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * sides.prod()):
        raise ValueError(f"The {what} image must have an invertible affine, {path.name} has none; mend its header.")
    if not ((sides >= VOXEL_MM[0]) & (sides <= VOXEL_MM[1])).all():
        size = " x ".join(f"{side:.3g}" for side in sides)
        raise ValueError(f"The {what} image must have voxels in mm, {path.name} has {size}; mend its header.")
    room = path.stat().st_size * {".gz": DEFLATE, ".nii": 1}.get(path.suffix, math.inf)
    if not 0 < math.prod(map(int, image.shape)) * np.dtype(image.get_data_dtype()).itemsize <= room:
        why = f"truncated or damaged (its header announces {image.shape} voxels, which do not fit in it)"
        raise ValueError(f"The {what} image must be whole, {path.name} is {why}; copy it again.")


def read_values(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    """The values of an image from `read_image`, read to the file's end and its check sum."""
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
        met = f"{path.name} is truncated or damaged ({why})"
        raise ValueError(f"The {what} image must be whole, {met}; copy it again.") from error


def read_scan(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    """`(I, J, K)` float32 values of an image from `read_image`, fit to be z-scored."""
    path = Path(image.get_filename() or "")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is refused below
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
        raise ValueError(
            f"The {what} image must have values that can be z-scored, those of {path.name} run from {low:g} to "
            f"{high:g}; mend the scale factor in its header."
        )
    return values


def save_image(path: Path, values: np.ndarray, subject: Subject) -> None:
    """Write `(I, J, K)` values as NIfTI with the subject's affine and space, beside and renamed."""
    image = nibabel.Nifti1Image(values, subject.affine, subject.header)
    image.header.set_data_dtype(values.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = b""
    with replacing(path) as part:
        nibabel.save(image, part)


def is_dicom(path: Path) -> bool:
    """Whether a file is as scanners write it, by its name or by the mark behind its preamble."""
    try:
        with path.open("rb") as stream:
            return path.suffix.lower() == ".dcm" or stream.read(132)[128:] == b"DICM"
    except OSError:  # said when it is opened as an image
        return False


def conversion(folder: Path) -> str:
    """What to do with a folder of DICOM."""
    return f"convert it first (dcm2niix -z y -f %p_%s {shlex.quote(str(folder))})"
