"""How sure a number is where lesions share subjects: bootstraps that draw whole subjects, and their intervals.

Lesions of one subject share scanner, contrast and the network's luck with them, so a hundred lesions of five subjects
say less than a hundred subjects with one lesion each. Intervals are of 95 %, percentiles 2.5 to 97.5 of the resamples.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

Interval = tuple[float, float]
NO_INTERVAL: Interval = (np.nan, np.nan)
PERCENTILES = (2.5, 97.5)

FEW_SUBJECTS = 10  # below that many subjects a percentile interval over them is likely too narrow, and a note says so


def draw_times(rng: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """`(R, count)`: how often each of `count` units is drawn when as many are drawn with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def draw_rows(subjects: pd.Index, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each resample, in two stages: as many subjects as there are, of each as many of its lesions."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(subjects == subject) for subject in subjects.unique()]
    for _ in range(resamples):
        drawn = [rows_of[n] for n in rng.integers(len(rows_of), size=len(rows_of))]
        yield np.concatenate([rng.choice(lesions, len(lesions)) for lesions in drawn])


def interval_of(resampled: np.ndarray) -> Interval:
    """The interval of a number from its resamples `(R,)`; NaN where none of them has it."""
    if not len(resampled):
        return NO_INTERVAL
    low, high = np.percentile(resampled, PERCENTILES)
    return float(low), float(high)


def note_on_subjects(count: int, where: str = "") -> str:
    """What must be said of an interval over so many subjects; empty where there are enough."""
    if count < 2:
        return f"one subject{where}: no interval over subjects"
    return f"only {count} subjects{where}: their interval is likely too narrow" if count < FEW_SUBJECTS else ""
