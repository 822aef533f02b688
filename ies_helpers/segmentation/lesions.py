"""Probability + target -> numbered lesions in groups TP, FP and FN; TN are drawn by `controls`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from ies_helpers.types import Affine, LabelMap, Probability, Voxels

CONNECTIVITY = ndimage.generate_binary_structure(3, 2)
"""18-connectivity: voxels that share a face or an edge are connected, as published."""

GROUPS = ("TP", "FP", "FN", "TN", "unknown")

MIN_VOXELS = 6
"""A lesion has more than 5 voxels, as published."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component that the network found (TP, FP) or missed (FN), or a control (TN).

    Attributes:
        number: from 1, in scan order: found lesions first, then missed ones.
        group: `TP` shares a voxel with the target, `FP` does not, `FN` is a component of the target that
            shares none with the prediction; `TN` is a place where there is none, see `controls`; `unknown` where there
            is no target.
        voxels: `(V, 3)` indices: the prediction's voxels, for FN the target's.
        volume_mm3: NaN if no affine was given.
        centre_mm: centre of mass in world mm, `(3,)`; NaN if no affine was given.
        mean_probability, max_probability: over its voxels.
    """

    number: int
    group: str
    voxels: Voxels
    volume_mm3: float
    centre_mm: np.ndarray
    mean_probability: float
    max_probability: float

    def __len__(self) -> int:
        return len(self.voxels)

    def __repr__(self) -> str:
        return f"Lesion({self.number}: {self.group}, {len(self)} voxels, mean probability {self.mean_probability:.2f})"

    @property
    def label(self) -> str:
        """`L003` for lesion 3, as in file names."""
        return f"L{self.number:03d}"

    def mask(self, shape: tuple[int, ...]) -> LabelMap:
        """`(I, J, K)` bool, True on the lesion."""
        return mask_of(self.voxels, shape)


class Lesions:
    """The lesions of one subject, looked up by number: `lesions[3]`, `lesions.of("FP")`, `len(lesions)`."""

    def __init__(self, lesions: Sequence[Lesion]) -> None:
        self._by_number = {lesion.number: lesion for lesion in lesions}

    def __getitem__(self, number: int) -> Lesion:
        if number not in self._by_number:
            there = list(self._by_number)
            numbers = f"1 to {len(there)}" if there == list(range(1, len(there) + 1)) else ", ".join(map(str, there))
            raise KeyError(f"Lesions here are numbered {numbers}, got {number}; see the lesion table.")
        return self._by_number[number]

    def __iter__(self) -> Iterator[Lesion]:
        return iter(self._by_number.values())

    def __len__(self) -> int:
        return len(self._by_number)

    def __repr__(self) -> str:
        groups = ", ".join(f"{len(self.of(g))} {g}" for g in GROUPS if self.of(g))
        return f"Lesions({groups or 'none'})"

    def of(self, group: str) -> list[Lesion]:
        """The lesions of one group."""
        return [lesion for lesion in self if lesion.group == group]

    def select(self, wanted: str) -> list[Lesion]:
        """The lesions that `wanted` names.

        `all`, a group such as `FP`, numbers such as `3,7`, sizes in voxels as `size:90-120`, or both as `TP:90-120`.

        Raises:
            ValueError: for anything else, or where it names none.
            KeyError: for a number that does not exist.
        """
        check_choice(wanted)
        if wanted == "all":
            chosen = list(self)
        elif wanted in GROUPS:
            chosen = self.of(wanted)
        elif ":" in wanted:
            group, _, sizes = wanted.partition(":")
            least, _, most = sizes.partition("-")
            among = self if group == "size" else self.of(group)
            chosen = [lesion for lesion in among if int(least) <= len(lesion) <= int(most or 10**9)]
        else:
            chosen = [self[number] for number in dict.fromkeys(int(part) for part in wanted.split(","))]
        if not chosen:
            group = wanted.partition(":")[0]
            sizes = sorted(map(len, self.of(group) if group in GROUPS else self))
            there = f", of {', '.join(map(str, sizes))} voxels" if sizes and ":" in wanted else ""
            raise ValueError(f"There must be a lesion to work on; of {wanted!r} there is none among {self!r}{there}.")
        return chosen

    def table(self) -> pd.DataFrame:
        """One row a lesion: group, voxels, volume in mm3, centre in world mm, probabilities."""
        columns = ["lesion", "group", "voxels", "volume_mm3", "centre_x_mm", "centre_y_mm", "centre_z_mm"]
        rows = [
            (le.number, le.group, len(le), le.volume_mm3, *le.centre_mm, le.mean_probability, le.max_probability)
            for le in self
        ]
        return pd.DataFrame(rows, columns=[*columns, "mean_probability", "max_probability"])

    def label_map(self, shape: tuple[int, ...], group: str | None = None) -> LabelMap:
        """`(I, J, K)` int32: each lesion's number on its voxels, of one group or of all.

        Where a missed lesion and a found one overlap in space (they never do by definition) the later wins.
        """
        labels = torch.zeros(shape, dtype=torch.int32)
        for lesion in self:
            if group in (None, lesion.group):
                labels[tuple(lesion.voxels.T)] = lesion.number
        return labels


def check_choice(wanted: str) -> None:
    """Refuse what `Lesions.select` cannot mean, before anything is computed."""
    if not re.fullmatch(rf"all|{'|'.join(GROUPS)}|(size|{'|'.join(GROUPS)}):\d+-\d*|\d+(, ?\d+)*", wanted):
        groups = ", ".join(GROUPS)
        raise ValueError(f"lesions must be all, {groups}, numbers as 3,7, size:90-120 or TP:90-120; got {wanted!r}.")


def find_lesions(
    probability: Probability, target: LabelMap | None = None, *, threshold: float, affine: Affine | None = None
) -> Lesions:
    """Number the lesions of a prediction and sort them against the target.

    A lesion is an 18-connected component of more than 5 voxels (as published). Smaller components of the
    prediction do not count, neither as FP nor for finding a target component; smaller components of the
    target are no FN, but a prediction that touches one is TP.

    Args:
        probability: `(I, J, K)`, from 0 to 1; a voxel is predicted lesion above `threshold`.
        target: `(I, J, K)` bool or 0/1; None leaves the group `unknown`.
        threshold: the published U-Net's is 0.3, the others' 0.4: `network.threshold`.
        affine: gives volumes and centres their mm; without it they are NaN.

    Raises:
        ValueError: for what is no probability, a target on another grid, or a threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}; take network.threshold.")
    score = np.asarray(probability, dtype=np.float32)
    if score.ndim != 3:
        raise ValueError(f"A probability must be a volume (I, J, K), got the shape {score.shape}; take predict.")
    if not ((score >= 0) & (score <= 1)).all():
        held = f"values from {score.min():g} to {score.max():g}" if np.isfinite(score).all() else "NaN or infinity"
        raise ValueError(f"A probability must lie between 0 and 1, got {held}; take predict, not predict_logits.")
    if target is not None and tuple(target.shape) != score.shape:
        raise ValueError(
            f"Target and prediction must share their grid, got {tuple(target.shape)} and {score.shape}; "
            "resample the target."
        )
    truth = None if target is None else np.asarray(target) > 0
    found = components(score > threshold)
    groups = ["unknown" if truth is None else "TP" if truth[tuple(v.T)].any() else "FP" for v in found]
    if truth is not None:
        predicted = mask_of(np.concatenate([np.empty((0, 3), dtype=np.int64), *found]), score.shape).numpy()
        missed = [v for v in components(truth) if not predicted[tuple(v.T)].any()]
        found, groups = found + missed, groups + ["FN"] * len(missed)
    return Lesions([lesion_of(n, g, v, score, affine) for n, (g, v) in enumerate(zip(groups, found, strict=True), 1)])


