"""The cone: equal to autograd on the whole volume, at every border and depth; what is no U-Net falls through."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.unet import UNet
from torch import nn

from ies_helpers import Network, gradient
from ies_helpers.saliency import cone as cone_module
from ies_helpers.saliency.cone import Cone, cone_of, convolve_back, window
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.views import cut
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.network import one_class
from tests import oracles
from tests.networks import hollow, lively, unet

EXACT = 1e-12
"""Float64, relative to the largest value."""

KINK = 1e-5
"""Float32, relative to the largest value: beyond it a slope has flipped, which few entries may."""


def map_of(network: Network, image: torch.Tensor, voxels: np.ndarray, way=None, how="max") -> torch.Tensor:
    """The aggregate on the whole volume, in the network's precision."""
    engine = LesionGradient(network, image, voxels, how, way=way)
    whole = torch.zeros_like(image)
    whole[(slice(None), *engine.box)] = engine(image)
    return whole


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_it_is_autograd_on_the_whole_volume_at_every_border(levels: int, rng: np.random.Generator) -> None:
    network = unet(tuple(range(3, 3 + levels)))
    side = 2 ** (levels - 1)
    shape = (5 * side, 4 * side, 3 * side - side // 2)
    image = torch.randn(2, *shape, dtype=torch.float64)
    corners = [[i * (n - 1) // 2 for i, n in zip(index, shape, strict=True)] for index in np.ndindex(3, 3, 3)]
    voxels = np.unique(np.concatenate([corners, rng.integers(0, shape, (12, 3))]), axis=0)
    gradients = oracles.voxel_gradients(oracles.whole(network, side), image, voxels)
    assert LesionGradient(network, image, voxels, "max").way == "cone"
    for some in (voxels, voxels[:1], voxels[-1:], voxels[10:11]):
        chosen = [n for n, v in enumerate(voxels) if (some == v).all(axis=1).any()]
        wanted = oracles.aggregate(gradients[chosen], "max")
        assert oracles.relative(map_of(network, image, some), wanted) < EXACT


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_a_sum_over_many_cells_is_autograd_on_the_whole_volume(levels: int, how: str, rng: np.random.Generator) -> None:
    network, side = unet(tuple(range(3, 3 + levels))), 2 ** (levels - 1)
    shape = (5 * side, 4 * side, 3 * side - side // 2)
    image = torch.randn(2, *shape, dtype=torch.float64)
    corner, edge = np.zeros(3, dtype=int), np.array(shape) - 1
    inner = rng.integers(0, np.array(shape) // 2, (20, 3))
    for voxels in (corner[None], edge[None], np.stack([corner, edge]), np.unique(inner, axis=0)):
        wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, side), image, voxels), how)
        assert oracles.relative(map_of(network, image, voxels, "cone", how), wanted) < EXACT


def test_a_sum_is_taken_on_the_windows_of_its_cells_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lesion of 1 x 2 x 3 cells of 4^3: the seed has these cells and a rim of one voxel before and two behind."""
    seeds, backward = [], Cone._backward
    monkeypatch.setattr(Cone, "_backward", lambda cone, seed, s: seeds.append(seed) or backward(cone, seed, s))
    network, image = unet((3, 4, 5)), torch.randn(2, 32, 32, 40, dtype=torch.float64)
    voxels = np.array([[16, 12, 12], [17, 17, 21], [19, 12, 12]])
    LesionGradient(network, image, voxels, "sum")(image)
    seed = seeds[-1]
    assert seed.shape == (1, 1, 4 + 3, 8 + 3, 12 + 3)
    assert seed.nonzero()[:, 2:].tolist() == (voxels - [15, 11, 11])[[0, 1, 2]].tolist()
    assert float(seed.sum()) == 3.0


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_voxels_are_the_same_however_many_are_taken_at_once(batch: int, rng: np.random.Generator) -> None:
    cone = cone_of(unet((3, 4, 5)).module)
    assert cone is not None
    voxels, cell, origin = rng.integers(8, 12, (7, 3)), np.array([2, 2, 2]), np.zeros(3, dtype=int)
    with cone.seeing(torch.randn(1, 2, 20, 20, 20, dtype=torch.float64)):
        together = torch.cat(list(cone.gradients(cell, origin, voxels, batch)))
        alone = [next(iter(cone.gradients(cell, origin, v[None], 1)))[0] for v in voxels]
    assert oracles.relative(together, torch.stack(alone)) < EXACT


def test_float32_flips_few_slopes(rng: np.random.Generator) -> None:
    network = unet((8, 8, 16, 16, 16))
    image = torch.randn(2, 64, 64, 64)
    voxels = np.unique(rng.integers(24, 40, (20, 3)), axis=0)
    exact = map_of(network, image.double(), voxels)
    network.module.float()
    by_cone, by_crop = (map_of(network, image, voxels, way) for way in ("cone", "crop"))
    share = float(((by_cone - exact).abs() > KINK * exact.abs().max()).double().mean())
    assert share < 1e-3
    assert oracles.relative(by_cone, by_crop) < KINK  # the same forward pass, so the same slopes


@pytest.mark.parametrize(
    "act", ["PRELU", ("LeakyReLU", {"negative_slope": 0.2}), "RELU", ("PRELU", {"num_parameters": 4})]
)
def test_every_activation_of_two_slopes_will_do(act) -> None:
    network = lively(
        Network(UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(4, 4, 4), strides=(2, 2), norm="batch",
                     num_res_units=0, act=act, dropout=0.2), stride=(4, 4, 4))
    )  # fmt: skip
    image = torch.randn(1, 24, 20, 16, dtype=torch.float64)
    voxels = np.array([[10, 11, 3], [11, 11, 3], [23, 0, 15]])
    assert LesionGradient(network, image, voxels, "max").way == "cone"
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    assert oracles.relative(map_of(network, image, voxels), wanted) < EXACT


def published(**changes) -> UNet:
    """A narrow U-Net with something changed."""
    settings = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "channels": (3, 4, 5), "strides": (2, 2)}
    return UNet(**settings | {"norm": "batch", "num_res_units": 0} | changes)


@pytest.mark.parametrize(
    "other",
    [
        published(num_res_units=2),
        published(norm="instance"),
        published(act="GELU"),
        published(strides=(2, 1)),
        published(kernel_size=5),
        published(up_kernel_size=5),
        published(adn_ordering="AND"),
        nn.Conv3d(2, 2, 3, padding=1),
    ],
    ids=["residual", "instance norm", "smooth", "stride 1", "kernel 5", "up 5", "act first", "no U-Net"],
)
def test_anything_else_falls_through_and_stays_exact(other: nn.Module) -> None:
    assert cone_of(other) is None
    network = Network(other.double().eval(), stride=(4, 4, 4))
    image, voxels = torch.randn(2, 16, 16, 16, dtype=torch.float64), np.array([[7, 8, 9], [8, 8, 9]])
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    assert oracles.relative(map_of(network, image, voxels), wanted) < EXACT


def test_a_unet_that_was_changed_inside_is_found_out_by_autograd() -> None:
    """The pieces look right, but a hook rescales one of them: the cone disagrees and is not taken."""
    network = unet((3, 4, 5))
    network.module.model[0].register_forward_hook(lambda _m, _i, output: output * 1.5)  # pyright: ignore
    image, voxels = torch.randn(2, 16, 16, 16, dtype=torch.float64), np.array([[7, 8, 9]])
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    assert cone_of(network.module) is not None
    with pytest.warns(UserWarning, match="no U-Net of the published kind after all; taking the crop"):
        got = map_of(network, image, voxels)
    assert oracles.relative(got, wanted) < EXACT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert oracles.relative(map_of(network, image, voxels), wanted) < EXACT


def test_hooks_are_gone_and_the_module_is_as_it_was() -> None:
    network = unet((3, 4, 5))
    before = copy.deepcopy(network.module.state_dict())
    gradient(network, torch.randn(2, 16, 16, 16), np.array([[7, 8, 9]]), way="cone")
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.module.modules()) == 0
    assert all(torch.equal(v, before[k]) for k, v in network.module.state_dict().items())


@pytest.mark.parametrize("how", ["mean", "max"])
def test_no_slope_is_kept_when_a_gradient_is_done(how: str) -> None:
    """A patient of a hundred lesions has a hundred cones: their slopes together would fill the memory."""
    engine = LesionGradient(unet((3, 4, 5)), torch.randn(2, 16, 16, 16), np.array([[7, 8, 9]]), how)  # pyright: ignore
    engine(torch.randn(2, 16, 16, 16))
    assert engine.cone is not None
    assert sum(layer.slope.numel() for layer in [*engine.cone.down, engine.cone.bottom, *engine.cone.up]) == 0


def test_new_weights_are_seen_at_once() -> None:
    network, image = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    voxels = np.array([[7, 8, 9]])
    engine = LesionGradient(network, image, voxels, "max")
    engine(image)
    network.module.model[2].conv.weight *= -2
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    assert oracles.relative(map_of(network, image, voxels), wanted) < EXACT
    assert oracles.relative(engine(image), wanted[(slice(None), *engine.box)]) < EXACT


def test_a_cone_is_compared_with_autograd_once_for_a_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again where weights, a norm, a hook, the precision or the class are others: each might make it wrong."""
    asked, check = [], cone_module.check_finite
    monkeypatch.setattr(cone_module, "check_finite", lambda *args: asked.append(1) or check(*args))
    network, image = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    first = network.module.model[0]

    def explain(network: Network) -> int:
        asked.clear()
        for _ in range(2):
            map_of(network, image.to(network.dtype), np.array([[7, 8, 9], [0, 0, 0]]))
        return len(asked)

    assert explain(network) == 1
    first.conv.weight *= 2
    assert explain(network) == 1
    first.adn.N = copy.deepcopy(first.adn.N)
    assert explain(network) == 0, "an equal norm"
    first.adn.N = nn.BatchNorm3d(3, eps=1.0).double().eval().requires_grad_(False)
    assert explain(network) == 1
    assert explain(one_class(network, 0)) == 1
    first.register_forward_hook(lambda *_: None)
    assert explain(network) == 1
    network.module.float()
    assert explain(network) == 1
    assert explain(network) == 0


def test_a_hook_that_comes_after_the_cone_was_trusted_is_found_out() -> None:
    network, image, voxels = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64), np.array([[7, 8, 9]])
    map_of(network, image, voxels)
    network.module.model[0].register_forward_hook(lambda _m, _i, output: output * 1.5)
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    with pytest.warns(UserWarning, match="unet is no U-Net of the published kind after all"):
        assert oracles.relative(map_of(network, image, voxels), wanted) < EXACT


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_unet_of_any_channels_and_classes_keeps_its_cone(channels: int, number: int) -> None:
    network = one_class(Network(lively(Network(published(in_channels=channels, out_channels=3))).module), number)
    image, voxels = torch.randn(channels, 16, 24, 16, dtype=torch.float64), np.array([[7, 8, 9], [0, 11, 15]])
    gradients = oracles.voxel_gradients(oracles.whole(network, 4), image, voxels)
    for how in ("max", "mean"):
        assert LesionGradient(network, image, voxels, how).way == "cone"
        assert oracles.relative(map_of(network, image, voxels, how=how), oracles.aggregate(gradients, how)) < EXACT


def test_a_unet_of_one_output_keeps_its_cone() -> None:
    network = lively(Network(published(out_channels=1), head="sigmoid"))
    image, voxels = torch.randn(2, 16, 16, 16, dtype=torch.float64), np.array([[7, 8, 9], [0, 11, 15]])
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network, 4), image, voxels), "max")
    assert oracles.relative(map_of(network, image, voxels, "cone"), wanted) < EXACT
    assert cone_of(network.module, 0) is None
    assert cone_of(published(), 2) is None


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_the_shuffled_convolution_is_the_transposed_one(channels: int) -> None:
    g = torch.randn(2, 6, 5, 4, 3, dtype=torch.float64)
    weight = torch.randn(6, channels, 3, 3, 3, dtype=torch.float64)
    wanted = F.conv_transpose3d(g, weight, stride=2)
    assert oracles.relative(convolve_back(g, weight), wanted) < EXACT


