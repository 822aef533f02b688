"""Figures of structures and groups: what is drawn is what was measured, labelled, in its order."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from ies_helpers.figures.charts import plot_boxes, plot_graph, plot_lesion_structures, plot_matrix, plot_outliers
from ies_helpers.figures.lesions import plot_group_map
from ies_helpers.measures.agg2exp import dependency_matrix, simulated_table, strongest_dependencies
from ies_helpers.measures.groupmaps import centred_affine, group_map


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


def test_group_maps_stand_in_three_planes_above_the_individual_ones_on_symmetric_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 7, 7, 7, generator=generator) + 1 for _ in range(5)]
    maps[0][:, 0] = float("nan")
    group = group_map(maps, centred_affine(3))
    figure = plot_group_map(group, maps, [f"lesion {n}" for n in range(5)], modality=1)
    axes = {ax.get_title(): ax for ax in figure.findobj(plt.Axes) if ax.get_title()}
    assert list(axes)[:3] == ["mean, axial", "mean, coronal", "mean, sagittal"]
    assert len(axes) == 9 + 5
    for kind in ("mean", "t", "sign"):
        drawn = axes[f"{kind}, axial"].images[0].get_array()
        assert np.ma.filled(drawn, np.nan) == pytest.approx(getattr(group, kind)[1, :, :, 3].T.numpy(), nan_ok=True)
    limits = {axes[f"t, {plane}"].images[0].get_clim() for plane in ("axial", "coronal", "sagittal")}
    assert limits == {(-10, 10)}
    own = [axes[f"lesion {n}"].images[0].get_clim() for n in range(5)]
    top = max(float(np.nanmax(np.abs(m[1, :, :, 3].numpy()))) for m in maps)
    assert own == [pytest.approx((-top, top))] * 5
    alone = plot_group_map(group, background=np.ones((7, 7, 7)))
    assert len([ax for ax in alone.axes if ax.get_title()]) == 9
    assert len(alone.axes[0].images) == 2


def test_the_whole_way_from_a_table_to_figures_works() -> None:
    matrix = dependency_matrix(simulated_table(8))
    figure = plot_graph(strongest_dependencies(matrix, 1), title="one")
    assert figure.get_suptitle() == "one"
    assert len([p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]) == 5
