"""How many draws are enough: errors known by hand, the plain loop, and a stop where the formula says."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ies_helpers import smoothgrad
from ies_helpers.saliency import smoothgrad as module
from ies_helpers.saliency import smoothgrad as noise_module
from ies_helpers.saliency.smoothgrad import (
    FEWEST,
    MOST,
    TARGET,
    Average,
    Peak,
    RunState,
    enough,
    most_draws,
    noise_sigma,
    noisy_image,
    smoothgrad_average,
    smoothgrad_each,
)
from ies_helpers.teaching import Linear, Quadratic
from tests import oracles
from tests.networks import unet

EXACT = 1e-10
SINGLE = 1e-4
ROUNDED = 1e-6
"""The toys have no weights and work in float32."""
SHAPE = (20, 22, 24)
LESION = np.array([[7, 8, 9], [7, 8, 10], [9, 9, 9]])
STRONG, MIDDLE, WEAK = (np.array([[5, 5, 5]]), np.array([[10, 10, 10]]), np.array([[15, 15, 15]]))
VALUES = {5: 9.0, 10: 4.0, 15: 3.2}
"""FLAIR at the three places: the weaker, the more draws."""

SIGMA = 0.5


@pytest.fixture
def image() -> torch.Tensor:
    """Noise of sigma 0.5 in a run with `noise=NOISE`; three places of known brightness."""
    made = torch.randn(2, *SHAPE, dtype=torch.float64).clamp(-1, 1)
    for at, value in VALUES.items():
        made[:, at, at, at] = torch.tensor([value, 0.0])
    made[0, 0, 0, 0] = -1.0
    return made


NOISE = SIGMA / 10.0  # the range is from -1 to 9


def draws_of(network, image: torch.Tensor, voxels: np.ndarray, how: str, count: int, seed: int = 0) -> np.ndarray:
    """`(count, C, I, J, K)`: each draw's map by the plain loop over the whole volume."""
    logits, sigma = oracles.whole(network), noise_sigma(image, NOISE)
    noisy = (noisy_image(image, sigma, seed, n) for n in range(count))
    return torch.stack([oracles.aggregate(oracles.voxel_gradients(logits, x, voxels), how) for x in noisy]).numpy()


def quadratic_draws(image: torch.Tensor, at: int, seed: int = 0) -> np.ndarray:
    """FLAIR gradient of `Quadratic` at a place in each draw, by hand: 2 (x + e)."""
    sigma = noise_sigma(image, NOISE)
    return np.array([2 * float(noisy_image(image, sigma, seed, n)[0, at, at, at].float()) for n in range(MOST)])


def stop_by_hand(drawn: np.ndarray) -> int:
    """The first number of draws whose standard error is small enough."""
    for n in range(FEWEST, len(drawn) + 1):
        if drawn[:n].std(ddof=1) / n**0.5 <= TARGET * abs(drawn[:n].mean()):
            return n
    return len(drawn)


def full(average: Average, boxed) -> torch.Tensor:
    """Float64 values of a box on the whole volume."""
    whole = torch.zeros(len(boxed.values), *SHAPE, dtype=torch.float64)
    whole[(slice(None), *average.box)] = boxed.values
    return whole


# The standard error


def test_a_linear_network_has_no_error_at_all(image: torch.Tensor) -> None:
    average = smoothgrad_average(Linear(), image.float(), LESION, draws=7, noise=0.5)
    assert not average.error.values.any()
    assert average.peak.relative == 0


