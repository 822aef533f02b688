"""What is believed of a network, and only after it was shown on the image at hand.

Two things are. That it answers: the same logits twice, finite, no probabilities, connected to its input. And that a
crop decides a lesion as the whole image does: a probe finds how far a network looks, but only for one that is the same
everywhere. Upsampling with aligned corners, coordinates, a rim that the network adds itself, a statistic over the whole
image make it another function on a crop. So a logit in the lesion and two at opposite corners of the image, and their
gradients, are taken both ways before a crop is used; where they differ, the whole image is, and that is said.
"""

import warnings
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.segmentation.field import ReceptiveField, receptive_field
from ies_helpers.segmentation.inference import check_logits, pad_end, piece_of
from ies_helpers.segmentation.network import Memory, Network, at_rest

CLOSE = 1e-4
"""Largest difference of a logit, over the spread of logits, and of a gradient, over its largest value, that rounding
makes in float32."""

_remembered, _crops = Memory(weights=False), Memory()  # a path of weight 0 may open later, and then a crop differs


def check_answers(network: Network, image: Volume) -> None:
    """Refuse a network that cannot be explained, once for each network and shape, after a few passes on a piece of it.

    That is one whose logits are probabilities already, not finite, without a gradient, or other ones each time.
    """
    check_logits(network, image)
    key = ("answers", tuple(image.shape), network.function)
    if wrong := _remembered(network.module, *key, make=lambda: _what_is_wrong(network, image)):
        raise ValueError(wrong)


def _what_is_wrong(network: Network, image: Volume) -> str:
    """A sentence, or nothing."""
    x, name = piece_of(network, image), network.name
    none = (
        f"A network's logits must depend on its input; those of {name} have no gradient. Take no_grad, detach and "
        "numpy out of its forward."
    )
    with at_rest(network), torch.enable_grad():
        try:
            y = network.logits(x.requires_grad_())
        except RuntimeError as error:
            if "Inference tensors" in str(error):
                return f"{none} Its weights may be of torch.inference_mode, too: load or make them outside."
            if "numpy()" in str(error):
                return none
            raise
        weights = _waves(y, 0).abs()
        g = torch.autograd.grad((y * weights).sum(), x, allow_unused=True)[0] if y.requires_grad else None
        if g is None:
            return none
        with torch.no_grad():
            again = network.logits(x)
    if not bool(torch.isfinite(y).all()):
        return (
            f"Logits and their gradients must be finite; {name} gave NaN or infinity. Check its weights and the image."
        )
    apart = float((y.detach() - again).abs().max())
    if apart > CLOSE * max(1.0, float(y.detach().abs().max())):
        return (
            f"A network must give one answer for one image; {name} gave logits {apart:.3g} apart. It draws random "
            "numbers in evaluation mode: switch off dropout that is called as a function."
        )
    _warn_of_a_cut(network, x.detach(), g, weights)
    return ""


STEP, OFF = 1e-3, 0.1
"""A small step, as a share of the image's spread, and the share by which a gradient may be off what it changes."""


def _warn_of_a_cut(network: Network, x: torch.Tensor, g: torch.Tensor, weights: torch.Tensor) -> None:
    """Say where `g` is not the gradient of the logits at `x`, times `weights`: a part of the forward has none."""
    told, found = [], []
    for seed in range(1, 5):
        step = STEP * float(x.std()) * _waves(x, seed)
        with torch.no_grad(), at_rest(network):
            change = network.logits(x + step) - network.logits(x - step)
        found.append(float((change * weights).sum(dtype=torch.float64)) / 2)
        told.append(float((g * step).sum(dtype=torch.float64)))
        off = float(np.linalg.norm(np.subtract(told, found)) / (np.linalg.norm(found) or 1.0))
        if not OFF < off < np.inf:
            return
    warnings.warn(
        f"A gradient must tell how logits change; that of {network.name} is {off:.0%} off for a small step. A part of "
        "its forward has no gradient (no_grad, detach, numpy, rounding), and maps show the rest alone.",
        stacklevel=2,
    )


