"""Figures of groups: every lesion is drawn where it belongs, boxes are quartiles, curves are those measured."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ies_helpers.figures.charts import GROUP_LINES, MARKERS, plot_calibration, plot_groups, plot_roc
from ies_helpers.figures.slices import GROUP_COLOURS
from ies_helpers.measures.groups import calibration, roc

VALUES = {
    ("b", "TP"): [5.0, 6.0, 7.0],
    ("a", "TP"): [3.0, 4.0],
    ("b", "FP"): [2.0, 1.0],
    ("c", "FP"): [3.0, 4.0, 5.0],
    ("a", "TN"): [0.5, 0.6, 0.7, 0.8],
}


def table() -> pd.DataFrame:
    rows = [(subject, group, value, -value) for (subject, group), many in VALUES.items() for value in many]
    return pd.DataFrame(rows, columns=["subject", "group", "peak", "other"])


def drawn(figure: Figure, panel: int = 0) -> dict[tuple[str, str], list[float]]:
    """(marker, colour) of the lesions in a panel -> their values."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() in tuple(MARKERS) and len(line.get_xdata())]
    return {(str(line.get_marker()), to_hex(line.get_color())): list(line.get_ydata()) for line in lines}


def test_every_lesion_is_drawn_once_in_the_marker_of_its_subject_and_the_colour_of_its_group() -> None:
    figure = plot_groups(table(), {"peak": "FLAIR", "other": "minus"}, unit="logits")
    marker = dict(zip("bac", MARKERS, strict=False))
    wanted = {(marker[s], to_hex(GROUP_COLOURS[g])): many for (s, g), many in VALUES.items()}
    assert drawn(figure) == wanted
    assert drawn(figure, 1) == {key: [-v for v in many] for key, many in wanted.items()}
    assert [ax.get_title() for ax in figure.axes] == ["FLAIR", "minus"]
    assert figure.axes[0].get_ylabel() == "logits"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a", "c"]


def test_groups_stand_in_the_papers_order_with_their_sizes_and_quartiles() -> None:
    (ax,) = plot_groups(table().iloc[::-1], ["peak"]).axes
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["TP\n5 lesions", "FP\n5 lesions", "TN\n4 lesions"]
    boxes = [np.unique(patch.get_path().vertices[:, 1])[[0, -1]].tolist() for patch in ax.patches]
    wanted = [[4.0, 6.0], [2.0, 4.0], [0.575, 0.725]]
    assert boxes == [pytest.approx(ends) for ends in wanted]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 3]
    assert medians == pytest.approx([5.0, 3.0, 0.65])


def test_a_subject_has_the_same_column_in_every_group() -> None:
    (ax,) = plot_groups(table(), ["peak"]).axes
    places: dict[str, set[float]] = {}
    for line in ax.lines:
        if line.get_marker() in tuple(MARKERS) and len(line.get_xdata()):
            x = float(line.get_xdata()[0])
            places.setdefault(str(line.get_marker()), set()).add(round(x - round(x), 6))
    assert {len(offsets) for offsets in places.values()} == {1}
    assert len(set.union(*places.values())) == 3


def test_roc_draws_each_curve_with_its_area_and_the_band_of_the_first() -> None:
    both = table().assign(coarse=table()["peak"].round(-1))
    curves = {name: roc(both, name, resamples=20) for name in ("peak", "coarse")}
    figure = plot_roc(curves)
    (ax,) = figure.axes
    for line, curve, (colour, _) in zip(ax.lines[1:], curves.values(), GROUP_LINES, strict=False):
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
    figure = plot_roc({"peak": roc(table().assign(subject="a"), "peak", resamples=20)})
    assert len(figure.axes[0].collections) == 0
    assert figure.legends[0].get_texts()[1].get_text() == "peak: 0.82"


def test_calibration_draws_what_happened_against_what_was_told_with_its_interval() -> None:
    told = calibration(table().assign(p_false=table()["peak"] / 10), bins=2)
    figure = plot_calibration({"model": told})
    (bars,) = figure.axes[0].containers
    assert bars.lines[0].get_xdata() == pytest.approx(told["predicted"].to_numpy())
    assert bars.lines[0].get_ydata() == pytest.approx(told["observed"].to_numpy())
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ends == pytest.approx(told[["low", "high"]].to_numpy())
    brier = told["brier"].iloc[0]
    assert figure.legends[0].get_texts()[0].get_text() == f"model: Brier {brier:.3f}, share alone 0.250"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values of TP, FP, FN or TN to plot, got none of peak"):
        plot_groups(table().assign(peak=np.nan), ["peak"])
    with pytest.raises(ValueError, match=r"values of TP, FP, FN or TN to plot, got none\."):
        plot_groups(table(), [])
    with pytest.raises(ValueError, match="must be a curve to plot, got none"):
        plot_roc({})
    with pytest.raises(ValueError, match="must be a table to plot, got none"):
        plot_calibration({})
