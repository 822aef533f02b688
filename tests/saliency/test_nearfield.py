"""Near fields: every operation's rule against autograd, and both fields of whole networks, untruncated, against it."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from torch import nn

from ies_helpers import Network
from ies_helpers.arrays import Box
from ies_helpers.saliency.farfield import Held
from ies_helpers.saliency.nearfield import RULES, Cotangent, Graph, Readable, Rows, few_outputs, near_extremes, seen
from ies_helpers.saliency.views import Part, View
from tests.networks import lively, nnunet, unet

EXACT = 1e-10
"""Float64, relative to the largest value: another order of sums."""

SIDES = (16, 12, 20)
VOXELS = np.array([[0, 0, 0], [7, 6, 9], [15, 11, 19], [15, 0, 3]])  # two corners, the middle, an edge


def fields_of(function: Callable, x: torch.Tensor, voxels: np.ndarray, coarse: float = np.inf, alone: bool = False):
    """Largest error of near and untruncated far fields, relative; and the graph's held operations.

    `alone` asserts that nothing is held.
    """
    x = x.clone().requires_grad_()
    with Readable():
        logits = function(x.clone())[:, 0]
    graph, rows = Graph(x, logits, coarse), Rows.of(voxels)
    everything = np.arange(len(voxels))
    seed, _ = rows.seed(View(Box.whole(x.shape[2:])), logits, everything) or pytest.fail("no voxel is there")
    with torch.no_grad():
        near, held = graph.back(seed)
    assert not (alone and held)
    worst, stacked = 0.0, Held([(everything, held)], len(voxels))
    for n, voxel in enumerate(voxels):
        (wanted,) = torch.autograd.grad(logits[(0, *voxel)], x, retain_graph=True)
        got = graph.far(stacked.combined(torch.eye(len(voxels))[n])) if held else torch.zeros_like(x[0])
        if near is not None:
            got[:, *near.box] += near.plain()[n]
        worst = max(worst, float((got - wanted[0]).abs().max() / wanted.abs().max()))
    return worst, {node.name() for node in held}


# Every rule.


class Gate(nn.Module):
    """A map of features times one of a single feature, a number, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.last = nn.Conv3d(3, 1, 1), nn.Conv3d(3, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x * torch.sigmoid(self.gate(x)) * 0.7 + x) * 2.0


class Differences(nn.Module):
    """x - 2 conv(x), slices of the features, and positions that are padded and cut off again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sub(x, self.conv(x), alpha=2)[:, 1:]
        y = F.pad(y, [1, 2, 0, 3, 2, 0])[:, :, 2:, :-3, 1:-2]
        return y[:, 1:].contiguous().view(1, 1, *x.shape[2:])


class FeaturesLast(nn.Module):
    """A layer norm over features, as transformers have it, and one without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.LayerNorm(3), nn.Conv3d(3, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x.permute(0, 2, 3, 4, 1))
        y = F.layer_norm(y + y.clone(), [3]) - y
        return self.conv(y.permute(0, 4, 1, 2, 3))


class OneClass(nn.Module):
    """Its logit beside a constant, as a network with a single output is read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return torch.cat([torch.zeros_like(y), y], dim=1)[:, 1:]


class Mirrored(nn.Module):
    """As nnU-Net's copies: turned, run, turned back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.flip(2, 4)).flip(2, -1)


class Replicated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 1, (3, 5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, [1, 1, 1, 3, 2, 0], mode="replicate"))


def around(*inner: nn.Module, width: int = 3) -> nn.Module:
    """A convolution before, the parts, and one after, which makes the logit."""
    return nn.Sequential(nn.Conv3d(3, width, 3, padding=1), *inner, nn.Conv3d(width, 1, 3, padding=1))


