"""The U-Net's own shortcut: the backward pass of single voxels on the few positions it can reach, exact.

Once a strided-convolution U-Net with batch normalisation has run forward, its backward pass is linear: every
activation multiplies by a known slope, every convolution by its transpose. For one output voxel that pass
touches two positions along each axis at the bottom and 79 at the input, so it is carried out on these windows
alone, for many voxels of one cell at once, in place of a pass over the whole volume for each. A sum over voxels
is one such pass on the windows of all their cells.

Along each axis, with n strides and cells voxel // 2^n from a to b, level g (after g strides) is touched on

    decoder   [2^(n-g) a, 2^(n-g) b + 2^(n-g)]      a transposed convolution reaches one position further,
    encoder   [lo, hi], from [a - 1, b + 2] at g = n, then lo' = 2 lo - 1, hi' = 2 hi + 1 on the way up.
"""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.saliency.views import Pairs, Part, cut, forward, group_voxels, upload
from ies_helpers.segmentation.inference import check_finite
from ies_helpers.segmentation.network import Network

# The published U-Net taken apart, piece by piece, so that its backward pass can be written down.

KINKED = (nn.PReLU, nn.LeakyReLU, nn.ReLU)
"""Activations of slope 1 above zero and a constant slope below."""


@dataclass(eq=False)
class Layer:
    """One convolution, and the slope of what follows it, once a forward pass has been seen.

    Attributes:
        conv: the convolution, strided or transposed.
        norm, act: what follows, None behind the last convolution.
        slope: `(1, F, i, j, k)` derivative of the layer's output by the convolution's, on the crop.
    """

    conv: nn.Conv3d | nn.ConvTranspose3d
    norm: nn.BatchNorm3d | None = None
    act: nn.Module | None = None
    slope: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def see(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the activation: note the slope where its input lies."""
        self.slope = slope_of(self.act, inputs[0])
        if self.norm is not None and self.norm.running_var is not None:
            self.slope = self.slope * factor_of(self.norm).view(1, -1, 1, 1, 1)


def slope_of(act: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """`(1, F, i, j, k)`: the slope of one of `KINKED` at its input `x`."""
    below = getattr(act, "weight", getattr(act, "negative_slope", 0.0))
    below = torch.as_tensor(below, dtype=x.dtype, device=x.device).view(1, -1, 1, 1, 1)
    return torch.where(x > 0, torch.ones_like(below), below)


def factor_of(norm: nn.BatchNorm3d) -> torch.Tensor:
    """`(F,)`: what a batch norm in evaluation mode multiplies each channel by."""
    factor = (norm.running_var + norm.eps).rsqrt()  # pyright: ignore[reportOptionalOperand]
    return factor if norm.weight is None else factor * norm.weight


def take_apart(module: nn.Module) -> tuple[list[Layer], Layer, list[Layer]] | None:
    """The layers downwards, at the bottom and upwards (outermost first); None for any other network.

    Checked piece by piece: one 3^3 convolution of stride 2 (or, upwards, its transpose) a level, one of stride
    1 at the bottom, batch normalisation, an activation of two slopes, plain concatenating skips.
    """
    from monai.networks.blocks.convolutions import Convolution  # MONAI takes seconds
    from monai.networks.layers.simplelayers import SkipConnection
    from monai.networks.nets.unet import UNet

    if not isinstance(module, UNet):
        return None
    down, up, block = [], [], module.model
    while isinstance(block, nn.Sequential) and not isinstance(block, Convolution):
        if len(block) != 3 or not isinstance(block[1], SkipConnection) or block[1].mode != "cat":
            return None
        down.append(_layer(block[0], nn.Conv3d, 2))
        up.append(_layer(block[2], nn.ConvTranspose3d, 2, last=not up))
        block = block[1].submodule
    bottom = _layer(block, nn.Conv3d, 1)  # pyright: ignore[reportArgumentType]
    if not down or bottom is None or None in down or None in up or up[0].conv.out_channels < 2:
        return None
    return down, bottom, up  # pyright: ignore[reportReturnType]


def _layer(block: nn.Module, kind: type, stride: int, last: bool = False) -> Layer | None:
    conv, adn = getattr(block, "conv", None), getattr(block, "adn", None)
    shape = {
        "kernel_size": (3, 3, 3),
        "stride": (stride,) * 3,
        "padding": (1, 1, 1),
        "dilation": (1, 1, 1),
        "groups": 1,
    }
    if kind is nn.ConvTranspose3d:
        shape["output_padding"] = (stride - 1,) * 3
    if type(conv) is not kind or any(getattr(conv, name) != value for name, value in shape.items()):
        return None
    if last:
        return Layer(conv) if adn is None and not _others(block, conv) else None  # pyright: ignore[reportArgumentType]
    norm, act = getattr(adn, "N", None), getattr(adn, "A", None)
    dropout = getattr(adn, "D", None)
    if not isinstance(norm, nn.BatchNorm3d) or not isinstance(act, KINKED) or _others(block, conv, adn):
        return None
    if list(adn.children()) != [m for m in (norm, dropout, act) if m is not None]:  # pyright: ignore
        return None
    if dropout is not None and not isinstance(dropout, nn.Dropout | nn.Dropout3d):
        return None
    return Layer(conv, norm, act)  # pyright: ignore[reportArgumentType]


def _others(block: nn.Module, *known: object) -> bool:
    return any(child not in known for child in block.children())


BATCH = 4
"""Voxels taken at once on a CPU: more leave its cache."""

CLOSE = 1e-3
"""Largest difference from autograd, relative to the largest gradient, at which a cone is trusted."""


class Cone:
    """The backward pass of a U-Net, voxel by voxel; made by `cone_of`."""

    def __init__(
        self, module: nn.Module, down: list[Layer], bottom: Layer, up: list[Layer], lesion_class: int = 1
    ) -> None:
        self.module, self.down, self.bottom, self.up = module, down, bottom, up
        self.lesion_class = lesion_class
        self.strides = len(down)
        self.finite = torch.tensor(0.0)

    def look(self, x: torch.Tensor) -> None:
        """Run the network itself on a crop `(1, C, i, j, k)` and keep every slope.

        It is stopped before its last convolution, which no slope depends on and which is slow on a CPU.
        Slopes forget a NaN, so `finite` keeps 0, or NaN where what the last convolution gets is not finite.
        """

        def stop(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.finite = 0 * inputs[0].sum()
            raise _SeenEnough

        with ExitStack() as hooks, torch.no_grad(), suppress(_SeenEnough):
            hooks.callback(self.up[0].conv.register_forward_pre_hook(stop).remove)
            for layer in [*self.down, self.bottom, *self.up]:
                if layer.act is not None:
                    hooks.callback(layer.act.register_forward_pre_hook(layer.see).remove)
            self.module(x)

    @contextmanager
    def seeing(self, x: torch.Tensor) -> Iterator[None]:
        """`look`, with the slopes gone afterwards: a patient's lesions have a cone each."""
        try:
            yield self.look(x)
        finally:
            for layer in [*self.down, self.bottom, *self.up]:
                layer.slope = layer.slope.new_empty(0)

    def extremes(self, network: Network, image: Volume, part: Part, budget: int) -> Pairs:
        """The largest and smallest gradients of a part's voxels, cell by cell, each on its cell's box.

        One forward pass on the part's crop serves all its cells.
        """
        (view,) = part.views
        batch = max(1, budget // (self.values() * network.dtype.itemsize))
        if network.device.type == "cpu":
            batch = min(batch, BATCH)
        with self.seeing(cut(image, view.box, network)):
            for cell, voxels in group_voxels(part.voxels, part.voxels // 2**self.strides):
                box, within = self._reach(cell, cell, part.box)
                for g in self.gradients(cell, view.box.start, voxels, batch):
                    inner = window(g, *within)
                    yield box, inner.amax(dim=0), inner.amin(dim=0)  # pyright: ignore[reportReturnType]

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

    def values(self) -> int:
        """Values that the backward pass of one voxel holds at its widest, three times the encoder's windows."""
        width, values = 4, 0
        for layer in reversed(self.down):
            values += layer.conv.out_channels * width**3
            width = 2 * width + 1
        return 3 * (values + self.down[0].conv.in_channels * width**3)

    def gradients(self, cell: np.ndarray, origin: np.ndarray, voxels: Voxels, batch: int) -> Iterator[torch.Tensor]:
        """Gradients of the lesion logits at `voxels`, all of one cell, by the crop that `look` saw.

        Args:
            cell: `(3,)`, the voxels' cell.
            origin: `(3,)`, first voxel of the crop, a multiple of 2^n.
            voxels: `(V, 3)`.
            batch: voxels taken at once.

        Yields:
            `(B, C, w, w, w)` on the input window [2^n c - 2^(n+1) + 1, 2^n c + 3 * 2^n - 1], which may reach
            beyond the crop (there it is zero).
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
        lo, hi = first - 1, last + 2
        for level in range(n, 0, -1):
            start = origin // 2**level
            slopes[id(self.down[level - 1])] = window(self.down[level - 1].slope, lo - start, hi - start)
            lo, hi = 2 * lo - 1, 2 * hi + 1
        start = origin // 2**n
        slopes[id(self.bottom)] = window(self.bottom.slope, first - start, last + 1 - start)
        for level in range(1, n):
            side, start = 2 ** (n - level), origin // 2**level
            slopes[id(self.up[level])] = window(self.up[level].slope, side * first - start, side * (last + 1) - start)
        return slopes

    def _seed(self, voxels: Voxels, first: np.ndarray, last: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """`(B, 1, i, j, k)`, one at each voxel in its row, on the cells' output window and one position around it."""
        weight, side = self.up[0].conv.weight, 2**self.strides
        seed = weight.new_zeros(int(rows[-1]) + 1, 1, *(int(n) for n in side * (last - first + 1) + 3))
        index = upload(torch.as_tensor(np.column_stack([rows, voxels - side * first + 1])), seed.device).T
        seed[:, 0][tuple(index)] = 1.0 + self.finite
        return seed

    def _backward(self, seed: torch.Tensor, slopes: dict[int, torch.Tensor]) -> torch.Tensor:
        """From the outputs' cotangents `(B, 1, i, j, k)` to the input's gradient."""
        g, skipped = F.conv3d(seed, self.up[0].conv.weight[:, self.lesion_class, None], stride=2), []
        for layer, below in zip(self.down, [*self.up[1:], self.bottom], strict=True):
            width = layer.conv.out_channels
            skipped.append(g[:, :width])
            g = g[:, width:] * slopes[id(below)]
            if below is not self.bottom:
                g = F.conv3d(F.pad(g, [1] * 6), below.conv.weight, stride=2)
        g = F.conv_transpose3d(g, self.bottom.conv.weight)
        for layer, skip in zip(reversed(self.down), reversed(skipped), strict=True):
            rim = (g.shape[-1] - skip.shape[-1]) // 2
            g[(..., *(slice(rim, rim + n) for n in skip.shape[2:]))] += skip
            g = upwards(g.mul_(slopes[id(layer)]), layer.conv.weight)
        return g


class _SeenEnough(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a forward pass of which every slope is known."""


def cone_of(module: nn.Module, lesion_class: int = 1) -> Cone | None:
    """The cone of a MONAI U-Net of the published kind, any depth and width; None for anything else."""
    levels = take_apart(module)
    return None if levels is None else Cone(module, *levels, lesion_class)


_TRUSTED: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def trusted(cone: Cone, network: Network, image: Volume, part: Part) -> bool:
    """Whether a voxel's gradient by the cone is autograd's on the same crop; asked once for each module."""
    if network.module not in _TRUSTED:
        (view,) = part.views
        x, logits = forward(network, image, view)
        logit = logits[view.local(part.voxels[:1])].sum()
        check_finite(logit, network)
        (wanted,) = torch.autograd.grad(logit, x)
        ((box, got, _),) = cone.extremes(network, image, Part(part.voxels[:1], part.views, part.box), 0)
        wanted = wanted[0][:, *box.local(view.box)]
        close = bool((got - wanted).abs().max() <= CLOSE * wanted.abs().max())
        if not close:
            warnings.warn(f"{network.name} is no U-Net of the published kind after all; taking the crop.", stacklevel=2)
        _TRUSTED[network.module] = close
    return _TRUSTED[network.module]


def window(volume: torch.Tensor, lo: np.ndarray, hi: np.ndarray) -> torch.Tensor:
    """`volume` `(1, F, i, j, k)` from position `lo` to `hi`, both included, zero where it does not reach."""
    shape = np.asarray(volume.shape[2:])
    a, b = np.clip(lo, 0, shape), np.clip(np.asarray(hi) + 1, 0, shape)
    inner = volume[(..., *(slice(int(i), int(j)) for i, j in zip(a, b, strict=True)))]
    rim = [int(r) for axis in (2, 1, 0) for r in (a[axis] - lo[axis], hi[axis] + 1 - b[axis])]
    return F.pad(inner, rim)


def upwards(g: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Transpose of a 3^3 convolution of stride 2: n positions -> 2 n + 1 along each axis.

    With few output channels the library's transposed convolution is slow, so it is written as one dense 2^3
    convolution that makes the eight interleaved halves, and a shuffle. Position 2 m takes taps 0 (from m)
    and 2 (from m - 1), position 2 m + 1 takes tap 1 (from m).
    """
    channels = weight.shape[1]
    if channels > 4:
        return F.conv_transpose3d(g, weight, stride=2)
    taps = F.pad(weight, [0, 1] * 3)[..., [2, 3, 0, 1]][..., [2, 3, 0, 1], :][..., [2, 3, 0, 1], :, :]
    taps = taps.reshape(*weight.shape[:2], 2, 2, 2, 2, 2, 2)  # tap pair, then half, along each axis
    taps = taps.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(8 * channels, weight.shape[0], 2, 2, 2)
    halves = F.conv3d(F.pad(g, [1] * 6), taps)
    sides = halves.shape[2:]
    halves = halves.reshape(len(g), channels, 2, 2, 2, *sides).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return halves.reshape(len(g), channels, *(2 * n for n in sides))[..., :-1, :-1, :-1]
