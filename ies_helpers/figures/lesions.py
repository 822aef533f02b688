"""Figures of lesions and their maps: three planes, several maps of one lesion, and what a group of lesions shares."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ies_helpers.arrays import LesionLike, Saliency, door, plain
from ies_helpers.figures.slices import (
    CLOSE_UP_MM,
    DARK_RIM,
    GROUP_COLOURS,
    PLANES,
    Canonical,
    Place,
    add_colour_bar,
    busiest,
    check_map,
    cut_plane,
    draw_slice,
    largest_shown,
    letter_sides,
    paint,
    show_painted,
    slice_centre,
    split_outlined,
    symmetric,
)
from ies_helpers.measures.groupmaps import GroupMap
from ies_helpers.saliency.methods import GRADIENT_UNIT
from ies_helpers.segmentation.lesions import Lesion, Lesions
from ies_helpers.subjects.subject import Subject


@door
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
        reach_mm: how far around the lesion to look.
    """
    check_map(saliency, subject)
    space = Canonical(subject)
    mask = space.turn_mask(lesion)
    maps = [space.turn(channel) for channel in saliency.numpy()]
    centre, frame = busiest(mask), space.frame_around(mask, reach_mm)
    scale = symmetric(largest_shown(maps, PLANES, centre, frame) or float(saliency.abs().max()))
    figure, axes = plt.subplots(len(maps), 3, figsize=(10, 3.2 * len(maps) + 0.6), squeeze=False, layout="constrained")
    for row, values in enumerate(maps):
        for ax, plane in zip(axes[row], PLANES, strict=True):
            draw_slice(ax, space, plane, centre, frame, row, values, scale, [(mask, "white")])
    add_colour_bar(scale, axes.ravel().tolist(), unit, saliency)
    known = isinstance(lesion, Lesion)
    what = f"lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)" if known else "one lesion"
    figure.suptitle(title or f"{subject.name}: {what}", fontsize=13)
    return figure


def plot_lesions(
    subject: Subject, lesions: Iterable[Lesion], *, at: Lesion | Sequence[int] | None = None, title: str | None = None
) -> Figure:
    """Three planes of each channel with every lesion outlined in its group's colour and numbered.

    They cut the lesion or voxel `at`; None are those that show all groups, and most lesions.
    """
    lesions = list(lesions)
    space = Canonical(subject)
    labels = space.turn(Lesions(lesions).label_map(subject.shape).numpy())
    centre = slice_centre(space, at) if at is not None or not lesions else _show_all_groups(labels, lesions)
    coloured, *_ = split_outlined(lesions)
    outlines = [(space.turn_mask(mask), colour) for colour, mask in coloured.items()]
    frame, rows = space.whole_frame(), len(subject.channels)
    figure, axes = plt.subplots(rows, 3, figsize=(10, 3.2 * rows + 0.4), squeeze=False, layout="constrained")
    for row, panels in enumerate(axes):
        for ax, plane in zip(panels, PLANES, strict=True):
            draw_slice(ax, space, plane, centre, frame, row, outlines=outlines)
            _number_lesions(ax, cut_plane(labels, plane, centre), lesions)
    counts = {g: sum(le.group == g for le in lesions) for g in GROUP_COLOURS}
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=3, label=f"{g} ({n})") for g, n in counts.items() if n]
    if handles:
        style = {"ncols": 5, "fontsize": 12, "facecolor": "0.15", "labelcolor": "white"}
        figure.legend(handles=handles, loc="outside lower center", **style)
    figure.suptitle(title or f"{subject.name}: {len(lesions)} lesions", fontsize=13)
    return figure


