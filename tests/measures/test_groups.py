"""Groups compared: closed forms, plain loops, what subjects do to intervals."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, norm

from ies_helpers.measures.groups import compare_groups, effect, group_table, holm
from tests.tables import lesions


def drawn(rng: np.random.Generator, subjects: int, each: int, between: float, shift: float = 0.0) -> pd.DataFrame:
    """TP and FP of subjects whose levels differ by `between`, lesions by 1; `shift` lifts TP."""
    values = {}
    for n in range(subjects):
        level = between * rng.standard_normal()
        for group, up in (("TP", shift), ("FP", 0.0)):
            values[f"s{n}", group] = list(level + up + rng.standard_normal(each))
    return lesions(values)


def halves(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table[table["group"] == "TP"], table[table["group"] == "FP"]


def cliffs_delta(first, second) -> float:
    """The effect of two lists of values, of one subject."""
    return effect(*(pd.DataFrame({"subject": "a", "peak": v}) for v in (first, second)), "peak", resamples=1).delta


def test_delta_of_pairs_by_hand() -> None:
    assert cliffs_delta([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert cliffs_delta([1.0, 2.0], [3.0, 4.0]) == -1.0
    assert cliffs_delta([1.0, 2.0], [1.0, 2.0]) == 0.0
    assert cliffs_delta([2.0, 2.0, 5.0], [2.0, 1.0]) == pytest.approx((0 + 1 + 0 + 1 + 1 + 1) / 6)


def test_delta_is_that_of_a_plain_loop_over_pairs(rng) -> None:
    first, second = rng.integers(0, 6, 23).astype(float), rng.integers(1, 7, 31).astype(float)
    wins = sum(float(np.sign(x - y)) for x, y in product(first, second))
    assert cliffs_delta(first, second) == pytest.approx(wins / (23 * 31))
    u = mannwhitneyu(first, second).statistic
    assert cliffs_delta(first, second) == pytest.approx(2 * u / (23 * 31) - 1)


def test_holm_by_hand_and_by_a_plain_loop(rng) -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)
    raw = rng.uniform(0, 0.2, 7)
    slow = [min(1, max((7 - k) * p for k, p in enumerate(sorted(raw)) if p <= own)) for own in raw]
    assert holm(raw) == pytest.approx(slow)


def test_the_usual_test_is_exact_for_few_lesions_without_ties() -> None:
    """Five above five: one of 252 orders, and its mirror image."""
    table = lesions({("a", "TP"): [6, 7, 8], ("b", "TP"): [9, 10], ("a", "FP"): [1, 2], ("b", "FP"): [3, 4, 5]})
    (row,) = compare_groups(table, "peak").to_dict("records")
    assert [row["u"], row["p"], row["p_holm"]] == pytest.approx([25, 2 / 252, 2 / 252])
    assert [row["delta"], row["within"], row["low"], row["high"]] == [1, 1, 1, 1]
    assert [row["first"], row["second"], row["n_first"], row["n_second"], row["subjects"]] == ["TP", "FP", 5, 5, 2]


def test_the_p_value_of_more_lesions_is_the_normal_one_corrected_for_continuity() -> None:
    """No ties; U lies between the middle and a step of one half from it would show."""
    first, second = np.r_[1:11, 20.0], np.r_[5.25:15.25, 5.5]
    table = lesions({("a", "TP"): list(first), ("b", "FP"): list(second)})
    (row,) = compare_groups(table, "peak", resamples=5).to_dict("records")
    u = sum(x > y for x, y in product(first, second))
    spread = np.sqrt(11 * 11 * 23 / 12)
    assert row["u"] == u
    assert row["p"] == pytest.approx(2 * norm.sf((abs(u - 11 * 11 / 2) - 0.5) / spread))


def test_the_p_value_is_that_of_shuffled_groups(rng) -> None:
    first, second = rng.normal(0.6, 1, 20).round(1), rng.normal(0, 1, 25).round(1)
    table = lesions({("a", "TP"): list(first), ("b", "FP"): list(second)})
    (row,) = compare_groups(table, "peak", resamples=10).to_dict("records")
    both, found = np.r_[first, second], abs(cliffs_delta(first, second))
    shuffles = [rng.permutation(both) for _ in range(4000)]
    as_far = np.mean([abs(cliffs_delta(s[:20], s[20:])) >= found - 1e-12 for s in shuffles])
    assert row["p"] == pytest.approx(as_far, abs=4 * np.sqrt(as_far / 4000))


def test_the_interval_over_subjects_is_that_of_a_plain_loop(rng) -> None:
    """The same subjects drawn, their lesions listed one by one."""
    first, second = halves(drawn(rng, 6, 4, 1.0))
    got = effect(first, second, "peak", resamples=200, seed=3)
    draws = np.random.default_rng(3)
    for size in (len(first), len(second)):
        draws.multinomial(size, np.full(size, 1 / size), size=200)
    slow, inside = [], []
    for times in draws.multinomial(6, np.full(6, 1 / 6), size=200):
        names = [f"s{n}" for n, k in enumerate(times) for _ in range(k)]
        values = [np.concatenate([part.loc[part["subject"] == s, "peak"] for s in names]) for part in (first, second)]
        slow.append(np.sign(values[0][:, None] - values[1]).mean())
        own = [
            np.sign(x - y)
            for s in names
            for x in first.loc[first["subject"] == s, "peak"]
            for y in second.loc[second["subject"] == s, "peak"]
        ]
        inside.append(np.mean(own))
    assert got.interval == pytest.approx(np.percentile(slow, [2.5, 97.5]))
    assert got.within_interval == pytest.approx(np.percentile(inside, [2.5, 97.5]))


def test_the_naive_interval_has_the_width_of_the_closed_form_without_effect(rng) -> None:
    """Var(delta) = (m + n + 1) / (3 m n) for equal distributions; a bootstrap, and one subject a lesion, find it."""
    m, n, widths = 150, 100, []
    for _ in range(6):
        names = [f"s{k}" for k in range(m + n)]
        parts = [
            pd.DataFrame({"subject": who, "peak": rng.standard_normal(len(who))}) for who in (names[:m], names[m:])
        ]
        got = effect(*parts, "peak", resamples=500)
        widths.append([np.diff(got.naive)[0], np.diff(got.interval)[0]])
        assert np.isnan(got.within)
    wanted = 2 * 1.96 * np.sqrt((m + n + 1) / (3 * m * n))
    assert np.mean(widths, axis=0) == pytest.approx([wanted, wanted], rel=0.06)


def test_lesions_counted_as_subjects_find_what_is_not_there(rng) -> None:
    """No effect, but each subject has lesions of one group and a level of its own."""
    misses = {"naive": 0, "subjects": 0, "p": 0}
    for _ in range(60):
        table = drawn(rng, 24, 10, 2.0)
        table = table[(table["group"] == "TP") == table["subject"].str[1:].astype(int).mod(2).eq(0)]
        (row,) = compare_groups(table, "peak", resamples=200).to_dict("records")
        misses["naive"] += not row["naive_low"] <= 0 <= row["naive_high"]
        misses["subjects"] += not row["low"] <= 0 <= row["high"]
        misses["p"] += row["p"] < 0.05
    assert misses["naive"] > 18
    assert misses["p"] > 18
    assert misses["subjects"] < 9


def test_within_subjects_a_difference_between_them_is_gone(rng) -> None:
    """TP come from subjects of high level more often; in the same subject TP and FP are alike."""
    values = {}
    for n in range(40):
        high = n % 2
        for group, count in (("TP", 20 if high else 4), ("FP", 4 if high else 20)):
            values[f"s{n}", group] = list(3.0 * high + rng.standard_normal(count))
    got = effect(*halves(lesions(values)), "peak")
    assert got.interval[0] > 0.5
    assert got.within_interval[0] < 0 < got.within_interval[1]
    assert got.note == ""


def test_all_ties_are_no_difference() -> None:
    table = lesions({("a", "TP"): [2.0] * 6, ("b", "FP"): [2.0] * 7})
    (row,) = compare_groups(table, "peak").to_dict("records")
    assert [row["u"], row["p"], row["delta"], row["naive_low"], row["naive_high"]] == [21, 1, 0, 0, 0]


def test_every_pair_in_the_papers_order_and_no_interval_over_one_subject(rng) -> None:
    values = {("a", group): list(rng.standard_normal(6) + k) for k, group in enumerate(("TN", "FN", "FP", "TP"))}
    values["a", "unknown"] = [99.0] * 9
    got = compare_groups(lesions(values), "peak", resamples=50)
    pairs = list(zip(got["first"], got["second"], strict=True))
    assert pairs == [("TP", "FP"), ("TP", "FN"), ("TP", "TN"), ("FP", "FN"), ("FP", "TN"), ("FN", "TN")]
    assert got["p_holm"].to_numpy() == pytest.approx(holm(got["p"]))
    assert got[["low", "high", "within_low", "within_high"]].isna().all(axis=None)
    assert got[["delta", "naive_low", "naive_high", "within"]].notna().all(axis=None)
    assert set(got["note"]) == {"one subject in a group: no interval over subjects"}


def test_a_hundred_subjects_with_true_lesions_do_not_help_one_with_false_ones(rng) -> None:
    """The interval rests on the smaller group: of one subject there is none, of nine it is told, of ten it is not."""
    true = {(f"s{n}", "TP"): list(rng.standard_normal(3)) for n in range(20)}
    told = {}
    for count in (1, 2, 9, 10):
        few = {(f"s{n}", "FP"): list(rng.standard_normal(6)) for n in range(count)}
        (row,) = compare_groups(lesions(true | few), "peak", resamples=50).to_dict("records")
        told[count] = (np.isnan([row["low"], row["high"]]).any(), row["note"])
    assert told == {
        1: (True, "one subject in a group: no interval over subjects"),
        2: (False, "only 2 subjects in a group: their interval is likely too narrow"),
        9: (False, "only 9 subjects in a group: their interval is likely too narrow"),
        10: (False, ""),
    }


def test_what_is_compared_within_subjects_rests_on_those_that_have_both_groups(rng) -> None:
    told = {}
    for both in (0, 1, 3, 10):
        values = {(f"s{n}", "TP"): list(rng.standard_normal(2)) for n in range(12)}
        values |= {(f"s{n}", "FP"): list(rng.standard_normal(2)) for n in range(12 - both, 24 - both)}
        got = effect(*halves(lesions(values)), "peak", resamples=50)
        told[both] = (np.isnan(got.within), np.isnan(got.within_interval).all(), got.note)
    assert told == {
        0: (True, True, "no subject has both groups: nothing within"),
        1: (False, True, "only 1 with both groups: no interval within"),
        3: (False, False, "only 3 with both groups: too narrow an interval within"),
        10: (False, False, ""),
    }


@pytest.mark.parametrize("kind", [object, "Float64", str])
def test_numbers_of_another_kind_are_the_same_numbers(kind, rng) -> None:
    table = lesions({(s, g): [1.0, 2.5, 4.0] for s in "ab" for g in ("TP", "FP")} | {("c", "TP"): [3.0, 0.5]})
    wanted = compare_groups(table, "peak", resamples=20)
    pd.testing.assert_frame_equal(compare_groups(table.astype({"peak": kind}), "peak", resamples=20), wanted)
    pd.testing.assert_frame_equal(group_table(table.astype({"peak": kind}), ["peak"]), group_table(table, ["peak"]))


def test_yes_and_no_are_one_and_zero() -> None:
    table = lesions({("a", "TP"): [True] * 4 + [False], ("b", "FP"): [False] * 5})
    (row,) = compare_groups(table, "peak", resamples=20).to_dict("records")
    assert row["delta"] == pytest.approx(0.8)
    assert group_table(table, ["peak"])["median"].tolist() == [1, 0]


def test_small_groups_are_not_compared_and_do_not_count_as_tests(rng) -> None:
    values = {(s, g): list(rng.standard_normal(3)) for s in "ab" for g in ("TP", "TN")} | {("a", "FP"): [1.0, 2.0]}
    got = compare_groups(lesions(values), "peak", resamples=50).set_index(["first", "second"])
    assert got.loc[("TP", "FP"), "note"] == "FP has 2 lesions, 5 are needed"
    assert got.loc[("TP", "FP"), ["u", "p", "p_holm", "delta", "low", "within"]].isna().all()
    assert got.loc[("TP", "TN"), "p_holm"] == got.loc[("TP", "TN"), "p"]
    assert got.loc[("TP", "TN"), "note"] == "only 2 subjects in a group: their interval is likely too narrow"


def test_lesions_without_a_value_are_left_out_and_group_sizes_say_so() -> None:
    table = lesions({("a", "TP"): [1, 2, 3, np.nan], ("b", "TP"): [4, 5, 6], ("b", "FN"): [0] * 5, ("c", "FN"): [1]})
    (row,) = compare_groups(table, "peak").to_dict("records")
    assert [row["n_first"], row["n_second"], row["subjects"]] == [6, 6, 3]
    assert row["delta"] == pytest.approx(35 / 36)
    told = group_table(table, ["peak"])
    assert told.to_numpy().tolist() == [["peak", "TP", 6, 2, 2.25, 3.5, 4.75], ["peak", "FN", 6, 2, 0.0, 0.0, 0.0]]


def test_the_order_of_rows_and_the_names_of_subjects_do_not_matter(rng) -> None:
    table = drawn(rng, 5, 6, 1.0, 0.5)
    shuffled = table.sample(frac=1, random_state=1)
    a, b = (compare_groups(t, "peak", resamples=100) for t in (table, shuffled))
    assert a.loc[0, ["u", "p", "low", "high"]].tolist() == pytest.approx(b.loc[0, ["u", "p", "low", "high"]].tolist())


def test_tables_that_cannot_be_compared_are_refused() -> None:
    table = lesions({("a", "TP"): [1.0] * 5})
    with pytest.raises(ValueError, match="got TP"):
        compare_groups(table, "peak")
    with pytest.raises(ValueError, match="no gini"):
        compare_groups(table, "gini")
    with pytest.raises(ValueError, match="2 of 5"):
        compare_groups(table.assign(subject=["a", None, "a", np.nan, "a"]), "peak")
    with pytest.raises(ValueError, match="got inf"):
        compare_groups(table.assign(peak=np.inf), "peak")
    with pytest.raises(ValueError, match="got high"):
        compare_groups(table.assign(peak="high"), "peak")
