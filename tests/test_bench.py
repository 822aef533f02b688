"""The cases of `make bench` run, on a patient small enough to ask in passing, and agree with the plain loops."""

from dataclasses import replace

import pytest

from ies_helpers import Network, view
from tests import networks
from tests.bench import __main__ as bench
from tests.bench import fields, perilesional
from tests.bench.measure import table
from tests.bench.viewer import cases
from tests.patients import ball, lesion_of, subject_in_memory
from tests.pictures import subject_with_maps

SIDE = 24
ROUNDING = 1e-4
"""Float32 in another order, relative to the largest value."""

IMAGE = subject_in_memory((SIDE,) * 3).image
LESION = lesion_of(ball((SIDE,) * 3, (13, 11, 12), 1.2))


def single(network: Network) -> Network:
    """In float32, through windows that overlap."""
    return replace(network, module=network.module.float(), window=16, stride=None)


@pytest.mark.parametrize("case", [bench.largest, bench.cams, perilesional.curve])
def test_a_case_of_one_lesion_agrees_with_the_plain_loop(case) -> None:
    row = case(single(networks.unet((2, 3, 4))), IMAGE, LESION)
    assert row.error < ROUNDING
    assert min(row.ours, row.plain) > 0
    assert f"{len(LESION)} voxels" in table([row])


@pytest.mark.parametrize("case", [bench.averages, bench.patient_largest])
def test_a_case_of_a_patient_agrees_with_the_plain_loop(case) -> None:
    row = case(single(networks.unet((2, 3, 4))), IMAGE, [LESION] * bench.SAMPLE)
    assert row.error < ROUNDING


def test_a_case_through_windows_agrees_with_the_plain_loop() -> None:
    seen = single(networks.nnunet((2, 3, 4))).explained_through("windows")
    assert bench.windowed(seen, IMAGE, LESION, 2).error < ROUNDING


def test_a_case_of_fields_agrees_with_the_exact_windows() -> None:
    seen = single(networks.nnunet((2, 3, 4))).explained_through("windows")
    row = fields.one_lesion(seen, IMAGE, LESION.voxels, 1e-5)  # so fine that all directions are needed
    assert row.error < ROUNDING
    assert f"{len(LESION)} voxels" in table([row])


def test_the_cases_of_the_viewer_need_its_controls() -> None:
    moves = cases(view(*subject_with_maps()))
    assert len(moves) > 10
    for move in moves.values():
        move(1)
