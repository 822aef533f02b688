"""Other attributions: closed forms, plain loops over the whole volume, captum, and what must add up."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, KernelShap, Occlusion
from torch import nn

from ies_helpers import Network
from ies_helpers.saliency.comparison import (
    baseline_image,
    blocks,
    input_x_gradient,
    integrated_gradients,
    kernel_shap,
    occlusion,
    supervoxels,
)
from ies_helpers.saliency.context import filled
from ies_helpers.saliency.score import LesionScore
from ies_helpers.teaching import Linear, Quadratic, Shifted
from tests import oracles
from tests.networks import nnunet, unet
from tests.patients import UNEVEN

pytestmark = pytest.mark.filterwarnings("ignore:Integrated gradients add up")

ROUNDING = 2e-6
"""Relative: maps are float32, everything before them float64."""

EXACT = 1e-10
"""Float64 sums of a few thousand terms."""

CLOSE = 0.02
"""Share of the change that 32 steps may leave: networks of kinks converge slowly."""

SHAPE = (28, 22, 19)  # no multiple of the stride
LESION = np.array([[10, 9, 8], [10, 9, 9], [11, 10, 8], [12, 10, 9]])
AT = tuple(torch.as_tensor(LESION).T)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, *SHAPE, dtype=torch.float64)


NETWORKS: dict[str, Callable[[], tuple[Network, oracles.Logits]]] = {
    "U-Net, whole": lambda: seen_whole(unet((3, 4))),
    "nnU-Net, whole": lambda: seen_whole(nnunet()),
    "U-Net, windows": lambda: seen_through_windows(unet((3, 4))),
    "nnU-Net, windows": lambda: seen_through_windows(nnunet()),
}


def seen_whole(network: Network) -> tuple[Network, oracles.Logits]:
    network = replace(network, window=None, through="whole")
    return network, oracles.whole(network, 4)


def seen_through_windows(network: Network) -> tuple[Network, oracles.Logits]:
    network = replace(network, window=16, through="windows")
    return network, oracles.blended(network)


def mean_logit(logits: oracles.Logits) -> Callable[[torch.Tensor], torch.Tensor]:
    """`(B, C, I, J, K)` -> `(B,)`, the whole volume through the network, one image after another."""
    return lambda x: torch.stack([logits(one[None])[AT].mean() for one in x])


# Integrated gradients and input x gradient


def test_a_linear_network_gives_each_entry_its_weight_times_its_difference(image: torch.Tensor) -> None:
    network = Linear((2.0, -1.0))
    wanted = torch.zeros_like(image)
    wanted[(slice(None), *AT)] = torch.tensor([[2.0], [-1.0]]).double() * image[(slice(None), *AT)] / len(LESION)
    assert oracles.relative(input_x_gradient(network, image, LESION), wanted) < ROUNDING
    found = integrated_gradients(network, image, LESION, steps=1)
    assert oracles.relative(found.saliency, wanted) < ROUNDING
    assert found.change == pytest.approx(float(wanted.sum()), rel=1e-6)  # its weights and so its logits are float32
    assert found.error < 1e-6
    other = torch.randn_like(image)
    shifted = integrated_gradients(network, image, LESION, steps=1, baseline=other)
    wanted[(slice(None), *AT)] -= torch.tensor([[2.0], [-1.0]]).double() * other[(slice(None), *AT)] / len(LESION)
    assert oracles.relative(shifted.saliency, wanted) < ROUNDING


def test_the_square_gives_integrated_gradients_the_square_and_the_product_twice_as_much(image: torch.Tensor) -> None:
    """The gradient 2 x grows in proportion along the way from zero: its mean is x, at its end it is 2 x."""
    wanted = torch.zeros_like(image)
    wanted[(slice(None), *AT)] = image[(slice(None), *AT)] ** 2 / len(LESION)
    found = integrated_gradients(Quadratic(), image, LESION, steps=1)
    assert oracles.relative(found.saliency, wanted) < ROUNDING
    assert found.change == pytest.approx(float(wanted.sum()))
    assert oracles.relative(input_x_gradient(Quadratic(), image, LESION), 2 * wanted) < ROUNDING


@pytest.mark.parametrize(("name", "baseline"), list(zip(NETWORKS, ["zero", "mean", "blurred", "blurred"], strict=True)))
def test_it_is_the_plain_sum_over_gauss_and_legendres_points(name: str, baseline, image: torch.Tensor) -> None:
    network, logits = NETWORKS[name]()
    image[:, :4] = 0  # outside the brain
    start = filled(image, baseline, np.ones(3))
    total = torch.zeros_like(image)
    for node, weight in (((1 - 1 / 3**0.5) / 2, 0.5), ((1 + 1 / 3**0.5) / 2, 0.5)):
        g = oracles.voxel_gradients(logits, start + node * (image - start), LESION)
        total += weight * oracles.aggregate(g, "mean") * (image - start)
    found = integrated_gradients(network, image, LESION, steps=2, baseline=baseline)
    assert oracles.relative(found.saliency, total) < ROUNDING
    score = mean_logit(logits)
    change = float(score(image[None]) - score(start[None]))
    assert found.change == pytest.approx(change, abs=EXACT)
    assert found.error == pytest.approx(abs(float(total.sum()) - change), abs=EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_input_times_gradient_is_the_plain_product(name: str, image: torch.Tensor) -> None:
    network, logits = NETWORKS[name]()
    wanted = image * oracles.aggregate(oracles.voxel_gradients(logits, image, LESION), "mean")
    assert oracles.relative(input_x_gradient(network, image, LESION), wanted) < ROUNDING


@pytest.mark.parametrize("name", ["U-Net, whole", "nnU-Net, windows"])
def test_captum_finds_the_same_integrated_gradients(name: str, image: torch.Tensor) -> None:
    network, logits = NETWORKS[name]()
    start = torch.randn_like(image)
    captum = IntegratedGradients(mean_logit(logits))
    how = {"baselines": start[None], "n_steps": 7, "internal_batch_size": 1}
    wanted = captum.attribute(image[None], **how)
    found = integrated_gradients(network, image, LESION, steps=7, baseline=start)
    assert oracles.relative(found.saliency, wanted[0]) < ROUNDING
    delta = captum.compute_convergence_delta((wanted,), start[None], image[None])
    assert found.error == pytest.approx(abs(float(delta)), abs=1e-6)  # captum rounds its weights to float32


def test_a_products_factor_is_the_slope_of_finite_differences(image: torch.Tensor) -> None:
    network, logits = NETWORKS["U-Net, windows"]()
    saliency = input_x_gradient(network, image, LESION).double()
    largest = saliency.abs().flatten().argsort(descending=True)[[0, 5, 20, 100]]
    entries = np.stack(np.unravel_index(largest.numpy(), tuple(image.shape)), axis=1)
    slopes = oracles.finite_difference(logits, image, LESION, entries) / len(LESION)
    index = tuple(torch.as_tensor(entries).T)
    assert torch.allclose(saliency[index], image[index] * slopes, rtol=1e-5, atol=0)


def test_an_entrys_share_is_the_integral_of_finite_differences(image: torch.Tensor) -> None:
    """The share of one entry, its slopes taken by finite differences on every image of the way."""
    network, logits = NETWORKS["nnU-Net, whole"]()
    start = torch.randn_like(image)
    found = integrated_gradients(network, image, LESION, steps=3, baseline=start).saliency.double()
    entries = np.stack(np.unravel_index([int(found.abs().argmax())], tuple(image.shape)), axis=1)
    share = 0.0
    for node, weight in ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18)):
        seen = start + node * (image - start)
        share += weight * float(oracles.finite_difference(logits, seen, LESION, entries)) / len(LESION)
    (entry,) = map(tuple, entries)
    assert float(found[entry]) == pytest.approx(share * float((image - start)[entry]), rel=1e-5)


@pytest.mark.parametrize("name", ["U-Net, whole", "nnU-Net, windows"])
def test_the_completeness_error_goes_to_zero_with_steps(name: str, image: torch.Tensor) -> None:
    network, _ = NETWORKS[name]()
    start = image + 0.05 * torch.randn_like(image)
    found = [integrated_gradients(network, image, LESION, steps=n, baseline=start) for n in (1, 8, 32)]
    coarse, fine, finest = (f.error / abs(f.change) for f in found)
    assert finest < fine < coarse / 3
    assert finest < CLOSE
    assert float(found[-1].saliency.double().sum()) == pytest.approx(found[-1].change, rel=CLOSE)


def test_any_number_of_channels_and_any_class_of_lesion_will_do() -> None:
    """In a linear network every method but KernelSHAP gives each entry its weight times its value."""
    torch.manual_seed(0)
    image, module = torch.randn(3, 8, 9, 10, dtype=torch.float64), nn.Conv3d(3, 4, 3, padding=1).double()
    lesion = np.array([[4, 4, 5], [4, 5, 5]])
    x = image[None].requires_grad_()
    (g,) = torch.autograd.grad(module(x)[0, 2][tuple(torch.as_tensor(lesion).T)].mean(), x)
    network, wanted = Network(module, lesion_class=2), (g * x).detach()[0]
    assert oracles.relative(input_x_gradient(network, image, lesion), wanted) < ROUNDING
    assert oracles.relative(integrated_gradients(network, image, lesion, steps=1).saliency, wanted) < ROUNDING
    each, both = (occlusion(network, image, lesion, side=1, reach=1, modalities=m) for m in ("each", "all"))  # pyright: ignore
    assert oracles.relative(each, wanted) < ROUNDING
    assert oracles.relative(both, wanted.sum(dim=0, keepdim=True)) < ROUNDING


class Normed(nn.Module):
    """An instance norm, then the sum of both channels: the same for an image and for any multiple of it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(2, eps=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).sum(dim=1, keepdim=True)


