"""Networks of MONAI as people keep them: a bundle's folder, Auto3DSeg's checkpoint, TorchScript, a class by its name.

A bundle's configuration can hold expressions, which are code; here it is read as data, and a network that it does not
spell out is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ies_helpers.segmentation.architectures import MONAI, build_monai
from ies_helpers.segmentation.network import Network
from ies_helpers.segmentation.nnunet import known_channel, lesion_output
from ies_helpers.segmentation.weights import Weights, fill, read_weights
from ies_helpers.subjects.files import one_line
from ies_helpers.subjects.subject import SHIPPED


def read_monai(
    architecture: str,
    name: str,
    file: str,
    weights: Weights,
    arguments: Mapping[str, Any],
    channels: Sequence[str] | None = None,
    **known: Any,
) -> Network:
    """A class of MONAI with the weights of a file, and what is `known` of it already.

    Of a network that takes two channels and does not say which, they are FLAIR and T1.
    """
    if not arguments:
        raise ValueError(
            f"{architecture} needs the arguments it was trained with: give a settings file, JSON such as "
            '{"in_channels": 2, "out_channels": 2}, by --settings, or settings=... in Python.'
        )
    module = build_monai(architecture, arguments)
    wanted = module.state_dict()
    weights = weights.without_prefix(lambda tensors: sum(key in wanted for key in tensors))
    fill(module, weights.tensors, file)
    count = arguments.get("out_channels")
    if isinstance(count, int) and count > 1:
        known = {"classes": tuple(map(str, range(count)))} | known
    first = next((m for m in module.modules() if isinstance(m, nn.Conv3d)), None)
    names = tuple(channels) if channels else SHIPPED if first and first.in_channels == len(SHIPPED) else None
    return Network(module, name, notes=weights.notes, channels=names, **known)


def read_definition(
    path: Path,
    name: str,
    config: Mapping[str, Any],
    weights: Weights,
    known: Mapping[str, Any],
    channels: Sequence[str] | None = None,
) -> Network:
    """What a configuration calls its network: `{"_target_": "SegResNetDS", ...}`, spelt out, nothing of it is run."""
    key = next(k for k in ("network_def", "network") if isinstance(config.get(k), Mapping))
    definition = {k: _plain(v, config, f"{key}.{k}") for k, v in config[key].items()}
    target = str(definition.pop("_target_", ""))
    if target.count(".") and not target.startswith("monai.networks.nets"):
        raise ValueError(
            f"A network must be a class of monai.networks.nets, the configuration says {one_line(target)}."
        )
    definition = {k: v for k, v in definition.items() if not (k.startswith("_") and k.endswith("_"))}
    if definition.get("norm") == "INSTANCE_NVFUSER":
        definition["norm"] = ["INSTANCE", {"affine": True}]  # the same, where that extension is missing
    if "roi_size" in config and "window" not in known:
        known = dict(known) | {"window": tuple(config["roi_size"]), "through": "windows", "overlap": 0.625}
    if config.get("sigmoid") is True:
        known = dict(known) | {"head": "sigmoid", "lesion_class": known.get("lesion_class", 0)}
    return read_monai(target.rpartition(".")[2], name, path.name, weights, definition, channels, **known)


def _plain(value: Any, config: Mapping[str, Any], where: str) -> Any:
    """A value of a configuration; `@name` and `@group::name` are looked up, expressions are refused."""
    if isinstance(value, str) and value.startswith("@"):
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            raise ValueError(f"A bundle must spell its network out; {where} is {one_line(value)}, which is nowhere.")
        return _plain(found, config, where)
    is_object = isinstance(value, Mapping) and "_target_" in value
    if is_object or (isinstance(value, str) and value.startswith("$")):
        raise ValueError(
            f"A bundle must spell its network out; {where} is {one_line(json.dumps(value), 80)}, code that would have "
            f"to be run. Give its file of weights, architecture='{MONAI}NAME' and the arguments in a settings file."
        )
    if isinstance(value, list):
        return [_plain(each, config, where) for each in value]
    return {k: _plain(v, config, where) for k, v in value.items()} if isinstance(value, Mapping) else value


def is_bundle(word: str) -> bool:
    """Whether a word is the folder of a MONAI bundle."""
    return (Path(word).expanduser() / "configs").is_dir()


KNOWN_STEPS = {  # of a bundle's preprocessing: what is done here too, or does nothing to values
    *(
        "LoadImaged",
        "EnsureChannelFirstd",
        "EnsureTyped",
        "Orientationd",
        "CastToTyped",
        "ToTensord",
        "NormalizeIntensityd",
    ),
    *("ConcatItemsd", "DeleteItemsd", "CopyItemsd"),
}


def read_bundle(word: str, channels: Sequence[str] | None = None) -> Network:
    """A MONAI bundle: `configs/metadata.json`, `configs/inference.json`, and weights below `models`."""
    folder = Path(word).expanduser()
    config, metadata = _read_config(folder, "inference"), _read_config(folder, "metadata", optional=True)
    files = [folder / "models" / name for name in ("model.pt", "model.safetensors", "model.pth", "model.ts")]
    path = next((p for p in files if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"A bundle must have its weights as models/model.pt; {folder.name} has none. Fetch them."
        )
    known = _inferer(config) | _outputs(config, metadata)
    steps = _steps(config.get("preprocessing"))
    strange = [step for step in steps if step not in KNOWN_STEPS]
    notes = [f"its own preparation of a scan also has {', '.join(strange)}, which is not done here"] if strange else []
    if path.suffix == ".ts":
        network = replace(read_script(str(path)), name=folder.name, **known)
    elif not any(isinstance(config.get(key), Mapping) for key in ("network_def", "network")):
        raise ValueError(
            f"A bundle must spell its network out as network_def, {folder.name} does not. Give models/model.ts."
        )
    else:
        network = read_definition(path, folder.name, config, read_weights(path), known)
    named = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {}).get("channel_def", {})
    said = [known_channel(str(named[key])) for key in sorted(named, key=str)]
    taken = tuple(channels or ()) or (tuple(said) if len(set(said)) == len(said) > 0 else None)
    return replace(network, channels=taken or network.channels, notes=(*network.notes, *notes))


def _read_config(folder: Path, name: str, optional: bool = False) -> dict[str, Any]:
    """A configuration of a bundle, JSON or YAML, read as data alone."""
    for ending in ("json", "yaml", "yml"):
        path = folder / "configs" / f"{name}.{ending}"
        if path.is_file():
            text = path.read_text(encoding="utf-8-sig")
            try:
                found = json.loads(text) if ending == "json" else _yaml(text)
            except ValueError as error:
                raise ValueError(f"{path.name} must be {ending.upper()}, it is not ({one_line(error)}).") from error
            if isinstance(found, dict):
                return found
    if optional:
        return {}
    raise FileNotFoundError(f"A bundle must have configs/{name}.json, {folder.name} has none.")


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ValueError("to read it, pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error


def _inferer(config: Mapping[str, Any]) -> dict[str, Any]:
    """Window, overlap and weighting of a bundle's sliding window."""
    found = config.get("inferer")
    if not isinstance(found, Mapping) or "SlidingWindow" not in str(found.get("_target_")):
        return {}
    sides = _plain(found.get("roi_size"), config, "inferer.roi_size")
    overlap, mode = (
        _plain(found.get(k, d), config, f"inferer.{k}") for k, d in (("overlap", 0.25), ("mode", "constant"))
    )
    window = tuple(sides) if isinstance(sides, list) else sides
    return {"window": window, "through": "windows", "overlap": float(overlap), "weighting": str(mode).lower()}


