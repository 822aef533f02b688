"""Models that the field knows by name, from their owners' files: how each looks at a scan, and what it puts out.

Neither weights nor code of theirs are part of the handbook: the files are fetched from their owners, under their
licences, and lie where the user put them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Affine, Box, Volume, spacing_of
from ies_helpers.segmentation.grid import Grid, Resampling, ras_axes
from ies_helpers.segmentation.network import Averaged, Network
from ies_helpers.segmentation.weights import fill, read_weights
from ies_helpers.subjects.files import one_line
from ies_helpers.subjects.subject import find_background

# LST-AI 2: three networks on FLAIR and T1 in MNI space, whose probabilities are averaged.
#
# Wiltgen et al., NeuroImage: Clinical 2024 (doi 10.1016/j.nicl.2024.103611); MIT licence, github.com/CompImg/LST-AI.

LST_AI = (
    "LST-AI 2 is given as lst-ai:FOLDER, the folder that holds UNet3D_MS_final_mdlA.pt, mdlB.pt and mdlC.pt: install "
    "lst_ai (MIT licence, github.com/CompImg/LST-AI), run it once, and give the folder model inside its data"
)
SIDE = 192  # of the cube in the middle of the MNI grid that it looks at
CLIPPED = (0.5, 99.5)  # percentiles of what is not background


def lst_ai(word: str) -> Network:
    """LST-AI's ensemble from its folder; explained is the logit of its averaged probability."""
    folder = Path(word.partition(":")[2]).expanduser()
    files = sorted(folder.glob("UNet3D_MS_final_mdl?.pt")) if word.partition(":")[2] else []
    if not files:
        older = ", but those of version 1" if any(folder.glob("UNet3D_MS_final_mdl?.onnx")) else ""
        raise FileNotFoundError(f"{LST_AI}; {folder} has no such file{older}.")
    members = [_lst_ai_member(path) for path in files]
    levels = max(len(member.dec_up) for member in members)
    return Network(
        Averaged(members),
        "lst-ai",
        layer=f"members.0.dec_conv.{levels - 2}.block.0",  # half resolution on the way up
        stride=(2**levels,) * 3,
        channels=("flair", "t1"),
        plans=LstAiPlans(),
        notes=(
            f"{len(files)} members, whose probabilities are averaged; it expects skull-stripped FLAIR and T1 in MNI "
            "space at 1 mm, and looks at the 192 x 192 x 192 voxels in the middle",
        ),
    )


def _lst_ai_member(path: Path) -> "LstAiNetwork":
    weights = read_weights(path)
    config, tensors = weights.config, {k: v for k, v in weights.tensors.items() if not k.startswith("ds_heads.")}
    known = ("in_channels", "n_conv_blocks", "n_filters", "n_classes", "bottleneck_filters")
    sizes = [config.get(name) or 0 for name in known]
    channels, levels, width, classes, bottom = (n if isinstance(n, int) else -1 for n in sizes)
    bottom, said = bottom or width * levels, one_line(dict(config), 200)
    if classes not in (0, 1) or not (channels in (1, 2) and 2 <= levels <= 8 and 1 <= width <= 256 and bottom <= 4096):
        raise ValueError(
            f"A member of LST-AI must have a config with {', '.join(known)}: 1 or 2 channels, 2 to 8 levels, up to 256 "
            f"filters, one class; {path.name} says {said}."
        )
    module = LstAiNetwork(channels, levels, width, bottom)
    fill(module, tensors, path.name)
    return module.eval().requires_grad_(False)


