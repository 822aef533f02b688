"""The aggregated gradient of a lesion: closed forms, the plain loop over voxels, finite differences, scarce memory."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradient, predict
from ies_helpers.saliency import gradients
from ies_helpers.saliency import views as aggregates
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.nearfield import Graph
from ies_helpers.saliency.views import crop_part
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.network import one_class
from ies_helpers.teaching import Linear, Neighbourhood, Quadratic, Shifted
from tests import oracles
from tests.networks import nnunet, unet

EXACT = 1e-10
"""Float64, relative to the largest value: rounding alone."""

SINGLE = 1e-4
"""Float32, relative to the largest value: rounding, and a slope that it may flip."""

HOW = ("mean", "sum", "max")
LESION = np.array([[30, 20, 31], [31, 20, 31], [32, 21, 33], [31, 15, 31], [31, 16, 32], [47, 48, 40]])
CORNERS = np.array([[0, 0, 0], [0, 1, 0], [63, 63, 63], [63, 0, 62]])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 64, 64, 64, dtype=torch.float64)


def full(engine: LesionGradient, image: torch.Tensor) -> torch.Tensor:
    """The engine's result on the whole volume, in its own precision."""
    whole = torch.zeros_like(image)
    whole[(slice(None), *engine.box)] = engine(image)
    return whole


@pytest.mark.parametrize(("how", "factor"), [("mean", 1 / 6), ("sum", 1.0), ("max", 1.0)])
def test_a_linear_network_gives_back_its_weights_on_the_lesion_and_zero_elsewhere(
    image: torch.Tensor, how: gradients.Aggregate, factor: float
) -> None:
    wanted = torch.zeros(2, 64, 64, 64)
    wanted[(slice(None), *torch.as_tensor(LESION).T)] = torch.tensor([2.0, -1.0])[:, None] * factor
    assert torch.allclose(gradient(Linear((2.0, -1.0)), image.float(), LESION, aggregate=how), wanted)


def test_a_quadratic_network_gives_twice_the_image(image: torch.Tensor) -> None:
    got = gradient(Quadratic(), image, LESION, aggregate="sum")
    index = (slice(None), *torch.as_tensor(LESION).T)
    assert torch.allclose(got[index], 2 * image.float()[index])
    assert int((got != 0).sum()) == 2 * len(LESION)


def test_a_network_that_looks_elsewhere_is_caught_elsewhere(image: torch.Tensor) -> None:
    got = gradient(Shifted(steps=5, gain=3.0), image.float(), LESION, aggregate="max")
    wanted = torch.zeros(2, 64, 64, 64)
    wanted[(0, *torch.as_tensor(LESION + np.array([5, 0, 0])).T)] = 3.0
    assert torch.equal(got, wanted)


def test_the_sum_counts_neighbours_where_the_max_does_not(image: torch.Tensor) -> None:
    pair = np.array([[10, 10, 10], [11, 10, 10]])
    total = gradient(Neighbourhood(), image.float(), pair, aggregate="sum")[0]
    largest = gradient(Neighbourhood(), image.float(), pair, aggregate="max")[0]
    assert [float(total[i, 10, 10]) for i in range(8, 14)] == [0, 1, 2, 2, 1, 0]
    assert [float(largest[i, 10, 10]) for i in range(8, 14)] == [0, 1, 1, 1, 1, 0]


