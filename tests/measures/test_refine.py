"""False lesions told: closed forms, scikit-learn, planted signals, and mistakes that were published, planted here."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ies_helpers.measures import refine as module
from ies_helpers.measures.features import map_features
from ies_helpers.measures.refine import (
    RIDGES,
    ROC_GRID,
    Refined,
    calibration,
    describe_features,
    fit_logistic,
    fit_model,
    predict_false,
    read_lesions,
    refine,
    roc,
)
from tests.folders import explain_toy, list_lesions
from tests.tables import lesions

SAME = 1e-6  # two solvers of one convex problem

# One number, and a model that never saw the subject.


def with_noise(rng: np.random.Generator, subjects: int, each: int, shift: float, between: float = 0.0) -> pd.DataFrame:
    """TP above FP by `shift`, beside a measure that says nothing."""
    levels = between * rng.standard_normal(subjects)
    shapes = {(f"s{n:02d}", g): level + up for n, level in enumerate(levels) for g, up in (("TP", shift), ("FP", 0.0))}
    table = lesions({key: list(middle + rng.standard_normal(each)) for key, middle in shapes.items()})
    return table.assign(noise=rng.standard_normal(len(table)))


def test_areas_by_hand() -> None:
    apart = lesions({("a", "TP"): [6, 7, 8, 9, 10], ("b", "FP"): [1, 2, 3, 4, 5]})
    assert roc(apart, "peak").auc == 1
    assert roc(apart, "peak", false_when="high").auc == 0
    assert roc(apart.assign(peak=1.0), "peak").auc == 0.5
    mixed = lesions({("a", "TP"): [1, 2, 3, 4, 5], ("b", "FP"): [0, 0, 3, 6, 6]})
    assert roc(mixed, "peak").auc == pytest.approx((5 + 5 + 2.5 + 0 + 0) / 25)


def test_the_curve_and_its_area_are_those_of_scikit_learn(rng) -> None:
    table = with_noise(rng, 4, 12, 0.8).round({"peak": 1})
    got, false = roc(table, "peak", resamples=20), (table["group"] == "FP").to_numpy()
    alarms, caught, _ = roc_curve(false, -table["peak"], drop_intermediate=False)
    assert got.alarms == pytest.approx(alarms)
    assert got.caught == pytest.approx(caught)
    assert got.auc == pytest.approx(roc_auc_score(false, -table["peak"]))
    assert got.auc == pytest.approx(trapezoid(got.caught, got.alarms))
    assert [got.false, got.true, got.subjects] == [48, 48, 4]


def test_the_area_of_two_normal_groups_is_the_closed_form(rng) -> None:
    """AUC = Phi(shift / sqrt 2); lesions of subjects without a level of their own are independent."""
    got = roc(with_noise(rng, 200, 10, 1.0), "peak", resamples=300)
    wanted = norm.cdf(1 / np.sqrt(2))
    assert got.auc == pytest.approx(wanted, abs=0.015)
    assert got.within == pytest.approx(wanted, abs=0.015)
    assert np.diff(got.interval)[0] == pytest.approx(np.diff(got.naive)[0], rel=0.2)
    assert got.interval[0] < wanted < got.interval[1]
    assert got.note == ""


def test_lesions_of_subjects_with_levels_of_their_own_have_a_wider_interval(rng) -> None:
    """Half of the subjects have false lesions only: the level decides, and few subjects tell little."""
    table = with_noise(rng, 16, 20, 0.0, between=2.0)
    table = table[(table["group"] == "TP") == table["subject"].str[1:].astype(int).mod(2).eq(0)]
    got = roc(table, "peak")
    assert np.diff(got.interval)[0] > 3 * np.diff(got.naive)[0]
    assert np.isnan(got.within)


def test_the_band_is_that_of_a_plain_loop_over_resampled_subjects(rng) -> None:
    table = with_noise(rng, 5, 3, 0.5)
    got, draws, curves = roc(table, "peak", resamples=60, seed=2), np.random.default_rng(2), []
    for times in draws.multinomial(5, np.full(5, 0.2), size=60):
        names = [f"s{n:02d}" for n, k in enumerate(times) for _ in range(k)]
        listed = pd.concat([table[table["subject"] == name] for name in names])
        alarms, caught, _ = roc_curve(listed["group"] == "FP", -listed["peak"], drop_intermediate=False)
        curves.append(
            [caught[alarms <= x + 1e-12].max() if x in alarms else np.interp(x, alarms, caught) for x in ROC_GRID]
        )
    assert got.band == pytest.approx(np.percentile(curves, [2.5, 97.5], axis=0))


def test_shuffled_groups_have_an_area_of_one_half(rng) -> None:
    table, areas = with_noise(rng, 6, 10, 1.5), []
    for _ in range(200):
        areas.append(roc(table.assign(group=rng.permutation(table["group"])), "peak", resamples=1).auc)
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.sqrt(121 / (12 * 60 * 60)) / np.sqrt(200))
    assert roc(table, "peak", resamples=1).auc > max(areas)


def test_the_model_finds_the_measure_that_tells_and_is_not_led_astray_by_noise(rng) -> None:
    table = with_noise(rng, 12, 15, 1.5)
    both = roc(predict_false(table, ["peak", "noise"]), "p_false", false_when="high", resamples=50)
    noise = roc(predict_false(table, ["noise"]), "p_false", false_when="high", resamples=50)
    assert both.auc == pytest.approx(roc(table, "peak", resamples=1).auc, abs=0.02)
    assert noise.auc == pytest.approx(0.5, abs=0.1)


def test_a_subject_is_judged_by_a_model_that_never_saw_it(rng) -> None:
    """With folds of one subject: to turn its groups round changes all other subjects' probabilities, not its own."""
    table = with_noise(rng, 4, 8, 1.0)
    before = predict_false(table, ["peak"], folds=4)
    own = table["subject"] == "s02"
    turned = table.assign(group=table["group"].where(~own, table["group"].map({"TP": "FP", "FP": "TP"})))
    after = predict_false(turned, ["peak"], folds=4)
    assert after["p_false"][own].to_numpy() == pytest.approx(before["p_false"][own].to_numpy(), abs=1e-9)
    assert not np.allclose(after["p_false"][~own], before["p_false"][~own], atol=1e-3)


