"""How much surrounding tissue a network needs: a lesion's score while all but it and a growing rim is hidden.

Source: the contextual-information experiment of Spagnolo et al. (arXiv 2406.09335, Figure 3): dilations of the
lesion by 1 to 34 voxels, all channels zero outside. The published plot stretches its axis by `linspace(1, 35, 34)`,
so that its last dilation of 34 voxels stands at 35; here a dilation stands where it is.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn

from ies_helpers.arrays import CONNECTIVITY, Affine, Box, LesionLike, Volume, as_mask, check_choice, door, spacing_of
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.lesions import MIN_VOXELS
from ies_helpers.segmentation.network import Network, Through, as_network, padded
from ies_helpers.subjects.editing import lesion_pattern, lesion_shape
from ies_helpers.subjects.subject import Subject

Fill = Literal["zero", "mean", "blurred"]
By = Literal["steps", "mm"]
STEPS = tuple(range(35))  # 0 is the lesion alone; 1 to 34 dilations as published
BLUR_MM = 4.0  # standard deviation of the gaussian that makes the `blurred` fill


@door
def perilesional_curve(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    distances: Sequence[float] = STEPS,
    by: By = "steps",
    fill: Fill = "zero",
    affine: Affine | None = None,
    through: Through | None = None,
) -> pd.DataFrame:
    """A lesion's score when the network sees it and its surroundings up to each distance, and nothing else.

    Only the windows (or the crop) that can change the score are run, so a curve equals what the whole volume gives.

    Args:
        network, image, lesion: what is asked, of `(C, I, J, K)`, z-scored, and which lesion stays.
        distances: dilations by the 18-neighbourhood (`steps`), or mm from the nearest lesion voxel's centre (`mm`).
        by: `steps` as published, or `mm`, which is right for any voxel size.
        fill: what stands in place of hidden tissue: `zero` as published, each channel's `mean` over its non-zero
            voxels (in a z-scored image that is zero, too, up to rounding), or the `blurred` image (gaussian of 4 mm
            among non-zero voxels), which hides structure but keeps the brightness of the region.
        affine: for `mm` and `blurred`; None takes voxels of 1 mm.
        through: `windows` or `whole`; None: as the network predicts.

    Returns:
        One row a distance: `distance_mm` (a step counts as the mean spacing), `score`, the mean probability over the
        lesion's voxels, `seen`, whether any of them is above the threshold, and `full_score`, with nothing hidden.
    """
    check_curve(by, fill)
    if not len(distances) or not all(math.isfinite(d) and d >= 0 for d in distances):
        raise ValueError(f"distances must be finite numbers from 0, at least one; got {list(distances)}.")
    network = as_network(network)
    scorer = scorer_of(network, image, lesion, through)
    spacing = np.array(spacing_of(np.eye(4) if affine is None else affine))
    mask = as_mask(lesion, image.shape[1:])
    far = steps_from(mask) if by == "steps" else ndimage.distance_transform_edt(~mask, spacing)
    filling, far = scorer.crop(filled(image, fill, spacing)), scorer.crop(torch.as_tensor(far))
    hidden = (torch.where(far <= distance, scorer.image, filling) for distance in distances)
    mean, largest = scorer(itertools.chain(hidden, [scorer.image]))
    table = pd.DataFrame({"distance_mm": np.asarray(distances, dtype=float), "score": mean[:-1].numpy()})
    table["distance_mm"] *= float(spacing.mean()) if by == "steps" else 1.0
    table["seen"] = largest[:-1].numpy() > network.threshold
    return table.assign(full_score=float(mean[-1]))


def scorer_of(network: Network, image: Volume, lesion: LesionLike, through: Through | None = None) -> LesionScore:
    """A lesion's score as the network predicts it, `through` None, or as it is explained."""
    through = through or ("whole" if network.window is None else "windows")
    network = padded(network, tuple(image.shape[1:])) if through == "windows" else network
    return LesionScore(network, image, lesion, through=through)


def check_curve(by: str, fill: str) -> None:
    """Refuse what `perilesional_curve` cannot do, before anything is computed."""
    check_choice("by", by, get_args(By))
    check_choice("fill", fill, get_args(Fill))


def filled(image: Volume, fill: Fill, spacing: np.ndarray) -> Volume:
    """What hidden tissue is replaced by, `(C, I, J, K)`; 0 stays 0 outside the brain."""
    if fill == "zero":
        return torch.zeros_like(image)
    inside = image != 0
    if fill == "mean":
        return torch.stack([c[b].sum() / b.sum().clamp(min=1) * b for c, b in zip(image, inside, strict=True)])
    blurred = torch.zeros_like(image)
    for channel, brain, out in zip(image.numpy(), inside.numpy(), blurred, strict=True):
        near = ndimage.gaussian_filter(brain.astype(np.float32), BLUR_MM / spacing)
        values = ndimage.gaussian_filter(channel, BLUR_MM / spacing) / np.maximum(near, 1e-6)
        out.copy_(torch.from_numpy(values * brain))
    return blurred


def steps_from(mask: np.ndarray) -> np.ndarray:
    """`(I, J, K)`: how many dilations by the 18-neighbourhood reach a voxel from a mask, which must not be empty."""
    return ndimage.distance_transform_cdt(~mask, metric=CONNECTIVITY)  # pyright: ignore