def test_instance_norm_hides_the_way_from_zero_and_the_error_says_so(image: torch.Tensor) -> None:
    image[(slice(None), *AT)] += 4
    with pytest.warns(UserWarning, match=r"add up to .* the logit changed by .*: take more steps, or .*blurred"):
        dark = integrated_gradients(Normed(), image, LESION)
    assert dark.error == pytest.approx(dark.change, rel=1e-4)
    with warnings.catch_warnings(action="error"):
        blurred = integrated_gradients(Normed(), image, LESION, baseline="blurred")
    assert blurred.error < 1e-3 * blurred.change


def test_the_baseline_is_named_or_given(image: torch.Tensor) -> None:
    image[:, 0] = 0
    assert torch.equal(baseline_image(image, "zero"), torch.zeros_like(image))
    mean = baseline_image(image, "mean")
    assert torch.allclose(mean[:, 1:].amax(dim=(1, 2, 3)), image[:, 1:].mean(dim=(1, 2, 3)))
    assert not mean[:, 0].any()
    wide = np.diag([2.0, 2.0, 2.0, 1.0])
    assert torch.equal(baseline_image(image, "blurred", wide), filled(image, "blurred", np.full(3, 2.0)))
    assert not torch.equal(baseline_image(image, "blurred"), filled(image, "blurred", np.full(3, 2.0)))
    permuted = filled(image, "blurred", np.array([1.0, 2.0, 3.0]))
    assert torch.equal(baseline_image(image, "blurred", UNEVEN), permuted)


