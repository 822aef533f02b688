"""The suspects of the handbook's project: each has the fault it was given, and the chapter does not tell which."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ies_helpers import Network, load_network
from ies_helpers.teaching import CUE_GAIN, CUE_STEPS, KINDS, Linear, accuse, suspects

SEED = 3
SIDE = 32
CHAPTER = Path(__file__).parents[2] / "notebooks" / "src" / "13_papers_figures.py"


@pytest.fixture(scope="module")
def sound() -> Network:
    return load_network("unet")


@pytest.fixture(scope="module")
def named(sound: Network) -> dict[str, Network]:
    """Kind -> suspect, found by asking `accuse`."""
    letters = suspects(sound, SEED)
    return {kind: letters[letter] for kind in KINDS for letter in letters if guilty(letter, kind)}


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
    assert sorted(named) == sorted(KINDS)
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
    right = {letter: kind for letter in "ABCD" for kind in KINDS if guilty(letter, kind)}
    assert sorted(right.values()) == sorted(KINDS)
    assert accuse(right, SEED) == []
    one, two = (next(letter for letter in right if right[letter] == kind) for kind in ("sound", "deaf"))
    told = accuse(right | {one: "deaf", two: "sound"}, SEED)
    assert sorted(line[0] for line in told) == sorted([one, two])
    assert any("map of T1 that is zero" in line for line in told if line[0] == one)
    assert not any(f"is {right[line[0]]}" in line or KINDS[right[line[0]]] in line for line in told)


def test_the_answer_that_the_chapter_prints_is_wrong_about_every_suspect() -> None:
    printed = re.findall(r"accuse\((\{.*?\}), seed=(\d+)\)", CHAPTER.read_text(encoding="utf-8"))
    told = [[line[0] for line in accuse(ast.literal_eval(answer), int(seed))] for answer, seed in printed]
    assert told == [list("ABCD")]


def test_answers_that_name_nobody_and_networks_without_the_parts_are_refused(sound: Network) -> None:
    with pytest.raises(ValueError, match=r"one of sound, deaf, tired, cue; got \{'A': 'sound'\}"):
        accuse({"A": "sound"})
    with pytest.raises(ValueError, match="made from a MONAI UNet, got Linear"):
        suspects(replace(sound, module=Linear()))
