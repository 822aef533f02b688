"""Removal: the published imputation written out, closed forms on networks known by hand, plain loops, captum's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max

from ies_helpers import gradient
from ies_helpers.measures.removal import (
    IMPUTATION_NOISE,
    NEIGHBOUR_WEIGHTS,
    NEIGHBOURS,
    ROAD_FRACTIONS,
    Curve,
    Removal,
    Replacement,
    count_voxels,
    deletion,
    faithfulness_correlation,
    impute,
    insertion,
    road,
    sensitivity,
    sensitivity_n,
    share_of_ties,
)
from ies_helpers.segmentation.network import Through
from ies_helpers.teaching import Linear, Neighbourhood, Quadratic, Shifted
from tests import oracles
from tests.networks import unet

SOLVED = 1e-6
"""The iterative solution: 1e-8 of the right-hand side, times the condition of the system."""

EXACT = 1e-9
"""Probabilities in float64 from float32 weights, and averages of them."""

SETTINGS = {"region": None, "fill": "linear", "seed": 0}


def literal_2d(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """`(C, I, J)` as published: 1/6 for neighbours that share an edge, 1/12 for diagonal ones, a dense solve."""
    pixels = [tuple(p) for p in np.argwhere(removed)]
    matrix, rhs = np.zeros((len(pixels), len(pixels))), np.zeros((len(pixels), len(image)))
    for row, (i, j) in enumerate(pixels):
        matrix[row, row] = -1.0
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                weight = {0: 0.0, 1: 1 / 6, 2: 1 / 12}[abs(di) + abs(dj)]
                there = (i + di, j + dj)
                if not (0 <= there[0] < removed.shape[0] and 0 <= there[1] < removed.shape[1]):
                    matrix[row, row] += weight
                elif there in pixels and weight:
                    matrix[row, pixels.index(there)] += weight
                else:
                    rhs[row] -= weight * image[:, there[0], there[1]]
    filled = image.copy()
    filled[:, removed] = np.linalg.solve(matrix, rhs).T
    return filled


def literal_3d(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """`(C, I, J, K)`: each removed voxel replaced by the weighted mean of its neighbours, again and again."""
    filled, before = np.where(removed, 0.0, image), np.inf
    while np.abs(filled - before).max() > 1e-10:
        before = filled.copy()
        total, weights = np.zeros_like(image), np.zeros(removed.shape)
        padded, inside = np.pad(filled, [(0, 0), *[(1, 1)] * 3]), np.pad(np.ones(removed.shape), 1)
        for offset in np.ndindex(3, 3, 3):
            distance = sum((o - 1) ** 2 for o in offset)
            if distance:
                at = tuple(slice(o, o + n) for o, n in zip(offset, removed.shape, strict=True))
                total += padded[(slice(None), *at)] / distance
                weights += inside[at] / distance
        filled[:, removed] = (total / weights)[:, removed]
    return filled


def filled(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The image with its removed voxels imputed by the package."""
    values = image.copy()
    values[:, removed] = impute(torch.from_numpy(image), np.argwhere(removed))
    return values


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_on_one_slice_it_is_the_published_2d_imputation(share: float, rng: np.random.Generator) -> None:
    image, removed = rng.standard_normal((2, 14, 11)), rng.random((14, 11)) < share
    removed[0, 0] = removed[13, 4] = removed[6, 10] = True
    got = filled(image[..., None], removed[..., None])[..., 0]
    assert got == pytest.approx(literal_2d(image, removed), abs=SOLVED)


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_in_3d_every_removed_voxel_is_the_weighted_mean_of_its_neighbours(share: float, rng) -> None:
    image, removed = rng.standard_normal((2, 6, 7, 5)), rng.random((6, 7, 5)) < share
    removed[0, 0, 0] = removed[5, 3, 4] = True
    assert filled(image, removed) == pytest.approx(literal_3d(image, removed), abs=SOLVED)


