"""The engine does its arithmetic where the network is: run hollow on torch's `meta` device, no step may mix in the CPU.

No GPU is needed, and none was at hand: this shows that the code runs on another device, not how fast.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ies_helpers.saliency.cone import cone_of
from ies_helpers.saliency.frozen import FrozenCone, frozen_cone_of
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.views import Boxed, Largest, add_up, by_autograd, cut, extremes, forward
from tests.networks import nnunet, unet

VOXELS = np.array([[20, 20, 20], [21, 20, 20], [20, 25, 33]])
IMAGE = torch.randn(2, 40, 36, 48)


def hollow(network):
    """The same network without values."""
    return replace(network, module=network.module.to("meta"))


def zeros(sides: tuple[int, ...]) -> torch.Tensor:
    """As the engine makes them, on the device."""
    return torch.zeros(2, *sides, device="meta", dtype=torch.float64)


@pytest.mark.parametrize("make", [unet, lambda: replace(nnunet(), window=32)], ids=["crop", "windows"])
def test_sums_and_maxima_stay_on_the_device(make) -> None:
    network = make()
    parts = LesionGradient(network, IMAGE, VOXELS, "max", way=None if network.window == 32 else "crop").parts
    box = LesionGradient(network, IMAGE, VOXELS, "sum").box
    network = hollow(network)
    image = IMAGE.to("meta")

    def see(view):
        return forward(network, image, view)

    total = Boxed(zeros(box.shape), box)
    for part in parts:
        add_up(total, see, part)
    assert total.values.device.type == "meta"
    largest = Largest(zeros, box)
    for part in parts:
        for where, high, low in extremes(by_autograd(see), part, zeros, 2):
            largest.take(where, high, low)
    assert largest.map().shape == (2, *box.shape)
    assert largest.map().device.type == "meta"


def test_the_cone_stays_on_the_device() -> None:
    network = unet()
    (part,) = LesionGradient(network, IMAGE, VOXELS, "max").parts
    network = hollow(network)
    cone = cone_of(network.module)
    assert cone is not None
    seen = list(cone.extremes(network, IMAGE.to("meta"), part, 2**30))
    assert {high.device.type for _, high, _ in seen} == {"meta"}
    assert cone.summed(network, IMAGE.to("meta"), part)[1].device.type == "meta"
    assert cut(IMAGE, part.views[0].box, network).device.type == "meta"


def test_on_a_gpu_the_batch_follows_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    network = hollow(unet())
    cone = cone_of(network.module)
    assert cone is not None
    (part,) = LesionGradient(unet(), IMAGE, np.argwhere(np.ones((4, 4, 4))) + 18, "max").parts
    sizes: list[int] = []
    backward = cone._backward
    monkeypatch.setattr(cone, "_backward", lambda seed, s: sizes.append(len(seed)) or backward(seed, s))
    for room in (1, 10, 1000):
        sizes.clear()
        list(cone.extremes(network, IMAGE.to("meta"), part, room * cone.values() * 8))
        assert max(sizes) == min(room, max(sizes))
        assert sum(sizes) == 64
    assert max(sizes) > 10


def test_on_a_gpu_the_batch_of_the_frozen_cone_follows_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nnunet().explained_through("whole")
    lesion = np.argwhere(np.ones((4, 4, 4))) + 18
    engine = LesionGradient(network, IMAGE, lesion, "max", statistics="frozen")
    (view,), held = engine.parts[0].views, engine.frozen
    assert held is not None
    held.record(IMAGE, engine.parts)
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