def test_a_window_beyond_the_volume_is_zero_there() -> None:
    volume = torch.arange(1.0, 28).reshape(1, 1, 3, 3, 3)
    got = window(volume, np.array([-1, 0, 1]), np.array([1, 2, 4]))
    assert got.shape == (1, 1, 3, 3, 4)
    assert float(got[0, 0, 0].abs().sum()) == 0
    assert torch.equal(got[0, 0, 1:, :, :2], volume[0, 0, :2, :, 1:])
    assert float(got[..., 2:].abs().sum()) == 0


def test_the_published_windows_are_those_worked_out_by_hand() -> None:
    """79 at the input, then 39, 19, 9, 4 and 2 at the bottom; 9, 5, 3 on the way down."""
    cone = cone_of(build("unet", (2, 2, 2, 2, 2)).module)
    assert isinstance(cone, Cone)
    cell, origin = np.array([2, 2, 2]), np.zeros(3, dtype=int)
    with cone.seeing(torch.randn(1, 2, 80, 80, 80)):
        slopes = cone._slopes(cell, cell, origin)
        (g,) = cone.gradients(cell, origin, np.array([[40, 40, 40]]), 4)
    assert [slopes[id(layer)].shape[-1] for layer in [*cone.down, cone.bottom]] == [39, 19, 9, 4, 2]
    assert [slopes[id(layer)].shape[-1] for layer in cone.up[1:]] == [9, 5, 3]
    assert g.shape == (1, 2, 79, 79, 79)


