"""The one painter: a slice of a scan in grey, a signed map over it, and what frames both.

`paint` makes the pixels with numpy alone, so that the viewer can redraw in milliseconds; `draw_slice` frames them on
matplotlib axes with outlines and letters. Every figure of a scan goes through these two, and every colour through
`OKABE_ITO` and `SIGNED`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ies_helpers.arrays import Box, HasVoxels, LesionLike, Saliency, as_mask, check_choice, plain, spacing_of
from ies_helpers.saliency.methods import GRADIENT_UNIT
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject
from ies_helpers.subjects.subject import channel as channel_row

OKABE_ITO = {  # told apart with every common colour blindness, in the order in which lines take them
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "yellow": "#F0E442",
}
_COLOUR_NAMES = {"TP": "sky blue", "FP": "vermilion", "FN": "yellow", "TN": "green", "unknown": "purple"}
GROUP_COLOURS = {group: OKABE_ITO[name] for group, name in _COLOUR_NAMES.items()}

# Blue below zero, orange to red above, see-through at zero: no white, which a lesion in FLAIR is itself. Blue is darker
# than orange and red at every strength, so that a copy in grey still tells the sign.
_BELOW = [(0.0, (0.05, 0.1, 0.6, 1.0)), (0.3, (0.0, 0.4, 0.95, 0.9)), (0.5, (0.4, 0.85, 1.0, 0.0))]
_ABOVE = [(0.5, (1.0, 0.85, 0.3, 0.0)), (0.7, (1.0, 0.6, 0.0, 0.9)), (1.0, (0.95, 0.2, 0.0, 1.0))]
SIGNED = LinearSegmentedColormap.from_list("signed", _BELOW + _ABOVE)

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis that each cuts, in right-anterior-superior order
IN_PLANE = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # and those that run across and up
DARK_RIM = [withStroke(linewidth=2, foreground="black")]  # makes bright text legible on any grey
CLOSE_UP_MM = 15.0  # how far around a lesion a close-up shows

Outlined: TypeAlias = LesionLike | Iterable[Lesion] | Mapping[str, LesionLike]
"""What to outline: one lesion in white, several in the colours of their groups, or what a mapping colours itself."""


def check_map(saliency: Saliency, subject: Subject, whose: str = "") -> None:
    """Refuse a map that cannot lie over a subject's image; `whose` names it in the error, as ` of lesion 3`."""
    named = f"{len(subject.channels)} ({', '.join(subject.channels)})"
    fitting = named if len(subject.channels) == 1 else f"{named} or 1"
    grid = f"(C, {', '.join(map(str, subject.shape))}), C = {fitting}"
    rule = f"A map must be a finite tensor on the subject's grid {grid}; the map{whose}"
    if not isinstance(saliency, torch.Tensor):
        raise ValueError(f"{rule} is of type {type(saliency).__name__}; torch.from_numpy makes one of an array.")
    if tuple(saliency.shape[1:]) != subject.shape or len(saliency) not in (1, len(subject.channels)):
        raise ValueError(f"{rule} has the shape {tuple(saliency.shape)}; give the subject that it was computed for.")
    if not bool(torch.isfinite(saliency).all()):
        raise ValueError(f"{rule} has {int((~torch.isfinite(saliency)).sum())} NaN or infinite values; explain anew.")


def label_of(channel: str) -> str:
    """A channel as figures call it: `flair` is `FLAIR`."""
    return channel_row(channel).label


def channel_index(subject: Subject, channel: str | None, name: str = "channel") -> int:
    """Where a channel stands in the image; None is the first."""
    if channel is None:
        return 0
    check_choice(name, channel, subject.channels)
    return subject.channels.index(channel)


def channel_map(subject: Subject, saliency: Saliency, index: int) -> np.ndarray:
    """The map `(I, J, K)`, checked, that belongs over a channel: its own, or that of all channels at once."""
    check_map(saliency, subject)
    return plain(saliency)[min(index, len(saliency) - 1)].numpy()


# Where a slice lies: axes turned as figures show them, planes, and how much of a plane is shown.
# `at` is the voxel `(i, j, k)` that planes cut, in display order; None looks through the whole head instead.

Place = tuple[int, int, int]
At: TypeAlias = Sequence[int] | None


