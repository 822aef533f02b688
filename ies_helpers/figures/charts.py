"""Charts of numbers: how scores fall and rise, groups of lesions, where maps lie, and what they are worth."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, TypeAlias

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
from ies_helpers.measures.groups import ORDER, valued
from ies_helpers.measures.maps import MEASURES, measure_of
from ies_helpers.measures.refine import AS_FOUND, ROC_GRID, Refined, Roc
from ies_helpers.measures.removal import Curve, Road
from ies_helpers.measures.sanity import SHUFFLED
from ies_helpers.measures.uncertainty import RETAINED, Retention
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
    of, dash = n % len(LINE_COLOURS), "-" if n < len(LINE_COLOURS) else ":"
    return {"color": LINE_COLOURS[of], "marker": MARKERS[of], "markersize": 5, "linestyle": dash}


def curve_style(n: int) -> dict[str, Any]:
    """Colour and dash of the n-th of a few curves."""
    return {"color": LINE_COLOURS[n % len(LINE_COLOURS)], "ls": DASHES[n % len(DASHES)]}


def check_some(named: Mapping[str, Any]) -> None:
    """Refuse a chart of nothing."""
    if not named:
        raise ValueError("There must be something to plot, got none.")


def _label_axes(ax: Axes, x: str, y: str, note: str = "", size: int = 11, **more: Any) -> None:
    for write, text in ((ax.set_xlabel, x), (ax.set_ylabel, y), (ax.set_title, note)):
        write(text, fontsize=size)
    ax.set(**more)


def _entitle(figure: Figure, title: str) -> Figure:
    figure.suptitle(title, fontsize=13)
    return figure


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
        right.plot(percent, result.score, label=f"{name}: mean {result.mean:z.2f}", **style)
    for clean in {round(result.clean, 6) for result in results.values()}:
        left.axhline(clean, color="0.6", zorder=0)
    right.axhline(0, color="0.6", zorder=0)
    removed, orders = "removed, % of the region", "full: most relevant first; dashed: least"
    _label_axes(left, removed, SCORE, orders, xscale="log", ylim=(-0.03, 1.03))
    _label_axes(right, removed, "(LeRF − MoRF) / 2", "higher is better", xscale="log")
    for ax in (left, right):
        ax.xaxis.set_major_formatter("{x:g}")
    _legend_below(right)
    return _entitle(figure, title or "ROAD: remove and debias")


def plot_curves(
    deletions: Mapping[str, Curve], insertions: Mapping[str, Curve] | None = None, *, title: str | None = None
) -> Figure:
    """Scores against the number of voxels deleted, and inserted, on a logarithmic axis from 1; all of one lesion."""
    panels = {"deleted": ("lower", deletions)} | ({} if insertions is None else {"inserted": ("higher", insertions)})
    for _, curves in panels.values():
        check_some(curves)
    size = (5 * len(panels), 4.2 + 0.2 * len(deletions))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, (what, (better, curves)) in zip(axes[0], panels.items(), strict=True):
        for n, (name, curve) in enumerate(curves.items()):
            ax.plot(curve.voxels[1:], curve.scores[1:], label=f"{name}: {curve.log_area:z.2f}", **line_style(n))
        note = f"mean height in the legend: {better} is better"
        _label_axes(ax, f"voxels {what}, most relevant first", SCORE, note, xscale="log", ylim=(-0.03, 1.03))
        _legend_below(ax)
    return _entitle(figure, title or ("Deletion and insertion" if len(panels) > 1 else "Deletion"))


def _legend_below(ax: Axes) -> None:
    """Below the panel: inside, it would lie on the curves."""
    ax.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def plot_randomisation(
    tables: Mapping[str, pd.DataFrame], *, measure: str = "spearman", title: str | None = None
) -> Figure:
    """Similarity to the trained network's map against the layers made random, from the output backwards.

    The shuffled map, what nothing in common looks like, is a dotted line of its method's colour. Where a map was empty
    the line has a gap. Tables, by name of a method, are of `randomise_layers` and one network.
    """
    check_choice("measure", measure, list(SIMILARITIES))
    check_some(tables)
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    layers: list[str] = []
    for n, (name, table) in enumerate(tables.items()):
        shuffled = table["layer"] == SHUFFLED
        if layers and table.loc[~shuffled, "layer"].tolist() != layers:
            raise ValueError("Tables must be of the same layers to share an axis; plot them one by one.")
        layers = table.loc[~shuffled, "layer"].tolist()
        ax.plot(range(len(layers)), table.loc[~shuffled, measure], label=name, **line_style(n))
        for level in table.loc[shuffled, measure]:
            ax.axhline(level, color=line_style(n)["color"], linestyle=":", zorder=0)
    bottom = min(-0.05, ax.get_ylim()[0])
    across, note = "made random, from the output backwards", "dotted: the shuffled map"
    _label_axes(ax, across, SIMILARITIES[measure], note, ylim=(bottom, 1.05))
    ax.set_xticks(range(len(layers)), [_shorten_layer(layer) for layer in layers], rotation=40, ha="right", fontsize=9)
    ax.legend(fontsize=10)
    return _entitle(figure, title or "Maps of ever more random networks")


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
    shape: Any = {"figsize": (7, 5.6), "height_ratios": (3, 1.2)}
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, layout="constrained", **shape)
    for n, (network, rows) in enumerate(table.groupby("network", sort=False)):
        style, scores = line_style(n), rows.pivot_table("score", "contrast", lesion)
        upper.plot(scores.index, scores.to_numpy(), color=style["color"], lw=0.8, alpha=0.5)
        label = f"{network}, mean of {scores.shape[1]}"
        upper.plot(scores.index, scores.mean(axis=1), lw=2.5, label=label, **style)
        lower.plot(scores.index, rows.groupby("contrast")["seen"].mean(), lw=1.5, **style)
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
        style = {"color": colours[network], "ls": FILL_DASHES[filling]}
        drawn: Any = part[part["lesions"] == part["lesions"].max()]
        at, mean, sd = drawn["distance_mm"], drawn["mean"], drawn["sd"].fillna(0)
        left.step(at, drawn["seen"], where="post", lw=2, label=f"{network}, {filling} fill", **style)
        middle.plot(at, mean, lw=2, **style)
        if filling == averages["fill"].iloc[0]:
            middle.fill_between(at, mean - sd, mean + sd, color=style["color"], alpha=0.15, lw=0)
            middle.plot(at, drawn[["low", "high"]].dropna(axis=1, how="all").to_numpy(), lw=0.8, **style)
    keyed = curves.groupby(["subject", "lesion", "network", "fill"], sort=False)
    for (_, _, network, filling), curve in keyed:
        at, score = curve.sort_values("distance_mm")[["distance_mm", "score"]].to_numpy().T
        right.plot(at, score, lw=0.8, alpha=0.6, color=colours[network], ls=FILL_DASHES[filling])
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


def save_perilesional(out: Path, curves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write what a table of curves says, its lesions, medians and averages, and the figure; returns the first two."""
    summary = summarise_curves(curves)
    tables = {"summary": summary, "medians": median_distances(summary), "average": average_curves(curves)}
    for name, table in tables.items():
        write_table(out / f"perilesional_{name}.tsv", table)
    save_figure(plot_perilesional(curves), out / "figures" / "perilesional.png")
    return summary, tables["medians"]


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
        measures: columns, all in one `unit`; a mapping gives their titles, such as `{"flair_max": "FLAIR"}`.
    """
    named = dict(measures) if isinstance(measures, Mapping) else {name: name for name in measures}
    parts = {name: valued(table, name) for name in named}
    empty = [name for name, part in parts.items() if set(part["group"]).isdisjoint(ORDER)]
    if not named or empty:
        which = f" of {empty[0]}" if empty else ""
        raise ValueError(f"There must be values of TP, FP, FN or TN to plot, got none{which}.")
    marks = dict(zip(table.loc[table["group"].isin(ORDER), "subject"].unique(), cycle(MARKERS), strict=False))
    size = (max(9.0, 5.5 * len(named)), 5.2)
    figure, axes = plt.subplots(1, len(named), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, part) in zip(axes[0], parts.items(), strict=True):
        _draw_groups(ax, part, name, marks)
        ax.set_title(named[name], fontsize=13)
    axes[0][0].set_ylabel(unit, fontsize=12)
    style = {"color": "none", "markeredgecolor": "black", "ls": "none", "markersize": 7}
    handles = [Line2D([], [], marker=marker, label=str(subject), **style) for subject, marker in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), fontsize=11, frameon=False)
    return _entitle(figure, title or "Every lesion by group, a column and a marker for each subject")


def _draw_groups(ax: Axes, part: pd.DataFrame, name: str, marks: dict[Any, str]) -> None:
    groups = [group for group in ORDER if group in set(part["group"])]
    line = {"color": "black", "linewidth": 1.4}
    box: Any = {"boxprops": line | {"facecolor": "0.93"}, "medianprops": line | {"linewidth": 3}}
    box |= {"widths": 0.86, "showfliers": False, "patch_artist": True, "zorder": 1}
    for at, group in enumerate(groups):
        rows: Any = part[part["group"] == group]
        ax.boxplot(rows[name].to_numpy(), positions=[at], **box)
        for n, (subject, marker) in enumerate(marks.items()):
            values = rows.loc[rows["subject"] == subject, name].to_numpy()
            x = at + 0.76 * ((n + 0.5) / len(marks) - 0.5)
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
    across, up = f"true lesions called false, share of {first.true}", f"false lesions caught, share of {first.false}"
    _label_axes(ax, across, up, size=12, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    below: Any = {"loc": "outside lower center", "fontsize": 12, "frameon": False}
    figure.legend(**below, title="AUC (95 %, over subjects)", title_fontsize=12)
    return _entitle(figure, title or f"Is this lesion false? {first.subjects} subjects")


def plot_calibration(tables: Mapping[str, pd.DataFrame], *, title: str | None = None) -> Figure:
    """Share of false lesions by `calibration` against the probability told; a good model lies on the diagonal."""
    check_some(tables)
    figure, ax = plt.subplots(figsize=(6.6, 7.0), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1)
    for n, (name, bins) in enumerate(tables.items()):
        bars = np.abs(bins[["low", "high"]].to_numpy().T - bins["observed"].to_numpy())
        label = f"{name}: Brier {bins['brier'].iloc[0]:.3f}, share alone {bins['brier_of_share'].iloc[0]:.3f}"
        style = curve_style(n) | {"marker": MARKERS[n % len(MARKERS)], "markersize": 8, "capsize": 4, "lw": 1.8}
        ax.errorbar(bins["predicted"], bins["observed"], yerr=bars, label=label, **style)
    told = "probability told that the lesion is false, mean of a bin"
    _label_axes(ax, told, "share that is false", size=12, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    figure.legend(loc="outside lower center", fontsize=12, frameon=False)
    return _entitle(figure, title or "Probability told, and what happened")


def plot_retention(curves: Mapping[str, Retention], *, title: str | None = None) -> Figure:
    """Error retention: precision against the share of lesions not yet handed over, between the ideal and chance.

    The grey field reaches from random to ideal order, of the first curve; all curves should be of the same lesions.
    """
    check_some(curves)
    figure, ax = plt.subplots(figsize=(6.6, 7.0), layout="constrained")
    first = next(iter(curves.values()))
    ax.fill_between(RETAINED, first.random, first.ideal, color="0.92", lw=0)
    for values, area, name, dash in (
        (first.ideal, first.ideal_area, "ideal", "-"),
        (first.random, first.random_area, "random", "--"),
    ):
        ax.plot(RETAINED, values, color="0.5", lw=1.2, ls=dash, label=f"{name}: {area:.3f}")
    for n, (name, curve) in enumerate(curves.items()):
        low, high = curve.interval
        area = f"{curve.area:.3f}" + (f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else "")
        ax.plot(RETAINED, curve.ppv, lw=2.4, label=f"{name}: {area}", **curve_style(n))
    across = f"share of {first.true + first.false} found lesions kept, the surest"
    _label_axes(ax, across, "share of true lesions among those marked", size=12, xlim=(-0.01, 1.01), ylim=(None, 1.01))
    figure.legend(loc="outside lower center", fontsize=12, frameon=False, title="area under the curve (95 %)")
    subjects = f"{first.subjects} subjects" if first.subjects != 1 else "1 subject"
    return _entitle(figure, title or f"Hand over the doubtful ones: who is left? {subjects}")


REFINED = {"auc": "AUC of a false lesion", "f1": "lesion F1", "ppv": "PPV", "sensitivity": "sensitivity"}


def plot_refined(refined: Refined, *, title: str | None = None) -> Figure:
    """A row a judge of found lesions: its AUC, and what it scores once it has removed what looks false to it.

    Bars are 95 % intervals over subjects; the grey line is chance in the first panel, and what was found in the others.
    """
    rows: Any = refined.judges[::-1]
    figure, axes = plt.subplots(
        1, len(REFINED), figsize=(11, 2.0 + 0.42 * len(rows)), sharey=True, layout="constrained"
    )
    for n, (ax, (score, name)) in enumerate(zip(axes, REFINED.items(), strict=True)):
        at, values = np.arange(len(rows)), rows[score].to_numpy(dtype=float)
        ends = rows[[f"{score}_low", f"{score}_high"]].to_numpy(dtype=float)
        ax.hlines(at, *ends.T, color=LINE_COLOURS[n], lw=2.5, alpha=0.6)
        ax.plot(values, at, "o", color=LINE_COLOURS[n], ms=7)
        found = rows.loc[rows["judge"] == AS_FOUND, score].iloc[0]
        ax.axvline(0.5 if score == "auc" else found, color="0.6", lw=1, zorder=0)
        _label_axes(ax, name, "", size=12)
        ax.set_yticks(at, rows["judge"].tolist(), fontsize=12)
        ax.tick_params(axis="x", labelsize=11)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.margins(y=0.12)
    row = refined.judges.iloc[0]
    counts = f"{row['tp']} true, {row['fp']} false, {row['fn']} missed lesions of {row['subjects']} subjects"
    return _entitle(figure, title or f"Fewer false lesions? {counts}")


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
    return _entitle(figure, title or "Where the map of each class lies")


def plot_boxes(table: pd.DataFrame, explained: Sequence[str], *, without: Sequence[str] = ("background",)) -> Figure:
    """For each explained class, boxes of its mass in every structure over patients, sorted by median.

    Boxes reach over the quartiles, whiskers 1.5 times their distance farther; circles are patients beyond. The class
    itself is green. Structures `without` which the figure is drawn, and says so, would push all others to the left.
    The table is of `read_dependencies`.
    """
    known = explained_in(table)
    unknown = [name for name in explained if name not in known]
    if unknown or not explained:
        raise ValueError(f"explained must be among {', '.join(known)}; got {', '.join(unknown) or 'none'}.")
    values, order, panels = masses(table), structures(table), list(dict.fromkeys(explained))
    gone = [name for name in order if name in without]
    size = (4.6 * len(panels), 1.4 + 0.27 * (len(order) - len(gone)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], panels, strict=True):
        shares = 100 * pd.DataFrame(values[:, known.index(name)], columns=order).drop(columns=gone)  # a row a patient
        sort = shares.median().sort_values(kind="stable", na_position="first").index
        style: Any = {"medianprops": {"color": "black"}, "flierprops": {"markersize": 3.5}, "patch_artist": True}
        boxes = ax.boxplot([shares[s].dropna() for s in sort], orientation="horizontal", widths=0.7, **style)
        for box, structure in zip(boxes["boxes"], sort, strict=True):
            box.set_facecolor(OKABE_ITO["green"] if structure == name else "#BBD6E8")
        ax.set_yticks(range(1, len(sort) + 1), [str(s).replace("_", " ") for s in sort])
        ax.set(xlabel=f"{MASS}, %", title=name.replace("_", " "))
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    lacking = f" ({', '.join(gone).replace('_', ' ')} not drawn)" if gone else ""
    return _entitle(figure, f"Where maps lie in {len(table)} patients{lacking}")


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
    return _entitle(figure, title or "The map of a class lies in others: its strongest arrows")


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

    The table is of `lesion_table`, its structures `by` `distance` or `tissue`, the `part` of maps one of `PART_NAMES`.
    """
    rows: Any = table[(table["by"] == by) & (table["part"] == part)]
    if rows.empty:
        raise ValueError(f"The table must have rows by {by!r} of part {part!r}, got none; see lesion_table.")
    order = list(dict.fromkeys(rows.dropna(subset=["mass"])["structure"]))
    shares = rows.pivot_table("mass", ["group", "subject", "lesion"], "structure", dropna=False).reindex(columns=order)
    shares = shares.dropna(how="all").sort_values(["group", order[0]], ascending=[False, False])
    figure, ax = plt.subplots(figsize=(10, 1.8 + 0.24 * len(shares)), layout="constrained")
    colours: Any = [REGION_COLOURS.get(name, f"C{n}") for n, name in enumerate(order)]
    style: Any = {"stacked": True, "width": 0.8, "edgecolor": "0.4", "lw": 0.3, "legend": False}
    (100 * shares).plot.barh(ax=ax, color=colours, **style)
    one = len({subject for _, subject, _ in shares.index}) == 1
    called = [f"{group} {lesion}" if one else f"{group} {subject} {lesion}" for group, subject, lesion in shares.index]
    ax.set_yticks(range(len(shares)), called)
    ax.set_ylim(len(shares) - 0.4, -0.6)
    ax.set(xlabel=f"{MASS}, %, {PART_NAMES[part]}", ylabel="", xlim=(0, max(100, 100 * shares.sum(axis=1).max())))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=10)
    return _entitle(figure, f"Where the map of each lesion lies, by {by}")


