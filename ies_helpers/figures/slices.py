"""Three planes through one voxel, drawn fast: what the viewer shows, without its widgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from PIL import Image

from ies_helpers.arrays import LabelMap, Saliency, Voxels, as_voxels
from ies_helpers.saliency.methods import GRADIENT_UNIT
from ies_helpers.segmentation.lesions import Lesion, Lesions
from ies_helpers.subjects.subject import Subject

# One panel of a figure: a slice in grey, a signed map over it, outlines, letters for the sides, a colour bar.

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
    grid = f"(C, {', '.join(map(str, subject.shape))}), C = {len(subject.channels)} or 1"
    rule = f"A map must be a finite tensor on the subject's grid {grid}; the map{whose}"
    if not isinstance(saliency, torch.Tensor):
        raise ValueError(f"{rule} is of type {type(saliency).__name__}; torch.from_numpy makes one of an array.")
    if tuple(saliency.shape[1:]) != subject.shape or len(saliency) not in (1, len(subject.channels)):
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


SIDE, GAP, HEAD, BAR = 3.1, 0.06, 0.32, 1.05
"""Inches: a panel, the space between two, above for titles, to the right for the colour bar."""

DPI = 100
REACH_MM = 20.0
"""How far around the lesion a close-up shows."""

COLOURS = SIGNED(np.linspace(0, 1, 1024))
"""`SIGNED` as a table, lowest value first: `(1024, 4)`."""

Place = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """What of a map is shown, and how.

    Attributes:
        at: the voxel where the planes meet, in display order: towards right, anterior, superior.
        channel: which modality.
        threshold: values below this share of the map's largest are see-through.
        opacity: 0 to 1.
        close: show `REACH_MM` around the lesion instead of the whole image.
    """

    at: Place
    channel: int = 0
    threshold: float = 0.05
    opacity: float = 0.9
    close: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """The parts of one plane that change."""

    axes: Axes
    picture: AxesImage
    borders: LineCollection
    lines: tuple[Line2D, Line2D]


class Slices:
    """A subject's image, one lesion and its map in three planes; what does not move is drawn once and kept.

    The map's colours are symmetric about zero and reach to its largest absolute value in all modalities, so that
    they stay the same from slice to slice and from modality to modality.
    """

    def __init__(self, subject: Subject, lesions: Lesions) -> None:
        self.space, self.subject = Canonical(subject), subject
        self._grey = [np.percentile(channel[channel != 0], [1, 99.7]) for channel in self.space.image]
        self.labels = self.space.turn(lesions.label_map(subject.shape).numpy())
        self._colours = {lesion.number: to_rgba(GROUP_COLOURS[lesion.group]) for lesion in lesions}
        self.maps: list[np.ndarray] = []
        self.unit = ""
        self.top, self._number = 0.0, 0
        self._whole = self._close = self._around(np.any(self.space.image, axis=0), 3.0)
        self._kept: tuple[object, object] = (None, None)
        self._build()

    def show(self, lesion: Lesion, saliency: Saliency | None, unit: str) -> None:
        """Take another lesion or map; None is a lesion without one."""
        mask = self.space.turn(lesion.mask(self.subject.shape).numpy())
        self._number, self.unit = lesion.number, unit
        self._close = self._around(mask, REACH_MM)
        self.maps = [] if saliency is None else [self.space.turn(channel) for channel in saliency.numpy()]
        low, high = (0.0, 0.0) if saliency is None else (float(saliency.min()), float(saliency.max()))
        self.top = max(-low, high)
        self._scale.set_clim(-(self.top or 1.0), self.top or 1.0)
        self._bar.ax.set_ylim(0 if low >= 0 and high > 0 else self._scale.get_clim()[0], self._scale.get_clim()[1])
        none = "no map of this lesion" if saliency is None else f"{unit} (the map is zero everywhere)"
        self._bar.set_label(unit if self.top else none, fontsize=11)
        self._kept = (None, None)

    def peak(self, channel: int) -> Place:
        """Where the map of one modality has its largest absolute value; without a map, the middle of the lesion."""
        if not self.top:
            return busiest(self.labels == self._number)
        strength = np.abs(self._map(channel))
        return tuple(int(n) for n in np.unravel_index(int(strength.argmax()), strength.shape))  # pyright: ignore

    def value(self, look: Look) -> tuple[float, float]:
        """The image's value and the map's at the crosshair; NaN without a map."""
        here = float(self._map(look.channel)[look.at]) if self.maps else float("nan")
        return float(self.space.image[look.channel][look.at]), here

    def paint(self, plane: str, look: Look) -> np.ndarray:
        """One slice as `(rows, columns, 3)` uint8: the image in grey, black where it is 0, and the map over it."""
        index = look.at[PLANES[plane]]
        cut = plane_of(self.space.image[look.channel], plane, index)
        low, high = self._grey[look.channel]
        grey = np.where(cut == 0, 0, np.clip((cut - low) / (high - low), 0, 1))[..., None]
        if self.top:
            values = plane_of(self._map(look.channel), plane, index) / self.top
            colour = COLOURS[((values + 1) / 2 * (len(COLOURS) - 1)).round().astype(int)]
            cover = (look.opacity * colour[..., 3] * (np.abs(values) >= look.threshold))[..., None]
            grey = grey * (1 - cover) + colour[..., :3] * cover
        return np.broadcast_to((255 * grey).round().astype(np.uint8), (*cut.shape, 3))

    def draw(self, look: Look) -> np.ndarray:
        """The whole picture, `(height, width, 3)` uint8."""
        self._keep(look)
        for plane, panel in self.panels.items():
            across, up = (look.at[a] for a in range(3) if a != PLANES[plane])
            panel.picture.set_data(self.paint(plane, look))
            segments, numbers = borders(plane_of(self.labels, plane, look.at[PLANES[plane]]))
            chosen = numbers == self._number
            panel.borders.set_segments(list(segments))
            panel.borders.set_color(["white" if c else self._colours[n] for c, n in zip(chosen, numbers, strict=True)])
            panel.borders.set_linewidth([1.6 if c else 1.0 for c in chosen])
            panel.lines[0].set_xdata([across, across])
            panel.lines[1].set_ydata([up, up])
            for artist in (panel.picture, panel.borders, *panel.lines, *panel.axes.texts):
                panel.axes.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def png(self, look: Look) -> bytes:
        """`draw` as a PNG."""
        stream = BytesIO()
        Image.fromarray(self.draw(look)).save(stream, "png", compress_level=1)
        return stream.getvalue()

    def voxel_at(self, x: float, y: float, at: Place) -> tuple[int, Place] | None:
        """What lies under a point of the picture: the axis its plane cuts, and the voxel; None beside the image.

        Args:
            x, y: from the picture's upper left corner, as shares of its width and height.
            at: where the planes meet.
        """
        width, height = self.canvas.get_width_height()
        for plane, panel in self.panels.items():
            if not panel.axes.bbox.contains(x * width, (1 - y) * height):
                continue
            point = panel.axes.transData.inverted().transform((x * width, (1 - y) * height))
            across, up = (int(np.floor(n + 0.5)) for n in point)
            voxel = list(at)
            voxel[0 if plane != "sagittal" else 1], voxel[1 if plane == "axial" else 2] = across, up
            inside = all(0 <= v < n for v, n in zip(voxel, self.labels.shape, strict=True))
            return (PLANES[plane], (voxel[0], voxel[1], voxel[2])) if inside else None
        return None

    def _map(self, channel: int) -> np.ndarray:
        return self.maps[min(channel, len(self.maps) - 1)]

    def _around(self, mask: np.ndarray, reach: float) -> np.ndarray:
        return square(mask, reach, self.space.spacing)

    def _build(self) -> None:
        width, height = 3 * (SIDE + GAP) + BAR, SIDE + HEAD
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.panels: dict[str, Panel] = {}
        for n, plane in enumerate(PLANES):
            ax = self.figure.add_axes((n * (SIDE + GAP) / width, 0, SIDE / width, SIDE / height), facecolor="black")
            ax.set(xticks=[], yticks=[])
            cut = plane_of(self.labels, plane, 0)
            moving: Any = {"animated": True}
            picture = ax.imshow(
                np.zeros((*cut.shape, 3), np.uint8), origin="lower", aspect="auto", interpolation="nearest", **moving
            )
            edges = LineCollection([], **moving)
            ax.add_collection(edges, autolim=False)
            style: Any = {"color": "#F0E442", "lw": 0.8, "alpha": 0.7, **moving}
            self.panels[plane] = Panel(ax, picture, edges, (ax.axvline(0, **style), ax.axhline(0, **style)))
            letters(ax, plane)
            for text in ax.texts:
                text.set_animated(True)
        self._scale = ScalarMappable(Normalize(-1, 1), SIGNED)
        place = ((3 * (SIDE + GAP) + 0.05) / width, 0.02, 0.14 / width, SIDE / height - 0.04)
        self._bar = self.figure.colorbar(self._scale, cax=self.figure.add_axes(place, facecolor="0.4"))

    def _keep(self, look: Look) -> None:
        """Restore what does not move; draw it anew where modality, frame or map are others."""
        key = (look.channel, look.close)
        if self._kept[0] != key:
            for plane, panel in self.panels.items():
                zoom(panel.axes, plane, self._close if look.close else self._whole)
                panel.axes.set_title(f"{MODALITY_NAMES[self.subject.channels[look.channel]]}, {plane}", fontsize=12)
            self.canvas.draw()
            self._kept = (key, self.canvas.copy_from_bbox(self.figure.bbox))  # pyright: ignore
        self.canvas.restore_region(self._kept[1])  # pyright: ignore


def borders(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxel edges between different labels of a slice: `(N, 2, 2)` ends as (column, row), `(N,)` larger label."""
    padded = np.pad(labels, 1)
    parts, numbers = [], []
    for turned in (False, True):
        cells = padded.T if turned else padded
        row, column = np.nonzero(cells[1:-1, 1:] != cells[1:-1, :-1])
        numbers.append(np.maximum(cells[row + 1, column], cells[row + 1, column + 1]))
        ends = np.stack([np.stack([column - 0.5, row + half], axis=1) for half in (-0.5, 0.5)], axis=1)
        parts.append(ends[..., ::-1] if turned else ends)
    return np.concatenate(parts), np.concatenate(numbers)
