"""A synthetic patient with known lesions, out of nilearn's packaged templates: no patient, no download.

A phantom is a set of maps (tissues, lookalikes, lesions) and an image is a weighted sum of them, so that one
brain can be looked at with many contrasts: `phantom` draws one; training draws a new one for every patch.
"""

from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Any

import nibabel
import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from ies_helpers.arrays import CONNECTIVITY, Affine, Box, door
from ies_helpers.subjects.subject import SHIPPED, Subject, normalise

# A healthy brain: tissue maps warped out of nilearn's packaged MNI152 templates, and beside them what only looks like a
# lesion, labelled background: the bright rim and caps of the ventricles, dirty white matter, cortical spots, punctate
# dots, septum and fornix, choroid plexus, leftovers of the skull strip. They make false positives believable.

GRID = (182, 218, 182)  # voxels of the MNI152 grid, 1 mm
AFFINE: Affine = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])  # to world mm
BOX = Box.of((19, 20, 10), (163, 196, 154))  # the part of the grid that holds the brain, and all that is computed
SHAPE = BOX.shape
TISSUES = ("white", "cortex", "deep", "csf")
LOOKALIKES = ("dirt", "choroid", "edge")
_ORIGIN = (98, 134, 72)
_TEMPLATE_CENTRE = np.array([0.0, -16.5, 5.5])
_TEMPLATE_VOXELS = 1.73e6


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A healthy brain inside `BOX`."""

    maps: np.ndarray  # (7, I, J, K) float32, fractions of `TISSUES`, then strengths of `LOOKALIKES`, 0 to about 1
    brain: np.ndarray  # (I, J, K) bool, where the skull strip left something
    distance: np.ndarray  # (I, J, K) mm to the wall of the lateral ventricles, 0 inside
    world: np.ndarray  # (3, I, J, K) the template's millimetres, which say where in the brain a voxel lies


def smooth_noise(rng: np.random.Generator, width: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Gaussian noise of unit variance whose bumps are about `width` voxels wide."""
    step = max(1.0, width / 2)
    coarse = rng.standard_normal([int(n / step) + 4 for n in shape], dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, width / 2 / step)
    fine = functional.interpolate(torch.from_numpy(coarse)[None, None], size=shape, mode="trilinear")[0, 0].numpy()
    return (fine - fine.mean()) / fine.std()


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return torch.sigmoid(torch.as_tensor(x)).numpy()


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one healthy brain: shape, ventricles, tissues, lookalikes. About 3 s."""
    world = _draw_warp(rng)
    white, grey, csf, distance = template_tissues(world)
    tissues = _sharpen(rng, np.stack([white, grey, csf]))
    brain = _skull_strip(rng, white + grey, world)
    x, y, z = np.abs(world[0]), world[1], world[2]
    inner = sigmoid(8 - 8 * np.hypot(np.hypot((x - 17) / 15, (y + 4) / 28), (z - 4) / 16))
    healthy = np.stack([tissues[0], tissues[1] * (1 - inner), tissues[1] * inner, tissues[2]])
    lookalikes = _draw_lookalikes(rng, healthy, brain, distance, world)
    return Anatomy(np.concatenate([healthy, lookalikes]) * brain, brain, distance, world)


def template_tissues(world: np.ndarray) -> np.ndarray:
    """`(4, I, J, K)`: white, grey, csf, mm to the lateral ventricles, at `(3, I, J, K)` millimetres of MNI space."""
    return _sample(_templates()[:4], world)


@cache
def _templates() -> torch.Tensor:
    """`(7, I, J, K)` on the template's grid: white, grey, csf, mm to the lateral ventricles, its gradient."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template  # takes seconds

    images = (load_mni152_wm_template(resolution=1), load_mni152_gm_template(resolution=1))
    white, grey = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    csf = np.clip(1 - grey - white, 0, 1)
    x, y, z = (axis - offset for axis, offset in zip(np.ogrid[tuple(map(slice, csf.shape))], _ORIGIN, strict=True))
    middle = (np.abs(x) < 42) & (np.abs(y + 8) < 50) & (z > -14) & (z < 34)
    cistern = (np.abs(x) < 15) & (y < -28) & (z < 13)
    ventricles = _largest_part((csf > 0.5) & middle & ~cistern)
    distance = np.asarray(ndimage.distance_transform_edt(~ventricles), dtype=np.float32)
    slope = np.gradient(ndimage.gaussian_filter(distance, 1.5))
    return torch.from_numpy(np.stack([white, grey, csf, distance, *slope]))


