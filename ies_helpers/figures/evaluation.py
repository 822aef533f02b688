"""What maps are worth, drawn: boxes for each method and group, curves, and who is ahead."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ies_helpers.figures.curves import LINES, SCORE
from ies_helpers.figures.panels import GROUP_COLOURS
from ies_helpers.measures.ranking import RANKED
from ies_helpers.measures.tables import TITLES

ENDS = ("_max", "_min")
"""Of the names of peaks."""

BALANCE = "balance_"
"""Of the names of sign balances."""

WIDE = 10.2
"""Inches across a row of panels beyond which it breaks: what is wider is shown smaller, its text too."""


def plot_measures(measures: pd.DataFrame) -> Figure:
    """One panel a measure without unit: for each method a box and the maps themselves, for each group of lesions.

    Args:
        measures: tidy, as `evaluate_maps` gives it.

    Raises:
        ValueError: for a table without such measures.
    """
    found = [measure for measure in RANKED if measure in set(measures["measure"])]
    panels = [(measures[measures["measure"] == m], f"{TITLES[m]} ({RANKED[m]} is better)", "") for m in found]
    return _boxes(panels, "What the maps are worth, lesion by lesion")


def plot_peaks(measures: pd.DataFrame) -> Figure:
    """One panel for each method and unit: the largest and smallest value of each modality, by group of lesions.

    Methods have different units and scales, so each has its own axis; compare groups within a panel.
    """
    panels = []
    for network, method in _methods(measures):
        part = _of(measures, network, method)
        peaks = part[part["measure"].str.endswith(ENDS)]
        some = peaks.groupby("measure")["value"].transform(lambda values: values.ne(0).any())
        peaks = peaks[some.to_numpy(dtype=bool)]  # not the smallest value of what is nowhere negative
        panels.append(
            (peaks.assign(method=_extremes(peaks["measure"])), _called(measures, network, method), part["unit"].max())
        )
    return _boxes(panels, "The largest and smallest value of each map")


def plot_balance(measures: pd.DataFrame) -> Figure:
    """Sign balance from the lesion outwards, a panel a method: each lesion thin, the mean of each group thick.

    1 where the first modality's map is positive everywhere, -1 where it is negative.
    """
    rows: Any = measures[measures["measure"].str.startswith(BALANCE)]
    where = list(dict.fromkeys(rows["measure"].str.removeprefix(BALANCE)))
    methods = _methods(rows)
    figure, axes = _panels(len(methods), width=4.2)
    for ax, (network, method) in zip(axes, methods, strict=False):
        part = _of(rows, network, method)
        for group, its in _by_group(part):
            wide = its.pivot(index=["subject", "lesion_id"], columns="measure", values="value")
            curves = wide.reindex(columns=[BALANCE + w for w in where]).to_numpy()
            ax.plot(range(len(where)), curves.T, color=GROUP_COLOURS[group], lw=0.6, alpha=0.5)
            style = {"lw": 3, "marker": "o", "markeredgecolor": "0.3", "label": f"{group} ({len(curves)})"}
            ax.plot(range(len(where)), pd.DataFrame(curves).mean().to_numpy(), color=GROUP_COLOURS[group], **style)
        ax.axhline(0, color="0.6", zorder=0)
        ax.set_xticks(range(len(where)), [w if w == "inside" else f"{w} mm" for w in where])
        ax.set_title(fill(_called(measures, network, method), 36), fontsize=11)
        ax.set(ylabel="sign balance, -1 to 1", ylim=(-1.05, 1.75), yticks=(-1, -0.5, 0, 0.5, 1))
        ax.legend(fontsize=10, frameon=False, loc="upper center", ncols=2)
    figure.suptitle("Positive in the lesion, negative around it?", fontsize=13)
    return figure


def plot_faithfulness(curves: pd.DataFrame) -> Figure:
    """Scores after removal, the mean over lesions of each method: ROAD, most and least relevant first, and deletion.

    Args:
        curves: tidy, as `evaluate_maps` gives it; each lesion's deletion curve is thin.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for n, (network, method) in enumerate(_methods(curves)):
        part = _of(curves, network, method)
        colour, marker = LINES[n % len(LINES)]
        style = {"color": colour, "marker": marker, "markersize": 5}
        style |= {"markerfacecolor": "white"} if n >= len(LINES) else {}  # colours start again
        for name, line in (("morf", "-"), ("lerf", "--")):
            steps = part[part["curve"] == name]
            steps = steps.assign(step=steps.groupby(["subject", "lesion"]).cumcount())
            means = steps[steps["step"] > 0].groupby("step")[["fraction", "score"]].mean()
            label = _called(curves, network, method) if name == "morf" else None
            left.plot(100 * means["fraction"], means["score"], ls=line, label=label, **style)
        deleted = [c for _, c in part[part["curve"] == "deletion"].groupby(["subject", "lesion"])]
        for one in deleted:
            right.plot(one["voxels"].iloc[1:], one["score"].iloc[1:], color=colour, lw=0.5, alpha=0.4)
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
    figure, axes = _panels(len(parts), width=4.2, height=0.9 + 0.45 * max(len(part) for part in parts))
    for ax, part in zip(axes, parts, strict=False):
        down = np.arange(len(part))[::-1]
        ax.hlines(down, part["low"].to_numpy(dtype=float), part["high"].to_numpy(dtype=float), color="#0072B2", lw=2)
        ax.plot(part["mean"].to_numpy(dtype=float), down, "o", color="#0072B2")
        ax.set_yticks(down, [fill(method, 24) for method in part["method"]])
        ax.set_ylim(-0.6, len(part) - 0.4)
        first: Any = part.iloc[0]
        several = len(set(ranking["network"])) > 1
        network = f"{first['network']}: " if several else ""
        ax.set_title(f"{network}{TITLES[first['measure']]} ({first['better']} is better)", fontsize=11)
        ax.grid(axis="x", alpha=0.3)
        if not int(first["lesions"]):
            ax.text(0.5, 0.5, "no lesion that all explained", transform=ax.transAxes, ha="center", va="center")
    lesions = sorted({int(n) for n in ranking["lesions"]})
    told = f"{lesions[0]}" if len(lesions) == 1 else f"{lesions[0]} to {lesions[-1]}"
    figure.suptitle(f"Means over {told} lesions that every method explained, 95 % bootstrap intervals", fontsize=12)
    return figure


