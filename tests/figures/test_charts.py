"""Charts: what is drawn is what was measured, labelled, in its order, and refused where there is nothing."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ies_helpers import plot_perilesional
from ies_helpers.figures.charts import (
    LINE_COLOURS,
    MARKERS,
    SCORE,
    plot_balance,
    plot_boxes,
    plot_calibration,
    plot_curves,
    plot_dose,
    plot_faithfulness,
    plot_graph,
    plot_groups,
    plot_lesion_structures,
    plot_matrix,
    plot_measures,
    plot_outliers,
    plot_peaks,
    plot_randomisation,
    plot_ranking,
    plot_refined,
    plot_retention,
    plot_road,
    plot_roc,
)
from ies_helpers.figures.slices import GROUP_COLOURS
from ies_helpers.measures.agg2exp import dependency_matrix, simulated_table, strongest_dependencies
from ies_helpers.measures.context import average_curves
from ies_helpers.measures.evaluation import rank_methods
from ies_helpers.measures.refine import calibration, roc
from ies_helpers.measures.sanity import AS_TRAINED
from ies_helpers.measures.uncertainty import RETAINED, retention_curve
from tests.tables import (
    CONTRASTS,
    NAN,
    PEAKS_OF_LESIONS,
    SCORES,
    curve_of,
    doses,
    hidden_tissue,
    judged_by_size,
    layers_table,
    mean_scores,
    peaks_of_lesions,
    road_that_falls,
    table,
)

# How scores fall and rise.


def test_road_draws_both_orders_and_half_their_difference_against_percent() -> None:
    figure = plot_road({"ours": road_that_falls(0.1), "other": road_that_falls(0.2)})
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
    figure = plot_curves({"ours": curve_of([0.9, 0.8, 0.4, 0.0])}, {"ours": curve_of([0.0, 0.0, 0.4, 0.8])})
    left, right = figure.axes
    assert left.lines[0].get_xdata().tolist() == [1, 10, 100]
    assert left.lines[0].get_ydata().tolist() == [0.8, 0.4, 0.0]
    assert right.lines[0].get_ydata().tolist() == [0.0, 0.4, 0.8]
    assert [ax.get_legend().get_texts()[0].get_text() for ax in (left, right)] == ["ours: 0.40", "ours: 0.40"]
    assert ["lower is better" in left.get_title(), "higher is better" in right.get_title()] == [True, True]
    assert len(plot_curves({"ours": curve_of([0.9, 0.8, 0.4, 0.0])}).axes) == 1


def test_randomisation_draws_every_layer_in_order_with_the_shuffled_map_as_a_level() -> None:
    figure = plot_randomisation(
        {"ours": layers_table([1.0, 0.5, np.nan, 0.01]), "edges": layers_table([1.0, 1.0, 1.0, 0.02])}
    )
    (ax,) = figure.axes
    assert ax.lines[0].get_ydata()[:2] == pytest.approx([1.0, 0.5])
    assert np.isnan(ax.lines[0].get_ydata()[2])
    assert ax.lines[1].get_ydata() == pytest.approx([0.01] * 2)
    assert ax.lines[1].get_linestyle() == ":"
    assert [t.get_text() for t in ax.get_xticklabels()] == [AS_TRAINED, "2", "1.0"]
    other = plot_randomisation({"ours": layers_table([1.0, 0.5, 0.3, 0.01])}, measure="ssim").axes[0]
    assert other.lines[0].get_ydata() == pytest.approx([0.01, 0.3, 0.5])
    assert other.get_ylabel() == "structural similarity"


def test_more_maps_than_colours_are_still_told_apart() -> None:
    lines = plot_road({str(n): road_that_falls(0.01 * n) for n in range(len(LINE_COLOURS) + 2)}).axes[1].lines[:-1]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(LINE_COLOURS) + 2


def test_scores_that_cannot_be_drawn_are_refused() -> None:
    for plot in (plot_road, plot_curves, plot_randomisation):
        with pytest.raises(ValueError, match="something to plot, got none"):
            plot({})
    with pytest.raises(ValueError, match="measure must be one of spearman, spearman_abs, ssim, got 'peak'"):
        plot_randomisation({"ours": layers_table([1.0, 0.5, 0.3, 0.0])}, measure="peak")
    with pytest.raises(ValueError, match="Tables must be of the same layers"):
        plot_randomisation(
            {"a": layers_table([1.0, 0.5, 0.3, 0.0]), "b": layers_table([1.0, 0.5, 0.3, 0.0], ("x", "y"))}
        )


# Dose and response.


def heights(ax) -> list[list[float]]:
    return [list(np.round(line.get_ydata(), 6)) for line in ax.lines]


def test_thin_lines_are_lesions_and_thick_ones_their_means() -> None:
    upper, lower = plot_dose(doses()).axes
    thin = [line for line in upper.lines if line.get_linewidth() < 1]
    thick = [line for line in upper.lines if line.get_linewidth() > 2]
    assert [list(line.get_ydata()) for line in thin] == list(SCORES.values())
    assert [list(np.round(line.get_ydata(), 6)) for line in thick] == [[0.05, 0.4, 0.9], [0.3, 0.5, 0.7]]
    assert all(list(line.get_xdata()) == CONTRASTS for line in upper.lines)
    assert heights(lower) == [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["unet, mean of 2", "nnunet, mean of 1"]


def test_a_network_has_one_colour_and_another_a_different_one() -> None:
    upper, lower = plot_dose(doses()).axes
    colours = [line.get_color() for line in upper.lines]
    assert colours[0] == colours[1] == colours[2] == lower.lines[0].get_color()
    assert colours[3] == colours[4] == lower.lines[1].get_color() != colours[0]


def test_contrasts_in_any_order_are_drawn_from_low_to_high() -> None:
    upper, _ = plot_dose(doses().iloc[::-1]).axes
    assert all(list(line.get_xdata()) == CONTRASTS for line in upper.lines)


def test_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="must be that of dose_response, it has no score, seen"):
        plot_dose(doses().drop(columns=["seen", "score"]))
    with pytest.raises(ValueError, match="must be that of dose_response, it has no rows"):
        plot_dose(doses().iloc[:0])


# Perilesional curves.


def test_more_networks_than_colours_are_drawn_and_named() -> None:
    many = [f"n{n}" for n in range(8)]
    figure = plot_perilesional(pd.concat([hidden_tissue(network=name) for name in many]))
    named = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in named] == [f"{name}, zero fill" for name in many]
    colours = [line.get_color() for line in figure.axes[1].lines]
    assert len(set(colours[:6])) == 6
    assert colours[6:] == colours[:2]


def test_an_unknown_fill_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="fill must be one of zero, mean, blurred, got 'black'"):
        plot_perilesional(pd.concat([hidden_tissue(), hidden_tissue(fill="black")]))


def test_the_paper_s_band_stands_and_the_interval_over_subjects_is_drawn_as_lines() -> None:
    table = hidden_tissue(subjects=9)
    figure = plot_perilesional(table)
    (band,) = figure.axes[1].collections
    edges, average = band.get_paths()[0].vertices, average_curves(table)
    assert np.ptp(edges[edges[:, 0] == 0, 1]) == pytest.approx(2 * average["sd"].iloc[0])
    drawn = [line.get_ydata() for line in figure.axes[1].lines]
    assert drawn == [pytest.approx(average[name].to_numpy()) for name in ("mean", "low", "high")]
    assert "thin lines: 95 % over subjects" in figure.axes[1].get_title()


def test_one_subject_is_said_to_have_no_interval() -> None:
    figure = plot_perilesional(hidden_tissue())
    assert figure.axes[1].get_title().endswith("one subject: no interval over subjects")
    assert len(figure.axes[1].lines) == 1


def test_averages_end_where_the_first_of_two_spacings_ends_and_lesions_do_not() -> None:
    figure = plot_perilesional(pd.concat([hidden_tissue(), hidden_tissue(spacing=1.5)]))
    left, middle, right = figure.axes
    assert left.lines[0].get_xdata().tolist() == middle.lines[0].get_xdata().tolist() == [0, 1, 1.5, 2]
    assert left.lines[0].get_ydata().tolist() == [0, 2, 4, 4]
    assert sorted(line.get_xdata()[-1] for line in right.lines) == [2, 2, 3, 3]


# Groups of lesions.


def drawn_lesions(figure: Figure, panel: int = 0) -> dict[tuple[str, str], list[float]]:
    """(marker, colour) of the lesions in a panel -> their values."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() in tuple(MARKERS) and len(line.get_xdata())]
    return {(str(line.get_marker()), to_hex(line.get_color())): list(line.get_ydata()) for line in lines}