def _sample(template: torch.Tensor, world: np.ndarray) -> np.ndarray:
    """Values of the template's channels at `(3, I, J, K)` of its millimetres."""
    size = np.array(template.shape[1:])
    voxels = (world.reshape(3, -1).T + _ORIGIN) / (size - 1) * 2 - 1
    grid = torch.from_numpy(np.ascontiguousarray(voxels[:, ::-1], dtype=np.float32)).view(1, *world.shape[1:], 3)
    return functional.grid_sample(template[None], grid, align_corners=True)[0].numpy()


def _draw_warp(rng: np.random.Generator) -> np.ndarray:
    """`(3, I, J, K)`: the template's millimetres behind each voxel, through a random affine and elastic warp.

    The size is drawn so that the brain has about 1.0 to 1.25 million voxels; patients on this grid have 1.1.
    """
    flip = np.diag([rng.choice([-1.0, 1.0]), 1, 1])
    scale = (rng.uniform(1.04e6, 1.17e6) / _TEMPLATE_VOXELS) ** (1 / 3)
    stretch = np.array([1.03, 1.0, 0.97]) * np.exp(rng.normal(0, 0.03, 3))
    shear = np.eye(3) + rng.normal(0, 0.03, (3, 3))
    matrix = flip @ shear / (scale * stretch / np.cbrt(stretch.prod()))
    centred = np.indices(SHAPE, dtype=np.float32).reshape(3, -1) - (np.array(SHAPE)[:, None] / 2)
    shift = _TEMPLATE_CENTRE + rng.normal(0, 1.5, 3)
    world = (matrix.astype(np.float32) @ centred.astype(np.float32)).reshape(3, *SHAPE)
    for axis in range(3):
        world[axis] += shift[axis] + 1.8 * smooth_noise(rng, 45) + 0.7 * smooth_noise(rng, 14)
    # samples are pulled towards the ventricles, which grow by some millimetres and push their surround away
    distance, *slope = _sample(_templates()[3:], world)
    return world - rng.uniform(-0.5, 4.5) * np.exp(-distance / 9) * np.stack(slope)


def _sharpen(rng: np.random.Generator, fractions: np.ndarray) -> np.ndarray:
    """Crisper tissue borders than an average of many brains has, roughened, then partial volume."""
    power = rng.uniform(1.6, 3.0)
    favour = np.exp([rng.uniform(0.2, 0.9), 0, rng.uniform(0.4, 1.8)])  # thin cortex and open sulci, as patients have
    rough = [f * np.exp(0.35 * smooth_noise(rng, 2.5)) for f in favour]
    sharp = np.stack([np.clip(f, 1e-3, 1) ** power * r for f, r in zip(fractions, rough, strict=True)])
    sharp /= sharp.sum(axis=0)
    blur = rng.uniform(0.35, 0.6)
    return np.stack([ndimage.gaussian_filter(s, blur, truncate=3) for s in sharp])