def test_columns_that_name_the_subject_are_of_no_use() -> None:
    """Each subject has one group: a model that had seen it would know the answer by its name."""
    names = [f"s{n:02d}" for n in range(10)]
    table = lesions({(name, "TP" if n % 2 else "FP"): [0.0] * 10 for n, name in enumerate(names)})
    named = table.assign(**{name: (table["subject"] == name).astype(float) for name in names})
    got = roc(predict_false(named, names), "p_false", false_when="high", resamples=20)
    assert got.auc < 0.6


def test_probabilities_do_not_depend_on_unit_or_order(rng) -> None:
    table = with_noise(rng, 6, 8, 1.0)
    wanted = predict_false(table, ["peak", "noise"])["p_false"].to_numpy()
    scaled = predict_false(table.assign(peak=1e4 * table["peak"] + 7), ["peak", "noise"])["p_false"]
    assert scaled.to_numpy() == pytest.approx(wanted, abs=1e-5)


def test_probabilities_are_shares(rng) -> None:
    """FP are a quarter: what is called 0.25 on average is false as often, also in bins."""
    table = with_noise(rng, 30, 40, 1.2)
    table = table[(table["group"] == "TP") | (table.groupby(["subject", "group"]).cumcount() % 3 == 0)]
    predicted = predict_false(table, ["peak"])
    told = calibration(predicted)
    assert predicted["p_false"].mean() == pytest.approx((table["group"] == "FP").mean(), abs=0.02)
    assert told["lesions"].sum() == len(table)
    assert told["observed"].to_numpy() == pytest.approx(told["predicted"].to_numpy(), abs=0.08)
    assert told["brier"].iloc[0] < told["brier_of_share"].iloc[0]


def test_calibration_by_hand() -> None:
    table = lesions({("a", "FP"): [0.9] * 4 + [0.1], ("a", "TP"): [0.9] + [0.1] * 4}).rename(
        columns={"peak": "p_false"}
    )
    told = calibration(table, bins=2)
    assert told[["lesions", "predicted", "observed"]].to_numpy() == pytest.approx(
        np.array([[5, 0.1, 0.2], [5, 0.9, 0.8]])
    )
    assert told["brier"].tolist() == pytest.approx([(8 * 0.01 + 2 * 0.81) / 10] * 2)
    assert told["brier_of_share"].tolist() == pytest.approx([0.25, 0.25])
    assert told.loc[0, ["low", "high"]].tolist() == pytest.approx([0.0362, 0.6245], abs=1e-4)  # Wilson, 1 of 5
    assert len(calibration(table.assign(p_false=0.5))) == 1


def test_missed_lesions_controls_and_lesions_without_a_value_are_left_out(rng) -> None:
    table = with_noise(rng, 4, 6, 1.0)
    more = pd.concat([table, lesions({("s00", "FN"): [99.0] * 9, ("s00", "TN"): [99.0], ("s00", "TP"): [np.nan] * 3})])
    a, b = roc(table, "peak", resamples=30), roc(more, "peak", resamples=30)
    assert [a.auc, *a.interval] == [b.auc, *b.interval]
    assert len(predict_false(more.assign(noise=1.0), ["peak"])) == len(table)