def test_weights_go_with_one_over_the_squared_distance_and_add_up_to_one() -> None:
    distances = [sum(o * o for o in offset) for offset in NEIGHBOURS]
    assert {d: NEIGHBOUR_WEIGHTS[d] * d for d in (1, 2, 3)} == pytest.approx(dict.fromkeys((1, 2, 3), 3 / 44))
    assert sum(NEIGHBOUR_WEIGHTS[d] for d in distances) == pytest.approx(1.0)
    assert len(distances) == 26


def test_a_ramp_is_filled_as_a_ramp_and_a_level_as_a_level_up_to_the_border(rng: np.random.Generator) -> None:
    i, j, k = np.indices((9, 8, 7), dtype=float)
    removed = np.zeros((9, 8, 7), dtype=bool)
    removed[2:6, 2:6, 2:5] = True
    ramp = np.stack([i + 2 * j - k, np.full_like(i, 3.0)])
    assert filled(ramp, removed) == pytest.approx(ramp, abs=SOLVED)
    level, anywhere = np.full((1, 9, 8, 7), -2.5), rng.random((9, 8, 7)) < 0.8
    assert filled(level, anywhere) == pytest.approx(level, abs=SOLVED)


def test_with_nothing_kept_there_is_nothing_to_impute_from() -> None:
    with pytest.raises(ValueError, match="got all of the image"):
        impute(torch.ones(2, 3, 3, 3), np.argwhere(np.ones((3, 3, 3))))


def bright(values: list[float], shape: tuple[int, int, int] = (10, 10, 10)) -> tuple[torch.Tensor, np.ndarray]:
    """An image of -0.5 with FLAIR `values` along a line, and the line as a lesion."""
    image = torch.full((2, *shape), -0.5)
    lesion = np.array([[4, 4, 2 + n] for n in range(len(values))])
    image[(0, *torch.as_tensor(lesion).T)] = torch.tensor(values)
    return image, lesion


def sigmoid(x: np.ndarray | list[float]) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def test_removing_a_voxel_of_a_linear_network_moves_that_voxel_alone() -> None:
    """Zero fill, lesion of four voxels of logit 2 x, ranked by brightness: known at every fraction."""
    values = [1.0, 0.25, 2.0, 0.5]
    image, lesion = bright(values)
    everywhere = torch.ones(10, 10, 10, dtype=torch.bool)
    saliency = torch.zeros(1, 10, 10, 10)
    saliency[(0, *torch.as_tensor(lesion).T)] = torch.tensor(values)
    fractions = [0.001, 0.003, 0.004, 0.5, 0.997, 0.999, 1.0]
    got = road(Linear((2.0, 0.0)), image, lesion, saliency, fractions=fractions, fill="zero", region=everywhere)
    p = sigmoid(2 * np.sort(values)[::-1])

    def mean_without(brightest: int) -> float:
        return float(np.r_[np.full(brightest, 0.5), p[brightest:]].mean())

    def mean_with(brightest: int) -> float:
        return float(np.r_[p[:brightest], np.full(4 - brightest, 0.5)].mean())

    assert got.clean == pytest.approx(p.mean(), abs=EXACT)
    assert got.morf == pytest.approx([mean_without(n) for n in (1, 3, 4, 4, 4, 4, 4)], abs=EXACT)
    assert got.lerf == pytest.approx([mean_with(n) for n in (4, 4, 4, 4, 3, 1, 0)], abs=EXACT)
    assert got.score == pytest.approx((got.lerf - got.morf) / 2, abs=0)
    assert got.mean == pytest.approx(float(np.mean(got.score)), abs=0)
    assert got.voxels.tolist() == [1, 3, 4, 500, 997, 999, 1000]
    assert got.fractions == pytest.approx(fractions)
    assert got.tied == pytest.approx(0.996)


