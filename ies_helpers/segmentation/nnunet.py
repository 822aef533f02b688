"""An nnU-Net v2 results folder, read without nnunetv2: its plans, its networks, and how it sees a scan.

What nnU-Net calls its prediction is a chain: turn the axes, crop to what is not zero, normalise, resample, pad to a
patch, average mirrored copies and folds over weighted windows, and go all the way back. Everything but the networks is
linear once the image is normalised, so the chain can be followed backwards exactly, on the `Grid` of each scan.

Source: Isensee et al., Nature Methods 2021; the file formats and steps are those of nnunetv2 2.0 to 2.8.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from ies_helpers.arrays import Affine, Box, Volume, spacing_of
from ies_helpers.segmentation.grid import Grid, Resampling, ras_axes
from ies_helpers.segmentation.network import Copies, Network
from ies_helpers.segmentation.weights import read_pickle
from ies_helpers.subjects.subject import known_channel

ANISOTROPIC = 3
"""Spacing at which an axis is so much coarser than the others that nnU-Net resamples it by itself."""

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
"""Classes of dynamic_network_architectures.architectures.unet that a plan may name."""

PARTS: dict[str, Any] = {
    "torch.nn.modules.conv.Conv3d": nn.Conv3d,
    "torch.nn.modules.instancenorm.InstanceNorm3d": nn.InstanceNorm3d,
    "torch.nn.modules.batchnorm.BatchNorm3d": nn.BatchNorm3d,
    "torch.nn.InstanceNorm3d": nn.InstanceNorm3d,
    "torch.nn.BatchNorm3d": nn.BatchNorm3d,
    "torch.nn.Conv3d": nn.Conv3d,
    "torch.nn.LeakyReLU": nn.LeakyReLU,
    "torch.nn.modules.activation.LeakyReLU": nn.LeakyReLU,
    "torch.nn.ReLU": nn.ReLU,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.dropout.Dropout3d": nn.Dropout3d,
    "torch.nn.Dropout3d": nn.Dropout3d,
}
"""What a plan may name inside a network; nothing else that it names is looked up."""


@dataclass(frozen=True)
class Plans:
    """What one configuration of a results folder says about an image and a network.

    Attributes:
        channels: names of the channels, in the order of the network.
        transpose: the axes of the network's array, as axes of (K, J, I).
        reorient: whether the reader first turns the scan to RAS.
        spacing: of the network's array, along its axes, in mm.
        patch: sides of a window, along its axes.
        schemes: how each channel is normalised; `masked`, whether over what is not zero alone.
        intensities: what CT's scheme needs of the training data, for each channel.
        data, probabilities: keyword arguments of the resampling there and back.
        regions: whether each output answers a question by itself (sigmoid).
        outputs: names of the network's outputs.
        network: class and keyword arguments.
    """

    channels: tuple[str, ...]
    transpose: tuple[int, int, int]
    reorient: bool
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: dict[str, Any]
    data: dict[str, Any]
    probabilities: dict[str, Any]
    regions: bool
    outputs: tuple[str, ...]
    network: tuple[str, dict[str, Any]]

    def place(self, raw: Volume, affine: Affine) -> tuple[Grid, Volume]:
        """Where raw values `(C, I, J, K)` lie for the network, and the image, normalised as it wants it."""
        return _place(self, raw, affine)


def read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> Plans:
    """A configuration of `plans.json`, with the names that `dataset.json` gives.

    Raises:
        ValueError: for a cascade, a 2D configuration, or anything that is not read; says which.
    """
    known = plans["configurations"]
    if configuration not in known:
        raise ValueError(f"configuration must be one of {', '.join(known)}, got {configuration!r}.")
    found = _inherit(known, configuration)
    if found.get("previous_stage") or len(found["patch_size"]) != 3:
        kind = "a cascade" if found.get("previous_stage") else "2D"
        raise ValueError(f"An nnU-Net configuration must be 3D and stand alone, {configuration} is {kind}.")
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        if found[key] != "resample_data_or_seg_to_shape":
            raise ValueError(f"{key} must be resample_data_or_seg_to_shape, the plans say {found[key]}.")
    unread = sorted(set(found["normalization_schemes"]) - set(SCHEMES))
    if unread:
        raise ValueError(f"A normalisation must be one of {', '.join(SCHEMES)}, the plans say {', '.join(unread)}.")
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    regions = any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values())
    outputs = [name for name, value in labels.items() if not (regions and value in (0, [0]))]
    names = dataset.get("channel_names") or dataset.get("modality") or {}
    return Plans(
        channels=tuple(str(names[key]) for key in sorted(names, key=int)),
        transpose=tuple(plans["transpose_forward"]),
        reorient=plans["image_reader_writer"] == "NibabelIOWithReorient",
        spacing=tuple(found["spacing"]),
        patch=tuple(found["patch_size"]),
        schemes=tuple(found["normalization_schemes"]),
        masked=tuple(found["use_mask_for_norm"]),
        intensities=plans.get("foreground_intensity_properties_per_channel", {}),
        data=found["resampling_fn_data_kwargs"],
        probabilities=found["resampling_fn_probabilities_kwargs"],
        regions=regions,
        outputs=tuple(outputs),
        network=_architecture(found),
    )


def _inherit(known: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with what it takes from the one it names."""
    own = dict(known[configuration])
    parent = own.pop("inherits_from", None)
    return own if parent is None else _inherit(known, parent) | own


