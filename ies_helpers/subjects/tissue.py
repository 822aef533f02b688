"""Brain and white matter by intensity alone: what looks healthy, and what surely is white matter."""

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import median_abs_deviation

from ies_helpers.arrays import CONNECTIVITY, Volume
from ies_helpers.subjects.phantom import GRID
from ies_helpers.subjects.subject import SAMPLE, SHIPPED, Subject

BRIGHTEST_IN_T1 = 0.4  # share of the brain that is taken for white matter where FLAIR is not unusual
LONGER_REACH = 1.35  # times FLAIR's dark end, beyond which that of T1 says that the two are swapped
FEWEST_FOR_CONTRAST = 1000  # voxels of brain without which contrast says nothing
USUAL_IN_FLAIR = 2.5  # robust standard deviations beyond which a voxel is unusual: a lesion nobody drew


def brain_mask(image: Volume, *, filled: bool = False) -> np.ndarray:
    """`(I, J, K)` bool: where any channel of `(C, I, J, K)` is not 0; `filled`, also what that encloses."""
    brain = np.asarray((image != 0).any(dim=0).cpu())
    return np.asarray(ndimage.binary_fill_holes(brain)) if filled else brain


def white_matter(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: voxels that look like healthy white matter, by their intensity alone.

    The 40 % of the brain that are brightest in T1, less what lies beyond 2.5 robust standard deviations of their
    median in FLAIR, less the target. Reliable enough to take a level from, but no segmentation of tissue: in two
    phantoms it held at least 96 % of the white matter, and 13 and 19 % of it was something else, cortex above all.
    """
    flair, t1 = _flair_and_t1(subject)
    brain = brain_mask(subject.image)
    if subject.target is not None:
        brain &= ~subject.target.numpy()
    bright = brain & (t1 > (np.quantile(t1[brain], 1 - BRIGHTEST_IN_T1) if brain.any() else 0))
    if not bright.any():
        return bright
    return bright & (np.abs(flair - np.median(flair[bright])) <= USUAL_IN_FLAIR * robust_deviation(flair[bright]))


def inner_white_matter(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: white matter away from its border, for what has to lie in it with every voxel.

    Stricter than `white_matter`, which holds some cortex: at least three voxels inside the brain, T1 above its median
    there, FLAIR from the 10th to the 80th centile of such voxels; small holes closed, and one voxel taken off the
    border. In a scan on the MNI152 grid it must also be white matter of the template (nilearn's map, above 0.5).
    """
    flair, t1 = _flair_and_t1(subject)
    within = brain_mask(subject.with_channels(("flair",)).image, filled=True)
    brain = np.asarray(ndimage.binary_erosion(within, CONNECTIVITY, 3), dtype=bool)
    white = brain & (t1 > np.median(t1[brain]))
    low, high = np.quantile(flair[white], (0.1, 0.8))
    white &= (flair > low) & (flair < high)
    white = np.asarray(ndimage.binary_closing(white, CONNECTIVITY), dtype=bool) & brain
    if subject.shape == GRID:
        white &= _template_white_matter(subject.affine)
    return np.asarray(ndimage.binary_erosion(white, ndimage.generate_binary_structure(3, 1)), dtype=bool)


def grey_levels(values: Volume) -> int:
    """How many different values a channel `(I, J, K)` has where it is not 0, the 1 % at either end aside."""
    inside = values[values != 0].numpy()
    inside = np.sort(inside[:: 1 + len(inside) // SAMPLE])
    return len(np.unique(inside[len(inside) // 100 : len(inside) - len(inside) // 100]))


def look_swapped(flair: Volume, t1: Volume) -> bool:
    """Whether what is called T1 `(I, J, K)` looks like FLAIR, and what is called FLAIR like T1.

    In FLAIR grey and white matter are nearly alike and fluid is far darker; in T1 they lie apart, and fluid not much
    farther. So the reach of the dark end, from the median to the 1st centile, in widths of the middle half, is longer
    in FLAIR: 1.9 times and more in three patients and six phantoms, 1.4 in parts of them or with noise.
    """
    both = torch.stack([flair, t1])[:, (flair != 0) & (t1 != 0)].numpy()
    if both.shape[1] < FEWEST_FOR_CONTRAST:
        return False
    ends = np.percentile(both[:, :: 1 + both.shape[1] // SAMPLE], (1, 25, 50, 75), axis=1).T
    reach, width = ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]
    return bool(reach[1] * width[0] > LONGER_REACH * reach[0] * width[1])


def robust_deviation(values: np.ndarray) -> float:
    """Standard deviation from the median absolute deviation, which tissue borders do not widen much."""
    return float(median_abs_deviation(values, axis=None, scale="normal"))  # pyright: ignore[reportArgumentType]


def _flair_and_t1(subject: Subject) -> list[np.ndarray]:
    return [subject.with_channels([name], by="White matter by its intensity").image[0].numpy() for name in SHIPPED]


def _template_white_matter(affine: np.ndarray) -> np.ndarray:
    import nibabel
    from nilearn.datasets import load_mni152_wm_template  # takes seconds
    from nilearn.image import resample_to_img

    grid = nibabel.Nifti1Image(np.zeros(GRID, dtype=np.uint8), affine)
    template = load_mni152_wm_template(resolution=1)
    on_grid = resample_to_img(template, grid, force_resample=True, copy_header=True)
    return np.asarray(on_grid.dataobj) > 0.5
