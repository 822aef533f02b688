"""SmoothGrad for lesions: the aggregated gradient, averaged over noisy copies of the image.

Source: equations 2 and 3 of Spagnolo et al. (arXiv 2406.09335), after Smilkov et al. (arXiv 1706.03825). The
published scripts depart from the equations: `ies.py` divides the summed gradient by the number of lesions
of the subject, not by the lesion's voxels, and starts from uninitialised memory; to compare, multiply our
`mean` map by voxels / lesions.
"""

import contextlib
import hashlib
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.arrays import Box, LesionLike, Saliency, Volume, Voxels, check_seed, door
from ies_helpers.saliency.farfield import Report
from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics, Way, together
from ies_helpers.saliency.views import Boxed, upload
from ies_helpers.segmentation.inference import check_finite
from ies_helpers.segmentation.network import Network, as_network
from ies_helpers.subjects.files import replacing
from ies_helpers.subjects.subject import noise_reference

Draws: TypeAlias = int | Literal["auto"]

NOISE_SHARE = 0.05  # standard deviation of the noise over the range of the FLAIR channel, as published
SUMS_BYTES = 2**30  # memory that the sums of all lesions computed together may take, two float64 a value

# With `draws="auto"`: the standard error of the peak, as a share of it, at which no more draws are added. Of fewer
# draws than 10 the scatter is hardly known, more than 200 take longer than they are worth.
PEAK_TARGET, FEWEST_DRAWS, MOST_DRAWS = 0.02, 10, 200

# The noise.


def check_noise(draws: int | str, noise: float, seed: int) -> None:
    """Refuse fewer than one draw, noise that is negative or above the range itself, or what is no seed."""
    check_seed(seed)
    if not (draws == "auto" or (isinstance(draws, Integral) and int(draws) >= 1)) or not 0 <= noise <= 1:
        met = f"got {draws!r} and {noise}; for draws give a whole number, or auto"
        raise ValueError(f"draws must be at least 1 and noise a share from 0 to 1, {met}.")


def noise_sigma(image: Volume, noise: float, channels: Sequence[str] | None = None) -> float:
    """Standard deviation of the noise, in z-scored intensity: a share of max - min of FLAIR, as published.

    Without FLAIR among the `channels`, or without their names, the first counts.
    """
    reference = image[noise_reference(channels)]
    return noise * float(reference.max() - reference.min())


@door
def noisy_image(image: Volume, sigma: float, seed: int, draw: int) -> Volume:
    """The image of one draw, `(C, I, J, K)`: numpy's generator seeded with (seed, draw), in float32."""
    if sigma == 0:
        return image
    normal = np.random.default_rng([seed, draw]).standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(normal).to(image.device).mul_(sigma).to(image.dtype)


class NoisyImages:
    """The noisy images of one run, on the network's device; it is quickest to ask for them in order.

    For a GPU (or where `ahead` says so) another thread makes the next image, and copies it from pinned memory, while
    the GPU works on this one. On the CPU all cores have enough to do.
    """

    def __init__(self, image: Volume, sigma: float, seed: int, network: Network, ahead: bool | None = None) -> None:
        self._make = lambda draw: noisy_image(image, sigma, seed, draw)
        self._network = network
        ahead = network.device.type == "cuda" if ahead is None else ahead
        self._worker = ThreadPoolExecutor(1) if ahead else None
        self._next: dict[int, Future[Volume]] = {}

    def __call__(self, draw: int) -> Volume:
        """The image of one draw."""
        if self._worker is None:
            noisy = self._make(draw)
        else:
            waiting = self._next.get(draw) or self._worker.submit(self._make, draw)
            noisy = waiting.result()
            self._next = {draw + 1: self._worker.submit(self._make, draw + 1)}
        return upload(noisy, self._network.device).to(self._network.dtype)

    def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)


# The average over draws, its error, and when there are enough.


