"""NIfTI files, a folder or a name -> a `Subject` that a network can read, or one sentence that says why not."""

import gzip
import re
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
from ies_helpers.subjects.phantom import phantom
from ies_helpers.subjects.subject import MODALITIES, Subject, normalise
from ies_helpers.types import LabelMap

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, at which two affines count as the same."""

PATTERNS = {
    "flair": r"(?i:flair)",
    "t1": r"(?<![A-CE-Z])T1(?!\d)|(?<![A-Za-z])t1(?!\d)|(?i:mprage|mp2rage)",
    "target": r"(?i:mask|lesion|gold|consensus|ground.?truth|target|dseg)",
}
"""What a file name must contain to be that file: 3DT1 and T1w, but neither patient1, PATIENT1 nor T10."""

SESSION = r"(?i)(ses|session|tp|time|timepoint|visit|v)?[-_]?\d+"
"""Folder names that say which visit, not who: `ses-01`, `tp2`, `20190304`."""

BRAIN_MASK = r"(?i:brain.?mask)"

UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError, MemoryError)
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
    if flair or t1 or target:
        if subject or not (flair and t1):
            told = "A subject is one name, or the files flair and t1 (and target) by name"
            raise ValueError(f"{told}; got {', '.join(source)}.")
        loaded = _read(_name_of_file(Path(flair)), Path(flair), Path(t1), Path(target) if target else None)
        return replace(loaded, source={key: str(Path(path).absolute()) for key, path in source.items()})
    name = str(subject or "demo")
    where = str(Path(name).absolute()) if Path(name).is_dir() and name != "demo" else name
    return replace(_by_name(name), source={"subject": where})


def _by_name(name: str) -> Subject:
    kind, _, item = name.partition(":")
    if name == "demo":
        folder = data_folder() / "demo"
        files = [folder / f"sub-demo_{suffix}.nii.gz" for suffix in ("FLAIR", "T1w", "label-lesion_mask")]
        return _read("demo", *files)
    if kind == "phantom":
        if not item.isdecimal():
            raise ValueError(f"A phantom is named by its seed, as phantom:7; got {name!r}.")
        return phantom(int(item))
    if kind == "openms" and item:
        files = fetch(name)
        return _read(item, files["flair"], files["t1"], files["target"])
    return _from_folder(Path(name))


def _from_folder(folder: Path) -> Subject:
    if not folder.is_dir():
        raise FileNotFoundError(
            "A subject is demo, phantom:SEED, openms:patientNN or a folder with FLAIR and T1; "
            f"there is no folder {folder}."
        )
    made = [
        p.parent for p in folder.rglob("dataset_description.json") if "ies-helpers" in p.read_text(errors="replace")
    ]
    images = [p for p in sorted(folder.rglob("*")) if re.search(r"^[^.].*\.nii(\.gz)?$", p.name)]
    found: dict[str, list[Path]] = {kind: [] for kind in PATTERNS}
    for path in images:
        kind = _kind(path.name)
        if kind and not any(path.is_relative_to(ours) for ours in made):
            found[kind].append(path)
    for kind, paths in found.items():
        if len(paths) > 1:
            raise ValueError(
                f"A folder must hold one {kind} image, {folder} holds {len(paths)} ({paths[0].name}, {paths[1].name}, "
                "...); name a smaller folder, or the files by flair=..., t1=..., target=..."
            )
    missing = [kind for kind in MODALITIES if not found[kind]]
    if missing:
        raise FileNotFoundError(
            f"A subject needs FLAIR and T1; {folder} has no file named like {' and '.join(missing)}. "
            "Name the files by flair=..., t1=..."
        )
    bids = re.search(r"sub-([A-Za-z0-9]+)", found["flair"][0].name)
    name = bids.group(1) if bids else _plain_name(folder.resolve())
    return _read(name, found["flair"][0], found["t1"][0], found["target"][0] if found["target"] else None)


def _kind(name: str) -> str | None:
    """`flair`, `t1`, `target` or nothing; a BIDS name tells by its suffix, another by what it names first."""
    stem = re.sub(r"^sub-[A-Za-z0-9]+_", "sub-_", name.split(".nii")[0])
    if re.search(BRAIN_MASK, stem):
        return None
    if re.search(PATTERNS["target"], stem):
        return "target"
    told = stem.rsplit("_", 1)[-1] if stem.startswith("sub-") else stem
    starts = {kind: match.start() for kind in MODALITIES if (match := re.search(PATTERNS[kind], told))}
    return min(starts, key=lambda kind: starts[kind]) if starts else None


def _read(name: str, flair: Path, t1: Path, target: Path | None) -> Subject:
    images = {"FLAIR": read_image(flair, "FLAIR"), "T1": read_image(t1, "T1")}
    first = images["FLAIR"]
    _check_same_grid(first, images["T1"], "T1")
    raw = np.stack([_values(image, modality) for modality, image in images.items()])
    affine = np.asarray(first.affine, dtype=np.float64)
    truth = None if target is None else _target(read_image(target, "target"), first)
    subject = Subject(name, normalise(raw), affine, MODALITIES, truth, first.header)
    if max(abs(s - 1) for s in subject.spacing) > 0.15:
        sides = " x ".join(f"{s:.2f}" for s in subject.spacing)
        warnings.warn(
            f"{name} has voxels of {sides} mm; the networks were trained at 1 mm, so sizes in voxels, window "
            "extents and distances mean something else here, and predictions may be poor. Nothing was resampled.",
            stacklevel=3,
        )
    return subject


def read_image(path: Path, what: str) -> nibabel.Nifti1Image:
    """A 3D NIfTI image, its values not yet read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NIfTI image or has other than three axes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The {what} image must be a file, there is none at {path}.")
    try:
        image = nibabel.load(path)
    except UNREADABLE as error:
        raise ValueError(f"The {what} image must be a NIfTI file, {path} is not readable as one ({error}).") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise ValueError(f"The {what} image must be a NIfTI file, {path.name} is another format; convert it.")
    if len(image.shape) != 3:
        raise ValueError(f"The {what} image must have 3 axes, {path.name} has {image.shape}; save one volume of it.")
    kind = np.dtype(image.get_data_dtype())
    if kind.kind not in "iuf":
        raise ValueError(f"The {what} image must hold one real number a voxel, {path.name} holds {kind}; convert it.")
    if not abs(np.linalg.det(np.asarray(image.affine)[:3, :3])) > 1e-9:
        raise ValueError(f"The {what} image must have an invertible affine, {path.name} has none; mend its header.")
    return image


