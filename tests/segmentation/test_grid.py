"""A scan on a network's own grid: the way back is the exact transpose of the way there."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers.segmentation.grid import Grid
from tests.results import AFFINES, placed_scan

ADJOINT = 1e-12
"""Relative: both sides of <A x, g> = <x, A^T g> are sums of float64."""


@pytest.mark.parametrize("name", AFFINES)
def test_the_way_back_is_the_exact_transpose_of_the_way_there(name: str) -> None:
    """<push x, g> = <x, pull g>: `push` is linear where nothing is clipped, which a mask tells."""
    (placed, _), rng = placed_scan(AFFINES[name]), torch.Generator().manual_seed(1)
    x = torch.randn((2, 20, 18, 22), dtype=torch.float64, generator=rng)
    u, passes = placed.push(x)
    g = torch.randn(u.shape, dtype=torch.float64, generator=rng)
    kept = g if passes is None else g * nn_pad(placed, passes)
    moved = placed.pull(g, passes)
    # The clipped part of u is held: it is the range's end, not a function of x here.
    clipped = 0.0 if passes is None else float((u * g * ~nn_pad(placed, passes).bool()).sum())
    assert float((u * kept).sum()) == pytest.approx(float((x * moved).sum()), rel=ADJOINT, abs=1e-9)
    assert float((u * g).sum()) == pytest.approx(float((x * moved).sum()) + clipped, rel=1e-9, abs=1e-9)


def nn_pad(placed: Grid, passes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(passes.double(), [side for rim in reversed(placed.rim) for side in rim])


@pytest.mark.parametrize("name", AFFINES)
def test_a_voxels_logit_is_the_weighted_sum_that_spread_says(name: str) -> None:
    (placed, _), rng = placed_scan(AFFINES[name]), np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((3, *placed.shape)))
    restored = placed.restore(logits)
    inside = np.argwhere(np.ones(placed.box.shape, dtype=bool))[::37] + placed.box.start
    rows, places, weights = placed.spread(inside)
    for channel in range(3):
        found = np.zeros(len(inside))
        np.add.at(found, rows, logits[channel].numpy()[tuple(places.T)] * weights)
        wanted = restored[channel].numpy()[tuple((inside - placed.box.start).T)]
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_without_another_spacing_the_network_gets_the_turned_crop_to_the_last_bit() -> None:
    placed, image = placed_scan(np.diag([1.0, 1.0, 2.0, 1.0]), spacing=[1.0, 2.0, 1.0])
    u, passes = placed.push(image)
    assert passes is None
    assert not placed.resamples
    turned = image[:, *placed.box].numpy().transpose(0, 3, 2, 1)  # readers hand out (K, J, I)
    np.testing.assert_array_equal(u.numpy(), turned.transpose(0, 2, 1, 3))  # transpose_forward is [1, 0, 2]


def test_resampling_is_scipys_cubic_spline_of_the_whole_volume() -> None:
    """The matrices, one an axis, against one call on all three axes at once; float64."""
    placed, _ = placed_scan(AFFINES["finer"])
    x = torch.randn((2, 20, 18, 22), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    u, passes = placed.push(x)
    cut = x[:, *placed.box].permute(0, *(a + 1 for a in placed.axes)).numpy()
    for got, before, kept in zip(u.numpy(), cut, passes.numpy(), strict=True):
        wanted = ndimage.zoom(before, np.divide(placed.after, before.shape), order=3, mode="nearest", grid_mode=True)
        inner = got[tuple(slice(a, a + n) for (a, _), n in zip(placed.rim, placed.after, strict=True))]
        np.testing.assert_allclose(inner[kept], wanted[kept], atol=1e-9)
        assert wanted[~kept].size == 0 or (np.abs(wanted[~kept]) >= np.abs(inner[~kept]) - 1e-9).all()


def test_a_scan_smaller_than_a_patch_is_padded_by_half_on_each_side_the_odd_one_at_the_end() -> None:
    placed, image = placed_scan(np.diag([1.0, 1.0, 2.0, 1.0]), spacing=[1.0, 2.0, 1.0], patch_size=[17, 18, 25])
    assert placed.rim == [(1, 2), (0, 1), (4, 4)]
    u, _ = placed.push(image)
    assert u.shape[1:] == (17, 18, 25)
    assert not u[:, 0].any()
    assert not u[:, -2:].any()
    assert not u[..., -1:, :].any()
