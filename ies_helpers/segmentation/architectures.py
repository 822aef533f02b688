"""Weights of any origin -> the right architecture, verified."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ies_helpers.segmentation.network import Network, Through
from ies_helpers.subjects.downloads import extract_member, fetch
from ies_helpers.subjects.files import data_folder, one_line

# How a Swin UNETR halves its grid: eight neighbours side by side, in one of the three orders that MONAI has had.
#
# The order is no part of a file of weights: the same tensors load into all three and give other logits, without an
# error. So it is recorded with the weights, or asked for. Written out here, it does not depend on the MONAI installed.

MERGINGS = {
    "monai-0.9": "000 100 010 001 101 010 001 111",
    "monai-1.5": "000 100 010 001 110 101 011 111",
    "mergingv2": "000 001 010 011 100 101 110 111",
}
"""Offsets along (I, J, K) in the order of the weights.

`monai-0.9`: `merging` of MONAI 0.9.0 to 1.4, the paper's; (0,1,0) and (0,0,1) twice, (1,1,0) and (0,1,1) never.
`monai-1.5`: `merging` of MONAI from 1.5.0 on, under the same name. `mergingv2`: all eight in order, in any version.
"""


def merging_module(merging: str) -> type[nn.Module]:
    """The patch merging of one of `MERGINGS`, as `SwinUNETR(downsample=...)` takes it.

    Raises:
        ValueError: for any other name.
    """
    if merging not in MERGINGS:
        raise ValueError(f"merging must be one of {', '.join(MERGINGS)}, got {merging!r}.")
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


# The three architectures of the paper, and what an explanation must know of any network.


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


# The tensors of a foreign file of weights; no code in it is ever run.

Weights = Mapping[str, torch.Tensor]


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Float32 tensors of a file by name, and what its header says; no code in the file is ever run.

    `{"state_dict": ...}`, `{"model": ...}` and the like are unwrapped, a leading `module.` (DataParallel) is dropped.
    """
    if path.name.endswith((".tar.xz", ".tar.gz", ".tar", ".zip")):
        with TemporaryDirectory() as folder:
            return read_weights(extract_member(path, "*.pth", Path(folder) / "checkpoint.pth"))
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                said = {key: one_line(value) for key, value in (file.metadata() or {}).items()}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:  # the last three: a type torch lacks
            why = one_line(error)
            raise ValueError(f"{path.name} must be a safetensors file, it cannot be read as one ({why}).") from error
        return _floats(tensors, path.name), said
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the reader raise
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"A checkpoint must hold tensors only; {path.name} asks to run {one_line(wanted[1])} and was not "
                "opened. If you trust its origin, convert it, which runs that code: content = torch.load(file, "
                "weights_only=False); torch.save(content['state_dict'], another), or whatever key holds the weights."
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # before it: advice to run code
        why = one_line(reason.partition(". ")[0].partition("\n")[0]) or type(error).__name__
        raise ValueError(
            f"{path.name} must be a PyTorch checkpoint, it cannot be read as one ({why}): fetch it again, or write it "
            "with torch.save(network.state_dict(), file)."
        ) from error
    where = ""
    for key in 2 * ("state_dict", "model_state_dict", "model", "network_weights"):  # twice: either may be the outer one
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content, where = content[key], f"{where}[{key!r}]"
    if not _is_state(content):
        raise ValueError(f"A checkpoint must be a state_dict of tensors, {path.name} holds {_held(content, where)}.")
    return _floats({str(key): value for key, value in content.items()}, path.name), {}


def _is_state(content: Any) -> TypeGuard[Weights]:
    return isinstance(content, Mapping) and all(isinstance(v, torch.Tensor) for v in content.values())