# Occlusion


@pytest.mark.parametrize("modalities", ["each", "all"])
def test_occlusion_of_a_linear_network_is_the_sum_of_what_a_block_hides(modalities, image: torch.Tensor) -> None:
    """Where blocks do not overlap, a voxel has the sum over its block's lesion voxels of w x, over their number."""
    share = torch.zeros_like(image)
    share[(slice(None), *AT)] = torch.tensor([[2.0], [-1.0]]).double() * image[(slice(None), *AT)] / len(LESION)
    found = occlusion(Linear((2.0, -1.0)), image, LESION, side=3, modalities=modalities, reach=None)
    block = (slice(None), slice(9, 12), slice(9, 12), slice(6, 9))  # holds two of four lesion voxels
    wanted = share[block].sum(dim=(1, 2, 3))
    box = found[:, 10:12, 9:11, 8:9]  # the part of the block in the lesion's box
    wanted = wanted if modalities == "each" else wanted.sum()[None]
    assert torch.allclose(box.double(), wanted[:, None, None, None].expand_as(box), atol=1e-6)
    assert len(found) == (2 if modalities == "each" else 1)
    assert not found[:, :10].any()


@pytest.mark.parametrize(
    ("name", "modalities"),
    [("U-Net, whole", "each"), ("U-Net, windows", "all"), ("nnU-Net, whole", "all"), ("nnU-Net, windows", "each")],
)
def test_occlusion_is_the_plain_loop_over_all_blocks_of_the_volume(name: str, modalities, image: torch.Tensor) -> None:
    network, logits = NETWORKS[name]()
    found = occlusion(network, image, LESION, side=12, stride=9, modalities=modalities, reach=2, baseline="mean")
    wanted = occluded(mean_logit(logits), image, (12, 9), filled(image, "mean", np.ones(3)), modalities)
    zone = (slice(None), *(slice(a - 2, b + 3) for a, b in zip(LESION.min(axis=0), LESION.max(axis=0), strict=True)))
    assert oracles.relative(found[zone], wanted[zone]) < ROUNDING
    found[zone] = 0
    assert not found.any()


