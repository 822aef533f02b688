"""The tensors of a foreign file of weights; no code in it is ever run."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open

from ies_helpers.subjects.archives import extract_member
from ies_helpers.subjects.files import one_line

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
