"""One page a lesion: facts against plain code, each sentence at its limits, a page that loads and runs nothing."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers import Lesion, find_lesions, load_network, load_subject, perilesional_curve, predict, report
from ies_helpers.__main__ import main
from ies_helpers.figures.report import (
    COLUMNS,
    FACTS,
    FEWEST_ALIKE,
    FIRM_DOSE,
    FIRM_STRUCTURAL,
    MAIN_SHARE,
    PLACES,
    SENTENCES,
    SURE_ZONE,
    Alike,
    LesionFacts,
    Pictures,
    Report,
    Tile,
    most_alike,
    page,
    with_alike,
)
from ies_helpers.measures.regions import OUT, ZONES, Zone
from ies_helpers.saliency.context import DOSE_EXACT, Flip
from ies_helpers.saliency.methods import GRADIENT_UNIT, Recipe
from ies_helpers.segmentation.lesions import Lesions
from ies_helpers.subjects.editing import lesion_shape
from ies_helpers.subjects.folder import read_maps
from tests.patients import files_below, strays, write_network, write_patient

EXACT = 1e-9

WHERE, RESTS, FIRM = SENTENCES

FIRMLY = LesionFacts(
    subject="p1",
    lesion=6,
    group="TP",
    voxels=53,
    volume_mm3=53.0,
    probability=0.8,
    highest=0.95,
    threshold=0.3,
    zone=Zone("periventricular", 25 / 27, "juxtacortical in 2 of 27"),
    unit=GRADIENT_UNIT,
    shares={"flair": 0.7, "t1": 0.3},
    peaks={"flair": (-0.2, 0.5), "t1": (-0.3, 0.1)},
    inside=0.4,
    contrast=1.25,
    needs_mm=4.0,
    found=True,
    dose=-0.75,
    structural=0.2,
    members="5 members of the network",
    alike={"TP": Alike(2, 0.4, "size and probability"), "FP": Alike(9, 1.1, "size and probability")},
)
"""A lesion of which all three sentences are sure."""

PIXEL = Pictures((Tile("FLAIR through <lesion> 6", "FLAIR, axial", b"\xff\xd8"),), 1, 0.5)


# Sentences: the sure form, the unsure one, and the limit between them


def test_all_three_sentences_of_a_firm_lesion_say_its_numbers() -> None:
    assert WHERE(FIRMLY) == (
        "It seems to lie at the lateral ventricles (periventricular): 25 of 27 placements of a template brain say so."
    )
    assert RESTS(FIRMLY) == (
        "The network's score for it reacts most to changes in FLAIR (FLAIR 70 %, T1 30 % of the map's strength); "
        "blurring all that lies more than 4 mm from it leaves the score above 95 % of its value."
    )
    assert FIRM(FIRMLY) == (
        "Right or wrong, the network would not easily answer otherwise: it would be missed if FLAIR were 0.8 units "
        "darker there (now it is 1.2 brighter than the white matter around it), and 5 members of the network agree on "
        "it (doubt 0.20 of 1)."
    )


def test_every_zone_has_its_words() -> None:
    assert set(PLACES) == set(ZONES)
    for name in ZONES:
        assert PLACES[name] in WHERE(replace(FIRMLY, zone=Zone(name, 1.0)))


@pytest.mark.parametrize(("count", "sure"), [(20, False), (21, True)])
def test_a_zone_is_sure_from_three_quarters_of_the_placements_on(count: int, sure: bool) -> None:
    assert (count / 27 >= SURE_ZONE) == sure
    said = WHERE(replace(FIRMLY, zone=Zone("juxtacortical", count / 27, "deep white matter in 6 of 27")))
    if sure:
        assert said.startswith("It seems to lie at the cortex (juxtacortical): 21 of 27")
    else:
        assert said == (
            "Where it lies is not sure: moved by 2 mm, a template brain says juxtacortical in 20 of 27, deep white "
            "matter in 6 of 27."
        )


def test_a_lesion_outside_the_template_and_a_brain_that_is_not_in_its_space_have_no_zone() -> None:
    out = WHERE(replace(FIRMLY, zone=Zone(OUT, 1.0)))
    assert out == "Where it lies is not sure: most of it lies outside the brain of the template."
    nowhere = WHERE(replace(FIRMLY, zone=Zone("", math.nan, "A template needs a brain in MNI space.")))
    assert nowhere == "Where it lies is not sure: A template needs a brain in MNI space."


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"shares": {"flair": 0.66, "t1": 0.34}}, "no channel stands out (FLAIR 66 %, T1 34 %)"),
        ({"shares": {"all": 1.0}}, "this kind of map does not tell channels apart"),
        ({"shares": {"flair": math.nan, "t1": math.nan}}, "its map has no values"),
        ({"probability": 0.3}, "its score is too low to tell"),
        ({"needs_mm": math.nan, "reasons": {"needs_mm": "no rim keeps it"}}, "no rim keeps it"),
    ],
)
def test_what_an_answer_rests_on_is_not_sure_without_one_channel_or_one_rim(change: dict, doubt: str) -> None:
    said = RESTS(replace(FIRMLY, **change))
    assert said.startswith("What the answer rests on is not sure: ")
    assert doubt in said


def test_at_the_limit_a_channel_is_the_main_one_and_a_score_counts() -> None:
    at = replace(FIRMLY, shares={"flair": 1 - MAIN_SHARE, "t1": MAIN_SHARE}, probability=0.3 + 1e-6, needs_mm=0.0)
    assert "most to changes in T1 (FLAIR 33 %, T1 67 %" in RESTS(at)
    assert "; blurring all but the lesion itself leaves" in RESTS(at)
    assert "(FLAIR is its only channel)" in RESTS(replace(FIRMLY, shares={"flair": 1.0}))


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize(("dose", "firm"), [(FIRM_DOSE - 0.01, False), (FIRM_DOSE, True), (math.inf, True)])
def test_an_answer_is_firm_from_a_dose_on(found: bool, dose: float, firm: bool) -> None:
    way, end = ("darker", "missed") if found else ("brighter", "found")
    said = FIRM(replace(FIRMLY, found=found, dose=-dose if found else dose))
    assert said.startswith("Right or wrong" if firm else "Not sure that the network would stay with its answer: ")
    if math.isfinite(dose):
        assert f"would be {end} if FLAIR were {f'{dose:.1f}' if firm else f'{dose:.2f}'} units {way} there" in said
    else:
        assert f"even 4 units {way} in FLAIR it would not be {end}" in said


@pytest.mark.parametrize(("doubt", "firm"), [(FIRM_STRUCTURAL, True), (FIRM_STRUCTURAL + 0.01, False)])
@pytest.mark.parametrize("found", [True, False])
def test_an_answer_is_not_firm_where_members_do_not_agree(found: bool, doubt: float, firm: bool) -> None:
    measured = {"structural": doubt, "entropy": 0.9} if found else {"structural": math.nan, "entropy": doubt}
    facts = replace(FIRMLY, found=found, dose=-1.0 if found else 1.0, **measured)
    assert facts.doubt == pytest.approx(doubt, abs=EXACT)
    assert ("answer: 5 members of the network do not agree" in FIRM(facts)) != firm


def test_an_answer_that_was_compared_with_none_is_not_firm_nor_one_without_a_dose() -> None:
    alone = replace(FIRMLY, structural=math.nan, members="")
    assert (
        FIRM(alone) == "Not sure that the network would stay with its answer: the network was compared with no other."
    )
    assert alone.doubt == pytest.approx(-0.8 * math.log2(0.8) - 0.2 * math.log2(0.2), abs=EXACT)
    blind = replace(FIRMLY, dose=math.nan, reasons={"dose": "it is counted in FLAIR, and there is none"})
    assert (
        FIRM(blind)
        == "Not sure that the network would stay with its answer: it is counted in FLAIR, and there is none."
    )
    assert math.isnan(replace(alone, probability=math.nan).doubt)


def test_a_lesion_darker_than_its_surround_is_said_so_without_a_sign() -> None:
    assert "(now it is 0.4 darker than the white matter around it)" in FIRM(replace(FIRMLY, contrast=-0.4))
    assert "now it is" not in FIRM(replace(FIRMLY, contrast=math.nan))


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda s: s.question)
def test_each_sentence_has_a_rule_and_two_forms(sentence) -> None:
    nothing = replace(
        FIRMLY,
        zone=Zone("", math.nan, "no template"),
        shares={"flair": math.nan},
        needs_mm=math.nan,
        dose=math.nan,
        structural=math.nan,
        contrast=math.nan,
        reasons={"dose": "unknown"},
    )
    sure, unsure = sentence(FIRMLY), sentence(nothing)
    assert sentence.rule.endswith(".")
    for said in (sure, unsure):
        assert said.endswith(".")
        assert "nan" not in said
    assert not sure.startswith(sentence.unsure)
    assert unsure.startswith(f"{sentence.unsure}: ")


# The lesion most like another


def test_the_most_alike_is_the_nearest_in_standard_deviations() -> None:
    """Column b has ten times the spread of a, and c is the same everywhere, d lacks a value: both count for nothing."""
    table = pd.DataFrame(
        {"a": [0, 1, 2, 3.0], "b": [0, 20, 10, 30.0], "c": 4.0, "d": [1, 2, np.nan, 9]}, index=[3, 5, 7, 9]
    )
    found = most_alike(table, {3: "TP", 5: "FP", 7: "FP", 9: "TP"}, 3, "hand")
    spread = {"a": np.std([0, 1, 2, 3]), "b": np.std([0, 20, 10, 30])}
    apart = {n: np.sqrt(np.mean([(table.loc[n, c] / spread[c]) ** 2 for c in "ab"])) for n in (5, 7, 9)}
    assert found["TP"] == Alike(9, pytest.approx(apart[9], abs=EXACT), "hand")
    assert apart[5] == pytest.approx(apart[7])
    assert found["FP"].lesion == 5
    assert most_alike(table[["c"]], {3: "TP", 5: "FP", 7: "FP", 9: "TP"}, 3, "hand") == {}
    assert set(most_alike(table, dict.fromkeys((3, 5, 7, 9), "unknown"), 3, "hand")) == set()


def lesion(number: int, group: str, voxels: int, probability: float) -> Lesion:
    return Lesion(number, group, np.zeros((voxels, 3), dtype=int), float(voxels), np.zeros(3), probability, probability)


def test_few_maps_are_compared_by_size_and_probability_of_all_lesions_many_by_texture() -> None:
    some = [lesion(n, "TP" if n % 2 else "FP", 10 * n, 0.9 - 0.05 * n) for n in range(1, 10)]
    lesions = Lesions([*some, lesion(10, "FN", 20, 0.1)])
    facts = [replace(FIRMLY, lesion=n, features={"x": float(n * n)}) for n in range(1, FEWEST_ALIKE)]
    (first, *_) = with_alike(facts, lesions)
    assert first.alike["TP"].by == "size and probability"
    assert (first.alike["TP"].lesion, first.alike["FP"].lesion) == (3, 2)
    facts = [replace(FIRMLY, lesion=n, features={"x": float((n - 5) ** 2)}) for n in range(1, 10)]
    found = with_alike(facts, lesions)[0].alike
    assert {group: (a.lesion, a.apart, a.by) for group, a in found.items()} == {
        "TP": (9, 0.0, "their maps' texture"),
        "FP": (2, pytest.approx(7 / np.std([(n - 5) ** 2 for n in range(1, 10)])), "their maps' texture"),
    }


# Facts against plain code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A page of one true, one false and one missed lesion, of a patient that is not in MNI space."""
    home = tmp_path_factory.mktemp("report")
    subject = load_subject(write_patient(home / "in", side=SIDE, spots=SPOTS))
    network = replace(load_network(write_network(home / "narrow.safetensors")), window=SIDE)
    return home, report(subject, network, out=home / "out", recipe=Recipe("gradient", "mean"))