def _architecture(found: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and arguments of the network; plans before 2.4 spell them out in keys of their own."""
    if "architecture" in found:
        given = found["architecture"]
        name, arguments = given["network_class_name"].rpartition(".")[2], dict(given["arch_kwargs"])
        for key in given["_kw_requires_import"]:
            if arguments.get(key) is not None:
                arguments[key] = _part(arguments[key])
    elif "UNet_class_name" in found:
        name, stages = found["UNet_class_name"], len(found["n_conv_per_stage_encoder"])
        blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
        base, widest = found["UNet_base_num_features"], found["unet_max_num_features"]
        arguments = {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**n, widest) for n in range(stages)],
            "conv_op": nn.Conv3d,
            "kernel_sizes": found["conv_kernel_sizes"],
            "strides": found["pool_op_kernel_sizes"],
            blocks: found["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": found["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }
    else:
        raise ValueError("The plans must say their architecture, these do not: plan again with nnU-Net 2.0 or later.")
    if name not in NETWORKS:
        raise ValueError(f"An nnU-Net must be one of {', '.join(NETWORKS)}, the plans say {name}.")
    return name, arguments


def _part(name: str) -> Any:
    if name not in PARTS:
        raise ValueError(f"A plan may name {', '.join(PARTS)}; this one says {name}.")
    return PARTS[name]


def build_network(plans: Plans) -> nn.Module:
    """The network of a plan, with random weights."""
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise ImportError(
            "An nnU-Net needs its architectures: pip install --no-deps dynamic-network-architectures."
        ) from error
    name, arguments = plans.network
    count = {"input_channels": len(plans.channels), "num_classes": len(plans.outputs)}
    return getattr(unet, name)(**count, **arguments, deep_supervision=False).eval().requires_grad_(False)


# How a channel is normalised: raw values `(I, J, K)` inside the box, the mask of what is not zero, and what is known of
# the training data -> an affine map's (offset, scale), and where it applies.


def _z_score(values: np.ndarray, mask: np.ndarray | None, _known: Mapping[str, float]) -> np.ndarray:
    where = np.ones(values.shape, dtype=bool) if mask is None else mask
    inside = values[where]
    return np.where(where, (values - inside.mean()) / max(inside.std(), np.float32(1e-8)), values)


def _ct(values: np.ndarray, _mask: np.ndarray | None, known: Mapping[str, float]) -> np.ndarray:
    clipped = np.clip(values, known["percentile_00_5"], known["percentile_99_5"])
    return (clipped - known["mean"]) / max(known["std"], 1e-8)


def _rescale(values: np.ndarray, _mask: np.ndarray | None, _known: Mapping[str, float]) -> np.ndarray:
    return (values - values.min()) / np.clip(values.max() - values.min(), 1e-8, None)


SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], np.ndarray]] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "RescaleTo01Normalization": _rescale,
    "NoNormalization": lambda values, _mask, _known: values,
}
"""Normalisation schemes by nnU-Net's names."""


def _place(plans: Plans, raw: Volume, affine: Affine) -> tuple[Grid, Volume]:
    """A scan of raw values `(C, I, J, K)` on the grid of a plan, and its image, normalised as the plan says.

    What is not zero decides the box, outside of which nnU-Net says background; the image is 0 there.
    """
    mask = np.asarray(ndimage.binary_fill_holes((raw != 0).any(dim=0).numpy()), dtype=bool)
    box = Box.around(mask) if mask.any() else Box.whole(raw.shape[1:])
    axes, flips = _axes(plans, affine)
    # The box's sides and spacing along the network's axes, and what they become.
    before, spacing = tuple(box.shape[a] for a in axes), tuple(spacing_of(affine)[a] for a in axes)
    after = tuple(round(s / t * n) for s, t, n in zip(spacing, plans.spacing, before, strict=True))
    there = back = None
    if before != after:
        there = _resampling(before, after, spacing, plans.spacing, plans.data)
        back = _resampling(after, before, plans.spacing, spacing, plans.probabilities)
    grid = Grid(raw.shape[1:], box, axes=axes, flips=flips, there=there, back=back, least=plans.patch)
    image = torch.zeros_like(raw)
    for n, (scheme, masked) in enumerate(zip(plans.schemes, plans.masked, strict=True)):
        values, known = raw[n][box].numpy().astype(np.float32), plans.intensities.get(str(n), {})
        normalised = SCHEMES[scheme](values, mask[box] if masked else None, known)
        image[n][box] = torch.from_numpy(normalised.astype("f4"))
    return grid, image


def _axes(plans: Plans, affine: Affine) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each axis of the network's array the axis of the scan, and whether it runs the other way."""
    turned, flipped = ras_axes(affine) if plans.reorient else ((0, 1, 2), (False, False, False))
    order = [(2, 1, 0)[a] for a in plans.transpose]  # readers hand out (K, J, I)
    return tuple(turned[a] for a in order), tuple(flipped[a] for a in order)


def _resampling(
    old: Sequence[int], new: Sequence[int], old_mm: Sequence[float], new_mm: Sequence[float], how: Mapping[str, Any]
) -> Resampling:
    """From `old` sides and spacing to `new` ones, as the plans say."""
    alone = _separate_axis(old_mm, new_mm, how.get("force_separate_z"))
    orders = [how.get("order_z", 0) if axis == alone else how["order"] for axis in range(3)]
    return Resampling.between(old, new, orders, alone)


def _separate_axis(old_mm: Sequence[float], new_mm: Sequence[float], force: bool | None) -> int | None:
    """The axis that nnU-Net resamples by itself: where it is more than three times as coarse as the finest."""
    if force is False:
        return None
    for mm in (old_mm, new_mm):
        coarse = np.flatnonzero(np.asarray(mm) == max(mm))
        if force or max(mm) / min(mm) > ANISOTROPIC:
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def mirrors(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes to flip, of each mirrored copy: all subsets, none first."""
    return [some for count in range(len(axes) + 1) for some in itertools.combinations(axes, count)]


def read_json(path: Path) -> Any:
    """A JSON file of the folder."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


# From a folder to a `Network`.


def is_results(word: str | Path) -> bool:
    """Whether a word of `load_network` names a results folder, with or without `:FOLD` behind it."""
    return (_split(str(word))[0] / "plans.json").is_file()


def _split(word: str) -> tuple[Path, str]:
    """`FOLDER:0,1` -> the folder and `0,1`; the path of a checkpoint -> its results folder and fold."""
    path, colon, folds = word.rpartition(":")
    if not colon or "/" in folds or "\\" in folds:
        path, folds = word, ""
    place = Path(path).expanduser()
    if place.suffix == ".pth" and place.parent.name.startswith("fold_"):
        return place.parents[1], place.parent.name.removeprefix("fold_")
    return place, folds


def read_results(word: str | Path, *, mirroring: bool = True, checkpoint: str = "checkpoint_final.pth") -> Network:
    """The network of a results folder, as nnU-Net predicts with it: all folds, and mirrored copies as in training.

    Args:
        word: the folder `TRAINER__PLANS__CONFIGURATION`; `:0` or `:0,1` behind it chooses folds.
        mirroring: False takes one pass a window, which is another function: its maps differ.
        checkpoint: the file in each fold's folder.

    Raises:
        FileNotFoundError: for a fold or file that is not there.
        ValueError: for a cascade, a 2D configuration, plans that cannot be read, or weights that are not the plans'.
    """
    folder, wanted = _split(str(word))
    configuration = folder.name.rpartition("__")[2]
    dataset = read_json(folder / "dataset.json")
    plans = read_plans(read_json(folder / "plans.json"), dataset, configuration)
    files = [folder / f"fold_{fold}" / checkpoint for fold in _folds(folder, wanted, checkpoint)]
    modules, axes = [], (0, 1, 2)
    for path in files:
        content, module = read_pickle(path), build_network(plans)
        try:
            module.load_state_dict(content["network_weights"])
        except RuntimeError as error:
            why = shorten(str(error), 120, placeholder=" ...")
            raise ValueError(
                f"{path.name} of {path.parent.name} must hold the network of the plans beside it, it does not ({why}). "
                "It is of another plan, or of a trainer with its own network."
            ) from error
        axes = tuple(content.get("inference_allowed_mirroring_axes") or ())
        modules.append(module)
    flips = mirrors(axes) if mirroring else [()]
    copies = Copies(modules, [tuple(axis + 2 for axis in flip) for flip in flips])
    stages = len(plans.network[1]["strides"])
    return Network(
        copies,
        folder.parent.name if folder.parent.name.startswith("Dataset") else folder.name,
        window=plans.patch,  # pyright: ignore[reportArgumentType]
        through="windows",
        overlap=0.5,
        placing="nnunet",
        layer=f"members.0.decoder.stages.{max(0, stages - 3)}",  # half resolution on the way up, as the paper's
        stride=tuple(int(n) for n in np.prod(plans.network[1]["strides"], axis=0)),
        channels=tuple(known_channel(name) for name in plans.channels),
        lesion_class=1 if len(plans.outputs) == 1 else lesion_output(plans.outputs),
        classes=("background", *plans.outputs) if len(plans.outputs) == 1 else plans.outputs,
        head="sigmoid" if plans.regions and len(plans.outputs) > 1 else "softmax",
        plans=plans,
    )


def _folds(folder: Path, wanted: str, checkpoint: str) -> list[str]:
    """The folds asked for, or all that have a checkpoint."""
    there = sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}"))
    chosen = [fold.strip() for fold in wanted.split(",")] if wanted not in ("", "all") else there
    chosen = [fold for fold in chosen if not (wanted in ("",) and fold == "all" and len(there) > 1)]
    lacking = [fold for fold in chosen if fold not in there]
    if lacking or not chosen:
        raise FileNotFoundError(
            f"A fold must have its {checkpoint}; {folder.name} has folds {', '.join(there) or 'none'}, got "
            f"{', '.join(lacking) or 'none'}."
        )
    return chosen


def lesion_output(names: Sequence[str]) -> int:
    """Which output means lesion: the one called so, else the first that is no background."""
    named = [n for n, name in enumerate(names) if re.search(r"(?i)lesion|wmh|wml|ms\b|plaque", name)]
    return named[0] if named else int(names[0].lower() == "background")
