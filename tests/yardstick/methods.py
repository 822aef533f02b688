"""Every method that is measured, ours and the peers': one entry each, how it is called, and why it fails where it does.

A peer is called in the best way for one lesion that its own interface allows. Where the network must be wrapped for
that, so that its output is the lesion's score, it is. Entries with `default=True` call it as its documentation first
does. An entry takes a case and returns a map `(2, I, J, K)`, or `(1, I, J, K)` of both modalities together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata, util
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.yardstick.cases import Case

Run = Callable[[Case], Any]


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    library: str
    name: str
    quantity: str  # which of `QUANTITIES` it claims
    how: str  # its settings, as the table's notes quote them
    run: Run
    fails: dict[str, str] = field(default_factory=dict)  # a criterion, or `runs`: the reason, in one line
    default: bool = False

    @property
    def title(self) -> str:
        """`captum: Saliency`."""
        return f"{self.library}: {self.name}{' (default)' if self.default else ''}"


LIBRARIES = {  # as pip names it: as Python imports it
    "ies-helpers": "ies_helpers",
    "captum": "captum",
    "monai": "monai",
    "grad-cam": "pytorch_grad_cam",
    "torchcam": "torchcam",
    "quantus": "quantus",
    "nnunetv2-cam": "nnunetv2_cam",
}
METHODS: list[Method] = []


def version(library: str) -> str | None:
    """As installed here; None where it is not."""
    if util.find_spec(LIBRARIES[library]) is None:
        return None
    return metadata.version(library)


def method(library: str, name: str, quantity: str, how: str, *, default: bool = False, **fails: str) -> Any:
    """Register the function below it."""

    def register(run: Run) -> Run:
        METHODS.append(Method(library, name, quantity, how, run, fails, default))
        return run

    return register


# What peers are given.


class LesionScore(nn.Module):
    """`(B, 2, I, J, K)` -> `(B, 1)`: the mean logit of the lesion's voxels, or their sum."""

    def __init__(self, network: nn.Module, mask: np.ndarray, *, total: bool = False) -> None:
        super().__init__()
        self.network, self.at, self.total = network, tuple(torch.from_numpy(i) for i in np.nonzero(mask)), total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.network(x)[(slice(None), 1, *self.at)]
        return logits.sum(dim=1, keepdim=True) if self.total else logits.mean(dim=1, keepdim=True)


