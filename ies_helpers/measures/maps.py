"""A map and its lesion -> numbers: where it lies, how strong it is, which way it points. `MEASURES` lists them all.

A quantity that has no value, for a map that is zero everywhere or a region without voxels, is NaN, and a warning says
why; it is never 0 or True. Maps are signed, so every measure of shares says which `part` of a map it takes: `abs`,
`positive` or `negative` (its magnitude). `(C, I, J, K)` maps are summed over channels after that.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy import ndimage

from ies_helpers.arrays import (
    Affine,
    Box,
    LesionLike,
    Saliency,
    as_mask,
    check_choice,
    check_finite,
    door,
    plain,
    spacing_of,
)
from ies_helpers.measures.removal import Curve, Road
from ies_helpers.subjects.subject import SHIPPED

SignPart = Literal["abs", "positive", "negative"]
Region = LesionLike | Box

SHELLS = ((0.0, 2.0), (2.0, 5.0), (5.0, 10.0))  # mm from the lesion: farther than the first, up to the second


def proportional_energy(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Share of a map, `(C, I, J, K)` or `(I, J, K)`, that lies in a region: sum(S M) / sum(S), 0 to 1.

    Source: Wang et al. 2020 (Score-CAM) for maps in 0 to 1; of the positive part also called relevance mass accuracy
    (Arras et al. 2022).
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    return _over(values[mask].sum(), values.sum(), mask, why_empty(saliency, part))


def average_saliency_focus(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Mean of a map over a region: sum(S M) / sum(M), in the map's unit. See `proportional_energy`.

    0 for a map that is strong elsewhere; NaN for one that is zero everywhere, which says nothing about a region.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    return _over(values[mask].sum(), mask.sum() * values.any(), mask, why_empty(saliency, part))


def relative_focus(saliency: Saliency, region: Region) -> float:
    """`average_saliency_focus` over the map's largest absolute value, so that methods of different units compare."""
    focus = average_saliency_focus(saliency, region)
    return focus / float(saliency.abs().sum(dim=0).max()) if np.isfinite(focus) else focus


def pointing_game(saliency: Saliency, region: Region, *, part: SignPart = "abs") -> float:
    """Whether the map peaks in the region: 1 or 0; of several equal peaks, the share of them that do.

    Source: Zhang et al. 2018, for one lesion and without their tolerance of 15 pixels.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    peaks = (values == values.max()) & values.any()
    return _over((peaks & mask).sum(), peaks.sum(), mask, why_empty(saliency, part))


def rank_accuracy(saliency: Saliency, region: Region, *, part: SignPart = "positive") -> float:
    """Share of the region's K voxels among the map's K strongest (relevance rank accuracy, Arras et al. 2022).

    Voxels that tie with the K-th share the places that are left.
    """
    values, mask = part_of(saliency, part), _mask(region, saliency.shape[-3:])
    if not values.any() or not mask.any():
        return _over(0.0, 0.0, mask, why_empty(saliency, part))
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
    return 1 - 2 * _over((values * weights).sum(), values.sum(), None, why_empty(saliency, part))


def effective_complexity(saliency: Saliency, *, part: SignPart = "abs") -> float:
    """Share of voxels above a tenth of the peak; small is simple (Nguyen and Martinez 2020, as Agg2Exp takes it)."""
    values = part_of(saliency, part)
    above = (values > 0.1 * values.max()).sum()
    return _over(above, values.size * values.any(), None, why_empty(saliency, part))


@door
def peak(saliency: Saliency, modalities: Sequence[str] | None = None) -> dict[str, float]:
    """Largest and smallest value by channel: `flair_max`, `flair_min`, ..., in the map's unit.

    Channels without names are `flair` and `t1`, or `all` where there is one.
    """
    channels = _by_channel(saliency, modalities).items()
    return {f"{name}_{end}": float(getattr(channel, end)()) for name, channel in channels for end in ("max", "min")}


def channel_shares(saliency: Saliency, channels: Sequence[str] | None = None) -> dict[str, float]:
    """Share of the map's absolute values that each channel has: `flair_share`, ..., which add up to 1; see `peak`."""
    named, total, why = _by_channel(saliency, channels), float(saliency.abs().sum()), "the map is zero everywhere"
    return {f"{name}_share": _over(float(own.abs().sum()), total, None, why) for name, own in named.items()}


def sign_balance(saliency: torch.Tensor, region: Region) -> float:
    """From -1, all negative, to 1, all positive: sum(S) / sum(|S|) over a region."""
    mask = _mask(region, saliency.shape[-3:])
    check_finite(saliency, "A map", "explain anew")
    inside = np.asarray(saliency, dtype=np.float64)[..., mask]
    return _over(inside.sum(), np.abs(inside).sum(), mask, "the map is zero there")


