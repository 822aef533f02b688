"""Any network that people bring -> a `Network`, verified, and without running its code.

A word names a network: a shipped one, a file, a folder, a model of the field. Each kind is a row of `FORMATS`, which
says how it is recognised, how it is read, and which options it heeds.
"""

import importlib
import json
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ies_helpers.arrays import check_choice, door
from ies_helpers.segmentation.adapters import lst_ai, mindglide
from ies_helpers.segmentation.architectures import ARCHITECTURES, MONAI, build
from ies_helpers.segmentation.bundles import is_bundle, read_bundle, read_definition, read_monai, read_script
from ies_helpers.segmentation.network import Network, ensemble
from ies_helpers.segmentation.nnunet import is_results, read_results
from ies_helpers.segmentation.weights import Tensors, Weights, fill, read_weights
from ies_helpers.subjects.downloads import fetch
from ies_helpers.subjects.files import data_folder, one_line
from ies_helpers.subjects.subject import SHIPPED

PUBLISHED = "published:unet"  # the one checkpoint of the paper that has a public address
ENSEMBLE = "ensemble"  # behind the name of a shipped network: all its seeds
MOST_CHANNELS = 1024  # channels, or classes, that a file may ask for
PYTHON = "python:"


@door
def load_network(
    network: str | Path = "unet",
    *,
    threshold: float | None = None,
    device: str = "auto",
    settings: str | Path | Mapping[str, Any] | None = None,
    **options: Any,
) -> Network:
    """A network with weights, ready to predict and to be explained.

    What was decided on the way (precision raised, a class taken for the lesion) is a warning and stands in
    `Network.notes`. Weights that do not fit are refused with the first differences of each kind, all of them in the
    exception's notes.

    Args:
        network: one of the words that `FORMATS` knows: a shipped network, its seeds averaged (`unet:ensemble`) or one
            of them (`unet:2`), a file of weights, an nnU-Net v2 results
            folder, a MONAI bundle, a TorchScript file, `python:PACKAGE.MODULE:FUNCTION`, `lst-ai:FOLDER`,
            `mindglide:FILE`.
        threshold: instead of the network's own.
        device: `auto` takes a GPU if there is one; `cpu`, `cuda`.
        settings: a JSON file or dictionary: the arguments of an architecture of MONAI, and under `network` what is to
            be known of the network, by the names of `Network`'s fields: `{"network": {"window": 96}}`.
        options: those that the kind heeds, see `FORMATS`: `architecture`, `channels`, `merging`, `use_checkpoint`,
            `mirroring`, `checkpoint`; other ones are refused.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}.")
    place = _device(device)
    arguments, known = _settings(settings)
    if isinstance(options.get("channels"), str):
        options["channels"] = [name.strip() for name in options["channels"].split(",")]
    # What is usual was not asked for: mirrored copies are, every other switch is off.
    asked = {name: value for name, value in options.items() if value not in (None, name == "mirroring")}
    asked |= {"arguments": arguments} if arguments else {}
    word = str(network)
    form = next(each for each in FORMATS.values() if each.holds(word))
    for name in asked:
        if name not in form.heeds and not (form is FORMATS["weights"] and name not in _heeded()):
            kinds = " or ".join(each.what for each in FORMATS.values() if name in each.heeds)
            raise ValueError(f"{name} is for {kinds or 'no network here'}, got it for {network}: leave it out.")
    found = form.read(word, **asked)
    if "window" in known and "through" not in known:
        known["through"] = "windows" if known["window"] else "whole"
    found = replace(found, **known, **({} if threshold is None else {"threshold": threshold}))
    if "lesion_class" not in known and len(found.classes) > (1 if found.head == "sigmoid" else 2):
        taken, names = found.classes[found.lesion_class], ", ".join(found.classes)
        note = f"of its outputs ({names}) the lesion is taken to be {taken}; lesion_class in settings says another"
        found = replace(found, notes=(*found.notes, note))
    found.module.to(place)
    for note in found.notes:
        warnings.warn(f"{found.name}: {note}.", stacklevel=3)
    return found


def _device(device: str) -> torch.device:
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda needs a CUDA GPU, and torch sees none; take device='cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


FIELDS = tuple(each.name for each in fields(Network) if each.name not in ("module", "plans", "grid", "notes", "origin"))
"""What `settings` may say of a network."""


def _settings(given: str | Path | Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """An architecture's arguments, and fields of `Network`, lists as tuples."""
    if given is None:
        return {}, {}
    name, content = "settings", given
    if isinstance(given, str | Path):
        name, path = Path(given).name, Path(given).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"Settings must be a JSON file, there is no {path}.")
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"Settings must be JSON, {name} cannot be read as that ({one_line(error)}).") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("network", {}), Mapping):
        raise ValueError(f'Settings must be arguments by name and, in "network", fields by name; {name} holds others.')
    arguments = {str(key): value for key, value in content.items() if key != "network"}
    known = {key: tuple(v) if isinstance(v, list) else v for key, v in content.get("network", {}).items()}
    for key in known:
        check_choice(f"A field of the network in {name}", key, FIELDS)
    return arguments, known


