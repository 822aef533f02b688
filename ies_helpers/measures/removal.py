"""Does a lesion's score fall when the voxels go that a map calls relevant?

A region's voxels are ranked by a map; some are taken away, something else is put in their place, and the network is
asked for the lesion's mean probability again. `road` compares the most relevant with the least, `deletion` and
`insertion` follow the score voxel by voxel, `sensitivity_n` correlates what random subsets have in the map with what
their removal costs, and `sensitivity` moves the image a little and looks at the map.

ROAD, remove and debias, is of Rong et al. (ICML 2022, arXiv 2202.00449). Removing what a map calls relevant should
hurt, removing what it calls irrelevant should not, and neither should leave a hole that the network recognises as one.
Departures: rank-exact removal in place of percentile thresholds; small fractions of a region around the lesion, because
a lesion is a ten-thousandth of a head; the score is the lesion's.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg
from torch import nn

from ies_helpers.arrays import Box, LesionLike, Saliency, Volume, as_mask, check_choice, check_finite, check_seed, door
from ies_helpers.measures.sanity import pearson
from ies_helpers.saliency.comparison import mean_logits
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.inference import check_image
from ies_helpers.segmentation.network import Network
from ies_helpers.subjects.tissue import brain_mask

# What is removed: which voxels, in which order.

Replacement = Literal["linear", "mean", "zero"]  # noisy linear imputation, the region's mean in each channel, or 0

IMPUTATION_NOISE = 0.01  # standard deviation of the noise on imputed voxels, in z-scored intensity, as published


class Removing(TypedDict, total=False):
    """How voxels are removed.

    `fill` `linear` is ROAD's noisy imputation; `mean` and `zero` leave a visible hole, for comparison. `region`,
    `(I, J, K)` bool, is what is ranked and removed; None takes the brain (where any channel is not zero) within 15
    voxels of the lesion (`surroundings`), the same for every network and method. In a region as large as a head the
    smallest fraction is larger than the lesion, and all sensible maps score alike. `seed` is of the shuffle among ties
    and of the noise.
    """

    fill: Replacement
    region: torch.Tensor | None
    seed: int


class Removal:
    """A region's voxels, and one lesion's score without some of them.

    A removed voxel is removed from every channel. Its noise is its own: the same whichever map ranks it, and
    whatever else is removed. `score` is of the lesion, `voxels` `(N, 3)` the region's, in scan order.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        image: Volume,
        lesion: LesionLike,
        *,
        fill: Replacement = "linear",
        region: torch.Tensor | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("fill", fill, get_args(Replacement))
        check_seed(seed)
        self.score = LesionScore(network, image, lesion)
        self.voxels = _region(self.score, image, region)
        self.seed, self._image, self._fill = seed, image, fill
        values = np.asarray(image[:, *self.voxels.T].cpu(), dtype=np.float64)  # (C, N)
        self._mean = values.mean(axis=1, keepdims=True)
        self._noise = IMPUTATION_NOISE * np.random.default_rng([seed, 0]).standard_normal(values.shape)

    def __len__(self) -> int:
        return len(self.voxels)

    def sums(self, saliency: Saliency) -> np.ndarray:
        """`(N,)` sum over channels, the region's voxels in scan order; of absolute values it is their relevance."""
        if saliency.ndim != 4 or saliency.shape[1:] != self._image.shape[1:]:
            shapes = f"{tuple(saliency.shape)} and {tuple(self._image.shape)}"
            remedy = "a map of all channels at once is (1, I, J, K)"
            raise ValueError(f"Map and image must share their grid, got {shapes}; {remedy}.")
        check_finite(saliency, "A map", "compute it again")
        return np.asarray(saliency[:, *self.voxels.T].sum(dim=0, dtype=torch.float64).cpu())

    def rank(self, saliency: Saliency) -> np.ndarray:
        """`(N,)` positions of the region's voxels, most relevant first, ties broken by a seeded shuffle.

        By exact rank: where most of a map is zero, a percentile of it is zero too, and would remove everything.
        """
        relevance = self.sums(saliency.abs())
        shuffled = np.random.default_rng([self.seed, 1]).permutation(len(relevance))
        return shuffled[np.argsort(-relevance[shuffled], kind="stable")]

    def without(self, removed: np.ndarray) -> torch.Tensor:
        """The image on the score's box without the voxels at these positions, `(C, i, j, k)`."""
        edited, voxels = self.score.image.clone(), self.voxels[removed]
        if len(removed) == 0:
            return edited
        if self._fill == "linear":
            values = impute(self._image, voxels) + self._noise[:, removed]
        else:
            values = np.repeat(self._mean * (self._fill == "mean"), len(voxels), axis=1)
        local = voxels - self.score.box.start
        within = ((local >= 0) & (local < edited.shape[1:])).all(axis=1)
        edited[:, *local[within].T] = torch.from_numpy(values[:, within]).to(edited)
        return edited


