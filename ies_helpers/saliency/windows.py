"""Any network through a sliding window: only the windows that hold lesion voxels, with exact weights.

The blended output is sum_w g_w f_w / sum_w g_w, a fixed weighted sum of windows f_w. The gradient of the
logit at a voxel v is therefore the sum over the windows that hold v of g_w(v) / sum_w g_w(v) times the
gradient of that window's logit.
"""

from collections.abc import Sequence

import torch

from ies_helpers.saliency.views import Part, View, hull, together
from ies_helpers.segmentation.inference import check_window
from ies_helpers.segmentation.networks import Network
from ies_helpers.segmentation.windowing import importance, total_importance, window_boxes
from ies_helpers.types import Voxels


def window_views(network: Network, shape: Sequence[int], voxels: Voxels) -> list[View]:
    """The windows that hold any of `voxels`, with their share of the blended logits."""
    check_window(network, tuple(shape))
    views = [View(box) for box in window_boxes(network, tuple(shape))]
    total, weight = total_importance(network, tuple(shape)), importance(network)
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