@torch.no_grad()
def occluded(
    score: Callable, image: torch.Tensor, grid: tuple[int, int], fill: torch.Tensor, modalities: str
) -> torch.Tensor:
    """Every block of the volume, one after another, through the whole network."""
    side, stride = grid
    channels = [[0], [1]] if modalities == "each" else [[0, 1]]
    clean = float(score(image[None]))
    total = torch.zeros(len(channels), *SHAPE, dtype=torch.float64)
    times = torch.zeros_like(total)
    starts = [range(0, n - side + stride, stride) for n in SHAPE]
    for i in starts[0]:
        for j in starts[1]:
            for k in starts[2]:
                where = (slice(i, i + side), slice(j, j + side), slice(k, k + side))
                for n, hidden in enumerate(channels):
                    edited = image.clone()
                    edited[(hidden, *where)] = fill[(hidden, *where)]
                    total[(n, *where)] += clean - float(score(edited[None]))
                    times[(n, *where)] += 1
    return total / times


def test_captum_finds_the_same_occlusion(image: torch.Tensor) -> None:
    network, logits = NETWORKS["U-Net, whole"]()
    how = {"sliding_window_shapes": (1, 8, 8, 8), "strides": (1, 6, 6, 6), "baselines": 0.3}
    with torch.no_grad():
        wanted = Occlusion(mean_logit(logits)).attribute(image[None], **how)[0]
    found = occlusion(network, image, LESION, side=8, stride=6, reach=None, baseline=torch.full_like(image, 0.3))
    box = (slice(None), *LesionScore(network, image, LESION).box)
    assert oracles.relative(found[box], wanted[box]) < ROUNDING


def test_a_cue_some_voxels_away_is_found_within_reach_alone(image: torch.Tensor) -> None:
    lesion = LESION[:1]
    far = occlusion(Shifted(steps=5), image, lesion, side=1, reach=5)
    wanted = torch.zeros_like(image)
    wanted[0, 15, 9, 8] = 3 * image[0, 15, 9, 8]
    assert torch.allclose(far.double(), wanted, atol=1e-5)
    assert not occlusion(Shifted(steps=5), image, lesion, side=1, reach=4).any()


def test_blocks_cover_the_zone_and_end_with_the_volume() -> None:
    zone = (slice(7, 10), slice(0, 3), slice(2, 4))
    starts = [tuple(s.start for s in block) for block in blocks((10, 4, 9), zone, 4, 3)]
    assert starts == [(6, 0, k) for k in (0, 3)]
    assert blocks((10, 4, 9), zone, 4, 4)[-1][0] == slice(8, 10)
    assert blocks((3, 3, 3), (slice(0, 3),) * 3, 5, 5) == [(slice(0, 3),) * 3]


# KernelSHAP


