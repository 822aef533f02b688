"""The yardstick itself is straight: its truths, its rules, its list of methods, its files and its page."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.yardstick import cases, measure, methods, page
from tests.yardstick.__main__ import export
from tests.yardstick.cases import QUANTITIES, Case, Effort
from tests.yardstick.methods import LIBRARIES, METHODS
from tests.yardstick.score import NAMES, PASS, Scores, passed, score

MADE = [make() for make in cases.ALL]
each_case = pytest.mark.parametrize("case", MADE, ids=lambda case: case.name)
GRADIENTS = "gradient"


def logits(case: Case, image: np.ndarray) -> np.ndarray:
    """Of class 1 in float64, as the network gives them."""
    with torch.no_grad():
        return case.network.double()(torch.from_numpy(image.astype(float))[None])[0, 1].numpy()


def entries(case: Case, count: int = 4) -> np.ndarray:
    """Some `(c, i, j, k)`, the most decisive ones and ones that decide nothing."""
    truth = np.abs(case.truth(GRADIENTS)).ravel()
    order = np.argsort(-truth, kind="stable")
    chosen = np.concatenate([order[:: max(1, np.count_nonzero(truth) // count)][:count], order[-2:]])
    return np.stack(np.unravel_index(chosen, case.image.shape), axis=1)


def moved(case: Case, entry: np.ndarray, step: float) -> np.ndarray:
    image = case.image.astype(float)
    image[tuple(entry)] += step
    return image


# Truths, against the network itself: finite differences in float64, hidden blocks, integrals and layers.


@each_case
def test_the_score_and_the_lesion_are_the_networks_own(case: Case) -> None:
    values = logits(case, case.image)
    assert case.score() == pytest.approx(values[case.lesion].mean(), abs=1e-5)
    assert np.array_equal(values > 0, case.lesion | case.other)
    assert not (case.lesion & case.other).any()


@each_case
def test_the_gradient_is_that_of_finite_differences(case: Case) -> None:
    for entry in entries(case):
        up, down = (logits(case, moved(case, entry, step))[case.lesion] for step in (1e-4, -1e-4))
        slopes = (up - down) / 2e-4
        assert slopes.mean() == pytest.approx(case.truth("gradient")[tuple(entry)], abs=1e-6)
        largest = slopes[np.abs(slopes).argmax()]
        assert largest == pytest.approx(case.truth("largest gradient")[tuple(entry)], abs=1e-6)


@each_case
def test_nothing_but_where_it_looks_decides_a_lesion(case: Case) -> None:
    image = case.image.copy()
    image[:, ~case.looks] = 7.0
    assert np.array_equal(logits(case, image)[case.lesion], logits(case, case.image)[case.lesion])
    assert (np.abs(case.truth("gradient")).sum(axis=0) > 0)[case.looks].all()


@each_case
def test_an_integrated_gradient_is_the_sum_of_gradients_on_the_way(case: Case) -> None:
    total = np.zeros(case.image.shape)
    nodes, weights = np.polynomial.legendre.leggauss(2)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        x = torch.from_numpy(case.image.astype(float) * node)[None].requires_grad_()
        case.network.double()(x)[0, 1][torch.from_numpy(case.lesion)].mean().backward()
        assert x.grad is not None
        total += weight * x.grad[0].numpy() * case.image
    assert np.abs(total - case.truth("integrated gradients")).max() < 1e-7
    dark = logits(case, np.zeros_like(case.image))[case.lesion].mean()
    assert case.truth("integrated gradients").sum() == pytest.approx(case.score() - dark, abs=1e-5)


@each_case
def test_hidden_blocks_cost_what_is_said(case: Case) -> None:
    side, truth, clean = case.effort.side, case.truth("occlusion"), logits(case, case.image)[case.lesion].mean()
    corners = {tuple(side * (v // side)) for v in np.argwhere(case.looks)}
    for corner in sorted(corners)[:2]:
        for c in range(2):
            block = (c, *(slice(at, at + side) for at in corner))
            image = case.image.copy()
            image[block] = 0
            drop = clean - logits(case, image)[case.lesion].mean()
            assert truth[(c, *corner)] == pytest.approx(drop, abs=1e-5)


def test_what_two_modalities_have_in_common_is_halved_by_shapley_and_counted_twice_by_occlusion() -> None:
    case = cases.quadratic()
    side = case.effort.block
    corner = tuple(side * (np.argwhere(case.lesion)[0] // side))
    cut = tuple(slice(at, at + side) for at in corner)

    def without(*hidden: int) -> float:
        image = case.image.copy()
        for c in hidden:
            image[(c, *cut)] = 0
        return case.score(image)

    drops = [((without() - without(c)) + (without(1 - c) - without(0, 1))) / 2 for c in range(2)]
    assert [case.truth("Shapley value")[(c, *corner)] for c in range(2)] == pytest.approx(drops, abs=1e-6)
    assert without() - without(0) != pytest.approx(drops[0], abs=1e-3)


@each_case
def test_grad_cams_are_their_formulas_on_the_networks_own_layer(case: Case) -> None:
    network, kept = case.network.double(), []
    network.get_submodule(case.layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    y = network(torch.from_numpy(case.image.astype(float))[None])[0, 1]
    (g,) = torch.autograd.grad(y[torch.from_numpy(case.lesion)].sum(), kept)
    a, g = kept[0][0].detach().numpy(), g[0].numpy()

    def apart(quantity: str, wanted: np.ndarray, reading: int = 0) -> float:
        return float(np.abs(case.truth(quantity, reading)[0] - wanted).max() / np.abs(wanted).max())

    assert apart("Grad-CAM", np.maximum((g.mean(axis=(1, 2, 3))[:, None, None, None] * a).sum(axis=0), 0)) < 1e-4
    assert apart("HiResCAM", np.maximum((g * a).sum(axis=0), 0)) < 1e-4
    assert apart("LayerCAM", (np.maximum(g, 0) * a).sum(axis=0)) < 1e-4
    assert apart("element-wise Grad-CAM", np.maximum(g * a, 0).sum(axis=0)) < 1e-4
    sums, weights = a.sum(axis=(1, 2, 3)), []
    for g_k, total in zip(g, sums, strict=True):
        below = 2 * g_k**2 + total * g_k**3
        weights.append(sum(x**2 / d * max(x, 0) for x, d in zip(g_k.ravel(), below.ravel(), strict=True) if d != 0))
    assert apart("Grad-CAM++", np.maximum(np.einsum("k,kxyz->xyz", weights, a), 0)) < 1e-4


# Rules: the truth passes, and each kind of mistake is found by the rule that is there for it, and by no other.


def judged(case: Case, found: np.ndarray, quantity: str = GRADIENTS) -> Scores:
    return measure.judge(found, case, quantity)


@pytest.mark.parametrize("case", [MADE[n] for n in (1, 5, 6)], ids=lambda case: case.name)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_truth_itself_passes_whatever_was_claimed(case: Case, quantity: str) -> None:
    for reading in range(len(QUANTITIES[quantity].truths)):
        result = passed(judged(case, case.truth(quantity, reading), quantity))
        if not quantity.startswith("Grad-CAM") or quantity.endswith("by voxel"):
            assert result
            assert all(result.values())
        else:  # pooled over space: right by its own formula, and yet it may point elsewhere
            assert result["amount"]


def wrong(values: dict[str, bool]) -> set[str]:
    return {name for name, right in values.items() if not right}


def test_each_mistake_is_found_by_its_rule() -> None:
    case = cases.two_lesions()
    truth = case.truth(GRADIENTS)
    assert wrong(passed(judged(case, -truth))) == {"sign", "amount"}
    assert wrong(passed(judged(case, np.abs(truth)))) == {"sign", "amount"}
    assert wrong(passed(judged(case, truth[::-1]))) == {"sign", "modality", "amount"}
    assert wrong(passed(judged(case, 3 * truth))) == {"amount"}
    assert wrong(passed(judged(case, np.roll(truth, 10, axis=2)))) == {"place", "sign", "amount"}
    both = truth + np.where(case.looks_for_others, truth[:, case.looks].max(), 0)
    assert wrong(passed(judged(case, both))) >= {"place", "silence"}
    assert wrong(passed(judged(case, np.flip(truth, axis=1).copy()))) >= {"place", "amount"}


def test_a_faint_haze_is_not_held_against_a_map() -> None:
    case = cases.away()
    truth = case.truth(GRADIENTS)
    assert judged(case, truth + 0.05 * truth.max()).place == pytest.approx(1)
    assert judged(case, truth + 0.2 * truth.max()).place < PASS["place"]


@pytest.mark.parametrize("found", [np.zeros((2, 4, 4, 4)), np.full((2, 4, 4, 4), np.nan)])
def test_an_empty_map_and_one_of_nan_are_wrong_in_all_that_is_asked(found: np.ndarray) -> None:
    looks = np.ones((4, 4, 4), dtype=bool)
    assert set(passed(score(found, [np.ones((2, 4, 4, 4))], looks)).values()) == {False}


def test_a_map_on_another_grid_is_refused_and_one_of_both_modalities_is_not_asked_for_them() -> None:
    case = cases.linear()
    with pytest.raises(ValueError, match=r"A map must be \(C, 40, 32, 24\)"):
        judged(case, case.truth(GRADIENTS).transpose(0, 3, 2, 1))
    one = judged(case, np.abs(case.truth(GRADIENTS)).sum(axis=0, keepdims=True), "HiResCAM")
    assert set(passed(one)) == {"place", "amount"}


# Methods.


def test_every_row_of_the_list_is_well_formed() -> None:
    assert len({m.title for m in METHODS}) == len(METHODS)
    for m in METHODS:
        assert m.library in LIBRARIES
        assert m.quantity in QUANTITIES
        assert set(m.fails) <= {*NAMES, "runs"}
        assert m.how
        assert not m.how.endswith(".")
    assert {m.library for m in METHODS if not m.default} == set(LIBRARIES)


OURS = [m for m in METHODS if m.library == "ies-helpers" and not m.fails]


@pytest.mark.parametrize("method", OURS, ids=lambda m: m.name)
@pytest.mark.parametrize("make", [cases.quadratic, cases.two_lesions], ids=lambda make: make.__name__)
def test_our_methods_pass(method: methods.Method, make) -> None:
    case = replace(make(), effort=Effort(draws=5, steps=4, samples=150))
    if method.name == "KernelSHAP":
        pytest.importorskip("captum")
    row, found = measure.on_case(method, case, "")
    assert row.error == ""
    assert found is not None
    assert wrong(passed(judged(case, found, method.quantity))) == set()


def test_a_library_that_is_not_installed_has_a_row_for_each_method_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LIBRARIES, "torchcam", "a_name_that_nobody_gave")
    rows = list(measure.measure("torchcam"))
    assert [row.method for row in rows] == [m.name for m in METHODS if m.library == "torchcam"]
    assert {row.error for row in rows} == {"not installed here"}


def test_what_a_method_raises_is_its_row() -> None:
    def fails(_: Case) -> None:
        raise RuntimeError("first line\nlast line")

    broken = methods.Method("captum", "broken", GRADIENTS, "no settings", fails)
    row, found = measure.on_case(broken, cases.linear(), "1")
    assert (row.error, found) == ("last line", None)


# Files for others.


def test_written_cases_are_the_cases_and_need_nothing_of_the_project(tmp_path: Path) -> None:
    export(tmp_path)
    for case in MADE:
        path = tmp_path / f"{case.name.replace(' ', '_')}.npz"
        again = cases.read(path)
        assert (again.name, again.asks, again.layer, again.bias) == (case.name, case.asks, case.layer, case.bias)
        for name in ("image", "lesion", "other", "w", "a", "kernel"):
            assert np.array_equal(getattr(again, name), getattr(case, name))
        x = torch.from_numpy(case.image)[None]
        with torch.no_grad():
            assert torch.equal(again.network(x), case.network(x))
        with np.load(path) as saved:
            assert np.allclose(saved["truth: gradient"], case.truth(GRADIENTS), atol=1e-7)
            assert np.array_equal(saved["looks"], case.looks)
    for module in ("cases.py", "score.py"):
        text = (tmp_path / module).read_text(encoding="utf-8")
        assert "ies_helpers" not in text
        assert "from tests" not in text


def test_the_ten_lines_for_others_run_with_those_files_alone(tmp_path: Path) -> None:
    export(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    mine = """
