"""The backward pass of single voxels, through any network, on the few positions that they reach: the near field.

A forward pass leaves autograd's graph, one node an operation, each with what its backward pass needs. For one output
voxel the cotangent is zero but on a small box of every feature map, so here the nodes are run on boxes alone, many
voxels at once. `RULES` has one row an operation.

Two things have no small box, and their share of the gradient is handed out instead, as coefficients of *coordinates*
that are held while differentiating: the mean and the variance of each norm (instance, group) over a whole feature map,
and whole maps, where an operation has no row (attention) or a map is so coarse that boxes would fill it. With z these
coordinates, the gradient of an output y is

    dy/dx = dy/dx (z held)  +  sum_k dy/dz_k (the coefficients) dz_k/dx

exactly: the first term is the near field, the second the far field (`farfield`). A network without such parts has no
far field, and its near field is the whole gradient.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.saliency.views import Pairs, Part, View, cut
from ies_helpers.segmentation.network import Network

Node = Any  # of autograd's graph; what it saved is told by attributes that torch gives no types
Sides = tuple[int, ...]

LAST = torch.channels_last_3d  # the layout that convolutions on a few positions are fastest in, by up to three times


@dataclass(frozen=True, eq=False)
class Cotangent:
    """Of one map, for B outputs: `values` `(B, F, i, j, k)` on a `box` of it, times `scale`, zero elsewhere.

    Slopes and factors wait in `scale` `(1, F, i, j, k)`, which all B share, until the values are needed.
    """

    values: torch.Tensor
    box: Box
    scale: torch.Tensor | None = None
    own: bool = False  # whether nobody else holds the values, which may then be overwritten
    last: bool = False  # whether the map itself is `(1, I, J, K, F)`, as transformers like it; the values are not

    def plain(self) -> torch.Tensor:
        """`(B, F, i, j, k)`, scaled."""
        return self.values if self.scale is None else self.values * self.scale

    def full(self) -> torch.Tensor:
        """The same, channels last."""
        return self.plain().contiguous(memory_format=LAST)

    def times(self, scale: torch.Tensor) -> "Cotangent":
        """The same, scaled once more."""
        return replace(self, scale=scale if self.scale is None else self.scale * scale, own=False)

    def plus(self, other: "Cotangent") -> "Cotangent":
        """The sum of two, on the smallest box that holds both."""
        box = self.box | other.box
        if box == other.box != self.box:
            return other.plus(self)
        total = self.full()
        if box != self.box:
            sides = (*total.shape[:2], *box.shape)
            total = torch.empty(sides, dtype=total.dtype, device=total.device, memory_format=LAST).zero_()
            total[..., *self.box.local(box)] = self.plain()
        elif total is self.values and not self.own:
            total = total.clone()
        total[..., *other.box.local(box)] += other.plain()
        return Cotangent(total, box, own=True, last=self.last)

    def within(self, shape: Sequence[int]) -> "Cotangent":
        """What of it lies on a map `(I, J, K)`."""
        box = self.box & Box.whole(shape)
        return self if box == self.box else Cotangent(self.plain()[..., *box.local(self.box)], box, own=self.own)

    def shifted(self, by: np.ndarray) -> "Cotangent":
        """The same, so many positions further."""
        return replace(self, box=Box.of(self.box.start + by, self.box.stop + by))


Passed = Sequence[Cotangent | None]  # to each input of a node, `(B, E, i, j, k)`; None where nothing is known to go

# The backward rule of each operation: its node, the cotangent of its output `(B, F, i, j, k)` on a box of the map, and
# the shapes of its inputs -> the cotangents of these.

FEW = 4  # output channels below which a strided convolution's transpose is one matrix product here


def axis_of(saved: int, shape: Sides) -> int:
    """An axis that a node saved, which torch counts from the end by unsigned numbers."""
    return int(saved) - (2**64 if saved >= 2**63 else 0) + (len(shape) if saved >= 2**63 else 0)


def on(values: torch.Tensor, box: Box) -> torch.Tensor:
    """A map `(1, F, I, J, K)` on a box, channels last."""
    return values[..., *box].contiguous(memory_format=LAST)


def _convolution(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Any convolution or transposed convolution in 3D."""
    w = node.metadata.get("last")
    if w is None:
        w = node.metadata["last"] = node._saved_weight.contiguous(memory_format=LAST)
    values = g.full()
    s, p, d = (np.array(getattr(node, f"_saved_{name}")) for name in ("stride", "padding", "dilation"))
    how: Any = {"stride": tuple(s), "dilation": tuple(d), "groups": int(node._saved_groups)}
    reach, whole = d * (np.array(w.shape[2:]) - 1), Box.whole(shapes[0][2:])
    if not node._saved_transposed:
        # Output o takes inputs s o - p to s o - p + reach.
        found, first = (
            (few_outputs(values, w) if _is_few(w, how) else F.conv_transpose3d(values, w, **how)),
            s * g.box.start - p,
        )
        return [Cotangent(found, Box.of(first, first + np.array(found.shape[2:])), own=True).within(whole.shape)]
    # Input i gives outputs s i - p to s i - p + reach: those i of which any lies on the box.
    box = Box.of(-(-(g.box.start + p - reach) // s), (g.box.stop - 1 + p) // s + 1) & whole
    begin, end = s * box.start - p, s * (box.stop - 1) - p + reach + 1
    rim = [int(r) for axis in (2, 1, 0) for r in ((g.box.start - begin)[axis], (end - g.box.stop)[axis])]
    return [Cotangent(F.conv3d(F.pad(values, rim), w, **how), box, own=True)]


def _is_few(w: torch.Tensor, how: dict[str, Any]) -> bool:
    if w.is_cuda:  # where its many small steps would each be a launch
        return False
    return w.shape[1] <= FEW and w.shape[2:] == (3, 3, 3) and list(how.values()) == [(2, 2, 2), (1, 1, 1), 1]


def few_outputs(g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Transpose of a 3^3 convolution of stride 2 with few output channels, for which the library is slow.

    One matrix product makes all taps; each is added to the one of eight interleaved maps in which its outputs lie.
    `(B, F, i, j, k)` with weights `(F, E, 3, 3, 3)` -> `(B, E, 2 i + 1, 2 j + 1, 2 k + 1)`.
    """
    channels, sides = w.shape[1], g.shape[2:]
    taps = w.reshape(len(w), -1).T  # (27 E, F)
    found = g.new_empty(len(g), channels, *(2 * n + 1 for n in sides))
    for one, out in zip(g, found, strict=True):  # one voxel's maps stay in the cache
        made = (taps @ one.permute(1, 2, 3, 0).reshape(-1, len(w)).T).view(channels, 3, 3, 3, *sides)
        eighths = g.new_zeros(2, 2, 2, channels, *(n + 1 for n in sides))
        for i, j, k in np.ndindex(3, 3, 3):
            where = (slice(n // 2, n // 2 + side) for n, side in zip((i, j, k), sides, strict=True))
            eighths[i % 2, j % 2, k % 2, :, *where] += made[:, i, j, k]
        for i, j, k in np.ndindex(2, 2, 2):
            part = out[:, i::2, j::2, k::2]
            part.copy_(eighths[i, j, k][:, : part.shape[1], : part.shape[2], : part.shape[3]])
    return found


def _two_slopes(node: Node, g: Cotangent, _shapes: Sequence[Sides]) -> Passed:
    """ReLU, leaky ReLU and PReLU: slope 1 above zero, another below."""
    seen = getattr(node, "_saved_self", None)
    above = on(node._saved_result if seen is None else seen, g.box) > 0
    below = getattr(node, "_saved_weight", getattr(node, "_saved_negative_slope", 0.0))
    below = torch.as_tensor(below, dtype=g.values.dtype, device=g.values.device).view(1, -1, 1, 1, 1)
    return [g.times(torch.where(above, torch.ones_like(below), below))]


def _smooth(function: Callable[..., torch.Tensor], *settings: str) -> Callable[..., Passed]:
    """The rule of an activation: its derivative by autograd, on the box."""

    def rule(node: Node, g: Cotangent, _shapes: Sequence[Sides]) -> Passed:
        with torch.enable_grad():
            x = on(node._saved_self.detach(), g.box).requires_grad_()
            y = function(x, *(getattr(node, f"_saved_{name}") for name in settings))
            (slope,) = torch.autograd.grad(y.sum(), x)
        return [g.times(slope)]

    return rule


def _by_result(slope: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Passed]:
    """The rule of an activation whose slope follows from its output."""
    return lambda node, g, _shapes: [g.times(slope(on(node._saved_result, g.box)))]


def _as_it_is(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Copies; a view of the same positions and features."""
    return [g] if len(shapes[0]) == 5 and shapes[0][1:] == shape_of(node)[1:] else [None]


def _permutation(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Of the features to the end, or back."""
    order = [axis_of(axis, shapes[0]) for axis in node._saved_dims]
    if order == ([0, 2, 3, 4, 1] if g.last else [0, 4, 1, 2, 3]):
        return [replace(g, last=not g.last)]
    return [g] if order == [0, 1, 2, 3, 4] else [None]


def _layer_norm(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Over the features of each position: local, its mean and deviation as live as all else."""
    if not g.last or list(node._saved_normalized_shape) != [shapes[0][-1]]:
        return [None]
    t, mean, factor = (
        on(v.movedim(-1, 1), g.box) for v in (node._saved_input, node._saved_result1, node._saved_result2)
    )
    w = node._saved_weight
    scaled = g.full() if w is None else g.times(w.view(1, -1, 1, 1, 1)).full()
    normal = (t - mean) * factor
    sums = (scaled * normal).mean(dim=1, keepdim=True)
    return [Cotangent(scaled - scaled.mean(dim=1, keepdim=True) - normal * sums, g.box, factor, last=True)]


def _sum(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Of two maps, or of a map and what has no gradient."""
    if any(shape and shape != shape_of(node) for shape in shapes):
        return [None] * len(shapes)
    by = float(node._saved_alpha) * (-1 if node.name().startswith("Sub") else 1)
    return [g, g if by == 1 else g.times(g.values.new_tensor(by))][: len(shapes)]


def _product(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Of two maps, one of which may have a single feature (attention gates); or of a map and a number."""
    found: Passed = []
    for shape, other in zip(shapes, (node._saved_other, node._saved_self), strict=True):
        passed = None
        if shape and other is not None and shape[2:] == shape_of(node)[2:]:
            if not isinstance(other, torch.Tensor) or other.ndim == 0:
                passed = g.times(g.values.new_tensor(float(other)))
            elif other.ndim == 5 and other.shape[2:] == shape[2:]:
                passed = g.times(on(other, g.box))
        if passed and shape[1] == 1 < g.values.shape[1]:
            passed = Cotangent(passed.full().sum(dim=1, keepdim=True), g.box)
        found.append(passed)
    return found


def _concatenation(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Along features; one of the parts may have no gradient."""
    widths = [shape[1] if shape else 0 for shape in shapes]
    if axis_of(node._saved_dim, shape_of(node)) != 1 or widths.count(0) > 1:
        return [None] * len(shapes)
    if 0 in widths:
        widths[widths.index(0)] = shape_of(node)[1] - sum(widths)
    return [Cotangent(part, g.box) for part in g.full().split(widths, dim=1)]


def _one_feature(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """One of the features, or the one image of a batch."""
    axis = axis_of(node._saved_dim, shapes[0])
    if axis == 0:
        return [g] if shapes[0][0] == 1 else [None]
    if axis != 1:
        return [None]
    values = g.values.new_zeros(len(g.values), shapes[0][1], *g.box.shape)
    values[:, int(node._saved_index) % shapes[0][1]] = g.full()[:, 0]
    return [Cotangent(values, g.box)]


def _slice(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Every entry along an axis from one to another: features, or positions that were padded."""
    axis, first = axis_of(node._saved_dim, shapes[0]), int(node._saved_start)
    if int(node._saved_step) != 1 or len(shapes[0]) != 5:
        return [None]
    if axis == 0:
        return [g]
    first = min(max(first + shapes[0][axis] if first < 0 else first, 0), shapes[0][axis])
    if axis > 1:
        return [g.shifted(first * np.eye(3, dtype=int)[axis - 2])]
    values = g.values.new_zeros(len(g.values), shapes[0][1], *g.box.shape)
    values[:, first : first + g.values.shape[1]] = g.full()
    return [Cotangent(values, g.box)]


def _mirror(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Positions in the opposite order along some axes."""
    axes = [axis_of(axis, shapes[0]) for axis in node._saved_dims]
    if len(shapes[0]) != 5 or min(axes) < 2:
        return [None]
    start, stop, sides = g.box.start, g.box.stop, np.array(shapes[0][2:])
    turned = np.isin(np.arange(3), np.array(axes) - 2)
    box = Box.of(np.where(turned, sides - stop, start), np.where(turned, sides - start, stop))
    return [Cotangent(g.plain().flip(axes), box)]


def _padding(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """With a constant, around positions alone."""
    pads = [int(n) for n in node._saved_pad]
    if len(shapes[0]) != 5 or any(pads[6:]):
        return [None]
    before = np.array([*pads[::2][:3], 0, 0])[:3][::-1]
    return [g.shifted(-before).within(shapes[0][2:])]


def _replication(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Padding with copies of the outermost positions, which get what their copies get."""
    before, values, start = [int(n) for n in node._saved_padding[::2]][::-1], g.full(), []
    for axis, (shift, n) in enumerate(zip(before, shapes[0][2:], strict=True)):
        at = torch.arange(g.box[axis].start, g.box[axis].stop).sub(shift).clamp(0, n - 1)
        start.append(int(at[0]))
        sides = [*values.shape]
        sides[2 + axis] = int(at[-1]) + 1 - start[-1]
        values = values.new_zeros(sides).index_add_(2 + axis, (at - start[-1]).to(values.device), values)
    box = Box.of(start, np.array(start) + values.shape[2:])
    return [Cotangent(values, box)]


def _resampling(mode: str) -> Callable[..., Passed]:
    """The rule of an upsampling: along each axis a matrix, found from what the library makes of unit vectors."""

    def rule(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
        values, start, stop = g.full(), [], []
        made = shape_of(node)[2:]
        aligned = {"align_corners": bool(node._saved_align_corners)} if mode == "linear" else {}
        for axis, (n, m) in enumerate(zip(shapes[0][2:], made, strict=True)):
            lines = torch.eye(n, dtype=values.dtype)[None]  # on the CPU: where it ends is read
            matrix = F.interpolate(lines, size=m, mode=mode, **aligned)[0, :, g.box[axis]]  # (inputs, outputs)
            used = matrix.abs().sum(dim=1).nonzero().flatten()
            start.append(int(used[0]))
            stop.append(int(used[-1]) + 1)
            values = torch.tensordot(values, matrix[start[-1] : stop[-1]].to(values.device), dims=([2], [1]))  # pyright: ignore[reportArgumentType]  # the axis goes to the end
        return [Cotangent(values, Box.of(start, stop))]

    return rule


def _largest_in_cells(node: Node, g: Cotangent, shapes: Sequence[Sides]) -> Passed:
    """Max pooling: each output's cotangent goes to where its maximum was."""
    k, s, p, d = (np.array(getattr(node, f"_saved_{n}")) for n in ("kernel_size", "stride", "padding", "dilation"))
    s, whole = s if len(s) else k, Box.whole(shapes[0][2:])
    box = Box.of(s * g.box.start - p, s * (g.box.stop - 1) - p + d * (k - 1) + 1) & whole
    flat = node._saved_result1[..., *g.box]
    sides = torch.as_tensor(whole.shape, device=flat.device)
    i, j, k_ = flat // (sides[1] * sides[2]), flat // sides[2] % sides[1], flat % sides[2]
    a, b, c = (int(n) for n in box.start)
    index = (((i - a) * box.shape[1] + (j - b)) * box.shape[2] + (k_ - c)).flatten(2)
    values = g.values.new_zeros(*g.values.shape[:2], box.size)
    values.scatter_add_(2, index.expand(len(g.values), -1, -1), g.full().flatten(2))
    return [Cotangent(values.unflatten(2, box.shape), box)]


RULES: dict[str, Callable[[Node, Cotangent, Sequence[Sides]], Passed]] = {
    "ConvolutionBackward0": _convolution,
    "ReluBackward0": _two_slopes,
    "LeakyReluBackward0": _two_slopes,
    "LeakyReluBackward1": _two_slopes,  # in place
    "PreluKernelBackward0": _two_slopes,
    "GeluBackward0": _smooth(lambda x, approximate: F.gelu(x, approximate=approximate), "approximate"),
    "SiluBackward0": _smooth(F.silu),
    "MishBackward0": _smooth(F.mish),
    "HardswishBackward0": _smooth(F.hardswish),
    "SoftplusBackward0": _smooth(F.softplus, "beta", "threshold"),
    "SigmoidBackward0": _by_result(lambda y: y * (1 - y)),
    "TanhBackward0": _by_result(lambda y: 1 - y * y),
    "AliasBackward0": _as_it_is,
    "CloneBackward0": _as_it_is,
    "ViewBackward0": _as_it_is,
    "UnsafeViewBackward0": _as_it_is,
    "ReshapeAliasBackward0": _as_it_is,
    "PermuteBackward0": _permutation,
    "NativeLayerNormBackward0": _layer_norm,
    "AddBackward0": _sum,
    "SubBackward0": _sum,
    "MulBackward0": _product,
    "CatBackward0": _concatenation,
    "SelectBackward0": _one_feature,
    "SliceBackward0": _slice,
    "FlipBackward0": _mirror,
    "ConstantPadNdBackward0": _padding,
    "ReplicationPad3DBackward0": _replication,
    "UpsampleTrilinear3DBackward0": _resampling("linear"),
    "UpsampleNearest3DBackward0": _resampling("nearest"),
    "UpsampleNearestExact3DBackward0": _resampling("nearest-exact"),
    "MaxPool3DWithIndicesBackward0": _largest_in_cells,
}
"""The backward rule of each operation that has a small box, by the name of its node; a new one is a row and a test."""

WITH_FEATURES_LAST = {*("AliasBackward0", "CloneBackward0", "ViewBackward0", "UnsafeViewBackward0"), "AddBackward0"} | {
    *("ReshapeAliasBackward0", "PermuteBackward0", "NativeLayerNormBackward0", "SubBackward0")
}
"""Those rows that hold for a map `(1, I, J, K, F)` as well."""

# Norms: a factor a feature, their statistics held, and the coefficients of these.

NORMS = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "NativeGroupNormBackward0")


@dataclass(frozen=True, eq=False)
class Norm:
    """y = weight (t - mean) / deviation + bias, on a map t of F features, in groups of `per` features."""

    seen: torch.Tensor  # t (1, F, I, J, K)
    factor: torch.Tensor  # (1, F, 1, 1, 1): 1 / deviation
    mean: torch.Tensor  # (1, F, 1, 1, 1)
    weight: torch.Tensor  # (1, F, 1, 1, 1)
    per: int
    live: bool  # whether mean and deviation are those of t, not constants

    @classmethod
    def of(cls, node: Node) -> "Norm":
        """The norm that a node of `NORMS` is."""
        seen, w = node._saved_input, node._saved_weight
        width = seen.shape[1]
        if "Batch" in node.name() and not getattr(node, "_saved_training", True):
            eps = node._saved_epsilon if "Cudnn" in node.name() else node._saved_eps
            found, per = ((node._saved_running_var + eps).rsqrt(), node._saved_running_mean), 1
        else:
            found = node._saved_result2.flatten(), node._saved_result1.flatten()
            per = width // len(found[0])
        factor, mean = (v.repeat_interleave(per).view(1, -1, 1, 1, 1) for v in found)
        weight = torch.ones_like(factor) if w is None else w.view(1, -1, 1, 1, 1)
        return cls(seen, factor, mean, weight, per, getattr(node, "_saved_training", True))

    def back(self, g: Cotangent) -> tuple[Cotangent, torch.Tensor | None]:
        """The cotangent of t with mean and deviation held, and the coefficients `(B, 2, groups)` of these.

        The full one at any position is (weight g - a / n - t' b / n) / deviation, with t' the normalised t, n values in
        a group, and a and b the sums over these of weight g and of weight g t': the two coefficients.
        """
        if not self.live:
            return g.times(self.weight * self.factor), None
        scaled = g.times(self.weight).full()
        normal = (on(self.seen, g.box) - self.mean) * self.factor
        sums = [s.sum(dim=(2, 3, 4)).unflatten(1, (-1, self.per)).sum(dim=2) for s in (scaled, scaled * normal)]
        return Cotangent(scaled, g.box, self.factor), torch.stack(sums, dim=1)

    def spread(self, sums: torch.Tensor) -> torch.Tensor:
        """What coefficients `(2, groups)` add to the cotangent of t, everywhere: `(1, F, I, J, K)`."""
        n = self.seen[0].numel() // sums.shape[1]
        a, b = (s.repeat_interleave(self.per).view(1, -1, 1, 1, 1) / -n * self.factor for s in sums)
        return torch.addcmul(a - b * self.mean * self.factor, self.seen, b * self.factor)


# The graph of one forward pass.


class Readable(torch.overrides.TorchFunctionMode):
    """While a network runs forward: its graph comes out readable.

    On the CPU torch gives a view of what an instance norm made, and an activation in place on a view is a node that
    shows nothing; a copy instead shows all, and the view's memory goes back at once.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`."""
        made = func(*args, **(kwargs or {}))
        return made.clone() if func is F.instance_norm else made


def shape_of(node: Node, number: int = 0) -> Sides:
    """The shape of an output of the operation that a node is of."""
    return tuple(int(n) for n in node._input_metadata[number].shape)


def positions_of(node: Node, last: bool) -> Sides:
    """`(I, J, K)` of the output of a node, which has its features last or not."""
    shape = shape_of(node)
    return shape[-4:-1] if last else shape[-3:]


Coefficients = dict[Node, torch.Tensor | Cotangent]
"""By node: of a norm `(B, 2, groups)`; of a map that is held the cotangent `(B, F, i, j, k)` on a box of it."""


class Graph:
    """What a forward pass left: its nodes from the output to the input."""

    def __init__(self, x: torch.Tensor, logits: torch.Tensor, coarse: float = np.inf) -> None:
        """Read the graph.

        Args:
            x: the input `(1, C, I, J, K)`, a leaf that requires a gradient.
            logits: `(1, I, J, K)`, made of `x` under `Readable`.
            coarse: maps of this stride, in voxels, or more are held.
        """
        self.x, self.logits, self.coarse = x, logits, coarse
        self.root = logits.grad_fn
        self.order = _from_the_output(self.root)
        self._sides = np.array(x.shape[2:])
        self._work = 0  # multiplications of the last near field

    @property
    def share(self) -> float:
        """Of the arithmetic of a dense pass, what the last near field took, by its convolutions."""
        whole = sum(_work(node, int(np.prod(shape_of(node)[2:]))) for node in self.order)
        return self._work / whole if whole else 1.0

    def back(self, seed: Cotangent) -> tuple[Cotangent | None, Coefficients]:
        """The near field of the outputs' cotangents `(B, 1, i, j, k)`, and the coefficients of what is held.

        The near field is `(B, C, i, j, k)`, None where none is known to be.
        """
        waiting: dict[Node, Cotangent] = {self.root: seed}
        held: Coefficients = {}
        near, self._work = None, 0
        for node in self.order:
            if node not in waiting:
                continue
            g = waiting.pop(node)
            if node.name() == "torch::autograd::AccumulateGrad":
                near = g
                continue
            for (below, number), passed in zip(node.next_functions, self._passed(node, g, held), strict=False):
                if below is None or passed is None:
                    continue
                assert number == 0
                waiting[below] = waiting[below].plus(passed) if below in waiting else passed
        return near, held

    def _passed(self, node: Node, g: Cotangent, held: Coefficients) -> Passed:
        """What a node passes on; what it does not is put into `held`."""
        if node.name() in NORMS:
            passed, sums = Norm.of(node).back(g)
            if sums is not None:
                held[node] = sums
            return [passed]
        found: Passed = []
        known = node.name() in (WITH_FEATURES_LAST if g.last else RULES)
        if known and not self._is_coarse(node, g.last) and self._alone(node):
            shapes = [() if below is None else shape_of(below, number) for below, number in node.next_functions]
            found = RULES[node.name()](node, g, shapes)
            self._work += _work(node, g.box.size)
        missing = not found or any(
            p is None and below is not None for p, (below, _) in zip(found, node.next_functions, strict=False)
        )
        if missing:
            held[node] = g
            return []
        return found

    def _alone(self, node: Node) -> bool:
        """Whether all that it passes on goes to first outputs; a node of several is held."""
        return all(number == 0 for below, number in node.next_functions if below is not None)

    def _is_coarse(self, node: Node, last: bool) -> bool:
        shape = shape_of(node)
        return len(shape) == 5 and bool((self._sides >= self.coarse * np.array(positions_of(node, last))).any())

    def far(self, coefficients: dict[Node, torch.Tensor]) -> torch.Tensor:
        """The far field `(C, I, J, K)` of coefficients: one dense backward pass, through everything as it is.

        Args:
            coefficients: by node, of a norm `(2, groups)`, of a held map its cotangent, of the map's own shape.
        """
        hooks = []
        try:
            for node, c in coefficients.items():
                hooks.append(_add_behind(node, c) if node.name() in NORMS else _add_before(node, c))
            (g,) = torch.autograd.grad((self.logits * 0).sum(), self.x, retain_graph=True)
        finally:
            for hook in hooks:
                hook.remove()
        return g[0]


def _work(node: Node, positions: int) -> int:
    """Multiplications of a convolution for so many positions of its output; other operations count for nothing."""
    return positions * node._saved_weight.numel() if node.name() == "ConvolutionBackward0" else 0


def _add_behind(node: Node, sums: torch.Tensor) -> Any:
    def hook(passed: tuple[torch.Tensor, ...], _got: Any) -> tuple[torch.Tensor, ...]:
        return (passed[0] + Norm.of(node).spread(sums).view(passed[0].shape), *passed[1:])

    return node.register_hook(hook)


def _add_before(node: Node, g: torch.Tensor) -> Any:
    return node.register_prehook(lambda got: (got[0] + g.view(got[0].shape), *got[1:]))


def _from_the_output(root: Node) -> list[Node]:
    """All nodes below `root`, each before those that it passes to."""
    order, seen, stack = [], {root}, [(root, iter(root.next_functions))]
    while stack:
        node, rest = stack[-1]
        below = next((b for b, _ in rest if b is not None and b not in seen), None)
        if below is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(below)
            stack.append((below, iter(below.next_functions)))
    return order[::-1]


# Single voxels through a view: forward once, then their near fields, some at once.

AT_ONCE = {False: 4, True: 64}  # near fields taken together on a CPU, where more leave the cache, and on a GPU
CELL = 8  # side in voxels of the cells whose voxels go together


@dataclass(frozen=True, eq=False)
class Rows:
    """V outputs, each a weighted sum of logits: `weight` `(P,)` at `place` `(P, 3)`, of output `row` `(P,)`."""

    place: Voxels
    row: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, voxels: Voxels) -> "Rows":
        """Each voxel's own logit."""
        return cls(voxels, np.arange(len(voxels)), np.ones(len(voxels)))

    @classmethod
    def joined(cls, several: Sequence["Rows"]) -> "Rows":
        """Those of one after those of the other."""
        first = np.cumsum([0, *(len(rows) for rows in several[:-1])])
        row = np.concatenate([n + rows.row for n, rows in zip(first, several, strict=True)])
        return cls(np.concatenate([r.place for r in several]), row, np.concatenate([r.weight for r in several]))

    def __len__(self) -> int:
        """V."""
        return int(self.row.max()) + 1

    def groups(self, size: int) -> list[np.ndarray]:
        """The rows in groups of up to `size` that lie close together."""
        first = self.place[np.unique(self.row, return_index=True)[1]]
        # Cell by cell, and in a cell by halves along each axis.
        order = np.lexsort((*(first // 2).T, *(first // (CELL // 2)).T, *(first // CELL).T))
        cells = np.flatnonzero((np.diff(first[order] // CELL, axis=0) != 0).any(axis=1)) + 1
        split = [some for cell in np.split(order, cells) for some in np.array_split(cell, -(-len(cell) // size))]
        return [np.sort(some) for some in split]

    def seed(self, view: View, logits: torch.Tensor, rows: np.ndarray) -> tuple[Cotangent, np.ndarray] | None:
        """The cotangents `(B, 1, i, j, k)` of some rows through a view, and `(B,)` the view's share in each.

        None if the view holds none of them.
        """
        held = view.holds(self.place)
        chosen = held & np.isin(self.row, rows)
        if not chosen.any():
            return None
        local, index = self.place[chosen] - view.box.start, view.local(self.place[chosen])
        box, at = Box.around(local), np.searchsorted(rows, self.row[chosen])
        weights = view.cotangent(logits[0], index) * torch.as_tensor(self.weight[chosen]).to(logits)
        values = logits.new_zeros(max(2, len(rows)), 1, *box.shape)  # of a batch of one convolutions are slow
        where = torch.as_tensor(np.column_stack([at, local - box.start]), device=values.device).T
        values[:, 0].index_put_(tuple(where), weights, accumulate=True)  # a row may hold a place twice
        return Cotangent(values, box), self.shares(view)[rows]

    def shares(self, view: View) -> np.ndarray:
        """`(V,)`: how much of each output a view gives."""
        held = view.holds(self.place)
        weights = view.weights_at(view.local(self.place[held])).numpy() * self.weight[held]
        given, whole = (
            np.bincount(row, some, len(self)) for row, some in ((self.row[held], weights), (self.row, self.weight))
        )
        return given / whole


def seen(network: Network, image: Volume, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """A view's input `(1, C, i, j, k)` and its lesion logits `(1, i, j, k)`, of a graph that can be read."""
    x = cut(image, view.box, network).requires_grad_()
    with torch.enable_grad(), Readable():
        return x, network.lesion_logit(x, view.number)


def in_parallel(work: Callable[[np.ndarray], Any], groups: Sequence[np.ndarray], device: torch.device) -> Iterator[Any]:
    """What `work` makes of each group, in order; on a CPU by as many workers as torch has threads, of one thread each.

    Near fields are small, and threads that share each of their operations wait for one another: on a machine that
    does other work as well, two took seven times as long as one (measured). Workers do not wait.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    def made(group: np.ndarray) -> Any:
        with torch.no_grad():
            return work(group)

    if threads == 1 or len(groups) == 1:
        yield from map(made, groups)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[Future[Any]] = deque()
            for group in groups:
                waiting.append(pool.submit(made, group))
                if len(waiting) > 2 * threads:  # what is made and not yet taken fills the memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)  # of threads that begin later


def near_extremes(network: Network, image: Volume, part: Part, at_once: int | None = None) -> Pairs:
    """The largest and smallest gradients of a part's voxels, where near fields are all there is."""
    (view,), rows = part.views, Rows.of(part.voxels)
    x, logits = seen(network, image, view)
    graph, still = Graph(x, logits), logits.detach()

    def near_of(group: np.ndarray) -> tuple[Box, torch.Tensor, torch.Tensor] | None:
        seed = rows.seed(view, still, group)
        assert seed is not None
        near, _ = graph.back(seed[0])
        if near is None:
            return None
        near = near.shifted(view.box.start)
        box = near.box & part.box
        g = near.plain()[: len(group), :, *box.local(near.box)]
        return box, g.amax(dim=0), g.amin(dim=0)

    groups = rows.groups(at_once or AT_ONCE[network.device.type == "cuda"])
    yield from (pair for pair in in_parallel(near_of, groups, network.device) if pair is not None)
