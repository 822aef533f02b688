"""Groups of lesions compared in one measure, where lesions share subjects.

By ranks: every pair of groups, by the usual test and by effect sizes whose intervals resample subjects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from ies_helpers.measures.resample import (
    FEW_SUBJECTS,
    NO_INTERVAL,
    Interval,
    draw_times,
    interval_of,
    note_on_subjects,
)

ORDER = ("TP", "FP", "FN", "TN")  # the paper's order of peaks, the highest first

FEWEST_LESIONS = 5  # that a group must have to be compared


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
