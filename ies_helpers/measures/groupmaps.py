"""Many maps on one grid, lesions at their centres or subjects in MNI space: their mean, t and agreement in sign.

First maps are brought onto a grid (`aligned_at_centre`, `in_mni`), then `group_map` reads them one at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from scipy import ndimage

from ies_helpers.arrays import Affine, LesionLike, Saliency, as_voxels, spacing_of
from ies_helpers.subjects.files import replacing

ALIGNED_REACH_MM = 15.0  # how far around a lesion's centre an aligned map reaches

# the MNI152 grid at 2 mm, axes towards right, anterior and superior
MNI_SHAPE = (91, 109, 91)
MNI_AFFINE: Affine = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class GroupMap:
    """What maps on one grid have in common.

    `t` is the mean over its standard error (sd with ddof 1): 0 where every map is zero, NaN where fewer than two maps
    reach or all are the same and not zero.
    """

    mean: Saliency  # of the raw signed maps that reach a voxel, in their unit
    t: Saliency
    sign: Saliency  # share of positive maps less share of negative ones, -1 to 1; scale plays no part
    count: torch.Tensor  # (I, J, K) how many maps reach a voxel; where none does, the others are NaN
    affine: Affine
    size: int  # how many maps there are


def group_map(maps: Iterable[Saliency], affine: Affine) -> GroupMap:
    """Mean, t and sign of maps on one grid; one map is in memory at a time if `maps` is a generator.

    Maps are taken as they are: strong ones weigh more in the mean, not in `sign`. NaN, in any channel, is where a map
    does not reach. ClinicaDL's group map is the mean; it divides by images times elements of an image, so that its
    means in modes other than `image` are too small. Here it is the number of maps.
    """
    count = total = squares = signs = np.zeros(0)
    size = 0
    for size, saliency in enumerate(maps, 1):
        values = np.asarray(saliency, dtype=np.float64)
        if size == 1:
            count, total, squares, signs = np.zeros((4, *values.shape))
        if values.shape != total.shape or values.ndim != 4:
            raise ValueError(f"Maps of a group must be (C, I, J, K) on one grid, got {values.shape} and {total.shape}.")
        # Welford's running sum of squares, voxel by voxel: how far this map lies from the mean before it, times how far
        # from the mean with it. A map counts only where it reaches.
        there = np.broadcast_to(~np.isnan(values).any(axis=0), values.shape)
        here = np.where(there, values, 0)
        before = np.where(there, here - total / np.maximum(count, 1), 0)
        count, total = count + there, total + here
        squares += before * np.where(there, here - total / np.maximum(count, 1), 0)
        signs += np.sign(here)
    if not size:
        raise ValueError("A group must have a map, got none.")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / np.where(count > 0, count, np.nan)
        error = np.sqrt(squares / np.where(count > 1, count - 1, np.nan) / np.maximum(count, 1))
        error = np.where(error > 1e-9 * np.abs(mean), error, 0)  # below, maps are the same but for rounding
        # t is 0 where every map is zero, and has no value where all are the same and not zero
        t = np.where(error > 0, mean / np.where(error > 0, error, 1), np.where((mean == 0) & (count > 1), 0, np.nan))
        sign = signs / np.where(count > 0, count, np.nan)
    mean, t, sign = (torch.from_numpy(x).float() for x in (mean, t, sign))
    return GroupMap(mean, t, sign, torch.from_numpy(count[0]).int(), np.asarray(affine, dtype=np.float64), size)


def aligned_at_centre(
    saliency: Saliency, lesion: LesionLike, affine: Affine, *, reach_mm: float = ALIGNED_REACH_MM
) -> Saliency:
    """A map around the middle of its lesion, on a 1 mm grid with axes towards right, anterior and superior.

    The middle is the lesion's voxel nearest (in mm) to its centre of mass, so that scans of 1 mm along these axes are
    copied and not resampled; others are, trilinearly. Lesions are neither turned nor stretched, left is not mirrored.

    Returns:
        `(C, n, n, n)`, n = 2 reach + 1, NaN beyond the scan. Its affine is `centred_affine(reach_mm)`.
    """
    grid, voxels = centred_affine(reach_mm), as_voxels(lesion, tuple(saliency.shape[1:]))
    in_mm = np.asarray(affine, dtype=np.float64)[:3, :3]
    away = np.square((voxels - voxels.mean(axis=0)) @ in_mm.T).sum(axis=1)
    middle = voxels[np.round(away, 9).argmin()]  # of voxels equally near the first, whatever the rounding
    grid[:3, 3] += in_mm @ middle + np.asarray(affine)[:3, 3]
    side = 2 * int(reach_mm) + 1
    return on_grid(saliency, affine, grid, (side, side, side))


def centred_affine(reach_mm: float = ALIGNED_REACH_MM) -> Affine:
    """Affine of aligned maps: 0 mm at the lesion's middle."""
    if not (float(reach_mm).is_integer() and reach_mm >= 0):
        raise ValueError(f"reach_mm must be whole mm from 0, the grid has one point a mm; got {reach_mm}.")
    affine = np.eye(4)
    affine[:3, 3] = -int(reach_mm)
    return affine


def in_mni(saliency: Saliency, affine: Affine) -> Saliency:
    """A map on `MNI_SHAPE`, `MNI_AFFINE`, trilinearly; what the scan does not reach is NaN.

    It is smoothed to 2 mm before, so that no peak falls between the points. The scan's `affine` leads to MNI space;
    `regions.template_affine` gives one that stretches the brain to the template's size.
    """
    spacing = np.array(spacing_of(affine))
    width = np.sqrt(np.maximum(2.0**2 - spacing**2, 0)) / 2.355 / spacing  # half maximum from one voxel to 2 mm
    smooth = [ndimage.gaussian_filter(np.asarray(channel, dtype=np.float32), width) for channel in saliency]
    return on_grid(torch.from_numpy(np.stack(smooth)), affine, MNI_AFFINE, MNI_SHAPE)


def on_grid(saliency: Saliency, affine: Affine, grid: Affine, shape: tuple[int, int, int]) -> Saliency:
    """`(C, *shape)` float32: a map at the points of another grid, trilinearly, NaN beyond its own."""
    to_index: Any = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ np.asarray(grid)
    to_index = np.round(to_index, 9)  # what rounding in the inverse adds would turn copies into mixtures
    how: Any = {"output_shape": shape, "order": 1, "cval": np.nan}
    channels = np.asarray(saliency, dtype=np.float64)
    taken = [ndimage.affine_transform(channel, to_index[:3, :3], to_index[:3, 3], **how) for channel in channels]
    return torch.from_numpy(np.stack(taken)).float()


def save_group_map(folder: str | Path, name: str, group: GroupMap) -> list[Path]:
    """Write `<name>_mean.nii.gz`, `_t`, `_sign` `(I, J, K, C)` and `_count`, with the group's affine; NaN as it is."""
    paths = []
    for kind in ("mean", "t", "sign", "count"):
        values = np.asarray(getattr(group, kind), dtype=np.float32)
        image = nibabel.Nifti1Image(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, group.affine)
        path = Path(folder) / f"{name}_{kind}.nii.gz"
        with replacing(path) as part:
            nibabel.save(image, part)
        paths.append(path)
    return paths
