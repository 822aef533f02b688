"""What a person looks at: planes through a lesion, the map in signed colours with its unit, outlines of lesions."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ies_helpers.figures.panels import (
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
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import LabelMap, Saliency, Voxels


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
        name = MODALITY_NAMES[subject.modalities[row]] if len(maps) > 1 else "FLAIR"
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
    for row, modality in enumerate(subject.modalities):
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