def test_the_sign_of_a_map_and_its_split_over_modalities_do_not_change_the_order() -> None:
    image, everywhere = torch.randn(2, 10, 10, 10), torch.ones(10, 10, 10, dtype=torch.bool)
    split = torch.rand(2, 10, 10, 10).double()
    signed = split * torch.randn(2, 10, 10, 10).sign()
    settings = {"fractions": [0.1, 0.5], "region": everywhere}
    one = road(Linear(), image, everywhere, signed, **settings)
    other = road(Linear(), image, everywhere, split.sum(dim=0, keepdim=True), **settings)
    assert len({*one.morf, *one.lerf}) == 4
    assert np.array_equal(one.morf, other.morf)
    assert np.array_equal(one.lerf, other.lerf)


def test_a_reversed_map_has_the_opposite_score() -> None:
    image, lesion = bright([1.0, 0.25, 2.0])
    saliency = torch.rand(1, 10, 10, 10)
    one = road(Neighbourhood(), image, lesion, saliency, fractions=[0.05, 0.3, 0.6])
    other = road(Neighbourhood(), image, lesion, 2 - saliency, fractions=[0.05, 0.3, 0.6])
    assert np.array_equal(one.score, -other.score)
    assert one.mean != 0


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_it_agrees_with_editing_the_whole_volume(through: Through, rng: np.random.Generator) -> None:
    """A U-Net, edits by the literal 3D imputation with the documented noise, scored on the whole volume."""
    network = replace(unet((3, 4)), window=16, through=through)
    image = torch.from_numpy(rng.standard_normal((2, 20, 18, 16)))
    image[:, :3] = 0
    lesion = np.array([[12, 10, 9], [12, 11, 9], [13, 11, 9]])
    saliency = torch.from_numpy(rng.standard_normal((2, 20, 18, 16)))
    region = torch.zeros(20, 18, 16, dtype=torch.bool)
    region[4:18, 3:18, 4:14] = True
    got = road(network, image, lesion, saliency, fractions=[0.01, 0.3], region=region, seed=5)
    voxels = np.argwhere(region.numpy())
    noise = IMPUTATION_NOISE * np.random.default_rng([5, 0]).standard_normal((2, len(voxels)))
    order = np.argsort(-saliency.abs().sum(dim=0).numpy()[tuple(voxels.T)])
    for n, count in enumerate(got.voxels):
        for score, chosen in ((got.morf[n], order[:count]), (got.lerf[n], order[len(order) - count :])):
            removed = np.zeros((20, 18, 16), dtype=bool)
            removed[tuple(voxels[chosen].T)] = True
            edited = literal_3d(image.numpy(), removed)
            edited[(slice(None), *voxels[chosen].T)] += noise[:, chosen]
            wanted = oracles.lesion_probabilities(network, torch.from_numpy(edited), lesion)
            assert score == pytest.approx(float(wanted.mean()), abs=SOLVED)


def test_a_sparse_map_removes_as_many_voxels_as_any_other() -> None:
    """1.6 % non-zero: a percentile of it is zero, and a threshold there would blank the image at every fraction."""
    image = torch.randn(2, 10, 10, 10)
    saliency = torch.zeros(1, 10, 10, 10)
    saliency.view(-1)[torch.randperm(1000)[:16]] = torch.rand(16) + 0.1
    removal = Removal(Linear(), image, np.argwhere(np.ones((10, 10, 10))), **SETTINGS | {"fill": "zero"})
    order = removal.rank(saliency)
    assert (saliency[(0, *removal.voxels[order[:16]].T)] > 0).all()
    for count in (1, 16, 200, 800):
        assert int((removal.without(order[:count]) == 0).all(dim=0).sum()) == count


