"""How far a network looks: the input voxels that one output cell can depend on."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Box
from ies_helpers.segmentation.network import Copies, Memory, Network, copy_of

LOCAL = (  # leaf modules whose output at a voxel depends on a bounded neighbourhood, in evaluation mode
    *(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d, nn.Upsample),
    *(nn.PReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Softplus, nn.Sigmoid, nn.Tanh),
    *(nn.Dropout, nn.Dropout3d, nn.AlphaDropout, nn.Identity),
)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: the probe resets them as weights
PROBE = 512  # length in voxels of the longest probe: a field beyond it counts as unbounded
PROBE_VALUES = 2**25  # that a probe may keep: a wider network is taken whole sooner than probed for minutes
UNKNOWN = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, AttributeError, AssertionError)
"""What a module may raise that cannot be copied without values, or run so."""
STRIDES = (1, 2, 4, 8, 16, 32, 64)  # what the sides of an image may have to be a multiple of


@dataclass(frozen=True)
class ReceptiveField:
    """Along each axis, output cell [s c, s c + s) depends on input [s c - before, s c + s + after), no further.

    Attributes:
        stride: s, the total stride, in voxels; cells and crops are aligned to it.
        before, after: reach in voxels beyond the cell; None when it is not bounded.
        activations: values a forward pass keeps per input voxel, for estimates of memory.
        multiple: of what a side must be a multiple, if not of the stride: a network that pads by itself takes any.
        gave_up: why no bounds were found where there may be some; nothing where it is known that there are none.
    """

    stride: tuple[int, ...]
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    activations: float
    multiple: tuple[int, ...] | None = None
    gave_up: str = ""

    @property
    def bounded(self) -> bool:
        """Whether a crop can be exact."""
        return self.before is not None

    def padded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The smallest shape `(I, J, K)` not below `shape` that the network takes."""
        return tuple(-(-n // s) * s for n, s in zip(shape, self.multiple or self.stride, strict=True))

    def crop(self, box: Box, shape: Sequence[int]) -> Box:
        """The aligned box that decides the outputs on `box`, in a volume `(I, J, K)`; all of it without bounds.

        It is clipped to the padded volume: at a border the crop's own zero padding is then the network's.
        """
        whole = Box.whole(self.padded(tuple(shape)))
        if self.before is None or self.after is None:
            return whole
        s = np.array(self.stride)
        start = box.start // s * s - self.before  # of the cells that the box touches, and their reach
        stop = (box.stop - 1) // s * s + s + self.after
        return Box.of(start // s * s, -(-stop // s) * s) & whole


_FIELDS = Memory(weights=False)  # the probe writes its own over them


def receptive_field(network: Network, channels: int) -> ReceptiveField:
    """The field of `network` for images of `channels` channels, by a probe, remembered while nothing changes it.

    The probe is a copy of the module with positive weights, no biases and neutral normalisation, on a thin positive
    volume: no path is cut by an activation or cancelled by another, so a cell's gradient is non-zero exactly on its
    field. A leaf outside `LOCAL` (instance norm, attention) has no bounds; the stride is then the `Network`'s, or the
    least of `STRIDES` whose multiples it takes.
    """
    module = network.module
    if isinstance(module, Copies):  # all members are of one plan; a mirrored one looks as far the other way
        field = receptive_field(replace(network, module=module.members[0]), channels)
        if field.before is None or field.after is None:
            return field
        reach = tuple(map(max, field.before, field.after))
        return replace(field, before=reach, after=reach) if any(flip for _, flip in module.passes) else field
    local = not far_leaves(module)
    buffers = [b for name, b in module.named_buffers() if local and name.rpartition(".")[2] not in STATISTICS]
    fixed = tuple(b.cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for b in buffers)
    return _FIELDS(module, channels, network.function, fixed, make=lambda: _probed(network, channels, local))


def _probed(network: Network, channels: int, local: bool) -> ReceptiveField:
    multiple, hollow = network.stride, _hollow(network)
    if multiple is None and hollow:
        multiple = _taken(hollow, channels)
    if not local:
        return ReceptiveField(multiple or (1, 1, 1), None, None, _values_kept(hollow, channels))
    try:
        return _seen_by_probe(network, hollow, channels, multiple)
    except UNKNOWN:  # as where its gradient ends inside
        stride = multiple or (1, 1, 1)
        return ReceptiveField(stride, None, None, _values_kept(hollow, channels), gave_up="it cannot be tried out")


def _seen_by_probe(
    network: Network, hollow: Network | None, channels: int, multiple: tuple[int, ...] | None
) -> ReceptiveField:
    positive = replace(network, module=_positive_copy(network.module), through="whole")
    try:
        # Without values only where that was tried above: torch imports sympy for it, in seconds.
        empty = hollow if network.stride is None else None
        found = [_stride(positive, empty, channels, axis) for axis in range(3)]
    except UNKNOWN:
        why = "it takes no thin volume, by which it would show how far it looks"
        return ReceptiveField(multiple or (1, 1, 1), None, None, _values_kept(hollow, channels), gave_up=why)
    stride = network.stride or (found[0][0], found[1][0], found[2][0])
    reach, kept = [], found[0][1]
    positive = replace(positive, stride=stride)
    for axis in range(3):
        one = _reach(positive, channels, axis, stride[axis], kept)
        if isinstance(one, str):
            return ReceptiveField(stride, None, None, kept, multiple, gave_up=one)
        reach.append(one)
    before, after = zip(*reach, strict=True)
    return ReceptiveField(stride, before, after, kept, multiple)


def _hollow(network: Network) -> Network | None:
    """The same network without values, which runs at once and tells shapes; None if its module cannot be copied so."""
    try:
        return replace(network, module=copy_of(network.module).to("meta"))
    except UNKNOWN:  # TorchScript, for one
        return None


def _taken(hollow: Network, channels: int) -> tuple[int, ...] | None:
    """The least of `STRIDES`, along each axis, of which a side may be any multiple; None if it takes none of them."""
    found = []
    for axis in range(3):
        for stride in STRIDES:  # an odd multiple, of at least 64 voxels: at the bottom a norm needs more than one
            sides = [STRIDES[-1]] * 3
            sides[axis] = stride * (STRIDES[-1] // stride | 1)
            try:
                with torch.no_grad():
                    hollow.logits(torch.empty(1, channels, *sides, dtype=hollow.dtype, device="meta"))
            except UNKNOWN:
                continue
            found.append(stride)
            break
        else:
            return None
    return tuple(found)


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if not list(m.children())]


def far_leaves(module: nn.Module) -> list[nn.Module]:
    """The parts without parts of their own of which it is not known that they look at a bounded neighbourhood."""
    return [leaf for leaf in _leaves(module) if not isinstance(leaf, LOCAL)]


def fills_window(network: Network, channels: int) -> bool:
    """Whether the cell in the middle of a window depends on all of the window, by one thin pass along each axis."""
    assert network.sides is not None
    module = network.module.members[0] if isinstance(network.module, Copies) else network.module
    positive = replace(network, module=_positive_copy(module))
    for axis, side in enumerate(network.sides):
        stride = network.stride[axis] if network.stride else 1
        volume = _thin(network, channels, axis, side).requires_grad_()
        with torch.enable_grad():
            cell = positive.lesion_logit(volume).narrow(1 + axis, side // 2 // stride * stride, stride).sum()
        (g,) = torch.autograd.grad(cell, volume)
        seen = g.abs().sum(dim=[d for d in range(5) if d != 2 + axis])
        if not (seen[0] and seen[-1]):
            return False
    return True


def _positive_copy(module: nn.Module) -> nn.Module:
    module = copy_of(module).double().cpu().eval()
    for leaf in module.modules():
        for name, parameter in leaf.named_parameters(recurse=False):
            parameter.data.fill_(0.0 if name == "bias" else 1.0 / max(1, parameter[0].numel()))
        if isinstance(leaf, nn.modules.batchnorm._NormBase) and leaf.running_mean is not None:
            leaf.running_mean.zero_()
            leaf.running_var.fill_(1.0)  # pyright: ignore[reportOptionalMemberAccess]
    return module


def _leaf_shapes(module: nn.Module, run: Callable[[], object]) -> list[tuple[int, ...]]:
    """The shape of what each leaf puts out while the module is `run`."""
    shapes: list[tuple[int, ...]] = []
    with ExitStack() as hooks, torch.no_grad():
        for leaf in _leaves(module):
            hook = leaf.register_forward_hook(lambda _leaf, _inputs, y: shapes.append(getattr(y, "shape", (0,))))
            hooks.callback(hook.remove)
        run()
    return shapes


def _values_kept(hollow: Network | None, channels: int) -> float:
    """Values that the leaves of a module put out per input voxel, counted without computing any; 0 if unknown."""
    if hollow is None:
        return 0.0
    module, side = hollow.module, max(hollow.sides or (8 * max(hollow.stride or (8,)),))
    x = torch.empty(1, channels, side, side, side, dtype=hollow.dtype, device="meta")
    try:
        return sum(map(math.prod, _leaf_shapes(module, lambda: module(x)))) / side**3
    except UNKNOWN:  # a module that looks at values
        return 0.0


def _thin(network: Network, channels: int, axis: int, length: int) -> torch.Tensor:
    """A positive random volume, long along one axis: random, so that maxima fall on every position."""
    shape = [max(8, *network.stride) if network.stride else 32] * 3
    shape[axis] = length
    generator = torch.Generator().manual_seed(length)
    return torch.rand(1, channels, *shape, dtype=torch.float64, generator=generator) + 0.5


def _stride(network: Network, hollow: Network | None, channels: int, axis: int) -> tuple[int, float]:
    """The total stride along an axis, and the values kept per voxel, seen from the leaves' output sizes."""
    volume, shapes = _thin(network, channels, axis, 128), []
    if hollow is not None:
        with suppress(*UNKNOWN):
            empty = torch.empty_like(volume, dtype=hollow.dtype, device="meta")
            shapes = _leaf_shapes(hollow.module, lambda: hollow.logits(empty))
    shapes = shapes or _leaf_shapes(network.module, lambda: network.logits(volume))
    return 128 // min(128, *(s[2 + axis] for s in shapes)), sum(map(math.prod, shapes)) / volume[0, 0].numel()


def _reach(network: Network, channels: int, axis: int, stride: int, kept: float) -> tuple[int, int] | str:
    """How far before and after its cell one output cell looks along an axis, or why that was not found."""
    length = max(128, 8 * stride)
    while length <= PROBE:
        start = length // 2 // stride * stride
        volume = _thin(network, channels, axis, length).requires_grad_()
        if kept * volume[0, 0].numel() > PROBE_VALUES:
            return "it is so wide that how far it looks was not tried out"
        with torch.enable_grad():
            cell = network.lesion_logit(volume).narrow(1 + axis, start, stride).sum()
        (g,) = torch.autograd.grad(cell, volume) if cell.requires_grad else (volume.new_zeros(1, 1, 1, 1, 1),)
        seen = g.abs().sum(dim=[d for d in range(5) if d != 2 + axis]).nonzero().flatten()
        if not len(seen):
            return "how far it looks does not show in its gradient"
        before, after = start - int(seen.min()), int(seen.max()) + 1 - start - stride
        if before < start and start + stride + after < length:
            return max(before, 0), max(after, 0)
        length *= 2
    return f"it looks {PROBE // 2} voxels far or further along axis {axis}"
