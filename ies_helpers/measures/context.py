"""Perilesional curves in numbers, over lesions and subjects, and the table of them on disk.

When is a lesion seen, when does it keep its score, and how sure is that? Intervals resample subjects, and within each
drawn subject its lesions (`resample.draw_rows`). The table grows lesion by lesion, nothing computed twice, nothing
half-written.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ies_helpers.measures.resample import PERCENTILES, draw_rows, note_on_subjects
from ies_helpers.saliency.context import STEPS, By, Fill, perilesional_curve
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.files import read_text, replacing
from ies_helpers.subjects.folder import fingerprint, pixels_of
from ies_helpers.subjects.subject import Subject

CURVE_KEY = ["subject", "network", "lesion", "fill"]  # what tells one curve from another


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
    for key, curve in curves.sort_values("distance_mm").groupby([*CURVE_KEY, "group"], sort=False):
        names: Any = key
        at, seen = curve["distance_mm"].to_numpy(), curve["seen"].to_numpy(dtype=bool)
        kept = curve["score"].to_numpy() >= 0.95 * curve["full_score"].to_numpy()
        always = [np.logical_and.accumulate(holds[::-1])[::-1] for holds in (seen, kept)]  # from here on
        rows.append((*names, *(at[holds][0] if holds.any() else np.nan for holds in (seen, *always))))
    return pd.DataFrame(rows, columns=[*CURVE_KEY, "group", "first_seen_mm", "seen_from_mm", "keeps_mm"])


def median_distances(summary: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The distance at which half of the lesions are seen, and at which half keep their score, with intervals.

    A lesion that is never seen counts as one that is seen beyond all distances shown; to leave it out would make the
    median too small.

    Returns:
        Two rows a network and fill: `network, fill, measure` (`first_seen_mm` or `keeps_mm`)`, lesions, reached` (those
        that have such a distance)`, subjects, median, low, high, note`. NaN is beyond all distances shown, or with one
        subject no interval; the note says which.
    """
    rows = []
    for key, part in summary.groupby(["network", "fill"], sort=False):
        names: Any = key
        of: Any = part["subject"]
        subjects, drawn = of.nunique(), list(draw_rows(pd.Index(of), resamples, seed))
        about = {"network": names[0], "fill": names[1], "lesions": len(part), "subjects": subjects}
        for measure in ("first_seen_mm", "keeps_mm"):
            at = part[measure].fillna(np.inf).to_numpy()
            found = _median(at, drawn, subjects)
            rows.append(about | {"measure": measure, "reached": int(np.isfinite(at).sum())} | found)
    columns = ["network", "fill", "measure", "lesions", "reached", "subjects", "median", "low", "high", "note"]
    return pd.DataFrame(rows, columns=columns)


def _median(at: np.ndarray, drawn: list[np.ndarray], subjects: int) -> dict[str, Any]:
    """Median of distances, some of them infinite, its interval, and what must be said of both."""
    medians = [np.median(at[rows]) for rows in drawn]
    numbers = {"median": float(np.median(at)), "low": np.nan, "high": np.nan}
    if subjects > 1:
        for name, percentile, method in zip(("low", "high"), PERCENTILES, ("lower", "higher"), strict=True):
            numbers[name] = float(np.percentile(medians, percentile, method=method))  # infinite ones cannot be mixed
    beyond = [name for name, value in numbers.items() if np.isinf(value)]
    notes = [note_on_subjects(subjects), f"beyond all distances shown: {', '.join(beyond)}" if beyond else ""]
    return numbers | dict.fromkeys(beyond, np.nan) | {"note": "; ".join(filter(None, notes))}