def test_every_lesion_is_drawn_once_in_the_marker_of_its_subject_and_the_colour_of_its_group() -> None:
    figure = plot_groups(peaks_of_lesions(), {"peak": "FLAIR", "other": "minus"}, unit="logits")
    marker = dict(zip("bac", MARKERS, strict=False))
    wanted = {(marker[s], to_hex(GROUP_COLOURS[g])): many for (s, g), many in PEAKS_OF_LESIONS.items()}
    assert drawn_lesions(figure) == wanted
    assert drawn_lesions(figure, 1) == {key: [-v for v in many] for key, many in wanted.items()}
    assert [ax.get_title() for ax in figure.axes] == ["FLAIR", "minus"]
    assert figure.axes[0].get_ylabel() == "logits"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a", "c"]


def test_groups_stand_in_the_papers_order_with_their_sizes_and_quartiles() -> None:
    (ax,) = plot_groups(peaks_of_lesions().iloc[::-1], ["peak"]).axes
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["TP\n5 lesions", "FP\n5 lesions", "TN\n4 lesions"]
    boxes = [np.unique(patch.get_path().vertices[:, 1])[[0, -1]].tolist() for patch in ax.patches]
    wanted = [[4.0, 6.0], [2.0, 4.0], [0.575, 0.725]]
    assert boxes == [pytest.approx(ends) for ends in wanted]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 3]
    assert medians == pytest.approx([5.0, 3.0, 0.65])


