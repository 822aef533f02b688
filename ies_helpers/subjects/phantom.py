"""A synthetic patient with known lesions, out of nilearn's packaged templates: no patient, no download.

A phantom is a set of maps (tissues, lookalikes, lesions) and an image is a weighted sum of them, so that one
brain can be looked at with many contrasts: `phantom` draws one; training draws a new one for every patch.
"""

from dataclasses import dataclass
from numbers import Integral

import nibabel
import numpy as np
import torch
from scipy import ndimage

from ies_helpers.subjects.anatomy import (
    AFFINE,
    BOX,
    GRID,
    SHAPE,
    Anatomy,
    draw_anatomy,
    sigmoid,
    smooth_noise,
)
from ies_helpers.subjects.subject import Subject, normalise

CONNECTIVITY = ndimage.generate_binary_structure(3, 2)
SMALLEST, LARGEST = 5, 3000
"""Voxels of a focal lesion; one that meets others, or the plaque, is part of something larger."""

INTENSITIES = {  # lowest and highest in FLAIR, lowest and highest in T1
    "white": (1, 1, 1, 1),
    "cortex": (1.03, 1.22, 0.56, 0.76),
    "deep": (0.98, 1.12, 0.74, 0.88),
    "csf": (-0.02, 0.16, 0.05, 0.28),
    "dirt": (0.6, 1.0, 0.1, 0.5),  # of a lesion's
    "choroid": (0.8, 1.5, 0.3, 0.7),
    "edge": (-0.2, 0.6, 0.1, 1.6),
    "lesion": (0.24, 0.48, -0.38, -0.1),
    "core": (-0.03, 0.12, -0.45, -0.15),
}
"""What each map adds to the image, white matter being 1."""


@dataclass(frozen=True, eq=False)
class Maps:
    """A phantom before it has a contrast, inside `anatomy.BOX`.

    Attributes:
        maps: `(9, I, J, K)` float16, in the order of `INTENSITIES`.
        brain: `(I, J, K)` bool.
        target: `(I, J, K)` bool, the lesions.
    """

    maps: np.ndarray
    brain: np.ndarray
    target: np.ndarray


def phantom(seed: int, *, lesions: int | None = None) -> Subject:
    """Draw the synthetic patient of a seed, on the 182 x 218 x 182 MNI152 grid at 1 mm.

    Args:
        seed: a whole number, 0 or more; the same seed gives the same patient.
        lesions: focal lesions to draw (neighbours may merge, and most patients have a periventricular plaque
            besides); None draws their number too, 0 gives a healthy brain.

    Raises:
        TypeError, ValueError: if `seed` or `lesions` is not a whole number, 0 or more.
    """
    flair, t1, target = phantom_scan(seed, lesions=lesions)
    header = nibabel.Nifti1Image(flair, AFFINE).header
    image = normalise(np.stack([flair, t1]))
    source = {"subject": f"phantom:{seed}"} if lesions is None else {}
    mask = torch.from_numpy(target)
    return Subject(f"phantom{seed}", image, AFFINE.copy(), target=mask, header=header, source=source)


def phantom_scan(seed: int, *, lesions: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLAIR and T1 of `phantom` in raw units (white matter about 100 and 300), and the lesion mask."""
    for name, value in (("seed", seed), ("lesions", lesions)):
        _check_whole(name, value)
    rng = np.random.default_rng(int(seed))
    maps = draw_maps(rng, lesions)
    image = render(maps.maps, maps.brain, draw_contrast(rng), rng) * np.array([100, 300], "f4")[:, None, None, None]
    scan, target = np.zeros((2, *GRID), dtype=np.float32), np.zeros(GRID, dtype=bool)
    scan[(slice(None), *BOX)], target[BOX] = image, maps.target
    return scan[0], scan[1], target


def draw_maps(rng: np.random.Generator, lesions: int | None = None) -> Maps:
    """Draw a brain and its lesions; the contrast is left open."""
    anatomy = draw_anatomy(rng)
    severity = rng.normal()
    count = int(np.clip(np.exp(4.0 + 0.75 * severity), 8, 200)) if lesions is None else int(lesions)
    shape = np.zeros((3, *SHAPE), dtype=np.float32)
    if count:
        _paint_focal(rng, anatomy, count, shape)
        if rng.random() < 0.75:
            _paint_plaque(rng, anatomy, np.exp(7.9 + 0.9 * severity + rng.normal(0, 0.6)), shape)
    shape *= (1 - anatomy.maps[3]) * anatomy.brain
    target = _without_specks(shape[0] > 0.5)
    return Maps(np.concatenate([anatomy.maps, shape[1:]]).astype(np.float16), anatomy.brain, target)


def draw_contrast(rng: np.random.Generator) -> np.ndarray:
    """`(2, 9)` intensities of each map in FLAIR and T1, white matter being 1; spreads as seen in patients."""
    low, high = np.array(list(INTENSITIES.values()), dtype=np.float32).T.reshape(2, 2, -1).swapaxes(0, 1)
    contrast = rng.uniform(low, high).astype(np.float32)
    names = list(INTENSITIES)
    contrast[:, names.index("dirt")] *= contrast[:, names.index("lesion")]
    return contrast


def render(maps: np.ndarray, brain: np.ndarray, contrast: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`(2, I, J, K)` float32: contrast, bias field and noise on the maps; exactly 0 only outside the brain."""
    image = np.tensordot(contrast, maps.astype(np.float32), axes=1)
    for channel in image:
        channel *= np.exp(rng.uniform(0, 0.06) * smooth_noise(rng, 70, channel.shape))
        channel += rng.uniform(0.015, 0.05) * rng.standard_normal(channel.shape, dtype=np.float32)
        channel += rng.uniform(0, 0.05) * smooth_noise(rng, 3, channel.shape)
    image[np.abs(image) < 1e-3] = 1e-3
    return image * brain


def _check_whole(name: str, value: object) -> None:
    if name == "lesions" and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}; give an int such as 7.")
    if int(value) < 0:
        raise ValueError(f"{name} must be 0 or more, got {value!r}; give an int such as 7.")


