"""Weights of any origin -> the right architecture, verified."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ies_helpers.resources import data_folder
from ies_helpers.segmentation.networks import ARCHITECTURES, Network, build
from ies_helpers.subjects.downloads import fetch

Weights = Mapping[str, torch.Tensor]

UNUSED = "num_batches_tracked"
"""Counters of batch normalisation that no prediction depends on; shipped files leave them out."""


def load_network(
    network: str | Path = "unet",
    *,
    architecture: str | None = None,
    threshold: float | None = None,
    device: str = "auto",
) -> Network:
    """A network with weights, ready to predict and to be explained.

    Args:
        network: `unet` (shipped), `published:unet` (downloaded once), or a file: `.safetensors`, `.pth`, `.pt`.
        architecture: of a file that does not say: `unet`, `nnunet` or `swin_unetr`.
        threshold: instead of the architecture's own.
        device: `auto` takes a GPU if there is one; `cpu`, `cuda`.

    Raises:
        ValueError: an unknown name, architecture or device, a threshold outside (0, 1), weights that do not fit
            (differences are counted, the first of each kind named), or a file that is no plain set of tensors.
        FileNotFoundError: there is no such file.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}.")
    place, name = _device(device), str(network)
    shipped = data_folder() / "checkpoints" / f"{name}.safetensors"
    if name in ARCHITECTURES:
        if not shipped.is_file():
            have = ", ".join(sorted(p.stem for p in shipped.parent.glob("*.safetensors")))
            raise ValueError(
                f"Shipped networks are {have}; there are no weights for {name} yet, give a file of your own."
            )
        path, architecture = shipped, name
    elif name == "published:unet":
        path, architecture = fetch(name)["checkpoint"], "unet"
    else:
        path = Path(network)
        if not path.is_file():
            raise FileNotFoundError(
                f"A network is one of {', '.join(ARCHITECTURES)}, published:unet or a file; no file {path}."
            )
    weights, said = read_weights(path)
    architecture = architecture or said.get("architecture")
    if architecture is None:
        raise ValueError(f"{path.name} does not say its architecture; give one of {', '.join(ARCHITECTURES)}.")
    built = build(architecture, _channels(architecture, weights, said))
    _fill(built.module, weights, path.name)
    changes = {"name": name.replace(":", "-") if path == shipped or ":" in name else path.stem}
    placed = replace(built, **changes, threshold=threshold if threshold is not None else built.threshold)
    placed.module.to(place)
    return placed


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Float32 tensors of a file by name, and what its header says; no code in the file is ever run.

    `{"state_dict": ...}` and `{"model": ...}` are unwrapped, a leading `module.` (DataParallel) is dropped.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                said = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise ValueError(f"{path.name} must be a safetensors file, it cannot be read as one ({error}).") from error
        return _floats(tensors), said
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the reader raise
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"A checkpoint must hold tensors only; {path.name} asks to run {wanted[1]} and was not opened. If you "
                "trust its origin, save its state_dict() alone and load that."
            ) from error
        why = str(error).split(". ")[0] or type(error).__name__
        raise ValueError(f"{path.name} must be a PyTorch checkpoint, it cannot be read as one ({why}).") from error
    for key in ("state_dict", "model", "network_weights"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f"A checkpoint must be a state_dict of tensors, {path.name} holds a {type(content).__name__}.")
    return _floats({str(key): value for key, value in content.items()}), {}


def _floats(tensors: Weights) -> dict[str, torch.Tensor]:
    return {k.removeprefix("module."): t.float() for k, t in tensors.items() if t.is_floating_point()}


def _channels(architecture: str, weights: Weights, said: Mapping[str, str]) -> tuple[int, ...] | None:
    """Features per level: what the header says, or for a U-Net what its weights show."""
    if "channels" in said:
        return tuple(int(c) for c in said["channels"].split(","))
    channels, level = [], "model"
    while architecture == "unet" and f"{level}.0.conv.weight" in weights:
        channels.append(weights[f"{level}.0.conv.weight"].shape[0])
        level += ".1.submodule"
    if f"{level}.conv.weight" in weights:
        channels.append(weights[f"{level}.conv.weight"].shape[0])
    return tuple(channels) if len(channels) > 1 else None


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
        told = "; ".join(f"{len(v)} {kind} ({_first(v)})" for kind, v in lists.items() if v)
        raise ValueError(f"{name} must fit the architecture, its tensors do not: {told}. Name the right architecture.")
    module.load_state_dict(dict(weights), strict=False)


def _first(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda needs a CUDA GPU, and torch sees none; take device='cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
