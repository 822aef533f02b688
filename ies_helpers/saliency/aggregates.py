"""Sum and maximum over a lesion's voxels of gradients that are taken view by view."""

from collections.abc import Callable, Iterator

import torch

from ies_helpers.saliency.memory import out_of_memory
from ies_helpers.saliency.views import Pairs, Part, View, add, clip, inside, size
from ies_helpers.types import Box, Voxels

See = Callable[[View], tuple[torch.Tensor, torch.Tensor]]
"""A view -> its input `(1, C, i, j, k)`, ready to be differentiated, and its class-1 logits `(i, j, k)`."""

Each = Callable[[View, Voxels], Iterator[tuple[int, Box, torch.Tensor]]]
"""A view and voxels -> for each its row, a box, and there its gradient `(C, i, j, k)` by the view's weighted logits."""

Zeros = Callable[[tuple[int, ...]], torch.Tensor]
"""Sides `(i, j, k)` -> zeros `(C, i, j, k)` of the right precision and device."""


def add_up(total: torch.Tensor, box: Box, see: See, part: Part) -> None:
    """Add the gradients of a part's voxels to `total` `(C, i, j, k)` on `box`: one backward pass a view."""
    for view in part.views:
        add(total, box, _summed(see, view, part.voxels[view.holds(part.voxels).numpy()]), view.box)


def _summed(see: See, view: View, voxels: Voxels) -> torch.Tensor:
    index = view.local(voxels)
    x, logits = see(view)
    cotangent = torch.zeros_like(logits)
    cotangent[index] = view.cotangent(logits, index)
    return torch.autograd.grad(logits, x, cotangent)[0][0]


def by_autograd(see: See) -> Each:
    """Each voxel's gradient on the view's box. The graph lives as long as the iterator."""

    def each(view: View, voxels: Voxels) -> Iterator[tuple[int, Box, torch.Tensor]]:
        index = view.local(voxels)
        x, logits = see(view)
        for row, score in enumerate(logits[index] * view.cotangent(logits, index)):
            yield row, view.box, torch.autograd.grad(score, x, retain_graph=True)[0][0]

    return each


class Largest:
    """The running maximum of absolute values, sign kept, from the largest and smallest gradients."""

    def __init__(self, zeros: Zeros, box: Box) -> None:
        self.box, self.highest, self.lowest = box, zeros(size(box)), zeros(size(box))

    def take(self, box: Box, high: torch.Tensor, low: torch.Tensor) -> None:
        """Take in the largest and smallest gradients of some voxels, on `box`."""
        where = (slice(None), *inside(box, self.box))
        self.highest[where].clamp_(min=high)
        self.lowest[where].clamp_(max=low)

    def map(self) -> torch.Tensor:
        """At each entry the gradient of largest absolute value; of exact opposites the positive."""
        return torch.where(self.highest >= -self.lowest, self.highest, self.lowest)


def extremes(each: Each, part: Part, zeros: Zeros, chunk: int) -> Pairs:
    """The largest and smallest gradients of a part's voxels, from one for each voxel and view.

    A voxel in several views needs them added before the maximum is taken, so the gradients of `chunk` voxels
    are held at once; out of memory halves it.
    """
    if len(part.views) == 1:
        yield from _one_view(each, part)
        return
    start = 0
    while start < len(part.voxels):
        try:
            g = added_by_voxel(each, part, part.voxels[start : start + chunk], zeros)
        except RuntimeError as error:
            if not out_of_memory(error) or chunk == 1:
                raise
            chunk //= 2
            continue
        yield part.box, g.amax(dim=0), g.amin(dim=0)
        start += chunk


def _one_view(each: Each, part: Part) -> Pairs:
    (view,) = part.views
    for _, seen, g in each(view, part.voxels):
        box, kept = clip(g, seen, part.box)
        yield box, kept, kept


def added_by_voxel(each: Each, part: Part, voxels: Voxels, zeros: Zeros) -> torch.Tensor:
    """`(V, C, i, j, k)` on the part's box: each voxel's gradient, its views added, one view at a time."""
    added = torch.stack([zeros(size(part.box))] * len(voxels))
    for view in part.views:
        for row, seen, g in each(view, voxels):
            add(added[row], part.box, g, seen)
    return added
