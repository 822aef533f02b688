"""Curves in numbers: thresholds by hand, intervals against their closed form, a table that grows and resumes."""

import numpy as np
import pandas as pd
import pytest

from ies_helpers import load_network, load_subject
from ies_helpers.measures import context
from ies_helpers.measures.context import ContextTable
from ies_helpers.measures.perilesional import average_curves, summarise_curves, wide_curves
from ies_helpers.segmentation.lesions import find_lesions


def curve(scores, seen, subject="a", lesion=1, full=1.0, network="unet") -> pd.DataFrame:
    """One lesion's rows, at 0, 1, 2 ... mm."""
    rows = {"subject": subject, "lesion": lesion, "group": "TP", "network": network, "fill": "zero"}
    table = pd.DataFrame({"distance_mm": np.arange(len(scores), dtype=float), "score": scores, "seen": seen})
    return table.assign(**rows, volume_mm3=100.0, full_score=full)


def test_distances_at_which_a_lesion_is_seen_and_keeps_its_score() -> None:
    table = pd.concat(
        [
            curve([0.1, 0.5, 0.2, 0.95, 1.0], [False, True, False, True, True]),
            curve([0.9, 0.96, 0.94, 0.5, 0.2], [True, True, True, True, False], lesion=2),
            curve([0.8, 0.8, 0.8, 0.8, 0.8], [True] * 5, lesion=3, full=0.8),
        ]
    )
    got = summarise_curves(table).set_index("lesion")
    assert got["first_seen_mm"].tolist() == [1.0, 0.0, 0.0]
    assert got["seen_from_mm"].to_numpy() == pytest.approx([3.0, np.nan, 0.0], nan_ok=True)
    assert got["keeps_mm"].to_numpy() == pytest.approx([3.0, np.nan, 0.0], nan_ok=True)


def test_averages_are_those_of_lesions_and_the_interval_that_of_subjects() -> None:
    """Lesions of a subject all alike: the interval is that of the subjects' means, with n subjects, not n lesions."""
    rng, tables = np.random.default_rng(1), []
    level = rng.normal(0.5, 0.1, 40)
    for n, value in enumerate(level):
        tables += [curve([value, value / 2], [True, False], subject=f"s{n}", lesion=k) for k in range(5)]
    got = average_curves(pd.concat(tables), resamples=4000)
    assert got["mean"].to_numpy() == pytest.approx([level.mean(), level.mean() / 2])
    assert got["sd"].iloc[0] == pytest.approx(np.repeat(level, 5).std(ddof=1))
    assert got["lesions"].tolist() == [200, 200]
    assert got["seen"].tolist() == [200, 0]
    width = 2 * 1.96 * level.std(ddof=0) / np.sqrt(40)
    assert got["high"].iloc[0] - got["low"].iloc[0] == pytest.approx(width, rel=0.1)


def test_the_wide_table_is_laid_out_as_published() -> None:
    two = curve([0.3, 0.4], [True, True], subject="b", lesion=1)
    table = wide_curves(pd.concat([curve([0.1, 0.2], [False, True], lesion=7), two]))
    assert list(table) == ["distance_mm", "average_score", "std_dev", "n_predictions", "score_0", "score_1"]
    assert table["score_0"].tolist() == [0.1, 0.2]
    assert table["score_1"].tolist() == [0.3, 0.4]
    assert table["average_score"].tolist() == pytest.approx([0.2, 0.3])
    assert table["std_dev"].tolist() == pytest.approx([0.1, 0.1])
    assert table["n_predictions"].tolist() == [1, 2]


def test_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a perilesional curve to average"):
        average_curves(curve([], []))


@pytest.fixture(scope="module")
def demo():
    subject = load_subject("demo")
    lesions = find_lesions(subject.target.float(), subject.target, threshold=0.5, affine=subject.affine)
    return subject, load_network("unet"), sorted(lesions, key=len)[:3]


def test_a_table_goes_on_where_it_was_and_keeps_what_it_has(demo, tmp_path, monkeypatch) -> None:
    subject, network, lesions = demo
    computed = []
    short = context.perilesional_curve

    def counted(network, image, lesion, **settings):
        computed.append(lesion.number)
        return short(network, image, lesion, distances=(0, 5), **settings)

    monkeypatch.setattr(context, "perilesional_curve", counted)
    path = tmp_path / "perilesional.csv"
    ContextTable(path).add(subject, network, lesions[:2], fill="zero", by="steps")
    before = path.read_bytes()
    table = ContextTable(path)
    table.add(subject, network, lesions, fill="zero", by="steps")
    assert computed == [lesion.number for lesion in lesions]
    assert path.read_bytes().startswith(before)
    whole = ContextTable(tmp_path / "once.csv")
    whole.add(subject, network, lesions, fill="zero", by="steps")
    assert path.read_bytes() == (tmp_path / "once.csv").read_bytes()
    assert len(table.curves) == 6
    with pytest.raises(ValueError, match=r"holds lesion \d+ of demo with by steps; take another --out"):
        table.add(subject, network, lesions[:1], fill="zero", by="mm")


def test_another_table_of_that_name_is_left_alone(tmp_path) -> None:
    (tmp_path / "perilesional.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"must have the columns subject, lesion, .* move it away"):
        ContextTable(tmp_path / "perilesional.csv")
