"""Figures for every eye and every seat: signs and groups told apart, also on paper, and text large enough."""

from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from ies_helpers import Lesions, plot_lesions, plot_perilesional, plot_saliency
from ies_helpers.figures.charts import (
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
    plot_road,
    plot_roc,
)
from ies_helpers.figures.lesions import plot_group_map, plot_maps
from ies_helpers.figures.slices import GROUP_COLOURS, SIGNED
from ies_helpers.measures.agg2exp import dependency_matrix, outliers, simulated_table, strongest_dependencies
from ies_helpers.measures.evaluation import rank_methods
from ies_helpers.measures.groupmaps import centred_affine, group_map
from ies_helpers.measures.maps import ranked_measures
from ies_helpers.measures.refine import calibration, roc
from tests.patients import ball, lesion_of, subject_in_memory
from tests.tables import curve_of, doses, hidden_tissue, judged_by_size, layers_table, road_that_falls

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
    falling = curve_of([0.9, 0.8, 0.4, 0.1])
    return {
        "lesions": plot_lesions(subject, Lesions([lesion])),
        "saliency": plot_saliency(subject, saliency, lesion),
        "networks": plot_maps(subject, {"unet": saliency}, lesion),
        "road": plot_road({"ours": road_that_falls(0.1)}),
        "curves": plot_curves({"ours": falling}, {"ours": falling}),
        "randomisation": plot_randomisation({"ours": layers_table([1.0, 0.5, 0.1, 0.0])}),
        "perilesional": plot_perilesional(hidden_tissue()),
        "dose": plot_dose(doses()),
    }


METHODS = ("smoothgrad max, 50 draws", "smoothgrad mean, 50 draws", "gradcam++", "integrated-gradients mean")


def evaluated() -> dict[str, Figure]:
    """One figure of each kind that `ies evaluate` draws, of four methods with long names and three groups."""
    rng = np.random.default_rng(0)
    peaks, balances = ("flair_max", "flair_min", "t1_max", "t1_min"), ("balance_inside", "balance_0-2", "balance_2-5")
    names = [*ranked_measures(), *peaks, *balances]
    about = [
        {"subject": "a", "network": "unet", "lesion": n, "lesion_id": str(n), "group": group, "method": method}
        for method in METHODS
        for n, group in enumerate(("TP", "FP", "FN") * 3)
    ]
    told = {"unit": "logit per unit"}
    values = [one | told | {"measure": name, "value": rng.random()} for one in about for name in names]
    heights = {"morf": (0.0, 0.01, 0.2), "lerf": (0.0, 0.01, 0.2), "deletion": (0.0, 0.1, 1.0)}
    curves = [
        one | {"curve": curve, "voxels": 100 * at, "fraction": at, "score": rng.random()}
        for one in about
        for curve, places in heights.items()
        for at in places
    ]
    measures = pd.DataFrame(values)
    return {
        "measures": plot_measures(measures),
        "peaks": plot_peaks(measures),
        "balance": plot_balance(measures),
        "ranking": plot_ranking(rank_methods(measures, resamples=20)),
        "faithfulness": plot_faithfulness(pd.DataFrame(curves)),
    }


def placed() -> dict[str, Figure]:
    """One figure of each kind of structures and groups; the matrix has as many classes as the published one."""
    rng = np.random.default_rng(0)
    classes = [f"a_class_of_number_{n}" for n in range(17)]
    table = simulated_table(20)
    shares = pd.DataFrame({"structure": ["this lesion", "0-2 mm"] * 6, "mass": rng.random(12)})
    shares = shares.assign(subject="a", group="TP", lesion=np.repeat(np.arange(6), 2), by="distance", part="abs")
    lesions = pd.DataFrame({"group": ["TP", "FP"] * 40, "subject": list("aabb") * 20})
    lesions = lesions.assign(flair=rng.random(80), t1=rng.random(80), p_false=rng.random(80))
    maps = [torch.from_numpy(rng.normal(size=(2, 7, 7, 7))) for _ in range(5)]
    return {
        "matrix": plot_matrix(pd.DataFrame(rng.random((17, 17)), index=classes, columns=classes)),
        "boxes": plot_boxes(table, ["heart", "ribs"]),
        "graph": plot_graph(strongest_dependencies(dependency_matrix(table), 2)),
        "outliers": plot_outliers(outliers(table)),
        "lesion structures": plot_lesion_structures(shares),
        "groups": plot_groups(lesions, ["flair", "t1"]),
        "roc": plot_roc({"flair": roc(lesions, "flair", resamples=20)}),
        "calibration": plot_calibration({"peaks": calibration(lesions)}),
        "refined": plot_refined(judged_by_size()),
        "group map": plot_group_map(group_map(maps, centred_affine(3)), maps),
    }


def test_labels_of_neighbouring_methods_do_not_touch() -> None:
    figure = evaluated()["measures"]
    figure.draw_without_rendering()
    for ax in figure.axes[: len(ranked_measures())]:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert len(boxes) == len(METHODS)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


@pytest.mark.parametrize("kind", [drawn, evaluated, placed])
def test_text_is_large_enough_for_the_last_row(kind: Callable[[], dict[str, Figure]]) -> None:
    small = {}
    for name, figure in kind().items():
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert len(texts) > 5
        least = WIDTH_SHARE * figure.get_figwidth() * 72
        small[name] = sorted({(t.get_text(), t.get_fontsize()) for t in texts if t.get_fontsize() < least})
    assert {name: texts for name, texts in small.items() if texts} == {}
