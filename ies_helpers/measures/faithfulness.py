"""Does the score follow the map? Deletion and insertion curves, correlation over random subsets, and stability."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn

from ies_helpers.measures.removal import Removal, Replacement, check_map, counts, tied
from ies_helpers.measures.similarity import pearson
from ies_helpers.segmentation.inference import check_image
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.seeds import check_seed
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels


@dataclass(frozen=True, eq=False)
class Curve:
    """A lesion's mean probability against the number of voxels deleted or inserted.

    Attributes:
        voxels: `(S,)` from 0 to all of the region.
        scores: `(S,)`.
        tied: share of the region that the map does not rank, as in `Road`.
    """

    voxels: np.ndarray
    scores: np.ndarray
    tied: float

    @property
    def fractions(self) -> np.ndarray:
        """`(S,)` of the region."""
        return self.voxels / self.voxels[-1]

    @property
    def area(self) -> float:
        """Area under the scores against the fraction, as published (trapezoids): low for deletion, high for insertion.

        A lesion is a small part of its surroundings, so that a good map's fall happens at fractions near 0 and
        hardly counts here: see `log_area`.
        """
        return float(trapezoid(self.scores, self.fractions))

    @property
    def log_area(self) -> float:
        """Mean height of the scores from one voxel to all against the logarithm of their number."""
        steps = np.log(self.voxels[1:])
        return float(trapezoid(self.scores[1:], steps) / steps[-1])


def deletion(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    saliency: Saliency,
    *,
    steps: int = 24,
    fill: Replacement = "mean",
    region: LabelMap | None = None,
    seed: int = 0,
) -> Curve:
    """The score while voxels are deleted, the most relevant first, until the region is gone.

    Source: Petsiuk et al. (RISE, BMVC 2018, arXiv 1806.07421). Departure: the number of voxels grows
    geometrically from 1, so that the first few are resolved.

    Args:
        network, image, lesion, saliency, region, seed: see `road`.
        steps: points of the curve after the first, fewer in a region of fewer voxels.
        fill: see `road`; `linear` takes long where much is deleted.
    """
    removal = Removal(network, image, lesion, region=region, fill=fill, seed=seed)
    order, voxels = removal.ranked(saliency), _geometric(len(removal), steps)
    scores = removal.score(removal.without(order[:n]) for n in voxels)[0].numpy()
    return Curve(voxels, scores, tied(removal.relevance(saliency)))


def insertion(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    saliency: Saliency,
    *,
    steps: int = 24,
    fill: Replacement = "mean",
    region: LabelMap | None = None,
    seed: int = 0,
) -> Curve:
    """The score while voxels are put back into an emptied region, the most relevant first; see `deletion`.

    Departure from RISE: it starts from the fill, not from a blurred image.
    """
    removal = Removal(network, image, lesion, region=region, fill=fill, seed=seed)
    order, voxels = removal.ranked(saliency), _geometric(len(removal), steps)
    scores = removal.score(removal.without(order[n:]) for n in voxels)[0].numpy()
    return Curve(voxels, scores, tied(removal.relevance(saliency)))


def _geometric(size: int, steps: int) -> np.ndarray:
    """0, then up to `steps` whole numbers from 1 to `size`, evenly apart on a logarithmic scale."""
    if size < 2 or steps < 2:
        raise ValueError(f"A curve needs a region of 2 voxels and 2 steps or more, got {size} and {steps}.")
    return np.unique(np.r_[0, np.rint(np.geomspace(1, size, steps)).astype(np.int64)])


def sensitivity_n(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    saliencies: Sequence[Saliency],
    *,
    fractions: Sequence[float] = (0.01, 0.1, 0.5),
    subsets: int = 50,
    fill: Replacement = "zero",
    region: LabelMap | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Correlation between what maps give to random subsets and how far the logit falls without these.

    For each fraction, Pearson's r over `subsets` random subsets of that size between the sum of the signed map
    in the subset, over all modalities, and the fall of the mean class-1 logit over the lesion. Sources: Ancona
    et al. (ICLR 2018, arXiv 1711.06104); at one fraction it is the faithfulness correlation of Bhatt et al.
    (IJCAI 2020, arXiv 2005.00631). All maps see the same subsets.

    A map must be in logits for this: give a gradient times the image (for fill `zero`), not the gradient.
    Random subsets of a large region seldom meet the lesion, and then say nothing.

    Args:
        network, image, lesion, fill, region, seed: see `road`.
        saliencies: M maps, each `(C, I, J, K)` or `(1, I, J, K)`.
        fractions: of the region, growing.
        subsets: of each size, at least 2.

    Returns:
        `(M, F)`; NaN where a map or the logit is the same for every subset (a map that is zero in the region, or
        a score that no voxel of it changes).
    """
    if subsets < 2:
        raise ValueError(f"A correlation needs at least 2 subsets, got {subsets}.")
    if not len(saliencies):
        raise ValueError("saliencies must hold a map to correlate, got none; give [saliency].")
    removal = Removal(network, image, lesion, region=region, fill=fill, seed=seed)
    sizes = counts(fractions, len(removal))
    for saliency in saliencies:
        check_map(saliency, image)
    index = (slice(None), *torch.as_tensor(removal.voxels).T)
    given = np.stack([np.asarray(s[index].sum(dim=0, dtype=torch.float64).cpu()) for s in saliencies])
    found = np.empty((len(saliencies), len(sizes)))
    for n, size in enumerate(sizes):
        rng = np.random.default_rng([seed, 2, n])
        chosen = [rng.choice(len(removal), size, replace=False) for _ in range(subsets)]
        edited = (removal.without(subset) for subset in [np.empty(0, dtype=np.int64), *chosen])
        logits = removal.score.logits(edited)[:, 1].mean(dim=1).numpy()
        falls = logits[0] - logits[1:]
        found[:, n] = [pearson(np.array([g[subset].sum() for subset in chosen]), falls) for g in given]
    return found


