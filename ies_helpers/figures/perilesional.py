"""Pictures of perilesional curves: the paper's Figure 3, and what its averages do not show."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ies_helpers.figures.folder import save_figure
from ies_helpers.measures.perilesional import average_curves, median_distances, summarise_curves
from ies_helpers.subjects.saving import write_table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""One a network (Okabe and Ito), and again from the first."""

LINES = {"zero": "-", "mean": ":", "blurred": "--"}
"""One a fill."""


def plot_perilesional(curves: pd.DataFrame) -> Figure:
    """Three panels: lesions seen, mean score and standard deviation (as in Figure 3), and every lesion's own curve.

    Around the mean of the first fill, the band is the standard deviation over lesions, thin lines are the 95 % interval
    of the mean over subjects, where there are several. Averages are drawn where most lesions have a value: with one
    spacing everywhere, with several up to the shortest curve's end.

    Args:
        curves: tidy, as `ies perilesional` writes them; several networks, fills and subjects at will.

    Raises:
        ValueError: for an unknown fill, or no curve.
    """
    unknown = [fill for fill in dict.fromkeys(curves["fill"]) if fill not in LINES]
    if unknown:
        raise ValueError(f"A fill must be one of {', '.join(LINES)}, got {unknown[0]!r}; rename it, or leave it out.")
    averages = average_curves(curves)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(dict.fromkeys(curves["network"]), cycle(COLOURS), strict=False))
    for key, part in averages.groupby(["network", "fill"], sort=False):
        names: Any = key
        network, fill = names
        style = {"color": colours[network], "ls": LINES[fill], "label": f"{network}, {fill} fill"}
        drawn: Any = part[part["lesions"] == part["lesions"].max()]
        left.step(drawn["distance_mm"], drawn["seen"], where="post", lw=2, **style)
        middle.plot(drawn["distance_mm"], drawn["mean"], lw=2, **style)
        if fill == averages["fill"].iloc[0]:
            _spread(middle, drawn, style)
    for key, curve in curves.groupby(["subject", "lesion", "network", "fill"], sort=False):
        names: Any = key
        _, _, network, fill = names
        ordered = curve.sort_values("distance_mm")
        style = {"color": colours[network], "ls": LINES[fill]}
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


def _spread(ax: Axes, average: pd.DataFrame, style: dict[str, Any]) -> None:
    """The standard deviation of lesions as a band, the interval of the mean over subjects as lines, where it is one."""
    at, spread = average["distance_mm"], average["sd"].fillna(0)
    ax.fill_between(at, average["mean"] - spread, average["mean"] + spread, color=style["color"], alpha=0.15, lw=0)
    for bound in ("low", "high"):
        if average[bound].notna().to_numpy().any():
            ax.plot(at, average[bound], color=style["color"], ls=style["ls"], lw=0.8)


def save_perilesional(out: Path, curves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write what a table of curves says: its lesions, medians and averages as tables, and the figure.

    Returns:
        `perilesional_summary.tsv` and `perilesional_medians.tsv`, see `summarise_curves` and `median_distances`.
    """
    summary = summarise_curves(curves)
    medians = median_distances(summary)
    write_table(out / "perilesional_summary.tsv", summary)
    write_table(out / "perilesional_medians.tsv", medians)
    write_table(out / "perilesional_average.tsv", average_curves(curves))
    save_figure(plot_perilesional(curves), out / "figures" / "perilesional.png")
    return summary, medians
