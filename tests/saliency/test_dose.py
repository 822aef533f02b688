"""Dose and response: a linear network's line, the whole volume each time, and the slope that the gradient tells."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers import Network, gradient
from ies_helpers.saliency.context import COLUMNS, dose_response
from ies_helpers.subjects.editing import add_lesion, lesion_pattern
from ies_helpers.teaching import Linear
from tests import oracles
from tests.networks import nnunet, unet
from tests.patients import subject_in_memory

EXACT = 1e-6
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
        assert row.score == pytest.approx(float(wanted.mean()), rel=EXACT)
        assert row.highest == pytest.approx(float(wanted.max()), rel=EXACT)


def test_its_slope_is_the_gradient_times_the_pattern() -> None:
    network, step = unet((3, 4, 5)), 1e-6
    low, high = dose_response(network, DOUBLE, PLACE, 60, [0.6 - step, 0.6 + step])["logit"]
    pattern, mask = lesion_pattern(DOUBLE, PLACE, 60)
    g = gradient(network, add_lesion(DOUBLE, PLACE, 60, 0.6).image, mask, aggregate="mean")
    assert (high - low) / (2 * step) == pytest.approx(float((g * pattern).sum()), rel=1e-4)


def test_the_table_is_tidy_in_the_order_asked_for() -> None:
    network = Network(Linear(), "linear", threshold=0.9)
    table = dose_response(network, SUBJECT, np.array(PLACE), 60, np.array([2.0, 0.0, 1.0]))
    assert list(table.columns) == COLUMNS
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


def test_a_probability_at_the_threshold_is_not_above_it() -> None:
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
