"""Curves in numbers: thresholds by hand, intervals against their closed form, a table that grows and resumes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ies_helpers import load_network, load_subject, perilesional_curve
from ies_helpers.measures import context
from ies_helpers.measures.context import ContextTable, average_curves, median_distances, summarise_curves, wide_curves
from ies_helpers.segmentation.lesions import find_lesions, lesion_of
from ies_helpers.segmentation.network import as_network
from ies_helpers.teaching import Neighbourhood
from tests.patients import UNEVEN, ball, subject_in_memory
from tests.patients import lesion_of as lesion_in


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


def test_within_a_drawn_subject_lesions_are_drawn_again(rng: np.random.Generator) -> None:
    """Two subjects of the same level: what varies are their lesions."""
    scores = rng.random(60)
    tables = [curve([s], [True], subject=f"s{n % 2}", lesion=n) for n, s in enumerate(scores)]
    got = average_curves(pd.concat(tables), resamples=2000)
    own = np.mean([scores[n::2].var(ddof=0) for n in (0, 1)])
    between = np.var([scores[n::2].mean() for n in (0, 1)])
    width = 2 * 1.96 * np.sqrt(between / 2 + own / 60)
    assert got["high"].iloc[0] - got["low"].iloc[0] == pytest.approx(width, rel=0.15)


def spaced(table: pd.DataFrame, spacing: float) -> pd.DataFrame:
    """The same scores, seen after as many voxels of another size."""
    return table.assign(distance_mm=table["distance_mm"] * spacing)


def test_subjects_of_different_spacing_keep_each_value_up_to_the_next_and_none_beyond_the_last() -> None:
    """By hand: distances 0, 1, 2 and 0, 0.96, 1.92; at 2 mm one lesion of two has a value."""
    two = [curve([0.1, 0.2, 0.6], [False, False, True]), curve([0.3, 0.5, 0.7], [False, True, True], subject="b")]
    got = average_curves(pd.concat([two[0], spaced(two[1], 0.96)]), resamples=200)
    assert got["distance_mm"].tolist() == [0, 0.96, 1, 1.92, 2]
    assert got["mean"].to_numpy() == pytest.approx([0.2, 0.3, 0.35, 0.45, 0.6])
    assert got["lesions"].tolist() == got["subjects"].tolist() == [2, 2, 2, 2, 1]
    assert got["seen"].tolist() == [0, 1, 1, 1, 1]
    assert got["low"].to_numpy() == pytest.approx([0.1, 0.1, 0.2, 0.2, np.nan], nan_ok=True)
    assert got["high"].to_numpy() == pytest.approx([0.3, 0.5, 0.5, 0.7, np.nan], nan_ok=True)
    wide = wide_curves(pd.concat([two[0], spaced(two[1], 0.96)]))
    assert wide["score_1"].to_numpy() == pytest.approx([0.3, 0.5, 0.5, 0.7, np.nan], nan_ok=True)
    assert wide["n_predictions"].tolist() == [0, 1, 1, 1, 1]


def test_a_turned_scan_has_the_distances_of_a_straight_one() -> None:
    """Its header is of float32, so its voxels measure 1.000000006 mm."""
    turned = spaced(curve([0.3, 0.5], [False, True], subject="b"), 1.000000005992878)
    got = average_curves(pd.concat([curve([0.1, 0.2], [False, True]), turned]), resamples=100)
    assert got["distance_mm"].tolist() == [0, 1]
    assert got["mean"].to_numpy() == pytest.approx([0.2, 0.35])
    assert got[["lesions", "seen"]].to_numpy().tolist() == [[2, 0], [2, 2]]


def test_one_subject_has_no_interval_and_that_is_said() -> None:
    one = pd.concat([curve([0.1, 1.0], [False, True], lesion=n) for n in range(3)])
    for got in (average_curves(one), median_distances(summarise_curves(one))):
        assert got[["low", "high"]].isna().to_numpy().all()
        assert set(got["note"]) == {"one subject: no interval over subjects"}
    two = average_curves(pd.concat([one, one.assign(subject="b")]))
    assert set(two["note"]) == {"only 2 subjects: their interval is likely too narrow"}
    assert two["low"].tolist() == pytest.approx([0.1, 1.0])


def test_the_interval_of_a_median_is_that_of_subjects() -> None:
    """41 subjects, first seen at 0, 1 ... 40 mm, three lesions each alike: the order statistics of 41, not of 123."""
    scores = np.ones(42)
    tables = [
        curve(scores, np.arange(42) >= n, subject=f"s{n}", lesion=k, full=1.0) for n in range(41) for k in range(3)
    ]
    got = median_distances(summarise_curves(pd.concat(tables)), resamples=2000).set_index("measure")
    row = got.loc["first_seen_mm"]
    assert row[["lesions", "reached", "subjects", "median"]].tolist() == [123, 123, 41, 20]
    # ranks 14 and 28 of 41 hold the median with 97 % (binomial), those of 123 independent lesions would be 16 to 24 mm
    assert 12 <= row["low"] <= 15
    assert 25 <= row["high"] <= 28
    assert got.loc["keeps_mm", ["median", "low", "high", "note"]].tolist() == [0, 0, 0, ""]


def test_a_lesion_that_is_never_seen_counts_as_seen_beyond_all_distances() -> None:
    """By hand: at 1, 3 and never, the median is 3; at 1, never and never there is none."""
    table = [curve([0.1] * 4, np.arange(4) >= at, subject=s) for s, at in (("a", 1), ("b", 3), ("c", 9))]
    got = median_distances(summarise_curves(pd.concat(table))).set_index("measure")
    assert got.loc["first_seen_mm", ["median", "reached", "low"]].tolist() == [3, 2, 1]
    assert np.isnan(got.loc["first_seen_mm", "high"])
    assert got.loc["first_seen_mm", "note"].endswith("; beyond all distances shown: high")
    assert np.isnan(got.loc["keeps_mm", "median"])
    assert got.loc["keeps_mm", "note"].endswith("; beyond all distances shown: median, low, high")


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


def count_curves(monkeypatch) -> list[int]:
    """Grows by the number of each lesion whose curve is asked for; a curve takes no work, but is the lesion's own."""
    asked = []

    def curve_of(_network, image, lesion, **_settings):
        asked.append(lesion.number)
        score = [0.0, float(image[0][tuple(lesion.voxels.T)].mean())]
        return pd.DataFrame({"distance_mm": [0.0, 5.0], "score": score, "seen": [False, True], "full_score": score[1]})

    monkeypatch.setattr(context, "perilesional_curve", curve_of)
    monkeypatch.setattr(context, "STEPS", (0, 5))
    return asked