# Dose and response: how visible a lesion must be before a network sees it.

DOSE_COLUMNS = [
    *("subject", "network", "i", "j", "k", "size_mm3", "voxels"),
    *("contrast", "score", "highest", "seen", "logit"),
]


@door
def dose_response(
    network: Network | nn.Module, subject: Subject, place: Any, size: float, contrasts: Sequence[float]
) -> pd.DataFrame:
    """What a network says of a synthetic lesion at each contrast: see `add_lesion`.

    Equal to adding the lesion and running the network on the whole subject each time, but only what the lesion's score
    depends on goes through it. The network is seen as its maps are: `network.through`.

    Args:
        network, subject: the subject has no lesion there yet.
        place: voxel `(i, j, k)` of the centre.
        size: mm3.
        contrasts: what FLAIR gains in the mean over the lesion's voxels, in z-scored units; 0 leaves it without lesion.

    Returns:
        One row a contrast, in their order, with `DOSE_COLUMNS`: score is the mean probability over the lesion's voxels,
        highest the largest, seen whether that is above the network's threshold, and logit the mean logit, whose slope
        at a contrast is the sum of the `mean` gradient times the pattern.
    """
    doses = np.asarray(contrasts, dtype=np.float64)
    if doses.ndim != 1 or not len(doses) or not np.isfinite(doses).all():
        raise ValueError(f"Contrasts must be a list of finite numbers, at least one, got {contrasts}.")
    network = as_network(network)
    pattern, mask = lesion_pattern(subject, place, size)
    score = LesionScore(network, subject.image, mask)
    unit = score.crop(pattern)
    logits = score.logits(score.image + float(dose) * unit for dose in doses)
    probability = network.probability(logits, dim=1).numpy()
    table = pd.DataFrame({"subject": subject.name, "network": network.name, "contrast": doses})
    table[["i", "j", "k"]] = [int(a) for a in place]
    table["size_mm3"], table["voxels"] = float(size), len(score.voxels)
    table["score"], table["highest"] = probability.mean(axis=1), probability.max(axis=1)
    table["seen"] = table["highest"] > network.threshold
    table["logit"] = logits[:, network.lesion_class].mean(dim=1).numpy()
    return table.reindex(columns=DOSE_COLUMNS)


# How far a lesion that is there is from the other answer.

MOST_DOSE = 4.0  # z-scored units of FLAIR, about four times what a real lesion has
DOSE_STEP = 0.25  # doses that are looked at one after another
DOSE_EXACT = 0.02  # how well the dose is then known


class Flip(NamedTuple):
    """What it takes that a network changes its answer about a lesion."""

    found: bool  # whether the network finds it as it is
    dose: float  # what FLAIR must gain in the mean over its voxels, z-scored units; below 0: it must be darker


@door
def dose_to_flip(network: Network | nn.Module, subject: Subject, lesion: LesionLike) -> Flip:
    """How much darker a found lesion must be to be missed, or how much brighter a missed one to be found.

    The lesion is made brighter or darker as `lesion_shape` says, T1 the other way by half as much, and the network is
    asked as it predicts. Found is a lesion of which at least 6 connected voxels (all, if it has fewer) are above the
    threshold. Doses are tried in steps of 0.25 up to 4; the first that turns the answer is then halved down to 0.02. So
    it is the smallest dose but for one that turns it and a second, within the same step, that turns it back. Infinite
    where no dose up to 4 turns it; NaN, and a warning that says why, where no channel is one in which lesions are known
    to be bright or dark.
    """
    network = as_network(network)
    score = scorer_of(network, subject.image, lesion)
    unit = score.crop(lesion_shape(subject, lesion))

    def found(dose: float) -> bool:
        above = score.probabilities([score.image + dose * unit])[0].numpy() > network.threshold
        return _holds_a_lesion(score.voxels[above], min(MIN_VOXELS, len(score.voxels)))

    as_it_is = found(0.0)
    sign = -1.0 if as_it_is else 1.0
    if not bool(unit.any()):
        named = ", ".join(subject.channels)
        warnings.warn(f"A dose is NaN: it is not known whether lesions are bright or dark in {named}.", stacklevel=3)
        return Flip(as_it_is, math.nan)
    steps = [sign * n * DOSE_STEP for n in range(1, round(MOST_DOSE / DOSE_STEP) + 1)]
    far = next((dose for dose in steps if found(dose) != as_it_is), None)
    if far is None:
        return Flip(as_it_is, sign * math.inf)
    near = far - sign * DOSE_STEP
    while abs(far - near) > DOSE_EXACT:
        middle = (near + far) / 2
        near, far = (near, middle) if found(middle) != as_it_is else (middle, far)
    return Flip(as_it_is, far)


def _holds_a_lesion(voxels: np.ndarray, least: int) -> bool:
    """Whether `least` of the voxels `(V, 3)` are connected."""
    if len(voxels) < least:
        return False
    box = Box.around(voxels)
    near = np.zeros(box.shape, dtype=bool)
    near[tuple((voxels - box.start).T)] = True
    labels: Any = ndimage.label(near, CONNECTIVITY)
    return int(np.bincount(labels[0].ravel())[1:].max()) >= least
