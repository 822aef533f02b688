"""True or false: areas by hand, scikit-learn's curve as oracle, and a model that must not know its subject."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from ies_helpers.measures import groups as discrimination
from ies_helpers.measures.groups import GRID, calibration, predict_false, roc


def found(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """(subject, group) -> peaks, as a table."""
    rows = [(subject, group, value) for (subject, group), many in values.items() for value in many]
    return pd.DataFrame(rows, columns=["subject", "group", "peak"])


def drawn(rng: np.random.Generator, subjects: int, each: int, shift: float, between: float = 0.0) -> pd.DataFrame:
    """TP above FP by `shift`, beside a measure that says nothing."""
    levels = between * rng.standard_normal(subjects)
    shapes = {(f"s{n:02d}", g): level + up for n, level in enumerate(levels) for g, up in (("TP", shift), ("FP", 0.0))}
    table = found({key: list(middle + rng.standard_normal(each)) for key, middle in shapes.items()})
    return table.assign(noise=rng.standard_normal(len(table)))


def test_areas_by_hand() -> None:
    apart = found({("a", "TP"): [6, 7, 8, 9, 10], ("b", "FP"): [1, 2, 3, 4, 5]})
    assert roc(apart, "peak").auc == 1
    assert roc(apart, "peak", false_when="high").auc == 0
    assert roc(apart.assign(peak=1.0), "peak").auc == 0.5
    mixed = found({("a", "TP"): [1, 2, 3, 4, 5], ("b", "FP"): [0, 0, 3, 6, 6]})
    assert roc(mixed, "peak").auc == pytest.approx((5 + 5 + 2.5 + 0 + 0) / 25)


def test_the_curve_and_its_area_are_those_of_scikit_learn(rng) -> None:
    table = drawn(rng, 4, 12, 0.8).round({"peak": 1})
    got, false = roc(table, "peak", resamples=20), (table["group"] == "FP").to_numpy()
    alarms, caught, _ = roc_curve(false, -table["peak"], drop_intermediate=False)
    assert got.alarms == pytest.approx(alarms)
    assert got.caught == pytest.approx(caught)
    assert got.auc == pytest.approx(roc_auc_score(false, -table["peak"]))
    assert got.auc == pytest.approx(trapezoid(got.caught, got.alarms))
    assert [got.false, got.true, got.subjects] == [48, 48, 4]


def test_the_area_of_two_normal_groups_is_the_closed_form(rng) -> None:
    """AUC = Phi(shift / sqrt 2); lesions of subjects without a level of their own are independent."""
    got = roc(drawn(rng, 200, 10, 1.0), "peak", resamples=300)
    wanted = norm.cdf(1 / np.sqrt(2))
    assert got.auc == pytest.approx(wanted, abs=0.015)
    assert got.within == pytest.approx(wanted, abs=0.015)
    assert np.diff(got.interval)[0] == pytest.approx(np.diff(got.naive)[0], rel=0.2)
    assert got.interval[0] < wanted < got.interval[1]
    assert got.note == ""


def test_lesions_of_subjects_with_levels_of_their_own_have_a_wider_interval(rng) -> None:
    """Half of the subjects have false lesions only: the level decides, and few subjects tell little."""
    table = drawn(rng, 16, 20, 0.0, between=2.0)
    table = table[(table["group"] == "TP") == table["subject"].str[1:].astype(int).mod(2).eq(0)]
    got = roc(table, "peak")
    assert np.diff(got.interval)[0] > 3 * np.diff(got.naive)[0]
    assert np.isnan(got.within)


def test_the_band_is_that_of_a_plain_loop_over_resampled_subjects(rng) -> None:
    table = drawn(rng, 5, 3, 0.5)
    got, draws, curves = roc(table, "peak", resamples=60, seed=2), np.random.default_rng(2), []
    for times in draws.multinomial(5, np.full(5, 0.2), size=60):
        names = [f"s{n:02d}" for n, k in enumerate(times) for _ in range(k)]
        listed = pd.concat([table[table["subject"] == name] for name in names])
        alarms, caught, _ = roc_curve(listed["group"] == "FP", -listed["peak"], drop_intermediate=False)
        curves.append(
            [caught[alarms <= x + 1e-12].max() if x in alarms else np.interp(x, alarms, caught) for x in GRID]
        )
    assert got.band == pytest.approx(np.percentile(curves, [2.5, 97.5], axis=0))


def test_shuffled_groups_have_an_area_of_one_half(rng) -> None:
    table, areas = drawn(rng, 6, 10, 1.5), []
    for _ in range(200):
        areas.append(roc(table.assign(group=rng.permutation(table["group"])), "peak", resamples=1).auc)
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.sqrt(121 / (12 * 60 * 60)) / np.sqrt(200))
    assert roc(table, "peak", resamples=1).auc > max(areas)


def test_the_model_finds_the_measure_that_tells_and_is_not_led_astray_by_noise(rng) -> None:
    table = drawn(rng, 12, 15, 1.5)
    both = roc(predict_false(table, ["peak", "noise"]), "p_false", false_when="high", resamples=50)
    noise = roc(predict_false(table, ["noise"]), "p_false", false_when="high", resamples=50)
    assert both.auc == pytest.approx(roc(table, "peak", resamples=1).auc, abs=0.02)
    assert noise.auc == pytest.approx(0.5, abs=0.1)


def test_a_subject_is_judged_by_a_model_that_never_saw_it(rng) -> None:
    """With folds of one subject: to turn its groups round changes all other subjects' probabilities, not its own."""
    table = drawn(rng, 4, 8, 1.0)
    before = predict_false(table, ["peak"], folds=4)
    own = table["subject"] == "s02"
    turned = table.assign(group=table["group"].where(~own, table["group"].map({"TP": "FP", "FP": "TP"})))
    after = predict_false(turned, ["peak"], folds=4)
    assert after["p_false"][own].to_numpy() == pytest.approx(before["p_false"][own].to_numpy(), abs=1e-9)
    assert not np.allclose(after["p_false"][~own], before["p_false"][~own], atol=1e-3)


