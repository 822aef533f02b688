"""Resamples draw whole subjects, then their lesions; the interval is that of plain percentiles."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers.measures.resample import draw_rows, draw_times, interval_of, note_on_subjects

SUBJECTS = pd.Index(["a"] * 5 + ["b"] * 2 + ["c"])


def test_each_resample_has_as_many_subjects_and_of_each_as_many_of_its_lesions() -> None:
    sizes = {"a": 5, "b": 2, "c": 1}
    totals = set()
    for rows in draw_rows(SUBJECTS, 200, seed=0):
        counts = SUBJECTS[rows].value_counts()
        assert all(counts[name] % sizes[name] == 0 for name in counts.index)
        assert sum(counts[name] // sizes[name] for name in counts.index) == len(sizes)
        totals.add(len(rows))
    assert {3 * 5, 3 * 1} < totals  # three times the largest, and three times the smallest


def test_lesions_are_drawn_with_replacement_and_the_seed_decides_which() -> None:
    one, two, other = (list(draw_rows(SUBJECTS, 30, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert any(len(set(rows)) < len(rows) for rows in draw_rows(pd.Index(["a"] * 5), 30, 0))


def test_times_drawn_add_up_and_are_even_in_the_long_run() -> None:
    times = draw_times(np.random.default_rng(0), 20_000, 4)
    assert (times.sum(axis=1) == 4).all()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.03)
    assert times.var(axis=0) == pytest.approx(np.full(4, 0.75), abs=0.03)  # binomial: 4 draws, each 1 in 4


def test_the_interval_leaves_a_fortieth_out_at_each_end() -> None:
    assert interval_of(np.arange(1001.0)) == (25.0, 975.0)
    assert np.isnan(interval_of(np.array([]))).all()


@pytest.mark.parametrize(("count", "said"), [(1, "one subject here"), (9, "only 9 subjects here"), (10, "")])
def test_few_subjects_are_noted(count: int, said: str) -> None:
    note = note_on_subjects(count, " here")
    assert note.startswith(said)
    assert bool(note) == bool(said)
