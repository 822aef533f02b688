"""White matter around a lesion: found by intensity, averaged by plain weights, blurred to the grain asked for."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers.subjects.editing import Surround, _width
from ies_helpers.subjects.tissue import white_matter
from tests.patients import ball
from tests.subjects.test_editing import BRAIN, MIDDLE, SHAPE, WHITE, brain, with_lesion


def test_white_matter_is_bright_in_t1_and_usual_in_flair() -> None:
    subject = with_lesion(brain(0.05), MIDDLE, 3)
    unseen = torch.from_numpy(ball(SHAPE, (24, 34, 25), 2))
    subject.image[0][unseen] += 1.0  # a lesion that nobody drew
    found = white_matter(subject)
    healthy = WHITE & ~subject.target.numpy() & ~unseen.numpy() & (subject.image[1].numpy() > 0)
    assert found[healthy].mean() > 0.95
    assert not found[~healthy].any()


def test_usual_is_within_two_and_a_half_robust_standard_deviations() -> None:
    subject = brain(0.3)
    flair, t1 = subject.image.numpy()
    bright = BRAIN & (t1 > np.quantile(t1[BRAIN], 0.6))
    middle = np.median(flair[bright])
    robust = np.median(np.abs(flair[bright] - middle)) / 0.6744897501960817
    assert np.array_equal(white_matter(subject), bright & (np.abs(flair - middle) <= 2.5 * robust))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.8, 2.0)])
def test_the_level_is_the_weighted_mean_of_the_white_matter_around(spacing: tuple[float, float, float]) -> None:
    """The plain sum at three voxels; the gaussian as wide as the lesion is deep, and 2 mm more."""
    subject = with_lesion(brain(0.3, np.diag([*spacing, 1.0])), MIDDLE, 3)
    around = Surround(subject, subject.target.numpy())
    inside = ndimage.distance_transform_edt(around.mask, sampling=spacing)
    width, level = float(inside.max()) + 2, around.level()
    places = np.argwhere(around.white)
    for voxel in np.argwhere(around.mask)[::40]:
        weight = np.exp(-np.square((places - voxel) * spacing).sum(axis=1) / 2 / width**2)
        for channel, values in zip(around.image, level, strict=True):
            wanted = (weight * channel[around.white]).sum() / weight.sum()
            assert values[tuple(voxel)] == pytest.approx(wanted, abs=0.01)


def test_the_surround_lies_between_two_and_eight_millimetres() -> None:
    subject = with_lesion(brain(0.1, np.diag([1.0, 1.0, 1.6, 1.0])), MIDDLE, 2)
    around = Surround(subject, subject.target.numpy())
    lesion = np.argwhere(around.mask) * [1, 1, 1.6]
    for voxel in np.argwhere(around.white)[::50] * [1, 1, 1.6]:
        assert 2 < np.linalg.norm(lesion - voxel, axis=1).min() <= 8
    assert around.white.sum() > 500


@pytest.mark.parametrize("wanted", [0.05, 0.2, 0.5, 0.8, 0.94])
def test_noise_blurred_by_the_width_has_the_correlation_it_was_made_for(wanted: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(400_000), _width(wanted))
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(wanted, abs=0.01)


def test_constant_white_matter_has_a_level_and_no_texture() -> None:
    subject = with_lesion(brain(0.0), MIDDLE, 3)
    around = Surround(subject, subject.target.numpy())
    assert around.level()[:, around.mask] == pytest.approx(
        np.repeat([[0.1], [1.0]], around.mask.sum(), axis=1), abs=1e-5
    )
    assert np.abs(around.texture(0)).max() < 1e-5
