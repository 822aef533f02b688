"""Maps read back: what a folder of `ies explain` holds, whose lesions they are of, and who was looked at."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ies_helpers.subjects.loading import AFFINE_TOLERANCE, load_subject, read_image, read_values
from ies_helpers.subjects.saving import MAPS, SUFFIX, groups_path, sidecar
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Affine, LabelMap, Saliency

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


def read_maps(folders: Path | Iterable[Path]) -> list[SavedMap]:
    """The finished maps of folders, by subject and lesion; a map that is being written is left out.

    Raises:
        FileNotFoundError: if a folder holds no maps, or a file of theirs is gone.
        ValueError: for a sidecar that cannot be read, no NIfTI image, or map and lesions on different grids.
    """
    given = [Path(folders)] if isinstance(folders, str | os.PathLike) else [Path(f) for f in folders]
    maps = []
    for folder in {path.resolve(): path for path in given}.values():
        found = [_read(folder, path) for path in sorted(folder.glob(f"sub-*/anat/{MAPS}"))]
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
    if not np.abs(np.asarray(first.affine) - np.asarray(other.affine)).max() <= AFFINE_TOLERANCE:
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
