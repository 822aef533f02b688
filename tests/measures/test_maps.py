"""Measures of a map: worked out by hand, NaN with a reason where there is nothing to measure."""

import warnings

import numpy as np
import pytest
import torch

from ies_helpers import average_saliency_focus, peak, pointing_game, proportional_energy
from ies_helpers.measures.maps import (
    MappedLesion,
    effective_complexity,
    gini,
    measure_map,
    rank_accuracy,
    relative_focus,
    shells,
    sign_balance,
)
from tests.patients import UNEVEN, lesion_of

SHAPE = (4, 5, 6)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:3, 1:3, 1:3] = True  # 8 voxels
BOX = (slice(1, 3), slice(1, 3), slice(1, 3))


@pytest.fixture
def saliency() -> torch.Tensor:
    """FLAIR: 3 and -1 inside, 2 and -4 outside; T1: -2 inside."""
    values = torch.zeros(2, *SHAPE)
    values[0, 1, 1, 1], values[0, 2, 2, 2] = 3.0, -1.0
    values[0, 0, 0, 0], values[0, 3, 4, 5] = 2.0, -4.0
    values[1, 1, 1, 1] = -2.0
    return values


@pytest.mark.parametrize("region", [torch.from_numpy(MASK), BOX, np.argwhere(MASK), lesion_of(MASK)])
def test_energy_and_focus_of_each_part_by_hand(saliency: torch.Tensor, region) -> None:
    """|S|: 6 inside (3 + 1 + 2) of 12; S+: 3 of 5; S-: 3 of 7."""
    for part, inside, total in (("abs", 6, 12), ("positive", 3, 5), ("negative", 3, 7)):
        assert proportional_energy(saliency, region, part=part) == pytest.approx(inside / total)
        assert average_saliency_focus(saliency, region, part=part) == pytest.approx(inside / 8)


def test_the_peak_points_at_the_lesion_or_not_and_equal_peaks_share(saliency: torch.Tensor) -> None:
    assert pointing_game(saliency, BOX) == 1.0  # 3 + 2 at one voxel
    assert pointing_game(saliency, BOX, part="negative") == 0.0
    saliency[1] = 0
    saliency[0, 0, 0, 0] = 3.0
    assert pointing_game(saliency, BOX, part="positive") == 0.5


def test_rank_accuracy_counts_the_strongest_and_shares_ties() -> None:
    values = torch.zeros(SHAPE)
    values[1:3, 1:3, 1] = 2.0  # 4 voxels inside are the strongest
    values[0, 0, :4] = 1.0  # 4 outside come next
    assert rank_accuracy(values, BOX) == pytest.approx(4 / 8)
    values[0, 0, :4] = 0.0  # 4 places left for 116 zeros, 4 of them inside
    assert rank_accuracy(values, BOX) == pytest.approx((4 + 4 * 4 / 116) / 8)
    assert rank_accuracy(torch.from_numpy(MASK).float(), BOX) == 1.0


def test_sparseness_and_complexity_at_their_ends() -> None:
    one = torch.zeros(SHAPE)
    one[0, 0, 0] = 5.0
    assert gini(one) == pytest.approx(1 - 1 / 120)
    assert gini(torch.full(SHAPE, -2.0)) == pytest.approx(0.0, abs=1e-12)
    half = torch.zeros(10)
    half[5:] = 1.0
    assert gini(half.reshape(1, 2, 5)) == pytest.approx(0.5)
    assert effective_complexity(one) == pytest.approx(1 / 120)
    line = torch.tensor([1.0, 0.11, 0.1, 0.05, -0.5], dtype=torch.float64).reshape(1, 1, 5)
    assert effective_complexity(line) == pytest.approx(3 / 5)


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    """The other definition: sum |a_i - a_j| / (2 N sum a)."""
    a = torch.randn(3, 4, 5).abs().double()
    flat = a.ravel()
    wanted = (flat[:, None] - flat[None]).abs().sum() / (2 * len(flat) * flat.sum())
    assert gini(a) == pytest.approx(float(wanted))


