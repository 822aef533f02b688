"""Perilesional curves and doses: what the whole volume says, from the few windows that matter."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from ies_helpers import Network, gradient, perilesional_curve
from ies_helpers.arrays import CONNECTIVITY, as_mask
from ies_helpers.saliency.context import (
    BLUR_MM,
    DOSE_COLUMNS,
    DOSE_EXACT,
    DOSE_STEP,
    dose_response,
    dose_to_flip,
    filled,
    steps_from,
)
from ies_helpers.subjects.editing import add_lesion, lesion_pattern, lesion_shape
from ies_helpers.teaching import Linear, Neighbourhood
from tests import oracles
from tests.networks import nnunet, unet
from tests.patients import UNEVEN, ball, subject_in_memory

SHAPE = (40, 34, 44)
VOXELS = np.array([[20, 17, 22], [21, 17, 22], [21, 18, 22], [20, 17, 23]])
EXACT = 1e-10
"""Float64, against the whole volume."""


@pytest.fixture
def image() -> torch.Tensor:
    values = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    values[:, :4] = 0  # outside the brain
    return values


class Cube(nn.Module):
    """Logit of a voxel: the mean FLAIR of the cube of side 7 around it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(x[:, :1], 7, 1, 3)


CUBE = Network(Cube(), "cube", stride=(1, 1, 1), threshold=0.5)


