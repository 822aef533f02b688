"""Brain and white matter by intensity, without lesions, drawn or not."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ies_helpers import load_subject
from ies_helpers.subjects.tissue import (
    brain_mask,
    grey_levels,
    inner_white_matter,
    look_swapped,
    robust_deviation,
    white_matter,
)
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


def test_inner_white_matter_is_bright_in_t1_and_free_of_lesions() -> None:
    subject = load_subject("demo")
    assert subject.target is not None
    white, target = inner_white_matter(subject), subject.target.numpy()
    assert 0.15 < white.sum() / (subject.image[0].numpy() != 0).sum() < 0.5
    assert subject.image[1].numpy()[white].mean() > 0.8
    assert (white & target).sum() < 0.05 * target.sum()


def test_the_brain_is_where_any_channel_is_not_zero_and_what_that_encloses() -> None:
    image = torch.zeros(2, 9, 9, 9)
    image[0, 2:7, 2:7, 2:7] = 1
    image[0, 4, 4, 4] = 0
    image[1, 7, 4, 4] = -1
    wanted = np.zeros((9, 9, 9), dtype=bool)
    wanted[2:7, 2:7, 2:7], wanted[7, 4, 4] = True, True
    assert np.array_equal(brain_mask(image, filled=True), wanted)
    wanted[4, 4, 4] = False
    assert np.array_equal(brain_mask(image), wanted)


def test_a_robust_deviation_heeds_no_outliers() -> None:
    values = np.random.default_rng(0).normal(0, 2, 20_000)
    values[:400] = 1e6
    assert robust_deviation(values) == pytest.approx(2, rel=0.05)


def test_a_subject_without_t1_is_refused_with_what_it_has() -> None:
    lone = replace(brain(), image=brain().image[:1], channels=("flair",))
    with pytest.raises(ValueError, match=r"has flair and lacks t1"):
        white_matter(lone)


def test_flair_and_t1_that_are_swapped_look_so(openms: Path) -> None:
    """By their contrast, in the demo and the patient of least difference; noise and equal scans say nothing."""
    folder = openms / "cross_sectional" / "MNI" / "patient07"
    files = [next(folder.glob(f"{name}_*.nii.gz")) for name in ("FLAIR", "T1")]
    patient = np.stack([np.asanyarray(nibabel.load(path).dataobj) for path in files])
    scans = {"demo": load_subject("demo").image, "patient07": torch.from_numpy(patient)}
    for name, (flair, t1) in scans.items():
        assert not look_swapped(flair, t1), name
        assert look_swapped(t1, flair), name
        assert look_swapped(0.01 * t1, 7 * flair), name
        assert not look_swapped(flair, flair), name
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30, 30, 30)))
    assert not look_swapped(*noise)
    assert not look_swapped(*noise.flip(0))
    assert not look_swapped(*torch.zeros(2, 9, 9, 9))


def test_grey_levels_are_counted_where_there_is_brain() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 20, 20)))
    assert grey_levels(noise) > 5000
    assert grey_levels((noise > 0) + 2.0 * (noise > 1)) == 2
    assert grey_levels(torch.where(noise > 2.6, noise, 5.0)) == 1, "the 1 % at either end do not count"
    assert grey_levels(torch.zeros(4, 4, 4)) == 0
