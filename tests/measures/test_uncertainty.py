"""Uncertainty of lesions, patients and maps: closed forms, plain loops, and members that are really others."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from torch import nn

from ies_helpers import Lesion, Network, find_lesions, gradient, predict
from ies_helpers.arrays import CONNECTIVITY
from ies_helpers.measures.uncertainty import (
    RETAINED,
    lesion_uncertainty,
    map_spread,
    member_probabilities,
    members_of,
    patient_uncertainty,
    retention_curve,
    subject_uncertainty,
)
from ies_helpers.saliency.smoothgrad import noise_sigma, noisy_image
from ies_helpers.segmentation.network import Averaged, Copies, ensemble
from tests.networks import unet
from tests.patients import subject_in_memory

SHAPE = (16, 14, 12)
LN2 = float(np.log(2))
ROUNDING = 1e-6
"""Of float32 logits and maps, as a share of the largest."""


def cube(*start: int, sides: Sequence[int] = (3, 3, 3), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A box of ones in zeros."""
    volume = np.zeros(shape, dtype=np.float32)
    volume[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = 1
    return volume


def stacked(*members: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(members)).float()


def lesion_on(mask: np.ndarray, group: str = "TP", number: int = 1) -> Lesion:
    return Lesion(number, group, np.argwhere(mask > 0), 27.0, np.zeros(3), 0.9, 0.9)


def only(table: pd.DataFrame) -> dict:
    assert len(table) == 1
    return table.iloc[0].to_dict()


# One lesion


def test_structure_of_members_that_draw_it_shift_it_and_miss_it() -> None:
    """IoU 1, 18 / 36 and 0."""
    own = cube(4, 4, 4)
    row = only(lesion_uncertainty(stacked(own, cube(5, 4, 4), 0 * own), [lesion_on(own)], threshold=0.5))
    assert row["structural"] == pytest.approx(1 - (1 + 0.5 + 0) / 3)
    assert row["structural_all"] == pytest.approx(row["structural"])
    assert (row["lesion"], row["group"], row["voxels"], row["note"]) == (1, "TP", 27, "")


def test_a_lesion_that_a_member_splits_in_two_is_half_lost_or_kept() -> None:
    """A bar of 32 voxels, of which one member has two pieces of 12."""
    bar = cube(2, 2, 2, sides=(2, 2, 8))
    split = cube(2, 2, 2, sides=(2, 2, 3)) + cube(2, 2, 7, sides=(2, 2, 3))
    row = only(lesion_uncertainty(stacked(bar, split), [lesion_on(bar)], threshold=0.5))
    assert row["structural"] == pytest.approx(1 - (1 + 12 / 32) / 2)
    assert row["structural_all"] == pytest.approx(1 - (1 + 24 / 32) / 2)


def test_what_a_member_marks_elsewhere_or_too_small_is_no_lesion_of_it() -> None:
    own = cube(4, 4, 4)
    apart, speck = own + cube(10, 10, 8), 0 * own
    speck[4, 4, 4:7] = 1  # three voxels
    row = only(lesion_uncertainty(stacked(apart, speck), [lesion_on(own)], threshold=0.5))
    assert row["structural"] == pytest.approx(1 - (1 + 0) / 2)


def test_each_member_may_have_a_threshold_of_its_own() -> None:
    own = cube(4, 4, 4)
    members = stacked(0.6 * own, 0.4 * own)
    one = only(lesion_uncertainty(members, [lesion_on(own)], threshold=0.5))
    each = only(lesion_uncertainty(members, [lesion_on(own)], threshold=[0.5, 0.3]))
    assert (one["structural"], each["structural"]) == pytest.approx((0.5, 0.0))


def test_structure_is_that_of_a_plain_loop(rng) -> None:
    fields = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.2) for _ in range(4)]
    members = [((f - f.min()) / (f.max() - f.min())).astype(np.float32) for f in fields]
    lesions = find_lesions(torch.from_numpy(np.mean(members, axis=0)), threshold=0.6)
    assert len(lesions) >= 3
    table = lesion_uncertainty(stacked(*members), lesions, threshold=0.6)
    split = 0
    for lesion, (_, row) in zip(lesions, table.iterrows(), strict=True):
        own = {tuple(v) for v in lesion.voxels}
        best, whole = [], []
        for member in members:
            numbers, count = ndimage.label(member > np.float32(0.6), CONNECTIVITY)
            parts = [{tuple(v) for v in np.argwhere(numbers == n)} for n in range(1, count + 1)]
            met = [part for part in parts if len(part) > 5 and part & own]
            best.append(max((len(part & own) / len(part | own) for part in met), default=0))
            every = set().union(*met)
            whole.append(len(every & own) / len(every | own) if met else 0)
            split += len(met) > 1
        assert row["structural"] == pytest.approx(1 - np.mean(best))
        assert row["structural_all"] == pytest.approx(1 - np.mean(whole))
    assert split, "a member that has a lesion in two pieces"