# What maps are worth: boxes for each method and group, curves, and who is ahead.


def plot_measures(measures: pd.DataFrame) -> Figure:
    """One panel a measure without unit: for each method a box and the maps themselves, for each group of lesions."""
    panels = []
    for row in MEASURES.values():
        its, draw = measures[measures["measure"] == row.name], {"box": _draw_box, "bar": _draw_share}.get(row.drawn)
        if len(its) and draw:
            panels.append((its, f"{row.title} ({row.better} is better)" if row.better else row.title, "", draw))
    return _draw_by_method(panels, "What the maps are worth, lesion by lesion")


def plot_peaks(measures: pd.DataFrame) -> Figure:
    """One panel for each method and unit: the largest and smallest value of each modality, by group of lesions.

    Methods have different units and scales, so each has its own axis; compare groups within a panel.
    """
    panels = []
    for name, part in _split_by_method(measures):
        # not the smallest value of what is nowhere negative
        peaks: Any = _drawn_as("peak", part).groupby("measure").filter(lambda its: its["value"].ne(0).any())
        panels.append((peaks.assign(method=peaks["measure"].map(_extreme)), name, part["unit"].max(), _draw_box))
    return _draw_by_method(panels, "The largest and smallest value of each map")


def plot_balance(measures: pd.DataFrame) -> Figure:
    """Sign balance from the lesion outwards, a panel a method: each lesion thin, the mean of each group thick.

    1 where the first modality's map is positive everywhere, -1 where it is negative.
    """
    parts = _split_by_method(_drawn_as("balance", measures))
    places = list(dict.fromkeys(column for _, part in parts for column in part["measure"]))
    called = [column.removeprefix("balance_") for column in places]
    figure, axes = _make_panels(len(parts), width=4.2)
    for ax, (name, part) in zip(axes, parts, strict=False):
        for group in _groups_in(part):
            its = part[part["group"] == group]
            wide = its.pivot(index=["subject", "lesion_id"], columns="measure", values="value").reindex(columns=places)
            ax.plot(called, wide.to_numpy().T, color=GROUP_COLOURS[group], lw=0.6, alpha=0.5)
            style = {"lw": 3, "marker": "o", "markeredgecolor": "0.3", "label": f"{group} ({len(wide)})"}
            ax.plot(called, wide.mean().to_numpy(), color=GROUP_COLOURS[group], **style)
        ax.axhline(0, color="0.6", zorder=0)
        ax.set_xticks(range(len(called)), [w if w == "inside" else f"{w} mm" for w in called])
        ax.set_title(fill(name, 36), fontsize=11)
        ax.set(ylabel="sign balance, -1 to 1", ylim=(-1.05, 1.75), yticks=(-1, -0.5, 0, 0.5, 1))
        ax.legend(fontsize=10, frameon=False, loc="upper center", ncols=2)
    return _entitle(figure, "Positive in the lesion, negative around it?")


