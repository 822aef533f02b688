"""Charts of numbers: how scores fall and rise, groups of lesions, where maps lie, and what they are worth."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from ies_helpers.arrays import check_choice
from ies_helpers.figures.pages import save_figure
from ies_helpers.figures.slices import GROUP_COLOURS, OKABE_ITO, label_of
from ies_helpers.measures.agg2exp import explained as explained_in
from ies_helpers.measures.agg2exp import masses, structures
from ies_helpers.measures.context import average_curves, median_distances, summarise_curves
from ies_helpers.measures.groups import ORDER, ROC_GRID, Roc, valued
from ies_helpers.measures.maps import MEASURES, measure_of
from ies_helpers.measures.removal import Curve, Road
from ies_helpers.measures.sanity import SHUFFLED
from ies_helpers.saliency.methods import GRADIENT_UNIT
from ies_helpers.subjects.folder import write_table

# What all charts share: one style a line, one colour a thing.

LINE_COLOURS = tuple(OKABE_ITO[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky blue"))
MARKERS = "os^DvP<X>*hp"  # one a subject or a line; a thirteenth starts again
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # one a curve without markers
SCORE = "mean probability of the lesion"
MASS = "share of the map"


def line_style(n: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th line; after the last colour they start again, dotted."""
    style = {"color": LINE_COLOURS[n % len(LINE_COLOURS)], "marker": MARKERS[n % len(LINE_COLOURS)]}
    return style | {"markersize": 5, "linestyle": "-" if n < len(LINE_COLOURS) else ":"}


def curve_style(n: int) -> dict[str, Any]:
    """Colour and dash of the n-th of a few curves."""
    return {"color": LINE_COLOURS[n % len(LINE_COLOURS)], "ls": DASHES[n % len(DASHES)]}


def check_some(named: Mapping[str, Any]) -> None:
    """Refuse a chart of nothing."""
    if not named:
        raise ValueError("There must be something to plot, got none.")


# How scores fall and rise: ROAD, deletion, insertion, and maps of ever more random networks.

SIMILARITIES = {
    "spearman": "rank correlation, signed",
    "spearman_abs": "rank correlation, absolute values",
    "ssim": "structural similarity",
}


def plot_road(results: Mapping[str, Road], *, title: str | None = None) -> Figure:
    """Left the score after removal, most (full) and least (dashed) relevant first; right half their difference.

    All results, by the name of a map, are of one lesion. Of an unedited image the score is the grey line.
    """
    check_some(results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2 + 0.2 * len(results)), layout="constrained")
    for n, (name, result) in enumerate(results.items()):
        percent, style = 100 * result.fractions, line_style(n)
        left.plot(percent, result.morf, label=name, **style)
        left.plot(percent, result.lerf, **style | {"linestyle": "--", "markerfacecolor": "white"})
        right.plot(percent, result.score, label=f"{name}: mean {_two_decimals(result.mean)}", **style)
    for clean in {round(result.clean, 6) for result in results.values()}:
        left.axhline(clean, color="0.6", zorder=0)
    right.axhline(0, color="0.6", zorder=0)
    _label_axes(left, "removed, % of the region", SCORE, "full: most relevant first; dashed: least")
    _label_axes(right, "removed, % of the region", "(LeRF − MoRF) / 2", "higher is better")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    left.set_ylim(-0.03, 1.03)
    _legend_below(right)
    figure.suptitle(title or "ROAD: remove and debias", fontsize=13)
    return figure