def share_of_ties(relevance: np.ndarray) -> float:
    """Share of voxels whose relevance another one has too, so that the shuffle ranks them: 1 for a constant map."""
    _, counts = np.unique(relevance, return_counts=True)
    return float(counts[counts > 1].sum() / len(relevance))


def count_voxels(fractions: Sequence[float], size: int) -> np.ndarray:
    """How many of `size` voxels each fraction asks for, rounded."""
    asked = np.asarray(fractions, dtype=np.float64)
    if asked.ndim != 1 or not len(asked) or not (np.diff(asked, prepend=0) > 0).all() or asked[-1] > 1:
        raise ValueError(f"fractions must grow and lie above 0 and up to 1, got {list(fractions)}.")
    voxels = np.rint(asked * size).astype(np.int64)
    if voxels[0] < 1:
        raise ValueError(f"The smallest fraction must ask for a voxel, got {asked[0]:g} of {size}; take a larger one.")
    return voxels


@door
def surroundings(lesion: LesionLike, shape: tuple[int, ...], reach: float = 15) -> torch.Tensor:
    """`(I, J, K)` bool: the lesion and all within `reach` voxels of it.

    15 in 1 mm scans is where the published scores gain no more from context (7 mm U-Net, 12 to 15 mm Swin UNETR).
    """
    mask = as_mask(lesion, shape)
    box = Box.around(mask).grow(int(reach) + 1, shape)
    near = torch.zeros(tuple(shape), dtype=torch.bool)
    near[box] = torch.from_numpy(np.asarray(distance_transform_edt(~mask[box])) <= reach)
    return near


def _region(score: LesionScore, image: Volume, region: torch.Tensor | None) -> np.ndarray:
    """`(N, 3)` voxels of the region; by default the brain around the lesion."""
    brain = torch.from_numpy(brain_mask(image))
    if region is None:
        region = surroundings(score.voxels, brain.shape) & brain
    if region.shape != brain.shape:
        raise ValueError(f"Region and image must share their grid, got {tuple(region.shape)} and {tuple(brain.shape)}.")
    chosen = torch.as_tensor(region).bool().cpu()
    if not (chosen & brain).any():
        raise ValueError("A region must hold voxels of the brain, got none where the image is not zero.")
    if not chosen[score.box].any():
        wanted = "voxels that can change the lesion's score"
        raise ValueError(f"A region must hold {wanted}, got none in {score.box}; move it there.")
    return np.argwhere(chosen.numpy())


# What is put in its place: removed voxels as their surroundings would have them, by noisy linear imputation in 3D.
#
# ROAD has it in 2D with 8 neighbours: weight 1/6 for those that share an edge, 1/12 for diagonal ones, which is 1/d^2
# over its sum. The same rule in 3D has 26 neighbours: 3/44 across a face, 3/88 an edge, 1/44 a corner; on one slice it
# is the 2D rule again.

