"""The texture of a map in numbers: closed forms, plain loops, what a factor, a sign and a grid do to them."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from ies_helpers import map_features
from ies_helpers.measures.features import DIRECTIONS, FEATURES, TEXTURE_MM, feature_of, measure_features, neighbours
from tests.patients import UNEVEN, ball

ROUNDING = 1e-9
SIDE = 31


def scaled(*spacing: float) -> np.ndarray:
    """An affine of a spacing in mm."""
    return np.diag([*spacing, 1.0])


def box(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
    """True in a box of voxels."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(map(slice, start, stop))] = True
    return mask


def features(values: np.ndarray, lesion: np.ndarray, affine: np.ndarray | None = None) -> dict[str, float]:
    """Those of a map of one channel, without its name; what is NaN is so without a word."""
    how = np.eye(4) if affine is None else affine
    found, _ = measure_features(torch.from_numpy(np.asarray(values, dtype=np.float64))[None], lesion, how, ("x",))
    return {name.removeprefix("x_"): value for name, value in found.items()}


def reason(name: str, values: np.ndarray, lesion: np.ndarray, affine: np.ndarray | None = None) -> str:
    """Why a feature is NaN."""
    how = np.eye(4) if affine is None else affine
    found, reasons = measure_features(torch.from_numpy(values)[None], lesion, how, ("x",))
    assert np.isnan(found[f"x_{name}"])
    return reasons[f"x_{name}"]


@pytest.fixture
def blob(rng) -> tuple[np.ndarray, np.ndarray]:
    """A map with a tendency, and a lesion without symmetry."""
    lesion = ball((20, 22, 18), (9, 10, 8), 3) | box((20, 22, 18), (9, 10, 8), (14, 12, 10))
    return 2.0 * lesion + rng.standard_normal(lesion.shape) - 0.3, lesion


# How strong, and with which sign.


def test_strengths_in_the_lesion_by_hand() -> None:
    lesion = box((9, 9, 9), (4, 4, 2), (5, 5, 7))
    values = np.full((9, 9, 9), -1.0)
    values[lesion] = [1, 2, 3, 4, 10]
    values[0, 0, 0], values[8, 8, 8] = 20, -30
    got = features(values, lesion)
    assert [got[name] for name in ("mean", "sd", "min", "max")] == pytest.approx([4, np.sqrt(10), -30, 20])
    assert [got["low"], got["high"]] == pytest.approx([1.4, 7.6])
    assert got["skewness"] == pytest.approx(stats.skew([1, 2, 3, 4, 10]))
    assert got["kurtosis"] == pytest.approx(stats.kurtosis([1, 2, 3, 4, 10], fisher=False))


def test_shells_and_signs_by_hand() -> None:
    """5 in the lesion, 3 up to 2 mm, -1 up to 5, and beyond half 2, half -2, on a grid of 1 x 2 x 2.5 mm."""
    shape, lesion = (40, 24, 20), box((40, 24, 20), (20, 12, 10), (22, 13, 11))
    places = np.argwhere(np.ones(shape)) * [1, 2, 2.5]
    own = np.argwhere(lesion) * [1, 2, 2.5]
    away = np.min([np.linalg.norm(places - p, axis=1) for p in own], axis=0).reshape(shape)
    values = np.select([away == 0, away <= 2, away <= 5], [5.0, 3.0, -1.0], 2.0)
    values[(away > 5) & (np.arange(24)[None, :, None] > 12)] = -2.0
    got = features(values, lesion, scaled(1, 2, 2.5))
    assert [got[f"mean_{n}"] for n in ("0-2", "2-5")] == pytest.approx([3, -1])
    beyond = values[(away > 5) & (away <= 10)]
    assert got["mean_5-10"] == pytest.approx(beyond.mean())
    assert [got["balance"], got["balance_0-2"], got["balance_2-5"]] == pytest.approx([1, 1, -1])
    assert got["balance_5-10"] == pytest.approx(beyond.mean() / 2)
    near = 5 * 2 + 3 * (away[away > 0] <= 2).sum() + ((away > 2) & (away <= 5)).sum() + 2 * len(beyond)
    assert got["inside"] == pytest.approx(10 / near)