def test_a_table_goes_on_where_it_was_and_keeps_what_it_has(demo, tmp_path, monkeypatch) -> None:
    subject, network, lesions = demo
    asked, path = count_curves(monkeypatch), tmp_path / "perilesional.csv"
    ContextTable(path).add(subject, network, lesions[:2], fill="zero", by="steps")
    before = path.read_bytes()
    table = ContextTable(path)
    table.add(subject, network, lesions, fill="zero", by="steps")
    assert asked == [lesion.number for lesion in lesions]
    assert path.read_bytes().startswith(before)
    whole = ContextTable(tmp_path / "once.csv")
    whole.add(subject, network, lesions, fill="zero", by="steps")
    assert path.read_bytes() == (tmp_path / "once.csv").read_bytes()
    assert len(table.curves) == 6
    with pytest.raises(ValueError, match=r"lesion \d+ of demo with by steps"):
        table.add(subject, network, lesions[:1], fill="zero", by="mm")


def test_what_a_table_holds_is_the_curve_of_the_lesion(tmp_path) -> None:
    subject, network = subject_in_memory(affine=UNEVEN), as_network(Neighbourhood())
    lesion = lesion_in(ball(subject.shape, (10, 10, 10), 3))
    table = ContextTable(tmp_path / "perilesional.csv")
    table.add(subject, network, [lesion], fill="mean", by="mm")
    wanted = perilesional_curve(network, subject.image, lesion, by="mm", fill="mean", affine=subject.affine)
    pd.testing.assert_frame_equal(table.curves[wanted.columns.tolist()], wanted)
    assert wanted["score"].nunique() == 5


