"""Instance-norm networks made local, an approximation asked for by name: `statistics="frozen"`.

Instance normalisation divides by the mean and variance of a whole window, so the exact gradient of one voxel has a
faint far field over all of it. Here each window's means and variances are recorded on the (noisy) input and held while
differentiating: the network becomes local, and a small crop decides a voxel. Within it the published nnU-Net's
gradients are taken on fewer positions still (`FrozenCone`), any other network's by autograd. Near the lesion frozen and
exact agree; what is left out is the far field. `deviation` says how much, on the data at hand.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.saliency.cone import KINKED, factor_of, is_plain, lesion_channel, slope_of, voxels_at_once, window
from ies_helpers.saliency.views import Each, Part, View, cut, forward, group_voxels, upload, window_parts
from ies_helpers.segmentation.field import far_leaves, fills_window, receptive_field
from ies_helpers.segmentation.network import Memory, Network, copy_of
from ies_helpers.segmentation.trust import CLOSE

# The published nnU-Net taken apart, block by block; each knows its own backward pass once it was seen forward.
#
# Every held norm is a factor for each channel, every activation a known slope at each position: gradients are linear,
# and a window of positions goes to a window of positions.


@dataclass(eq=False)
class Block:
    """act(norm1(conv1)), norm2(conv2), in a residual block plus norm3(conv3 of the input), and act again.

    Once seen: `slopes` `(1, F, i, j, k)` of either activation, on the crop, and `weights` times the norms' factors.
    """

    convs: list[nn.Conv3d]
    norms: list[nn.BatchNorm3d]
    act: nn.Module
    slopes: list[torch.Tensor] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    @property
    def stride(self) -> int:
        """Of the first convolution, and of the residual one."""
        return self.convs[0].stride[0]

    def forget_slopes(self) -> None:
        """Before a forward pass: forget the last one's slopes, and read the norms' factors."""
        pairs = zip(self.convs, self.norms, strict=True)
        self.slopes, self.weights = [], [c.weight * factor_of(norm).view(-1, 1, 1, 1, 1) for c, norm in pairs]

    def note_slope(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the activation: keep the slope where its input lies."""
        self.slopes.append(slope_of(self.act, inputs[0]))

    def back(self, g: torch.Tensor, at: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Gradients by the block's output -> by its input, and where their windows of positions start on the crop.

        `(V, F, n, n, n)` from `at` `(V, 3)` -> `(V, E, m, m, m)`, m = s (n + 1) + 3 for stride s. What lies beyond the
        crop is dropped.
        """
        s, size = self.stride, g.shape[-1]
        # Second activation and convolution, then the first: (V, F, n) -> (V, F, n + 2) -> (V, E, s (n + 1) + 3).
        g = g * windows(self.slopes[1], at, size)
        inner = F.conv_transpose3d(g, self.weights[1]) * windows(self.slopes[0], at - 1, size + 2)
        found = F.conv_transpose3d(inner, self.weights[0], stride=s)
        # The residual, whose one tap reaches s (n - 1) + 1 positions in the middle of these.
        if len(self.weights) == 3:
            rim = slice(s + 1, s + 1 + s * (size - 1) + 1)
            found[..., rim, rim, rim] += F.conv_transpose3d(g, self.weights[2], stride=s)
        return found, s * (at - 1) - 1


def windows(volume: torch.Tensor, at: np.ndarray, size: int) -> torch.Tensor:
    """`volume` `(1, F, i, j, k)` on cubes that start `at` `(V, 3)`: `(V, F, n, n, n)`, zero beyond its ends."""
    return torch.cat([window(volume, lo, lo + size - 1) for lo in at])


@dataclass(frozen=True, eq=False)
class Parts:
    """The blocks downwards, at the bottom and upwards (outermost first), and what lies between these."""

    down: list[Block]
    bottom: Block
    up: list[Block]
    wider: list[nn.ConvTranspose3d]  # before each block of `up`
    last: nn.Conv3d  # of 1^3, makes the logits

    @property
    def blocks(self) -> list[Block]:
        """All of them."""
        return [*self.down, self.bottom, *self.up]


def take_apart(module: Any) -> Parts | None:
    """A DynUNet with held norms, any depth and width, with residual blocks or without; None for anything else.

    Checked piece by piece: 3^3 convolutions, the first of a block of stride 1 at the top and 2 below, residuals
    through a 1^3 convolution, transposed convolutions of 2^3, batch normalisation, an activation of two slopes.
    """
    from monai.networks.nets.dynunet import DynUNet, DynUNetSkipLayer  # MONAI takes seconds

    if not isinstance(module, DynUNet):
        return None
    down: list[Any] = []
    up: list[Any] = []
    wider: list[Any] = []
    layer: Any = module.skip_layers
    while isinstance(layer, DynUNetSkipLayer):
        down.append(_block(layer.downsample, 2 if down else 1))
        up.append(_block(getattr(layer.upsample, "conv_block", None), 1))
        wider.append(_conv(getattr(layer.upsample, "transp_conv", None), nn.ConvTranspose3d, 2, 2))
        layer = layer.next_layer
    bottom, last = _block(layer, 2), _conv(getattr(module.output_block, "conv", None), nn.Conv3d, 1, 1)
    return Parts(down, bottom, up, wider, last) if down and bottom and last and all([*down, *up, *wider]) else None


def _block(block: Any, stride: int) -> Block | None:
    """The block that a module is; None if it is anything else."""
    from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

    shapes = [(3, stride), (3, 1), (1, stride)][: {UnetBasicBlock: 2, UnetResBlock: 3}.get(type(block), 0)]
    found = [_conv(getattr(block, f"conv{n}", None), nn.Conv3d, *shape) for n, shape in enumerate(shapes, 1)]
    norms: list[Any] = [getattr(block, f"norm{n}", None) for n in range(1, len(shapes) + 1)]
    known = shapes and all(found) and all(isinstance(norm, nn.BatchNorm3d) for norm in norms)
    return Block(found, norms, block.lrelu) if known and isinstance(block.lrelu, KINKED) else None


def _conv(block: Any, kind: type, kernel: int, stride: int) -> Any:
    """The convolution of a block that holds dropout beside it, at most."""
    conv = getattr(block, "conv", None)
    if not is_plain(conv, kind, kernel, stride):
        return None
    beside = [leaf for leaf in block.modules() if leaf is not conv and not list(leaf.children())]
    return conv if all(isinstance(leaf, nn.Dropout | nn.Dropout3d) for leaf in beside) else None


# The backward pass of a nnU-Net with held statistics on the few positions that each voxel can reach.
#
# As `cone`, for convolutions of stride 1 and 2: in the published one a voxel touches 2 positions along each axis at the
# top of the decoder, 4 at the bottom, and 35 at the input, where the crop has 40 to 52.


class FrozenCone:
    """The backward pass of a DynUNet with held norms, voxel by voxel; made by `frozen_cone_of`."""

    def __init__(self, module: nn.Module, parts: Parts, channel: int = 1) -> None:
        """A `module`, its blocks as `take_apart` gives them, and the output that is explained."""
        self.module, self.parts, self.channel = module, parts, channel

    def see(self, x: torch.Tensor) -> None:
        """Run the network on a crop `(1, C, i, j, k)` and keep every slope."""
        with ExitStack() as hooks, torch.no_grad():
            for block in self.parts.blocks:
                block.forget_slopes()
                hooks.callback(block.act.register_forward_pre_hook(block.note_slope).remove)
            self.module(x.clone())

    def each(self, x: torch.Tensor, view: View, voxels: Voxels, budget: int) -> Iterator[tuple[int, Box, torch.Tensor]]:
        """As `views.Each`, for a view whose input is `x`: the gradients are on each voxel's own window."""
        self.see(x)
        origin = view.box.start
        weights = upload(view.weights_at(view.local(voxels)), x.device)
        batch = voxels_at_once(budget, self.values(), x)
        for some in np.array_split(np.arange(len(voxels)), -(-len(voxels) // batch)):
            rows = np.resize(some, max(2, len(some)))  # of a batch of one PyTorch's convolutions are ten times slower
            g, at = self._backward(voxels[rows] - origin, weights[rows])
            for row, lo, one in zip(some, at + origin, g, strict=False):
                box = Box.of(lo, lo + one.shape[-1])
                yield int(row), box & view.box, one[:, *(box & view.box).local(box)]

    def values(self) -> int:
        """Values that the backward pass of one voxel holds at most: a slope and two gradients at the top."""
        side = 2
        for _ in self.parts.up:
            side = (side + 4) // 2 + 1
        for block in [self.parts.bottom, *reversed(self.parts.down)]:
            side = block.stride * (side + 1) + 3
        return 3 * self.parts.down[0].convs[0].out_channels * side**3

    def _backward(self, local: Voxels, weights: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Gradients `(V, C, n, n, n)` of the lesion logits at `local` voxels, times `weights`, and their windows."""
        # Last convolution, lesion output alone, on pairs of positions: (V, 1, 2) -> (V, F, 2).
        last, at = self.parts.last.weight, local // 2 * 2
        g = last.new_zeros(len(local), 1, 2, 2, 2)
        index = upload(torch.as_tensor(local - at), g.device).T
        g[(torch.arange(len(local), device=g.device), 0, *index)] = weights.to(g)
        g, skipped = F.conv_transpose3d(g, last[self.channel, None]), []
        # Decoder, downwards: a block, its skip's share kept, the rest to half as many positions.
        for block, wider in zip(self.parts.up, self.parts.wider, strict=True):
            g, at = block.back(g, at)
            skipped.append((g[:, wider.out_channels :], at))
            g, at = _halve(g[:, : wider.out_channels], at, wider.weight)
        g, at = self.parts.bottom.back(g, at)
        # Encoder, upwards: the skip's share added where it lies, then a block.
        for block, (skip, start) in zip(reversed(self.parts.down), reversed(skipped), strict=True):
            _put(g, skip, start - at)
            g, at = block.back(g, at)
        return g, at


def _halve(g: torch.Tensor, at: np.ndarray, weight: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Back through a 2^3 transposed convolution: windows of n positions -> of half as many, aligned to pairs."""
    # Windows that start at an odd position get one of zeros before: (V, F, n) -> (V, F, 2 p), p pairs.
    first = at % 2
    pairs = (int(first.max()) + g.shape[-1] + 1) // 2
    aligned = g.new_zeros(*g.shape[:2], *[2 * pairs] * 3)
    _put(aligned, g, first)
    # Each pair to one position: (V, F, 2 p) -> (V, E, p).
    return F.conv3d(aligned, weight, stride=2), at // 2


def _put(total: torch.Tensor, g: torch.Tensor, at: np.ndarray) -> None:
    """Add each voxel's window to its part of `total` that starts `at`."""
    for whole, one, lo in zip(total, g, at, strict=True):
        whole[:, *Box.of(lo, lo + one.shape[-1])] += one


def frozen_cone_of(module: nn.Module, lesion_class: int = 1) -> FrozenCone | None:
    """The cone of the published nnU-Net with held norms, any depth, width and classes; None for anything else."""
    parts = take_apart(module)
    channel = None if parts is None else lesion_channel(parts.last, lesion_class)
    return None if parts is None or channel is None else FrozenCone(module, parts, channel)


# A network whose instance norms hold still, and the parts that decide a lesion in it.

RULE = "statistics='frozen' is for networks that are local but for instance norms"
REMEDY = "Take statistics='exact'."
BLOCK = 16  # side in voxels of the blocks whose voxels share a crop
_FROZEN, _CHECKED = Memory(), Memory(weights=False)  # held statistics are buffers, which change with every image
Moments = list[tuple[torch.Tensor, torch.Tensor]]  # mean and variance of each channel, norm by norm


class Frozen:
    """A copy of a network whose instance norms hold still; made by `frozen`."""

    def __init__(self, network: Network, channels: int) -> None:
        module = copy_of(network.module).eval().requires_grad_(False)
        stills: dict[nn.Module, nn.BatchNorm3d] = {}  # a norm may stand under several names, and is one norm
        for name, norm in list(module.named_modules(remove_duplicate=False)):
            if isinstance(norm, nn.InstanceNorm3d):
                parent, _, child = name.rpartition(".")
                stills[norm] = stills.get(norm) or _still(norm)
                setattr(module.get_submodule(parent), child, stills[norm])
        self.held = list(stills.values())
        self.network = replace(network, module=module)
        self.cone = frozen_cone_of(module, network.lesion_class)
        self._check(channels)
        self.field = receptive_field(self.network, channels)
        if not self.field.bounded:
            raise ValueError(f"{RULE}; {network.name} looks further than can be probed. {REMEDY}")

    def _check(self, channels: int) -> None:
        """Refuse a network without instance norms or with other parts that see everything; warn of one without gain."""
        name = self.network.name
        if not self.held:
            raise ValueError(f"{RULE}; {name} has none. {REMEDY}")
        far = sorted({type(leaf).__name__ for leaf in far_leaves(self.network.module)})
        if far:
            raise ValueError(f"{RULE}; {name} has {', '.join(far)} besides. {REMEDY}")
        if self.cone is None and self.network.through == "windows" and fills_window(self.network, channels):
            window = " x ".join(map(str, self.network.sides or ()))
            warnings.warn(
                f"statistics='frozen' gains nothing where a voxel looks at all of its window, as {name} does at its "
                f"{window} voxels. {REMEDY}",
                stacklevel=5,
            )

    def parts(self, shape: Sequence[int], voxels: Voxels) -> list[Part]:
        """One part for each block of voxels that share their windows, each window cut down to the block's crop."""
        if self.network.through == "windows":
            seen = window_parts(self.network, shape, voxels)
        else:
            whole, passes = Box.whole(self.field.padded(tuple(shape))), self.network.passes
            share = None if passes == 1 else torch.full(whole.shape, 1 / passes, dtype=torch.float64)
            seen = [Part(voxels, [View(whole, share, number=n) for n in range(passes)], whole)]
        return [
            Part.through([self._narrowed(view, some) for view in part.views], some, shape)
            for part in seen
            for _, some in group_voxels(part.voxels, part.voxels // BLOCK)
        ]

    def _narrowed(self, view: View, voxels: Voxels) -> View:
        """The part of a window that decides `voxels`, and the window itself, whose statistics it uses."""
        origin = view.box.start
        local = self.field.crop(Box.around(voxels).local(view.box), view.box.shape)
        box = Box.of(local.start + origin, local.stop + origin)
        return replace(view, box=box, weight=None if view.weight is None else view.weight[local], within=view.box)

    def record(self, image: Volume, parts: Sequence[Part]) -> dict[str, Moments]:
        """Means and variances of every window that the parts look through, pass by pass, on this image."""
        views = {_window_of(view): view for part in parts for view in part.views}
        return {key: self._statistics(image, view) for key, view in views.items()}

    def _statistics(self, image: Volume, view: View) -> Moments:
        """In training mode a batch norm does to one window what an instance norm does, and keeps what it found."""
        assert view.within is not None
        x = cut(image, view.within, self.network)
        positions: dict[nn.Module, int] = {}

        def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            positions[norm] = inputs[0][0, 0].numel()

        held: list[Any] = self.held
        with ExitStack() as after, torch.no_grad():
            for norm in held:
                norm.running_mean, norm.running_var = x.new_zeros(norm.num_features), x.new_ones(norm.num_features)
                after.callback(norm.train().eval)
                after.callback(norm.register_forward_pre_hook(note).remove)
            self.network.logits(x, view.number)
        # It divides by one less than an instance norm. Another member's norms did not run in this pass.
        counts = [positions.get(norm, 1) for norm in held]
        return [(norm.running_mean, norm.running_var * ((n - 1) / n)) for norm, n in zip(held, counts, strict=True)]

    def forward(self, image: Volume, view: View, recorded: dict[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `views.forward`, with the statistics of the view's window."""
        self._hold(view, recorded)
        return forward(self.network, image, view)

    def check_crop(self, image: Volume, part: Part, recorded: dict[str, Moments]) -> None:
        """Refuse a network of which a crop, with its window's statistics, gives another gradient than that window."""
        key = ("crop", tuple(image.shape), self.network.function)
        apart = _CHECKED(self.network.module, *key, make=lambda: self._apart(image, part, recorded))
        if not apart <= CLOSE:
            raise ValueError(
                f"{RULE}; a crop of {self.network.name} gives a gradient that is {apart:.2g} off. {REMEDY}"
            )

    def _apart(self, image: Volume, part: Part, recorded: dict[str, Moments]) -> float:
        """How far the gradient of a part's first voxel by a crop is from that by the window, over its largest value."""
        view, voxel = part.views[0], part.voxels[:1]
        found = []
        for seen in (replace(view, box=view.within), view):
            x, logits = self.forward(image, seen, recorded)
            found.append(torch.autograd.grad(logits[seen.local(voxel)].sum(), x)[0][0])
        whole, crop = found
        assert view.within is not None
        largest = float(whole.abs().max())
        whole[:, *view.box.local(view.within)] -= crop
        return float(whole.abs().max()) / largest if largest else 0.0

    def by_cone(self, image: Volume, recorded: dict[str, Moments], budget: int) -> Each:
        """Each voxel's gradient by the cone, which works in `budget` bytes."""
        cone = self.cone
        assert cone is not None

        def each(view: View, voxels: Voxels) -> Iterator[tuple[int, Box, torch.Tensor]]:
            self._hold(view, recorded)
            return cone.each(cut(image, view.box, self.network), view, voxels, budget)

        return each

    def _hold(self, view: View, recorded: dict[str, Moments]) -> None:
        for norm, (mean, variance) in zip(self.held, recorded[_window_of(view)], strict=True):
            norm.running_mean, norm.running_var = mean, variance


def _window_of(view: View) -> str:
    """The window and the pass whose statistics a view uses."""
    return f"{view.within} {view.number}"


def _still(norm: nn.InstanceNorm3d) -> nn.BatchNorm3d:
    """A batch norm in evaluation mode with the weights of an instance norm."""
    held = nn.BatchNorm3d(norm.num_features, eps=norm.eps, affine=norm.affine, momentum=1.0).eval()
    if norm.affine:
        held.weight, held.bias = norm.weight, norm.bias
    return held.requires_grad_(False)


def frozen(network: Network, channels: int) -> Frozen:
    """The frozen copy of a network, made once for the network as it is."""
    depends = [getattr(network, f.name) for f in fields(network) if f.name != "module"]
    return _FROZEN(network.module, channels, *depends, make=lambda: Frozen(network, channels))


def deviation(frozen_map: torch.Tensor, exact_map: torch.Tensor) -> dict[str, float]:
    """How far a frozen map is from the exact one: largest difference over the largest value, and L2 and L1 shares."""
    apart, exact = (frozen_map - exact_map).double(), exact_map.double()
    return {
        "largest": float(apart.abs().max() / exact.abs().max()),
        "l2": float(apart.norm() / exact.norm()),
        "l1": float(apart.abs().sum() / exact.abs().sum()),
    }
