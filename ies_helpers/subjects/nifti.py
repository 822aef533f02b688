"""Image files: opened without belief in what the header claims, judged, read to the check sum, written and renamed.

NIfTI-1 and -2, Analyze and MGH are read as nibabel reads them, what is written is NIfTI. Where a scan lies is nibabel's
rule, too: the sform where its code is above 0, else the qform, else axes to left, front and top about the centre.
"""

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
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.imageglobals import logger
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from ies_helpers.arrays import SAME_PLACE, apart_mm, spacing_of
from ies_helpers.subjects.files import one_line, replacing, stand_in
from ies_helpers.subjects.subject import Background, Subject, find_background

DEFLATE = 1032  # how many bytes one byte of a `.gz` can become at most
ROOM = {".gz": DEFLATE, ".mgz": DEFLATE, ".nii": 1, ".img": 1, ".mgh": 1}  # bytes of values in one of a file
VOXEL_MM = (1e-3, 1e3)  # sides of a voxel that are believed, in mm
SQUARABLE = 1e15  # values above it, or a range below its inverse, have no standard deviation in float32
EMPTY = 1e-3  # share of a volume that must be more than background
RESOLVED = 1e-3  # a range that is a smaller share of the largest value is too coarse in float32

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh", ".img.gz", ".img", ".hdr.gz", ".hdr")  # of files that can be images

# Formats that are not read here: how their files end, and what makes a NIfTI file of one.
CONVERTERS = {
    "NRRD": ((".nrrd", ".nhdr"), "c3d {file} -o {made}"),
    "MetaImage": ((".mha", ".mhd"), "c3d {file} -o {made}"),
    "MINC": ((".mnc", ".mnc.gz"), "mnc2nii {file} {made}"),
    "PAR/REC": ((".par", ".rec"), "dcm2niix -z y -f %p_%s {file}"),
    "AFNI": ((".head", ".brik", ".brik.gz"), "3dAFNItoNIFTI -prefix {made} {file}"),
}

# What nibabel raises for a file that is damaged, or is none of its own.
UNREADABLE = (
    *(ImageFileError, HeaderDataError, MGHError, EOFError, OSError, zlib.error),
    *(KeyError, ValueError, MemoryError, OverflowError),
)


