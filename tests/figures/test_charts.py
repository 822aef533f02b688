"""Plots of scores: what is drawn is what was measured, labelled and in its order."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers.figures.charts import LINES, SCORE, plot_curves, plot_randomisation, plot_road
from ies_helpers.measures.removal import Curve, Road
from ies_helpers.measures.sanity import AS_TRAINED, SHUFFLED


def result(fall: float) -> Road:
    """A lesion of 0.8 whose score falls by `fall` at each fraction."""
    morf = 0.8 - fall * np.arange(1, 4)
    return Road(np.array([0.001, 0.01, 0.1]), np.array([1, 10, 100]), 0.8, morf, np.full(3, 0.8), 0.0)


def curve(scores: list[float]) -> Curve:
    return Curve(np.array([0, 1, 10, 100]), np.array(scores), 0.0)


def table(values: list[float], names: tuple[str, ...] = ("model.2.conv", "model.1.submodule.0.conv")) -> pd.DataFrame:
    return pd.DataFrame({"layer": [AS_TRAINED, *names, SHUFFLED], "spearman": values, "ssim": np.flip(values)})


def test_road_draws_both_orders_and_half_their_difference_against_percent() -> None:
    figure = plot_road({"ours": result(0.1), "other": result(0.2)})
    left, right = figure.axes
    full, dashed = left.lines[:2]
    assert full.get_xdata() == pytest.approx([0.1, 1, 10])
    assert full.get_ydata() == pytest.approx([0.7, 0.6, 0.5])
    assert [dashed.get_linestyle(), full.get_linestyle()] == ["--", "-"]
    assert dashed.get_ydata() == pytest.approx([0.8] * 3)
    assert right.lines[1].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["ours: mean 0.10", "other: mean 0.20"]
    assert left.lines[-1].get_ydata() == pytest.approx([0.8] * 2)
    assert [left.get_xscale(), left.get_ylabel()] == ["log", SCORE]
    assert left.get_xlabel() == right.get_xlabel() == "removed, % of the region"


def test_curves_are_drawn_from_the_first_voxel_on_and_name_their_mean_height() -> None:
    figure = plot_curves({"ours": curve([0.9, 0.8, 0.4, 0.0])}, {"ours": curve([0.0, 0.0, 0.4, 0.8])})
    left, right = figure.axes
    assert left.lines[0].get_xdata().tolist() == [1, 10, 100]
    assert left.lines[0].get_ydata().tolist() == [0.8, 0.4, 0.0]
    assert right.lines[0].get_ydata().tolist() == [0.0, 0.4, 0.8]
    assert [ax.get_legend().get_texts()[0].get_text() for ax in (left, right)] == ["ours: 0.40", "ours: 0.40"]
    assert ["lower is better" in left.get_title(), "higher is better" in right.get_title()] == [True, True]
    assert len(plot_curves({"ours": curve([0.9, 0.8, 0.4, 0.0])}).axes) == 1


def test_randomisation_draws_every_layer_in_order_with_the_shuffled_map_as_a_level() -> None:
    figure = plot_randomisation({"ours": table([1.0, 0.5, np.nan, 0.01]), "edges": table([1.0, 1.0, 1.0, 0.02])})
    (ax,) = figure.axes
    assert ax.lines[0].get_ydata()[:2] == pytest.approx([1.0, 0.5])
    assert np.isnan(ax.lines[0].get_ydata()[2])
    assert ax.lines[1].get_ydata() == pytest.approx([0.01] * 2)
    assert ax.lines[1].get_linestyle() == ":"
    assert [t.get_text() for t in ax.get_xticklabels()] == [AS_TRAINED, "2", "1.0"]
    other = plot_randomisation({"ours": table([1.0, 0.5, 0.3, 0.01])}, measure="ssim").axes[0]
    assert other.lines[0].get_ydata() == pytest.approx([0.01, 0.3, 0.5])
    assert other.get_ylabel() == "structural similarity"


def test_more_maps_than_colours_are_still_told_apart() -> None:
    lines = plot_road({str(n): result(0.01 * n) for n in range(len(LINES) + 2)}).axes[1].lines[:-1]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(LINES) + 2


def test_what_cannot_be_drawn_is_refused() -> None:
    for plot in (plot_road, plot_curves, plot_randomisation):
        with pytest.raises(ValueError, match="something to plot, got none"):
            plot({})
    with pytest.raises(ValueError, match="measure must be one of spearman, spearman_abs, ssim, got 'peak'"):
        plot_randomisation({"ours": table([1.0, 0.5, 0.3, 0.0])}, measure="peak")
    with pytest.raises(ValueError, match="Tables must be of the same layers"):
        plot_randomisation({"a": table([1.0, 0.5, 0.3, 0.0]), "b": table([1.0, 0.5, 0.3, 0.0], ("x", "y"))})
