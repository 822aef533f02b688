"""The texture of a signed map around its lesion, channel by channel, in numbers. `FEATURES` lists them all.

Strengths keep the map's unit: two maps of which one is twice as strong have features of which some are twice as large.
Arrangements (co-occurrence, runs, pieces, compactness) have none, and do not change when a map is multiplied by a
number. Distances are in mm, whatever the voxels' shape. Looked at is what lies within 10 mm of the lesion, for textures
within 2 mm; the peak is that of the whole map.

Sources: grey levels that occur together, Haralick et al. 1973; runs of one level, Galloway 1975; both as the Image
Biomarker Standardisation Initiative (Zwanenburg et al. 2020) writes them, with two departures. Levels lie evenly on
both sides of zero, so that a sign is never lost in one, and neighbours are told by mm, not by voxels.
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ies_helpers.arrays import (
    CONNECTIVITY,
    Affine,
    Box,
    LesionLike,
    Saliency,
    as_mask,
    door,
    spacing_of,
)
from ies_helpers.measures.maps import SHELLS, channel_shares, peak, proportional_energy, shells, sign_balance

TEXTURE_MM = 2.0  # how far textures reach beyond the lesion, and how far apart two voxels are neighbours
SIDE_LEVELS = 4  # grey levels on each side of zero: -4 to 4 from the strongest negative to the strongest positive
ROUNDING = 1e-6  # mm by which a distance may exceed a limit


@dataclass(frozen=True, eq=False)
class Around:
    """One channel of a map around its lesion: all that a feature may look at. Arrays are a box around the lesion."""

    values: np.ndarray  # (i, j, k) float64, in the map's unit
    lesion: np.ndarray  # (i, j, k) bool
    shells: dict[str, np.ndarray]  # of `maps.shells`, each (i, j, k) bool
    affine: Affine
    ends: tuple[float, float]  # smallest and largest value of the whole channel
    share: float  # of the map's absolute values that this channel has

    @property
    def spacing(self) -> np.ndarray:
        """`(3,)` mm."""
        return np.array(spacing_of(self.affine))

    @property
    def inside(self) -> np.ndarray:
        """`(V,)` values in the lesion."""
        return self.values[self.lesion]

    @cached_property
    def near(self) -> np.ndarray:
        """`(i, j, k)` bool: the lesion and what lies within 2 mm."""
        return self.lesion | next(iter(self.shells.values()))

    @cached_property
    def strength(self) -> np.ndarray:
        """`(i, j, k)` absolute values within 10 mm, 0 beyond."""
        return np.abs(self.values) * np.logical_or.reduce([self.lesion, *self.shells.values()])

    @cached_property
    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Grey levels -4 to 4 of the box around `near`, and where in it `near` is."""
        box = Box.around(self.near)
        values, near = self.values[box], self.near[box]
        most = np.abs(values[near]).max()
        return np.rint(SIDE_LEVELS * values / (most or 1)).astype(np.int64) * near, near

    @cached_property
    def together(self) -> np.ndarray:
        """`(9, 9)`: how often two levels are neighbours, over all pairs, in both orders; adds up to 1, or 0 of none."""
        levels, near = self.levels
        size, counts = 2 * SIDE_LEVELS + 1, np.zeros(0)
        for offset in neighbours(self.spacing):
            (one, other), both = _shifted(levels, offset), np.logical_and(*_shifted(near, offset))
            pairs = size * (one[both] + SIDE_LEVELS) + other[both] + SIDE_LEVELS
            found = np.bincount(pairs, minlength=size * size)
            counts = found if not len(counts) else counts + found
        table = counts.reshape(size, size).astype(np.float64) if len(counts) else np.zeros((size, size))
        return (table + table.T) / max(1.0, 2 * table.sum())


@dataclass(frozen=True)
class Feature:
    """One number of one channel of a map around its lesion; its column is `<channel>_<name>`.

    Its `function` gives NaN where there is no number, with a warning that ends in `NaN: <why>.`
    """

    name: str
    function: Callable[[Around], float]
    unit: str  # `map`, the map's own; `map/mm`, `mm`, `mm2`, `nats`; nothing for a number without unit
    meaning: str