def faithfulness_correlation(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    saliencies: Sequence[Saliency],
    *,
    fraction: float = 0.1,
    subsets: int = 100,
    fill: Replacement = "zero",
    region: LabelMap | None = None,
    seed: int = 0,
) -> np.ndarray:
    """`sensitivity_n` at one fraction: `(M,)`."""
    settings = {"fractions": [fraction], "subsets": subsets, "region": region, "seed": seed}
    return sensitivity_n(network, image, lesion, saliencies, fill=fill, **settings)[:, 0]


def sensitivity(
    explain: Callable[[Volume], Saliency], image: Volume, *, draws: int = 10, bound: float = 0.1, seed: int = 0
) -> np.ndarray:
    """How much a map changes with small changes of the image: lower is better.

    Draw n adds uniform noise from -bound to bound to every entry; its change is ||S(x + e) - S(x)|| / ||S(x)||.
    Source: Yeh et al. (NeurIPS 2019, arXiv 1901.09392). Average sensitivity is the mean, maximum sensitivity
    the largest of what is returned. A map that is the same for every image is perfectly stable, and worthless.

    Args:
        explain: `(C, I, J, K)` image -> map, with its lesion, method and seed inside.
        image: `(C, I, J, K)`, z-scored.
        draws: number of noisy images.
        bound: of the noise, in z-scored intensity.
        seed: of the noise; draw n depends on seed and n alone.

    Returns:
        `(draws,)` relative changes; all NaN if the image's own map is zero everywhere.
    """
    check_image(image)
    if draws < 1 or bound <= 0:
        raise ValueError(f"draws must be at least 1 and bound above 0, got {draws} and {bound}.")
    check_seed(seed)
    clean = explain(image).double()
    if not bool(clean.any()):
        return np.full(draws, np.nan)
    changes = []
    for draw in range(draws):
        noise = np.random.default_rng([seed, 4, draw]).uniform(-bound, bound, tuple(image.shape))
        noisy = image + torch.from_numpy(noise).to(image)
        changes.append(float((explain(noisy).double() - clean).norm() / clean.norm()))
    return np.array(changes)
