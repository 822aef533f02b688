"""Frozen statistics and their cone: exact for the network they define, near the exact map, never the default."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from ies_helpers import Network
from ies_helpers.saliency.frozen import Block, FrozenCone, deviation, frozen, frozen_cone_of, windows
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.inference import importance, total_importance, window_boxes
from ies_helpers.segmentation.network import Copies, one_class
from tests import oracles
from tests.networks import hollow, lively, nnunet, unet

pytestmark = pytest.mark.filterwarnings("error:.*taking the crop")  # else a broken cone would pass by autograd

EXACT = 1e-12
"""Float64, relative to the largest value."""

VOXELS = np.array([[30, 30, 30], [31, 30, 30], [20, 33, 40], [39, 10, 47]])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 40, 36, 48, dtype=torch.float64)


def map_of(network: Network, image: torch.Tensor, voxels: np.ndarray, statistics) -> torch.Tensor:
    """The maximum on the whole volume, in the network's precision."""
    engine = LesionGradient(network, image, voxels, "max", statistics=statistics)
    whole = torch.zeros_like(image)
    whole[(slice(None), *engine.box)] = engine(image)
    return whole


def held_still(network: Network, x: torch.Tensor) -> nn.Module:
    """The oracle's way: every instance norm replaced by the affine map it is on `x`."""
    module, seen = copy.deepcopy(network.module), []
    for name, norm in list(module.named_modules()):
        if isinstance(norm, nn.InstanceNorm3d):
            handle = norm.register_forward_hook(
                lambda m, i, _o: seen.append((m, i[0].mean((0, 2, 3, 4)), i[0].var((0, 2, 3, 4), correction=0)))
            )
            seen.append((name, handle))
    module(x)
    statistics = {id(entry[0]): entry[1:] for entry in seen if len(entry) == 3}
    for name, handle in [entry for entry in seen if len(entry) == 2]:
        handle.remove()
        norm = module.get_submodule(name)
        still = nn.BatchNorm3d(norm.num_features, eps=norm.eps, affine=norm.affine).double().eval()
        still.running_mean, still.running_var = statistics[id(norm)]
        if norm.affine:
            still.weight.data, still.bias.data = norm.weight.data, norm.bias.data
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, still)
    return module


def test_it_is_the_gradient_of_the_network_held_still_on_the_whole_image(image: torch.Tensor) -> None:
    network = nnunet().explained_through("whole")
    still = replace(network, module=held_still(network, image[None]))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(still, 4), image, VOXELS), "max")
    assert oracles.relative(map_of(network, image, VOXELS, "frozen"), wanted) < EXACT


def test_through_windows_each_window_holds_its_own_statistics(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=32)
    engine = LesionGradient(network, image, VOXELS, "max")
    gradients = torch.zeros(len(VOXELS), *image.shape, dtype=torch.float64)
    for view in {str(v.box): v for part in engine.parts for v in part.views}.values():
        window = image[(slice(None), *view.box)]
        still = held_still(network, window[None])
        x = window[None].clone().requires_grad_()
        y = still(x)[0, 1]
        for n, voxel in enumerate(VOXELS):
            if bool(view.holds(voxel[None])[0]):
                index = view.local(voxel[None])
                (g,) = torch.autograd.grad((y[index] * view.weights_at(index)).sum(), x, retain_graph=True)
                gradients[n][(slice(None), *view.box)] += g[0]
    wanted = oracles.aggregate(gradients, "max")
    assert oracles.relative(map_of(network, image, VOXELS, "frozen"), wanted) < EXACT


