"""True negatives: places like a lesion in shape, where neither network nor expert sees one.

The paper compares peaks of saliency in TP, FP, FN and TN but leaves open what a TN is. Ours: the voxels of a lesion,
shifted to a place drawn at random among all where they fit into normal-looking white matter, clear of every lesion.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from ies_helpers.segmentation.lesions import CONNECTIVITY, Lesion, Lesions
from ies_helpers.subjects.anatomy import GRID
from ies_helpers.subjects.seeds import check_seed
from ies_helpers.subjects.subject import Subject

CLEAR = 3
"""Dilations that keep a control away from every lesion."""


def true_negatives(subject: Subject, lesions: Lesions, like: Sequence[Lesion], *, seed: int = 0) -> list[Lesion]:
    """One control of group `TN` for each lesion of `like` whose shape fits anywhere.

    Args:
        subject: gives white matter, see `inner_white_matter`.
        lesions: all lesions, found and missed, to keep clear of by three voxels.
        like: lesions whose shapes to take; a shape that fits nowhere gives none.
        seed: of the places; control n depends on seed and n alone.

    Returns:
        Lesions of group `TN`, numbered after the last of `lesions`. Controls may overlap each other. Their
        probabilities are NaN: predict, or explain them.

    Raises:
        ValueError: for an empty `like`, or where none of its shapes fits.
    """
    if not like:
        raise ValueError("like must name a lesion whose shape a control takes, got none.")
    check_seed(seed)
    taken = lesions.label_map(subject.shape).numpy() > 0
    if subject.target is not None:
        taken |= subject.target.numpy()
    near = np.asarray(ndimage.binary_dilation(taken, CONNECTIVITY, CLEAR), dtype=bool)
    free = inner_white_matter(subject) & ~near
    last, controls = max((lesion.number for lesion in lesions), default=0), []
    for n, lesion in enumerate(like):
        corners = _fits(free, lesion.voxels)
        if len(corners):
            corner = corners[np.random.default_rng([seed, n]).integers(len(corners))]
            voxels = lesion.voxels - lesion.voxels.min(axis=0) + corner
            centre = subject.affine[:3, :3] @ voxels.mean(axis=0) + subject.affine[:3, 3]
            known = {"volume_mm3": lesion.volume_mm3, "centre_mm": centre}
            unknown = {"mean_probability": np.nan, "max_probability": np.nan}
            last += 1
            controls.append(replace(lesion, number=last, group="TN", voxels=voxels, **known, **unknown))
    if not controls:
        raise ValueError(
            f"A control must fit into white matter clear of lesions; of {len(like)} shapes none does in "
            f"{subject.name}, which has {int(free.sum())} such voxels. Take smaller lesions."
        )
    return controls


def inner_white_matter(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: normal-looking white matter, away from its border.

    Stricter than `surround.white_matter`, which is sure enough of a level but holds some cortex: a control has to lie
    in white matter with all its voxels.

    By intensity, three voxels and more inside the brain: T1 above its median there, FLAIR from the 10th to the 80th
    centile of such voxels; small holes closed, and one voxel taken off its border. In a scan on the MNI152 grid also
    white matter of the template (nilearn's map, above 0.5).
    """
    flair, t1 = subject.image[0].numpy(), subject.image[1].numpy()
    brain = np.asarray(ndimage.binary_erosion(ndimage.binary_fill_holes(flair != 0), CONNECTIVITY, 3), dtype=bool)
    white = brain & (t1 > np.median(t1[brain]))
    low, high = np.quantile(flair[white], (0.1, 0.8))
    white &= (flair > low) & (flair < high)
    white = np.asarray(ndimage.binary_closing(white, CONNECTIVITY), dtype=bool) & brain
    if subject.shape == GRID:
        white &= _template(subject.affine)
    return np.asarray(ndimage.binary_erosion(white, ndimage.generate_binary_structure(3, 1)), dtype=bool)


def _template(affine: np.ndarray) -> np.ndarray:
    import nibabel
    from nilearn.datasets import load_mni152_wm_template
    from nilearn.image import resample_to_img

    grid = nibabel.Nifti1Image(np.zeros(GRID, dtype=np.uint8), affine)
    template = load_mni152_wm_template(resolution=1)
    on_grid = resample_to_img(template, grid, force_resample=True, copy_header=True)
    return np.asarray(on_grid.dataobj) > 0.5


def _fits(free: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Corners `(N, 3)` at which the bounding box of `voxels` can start so that all of them are free."""
    local = voxels - voxels.min(axis=0)
    if (local.max(axis=0) >= free.shape).any():
        return np.empty((0, 3), dtype=int)
    shape = np.zeros(local.max(axis=0) + 1, dtype=np.float32)
    shape[tuple(local.T)] = 1
    hits = fftconvolve(free.astype(np.float32), shape[::-1, ::-1, ::-1], mode="valid")
    return np.argwhere(hits > len(voxels) - 0.5)
