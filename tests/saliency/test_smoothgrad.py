"""SmoothGrad: closed forms whatever the noise, the plain loop, errors known by hand, and the same bits after a stop."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from ies_helpers import gradient, smoothgrad
from ies_helpers.arrays import Box
from ies_helpers.saliency import smoothgrad as module
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.smoothgrad import (
    FEWEST_DRAWS,
    MOST_DRAWS,
    PEAK_TARGET,
    Average,
    NoisyImages,
    Peak,
    RunState,
    has_enough_draws,
    most_draws,
    noise_sigma,
    noisy_image,
    smoothgrad_average,
    smoothgrad_each,
)
from ies_helpers.segmentation.network import as_network
from ies_helpers.teaching import Linear, Quadratic
from tests import oracles
from tests.networks import nnunet, unet

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


def exact(network, image: torch.Tensor, lesion: np.ndarray, **settings) -> torch.Tensor:
    """SmoothGrad in float64, on the whole volume."""
    ((_, boxed),) = smoothgrad_each(network, image, [lesion], **settings)
    whole = torch.zeros(image.shape, dtype=torch.float64)
    whole[(slice(None), *boxed.box)] = boxed.values
    return whole


def draws_of(network, image: torch.Tensor, voxels: np.ndarray, how: str, count: int, seed: int = 0) -> np.ndarray:
    """`(count, C, I, J, K)`: each draw's map by the plain loop over the whole volume."""
    logits, sigma = oracles.whole(network), noise_sigma(image, NOISE)
    noisy = (noisy_image(image, sigma, seed, n) for n in range(count))
    return torch.stack([oracles.aggregate(oracles.voxel_gradients(logits, x, voxels), how) for x in noisy]).numpy()


def quadratic_draws(image: torch.Tensor, at: int, seed: int = 0) -> np.ndarray:
    """FLAIR gradient of `Quadratic` at a place in each draw, by hand: 2 (x + e)."""
    sigma = noise_sigma(image, NOISE)
    return np.array([2 * float(noisy_image(image, sigma, seed, n)[0, at, at, at].float()) for n in range(MOST_DRAWS)])


def stop_by_hand(drawn: np.ndarray) -> int:
    """The first number of draws whose standard error is small enough."""
    for n in range(FEWEST_DRAWS, len(drawn) + 1):
        if drawn[:n].std(ddof=1) / n**0.5 <= PEAK_TARGET * abs(drawn[:n].mean()):
            return n
    return len(drawn)


def full(average: Average, boxed) -> torch.Tensor:
    """Float64 values of a box on the whole volume."""
    whole = torch.zeros(len(boxed.values), *SHAPE, dtype=torch.float64)
    whole[(slice(None), *average.box)] = boxed.values
    return whole


# The map


def test_a_linear_network_is_not_moved_by_noise(image: torch.Tensor) -> None:
    for draws in (1, 7):
        got = smoothgrad(Linear(), image.float(), LESION, draws=draws, noise=0.5)
        assert torch.allclose(got, gradient(Linear(), image.float(), LESION))


def test_more_draws_do_not_shrink_the_map(image: torch.Tensor) -> None:
    """A root of summed squares over n, as one library returns, would fall as 1 / sqrt(n)."""
    got = [float(smoothgrad(Linear((2.0, -1.0)), image.float(), LESION, draws=n).abs().max()) for n in (1, 4, 16)]
    assert got == pytest.approx([2.0, 2.0, 2.0])


def test_a_quadratic_network_gives_twice_the_mean_noisy_image(image: torch.Tensor) -> None:
    """E 2 (x + e) = 2 x, whatever sigma: within 5 sigma / sqrt(n) of it, and exactly the mean of the draws."""
    sigma, draws = noise_sigma(image, 0.05), 200
    got = exact(Quadratic(), image, LESION, aggregate="sum", draws=draws)
    index = (slice(None), *torch.as_tensor(LESION).T)
    drawn = sum(noisy_image(image, sigma, 0, n) for n in range(draws)) / draws
    assert oracles.relative(got[index], 2 * drawn[index]) < ROUNDED
    assert float((got[index] - 2 * image[index]).abs().max()) < 5 * 2 * sigma / draws**0.5


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
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
    assert oracles.relative(single.full(SHAPE), maps.mean(dim=0)) < SINGLE
    assert oracles.relative(single.error.full(SHAPE), wanted) < SINGLE


