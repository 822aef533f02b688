"""Where maps lie, drawn: classes by classes, boxes, a graph of dependencies, patients unlike the others, lesions."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ies_helpers.measures.dependencies import explained as explained_in
from ies_helpers.measures.dependencies import masses, structures

MASS = "share of the map"

PART_NAMES = {"abs": "absolute values", "positive": "positive values", "negative": "negative values"}

COLOURS = {
    "this lesion": "#D55E00",
    "0-2 mm": "#E69F00",
    "2-5 mm": "#F0E442",
    "5-10 mm": "#56B4E9",
    "beyond 10 mm": "#0072B2",
    "other lesions": "#CC79A7",
    "white matter": "#E8E4D8",
    "grey matter": "#8C8C8C",
    "ventricles": "#0072B2",
    "other CSF": "#56B4E9",
    "rest of the brain": "#009E73",
    "outside the brain": "#303030",
}
"""One a structure of a lesion (most after Okabe and Ito)."""


def plot_matrix(matrix: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Heat map of `dependency_matrix`: a row an explained class, a column a structure, in percent.

    Colours grow with the square root of the share, so that a few percent can be told from nothing; cells of the class
    in itself have a frame. White numbers stand in dark cells. NaN is grey.
    """
    rows, columns = matrix.shape
    figure, ax = plt.subplots(figsize=(2.5 + 0.45 * columns, 1.9 + 0.4 * rows), layout="constrained")
    colours = plt.get_cmap("magma_r").with_extremes(bad="0.8")
    percent = 100 * matrix.to_numpy()
    drawn = ax.imshow(percent, cmap=colours, norm=PowerNorm(0.5, 0, np.nanmax(percent) or 1), aspect="auto")
    for (i, j), value in np.ndenumerate(percent):
        if np.isfinite(value):
            dark = float(drawn.norm(value)) > 0.55  # pyright: ignore[reportArgumentType]
            style = {"ha": "center", "va": "center", "fontsize": 10, "color": "white" if dark else "black"}
            ax.text(j, i, f"{value:.0f}" if value >= 0.5 else "·", **style)
        if matrix.index[i] == matrix.columns[j]:
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="#009E73", lw=1.8))
    ax.set_xticks(range(columns), [_words(c) for c in matrix.columns], rotation=50, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(rows), [_words(r) for r in matrix.index])
    ax.set(xlabel="structure", ylabel="explained")
    figure.colorbar(drawn, ax=ax, label=f"{MASS}, % (mean over patients)", shrink=0.9)
    figure.suptitle(title or "Where the map of each class lies", fontsize=13)
    return figure


def plot_boxes(table: pd.DataFrame, explained: Sequence[str], *, without: Sequence[str] = ("background",)) -> Figure:
    """For each explained class, boxes of its mass in every structure over patients, sorted by median.

    Boxes reach over the quartiles, whiskers 1.5 times their distance farther; circles are patients beyond. The class
    itself is green.

    Args:
        table: of `read_dependencies`.
        explained: which classes, one panel each.
        without: structures not to draw, which would push all others to the left; the figure says so.
    """
    everything = structures(table)
    kept = [j for j, name in enumerate(everything) if name not in without]
    values, order = masses(table)[:, :, kept], [everything[j] for j in kept]
    rows = _rows(table, explained)
    height = 1.4 + 0.27 * len(order)
    figure, axes = plt.subplots(
        1, len(rows), figsize=(4.6 * len(rows), height), sharex=True, squeeze=False, layout="constrained"
    )
    for ax, (name, row) in zip(axes[0], rows.items(), strict=True):
        own = [values[:, row, j][~np.isnan(values[:, row, j])] for j in range(len(order))]
        sort = sorted(range(len(order)), key=lambda j: np.median(own[j]) if own[j].size else -1)
        boxes = ax.boxplot([100 * own[j] for j in sort], orientation="horizontal", patch_artist=True, widths=0.7)
        for box, j in zip(boxes["boxes"], sort, strict=True):
            box.set_facecolor("#009E73" if order[j] == name else "#BBD6E8")
        for line in boxes["medians"]:
            line.set_color("black")
        for dots in boxes["fliers"]:
            dots.set(markersize=3.5)
        ax.set_yticks(range(1, len(order) + 1), [_words(order[j]) for j in sort])
        ax.set(xlabel=f"{MASS}, %", title=_words(name))
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    gone = [_words(name) for name in without if name in everything]
    told = f" ({', '.join(gone)} not drawn)" if gone else ""
    figure.suptitle(f"Where maps lie in {len(table)} patients{told}", fontsize=13)
    return figure


def _rows(table: pd.DataFrame, wanted: Sequence[str]) -> dict[str, int]:
    known = explained_in(table)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(f"explained must be among {', '.join(known)}; got {', '.join(unknown) or 'none'}.")
    return {name: known.index(name) for name in wanted}