ACTIVATIONS = (
    *(nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.3), nn.LeakyReLU(0.3, inplace=True), nn.PReLU(3)),
    *(nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Softplus(2.0), nn.Sigmoid(), nn.Tanh()),
)
PARTS: dict[str, nn.Module] = {
    **{f"{type(a).__name__} {n}": around(a) for n, a in enumerate(ACTIVATIONS)},
    "strided": around(nn.Conv3d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose3d(4, 3, 3, 2, 1, output_padding=1)),
    "pairs": around(nn.Conv3d(3, 4, 2, stride=2), nn.ConvTranspose3d(4, 3, 2, stride=2)),
    "uneven": around(nn.Conv3d(3, 4, (1, 3, 3), (1, 2, 1), (0, 1, 1)), nn.ConvTranspose3d(4, 3, (1, 2, 1), (1, 2, 1))),
    "dilated": around(nn.Conv3d(3, 3, 3, padding=4, dilation=4, groups=3)),
    "many inputs": nn.Sequential(nn.Conv3d(3, 5, 3, stride=2, padding=1), nn.ConvTranspose3d(5, 1, 2, stride=2)),
    "batch norm": around(nn.BatchNorm3d(3)),
    "trilinear": around(nn.AvgPool3d(1), nn.MaxPool3d(2), nn.Upsample(scale_factor=2, mode="trilinear")),
    "aligned": around(nn.MaxPool3d(3, 2, 1), nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)),
    "nearest": around(nn.MaxPool3d(2), nn.Upsample(scale_factor=2)),
    "nearest-exact": around(nn.MaxPool3d(2), nn.Upsample(scale_factor=2, mode="nearest-exact")),
    "features last": FeaturesLast(),
    "one class": OneClass(),
    "mirrored": Mirrored(),
    "gate": Gate(),
    "differences": Differences(),
    "replicated": Replicated(),
}


