"""What there is to look at: one subject, its lesions, and maps of them by method and aggregation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ies_helpers.figures.panels import check_map
from ies_helpers.segmentation.lesions import GROUPS, Lesion, Lesions, as_voxels, lesion_of
from ies_helpers.subjects.loading import read_image, read_values
from ies_helpers.subjects.reading import SavedMap, Scans, read_maps
from ies_helpers.subjects.records import GRADIENT_UNIT, UNITS
from ies_helpers.subjects.saving import groups_path, subject_folder
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import LabelMap, Saliency, Voxels

Key: TypeAlias = tuple[str, str]
"""Method and aggregation, `""` where a method has none."""

Some: TypeAlias = Lesion | Lesions | Iterable[Lesion] | LabelMap | Voxels
"""One lesion or several."""

KEPT = 4
"""Maps of a folder that are held in memory; one of 182 x 218 x 182 voxels takes 58 MB."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One subject, its lesions, and their maps.

    Attributes:
        subject, lesions: who.
        maps: method and aggregation -> number of a lesion -> `(C, I, J, K)`; not every lesion needs one.
        units: method and aggregation -> unit.
    """

    subject: Subject
    lesions: Lesions
    maps: Mapping[Key, Mapping[int, Saliency]]
    units: Mapping[Key, str]

    @property
    def mapped(self) -> set[int]:
        """Numbers of the lesions of which there is any map."""
        return {number for some in self.maps.values() for number in some}


class Stored(Mapping[int, Saliency]):
    """Maps in a folder, by lesion, read when they are first asked for."""

    def __init__(self) -> None:
        self.saved: dict[int, SavedMap] = {}
        self._read = lru_cache(KEPT)(lambda number: self.saved[number].load()[0])

    def __getitem__(self, number: int) -> Saliency:
        return self._read(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self.saved)

    def __len__(self) -> int:
        return len(self.saved)


def scene_of(subject: Subject, maps: Any, lesions: Some) -> Scene:
    """A scene out of what a notebook has at hand.

    Args:
        subject: whose.
        maps: of one lesion a map `(C, I, J, K)`, or `{name: map}`; of several `{number: map}`, or
            `{name: {number: map}}`. A name is a method, or a method and an aggregation: `("smoothgrad", "max")`.
        lesions: a `Lesion`, a mask or voxels; `Lesions`, or several of them.

    Raises:
        ValueError: for a map on another grid or with NaN, or one of which it is not clear whose it is.
    """
    numbered = _lesions(lesions, subject)
    named = {"": {} if maps is None else maps} if not isinstance(maps, Mapping) or _by_number(maps) else maps
    sorted_out: dict[Key, dict[int, Saliency]] = {}
    for name, some in named.items():
        key = (name, "") if isinstance(name, str) else tuple(str(part or "") for part in name)
        if not isinstance(some, Mapping):
            if len(numbered) != 1:
                raise ValueError(f"One map belongs to one lesion, got {len(numbered)}; give {{number: map}}.")
            some = {next(iter(numbered)).number: some}
        for number, saliency in some.items():
            check_map(saliency, subject, f" of lesion {numbered[number].number}")
        sorted_out[key] = dict(some)  # pyright: ignore[reportArgumentType]
    units = {key: UNITS.get(key[0], GRADIENT_UNIT) for key in sorted_out}
    return Scene(subject, numbered, sorted_out, units)


def scene_in(folder: Path, name: str | None = None) -> Scene:
    """The scene of one subject in a folder that `ies explain` wrote.

    Args:
        folder: the derivative's root.
        name: of the subject; None takes the only one.

    Raises:
        FileNotFoundError: if the folder holds no maps, or the subject has moved.
        ValueError: for a name that is not there, none where there are several, or a subject that is another one now.
    """
    found = read_maps(folder)
    names = sorted({saved.record["subject"] for saved in found})
    if name not in names and (name is not None or len(names) != 1):
        raise ValueError(f"name must be one of {', '.join(names)}, whose maps are in {folder}; got {name!r}.")
    mine = [saved for saved in found if saved.record["subject"] == (name or names[0])]
    subject = Scans()(mine[0])
    maps: dict[Key, Stored] = {}
    units: dict[Key, str] = {}
    for saved in mine:
        frozen = "frozen" if saved.record.get("statistics") == "frozen" else ""
        key = (saved.record["method"], f"{saved.record['aggregate'] or ''} {frozen}".strip())
        maps.setdefault(key, Stored()).saved[saved.record["lesion"]] = saved
        units[key] = saved.record["unit"]
    return Scene(subject, _saved_lesions(folder, subject), maps, units)


def _by_number(maps: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, int | np.integer) for key in maps)


def _lesions(lesions: Some, subject: Subject) -> Lesions:
    if isinstance(lesions, Lesions):
        return lesions
    if isinstance(lesions, Lesion):
        return Lesions([lesions])
    if isinstance(lesions, torch.Tensor | np.ndarray):
        score = np.full(subject.shape, np.nan, dtype=np.float32)
        return Lesions([lesion_of(1, "unknown", as_voxels(lesions, subject.shape), score, subject.affine)])
    return Lesions(list(lesions))


def _saved_lesions(folder: Path, subject: Subject) -> Lesions:
    probability = subject_folder(folder, subject.name) / f"sub-{subject.name}_label-lesion_probseg.nii.gz"
    score = np.full(subject.shape, np.nan, dtype=np.float32)  # of lesions that no prediction of ours found
    if probability.is_file():
        score = read_values(read_image(probability, "probability's"), "probability's").astype(np.float32)
    found = []
    for group in GROUPS:
        path = groups_path(folder, subject.name, group)
        if not path.is_file():
            continue
        labels = read_values(read_image(path, "lesions'"), "lesions'")
        for number in np.unique(labels[labels > 0]):
            found.append(lesion_of(int(number), group, np.argwhere(labels == number), score, subject.affine))
    return Lesions(sorted(found, key=lambda lesion: lesion.number))
