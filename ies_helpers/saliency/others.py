"""Attributions by the gradient's path, for comparison: input x gradient and integrated gradients of one lesion.

Both explain F, the mean class-1 logit over the lesion's voxels, by the image's difference from a baseline, and so
are in logits: summed over the whole map they should give F(image) - F(baseline).
"""

import warnings
from collections.abc import Iterable
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.perilesional import Fill, filled
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.inference import check_image
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network
from ies_helpers.types import Affine, LabelMap, Saliency, Volume, Voxels

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
    return score.logits(edited)[:, 1].mean(dim=1)


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