def shells(region: Region, shape: Sequence[int], affine: Affine) -> dict[str, np.ndarray]:
    """`SHELLS` as masks around a region, by true distance from its nearest voxel's centre: `0-2`, `2-5`, `5-10` mm."""
    mask, spacing = _mask(region, shape), np.array(spacing_of(affine))
    if not mask.any():
        raise ValueError("Shells need a region with voxels to lie around, got one without.")
    reach = np.ceil(SHELLS[-1][1] / spacing).astype(int) + 1  # what is farther lies in no shell
    near = Box.around(mask).grow(reach, shape)
    away: np.ndarray = np.asarray(ndimage.distance_transform_edt(~mask[near], sampling=spacing))
    around = {f"{low:g}-{high:g}": np.zeros_like(mask) for low, high in SHELLS}
    for shell, (low, high) in zip(around.values(), SHELLS, strict=True):
        shell[near] = (away > low) & (away <= high)
    return around


# The list of measures: what each one is, said once for tables, rankings and figures.


@dataclass(frozen=True, eq=False)
class MappedLesion:
    """A lesion and its map: all that a measure may look at."""

    saliency: Saliency
    lesion: Region
    affine: Affine
    channels: Sequence[str] | None = None  # what each is called; see `peak`
    road: Road | None = None  # what the network said without the relevant voxels, if it was asked
    deletion: Curve | None = None

    @cached_property
    def strength(self) -> torch.Tensor:
        """`(I, J, K)` absolute values, added over channels: what most measures start from."""
        return torch.from_numpy(part_of(self.saliency, "abs"))


@dataclass(frozen=True)
class Measure:
    """One kind of number about a map, and everything that tables, rankings and figures ask about it.

    Its `function` gives NaN where there is no number, with a warning that ends in `NaN: <why>.` It is `drawn` as a
    `box` of the lesions' values or a `bar` of their mean; `peak` and `balance` have a figure of their own.
    """

    name: str  # its column in tables, where `columns` does not say otherwise
    function: Callable[[MappedLesion], float | dict[str, float]]  # the number, or several by column
    title: str  # in print
    columns: tuple[str, ...] = ()  # its names in tables where they are several; `?*` stands for a channel or a place
    better: Literal["higher", "lower", ""] = ""  # end: then it is summarised in print, and methods are ranked by it
    in_unit: bool = False  # of the map, so that methods of different units do not compare
    drawn: Literal["box", "bar", "peak", "balance", ""] = "box"
    kept: bool = False  # in the table of lesions, `lesions.tsv`
    asks_network: bool = False  # again, without some voxels


def _balance_around(of: MappedLesion) -> dict[str, float]:
    around = shells(of.lesion, of.saliency.shape[-3:], of.affine)
    return {f"balance_{name}": sign_balance(of.saliency[0], shell) for name, shell in around.items()}


def _balance_inside(of: MappedLesion) -> float:
    return sign_balance(of.saliency[0], of.lesion)


def _deletion_area(of: MappedLesion) -> float:
    return of.deletion.log_area if of.deletion else np.nan


PEAKS = ("?*_max", "?*_min")
MEASURES = {
    row.name: row
    for row in (
        Measure("peak", lambda m: peak(m.saliency, m.channels), "peak", PEAKS, in_unit=True, drawn="peak", kept=True),
        Measure("share", lambda m: channel_shares(m.saliency, m.channels), "share", ("?*_share",), drawn="", kept=True),
        Measure("energy", lambda m: proportional_energy(m.strength, m.lesion), "energy", better="higher", kept=True),
        Measure("focus", lambda m: average_saliency_focus(m.strength, m.lesion), "focus", in_unit=True, drawn=""),
        Measure("pointing", lambda m: pointing_game(m.strength, m.lesion), "pointing", better="higher", drawn="bar"),
        Measure("rank_accuracy", lambda m: rank_accuracy(m.saliency, m.lesion), "rank accuracy", better="higher"),
        Measure("gini", lambda m: gini(m.strength), "Gini", better="higher"),
        Measure("complexity", lambda m: effective_complexity(m.strength), "complexity", better="lower"),
        Measure("balance_inside", _balance_inside, "sign balance in the lesion", drawn="balance", kept=True),
        Measure("balance", _balance_around, "sign balance around it", ("balance_?*",), drawn="balance"),
        Measure("relative_focus", lambda m: relative_focus(m.saliency, m.lesion), "relative focus", better="higher"),
        Measure("road", lambda m: m.road.mean if m.road else np.nan, "ROAD", better="higher", asks_network=True),
        Measure("deletion", _deletion_area, "deletion", better="lower", asks_network=True),
    )
}
"""Every measure; a new one is a row here and one test. `balance` is of the first channel, in the lesion and around."""


