"""Attributions by the gradient's path, for comparison: input x gradient and integrated gradients of one lesion.

Both explain F, the mean class-1 logit over the lesion's voxels, by the image's difference from a baseline, and so
are in logits: summed over the whole map they should give F(image) - F(baseline).
"""

import warnings
from collections.abc import Iterable, Iterator
from itertools import product
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Affine, Box, LabelMap, Saliency, Volume, Voxels
from ies_helpers.saliency.context import Fill, filled
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.saliency.views import Boxed
from ies_helpers.segmentation.inference import check_image
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.network import Network

STEPS = 32
"""Images between baseline and image."""

INCOMPLETE = 0.1
"""Share of the change above which a completeness error is warned of."""


class Attribution(NamedTuple):
    """A map in logits, and whether it adds up.

    Attributes:
        saliency: `(C, I, J, K)` float32, zero where the image cannot change the lesion's logits.
        change: F(image) - F(baseline), in logits.
        error: |sum of the map - change|, in logits: the completeness error.
    """

    saliency: Saliency
    change: float
    error: float


def input_x_gradient(network: Network | nn.Module, image: Volume, lesion: Lesion | LabelMap | Voxels) -> Saliency:
    """The image times the gradient of the lesion's mean class-1 logit, `(C, I, J, K)` in logits.

    The first-order share of each entry in F(image) - F(0): exact for a linear network. In a z-scored image 0 is the
    mean of the brain, so that tissue of average brightness gets nothing, whatever its gradient. Source: Shrikumar et
    al. (arXiv 1605.01713).

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
    """
    engine = LesionGradient(network, image, lesion, "mean")
    g = engine(image).double()
    return engine.place(g * image[(slice(None), *engine.box)].to(g))


def integrated_gradients(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    baseline: Fill | Volume = "zero",
    steps: int = STEPS,
    affine: Affine | None = None,
) -> Attribution:
    """(x - b) times the mean gradient of the lesion's mean logit on the straight way from baseline b to image x.

    Source: Sundararajan et al. (ICML 2017, arXiv 1703.01365), the integral by Gauss and Legendre's rule, as in
    captum. Every gradient is the engine's: only the crop or the windows that decide the lesion are computed, and the
    map is exactly zero beyond them.

    Look at the completeness error; above a tenth of the change it is warned of. Instance norm undoes the scale of what
    it gets: on the way from `zero` a network that begins with it (nnU-Net) sees almost the same image at almost every
    step, and its logit changes in the first few hundredths of the way. Take `blurred` there.

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
        baseline: what the image is compared with: `zero`; each channel's `mean` over the brain (in a z-scored image
            that is zero, too, up to rounding); the `blurred` image (gaussian of 4 mm among voxels that are not
            zero); or an image `(C, I, J, K)`.
        steps: gradients taken.
        affine: gives `blurred` its mm; None takes voxels of 1 mm.

    Raises:
        ValueError: for fewer than one step, another baseline, or one on another grid.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    engine = LesionGradient(network, image, lesion, "mean")
    start = baseline_image(image, baseline, affine)
    where = (slice(None), *engine.box)
    seen, low, high = start.clone(), start[where], image[where]
    total = torch.zeros(low.shape, dtype=torch.float64)
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        seen[where] = low + (high - low) * float((node + 1) / 2)
        total += engine(seen).double().cpu() * float(weight / 2)
    total *= (high - low).double().cpu()
    change = _change(network, image, lesion, start)
    error = abs(float(total.sum()) - change)
    if error > INCOMPLETE * abs(change):
        warnings.warn(
            f"Integrated gradients add up to {float(total.sum()):.3g} logits, the logit changed by {change:.3g}: take "
            "more steps, or for a network with instance norm the blurred baseline.",
            stacklevel=2,
        )
    return Attribution(engine.place(total), change, error)


def _change(network: Network | nn.Module, image: Volume, lesion: Lesion | LabelMap | Voxels, start: Volume) -> float:
    """F(image) - F(start)."""
    score = LesionScore(network, image, lesion)
    whole, none = mean_logits(score, [score.image, score.crop(start)])
    return float(whole - none)


def mean_logits(score: LesionScore, edited: Iterable[torch.Tensor]) -> torch.Tensor:
    """F of edited images: `(B,)` float64, the mean class-1 logit over the lesion's voxels."""
    return score.logits(edited)[:, score.network.lesion_class].mean(dim=1)


