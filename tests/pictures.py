"""What pictures must show: a small subject with three lesions and maps of two, and each pixel worked out by itself."""

from itertools import count

import numpy as np
import torch
from scipy import ndimage

from ies_helpers import Lesions, Subject
from ies_helpers.figures.slices import PLANES, SIGNED
from ies_helpers.figures.viewer import Viewer
from tests.patients import ball, lesion_of, subject_in_memory

SHAPE = (24, 28, 20)
CENTRES = {"TP": (10, 12, 13), "FP": (17, 8, 6), "FN": (6, 20, 10)}
"""In scan order, lesions 1, 2 and 3; the last one has no map."""

PEAKS = {("smoothgrad", "max"): (11, 12, 13), ("smoothgrad", "mean"): (10, 13, 13)}
"""Where the FLAIR map of lesion 1 is largest in absolute value, one of them below zero."""

TIMES = count()


def subject_with_maps() -> tuple[Subject, dict, Lesions]:
    """Subject, maps by method and aggregation and lesion, lesions."""
    subject = subject_in_memory(SHAPE)
    subject.image[:, :, :, 0] = 0.0  # outside the head
    lesions = [lesion_of(ball(SHAPE, at, 2.2), n, group) for n, (group, at) in enumerate(CENTRES.items(), 1)]
    for lesion in lesions:
        subject.image[0][lesion.mask(SHAPE)] += 3.0
    maps: dict = {key: {1: _map(lesions[0].mask(SHAPE).numpy(), seed)} for seed, key in enumerate(PEAKS)}
    for sign, (key, at) in zip((1, -1), PEAKS.items(), strict=True):
        maps[key][1][0][at] = 2.0 * sign
    maps["smoothgrad", "max"][2] = _map(lesions[1].mask(SHAPE).numpy(), 2)
    maps["gradcam++"] = {1: maps["smoothgrad", "max"][1][:1].clamp(min=0) * 100}
    return subject, maps, Lesions(lesions)


def point(viewer: Viewer, plane: str, voxel: tuple[int, int, int]) -> tuple[float, float]:
    """Where the picture shows the middle of a voxel (display order): shares of its width and height from above left."""
    across, up = (voxel[a] for a in range(3) if a != PLANES[plane])
    x, y = viewer.planes.panels[plane].transData.transform((across, up))
    width, height = viewer.planes.canvas.get_width_height()
    return x / width, 1 - y / height


def click(viewer: Viewer, plane: str, voxel: tuple[int, int, int], kind: str = "click", steps: int = 0) -> None:
    """Tell a viewer what the browser sends for a point over the middle of a voxel."""
    x, y = point(viewer, plane, voxel)
    viewer.pointer.value = f"{kind} {x} {y} {steps} {next(TIMES)}"


def expected_pixels(
    image: np.ndarray,
    values: np.ndarray | None,
    top: float,
    window: tuple[float, float],
    opacity: float = 1.0,
    threshold: float = 0.0,
) -> np.ndarray:
    """Each pixel by itself, `(rows, columns, 3)` from 0 to 255: the scan in grey, the map over it.

    Args:
        image, values: slices `(rows, columns)` of the scan and of the map.
        top: where the colours end.
        window: values of the scan that are black and white.
        opacity, threshold: of the map.
    """
    out = np.zeros((*image.shape, 3))
    for row, column in np.ndindex(image.shape):
        value = image[row, column]
        grey = 0.0 if value == 0 else min(max((value - window[0]) / (window[1] - window[0]), 0.0), 1.0)
        share = 0.0 if values is None else values[row, column] / top
        red, green, blue, alpha = SIGNED((share + 1) / 2)
        alpha = 0.0 if values is None or abs(share) < threshold else opacity * alpha
        out[row, column] = [255 * (grey * (1 - alpha) + c * alpha) for c in (red, green, blue)]
    return out


def strongest_pixel(painted: np.ndarray) -> tuple[int, int]:
    """Column and row of the pixel that is farthest from grey."""
    colourful = np.ptp(np.asarray(painted, dtype=int), axis=-1)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    return int(column), int(row)


def _map(mask: np.ndarray, seed: int) -> torch.Tensor:
    """Positive inside, negative around in FLAIR, the reverse and fainter in T1, below 1.5 everywhere."""
    near = ndimage.gaussian_filter(mask.astype(float), 1) - ndimage.gaussian_filter(mask.astype(float), 3)
    grain = np.random.default_rng(seed).uniform(0.5, 1.0, mask.shape)
    return torch.from_numpy(np.stack([near * grain, -0.4 * near * grain]).astype(np.float32))
