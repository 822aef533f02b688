"""Figures for every eye and every seat: signs and groups told apart, also on paper, and text large enough."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from ies_helpers import Lesions, plot_lesions, plot_perilesional, plot_saliency
from ies_helpers.figures.curves import plot_curves, plot_randomisation, plot_road
from ies_helpers.figures.dose import plot_dose
from ies_helpers.figures.networks import plot_maps
from ies_helpers.figures.panels import GROUP_COLOURS, SIGNED
from ies_helpers.measures.faithfulness import Curve
from ies_helpers.measures.road import Road
from ies_helpers.measures.sanity import AS_TRAINED, SHUFFLED
from tests.scenes import ball, lesion_of, subject_in_memory

# Machado, Oliveira, Fernandes 2009: what a person without one kind of cone sees, in linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)

APART = 15
"""CIELAB units between two colours that must not be mixed up; 2 can just be told side by side."""

LIGHTER = 15
"""Units of lightness on paper, of 100."""

WIDTH_SHARE = 0.0135
"""Text over the figure's width: a capital (0.7 of it) is then 10 minutes of arc high, twice what a good eye resolves,
for who sits 3.3 widths (six heights of a wide screen) away from a figure that fills the screen."""


def lab(colour: np.ndarray, eye: str = "all cones") -> np.ndarray:
    """CIELAB of an sRGB colour, D65, as an eye sees it."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    x, y, z = XYZ @ np.clip(EYES[eye] @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = [np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def over_grey(value: float, grey: float) -> np.ndarray:
    """The colour of a map's value, from -1 to 1, over a grey image."""
    *colour, alpha = SIGNED((value + 1) / 2)
    return np.array(colour) * alpha + grey * (1 - alpha)


def test_lab_is_that_of_the_tables() -> None:
    assert lab(np.array([1.0, 1.0, 1.0])) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(np.array([1.0, 0.0, 0.0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert [np.sum(matrix, axis=1) for matrix in EYES.values()] == [pytest.approx([1, 1, 1], abs=1e-5)] * 4


@pytest.mark.parametrize("grey", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_the_signs_apart(eye: str, grey: float) -> None:
    for size in (0.2, 0.4, 0.6, 0.8, 1.0):
        below, above = (lab(over_grey(sign * size, grey), eye) for sign in (-1, 1))
        assert np.linalg.norm(below - above) > 2 * APART


@pytest.mark.parametrize("grey", [0.25, 0.5, 0.75])
def test_on_paper_what_is_above_zero_is_lighter(grey: float) -> None:
    for size in (0.4, 0.6, 0.8, 1.0):
        below, above = (lab(over_grey(sign * size, grey))[0] for sign in (-1, 1))
        assert above - below > LIGHTER


@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_the_groups_apart(eye: str) -> None:
    seen = {group: lab(np.array(to_rgb(colour)), eye) for group, colour in GROUP_COLOURS.items()}
    close = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)}
    assert {pair: d for pair, d in close.items() if d <= APART} == {}


def drawn() -> dict[str, Figure]:
    """One figure of each kind."""
    subject = subject_in_memory()
    lesion = lesion_of(ball(subject.shape, (12, 14, 10), 3))
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    curve = Curve(np.array([0, 1, 10]), np.array([0.9, 0.8, 0.1]), 0.0)
    road = Road(np.array([0.001, 0.01]), np.array([1, 10]), 0.8, np.array([0.7, 0.1]), np.array([0.8, 0.8]), 0.0)
    layers = pd.DataFrame({"layer": [AS_TRAINED, "model.2.conv", SHUFFLED], "spearman": [1.0, 0.1, 0.0]})
    about = {"subject": "a", "network": "unet"}
    hidden = pd.DataFrame({"lesion": 1, "group": "TP", "fill": "zero", "distance_mm": [0, 9], "score": [0.1, 0.9]})
    hidden = hidden.assign(**about, seen=[False, True], full_score=0.9, volume_mm3=90.0)
    dose = pd.DataFrame({"contrast": [0.0, 1.0], "score": [0.1, 0.9], "seen": [False, True], "size_mm3": 90.0})
    return {
        "lesions": plot_lesions(subject, Lesions([lesion])),
        "saliency": plot_saliency(subject, saliency, lesion),
        "networks": plot_maps(subject, {"unet": saliency}, lesion),
        "road": plot_road({"ours": road}),
        "curves": plot_curves({"ours": curve}, {"ours": curve}),
        "randomisation": plot_randomisation({"ours": layers}),
        "perilesional": plot_perilesional(hidden),
        "dose": plot_dose(dose.assign(**about, i=1, j=1, k=1)),
    }


def test_text_is_large_enough_for_the_last_row() -> None:
    small = {}
    for name, figure in drawn().items():
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert len(texts) > 5
        least = WIDTH_SHARE * figure.get_figwidth() * 72
        small[name] = sorted({(t.get_text(), t.get_fontsize()) for t in texts if t.get_fontsize() < least})
    assert {name: texts for name, texts in small.items() if texts} == {}