def plot_curves(
    deletions: Mapping[str, Curve], insertions: Mapping[str, Curve] | None = None, *, title: str | None = None
) -> Figure:
    """Scores against the number of voxels deleted, and inserted, on a logarithmic axis from 1; all of one lesion."""
    panels = [("deleted", "lower is better", deletions)]
    if insertions is not None:
        panels.append(("inserted", "higher is better", insertions))
    for *_, curves in panels:
        check_some(curves)
    size = (5 * len(panels), 4.2 + 0.2 * len(deletions))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, (what, better, curves) in zip(axes[0], panels, strict=True):
        for n, (name, curve) in enumerate(curves.items()):
            label = f"{name}: {_two_decimals(curve.log_area)}"
            ax.plot(curve.voxels[1:], curve.scores[1:], label=label, **line_style(n))
        _label_axes(ax, f"voxels {what}, most relevant first", SCORE, f"mean height in the legend: {better}")
        ax.set_xscale("log")
        ax.set_ylim(-0.03, 1.03)
        _legend_below(ax)
    figure.suptitle(title or ("Deletion and insertion" if len(panels) > 1 else "Deletion"), fontsize=13)
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
    """
    check_choice("measure", measure, list(SIMILARITIES))
    check_some(tables)
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    layers: list[str] = []
    for n, (name, table) in enumerate(tables.items()):
        steps = table[table["layer"] != SHUFFLED]
        if layers and steps["layer"].tolist() != layers:
            raise ValueError("Tables must be of the same layers to share an axis; plot them one by one.")
        layers = steps["layer"].tolist()
        ax.plot(range(len(steps)), steps[measure], label=name, **line_style(n))
        for level in table.loc[table["layer"] == SHUFFLED, measure]:
            ax.axhline(level, color=line_style(n)["color"], linestyle=":", zorder=0)
    _label_axes(ax, "made random, from the output backwards", SIMILARITIES[measure], "dotted: the shuffled map")
    ax.set_xticks(range(len(layers)), [_shorten_layer(layer) for layer in layers], rotation=40, ha="right", fontsize=9)
    ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.05)
    ax.legend(fontsize=10)
    figure.suptitle(title or "Maps of ever more random networks", fontsize=13)
    return figure


def _legend_below(ax: Axes) -> None:
    """Below the panel: inside, it would lie on the curves."""
    ax.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def _two_decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"


def _label_axes(ax: Axes, x: str, y: str, note: str) -> None:
    for write, text in ((ax.set_xlabel, x), (ax.set_ylabel, y), (ax.set_title, note)):
        write(text, fontsize=11)


def _shorten_layer(layer: str) -> str:
    """`model.1.submodule.0.conv` -> `1.0`."""
    return ".".join(part for part in layer.split(".") if part not in ("model", "submodule", "conv")) or layer


# The score of a lesion against its contrast.


def plot_dose(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Score against contrast: a thin line for each lesion, a thick one for their mean; below, the share that is seen.

    Rows are of `dose_response`, of any number of networks, places and sizes, each at the same contrasts.
    """
    lesion = ["subject", "i", "j", "k", "size_mm3"]
    lacking = {*lesion, "network", "contrast", "score", "seen"} - set(table.columns)
    if lacking or table.empty:
        raise ValueError(f"A table must be that of dose_response, it has no {', '.join(sorted(lacking)) or 'rows'}.")
    size: Any = {"figsize": (7, 5.6), "height_ratios": (3, 1.2)}
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, layout="constrained", **size)
    for n, (network, rows) in enumerate(table.groupby("network", sort=False)):
        style = line_style(n)
        for _, one in rows.sort_values("contrast").groupby(lesion):
            upper.plot(one["contrast"], one["score"], color=style["color"], lw=0.8, alpha=0.5)
        mean: Any = rows.groupby("contrast", as_index=False)[["score", "seen"]].mean()
        label = f"{network}, mean of {rows.groupby(lesion).ngroups}"
        upper.plot(mean["contrast"], mean["score"], lw=2.5, label=label, **style)
        lower.plot(mean["contrast"], mean["seen"], lw=1.5, **style)
    upper.set(ylabel="mean probability over the lesion", ylim=(-0.03, 1.03))
    lower.set(ylabel="share seen", ylim=(-0.1, 1.1), xlabel="contrast in FLAIR (mean over the lesion, z-scored units)")
    upper.legend(frameon=False, loc="upper left")
    figure.suptitle(title)
    return figure


# Perilesional curves: the paper's Figure 3, and what its averages do not show.

FILL_DASHES = {"zero": "-", "mean": ":", "blurred": "--"}


