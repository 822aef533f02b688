"""Dose and response, drawn: the score of a lesion against its contrast."""

from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"))
"""A colour, told apart with every common colour blindness (Okabe and Ito), and a marker a network."""

NEEDED = {"subject", "network", "i", "j", "k", "size_mm3", "contrast", "score", "seen"}


def plot_dose(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Score against contrast: a thin line for each lesion, a thick one for their mean; below, the share that is seen.

    Args:
        table: rows of `dose_response`, of any number of networks, places and sizes, each at the same contrasts.
        title: above all.

    Raises:
        ValueError: for a table without its columns or rows.
    """
    if not set(table.columns) >= NEEDED or table.empty:
        lacking = ", ".join(sorted(NEEDED - set(table.columns))) or "rows"
        raise ValueError(f"A table must be that of dose_response, it has no {lacking}.")
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7, 5.6), sharex=True, height_ratios=(3, 1.2), layout="constrained"
    )
    lesion = ["subject", "i", "j", "k", "size_mm3"]
    for (network, rows), (colour, marker) in zip(table.groupby("network", sort=False), cycle(LINES), strict=False):
        for _, one in rows.sort_values("contrast").groupby(lesion):
            upper.plot(one["contrast"], one["score"], color=colour, lw=0.8, alpha=0.5)
        mean: Any = rows.groupby("contrast", as_index=False)[["score", "seen"]].mean()
        label = f"{network}, mean of {rows.groupby(lesion).ngroups}"
        upper.plot(mean["contrast"], mean["score"], color=colour, marker=marker, lw=2.5, label=label)
        lower.plot(mean["contrast"], mean["seen"], color=colour, marker=marker, lw=1.5)
    upper.set(ylabel="mean probability over the lesion", ylim=(-0.03, 1.03))
    lower.set(ylabel="share seen", ylim=(-0.1, 1.1), xlabel="contrast in FLAIR (mean over the lesion, z-scored units)")
    upper.legend(frameon=False, loc="upper left")
    figure.suptitle(title)
    return figure