def test_columns_that_name_the_subject_are_of_no_use() -> None:
    """Each subject has one group: a model that had seen it would know the answer by its name."""
    names = [f"s{n:02d}" for n in range(10)]
    table = found({(name, "TP" if n % 2 else "FP"): [0.0] * 10 for n, name in enumerate(names)})
    named = table.assign(**{name: (table["subject"] == name).astype(float) for name in names})
    got = roc(predict_false(named, names), "p_false", false_when="high", resamples=20)
    assert got.auc < 0.6


def test_probabilities_do_not_depend_on_unit_or_order(rng) -> None:
    table = drawn(rng, 6, 8, 1.0)
    wanted = predict_false(table, ["peak", "noise"])["p_false"].to_numpy()
    scaled = predict_false(table.assign(peak=1e4 * table["peak"] + 7), ["peak", "noise"])["p_false"]
    assert scaled.to_numpy() == pytest.approx(wanted, abs=1e-5)


def test_probabilities_are_shares(rng) -> None:
    """FP are a quarter: what is called 0.25 on average is false as often, also in bins."""
    table = drawn(rng, 30, 40, 1.2)
    table = table[(table["group"] == "TP") | (table.groupby(["subject", "group"]).cumcount() % 3 == 0)]
    predicted = predict_false(table, ["peak"])
    told = calibration(predicted)
    assert predicted["p_false"].mean() == pytest.approx((table["group"] == "FP").mean(), abs=0.02)
    assert told["lesions"].sum() == len(table)
    assert told["observed"].to_numpy() == pytest.approx(told["predicted"].to_numpy(), abs=0.08)
    assert told["brier"].iloc[0] < told["brier_of_share"].iloc[0]


def test_calibration_by_hand() -> None:
    table = found({("a", "FP"): [0.9] * 4 + [0.1], ("a", "TP"): [0.9] + [0.1] * 4}).rename(columns={"peak": "p_false"})
    told = calibration(table, bins=2)
    assert told[["lesions", "predicted", "observed"]].to_numpy() == pytest.approx(
        np.array([[5, 0.1, 0.2], [5, 0.9, 0.8]])
    )
    assert told["brier"].tolist() == pytest.approx([(8 * 0.01 + 2 * 0.81) / 10] * 2)
    assert told["brier_of_share"].tolist() == pytest.approx([0.25, 0.25])
    assert told.loc[0, ["low", "high"]].tolist() == pytest.approx([0.0362, 0.6245], abs=1e-4)  # Wilson, 1 of 5
    assert len(calibration(table.assign(p_false=0.5))) == 1


def test_missed_lesions_controls_and_lesions_without_a_value_are_left_out(rng) -> None:
    table = drawn(rng, 4, 6, 1.0)
    more = pd.concat([table, found({("s00", "FN"): [99.0] * 9, ("s00", "TN"): [99.0], ("s00", "TP"): [np.nan] * 3})])
    a, b = roc(table, "peak", resamples=30), roc(more, "peak", resamples=30)
    assert [a.auc, *a.interval] == [b.auc, *b.interval]
    assert len(predict_false(more.assign(noise=1.0), ["peak"])) == len(table)


