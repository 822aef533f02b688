"""How alike two maps are: rank correlation, structural similarity, and the shuffled map to read them beside."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects, gaussian_filter
from scipy.stats import rankdata

from ies_helpers.types import LabelMap, Saliency


class Similarity(NamedTuple):
    """How alike two maps are: 1 if the same, about 0 if they have nothing in common (but see `ssim`), less if opposite.

    Attributes:
        spearman: rank correlation of the signed values in the region, all modalities together.
        spearman_abs: of the absolute values.
        ssim: structural similarity, see `ssim`.
        reason: why they are NaN; empty where they are not.
    """

    spearman: float
    spearman_abs: float
    ssim: float
    reason: str = ""


def similarity(one: Saliency, other: Saliency, region: LabelMap) -> Similarity:
    """Compare two maps `(C, I, J, K)` on a region `(I, J, K)`, bool or 0 and 1."""
    region = torch.as_tensor(region).bool()
    if one.shape != other.shape or tuple(region.shape) != tuple(one.shape[1:]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (one, other, region))
        raise ValueError(f"Maps and region must share their grid, got {shapes}.")
    nan = float("nan")
    if not bool(region.any()):
        return Similarity(nan, nan, nan, "the region is empty")
    if not (one.isfinite().all() and other.isfinite().all()):
        return Similarity(nan, nan, nan, "a map has NaN or infinite values")
    a, b = (np.asarray(m[:, region], dtype=np.float64).ravel() for m in (one, other))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Similarity(nan, nan, nan, "a map is constant in the region")
    signed, absolute = (pearson(rankdata(f(a)), rankdata(f(b))) for f in (np.positive, np.abs))
    flat = "the absolute values of a map are constant in the region" if np.isnan(absolute) else ""
    return Similarity(signed, absolute, ssim(one, other, region), flat)


def ssim(one: Saliency, other: Saliency, region: LabelMap) -> float:
    """Mean structural similarity on the region, each map a divided by its largest absolute value first, as 1 + a.

    Source: Wang et al. (IEEE TIP 2004): a gaussian window of sigma 1.5 (11^3 voxels), K1 = 0.01, K2 = 0.03, range 2.
    It is made for images, which are never negative: of a map and its negative both the luminances and the structures
    are opposite, and their product would call the two alike. Hence 1 + a, from 0 to 2. Where both maps are nearly zero
    it is nearly 1, so for sparse maps it is high whatever they show: read it beside the random baseline only.
    """
    box = find_objects(np.asarray(region, dtype=np.uint8))[0]
    weights = np.asarray(region, dtype=bool)[box]
    total = 0.0
    for a, b in zip(_scaled(one, box), _scaled(other, box), strict=True):
        total += float(_ssim_map(1 + a, 1 + b)[weights].mean())
    return total / len(one)


def _scaled(saliency: Saliency, box: tuple[slice, ...]) -> np.ndarray:
    values = np.asarray(saliency[(slice(None), *box)], dtype=np.float64)
    return values / np.abs(values).max()


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def local(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, sigma=1.5, radius=5)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b, cov = local(a * a) - mean_a**2, local(b * b) - mean_b**2, local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def shuffled(saliency: Saliency, region: LabelMap, seed: int = 0) -> Saliency:
    """The map with its voxels in the region in random order, modalities kept together, zero elsewhere."""
    values = saliency[:, region]
    order = np.random.default_rng([seed, 3]).permutation(values.shape[1])
    other = torch.zeros_like(saliency)
    other[:, region] = values[:, torch.from_numpy(order)]
    return other


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; NaN where either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