def plot_faithfulness(curves: pd.DataFrame) -> Figure:
    """Scores after removal, the mean over lesions of each method: ROAD, most and least relevant first, and deletion."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for n, (name, part) in enumerate(_split_by_method(curves)):
        style = line_style(n)
        del style["linestyle"]
        style |= {"markerfacecolor": "white"} if n >= len(LINE_COLOURS) else {}  # colours start again
        for order, dash, label in (("morf", "-", name), ("lerf", "--", None)):
            steps = part[part["curve"] == order]
            steps = steps.assign(step=steps.groupby(["subject", "lesion"]).cumcount())
            means = steps[steps["step"] > 0].groupby("step")[["fraction", "score"]].mean()
            left.plot(100 * means["fraction"], means["score"], ls=dash, label=label, **style)
        lesions = part[part["curve"] == "deletion"].groupby(["subject", "lesion"])
        deleted = [its.iloc[1:][["voxels", "score"]].to_numpy().T for _, its in lesions]
        for voxels, scores in deleted:
            right.plot(voxels, scores, color=style["color"], lw=0.5, alpha=0.4)
        # the mean at voxels that all curves reach, evenly apart on the logarithmic axis
        at = np.geomspace(1, min(voxels[-1] for voxels, _ in deleted), 24)
        right.plot(at, np.mean([np.interp(np.log(at), np.log(v), s) for v, s in deleted], axis=0), **style, lw=2.5)
    left.set(xlabel="removed, % of the region", title="ROAD; full: most relevant first, dashed: least")
    right.set(xlabel="voxels deleted, most relevant first", title="deletion; each lesion thin")
    for ax in (left, right):
        ax.set(xscale="log", ylabel=SCORE, ylim=(-0.03, 1.03))
    left.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    return _entitle(figure, "Does the score follow the map? Mean over lesions")


def plot_ranking(ranking: pd.DataFrame) -> Figure:
    """One panel for each network and measure: each method's mean and its bootstrap interval, the best at the top."""
    parts: list[Any] = [part for _, part in ranking.groupby(["network", "measure"], sort=False)]
    figure, axes = _make_panels(len(parts), width=4.2, height=0.9 + 0.45 * max(len(part) for part in parts))
    for ax, part in zip(axes, parts, strict=False):
        down = np.arange(len(part))[::-1]
        ax.hlines(down, part["low"], part["high"], color=LINE_COLOURS[0], lw=2)
        ax.plot(part["mean"], down, "o", color=LINE_COLOURS[0])
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


