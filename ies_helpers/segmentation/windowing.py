"""Where a sliding window stops, and how much each stop counts, as MONAI's inferer or nnU-Net has it."""

import functools
import itertools
import math

import numpy as np
import torch
from scipy import ndimage

from ies_helpers.segmentation.networks import Network
from ies_helpers.types import Box

SIGMA = 0.125
"""Standard deviation of the gaussian weights, as a share of the window's side."""


def window_boxes(network: Network, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """The windows of a network on a volume `(I, J, K)`."""
    assert network.sides is not None
    return _boxes(shape, network.sides, network.overlap, network.placing)


def importance(network: Network) -> torch.Tensor:
    """Float64 weight of each voxel of a window, `(w, w, w)` or as large as its sides."""
    assert network.sides is not None
    return _importance(network.sides, network.weighting, network.placing)


def total_importance(network: Network, shape: tuple[int, ...]) -> torch.Tensor:
    """`(I, J, K)` float64: the sum of all windows' importance."""
    assert network.sides is not None
    return _total(shape, network.sides, network.overlap, network.weighting, network.placing)


@functools.lru_cache(maxsize=8)
def _boxes(shape: tuple[int, ...], sides: tuple[int, ...], overlap: float, placing: str) -> tuple[Box, ...]:
    if placing == "nnunet":
        starts = [_nnunet_starts(n, w, overlap) for n, w in zip(shape, sides, strict=True)]
        return tuple(
            tuple(slice(s, s + w) for s, w in zip(corner, sides, strict=True)) for corner in itertools.product(*starts)
        )  # pyright: ignore[reportReturnType]
    from monai.data.utils import dense_patch_slices  # MONAI takes seconds

    steps = [w if n == w else max(1, int(w * (1 - overlap))) for n, w in zip(shape, sides, strict=True)]
    return tuple(dense_patch_slices(shape, sides, steps, return_slice=True))  # pyright: ignore[reportReturnType]


def _nnunet_starts(length: int, side: int, overlap: float) -> list[int]:
    """Equal steps of at most (1 - overlap) x side, rounded; the last window ends with the volume."""
    count = math.ceil((length - side) / (side * (1 - overlap))) + 1
    step = (length - side) / max(count - 1, 1)
    return [int(np.round(step * n)) for n in range(count)]


@functools.lru_cache(maxsize=8)
def _importance(sides: tuple[int, ...], weighting: str, placing: str) -> torch.Tensor:
    """Constant, or a gaussian of sigma w/8: MONAI's is at least 1e-3, nnU-Net's peaks at w // 2 and is never 0."""
    if placing == "monai" or weighting == "constant":
        from monai.data.utils import compute_importance_map  # MONAI takes seconds

        return compute_importance_map(sides, mode=weighting, sigma_scale=SIGMA).double()
    weight = np.zeros(sides)
    weight[tuple(w // 2 for w in sides)] = 1
    weight = ndimage.gaussian_filter(weight, [SIGMA * w for w in sides], mode="constant")
    weight *= 10 / weight.max()
    return torch.from_numpy(np.where(weight == 0, weight[weight > 0].min(), weight))


@functools.lru_cache(maxsize=2)
def _total(
    shape: tuple[int, ...], sides: tuple[int, ...], overlap: float, weighting: str, placing: str
) -> torch.Tensor:
    total = torch.zeros(shape, dtype=torch.float64)
    for box in _boxes(shape, sides, overlap, placing):
        total[box] += _importance(sides, weighting, placing)
    return total
