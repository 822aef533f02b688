"""Figures of lesions and their maps: three planes, several maps of one lesion, and what a group of lesions shares."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ies_helpers.arrays import LesionLike, Saliency
from ies_helpers.figures.slices import (
    CLOSE_UP_MM,
    DARK_RIM,
    GROUP_COLOURS,
    PLANES,
    Canonical,
    add_colour_bar,
    busiest,
    check_map,
    cube_around,
    cut_plane,
    draw_slice,
    framed,
    label_of,
    letter_sides,
    paint,
    show_painted,
    slice_centre,
    split_outlined,
    symmetric,
    whole_frame,
    zoom,
)
from ies_helpers.measures.groupmaps import GroupMap
from ies_helpers.saliency.methods import GRADIENT_UNIT
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject


def plot_saliency(
    subject: Subject,
    saliency: Saliency,
    lesion: LesionLike,
    *,
    title: str | None = None,
    unit: str = GRADIENT_UNIT,
    reach_mm: float = CLOSE_UP_MM,
) -> Figure:
    """Three planes through the lesion for each channel: the image, the signed map over it, the lesion's outline.

    Colours are symmetric about zero and shared by all panels: they reach to the largest absolute value in them.
    Opacity grows with the absolute value, so that what is faint stays see-through. The map is not changed.

    Args:
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all channels at once.
        title: None names subject and lesion.
        reach_mm: how far around the lesion to look.
    """
    check_map(saliency, subject)
    space = Canonical(subject)
    mask = space.turn_mask(lesion)
    maps = [space.turn(channel) for channel in saliency.numpy()]
    centre, frame = busiest(mask), cube_around(mask, reach_mm, space.spacing)
    scale = symmetric(_largest_shown(maps, centre, frame))
    figure, axes = plt.subplots(len(maps), 3, figsize=(10, 3.2 * len(maps) + 0.6), squeeze=False, layout="constrained")
    for row, values in enumerate(maps):
        for ax, plane in zip(axes[row], PLANES, strict=True):
            draw_slice(ax, space, plane, centre, row, values, scale, [(mask, "white")])
            zoom(ax, plane, frame)
            ax.set_title(f"{label_of(subject.channels[row])}, {plane}", fontsize=11)
    add_colour_bar(figure, scale, axes.ravel().tolist(), unit, saliency)
    known = isinstance(lesion, Lesion)
    what = f"lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)" if known else "one lesion"
    figure.suptitle(title or f"{subject.name}: {what}", fontsize=13)
    return figure


def plot_lesions(
    subject: Subject, lesions: Iterable[Lesion], *, at: Lesion | Sequence[int] | None = None, title: str | None = None
) -> Figure:
    """Three planes of each channel with every lesion outlined in its group's colour and numbered.

    Args:
        at: a lesion or a voxel `(i, j, k)` that the planes cut; None: planes that show all groups, and most lesions.
        title: None names the subject and counts the groups.
    """
    lesions = list(lesions)
    space = Canonical(subject)
    labels = np.zeros(subject.shape, dtype=np.int32)
    for lesion in lesions:
        labels[tuple(lesion.voxels.T)] = lesion.number
    labels = space.turn(labels)
    centre = slice_centre(space, at) if at is not None or not lesions else _show_all_groups(labels, lesions)
    coloured, *_ = split_outlined(lesions)
    outlines = [(space.turn_mask(mask), colour) for colour, mask in coloured.items()]
    frame, rows = whole_frame(space), len(subject.channels)
    figure, axes = plt.subplots(rows, 3, figsize=(10, 3.2 * rows + 0.4), squeeze=False, layout="constrained")
    for row, name in enumerate(subject.channels):
        for ax, (plane, axis) in zip(axes[row], PLANES.items(), strict=True):
            draw_slice(ax, space, plane, centre, row, outlines=outlines)
            _number_lesions(ax, cut_plane(labels, plane, centre[axis]), lesions)
            zoom(ax, plane, frame)
            ax.set_title(f"{label_of(name)}, {plane}", fontsize=11)
    counts = {g: sum(le.group == g for le in lesions) for g in GROUP_COLOURS}
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=3, label=f"{g} ({n})") for g, n in counts.items() if n]
    if handles:
        style = {"ncols": 5, "fontsize": 12, "facecolor": "0.15", "labelcolor": "white"}
        figure.legend(handles=handles, loc="outside lower center", **style)
    figure.suptitle(title or f"{subject.name}: {len(lesions)} lesions", fontsize=13)
    return figure


def _show_all_groups(labels: np.ndarray, lesions: Sequence[Lesion]) -> tuple[int, int, int]:
    """Where planes show most: groups that no plane before has shown, then lesions, then voxels of them."""
    group_of = {lesion.number: lesion.group for lesion in lesions}
    where = np.argwhere(labels)
    numbers, which = np.unique(labels[labels > 0], return_inverse=True)
    groups = np.array([group_of[number] for number in numbers])
    centre, missing = [0, 0, 0], set(groups)
    for axis in PLANES.values():
        cut = np.zeros((len(numbers), labels.shape[axis]))  # voxels, (lesions, slices)
        np.add.at(cut, (which, where[:, axis]), 1)
        new = sum((cut[groups == group].any(axis=0).astype(int) for group in missing), np.zeros(labels.shape[axis]))
        centre[axis] = int(np.lexsort((cut.sum(axis=0), (cut > 0).sum(axis=0), new))[-1])
        missing -= set(groups[cut[:, centre[axis]] > 0])
    return centre[0], centre[1], centre[2]


def _number_lesions(ax: Axes, cut: np.ndarray, lesions: Iterable[Lesion]) -> None:
    """The number of each lesion to the upper right of what a slice of numbers shows of it."""
    for lesion in lesions:
        up, across = np.nonzero(cut == lesion.number)
        if len(up):
            here = (float(across.max()) + 1, float(up.max()) + 1)
            style = {"color": GROUP_COLOURS[lesion.group], "fontsize": 11, "fontweight": "bold"}
            ax.annotate(str(lesion.number), here, annotation_clip=True, path_effects=DARK_RIM, **style)


def _largest_shown(maps: Sequence[np.ndarray], centre: Sequence[int], frame: np.ndarray) -> float:
    """The largest absolute value in the planes shown; where they show none, of the maps."""
    cuts = [framed(cut_plane(m, plane, centre[axis]), plane, frame) for m in maps for plane, axis in PLANES.items()]
    return max(float(np.abs(cut).max()) for cut in cuts) or max(float(np.abs(m).max()) for m in maps)


# Several maps of one lesion under each other: networks, or methods, compared as in the paper's Figures 1 and 2.


def plot_maps(
    subject: Subject,
    maps: Mapping[str, Saliency],
    lesion: LesionLike,
    *,
    plane: str = "coronal",
    unit: str = GRADIENT_UNIT,
    reach_mm: float = 25.0,
) -> Figure:
    """One row a map: the first channel's image, then the map over each channel, in one plane through the lesion.

    Each row has its own colours, symmetric about zero up to its largest absolute value in the frame: logits of
    different networks have different scales, so compare shapes between rows and values within one.

    Args:
        maps: row name -> `(C, I, J, K)`, or `(1, I, J, K)` for a map of all channels, drawn over the first.
        plane: `axial`, `coronal` (as in the paper) or `sagittal`.
        unit: of all maps; draw maps of another unit apart.
        reach_mm: how far around the lesion to look.
    """
    if not maps or plane not in PLANES:
        raise ValueError(f"plot_maps needs a map and a plane of {', '.join(PLANES)}, got {len(maps)} maps, {plane!r}.")
    for name, values in maps.items():
        check_map(values, subject, f" {name!r}")
    space = Canonical(subject)
    mask = space.turn_mask(lesion)
    centre, frame = busiest(mask), cube_around(mask, reach_mm, space.spacing)
    columns = 1 + max(len(values) for values in maps.values())
    side = min(2.9, 8.8 / columns)
    size = (side * columns + 1.2, side * len(maps) + 0.3)
    figure, axes = plt.subplots(len(maps), columns, figsize=size, squeeze=False, layout="constrained")
    labels = [label_of(channel) for channel in subject.channels]
    for row, (name, saliency) in zip(axes, maps.items(), strict=True):
        turned = [space.turn(channel) for channel in saliency.numpy()]
        cuts = [cut_plane(values, plane, centre[PLANES[plane]]) for values in turned]
        scale = symmetric(max(float(np.abs(framed(cut, plane, frame)).max()) for cut in cuts))
        titles = [f"{name}: map of {label}" for label in (labels if len(turned) == len(labels) else ["all"])]
        panels = [(f"{labels[0]}, {plane}", 0, None), *zip(titles, range(len(turned)), turned, strict=True)]
        for ax, (title, channel, values) in zip(row, panels, strict=False):
            draw_slice(ax, space, plane, centre, channel, values, scale, [(mask, "white")])
            zoom(ax, plane, frame)
            ax.set_title(title, fontsize=12)
        for spare in row[len(panels) :]:
            spare.set_axis_off()
        add_colour_bar(figure, scale, list(row), unit, np.stack(cuts))
    return figure


# What a group of lesions shares: mean, t and agreement in sign in three planes, and the individual maps beside them.

GROUP_MAP_UNITS = {
    "mean": f"mean, {GRADIENT_UNIT}",
    "t": "t (mean over its standard error)",
    "sign": "share positive − share negative",
}


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
        at: voxel that the planes cut; None: the middle of the grid.
        background: `(I, J, K)` in grey below, on the group's grid.
    """
    at = [n // 2 for n in group.count.shape] if at is None else at
    shown = list(individuals)[:8]
    below = -(-len(shown) // 4)
    figure = plt.figure(figsize=(10, 2.65 * (3 + below) + 0.5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, below)) if shown else (figure, None)
    for row, (kind, unit) in enumerate(GROUP_MAP_UNITS.items()):
        values = getattr(group, kind)[modality].numpy()
        cuts = [(f"{kind}, {plane}", plane, cut_plane(values, plane, at[axis])) for plane, axis in PLANES.items()]
        axes = [halves[0].add_subplot(3, 3, 3 * row + column) for column in (1, 2, 3)]
        top = {"t": 10.0, "sign": 1.0}.get(kind)
        _draw_group_row(halves[0], axes, cuts, top, background, at, unit.replace(", ", ",\n").replace(" (", "\n("))
    if shown:
        called = names or [f"map {n + 1}" for n in range(len(shown))]
        axes = [halves[1].add_subplot(below, 4, n + 1) for n in range(len(shown))]
        slices = [cut_plane(np.asarray(m)[modality], "axial", at[2]) for m in shown]
        cuts = [(name, "axial", cut) for name, cut in zip(called, slices, strict=False)]
        _draw_group_row(halves[1], axes, cuts, None, background, at, f"individual maps,\n{GRADIENT_UNIT}")
    figure.suptitle(title or f"{group.size} maps", fontsize=13)
    return figure


def _draw_group_row(
    figure: Any,
    axes: Sequence[Axes],
    cuts: Sequence[tuple[str, str, np.ndarray]],
    top: float | None,
    background: np.ndarray | None,
    at: Sequence[int],
    unit: str,
) -> None:
    """Slices, each with its title and plane, on one scale up to `top` (None: the largest of them), with one bar."""
    if top is None:
        top = max((float(np.nanmax(np.abs(cut))) for *_, cut in cuts if np.isfinite(cut).any()), default=0.0)
    for ax, (title, plane, cut) in zip(axes, cuts, strict=True):
        grey = np.full(cut.shape, 0.35)
        if background is not None:  # kept dark, so that the map stands out
            grey = np.clip(cut_plane(background, plane, at[PLANES[plane]]) / (1.7 * float(background.max())), 0, 1)
        drawn = show_painted(ax, paint(grey, cut, symmetric(top)), 1.0, symmetric(top))
        letter_sides(ax, plane)
        ax.set_title(title, fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)  # pyright: ignore[reportPossiblyUnbound]
    bar.ax.set_facecolor("0.4")
    bar.set_label(unit)