@pytest.mark.parametrize(
    ("first", "second", "total", "shared", "own"),
    [(0.5, 0.5, LN2, 0.0, LN2), (0.0, 1.0, LN2, LN2, 0.0), (1.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.5, None, None, LN2 / 2)],
)
def test_entropies_of_two_members_in_closed_form(first, second, total, shared, own) -> None:
    mask = cube(4, 4, 4)
    quarter = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)  # of the mean of 0 and 0.5
    total, shared = (quarter, quarter - own) if total is None else (total, shared)
    row = only(lesion_uncertainty(stacked(first * mask, second * mask), [lesion_on(mask)], threshold=0.3))
    got = row["entropy_of_mean"], row["mutual_information"], row["expected_entropy"]
    assert got == pytest.approx((total, shared, own), abs=1e-12)
    assert row["probability"] == pytest.approx((first + second) / 2)


def test_entropies_are_means_over_the_lesions_voxels_of_a_plain_loop(rng) -> None:
    members = rng.uniform(0.01, 0.99, (5, *SHAPE)).astype(np.float32)
    mask = cube(3, 3, 3)

    def h(p: float) -> float:
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    voxels = [members[:, i, j, k].astype(float) for i, j, k in np.argwhere(mask)]
    row = only(lesion_uncertainty(torch.from_numpy(members), [lesion_on(mask)], threshold=0.5))
    assert row["entropy_of_mean"] == pytest.approx(np.mean([h(p.mean()) for p in voxels]))
    assert row["expected_entropy"] == pytest.approx(np.mean([np.mean([h(x) for x in p]) for p in voxels]))
    assert row["mutual_information"] == pytest.approx(row["entropy_of_mean"] - row["expected_entropy"])


@pytest.mark.parametrize("group", ["FN", "TN"])
def test_where_nothing_was_marked_structure_has_no_value_and_says_so(group: str) -> None:
    """All members agree that there is nothing, and an overlap of nothing would call that the greatest doubt."""
    mask = cube(4, 4, 4)
    row = only(lesion_uncertainty(stacked(0 * mask, 0 * mask), [lesion_on(mask, group)], threshold=0.5))
    assert np.isnan([row["structural"], row["structural_all"]]).all()
    assert row["entropy_of_mean"] == 0
    assert "missed" in row["note"]


def test_no_lesion_is_an_empty_table_with_its_columns() -> None:
    table = lesion_uncertainty(stacked(cube(1, 1, 1), cube(1, 1, 1)), [], threshold=0.5)
    assert len(table) == 0
    assert {"lesion", "group", "voxels", "structural", "entropy_of_mean", "note"} <= set(table.columns)


def test_members_that_cannot_disagree_or_be_compared_are_refused() -> None:
    mask = cube(4, 4, 4)
    lesion = [lesion_on(mask)]
    with pytest.raises(ValueError, match=r"two or more, got \(1, 16, 14, 12\)"):
        lesion_uncertainty(stacked(mask), lesion, threshold=0.5)
    with pytest.raises(ValueError, match=r"got \(16, 14, 12\)"):
        lesion_uncertainty(torch.from_numpy(mask), lesion, threshold=0.5)
    apart: Any = [torch.from_numpy(mask), torch.zeros(16, 14, 13)]
    with pytest.raises(ValueError, match=r"one grid, got \(16, 14, 12\) and \(16, 14, 13\)"):
        lesion_uncertainty(apart, lesion, threshold=0.5)
    with pytest.raises(ValueError, match="got 0 to 2"):
        lesion_uncertainty(stacked(mask, 2 * mask), lesion, threshold=0.5)
    with pytest.raises(ValueError, match=r"each of 2 members; got \[0.5\]"):
        lesion_uncertainty(stacked(mask, mask), lesion, threshold=[0.5])
    with pytest.raises(ValueError, match="inside the image"):
        lesion_uncertainty(stacked(mask, mask)[..., :5], lesion, threshold=0.5)


