"""Architectures: built as published, or by the name that MONAI gives them."""

from itertools import pairwise

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet

from ies_helpers.segmentation.architectures import ARCHITECTURES, build, build_monai


def test_the_published_unet_has_the_parameters_that_its_kernels_need() -> None:
    """By arithmetic: kernels of 3^3 with biases; behind all but the last two affine and one PReLU parameter."""
    c = ARCHITECTURES["unet"].features
    convolutions = [
        (2, c[0]),
        *pairwise(c),
        (c[-1] + c[-2], c[-3]),
        *((2 * c[n], c[n - 1]) for n in (2, 1)),
    ]
    wanted = sum(27 * a * b + 3 * b + 1 for a, b in convolutions) + 27 * 2 * c[0] * 2 + 2
    assert sum(p.numel() for p in build("unet").module.parameters()) == wanted


def test_a_class_of_monai_is_built_by_name_with_the_arguments_given() -> None:
    arguments = {"in_channels": 2, "out_channels": 3, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    torch.manual_seed(0)
    made = build_monai("monai:SegResNet", arguments)
    torch.manual_seed(0)
    wanted = SegResNet(
        spatial_dims=3, in_channels=2, out_channels=3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)
    )
    x = torch.randn(1, 2, 8, 8, 8)
    torch.testing.assert_close(made(x), wanted.eval()(x))
    assert not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("SegResnet3", {}, "SegResNet"),
        ("os", {}, "monai.networks.nets"),
        ("SegResNet", {"filters": 3}, "filters"),
        ("UNet", {"in_channels": 2}, "out_channels"),
    ],
)
def test_anything_else_is_refused_with_what_there_is(name: str, arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_monai(name, arguments)
