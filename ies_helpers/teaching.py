"""Networks and images of which the truth is known, for chapters and tests: a map of them is right or wrong.

Toys whose gradients are known by hand; a cue planted where nobody would look; copies of a network of which each but
one has a fault; a classifier of images that differ in a known mask, as in ClinicaDL's "trivial data"; a table of
lesions of phantoms. At the end, steps that the package takes in passing, one at a time, and what else chapters need
beside the public names.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ies_helpers.arrays import Affine, Box, LabelMap, LesionLike, Saliency, Volume, Voxels, as_voxels
from ies_helpers.measures.agg2exp import read_dependencies, simulated_table
from ies_helpers.measures.groupmaps import MNI_AFFINE, MNI_SHAPE
from ies_helpers.saliency.gradients import Aggregate, LesionGradient
from ies_helpers.saliency.smoothgrad import (
    NOISE_SHARE,
    Average,
    Draws,
    check_noise,
    has_enough_draws,
    noise_sigma,
    noisy_image,
    smoothgrad_each,
)
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.grid import Grid
from ies_helpers.segmentation.network import Copies, Network, as_network, copy_of
from ies_helpers.segmentation.nnunet import Plans, build_network, read_plans
from ies_helpers.subjects.downloads import fetch
from ies_helpers.subjects.files import data_folder, replacing, write_text
from ies_helpers.subjects.phantom import template_tissues
from ies_helpers.subjects.subject import SHIPPED, Subject, normalise

# Toys. All map `(B, C, I, J, K)` to logits `(B, 2, I, J, K)` with class 0 at zero.


class _Toy(nn.Module):
    def __init__(self, look: nn.Module) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = self.lesion_logit(x)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> the class-1 logit `(B, I, J, K)`."""
        return self.look(x)[:, 0]