def plot_perilesional(curves: pd.DataFrame) -> Figure:
    """Three panels: lesions seen, mean score and standard deviation (as in Figure 3), and every lesion's own curve.

    Around the mean of the first fill, the band is the standard deviation over lesions, thin lines are the 95 % interval
    of the mean over subjects, where there are several. Averages are drawn where most lesions have a value: with one
    spacing everywhere, with several up to the shortest curve's end. Curves are tidy, as `ies perilesional` writes them.
    """
    for filling in dict.fromkeys(curves["fill"]):
        check_choice("fill", filling, list(FILL_DASHES))
    averages = average_curves(curves)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(dict.fromkeys(curves["network"]), cycle(LINE_COLOURS), strict=False))
    keyed: Any = averages.groupby(["network", "fill"], sort=False)
    for (network, filling), part in keyed:
        style = {"color": colours[network], "ls": FILL_DASHES[filling], "label": f"{network}, {filling} fill"}
        drawn: Any = part[part["lesions"] == part["lesions"].max()]
        left.step(drawn["distance_mm"], drawn["seen"], where="post", lw=2, **style)
        middle.plot(drawn["distance_mm"], drawn["mean"], lw=2, **style)
        if filling == averages["fill"].iloc[0]:
            _draw_spread(middle, drawn, style)
    keyed = curves.groupby(["subject", "lesion", "network", "fill"], sort=False)
    for (_, _, network, filling), curve in keyed:
        ordered = curve.sort_values("distance_mm")
        style = {"color": colours[network], "ls": FILL_DASHES[filling]}
        right.plot(ordered["distance_mm"], ordered["score"], lw=0.8, alpha=0.6, **style)
    lesions = max(averages["lesions"].tolist())
    several = averages["low"].notna().to_numpy().any()
    over = "thin lines: 95 % over subjects" if several else "one subject: no interval over subjects"
    left.set(title="lesions seen", ylabel=f"of {lesions}", ylim=(0, lesions * 1.05))
    middle.set(ylabel="mean probability in the lesion", ylim=(0, 1.02))
    middle.set_title(f"mean score; band: 1 standard deviation\n{over}", fontsize=11)
    right.set(title="each lesion", ylabel="mean probability in the lesion", ylim=(0, 1.02))
    for ax in (left, middle, right):
        ax.set(xlabel="tissue shown around the lesion, mm")
        ax.grid(alpha=0.3)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(fontsize=10)
    return figure


def _draw_spread(ax: Axes, average: pd.DataFrame, style: dict[str, Any]) -> None:
    """The standard deviation of lesions as a band, the interval of the mean over subjects as lines, where it is one."""
    at, spread = average["distance_mm"], average["sd"].fillna(0)
    ax.fill_between(at, average["mean"] - spread, average["mean"] + spread, color=style["color"], alpha=0.15, lw=0)
    for bound in ("low", "high"):
        if average[bound].notna().to_numpy().any():
            ax.plot(at, average[bound], color=style["color"], ls=style["ls"], lw=0.8)