def _held(content: Any, where: str) -> str:
    """What a file holds in place of weights, and how to get at them if they are one level below."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    told = f"a dict of {first_names([str(key) for key in content])}"
    inner = next((one_line(repr(key), 80) for key, value in content.items() if _is_state(value) and value), None)
    return f"{told}; take its weights out: torch.save(torch.load(file){where}[{inner}], another)" if inner else told


def _floats(tensors: Weights, name: str) -> dict[str, torch.Tensor]:
    for key, t in tensors.items():
        if t.layout is not torch.strided or t.is_meta or t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise ValueError(f"A checkpoint must hold tensors with their values, in {name} {one_line(key)} has not.")
    return {k.removeprefix("module."): t.float() for k, t in tensors.items() if t.is_floating_point()}


def first_names(names: list[str], count: int = 4) -> str:
    """A few names out of a foreign file, for a sentence."""
    return ", ".join(one_line(name, 80) for name in names[:count]) + (", ..." if len(names) > count else "")


UNUSED = "num_batches_tracked"
"""Counters of batch normalisation that no prediction depends on; shipped files leave them out."""

LEVELS = range(2, 9)
"""How many levels a network of a file may have."""

WIDEST = {"swin_unetr": 96}
"""Features that a file may ask for where 1024 would fill the memory."""

SWIN_FIRST = "swinViT.patch_embed.proj.weight"
"""The tensor whose first side is a Swin UNETR's feature size."""


def load_network(
    network: str | Path = "unet",
    *,
    architecture: str | None = None,
    merging: str | None = None,
    use_checkpoint: bool = False,
    threshold: float | None = None,
    device: str = "auto",
) -> Network:
    """A network with weights, ready to predict and to be explained.

    Args:
        network: `unet`, `nnunet` or `swin_unetr` (shipped), `published:unet` (downloaded once), or a file:
            `.safetensors`, `.pth`, `.pt`, or `.tar.xz` with one `.pth` inside.
        architecture: of a file that does not say: `unet`, `nnunet` or `swin_unetr`.
        merging: of a Swin UNETR's file that does not say: the order in which patches were merged when it was
            trained. `monai-0.9` for MONAI 0.9.0 to 1.4 (the paper's), see `merging.MERGINGS`.
        use_checkpoint: Swin UNETR keeps less between forward and backward pass, see `build`.
        threshold: instead of the architecture's own.
        device: `auto` takes a GPU if there is one; `cpu`, `cuda`.

    Raises:
        ValueError: an unknown name, architecture or device, another architecture than a name says, a threshold outside
            (0, 1), a Swin UNETR of unknown merging, weights that do not fit or are not finite (differences are counted,
            the first of each kind named, all of them in the exception's notes), or a file that is no plain set of
            tensors.
        FileNotFoundError: there is no such file.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}.")
    place = _device(device)
    path, name, known = _locate(network)
    if known and architecture not in (None, known):
        raise ValueError(
            f"architecture is for a file of weights, {network} is a {known}; got {architecture!r}: leave it out."
        )
    weights, said = read_weights(path)
    architecture = known or architecture or said.get("architecture")
    if architecture is None:
        raise ValueError(f"{path.name} does not say its architecture; give one of {', '.join(ARCHITECTURES)}.")
    merging = _merging(architecture, merging, said, path.name)
    built = build(architecture, _channels(architecture, weights, said, path.name), merging, use_checkpoint)
    _fill(built.module, weights, path.name)
    built.module.to(place)
    return replace(built, name=name, threshold=threshold if threshold is not None else built.threshold)


def _locate(network: str | Path) -> tuple[Path, str, str | None]:
    """The file of a network, what to call it, and its architecture where the name says it."""
    name = str(network)
    if name in ARCHITECTURES:
        path = data_folder() / "checkpoints" / f"{name}.safetensors"
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
            raise ValueError(
                f"Shipped networks are {have}; there are no weights for {name} yet, give a file of your own."
            )
        return path, name, name
    if name == "published:unet":
        return fetch(name)["checkpoint"], "published-unet", "unet"
    if name.startswith("published:"):
        raise ValueError(
            f"Of the published checkpoints only published:unet has a public address, {name} has none: ask its authors "
            "for the file and give its path, with its architecture."
        )
    path = Path(network)
    if not path.is_file():
        raise FileNotFoundError(
            f"A network is one of {', '.join(ARCHITECTURES)}, published:unet or a file; no file {path}."
        )
    return path, path.name.split(".")[0] if path.name.endswith(".tar.xz") else path.stem, None


def _merging(architecture: str, asked: str | None, said: Mapping[str, str], name: str) -> str | None:
    """The order of a Swin UNETR's patch merging: as recorded with the weights, or as asked for; never guessed."""
    recorded = said.get("merging")
    if asked and recorded and asked != recorded:
        raise ValueError(f"{name} says that it was trained with merging={recorded!r}, got {asked!r}: leave it out.")
    if architecture == "swin_unetr" and not (asked or recorded):
        raise ValueError(
            f"A Swin UNETR needs the order in which it merged patches in training, and {name} does not say it: give "
            "merging='monai-0.9' if that was MONAI 0.9 to 1.4 (as published), 'monai-1.5' from MONAI 1.5 on, "
            "'mergingv2' if it was built with downsample='mergingv2'."
        )
    return asked or recorded