def test_it_agrees_with_captum_where_captum_can_do_it(image: torch.Tensor) -> None:
    """No noise: captum's noise tunnel over its own draws of nothing, for the sum."""

    class Scored(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)[:, 1][:, *torch.as_tensor(LESION).T].sum(dim=1)

    network, image = unet((3, 4, 5)), image[:, :, :20]
    tunnel = NoiseTunnel(Saliency(Scored(network.module)))
    wanted = tunnel.attribute(image[None].clone(), nt_samples=2, stdevs=0.0, abs=False)[0]
    got = exact(network, image, LESION, aggregate="sum", draws=2, noise=0.0)
    assert oracles.relative(got, wanted) < EXACT


def test_a_windowed_network_is_smoothed_too(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=16)
    wanted = oracles.smoothgrad(oracles.blended(network), image, LESION, "max", draws=2, noise=0.05, seed=0)
    assert oracles.relative(exact(network, image, LESION, draws=2), wanted) < EXACT


def test_the_network_sees_the_noisy_images_and_no_clean_one(image: torch.Tensor) -> None:
    class Recording(Quadratic):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach()[0, 0, -1, -1, -1])
            return super().forward(x)

    seen: list[torch.Tensor] = []
    image = image.float()
    one = np.array([[9, 9, 9]])
    smoothgrad(Recording(), image, one, draws=5)
    sigma = noise_sigma(image, 0.05)
    assert [float(v) for v in seen[-5:]] == [float(noisy_image(image, sigma, 0, n)[0, 9, 9, 9]) for n in range(5)]


def test_every_lesion_sees_the_same_draws_whatever_their_order(image: torch.Tensor) -> None:
    lesions = [LESION, LESION[:1] + 5, LESION[1:3] - 4]
    network = unet((3, 4, 5))
    alone = [smoothgrad(network, image, lesion, draws=3) for lesion in lesions]
    for order in ([0, 1, 2], [2, 0, 1]):
        maps = dict(smoothgrad_each(network, image, [lesions[n] for n in order], draws=3))
        for place, n in enumerate(order):
            assert torch.equal(maps[place].full(SHAPE), alone[n])


def test_groups_that_fit_in_less_memory_give_the_same_maps(image: torch.Tensor, monkeypatch) -> None:
    lesions = [LESION, LESION[:1] + 5, LESION[1:3] - 4]
    together = dict(smoothgrad_each(unet((3, 4, 5)), image, lesions, draws=2))
    monkeypatch.setattr(module, "SUMS_BYTES", 1)
    apart = dict(smoothgrad_each(unet((3, 4, 5)), image, lesions, draws=2))
    assert all(torch.equal(together[n].values, apart[n].values) for n in range(3))


def test_draws_in_another_order_give_the_same_map(image: torch.Tensor, monkeypatch) -> None:
    network, noisy = unet((3, 4, 5)), noisy_image
    network.module.float()
    image = image.float()
    wanted = smoothgrad(network, image, LESION, draws=6)
    monkeypatch.setattr(module, "noisy_image", lambda x, sigma, seed, draw: noisy(x, sigma, seed, 5 - draw))
    assert oracles.relative(smoothgrad(network, image, LESION, draws=6), wanted) < ROUNDED


MISTAKES = [(0, 0.05), (5, -0.1), (5, 5.0), (5, float("nan")), ("all", 0.05), (2.5, 0.05), ("auto", 2.0), (None, 0.05)]


