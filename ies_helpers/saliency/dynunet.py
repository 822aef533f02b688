"""The published nnU-Net taken apart, block by block; each knows its own backward pass once it was seen forward.

The instance norms are held (`frozen`), so every norm is a factor for each channel, and every activation a known
slope at each position: gradients are linear, and a window of positions goes to a window of positions.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.saliency.cone import window
from ies_helpers.saliency.unet import KINKED, factor_of, slope_of


@dataclass(eq=False)
class Block:
    """act(norm1(conv1)), norm2(conv2), in a residual block plus norm3(conv3 of the input), and act again.

    Attributes:
        convs: conv1, conv2, and conv3 of a residual block.
        norms: what follows each.
        act: the activation, which a forward pass runs through twice.
        slopes: `(1, F, i, j, k)` of either time, on the crop.
        weights: the convolutions' with the factors of their norms.
    """

    convs: list[nn.Conv3d]
    norms: list[nn.BatchNorm3d]
    act: nn.Module
    slopes: list[torch.Tensor] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    @property
    def stride(self) -> int:
        """Of the first convolution, and of the residual one."""
        return self.convs[0].stride[0]

    def ready(self) -> None:
        """Before a forward pass: forget the last one's slopes, and read the norms' factors."""
        self.slopes, self.weights = [], []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            self.weights.append(conv.weight * factor_of(norm).view(-1, 1, 1, 1, 1))

    def see(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the activation: note the slope where its input lies."""
        self.slopes.append(slope_of(self.act, inputs[0]))

    def back(self, g: torch.Tensor, at: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Gradients by the block's output -> by its input.

        Args:
            g: `(V, F, n, n, n)`, one window of positions for each voxel.
            at: `(V, 3)`, the first position of each on the crop. What lies beyond the crop is dropped.

        Returns:
            `(V, E, m, m, m)`, m = s (n + 1) + 3 for stride s, and where these windows start.
        """
        s, size = self.stride, g.shape[-1]
        g = g * windows(self.slopes[1], at, size)
        inner = F.conv_transpose3d(g, self.weights[1]) * windows(self.slopes[0], at - 1, size + 2)
        found = F.conv_transpose3d(inner, self.weights[0], stride=s)
        if len(self.weights) == 3:
            rim = slice(s + 1, s + 1 + s * (size - 1) + 1)
            found[..., rim, rim, rim] += F.conv_transpose3d(g, self.weights[2], stride=s)
        return found, s * (at - 1) - 1


def windows(volume: torch.Tensor, at: np.ndarray, size: int) -> torch.Tensor:
    """`volume` `(1, F, i, j, k)` on cubes that start `at` `(V, 3)`: `(V, F, n, n, n)`, zero beyond its ends."""
    return torch.cat([window(volume, lo, lo + size - 1) for lo in at])


@dataclass(frozen=True, eq=False)
class Parts:
    """The blocks downwards, at the bottom and upwards (outermost first), and what lies between these.

    Attributes:
        down, bottom, up: blocks.
        wider: the transposed convolution before each block of `up`.
        last: the 1^3 convolution that makes the logits.
    """

    down: list[Block]
    bottom: Block
    up: list[Block]
    wider: list[nn.ConvTranspose3d]
    last: nn.Conv3d

    @property
    def blocks(self) -> list[Block]:
        """All of them."""
        return [*self.down, self.bottom, *self.up]


def take_apart(module: nn.Module) -> Parts | None:
    """A DynUNet with held norms, any depth and width, with residual blocks or without; None for anything else.

    Checked piece by piece: 3^3 convolutions, the first of a block of stride 1 at the top and 2 below, residuals
    through a 1^3 convolution, transposed convolutions of 2^3, batch normalisation, an activation of two slopes.
    """
    from monai.networks.nets.dynunet import DynUNet, DynUNetSkipLayer  # MONAI takes seconds

    if not isinstance(module, DynUNet):
        return None
    down, up, wider, layer = [], [], [], module.skip_layers
    while isinstance(layer, DynUNetSkipLayer):
        down.append(_block(layer.downsample, 2 if down else 1))
        up.append(_block(getattr(layer.upsample, "conv_block", None), 1))
        wider.append(_conv(getattr(layer.upsample, "transp_conv", None), nn.ConvTranspose3d, 2, 2))
        layer = layer.next_layer
    bottom, last = _block(layer, 2), _conv(getattr(module.output_block, "conv", None), nn.Conv3d, 1, 1)
    if not down or bottom is None or last is None or last.out_channels < 2 or None in [*down, *up, *wider]:
        return None
    return Parts(down, bottom, up, wider, last)  # pyright: ignore[reportArgumentType]


def _block(block: nn.Module | None, stride: int) -> Block | None:
    from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

    shapes = {UnetBasicBlock: [(3, stride), (3, 1)], UnetResBlock: [(3, stride), (3, 1), (1, stride)]}.get(type(block))  # pyright: ignore
    if block is None or shapes is None:
        return None
    found = [_conv(getattr(block, f"conv{n}", None), nn.Conv3d, *shape) for n, shape in enumerate(shapes, 1)]
    norms = [getattr(block, f"norm{n}", None) for n in range(1, len(shapes) + 1)]
    if None in found or not all(isinstance(norm, nn.BatchNorm3d) for norm in norms):
        return None
    return Block(found, norms, block.lrelu) if isinstance(block.lrelu, KINKED) else None  # pyright: ignore


def _conv(block: nn.Module | None, kind: type, kernel: int, stride: int) -> nn.Conv3d | nn.ConvTranspose3d | None:
    """The convolution of a block that holds dropout beside it, at most."""
    conv = getattr(block, "conv", None)
    shape = {
        "kernel_size": (kernel,) * 3,
        "stride": (stride,) * 3,
        "padding": (kernel // 2 if kind is nn.Conv3d else 0,) * 3,
        "dilation": (1, 1, 1),
        "groups": 1,
    }
    if block is None or type(conv) is not kind or any(getattr(conv, name) != value for name, value in shape.items()):
        return None
    others = [leaf for leaf in block.modules() if leaf is not conv and not list(leaf.children())]
    return conv if all(isinstance(leaf, nn.Dropout | nn.Dropout3d) for leaf in others) else None  # pyright: ignore