def test_a_smaller_budget_takes_fewer_voxels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, backward = [], Cone._backward
    monkeypatch.setattr(Cone, "_backward", lambda self, v, s: sizes.append(len(v)) or backward(self, v, s))
    network, image = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    voxels = np.array([[4 + n, 5, 6] for n in range(4)])
    roomy = LesionGradient(network, image, voxels, "max")
    tight = LesionGradient(network, image, voxels, "max")
    tight.budget = 1
    maps = [engine(image) for engine in (roomy, tight)]
    assert sizes == [1, 4, 1, 1, 1, 1]  # the first asks whether to trust
    assert oracles.relative(maps[1], maps[0]) < EXACT


def test_the_network_seen_through_windows_does_not_take_the_cone() -> None:
    network = replace(unet((3, 4, 5)), window=16).explained_through("windows")
    assert LesionGradient(network, torch.randn(2, 16, 16, 16), np.array([[7, 8, 9]]), "max").way == "windows"


def test_neighbouring_cells_share_a_forward_pass_and_distant_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, seeing = [], Cone.seeing
    monkeypatch.setattr(Cone, "seeing", lambda self, x: crops.append(tuple(x.shape[2:])) or seeing(self, x))
    network, image = unet((3, 4, 5)), torch.randn(2, 64, 32, 32, dtype=torch.float64)
    for voxels, wanted in (
        (np.array([[15, 15, 15], [16, 15, 15], [16, 16, 16]]), [(24, 24, 24)]),  # two cells along each axis
        (np.array([[2, 2, 2], [60, 2, 2]]), [(12, 12, 12), (12, 12, 12)]),
    ):
        map_of(network, image, voxels)  # asks whether to trust
        crops.clear()
        map_of(network, image, voxels)
        assert crops == wanted


