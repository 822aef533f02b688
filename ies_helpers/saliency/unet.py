"""The published U-Net taken apart, piece by piece, so that its backward pass can be written down."""

from dataclasses import dataclass, field

import torch
from torch import nn

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