def test_a_curve_of_another_image_place_or_group_is_not_kept(demo, tmp_path, monkeypatch) -> None:
    """Each was kept as finished: a corrected header, a rescanned subject, a lesion of the same size elsewhere."""
    subject, network, (lesion, *_) = demo
    count_curves(monkeypatch)
    table = ContextTable(tmp_path / "perilesional.csv")
    table.add(subject, network, [lesion], fill="zero", by="steps")
    before = table.path.read_bytes()
    affine = subject.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    score = np.zeros(subject.shape, dtype=np.float32)
    others = {
        "affine": (replace(subject, affine=affine), lesion),
        "image": (replace(subject, image=subject.image + 1), lesion),
        "place": (subject, lesion_of(lesion.number, lesion.group, lesion.voxels + 1, score, subject.affine)),
    }
    told = rf"lesion {lesion.number} of demo with another image, affine or place; take another --out to make it anew"
    for another, one in others.values():
        with pytest.raises(ValueError, match=told):
            ContextTable(table.path).add(another, network, [one], fill="zero", by="steps")
    with pytest.raises(ValueError, match=f"with group {lesion.group}"):
        table.add(subject, network, [replace(lesion, group="unknown")], fill="zero", by="steps")
    assert table.path.read_bytes() == before
    ContextTable(table.path).add(subject, network, [lesion], fill="zero", by="steps")


def test_curves_made_with_other_settings_do_not_come_into_one_table(demo, tmp_path, monkeypatch) -> None:
    """They would be averaged: another subject's by mm, above another threshold, of other weights."""
    subject, network, (lesion, *_) = demo
    count_curves(monkeypatch)
    table = ContextTable(tmp_path / "perilesional.csv")
    table.add(subject, network, [lesion], fill="zero", by="steps")
    other, name = replace(subject, name="b"), f"lesion {lesion.number} of demo"
    with pytest.raises(ValueError, match=f"{name} with by steps"):
        table.add(other, network, [lesion], fill="zero", by="mm")
    with pytest.raises(ValueError, match=rf"{name} with threshold 0\.3"):
        table.add(other, replace(network, threshold=0.7), [lesion], fill="zero", by="steps")
    with pytest.raises(ValueError, match=f"{name} with digest {network.digest()}"):
        table.add(other, replace(load_network("nnunet"), name="unet", threshold=0.3), [lesion], fill="zero", by="steps")
    assert len(ContextTable(table.path).curves) == 2
    table.add(other, network, [lesion], fill="blurred", by="mm")  # another fill is another average
    table.add(other, network, [lesion], fill="zero", by="steps")
    assert table.curves["subject"].tolist() == ["demo", "demo", "b", "b", "b", "b"]


@pytest.mark.parametrize(("who", "what"), [("demo", "31"), ("NA", "unet"), ("007", "1e5")])
def test_a_curve_is_found_again_whatever_subject_and_network_are_called(who, what, demo, tmp_path, monkeypatch) -> None:
    subject, network, lesions = demo
    subject, network = replace(subject, name=who), replace(network, name=what)
    asked = count_curves(monkeypatch)
    for _ in range(2):
        table = ContextTable(tmp_path / "perilesional.csv")
        table.add(subject, network, lesions[:1], fill="zero", by="steps")
    assert asked == [lesions[0].number]
    again = ContextTable(tmp_path / "perilesional.csv").curves
    assert again[["subject", "network"]].drop_duplicates().to_numpy().tolist() == [[who, what]]
    assert [again[name].dtype.kind for name in ("distance_mm", "score", "seen", "lesion")] == ["f", "f", "b", "i"]


