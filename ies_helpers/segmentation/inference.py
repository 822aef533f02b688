"""Network + image -> logits and probabilities, without gradients."""

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.segmentation.networks import Network, as_network, at_rest
from ies_helpers.segmentation.receptive_field import receptive_field
from ies_helpers.segmentation.windowing import importance, total_importance, window_boxes
from ies_helpers.types import Probability, Volume


def predict(network: Network | nn.Module, image: Volume, *, progress: bool = False) -> Probability:
    """Probability of lesion at every voxel: softmax over the classes of `predict_logits`, class 1.

    Args:
        network: sees the image through its windows, or whole if it has none.
        image: `(C, I, J, K)`, z-scored.
        progress: show a bar over windows.

    Returns:
        `(I, J, K)` float32, on the CPU.
    """
    return predict_logits(network, image, progress=progress).softmax(dim=0)[1]


def predict_logits(network: Network | nn.Module, image: Volume, *, progress: bool = False) -> torch.Tensor:
    """Logits of every class at every voxel, windows blended before any softmax (as published).

    Returns:
        `(2, I, J, K)` float32, on the CPU; of a network of more classes all of them.

    Raises:
        ValueError: for an image that is not `(C, I, J, K)`, has other modalities than the network takes, is smaller
            than a window, or gives logits that are not finite.
    """
    network = as_network(network)
    check_image(image)
    check_window(network, tuple(image.shape[1:]))
    with torch.no_grad(), at_rest(network):
        whole = network.sides is None
        logits = whole_logits(network, image) if whole else _blended_logits(network, image, progress)
    check_finite(logits, network)
    return logits


def _blended_logits(network: Network, image: Volume, progress: bool) -> torch.Tensor:
    """All windows, weighted: sum_w g_w f_w / sum_w g_w, `(2, I, J, K)` float32."""
    shape = tuple(image.shape[1:])
    total, weight = torch.zeros(1), importance(network).float()
    for box in tqdm(window_boxes(network, shape), desc="Windows", disable=not progress):
        where = (slice(None), *box)
        logits = network.logits(image[where][None].to(network.device, network.dtype))[0].float().cpu()
        total = torch.zeros(len(logits), *shape) if total.ndim == 1 else total
        total[where] += weight * logits
    return total / total_importance(network, shape).float()


def whole_logits(network: Network, image: Volume) -> torch.Tensor:
    """One forward pass over the whole volume, zero-padded at its end to the network's stride: `(2, I, J, K)`."""
    shape = image.shape[1:]
    padded = pad_end(image, receptive_field(network, image.shape[0]).padded(tuple(shape)))
    logits = network.logits(padded[None].to(network.device, network.dtype))[0]
    return logits[:, : shape[0], : shape[1], : shape[2]].float().cpu()


def pad_end(image: Volume, shape: tuple[int, ...]) -> Volume:
    """Zeros after the last voxel of each axis up to `shape`; the first voxel stays where it is."""
    missing = [n - have for n, have in zip(shape, image.shape[1:], strict=True)]
    return F.pad(image, [0, missing[2], 0, missing[1], 0, missing[0]])


def check_finite(values: torch.Tensor, network: Network) -> None:
    """Refuse what a network gave, logits or a map of them, if it is not finite. On a GPU this waits for it."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"Logits and their gradients must be finite; {network.name} gave NaN or infinity. Check its weights and "
            "the image."
        )


def check_image(image: Volume) -> None:
    """Refuse what is not a finite `(C, I, J, K)` tensor."""
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or not image.is_floating_point():
        got = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise ValueError(f"An image must be a float tensor (C, I, J, K), got {got}; take subject.image.")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("An image must be finite, got NaN or infinity; load it with load_subject, which says where.")


def check_window(network: Network, shape: tuple[int, ...]) -> None:
    """Refuse an image with a side below the window's."""
    if network.sides is not None and any(n < w for n, w in zip(shape, network.sides, strict=True)):
        window, size = " x ".join(map(str, network.sides)), " x ".join(map(str, shape))
        raise ValueError(
            f"An image must be at least one window large; {network.name} looks through windows of {window} voxels "
            f"and the image has {size}. Take a larger field of view, or a Network with a smaller window or None."
        )