SIDE = 48
SPOTS = {"TP": (15, 20, 25), "FP": (32, 20, 22), "FN": (24, 34, 20)}


def by_group(made: Report) -> dict[str, LesionFacts]:
    return {f.group: f for f in made.facts}


def test_the_facts_of_a_planted_lesion_are_what_plain_code_says(made: tuple[Path, Report]) -> None:
    home, done = made
    subject, network = load_subject(home / "in"), replace(load_network(home / "narrow.safetensors"), window=SIDE)
    lesions = find_lesions(network, subject)
    maps = {saved.record["lesion"]: saved for saved in read_maps(home / "out")}
    assert set(by_group(done)) == {"TP", "FP", "FN"}
    for facts in done.facts:
        own, saliency = lesions[facts.lesion], maps[facts.lesion].load()[0].numpy().astype(np.float64)
        strength, at = np.abs(saliency), tuple(own.voxels.T)
        assert (facts.group, facts.voxels, facts.found) == (own.group, len(own), own.group != "FN")
        assert facts.shares == {
            name: pytest.approx(strength[c].sum() / strength.sum(), rel=1e-6) for c, name in enumerate(("flair", "t1"))
        }
        assert facts.peaks["t1"] == pytest.approx((saliency[1].min(), saliency[1].max()), rel=1e-6)
        assert facts.inside == pytest.approx(sum(s[at].sum() for s in strength) / strength.sum(), rel=1e-6)
        assert facts.probability == pytest.approx(float(predict(network, subject.image)[at].mean()), abs=1e-5)
        curve = perilesional_curve(
            network, subject.image, own, distances=range(35), by="mm", fill="blurred", affine=subject.affine
        )
        needs = math.nan
        for row in reversed(list(curve.itertuples())):
            if row.score < 0.95 * row.full_score:
                break
            needs = row.distance_mm
        assert facts.needs_mm == pytest.approx(needs, nan_ok=True)


