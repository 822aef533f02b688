"""Tiny networks whose gradients are known by hand, for tests and for chapter 03.

All map `(B, C, I, J, K)` to logits `(B, 2, I, J, K)` with class 0 at zero.
"""

import torch
from torch import nn


class _Toy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = self.lesion_logit(x)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> the class-1 logit `(B, I, J, K)`."""
        raise NotImplementedError


class Linear(_Toy):
    """Logit of a voxel: sum over modalities of w_c x_c at that voxel. Its gradient there is w, elsewhere 0."""

    def __init__(self, weights: tuple[float, ...] = (2.0, -1.0)) -> None:
        super().__init__()
        self.mix = nn.Conv3d(len(weights), 1, kernel_size=1, bias=False)
        self.mix.weight.data = torch.tensor(weights).reshape(1, -1, 1, 1, 1)

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x)[:, 0]


class Quadratic(_Toy):
    """Logit of a voxel: sum over modalities of x_c^2 there. Its gradient is 2 x; over noise its mean is 2 x too."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Identity()

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        return self.identity(x).square().sum(dim=1)


class Shifted(_Toy):
    """Logit of a voxel: `gain` times the FLAIR value `steps` voxels further along the first axis.

    A network that looks only at a cue some millimetres away: its map must light up there and nowhere else.
    """

    def __init__(self, steps: int = 5, gain: float = 3.0, modalities: int = 2) -> None:
        super().__init__()
        self.look = nn.Conv3d(modalities, 1, kernel_size=(2 * steps + 1, 1, 1), padding=(steps, 0, 0), bias=False)
        self.look.weight.data.zero_()
        self.look.weight.data[0, 0, 2 * steps, 0, 0] = gain

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        return self.look(x)[:, 0]


class Neighbourhood(_Toy):
    """Logit of a voxel: the sum of FLAIR over the 3^3 cube around it. Mean over V voxels fades as overlaps thin."""

    def __init__(self, modalities: int = 2) -> None:
        super().__init__()
        self.box = nn.Conv3d(modalities, 1, kernel_size=3, padding=1, bias=False)
        self.box.weight.data.zero_()
        self.box.weight.data[:, 0] = 1.0

    def lesion_logit(self, x: torch.Tensor) -> torch.Tensor:
        return self.box(x)[:, 0]