def plot_graph(edges: pd.DataFrame, *, title: str | None = None) -> Figure:
    """The strongest dependencies as a directed graph on a circle: an arrow from the explained class to a structure.

    Arrows are as wide as the mass is large; of two between the same pair each bends to its own side.

    Args:
        edges: of `strongest_dependencies`.
        title: above.
    """
    if edges.empty:
        raise ValueError("A graph must have an edge, got none; ask strongest_dependencies for more of each.")
    names = list(dict.fromkeys([*edges["explained"], *edges["structure"]]))
    turn = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    place = {name: (float(np.cos(a)), float(np.sin(a))) for name, a in zip(names, turn, strict=True)}
    figure, ax = plt.subplots(figsize=(8.6, 7.6), layout="constrained")
    most = edges["mass"].max()
    for explained, structure, mass in edges[["explained", "structure", "mass"]].to_numpy()[::-1]:
        style: Any = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.16", "shrinkA": 9, "shrinkB": 9}
        width, depth = 0.6 + 5 * mass / most, 0.25 + 0.75 * mass / most
        arrow = FancyArrowPatch(place[explained], place[structure], lw=width, alpha=depth, **style)
        arrow.set(color="#0072B2", mutation_scale=9 + 3 * width)
        ax.add_patch(arrow)
    for name, (x, y) in place.items():
        ax.plot(x, y, "o", ms=11, color="#D55E00", zorder=3)
        ha = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        va = "center" if abs(x) >= 0.2 else "bottom" if y > 0 else "top"
        ax.text(1.09 * x, 1.09 * y, _words(name), ha=ha, va=va, fontsize=11)
    ax.set(xlim=(-1.75, 1.75), ylim=(-1.25, 1.25), aspect="equal")
    ax.axis("off")
    least = 100 * edges["mass"].min()
    ax.text(0, -1.24, f"widest arrow {100 * most:.2g} % of the map, thinnest {least:.2g} %", ha="center", fontsize=10)
    figure.suptitle(title or "The map of a class lies in others: its strongest arrows", fontsize=13)
    return figure


def plot_outliers(found: pd.DataFrame, *, names: int = 5) -> Figure:
    """Left: patients' mean outlier score against mean Dice; right: every class of every patient.

    Red is below 0, what the forest calls an outlier. Where no Dice coefficient is known, the mass in the class itself
    takes its place.

    Args:
        found: of `outliers`.
        names: how many patients of lowest mean score to name.
    """
    known = bool(np.isfinite(found["dice"]).any())
    across, label = ("dice", "Dice coefficient") if known else ("own_mass", f"{MASS} in the class itself")
    means: Any = found.groupby("patient", as_index=False)[["score", "own_mass", "dice"]].mean()
    means = means.sort_values("score")
    panels: Any = ((means, f"{len(means)} patients, mean over classes"), (found, "every class of every patient"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for ax, (points, title) in zip(axes, panels, strict=True):
        colours = np.where(points["score"] < 0, "#D55E00", "#0072B2")
        ax.scatter(points[across], points["score"], c=colours, s=28 if points is means else 12, alpha=0.8)
        ax.axhline(0, color="0.6", lw=1, zorder=0)
        ax.set(xlabel=label, ylabel="score of the isolation forest (below 0: outlier)", title=title)
    for n, (patient, x, y) in enumerate(means[["patient", across, "score"]].head(names).to_numpy()):
        side, ha = (5, "left") if n % 2 else (-5, "right")  # neighbours in score do not cover each other's name
        axes[0].annotate(patient, (x, y), (side, -3), textcoords="offset points", fontsize=10, ha=ha)
    axes[0].margins(x=0.12)
    return figure


def plot_lesion_structures(table: pd.DataFrame, *, by: str = "distance", part: str = "abs") -> Figure:
    """A bar a lesion, cut into the shares of its map in each structure; lesions sorted by group and share in itself.

    Args:
        table: of `lesion_table`, of any number of subjects.
        by: `distance` or `tissue`.
        part: `abs`, `positive` or `negative`.
    """
    rows: Any = table[(table["by"] == by) & (table["part"] == part)]
    if rows.empty:
        raise ValueError(f"The table must have rows by {by!r} of part {part!r}, got none; see lesion_table.")
    order = list(dict.fromkeys(rows.dropna(subset=["mass"])["structure"]))
    shares = rows.pivot_table("mass", ["group", "subject", "lesion"], "structure", dropna=False).reindex(columns=order)
    shares = shares.dropna(how="all").sort_values(["group", order[0]], ascending=[False, False])
    figure, ax = plt.subplots(figsize=(10, 1.8 + 0.24 * len(shares)), layout="constrained")
    left = np.zeros(len(shares))
    for n, name in enumerate(order):
        width = 100 * shares[name].fillna(0).to_numpy()
        colour = COLOURS.get(name, f"C{n}")
        ax.barh(range(len(shares)), width, left=left, label=name, color=colour, edgecolor="0.4", lw=0.3)
        left += width
    one = len({subject for _, subject, _ in shares.index}) == 1
    called = [f"{group} {lesion}" if one else f"{group} {subject} {lesion}" for group, subject, lesion in shares.index]
    ax.set_yticks(range(len(shares)), called)
    ax.set_ylim(len(shares) - 0.4, -0.6)
    ax.set(xlabel=f"{MASS}, %, {PART_NAMES[part]}", xlim=(0, max(100, left.max())))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=10)
    figure.suptitle(f"Where the map of each lesion lies, by {by}", fontsize=13)
    return figure


def _words(name: str) -> str:
    """`lung_left` -> `lung left`."""
    return name.replace("_", " ")