def _without_specks(mask: np.ndarray) -> np.ndarray:
    labels = np.asarray(ndimage.label(mask, CONNECTIVITY)[0], np.int64)  # pyright: ignore[reportIndexIssue]
    return mask & (np.bincount(labels.ravel()) >= SMALLEST)[labels]


def _prior(anatomy: Anatomy) -> np.ndarray:
    """How likely a lesion is centred at each voxel: in white matter, near the ventricles, some far below."""
    wall, z = anatomy.distance, anatomy.world[2]
    near_cortex = ndimage.gaussian_filter(anatomy.maps[1], 2.5)
    below = sigmoid((-18 - z) / 3)
    weight = np.exp(-wall / 6) + 0.4 * np.exp(-wall / 28) + 0.08 + 0.12 * near_cortex
    return anatomy.maps[0] ** 2 * (weight * (1 - below) + 0.1 * below)


def _paint_focal(rng: np.random.Generator, anatomy: Anatomy, count: int, shape: np.ndarray) -> None:
    """Add `count` ellipsoids with rough, soft edges to `shape` (3: extent, FLAIR strength, T1 core)."""
    prior = np.cumsum(_prior(anatomy).ravel(), dtype=np.float64)
    centres = np.stack(np.unravel_index(np.searchsorted(prior, rng.uniform(0, prior[-1], count)), SHAPE), axis=1)
    sizes = np.clip(np.exp(rng.normal(3.55, 1.35, count)), SMALLEST + 2, LARGEST)
    rough = smooth_noise(rng, 4)
    slope = np.stack(list(np.gradient(ndimage.gaussian_filter(anatomy.distance, 2))))
    for centre, size in zip(centres, sizes, strict=True):
        wall = anatomy.distance[tuple(centre)]
        away = slope[(slice(None), *centre)] if wall < 9 else None
        _paint_one(rng, centre, np.cbrt(size * 3 / 4 / np.pi), away, rough, shape)


def _paint_one(
    rng: np.random.Generator,
    centre: np.ndarray,
    radius: float,
    away: np.ndarray | None,
    rough: np.ndarray,
    shape: np.ndarray,
) -> None:
    """One lesion; near the wall its long axis points away from the ventricle, as Dawson's fingers do."""
    axes = np.exp(rng.normal(0, 0.22, 3)) * ([1.0, 1, 1] if away is None else [rng.uniform(1.2, 2.2), 1, 1])
    axes *= radius / np.cbrt(axes.prod())
    frame = rng.standard_normal((3, 3))
    frame[:, 0] = frame[:, 0] if away is None else away + 0.25 * frame[:, 0]
    turn, _ = np.linalg.qr(frame)
    reach = int(np.ceil(axes.max() * 1.6 + 3))
    box = tuple(slice(max(0, c - reach), c + reach + 1) for c in centre)
    offset = np.indices(rough[box].shape, dtype=np.float32) + [[[[max(0, c - reach) - c]]] for c in centre]
    r = np.linalg.norm(np.tensordot(turn.T / axes[:, None], offset, axes=1), axis=0)
    extent = sigmoid((1 - r + 0.2 * rough[box]) * radius / rng.uniform(0.35, 0.75))
    faint = rng.random() < 0.2
    strength = rng.uniform(0.35, 0.6) if faint else rng.uniform(0.7, 1.4)
    core = rng.uniform(0, 1.0) * (radius > 2) * np.clip(1.2 - r * 1.3, 0, 1)
    texture = strength * (1 + 0.1 * rough[box])
    for layer, value in zip(shape, (extent, extent * texture, extent * core), strict=True):
        np.maximum(layer[box], value, out=layer[box])


def _paint_plaque(rng: np.random.Generator, anatomy: Anatomy, voxels: float, shape: np.ndarray) -> None:
    """Add a patchy confluent plaque along the ventricles, of about so many voxels."""
    wall, white = anatomy.distance, anatomy.maps[0]
    level = 0.9 * smooth_noise(rng, 11) + 0.35 * smooth_noise(rng, 4) - wall / rng.uniform(2.5, 6) + 1.2 * white
    level[(white < 0.3) | ~anatomy.brain | (anatomy.world[2] < -16)] = -99
    voxels = int(np.clip(voxels, 100, 40000))
    threshold = np.partition(level.ravel(), -voxels)[-voxels]
    extent = sigmoid((level - threshold) * rng.uniform(3, 7)) * (level > -50)
    texture = rng.uniform(0.7, 1.3) * (1 + 0.12 * smooth_noise(rng, 5))
    core = rng.uniform(0, 0.8) * sigmoid(3 * smooth_noise(rng, 6))
    for layer, value in zip(shape, (extent, extent * texture, extent * core), strict=True):
        np.maximum(layer, value, out=layer)