def _show_all_groups(labels: np.ndarray, lesions: Sequence[Lesion]) -> Place:
    """Where planes show most: groups that no plane before has shown, then lesions, then voxels of them."""
    group_of = {lesion.number: lesion.group for lesion in lesions}
    numbers, which = np.unique(labels[labels > 0], return_inverse=True)
    groups = np.array([group_of[number] for number in numbers])
    centre, missing = {}, set(groups)
    for axis in PLANES.values():
        cut = np.zeros((len(numbers), labels.shape[axis]))  # voxels, (lesions, slices)
        np.add.at(cut, (which, np.nonzero(labels)[axis]), 1)
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
    """
    if not maps or plane not in PLANES:
        raise ValueError(f"plot_maps needs a map and a plane of {', '.join(PLANES)}, got {len(maps)} maps, {plane!r}.")
    for name, values in maps.items():
        check_map(values, subject, f" {name!r}")
    space = Canonical(subject)
    mask = space.turn_mask(lesion)
    centre, frame = busiest(mask), space.frame_around(mask, reach_mm)
    columns = 1 + max(len(values) for values in maps.values())
    side = min(2.9, 8.8 / columns)
    size = (side * columns + 1.2, side * len(maps) + 0.3)
    figure, axes = plt.subplots(len(maps), columns, figsize=size, squeeze=False, layout="constrained")
    for row, (name, saliency) in zip(axes, maps.items(), strict=True):
        turned = [space.turn(channel) for channel in plain(saliency).numpy()]
        scale = symmetric(largest_shown(turned, [plane], centre, frame))
        labels = space.channels if len(turned) == len(space.channels) else ["all"]
        titles = [f"{space.channels[0]}, {plane}", *(f"{name}: map of {label}" for label in labels)]
        for n, (ax, title) in enumerate(zip(row, titles, strict=False)):
            values = turned[n - 1] if n else None
            draw_slice(ax, space, plane, centre, frame, max(0, n - 1), values, scale, [(mask, "white")])
            ax.set_title(title, fontsize=12)
        for spare in row[len(titles) :]:
            spare.set_axis_off()
        add_colour_bar(scale, list(row), unit, np.stack([cut_plane(values, plane, centre) for values in turned]))
    return figure


# What a group of lesions shares: mean, t and agreement in sign in three planes, and the individual maps beside them.

GROUP_ROWS = {  # where the colours end, None at the largest value shown, and the unit
    "mean": (None, f"mean,\n{GRADIENT_UNIT}"),
    "t": (10.0, "t\n(mean over its standard error)"),
    "sign": (1.0, "share positive − share negative"),
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
        individuals: maps on the group's grid, the first eight are drawn, with their `names`.
        at: voxel that the planes cut; None: the middle of the grid.
        background: `(I, J, K)` in grey below, on the group's grid.
    """
    at = [n // 2 for n in group.count.shape] if at is None else at
    grey = np.full(group.count.shape, 0.35)
    if background is not None:  # kept dark, so that the map stands out
        grey = np.clip(background / (1.7 * float(background.max())), 0, 1)
    shown = list(individuals)[:8]
    below = -(-len(shown) // 4)
    figure = plt.figure(figsize=(10, 2.65 * (3 + below) + 0.5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, below)) if shown else (figure, None)
    for row, (kind, (top, unit)) in enumerate(GROUP_ROWS.items()):
        values = getattr(group, kind)[modality].numpy()
        panels = [(f"{kind}, {plane}", plane, values) for plane in PLANES]
        axes = [halves[0].add_subplot(3, 3, 3 * row + column) for column in (1, 2, 3)]
        _draw_group_row(axes, panels, at, grey, top, unit)
    if shown:
        called = names or [f"map {n + 1}" for n in range(len(shown))]
        panels = [(name, "axial", np.asarray(m)[modality]) for name, m in zip(called, shown, strict=False)]
        axes = [halves[1].add_subplot(below, 4, n + 1) for n in range(len(shown))]
        _draw_group_row(axes, panels, at, grey, None, f"individual maps,\n{GRADIENT_UNIT}")
    figure.suptitle(title or f"{group.size} maps", fontsize=13)
    return figure


def _draw_group_row(
    axes: Sequence[Axes],
    panels: Sequence[tuple[str, str, np.ndarray]],
    at: Sequence[int],
    grey: np.ndarray,
    top: float | None,
    unit: str,
) -> None:
    """Panels of title, plane and map on one scale up to `top` (None: the largest value shown), with one bar."""
    cuts = [cut_plane(values, plane, at) for _, plane, values in panels]
    scale = symmetric(max(float(np.abs(cut[np.isfinite(cut)]).max(initial=0)) for cut in cuts) if top is None else top)
    for ax, (title, plane, _), cut in zip(axes, panels, cuts, strict=True):
        drawn = show_painted(ax, paint(cut_plane(grey, plane, at), cut, scale), 1.0, scale)
        letter_sides(ax, plane)
        ax.set_title(title, fontsize=11)
    bar = axes[0].figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)  # pyright: ignore[reportPossiblyUnbound]
    bar.ax.set_facecolor("0.4")
    bar.set_label(unit)