def stem_of(name: str) -> str:
    """`p1_FLAIR` of `p1_FLAIR.nii.gz`, of `p1_FLAIR.MGZ` and the like."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def read_image(path: Path, what: str) -> nibabel.Nifti1Image:
    """One volume as a NIfTI image, its values not yet read; `what` it is, as errors shall name it.

    Of a 4D file with one volume it is that one.
    """
    _check_kind(path, what)
    try:
        image = _as_nifti(_open(path), path)
    except UNREADABLE as error:
        why = one_line(error) or type(error).__name__
        raise ValueError(f"The {what} image must be a NIfTI file, {path} is not readable as one ({why}).") from error
    if image is None:
        raise ValueError(f"The {what} image must be a NIfTI file, {path.name} is another format; convert it.")
    volumes = math.prod(image.shape[3:])
    if len(image.shape) < 3 or volumes != 1:
        many = f", {volumes} volumes" if volumes != 1 else ""
        raise ValueError(
            f"The {what} image must have 3 axes, {path.name} has {image.shape}{many}; save one volume of it "
            "(nibabel.four_to_three splits a file)."
        )
    if len(image.shape) > 3:
        filename = image.get_filename()
        values: Any = image.dataobj
        image = type(image)(values.reshape(image.shape[:3]), image.affine, image.header)
        image.file_map["image"].filename = filename
    kind = np.dtype(image.get_data_dtype())
    if kind.kind not in "iuf":
        raise ValueError(f"The {what} image must hold one real number a voxel, {path.name} holds {kind}; convert it.")
    _check_header(image, path, what)
    return image


def _check_kind(path: Path, what: str) -> None:
    """Refuse by name what is no file, was never fetched, or is of a format that another program must convert."""
    if not path.is_file():
        link = stand_in(path) if path.is_symlink() and not path.exists() else None
        met = f"{path} is {link}" if link else f"there is none at {path}"
        raise FileNotFoundError(f"The {what} image must be a file, {met}.")
    rule = f"The {what} image must be a NIfTI file, {path}"
    if other := other_format(path):
        raise ValueError(f"{rule} is {other}.")
    if pointer := stand_in(path):
        raise ValueError(f"{rule} is not readable as one ({pointer}).")


def other_format(path: Path) -> str | None:
    """Which format a file is of and how it is converted, where it is not read here."""
    if is_dicom(path):
        return f"DICOM; {conversion(path.absolute().parent)}"
    for kind, (endings, command) in CONVERTERS.items():
        if ending := next((ending for ending in endings if path.name.lower().endswith(ending)), None):
            made = f"{str(path)[: -len(ending)]}.nii.gz"
            command = command.format(file=shlex.quote(str(path)), made=shlex.quote(made))
            return f"{kind}; convert it first ({command})"
    return None


def _open(path: Path) -> Any:
    """What nibabel makes of a file; what is mended in the header on the way is a warning, not lines on stderr."""
    mended: dict[str, None] = {}
    listener = logging.Handler()
    listener.emit = lambda record: mended.setdefault(record.getMessage())
    kept, logger.handlers = logger.handlers, [listener]
    try:
        image = nibabel.load(path)
    except HeaderDataError as error:
        if "invalid intercept" not in str(error):
            raise
        image = _without_intercept(path)
        mended["scl_inter is no number; taken as 0"] = None
    finally:
        logger.handlers = kept
    if mended:
        warnings.warn(f"The header of {path.name} is not as it should be ({'; '.join(mended)}).", stacklevel=4)
    return image


def _without_intercept(path: Path) -> nibabel.Nifti1Pair:
    """A NIfTI image whose values are scaled by the slope alone; nibabel refuses one whose intercept is NaN."""
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair, nibabel.Nifti2Pair)
    kind = next(kind for kind in kinds if kind.path_maybe_image(path)[0])
    files = kind.filespec_to_file_map(str(path))
    with ImageOpener(str(files.get("header", files["image"]).filename)) as file:
        header = kind.header_class.from_fileobj(file)
    header["scl_inter"] = 0
    values, affine = ArrayProxy(str(files["image"].filename), header), header.get_best_affine()
    header.set_slope_inter(None, None)
    image = kind(values, affine, header)
    image.file_map["image"].filename = files["image"].filename
    return image


def _as_nifti(image: Any, path: Path) -> nibabel.Nifti1Image | None:
    """The same values and affine as one NIfTI image; of NIfTI, the same header; None of what is read nowhere here."""
    if isinstance(image, nibabel.Nifti1Image):  # and NIfTI-2, which descends from it
        return image
    if not isinstance(image, nibabel.AnalyzeImage | nibabel.MGHImage):  # NIfTI in two files descends from the first
        return None
    values = Path(image.file_map["image"].filename or path)
    if not values.is_file():
        raise OSError(f"it lies without {values.name}; copy both files")
    is_pair = isinstance(image, nibabel.Nifti1Pair)
    if not is_pair and not isinstance(image, nibabel.MGHImage):
        warnings.warn(
            f"{path.name} is Analyze, which does not say where left is: its axes are taken to run to "
            f"{', '.join(map(str, nibabel.aff2axcodes(image.affine)))}, as nibabel takes them. Look at a map before "
            "you trust its side.",
            stacklevel=4,
        )
    made = nibabel.Nifti1Image(image.dataobj, image.affine, image.header if is_pair else None)
    if not is_pair:
        made.set_sform(image.affine, 1)
        made.set_qform(image.affine, 1)
        made.header.set_xyzt_units("mm")
    made.file_map["image"].filename = str(values)
    return made


def place_note(image: nibabel.Nifti1Image, name: str) -> str | None:
    """A sentence where the header of an image from `read_image` names no place, or two; None where it names one."""
    affine = np.asarray(image.affine)
    sform, qform = (int(image.header[f"{kind}_code"]) > 0 for kind in ("sform", "qform"))
    if not (sform or qform):
        axes = ", ".join(map(str, nibabel.aff2axcodes(affine)))
        return (
            f"The header of {name} does not say where it lies (sform and qform are unknown): its axes are taken to run "
            f"to {axes}, about its centre, as nibabel takes them. Look at a map before you trust its side."
        )
    if not (sform and qform):
        return None
    try:
        other = np.asarray(image.header.get_qform())
    except UNREADABLE:
        return f"The qform of {name} is no geometry; its sform is taken."
    apart = apart_mm(affine, other, image.shape)
    if apart <= SAME_PLACE * min(spacing_of(affine)):
        return None
    mirrored = np.linalg.det(affine[:3, :3]) * np.linalg.det(other[:3, :3]) < 0
    how = f"{apart:.3g} mm apart{' and mirrored' if mirrored else ''}"
    return (
        f"The header of {name} names two places, sform and qform, up to {how}: the sform is taken, as nibabel does; "
        "other programs may take the qform."
    )


def _check_header(image: nibabel.Nifti1Image, path: Path, what: str) -> None:
    """Refuse a geometry that cannot be, and more voxels than the file has room for, before memory is asked for them."""
    affine = np.asarray(image.affine, dtype=np.float64)
    sides = np.array(spacing_of(affine))
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * sides.prod()):
        raise ValueError(f"The {what} image must have an invertible affine, {path.name} has none; mend its header.")
    if not ((sides >= VOXEL_MM[0]) & (sides <= VOXEL_MM[1])).all():
        size = " x ".join(f"{side:.3g}" for side in sides)
        raise ValueError(f"The {what} image must have voxels in mm, {path.name} has {size}; mend its header.")
    data = Path(image.get_filename() or path)
    if not data.is_file():
        raise FileNotFoundError(
            f"The {what} image must be whole, {path.name} lies without {data.name}; copy both files."
        )
    room = data.stat().st_size * ROOM.get(data.suffix.lower(), math.inf)
    if not 0 < math.prod(map(int, image.shape)) * np.dtype(image.get_data_dtype()).itemsize <= room:
        why = f"truncated or damaged (its header announces {image.shape} voxels, which do not fit in it)"
        raise ValueError(f"The {what} image must be whole, {path.name} is {why}; copy it again.")


def read_values(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    """The values of an image from `read_image`, read to the file's end and its check sum."""
    path = Path(image.get_filename() or "")
    try:
        values = np.asanyarray(image.dataobj)
        if path.suffix.lower() in (".gz", ".mgz"):
            with gzip.open(path) as stream:
                while stream.read(2**20):  # to its end, where the check sum is
                    pass
        return values
    except UNREADABLE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        met = f"{path.name} is truncated or damaged ({why})"
        raise ValueError(f"The {what} image must be whole, {met}; copy it again.") from error