@door
def map_features(
    saliency: Saliency, lesion: LesionLike, affine: Affine, channels: Sequence[str] | None = None
) -> dict[str, float]:
    """Every feature of a map by channel and name: `flair_mean`, `flair_sd`, ..., `t1_long_runs`; see `FEATURES`.

    Args:
        saliency: `(C, I, J, K)`, signed and as it was made: not scaled, not z-scored, not absolute.
        lesion: the lesion that was explained.
        affine: `(4, 4)`, gives distances their mm.
        channels: a name for each channel; `flair` and `t1` if None, or `all` where there is one.

    A feature that has no value is NaN, and a warning says why; a channel that is zero everywhere has none at all.
    """
    values, reasons = measure_features(saliency, lesion, affine, channels)
    if reasons:
        why = "; ".join(dict.fromkeys(reasons.values()))
        warnings.warn(f"{len(reasons)} of {len(values)} features of this map are NaN: {why}.", stacklevel=3)
    return values


def measure_features(
    saliency: Saliency, lesion: LesionLike, affine: Affine, channels: Sequence[str] | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """What `map_features` gives, and of each value that is NaN the reason."""
    mask = as_mask(lesion, saliency.shape[-3:])
    ends, shares = peak(saliency, channels), _quietly(lambda: channel_shares(saliency, channels))[0]
    reach = np.ceil(SHELLS[-1][1] / np.array(spacing_of(affine))).astype(int) + 1
    box = Box.around(mask).grow(reach, mask.shape)
    around = shells(mask[box], box.shape, affine)
    values, reasons = dict[str, float](), dict[str, str]()
    for channel, name in zip(saliency, (key.removesuffix("_share") for key in shares), strict=True):
        low, high = ends[f"{name}_min"], ends[f"{name}_max"]
        inside = np.asarray(channel[tuple(box)], dtype=np.float64)
        of = Around(inside, mask[box], around, affine, (low, high), shares[f"{name}_share"])
        empty = "" if low or high else f"{name} is zero everywhere"
        for row in FEATURES.values():
            values[f"{name}_{row.name}"], why = (np.nan, empty) if empty else _quietly(lambda: row.function(of))  # noqa: B023
            if why:
                reasons[f"{name}_{row.name}"] = why
    return values, reasons


def feature_of(column: str) -> Feature | None:
    """The row of `FEATURES` that a column of a table belongs to: `smoothgradmax_flair_mean` to `mean`; else None."""
    found = [row for row in FEATURES.values() if column.endswith(f"_{row.name}")]
    return max(found, key=lambda row: len(row.name), default=None)


def _quietly(function: Callable[[], Any]) -> tuple[Any, str]:
    """What a function gives, and why it is NaN where it says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function()
    why = [str(w.message).partition("NaN: ")[2].rstrip(".") for w in caught if "NaN: " in str(w.message)]
    return value, why[0] if why else ""


def _none(why: str) -> float:
    warnings.warn(f"A feature of this map is NaN: {why}.", stacklevel=3)
    return float("nan")


# How strong it is in the lesion, with its sign.


def _moment(of: Around, power: int) -> float:
    """Mean of the centred values to a power, in standard deviations."""
    inside = of.inside
    if np.ptp(inside) <= 1e-12 * np.abs(inside).max():
        return _none("the map is the same in all of the lesion")
    centred = inside - inside.mean()
    return float((centred**power).mean() / inside.std() ** power)


def _balance(of: Around, where: np.ndarray) -> float:
    return sign_balance(torch.from_numpy(of.values), where)


# How it falls with the distance.


def _shell_mean(of: Around, name: str) -> float:
    shell = of.shells[name]
    return float(of.values[shell].mean()) if shell.any() else _none(f"no voxel lies {name} mm from the lesion")


def _edge_slope(of: Around) -> float:
    """Mean over the lesion's surface of the step outwards, by the faces that its voxels share with others."""
    slopes, areas = list[np.ndarray](), list[np.ndarray]()
    for axis, step in enumerate(of.spacing):
        leaving = -np.diff(of.lesion.astype(np.int8), axis=axis)  # 1 where the next voxel is the first outside
        rise = np.diff(of.values, axis=axis) / step
        slopes.append((rise * leaving)[leaving != 0])
        areas.append(np.full(len(slopes[-1]), of.spacing.prod() / step))
    if not sum(map(len, slopes)):
        return _none("the lesion has no border inside the image")
    return float(np.average(np.concatenate(slopes), weights=np.concatenate(areas)))


# How it is spread in space. A voxel is a box in which its value lies evenly.


def _centre(of: Around, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre of mass `(3,)` in mm from the box's corner, and the root of the mean squared distance from it."""
    places = np.argwhere(weights) * of.spacing
    mass = weights[weights > 0] / weights.sum()
    middle = mass @ places
    squares = ((places - middle) ** 2).sum(axis=1)
    return middle, float(np.sqrt(mass @ squares + (of.spacing**2).sum() / 12))


def _spread(of: Around) -> float:
    return _centre(of, of.strength)[1] if of.strength.any() else _none("the map is zero within 10 mm")


def _offset(of: Around) -> float:
    if not of.strength.any():
        return _none("the map is zero within 10 mm")
    return float(np.linalg.norm(_centre(of, of.strength)[0] - _centre(of, of.lesion.astype(np.float64))[0]))


def _compactness(of: Around) -> float:
    """Spread of a ball of as many mm3 as carry the map, (sum S)^2 / sum S^2, over the spread that it has."""
    if not of.strength.any():
        return _none("the map is zero within 10 mm")
    volume = of.strength.sum() ** 2 / (of.strength**2).sum() * of.spacing.prod()
    return float(np.sqrt(3 / 5) * np.cbrt(3 * volume / (4 * np.pi)) / _centre(of, of.strength)[1])


def _pieces(of: Around) -> float:
    if not of.strength.any():
        return _none("the map is zero within 10 mm")
    strong: Any = ndimage.label(of.strength > of.strength.max() / 2, CONNECTIVITY)
    return float(strong[1])


def _inside(of: Around) -> float:
    return proportional_energy(torch.from_numpy(of.strength), of.lesion)


# Levels that occur together.


def neighbours(spacing: Sequence[float] | np.ndarray) -> list[tuple[int, int, int]]:
    """Steps in voxels between two that are at most 2 mm apart, one of each pair of opposite ones."""
    sides = [int(np.floor((TEXTURE_MM + ROUNDING) / step)) for step in spacing]
    steps = itertools.product(*(range(-side, side + 1) for side in sides))
    half: Any = [step for step in steps if step > (0, 0, 0)]
    return [step for step in half if np.linalg.norm(np.multiply(step, spacing)) <= TEXTURE_MM + ROUNDING]


def _shifted(array: np.ndarray, step: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Views of an array: voxels that have one a `step` further, and these."""
    here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, array.shape, strict=True))
    there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, array.shape, strict=True))
    if any(one.stop <= one.start for one in here):
        return array[:0, :0, :0], array[:0, :0, :0]
    return array[here], array[there]


def _without_texture(of: Around) -> str:
    if not of.values[of.near].any():
        return "the map is zero within 2 mm"
    return "" if of.together.any() else "no two of its voxels lie within 2 mm"


def _together(of: Around, weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Sum over pairs of levels of how often they are neighbours, times what `weigh(i, j)` says."""
    if why := _without_texture(of):
        return _none(why)
    level = np.arange(-SIDE_LEVELS, SIDE_LEVELS + 1.0)
    return float((of.together * weigh(level[:, None], level[None])).sum())


def _disorder(of: Around) -> float:
    held = of.together[of.together > 0]
    return _none(why) if (why := _without_texture(of)) else float(-(held * np.log(held)).sum())


def _correlation(of: Around) -> float:
    level, share = np.arange(-SIDE_LEVELS, SIDE_LEVELS + 1.0), of.together.sum(axis=0)
    middle = share @ level
    spread = share @ (level - middle) ** 2
    if not _without_texture(of) and spread <= 1e-12:
        return _none("all of its voxels have one grey level")
    return _together(of, lambda i, j: (i - middle) * (j - middle) / (spread or 1))


# Runs: voxels in a row that have one level, along the 13 directions of a grid.

DIRECTIONS = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]


def _runs(of: Around, power: int) -> float:
    """Mean over runs of their length in mm to a power, 1 or 2; the mean of that over directions.

    With w_k stretches of k voxels in a row of one level, there are w_1 - w_2 runs; the sum of their lengths is w_1, of
    their squares w_1 + 2 (w_2 + w_3 + ...).
    """
    if not of.values[of.near].any():
        return _none("the map is zero within 2 mm")
    levels, near = of.levels
    means = []
    for step in DIRECTIONS:
        alike = np.zeros_like(near)
        (one, other), both = _shifted(levels, step), np.logical_and(*_shifted(near, step))
        _shifted(alike, step)[0][...] = both & (one == other)  # with the next voxel
        counts, stretch = [int(near.sum())], near
        while counts[-1]:
            longer = np.zeros_like(near)
            _shifted(longer, step)[0][...] = _shifted(alike, step)[0] & _shifted(stretch, step)[1]
            stretch = longer
            counts.append(int(stretch.sum()))
        total = counts[0] if power == 1 else counts[0] + 2 * sum(counts[1:])
        means.append(total / (counts[0] - counts[1]) * float(np.linalg.norm(np.multiply(step, of.spacing))) ** power)
    return float(np.mean(means))


_NAMES = tuple(f"{low:g}-{high:g}" for low, high in SHELLS)

FEATURES = {
    row.name: row
    for row in (
        Feature("max", lambda of: of.ends[1], "map", "largest value of the whole map"),
        Feature("min", lambda of: of.ends[0], "map", "smallest value of the whole map"),
        Feature("share", lambda of: of.share, "", "share of the map's absolute values that this channel has"),
        Feature("mean", lambda of: float(of.inside.mean()), "map", "mean in the lesion"),
        Feature("sd", lambda of: float(of.inside.std()), "map", "standard deviation in the lesion"),
        Feature("low", lambda of: float(np.quantile(of.inside, 0.1)), "map", "a tenth of the lesion is below it"),
        Feature("high", lambda of: float(np.quantile(of.inside, 0.9)), "map", "a tenth of the lesion is above it"),
        Feature("skewness", lambda of: _moment(of, 3), "", "above 0: a tail of strong positive values in the lesion"),
        Feature("kurtosis", lambda of: _moment(of, 4), "", "3 for a bell, more for a few extreme values"),
        Feature("balance", lambda of: _balance(of, of.lesion), "", "sign balance in the lesion, -1 to 1"),
        *(
            Feature(f"balance_{name}", lambda of, name=name: _balance(of, of.shells[name]), "", f"and {name} mm away")
            for name in _NAMES
        ),
        *(
            Feature(f"mean_{name}", lambda of, name=name: _shell_mean(of, name), "map", f"mean {name} mm away")
            for name in _NAMES
        ),
        Feature("edge_slope", _edge_slope, "map/mm", "step outwards at the border, mean over the lesion's surface"),
        Feature("inside", _inside, "", "share of the absolute values within 10 mm that lies in the lesion"),
        Feature("spread", _spread, "mm", "root mean squared distance of the absolute values from their centre"),
        Feature("offset", _offset, "mm", "from the lesion's centre to that of the absolute values"),
        Feature("compactness", _compactness, "", "1 for an even ball, less for what is scattered"),
        Feature("pieces", _pieces, "", "connected parts of what is stronger than half the peak within 10 mm"),
        Feature("contrast", lambda of: _together(of, lambda i, j: (i - j) ** 2), "", "mean squared step to neighbours"),
        Feature("evenness", lambda of: _together(of, lambda i, j: 1 / (1 + abs(i - j))), "", "1: neighbours are alike"),
        Feature("disorder", _disorder, "nats", "entropy of pairs of neighbours"),
        Feature("correlation", _correlation, "", "of a level with its neighbours', -1 to 1"),
        Feature("run_length", lambda of: _runs(of, 1), "mm", "mean length of a run of one level"),
        Feature("long_runs", lambda of: _runs(of, 2), "mm2", "mean squared length of a run"),
    )
}
"""Every feature; a new one is a row here and one test."""