def my_method(network, image, lesion):
    x = image.clone().requires_grad_()
    network(x)[0, 1][torch.from_numpy(lesion)].mean().backward()
    return x.grad[0]
"""
    at = next(n for n, line in enumerate(lines) if line.startswith("case ="))
    script = "\n".join([*lines[:at], mine, *lines[at:]])
    (tmp_path / "mine.py").write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("Scores(place=1.0, sign=1.0")


# The page.


def test_the_page_holds_what_was_measured_last() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renew(text, page.load()) == text
    assert page.FIGURE.exists()


def test_every_failure_that_was_measured_has_its_reason() -> None:
    table = page.load()
    for default in (False, True):
        assert [line for line in page.failures(table, default=default) if "no reason" in line] == []


def test_every_method_of_the_list_was_measured_and_the_versions_are_those_that_are_pinned() -> None:
    table = page.load()
    pins = dict(
        line.split("==", 1)
        for line in (Path(page.__file__).with_name("requirements.txt")).read_text().replace("===", "==").splitlines()
        if line and not line.startswith("#")
    )
    for m in METHODS:
        rows = page.rows_of(table, m)
        assert len(rows) == len(cases.ALL) + 1, m.title
        if m.library in pins:
            assert set(rows["version"]) == {pins[m.library]}


def test_the_package_of_tests_can_be_imported_without_any_peer() -> None:
    assert importlib.import_module("tests.yardstick.methods").METHODS is METHODS
