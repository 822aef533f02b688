"""A network with a bounded receptive field: the aligned crop that decides a lesion, exact.

For the published U-Net one cell of 16^3 output voxels looks at 80^3 input voxels; an 18x18x18 lesion needs
about a fourteenth of the volume. Crops start at multiples of the total stride and are clipped to the volume,
where the network's own zero padding takes over, so nothing is approximated.
"""

from collections.abc import Sequence

import numpy as np

from ies_helpers.saliency.views import Part, View, hull, size, together
from ies_helpers.segmentation.receptive_field import ReceptiveField
from ies_helpers.types import Voxels


def crop_part(field: ReceptiveField, shape: Sequence[int], voxels: Voxels) -> Part:
    """All `voxels` through one crop."""
    box = field.crop(tuple(voxels.min(axis=0)), tuple(voxels.max(axis=0)), tuple(shape))
    return Part(voxels, [View(box)], hull([box], shape))


def crop_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels, affordable: float) -> list[Part]:
    """`voxels` through as few crops of up to `affordable` voxels as will do.

    A lesion whose crop has more is halved along its longest side, at a cell's border: sums over its
    halves add up to its own.
    """
    part = crop_part(field, shape, voxels)
    parts = _halves(field, voxels)
    if not field.bounded or voxels_seen(part) <= affordable or len(parts) == 1:
        return [part]
    return [p for half in parts for p in crop_parts(field, shape, half, affordable)]


def shared_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels, affordable: float) -> list[Part]:
    """One crop for neighbouring cells where it has fewer voxels than their own crops together, and is affordable."""
    part, halves = crop_part(field, shape, voxels), _halves(field, voxels)
    if len(halves) == 1:
        return [part]
    apart = [p for half in halves for p in shared_parts(field, shape, half, affordable)]
    return [part] if voxels_seen(part) <= min(affordable, sum(map(voxels_seen, apart))) else apart


def voxels_seen(part: Part) -> int:
    """Voxels that go through the network for a part."""
    return sum(int(np.prod(size(view.box))) for view in part.views)


def _halves(field: ReceptiveField, voxels: Voxels) -> list[Voxels]:
    """Voxels cut in two at a cell's border along their longest side, or left alone in one cell."""
    cells = voxels // np.asarray(field.stride)
    spread = cells.max(axis=0) - cells.min(axis=0)
    if not spread.any():
        return [voxels]
    axis = int(spread.argmax())
    low = cells[:, axis] <= cells[:, axis].min() + spread[axis] // 2
    return [voxels[low], voxels[~low]]


def cell_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels) -> list[Part]:
    """One part for each output cell that holds voxels: the smallest crop that one voxel's gradient needs."""
    if not field.bounded:
        return [crop_part(field, shape, voxels)]
    cells = together(voxels, voxels // np.asarray(field.stride))
    return [crop_part(field, shape, some) for _, some in cells]
