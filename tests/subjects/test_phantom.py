"""The synthetic patient: repeatable, sized as patients are, and its lesions look like lesions."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers.subjects.phantom import (
    AFFINE,
    BOX,
    CONNECTIVITY,
    GRID,
    _without_specks,
    phantom,
    phantom_scan,
    render,
    smooth_noise,
)
from ies_helpers.subjects.subject import Subject

Z_SCORE = 1e-3
"""Float32 mean and standard deviation over a million voxels are this close to 0 and 1."""


@pytest.fixture(scope="module")
def seven() -> Subject:
    return phantom(7)


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw FLAIR and T1 and the target of seed 7, drawn a second time."""
    return phantom_scan(7)


@pytest.fixture(scope="module")
def healthy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return phantom_scan(7, lesions=0)


def sizes(target: np.ndarray) -> np.ndarray:
    """Voxels of each 18-connected lesion."""
    labels, _ = ndimage.label(target, CONNECTIVITY)
    return np.bincount(labels.ravel())[1:]


def test_the_same_seed_gives_the_same_patient(seven: Subject, scan: tuple[np.ndarray, ...]) -> None:
    raw = torch.from_numpy(np.stack(scan[:2]))
    inside = raw != 0
    for channel in range(2):
        z, x = seven.image[channel][inside[channel]], raw[channel][inside[channel]]
        torch.testing.assert_close(z, (x - x.mean()) / x.std(correction=0), rtol=0, atol=1e-4)
    assert seven.target is not None
    assert torch.equal(seven.target, torch.from_numpy(scan[2]))


def test_another_seed_gives_another_brain_and_other_lesions(scan: tuple[np.ndarray, ...]) -> None:
    other = phantom_scan(8)
    assert ((scan[0] != 0) != (other[0] != 0)).sum() > 20_000
    assert (scan[2] & other[2]).sum() < 0.5 * min(scan[2].sum(), other[2].sum())


def test_a_phantom_lies_on_the_mni_grid_under_its_name(seven: Subject) -> None:
    assert seven.name == "phantom7"
    assert seven.shape == GRID
    assert seven.image.dtype == torch.float32
    np.testing.assert_array_equal(seven.affine, AFFINE)
    assert seven.header is not None
    np.testing.assert_allclose(seven.header.get_best_affine(), AFFINE)


def test_brain_lesions_and_load_are_as_large_as_patients_have_them(scan: tuple[np.ndarray, ...]) -> None:
    flair, _, target = scan
    found = sizes(target)
    assert 900_000 < (flair != 0).sum() < 1_350_000
    assert 8 <= len(found) <= 220
    assert found.min() >= 5
    assert np.median(found) < 200, "most lesions are small"
    assert 500 < target.sum() < 60_000
    assert not target[flair == 0].any(), "a lesion lies inside the brain"


def test_lesions_of_fewer_than_five_voxels_are_specks_and_go() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[1, 1, 1:5] = True
    mask[6, 6, 1:6] = True
    assert np.array_equal(np.argwhere(_without_specks(mask)), [[6, 6, k] for k in range(1, 6)])


def test_lesions_are_brighter_than_their_surround_on_flair_and_darker_on_t1(
    seven: Subject, scan: tuple[np.ndarray, ...], healthy: tuple[np.ndarray, ...]
) -> None:
    """Against the tissue around them, and against the same brain without lesions."""
    target = scan[2]
    shell = ndimage.binary_dilation(target, iterations=4) & ~ndimage.binary_dilation(target, iterations=2)
    white = shell & (scan[1] > 250)
    flair, t1 = seven.image.numpy()
    assert flair[target].mean() > flair[white].mean() + 0.5
    assert t1[target].mean() < t1[white].mean() - 0.2
    assert (scan[0][target] > healthy[0][target]).mean() > 0.9


def test_outside_the_brain_is_exactly_zero_and_inside_never(scan: tuple[np.ndarray, ...]) -> None:
    flair, t1, _ = scan
    brain = np.zeros(GRID, dtype=bool)
    brain[BOX] = ndimage.binary_fill_holes(flair[BOX] != 0)
    np.testing.assert_array_equal(flair != 0, brain)
    np.testing.assert_array_equal(t1 != 0, brain)


def test_each_channel_is_z_scored_over_the_brain(seven: Subject, scan: tuple[np.ndarray, ...]) -> None:
    inside = seven.image[:, torch.from_numpy(scan[0] != 0)]
    assert inside.mean(dim=1).abs().max() < Z_SCORE
    assert (inside.std(dim=1) - 1).abs().max() < Z_SCORE
    assert inside[0].quantile(0.005) < -1.5, "CSF is dark on FLAIR"


def test_no_lesions_asked_for_gives_the_same_brain_healthy(
    scan: tuple[np.ndarray, ...], healthy: tuple[np.ndarray, ...]
) -> None:
    assert healthy[2].sum() == 0
    np.testing.assert_array_equal(healthy[0] != 0, scan[0] != 0)


def test_a_contrast_weighs_the_maps_up_to_bias_and_noise(rng: np.random.Generator) -> None:
    maps = rng.uniform(0, 1, (9, 24, 24, 24)).astype(np.float16)
    brain = np.ones((24, 24, 24), dtype=bool)
    brain[:2] = False
    contrast = np.zeros((2, 9), dtype=np.float32)
    contrast[0, 0], contrast[1, 3] = 1, 2
    image = render(maps, brain, contrast, rng)
    assert (image[:, :2] == 0).all()
    for channel, clean in zip(image, (maps[0], 2 * maps[3]), strict=True):
        assert np.corrcoef(channel[brain], clean[brain])[0, 1] > 0.9


def test_smooth_noise_has_unit_variance_and_the_width_asked_for(rng: np.random.Generator) -> None:
    shape = (64, 64, 64)
    fine, coarse = smooth_noise(rng, 3, shape), smooth_noise(rng, 16, shape)
    np.testing.assert_allclose([fine.mean(), fine.std(), coarse.mean(), coarse.std()], [0, 1, 0, 1], atol=1e-3)
    neighbours = [(np.roll(noise, 4, axis=0) * noise).mean() for noise in (fine, coarse)]
    assert neighbours[0] < 0.3 < 0.7 < neighbours[1]


@pytest.mark.parametrize("seed", [1.5, "7", True, None])
def test_a_seed_that_is_no_whole_number_is_refused_in_one_sentence(seed: object) -> None:
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got .+; give an int such as 7\.$"):
        phantom(seed)  # pyright: ignore[reportArgumentType]


def test_negative_numbers_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^seed must be 0 or more, got -1; give an int such as 7\.$"):
        phantom(-1)
    with pytest.raises(ValueError, match=r"^lesions must be 0 or more, got -2; give an int such as 7\.$"):
        phantom(1, lesions=-2)
    with pytest.raises(TypeError, match=r"^lesions must be a whole number, got 2\.5"):
        phantom(1, lesions=2.5)  # pyright: ignore[reportArgumentType]