@pytest.mark.parametrize(("draws", "noise"), MISTAKES)
def test_impossible_settings_are_refused(image: torch.Tensor, draws, noise: float) -> None:
    with pytest.raises(ValueError, match=r"draws must be at least 1 and noise a share from 0 to 1, got .* or auto"):
        smoothgrad(Linear(), image, LESION, draws=draws, noise=noise)


@pytest.mark.parametrize(("first", "draws"), [(1, 1), (3, 4)], ids=["from the first draw", "later"])
def test_a_network_that_is_not_finite_in_any_draw_has_no_map(image: torch.Tensor, first: int, draws: int) -> None:
    passes = -100  # of what is asked of any network before its first draw, and remembered

    class Breaking(Quadratic):
        def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal passes
            passes += 1
            return super().lesion_logit(x) * (float("nan") if passes >= first else 1)

    network = Breaking()
    LesionGradient(network, image, LESION, "sum")
    passes = 0
    with pytest.raises(ValueError, match="must be finite; breaking gave NaN or infinity"):
        smoothgrad(network, image, LESION, aggregate="sum", draws=4)
    assert passes == draws


# The noise


def test_the_noise_is_what_the_contract_says() -> None:
    image = torch.randn(2, 48, 48, 48)
    sigma = noise_sigma(image, 0.05)
    assert sigma == pytest.approx(0.05 * float(image[0].max() - image[0].min()))
    drawn = np.random.default_rng([7, 3]).standard_normal((2, 48, 48, 48), dtype=np.float32)
    assert torch.equal(noisy_image(image, sigma, 7, 3), image + torch.from_numpy(drawn * np.float32(sigma)))
    noise = noisy_image(image, sigma, 7, 3) - image
    assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=0.01 * sigma**2)
    assert not torch.equal(noisy_image(image, sigma, 7, 4), noisy_image(image, sigma, 7, 3))
    assert torch.equal(noisy_image(image, 0.0, 7, 3), image)


def test_the_noise_is_a_share_of_the_range_of_flair_alone() -> None:
    image = torch.zeros(2, 3, 3, 3)
    image[0, 0, 0, 0], image[0, 1, 1, 1], image[1, 0, 0, 0] = 2.0, -1.0, 50.0
    assert noise_sigma(image, 0.05) == pytest.approx(0.15)
    assert noise_sigma(image, 0.05, ("dir", "t2")) == pytest.approx(0.15)  # without FLAIR the first counts
    assert noise_sigma(image, 0.05, ("t1", "flair")) == pytest.approx(2.5)


@pytest.mark.parametrize("named", ["network", "subject"])
def test_flair_gives_the_noise_wherever_it_stands(named: str, image: torch.Tensor) -> None:
    """By the network's names, or where it has none by those of the image."""
    image[1] *= 3
    network = replace(as_network(Quadratic()), channels=("t1", "flair") if named == "network" else None)
    channels = None if named == "network" else ("t1", "flair")
    ((_, average),) = smoothgrad_each(network, image, [LESION], draws=1, aggregate="sum", noise=0.1, channels=channels)
    sigma = 0.1 * float(image[1].max() - image[1].min())
    wanted = 2 * noisy_image(image, sigma, 0, 0)[:, *average.box]
    at = tuple(torch.as_tensor(LESION - LESION.min(axis=0)).T)
    assert torch.allclose(average.values[:, *at], wanted[:, *at], atol=1e-5)


@pytest.mark.parametrize("ahead", [True, False])
def test_images_made_early_are_those_of_their_draws_in_any_order(ahead: bool) -> None:
    image, network = torch.randn(2, 5, 6, 7), unet((3, 4))
    noisy = NoisyImages(image, 0.3, 11, network, ahead=ahead)
    for draw in (0, 1, 2, 7, 3, 3):
        wanted = noisy_image(image, 0.3, 11, draw).double()
        assert torch.equal(noisy(draw), wanted)
        assert noisy(draw).dtype == network.dtype
    noisy.close()


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
    average = Average(1, Box.of((3, 0, 10), (5, 1, 11)))
    for value in (-3.0, -5.0):
        average.add(torch.tensor([1.0, value]).reshape(1, 2, 1, 1))
    assert average.peak == Peak(-4.0, 1.0, 0, (4, 0, 10))
    assert average.peak.relative == 0.25


