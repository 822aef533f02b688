"""Instance Grad-CAM++: by hand, against the plain formula on the whole volume, and the peers' mistakes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradcam, gradcam_pp
from ies_helpers.arrays import Box
from ies_helpers.saliency.gradcam import Seen, boxed_cam, pp_weights
from ies_helpers.saliency.views import View
from ies_helpers.segmentation.network import one_class
from tests import oracles
from tests.networks import nnunet, unet

EXACT = 1e-10
"""Float64, relative to the largest value."""

STORED = 1e-6
"""Maps are stored in float32."""

SINGLE = 1e-4
LESION = np.array([[30, 20, 31], [31, 20, 31], [32, 21, 33], [31, 15, 31], [31, 16, 32], [47, 48, 40]])


WIDE = (12, 12, 12, 12, 12)
"""Enough features that some speak for each lesion."""


def exact(network: Network, image: torch.Tensor, lesion: np.ndarray) -> torch.Tensor:
    """Grad-CAM++ on the whole volume in float64, before it is stored."""
    boxed = boxed_cam(network, image, lesion)
    whole = torch.zeros(1, *image.shape[1:], dtype=torch.float64)
    whole[(slice(None), *boxed.box)] = boxed.values
    return whole


class TwoFeatures(nn.Module):
    """A layer of two features A = (flair, t1), and logits 3 A_0 - 2 A_1: g is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.head = nn.Conv3d(2, 1, 1, bias=False)
        self.head.weight.data = torch.tensor([3.0, -2.0]).reshape(1, 2, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def test_a_network_of_two_features_by_hand() -> None:
    """g = (3, -2) on the lesion. alpha_0 = 9 / (18 + 27 sum A_0); only the positive g counts: relu(alpha_0 3 A_0)."""
    image = torch.zeros(2, 4, 4, 4)
    image[0, 1, 1, 1], image[0, 1, 1, 2], image[1, 1, 1, 1] = 2.0, 0.5, 7.0
    got = gradcam_pp(TwoFeatures(), image, np.array([[1, 1, 1], [1, 1, 2]]), layer="features")
    alpha = 9 / (18 + 27 * 2.5)
    wanted = torch.zeros(1, 4, 4, 4)
    wanted[0, 1, 1, 1], wanted[0, 1, 1, 2] = alpha * 3 * 2.0, alpha * 3 * 0.5
    assert torch.allclose(got, wanted)


def test_a_negative_denominator_is_taken_as_the_equation_says() -> None:
    """A = -1 everywhere: alpha = 9 / (18 - 27) = -1, and -1 * 3 * -1 = 3. The sign is the method's, not ours."""
    got = gradcam_pp(TwoFeatures(), torch.full((2, 4, 4, 4), -1.0), np.array([[1, 1, 1]]), layer="features")
    assert float(got[0, 1, 1, 1]) == pytest.approx(3.0)
    assert int((got != 0).sum()) == 1


def test_no_activation_gives_a_map_of_zero_not_nan() -> None:
    got = gradcam_pp(TwoFeatures(), torch.zeros(2, 4, 4, 4), np.array([[1, 1, 1]]), layer="features")
    assert torch.equal(got, torch.zeros(1, 4, 4, 4))


def test_a_denominator_of_zero_gives_weight_zero() -> None:
    g = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    g[0, 0] = 3.0
    activation = torch.tensor([-2 * 9 / 27, 5.0], dtype=torch.float64).reshape(1, 2, 1, 1)  # 2 g^2 + sum A g^3 = 0
    view = View((slice(0, 2), slice(0, 1), slice(0, 1)))
    (weight,) = pp_weights([Seen(view, activation, g)])
    assert torch.equal(weight, torch.zeros_like(weight))


@pytest.mark.parametrize("layer", ["model.1.submodule.2.conv", "model.0.conv", "model.1.submodule.1.submodule.2.conv"])
@pytest.mark.parametrize("lesion", [LESION, np.array([[0, 0, 0], [63, 63, 63]])], ids=["inside", "corners"])
def test_the_crop_agrees_with_the_formula_on_the_whole_volume(layer: str, lesion: np.ndarray) -> None:
    image = torch.randn(2, 64, 64, 80, dtype=torch.float64)
    network = replace(unet(WIDE), layer=layer)
    wanted = oracles.gradcam_pp(network, oracles.whole(network), image, lesion)
    assert float(wanted.max()) > 0
    assert oracles.relative(exact(network, image, lesion)[0], wanted) < EXACT
    network.module.float()
    assert oracles.relative(gradcam_pp(network, image.float(), lesion)[0], wanted) < SINGLE


def test_sides_that_are_no_multiple_of_the_stride() -> None:
    image = torch.randn(2, 50, 41, 70, dtype=torch.float64)
    network = unet()
    lesion = np.array([[33, 20, 2], [49, 40, 69]])
    wanted = oracles.gradcam_pp(network, oracles.whole(network), image, lesion)
    assert oracles.relative(exact(network, image, lesion)[0], wanted) < EXACT


def test_one_window_over_everything_is_the_whole_image() -> None:
    image = torch.randn(2, 32, 32, 32, dtype=torch.float64)
    lesion = np.array([[12, 16, 24], [13, 16, 24]])
    network = replace(nnunet(), window=32)
    whole = gradcam_pp(network.explained_through("whole"), image, lesion)
    assert float(whole.max()) > 0
    assert oracles.relative(gradcam_pp(network, image, lesion), whole) < STORED


def test_windows_that_see_the_same_give_what_one_would() -> None:
    """Two equal windows of half the weight each: alpha is unchanged, the two maps add up to one."""
    g = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    activation = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    view = View(Box.whole((4, 4, 4)))
    (whole,) = pp_weights([Seen(view, activation, g)])
    halves = pp_weights([Seen(view, activation, g / 2)] * 2)
    assert oracles.relative(halves[0] + halves[1], whole) < 1e-12


def test_the_map_belongs_to_one_lesion() -> None:
    """Two lesions far apart: the map of one is zero around the other, and theirs are not the class's."""
    image = torch.randn(2, 64, 64, 160, dtype=torch.float64)
    network = unet(WIDE)
    first, second = np.array([[30, 30, 20]]), np.array([[30, 30, 140]])
    near, far = gradcam_pp(network, image, first), gradcam_pp(network, image, second)
    assert float(near[..., :60].max()) > 0
    assert float(near[..., 100:].max()) == 0
    assert float(far[..., :60].max()) == 0


def test_pooling_would_spread_the_map_over_other_places() -> None:
    image = torch.randn(2, 64, 64, 160, dtype=torch.float64)
    pooled = gradcam(unet(), image, np.array([[30, 30, 20]]))
    assert float(pooled[..., 100:].max()) > 0.5 * float(pooled.max())


def test_gradcam_pools_the_gradient_over_space_by_hand() -> None:
    image = torch.rand(2, 4, 4, 4)
    got = gradcam(TwoFeatures(), image, np.array([[1, 1, 1], [1, 1, 2]]), layer="features")
    assert torch.allclose(got[0], torch.relu(3 * 2 / 64 * image[0] - 2 * 2 / 64 * image[1]))


def test_values_are_raw_and_the_denominator_is_applied() -> None:
    """Twice the logits: g doubles, and with it alpha and the map, by hand; a rescaled map would not change."""
    image = torch.rand(2, 4, 4, 4)
    once, twice = TwoFeatures(), TwoFeatures()
    twice.head.weight.data *= 2
    lesion = np.array([[1, 1, 1]])
    a = float(image[0, 1, 1, 1])
    for network, g in ((once, 3.0), (twice, 6.0)):
        got = gradcam_pp(network, image, lesion, layer="features")
        assert float(got[0, 1, 1, 1]) == pytest.approx(g**2 / (2 * g**2 + a * g**3) * g * a)


def test_hooks_and_state_are_gone_also_after_an_error() -> None:
    network = unet()
    image = torch.randn(2, 32, 32, 32, dtype=torch.float64)
    module = network.module.train()
    gradcam_pp(network, image, np.array([[5, 5, 5]]))
    with pytest.raises(ValueError, match=r"one layer of the network by name, got 'model\.nine'; there are model\.0"):
        gradcam_pp(network, image, np.array([[5, 5, 5]]), layer="model.nine")
    assert sum(len(m._forward_hooks) for m in module.modules()) == 0
    assert all(m.training for m in module.modules())


def test_a_network_without_a_named_layer_asks_for_one() -> None:
    with pytest.raises(ValueError, match="by name, got None"):
        gradcam_pp(Network(TwoFeatures()), torch.randn(2, 4, 4, 4), np.array([[1, 1, 1]]))


def test_a_layer_that_the_output_does_not_depend_on_is_refused() -> None:
    class Idle(TwoFeatures):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.features(x)
            return self.head(x)

    with pytest.raises(ValueError, match="runs once and that the output depends on"):
        gradcam_pp(Idle(), torch.randn(2, 4, 4, 4), np.array([[1, 1, 1]]), layer="features")


@pytest.mark.parametrize("method", [gradcam, gradcam_pp])
def test_a_network_whose_logits_are_not_finite_has_no_map(method) -> None:
    network = unet((3, 4, 5))
    network.module.model[2].conv.bias[1] = float("nan")  # behind the layer, and no part of its gradient
    with pytest.raises(ValueError, match="must be finite; unet gave NaN or infinity"):
        method(network, torch.randn(2, 16, 16, 16), np.array([[7, 8, 9]]), layer="model.0.conv")


@pytest.mark.parametrize("number", [0, 2])
def test_another_class_has_its_own_map(number: int) -> None:
    image, lesion = torch.randn(1, 32, 32, 16, dtype=torch.float64), np.array([[10, 11, 9], [2, 11, 15]])
    network = replace(unet((12, 12, 12), inputs=1, outputs=3), layer="model.0.conv")
    other = one_class(network, number)
    wanted = oracles.gradcam_pp(other, oracles.whole(other, 4), image, lesion)
    assert oracles.relative(exact(other, image, lesion)[0], wanted) < EXACT
    assert oracles.relative(exact(network, image, lesion)[0], wanted) > 0.1