def test_the_max_keeps_the_sign_of_the_larger_gradient() -> None:
    class Signed(torch.nn.Module):
        """Logit k sees voxel 4 alone, with weight (1, -3, 2)[k - 3]: at voxel 4 the max must be -3."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.zeros(x.shape[-1]).index_copy_(0, torch.tensor([3, 4, 5]), torch.tensor([1.0, -3.0, 2.0]))
            logit = x[:, 0, ..., 4:5] * weights
            return torch.stack([logit, logit], dim=1)

    # A functional network, no leaf to probe: seen whole.
    network = Network(Signed(), stride=(1, 1, 1))
    got = gradient(network, torch.randn(1, 8, 8, 8), np.array([[2, 2, 3], [2, 2, 4], [2, 2, 5]]), aggregate="max")
    assert float(got[0, 2, 2, 4]) == -3.0
    assert int((got != 0).sum()) == 1


@pytest.mark.parametrize("lesion", [LESION, CORNERS], ids=["inside", "corners"])
@pytest.mark.parametrize("how", HOW)
def test_the_crop_agrees_with_the_loop_on_the_whole_volume(
    image: torch.Tensor, how: gradients.Aggregate, lesion: np.ndarray
) -> None:
    network = unet()
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network), image, lesion), how)
    engine = LesionGradient(network, image, lesion, how, way="crop")
    assert engine.way == "crop"
    assert oracles.relative(full(engine, image), wanted) < EXACT
    network.module.float()
    assert (
        oracles.relative(full(LesionGradient(network, image.float(), lesion, how, way="crop"), image.float()), wanted)
        < SINGLE
    )


@pytest.mark.parametrize("how", HOW)
def test_sides_that_are_no_multiple_of_the_stride_are_padded_at_their_end(how: gradients.Aggregate) -> None:
    image = torch.randn(2, 50, 41, 70, dtype=torch.float64)
    lesion = np.array([[49, 40, 69], [49, 39, 69], [33, 20, 2]])
    network = unet()
    wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network), image, lesion), how)
    assert oracles.relative(full(LesionGradient(network, image, lesion, how), image), wanted) < EXACT


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_agree_with_autograd_through_the_inferer(overlap: float, weighting) -> None:
    image = torch.randn(2, 40, 33, 48, dtype=torch.float64)
    lesion = np.array([[12, 16, 24], [13, 16, 24], [20, 32, 30], [39, 0, 47], [0, 20, 11]])
    network = replace(nnunet(), window=24, overlap=overlap, weighting=weighting)
    wanted = oracles.voxel_gradients(oracles.blended(network), image, lesion)
    for how in HOW:
        engine = LesionGradient(network, image, lesion, how, accuracy="exact")
        assert engine.way == "windows"
        assert oracles.relative(full(engine, image), oracles.aggregate(wanted, how)) < EXACT


def test_a_window_as_large_as_the_image_is_the_whole_image() -> None:
    image = torch.randn(2, 32, 32, 32, dtype=torch.float64)
    lesion = np.array([[12, 16, 24], [13, 16, 24]])
    windowed = replace(nnunet(), window=32)
    seen = [
        full(LesionGradient(n, image, lesion, "max"), image) for n in (windowed, windowed.explained_through("whole"))
    ]
    assert oracles.relative(seen[0], seen[1]) < EXACT


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_finite_differences_agree_with_the_sum(through) -> None:
    image = torch.randn(2, 48, 48, 48, dtype=torch.float64)
    network = replace(unet(), window=32, overlap=0.5).explained_through(through)
    lesion = np.array([[20, 20, 20], [21, 20, 20], [20, 22, 30]])
    at = np.array([[0, 20, 20, 20], [1, 20, 20, 20], [0, 21, 19, 22], [1, 10, 30, 25], [0, 40, 20, 20]])
    logits = {"whole": oracles.whole, "windows": oracles.blended}[through](network)
    wanted = oracles.finite_difference(logits, image, lesion, at)
    got = full(LesionGradient(network, image, lesion, "sum"), image)[tuple(torch.as_tensor(at).T)]
    assert oracles.relative(got, wanted) < 1e-7  # a central difference of step 1e-5 in float64


def test_a_smaller_budget_changes_nothing() -> None:
    image, long = torch.randn(2, 48, 48, 96, dtype=torch.float64), np.array([[20, 20, k] for k in range(20, 90, 15)])
    single = max(LesionGradient(unet(), image, v[None], "mean").need for v in long)
    roomy = LesionGradient(unet(), image, long, "mean")
    small = LesionGradient(unet(), image, long, "mean", budget=single)
    assert oracles.relative(full(small, image), full(roomy, image)) < EXACT
    assert len(small.parts) > len(roomy.parts) == 1


def test_a_budget_that_just_suffices_changes_no_maximum_through_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer voxels are taken at once."""
    image, pair = torch.randn(2, 24, 24, 36, dtype=torch.float64), np.array([[10, 10, 14], [10, 11, 17], [12, 3, 16]])
    windows, taken, added = replace(nnunet(), window=24, overlap=0.5), [], aggregates.added_by_voxel
    roomy = LesionGradient(windows, image, pair, "max")
    small = LesionGradient(windows, image, pair, "max", budget=roomy.need)
    small.budget = small._gradient_bytes(small.parts[0])
    monkeypatch.setattr(aggregates, "added_by_voxel", lambda *args: taken.append(len(args[2])) or added(*args))
    assert oracles.relative(full(small, image), full(roomy, image)) < EXACT
    assert set(taken[:3]) == {1}
    assert taken[3:] == [3]