def test_one_subject_has_no_interval_over_subjects(rng) -> None:
    got = roc(drawn(rng, 1, 8, 0.3), "peak", resamples=30)
    assert np.isnan([*got.interval, *got.within_interval]).all()
    assert np.isnan(got.band).all()
    assert got.naive[0] < got.auc < got.naive[1]
    assert got.note == "one subject in a group: no interval over subjects"


def test_false_lesions_of_one_subject_have_no_interval_however_many_subjects_have_true_ones(rng) -> None:
    table = drawn(rng, 12, 6, 1.0)
    got = roc(table[(table["group"] == "TP") | (table["subject"] == "s03")], "peak", resamples=50)
    assert np.isnan([*got.interval, *got.within_interval]).all()
    assert np.isnan(got.band).all()
    assert np.isfinite([got.auc, got.within, *got.naive]).all()
    assert got.note == "one subject in a group: no interval over subjects"


def test_resamples_without_a_false_lesion_leave_no_band(rng) -> None:
    """Two of three subjects have no false lesion, and the one resample drawn is of these."""
    table = drawn(rng, 3, 6, 1.0)
    table = table[(table["group"] == "TP") | (table["subject"] != "s00")]
    draws = [np.random.default_rng(seed).multinomial(3, np.full(3, 1 / 3)).tolist() for seed in range(400)]
    assert np.isnan(roc(table, "peak", resamples=1, seed=draws.index([3, 0, 0])).band).all()


def test_lesions_without_a_probability_are_left_out_of_the_calibration(rng) -> None:
    predicted = predict_false(drawn(rng, 6, 8, 1.0), ["peak"])
    more = pd.concat([predicted, predicted.iloc[:7].assign(p_false=np.nan)])
    pd.testing.assert_frame_equal(calibration(more), calibration(predicted))


def test_the_brier_score_to_beat_is_that_of_the_share_of_false_lesions() -> None:
    table = found({("a", "FP"): [0.9] * 5, ("a", "TP"): list(np.linspace(0.1, 0.8, 15))})
    told = calibration(table.rename(columns={"peak": "p_false"}))
    assert told["brier_of_share"].tolist() == pytest.approx([0.25 * 0.75] * len(told))


def test_the_model_is_calibrated_on_subjects_that_it_was_not_fitted_on(rng, monkeypatch) -> None:
    table, seen = drawn(rng, 6, 4, 1.0), []
    calibrated = discrimination._calibrated
    monkeypatch.setattr(discrimination, "_calibrated", lambda splits: seen.append(splits) or calibrated(splits))
    predict_false(table, ["peak"], folds=3)
    subjects, false = table["subject"].to_numpy(), (table["group"] == "FP").to_numpy()
    assert len(seen) == 3
    for (train, _), inner in zip(discrimination._splits(false, subjects, 3), seen, strict=True):
        for fitted, judged in inner:
            assert not set(subjects[train][fitted]) & set(subjects[train][judged])


def test_what_cannot_be_told_is_refused(rng) -> None:
    table = drawn(rng, 3, 6, 1.0)
    with pytest.raises(ValueError, match="needs 5 of each, got 18 TP and 4 FP; take more subjects"):
        roc(table.drop(index=table[table["group"] == "FP"].index[:14]), "peak")
    with pytest.raises(ValueError, match="false_when must be low or high, got 'left'"):
        roc(table, "peak", false_when="left")
    with pytest.raises(ValueError, match="needs 3 subjects, one to judge, one to fit and one to calibrate; got 2"):
        predict_false(table[table["subject"] != "s00"], ["peak"])
    with pytest.raises(ValueError, match=r"must leave true and false lesions .* of 3 subjects 1 have false ones"):
        predict_false(table[(table["group"] == "TP") | (table["subject"] == "s00")], ["peak"])
    with pytest.raises(
        ValueError, match=r"2 folds or more, .* got 1 subjects to split into 2. Take more folds, or more"
    ):
        predict_false(table, ["peak"], folds=2)
    with pytest.raises(ValueError, match=r"2 folds or more, .* got 3 subjects to split into 1"):
        predict_false(table, ["peak"], folds=1)
    with pytest.raises(ValueError, match="needs a measure to look at, got none"):
        predict_false(table, [])
