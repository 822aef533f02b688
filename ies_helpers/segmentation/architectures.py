"""Every architecture that weights may be of, and weights of any origin -> the right one, verified."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ies_helpers.arrays import check_choice
from ies_helpers.segmentation.network import Network, Through
from ies_helpers.segmentation.nnunet import is_results, read_results
from ies_helpers.subjects.downloads import extract_member, fetch
from ies_helpers.subjects.files import data_folder, one_line
from ies_helpers.subjects.subject import SHIPPED

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


# The tensors of a foreign file of weights; no code in it is ever run.


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


PUBLISHED = "published:unet"  # the one checkpoint of the paper that has a public address
MOST_CHANNELS = 1024  # channels, or classes, that a file may ask for


def load_network(
    network: str | Path = "unet",
    *,
    architecture: str | None = None,
    merging: str | None = None,
    use_checkpoint: bool = False,
    threshold: float | None = None,
    channels: Sequence[str] | None = None,
    device: str = "auto",
    **options: Any,
) -> Network:
    """A network with weights, ready to predict and to be explained.

    Args:
        network: a name of `ARCHITECTURES` (shipped), `published:unet` (downloaded once), or a file: `.safetensors`,
            `.pth`, `.pt`, or `.tar.xz` with one `.pth` inside; or an nnU-Net v2 results folder, `:0` behind it for one
            fold, see `nnunet.read_results` (`mirroring`, `checkpoint`). Its tensors show its channels and classes.
        architecture: of a file that does not say, a name of `ARCHITECTURES`.
        merging: of a Swin UNETR's file that does not say: the order in which patches were merged when it was
            trained, one of `MERGINGS`; `monai-0.9` for MONAI 0.9.0 to 1.4 (the paper's).
        use_checkpoint: see `build`.
        threshold: instead of the architecture's own.
        channels: their names, of a file whose header does not give them as `inputs`: `flair,t1`. Without either, two
            channels are FLAIR and T1, as published, and any other number takes an image as it comes.
        device: `auto` takes a GPU if there is one; `cpu`, `cuda`.
        options: of an architecture that has others.

    Weights that do not fit are refused with the first differences of each kind, all of them in the exception's notes.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}.")
    place = _device(device)
    if is_results(network):
        found = read_results(network, **options)
        found.module.to(place)
        return found if threshold is None else replace(found, threshold=threshold)
    if not options.pop("mirroring", True):
        raise ValueError(f"mirroring is for an nnU-Net results folder, got it for {network}; leave it out.")
    path, name, known = _locate(network)
    if known and architecture not in (None, known):
        given = f"{network} is a {known}; got {architecture!r}"
        raise ValueError(f"architecture is for a file of weights, {given}: leave it out.")
    weights, header = read_weights(path)
    architecture = known or architecture or header.get("architecture")
    if architecture is None:
        raise ValueError(f"{path.name} does not say its architecture; give one of {', '.join(ARCHITECTURES)}.")
    check_choice("architecture", architecture, tuple(ARCHITECTURES))
    options |= {"merging": merging, "use_checkpoint": use_checkpoint}
    options |= _recorded(architecture, options, header, path.name)
    features, inward, outward = _sizes(architecture, weights, header, path.name)
    built = build(architecture, features, in_channels=inward, out_channels=outward, **options)
    _fill(built.module, weights, path.name)
    built.module.to(place)
    threshold = built.threshold if threshold is None else threshold
    return replace(
        built, name=name, threshold=threshold, channels=_names_of_channels(channels, header, inward, path.name)
    )


def _locate(network: str | Path) -> tuple[Path, str, str | None]:
    """The file of a network, what to call it, and its architecture where the name says it."""
    name = str(network)
    if name in ARCHITECTURES:
        path = data_folder() / "checkpoints" / f"{name}.safetensors"
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
            raise ValueError(f"Shipped networks are {have}; no weights for {name} yet, give a file of your own.")
        return path, name, name
    origin, _, architecture = name.partition(":")
    if name == PUBLISHED:
        return fetch(name)["checkpoint"], f"{origin}-{architecture}", architecture
    if origin == "published":
        rule = f"Of the published checkpoints only {PUBLISHED} has a public address, {name} has none"
        raise ValueError(f"{rule}: ask its authors for the file and give its path, with its architecture.")
    path = Path(network)
    if not path.is_file():
        known = f"{', '.join(ARCHITECTURES)}, {PUBLISHED}"
        raise FileNotFoundError(f"A network is one of {known} or a file; no file {path}.")
    return path, path.name.split(".")[0] if path.name.endswith(".tar.xz") else path.stem, None


def _recorded(architecture: str, asked: Mapping[str, Any], header: Mapping[str, str], name: str) -> dict[str, str]:
    """The options that make the same weights another network: as the header says or else as asked; never guessed."""
    found = {}
    for option, sentence in ARCHITECTURES[architecture].recorded.items():
        wanted, recorded = asked.get(option), header.get(option)
        if wanted and recorded and wanted != recorded:
            raise ValueError(f"{name} was trained with {option}={recorded!r}, got {wanted!r}: leave it out.")
        if not (wanted or recorded):
            raise ValueError(sentence.format(file=name))
        found[option] = recorded or wanted
    return found


def _sizes(
    architecture: str, weights: Weights, header: Mapping[str, str], name: str
) -> tuple[tuple[int, ...] | None, int, int]:
    """Features per level, None as published; channels in; classes out: what the header says, or the tensors show."""
    row = ARCHITECTURES[architecture]
    firsts = [weights[key].shape for key in row.firsts(weights) if key in weights]
    features = [shape[0] if shape else 0 for shape in firsts]
    features = features if features and len(features) >= row.levels[0] else []
    if "channels" in header:
        features = [int(c) if c.strip().isdecimal() else 0 for c in header["channels"].split(",")]
    if features and not (len(features) in row.levels and all(1 <= f <= row.widest for f in features)):
        raise ValueError(
            f"A {architecture} must have 1 to {row.widest} features at each of {row.levels[0]} to {row.levels[-1]} "
            f"levels, {name} asks for {header.get('channels') or features}; name the right architecture, or take "
            "another file."
        )
    inward = firsts[0][1] if firsts and len(firsts[0]) > 1 else 2
    outward = weights[row.last].shape[0] if row.last in weights and weights[row.last].ndim else 2
    for what, count in (("channels", inward), ("classes", outward)):
        if not 1 <= count <= MOST_CHANNELS:
            raise ValueError(
                f"A {architecture} must have 1 to {MOST_CHANNELS} {what}, {name} asks for {count}; name the right "
                "architecture, or take another file."
            )
    return tuple(features) or None, inward, outward


def _names_of_channels(
    asked: Sequence[str] | None, header: Mapping[str, str], count: int, name: str
) -> tuple[str, ...] | None:
    """As asked for, or as a header says: `flair,t1; how they are normalised`; two are FLAIR and T1, others nameless."""
    said = [part.strip() for part in header.get("inputs", "").partition(";")[0].split(",") if part.strip()]
    names = tuple(asked or said or (SHIPPED if count == len(SHIPPED) else ()))
    if names and (len(names) != count or len(set(names)) != count):
        raise ValueError(
            f"The channels of {name} must have a name each, its tensors take {count}, got {', '.join(names)}; give "
            "them by channels=..., or as inputs in its header."
        )
    return names or None


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
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda needs a CUDA GPU, and torch sees none; take device='cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