def test_the_error_of_a_quadratic_network_is_two_sigma_over_the_root_of_the_draws(image: torch.Tensor) -> None:
    """The gradient 2 (x + e) has variance 4 sigma^2: on 21120 values and 12 draws the root is known to 1 %."""
    cube = np.argwhere(np.ones(SHAPE, dtype=bool))
    average = smoothgrad_average(Quadratic(), image, cube, aggregate="sum", draws=12, noise=NOISE)
    error = full(average, average.error)
    assert float(error.square().mean().sqrt()) == pytest.approx(2 * SIGMA / 12**0.5, rel=0.01)
    drawn = np.stack([2 * noisy_image(image, SIGMA, 0, n).numpy() for n in range(12)])
    assert oracles.relative(error, torch.from_numpy(drawn.std(axis=0, ddof=1) / 12**0.5)) < ROUNDED


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("through", ["whole", "windows"])
def test_map_and_error_agree_with_the_plain_loop(image: torch.Tensor, how, through) -> None:
    network = replace(unet((3, 4, 5)), window=16, overlap=0.5, through=through)
    logits = {"whole": lambda n: oracles.whole(n, 4), "windows": oracles.blended}[through](network)
    noisy = [noisy_image(image, noise_sigma(image, 0.1), 3, n) for n in range(4)]
    maps = torch.stack([oracles.aggregate(oracles.voxel_gradients(logits, x, LESION), how) for x in noisy])
    settings = {"aggregate": how, "draws": 4, "noise": 0.1, "seed": 3}
    average = smoothgrad_average(network, image, LESION, **settings)
    assert oracles.relative(full(average, average), maps.mean(dim=0)) < EXACT
    wanted = maps.std(dim=0) / 2
    assert oracles.relative(full(average, average.error), wanted) < EXACT
    network.module.float()
    single = smoothgrad_average(network, image.float(), LESION, **settings)
    assert oracles.relative(single.error.full(SHAPE), wanted) < SINGLE


def test_the_peak_is_where_the_map_is_farthest_from_zero_with_its_own_error(image: torch.Tensor) -> None:
    network = unet((3, 4, 5))
    maps = draws_of(network, image, LESION, "max", 5)
    mean, error = maps.mean(axis=0), maps.std(axis=0, ddof=1) / 5**0.5
    at = np.unravel_index(np.abs(mean).argmax(), mean.shape)
    peak = smoothgrad_average(network, image, LESION, draws=5, noise=NOISE).peak
    assert (peak.channel, *peak.voxel) == at
    assert peak.value == pytest.approx(mean[at], rel=EXACT)
    assert peak.standard_error == pytest.approx(error[at], rel=1e-8)
    assert peak.relative == pytest.approx(error[at] / abs(mean[at]), rel=1e-8)


def test_a_negative_peak_keeps_its_sign() -> None:
    average = Average(1, (slice(3, 5), slice(0, 1), slice(10, 11)))
    for value in (-3.0, -5.0):
        average.add(torch.tensor([1.0, value]).reshape(1, 2, 1, 1))
    assert average.peak == Peak(-4.0, 1.0, 0, (4, 0, 10))
    assert average.peak.relative == 0.25


def test_small_scatter_on_large_values_is_not_lost() -> None:
    """A sum of squares minus the square of a sum would have no digit left of it."""
    scatter = np.random.default_rng(0).standard_normal(40)
    average = Average(1, (slice(0, 1),) * 3)
    for value in 1e9 + scatter:
        average.add(torch.full((1, 1, 1, 1), value, dtype=torch.float64))
    assert average.peak.standard_error == pytest.approx(scatter.std(ddof=1) / 40**0.5, rel=1e-5)


def test_one_draw_has_no_error_to_tell(image: torch.Tensor) -> None:
    average = smoothgrad_average(Quadratic(), image, LESION, draws=1)
    assert bool(average.error.values.isnan().all())
    assert np.isnan(average.peak.standard_error)
    assert np.isnan(average.peak.relative)


def test_nothing_is_kept_beyond_where_the_gradient_can_be(image: torch.Tensor) -> None:
    average = smoothgrad_average(Quadratic(), image, LESION, draws=3)
    assert [(s.start, s.stop) for s in average.box] == [(7, 10), (8, 10), (9, 11)]
    assert average.sums.shape == (2, 2, 3, 2, 2)


# Auto


