"""Structures from elsewhere: label images in NIfTI files, joined labels, and tissues by the MNI template."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_from_to
from scipy import ndimage

from ies_helpers.measures.structures import Structures, labelled
from ies_helpers.measures.surroundings import brain_of
from ies_helpers.subjects.anatomy import template_tissues
from ies_helpers.subjects.loading import AFFINE_TOLERANCE, read_image, read_values
from ies_helpers.subjects.subject import Subject
from ies_helpers.subjects.surround import brain_mask
from ies_helpers.types import Affine

TISSUES = ("white matter", "grey matter", "ventricles", "other CSF")

BLUR_MM = 2.0
"""Width of the gaussian over the template: how far a patient's tissue borders may lie from it."""

VENTRICLE_MM = 6.0
"""CSF no farther than this from the template's lateral ventricles is ventricle: a patient's are often wider."""

ROUNDS = 10
"""Of expectation and maximisation."""

OVERLAP = 0.8
"""Dice coefficient of a brain in MNI space and the template's, at least."""


def read_labels(path: str | Path, subject: Subject) -> np.ndarray:
    """Whole-number labels `(I, J, K)` of a NIfTI file on the subject's grid.

    A file on another grid is resampled, nearest neighbour, through the two affines, and a warning says so. That is no
    registration: it must lie in the subject's space.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no 3D NIfTI image of whole numbers (probabilities, logits), or does not reach the subject.
    """
    path = Path(path)
    image = read_image(path, "label")
    values = np.asarray(read_values(image, "label"))
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise ValueError(f"A label image must hold whole numbers, {path.name} holds others; save labels, not scores.")
    labels, affine = values.astype(np.int32), np.asarray(image.affine, dtype=np.float64)
    apart = float(np.abs(affine - subject.affine).max())
    if labels.shape != subject.shape or apart > AFFINE_TOLERANCE:
        labels = _on_grid_of(subject, labels, affine)
        warnings.warn(
            f"{path.name} lies on another grid (shape {values.shape}, affine up to {apart:.3g} apart) than "
            f"{subject.name} (shape {subject.shape}): resampled, nearest neighbour. Small structures may change.",
            stacklevel=2,
        )
    if values.any() and not labels.any():
        raise ValueError(
            f"A label image must reach its subject, no label of {path.name} lies in {subject.name}'s grid."
        )
    return labels