def test_the_dose_is_where_a_whole_prediction_changes(made: tuple[Path, Report]) -> None:
    home, done = made
    subject, network = load_subject(home / "in"), replace(load_network(home / "narrow.safetensors"), window=SIDE)
    facts = by_group(done)["FN"]
    own = find_lesions(network, subject)[facts.lesion]
    shape = lesion_shape(subject, own)

    def finds(dose: float) -> bool:
        above = predict(network, subject.image + dose * shape)[tuple(own.voxels.T)] > network.threshold
        return int(above.sum()) >= 6

    assert 0 < facts.dose < 4
    assert not finds(0)
    assert finds(facts.dose)
    assert not finds(facts.dose - DOSE_EXACT)


def test_a_brain_that_is_not_in_mni_space_has_no_zones_and_the_page_says_why(made: tuple[Path, Report]) -> None:
    _, done = made
    for facts in done.facts:
        assert facts.zone.name == ""
        assert WHERE(facts).endswith("the brain of p1 does not lie where that of the MNI152 template does.")


def test_a_missed_lesion_is_said_to_be_missed(made: tuple[Path, Report]) -> None:
    facts = by_group(made[1])["FN"]
    assert not facts.found
    assert facts.dose > 0
    assert "score is too low" in RESTS(facts)


def test_lesions_stand_by_doubt_and_the_table_has_what_the_page_says(made: tuple[Path, Report]) -> None:
    _, done = made
    doubts = [facts.doubt for facts in done.facts]
    assert doubts == sorted(doubts, reverse=True)
    table = done.table()
    assert table["lesion"].tolist() == [facts.lesion for facts in done.facts]
    assert table["doubt"].tolist() == doubts
    assert table["sentences"].iloc[0] == " ".join(sentence(done.facts[0]) for sentence in SENTENCES)
    assert table.set_index("group")["like_TP"]["FP"] == by_group(done)["TP"].lesion