def test_small_scatter_on_large_values_is_not_lost() -> None:
    """A sum of squares minus the square of a sum would have no digit left of it."""
    scatter = np.random.default_rng(0).standard_normal(40)
    average = Average(1, Box.whole((1, 1, 1)))
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
        assert average.peak.relative <= PEAK_TARGET
        assert torch.equal(average.full(SHAPE), smoothgrad(Quadratic(), image, place, draws=average.draws, **settings))


def test_auto_needs_as_many_draws_as_scatter_and_peak_demand(image: torch.Tensor) -> None:
    """(sigma / (x target))^2 draws, 9, 39 and 61: one run is off by a quarter, eight by less."""
    assert smoothgrad_average(Quadratic(), image, STRONG, draws="auto", noise=NOISE).draws == FEWEST_DRAWS
    for at, place in ((10, MIDDLE), (15, WEAK)):
        runs = (smoothgrad_average(Quadratic(), image, place, draws="auto", noise=NOISE, seed=s) for s in range(8))
        assert np.mean([run.draws for run in runs]) == pytest.approx((SIGMA / VALUES[at] / PEAK_TARGET) ** 2, rel=0.2)


def test_auto_wants_as_many_draws_for_a_negative_peak(image: torch.Tensor) -> None:
    image[0, 10, 10, 10] = -4.0
    sigma = NOISE * 13.0  # the range is from -4 to 9
    drawn = np.array([2 * float(noisy_image(image, sigma, 0, n)[0, 10, 10, 10].float()) for n in range(MOST_DRAWS)])
    average = smoothgrad_average(Quadratic(), image, MIDDLE, draws="auto", noise=NOISE)
    assert average.draws == stop_by_hand(drawn) > FEWEST_DRAWS
    assert average.peak.value < 0


def test_auto_does_not_stop_on_the_luck_of_a_few_draws() -> None:
    average = Average(1, Box.whole((1, 1, 1)))
    for n in range(FEWEST_DRAWS):
        assert not has_enough_draws(average, "auto")
        average.add(torch.full((1, 1, 1, 1), 1.0 + 1e-9 * n))
    assert has_enough_draws(average, "auto")


def test_auto_ends_in_time_and_says_that_it_did_not_get_there(image: torch.Tensor, monkeypatch) -> None:
    image[:, 15, 15, 15] = torch.tensor([0.05, 0.0])
    with pytest.warns(UserWarning, match=rf"peak of lesion 1 is \d+\.\d% of it after {MOST_DRAWS} draws, more than 2%"):
        average = smoothgrad_average(Quadratic(), image, WEAK, draws="auto", noise=NOISE)
    assert average.draws == MOST_DRAWS == most_draws("auto")