def baseline_image(image: Volume, baseline: Fill | Volume, affine: Affine | None = None) -> Volume:
    """The image `(C, I, J, K)` that `baseline` names, or is.

    Raises:
        ValueError: for another name, or an image on another grid.
    """
    check_image(image)
    if isinstance(baseline, torch.Tensor):
        check_image(baseline)
        if baseline.shape != image.shape:
            raise ValueError(
                f"Baseline and image must share their grid, got {tuple(baseline.shape)} and {tuple(image.shape)}."
            )
        return baseline.to(image)
    check_baseline(baseline)
    spacing = np.ones(3) if affine is None else np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return filled(image, baseline, spacing)


def check_baseline(baseline: str) -> None:
    """Refuse a name that is not a baseline's."""
    if baseline not in get_args(Fill):
        raise ValueError(f"baseline must be one of {', '.join(get_args(Fill))}, got {baseline!r}.")


# Attributions by hiding blocks of the image, for comparison: occlusion, and KernelSHAP over supervoxels.
#
# Both ask for F, the mean class-1 logit over the lesion's voxels, of edited images, and are in logits: each voxel holds
# what its block is worth. A head has too many blocks, so those within `reach` voxels of the lesion are tried.

Modalities = Literal["each", "all"]

SIDE, SUPERVOXEL, REACH, SAMPLES = 5, 10, 15, 1000
"""Sides of an occluded block and of a supervoxel, how far from the lesion they are tried, all in voxels; images that
KernelSHAP draws."""


def occlusion(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    side: int = SIDE,
    stride: int | None = None,
    reach: int | None = REACH,
    modalities: Modalities = "each",
    baseline: Fill | Volume = "zero",
    affine: Affine | None = None,
) -> Saliency:
    """How far the lesion's mean class-1 logit falls when a block is hidden, averaged over the blocks of a voxel.

    Source: Zeiler and Fergus (ECCV 2014, arXiv 1311.2901). Blocks stand at multiples of `stride` from the volume's
    first voxel, as captum's do; the last along an axis is clipped to its end. Blocks that cannot change the score are
    not tried.

    Args:
        network: scored on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
        side: of a block, in voxels.
        stride: from a block to the next, up to `side`; None: `side`.
        reach: voxels around the lesion's bounding box that are explained, the map is zero beyond; None explains all
            that can change the score, in one forward pass a block.
        modalities: hide a block in `each` by itself, or in `all` at once.
        baseline: what stands in a block: see `integrated_gradients`.
        affine: gives `blurred` its mm; None takes voxels of 1 mm.

    Returns:
        `(C, I, J, K)` float32, for `all` `(1, I, J, K)`.

    Raises:
        ValueError: for a side or stride that leaves gaps, a reach that is no number of voxels, or other modalities.
    """
    stride = side if stride is None else stride
    if modalities not in ("each", "all"):
        raise ValueError(f"modalities must be each or all, got {modalities!r}.")
    score = LesionScore(network, image, lesion)
    zone = zone_of(score, reach)
    places = blocks(tuple(image.shape[1:]), zone, side, stride)
    filling = score.crop(baseline_image(image, baseline, affine))
    hidden = [slice(c, c + 1) for c in range(len(image))] if modalities == "each" else [slice(None)]
    edits = [(channels, *(block & score.box).local(score.box)) for block in places for channels in hidden]
    clean, *rest = mean_logits(score, _edited(score.image, filling, edits)).tolist()
    total = torch.zeros(len(hidden), *score.image.shape[1:], dtype=torch.float64)
    times = torch.zeros_like(total)
    for where, logit in zip(edits, rest, strict=True):
        channels = where[0] if modalities == "each" else slice(0, 1)
        total[(channels, *where[1:])] += clean - logit
        times[(channels, *where[1:])] += 1
    kept = (slice(None), *zone.local(score.box))
    return Boxed(total[kept] / times[kept], zone).full(tuple(image.shape[1:]))