# One patient


def test_a_patients_structure_is_the_overlap_of_all_lesions_at_once() -> None:
    """Of a lesion of 27 and one of 8 voxels, a member misses the small one: 27 / 35, and (1 + 0) / 2 by lesions."""
    large, small = cube(2, 2, 2), cube(9, 9, 8, sides=(2, 2, 2))
    lesions = [lesion_on(large), lesion_on(small, "FP", 2), lesion_on(cube(2, 9, 8), "FN", 3)]
    row = patient_uncertainty(stacked(large + small, large), lesions, threshold=0.5)
    assert (row["members"], row["lesions"], row["note"]) == (2, 2, "")
    assert row["structural"] == pytest.approx(1 - (1 + 27 / 35) / 2)
    assert row["mean_structural"] == pytest.approx((0 + 0.5) / 2)
    assert row["entropy_of_mean"] == pytest.approx(8 * LN2 / np.prod(SHAPE))
    assert row["expected_entropy"] == 0


def test_a_patients_entropies_are_of_the_brain() -> None:
    large, small = cube(2, 2, 2), cube(9, 9, 8, sides=(2, 2, 2))
    brain = small > 0
    row = patient_uncertainty(stacked(large + small, large), [lesion_on(large)], threshold=0.5, brain=brain)
    assert row["mutual_information"] == pytest.approx(LN2)
    with pytest.raises(ValueError, match="of 0 voxels"):
        patient_uncertainty(stacked(large, large), [lesion_on(large)], threshold=0.5, brain=0 * brain)


def test_a_patient_without_a_found_lesion_has_no_structure_and_a_note() -> None:
    mask = cube(4, 4, 4)
    row = patient_uncertainty(stacked(0 * mask, mask), [lesion_on(mask, "FN")], threshold=0.5)
    assert np.isnan([row["structural"], row["mean_structural"]]).all()
    assert row["note"] == "no lesion was found"


# Error retention


def found(groups: str, doubt: Sequence[float], subject: str = "a") -> pd.DataFrame:
    """`TFFT` -> a row a found lesion."""
    names = [{"T": "TP", "F": "FP", "N": "FN"}[letter] for letter in groups]
    return pd.DataFrame({"subject": subject, "group": names, "doubt": doubt})


def steps(groups: str) -> list[float]:
    """PPV after 0, 1, ... lesions were handed over in this order."""
    true, values = groups.count("T"), []
    for n in range(len(groups) + 1):
        values.append(true / (true + groups[n:].count("F")))
    return values


def area_of(values: Sequence[float]) -> float:
    """Trapezoids by hand."""
    return sum((a + b) / 2 for a, b in pairwise(values)) / (len(values) - 1)


def test_precision_while_lesions_are_handed_over_by_hand() -> None:
    """T F T F by falling doubt: 2/4, 2/4, 2/3, 2/3, 1."""
    curve = retention_curve(found("TFTF", [4, 3, 2, 1]), "doubt")
    assert curve.ppv[[100, 75, 50, 25, 0]] == pytest.approx([1 / 2, 1 / 2, 2 / 3, 2 / 3, 1])
    assert curve.ideal[[100, 75, 50, 25, 0]] == pytest.approx([1 / 2, 2 / 3, 1, 1, 1])
    assert curve.area == pytest.approx((0.5 + 7 / 12 + 2 / 3 + 5 / 6) / 4)
    assert (curve.true, curve.false, curve.subjects) == (2, 2, 1)
    assert np.isnan(curve.interval).all()
    assert "one subject" in curve.note


def test_random_order_and_ties_are_the_mean_over_all_orders() -> None:
    groups = "TFFTF"
    orders = [steps("".join(order)) for order in permutations(groups)]
    curve = retention_curve(found(groups, [1, 1, 1, 1, 1]), "doubt")
    wanted = np.mean(orders, axis=0)[::-1]
    assert curve.ppv[::20] == pytest.approx(wanted)
    assert curve.random == pytest.approx(curve.ppv)
    assert curve.area == pytest.approx(np.mean([area_of(order) for order in orders]))
    tied = retention_curve(found(groups, [2, 2, 2, 1, 0]), "doubt")
    some = [steps("".join(order) + "TF") for order in permutations("TFF")]
    assert tied.ppv[::20] == pytest.approx(np.mean(some, axis=0)[::-1])


