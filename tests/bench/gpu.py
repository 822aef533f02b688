"""`make bench-gpu`: what the engine is to reach, measured on a GPU in at most 8 minutes, as one Markdown table.

Without a GPU the same runs on the CPU with narrow networks on a small image: that tells that it runs, and no more.
The table goes to the screen, and into the folder that `OUT` names, row by row.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ies_helpers import Lesion, Network, find_lesions, load_network
from ies_helpers.saliency.gradients import LesionGradient
from tests import networks, oracles
from tests.bench import __main__ as bench
from tests.bench import fields, machine
from tests.bench.measure import Row, pair
from tests.patients import ball, lesion_of

LIMIT = 480
"""Seconds in all; rows that are not begun or done by then say so."""

HEAD = "| what | goal | measured | memory, GB | largest difference |\n|---|---|---|---|---|"


@dataclass(frozen=True, eq=False)
class Setting:
    """What is measured, on which device, in which size."""

    title: str
    device: torch.device
    image: torch.Tensor
    lesions: list[Lesion]
    counts: tuple[int, int, int]  # voxels of the lesions through windows
    unet: Callable[[], Network]
    nnunet: Callable[[], Network]
    swin: Callable[[], Network]
    six: Callable[[], Network]
    conv: tuple[tuple[int, int], ...] = machine.LARGE
    copied: int = 2**28
    repeats: int = 3

    def here(self, network: Network) -> Network:
        """A network on the device."""
        return replace(network, module=network.module.to(self.device))

    def lesion(self, count: int) -> Lesion:
        """One of so many voxels, or the largest."""
        mask = np.zeros(tuple(self.image.shape[1:]), dtype=bool)
        mask[tuple(fields.voxels_of(self.lesions, count).T)] = True
        return lesion_of(mask)


def large() -> Setting:
    """On the GPU: open patient 26 or a phantom, networks as shipped and as published."""
    subject, device = bench.patient("26"), torch.device("cuda")
    assert subject.target is not None
    return Setting(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, TF32 off, {subject.name}",
        device,
        subject.image.to(device),
        list(find_lesions(subject.target.float(), threshold=0.5)),
        (60, 250, 1000),
        lambda: bench.lively("unet", (32, 64, 128, 256, 512)),
        lambda: load_network("nnunet"),
        lambda: load_network("swin_unetr"),
        fields.six_stages,
    )


def small() -> Setting:
    """On the CPU: noise, three balls, and narrow networks that see it in one window."""
    torch.manual_seed(0)
    sides = (32, 32, 64)  # the smallest that Swin UNETR takes
    balls = [lesion_of(ball(sides, (15, 16, middle), 1.0)) for middle in (20, 30, 40)]
    return Setting(
        "No GPU: the same on the CPU with narrow networks on a small image, which tells that it runs and no more",
        torch.device("cpu"),
        torch.randn(2, *sides),
        [replace(lesion, number=n + 1) for n, lesion in enumerate(balls)],
        (4, 5, 6),
        lambda: bench.lively("unet", (4, 6, 8, 8, 8)),
        lambda: replace(bench.lively("nnunet", (4, 6, 8)), window=sides),
        lambda: replace(bench.lively("swin_unetr", (12,)), window=sides),
        lambda: fields.six_stages(features=(4, 6, 8, 8, 8, 8), window=sides),
        ((16, 32),),
        2**22,
        1,
    )


Cell = tuple[str, str, Callable[[], Row | str]]  # what, its goal, and measuring it


def rows(at: Setting) -> Iterator[Cell]:
    """The table, the ceilings first and the longest last."""

    def through_windows(make: Callable[[], Network], count: int, accuracy: float) -> Row:
        return fields.one_lesion(at.here(make()), at.image, fields.voxels_of(at.lesions, count), accuracy, at.repeats)

    def six(count: int) -> Row:
        network, voxels = at.here(at.six()), fields.voxels_of(at.lesions, count)
        assert network.sides is not None
        return fields.one_lesion(network, *fields.around(at.image, voxels, network.sides), 3e-3, at.repeats)

    kind = at.device.type
    yield "float32 convolution", "-", lambda: f"{machine.convolution_peak(kind, at.conv):.0f} GFLOP/s"
    yield "copies", "-", lambda: f"{machine.bandwidth(kind, at.copied):.0f} GB/s"
    for accuracy in ("exact", 1e-12):
        yield f"accuracy {accuracy}", ">= 0.83x, <= 1e-10", lambda a=accuracy: all_of_it(at, a)
    yield "U-Net, 55 voxels", ">= 100x, >= 60 %", lambda: bench.largest(at.here(at.unet()), at.image, at.lesion(55))
    for count, goal in zip(at.counts, (4, 12, 25), strict=True):
        yield f"nnU-Net {count}", f">= {goal}x", lambda n=count: through_windows(at.nnunet, n, 1e-3)
    yield "Swin UNETR", ">= 3x", lambda: through_windows(at.swin, min(55, at.counts[0]), 3e-3)
    for count, goal in zip(at.counts, (5, 12), strict=False):
        yield f"six stages {count}", f">= {goal}x, <= 12 GB", lambda n=count: six(n)
    yield "U-Net, all", ">= 100x", lambda: bench.patient_largest(at.here(at.unet()), at.image, at.lesions)
    yield "patient", "hours; <= 6 GB", lambda: fields.patient(at.here(at.nnunet()), at.image, at.lesions)


def all_of_it(at: Setting, accuracy: float | str) -> Row:
    """A small network with instance norms in float64, exactly and with all directions, against plain autograd."""
    network, image = at.here(networks.nnunet((4, 6, 8))), at.image[:, :32, :32, :32].double()
    network, voxels = replace(network, window=None, through="whole"), np.argwhere(ball((32,) * 3, (15, 17, 13), 1.0))  # pyright: ignore
    engine = LesionGradient(network, image, voxels, "max", accuracy=accuracy)

    def plain() -> torch.Tensor:
        return oracles.aggregate(oracles.voxel_gradients(oracles.whole(network), image, voxels), "max")

    case = f"instance norm, float64, {len(voxels)} voxels, accuracy {accuracy}, by {engine.way}"
    return pair(case, lambda: engine(image), plain, repeats=at.repeats, device=network.device)


# One row after the other, until the time is over.


def measured(cell: Cell, seconds: float) -> str:
    """A line of the table, whatever becomes of it."""
    what, goal, run = cell
    if seconds < 1:
        return f"| {what} | {goal} | not measured: the time was over | | |"
    signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = run()
    except Exception as error:  # what fails is a row as well
        return f"| {what} | {goal} | {type(error).__name__}: {' '.join(str(error).split())[:150]} | | |"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if isinstance(found, str):
        return f"| {what} | {goal} | {found} | | |"
    told = f"{found.ours:.3g} s against {found.plain:.4g} s: **{found.ratio:.3g}x**"
    return f"| {found.case} | {goal} | {told} | {found.memory:.2f} | {found.error:.1e} |"


def _over(_signal: int, _frame: object) -> None:
    raise TimeoutError("the time was over")


def main() -> None:
    """Print and write the table."""
    begun, out = time.perf_counter(), os.environ.get("OUT")
    torch.backends.cudnn.allow_tf32 = False  # the plain loops must be as exact as ours
    torch.set_num_threads(int(os.environ.get("IES_THREADS", "2")))
    at = large() if torch.cuda.is_available() else small()
    lines = [f"{at.title}.", "", HEAD]
    print("\n".join(lines), flush=True)
    for cell in rows(at):
        lines.append(measured(cell, LIMIT - (time.perf_counter() - begun)))
        print(lines[-1], flush=True)
        if out:
            (Path(out) / "bench_gpu.md").write_text("\n".join(lines) + "\n")
    print(f"\n{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
