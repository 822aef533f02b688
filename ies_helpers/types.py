"""Names for the arrays that travel between the floors of the house.

Axes are written in array letters: C modalities (channels), I J K voxels along the three axes of the
scan's own grid, V voxels of one lesion, B images of one batch. Distances are in mm.
"""

from typing import TypeAlias

import numpy as np
import torch

Volume: TypeAlias = torch.Tensor
"""`(C, I, J, K)` float32 image, each channel z-scored over its non-zero voxels."""

LabelMap: TypeAlias = torch.Tensor
"""`(I, J, K)` integer or boolean map: 0 is background."""

Probability: TypeAlias = torch.Tensor
"""`(I, J, K)` float32 probability of the lesion class, 0 to 1."""

Saliency: TypeAlias = torch.Tensor
"""`(C, I, J, K)` float32 signed map, in logits per unit of z-scored intensity."""

Voxels: TypeAlias = np.ndarray
"""`(V, 3)` integer indices of voxels."""

Affine: TypeAlias = np.ndarray
"""`(4, 4)` float64 matrix that takes voxel indices to world millimetres."""

Box: TypeAlias = tuple[slice, slice, slice]
"""A box of voxels, one slice with explicit start and stop along each axis."""