def test_one_subject_has_no_interval_over_subjects(rng) -> None:
    got = roc(with_noise(rng, 1, 8, 0.3), "peak", resamples=30)
    assert np.isnan([*got.interval, *got.within_interval]).all()
    assert np.isnan(got.band).all()
    assert got.naive[0] < got.auc < got.naive[1]
    assert got.note == "one subject in a group: no interval over subjects"


def test_false_lesions_of_one_subject_have_no_interval_however_many_subjects_have_true_ones(rng) -> None:
    table = with_noise(rng, 12, 6, 1.0)
    got = roc(table[(table["group"] == "TP") | (table["subject"] == "s03")], "peak", resamples=50)
    assert np.isnan([*got.interval, *got.within_interval]).all()
    assert np.isnan(got.band).all()
    assert np.isfinite([got.auc, got.within, *got.naive]).all()
    assert got.note == "one subject in a group: no interval over subjects"


def test_resamples_without_a_false_lesion_leave_no_band(rng) -> None:
    """Two of three subjects have no false lesion, and the one resample drawn is of these."""
    table = with_noise(rng, 3, 6, 1.0)
    table = table[(table["group"] == "TP") | (table["subject"] != "s00")]
    draws = [np.random.default_rng(seed).multinomial(3, np.full(3, 1 / 3)).tolist() for seed in range(400)]
    assert np.isnan(roc(table, "peak", resamples=1, seed=draws.index([3, 0, 0])).band).all()


def test_lesions_without_a_probability_are_left_out_of_the_calibration(rng) -> None:
    predicted = predict_false(with_noise(rng, 6, 8, 1.0), ["peak"])
    more = pd.concat([predicted, predicted.iloc[:7].assign(p_false=np.nan)])
    pd.testing.assert_frame_equal(calibration(more), calibration(predicted))


def test_the_brier_score_to_beat_is_that_of_the_share_of_false_lesions() -> None:
    table = lesions({("a", "FP"): [0.9] * 5, ("a", "TP"): list(np.linspace(0.1, 0.8, 15))})
    told = calibration(table.rename(columns={"peak": "p_false"}))
    assert told["brier_of_share"].tolist() == pytest.approx([0.25 * 0.75] * len(told))


def test_scaling_ridge_and_calibration_learn_from_subjects_that_are_not_judged(rng, monkeypatch) -> None:
    table, seen = with_noise(rng, 6, 4, 1.0), []
    fit = module.fit_model
    monkeypatch.setattr(module, "fit_model", lambda x, y, splits: seen.append((x, splits)) or fit(x, y, splits))
    predict_false(table, ["peak"], folds=3)
    subjects, peaks = table["subject"].to_numpy(), table[["peak"]].to_numpy()
    assert len(seen) == 3
    for columns, splits in seen:
        train = np.isin(peaks, columns)[:, 0]
        assert len(set(subjects[train])) == 4
        for fitted, judged in splits:
            assert not set(subjects[train][fitted]) & set(subjects[train][judged])


def test_what_cannot_be_told_is_refused(rng) -> None:
    table = with_noise(rng, 3, 6, 1.0)
    with pytest.raises(ValueError, match="got 18 TP and 4 FP"):
        roc(table.drop(index=table[table["group"] == "FP"].index[:14]), "peak")
    with pytest.raises(ValueError, match="'left'"):
        roc(table, "peak", false_when="left")
    with pytest.raises(ValueError, match="got 2"):
        predict_false(table[table["subject"] != "s00"], ["peak"])
    with pytest.raises(ValueError, match="of 3 subjects 1 have"):
        predict_false(table[(table["group"] == "TP") | (table["subject"] == "s00")], ["peak"])
    with pytest.raises(ValueError, match="got 1 subjects to split into 2"):
        predict_false(table, ["peak"], folds=2)
    with pytest.raises(ValueError, match="got 3 subjects to split into 1"):
        predict_false(table, ["peak"], folds=1)
    with pytest.raises(ValueError, match="got none"):
        predict_false(table, [])


# The model itself, against scikit-learn.