def test_a_budget_below_one_window_is_refused_and_the_need_is_told(image: torch.Tensor) -> None:
    windows = replace(nnunet(), window=32, overlap=0.5)
    need = LesionGradient(windows, image, LESION, "max").need
    assert need > 32**3 * 8 * 3  # at least the three features of its first layer
    with pytest.raises(ValueError, match=f"one forward pass and one gradient, {need} bytes for nnunet here; got 1000"):
        LesionGradient(windows, image, LESION, "max", budget=1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_with_the_measured_reason(image: torch.Tensor, dtype: torch.dtype) -> None:
    network = unet()
    network.module.to(dtype)
    with pytest.raises(ValueError, match=r"need float32 or float64, unet is torch.*float16: near-ties .* 12 to 97 %"):
        gradient(network, image, LESION)


def test_a_network_that_works_in_place_changes_neither_image_nor_gradient(image: torch.Tensor) -> None:
    class InPlace(Linear):
        def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
            return super().lesion_logit(x.mul_(2.0))

    before = image.clone().float()
    got = gradient(InPlace((2.0, -1.0)), image.float(), LESION, aggregate="sum")
    assert torch.equal(image.float(), before)
    assert [float(got[c, 30, 20, 31]) for c in (0, 1)] == [4.0, -2.0]


def test_a_lesion_that_fills_a_window_and_a_field_beyond_the_volume() -> None:
    image = torch.randn(2, 16, 16, 16, dtype=torch.float64)
    lesion = np.argwhere(np.ones((16, 16, 16)))[::97]
    network = unet()  # its field of 80 voxels exceeds the volume
    for network in (unet(), replace(nnunet(), window=16)):
        loop = (oracles.whole if network.through == "whole" else oracles.blended)(network)
        wanted = oracles.aggregate(oracles.voxel_gradients(loop, image, lesion), "max")
        assert oracles.relative(full(LesionGradient(network, image, lesion, "max"), image), wanted) < EXACT


def test_active_dropout_is_put_to_rest(image: torch.Tensor) -> None:
    module = torch.nn.Sequential(torch.nn.Conv3d(2, 2, 1), torch.nn.Dropout(0.9)).train()
    wanted = module[0].weight[1, :, 0, 0, 0].detach()
    got = gradient(module, image.float(), LESION)
    assert torch.allclose(got[:, 30, 20, 31], wanted)
    assert module.training


def test_running_out_of_memory_halves_the_work_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    image, lesion = torch.randn(2, 24, 24, 36, dtype=torch.float64), np.array([[10, 10, k] for k in range(13, 18)])
    network = replace(nnunet(), window=24, overlap=0.5)
    wanted = full(LesionGradient(network, image, lesion, "max", accuracy="exact"), image)
    added, sizes = aggregates.added_by_voxel, []

    def scarce(see, part, voxels: np.ndarray, zeros) -> torch.Tensor:
        sizes.append(len(voxels))
        if len(voxels) > 1:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return added(see, part, voxels, zeros)

    monkeypatch.setattr(aggregates, "added_by_voxel", scarce)
    assert torch.equal(full(LesionGradient(network, image, lesion, "max", accuracy="exact"), image), wanted)
    assert max(sizes) > 1


def test_out_of_memory_on_the_crop_splits_the_lesion(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = gradients.forward

    def scarce(network: Network, padded: torch.Tensor, view) -> tuple[torch.Tensor, torch.Tensor]:
        if view.box[1].stop - view.box[1].start > 48:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return forward(network, padded, view)

    lesion = np.array([[2, 2, 2], [2, 60, 2]])
    wanted = full(LesionGradient(unet(), image, lesion, "mean"), image)
    monkeypatch.setattr(gradients, "forward", scarce)
    engine = LesionGradient(unet(), image, lesion, "mean", way="crop")
    assert oracles.relative(full(engine, image), wanted) < EXACT
    assert len(engine.parts) == 2


def test_out_of_memory_in_the_cone_splits_the_lesion(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Graph.__init__

    def scarce(graph: Graph, x: torch.Tensor, *more: object) -> None:
        if x.shape[3] > 48:
            raise torch.cuda.OutOfMemoryError("no memory left")
        init(graph, x, *more)  # pyright: ignore[reportArgumentType]

    lesion = np.array([[2, 2, 2], [2, 60, 2]])
    wanted = full(LesionGradient(unet(), image, lesion, "max", way="crop"), image)
    engine = LesionGradient(unet(), image, lesion, "max")
    engine.parts = [crop_part(receptive_field(unet(), 2), image.shape[1:], lesion)]  # one crop for both
    monkeypatch.setattr(Graph, "__init__", scarce)
    assert oracles.relative(full(engine, image), wanted) < EXACT
    assert len(engine.parts) == 2


def test_the_network_and_the_image_come_back_as_they_were(image: torch.Tensor) -> None:
    module = unet().module.train()
    module.model[0].eval()  # one part frozen by its owner
    first = next(module.parameters()).requires_grad_()
    first.grad = torch.ones_like(first)
    modes, before = [m.training for m in module.modules()], image.clone()
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules())
    gradient(module, image, LESION, aggregate="max")
    with pytest.raises(ValueError, match="inside the image"):
        gradient(module, image, LESION + 60)
    assert [m.training for m in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()].count(True) == 1
    assert torch.equal(first.grad, torch.ones_like(first))
    assert torch.equal(image, before)
    assert not image.requires_grad
    assert sum(len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules()) == hooks


def test_a_training_network_is_explained_in_evaluation_mode(image: torch.Tensor) -> None:
    network = unet()
    wanted = gradient(network, image, LESION)
    network.module.train()
    assert torch.equal(gradient(network, image, LESION), wanted)


def test_masks_lesions_and_voxels_say_the_same(image: torch.Tensor) -> None:
    mask = np.zeros((64, 64, 64), dtype=bool)
    mask[tuple(LESION.T)] = True
    by_voxels = gradient(Quadratic(), image, LESION)
    assert torch.equal(gradient(Quadratic(), image, mask), by_voxels)
    assert torch.equal(gradient(Quadratic(), image, torch.from_numpy(mask)), by_voxels)


@pytest.mark.parametrize(
    ("lesion", "why"),
    [
        (np.zeros((64, 64, 64), dtype=bool), "at least one voxel, got none"),
        (np.array([[1, 2, 3], [1, 2, 3]]), "each voxel once"),
        (np.array([[1, 2, -3]]), "inside the image"),
        (np.zeros((8, 8, 8), dtype=bool), "boolean mask of shape"),
        (np.ones((64, 64, 64)), "boolean mask of shape"),
    ],
)
def test_what_is_no_lesion_is_refused(image: torch.Tensor, lesion: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gradient(Quadratic(), image, lesion)


def test_the_way_is_chosen_by_looking_at_the_network(image: torch.Tensor) -> None:
    windows = replace(nnunet(), window=32)
    cases = [
        (unet(), "max", "cone"),
        (unet(), "mean", "crop"),
        (replace(unet(), window=32).explained_through("windows"), "max", "fields"),
        (windows, "max", "fields"),
        (windows, "mean", "windows"),
        (windows.explained_through("whole"), "mean", "whole"),
        (Quadratic(), "max", "crop"),
    ]
    assert [LesionGradient(n, image, NEIGHBOURS, how).way for n, how, _ in cases] == [way for _, _, way in cases]
    with pytest.raises(ValueError, match="unet seen whole can be explained by cone or crop, got 'windows'"):
        gradient(unet(), image, LESION, way="windows")


def test_other_mistakes_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="aggregate must be one of mean, sum, max, got 'median'"):
        gradient(Quadratic(), image, LESION, aggregate="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"\(C, I, J, K\), got \(1, 2, 64, 64, 64\)"):
        gradient(Quadratic(), image[None], LESION)
    with pytest.raises(ValueError, match="must be finite"):
        gradient(Quadratic(), image * float("nan"), LESION)
    with pytest.raises(TypeError, match=r"Network or a torch\.nn\.Module, got str"):
        gradient("unet", image, LESION)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", ["cone", "crop", "windows"])
def test_a_network_whose_logits_are_not_finite_has_no_map(image: torch.Tensor, way, how: gradients.Aggregate) -> None:
    """The slopes of its activations are finite, and so would be the gradient."""
    network = unet((3, 4, 5))
    if way == "windows":
        network = replace(network, window=32, through="windows")
    network.module.model[0].conv.bias[0] = float("nan")
    with pytest.raises(ValueError, match="must be finite; unet gave NaN or infinity"):
        gradient(network, image, LESION, aggregate=how, way=way)


def test_an_infinite_gradient_of_finite_logits_is_no_map() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1].sqrt()

    network = Network(Root(), "root", stride=(1, 1, 1))
    image = torch.zeros(1, 6, 6, 6)
    assert torch.isfinite(predict(network, image)).all()
    with pytest.raises(ValueError, match="gradients must be finite; root gave NaN or infinity"):
        gradient(network, image, np.array([[2, 2, 2]]))


@pytest.mark.parametrize(("way", "how"), [("cone", "max"), ("crop", "max"), ("crop", "sum")])
def test_a_caller_who_wants_no_gradients_gets_the_map_all_the_same(way, how: gradients.Aggregate) -> None:
    network, image = unet((3, 4, 5)), torch.randn(2, 16, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        got = gradient(network, image, np.array([[7, 8, 9]]), aggregate=how, way=way)
    assert torch.equal(got, gradient(network, image, np.array([[7, 8, 9]]), aggregate=how, way=way))


NEIGHBOURS = np.argwhere(np.ones((3, 3, 2))) + np.array([30, 20, 31])


def scarce(monkeypatch: pytest.MonkeyPatch, place: object, name: str, most: int, count: Callable) -> list[int]:
    """`place.name` runs out of memory when `count` of its arguments is above `most`; gives every count."""
    real, sizes = getattr(place, name), []

    def limited(*arguments: object) -> object:
        sizes.append(count(*arguments))
        if sizes[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has no more.")
        return real(*arguments)

    monkeypatch.setattr(place, name, limited)
    return sizes


def test_the_cone_halves_its_batches_down_to_one_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    wanted = LesionGradient(unet(), image, NEIGHBOURS, "max")(image)
    engine = LesionGradient(unet(), image, NEIGHBOURS, "max")
    assert engine.way == "cone"
    sizes = scarce(monkeypatch, Graph, "back", 2, lambda graph, seed: len(seed.values))  # one voxel is padded to two
    got = engine(image)
    assert sizes[0] > 2
    assert sizes[-1] == 2
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.abs().max())
    sizes.clear()
    engine(image)
    assert set(sizes) == {2}  # what was learnt stays learnt


def test_a_gradient_that_fits_in_no_way_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    network = replace(nnunet(), window=32, overlap=0.5)
    engines = {
        "cone": LesionGradient(unet(), image, NEIGHBOURS, "max"),
        "crop": LesionGradient(unet(), image, NEIGHBOURS, "mean", way="crop"),
        "windows": LesionGradient(network, image, NEIGHBOURS, "max", accuracy="exact"),
    }
    scarce(monkeypatch, Graph, "back", 0, lambda *_: 1)
    scarce(monkeypatch, gradients, "forward", 0, lambda *_: 1)
    for way, engine in engines.items():
        rule = rf"The gradient of \w+ by {way} on cpu does not fit in memory \(tried to allocate 20.00 mib\): free some"
        with pytest.raises(MemoryError, match=rule):
            engine(image)


def test_what_no_smaller_budget_can_help_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    engine = LesionGradient(replace(nnunet(), window=32), image, NEIGHBOURS, "mean")
    tries = scarce(monkeypatch, aggregates, "_summed", 0, lambda *_: 1)
    with pytest.raises(MemoryError, match="by windows on cpu does not fit"):
        engine(image)
    assert len(tries) == 1


def test_another_error_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    engine = LesionGradient(unet(), image, NEIGHBOURS, "mean", way="crop")

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(gradients, "forward", broken)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        engine(image)


CLASSES = {
    "cone": lambda: unet((3, 4, 5), outputs=3),
    "crop": lambda: unet((3, 4, 5), outputs=3),
    "windows": lambda: replace(nnunet(outputs=3), window=16),
}


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("way", CLASSES)
def test_each_class_of_three_has_its_own_gradient_by_every_way(way, number: int) -> None:
    network = one_class(CLASSES[way](), number)
    image, voxels = torch.randn(2, 16, 16, 20, dtype=torch.float64), np.array([[7, 8, 9], [0, 11, 15]])
    logits = oracles.blended(network) if way == "windows" else oracles.whole(network, 4)
    gradients = oracles.voxel_gradients(logits, image, voxels)
    for how in HOW if way != "cone" else ["max"]:
        engine = LesionGradient(network, image, voxels, how, way=way)
        assert oracles.relative(full(engine, image), oracles.aggregate(gradients, how)) < EXACT


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["cone", "crop", "windows", "whole"])
def test_any_number_of_channels_will_do_by_every_way(way, channels: int) -> None:
    network = unet((3, 4, 5), inputs=channels) if way in ("cone", "crop") else nnunet(inputs=channels)
    if way == "windows":
        network = replace(network, window=16)
    image = torch.randn(channels, 16, 16, 20, dtype=torch.float64)
    voxels = np.array([[7, 8, 9], [0, 11, 15]])
    network = network.explained_through("windows" if way == "windows" else "whole")
    logits = oracles.blended(network) if way == "windows" else oracles.whole(network, 4)
    gradients = oracles.voxel_gradients(logits, image, voxels)
    for how in HOW if way != "cone" else ["max"]:
        engine = LesionGradient(network, image, voxels, how, way=way)
        assert engine.way == way
        assert oracles.relative(full(engine, image), oracles.aggregate(gradients, how)) < EXACT


@pytest.mark.parametrize("network", [unet((3, 4, 5)), replace(nnunet(), window=16)], ids=["whole", "windows"])
def test_a_class_beyond_the_head_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match=r"below the 2 classes that .*-class2 puts out, got 2"):
        gradient(one_class(network, 2), torch.randn(2, 16, 16, 16), np.array([[7, 8, 9]]))
