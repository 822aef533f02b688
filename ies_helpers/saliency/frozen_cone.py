"""The backward pass of a nnU-Net with held statistics on the few positions that each voxel can reach.

As `cone`, for a network of stride-1 and stride-2 convolutions: of the published one a voxel touches 2 positions
along each axis at the top of the decoder, 4 at the bottom, and 35 at the input, where the crop has 40 to 52.
Exact for the network with its statistics held, which `frozen` defines.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.saliency.aggregates import Each
from ies_helpers.saliency.cone import CLOSE
from ies_helpers.saliency.dynunet import Parts, take_apart
from ies_helpers.saliency.views import View, clip, corner, inside, upload
from ies_helpers.types import Box, Voxels

BATCH = 4
"""Voxels taken at once on a CPU: more are no faster."""


class FrozenCone:
    """The backward pass of a DynUNet with held norms, voxel by voxel; made by `frozen_cone_of`."""

    def __init__(self, module: nn.Module, parts: Parts) -> None:
        self.module, self.parts = module, parts

    def look(self, x: torch.Tensor) -> None:
        """Run the network on a crop `(1, C, i, j, k)` and keep every slope."""
        with ExitStack() as hooks, torch.no_grad():
            for block in self.parts.blocks:
                block.ready()
                hooks.callback(block.act.register_forward_pre_hook(block.see).remove)
            self.module(x.clone())

    def each(self, x: torch.Tensor, view: View, voxels: Voxels, budget: int) -> Iterator[tuple[int, Box, torch.Tensor]]:
        """As `aggregates.Each`, for a view whose input is `x`: the gradients are on each voxel's own window."""
        self.look(x)
        origin = corner(view.box)
        weights = upload(view.weights_at(view.local(voxels)), x.device)
        batch = max(1, budget // (self.values() * x.element_size()))
        if x.device.type == "cpu":
            batch = min(batch, BATCH)
        for some in np.array_split(np.arange(len(voxels)), -(-len(voxels) // batch)):
            rows = np.resize(some, max(2, len(some)))  # of a batch of one PyTorch's convolutions are ten times slower
            g, at = self._backward(voxels[rows] - origin, weights[rows])
            for row, lo, one in zip(some, at + origin, g, strict=False):
                box = tuple(slice(int(a), int(a) + one.shape[-1]) for a in lo)
                yield int(row), *clip(one, box, view.box)  # pyright: ignore[reportArgumentType]

    def values(self) -> int:
        """Values that the backward pass of one voxel holds at most: a slope and two gradients at the top."""
        side = 2
        for _ in self.parts.up:
            side = (side + 4) // 2 + 1
        for block in [self.parts.bottom, *reversed(self.parts.down)]:
            side = block.stride * (side + 1) + 3
        return 3 * self.parts.down[0].convs[0].out_channels * side**3

    def _backward(self, local: Voxels, weights: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Gradients `(V, C, n, n, n)` of the class-1 logits at `local` voxels, times `weights`, and their windows."""
        last, at = self.parts.last.weight, local // 2 * 2
        g = last.new_zeros(len(local), 1, 2, 2, 2)
        index = upload(torch.as_tensor(local - at), g.device).T
        g[(torch.arange(len(local), device=g.device), 0, *index)] = weights.to(g)
        g, skipped = F.conv_transpose3d(g, last[1:2]), []
        for block, wider in zip(self.parts.up, self.parts.wider, strict=True):
            g, at = block.back(g, at)
            skipped.append((g[:, wider.out_channels :], at))
            g, at = _narrower(g[:, : wider.out_channels], at, wider.weight)
        g, at = self.parts.bottom.back(g, at)
        for block, (skip, start) in zip(reversed(self.parts.down), reversed(skipped), strict=True):
            _put(g, skip, start - at)
            g, at = block.back(g, at)
        return g, at


def _narrower(g: torch.Tensor, at: np.ndarray, weight: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Back through a 2^3 transposed convolution: windows of n positions -> of half as many, aligned to pairs."""
    first = at % 2
    pairs = (int(first.max()) + g.shape[-1] + 1) // 2
    aligned = g.new_zeros(*g.shape[:2], *[2 * pairs] * 3)
    _put(aligned, g, first)
    return F.conv3d(aligned, weight, stride=2), at // 2


def _put(total: torch.Tensor, g: torch.Tensor, at: np.ndarray) -> None:
    """Add each voxel's window to its part of `total` that starts `at`."""
    for whole, one, lo in zip(total, g, at, strict=True):
        whole[(slice(None), *(slice(int(a), int(a) + one.shape[-1]) for a in lo))] += one


def frozen_cone_of(module: nn.Module) -> FrozenCone | None:
    """The cone of the published nnU-Net with held norms, any depth and width; None for anything else."""
    parts = take_apart(module)
    return None if parts is None else FrozenCone(module, parts)


def agrees(by_cone: Each, by_autograd: Each, view: View, voxels: Voxels) -> bool:
    """Whether the first voxel's gradient by the cone is autograd's on the same crop; warns where it is not."""
    ((_, box, got),) = by_cone(view, voxels[:1])
    ((_, seen, wanted),) = by_autograd(view, voxels[:1])
    apart = wanted.clone()
    apart[(slice(None), *inside(box, seen))] -= got
    close = bool(apart.abs().max() <= CLOSE * wanted.abs().max())
    if not close:
        warnings.warn("The network is no nnU-Net of the published kind after all; taking the crop.", stacklevel=2)
    return close
