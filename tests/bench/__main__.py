"""`make bench`: ours against the plain loops of `tests/oracles.py`, on patient 07 where it is, else on a phantom.

The plain method's time is measured on a few voxels (or windows) and scaled to all, as each row says; the maps
are compared on the voxels that both computed. Give words to run only the cases that hold one of them.
"""

import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from captum.attr import NoiseTunnel
from captum.attr import Saliency as CaptumSaliency
from torch import nn
from torch.utils.checkpoint import checkpoint

from ies_helpers import Lesion, Network, Subject, find_lesions, gradcam_pp, load_network, load_subject, smoothgrad
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.inference import window_boxes
from tests import oracles
from tests.bench import fields, perilesional
from tests.bench.machine import bound
from tests.bench.measure import Row, pair, table, timed

SAMPLE = 3
"""Voxels on which the plain loop is measured."""

Case = tuple[str, Callable[[], Row]]


def patient(number: str = "07") -> Subject:
    """An open patient, or a phantom where it is not."""
    shared = Path(__file__).resolve().parents[3] / "shared"
    os.environ.setdefault("IES_CACHE", str(shared if shared.is_dir() else Path.home() / ".cache" / "ies-helpers"))
    try:
        return load_subject(f"openms:patient{number}")
    except (FileNotFoundError, OSError):
        return load_subject("phantom:7")


def lively(architecture: str, channels: tuple[int, ...] | None = None) -> Network:
    """Random weights from a fixed seed, with batch statistics that are not neutral."""
    torch.manual_seed(0)
    network = build(architecture, channels)
    for module in network.module.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)  # pyright: ignore[reportOptionalMemberAccess]
            module.running_var.uniform_(0.5, 1.5)  # pyright: ignore[reportOptionalMemberAccess]
    return network


def ours(network: Network, image: torch.Tensor, voxels: np.ndarray, how: str) -> torch.Tensor:
    """The engine, its setting-up included."""
    engine = LesionGradient(network, image, voxels, how)  # pyright: ignore[reportArgumentType]
    return engine.place(engine(image))


def scaled(loop: oracles.Logits, image: torch.Tensor, seconds: float, count: int) -> float:
    """The plain loop's time for `count` backward passes, from one forward pass and `SAMPLE` of them in `seconds`."""
    times = [timed(lambda: loop(image[None].clone().requires_grad_()).detach()) for _ in range(3)]
    forward = statistics.median(times)
    return forward + (seconds - forward) * count / SAMPLE


def largest(network: Network, image: torch.Tensor, lesion: Lesion) -> Row:
    """`max` of one lesion and draw: V backward passes over the whole volume against the cone.

    Setting up the engine, once a lesion whatever the number of draws, is left out; the plain loop has none.
    """
    n, loop, some = len(lesion), oracles.whole(network), lesion.voxels[:SAMPLE]
    engine = LesionGradient(network, image, lesion, "max")

    def plain() -> torch.Tensor:
        return oracles.aggregate(oracles.voxel_gradients(loop, image, some), "max")

    same = pair("", lambda: ours(network, image, some, "max"), plain, device=network.device)
    whole = pair("", lambda: engine(image).amax(), lambda: torch.ones(1), repeats=5, device=network.device)
    per_voxel = 1000 * whole.ours / n
    told = f"{per_voxel:.1f} ms a voxel; {bound(network, image, lesion.voxels, whole.ours)}"
    case = f"U-Net {width(network)}, max, {n} voxels ({told}; plain: {SAMPLE} voxels, scaled)"
    seconds = scaled(loop, image, same.plain, n)
    return Row(case, whole.ours, seconds, whole.memory, same.plain_memory, same.error, same.share)


