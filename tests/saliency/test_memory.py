"""Out of memory: recognised from every library, the work halved down to one voxel, then one sentence."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ies_helpers.saliency import gradients
from ies_helpers.saliency import views as aggregates
from ies_helpers.saliency.cone import Cone
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.views import does_not_fit, out_of_memory
from tests.networks import nnunet, unet

EXACT = 1e-10
"""Float64, relative to the largest value: convolutions of other sizes add up in another order."""

LESION = np.argwhere(np.ones((3, 3, 2))) + np.array([30, 20, 31])


def test_torch_says_on_this_machine_what_is_taken_for_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    told = str(does_not_fit("A map", "take less", caught.value))
    assert told == f"A map does not fit in memory (tried to allocate {2**60} bytes): take less."


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_only_a_lack_of_memory_counts_as_one(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) is is_memory


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
    wanted = LesionGradient(unet(), image, LESION, "max")(image)
    engine = LesionGradient(unet(), image, LESION, "max")
    assert engine.way == "cone"
    engine(image)  # the network is known by now
    sizes = scarce(monkeypatch, Cone, "_backward", 1, lambda cone, seed, slopes: len(seed))
    got = engine(image)
    assert sizes[0] > 1
    assert sizes[-1] == 1
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.abs().max())
    sizes.clear()
    engine(image)
    assert set(sizes) == {1}  # what was learnt stays learnt


def test_a_gradient_that_fits_in_no_way_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    network = replace(nnunet(), window=32, overlap=0.5)
    engines = {
        "cone": LesionGradient(unet(), image, LESION, "max"),
        "crop": LesionGradient(unet(), image, LESION, "mean", way="crop"),
        "windows": LesionGradient(network, image, LESION, "max"),
    }
    scarce(monkeypatch, Cone, "look", 0, lambda *_: 1)
    scarce(monkeypatch, gradients, "forward", 0, lambda *_: 1)
    for way, engine in engines.items():
        rule = rf"The gradient of \w+ by {way} on cpu does not fit in memory \(tried to allocate 20.00 mib\): free some"
        with pytest.raises(MemoryError, match=rule):
            engine(image)


def test_what_no_smaller_budget_can_help_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    engine = LesionGradient(replace(nnunet(), window=32), image, LESION, "mean")
    tries = scarce(monkeypatch, aggregates, "_summed", 0, lambda *_: 1)
    with pytest.raises(MemoryError, match="by windows on cpu does not fit"):
        engine(image)
    assert len(tries) == 1


def test_another_error_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 64, 64, 64, dtype=torch.float64)
    engine = LesionGradient(unet(), image, LESION, "mean", way="crop")

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(gradients, "forward", broken)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        engine(image)
