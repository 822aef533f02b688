"""Other attributions of one lesion, for comparison: by the gradient's path, and by hiding blocks of the image.

All explain F, the mean logit of the lesion class over the lesion's voxels, by the image's difference from a baseline,
and so are in logits. Input x gradient and integrated gradients should add up to F(image) - F(baseline) over the map;
occlusion and KernelSHAP ask for F of edited images, and each voxel holds what its block is worth. A head has too many
blocks, so those within `reach` voxels of the lesion are tried.
"""

import warnings
from collections.abc import Iterable, Iterator
from itertools import product
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Affine, Box, LesionLike, Saliency, Volume, check_choice, door, spacing_of
from ies_helpers.saliency.context import Fill, filled
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.saliency.views import Boxed
from ies_helpers.segmentation.inference import check_image
from ies_helpers.segmentation.network import Network

Modalities = Literal["each", "all"]

WORST_ERROR = 0.1  # share of the change above which a completeness error is warned of


class Attribution(NamedTuple):
    """A map in logits, and whether it adds up."""

    saliency: Saliency  # (C, I, J, K) float32, zero where the image cannot change the lesion's logits
    change: float  # F(image) - F(baseline), in logits
    error: float  # |sum of the map - change|, in logits: the completeness error


@door
def input_x_gradient(network: Network | nn.Module, image: Volume, lesion: LesionLike) -> Saliency:
    """The image times the gradient of the lesion's mean logit, `(C, I, J, K)` in logits.

    The first-order share of each entry in F(image) - F(0): exact for a linear network. In a z-scored image 0 is the
    mean of the brain, so that tissue of average brightness gets nothing, whatever its gradient. Source: Shrikumar et
    al. (arXiv 1605.01713).
    """
    engine = LesionGradient(network, image, lesion, "mean")
    g = engine(image).double()
    return engine.place(g * image[:, *engine.box].to(g))


@door
def integrated_gradients(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    baseline: Fill | Volume = "zero",
    steps: int = 32,
    affine: Affine | None = None,
) -> Attribution:
    """(x - b) times the mean gradient of the lesion's mean logit on the straight way from baseline b to image x.

    Source: Sundararajan et al. (ICML 2017, arXiv 1703.01365), the integral by the Gauss-Legendre rule, as in captum.
    Only the crop or the windows that decide the lesion are computed, and the map is exactly zero beyond them.

    Look at the completeness error; above a tenth of the change it is warned of. Instance norm undoes the scale of what
    it gets: on the way from `zero` a network that begins with it (nnU-Net) sees almost the same image at almost every
    step, and its logit changes in the first few hundredths of the way. Take `blurred` there.

    Args:
        baseline: what the image is compared with: `zero`, `mean` or `blurred` as in `perilesional_curve`, or an image
            `(C, I, J, K)`.
        steps: gradients taken.
        affine: gives `blurred` its mm; None takes voxels of 1 mm.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    engine = LesionGradient(network, image, lesion, "mean")
    start = baseline_image(image, baseline, affine)
    inside = (slice(None), *engine.box)
    seen, low, high = start.clone(), start[inside], image[inside]
    # The mean gradient on the way: a weighted sum over nodes in -1 to 1, here moved to 0 to 1.
    total = torch.zeros(low.shape, dtype=torch.float64)
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        seen[inside] = low + (high - low) * float((node + 1) / 2)
        total += engine(seen).double().cpu() * float(weight / 2)
    total *= (high - low).double().cpu()
    score = LesionScore(network, image, lesion)
    whole, none = mean_logits(score, [score.image, score.crop(start)])
    added, change = float(total.sum()), float(whole - none)
    error = abs(added - change)
    if error > WORST_ERROR * abs(change):
        warnings.warn(
            f"Integrated gradients add up to {added:.3g} logits, the logit changed by {change:.3g}: take more steps, "
            "or for a network with instance norm the blurred baseline.",
            stacklevel=2,
        )
    return Attribution(engine.place(total), change, error)


def mean_logits(score: LesionScore, edited: Iterable[torch.Tensor]) -> torch.Tensor:
    """F of edited images: `(B,)` float64, the mean logit of the lesion class over the lesion's voxels."""
    return score.logits(edited)[:, score.network.lesion_class].mean(dim=1)


@door
def baseline_image(image: Volume, baseline: Fill | Volume, affine: Affine | None = None) -> Volume:
    """The image `(C, I, J, K)` that `baseline` names, or is."""
    check_image(image)
    if isinstance(baseline, torch.Tensor):
        check_image(baseline)
        if baseline.shape != image.shape:
            shapes = f"{tuple(baseline.shape)} and {tuple(image.shape)}"
            raise ValueError(f"Baseline and image must lie on one grid, got {shapes}.")
        return baseline.to(image)
    check_choice("baseline", baseline, get_args(Fill))
    return filled(image, baseline, np.array(spacing_of(np.eye(4) if affine is None else affine)))