NETWORKS = {
    "windows": lambda: replace(nnunet(), window=24, threshold=0.5),
    "unet, windows": lambda: replace(unet((3, 4, 5)), window=32, threshold=0.5, through="windows"),
    "whole": lambda: replace(unet((3, 4, 5)), window=None, threshold=0.5, through="whole"),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("fill", ["zero", "mean", "blurred"])
def test_a_curve_is_what_the_whole_volume_gives_each_time(kind: str, fill, image: torch.Tensor) -> None:
    """The published way: dilate, hide, run everything, average the softmax over the lesion."""
    network = NETWORKS[kind]()
    curve = perilesional_curve(network, image, VOXELS, distances=(0, 3, 9), fill=fill)
    region = as_mask(VOXELS, SHAPE)
    filling = filled(image, fill, np.ones(3))
    for row in curve.itertuples():
        steps = int(row.distance_mm)
        shown = ndimage.binary_dilation(region, CONNECTIVITY, steps) if steps else region
        hidden = torch.where(torch.from_numpy(shown), image, filling)
        wanted = oracles.lesion_probabilities(network, hidden, VOXELS)
        assert row.score == pytest.approx(float(wanted.mean()), abs=EXACT)
        assert row.seen == bool((wanted > network.threshold).any())
    whole = oracles.lesion_probabilities(network, image, VOXELS)
    assert curve["full_score"].tolist() == pytest.approx([float(whole.mean())] * 3, abs=EXACT)


def test_a_scan_below_a_window_gets_zeros_around_it_also_where_maps_are_of_the_whole(image: torch.Tensor) -> None:
    """As many on each side as MONAI's inferer puts there: 4, 7 and 2."""
    network = replace(unet((3, 4, 5)), window=48, threshold=0.5, through="whole")
    with pytest.warns(UserWarning, match="48 x 48 x 48 voxels and the image has 40 x 34 x 44: zeros are put"):
        curve = perilesional_curve(network, image, VOXELS, distances=(0, 3))
    larger = F.pad(image, (2, 2, 7, 7, 4, 4))
    wanted = perilesional_curve(network, larger, VOXELS + np.array([4, 7, 2]), distances=(0, 3))
    assert np.allclose(curve[["score", "full_score"]], wanted[["score", "full_score"]], rtol=0, atol=EXACT)
    assert curve["score"].nunique() == 2


def test_a_network_that_looks_some_voxels_away_sees_the_lesion_only_from_there_on() -> None:
    """The planted cue: mean of a cube of side 7 around the voxel, so the 3-step rim completes it; by hand."""
    image = torch.ones(2, 21, 21, 21)
    curve = perilesional_curve(CUBE, image, np.array([[10, 10, 10]]), distances=range(6))
    region = np.zeros((21, 21, 21), dtype=bool)
    region[10, 10, 10] = True
    logits = []
    for _ in range(6):
        logits.append(region[7:14, 7:14, 7:14].mean())
        region = ndimage.binary_dilation(region, CONNECTIVITY)
    wanted = 1 / (1 + np.exp(-np.array(logits)))
    assert curve["score"].to_numpy() == pytest.approx(wanted, abs=1e-6)
    assert curve["score"].iloc[5] == pytest.approx(float(curve["full_score"].iloc[0]), abs=1e-6)


def test_true_distance_follows_the_spacing_and_steps_do_not() -> None:
    """Voxels of 1 x 1 x 3 mm: 2 mm reach two neighbours in the plane and none through it."""
    affine, image = np.diag([1.0, 1.0, 3.0, 1.0]), torch.ones(2, 21, 21, 21)
    one = np.array([[10, 10, 10]])
    share = [perilesional_curve(CUBE, image, one, distances=[2], by=by, affine=affine) for by in ("mm", "steps")]  # pyright: ignore[reportArgumentType]
    logits = [float(np.log(p / (1 - p))) for p in (c["score"].iloc[0] for c in share)]
    disc = sum(i * i + j * j <= 4 for i in range(-3, 4) for j in range(-3, 4))
    assert logits[0] == pytest.approx(disc / 343, abs=1e-6)
    steps = ndimage.binary_dilation(np.pad(np.ones((1, 1, 1)), 3), CONNECTIVITY, 2).sum()
    assert logits[1] == pytest.approx(steps / 343, abs=1e-6)
    assert [c["distance_mm"].iloc[0] for c in share] == [2.0, pytest.approx(2 * 5 / 3)]


def test_true_distance_is_along_the_voxels_own_axes_where_these_are_permuted() -> None:
    """Neighbours 1, 2 and 3 mm away hold 1, 2 and 4, and the network adds up what it sees of them."""
    image = torch.zeros(2, 11, 11, 11)
    image[0, 4, 5, 5], image[0, 5, 4, 5], image[0, 5, 5, 4] = 1.0, 2.0, 4.0
    one = np.array([[5, 5, 5]])
    curve = perilesional_curve(Neighbourhood(), image, one, distances=(0, 1, 2, 3), by="mm", affine=UNEVEN)
    assert curve["score"].to_numpy() == pytest.approx(1 / (1 + np.exp(-np.array([0.0, 1, 3, 7]))), abs=1e-6)


def test_a_probability_at_the_threshold_is_not_above_it() -> None:
    image = torch.stack([torch.zeros(21, 21, 21), torch.ones(21, 21, 21)])
    curve = perilesional_curve(CUBE, image, np.array([[10, 10, 10]]), distances=[0, 3])
    assert curve["score"].tolist() == [0.5, 0.5]
    assert not curve["seen"].any()


def test_fills_keep_the_outside_zero_and_say_what_they_are(image: torch.Tensor) -> None:
    outside = image == 0
    mean = filled(image, "mean", np.ones(3))
    assert mean[0][~outside[0]].unique().item() == pytest.approx(float(image[0][~outside[0]].mean()))
    flat = torch.where(outside, 0.0, 2.5)
    blurred = filled(flat, "blurred", np.ones(3))
    assert torch.allclose(blurred, flat, atol=1e-5)  # normalised: the brain's edge does not darken
    spot = torch.zeros(1, 41, 41, 41) + 1e-9
    spot[0, 20, 20, 20] = 1.0
    line = filled(spot, "blurred", np.array([2.0, 2.0, 2.0]))[0, :, 20, 20].numpy()
    assert line[22] / line[20] == pytest.approx(np.exp(-(4.0**2) / (2 * BLUR_MM**2)), rel=1e-3)


def test_a_modality_that_is_not_there_stays_zero(image: torch.Tensor) -> None:
    image[1] = 0
    mean = filled(image, "mean", np.ones(3))
    assert mean[0].any()
    assert torch.equal(mean[1], torch.zeros(SHAPE, dtype=torch.float64))
    curve = perilesional_curve(CUBE, image.float(), VOXELS, distances=[0, 3], fill="mean")
    assert np.isfinite(curve["score"]).all()


def test_what_cannot_be_meant_is_refused_before_anything_is_run(image: torch.Tensor) -> None:
    for wrong, told in (
        ({"fill": "black"}, "'black'"),
        ({"by": "cm"}, "'cm'"),
        ({"distances": []}, "finite numbers from 0, at least one; got \\[\\]"),
        ({"distances": [-1]}, "finite numbers from 0"),
    ):
        with pytest.raises(ValueError, match=told):
            perilesional_curve(NETWORKS["whole"](), image, VOXELS, **wrong)


BLENDED = 1e-6
"""MONAI blends windows with float32 weights."""

SINGLE = 1e-5
PLACE = (12, 15, 9)
SUBJECT = subject_in_memory((26, 28, 24))
DOUBLE = replace(SUBJECT, image=SUBJECT.image.double())
CONTRASTS = [0.0, 0.7, -0.4, 2.5]


def test_a_linear_network_answers_by_a_line() -> None:
    """Logit 2 FLAIR - T1: each unit of contrast adds (2 + 0.5) times the mean share of lesion in its voxels."""
    table = dose_response(Linear((2.0, -1.0)), SUBJECT, PLACE, 60, CONTRASTS)
    pattern, mask = lesion_pattern(SUBJECT, PLACE, 60)
    start = float((2 * SUBJECT.image[0] - SUBJECT.image[1])[mask].mean())
    rise = 2.5 * float(pattern[0][mask].mean())
    assert table["logit"].tolist() == pytest.approx([start + rise * c for c in CONTRASTS], abs=SINGLE)
    at_rest = torch.sigmoid(2 * SUBJECT.image[0] - SUBJECT.image[1])[mask]
    assert table["score"][0] == pytest.approx(float(at_rest.mean()), abs=SINGLE)
    assert table["highest"][0] == pytest.approx(float(at_rest.max()), abs=SINGLE)


@pytest.mark.parametrize("network", [unet((3, 4, 5)), replace(unet((3, 4, 5)), window=16, through="windows"), nnunet()])
def test_each_score_is_that_of_the_whole_volume_with_the_lesion_in_it(network: Network) -> None:
    network = replace(network, window=16, overlap=0.5)
    table = dose_response(network, DOUBLE, PLACE, 60, CONTRASTS)
    voxels = np.argwhere(lesion_pattern(DOUBLE, PLACE, 60)[1].numpy())
    for row, contrast in zip(table.itertuples(), CONTRASTS, strict=True):
        image = add_lesion(DOUBLE, PLACE, 60, contrast).image
        wanted = oracles.lesion_probabilities(network, image, voxels)
        assert row.score == pytest.approx(float(wanted.mean()), rel=BLENDED)
        assert row.highest == pytest.approx(float(wanted.max()), rel=BLENDED)


def test_its_slope_is_the_gradient_times_the_pattern() -> None:
    network, step = unet((3, 4, 5)), 1e-6
    low, high = dose_response(network, DOUBLE, PLACE, 60, [0.6 - step, 0.6 + step])["logit"]
    pattern, mask = lesion_pattern(DOUBLE, PLACE, 60)
    g = gradient(network, add_lesion(DOUBLE, PLACE, 60, 0.6).image, mask, aggregate="mean")
    assert (high - low) / (2 * step) == pytest.approx(float((g * pattern).sum()), rel=1e-4)


def test_the_table_is_tidy_in_the_order_asked_for() -> None:
    network = Network(Linear(), "linear", threshold=0.9)
    table = dose_response(network, SUBJECT, np.array(PLACE), 60, np.array([2.0, 0.0, 1.0]))
    assert list(table.columns) == DOSE_COLUMNS
    assert table["contrast"].tolist() == [2.0, 0.0, 1.0]
    assert table[["subject", "network", "i", "j", "k", "size_mm3"]].drop_duplicates().values.tolist() == [
        ["toy", "linear", *PLACE, 60.0]
    ]
    assert table["voxels"].tolist() == [int(lesion_pattern(SUBJECT, PLACE, 60)[1].sum())] * 3
    assert table["seen"].tolist() == (table["highest"] > 0.9).tolist()
    both = pd.concat([table, dose_response(network, SUBJECT, (13, 15, 9), 60, [1.0])])
    assert both.groupby(["i", "j", "k"]).size().tolist() == [3, 1]


def test_seen_follows_the_networks_threshold() -> None:
    tables = [dose_response(Network(Linear(), threshold=t), SUBJECT, PLACE, 60, [0.0, 3.0]) for t in (0.9, 0.999999)]
    assert tables[0]["seen"].tolist() == [bool(tables[0]["highest"][0] > 0.9), True]
    assert tables[1]["seen"].tolist() == [False, bool(tables[1]["highest"][1] > 0.999999)]


def test_a_dose_at_the_threshold_is_not_above_it() -> None:
    dark = replace(SUBJECT, image=torch.stack([torch.zeros_like(SUBJECT.image[0]), SUBJECT.image[1]]))
    table = dose_response(Network(Linear((1.0, 0.0)), threshold=0.5), dark, PLACE, 60, [0.0, 0.1])
    assert table["highest"][0] == 0.5
    assert table["seen"].tolist() == [False, True]


@pytest.mark.parametrize("contrasts", [[], [1.0, float("nan")], [[0.0, 1.0]], 1.0, [float("inf")]])
def test_impossible_contrasts_are_refused_before_any_work(contrasts) -> None:
    with pytest.raises(ValueError, match="Contrasts must be a list of finite numbers, at least one, got"):
        dose_response(Linear(), SUBJECT, (99, 99, 99), 60, contrasts)


def test_a_lesion_that_cannot_be_there_is_refused() -> None:
    with pytest.raises(ValueError, match="place must lie in the brain"):
        dose_response(Linear(), SUBJECT, (99, 99, 99), 60, [1.0])
    with pytest.raises(ValueError, match="size in mm3 above 0"):
        dose_response(Linear(), SUBJECT, PLACE, 0, [1.0])


def test_the_subject_and_the_network_stay_as_they_were() -> None:
    network, image = unet((3, 4, 5)), DOUBLE.image.clone()
    network.module.train()
    dose_response(network, DOUBLE, PLACE, 60, [0.0, 1.0])
    assert network.module.training
    assert torch.equal(DOUBLE.image, image)


def test_a_dose_is_told_by_the_class_and_head_of_the_network() -> None:
    network = replace(unet((3, 4, 5), outputs=3), window=None, lesion_class=2, head="sigmoid")
    (row,) = dose_response(network, DOUBLE, PLACE, 60, [0.7]).itertuples()
    voxels = np.argwhere(lesion_pattern(DOUBLE, PLACE, 60)[1].numpy())
    image = add_lesion(DOUBLE, PLACE, 60, 0.7).image
    wanted = oracles.lesion_probabilities(network, image, voxels)
    assert row.score == pytest.approx(float(wanted.mean()), rel=BLENDED)
    assert row.logit == pytest.approx(float(torch.logit(wanted).mean()), rel=BLENDED)


def test_steps_are_dilations(rng: np.random.Generator) -> None:
    mask = rng.random((17, 12, 14)) < 0.005
    mask[3, 4, 5] = True
    wanted, region = np.where(mask, 0, -1), mask
    for step in range(1, 30):
        region = ndimage.binary_dilation(region, CONNECTIVITY)
        wanted[region & (wanted < 0)] = step
    assert np.array_equal(steps_from(mask), wanted)


# The dose that turns an answer


LINEAR = Network(Linear(), "linear", stride=(1, 1, 1), threshold=0.5)
"""A voxel is above the threshold where 2 FLAIR - T1 > 0, so a dose d adds 2.5 d times the lesion's shape to that."""


def finds(logits: np.ndarray, gains: np.ndarray, voxels: np.ndarray, shape: tuple[int, ...], dose: float) -> bool:
    """Whether six connected voxels are above zero, by a label image of the whole grid."""
    above = np.zeros(shape, dtype=bool)
    above[tuple(voxels[logits + dose * gains > 0].T)] = True
    labels, count = ndimage.label(above, CONNECTIVITY)
    return any(int((labels == n).sum()) >= 6 for n in range(1, count + 1))


@pytest.mark.parametrize(("level", "is_found"), [(1.0, True), (-0.8, False)])
def test_a_flip_is_where_a_linear_network_has_six_connected_voxels_by_hand(level: float, is_found: bool) -> None:
    subject = subject_in_memory(affine=UNEVEN)
    voxels = np.argwhere(ball(subject.shape, (12, 14, 10), 2.2))
    at = tuple(voxels.T)
    subject.image[:, *at] *= 0.3
    subject.image[0][at] += level
    shape = lesion_shape(subject, voxels).numpy()[0][at]
    logits = 2 * subject.image[0][at].numpy() - subject.image[1][at].numpy()
    flip = dose_to_flip(LINEAR, subject, voxels)
    assert flip.found == is_found == finds(logits, 2.5 * shape, voxels, subject.shape, 0)
    fine = np.arange(0, 4, 0.001) * (-1 if is_found else 1)
    turns = next(d for d in fine if finds(logits, 2.5 * shape, voxels, subject.shape, d) != is_found)
    assert abs(turns) <= abs(flip.dose) + 0.001 <= abs(turns) + DOSE_EXACT + 0.002
    assert np.sign(flip.dose) == (-1 if is_found else 1)
    assert abs(turns) % DOSE_STEP > DOSE_EXACT, "between two steps, so that halving is looked at"


def test_a_dose_that_is_never_enough_is_infinite_and_one_without_meaning_nan() -> None:
    subject = subject_in_memory()
    voxels = np.argwhere(ball(subject.shape, (12, 14, 10), 2))
    subject.image[0][tuple(voxels.T)] = 50.0
    assert dose_to_flip(LINEAR, subject, voxels) == (True, -np.inf)
    subject.image[0][tuple(voxels.T)] = -50.0
    assert dose_to_flip(LINEAR, subject, voxels) == (False, np.inf)
    unknown = replace(subject, channels=("dir", "swi"))
    with pytest.warns(UserWarning, match="NaN: it is not known whether lesions are bright or dark in dir, swi"):
        flip = dose_to_flip(LINEAR, unknown, voxels)
    assert (flip.found, np.isnan(flip.dose)) == (False, True)


def test_a_lesion_of_fewer_than_six_voxels_is_found_by_all_of_them() -> None:
    subject = subject_in_memory()
    subject.image[0, 12, 14, 8:11] = torch.tensor([1.0, 1.0, 0.2])
    subject.image[1, 12, 14, 8:11] = 0.0
    voxels = np.array([[12, 14, 8], [12, 14, 9], [12, 14, 10]])
    last = float(lesion_shape(subject, voxels)[0, 12, 14, 10])
    assert dose_to_flip(LINEAR, subject, voxels).dose == pytest.approx(-0.4 / (2.5 * last), abs=DOSE_EXACT)
