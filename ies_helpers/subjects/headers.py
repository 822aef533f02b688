"""What a NIfTI header claims, before it is believed."""

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.imageglobals import logger

DEFLATE = 1032
"""How many bytes one byte of a `.gz` can become at most."""

VOXEL_MM = (1e-3, 1e3)
"""Sides of a voxel that are believed, in mm."""


def open_nifti(path: Path) -> Any:
    """What nibabel makes of a file; what it mends in the header on the way is a warning, not lines on stderr."""
    told: dict[str, None] = {}
    listener = logging.Handler()
    listener.emit = lambda record: told.setdefault(record.getMessage())
    kept, logger.handlers = logger.handlers, [listener]
    try:
        image = nibabel.load(path)
    finally:
        logger.handlers = kept
    if told:
        warnings.warn(f"The header of {path.name} is not as it should be ({'; '.join(told)}).", stacklevel=4)
    return image


def check_header(image: nibabel.Nifti1Image, path: Path, what: str) -> None:
    """Refuse a geometry that cannot be, and more voxels than the file has room for, before memory is asked for them.

    Raises:
        ValueError: for either.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * sides.prod()):
        raise ValueError(f"The {what} image must have an invertible affine, {path.name} has none; mend its header.")
    if not ((sides >= VOXEL_MM[0]) & (sides <= VOXEL_MM[1])).all():
        told = " x ".join(f"{side:.3g}" for side in sides)
        raise ValueError(f"The {what} image must have voxels in mm, {path.name} has {told}; mend its header.")
    room = path.stat().st_size * {".gz": DEFLATE, ".nii": 1}.get(path.suffix, math.inf)
    if not 0 < math.prod(map(int, image.shape)) * np.dtype(image.get_data_dtype()).itemsize <= room:
        told = f"truncated or damaged (its header announces {image.shape} voxels, which do not fit in it)"
        raise ValueError(f"The {what} image must be whole, {path.name} is {told}; copy it again.")
