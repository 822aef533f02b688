"""What a person looks at: planes through a lesion, the map in signed colours with its unit, outlines of lesions."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ies_helpers.segmentation.lesions import Lesion, as_voxels
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import LabelMap, Saliency, Voxels

GROUP_COLOURS = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442", "unknown": "#CC79A7"}
"""One colour a group, told apart with every common colour blindness (Okabe and Ito)."""

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Plane -> the axis it cuts, in right-anterior-superior order."""

MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1"}

LABEL = "logit per unit of z-scored intensity"

SIGNED = LinearSegmentedColormap.from_list(
    "signed",
    [
        (0.0, (0.05, 0.15, 0.9, 1.0)),
        (0.3, (0.0, 0.6, 1.0, 0.9)),
        (0.5, (0.4, 0.85, 1.0, 0.0)),
        (0.5, (1.0, 0.85, 0.3, 0.0)),
        (0.7, (1.0, 0.5, 0.0, 0.9)),
        (1.0, (0.8, 0.0, 0.05, 1.0)),
    ],
)
"""Blue below zero, orange to red above, see-through at zero: no white, which a lesion in FLAIR is itself."""

STROKE = [withStroke(linewidth=2, foreground="black")]


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


def plot_saliency(
    subject: Subject,
    saliency: Saliency,
    lesion: Lesion | LabelMap | Voxels,
    *,
    title: str | None = None,
    unit: str = LABEL,
    reach_mm: float = 15.0,
) -> Figure:
    """Three planes through the lesion for each modality: the image, the signed map over it, the lesion's outline.

    Colours are symmetric about zero and shared by all panels: they reach to the largest absolute value in them.
    Opacity grows with the absolute value, so that what is faint stays see-through. The map is not changed.

    Args:
        subject: gives the images.
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all modalities at once.
        lesion: what is explained.
        title: None names subject and lesion.
        unit: for the colour bar.
        reach_mm: how far around the lesion to look.
    """
    space = Canonical(subject)
    mask = space.turn(_mask(lesion, subject)).astype(bool)
    maps = [space.turn(channel) for channel in saliency.numpy()]
    centre = busiest(mask)
    frame = _square(mask, reach_mm, space.spacing)
    top = _largest(maps, centre, frame)
    figure, axes = plt.subplots(len(maps), 3, figsize=(10, 3.2 * len(maps) + 0.6), squeeze=False, layout="constrained")
    for row, values in enumerate(maps):
        name = MODALITY_NAMES[subject.modalities[row]] if len(maps) > 1 else "FLAIR"
        for ax, plane in zip(axes[row], PLANES, strict=True):
            index = centre[PLANES[plane]]
            space.show(ax, space.image[row], plane, index)
            drawn = overlay(ax, plane_of(values, plane, index), top, space.aspect(plane))
            outline(ax, plane_of(mask, plane, index), "black", 2.4)
            outline(ax, plane_of(mask, plane, index), "white", 1.0)
            _zoom(ax, plane, frame)
            _letters(ax, plane)
            ax.set_title(f"{name}, {plane}", fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.ax.set_facecolor("0.4")
    bar.set_label(unit if top else f"{unit} (the map is zero everywhere)", fontsize=11)
    figure.suptitle(title or f"{subject.name}: {_called(lesion)}", fontsize=13)
    return figure


def plot_lesions(
    subject: Subject, lesions: Iterable[Lesion], *, at: Lesion | Sequence[int] | None = None, title: str | None = None
) -> Figure:
    """Three planes of each modality with every lesion outlined in its group's colour and numbered.

    Args:
        subject: gives the images.
        lesions: what to outline.
        at: a lesion or a voxel `(i, j, k)` that the planes cut; None takes the largest lesion.
        title: None names the subject and counts the groups.
    """
    lesions = list(lesions)
    space = Canonical(subject)
    masks = [space.turn(le.mask(subject.shape).numpy()) for le in lesions]
    if at is None and lesions:
        at = max(lesions, key=len)
    centre = busiest(space.turn(_mask(at, subject))) if at is not None else tuple(n // 2 for n in space.image.shape[1:])
    frame = _frame(np.any(space.image, axis=0), np.full(3, 3.0))
    figure, axes = plt.subplots(len(space.image), 3, figsize=(11, 7.5), squeeze=False, layout="constrained")
    for row, modality in enumerate(subject.modalities):
        for ax, plane in zip(axes[row], PLANES, strict=True):
            index = centre[PLANES[plane]]
            space.show(ax, space.image[row], plane, index)
            for lesion, mask in zip(lesions, masks, strict=True):
                _numbered(ax, plane_of(mask, plane, index), lesion)
            _zoom(ax, plane, frame)
            _letters(ax, plane)
            ax.set_title(f"{MODALITY_NAMES[modality]}, {plane}", fontsize=11)
    counts = {g: sum(le.group == g for le in lesions) for g in GROUP_COLOURS}
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=3, label=f"{g} ({n})") for g, n in counts.items() if n]
    if handles:
        style = {"ncols": 4, "fontsize": 12, "facecolor": "0.15", "labelcolor": "white"}
        figure.legend(handles=handles, loc="outside lower center", **style)
    figure.suptitle(title or f"{subject.name}: {len(lesions)} lesions", fontsize=13)
    return figure


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


