"""Weights of any origin -> the right architecture, verified."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ies_helpers.resources import data_folder
from ies_helpers.segmentation.networks import ARCHITECTURES, Network, build
from ies_helpers.segmentation.weights import Weights, first_names, read_weights
from ies_helpers.subjects.downloads import fetch

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
