"""Perilesional curves, told in numbers: when a lesion is seen, when it keeps its score, and how sure that is."""

from typing import Any

import numpy as np
import pandas as pd

KEEPS = 0.95
"""Share of the full score that counts as kept."""

KEY = ["subject", "network", "lesion", "fill"]
"""What tells one curve from another."""


def summarise_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """One row a lesion: the distance at which it is first seen, and from which on it keeps its score.

    Args:
        curves: tidy, as `ies perilesional` writes them: `subject, lesion, group, network, fill, distance_mm, score,
            seen, volume_mm3, full_score`.

    Returns:
        `first_seen_mm`: the smallest distance at which it is seen, it may be lost again further out. `seen_from_mm`:
        the smallest from which on it is always seen. `keeps_mm`: the smallest from which on the score is never below
        95 % of the full score. NaN where there is none.
    """
    rows = []
    for key, curve in curves.sort_values("distance_mm").groupby([*KEY, "group"], sort=False):
        names: Any = key
        at, seen = curve["distance_mm"].to_numpy(), curve["seen"].to_numpy(dtype=bool)
        kept = curve["score"].to_numpy() >= KEEPS * curve["full_score"].to_numpy()
        told = {"first_seen_mm": at[seen][0] if seen.any() else np.nan}
        told |= {"seen_from_mm": _from_here_on(at, seen), "keeps_mm": _from_here_on(at, kept)}
        rows.append(dict(zip([*KEY, "group"], names, strict=True)) | told)
    return pd.DataFrame(rows, columns=[*KEY, "group", "first_seen_mm", "seen_from_mm", "keeps_mm"])


def _from_here_on(at: np.ndarray, holds: np.ndarray) -> float:
    """The smallest distance from which on `holds` is always true; NaN if it is not at the last."""
    if not holds[-1]:
        return float("nan")
    lost = np.flatnonzero(~holds)
    return float(at[lost[-1] + 1 if len(lost) else 0])


def average_curves(curves: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Over all lesions of each network and fill, at each distance: mean score, its spread, and lesions seen.

    Lesions of one subject are alike, so the intervals resample subjects, and within each drawn subject its lesions
    (a two-stage bootstrap, percentiles 2.5 to 97.5). With one subject only lesions are resampled, and the interval is
    about that subject alone.

    Returns:
        `network, fill, distance_mm, lesions, seen, mean, sd` (ddof 1, as the paper's bands)`, low, high`.

    Raises:
        ValueError: for a table without curves.
    """
    if curves.empty:
        raise ValueError("There must be a perilesional curve to average, the table has none.")
    averages = []
    for key, part in curves.groupby(["network", "fill"], sort=False):
        names: Any = key
        averages.append(_average(part, resamples, seed).assign(network=names[0], fill=names[1]))
    columns = ["network", "fill", "distance_mm", "lesions", "seen", "mean", "sd", "low", "high"]
    return pd.concat(averages, ignore_index=True).reindex(columns=columns)


def _average(part: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    scores = part.pivot_table(index=["subject", "lesion"], columns="distance_mm", values="score")
    seen = part.groupby("distance_mm")["seen"].sum()
    of = [np.flatnonzero(scores.index.get_level_values("subject") == s) for s in scores.index.unique("subject")]
    rng, values, means = np.random.default_rng(seed), scores.to_numpy(), []
    for _ in range(resamples):
        drawn = [of[n] for n in rng.integers(len(of), size=len(of))]
        rows = np.concatenate([rng.choice(lesions, len(lesions)) for lesions in drawn])
        means.append(np.nanmean(values[rows], axis=0))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    table = pd.DataFrame({"distance_mm": scores.columns, "lesions": len(scores), "seen": np.asarray(seen)})
    return table.assign(mean=np.nanmean(values, axis=0), sd=scores.std(ddof=1).tolist(), low=low, high=high)


def wide_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves of one network and fill, laid out as the published script's `contextual_info_data.csv`.

    One row a distance: `distance_mm, average_score, std_dev` (ddof 0)`, n_predictions`, then one column a lesion,
    `score_0, score_1, ...`, in the order of the table. Distances stand where they are; the published ones are
    stretched to end at 35.
    """
    scores = curves.pivot_table(index="distance_mm", columns=["subject", "lesion"], values="score", sort=False)
    seen: Any = curves.groupby("distance_mm")["seen"].sum()
    table = pd.DataFrame({"distance_mm": scores.index, "average_score": scores.mean(axis=1).tolist()})
    table["std_dev"] = scores.std(axis=1, ddof=0).tolist()
    table["n_predictions"] = [int(seen[d]) for d in scores.index]
    return table.join(pd.DataFrame({f"score_{n}": column for n, column in enumerate(scores.to_numpy().T)}))