def test_a_channel_has_its_own_features_and_its_share_of_all() -> None:
    lesion = box((12, 12, 12), (5, 5, 5), (8, 8, 8))
    maps = np.stack([3.0 * lesion, -1.0 * lesion])
    with pytest.warns(UserWarning, match="are NaN: "):  # what lies outside is zero
        got = map_features(torch.from_numpy(maps), lesion, np.eye(4))
    assert [got[n] for n in ("flair_mean", "t1_mean", "flair_share", "t1_share")] == pytest.approx([3, -1, 0.75, 0.25])
    assert [got["flair_balance"], got["t1_balance"]] == [1, -1]
    assert set(got) == {f"{channel}_{name}" for channel in ("flair", "t1") for name in FEATURES}


# How it falls, and how it is spread.


def test_the_slope_at_the_border_of_a_box_is_a_step_over_a_voxel_by_the_area_of_each_side() -> None:
    """Sides of 3 x 4 x 5 voxels of 1 x 2 x 3 mm: faces of 6, 3 and 2 mm2."""
    lesion = box((12, 12, 12), (4, 4, 4), (7, 8, 9))
    faces = np.array([4 * 5, 3 * 5, 3 * 4]) * [6.0, 3.0, 2.0]
    got = features(7.0 * lesion, lesion, scaled(1, 2, 3))["edge_slope"]
    assert got == pytest.approx(-7 * (faces / [1, 2, 3]).sum() / faces.sum())


def test_a_slope_across_the_lesion_has_none_at_its_border_on_average() -> None:
    lesion = box((12, 12, 12), (4, 4, 4), (7, 8, 9))
    assert features(np.indices(lesion.shape)[1] * 3.0, lesion)["edge_slope"] == pytest.approx(0, abs=ROUNDING)


def test_the_slope_is_that_of_a_plain_loop_over_faces(blob) -> None:
    values, lesion = blob
    rise, area = 0.0, 0.0
    for voxel in np.argwhere(lesion):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = voxel + step * np.eye(3, dtype=int)[axis]
            if not lesion[tuple(other)]:
                face = np.prod([1.0, 2.0, 3.0]) / [1.0, 2.0, 3.0][axis]
                rise += face * (values[tuple(other)] - values[tuple(voxel)]) / [1.0, 2.0, 3.0][axis]
                area += face
    assert features(values, lesion, scaled(1, 2, 3))["edge_slope"] == pytest.approx(rise / area)


def test_spread_of_one_voxel_and_of_two_that_lie_apart() -> None:
    lesion, affine = box((SIDE,) * 3, (14, 15, 15), (17, 16, 16)), scaled(1, 0.5, 2)
    own = (1 + 0.25 + 4) / 12  # of a box of that size
    one = np.zeros(lesion.shape)
    one[15, 15, 18] = -4.0
    got = features(one, lesion, affine)
    assert [got["spread"], got["offset"], got["pieces"]] == pytest.approx([np.sqrt(own), 6.0, 1])
    two = np.zeros(lesion.shape)
    two[15, 15, 13], two[15, 15, 17] = 1.0, -1.0
    got = features(two, lesion, affine)
    assert [got["spread"], got["offset"], got["pieces"]] == pytest.approx([np.sqrt(16 + own), 0, 2])


def test_a_ball_is_compact_and_two_are_not() -> None:
    lesion = ball((SIDE,) * 3, (15, 15, 15), 2)
    whole = ball((SIDE,) * 3, (15, 15, 15), 6)
    parts = ball((SIDE,) * 3, (15, 15, 8), 3) | ball((SIDE,) * 3, (15, 15, 22), 3)
    assert features(-3.0 * whole, lesion)["compactness"] == pytest.approx(1, abs=0.01)  # a ball of voxels
    assert features(1.0 * parts, lesion)["compactness"] == pytest.approx(
        np.cbrt(2) * 3 * np.sqrt(0.6) / np.sqrt(49 + 0.6 * 9), abs=0.02
    )


def test_pieces_are_what_is_stronger_than_half_the_peak_near_by() -> None:
    values = np.zeros((40, 20, 20))
    for at, value in {(10, 10, 10): 8.0, (14, 10, 10): -5.0, (10, 14, 10): 3.0, (35, 10, 10): 99.0}.items():
        values[at] = value
    assert features(values, box(values.shape, (9, 9, 9), (12, 12, 12)))["pieces"] == 2


# Textures.

LINE = [3.9, 4.0, -4.2, -4.0, 0.3]  # levels 4, 4, -4, -4, 0
PAIRS = [(4, 4), (4, -4), (-4, -4), (-4, 0)]


