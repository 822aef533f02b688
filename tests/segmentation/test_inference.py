"""Prediction: the windows of MONAI, the whole volume, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradient, predict, predict_logits
from ies_helpers.teaching import Linear
from tests import oracles
from tests.networks import nnunet, unet


def test_a_linear_network_gives_the_sigmoid_of_its_sum() -> None:
    image = torch.randn(2, 6, 7, 8)
    assert torch.allclose(predict(Linear((2.0, -1.0)), image), (2 * image[0] - image[1]).sigmoid(), atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 48, 48), (41, 50, 33)])
def test_the_whole_volume_is_padded_at_its_end(shape: tuple[int, int, int]) -> None:
    network = replace(unet(), window=None, through="whole")
    image = torch.randn(2, *shape, dtype=torch.float64)
    wanted = oracles.whole(network)(image[None])
    got = predict_logits(network, image)[1]
    assert oracles.relative(got, wanted) < 1e-6  # stored in float32


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
def test_windows_are_blended_as_logits_before_the_softmax(weighting) -> None:
    network = replace(nnunet(), window=24, weighting=weighting)
    image = torch.randn(2, 40, 30, 48, dtype=torch.float64)
    wanted = oracles.blended(network)(image[None])
    assert oracles.relative(predict_logits(network, image)[1], wanted) < 1e-6
    logits = predict_logits(network, image)
    assert torch.allclose(predict(network, image), (logits[1] - logits[0]).sigmoid(), atol=1e-6)


def test_the_two_ways_of_seeing_differ() -> None:
    """The same weights, whole and through windows, are two functions of the image."""
    network = replace(unet(), window=32)
    image = torch.randn(2, 48, 48, 48, dtype=torch.float64)
    whole = predict_logits(replace(network, window=None), image)
    assert oracles.relative(predict_logits(network, image), whole) > 1e-3


def test_an_image_below_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="windows of 96 x 96 x 96 voxels and the image has 96 x 95 x 96"):
        predict(replace(unet(), window=96), torch.zeros(2, 96, 95, 96))


def test_logits_that_are_not_finite_are_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0 * 0

    with pytest.raises(ValueError, match="must be finite; broken gave NaN"):
        predict(Network(Broken(), "broken", stride=(1, 1, 1)), torch.randn(2, 4, 4, 4))


@pytest.mark.parametrize("image", [torch.zeros(1, 2, 4, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.int32), [1.0]])
def test_what_is_no_image_is_refused(image) -> None:
    with pytest.raises(ValueError, match=r"float tensor \(C, I, J, K\), got"):
        predict(Linear(), image)


def test_the_network_comes_back_as_it_was() -> None:
    module = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.BatchNorm3d(2)).train()
    statistics = module[1].running_mean.clone()  # pyright: ignore
    predict(module, torch.randn(2, 8, 8, 8) + 3)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module[1].running_mean, statistics)  # pyright: ignore


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("modalities", [1, 3])
def test_another_number_of_modalities_is_refused(modalities: int, window: int | None) -> None:
    network = replace(unet((3, 4, 5)), window=window, through="whole" if window is None else "windows")
    image = torch.randn(modalities, 16, 16, 16)
    rule = rf"unet takes 2 modalities, got an image of {modalities}: give all .*[Cc]hapter 12"
    for ask in (lambda: predict(network, image), lambda: gradient(network, image, np.array([[7, 8, 9]]))):
        with pytest.raises(ValueError, match=rule):
            ask()


def test_what_goes_wrong_deeper_inside_is_told_as_it_is() -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Conv3d(2, 2, 1))
    with pytest.raises(RuntimeError, match="to have 2 channels, but got 3"):
        predict(module, torch.randn(2, 4, 4, 4))
