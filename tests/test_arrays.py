"""Boxes against masks of the same voxels, lesions of any kind, and the checks that every floor needs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ies_helpers import deletion, road, smoothgrad
from ies_helpers.arrays import (
    Box,
    apart_mm,
    as_mask,
    as_voxels,
    check_choice,
    check_finite,
    check_same_grid,
    check_seed,
)
from ies_helpers.measures.removal import sensitivity, sensitivity_n
from ies_helpers.segmentation.lesions import Lesions, true_negatives
from ies_helpers.subjects.editing import healthy_places
from tests.networks import unet
from tests.patients import ball, lesion_of, subject_in_memory

SUBJECT = subject_in_memory()
LESION = lesion_of(ball(SUBJECT.shape, (10, 10, 10), 1.2))
ASKED = (torch.nn.Conv3d(2, 2, 3, padding=1), SUBJECT.image, LESION)
DRAWN: dict[str, Callable[[int], object]] = {
    "smoothgrad": lambda seed: smoothgrad(unet((3, 4)), SUBJECT.image, LESION, seed=seed),
    "deletion": lambda seed: deletion(*ASKED, SUBJECT.image, seed=seed),
    "road": lambda seed: road(*ASKED, SUBJECT.image, seed=seed),
    "sensitivity_n": lambda seed: sensitivity_n(*ASKED, [SUBJECT.image], seed=seed),
    "sensitivity": lambda seed: sensitivity(torch.ones_like, SUBJECT.image, seed=seed),
    "controls": lambda seed: true_negatives(SUBJECT, Lesions([LESION]), [LESION], seed=seed),
    "places": lambda seed: healthy_places(SUBJECT, 60, 1, seed=seed),
}


@pytest.mark.parametrize("what", DRAWN)
def test_a_negative_seed_is_refused_before_anything_is_drawn(what: str) -> None:
    with pytest.raises(ValueError, match=r"^seed must be 0 or more, got -1; take any whole number from 0 on\.$"):
        DRAWN[what](-1)


def test_a_seed_is_a_whole_number_of_any_kind_and_called_as_the_caller_calls_it() -> None:
    check_seed(0)
    check_seed(np.int64(7))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"seed of cohort\.toml must be 0 or more, got 1\.5"):
        check_seed(1.5, "seed of cohort.toml")  # pyright: ignore[reportArgumentType]


def test_a_seed_that_no_table_holds_is_refused() -> None:
    check_seed(2**63 - 1)
    with pytest.raises(ValueError, match=r"^seed must be below 2\^63, got 9223372036854775808; take a smaller one"):
        check_seed(2**63)


SHAPE = (7, 9, 5)


def masked(box: Box) -> np.ndarray:
    """The voxels of a box inside `SHAPE`, one by one."""
    inside = [all(s.start <= n < s.stop for s, n in zip(box, at, strict=True)) for at in np.ndindex(SHAPE)]
    return np.reshape(inside, SHAPE)


def test_boxes_are_what_masks_of_their_voxels_are(rng: np.random.Generator) -> None:
    for _ in range(60):
        corners = [np.sort(np.stack([rng.integers(0, n + 1, 2) for n in SHAPE], axis=1), axis=0) for _ in range(2)]
        one, other = (Box.of(start, stop) for start, stop in corners)
        a, b = masked(one), masked(other)
        assert (one.size, (one & other).size) == (a.sum(), (a & b).sum())
        assert np.array_equal(masked(one & other), a & b)
        if not (a.any() and b.any()):
            continue
        assert Box.around(a) == Box.around(np.argwhere(a)) == one
        assert one | other == Box.around(a | b)
        assert masked(one.grow(2, SHAPE))[tuple(np.argwhere(a).T)].all()
        distance = np.abs(np.argwhere(~np.zeros(SHAPE, bool))[:, None] - np.argwhere(a)).max(axis=2).min(axis=1)
        assert np.array_equal(masked(one.grow(2, SHAPE)).ravel(), distance <= 2)
        volume, outer = rng.normal(size=SHAPE), one | other
        assert np.array_equal(volume[outer][one.local(outer)], volume[one])
        assert volume[one].shape == one.shape
    assert Box.of((3, 0, 0), (1, 2, 2)).shape == (0, 2, 2)
    assert Box.whole(SHAPE).shape == SHAPE


def test_a_lesion_of_any_kind_is_the_same_voxels(rng: np.random.Generator) -> None:
    mask = rng.random(SHAPE) < 0.2
    voxels = np.argwhere(mask)
    for same in (mask, torch.from_numpy(mask), voxels, torch.from_numpy(voxels), lesion_of(mask)):
        assert np.array_equal(as_voxels(same, SHAPE), voxels)
        assert np.array_equal(as_mask(same, SHAPE), mask)


@pytest.mark.parametrize(
    ("given", "met"),
    [
        (np.zeros(SHAPE, dtype=bool), "got none"),
        (np.ones((2, 2, 2), dtype=bool), r"got bool of shape \(2, 2, 2\)"),
        (np.array([[1.0, 2, 3]]), "got float64"),
        (np.array([[1, 2, 5]]), r"from \[1 2 5\]"),
        (np.array([[-1, 2, 3]]), r"from \[-1  2  3\]"),
        (np.array([[1, 2, 3], [1, 2, 3]]), "got duplicates"),
    ],
)
def test_what_is_no_lesion_is_refused(given: np.ndarray, met: str) -> None:
    with pytest.raises(ValueError, match=met):
        as_voxels(given, SHAPE)


def test_how_far_two_affines_are_apart_is_the_worst_of_all_voxels(rng: np.random.Generator) -> None:
    one, other = (np.vstack([rng.normal(size=(3, 4)), [0, 0, 0, 1]]) for _ in range(2))
    wanted = max(np.linalg.norm((one - other) @ (*voxel, 1)) for voxel in np.ndindex(SHAPE))
    assert apart_mm(one, other, SHAPE) == pytest.approx(wanted)


def test_a_check_says_what_it_met() -> None:
    other = subject_in_memory((24, 28, 21))
    with pytest.raises(ValueError, match=r"got \(24, 28, 20\) and \(24, 28, 21\); do that\."):
        check_same_grid("Two", SUBJECT, other, "do that")
    moved = subject_in_memory(affine=SUBJECT.affine + 3 * np.eye(4, k=3))
    with pytest.raises(ValueError, match=r"lie up to 3 mm apart; do that\."):
        check_same_grid("Two", SUBJECT, moved, "do that")
    check_same_grid("Two", SUBJECT, subject_in_memory(affine=SUBJECT.affine + 0.01 * np.eye(4, k=3)), "do that")
    with pytest.raises(ValueError, match="2 values"):
        check_finite(np.array([1.0, np.nan, np.inf]), "It", "mend it")
    with pytest.raises(ValueError, match="one of a, b, got 'c'"):
        check_choice("it", "c", ("a", "b"))