def _waves(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Normal random numbers, fine and coarse, so that no level of a network cancels them: `(B, C, I, J, K)`."""
    random = torch.Generator().manual_seed(seed)
    fine, coarse = torch.randn(like.shape, generator=random), torch.randn(*like.shape[:2], 3, 3, 3, generator=random)
    return (fine + 2 * F.interpolate(coarse, like.shape[2:])).to(like)


def image_field(network: Network, image: Volume, voxels: Voxels) -> ReceptiveField:
    """The field of a network, bounded only where a crop of this image gave what the whole image gives.

    Args:
        network: seen whole.
        image: `(C, I, J, K)`.
        voxels: `(V, 3)` of the lesion at hand; asked once for each network and shape, at the first lesion.
    """
    field = receptive_field(network, len(image))
    shape = tuple(image.shape[1:])
    if field.gave_up:
        return _whole(network, field, field.gave_up)
    if not field.bounded or field.crop(Box.around(voxels), shape).shape == field.padded(shape):
        return field
    if any(n % s for n, s in zip(field.padded(shape), field.stride, strict=True)):  # it pads by itself, nobody sees how
        return _whole(network, field, f"its sides {shape} are no multiples of the network's stride, and it pads itself")
    key = ("crop", tuple(image.shape), network.function)
    why = _crops(network.module, *key, make=lambda: _crop_differs(network, image, voxels, field))
    return _whole(network, field, why) if why else field


def _whole(network: Network, field: ReceptiveField, why: str) -> ReceptiveField:
    """The field without its bounds, and a word about it."""
    warnings.warn(f"{network.name} is taken on the whole image, which is slow: {why}.", stacklevel=4)
    return replace(field, before=None, after=None)


def _crop_differs(network: Network, image: Volume, voxels: Voxels, field: ReceptiveField) -> str:
    """What a crop gives otherwise than the whole image, in the lesion or at a corner; nothing if it does not."""
    shape = tuple(image.shape[1:])
    places = np.unique(np.array([voxels[len(voxels) // 2], (0, 0, 0), np.array(shape) - 1]), axis=0)
    whole = pad_end(image, field.padded(shape))[None].to(network.device, network.dtype)
    index = tuple(torch.as_tensor(places, device=whole.device).T)
    with at_rest(network), torch.enable_grad():
        x = whole.clone().requires_grad_()
        try:
            y = network.lesion_logit(x)[0]
            spread = float(y.detach().std()) or 1.0
            pieces = [_by_crop(network, whole, field.crop(Box.around(place[None]), shape), place) for place in places]
        except (RuntimeError, ValueError) as error:
            return f"it does not take a crop ({' '.join(str(error).split())[:80]})"
        apart = max(abs(float(y[tuple(p)].detach()) - value) for p, (_, value, _) in zip(places, pieces, strict=True))
        if not apart <= CLOSE * spread:
            return f"by a crop a logit is {apart:.2g} off"
        (wanted,) = torch.autograd.grad(y[index].sum(), x)
    largest = float(wanted.abs().max())
    for box, _, g in pieces:
        wanted[0][:, *box] -= g
    apart = float(wanted.abs().max()) / largest if largest else 0.0
    return "" if apart <= CLOSE else f"by a crop its gradient is {apart:.2g} of the largest value off"


def _by_crop(network: Network, whole: torch.Tensor, box: Box, place: np.ndarray) -> tuple[Box, float, torch.Tensor]:
    """One voxel's logit and its gradient `(C, i, j, k)` by the crop on `box`."""
    x = whole[..., *box].clone().requires_grad_()
    logit = network.lesion_logit(x)[0][tuple(place - box.start)]
    return box, float(logit.detach()), torch.autograd.grad(logit, x)[0][0]
