"""What the house calls a subject: one image with its geometry, and what is known to be a lesion."""

from dataclasses import dataclass, field

import nibabel
import numpy as np
import torch

from ies_helpers.types import Affine, LabelMap, Volume

MODALITIES = ("flair", "t1")


@dataclass(frozen=True, eq=False)
class Subject:
    """One patient, synthetic or real, ready for a network.

    Attributes:
        name: letters and digits, as in a BIDS `sub-<name>`.
        image: `(C, I, J, K)` float32, z-scored, channels in the order of `modalities`.
        affine: `(4, 4)`, voxel indices to world mm.
        modalities: names of the channels.
        target: `(I, J, K)` bool, the lesions an expert (or the phantom) drew; None when unknown.
        header: the NIfTI header of the first modality, whose space every map is written in.
        source: the arguments of `load_subject` that load it again.
    """

    name: str
    image: Volume
    affine: Affine
    modalities: tuple[str, ...] = MODALITIES
    target: LabelMap | None = None
    header: nibabel.Nifti1Header | None = None
    source: dict[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(I, J, K)`, in voxels."""
        return tuple(self.image.shape[1:])  # pyright: ignore[reportReturnType]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along each axis, in mm."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))  # pyright: ignore[reportReturnType]

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing)
        lesion = "unknown" if self.target is None else f"{int(self.target.sum())} lesion voxels"
        return f"Subject({self.name}: {', '.join(self.modalities)}; {size} voxels of {spacing} mm; target {lesion})"


def normalise(raw: np.ndarray | torch.Tensor) -> Volume:
    """Z-score each channel of `(C, I, J, K)` over its own non-zero voxels; zeros stay zero.

    This is MONAI's `NormalizeIntensity(nonzero=True, channel_wise=True)`, as published.
    """
    from monai.transforms.intensity.array import NormalizeIntensity  # takes seconds

    image = torch.as_tensor(raw, dtype=torch.float32).clone()
    normalised = torch.as_tensor(NormalizeIntensity(nonzero=True, channel_wise=True)(image), dtype=torch.float32)
    return normalised.as_subclass(torch.Tensor)  # MONAI wraps what it returns