NEIGHBOUR_WEIGHTS = {1: 3 / 44, 2: 3 / 88, 3: 1 / 44}  # by squared distance d^2; the 26 add up to 1
NEIGHBOURS = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if any(offset)]
NOT_REMOVED, BEYOND_IMAGE = -1, -2  # what stands in the volume of numbers where a voxel has no number


def impute(image: Volume, voxels: np.ndarray) -> np.ndarray:
    """`(C, n)` float64 for removed voxels `(n, 3)`: each the weighted mean of its 26 neighbours, all solved at once.

    For every removed i: sum_n w_n x_n = x_i sum_n w_n, over the neighbours n inside the volume; removed
    neighbours are unknowns, all others keep their value. The noise of "noisy" is added by the caller.
    """
    if len(voxels) == image[0].numel():
        remedy = "take a smaller region or fraction, or fill='mean'"
        raise ValueError(f"Linear imputation needs a voxel that is kept, got all of the image removed; {remedy}.")
    # The removed voxels' box with a frame of neighbours: values (C, i j k), and each removed voxel's number (i, j, k).
    # One more layer around both, so that every neighbour can be looked up, is marked as beyond the image.
    box = Box.around(voxels).grow(1, image.shape[1:])
    values = np.asarray(image[:, *box].detach().cpu(), dtype=np.float64)
    values = np.pad(values, [(0, 0), *[(1, 1)] * 3]).reshape(len(image), -1)
    number = np.full(box.shape, NOT_REMOVED, dtype=np.int32)
    number[tuple((voxels - box.start).T)] = np.arange(len(voxels))
    number = np.pad(number, 1, constant_values=BEYOND_IMAGE)

    # (26, n) where each removed voxel's neighbours are in the flattened volume, and their numbers.
    step = np.array([number.shape[1] * number.shape[2], number.shape[2], 1])
    there = (np.array(NEIGHBOURS) @ step)[:, None] + (voxels - box.start + 1) @ step
    neighbours = number.ravel()[there]
    weights = np.array([NEIGHBOUR_WEIGHTS[sum(map(abs, offset))] for offset in NEIGHBOURS])[:, None]

    # The symmetric positive definite system: one inside the image adds to the diagonal (n,); a kept one goes to the
    # right-hand sides (C, n) with its value, a removed one into the matrix (n, n).
    diagonal = (weights * (neighbours != BEYOND_IMAGE)).sum(axis=0)
    rhs = [(weights * np.where(neighbours == NOT_REMOVED, channel[there], 0)).sum(axis=0) for channel in values]
    which, rows = np.nonzero(neighbours >= 0)
    between = csr_array((-weights[which, 0], (rows, neighbours[which, rows])), shape=(len(voxels), len(voxels)))
    matrix, jacobi = csr_array(between + diags_array(diagonal)), diags_array(1 / diagonal)
    solved = [cg(matrix, b, rtol=1e-8, M=jacobi) for b in rhs]  # residual over the right-hand side
    if any(info for _, info in solved):
        raise RuntimeError(f"The imputation of {len(voxels)} voxels did not converge; take a smaller fraction.")
    return np.stack([x for x, _ in solved])


# ROAD: most against least relevant.

ROAD_FRACTIONS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, eq=False)
class Road:
    """A lesion's score, the mean class-1 probability over its voxels, after removal of each of F fractions."""

    fractions: np.ndarray  # (F,) of the region, as removed (whole voxels)
    voxels: np.ndarray  # (F,) how many that is
    clean: float  # score with nothing removed
    morf: np.ndarray  # (F,) score with the most relevant removed first
    lerf: np.ndarray  # (F,) score with the least relevant removed first
    tied: float  # share of the region that the shuffle ranked, not the map: 1 for a constant map, then all is chance

    @property
    def score(self) -> np.ndarray:
        """`(F,)` (LeRF - MoRF) / 2, from -0.5 to 0.5: above 0 the map ranks better than its reverse."""
        return (self.lerf - self.morf) / 2

    @property
    def mean(self) -> float:
        """The mean of `score` over fractions: one number, higher is better."""
        return float(self.score.mean())


