"""What a caller calls gives the same whatever torch is doing around it, and whatever else its tensors carry."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from ies_helpers import (
    Network,
    Subject,
    find_lesions,
    gradcam_pp,
    gradient,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    peak,
    perilesional_curve,
    plot_saliency,
    predict,
    proportional_energy,
    road,
    smoothgrad,
)
from ies_helpers.arrays import plain
from tests.networks import unet

SAME = 1e-5
"""Of a map's largest value: float32 may round otherwise, and no more."""

IMAGE = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(16, 16, 24, dtype=torch.bool)
MASK[7:9, 7:9, 10:13] = True


@pytest.fixture(scope="module")
def network() -> Network:
    found = unet((3, 4, 5))
    found.module.float()
    return replace(found, window=16, layer="model.1.submodule.0.conv")


DOORS: dict[str, Callable[[Network, torch.Tensor, torch.Tensor], torch.Tensor | np.ndarray]] = {
    "predict": lambda n, x, m: predict(n, x),
    "cone": lambda n, x, m: gradient(n, x, m),
    "crop": lambda n, x, m: gradient(n, x, m, way="crop"),
    "mean": lambda n, x, m: gradient(n, x, m, aggregate="mean"),
    "windows": lambda n, x, m: gradient(n.explained_through("windows"), x, m),
    "smoothgrad": lambda n, x, m: smoothgrad(n, x, m, draws=2),
    "gradcam++": lambda n, x, m: gradcam_pp(n, x, m),
    "input x gradient": lambda n, x, m: input_x_gradient(n, x, m),
    "integrated": lambda n, x, m: integrated_gradients(n, x, m, steps=32, baseline=x * 0 + 0.1).saliency,
    "occlusion": lambda n, x, m: occlusion(n, x, m, side=4, reach=1),
    "perilesional": lambda n, x, m: perilesional_curve(n, x, m, distances=[0, 2], fill="blurred")["score"].to_numpy(),
    "road": lambda n, x, m: road(n, x, m, x, fractions=(0.1, 0.5)).morf,
}


def assert_equal(name: str, got: object, wanted: object, tolerance: float) -> None:
    """Equal but for a share of the largest value."""
    one, other = np.asarray(got), np.asarray(wanted)
    assert np.abs(one - other).max() <= tolerance * np.abs(other).max(), name


@contextmanager
def set_back(change: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: set_back(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: set_back(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "another device": lambda: torch.device("meta"),
    "deterministic": lambda: set_back(torch.use_deterministic_algorithms, True, False),
    "anomalies": torch.autograd.detect_anomaly,
}


@pytest.fixture(scope="module")
def wanted(network: Network) -> dict[str, object]:
    return {name: door(network, IMAGE, MASK) for name, door in DOORS.items()}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_state_of_torch_around_a_call_changes_no_value(context: str, network: Network, wanted) -> None:
    """Half precision moved maps by up to 85 %, and the others ended in a library's words."""
    for name, door in DOORS.items():
        with CONTEXTS[context]():
            got = door(network, IMAGE, MASK)
        assert_equal(name, got, wanted[name], SAME)
        if isinstance(got, torch.Tensor):
            assert (got.dtype, got.device.type, got.is_inference()) == (wanted[name].dtype, "cpu", False), name


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "MONAI's": lambda t: MetaTensor(t.clone(), affine=torch.eye(4)),
    "with a graph": lambda t: t.clone().requires_grad_() * 1 if t.is_floating_point() else t,
    "of inference": lambda t: in_inference(t),
}


def in_inference(values: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return values.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_carry_more_are_taken_for_their_values(kind: str, network: Network, wanted) -> None:
    image, mask = (KINDS[kind](tensor) for tensor in (IMAGE, MASK))
    for name, door in DOORS.items():
        got = door(network, image, mask)
        assert type(got) in (torch.Tensor, np.ndarray), name
        assert not getattr(got, "requires_grad", False), name
        assert_equal(name, got, wanted[name], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_holds_plain_tensors_and_everything_works_on_it(kind: str, network: Network) -> None:
    make = KINDS[kind]
    subject = Subject("p1", make(IMAGE), np.eye(4), target=make(MASK), raw=make(IMAGE))
    assert all(type(t) is torch.Tensor for t in (subject.image, subject.target, subject.raw))
    probability, saliency = make(torch.rand(16, 16, 24, generator=torch.Generator().manual_seed(1))), make(IMAGE)
    found = find_lesions(probability, make(MASK), threshold=0.7)
    assert repr(found) == repr(find_lesions(plain(probability), MASK, threshold=0.7))
    assert proportional_energy(saliency, make(MASK)) == proportional_energy(IMAGE, MASK)
    assert peak(saliency) == peak(IMAGE)
    plot_saliency(subject, saliency, make(MASK))


def test_a_network_that_answers_with_metadata_is_explained(network: Network, wanted) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return MetaTensor(self.inner(x))

    other = replace(network, module=Wrapped(network.module), layer="inner." + (network.layer or ""))
    for name in ("predict", "crop", "gradcam++"):
        got = DOORS[name](other, IMAGE, MASK)
        assert type(got) is torch.Tensor
        assert_equal(name, got, wanted[name], SAME)


def test_a_plain_tensor_is_not_copied() -> None:
    assert plain(IMAGE) is IMAGE
    assert plain([None, "x"]) == [None, "x"]


def test_a_channel_of_zeros_and_a_map_of_zeros_are_drawn() -> None:
    """Percentiles of nothing ended in numpy's words."""
    image = IMAGE.clone()
    image[1] = 0
    subject = Subject("p1", image, np.eye(4))
    for saliency in (IMAGE, torch.zeros_like(IMAGE)):
        assert len(plot_saliency(subject, saliency, MASK).axes) == 7  # two channels, three planes and a bar
