"""Maps of several networks under each other: each where it is, each row on its own scale."""

import numpy as np
import pytest
import torch

from ies_helpers import plot_saliency
from ies_helpers.figures.lesions import plot_maps
from tests.patients import ball, lesion_of, subject_in_memory

CENTRE = (10, 12, 15)
SHOWN = {"coronal": (15, 12), "axial": (15, 13)}
"""CENTRE on the display grid, across and up."""


def scene():
    subject = subject_in_memory((24, 28, 20))
    saliency = torch.zeros(2, *subject.shape)
    saliency[0][CENTRE], saliency[1][CENTRE] = 0.5, -2.0
    saliency[0][0, 0, 0] = 100.0  # far from the lesion: outside the frame it must not set the colours
    return subject, saliency, lesion_of(ball(subject.shape, CENTRE, 2.2))


@pytest.mark.parametrize("plane", SHOWN)
def test_each_row_shows_its_map_at_the_lesion_on_its_own_scale(plane: str) -> None:
    subject, saliency, lesion = scene()
    figure = plot_maps(subject, {"one": saliency, "two": 10 * saliency}, lesion, plane=plane, reach_mm=4)
    panels = {ax.get_title(): ax for ax in figure.axes if "map of" in ax.get_title()}
    assert list(panels) == ["one: map of FLAIR", "one: map of T1", "two: map of FLAIR", "two: map of T1"]
    for title, ax in panels.items():
        drawn = ax.images[-1]
        row, column = np.unravel_index(np.abs(drawn.get_array()).argmax(), drawn.get_array().shape)
        assert (column, row) == SHOWN[plane]
        assert drawn.get_clim() == ((-2.0, 2.0) if title.startswith("one") else (-20.0, 20.0))


def test_a_map_that_is_nowhere_negative_has_a_bar_from_zero() -> None:
    subject, saliency, lesion = scene()
    bars = [plot_saliency(subject, s, lesion).axes[-1].get_ylim() for s in (saliency.abs()[:1], saliency)]
    assert bars[0] == (0.0, 0.5)
    assert bars[1] == (-2.0, 2.0)


def test_another_plane_and_no_map_are_refused() -> None:
    subject, saliency, lesion = scene()
    with pytest.raises(ValueError, match="plane of axial, coronal, sagittal, got 1 maps, 'side'"):
        plot_maps(subject, {"one": saliency}, lesion, plane="side")
    with pytest.raises(ValueError, match=r"needs a map .* got 0 maps"):
        plot_maps(subject, {}, lesion)


def test_a_map_of_all_modalities_stands_beside_others() -> None:
    """As of Grad-CAM: one panel over FLAIR, and no empty frame after it."""
    subject, saliency, lesion = scene()
    figure = plot_maps(subject, {"cam": saliency[:1].abs(), "gradient": saliency}, lesion, reach_mm=4)
    assert [ax.get_title() for ax in figure.axes if "map of" in ax.get_title()] == [
        "cam: map of all",
        "gradient: map of FLAIR",
        "gradient: map of T1",
    ]
    assert [ax.axison for ax in figure.axes[:6]] == [True, True, False, True, True, True]
