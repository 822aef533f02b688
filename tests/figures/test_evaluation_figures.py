"""Pictures of an evaluation: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ies_helpers.figures.charts import plot_balance, plot_faithfulness, plot_measures, plot_peaks, plot_ranking
from ies_helpers.figures.slices import GROUP_COLOURS
from ies_helpers.measures.evaluation import rank_methods
from tests.measures.test_evaluation import NAN, table


def titled(figure: Figure, start: str) -> Axes:
    return next(ax for ax in figure.axes if ax.get_title().startswith(start))


def points(ax: Axes) -> dict[str, list[float]]:
    """Heights of the single values by colour of their group."""
    found: dict[str, list[float]] = {}
    for line in ax.lines:
        if line.get_marker() == "o":
            found.setdefault(to_hex(str(line.get_color())).upper(), []).extend(np.asarray(line.get_ydata()).tolist())
    return found


def test_each_measure_has_a_panel_with_every_value_in_its_groups_colour() -> None:
    measures = pd.concat([table({"a": [1.0, 2.0, 4.0, NAN], "b": [5.0] * 4}), table({"a": [0.5]}, "complexity")])
    figure = plot_measures(measures)
    panels = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert panels == ["energy (higher is better)", "complexity (lower is better)"]
    energy = titled(figure, "energy")
    assert points(energy) == {GROUP_COLOURS["TP"]: [1.0, 4.0, 5.0, 5.0], GROUP_COLOURS["FN"]: [2.0, 5.0, 5.0]}
    boxes = [patch.get_path().vertices[:, 1] for patch in energy.patches]
    assert [(float(b.min()), float(b.max())) for b in boxes] == [(1.75, 3.25), (2, 2), (5, 5), (5, 5)]  # quartiles
    assert [t.get_text() for t in energy.get_xticklabels()] == ["a", "b"]


def test_pointing_is_a_share_not_a_box() -> None:
    ax = titled(plot_measures(table({"m": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]}, "pointing")), "pointing")
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([2 / 3, 2 / 3])
    assert points(ax) == {}


def test_networks_are_named_where_there_are_several() -> None:
    both = pd.concat([table({"a": [1.0]}), table({"a": [1.0]}, network="nnunet")])
    ax = titled(plot_measures(both), "energy")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["unet,\na", "nnunet,\na"]


def test_a_measure_to_plot_is_needed() -> None:
    with pytest.raises(ValueError, match="There must be a measure to plot"):
        plot_measures(table({"a": [1.0]}, "focus"))


def test_peaks_have_a_panel_a_method_with_its_unit_and_no_place_for_what_is_never_negative() -> None:
    cam = pd.concat([table({"cam": [3.0]}, "all_max"), table({"cam": [0.0]}, "all_min")]).assign(unit="arbitrary")
    grad = pd.concat([table({"g": [2.0]}, "flair_max"), table({"g": [-1.0]}, "t1_min")]).assign(unit="logit")
    figure = plot_peaks(pd.concat([cam, grad]))
    labels = {ax.get_title(): [t.get_text() for t in ax.get_xticklabels()] for ax in figure.axes}
    assert labels["cam"] == ["max"]
    assert labels["g"] == ["FLAIR max", "T1 min"]
    assert (titled(figure, "cam").get_ylabel(), titled(figure, "g").get_ylabel()) == ("arbitrary", "logit")
    assert points(titled(figure, "g"))[GROUP_COLOURS["TP"]] == [2.0, -1.0]


def test_the_sign_balance_is_drawn_lesion_by_lesion_with_the_mean_of_what_exists() -> None:
    near, far = (
        table({"m": [1.0, 0.5, 0.8, 0.7]}, "balance_inside"),
        table({"m": [-0.4, NAN, -0.2, -0.6]}, "balance_0-2"),
    )
    ax = titled(plot_balance(pd.concat([near, far])), "m")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["inside", "0-2 mm"]
    thick = {line.get_label(): line.get_ydata() for line in ax.lines if line.get_linewidth() == 3}
    assert thick["TP (2)"] == pytest.approx([0.9, -0.3])
    assert thick["FN (2)"] == pytest.approx([0.6, -0.6])
    assert sum(line.get_linewidth() < 1 for line in ax.lines) == 4


def test_a_ranking_shows_means_and_intervals_best_on_top() -> None:
    ranking = rank_methods(table({"a": [0.2, 0.4], "b": [0.5, 0.7]}))
    ax = titled(plot_ranking(ranking), "energy")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]
    assert ax.get_yticks().tolist() == [1, 0]
    assert ax.lines[0].get_xdata() == pytest.approx([0.6, 0.3])
    spans = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert spans == [pytest.approx(pair) for pair in ranking[["low", "high"]].to_numpy().tolist()]


def test_a_ranking_without_common_lesions_says_so() -> None:
    ax = titled(plot_ranking(rank_methods(table({"a": [0.4, NAN], "b": [NAN, 0.6]}))), "energy")
    assert [t.get_text() for t in ax.texts] == ["no lesion that all explained"]


def curve(name: str, lesion: int, voxels: list[int], scores: list[float]) -> pd.DataFrame:
    told = {"subject": "a", "network": "unet", "lesion": lesion, "group": "TP", "method": "m", "curve": name}
    rows = {"voxels": voxels, "fraction": [v / 1000 for v in voxels], "score": scores}
    return pd.DataFrame(rows).assign(**told)


def test_faithfulness_curves_are_means_over_lesions() -> None:
    curves = [curve("morf", n, [0, 1, 10], [0.9, 0.5 + n / 10, 0.1]) for n in (1, 2)]
    curves += [curve("lerf", n, [0, 1, 10], [0.9, 0.9, 0.8]) for n in (1, 2)]
    curves += [curve("deletion", 1, [0, 1, 100], [0.9, 0.8, 0.0]), curve("deletion", 2, [0, 1, 10], [0.9, 0.4, 0.2])]
    left, right = plot_faithfulness(pd.concat(curves)).axes
    morf, lerf = left.lines
    assert morf.get_xdata() == pytest.approx([0.1, 1.0])
    assert morf.get_ydata() == pytest.approx([0.65, 0.1])
    assert (lerf.get_linestyle(), lerf.get_ydata().tolist()) == ("--", pytest.approx([0.9, 0.8]))
    *single, mean = right.lines
    assert [line.get_ydata().tolist() for line in single] == [[0.8, 0.0], [0.4, 0.2]]
    assert (mean.get_xdata()[0], mean.get_xdata()[-1]) == pytest.approx((1, 10))
    assert (mean.get_ydata()[0], mean.get_ydata()[-1]) == pytest.approx(
        (0.6, 0.3)
    )  # 0.4 halfway to 100 voxels, and 0.2