def _stage(kind: type[nn.Module], inward: int, outward: int, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution without bias, TensorFlow Addons' instance norm (eps 1e-3), a leaky ReLU of slope 0.3."""
    convolve: Any = kind
    return [
        convolve(inward, outward, kernel, stride=stride, padding=1, bias=False),
        nn.GroupNorm(outward, outward, eps=1e-3),
        nn.LeakyReLU(0.3),
    ]


class _Block(nn.Module):
    """Stages one after another, under the name that the files give them."""

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def _pair(inward: int, outward: int) -> _Block:
    return _Block(*_stage(nn.Conv3d, inward, outward, 3, 1), *_stage(nn.Conv3d, outward, outward, 3, 1))


class LstAiNetwork(nn.Module):
    """One of LST-AI's networks, up to the logit: a U-Net whose level n has n times as many features as the first."""

    def __init__(self, channels: int, levels: int, width: int, bottom: int) -> None:
        super().__init__()
        widths = [width * n for n in range(1, levels + 1)]
        self.stem = _pair(channels, width)
        self.enc_down = nn.ModuleList(_Block(*_stage(nn.Conv3d, a, b, 4, 2)) for a, b in itertools.pairwise(widths))
        self.enc_conv = nn.ModuleList(_pair(w, w) for w in widths[1:])
        self.bottleneck_down = _Block(*_stage(nn.Conv3d, widths[-1], bottom, 4, 2))
        self.bottleneck_conv = _pair(bottom, bottom)
        up = [bottom, *reversed(widths)]
        self.dec_up = nn.ModuleList(_Block(*_stage(nn.ConvTranspose3d, a, b, 4, 2)) for a, b in itertools.pairwise(up))
        self.dec_conv = nn.ModuleList(_pair(2 * w, w) for w in reversed(widths))
        self.out_seg = nn.Conv3d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, 2, I, J, K)` -> logits `(B, 1, I, J, K)`."""
        y = self.stem(x)
        skips = [y]
        for down, convolve in zip(self.enc_down, self.enc_conv, strict=True):
            y = convolve(down(y))
            skips.append(y)
        y = self.bottleneck_conv(self.bottleneck_down(y))
        for up, convolve, skip in zip(self.dec_up, self.dec_conv, reversed(skips), strict=True):
            y = convolve(torch.cat([skip, up(y)], dim=1))
        return self.out_seg(y)


@dataclass(frozen=True)
class LstAiPlans:
    """LST-AI's preparation of a scan that lies in MNI space: the middle of it, each channel clipped and from 0 to 1.

    What is not background (`find_background`) stands for the brain mask of its own skull strip.
    """

    side: int = SIDE

    def place(self, raw: Volume, affine: Affine) -> tuple[Grid, Volume]:
        """Raw values `(C, I, J, K)` -> the cube, and the image, in units of its clipped range; 0 in the background."""
        shape = np.array(raw.shape[1:])
        start = np.maximum(0, -(-(shape - self.side) // 2))  # of an odd number of voxels one more is cut at the start
        box = Box.of(start, np.minimum(start + self.side, shape))
        image = torch.zeros_like(raw)
        for n, values in enumerate(raw[:, *box].double().numpy()):
            inside = ~find_background(raw[n].numpy()).outside[box]
            low, high = np.percentile(values[inside], CLIPPED) if inside.any() else (0.0, 1.0)
            scaled = (np.clip(values, low, high) - low) / max(high - low, 1e-12)
            image[n][box] = torch.from_numpy((scaled * inside).astype("f4"))
        return Grid(raw.shape[1:], box, least=(self.side,) * 3), image


# MindGlide: one contrast, whichever, and twenty classes, of which one is lesion.
#
# Goebl et al., Nature Communications 2025, 16:3149; MIT licence, github.com/MS-PINPOINT/mindGlide.

MINDGLIDE = (
    "MindGlide is given as mindglide:FILE, its file of weights _20240404_conjurer_trained_dice_7733.pt: fetch it from "
    "huggingface.co/MS-PINPOINT/mindglide (MIT licence, 123 MB)"
)
CLASSES, LESION = 20, 18
WINDOW = (128, 128, 64)


def mindglide(word: str, channels: Sequence[str] | None = None) -> Network:
    """MindGlide from its file of weights; FLAIR, or whichever one channel is named."""
    path = Path(word.partition(":")[2]).expanduser()
    if not word.partition(":")[2] or not path.is_file():
        raise FileNotFoundError(f"{MINDGLIDE}; there is no file {path}.")
    names = tuple(channels or ("flair",))
    if len(names) != 1:
        raise ValueError(f"MindGlide takes one channel, got {', '.join(names)}; choose one.")
    module, weights = mindglide_network(), read_weights(path)
    fill(module, weights.tensors, path.name)
    return Network(
        module.eval().requires_grad_(False),
        "mindglide",
        window=WINDOW,
        through="windows",
        overlap=0.5,
        layer="upsamples.3.conv_block",  # half resolution on the way up
        stride=(32, 32, 16),
        channels=names,
        lesion_class=LESION,
        plans=MindGlidePlans(),
        notes=(
            f"it sees {names[0]} alone; class 18 of 20 is lesion; its own software says lesion where that class is the "
            "likeliest and keeps the largest piece of all, here the threshold on its probability decides",
        ),
    )


def mindglide_network() -> nn.Module:
    """MONAI's DynUNet as MindGlide has it: six levels, of which the last keeps the third axis as it is."""
    from monai.networks.nets.dynunet import DynUNet  # MONAI takes seconds

    strides = [[1, 1, 1], *[[2, 2, 2]] * 4, [2, 2, 1]]
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        kernel_size=[[3, 3, 3]] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        norm_name="instance",
        deep_supervision=True,
        deep_supr_num=3,
    )


@dataclass(frozen=True)
class MindGlidePlans:
    """MindGlide's preparation of a scan: turned to RAS, cut to what is above zero, at 1 mm, z-scored where not zero."""

    window: tuple[int, int, int] = WINDOW

    def place(self, raw: Volume, affine: Affine) -> tuple[Grid, Volume]:
        """Raw values `(1, I, J, K)` -> its grid, and the image in standard deviations of what it sees."""
        positive = (raw > 0).any(dim=0).numpy()
        box = Box.around(positive) if positive.any() else Box.whole(raw.shape[1:])
        axes, flips = ras_axes(affine)
        spacing = np.array(spacing_of(affine))[list(axes)]
        before = [box.shape[a] for a in axes]
        there, back = _to_millimetres(before, spacing)
        turned: Mapping[str, Any] = {"axes": axes, "flips": flips, "there": there, "back": back}
        seen, _ = Grid(raw.shape[1:], box, **turned).push(raw)
        inside = seen != 0
        values = seen[inside].double()
        mean, deviation = float(values.mean()), float(values.std(correction=0)) or 1.0
        image = torch.zeros_like(raw)
        inner = raw[:, *box]
        # Resampled, the rim of the brain mixes with the background: all of the box is shifted, and zero is held there.
        kept = torch.ones_like(inner, dtype=torch.bool) if there else inner != 0
        image[:, *box] = torch.where(kept, (inner - mean) / deviation, 0.0)
        return Grid(raw.shape[1:], box, **turned, least=self.window, keep=inside if there else None), image


def _to_millimetres(before: Sequence[int], spacing: np.ndarray) -> tuple[Resampling | None, Resampling | None]:
    """Cubic splines to 1 mm; across slices three times as thick as voxels are wide the nearest wins."""
    if np.allclose(spacing, 1.0, atol=1e-3):
        return None, None
    after = [max(1, int(n * s)) for n, s in zip(before, spacing, strict=True)]
    thick = spacing.max() / spacing.min() >= 3
    orders, backwards, alone = ([3, 3, 0], [1, 1, 0], 2) if thick else ([3, 3, 3], [1, 1, 1], None)
    return Resampling.between(before, after, orders, alone), Resampling.between(after, before, backwards, alone)
