"""Synthetic lesions: one thing changes, by the formula, and all else stays to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers import Lesion, Subject
from ies_helpers.segmentation.lesions import components
from ies_helpers.subjects.editing import (
    Surround,
    _width,
    add_lesion,
    healthy_places,
    lesion_contrast,
    lesion_pattern,
    lesion_shape,
    remove_lesion,
)
from ies_helpers.subjects.tissue import white_matter
from tests.patients import AFFINE, ball, lesion_of

SHAPE = (48, 52, 50)
MIDDLE = (24, 26, 25)
STORED = 1e-6
"""Sums in float64 rounded to float32."""

BRAIN = ball(SHAPE, MIDDLE, 22)
WHITE = ball(SHAPE, MIDDLE, 16)
CSF = ball(SHAPE, (24, 26, 12), 4)


def brain(scatter: float = 0.0, affine: np.ndarray = AFFINE, seed: int = 0) -> Subject:
    """White matter of FLAIR 0.1 and T1 1 in a shell of cortex, a ventricle in it, blurred noise on all; no lesion."""
    noise = np.random.default_rng(seed).standard_normal((2, *SHAPE))
    noise = np.stack([ndimage.gaussian_filter(n, 0.7) for n in noise])
    flair = np.where(WHITE, 0.1, 0.6) - 2.0 * CSF
    t1 = np.where(WHITE, 1.0, -0.8) - 2.5 * CSF
    image = (np.stack([flair, t1]) + scatter * noise / noise.std()) * BRAIN
    target = torch.zeros(SHAPE, dtype=torch.bool)
    return Subject("toy", torch.from_numpy(image.astype(np.float32)), affine, target=target, source={"subject": "x"})


def with_lesion(subject: Subject, centre: tuple[int, int, int], radius: float, rise: float = 1.5) -> Subject:
    """A lesion with hard edges, painted by hand."""
    mask = torch.from_numpy(ball(SHAPE, centre, radius) & BRAIN)
    image = subject.image.clone()
    image[0][mask] = image[0][mask] + rise
    image[1][mask] = image[1][mask] - rise / 2
    return replace(subject, image=image, target=subject.target | mask)


def alike(rest: np.ndarray, mask: np.ndarray) -> float:
    """Correlation about 0 of neighbours along the first axis of each `(B, I, J, K)` volume, both in the mask."""
    both = mask[1:] & mask[:-1]
    return float((rest[:, 1:][:, both] * rest[:, :-1][:, both]).mean() / np.square(rest[:, mask]).mean())


# Added


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 3.0)])
def test_each_voxel_gains_what_the_formula_says(spacing: tuple[float, float, float]) -> None:
    subject = brain(0.1, np.diag([*spacing, 1.0]))
    grown = add_lesion(subject, MIDDLE, 200.0, 1.3)
    gain = (grown.image.double() - subject.image.double()).numpy()
    radius, shares = (200 * 3 / 4 / np.pi) ** (1 / 3), {}
    for voxel in np.argwhere(ball(SHAPE, MIDDLE, 11)):
        distance = sum(((v - c) * s) ** 2 for v, c, s in zip(voxel, MIDDLE, spacing, strict=True)) ** 0.5
        shares[tuple(voxel)] = 1 / (1 + np.exp((distance - radius) / 0.5)) if distance < radius + 2 else 0.0
    mean = np.mean([share for share in shares.values() if share >= 0.5])
    for voxel, share in shares.items():
        assert gain[:, *voxel] == pytest.approx([1.3 * share / mean, -0.65 * share / mean], abs=STORED)
    assert not gain[:, ~ball(SHAPE, MIDDLE, 11)].any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 3.0)])
def test_a_lesions_own_shape_fades_half_a_voxel_outside_its_border(spacing: tuple[float, float, float]) -> None:
    """Each voxel by a loop: half of the shortest side less than its distance to the nearest voxel of the other kind."""
    subject = brain(0.1, np.diag([*spacing, 1.0]))
    own = ball(SHAPE, MIDDLE, 2.5)
    own[MIDDLE] = False  # a hole is no lesion
    shape = lesion_shape(subject, own).double().numpy()
    inside, around = np.argwhere(own), np.argwhere(ball(SHAPE, MIDDLE, 7) & ~own)
    both, shares = {True: inside, False: around}, {}
    for is_own, voxels in both.items():
        for voxel in voxels:
            away = np.sqrt((((both[not is_own] - voxel) * spacing) ** 2).sum(axis=1)).min() - min(spacing) / 2
            share = 1 / (1 + np.exp((-away if is_own else away) / 0.5))
            shares[tuple(voxel)] = share if is_own or away < 2 else 0.0
    mean = np.mean([shares[tuple(voxel)] for voxel in inside])
    for voxel, share in shares.items():
        assert shape[:, *voxel] == pytest.approx([share / mean, -0.5 * share / mean], abs=STORED)
    assert shape[0][own].mean() == pytest.approx(1, abs=STORED)


def test_a_shape_ends_with_the_brain_and_lies_in_it() -> None:
    subject = brain()
    edge = ball(SHAPE, (24, 26, 47), 3)
    assert (edge & ~BRAIN).any()
    assert not lesion_shape(subject, edge)[:, ~torch.from_numpy(BRAIN)].any()
    unknown = replace(subject, channels=("flair", "dir"))
    assert not lesion_shape(unknown, edge)[1].any()
    with pytest.raises(ValueError, match="this one lies where toy is 0"):
        lesion_shape(subject, ball(SHAPE, (1, 1, 1), 1))


def test_the_image_is_linear_in_the_contrast() -> None:
    subject = brain(0.1)
    pattern, _ = lesion_pattern(subject, MIDDLE, 100)
    for contrast in (-0.5, 0.0, 0.3, 2.0):
        assert torch.equal(add_lesion(subject, MIDDLE, 100, contrast).image, subject.image + contrast * pattern)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 1.5)])
@pytest.mark.parametrize("size", [30.0, 100.0, 800.0])
def test_the_lesion_has_its_size_and_is_one_piece_in_the_target(size: float, spacing) -> None:
    subject = brain(affine=np.diag([*spacing, 1.0]))
    grown = add_lesion(subject, MIDDLE, size, 1.0)
    assert grown.target is not None
    assert len(components(grown.target.numpy())) == 1
    assert int(grown.target.sum()) * np.prod(spacing) == pytest.approx(size, rel=0.2)
    assert torch.equal(grown.target, lesion_pattern(subject, MIDDLE, size)[1])
    assert bool(grown.target[MIDDLE])


def test_the_subject_given_stays_and_the_new_one_has_its_geometry() -> None:
    subject = brain(0.1)
    image, target = subject.image.clone(), subject.target.clone()
    grown = add_lesion(subject, MIDDLE, 100, 1.0)
    remove_lesion(grown, grown.target)
    assert torch.equal(subject.image, image)
    assert torch.equal(subject.target, target)
    assert (grown.name, grown.source, grown.channels) == ("toyplus", {}, subject.channels)
    assert np.array_equal(grown.affine, subject.affine)
    assert grown.image.dtype == torch.float32


def test_an_unknown_target_stays_unknown() -> None:
    assert add_lesion(replace(brain(), target=None), MIDDLE, 100, 1.0).target is None


def test_an_invisible_lesion_changes_the_target_alone() -> None:
    grown = add_lesion(brain(0.1), MIDDLE, 100, 0.0)
    assert torch.equal(grown.image, brain(0.1).image)
    assert grown.target.any()


def test_a_lesion_ends_where_the_brain_ends() -> None:
    subject = brain(0.1)
    grown = add_lesion(subject, (24, 26, 46), 300, 1.0)
    assert torch.equal(grown.image[:, ~BRAIN], torch.zeros(2, int((~BRAIN).sum())))
    assert not (grown.target.numpy() & ~BRAIN).any()


MISTAKES = {
    "beyond the volume": (
        {"place": (24, 26, 50)},
        r"place must lie in the brain, got voxel \(24, 26, 50\).*48 x 52 x 50",
    ),
    "before the volume": ({"place": (-1, 26, 25)}, r"place must lie in the brain, got voxel \(-1, 26, 25\)"),
    "in air": ({"place": (1, 1, 1)}, "place must lie in the brain, .* where there is none; healthy_places"),
    "half a voxel": ({"place": (24.5, 26, 25)}, r"place must be a voxel \(i, j, k\) in whole numbers, got \(24.5"),
    "two axes": ({"place": (24, 26)}, r"place must be a voxel \(i, j, k\)"),
    "no size": ({"size": 0}, "size in mm3 above 0, got 0"),
    "less than no size": ({"size": -5.0}, "size in mm3 above 0, got -5"),
    "unknown size": ({"size": float("nan")}, "size in mm3 above 0, got nan"),
    "endless size": ({"size": float("inf")}, "size in mm3 above 0, got inf"),
    "unknown contrast": ({"contrast": float("nan")}, "contrast must be a finite number of z-scored units, got nan"),
    "endless contrast": ({"contrast": float("inf")}, "contrast must be a finite number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_a_lesion_is_refused(mistake: str) -> None:
    given, told = MISTAKES[mistake]
    with pytest.raises(ValueError, match=told):
        add_lesion(brain(), **({"place": MIDDLE, "size": 100, "contrast": 1.0} | given))


def test_instances_of_a_target_follow_what_is_edited() -> None:
    subject = brain()
    first = add_lesion(subject, (24, 36, 25), 60, 1.0)
    assert first.target is not None
    numbers = 4 * first.target.int()
    both = add_lesion(replace(first, instances=numbers), (24, 16, 25), 60, 1.0)
    assert both.instances is not None
    assert torch.equal(both.instances == 4, first.target)
    assert torch.equal(both.instances == 5, both.target & ~first.target)
    left = remove_lesion(both, both.instances == 4)
    assert left.instances is not None
    assert torch.equal(left.instances, 5 * (both.instances == 5))


def test_a_lesion_that_overlaps_or_touches_another_is_refused_and_one_beside_it_is_not() -> None:
    """19 voxels around the place: the ball of radius 1.5; the neighbour's first voxel moves away along a row."""
    size = 4 / 3 * np.pi * 1.5**3
    for gap, meets in ((0, True), (1, True), (2, True), (3, False)):
        subject = brain()
        subject.target[24, 26, 25 + gap] = True
        if meets:
            with pytest.raises(
                ValueError, match=r"must not touch another, one of 14\.1372 mm3 there would meet 1 voxels"
            ):
                add_lesion(subject, MIDDLE, size, 1.0)
        else:
            assert int(add_lesion(subject, MIDDLE, size, 1.0).target.sum()) == 20