# Shipped networks, and files of weights.


def _read_shipped(word: str, architecture: str | None = None, **options: Any) -> Network:
    if architecture not in (None, word.rpartition(":")[2]):
        raise ValueError(
            f"architecture is for a file of weights, {word} is a {word.rpartition(':')[2]}; got {architecture!r}: "
            "leave it out."
        )
    if word == PUBLISHED:
        return _read_file(fetch(word)["checkpoint"], "published-unet", architecture="unet", **options)
    if word.startswith("published:"):
        rule = f"Of the published checkpoints only {PUBLISHED} has a public address, {word} has none"
        raise ValueError(f"{rule}: ask its authors for the file and give its path, with its architecture.")
    path = data_folder() / "checkpoints" / f"{word}.safetensors"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors") if p.stem in ARCHITECTURES))
        raise ValueError(f"Shipped networks are {have}; no weights for {word} yet, give a file of your own.")
    return replace(_read_file(path, word, architecture=word, **options), notes=())  # its card says how it is stored


def seeds_of(architecture: str) -> dict[str, Path]:
    """Files of a shipped network's weights by seed: `0`, which its name alone means, and the others there are."""
    folder = data_folder() / "checkpoints"
    found = {path.stem.removeprefix(f"{architecture}_"): path for path in folder.glob(f"{architecture}_*.safetensors")}
    others = sorted((seed for seed in found if seed.isdecimal()), key=int)
    return {"0": folder / f"{architecture}.safetensors"} | {seed: found[seed] for seed in others}


def seed_words() -> list[str]:
    """The words for shipped networks of several seeds: `unet:0`, ..., `unet:ensemble`."""
    several = {name: seeds for name in ARCHITECTURES if len(seeds := seeds_of(name)) > 1}
    return [f"{name}:{word}" for name, seeds in several.items() for word in (*seeds, ENSEMBLE)]


def _is_seeds(word: str) -> bool:
    name, _, which = word.partition(":")
    return name in ARCHITECTURES and (which == ENSEMBLE or which.isdecimal()) and not is_results(word)