@pytest.mark.parametrize("seed", range(4))
def test_auto_stops_where_the_formula_says(image: torch.Tensor, seed: int) -> None:
    settings = {"noise": NOISE, "seed": seed}
    for at, place in ((5, STRONG), (10, MIDDLE), (15, WEAK)):
        drawn = quadratic_draws(image, at, seed)
        average = smoothgrad_average(Quadratic(), image, place, draws="auto", **settings)
        assert average.draws == stop_by_hand(drawn)
        assert average.peak.value == pytest.approx(drawn[: average.draws].mean(), rel=EXACT)
        assert average.peak.relative <= TARGET
        assert torch.equal(average.full(SHAPE), smoothgrad(Quadratic(), image, place, draws=average.draws, **settings))


def test_auto_needs_as_many_draws_as_scatter_and_peak_demand(image: torch.Tensor) -> None:
    """(sigma / (x target))^2 draws, 9, 39 and 61: one run is off by a quarter, eight by less."""
    assert smoothgrad_average(Quadratic(), image, STRONG, draws="auto", noise=NOISE).draws == FEWEST
    for at, place in ((10, MIDDLE), (15, WEAK)):
        runs = (smoothgrad_average(Quadratic(), image, place, draws="auto", noise=NOISE, seed=s) for s in range(8))
        assert np.mean([run.draws for run in runs]) == pytest.approx((SIGMA / VALUES[at] / TARGET) ** 2, rel=0.2)


def test_auto_wants_as_many_draws_for_a_negative_peak(image: torch.Tensor) -> None:
    image[0, 10, 10, 10] = -4.0
    sigma = NOISE * 13.0  # the range is from -4 to 9
    drawn = np.array([2 * float(noisy_image(image, sigma, 0, n)[0, 10, 10, 10].float()) for n in range(MOST)])
    average = smoothgrad_average(Quadratic(), image, MIDDLE, draws="auto", noise=NOISE)
    assert average.draws == stop_by_hand(drawn) > FEWEST
    assert average.peak.value < 0


def test_auto_does_not_stop_on_the_luck_of_a_few_draws() -> None:
    average = Average(1, (slice(0, 1),) * 3)
    for n in range(FEWEST):
        assert not enough(average, "auto")
        average.add(torch.full((1, 1, 1, 1), 1.0 + 1e-9 * n))
    assert enough(average, "auto")


def test_auto_ends_in_time_and_says_that_it_did_not_get_there(image: torch.Tensor, monkeypatch) -> None:
    image[:, 15, 15, 15] = torch.tensor([0.05, 0.0])
    with pytest.warns(UserWarning, match=rf"peak of lesion 1 is \d+\.\d% of it after {MOST} draws, more than 2%"):
        average = smoothgrad_average(Quadratic(), image, WEAK, draws="auto", noise=NOISE)
    assert average.draws == MOST == most_draws("auto")