def measure_of(column: str) -> Measure | None:
    """The row of `MEASURES` that a column of a table belongs to: `flair_max` to `peak`; None for an unknown one."""
    having = (row for row in MEASURES.values() if any(fnmatchcase(column, pattern) for pattern in row.columns))
    return MEASURES.get(column) or next(having, None)


def ranked_measures() -> dict[str, Measure]:
    """The rows of which one end is better."""
    return {name: row for name, row in MEASURES.items() if row.better}


def measure_map(mapped: MappedLesion) -> tuple[dict[str, float], dict[str, str]]:
    """What one map says about its lesion, by column: values, and of those that are NaN the reason."""
    values, reasons = dict[str, float](), dict[str, str]()
    for row in MEASURES.values():
        if row.asks_network and mapped.road is None:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = row.function(mapped)
        found = found if isinstance(found, dict) else {row.name: found}
        missing = [column for column, value in found.items() if np.isnan(value)]
        why = [str(w.message).partition("NaN: ")[2].rstrip(".") for w in caught if "NaN: " in str(w.message)]
        values, reasons = values | found, reasons | dict(zip(missing, why, strict=False))
    return values, reasons


# What the measures above stand on.


def part_of(saliency: torch.Tensor, part: str) -> np.ndarray:
    """`(I, J, K)` float64, nowhere negative: the part of each channel of a map, added."""
    check_choice("part", part, get_args(SignPart))
    if saliency.ndim not in (3, 4):
        raise ValueError(f"A map must be (C, I, J, K) or (I, J, K), got {tuple(saliency.shape)}.")
    values = np.asarray(plain(saliency), dtype=np.float64)
    check_finite(values, "A map", "explain anew")
    values = np.abs(values) if part == "abs" else np.maximum(values if part == "positive" else -values, 0)
    return values.sum(axis=0) if values.ndim == 4 else values


def why_empty(saliency: torch.Tensor, part: SignPart) -> str:
    """What to say where a part of a map has no value anywhere."""
    whole = part == "abs" or not np.asarray(saliency).any()
    return "the map is zero everywhere" if whole else f"the map has no {part} values"


def _by_channel(saliency: Saliency, channels: Sequence[str] | None) -> dict[str, torch.Tensor]:
    """The channels of a map by name, checked."""
    names = channels or (SHIPPED if len(saliency) > 1 else ("all",))
    if saliency.ndim != 4 or len(saliency) != len(names):
        wanted = f"(C, I, J, K) with a channel for each of {', '.join(names)}"
        raise ValueError(f"A map must be {wanted}, got {tuple(saliency.shape)}; give the names of its channels.")
    check_finite(saliency, "A map", "explain anew")
    return dict(zip(names, saliency, strict=True))


def _mask(region: Region, shape: Sequence[int]) -> np.ndarray:
    """`(I, J, K)` bool. Unlike a lesion, a region may be empty: what is measured in it is then NaN."""
    shape = tuple(shape)
    if isinstance(region, tuple):
        # numpy would cut a box at the border, or take it for something else
        sides = [s for s in region if isinstance(s, slice) and s.step in (None, 1)]
        if not len(region) == len(sides) == 3 or not all(
            0 <= (s.start or 0) <= (n if s.stop is None else s.stop) <= n for s, n in zip(sides, shape, strict=True)
        ):
            raise ValueError(f"A box must be three slices inside the grid {shape}, got {region}; cut it at the border.")
        mask = np.zeros(shape, dtype=bool)
        mask[region] = True
        return mask
    if getattr(region, "dtype", None) not in (bool, torch.bool):
        return as_mask(region, shape)
    mask = np.asarray(region)
    if mask.shape != shape:
        raise ValueError(f"Map and region must lie on one grid, got {shape} and {mask.shape}.")
    return mask


def _over(part: Any, whole: Any, mask: np.ndarray | None, why: str) -> float:
    """A quotient; NaN, and a warning that says why, where there is none."""
    if mask is not None and not mask.any():
        why, whole = "the region has no voxels", 0.0
    if whole == 0:
        warnings.warn(f"A measure of this map is NaN: {why}.", stacklevel=3)
        return float("nan")
    return float(part) / float(whole)
