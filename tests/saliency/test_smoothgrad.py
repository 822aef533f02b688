"""SmoothGrad: closed forms whatever the noise, the plain loop, and the same map however it is computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from ies_helpers import gradient, smoothgrad
from ies_helpers.saliency import smoothgrad as module
from ies_helpers.saliency import smoothgrad as noise_module
from ies_helpers.saliency.smoothgrad import RunState, noise_sigma, noisy_image, smoothgrad_each
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.network import as_network
from ies_helpers.teaching import Linear, Quadratic
from tests import oracles
from tests.networks import nnunet, unet

EXACT = 1e-10
SINGLE = 1e-4
STORED = 1e-6
"""Float64 maps rounded to float32."""

LESION = np.array([[20, 20, 20], [21, 20, 20], [20, 22, 30], [15, 16, 17]])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 48, 48, 48, dtype=torch.float64)


def exact(network, image: torch.Tensor, lesion: np.ndarray, **settings) -> torch.Tensor:
    """SmoothGrad in float64, on the whole volume."""
    ((_, boxed),) = smoothgrad_each(network, image, [lesion], **settings)
    whole = torch.zeros(image.shape, dtype=torch.float64)
    whole[(slice(None), *boxed.box)] = boxed.values
    return whole


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
    assert oracles.relative(got[index], 2 * drawn[index]) < STORED
    assert float((got[index] - 2 * image[index]).abs().max()) < 5 * 2 * sigma / draws**0.5


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("through", ["whole", "windows"])
def test_it_agrees_with_the_plain_loop(image: torch.Tensor, how, through) -> None:
    network = replace(unet(), window=32, overlap=0.5).explained_through(through)
    logits = {"whole": oracles.whole, "windows": oracles.blended}[through](network)
    wanted = oracles.smoothgrad(logits, image, LESION, how, draws=3, noise=0.1, seed=4)
    settings = {"aggregate": how, "draws": 3, "noise": 0.1, "seed": 4}
    assert oracles.relative(exact(network, image, LESION, **settings), wanted) < EXACT
    network.module.float()
    assert oracles.relative(smoothgrad(network, image.float(), LESION, **settings), wanted) < SINGLE


def test_it_agrees_with_captum_where_captum_can_do_it(image: torch.Tensor) -> None:
    """No noise: captum's noise tunnel over its own draws of nothing, for the sum."""

    class Scored(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)[:, 1][:, *torch.as_tensor(LESION).T].sum(dim=1)

    network = unet()
    tunnel = NoiseTunnel(Saliency(Scored(network.module)))
    wanted = tunnel.attribute(image[None].clone(), nt_samples=2, stdevs=0.0, abs=False)[0]
    got = exact(network, image, LESION, aggregate="sum", draws=2, noise=0.0)
    assert oracles.relative(got, wanted) < EXACT


def test_the_noise_is_what_the_contract_says(image: torch.Tensor) -> None:
    image = image.float()
    sigma = noise_sigma(image, 0.05)
    assert sigma == pytest.approx(0.05 * float(image[0].max() - image[0].min()))
    drawn = np.random.default_rng([7, 3]).standard_normal((2, 48, 48, 48), dtype=np.float32)
    assert torch.equal(noisy_image(image, sigma, 7, 3), image + torch.from_numpy(drawn * np.float32(sigma)))
    noise = noisy_image(image, sigma, 7, 3) - image
    assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=0.01 * sigma**2)
    assert not torch.equal(noisy_image(image, sigma, 7, 4), noisy_image(image, sigma, 7, 3))
    assert torch.equal(noisy_image(image, 0.0, 7, 3), image)


def test_the_network_sees_the_noisy_images_and_no_clean_one(image: torch.Tensor) -> None:
    class Recording(Quadratic):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach()[0, 0, -1, -1, -1])
            return super().forward(x)

    seen: list[torch.Tensor] = []
    image = image.float()
    one = np.array([[20, 20, 20]])
    smoothgrad(Recording(), image, one, draws=5)
    sigma = noise_sigma(image, 0.05)
    assert [float(v) for v in seen[-5:]] == [float(noisy_image(image, sigma, 0, n)[0, 20, 20, 20]) for n in range(5)]