@door
def occlusion(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    side: int = 5,
    stride: int | None = None,
    reach: int | None = 15,
    modalities: Modalities = "each",
    baseline: Fill | Volume = "zero",
    affine: Affine | None = None,
) -> Saliency:
    """How far the lesion's mean logit falls when a block is hidden, averaged over the blocks of a voxel.

    Source: Zeiler and Fergus (ECCV 2014, arXiv 1311.2901). Blocks stand at multiples of `stride` from the volume's
    first voxel, as captum's do; the last along an axis is clipped to its end. Blocks that cannot change the score are
    not tried.

    Args:
        side: of a block, in voxels.
        stride: from a block to the next, up to `side`; None: `side`.
        reach: voxels around the lesion's bounding box that are explained, the map is zero beyond; None explains all
            that can change the score, in one forward pass a block.
        modalities: hide a block in `each` channel by itself, or in `all` at once: then the map is `(1, I, J, K)`.
        baseline, affine: what stands in a block: see `integrated_gradients`.
    """
    stride = side if stride is None else stride
    check_choice("modalities", modalities, get_args(Modalities))
    score, shape = LesionScore(network, image, lesion), tuple(image.shape[1:])
    zone = zone_of(score, reach)
    filling = score.crop(baseline_image(image, baseline, affine))
    hidden = [slice(c, c + 1) for c in range(len(image))] if modalities == "each" else [slice(None)]
    places = [(block & score.box).local(score.box) for block in blocks(shape, zone, side, stride)]
    # One forward pass a block and hidden set of channels, and one of the clean image.
    edits = [(n, place) for place in places for n in range(len(hidden))]
    clean, *scored = mean_logits(score, _edited(score.image, filling, [(hidden[n], *b) for n, b in edits])).tolist()
    # (hidden sets, i, j, k): a voxel's value is the mean fall over the blocks that hold it.
    total, times = torch.zeros(2, len(hidden), *score.image.shape[1:], dtype=torch.float64)
    for (n, place), logit in zip(edits, scored, strict=True):
        total[n, *place] += clean - logit
        times[n, *place] += 1
    inside = (slice(None), *zone.local(score.box))
    return Boxed(total[inside] / times[inside], zone).full(shape)


def _edited(clean: torch.Tensor, filling: torch.Tensor, edits: list[tuple[slice, ...]]) -> Iterator[torch.Tensor]:
    """The clean image, then a copy for each edit with the filling there."""
    yield clean
    for where in edits:
        edited = clean.clone()
        edited[where] = filling[where]
        yield edited


@door
def kernel_shap(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    side: int = 10,
    reach: int | None = 15,
    samples: int = 1000,
    baseline: Fill | Volume = "zero",
    affine: Affine | None = None,
    seed: int = 0,
) -> Saliency:
    """Shapley values of supervoxels for the lesion's mean logit, estimated by captum's `KernelShap`.

    Source: Lundberg and Lee (NeurIPS 2017, arXiv 1705.07874). A supervoxel is a block of one channel, of which at
    least one voxel lies within `reach` and differs from the baseline. Values of all supervoxels add up to the change
    of the logit when they are all hidden at once; what lies beyond stays as it is in every image. Each voxel of the map
    has the value of its supervoxel.

    Args:
        side, reach, baseline, affine: see `occlusion`.
        samples: images scored; must be more than there are supervoxels, two or more times as many.
    """
    captum, shape = captum_attr(), tuple(image.shape[1:])
    score = LesionScore(network, image, lesion)
    filling = score.crop(baseline_image(image, baseline, affine))
    numbers = supervoxels(score, filling, shape, side, reach)
    count = int(numbers.max()) + 1
    if not 2 <= count < samples:
        raise ValueError(
            f"KernelSHAP needs two supervoxels and more samples than supervoxels, got {count} supervoxels and "
            f"{samples} samples; take more samples, another side or another reach."
        )
    known, mask = torch.where(numbers < 0, score.image, filling)[None], numbers.clamp(min=0)[None]
    explainer = captum.KernelShap(lambda x: mean_logits(score, x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = explainer.attribute(score.image[None], known, feature_mask=mask, n_samples=samples)[0]
    return Boxed(values * (numbers >= 0), score.box).full(shape)


def captum_attr() -> Any:
    """The module `captum.attr`, or one sentence where it is not installed."""
    try:
        import captum.attr
    except ImportError as error:
        remedy = "pip install 'ies-helpers[shap]', or captum alone"
        raise ValueError(f"kernel-shap needs captum, which is not installed here: {remedy}.") from error
    return captum.attr


def supervoxels(
    score: LesionScore, filling: torch.Tensor, shape: tuple[int, ...], side: int, reach: int | None
) -> torch.Tensor:
    """`(C, i, j, k)` int64 on the score's box: the number of each voxel's supervoxel from 0, -1 where there is none."""
    numbers, count = torch.full(score.image.shape, -1, dtype=torch.int64), 0
    for block, c in product(blocks(shape, zone_of(score, reach), side, side), range(len(numbers))):
        where = (c, *(block & score.box).local(score.box))
        if not torch.equal(score.image[where], filling[where]):
            numbers[where] = count
            count += 1
    return numbers


def zone_of(score: LesionScore, reach: int | None) -> Box:
    """Where a lesion is explained: its bounding box and `reach` voxels around it, within the score's box."""
    if reach is None:
        return score.box
    if not isinstance(reach, Integral) or reach < 0:
        wanted = "a whole number of voxels from 0, or None for all that can change the score"
        raise ValueError(f"reach must be {wanted}; got {reach}.")
    return Box.around(score.voxels).grow(int(reach)) & score.box


def blocks(shape: tuple[int, ...], zone: Box, side: int, stride: int) -> list[Box]:
    """Blocks of a regular grid that hold a voxel of `zone`, clipped to the volume's end, in scan order."""
    if not (isinstance(side, Integral) and isinstance(stride, Integral) and 1 <= stride <= side):
        wanted = "whole numbers of voxels from 1 and leave no gaps"
        raise ValueError(f"side and stride must be {wanted}, got side {side} and stride {stride}.")
    # Along each axis: blocks start at multiples of the stride, as many as reach the volume's end.
    sides = []
    for n, s in zip(shape, zone, strict=True):
        starts = stride * np.arange(max(0, -(-(n - side) // stride)) + 1)
        met = starts[(starts < s.stop) & (starts + side > s.start)]
        sides.append([slice(int(a), min(int(a) + side, n)) for a in met])
    return [Box(block) for block in product(*sides)]
