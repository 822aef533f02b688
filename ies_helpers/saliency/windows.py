"""Any network through a sliding window: only the windows that hold lesion voxels, with exact weights.

The blended output is sum_w g_w f_w / sum_w g_w, a fixed weighted sum of windows f_w. The gradient of the
logit at a voxel v is therefore the sum over the windows that hold v of g_w(v) / sum_w g_w(v) times the
gradient of that window's logit. Windows are placed and weighted as MONAI's inferer does.
"""

import functools
from collections.abc import Sequence

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

from ies_helpers.saliency.views import Part, View, hull, together
from ies_helpers.segmentation.inference import check_window
from ies_helpers.segmentation.networks import Network
from ies_helpers.types import Box, Voxels


@functools.lru_cache(maxsize=8)
def window_boxes(shape: tuple[int, ...], window: int, overlap: float) -> tuple[Box, ...]:
    """Where the windows lie on a volume `(I, J, K)`, as MONAI's inferer places them."""
    step = max(1, int(window * (1 - overlap)))
    interval = [window if n == window else step for n in shape]
    return tuple(dense_patch_slices(shape, (window,) * 3, interval, return_slice=True))  # pyright: ignore[reportReturnType]


@functools.lru_cache(maxsize=8)
def importance(window: int, weighting: str) -> torch.Tensor:
    """`(w, w, w)` float64 weight of each voxel of a window: constant, or a gaussian of sigma w/8 above 1e-3."""
    return compute_importance_map((window,) * 3, mode=weighting, sigma_scale=0.125).double()


@functools.lru_cache(maxsize=2)
def total_importance(shape: tuple[int, ...], window: int, overlap: float, weighting: str) -> torch.Tensor:
    """`(I, J, K)` float64: the sum of all windows' importance."""
    total = torch.zeros(shape, dtype=torch.float64)
    for box in window_boxes(shape, window, overlap):
        total[box] += importance(window, weighting)
    return total


def window_views(network: Network, shape: Sequence[int], voxels: Voxels) -> list[View]:
    """The windows that hold any of `voxels`, with their share of the blended logits."""
    assert network.window is not None
    check_window(network, tuple(shape), network.window)
    views = [View(box) for box in window_boxes(tuple(shape), network.window, network.overlap)]
    total = total_importance(tuple(shape), network.window, network.overlap, network.weighting)
    weight = importance(network.window, network.weighting)
    return [View(view.box, weight / total[view.box]) for view in views if bool(view.holds(voxels).any())]


def window_part(network: Network, shape: Sequence[int], voxels: Voxels) -> Part:
    """All `voxels` through all their windows."""
    views = window_views(network, shape, voxels)
    return Part(voxels, views, hull([v.box for v in views], shape))


def window_parts(network: Network, shape: Sequence[int], voxels: Voxels) -> list[Part]:
    """One part for each set of windows that voxels share, so that a part's hull is as small as can be."""
    views = window_views(network, shape, voxels)
    held = torch.stack([view.holds(voxels) for view in views], dim=1).numpy()
    parts = []
    for row, some in together(voxels, held):
        chosen = [view for view, held_by in zip(views, row, strict=True) if held_by]
        parts.append(Part(some, chosen, hull([v.box for v in chosen], shape)))
    return parts