# Places


def test_healthy_places_are_free_white_and_the_same_for_the_same_seed() -> None:
    subject = with_lesion(brain(0.1), (18, 26, 25), 3)
    places = healthy_places(subject, 60, 25, seed=3)
    assert np.array_equal(places, healthy_places(subject, 60, 25, seed=3))
    assert not np.array_equal(places, healthy_places(subject, 60, 25, seed=4))
    assert np.array_equal(places[:4], healthy_places(subject, 60, 4, seed=3))
    assert len(np.unique(places, axis=0)) == 25
    for place in places:
        _, mask = lesion_pattern(subject, place, 60)
        assert WHITE[mask.numpy()].mean() > 0.95
        grown = add_lesion(subject, place, 60, 1.0)
        assert torch.equal(grown.image[:, subject.target], subject.image[:, subject.target])


def test_places_have_room_in_millimetres_along_each_axis() -> None:
    """White matter averaged with gaussian weights 2 mm wider than the ball: as many places as the formula finds."""
    subject, radius = brain(0.1, np.diag([1.0, 1.0, 3.0, 1.0])), (50 * 3 / 4 / np.pi) ** (1 / 3)
    width = (radius + 2) / np.array([1.0, 1.0, 3.0])
    free = ndimage.gaussian_filter(white_matter(subject).astype(np.float32), width) > 0.8
    assert free.sum() > 100
    places = healthy_places(subject, 50, int(free.sum()))
    assert {tuple(p) for p in places} == {tuple(p) for p in np.argwhere(free)}
    with pytest.raises(ValueError, match=f"got {free.sum()}; ask for less"):
        healthy_places(subject, 50, int(free.sum()) + 1)


