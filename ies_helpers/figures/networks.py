"""Several maps of one lesion under each other: networks, or methods, compared as in the paper's Figures 1 and 2."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ies_helpers.figures.panels import (
    LABEL,
    MODALITY_NAMES,
    PLANES,
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
        for ax, cut, modality in zip(row[1:], cuts, subject.modalities, strict=False):
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
