"""How scores fall and rise: ROAD, deletion, insertion, and maps of ever more random networks."""

from collections.abc import Mapping
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ies_helpers.measures.faithfulness import Curve
from ies_helpers.measures.road import Road
from ies_helpers.measures.sanity import SHUFFLED

LINES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
"""A colour (told apart with every common colour blindness) and a marker a line; a seventh starts again, dotted."""

Named = TypeVar("Named")

SCORE = "mean probability of the lesion"

SIMILARITIES = {
    "spearman": "rank correlation, signed",
    "spearman_abs": "rank correlation, absolute values",
    "ssim": "structural similarity",
}


LINE = 0.2
"""Inches a line of a legend adds to a figure."""


def plot_road(results: Mapping[str, Road], *, title: str | None = None) -> Figure:
    """Left the score after removal, most (full) and least (dashed) relevant first; right half their difference.

    Args:
        results: name of a map -> its result, of one lesion. Of an unedited image the score is the grey line.
        title: above both.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2 + LINE * len(results)), layout="constrained")
    for n, (name, result) in enumerate(_some(results).items()):
        percent, style = 100 * result.fractions, _style(n)
        left.plot(percent, result.morf, label=name, **style)
        left.plot(percent, result.lerf, **style | {"linestyle": "--", "markerfacecolor": "white"})
        right.plot(percent, result.score, label=f"{name}: mean {_rounded(result.mean)}", **style)
    for clean in {round(result.clean, 6) for result in results.values()}:
        left.axhline(clean, color="0.6", zorder=0)
    right.axhline(0, color="0.6", zorder=0)
    _dress(left, "removed, % of the region", SCORE, "full: most relevant first; dashed: least")
    _dress(right, "removed, % of the region", "(LeRF − MoRF) / 2", "higher is better")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    left.set_ylim(-0.03, 1.03)
    _legend(right)
    figure.suptitle(title or "ROAD: remove and debias", fontsize=13)
    return figure


def plot_curves(
    deletions: Mapping[str, Curve], insertions: Mapping[str, Curve] | None = None, *, title: str | None = None
) -> Figure:
    """Scores against the number of voxels deleted, and inserted, on a logarithmic axis from 1.

    Args:
        deletions, insertions: name of a map -> its curve, of one lesion.
        title: above both.
    """
    panels = [("deleted, most relevant first", "lower is better", _some(deletions))]
    if insertions is not None:
        panels.append(("inserted, most relevant first", "higher is better", _some(insertions)))
    size = (5 * len(panels), 4.2 + LINE * len(deletions))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, (what, better, curves) in zip(axes[0], panels, strict=True):
        for n, (name, curve) in enumerate(curves.items()):
            ax.plot(curve.voxels[1:], curve.scores[1:], label=f"{name}: {_rounded(curve.log_area)}", **_style(n))
        _dress(ax, f"voxels {what}", SCORE, f"mean height in the legend: {better}")
        ax.set_xscale("log")
        ax.set_ylim(-0.03, 1.03)
        _legend(ax)
    figure.suptitle(title or "Deletion and insertion" if len(panels) > 1 else title or "Deletion", fontsize=13)
    return figure


def plot_randomisation(
    tables: Mapping[str, pd.DataFrame], *, measure: str = "spearman", title: str | None = None
) -> Figure:
    """Similarity to the trained network's map against the layers made random, from the output backwards.

    The shuffled map, what nothing in common looks like, is a dotted line of its method's colour. Where a map
    was empty the line has a gap.

    Args:
        tables: name of a method -> its table, of one network (`randomise_layers`).
        measure: `spearman`, `spearman_abs` or `ssim`.
        title: above.
    """
    if measure not in SIMILARITIES:
        raise ValueError(f"measure must be one of {', '.join(SIMILARITIES)}, got {measure!r}.")
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    layers: list[str] = []
    for n, (name, table) in enumerate(_some(tables).items()):
        steps = table[table["layer"] != SHUFFLED]
        if layers and steps["layer"].tolist() != layers:
            raise ValueError("Tables must be of the same layers to share an axis; plot them one by one.")
        layers = steps["layer"].tolist()
        ax.plot(range(len(steps)), steps[measure], label=name, **_style(n))
        for level in table.loc[table["layer"] == SHUFFLED, measure]:
            ax.axhline(level, color=_style(n)["color"], linestyle=":", zorder=0)
    _dress(ax, "made random, from the output backwards", SIMILARITIES[measure], "dotted: the shuffled map")
    ax.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=40, ha="right", fontsize=9)
    ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.05)
    ax.legend(fontsize=10)
    figure.suptitle(title or "Maps of ever more random networks", fontsize=13)
    return figure


def _some(named: Mapping[str, Named]) -> Mapping[str, Named]:
    if not named:
        raise ValueError("There must be something to plot, got none.")
    return named


def _style(n: int) -> dict[str, Any]:
    colour, marker = LINES[n % len(LINES)]
    return {"color": colour, "marker": marker, "markersize": 5, "linestyle": "-" if n < len(LINES) else ":"}


def _legend(ax: Axes) -> None:
    """Below the panel: inside, it would lie on the curves."""
    ax.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def _rounded(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"


def _dress(ax: Axes, x: str, y: str, note: str) -> None:
    ax.set_xlabel(x, fontsize=11)
    ax.set_ylabel(y, fontsize=11)
    ax.set_title(note, fontsize=11)


def _short(layer: str) -> str:
    """`model.1.submodule.0.conv` -> `1.0`."""
    return ".".join(part for part in layer.split(".") if part not in ("model", "submodule", "conv")) or layer