def _boxes(panels: Sequence[tuple[Any, str, str]], title: str) -> Figure:
    if not panels:
        raise ValueError("There must be a measure to plot, the table has none.")
    groups = [group for group, _ in _by_group(pd.concat([part for part, _, _ in panels]))]
    most = max(len(_methods(part)) for part, _, _ in panels)
    figure, axes = _panels(len(panels), width=max(3.3, 0.26 * most * len(groups) + 1.1))
    for ax, (part, name, unit) in zip(axes, panels, strict=False):
        methods = _methods(part)
        for n, (network, method) in enumerate(methods):
            its = _of(part, network, method)
            for m, group in enumerate(groups):
                offset = (m - (len(groups) - 1) / 2) * 0.8 / len(groups)
                values = its.loc[its["group"] == group, "value"].dropna().to_numpy()
                draw = _share if name.startswith(TITLES["pointing"]) else _box
                draw(ax, values, n + offset, 0.6 / len(groups), GROUP_COLOURS[group])
        names = [_called(part, network, method).split(", ") for network, method in methods]
        labels = [",\n".join(fill(words, 12) for words in name) for name in names]
        ax.set_xticks(range(len(methods)), labels)
        ax.set_xlim(-0.6, len(methods) - 0.4)
        ax.set_title(name, fontsize=11)
        ax.set_ylabel(fill(unit, 24))
    handles = [Line2D([], [], color=GROUP_COLOURS[g], lw=6, label=g) for g in groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False)
    figure.suptitle(title, fontsize=13)
    return figure


def _box(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A box of quartiles, whiskers to 1.5 times their distance, and every value as a point."""
    if not len(values):
        return
    style = {"boxprops": {"facecolor": colour, "alpha": 0.6}, "medianprops": {"color": "black"}}
    ax.boxplot(values, positions=[at], widths=width, patch_artist=True, showfliers=False, manage_ticks=False, **style)
    aside = np.linspace(-0.25, 0.25, len(values)) * width if len(values) > 1 else np.zeros(1)
    ax.plot(at + aside, values, "o", color=colour, markeredgecolor="0.15", markeredgewidth=0.6, markersize=3.5)


def _share(ax: Axes, values: np.ndarray, at: float, width: float, colour: str) -> None:
    """A bar as high as the mean: quartiles of what is 0 or 1 say little."""
    if len(values):
        ax.bar(at, values.mean(), width, color=colour, alpha=0.6, edgecolor="black")
        ax.set_ylim(0, 1.05)


def _panels(count: int, *, width: float, height: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    """`count` panels in rows no wider than `WIDE`, if one fits; what is left of the last row is empty."""
    columns = min(count, max(1, int(WIDE // width)))
    rows = -(-count // columns)
    size = (width * columns, height * rows + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in axes.ravel()[count:]:
        spare.set_axis_off()
    return figure, axes.ravel().tolist()


def _methods(table: Any) -> list[tuple[str, str]]:
    """Network and method, in the table's order."""
    return list(dict.fromkeys(zip(table["network"], table["method"], strict=True)))


def _called(table: Any, network: str, method: str) -> str:
    return method if table["network"].nunique() == 1 else f"{network}, {method}"


def _of(table: Any, network: str, method: str) -> Any:
    """The rows of one method."""
    return table[(table["network"] == network) & (table["method"] == method)]


def _by_group(table: Any) -> list[tuple[str, Any]]:
    """The rows of each group that there is, in the order of the groups."""
    return [(group, part) for group in GROUP_COLOURS if len(part := table[table["group"] == group])]


def _extremes(names: Any) -> Any:
    """`flair_max` -> `FLAIR max`, `all_min` -> `min`."""
    return names.str.replace("all_", "").str.replace("flair_", "FLAIR ").str.replace("t1_", "T1 ")


def _mean_curve(curves: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of curves at whole voxels that all of them reach, evenly apart on a logarithmic scale."""
    last = min(int(curve["voxels"].iloc[-1]) for curve in curves)
    at = np.geomspace(1, last, 24)
    heights = [np.interp(np.log(at), np.log(c["voxels"].iloc[1:]), c["score"].iloc[1:]) for c in curves]
    return at, np.mean(heights, axis=0)
