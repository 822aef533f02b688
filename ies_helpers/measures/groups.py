"""Groups of lesions compared in one measure, and false lesions told from true ones, where lesions share subjects.

First ranks: every pair of groups, by the usual test and by effect sizes whose intervals resample subjects. Then "is
this found lesion a false one?": ROC and AUC of one measure, and of a model split by subject. There found lesions alone
are judged, FP against TP: a missed lesion and a control are not before a reader's eyes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest, mannwhitneyu

from ies_helpers.arrays import check_choice
from ies_helpers.measures.resample import (
    FEW_SUBJECTS,
    NO_INTERVAL,
    PERCENTILES,
    Interval,
    draw_times,
    interval_of,
    note_on_subjects,
)

ORDER = ("TP", "FP", "FN", "TN")  # the paper's order of peaks, the highest first

FEWEST_LESIONS = 5  # that a group must have to be compared

# Any two groups: tests and effect sizes.


@dataclass(frozen=True)
class Effect:
    """How often a value of the first group is larger than one of the second, and how sure that is."""

    delta: float  # Cliff's: P(first > second) - P(first < second), from -1 to 1
    naive: Interval = NO_INTERVAL  # as if every lesion were a subject
    interval: Interval = NO_INTERVAL  # over subjects; NaN if a group is of one subject
    within: float = np.nan  # delta over pairs of lesions of the same subject alone; NaN if none has both groups
    within_interval: Interval = NO_INTERVAL  # over subjects; NaN if fewer than two have both groups
    note: str = ""  # why something is NaN, or should not be leant on


def compare_groups(table: pd.DataFrame, measure: str, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every pair of groups in one measure: the usual test, and what is left of it if subjects are the unit.

    The usual test (Mann-Whitney U, two-sided, as in the paper) takes lesions as independent, so its p is too small
    (`resample` says why). The interval of `delta` therefore resamples whole subjects with all their lesions; `naive`
    beside it resamples lesions. `within` compares lesions of the same subject only: no difference between subjects can
    make it.

    Args:
        table: a row a lesion, columns `subject`, `group` and the measure. Lesions without a value (NaN) and those of
            other groups are left out.
        measure, resamples, seed: name of a column; of each bootstrap.

    Returns:
        A row a pair, in the order TP, FP, FN, TN: `first, second, n_first, n_second, subjects, u, p, p_holm` (Holm's
        correction over the pairs that could be tested)`, delta, naive_low, naive_high, low, high, within, within_low,
        within_high, note`; see `Effect`. With fewer than 5 lesions in a group all is NaN, and the note says why.
    """
    table = valued(table, measure)
    groups = [group for group in ORDER if group in set(table["group"])]
    if len(groups) < 2:
        there = ", ".join(map(str, sorted(set(table["group"])))) or "none"
        raise ValueError(f"A comparison needs two of the groups {', '.join(ORDER)} with values, got {there}.")
    compared = pd.DataFrame([_pair(table, measure, pair, resamples, seed) for pair in combinations(groups, 2)])
    return compared.assign(p_holm=holm(compared["p"]))


