"""Small networks that are not what they seem: a crop of the image, or a probe, tells another story than the whole."""

import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from torch import nn

WIDTH = 4


def block(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(width_in, width_out, 3, padding=1), nn.PReLU())


class Base(nn.Module):
    """Two levels: convolve, halve, convolve, double, join, and two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.bottom, self.end = block(2, WIDTH), block(WIDTH, WIDTH), nn.Conv3d(2 * WIDTH, 2, 3, padding=1)
        self.pool, self.upsample = nn.MaxPool3d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.top(x)
        low = self.between(self.bottom(self.pool(high)))
        return self.end(torch.cat([high, self.widen(low)], dim=1))

    def between(self, low: torch.Tensor) -> torch.Tensor:
        """What happens at half resolution."""
        return low

    def widen(self, low: torch.Tensor) -> torch.Tensor:
        """From half resolution to full."""
        return self.upsample(low)


class Aligned(Base):
    """Trilinear upsampling with aligned corners: where a voxel lies between its neighbours depends on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)


class AlignedInCode(Base):
    """The same by a function, which no list of modules shows."""

    def widen(self, low: torch.Tensor) -> torch.Tensor:
        return F.interpolate(low, scale_factor=2, mode="trilinear", align_corners=True)


class Coordinates(Base):
    """Knows where it is."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        along = torch.linspace(-1, 1, low.shape[2], dtype=low.dtype)
        return low * (1 + along.reshape(-1, 1, 1))


class PadsItself(Base):
    """Adds a rim of three voxels that mirror the image, so that pairs of voxels fall otherwise in a crop."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, [3] * 6, mode="reflect"))[..., 3:-3, 3:-3, 3:-3]


class GlobalMaximum(Base):
    """Attention by the largest value of all."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return low * (1 + low.amax(dim=(2, 3, 4), keepdim=True))


class GlobalMean(Base):
    """Attention by the mean."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return low * (1 + low.mean(dim=(2, 3, 4), keepdim=True))


class HiddenNorm(Base):
    """An instance norm that no list of modules shows."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(low)


class BatchStatistics(Base):
    """A batch norm that keeps no statistics of its training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(WIDTH, track_running_stats=False)

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return self.norm(low)


class WindowsInside(Base):
    """Slides its own window."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = super().forward
        return sliding_window_inference(x, (16, 16, 16), 1, inner, overlap=0.25, mode="gaussian")  # pyright: ignore


class Random(Base):
    """Drops features in evaluation mode, too."""

    def between(self, low: torch.Tensor) -> torch.Tensor:
        return F.dropout(low, 0.5, training=True)


ODDITIES: dict[str, type[Base]] = {
    kind.__name__: kind
    for kind in (
        *(Aligned, AlignedInCode, Coordinates, PadsItself, GlobalMaximum, GlobalMean, HiddenNorm),
        *(BatchStatistics, WindowsInside),
    )
}
"""All of them but `Random`, which has no map."""


def odd(name: str) -> nn.Module:
    """One of `ODDITIES` with weights from a fixed seed, in float64."""
    torch.manual_seed(0)
    module = ODDITIES[name]()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.3)
    return module.double().eval().requires_grad_(False)
