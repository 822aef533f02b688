"""Instance Grad-CAM++ and Grad-CAM: which parts of one layer made the network call one lesion a lesion."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ies_helpers.arrays import Box, LesionLike, Saliency, Volume, Voxels, as_voxels, door
from ies_helpers.saliency.views import Boxed, Part, View, crop_part, cut, union, window_part
from ies_helpers.segmentation.inference import check_finite, check_image
from ies_helpers.segmentation.network import Copies, Network, as_network, at_rest
from ies_helpers.segmentation.trust import check_answers, image_field


@door
def gradcam_pp(
    network: Network | nn.Module, image: Volume, lesion: LesionLike, *, layer: str | None = None
) -> Saliency:
    """Instance Grad-CAM++ (equations 8 to 10 of the paper), not pooled over space.

    With y' the sum of the lesion's logits, A the layer's activations and g = dy'/dA:
    alpha = g^2 / (2 g^2 + sum over space of A g^3), 0 where the denominator is 0; the map is
    relu(sum over channels of alpha relu(g) A), brought to the image's grid by trilinear interpolation. Raw
    values are kept. Through windows, space is the union of the windows' activations and their maps add up,
    so that windows which see the same give what one would.

    Departure from Chattopadhyay et al. (arXiv 1710.11063): no factor exp(y'), which overflows for a sum over a
    lesion, and weights per position, because a mean over space would spread them over other lesions.

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: whose logits.
        layer: name of a submodule; None takes `network.layer`.

    Returns:
        `(1, I, J, K)` float32, non-negative.
    """
    return boxed_cam(network, image, lesion, layer).full(tuple(image.shape[1:]))


@door
def gradcam(network: Network | nn.Module, image: Volume, lesion: LesionLike, *, layer: str | None = None) -> Saliency:
    """Instance Grad-CAM: relu(sum over channels of w A), w the mean over space of g = dy'/dA (arXiv 1610.02391).

    The mean over space spreads the map over every lesion of the image; chapter 06 shows it. Space is the whole image,
    so a network with a bounded field needs one pass over all of it. Arguments as `gradcam_pp`.
    """
    return boxed_cam(network, image, lesion, layer, pooled=True).full(tuple(image.shape[1:]))


class Seen(NamedTuple):
    """One view's activations A and gradients g, both `(F, i, j, k)` at the layer's resolution."""

    view: View
    activation: torch.Tensor
    gradient: torch.Tensor


@door
def boxed_cam(
    network: Network | nn.Module, image: Volume, lesion: LesionLike, layer: str | None = None, pooled: bool = False
) -> Boxed:
    """Grad-CAM++, or `pooled` Grad-CAM, in float64, `(1, i, j, k)` on the box where it can be non-zero."""
    check_image(image)
    network = as_network(network)
    module = find_layer(network, layer or network.layer)
    shape = tuple(image.shape[1:])
    voxels = as_voxels(lesion, shape)
    if network.grid is not None:
        return _placed_cam(network, module, image, voxels, pooled)
    check_answers(network, image)
    part, seen = _part_of(network, image, voxels, pooled)
    return _cam_of(network, module, image, part, seen, pooled)


def _part_of(network: Network, image: Volume, voxels: Voxels, pooled: bool) -> tuple[Part, tuple[int, ...]]:
    """What decides the voxels, and the shape of the volume in which it lies, with what the network pads."""
    shape = tuple(image.shape[1:])
    if network.through == "windows":
        return window_part(network, shape, voxels), shape
    field = image_field(network, image, voxels)
    padded = field.padded(shape)
    if pooled:
        return Part.through([View(Box.whole(padded))], voxels, shape), padded
    return crop_part(field, shape, voxels), padded


def _placed_cam(network: Network, module: nn.Module, image: Volume, voxels: Voxels, pooled: bool) -> Boxed:
    """The same on the network's own grid, for the scan voxels' logits, and brought to the scan as logits are."""
    grid, inner = network.grid, network.on_its_grid()
    _, places, weights = grid.spread(voxels)
    placed, _ = grid.push(image)
    part, seen = _part_of(inner, placed, np.unique(places, axis=0), pooled)
    cam = _cam_of(inner, module, placed, part.weighted(places, weights, grid.shape), seen, pooled)
    return Boxed(grid.restore(cam.whole(grid.shape)), grid.box)


def _cam_of(
    network: Network, module: nn.Module, image: Volume, part: Part, padded: tuple[int, ...], pooled: bool
) -> Boxed:
    """The map of a part's views, which lie in a volume of shape `padded`, added up."""
    with at_rest(network):
        seen = [_run_view(network, module, image, view, part.voxels) for view in part.views]
    # Weights (F, i, j, k) and activations of each view -> its map (i, j, k) at the layer's resolution.
    weights = pooled_weights(seen) if pooled else pp_weights(seen)
    cams = [F.relu((w * s.activation).sum(dim=0)) for s, w in zip(seen, weights, strict=True)]
    # Each on the image's grid, (1, i, j, k), and all of them added up.
    grown = [_upsample(cam, s.view.box, padded, network.through) for cam, s in zip(cams, seen, strict=True)]
    box = union(b for _, b in grown) & Box.whole(image.shape[1:])
    total = Boxed(torch.zeros(1, *box.shape, dtype=torch.float64), box)
    for cam, seen_box in grown:
        total.add(cam, seen_box)
    check_finite(total.values, network)
    return total


def _upsample(cam: torch.Tensor, box: Box, shape: Sequence[int], through: str) -> tuple[torch.Tensor, Box]:
    """A map at the layer's resolution -> trilinear on the image's grid, `(1, i, j, k)`, and its box.

    Seen whole, the map is zero beyond a crop, so a border of zeros is interpolated with it. A window is a world of its
    own.
    """
    ratio = np.array(box.shape) // cam.shape
    before, after = (box.start > 0).astype(int), (box.stop < shape).astype(int)
    if through == "windows" or tuple(ratio * cam.shape) != box.shape:
        before, after = np.zeros((2, 3), dtype=int)
    cam = F.pad(cam, [int(e) for axis in (2, 1, 0) for e in (before[axis], after[axis])])
    out = Box.of(box.start - before * ratio, box.stop + after * ratio)
    up = F.interpolate(cam[None, None], size=out.shape, mode="trilinear", align_corners=False)
    return up[0].cpu(), out


def find_layer(network: Network, layer: str | None) -> nn.Module:
    """The submodule called `layer`."""
    if isinstance(network.module, torch.jit.ScriptModule):
        raise ValueError(
            f"Grad-CAM++ reads one layer of the network, and TorchScript lets nobody read it; {network.name} is "
            "TorchScript. Take the module that it was made from, or smoothgrad, which needs no layer."
        )
    modules = dict(network.module.named_modules())
    if not layer or layer not in modules:
        names = [name for name, module in modules.items() if name and not list(module.children())]
        some = ", ".join(names[:3] + names[-3:])
        raise ValueError(f"Grad-CAM++ reads one layer of the network by name, got {layer!r}; there are {some}, ...")
    return modules[layer]


def _run_view(network: Network, module: nn.Module, image: Volume, view: View, voxels: Voxels) -> Seen:
    """One forward pass on a view, and the gradient of the lesion's share of its logits at the layer."""
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().clone().requires_grad_()
        kept.append(leaf)
        return leaf.clone()

    module, flip = _of_pass(network, module, view.number)
    with torch.enable_grad(), ExitStack() as hooks:
        hooks.callback(module.register_forward_hook(keep).remove)
        logits = network.lesion_logit(cut(image, view.box, network), view.number)[0]
    if len(kept) != 1 or not logits.requires_grad:
        raise ValueError("Grad-CAM++ needs a layer that runs once and that the output depends on; choose another one.")
    index = view.local(voxels[view.holds(voxels)])
    score = (logits[index] * view.cotangent(logits, index)).sum()
    (g,) = torch.autograd.grad(score, kept[0])
    # A mirrored copy's layer is turned back, so that all passes lie in the image's own axes.
    return Seen(view, kept[0].detach().flip(flip)[0].double(), g.flip(flip)[0].double())


def _of_pass(network: Network, module: nn.Module, number: int | None) -> tuple[nn.Module, tuple[int, ...]]:
    """The same layer in the member that makes a pass, and the axes that the pass mirrors."""
    if number is None or not isinstance(network.module, Copies):
        return module, ()
    member, flip = network.module.passes[number]
    names = {found: name for name, found in network.module.members[0].named_modules()}
    return network.module.members[member].get_submodule(names[module]), flip


def pp_weights(seen: list[Seen]) -> list[torch.Tensor]:
    """alpha * relu(g) for each view, `(F, i, j, k)`; float64, since the denominator's terms cancel."""
    cubic = sum((s.activation * s.gradient**3).sum(dim=(1, 2, 3), keepdim=True) for s in seen)
    weights = []
    for s in seen:
        square = s.gradient**2
        denominator = 2 * square + cubic
        alpha = torch.where(denominator == 0, 0.0, square / torch.where(denominator == 0, 1.0, denominator))
        weights.append(alpha * F.relu(s.gradient))
    return weights


def pooled_weights(seen: list[Seen]) -> list[torch.Tensor]:
    """The mean of g over space, `(F, 1, 1, 1)`, the same for every view."""
    positions = sum(s.gradient[0].numel() for s in seen)
    mean = torch.stack([s.gradient.sum(dim=(1, 2, 3), keepdim=True) for s in seen]).sum(dim=0) / positions
    return [mean] * len(seen)