def prepared(module: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, at rest, with weights and statistics that are not neutral."""
    torch.manual_seed(seed)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
    return lively(Network(module)).module


@pytest.mark.parametrize("name", PARTS)
def test_the_near_field_of_an_operation_is_autograds_gradient_at_the_middle_the_edges_and_the_corners(name) -> None:
    module = prepared(PARTS[name])
    held = {"AvgPool3DBackward0"} if name == "trilinear" else set()
    off, met = fields_of(module, torch.randn(1, 3, *SIDES, dtype=torch.float64), VOXELS)
    assert off < EXACT
    assert met == held


def test_every_rule_is_met_by_these_operations_or_by_a_network_below() -> None:
    """A new row needs an operation here."""
    met: set[str] = set()
    for module in (*PARTS.values(), nnunet((3, 4, 5)).module):
        x = torch.randn(1, 2 if module not in PARTS.values() else 3, *SIDES, dtype=torch.float64).requires_grad_()
        y = prepared(module)(x.clone())[:, 0]
        met |= {node.name() for node in Graph(x, y).order}
    views = {"AliasBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0"}  # as torch likes
    assert set(RULES) - met <= views


def test_a_transposed_convolution_with_few_outputs_is_the_librarys() -> None:
    g, w = torch.randn(3, 5, 4, 6, 3, dtype=torch.float64), torch.randn(5, 2, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(few_outputs(g, w), F.conv_transpose3d(g, w, stride=2), rtol=0, atol=1e-12)


# Whole networks.

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "nnU-Net": lambda: nnunet((3, 4, 5)).module,
    "U-Net": lambda: unet((3, 4, 5)).module,
    "U-Net, instance norm, residual": lambda: UNet(3, 2, 2, (4, 5, 6), (2, 2), num_res_units=2),
    "SegResNet": lambda: SegResNet(3, 8, 2, 2),
    "AttentionUnet": lambda: AttentionUnet(3, 2, 2, (4, 6), (2,)),
    "BasicUNet": lambda: BasicUNet(3, 2, 2, (4, 4, 4, 4, 4, 4)),
    "UNETR": lambda: UNETR(2, 2, (32, 32, 32), 4, 12, 24, 2),
    "Swin UNETR": lambda: SwinUNETR(
        in_channels=2, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
    ),
}
FARS = {  # what is held in each, with no map held for being coarse
    "U-Net": set(),
    "UNETR": {"NativeBatchNormBackward0", "ViewBackward0"},
    "Swin UNETR": {"NativeBatchNormBackward0", "UnsafeViewBackward0"},
    "SegResNet": {"NativeGroupNormBackward0"},
}


@pytest.mark.parametrize("coarse", [np.inf, 4, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_near_and_far_fields_without_truncation_are_autograds_gradient(name: str, coarse: float) -> None:
    torch.manual_seed(0)
    module = lively(Network(NETWORKS[name]())).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = (64, 32, 32) if name == "Swin UNETR" else (32, 32, 32)
        off, held = fields_of(module, torch.randn(1, 2, *sides, dtype=torch.float64), VOXELS[1:3], coarse)
    assert off < EXACT
    if coarse == np.inf:
        assert held == FARS.get(name, {"NativeBatchNormBackward0"})


def test_the_near_field_of_a_norm_is_what_a_batch_norm_at_rest_has_and_its_far_field_is_known() -> None:
    """y = (x - m) / s over n voxels: dy_v/dx = (delta_v - 1/n - y_v y / n) / s, of which delta_v / s is near."""
    x = torch.randn(1, 1, 4, 5, 6, dtype=torch.float64).requires_grad_()
    with Readable():
        y = F.instance_norm(x.clone(), eps=0.0)
    graph, voxels = Graph(x, y[:, 0]), np.array([[1, 2, 3]])
    seed, _ = Rows.of(voxels).seed(View(Box.whole((4, 5, 6))), y[:, 0], np.array([0])) or pytest.fail("none")
    near, held = graph.back(seed)
    s, n, t = x.detach().std(correction=0), x.numel(), y.detach()[0, 0]
    assert near is not None
    assert near.box.shape == (1, 1, 1)
    torch.testing.assert_close(near.plain()[0].flatten(), 1 / s[None], rtol=1e-12, atol=0)
    ((node, sums),) = held.items()
    assert isinstance(sums, torch.Tensor)
    torch.testing.assert_close(sums[0, :, 0], torch.stack([torch.ones_like(s), t[1, 2, 3]]), rtol=1e-12, atol=0)
    torch.testing.assert_close(graph.far({node: sums[0]})[0], -(1 + t[1, 2, 3] * t) / n / s, rtol=1e-10, atol=1e-14)


def test_a_near_field_is_a_finite_difference_of_the_logit() -> None:
    network, x = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    voxel, step = np.array([[7, 8, 9]]), 1e-6
    ((box, g, _),) = near_extremes(network, x, Part.through([View(Box.whole((16, 16, 16)))], voxel, (16, 16, 16)))
    for at in [(0, 7, 8, 9), (1, 6, 8, 10), (0, 4, 9, 9)]:
        moved = torch.zeros_like(x)
        moved[at] = step
        up, down = (network.lesion_logit((x + s * moved)[None])[0][tuple(voxel[0])] for s in (1, -1))
        inside = tuple(np.array(at[1:]) - box.start)
        assert float(g[(at[0], *inside)]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-6, abs=1e-9)


# Rows.


def test_rows_are_weighted_sums_of_places_and_a_view_knows_its_share() -> None:
    places = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 2], [3, 3, 3]])
    rows = Rows(places, np.array([0, 0, 0, 1]), np.array([0.125, 0.125, 0.75, 2.0]))
    assert len(rows) == 2
    logits = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    view = View(Box.of((0, 0, 0), (2, 4, 4)), torch.full((2, 4, 4), 0.5, dtype=torch.float64))
    seed, share = rows.seed(view, logits, np.array([0, 1])) or pytest.fail("none")
    assert seed.box == Box.of((1, 1, 1), (2, 2, 3))
    assert seed.values[:2].flatten(1).tolist() == [[0.125, 0.375], [0.0, 0.0]]
    assert share.tolist() == [0.5, 0.0]
    assert rows.seed(view, logits, np.array([1])) is None


def test_groups_hold_every_row_once_and_neighbours_together() -> None:
    voxels = np.argwhere(np.ones((6, 5, 4))) + 3
    groups = Rows.of(voxels).groups(4)
    assert sorted(np.concatenate(groups)) == list(range(len(voxels)))
    assert max(map(len, groups)) == 4
    assert all(np.ptp(voxels[group], axis=0).max() < 8 for group in groups)


def test_cotangents_add_on_the_box_that_holds_both_and_leave_their_parts_alone() -> None:
    one = Cotangent(torch.ones(1, 1, 2, 2, 2), Box.of((0, 0, 0), (2, 2, 2)), torch.tensor(3.0))
    two = Cotangent(torch.ones(1, 1, 1, 1, 1), Box.of((2, 1, 1), (3, 2, 2)))
    total = one.plus(two)
    assert total.box == Box.of((0, 0, 0), (3, 2, 2))
    assert float(total.plain().sum()) == 8 * 3 + 1
    assert float(total.plus(two).plain()[0, 0, 2, 1, 1]) == 2.0
    assert float(two.values.sum()) == 1.0
    assert float(one.plus(one).plain().sum()) == 48.0
    assert float(one.values.sum()) == 8.0


def test_a_graph_is_read_of_the_network_as_it_is_seen() -> None:
    network = nnunet((3, 4, 5))
    x, logits = seen(network, torch.randn(2, 16, 16, 16, dtype=torch.float64), View(Box.whole((16, 16, 16))))
    assert torch.equal(logits, network.lesion_logit(x))
    assert not {node.name() for node in Graph(x, logits).order} & {"torch::autograd::CopySlices", "AsStridedBackward0"}