Draw: TypeAlias = Callable[[Axes, np.ndarray, float, float, str], None]


def _draw_by_method(panels: Sequence[tuple[Any, str, str, Draw]], title: str) -> Figure:
    """Panels of rows, a title, a unit and what draws the values of each method and group."""
    if not panels:
        raise ValueError("There must be a measure to plot, the table has none.")
    groups = _groups_in(pd.concat([part for part, *_ in panels]))
    most = max(len(_split_by_method(part)) for part, *_ in panels)
    figure, axes = _make_panels(len(panels), width=max(3.3, 0.26 * most * len(groups) + 1.1))
    for ax, (part, name, unit, draw) in zip(axes, panels, strict=False):
        methods = _split_by_method(part)
        for n, (_, its) in enumerate(methods):
            for m, group in enumerate(groups):
                at = n + (m - (len(groups) - 1) / 2) * 0.8 / len(groups)
                values = its.loc[its["group"] == group, "value"].dropna().to_numpy()
                if len(values):
                    draw(ax, values, at, 0.6 / len(groups), GROUP_COLOURS[group])
        labels = [",\n".join(fill(words, 12) for words in method.split(", ")) for method, _ in methods]
        ax.set_xticks(range(len(methods)), labels)
        ax.set_xlim(-0.6, len(methods) - 0.4)
        ax.set_title(name, fontsize=11)
        ax.set_ylabel(fill(unit, 24))
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=6, label=g) for g in groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False)
    return _entitle(figure, title)