def read_scan(image: nibabel.Nifti1Image, what: str) -> tuple[np.ndarray, Background]:
    """`(I, J, K)` float32 values of an image from `read_image`, fit to be z-scored, and their background; NaN is 0."""
    path = Path(image.get_filename() or "")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is refused below
        values = read_values(image, what).astype(np.float32)
    background = None if np.isinf(values).any() else find_background(values)
    amiss = ~np.isfinite(values) & ~(background.outside if background else np.zeros_like(values, dtype=bool))
    if background is None or amiss.any():
        bad = f"{int(amiss.sum())} NaN or infinite voxels"
        raise ValueError(f"The {what} image must be finite, {path.name} has {bad}; mend it.")
    values[np.isnan(values)] = 0
    inside = values[~background.outside]
    if inside.size == 0 or inside.min() == inside.max():
        raise ValueError(f"The {what} image must vary over its non-zero voxels, {path.name} is constant.")
    if inside.size < EMPTY * values.size:
        met = f"{path.name} has {inside.size} of {values.size} voxels that are not background"
        raise ValueError(f"The {what} image must show a brain, {met}: it is nearly empty; give another file.")
    low, high = float(inside.min()), float(inside.max())
    largest = max(-low, high)
    if largest > SQUARABLE or high - low < max(1 / SQUARABLE, RESOLVED * largest):
        raise ValueError(
            f"The {what} image must have values that can be z-scored, those of {path.name} run from {low:g} to "
            f"{high:g}; mend the scale factor in its header."
        )
    return values, background


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