class Canonical:
    """A subject's arrays with axes towards right, anterior and superior: each channel `(I, J, K)` in `image`."""

    def __init__(self, subject: Subject) -> None:
        self._orientation, self._shape = io_orientation(subject.affine), subject.shape
        self.affine = subject.affine @ inv_ornt_aff(self._orientation, subject.shape)
        self.spacing = np.array(spacing_of(self.affine))
        self.channels = [label_of(channel) for channel in subject.channels]
        self.image = [self.turn(channel) for channel in subject.image.numpy()]
        self._windows = [grey_window(channel) for channel in self.image]

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """`(I, J, K)` in scan order -> in display order."""
        return apply_orientation(np.asarray(volume), self._orientation)

    def turn_mask(self, lesion: LesionLike | Sequence[int]) -> np.ndarray:
        """Where a lesion is, `(I, J, K)` bool in display order; three numbers are a voxel in scan order."""
        if not isinstance(lesion, HasVoxels) and np.shape(lesion) == (3,):
            lesion = np.asarray(lesion)[None]
        return self.turn(as_mask(lesion, self._shape))  # pyright: ignore[reportArgumentType]

    def grey(self, channel: int, plane: str, at: At) -> np.ndarray:
        """The scan in a plane, `(rows, columns)` from 0 to 1; what is exactly 0 lies outside the head, and is black.

        Looked through, as by an X-ray, it is the mean along each line of sight, up to 2/3: outlines stay brighter.
        """
        shown = self.image[channel] if at is None else cut_plane(self.image[channel], plane, at)
        low, high = self._windows[channel]
        grey = np.where(shown == 0, 0, np.clip((shown - low) / (high - low), 0, 1))
        if at is not None:
            return grey
        mean = grey.mean(axis=PLANES[plane]).T
        return mean * 2 / 3 / (mean.max() or 1.0)

    def aspect(self, plane: str) -> float:
        """Height over width of a voxel in a plane."""
        across, up = IN_PLANE[plane]
        return float(self.spacing[up] / self.spacing[across])

    def frame_around(self, mask: np.ndarray, reach_mm: float) -> np.ndarray:
        """`(3, 2)`: a frame as many mm wide along each axis, `reach_mm` beyond the longest side of the mask."""
        box = Box.around(mask)
        half = ((np.array(box.shape) * self.spacing).max() / 2 + reach_mm) / self.spacing
        middle = (box.start + box.stop - 1) / 2
        return np.stack([middle - half, middle + half], axis=1)

    def whole_frame(self) -> np.ndarray:
        """`(3, 2)`: the frame of all that is not zero and three voxels around it, inside the volume."""
        head = np.any(self.image, axis=0)
        box = Box.around(head if head.any() else ~head).grow(3, head.shape)
        return np.stack([box.start, box.stop], axis=1) - 0.5


def cut_plane(volume: np.ndarray, plane: str, at: At) -> np.ndarray:
    """One slice `(rows, columns)`: the first remaining axis runs across, the second up.

    Looked through, it is the value of largest magnitude along each line of sight, its sign kept.
    """
    axis = PLANES[plane]
    if at is not None:
        return np.take(volume, at[axis], axis=axis).T
    where = np.abs(volume).argmax(axis=axis, keepdims=True)
    return np.take_along_axis(volume, where, axis).squeeze(axis).T


