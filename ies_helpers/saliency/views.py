"""What a network must look at to decide one lesion, and the sum or maximum of its gradients over these looks.

The explained output is a fixed weighted sum of forward passes on boxes of the image: one box of weight 1 for a network
seen whole, blended windows otherwise. A `View` is one such pass, a `Part` some voxels of the lesion with every view
that decides them. Gradients need nothing else.
"""

import ctypes
import functools
import operator
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from ies_helpers.arrays import Box, Saliency, Volume, Voxels
from ies_helpers.segmentation.field import ReceptiveField
from ies_helpers.segmentation.inference import check_window, importance, pad_end, total_importance, window_boxes
from ies_helpers.segmentation.network import Network


@dataclass(frozen=True, eq=False)
class View:
    """One forward pass, and the weight of its logits in the output."""

    box: Box  # where it looks; the image is zero beyond its end
    weight: torch.Tensor | None = None  # (i, j, k) on the box, importance over total importance; None is 1 everywhere
    number: int | None = None  # of the pass, where a network averages several (`Network.passes`)

    def holds(self, voxels: Voxels) -> np.ndarray:
        """`(V,)` bool: which voxels lie in the box."""
        return np.all((voxels >= self.box.start) & (voxels < self.box.stop), axis=1)

    def local(self, voxels: Voxels) -> tuple[torch.Tensor, ...]:
        """Indices of `voxels` inside the box, one tensor an axis."""
        return tuple(torch.as_tensor(voxels - self.box.start).T)

    def weights_at(self, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(V,)` float64 weights of the logits at local `index`."""
        return torch.ones(len(index[0]), dtype=torch.float64) if self.weight is None else self.weight[index]

    def cotangent(self, logits: torch.Tensor, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(V,)` weights beside the logits, NaN where a logit is not finite, which an activation's slope forgets."""
        return self.weights_at(index).to(logits) + 0 * logits[index].detach()


@dataclass(frozen=True, eq=False)
class Part:
    """Some voxels `(V, 3)` of a lesion, every view that holds any of them, and where their gradient can be non-zero."""

    voxels: Voxels
    views: Sequence[View]
    box: Box

    @classmethod
    def through(cls, views: Sequence[View], voxels: Voxels, shape: Sequence[int]) -> "Part":
        """`voxels` through `views`, which share the smallest box that holds them inside a volume `(I, J, K)`."""
        return cls(voxels, views, union(view.box for view in views) & Box.whole(shape))

    def weighted(self, places: Voxels, weights: np.ndarray, shape: Sequence[int]) -> "Part":
        """The same, its logits weighted by the sum of the `weights` `(P,)` at each of the `places` `(P, 3)`."""
        total = torch.zeros(*shape, dtype=torch.float64)
        total.index_put_(tuple(torch.as_tensor(places).T), torch.as_tensor(weights), accumulate=True)
        shares = [total[v.box] if v.weight is None else v.weight * total[v.box] for v in self.views]
        return replace(self, views=[replace(v, weight=w) for v, w in zip(self.views, shares, strict=True)])


def union(boxes: Iterator[Box] | Sequence[Box]) -> Box:
    """The smallest box that holds all `boxes`, of which there must be one."""
    return functools.reduce(operator.or_, boxes)


def voxels_seen(part: Part) -> int:
    """Voxels that go through the network for a part."""
    return sum(view.box.size for view in part.views)


def cut(image: Volume, box: Box, network: Network) -> torch.Tensor:
    """A copy of the image on a box, zero beyond its end: `(1, C, i, j, k)`, as the network takes it."""
    return pad_end(image[:, *box], box.shape)[None].to(network.device, network.dtype)


def forward(network: Network, image: Volume, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """A view's input `(1, C, i, j, k)`, ready to be differentiated, and its lesion logits `(i, j, k)`."""
    x = cut(image, view.box, network).requires_grad_()
    with torch.enable_grad():
        return x, network.lesion_logit(x, view.number)[0]


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device`. To a GPU from pinned memory, which is copied while it computes: nobody waits."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def group_voxels(voxels: Voxels, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Voxels]]:
    """Each different row of `rows` `(V, n)`, and the voxels that have it."""
    different, which = np.unique(rows, axis=0, return_inverse=True)
    for n, row in enumerate(different):
        yield row, voxels[which.ravel() == n]


# A network with a bounded receptive field: the aligned crop that decides a lesion, exact.
#
# For the published U-Net one cell of 16^3 output voxels looks at 80^3 input voxels; an 18x18x18 lesion needs about a
# fourteenth of the volume.


def crop_part(field: ReceptiveField, shape: Sequence[int], voxels: Voxels) -> Part:
    """All `voxels` through one crop."""
    return Part.through([View(field.crop(Box.around(voxels), shape))], voxels, shape)


def cell_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels) -> list[Part]:
    """One part for each output cell that holds voxels: the smallest crop that one voxel's gradient needs."""
    if not field.bounded:
        return [crop_part(field, shape, voxels)]
    cells = group_voxels(voxels, voxels // np.asarray(field.stride))
    return [crop_part(field, shape, some) for _, some in cells]


def crop_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels, affordable: float) -> list[Part]:
    """`voxels` through as few crops of up to `affordable` voxels as halving does: sums over halves add up."""
    part, halves = crop_part(field, shape, voxels), _halves(field, voxels)
    if not field.bounded or voxels_seen(part) <= affordable or len(halves) == 1:
        return [part]
    return [p for half in halves for p in crop_parts(field, shape, half, affordable)]


def shared_parts(field: ReceptiveField, shape: Sequence[int], voxels: Voxels, affordable: float) -> list[Part]:
    """One crop for neighbouring cells where it has fewer voxels than their own crops together, and is affordable."""
    part, halves = crop_part(field, shape, voxels), _halves(field, voxels)
    if len(halves) == 1:
        return [part]
    apart = [p for half in halves for p in shared_parts(field, shape, half, affordable)]
    return [part] if voxels_seen(part) <= min(affordable, sum(map(voxels_seen, apart))) else apart


def _halves(field: ReceptiveField, voxels: Voxels) -> list[Voxels]:
    """Voxels cut in two at a cell's border along their longest side, or left alone in one cell."""
    cells = voxels // np.asarray(field.stride)
    spread = np.ptp(cells, axis=0)
    if not spread.any():
        return [voxels]
    axis = int(spread.argmax())
    low = cells[:, axis] <= cells[:, axis].min() + spread[axis] // 2
    return [voxels[low], voxels[~low]]


# Any network through a sliding window: only the windows that hold lesion voxels, with exact weights.
#
# The blended output is sum_w g_w f_w / sum_w g_w, a fixed weighted sum of windows f_w. So the gradient of the logit at
# v is the sum over the windows that hold v of g_w(v) / sum_w g_w(v) times the gradient of that window's logit.


def window_views(network: Network, shape: Sequence[int], voxels: Voxels) -> list[View]:
    """The windows that hold any of `voxels`, with their share of the blended logits, once for each pass."""
    check_window(network, tuple(shape))
    total, weight, passes = total_importance(network, tuple(shape)), importance(network), network.passes
    boxes = [box for box in window_boxes(network, tuple(shape)) if View(box).holds(voxels).any()]
    shares = [weight / total[box] / passes for box in boxes]
    return [View(box, share, number=n) for box, share in zip(boxes, shares, strict=True) for n in range(passes)]


def window_part(network: Network, shape: Sequence[int], voxels: Voxels) -> Part:
    """All `voxels` through all their windows."""
    return Part.through(window_views(network, shape, voxels), voxels, shape)


def window_parts(network: Network, shape: Sequence[int], voxels: Voxels) -> list[Part]:
    """One part for each set of windows that voxels share, so that a part's box is as small as can be."""
    views = window_views(network, shape, voxels)
    held = np.stack([view.holds(voxels) for view in views], axis=1)
    return [
        Part.through([view for view, holds in zip(views, row, strict=True) if holds], some, shape)
        for row, some in group_voxels(voxels, held)
    ]


# Sum and maximum over a lesion's voxels of gradients that are taken view by view.

# A view -> what `forward` gives.
See = Callable[[View], tuple[torch.Tensor, torch.Tensor]]
# A view and voxels -> for each its row, a box, and there its gradient (C, i, j, k) by the view's weighted logits.
Each = Callable[[View, Voxels], Iterator[tuple[int, Box, torch.Tensor]]]
# A box, and on it the largest and the smallest gradient over some voxels, each (C, i, j, k).
Pairs = Iterator[tuple[Box, torch.Tensor, torch.Tensor]]
# Sides (i, j, k) -> zeros (C, i, j, k) of the right precision and device.
Zeros = Callable[[tuple[int, ...]], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Boxed:
    """A map that is zero outside a box: `values` `(C, i, j, k)` on `box`."""

    values: torch.Tensor
    box: Box

    def add(self, g: torch.Tensor, box: Box) -> None:
        """Add `g` `(C, i, j, k)`, which lies on another `box`, where the two meet; what lies in the padding is lost."""
        both = self.box & box
        self.values[:, *both.local(self.box)] += g[:, *both.local(box)]

    def full(self, shape: tuple[int, ...]) -> Saliency:
        """The map on the whole volume: `(C, I, J, K)` float32, on the CPU."""
        return Boxed(self.values.detach().float().cpu(), self.box).whole(shape)

    def whole(self, shape: Sequence[int]) -> torch.Tensor:
        """The same as it is: `(C, I, J, K)`, in its own precision and on its device."""
        whole = self.values.new_zeros(len(self.values), *shape)
        whole[:, *self.box] = self.values
        return whole


def add_up(total: Boxed, see: See, part: Part) -> None:
    """Add the gradients of a part's voxels to `total`: one backward pass a view."""
    for view in part.views:
        total.add(_summed(see, view, part.voxels[view.holds(part.voxels)]), view.box)


def _summed(see: See, view: View, voxels: Voxels) -> torch.Tensor:
    index = view.local(voxels)
    x, logits = see(view)
    cotangent = torch.zeros_like(logits)
    cotangent[index] = view.cotangent(logits, index)
    # Not by grad_outputs, for which torch imports sympy, in seconds.
    return torch.autograd.grad((logits * cotangent).sum(), x)[0][0]


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
        self.box, self.highest, self.lowest = box, zeros(box.shape), zeros(box.shape)

    def take(self, box: Box, high: torch.Tensor, low: torch.Tensor) -> None:
        """Take in the largest and smallest gradients of some voxels, on `box`."""
        where = box.local(self.box)
        self.highest[:, *where].clamp_(min=high)
        self.lowest[:, *where].clamp_(max=low)

    def map(self) -> torch.Tensor:
        """At each entry the gradient of largest absolute value; of exact opposites the positive."""
        return torch.where(self.highest >= -self.lowest, self.highest, self.lowest)


def extremes(each: Each, part: Part, zeros: Zeros, chunk: int) -> Pairs:
    """The largest and smallest gradients of a part's voxels, from one for each voxel and view.

    A voxel's views are added before the maximum is taken: `chunk` voxels are held at once; out of memory halves it.
    """
    if len(part.views) == 1:
        for _, seen, g in each(part.views[0], part.voxels):
            box = seen & part.box
            yield box, g[:, *box.local(seen)], g[:, *box.local(seen)]
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


def added_by_voxel(each: Each, part: Part, voxels: Voxels, zeros: Zeros) -> torch.Tensor:
    """`(V, C, i, j, k)` on the part's box: each voxel's gradient, its views added, one view at a time."""
    added = torch.stack([zeros(part.box.shape)] * len(voxels))
    for view in part.views:
        for row, seen, g in each(view, voxels):
            Boxed(added[row], part.box).add(g, seen)
    return added


# How much memory that work may take, and running out of it: how that is recognised, and said in one sentence.

BUDGET = 2**30  # bytes of working memory, beside the network and the volume


TRIM, MAPPED = -1, -4  # glibc's options M_TRIM_THRESHOLD, in bytes, and M_MMAP_MAX
KEEPING, USUAL = {TRIM: 2**31 - 1, MAPPED: 0}, {TRIM: 2**17, MAPPED: 2**16}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, memory that is freed stays the process's own for what comes next; afterwards it goes back.

    One dense pass after another asks for the same gigabyte, and glibc hands it back each time: fresh pages took a third
    of a pass (measured). Other C libraries go on as they are.
    """
    libc = ctypes.CDLL(None) if platform.system() == "Linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    for option, value in KEEPING.items():
        libc.mallopt(option, value)  # pyright: ignore[reportOptionalMemberAccess]
    try:
        yield
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)  # pyright: ignore[reportOptionalMemberAccess]
        libc.malloc_trim(0)  # pyright: ignore[reportOptionalMemberAccess]


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, a library below it, or Python ran out of memory."""
    # What torch says where it raises a bare RuntimeError; the second on Windows.
    signs = "can't allocate memory|not enough memory: you tried|CU(DNN|BLAS)_STATUS_ALLOC_FAILED"
    bare = isinstance(error, RuntimeError) and re.search(signs, str(error)) is not None
    return bare or isinstance(error, MemoryError | torch.OutOfMemoryError)


def does_not_fit(what: str, remedy: str, error: BaseException) -> MemoryError:
    """The error to raise when no work is left to halve; `error` is the last that was met."""
    tried = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return MemoryError(f"{what} does not fit in memory ({tried[0].lower() if tried else 'none left'}): {remedy}.")
