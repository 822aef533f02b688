"""Is a lesion that the network found a false one? ROC and AUC of one measure, and of a model split by subject.

Found lesions alone are judged, FP against TP: a missed lesion and a control are not before a reader's eyes. "False" is
the event, so the two rates are the share of false lesions caught and the share of true lesions called false.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ies_helpers.measures.groups import FEWEST, Interval, effect, valued

GRID = np.linspace(0, 1, 101)
"""Shares of true lesions at which a band is given."""

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Roc:
    """How well one number tells false lesions from true ones.

    Attributes:
        alarms: `(K,)` share of true lesions called false, from 0 to 1, one entry a threshold.
        caught: `(K,)` share of false lesions called false.
        band: `(2, 101)` 95 % interval of `caught` over subjects at `GRID`, point by point; NaN where `interval` is.
        auc: P(a false lesion looks more false than a true one), ties count half; 0.5 is chance.
        naive: its 95 % interval as if every lesion were a subject.
        interval: its 95 % interval over subjects.
        within: AUC over pairs of lesions of the same subject alone.
        within_interval: its interval over subjects.
        false, true, subjects: how many there are.
        note: why something is NaN, or should not be leant on.
    """

    alarms: np.ndarray
    caught: np.ndarray
    band: np.ndarray
    auc: float
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
    """ROC of "this lesion is false" from one measure; intervals resample whole subjects (`compare_groups` says why).

    The side must be chosen before the data is seen, so that an AUC may fall below 0.5: whoever turns it round
    afterwards finds 0.5 or more in pure chance. The paper's order of peaks, TP > FP, says `low`.

    Args:
        table: a row a lesion, columns `subject`, `group` and the measure; groups other than TP and FP and lesions
            without a value are left out.
        measure: name of a column.
        false_when: which values speak for a false lesion.
        resamples, seed: of the bootstraps.

    Raises:
        ValueError: for fewer than 5 TP or FP, lacking columns, or another side.
    """
    if false_when not in ("low", "high"):
        raise ValueError(f"false_when must be low or high, got {false_when!r}.")
    found = _found(valued(table, measure))
    found = found.assign(evidence=found[measure] * (1 if false_when == "high" else -1))
    parts: Any = [found[found["group"] == group] for group in ("FP", "TP")]
    false, true = parts
    told = effect(false, true, "evidence", resamples=resamples, seed=seed)
    about_half = {"auc": _auc(told.delta), "within": _auc(told.within), "naive": _both(told.naive)}
    intervals = {"interval": _both(told.interval), "within_interval": _both(told.within_interval), "note": told.note}
    counts = {"false": len(false), "true": len(true), "subjects": found["subject"].nunique()}
    alarms, caught = (curves[0] for curves in _curves(found, np.ones((1, len(found)))))
    return Roc(alarms, caught, _band(found, resamples, seed), **about_half, **intervals, **counts)


def predict_false(table: pd.DataFrame, measures: Sequence[str], *, folds: int = FOLDS) -> pd.DataFrame:
    """Probability that each found lesion is false, from a model that has never seen its subject.

    Standardised measures, logistic regression (scikit-learn's, ridge penalty of 1), and its probabilities calibrated
    by Platt's sigmoid on out-of-fold values; the outer and the inner folds are whole subjects (`GroupKFold`). Scaling,
    fit and calibration see the training subjects alone. Each fold has a model of its own and their probabilities are
    pooled. A subject with many false lesions is judged by a model that met fewer, so pooling pulls the AUC down, far
    below 0.5 where these shares differ much; `Roc.within` compares inside subjects and is free of that.

    Args:
        table: as for `roc`; lesions that lack one of the measures are left out.
        measures: names of columns.
        folds: at most; never more than subjects.

    Returns:
        The rows of TP and FP with a column `p_false`.

    Raises:
        ValueError: for fewer than 3 subjects or 2 folds, or a split whose training part has one subject, or lacks true
            or false lesions.
    """
    if not measures:
        raise ValueError("A model needs a measure to look at, got none.")
    for measure in measures:
        table = valued(table, measure)
    found = _found(table)
    features = found[list(measures)].to_numpy(dtype=np.float64)
    false, subjects = (found["group"] == "FP").to_numpy(), found["subject"].astype(str).to_numpy()
    if len(set(subjects)) < 3:
        told = "A model split by subject needs 3 subjects, one to judge, one to fit and one to calibrate"
        raise ValueError(f"{told}; got {len(set(subjects))}. Take more, or roc of one measure.")
    chance = np.empty(len(found))
    for train, test in _splits(false, subjects, folds):
        model = _calibrated(_splits(false[train], subjects[train], folds))
        chance[test] = model.fit(features[train], false[train]).predict_proba(features[test])[:, 1]
    return found.assign(p_false=chance)


def calibration(predicted: pd.DataFrame, *, bins: int = 5) -> pd.DataFrame:
    """Are lesions with p_false 0.3 false three times in ten? Lesions in bins of equal number, by `p_false`.

    Args:
        predicted: of `predict_false`.
        bins: at most; equal probabilities stay together. Lesions without a probability are left out.

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
        rows.append((len(hit), chance[which == n].mean(), hit.mean(), *_wilson(int(hit.sum()), len(hit))))
    told = pd.DataFrame(rows, columns=["lesions", "predicted", "observed", "low", "high"])
    return told.assign(brier=np.mean((chance - false) ** 2), brier_of_share=np.mean((false.mean() - false) ** 2))


def _found(table: pd.DataFrame) -> pd.DataFrame:
    found = table.loc[table["group"].isin(["TP", "FP"])]
    true, false = (int((found["group"] == group).sum()) for group in ("TP", "FP"))
    if min(true, false) < FEWEST:
        raise ValueError(
            f"Telling false lesions from true ones needs {FEWEST} of each, got {true} TP and {false} FP; "
            "take more subjects."
        )
    return found


def _auc(delta: float) -> float:
    return (delta + 1) / 2


def _both(interval: Interval) -> Interval:
    return _auc(interval[0]), _auc(interval[1])


def _curves(found: pd.DataFrame, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alarms and caught, `(R, K)` each, from how often each lesion is in a resample, `(R, n)`, both groups in each."""
    order = np.argsort(-found["evidence"].to_numpy(), kind="stable")
    sorted_, false = found["evidence"].to_numpy()[order], (found["group"] == "FP").to_numpy()[order]
    ends = np.flatnonzero(np.r_[np.diff(sorted_) != 0, True])
    sums = [np.cumsum(times[:, order] * kind, axis=1)[:, ends] for kind in (~false, false)]
    alarms, caught = (np.pad(s / s[:, -1:], ((0, 0), (1, 0))) for s in sums)
    return alarms, caught


def _band(found: pd.DataFrame, resamples: int, seed: int) -> np.ndarray:
    """Curves of resampled subjects, read at `GRID`; resamples without a false or a true lesion are left out."""
    names, codes = np.unique(found["subject"].astype(str), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    times, false = draws[:, codes], (found["group"] == "FP").to_numpy()
    times = times[times[:, false].any(axis=1) & times[:, ~false].any(axis=1)]
    if min(len(set(codes[false])), len(set(codes[~false]))) < 2 or not len(times):
        return np.full((2, len(GRID)), np.nan)
    curves = [np.interp(GRID, *curve) for curve in zip(*_curves(found, times), strict=True)]
    return np.percentile(curves, [2.5, 97.5], axis=0)


def _splits(false: np.ndarray, subjects: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupKFold

    count = len(set(subjects))
    if min(folds, count) < 2:
        told = "Subjects must be split into 2 folds or more, and those left to learn from once more"
        raise ValueError(f"{told}; got {count} subjects to split into {folds}. Take more folds, or more subjects.")
    splits = list(GroupKFold(min(folds, count)).split(false, false, subjects))
    if not all(0 < false[train].sum() < len(train) for train, _ in splits):
        held = len(set(subjects[false]))
        raise ValueError(
            "Every split by subject must leave true and false lesions to learn from; "
            f"of {count} subjects {held} have false ones. Take more subjects, or roc of one measure."
        )
    return splits


def _calibrated(splits: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression())
    return CalibratedClassifierCV(model, method="sigmoid", cv=splits, ensemble=False)  # pyright: ignore[reportArgumentType]


def _wilson(hits: int, count: int) -> Interval:
    z, share = 1.959964, hits / count
    middle, half = share + z * z / (2 * count), z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float((middle - half) / (1 + z * z / count)), float((middle + half) / (1 + z * z / count))
