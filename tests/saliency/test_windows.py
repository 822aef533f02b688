"""Where windows lie and what they weigh, against MONAI's own inferer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from ies_helpers.saliency.views import window_parts, window_views
from tests.networks import nnunet


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
def test_shares_add_up_to_the_blended_output(weighting) -> None:
    """Each window answers with its own number; the inferer's blend is the sum of number times share."""
    shape, numbers = (40, 33, 24), []

    def number(x: torch.Tensor) -> torch.Tensor:
        numbers.append(float(len(numbers) + 1))
        return torch.full_like(x[:, :1], numbers[-1])

    zero = torch.zeros(1, 1, *shape, dtype=torch.float64)
    wanted = sliding_window_inference(zero, (24,) * 3, 1, number, overlap=0.5, mode=weighting)[0, 0]  # pyright: ignore
    network = replace(nnunet(), window=24, overlap=0.5, weighting=weighting)
    views = window_views(network, shape, np.argwhere(np.ones(shape)))
    got = torch.zeros(shape, dtype=torch.float64)
    for n, view in zip(numbers, views, strict=True):
        got[view.box] += n * view.weight
    assert torch.allclose(got, wanted, rtol=1e-12)


def test_only_windows_that_hold_a_voxel_are_looked_through() -> None:
    network = replace(nnunet(), window=96)
    corner = window_views(network, (182, 218, 182), np.array([[0, 0, 0]]))
    assert [v.box for v in corner] == [(slice(0, 96),) * 3]
    middle = window_views(network, (182, 218, 182), np.array([[90, 90, 90]]))
    assert len(middle) == 3 * 2 * 3


def test_parts_group_voxels_by_their_windows() -> None:
    network = replace(nnunet(), window=24, overlap=0.25)
    voxels = np.array([[0, 0, 0], [1, 1, 1], [20, 0, 0], [39, 0, 0]])
    parts = window_parts(network, (40, 24, 24), voxels)
    assert sorted((len(p.voxels), len(p.views)) for p in parts) == [(1, 1), (1, 3), (2, 1)] or sorted(
        (len(p.voxels), len(p.views)) for p in parts
    ) == [(1, 1), (1, 2), (2, 1)]
    for part in parts:
        assert all(view.holds(part.voxels).all() for view in part.views)
    assert sum(len(p.voxels) for p in parts) == 4
