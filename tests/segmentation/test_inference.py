"""Prediction: where windows stop and what they weigh, the blend, the whole volume, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from ies_helpers import Network, gradient, predict, predict_logits
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.inference import importance, total_importance, window_boxes
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


def test_an_image_below_the_window_gets_zeros_around_it_as_monais_inferer_has_it() -> None:
    """Half of what is missing before it, the odd voxel behind it."""
    network = replace(unet(), window=(32, 48, 32), through="windows")
    image = torch.randn(2, 40, 29, 32, dtype=torch.float64)
    with pytest.warns(UserWarning, match="32 x 48 x 32 voxels and the image has 40 x 29 x 32"):
        got = predict_logits(network, image)
    wanted = oracles.blended(network)(image[None])
    torch.testing.assert_close(got[1].double(), wanted, atol=1e-5, rtol=0)


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


SHAPES = [
    ((40, 33, 24), (24, 24, 24)),
    ((182, 218, 182), (96, 96, 96)),
    ((24, 24, 24), (24, 24, 24)),
    ((25, 47, 30), (24, 16, 30)),
]
EXACT = 1e-10
"""Float64 against autograd through the inferer."""


def windowed(window: int | tuple[int, int, int], **settings) -> Network:
    """A network whose windows alone matter."""
    return Network(nn.Identity(), window=window, through="windows", **settings)


@pytest.mark.parametrize(("shape", "sides"), SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_stop_where_the_inferer_stops(shape, sides, overlap: float) -> None:
    seen = []
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))[None]

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(slice(int(a), int(a) + w) for a, w in zip(x[0, :, 0, 0, 0], sides, strict=True)))
        return x[:, :1]

    sliding_window_inference(grid, sides, 1, note, overlap=overlap)
    assert list(window_boxes(windowed(sides, overlap=overlap), shape)) == seen


def test_the_published_volume_has_27_windows() -> None:
    boxes = window_boxes(windowed(96), (182, 218, 182))
    assert len(boxes) == 27
    assert sorted({b[1].start for b in boxes}) == [0, 72, 122]


def test_the_gaussian_has_sigma_an_eighth_of_the_window_and_a_floor() -> None:
    weight = importance(windowed(96))
    x = np.arange(96) - 47.5
    line = np.exp(-(x**2) / (2 * 12.0**2))
    assert weight[:, 47, 47].numpy() == pytest.approx(np.maximum(line * line[47] ** 2, 1e-3), rel=1e-5)
    assert float(weight.min()) == pytest.approx(1e-3)
    assert float(total_importance(windowed(96, weighting="constant"), (96, 96, 96)).max()) == 1.0


@pytest.mark.parametrize(
    ("length", "side", "starts"), [(110, 64, [0, 23, 46]), (64, 64, [0]), (65, 64, [0, 1]), (100, 40, [0, 20, 40, 60])]
)
def test_nnunet_takes_equal_steps_from_end_to_end(length: int, side: int, starts: list[int]) -> None:
    """The first case is worked out in nnU-Net's own comments: 110 voxels, windows of 64, steps of half a window."""
    network = windowed((side, 8, 8), overlap=0.5, placing="nnunet")
    boxes = window_boxes(network, (length, 8, 8))
    assert [box[0].start for box in boxes] == starts
    assert {box[0].stop - box[0].start for box in boxes} == {side}


def test_nnunets_gaussian_peaks_at_half_the_side_and_is_never_zero() -> None:
    weight = importance(windowed((32, 24, 16), placing="nnunet")).numpy()
    assert np.unravel_index(weight.argmax(), weight.shape) == (16, 12, 8)
    assert weight.max() == pytest.approx(10.0)
    line = 10 * np.exp(-((np.arange(32) - 16) ** 2) / (2 * 4.0**2))
    assert weight[:, 12, 8] == pytest.approx(line, rel=2**-11)  # half precision
    assert weight.min() > 0
    assert (importance(windowed(8, weighting="constant", placing="nnunet")) == 1).all()


@pytest.mark.parametrize("placing", ["monai", "nnunet"])
@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
@pytest.mark.parametrize(("window", "overlap"), [((16, 24, 20), 0.0), ((16, 24, 20), 0.25), (16, 0.5)])
def test_prediction_and_gradient_are_those_of_the_blend(window, overlap: float, weighting, placing) -> None:
    """Windows of unequal sides: the blend by hand, and for MONAI's placing its own inferer, with autograd."""
    network = replace(nnunet(), window=window, overlap=overlap, weighting=weighting, placing=placing)
    image = torch.randn(2, 24, 24, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    voxels = np.array([[15, 12, 9], [16, 12, 14], [3, 20, 27]])
    x = image[None].clone().requires_grad_()
    top, bottom = torch.zeros(24, 24, 28), torch.zeros(24, 24, 28)
    weight = importance(network)
    for box in window_boxes(network, (24, 24, 28)):
        placed = torch.zeros(24, 24, 28, dtype=torch.float64)
        placed[box] = weight * network.module(x[(..., *box)])[0, 1]
        top, bottom[box] = top + placed, bottom[box] + weight.float()
    assert oracles.relative(predict_logits(network, image)[1], (top / bottom).detach()) < 1e-6  # kept in float32
    loop = oracles.blended(network) if placing == "monai" else None
    logits = loop(x) if loop else top / total_importance(network, (24, 24, 28))
    (wanted,) = torch.autograd.grad(logits[tuple(torch.as_tensor(voxels).T)].sum(), x)
    got = gradient(network, image, voxels, aggregate="sum")
    assert oracles.relative(got, wanted[0]) < 1e-6  # kept in float32
    engine = LesionGradient(network, image, voxels, "sum")
    inner = (slice(None), *engine.box)
    assert oracles.relative(engine(image), wanted[0][inner]) < EXACT


def test_an_image_below_one_side_of_the_window_must_be_prepared_before_it_is_explained() -> None:
    network = replace(nnunet(), window=(16, 32, 16), through="windows")
    with pytest.raises(ValueError, match=r"windows of 16 x 32 x 16 voxels and the image has 24 x 28 x 24.*prepare"):
        gradient(network, torch.zeros(2, 24, 28, 24, dtype=torch.float64), np.array([[5, 5, 5]]))
