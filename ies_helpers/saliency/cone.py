"""The U-Net's own shortcut: the backward pass of single voxels on the few positions it can reach, exact.

Once a strided-convolution U-Net with batch normalisation has run forward, its backward pass is linear: every activation
multiplies by a known slope, every convolution by its transpose. For one output voxel that pass touches two positions
along each axis at the bottom and 79 at the input, so it is carried out on these windows alone, for many voxels of one
cell at once. A sum over voxels is one such pass on the windows of all their cells.

Along each axis, with n strides and cells voxel // 2^n from a to b, level g (after g strides) is touched on

    decoder   [2^(n-g) a, 2^(n-g) b + 2^(n-g)]      a transposed convolution reaches one position further,
    encoder   [lo, hi], from [a - 1, b + 2] at g = n, then lo' = 2 lo - 1, hi' = 2 hi + 1 on the way up.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.saliency.views import Each, Pairs, Part, View, cut, group_voxels, upload
from ies_helpers.segmentation.inference import check_finite
from ies_helpers.segmentation.network import Memory, Network

# What this cone and that of `frozen` share: known slopes, plain convolutions, windows, batches, and a check.

KINKED = (nn.PReLU, nn.LeakyReLU, nn.ReLU)  # activations of slope 1 above zero and a constant slope below
BATCH = 4  # voxels taken at once on a CPU: more leave its cache
CLOSE = 1e-3  # largest difference from autograd, relative to the largest gradient, at which a cone is trusted


def slope_of(act: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """`(1, F, i, j, k)`: the slope of one of `KINKED` at its input `x`."""
    below = getattr(act, "weight", getattr(act, "negative_slope", 0.0))
    below = torch.as_tensor(below, dtype=x.dtype, device=x.device).view(1, -1, 1, 1, 1)
    return torch.where(x > 0, torch.ones_like(below), below)


def factor_of(norm: nn.BatchNorm3d) -> torch.Tensor:
    """`(F,)`: what a batch norm in evaluation mode multiplies each channel by."""
    factor = (norm.running_var + norm.eps).rsqrt()  # pyright: ignore[reportOptionalOperand]
    return factor if norm.weight is None else factor * norm.weight


def is_plain(conv: object, kind: type, kernel: int, stride: int) -> bool:
    """Whether `conv` is a `kind` of these sides that turns n positions into n / stride, or back, zero-padded."""
    pad = (kernel - 1) // 2
    output_padding = stride - kernel + 2 * pad if kind is nn.ConvTranspose3d else 0
    sides = {"kernel_size": kernel, "stride": stride, "padding": pad, "dilation": 1, "output_padding": output_padding}
    wanted = {name: (n,) * 3 for name, n in sides.items()} | {"groups": 1, "padding_mode": "zeros"}
    return type(conv) is kind and all(getattr(conv, name) == value for name, value in wanted.items())


def lesion_channel(last: nn.Conv3d | nn.ConvTranspose3d, lesion_class: int) -> int | None:
    """The output of a network's last convolution that is its lesion logit, if any; one z is the classes (0, z)."""
    if last.out_channels == 1:
        return 0 if lesion_class == 1 else None
    return lesion_class if lesion_class < last.out_channels else None