def _channels(architecture: str, weights: Weights, said: Mapping[str, str], name: str) -> tuple[int, ...] | None:
    """Features per level: what the header says, or what the weights show; None: as published.

    Checked before anything is built, because a few bytes can ask for more than the memory holds.
    """
    if "channels" in said:
        found = [int(c) if c.strip().isdecimal() else 0 for c in said["channels"].split(",")]
    else:
        found = [weights[key].shape[0] if weights[key].ndim else 0 for key in _firsts(architecture, weights)]
    most, levels = WIDEST.get(architecture, 1024), range(1, 2) if architecture == "swin_unetr" else LEVELS
    if found and not (len(found) in levels and all(1 <= c <= most for c in found)):
        raise ValueError(
            f"A {architecture} must have 1 to {most} features at each of {levels[0]} to {levels[-1]} levels, {name} "
            f"asks for {said.get('channels') or found}; name the right architecture, or take another file."
        )
    return tuple(found) or None


def _firsts(architecture: str, weights: Weights) -> list[str]:
    """The tensors of a file whose first side is the number of features of a level, outermost level first."""
    if architecture == "swin_unetr":
        return [SWIN_FIRST] if SWIN_FIRST in weights else []
    names, level = [], "model"
    while architecture == "unet" and f"{level}.0.conv.weight" in weights:
        names.append(f"{level}.0.conv.weight")
        level += ".1.submodule"
    if f"{level}.conv.weight" in weights:
        names.append(f"{level}.conv.weight")
    return names if len(names) > 1 else []


def _fill(module: nn.Module, weights: Weights, name: str) -> None:
    """Copy `weights` into `module`, or say how they do not fit."""
    wanted = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
    shared = {v.data_ptr(): k for k, v in wanted.items() if k in weights}
    missing = [k for k, v in wanted.items() if k not in weights and v.data_ptr() not in shared]
    extra = [k for k in weights if k not in wanted]
    reshaped = [
        f"{k} is {tuple(weights[k].shape)} instead of {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in weights and weights[k].shape != v.shape
    ]
    broken = [k for k, v in weights.items() if not bool(torch.isfinite(v).all())]
    lists = {"missing": missing, "unknown": extra, "of another shape": reshaped, "not finite": broken}
    if any(lists.values()):
        told = "; ".join(f"{len(v)} {kind} ({first_names(v)})" for kind, v in lists.items() if v)
        error = ValueError(
            f"{name} must fit the architecture, its tensors do not: {told}. Name the right architecture."
            if missing or extra or reshaped
            else f"{name} must hold finite weights, of its tensors {told}. Training had diverged: take an earlier file."
        )
        for kind, every in lists.items():
            error.add_note("\n".join([f"{kind}:", *every]) if every else f"{kind}: none")
        raise error
    module.load_state_dict(dict(weights), strict=False)


def _device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda needs a CUDA GPU, and torch sees none; take device='cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