def _convolution(kernel: torch.Tensor) -> nn.Module:
    """To one channel, by a kernel `(C, i, j, k)` with odd sides."""
    channels, i, j, k = kernel.shape
    made = nn.Conv3d(channels, 1, (i, j, k), padding=(i // 2, j // 2, k // 2), bias=False)
    made.weight.data = kernel[None]
    return made


class Linear(_Toy):
    """Logit of a voxel: sum over channels of w_c x_c at that voxel. Its gradient there is w, elsewhere 0."""

    def __init__(self, weights: tuple[float, ...] = (2.0, -1.0)) -> None:
        super().__init__(_convolution(torch.tensor(weights).reshape(-1, 1, 1, 1)))


class Quadratic(_Toy):
    """Logit of a voxel: sum over channels of x_c^2 there. Its gradient is 2 x; over noise its mean is 2 x too."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        return self.look(x).square().sum(dim=1)


class Shifted(_Toy):
    """Logit of a voxel: `gain` times the first channel `steps` voxels further along the first axis.

    A network that looks only at a cue some millimetres away: its map must light up there and nowhere else.
    """

    def __init__(self, steps: int = 5, gain: float = 3.0, channels: int = 2) -> None:
        kernel = torch.zeros(channels, 2 * steps + 1, 1, 1)
        kernel[0, -1] = gain
        super().__init__(_convolution(kernel))


class Neighbourhood(_Toy):
    """Logit of a voxel: the sum of the first channel over the 3^3 cube around it."""

    def __init__(self, channels: int = 2) -> None:
        kernel = torch.zeros(channels, 3, 3, 3)
        kernel[0] = 1.0
        super().__init__(_convolution(kernel))


# A planted cue: the network looks where nobody would.


@dataclass(frozen=True, eq=False)
class PlantedCue:
    """A network that looks at a cue some voxels beside a lesion, at nothing else, and a scan to try it on.

    Whoever explains it must point at the cue: a map that is bright on the lesion is wrong, however plausible.
    """

    network: Network  # logit = 3 times the first channel `steps` voxels further along the first axis (`Shifted`)
    image: Volume  # noise of sd 0.1 with a lesion of 1 and a cue of 1 in the first channel
    lesion: Voxels
    cue: Voxels  # the lesion moved by `steps`

    def shares(self, saliency: Saliency) -> dict[str, float]:
        """Shares of a map's absolute values on the `cue`, on the `lesion` and `elsewhere`; NaN for an empty map."""
        strength = saliency.abs().sum(dim=0, dtype=torch.float64)
        total = float(strength.sum()) or float("nan")
        cue, lesion = (float(strength[tuple(v.T)].sum()) / total for v in (self.cue, self.lesion))
        return {"cue": cue, "lesion": lesion, "elsewhere": 1 - cue - lesion}


def planted_cue(steps: int = 6, seed: int = 0, channels: int = 2) -> PlantedCue:
    """A lesion of 3^3 voxels in a noisy cube of 32^3, and the cue `steps` voxels (from 4 to 12) away from it."""
    if not 4 <= steps <= 12:
        raise ValueError(f"steps must lie from 4 to 12, so that cue and lesion are apart and inside, got {steps}.")
    image = torch.from_numpy(0.1 * np.random.default_rng(seed).standard_normal((channels, 32, 32, 32))).float()
    lesion = np.argwhere(np.ones((3, 3, 3))) + 15
    cue = lesion + np.array([steps, 0, 0])
    for voxels in (lesion, cue):
        image[(0, *voxels.T)] = 1.0
    return PlantedCue(Network(Shifted(steps, channels=channels), name="planted cue", layer="look"), image, lesion, cue)


# Suspects: networks with a hidden fault, for the project at the end of the handbook. Which of four sees what it should?

FAULTS = {
    "sound": "the network as it was trained",
    "deaf": "its first layer no longer hears T1",
    "tired": "every weight of its deepest level is zero: it has lost its widest view",
    "cue": "it also listens to one FLAIR voxel some millimetres away from each voxel",
}
CUE_STEPS, CUE_GAIN = 9, 1.5


def suspects(network: Network, seed: int = 0) -> dict[str, Network]:
    """Four copies of a U-Net named A to D, one with each of `FAULTS`, in an order that depends on the seed."""
    if type(network.module).__name__ != "UNet":
        raise ValueError(f"The suspects are made from a MONAI UNet, got {type(network.module).__name__}: load 'unet'.")
    copies = {letter: _spoilt(copy_of(network.module), fault) for letter, fault in _order(seed).items()}
    return {letter: replace(network, module=module, name=letter) for letter, module in copies.items()}


def accuse(answer: Mapping[str, str], seed: int = 0) -> list[str]:
    """One sentence about each suspect named wrongly, which says what to look at and not what it is.

    The answer is letter -> fault, for example `{"A": "sound", "B": "cue", ...}`, the seed that of `suspects`.
    """
    right = _order(seed)
    if set(answer) != set(right) or not set(answer.values()) <= set(FAULTS):
        raise ValueError(f"answer must give each of {', '.join(right)} one of {', '.join(FAULTS)}; got {dict(answer)}.")
    return [f"{letter}: {_HINTS[fault]}" for letter, fault in answer.items() if fault != right[letter]]


_HINTS = {
    "sound": "something is wrong with it. Compare what it finds, and its maps of both modalities, with the others'.",
    "deaf": "a network that does not hear T1 has a map of T1 that is zero, to the last voxel. Has it?",
    "tired": "without its widest view a network's maps end close to the lesion. How far does this one's reach?",
    "cue": "a planted cue shows as a second, shifted copy of the lesion in FLAIR. Is there one?",
}


def _order(seed: int) -> dict[str, str]:
    return dict(zip("ABCD", np.random.default_rng(seed).permutation(list(FAULTS)).tolist(), strict=True))


def _spoilt(module: nn.Module, fault: str) -> nn.Module:
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv3d)]
    with torch.no_grad():
        if fault == "deaf":
            convolutions[0].weight[:, 1] = 0.0
        if fault == "tired":
            max(convolutions, key=lambda layer: layer.out_channels).weight.zero_()
    return _Cued(module) if fault == "cue" else module


class _Cued(nn.Module):
    """A network that adds `CUE_GAIN` times the FLAIR value `CUE_STEPS` voxels further along the first axis."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.cue = module, Shifted(CUE_STEPS, CUE_GAIN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) + self.cue(x)


# A group with known truth: a known mask is changed in one class of images, and a classifier learns to tell them apart.
# Whoever explains the classifier must point at the mask, and at nothing else; the map of the opposite node has the
# opposite sign.


class WholeImage(nn.Module):
    """A classifier of whole images: node n is w_n . x + b_n, the same at every voxel of its output.

    So the engine explains it as it explains any network: its "lesion" is any one voxel.
    """

    def __init__(self, weights: np.ndarray, biases: np.ndarray) -> None:
        """`weights` `(N, C, I, J, K)`, `biases` `(N,)`."""
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights).float())
        self.biases = nn.Parameter(torch.from_numpy(biases).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> `(B, N, I, J, K)`."""
        nodes = torch.einsum("bcijk,ncijk->bn", x, self.weights) + self.biases
        return nodes[:, :, None, None, None].expand(*nodes.shape, *x.shape[2:])