@pytest.mark.parametrize("how", ["max", "sum"])
def test_a_unet_that_breaks_once_it_is_trusted_is_found_out_too(how: str) -> None:
    network, image = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    gradient(network, image, np.array([[7, 8, 9]]))
    network.module.model[0].conv.bias[1] = float("inf")
    with pytest.raises(ValueError, match="must be finite; unet gave NaN or infinity"):
        gradient(network, image, np.array([[7, 8, 9]]), aggregate=how)  # pyright: ignore[reportArgumentType]


DEVICE_VOXELS = np.array([[20, 20, 20], [21, 20, 20], [20, 25, 33]])
DEVICE_IMAGE = torch.randn(2, 40, 36, 48)


def test_the_cone_stays_on_the_device() -> None:
    network = unet()
    (part,) = LesionGradient(network, DEVICE_IMAGE, DEVICE_VOXELS, "max").parts
    network = hollow(network)
    cone = cone_of(network.module)
    assert cone is not None
    seen = list(cone.extremes(network, DEVICE_IMAGE.to("meta"), part, 2**30))
    assert {high.device.type for _, high, _ in seen} == {"meta"}
    assert cone.summed(network, DEVICE_IMAGE.to("meta"), part)[1].device.type == "meta"
    assert cut(DEVICE_IMAGE, part.views[0].box, network).device.type == "meta"


def test_on_a_gpu_the_batch_follows_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    network = hollow(unet())
    cone = cone_of(network.module)
    assert cone is not None
    (part,) = LesionGradient(unet(), DEVICE_IMAGE, np.argwhere(np.ones((4, 4, 4))) + 18, "max").parts
    sizes: list[int] = []
    backward = cone._backward
    monkeypatch.setattr(cone, "_backward", lambda seed, s: sizes.append(len(seed)) or backward(seed, s))
    for room in (1, 10, 1000):
        sizes.clear()
        list(cone.extremes(network, DEVICE_IMAGE.to("meta"), part, room * cone.values() * 8))
        assert max(sizes) == min(room, max(sizes))
        assert sum(sizes) == 64
    assert max(sizes) > 10