class Peak(NamedTuple):
    """The value of a map that is farthest from zero."""

    value: float  # signed, the mean over draws there
    standard_error: float  # of that value; NaN from one draw
    channel: int
    voxel: tuple[int, int, int]  # in the image's indices

    @property
    def relative(self) -> float:
        """The standard error as a share of the value; 0 for a map that is zero in every draw."""
        if self.standard_error == 0:
            return 0.0
        return self.standard_error / abs(self.value) if self.value else float("inf")

    @property
    def known(self) -> bool:
        """Whether `auto` draws no more: the standard error is at most `PEAK_TARGET` of the value."""
        return self.standard_error <= PEAK_TARGET * abs(self.value)


class Average:
    """A map averaged over noise draws as they come, and how far the draws scatter.

    With g_n the map of draw n and T_n = g_1 + ... + g_n, the squared deviations from the mean grow by
    (n g_n - T_n)^2 / (n (n - 1)) with each draw (Youngs and Cramer, Technometrics 1971, 13:657-665): no difference of
    large sums, so what is the same in every draw scatters by exactly 0, and nothing is kept of a draw but two `sums`
    `(2, C, i, j, k)` float64: of the maps, and of the squared deviations from their mean.
    """

    def __init__(self, channels: int, box: Box, device: torch.device | None = None) -> None:
        self.box, self.draws = box, 0
        self.report: Report | None = None  # of near and far fields, where the draws were made by them
        self.sums = torch.zeros(2, channels, *box.shape, dtype=torch.float64, device=device)

    def add(self, values: torch.Tensor, report: Report | None = None) -> None:
        """Add the map of one more draw, `(C, i, j, k)` on `box`, and what is known of its error so far."""
        (total, deviations), self.report = self.sums, report
        self.draws += 1
        total += values
        if self.draws > 1:
            off = (values.double() * self.draws).sub_(total)
            deviations.addcmul_(off, off, value=1 / (self.draws * (self.draws - 1)))

    def resume(self, state: "RunState | None", voxels: Voxels, at_most: int) -> int:
        """Go on from the draws that are saved of a lesion; how many these are."""
        self.draws = state.load(voxels, self.sums, at_most) if state else 0
        return self.draws

    @property
    def values(self) -> torch.Tensor:
        """The mean on `box`, `(C, i, j, k)` float64."""
        return self.sums[0] / self.draws

    def full(self, shape: tuple[int, ...]) -> Saliency:
        """The mean on the whole volume: `(C, I, J, K)` float32, on the CPU."""
        return Boxed(self.values, self.box).full(shape)

    @property
    def error(self) -> Boxed:
        """The Monte-Carlo standard error of the mean at each voxel, s / sqrt(N); NaN from one draw.

        s^2 is the variance between draws (divided by N - 1). About 95 % of maps made with other seeds lie within two
        standard errors of the mean over endless draws, voxel by voxel; neighbouring voxels err together.
        """
        n = self.draws
        return Boxed(self.sums[1].div(n * (n - 1)).sqrt_() if n > 1 else self.sums[1] + np.nan, self.box)

    @property
    def peak(self) -> Peak:
        """The value of largest absolute value over all voxels and channels; of equal ones the first."""
        flat = int(self.sums[0].abs().argmax())
        total, deviation = (float(s.flatten()[flat]) for s in self.sums)
        n = self.draws
        error = (deviation / (n * (n - 1))) ** 0.5 if n > 1 else float("nan")
        channel, *inside = (int(a) for a in np.unravel_index(flat, tuple(self.sums[0].shape)))
        voxel: Any = tuple(a + int(b.start) for a, b in zip(inside, self.box, strict=True))
        return Peak(total / n, error, channel, voxel)


def most_draws(draws: Draws) -> int:
    """The number of draws, or the largest that `auto` can come to."""
    return MOST_DRAWS if draws == "auto" else draws


def has_enough_draws(average: Average, draws: Draws) -> bool:
    """Whether a given number of draws has been averaged, or for `auto` the peak of this lesion is known well.

    `auto` stops at the first number of draws from `FEWEST_DRAWS` to `MOST_DRAWS` at which the standard error of the
    peak is at most `PEAK_TARGET` of it, both taken from the draws so far. What that does not tell:

    - Weaker voxels are known less well, relative to themselves many of them not at all: see `Average.error`.
    - The draws that choose the voxel also give its value. Where many voxels are as high within their error, the
      largest of them is too large on average, by one to two standard errors.
    - Looking after every draw favours runs whose scatter seems small by chance. For normal draws, two standard errors
      hold the truth in 91 to 95 of 100 runs (simulated), a little less often than with a fixed number of draws.
    - What the noise does to the network, and whether the map is true, does not get better with draws.
    """
    if average.draws < (FEWEST_DRAWS if draws == "auto" else draws):
        return False
    return average.draws >= most_draws(draws) or average.peak.known


