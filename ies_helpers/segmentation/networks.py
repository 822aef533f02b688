"""The three architectures of the paper, and what an explanation must know of any network."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from ies_helpers.segmentation.merging import merging_module

Through = Literal["whole", "windows"]


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
        window: side of the sliding window in voxels, or its three sides; None predicts on the whole volume.
        through: `whole` or `windows`, what a saliency map is a gradient of.
        overlap: share of the window's side that neighbouring windows share.
        weighting: `gaussian` or `constant`, how windows are blended.
        placing: where windows stop and how the gaussian ends: as in MONAI's inferer, or as in nnU-Net v2 (whose
            mirrored copies are not made).
        threshold: probability above which a voxel is called lesion.
        layer: name of the submodule that Grad-CAM++ reads.
        stride: total stride along each axis; sides must be a multiple of it. None: found by a probe.
    """

    module: nn.Module
    name: str = "network"
    window: int | tuple[int, int, int] | None = None
    through: Through = "whole"
    overlap: float = 0.25
    weighting: Literal["gaussian", "constant"] = "gaussian"
    placing: Literal["monai", "nnunet"] = "monai"
    threshold: float = 0.5
    layer: str | None = None
    stride: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.through not in ("whole", "windows"):
            raise ValueError(f"through must be 'whole' or 'windows', got {self.through!r}.")
        if self.through == "windows" and self.window is None:
            raise ValueError("A network explained through windows needs one; give window=96, or through='whole'.")

    @property
    def sides(self) -> tuple[int, int, int] | None:
        """The window's three sides in voxels; None without a window."""
        side = self.window
        return (side, side, side) if isinstance(side, int) else side

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> `(B, 2, I, J, K)`: a sigmoid head z becomes the two classes (0, z).

        The module gets a copy, so that one which works in place changes neither image nor gradient.
        """
        y = self.module(x.clone())
        while isinstance(y, list | tuple):
            y = y[0]
        y = y[:, 0] if y.ndim == 6 else y
        if y.ndim != 5 or y.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"A network must map (B, C, I, J, K) to logits of the same I, J, K; {self.name} mapped "
                f"{tuple(x.shape)} to {tuple(y.shape)}. Wrap it in a module that does."
            )
        return torch.cat([torch.zeros_like(y), y], dim=1) if y.shape[1] == 1 else y

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
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
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
    """Evaluation mode, frozen parameters, true float32 inside; everything as it was afterwards.

    cuDNN's convolutions would otherwise round float32 to TF32, an error of about 1e-3.
    """
    modes = [(m, m.training) for m in network.module.modules()]
    grads = [(p, p.requires_grad) for p in network.module.parameters()]
    try:
        network.module.eval()
        network.module.requires_grad_(False)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
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