@door
def road(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    saliency: Saliency,
    *,
    fractions: Sequence[float] = ROAD_FRACTIONS,
    **how: Unpack[Removing],
) -> Road:
    """How much a lesion's probability falls when a map's most, or least, relevant voxels are removed.

    Args:
        network: scores the lesion, on the whole volume or through its windows: `network.through`.
        image, lesion: z-scored, and whose score is asked for.
        saliency: `(C, I, J, K)` or `(1, I, J, K)`; relevance is the sum over channels of absolute values. For
            another order, such as the positive part's, give that map.
        fractions: of the region to remove, growing.
        how: `fill` (here `linear` unless said), `region` and `seed`, see `Removing`.
    """
    removal = Removal(network, image, lesion, **how)
    order, voxels = removal.rank(saliency), count_voxels(fractions, len(removal))
    removed = [order[:0], *(order[:n] for n in voxels), *(order[-n:] for n in voxels)]
    clean, *scores = removal.score(map(removal.without, removed))[0].numpy()
    morf, lerf = np.array(scores).reshape(2, -1)
    return Road(voxels / len(order), voxels, float(clean), morf, lerf, share_of_ties(removal.sums(saliency.abs())))


# Deletion and insertion: the score voxel by voxel.


@dataclass(frozen=True, eq=False)
class Curve:
    """A lesion's mean probability against the number of voxels deleted or inserted."""

    voxels: np.ndarray  # (S,) from 0 to all of the region
    scores: np.ndarray  # (S,)
    tied: float  # as in `Road`

    @property
    def fractions(self) -> np.ndarray:
        """`(S,)` of the region."""
        return self.voxels / self.voxels[-1]

    @property
    def area(self) -> float:
        """Area under the scores against the fraction, as published: low is good for deletion, high for insertion.

        A lesion is a small part of its surroundings: a good map's fall near 0 hardly counts here, see `log_area`.
        """
        return float(trapezoid(self.scores, self.fractions))

    @property
    def log_area(self) -> float:
        """Mean height of the scores from one voxel to all against the logarithm of their number."""
        steps = np.log(self.voxels[1:])
        return float(trapezoid(self.scores[1:], steps) / steps[-1])


class Stepping(Removing, total=False):
    """The same, in up to `steps` steps: the number of voxels grows geometrically from 1; 24 unless said."""

    steps: int


@door
def deletion(
    network: Network | nn.Module, image: Volume, lesion: LesionLike, saliency: Saliency, **how: Unpack[Stepping]
) -> Curve:
    """The score while voxels are deleted, the most relevant first, until the region is gone.

    Source: Petsiuk et al. (RISE, BMVC 2018, arXiv 1806.07421). Departure: geometric steps, so that the first few voxels
    are resolved. The `fill` is `mean` unless said; `linear` takes long where much is deleted. See `road` for the rest.
    """
    return _curve((network, image, lesion), saliency, lambda order, n: order[:n], **how)


@door
def insertion(
    network: Network | nn.Module, image: Volume, lesion: LesionLike, saliency: Saliency, **how: Unpack[Stepping]
) -> Curve:
    """The score while voxels are put back into an emptied region, the most relevant first; see `deletion`.

    Departure from RISE: it starts from the fill, not from a blurred image.
    """
    return _curve((network, image, lesion), saliency, lambda order, n: order[n:], **how)


def _curve(
    asked: Any, saliency: Saliency, removed: Callable[[np.ndarray, int], np.ndarray], steps: int = 24, **how: Any
) -> Curve:
    removal = Removal(*asked, **{"fill": "mean"} | how)
    order, size = removal.rank(saliency), len(removal)
    if size < 2 or steps < 2:
        raise ValueError(f"A curve needs a region of 2 voxels and 2 steps or more, got {size} and {steps}.")
    voxels = np.unique(np.r_[0, np.rint(np.geomspace(1, size, steps)).astype(np.int64)])
    scores = removal.score(removal.without(removed(order, n)) for n in voxels)[0].numpy()
    return Curve(voxels, scores, share_of_ties(removal.sums(saliency.abs())))


