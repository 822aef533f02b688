"""Curves, correlations and stability: known by hand on toy networks, written out on a U-Net, and captum's."""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max

from ies_helpers import gradient
from ies_helpers.measures.removal import (
    Curve,
    deletion,
    faithfulness_correlation,
    insertion,
    sensitivity,
    sensitivity_n,
)
from ies_helpers.teaching import Linear, Neighbourhood, Quadratic, Shifted
from tests import oracles
from tests.networks import unet

EXACT = 1e-9
SINGLE = 1e-5
"""Sums and logits in float32."""

EVERYWHERE = torch.ones(10, 10, 10, dtype=torch.bool)
LINE = np.array([[4, 4, 2], [4, 4, 3], [4, 4, 4], [4, 4, 5]])
VALUES = np.array([1.0, 0.25, 2.0, 0.5])
REGION = torch.zeros(10, 10, 10, dtype=torch.bool)
REGION[tuple(LINE.T)] = True


@pytest.fixture
def image() -> torch.Tensor:
    image = torch.randn(2, 10, 10, 10)
    image[(0, *torch.as_tensor(LINE).T)] = torch.tensor(VALUES).float()
    return image


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_curves_of_a_linear_network_are_known(image: torch.Tensor) -> None:
    """Logit 2 x of four voxels, map = brightness, zero fill: each deleted voxel falls to one half."""
    network, saliency = Linear((2.0, 0.0)), image.clamp(min=0)[:1]
    p = sigmoid(2 * np.sort(VALUES)[::-1])
    gone = [float(np.r_[np.full(n, 0.5), p[n:]].mean()) for n in range(5)]
    back = [float(np.r_[p[:n], np.full(4 - n, 0.5)].mean()) for n in range(5)]
    settings = {"region": REGION, "fill": "zero", "steps": 9}
    for curve, wanted in (
        (deletion(network, image, LINE, saliency, **settings), gone),
        (insertion(network, image, LINE, saliency, **settings), back),
    ):
        assert curve.voxels.tolist() == [0, 1, 2, 3, 4]
        assert curve.scores == pytest.approx(wanted, abs=EXACT)
        assert curve.area == pytest.approx((wanted[0] + 2 * sum(wanted[1:4]) + wanted[4]) / 8)


def test_areas_are_trapezoids_over_the_fraction_and_over_its_logarithm() -> None:
    curve = Curve(np.array([0, 1, 10, 100]), np.array([1.0, 0.8, 0.4, 0.0]), 0.0)
    assert curve.fractions.tolist() == [0, 0.01, 0.1, 1]
    assert curve.area == pytest.approx(0.01 * 0.9 + 0.09 * 0.6 + 0.9 * 0.2)
    assert curve.log_area == pytest.approx((0.6 + 0.2) / 2)


def test_a_curve_starts_with_all_or_nothing_and_ends_with_the_other(image: torch.Tensor) -> None:
    settings = {"region": EVERYWHERE, "fill": "zero", "steps": 12}
    saliency = torch.rand(1, 10, 10, 10)
    gone = deletion(Neighbourhood(), image, LINE, saliency, **settings)
    back = insertion(Neighbourhood(), image, LINE, saliency, **settings)
    clean = oracles.lesion_probabilities(oracles.Network(Neighbourhood()), image, LINE)
    assert gone.scores[[0, -1]] == pytest.approx([float(clean.mean()), 0.5], abs=SINGLE)
    assert back.scores[[0, -1]] == pytest.approx([0.5, float(clean.mean())], abs=SINGLE)
    assert gone.voxels.tolist() == back.voxels.tolist() == [0, *np.rint(np.geomspace(1, 1000, 12)).tolist()]


def test_a_better_map_falls_faster_and_rises_faster(image: torch.Tensor) -> None:
    """The network looks 3 voxels away: a map of the cue beats a map of the lesion by both curves."""
    image[0] = image[0].abs() + 1
    cue, lesion = torch.zeros(1, 10, 10, 10), torch.zeros(1, 10, 10, 10)
    cue[(0, *torch.as_tensor(LINE + np.array([3, 0, 0])).T)] = 1.0
    lesion[(0, *torch.as_tensor(LINE).T)] = 1.0
    settings = {"region": EVERYWHERE, "fill": "zero"}
    for how, sign in ((deletion, -1), (insertion, 1)):
        good, bad = (how(Shifted(3), image, LINE, saliency, **settings) for saliency in (cue, lesion))
        assert sign * good.log_area > sign * bad.log_area + 0.1
        assert sign * good.area > sign * bad.area


def literal_correlation(
    network, image: torch.Tensor, lesion: np.ndarray, saliency: torch.Tensor, region: torch.Tensor, size: int, seed: int
) -> float:
    """Pearson's r over 20 subsets, each edited and scored on the whole volume."""
    voxels, rng, given, falls = np.argwhere(region.numpy()), np.random.default_rng([seed, 2, 0]), [], []
    at = tuple(torch.as_tensor(lesion).T)
    with torch.no_grad():
        clean = oracles.whole(network)(image[None])[at].mean()
        for _ in range(20):
            subset = voxels[rng.choice(len(voxels), size, replace=False)]
            edited = image.clone()
            edited[(slice(None), *subset.T)] = 0
            given.append(float(saliency[(slice(None), *subset.T)].sum()))
            falls.append(float(clean - oracles.whole(network)(edited[None])[at].mean()))
    return float(np.corrcoef(given, falls)[0, 1])