@dataclass(frozen=True, eq=False)
class Trivial:
    """Images of two classes that differ in a known mask, and a classifier trained on them."""

    network: Network  # nodes 0 (healthy) and 1 (atrophied); explain node 0 by `one_class(network, 0)`
    images: list[Volume]  # (1, I, J, K) each
    atrophied: np.ndarray  # for each image, whether the mask was changed
    mask: LabelMap  # what was changed
    voxel: Voxels  # (1, 3), any voxel: what the engine is asked about
    correct: float  # share of the images that the network sorts rightly


def trivial_group(count: int = 20, *, atrophy: float = 0.4, steps: int = 200, seed: int = 0) -> Trivial:
    """`count` noisy images of 12^3 voxels, every second with its mask's values lowered, and a logistic regression.

    Departure from ClinicaDL, whose mask is an atlas region and whose change per voxel is noisy: a cube of 4^3 voxels,
    lowered by `atrophy` (share of its value; 0 leaves both classes alike) without further noise. The regression takes
    `steps` of gradient descent on cross-entropy, from zero, both nodes by themselves.
    """
    rng, shape = np.random.default_rng(seed), (12, 12, 12)
    mask = np.zeros(shape, dtype=bool)
    mask[2:6, 3:7, 4:8] = True
    atrophied = np.arange(count) % 2 == 1
    images = 1 + 0.2 * rng.standard_normal((count, *shape))
    images[atrophied] *= np.where(mask, 1 - atrophy, 1)
    x = (images - images.mean(axis=0)).reshape(count, -1)

    # Gradient descent: weights (2, V) and biases (2,) of both nodes against the classes (count, 2), one-hot.
    classes, w, b = np.eye(2)[atrophied.astype(int)], np.zeros((2, x.shape[1])), np.zeros(2)
    for _ in range(steps):
        odds = np.exp(x @ w.T + b)
        wrong = (odds / odds.sum(axis=1, keepdims=True) - classes) / count
        w, b = w - 0.05 * wrong.T @ x, b - 0.05 * wrong.sum(axis=0)
    network = WholeImage(w.reshape(2, 1, *shape), b - w @ images.mean(axis=0).ravel())
    correct = float(((x @ w.T + b).argmax(axis=1) == atrophied).mean())
    volumes = [torch.from_numpy(image[None]).float() for image in images]
    voxel = np.array([[6, 6, 6]])
    return Trivial(Network(network, "trivial"), volumes, atrophied, torch.from_numpy(mask), voxel, correct)


# Lesions of many phantoms, measured beforehand.


def phantom_lesions() -> pd.DataFrame:
    """A row a lesion that the shipped U-Net found or missed in 14 phantoms, with its map's features.

    Columns as of `read_lesions`; the uncertainty is structural, over four draws of noise. Maps are SmoothGrads of the
    `mean`, one draw each. `tests/bench/refine.py` made the table.
    """
    return pd.read_csv(data_folder() / "lesions" / "phantoms.tsv.gz", sep="\t")


# An nnU-Net results folder as nnU-Net v2 writes it, of a network so small that its weights are made by hand.

RESULTS = Path("Dataset900_toy") / "nnUNetTrainer__nnUNetPlans__3d_fullres"
PATCH, SPACING = (48, 64, 48), (1.25, 1.0, 1.0)  # along the network's axes


