"""What a person looks at: planes through a lesion, the map in signed colours with its unit, outlines of lesions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from ies_helpers.arrays import LabelMap, Saliency, Voxels
from ies_helpers.figures.slices import (
    GROUP_COLOURS,
    LABEL,
    MODALITY_NAMES,
    PLANES,
    STROKE,
    Canonical,
    busiest,
    check_map,
    colour_bar,
    lesion_mask,
    letters,
    outline,
    overlay,
    plane_of,
    square,
    zoom,
)
from ies_helpers.measures.groupmaps import GroupMap
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject


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

    Raises:
        ValueError: for a map on another grid or with NaN.
    """
    check_map(saliency, subject)
    space = Canonical(subject)
    mask = space.turn(lesion_mask(lesion, subject)).astype(bool)
    maps = [space.turn(channel) for channel in saliency.numpy()]
    centre = busiest(mask)
    frame = square(mask, reach_mm, space.spacing)
    top = _largest(maps, centre, frame)
    figure, axes = plt.subplots(len(maps), 3, figsize=(10, 3.2 * len(maps) + 0.6), squeeze=False, layout="constrained")
    for row, values in enumerate(maps):
        name = MODALITY_NAMES[subject.channels[row]] if len(maps) > 1 else "FLAIR"
        for ax, plane in zip(axes[row], PLANES, strict=True):
            index = centre[PLANES[plane]]
            space.show(ax, space.image[row], plane, index)
            drawn = overlay(ax, plane_of(values, plane, index), top, space.aspect(plane))
            outline(ax, plane_of(mask, plane, index), "black", 2.4)
            outline(ax, plane_of(mask, plane, index), "white", 1.0)
            zoom(ax, plane, frame)
            letters(ax, plane)
            ax.set_title(f"{name}, {plane}", fontsize=11)
    colour_bar(figure, drawn, axes.ravel().tolist(), unit, *(float(getattr(saliency, end)()) for end in ("max", "min")))
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
    centre = (
        busiest(space.turn(lesion_mask(at, subject)))
        if at is not None
        else tuple(n // 2 for n in space.image.shape[1:])
    )
    frame = _frame(np.any(space.image, axis=0), np.full(3, 3.0))
    figure, axes = plt.subplots(len(space.image), 3, figsize=(10, 6.8), squeeze=False, layout="constrained")
    for row, modality in enumerate(subject.channels):
        for ax, plane in zip(axes[row], PLANES, strict=True):
            index = centre[PLANES[plane]]
            space.show(ax, space.image[row], plane, index)
            for lesion, mask in zip(lesions, masks, strict=True):
                _numbered(ax, plane_of(mask, plane, index), lesion)
            zoom(ax, plane, frame)
            letters(ax, plane)
            ax.set_title(f"{MODALITY_NAMES[modality]}, {plane}", fontsize=11)
    counts = {g: sum(le.group == g for le in lesions) for g in GROUP_COLOURS}
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=3, label=f"{g} ({n})") for g, n in counts.items() if n]
    if handles:
        style = {"ncols": 4, "fontsize": 12, "facecolor": "0.15", "labelcolor": "white"}
        figure.legend(handles=handles, loc="outside lower center", **style)
    figure.suptitle(title or f"{subject.name}: {len(lesions)} lesions", fontsize=13)
    return figure


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


def _numbered(ax: Axes, cut: np.ndarray, lesion: Lesion) -> None:
    if not cut.any():
        return
    outline(ax, cut, GROUP_COLOURS[lesion.group], 1.5)
    rows, columns = np.nonzero(cut)
    here = (float(columns.max()) + 1, float(rows.max()) + 1)
    style = {"color": GROUP_COLOURS[lesion.group], "fontsize": 11, "fontweight": "bold", "path_effects": STROKE}
    ax.annotate(str(lesion.number), here, annotation_clip=True, **style)


def _called(lesion: Lesion | LabelMap | Voxels) -> str:
    if isinstance(lesion, Lesion):
        return f"lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)"
    return "one lesion"


# Several maps of one lesion under each other: networks, or methods, compared as in the paper's Figures 1 and 2.


