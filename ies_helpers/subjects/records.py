"""How one map was made: what its sidecar says, and what makes two maps the same."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ies_helpers.types import Volume, Voxels

GRADIENT_UNIT = "logit per unit of z-scored intensity"
CAM_UNIT = "arbitrary (weighted activation)"
LOGIT = "logit"

UNITS = {
    "smoothgrad": GRADIENT_UNIT,
    "gradcam++": CAM_UNIT,
    "gradcam": CAM_UNIT,
    "gradient": GRADIENT_UNIT,
    "input-x-gradient": LOGIT,
    "integrated-gradients": LOGIT,
    "occlusion": LOGIT,
    "kernel-shap": LOGIT,
}
"""Every method that `explain` knows -> the unit of its maps."""


@dataclass(frozen=True)
class MapRecord:
    """How one map was made; equal records mean equal maps.

    Attributes:
        subject, network, lesion, group: what is explained; `digest` is the network's weights' hash.
        method, aggregate, draws, seed, noise: how; None where the method has no such thing.
        tolerance: relative standard error of the peak at which draws ended, None where their number was asked for.
        sigma: standard deviation of the noise, in z-scored intensity.
        through: `whole` or `windows`, which function of the image was differentiated.
        voxels: of the lesion.
        unit: of the values.
        windows: their size, overlap and weighting, where `through` is `windows`.
        layer: that Grad-CAM read.
        statistics: `frozen` if instance norms were held still, an approximation.
        image: hash of the image and of where the lesion lies in it, see `fingerprint`.
        settings: what else a method was given, such as the baseline of integrated gradients; None where nothing.
    """

    subject: str
    network: str
    digest: str
    lesion: int
    group: str
    voxels: int
    method: str
    through: str
    unit: str
    aggregate: str | None = None
    draws: int | None = None
    seed: int | None = None
    noise: float | None = None
    sigma: float | None = None
    windows: str | None = None
    layer: str | None = None
    statistics: str = "exact"
    image: str | None = None
    tolerance: float | None = None
    settings: dict[str, Any] | None = None

    @property
    def description(self) -> str:
        """The `desc-` entity: letters and digits, such as `smoothgradmaxL003`."""
        method = self.method.replace("+", "p").replace("-", "")
        frozen = "frozen" if self.statistics == "frozen" else ""
        return f"{method}{self.aggregate or ''}{frozen}L{self.lesion:03d}"


def pixels_of(image: Volume) -> str:
    """SHA-256 of an image's values."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def fingerprint(pixels: str, voxels: Voxels) -> str:
    """What tells a lesion from any other, whatever its number: of the image (`pixels_of`) and of its voxels."""
    return hashlib.sha256(pixels.encode() + voxels.astype(np.int64).tobytes()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what a map depends on."""
    found = {}
    for package in ("ies-helpers", "torch", "monai", "numpy", "nibabel"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
