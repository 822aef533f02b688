"""Networks: heads of every kind, state that comes back, the architectures as published."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, predict
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.network import as_network, at_rest


class Head(nn.Module):
    """Answers with what it was made to answer, given FLAIR."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor):
        z = x[:, :1]
        two = torch.cat([torch.zeros_like(z), z], dim=1)
        stacked = torch.stack([two, -two], dim=1)
        kinds = {"two": two, "one": z, "list": [two, two[..., ::2]], "nested": ([two], z), "small": two[..., ::2]}
        return {**kinds, "stacked": stacked, "dict": {"out": two}, "empty": []}[self.kind]


@pytest.mark.parametrize("kind", ["two", "one", "list", "nested", "stacked"])
def test_every_kind_of_head_gives_the_same_probability(kind: str) -> None:
    image = torch.randn(2, 8, 8, 8)
    assert torch.allclose(predict(Head(kind), image), image[0].sigmoid())


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mapped \(1, 2, 8, 8, 8\) to \(1, 2, 8, 8, 4\)"):
        predict(Head("small"), torch.randn(2, 8, 8, 8))


@pytest.mark.parametrize("kind", ["dict", "empty"])
def test_an_output_that_is_no_tensor_is_refused(kind: str) -> None:
    told = {"dict": "dict", "empty": "list"}[kind]
    with pytest.raises(ValueError, match=rf"head mapped \(1, 2, 8, 8, 8\) to a {told}. Wrap it"):
        predict(Head(kind), torch.randn(2, 8, 8, 8))


def unet_parameters(c: tuple[int, ...]) -> int:
    """Kernels of 3^3 and biases, with two batch-norm and one PReLU parameter sets behind all but the last."""
    down = [(2, c[0]), *pairwise(c)]
    up = [(c[-1] + c[-2], c[-3]), *((2 * c[n], c[n - 1]) for n in range(len(c) - 3, 0, -1))]
    behind = sum(27 * a * b + b + 2 * b + 1 for a, b in [*down, *up])
    return behind + 27 * 2 * c[0] * 2 + 2


@pytest.mark.parametrize(("architecture", "stride"), [("unet", 16), ("nnunet", 4), ("swin_unetr", 32)])
def test_architectures_are_used_as_published(architecture: str, stride: int) -> None:
    network = build(architecture)
    assert network.stride == (stride, stride, stride)
    assert network.window == 96
    assert network.threshold == (0.3 if architecture == "unet" else 0.4)
    assert network.through == ("whole" if architecture == "unet" else "windows")
    assert network.layer in dict(network.module.named_modules())


@pytest.mark.parametrize("channels", [(32, 64, 128, 256, 512), (16, 32, 64, 128, 256), (4, 8, 16)])
def test_the_unet_has_the_parameters_of_its_kernels(channels: tuple[int, ...]) -> None:
    assert sum(p.numel() for p in build("unet", channels).module.parameters()) == unet_parameters(channels)


def test_the_nnunet_has_the_published_342_thousand_parameters() -> None:
    assert sum(p.numel() for p in build("nnunet").module.parameters()) == 341_922


def test_a_network_rests_inside_and_wakes_as_it_was_also_after_an_error() -> None:
    module = nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2), nn.Dropout3d()).train()
    module[1].eval()
    module[0].bias.requires_grad_(False)  # pyright: ignore
    tf32 = torch.backends.cudnn.allow_tf32

    def fail() -> None:
        with at_rest(as_network(module)):
            assert not any(m.training for m in module.modules())
            assert not any(p.requires_grad for p in module.parameters())
            assert not torch.backends.cudnn.allow_tf32
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_the_digest_knows_the_weights() -> None:
    torch.manual_seed(1)
    first, second = build("unet", (2, 3)), build("unet", (2, 3))
    assert first.digest() != second.digest()
    second.module.load_state_dict(first.module.state_dict())
    assert first.digest() == second.digest()
    assert len(first.digest()) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_digest_hashes_names_and_bytes_of_any_precision(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)).to(dtype)
    sha = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        sha.update(key.encode() + bytes(value.contiguous().untyped_storage()))
    assert Network(module).digest() == sha.hexdigest()[:16]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        *(({"window": w}, r"window must be a side of 1 .* None; got") for w in (0, -4, 32.5, (32, 32), (), [96] * 3)),
        *(({"overlap": o}, r"overlap must be a share .* from 0 to below 1, got") for o in (-1, 1.0, float("nan"))),
        *(({"threshold": t}, "threshold must lie between 0 and 1, got") for t in (3.0, 0, float("nan"))),
        ({"placing": "mine"}, "placing must be one of monai, nnunet, got 'mine'"),
        ({"weighting": "flat"}, "weighting must be one of gaussian, constant, got 'flat'"),
    ],
)
def test_a_setting_that_is_not_as_said_is_refused_at_once(setting: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Network(nn.Identity(), **setting)


def test_a_window_may_be_counted_in_whole_numbers_of_any_kind() -> None:
    assert Network(nn.Identity(), window=np.int64(32)).sides == (32, 32, 32)
    assert Network(nn.Identity(), window=(np.int64(32), 24, 16), overlap=0).sides == (32, 24, 16)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="one of unet, nnunet, swin_unetr, got 'vnet'"):
        build("vnet")
    with pytest.raises(ValueError, match="through windows needs one"):
        Network(nn.Identity(), through="windows")
    with pytest.raises(ValueError, match="one of whole, windows, got 'both'"):
        Network(nn.Identity(), through="both")  # pyright: ignore[reportArgumentType]
