"""What is believed of a network: that it answers, and that a crop decides what the whole image would."""

import threading
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
    assert engine.way == "cone"
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
    assert LesionGradient(network, IMAGE, PLACES["inner"], "max").way == "cone"
    module.upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)
    with pytest.warns(UserWarning, match="whole image"):
        assert LesionGradient(network, IMAGE, PLACES["inner"], "max").way == "fields"


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


def wanted_map(module: nn.Module) -> torch.Tensor:
    """The largest gradients by autograd on the whole image."""
    each = oracles.voxel_gradients(oracles.whole(Network(module), 2), IMAGE, PLACES["inner"])
    return oracles.aggregate(each, "max")


class Gated(Base):
    """Attends to the largest value of all, as much as a weight says that may be zero before a training."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return low * (1 + self.gate * low.amax(dim=(2, 3, 4), keepdim=True))


@pytest.mark.filterwarnings("ignore:.*taken on the whole image")
def test_a_weight_that_opens_a_path_is_asked_again() -> None:
    """Trust remembered by structure alone: maps were off by half of their largest value."""
    torch.manual_seed(0)
    module = Gated().double().requires_grad_(False)
    gradient(module, IMAGE, PLACES["inner"])
    module.gate.fill_(0.5)
    assert oracles.relative(gradient(module, IMAGE, PLACES["inner"]), wanted_map(module)) < EXACT


@pytest.mark.filterwarnings("ignore:.*taken on the whole image")
def test_code_replaced_under_a_network_in_use_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook does that loads a changed file again."""
    torch.manual_seed(0)
    module = Base().double().requires_grad_(False)
    gradient(module, IMAGE, PLACES["inner"])
    monkeypatch.setattr(Base, "between", lambda self, low: low * low.mean(dim=(2, 3, 4), keepdim=True))
    assert oracles.relative(gradient(module, IMAGE, PLACES["inner"]), wanted_map(module)) < EXACT


class WithoutGradient(Base):
    """Lets its gradient end in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return super().forward(x)
        if self.how == "inference":
            with torch.inference_mode():
                return super().forward(x)
        if self.how == "constant":
            return torch.zeros(1, 2, *x.shape[2:], dtype=x.dtype, requires_grad=True) * 2
        y = super().forward(x.detach() if self.how == "detached input" else x)
        if self.how == "numpy":
            return torch.from_numpy(y.numpy())
        return y.detach() if self.how == "detached output" else y


@pytest.mark.filterwarnings("ignore:.*taken on the whole image")
@pytest.mark.parametrize(
    "how", ["no_grad", "inference", "constant", "detached input", "detached output", "numpy", "weights"]
)
def test_a_network_without_a_gradient_predicts_and_is_refused_a_map_in_one_sentence(how: str) -> None:
    torch.manual_seed(0)
    with torch.inference_mode(how == "weights"):
        module = WithoutGradient(how).double().eval()
    network = Network(module, layer="bottom.0")
    with torch.inference_mode():
        probability = module(IMAGE[None])[0].softmax(dim=0)[1] if how != "numpy" else None
    got = predict(network, IMAGE)
    if probability is not None:
        torch.testing.assert_close(got, probability.float(), atol=1e-6, rtol=0)
    for explain in (gradient, gradcam_pp):
        with pytest.raises(ValueError, match="logits must depend on its input"):
            explain(network, IMAGE, PLACES["inner"])


class HalfCut(Base):
    """Half of it has no gradient."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(low.detach().numpy() * 1)


def test_a_part_without_a_gradient_is_said() -> None:
    """The map of the other part was given out without a word, 80 % off."""
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"off for a small step. A part of its forward has no gradient"):
        gradient(HalfCut().double().requires_grad_(False), IMAGE, PLACES["inner"])


class KeepsFeatures(Base):
    """Keeps what it saw, for a figure: tensors with a graph, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.lock = threading.Lock()

    def between(self, low: torch.Tensor) -> torch.Tensor:
        self.seen.append(low)
        self.features = low
        return low


class Normed(Base):
    """Weights made anew before each pass, the older way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv3d(4, 4, 3, padding=1))

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return self.conv(low)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", [KeepsFeatures, Normed])
def test_what_cannot_be_copied_is_explained_all_the_same(kind: type[Base]) -> None:
    torch.manual_seed(0)
    module = kind().double().requires_grad_(False)
    wanted = wanted_map(module)
    for _ in range(2):
        engine = LesionGradient(module, IMAGE, PLACES["inner"], "max")
        assert engine.way == "cone"
        assert oracles.relative(engine.place(engine(IMAGE)), wanted) < EXACT
