"""How long maps will take on this machine, told before they are made: a little is timed, the rest is counted."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ies_helpers.arrays import LesionLike, Volume
from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics
from ies_helpers.saliency.score import LesionScore
from ies_helpers.saliency.views import voxels_seen
from ies_helpers.segmentation.network import Network


def estimate_seconds(
    network: Network | nn.Module,
    image: Volume,
    lesions: Sequence[LesionLike],
    *,
    aggregate: Aggregate = "max",
    draws: int = 1,
    accuracy: float | str = "auto",
    statistics: Statistics = "exact",
) -> tuple[float, str]:
    """Seconds that `draws` gradients of all `lesions` will take, and the way they are computed.

    For `max`, one and a few voxels of the largest lesion are timed: their difference is the cost of a voxel, the
    rest that of a forward pass, and both are counted over all parts and views. For `mean` and `sum` the smallest
    lesion is timed, and the rest scaled by the voxels looked at. Good to about a third on a quiet machine.
    """
    how = {"accuracy": accuracy, "statistics": statistics}
    engines = [LesionGradient(network, image, lesion, aggregate, **how) for lesion in lesions]
    way, seen = engines[0].way, sum(map(_looked_at, engines))
    if aggregate != "max":
        smallest = min(engines, key=_looked_at)
        smallest(image)  # the first call makes what later ones find ready
        return _timed(smallest, image) * seen / _looked_at(smallest) * draws, way
    if way == "fields":
        return _seconds_by_fields(engines, image) * draws, way
    part = max((p for engine in engines for p in engine.parts), key=lambda p: len(p.voxels))
    some = part.voxels[: 9 if way == "cone" else 2]
    timed = [LesionGradient(network, image, v, "max", **how) for v in (some[:1], some)]
    timed[0](image)
    once, more = (_timed(engine, image) for engine in timed)
    voxel = max(0.0, more - once) / (len(some) - 1) if len(some) > 1 else once / 2
    # `once` is a forward pass and one voxel, through each view of the part: both per view, times all there are.
    views = len(part.views)
    passes = seen * views / voxels_seen(timed[0].parts[0])
    voxels = sum(len(p.views) * len(p.voxels) for engine in engines for p in engine.parts)
    return (max(0.0, once - voxel) / views * passes + voxel / views * voxels) * draws, way


def _seconds_by_fields(engines: Sequence[LesionGradient], image: Volume) -> float:
    """One image's seconds: forward and dense passes as they are timed on one voxel, near fields by their share.

    How many dense passes a lesion needs is known only once it has them: about V^0.55 of V voxels for 1e-3, and as
    many more as the accuracy is finer, by its square root, in the networks measured.
    """
    largest = max(engines, key=len_of)
    one = LesionGradient(largest.network, image, largest.voxels[:1], "max", way=plain_way(largest), accuracy="exact")
    one(image)
    once, seconds = _timed(one, image) / len(one.parts[0].views), 0.0
    for engine, part in ((one, part) for one in engines for part in one.parts):
        views, voxels = len(part.views), len(part.voxels)
        assert engine.split is not None
        passes = (
            0 if engine.split.local or engine.accuracy == np.inf else voxels**0.55 * (1e-3 / engine.accuracy) ** 0.5
        )
        seconds += views * once * (1 + voxels * 2 * engine.split.share) + once * passes * (1 + 0.3 * views)
    return seconds


def len_of(engine: LesionGradient) -> int:
    """Voxels of the lesion."""
    return len(engine.voxels)


def plain_way(engine: LesionGradient) -> Any:
    """How its gradients are taken by autograd alone."""
    return "windows" if engine.network.through == "windows" else "whole"


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
