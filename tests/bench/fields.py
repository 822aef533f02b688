"""Near and far fields against our own exact gradients, on the same image in one run."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures import unet
from torch import nn

from ies_helpers import Lesion, Network
from ies_helpers.arrays import Box
from ies_helpers.saliency.estimate import estimate_seconds, plain_way
from ies_helpers.saliency.farfield import Report
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.views import Part, forward
from ies_helpers.segmentation.network import at_rest
from tests.bench.measure import Peak, Row, pair, timed

SAMPLE = 3
"""Voxels on which the exact way is measured; its time is scaled to all voxels, windows and forward passes."""

STAGES = (32, 64, 128, 256, 320, 320)
"""Features of the six stages that nnU-Net plans for patches of 128^3."""


def one_lesion(network: Network, image: torch.Tensor, voxels: np.ndarray, accuracy: float, repeats: int = 3) -> Row:
    """`max` of one lesion and draw to an accuracy, against exact windows.

    The run that is not counted also compares a few voxels with exact ones, as the first draw of any map does; the
    largest difference is of these.
    """
    engine = LesionGradient(network, image, voxels, "max", way="fields", accuracy=accuracy)
    exact = LesionGradient(network, image, voxels, "max", way=plain_way(engine), accuracy="exact")
    part = min(exact.parts, key=lambda part: (len(part.views), -len(part.voxels)))
    some = part.voxels[:SAMPLE]
    sampled = LesionGradient(network, image, some, "max", way=exact.way, accuracy="exact")
    row = pair(
        "",
        lambda: engine(image).amax(),
        lambda: sampled(image).amax(),
        repeats=repeats,
        device=network.device,
    )
    once = forward_seconds(network, image, part)
    each = (row.plain / len(part.views) - once) / len(some)
    seconds = sum(len(p.views) * (once + len(p.voxels) * each) for p in exact.parts)
    views = len({tuple(view.box.start) for p in exact.parts for view in p.views})
    where = f"{len(voxels)} voxels in {views} window{'s' * (views > 1)}"
    case = f"{network.name}, max, {where}, {in_words(engine)} (plain: exact, {len(some)} voxels, scaled)"
    found = engine.report.deviation if engine.report else {}
    error = found.get("largest", float("nan"))
    return Row(case, row.ours, seconds, row.memory, row.plain_memory, error, float("nan"))


def in_words(engine: LesionGradient) -> str:
    """What was done, and how far off it is."""
    report: Report | None = engine.report
    if report is None:
        return f"exact by {engine.way}"
    l2 = report.deviation.get("l2", float("nan"))
    return (
        f"accuracy {report.accuracy:g}: {report.passes} passes, L2 {report.estimate:.1e} estimated and {l2:.1e} "
        f"measured on {report.voxels} voxels"
    )


def forward_seconds(network: Network, image: torch.Tensor, part: Part) -> float:
    """Of one forward pass whose graph is kept."""
    with at_rest(network):
        return statistics.median(timed(lambda: forward(network, image, part.views[0])[1]) for _ in range(3))


def patient(network: Network, image: torch.Tensor, lesions: Sequence[Lesion], draws: int = 10) -> Row:
    """`max` of all lesions in one draw: three are measured, and scaled as the engine's own estimates are.

    The three are the largest, which decides the memory, and those nearest to 60 and 250 voxels, each by itself: what
    lesions of the same windows share is left out. The plain way is estimated alone. What a first draw compares with
    exact voxels is included.
    """
    near = [min(lesions, key=lambda le: abs(len(le) - size)) for size in (60, 250)]
    chosen = list({le.number: le for le in (max(lesions, key=len), *near)}.values())
    told, plain = (estimate_seconds(network, image, lesions, accuracy=a)[0] for a in ("auto", "exact"))
    scale = told / estimate_seconds(network, image, chosen)[0]
    engines = [LesionGradient(network, image, lesion, "max") for lesion in chosen]
    with Peak(network.device) as peak:
        seconds = sum(timed(lambda engine=engine: engine(image).amax()) for engine in engines)
    case = (
        f"{network.name}, max, all {len(lesions)} lesions, {sum(map(len, lesions))} voxels: "
        f"{draws * seconds * scale / 3600:.1f} h for {draws} draws (those of "
        f"{', '.join(str(len(le)) for le in chosen)} voxels measured, the rest scaled; plain: estimated); "
        f"the largest: {in_words(engines[0])}"
    )
    error = engines[0].report.deviation.get("largest", float("nan")) if engines[0].report else float("nan")
    return Row(case, seconds * scale, plain, peak.gigabytes, float("nan"), error, float("nan"))


# Lesions of a size, and networks of the size that nnU-Net gives real data.


def voxels_of(lesions: Sequence[Lesion], count: int) -> np.ndarray:
    """`(count, 3)`: those next to the centre of the smallest lesion that has as many; of none, all of the largest."""
    large = [le for le in lesions if len(le) >= count] or [max(lesions, key=len)]
    voxels = min(large, key=len).voxels
    away = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)
    return voxels[np.sort(np.argsort(away, kind="stable")[:count])]


def around(image: torch.Tensor, voxels: np.ndarray, sides: Sequence[int]) -> tuple[torch.Tensor, np.ndarray]:
    """The image on a box about some voxels, and these in it: a single window of such a network."""
    wanted = voxels.min(axis=0) + np.ptp(voxels, axis=0) // 2 - np.array(sides) // 2
    start = np.maximum(np.minimum(wanted, np.array(image.shape[1:]) - sides), 0)
    return image[:, *Box.of(start, start + sides)], voxels - start


def six_stages(
    kind: str = "PlainConvUNet", features: Sequence[int] = STAGES, window: int | tuple[int, int, int] = 128
) -> Network:
    """What nnU-Net plans for large scans, `PlainConvUNet` or `ResidualEncoderUNet`, with random weights of a seed."""
    torch.manual_seed(0)
    blocks = {
        "PlainConvUNet": {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2},
        "ResidualEncoderUNet": {"n_blocks_per_stage": (1, 3, 4, 6, 6, 6), "n_conv_per_stage_decoder": 1},
    }
    module = getattr(unet, kind)(
        input_channels=2,
        n_stages=6,
        features_per_stage=tuple(features),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        num_classes=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        **blocks[kind],
    )
    module.eval().requires_grad_(False)
    return Network(module, f"six-stage {kind}", window=window, through="windows")


def weights_of(kind: str) -> Path:
    """Where `python -m tests.bench.six_stages KIND` leaves what it trained."""
    return Path.home() / ".cache" / "ies-helpers" / "bench" / f"{kind}.pt"


def six_stage_lesion(
    image: torch.Tensor, lesions: Sequence[Lesion], count: int, kind: str = "PlainConvUNet", accuracy: float = 3e-3
) -> Row:
    """One lesion in the one window of 128^3 about it; briefly trained, where such weights are."""
    network, path = six_stages(kind), weights_of(kind)
    if path.is_file():
        network.module.load_state_dict(torch.load(path, weights_only=True))
    row = one_lesion(network, *around(image, voxels_of(lesions, count), (128,) * 3), accuracy, repeats=1)
    return replace(row, case=f"{row.case}, {'briefly trained' if path.is_file() else 'random weights'}")
