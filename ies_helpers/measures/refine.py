"""A false lesion or a true one? From what is known of a found lesion to a probability, and to fewer false lesions.

"False" is the event: a share of false lesions is caught, a share of true ones called false. Found lesions alone are
judged, FP against TP; missed ones (FN) are not before a reader's eyes, but count in sensitivity and F1. Three steps:
`roc` of one number; `predict_false`, a model that never saw the subject; `refine`, what such a model is worth beside
what costs nothing, in lesions removed.

How such a study deceives itself, and what is done about it here: scaling, choice of the ridge, calibration and
threshold see training subjects alone; whole subjects are left out, drawn and permuted, never lesions; strengths of maps
keep their unit; a removed true lesion is a missed one from then on, beside those that were missed already.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binomtest, rankdata
from tqdm.auto import tqdm

from ies_helpers.arrays import check_choice, check_seed
from ies_helpers.measures.evaluation import names_of
from ies_helpers.measures.features import feature_of, measure_features
from ies_helpers.measures.groups import FEWEST_LESIONS, effect, valued
from ies_helpers.measures.resample import (
    NO_INTERVAL,
    PERCENTILES,
    Interval,
    draw_times,
    interval_of,
    note_on_subjects,
)
from ies_helpers.subjects.folder import SavedMap, read_maps

# One number.

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


# A model that never saw the subject.

RIDGES = (0.1, 1.0, 10.0, 100.0, 1000.0)  # penalties of squared weights to choose from, of standardised columns
NEWTON_STEPS = 100


@dataclass(frozen=True, eq=False)
class Model:
    """The probability that a lesion is false, from p columns: all that was learned of the training subjects."""

    middle: np.ndarray  # (p,) of the training lesions
    spread: np.ndarray  # (p,)
    weights: np.ndarray  # (p + 1,) of the standardised columns, last the intercept
    scale: np.ndarray  # (2,) Platt's, which turns a logit into an honest one
    ridge: float  # chosen

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """`(n,)` probabilities for columns `(n, p)`."""
        return expit(_logit(_logit((columns - self.middle) / self.spread, self.weights)[:, None], self.scale))


def fit_logistic(columns: np.ndarray, false: np.ndarray, ridge: float) -> np.ndarray:
    """`(p + 1,)` weights of columns `(n, p)`, then the intercept, which bears no penalty.

    They minimise the sum of log losses plus ridge / 2 times the squared weights, by Newton's steps, halved where one
    goes too far; `false` `(n,)` may be shares. scikit-learn's `LogisticRegression(C=1 / ridge)` finds the same (a test
    says so) and takes several times as long on tables of a few hundred rows, which permutations fit by the thousand.
    """
    design = np.column_stack([columns, np.ones(len(columns))])
    penalty, weights = np.r_[np.full(columns.shape[1], ridge), 0.0], np.zeros(columns.shape[1] + 1)

    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float((np.logaddexp(0, logits) - false * logits).sum() + penalty @ weights**2 / 2)

    now = loss(weights)
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ weights)
        slope = design.T @ (chance - false) + penalty * weights
        if np.abs(slope).max() < 1e-7:
            break
        curvature = (design.T * (chance * (1 - chance))) @ design + np.diag(penalty + 1e-10)
        step = np.linalg.solve(curvature, slope)
        while (then := loss(weights - step)) > now and np.abs(step).max() > 1e-12:
            step = step / 2
        weights, now = weights - step, then
    return weights


def _logit(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return columns @ weights[:-1] + weights[-1]


def _standards(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of columns; 1 for one that does not vary."""
    spread = columns.std(axis=0)
    return columns.mean(axis=0), np.where(spread > 1e-9 * np.abs(columns).max(axis=0), spread, 1.0)


