"""What a network must look at to decide one lesion: boxes it sees in one forward pass, with their weights.

The explained output is always a fixed weighted sum of forward passes on boxes of the image: one box of
weight 1 for a network seen whole, blended windows otherwise. Gradients need nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ies_helpers.segmentation.networks import Network
from ies_helpers.types import Box, Saliency, Volume, Voxels


@dataclass(frozen=True, eq=False)
class View:
    """One forward pass: the box of the image, zero beyond its end, and the weight of its logits in the output.

    Attributes:
        box: where it looks.
        weight: `(i, j, k)` on the box, importance over total importance; None is 1 everywhere.
        within: the window it is a part of, where that window's statistics are held (`frozen`).
    """

    box: Box
    weight: torch.Tensor | None = None
    within: Box | None = None

    def holds(self, voxels: Voxels) -> torch.Tensor:
        """`(V,)` bool: which voxels lie in the box."""
        v = torch.as_tensor(voxels)
        start = torch.tensor([s.start for s in self.box])
        stop = torch.tensor([s.stop for s in self.box])
        return ((v >= start) & (v < stop)).all(dim=1)

    def local(self, voxels: Voxels) -> tuple[torch.Tensor, ...]:
        """Indices of `voxels` inside the box, one tensor an axis."""
        return tuple((torch.as_tensor(voxels) - torch.tensor([s.start for s in self.box])).T)

    def weights_at(self, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(V,)` float64 weights of the logits at local `index`."""
        return torch.ones(len(index[0]), dtype=torch.float64) if self.weight is None else self.weight[index]

    def cotangent(self, logits: torch.Tensor, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(V,)` weights, beside the logits, that are NaN where a logit is not finite.

        An activation's slope forgets a NaN that went through it. So the gradient tells of it, and no GPU is waited for.
        """
        return self.weights_at(index).to(logits) + 0 * logits[index].detach()


@dataclass(frozen=True, eq=False)
class Part:
    """Some voxels of a lesion, and the views that decide their logits.

    Attributes:
        voxels: `(V, 3)`.
        views: every view that holds any of them.
        box: the hull of the views inside the volume, where the gradient can be non-zero.
    """

    voxels: Voxels
    views: Sequence[View]
    box: Box


def cut(image: Volume, box: Box, network: Network) -> torch.Tensor:
    """The image on a box that may reach beyond its end, zero there: `(1, C, i, j, k)`, as the network takes it."""
    inner = image[(slice(None), *box)]
    missing = [n - have for n, have in zip(size(box), inner.shape[1:], strict=True)]
    inner = F.pad(inner, [0, missing[2], 0, missing[1], 0, missing[0]]) if any(missing) else inner.clone()
    return inner[None].to(network.device, network.dtype)


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device`. To a GPU from pinned memory, which is copied while it computes: nobody waits."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def forward(network: Network, image: Volume, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """A view's input `(1, C, i, j, k)`, ready to be differentiated, and its class-1 logits `(i, j, k)`."""
    x = cut(image, view.box, network).requires_grad_()
    with torch.enable_grad():
        return x, network.logits(x)[0, 1]


Pairs = Iterator[tuple[Box, torch.Tensor, torch.Tensor]]
"""A box, and on it the largest and the smallest gradient over some voxels, each `(C, i, j, k)`."""


def together(voxels: Voxels, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Voxels]]:
    """Each different row of `rows` `(V, n)`, and the voxels that have it."""
    different, which = np.unique(rows, axis=0, return_inverse=True)
    for n, row in enumerate(different):
        yield row, voxels[which.ravel() == n]


def hull(boxes: Sequence[Box], shape: Sequence[int]) -> Box:
    """The smallest box that holds all `boxes`, clipped to `shape`."""
    return tuple(  # pyright: ignore[reportReturnType]
        slice(min(b[a].start for b in boxes), min(max(b[a].stop for b in boxes), shape[a])) for a in range(3)
    )


def inside(inner: Box, outer: Box) -> Box:
    """`inner`, clipped to `outer`, in the coordinates of `outer`."""
    return tuple(  # pyright: ignore[reportReturnType]
        slice(i.start - o.start, min(i.stop, o.stop) - o.start) for i, o in zip(inner, outer, strict=True)
    )


def corner(box: Box) -> np.ndarray:
    """`(3,)` first voxel of a box."""
    return np.array([s.start for s in box])


def size(box: Box) -> tuple[int, ...]:
    """`(i, j, k)` sides of a box, in voxels."""
    return tuple(s.stop - s.start for s in box)


@dataclass(frozen=True, eq=False)
class Boxed:
    """A map that is zero outside a box: `values` `(C, i, j, k)` on `box`."""

    values: torch.Tensor
    box: Box

    def full(self, shape: tuple[int, ...]) -> Saliency:
        """The map on the whole volume: `(C, I, J, K)` float32, on the CPU."""
        whole = torch.zeros(len(self.values), *shape, dtype=torch.float32)
        whole[(slice(None), *self.box)] = self.values.detach().float().cpu()
        return whole


def clip(g: torch.Tensor, box: Box, within: Box) -> tuple[Box, torch.Tensor]:
    """What of `box`, and of `g` on it, lies `within` another box."""
    kept: Box = tuple(  # pyright: ignore[reportAssignmentType]
        slice(max(b.start, w.start), min(b.stop, w.stop)) for b, w in zip(box, within, strict=True)
    )
    return kept, g[(slice(None), *inside(kept, box))]


def add(total: torch.Tensor, box: Box, g: torch.Tensor, seen: Box) -> None:
    """Add `g`, a gradient on the box `seen`, to `total` on `box`; what lies in the padding is dropped."""
    where = inside(seen, box)
    total[(slice(None), *where)] += g[(slice(None), *(slice(0, s.stop - s.start) for s in where))]
