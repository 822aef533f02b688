"""Known truths: maps point at the planted cue and the changed mask, and each suspect has the fault it was given."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import (
    Network,
    gradcam_pp,
    gradient,
    load_network,
    load_subject,
    predict_logits,
    smoothgrad,
    smoothgrad_average,
    teaching,
)
from ies_helpers.measures.features import FEATURES
from ies_helpers.measures.groupmaps import group_map
from ies_helpers.measures.regions import structure_table
from ies_helpers.saliency.context import perilesional_curve
from ies_helpers.segmentation.network import one_class, prepare
from ies_helpers.subjects.subject import Subject
from ies_helpers.teaching import (
    CUE_GAIN,
    CUE_STEPS,
    FAULTS,
    Linear,
    Neighbourhood,
    Quadratic,
    accuse,
    dependency_table,
    draw_by_draw,
    left_out,
    maps_of,
    middle_of,
    mni_picture,
    phantom_lesions,
    planted_cue,
    reach_table,
    receptive_box,
    rescanned,
    suspects,
    trivial_group,
    write_results,
)

SINGLE = 1e-5
"""Sums in float32."""


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_planted_cue_is_caught_by_gradients_and_smoothgrad_and_missed_by_grad_cam(channels: int) -> None:
    """Grad-CAM++ at the layer of the logits can only point at the lesion itself."""
    cue = planted_cue(6, channels=channels)
    assert len(cue.image) == channels
    for saliency in (
        gradient(cue.network, cue.image, cue.lesion, aggregate="max"),
        gradient(cue.network, cue.image, cue.lesion, aggregate="mean"),
        smoothgrad(cue.network, cue.image, cue.lesion, draws=2),
    ):
        assert cue.shares(saliency) == pytest.approx({"cue": 1.0, "lesion": 0.0, "elsewhere": 0.0})
    assert cue.shares(gradcam_pp(cue.network, cue.image, cue.lesion))["lesion"] == 1.0
    assert np.isnan(cue.shares(torch.zeros_like(cue.image))["cue"])


@pytest.mark.parametrize("steps", [4, 9])
def test_a_planted_cue_is_caught_by_the_perilesional_curve_at_its_distance(steps: int) -> None:
    """The cue's slices lie `steps` - 2 to `steps` beyond the lesion's border: nothing before, everything after."""
    cue = planted_cue(steps)
    curve = perilesional_curve(cue.network, cue.image, cue.lesion, distances=range(13), by="mm")
    visible = np.clip(curve["distance_mm"] - (steps - 3), 0, 3) / 3
    full = 1 / (1 + np.exp(-3.0))
    assert curve["score"].to_numpy() == pytest.approx(0.5 + visible.to_numpy() * (full - 0.5), abs=SINGLE)
    assert curve["seen"].tolist() == (visible > 0).tolist()


def test_a_cue_too_near_or_too_far_is_refused() -> None:
    for steps in (3, 20):
        with pytest.raises(ValueError, match=f"got {steps}"):
            planted_cue(steps)


SEED = 3
SIDE = 32
CHAPTER = Path(__file__).parents[1] / "notebooks" / "src" / "13_papers_figures.py"


@pytest.fixture(scope="module")
def sound() -> Network:
    return load_network("unet")


@pytest.fixture(scope="module")
def named(sound: Network) -> dict[str, Network]:
    """Kind -> suspect, found by asking `accuse`."""
    letters = suspects(sound, SEED)
    return {kind: letters[letter] for kind in FAULTS for letter in letters if guilty(letter, kind)}


def guilty(letter: str, kind: str) -> bool:
    others = dict.fromkeys("ABCD", kind)
    return not any(line.startswith(letter) for line in accuse(others, SEED))


def logits(network: Network, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.logits(x)[0]


def test_each_suspect_has_its_fault_and_no_other(named: dict[str, Network], sound: Network) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, SIDE, SIDE, SIDE), dtype=np.float32))
    other = x.clone()
    other[:, 1] = 0.0
    wanted = logits(sound, x)
    assert sorted(named) == sorted(FAULTS)
    assert torch.equal(logits(named["sound"], x), wanted)
    assert torch.equal(logits(named["deaf"], x), logits(named["deaf"], other))
    assert not torch.allclose(wanted, logits(sound, other), atol=1e-2)
    heard = logits(named["cue"], x) - wanted
    assert torch.equal(heard[0], torch.zeros_like(heard[0]))
    assert torch.allclose(heard[1, :-CUE_STEPS], CUE_GAIN * x[0, 0, CUE_STEPS:], atol=1e-4)


def test_a_tired_network_looks_less_far(named: dict[str, Network]) -> None:
    def reach(network: Network) -> int:
        x = torch.randn(1, 2, 96, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (g,) = torch.autograd.grad(network.module(x)[0, 1, 48, 16, 16], x)
        return int(torch.nonzero(g.abs().amax(dim=(0, 1, 3, 4))).sub(48).abs().max())

    assert reach(named["tired"]) < reach(named["sound"]) - 8


def test_the_callers_network_stays_as_it_was_and_the_order_follows_the_seed(sound: Network) -> None:
    before = sound.digest()
    orders = {tuple(n.digest() for n in suspects(sound, seed).values()) for seed in range(4)}
    assert sound.digest() == before
    assert len(orders) > 1
    assert [n.digest() for n in suspects(sound, 1).values()] == [n.digest() for n in suspects(sound, 1).values()]


def test_a_wrong_answer_is_told_what_to_look_at_and_not_what_it_is() -> None:
    right = {letter: kind for letter in "ABCD" for kind in FAULTS if guilty(letter, kind)}
    assert sorted(right.values()) == sorted(FAULTS)
    assert accuse(right, SEED) == []
    one, two = (next(letter for letter in right if right[letter] == kind) for kind in ("sound", "deaf"))
    told = accuse(right | {one: "deaf", two: "sound"}, SEED)
    assert sorted(line[0] for line in told) == sorted([one, two])
    assert any("map of T1 that is zero" in line for line in told if line[0] == one)
    assert not any(f"is {right[line[0]]}" in line or FAULTS[right[line[0]]] in line for line in told)


def test_the_answer_that_the_chapter_prints_is_wrong_about_every_suspect() -> None:
    printed = re.findall(r"accuse\((\{.*?\}), seed=(\d+)\)", CHAPTER.read_text(encoding="utf-8"))
    told = [[line[0] for line in accuse(ast.literal_eval(answer), int(seed))] for answer, seed in printed]
    assert told == [list("ABCD")]


def test_answers_that_name_nobody_and_networks_without_the_parts_are_refused(sound: Network) -> None:
    with pytest.raises(ValueError, match=r"\{'A': 'sound'\}"):
        accuse({"A": "sound"})
    with pytest.raises(ValueError, match="got Linear"):
        suspects(replace(sound, module=Linear()))


def test_the_maps_of_a_known_group_lie_in_the_mask_and_those_of_the_opposite_node_are_opposite() -> None:
    known = trivial_group(40)
    assert known.correct == 1
    maps = {n: [gradient(one_class(known.network, n), x, known.voxel) for x in known.images[1:9:2]] for n in (0, 1)}
    group = {n: group_map(some, np.eye(4)).mean for n, some in maps.items()}
    inside, outside = (group[1][0][m].mean() for m in (known.mask, ~known.mask))
    assert inside < 0  # atrophy lowers values: a higher one speaks against it
    assert abs(float(inside)) > 10 * abs(float(outside))
    table = structure_table({"atrophied": group[1], "healthy": group[0]}, {"mask": known.mask})
    masses = table[table["part"] == "negative"].set_index("explained")["mass"]
    assert masses["atrophied"] > 4 * float(known.mask.double().mean())
    assert group[0].numpy() == pytest.approx(-group[1].numpy(), abs=1e-7)


def test_without_a_change_the_group_map_does_not_point_at_the_mask() -> None:
    known = trivial_group(40, atrophy=0.0)
    saliency = gradient(known.network, known.images[0], known.voxel)
    (share,) = structure_table({"x": saliency}, {"mask": known.mask}, parts=("abs",))["mass"]
    assert share == pytest.approx(float(known.mask.double().mean()), rel=0.3)


def test_the_results_folder_made_by_hand_is_an_nnunet_that_finds_what_is_bright(tmp_path: Path) -> None:
    """Its logit grows with FLAIR and not with T1; each step left out is another function."""
    network = load_network(write_results(tmp_path))
    assert (network.channels, network.passes, network.sides) == (("flair", "t1"), 4, (48, 64, 48))
    raw = 100 + 5 * torch.randn(2, 56, 80, 60, generator=torch.Generator().manual_seed(0))
    raw[:, :12, :12, :12] = 0
    raw[0, 30:33, 40:43, 30:33] = 180
    raw[1, 10:13, 40:43, 30:33] = 180
    scan = Subject("toy", raw, np.eye(4), raw=raw)
    placed, scan = prepare(network, scan)
    logits = predict_logits(placed, scan.image)[1]
    assert float(logits[31, 41, 31]) > 10 > 0 > float(logits[11, 41, 31])
    for name, other in left_out(network, (1.0, 1.0, 1.0)).items():
        wrong, image = prepare(other, Subject("toy", raw, np.eye(4), raw=raw))
        assert float((predict_logits(wrong, image.image)[1] - logits).abs().max()) > 0.1, name


def test_the_table_of_lesions_has_what_is_judged_and_counts_the_missed() -> None:
    table = phantom_lesions()
    assert table["subject"].nunique() == 14
    assert set(table["group"]) == {"TP", "FP", "FN"}
    assert table.groupby("group")["flair_mean"].count()["FN"] == 0
    found = table[table["group"] != "FN"]
    assert found[["voxels", "probability", "uncertainty", "flair_mean", "t1_mean"]].notna().all(axis=None)
    assert {f"{c}_{name}" for c in ("flair", "t1") for name in FEATURES} <= set(table)


def test_another_scanner_or_background_gives_the_same_image() -> None:
    subject = load_subject("demo")
    for other in (rescanned(subject, gain=3.0), rescanned(subject, background=-1024.0)):
        assert not torch.equal(other.raw, subject.raw)
        assert torch.allclose(other.image, subject.image, atol=SINGLE)
        assert torch.equal(other.image == 0, subject.image == 0)
    with pytest.raises(ValueError, match="toy has none"):
        rescanned(Subject("toy", subject.image, np.eye(4)))


def test_a_box_and_a_table_say_how_far_a_network_looks(sound: Network) -> None:
    image, voxels = torch.zeros(2, 12, 12, 12), np.array([[0, 5, 6], [2, 5, 6]])
    box = receptive_box(Neighbourhood(), image, voxels)
    assert (box.start.tolist(), box.stop.tolist()) == ([0, 4, 5], [4, 7, 8])
    assert reach_table(Neighbourhood(), (1.0, 2.0, 3.0)).loc["K"].tolist() == [1, 1, 1, 3, 9]
    assert receptive_box(sound, torch.zeros(2, 100, 40, 40), np.array([[99, 20, 20]])).stop.tolist() == [112, 48, 48]
    assert reach_table(nn.Sequential(nn.Conv3d(2, 2, 1), nn.InstanceNorm3d(2)))["in all"].tolist() == [np.inf] * 3


def test_smoothgrad_in_slow_motion_ends_with_smoothgrad() -> None:
    image, lesion = (
        torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)),
        np.array([[3, 4, 5], [4, 4, 5]]),
    )
    counts = [average.draws for average in draw_by_draw(Quadratic(), image, lesion, draws=3, seed=1)]
    *_, last = draw_by_draw(Quadratic(), image, lesion, draws=3, seed=1)
    assert counts == [1, 2, 3]
    assert torch.equal(last.full((8, 8, 8)), smoothgrad(Quadratic(), image, lesion, draws=3, seed=1))
    *_, alike = draw_by_draw(Linear(), image, lesion)
    assert alike.draws == smoothgrad_average(Linear(), image, lesion, draws="auto").draws == 10


def test_the_middle_of_a_scan_is_cut_out_and_stays_where_it_was() -> None:
    affine = np.array([[-2.0, 0, 0, 50], [0, 1, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    image = torch.randn(2, 9, 8, 5, generator=torch.Generator().manual_seed(0))
    whole = Subject("toy", image, affine, target=image[0] > 1, raw=image)
    middle = middle_of(whole, (4, 20, 3))
    assert middle.shape == (4, 8, 3)
    assert torch.equal(middle.image, image[:, 2:6, :, 1:4])
    assert torch.equal(middle.target, whole.target[2:6, :, 1:4])
    assert (middle.affine @ [0, 0, 0, 1]).tolist() == (affine @ [2, 0, 1, 1]).tolist()
    assert middle.raw is None
    assert whole.affine.tolist() == affine.tolist()


def test_maps_of_many_lesions_are_those_of_one_call_each() -> None:
    cue = planted_cue(6)
    lesions = [cue.lesion, cue.lesion[:3] + 2]
    found = list(maps_of(cue.network, cue.image, lesions, aggregate="mean", draws=2))
    assert [lesion.tolist() for lesion, _ in found] == [lesion.tolist() for lesion in lesions]
    for lesion, saliency in found:
        alone = smoothgrad(cue.network, cue.image, lesion, aggregate="mean", draws=2)
        assert saliency.numpy() == pytest.approx(alone.numpy(), abs=SINGLE)


def test_the_template_is_drawn_on_the_grid_of_maps_in_mni_space() -> None:
    picture = mni_picture()
    assert picture.shape == (91, 109, 91)
    assert picture[0, 0, 0] == 0
    inside = np.round(np.linalg.inv(teaching.MNI_AFFINE) @ [26, -20, 26, 1])[:3].astype(int)  # deep white matter
    assert picture[tuple(inside)] > 0.8


def test_without_a_download_the_table_is_made_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> dict[str, Path]:
        raise OSError(f"no way to {name}")

    monkeypatch.setattr(teaching, "fetch", fail)
    with pytest.warns(UserWarning, match="no way to agg2exp"):
        table, source = dependency_table()
    assert "SIMULATED" in source
    assert len(table) == 32