def test_too_many_or_too_large_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r"toy must have 3 places with room for 30000 mm3, got 0; ask for less"):
        healthy_places(brain(0.1), 30000, 3)
    with pytest.raises(ValueError, match="size in mm3 above 0"):
        healthy_places(brain(0.1), 0, 3)
    with pytest.raises(ValueError, match="count must be 1 or more places, got -1; say how many you need"):
        healthy_places(brain(0.1), 60, -1)


# Measured


def test_the_contrast_of_a_lesion_is_its_mean_less_the_white_matter_around() -> None:
    grown = add_lesion(brain(0.0), MIDDLE, 150, 1.4)
    assert grown.target is not None
    assert lesion_contrast(grown, grown.target) == pytest.approx({"flair": 1.4, "t1": -0.7}, abs=1e-5)


def test_the_contrast_is_to_the_median_of_the_white_matter_which_a_few_bright_voxels_do_not_move() -> None:
    subject, lesion = brain(0.1), ball(SHAPE, MIDDLE, 3)
    around = Surround(subject, lesion)
    some = np.zeros(SHAPE, dtype=bool)
    some[around.box] = around.white & (np.random.default_rng(1).random(around.white.shape) < 0.2)
    subject.image[1][torch.from_numpy(some)] += 3.0
    around = Surround(subject, lesion)
    t1 = around.image[1]
    middle = np.median(t1[around.white])
    assert t1[around.white].mean() - middle > 0.3
    wanted = subject.image[1].numpy()[lesion].mean() - middle
    assert lesion_contrast(subject, lesion)["t1"] == pytest.approx(wanted, abs=1e-5)