def fit_model(
    columns: np.ndarray, false: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[Model, np.ndarray]:
    """A model of training lesions alone, and what it says of each of them by parts that never saw its subject.

    `splits` cut the lesions by subject, as `(fitted, judged)` rows. For each of `RIDGES` the judged parts together
    give a logit to every lesion; the ridge of the least log loss is taken after Platt's sigmoid, fitted to these logits
    with his smoothed targets (Platt 1999), and the model is fitted again to all.
    """
    logits = np.empty((len(RIDGES), len(false)))
    for fitted, judged in splits:
        middle, spread = _standards(columns[fitted])
        inside, outside = (columns[fitted] - middle) / spread, (columns[judged] - middle) / spread
        for n, ridge in enumerate(RIDGES):
            logits[n, judged] = _logit(outside, fit_logistic(inside, false[fitted], ridge))
    targets = np.where(false, (false.sum() + 1) / (false.sum() + 2), 1 / ((~false).sum() + 2))
    scales = [fit_logistic(each[:, None], targets, 0.0) for each in logits]
    honest = np.stack([_logit(each[:, None], scale) for each, scale in zip(logits, scales, strict=True)])
    best = int((np.logaddexp(0, honest) - false * honest).mean(axis=1).argmin())
    middle, spread = _standards(columns)
    weights = fit_logistic((columns - middle) / spread, false, RIDGES[best])
    return Model(middle, spread, weights, scales[best], RIDGES[best]), expit(honest[best])


def predict_false(table: pd.DataFrame, measures: Sequence[str], *, folds: int = 5) -> pd.DataFrame:
    """Probability that each found lesion is false, from a model that has never seen its subject.

    Logistic regression on standardised measures, its ridge penalty chosen and its probabilities calibrated (Platt's
    sigmoid) on out-of-fold values; outer and inner folds are whole subjects (`GroupKFold`). Scaling, choice, fit and
    calibration see the training subjects alone. Each fold has a model of its own and their probabilities are pooled. A
    subject with many false lesions is judged by a model that met fewer, so pooling pulls the AUC down, far below 0.5
    where these shares differ much; `Roc.within` compares inside subjects and is free of that.

    `table` is as for `roc`, lesions that lack one of the `measures` are left out, and there are at most as many folds
    as subjects. Returned are the rows of TP and FP with a column `p_false`.
    """
    if not measures:
        raise ValueError("A model needs a measure to look at, got none.")
    for measure in measures:
        table = valued(table, measure)
    found = _found(table)
    columns = found[list(measures)].to_numpy(dtype=np.float64)
    false, subjects = (found["group"] == "FP").to_numpy(), found["subject"].astype(str).to_numpy()
    chance = np.empty(len(found))
    for train, test, inner in _plan(false, subjects, folds):
        chance[test] = fit_model(columns[train], false[train], inner)[0](columns[test])
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


Split = tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]  # rows to learn, to judge, and of the former


def _plan(false: np.ndarray, subjects: np.ndarray, folds: int) -> list[Split]:
    """Rows by subject: those that a model learns from, those that it judges, and how the former are split again."""
    if len(set(subjects)) < 3:
        needed = "A model split by subject needs 3 subjects, one to judge, one to fit and one to calibrate"
        raise ValueError(f"{needed}; got {len(set(subjects))}. Take more, or roc of one measure.")
    outer = _splits(false, subjects, folds)
    return [(train, test, _splits(false[train], subjects[train], folds)) for train, test in outer]


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


# Fewer false lesions: what is removed, what is lost with it, and whether the maps' features did it.


@dataclass(frozen=True)
class Free:
    """What is known of a found lesion without any map, and which end speaks for a false one."""

    column: str
    looks_false: Literal["low", "high"]
    log: bool = False


FREE = {
    "size": Free("voxels", "low", log=True),
    "probability": Free("probability", "low"),
    "uncertainty": Free("uncertainty", "high"),
}
"""What costs nothing; the side was chosen before any data were seen, as `roc` asks for."""

AS_FOUND = "as found"
MOST_LACKING = 0.1  # share of found lesions that may lack a feature before it is left out
COUNTS = ("tp", "fp", "fn")
SCORES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # of the counts: what is divided, by what
    "sensitivity": ((1, 0, 0), (1, 0, 1)),
    "ppv": ((1, 0, 0), (1, 1, 0)),
    "f1": ((2, 0, 0), (2, 1, 1)),
}