def test_a_subject_has_the_same_column_in_every_group() -> None:
    (ax,) = plot_groups(peaks_of_lesions(), ["peak"]).axes
    places: dict[str, set[float]] = {}
    for line in ax.lines:
        if line.get_marker() in tuple(MARKERS) and len(line.get_xdata()):
            x = float(line.get_xdata()[0])
            places.setdefault(str(line.get_marker()), set()).add(round(x - round(x), 6))
    assert {len(offsets) for offsets in places.values()} == {1}
    assert len(set.union(*places.values())) == 3


def test_roc_draws_each_curve_with_its_area_and_the_band_of_the_first() -> None:
    both = peaks_of_lesions().assign(coarse=peaks_of_lesions()["peak"].round(-1))
    curves = {name: roc(both, name, resamples=20) for name in ("peak", "coarse")}
    figure = plot_roc(curves)
    (ax,) = figure.axes
    for line, curve, colour in zip(ax.lines[1:], curves.values(), LINE_COLOURS, strict=False):
        assert line.get_xdata() == pytest.approx(curve.alarms)
        assert line.get_ydata() == pytest.approx(curve.caught)
        assert line.get_color() == colour
    (band,) = ax.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(curves["peak"].band[1].max())
    low, high = curves["peak"].interval
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[:2] == ["chance: 0.50", f"peak: {curves['peak'].auc:.2f} ({low:.2f} to {high:.2f})"]
    assert [ax.get_xlabel(), ax.get_ylabel()] == [
        "true lesions called false, share of 5",
        "false lesions caught, share of 5",
    ]


def test_one_subject_has_neither_band_nor_interval() -> None:
    figure = plot_roc({"peak": roc(peaks_of_lesions().assign(subject="a"), "peak", resamples=20)})
    assert len(figure.axes[0].collections) == 0
    assert figure.legends[0].get_texts()[1].get_text() == "peak: 0.82"


def test_retention_draws_each_curve_between_random_and_ideal_with_its_area() -> None:
    table = peaks_of_lesions().assign(coarse=peaks_of_lesions()["peak"].round(-1))
    curves = {name: retention_curve(table, name, resamples=20) for name in ("peak", "coarse")}
    figure = plot_retention(curves)
    (ax,) = figure.axes
    first = curves["peak"]
    wanted = [first.ideal, first.random, *(curve.ppv for curve in curves.values())]
    for line, values in zip(ax.lines, wanted, strict=True):
        assert line.get_xdata() == pytest.approx(RETAINED)
        assert line.get_ydata() == pytest.approx(values)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    low, high = first.interval
    assert told[:3] == [
        f"ideal: {first.ideal_area:.3f}",
        f"random: {first.random_area:.3f}",
        f"peak: {first.area:.3f} ({low:.3f} to {high:.3f})",
    ]
    assert ax.get_xlabel() == "share of 7 found lesions kept, the surest"