def test_another_table_of_that_name_is_left_alone(tmp_path) -> None:
    (tmp_path / "perilesional.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"must have the columns subject, lesion, .* move it away"):
        ContextTable(tmp_path / "perilesional.csv")


def test_a_table_gives_a_network_the_channels_that_it_takes(demo, tmp_path, monkeypatch) -> None:
    """As every command does: a subject with one more has the curves, and the hash, of the channels taken."""
    subject, network, (lesion, *_) = demo
    count_curves(monkeypatch)
    turned = replace(subject, image=subject.image.flip(0), channels=subject.channels[::-1])
    for name, given in (("turned", turned), ("whole", subject)):
        wanted = replace(network, channels=("t1",), name=name)
        ContextTable(tmp_path / f"{name}.csv").add(given, wanted, [lesion], fill="zero", by="steps")
    tables = [pd.read_csv(tmp_path / f"{name}.csv").drop(columns="network") for name in ("turned", "whole")]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["full_score"].iloc[0] == pytest.approx(float(subject.image[1][tuple(lesion.voxels.T)].mean()))


def steep(monkeypatch) -> list[int]:
    """As `count_curves`, of all 35 distances."""
    asked = []

    def curve_of(_network, _image, lesion, **_settings):
        asked.append(lesion.number)
        at = np.arange(35.0)
        table = pd.DataFrame({"distance_mm": at, "score": np.minimum(1.0, at / 30 + lesion.number / 1e6)})
        return table.assign(seen=at > 4, full_score=1.0)

    monkeypatch.setattr(context, "perilesional_curve", curve_of)
    return asked


@pytest.mark.parametrize("where", ["after ten rows", "within a row", "at the first row"])
def test_a_table_that_was_cut_says_so_and_is_whole_after_the_next_run(where, demo, tmp_path, monkeypatch) -> None:
    """Ten of 35 rows counted as a finished curve, and it kept its score at no distance."""
    subject, network, lesions = demo
    asked, path = steep(monkeypatch), tmp_path / "perilesional.csv"
    ContextTable(path).add(subject, network, lesions[:2], fill="zero", by="steps")
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    kept = {"after ten rows": lines[:46], "within a row": [*lines[:46], lines[46][:40]], "at the first row": lines[:1]}
    path.write_text("".join(kept[where]))
    if where == "at the first row":
        table = ContextTable(path)
    else:
        with pytest.warns(UserWarning, match=rf"holds 10 of 35 distances of lesion {lesions[1].number} of demo"):
            table = ContextTable(path)
    assert len(table.curves) == (0 if where == "at the first row" else 35)
    table.add(subject, network, lesions[:2], fill="zero", by="steps")
    assert path.read_text() == whole
    again = [lesion.number for lesion in lesions[:2]] if where == "at the first row" else [lesions[1].number]
    assert asked == [lesion.number for lesion in lesions[:2]] + again
    assert summarise_curves(table.curves)["keeps_mm"].tolist() == [29.0, 29.0]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_that_a_spreadsheet_saved_is_read(mark: str, demo, tmp_path, monkeypatch) -> None:
    """Semicolons, decimal commas, capital truth, other line ends and a mark."""
    subject, network, lesions = demo
    asked, path = steep(monkeypatch), tmp_path / "perilesional.csv"
    ContextTable(path).add(subject, network, lesions[:1], fill="zero", by="steps")
    whole = ContextTable(path).curves
    text = path.read_text().replace(",", ";").replace(".", ",").replace("True", "TRUE").replace("False", "FALSE")
    path.write_bytes((mark + text.replace("\n", "\r\n")).encode())
    table = ContextTable(path)
    pd.testing.assert_frame_equal(table.curves, whole)
    table.add(subject, network, lesions[:1], fill="zero", by="steps")
    assert asked == [lesions[0].number]
