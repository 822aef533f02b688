"""Far fields: exact without truncation, an error as asked for with, and an estimate of it without bias."""

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.unet import UNet
from torch import nn

from ies_helpers import Network
from ies_helpers.arrays import Box
from ies_helpers.saliency import farfield, gradients, nearfield
from ies_helpers.saliency.farfield import Compression, Fields, Held, Report, check_accuracy, split_of
from ies_helpers.saliency.gradients import LesionGradient, gradient
from ies_helpers.saliency.nearfield import Graph, Rows, seen
from ies_helpers.saliency.views import Part, View, window_part
from ies_helpers.segmentation.network import at_rest
from tests import oracles
from tests.networks import lively, nnunet, unet

EXACT = 1e-10
"""Float64, relative to the largest value: as many directions as voxels."""

IMAGE = torch.randn(2, 16, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
LESION = np.argwhere(np.ones((3, 2, 2))) + np.array([5, 7, 9])
LARGE = np.argwhere(np.ones((5, 4, 3))) + np.array([4, 6, 8])
WINDOWS = replace(nnunet((3, 4, 5)), window=16, overlap=0.5)
NARROW = replace(WINDOWS, window=8, overlap=0.5)


@functools.cache
def wanted_of(which: str) -> torch.Tensor:
    """`(V, C, I, J, K)`: autograd's gradients through the windows."""
    return oracles.voxel_gradients(oracles.blended(WINDOWS), IMAGE, {"lesion": LESION, "large": LARGE}[which])


def full(engine: LesionGradient) -> torch.Tensor:
    """Its map of the image, in float64."""
    whole = torch.zeros_like(IMAGE)
    whole[:, *engine.box] = engine(IMAGE)
    return whole


def windowed(network: Network, voxels: np.ndarray, accuracy: float, check: int = 0) -> Fields:
    """Fields through the windows of a network."""
    part = window_part(network, IMAGE.shape[1:], voxels)
    with at_rest(network), torch.enable_grad():
        return Fields(network, IMAGE, part, [Rows.of(voxels)], accuracy, np.inf, check)


def rows_of(fields: Fields, shape=IMAGE.shape) -> torch.Tensor:
    """`(V, C, I, J, K)`."""
    whole = torch.zeros(len(fields.rows), *shape, dtype=torch.float64)
    for n, one in enumerate(whole):
        one[:, *fields.part.box] = fields.row(n)
    return whole


def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2."""
    return float((got - wanted).norm() / wanted.norm())


# Without truncation.


@pytest.mark.parametrize("where", ["middle", "window's edge", "image's corner", "two lesions"])
def test_as_many_directions_as_voxels_are_autograds_gradients(where: str) -> None:
    at = {
        "middle": LESION,
        "window's edge": LESION + np.array([0, 0, 5]),
        "image's corner": LESION - LESION.min(axis=0),
    }
    voxels = at.get(where, np.concatenate([LESION, LESION - LESION.min(axis=0)]))
    wanted = oracles.voxel_gradients(oracles.blended(WINDOWS), IMAGE, voxels)
    fields = windowed(WINDOWS, voxels, 1e-12)
    assert float((rows_of(fields) - wanted).abs().max()) < EXACT * float(wanted.abs().max())
    pairs = list(fields.pairs(2**10))
    assert len(pairs) > 1
    assert sum(box.size for box, _, _ in pairs) == fields.part.box.size
    for box, high, low in pairs:
        inside = (slice(None), slice(None), *box)
        torch.testing.assert_close(high, wanted[inside].amax(dim=0), rtol=0, atol=EXACT * float(wanted.abs().max()))
        torch.testing.assert_close(low, wanted[inside].amin(dim=0), rtol=0, atol=EXACT * float(wanted.abs().max()))


class NormAtTheEnd(nn.Module):
    """No norm but the decoder's last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(F.elu(self.first(x))))


class HiddenNorms(nn.Module):
    """Norms as functions: torch's own, and one by hand, which has no row of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.instance_norm(F.relu(self.first(x)))
        x = (x - x.mean(dim=(2, 3, 4), keepdim=True)) / (1 + x.var(dim=(2, 3, 4), keepdim=True)).sqrt()
        return self.last(x)


OTHERS = {
    "norm in the decoder only": NormAtTheEnd,
    "norms hidden in functions": HiddenNorms,
    "near field as large as the window": lambda: UNet(3, 2, 2, (3, 4, 5, 6), (2, 2, 2), num_res_units=2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_kinds_are_explained_right_to_the_accuracy_or_densely(name: str) -> None:
    torch.manual_seed(0)
    network = lively(Network(OTHERS[name](), "other", window=16, through="windows", stride=(8, 8, 8)))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.blended(network), IMAGE, LESION), "max")
    for accuracy, allowed in ((1e-12, EXACT), ("exact", EXACT), (1e-3, 1e-2)):
        engine = LesionGradient(network, IMAGE, LESION, "max", accuracy=accuracy)
        assert oracles.relative(full(engine), wanted) < allowed


def test_a_network_without_norms_has_no_far_field_and_takes_no_dense_pass() -> None:
    network = replace(unet((3, 4, 5)), window=16, through="windows")
    engine = LesionGradient(network, IMAGE, LESION, "max")
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.blended(network), IMAGE, LESION), "max")
    assert oracles.relative(full(engine), wanted) < EXACT
    assert engine.way == "fields"
    assert engine.report is not None
    assert (engine.report.passes, engine.report.estimate) == (0, 0.0)


def test_a_linear_norm_has_a_far_field_of_two_directions() -> None:
    """y_v = (x_v - m) / s: c_v = (1, y_v), two numbers for every voxel, so two directions and one look are all."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))  # says its precision

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.instance_norm(x, eps=0.0)
            return torch.cat([torch.zeros_like(y), y + self.bias], dim=1)

    network, x = Network(Norm(), "norm", window=8, through="windows"), IMAGE[:1, :8, :8, :8]
    voxels = np.argwhere(np.ones((3, 2, 2)))
    part = Part.through([View(Box.whole((8, 8, 8)))], voxels, (8, 8, 8))
    with at_rest(network), torch.enable_grad():
        fields = Fields(network, x, part, [Rows.of(voxels)], 1e-6, np.inf)
    s, n, y = x.std(correction=0), x.numel(), ((x - x.mean()) / x.std(correction=0))[0]
    got = rows_of(fields, x.shape)
    for row, voxel in zip(got, voxels, strict=True):
        wanted = -(1 + y[tuple(voxel)] * y) / n / s
        wanted[tuple(voxel)] += 1 / s
        torch.testing.assert_close(row[0], wanted, rtol=0, atol=1e-9)
    assert fields.reports[0].passes <= 3


# The error, and its estimate.


@pytest.mark.parametrize("accuracy", [1e-1, 1e-2, 1e-3, 1e-4])
def test_the_error_is_as_asked_for_and_the_passes_are_fewer_than_voxels(accuracy: float) -> None:
    voxels, wanted = LARGE, wanted_of("large")
    fields = windowed(WINDOWS, voxels, accuracy, check=2)
    met = off(rows_of(fields), wanted)
    assert fields.reports[0].estimate <= accuracy
    assert met < 1.5 * accuracy
    assert fields.reports[0].passes < len(voxels) * len(fields.part.views)
    assert fields.reports[0].voxels == 2
    checked, some = [0, len(voxels) - 1], rows_of(fields)
    apart, energy = some[checked] - wanted[checked], wanted.square().sum() / len(wanted)
    told = fields.reports[0].deviation
    assert told["l2"] == pytest.approx(float(apart.square().sum() / 2 / energy) ** 0.5, rel=0.05)  # near fields alone
    assert told["largest"] == pytest.approx(float(apart.abs().max() / wanted.abs().max()), rel=0.05)
    assert told["l1"] == pytest.approx(float(apart.abs().sum() / wanted[checked].abs().sum()), rel=1e-6)


def test_a_finer_accuracy_takes_more_passes_and_is_nearer() -> None:
    voxels, wanted = LARGE, wanted_of("large")
    found = [windowed(WINDOWS, voxels, accuracy) for accuracy in (1e-1, 1e-2, 1e-3)]
    assert [f.reports[0].passes for f in found] == sorted({f.reports[0].passes for f in found})
    errors = [off(rows_of(f), wanted) for f in found]
    assert errors == sorted(errors, reverse=True)


def test_the_estimate_of_what_is_left_has_no_bias() -> None:
    """After one direction, over 200 choices of random signs: the mean estimate is the energy that is left."""
    network, voxels = nnunet((3, 4, 5)), LESION[:8]
    with at_rest(network), torch.enable_grad():
        x, logits = seen(network, IMAGE[:, :16, :16, :16], View(Box.whole((16, 16, 16))))
        graph, rows = Graph(x, logits), Rows.of(voxels - voxels.min(axis=0) + 5)
        seed, _ = rows.seed(View(Box.whole((16, 16, 16))), logits.detach(), np.arange(8)) or pytest.fail("none")
        near, coefficients = graph.back(seed)
        held = Held([(np.arange(8), coefficients)], 8)
        far = torch.stack([graph.far(held.combined(one)) for one in torch.eye(8)]).flatten(1)
        first = held.directions(torch.ones(8, dtype=torch.float64))[1][:, 0]
        left = float((far - first[:, None] * (first @ far)).detach().square().sum())
        random = torch.Generator().manual_seed(0)
        told = []
        for _ in range(200):
            found = Compression(graph, held, Box.whole((16, 16, 16)), np.zeros(8, int), np.ones(8))
            told.append(float(found.until(np.array([np.inf]), random).left[0]))
    mean, error = np.mean(told), np.std(told) / len(told) ** 0.5
    assert near is not None
    assert abs(mean - left) < 3.5 * error
    assert error < 0.15 * left


def test_errors_of_windows_apart_add_squares_and_those_of_equal_windows_add_up() -> None:
    """Four windows in a row: two alike, one that shares a quarter with these, one apart; a lesion in one alone."""
    starts = (0, 0, 6, 40)
    views = [View(Box.of((n, 0, 0), (n + 8, 8, 8)), torch.full((8, 8, 8), 0.25, dtype=torch.float64)) for n in starts]
    rows = Rows.of(np.array([[7, 1, 1], [42, 1, 1]]))
    errors = farfield.Errors(views, rows, np.array([0, 1]), 1e-3)
    alike = np.array([[1, 1, 0.25, 0], [1, 1, 0.25, 0], [0.25, 0.25, 1, 0], [0, 0, 0, 1]])
    assert np.allclose(errors.overlap, alike, atol=EXACT)
    errors.left[:, 0] = 1e-4, 2e-4, 4e-4, 0
    errors.left[3, 1] = 3e-4
    assert np.allclose(errors.total(), [np.sqrt(9 + 16 + 2 * 0.25 * 3 * 4) * 1e-4, 3e-4], rtol=EXACT)


@pytest.mark.parametrize("used", [1.0, 0.5])
def test_views_are_allowed_what_in_the_end_is_the_accuracy(used: float) -> None:
    """Whether each uses up what it may leave, or half: the whole is as allowed, or below and late views get more."""
    views = window_part(NARROW, IMAGE.shape[1:], LARGE).views
    rows = Rows.of(LARGE)
    errors = farfield.Errors(views, rows, np.zeros(len(LARGE), int), 1e-3)
    assert len(views) > 2
    first = [errors.allowed(0)]
    for n in range(len(views)):
        allowed = errors.allowed(n)
        errors.left[n] = used * np.sqrt(allowed)
    assert np.isfinite(first).all()
    whole = float(errors.total()[0])
    assert whole == pytest.approx(1e-3, rel=1e-9) if used == 1 else 0.5e-3 < whole < 0.95e-3


def test_what_is_left_out_in_windows_that_overlap_is_not_told_too_small() -> None:
    """The estimate and the true error of all voxels' gradients, through windows shifted by half their side."""
    whole = oracles.voxel_gradients(oracles.blended(NARROW), IMAGE, LARGE)
    part = window_part(NARROW, IMAGE.shape[1:], LARGE)
    with at_rest(NARROW), torch.enable_grad():
        fields = Fields(NARROW, IMAGE, part, [Rows.of(LARGE)], 3e-2, np.inf)
    made = fields.totals(part.box, np.arange(len(LARGE)))
    true = float((made - whole[..., *part.box]).norm() / whole.norm())
    assert 0 < true < 3e-2
    assert true < 1.1 * fields.reports[0].estimate


def test_a_gradient_by_fields_is_the_maximum_within_its_accuracy_and_exact_is_exact() -> None:
    voxels, wanted = LARGE, oracles.aggregate(wanted_of("large"), "max")
    assert off(gradient(WINDOWS, IMAGE, voxels, accuracy="exact"), wanted.float()) < 1e-6
    assert 1e-8 < off(gradient(WINDOWS, IMAGE, voxels).abs(), wanted.float().abs()) < 5e-3
    assert off(gradient(WINDOWS, IMAGE, voxels, way="windows"), wanted.float()) < 1e-6


def test_the_same_image_gives_the_same_map_each_time() -> None:
    engine = LesionGradient(WINDOWS, IMAGE, LESION, "max")
    assert torch.equal(engine(IMAGE), engine(IMAGE))


# Large lesions in parts, and lesions together.


def test_a_lesion_too_large_for_all_its_near_fields_at_once_is_taken_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 voxels 25 at once: the map stays within its accuracy, passes of all slabs add up, each slab is checked."""
    wanted = oracles.aggregate(wanted_of("large"), "max").abs()
    whole = LesionGradient(WINDOWS, IMAGE, LARGE, "max")
    monkeypatch.setattr(gradients, "TOGETHER", 25)
    engine = LesionGradient(WINDOWS, IMAGE, LARGE, "max")
    assert [len(part.voxels) for part in engine.parts] == [20, 20, 20]
    assert sorted(map(tuple, np.concatenate([part.voxels for part in engine.parts]))) == sorted(map(tuple, LARGE))
    for one in (whole, engine):
        assert off(one.place(one(IMAGE)).abs(), wanted.float()) < 5e-3
    engine(IMAGE)  # a second image does not add to the first
    assert whole.report is not None
    assert engine.report is not None
    assert (whole.report.voxels, engine.report.voxels) == (2, 6)
    assert whole.report.passes < engine.report.passes < 60 * len(engine.parts[0].views)
    assert dict(gradients.together([engine, engine], IMAGE)).keys() == {0, 1}


def test_parts_of_one_image_add_their_passes_and_images_do_not() -> None:
    one = Report(1e-3, 4, 5e-4, 2, {"largest": 1e-5, "l2": 4e-4, "l1": 1e-2})
    two = Report(1e-3, 6, 2e-4, 2, {"largest": 2e-5, "l2": 1e-4, "l1": 2e-2})
    assert one.plus(two) == Report(1e-3, 10, 5e-4, 4, {"largest": 2e-5, "l2": 4e-4, "l1": 2e-2})
    assert one.worst(two) == Report(1e-3, 6, 5e-4, 2, one.deviation)


def test_lesions_of_the_same_windows_share_passes_and_each_is_as_near_as_alone() -> None:
    """Three in the same windows, one in fewer of these, one exact; a small one is held to its own error."""
    lesions = [LARGE, LESION + np.array([0, 1, 1]), LESION[:10], LESION - LESION.min(axis=0), LESION[:2]]
    engines = [LesionGradient(WINDOWS, IMAGE, lesion, "max", accuracy=1e-3) for lesion in lesions]
    assert [engine.way for engine in engines] == ["fields"] * 4 + ["windows"]
    sharing = gradients._sharing(engines)
    assert sorted(n for group in sharing for n in group) == [0, 1, 2, 3, 4]
    assert len(sharing) < 4
    found = dict(gradients.together(engines, IMAGE))
    alone = [LesionGradient(WINDOWS, IMAGE, lesion, "max", accuracy=1e-3) for lesion in lesions]
    for n, lesion in enumerate(lesions):
        wanted = oracles.voxel_gradients(oracles.blended(WINDOWS), IMAGE, lesion)
        whole = torch.zeros_like(IMAGE)
        whole[:, *engines[n].box] = found[n]
        assert off(whole.abs(), oracles.aggregate(wanted, "max").abs()) < 5e-3
        alone[n](IMAGE)
    shared, single = ([engine.report for engine in some[:4]] for some in (engines, alone))
    assert all(report is not None and report.estimate <= 1e-3 and report.voxels == 2 for report in shared)
    first = max(sharing, key=len)
    assert len(first) > 1
    assert shared[first[0]].passes < sum(single[n].passes for n in first)  # pyright: ignore[reportOptionalMemberAccess]


def test_what_does_not_fit_together_is_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lesions = [LESION, LESION + np.array([0, 1, 1])]
    engines = [LesionGradient(WINDOWS, IMAGE, lesion, "max") for lesion in lesions]
    wanted, fields = [engine(IMAGE) for engine in engines], gradients.Fields

    def scarce(*given: Any) -> Fields:
        if len(given[3]) > 1:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return fields(*given)

    monkeypatch.setattr(gradients, "Fields", scarce)
    for n, values in gradients.together(engines, IMAGE):
        assert torch.equal(values, wanted[n])


# What is decided by looking.


def test_maps_are_held_where_near_fields_would_fill_the_window() -> None:
    torch.manual_seed(0)
    deep = lively(Network(UNet(3, 2, 2, (3, 4, 5, 6), (2, 2, 2), num_res_units=2), "deep", window=16))
    image, view = IMAGE[:, :16, :16, :16], View(Box.whole((16, 16, 16)))
    with at_rest(deep):
        free = split_of(deep, image, view, np.array([7, 7, 7]), whole=True)
        held = split_of(deep, image, view, np.array([7, 7, 7]))
    assert free.coarse == np.inf
    assert held.coarse < 32
    assert held.share < free.share
    assert held.right
    assert free.right


def test_a_rule_that_is_wrong_is_noticed_and_autograd_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a new torch gave an operation another meaning."""
    rules = nearfield.RULES | {
        "LeakyReluBackward0": lambda node, g, shapes: [g],
        "LeakyReluBackward1": lambda node, g, shapes: [g],
    }
    monkeypatch.setattr(nearfield, "RULES", rules)
    network = replace(nnunet((3, 4, 6)), window=16)
    with pytest.warns(UserWarning, match="near and far fields is .* off; it is taken by autograd, which is slow"):
        engine = LesionGradient(network, IMAGE, LESION, "max")
    assert engine.way == "windows"


def test_a_graph_that_cannot_be_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise AttributeError("_saved_input")

    monkeypatch.setattr(Graph, "back", silent)
    engine = LesionGradient(replace(nnunet((3, 5, 6)), window=16), IMAGE, LESION, "max")
    assert engine.way == "windows"
    assert engine.split is not None
    assert "_saved_input" in engine.split.why


def test_few_voxels_are_taken_exactly() -> None:
    assert LesionGradient(WINDOWS, IMAGE, LESION[:8], "max").way == "windows"
    assert LesionGradient(WINDOWS, IMAGE, LESION[:9], "max").way == "fields"


@pytest.mark.parametrize("wrong", [1e-6, -1.0, 1.0, "near", float("nan")])
def test_an_accuracy_that_cannot_be_had_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"accuracy must be auto \(0.001\), exact, or a relative error from 1e-05"):
        check_accuracy(wrong, torch.float32)