def test_a_second_page_makes_nothing_again(
    made: tuple[Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, done = made
    out = shutil.copytree(home / "out", tmp_path / "out", copy_function=shutil.copy2)
    kept = [name for name in files_below(out) if "L00" in name]
    before = {name: (out / name).stat().st_mtime_ns for name in kept}
    assert len(before) == 3 * 2 * 2, "of three lesions two channels, each with its sidecar"
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a gradient was taken"))
    subject, network = load_subject(home / "in"), replace(load_network(home / "narrow.safetensors"), window=SIDE)
    told = list[str]()
    again = report(
        subject,
        network,
        by_group(done)["TP"].lesion,
        out,
        recipe=Recipe("gradient", "mean"),
        tell=told.append,
    )
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    (facts,) = again.facts
    assert facts.dose == by_group(done)["TP"].dose
    assert len(told) == 1
    assert told[0].startswith("1 lesion of p1 for the page, 0 maps to make, ")
    assert re.search(r": about \d+ (s|min)\.$", told[0])
    assert again.html != done.html
    assert strays(out) == []


# The page


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps what they say."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.text = list[str](), list[tuple[str, dict[str, str | None]]](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def check(html: str) -> Reader:
    """What every page must be, whoever's: whole, mute towards the network, without scripts, with texts for pictures."""
    reader = read(html)
    assert html.startswith("<!DOCTYPE html>")
    assert "$" not in re.sub(r"base64,[^\"]*", "", html)
    assert re.findall(r"https?:|@import|url\(", html) == []
    assert [tag for tag, _ in reader.tags if tag in {"script", "link", "iframe", "object", "form"}] == []
    assert [a for _, attrs in reader.tags for a in attrs if a.startswith("on")] == []
    assert [image for image in reader.of("img") if len(image["alt"] or "") < 10] == []
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in reader.of("img"))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert [a["href"] for a in reader.of("a") if (a["href"] or "")[1:] not in ids] == []
    named = [attrs["aria-labelledby"] for _, attrs in reader.tags if "aria-labelledby" in attrs]
    assert [name for name in named if name not in ids] == []
    assert "Not for clinical use" in " ".join(reader.text)
    return reader


def test_the_page_is_whole_and_asks_nobody_for_anything(made: tuple[Path, Report]) -> None:
    home, done = made
    assert done.path == home / "out" / "figures" / "sub-p1_report.html"
    assert done.path.read_text(encoding="utf-8") == done.html
    reader = check(done.html)
    sections = [attrs["id"] for attrs in reader.of("section")]
    assert sections == [*(f"L{f.lesion:03d}" for f in done.facts), "rules"]
    assert len(reader.of("img")) == 3 * 2 * 3 + sum(len(f.alike) for f in done.facts)
    text = " ".join(" ".join(reader.text).split())
    for facts in done.facts:
        for sentence in SENTENCES:
            assert sentence(facts) in text
    for sentence in SENTENCES:
        assert sentence.rule in text


def test_names_that_look_like_code_are_only_names() -> None:
    wild = replace(FIRMLY, subject="<script>$x</script>&", members="<b>5</b>", alike={})
    reader = check(page([wild], {6: PIXEL}, {"Patient": "<i>$y</i>"}).replace("$x", "").replace("$y", ""))
    assert reader.of("b") == []
    assert "<i>" in "".join(reader.text)
    assert reader.of("img")[0]["alt"] == "FLAIR through <lesion> 6"


def test_every_row_has_words_for_what_is_unknown() -> None:
    nothing = replace(
        FIRMLY,
        zone=Zone("", math.nan, "no template"),
        probability=math.nan,
        highest=math.nan,
        shares={"flair": math.nan},
        peaks={"flair": (0.0, 0.0)},
        inside=math.nan,
        needs_mm=math.nan,
        dose=math.nan,
        structural=math.nan,
        contrast=math.nan,
        volume_mm3=math.nan,
        alike={},
        reasons={"dose": "there is no FLAIR", "inside": "the map is zero everywhere"},
    )
    said = [show(nothing) for show in (*COLUMNS.values(), *FACTS.values())]
    assert [words for words in said if "nan" in words] == []
    html = page([nothing], {6: replace(PIXEL, top=0.0)}, {})
    assert "The map is zero everywhere that is shown" in html
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html)
    check(html)


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        page([], {}, {})


