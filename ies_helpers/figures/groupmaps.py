"""Group maps: mean, t and agreement in sign in three planes, and the individual maps beside them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ies_helpers.figures.panels import LABEL, PLANES, letters, overlay, plane_of
from ies_helpers.measures.groupmaps import GroupMap
from ies_helpers.types import Saliency

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