def test_words_of_accuracy() -> None:
    assert [check_accuracy(a, torch.float64) for a in ("auto", "exact", 0, 1e-9)] == [1e-3, 0.0, 0.0, 1e-9]


def test_out_of_memory_takes_fewer_near_fields_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LesionGradient(WINDOWS, IMAGE, LESION, "max")
    wanted, back = engine(IMAGE), Graph.back

    def scarce(graph: Graph, seed: nearfield.Cotangent):
        if len(seed.values) > 2:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return back(graph, seed)

    monkeypatch.setattr(Graph, "back", scarce)
    torch.testing.assert_close(engine(IMAGE), wanted, rtol=0, atol=1e-2 * float(wanted.abs().max()))


# Frozen statistics: no far field.


def held_still(network: Network, x: torch.Tensor) -> nn.Module:
    """The oracle's way: a copy whose instance norms give what they gave on `x`, as constants of the input."""
    module = copy.deepcopy(network.module)
    for norm in [m for m in module.modules() if isinstance(m, nn.InstanceNorm3d)]:

        def frozen(this: nn.Module, given: tuple[torch.Tensor], _made: torch.Tensor) -> torch.Tensor:
            t = given[0]
            m, v = t.detach().mean((2, 3, 4), keepdim=True), t.detach().var((2, 3, 4), correction=0, keepdim=True)
            y = (t - m) / (v + this.eps).sqrt()
            return y if this.weight is None else y * this.weight.view(1, -1, 1, 1, 1) + this.bias.view(1, -1, 1, 1, 1)

        norm.register_forward_hook(frozen)
    return module


