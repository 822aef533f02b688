"""Make the demo subject: one phantom, cropped to 96 x 128 x 96 voxels around its lesions, as small NIfTI files.

python data/demo/make.py --seed 105 --lesions 22
"""

import argparse
import os
from pathlib import Path

import nibabel
import numpy as np

from ies_helpers.subjects.phantom import AFFINE, phantom_scan

SIDES = (96, 128, 96)
SUFFIXES = ("FLAIR", "T1w", "label-lesion_mask")


def best_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Along each axis the window of `SIDES` voxels with most lesion voxels, the middle one of equals."""
    box = []
    for axis, side in enumerate(SIDES):
        profile = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        inside = np.convolve(profile, np.ones(side, dtype=int), mode="valid")
        best = np.flatnonzero(inside == inside.max())
        start = int(best[len(best) // 2])
        box.append(slice(start, start + side))
    return tuple(box)


def crop(seed: int, lesions: int) -> tuple[list[np.ndarray], np.ndarray]:
    """FLAIR and T1 in whole numbers (int16) and the mask (uint8), and the affine of the box."""
    flair, t1, mask = phantom_scan(seed, lesions=lesions)
    box = best_box(mask)
    images = []
    for raw in (flair[box], t1[box]):
        whole = np.rint(raw).astype(np.int16)
        whole[(whole == 0) & (raw != 0)] = 1  # zero is kept for the outside of the brain
        images.append(whole)
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [s.start for s in box]
    return [*images, mask[box].astype(np.uint8)], affine


def main() -> None:
    """Write the three files beside this script, each under another name first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lesions", type=int, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    arrays, affine = crop(args.seed, args.lesions)
    for suffix, array in zip(SUFFIXES, arrays, strict=True):
        path = args.out / f"sub-demo_{suffix}.nii.gz"
        part = path.with_name(f".part-{path.name}")
        image = nibabel.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, "mni")
        image.set_sform(affine, "mni")
        nibabel.save(image, part)
        os.replace(part, path)


if __name__ == "__main__":
    main()
