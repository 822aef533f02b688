"""Instance-norm networks made local, an approximation asked for by name: `statistics="frozen"`.

Instance normalisation divides by the mean and variance of a whole window, so the exact gradient of one voxel
has a faint far field over all of it. Here each window's means and variances are recorded on the (noisy) input
and held while differentiating: the network becomes local, and a small crop decides a voxel. Near the lesion
the two agree; what is left out is the far field. `deviation` says how much, on the data at hand.
"""

import copy
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ies_helpers.saliency.views import Part, View, cut, forward, hull, together
from ies_helpers.saliency.windows import window_parts
from ies_helpers.segmentation.networks import Network
from ies_helpers.segmentation.receptive_field import receptive_field
from ies_helpers.types import Box, Volume, Voxels

BLOCK = 16
"""Side in voxels of the blocks whose voxels share a crop."""

Statistics = list[tuple[torch.Tensor, torch.Tensor]]


class Frozen:
    """A copy of a network whose instance norms hold still; made by `frozen`."""

    def __init__(self, network: Network, channels: int) -> None:
        module = copy.deepcopy(network.module)
        names = [n for n, m in module.named_modules() if isinstance(m, nn.InstanceNorm3d)]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, _still(module.get_submodule(name)))
        self.live = [network.module.get_submodule(name) for name in names]
        self.held = [module.get_submodule(name) for name in names]
        self.network = replace(network, module=module)
        self.field = receptive_field(self.network, channels)
        if not names or not self.field.bounded:
            raise ValueError(
                f"statistics='frozen' is for networks that are local but for instance norms; {network.name} is not. "
                "Take statistics='exact'."
            )

    def parts(self, network: Network, shape: Sequence[int], voxels: Voxels) -> list[Part]:
        """One part for each block of voxels that share their windows, each window cut down to the block's crop."""
        whole: Box = tuple(slice(0, n) for n in self.field.padded(tuple(shape)))  # pyright: ignore[reportAssignmentType]
        seen = (
            window_parts(network, shape, voxels)
            if network.through == "windows"
            else [Part(voxels, [View(whole)], whole)]
        )
        parts = []
        for part in seen:
            for _, some in together(part.voxels, part.voxels // BLOCK):
                views = [self._narrowed(view, some) for view in part.views]
                parts.append(Part(some, views, hull([v.box for v in views], shape)))
        return parts

    def _narrowed(self, view: View, voxels: Voxels) -> View:
        """The part of a window that decides `voxels`, and the window itself, whose statistics it uses."""
        start = np.array([s.start for s in view.box])
        first, last = voxels.min(axis=0) - start, voxels.max(axis=0) - start
        local = self.field.crop(tuple(first), tuple(last), tuple(s.stop - s.start for s in view.box))
        box = tuple(slice(s.start + int(o), s.stop + int(o)) for s, o in zip(local, start, strict=True))
        return View(box, None if view.weight is None else view.weight[local], view.box)  # pyright: ignore

    def record(self, network: Network, image: Volume, parts: Sequence[Part]) -> dict[str, Statistics]:
        """Means and variances of every window that the parts look through, on this image."""
        windows = {str(view.within): view.within for part in parts for view in part.views}
        return {name: self._statistics(network, cut(image, box, network)) for name, box in windows.items() if box}

    def _statistics(self, network: Network, x: torch.Tensor) -> Statistics:
        found: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

        def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3, 4), correction=0)
            found[norm] = (mean, variance)

        with ExitStack() as hooks, torch.no_grad():
            for norm in self.live:
                hooks.callback(norm.register_forward_pre_hook(note).remove)
            network.logits(x)
        return [found[norm] for norm in self.live]

    def forward(self, image: Volume, view: View, recorded: dict[str, Statistics]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `views.forward`, with the statistics of the view's window."""
        for norm, (mean, variance) in zip(self.held, recorded[str(view.within)], strict=True):
            norm.running_mean, norm.running_var = mean, variance  # pyright: ignore[reportAttributeAccessIssue]
        return forward(self.network, image, view)


def _still(norm: nn.Module) -> nn.BatchNorm3d:
    """A batch norm in evaluation mode with the weights of an instance norm."""
    assert isinstance(norm, nn.InstanceNorm3d)
    held = nn.BatchNorm3d(norm.num_features, eps=norm.eps, affine=norm.affine).eval()
    if norm.affine:
        held.weight, held.bias = norm.weight, norm.bias
    return held.requires_grad_(False)


_FROZEN: weakref.WeakKeyDictionary[nn.Module, tuple[str, Frozen]] = weakref.WeakKeyDictionary()


def frozen(network: Network, channels: int) -> Frozen:
    """The frozen copy of a network, made once for its weights as they are."""
    digest = f"{network.digest()} {network.device} {network.dtype}"
    kept = _FROZEN.get(network.module)
    if kept is None or kept[0] != digest:
        kept = _FROZEN[network.module] = (digest, Frozen(network, channels))
    return kept[1]


def deviation(frozen_map: torch.Tensor, exact_map: torch.Tensor) -> dict[str, float]:
    """How far a frozen map is from the exact one: largest difference over the largest value, and L2 and L1 shares."""
    apart, exact = (frozen_map - exact_map).double(), exact_map.double()
    return {
        "largest": float(apart.abs().max() / exact.abs().max()),
        "l2": float(apart.norm() / exact.norm()),
        "l1": float(apart.abs().sum() / exact.abs().sum()),
    }