def on_a_line() -> dict[str, float]:
    """A lesion of three voxels on a grid that has neighbours within 2 mm along one axis alone; looked at are five."""
    lesion, values = box((9, 3, 3), (3, 1, 1), (6, 2, 2)), np.zeros((9, 3, 3))
    values[2:7, 1, 1] = LINE
    return features(values, lesion, scaled(1.9, 5, 5))


def test_levels_that_occur_together_by_hand() -> None:
    got = on_a_line()
    both = np.array([*PAIRS, *(pair[::-1] for pair in PAIRS)])
    assert got["contrast"] == pytest.approx((0 + 64 + 0 + 16) / 4)
    assert got["evenness"] == pytest.approx((1 + 1 / 9 + 1 + 1 / 5) / 4)
    assert got["disorder"] == pytest.approx(2 * np.log(4) / 4 + 4 * np.log(8) / 8)
    assert got["correlation"] == pytest.approx(np.corrcoef(both.T)[0, 1])


def test_runs_by_hand() -> None:
    """Two, two and one along the line; one in each of the twelve other directions."""
    got, steps = on_a_line(), [np.linalg.norm(np.multiply(s, [1.9, 5, 5])) for s in DIRECTIONS if s != (1, 0, 0)]
    assert len(steps) == 12
    assert got["run_length"] == pytest.approx((5 / 3 * 1.9 + sum(steps)) / 13)
    assert got["long_runs"] == pytest.approx((9 / 3 * 1.9**2 + sum(np.square(steps))) / 13)


def test_neighbours_lie_within_two_mm_whatever_the_grid() -> None:
    assert len(neighbours([1, 1, 1])) == 13 + 3
    assert neighbours([1, 1, 3]) == [(0, 1, 0), (0, 2, 0), (1, -1, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0)]
    assert neighbours([2, 2, 2]) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert neighbours([3, 3, 3]) == []


def levels_near(values: np.ndarray, lesion: np.ndarray, spacing: np.ndarray) -> dict[tuple[int, ...], int]:
    """Level of each voxel of the lesion and within 2 mm, by a plain loop."""
    own = np.argwhere(lesion)
    near = [tuple(map(int, v)) for v in np.ndindex(lesion.shape)]
    near = [v for v in near if np.linalg.norm((own - v) * spacing, axis=1).min() <= TEXTURE_MM + 1e-6]
    most = max(abs(values[v]) for v in near)
    return {v: round(4 * values[v] / most) for v in near}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0.8, 1.9, 1.2)])
def test_textures_are_those_of_plain_loops(spacing, blob) -> None:
    values, lesion = blob
    size, got = np.array(spacing), features(*blob, scaled(*spacing))
    level = levels_near(values, lesion, size)
    pairs = [
        (level[v], level[w])
        for v in level
        for step in itertools.product(range(-2, 3), repeat=3)
        if any(step) and np.linalg.norm(step * size) <= TEXTURE_MM + 1e-6
        if (w := tuple(a + b for a, b in zip(v, step, strict=True))) in level
    ]
    one, other = np.array(pairs).T
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert got["contrast"] == pytest.approx(((one - other) ** 2).mean())
    assert got["evenness"] == pytest.approx((1 / (1 + abs(one - other))).mean())
    assert got["correlation"] == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert got["disorder"] == pytest.approx(stats.entropy(counts))
    means = {1: [], 2: []}
    for step in DIRECTIONS:
        lengths = []
        for v in level:
            run, before = [v], tuple(np.subtract(v, step).tolist())
            if level.get(before) == level[v]:
                continue
            while level.get(after := tuple(np.add(run[-1], step).tolist())) == level[v]:
                run.append(after)
            lengths.append(len(run) * np.linalg.norm(step * size))
        for power in means:
            means[power].append(np.mean(np.power(lengths, power)))
    assert [got["run_length"], got["long_runs"]] == pytest.approx([np.mean(means[1]), np.mean(means[2])])


# What a factor, a sign and another order of axes do to each row of the table.

BY_A_FACTOR = {"map": 3.0, "map/mm": 3.0, "mm": 1.0, "mm2": 1.0, "nats": 1.0, "": 1.0}
TURNED = {"min": "max", "max": "min", "low": "high", "high": "low"}
ODD = ("mean", "skewness", "balance", "edge_slope")


def test_a_map_three_times_as_strong_has_features_three_times_as_large_where_they_have_its_unit(blob) -> None:
    """Whoever z-scores each map before it is measured would find all of them unchanged."""
    values, lesion = blob
    one, three = features(values, lesion), features(3 * values, lesion)
    for name, row in FEATURES.items():
        assert three[name] == pytest.approx(BY_A_FACTOR[row.unit] * one[name]), name
    assert [row.name for row in FEATURES.values() if row.unit == "map" and one[row.name] == 0] == []