def patient_largest(network: Network, image: torch.Tensor, lesions: list[Lesion]) -> Row:
    """`max` of every lesion of a patient in one draw, noise and setting up left out on both sides."""
    loop, some = oracles.whole(network), lesions[0].voxels[:SAMPLE]
    engines, voxels = [LesionGradient(network, image, lesion, "max") for lesion in lesions], sum(map(len, lesions))

    def plain() -> torch.Tensor:
        return oracles.aggregate(oracles.voxel_gradients(loop, image, some), "max")

    same = pair("", lambda: ours(network, image, some, "max"), plain, device=network.device)
    every = pair(
        "",
        lambda: torch.stack([engine(image).amax() for engine in engines]),
        lambda: torch.ones(1),
        repeats=1,
        device=network.device,
    )
    seconds = scaled(loop, image, same.plain, voxels)
    minutes = 50 * every.ours / 60
    reached = bound(network, image, np.concatenate([lesion.voxels for lesion in lesions]), every.ours)
    what = f"all {len(lesions)} lesions, {voxels} voxels"
    case = f"U-Net {width(network)}, max, {what} ({minutes:.0f} min for 50 draws; {reached})"
    return Row(case, every.ours, seconds, every.memory, same.plain_memory, same.error, same.share)


def averages(network: Network, image: torch.Tensor, lesions: list[Lesion]) -> Row:
    """`mean` of all lesions of a patient in one draw: one backward pass each over the whole volume."""
    loop, first = oracles.whole(network), lesions[:SAMPLE]

    def plain_one(lesion: Lesion, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        score = y[tuple(torch.as_tensor(lesion.voxels).T)].mean()
        return torch.autograd.grad(score, x, retain_graph=True)[0][0]

    def plain() -> torch.Tensor:
        x = image[None].clone().requires_grad_()
        y = loop(x)
        return torch.stack([plain_one(lesion, y, x) for lesion in first])

    row = pair("", lambda: torch.stack([ours(network, image, le.voxels, "mean") for le in first]), plain)
    engines = [LesionGradient(network, image, lesion, "mean") for lesion in lesions]
    every = pair("", lambda: torch.stack([engine(image).amax() for engine in engines]), lambda: torch.ones(1))
    case = f"U-Net {width(network)}, mean, {len(lesions)} lesions, one draw (plain: {SAMPLE}, scaled)"
    seconds = scaled(loop, image, row.plain, len(lesions))
    return Row(case, every.ours, seconds, every.memory, row.plain_memory, row.error, row.share)


def cams(network: Network, image: torch.Tensor, lesion: Lesion) -> Row:
    """Instance Grad-CAM++ of one lesion: forward, backward and map over the whole volume.

    As in the published script the plain method's parameters require gradients.
    """
    loop = oracles.whole(network)

    def plain() -> torch.Tensor:
        network.module.requires_grad_(True)
        got = oracles.gradcam_pp(network, loop, image, lesion.voxels)
        network.module.requires_grad_(False).zero_grad()
        return got.detach()

    case = f"U-Net {width(network)}, Grad-CAM++, {len(lesion)} voxels"
    return pair(case, lambda: gradcam_pp(network, image, lesion)[0], plain)


def windowed(network: Network, image: torch.Tensor, lesion: Lesion, count: int) -> Row:
    """`count` voxels of one set of windows: the published loop runs all windows, backward once for each voxel.

    Plain is measured on one window, as the published script has it (checkpointed, with parameters that require
    gradients), and scaled to all windows and voxels; the maps are compared on the first voxel.
    """
    boxes = window_boxes(network, tuple(image.shape[1:]))
    parts = LesionGradient(network, image, lesion, "max", accuracy="exact").parts
    part = min(parts, key=lambda part: len(part.views))
    engine = LesionGradient(network, image, part.voxels[:count], "max", accuracy="exact")
    x = image[(slice(None), *boxes[len(boxes) // 2])][None]

    def plain() -> torch.Tensor:
        network.module.requires_grad_(True)
        checkpoint(network.module, x.clone().requires_grad_(), use_reentrant=False)[0, 1].sum().backward()
        network.module.zero_grad()
        network.module.requires_grad_(False)
        return torch.ones(1)

    row = pair("", lambda: engine(image).amax(), plain)
    forward = statistics.median(timed(lambda: network.module(x)) for _ in range(3))
    seconds = len(boxes) * (forward + count * (row.plain - forward))
    views, voxel = engine.parts[0].views, part.voxels[:1]
    loop = oracles.voxel_gradients(oracles.blended_on(network, [view.box for view in views]), image, voxel)[0]
    one = LesionGradient(network, image, voxel, "max", accuracy="exact")
    error = oracles.relative(one.place(one(image)), loop)
    case = f"{network.name}, max, {count} voxels in {len(views)} of {len(boxes)} windows (plain: 1 window, scaled)"
    return Row(case, row.ours, seconds, row.memory, row.plain_memory, error, float("nan"))


def against_captum(network: Network, image: torch.Tensor, lesion: Lesion) -> Row:
    """`mean` with captum's NoiseTunnel over Saliency on the whole volume, its own noise; 2 draws of no noise."""
    index = tuple(torch.as_tensor(lesion.voxels).T)

    class Scored(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([oracles.whole(network)(one[None])[index].mean() for one in x])

    tunnel = NoiseTunnel(CaptumSaliency(Scored()))
    return pair(
        f"U-Net {width(network)}, mean, {len(lesion)} voxels, 2 draws, against captum",
        lambda: smoothgrad(network, image, lesion, aggregate="mean", draws=2, noise=0.0),
        lambda: tunnel.attribute(image[None].clone(), nt_samples=2, nt_samples_batch_size=1, stdevs=0.0, abs=False)[0],
    )


def width(network: Network) -> str:
    """`32-512`."""
    convolutions = [m for m in network.module.modules() if isinstance(m, nn.Conv3d)]
    return f"{convolutions[0].out_channels}-{max(m.out_channels for m in convolutions)}"


def cases() -> Iterator[Case]:
    """All cases, the quick ones first."""
    subject = patient()
    assert subject.target is not None
    lesions = list(find_lesions(subject.target.float(), threshold=0.5))
    image = subject.image
    chosen = [min(lesions, key=lambda le: abs(len(le) - size)) for size in (10, 50, 110)]
    for channels in ((32, 64, 128, 256, 512), (16, 32, 64, 128, 256)):
        network = lively("unet", channels)
        for lesion in chosen:
            yield f"max {width(network)} {len(lesion)}", lambda n=network, le=lesion: largest(n, image, le)
        yield f"mean {width(network)}", lambda n=network: averages(n, image, lesions)
        yield f"cam {width(network)}", lambda n=network: cams(n, image, chosen[1])
    yield "captum", lambda: against_captum(lively("unet", (16, 32, 64, 128, 256)), image, chosen[1])
    yield "nnunet", lambda: windowed(lively("nnunet"), image, chosen[1], 10)
    yield "swin", lambda: windowed(lively("swin_unetr"), image, chosen[1], 5)
    for name in ("unet", "nnunet", "swin_unetr"):
        yield f"perilesional {name}", lambda n=name: perilesional.curve(load_network(n), image, chosen[2])
    for channels in ((32, 64, 128, 256, 512), (16, 32, 64, 128, 256)):
        yield f"patient {channels[0]}", lambda c=channels: patient_largest(lively("unet", c), image, lesions)
    yield from cases_of_fields()


def cases_of_fields() -> Iterator[Case]:
    """Near and far fields, on open patient 26, where they are to pay."""
    subject = patient("26")
    assert subject.target is not None
    image, lesions = subject.image, list(find_lesions(subject.target.float(), threshold=0.5))

    def one(name: str, count: int, accuracy: float) -> Row:
        return fields.one_lesion(load_network(name, device="cpu"), image, fields.voxels_of(lesions, count), accuracy)

    def everything() -> Row:
        network = load_network("nnunet", device="cpu")
        return fields.patient(network, image, list(find_lesions(network, subject)))

    for count in (60, 250, 830):
        yield f"fields nnunet {count}", lambda n=count: one("nnunet", n, 1e-3)
    yield "fields swin_unetr 55", lambda: one("swin_unetr", 55, 3e-3)
    for kind, count in (("PlainConvUNet", 60), ("PlainConvUNet", 250), ("ResidualEncoderUNet", 60)):
        yield f"fields {kind} {count}", lambda k=kind, n=count: fields.six_stage_lesion(image, lesions, n, k)
    yield "fields patient", everything


def main() -> None:
    """Run the cases that the arguments name, or all."""
    torch.set_num_threads(int(os.environ.get("IES_THREADS", "2")))
    words, rows = sys.argv[1:], []
    for name, run in cases():
        if not words or any(word in name for word in words):
            print(f"{name} ...", flush=True)
            rows.append(run())
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
