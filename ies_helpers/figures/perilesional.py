"""Pictures of perilesional curves: the paper's Figure 3, and what its averages do not show."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ies_helpers.measures.perilesional import average_curves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""One a network (Okabe and Ito)."""

LINES = {"zero": "-", "mean": ":", "blurred": "--"}
"""One a fill."""


def plot_perilesional(curves: pd.DataFrame) -> Figure:
    """Three panels: lesions seen, mean score and standard deviation (as in Figure 3), and every lesion's own curve.

    Args:
        curves: tidy, as `ies perilesional` writes them; several networks, fills and subjects at will.
    """
    averages = average_curves(curves)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(dict.fromkeys(curves["network"]), COLOURS, strict=False))
    for key, part in averages.groupby(["network", "fill"], sort=False):
        names: Any = key
        network, fill = names
        style = {"color": colours[network], "ls": LINES[str(fill)], "label": f"{network}, {fill} fill"}
        left.step(part["distance_mm"], part["seen"], where="post", lw=2, **style)
        middle.plot(part["distance_mm"], part["mean"], lw=2, **style)
        bounds = part["mean"] - part["sd"].fillna(0), part["mean"] + part["sd"].fillna(0)
        if fill == averages["fill"].iloc[0]:
            middle.fill_between(part["distance_mm"], *bounds, color=colours[network], alpha=0.15, lw=0)
    for key, curve in curves.groupby(["subject", "lesion", "network", "fill"], sort=False):
        names: Any = key
        _, _, network, fill = names
        ordered = curve.sort_values("distance_mm")
        right.plot(
            ordered["distance_mm"], ordered["score"], color=colours[network], ls=LINES[str(fill)], lw=0.8, alpha=0.6
        )
    lesions = max(averages["lesions"].tolist())
    left.set(title="lesions seen", ylabel=f"of {lesions}", ylim=(0, lesions * 1.05))
    middle.set(title="mean score and 1 standard deviation", ylabel="mean probability in the lesion", ylim=(0, 1.02))
    right.set(title="each lesion", ylabel="mean probability in the lesion", ylim=(0, 1.02))
    for ax in (left, middle, right):
        ax.set(xlabel="tissue shown around the lesion, mm")
        ax.grid(alpha=0.3)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(fontsize=10)
    return figure