def test_shapley_values_of_a_linear_network_are_what_each_supervoxel_holds(image: torch.Tensor) -> None:
    """And so they are for every seed; they add up to the change."""
    share = torch.zeros_like(image)
    share[(slice(None), *AT)] = torch.tensor([[2.0], [-1.0]]).double() * image[(slice(None), *AT)] / len(LESION)
    found = kernel_shap(Linear((2.0, -1.0)), image, LESION, side=3, reach=0, samples=200, seed=1)
    for i, j, k in LESION:
        block = (slice(None), *(slice(n // 3 * 3, n // 3 * 3 + 3) for n in (i, j, k)))
        assert torch.allclose(found[:, i, j, k].double(), share[block].sum(dim=(1, 2, 3)), atol=1e-5)


def test_captum_on_the_whole_volume_finds_the_same_shapley_values(image: torch.Tensor) -> None:
    network, logits = NETWORKS["U-Net, windows"]()
    score = LesionScore(network, image, LESION)
    start = torch.zeros_like(image)
    numbers = torch.zeros(2, *SHAPE, dtype=torch.int64)
    some = supervoxels(score, score.crop(start), SHAPE, 8, 1)
    numbers[(slice(None), *score.box)] = some.clamp(min=0)
    hidden = torch.zeros(2, *SHAPE, dtype=torch.bool)
    hidden[(slice(None), *score.box)] = some >= 0
    torch.manual_seed(7)
    how = {"baselines": torch.where(hidden, start, image)[None], "feature_mask": numbers[None], "n_samples": 60}
    with torch.no_grad():
        wanted = KernelShap(mean_logit(logits)).attribute(image[None], **how)[0] * hidden
    before = torch.get_rng_state()
    found = kernel_shap(network, image, LESION, side=8, reach=1, samples=60, seed=7)
    assert oracles.relative(found, wanted) < 1e-5
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(found, kernel_shap(network, image, LESION, side=8, reach=1, samples=60, seed=8))


def test_shapley_values_add_up_to_the_change(image: torch.Tensor) -> None:
    network, logits = NETWORKS["nnU-Net, whole"]()
    found = kernel_shap(network, image, LESION, side=8, reach=1, samples=60)
    score = LesionScore(network, image, LESION)
    numbers = supervoxels(score, torch.zeros_like(score.image), SHAPE, 8, 1)
    total = sum(float(score.crop(found)[numbers == n][0]) for n in range(int(numbers.max()) + 1))
    hidden = image.clone()
    score.crop(hidden)[numbers >= 0] = 0
    change = mean_logit(logits)(torch.stack([image, hidden]))
    assert total == pytest.approx(float(change[0] - change[1]), rel=1e-3)


def test_supervoxels_that_hiding_would_not_change_are_left_out(image: torch.Tensor) -> None:
    image[:, :12] = 0
    image[1, :, 10:] = 0
    score = LesionScore(unet((3, 4)), image, LESION)
    numbers = supervoxels(score, torch.zeros_like(score.image), SHAPE, 4, 2)
    starts = {
        (n, *(int(a.min()) + side.start for a, side in zip(torch.where(numbers[c] == n), score.box, strict=True)), c)
        for c in (0, 1)
        for n in numbers[c].unique().tolist()
        if n >= 0
    }
    assert {s[1:4] for s in starts if s[4] == 0} == {(12, j, k) for j in (4, 8, 12) for k in (4, 8)}
    assert {s[1:4] for s in starts if s[4] == 1} == {(12, j, k) for j in (4, 8) for k in (4, 8)}
    assert sorted(s[0] for s in starts) == list(range(10))


# Mistakes


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x: integrated_gradients(Linear(), x, LESION, steps=0), "steps must be at least 1, got 0"),
        (
            lambda x: integrated_gradients(Linear(), x, LESION, baseline="dark"),
            "one of zero, mean, blurred, got 'dark'",
        ),  # pyright: ignore
        (lambda x: integrated_gradients(Linear(), x, LESION, baseline=x[:1]), r"one grid, got \(1, 28"),
        (lambda x: occlusion(Linear(), x, LESION, side=2, stride=3), "leave no gaps, got side 2 and stride 3"),
        (lambda x: occlusion(Linear(), x, LESION, side=0), "whole numbers of voxels from 1 .* got side 0 and stride 0"),
        (lambda x: occlusion(Linear(), x, LESION, stride=0), "leave no gaps, got side 5 and stride 0"),
        (lambda x: occlusion(Linear(), x, LESION, side=2.5), "got side 2.5 and stride 2.5"),  # pyright: ignore
        (lambda x: occlusion(Linear(), x, LESION, reach=-1), "reach must be a whole number of voxels.* got -1"),
        (lambda x: occlusion(Linear(), x, LESION, reach=1.5), "or None for all .* got 1.5"),  # pyright: ignore
        (lambda x: occlusion(Linear(), x, LESION, modalities="t1"), "each, all, got 't1'"),  # pyright: ignore
        (lambda x: kernel_shap(Linear(), x, LESION, side=1, samples=20), "got 24 supervoxels and 20 samples"),
        (lambda x: kernel_shap(Linear(), 0 * x, LESION), "got 0 supervoxels and 1000 samples"),
    ],
)
def test_mistakes_are_refused(call: Callable, told: str, image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=told):
        call(image)


def test_kernel_shap_without_captum_names_the_extra(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ValueError, match=r"needs captum, .* pip install 'ies-helpers\[shap\]'"):
        kernel_shap(Linear(), image, LESION)


@pytest.mark.parametrize("method", [input_x_gradient, integrated_gradients, occlusion, kernel_shap])
def test_image_and_network_come_back_as_they_were(method: Callable, image: torch.Tensor) -> None:
    network = unet((3, 4))
    network.module.train()
    network.module.requires_grad_(True)
    before, digest = image.clone(), network.digest()
    settings = {kernel_shap: {"side": 8, "reach": 0, "samples": 40}, occlusion: {"side": 8, "reach": 0}}
    method(network, image, LESION, **settings.get(method, {}))
    assert torch.equal(image, before)
    assert network.digest() == digest
    assert all(m.training for m in network.module.modules())
    assert all(p.requires_grad and p.grad is None for p in network.module.parameters())
