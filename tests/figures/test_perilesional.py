"""Perilesional curves drawn: as many networks as there are, the paper's band, and the interval over subjects."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers import plot_perilesional
from ies_helpers.measures.context import average_curves


def curves(subjects: int = 1, network: str = "unet", fill: str = "zero", spacing: float = 1.0) -> pd.DataFrame:
    """Two lesions a subject at 0, 1, 2 voxels; the n-th subject's scores rise by n / 10."""
    rows = pd.DataFrame({"distance_mm": np.arange(3) * spacing, "score": [0.1, 0.3, 0.5], "seen": [False, True, True]})
    about = {"group": "TP", "network": network, "fill": fill, "full_score": 0.5, "volume_mm3": 90.0}
    return pd.concat(
        [
            rows.assign(**about, subject=f"s{spacing}{n}", lesion=k, score=rows["score"] + n / 10)
            for n in range(subjects)
            for k in (1, 2)
        ]
    )


def test_more_networks_than_colours_are_drawn_and_named() -> None:
    many = [f"n{n}" for n in range(8)]
    figure = plot_perilesional(pd.concat([curves(network=name) for name in many]))
    named = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in named] == [f"{name}, zero fill" for name in many]
    colours = [line.get_color() for line in figure.axes[1].lines]
    assert len(set(colours[:6])) == 6
    assert colours[6:] == colours[:2]


def test_an_unknown_fill_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="A fill must be one of zero, mean, blurred, got 'black'; rename it"):
        plot_perilesional(pd.concat([curves(), curves(fill="black")]))


def test_the_paper_s_band_stands_and_the_interval_over_subjects_is_drawn_as_lines() -> None:
    table = curves(subjects=9)
    figure = plot_perilesional(table)
    (band,) = figure.axes[1].collections
    edges, average = band.get_paths()[0].vertices, average_curves(table)
    assert np.ptp(edges[edges[:, 0] == 0, 1]) == pytest.approx(2 * average["sd"].iloc[0])
    drawn = [line.get_ydata() for line in figure.axes[1].lines]
    assert drawn == [pytest.approx(average[name].to_numpy()) for name in ("mean", "low", "high")]
    assert "thin lines: 95 % over subjects" in figure.axes[1].get_title()


def test_one_subject_is_said_to_have_no_interval() -> None:
    figure = plot_perilesional(curves())
    assert figure.axes[1].get_title().endswith("one subject: no interval over subjects")
    assert len(figure.axes[1].lines) == 1


def test_averages_end_where_the_first_of_two_spacings_ends_and_lesions_do_not() -> None:
    figure = plot_perilesional(pd.concat([curves(), curves(spacing=1.5)]))
    left, middle, right = figure.axes
    assert left.lines[0].get_xdata().tolist() == middle.lines[0].get_xdata().tolist() == [0, 1, 1.5, 2]
    assert left.lines[0].get_ydata().tolist() == [0, 2, 4, 4]
    assert sorted(line.get_xdata()[-1] for line in right.lines) == [2, 2, 3, 3]