def busiest(mask: np.ndarray) -> Place:
    """Along each axis, the slice that holds most of the mask."""
    i, j, k = (int(mask.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    return i, j, k


def peak_of(values: np.ndarray) -> Place:
    """The voxel of largest absolute value."""
    i, j, k = (int(n) for n in np.unravel_index(int(np.abs(values).argmax()), values.shape))
    return i, j, k


def largest_shown(maps: Iterable[np.ndarray], planes: Iterable[str], at: At, frame: np.ndarray) -> float:
    """The largest absolute value of the maps that planes show inside the frame."""
    inside = [slice(max(0, int(low + 0.5)), int(high + 0.5)) for low, high in frame]
    cuts = [cut_plane(m, p, at)[inside[IN_PLANE[p][1]], inside[IN_PLANE[p][0]]] for p in planes for m in maps]
    return max(float(np.abs(cut).max()) for cut in cuts)


# The painter.


def grey_window(volume: np.ndarray) -> tuple[float, float]:
    """The values that are drawn black and white: percentiles of what is not zero."""
    inside = volume[volume != 0]
    low, high = np.percentile(inside, (1, 99.7)) if inside.size else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(high) - 1, float(high))


def symmetric(top: float) -> Normalize:
    """The scale of a signed map: from -top to top, and from -1 to 1 for a map of zeros."""
    return Normalize(-(top or 1.0), top or 1.0)


def paint(
    grey: np.ndarray,
    values: np.ndarray | None = None,
    scale: Normalize | None = None,
    *,
    colours: Colormap = SIGNED,
    opacity: float = 1.0,
    threshold: float = 0.0,
) -> np.ndarray:
    """One slice as `(rows, columns, 3)` uint8: the scan in `grey` from 0 to 1, and the `values` of a map over it.

    NaN, and values below the share `threshold` of the scale's end, are see-through; `opacity` multiplies the colours'.
    """
    painted = grey[..., None]
    if values is not None and scale is not None:
        colour = colours(scale(np.ma.masked_invalid(values)))  # (rows, columns, 4)
        shown = np.abs(values) >= threshold * (scale.vmax or 0.0)
        cover = (opacity * colour[..., 3] * shown)[..., None]
        painted = painted * (1 - cover) + colour[..., :3] * cover
    return np.broadcast_to((255 * painted).round().astype(np.uint8), (*grey.shape, 3))


# On axes of matplotlib: frame, outlines, letters, colour bar.


def show_painted(
    ax: Axes, painted: np.ndarray, aspect: float | Literal["auto"], scale: Normalize | None, colours: Colormap = SIGNED
) -> AxesImage:
    """A painted slice without ticks; the image keeps its colours and its scale, if linear, for a colour bar."""
    ax.set(xticks=[], yticks=[], facecolor="black")
    linear = scale if type(scale) is Normalize else None  # matplotlib tries others on the pixels, and fails
    return ax.imshow(painted, norm=linear, cmap=colours, origin="lower", aspect=aspect)


def draw_outline(ax: Axes, cut: np.ndarray, colour: str, width: float = 1.2) -> None:
    """The border of a mask's slice, halfway between voxels, closed where the volume ends; white has a black rim."""
    if cut.any():
        rows, columns = (np.arange(-1, n + 1) for n in cut.shape)
        style: dict = {"levels": [0.5], "colors": [colour], "linewidths": [width]}
        drawn = ax.contour(columns, rows, np.pad(cut.astype(float), 1), **style)
        if colour == "white":  # else it would be lost on a lesion, which is white itself
            drawn.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black")])


def zoom(ax: Axes, plane: str, frame: np.ndarray) -> None:
    """Show the frame `(3, 2)` of a plane."""
    across, up = IN_PLANE[plane]
    ax.set(xlim=frame[across], ylim=frame[up])


def letter_sides(ax: Axes, plane: str) -> None:
    """Left and right (or posterior and anterior) in the lower corners."""
    style = {"color": "white", "fontsize": 12, "transform": ax.transAxes, "va": "bottom", "path_effects": DARK_RIM}
    for x, letter, ha in zip((0.02, 0.98), "PA" if plane == "sagittal" else "LR", ("left", "right"), strict=True):
        ax.text(x, 0.02, letter, ha=ha, **style)


def draw_slice(
    ax: Axes,
    space: Canonical,
    plane: str,
    at: At,
    frame: np.ndarray,
    channel: int = 0,
    values: np.ndarray | None = None,
    scale: Normalize | None = None,
    outlines: Iterable[tuple[np.ndarray, str]] = (),
    colours: Colormap = SIGNED,
    **how: float,
) -> None:
    """What a frame shows of a plane of the scan, with letters, titled by channel and plane.

    The map, `values`, and the masks of the outlines are `(I, J, K)` in display order; `how` is of `paint`.
    """
    over = None if values is None else cut_plane(values, plane, at)
    painted = paint(space.grey(channel, plane, at), over, scale, colours=colours, **how)
    show_painted(ax, painted, space.aspect(plane), scale, colours)
    for mask, colour in outlines:
        draw_outline(ax, cut_plane(mask, plane, at), colour)
    letter_sides(ax, plane)
    zoom(ax, plane, frame)
    ax.set_title(f"{space.channels[channel]}, {plane}", fontsize=11)


def add_colour_bar(
    scale: Normalize, axes: Sequence[Axes], unit: str, values: Saliency | np.ndarray, colours: Colormap = SIGNED
) -> None:
    """The bar of a map; only its upper half where the map is nowhere negative."""
    bar = axes[0].figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.8, pad=0.02)
    bar.ax.set_facecolor("0.4")
    low, high = float(values.min()), float(values.max())
    bar.set_label(unit if low or high else f"{unit} (the map is zero everywhere)", fontsize=10)
    bottom, top = bar.ax.get_ylim()
    if low >= 0 and high > 0:
        bar.ax.set_ylim(max(0.0, bottom), top)