def test_a_map_turned_round_is_told_by_its_signs_alone(blob) -> None:
    values, lesion = blob
    one, other = features(values, lesion), features(-values, lesion)
    for name in FEATURES:
        sign = -1 if name in TURNED or name.startswith(ODD) else 1
        assert other[TURNED.get(name, name)] == pytest.approx(sign * one[name]), name


def test_the_order_of_axes_does_not_matter(blob) -> None:
    """UNEVEN has voxels of 1 x 2 x 3 mm along its columns."""
    values, lesion = blob
    order, axes = (2, 0, 1), UNEVEN[:, [2, 0, 1, 3]]
    straight = features(values, lesion, UNEVEN)
    turned = features(values.transpose(order), lesion.transpose(order), axes)
    assert straight == pytest.approx(turned)
    assert features(values, lesion) != pytest.approx(straight)


# No value, and why.


def test_a_map_that_is_zero_everywhere_has_no_feature(blob) -> None:
    values, lesion = blob
    count = len(FEATURES)
    with pytest.warns(UserWarning, match=f"{count} of {2 * count} features .* NaN: t1 is zero everywhere"):
        got = map_features(torch.from_numpy(np.stack([values, 0 * values])), lesion, np.eye(4))
    assert all(np.isnan(got[f"t1_{name}"]) for name in FEATURES)
    assert all(np.isfinite(got[f"flair_{name}"]) for name in FEATURES)
    with pytest.warns(UserWarning, match="x is zero everywhere"):
        got = map_features(torch.zeros(1, *values.shape), lesion, np.eye(4), ("x",))
    assert np.isnan(list(got.values())).all()


def test_what_has_no_value_says_why(blob) -> None:
    values, lesion = blob
    far = np.zeros((60, 20, 20))
    far[55, 10, 10] = 1.0
    here = box(far.shape, (5, 9, 9), (8, 12, 12))
    assert reason("skewness", 0 * values + 2, lesion) == "the map is the same in all of the lesion"
    assert reason("spread", far, here) == "the map is zero within 10 mm"
    assert reason("contrast", far, here) == "the map is zero within 2 mm"
    assert reason("run_length", far, here) == "the map is zero within 2 mm"
    assert reason("balance_2-5", far, here) == "the map is zero there"
    assert reason("disorder", values, lesion, scaled(3, 3, 3)) == "no two of its voxels lie within 2 mm"
    assert reason("correlation", 0 * values + 2, lesion) == "all of its voxels have one grey level"
    everywhere = np.ones((4, 4, 4), dtype=bool)
    assert reason("edge_slope", np.arange(64.0).reshape(4, 4, 4), everywhere).startswith("the lesion has no border")
    assert reason("mean_0-2", np.arange(64.0).reshape(4, 4, 4), everywhere) == "no voxel lies 0-2 mm from the lesion"
    assert features(far, here)["mean"] == 0


def test_a_lesion_at_the_edge_of_the_image_and_maps_of_wrong_form() -> None:
    lesion = box((8, 8, 8), (0, 0, 0), (2, 2, 2))
    assert all(np.isfinite(v) for v in features(np.random.default_rng(0).standard_normal((8, 8, 8)), lesion).values())
    with pytest.raises(ValueError, match="at least one voxel"):
        map_features(torch.ones(1, 8, 8, 8), np.zeros((8, 8, 8), dtype=bool), np.eye(4))
    with pytest.raises(ValueError, match=r"\(3, 8, 8, 8\)"):
        map_features(torch.ones(3, 8, 8, 8), lesion, np.eye(4))
    damaged = torch.ones(1, 8, 8, 8)
    damaged[0, 7, 7, 7] = np.nan
    with pytest.raises(ValueError, match="1 values are NaN"):
        map_features(damaged, lesion, np.eye(4))


def test_a_column_is_found_in_the_table_by_its_end() -> None:
    assert feature_of("smoothgradmax_flair_edge_slope") is FEATURES["edge_slope"]
    assert feature_of("x_mean_0-2") is FEATURES["mean_0-2"]
    assert feature_of("x_balance") is FEATURES["balance"]
    assert feature_of("probability") is None
    assert {row.unit for row in FEATURES.values()} == set(BY_A_FACTOR)