class Twice(nn.Module):
    """A norm that is registered under two names, as nnU-Net's building block has it; the second one runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.all = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), self.norm, nn.LeakyReLU())
        self.end = nn.Conv3d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.all(x))


def test_a_norm_under_two_names_is_held_and_every_pass_and_window_has_its_own_statistics() -> None:
    """By a loop over passes and windows, each with the affine maps that the norms are on it."""
    module, flips = Twice().double().requires_grad_(False), [(), (3,), (2, 4)]
    network = Network(Copies([module], flips), "copies", window=16, through="windows", overlap=0.5)
    image, voxel = torch.randn(2, 16, 24, 16, dtype=torch.float64), (9, 11, 4)
    total, weight = total_importance(network, (16, 24, 16)), importance(network)
    wanted = torch.zeros_like(image)
    for box in window_boxes(network, (16, 24, 16)):
        for flip in flips if all(b.start <= n < b.stop for n, b in zip(voxel, box, strict=True)) else ():
            x = image[None, :, *box].clone()
            _, held = held_norm(module, x.flip(flip))
            x.requires_grad_()
            local = tuple(n - b.start for n, b in zip(voxel, box, strict=True))
            logit = held(x.flip(flip)).flip(flip)[0, 1][local] * weight[local] / total[voxel] / len(flips)
            wanted[:, *box] += torch.autograd.grad(logit, x)[0][0]
    got = map_of(network, image, np.array([voxel]), "frozen")
    assert oracles.relative(got, wanted) < EXACT


def held_norm(module: Twice, x: torch.Tensor) -> tuple[nn.Module, nn.Sequential]:
    """`Twice` with the mean and variance of its norm taken from `x` and held."""
    before = module.all[0](x)
    mean, var = before.mean((0, 2, 3, 4)), before.var((0, 2, 3, 4), correction=0)
    still = nn.BatchNorm3d(4).double().eval()
    still.running_mean, still.running_var = mean, var
    still.weight.data, still.bias.data = module.norm.weight.data, module.norm.bias.data
    return still, nn.Sequential(module.all[0], still, module.all[2], module.end)


def test_where_a_voxel_sees_its_whole_window_nothing_is_gained_and_that_is_said_before_any_work() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 3, padding=1)).double()
    image, voxel = torch.randn(2, 8, 8, 8, dtype=torch.float64), np.array([[4, 4, 4]])
    wide = Network(deep, "wide", window=4, through="windows")
    with pytest.warns(UserWarning, match="4 x 4 x 4"):
        LesionGradient(wide, image, voxel, "max", statistics="frozen")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LesionGradient(replace(wide, window=8), image, voxel, "max", statistics="frozen")


class Told(Twice):
    """Knows where it is, which no list of its parts shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * torch.linspace(0, 1, x.shape[2], dtype=x.dtype).reshape(-1, 1, 1))


def test_a_crop_that_is_another_function_than_its_window_is_refused() -> None:
    network = Network(Told().double().requires_grad_(False), "told", window=16, through="windows")
    image = torch.randn(2, 16, 16, 16, dtype=torch.float64)
    engine = LesionGradient(network, image, np.array([[4, 8, 8]]), "max", statistics="frozen")
    with pytest.raises(ValueError, match="a crop of told"):
        engine(image)


def test_it_leaves_out_the_far_field_and_says_how_much(image: torch.Tensor) -> None:
    network = nnunet().explained_through("whole")
    one = VOXELS[:1]
    exact, frozen = (map_of(network, image, one, s) for s in ("exact", "frozen"))
    far = torch.ones(image.shape, dtype=torch.bool)
    far[:, 10:, 10:, 10:] = False  # beyond the 40 voxels that decide a block
    assert float(frozen[far].abs().max()) == 0
    assert float(exact[far].abs().max()) > 0
    told = deviation(frozen, exact)
    assert 0 < told["largest"] < 1
    assert 0 < told["l2"] < 1
    assert told["l1"] >= float(exact[far].abs().sum() / exact.abs().sum())


def test_deviation_by_hand() -> None:
    exact, frozen = torch.tensor([4.0, -2.0, 0.0]), torch.tensor([4.0, -1.0, 1.0])
    assert deviation(frozen, exact) == pytest.approx({"largest": 1 / 4, "l2": (2 / 20) ** 0.5, "l1": 2 / 6})


def test_the_network_keeps_its_norms_and_new_weights_are_seen() -> None:
    network, voxel = replace(nnunet(), window=16), np.array([[9, 8, 12]])
    image = torch.randn(2, 16, 16, 20, dtype=torch.float64)
    before = network.digest()
    first = map_of(network, image, voxel, "frozen")
    assert network.digest() == before
    assert any(isinstance(m, nn.InstanceNorm3d) for m in network.module.modules())
    assert sum(len(m._forward_pre_hooks) for m in network.module.modules()) == 0
    network.module.output_block.conv.conv.weight *= 2  # pyright: ignore
    assert oracles.relative(map_of(network, image, voxel, "frozen"), 2 * first) < EXACT