def group_table(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """How large each group is and where its middle half lies, a row a measure and group; no value does not count."""
    rows = []
    for measure in measures:
        values = dict(iter(valued(table, measure).groupby("group")))
        for group, part in ((group, values[group]) for group in ORDER if group in values):
            quartiles = np.quantile(part[measure], (0.25, 0.5, 0.75)).tolist()
            rows.append((measure, group, len(part), part["subject"].nunique(), *quartiles))
    return pd.DataFrame(rows, columns=["measure", "group", "lesions", "subjects", "q25", "median", "q75"])


def holm(p: Iterable[float]) -> np.ndarray:
    """p-values after Holm's step-down correction, in their order; NaN stays and does not count as a test.

    With m tests the k-th smallest becomes the largest of (m - j + 1) p_j over j up to k, at most 1 (Holm 1979).
    """
    raw = np.asarray(list(p), dtype=np.float64)
    adjusted, known = np.full(raw.shape, np.nan), np.flatnonzero(np.isfinite(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def effect(first: pd.DataFrame, second: pd.DataFrame, measure: str, *, resamples: int = 2000, seed: int = 0) -> Effect:
    """Cliff's delta of two tables of lesions with columns `subject` and the measure, and its intervals.

    It is P(x > y) - P(x < y) for x of the first and y of the second, ties half for each side: 2 U / (m n) - 1 (Cliff
    1993; the rank-biserial correlation of Kerby 2014), and 2 AUC - 1. Both tables must have values in all rows
    (`valued`), and some. What an interval over subjects is worth depends on the group with fewer of them.
    """
    # (m, n): which of each pair of lesions is larger, -1 to 1, and whether both are of one subject
    signs = np.sign(np.subtract.outer(*(np.asarray(part[measure], dtype=np.float64) for part in (first, second))))
    names, codes = np.unique(np.r_[first["subject"].astype(str), second["subject"].astype(str)], return_inverse=True)
    of_first, of_second = codes[: len(first)], codes[len(first) :]
    same = of_first[:, None] == of_second
    delta, within = float(signs.mean()), float(signs[same].mean()) if same.any() else np.nan
    fewest, both = min(len(set(of_first)), len(set(of_second))), len(set(of_first) & set(of_second))
    notes = [note_on_subjects(fewest, " in a group")]
    if both == 0:
        notes.append("no subject has both groups: nothing within")
    elif both < min(fewest, FEW_SUBJECTS):
        notes.append(f"only {both} with both groups: {'no' if both == 1 else 'too narrow an'} interval within")
    note = "; ".join(filter(None, notes))

    # lesions drawn as if they were subjects: (R, m) and (R, n)
    rng = np.random.default_rng(seed)
    naive = interval_of(_deltas(signs, *(draw_times(rng, resamples, n) for n in signs.shape)))
    if fewest < 2:
        return Effect(delta, naive, within=within, note=note)

    # subjects drawn with all their lesions: (R, S)
    times = draw_times(rng, resamples, len(names))
    over = interval_of(_deltas(signs, times[:, of_first], times[:, of_second]))

    # within subjects: each adds its wins and its pairs, (S,), as often as it is drawn
    wins, pairs = (np.bincount(of_first, part.sum(axis=1), minlength=len(names)) for part in (signs * same, same))
    inside = interval_of(_quotients(times @ wins, times @ pairs)) if both > 1 else NO_INTERVAL
    return Effect(delta, naive, over, within, inside, note)


def valued(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows that have a value of a measure, which is float64 whatever it was."""
    lacking = [name for name in ("subject", "group", measure) if name not in table]
    if lacking:
        raise ValueError(f"A table of lesions must have the columns subject, group and {measure}; no {lacking[0]}.")
    column: Any = table[measure]
    values = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    bad = np.isinf(values) | (np.isnan(values) & ~np.asarray(column.isna()))
    if bad.any():
        raise ValueError(f"{measure} must be finite numbers, or NaN for none; got {column[bad].iloc[0]}.")
    lost = int(np.asarray(table["subject"].isna()).sum())
    if lost:
        raise ValueError(f"Every lesion must have a subject, {lost} of {len(table)} have none; fill in the column.")
    return table.assign(**{measure: values}).loc[np.isfinite(values)]


def _pair(table: pd.DataFrame, measure: str, pair: tuple[str, str], resamples: int, seed: int) -> dict[str, Any]:
    both: Any = table[table["group"].isin(pair)]
    first, second = (both[both["group"] == group] for group in pair)
    sizes = {"n_first": len(first), "n_second": len(second), "subjects": both["subject"].nunique()}
    small = [f"{g} has {n}" for g, n in zip(pair, sizes.values(), strict=False) if n < FEWEST_LESIONS]
    u = p = np.nan
    if small:
        found = Effect(np.nan, note=f"{' and '.join(small)} lesions, {FEWEST_LESIONS} are needed")
    else:
        found = effect(first, second, measure, resamples=resamples, seed=seed)
        u, p = len(first) * len(second) / 2, 1.0
        if both[measure].nunique() > 1:  # exact for up to 8 lesions without ties, else normal
            u, p = map(float, mannwhitneyu(first[measure], second[measure], alternative="two-sided"))
    row = {"first": pair[0], "second": pair[1], **sizes, "u": u, "p": p, "p_holm": np.nan, "delta": found.delta}
    row |= dict(zip(("naive_low", "naive_high", "low", "high"), (*found.naive, *found.interval), strict=True))
    within = zip(("within", "within_low", "within_high"), (found.within, *found.within_interval), strict=True)
    return row | dict(within) | {"note": found.note}


def _deltas(signs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`(R,)` delta of each resample, from how often each lesion is in it, `(R, m)` and `(R, n)`."""
    return _quotients(((first @ signs) * second).sum(axis=1), first.sum(axis=1) * second.sum(axis=1))


def _quotients(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Where there is a whole; resamples that draw no lesion of a group have none."""
    return parts[wholes > 0] / wholes[wholes > 0]


# A false lesion or a true one? "False" is the event, so the two rates are the share of false lesions caught and the
# share of true lesions called false.

ROC_GRID = np.linspace(0, 1, 101)  # shares of true lesions at which a band is given


@dataclass(frozen=True, eq=False)
class Roc:
    """How well one number tells false lesions from true ones; intervals and `within` as in `Effect`."""

    alarms: np.ndarray  # (K,) share of true lesions called false, from 0 to 1, one entry a threshold
    caught: np.ndarray  # (K,) share of false lesions called false
    band: np.ndarray  # (2, 101) interval of `caught` over subjects at `ROC_GRID`, point by point; NaN as `interval`
    auc: float  # P(a false lesion looks more false than a true one), ties count half; 0.5 is chance
    naive: Interval
    interval: Interval
    within: float
    within_interval: Interval
    false: int
    true: int
    subjects: int
    note: str


def roc(
    table: pd.DataFrame,
    measure: str,
    *,
    false_when: Literal["low", "high"] = "low",
    resamples: int = 1000,
    seed: int = 0,
) -> Roc:
    """ROC of "this lesion is false" from one measure; intervals resample whole subjects.

    The side must be chosen before the data is seen, so that an AUC may fall below 0.5: whoever turns it round
    afterwards finds 0.5 or more in pure chance. The paper's order of peaks, TP > FP, says `low`.

    Args:
        table, measure: as for `compare_groups`; groups other than TP and FP are left out too.
        false_when: which values speak for a false lesion.
        resamples, seed: of the bootstraps.
    """
    check_choice("false_when", false_when, ("low", "high"))
    found: Any = _found(valued(table, measure))
    found = found.assign(evidence=found[measure] * (1 if false_when == "high" else -1))
    false, true = (found[found["group"] == group] for group in ("FP", "TP"))
    ranks = effect(false, true, "evidence", resamples=resamples, seed=seed)
    alarms, caught = (curves[0] for curves in _curves(found, np.ones((1, len(found)))))
    auc, within = (ranks.delta + 1) / 2, (ranks.within + 1) / 2
    intervals = (((low + 1) / 2, (high + 1) / 2) for low, high in (ranks.naive, ranks.interval, ranks.within_interval))
    naive, interval, inside = intervals
    counts = len(false), len(true), found["subject"].nunique()
    return Roc(
        alarms, caught, _band(found, resamples, seed), auc, naive, interval, within, inside, *counts, note=ranks.note
    )


def predict_false(table: pd.DataFrame, measures: Sequence[str], *, folds: int = 5) -> pd.DataFrame:
    """Probability that each found lesion is false, from a model that has never seen its subject.

    Standardised measures, logistic regression (scikit-learn's, ridge penalty of 1), and its probabilities calibrated
    by Platt's sigmoid on out-of-fold values; the outer and the inner folds are whole subjects (`GroupKFold`). Scaling,
    fit and calibration see the training subjects alone. Each fold has a model of its own and their probabilities are
    pooled. A subject with many false lesions is judged by a model that met fewer, so pooling pulls the AUC down, far
    below 0.5 where these shares differ much; `Roc.within` compares inside subjects and is free of that.

    `table` is as for `roc`, lesions that lack one of the `measures` are left out, and there are at most as many folds
    as subjects. Returned are the rows of TP and FP with a column `p_false`.
    """
    if not measures:
        raise ValueError("A model needs a measure to look at, got none.")
    for measure in measures:
        table = valued(table, measure)
    found = _found(table)
    features = found[list(measures)].to_numpy(dtype=np.float64)
    false, subjects = (found["group"] == "FP").to_numpy(), found["subject"].astype(str).to_numpy()
    if len(set(subjects)) < 3:
        needed = "A model split by subject needs 3 subjects, one to judge, one to fit and one to calibrate"
        raise ValueError(f"{needed}; got {len(set(subjects))}. Take more, or roc of one measure.")
    chance = np.empty(len(found))
    for train, test in _splits(false, subjects, folds):
        model = _calibrated(_splits(false[train], subjects[train], folds))
        chance[test] = model.fit(features[train], false[train]).predict_proba(features[test])[:, 1]
    return found.assign(p_false=chance)


def calibration(predicted: pd.DataFrame, *, bins: int = 5) -> pd.DataFrame:
    """Are lesions with p_false 0.3 false three times in ten? Of `predict_false`, in `bins` of equal number or fewer.

    Returns:
        A row a bin: `lesions, predicted` (mean)`, observed` (share false)`, low, high` (Wilson's 95 % interval, which
        takes lesions as independent), and in every row `brier`, the mean squared error of all, and `brier_of_share`,
        that of telling everyone the overall share.
    """
    found = _found(valued(predicted, "p_false"))
    false, chance = (found["group"] == "FP").to_numpy(), found["p_false"].to_numpy(dtype=np.float64)
    edges = np.unique(np.quantile(chance, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    which = np.searchsorted(edges, chance, side="left")
    rows = []
    for n in np.unique(which):
        hit = false[which == n]
        wilson = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
        rows.append((len(hit), chance[which == n].mean(), hit.mean(), wilson.low, wilson.high))
    table = pd.DataFrame(rows, columns=["lesions", "predicted", "observed", "low", "high"])
    return table.assign(brier=np.mean((chance - false) ** 2), brier_of_share=np.mean((false.mean() - false) ** 2))


def _found(table: pd.DataFrame) -> pd.DataFrame:
    found = table.loc[table["group"].isin(["TP", "FP"])]
    true, false = (int((found["group"] == group).sum()) for group in ("TP", "FP"))
    if min(true, false) < FEWEST_LESIONS:
        needed = f"Telling false lesions from true ones needs {FEWEST_LESIONS} of each"
        raise ValueError(f"{needed}, got {true} TP and {false} FP; take more subjects.")
    return found


def _curves(found: pd.DataFrame, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alarms and caught `(R, K)` for weights `(R, n)` with both groups: `sklearn.metrics.roc_curve`, all at once."""
    order = np.argsort(-found["evidence"].to_numpy(), kind="stable")
    evidence, false = found["evidence"].to_numpy()[order], (found["group"] == "FP").to_numpy()[order]
    ends = np.flatnonzero(np.r_[np.diff(evidence) != 0, True])  # the last lesion of each threshold
    sums = [np.cumsum(times[:, order] * kind, axis=1)[:, ends] for kind in (~false, false)]
    alarms, caught = (np.pad(s / s[:, -1:], ((0, 0), (1, 0))) for s in sums)
    return alarms, caught


def _band(found: pd.DataFrame, resamples: int, seed: int) -> np.ndarray:
    """Curves of resampled subjects, read at `ROC_GRID`; resamples without a false or a true lesion are left out."""
    names, codes = np.unique(found["subject"].astype(str), return_inverse=True)
    times = draw_times(np.random.default_rng(seed), resamples, len(names))[:, codes]
    false = (found["group"] == "FP").to_numpy()
    times = times[times[:, false].any(axis=1) & times[:, ~false].any(axis=1)]
    if min(len(set(codes[false])), len(set(codes[~false]))) < 2 or not len(times):
        return np.full((2, len(ROC_GRID)), np.nan)
    curves = [np.interp(ROC_GRID, *curve) for curve in zip(*_curves(found, times), strict=True)]
    return np.percentile(curves, PERCENTILES, axis=0)


def _splits(false: np.ndarray, subjects: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupKFold

    count = len(set(subjects))
    if min(folds, count) < 2:
        needed = "Subjects must be split into 2 folds or more, and those left to learn from once more"
        raise ValueError(f"{needed}; got {count} subjects to split into {folds}. Take more folds, or more subjects.")
    splits = list(GroupKFold(min(folds, count)).split(false, false, subjects))
    if not all(0 < false[train].sum() < len(train) for train, _ in splits):
        raise ValueError(
            f"Every split by subject must leave true and false lesions to learn from; of {count} subjects "
            f"{len(set(subjects[false]))} have false ones. Take more subjects, or roc of one measure."
        )
    return splits


def _calibrated(splits: Any) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression())
    return CalibratedClassifierCV(model, method="sigmoid", cv=splits, ensemble=False)  # pyright: ignore