def test_gain_is_one_for_the_ideal_doubt_and_nothing_for_a_constant_one() -> None:
    groups = "TFFTFT"
    worth = {"ideal": [0, 1, 1, 0, 1, 0], "none": [1] * 6, "worst": [1, 0, 0, 1, 0, 1]}
    gain = {name: retention_curve(found(groups, doubt), "doubt").gain for name, doubt in worth.items()}
    assert (gain["ideal"], gain["none"]) == pytest.approx((1.0, 0.0))
    assert gain["worst"] < -0.5


def test_low_values_are_the_doubtful_ones_where_that_is_said() -> None:
    table = found("TFTF", [4, 3, 2, 1])
    turned = table.assign(doubt=-table["doubt"])
    assert retention_curve(table, "doubt").area == retention_curve(turned, "doubt", false_when="low").area
    assert retention_curve(table, "doubt").area != pytest.approx(retention_curve(turned, "doubt").area)


def test_patients_count_alike_however_many_lesions_they_have() -> None:
    few, many = found("FT", [1, 2]), found("FTTTFTTT", [8, 7, 6, 5, 4, 3, 2, 1], "b")
    alone = [retention_curve(part, "doubt") for part in (few, many)]
    both = retention_curve(pd.concat([few, many]), "doubt", resamples=200)
    assert both.area == pytest.approx(np.mean([curve.area for curve in alone]))
    assert both.ppv == pytest.approx(np.mean([curve.ppv for curve in alone], axis=0))
    assert both.interval == pytest.approx(tuple(sorted(curve.area for curve in alone)))
    assert "only 2 subjects" in both.note


def test_missed_lesions_and_patients_without_a_true_one_are_left_out_with_a_word() -> None:
    table = pd.concat([found("TFN", [1, 2, 9]), found("FF", [1, 2], "b")])
    curve = retention_curve(table, "doubt")
    assert curve.area == retention_curve(found("TF", [1, 2]), "doubt").area
    assert "1 without a true lesion left out" in curve.note
    with pytest.raises(ValueError, match="of 2 found lesions with a value of doubt none is true"):
        retention_curve(found("FF", [1, 2], "b"), "doubt")


def test_without_errors_there_is_nothing_to_gain_and_the_note_says_so() -> None:
    curve = retention_curve(found("TTT", [1, 2, 3]), "doubt")
    assert curve.area == curve.ideal_area == curve.random_area == 1
    assert np.isnan(curve.gain)
    assert "no false lesion" in curve.note
    assert (curve.ppv == np.ones_like(RETAINED)).all()


# The spread of maps


def test_spread_of_a_map_and_its_threefold() -> None:
    """m = 2 a, s = sqrt(2) a; |a - 3 a| / sqrt((1 + 9) / 2 |a|^2)."""
    a = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    spread = map_spread([a, 3 * a])
    torch.testing.assert_close(spread.mean, 2 * a)
    torch.testing.assert_close(spread.deviation, np.sqrt(2) * a.abs())
    assert spread.table["channel"].tolist() == ["flair", "t1", "all"]
    for _, row in spread.table.iterrows():
        got = row["relative_deviation"], row["correlation"], row["relative_l2"]
        assert got == pytest.approx((np.sqrt(0.5), 1.0, 2 / np.sqrt(5)), rel=ROUNDING)


def test_spread_is_that_of_a_plain_loop_whatever_zeros_lie_around(rng) -> None:
    maps = [torch.from_numpy(rng.standard_normal((3, 4, 4, 4)).astype(np.float32) + 0.3) for _ in range(4)]
    table = map_spread(maps, channels=["a", "b", "c"]).table.set_index("channel")
    for n, name in enumerate("abc"):
        each = [m[n].double().numpy().ravel() for m in maps]
        pairs = list(combinations(each, 2))
        apart = [np.linalg.norm(x - y) / np.sqrt((x @ x + y @ y) / 2) for x, y in pairs]
        deviation = [np.std([x[v] for x in each], ddof=1) for v in range(64)]
        assert table.loc[name, "correlation"] == pytest.approx(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs]))
        assert table.loc[name, "relative_l2"] == pytest.approx(np.mean(apart))
        size = np.linalg.norm(np.mean(each, axis=0))
        assert table.loc[name, "relative_deviation"] == pytest.approx(np.linalg.norm(deviation) / size)
    padded = [nn.functional.pad(m, (2, 3, 1, 0, 4, 4)) for m in maps]
    pd.testing.assert_frame_equal(map_spread(padded, channels=["a", "b", "c"]).table.set_index("channel"), table)