def test_it_is_never_taken_unasked_and_refused_where_it_means_nothing(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=32)
    assert LesionGradient(network, image, VOXELS, "max").frozen is None
    with pytest.raises(ValueError, match="instance norms; unet has none"):
        LesionGradient(unet(), image, VOXELS, "max", statistics="frozen")
    with pytest.raises(ValueError, match="is for max; mean takes one exact pass"):
        LesionGradient(network, image, VOXELS, "mean", statistics="frozen")
    with pytest.raises(ValueError, match="exact, frozen, got 'held'"):
        LesionGradient(network, image, VOXELS, "max", statistics="held")  # pyright: ignore[reportArgumentType]
    swin = replace(build("swin_unetr", (12,)), window=32)
    with pytest.raises(ValueError, match="swin_unetr has"):
        LesionGradient(swin, torch.randn(2, 32, 32, 32), np.array([[5, 5, 5]]), "max", statistics="frozen")


KINK = 1e-5
"""Float32, relative to the largest value."""

SHAPE = (25, 20, 22)
CORNERS = np.array([[i * (n - 1) // 2 for i, n in zip(at, SHAPE, strict=True)] for at in np.ndindex(3, 3, 3)])


def by(way, network: Network, image: torch.Tensor, voxels: np.ndarray) -> torch.Tensor:
    """The frozen maximum on the whole volume."""
    engine = LesionGradient(network, image, voxels, "max", way=way, statistics="frozen")
    assert engine.way == way
    whole = torch.zeros_like(image)
    whole[(slice(None), *engine.box)] = engine(image)
    return whole


def dynunet(strides: tuple = (1, 2, 2), kernels: tuple = (3, 3, 3), up: tuple = (2, 2), **changes) -> Network:
    """A narrow DynUNet with something changed."""
    settings = {"filters": [3, 4, 5], "res_block": True, "norm_name": "instance", "act_name": "leakyrelu"}
    module = DynUNet(3, 2, 2, kernels, strides, up, **settings | changes)  # pyright: ignore[reportArgumentType]
    return replace(lively(Network(module, "changed", window=20, stride=(4, 4, 4))), through="windows")


def test_it_is_autograd_through_the_network_held_still_at_every_border(rng: np.random.Generator) -> None:
    network = nnunet().explained_through("whole")
    image = torch.randn(2, 24, 20, 28, dtype=torch.float64)
    borders = [[i * (n - 1) // 2 for i, n in zip(at, image.shape[1:], strict=True)] for at in np.ndindex(3, 3, 3)]
    voxels = np.unique(np.concatenate([borders, rng.integers(0, image.shape[1:], (8, 3))]), axis=0)
    still = replace(network, module=held_still(network, image[None]))
    gradients = oracles.voxel_gradients(oracles.whole(still, 4), image, voxels)
    for chosen in (range(len(voxels)), [0], [len(voxels) - 1], [11, 12]):
        wanted = oracles.aggregate(gradients[list(chosen)], "max")
        assert oracles.relative(by("cone", network, image, voxels[list(chosen)]), wanted) < EXACT


@pytest.mark.parametrize(
    ("weighting", "overlap", "side", "placing"),
    [("gaussian", 0.25, 16, "monai"), ("constant", 0.6, 16, "monai"), ("gaussian", 0.5, 20, "nnunet")],
)
def test_a_voxel_in_several_windows_has_them_added_as_the_crop_has(weighting, overlap, side, placing) -> None:
    network = replace(nnunet(), window=side, overlap=overlap, weighting=weighting, placing=placing)
    image = torch.randn(2, *SHAPE, dtype=torch.float64)
    voxels = CORNERS[[0, 4, 13, 14, 26]]
    views = {len(part.views) for part in LesionGradient(network, image, voxels, "max").parts}
    assert max(views) > 1
    assert oracles.relative(by("cone", network, image, voxels), by("crop", network, image, voxels)) < EXACT


@pytest.mark.parametrize(("levels", "counts"), [(3, (1, 2, 5)), (4, (1, 2))])
def test_any_depth_will_do_and_any_length_of_a_lesion(levels: int, counts: tuple[int, ...]) -> None:
    network = nnunet(tuple(range(3, 3 + levels))).explained_through("whole")
    image = torch.randn(2, 16, 16, 16, dtype=torch.float64)
    for count in counts:
        voxels = np.array([[6 + n, 11, 9 - n] for n in range(count)])
        assert oracles.relative(by("cone", network, image, voxels), by("crop", network, image, voxels)) < EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"res_block": False},
        {"act_name": ("leakyrelu", {"negative_slope": 0.2, "inplace": True})},
        {"act_name": "relu"},
        {"act_name": ("prelu", {"init": 0.3})},
        {"norm_name": ("instance", {"affine": True})},
        {"dropout": 0.3},
        {"trans_bias": True},
        {"deep_supervision": True, "deep_supr_num": 1},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_every_relative_of_the_published_network_will_do(changes: dict) -> None:
    network, image = dynunet(**changes), torch.randn(2, *SHAPE, dtype=torch.float64)
    voxels = CORNERS[[1, 12, 13]]
    assert oracles.relative(by("cone", network, image, voxels), by("crop", network, image, voxels)) < EXACT


@pytest.mark.parametrize(
    "other",
    [
        dynunet(strides=(1, 2, 1), up=(2, 1)),
        dynunet(strides=(1, 2, (2, 2, 1)), up=(2, (2, 2, 1))),
        dynunet(kernels=(3, 3, 5)),
        dynunet(act_name="gelu"),
        dynunet(filters=[2, 4, 5]),
        lively(Network(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.InstanceNorm3d(2)), stride=(4, 4, 4))),
    ],
    ids=["stride 1", "flat", "kernel 5", "smooth", "identity residual", "no nnU-Net"],
)
def test_anything_else_falls_through_to_the_crop(other: Network) -> None:
    image, voxels = torch.randn(2, *SHAPE, dtype=torch.float64), CORNERS[[12, 13]]
    other = other.explained_through("whole")
    engine = LesionGradient(other, image, voxels, "max", statistics="frozen")
    assert (engine.way, engine.frozen.cone) == ("crop", None)  # pyright: ignore[reportOptionalMemberAccess]
    padded = F.pad(image, [0, -22 % 4, 0, -20 % 4, 0, -25 % 4])
    still = replace(other, module=held_still(other, padded[None]))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(still, 4), image, voxels), "max")
    assert oracles.relative(map_of(other, image, voxels, "frozen"), wanted) < EXACT
    with pytest.raises(ValueError, match="can be explained by crop, got 'cone'"):
        LesionGradient(other, image, voxels, "max", way="cone", statistics="frozen")


def first_block(network: Network) -> nn.Module:
    """The outermost block on the way down."""
    return network.module.skip_layers.downsample  # pyright: ignore


def scale_output(network: Network) -> None:
    """A hook on a block that the cone knows nothing of."""
    first_block(network).register_forward_hook(lambda _m, _i, output: output * 1.5)  # pyright: ignore


def bend_activation(network: Network) -> None:
    """An activation that looks like a known one and is another."""

    class Bent(nn.LeakyReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0.1 * x

    first_block(network).lrelu = Bent()


@pytest.mark.parametrize("mutate", [scale_output, bend_activation])
def test_a_network_that_was_changed_inside_is_found_out_by_autograd(mutate) -> None:
    network = nnunet().explained_through("whole")
    mutate(network)
    image, voxels = torch.randn(2, 20, 20, 20, dtype=torch.float64), np.array([[9, 8, 10], [10, 8, 10]])
    still = replace(network, module=held_still(network, image[None]))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(still, 4), image, voxels), "max")
    with pytest.warns(UserWarning, match="no nnU-Net of the published kind after all; taking the crop"):
        got = by("cone", network, image, voxels)
    assert oracles.relative(got, wanted) < EXACT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert oracles.relative(by("cone", network, image, voxels), wanted) < EXACT