@dataclass(frozen=True, eq=False)
class Refined:
    """What judging found lesions was worth; intervals are over subjects, the models taken as they are."""

    judges: pd.DataFrame  # a row a judge, first `as found`; see `refine`
    lesions: pd.DataFrame  # the lesions judged, with `evidence <judge>`, `kept <judge>`
    used: pd.DataFrame  # a row a fold and judge: who was learned from, who was judged, ridge, threshold
    weights: pd.DataFrame  # a row a fold and column of the judge `all`: its weight, standardised
    curves: dict[str, Roc]  # a judge's
    gain: float  # AUC of `all` less that of `free`
    gain_interval: Interval
    p: float  # how often features that say nothing more give `all` an AUC as large; NaN if that was not asked
    permutations: int
    notes: tuple[str, ...]  # what was left out, and what must not be leant on

    def __str__(self) -> str:
        first, last = self.judges.iloc[0], self.judges.iloc[-1]
        low, high = self.gain_interval
        areas = ", ".join(f"{name} {curve.auc:.2f}" for name, curve in self.curves.items())
        interval = f" ({low:+.2f} to {high:+.2f} over subjects)" if np.isfinite(low) else ""
        chance = f", p = {self.p:.3g} by {self.permutations} permutations" if self.permutations else ""
        lines = [
            f"{first['subjects']} subjects: {first['tp']} true, {first['fp']} false and {first['fn']} missed lesions.",
            f"AUC of a false lesion: {areas}.",
            f"What the features add to what is free: {self.gain:+.2f}{interval}{chance}.",
            f"PPV {first['ppv']:.2f} to {last['ppv']:.2f}, sensitivity {first['sensitivity']:.2f} to "
            f"{last['sensitivity']:.2f}, lesion F1 {first['f1']:.2f} to {last['f1']:.2f}, by all that is known.",
        ]
        return "\n".join([*lines, *(f"{note[:1].upper()}{note[1:]}." for note in self.notes)])


def refine(
    table: pd.DataFrame,
    features: Sequence[str] | None = None,
    baseline: Sequence[str] | None = None,
    *,
    unseen: pd.DataFrame | None = None,
    keep: float = 0.95,
    folds: int = 5,
    resamples: int = 1000,
    permutations: int = 199,
    seed: int = 0,
) -> Refined:
    """Judge found lesions by what is free and by features of their maps, remove what looks false, and count.

    Judges are each of `baseline` by itself, as it is; `free`, a model of these together; `features`; and `all`. Models
    are those of `predict_false`. Each judge's threshold is the one at which a share `keep` of the true lesions of the
    *training* subjects stay (judged by parts that never saw their subject), so that judges compare at one sensitivity;
    what stays of the others is then measured. A true lesion that is removed is a missed one from then on.

    Args:
        table: a row a lesion: `subject, group` (TP, FP and also FN, which are counted)`, voxels, probability`, perhaps
            `uncertainty`, and features; see `read_lesions`. Found lesions that lack a value are not judged, and stay.
        features: columns; None: all that are called as a row of `FEATURES` is.
        baseline: of `FREE`; None: those that the table has.
        unseen: a table of other subjects, of another scanner perhaps: one model learns from all of `table`, and these
            are judged. None: the subjects of `table` are judged in turn, in `folds`.
        keep: share of found true lesions that shall stay, above 0, to 1.
        resamples: of subjects, for intervals.
        permutations: how often features are exchanged among the lesions of a subject, except for what `baseline`
            predicts of them (linearly), and `all` is fitted again; 0 for none.
        seed: of both.

    Returns:
        Tables, see `Refined`. `judges` has `judge, columns, auc, auc_low, auc_high, within, within_low, within_high,
        subjects, tp, fp, fn`, then `sensitivity, ppv, f1`, each with `_low`, `_high` and, as the difference to what was
        found, `_gain`, `_gain_low`, `_gain_high`.
    """
    check_refining(keep, permutations, seed)
    case = _prepare(table, unseen, features, baseline, folds)
    judged = {name: _judge(case, columns, keep) for name, columns in case.columns.items()}
    asked: Any = case.found[case.asked].copy()
    curves = {}
    for name, of in judged.items():
        asked[f"evidence {name}"], asked[f"kept {name}"] = of.evidence[case.asked], of.kept[case.asked]
        curves[name] = roc(asked, f"evidence {name}", false_when="high", resamples=resamples, seed=seed)
    gain, interval = _gain(asked, "evidence all", "evidence free", resamples, seed)
    return Refined(
        judges=_count(case, judged, curves, resamples, seed),
        lesions=asked,
        used=pd.DataFrame([row for name, of in judged.items() for row in _used(case, name, of)]),
        weights=_weights(case, judged["all"]),
        curves=curves,
        gain=gain,
        gain_interval=interval,
        p=_chance(case, judged["all"], permutations, seed) if permutations else np.nan,
        permutations=permutations,
        notes=tuple(case.notes),
    )