def test_calibration_draws_what_happened_against_what_was_told_with_its_interval() -> None:
    told = calibration(peaks_of_lesions().assign(p_false=peaks_of_lesions()["peak"] / 10), bins=2)
    figure = plot_calibration({"model": told})
    (bars,) = figure.axes[0].containers
    assert bars.lines[0].get_xdata() == pytest.approx(told["predicted"].to_numpy())
    assert bars.lines[0].get_ydata() == pytest.approx(told["observed"].to_numpy())
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ends == pytest.approx(told[["low", "high"]].to_numpy())
    brier = told["brier"].iloc[0]
    assert figure.legends[0].get_texts()[0].get_text() == f"model: Brier {brier:.3f}, share alone 0.250"


def test_refined_draws_each_judge_with_its_interval_and_what_was_found() -> None:
    refined = judged_by_size()
    figure, judges = plot_refined(refined), refined.judges[::-1]
    for ax, score in zip(figure.axes, ("auc", "f1", "ppv", "sensitivity"), strict=True):
        dots, line = ax.lines
        assert dots.get_xdata() == pytest.approx(judges[score].to_numpy(dtype=float), nan_ok=True)
        assert line.get_xdata()[0] == pytest.approx(0.5 if score == "auc" else judges[score].iloc[-1])
        ends = np.array([segment[:, 0] for segment in ax.collections[0].get_segments() if len(segment)])
        wanted = judges[[f"{score}_low", f"{score}_high"]].to_numpy(dtype=float)
        assert ends == pytest.approx(wanted[np.isfinite(wanted).all(axis=1)])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == judges["judge"].tolist()
    assert figure.get_suptitle() == "Fewer false lesions? 36 true, 24 false, 6 missed lesions of 6 subjects"


def test_groups_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values of TP, FP, FN or TN to plot, got none of peak"):
        plot_groups(peaks_of_lesions().assign(peak=np.nan), ["peak"])
    with pytest.raises(ValueError, match=r"values of TP, FP, FN or TN to plot, got none\."):
        plot_groups(peaks_of_lesions(), [])
    with pytest.raises(ValueError, match="to plot, got none"):
        plot_roc({})
    with pytest.raises(ValueError, match="to plot, got none"):
        plot_calibration({})


# Where maps lie.


