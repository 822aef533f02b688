"""Networks with a hidden fault, for the project at the end of the handbook: which of four sees what it should?"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ies_helpers.segmentation.networks import Network
from ies_helpers.segmentation.toys import Shifted

KINDS = {
    "sound": "the network as it was trained",
    "deaf": "its first layer no longer hears T1",
    "tired": "every weight of its deepest level is zero: it has lost its widest view",
    "cue": "it also listens to one FLAIR voxel some millimetres away from each voxel",
}
"""What can be wrong with a suspect."""

CUE_STEPS, CUE_GAIN = 9, 1.5


def suspects(network: Network, seed: int = 0) -> dict[str, Network]:
    """Four copies of a U-Net named A to D, one of each kind in `KINDS`, in an order that depends on the seed.

    Raises:
        ValueError: for a network that is not a MONAI `UNet`.
    """
    if type(network.module).__name__ != "UNet":
        raise ValueError(f"The suspects are made from a MONAI UNet, got {type(network.module).__name__}: load 'unet'.")
    made = {}
    for letter, kind in _order(seed).items():
        module = copy.deepcopy(network.module)
        made[letter] = replace(network, module=_spoilt(module, kind), name=letter)
    return made


def accuse(answer: Mapping[str, str], seed: int = 0) -> list[str]:
    """One sentence about each suspect named wrongly, which says what to look at and not what it is.

    Args:
        answer: letter -> kind, for example `{"A": "sound", "B": "cue", ...}`.
        seed: that of `suspects`.

    Returns:
        Nothing if all are right.

    Raises:
        ValueError: for letters or kinds that do not exist.
    """
    right = _order(seed)
    if set(answer) != set(right) or not set(answer.values()) <= set(KINDS):
        raise ValueError(f"answer must give each of {', '.join(right)} one of {', '.join(KINDS)}; got {dict(answer)}.")
    return [f"{letter}: {_AGAINST[kind]}" for letter, kind in answer.items() if kind != right[letter]]


_AGAINST = {
    "sound": "something is wrong with it. Compare what it finds, and its maps of both modalities, with the others'.",
    "deaf": "a network that does not hear T1 has a map of T1 that is zero, to the last voxel. Has it?",
    "tired": "without its widest view a network's maps end close to the lesion. How far does this one's reach?",
    "cue": "a planted cue shows as a second, shifted copy of the lesion in FLAIR. Is there one?",
}


def _order(seed: int) -> dict[str, str]:
    return dict(zip("ABCD", np.random.default_rng(seed).permutation(list(KINDS)).tolist(), strict=True))


def _spoilt(module: nn.Module, kind: str) -> nn.Module:
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv3d)]
    with torch.no_grad():
        if kind == "deaf":
            convolutions[0].weight[:, 1] = 0.0
        if kind == "tired":
            max(convolutions, key=lambda layer: layer.out_channels).weight.zero_()
    return _Cued(module) if kind == "cue" else module


class _Cued(nn.Module):
    """A network that adds `CUE_GAIN` times the FLAIR value `CUE_STEPS` voxels further along the first axis."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.cue = Shifted(CUE_STEPS, CUE_GAIN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) + self.cue(x)
