"""Training patches of the shipped U-Net: from phantoms, with a new contrast for each patch, and from patients."""

from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from ies_helpers.subjects.phantom import CONNECTIVITY, draw_contrast, draw_maps, render, smooth_noise
from ies_helpers.subjects.subject import normalise

PATCH = 64
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Phantom:
    """Maps of one phantom, still on disk, and their moments in the brain, which give z-scores for any contrast.

    `layers` is `(11, I, J, K)` float16: the nine maps, the brain, the target.
    """

    layers: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    centres: tuple[np.ndarray, ...]

    def patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`(2, P, P, P)` z-scored image with a new contrast, and `(P, P, P)` target."""
        box = box_around(draw_centre(rng, self.centres), self.layers.shape[1:])
        layers = np.array(self.layers[(slice(None), *box)])
        maps, brain, target = layers[:9], layers[9] > 0, layers[10] > 0
        contrast = draw_contrast(rng)
        mean = contrast @ self.mean
        spread = np.sqrt(np.einsum("cm,mn,cn->c", contrast, self.covariance, contrast) + 0.04**2)
        image = (render(maps, brain, contrast, rng) - mean[:, None, None, None]) / spread[:, None, None, None]
        return (image * brain).astype(np.float32), target


@dataclass(frozen=True, eq=False)
class Patient:
    """A scan: `layers` is `(4, I, J, K)` float32: FLAIR and T1 z-scored, brain, target."""

    layers: torch.Tensor
    centres: tuple[np.ndarray, ...]

    def patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`(2, P, P, P)` image with a new bias field, every other one turned and stretched a little; its target."""
        centre = draw_centre(rng, self.centres) + 0.5
        matrix = np.eye(3)
        if rng.random() < 0.5:  # only every other one: interpolation blurs
            turn, _ = np.linalg.qr(np.eye(3) + rng.normal(0, 0.12, (3, 3)))
            matrix = turn * np.sign(np.diag(turn)) * np.exp(rng.normal(0, 0.08, 3))
        offsets = np.stack(np.meshgrid(*[np.arange(PATCH) - PATCH / 2 + 0.5] * 3, indexing="ij"), axis=-1)
        size = np.array(self.layers.shape[1:])
        grid = ((offsets @ matrix.T + centre) / (size - 1) * 2 - 1)[None, ..., ::-1]
        grid = torch.from_numpy(np.ascontiguousarray(grid, dtype=np.float32))
        image, brain, target = functional.grid_sample(self.layers[None], grid, align_corners=True)[0].split((2, 1, 1))
        shade = np.stack([rng.uniform(0, 0.15) * smooth_noise(rng, 60, (PATCH,) * 3) for _ in range(2)])
        return ((image.numpy() + shade) * (brain.numpy() > 0.5)).astype(np.float32), target[0].numpy() > 0.5