def check_refining(keep: float, permutations: int, seed: int) -> None:
    """Refuse settings of `refine` that cannot be, before lesions are measured."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share of true lesions above 0 and up to 1, got {keep}; 0.95 is usual.")
    if permutations < 0:
        raise ValueError(f"permutations must be 0 or more, got {permutations}; 199 is usual, 0 for none.")
    check_seed(seed)


@dataclass(frozen=True, eq=False)
class _Case:
    """What is judged, checked: found lesions in rows, and how they are split."""

    found: pd.DataFrame  # with every value, of all subjects
    columns: dict[str, np.ndarray]  # judge: (n, p), or (n,) for a number that is taken as it is
    features: list[str]
    free: list[str]
    plan: list[Split]
    asked: np.ndarray  # (n,) bool: which are judged
    every: pd.DataFrame  # all lesions of the subjects that are judged
    notes: list[str]

    @property
    def false(self) -> np.ndarray:
        return (self.found["group"] == "FP").to_numpy()

    @property
    def subjects(self) -> np.ndarray:
        return self.found["subject"].astype(str).to_numpy()


@dataclass(frozen=True, eq=False)
class _Judged:
    """What one judge says, (n,), a larger number being the more false; and of each fold its threshold and model."""

    evidence: np.ndarray
    kept: np.ndarray
    limits: list[float]
    models: list[Model | None]


def _prepare(
    table: pd.DataFrame,
    unseen: pd.DataFrame | None,
    features: Sequence[str] | None,
    baseline: Sequence[str] | None,
    folds: int,
) -> _Case:
    both: Any = _together(table, unseen)
    notes = list[str]()
    free = [n for n, f in FREE.items() if f.column in both and both[f.column].notna().any()]
    free = free if baseline is None else list(baseline)
    wanted = [str(c) for c in both if feature_of(str(c))] if features is None else list(features)
    for name in free:
        check_choice("baseline", name, list(FREE))
    if not free or not wanted:
        lacking = "baseline column" if not free else "feature"
        raise ValueError(f"Judging needs a feature and something free to compare it with, got no {lacking}.")
    for column in (*(FREE[name].column for name in free), *wanted):
        valued(both, column)
    found: Any = both[both["group"].isin(["TP", "FP"])].reset_index(drop=True)
    kept = [c for c in wanted if found[c].isna().mean() <= MOST_LACKING]
    if gone := [c for c in wanted if c not in kept]:
        notes.append(f"left out, as more than a tenth of the lesions lack them: {', '.join(gone)}")
    if not kept:
        raise ValueError(f"A feature must have a value in nine of ten found lesions, got none that has: {gone[0]}, ...")
    columns = [FREE[name].column for name in free] + kept
    whole = found.dropna(subset=columns).reset_index(drop=True).astype(dict.fromkeys(columns, np.float64))
    if len(whole) < len(found):
        notes.append(f"{len(found) - len(whole)} of {len(found)} found lesions lack a value and stay, whoever judges")
    new = set() if unseen is None else set(unseen["subject"].astype(str))
    _found(whole[whole["subject"].astype(str).isin(new)] if new else whole)
    plan, asked = _splits_of(whole, new, folds)
    every = both[both["subject"].astype(str).isin(new)] if new else both
    if not (every["group"] == "FN").any():
        notes.append("no missed lesion (FN) is in the table: sensitivity and F1 count found ones alone")
    if few := note_on_subjects(every["subject"].nunique()):
        notes.append(few)
    numbers = {name: np.asarray(whole[FREE[name].column]) for name in free}
    numbers = {name: np.log(values) if FREE[name].log else values for name, values in numbers.items()}
    signed = {name: v * (1.0 if FREE[name].looks_false == "high" else -1.0) for name, v in numbers.items()}
    known, mapped = np.column_stack(list(numbers.values())), whole[kept].to_numpy()
    judges = signed | {"free": known, "features": mapped, "all": np.column_stack([known, mapped])}
    return _Case(whole, judges, kept, free, plan, asked, every, notes)


def _together(table: pd.DataFrame, unseen: pd.DataFrame | None) -> pd.DataFrame:
    """Both tables in one; no subject may be in both, or a model would be asked of whom it has seen."""
    for part in (table, *([] if unseen is None else [unseen])):
        if lacking := [name for name in ("subject", "group") if name not in part]:
            raise ValueError(f"A table of lesions must have the columns subject and group; no {lacking[0]}.")
    if unseen is None:
        return table
    if shared := sorted(set(table["subject"].astype(str)) & set(unseen["subject"].astype(str))):
        raise ValueError(f"unseen must be of other subjects than those learned from, both have {shared[0]}; drop it.")
    return pd.concat([table, unseen], ignore_index=True)


def _splits_of(found: pd.DataFrame, new: set[str], folds: int) -> tuple[list[Split], np.ndarray]:
    """How found lesions are split, and which of them are judged."""
    false, subjects = (found["group"] == "FP").to_numpy(), found["subject"].astype(str).to_numpy()
    if not new:
        return _plan(false, subjects, folds), np.ones(len(found), dtype=bool)
    asked = np.isin(subjects, list(new))
    learned = np.flatnonzero(~asked)
    return [(learned, np.flatnonzero(asked), _splits(false[learned], subjects[learned], folds))], asked


def _judge(case: _Case, columns: np.ndarray, keep: float) -> _Judged:
    """Evidence by models that never saw the subject, or by a number as it is, and what stays at each threshold."""
    evidence, kept = np.full(len(case.found), np.nan), np.ones(len(case.found), dtype=bool)
    limits, models = list[float](), list[Model | None]()
    for train, test, inner in case.plan:
        model, known = None, columns[train]
        if columns.ndim == 2:
            model, known = fit_model(columns[train], case.false[train], inner)
        evidence[test] = columns[test] if model is None else model(columns[test])
        limits.append(_limit(known[~case.false[train]], keep))
        kept[test] = evidence[test] <= limits[-1]
        models.append(model)
    return _Judged(evidence, kept, limits, models)


def _limit(true: np.ndarray, keep: float) -> float:
    """The evidence up to which at least a share `keep` of the true lesions stay."""
    return float(np.sort(true)[int(np.ceil(keep * len(true) - 1e-9)) - 1])


def _count(
    case: _Case, judged: Mapping[str, _Judged], curves: Mapping[str, Roc], resamples: int, seed: int
) -> pd.DataFrame:
    """A row a judge: areas, lesions that stay, and what they score, with intervals over the same resamples."""
    names, codes = np.unique(case.every["subject"].astype(str), return_inverse=True)
    groups = case.every["group"].to_numpy()
    before = np.stack([np.bincount(codes, groups == g, len(names)) for g in ("TP", "FP", "FN")], axis=1)
    times = draw_times(np.random.default_rng(seed), resamples, len(names)) if len(names) > 1 else np.empty((0, 1))
    about = {"judge": AS_FOUND, "columns": 0, "subjects": len(names)}
    rows = [about | _scores(before, before, times)]
    for name, of in judged.items():
        lost = ~of.kept & case.asked
        at = np.searchsorted(names, case.subjects[lost])
        true, false = (np.bincount(at, case.false[lost] == value, len(names)) for value in (False, True))
        curve, columns = curves[name], case.columns[name]
        row = about | {"judge": name, "columns": columns.shape[1] if columns.ndim == 2 else 1, "auc": curve.auc}
        row |= dict(zip(("auc_low", "auc_high"), curve.interval, strict=True)) | {"within": curve.within}
        row |= dict(zip(("within_low", "within_high"), curve.within_interval, strict=True))
        rows.append(row | _scores(before, before + np.stack([-true, -false, true], axis=1), times))
    areas = ["auc", "auc_low", "auc_high", "within", "within_low", "within_high"]
    order = ["judge", "columns", *areas, "subjects", *COUNTS]
    made: Any = pd.DataFrame(rows)
    return made[[*order, *made.columns.difference(order, sort=False)]]


def _scores(before: np.ndarray, after: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Counts of subjects `(S, 3)`, in sum and scored; intervals of how often each is drawn `(R, S)`."""
    row: dict[str, Any] = dict(zip(COUNTS, after.sum(axis=0).astype(int).tolist(), strict=True))
    for name, (part, whole) in SCORES.items():
        score, drawn = _quotient(after.sum(axis=0), part, whole), _quotient(times @ after, part, whole)
        gain = score - _quotient(before.sum(axis=0), part, whole)
        gains = drawn - _quotient(times @ before, part, whole)
        for title, value, many in ((name, score, drawn), (f"{name}_gain", gain, gains)):
            low, high = interval_of(many[np.isfinite(many)])
            row |= {title: float(value), f"{title}_low": low, f"{title}_high": high}
    return row