def _largest(maps: Sequence[np.ndarray], centre: Sequence[int], frame: np.ndarray) -> float:
    """The largest absolute value in the planes shown; where they show none, of the maps."""
    box = tuple(slice(max(0, int(low + 0.5)), int(high + 0.5)) for low, high in frame)
    shown = [np.take(m[box], centre[axis] - box[axis].start, axis=axis) for m in maps for axis in range(3)]
    return max(float(np.abs(cut).max()) for cut in shown) or max(float(np.abs(m).max()) for m in maps)


def _frame(mask: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """`(3, 2)`: from where to where each axis is shown: the mask and `reach` voxels around it, in the volume."""
    where = np.argwhere(mask)
    low, high = np.floor(where.min(axis=0) - reach), np.ceil(where.max(axis=0) + reach)
    return np.stack([np.maximum(low, 0) - 0.5, np.minimum(high, np.array(mask.shape) - 1) + 0.5], axis=1)


def _square(mask: np.ndarray, reach_mm: float, spacing: np.ndarray) -> np.ndarray:
    """`(3, 2)`: as many mm along each axis, `reach_mm` beyond the longest side of the mask, and of the volume."""
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0)
    half = (((high - low + 1) * spacing).max() / 2 + reach_mm) / spacing
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)


def _numbered(ax: Axes, cut: np.ndarray, lesion: Lesion) -> None:
    if not cut.any():
        return
    outline(ax, cut, GROUP_COLOURS[lesion.group], 1.5)
    rows, columns = np.nonzero(cut)
    here = (float(columns.max()) + 1, float(rows.max()) + 1)
    style = {"color": GROUP_COLOURS[lesion.group], "fontsize": 11, "fontweight": "bold", "path_effects": STROKE}
    ax.annotate(str(lesion.number), here, annotation_clip=True, **style)


def _zoom(ax: Axes, plane: str, frame: np.ndarray) -> None:
    across, up = [a for a in range(3) if a != PLANES[plane]]
    ax.set_xlim(*frame[across])
    ax.set_ylim(*frame[up])


def _letters(ax: Axes, plane: str) -> None:
    left, right = ("P", "A") if plane == "sagittal" else ("L", "R")
    style = {"color": "white", "fontsize": 12, "transform": ax.transAxes, "va": "bottom", "path_effects": STROKE}
    ax.text(0.02, 0.02, left, ha="left", **style)
    ax.text(0.98, 0.02, right, ha="right", **style)


def _mask(lesion: Lesion | LabelMap | Voxels | Sequence[int], subject: Subject) -> np.ndarray:
    if not isinstance(lesion, Lesion) and np.shape(lesion) == (3,):
        lesion = np.asarray(lesion)[None]
    mask = np.zeros(subject.shape, dtype=bool)
    mask[tuple(as_voxels(lesion, subject.shape).T)] = True  # pyright: ignore[reportArgumentType]
    return mask


def _called(lesion: Lesion | LabelMap | Voxels) -> str:
    if isinstance(lesion, Lesion):
        return f"lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)"
    return "one lesion"
