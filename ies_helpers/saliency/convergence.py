"""How many draws are enough: a SmoothGrad map's Monte-Carlo standard error, and when to stop drawing."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from ies_helpers.saliency.views import Boxed, size
from ies_helpers.types import Box, Saliency

Draws: TypeAlias = int | Literal["auto"]

TARGET = 0.02
"""With `draws="auto"`: the standard error of the peak, as a share of the peak, at which no more draws are added."""

FEWEST, MOST = 10, 200
"""With `draws="auto"`: of fewer draws the scatter is hardly known; more take longer than they are worth."""


@dataclass(frozen=True)
class Peak:
    """The value of a map that is farthest from zero.

    Attributes:
        value: signed, the mean over draws there.
        standard_error: of that value; NaN from one draw.
        channel, voxel: where it is, `voxel` in the image's indices `(i, j, k)`.
    """

    value: float
    standard_error: float
    channel: int
    voxel: tuple[int, int, int]

    @property
    def relative(self) -> float:
        """The standard error as a share of the value; 0 for a map that is zero in every draw."""
        if self.standard_error == 0:
            return 0.0
        return self.standard_error / abs(self.value) if self.value else float("inf")


class Average:
    """A map averaged over noise draws as they come, and how far the draws scatter.

    With g_n the map of draw n and T_n = g_1 + ... + g_n, the squared deviations from the mean grow by
    (n g_n - T_n)^2 / (n (n - 1)) with each draw (Youngs and Cramer, Technometrics 1971, 13:657-665): no difference of
    large sums, so what is the same in every draw scatters by exactly 0, and nothing is kept of a draw but two sums on
    the box where the gradient can be non-zero.

    Attributes:
        box: where the map can be non-zero.
        sums: `(2, C, i, j, k)` float64 on `box`: sum of the maps, sum of squared deviations from their mean.
        draws: how many went in.
    """

    def __init__(self, channels: int, box: Box, device: torch.device | None = None) -> None:
        self.box, self.draws = box, 0
        self.sums = torch.zeros(2, channels, *size(box), dtype=torch.float64, device=device)

    def add(self, values: torch.Tensor) -> None:
        """Add the map of one more draw, `(C, i, j, k)` on `box`."""
        total, deviations = self.sums
        self.draws += 1
        total += values
        if self.draws > 1:
            off = (values.double() * self.draws).sub_(total)
            deviations.addcmul_(off, off, value=1 / (self.draws * (self.draws - 1)))

    @property
    def values(self) -> torch.Tensor:
        """The mean on `box`, `(C, i, j, k)` float64."""
        return self.sums[0] / self.draws

    def full(self, shape: tuple[int, ...]) -> Saliency:
        """The mean on the whole volume: `(C, I, J, K)` float32, on the CPU."""
        return Boxed(self.values, self.box).full(shape)

    @property
    def error(self) -> Boxed:
        """The Monte-Carlo standard error of the mean at each voxel, s / sqrt(N); NaN from one draw.

        s^2 is the variance between draws (divided by N - 1). About 95 % of maps made with other seeds lie within two
        standard errors of the mean over endless draws, voxel by voxel; neighbouring voxels err together.
        """
        n = self.draws
        return Boxed(self.sums[1].div(n * (n - 1)).sqrt_() if n > 1 else self.sums[1] + np.nan, self.box)

    @property
    def peak(self) -> Peak:
        """The value of largest absolute value over all voxels and channels; of equal ones the first."""
        flat = int(self.sums[0].abs().argmax())
        total, deviation = (float(s.flatten()[flat]) for s in self.sums)
        n = self.draws
        error = (deviation / (n * (n - 1))) ** 0.5 if n > 1 else float("nan")
        channel, *inside = (int(a) for a in np.unravel_index(flat, tuple(self.sums[0].shape)))
        voxel: Any = tuple(a + int(b.start) for a, b in zip(inside, self.box, strict=True))
        return Peak(total / n, error, channel, voxel)


def most(draws: Draws) -> int:
    """The number of draws, or the largest that `auto` can come to."""
    return MOST if draws == "auto" else draws


def enough(average: Average, draws: Draws) -> bool:
    """Whether no more draws are wanted: all of a given number; for `auto`, when the peak is known well.

    `auto` stops at the first number of draws from `FEWEST` to `MOST` at which the standard error of the peak is at
    most `TARGET` of the peak, peak and error both taken from the draws so far. What that tells, and what it does not:

    - It is about one value, the mean at the voxel that is the peak now. Weaker voxels are known less well, relative
      to themselves many of them not at all: see `Average.error`.
    - The draws that choose the voxel also give its value. Where many voxels are as high within their error, the
      largest of them is too large on average, by one to two standard errors, and the run ends as soon as one that is
      well known comes out on top.
    - Looking after every draw favours runs whose scatter seems small by chance. For normal draws, two standard errors
      hold the truth in 91 to 95 of 100 runs (simulated), a little less often than with a fixed number of draws.
    - It is about the average over the noise alone. What the noise does to the network, and whether the map is true,
      does not get better with draws.

    Args:
        average: of one lesion; other lesions have no say in it.
        draws: a number, or `auto`.
    """
    if average.draws < (FEWEST if draws == "auto" else draws):
        return False
    return average.draws >= most(draws) or _known(average.peak)


def _known(peak: Peak) -> bool:
    return peak.standard_error <= TARGET * abs(peak.value)


def warn_if_unknown(average: Average, name: str) -> None:
    """Say so where `auto` ended with `MOST` draws and without its target."""
    if not _known(average.peak):
        told = f"{average.peak.relative:.1%} of it after {average.draws} draws, more than {TARGET:.0%}"
        warnings.warn(f"The standard error of the peak of lesion {name} is {told}.", stacklevel=3)