def _skull_strip(rng: np.random.Generator, tissue: np.ndarray, world: np.ndarray) -> np.ndarray:
    """A brain mask with a ragged edge, cut off below at a random height."""
    level = ndimage.gaussian_filter(tissue, 1.0) + 0.08 * smooth_noise(rng, 4) + 0.08 * smooth_noise(rng, 12)
    mask = (level > rng.uniform(0.35, 0.5)) & (world[2] > rng.uniform(-72, -56))
    return _largest_part(np.asarray(ndimage.binary_fill_holes(mask)))


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected component."""
    labels = np.asarray(ndimage.label(mask)[0])  # pyright: ignore[reportIndexIssue]
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def _draw_lookalikes(
    rng: np.random.Generator, tissues: np.ndarray, brain: np.ndarray, distance: np.ndarray, world: np.ndarray
) -> np.ndarray:
    """`(3, I, J, K)`: dirt, choroid and edge, as in `LOOKALIKES`."""
    white, cortex, _, csf = tissues
    wall, patches = distance, sigmoid(2 * smooth_noise(rng, 10))
    x, y, z = np.abs(world[0]), world[1], world[2]
    rim = rng.uniform(0, 0.7) * np.exp(-wall / rng.uniform(0.8, 1.6)) * patches
    caps = rng.uniform(0, 0.8) * np.exp(-wall / 2.5) * (sigmoid((y - 22) / 2) + sigmoid((-38 - y) / 2) * patches)
    dirty = rng.uniform(0, 0.45) * np.clip(smooth_noise(rng, 16), 0, 2) * np.exp(-wall / 18) * white
    spots = rng.uniform(0.2, 0.6) * sigmoid(6 * (smooth_noise(rng, 4) - rng.uniform(1.6, 2.2))) * cortex
    dots = rng.uniform(0.3, 0.9) * _draw_dots(rng, white * brain)
    sheet = rng.uniform(0, 1.0) * np.exp(-((x / 1.8) ** 2) - (((y + 5) / 25) ** 4) - ((z - 11) / 9) ** 4) * patches
    dirt = np.maximum.reduce([rim, caps, dirty, spots, dots, sheet]) * (1 - csf)
    plexus = sigmoid(5 * (smooth_noise(rng, 4) - 0.4)) * np.exp(-(((y + 30) / 16) ** 2)) * (distance < 1.5)
    choroid = rng.uniform(0, 1) * plexus * np.clip(csf + 0.3, 0, 1)
    depth = np.asarray(ndimage.distance_transform_edt(brain))
    low = 1 + 1.5 * sigmoid((-20 - z) / 6)
    edge = rng.uniform(0.2, 1) * sigmoid(5 * (smooth_noise(rng, 7) * low - rng.uniform(1.8, 3.2))) * (depth < 2.5)
    return np.stack([dirt, choroid, edge])


def _draw_dots(rng: np.random.Generator, where: np.ndarray) -> np.ndarray:
    """A few bright dots of 1 to 4 voxels in the white matter."""
    dots = np.zeros(SHAPE, dtype=np.float32)
    places = np.flatnonzero(where > 0.7)
    dots.flat[rng.choice(places, rng.integers(5, 40))] = rng.uniform(2, 7)
    return np.clip(ndimage.gaussian_filter(dots, 0.55), 0, 1)


SMALLEST, LARGEST = 5, 3000  # voxels of a focal lesion; one that meets others, or the plaque, is part of a larger one

INTENSITIES = {  # what each map adds to the image, white matter being 1: lowest and highest in FLAIR, then in T1
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


@dataclass(frozen=True, eq=False)
class Maps:
    """A phantom before it has a contrast, inside `BOX`."""

    maps: np.ndarray  # (9, I, J, K) float16, in the order of `INTENSITIES`
    brain: np.ndarray  # (I, J, K) bool
    target: np.ndarray  # (I, J, K) bool, the lesions


@door
def phantom(seed: int, *, lesions: int | None = None) -> Subject:
    """Draw the synthetic patient of a seed, on the 182 x 218 x 182 MNI152 grid at 1 mm.

    Args:
        seed: a whole number, 0 or more; the same seed gives the same patient.
        lesions: focal lesions to draw (neighbours may merge, and most patients have a periventricular plaque
            besides); None draws their number too, 0 gives a healthy brain.
    """
    flair, t1, target = phantom_scan(seed, lesions=lesions)
    raw = torch.from_numpy(np.stack([flair, t1]))
    source = {"subject": f"phantom:{seed}"} if lesions is None else {}
    header = nibabel.Nifti1Image(flair, AFFINE).header
    mask, nothing = torch.from_numpy(target), {"flair": "0", "t1": "0"}
    return Subject(
        f"phantom{seed}", normalise(raw), AFFINE.copy(), SHIPPED, mask, header, source, raw=raw, background=nothing
    )


def phantom_scan(seed: int, *, lesions: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLAIR and T1 of `phantom` in raw units (white matter about 100 and 300), and the lesion mask."""
    for name, value in (("seed", seed), ("lesions", 0 if lesions is None else lesions)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r}; give an int such as 7.")
        if int(value) < 0:
            raise ValueError(f"{name} must be 0 or more, got {value!r}; give an int such as 7.")
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


def _paint_one(rng: np.random.Generator, centre: np.ndarray, radius: float, away: Any, rough: Any, shape: Any) -> None:
    """One lesion; near the wall its long axis points `away` from the ventricle, as Dawson's fingers do."""
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
    _add(shape[:, *box], extent, texture, core)


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
    _add(shape, extent, texture, core)


def _add(shape: np.ndarray, extent: np.ndarray, texture: np.ndarray, core: np.ndarray) -> None:
    """Paint into `shape` what is stronger than what is there."""
    np.maximum(shape, np.stack([extent, extent * texture, extent * core]), out=shape)