def _read_seeds(word: str) -> Network:
    """`unet:ensemble`, all seeds of a shipped network with their logits averaged, or `unet:2`, one of them."""
    architecture, _, which = word.partition(":")
    seeds = seeds_of(architecture)
    if len(seeds) < 2 if which == ENSEMBLE else which not in seeds:
        number = "1" if which == ENSEMBLE else which
        name = f"{architecture}_{number}"
        have = [known for known in seed_words() if known.startswith(f"{architecture}:")] or [architecture]
        raise ValueError(
            f"{word} needs {name}.safetensors in {seeds['0'].parent}, which has none: put it there (data/checkpoints/"
            f"train.py {architecture} --name {name} --seed {number} makes it), or take {' or '.join(have)}."
        )
    chosen = seeds if which == ENSEMBLE else {which: seeds[which]}
    found = [_read_file(path, path.stem, architecture=architecture) for path in chosen.values()]
    network = ensemble(found, word) if which == ENSEMBLE else found[0]
    origin = f"shipped, of the seeds {', '.join(chosen)}; logits averaged" if which == ENSEMBLE else network.origin
    return replace(network, name=word.replace(":", "-"), notes=(), origin=origin)


def _read_weights(word: str, **options: Any) -> Network:
    """A file of weights, the last kind that a word can be."""
    path = Path(word).expanduser()
    if path.is_dir():
        raise ValueError(
            "A folder must be an nnU-Net v2 results folder (plans.json, dataset.json and fold_0) or a MONAI bundle "
            f"(configs and models), {path.name} is neither. Give the folder that holds these, or a file of weights."
        )
    if not path.is_file():
        known = f"{', '.join(ARCHITECTURES)}, {PUBLISHED}"
        raise FileNotFoundError(f"A network is one of {known} or a file; no file {path}.")
    for ending in (".index.json", ".tar.xz"):
        if path.name.endswith(ending):
            return _read_file(path, path.name.split(".")[0], **options)
    return _read_file(path, path.stem, **options)