def save_perilesional(out: Path, curves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write what a table of curves says, its lesions, medians and averages, and the figure; returns the first two."""
    summary = summarise_curves(curves)
    medians = median_distances(summary)
    write_table(out / "perilesional_summary.tsv", summary)
    write_table(out / "perilesional_medians.tsv", medians)
    write_table(out / "perilesional_average.tsv", average_curves(curves))
    save_figure(plot_perilesional(curves), out / "figures" / "perilesional.png")
    return summary, medians


# Groups of lesions: every lesion of every subject, ROC curves with their bands, calibration.


def plot_groups(
    table: pd.DataFrame,
    measures: Mapping[str, str] | Sequence[str],
    *,
    unit: str = GRADIENT_UNIT,
    title: str | None = None,
) -> Figure:
    """One panel a measure: a box for each group, and every lesion, each subject a column and a marker of its own.

    Boxes are of all lesions of a group: quartiles, median, whiskers to the last lesion within 1.5 times the box. The
    columns of subjects have the same order in each group, so that one can look at one subject in all of them.

    Args:
        table: a row a lesion: `subject`, `group` and the measures.
        measures: columns, one panel each; a mapping gives their titles, such as `{"flair_max": "FLAIR"}`.
        unit: of all measures.
    """
    named = dict(measures) if isinstance(measures, Mapping) else {name: name for name in measures}
    parts = {name: valued(table, name) for name in named}
    empty = [name for name, part in parts.items() if set(part["group"]).isdisjoint(ORDER)]
    if not named or empty:
        which = f" of {empty[0]}" if empty else ""
        raise ValueError(f"There must be values of TP, FP, FN or TN to plot, got none{which}.")
    subjects = list(dict.fromkeys(table.loc[table["group"].isin(ORDER), "subject"]))
    size = (max(9.0, 5.5 * len(named)), 5.2)
    figure, axes = plt.subplots(1, len(named), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, part) in zip(axes[0], parts.items(), strict=True):
        _draw_groups(ax, part, name, subjects)
        ax.set_title(named[name], fontsize=13)
    axes[0][0].set_ylabel(unit, fontsize=12)
    style = {"color": "none", "markeredgecolor": "black", "ls": "none", "markersize": 7}
    handles = [Line2D([], [], marker=m, label=str(s), **style) for s, m in zip(subjects, cycle(MARKERS), strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), fontsize=11, frameon=False)
    figure.suptitle(title or "Every lesion by group, a column and a marker for each subject", fontsize=13)
    return figure


def _draw_groups(ax: Axes, part: pd.DataFrame, name: str, subjects: list[Any]) -> None:
    groups = [group for group in ORDER if group in set(part["group"])]
    line = {"color": "black", "linewidth": 1.4}
    box: Any = {"boxprops": line | {"facecolor": "0.93"}, "medianprops": line | {"linewidth": 3}}
    box |= {"widths": 0.86, "showfliers": False, "patch_artist": True, "zorder": 1}
    for at, group in enumerate(groups):
        rows: Any = part[part["group"] == group]
        ax.boxplot(rows[name].to_numpy(), positions=[at], **box)
        for n, (subject, marker) in enumerate(zip(subjects, cycle(MARKERS), strict=False)):
            values = rows.loc[rows["subject"] == subject, name].to_numpy()
            x = at + 0.76 * ((n + 0.5) / len(subjects) - 0.5)
            style: Any = {"color": GROUP_COLOURS[group], "markeredgecolor": "black", "markeredgewidth": 0.5}
            ax.plot(np.full(len(values), x), values, marker, markersize=6, alpha=0.85, **style)
    labels = [f"{group}\n{(part['group'] == group).sum()} lesions" for group in groups]
    ax.set_xticks(range(len(groups)), labels, fontsize=12)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.tick_params(axis="y", labelsize=11)
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)


def plot_roc(curves: Mapping[str, Roc], *, title: str | None = None) -> Figure:
    """ROC curves of "this lesion is false", each with its AUC; a band, of the first curve alone, where it has one."""
    check_some(curves)
    figure, ax = plt.subplots(figsize=(6.6, 7.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="chance: 0.50")
    for n, (name, curve) in enumerate(curves.items()):
        low, high = curve.interval
        area = f"{curve.auc:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")
        ax.plot(curve.alarms, curve.caught, lw=2.4, label=f"{name}: {area}", **curve_style(n))
        if n == 0 and np.isfinite(curve.band).all():
            ax.fill_between(ROC_GRID, *curve.band, color=LINE_COLOURS[0], alpha=0.15, lw=0)
    first = next(iter(curves.values()))
    ax.set_xlabel(f"true lesions called false, share of {first.true}", fontsize=12)
    ax.set_ylabel(f"false lesions caught, share of {first.false}", fontsize=12)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    below: Any = {"loc": "outside lower center", "fontsize": 12, "frameon": False}
    figure.legend(**below, title="AUC (95 %, over subjects)", title_fontsize=12)
    figure.suptitle(title or f"Is this lesion false? {first.subjects} subjects", fontsize=13)
    return figure


def plot_calibration(tables: Mapping[str, pd.DataFrame], *, title: str | None = None) -> Figure:
    """Share of false lesions against the probability told, with Wilson intervals; a good model lies on the diagonal.

    The tables are of `calibration`.
    """
    check_some(tables)
    figure, ax = plt.subplots(figsize=(6.6, 7.0), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1)
    for n, (name, bins) in enumerate(tables.items()):
        bars = np.abs(bins[["low", "high"]].to_numpy().T - bins["observed"].to_numpy())
        label = f"{name}: Brier {bins['brier'].iloc[0]:.3f}, share alone {bins['brier_of_share'].iloc[0]:.3f}"
        style = curve_style(n) | {"marker": MARKERS[n % len(MARKERS)], "markersize": 8, "capsize": 4, "lw": 1.8}
        ax.errorbar(bins["predicted"], bins["observed"], yerr=bars, label=label, **style)
    ax.set_xlabel("probability told that the lesion is false, mean of a bin", fontsize=12)
    ax.set_ylabel("share that is false", fontsize=12)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    figure.legend(loc="outside lower center", fontsize=12, frameon=False)
    figure.suptitle(title or "Probability told, and what happened", fontsize=13)
    return figure


# Where maps lie: classes by classes, boxes, a graph of dependencies, patients unlike the others, lesions.

PART_NAMES = {"abs": "absolute values", "positive": "positive values", "negative": "negative values"}

REGION_COLOURS = {  # one a structure of a lesion
    "this lesion": OKABE_ITO["vermilion"],
    "0-2 mm": OKABE_ITO["orange"],
    "2-5 mm": OKABE_ITO["yellow"],
    "5-10 mm": OKABE_ITO["sky blue"],
    "beyond 10 mm": OKABE_ITO["blue"],
    "other lesions": OKABE_ITO["purple"],
    "white matter": "#E8E4D8",
    "grey matter": "#8C8C8C",
    "ventricles": OKABE_ITO["blue"],
    "other CSF": OKABE_ITO["sky blue"],
    "rest of the brain": OKABE_ITO["green"],
    "outside the brain": "#303030",
}


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
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=OKABE_ITO["green"], lw=1.8))
    slanted: Any = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(columns), [c.replace("_", " ") for c in matrix.columns], **slanted)
    ax.set_yticks(range(rows), [r.replace("_", " ") for r in matrix.index])
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
    known = explained_in(table)
    unknown = [name for name in explained if name not in known]
    if unknown or not explained:
        raise ValueError(f"explained must be among {', '.join(known)}; got {', '.join(unknown) or 'none'}.")
    everything = structures(table)
    order = [name for name in everything if name not in without]
    values = masses(table)[:, :, [everything.index(name) for name in order]]
    panels, size = dict.fromkeys(explained), (4.6 * len(set(explained)), 1.4 + 0.27 * len(order))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], panels, strict=True):
        shares = 100 * pd.DataFrame(values[:, known.index(name)], columns=order)  # a row a patient
        sort = shares.median().sort_values(kind="stable", na_position="first").index
        style: Any = {"medianprops": {"color": "black"}, "flierprops": {"markersize": 3.5}, "patch_artist": True}
        boxes = ax.boxplot([shares[s].dropna() for s in sort], orientation="horizontal", widths=0.7, **style)
        for box, structure in zip(boxes["boxes"], sort, strict=True):
            box.set_facecolor(OKABE_ITO["green"] if structure == name else "#BBD6E8")
        ax.set_yticks(range(1, len(order) + 1), [str(s).replace("_", " ") for s in sort])
        ax.set(xlabel=f"{MASS}, %", title=name.replace("_", " "))
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    gone = [name.replace("_", " ") for name in without if name in everything]
    lacking = f" ({', '.join(gone)} not drawn)" if gone else ""
    figure.suptitle(f"Where maps lie in {len(table)} patients{lacking}", fontsize=13)
    return figure


def plot_graph(edges: pd.DataFrame, *, title: str | None = None) -> Figure:
    """The strongest dependencies as a directed graph on a circle: an arrow from the explained class to a structure.

    Arrows are as wide as the mass is large; of two between the same pair each bends to its own side.
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
        arrow.set(color=OKABE_ITO["blue"], mutation_scale=9 + 3 * width)
        ax.add_patch(arrow)
    for name, (x, y) in place.items():
        ax.plot(x, y, "o", ms=11, color=OKABE_ITO["vermilion"], zorder=3)
        ha = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        va = "center" if abs(x) >= 0.2 else "bottom" if y > 0 else "top"
        ax.text(1.09 * x, 1.09 * y, name.replace("_", " "), ha=ha, va=va, fontsize=11)
    ax.set(xlim=(-1.75, 1.75), ylim=(-1.25, 1.25), aspect="equal")
    ax.axis("off")
    least = 100 * edges["mass"].min()
    ax.text(0, -1.24, f"widest arrow {100 * most:.2g} % of the map, thinnest {least:.2g} %", ha="center", fontsize=10)
    figure.suptitle(title or "The map of a class lies in others: its strongest arrows", fontsize=13)
    return figure


def plot_outliers(found: pd.DataFrame, *, names: int = 5) -> Figure:
    """Left: patients' mean outlier score against mean Dice; right: every class of every patient.

    Red is below 0, what the forest calls an outlier. Where no Dice coefficient is known, the mass in the class itself
    takes its place. The patients of lowest mean score, as many as `names`, are named.
    """
    known = bool(np.isfinite(found["dice"]).any())
    across, label = ("dice", "Dice coefficient") if known else ("own_mass", f"{MASS} in the class itself")
    means: Any = found.groupby("patient", as_index=False)[["score", "own_mass", "dice"]].mean()
    means = means.sort_values("score")
    panels: Any = ((means, f"{len(means)} patients, mean over classes"), (found, "every class of every patient"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for ax, (points, title) in zip(axes, panels, strict=True):
        colours = np.where(points["score"] < 0, OKABE_ITO["vermilion"], OKABE_ITO["blue"])
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
        table: of `lesion_table`.
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
        colour = REGION_COLOURS.get(name, f"C{n}")
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


# What maps are worth: boxes for each method and group, curves, and who is ahead.

BALANCE_PREFIX = "balance_"  # before the place in the names of sign balances


def plot_measures(measures: pd.DataFrame) -> Figure:
    """One panel a measure without unit: for each method a box and the maps themselves, for each group of lesions."""
    panels = []
    for row in MEASURES.values():
        its = measures[measures["measure"] == row.name]
        if len(its) and row.drawn in ("box", "bar"):
            panels.append((its, f"{row.title} ({row.better} is better)" if row.better else row.title, ""))
    return _draw_boxes_by_method(panels, "What the maps are worth, lesion by lesion")


def _drawn_as(measures: Any, drawn: str) -> pd.Series:
    """Which entries are measures that are drawn in this way."""
    rows = {name: measure_of(name) for name in measures.unique()}
    return measures.map({name: row is not None and row.drawn == drawn for name, row in rows.items()}).astype(bool)


def plot_peaks(measures: pd.DataFrame) -> Figure:
    """One panel for each method and unit: the largest and smallest value of each modality, by group of lesions.

    Methods have different units and scales, so each has its own axis; compare groups within a panel.
    """
    panels = []
    for name, part in _split_by_method(measures):
        peaks = part[_drawn_as(part["measure"], "peak")]
        some = peaks.groupby("measure")["value"].transform(lambda values: values.ne(0).any())
        peaks = peaks[some.to_numpy(dtype=bool)]  # not the smallest value of what is nowhere negative
        panels.append((peaks.assign(method=peaks["measure"].map(_extreme)), name, part["unit"].max()))
    return _draw_boxes_by_method(panels, "The largest and smallest value of each map")


def plot_balance(measures: pd.DataFrame) -> Figure:
    """Sign balance from the lesion outwards, a panel a method: each lesion thin, the mean of each group thick.

    1 where the first modality's map is positive everywhere, -1 where it is negative.
    """
    parts = [(name, its[_drawn_as(its["measure"], "balance")]) for name, its in _split_by_method(measures)]
    parts = [(name, part) for name, part in parts if len(part)]
    where = list(dict.fromkeys(w.removeprefix(BALANCE_PREFIX) for _, part in parts for w in part["measure"]))
    figure, axes = _make_panels(len(parts), width=4.2)
    for ax, (name, part) in zip(axes, parts, strict=False):
        for group, its in _split_by_group(part):
            wide = its.pivot(index=["subject", "lesion_id"], columns="measure", values="value")
            curves = wide.reindex(columns=[BALANCE_PREFIX + w for w in where]).to_numpy()
            ax.plot(range(len(where)), curves.T, color=GROUP_COLOURS[group], lw=0.6, alpha=0.5)
            style = {"lw": 3, "marker": "o", "markeredgecolor": "0.3", "label": f"{group} ({len(curves)})"}
            ax.plot(range(len(where)), pd.DataFrame(curves).mean().to_numpy(), color=GROUP_COLOURS[group], **style)
        ax.axhline(0, color="0.6", zorder=0)
        ax.set_xticks(range(len(where)), [w if w == "inside" else f"{w} mm" for w in where])
        ax.set_title(fill(name, 36), fontsize=11)
        ax.set(ylabel="sign balance, -1 to 1", ylim=(-1.05, 1.75), yticks=(-1, -0.5, 0, 0.5, 1))
        ax.legend(fontsize=10, frameon=False, loc="upper center", ncols=2)
    figure.suptitle("Positive in the lesion, negative around it?", fontsize=13)
    return figure


def plot_faithfulness(curves: pd.DataFrame) -> Figure:
    """Scores after removal, the mean over lesions of each method: ROAD, most and least relevant first, and deletion."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for n, (name, part) in enumerate(_split_by_method(curves)):
        style = line_style(n)
        del style["linestyle"]
        style |= {"markerfacecolor": "white"} if n >= len(LINE_COLOURS) else {}  # colours start again
        for order, line, label in (("morf", "-", name), ("lerf", "--", None)):
            steps = part[part["curve"] == order]
            steps = steps.assign(step=steps.groupby(["subject", "lesion"]).cumcount())
            means = steps[steps["step"] > 0].groupby("step")[["fraction", "score"]].mean()
            left.plot(100 * means["fraction"], means["score"], ls=line, label=label, **style)
        deleted = [c for _, c in part[part["curve"] == "deletion"].groupby(["subject", "lesion"])]
        for one in deleted:
            right.plot(one["voxels"].iloc[1:], one["score"].iloc[1:], color=style["color"], lw=0.5, alpha=0.4)
        right.plot(*_mean_curve(deleted), **style, lw=2.5)
    left.set(xlabel="removed, % of the region", title="ROAD; full: most relevant first, dashed: least")
    right.set(xlabel="voxels deleted, most relevant first", title="deletion; each lesion thin")
    for ax in (left, right):
        ax.set(xscale="log", ylabel=SCORE, ylim=(-0.03, 1.03))
    left.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    figure.suptitle("Does the score follow the map? Mean over lesions", fontsize=13)
    return figure


def plot_ranking(ranking: pd.DataFrame) -> Figure:
    """One panel for each network and measure: each method's mean and its bootstrap interval, the best at the top."""
    parts: list[Any] = [part for _, part in ranking.groupby(["network", "measure"], sort=False)]
    figure, axes = _make_panels(len(parts), width=4.2, height=0.9 + 0.45 * max(len(part) for part in parts))
    for ax, part in zip(axes, parts, strict=False):
        down = np.arange(len(part))[::-1]
        low, mean, high = part[["low", "mean", "high"]].to_numpy(dtype=float).T
        ax.hlines(down, low, high, color=LINE_COLOURS[0], lw=2)
        ax.plot(mean, down, "o", color=LINE_COLOURS[0])
        ax.set_yticks(down, [fill(method, 24) for method in part["method"]])
        ax.set_ylim(-0.6, len(part) - 0.4)
        first: Any = part.iloc[0]
        network = f"{first['network']}: " if len(set(ranking["network"])) > 1 else ""
        title = f"{network}{MEASURES[first['measure']].title} ({first['better']} is better)"
        ax.set_title(title, fontsize=11, x=1.0, ha="right")  # longer than the panel: its left end has room
        ax.grid(axis="x", alpha=0.3)
        if not int(first["lesions"]):
            ax.text(0.5, 0.5, "no lesion that all explained", transform=ax.transAxes, ha="center", va="center")
    lesions = sorted({int(n) for n in ranking["lesions"]})
    count = f"{lesions[0]}" if len(lesions) == 1 else f"{lesions[0]} to {lesions[-1]}"
    figure.suptitle(f"Means over {count} lesions that every method explained, 95 % bootstrap intervals", fontsize=12)
    return figure


def _draw_boxes_by_method(panels: Sequence[tuple[Any, str, str]], title: str) -> Figure:
    if not panels:
        raise ValueError("There must be a measure to plot, the table has none.")
    groups = [group for group, _ in _split_by_group(pd.concat([part for part, _, _ in panels]))]
    most = max(len(_split_by_method(part)) for part, _, _ in panels)
    figure, axes = _make_panels(len(panels), width=max(3.3, 0.26 * most * len(groups) + 1.1))
    for ax, (part, name, unit) in zip(axes, panels, strict=False):
        methods = _split_by_method(part)
        draw = _draw_share if _drawn_as(part["measure"], "bar").all() else _draw_box
        for n, (_, its) in enumerate(methods):
            for m, group in enumerate(groups):
                offset = (m - (len(groups) - 1) / 2) * 0.8 / len(groups)
                values = its.loc[its["group"] == group, "value"].dropna().to_numpy()
                draw(ax, values, n + offset, 0.6 / len(groups), GROUP_COLOURS[group])
        labels = [",\n".join(fill(words, 12) for words in method.split(", ")) for method, _ in methods]
        ax.set_xticks(range(len(methods)), labels)
        ax.set_xlim(-0.6, len(methods) - 0.4)
        ax.set_title(name, fontsize=11)
        ax.set_ylabel(fill(unit, 24))
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=6, label=g) for g in groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False)
    figure.suptitle(title, fontsize=13)
    return figure


def _draw_box(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A box of quartiles, whiskers to 1.5 times their distance, and every value as a point."""
    if not len(values):
        return
    style = {"boxprops": {"facecolor": colour, "alpha": 0.6}, "medianprops": {"color": "black"}}
    ax.boxplot(values, positions=[at], widths=width, patch_artist=True, showfliers=False, manage_ticks=False, **style)
    aside = np.linspace(-0.25, 0.25, len(values)) * width if len(values) > 1 else np.zeros(1)
    ax.plot(at + aside, values, "o", color=colour, markeredgecolor="0.15", markeredgewidth=0.6, markersize=3.5)


def _draw_share(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A bar as high as the mean: quartiles of what is 0 or 1 say little."""
    if len(values):
        ax.bar(at, values.mean(), width, color=colour, alpha=0.6, edgecolor="black")
        ax.set_ylim(0, 1.05)


def _make_panels(count: int, *, width: float, height: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    """`count` panels in rows of 10.2 inches at most, if one fits; what is left of the last row is empty."""
    columns = min(count, max(1, int(10.2 // width)))  # what is wider is shown smaller, its text too
    rows = -(-count // columns)
    size = (width * columns, height * rows + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in axes.ravel()[count:]:
        spare.set_axis_off()
    return figure, axes.ravel().tolist()


def _split_by_method(table: Any) -> list[tuple[str, Any]]:
    """Name and rows of each method, in the table's order; where there are several networks the name says which."""
    several = table["network"].nunique() > 1
    parts = table.groupby(["network", "method"], sort=False)
    return [(f"{network}, {method}" if several else method, part) for (network, method), part in parts]


def _split_by_group(table: Any) -> list[tuple[str, Any]]:
    """The rows of each group that there is, in the order of the groups."""
    return [(group, part) for group in GROUP_COLOURS if len(part := table[table["group"] == group])]


def _extreme(measure: str) -> str:
    """`flair_max` -> `FLAIR max`, `all_min` -> `min`."""
    channel, _, end = measure.rpartition("_")
    return end if channel == "all" else f"{label_of(channel)} {end}"


def _mean_curve(curves: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of curves at whole voxels that all of them reach, evenly apart on a logarithmic scale."""
    last = min(int(curve["voxels"].iloc[-1]) for curve in curves)
    at = np.geomspace(1, last, 24)
    heights = [np.interp(np.log(at), np.log(c["voxels"].iloc[1:]), c["score"].iloc[1:]) for c in curves]
    return at, np.mean(heights, axis=0)
