"""The dose-response figure: every lesion's line, the mean of each network, the share that is seen."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers.figures.charts import plot_dose

CONTRASTS = [0.0, 1.0, 2.0]
SCORES = {("unet", 5): [0.0, 0.2, 0.8], ("unet", 9): [0.1, 0.6, 1.0], ("nnunet", 5): [0.3, 0.5, 0.7]}


def table() -> pd.DataFrame:
    """Two lesions of one network, one of another; seen above 0.45; the rows shuffled."""
    rows = [
        ("toy", network, i, 1, 1, 60.0, contrast, score, score > 0.45)
        for (network, i), scores in SCORES.items()
        for contrast, score in zip(CONTRASTS, scores, strict=True)
    ]
    columns = ["subject", "network", "i", "j", "k", "size_mm3", "contrast", "score", "seen"]
    return pd.DataFrame(rows, columns=columns)


def curves(ax) -> list[list[float]]:
    return [list(np.round(line.get_ydata(), 6)) for line in ax.lines]


def test_thin_lines_are_lesions_and_thick_ones_their_means() -> None:
    upper, lower = plot_dose(table()).axes
    thin = [line for line in upper.lines if line.get_linewidth() < 1]
    thick = [line for line in upper.lines if line.get_linewidth() > 2]
    assert [list(line.get_ydata()) for line in thin] == list(SCORES.values())
    assert [list(np.round(line.get_ydata(), 6)) for line in thick] == [[0.05, 0.4, 0.9], [0.3, 0.5, 0.7]]
    assert all(list(line.get_xdata()) == CONTRASTS for line in upper.lines)
    assert curves(lower) == [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["unet, mean of 2", "nnunet, mean of 1"]


def test_a_network_has_one_colour_and_another_a_different_one() -> None:
    upper, lower = plot_dose(table()).axes
    colours = [line.get_color() for line in upper.lines]
    assert colours[0] == colours[1] == colours[2] == lower.lines[0].get_color()
    assert colours[3] == colours[4] == lower.lines[1].get_color() != colours[0]


def test_contrasts_in_any_order_are_drawn_from_low_to_high() -> None:
    upper, _ = plot_dose(table().iloc[::-1]).axes
    assert all(list(line.get_xdata()) == CONTRASTS for line in upper.lines)


def test_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="must be that of dose_response, it has no score, seen"):
        plot_dose(table().drop(columns=["seen", "score"]))
    with pytest.raises(ValueError, match="must be that of dose_response, it has no rows"):
        plot_dose(table().iloc[:0])