def _draw_box(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A box of quartiles, whiskers to 1.5 times their distance, and every value as a point."""
    style = {"boxprops": {"facecolor": colour, "alpha": 0.6}, "medianprops": {"color": "black"}}
    ax.boxplot(values, positions=[at], widths=width, patch_artist=True, showfliers=False, manage_ticks=False, **style)
    aside = np.linspace(-0.25, 0.25, len(values)) * width if len(values) > 1 else np.zeros(1)
    ax.plot(at + aside, values, "o", color=colour, markeredgecolor="0.15", markeredgewidth=0.6, markersize=3.5)


def _draw_share(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A bar as high as the mean: quartiles of what is 0 or 1 say little."""
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


def _groups_in(table: Any) -> list[str]:
    """The groups that there are, in their order."""
    return [group for group in GROUP_COLOURS if (table["group"] == group).any()]


def _drawn_as(how: str, measures: Any) -> Any:
    """The rows of the measures that are drawn in this way."""
    rows = {name: measure_of(name) for name in measures["measure"].unique()}
    return measures[measures["measure"].isin([name for name, row in rows.items() if row and row.drawn == how])]


def _extreme(measure: str) -> str:
    """`flair_max` -> `FLAIR max`, `all_min` -> `min`."""
    channel, _, end = measure.rpartition("_")
    return end if channel == "all" else f"{label_of(channel)} {end}"