def _read_file(
    path: Path,
    name: str,
    *,
    architecture: str | None = None,
    channels: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> Network:
    """Weights of an architecture that the file, the caller, or what a trainer wrote beside them says."""
    weights = read_weights(path)
    if architecture is None and isinstance(weights.config.get("network"), Mapping):  # as Auto3DSeg writes it
        return read_definition(path, name, weights.config, weights, {}, channels)
    said, architecture = weights.header.get("architecture"), architecture or weights.header.get("architecture")
    if architecture is None:
        raise ValueError(_which_architecture(path.name, weights))
    asked = f"was read as {architecture}, as asked for: that its tensors fit does not show that it was trained as this"
    origin = f"{path.name} {f'says itself that it is {said}' if said == architecture else asked}"
    if architecture.startswith(MONAI):
        return replace(read_monai(architecture, name, path.name, weights, arguments or {}, channels), origin=origin)
    check_choice("architecture", architecture, (*ARCHITECTURES, f"{MONAI}NAME"))
    if arguments:
        raise ValueError(f"Arguments in settings are for an architecture of MONAI, as {MONAI}UNet; got {architecture}.")
    row = ARCHITECTURES[architecture]
    weights = weights.without_prefix(lambda tensors: int(row.last in tensors))
    if row.last not in weights.tensors and _is_nnunets(weights):
        raise ValueError(_which_architecture(path.name, weights))
    options |= _recorded(architecture, options, weights.header, path.name)
    features, inward, outward = _sizes(architecture, weights.tensors, weights.header, path.name)
    built = build(architecture, features, in_channels=inward, out_channels=outward, **options)
    fill(built.module, weights.tensors, path.name)
    taken = _names_of_channels(channels, weights.header, inward, path.name)
    return replace(built, name=name, channels=taken, notes=weights.notes, origin=origin)


def _is_nnunets(weights: Weights) -> bool:
    return any(".stages." in key and key.split(".stages.")[0].endswith("encoder") for key in weights.tensors)


def _which_architecture(name: str, weights: Weights) -> str:
    """One sentence for a file that does not say its architecture, with what its tensors tell."""
    if _is_nnunets(weights):
        return (
            f"{name} is a checkpoint of nnU-Net v2, whose plans say what it is: give its results folder, which holds "
            "plans.json, dataset.json and fold_0 (such as nnUNetTrainer__nnUNetPlans__3d_fullres), FOLDER:0 for a fold."
        )
    fitting = [
        key
        for key, row in ARCHITECTURES.items()
        if row.last in weights.without_prefix(lambda tensors, last=row.last: int(last in tensors)).tensors
    ]
    hint = f" Its tensors are named like those of {fitting[0]}." if len(fitting) == 1 else ""
    return (
        f"{name} does not say its architecture; give one of {', '.join(ARCHITECTURES)}, or {MONAI}NAME for any other "
        "of MONAI, by architecture (--architecture); the arguments that a network of MONAI was built with go into a "
        f"JSON file, named by settings (--settings).{hint}"
    )


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
    architecture: str, weights: Tensors, header: Mapping[str, str], name: str
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


# A compiled module, and any module of Python.


def _is_script(word: str) -> bool:
    path = Path(word).expanduser()
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # a damaged one is told when it is read
        return False


def _read_python(word: str, channels: Sequence[str] | None = None) -> Network:
    """`python:PACKAGE.MODULE:FUNCTION`: the function is called, and gives a module or a `Network`."""
    name, _, function = word.removeprefix(PYTHON).partition(":")
    if not name or not function:
        raise ValueError(f"A network in Python is {PYTHON}PACKAGE.MODULE:FUNCTION, got {word}.")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` has it
    try:
        made = getattr(importlib.import_module(name), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{word} must be a function that can be imported, it cannot ({one_line(error)}).") from error
    finally:
        sys.path.remove(here)
    if not isinstance(made, Network | nn.Module):
        raise ValueError(f"{word} must give a torch.nn.Module or a Network, it gave a {type(made).__name__}.")
    note = f"the code of {name} was run to make it"
    network = made if isinstance(made, Network) else Network(made.eval(), function)
    return replace(network, channels=tuple(channels) if channels else network.channels, notes=(*network.notes, note))


# Every kind of word, in the order in which they are asked.


@dataclass(frozen=True)
class Format:
    """One kind of network that can be brought.

    Attributes:
        what: in a sentence.
        holds: whether a word is of this kind.
        read: the word and the options it heeds -> the network on the CPU.
        heeds: those options.
    """

    what: str
    holds: Callable[[str], bool]
    read: Callable[..., Network]
    heeds: tuple[str, ...] = ()


FORMATS = {
    "shipped": Format(
        "a shipped network",
        lambda word: word in ARCHITECTURES or word.startswith("published:"),
        _read_shipped,
        ("architecture", "merging", "use_checkpoint", "channels"),
    ),
    "seeds": Format("a shipped network of several seeds", _is_seeds, _read_seeds),
    "lst-ai": Format("LST-AI", lambda word: word.partition(":")[0] == "lst-ai", lst_ai),
    "mindglide": Format("MindGlide", lambda word: word.partition(":")[0] == "mindglide", mindglide, ("channels",)),
    "python": Format("a module of Python", lambda word: word.startswith(PYTHON), _read_python, ("channels",)),
    "results": Format("an nnU-Net results folder", is_results, read_results, ("mirroring", "checkpoint")),
    "bundle": Format("a MONAI bundle", is_bundle, read_bundle, ("channels",)),
    "script": Format("a TorchScript file", _is_script, read_script, ("channels",)),
    "weights": Format(
        "a file of weights",
        lambda word: True,
        _read_weights,
        ("architecture", "arguments", "merging", "use_checkpoint", "channels"),
    ),
}


def absolute_word(word: str, home: Path) -> str:
    """A word of `FORMATS`; a path in it, that may start from the folder `home`, becomes absolute."""
    kind, _, rest = word.partition(":")
    if kind in ("lst-ai", "mindglide") and rest:
        return f"{kind}:{home / Path(rest).expanduser()}"
    own = str(home / Path(word).expanduser())
    return own if word not in ARCHITECTURES and (Path(own).exists() or is_results(own)) else word


def _heeded() -> set[str]:
    """Every option that some kind heeds."""
    return {name for form in FORMATS.values() for name in form.heeds}
