"""Instance-norm networks made local, an approximation asked for by name: `statistics="frozen"`.

Instance normalisation divides by the mean and variance of a whole window, so the exact gradient of one voxel
has a faint far field over all of it. Here each window's means and variances are recorded on the (noisy) input
and held while differentiating: the network becomes local, and a small crop decides a voxel. Within it the
published nnU-Net's gradients are taken on fewer positions still (`frozen_cone`), any other network's by autograd.
Near the lesion frozen and exact agree; what is left out is the far field. `deviation` says how much, on the data
at hand.
"""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import nn

from ies_helpers.saliency.aggregates import Each, by_autograd
from ies_helpers.saliency.frozen_cone import agrees, frozen_cone_of
from ies_helpers.saliency.views import Part, View, corner, cut, forward, hull, size, together
from ies_helpers.saliency.windows import window_parts
from ies_helpers.segmentation.networks import Network
from ies_helpers.segmentation.receptive_field import receptive_field
from ies_helpers.types import Box, Volume, Voxels

BLOCK = 16
"""Side in voxels of the blocks whose voxels share a crop."""

Moments = list[tuple[torch.Tensor, torch.Tensor]]
"""Mean and variance of each channel, norm by norm."""


class Frozen:
    """A copy of a network whose instance norms hold still; made by `frozen`."""

    def __init__(self, network: Network, channels: int) -> None:
        module = copy.deepcopy(network.module).eval().requires_grad_(False)
        names = [n for n, m in module.named_modules() if isinstance(m, nn.InstanceNorm3d)]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, _still(module.get_submodule(name)))
        self.held: list[nn.BatchNorm3d] = [module.get_submodule(name) for name in names]  # pyright: ignore
        self.network = replace(network, module=module)
        self.field = receptive_field(self.network, channels)
        if not names or not self.field.bounded:
            raise ValueError(
                f"statistics='frozen' is for networks that are local but for instance norms; {network.name} is not. "
                "Take statistics='exact'."
            )
        self.cone = frozen_cone_of(module)
        self._trusted: bool | None = None

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
        origin = corner(view.box)
        first, last = voxels.min(axis=0) - origin, voxels.max(axis=0) - origin
        local = self.field.crop(tuple(first), tuple(last), size(view.box))
        box = tuple(slice(s.start + int(o), s.stop + int(o)) for s, o in zip(local, origin, strict=True))
        return View(box, None if view.weight is None else view.weight[local], view.box)  # pyright: ignore

    def record(self, image: Volume, parts: Sequence[Part]) -> dict[str, Moments]:
        """Means and variances of every window that the parts look through, on this image."""
        windows = {str(view.within): view.within for part in parts for view in part.views}
        return {name: self._statistics(cut(image, box, self.network)) for name, box in windows.items() if box}

    def _statistics(self, x: torch.Tensor) -> Moments:
        """In training mode a batch norm does to one window what an instance norm does, and keeps what it found."""
        positions: dict[nn.Module, int] = {}

        def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            positions[norm] = inputs[0][0, 0].numel()

        with ExitStack() as after, torch.no_grad():
            for norm in self.held:
                norm.running_mean, norm.running_var = x.new_zeros(norm.num_features), x.new_ones(norm.num_features)
                after.callback(norm.train().eval)
                after.callback(norm.register_forward_pre_hook(note).remove)
            self.network.logits(x)
        biased = [(positions[norm] - 1) / positions[norm] for norm in self.held]  # it divides by one less
        return [(norm.running_mean, norm.running_var * b) for norm, b in zip(self.held, biased, strict=True)]  # pyright: ignore

    def forward(self, image: Volume, view: View, recorded: dict[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `views.forward`, with the statistics of the view's window."""
        self._hold(view, recorded)
        return forward(self.network, image, view)

    def by_cone(self, image: Volume, recorded: dict[str, Moments], budget: int) -> Each:
        """Each voxel's gradient by the cone, which works in `budget` bytes."""
        cone = self.cone
        assert cone is not None

        def each(view: View, voxels: Voxels) -> Iterator[tuple[int, Box, torch.Tensor]]:
            self._hold(view, recorded)
            return cone.each(cut(image, view.box, self.network), view, voxels, budget)

        return each

    def trusted(self, image: Volume, part: Part, recorded: dict[str, Moments]) -> bool:
        """Whether the cone gives a voxel's gradient as autograd does on the same crop; asked once."""
        if self._trusted is None:
            plain = by_autograd(lambda view: self.forward(image, view, recorded))
            self._trusted = agrees(self.by_cone(image, recorded, 0), plain, part.views[0], part.voxels)
        return self._trusted

    def _hold(self, view: View, recorded: dict[str, Moments]) -> None:
        for norm, (mean, variance) in zip(self.held, recorded[str(view.within)], strict=True):
            norm.running_mean, norm.running_var = mean, variance


def _still(norm: nn.Module) -> nn.BatchNorm3d:
    """A batch norm in evaluation mode with the weights of an instance norm."""
    assert isinstance(norm, nn.InstanceNorm3d)
    held = nn.BatchNorm3d(norm.num_features, eps=norm.eps, affine=norm.affine, momentum=1.0).eval()
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
