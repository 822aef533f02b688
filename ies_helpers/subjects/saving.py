"""Maps and masks out: NIfTI in the input's space, a sidecar that says how each was made, an index of all.

The folder is a BIDS derivative. BIDS has no suffix for saliency, so `desc-` carries method, aggregation and
lesion, and the suffix is the modality that the map is a gradient with respect to.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch

from ies_helpers.subjects.files import remove_leftovers, replacing, write_text
from ies_helpers.subjects.loading import AFFINE_TOLERANCE, read_image, read_values
from ies_helpers.subjects.records import MapRecord, versions
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Saliency

SUFFIX = {"flair": "FLAIR", "t1": "T1w"}
"""Modality -> BIDS suffix."""

INDEX = ["subject", "network", "lesion", "group", "method", "aggregate", "draws", "seed", "modality", "path"]
"""Columns of `maps.tsv`."""

IGNORED = "maps.tsv\n**/lesions.tsv\nfigures\n**/.running\n**/cohort.*\n**/perilesional*\nevaluation\n"
"""What a BIDS validator need not know."""

MAPS = "*_desc-*L[0-9]*_*.json"
"""The sidecars of maps, in a subject's folder."""


def save_map(
    folder: Path, subject: Subject, saliency: Saliency, record: MapRecord, notes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write a saliency map, one NIfTI and one sidecar for each modality, whole or not at all.

    Args:
        folder: the derivative's root; see `open_derivative`.
        subject: gives affine and header.
        saliency: `(C, I, J, K)`, one channel a modality, or `(1, I, J, K)` for a map of all at once.
        record: goes into the sidecar.
        notes: more for the sidecar, such as the command line.

    Returns:
        The paths of the images.

    Raises:
        ValueError: for a map on another grid, or with NaN.
    """
    if tuple(saliency.shape[1:]) != subject.shape or not bool(torch.isfinite(saliency).all()):
        raise ValueError(
            f"A map must be finite and on the subject's grid {subject.shape}, got {tuple(saliency.shape)} with "
            f"{int((~torch.isfinite(saliency)).sum())} values that are not finite."
        )
    modalities = subject.modalities if len(saliency) == len(subject.modalities) else ("all",)
    paths = []
    for modality, values in zip(modalities, saliency, strict=True):
        path = map_path(folder, record, modality)
        save_image(path, values.numpy().astype(np.float32), subject)
        largest = float(values.abs().max())
        details = asdict(record) | {
            "Description": f"{record.method} saliency map of lesion {record.lesion}",
            "SkullStripped": False,  # nothing was set to zero outside the brain
            "modality": modality,
            "status": "empty" if largest == 0 else "ok",
            "minimum": float(values.min()),
            "maximum": float(values.max()),
            "path": str(path.relative_to(folder)),
            "source": subject.source,
            "versions": versions(),
            **(notes or {}),
        }
        write_text(sidecar(path), json.dumps(details, indent=2) + "\n")
        paths.append(path)
    return paths


def finished(folder: Path, subject: Subject, record: MapRecord) -> bool:
    """Whether the map of `record` is there, whole.

    Raises:
        ValueError: if another map has its name: made with other settings, which are told, or another affine.
    """
    for modalities in (subject.modalities, ("all",)):
        paths = [map_path(folder, record, modality) for modality in modalities]
        if all(path.is_file() and sidecar(path).is_file() for path in paths):
            saved = [json.loads(sidecar(path).read_text()) for path in paths]
            if [s["modality"] for s in saved] == list(modalities):
                return all(_same(path, s, record, subject) for path, s in zip(paths, saved, strict=True))
    return False


def _same(path: Path, saved: dict[str, Any], record: MapRecord, subject: Subject) -> bool:
    wanted = asdict(record)
    if record.tolerance is not None:  # the draws told how many they are
        wanted["draws"] = saved.get("draws")
    other = {k: saved.get(k) for k in wanted if saved.get(k) != wanted[k]}
    if other:
        told = ", ".join(f"{k} {v} instead of {wanted[k]}" for k, v in other.items())
        raise ValueError(
            f"A folder holds one map of a name; {path.name} in {path.parent} was made with {told}. Take another --out."
        )
    _check_place(read_image(path, "map's"), subject)
    return True


def _check_place(image: Any, subject: Subject) -> None:
    """Refuse an image of an earlier run where the subject lies elsewhere now."""
    apart = np.abs(image.affine - subject.affine).max()
    if image.shape != subject.shape or not apart <= AFFINE_TOLERANCE:
        shapes = f"its shape is {image.shape}, not {subject.shape}"
        told = shapes if image.shape != subject.shape else f"their affines differ by up to {apart:.3g}"
        raise ValueError(
            f"A folder holds one set of lesions a subject, {image.get_filename()} lies elsewhere than {subject.name} "
            f"does now: {told}. Take another --out."
        )


def map_path(folder: Path, record: MapRecord, modality: str) -> Path:
    """Where the map of one modality lies: `sub-<S>/anat/sub-<S>_desc-<method><aggregate>L<number>_<suffix>.nii.gz`."""
    suffix = SUFFIX.get(modality, "FLAIR")
    return subject_folder(folder, record.subject) / f"sub-{record.subject}_desc-{record.description}_{suffix}.nii.gz"


def subject_folder(folder: Path, name: str) -> Path:
    """`<folder>/sub-<name>/anat`."""
    return Path(folder) / f"sub-{name}" / "anat"


def groups_path(folder: Path, name: str, group: str) -> Path:
    """Where the numbered lesions of one group lie: `sub-<S>_desc-<group>_dseg.nii.gz`."""
    return subject_folder(folder, name) / f"sub-{name}_desc-{group.lower()}_dseg.nii.gz"


def save_lesions(folder: Path, subject: Subject, probability: torch.Tensor, labels: dict[str, torch.Tensor]) -> None:
    """Write the probability map `(I, J, K)`, and for each group in `labels` a map of its lesions' numbers.

    Controls (TN) that `explain` wrote stay: no prediction numbers them.

    Raises:
        ValueError: if the folder holds maps of this subject's lesions numbered otherwise, or lying elsewhere.
    """
    anat = subject_folder(folder, subject.name)
    wanted = {groups_path(folder, subject.name, g): n.numpy().astype(np.int16) for g, n in labels.items()}
    here = set(numbered(folder, subject.name)) - {groups_path(folder, subject.name, "TN")}
    if any(anat.glob(MAPS)) and (
        any((read_numbers(path, subject) != wanted.get(path, 0)).any() for path in here) or here != set(wanted)
    ):
        raise ValueError(
            f"A folder holds one set of lesions a subject, {folder} has maps of other lesions of {subject.name} "
            "(another network, threshold, image or target). Take another --out."
        )
    for stale in here - set(wanted):
        stale.unlink()
    path = anat / f"sub-{subject.name}_label-lesion_probseg.nii.gz"
    save_image(path, probability.numpy().astype(np.float32), subject)
    for path, numbers in wanted.items():
        save_image(path, numbers, subject)


def numbered(folder: Path, name: str) -> list[Path]:
    """The files of a subject's numbered lesions, one a group, in a folder."""
    return sorted(subject_folder(folder, name).glob(f"sub-{name}_desc-*_dseg.nii.gz"))


def read_numbers(path: Path, subject: Subject) -> np.ndarray:
    """`(I, J, K)` numbers of lesions that an earlier run wrote.

    Raises:
        ValueError: for a damaged file, or a subject that lies elsewhere now.
    """
    image = read_image(path, "lesions'")
    _check_place(image, subject)
    return read_values(image, "lesions'").astype(np.int16)


def sidecar(path: Path) -> Path:
    """The JSON beside a `.nii.gz`."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def save_image(path: Path, values: np.ndarray, subject: Subject) -> None:
    """Write `(I, J, K)` values as NIfTI with the subject's affine and space, beside and renamed."""
    image = nibabel.Nifti1Image(values, subject.affine, subject.header)
    image.header.set_data_dtype(values.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = b""
    with replacing(path) as part:
        nibabel.save(image, part)


def open_derivative(folder: Path) -> Path:
    """Make `folder` a BIDS derivative that can be written to, before any long work starts.

    What a killed run left half-written is removed.

    Raises:
        OSError: if it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(2**16))
        probe.flush()
    remove_leftovers(folder)
    made_by = [{"Name": "ies-helpers", "Version": versions()["ies-helpers"]}]
    description = {"Name": "Instance-level saliency maps", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    description |= {"GeneratedBy": made_by}
    text = json.dumps(description, indent=2) + "\n"
    for name, content in {"dataset_description.json": text, ".bidsignore": IGNORED}.items():
        if not (folder / name).is_file() or (folder / name).read_text() != content:
            write_text(folder / name, content)
    return folder


def write_index(folder: Path) -> pd.DataFrame:
    """Write `maps.tsv`, one row a map, from the sidecars of all finished maps."""
    rows = [json.loads(p.read_text()) for p in sorted(folder.glob(f"sub-*/anat/{MAPS}"))]
    table = pd.DataFrame([{c: row.get(c) for c in INDEX} for row in rows], columns=INDEX)
    table = table.astype({"lesion": "Int64", "draws": "Int64", "seed": "Int64"})
    write_table(folder / "maps.tsv", table)
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as TSV, `n/a` where there is no value (BIDS)."""
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))
