"""Removed voxels as their surroundings would have them: noisy linear imputation in 3D.

Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods" (ROAD, ICML 2022, arXiv
2202.00449), in 2D with 8 neighbours: weight 1/6 for those that share an edge, 1/12 for diagonal ones, which is
1/d^2 over its sum. The same rule in 3D has 26 neighbours: 3/44 across a face, 3/88 an edge, 1/44 a corner; on one
slice it is the 2D rule again.
"""

import itertools

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg

from ies_helpers.types import Volume, Voxels

WEIGHTS = {1: 3 / 44, 2: 3 / 88, 3: 1 / 44}
"""Squared distance of a neighbour -> its weight, proportional to 1/d^2; the 26 add up to 1."""

OFFSETS = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if any(offset)]

KEPT, OUTSIDE = -1, -2

ACCURACY = 1e-8
"""Residual at which a solution counts as found, relative to the right-hand side."""


def imputed(image: Volume, voxels: Voxels) -> np.ndarray:
    """Values for removed voxels, each the weighted mean of its 26 neighbours, all at once and in each modality.

    For every removed i: sum_n w_n x_n = x_i sum_n w_n, over the neighbours n inside the volume; removed
    neighbours are unknowns, all others keep their value. The noise of "noisy" is added by the caller.

    Args:
        image: `(C, I, J, K)`.
        voxels: `(n, 3)`, removed.

    Returns:
        `(C, n)` float64.

    Raises:
        ValueError: if nothing is left to impute from.
    """
    if len(voxels) == image[0].numel():
        raise ValueError(
            "Linear imputation needs a voxel that is kept, got all of the image removed; take a smaller region or "
            "fraction, or fill='mean'."
        )
    matrix, rhs = _system(image, voxels)
    jacobi = diags_array(1 / matrix.diagonal())
    solved = [cg(matrix, b, rtol=ACCURACY, M=jacobi) for b in rhs]
    if any(info for _, info in solved):
        raise RuntimeError(f"The imputation of {len(voxels)} voxels did not converge; take a smaller fraction.")
    return np.stack([x for x, _ in solved])


def _system(image: Volume, voxels: Voxels) -> tuple[csr_array, np.ndarray]:
    """The symmetric positive definite matrix `(n, n)` and one right-hand side a modality, `(C, n)`."""
    lo = np.maximum(voxels.min(axis=0) - 1, 0)
    hi = np.minimum(voxels.max(axis=0) + 2, image.shape[1:])
    frame = image[(slice(None), *(slice(a, b) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)))]
    values = np.pad(np.asarray(frame.detach().cpu(), dtype=np.float64), [(0, 0), *[(1, 1)] * 3]).reshape(len(image), -1)
    number = np.full(tuple(hi - lo), KEPT, dtype=np.int32)
    number[tuple((voxels - lo).T)] = np.arange(len(voxels))
    number = np.pad(number, 1, constant_values=OUTSIDE)
    at = np.asarray(np.ravel_multi_index(tuple((voxels - lo + 1).T), number.shape))
    step = (number.shape[1] * number.shape[2], number.shape[2], 1)
    diagonal, rhs, entries = np.zeros(len(voxels)), np.zeros((len(image), len(voxels))), []
    for offset in OFFSETS:
        weight = WEIGHTS[sum(map(abs, offset))]
        there = at + sum(s * o for s, o in zip(step, offset, strict=True))
        neighbour = number.ravel()[there]
        diagonal += weight * (neighbour != OUTSIDE)
        kept, removed = neighbour == KEPT, np.flatnonzero(neighbour >= 0)
        rhs[:, kept] += weight * values[:, there[kept]]
        entries.append((removed, neighbour[removed], np.full(len(removed), -weight)))
    rows, columns, weights = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = csr_array((weights, (rows, columns)), shape=(len(voxels), len(voxels)))
    return csr_array(matrix + diags_array(diagonal)), rhs