def test_ties_are_shuffled_by_the_seed_and_counted() -> None:
    image, lesion = bright([1.0, 2.0])
    saliency = torch.zeros(1, 10, 10, 10)
    saliency[0, 4, 4, 2] = 1.0
    order = {seed: removal_of(image, lesion, seed).rank(saliency) for seed in (0, 0, 1)}
    assert np.array_equal(order[0], removal_of(image, lesion, 0).rank(saliency))
    assert not np.array_equal(order[0], order[1])
    assert order[0][0] == order[1][0] == 4 * 100 + 4 * 10 + 2
    assert np.abs(np.corrcoef(order[0], np.arange(1000))[0, 1]) < 0.1  # not the scan order
    assert [share_of_ties(np.array(r)) for r in ([1.0, 2, 3], [1.0, 1, 2, 2], [0.0, 0, 0, 5])] == [0, 1, 0.75]


def removal_of(image: torch.Tensor, lesion: np.ndarray, seed: int = 0, fill: Replacement = "linear") -> Removal:
    """The whole volume as the region."""
    everywhere = torch.ones(image.shape[1:], dtype=torch.bool)
    return Removal(Neighbourhood(), image, lesion, region=everywhere, fill=fill, seed=seed)


def test_a_constant_map_is_told_and_never_nan() -> None:
    image, lesion = bright([1.0, 2.0])
    got = road(Neighbourhood(), image, lesion, torch.zeros(2, 10, 10, 10), fractions=[0.1])
    assert got.tied == 1.0
    assert np.isfinite(got.score).all()


def test_the_noise_of_a_voxel_is_its_own_and_seeded() -> None:
    image, everywhere = torch.full((2, 10, 10, 10), 3.0), np.argwhere(np.ones((10, 10, 10)))
    few, many = np.arange(0, 300, 7), np.arange(0, 700)
    removal = removal_of(image, everywhere, 3)
    noise = [(removal.without(removed) - image)[(slice(None), *removal.voxels[few].T)] for removed in (few, many)]
    assert torch.allclose(noise[0], noise[1], atol=SOLVED)
    other = (removal_of(image, everywhere, 4).without(many) - image).abs().max()
    drawn = (removal.without(many) - image)[(slice(None), *removal.voxels[many].T)]
    assert float(drawn.std()) == pytest.approx(0.01, rel=0.1)  # as published; 1400 draws: 2 % expected
    assert float(drawn.mean()) == pytest.approx(0, abs=5 * 0.01 / 1400**0.5)
    assert not torch.equal(other, drawn.abs().max())


@pytest.mark.parametrize(("fill", "wanted"), [("zero", [0.0, 0.0]), ("mean", [0.25, -0.5])])
def test_plain_fills_are_zero_or_the_mean_of_the_region(fill: Replacement, wanted: list[float]) -> None:
    image, lesion = bright([1.0, 1.0])
    image[0] = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(250).view(10, 10, 10)
    got = removal_of(image, np.argwhere(np.ones((10, 10, 10))), fill=fill).without(np.array([0, 17]))
    assert got[:, 0, 0, 0].tolist() == got[:, 0, 1, 7].tolist() == pytest.approx(wanted)
    assert int((got != image).any(dim=0).sum()) == 2
    assert len(lesion) == 2


def test_without_a_region_it_is_the_brain_within_15_voxels_of_the_lesion() -> None:
    image, lesion = torch.ones(2, 30, 40, 36), np.array([[5, 20, 18], [6, 20, 18]])
    image[:, :, :, :10] = 0
    image[1, 4, 20, 9] = 2.0  # one modality is enough
    removal = Removal(Neighbourhood(), image, lesion, **SETTINGS)
    voxels = np.argwhere(np.ones((30, 40, 36)))
    far = np.minimum(*(np.linalg.norm(voxels - v, axis=1) for v in lesion))
    wanted = voxels[(far <= 15) & ((voxels[:, 2] >= 10) | (voxels == [4, 20, 9]).all(axis=1))]
    assert np.array_equal(removal.voxels, wanted)


