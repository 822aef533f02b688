"""Lesions put into a subject or taken out of it, so that one thing changes and all else stays.

Intensities are those of the z-scored image, and nothing is z-scored again: a voxel that is not edited keeps its value
to the last bit. (A lesion of 100 voxels and contrast 1 would move the mean of a million voxels by 0.0001.)
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit

from ies_helpers.arrays import CONNECTIVITY, Box, LabelMap, LesionLike, Volume, Voxels, as_mask, check_seed, door
from ies_helpers.subjects.subject import Subject, channel
from ies_helpers.subjects.tissue import brain_mask, robust_deviation, white_matter

# The white matter around a lesion: where it is, and what the lesion's place would look like without the lesion.

REACH_MM = 8.0  # how far around a lesion white matter is its surround
HALO_MM = 2.0  # how far beyond its border a lesion may still be seen
GRAIN_MM = 4.0  # width of the gaussian whose average tells level from texture
FEWEST = 30  # voxels of white matter without which there is no saying what surrounds a lesion
EDGE_MM = 0.5  # width of a lesion's soft edge, as in the phantom's


class Surround:
    """The white matter between `HALO_MM` and `REACH_MM` from a lesion `(I, J, K)`, on a box that holds both."""

    def __init__(self, subject: Subject, lesion: np.ndarray) -> None:
        self.spacing = np.array(subject.spacing)
        self.box = Box.around(lesion).grow(np.ceil(REACH_MM / self.spacing).astype(int), lesion.shape)
        self.mask = lesion[self.box]
        self.image = subject.image.numpy()[:, *self.box]  # (C, i, j, k)
        self.distance = np.asarray(ndimage.distance_transform_edt(~self.mask, sampling=self.spacing))  # mm, 0 inside
        near = (self.distance > HALO_MM) & (self.distance <= REACH_MM)
        self.white = white_matter(subject)[self.box] & near
        self.known = int(self.white.sum()) >= FEWEST

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
            drawn.append(noise * robust_deviation(rest[self.white]) / noise.std())
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


@door
def add_lesion(subject: Subject, place: Any, size: float, contrast: float) -> Subject:
    """A subject with one more lesion: a ball with a soft edge, brighter in FLAIR and darker in T1 than what is there.

    The lesion is added to what is there, which keeps its texture. So the image is linear in `contrast`, and for a small
    one the change of a logit is the sum over the image of its gradient times `lesion_pattern`. The new subject has
    `plus` behind its name, and the lesion, which must not touch another, in its target if it has one.

    Args:
        subject: stays as it is.
        place: voxel `(i, j, k)` of the centre.
        size: mm3 of the ball; what of it lies in the brain is added.
        contrast: what FLAIR gains in the mean over the lesion's voxels, in z-scored units; T1 loses half of that. Real
            lesions have about 1 (`lesion_contrast`).
    """
    if not np.isfinite(contrast):
        raise ValueError(f"A contrast must be a finite number of z-scored units, got {contrast}; real lesions have 1.")
    pattern, mask = lesion_pattern(subject, place, size)
    drawn: dict[str, Any] = {} if subject.target is None else {"target": subject.target | mask}
    if subject.instances is not None:
        drawn["instances"] = torch.where(mask, subject.instances.max() + 1, subject.instances)
    image = subject.image + contrast * pattern
    return replace(subject, name=f"{subject.name}plus", image=image, **drawn, source={}, raw=None)


@door
def lesion_pattern(subject: Subject, place: Any, size: float) -> tuple[Volume, LabelMap]:
    """What `add_lesion` adds for contrast 1, `(C, I, J, K)`, and the voxels that are at least half lesion, `(I, J, K)`.

    With r the radius of the ball and d the distance to its centre, a voxel is 1 / (1 + exp((d - r) / 0.5 mm)) lesion;
    beyond 2 mm from the ball none is. Scaled so that the pattern's mean over the lesion's voxels is 1 in FLAIR.
    """
    radius, brain = _radius(size), brain_mask(subject.image)
    centre = np.asarray(place)
    if centre.shape != (3,) or not np.issubdtype(centre.dtype, np.integer):
        raise ValueError(f"A place must be a voxel (i, j, k) in whole numbers, got {place}; healthy_places draws some.")
    if (centre < 0).any() or (centre >= brain.shape).any() or not brain[tuple(centre)]:
        met = f"voxel {tuple(int(c) for c in centre)} of an image of {' x '.join(map(str, brain.shape))}"
        raise ValueError(f"A place must lie in the brain, got {met}, where there is none; healthy_places draws some.")
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(brain.shape, centre, subject.spacing, strict=True)]
    distance = np.sqrt(sum(np.square(o) for o in np.ix_(*offsets)))
    outward = np.minimum(distance - radius, HALO_MM)
    extent = np.where((outward < HALO_MM) & brain, expit(-outward / EDGE_MM), 0)
    mask = extent >= 0.5
    others: np.ndarray = np.zeros_like(mask) if subject.target is None else subject.target.numpy()
    if met := int((ndimage.binary_dilation(mask, CONNECTIVITY) & others).sum()):
        there = f"one of {size:g} mm3 there would meet {met} voxels of the target"
        raise ValueError(f"A new lesion must not touch another, {there}; healthy_places draws places that are free.")
    return _as_pattern(subject, extent / extent[mask].mean()), torch.from_numpy(mask)


@door
def lesion_shape(subject: Subject, lesion: LesionLike) -> Volume:
    """What makes a lesion that is there brighter in FLAIR by 1: `lesion_pattern` in its own shape, `(C, I, J, K)`.

    With d the distance in mm to its border, below 0 inside, a voxel is 1 / (1 + exp(d / 0.5 mm)) lesion; the border
    runs half a voxel outside its outermost voxels. Scaled so that the mean over its voxels is 1 in FLAIR; each other
    channel has its share of that (`Channel.bright`: T1 -0.5), channels of which that is not known have nothing.
    """
    mask, spacing = as_mask(lesion, subject.shape), np.array(subject.spacing)
    box = Box.around(mask).grow(np.ceil(HALO_MM / spacing).astype(int) + 1, mask.shape)
    own, brain = mask[box], brain_mask(subject.image)[box]
    if not (own & brain).any():
        raise ValueError(f"A lesion must lie in the brain, this one lies where {subject.name} is 0 in all channels.")
    padded, half = np.pad(own, 1), spacing.min() / 2
    inward = np.asarray(ndimage.distance_transform_edt(padded, sampling=spacing))[1:-1, 1:-1, 1:-1] - half
    outward = np.asarray(ndimage.distance_transform_edt(~own, sampling=spacing)) - half
    away = np.where(own, -inward, outward)
    extent = np.zeros(mask.shape)
    extent[box] = np.where((away < HALO_MM) & brain, expit(-away / EDGE_MM), 0)
    return _as_pattern(subject, extent / extent[mask].mean())


def _as_pattern(subject: Subject, shape: np.ndarray) -> Volume:
    """`(C, I, J, K)`: each channel's share of a lesion's contrast in FLAIR, on `shape` `(I, J, K)`."""
    values = torch.from_numpy(shape).to(subject.image.dtype)
    return torch.stack([channel(name).bright * values for name in subject.channels])


def _radius(size: float) -> float:
    """Of the ball of `size` mm3, in mm."""
    if not (np.isfinite(size) and size > 0):
        raise ValueError(f"A lesion must have a size in mm3 above 0, got {size}; common ones have 10 to 1000.")
    return float(np.cbrt(size * 3 / 4 / np.pi))


def healthy_places(subject: Subject, size: float, count: int, *, seed: int = 0) -> Voxels:
    """Voxels `(count, 3)` in white matter where a lesion of `size` mm3 has room, drawn with a seed.

    The surround of a place must be white matter for the most part (80 %, gaussian weights 2 mm wider than the ball),
    and the ball 2 mm away from the target. The places may lie close to each other.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more places, got {count}; say how many you need.")
    check_seed(seed)
    radius, spacing = _radius(size), np.array(subject.spacing)
    white = ndimage.gaussian_filter(white_matter(subject).astype(np.float32), (radius + HALO_MM) / spacing) > 0.8
    if subject.target is not None and subject.target.any():
        distance = np.asarray(ndimage.distance_transform_edt(~subject.target.numpy(), sampling=spacing))
        white &= distance > radius + HALO_MM
    places = np.argwhere(white)
    if len(places) < count:
        met = f"{count} places with room for {size:g} mm3, got {len(places)}"
        raise ValueError(f"{subject.name} must have {met}; ask for less.")
    return np.random.default_rng(seed).permutation(places)[:count]


