"""Many maps in few numbers: what methods reach in each group of lesions, and which of them is ahead, how surely.

A value that does not exist (NaN) is left out of every number and counted beside it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ies_helpers.segmentation.lesions import GROUPS

RANKED = {
    "energy": "higher",
    "relative_focus": "higher",
    "pointing": "higher",
    "rank_accuracy": "higher",
    "gini": "higher",
    "complexity": "lower",
    "road": "higher",
    "deletion": "lower",
}
"""Measures without a unit, and which end of each counts as better."""

ALL = "all"
"""The group of every lesion together."""

RANKING = ["network", "measure", "better", "rank", "method", "mean", "low", "high", "first"]
"""Columns of a ranking, before `lesions`, `subjects` and `left_out`."""


def summarise_measures(measures: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method, group of lesions (`all` too) and measure.

    Args:
        measures: tidy, as `evaluate_maps` gives it.

    Returns:
        `network, method, group, measure, unit, subjects, n, nan, mean, sd` (ddof 1, NaN from one value)`, q25, median,
        q75`: `n` maps, of so many subjects, have a value, `nan` have none.

    Raises:
        ValueError: for a table without measures.
    """
    if measures.empty:
        raise ValueError("There must be a measured map to summarise, the table has none.")
    every = pd.concat([measures.assign(group=ALL), measures], ignore_index=True)
    keys, rows = ["network", "method", "group", "measure"], []
    for key, part in every.groupby(keys, sort=False):
        names: Any = key
        values = part["value"].dropna()
        low, middle, high = values.quantile([0.25, 0.5, 0.75])
        told = {"unit": part["unit"].iloc[0], "subjects": part.loc[values.index, "subject"].nunique()}
        told |= {"n": len(values), "nan": len(part) - len(values), "mean": values.mean(), "sd": values.std(ddof=1)}
        rows.append(dict(zip(keys, names, strict=True)) | told | {"q25": low, "median": middle, "q75": high})
    order = {group: n for n, group in enumerate((ALL, *GROUPS))}
    return pd.DataFrame(rows).sort_values("group", key=lambda names: names.map(order), kind="stable")


def rank_methods(measures: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Methods in order, for each network and measure of `RANKED`, with intervals.

    Compared are only lesions for which every method has a value: methods that explained other lesions would be
    compared on those. Lesions of one subject are alike, so the intervals resample subjects, and within each drawn
    subject its lesions (a two-stage bootstrap, percentiles 2.5 to 97.5), the same for all methods. With one subject
    only lesions are resampled, and the interval is about that subject alone. Networks find different lesions, so each
    has a ranking of its own.

    Args:
        measures: tidy, as `evaluate_maps` gives it.
        resamples: of the bootstrap.
        seed: of the draws.

    Returns:
        `network, measure, better, rank` (methods of equal mean share the smaller)`, method, mean, low, high, first`
        (share of resamples in which its mean is the best, or shares it)`, lesions, subjects, left_out`: lesions
        without a value of every method. Where no lesion is left the numbers are NaN.

    Raises:
        ValueError: for more than one value of a lesion, method and measure.
    """
    chosen: Any = measures[measures["measure"].isin(list(RANKED))]
    tables = [
        _ranked(part, measure, resamples, seed).assign(network=network)
        for (network, measure), part in chosen.groupby(["network", "measure"], sort=False)
    ]
    columns = [*RANKING, "lesions", "subjects", "left_out"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns) if tables else pd.DataFrame(columns=columns)


def _ranked(part: pd.DataFrame, measure: str, resamples: int, seed: int) -> pd.DataFrame:
    twice = part[part.duplicated(["subject", "lesion_id", "method"])]
    if len(twice):
        row: Any = twice.iloc[0]
        raise ValueError(
            f"A lesion must have one {measure} of each method, {row['lesion_id']} of {row['subject']} has more of "
            f"{row['method']}; drop repeated rows."
        )
    wide = part.pivot(index=["subject", "lesion_id"], columns="method", values="value")
    whole = wide.dropna()
    sign = 1.0 if RANKED[measure] == "higher" else -1.0
    table = pd.DataFrame({"measure": measure, "better": RANKED[measure], "method": wide.columns})
    if whole.empty:
        nothing = dict.fromkeys(["rank", "mean", "low", "high", "first"], np.nan)
        return table.assign(**nothing, lesions=0, subjects=0, left_out=len(wide))
    values, subjects = whole.to_numpy(), whole.index.get_level_values("subject")
    means = np.stack([values[rows].mean(axis=0) for rows in resampled_rows(subjects, resamples, seed)])
    best = sign * means
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    table = table.assign(
        mean=values.mean(axis=0),
        low=low,
        high=high,
        first=(best == best.max(axis=1, keepdims=True)).mean(axis=0),
        lesions=len(whole),
        subjects=subjects.nunique(),
        left_out=len(wide) - len(whole),
    )
    table["rank"] = (-sign * table["mean"]).rank(method="min").astype(int)
    return table.sort_values("rank", kind="stable")


def resampled_rows(subjects: pd.Index, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each resample: as many subjects as there are, with replacement, and of each as many of its lesions."""
    rng = np.random.default_rng(seed)
    of = [np.flatnonzero(subjects == subject) for subject in subjects.unique()]
    for _ in range(resamples):
        drawn = [of[n] for n in rng.integers(len(of), size=len(of))]
        yield np.concatenate([rng.choice(lesions, len(lesions)) for lesions in drawn])
