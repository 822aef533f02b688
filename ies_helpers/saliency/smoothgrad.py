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

from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics, Way
from ies_helpers.saliency.state import RunState
from ies_helpers.saliency.views import Boxed, size
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network, as_network
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels

NOISE = 0.05
"""Standard deviation of the noise as a share of the range of the FLAIR channel, as published."""

ACCUMULATORS = 2**30
"""Bytes that the sums of all lesions computed together may take."""


def smoothgrad(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    aggregate: Aggregate = "max",
    draws: int = 50,
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
        draws: number of noisy images; the paper takes 50.
        noise: sigma as a share of the FLAIR range.
        seed: of the noise.
        way: how to compute gradients; None takes the fastest. All are exact.
        statistics: `frozen` holds instance norms still: an approximation for `max`, see `saliency.frozen`.
        progress: show a bar.

    Returns:
        `(C, I, J, K)` float32, signed, in logits per unit of z-scored intensity.
    """
    settings = {"aggregate": aggregate, "draws": draws, "noise": noise, "seed": seed}
    ((_, boxed),) = smoothgrad_each(
        network, image, [lesion], **settings, way=way, statistics=statistics, progress=progress
    )
    return boxed.full(tuple(image.shape[1:]))


def smoothgrad_each(
    network: Network | nn.Module,
    image: Volume,
    lesions: Sequence[Lesion | LabelMap | Voxels],
    *,
    aggregate: Aggregate = "max",
    draws: int = 50,
    noise: float = NOISE,
    seed: int = 0,
    way: Way | None = None,
    statistics: Statistics = "exact",
    progress: bool = False,
    state: RunState | None = None,
) -> Iterator[tuple[int, Boxed]]:
    """`smoothgrad` of many lesions, each draw's noise made once: yields (position in `lesions`, its map).

    Lesions are taken in groups whose sums fit in memory, a group's maps are yielded when its last draw is
    done. With a `state`, sums are saved as they grow, and a later run with the same settings goes on from them.

    Raises:
        ValueError: for fewer than one draw or a negative noise.
    """
    check_noise(draws, noise)
    network = as_network(network)
    kept: dict[str, Any] = {"dtype": torch.float64, "device": network.device}
    how = {"aggregate": aggregate, "way": way, "statistics": statistics}
    engines = [LesionGradient(network, image, lesion, **how) for lesion in lesions]
    sigma = noise_sigma(image, noise)
    bar = tqdm(total=draws * len(engines), desc="SmoothGrad", unit="map", disable=not progress)
    for group in _groups(engines):
        voxels = [engines[n].voxels for n in group]
        sums = [torch.zeros(len(image), *size(engines[n].box), **kept) for n in group]
        done = [state.load(v, total, draws) if state else 0 for v, total in zip(voxels, sums, strict=True)]
        bar.update(sum(done))
        for draw in range(min(done), draws):
            noisy = noisy_image(image, sigma, seed, draw).to(network.device, network.dtype)
            for k, n in enumerate(group):
                if done[k] > draw:
                    continue
                bar.set_postfix_str(f"draw {draw + 1}/{draws}, lesion {_name(lesions[n], n)}")
                sums[k] += engines[n](noisy)
                done[k] += 1
                bar.update()
            if state:
                state.save(voxels, sums, done)
        for n, total in zip(group, sums, strict=True):
            yield n, Boxed(total / draws, engines[n].box)
    bar.close()


def check_noise(draws: int, noise: float) -> None:
    """Refuse fewer than one draw, or noise that is negative or above the range itself."""
    if draws < 1 or not 0 <= noise <= 1:
        raise ValueError(f"draws must be at least 1 and noise a share from 0 to 1, got {draws} and {noise}.")


def noise_sigma(image: Volume, noise: float) -> float:
    """Standard deviation of the noise: a share of max - min of the FLAIR channel, in z-scored intensity."""
    return noise * float(image[0].max() - image[0].min())


def noisy_image(image: Volume, sigma: float, seed: int, draw: int) -> Volume:
    """The image of one draw, `(C, I, J, K)`: numpy's generator seeded with (seed, draw), in float32."""
    if sigma == 0:
        return image
    normal = np.random.default_rng([seed, draw]).standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(normal).to(image.device).mul_(sigma).to(image.dtype)


def _groups(engines: list[LesionGradient]) -> Iterator[list[int]]:
    group, used = [], 0
    for n, engine in enumerate(engines):
        need = 8 * engine.shape[0] * int(np.prod(size(engine.box)))
        if group and used + need > ACCUMULATORS:
            yield group
            group, used = [], 0
        group.append(n)
        used += need
    if group:
        yield group


def _name(lesion: Lesion | LabelMap | Voxels, n: int) -> str:
    return str(lesion.number) if isinstance(lesion, Lesion) else str(n + 1)
