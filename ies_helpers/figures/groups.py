"""Groups of lesions, drawn: every lesion of every subject, ROC curves with their bands, calibration."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ies_helpers.figures.panels import GROUP_COLOURS, LABEL
from ies_helpers.measures.discrimination import GRID, Roc
from ies_helpers.measures.groups import ORDER, valued

MARKERS = "osD^vP<X>*hp"
"""One a subject; a thirteenth subject starts again."""

LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", (0, (5, 1, 1, 1, 1, 1))))
"""A colour, told apart with every common colour blindness (Okabe and Ito), and a dash a curve."""


def plot_groups(
    table: pd.DataFrame, measures: Mapping[str, str] | Sequence[str], *, unit: str = LABEL, title: str | None = None
) -> Figure:
    """One panel a measure: a box for each group, and every lesion, each subject a column and a marker of its own.

    Boxes are of all lesions of a group: quartiles, median, whiskers to the last lesion within 1.5 times the box. The
    columns of subjects have the same order in each group, so that one can look at one subject in all of them.

    Args:
        table: a row a lesion: `subject`, `group` and the measures.
        measures: columns, one panel each; a mapping gives their titles, such as `{"flair_max": "FLAIR"}`.
        unit: of all measures, on the axis.
        title: above all.

    Raises:
        ValueError: for no measure, lacking columns, or a measure without values.
    """
    named = dict(measures) if isinstance(measures, Mapping) else {name: name for name in measures}
    parts = {name: valued(table, name) for name in named}
    empty = [name for name, part in parts.items() if set(part["group"]).isdisjoint(ORDER)]
    if not named or empty:
        which = f" of {empty[0]}" if empty else ""
        raise ValueError(f"There must be values of TP, FP, FN or TN to plot, got none{which}.")
    subjects = list(dict.fromkeys(table.loc[table["group"].isin(ORDER), "subject"]))
    width = max(9.0, 5.5 * len(named))
    figure, axes = plt.subplots(1, len(named), figsize=(width, 5.2), squeeze=False, layout="constrained")
    for ax, (name, part) in zip(axes[0], parts.items(), strict=True):
        _panel(ax, part, name, subjects)
        ax.set_title(named[name], fontsize=13)
    axes[0][0].set_ylabel(unit, fontsize=12)
    style = {"color": "none", "markeredgecolor": "black", "ls": "none", "markersize": 7}
    handles = [Line2D([], [], marker=m, label=str(s), **style) for s, m in zip(subjects, cycle(MARKERS), strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), fontsize=11, frameon=False)
    figure.suptitle(title or "Every lesion by group, a column and a marker for each subject", fontsize=13)
    return figure


def _panel(ax: Axes, part: pd.DataFrame, name: str, subjects: list[Any]) -> None:
    groups = [group for group in ORDER if group in set(part["group"])]
    for at, group in enumerate(groups):
        rows: Any = part[part["group"] == group]
        line = {"color": "black", "linewidth": 1.4}
        box: Any = {"boxprops": line | {"facecolor": "0.93"}, "medianprops": line | {"linewidth": 3}}
        ax.boxplot(
            rows[name].to_numpy(), positions=[at], widths=0.86, showfliers=False, patch_artist=True, **box, zorder=1
        )
        for n, (subject, marker) in enumerate(zip(subjects, cycle(MARKERS), strict=False)):
            values = rows.loc[rows["subject"] == subject, name].to_numpy()
            x = at + 0.76 * ((n + 0.5) / len(subjects) - 0.5)
            look: Any = {"color": GROUP_COLOURS[group], "markeredgecolor": "black", "markeredgewidth": 0.5}
            ax.plot(np.full(len(values), x), values, marker, markersize=6, alpha=0.85, **look)
    labels = [f"{group}\n{(part['group'] == group).sum()} lesions" for group in groups]
    ax.set_xticks(range(len(groups)), labels, fontsize=12)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.tick_params(axis="y", labelsize=11)
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)


def plot_roc(curves: Mapping[str, Roc], *, title: str | None = None) -> Figure:
    """ROC curves of "this lesion is false", each with its AUC; a band, of the first curve alone, where it has one.

    Args:
        curves: name -> result of `roc`.
        title: above.
    """
    if not curves:
        raise ValueError("There must be a curve to plot, got none.")
    figure, ax = plt.subplots(figsize=(6.6, 7.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="chance: 0.50")
    for n, ((name, curve), (colour, dash)) in enumerate(zip(curves.items(), cycle(LINES), strict=False)):
        low, high = curve.interval
        told = f"{curve.auc:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")
        ax.plot(curve.alarms, curve.caught, color=colour, ls=dash, lw=2.4, label=f"{name}: {told}")
        if n == 0 and np.isfinite(curve.band).all():
            ax.fill_between(GRID, *curve.band, color=colour, alpha=0.15, lw=0)
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

    Args:
        tables: name -> result of `calibration`.
        title: above.
    """
    if not tables:
        raise ValueError("There must be a table to plot, got none.")
    figure, ax = plt.subplots(figsize=(6.6, 7.0), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1)
    for n, ((name, told), (colour, dash)) in enumerate(zip(tables.items(), cycle(LINES), strict=False)):
        bars = np.abs(told[["low", "high"]].to_numpy().T - told["observed"].to_numpy())
        label = f"{name}: Brier {told['brier'].iloc[0]:.3f}, share alone {told['brier_of_share'].iloc[0]:.3f}"
        style = {"color": colour, "marker": MARKERS[n % len(MARKERS)], "markersize": 8, "capsize": 4, "lw": 1.8}
        ax.errorbar(told["predicted"], told["observed"], yerr=bars, ls=dash, label=label, **style)
    ax.set_xlabel("probability told that the lesion is false, mean of a bin", fontsize=12)
    ax.set_ylabel("share that is false", fontsize=12)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    figure.legend(loc="outside lower center", fontsize=12, frameon=False)
    figure.suptitle(title or "Probability told, and what happened", fontsize=13)
    return figure