def _values(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
    path = Path(image.get_filename() or "")
    values = _array(image, what).astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"The {what} image must be finite, {path.name} has {bad} NaN or infinite voxels; mend it.")
    inside = values[values != 0]
    if inside.size == 0 or inside.min() == inside.max():
        raise ValueError(f"The {what} image must vary over its non-zero voxels, {path.name} is constant.")
    return values


def _array(image: nibabel.Nifti1Image, what: str) -> np.ndarray:
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
    values = _array(image, "target")
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


def _name_of_file(flair: Path) -> str:
    """`p1` for `p1_FLAIR.nii.gz`; where nothing is left, the folder's name."""
    rest = re.sub(PATTERNS["flair"], "", flair.name.split(".nii")[0])
    return _plain_name(Path(rest) if re.search("[A-Za-z0-9]", rest) else flair.absolute().parent)


def _plain_name(path: Path) -> str:
    """Letters and digits of a file or folder name, as BIDS wants them; a session's after its subject's.

    So `ROOT/p01/ses-2/FLAIR.nii.gz`, as published, is `p01ses2`, and two sessions have two names.
    """
    bids = re.search(r"sub-([A-Za-z0-9]+)", path.name)
    if re.fullmatch(SESSION, path.name):
        return _plain_name(path.parent) + re.sub(r"[^A-Za-z0-9]", "", path.name)
    return bids.group(1) if bids else re.sub(r"[^A-Za-z0-9]", "", path.name.split(".")[0]) or "subject"