def test_the_correlation_is_what_the_plain_loop_gives() -> None:
    network, image = unet((3, 4)), torch.randn(2, 20, 18, 16, dtype=torch.float64)
    lesion, region = np.array([[10, 9, 8], [10, 10, 8]]), torch.zeros(20, 18, 16, dtype=torch.bool)
    region[7:14, 6:13, 5:12] = True
    saliencies = [torch.randn(2, 20, 18, 16), gradient(network, image, lesion, aggregate="mean") * image]
    got = faithfulness_correlation(network, image, lesion, saliencies, fraction=0.3, subsets=20, region=region, seed=7)
    size = round(0.3 * 343)
    wanted = [literal_correlation(network, image, lesion, s, region, size, 7) for s in saliencies]
    assert got == pytest.approx(wanted, abs=SINGLE)


def test_input_times_gradient_of_a_linear_network_correlates_perfectly(image: torch.Tensor) -> None:
    saliency = gradient(Neighbourhood(), image, LINE, aggregate="mean") * image
    settings = {"region": EVERYWHERE, "fractions": [0.05, 0.5], "subsets": 30}
    found = sensitivity_n(Neighbourhood(), image, LINE, [saliency, -saliency, 3 * saliency], **settings)
    assert found == pytest.approx(np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]), abs=SINGLE)


def test_every_map_sees_the_same_subsets_and_the_seed_decides_them(image: torch.Tensor) -> None:
    one, other = torch.randn(2, 2, 10, 10, 10)
    settings = {"region": EVERYWHERE, "fraction": 0.2, "subsets": 10}
    both = faithfulness_correlation(Neighbourhood(), image, LINE, [one, other], **settings)
    alone = [faithfulness_correlation(Neighbourhood(), image, LINE, [m], **settings)[0] for m in (one, other)]
    assert both.tolist() == alone
    assert faithfulness_correlation(Neighbourhood(), image, LINE, [one], seed=1, **settings)[0] != both[0]


def test_without_variation_there_is_no_correlation(image: torch.Tensor) -> None:
    settings = {"region": EVERYWHERE, "fractions": [0.2], "subsets": 5}
    empty = sensitivity_n(Neighbourhood(), image, LINE, [torch.zeros(1, 10, 10, 10)], **settings)
    deaf = sensitivity_n(Linear((0.0, 0.0)), image, LINE, [torch.rand(1, 10, 10, 10)], **settings)
    assert np.isnan([*empty[0], *deaf[0]]).all()


def test_stability_is_captums_maximum_of_the_same_draws(image: torch.Tensor) -> None:
    def explain(volume: torch.Tensor) -> torch.Tensor:
        return gradient(unet((3, 4)), volume, LINE, aggregate="sum")

    image = image.double()
    got = sensitivity(explain, image, draws=4, bound=0.3, seed=2)
    noise = [np.random.default_rng([2, 4, n]).uniform(-0.3, 0.3, (2, 10, 10, 10)) for n in range(4)]

    def as_captum_asks(given: torch.Tensor | tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        batch = given[0] if isinstance(given, tuple) else given
        return (torch.stack([explain(volume) for volume in batch]),)

    moved = image + torch.from_numpy(np.stack(noise))
    wanted = sensitivity_max(as_captum_asks, image[None], perturb_func=lambda _: moved, n_perturb_samples=4)
    assert got.max() == pytest.approx(float(wanted), rel=SINGLE)
    assert len(set(got)) == 4


def test_the_map_of_a_quadratic_network_changes_as_the_image_does(image: torch.Tensor) -> None:
    """Gradient 2 x on the lesion: the change is the noise's norm there over the image's."""
    got = sensitivity(lambda x: gradient(Quadratic(), x, LINE, aggregate="sum"), image, draws=3, bound=0.2)
    at = (slice(None), *LINE.T)
    noise = [np.random.default_rng([0, 4, n]).uniform(-0.2, 0.2, (2, 10, 10, 10))[at] for n in range(3)]
    assert got == pytest.approx([np.linalg.norm(e) / np.linalg.norm(image.numpy()[at]) for e in noise], rel=SINGLE)


def test_the_map_of_a_linear_network_does_not_change_and_an_empty_one_has_no_stability(image: torch.Tensor) -> None:
    assert sensitivity(lambda x: gradient(Linear(), x, LINE), image, draws=2).tolist() == [0, 0]
    assert np.isnan(sensitivity(torch.zeros_like, image, draws=2)).all()


def test_what_cannot_be_measured_is_refused(image: torch.Tensor) -> None:
    saliency, one = torch.rand(1, 10, 10, 10), torch.zeros(10, 10, 10, dtype=torch.bool)
    one[4, 4, 2] = True
    with pytest.raises(ValueError, match="region of 2 voxels and 2 steps or more, got 1 and 24"):
        deletion(Linear(), image, LINE, saliency, region=one)
    with pytest.raises(ValueError, match="region of 2 voxels and 2 steps or more, got 4 and 1"):
        insertion(Linear(), image, LINE, saliency, region=REGION, steps=1)
    with pytest.raises(ValueError, match="needs a voxel that is kept"):
        deletion(Neighbourhood(), image, LINE, saliency, region=EVERYWHERE, fill="linear")
    with pytest.raises(ValueError, match="at least 2 subsets, got 1"):
        sensitivity_n(Linear(), image, LINE, [saliency], subsets=1)
    with pytest.raises(ValueError, match="must share their grid"):
        sensitivity_n(Linear(), image, LINE, [saliency[:, 1:]], region=REGION, fractions=[0.5])
    with pytest.raises(ValueError, match=r"saliencies must hold a map to correlate, got none; give \[saliency\]"):
        sensitivity_n(Linear(), image, LINE, [])
    with pytest.raises(ValueError, match="bound above 0, got 3 and 0"):
        sensitivity(torch.zeros_like, image, draws=3, bound=0)
