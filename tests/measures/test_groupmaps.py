"""Group maps: statistics by hand, alignment to the voxel, MNI space, and files with an affine."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from ies_helpers.measures.groupmaps import (
    MNI_AFFINE,
    MNI_SHAPE,
    aligned_at_centre,
    centred_affine,
    group_map,
    in_mni,
    on_grid,
    save_group_map,
)
from tests.patients import AFFINE, UNEVEN, ball, lesion_of

FLOAT32 = 1e-5


def test_mean_t_and_sign_equal_those_of_scipy_at_every_voxel(rng: np.random.Generator) -> None:
    maps = torch.from_numpy(rng.standard_normal((7, 2, 3, 4, 5)) + 0.3)
    group = group_map(iter(maps), np.eye(4))
    expected = stats.ttest_1samp(maps.numpy(), 0.0, axis=0).statistic
    assert group.t.numpy() == pytest.approx(expected, rel=FLOAT32)
    assert group.mean.numpy() == pytest.approx(maps.mean(dim=0).numpy(), abs=FLOAT32)
    assert group.sign.numpy() == pytest.approx(((maps > 0).sum(dim=0) - (maps < 0).sum(dim=0)).numpy() / 7, abs=FLOAT32)
    assert [group.size, int(group.count.min()), int(group.count.max())] == [7, 7, 7]


def test_maps_count_where_they_reach_and_t_is_missing_only_where_it_has_no_value() -> None:
    nan = float("nan")
    maps = [[1.0, nan, 0.0, 0.1, nan, -1.0], [3.0, 5.0, 0.0, 0.1, nan, 0.0], [2.0, nan, 0.0, 0.1, nan, 4.0]]
    group = group_map([torch.tensor(m).reshape(1, 6, 1, 1) for m in maps], np.eye(4))
    assert group.count.flatten().tolist() == [3, 1, 3, 3, 0, 3]
    assert group.mean.flatten()[:4].tolist() == pytest.approx([2, 5, 0, 0.1])
    assert group.sign.flatten()[[0, 1, 2, 3, 5]].tolist() == [1, 1, 0, 1, 0]
    assert group.t.flatten()[[0, 2]].tolist() == pytest.approx([2 * 3**0.5, 0])
    assert torch.isnan(group.t.flatten()[[1, 3, 4]]).all()
    assert torch.isnan(group.mean.flatten()[4])


def test_an_empty_group_and_maps_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        group_map([], np.eye(4))
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 3\) and \(1, 2, 2, 2\)"):
        group_map([torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 3)], np.eye(4))
    with pytest.raises(ValueError, match=r"got \(2, 2, 2\)"):
        group_map([torch.zeros(2, 2, 2)], np.eye(4))


def test_an_aligned_map_is_a_copy_turned_to_right_anterior_superior(rng: np.random.Generator) -> None:
    saliency = torch.from_numpy(rng.standard_normal((2, 24, 28, 20))).float()
    lesion = lesion_of(ball((24, 28, 20), (12, 14, 3), 2.2))
    got = aligned_at_centre(saliency, lesion, AFFINE, reach_mm=6)
    assert got.shape == (2, 13, 13, 13)
    grid = centred_affine(6)
    for place in np.argwhere(np.ones((13, 13, 13)))[::37]:
        away = grid[:3, :3] @ place + grid[:3, 3]
        voxel = np.array([12, 14, 3]) + np.linalg.inv(AFFINE[:3, :3]) @ away
        inside = (voxel >= -1e-9).all() and (voxel <= np.array([23, 27, 19]) + 1e-9).all()
        value = got[(slice(None), *place)]
        expected = saliency[(slice(None), *np.rint(voxel).astype(int))] if inside else torch.full((2,), float("nan"))
        assert value.numpy() == pytest.approx(expected.numpy(), abs=0, nan_ok=True)
    assert torch.isnan(got).any()


def test_lesions_that_look_alike_agree_after_alignment_wherever_they_lay() -> None:
    kernel = np.zeros((5, 5, 5))
    kernel[2, 2, 2], kernel[4, 2, 2] = 2.0, -1.0
    maps = []
    for n, centre in enumerate(((8, 9, 10), (12, 14, 7), (15, 18, 12))):
        saliency = np.zeros((1, 24, 28, 20))
        box = tuple(slice(c - 2, c + 3) for c in centre)
        saliency[(0, *box)] = kernel * (1 + n)
        maps.append(aligned_at_centre(torch.from_numpy(saliency), np.array([centre]), np.eye(4), reach_mm=3))
    group = group_map(maps, centred_affine(3))
    assert float(group.mean[0, 3, 3, 3]) == pytest.approx(4)
    assert float(group.mean[0, 5, 3, 3]) == pytest.approx(-2)
    assert float(group.t[0, 3, 3, 3]) == pytest.approx(4 / (2 / 3**0.5))
    assert [float(group.sign[0, x, 3, 3]) for x in (3, 5, 4)] == [1, -1, 0]


def test_the_middle_of_a_lesion_is_one_of_its_own_voxels() -> None:
    saliency = torch.zeros(1, 20, 20, 20)
    saliency[0, 5, 10, 10] = 1.0
    horseshoe = np.array([[5, 10, 10], [5, 9, 10], [6, 8, 10], [5, 11, 10], [6, 12, 10], [7, 8, 10], [7, 12, 10]])
    assert float(aligned_at_centre(saliency, horseshoe, np.eye(4), reach_mm=2)[0, 2, 2, 2]) == 1


def test_the_middle_is_nearest_in_millimetres_and_not_in_voxels() -> None:
    """Voxels of 1 x 2 x 3 mm, centre of mass at (9.25, 8, 7.5): the first is 2.7 mm from it and 2.3 voxels, the third
    4.5 mm and 1.5 voxels."""
    lesion = np.array([[7, 8, 8], [12, 8, 8], [9, 8, 9], [9, 8, 5]])
    saliency = torch.zeros(1, 20, 20, 20)
    saliency[0, 7, 8, 8] = 1.0
    assert float(aligned_at_centre(saliency, lesion, UNEVEN, reach_mm=2)[0, 2, 2, 2]) == 1


@pytest.mark.parametrize("reach", [1.5, -1, float("nan")])
def test_a_reach_that_is_no_whole_number_of_millimetres_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match=f"got {reach}"):
        aligned_at_centre(torch.zeros(1, 9, 9, 9), np.array([[4, 4, 4]]), np.eye(4), reach_mm=reach)


def test_a_map_reaches_a_voxel_with_all_its_modalities_or_not_at_all() -> None:
    half = torch.ones(2, 2, 1, 1)
    half[1, 0] = float("nan")
    group = group_map([3 * torch.ones(2, 2, 1, 1), half], np.eye(4))
    assert group.count.flatten().tolist() == [1, 2]
    assert group.mean.flatten().tolist() == [3, 2, 3, 2]


def test_coarser_voxels_are_interpolated_in_true_millimetres() -> None:
    ramp = np.broadcast_to(np.arange(12.0)[None, :, None, None], (1, 12, 12, 12))
    got = aligned_at_centre(torch.tensor(ramp), np.array([[6, 6, 6]]), np.diag([2.0, 1, 1, 1]), reach_mm=4)
    assert got[0, :, 4, 4].numpy() == pytest.approx(6 + np.arange(-4, 5) / 2, abs=FLOAT32)


def test_a_map_in_mni_space_lands_at_its_millimetres_and_keeps_its_mass() -> None:
    affine = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    saliency = torch.zeros(1, 182, 218, 182)
    saliency[0, 60:64, 100:104, 80:84] = 1.0
    got = in_mni(saliency, affine)
    assert tuple(got.shape[1:]) == MNI_SHAPE
    where = np.argwhere(got[0].nan_to_num().numpy() > 0.5)
    middle = MNI_AFFINE[:3, :3] @ where.mean(axis=0) + MNI_AFFINE[:3, 3]
    assert middle == pytest.approx([90 - 61.5, -126 + 101.5, -72 + 81.5], abs=1.01)
    assert 8 * float(got.nansum()) == pytest.approx(64, rel=0.02)
    assert torch.isnan(on_grid(saliency[:, :20], affine, MNI_AFFINE, MNI_SHAPE)).any()


def test_a_map_of_permuted_voxels_is_smoothed_along_each_of_its_own_axes() -> None:
    """Voxels of 1 x 2 x 3 mm become 2 mm wide at half maximum where they are smaller, and stay where they are not."""
    affine = UNEVEN.copy()
    affine[:3, 3] = -30
    saliency = np.zeros((60, 30, 20))
    saliency[28:32, 12:16, 8:12] = 1.0
    smooth = ndimage.gaussian_filter(saliency, (np.sqrt(2.0**2 - 1) / 2.355, 0, 0))
    wanted = on_grid(torch.from_numpy(smooth)[None], affine, MNI_AFFINE, MNI_SHAPE).numpy()
    got = in_mni(torch.from_numpy(saliency)[None], affine).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=FLOAT32)
    assert np.isfinite(got).any()


def test_a_point_of_half_a_millimetre_is_smoothed_by_millimetres_and_not_voxels() -> None:
    affine, saliency = np.diag([0.5, 0.5, 0.5, 1.0]), torch.zeros(1, 41, 41, 41)
    affine[:3, 3] = -10
    saliency[0, 20, 20, 20] = 1.0
    width = np.sqrt(2.0**2 - 0.5**2) / 2.355 / 0.5
    line = np.exp(-np.square(np.arange(-40, 41)) / 2 / width**2)
    assert float(in_mni(saliency, affine).nan_to_num().max()) == pytest.approx(line.sum() ** -3, rel=0.02)


def test_group_maps_are_written_with_their_affine(tmp_path: Path) -> None:
    group = group_map([torch.full((2, 3, 3, 3), float(v)) for v in (1, 2)], centred_affine(1))
    paths = save_group_map(tmp_path / "out", "tp", group)
    assert [path.name for path in paths] == [f"tp_{kind}.nii.gz" for kind in ("mean", "t", "sign", "count")]
    mean, count = (nibabel.load(paths[n]) for n in (0, 3))
    assert mean.shape == (3, 3, 3, 2)
    assert mean.get_fdata() == pytest.approx(np.full((3, 3, 3, 2), 1.5))
    assert (mean.affine == centred_affine(1)).all()
    assert (count.get_fdata() == 2).all()
