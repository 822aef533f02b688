"""ROAD in 3D for one lesion: remove and debias.

Source: Rong et al. (ICML 2022, arXiv 2202.00449). Removing what a map calls relevant should hurt, removing what
it calls irrelevant should not, and neither should leave a hole that the network recognises as one; so removed
voxels are filled from their neighbours (`imputation`).

Departures: rank-exact removal in place of percentile thresholds; small fractions of a region around the lesion,
because a lesion is a ten-thousandth of a head; the score is the lesion's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ies_helpers.measures.removal import Removal, Replacement, counts, tied
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels

FRACTIONS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, eq=False)
class Road:
    """A lesion's score after removal, for each fraction.

    Attributes:
        fractions: `(F,)` of the region, as removed (whole voxels).
        voxels: `(F,)` how many that is.
        clean: score with nothing removed: the mean class-1 probability over the lesion's voxels.
        morf: `(F,)` score with the most relevant removed first.
        lerf: `(F,)` score with the least relevant removed first.
        tied: share of the region that the map does not rank, and the shuffle did: 1 for a constant map, whose
            result is then chance.
    """

    fractions: np.ndarray
    voxels: np.ndarray
    clean: float
    morf: np.ndarray
    lerf: np.ndarray
    tied: float

    @property
    def score(self) -> np.ndarray:
        """`(F,)` (LeRF - MoRF) / 2, from -0.5 to 0.5: above 0 the map ranks better than its reverse."""
        return (self.lerf - self.morf) / 2

    @property
    def mean(self) -> float:
        """The mean of `score` over fractions: one number, higher is better."""
        return float(self.score.mean())


def road(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    saliency: Saliency,
    *,
    fractions: Sequence[float] = FRACTIONS,
    fill: Replacement = "linear",
    region: LabelMap | None = None,
    seed: int = 0,
) -> Road:
    """How much a lesion's probability falls when a map's most, or least, relevant voxels are removed.

    Args:
        network: scores the lesion, on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
        saliency: `(C, I, J, K)` or `(1, I, J, K)`; a voxel's relevance is the sum over modalities of absolute
            values. For another order, such as the positive part's, give that map.
        fractions: of the region to remove, growing.
        fill: `linear` is ROAD's noisy imputation; `mean` and `zero` leave a visible hole, for comparison.
        region: `(I, J, K)` bool, what is ranked and removed; None takes the brain (where any modality is not zero)
            within 15 voxels of the lesion (`surroundings`), the same for every network and method. In a region as
            large as a head the smallest fraction is larger than the lesion, and all sensible maps score alike.
        seed: of the shuffle among ties and of the noise.

    Raises:
        ValueError: for a map or region on another grid, a region outside the brain or out of the score's reach,
            or too small for the smallest fraction.
    """
    removal = Removal(network, image, lesion, region=region, fill=fill, seed=seed)
    order, voxels = removal.ranked(saliency), counts(fractions, len(removal))
    removed = [order[:0], *(order[:n] for n in voxels), *(order[-n:] for n in voxels)]
    scores = removal.score(map(removal.without, removed))[0].numpy()
    clean, morf, lerf = float(scores[0]), scores[1 : 1 + len(voxels)], scores[1 + len(voxels) :]
    return Road(voxels / len(order), voxels, clean, morf, lerf, tied(removal.relevance(saliency)))