def split_outlined(lesion: Outlined | None) -> tuple[dict[str, LesionLike], LesionLike | None, bool]:
    """What to outline, by colour; the lesion that the picture is about; whether a close-up of it is wanted."""
    if lesion is None:
        return {}, None, False
    if isinstance(lesion, Mapping):
        return dict(lesion), next(iter(lesion.values()), None), True  # pyright: ignore[reportReturnType]
    if isinstance(lesion, HasVoxels | torch.Tensor | np.ndarray):
        return {"white": lesion}, lesion, True
    found = list(lesion)
    coloured: dict[str, LesionLike] = {}
    for group, colour in GROUP_COLOURS.items():
        if voxels := [one.voxels for one in found if one.group == group]:
            coloured[colour] = np.unique(np.concatenate(voxels), axis=0)
    return coloured, max(found, key=len, default=None), False


def plot_slice(
    subject: Subject,
    saliency: Saliency | None = None,
    lesion: Outlined | None = None,
    *,
    ax: Axes | None = None,
    plane: str = "axial",
    channel: str | None = None,
    at: LesionLike | At = None,
    through: bool = False,
    reach_mm: float | None = CLOSE_UP_MM,
    scale: float | Normalize | None = None,
    colours: str | Colormap = SIGNED,
    threshold: float = 0.0,
    opacity: float = 1.0,
    unit: str | None = GRADIENT_UNIT,
    title: str | None = None,
) -> Axes:
    """One slice: the scan in grey, a map over it, the outline of a lesion, a colour bar with the unit.

    Of the axes that it returns `ax.images[0]` has the colours of the map, for a colour bar of several axes.

    Args:
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all channels; None draws the scan alone.
        lesion: what to outline: one lesion, in white; several, in the colours of their groups; or `{colour: lesion}`.
        plane: `axial`, `coronal` or `sagittal`.
        channel: whose scan and map; None is the first.
        at: a lesion or a voxel `(i, j, k)` that the plane cuts. None is the lesion, the first of a mapping, the
            largest of several; without one the peak of the map, and without a map the middle of the scan.
        through: look through the head instead: at each point the map's largest value along the line of sight.
        reach_mm: how far around the lesion (not several) to show; None shows all.
        scale: where the colours end, on both sides of zero, or a `Normalize`; None: at the largest value shown.
        colours: of the map; for a map without a sign any colormap of matplotlib.
        threshold: values below this share of the scale's end are not shown.
        unit: of the map, on the colour bar; None draws no bar.
    """
    check_choice("plane", plane, list(PLANES))
    index, space = channel_index(subject, channel), Canonical(subject)
    values = None if saliency is None else space.turn(channel_map(subject, saliency, index))
    coloured, about, close = split_outlined(lesion)
    outlines = [(space.turn_mask(one), colour) for colour, one in coloured.items()]
    centre = None if through else slice_centre(space, about if at is None else at, values)
    frame = space.whole_frame()
    if close and reach_mm is not None and outlines:
        frame = space.frame_around(outlines[0][0], reach_mm)
    table = plt.get_cmap(colours)
    if values is not None and not isinstance(scale, Normalize):
        top = largest_shown([values], [plane], centre, frame) if scale is None else scale
        scale = symmetric(top) if table == SIGNED else Normalize(0, top or 1.0)
    norm = scale if isinstance(scale, Normalize) else None
    if ax is None:
        ax = plt.subplots(figsize=(5.4, 4.6), layout="constrained")[1]
    how = {"threshold": threshold, "opacity": opacity}
    draw_slice(ax, space, plane, centre, frame, index, values, norm, outlines, table, **how)
    ax.set_title(ax.get_title() if title is None else title)
    if values is not None and norm is not None and unit is not None:
        add_colour_bar(norm, [ax], unit, values, table)
    return ax


def slice_centre(space: Canonical, at: LesionLike | At, values: np.ndarray | None = None) -> Place:
    """The voxel in display order that planes cut: through a lesion, else the peak of a map, else the middle."""
    if at is not None:
        return busiest(space.turn_mask(at))
    i, j, k = (n // 2 for n in space.image[0].shape)
    return (i, j, k) if values is None else peak_of(values)
