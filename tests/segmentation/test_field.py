"""How far a network looks: by hand, by arithmetic, and by poking every voxel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers import Network
from ies_helpers.arrays import Box
from ies_helpers.segmentation import field as field_module
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.network import as_network, one_class
from ies_helpers.teaching import Quadratic, Shifted


def field(module: nn.Module | Network, channels: int = 2):
    """The field of a module."""
    return receptive_field(as_network(module), channels)


def test_kernels_dilations_and_strides_add_up() -> None:
    plain = nn.Sequential(
        nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, (1, 3, 5), dilation=(1, 2, 1), padding="same")
    )
    found = field(plain)
    assert found.stride == (1, 1, 1)
    assert found.before == found.after == (1, 3, 3)


@pytest.mark.parametrize("name", ["unet", "nnunet"])
def test_values_kept_are_counted_in_either_precision(name: str) -> None:
    """A memory estimate of nothing would let every budget pass."""
    single, double = (field(build(name, (4, 8, 16)).module.to(dtype)) for dtype in (torch.float32, torch.float64))
    assert single.activations == double.activations > 2


def test_values_kept_of_one_convolution_are_its_features() -> None:
    assert field(nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.InstanceNorm3d(6))).activations == 12


def test_pooling_is_seen() -> None:
    pooled = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(2, 2, 3, padding=1), nn.Upsample(scale_factor=2))
    found = field(pooled)
    assert found.stride == (2, 2, 2)
    assert found.before == found.after == (2, 2, 2)


def test_a_field_follows_the_kernel_whatever_its_weights() -> None:
    found = field(Shifted(steps=5))
    assert found.before == found.after == (5, 0, 0)
    assert field(Quadratic()).before == field(Quadratic()).after == (0, 0, 0)


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_the_unet_looks_as_far_as_its_kernels_say(levels: int) -> None:
    """Level by level, from the bottom up: a transposed convolution of stride 2 and kernel 3 with padding 1 reaches
    one coarse voxel further after the cell, each strided convolution one voxel of its input before."""
    stride = 2 ** (levels - 1)
    found = field(build("unet", tuple(range(2, 2 + levels))))
    assert found.stride == (stride,) * 3
    # Bottom cells c and c + 1 decide a cell; a kernel of 3 on the bottom sees c - 1 to c + 2; each strided
    # convolution then sees 2 c - 1 to 2 c + 1.
    first, last = -1, 2
    for _ in range(levels - 1):
        first, last = 2 * first - 1, 2 * last + 1
    assert found.before == (-first,) * 3
    assert found.after == (last + 1 - stride,) * 3


def test_the_published_crop_is_80_voxels_wide() -> None:
    found = field(build("unet"))
    assert (found.before, found.after) == ((31, 31, 31), (32, 32, 32))
    box = found.crop(Box.of((96, 100, 96), (112, 105, 112)), (182, 218, 182))
    assert box == (slice(64, 144), slice(64, 144), slice(64, 144))
    assert found.crop(Box.of((0, 217, 90), (1, 218, 91)), (182, 218, 182)) == (
        slice(0, 48),
        slice(176, 224),
        slice(48, 128),
    )


def test_poking_outside_the_field_changes_nothing_and_its_rim_does(rng: np.random.Generator) -> None:
    network = build("unet", (3, 4, 5))
    for module in network.module.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-1, 1)  # pyright: ignore
    network.module.double()
    found = receptive_field(network, 2)
    assert found.before is not None
    assert found.after is not None
    x = torch.from_numpy(rng.standard_normal((1, 2, 48, 16, 16)))
    cell = slice(20, 24)
    first, last = 20 - found.before[0], 24 + found.after[0] - 1
    with torch.no_grad():
        y = network.logits(x)[:, 1, cell]
        for voxel, reached in [(first - 1, False), (first, True), (last, True), (last + 1, False)]:
            poked = x.clone()
            poked[:, :, voxel] += 5
            assert bool((network.logits(poked)[:, 1, cell] != y).any()) is reached


@pytest.mark.parametrize("leaf", [nn.InstanceNorm3d(2), nn.GroupNorm(1, 2), nn.AdaptiveAvgPool3d(4), nn.Softmax(dim=2)])
def test_what_mixes_all_voxels_has_no_bounded_field(leaf: nn.Module) -> None:
    found = field(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), leaf))
    assert not found.bounded
    assert found.crop(Box.of((3, 3, 3), (5, 5, 5)), (20, 20, 20)) == (slice(0, 20),) * 3


def test_a_global_mean_hidden_in_the_code_is_found_by_the_probe() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv3d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.mix(x)
            return y + y.mean(dim=(2, 3, 4), keepdim=True)

    assert not field(Centred()).bounded


def test_the_module_is_not_touched() -> None:
    network = build("unet", (3, 4, 5))
    before = network.digest()
    receptive_field(network, 2)
    assert network.digest() == before
    assert next(network.module.parameters()).dtype == torch.float32


def test_a_field_is_found_again_for_whatever_it_depends_on() -> None:
    """Else a user who is told to give a stride, and gives it, is told the same again."""
    network = Network(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.InstanceNorm3d(2)))
    assert receptive_field(network, 2).stride == (1, 1, 1)
    assert receptive_field(replace(network, stride=(8, 8, 8)), 2).stride == (8, 8, 8)
    assert receptive_field(network, 2).stride == (1, 1, 1)
    module = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1))
    assert field(module).before == (1, 1, 1)
    module[1] = nn.InstanceNorm3d(3)
    assert not field(module).bounded
    module[1] = nn.Identity()
    module[2] = nn.Conv3d(3, 2, 5, padding=2)
    assert field(module).before == (3, 3, 3)


def test_a_field_depends_on_class_channels_window_and_fixed_kernels() -> None:
    class Blurred(nn.Module):
        """Class 0 is a voxel, class 1 a sum along an axis by a kernel that is no parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv3d(1, 1, 1)
            self.register_buffer("kernel", torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).reshape(1, 1, 5, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.mix(x.mean(dim=1, keepdim=True))
            return torch.cat([y, F.conv3d(y, self.kernel.to(y), padding=(2, 0, 0))], dim=1)

    network = as_network(Blurred())
    assert receptive_field(network, 2).after == (1, 0, 0)
    assert receptive_field(one_class(network, 0), 2).after == (0, 0, 0)
    network.module.kernel[0, 0, 4] = 1.0
    assert receptive_field(network, 2).after == (2, 0, 0)
    normed = Network(nn.Sequential(nn.Conv3d(2, 4, 4, stride=4), nn.InstanceNorm3d(4), nn.Upsample(scale_factor=4)))
    kept = [receptive_field(replace(normed, window=side), 2).activations for side in (8, 10)]
    assert kept == [(4 + 4) / 64 + 4, ((4 + 4) * 2**3 + 4 * 8**3) / 10**3], (
        "its convolution leaves two voxels of six alone"
    )
    assert receptive_field(normed, 3).activations == 0, "such an image it cannot take"


def test_a_field_is_probed_once_while_nothing_changes_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    probed, make = [], field_module._probed
    monkeypatch.setattr(field_module, "_probed", lambda *args: probed.append(1) or make(*args))
    network = build("unet", (2, 3))
    for change in (lambda: None, lambda: network.module.model[0].conv.weight.mul_(2), network.module.train):
        with torch.no_grad():
            change()
        receptive_field(replace(network, threshold=0.7, window=None), 2)
    assert len(probed) == 1
