"""The three architectures of the paper, and what an explanation must know of any network."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import nn

from ies_helpers.segmentation.heads import logits_of
from ies_helpers.segmentation.merging import merging_module
from ies_helpers.segmentation.precision import true_float32

Through = Literal["whole", "windows"]

Weighting = Literal["gaussian", "constant"]

Placing = Literal["monai", "nnunet"]


@dataclass(frozen=True, eq=False)
class Network:
    """A module, and how it looks at an image.

    The published U-Net predicts through sliding windows and is explained on the whole volume: two
    different functions. `window` says how it predicts, `through` which of the two a saliency map
    differentiates, and `explained_through` gives the same network with the other one.

    Attributes:
        module: `(B, C, I, J, K)` -> `(B, 2, I, J, K)` logits, class 1 is lesion; also one channel under a
            sigmoid, or with deep supervision a list, or `(B, n, 2, I, J, K)`, whose first entry is the output.
        name: what files and tables call it.
        window: side of the sliding window in voxels, or a tuple of its three; None predicts on the whole volume.
        through: `whole` or `windows`, what a saliency map is a gradient of.
        overlap: share of the window's side that neighbouring windows share, from 0 to below 1.
        weighting: `gaussian` or `constant`, how windows are blended.
        placing: where windows stop and how the gaussian ends: as in MONAI's inferer, or as in nnU-Net v2 (whose
            mirrored copies are not made).
        threshold: probability above which a voxel is called lesion.
        layer: name of the submodule that Grad-CAM++ reads.
        stride: total stride along each axis; sides must be a multiple of it. None: found by a probe.

    Raises:
        ValueError: for any of these that is not as said.
    """

    module: nn.Module
    name: str = "network"
    window: int | tuple[int, int, int] | None = None
    through: Through = "whole"
    overlap: float = 0.25
    weighting: Weighting = "gaussian"
    placing: Placing = "monai"
    threshold: float = 0.5
    layer: str | None = None
    stride: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("through", Through), ("weighting", Weighting), ("placing", Placing)):
            if getattr(self, name) not in get_args(allowed):
                rule = " or ".join(map(repr, get_args(allowed)))
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}.")
        sides = (1, 1, 1) if self.sides is None else self.sides
        if len(sides) != 3 or not all(isinstance(n, Integral) and n > 0 for n in sides):
            raise ValueError(
                f"window must be a side of 1 voxel or more, three as (96, 96, 64), or None; got {self.window!r}."
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be a share of the window's side, from 0 to below 1, got {self.overlap}.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"A threshold must lie between 0 and 1, got {self.threshold}.")
        if self.through == "windows" and self.window is None:
            raise ValueError("A network explained through windows needs one; give window=96, or through='whole'.")

    @property
    def sides(self) -> tuple[int, int, int] | None:
        """The window's three sides in voxels; None without a window."""
        side = self.window
        return side if side is None or isinstance(side, tuple) else (side, side, side)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> `(B, 2, I, J, K)`, whatever the module's head; see `heads`."""
        return logits_of(self.module, x, self.name)

    def explained_through(self, through: Through) -> "Network":
        """The same network, explained `through` the whole volume or its windows."""
        return replace(self, through=through)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU if it has none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are; float32 if it has none."""
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def digest(self) -> str:
        """SHA-256 over names and values of its weights, the first 16 hexadecimal digits.

        A Swin UNETR's order of patch merging counts too: with another one the same weights are another network.
        """
        sha = hashlib.sha256()
        for module in self.module.modules():
            sha.update(str(getattr(module, "order", "")).encode())
        for key, value in sorted(self.module.state_dict().items()):
            sha.update(key.encode())
            sha.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
        return sha.hexdigest()[:16]


def as_network(network: Network | nn.Module) -> Network:
    """A `Network` as it is; a bare module wrapped, seen on the whole volume."""
    if isinstance(network, Network):
        return network
    if isinstance(network, nn.Module):
        return Network(network, name=type(network).__name__.lower())
    raise TypeError(f"A network must be a Network or a torch.nn.Module, got {type(network).__name__}.")


@contextmanager
def at_rest(network: Network) -> Iterator[None]:
    """Evaluation mode, frozen parameters, true float32 inside; everything as it was afterwards."""
    modes = [(m, m.training) for m in network.module.modules()]
    grads = [(p, p.requires_grad) for p in network.module.parameters()]
    try:
        network.module.eval()
        network.module.requires_grad_(False)
        with true_float32():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)


def _unet(channels: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.unet import UNet  # MONAI takes seconds

    strides = (2,) * (len(channels) - 1)
    return UNet(
        spatial_dims=3, in_channels=2, out_channels=2, channels=channels, strides=strides, norm="batch", num_res_units=0
    )


def _nnunet(channels: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    levels = len(channels)
    return DynUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=2,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(channels),
        dropout=0.1,
        res_block=True,
        norm_name="instance",
        act_name="leakyrelu",
    )


def _swin_unetr(channels: tuple[int, ...], merging: str) -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    merge: Any = merging_module(merging)  # MONAI takes a class, its annotation says an instance
    return SwinUNETR(in_channels=2, out_channels=2, feature_size=channels[0], downsample=merge)


@dataclass(frozen=True)
class Architecture:
    """One published architecture: its builder, and the way the paper used it."""

    builder: Callable[..., nn.Module]
    channels: tuple[int, ...]
    through: Through
    threshold: float
    layer: str


ARCHITECTURES = {
    "unet": Architecture(_unet, (32, 64, 128, 256, 512), "whole", 0.3, "model.1.submodule.2.conv"),
    "nnunet": Architecture(_nnunet, (16, 32, 64), "windows", 0.4, "upsamples.0.conv_block"),
    "swin_unetr": Architecture(_swin_unetr, (24,), "windows", 0.4, "decoder2"),
}


def build(
    architecture: str, channels: tuple[int, ...] | None = None, merging: str | None = None, use_checkpoint: bool = False
) -> Network:
    """One of the three published architectures with random weights.

    Args:
        architecture: `unet`, `nnunet` or `swin_unetr`.
        channels: features per level (Swin UNETR: its feature size alone); None: as published.
        merging: of Swin UNETR's patches, see `merging.MERGINGS`; None: `mergingv2`, the one to train anew.
        use_checkpoint: Swin UNETR computes its attention again in the backward pass instead of keeping it:
            less memory, more time, the same gradient.

    Raises:
        ValueError: for any other architecture or merging, or one of the last two for another network.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}.")
    known, swin = ARCHITECTURES[architecture], architecture == "swin_unetr"
    if not swin and (merging or use_checkpoint):
        raise ValueError(f"merging and use_checkpoint are Swin UNETR's, {architecture} has neither: leave them out.")
    channels = tuple(channels or known.channels)
    module = known.builder(channels, merging or "mergingv2") if swin else known.builder(channels)
    for block in module.modules() if use_checkpoint else ():
        if hasattr(block, "use_checkpoint"):
            block.use_checkpoint = True  # pyright: ignore[reportArgumentType]
    module.eval().requires_grad_(False)
    side = 32 if swin else 2 ** (len(channels) - 1)
    return Network(
        module,
        architecture,
        window=96,
        through=known.through,
        threshold=known.threshold,
        layer=known.layer,
        stride=(side, side, side),
    )