def _outputs(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Head and lesion class, from what a bundle does after its network and what it calls its outputs."""
    found: dict[str, Any] = {}
    after = _transforms(config.get("postprocessing"))
    sigmoid = any(t.get("sigmoid") is True for t in after if str(t.get("_target_", "")).startswith("Activations"))
    names = metadata.get("network_data_format", {}).get("outputs", {}).get("pred", {}).get("channel_def", {})
    if sigmoid and len(names) != 1:
        found |= {"head": "sigmoid", "lesion_class": 0}
    if len(names) > 1:
        classes = tuple(str(names[key]) for key in sorted(names, key=int))
        found |= {"lesion_class": lesion_output(classes), "classes": classes}
    return found


def _transforms(chain: Any) -> list[Mapping[str, Any]]:
    steps = chain.get("transforms", []) if isinstance(chain, Mapping) else []
    return [step for step in steps if isinstance(step, Mapping) and not step.get("_disabled_")]


def _steps(chain: Any) -> list[str]:
    return [str(step.get("_target_", "")).rpartition(".")[2] for step in _transforms(chain)]


def read_script(word: str, channels: Sequence[str] | None = None) -> Network:
    """TorchScript: its own small language runs, no Python."""
    path = Path(word).expanduser()
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"{path.name} must be TorchScript, it cannot be read as that ({one_line(error)}).") from error
    return Network(module, path.stem, channels=tuple(channels) if channels else None)