# Correlation over random subsets, and stability.


@door
def sensitivity_n(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    saliencies: Sequence[Saliency],
    *,
    fractions: Sequence[float] = (0.01, 0.1, 0.5),
    subsets: int = 50,
    **how: Unpack[Removing],
) -> np.ndarray:
    """Correlation between what maps give to random subsets and how far the logit falls without these.

    For each fraction, Pearson's r over `subsets` random subsets of that size between the sum of the signed map
    in the subset, over all channels, and the fall of the mean class-1 logit over the lesion. Sources: Ancona
    et al. (ICLR 2018, arXiv 1711.06104); at one fraction it is the faithfulness correlation of Bhatt et al.
    (IJCAI 2020, arXiv 2005.00631). All maps see the same subsets.

    A map must be in logits for this: give a gradient times the image (for the fill `zero`, the one unless said), not
    the gradient. Random subsets of a large region seldom meet the lesion, and then say nothing. See `road` for the
    rest.

    Returns:
        `(M, F)` for M maps; NaN where a map or the logit is the same for every subset (a map that is zero in the
        region, or a score that no voxel of it changes).
    """
    if subsets < 2:
        raise ValueError(f"A correlation needs at least 2 subsets, got {subsets}.")
    if not len(saliencies):
        raise ValueError("saliencies must hold a map to correlate, got none; give [saliency].")
    how.setdefault("fill", "zero")
    removal = Removal(network, image, lesion, **how)
    sizes = count_voxels(fractions, len(removal))
    sums = [removal.sums(saliency) for saliency in saliencies]  # (N,) each
    found = np.empty((len(saliencies), len(sizes)))
    for n, size in enumerate(sizes):
        rng = np.random.default_rng([removal.seed, 2, n])
        chosen = [rng.choice(len(removal), size, replace=False) for _ in range(subsets)]
        edited = map(removal.without, [np.empty(0, dtype=np.int64), *chosen])
        logits = mean_logits(removal.score, edited).numpy()
        falls = logits[0] - logits[1:]
        found[:, n] = [pearson(np.array([s[subset].sum() for subset in chosen]), falls) for s in sums]
    return found


def faithfulness_correlation(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    saliencies: Sequence[Saliency],
    *,
    fraction: float = 0.1,
    subsets: int = 100,
    **how: Unpack[Removing],
) -> np.ndarray:
    """`sensitivity_n` at one fraction: `(M,)`."""
    return sensitivity_n(network, image, lesion, saliencies, fractions=[fraction], subsets=subsets, **how)[:, 0]


@door
def sensitivity(
    explain: Callable[[Volume], Saliency], image: Volume, *, draws: int = 10, bound: float = 0.1, seed: int = 0
) -> np.ndarray:
    """How much a map changes with small changes of the image: lower is better.

    Draw n adds uniform noise from -bound to bound to every entry; its change is ||S(x + e) - S(x)|| / ||S(x)||.
    Source: Yeh et al. (NeurIPS 2019, arXiv 1901.09392). Average sensitivity is the mean, maximum sensitivity
    the largest of what is returned. A map that is the same for every image is perfectly stable, and worthless.

    Args:
        explain: image -> map, with its lesion, method and seed inside.
        image, bound: z-scored, and of the noise in the same unit.
        draws, seed: how many noisy images; draw n depends on seed and n alone.

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
    changes = np.empty(draws)
    for draw in range(draws):
        noise = np.random.default_rng([seed, 4, draw]).uniform(-bound, bound, tuple(image.shape))
        noisy = image + torch.from_numpy(noise).to(image)
        changes[draw] = float((explain(noisy).double() - clean).norm() / clean.norm())
    return changes
