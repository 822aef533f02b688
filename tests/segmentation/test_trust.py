"""What is believed of a network: that it answers, and that a crop decides what the whole image would."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradcam_pp, gradient, predict
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation import field
from tests import oracles
from tests.oddities import ODDITIES, Base, Random, odd

EXACT = 1e-6
"""Maps are stored in float32; all else is float64."""

IMAGE = torch.randn(2, 16, 16, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

PLACES = {"inner": np.array([[7, 8, 21], [7, 8, 22], [8, 8, 22]]), "border": np.array([[0, 1, 46], [0, 0, 46]])}

STRIDES = {"HiddenNorm": (2, 2, 2), "WindowsInside": (2, 2, 2)}
"""Of networks whose stride no probe sees."""


@pytest.fixture(scope="module", params=ODDITIES)
def network(request: pytest.FixtureRequest) -> Network:
    return Network(odd(request.param), request.param, layer="bottom.0", stride=STRIDES.get(request.param))


@pytest.mark.filterwarnings("ignore:.*taken on the whole image")
@pytest.mark.parametrize("place", PLACES)
def test_an_odd_network_is_explained_as_the_whole_image_says(network: Network, place: str) -> None:
    """Each gave maps that were wrong by a tenth to all of their size where a crop was believed unseen."""
    voxels, logits = PLACES[place], oracles.whole(network, 2)
    each = oracles.voxel_gradients(logits, IMAGE, voxels)
    for how in ("mean", "max"):
        got = gradient(network, IMAGE, voxels, aggregate=how)
        assert oracles.relative(got, oracles.aggregate(each, how)) < EXACT, how
    score = LesionScore(network, IMAGE, voxels, through="whole")
    wanted = oracles.lesion_probabilities(network, IMAGE, voxels)
    torch.testing.assert_close(score.probabilities([score.image])[0], wanted, atol=1e-12, rtol=0)
    if network.name != "WindowsInside":  # its layer runs once a window, which Grad-CAM++ refuses
        got = gradcam_pp(network, IMAGE, voxels)[0]
        wanted = oracles.gradcam_pp(network, logits, IMAGE, voxels)
        torch.testing.assert_close(got.double(), wanted, atol=EXACT * float(wanted.max()), rtol=0)


def test_a_network_that_is_the_same_everywhere_keeps_its_crop_and_nothing_is_said() -> None:
    torch.manual_seed(0)
    network = Network(Base().double().requires_grad_(False), "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = LesionGradient(network, IMAGE, PLACES["inner"], "max")
    assert engine.way == "crop"
    assert engine.box.size < IMAGE[0].numel() / 2


def test_a_crop_that_is_not_believed_is_said_once_with_how_far_it_is_off() -> None:
    network = Network(odd("Coordinates"), "coordinates")
    with pytest.warns(UserWarning, match="coordinates .* a logit is"):
        engine = LesionGradient(network, IMAGE, PLACES["inner"], "max")
    assert engine.way == "whole"


def test_a_field_too_wide_to_be_probed_is_said_and_the_whole_image_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's VNet was probed for minutes without a word."""
    monkeypatch.setattr(field, "PROBE_VALUES", 1000)
    torch.manual_seed(0)
    network = Network(Base().double().requires_grad_(False), "wide")
    with pytest.warns(UserWarning, match="wide is taken on the whole image"):
        got = gradient(network, IMAGE, PLACES["inner"], aggregate="mean")
    each = oracles.voxel_gradients(oracles.whole(network, 2), IMAGE, PLACES["inner"])
    assert oracles.relative(got, oracles.aggregate(each, "mean")) < EXACT


class Fitted(nn.Module):
    """Made for images of one size, as a transformer with positions is; `norm` makes it look everywhere."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))
        self.places = nn.Parameter(torch.randn(IMAGE.shape[1:]))
        self.double().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + self.places)


@pytest.mark.filterwarnings("ignore:.*taken on the whole image")
@pytest.mark.parametrize("norm", [nn.Identity(), nn.InstanceNorm3d(4, affine=True)], ids=["local", "global"])
def test_a_network_made_for_one_size_is_explained_at_that_size(norm: nn.Module) -> None:
    """A small piece, by which others show that they answer, it does not take."""
    network, voxels = Network(Fitted(norm), "fitted"), PLACES["inner"]
    each = oracles.voxel_gradients(oracles.whole(network, 2), IMAGE, voxels)
    assert oracles.relative(gradient(network, IMAGE, voxels, aggregate="max"), oracles.aggregate(each, "max")) < EXACT
    torch.testing.assert_close(predict(network, IMAGE), network.module(IMAGE[None])[0].softmax(dim=0)[1].float())
    with pytest.raises(ValueError, match="16 x 16 x 40"):
        gradient(network, IMAGE[..., :40], voxels)


def test_a_structure_changed_in_place_is_asked_again() -> None:
    """Remembered by the module alone, the trust of the plain network would serve the odd one."""
    torch.manual_seed(0)
    module = Base().double().requires_grad_(False)
    network = Network(module, "changed")
    assert LesionGradient(network, IMAGE, PLACES["inner"], "max").way == "crop"
    module.upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)
    with pytest.warns(UserWarning, match="whole image"):
        assert LesionGradient(network, IMAGE, PLACES["inner"], "max").way == "whole"


class Activated(nn.Module):
    def __init__(self, outputs: int, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv3d(2, outputs, 3, padding=1), activation).double().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("outputs", "activation", "kind"),
    [
        (2, nn.Softmax(dim=1), "softmax"),
        (3, nn.Softmax(dim=1), "softmax"),
        (1, nn.Sigmoid(), "sigmoid"),
        (2, nn.Sigmoid(), "several sigmoids"),
    ],
)
def test_probabilities_are_no_logits(outputs: int, activation: nn.Module, kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        gradient(Network(Activated(outputs, activation)), IMAGE, PLACES["inner"])


@pytest.mark.parametrize(("outputs", "activation"), [(2, nn.Softmax(dim=1)), (1, nn.Sigmoid())])
def test_said_to_be_probabilities_they_are_explained_by_their_logit(outputs: int, activation: nn.Module) -> None:
    """Two classes differ by their log odds; so does one channel beside its complement."""
    module = Activated(outputs, activation)
    network = Network(module, head="probability")
    bare = module.net[0]

    def log_odds(x: torch.Tensor) -> torch.Tensor:
        y = bare(x)[0]
        return y[1] - y[0] if outputs == 2 else y[0]

    wanted = oracles.aggregate(oracles.voxel_gradients(log_odds, IMAGE, PLACES["inner"]), "max")
    got = gradient(network, IMAGE, PLACES["inner"], aggregate="max")
    assert oracles.relative(got, wanted) < EXACT
    whole = bare(IMAGE[None])[0]
    probability = whole.softmax(dim=0)[1] if outputs == 2 else whole[0].sigmoid()
    torch.testing.assert_close(predict(network, IMAGE), probability.float(), atol=1e-6, rtol=0)


def test_a_network_that_draws_random_numbers_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="apart"):
        gradient(Network(Random().double().requires_grad_(False)), IMAGE, PLACES["inner"])


class Detached(nn.Conv3d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


def test_a_network_without_a_gradient_is_refused() -> None:
    module = Detached(2, 2, 3, padding=1).double().requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient"):
        gradient(Network(module), IMAGE, PLACES["inner"])