def voxels_at_once(budget: int, values: int, like: torch.Tensor) -> int:
    """How many voxels a budget of bytes holds, of `values` each of the precision and on the device of `like`."""
    batch = max(1, budget // (values * like.element_size()))
    return min(batch, BATCH) if like.device.type == "cpu" else batch


def window(volume: torch.Tensor, lo: np.ndarray, hi: np.ndarray) -> torch.Tensor:
    """`volume` `(1, F, i, j, k)` from position `lo` to `hi`, both included, zero where it does not reach."""
    shape = np.asarray(volume.shape[2:])
    a, b = np.clip(lo, 0, shape), np.clip(np.asarray(hi) + 1, 0, shape)
    rim = [int(r) for axis in (2, 1, 0) for r in (a[axis] - lo[axis], hi[axis] + 1 - b[axis])]
    return F.pad(volume[..., *Box.of(a, b)], rim)


_TRUSTED = Memory()


def trusted(network: Network, kind: str, part: Part, cone: Each, autograd: Each) -> bool:
    """Whether the gradient of a part's first voxel through its first view is autograd's by a cone, too.

    Asked once of a network as it is; where the two differ, a warning says that it is not of the `kind`.
    """

    def agree() -> bool:
        view, voxel = part.views[0], part.voxels[:1]
        ((_, seen, wanted),) = autograd(view, voxel)
        check_finite(wanted, network)
        ((_, box, got),) = cone(view, voxel)
        apart = wanted.clone()
        apart[:, *box.local(seen)] -= got
        close = bool(apart.abs().max() <= CLOSE * wanted.abs().max())
        if not close:
            what = f"{network.name} is no {kind} of the published kind after all"
            warnings.warn(f"{what}; taking the crop.", stacklevel=2)
        return close

    return _TRUSTED(network.module, kind, network.lesion_class, make=agree)


# The published U-Net taken apart, piece by piece, so that its backward pass can be written down.


@dataclass(eq=False)
class Layer:
    """One convolution, what follows it, and, once a forward pass has been seen, the `slope` of that on the crop."""

    conv: nn.Conv3d | nn.ConvTranspose3d
    norm: nn.BatchNorm3d | None = None
    act: nn.Module | None = None
    slope: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # (1, F, i, j, k) of the output by conv's

    def note_slope(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the activation: keep the slope where its input lies."""
        self.slope = slope_of(self.act, inputs[0])
        if self.norm is not None and self.norm.running_var is not None:
            self.slope = self.slope * factor_of(self.norm).view(1, -1, 1, 1, 1)


def take_apart(module: Any) -> tuple[list[Layer], Layer, list[Layer]] | None:
    """The layers downwards, at the bottom and upwards (outermost first); None for any other network.

    Checked piece by piece: one 3^3 convolution of stride 2 (or, upwards, its transpose) a level, one of stride 1 at the
    bottom, batch normalisation, an activation of two slopes, plain concatenating skips.
    """
    from monai.networks.blocks.convolutions import Convolution  # MONAI takes seconds
    from monai.networks.layers.simplelayers import SkipConnection
    from monai.networks.nets.unet import UNet

    if not isinstance(module, UNet):
        return None
    down: list[Any] = []
    up: list[Any] = []
    block: Any = module.model
    while isinstance(block, nn.Sequential) and not isinstance(block, Convolution):
        if len(block) != 3 or not isinstance(block[1], SkipConnection) or block[1].mode != "cat":
            return None
        down.append(_layer(block[0], nn.Conv3d, 2))
        up.append(_layer(block[2], nn.ConvTranspose3d, 2, last=not up))
        block = block[1].submodule
    bottom = _layer(block, nn.Conv3d, 1)
    return (down, bottom, up) if down and bottom and all(down) and all(up) else None


def _layer(block: Any, kind: type, stride: int, last: bool = False) -> Layer | None:
    """The layer that a block is; None if it is anything more or else."""
    conv: Any = getattr(block, "conv", None)
    adn: Any = getattr(block, "adn", None)
    known = [conv] if last else [conv, adn]
    if not is_plain(conv, kind, 3, stride) or any(child not in known for child in block.children()):
        return None
    if last:
        return Layer(conv) if adn is None else None
    norm, act, dropout = (getattr(adn, name, None) for name in "NAD")
    known_kinds = isinstance(norm, nn.BatchNorm3d) and isinstance(act, KINKED)
    if not known_kinds or not isinstance(dropout, nn.Dropout | nn.Dropout3d | None):
        return None
    in_order = list(adn.children()) == [m for m in (norm, dropout, act) if m is not None]
    return Layer(conv, norm, act) if in_order else None


# Its backward pass on the positions that voxels can reach.


class Cone:
    """The backward pass of a U-Net, its layers as `take_apart` gives them, voxel by voxel, from output `channel`."""

    def __init__(self, module: nn.Module, down: list[Layer], bottom: Layer, up: list[Layer], channel: int = 1) -> None:
        self.module, self.down, self.bottom, self.up, self.channel = module, down, bottom, up, channel
        self.strides = len(down)
        self.finite = torch.tensor(0.0)

    @contextmanager
    def seeing(self, x: torch.Tensor) -> Iterator[None]:
        """Run the network itself on a crop `(1, C, i, j, k)` and keep every slope inside, none afterwards.

        It is stopped before its last convolution, which no slope depends on and which is slow on a CPU. Slopes forget a
        NaN, so `finite` keeps 0, or NaN where what the last convolution gets is not finite.
        """

        def stop(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.finite = 0 * inputs[0].sum()
            raise _SlopesKnown

        layers = [*self.down, self.bottom, *self.up]
        try:
            with ExitStack() as hooks, torch.no_grad(), suppress(_SlopesKnown):
                hooks.callback(self.up[0].conv.register_forward_pre_hook(stop).remove)
                for layer in layers:
                    if layer.act is not None:
                        hooks.callback(layer.act.register_forward_pre_hook(layer.note_slope).remove)
                self.module(x)
            yield
        finally:
            for layer in layers:
                layer.slope = layer.slope.new_empty(0)

    def extremes(self, network: Network, image: Volume, part: Part, budget: int) -> Pairs:
        """The largest and smallest gradients of a part's voxels, on each cell's box, by one forward pass for all."""
        (view,) = part.views
        batch = voxels_at_once(budget, self.values(), self.up[0].conv.weight)
        with self.seeing(cut(image, view.box, network)):
            for cell, voxels in group_voxels(part.voxels, part.voxels // 2**self.strides):
                box, within = self._reach(cell, cell, part.box)
                for g in self.gradients(cell, view.box.start, voxels, batch):
                    inner = window(g, *within)
                    yield box, inner.amax(dim=0), inner.amin(dim=0)

    def summed(self, network: Network, image: Volume, part: Part) -> tuple[Box, torch.Tensor]:
        """The sum of the gradients of a part's voxels, `(C, i, j, k)`, and the box it is on."""
        (view,) = part.views
        cells = part.voxels // 2**self.strides
        first, last = cells.min(axis=0), cells.max(axis=0)
        box, within = self._reach(first, last, part.box)
        with self.seeing(cut(image, view.box, network)):
            seed = self._seed(part.voxels, first, last, np.zeros(len(part.voxels), dtype=int))
            g = self._backward(seed, self._slopes(first, last, view.box.start))
        return box, window(g, *within)[0]

    def each(self, network: Network, image: Volume) -> Each:
        """Voxel by voxel, each with a forward pass of its own: for a check, not for work."""

        def each(view: View, voxels: Voxels) -> Iterator[tuple[int, Box, torch.Tensor]]:
            for row, voxel in enumerate(voxels):
                ((box, g, _),) = self.extremes(network, image, Part(voxel[None], [view], view.box), 0)
                yield row, box, g

        return each

    def values(self) -> int:
        """Values that the backward pass of one voxel holds at its widest, three times the encoder's windows."""
        width, values = 4, 0
        for layer in reversed(self.down):
            values += layer.conv.out_channels * width**3
            width = 2 * width + 1
        return 3 * (values + self.down[0].conv.in_channels * width**3)

    def gradients(self, cell: np.ndarray, origin: np.ndarray, voxels: Voxels, batch: int) -> Iterator[torch.Tensor]:
        """Gradients of the lesion logits at `voxels` of one `cell`, so many at once, by the crop seen from `origin`.

        `(B, C, w, w, w)`, each on the input window [2^n c - 2^(n+1) + 1, 2^n c + 3 * 2^n - 1] of cell c, zero where
        that reaches beyond the crop.
        """
        slopes = self._slopes(cell, cell, origin)
        for chunk in np.array_split(voxels, -(-len(voxels) // batch)):
            yield self._backward(self._seed(chunk, cell, cell, np.arange(len(chunk))), slopes)

    def _reach(self, first: np.ndarray, last: np.ndarray, box: Box) -> tuple[Box, tuple[np.ndarray, np.ndarray]]:
        """Where in `box` the cells' gradient can be non-zero, and the same as positions of their input window."""
        side = 2**self.strides
        begin, end = side * (first - 2) + 1, side * (last + 3)
        reached = Box.of(begin, end) & box
        return reached, (reached.start - begin, reached.stop - begin - 1)

    def _slopes(self, first: np.ndarray, last: np.ndarray, origin: np.ndarray) -> dict[int, torch.Tensor]:
        """Each layer's slope on its window of these cells, zero outside the crop."""
        slopes, n = {}, self.strides
        # Encoder, from the bottom to the input: windows [lo, hi] that grow to twice their length and one.
        lo, hi = first - 1, last + 2
        for level in range(n, 0, -1):
            layer, start = self.down[level - 1], origin // 2**level
            slopes[id(layer)] = window(layer.slope, lo - start, hi - start)
            lo, hi = 2 * lo - 1, 2 * hi + 1
        # Decoder and bottom: the cells' own positions and one behind them.
        for level, layer in enumerate([*self.up[1:], self.bottom], 1):
            side, start = 2 ** (n - level), origin // 2**level
            slopes[id(layer)] = window(layer.slope, side * first - start, side * (last + 1) - start)
        return slopes

    def _seed(self, voxels: Voxels, first: np.ndarray, last: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """`(B, 1, i, j, k)`, one at each voxel in its row, on the cells' output window and one position around it."""
        weight, side = self.up[0].conv.weight, 2**self.strides
        seed = weight.new_zeros(int(rows[-1]) + 1, 1, *(int(n) for n in side * (last - first + 1) + 3))
        index = upload(torch.as_tensor(np.column_stack([rows, voxels - side * first + 1])), seed.device).T
        seed[:, 0][tuple(index)] = 1.0 + self.finite
        return seed

    def _backward(self, seed: torch.Tensor, slopes: dict[int, torch.Tensor]) -> torch.Tensor:
        """From the outputs' cotangents `(B, 1, i, j, k)` to the input's gradient `(B, C, i, j, k)`."""
        # Last convolution, lesion output alone: (B, 1, 2 m + 1) -> (B, skipped and decoded features, m).
        g, skipped = F.conv3d(seed, self.up[0].conv.weight[:, self.channel, None], stride=2), []
        # Decoder, downwards: keep the share of the skip, take the rest through slope and convolution to (B, F, ~m / 2).
        for layer, below in zip(self.down, [*self.up[1:], self.bottom], strict=True):
            width = layer.conv.out_channels
            skipped.append(g[:, :width])
            g = g[:, width:] * slopes[id(below)]
            if below is not self.bottom:
                g = F.conv3d(F.pad(g, [1] * 6), below.conv.weight, stride=2)
        # Bottom, stride 1: (B, F, 2) -> (B, E, 4).
        g = F.conv_transpose3d(g, self.bottom.conv.weight)
        # Encoder, upwards: add the skip in the middle, then slope and convolution: (B, F, w) -> (B, E, 2 w + 1).
        for layer, skip in zip(reversed(self.down), reversed(skipped), strict=True):
            rim = (g.shape[-1] - skip.shape[-1]) // 2
            g[(..., *(slice(rim, rim + n) for n in skip.shape[2:]))] += skip
            g = convolve_back(g.mul_(slopes[id(layer)]), layer.conv.weight)
        return g


class _SlopesKnown(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a forward pass of which every slope is known."""


def cone_of(module: nn.Module, lesion_class: int = 1) -> Cone | None:
    """The cone of a MONAI U-Net of the published kind, any depth, width and classes; None for anything else."""
    levels = take_apart(module)
    channel = None if levels is None else lesion_channel(levels[2][0].conv, lesion_class)
    return None if levels is None or channel is None else Cone(module, *levels, channel)


def convolve_back(g: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Transpose of a 3^3 convolution of stride 2: n positions -> 2 n + 1 along each axis.

    With few output channels the library's is slow, so here one dense 2^3 convolution makes the eight interleaved
    halves. Position 2 m takes taps 0 (from m) and 2 (from m - 1), position 2 m + 1 takes tap 1 (from m).
    """
    channels = weight.shape[1]
    if channels > 4:
        return F.conv_transpose3d(g, weight, stride=2)
    # Weight (F, E, 3, 3, 3) -> (8 E, F, 2, 2, 2): of each axis the taps of even and of odd positions.
    taps = F.pad(weight, [0, 1] * 3)[..., [2, 3, 0, 1]][..., [2, 3, 0, 1], :][..., [2, 3, 0, 1], :, :]
    taps = taps.reshape(*weight.shape[:2], 2, 2, 2, 2, 2, 2)  # tap pair, then half, along each axis
    taps = taps.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(8 * channels, weight.shape[0], 2, 2, 2)
    # (B, F, n) -> (B, 8 E, n + 1) -> (B, E, 2 n + 2), of which the last position is none.
    halves = F.conv3d(F.pad(g, [1] * 6), taps)
    sides = halves.shape[2:]
    halves = halves.reshape(len(g), channels, 2, 2, 2, *sides).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return halves.reshape(len(g), channels, *(2 * n for n in sides))[..., :-1, :-1, :-1]
