"""NIfTI files, a folder or a name -> a `Subject` that a network can read, or one sentence that says why not."""

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import torch

from ies_helpers.arrays import LabelMap
from ies_helpers.subjects.downloads import fetch
from ies_helpers.subjects.files import data_folder
from ies_helpers.subjects.nifti import (
    AFFINE_TOLERANCE,
    ORIENTATIONS,
    SQUARE_TOLERANCE,
    _values,
    conversion,
    is_dicom,
    read_image,
    read_values,
)
from ies_helpers.subjects.phantom import phantom
from ies_helpers.subjects.subject import SHIPPED, Subject, normalise

# Which files of a folder are a patient's FLAIR, T1 and lesion mask, and what the patient is called.

PATTERNS = {
    "flair": r"(?i:flair)",
    "t1": r"(?<![A-CE-Z])T1(?!\d)|(?<![A-Za-z])t1(?!\d)|(?i:mprage|mp2rage)",
    "target": r"(?i:mask|lesion|gold|consensus|ground.?truth|target|dseg)",
}
"""What a file name must contain to be that file: 3DT1 and T1w, but neither patient1, PATIENT1 nor T10."""

SESSION = r"(?i)(ses|session|tp|time|timepoint|visit|v)?[-_]?\d+"
"""Folder names that say which visit, not who: `ses-01`, `tp2`, `20190304`."""

BRAIN_MASK = r"(?i:brain.?mask)"

BIDS = r"sub-([A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?"


@dataclass(frozen=True)
class Found:
    """The files of one patient.

    Attributes:
        name: letters and digits.
        files: FLAIR, T1 and, where there is one, the target; none for a patient that is made or downloaded.
    """

    name: str
    files: tuple[Path, ...] = ()


def find_subject(
    subject: str | None = None, *, flair: str | None = None, t1: str | None = None, target: str | None = None
) -> Found:
    """What `load_subject` would load, without reading an image, making or downloading anything.

    Raises:
        ValueError, FileNotFoundError: as `load_subject`, as far as names tell.
    """
    if flair or t1 or target:
        if subject or not (flair and t1):
            named = {"subject": subject, "flair": flair, "t1": t1, "target": target}
            told = ", ".join(key for key, value in named.items() if value is not None)
            raise ValueError(f"A subject is one name, or the files flair and t1 (and target) by name; got {told}.")
        return Found(name_of_file(Path(flair)), tuple(Path(path) for path in (flair, t1, target) if path))
    name = subject or "demo"
    kind, _, item = name.partition(":")
    if kind == "phantom" and not item.isdecimal():
        raise ValueError(f"A phantom is named by its seed, as phantom:7; got {name!r}.")
    if kind == "phantom":
        return Found(f"phantom{int(item)}")
    if name == "demo" or (kind == "openms" and item):
        return Found(item or "demo")
    return find_files(Path(name))


def find_files(folder: Path) -> Found:
    """The one FLAIR, T1 and at most one mask anywhere below a folder, maps of ours left aside.

    Raises:
        FileNotFoundError: for no folder, or a modality that is not there.
        ValueError: for two files that could be the same image.
    """
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
        kind = kind_of(path.name)
        if kind and not any(path.is_relative_to(ours) for ours in made):
            found[kind].append(path)
    for kind, paths in found.items():
        if len(paths) > 1:
            raise ValueError(
                f"A folder must hold one {kind} image, {folder} holds {len(paths)} ({paths[0].name}, {paths[1].name}, "
                "...); name a smaller folder, or the files by flair=..., t1=..., target=..."
            )
    missing = [kind for kind in SHIPPED if not found[kind]]
    dicom = next((p for p in sorted(folder.rglob("*")) if p.is_file() and is_dicom(p)), None) if not images else None
    if dicom:
        raise FileNotFoundError(f"A subject needs FLAIR and T1 as NIfTI, {dicom} is DICOM; {conversion(folder)}.")
    if missing:
        raise FileNotFoundError(
            f"A subject needs FLAIR and T1; {folder} has no file named like {' and '.join(missing)}. "
            "Name the files by flair=..., t1=... (--flair, --t1 on the command line)."
        )
    name = _bids_name(found["flair"][0].name) or _plain_name(folder.resolve())
    return Found(name, tuple(paths[0] for paths in found.values() if paths))


def kind_of(name: str) -> str | None:
    """`flair`, `t1`, `target` or nothing; a BIDS name tells by its suffix, another by what it names first."""
    stem = re.sub(r"^sub-[A-Za-z0-9]+_", "sub-_", name.split(".nii")[0])
    if re.search(BRAIN_MASK, stem):
        return None
    if re.search(PATTERNS["target"], stem):
        return "target"
    told = stem.rsplit("_", 1)[-1] if stem.startswith("sub-") else stem
    starts = {kind: match.start() for kind in SHIPPED if (match := re.search(PATTERNS[kind], told))}
    return min(starts, key=lambda kind: starts[kind]) if starts else None


def name_of_file(flair: Path) -> str:
    """`p1` for `p1_FLAIR.nii.gz`; where nothing is left, the folder's name."""
    rest = re.sub(PATTERNS["flair"], "", flair.name.split(".nii")[0])
    return _bids_name(flair.name) or _plain_name(
        Path(rest) if re.search("[A-Za-z0-9]", rest) else flair.absolute().parent
    )


def _bids_name(name: str) -> str | None:
    """`p01` for `sub-p01_FLAIR.nii.gz`, `p01ses2` for `sub-p01_ses-2_FLAIR.nii.gz`: two sessions have two names."""
    bids = re.search(BIDS, name)
    return bids and bids[1] + (bids[2] or "").replace("-", "")


def _plain_name(path: Path) -> str:
    """Letters and digits of a file or folder name, as BIDS wants them; a session's after its subject's.

    So `ROOT/p01/ses-2/FLAIR.nii.gz`, as published, is `p01ses2`, and two sessions have two names.
    """
    if re.fullmatch(SESSION, path.name):
        return _plain_name(path.parent) + re.sub(r"[^A-Za-z0-9]", "", path.name)
    return _bids_name(path.name) or re.sub(r"[^A-Za-z0-9]", "", path.name.split(".")[0]) or "subject"


SPACING_TOLERANCE = 0.15
"""Difference from 1 mm, in mm, from which on it is told."""

LARGEST_BRAIN = 2.2
"""Litres with ventricles and sulci; a head has twice as much."""


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
    subject = Subject(name, normalise(raw), affine, SHIPPED, truth, first.header)
    for remark in remarks(subject):
        warnings.warn(remark, stacklevel=3)
    return subject


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