def test_a_map_of_zeros_is_known_at_once(image: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average = smoothgrad_average(Linear((0.0, 0.0)), image.float(), LESION, draws="auto")
    assert (average.draws, average.peak.value, average.peak.relative) == (FEWEST, 0.0, 0.0)


def test_values_that_cancel_to_zero_are_not_called_known() -> None:
    average = Average(1, (slice(0, 1),) * 3)
    for n in range(FEWEST + 2):
        average.add(torch.full((1, 1, 1, 1), (-1.0) ** n))
    assert average.peak.relative == float("inf")
    assert not enough(average, "auto")


def test_each_lesion_stops_by_itself_whatever_the_others_do(image: torch.Tensor, monkeypatch) -> None:
    places = [WEAK, STRONG, MIDDLE]
    settings = {"draws": "auto", "noise": NOISE}
    alone = [smoothgrad_average(Quadratic(), image, place, **settings) for place in places]
    assert len({average.draws for average in alone}) == 3
    for order in ([0, 1, 2], [2, 0, 1]):
        for memory in (2**30, 1):
            monkeypatch.setattr(module, "ACCUMULATORS", memory)
            averages = dict(smoothgrad_each(Quadratic(), image, [places[n] for n in order], **settings))
            for place, n in enumerate(order):
                assert averages[place].draws == alone[n].draws
                assert torch.equal(averages[place].sums, alone[n].sums)


def test_no_noise_is_drawn_for_lesions_that_are_done(image: torch.Tensor, monkeypatch) -> None:
    drawn: list[int] = []
    noisy = noisy_image
    monkeypatch.setattr(noise_module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
    averages = dict(smoothgrad_each(Quadratic(), image, [STRONG, MIDDLE], draws="auto", noise=NOISE))
    assert drawn == list(range(max(average.draws for average in averages.values())))


@pytest.mark.parametrize("last", [4, 10, 20])
def test_an_interrupted_auto_goes_on_to_the_same_draws_and_bits(image, tmp_path: Path, monkeypatch, last: int) -> None:
    """Stopped early, when the strong lesion has just ended, and when it has long been done."""
    places, noisy = [STRONG, MIDDLE], noisy_image
    settings = {"draws": "auto", "noise": NOISE}
    wanted = dict(smoothgrad_each(Quadratic(), image, places, **settings))

    def stop(x: torch.Tensor, sigma: float, seed: int, draw: int) -> torch.Tensor:
        if draw == last:
            raise KeyboardInterrupt
        return noisy(x, sigma, seed, draw)

    monkeypatch.setattr(noise_module, "noisy_image", stop)
    with pytest.raises(KeyboardInterrupt):
        list(smoothgrad_each(Quadratic(), image, places, **settings, state=RunState(tmp_path, "key", every=0)))
    drawn: list[int] = []
    monkeypatch.setattr(noise_module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
    got = dict(smoothgrad_each(Quadratic(), image, places, **settings, state=RunState(tmp_path, "key", every=0)))
    assert drawn[0] == last
    for n in range(2):
        assert got[n].draws == wanted[n].draws
        assert torch.equal(got[n].sums, wanted[n].sums)


def test_a_lesion_whose_sums_were_lost_catches_up_on_the_same_draws(image, tmp_path: Path, monkeypatch) -> None:
    """One of two files is gone, so the lesions go on from different draws; each noise is still made once."""
    places, settings = [MIDDLE, WEAK], {"draws": "auto", "noise": NOISE}
    state = RunState(tmp_path, "key", every=0)
    wanted = dict(smoothgrad_each(Quadratic(), image, places, **settings))
    partly = dict(smoothgrad_each(Quadratic(), image, [WEAK], **settings | {"draws": 6}, state=state))
    assert partly[0].draws == 6
    drawn: list[int] = []
    noisy = noisy_image
    monkeypatch.setattr(noise_module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
    got = dict(smoothgrad_each(Quadratic(), image, places, **settings, state=state))
    for n in range(2):
        assert got[n].draws == wanted[n].draws
        assert torch.equal(got[n].sums, wanted[n].sums)
    assert drawn == list(range(max(wanted[n].draws for n in range(2))))


def test_two_standard_errors_hold_the_truth_about_as_often_as_the_docstring_says() -> None:
    """20,000 runs of normal draws for each scatter: 91 to 95 of 100, and a fixed number about 95."""
    rng, counts = np.random.default_rng(0), np.arange(1, MOST + 1)
    for scatter in (0.05, 0.08, 0.12, 0.2):
        x = scatter * rng.standard_normal((20000, MOST))
        mean = x.cumsum(axis=1) / counts
        error = np.sqrt(np.maximum((x**2).cumsum(axis=1) / counts - mean**2, 0) / np.maximum(counts - 1, 1))
        known = (error <= TARGET * np.abs(1 + mean)) & (counts >= FEWEST)
        known[:, -1] = True
        stop = known.argmax(axis=1)[:, None]
        inside = np.abs(np.take_along_axis(mean, stop, 1)) <= 2 * np.take_along_axis(error, stop, 1)
        assert 0.905 < inside.mean() < 0.955
