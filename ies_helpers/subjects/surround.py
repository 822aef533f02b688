"""The white matter around a lesion: where it is, and what the lesion's place would look like without the lesion."""

import numpy as np
from scipy import ndimage

from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Box, Volume

BRIGHTEST = 0.4
"""Share of the brain, brightest in T1, that is taken for white matter where FLAIR is not unusual."""

USUAL = 2.5
"""Robust standard deviations of white matter in FLAIR beyond which a voxel is unusual: a lesion nobody drew."""

REACH_MM = 8.0
"""How far around a lesion white matter is its surround."""

HALO_MM = 2.0
"""How far beyond its border a lesion may still be seen."""

GRAIN_MM = 4.0
"""Width of the gaussian whose average tells level from texture."""

FEWEST = 30
"""Voxels of white matter without which there is no saying what surrounds a lesion."""


def brain_mask(image: Volume) -> np.ndarray:
    """`(I, J, K)` bool: where any modality is not 0."""
    return np.asarray((image != 0).any(dim=0).cpu())


def white_matter(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: voxels that look like healthy white matter, by their intensity alone.

    The 40 % of the brain that are brightest in T1, less what lies beyond 2.5 robust standard deviations of their
    median in FLAIR, less the target. Sure enough to take a level from, but no segmentation of tissue: in the two
    phantoms that were looked at it held 96 % and more of the white matter, and 13 and 19 % of it was not, cortex above
    all.
    """
    flair, t1 = (subject.image[subject.modalities.index(m)].numpy() for m in ("flair", "t1"))
    brain = brain_mask(subject.image)
    if subject.target is not None:
        brain &= ~subject.target.numpy()
    bright = brain & (t1 > (np.quantile(t1[brain], 1 - BRIGHTEST) if brain.any() else 0))
    if not bright.any():
        return bright
    return bright & (np.abs(flair - np.median(flair[bright])) <= USUAL * _robust(flair[bright]))


def _robust(values: np.ndarray) -> float:
    """Standard deviation from the median absolute deviation, which tissue borders do not widen much."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


class Surround:
    """The white matter between `HALO_MM` and `REACH_MM` from a lesion.

    Attributes:
        box: holds the lesion and its surround; all arrays are on it.
        mask, white: bool, the lesion and the white matter around it.
        distance: mm to the lesion, 0 inside.
        image: `(C, i, j, k)`, the subject's.
    """

    def __init__(self, subject: Subject, mask: np.ndarray) -> None:
        """Look around `mask` `(I, J, K)`."""
        self.spacing = np.array(subject.spacing)
        self.box = _around(mask, np.ceil(REACH_MM / self.spacing).astype(int))
        self.mask = mask[self.box]
        self.image = subject.image.numpy()[(slice(None), *self.box)]
        self.distance = np.asarray(ndimage.distance_transform_edt(~self.mask, sampling=self.spacing))
        near = (self.distance > HALO_MM) & (self.distance <= REACH_MM)
        self.white = white_matter(subject)[self.box] & near

    @property
    def known(self) -> bool:
        """Whether there is enough white matter to say anything."""
        return int(self.white.sum()) >= FEWEST

    def level(self) -> np.ndarray:
        """`(C, i, j, k)`: the white matter's values, averaged with gaussian weights that reach into the lesion."""
        depth = np.asarray(ndimage.distance_transform_edt(self.mask, sampling=self.spacing)).max()
        return self._blurred(float(depth) + HALO_MM)

    def texture(self, seed: int) -> np.ndarray:
        """`(C, i, j, k)`: gaussian noise that scatters as the white matter does, and is as alike from voxel to voxel.

        Scatter is what differs from the average over 4 mm. White noise is blurred by as much along each axis as makes
        neighbours correlate as they do there.
        """
        rng, drawn = np.random.default_rng(seed), []
        for rest in self.image - self._blurred(GRAIN_MM):
            width = [_width(self._alike(rest, axis)) for axis in range(3)]
            noise = ndimage.gaussian_filter(rng.standard_normal(rest.shape), width)
            drawn.append(noise * _robust(rest[self.white]) / noise.std())
        return np.stack(drawn)

    def _blurred(self, width_mm: float) -> np.ndarray:
        """`(C, i, j, k)`: the image averaged over white matter alone, with gaussian weights."""
        width = width_mm / self.spacing
        share = ndimage.gaussian_filter(self.white.astype(float), width, truncate=6)
        total = [ndimage.gaussian_filter(channel * self.white, width, truncate=6) for channel in self.image]
        return np.stack(total) / np.maximum(share, 1e-30)

    def _alike(self, rest: np.ndarray, axis: int) -> float:
        """Correlation of neighbours along an axis, both in white matter, from 0 to 0.95."""
        first, second = np.arange(rest.shape[axis])[:-1], np.arange(rest.shape[axis])[1:]
        both = self.white.take(first, axis) & self.white.take(second, axis)
        product = (rest.take(first, axis) * rest.take(second, axis))[both]
        scatter = rest[self.white].var()
        return float(np.clip(product.mean() / scatter, 0, 0.95)) if both.any() and scatter > 0 else 0.0


def _width(alike: float) -> float:
    """Width in voxels of the gaussian after which neighbours in white noise correlate by `alike`."""
    widths, x = np.linspace(0.2, 2.5, 47), np.arange(-12, 13)
    kernels = np.exp(-np.square(x / widths[:, None]) / 2)
    found = (kernels[:, 1:] * kernels[:, :-1]).sum(axis=1) / np.square(kernels).sum(axis=1)
    return float(np.interp(alike, found, widths))


def _around(mask: np.ndarray, reach: np.ndarray) -> Box:
    where = np.argwhere(mask)
    low, high = where.min(axis=0) - reach, where.max(axis=0) + reach + 1
    return tuple(slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, mask.shape, strict=True))  # pyright: ignore[reportReturnType]
