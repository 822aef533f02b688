"""SmoothGrad for lesions: the aggregated gradient, averaged over noisy copies of the image.

Source: equations 2 and 3 of Spagnolo et al. (arXiv 2406.09335), after Smilkov et al. (arXiv 1706.03825). The
published scripts depart from the equations: `ies.py` divides the summed gradient by the number of lesions
of the subject, not by the lesion's voxels, and starts from uninitialised memory; to compare, multiply our
`mean` map by voxels / lesions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.saliency.convergence import Average, Draws, enough, most, warn_if_unknown
from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics, Way
from ies_helpers.saliency.noise import NOISE, NoisyImages, check_noise, noise_sigma
from ies_helpers.saliency.state import RunState
from ies_helpers.saliency.views import size
from ies_helpers.segmentation.inference import check_finite
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network, as_network
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels

ACCUMULATORS = 2**30
"""Bytes that the sums of all lesions computed together may take, two float64 a value."""


def smoothgrad(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    aggregate: Aggregate = "max",
    draws: Draws = 50,
    noise: float = NOISE,
    seed: int = 0,
    way: Way | None = None,
    statistics: Statistics = "exact",
    progress: bool = False,
) -> Saliency:
    """Instance-level SmoothGrad: the mean over noise draws of a lesion's aggregated gradient.

    Draw n of seed s adds sigma * N(0, 1) to every channel, sigma = noise * (max - min) of the FLAIR channel
    (as published), from a generator seeded with (s, n): the map depends on seed and draws alone, not on
    device, chunks or the order of lesions, and every lesion of a subject sees the same draws.

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored, FLAIR first.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
        aggregate: over the lesion's voxels, in each draw: `mean` (equation 2), `sum`, or `max` (equation 3).
        draws: number of noisy images; the paper takes 50. `auto` stops when the standard error of the peak is at most
            2 % of it, after 10 to 200 draws. It is the error of one value, chosen and judged by the same draws:
            `convergence.enough` says what that tells and what it does not.
        noise: sigma as a share of the FLAIR range.
        seed: of the noise.
        way: how to compute gradients; None takes the fastest. All are exact.
        statistics: `frozen` holds instance norms still: an approximation for `max`, see `saliency.frozen`.
        progress: show a bar.

    Returns:
        `(C, I, J, K)` float32, signed, in logits per unit of z-scored intensity.
    """
    settings = {"aggregate": aggregate, "draws": draws, "noise": noise, "seed": seed}
    how = {"way": way, "statistics": statistics, "progress": progress}
    return smoothgrad_average(network, image, lesion, **settings, **how).full(tuple(image.shape[1:]))


def smoothgrad_average(
    network: Network | nn.Module, image: Volume, lesion: Lesion | LabelMap | Voxels, **settings: Any
) -> Average:
    """`smoothgrad` with what its draws tell of its error, on the box where the map can be non-zero.

    With `shape` the image's `(I, J, K)`: `average.full(shape)` is the map, `average.error.full(shape)` its Monte-Carlo
    standard error at each voxel, `average.peak` the largest value with its own, `average.draws` how many there were.

    Args:
        network, image, lesion: see `smoothgrad`.
        settings: those of `smoothgrad`, by name.
    """
    ((_, average),) = smoothgrad_each(network, image, [lesion], **settings)
    return average


def smoothgrad_each(
    network: Network | nn.Module,
    image: Volume,
    lesions: Sequence[Lesion | LabelMap | Voxels],
    *,
    aggregate: Aggregate = "max",
    draws: Draws = 50,
    noise: float = NOISE,
    seed: int = 0,
    way: Way | None = None,
    statistics: Statistics = "exact",
    progress: bool = False,
    state: RunState | None = None,
) -> Iterator[tuple[int, Average]]:
    """`smoothgrad` of many lesions, each draw's noise made once: yields (position in `lesions`, its average).

    Lesions are taken in groups whose sums fit in memory, a group's maps are yielded when its last draw is
    done. With a `state`, sums are saved as they grow, and a later run with the same settings goes on from them.
    With `draws="auto"` each lesion stops by itself: neither the others nor an interruption change its map. Rounding on
    another device may move the stop; the number of draws that it came to gives the same map anywhere.

    Raises:
        ValueError: for fewer than one draw, a negative noise or seed, or a map that is not finite.
    """
    check_noise(draws, noise, seed)
    network = as_network(network)
    how = {"aggregate": aggregate, "way": way, "statistics": statistics}
    engines = [LesionGradient(network, image, lesion, **how) for lesion in lesions]
    noisy = NoisyImages(image, noise_sigma(image, noise), seed, network)
    bar = tqdm(total=most(draws) * len(engines), desc="SmoothGrad", unit="map", disable=not progress)
    for group in _groups(engines):
        averages = {n: Average(len(image), engines[n].box, network.device) for n in group}
        voxels = [engines[n].voxels for n in group]
        for n, average in averages.items():
            average.draws = state.load(engines[n].voxels, average.sums, most(draws)) if state else 0
            bar.update(average.draws)
        while todo := [n for n in group if not enough(averages[n], draws)]:
            draw = min(averages[n].draws for n in todo)
            image_of_draw = noisy(draw)
            for n in [n for n in todo if averages[n].draws == draw]:
                bar.set_postfix_str(f"draw {draw + 1}/{most(draws)}, lesion {_name(lesions[n], n)}")
                _add(averages[n], engines[n](image_of_draw), network)
                bar.update()
            if state:
                state.save(voxels, [a.sums for a in averages.values()], [a.draws for a in averages.values()])
        bar.total -= sum(most(draws) - a.draws for a in averages.values())
        for n, average in averages.items():
            check_finite(average.sums, network)
            if draws == "auto":
                warn_if_unknown(average, _name(lesions[n], n))
            yield n, average
    noisy.close()
    bar.close()


def _add(average: Average, values: torch.Tensor, network: Network) -> None:
    """One more draw. A broken network is found at the first; a look at each would have a GPU waited for."""
    average.add(values)
    if average.draws == 1:
        check_finite(average.sums, network)


def _groups(engines: list[LesionGradient]) -> Iterator[list[int]]:
    group, used = [], 0
    for n, engine in enumerate(engines):
        need = 16 * engine.shape[0] * int(np.prod(size(engine.box)))
        if group and used + need > ACCUMULATORS:
            yield group
            group, used = [], 0
        group.append(n)
        used += need
    if group:
        yield group


def _name(lesion: Lesion | LabelMap | Voxels, n: int) -> str:
    return str(lesion.number) if isinstance(lesion, Lesion) else str(n + 1)
