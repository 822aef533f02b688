"""Which files of a folder are a patient's FLAIR, T1 and lesion mask, and what the patient is called."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ies_helpers.subjects.subject import MODALITIES

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
    missing = [kind for kind in MODALITIES if not found[kind]]
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


def is_dicom(path: Path) -> bool:
    """Whether a file is as scanners write it, by its name or by the mark behind its preamble."""
    try:
        with path.open("rb") as stream:
            return path.suffix.lower() == ".dcm" or stream.read(132)[128:] == b"DICM"
    except OSError:  # told when it is opened as an image
        return False


def conversion(folder: Path) -> str:
    """What to do with a folder of DICOM."""
    return f"convert it first (dcm2niix -z y -f %p_%s {shlex.quote(str(folder))})"


def kind_of(name: str) -> str | None:
    """`flair`, `t1`, `target` or nothing; a BIDS name tells by its suffix, another by what it names first."""
    stem = re.sub(r"^sub-[A-Za-z0-9]+_", "sub-_", name.split(".nii")[0])
    if re.search(BRAIN_MASK, stem):
        return None
    if re.search(PATTERNS["target"], stem):
        return "target"
    told = stem.rsplit("_", 1)[-1] if stem.startswith("sub-") else stem
    starts = {kind: match.start() for kind in MODALITIES if (match := re.search(PATTERNS[kind], told))}
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