def components(mask: np.ndarray) -> list[Voxels]:
    """Voxels `(V, 3)` of each 18-connected component of at least `MIN_VOXELS`, in scan order, in one pass."""
    labels, count = ndimage.label(mask, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    inside = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[inside], kind="stable")
    sizes = np.bincount(labels.ravel()[inside], minlength=count + 1)[1:]
    indices = np.stack(np.unravel_index(inside[order], mask.shape), axis=1)
    parts = np.split(indices, np.cumsum(sizes)[:-1]) if count else []
    return [part for part in parts if len(part) >= MIN_VOXELS]


def lesion_of(number: int, group: str, voxels: Voxels, score: np.ndarray, affine: Affine | None) -> Lesion:
    """A lesion with what is measured on its voxels in the probability `score` `(I, J, K)`."""
    inside = score[tuple(voxels.T)]
    matrix = np.full((4, 4), np.nan) if affine is None else affine
    volume = len(voxels) * abs(float(np.linalg.det(matrix[:3, :3]))) if affine is not None else float("nan")
    centre = matrix[:3, :3] @ voxels.mean(axis=0) + matrix[:3, 3]
    return Lesion(number, group, voxels, volume, centre, float(inside.mean()), float(inside.max()))


def mask_of(voxels: Voxels, shape: tuple[int, ...]) -> LabelMap:
    """`(I, J, K)` bool, True at `voxels` `(V, 3)`."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(torch.as_tensor(voxels).T)] = True
    return mask


def as_voxels(lesion: Lesion | LabelMap | np.ndarray, shape: tuple[int, ...]) -> Voxels:
    """The `(V, 3)` voxels of a `Lesion`, a boolean mask `(I, J, K)`, or such an array itself.

    Raises:
        ValueError: for anything else, an empty lesion, a voxel twice, or voxels outside `shape`.
    """
    if isinstance(lesion, Lesion):
        voxels = lesion.voxels
    else:
        array = np.asarray(lesion)
        if array.dtype == bool and array.shape == tuple(shape):
            voxels = np.argwhere(array)
        elif array.ndim == 2 and array.shape[1] == 3 and np.issubdtype(array.dtype, np.integer):
            voxels = array
        else:
            raise ValueError(
                f"A lesion must be a Lesion, a boolean mask of shape {tuple(shape)} or integer voxels (V, 3), "
                f"got {array.dtype} of shape {array.shape}."
            )
    if len(voxels) == 0:
        raise ValueError("A lesion must have at least one voxel, got none; check the mask and its threshold.")
    if (voxels < 0).any() or (voxels >= np.asarray(shape)).any():
        raise ValueError(f"A lesion must lie inside the image {tuple(shape)}, got voxels up to {voxels.max(axis=0)}.")
    if len(np.unique(voxels, axis=0)) != len(voxels):
        raise ValueError("A lesion must hold each voxel once, got duplicates; apply numpy.unique(voxels, axis=0).")
    return np.ascontiguousarray(voxels, dtype=np.int64)