def test_frozen_statistics_are_autograds_with_norms_held_still() -> None:
    network = replace(WINDOWS, module=held_still(WINDOWS, IMAGE))
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.blended(network), IMAGE, LESION), "max")
    engine = LesionGradient(WINDOWS, IMAGE, LESION, "max", statistics="frozen")
    assert oracles.relative(full(engine), wanted) < EXACT
    assert engine.report is not None
    assert engine.report.passes == 0
    assert 1e-3 < engine.report.deviation["l2"] < 0.5
    assert "left out" in engine.report.in_words()


def test_frozen_statistics_are_refused_where_there_are_none_or_more_than_norms() -> None:
    with pytest.raises(ValueError, match="but for norms; unet has none"):
        LesionGradient(unet(), IMAGE, LESION, "max", statistics="frozen")
    torch.manual_seed(0)
    hidden = lively(Network(HiddenNorms(), "hidden", window=16, through="windows"))
    with pytest.raises(ValueError, match=r"hidden has .* besides"):
        LesionGradient(hidden, IMAGE, LESION, "max", statistics="frozen")


def test_a_report_keeps_the_worst_and_says_it_in_a_sentence() -> None:
    one = Report(1e-3, 5, 2e-4, 2, {"l2": 3e-4})
    worst = one.worst(Report(1e-3, 7, 1e-4))
    assert worst == Report(1e-3, 7, 2e-4, 2, {"l2": 3e-4})
    assert "7 dense passes" in worst.in_words()
    assert "on 2 voxels taken exactly it is l2 0.0003" in worst.in_words()


def test_blocks_fill_the_box_and_no_block_crosses_a_window() -> None:
    boxes = [Box.of((0, 0, 0), (4, 6, 5)), Box.of((2, 0, 0), (6, 6, 5))]
    part = Part.through([View(box) for box in boxes], np.array([[3, 3, 3]]), (6, 6, 5))
    found = list(farfield.blocks(part, 70))
    count = np.zeros((6, 6, 5), dtype=int)
    for box in found:
        count[box] += 1
        assert box.size <= 70 or box.shape[0] == 1
        assert all((box & other).size in (0, box.size) for other in boxes)
    assert (count == 1).all()
