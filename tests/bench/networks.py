"""`python -m tests.bench.networks`: thirty and more networks, each explained by five methods, against plain autograd.

Each is random, in float64, seen whole on a small image; its map is compared with autograd through the module on the
whole image. A row says which way `max` is taken by itself (auto: by fields where that pays, to 1e-3) and which where it
is to be exact, the largest differences over the largest value, and the seconds of all methods together, with whatever
they had to find out about the network first. `held` says of which operations coordinates are held, from which stride
whole maps are, and what share of a dense pass the near field of a voxel is.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ies_helpers import Network, gradcam_pp, gradient, smoothgrad
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.architectures import build_monai
from ies_helpers.segmentation.nnunet import build_network, read_plans
from tests import oracles
from tests.oddities import ODDITIES, odd
from tests.results import DATASET, plans

SHAPE = (32, 32, 64)
VOXELS = np.array([[15, 16, 30], [15, 16, 31], [16, 16, 31], [0, 3, 62]])
DRAWS, NOISE = 2, 0.05


@dataclass(frozen=True)
class Case:
    """A network of random weights, the layer that Grad-CAM++ reads (None: none can be), and what else is said of it."""

    name: str
    make: Callable[[], nn.Module]
    layer: str | None = None
    known: Any = None


def monai(name: str, layer: str | None, label: str = "", known: dict[str, Any] | None = None, **arguments: Any) -> Case:
    """A network of MONAI."""
    given = {"in_channels": 2, "out_channels": 2} | arguments
    return Case(f"MONAI {name}{label}", lambda: build_monai(name, given), layer, known)


UNET = {"channels": (4, 6, 8), "strides": (2, 2)}
DYN = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8]}
SEG = {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}
BASIC = {"features": (4, 4, 6, 8, 8, 4)}

CASES = [
    monai("UNet", "model.1.submodule.2.0.conv", ", batch norm", norm="batch", num_res_units=1, **UNET),
    monai("UNet", "model.1.submodule.2.0.conv", ", instance norm", num_res_units=1, **UNET),
    monai("UNet", "model.1.submodule.2", ", no norm", norm=None, **UNET),
    monai("AttentionUnet", None, ", batch and instance norm", **UNET),
    monai("BasicUNet", "upcat_2", ", batch norm", norm="batch", **BASIC),
    monai("BasicUNet", "upcat_2", ", instance norm", **BASIC),
    monai("BasicUNet", "upcat_2", ", batch norm, not trained upwards", norm="batch", upsample="nontrainable", **BASIC),
    monai("BasicUNetPlusPlus", "upcat_1_3", ", batch norm", norm="batch", **BASIC),
    monai(
        "BasicUNetPlusPlus",
        "upcat_1_3",
        ", four outputs, the last named",
        {"output": -1},
        norm="batch",
        deep_supervision=True,
        **BASIC,
    ),
    monai("DynUNet", "upsamples.0", ", batch norm", norm_name="batch", **DYN),
    monai("DynUNet", "upsamples.0", ", instance norm", norm_name="instance", **DYN),
    monai("DynUNet", "upsamples.0", ", residual", norm_name="instance", res_block=True, **DYN),
    monai("DynUNet", "upsamples.0", ", deep supervision", norm_name="instance", deep_supervision=True, **DYN),
    monai("SegResNet", "up_layers.0", ", group norm", **SEG),
    monai("SegResNet", "up_layers.0", ", batch norm", norm="batch", **SEG),
    monai("SegResNetDS", "up_layers.0.blocks", ", batch norm", init_filters=4, blocks_down=(1, 1, 1), dsdepth=2),
    monai(
        "SegResNetDS", "up_layers.0.blocks", ", instance norm", norm="INSTANCE", init_filters=4, blocks_down=(1, 1, 1)
    ),
    monai("VNet", "up_tr64.ops", ", batch norm"),
    monai("HighResNet", None),
    monai("MedNeXt", None, "", init_filters=4, encoder_expansion_ratio=2, decoder_expansion_ratio=2),
    monai("UNETR", "decoder2", "", img_size=SHAPE, feature_size=4, hidden_size=24, mlp_dim=32, num_heads=3),
    monai("SwinUNETR", "decoder2", "", feature_size=12),
    *(Case(f"oddity: {name}", lambda name=name: odd(name), "bottom.0") for name in ODDITIES),
    Case("nnU-Net's PlainConvUNet", lambda: of_nnunet("PlainConvUNet"), "decoder.stages.0"),
    Case("nnU-Net's ResidualEncoderUNet", lambda: of_nnunet("ResidualEncoderUNet"), "decoder.stages.0"),
]
STRIDES = {"oddity: HiddenNorm": (2, 2, 2), "oddity: WindowsInside": (2, 2, 2)}  # which no probe sees


def of_nnunet(kind: str) -> nn.Module:
    """One of the two networks that nnU-Net plans."""
    written = plans()
    given = written["configurations"]["3d_fullres"]["architecture"]
    given["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{kind}"
    if kind == "ResidualEncoderUNet":
        given["arch_kwargs"]["n_blocks_per_stage"] = given["arch_kwargs"].pop("n_conv_per_stage")
    return build_network(read_plans(written, DATASET, "3d_fullres"))


def lively(module: nn.Module) -> nn.Module:
    """Float64, and batch statistics that are not neutral."""
    module.double().eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d) and part.running_mean is not None:
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)  # pyright: ignore[reportOptionalMemberAccess]
    return module


def row(case: Case) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    module = lively(case.make())
    known = dict(case.known or {})
    network = Network(module, case.name, layer=case.layer, stride=STRIDES.get(case.name), **known)
    image = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def logits(x: torch.Tensor) -> torch.Tensor:
        y = module(x)
        y = y[known["output"]] if "output" in known else y[0] if isinstance(y, list | tuple) else y
        return y[0, 1]

    each = oracles.voxel_gradients(logits, image, VOXELS)
    drawn = oracles.smoothgrad(logits, image, VOXELS, "max", DRAWS, NOISE, 0)
    begun, errors = time.perf_counter(), {}
    with warnings.catch_warnings(action="ignore"):
        auto, exact = (LesionGradient(network, image, VOXELS, "max", accuracy=a) for a in ("auto", "exact"))
        errors["auto"], errors["max"] = (
            oracles.relative(engine.place(engine(image)), oracles.aggregate(each, "max")) for engine in (auto, exact)
        )
        errors["mean"] = oracles.relative(
            gradient(network, image, VOXELS, aggregate="mean"), oracles.aggregate(each, "mean")
        )
        given = {"draws": DRAWS, "noise": NOISE, "seed": 0}
        found = smoothgrad(network, image, VOXELS, aggregate="max", accuracy="exact", **given)
        errors["SmoothGrad"] = oracles.relative(found, drawn)
        score = LesionScore(network, image, VOXELS)
        asked = score.logits([score.image])[0, 1]
        cam = gradcam_pp(network, image, VOXELS)[0] if case.layer and "WindowsInside" not in case.name else None
    seconds = time.perf_counter() - begun
    wanted = logits(image[None])[tuple(VOXELS.T)]
    told = "-"
    if cam is not None:
        truth = oracles.gradcam_pp(network, logits, image, VOXELS)
        told = f"{oracles.relative(cam, truth):.0e}" if float(truth.max()) else "all zero"
    errors["score"] = float((asked - wanted).abs().max() / wanted.abs().max())
    mean, near, largest, drawn_error, scored = (
        f"{errors[k]:.0e}" for k in ("mean", "auto", "max", "SmoothGrad", "score")
    )
    ways = [auto.way, held_by(auto), near, exact.way, largest]
    return f"| {' | '.join([case.name, *ways, mean, drawn_error, told, scored, f'{seconds:.1f}'])} |"


def held_by(engine: LesionGradient) -> str:
    """What was seen of a network's gradients: what of them is held, and whether taking them apart pays."""
    split = engine.split
    if split is None or not split.held:
        return "-" if split is None or split.right else split.why or f"{split.off:.0e} off"
    names = ", ".join(name.partition("Backward")[0] for name in split.held)
    stride = "" if np.isinf(split.coarse) else f" from stride {split.coarse:g}"
    return f"{names}{stride}; {split.share:.0%}"


def main() -> None:
    """Print the table, a row at a time; words choose the networks that hold one of them."""
    head = ("network", "auto", "held", "max", "exact", "max", "mean", "SmoothGrad", "Grad-CAM++", "score", "seconds")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for case in CASES:
        if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:]):
            try:
                print(row(case), flush=True)
            except Exception as error:  # one that fails is a row as well
                print(f"| {case.name} | {type(error).__name__}: {str(error)[:150]} |", flush=True)


if __name__ == "__main__":
    main()