def plot_maps(
    subject: Subject,
    maps: Mapping[str, Saliency],
    lesion: Lesion | LabelMap | Voxels,
    *,
    plane: str = "coronal",
    unit: str = LABEL,
    reach_mm: float = 25.0,
) -> Figure:
    """One row a map: the FLAIR image, then the map over each modality, in one plane through the lesion.

    Each row has its own colours, symmetric about zero up to its largest absolute value in the frame: logits of
    different networks have different scales, so compare shapes between rows and values within one.

    Args:
        subject: gives the images.
        maps: row name -> `(C, I, J, K)`, or `(1, I, J, K)` for a map of all modalities, drawn over FLAIR.
        lesion: what is explained.
        plane: `axial`, `coronal` (as in the paper) or `sagittal`.
        unit: of all maps, for the colour bars; draw maps of another unit apart.
        reach_mm: how far around the lesion to look.

    Raises:
        ValueError: for no map, one on another grid or with NaN, or another plane.
    """
    if not maps or plane not in PLANES:
        raise ValueError(f"plot_maps needs a map and a plane of {', '.join(PLANES)}, got {len(maps)} maps, {plane!r}.")
    for name, values in maps.items():
        check_map(values, subject, f" {name!r}")
    space = Canonical(subject)
    mask = space.turn(lesion_mask(lesion, subject)).astype(bool)
    index = busiest(mask)[PLANES[plane]]
    frame = square(mask, reach_mm, space.spacing)
    columns = 1 + max(len(values) for values in maps.values())
    size = (2.9 * columns + 1.2, 2.9 * len(maps) + 0.3)
    figure, axes = plt.subplots(len(maps), columns, figsize=size, squeeze=False, layout="constrained")
    for row, (name, values) in zip(axes, maps.items(), strict=True):
        cuts = [plane_of(space.turn(channel), plane, index) for channel in values.numpy()]
        top = max(float(np.abs(_framed(cut, frame, plane)).max()) for cut in cuts)
        for ax, channel in zip(row, (0, *range(len(cuts))), strict=False):
            space.show(ax, space.image[channel], plane, index)
            zoom(ax, plane, frame)
            letters(ax, plane)
            outline(ax, plane_of(mask, plane, index), "white", 1.0)
        row[0].set_title(f"FLAIR, {plane}", fontsize=12)
        for ax, cut, modality in zip(row[1:], cuts, subject.channels, strict=False):
            drawn = overlay(ax, cut, top, space.aspect(plane))
            what = MODALITY_NAMES[modality] if len(cuts) > 1 else "all"
            ax.set_title(f"{name}: map of {what}", fontsize=12)
        for spare in row[1 + len(cuts) :]:
            spare.set_axis_off()
        colour_bar(figure, drawn, list(row), unit, max(map(np.max, cuts)), min(map(np.min, cuts)))
    return figure


def _framed(cut: np.ndarray, frame: np.ndarray, plane: str) -> np.ndarray:
    """The part of a slice `(rows, columns)` inside the frame."""
    across, up = (slice(max(0, int(frame[a][0] + 0.5)), int(frame[a][1] + 0.5)) for a in range(3) if a != PLANES[plane])
    return cut[up, across]


# Group maps: mean, t and agreement in sign in three planes, and the individual maps beside them.

KINDS = {"mean": f"mean, {LABEL}", "t": "t (mean over its standard error)", "sign": "share positive − share negative"}

LARGEST_T = 10.0
"""Where the colours of t end."""


def plot_group_map(
    group: GroupMap,
    individuals: Sequence[Saliency] = (),
    names: Sequence[str] = (),
    *,
    modality: int = 0,
    at: Sequence[int] | None = None,
    background: np.ndarray | None = None,
    title: str | None = None,
) -> Figure:
    """A row each for mean, t and sign in three planes; then the individual maps in the axial plane.

    Colours are symmetric about zero. The mean reaches to its largest absolute value in the planes shown, t to 10, sign
    to 1; all individual maps share one scale, their largest value in the plane.

    Args:
        group: of `group_map`; its axes run to right, anterior and superior.
        individuals: maps on the group's grid, the first eight are drawn.
        names: one an individual.
        modality: channel to draw.
        at: voxel that the planes cut; None: the middle of the grid.
        background: `(I, J, K)` in grey below, on the group's grid.
        title: above.
    """
    shape = tuple(group.count.shape)
    at = tuple(n // 2 for n in shape) if at is None else tuple(at)
    shown = list(individuals)[:8]
    lines = 3 + (len(shown) + 3) // 4
    figure = plt.figure(figsize=(10, 2.65 * lines + 0.5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, lines - 3)) if shown else (figure, None)
    upper, lower = halves
    for row, kind in enumerate(KINDS):
        values = getattr(group, kind)[modality].numpy()
        cuts = [plane_of(values, plane, at[axis]) for plane, axis in PLANES.items()]
        top = {"t": LARGEST_T, "sign": 1.0}.get(kind) or max(_top(cut) for cut in cuts)
        axes = [upper.add_subplot(3, 3, 3 * row + column) for column in (1, 2, 3)]
        for ax, (plane, axis), cut in zip(axes, PLANES.items(), cuts, strict=True):
            drawn = _panel(ax, cut, top, background, plane, at[axis])
            ax.set_title(f"{kind}, {plane}", fontsize=11)
        bar = upper.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
        bar.ax.set_facecolor("0.4")
        bar.set_label(KINDS[kind].replace(", ", ",\n").replace(" (", "\n("))
    if lower is not None:
        cuts = [plane_of(np.asarray(m)[modality], "axial", at[2]) for m in shown]
        top, axes = max(_top(cut) for cut in cuts), []
        for n, cut in enumerate(cuts):
            axes.append(lower.add_subplot(lines - 3, 4, n + 1))
            drawn = _panel(axes[-1], cut, top, background, "axial", at[2])
            axes[-1].set_title(names[n] if names else f"map {n + 1}", fontsize=10)
        bar = lower.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
        bar.ax.set_facecolor("0.4")
        bar.set_label(f"individual maps,\n{LABEL}")
    figure.suptitle(title or f"{group.size} maps", fontsize=13)
    return figure


def _panel(ax: Axes, cut: np.ndarray, top: float, background: np.ndarray | None, plane: str, index: int) -> AxesImage:
    if background is not None:
        dim = 1.7 * float(background.max())
        ax.imshow(plane_of(background, plane, index), cmap="gray", origin="lower", vmin=0, vmax=dim)
    ax.set_facecolor("0.35")
    drawn = overlay(ax, np.ma.masked_invalid(cut), top, 1.0)
    ax.set_xticks([])
    ax.set_yticks([])
    letters(ax, plane)
    return drawn


def _top(cut: np.ndarray) -> float:
    finite = cut[np.isfinite(cut)]
    return float(np.abs(finite).max()) if finite.size else 0.0