# Removed


def test_without_noise_what_was_added_is_gone() -> None:
    """Exactly so inside; beyond, the faint rest of the soft edge stays, less than an eighth of the contrast."""
    subject = brain(0.0)
    grown = add_lesion(subject, MIDDLE, 200, 1.5)
    back = remove_lesion(grown, grown.target)
    difference = (back.image - subject.image).abs()
    assert float(difference[:, grown.target].max()) < 1e-5
    assert float(difference.max()) < 1.5 / 8
    assert not back.target.any()
    assert back.name == "toyplusminus"


@pytest.mark.parametrize(("radius", "seeds"), [(2.3, 60), (5.0, 15)])
def test_the_fill_has_the_level_scatter_and_grain_of_white_matter(radius: float, seeds: int) -> None:
    subject = with_lesion(brain(0.2), (24, 26, 29), radius)
    mask = subject.target.numpy()
    assert lesion_contrast(subject, mask)["flair"] > 1.3
    fills = np.stack([remove_lesion(subject, mask, seed=seed).image.numpy() for seed in range(seeds)])
    filled = fills[:, :, mask]
    assert filled[:, 0].mean() == pytest.approx(0.1, abs=0.1)
    assert filled[:, 1].mean() == pytest.approx(1.0, abs=0.1)
    for channel, level in ((0, 0.1), (1, 1.0)):
        assert filled[:, channel].std() == pytest.approx(0.2, rel=0.15)
        wanted = alike(subject.image[channel].numpy()[None] - level, WHITE & ~mask & ~CSF)
        assert alike(fills[:, channel] - level, mask) == pytest.approx(wanted, abs=0.1)


