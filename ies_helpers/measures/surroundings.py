"""Structures of a lesion: itself, shells of mm around it, other lesions, tissues; a table of a patient's lesions."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import ndimage

from ies_helpers.measures.maps import SHELLS, shells
from ies_helpers.measures.structures import Structures, structure_table
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject
from ies_helpers.subjects.surround import brain_mask
from ies_helpers.types import Saliency

OWN, OTHERS, REST, OUTSIDE = "this lesion", "other lesions", "rest of the brain", "outside the brain"


def distance_structures(subject: Subject, lesion: Lesion, brain: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The brain by distance from a lesion: itself, shells of 0-2, 2-5, 5-10 mm, beyond, outside the brain.

    Every voxel of the grid lies in exactly one, so masses add to 1.

    Args:
        subject: gives the grid.
        lesion: that is explained.
        brain: `(I, J, K)` bool; None: where any modality is not 0, holes filled (`brain_of`).

    Raises:
        ValueError: for a lesion outside the brain.
    """
    brain = brain_of(subject) if brain is None else brain
    own = _own(subject, lesion, brain)
    around = shells(lesion, subject.shape, subject.affine)
    named = {OWN: own, OUTSIDE: ~brain} | {f"{name} mm": shell for name, shell in around.items()}
    return _first_come(named | {f"beyond {SHELLS[-1][1]:g} mm": brain}, last=OUTSIDE)


def tissue_structures(
    subject: Subject,
    lesion: Lesion,
    lesions: Iterable[Lesion],
    tissues: Structures,
    brain: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The brain by tissue: this lesion, other lesions, then `tissues`, the rest of the brain, outside the brain.

    Every voxel belongs to the first that claims it, so masses add to 1.

    Args:
        subject: gives grid and brain.
        lesion: that is explained.
        lesions: all of the subject's, found and missed.
        tissues: such as `masks.brain_tissues` or `masks.read_structures` give.
        brain: see `distance_structures`.
    """
    brain = brain_of(subject) if brain is None else brain
    own = _own(subject, lesion, brain)
    others = np.zeros(subject.shape, dtype=bool)
    for other in lesions:
        others[tuple(other.voxels.T)] = True
    named = {OWN: own, OTHERS: others} | {name: np.asarray(mask, dtype=bool) for name, mask in tissues.items()}
    return _first_come(named | {REST: brain, OUTSIDE: ~brain})


def brain_of(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: where any modality is not 0, and what that encloses."""
    return np.asarray(ndimage.binary_fill_holes(brain_mask(subject.image)))


def _own(subject: Subject, lesion: Lesion, brain: np.ndarray) -> np.ndarray:
    own = lesion.mask(subject.shape).numpy()
    if not (own & brain).any():
        raise ValueError(
            f"A lesion must lie in the brain, {lesion!r} lies where {subject.name} is 0 in all modalities."
        )
    return own


def _first_come(named: Mapping[str, np.ndarray], last: str = "") -> dict[str, np.ndarray]:
    """Disjoint masks: each voxel goes to the first that claims it; `last` is moved to the end afterwards."""
    free, taken = np.ones(next(iter(named.values())).shape, dtype=bool), {}
    for name, mask in named.items():
        taken[name] = mask & free
        free &= ~mask
    return {name: taken[name] for name in sorted(taken, key=lambda name: name == last)}


def lesion_table(
    subject: Subject, lesions: Iterable[Lesion], maps: Mapping[int, Saliency], *, tissues: Structures | None = None
) -> pd.DataFrame:
    """`structure_table` of lesions: each with its own structures, by distance and, with `tissues`, by tissue.

    Args:
        subject, lesions: all of the subject's lesions.
        maps: number of a lesion -> its map `(C, I, J, K)`.
        tissues: see `tissue_structures`.

    Returns:
        The columns of `structure_table`, with `lesion`, `group` and `by` (`distance` or `tissue`) behind `subject`.
    """
    known = {lesion.number: lesion for lesion in lesions}
    missing = [number for number in maps if number not in known]
    if missing or not maps:
        raise ValueError(f"Maps must be of lesions that are there, got maps of {missing or 'none'}.")
    tables, brain = [], brain_of(subject)
    for number, saliency in maps.items():
        lesion = known[number]
        schemes = {"distance": distance_structures(subject, lesion, brain)}
        if tissues is not None:
            schemes["tissue"] = tissue_structures(subject, lesion, known.values(), tissues, brain)
        for by, structures in schemes.items():
            table = structure_table({lesion.label: saliency}, structures, subject=subject.name)
            for place, (column, value) in enumerate({"lesion": number, "group": lesion.group, "by": by}.items(), 1):
                table.insert(place, column, value)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)