def test_peaks_shares_and_balance(saliency: torch.Tensor) -> None:
    assert peak(saliency) == {"flair_max": 3.0, "flair_min": -4.0, "t1_max": 0.0, "t1_min": -2.0}
    assert sign_balance(saliency[0], BOX) == pytest.approx((3 - 1) / 4)
    told, reasons = measure_map(MappedLesion(saliency, torch.from_numpy(MASK), np.eye(4)))
    assert reasons == {"balance_5-10": "the region has no voxels"}  # nothing of this volume is 5 to 10 mm away
    assert np.isnan(told["balance_5-10"])
    assert told["flair_share"] == pytest.approx(10 / 12)
    assert told["t1_share"] == pytest.approx(2 / 12)
    assert told["energy"] == pytest.approx(0.5)
    assert told["relative_focus"] == relative_focus(saliency, BOX) == pytest.approx(6 / 8 / 5)
    assert told["balance_inside"] == pytest.approx(0.5)
    assert told["balance_0-2"] == pytest.approx(1.0)  # (0, 0, 0) is sqrt(3) away, (3, 4, 5) is sqrt(14)
    assert told["balance_2-5"] == pytest.approx(-1.0)


def test_shells_are_true_distances_on_uneven_voxels() -> None:
    """Voxels of 1 x 2 x 3 mm around one voxel, axes permuted: by the distance of every centre."""
    got = shells(np.array([[5, 5, 5]]), (11, 11, 11), UNEVEN)
    away = np.linalg.norm((np.indices((11, 11, 11)).T - 5) * [1.0, 2.0, 3.0], axis=-1).T
    assert list(got) == ["0-2", "2-5", "5-10"]
    for name, mask in got.items():
        low, high = map(float, name.split("-"))
        assert np.array_equal(mask, (away > low) & (away <= high))


MEASURES = [proportional_energy, average_saliency_focus, pointing_game, rank_accuracy, sign_balance]


@pytest.mark.parametrize("measure", MEASURES)
def test_a_region_without_voxels_gives_nan_and_says_why(measure, saliency: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match="NaN: the region has no voxels"):
        assert np.isnan(measure(saliency, np.zeros(SHAPE, dtype=bool)))


@pytest.mark.parametrize("measure", MEASURES)
def test_an_empty_map_gives_nan_and_says_why(measure) -> None:
    with pytest.warns(UserWarning, match="NaN: the map is zero"):
        assert np.isnan(measure(torch.zeros(2, *SHAPE), BOX))


def test_an_empty_map_has_no_sparseness() -> None:
    for measure in (gini, effective_complexity):
        with pytest.warns(UserWarning, match="zero everywhere"):
            assert np.isnan(measure(torch.zeros(SHAPE)))


