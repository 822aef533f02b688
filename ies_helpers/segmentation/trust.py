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
from ies_helpers.segmentation.inference import pad_end
from ies_helpers.segmentation.network import Memory, Network, at_rest

CLOSE = 1e-4
"""Largest difference of a logit, over the spread of logits, and of a gradient, over its largest value, that rounding
makes in float32."""

SMALL = 64
"""Side in voxels of the piece of the image on which a network without a window is first asked."""

SEVERAL = "probabilities of several sigmoids"

_remembered = Memory(weights=False)  # crops and answers are right or wrong by structure


def check_answers(network: Network, image: Volume) -> None:
    """Refuse a network that cannot be explained, once for each network and shape: three passes on a piece of the image.

    Raises:
        ValueError: for logits that are probabilities already, not finite, without a gradient, or other ones each time.
    """
    key = ("answers", tuple(image.shape), network.sides, network.stride, network.head, network.lesion_class)
    if wrong := _remembered(network.module, *key, str(network.dtype), make=lambda: _what_is_wrong(network, image)):
        raise ValueError(wrong)


def _what_is_wrong(network: Network, image: Volume) -> str:
    """A sentence, or nothing."""
    x = _piece(network, image)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x) * 10
    with at_rest(network), torch.enable_grad():
        y = network.logits(x.requires_grad_())
        if not y.requires_grad:
            return (
                f"A network's logits must depend on its input; those of {network.name} have no gradient. Take no_grad, "
                "detach and numpy out of its forward."
            )
        with torch.no_grad():
            again, on_noise = network.logits(x), network.logits(noise)
    y, name = y.detach(), network.name
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
    if kind := _probabilities(y, on_noise, network):
        other = ", or say Network(..., head='probability'), which explains the log odds"
        return (
            f"A network must put out logits; {name} puts out {kind} (from {float(y.min()):.3g} to "
            f"{float(y.max()):.3g}, also on noise). Take the last activation out of its forward"
            f"{'' if kind == SEVERAL else other}."
        )
    return ""


def _piece(network: Network, image: Volume) -> torch.Tensor:
    """The middle of the image, `(1, C, i, j, k)`: a window, or a cube of whole strides."""
    stride = np.array(network.stride or receptive_field(network, len(image)).stride)
    sides = np.array(network.sides or [SMALL] * 3)
    sides = np.minimum(sides, -(-np.array(image.shape[1:]) // stride) * stride) if network.sides is None else sides
    sides = -(-sides // stride) * stride if network.sides is None else sides
    start = np.maximum(0, (np.array(image.shape[1:]) - sides) // 2)
    inner = image[:, *(Box.of(start, start + sides) & Box.whole(image.shape[1:]))]
    return pad_end(inner, tuple(int(n) for n in sides))[None].to(network.device, network.dtype).clone()


def _probabilities(y: torch.Tensor, on_noise: torch.Tensor, network: Network) -> str:
    """`softmax`'s or `sigmoid`'s probabilities, if that is what both outputs are."""
    if network.head == "probability":
        return ""
    single = y.shape[1] == 2 and not bool(y[:, 0].any())  # one channel, beside which stands 0
    both = [z[:, 1:] if single else z for z in (y, on_noise)]
    if not all(bool(((z >= 0) & (z <= 1)).all()) and float(z.std()) > 0 for z in both):
        return ""
    if not single and all(bool(((z.sum(dim=1) - 1).abs() < 1e-3).all()) for z in both):
        return "probabilities of a softmax"
    return "probabilities of a sigmoid" if single else SEVERAL


def image_field(network: Network, image: Volume, voxels: Voxels) -> ReceptiveField:
    """The field of a network, bounded only where a crop of this image gave what the whole image gives.

    Args:
        network: seen whole.
        image: `(C, I, J, K)`.
        voxels: `(V, 3)` of the lesion at hand; asked once for each network and shape, at the first lesion.
    """
    field = receptive_field(network, len(image))
    shape = tuple(image.shape[1:])
    if not field.bounded or field.crop(Box.around(voxels), shape).shape == field.padded(shape):
        return field
    key = ("crop", tuple(image.shape), network.stride, network.lesion_class, network.head, str(network.dtype))
    why = _remembered(
        network.module, *key, str(network.device), make=lambda: _crop_differs(network, image, voxels, field)
    )
    if not why:
        return field
    warnings.warn(f"{network.name} is taken on the whole image, which is slow: {why}.", stacklevel=3)
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
        except RuntimeError as error:
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
