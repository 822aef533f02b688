"""One panel of a figure: a slice in grey, a signed map over it, outlines, letters for the sides, a colour bar."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ies_helpers.segmentation.lesions import Lesion, as_voxels
from ies_helpers.subjects.records import GRADIENT_UNIT
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import LabelMap, Saliency, Voxels

GROUP_COLOURS = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442", "TN": "#009E73", "unknown": "#CC79A7"}
"""One colour a group, told apart with every common colour blindness (Okabe and Ito)."""

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Plane -> the axis it cuts, in right-anterior-superior order."""

MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1"}
LABEL = GRADIENT_UNIT
SIGNED = LinearSegmentedColormap.from_list(
    "signed",
    [
        (0.0, (0.05, 0.1, 0.6, 1.0)),
        (0.3, (0.0, 0.4, 0.95, 0.9)),
        (0.5, (0.4, 0.85, 1.0, 0.0)),
        (0.5, (1.0, 0.85, 0.3, 0.0)),
        (0.7, (1.0, 0.6, 0.0, 0.9)),
        (1.0, (0.95, 0.2, 0.0, 1.0)),
    ],
)
"""Blue below zero, orange to red above, see-through at zero: no white, which a lesion in FLAIR is itself.

Blue is darker than orange and red at every strength, so that a copy in grey still tells the sign.
"""

STROKE = [withStroke(linewidth=2, foreground="black")]


def check_map(saliency: Saliency, subject: Subject, whose: str = "") -> None:
    """Refuse a map that cannot lie over a subject's image; `whose` it is, such as ` of lesion 3`, is told."""
    grid = f"(C, {', '.join(map(str, subject.shape))}), C = {len(subject.modalities)} or 1"
    rule = f"A map must be a finite tensor on the subject's grid {grid}; the map{whose}"
    if not isinstance(saliency, torch.Tensor):
        raise ValueError(f"{rule} is of type {type(saliency).__name__}; torch.from_numpy makes one of an array.")
    if tuple(saliency.shape[1:]) != subject.shape or len(saliency) not in (1, len(subject.modalities)):
        raise ValueError(f"{rule} has the shape {tuple(saliency.shape)}; give the subject that it was computed for.")
    if not bool(torch.isfinite(saliency).all()):
        raise ValueError(f"{rule} has {int((~torch.isfinite(saliency)).sum())} NaN or infinite values; explain anew.")


class Canonical:
    """A subject's arrays with axes towards right, anterior and superior, as figures show them."""

    def __init__(self, subject: Subject) -> None:
        self._orientation = io_orientation(subject.affine)
        self.affine = subject.affine @ inv_ornt_aff(self._orientation, subject.shape)
        self.spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        self.image = np.stack([self.turn(channel) for channel in subject.image.numpy()])

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """`(I, J, K)` in scan order -> in display order."""
        return apply_orientation(np.asarray(volume), self._orientation)

    def show(self, ax: Axes, volume: np.ndarray, plane: str, index: int) -> np.ndarray:
        """Draw one slice in grey, black where the image is 0; the slice, as `(rows, columns)`."""
        cut = plane_of(volume, plane, index)
        low, high = np.percentile(volume[volume != 0], [1, 99.7])
        style = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower", "aspect": self.aspect(plane)}
        ax.imshow(np.ma.masked_equal(cut, 0), **style)
        ax.set_facecolor("black")
        ax.set_xticks([])
        ax.set_yticks([])
        return cut

    def aspect(self, plane: str) -> float:
        """Height over width of a voxel in a plane."""
        across, up = [a for a in range(3) if a != PLANES[plane]]
        return float(self.spacing[up] / self.spacing[across])


def plane_of(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """One slice with the first remaining axis across and the second up."""
    return np.take(volume, index, axis=PLANES[plane]).T


def outline(ax: Axes, cut: np.ndarray, colour: str, width: float) -> None:
    """The border of a mask's slice, halfway between voxels, closed where the volume ends."""
    if cut.any():
        rows, columns = (np.arange(-1, n + 1) for n in cut.shape)
        ax.contour(columns, rows, np.pad(cut.astype(float), 1), levels=[0.5], colors=[colour], linewidths=[width])


def busiest(mask: np.ndarray) -> tuple[int, int, int]:
    """Along each axis, the slice that holds most of the mask."""
    return tuple(int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))  # pyright: ignore[reportReturnType]


def overlay(ax: Axes, cut: np.ndarray, top: float, aspect: float) -> AxesImage:
    """A slice of a map in signed colours from -top to top."""
    scale = Normalize(-(top or 1.0), top or 1.0)
    return ax.imshow(cut, cmap=SIGNED, norm=scale, origin="lower", aspect=aspect, interpolation="nearest")


def colour_bar(figure: Figure, drawn: AxesImage, axes: list[Axes], unit: str, high: float, low: float) -> None:
    """The bar of a map with values from `low` to `high`; only its upper half for a map that is nowhere negative."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.ax.set_facecolor("0.4")
    bar.set_label(unit if high > low else f"{unit} (the map is zero everywhere)", fontsize=10)
    if low >= 0 and high > 0:
        bar.ax.set_ylim(0, drawn.get_clim()[1])


def square(mask: np.ndarray, reach_mm: float, spacing: np.ndarray) -> np.ndarray:
    """`(3, 2)`: as many mm along each axis, `reach_mm` beyond the longest side of the mask, and of the volume."""
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0)
    half = (((high - low + 1) * spacing).max() / 2 + reach_mm) / spacing
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)


def zoom(ax: Axes, plane: str, frame: np.ndarray) -> None:
    """Show the frame `(3, 2)` of a plane."""
    across, up = [a for a in range(3) if a != PLANES[plane]]
    ax.set_xlim(*frame[across])
    ax.set_ylim(*frame[up])


def letters(ax: Axes, plane: str) -> None:
    """Left and right (or posterior and anterior) in the lower corners."""
    left, right = ("P", "A") if plane == "sagittal" else ("L", "R")
    style = {"color": "white", "fontsize": 12, "transform": ax.transAxes, "va": "bottom", "path_effects": STROKE}
    ax.text(0.02, 0.02, left, ha="left", **style)
    ax.text(0.98, 0.02, right, ha="right", **style)


def lesion_mask(lesion: Lesion | LabelMap | Voxels | Sequence[int], subject: Subject) -> np.ndarray:
    """Where a lesion is, `(I, J, K)` bool in scan order; three numbers are a voxel."""
    if not isinstance(lesion, Lesion) and np.shape(lesion) == (3,):
        lesion = np.asarray(lesion)[None]
    mask = np.zeros(subject.shape, dtype=bool)
    mask[tuple(as_voxels(lesion, subject.shape).T)] = True  # pyright: ignore[reportArgumentType]
    return mask
