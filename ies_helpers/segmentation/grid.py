"""One scan on a network's own grid, and the way back: turned, cropped, resampled and padded, all of it linear.

A network that wants other axes, a crop, another spacing or more voxels than a scan has is asked through a `Grid`: at
the boundary, outside the module, where a layer's map keeps its axes. Every step has its exact transpose, so a gradient
comes back to the scan's own voxels.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from torch import nn

from ies_helpers.arrays import Affine, Box, Voxels


@dataclass(frozen=True, eq=False)
class Resampling:
    """Splines along each axis, as matrices `(new, old)` float64.

    Attributes:
        matrices: one an axis.
        alone: the axis that is resampled by itself, slice by slice; None: none is.
    """

    matrices: tuple[torch.Tensor, ...]
    alone: int | None = None

    @classmethod
    def between(cls, old: Sequence[int], new: Sequence[int], orders: Sequence[int], alone: int | None) -> "Resampling":
        """Splines of one of `orders` an axis, ends repeated, between the outer borders of two grids of sides old, new.

        Read off from SciPy's answers to unit vectors: what scikit-image's `resize` does, axis by axis.
        """
        found = []
        for axis, (n, m, order) in enumerate(zip(old, new, orders, strict=True)):
            if axis == alone and n != m:  # at the centres of the new voxels
                at = (n / m) * (np.arange(m) + 0.5) - 0.5
                columns = [ndimage.map_coordinates(e, [at], order=order, mode="nearest") for e in np.eye(n)]
            elif axis == alone:
                columns = list(np.eye(n))
            else:
                columns = [ndimage.zoom(e, m / n, order=order, mode="nearest", grid_mode=True) for e in np.eye(n)]
            found.append(torch.from_numpy(np.stack(columns, axis=1)))
        return cls(tuple(found), alone)


class Grid:
    """One scan on a network's own grid.

    Attributes:
        box: of the scan, beyond which the network does not look.
        shape: `(a, b, c)` of the network's array.
    """

    def __init__(
        self,
        scan_shape: Sequence[int],
        box: Box,
        *,
        axes: Sequence[int] = (0, 1, 2),
        flips: Sequence[bool] = (False, False, False),
        there: Resampling | None = None,
        back: Resampling | None = None,
        least: Sequence[int] = (1, 1, 1),
        keep: torch.Tensor | None = None,
    ) -> None:
        """Say each step.

        Args:
            scan_shape: `(I, J, K)`.
            box: what is cut out of the scan.
            axes: for each axis of the network's array, the axis of the scan.
            flips: whether it runs the other way.
            there, back: to the network's spacing, and of its logits to the scan's; None: it is the scan's.
            least: sides that the array has at least: zeros go around it, of an odd number one more at the end.
            keep: `(C, a, b, c)` bool, before the zeros: where a resampled value counts; elsewhere it is 0.
        """
        self.scan_shape, self.box, self.axes, self.flips = tuple(scan_shape), box, tuple(axes), tuple(flips)
        self.there, self.back, self.keep = there, back, keep
        self.before = tuple(box.shape[a] for a in self.axes)
        self.after = tuple(len(m) for m in there.matrices) if there else self.before
        missing = [max(0, p - n) for p, n in zip(least, self.after, strict=True)]
        self.rim = [(n // 2, -(-n // 2)) for n in missing]
        self.shape = tuple(n + m for n, m in zip(self.after, missing, strict=True))

    @property
    def resamples(self) -> bool:
        """Whether the network sees another spacing than the scan's."""
        return self.there is not None

    def push(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The normalised image `(C, I, J, K)` -> what the network gets, `(C, a, b, c)`.

        Also says where resampling kept a value, None: everywhere. Cubic splines overshoot, and what leaves the range of
        the channel (or slice, where an axis is resampled by itself) is clipped: there no gradient passes.
        """
        x = self._mirror(image[:, *self.box].permute(0, *(a + 1 for a in self.axes)))
        passes = None
        if self.there is not None:
            low, high = self._range(x)
            x = _apply(x, self.there.matrices)
            passes = (x >= low) & (x <= high)
            passes = passes if self.keep is None else passes & self.keep
            x = x.clamp(low, high) if self.keep is None else x.clamp(low, high) * self.keep
        return nn.functional.pad(x, [side for rim in reversed(self.rim) for side in rim]), passes

    def _range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The range that values are clipped to: `(C, 1, 1, 1)`, or a slice's along the axis that stands alone."""
        assert self.there is not None
        alone = self.there.alone
        if alone is None:
            return x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        others = [n + 1 for n in range(3) if n != alone]
        ends = [x.amin(others, keepdim=True), x.amax(others, keepdim=True)]
        across = [self.there.matrices[alone] if n == alone else None for n in range(3)]
        return _apply(ends[0], across), _apply(ends[1], across)

    def pull(self, g: torch.Tensor, passes: torch.Tensor | None) -> torch.Tensor:
        """The transpose of `push`: a gradient `(C, a, b, c)` by what the network got -> `(C, I, J, K)` by the image."""
        g = g[:, *self._inner]
        if self.there is not None and passes is not None:
            g = _apply(g * passes, [m.T for m in self.there.matrices])
        whole = g.new_zeros(len(g), *self.scan_shape)
        whole[:, *self.box] = self._turn_back(g)
        return whole

    def spread(self, voxels: Voxels) -> tuple[np.ndarray, Voxels, np.ndarray]:
        """Scan voxels `(V, 3)` -> the network's voxels that make their logits: rows, `(N, 3)` and weights `(N,)`.

        The logit at voxel `rows[n]` is the sum of the weights times the logits at the network's voxels.
        """
        outside = ((voxels < self.box.start) | (voxels >= self.box.stop)).any(axis=1)
        if outside.any():
            raise ValueError(
                f"A lesion must lie where the network looks, {int(outside.sum())} of its {len(voxels)} voxels do not: "
                "it crops the scan (an nnU-Net to what is not zero) and calls the rest background. Leave it out."
            )
        local = (np.asarray(voxels) - self.box.start)[:, list(self.axes)]
        local = np.where(self.flips, np.array(self.before) - 1 - local, local)
        back = [m.numpy() for m in self.back.matrices] if self.back else [np.eye(n) for n in self.before]
        rows, places, weights = [], [], []
        for row, voxel in enumerate(local):
            taken = [(m[v].nonzero()[0], m[v]) for m, v in zip(back, voxel, strict=True)]
            for place in itertools.product(*(t[0] for t in taken)):
                rows.append(row)
                places.append([p + a for p, (a, _) in zip(place, self.rim, strict=True)])
                weights.append(np.prod([t[1][p] for p, t in zip(place, taken, strict=True)]))
        return np.array(rows), np.array(places), np.array(weights)

    def restore(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(K, a, b, c)` on the network's grid -> on the scan's box `(K, i, j, k)`."""
        y = logits[:, *self._inner]
        return self._turn_back(_apply(y, self.back.matrices) if self.back else y)

    def fill(self, logits: torch.Tensor) -> torch.Tensor:
        """`restore` on the whole scan, `(K, I, J, K)`; NaN beyond the box, where there are no logits."""
        restored = self.restore(logits)
        whole = restored.new_full((len(restored), *self.scan_shape), float("nan"))
        whole[:, *self.box] = restored
        return whole

    @property
    def _inner(self) -> Box:
        """The array without the zeros around it."""
        start = [a for a, _ in self.rim]
        return Box.of(start, np.add(start, self.after))

    def _mirror(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip([n + 1 for n, flipped in enumerate(self.flips) if flipped])

    def _turn_back(self, y: torch.Tensor) -> torch.Tensor:
        """From the network's axes to the scan's."""
        return self._mirror(y).permute(0, *(self.axes.index(a) + 1 for a in range(3)))


def ras_axes(affine: Affine) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For right, anterior and superior the axis of a scan that runs along it, and whether it runs the other way."""
    axes, flips = [0, 1, 2], [False, False, False]
    for axis, (to, direction) in enumerate(ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))):
        axes[int(to)], flips[int(to)] = axis, bool(direction < 0)
    return tuple(axes), tuple(flips)


def _apply(x: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """One matrix along each of the last three axes of `(C, a, b, c)`, in float64, back in the type of `x`."""
    y = x.double()
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            along = torch.tensordot(matrix.to(y), y, dims=([1], [axis + 1]))  # pyright: ignore[reportArgumentType]
            y = torch.movedim(along, 0, axis + 1)
    return y.to(x.dtype)