def test_every_lesion_sees_the_same_draws_whatever_their_order(image: torch.Tensor) -> None:
    lesions = [LESION, LESION[:1] + 5, LESION[1:3] - 4]
    network = unet()
    alone = [smoothgrad(network, image, lesion, draws=3) for lesion in lesions]
    for order in ([0, 1, 2], [2, 0, 1]):
        maps = dict(smoothgrad_each(network, image, [lesions[n] for n in order], draws=3))
        for place, n in enumerate(order):
            assert torch.equal(maps[place].full((48, 48, 48)), alone[n])


def test_groups_that_fit_in_less_memory_give_the_same_maps(image: torch.Tensor, monkeypatch) -> None:
    lesions = [LESION, LESION[:1] + 5, LESION[1:3] - 4]
    together = dict(smoothgrad_each(unet(), image, lesions, draws=2))
    monkeypatch.setattr(module, "ACCUMULATORS", 1)
    apart = dict(smoothgrad_each(unet(), image, lesions, draws=2))
    assert all(torch.equal(together[n].values, apart[n].values) for n in range(3))


def test_draws_in_another_order_give_the_same_map(image: torch.Tensor, monkeypatch) -> None:
    network, noisy = unet(), noisy_image
    network.module.float()
    image = image.float()
    wanted = smoothgrad(network, image, LESION, draws=6)
    monkeypatch.setattr(noise_module, "noisy_image", lambda x, sigma, seed, draw: noisy(x, sigma, seed, 5 - draw))
    assert oracles.relative(smoothgrad(network, image, LESION, draws=6), wanted) < STORED


def test_an_interrupted_run_goes_on_to_the_same_bits(image: torch.Tensor, tmp_path, monkeypatch) -> None:
    lesions, noisy = [LESION, LESION[:1] + 5], noisy_image
    wanted = dict(smoothgrad_each(unet(), image, lesions, draws=5))

    def stop(x: torch.Tensor, sigma: float, seed: int, draw: int) -> torch.Tensor:
        if draw == 3:
            raise KeyboardInterrupt
        drawn.append(draw)
        return noisy(x, sigma, seed, draw)

    drawn: list[int] = []
    monkeypatch.setattr(noise_module, "noisy_image", stop)
    with pytest.raises(KeyboardInterrupt):
        list(smoothgrad_each(unet(), image, lesions, draws=5, state=RunState(tmp_path, "key", every=0)))
    monkeypatch.setattr(noise_module, "noisy_image", lambda *args: drawn.append(args[3]) or noisy(*args))
    got = dict(smoothgrad_each(unet(), image, lesions, draws=5, state=RunState(tmp_path, "key", every=0)))
    assert drawn == [0, 1, 2, 3, 4]
    assert all(torch.equal(got[n].values, wanted[n].values) for n in range(2))


def test_a_windowed_network_is_smoothed_too(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=32)
    wanted = oracles.smoothgrad(oracles.blended(network), image, LESION, "max", draws=2, noise=0.05, seed=0)
    assert oracles.relative(exact(network, image, LESION, draws=2), wanted) < EXACT


MISTAKES = [(0, 0.05), (5, -0.1), (5, 5.0), (5, float("nan")), ("all", 0.05), (2.5, 0.05), ("auto", 2.0), (None, 0.05)]


@pytest.mark.parametrize(("draws", "noise"), MISTAKES)
def test_impossible_settings_are_refused(image: torch.Tensor, draws, noise: float) -> None:
    with pytest.raises(ValueError, match=r"draws must be at least 1 and noise a share from 0 to 1, got .* or auto"):
        smoothgrad(Linear(), image, LESION, draws=draws, noise=noise)


@pytest.mark.parametrize(("first", "draws"), [(1, 1), (3, 4)], ids=["from the first draw", "later"])
def test_a_network_that_is_not_finite_in_any_draw_has_no_map(image: torch.Tensor, first: int, draws: int) -> None:
    class Breaking(Quadratic):
        passes = 0

        def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            return super().lesion_logit(x) * (float("nan") if self.passes >= first else 1)

    network = Breaking()
    field = receptive_field(as_network(network), 2)
    assert field is not None
    network.passes = 0
    with pytest.raises(ValueError, match="must be finite; breaking gave NaN or infinity"):
        smoothgrad(network, image, LESION, aggregate="sum", draws=4)
    assert network.passes == draws