def test_a_map_that_is_zero_in_the_region_alone_has_a_focus_of_zero_there() -> None:
    elsewhere = torch.zeros(2, *SHAPE)
    elsewhere[0, 0, 0, 0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert average_saliency_focus(elsewhere, BOX) == 0.0


@pytest.mark.parametrize("measure", [pointing_game, rank_accuracy])
def test_a_map_that_is_not_empty_is_not_called_so_where_a_part_of_it_is(measure) -> None:
    with pytest.warns(UserWarning, match=r"NaN: the map has no positive values"):
        assert np.isnan(measure(-torch.ones(2, *SHAPE), BOX, part="positive"))
    with pytest.warns(UserWarning, match=r"NaN: the map is zero everywhere"):
        assert np.isnan(measure(torch.zeros(2, *SHAPE), BOX, part="positive"))
    for sparseness in (gini, effective_complexity):
        with pytest.warns(UserWarning, match=r"NaN: the map has no negative values"):
            assert np.isnan(sparseness(torch.ones(2, *SHAPE), part="negative"))


def test_a_map_that_is_only_negative_has_neither_positive_energy_nor_positive_focus() -> None:
    negative = -torch.rand(2, *SHAPE)
    for measure in (proportional_energy, average_saliency_focus):
        with pytest.warns(UserWarning, match="NaN: the map has no positive values"):
            assert np.isnan(measure(negative, BOX, part="positive"))
        assert 0 < measure(negative, BOX, part="negative") < 1


def test_a_map_of_one_channel_has_a_peak_of_all_modalities_and_names_may_be_given(saliency: torch.Tensor) -> None:
    assert peak(saliency[:1]) == {"all_max": 3.0, "all_min": -4.0}
    assert list(peak(saliency, ("ct", "pet"))) == ["ct_max", "ct_min", "pet_max", "pet_min"]
    told, _ = measure_map(MappedLesion(saliency[:1], np.argwhere(MASK)[:1], np.eye(4)))
    assert told["all_max"] == 3.0
    assert told["all_share"] == 1.0


@pytest.mark.parametrize("names", [("flair",), ("flair", "t1", "dir")])
def test_every_channel_has_its_peaks_and_its_share_by_its_own_name(names: tuple[str, ...]) -> None:
    values = torch.zeros(len(names), *SHAPE)
    for n in range(len(names)):
        values[n, 1, 1, 1], values[n, 3, 0, 0] = n + 1.0, -2.0 * n
    told, _ = measure_map(MappedLesion(values, torch.from_numpy(MASK), np.eye(4), names))
    total = sum(3 * n + 1 for n in range(len(names)))
    for n, name in enumerate(names):
        assert told[f"{name}_max"] == n + 1
        assert told[f"{name}_min"] == -2 * n
        assert told[f"{name}_share"] == pytest.approx((3 * n + 1) / total)
    assert not [c for c in told if c.startswith("all_") or (c.startswith("t1") and "t1" not in names)]


@pytest.mark.parametrize("channels", [torch.zeros(SHAPE), torch.zeros(3, *SHAPE), torch.zeros(0, *SHAPE)])
def test_a_peak_of_channels_without_names_is_refused(channels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"got \([03, ]*4, 5, 6\)"):
        peak(channels)


def test_a_peak_of_nan_is_refused(saliency: torch.Tensor) -> None:
    saliency[1, 0, 0, :2] = torch.nan
    with pytest.raises(ValueError, match="2 values are NaN"):
        peak(saliency)


BAD_BOXES = {
    "beyond the grid": (slice(1, 3), slice(1, 3), slice(1, 7)),
    "before the grid": (slice(-1, 3), slice(1, 3), slice(1, 3)),
    "two slices": (slice(1, 3), slice(1, 3)),
    "a voxel": (1, 2, 3),
    "every second": (slice(0, 4, 2), slice(1, 3), slice(1, 3)),
    "backwards": (slice(3, 1), slice(1, 3), slice(1, 3)),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_box_that_is_not_three_slices_inside_the_grid_is_refused(name: str, saliency: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 6\), got \("):
        proportional_energy(saliency, BAD_BOXES[name])  # pyright: ignore[reportArgumentType]


def test_a_box_may_reach_over_whole_axes(saliency: torch.Tensor) -> None:
    assert proportional_energy(saliency, (slice(None), slice(0, 5), slice(0, None))) == 1.0


def test_what_cannot_be_meant_is_refused(saliency: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="'both'"):
        proportional_energy(saliency, BOX, part="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"\(4, 5, 6\) and \(4, 5, 5\)"):
        proportional_energy(saliency, MASK[..., 1:])
    for measure in (proportional_energy, sign_balance):
        with pytest.raises(ValueError, match="240 values are NaN"):
            measure(saliency * float("nan"), BOX)
    with pytest.raises(ValueError, match=r"got \(4, 5\)"):
        gini(saliency[0, :, :, 0])
