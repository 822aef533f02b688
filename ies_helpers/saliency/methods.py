"""What `explain` can be asked for, and one sentence for what it cannot."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, get_args

from torch import nn

from ies_helpers.arrays import LabelMap, Saliency, Volume, Voxels
from ies_helpers.saliency.comparison import (
    REACH,
    SAMPLES,
    SIDE,
    STEPS,
    SUPERVOXEL,
    baseline_image,
    blocks,
    captum_attr,
    check_baseline,
    input_x_gradient,
    integrated_gradients,
    kernel_shap,
    occlusion,
    zone_of,
)
from ies_helpers.saliency.context import BLUR_MM
from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics
from ies_helpers.saliency.score import LesionScore
from ies_helpers.saliency.smoothgrad import Draws, check_noise, most
from ies_helpers.saliency.views import voxels_seen
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.network import Network
from ies_helpers.subjects.folder import UNITS
from ies_helpers.subjects.subject import Subject

# How long a run will take on this machine, said before it begins.


def estimate_seconds(
    network: Network | nn.Module,
    image: Volume,
    lesions: Sequence[Lesion | LabelMap | Voxels],
    *,
    aggregate: Aggregate = "max",
    draws: Draws = 1,
    statistics: Statistics = "exact",
) -> tuple[float, str]:
    """Seconds that `draws` gradients of all `lesions` will take, for `auto` at most, and the way they are computed.

    For `max`, one and a few voxels of the largest lesion are timed: their difference is the cost of a voxel, the
    rest that of a forward pass, and both are counted over all parts and views. For `mean` and `sum` the smallest
    lesion is timed, and the rest scaled by the voxels looked at. Good to about a third on a quiet machine.
    """
    engines = [LesionGradient(network, image, lesion, aggregate, statistics=statistics) for lesion in lesions]
    if aggregate == "max":
        seconds = _by_voxels(engines, network, image, statistics)
    else:
        smallest = min(engines, key=_looked_at)
        smallest(image)
        seconds = _timed(smallest, image) * sum(map(_looked_at, engines)) / _looked_at(smallest)
    return seconds * most(draws), engines[0].way


def _by_voxels(
    engines: list[LesionGradient], network: Network | nn.Module, image: Volume, statistics: Statistics
) -> float:
    part = max((p for engine in engines for p in engine.parts), key=lambda p: len(p.voxels))
    few = 8 if engines[0].way == "cone" else 1
    some = [part.voxels[:1], part.voxels[: 1 + few]]
    timed = [LesionGradient(network, image, v, "max", statistics=statistics) for v in some]
    timed[0](image)  # the first call makes what later ones find ready
    once, more = (_timed(engine, image) for engine in timed)
    extra = max(1, len(some[1]) - 1)
    voxel = max(0.0, more - once) / extra if len(some[1]) > 1 else once / 2
    views = len(part.views)
    passes = sum(map(_looked_at, engines)) * views / voxels_seen(timed[0].parts[0])
    voxels = sum(len(p.views) * len(p.voxels) for engine in engines for p in engine.parts)
    return max(0.0, once - voxel) / views * passes + voxel / views * voxels


def estimate_scores(scores: Sequence[LesionScore], images: Sequence[int]) -> float:
    """Seconds that so many edited images of each lesion will take, at most: windows without an edit are run once.

    The smallest lesion is timed, and the rest scaled by the voxels looked at.
    """
    smallest = min(scores, key=lambda score: score.looked_at)
    smallest.logits([smallest.image])  # the first call makes what later ones find ready
    begun = time.perf_counter()
    smallest.logits([smallest.image])
    once = (time.perf_counter() - begun) / smallest.looked_at
    return once * sum(score.looked_at * n for score, n in zip(scores, images, strict=True))


def _looked_at(engine: LesionGradient) -> int:
    """Voxels that go through the network for one call."""
    return sum(map(voxels_seen, engine.parts))


def _timed(engine: LesionGradient, image: Volume) -> float:
    begun = time.perf_counter()
    engine(image).cpu()
    return time.perf_counter() - begun


def in_words(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# The attributions for comparison as `explain` runs them: what is recorded, what is computed, how long it takes.

SETTINGS: dict[str, dict[str, Any]] = {
    "input-x-gradient": {},
    "integrated-gradients": {"steps": STEPS},
    "occlusion": {"side": SIDE, "stride": SIDE, "reach": REACH, "modalities": "each"},
    "kernel-shap": {"side": SUPERVOXEL, "reach": REACH, "samples": SAMPLES},
}
"""Method -> what its function is given beside baseline and seed, and the sidecar tells."""

OTHERS = tuple(SETTINGS)


def check_other(method: str, baseline: str) -> None:
    """Refuse what cannot be computed, before anything is loaded."""
    check_baseline(baseline)
    if method == "input-x-gradient" and baseline != "zero":
        raise ValueError(f"input-x-gradient compares with zero, got the baseline {baseline!r}; leave it out.")
    if method == "kernel-shap":
        captum_attr()


def settings_of(method: str, baseline: str) -> dict[str, Any]:
    """What makes two maps of a method the same, for the sidecar."""
    return {"baseline": baseline} | ({"blur_mm": BLUR_MM} if baseline == "blurred" else {}) | SETTINGS[method]


class Comparison:
    """One subject's attributions by one method; the baseline is made once."""

    def __init__(self, subject: Subject, network: Network, method: str, baseline: str, seed: int) -> None:
        self.network, self.image, self.method, self.seed = network, subject.image, method, seed
        self.baseline: Volume = baseline_image(subject.image, baseline, subject.affine)  # pyright: ignore[reportArgumentType]

    def __call__(self, lesion: Lesion) -> tuple[Saliency, dict[str, Any]]:
        """The map, and what of its making goes into the sidecar."""
        what = (self.network, self.image, lesion)
        if self.method == "input-x-gradient":
            return input_x_gradient(*what), {}
        settings: dict[str, Any] = {"baseline": self.baseline} | SETTINGS[self.method]
        if self.method == "integrated-gradients":
            found = integrated_gradients(*what, **settings)
            return found.saliency, {"completeness": {"change": found.change, "error": found.error}}
        if self.method == "occlusion":
            return occlusion(*what, **settings), {}
        return kernel_shap(*what, **settings, seed=self.seed), {"captum": version("captum")}