def box_around(centre: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The patch around a centre, moved inside the volume where it would stick out."""
    starts = [int(np.clip(c - PATCH // 2, 0, n - PATCH)) for c, n in zip(centre, shape, strict=True)]
    return tuple(slice(s, s + PATCH) for s in starts)


def candidates(brain: np.ndarray, target: np.ndarray, suspect: np.ndarray) -> tuple[np.ndarray, ...]:
    """Voxels to centre patches on: in lesions, one per lesion (small ones count), suspects, anywhere."""
    labels, _ = ndimage.label(target, CONNECTIVITY)
    voxels = np.argwhere(target)
    _, first = np.unique(labels[tuple(voxels.T)], return_index=True)
    few = np.random.default_rng(0)
    groups = [voxels, voxels[first], np.argwhere(suspect & brain & ~target), np.argwhere(brain)]
    return tuple(few.permutation(g)[:20000].astype(np.int16) for g in groups)


def draw_centre(rng: np.random.Generator, centres: tuple[np.ndarray, ...]) -> np.ndarray:
    """60 % of the patches lie on a lesion, 20 % on something bright that is none, 20 % anywhere."""
    group = centres[rng.choice(4, p=(0.3, 0.3, 0.2, 0.2))]
    group = group if len(group) else centres[3]
    return group[rng.integers(len(group))] + rng.integers(-PATCH // 4, PATCH // 4, 3)


def _store_phantom(job: tuple[int, Path]) -> None:
    torch.set_num_threads(1)
    seed, path = job
    maps = draw_maps(np.random.default_rng(seed))
    layers = np.concatenate([maps.maps, maps.brain[None], maps.target[None]]).astype(np.float16)
    part = path.with_suffix(".part.npy")
    np.save(part, layers)
    part.replace(path)


def load_phantoms(seeds: range, folder: Path, workers: int) -> list[Phantom]:
    """Draw the phantoms that are not in `folder` yet and open them all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.npy" for seed in seeds]
    with get_context("spawn").Pool(workers) as pool:
        pool.map(_store_phantom, [(s, p) for s, p in zip(seeds, paths, strict=True) if not p.exists()], chunksize=1)
    return [_open_phantom(path) for path in paths]


def _open_phantom(path: Path) -> Phantom:
    layers = np.load(path, mmap_mode="r")
    brain, target = layers[9] > 0, layers[10] > 0
    inside = np.array(layers[:9])[:, brain].astype(np.float32)
    suspect = (layers[4] > 0.3) | (layers[5] > 0.3)
    return Phantom(layers, inside.mean(axis=1), np.cov(inside), candidates(brain, target, suspect))


def find_patients(openms: Path) -> list[str]:
    """Numbers of the patients whose folders the data set's folder holds, such as `["07", "19", "26"]`."""
    return sorted(p.name[-2:] for p in openms.glob("cross_sectional/MNI/patient[0-9][0-9]"))


def load_scan(openms: Path, number: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`(2, I, J, K)` z-scored image and `(I, J, K)` bool target of one open patient."""
    folder = openms / "cross_sectional" / "MNI" / f"patient{number}"
    arrays = []
    for start in ("FLAIR", "T1", "GOLD_STANDARD"):
        paths = sorted(folder.glob(f"{start}*.nii*"))
        if not paths:
            raise FileNotFoundError(f"patient {number} needs a file {start}*.nii.gz in {folder}, found none.")
        arrays.append(np.asarray(nibabel.load(paths[0]).dataobj, dtype=np.float32))  # pyright: ignore
    return normalise(np.stack(arrays[:2])), torch.from_numpy(arrays[2] > 0)


def load_patient(openms: Path, number: str) -> Patient:
    """One open patient, ready to give patches; suspects are bright FLAIR voxels outside the lesions."""
    image, target = load_scan(openms, number)
    flair = image[0].numpy()
    brain = ndimage.binary_fill_holes(flair != 0)
    layers = torch.cat([image, torch.from_numpy(brain)[None].float(), target[None].float()])
    return Patient(layers, candidates(brain, target.numpy(), flair > 1.2))


def augment(rng: np.random.Generator, image: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur (T1 also through the slices), noise, gamma, scale and shift per channel; left-right flip."""
    brain = image[0] != 0
    for channel in range(2):
        x = image[channel]
        if rng.random() < 0.3:
            slices = rng.uniform(0, 1.0) if channel else 0.0
            x = ndimage.gaussian_filter(x, (rng.uniform(0, 0.7), rng.uniform(0, 0.7), slices), truncate=2.5)
        if rng.random() < 0.3:
            x = x + rng.uniform(0, 0.25) * rng.standard_normal(x.shape, dtype=np.float32)
        if rng.random() < 0.3:
            low, high = x.min(), x.max() + 1e-3
            x = ((x - low) / (high - low)) ** np.float32(np.exp(rng.normal(0, 0.2))) * (high - low) + low
        if rng.random() < 0.6:
            x = x * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
        image[channel] = x
    image *= brain
    if rng.random() < 0.5:
        image, target = image[:, ::-1], target[::-1]
    return image, target


def draw_batch(
    rng: np.random.Generator, phantoms: list[Phantom], patients: list[Patient], real: float, size: int = 2
) -> Batch:
    """`(B, 2, P, P, P)` images and `(B, 1, P, P, P)` targets, a share `real` of them from patients."""
    pairs = []
    for _ in range(size):
        source = patients if rng.random() < real else phantoms
        pairs.append(augment(rng, *source[rng.integers(len(source))].patch(rng)))
    images, targets = (np.ascontiguousarray(np.stack(part)) for part in zip(*pairs, strict=True))
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(targets[:, None].astype(np.int64))