def _quotient(counts: np.ndarray, part: Sequence[float], whole: Sequence[float]) -> np.ndarray:
    """Of counts `(..., 3)`; NaN where there is nothing to divide by."""
    below = counts @ np.asarray(whole)
    return np.divide(counts @ np.asarray(part), below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _gain(asked: pd.DataFrame, more: str, less: str, resamples: int, seed: int) -> tuple[float, Interval]:
    """How much larger the AUC of one column is than that of another, and its interval over subjects."""
    false = (asked["group"] == "FP").to_numpy()
    names, codes = np.unique(asked["subject"].astype(str), return_inverse=True)
    values = (asked[column].to_numpy() for column in (more, less))
    first, second = (np.sign(np.subtract.outer(v[false], v[~false])) / 2 for v in values)
    if min(len(set(codes[false])), len(set(codes[~false]))) < 2:
        return float((first - second).mean()), NO_INTERVAL
    times = draw_times(np.random.default_rng(seed), resamples, len(names))
    of_false, of_true = times[:, codes[false]], times[:, codes[~false]]
    pairs = of_false.sum(axis=1) * of_true.sum(axis=1)
    wins = ((of_false @ (first - second)) * of_true).sum(axis=1)
    return float((first - second).mean()), interval_of(wins[pairs > 0] / pairs[pairs > 0])


def _chance(case: _Case, real: _Judged, permutations: int, seed: int) -> float:
    """How often features that say nothing more of a lesion than `free` does give `all` at least the AUC it has.

    What a line through the free columns leaves of the features is exchanged among the lesions of each subject, all
    features of a lesion together, so that they stay like each other, like the subject and like the lesion's size
    (Freedman and Lane 1983, within subjects); then the whole pipeline learns again. The real one counts as one of them.
    """
    rng, free, asked = np.random.default_rng(seed), case.columns["free"], case.asked
    design, features = np.column_stack([free, np.ones(len(free))]), case.columns["features"]
    told = design @ np.linalg.lstsq(design, features, rcond=None)[0]
    rows_of = [np.flatnonzero(case.subjects == name) for name in np.unique(case.subjects)]
    wanted, as_large, order = _area(real.evidence[asked], case.false[asked]), 1, np.arange(len(free))
    for _ in range(permutations):
        for rows in rows_of:
            order[rows] = rng.permutation(rows)
        evidence = _judge(case, np.column_stack([free, told + (features - told)[order]]), 1.0).evidence
        as_large += _area(evidence[asked], case.false[asked]) >= wanted - 1e-12
    return as_large / (permutations + 1)


def _area(evidence: np.ndarray, false: np.ndarray) -> float:
    """AUC, by ranks."""
    count = int(false.sum())
    return float((rankdata(evidence)[false].sum() - count * (count + 1) / 2) / (count * (len(false) - count)))


def _used(case: _Case, name: str, of: _Judged) -> Iterator[dict[str, Any]]:
    for n, (train, test, _) in enumerate(case.plan):
        model = of.models[n]
        yield {
            "fold": n,
            "judge": name,
            "learned_from": " ".join(np.unique(case.subjects[train])),
            "judged": " ".join(np.unique(case.subjects[test])),
            "lesions_learned": len(train),
            "lesions_judged": len(test),
            "ridge": np.nan if model is None else model.ridge,
            "threshold": of.limits[n],
        }


def _weights(case: _Case, of: _Judged) -> pd.DataFrame:
    columns = [*case.free, *case.features]
    rows = [
        (n, column, weight)
        for n, model in enumerate(of.models)
        if model is not None
        for column, weight in zip(columns, model.weights[:-1].tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["fold", "column", "weight"])


# Folders of maps -> a table of lesions.


def read_lesions(folders: Path | Sequence[Path], *, progress: bool = False) -> pd.DataFrame:
    """A row a lesion, found or missed, of folders that `ies explain` or `ies cohort` wrote, and its maps' features.

    Returns:
        `subject, lesion, group, voxels, network` (the hash of its weights)`, probability, uncertainty` (structural) if
        `ies uncertainty` wrote that of every subject, and a column a map, channel and row of `FEATURES`, such as
        `smoothgradmax_flair_mean`. What was not explained, or has no value, is NaN.
    """
    maps = [saved for saved in read_maps(folders) if saved.record["group"] != "TN"]
    named = [(saved, _slug(method)) for saved, (_, method) in zip(maps, names_of(maps), strict=True)]
    lesions, networks = _listed(maps), dict[str, str]()
    for saved in maps:
        subject, digest = saved.record["subject"], saved.record["digest"]
        if networks.setdefault(subject, digest) != digest:
            met = f"those of {subject} were found by {networks[subject]} and {digest}"
            raise ValueError(f"Lesions of a subject must be one network's, {met}; give the folders of one network.")
    rows = dict[tuple[str, int], dict[str, float]]()
    for saved, method in tqdm(named, desc="Measuring", unit="map", disable=not progress):
        key = (saved.record["subject"], saved.record["lesion"])
        values, _ = measure_features(*saved.load(), saved.modalities)
        rows.setdefault(key, {}).update({f"{method}_{name}": value for name, value in values.items()})
    measured = pd.DataFrame(rows.values(), index=pd.MultiIndex.from_tuples(rows, names=["subject", "lesion"]))
    table = lesions.set_index(["subject", "lesion"]).join(measured).reset_index()
    table.insert(4, "network", [networks[subject] for subject in table["subject"]])
    return table


def describe_features(refined: Refined) -> dict[str, dict[str, str]]:
    """Of every feature that was used its unit and meaning, by column."""
    columns = dict.fromkeys(refined.weights["column"])
    rows = {column: feature_of(column) for column in columns if column not in FREE}
    return {name: {"unit": row.unit, "meaning": row.meaning} if row else {} for name, row in rows.items()}


def _slug(method: str) -> str:
    """A method's name for columns: `smoothgrad max` -> `smoothgradmax`."""
    return re.sub(r"[^a-z0-9]+", "", method.lower().replace("+", "p"))


def _listed(maps: Sequence[SavedMap]) -> pd.DataFrame:
    """The lesions that `lesions.tsv` lists, of every subject that has maps: found and missed, explained or not."""
    tables = []
    for path, subject in dict.fromkeys(
        (saved.folder / f"sub-{saved.record['subject']}" / "lesions.tsv", saved.record["subject"]) for saved in maps
    ):
        if not path.is_file():
            remedy = "write it by `ies predict` or `ies explain` into the same folder"
            raise FileNotFoundError(f"Missed lesions are counted by a subject's table, there is no {path}; {remedy}.")
        listed = pd.read_csv(path, sep="\t", encoding="utf-8-sig").dropna(subset=["lesion"])
        listed = listed.rename(columns={"mean_probability": "probability"}).assign(subject=subject)
        listed = listed.reindex(columns=["subject", "lesion", "group", "voxels", "probability"])
        listed = listed.astype({"lesion": int, "voxels": int})
        tables.append(_with_uncertainty(listed, path.with_name("uncertainty.tsv")))
    lacking = [str(one["subject"].iloc[0]) for one in tables if "uncertainty" not in one]
    if 0 < len(lacking) < len(tables):
        told = f"Uncertainty judges no lesion, as there is none of {', '.join(lacking)}; run `ies uncertainty`, too."
        warnings.warn(told, stacklevel=3)
        tables = [one.drop(columns="uncertainty", errors="ignore") for one in tables]
    table: Any = pd.concat(tables, ignore_index=True).drop_duplicates()
    twice = table[table.duplicated(["subject", "lesion"])]
    if len(twice):
        row: Any = twice.iloc[0]
        met = f"lesion {row['lesion']} of {row['subject']} is two in these folders"
        raise ValueError(f"A subject must have one set of lesions, {met}; give the folders of one prediction.")
    table = table[table["group"] != "TN"].dropna(axis="columns", how="all")
    return table.sort_values(["subject", "lesion"], kind="stable").reset_index(drop=True)


def _with_uncertainty(listed: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A subject's lesions with their structural uncertainty, where `ies uncertainty` wrote it beside them."""
    if not path.is_file():
        return listed
    same = ["lesion", "group", "voxels"]
    told = pd.read_csv(path, sep="\t", encoding="utf-8-sig").astype({"lesion": int, "voxels": int})
    both = listed.merge(told[[*same, "structural"]], on=same, how="left", indicator=True)
    others: Any = both[(both["_merge"] == "left_only") & (both["group"] != "TN")]
    if len(others):
        met = f"lesion {others['lesion'].iloc[0]} is not in it"
        raise ValueError(f"Uncertainty must be of the lesions beside it, of {path} {met}; run `ies uncertainty`.")
    return both.drop(columns="_merge").rename(columns={"structural": "uncertainty"})