# What cannot be


@pytest.fixture
def toy(made: tuple[Path, Report], tmp_path: Path) -> Callable[..., Report]:
    home, _ = made
    subject, network = load_subject(home / "in"), replace(load_network(home / "narrow.safetensors"), window=SIDE)
    return lambda lesions, **change: report(
        replace(subject, **change), network, lesions, tmp_path / "out", recipe=Recipe("gradient", "mean")
    )


@pytest.mark.parametrize(
    ("lesions", "error", "met"),
    [
        (77, KeyError, "got 77"),
        ("1,77", KeyError, "got 77"),
        ("TN", ValueError, "of 'TN' there is none"),
        ([], ValueError, "got none"),
        ("largest", ValueError, "got 'largest'"),
        (lesion(1, "TP", 9, 0.5), ValueError, "is not: Lesion"),
    ],
)
def test_a_lesion_that_is_not_there_is_refused(toy, lesions, error, met: str) -> None:
    with pytest.raises(error, match=met):
        toy(lesions)


def test_a_scan_without_any_lesion_is_refused(toy) -> None:
    with pytest.raises(ValueError, match="there is none among Lesions"):
        toy(None, image=torch.zeros(2, SIDE, SIDE, SIDE), target=None)


def test_a_subject_without_target_has_a_page_that_says_so(toy) -> None:
    done = toy(None, target=None)
    assert {facts.group for facts in done.facts} == {"unknown"}
    assert [facts.alike for facts in done.facts] == [{}, {}]
    assert repr(done) == f"Report(p1, 2 lesions, {done.path})"
    text = " ".join(read(done.html).text)
    assert "there is no reference drawing" in text
    assert "No other lesion of this run is known to be true or false" in text


def test_the_command_writes_the_page_tells_before_and_prints_rows(made, tmp_path: Path, monkeypatch, capsys) -> None:
    home, _ = made
    curve = pd.DataFrame({"distance_mm": np.arange(35.0), "score": 0.5, "seen": True, "full_score": 0.5})
    monkeypatch.setattr("ies_helpers.measures.context.perilesional_curve", lambda *_, **__: curve)
    monkeypatch.setattr("ies_helpers.figures.report.dose_to_flip", lambda *_: Flip(True, -math.inf))
    command = ["report", home / "in", "--network", home / "narrow.safetensors", "--out", tmp_path, "--method"]
    command = [str(word) for word in [*command, "gradient", "--aggregate", "mean", "--lesions", "TP"]]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 lesion of p1 for the page, 1 map to make, ")
    assert f"Open {tmp_path / 'figures' / 'sub-p1_chosen_report.html'} in a browser." in told
    assert not (tmp_path / "figures" / "sub-p1_report.html").exists()  # of all lesions: never replaced by one of some
    assert main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (row["group"], row["zone"]) == ("TP", "")
    assert row["zone_sure"] is None
    assert row["dose"] is None
    assert main([*command[:-1], "88"]) == 2
    assert "got 88" in capsys.readouterr().err