def _edited(clean: torch.Tensor, filling: torch.Tensor, edits: list[Any]) -> Iterator[torch.Tensor]:
    yield clean
    for where in edits:
        edited = clean.clone()
        edited[where] = filling[where]
        yield edited


def kernel_shap(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    side: int = SUPERVOXEL,
    reach: int | None = REACH,
    samples: int = SAMPLES,
    baseline: Fill | Volume = "zero",
    affine: Affine | None = None,
    seed: int = 0,
) -> Saliency:
    """Shapley values of supervoxels for the lesion's mean class-1 logit, estimated by captum's `KernelShap`.

    Source: Lundberg and Lee (NeurIPS 2017, arXiv 1705.07874). A supervoxel is a block of one modality, of which at
    least one voxel lies within `reach` and differs from the baseline. Values of all supervoxels add up to the change
    of the logit when they are all hidden at once; what lies beyond stays as it is in every image.

    Args:
        network, image, lesion, reach, baseline, affine: see `occlusion`.
        side: of a supervoxel, in voxels.
        samples: images scored; must be more than there are supervoxels, two or more times as many.
        seed: of the subsets.

    Returns:
        `(C, I, J, K)` float32: at each voxel the value of its supervoxel.

    Raises:
        ValueError: without captum, for too few samples, or fewer than two supervoxels.
    """
    captum = captum_attr()
    score = LesionScore(network, image, lesion)
    filling = score.crop(baseline_image(image, baseline, affine))
    numbers = supervoxels(score, filling, tuple(image.shape[1:]), side, reach)
    count = int(numbers.max()) + 1
    if not 2 <= count < samples:
        raise ValueError(
            f"KernelSHAP needs two supervoxels and more samples than supervoxels, got {count} supervoxels and "
            f"{samples} samples; take more samples, another side or another reach."
        )
    known = torch.where(numbers < 0, score.image, filling)[None]
    explainer = captum.KernelShap(lambda x: mean_logits(score, x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = explainer.attribute(
            score.image[None], known, feature_mask=numbers.clamp(min=0)[None], n_samples=samples
        )[0]
    return Boxed(values * (numbers >= 0), score.box).full(tuple(image.shape[1:]))


def captum_attr() -> Any:
    """The module `captum.attr`.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise ValueError(
            "kernel-shap needs captum, which is not installed here: pip install 'ies-helpers[shap]', or captum alone."
        ) from error
    return captum.attr


def supervoxels(
    score: LesionScore, filling: torch.Tensor, shape: tuple[int, ...], side: int, reach: int | None
) -> torch.Tensor:
    """`(C, i, j, k)` int64 on the score's box: the number of each voxel's supervoxel from 0, -1 where there is none."""
    numbers = torch.full(score.image.shape, -1, dtype=torch.int64)
    count = 0
    for block in blocks(shape, zone_of(score, reach), side, side):
        for c in range(len(numbers)):
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
        told = "reach must be a whole number of voxels from 0, or None for all that can change the score"
        raise ValueError(f"{told}; got {reach}.")
    return Box.around(score.voxels).grow(int(reach)) & score.box


def blocks(shape: tuple[int, ...], zone: Box, side: int, stride: int) -> list[Box]:
    """Blocks of a regular grid that hold a voxel of `zone`, clipped to the volume's end, in scan order."""
    if not (isinstance(side, Integral) and isinstance(stride, Integral) and 1 <= stride <= side):
        told = "side and stride must be whole numbers of voxels from 1 and leave no gaps"
        raise ValueError(f"{told}, got side {side} and stride {stride}.")
    sides = []
    for n, s in zip(shape, zone, strict=True):
        starts = stride * np.arange(max(0, -(-(n - side) // stride)) + 1)
        met = starts[(starts < s.stop) & (starts + side > s.start)]
        sides.append([slice(int(a), min(int(a) + side, n)) for a in met])
    return [Box(block) for block in product(*sides)]
