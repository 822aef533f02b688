"""An nnU-Net results folder: plans, placement on its grid and back, checkpoints opened without running code."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers.segmentation import nnunet
from ies_helpers.segmentation.nnunet import Placement, mirrors, read_checkpoint, read_plans
from tests.results import DATASET, plans, write_results

ADJOINT = 1e-12
"""Relative: both sides of <A x, g> = <x, A^T g> are sums of float64."""

AFFINES = {
    "isotropic": np.diag([1.0, 1.0, 1.0, 1.0]),
    "finer": np.diag([0.9, 1.2, 0.8, 1.0]),
    "thick": np.diag([0.9, 4.0, 0.8, 1.0]),
    "turned": np.array([[0, -1.0, 0, 3], [0, 0, 1.1, 0], [-1.2, 0, 0, 5], [0, 0, 0, 1]]),
}


def scan(seed: int = 0, shape: tuple[int, int, int] = (20, 18, 22)) -> torch.Tensor:
    """Raw values `(2, I, J, K)` with a rim of zeros."""
    raw = torch.zeros(2, *shape)
    generator = torch.Generator().manual_seed(seed)
    raw[:, 2:-1, 1:-3, 3:-2] = 50 + 10 * torch.randn(
        (2, *(n - 4 if n == 18 else n - 3 if n == 20 else n - 5 for n in shape)), generator=generator
    )
    return raw


def placement(affine: np.ndarray, **changes) -> Placement:
    return Placement(read_plans(plans(**changes), DATASET, "3d_fullres"), scan(), affine)


@pytest.mark.parametrize("name", AFFINES)
def test_the_way_back_is_the_exact_transpose_of_the_way_there(name: str) -> None:
    """<push x, g> = <x, pull g>: `push` is linear where nothing is clipped, which a mask tells."""
    placed, rng = placement(AFFINES[name]), torch.Generator().manual_seed(1)
    x = torch.randn((2, 20, 18, 22), dtype=torch.float64, generator=rng)
    u, passes = placed.push(x)
    g = torch.randn(u.shape, dtype=torch.float64, generator=rng)
    kept = g if passes is None else g * nn_pad(placed, passes)
    moved = placed.pull(g, passes)
    # The clipped part of u is held: it is the range's end, not a function of x here.
    clipped = 0.0 if passes is None else float((u * g * ~nn_pad(placed, passes).bool()).sum())
    assert float((u * kept).sum()) == pytest.approx(float((x * moved).sum()), rel=ADJOINT, abs=1e-9)
    assert float((u * g).sum()) == pytest.approx(float((x * moved).sum()) + clipped, rel=1e-9, abs=1e-9)


def nn_pad(placed: Placement, passes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(passes.double(), [side for rim in reversed(placed.rim) for side in rim])


@pytest.mark.parametrize("name", AFFINES)
def test_a_voxels_logit_is_the_weighted_sum_that_spread_says(name: str) -> None:
    placed, rng = placement(AFFINES[name]), np.random.default_rng(0)
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
    placed = placement(np.diag([1.0, 1.0, 2.0, 1.0]), spacing=[1.0, 2.0, 1.0])
    image = placed.normalise(scan())
    u, passes = placed.push(image)
    assert passes is None
    assert not placed.resamples
    turned = image[:, *placed.box].numpy().transpose(0, 3, 2, 1)  # readers hand out (K, J, I)
    np.testing.assert_array_equal(u.numpy(), turned.transpose(0, 2, 1, 3))  # transpose_forward is [1, 0, 2]


def test_resampling_is_scipys_cubic_spline_of_the_whole_volume() -> None:
    """The matrices, one an axis, against one call on all three axes at once; float64."""
    placed = placement(AFFINES["finer"])
    x = torch.randn((2, 20, 18, 22), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    u, passes = placed.push(x)
    cut = x[:, *placed.box].permute(0, *(a + 1 for a in placed.axes)).numpy()
    for got, before, kept in zip(u.numpy(), cut, passes.numpy(), strict=True):
        wanted = ndimage.zoom(before, np.divide(placed.after, before.shape), order=3, mode="nearest", grid_mode=True)
        inner = got[tuple(slice(a, a + n) for (a, _), n in zip(placed.rim, placed.after, strict=True))]
        np.testing.assert_allclose(inner[kept], wanted[kept], atol=1e-9)
        assert wanted[~kept].size == 0 or (np.abs(wanted[~kept]) >= np.abs(inner[~kept]) - 1e-9).all()


def test_a_scan_smaller_than_a_patch_is_padded_by_half_on_each_side_the_odd_one_at_the_end() -> None:
    placed = placement(np.diag([1.0, 1.0, 2.0, 1.0]), spacing=[1.0, 2.0, 1.0], patch_size=[17, 18, 25])
    assert placed.rim == [(1, 2), (0, 1), (4, 4)]
    u, _ = placed.push(placed.normalise(scan()))
    assert u.shape[1:] == (17, 18, 25)
    assert not u[:, 0].any()
    assert not u[:, -2:].any()
    assert not u[..., -1:, :].any()


def test_a_z_score_with_a_mask_leaves_zero_where_nothing_was_and_one_without_does_not() -> None:
    placed, raw = placement(np.eye(4)), scan()
    masked, plain = placed.normalise(raw)
    inside = raw[0][placed.box][placed.mask[placed.box]]
    np.testing.assert_allclose(
        masked[placed.box][placed.mask[placed.box]], (inside - inside.mean()) / inside.std(unbiased=False), atol=1e-5
    )
    box = raw[1][placed.box]
    np.testing.assert_allclose(plain[placed.box], (box - box.mean()) / box.std(unbiased=False), atol=1e-5)


def test_the_copies_are_all_subsets_of_the_axes_mirrored_in_training() -> None:
    assert mirrors((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(mirrors((0, 1, 2))) == 8


def test_plans_that_another_kind_of_network_needs_are_refused() -> None:
    for change, told in (
        ({"previous_stage": "3d_lowres"}, "a cascade"),
        ({"patch_size": [16, 16]}, "2D"),
        ({"normalization_schemes": ["Mine", "ZScoreNormalization"]}, "Mine"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
    ):
        with pytest.raises(ValueError, match=told):
            read_plans(plans(**change), DATASET, "3d_fullres")
    written = plans()
    written["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["nonlin"] = "os.system"
    with pytest.raises(ValueError, match=r"os\.system"):
        read_plans(written, DATASET, "3d_fullres")


def test_plans_of_nnunet_2_0_name_the_same_network_in_other_words() -> None:
    new, old = plans(), plans()
    configuration = old["configurations"]["3d_fullres"]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    }
    new["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 6]
    shapes = [
        {k: v.shape for k, v in nnunet.build_network(read_plans(p, DATASET, "3d_fullres")).state_dict().items()}
        for p in (new, old)
    ]
    assert shapes[0] == shapes[1]


def test_a_checkpoint_that_wants_to_run_code_is_not_opened(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"network_weights": {}, "logging": Malicious()}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(Exception, match=r"system"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_numpys_numbers_beside_the_weights_opens(tmp_path: Path) -> None:
    content = read_checkpoint(write_results(tmp_path) / "fold_0" / "checkpoint_final.pth")
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert content["_best_ema"] == np.float32(0.5)