def estimate_other(network: Network, image: Volume, lesions: Sequence[Lesion], method: str) -> tuple[float, str]:
    """Seconds that a method will take for all `lesions`, and what takes them; see `estimate_seconds`."""
    if method in ("input-x-gradient", "integrated-gradients"):
        steps = SETTINGS[method].get("steps", 1)
        seconds, way = estimate_seconds(network, image, lesions, aggregate="mean", draws=steps)
        count = steps * len(lesions)
        return seconds, f"{count} gradient{'s' if count > 1 else ''} by {way}"
    scores = [LesionScore(network, image, lesion) for lesion in lesions]
    passes = [_passes(score, image, method) for score in scores]
    return estimate_scores(scores, passes), f"{sum(passes)} edited images"


def _passes(score: LesionScore, image: Volume, method: str) -> int:
    how = SETTINGS[method]
    if method == "kernel-shap":
        return how["samples"]
    places = blocks(tuple(image.shape[1:]), zone_of(score, how["reach"]), how["side"], how["stride"])
    return 1 + len(image) * len(places)


METHODS = tuple(UNITS)

AGGREGATED = ("smoothgrad", "gradient")
"""Methods that heed `aggregate` and `statistics`."""


def check_settings(
    method: str,
    aggregate: str,
    draws: Draws,
    noise: float,
    *,
    through: str | None = None,
    seed: int = 0,
    statistics: str = "exact",
    baseline: str = "zero",
) -> None:
    """Refuse settings that `explain` cannot work with, before anything is loaded."""
    for name, value, allowed in (
        ("method", method, METHODS),
        ("aggregate", aggregate, get_args(Aggregate)),
        ("through", through, (None, "whole", "windows")),
        ("statistics", statistics, get_args(Statistics)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, allowed))}, got {value!r}.")
    check_noise(draws, noise, seed)
    check_other(method, baseline)
    if statistics == "frozen" and (method not in AGGREGATED or aggregate != "max"):
        raise ValueError(
            f"statistics='frozen' is for {' and '.join(AGGREGATED)} with max, got {method} with {aggregate}; leave "
            "it out, which is exact."
        )
