"""Summaries and rankings: by hand, against plain loops, NaN counted and never averaged."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers.measures.evaluation import rank_methods, summarise_measures

NAN = float("nan")


def table(values: dict[str, list[float]], measure: str = "energy", subjects: str = "", network: str = "unet"):
    """Tidy rows: a list of values a method, one a lesion; `subjects` names each lesion's subject by a letter."""
    rows = [
        {
            "subject": (subjects or "a" * len(values[method]))[n],
            "network": network,
            "group": "TP" if n % 2 == 0 else "FN",
            "method": method,
            "measure": measure,
            "value": value,
            "unit": "",
            "lesion_id": f"{network}{n}",
        }
        for method in values
        for n, value in enumerate(values[method])
    ]
    return pd.DataFrame(rows)


def test_a_summary_by_hand() -> None:
    """1, 2, 4 and nothing: mean 7/3, squares about it 42/9, sd sqrt(42/18), quartiles 1.5, 2, 3."""
    summary = summarise_measures(table({"m": [1.0, 2.0, 4.0, NAN]}, subjects="aabb"))
    row = summary[summary["group"] == "all"].iloc[0]
    assert (row["subjects"], row["n"], row["nan"]) == (2, 3, 1)
    assert (row["mean"], row["sd"]) == (pytest.approx(7 / 3), pytest.approx(np.sqrt(42 / 18)))
    assert row[["q25", "median", "q75"]].tolist() == [1.5, 2.0, 3.0]
    by_group = summary.set_index("group")
    assert by_group.loc[["TP", "FN"], "n"].tolist() == [2, 1]
    assert by_group.loc[["TP", "FN"], "mean"].tolist() == [2.5, 2.0]
    assert by_group.loc["TP", "sd"] == pytest.approx(np.sqrt(4.5))


def test_a_subject_counts_where_it_has_a_value_and_not_where_it_has_none() -> None:
    summary = summarise_measures(table({"m": [1.0, 2.0, NAN, NAN]}, subjects="aabb"))
    assert summary.set_index("group").loc["all", ["subjects", "n", "nan"]].tolist() == [1, 2, 2]


def test_two_values_of_one_lesion_are_not_ranked() -> None:
    rows = table({"m": [1.0, 2.0], "n": [3.0, 4.0]})
    with pytest.raises(ValueError, match="one energy of each method, unet1 of a has more of m; drop repeated"):
        rank_methods(pd.concat([rows, rows.iloc[[1]]]))


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    summary = summarise_measures(table({"one": [3.0], "none": [NAN]})).set_index(["method", "group"])
    assert summary.loc[("one", "all"), ["mean", "median"]].tolist() == [3.0, 3.0]
    assert np.isnan(summary.loc[("one", "all"), "sd"])
    assert summary.loc[("none", "all"), ["n", "nan"]].tolist() == [0, 1]
    assert np.isnan(summary.loc[("none", "all"), "mean"])


def test_nothing_to_summarise_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a measured map to summarise"):
        summarise_measures(table({"m": []}))


def test_methods_are_compared_on_the_lesions_that_all_have() -> None:
    """Without that rule `easy`, which has only the first two lesions' values, would win by 0.9 to 0.65."""
    ranking = rank_methods(table({"easy": [0.9, 0.9, NAN, NAN], "fair": [1.0, 1.0, 0.3, 0.3]}))
    assert ranking["method"].tolist() == ["fair", "easy"]
    assert ranking["mean"].tolist() == [1.0, 0.9]
    assert ranking["rank"].tolist() == [1, 2]
    assert set(ranking["lesions"]) == {2}
    assert set(ranking["left_out"]) == {2}
    assert ranking["first"].tolist() == [1.0, 0.0]


def test_lower_is_better_where_it_is_and_equals_share_a_rank() -> None:
    values = {"a": [0.5, 0.5], "b": [0.1, 0.1], "c": [0.1, 0.1]}
    ranking = rank_methods(table(values, "complexity"))
    assert dict(zip(ranking["method"], ranking["rank"], strict=True)) == {"a": 3, "b": 1, "c": 1}
    assert set(ranking["better"]) == {"lower"}
    assert dict(zip(ranking["method"], ranking["first"], strict=True)) == {"a": 0.0, "b": 1.0, "c": 1.0}
    higher = rank_methods(table(values, "energy"))
    assert dict(zip(higher["method"], higher["rank"], strict=True)) == {"a": 1, "b": 2, "c": 2}


def test_measures_with_a_unit_are_not_ranked() -> None:
    assert rank_methods(table({"a": [1.0], "b": [2.0]}, "focus")).empty


def test_intervals_are_those_of_plain_loops(rng: np.random.Generator) -> None:
    subjects, values = "aabbbc", rng.random(6)
    got = rank_methods(table({"m": values.tolist()}, subjects=subjects), resamples=50, seed=4).iloc[0]
    drawing, means = np.random.default_rng(4), []
    of = [[n for n in range(6) if subjects[n] == s] for s in "abc"]
    for _ in range(50):
        rows: list[int] = []
        for subject in drawing.integers(3, size=3):
            rows += drawing.choice(of[subject], len(of[subject])).tolist()
        means.append(sum(values[n] for n in rows) / len(rows))
    assert (got["low"], got["high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_subjects_are_resampled_not_their_lesions_alone() -> None:
    """Two subjects, all lesions of one 0 and of the other 1: a quarter of the draws holds one of them twice."""
    got = rank_methods(table({"m": [0.0] * 20 + [1.0] * 20}, subjects="a" * 20 + "b" * 20)).iloc[0]
    assert (got["low"], got["high"], got["mean"]) == (0.0, 1.0, 0.5)
    assert (got["subjects"], got["lesions"]) == (2, 40)


def test_the_same_draws_serve_all_methods() -> None:
    """A method that is better by 0.001 on every lesion is first in every resample."""
    values = np.random.default_rng(1).random(8)
    ranking = rank_methods(table({"a": values.tolist(), "b": (values + 0.001).tolist()}, subjects="aabbccdd"))
    assert ranking["method"].tolist() == ["b", "a"]
    assert ranking["first"].tolist() == [1.0, 0.0]
    assert (ranking["high"] - ranking["low"]).min() > 0.1


def test_each_network_has_its_ranking_and_no_common_lesion_leaves_it_without_numbers() -> None:
    apart = table({"a": [0.4, NAN], "b": [NAN, 0.6]}, network="nnunet")
    ranking = rank_methods(pd.concat([table({"a": [0.1], "b": [0.2]}), apart]))
    assert ranking["network"].tolist() == ["unet", "unet", "nnunet", "nnunet"]
    assert ranking["method"].tolist()[:2] == ["b", "a"]
    nothing = ranking[ranking["network"] == "nnunet"]
    assert nothing[["rank", "mean", "low", "high", "first"]].isna().all(axis=None)
    assert set(nothing["lesions"]) == {0}
    assert set(nothing["left_out"]) == {2}