def test_maps_that_are_opposite_or_empty_have_what_they_have_and_a_warning() -> None:
    a = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="The relative deviation of the maps"):
        row = map_spread([a, -a], channels=["flair"]).table.iloc[0]
    assert np.isnan(row["relative_deviation"])
    assert (row["correlation"], row["relative_l2"]) == pytest.approx((-1, 2))
    with pytest.warns(UserWarning, match="correlation, relative l2 of the maps"):
        empty = map_spread([0 * a, 0 * a], channels=["flair"]).table.iloc[0]
    assert empty[["relative_deviation", "correlation", "relative_l2"]].isna().all()
    with pytest.warns(UserWarning, match="correlation of the maps"):
        one = map_spread([a, 0 * a], channels=["flair"]).table.iloc[0]
    assert one["relative_l2"] == pytest.approx(np.sqrt(2))
    assert one["relative_deviation"] == pytest.approx(np.sqrt(2))


def test_maps_without_a_spread_are_refused() -> None:
    a = torch.ones(2, 3, 3, 3)
    with pytest.raises(ValueError, match="got 1"):
        map_spread([a])
    with pytest.raises(ValueError, match=r"got \(2, 3, 3, 3\) and \(2, 3, 3, 2\)"):
        map_spread([a, a[..., :2]])
    with pytest.raises(ValueError, match="got flair"):
        map_spread([a, a], channels=["flair"])
    with pytest.raises(ValueError, match="54 values are NaN"):
        map_spread([a, a * np.nan])


# Members


def narrow(seed: int) -> Network:
    network = unet((3, 4, 5))
    torch.manual_seed(seed)
    for parameter in network.module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    network.module.float()
    return replace(network, name=f"seed{seed}", window=None)


@pytest.fixture
def seeds() -> list[Network]:
    return [narrow(seed) for seed in range(3)]


IMAGE = torch.randn(2, 16, 16, 20, generator=torch.Generator().manual_seed(1))


def test_members_of_an_ensemble_are_the_networks_it_was_made_of(seeds) -> None:
    both = ensemble(seeds, "three")
    members = members_of(both)
    assert [m.name for m in members] == ["three-1", "three-2", "three-3"]
    got = member_probabilities(both, IMAGE)
    for answer, seed in zip(got, seeds, strict=True):
        assert torch.equal(answer, predict(seed, IMAGE))
    assert torch.equal(member_probabilities(seeds, IMAGE), got)
    assert (got[0] - got[1]).abs().max() > 0.01


def test_a_mirrored_copy_is_a_member_whose_answer_is_turned_back(seeds) -> None:
    turned = replace(seeds[0], module=Copies([seeds[0].module], [(), (2,)]))
    plain, mirrored = member_probabilities(turned, IMAGE)
    assert torch.equal(plain, predict(seeds[0], IMAGE))
    torch.testing.assert_close(mirrored, predict(seeds[0], IMAGE.flip(1)).flip(0))


def test_members_of_averaged_probabilities_average_to_them(seeds) -> None:
    whole = replace(seeds[0], module=Averaged([seed.module for seed in seeds]), layer="members.0.model.0")
    members = members_of(whole)
    assert members[1].layer == "model.0"
    torch.testing.assert_close(member_probabilities(whole, IMAGE).mean(dim=0), predict(whole, IMAGE))


def test_the_gradient_of_an_ensemble_is_the_mean_of_its_members(seeds) -> None:
    """Exactly by the engine: `mean` map for map, `max` voxel by voxel of the lesion."""
    both = ensemble(seeds, "three")
    voxels = np.array([[7, 7, 8], [7, 8, 8], [9, 8, 9]])
    mean = torch.stack([gradient(m, IMAGE, voxels, aggregate="mean") for m in members_of(both)]).mean(dim=0)
    got = gradient(both, IMAGE, voxels, aggregate="mean")
    assert (got - mean).abs().max() <= 10 * ROUNDING * mean.abs().max()
    each = torch.stack([gradient(both, IMAGE, voxels[[n]], aggregate="mean") for n in range(3)])
    largest = each.gather(0, each.abs().argmax(dim=0, keepdim=True))[0]
    top = gradient(both, IMAGE, voxels, aggregate="max")
    assert (top - largest).abs().max() <= 10 * ROUNDING * largest.abs().max()