def overlapping(
    rng: np.random.Generator, subjects: int = 6, each: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns (n, 3) of which one tells a little, false (n,), subjects (n,)."""
    false = rng.random(subjects * each) < 0.4
    columns = rng.standard_normal((len(false), 3)) * [1.0, 50.0, 1e-3] + np.outer(false, [1.0, 0.0, 0.0])
    return columns, false, np.repeat([f"s{n}" for n in range(subjects)], each)


@pytest.mark.parametrize("ridge", [*RIDGES, 1e-3])
def test_weights_are_those_of_scikit_learn(ridge: float, rng) -> None:
    columns, false, _ = overlapping(rng)
    columns = StandardScaler().fit_transform(columns)
    theirs = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10000).fit(columns, false)
    ours = fit_logistic(columns, false, ridge)
    assert ours[:-1] == pytest.approx(theirs.coef_[0], abs=SAME)
    assert ours[-1] == pytest.approx(theirs.intercept_[0], abs=SAME)


def test_separated_lesions_and_columns_that_do_not_vary_have_finite_weights() -> None:
    columns = np.column_stack([np.r_[np.zeros(9), np.ones(9)], np.full(18, 0.1), np.zeros(18)])
    false = columns[:, 0] > 0
    weights = fit_logistic(columns, false, 1e-3)
    assert np.isfinite(weights).all()
    even, odd = np.arange(0, 18, 2), np.arange(1, 18, 2)
    model, _ = fit_model(columns, false, [(even, odd), (odd, even)])
    assert model.spread[1:].tolist() == [1.0, 1.0]
    assert (model(columns)[false] > 0.8).all()
    assert (model(columns)[~false] < 0.2).all()


def test_the_weight_of_one_centred_column_solves_its_equation() -> None:
    """Two lesions at -1 and +1, one false: w + 2 (sigmoid(w) - 1) = 0 for a ridge of 1."""
    (weight, intercept) = fit_logistic(np.array([[-1.0], [1.0]]), np.array([False, True]), 1.0)
    assert weight + 2 * (1 / (1 + np.exp(-weight)) - 1) == pytest.approx(0, abs=SAME)
    assert intercept == pytest.approx(0, abs=SAME)


def test_the_whole_pipeline_is_scikit_learns_where_there_is_nothing_to_choose(rng, monkeypatch) -> None:
    columns, false, subjects = overlapping(rng)
    monkeypatch.setattr(module, "RIDGES", (2.0,))
    splits = list(GroupKFold(3).split(columns, false, subjects))
    model, _ = fit_model(columns, false, splits)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=10000))
    theirs = CalibratedClassifierCV(theirs, method="sigmoid", cv=splits, ensemble=False).fit(columns, false)
    asked = rng.standard_normal((20, 3)) * [1.0, 50.0, 1e-3]
    assert model(asked) == pytest.approx(theirs.predict_proba(asked)[:, 1], abs=1e-3)  # their sigmoid stops early


def test_more_noise_takes_a_larger_ridge(rng) -> None:
    """On average over tables: sixty columns of noise beside one that tells a little, and that one alone."""
    powers = np.zeros((8, 2))
    for n in range(8):
        columns, false, subjects = overlapping(rng, 8, 15)
        splits = list(GroupKFold(4).split(columns, false, subjects))
        noisy = np.column_stack([columns, rng.standard_normal((len(false), 60))])
        powers[n] = [np.log10(fit_model(each, false, splits)[0].ridge) for each in (noisy, columns)]
    assert powers[:, 0].mean() > powers[:, 1].mean() + 0.5


# Fewer false lesions.


def judged_lesions(
    rng: np.random.Generator,
    subjects: int = 12,
    each: int = 14,
    tells: float = 0.0,
    between: float = 0.0,
    missed: int = 2,
) -> pd.DataFrame:
    """Found and missed lesions: size and probability tell something; `x_mean` does by `tells`, beyond them; two do not.

    All features go with the size a little, and differ between subjects by `between`.
    """
    rows = []
    for n in range(subjects):
        level = between * rng.standard_normal()
        for k in range(each + missed):
            false = bool(rng.random() < 0.35)
            size = rng.normal(3.5 - 0.7 * false, 0.8)
            row = {"subject": f"s{n:02d}", "group": "FN" if k >= each else "FP" if false else "TP"}
            row |= {"voxels": int(np.ceil(np.exp(size))), "probability": 0.9 - 0.1 * false + rng.normal(0, 0.1)}
            row |= {f"x_{name}": level + 0.5 * size + rng.standard_normal() for name in ("sd", "spread")}
            rows.append(row | {"x_mean": level + 0.5 * size + tells * false + rng.standard_normal()})
    return pd.DataFrame(rows)


QUICK = {"folds": 3, "resamples": 100, "permutations": 0}


def test_a_planted_feature_is_found(rng) -> None:
    got = refine(judged_lesions(rng, tells=2.0), folds=3, resamples=200, permutations=19)
    areas = got.judges.set_index("judge")["auc"]
    assert areas["all"] > areas["features"] > 0.75
    assert got.gain == pytest.approx(areas["all"] - areas["free"])
    assert got.gain_interval[0] > 0.05
    assert got.p == 1 / 20
    after = got.judges.set_index("judge").loc["all"]
    assert after["f1_gain_low"] > 0
    assert after["ppv_gain_low"] > 0
    heaviest = got.weights.groupby("column")["weight"].mean().abs().idxmax()
    assert heaviest == "x_mean"


def test_p_values_of_nothing_are_even(rng) -> None:
    """Features that know the size and the subject, and nothing else: p is 0.1, 0.2, ..., 1.0 about as often each."""
    how = {"folds": 3, "resamples": 1, "permutations": 9}
    p = [refine(judged_lesions(rng, 6, 12, between=1.0), seed=n, **how).p for n in range(40)]
    counts = np.bincount(np.rint(np.array(p) * 10).astype(int), minlength=11)[1:]
    assert ((counts - 4) ** 2 / 4).sum() < 27.9  # chi squared of 9 degrees of freedom, one in a thousand
    assert np.mean(p) == pytest.approx(0.55, abs=4 * np.sqrt(0.99 / 12 / 40))


def test_counts_and_scores_by_hand() -> None:
    """The size tells: two subjects to learn from; of the third one true lesion is too small and one false too large."""
    rows = []
    for subject in "ab":
        rows += [(subject, "TP", v) for v in (20, 30, 40, 50)] + [(subject, "FP", v) for v in (6, 8, 10)]
    unseen = [("c", "TP", v) for v in (15, 25, 35, 45, 55)] + [("c", "FP", v) for v in (6, 7, 8, 9, 60)]
    unseen += [("c", "FN", 9)] * 3
    columns = ["subject", "group", "voxels"]
    known, others = (pd.DataFrame(r, columns=columns) for r in (rows, unseen))
    known, others = (t.assign(x_mean=np.arange(len(t)) % 3, probability=0.5) for t in (known, others))
    got = refine(known, unseen=others, keep=1.0, **QUICK)
    before, size = (got.judges.set_index("judge").loc[name] for name in ("as found", "size"))
    assert before[["tp", "fp", "fn"]].tolist() == [5, 5, 3]
    assert size[["tp", "fp", "fn"]].tolist() == [4, 1, 4]
    assert [size["sensitivity"], size["ppv"], size["f1"]] == pytest.approx([4 / 8, 4 / 5, 8 / 13])
    assert [size["sensitivity_gain"], size["ppv_gain"]] == pytest.approx([4 / 8 - 5 / 8, 4 / 5 - 1 / 2])
    assert size["f1_gain"] == pytest.approx(8 / 13 - 10 / 18)
    assert got.judges.loc[got.judges["judge"] == "probability", ["tp", "fp", "fn"]].to_numpy().tolist() == [[5, 5, 3]]
    limit = got.used.set_index("judge").loc["size"]
    assert limit["threshold"] == pytest.approx(-np.log(20))
    assert [limit["learned_from"], limit["judged"], limit["lesions_learned"], limit["lesions_judged"]] == [
        "a b",
        "c",
        14,
        10,
    ]
    assert got.judges[[c for c in got.judges if c.endswith(("_low", "_high"))]].isna().all(axis=None)  # one subject


def test_a_missed_lesion_counts_before_and_after(rng) -> None:
    """Without FN the sensitivity before would be 1; with them each judge starts from what was found."""
    table = judged_lesions(rng, missed=3)
    got = refine(table, **QUICK).judges.set_index("judge")
    true, missed = (int((table["group"] == group).sum()) for group in ("TP", "FN"))
    assert missed == 36
    assert got.loc["as found", "sensitivity"] == pytest.approx(true / (true + missed))
    assert ((got["tp"] + got["fn"]) == true + missed).all()
    without = refine(table[table["group"] != "FN"], **QUICK)
    assert without.judges.set_index("judge").loc["as found", "sensitivity"] == 1
    assert "no missed lesion (FN) is in the table: sensitivity and F1 count found ones alone" in without.notes
    assert not any("FN" in note for note in refine(table, **QUICK).notes)


def test_thresholds_keep_the_share_of_true_lesions_that_was_asked_for(rng) -> None:
    """Set on training subjects, so that it holds about, and not exactly, in the others."""
    table = judged_lesions(rng, 30, 20, tells=1.0)
    for keep in (0.8, 0.95):
        got = refine(table, keep=keep, **QUICK).judges.set_index("judge")
        share = got.loc[["size", "probability", "all"], "tp"] / got.loc["as found", "tp"]
        assert share.to_numpy() == pytest.approx(np.full(3, keep), abs=4 * np.sqrt(keep * (1 - keep) / 390))
        assert (share != keep).any()


def test_intervals_of_scores_are_those_of_a_plain_loop_over_subjects(rng) -> None:
    table = judged_lesions(rng, 6, 12, tells=1.0)
    got = refine(table, folds=3, resamples=50, permutations=0, seed=4)
    row, kept = got.judges.set_index("judge").loc["all"], got.lesions
    wanted: dict[str, list[float]] = {"f1": [], "f1_gain": [], "ppv": []}
    for times in np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=50):
        tp = fp = fn = lost = gone = 0
        for name, k in zip([f"s{n:02d}" for n in range(6)], times, strict=True):
            own, judged = table[table["subject"] == name], kept[kept["subject"] == name]
            tp, fp, fn = (a + k * int((own["group"] == g).sum()) for a, g in ((tp, "TP"), (fp, "FP"), (fn, "FN")))
            lost += k * int(((judged["group"] == "TP") & ~judged["kept all"]).sum())
            gone += k * int(((judged["group"] == "FP") & ~judged["kept all"]).sum())
        after = 2 * (tp - lost) / (2 * (tp - lost) + fp - gone + fn + lost)
        wanted["f1"].append(after)
        wanted["f1_gain"].append(after - 2 * tp / (2 * tp + fp + fn))
        wanted["ppv"].append((tp - lost) / (tp - lost + fp - gone))
    for score, values in wanted.items():
        assert [row[f"{score}_low"], row[f"{score}_high"]] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_the_gain_is_the_difference_of_two_areas_and_its_interval_that_of_a_plain_loop(rng) -> None:
    got = refine(judged_lesions(rng, 6, 12, tells=1.0), folds=3, resamples=40, permutations=0, seed=1)
    table, gains = got.lesions, []
    for times in np.random.default_rng(1).multinomial(6, np.full(6, 1 / 6), size=40):
        names = [f"s{n:02d}" for n, k in enumerate(times) for _ in range(k)]
        drawn = pd.concat([table[table["subject"] == name] for name in names])
        false = drawn["group"] == "FP"
        gains.append(roc_auc_score(false, drawn["evidence all"]) - roc_auc_score(false, drawn["evidence free"]))
    assert got.gain_interval == pytest.approx(np.percentile(gains, [2.5, 97.5]))


def test_new_subjects_are_judged_by_a_model_of_all_others(rng) -> None:
    known, others = judged_lesions(rng, 10, tells=2.0), judged_lesions(rng, 4, tells=2.0)
    others = others.assign(subject="new" + others["subject"], voxels=2 * others["voxels"])
    got = refine(known, unseen=others, **QUICK)
    assert set(got.lesions["subject"]) == set(others["subject"])
    assert got.judges["subjects"].tolist() == [4] * len(got.judges)
    assert got.used["fold"].unique().tolist() == [0]
    assert got.curves["features"].auc > 0.75
    with pytest.raises(ValueError, match="both have s00"):
        refine(known, unseen=judged_lesions(rng, 2), **QUICK)


def test_uncertainty_is_a_judge_where_the_table_has_it_and_speaks_for_false_when_high(rng) -> None:
    table = judged_lesions(rng)
    assert "uncertainty" not in refine(table, **QUICK).curves
    unsure = table.assign(
        uncertainty=np.where(table["group"] == "FP", 0.9, 0.1) + 0.01 * rng.standard_normal(len(table))
    )
    got = refine(unsure, **QUICK)
    assert list(got.curves) == ["size", "probability", "uncertainty", "free", "features", "all"]
    assert got.curves["uncertainty"].auc == 1
    assert list(refine(unsure, baseline=["size"], **QUICK).curves) == ["size", "free", "features", "all"]


def test_what_lacks_values_is_left_out_and_told(rng) -> None:
    table = judged_lesions(rng, missed=0)
    table.loc[:30, "x_sd"] = np.nan
    table.loc[:2, "x_mean"] = np.nan
    got = refine(table, **QUICK)
    assert "left out, as more than a tenth of the lesions lack them: x_sd" in got.notes
    assert "3 of 168 found lesions lack a value and stay, whoever judges" in got.notes
    assert set(got.weights["column"]) == {"size", "probability", "x_mean", "x_spread"}
    assert len(got.lesions) == 165
    before = got.judges.set_index("judge").loc["as found"]
    assert before["tp"] + before["fp"] == 168
    assert all(note in str(got) for note in ("3 of 168 found lesions", "Left out, as more"))


def test_tables_that_cannot_be_refined_are_refused(rng) -> None:
    table = judged_lesions(rng, 4)
    for wrong, told in {
        "got 1": table[table["subject"] == "s00"].assign(group=["TP", "FP"] * 8),
        "no subject": table.drop(columns="subject"),
        "and 0 FP": table[table["group"] != "FP"],
        "got no feature": table.drop(columns=["x_mean", "x_sd", "x_spread"]),
        "got inf": table.assign(x_mean=np.inf),
        "x_sd, ...": table.drop(columns=["x_mean", "x_spread"]).assign(x_sd=np.nan),
        "got no baseline column": table.drop(columns=["voxels", "probability"]),
    }.items():
        with pytest.raises(ValueError, match=wrong):
            refine(told, **QUICK)
    with pytest.raises(ValueError, match="no voxels"):
        refine(table.drop(columns="voxels"), baseline=["size"], **QUICK)
    with pytest.raises(ValueError, match="no x_max"):
        refine(table, ["x_max"], **QUICK)
    with pytest.raises(ValueError, match="'age'"):
        refine(table, baseline=["age"], **QUICK)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        refine(table, keep=1.5)
    with pytest.raises(ValueError, match="of 4 subjects 1 have"):
        refine(table[(table["group"] != "FP") | (table["subject"] == "s00")], **QUICK)


# Mistakes that were published. Each is planted, and a question that ours answers rightly is answered wrongly by it.


def change_by_company(known: pd.DataFrame, others: pd.DataFrame) -> float:
    """How much the answers to ten lesions of new subjects change with which others lie beside them."""
    ten = pd.concat([others[others["group"] == group].head(5) for group in ("TP", "FP")])
    answers = []
    for company in (ten, others):
        judged = refine(known, unseen=company, **QUICK).lesions.set_index("id")
        answers.append(judged.loc[ten["id"], "evidence all"].to_numpy())
    return float(np.abs(answers[0] - answers[1]).max())


def test_a_scaler_fitted_on_the_test_set_is_caught(rng, monkeypatch) -> None:
    """What is said of a lesion would depend on which others lie beside it, which no clinic knows beforehand."""
    known, others = judged_lesions(rng, 8, tells=1.0), judged_lesions(rng, 4, tells=1.0)
    others = others.assign(subject="new" + others["subject"], x_mean=3 * others["x_mean"] + 5)
    others = others.sort_values("group", kind="stable").assign(id=np.arange(len(others)))
    assert change_by_company(known, others) == 0

    class Refitted(module.Model):
        def __call__(self, columns: np.ndarray) -> np.ndarray:
            middle, spread = module._standards(columns)
            return module.Model(middle, spread, self.weights, self.scale, self.ridge)(columns)

    fit = module.fit_model

    def mistaken(*given):
        model, own = fit(*given)
        return Refitted(model.middle, model.spread, model.weights, model.scale, model.ridge), own

    monkeypatch.setattr(module, "fit_model", mistaken)
    assert change_by_company(known, others) > 0.05


def misses(rng: np.random.Generator, named: Callable[[pd.DataFrame], pd.DataFrame], times: int = 40) -> int:
    """How often a 95 % interval of an AUC leaves out 0.5, where a number knows whose a lesion is, and nothing else.

    Each subject has true or false lesions alone, and a level of its own.
    """
    count = 0
    for _ in range(times):
        subject = np.repeat(np.arange(16), 10)
        told = pd.DataFrame({"subject": subject.astype(str), "group": np.where(subject % 2, "TP", "FP")})
        told["p"] = rng.standard_normal(16)[subject] + 0.3 * rng.standard_normal(len(told))
        low, high = roc(named(told), "p", resamples=100).interval
        count += not low <= 0.5 <= high
    return count


def test_lesions_resampled_as_if_independent_are_caught(rng) -> None:
    """Nothing is there to be found: one in twenty intervals may say so, not every other."""
    assert misses(rng, lambda table: table) <= 8
    assert misses(rng, lambda table: table.assign(subject=np.arange(len(table)).astype(str))) > 20


def maps_of(rng: np.random.Generator, normalised: bool) -> pd.DataFrame:
    """Features of small maps: those of false lesions are twice as strong, and alike in everything else."""
    rows, lesion = [], np.zeros((9, 9, 9), dtype=bool)
    lesion[3:6, 3:6, 3:6] = True
    for n, k in product(range(6), range(10)):
        false = k % 2
        values = (1 + false) * (lesion + 0.2 * rng.standard_normal(lesion.shape))
        values = (values - values.mean()) / values.std() if normalised else values
        told = map_features(tensor(values), lesion, np.eye(4), ("flair",))
        about = {"subject": f"s{n}", "group": "FP" if false else "TP", "voxels": 27, "probability": rng.random()}
        rows.append(about | {name: told[f"flair_{name}"] for name in ("mean", "sd", "max")})
    return pd.DataFrame(rows).rename(columns={n: f"flair_{n}" for n in ("mean", "sd", "max")})


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None]


def test_maps_that_were_z_scored_one_by_one_have_lost_what_tells(rng) -> None:
    assert refine(maps_of(rng, normalised=False), **QUICK).curves["features"].auc > 0.95
    assert refine(maps_of(rng, normalised=True), **QUICK).curves["features"].auc < 0.7


def test_a_ridge_chosen_by_the_judged_subjects_is_not_ours(rng, monkeypatch) -> None:
    """The judged lesions' groups never reach the model: turned round, they leave its answers alone."""
    known, others = judged_lesions(rng, 8, tells=1.0), judged_lesions(rng, 4, tells=1.0)
    others = others.assign(subject="new" + others["subject"])
    turned = others.assign(group=others["group"].replace({"TP": "FP", "FP": "TP"}))
    one, other = (refine(known, unseen=t, **QUICK) for t in (others, turned))
    assert one.lesions["evidence all"].tolist() == other.lesions["evidence all"].tolist()
    pd.testing.assert_frame_equal(one.used, other.used)


# Folders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject with a map of each of three lesions, and a table that lists a fourth, which was never explained."""
    out = explain_toy(tmp_path_factory.mktemp("toy"), methods=("gradient",))
    return list_lesions(out, "4\tFN\t9\t0.01", "5\tTN\t9\tn/a")


def test_a_folder_becomes_a_row_a_lesion_explained_or_not(folder) -> None:
    table = read_lesions(folder)
    assert table[["subject", "lesion", "group"]].to_numpy().tolist() == [
        ["p1", 1, "TP"],
        ["p1", 2, "FP"],
        ["p1", 3, "FN"],
        ["p1", 4, "FN"],
    ]
    assert table["probability"].tolist() == [0.1, 0.2, 0.3, 0.01]
    assert table["network"].nunique() == 1
    (saved,) = [s for s in module.read_maps(folder) if s.record["lesion"] == 2]
    wanted = map_features(*saved.load(), saved.modalities)
    own = table.set_index("lesion").loc[2, [f"gradientmean_{name}" for name in wanted]]
    assert own.to_numpy(dtype=float) == pytest.approx(np.array(list(wanted.values())), nan_ok=True)
    assert table.set_index("lesion").loc[4, [f"gradientmean_{name}" for name in wanted]].isna().all()


def test_folders_that_do_not_say_whose_lesions_they_are_are_refused(folder, tmp_path) -> None:
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    (bare / "sub-p1" / "lesions.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-p1/lesions\.tsv"):
        read_lesions(bare)
    other = explain_toy(tmp_path / "other", methods=("gradcam",))
    (other / "sub-p1" / "lesions.tsv").write_text("lesion\tgroup\tvoxels\tmean_probability\n1\tFP\t7\t0.5\n")
    with pytest.raises(ValueError, match="lesion 1 of p1 is two"):
        read_lesions([folder, other])


def write_uncertainty(folder: Path, subject: str, voxels: int = 0) -> list[float]:
    """As `ies uncertainty` does, of the lesions listed there; `voxels` more than they have."""
    listed = pd.read_csv(folder / f"sub-{subject}" / "lesions.tsv", sep="\t").query("group != 'TN'")
    values = [round(0.1 * n, 1) if group != "FN" else np.nan for n, group in enumerate(listed["group"], 1)]
    table = listed[["lesion", "group", "voxels"]].assign(structural=values, note="")
    table["voxels"] += voxels
    table.to_csv(folder / f"sub-{subject}" / "uncertainty.tsv", sep="\t", index=False, na_rep="n/a")
    return values


def test_the_uncertainty_of_the_same_lesions_joins_their_table(folder, tmp_path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    assert "uncertainty" not in read_lesions(own)
    values = write_uncertainty(own, "p1")
    assert read_lesions(own)["uncertainty"].tolist() == pytest.approx(values, nan_ok=True)
    write_uncertainty(own, "p1", voxels=1)
    with pytest.raises(ValueError, match=r"lesion 1 is not in it; run `ies uncertainty`"):
        read_lesions(own)


def test_uncertainty_of_some_subjects_alone_judges_none(folder, tmp_path) -> None:
    own, other = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("own", "other"))
    for path in sorted(other.rglob("*sub-p1*"), key=lambda p: -len(p.parts)):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace('"subject": "p1"', '"subject": "p2"'))
        path.rename(path.with_name(path.name.replace("sub-p1", "sub-p2")))
    write_uncertainty(own, "p1")
    with pytest.warns(UserWarning, match="none of p2; run"):
        table = read_lesions([own, other])
    assert "uncertainty" not in table
    assert set(table["subject"]) == {"p1", "p2"}


def test_two_networks_of_one_subject_are_not_mixed(folder, tmp_path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for path in other.glob("sub-p1/anat/*_desc-gradientmeanL*.json"):
        path.write_text(path.read_text().replace(json.loads(path.read_text())["digest"], "0123456789abcdef"))
    with pytest.raises(ValueError, match="0123456789abcdef"):
        read_lesions([folder, other])


def test_every_feature_that_was_used_is_described(rng) -> None:
    got: Refined = refine(judged_lesions(rng, 6), **QUICK)
    assert describe_features(got)["x_spread"]["unit"] == "mm"
    assert set(describe_features(got)) == {"x_mean", "x_sd", "x_spread"}
