"""Every architecture that weights may be of: ours as registry rows, any other of MONAI by its name and arguments."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ies_helpers.arrays import check_choice
from ies_helpers.segmentation.network import Network, Through
from ies_helpers.subjects.files import one_line

# How a Swin UNETR halves its grid: eight neighbours side by side, in one of the three orders that MONAI has had.
#
# The same tensors load into all three and give other logits, without an error. So the order is recorded with the
# weights, or asked for. Written out here, it does not depend on the MONAI installed.

MERGINGS = {  # offsets along (I, J, K) in the order of the weights
    "monai-0.9": "000 100 010 001 101 010 001 111",  # `merging` of 0.9.0 to 1.4, the paper's; 110 and 011 never
    "monai-1.5": "000 100 010 001 110 101 011 111",  # `merging` from 1.5.0 on, under the same name
    "mergingv2": "000 001 010 011 100 101 110 111",  # all eight in order, in any version
}


def merging_module(merging: str) -> type[nn.Module]:
    """The patch merging of one of `MERGINGS`, as `SwinUNETR(downsample=...)` takes it."""
    check_choice("merging", merging, tuple(MERGINGS))
    offsets = [tuple(map(int, offset)) for offset in MERGINGS[merging].split()]

    class PatchMerging(nn.Module):
        """`(B, I, J, K, F)` -> `(B, I/2, J/2, K/2, 2 F)`; an odd side is filled up with zeros."""

        order = MERGINGS[merging]

        def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
            super().__init__()
            assert spatial_dims == 3
            self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
            self.norm = norm_layer(8 * dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rim = [side for axis in (3, 2, 1) for side in (0, x.shape[axis] % 2)]
            x = nn.functional.pad(x, [0, 0, *rim])
            eighths = [x[:, i::2, j::2, k::2] for i, j, k in offsets]
            return self.reduction(self.norm(torch.cat(eighths, dim=-1)))

    return PatchMerging


# What an explanation must know of an architecture, and how one is recognised in a file of weights.

Weights = Mapping[str, torch.Tensor]  # the tensors of a file, by name


@dataclass(frozen=True)
class Architecture:
    """One architecture: everything that any floor asks about it.

    Attributes:
        build: `(features, in_channels, out_channels, **options)` -> the module.
        features: at each level, as published.
        firsts: of a file's tensors -> the names of those whose first side is the features of a level, outermost first;
            the second side of the first of them is the channels in. Empty: the file does not show them.
        last: the tensor whose first side is the classes out.
        through, threshold, layer: how the paper used it, see `Network`.
        multiple: features -> what the sides of an image must be a multiple of.
        levels, widest: how many levels, and features at one, a file may ask for, checked before anything is built: a
            few bytes can ask for more than the memory holds.
        options: of `build`, beside the features.
        recorded: those of them that make the same tensors another network, so that they are recorded with the weights
            or asked for, never guessed -> the sentence that asks, in which `{file}` is the file.
    """

    build: Callable[..., nn.Module]
    features: tuple[int, ...]
    firsts: Callable[[Weights], list[str]]
    last: str
    through: Through
    threshold: float
    layer: str
    multiple: Callable[[Sequence[int]], int] = field(default=lambda features: 2 ** (len(features) - 1))
    levels: range = range(2, 9)
    widest: int = 1024
    options: tuple[str, ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)


def _unet(features: Sequence[int], in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets.unet import UNet  # MONAI takes seconds

    strides = [2] * (len(features) - 1)
    return UNet(3, in_channels, out_channels, features, strides, norm="batch", num_res_units=0)


def _unet_firsts(weights: Weights) -> list[str]:
    names, level = [], "model"
    while f"{level}.0.conv.weight" in weights:
        names.append(f"{level}.0.conv.weight")
        level += ".1.submodule"
    return [*names, f"{level}.conv.weight"]


def _nnunet(features: Sequence[int], in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    halvings = [2] * (len(features) - 1)
    return DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * len(features),
        strides=[1, *halvings],
        upsample_kernel_size=halvings,
        filters=list(features),
        dropout=0.1,
        res_block=True,
        norm_name="instance",
        act_name="leakyrelu",
    )


def _nnunet_firsts(weights: Weights) -> list[str]:
    down = [f"downsamples.{n}" for n in range(len(weights)) if f"downsamples.{n}.conv1.conv.weight" in weights]
    return [f"{level}.conv1.conv.weight" for level in ("input_block", *down, "bottleneck")]


def _swin_unetr(
    features: Sequence[int],
    in_channels: int,
    out_channels: int,
    merging: str | None = None,
    use_checkpoint: bool = False,
) -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    merge: Any = merging_module(merging or "mergingv2")  # MONAI takes a class, its annotation says an instance
    module = SwinUNETR(in_channels=in_channels, out_channels=out_channels, feature_size=features[0], downsample=merge)
    for block in module.modules() if use_checkpoint else ():
        if hasattr(block, "use_checkpoint"):
            block.use_checkpoint = True  # pyright: ignore[reportArgumentType]
    return module


ARCHITECTURES = {  # every architecture that files of weights may be of; a new one is a row here and one test
    "unet": Architecture(
        _unet, (32, 64, 128, 256, 512), _unet_firsts, "model.2.conv.bias", "whole", 0.3, "model.1.submodule.2.conv"
    ),
    "nnunet": Architecture(
        _nnunet, (16, 32, 64), _nnunet_firsts, "output_block.conv.conv.bias", "windows", 0.4, "upsamples.0.conv_block"
    ),
    "swin_unetr": Architecture(
        _swin_unetr,
        (24,),
        lambda weights: ["swinViT.patch_embed.proj.weight"],
        "out.conv.conv.bias",
        "windows",
        0.4,
        "decoder2",
        multiple=lambda features: 32,
        levels=range(1, 2),
        widest=96,
        options=("merging", "use_checkpoint"),
        recorded={
            "merging": "A Swin UNETR needs the order in which it merged patches in training, and {file} does not say "
            "it: give merging='monai-0.9' if that was MONAI 0.9 to 1.4 (as published), 'monai-1.5' from MONAI 1.5 on, "
            "'mergingv2' if it was built with downsample='mergingv2'."
        },
    ),
}


def build(
    architecture: str,
    channels: Sequence[int] | None = None,
    merging: str | None = None,
    use_checkpoint: bool = False,
    *,
    in_channels: int = 2,
    out_channels: int = 2,
    **options: Any,
) -> Network:
    """A network of random weights.

    Args:
        architecture: a name of `ARCHITECTURES`.
        channels: features at each level (Swin UNETR: its feature size alone); None: as published.
        merging: of Swin UNETR's patches, one of `MERGINGS`; None: `mergingv2`, the one to train anew.
        use_checkpoint: Swin UNETR computes its attention again in the backward pass: less memory, the same gradient.
        in_channels, out_channels: channels of the image, and classes.
        options: of an architecture that has others.
    """
    check_choice("architecture", architecture, tuple(ARCHITECTURES))
    row = ARCHITECTURES[architecture]
    options |= {"merging": merging, "use_checkpoint": use_checkpoint}
    given = {name: value for name, value in options.items() if value}
    if strange := [name for name in given if name not in row.options]:
        takes = ", ".join(name for name, other in ARCHITECTURES.items() if set(strange) <= set(other.options))
        raise ValueError(f"{' and '.join(strange)} must be for {takes}, got it for {architecture}: leave it out.")
    features = tuple(channels or row.features)
    module = row.build(features, in_channels, out_channels, **given).eval().requires_grad_(False)
    used = {"through": row.through, "threshold": row.threshold, "layer": row.layer}
    return Network(module, architecture, window=96, stride=(row.multiple(features),) * 3, **used)


# Any other network of MONAI, by the name of its class.

MONAI = "monai:"  # before the name of a class of monai.networks.nets, where an architecture is asked for


def build_monai(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A class of `monai.networks.nets` with random weights; nothing but such a class is looked up.

    Args:
        name: `SegResNet`, or `monai:SegResNet`.
        arguments: of its constructor, as `{"in_channels": 2, "out_channels": 2}`; 3D unless they say otherwise.
    """
    from monai.networks import nets  # MONAI takes seconds

    name = name.removeprefix(MONAI)
    known = {key: kind for key, kind in vars(nets).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or ["UNet", "SegResNet", "DynUNet"]
        raise ValueError(f"{MONAI}NAME must be a class of monai.networks.nets, as {', '.join(near)}; got {name!r}.")
    given = dict(arguments)
    if "spatial_dims" in inspect.signature(known[name]).parameters:
        given.setdefault("spatial_dims", 3)
    try:
        return known[name](**given).eval().requires_grad_(False)
    except Exception as error:  # whatever MONAI says of arguments that are not its own
        raise ValueError(
            f"{name} must be given the arguments it was trained with, {one_line(dict(arguments), 200)} do not build "
            f"it ({one_line(error, 200)})."
        ) from error