def test_one_network_alone_is_told_what_to_give(seeds) -> None:
    with pytest.raises(ValueError, match="seed0 is one network: give an ensemble"):
        member_probabilities(seeds[0], IMAGE)
    with pytest.raises(ValueError, match="got 1"):
        members_of(seeds[:1])
    with pytest.raises(ValueError, match="seed0 is one network"):
        members_of(replace(seeds[0], module=Copies([seeds[0].module])))


def test_members_that_answer_other_questions_are_refused(seeds) -> None:
    for other, told in (
        ({"channels": ("flair",)}, "alike in their channels"),
        ({"lesion_class": 0}, "alike in their lesion class"),
        ({"classes": ("no", "yes")}, "alike in their classes"),
    ):
        with pytest.raises(ValueError, match=told):
            members_of([seeds[0], replace(seeds[1], **other)])


def test_noise_draws_are_predictions_of_the_maps_own_noisy_images(seeds) -> None:
    got = member_probabilities(seeds[0], IMAGE, source="noise", draws=3, seed=7, noise=0.1)
    sigma = noise_sigma(IMAGE, 0.1, seeds[0].channels)
    for n, answer in enumerate(got):
        assert torch.equal(answer, predict(seeds[0], noisy_image(IMAGE, sigma, 7, n)))


class Dropping(nn.Module):
    """Logits 0 and 1, the second of which is dropped in whole, or doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout3d(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([0 * x[:, :1], self.drop(0 * x[:, :1] + 1)], dim=1)


def test_dropout_draws_drop_what_the_layer_drops_and_leave_the_network_as_it_was() -> None:
    network = Network(Dropping().eval(), stride=(1, 1, 1))
    state = torch.get_rng_state()
    got = member_probabilities(network, IMAGE, source="dropout", draws=12)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.module.drop.training
    kept, dropped = torch.tensor(2.0).sigmoid(), torch.tensor(0.5)
    levels = [float(answer[0, 0, 0]) for answer in got]
    assert all((answer == answer[0, 0, 0]).all() for answer in got)
    assert sorted({round(level, 5) for level in levels}) == [round(float(dropped), 5), round(float(kept), 5)]
    assert torch.equal(predict(network, IMAGE), torch.full(IMAGE.shape[1:], float(torch.tensor(1.0).sigmoid())))
    assert torch.equal(member_probabilities(network, IMAGE, source="dropout", draws=5), got[:5])
    assert not torch.equal(member_probabilities(network, IMAGE, source="dropout", draws=12, seed=1), got)


def test_draws_that_cannot_differ_are_refused(seeds) -> None:
    for given, told in (
        ({"source": "dropout"}, "seed0 has none"),
        ({"source": "noise", "draws": 1}, "got 1"),
        ({"source": "noise", "noise": 0}, "noise=0"),
        ({"source": "seeds"}, "members, noise, dropout, got 'seeds'"),
    ):
        with pytest.raises(ValueError, match=told):
            member_probabilities(seeds[0], IMAGE, **given)
    with pytest.raises(ValueError, match="of one network, got 3"):
        member_probabilities(seeds, IMAGE, source="noise")


def test_a_subjects_tables_are_what_the_parts_say(seeds) -> None:
    subject = subject_in_memory((16, 16, 20))
    both = ensemble(seeds, "three")
    answers = member_probabilities(both, subject.image)
    threshold = float(answers.mean(dim=0).quantile(0.9))
    both = replace(both, threshold=threshold)
    lesions = find_lesions(both, subject)
    assert len(lesions)
    table, patient = subject_uncertainty(subject, both, lesions)
    pd.testing.assert_frame_equal(table, lesion_uncertainty(answers, lesions, threshold=threshold))
    assert only(patient)["subject"] == subject.name
    assert only(patient)["structural"] == patient_uncertainty(answers, lesions, threshold=threshold)["structural"]
