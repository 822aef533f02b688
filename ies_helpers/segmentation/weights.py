"""A file of weights, of any origin -> its tensors by name; no code in the file is ever run."""

import argparse
import json
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ies_helpers.subjects.downloads import extract_member
from ies_helpers.subjects.files import one_line, stand_in

Tensors = dict[str, torch.Tensor]

HOLDERS = ("state_dict", "model_state_dict", "model", "network_weights", "model_state", "net", "network", "ema")
"""Keys under which trainers save weights, beside an optimiser and the like; the first that is there."""

PREFIXES = ("module.", "_orig_mod.", "_model.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and Lightning's modules write before every name."""

PLAIN: list[Any] = [  # beside tensors: numbers of NumPy, options and paths that a trainer logs; none of them runs code
    *(np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0], np.dtype, np.ndarray),
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath),
]


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        tensors: float32, by name.
        header: what the file says of itself, as text.
        config: what a trainer wrote beside the weights, if it is a dictionary called `config`.
        notes: what was decided for the user, in sentences without a full stop.
    """

    tensors: Tensors
    header: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def without_prefix(self, fits: Callable[[Tensors], int]) -> "Weights":
        """The same under the names that fit best, once the prefixes of wrappers are taken off.

        Args:
            fits: how well names fit; those in the file are kept unless others fit better.
        """
        best, stripped = self, self
        while prefix := next((p for p in PREFIXES if any(k.startswith(p) for k in stripped.tensors)), ""):
            inner = {k.removeprefix(prefix): v for k, v in stripped.tensors.items() if k.startswith(prefix)}
            beside = [k for k in stripped.tensors if not k.startswith(prefix)]
            notes = (f"tensors beside the network's were left aside: {first_names(beside)}",) if beside else ()
            stripped = replace(stripped, tensors=inner, notes=stripped.notes + notes)
            if fits(stripped.tensors) > fits(best.tensors):
                best = stripped
        return best


def read_weights(path: Path) -> Weights:
    """Float32 tensors of a file by name, and what stands beside them.

    A dictionary that holds them under one of `HOLDERS` is unwrapped. Half precision is raised to float32, and that is
    noted: what was rounded stays rounded.
    """
    if path.name.endswith((".tar.xz", ".tar.gz", ".tar", ".zip")):
        with TemporaryDirectory() as folder:
            return read_weights(extract_member(path, "*.pth", Path(folder) / "checkpoint.pth"))
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    _check_kind(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content, where, config = read_pickle(path), "", {}
    for _ in range(2):  # either may be the outer one
        if isinstance(content, Mapping) and not _is_state(content):
            config = content.get("config", config)
            key = next((key for key in HOLDERS if isinstance(content.get(key), Mapping)), None)
            if key:
                content, where = content[key], f"{where}[{key!r}]"
    if not _is_state(content):
        raise ValueError(f"A checkpoint must be a state_dict of tensors, {path.name} holds {_held(content, where)}.")
    found = _floats({str(key): value for key, value in content.items()}, path.name)
    return replace(found, config=config if isinstance(config, Mapping) else {})


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, text and containers of them; anything else in the file is refused."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the reader raise
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"A checkpoint must hold tensors only; {path.name} asks to run {one_line(wanted[1])} and was not "
                "opened. If you trust its origin, convert it, which runs that code: content = torch.load(file, "
                "weights_only=False); torch.save(content.state_dict(), another), or if it is a dictionary, "
                "its part with the weights."
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # before it: advice to run code
        why = one_line(reason.partition(". ")[0].partition("\n")[0]) or type(error).__name__
        raise ValueError(
            f"{path.name} must be a PyTorch checkpoint, it cannot be read as one ({why}): fetch it again, or write it "
            "with torch.save(network.state_dict(), file)."
        ) from error


def _check_kind(path: Path) -> None:
    """Name what is often saved in place of weights: nothing, a page of a file host, a pointer to a large file."""
    if kind := stand_in(path):
        raise ValueError(f"A file of weights must hold tensors, {path.name} is {kind}: download the file itself.")


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            said = {key: one_line(value) for key, value in (file.metadata() or {}).items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, TypeError, AttributeError, KeyError) as error:  # the last three: a type torch lacks
        why = one_line(error)
        raise ValueError(f"{path.name} must be a safetensors file, it cannot be read as one ({why}).") from error
    return replace(_floats(tensors, path.name), header=said)


def _read_shards(index: Path) -> Weights:
    """`model.safetensors.index.json` names, for each tensor, the file beside it that holds it."""
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"An index of shards must be JSON with a weight_map, {index.name} is not ({one_line(error)})."
        ) from error
    if lacking := [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"Shards must lie beside their index {index.name}; there is no {first_names(lacking)}.")
    parts = [read_weights(index.parent / name) for name in names]
    return replace(
        parts[0],
        tensors={key: value for part in parts for key, value in part.tensors.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _is_state(content: Any) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return isinstance(content, Mapping) and all(isinstance(v, torch.Tensor) for v in content.values())


def _held(content: Any, where: str) -> str:
    """What a file holds in place of weights, and how to get at them if they are one level below."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    told = f"a dict of {first_names([str(key) for key in content])}"
    inner = next((one_line(repr(key), 80) for key, value in content.items() if _is_state(value) and value), None)
    return f"{told}; take its weights out: torch.save(torch.load(file){where}[{inner}], another)" if inner else told


def _floats(tensors: Mapping[str, torch.Tensor], name: str) -> Weights:
    for key, t in tensors.items():
        if t.layout is not torch.strided or t.is_meta or t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise ValueError(f"A checkpoint must hold tensors with their values, in {name} {one_line(key)} has not.")
    floats = {key: t for key, t in tensors.items() if t.is_floating_point()}
    small = sorted({str(t.dtype).removeprefix("torch.") for t in floats.values() if t.element_size() < 4})
    notes = (f"weights saved as {', '.join(small)} were raised to float32; what saving had rounded away is lost",)
    return Weights({key: t.float() for key, t in floats.items()}, notes=notes if small else ())


def first_names(names: list[str], count: int = 4) -> str:
    """A few names out of a foreign file, for a sentence."""
    return ", ".join(one_line(name, 80) for name in names[:count]) + (", ..." if len(names) > count else "")


def fill(module: nn.Module, weights: Tensors, name: str) -> None:
    """Copy `weights` into `module`, or say how they do not fit; each difference stands in the exception's notes."""
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