@door
def remove_lesion(subject: Subject, lesion: LesionLike, *, seed: int = 0) -> Subject:
    """A subject without one of its lesions, white matter in its place: the level of that around, and its texture.

    A lesion goes whole: where it touches the target, the target's components (or instances) go with it. Its halo goes
    too: within 2 mm of its border what is brighter in FLAIR than white matter and its scatter, fading out, but no other
    lesion. What stood there in truth, nobody knows: next to cortex or ventricles white matter may not be it.

    The new subject has `minus` behind its name, and the lesion, which need not have been in the target, is not in it.
    `seed` is that of the texture.
    """
    mask = as_mask(lesion, subject.shape)
    truth = np.zeros_like(mask) if subject.target is None else subject.target.numpy()
    labels, _ = ndimage.label(truth, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    labels = labels if subject.instances is None else subject.instances.numpy()
    mask |= np.isin(labels, np.setdiff1d(labels[mask], 0))
    around = Surround(subject, mask)
    if not around.known:
        rule = f"There must be {FEWEST} voxels of white matter within {REACH_MM:g} mm of a lesion to fill it from"
        raise ValueError(f"{rule}, got {int(around.white.sum())}; choose another lesion.")
    level, texture = around.level(), around.texture(seed)
    flair = subject.channels.index("flair")
    bright = around.image[flair] > level[flair] + texture[flair].std()
    halo = np.clip(HALO_MM - around.distance, 0, 1) * (bright & ~truth[around.box])
    share = np.where(around.mask, 1, halo) * brain_mask(subject.image)[around.box]
    image = subject.image.clone()
    edited = around.image + share * (level + texture - around.image)
    image[:, *around.box] = torch.from_numpy(edited.astype(np.float32))
    kept = ~torch.from_numpy(mask)
    drawn: dict[str, Any] = {} if subject.target is None else {"target": subject.target & kept}
    if subject.instances is not None:
        drawn["instances"] = subject.instances * kept
    return replace(subject, name=f"{subject.name}minus", image=image, **drawn, source={}, raw=None)


@door
def lesion_contrast(subject: Subject, lesion: LesionLike) -> dict[str, float]:
    """How far each channel's mean in a lesion lies from the median of the white matter around it, z-scored units.

    NaN for a lesion with fewer than 30 voxels of white matter within 8 mm.
    """
    around = Surround(subject, as_mask(lesion, subject.shape))
    middle = [np.median(channel[around.white]) if around.known else np.nan for channel in around.image]
    values = [float(channel[around.mask].mean() - m) for channel, m in zip(around.image, middle, strict=True)]
    return dict(zip(subject.channels, values, strict=True))