def test_the_fill_depends_on_the_seed_alone() -> None:
    subject = with_lesion(brain(0.2), MIDDLE, 4)
    one, same, other = (remove_lesion(subject, subject.target, seed=seed).image for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert float((one - other)[:, subject.target].std()) > 0.1


def test_nothing_changes_beyond_two_millimetres_nor_outside_the_brain() -> None:
    subject = with_lesion(brain(0.2), (24, 26, 44), 4)  # at the brain's edge
    gone = remove_lesion(subject, subject.target)
    far = ndimage.distance_transform_edt(~subject.target.numpy()) >= 2
    assert torch.equal(gone.image[:, far | ~BRAIN], subject.image[:, far | ~BRAIN])
    assert not torch.equal(gone.image[:, subject.target], subject.image[:, subject.target])


def test_the_halo_goes_and_a_ventricle_beside_the_lesion_stays() -> None:
    subject = with_lesion(brain(0.0), (24, 26, 20), 4)  # its border reaches the ventricle's
    halo = ball(SHAPE, (24, 26, 20), 4.99) & ~ball(SHAPE, (24, 26, 20), 4) & WHITE & ~CSF
    subject.image[0][torch.from_numpy(halo)] += 0.7
    gone = remove_lesion(subject, subject.target)
    beside = CSF & ~subject.target.numpy()
    assert torch.equal(gone.image[:, beside], subject.image[:, beside])
    assert float(gone.image[0][torch.from_numpy(halo)].mean()) < 0.1 + 0.2 * 0.7


def test_white_matter_beside_a_lesion_that_scatters_as_usual_is_no_halo() -> None:
    """Hard edges, so there is none: what lies no further above the level than its scatter stays to the last bit."""
    subject = with_lesion(brain(0.2), MIDDLE, 4)
    gone = remove_lesion(subject, subject.target)
    distance = ndimage.distance_transform_edt(~subject.target.numpy())
    ring = WHITE & (distance > 0) & (distance < 2)
    flair = subject.image[0].numpy()
    changed = (gone.image != subject.image).any(dim=0).numpy()
    assert not changed[ring & (flair < 0.2)].any()
    assert 0 < changed[ring].mean() < 0.3


def test_a_lesion_goes_whole_and_its_neighbour_stays() -> None:
    subject = with_lesion(with_lesion(brain(0.2), (20, 26, 26), 3), (28, 26, 26), 3)  # one voxel apart
    first, second = (torch.from_numpy(ball(SHAPE, (i, 26, 26), 3)) for i in (20, 28))
    part = np.array([[20, 26, 26], [21, 26, 26]])
    gone = remove_lesion(subject, part)
    assert torch.equal(gone.target, second)
    assert torch.equal(gone.image[:, second], subject.image[:, second])
    assert float(gone.image[0][first].mean()) == pytest.approx(0.1, abs=0.15)


def test_a_neighbour_that_meets_it_at_a_corner_is_another_lesion_and_stays() -> None:
    """18-connectivity: corners do not touch. Its first voxel is 1.7 mm away and bright, as a halo would be."""
    subject = brain(0.2)
    first, second = (torch.zeros(SHAPE, dtype=torch.bool) for _ in range(2))
    first[20:24, 20:24, 24:28] = True
    second[24:28, 24:28, 28:32] = True
    subject.image[0][first | second] += 1.5
    subject = replace(subject, target=first | second)
    gone = remove_lesion(subject, first)
    assert torch.equal(gone.target, second)
    assert torch.equal(gone.image[:, second], subject.image[:, second])


def test_a_mask_that_reaches_out_of_the_brain_leaves_the_outside_empty() -> None:
    subject = brain(0.2)
    gone = remove_lesion(subject, ball(SHAPE, (24, 26, 44), 5))
    assert not gone.image[:, ~BRAIN].any()
    assert not torch.equal(gone.image, subject.image)


def test_what_nobody_drew_can_go_too_and_the_target_stays() -> None:
    subject = with_lesion(brain(0.2), MIDDLE, 3)
    drawn = with_lesion(subject, (24, 34, 25), 3).target & ~subject.target
    gone = remove_lesion(subject, drawn)
    assert torch.equal(gone.target, subject.target)
    assert remove_lesion(replace(subject, target=None), drawn).target is None


def test_a_lesion_a_mask_and_voxels_are_the_same() -> None:
    subject = with_lesion(brain(0.2), MIDDLE, 3)
    mask = subject.target
    lesion: Lesion = lesion_of(mask.numpy())
    wanted = remove_lesion(subject, mask).image
    for same in (lesion, mask.numpy(), np.argwhere(mask.numpy())):
        assert torch.equal(remove_lesion(subject, same).image, wanted)
        assert lesion_contrast(subject, same) == lesion_contrast(subject, mask)


NONE = {
    "empty": np.zeros(SHAPE, dtype=bool),
    "another grid": np.ones((4, 4, 4), dtype=bool),
    "no integers": np.array([[24.0, 26, 25]]),
    "outside": np.array([[24, 26, 50]]),
    "before": np.array([[-1, 26, 25]]),
    "no voxels": np.empty((0, 3), dtype=int),
}


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_lesion_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match="A lesion must"):
        remove_lesion(brain(), NONE[what])


def test_a_lesion_without_white_matter_around_is_refused() -> None:
    lonely = np.argwhere(BRAIN & ~ball(SHAPE, MIDDLE, 18))  # all of the cortex
    subject = brain()
    subject.target[WHITE] = True
    with pytest.raises(
        ValueError, match=r"must be 30 voxels of white matter within 8 mm of a lesion to fill it .* got 0"
    ):
        remove_lesion(subject, lonely)
    assert all(np.isnan(value) for value in lesion_contrast(subject, lonely).values())


# What surrounds a lesion: averaged by plain weights, blurred to the grain asked for.


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