def _on_grid_of(subject: Subject, labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    image = nibabel.Nifti1Image(labels, affine)
    return np.asarray(resample_from_to(image, (subject.shape, subject.affine), order=0).dataobj).astype(np.int32)


def read_structures(
    path: str | Path, subject: Subject, names: Mapping[int, str] | Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Structures of a NIfTI file: see `read_labels`.

    Args:
        path: a mask or a label image.
        subject: whose grid they are wanted on.
        names: label -> name of those wanted, or names of labels 0, 1, ...; None takes every label but 0, a mask by its
            file's name, others as `label 3`.

    Returns:
        Name -> bool mask. A warning names those without a voxel, and those wholly outside the brain.
    """
    labels, stem = read_labels(path, subject), Path(path).name.split(".nii")[0]
    here = [int(n) for n in np.unique(labels) if n]
    if names is None:
        names = {1: stem} if here == [1] else {n: f"label {n}" for n in here}
    if not names:
        raise ValueError(f"A label image must hold a label, {Path(path).name} is zero everywhere.")
    structures, brain = labelled(labels, names), brain_mask(subject.image)
    for why, some in {
        "have no voxel": [name for name, mask in structures.items() if not mask.any()],
        "lie outside the brain": [n for n, mask in structures.items() if mask.any() and not (mask & brain).any()],
    }.items():
        if some:
            warnings.warn(f"Of {Path(path).name} these {why} of {subject.name}: {', '.join(some)}.", stacklevel=2)
    return structures


def join(structures: Structures, groups: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Unions of structures, such as `{"lungs": ["lung left", "lung right"]}`.

    Raises:
        ValueError: for a name that is not among the structures.
    """
    unknown = sorted({name for some in groups.values() for name in some} - set(structures))
    if unknown or not all(groups.values()):
        raise ValueError(
            f"Joined names must be structures, got {unknown or 'none'}; there are {', '.join(structures)}."
        )
    return {
        name: np.any([np.asarray(structures[n], dtype=bool) for n in some], axis=0) for name, some in groups.items()
    }


def brain_tissues(subject: Subject) -> dict[str, np.ndarray]:
    """White and grey matter, ventricles and other CSF of a brain in MNI space: a rough segmentation.

    A mixture of three gaussians over all modalities, weighted at each voxel by nilearn's template (blurred by 2 mm)
    and fitted by expectation-maximisation to the brain without its target. CSF within 6 mm of the template's lateral
    ventricles is called ventricle. In three phantoms 88 to 90 % of the voxels outside lesions got their true tissue;
    what is wrong is mostly cortex called CSF. Bring masks of your own by `read_structures` where it matters.

    Args:
        subject: whose affine leads to MNI space (open patients, phantoms, the demo).

    Raises:
        ValueError: if the brain does not lie where the template's does.
    """
    brain = brain_of(subject)
    white, grey, csf, to_ventricles = template_tissues(_world(subject, template_affine(subject)))
    blurred = [ndimage.gaussian_filter(t, BLUR_MM / np.array(subject.spacing))[brain] for t in (white, grey, csf)]
    prior = np.stack(blurred) + 0.02
    known = np.ones(int(brain.sum()), dtype=bool) if subject.target is None else ~subject.target.numpy()[brain]
    best = _mixture(subject.image.numpy()[:, brain], prior / prior.sum(axis=0), known).argmax(axis=0)
    labels = np.full(subject.shape, -1)
    labels[brain] = best
    fluid, near = labels == 2, to_ventricles <= VENTRICLE_MM
    return dict(zip(TISSUES, (labels == 0, labels == 1, fluid & near, fluid & ~near), strict=True))


def template_affine(subject: Subject) -> Affine:
    """`(4, 4)`: voxel indices to the template's world mm, the brain stretched to the template's size.

    The open patients were moved and turned into MNI space but not stretched: their brains are smaller than the
    template's, that of patient 26 by 11 to 20 % along the axes. So along each world axis position and width (mean and
    standard deviation) of the brain are matched with the template's brain in the same field of view. No registration:
    folds do not match.

    Raises:
        ValueError: if even then the brain does not lie where the template's does.
    """
    brain = brain_of(subject)
    own, known = (
        _world(subject, subject.affine)[:, mask] for mask in (brain, _template_brain(subject, subject.affine))
    )
    dice = 0.0
    if own.size and known.size:
        scale = known.std(axis=1) / np.maximum(own.std(axis=1), 1e-6)
        stretch = np.diag([*scale, 1.0])
        stretch[:3, 3] = known.mean(axis=1) - scale * own.mean(axis=1)
        affine = stretch @ subject.affine
        template = _template_brain(subject, affine)
        dice = 2 * (brain & template).sum() / (brain.sum() + template.sum())
    if dice < OVERLAP:
        raise ValueError(
            f"A template needs a brain in MNI space; that of {subject.name} overlaps it by a Dice coefficient of "
            f"{dice:.2f}, less than {OVERLAP}. Give masks of your own, see read_structures."
        )
    return affine


def _world(subject: Subject, affine: Affine) -> np.ndarray:
    """`(3, I, J, K)` float32 mm of every voxel."""
    return (np.tensordot(affine[:3, :3], np.indices(subject.shape), axes=1) + affine[:3, 3, None, None, None]).astype(
        np.float32
    )


def _template_brain(subject: Subject, affine: Affine) -> np.ndarray:
    white, grey, *_ = template_tissues(_world(subject, affine))
    return np.asarray(ndimage.binary_fill_holes(white + grey > 0.5))


def _mixture(values: np.ndarray, prior: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`(3, V)` posterior of tissues from `(C, V)` intensities and `(3, V)` prior, fitted where `known`."""
    posterior = prior
    for _ in range(ROUNDS):
        weight = posterior[:, known] / posterior[:, known].sum(axis=1, keepdims=True)
        mean = weight @ values[:, known].T
        variance = weight @ np.square(values[:, known]).T - np.square(mean) + 1e-6
        log = [
            -0.5 * (np.square(values - m[:, None]) / v[:, None] + np.log(v)[:, None]).sum(axis=0)
            for m, v in zip(mean, variance, strict=True)
        ]
        joint = np.stack(log) + np.log(prior)
        posterior = np.exp(joint - joint.max(axis=0))
        posterior /= posterior.sum(axis=0)
    return posterior
