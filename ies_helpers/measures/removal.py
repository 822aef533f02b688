"""Voxels removed from an image in the order of a map's relevance, and what stands in their place."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from ies_helpers.measures.imputation import imputed
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.lesions import Lesion, as_voxels
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.seeds import check_seed
from ies_helpers.subjects.surround import brain_mask
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels

Replacement = Literal["linear", "mean", "zero"]
"""What replaces a removed voxel: noisy linear imputation, the region's mean in each modality, or 0."""

REACH = 15
"""Voxels around a lesion that count as its surroundings: in 1 mm scans, where the published scores no longer
gain from more context (7 mm for the U-Net, 12 to 15 mm for Swin UNETR)."""

NOISE = 0.01
"""Standard deviation of the noise on imputed voxels, in z-scored intensity, as published."""


class Removal:
    """A region's voxels, and one lesion's score without some of them.

    A removed voxel is removed from every modality. Its noise is its own: the same whichever map ranks it, and
    whatever else is removed.

    Attributes:
        score: of the lesion.
        voxels: `(N, 3)` of the region, in scan order.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        image: Volume,
        lesion: Lesion | LabelMap | Voxels,
        *,
        region: LabelMap | None,
        fill: Replacement,
        seed: int,
    ) -> None:
        """See `road` for the arguments.

        Raises:
            ValueError: for a fill that does not exist, a seed below 0, or a region on another grid, outside the brain
                or where the image cannot change the score.
        """
        if fill not in get_args(Replacement):
            raise ValueError(f"fill must be one of {', '.join(get_args(Replacement))}, got {fill!r}.")
        check_seed(seed)
        self.score = LesionScore(network, image, lesion)
        self.voxels = _region(self.score, image, region)
        self.seed = seed
        self._image, self._fill = image, fill
        values = np.asarray(image[(slice(None), *torch.as_tensor(self.voxels).T)].cpu(), dtype=np.float64)
        self._mean = values.mean(axis=1, keepdims=True)
        self._noise = NOISE * np.random.default_rng([seed, 0]).standard_normal(values.shape)

    def __len__(self) -> int:
        return len(self.voxels)

    def ranked(self, saliency: Saliency) -> np.ndarray:
        """`(N,)` positions of the region's voxels, most relevant first; see `relevance`.

        By exact rank, never by a threshold: where most of a map is zero, a percentile of it is zero too, and a
        threshold there removes everything. Ties are broken by a seeded shuffle.
        """
        values = self.relevance(saliency)
        shuffled = np.random.default_rng([self.seed, 1]).permutation(len(values))
        return shuffled[np.argsort(-values[shuffled], kind="stable")]

    def relevance(self, saliency: Saliency) -> np.ndarray:
        """`(N,)` sum over modalities of absolute values, the region's voxels in scan order."""
        check_map(saliency, self._image)
        index = (slice(None), *torch.as_tensor(self.voxels).T)
        return np.asarray(saliency[index].abs().sum(dim=0, dtype=torch.float64).cpu())

    def without(self, removed: np.ndarray) -> torch.Tensor:
        """The image on the score's box without the voxels at these positions, `(C, i, j, k)`."""
        edited, voxels = self.score.image.clone(), self.voxels[removed]
        if len(removed) == 0:
            return edited
        local = voxels - [side.start for side in self.score.box]
        within = ((local >= 0) & (local < edited.shape[1:])).all(axis=1)
        values = torch.from_numpy(self._replacing(voxels, removed)[:, within]).to(edited)
        edited[(slice(None), *torch.as_tensor(local[within]).T)] = values
        return edited

    def _replacing(self, voxels: Voxels, removed: np.ndarray) -> np.ndarray:
        """`(C, n)` values in place of `voxels`."""
        if self._fill == "linear":
            return imputed(self._image, voxels) + self._noise[:, removed]
        level = self._mean if self._fill == "mean" else np.zeros_like(self._mean)
        return np.repeat(level, len(voxels), axis=1)


def tied(relevance: np.ndarray) -> float:
    """Share of voxels whose relevance another one has too, so that the shuffle ranks them: 1 for a constant map."""
    _, counts = np.unique(relevance, return_counts=True)
    return float(counts[counts > 1].sum() / len(relevance))


def counts(fractions: Sequence[float], size: int) -> np.ndarray:
    """How many of `size` voxels each fraction asks for, rounded.

    Raises:
        ValueError: for fractions that are not in (0, 1] and growing, or the smallest below one voxel.
    """
    asked = np.asarray(fractions, dtype=np.float64)
    if asked.ndim != 1 or not len(asked) or not (np.diff(asked, prepend=0) > 0).all() or asked[-1] > 1:
        raise ValueError(f"fractions must grow and lie above 0 and up to 1, got {list(fractions)}.")
    voxels = np.rint(asked * size).astype(np.int64)
    if voxels[0] < 1:
        raise ValueError(
            f"The smallest fraction must ask for a voxel, got {asked[0]:g} of {size} voxels; take a larger region or "
            "larger fractions."
        )
    return voxels


def check_map(saliency: Saliency, image: Volume) -> None:
    """Refuse a map on another grid, or one that is not finite."""
    if saliency.ndim != 4 or saliency.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"Map and image must share their grid, got {tuple(saliency.shape)} and {tuple(image.shape)}; a map of all "
            "modalities at once is (1, I, J, K)."
        )
    if not bool(torch.isfinite(saliency).all()):
        raise ValueError("A map must be finite, got NaN or infinity; compute it again.")


def surroundings(lesion: Lesion | LabelMap | Voxels, shape: tuple[int, ...], reach: float = REACH) -> LabelMap:
    """`(I, J, K)` bool: the lesion and all within `reach` voxels of it."""
    voxels, margin = as_voxels(lesion, tuple(shape)), int(reach) + 1
    lo = np.maximum(voxels.min(axis=0) - margin, 0)
    hi = np.minimum(voxels.max(axis=0) + margin + 1, shape)
    away = np.ones(tuple(hi - lo), dtype=bool)
    away[tuple((voxels - lo).T)] = False
    near = torch.zeros(shape, dtype=torch.bool)
    box = tuple(slice(a, b) for a, b in zip(lo.tolist(), hi.tolist(), strict=True))
    near[box] = torch.from_numpy(np.asarray(distance_transform_edt(away)) <= reach)
    return near


def _region(score: LesionScore, image: Volume, region: LabelMap | None) -> Voxels:
    """`(N, 3)` voxels of the region; by default the brain around the lesion."""
    brain = torch.from_numpy(brain_mask(image))
    if region is None:
        chosen = surroundings(score.voxels, tuple(brain.shape)) & brain
    elif tuple(region.shape) != tuple(brain.shape):
        raise ValueError(f"Region and image must share their grid, got {tuple(region.shape)} and {tuple(brain.shape)}.")
    else:
        chosen = torch.as_tensor(region).bool().cpu()
    if not bool((chosen & brain).any()):
        raise ValueError("A region must hold voxels of the brain, got none where the image is not zero.")
    if not bool(chosen[score.box].any()):
        raise ValueError(
            f"A region must hold voxels that can change the lesion's score, got none in {score.box}; take one around "
            "the lesion."
        )
    return np.argwhere(chosen.numpy())
