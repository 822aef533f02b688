"""Maps and masks out: NIfTI in the input's space, a sidecar that says how each was made, an index of all.

The folder is a BIDS derivative. BIDS has no suffix for saliency, so `desc-` carries method, aggregation and
lesion, and the suffix is the modality that the map is a gradient with respect to.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ies_helpers.arrays import SAME_PLACE_MM, Affine, LabelMap, Saliency, Volume, Voxels
from ies_helpers.subjects.files import remove_leftovers, write_text
from ies_helpers.subjects.nifti import read_image, read_values, save_image
from ies_helpers.subjects.sources import load_subject
from ies_helpers.subjects.subject import Subject

# How one map was made: what its sidecar says, and what makes two maps the same.


@dataclass(frozen=True)
class MapRecord:
    """How one map was made; equal records mean equal maps.

    Attributes:
        subject, network, lesion, group: what is explained; `digest` is the network's weights' hash.
        method, aggregate, draws, seed, noise: how; None where the method has no such thing.
        tolerance: relative standard error of the peak at which draws ended, None where their number was asked for.
        sigma: standard deviation of the noise, in z-scored intensity.
        through: `whole` or `windows`, which function of the image was differentiated.
        voxels: of the lesion.
        unit: of the values.
        windows: their size, overlap and weighting, where `through` is `windows`.
        layer: that Grad-CAM read.
        statistics: `frozen` if instance norms were held still, an approximation.
        image: hash of the image and of where the lesion lies in it, see `fingerprint`.
        settings: what else a method was given, such as the baseline of integrated gradients; None where nothing.
    """

    subject: str
    network: str
    digest: str
    lesion: int
    group: str
    voxels: int
    method: str
    through: str
    unit: str
    aggregate: str | None = None
    draws: int | None = None
    seed: int | None = None
    noise: float | None = None
    sigma: float | None = None
    windows: str | None = None
    layer: str | None = None
    statistics: str = "exact"
    image: str | None = None
    tolerance: float | None = None
    settings: dict[str, Any] | None = None

    @property
    def description(self) -> str:
        """The `desc-` entity: letters and digits, such as `smoothgradmaxL003`."""
        method = self.method.replace("+", "p").replace("-", "")
        frozen = "frozen" if self.statistics == "frozen" else ""
        return f"{method}{self.aggregate or ''}{frozen}L{self.lesion:03d}"


def pixels_of(image: Volume) -> str:
    """SHA-256 of an image's values."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def fingerprint(pixels: str, voxels: Voxels) -> str:
    """What tells a lesion from any other, whatever its number: of the image (`pixels_of`) and of its voxels."""
    return hashlib.sha256(pixels.encode() + voxels.astype(np.int64).tobytes()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what a map depends on."""
    found = {}
    for package in ("ies-helpers", "torch", "monai", "numpy", "nibabel"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


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
    modalities = subject.channels if len(saliency) == len(subject.channels) else ("all",)
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
    for modalities in (subject.channels, ("all",)):
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
    if image.shape != subject.shape or not apart <= SAME_PLACE_MM:
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
    """Write a table; see `as_tsv`."""
    write_text(path, as_tsv(table))


def as_tsv(table: pd.DataFrame) -> str:
    """A table as TSV, `n/a` where there is no value (BIDS)."""
    return table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")


# Lesions put into a folder of maps that no prediction of ours numbered: masks drawn by hand, controls.


def add_lesions(folder: Path, subject: Subject, lesions: Iterable[tuple[int, str, Voxels]]) -> None:
    """Write lesions, each a number, a group and voxels, beside those that the folder holds; all of them, or none.

    Raises:
        ValueError: if the folder has another lesion under a number, or in the place of one, or lesions elsewhere.
    """
    held = {path: read_numbers(path, subject) for path in numbered(folder, subject.name)}
    changed = set()
    for number, group, voxels in lesions:
        path, at = groups_path(folder, subject.name, group), tuple(voxels.T)
        numbers = held.setdefault(path, np.zeros(subject.shape, dtype=np.int16))
        size = int((numbers == number).sum())
        same = size == len(voxels) and bool((numbers[at] == number).all())
        free = size == 0 and not numbers[at].any() and not any((other == number).any() for other in held.values())
        if not same and not free:
            raise ValueError(
                f"A folder holds one set of lesions a subject, {folder} has another lesion {number} of {subject.name}, "
                "or one in its place. Take another --out."
            )
        if free:
            numbers[at] = number
            changed.add(path)
    for path in changed:
        save_image(path, held[path], subject)


# Maps read back: what a folder of `ies explain` holds, whose lesions they are of, and who was looked at.

NEEDED = ("subject", "network", "digest", "lesion", "group", "voxels", "method", "through", "unit", "modality")
"""What a sidecar must say."""


@dataclass(frozen=True, eq=False)
class SavedMap:
    """One map in a folder.

    Attributes:
        folder: that `ies explain` wrote.
        record: its sidecar, of the first modality.
        images: its NIfTI files, one a modality.
        modalities: what they are gradients with respect to, or `all`.
    """

    folder: Path
    record: dict[str, Any]
    images: tuple[Path, ...]
    modalities: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What its files' names share: `sub-demo_desc-smoothgradmaxL003`."""
        return self.images[0].name.removesuffix(f"_{SUFFIX['flair']}.nii.gz")

    @property
    def title(self) -> str:
        """`patient26, lesion 3 (TP, 107 voxels)`."""
        return "{subject}, lesion {lesion} ({group}, {voxels} voxels)".format_map(self.record)

    def open(self) -> tuple[list[Any], Any]:
        """Its images and the lesions of its group, their values not yet read.

        Raises:
            FileNotFoundError: a file is gone.
            ValueError: for no NIfTI image, or map and lesions on different grids.
        """
        where = groups_path(self.folder, self.record["subject"], self.record["group"])
        if not where.is_file():
            raise FileNotFoundError(
                f"A map needs its lesion beside it, there is no {where}; explain the lesion again into the same "
                "folder, which writes what lacks."
            )
        files, labels = [read_image(path, "map's") for path in self.images], read_image(where, "lesions'")
        for path, other in zip((*self.images[1:], where), (*files[1:], labels), strict=True):
            _check_grid(files[0], other, path.name, self.images[0].name)
        return files, labels

    def load(self) -> tuple[Saliency, LabelMap, Affine]:
        """The map `(C, I, J, K)`, where its lesion is `(I, J, K)`, and their affine.

        Raises:
            ValueError: for a damaged file, values that are not finite, or lesions numbered otherwise; see `open`.
        """
        files, labels = self.open()
        values = [read_values(file, "map's").astype(np.float32) for file in files]
        for path, channel in zip(self.images, values, strict=True):
            if not np.isfinite(channel).all():
                raise ValueError(f"A map must be finite, {path.name} is not; delete it and explain the lesion again.")
        mask = read_values(labels, "lesions'") == self.record["lesion"]
        if int(mask.sum()) != self.record["voxels"]:
            where = Path(labels.get_filename() or "").name
            raise ValueError(
                f"A map must be of a lesion that is there; {self.title} has {int(mask.sum())} voxels in {where}. "
                "Explain the subject anew in another folder."
            )
        return torch.from_numpy(np.stack(values)), torch.from_numpy(mask), np.asarray(files[0].affine, dtype=np.float64)


def read_maps(folders: Path | Iterable[Path], subject: str = "*") -> list[SavedMap]:
    """The finished maps of folders, of one subject or all, by subject and lesion; one being written is left out.

    Raises:
        FileNotFoundError: if a folder holds no maps, or a file of theirs is gone.
        ValueError: for a sidecar that cannot be read, no NIfTI image, or map and lesions on different grids.
    """
    given = [Path(folders)] if isinstance(folders, str | os.PathLike) else [Path(f) for f in folders]
    maps = []
    for folder in {path.resolve(): path for path in given}.values():
        found = [_read(folder, path) for path in sorted(folder.glob(f"sub-{subject}/anat/{MAPS}"))]
        if not found:
            raise FileNotFoundError(f"A folder must hold maps made by `ies explain`, {folder} holds none.")
        maps += [saved for saved in found if saved is not None]
    for saved in maps:
        saved.open()
    return sorted(maps, key=lambda saved: (saved.record["subject"], saved.record["lesion"]))


def _read(folder: Path, path: Path) -> SavedMap | None:
    """The map whose first sidecar `path` is; None for the sidecars of its other modalities, and while some lack."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"A sidecar must be JSON, {path} is damaged ({error}); explain the lesion again.") from error
    lacking = [key for key in NEEDED if not isinstance(record, dict) or record.get(key) is None]
    if lacking:
        raise ValueError(f"A sidecar must say how its map was made, {path} has no {', '.join(lacking)}.")
    if record["modality"] not in ("flair", "all"):
        return None
    modalities = tuple(SUFFIX) if record["modality"] == "flair" else ("all",)
    first = path.name.removesuffix(f"_{SUFFIX['flair']}.json")
    images = tuple(path.with_name(f"{first}_{SUFFIX.get(m, SUFFIX['flair'])}.nii.gz") for m in modalities)
    return SavedMap(folder, record, images, modalities) if all(sidecar(i).is_file() for i in images) else None


def _check_grid(first: Any, other: Any, name: str, reference: str) -> None:
    if first.shape != other.shape:
        raise ValueError(
            f"Map and lesions must lie on one grid, {reference} has {first.shape} and {name} {other.shape}; explain "
            "the subject anew in another folder."
        )
    if not np.abs(np.asarray(first.affine) - np.asarray(other.affine)).max() <= SAME_PLACE_MM:
        raise ValueError(
            f"Map and lesions must lie on one grid, {reference} and {name} have different affines; explain the subject "
            "anew in another folder."
        )


class Scans:
    """The subjects that maps are of, loaded again; the last one is kept."""

    def __init__(self) -> None:
        self._source: dict[str, str] | None = None
        self._subject: Subject | None = None

    def __call__(self, saved: SavedMap) -> Subject:
        """The subject of a map.

        Raises:
            ValueError: if it cannot be loaded again, or has another grid now.
            FileNotFoundError: if it has moved.
        """
        name, source = saved.record["subject"], saved.record.get("source")
        if not source:
            raise ValueError(f"{name} was made in memory and cannot be loaded again; draw its maps with plot_saliency.")
        if self._subject is None or source != self._source:
            self._subject, self._source = load_subject(**source), source
        shape = read_image(saved.images[0], "map's").shape
        if tuple(shape) != self._subject.shape:
            raise ValueError(
                f"The maps of {name} have the grid {tuple(shape)}, its scan is now {self._subject.shape}; "
                "explain it anew in another folder."
            )
        return self._subject
