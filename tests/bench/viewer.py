"""How long the viewer takes to redraw a volume of 182 x 218 x 182 voxels: `python -m tests.bench.viewer`."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from ies_helpers.figures.slices import PLANES
from ies_helpers.figures.viewer import Viewer, view
from ies_helpers.segmentation.lesions import find_lesions
from ies_helpers.subjects.subject import Subject, normalise

SHAPE = (182, 218, 182)
REPEATS = 25


def brain() -> Viewer:
    """A noisy head with forty lesions, and a dense map of each of two."""
    rng = np.random.default_rng(0)
    head = np.linalg.norm((np.indices(SHAPE).T - np.array(SHAPE) / 2).T / np.reshape(SHAPE, (3, 1, 1, 1)), axis=0) < 0.4
    raw = (head * (100 + 10 * rng.standard_normal((2, *SHAPE)))).astype(np.float32)
    target = np.zeros(SHAPE, dtype=bool)
    target[tuple(rng.integers(60, 120, (3, 40)))] = True
    target = ndimage.binary_dilation(target, iterations=3)
    subject = Subject("bench", normalise(raw), np.eye(4), target=torch.from_numpy(target))
    lesions = find_lesions(subject.target.float(), subject.target, threshold=0.5, affine=subject.affine)  # pyright: ignore
    maps = {n: torch.from_numpy(rng.standard_normal((2, *SHAPE), dtype=np.float32)) for n in (1, 2)}
    return view(subject, {("smoothgrad", "max"): maps}, lesions)


def cases(viewer: Viewer) -> dict[str, Callable[[int], None]]:
    """What a hand does -> doing it for the n-th time."""
    controls = viewer.controls

    def to(name: str, value: Callable[[int], object]) -> Callable[[int], None]:
        return lambda n: setattr(controls[name], "value", value(n))

    slices = {f"{plane} slice": to(plane, lambda n: 70 + n) for plane in PLANES}
    return slices | {
        "threshold": to("threshold", lambda n: 0.1 + 0.02 * (n % 20)),
        "opacity": to("opacity", lambda n: 0.3 + 0.05 * (n % 9)),
        "click": lambda n: setattr(viewer.pointer, "value", f"click {0.1 + 0.004 * n} 0.5 0 {n}"),
        "wheel": lambda n: setattr(viewer.pointer, "value", f"wheel 0.5 0.5 {1 if n % 2 else -1} {n}"),
        "modality": to("modality", lambda n: n % 2),
        "close-up": to("closeup", lambda n: bool(n % 2)),
        "another lesion": to("lesion", lambda n: 1 + n % 2),
        "jump to the peak": lambda _: controls["peak"].click(),
    }


def main() -> None:
    """Print median and largest time of each."""
    torch.set_num_threads(2)
    viewer = brain()
    print(
        f"{' x '.join(map(str, SHAPE))} voxels, {len(viewer.content.lesions)} lesions, picture of "
        f"{' x '.join(map(str, viewer.planes.canvas.get_width_height()))} pixels\n"
    )
    print("| what moves | median, ms | largest, ms | of one core, ms |\n|---|---|---|---|")
    for name, move in cases(viewer).items():
        times, used = [], time.process_time()
        for n in range(1, REPEATS + 1):
            begun = time.perf_counter()
            move(n)
            times.append(1e3 * (time.perf_counter() - begun))
        used = 1e3 * (time.process_time() - used) / REPEATS
        print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} | {used:.0f} |")


if __name__ == "__main__":
    main()