def _warn_if_unknown(average: Average, name: str, draws: Draws) -> None:
    """Say so where `auto` ended with `MOST_DRAWS` draws and without its target."""
    if draws == "auto" and not average.peak.known:
        error = f"{average.peak.relative:.1%} of it after {average.draws} draws, more than {PEAK_TARGET:.0%}"
        warnings.warn(f"The standard error of the peak of lesion {name} is {error}.", stacklevel=3)


# Where a long run stands, on disk.


class RunState:
    """Sums over noise draws in a folder, one small file a lesion, saved at most once in `every` seconds.

    A file belongs to a `key` (network, image, settings) and to the lesion's voxels, so a run with other settings
    starts anew. A file that cannot be read counts as not there.
    """

    def __init__(self, folder: Path, key: str, every: float = 30.0) -> None:
        self.folder, self.every, self._name = Path(folder), every, _digest(key.encode())
        self._saved = time.monotonic()

    def load(self, voxels: Voxels, total: torch.Tensor, at_most: int) -> int:
        """Copy the saved sum of a lesion into `total`; the draws in it, 0 if there is none of at most `at_most`."""
        try:
            with np.load(self._path(voxels)) as saved:
                values, draws = saved["total"], int(saved["draws"])
                if draws > at_most or values.shape != tuple(total.shape) or not np.isfinite(values).all():
                    return 0
                total.copy_(torch.from_numpy(values))
                return draws
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
            return 0

    def save(self, lesions: Iterable[tuple[Voxels, torch.Tensor, int]]) -> None:
        """Write each lesion's sums and draws, beside and renamed, unless it is less than `every` seconds since."""
        if time.monotonic() - self._saved < self.every:
            return
        for voxels, total, draws in lesions:
            with replacing(self._path(voxels)) as part:
                np.savez(part, total=total.cpu().numpy(), draws=draws)
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Remove the files of this key, whose maps are all finished, and the folder if that leaves it empty."""
        for path in self.folder.glob(f"{self._name}-*.npz"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, voxels: Voxels) -> Path:
        return self.folder / f"{self._name}-{_digest(np.ascontiguousarray(voxels, dtype=np.int64).tobytes())}.npz"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


# The loop over draws.


@door
def smoothgrad(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    channels: Sequence[str] | None = None,
    aggregate: Aggregate = "max",
    draws: Draws = 50,
    noise: float = NOISE_SHARE,
    seed: int = 0,
    way: Way | None = None,
    accuracy: float | str = "auto",
    statistics: Statistics = "exact",
    progress: bool = False,
) -> Saliency:
    """Instance-level SmoothGrad: the mean over noise draws of a lesion's aggregated gradient.

    Draw n of seed s adds sigma * N(0, 1) to every channel, sigma = noise * (max - min) of the FLAIR channel
    (as published), from a generator seeded with (s, n): the map depends on seed and draws alone, not on
    device, chunks or the order of lesions, and every lesion of a subject sees the same draws.

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: whose logits.
        channels: what the image's channels are, as `subject.channels`, where the network names none; FLAIR first.
        aggregate: over the lesion's voxels, in each draw: `mean` (equation 2), `sum`, or `max` (equation 3).
        draws: number of noisy images; the paper takes 50. `auto` stops when the standard error of the peak is at most
            2 % of it, after 10 to 200 draws. It is the error of one value, chosen and judged by the same draws:
            `has_enough_draws` says what that tells and what it does not.
        noise: sigma as a share of the FLAIR range.
        seed: of the noise.
        way: how to compute gradients; None takes the fastest.
        accuracy: relative L2 error allowed to the voxels' gradients of a `max`, where exact ones are dear; `auto`
            allows 1e-3, `exact` nothing, see `saliency.farfield`.
        statistics: `frozen` leaves far fields out, see there.
        progress: show a bar.

    Returns:
        `(C, I, J, K)` float32, signed, in logits per unit of z-scored intensity.
    """
    given = {"aggregate": aggregate, "draws": draws, "noise": noise, "seed": seed}
    given |= {"way": way, "accuracy": accuracy, "statistics": statistics}
    average = smoothgrad_average(network, image, lesion, channels=channels, **given, progress=progress)
    return average.full(tuple(image.shape[1:]))


@door
def smoothgrad_average(network: Network | nn.Module, image: Volume, lesion: LesionLike, **settings: Any) -> Average:
    """`smoothgrad`, of the same settings, with what its draws tell of its error, where the map can be non-zero.

    With `shape` the image's `(I, J, K)`: `average.full(shape)` is the map, `average.error.full(shape)` its Monte-Carlo
    standard error at each voxel, `average.peak` the largest value with its own, `average.draws` how many there were.
    """
    ((_, average),) = smoothgrad_each(network, image, [lesion], **settings)
    return average


def smoothgrad_each(
    network: Network | nn.Module,
    image: Volume,
    lesions: Sequence[LesionLike],
    *,
    state: RunState | None = None,
    channels: Sequence[str] | None = None,
    aggregate: Aggregate = "max",
    draws: Draws = 50,
    noise: float = NOISE_SHARE,
    seed: int = 0,
    way: Way | None = None,
    accuracy: float | str = "auto",
    statistics: Statistics = "exact",
    progress: bool = False,
) -> Iterator[tuple[int, Average]]:
    """`smoothgrad` of many lesions, each draw's noise made once: yields (position in `lesions`, its average).

    Lesions are taken in groups whose sums fit in memory; a group's averages are yielded after its last draw. With a
    `state`, sums are saved as they grow, and a later run with the same settings goes on from them. With `draws="auto"`
    each lesion stops by itself: neither the others nor an interruption change its map. Rounding on another device may
    move the stop; the number of draws that it came to gives the same map anywhere. `channels` are the image's, where
    the network names none.
    """
    check_noise(draws, noise, seed)
    network, how = as_network(network), {"way": way, "accuracy": accuracy, "statistics": statistics}
    engines = [LesionGradient(network, image, lesion, aggregate, **how) for lesion in lesions]
    names = [str(getattr(lesion, "number", n)) for n, lesion in enumerate(lesions, 1)]
    noisy = NoisyImages(image, noise_sigma(image, noise, network.channels or channels), seed, network)
    most = most_draws(draws)
    bar = tqdm(total=most * len(engines), desc="SmoothGrad", unit="map", disable=not progress)
    with contextlib.closing(noisy), bar:
        for group in _groups_in_memory(engines):
            averages = {n: Average(len(image), engines[n].box, network.device) for n in group}
            for n, average in averages.items():
                bar.update(average.resume(state, engines[n].voxels, most))
            # Lesions may stand at different draws, after an interruption: those that are furthest behind go first.
            while todo := [n for n in group if not has_enough_draws(averages[n], draws)]:
                draw = min(averages[n].draws for n in todo)
                now = [n for n in todo if averages[n].draws == draw]
                for k, values in together([engines[n] for n in now], noisy(draw)):
                    bar.set_postfix_str(f"draw {draw + 1}/{most}, lesion {names[now[k]]}")
                    averages[now[k]].add(values, engines[now[k]].report)
                    if draw == 0:  # a broken network is found here; each look keeps a GPU waiting
                        check_finite(averages[now[k]].sums, network)
                    bar.update()
                if state:
                    state.save((engines[n].voxels, a.sums, a.draws) for n, a in averages.items())
            bar.total -= sum(most - a.draws for a in averages.values())
            for n, average in averages.items():
                check_finite(average.sums, network)
                _warn_if_unknown(average, names[n], draws)
                yield n, average


def _groups_in_memory(engines: list[LesionGradient]) -> Iterator[list[int]]:
    """Positions of lesions whose sums fit into `SUMS_BYTES` together, or of one that alone does not."""
    group, used = [], 0
    for n, engine in enumerate(engines):
        need = 16 * engine.shape[0] * engine.box.size
        if group and used + need > SUMS_BYTES:
            yield group
            group, used = [], 0
        group.append(n)
        used += need
    if group:
        yield group
