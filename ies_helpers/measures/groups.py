"""Groups of lesions compared in one measure: ranks, effect sizes, and intervals that know lesions share subjects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

ORDER = ("TP", "FP", "FN", "TN")
"""The paper's order of peaks, the highest first."""

FEWEST = 5
"""Lesions that a group must have to be compared."""

FEW_SUBJECTS = 10
"""Below that many subjects in a group a percentile interval over them is likely too narrow, and the note says so."""

Interval = tuple[float, float]
NONE: Interval = (np.nan, np.nan)


@dataclass(frozen=True)
class Effect:
    """How often a value of the first group is larger than one of the second, and how sure that is.

    Attributes:
        delta: Cliff's delta, the rank-biserial correlation: P(first > second) - P(first < second), from -1 to 1.
        naive: 95 % interval as if every lesion were a subject.
        interval: 95 % interval over subjects; NaN if a group is of one subject.
        within: delta over pairs of lesions of the same subject alone; NaN if no subject has both groups.
        within_interval: its interval over subjects; NaN if fewer than two have both groups.
        note: why something is NaN, or should not be leant on; empty if nothing is the matter.
    """

    delta: float
    naive: Interval
    interval: Interval
    within: float
    within_interval: Interval
    note: str


def compare_groups(table: pd.DataFrame, measure: str, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every pair of groups in one measure: the usual test, and what is left of it if subjects are the unit.

    The usual test (Mann-Whitney U, two-sided, as in the paper) takes lesions as independent. Lesions of one subject
    share scanner, contrast and the network's luck with them, so a hundred lesions of five subjects tell less than a
    hundred subjects with one lesion each, and its p is too small. The interval of `delta` therefore resamples whole
    subjects with all their lesions; `naive` beside it resamples lesions. `within` goes further and compares lesions
    with lesions of the same subject only: no difference between subjects can make it.

    Args:
        table: a row a lesion, columns `subject`, `group` and the measure. Lesions without a value (NaN) and those of
            other groups are left out.
        measure: name of a column.
        resamples: of each bootstrap (percentiles 2.5 to 97.5).
        seed: of the bootstraps.

    Returns:
        A row a pair, in the order TP, FP, FN, TN: `first, second, n_first, n_second, subjects, u, p, p_holm` (Holm's
        correction over the pairs that could be tested)`, delta, naive_low, naive_high, low, high, within, within_low,
        within_high, note`; see `Effect`. With fewer than 5 lesions in a group all is NaN, and the note says why.

    Raises:
        ValueError: for a table without these columns, with infinite values, or of fewer than two groups.
    """
    table = valued(table, measure)
    groups = [group for group in ORDER if group in set(table["group"])]
    if len(groups) < 2:
        there = ", ".join(map(str, sorted(set(table["group"])))) or "none"
        raise ValueError(f"A comparison needs two of the groups {', '.join(ORDER)} with values, got {there}.")
    compared = pd.DataFrame([_pair(table, measure, pair, resamples, seed) for pair in combinations(groups, 2)])
    compared.insert(int(compared.columns.get_indexer(["p"])[0]) + 1, "p_holm", holm(compared["p"]))
    return compared


def group_table(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """How large each group is and where its middle half lies, a row a measure and group.

    Returns:
        `measure, group, lesions, subjects, q25, median, q75`; lesions without a value do not count.
    """
    rows = []
    for measure in measures:
        values = valued(table, measure)
        for group in ORDER:
            part: Any = values[values["group"] == group]
            if len(part):
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


def cliffs_delta(first: Any, second: Any) -> float:
    """P(x > y) - P(x < y) for x of the first and y of the second; ties count half for each side.

    It is 2 U / (m n) - 1 (Cliff 1993; Kerby 2014 calls it the rank-biserial correlation), and 2 AUC - 1.
    """
    return float(_signs(first, second).mean())


def effect(first: pd.DataFrame, second: pd.DataFrame, measure: str, *, resamples: int = 2000, seed: int = 0) -> Effect:
    """`cliffs_delta` of two tables of lesions with columns `subject` and the measure, and its intervals.

    Both tables must have values in all rows (`valued`), and some. What an interval over subjects is worth depends on
    the group with fewer of them, however many the other has.
    """
    signs, delta = _signs(first[measure], second[measure]), cliffs_delta(first[measure], second[measure])
    names, codes = np.unique(np.r_[first["subject"].astype(str), second["subject"].astype(str)], return_inverse=True)
    of_first, of_second = codes[: len(first)], codes[len(first) :]
    rng = np.random.default_rng(seed)
    naive = _percentiles(_resampled(signs, *(_drawn(rng, resamples, n) for n in signs.shape)))
    same = of_first[:, None] == of_second
    within = float(signs[same].mean()) if same.any() else np.nan
    fewest, both = min(len(set(of_first)), len(set(of_second))), len(set(of_first) & set(of_second))
    if fewest < 2:
        return Effect(delta, naive, NONE, within, NONE, _note(fewest, both))
    times = _drawn(rng, resamples, len(names))
    over = _percentiles(_resampled(signs, times[:, of_first], times[:, of_second]))
    wins, pairs = (
        np.bincount(of_first, weights=part.sum(axis=1), minlength=len(names)) for part in (signs * same, same)
    )
    inside = _percentiles(_quotients(times @ wins, times @ pairs))
    return Effect(delta, naive, over, within, inside if both > 1 else NONE, _note(fewest, both))


def _note(fewest: int, both: int) -> str:
    """What must be said of intervals over so many subjects in the smaller group, and so many that have both."""
    notes = []
    if fewest < 2:
        notes.append("one subject in a group: no interval over subjects")
    elif fewest < FEW_SUBJECTS:
        notes.append(f"only {fewest} subjects in a group: their interval is likely too narrow")
    if both == 0:
        notes.append("no subject has both groups: nothing within")
    elif both < min(fewest, FEW_SUBJECTS):
        notes.append(f"only {both} with both groups: {'no' if both == 1 else 'too narrow an'} interval within")
    return "; ".join(notes)


def valued(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows that have a value of a measure, which is float64 whatever it was.

    Raises:
        ValueError: for lacking columns, a lesion without a subject, or values that are no finite numbers.
    """
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
    parts: Any = [table[table["group"] == group] for group in pair]
    first, second = parts
    subjects = pd.concat(parts)["subject"].nunique()
    told = {"first": pair[0], "second": pair[1], "n_first": len(first), "n_second": len(second), "subjects": subjects}
    small = [f"{g} has {len(part)}" for g, part in zip(pair, parts, strict=True) if len(part) < FEWEST]
    if small:
        note = f"{' and '.join(small)} lesions, {FEWEST} are needed"
        u = p = np.nan
        found = Effect(np.nan, NONE, NONE, np.nan, NONE, note)
    else:
        u, p = _mann_whitney(first[measure].to_numpy(), second[measure].to_numpy())
        found = effect(first, second, measure, resamples=resamples, seed=seed)
    told |= {"u": u, "p": p, "delta": found.delta, "naive_low": found.naive[0], "naive_high": found.naive[1]}
    told |= {"low": found.interval[0], "high": found.interval[1], "within": found.within}
    return told | {"within_low": found.within_interval[0], "within_high": found.within_interval[1], "note": found.note}


def _mann_whitney(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """U of the first and two-sided p: exact for up to 8 lesions without ties, else normal, corrected for ties."""
    if np.ptp(np.r_[first, second]) == 0:
        return len(first) * len(second) / 2, 1.0
    found = mannwhitneyu(first, second, alternative="two-sided")
    return float(found.statistic), float(found.pvalue)


def _signs(first: Any, second: Any) -> np.ndarray:
    """`(m, n)`: 1 where the first is larger, -1 where the second is, 0 for a tie."""
    return np.sign(np.asarray(first, np.float64)[:, None] - np.asarray(second, np.float64))


def _drawn(rng: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """`(R, count)`: how often each of `count` units is drawn when as many are drawn with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def _resampled(signs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`(R,)` delta of each resample, from how often each lesion is in it, `(R, m)` and `(R, n)`."""
    return _quotients(((first @ signs) * second).sum(axis=1), first.sum(axis=1) * second.sum(axis=1))


def _quotients(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Where there is a whole; resamples that draw no lesion of a group have none."""
    return parts[wholes > 0] / wholes[wholes > 0]


def _percentiles(values: np.ndarray) -> Interval:
    if not len(values):
        return NONE
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
