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

from ies_helpers.arrays import Box, Volume, Voxels
from ies_helpers.segmentation.field import ReceptiveField, receptive_field
from ies_helpers.segmentation.inference import check_logits, pad_end, piece_of
from ies_helpers.segmentation.network import Memory, Network, at_rest

CLOSE = 1e-4
"""Largest difference of a logit, over the spread of logits, and of a gradient, over its largest value, that rounding
makes in float32."""

_remembered = Memory(weights=False)  # crops and answers are right or wrong by structure


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
    with at_rest(network), torch.enable_grad():
        y = network.logits(x.requires_grad_())
        if not y.requires_grad:
            return (
                f"A network's logits must depend on its input; those of {name} have no gradient. Take no_grad, "
                "detach and numpy out of its forward."
            )
        with torch.no_grad():
            again = network.logits(x)
    y = y.detach()
    if not bool(torch.isfinite(y).all()):
        return (
            f"Logits and their gradients must be finite; {name} gave NaN or infinity. Check its weights and the image."
        )
    apart = float((y - again).abs().max())
    if apart > CLOSE * max(1.0, float(y.abs().max())):
        return (
            f"A network must give one answer for one image; {name} gave logits {apart:.3g} apart. It draws random "
            "numbers in evaluation mode: switch off dropout that is called as a function."
        )
    return ""


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
    why = _remembered(network.module, *key, make=lambda: _crop_differs(network, image, voxels, field))
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
        y = network.lesion_logit(x)[0]
        spread = float(y.detach().std()) or 1.0
        try:
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
