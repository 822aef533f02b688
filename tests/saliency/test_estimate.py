"""The time told up front: counted over voxels, parts and draws, by a clock that the test holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ies_helpers import Subject, load_network, prepare
from ies_helpers.saliency import estimate
from ies_helpers.saliency.estimate import estimate_scores, estimate_seconds, in_words
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.teaching import write_results
from tests.networks import unet

IMAGE = torch.randn(2, 16, 16, 64)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call costs 2 s for its forward pass and 0.5 s for each voxel."""
    monkeypatch.setattr(estimate, "_timed", lambda engine, image: 2.0 + 0.5 * len(engine.voxels))


@pytest.mark.usefixtures("clock")
def test_the_maximum_counts_forward_passes_and_voxels() -> None:
    network = unet((3, 4, 5))
    row = np.array([[7, 7, k] for k in range(20, 24)])  # one cell, one crop
    one, way = estimate_seconds(network, IMAGE, [row], aggregate="max", draws=1)
    assert way == "cone"
    assert one == pytest.approx(2.0 + 0.5 * 4)
    both, _ = estimate_seconds(network, IMAGE, [row, row + np.array([0, 0, 20])], aggregate="max", draws=10)
    assert both == pytest.approx(10 * 2 * (2.0 + 0.5 * 4))


@pytest.mark.usefixtures("clock")
def test_the_mean_is_scaled_by_what_is_looked_at() -> None:
    network = unet((3, 4, 5))
    small = np.array([[7, 7, 20]])
    once, way = estimate_seconds(network, IMAGE, [small], aggregate="mean")
    assert way == "crop"
    assert once == pytest.approx(2.5)
    engines = [LesionGradient(network, IMAGE, v, "mean") for v in (small, np.array([[7, 7, 20], [7, 7, 24]]))]
    sides = [e.box[2].stop - e.box[2].start for e in engines]
    both, _ = estimate_seconds(network, IMAGE, [e.voxels for e in engines], aggregate="mean")
    assert both == pytest.approx(2.5 * sum(sides) / sides[0])


@pytest.mark.usefixtures("clock")
def test_the_maximum_of_an_nnunet_on_its_own_grid_is_counted_by_fields(tmp_path: Path) -> None:
    """It has more voxels than are taken densely; each draw costs the same."""
    raw = 100 + 5 * torch.randn(2, 56, 80, 60, generator=torch.Generator().manual_seed(0))
    folder = write_results(tmp_path, folds=(0,))
    network, scan = prepare(load_network(folder, mirroring=False), Subject("toy", raw, np.eye(4), raw=raw))
    cube = np.argwhere(np.ones((3, 3, 3))) + 30
    once, way = estimate_seconds(network, scan.image, [cube])
    assert way == "fields"
    assert once > 2.5
    assert estimate_seconds(network, scan.image, [cube], draws=10)[0] == pytest.approx(10 * once)


def test_edited_images_are_scaled_by_what_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is 3 s after the last: one score of the smallest lesion takes 3 s."""
    monkeypatch.setattr(estimate.time, "perf_counter", iter(range(0, 100, 3)).__next__)
    network = unet((3, 4, 5))
    lesions = [np.array([[7, 7, 8], [7, 7, 50]]), np.array([[7, 7, 20]])]
    scores = [LesionScore(network, IMAGE, lesion) for lesion in lesions]
    large, small = (score.looked_at for score in scores)
    assert small == np.prod([s.stop - s.start for s in scores[1].box]) < large
    assert estimate_scores(scores, [10, 4]) == pytest.approx(3 * 4 + 3 * 10 * large / small)


def test_the_clock_is_read_around_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ticks = LesionGradient(unet((3, 4)), IMAGE, np.array([[7, 7, 20]]), "max"), iter((10.0, 13.0))
    monkeypatch.setattr(estimate.time, "perf_counter", ticks.__next__)
    assert estimate._timed(engine, IMAGE) == 3.0
    assert list(ticks) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (42.4, "42 s"), (600, "10 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_durations_are_told_in_the_unit_one_would_use(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
