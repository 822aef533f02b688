"""A map in a browser: nilearn's three linked planes in one self-contained file."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
from nibabel.affines import apply_affine, from_matvec

from ies_helpers.figures.panels import SIGNED, check_map
from ies_helpers.segmentation.lesions import Lesion, as_voxels
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import LabelMap, Saliency, Voxels

if TYPE_CHECKING:
    from nilearn.plotting.html_stat_map import StatMapView

REACH_MM = 30.0
"""How far around the lesion the page shows the image; keeps it under 3 MB."""


def saliency_html(
    subject: Subject,
    saliency: Saliency,
    lesion: Lesion | LabelMap | Voxels,
    *,
    modality: str = "flair",
    threshold: float = 0.05,
    title: str | None = None,
) -> "StatMapView":
    """The map of one modality over its image, around the lesion, for a notebook or a file.

    Args:
        subject: gives the image.
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all modalities.
        lesion: what is explained.
        modality: which channel.
        threshold: values below this share of the largest are see-through.
        title: shown above.

    Raises:
        ValueError: for a modality that the subject does not have, or a map on another grid or with NaN.
    """
    from nilearn.plotting import view_img  # takes a second

    if modality not in subject.modalities:
        raise ValueError(f"modality must be one of {', '.join(subject.modalities)}, got {modality!r}.")
    check_map(saliency, subject)
    channel = subject.modalities.index(modality)
    values = saliency[min(channel, len(saliency) - 1)].numpy()
    voxels = as_voxels(lesion, subject.shape)
    reach = np.ceil(REACH_MM / np.asarray(subject.spacing)).astype(int)
    low = np.maximum(0, voxels.min(axis=0) - reach)
    high = np.minimum(subject.shape, voxels.max(axis=0) + reach + 1)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = subject.affine @ from_matvec(np.eye(3), low)
    overlay = nibabel.Nifti1Image(values[box].astype(np.float32), affine)
    background = nibabel.Nifti1Image(subject.image[channel].numpy()[box].astype(np.float32), affine)
    top = float(np.abs(values).max())
    centre = apply_affine(subject.affine, voxels.mean(axis=0))
    return view_img(
        overlay,
        bg_img=background,
        threshold=threshold * top if top else None,
        vmax=top or 1.0,
        symmetric_cmap=True,
        cmap=SIGNED,
        cut_coords=tuple(centre),
        black_bg=True,
        colorbar=True,
        resampling_interpolation="nearest",
        title=title,
    )


def save_html(view: "StatMapView", path: Path) -> None:
    """Write a page that fills the window and asks the network for nothing, beside and renamed.

    `save_as_html` would put a small frame around it, and nilearn's template links its icon on the web.
    """
    write_text(path, re.sub(r"""<link\b[^>]*\bhref=["']https?:[^>]*>""", "", view.html))