def average_curves(curves: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Over all lesions of each network and fill, at each distance: mean score, its spread, and lesions seen.

    Subjects of different spacing have values at different distances. A curve keeps each value up to its next distance,
    and has none beyond its last.

    Returns:
        `network, fill, distance_mm` (all of any curve, to 0.01 mm)`, lesions, subjects` (with a value there)`, seen,
        mean, sd` (ddof 1, as the paper's bands)`, low, high, note`. With one subject there is no interval (NaN).
    """
    if curves.empty:
        raise ValueError("There must be a perilesional curve to average, the table has none.")
    groups: Any = curves.groupby(["network", "fill"], sort=False)
    averages = [_average(part, resamples, seed).assign(network=name, fill=fill) for (name, fill), part in groups]
    columns = ["network", "fill", "distance_mm", "lesions", "subjects", "seen", "mean", "sd", "low", "high", "note"]
    return pd.concat(averages, ignore_index=True).reindex(columns=columns)


def _average(part: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    scores, seen = _at_all_distances(part)  # (lesions, distances)
    there = scores.notna()
    subjects = there.groupby(level="subject").any().sum()

    # (resamples, lesions) how often each is drawn -> (resamples, distances) means of those that have a value there
    drawn = draw_rows(scores.index.get_level_values("subject"), resamples, seed)
    times = np.stack([np.bincount(rows, minlength=len(scores)) for rows in drawn])
    sums, counts = times @ scores.fillna(0).to_numpy(), times @ there.to_numpy()
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    low, high = np.where(subjects > 1, np.nanpercentile(means, PERCENTILES, axis=0), np.nan)

    table = pd.DataFrame({"lesions": there.sum(), "subjects": subjects, "seen": seen.sum().astype(int)})
    table = table.assign(mean=scores.mean(), sd=scores.std(ddof=1), low=low, high=high)
    return table.assign(note=[note_on_subjects(n) for n in subjects]).rename_axis("distance_mm").reset_index()


def _at_all_distances(curves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores, and 1 where seen, `(lesions, distances)`: each value up to the next, NaN beyond a lesion's last."""
    rounded = curves.assign(distance_mm=curves["distance_mm"].round(2), seen=curves["seen"].astype(float))
    key = ["subject", "lesion"]
    scores, seen = (
        rounded.pivot_table(index=key, columns="distance_mm", values=column, sort=False).sort_index(axis=1)
        for column in ("score", "seen")
    )
    within = scores.bfill(axis=1).notna()
    return scores.ffill(axis=1).where(within), seen.ffill(axis=1).where(within)


def wide_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves of one network and fill, laid out as the published script's `contextual_info_data.csv`.

    One row a distance: `distance_mm, average_score, std_dev` (ddof 0)`, n_predictions`, then one column a lesion,
    `score_0, score_1, ...`, in the order of the table. Distances stand where they are, those of subjects of different
    spacing as in `average_curves`; the published ones are stretched to end at 35.
    """
    scores, seen = _at_all_distances(curves)
    table = pd.DataFrame({"average_score": scores.mean(), "std_dev": scores.std(ddof=0)})
    table = table.assign(n_predictions=seen.sum().astype(int)).rename_axis("distance_mm").reset_index()
    return table.join(pd.DataFrame({f"score_{n}": row for n, row in enumerate(scores.to_numpy())}))


# The table of curves on disk.

# the last five tell whether a curve can be kept; `image` is a hash of image, affine and where the lesion lies in it
TABLE_COLUMNS = [
    *("subject", "lesion", "group", "network", "fill", "distance_mm", "score", "seen", "volume_mm3", "full_score"),
    *("by", "threshold", "digest", "voxels", "image"),
]
TEXT_COLUMNS = ["subject", "group", "network", "fill", "by", "digest", "image"]  # a network may be called 31, one NA


class ContextTable:
    """`perilesional.csv`, and in `curves` what it holds: one row a lesion and distance."""

    def __init__(self, path: Path) -> None:
        """Read the table, if there is one."""
        self.path = path
        self.curves: pd.DataFrame = pd.DataFrame(columns=TABLE_COLUMNS)
        if path.is_file():
            text: Any = dict.fromkeys(TEXT_COLUMNS, str)
            empty = {name: [""] for name in TABLE_COLUMNS if name not in text}
            table, how = read_text(path), {"sep": ",", "decimal": "."}
            if table.partition("\n")[0].count(";") > 1:  # as a spreadsheet saves it where the comma is decimal
                how = {"sep": ";", "decimal": ","}
            whole = table if table.endswith("\n") else table.rpartition("\n")[0]  # a line cut in two
            found: Any = {"dtype": text, "keep_default_na": False, "na_values": empty}
            self.curves = pd.read_csv(io.StringIO(whole), **how, **found)
            if list(self.curves.columns) != TABLE_COLUMNS:
                wanted = ", ".join(TABLE_COLUMNS)
                raise ValueError(f"{path} must have the columns {wanted}; move it away, or take another --out.")
            self._drop_cut()

    def _drop_cut(self) -> None:
        """Leave out the curves that lack a distance, as in a table that was cut: asked for, they are made anew."""
        if self.curves.empty:
            return
        counts: Any = self.curves.groupby(CURVE_KEY, sort=False).size()
        for key, rows in counts[counts < len(STEPS)].items():
            subject, network, lesion, fill = key
            warnings.warn(
                f"{self.path} holds {rows} of {len(STEPS)} distances of lesion {lesion} of {subject} ({network}, fill "
                f"{fill}): it was cut, and is left out until it is computed again.",
                stacklevel=3,
            )
        sizes: Any = self.curves.groupby(CURVE_KEY, sort=False)["lesion"].transform("size")
        kept: Any = self.curves[sizes >= len(STEPS)]
        self.curves = kept.reset_index(drop=True)

    def add(
        self, subject: Subject, network: Network, lesions: Sequence[Lesion], fill: Fill, by: By, progress: bool = False
    ) -> None:
        """Compute and write the curves that are not there yet, one lesion at a time."""
        network, subject = prepare(network, subject)
        made = {"by": by, "threshold": network.threshold, "digest": network.digest()}
        self._holds({"network": network.name, "fill": fill}, made)
        pixels = pixels_of(subject.image) + subject.affine.tobytes().hex()
        for lesion in tqdm(lesions, desc=f"{subject.name}, perilesional", unit="lesion", disable=not progress):
            key = {"subject": subject.name, "lesion": lesion.number, "network": network.name, "fill": fill}
            of = {"group": lesion.group, "voxels": len(lesion), "image": fingerprint(pixels, lesion.voxels)}
            if self._holds(key, of):
                continue
            curve = perilesional_curve(network, subject.image, lesion, by=by, fill=fill, affine=subject.affine)
            rows = curve.assign(**key, **made, **of, volume_mm3=lesion.volume_mm3)[TABLE_COLUMNS]
            self.curves = pd.concat([self.curves, rows], ignore_index=True) if len(self.curves) else rows  # pyright: ignore[reportAttributeAccessIssue]
            with replacing(self.path) as part:
                self.curves.to_csv(part, index=False, encoding="utf-8")

    def _holds(self, key: dict[str, Any], settings: dict[str, Any]) -> bool:
        """Whether there are rows of `key`; refused if one of them has other settings."""
        rows: Any = self.curves
        for column, value in key.items():
            rows = rows[rows[column] == value]
        for row in rows.drop_duplicates([*settings]).to_dict("records"):
            other = [name for name, value in settings.items() if str(row[name]) != str(value)]
            if other:
                differs = ["another image, affine or place" if n == "image" else f"{n} {row[n]}" for n in other]
                held = f"lesion {row['lesion']} of {row['subject']} with {', '.join(differs)}"
                raise ValueError(f"{self.path} holds {held}; take another --out to make it anew.")
        return len(rows) > 0
