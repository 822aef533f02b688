"""An nnU-Net v2 results folder, read without nnunetv2: its plans, its networks, and how it sees a scan.

What nnU-Net calls its prediction is a chain: turn the axes, crop to what is not zero, normalise, resample, pad to a
patch, average mirrored copies and folds over weighted windows, and go all the way back. Everything but the networks is
linear once the image is normalised, so the chain can be followed backwards exactly: `Placement` does it at the
boundary, outside the networks, where a layer's map keeps its axes.

Source: Isensee et al., Nature Methods 2021; the file formats and steps are those of nnunetv2 2.0 to 2.8.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from torch import nn

from ies_helpers.arrays import Affine, Box, Volume, Voxels, spacing_of
from ies_helpers.segmentation.network import Copies, Network
from ies_helpers.subjects.subject import CHANNELS

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

    def place(self, raw: Volume, affine: Affine) -> tuple["Placement", Volume]:
        """Where raw values `(C, I, J, K)` lie for the network, and the image, normalised as it wants it."""
        placement = Placement(self, raw, affine)
        return placement, placement.normalise(raw)


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


class Placement:
    """One scan on the network's own grid, and the way back, both linear; made by `Plans.place`.

    Attributes:
        box: of the scan, outside of which nnU-Net says background.
        mask: `(I, J, K)` bool, what counts as not zero.
        shape: `(a, b, c)` of the network's array, padded to a patch at least.
    """

    def __init__(self, plans: Plans, raw: Volume, affine: Affine) -> None:
        """Look at raw values `(C, I, J, K)`: where they are not zero decides the box."""
        self.plans, self.scan_shape = plans, tuple(raw.shape[1:])
        self.mask = np.asarray(ndimage.binary_fill_holes((raw != 0).any(dim=0).numpy()), dtype=bool)
        self.box = Box.around(self.mask) if self.mask.any() else Box.whole(self.scan_shape)
        self.axes, self.flips = _axes(plans, affine)
        # The box's sides and spacing along the network's axes, and what they become.
        spacing = spacing_of(affine)
        self.before = tuple(self.box.shape[a] for a in self.axes)
        self.spacing = tuple(spacing[a] for a in self.axes)
        after = tuple(round(s / t * n) for s, t, n in zip(self.spacing, plans.spacing, self.before, strict=True))
        self.there = _matrices(self.before, after, self.spacing, plans.spacing, plans.data)
        self.back = _matrices(after, self.before, plans.spacing, self.spacing, plans.probabilities)
        self.rim = [(max(0, p - n) // 2, -(-max(0, p - n) // 2)) for p, n in zip(plans.patch, after, strict=True)]
        self.after = after
        self.shape = tuple(n + a + b for n, (a, b) in zip(after, self.rim, strict=True))

    @property
    def resamples(self) -> bool:
        """Whether the network sees another spacing than the scan's."""
        return self.before != self.after

    def normalise(self, raw: Volume) -> Volume:
        """Raw values -> the normalised image `(C, I, J, K)` on the scan's grid; 0 outside the box."""
        image, known = torch.zeros_like(raw), self.plans.intensities
        for n, (scheme, masked) in enumerate(zip(self.plans.schemes, self.plans.masked, strict=True)):
            values = raw[n][self.box].numpy().astype(np.float32)
            mask = self.mask[self.box] if masked else None
            image[n][self.box] = torch.from_numpy(SCHEMES[scheme](values, mask, known.get(str(n), {})).astype("f4"))
        return image

    def push(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The normalised image `(C, I, J, K)` -> what the network gets, `(C, a, b, c)`.

        Also says where resampling kept a value, None: everywhere. Cubic splines overshoot, and what leaves the range of
        the channel (or slice, where an axis is resampled by itself) is clipped: there no gradient passes.
        """
        x = image[:, *self.box].permute(0, *(a + 1 for a in self.axes))
        x = x.flip([n + 1 for n, flipped in enumerate(self.flips) if flipped])
        passes = None
        if self.resamples:
            low, high = self._range(x)
            x = _apply(x, [self.there[0][n] for n in range(3)])
            passes = (x >= low) & (x <= high)
            x = x.clamp(low, high)
        return nn.functional.pad(x, [side for rim in reversed(self.rim) for side in rim]), passes

    def _range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The range that values are clipped to: `(C, 1, 1, 1)`, or a slice's along the axis that stands alone."""
        alone = self.there[1]
        if alone is None:
            return x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        others = [n + 1 for n in range(3) if n != alone]
        ends = [x.amin(others, keepdim=True), x.amax(others, keepdim=True)]
        across = self.there[0][alone].to(x)
        low, high = (_apply(end, [across if n == alone else None for n in range(3)]) for end in ends)
        return low, high

    def pull(self, g: torch.Tensor, passes: torch.Tensor | None) -> torch.Tensor:
        """The transpose of `push`: a gradient `(C, a, b, c)` by what the network got -> `(C, I, J, K)` by the image."""
        where = Box.of([a for a, _ in self.rim], [a + n for (a, _), n in zip(self.rim, self.after, strict=True)])
        g = g[:, *where]
        if passes is not None:
            g = _apply(g * passes, [m.T for m in self.there[0]])
        g = g.flip([n + 1 for n, flipped in enumerate(self.flips) if flipped])
        whole = g.new_zeros(len(g), *self.scan_shape)
        whole[:, *self.box] = g.permute(0, *(list(self.axes).index(a) + 1 for a in range(3)))
        return whole

    def spread(self, voxels: Voxels) -> tuple[np.ndarray, Voxels, np.ndarray]:
        """Scan voxels `(V, 3)` -> the network's voxels that make their logits: rows, `(N, 3)` and weights `(N,)`.

        The logit at voxel `rows[n]` is the sum of the weights times the logits at the network's voxels.
        """
        outside = ((voxels < self.box.start) | (voxels >= self.box.stop)).any(axis=1)
        if outside.any():
            raise ValueError(
                f"A lesion must lie where the scan is not zero, {int(outside.sum())} of its {len(voxels)} voxels do "
                "not; nnU-Net calls them background without looking. Leave it out."
            )
        local = (np.asarray(voxels) - self.box.start)[:, list(self.axes)]
        local = np.where(self.flips, np.array(self.before) - 1 - local, local)
        rows, places, weights = [], [], []
        for row, voxel in enumerate(local):
            taken = [(m[v].nonzero()[0], m[v]) for m, v in zip(self._back_arrays, voxel, strict=True)]
            for place in itertools.product(*(t[0] for t in taken)):
                rows.append(row)
                places.append([p + a for p, (a, _) in zip(place, self.rim, strict=True)])
                weights.append(np.prod([t[1][p] for p, t in zip(place, taken, strict=True)]))
        return np.array(rows), np.array(places), np.array(weights)

    @property
    def _back_arrays(self) -> list[np.ndarray]:
        return [m.numpy() for m in self.back[0]]

    def restore(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(K, a, b, c)` on the network's grid -> on the scan's box `(K, i, j, k)`."""
        where = Box.of([a for a, _ in self.rim], [a + n for (a, _), n in zip(self.rim, self.after, strict=True)])
        y = logits[:, *where]
        if self.resamples:
            y = _apply(y, list(self.back[0]))
        y = y.flip([n + 1 for n, flipped in enumerate(self.flips) if flipped])
        return y.permute(0, *(list(self.axes).index(a) + 1 for a in range(3)))

    def fill(self, logits: torch.Tensor) -> torch.Tensor:
        """`restore` on the whole scan, `(K, I, J, K)`; NaN beyond the box, where nnU-Net has no logits."""
        restored = self.restore(logits)
        whole = restored.new_full((len(restored), *self.scan_shape), float("nan"))
        whole[:, *self.box] = restored
        return whole


def _axes(plans: Plans, affine: Affine) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each axis of the network's array the axis of the scan, and whether it runs the other way."""
    turned, flipped = [0, 1, 2], [False, False, False]
    if plans.reorient:
        ornt = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
        for axis, (to, direction) in enumerate(ornt):
            turned[int(to)], flipped[int(to)] = axis, direction < 0
    order = [(2, 1, 0)[a] for a in plans.transpose]  # readers hand out (K, J, I)
    return tuple(turned[a] for a in order), tuple(flipped[a] for a in order)


Matrices = tuple[tuple[torch.Tensor, ...], int | None]


def _matrices(
    old: Sequence[int], new: Sequence[int], old_mm: Sequence[float], new_mm: Sequence[float], how: Mapping[str, Any]
) -> Matrices:
    """Resampling along each axis as a matrix `(new, old)` float64, and the axis that is resampled by itself."""
    if tuple(old) == tuple(new):
        return tuple(torch.eye(n, dtype=torch.float64) for n in old), None
    alone = _separate_axis(old_mm, new_mm, how.get("force_separate_z"))
    found = []
    for axis, (n, m) in enumerate(zip(old, new, strict=True)):
        if axis == alone:
            # map_coordinates at the centres of the new voxels, the ends repeated
            at = (n / m) * (np.arange(m) + 0.5) - 0.5
            columns = [ndimage.map_coordinates(e, [at], order=how.get("order_z", 0), mode="nearest") for e in np.eye(n)]
            columns = list(np.eye(n)) if n == m else columns
        else:
            columns = [ndimage.zoom(e, m / n, order=how["order"], mode="nearest", grid_mode=True) for e in np.eye(n)]
        found.append(torch.from_numpy(np.stack(columns, axis=1)))
    return tuple(found), alone


def _separate_axis(old_mm: Sequence[float], new_mm: Sequence[float], force: bool | None) -> int | None:
    """The axis that nnU-Net resamples by itself: where it is more than three times as coarse as the finest."""
    if force is False:
        return None
    for mm in (old_mm, new_mm):
        coarse = np.flatnonzero(np.asarray(mm) == max(mm))
        if force or max(mm) / min(mm) > ANISOTROPIC:
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def _apply(x: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """One matrix along each of the last three axes of `(C, a, b, c)`, in float64, back in the type of `x`."""
    y = x.double()
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            y = torch.movedim(
                torch.tensordot(matrix.to(y), y, dims=([1], [axis + 1])),  # pyright: ignore
                0,
                axis + 1,
            )
    return y.to(x.dtype)


def mirrors(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes to flip, of each mirrored copy: all subsets, none first."""
    return [some for count in range(len(axes) + 1) for some in itertools.combinations(axes, count)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A `checkpoint_*.pth`, opened for tensors and numbers alone: no code of it is run."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        scalar,
        np.dtype,
        np.ndarray,
        *{type(np.dtype(k)) for k in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_json(path: Path) -> Any:
    """A JSON file of the folder."""
    return json.loads(path.read_text(encoding="utf-8"))


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
        content, module = read_checkpoint(path), build_network(plans)
        try:
            module.load_state_dict(content["network_weights"])
        except RuntimeError as error:
            raise ValueError(
                f"{path.name} of {path.parent.name} must hold the network of the plans beside it, it does not "
                f"({' '.join(str(error).split())[:120]}). It is of another plan, or of a trainer with its own network."
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
        channels=tuple(_channel_name(name) for name in plans.channels),
        lesion_class=_lesion_output(plans),
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


def _channel_name(name: str) -> str:
    """A channel of `dataset.json` by the name that a row of `CHANNELS` has for it, else as it is, in small letters."""
    for row in CHANNELS.values():
        if name.lower() in (row.name, row.label.lower(), row.suffix.lower()) or re.search(row.pattern, name):
            return row.name
    return name


def _lesion_output(plans: Plans) -> int:
    """Which output means lesion: the one called so, else the first that is no background."""
    named = [n for n, name in enumerate(plans.outputs) if re.search(r"(?i)lesion|wmh|wml|ms\b|plaque", name)]
    if len(plans.outputs) == 1:
        return 1  # beside a background of 0
    return named[0] if named else int(plans.outputs[0] == "background")