def test_a_map_of_zeros_is_known_at_once(image: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average = smoothgrad_average(Linear((0.0, 0.0)), image.float(), LESION, draws="auto")
    assert (average.draws, average.peak.value, average.peak.relative) == (FEWEST_DRAWS, 0.0, 0.0)


def test_values_that_cancel_to_zero_are_not_called_known() -> None:
    average = Average(1, Box.whole((1, 1, 1)))
    for n in range(FEWEST_DRAWS + 2):
        average.add(torch.full((1, 1, 1, 1), (-1.0) ** n))
    assert average.peak.relative == float("inf")
    assert not has_enough_draws(average, "auto")


def test_each_lesion_stops_by_itself_whatever_the_others_do(image: torch.Tensor, monkeypatch) -> None:
    places = [WEAK, STRONG, MIDDLE]
    settings = {"draws": "auto", "noise": NOISE}
    alone = [smoothgrad_average(Quadratic(), image, place, **settings) for place in places]
    assert len({average.draws for average in alone}) == 3
    for order in ([0, 1, 2], [2, 0, 1]):
        for memory in (2**30, 1):
            monkeypatch.setattr(module, "SUMS_BYTES", memory)
            averages = dict(smoothgrad_each(Quadratic(), image, [places[n] for n in order], **settings))
            for place, n in enumerate(order):
                assert averages[place].draws == alone[n].draws
                assert torch.equal(averages[place].sums, alone[n].sums)


def test_no_noise_is_drawn_for_lesions_that_are_done(image: torch.Tensor, monkeypatch) -> None:
    drawn: list[int] = []
    noisy = noisy_image
    monkeypatch.setattr(module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
    averages = dict(smoothgrad_each(Quadratic(), image, [STRONG, MIDDLE], draws="auto", noise=NOISE))
    assert drawn == list(range(max(average.draws for average in averages.values())))


def test_two_standard_errors_hold_the_truth_about_as_often_as_the_docstring_says() -> None:
    """20,000 runs of normal draws for each scatter: 91 to 95 of 100, and a fixed number about 95."""
    rng, counts = np.random.default_rng(0), np.arange(1, MOST_DRAWS + 1)
    for scatter in (0.05, 0.08, 0.12, 0.2):
        x = scatter * rng.standard_normal((20000, MOST_DRAWS))
        mean = x.cumsum(axis=1) / counts
        error = np.sqrt(np.maximum((x**2).cumsum(axis=1) / counts - mean**2, 0) / np.maximum(counts - 1, 1))
        known = (error <= PEAK_TARGET * np.abs(1 + mean)) & (counts >= FEWEST_DRAWS)
        known[:, -1] = True
        stop = known.argmax(axis=1)[:, None]
        inside = np.abs(np.take_along_axis(mean, stop, 1)) <= 2 * np.take_along_axis(error, stop, 1)
        assert 0.905 < inside.mean() < 0.955


# The sums on disk


def test_an_interrupted_run_goes_on_to_the_same_bits(image: torch.Tensor, tmp_path, monkeypatch) -> None:
    lesions, noisy = [LESION, LESION[:1] + 5], noisy_image
    wanted = dict(smoothgrad_each(unet((3, 4, 5)), image, lesions, draws=5))

    def stop(x: torch.Tensor, sigma: float, seed: int, draw: int) -> torch.Tensor:
        if draw == 3:
            raise KeyboardInterrupt
        drawn.append(draw)
        return noisy(x, sigma, seed, draw)

    drawn: list[int] = []
    monkeypatch.setattr(module, "noisy_image", stop)
    with pytest.raises(KeyboardInterrupt):
        list(smoothgrad_each(unet((3, 4, 5)), image, lesions, draws=5, state=RunState(tmp_path, "key", every=0)))
    monkeypatch.setattr(module, "noisy_image", lambda *args: drawn.append(args[3]) or noisy(*args))
    got = dict(smoothgrad_each(unet((3, 4, 5)), image, lesions, draws=5, state=RunState(tmp_path, "key", every=0)))
    assert drawn == [0, 1, 2, 3, 4]
    assert all(torch.equal(got[n].values, wanted[n].values) for n in range(2))


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

    monkeypatch.setattr(module, "noisy_image", stop)
    with pytest.raises(KeyboardInterrupt):
        list(smoothgrad_each(Quadratic(), image, places, **settings, state=RunState(tmp_path, "key", every=0)))
    drawn: list[int] = []
    monkeypatch.setattr(module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
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
    monkeypatch.setattr(module, "noisy_image", lambda *a: drawn.append(a[3]) or noisy(*a))
    got = dict(smoothgrad_each(Quadratic(), image, places, **settings, state=state))
    for n in range(2):
        assert got[n].draws == wanted[n].draws
        assert torch.equal(got[n].sums, wanted[n].sums)
    assert drawn == list(range(max(wanted[n].draws for n in range(2))))


LESIONS = [np.array([[1, 2, 3]]), np.array([[4, 5, 6], [4, 5, 7]])]
TOTALS = [torch.arange(24, dtype=torch.float64).reshape(1, 2, 3, 4) / 7, torch.full((1, 2, 2, 2), 1 / 3).double()]


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    """Both lesions saved, after 7 and 9 draws."""
    saved = RunState(tmp_path / "running", "key", every=0)
    saved.save(zip(LESIONS, TOTALS, [7, 9], strict=True))
    return saved


def loaded(state: RunState, lesion: int = 0) -> tuple[int, torch.Tensor]:
    total = torch.zeros_like(TOTALS[lesion])
    return state.load(LESIONS[lesion], total, 99), total


def test_sums_come_back_bit_by_bit_in_another_run_of_the_same_key(state: RunState) -> None:
    again = RunState(state.folder, "key")
    for lesion, draws in enumerate((7, 9)):
        got, total = loaded(again, lesion)
        assert got == draws
        assert torch.equal(total, TOTALS[lesion])


def test_another_key_or_another_lesion_starts_anew(state: RunState) -> None:
    assert loaded(RunState(state.folder, "other key"))[0] == 0
    assert state.load(np.array([[1, 2, 4]]), torch.zeros_like(TOTALS[0]), 99) == 0
    total = torch.zeros(1, 9, 9, 9, dtype=torch.float64)
    assert state.load(LESIONS[0], total, 99) == 0
    assert not total.any()


def test_sums_of_another_kind_count_as_not_there(state: RunState) -> None:
    """A file of one sum a lesion, as an earlier version wrote it, is not taken for a sum and its deviations."""
    both = torch.zeros(2, *TOTALS[0].shape, dtype=torch.float64)
    assert state.load(LESIONS[0], both, 99) == 0
    assert not both.any()


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    values = np.zeros((1, 2, 3, 4))
    match how:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            middle = content.index(TOTALS[0].numpy().tobytes()) + 50
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "text":
            path.write_text("not an archive")
        case "without draws":
            np.savez(path, total=values + 1)
        case "without sums":
            np.savez(path, draws=3)
        case "many draws":
            np.savez(path, total=values + 1, draws=np.arange(3))
        case "objects":
            np.savez(path, total=values.astype(object), draws=3)
        case "letters":
            np.savez(path, total=values.astype(str), draws=3)
        case "not finite":
            np.savez(path, total=values + np.nan, draws=3)


DAMAGES = (
    "empty",
    "cut",
    "flipped",
    "text",
    "without draws",
    "without sums",
    "many draws",
    "objects",
    "letters",
    "not finite",
)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_counts_as_not_there_and_leaves_the_sum_alone(state: RunState, how: str) -> None:
    damaged(state._path(LESIONS[0]), how)
    draws, total = loaded(state)
    assert draws == 0
    assert not total.any()
    assert loaded(state, 1)[0] == 9


def test_nothing_is_saved_before_its_time(tmp_path: Path) -> None:
    state = RunState(tmp_path / "running", "key", every=3600)
    state.save(zip(LESIONS, TOTALS, [1, 1], strict=True))
    assert list(tmp_path.iterdir()) == []
    state.every = 0
    state.save(zip(LESIONS, TOTALS, [2, 2], strict=True))
    state.every = 3600
    state.save(zip(LESIONS, TOTALS, [3, 3], strict=True))
    assert loaded(state)[0] == 2


def test_clearing_removes_this_run_and_leaves_another(state: RunState) -> None:
    other = RunState(state.folder, "other", every=0)
    other.save(zip(LESIONS[:1], TOTALS[:1], [5], strict=True))
    state.clear()
    assert [loaded(state, n)[0] for n in (0, 1)] == [0, 0]
    assert loaded(other)[0] == 5
    other.clear()
    assert not state.folder.exists()
    other.clear()  # once more does no harm


def test_a_failing_write_keeps_the_last_sums(state: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        state.save(zip(LESIONS, [t + 1 for t in TOTALS], [8, 10], strict=True))
    draws, total = loaded(state)
    assert draws == 7
    assert torch.equal(total, TOTALS[0])
    assert sorted(p.suffix for p in state.folder.iterdir()) == [".npz", ".npz"]