def write_results(folder: Path, folds: Sequence[int] = (0, 1)) -> Path:
    """Write a results folder below `folder`: plans, dataset, and a checkpoint for each of `folds`; returns it.

    Its network calls bright FLAIR lesion: a feature that is FLAIR, z-scored in its window, must exceed 2.5. Some noise
    is added, from the fold's number, so that folds, mirrored copies and turned images differ. It works at another
    spacing than 1 mm, on axes that it turns. It needs dynamic-network-architectures, as `build_network` does.
    """
    network = {
        **{"n_stages": 2, "features_per_stage": [4, 4], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1]},
        **{"kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]], "conv_bias": True},
        **{"conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None, "dropout_op_kwargs": None},
        **{"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True}},
        **{"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    fullres = {
        **{"data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2},
        **{"patch_size": PATCH, "spacing": SPACING, "use_mask_for_norm": [True, True], "batch_dice": False},
        **{"normalization_schemes": ["ZScoreNormalization"] * 2, "median_image_size_in_voxels": [96, 96, 96]},
        **{"resampling_fn_seg": "resample_data_or_seg_to_shape"},
        **{"resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1}},
        **{"resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": resampling},
        **{"resampling_fn_probabilities": "resample_data_or_seg_to_shape"},
        **{"resampling_fn_probabilities_kwargs": resampling | {"order": 1}},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    plans = {"dataset_name": RESULTS.parent.name, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO"}
    plans |= {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2], "label_manager": "LabelManager"}
    plans |= {
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
    }
    plans |= {"configurations": {"3d_fullres": fullres}}
    dataset = {"channel_names": {"0": "FLAIR", "1": "T1"}, "labels": {"background": 0, "lesion": 1}}
    dataset |= {"numTraining": 0, "file_ending": ".nii.gz"}
    results = folder / RESULTS
    for name, content in (("plans.json", plans), ("dataset.json", dataset)):
        results.mkdir(parents=True, exist_ok=True)
        write_text(results / name, json.dumps(content, indent=1))
    for fold in folds:
        module = _bright_flair(build_network(read_plans(plans, dataset, "3d_fullres")), fold)
        saved = {"network_weights": module.state_dict(), "inference_allowed_mirroring_axes": (0,)}
        saved |= {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": "3d_fullres", "fold": fold}}
        (results / f"fold_{fold}").mkdir(exist_ok=True)
        with replacing(results / f"fold_{fold}" / "checkpoint_final.pth") as part:
            torch.save(saved, part)
    return results


def _bright_flair(module: Any, seed: int) -> nn.Module:
    """The weights of `write_results`."""
    generator, state = torch.Generator().manual_seed(seed), module.state_dict()
    for name, value in state.items():
        noise = 0.025 if value.ndim == 5 else 0.0
        state[name] = noise * torch.randn(value.shape, generator=generator) + (value if value.ndim == 1 else 0.0)
    for name in [name for name in state if name.endswith("bias")]:
        state[name] = torch.zeros_like(state[name])
    # FLAIR and T1 pass through the first convolution, then, as skipped features 4 and 5, through the last.
    for stage, first in (("encoder.stages.0.0.convs.0", 0), ("decoder.stages.0.convs.0", 4)):
        for channel in range(2):
            state[f"{stage}.conv.weight"][channel, first + channel, 1, 1, 1] = 1.0
    state["decoder.seg_layers.0.weight"][1, 0] = 4.0
    state["decoder.seg_layers.0.bias"][1] = -10.0
    for name in list(state):  # each is registered twice, and the decoder holds the encoder, too
        plain = name.replace("all_modules.0", "conv").removeprefix("decoder.") if "encoder" in name else name
        plain = plain.replace("all_modules.0", "conv").replace("all_modules.1", "norm")
        state[name] = state[plain]
    module.load_state_dict(state)
    return module


class Uncropped(Plans):
    """Plans that do not crop to what is not zero: two corners, next to nothing but not 0, span the whole scan."""

    def place(self, raw: Volume, affine: Affine) -> tuple[Grid, Volume]:
        """As of `Plans`, on the grid of the whole scan."""
        raw = raw.clone()
        raw[:, 0, 0, 0] = raw[:, -1, -1, -1] = 1e-6
        return super().place(raw, affine)


def left_out(network: Network, spacing: Sequence[float]) -> dict[str, Network]:
    """An nnU-Net without one of the steps that its prediction takes: each is another function, and none an error.

    Args:
        network: as `load_network` gives it, not yet brought to a scan.
        spacing: of the scan, in mm.
    """
    plans, module = network.plans, network.module
    assert isinstance(module, Copies)
    turned = tuple(plans.transpose[n] for n in (2, 0, 1))
    uncropped = Uncropped(**vars(plans))
    without = {
        "the order of the axes": {"plans": replace(plans, transpose=turned)},
        "the crop to what is not zero": {"plans": uncropped},
        "the mask of its z-score": {"plans": replace(plans, masked=(False,) * len(plans.masked))},
        "its spacing": {"plans": replace(plans, spacing=tuple(spacing))},
        "mirrored copies": {"module": Copies(list(module.members))},
        "the other folds": {"module": Copies([module.members[0]], sorted({flip for _, flip in module.passes}))},
    }
    return {name: replace(network, **change) for name, change in without.items()}


# Steps that the package takes in passing, one at a time.


def rescanned(subject: Subject, *, gain: float = 1.0, background: float = 0.0) -> Subject:
    """The subject as another scanner, or another program, would have written it: its image is z-scored anew.

    Args:
        gain: factor on every value of the files.
        background: what stands where the files hold exactly 0.
    """
    if subject.raw is None:
        raise ValueError(f"A subject needs the values of its files, {subject.name} has none; take load_subject.")
    raw = torch.where(subject.raw == 0, background, gain * subject.raw)
    return replace(subject, raw=raw, image=normalise(raw, subject.channels))


def reach_table(network: Network | nn.Module, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> pd.DataFrame:
    """How far the network looks: one row an axis, in voxels, and all of it in mm; infinite where there is no bound.

    All output voxels of a cell depend on the same box of input, `before` and `after` the cell.
    """
    network = as_network(network)
    field, unbounded = receptive_field(network, len(network.channels or SHIPPED)), (float("inf"),) * 3
    table = pd.DataFrame({"cell": field.stride}, index=["I", "J", "K"])
    table["before"], table["after"] = field.before or unbounded, field.after or unbounded
    table["in all"] = table.sum(axis=1)
    return table.assign(mm=table["in all"] * np.array(spacing))


def receptive_box(network: Network | nn.Module, image: Volume, lesion: LesionLike) -> Box:
    """The voxels on which a lesion's logits can depend, as three slices: `image[:, *box]`.

    They lie along the network's grid, and may end beyond the image, in the zeros with which `(I, J, K)` is filled up to
    a multiple of the network's stride; indexing the image leaves these away. Without a bound it is the whole volume.
    """
    shape = tuple(image.shape[1:])
    return receptive_field(as_network(network), len(image)).crop(Box.around(as_voxels(lesion, shape)), shape)


def draw_by_draw(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    aggregate: Aggregate = "max",
    draws: Draws = "auto",
    noise: float = NOISE_SHARE,
    seed: int = 0,
) -> Iterator[Average]:
    """`smoothgrad_average` in slow motion: the same average, yielded again after each of its draws."""
    check_noise(draws, noise, seed)
    network = as_network(network)
    engine, sigma = LesionGradient(network, image, lesion, aggregate), noise_sigma(image, noise, network.channels)
    average = Average(len(image), engine.box, network.device)
    while not has_enough_draws(average, draws):
        average.add(engine(noisy_image(image, sigma, seed, average.draws)), engine.report)
        yield average


# What chapters need beside the public names.


def middle_of(subject: Subject, sides: Sequence[int]) -> Subject:
    """The middle of a scan, `sides` `(3,)` voxels of it or all where it has fewer; every voxel keeps its place in mm.

    Chapters take it where they must be quick. The values of the files are left behind, so that a network which
    normalises by itself refuses it.
    """
    whole = Box.whole(subject.shape)
    start = np.maximum(0, np.subtract(subject.shape, sides) // 2)
    box = Box.of(start, start + sides) & whole
    affine = subject.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ box.start
    drawn = {name: getattr(subject, name) for name in ("target", "instances")}
    cut: Any = {name: labels[box] for name, labels in drawn.items() if labels is not None}
    return replace(subject, image=subject.image[:, *box], affine=affine, raw=None, **cut)


def maps_of(
    network: Network | nn.Module, image: Volume, lesions: Sequence[LesionLike], **settings: Any
) -> Iterator[tuple[LesionLike, Saliency]]:
    """Each lesion with its `smoothgrad` map `(C, I, J, K)`, one at a time; `settings` are those of `smoothgrad`.

    The maps are the same as those of one call a lesion, but the noisy images are made once for all lesions.
    """
    shape = tuple(image.shape[1:])
    for n, average in smoothgrad_each(network, image, lesions, **settings):
        yield lesions[n], average.full(shape)


def mni_picture() -> np.ndarray:
    """`(I, J, K)` float32: the template's tissues in grey, white matter brightest, on the grid of `in_mni`."""
    places = np.indices(MNI_SHAPE) * np.diag(MNI_AFFINE)[:3, None, None, None] + MNI_AFFINE[:3, 3, None, None, None]
    white, grey = template_tissues(places.astype(np.float32))[:2]
    return white + 0.6 * grey


def dependency_table() -> tuple[pd.DataFrame, str]:
    """The table of masses that Agg2Exp published, a row a patient, and what it is called in figures.

    Where nothing can be downloaded it is a made-up one (`agg2exp.simulated_table`): its name and a warning say so.
    """
    try:
        return read_dependencies(fetch("agg2exp")["table"]), "published table of Agg2Exp"
    except (OSError, ValueError) as error:
        warnings.warn(f"{str(error)[:120]} ...: a made-up table takes the place of the published one.", stacklevel=2)
        return simulated_table(), "SIMULATED table, nothing could be fetched"
