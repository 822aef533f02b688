"""What a machine can do at most, convolving and copying in float32, and what one voxel's gradient asks of it."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from ies_helpers import Network
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.nearfield import LAST, Graph, Node, Rows, seen, shape_of
from ies_helpers.segmentation.network import at_rest
from tests.bench.measure import timed

LARGE = ((32, 64), (64, 48), (128, 24), (256, 16))
"""Channels and sides of the convolutions of which the fastest is the machine's peak."""

REPEATS = 3


@functools.cache
def convolution_peak(device: str = "cpu", sizes: tuple[tuple[int, int], ...] = LARGE) -> float:
    """GFLOP/s of the fastest of some large 3^3 convolutions, TF32 off, with the threads that are set."""
    best = 0.0
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for channels, side in sizes:
            for layout in (torch.contiguous_format, LAST):
                x = torch.randn(1, channels, side, side, side, device=device).contiguous(memory_format=layout)
                w = torch.randn(channels, channels, 3, 3, 3, device=device).contiguous(memory_format=layout)
                seconds = min(timed(lambda x=x, w=w: F.conv3d(x, w, padding=1)) for _ in range(1 + REPEATS))
                best = max(best, 2e-9 * channels**2 * 27 * side**3 / seconds)
    return best


def bandwidth(device: str = "cpu", values: int = 2**26) -> float:
    """GB/s of a copy of so many float32 values, read and written."""
    x = torch.ones(values, device=device)
    y = torch.empty_like(x)
    return 8e-9 * values / min(timed(lambda: y.copy_(x)) for _ in range(1 + REPEATS))


def work_of_a_voxel(network: Network, image: torch.Tensor, voxels: np.ndarray) -> float:
    """GFLOP of one voxel's backward pass on the positions that it reaches: its share of a dense pass, times that."""
    (part, *_), first = LesionGradient(network, image, voxels[:1], "max").parts, np.array([0])
    with at_rest(network):
        x, logits = seen(network, image, part.views[0])
        seed = Rows.of(part.voxels).seed(part.views[0], logits, first)
        graph = Graph(x, logits)
        assert seed is not None
        with torch.no_grad():
            graph.back(seed[0])
        return 2e-9 * graph.share * sum(map(_multiplications, graph.order))


def _multiplications(node: Node) -> int:
    convolution = node.name() == "ConvolutionBackward0"
    return int(np.prod(shape_of(node)[2:])) * node._saved_weight.numel() if convolution else 0


def bound(network: Network, image: torch.Tensor, voxels: np.ndarray, seconds: float) -> str:
    """How near `seconds` for all voxels come to the time that their arithmetic takes at the machine's peak."""
    each, peak = work_of_a_voxel(network, image, voxels), convolution_peak(network.device.type)
    least = len(voxels) * each / peak
    return f"{each:.3f} GFLOP each, {least:.3g} s at {peak:.0f} GFLOP/s: {100 * least / seconds:.0f} % of the bound"