def test_a_region_that_reaches_beyond_the_box_counts_and_changes_nothing_there() -> None:
    image, lesion = torch.randn(2, 12, 12, 12), np.array([[5, 6, 7]])
    region = torch.zeros(12, 12, 12, dtype=torch.bool)
    region[5:12, 6, 7] = True
    removal = Removal(Linear(), image, lesion, **SETTINGS | {"region": region, "fill": "zero"})
    assert len(removal) == 7
    assert torch.equal(removal.without(np.arange(1, 7)), removal.score.image)
    assert removal.without(np.arange(7)).abs().max() == 0


def test_fractions_ask_for_whole_voxels() -> None:
    assert count_voxels(ROAD_FRACTIONS, 550502).tolist() == [551, 2753, 5505, 11010, 27525, 55050, 110100]
    with pytest.raises(ValueError, match=r"got 0\.001 of 400"):
        count_voxels(ROAD_FRACTIONS, 400)
    for wrong in ([], [0.0, 0.1], [0.2, 0.1], [0.1, 0.1], [0.5, 1.5], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            count_voxels(wrong, 100)


def test_what_cannot_be_measured_is_refused() -> None:
    image, lesion = bright([1.0, 2.0])
    saliency = torch.rand(2, 10, 10, 10)
    background = torch.zeros(10, 10, 10, dtype=torch.bool)
    background[0] = True
    outside = image.clone()
    outside[:, 0] = 0
    cases = [
        ("share their grid, got \\(2, 9, 10, 10\\) and \\(2, 10, 10, 10\\)", image, saliency[:, 1:], {}),
        ("share their grid, got \\(10, 10, 10\\)", image, saliency[0], {}),
        ("map must be finite", image, saliency.index_fill(1, torch.tensor([3]), torch.nan), {}),
        ("Region and image must share their grid", image, saliency, {"region": background[1:]}),
        ("must hold voxels of the brain, got none", outside, saliency, {"region": background}),
        ("can change the lesion's score, got none", image, saliency, {"region": background}),
        ("fill must be one of linear, mean, zero, got 'blur'", image, saliency, {"fill": "blur"}),
        ("smallest fraction must ask for a voxel", image, saliency, {"fractions": [0.0001]}),
    ]
    for message, scan, given, settings in cases:
        with pytest.raises(ValueError, match=message):
            road(Neighbourhood(), scan, lesion, given, **settings)
    for asked in (
        road,
        deletion,
        insertion,
        lambda *given, **settings: sensitivity_n(*given[:3], [given[3]], **settings),
    ):
        with pytest.raises(TypeError, match="fil'"):
            asked(Neighbourhood(), image, lesion, saliency, fil="mean")


# Curves, correlations, stability.

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


def test_what_cannot_be_correlated_or_drawn_as_a_curve_is_refused(image: torch.Tensor) -> None:
    saliency, one = torch.rand(1, 10, 10, 10), torch.zeros(10, 10, 10, dtype=torch.bool)
    one[4, 4, 2] = True
    with pytest.raises(ValueError, match="got 1 and 24"):
        deletion(Linear(), image, LINE, saliency, region=one)
    with pytest.raises(ValueError, match="got 4 and 1"):
        insertion(Linear(), image, LINE, saliency, region=REGION, steps=1)
    with pytest.raises(ValueError, match="needs a voxel that is kept"):
        deletion(Neighbourhood(), image, LINE, saliency, region=EVERYWHERE, fill="linear")
    with pytest.raises(ValueError, match="got 1"):
        sensitivity_n(Linear(), image, LINE, [saliency], subsets=1)
    with pytest.raises(ValueError, match=r"\(1, 9, 10, 10\)"):
        sensitivity_n(Linear(), image, LINE, [saliency[:, 1:]], region=REGION, fractions=[0.5])
    with pytest.raises(ValueError, match="got none"):
        sensitivity_n(Linear(), image, LINE, [])
    with pytest.raises(ValueError, match="got 3 and 0"):
        sensitivity(torch.zeros_like, image, draws=3, bound=0)