def test_a_backward_pass_with_a_fault_is_found_out_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual forgotten, in our own arithmetic: the run-time check sees that too."""
    back = Block.back

    def without_residual(self, g, at):
        self.weights = self.weights[:2]
        return back(self, g, at)

    network, image = nnunet().explained_through("whole"), torch.randn(2, 20, 20, 20, dtype=torch.float64)
    voxels = np.array([[9, 8, 10]])
    wanted = by("crop", network, image, voxels)
    monkeypatch.setattr(Block, "back", without_residual)
    with pytest.warns(UserWarning, match="taking the crop"):
        assert oracles.relative(by("cone", network, image, voxels), wanted) < EXACT


def test_the_cone_is_asked_for_once_until_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, look = [], FrozenCone.see
    monkeypatch.setattr(FrozenCone, "see", lambda self, x: asked.append(1) or look(self, x))
    network, image = nnunet().explained_through("whole"), torch.randn(2, 20, 20, 20, dtype=torch.float64)
    voxels = np.array([[9, 8, 10]])
    first = by("cone", network, image, voxels)
    assert oracles.relative(by("cone", network, image, voxels), first) < EXACT
    assert len(asked) == 3  # once to ask, and once for each map
    network.module.output_block.conv.conv.weight *= 2  # pyright: ignore
    assert oracles.relative(by("cone", network, image, voxels), 2 * first) < EXACT
    assert len(asked) == 5


def test_two_images_in_turn_do_not_mix_their_statistics() -> None:
    network = replace(nnunet(), window=20)
    images = [torch.randn(2, *SHAPE, dtype=torch.float64) * scale for scale in (1.0, 3.0)]
    voxels = CORNERS[[12, 13]]
    engines = [LesionGradient(network, image, voxels, "max", statistics="frozen") for image in images]
    alone = [engine(image) for engine, image in zip(engines, images, strict=True)]
    again = [engine(image) for engine, image in zip(engines[::-1], images[::-1], strict=True)][::-1]
    for one, other in zip(alone, again, strict=True):
        assert torch.equal(one, other)


def test_in_training_mode_dropout_is_put_to_rest_and_the_module_stays_as_it_was() -> None:
    network, image, voxels = dynunet(dropout=0.5), torch.randn(2, *SHAPE, dtype=torch.float64), CORNERS[[13]]
    wanted = by("cone", network, image, voxels)
    other = dynunet(dropout=0.5)
    other.module.load_state_dict(network.module.state_dict())
    other.module.train().requires_grad_(True)
    assert oracles.relative(by("cone", other, image, voxels), wanted) < EXACT
    assert all(m.training for m in other.module.modules())
    assert all(p.requires_grad and p.grad is None for p in other.module.parameters())
    held = other.module.modules(), LesionGradient(other, image, voxels, "max", statistics="frozen").frozen.held  # pyright: ignore
    assert not any(m._forward_hooks or m._forward_pre_hooks for some in held for m in some)


def test_float32_flips_no_slope_against_the_crop_which_runs_the_same_forward_pass(rng: np.random.Generator) -> None:
    network = nnunet((8, 8, 16)).explained_through("whole")
    network.module.float()
    image, voxels = torch.randn(2, 24, 24, 24), np.unique(rng.integers(4, 20, (6, 3)), axis=0)
    assert oracles.relative(by("cone", network, image, voxels), by("crop", network, image, voxels)) < KINK


def test_the_published_windows_are_those_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """By voxels 24 and 26: [24, 25] at the top and [11, 13] below, by [22, 27]; [4, 7] at the bottom, by [9, 15]."""
    seen, back = [], Block.back
    monkeypatch.setattr(Block, "back", lambda self, g, at: seen.append((g.shape[-1], at)) or back(self, g, at))
    cone, voxel = frozen_cone_of(held_still(nnunet(), torch.randn(1, 2, 48, 48, 48).double())), np.array([[24, 25, 27]])
    assert cone is not None
    cone.see(torch.randn(1, 2, 48, 48, 48, dtype=torch.float64))
    g, at = cone._backward(voxel, torch.ones(1))
    assert [(size, lo[0].tolist()) for size, lo in seen] == [
        (2, [24, 24, 26]),
        (3, [11, 11, 12]),
        (4, [4, 4, 5]),
        (13, [5, 5, 7]),  # [2 * 3 - 1, 2 * 8 + 1]
        (31, [7, 7, 11]),
    ]
    assert g.shape == (1, 2, 35, 35, 35)
    assert at.tolist() == [[5, 5, 9]]
    assert cone.values() == 3 * 3 * 39**3  # 5 at the bottom are provided for


def test_a_small_budget_takes_voxels_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, backward = [], FrozenCone._backward
    monkeypatch.setattr(FrozenCone, "_backward", lambda self, v, w: sizes.append(len(v)) or backward(self, v, w))
    network, image = nnunet().explained_through("whole"), torch.randn(2, 20, 20, 20, dtype=torch.float64)
    engine = LesionGradient(network, image, np.array([[4 + n, 5, 6] for n in range(8)]), "max", statistics="frozen")
    roomy = engine(image)
    engine.budget = 3 * engine.frozen.cone.values() * 8  # pyright: ignore
    assert oracles.relative(engine(image), roomy) < EXACT
    assert sizes == [2, 4, 4, 3, 3, 2]  # the first asks whether to trust; one alone is taken twice


def test_running_out_of_memory_halves_the_voxels_of_several_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    network = replace(nnunet(), window=16, overlap=0.6)
    image, voxels = torch.randn(2, *SHAPE, dtype=torch.float64), np.array([[12, 10, 10], [12, 11, 10]])
    wanted = by("cone", network, image, voxels)
    each, sizes = FrozenCone.each, []

    def scarce(self, x, view, some, budget):
        sizes.append(len(some))
        if len(some) > 1:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return each(self, x, view, some, budget)

    monkeypatch.setattr(FrozenCone, "each", scarce)
    assert oracles.relative(by("cone", network, image, voxels), wanted) < EXACT
    assert max(sizes) > 1


def test_windows_are_zero_beyond_the_crop() -> None:
    volume = torch.arange(1.0, 28).reshape(1, 1, 3, 3, 3)
    got = windows(volume, np.array([[-1, 0, 1], [1, 1, 1]]), 2)
    assert got.shape == (2, 1, 2, 2, 2)
    assert float(got[0, 0, 0].abs().sum()) == 0
    assert torch.equal(got[0, 0, 1], volume[0, 0, 0, :2, 1:])
    assert torch.equal(got[1], volume[0, :, 1:, 1:, 1:])


def test_the_published_network_takes_the_cone_and_the_others_have_none() -> None:
    image, voxels = torch.randn(2, 96, 96, 96), np.array([[40, 40, 40]])
    assert LesionGradient(build("nnunet"), image, voxels, "max", statistics="frozen").way == "cone"
    assert frozen_cone_of(build("nnunet").module) is None  # its norms are live
    assert frozen_cone_of(unet().module) is None


def test_on_a_gpu_the_batch_of_the_cone_follows_the_budget(
    image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nnunet().explained_through("whole")
    lesion = np.argwhere(np.ones((4, 4, 4))) + 18
    engine = LesionGradient(network, image, lesion, "max", statistics="frozen")
    (view,), held = engine.parts[0].views, engine.frozen
    assert held is not None
    held.record(image, engine.parts)
    sizes, backward = [], FrozenCone._backward
    monkeypatch.setattr(FrozenCone, "_backward", lambda self, v, w: sizes.append(len(v)) or backward(self, v, w))
    cone = frozen_cone_of(hollow(held.network).module)
    assert cone is not None
    x = torch.zeros(1, 2, *view.box.shape, device="meta", dtype=torch.float64)
    for room, batches in ((1, [2] * 64), (16, [16] * 4), (1000, [64])):
        sizes.clear()
        found = list(cone.each(x, view, lesion, room * cone.values() * 8))
        assert sizes == batches
        assert [row for row, _, _ in found] == list(range(64))
        assert {g.device.type for _, _, g in found} == {"meta"}


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_channels_and_classes_keep_the_cone(channels: int, number: int) -> None:
    network = one_class(nnunet((4, 5, 6), channels, 3), number).explained_through("whole")
    image, voxels = torch.randn(channels, 16, 16, 20, dtype=torch.float64), np.array([[7, 8, 9], [0, 11, 15]])
    still = replace(network, module=held_still(network, image[None]))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(still, 4), image, voxels), "max")
    for way in ("cone", "crop"):
        assert oracles.relative(by(way, network, image, voxels), wanted) < EXACT


def test_a_frozen_copy_is_made_again_for_whatever_it_depends_on() -> None:
    network = replace(nnunet(), window=16)
    first = frozen(network, 2)
    assert frozen(network, 2) is first
    assert frozen(replace(network), 2) is first
    for other in (replace(network, window=20), replace(network, stride=(8, 8, 8)), one_class(network, 0)):
        assert frozen(other, 2) is not first
    norm, weight = first_block(network).norm1, first_block(network).conv1.conv.weight
    for change in (lambda: weight.mul_(2), lambda: setattr(norm, "eps", 1.0), network.module.float):
        before = frozen(network, 2)
        change()
        assert frozen(network, 2) is not before
        assert frozen(network, 2).network.dtype == network.dtype
