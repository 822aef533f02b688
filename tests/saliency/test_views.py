"""Views: windows against MONAI's own inferer, sums and maxima on any device, and running out of memory."""

import platform
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.views import (
    Boxed,
    Largest,
    add_up,
    by_autograd,
    does_not_fit,
    extremes,
    forward,
    out_of_memory,
    window_parts,
    window_views,
)
from tests.networks import hollow, nnunet, unet


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
def test_shares_add_up_to_the_blended_output(weighting) -> None:
    """Each window answers with its own number; the inferer's blend is the sum of number times share."""
    shape, numbers = (40, 33, 24), []

    def number(x: torch.Tensor) -> torch.Tensor:
        numbers.append(float(len(numbers) + 1))
        return torch.full_like(x[:, :1], numbers[-1])

    zero = torch.zeros(1, 1, *shape, dtype=torch.float64)
    wanted = sliding_window_inference(zero, (24,) * 3, 1, number, overlap=0.5, mode=weighting)[0, 0]  # pyright: ignore
    network = replace(nnunet(), window=24, overlap=0.5, weighting=weighting)
    views = window_views(network, shape, np.argwhere(np.ones(shape)))
    got = torch.zeros(shape, dtype=torch.float64)
    for n, view in zip(numbers, views, strict=True):
        got[view.box] += n * view.weight
    assert torch.allclose(got, wanted, rtol=1e-12)


def test_only_windows_that_hold_a_voxel_are_looked_through() -> None:
    network = replace(nnunet(), window=96)
    corner = window_views(network, (182, 218, 182), np.array([[0, 0, 0]]))
    assert [v.box for v in corner] == [(slice(0, 96),) * 3]
    middle = window_views(network, (182, 218, 182), np.array([[90, 90, 90]]))
    assert len(middle) == 3 * 2 * 3


def test_parts_group_voxels_by_their_windows() -> None:
    network = replace(nnunet(), window=24, overlap=0.25)
    voxels = np.array([[0, 0, 0], [1, 1, 1], [20, 0, 0], [39, 0, 0]])
    parts = window_parts(network, (40, 24, 24), voxels)
    assert sorted((len(p.voxels), len(p.views)) for p in parts) == [(1, 1), (1, 3), (2, 1)] or sorted(
        (len(p.voxels), len(p.views)) for p in parts
    ) == [(1, 1), (1, 2), (2, 1)]
    for part in parts:
        assert all(view.holds(part.voxels).all() for view in part.views)
    assert sum(len(p.voxels) for p in parts) == 4


VOXELS = np.array([[20, 20, 20], [21, 20, 20], [20, 25, 33]])
IMAGE = torch.randn(2, 40, 36, 48)


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


KEPT = """
import resource
from pathlib import Path
import numpy as np
from ies_helpers.saliency.views import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**23, np.float64)[::512] = 1  # 64 MiB, every page of it
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

print(faults(), held())
with freed_memory_kept():
    faults()
    print(faults(), held())
print(faults(), held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_that_is_freed_is_kept_for_the_next_pass_and_then_given_back() -> None:
    """In a process of its own, whose memory nobody else asks for."""
    said = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, timeout=60)
    (outside, before), (again, kept), (after, back) = (map(int, line.split()) for line in said.stdout.splitlines())
    assert again < outside / 4
    assert after > outside / 2
    assert kept - before > 2**25 > back - before