class OneLesion(nn.Module):
    """The network, whose answer is background everywhere but at one lesion."""

    def __init__(self, network: nn.Module, mask: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mask", torch.from_numpy(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.network(x)
        lesion = torch.where(self.mask, y[:, 1], -1e3)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return torch.stack([torch.zeros_like(lesion), lesion], dim=1)


class OneModality(nn.Module):
    """`(B, 1, I, J, K)` -> the score, the other modalities as they are in the image."""

    def __init__(self, score: nn.Module, image: torch.Tensor, modality: int) -> None:
        super().__init__()
        self.score, self.image, self.modality = score, image, modality

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.image.repeat(len(x), 1, 1, 1, 1)
        whole[:, self.modality] = x[:, 0]
        return self.score(whole)


def batch(case: Case) -> torch.Tensor:
    """`(1, 2, I, J, K)`, a copy."""
    return torch.from_numpy(case.image.copy())[None]


def mean_score(case: Case) -> LesionScore:
    """Of the lesion."""
    return LesionScore(case.network, case.lesion).eval()


def class_mask(case: Case) -> np.ndarray:
    """Every voxel that the network calls lesion."""
    return case.lesion | case.other


def class_score(case: Case) -> LesionScore:
    """The whole class, as documentations of peers wrap a segmentation network."""
    return LesionScore(case.network, class_mask(case), total=True).eval()


POOLED = "weights are means over the whole volume: bright wherever the features are, whichever lesion uses them"
STRETCHED = "stretches every map to 0..1, so that lesions, cases and layers cannot be compared"
WHOLE_CLASS = "explains the whole class: every lesion of the image at once"
WHOLE_VOLUME = "explains the class's logit summed over the whole volume, background and all"
UNSIGNED = "absolute values: for and against look alike"
WRAPPED = "network wrapped: output is the lesion's mean logit"


# Ours.


def _ours(case: Case) -> tuple[Any, torch.Tensor, torch.Tensor]:
    from ies_helpers import Network

    network = Network(case.network, layer=case.layer, channels=("flair", "t1"))
    return network, torch.from_numpy(case.image.copy()), torch.from_numpy(case.lesion)


@method("ies-helpers", "SmoothGrad, mean", "gradient", "aggregate='mean', draws=25, noise=0.05")
def _(case: Case) -> Any:
    from ies_helpers import smoothgrad

    return smoothgrad(*_ours(case), aggregate="mean", draws=case.effort.draws, noise=case.effort.noise)


@method("ies-helpers", "SmoothGrad, max", "largest gradient", "aggregate='max', draws=25, noise=0.05")
def _(case: Case) -> Any:
    from ies_helpers import smoothgrad

    return smoothgrad(*_ours(case), aggregate="max", draws=case.effort.draws, noise=case.effort.noise)


@method("ies-helpers", "Grad-CAM++ of one lesion", "Grad-CAM++, by voxel", "layer='relu'")
def _(case: Case) -> Any:
    from ies_helpers import gradcam_pp

    return gradcam_pp(*_ours(case))


@method(
    "ies-helpers",
    "Grad-CAM",
    "Grad-CAM",
    "layer='relu'; offered for comparison, not advised",
    place=POOLED,
    silence=POOLED,
)
def _(case: Case) -> Any:
    from ies_helpers import gradcam

    return gradcam(*_ours(case))


@method("ies-helpers", "input x gradient", "input x gradient", "no settings")
def _(case: Case) -> Any:
    from ies_helpers import input_x_gradient

    return input_x_gradient(*_ours(case))


@method("ies-helpers", "integrated gradients", "integrated gradients", "baseline='zero', steps=32")
def _(case: Case) -> Any:
    from ies_helpers import integrated_gradients

    return integrated_gradients(*_ours(case), steps=case.effort.steps).saliency


@method("ies-helpers", "occlusion", "occlusion", "side=8, reach=None, modalities='each', baseline='zero'")
def _(case: Case) -> Any:
    from ies_helpers import occlusion

    return occlusion(*_ours(case), side=case.effort.side, reach=None)


@method("ies-helpers", "KernelSHAP", "Shapley value", "side=12, reach=None, samples=300 (captum's estimator)")
def _(case: Case) -> Any:
    from ies_helpers import kernel_shap

    return kernel_shap(*_ours(case), side=case.effort.block, reach=None, samples=case.effort.samples)


# captum.


@method("captum", "Saliency", "gradient", f"abs=False; {WRAPPED}")
def _(case: Case) -> Any:
    from captum.attr import Saliency

    return Saliency(mean_score(case)).attribute(batch(case).requires_grad_(), target=0, abs=False)[0]


@method(
    "captum",
    "NoiseTunnel(Saliency)",
    "gradient",
    f"nt_samples=25, nt_samples_batch_size=1, stdevs=0.05 of FLAIR's range in the image's unit, abs=False; {WRAPPED}",
)
def _(case: Case) -> Any:
    from captum.attr import NoiseTunnel, Saliency

    torch.manual_seed(0)
    tunnel = NoiseTunnel(Saliency(mean_score(case)))
    how = {"nt_samples": case.effort.draws, "nt_samples_batch_size": 1, "stdevs": case.sigma}
    return tunnel.attribute(batch(case).requires_grad_(), target=0, abs=False, **how)[0]


@method("captum", "InputXGradient", "input x gradient", WRAPPED)
def _(case: Case) -> Any:
    from captum.attr import InputXGradient

    return InputXGradient(mean_score(case)).attribute(batch(case).requires_grad_(), target=0)[0]


@method("captum", "IntegratedGradients", "integrated gradients", f"n_steps=32, internal_batch_size=1; {WRAPPED}")
def _(case: Case) -> Any:
    from captum.attr import IntegratedGradients

    explainer, steps = IntegratedGradients(mean_score(case)), case.effort.steps
    return explainer.attribute(batch(case), target=0, n_steps=steps, internal_batch_size=1)[0]


@method("captum", "Occlusion", "occlusion", f"sliding_window_shapes=(1, 8, 8, 8), strides the same; {WRAPPED}")
def _(case: Case) -> Any:
    from captum.attr import Occlusion

    window = (1, *[case.effort.side] * 3)
    explainer = Occlusion(mean_score(case))
    with torch.no_grad():
        return explainer.attribute(batch(case), target=0, sliding_window_shapes=window, strides=window)[0]


@method(
    "captum", "KernelShap", "Shapley value", f"feature_mask of 12^3 blocks of each modality, n_samples=300; {WRAPPED}"
)
def _(case: Case) -> Any:
    from captum.attr import KernelShap

    torch.manual_seed(0)
    side, shape = case.effort.block, case.image.shape[1:]
    counts = [-(-n // side) for n in shape]
    one = np.ravel_multi_index(tuple(np.indices(shape) // side), counts)
    blocks = torch.from_numpy(np.stack([one, one + int(np.prod(counts))]))[None]
    explainer = KernelShap(mean_score(case))
    with torch.no_grad():
        return explainer.attribute(batch(case), target=0, feature_mask=blocks, n_samples=case.effort.samples)[0]


@method(
    "captum",
    "LayerGradCam",
    "Grad-CAM",
    f"relu_attributions=True; {WRAPPED}",
    place=POOLED,
    silence=POOLED,
)
def _(case: Case) -> Any:
    from captum.attr import LayerGradCam

    score = mean_score(case)
    explainer = LayerGradCam(score, score.network.get_submodule(case.layer))
    return resized(explainer.attribute(batch(case), target=0, relu_attributions=True), case)


@method("captum", "LayerGradientXActivation", "HiResCAM", f"summed over features, relu by us; {WRAPPED}")
def _(case: Case) -> Any:
    from captum.attr import LayerGradientXActivation

    score = mean_score(case)
    explainer = LayerGradientXActivation(score, score.network.get_submodule(case.layer))
    return resized(explainer.attribute(batch(case), target=0).sum(dim=1, keepdim=True).relu(), case)


@method(
    "captum",
    "Saliency",
    "gradient",
    "abs=True; target: sum over the class",
    default=True,
    place=WHOLE_CLASS,
    sign=UNSIGNED,
    amount=f"{UNSIGNED}, and every lesion of the image is in it",
    silence=WHOLE_CLASS,
)
def _(case: Case) -> Any:
    from captum.attr import Saliency

    return Saliency(class_score(case)).attribute(batch(case).requires_grad_(), target=0)[0]


@method(
    "captum",
    "NoiseTunnel(Saliency)",
    "gradient",
    "nt_samples=5, stdevs=1.0; target: sum over the class",
    default=True,
    place=WHOLE_CLASS,
    sign=UNSIGNED,
    modality="noise of standard deviation 1 is as large as the image: the average of absolute values is one of noise",
    amount="five draws of a noise of standard deviation 1, whatever the image's range; absolute values",
    silence=WHOLE_CLASS,
)
def _(case: Case) -> Any:
    from captum.attr import NoiseTunnel, Saliency

    torch.manual_seed(0)
    return NoiseTunnel(Saliency(class_score(case))).attribute(batch(case).requires_grad_(), target=0)[0]


def resized(low: torch.Tensor, case: Case) -> torch.Tensor:
    """`(1, 1, i, j, k)` -> `(1, I, J, K)`, trilinear."""
    shape = case.image.shape[1:]
    return (
        nn.functional.interpolate(low.detach(), size=shape, mode="trilinear")[0] if low.shape[2:] != shape else low[0]
    )


# MONAI.


@method("monai", "VanillaGrad", "gradient", f"index=0; {WRAPPED}")
def _(case: Case) -> Any:
    from monai.visualize import VanillaGrad

    return VanillaGrad(mean_score(case))(batch(case), index=0)[0]


@method(
    "monai",
    "SmoothGrad",
    "gradient",
    f"magnitude=False, n_samples=25, stdev_spread so that sigma is the same as everywhere, index=0; {WRAPPED}",
)
def _(case: Case) -> Any:
    from monai.visualize import SmoothGrad

    torch.manual_seed(0)
    spread = case.sigma / float(np.ptp(case.image))
    how = {"stdev_spread": spread, "n_samples": case.effort.draws, "magnitude": False, "verbose": False}
    return SmoothGrad(mean_score(case), **how)(batch(case), index=0)[0]


@method(
    "monai",
    "GuidedBackpropGrad",
    "gradient",
    f"index=0; {WRAPPED}",
    sign="negative gradients are set to zero on the way back",
    modality="negative gradients are set to zero on the way back, so that what counts against is lost",
    amount="negative gradients are set to zero on the way back: it is another quantity than the gradient",
)
def _(case: Case) -> Any:
    from monai.visualize import GuidedBackpropGrad

    return GuidedBackpropGrad(mean_score(case))(batch(case), index=0)[0]


def _monai_cam(name: str, case: Case) -> Any:
    from monai import visualize

    cam = getattr(visualize, name)(mean_score(case), f"network.{case.layer}", postprocessing=lambda x: x)
    return cam(batch(case), class_idx=0)[0]


@method(
    "monai",
    "GradCAM",
    "Grad-CAM",
    f"class_idx=0, postprocessing=identity; {WRAPPED}",
    place=POOLED,
    silence=POOLED,
)
def _(case: Case) -> Any:
    return _monai_cam("GradCAM", case)


@method(
    "monai",
    "GradCAMpp",
    "Grad-CAM++",
    f"class_idx=0, postprocessing=identity; {WRAPPED} (a sum overflows in its exp(score))",
    place=POOLED,
    silence=POOLED,
)
def _(case: Case) -> Any:
    return _monai_cam("GradCAMpp", case)


@method(
    "monai",
    "OcclusionSensitivity",
    "occlusion",
    "mask_size=8, mode=0.0, overlap=0, activate=False, once a modality with the other held; output is F of the hidden "
    f"image, so F - output; {WRAPPED}",
)
def _(case: Case) -> Any:
    from monai.visualize import OcclusionSensitivity

    score, x = mean_score(case), batch(case)
    maps = []
    for c in range(x.shape[1]):
        how = {"mask_size": case.effort.side, "mode": 0.0, "overlap": 0.0, "activate": False, "verbose": False}
        with torch.no_grad():
            hidden, _ = OcclusionSensitivity(OneModality(score, x, c), **how)(x[:, c : c + 1])
            maps.append(score(x).item() - hidden[0, 0])
    return torch.stack([torch.as_tensor(m) for m in maps])


@method(
    "monai",
    "SmoothGrad",
    "gradient",
    "magnitude=True, n_samples=25, stdev_spread=0.15, index=1",
    default=True,
    place=WHOLE_VOLUME,
    modality=WHOLE_VOLUME,
    sign="root of a sum of squares: for and against look alike",
    amount="sqrt(sum of squares) / n in place of a mean: 5 times too small with 25 draws; of the whole volume",
    silence=WHOLE_VOLUME,
)
def _(case: Case) -> Any:
    from monai.visualize import SmoothGrad

    torch.manual_seed(0)
    return SmoothGrad(case.network, verbose=False)(batch(case), index=1)[0]


INVERTED = "its default post-processing turns the largest value into 0: the map is bright where nothing is"


@method(
    "monai",
    "GradCAM",
    "Grad-CAM",
    "class_idx=1",
    default=True,
    place=INVERTED,
    amount=INVERTED,
    silence=INVERTED,
)
def _(case: Case) -> Any:
    from monai.visualize import GradCAM

    return GradCAM(case.network, case.layer)(batch(case), class_idx=1)[0]


@method(
    "monai",
    "GradCAMpp",
    "Grad-CAM++",
    "class_idx=1",
    default=True,
    place=INVERTED,
    amount=INVERTED,
    silence=INVERTED,
)
def _(case: Case) -> Any:
    from monai.visualize import GradCAMpp

    return GradCAMpp(case.network, case.layer)(batch(case), class_idx=1)[0]


@method(
    "monai",
    "OcclusionSensitivity",
    "occlusion",
    "mask_size=16, mode='gaussian', overlap=0.6; n_batch=1, since with 16 it asks for 16 GB here",
    default=True,
    runs="it takes the output for a classifier's, and repeats a whole volume for every voxel of a block",
)
def _(case: Case) -> Any:
    from monai.visualize import OcclusionSensitivity

    return OcclusionSensitivity(case.network, n_batch=1, verbose=False)(batch(case))[0][0, 1:]


# pytorch-grad-cam.


def _grad_cam(name: str, case: Case, mask: np.ndarray) -> Any:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    network = case.network
    with getattr(pytorch_grad_cam, name)(network, [network.get_submodule(case.layer)]) as cam:
        return cam(batch(case), [SemanticSegmentationTarget(1, mask.astype(np.float32))])


LESION_TARGET = "SemanticSegmentationTarget(1, lesion's mask)"


@method("grad-cam", "GradCAM", "Grad-CAM", LESION_TARGET, place=POOLED, silence=POOLED, amount=STRETCHED)
def _(case: Case) -> Any:
    return _grad_cam("GradCAM", case, case.lesion)


@method("grad-cam", "GradCAMPlusPlus", "Grad-CAM++", LESION_TARGET, place=POOLED, silence=POOLED, amount=STRETCHED)
def _(case: Case) -> Any:
    return _grad_cam("GradCAMPlusPlus", case, case.lesion)


@method("grad-cam", "HiResCAM", "HiResCAM", LESION_TARGET, amount=STRETCHED)
def _(case: Case) -> Any:
    return _grad_cam("HiResCAM", case, case.lesion)


@method("grad-cam", "GradCAMElementWise", "element-wise Grad-CAM", LESION_TARGET, amount=STRETCHED)
def _(case: Case) -> Any:
    return _grad_cam("GradCAMElementWise", case, case.lesion)


@method("grad-cam", "LayerCAM", "LayerCAM", LESION_TARGET, amount=STRETCHED)
def _(case: Case) -> Any:
    return _grad_cam("LayerCAM", case, case.lesion)


@method(
    "grad-cam",
    "GradCAM",
    "Grad-CAM",
    "SemanticSegmentationTarget(1, mask of the class)",
    default=True,
    place=f"{WHOLE_CLASS}; and {POOLED}",
    silence=f"{WHOLE_CLASS}; and {POOLED}",
    amount=STRETCHED,
)
def _(case: Case) -> Any:
    return _grad_cam("GradCAM", case, class_mask(case))


# torch-cam.


def _torchcam(name: str, case: Case) -> Any:
    from torchcam import methods

    network, at = case.network, torch.from_numpy(case.lesion)
    with getattr(methods, name)(network, case.layer) as cam:
        scores = network(batch(case))
        low = cam(scores=scores, targets=lambda y: y[1][at].sum(), normalized=False)[0]
    return resized(low[None], case)


OWN_TARGET = "targets=sum of the lesion's logits, normalized=False"


@method("torchcam", "GradCAM", "Grad-CAM", OWN_TARGET, place=POOLED, silence=POOLED)
def _(case: Case) -> Any:
    return _torchcam("GradCAM", case)


@method(
    "torchcam",
    "GradCAMpp",
    "Grad-CAM++",
    OWN_TARGET,
    place=POOLED,
    silence=POOLED,
    amount="alpha's denominator is divided into a copy that is thrown away: weights are sums of g^3",
)
def _(case: Case) -> Any:
    return _torchcam("GradCAMpp", case)


@method("torchcam", "LayerCAM", "LayerCAM", OWN_TARGET)
def _(case: Case) -> Any:
    return _torchcam("LayerCAM", case)


@method(
    "torchcam",
    "GradCAM",
    "Grad-CAM",
    "class_idx=1, normalized=True",
    default=True,
    place=f"{WHOLE_VOLUME}; and {POOLED}",
    silence=f"{WHOLE_VOLUME}; and {POOLED}",
    amount=STRETCHED,
)
def _(case: Case) -> Any:
    from torchcam.methods import GradCAM

    network = case.network
    with GradCAM(network, case.layer) as cam:
        return resized(cam(class_idx=1, scores=network(batch(case)))[0][None], case)


# Quantus, which scores maps; it can also make some, by captum.


def _quantus(name: str, case: Case) -> Any:
    import quantus

    how = {"method": name, "reduce_axes": (), "channel_first": True}
    return quantus.explain(mean_score(case), case.image[None].copy(), np.array([0]), **how)[0]


@method("quantus", "explain, Gradient", "gradient", f"method='Gradient', reduce_axes=(), channel_first=True; {WRAPPED}")
def _(case: Case) -> Any:
    return _quantus("Gradient", case)


@method(
    "quantus",
    "explain, IntegratedGradients",
    "integrated gradients",
    f"method='IntegratedGradients' (10 steps, fixed), reduce_axes=(), channel_first=True; {WRAPPED}",
    amount="10 steps of captum's trapezoid rule, whose weights add up to 0.9; neither steps nor rule can be set",
)
def _(case: Case) -> Any:
    return _quantus("IntegratedGradients", case)


# nnunetv2-cam.


def _nnunet_cam(name: str, network: nn.Module, layer: str, case: Case) -> Any:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2_cam.cam_core import compute_cam_with_sliding_window

    return compute_cam_with_sliding_window(
        model=network,
        data=batch(case)[0],
        target_layer_name=layer,
        target_class=1,
        method=name,
        device=torch.device("cpu"),
        configuration_manager=SimpleNamespace(patch_size=case.image.shape[1:]),
        label_manager=LabelManager({"background": 0, "lesion": 1}, None),
        list_of_parameters=[network.state_dict()],
        tile_step_size=0.5,
        use_mirroring=False,
        allowed_mirroring_axes=None,
        cam_type="3d",
    )


ONE_WINDOW = "one window, no mirrored copies; network wrapped: background everywhere but at the lesion"
HALF = "stretches the map of every window to 0..1, then takes it times 1.3, in half precision"


@method("nnunetv2-cam", "gradcam", "Grad-CAM", ONE_WINDOW, place=POOLED, silence=POOLED, amount=HALF)
def _(case: Case) -> Any:
    return _nnunet_cam("gradcam", OneLesion(case.network, case.lesion).eval(), f"network.{case.layer}", case)


@method("nnunetv2-cam", "hirescam", "HiResCAM", ONE_WINDOW, amount=HALF)
def _(case: Case) -> Any:
    return _nnunet_cam("hirescam", OneLesion(case.network, case.lesion).eval(), f"network.{case.layer}", case)


@method(
    "nnunetv2-cam",
    "gradcam",
    "Grad-CAM",
    "one window, no mirrored copies",
    default=True,
    place=f"{WHOLE_CLASS}; and {POOLED}",
    silence=f"{WHOLE_CLASS}; and {POOLED}",
    amount=HALF,
)
def _(case: Case) -> Any:
    return _nnunet_cam("gradcam", case.network, case.layer, case)
