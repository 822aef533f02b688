"""A map and a lesion -> numbers: where it lies, how strong it is, which way it points.

A quantity that has no value, for a map that is zero everywhere or a region without voxels, is NaN, and a warning says
why; it is never 0 or True. Maps are signed, so every measure of shares says which `part` of a map it takes: `abs`,
`positive` or `negative` (its magnitude). `(C, I, J, K)` maps are summed over modalities after that.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from scipy import ndimage

from ies_helpers.arrays import Affine, Box, LabelMap, Saliency, Voxels, as_mask
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import SHIPPED

SignPart = Literal["abs", "positive", "negative"]
Region = Lesion | LabelMap | Voxels | Box

SHELLS = ((0.0, 2.0), (2.0, 5.0), (5.0, 10.0))
"""Distances from the lesion, in mm: voxels farther than the first and up to the second."""

EPSILON = 0.1
"""Share of the peak above which a voxel counts for `effective_complexity`, as in Agg2Exp's evaluation."""


def proportional_energy(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Share of a map that lies in a region: sum(S M) / sum(S), 0 to 1.

    Source: Wang et al. 2020 (Score-CAM) for maps in 0 to 1; also called relevance mass accuracy (Arras et al. 2022),
    there for the positive part. Departure: signed maps have to say which part.

    Args:
        saliency: `(C, I, J, K)` or `(I, J, K)`.
        region: a `Lesion`, a boolean mask `(I, J, K)`, voxels `(V, 3)`, or a box of three slices.
        part: of the signed map.

    Raises:
        ValueError: for a region or part that cannot be meant, or of another shape.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    return _over(float(values[mask].sum()), float(values.sum()), mask, _why_none(saliency, part))


def average_saliency_focus(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Mean of a map over a region: sum(S M) / sum(M), in the map's unit. See `proportional_energy`.

    0 for a map that is strong elsewhere; NaN for one that is zero everywhere, which says nothing about a region.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    return _over(float(values[mask].sum()), float(mask.sum()) if values.any() else 0.0, mask, _why_none(saliency, part))


def pointing_game(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Whether the map peaks in the region: 1 or 0; of several equal peaks, the share of them that do.

    Source: Zhang et al. 2018, for one lesion and without their tolerance of 15 pixels.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    peaks = (values == values.max()) & values.any()
    return _over(float((peaks & mask).sum()), float(peaks.sum()), mask, _why_none(saliency, part))


def rank_accuracy(saliency: Saliency, region: Region, *, part: SignPart = "positive") -> float:
    """Share of the region's K voxels among the map's K strongest (relevance rank accuracy, Arras et al. 2022).

    Voxels that tie with the K-th share the places that are left.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    if not values.any() or not mask.any():
        return _over(0.0, 0.0, mask, _why_none(saliency, part))
    count = int(mask.sum())
    edge = np.partition(values, -count, axis=None)[-count]
    above, tied = values > edge, values == edge
    share = (count - above.sum()) / tied.sum()
    return float(((above & mask).sum() + share * (tied & mask).sum()) / count)


def gini(saliency: Saliency, *, part: SignPart = "abs") -> float:
    """Sparseness by the Gini index: 0 where all are equal, 1 - 1/N where one has all (Hurley and Rickard 2009)."""
    values = np.sort(part_of(saliency, part), axis=None)
    n = len(values)
    weights = (n - np.arange(1, n + 1) + 0.5) / n
    return 1 - 2 * _over(float((values * weights).sum()), float(values.sum()), None, _why_none(saliency, part))


def effective_complexity(saliency: Saliency, *, part: SignPart = "abs") -> float:
    """Share of voxels above a tenth of the peak; small is simple (Nguyen and Martinez 2020, as Agg2Exp takes it)."""
    values = part_of(saliency, part)
    above = float((values > EPSILON * values.max()).sum())
    return _over(above, float(values.size) if values.any() else 0.0, None, _why_none(saliency, part))


def peak(saliency: Saliency, modalities: Sequence[str] | None = None) -> dict[str, float]:
    """Largest and smallest value by modality: `flair_max`, `flair_min`, ..., in the map's unit.

    Args:
        saliency: `(C, I, J, K)`.
        modalities: names of the channels; None: `flair` and `t1`, or `all` for a map of one channel.

    Raises:
        ValueError: for another number of channels, or values that are not finite.
    """
    ends = {}
    for name, channel in _named(saliency, modalities).items():
        ends |= {f"{name}_max": float(channel.max()), f"{name}_min": float(channel.min())}
    return ends


def _named(saliency: Saliency, modalities: Sequence[str] | None) -> dict[str, torch.Tensor]:
    """The channels of a map by name, checked."""
    names = modalities or (SHIPPED if len(saliency) > 1 else ("all",))
    if saliency.ndim != 4 or len(saliency) != len(names):
        raise ValueError(
            f"A map must be (C, I, J, K) with a channel for each of {', '.join(names)}, got {tuple(saliency.shape)}; "
            "give the names of its channels."
        )
    _check_finite(saliency)
    return dict(zip(names, saliency, strict=True))


def sign_balance(saliency: torch.Tensor, region: Region) -> float:
    """From -1, all negative, to 1, all positive: sum(S) / sum(|S|) over a region."""
    values, mask = np.asarray(saliency, dtype=np.float64), _mask(region, saliency.shape[-3:])
    _check_finite(values)
    inside = values[..., mask]
    return _over(float(inside.sum()), float(np.abs(inside).sum()), mask, "the map is zero there")


def shells(region: Region, shape: Sequence[int], affine: Affine) -> dict[str, np.ndarray]:
    """`SHELLS` as masks around a region, by true distance from its nearest voxel's centre: `0-2`, `2-5`, `5-10` mm."""
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    mask = _mask(region, tuple(shape))
    if not mask.any():
        raise ValueError("Shells need a region with voxels to lie around, got one without.")
    where, reach = np.argwhere(mask), np.ceil(SHELLS[-1][1] / spacing).astype(int) + 1
    low, high = np.maximum(where.min(axis=0) - reach, 0), where.max(axis=0) + reach + 1
    near = tuple(slice(*ends) for ends in zip(low, high, strict=True))  # what is farther lies in no shell
    away: np.ndarray = np.asarray(ndimage.distance_transform_edt(~mask[near], sampling=spacing))
    around = {f"{low:g}-{high:g}": np.zeros_like(mask) for low, high in SHELLS}
    for shell, (nearest, farthest) in zip(around.values(), SHELLS, strict=True):
        shell[near] = (away > nearest) & (away <= farthest)
    return around


def measure_map(
    saliency: Saliency, lesion: Lesion | LabelMap | Voxels, affine: Affine, modalities: Sequence[str] | None = None
) -> dict[str, float]:
    """What one map says about its lesion, flat: columns of a table with a row a map.

    Peaks by modality, share of each modality, share of the map inside the lesion and of its strongest voxels there,
    the peak inside or not, sparseness, complexity, and the sign balance of the first modality in the lesion and in
    shells around it. `modalities` as in `peak`.
    """
    told: dict[str, float] = peak(saliency, modalities)
    total = float(saliency.abs().sum())
    for name, channel in _named(saliency, modalities).items():
        told[f"{name}_share"] = _over(float(channel.abs().sum()), total, None, "the map is zero everywhere")
    told["energy"] = proportional_energy(saliency, lesion)
    told["focus"] = average_saliency_focus(saliency, lesion)
    told["pointing"] = pointing_game(saliency, lesion)
    told["rank_accuracy"] = rank_accuracy(saliency, lesion)
    told |= {"gini": gini(saliency), "complexity": effective_complexity(saliency)}
    around = {"inside": lesion, **shells(lesion, saliency.shape[-3:], affine)}
    return told | {f"balance_{name}": sign_balance(saliency[0], region) for name, region in around.items()}


def part_of(saliency: torch.Tensor, part: str) -> np.ndarray:
    """`(I, J, K)` float64, nowhere negative: the part of each modality of a map, added."""
    if part not in get_args(SignPart):
        raise ValueError(f"part must be abs, positive or negative, got {part!r}.")
    if saliency.ndim not in (3, 4):
        raise ValueError(f"A map must be (C, I, J, K) or (I, J, K), got {tuple(saliency.shape)}.")
    values = np.asarray(saliency, dtype=np.float64)
    _check_finite(values)
    values = {"abs": np.abs(values), "positive": np.maximum(values, 0), "negative": np.maximum(-values, 0)}[part]
    return values.sum(axis=0) if values.ndim == 4 else values


def _why_none(saliency: torch.Tensor, part: SignPart) -> str:
    """What to say where a part of a map has no value anywhere."""
    whole = part == "abs" or not np.asarray(saliency).any()
    return "the map is zero everywhere" if whole else f"the map has no {part} values"


def _check_finite(values: np.ndarray | torch.Tensor) -> None:
    lost = np.asarray(values).size - int(np.isfinite(np.asarray(values)).sum())
    if lost:
        raise ValueError(f"A map must be finite, got {lost} NaN or infinite values; explain anew.")


def _mask(region: Region, shape: Sequence[int]) -> np.ndarray:
    if isinstance(region, tuple):
        _check_box(region, shape)
        mask = np.zeros(tuple(shape), dtype=bool)
        mask[region] = True
        return mask
    if not isinstance(region, Lesion) and np.asarray(region).dtype == bool:
        mask = np.asarray(region)
        if mask.shape != tuple(shape):
            raise ValueError(f"Map and region must lie on one grid, got {tuple(shape)} and {mask.shape}.")
        return mask
    return as_mask(region, shape)


def _check_box(box: tuple[slice, ...], shape: Sequence[int]) -> None:
    """Refuse what `mask[box]` would cut at the border, or take for something else."""
    sides = [s for s in box if isinstance(s, slice) and s.step in (None, 1)]
    if len(box) == len(sides) == 3 and all(
        0 <= (s.start or 0) <= (n if s.stop is None else s.stop) <= n for s, n in zip(sides, shape, strict=True)
    ):
        return
    raise ValueError(f"A box must be three slices inside the grid {tuple(shape)}, got {box}; cut it off at the border.")


def _over(part: float, whole: float, mask: np.ndarray | None, why: str) -> float:
    """A quotient; NaN, and a warning that says why, where there is none."""
    if mask is not None and not mask.any():
        why, whole = "the region has no voxels", 0.0
    if whole == 0:
        warnings.warn(f"A measure of this map is NaN: {why}.", stacklevel=3)
        return float("nan")
    return part / whole
