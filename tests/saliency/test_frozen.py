"""Frozen statistics: exact for the network they define, near the exact map near the lesion, and never the default."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network
from ies_helpers.saliency.frozen import deviation
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.architectures import build
from tests import oracles
from tests.networks import nnunet, unet

EXACT = 1e-12
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


def test_the_network_keeps_its_norms_and_new_weights_are_seen(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=32)
    before = network.digest()
    first = map_of(network, image, VOXELS[:1], "frozen")
    assert network.digest() == before
    assert any(isinstance(m, nn.InstanceNorm3d) for m in network.module.modules())
    assert sum(len(m._forward_pre_hooks) for m in network.module.modules()) == 0
    network.module.output_block.conv.conv.weight *= 2  # pyright: ignore
    assert oracles.relative(map_of(network, image, VOXELS[:1], "frozen"), 2 * first) < EXACT


def test_it_is_never_taken_unasked_and_refused_where_it_means_nothing(image: torch.Tensor) -> None:
    network = replace(nnunet(), window=32)
    assert LesionGradient(network, image, VOXELS, "max").frozen is None
    with pytest.raises(ValueError, match="local but for instance norms; unet is not"):
        LesionGradient(unet(), image, VOXELS, "max", statistics="frozen")
    with pytest.raises(ValueError, match="is for max; mean takes one exact pass"):
        LesionGradient(network, image, VOXELS, "mean", statistics="frozen")
    with pytest.raises(ValueError, match="exact or frozen, got 'held'"):
        LesionGradient(network, image, VOXELS, "max", statistics="held")  # pyright: ignore[reportArgumentType]
    swin = replace(build("swin_unetr", (12,)), window=32)
    with pytest.raises(ValueError, match="local but for instance norms; swin_unetr is not"):
        LesionGradient(swin, torch.randn(2, 32, 32, 32), np.array([[5, 5, 5]]), "max", statistics="frozen")