def test_the_matrix_shows_percent_in_rows_and_columns_and_frames_the_class_itself() -> None:
    matrix = pd.DataFrame([[0.9, 0.1], [0.004, np.nan]], index=["a_b", "c"], columns=["a_b", "c"])
    ax = plot_matrix(matrix).axes[0]
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert shown == pytest.approx(np.array([[90, 10], [0.4, np.nan]]), nan_ok=True)
    assert [t.get_text() for t in ax.texts] == ["90", "10", "·"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a b", "c"]
    frames = [p.get_xy() for p in ax.patches if isinstance(p, Rectangle)]
    assert frames == [(-0.5, -0.5), (0.5, 0.5)]
    assert ax.texts[0].get_color() == "white"


def test_boxes_are_sorted_by_median_with_the_class_itself_in_green_and_what_is_left_out_told() -> None:
    table = simulated_table(20)
    figure = plot_boxes(table, ["heart", "ribs"])
    left, right = figure.axes
    labels = [t.get_text() for t in left.get_yticklabels()]
    medians = [line.get_xdata()[0] for line in left.lines if line.get_color() == "black" and len(line.get_xdata()) == 2]
    true = {b: 100 * table[f"heart_explanation_in_{b}_mass"].median() for b in dependency_matrix(table).columns}
    expected = sorted((v, k.replace("_", " ")) for k, v in true.items() if k != "background")
    assert labels == [name for _, name in expected]
    assert set(np.round([v for v, _ in expected], 6)) <= set(np.round(medians, 6))
    greens = [p.get_facecolor()[:3] == plt.matplotlib.colors.to_rgb("#009E73") for p in left.patches]
    assert [name for name, green in zip(labels, greens, strict=True) if green] == ["heart"]
    assert right.get_title() == "ribs"
    assert figure.get_suptitle() == "Where maps lie in 20 patients (background not drawn)"
    assert len(plot_boxes(table, ["heart"], without=()).axes[0].get_yticklabels()) == 6
    with pytest.raises(ValueError, match=r"explained must be among .*; got liver"):
        plot_boxes(table, ["liver"])


def test_the_graph_has_an_arrow_from_the_explained_class_to_the_structure_as_wide_as_its_mass() -> None:
    edges = pd.DataFrame([("a", "b", 0.4), ("b", "c", 0.1)], columns=["explained", "structure", "mass"])
    (ax,) = plot_graph(edges).axes
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    place = {t.get_text(): np.array(t.get_position()) / 1.09 for t in ax.texts[:3]}
    assert set(place) == {"a", "b", "c"}
    weak, strong = arrows
    for arrow, (start, end) in ((strong, "ab"), (weak, "bc")):
        assert np.array(arrow._posA_posB) == pytest.approx(np.stack([place[start], place[end]]))
    assert (strong.get_linewidth() - 0.6) / (weak.get_linewidth() - 0.6) == pytest.approx(4)
    assert ax.texts[3].get_text() == "widest arrow 40 % of the map, thinnest 10 %"
    with pytest.raises(ValueError, match="must have an edge, got none"):
        plot_graph(edges.iloc[:0])


def test_outliers_are_red_below_zero_against_dice_and_the_strangest_have_their_names() -> None:
    found = pd.DataFrame(
        {
            "patient": ["s1", "s1", "s2", "s2"],
            "explained": ["a", "b", "a", "b"],
            "score": [0.1, 0.3, -0.2, 0.1],
            "outlier": [False, False, True, False],
            "own_mass": [0.4, 0.5, 0.1, 0.2],
            "dice": [0.9, 0.7, 0.6, 0.4],
        }
    )
    left, right = plot_outliers(found, names=1).axes
    assert left.collections[0].get_offsets().tolist() == pytest.approx(np.array([[0.5, -0.05], [0.8, 0.2]]))
    red = plt.matplotlib.colors.to_rgba("#D55E00", 0.8)
    assert [tuple(c) == red for c in right.collections[0].get_facecolors()] == [False, False, True, False]
    assert [t.get_text() for t in left.texts] == ["s2"]
    assert left.get_xlabel() == "Dice coefficient"
    unknown = plot_outliers(found.assign(dice=np.nan)).axes[0]
    assert unknown.get_xlabel() == "share of the map in the class itself"
    assert sorted(unknown.collections[0].get_offsets()[:, 0]) == pytest.approx([0.15, 0.45])


def test_bars_of_lesions_are_their_shares_by_group_and_share_in_themselves() -> None:
    shares = {("TP", 1): (0.3, 0.7), ("TP", 2): (0.6, 0.4), ("FP", 3): (0.1, np.nan)}
    rows = [
        {"subject": "s", "lesion": n, "group": g, "by": "distance", "structure": name, "part": "abs", "mass": mass}
        for (g, n), masses in shares.items()
        for name, mass in zip(("this lesion", "0-2 mm"), masses, strict=True)
    ]
    figure = plot_lesion_structures(pd.DataFrame(rows))
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["TP 2", "TP 1", "FP 3"]
    first, second = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert first == pytest.approx([60, 30, 10])
    assert second == pytest.approx([40, 70, 0])
    assert [bar.get_x() for bar in ax.containers[1]] == pytest.approx(first)
    assert ax.get_xlabel() == "share of the map, %, absolute values"
    with pytest.raises(ValueError, match=r"rows by 'tissue' of part 'abs', got none"):
        plot_lesion_structures(pd.DataFrame(rows), by="tissue")


def test_the_whole_way_from_a_table_to_figures_works() -> None:
    matrix = dependency_matrix(simulated_table(8))
    figure = plot_graph(strongest_dependencies(matrix, 1), title="one")
    assert figure.get_suptitle() == "one"
    assert len([p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]) == 5


# What maps are worth.


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


def test_faithfulness_curves_are_means_over_lesions() -> None:
    curves = [mean_scores("morf", n, [0, 1, 10], [0.9, 0.5 + n / 10, 0.1]) for n in (1, 2)]
    curves += [mean_scores("lerf", n, [0, 1, 10], [0.9, 0.9, 0.8]) for n in (1, 2)]
    curves += [
        mean_scores("deletion", 1, [0, 1, 100], [0.9, 0.8, 0.0]),
        mean_scores("deletion", 2, [0, 1, 10], [0.9, 0.4, 0.2]),
    ]
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
