"""The attributions for comparison as `explain` runs them: what is recorded, what is computed, how long it takes."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ies_helpers.saliency.estimate import estimate_scores, estimate_seconds
from ies_helpers.saliency.occlusion import (
    REACH,
    SAMPLES,
    SIDE,
    SUPERVOXEL,
    blocks,
    captum_attr,
    kernel_shap,
    occlusion,
    zone_of,
)
from ies_helpers.saliency.others import STEPS, baseline_image, check_baseline, input_x_gradient, integrated_gradients
from ies_helpers.saliency.perilesional import BLUR_MM
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Saliency, Volume

SETTINGS: dict[str, dict[str, Any]] = {
    "input-x-gradient": {},
    "integrated-gradients": {"steps": STEPS},
    "occlusion": {"side": SIDE, "stride": SIDE, "reach": REACH, "modalities": "each"},
    "kernel-shap": {"side": SUPERVOXEL, "reach": REACH, "samples": SAMPLES},
}
"""Method -> what its function is given beside baseline and seed, and the sidecar tells."""

OTHERS = tuple(SETTINGS)


def check_other(method: str, baseline: str) -> None:
    """Refuse what cannot be computed, before anything is loaded."""
    check_baseline(baseline)
    if method == "input-x-gradient" and baseline != "zero":
        raise ValueError(f"input-x-gradient compares with zero, got the baseline {baseline!r}; leave it out.")
    if method == "kernel-shap":
        captum_attr()


def settings_of(method: str, baseline: str) -> dict[str, Any]:
    """What makes two maps of a method the same, for the sidecar."""
    return {"baseline": baseline} | ({"blur_mm": BLUR_MM} if baseline == "blurred" else {}) | SETTINGS[method]


class Comparison:
    """One subject's attributions by one method; the baseline is made once."""

    def __init__(self, subject: Subject, network: Network, method: str, baseline: str, seed: int) -> None:
        self.network, self.image, self.method, self.seed = network, subject.image, method, seed
        self.baseline: Volume = baseline_image(subject.image, baseline, subject.affine)  # pyright: ignore[reportArgumentType]

    def __call__(self, lesion: Lesion) -> tuple[Saliency, dict[str, Any]]:
        """The map, and what of its making goes into the sidecar."""
        what = (self.network, self.image, lesion)
        if self.method == "input-x-gradient":
            return input_x_gradient(*what), {}
        settings: dict[str, Any] = {"baseline": self.baseline} | SETTINGS[self.method]
        if self.method == "integrated-gradients":
            found = integrated_gradients(*what, **settings)
            return found.saliency, {"completeness": {"change": found.change, "error": found.error}}
        if self.method == "occlusion":
            return occlusion(*what, **settings), {}
        return kernel_shap(*what, **settings, seed=self.seed), {"captum": version("captum")}


def estimate_other(network: Network, image: Volume, lesions: Sequence[Lesion], method: str) -> tuple[float, str]:
    """Seconds that a method will take for all `lesions`, and what takes them; see `estimate_seconds`."""
    if method in ("input-x-gradient", "integrated-gradients"):
        steps = SETTINGS[method].get("steps", 1)
        seconds, way = estimate_seconds(network, image, lesions, aggregate="mean", draws=steps)
        count = steps * len(lesions)
        return seconds, f"{count} gradient{'s' if count > 1 else ''} by {way}"
    scores = [LesionScore(network, image, lesion) for lesion in lesions]
    passes = [_passes(score, image, method) for score in scores]
    return estimate_scores(scores, passes), f"{sum(passes)} edited images"


def _passes(score: LesionScore, image: Volume, method: str) -> int:
    how = SETTINGS[method]
    if method == "kernel-shap":
        return how["samples"]
    places = blocks(tuple(image.shape[1:]), zone_of(score, how["reach"]), how["side"], how["stride"])
    return 1 + len(image) * len(places)
