"""Network + image -> logits and probabilities, without gradients."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.arrays import Box, Probability, Volume, door
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.network import Memory, Network, as_network, at_rest, padded

# Where a sliding window stops, and how much each stop counts, as MONAI's inferer or nnU-Net has it.

Sides = tuple[int, ...]
SIGMA = 0.125  # standard deviation of the gaussian weights, as a share of the window's side


def window_boxes(network: Network, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """The windows of a network on a volume `(I, J, K)`."""
    assert network.sides is not None
    return _boxes(shape, network.sides, network.overlap, network.placing)


def importance(network: Network) -> torch.Tensor:
    """Float64 weight of each voxel of a window, `(w, w, w)` or as large as its sides."""
    assert network.sides is not None
    return _importance(network.sides, network.weighting, network.placing)


def total_importance(network: Network, shape: tuple[int, ...]) -> torch.Tensor:
    """`(I, J, K)` float64: the sum of all windows' importance."""
    assert network.sides is not None
    return _total(shape, network.sides, network.overlap, network.weighting, network.placing)


@functools.lru_cache(maxsize=8)
def _boxes(shape: Sides, sides: Sides, overlap: float, placing: str) -> tuple[Box, ...]:
    if placing == "nnunet":
        starts = [_nnunet_starts(n, w, overlap) for n, w in zip(shape, sides, strict=True)]
        return tuple(Box.of(start, np.add(start, sides)) for start in itertools.product(*starts))
    from monai.data.utils import dense_patch_slices  # MONAI takes seconds

    steps = [w if n == w else max(1, int(w * (1 - overlap))) for n, w in zip(shape, sides, strict=True)]
    return tuple(map(Box, dense_patch_slices(shape, sides, steps, return_slice=True)))


def _nnunet_starts(length: int, side: int, overlap: float) -> list[int]:
    """Equal steps of at most (1 - overlap) x side, rounded; the last window ends with the volume."""
    count = math.ceil((length - side) / (side * (1 - overlap))) + 1
    step = (length - side) / max(count - 1, 1)
    return [int(np.round(step * n)) for n in range(count)]


@functools.lru_cache(maxsize=8)
def _importance(sides: Sides, weighting: str, placing: str) -> torch.Tensor:
    """Constant, or a gaussian of sigma w/8: MONAI's is at least 1e-3, nnU-Net's peaks at w // 2 and is never 0."""
    if placing == "monai" or weighting == "constant":
        from monai.data.utils import compute_importance_map  # MONAI takes seconds

        return compute_importance_map(sides, mode=weighting, sigma_scale=SIGMA).double()
    weight = np.zeros(sides)
    weight[tuple(w // 2 for w in sides)] = 1
    weight = ndimage.gaussian_filter(weight, [SIGMA * w for w in sides], mode="constant")
    weight = (weight / (weight.max() / 10)).astype(np.float16)  # as nnU-Net keeps it: corners share these last bits
    weight[weight == 0] = weight[weight > 0].min()
    return torch.from_numpy(weight.astype(np.float64))


@functools.lru_cache(maxsize=2)
def _total(shape: Sides, sides: Sides, overlap: float, weighting: str, placing: str) -> torch.Tensor:
    total = torch.zeros(shape, dtype=torch.float64)
    for box in _boxes(shape, sides, overlap, placing):
        total[box] += _importance(sides, weighting, placing)
    return total


@door
def predict(network: Network | nn.Module, image: Volume, *, progress: bool = False) -> Probability:
    """Probability of lesion at every voxel: softmax or sigmoid, as `network.head`, of the blended logits.

    The network sees the image `(C, I, J, K)`, z-scored, through its windows, or whole if it has none; `progress` shows
    a bar over them. The result is `(I, J, K)` float32, on the CPU.
    """
    network = as_network(network)
    probability = network.probability(predict_logits(network, image, progress=progress))
    return probability if network.grid is None else probability.nan_to_num(0.0)  # nnU-Net: background beyond its box


@door
def predict_logits(network: Network | nn.Module, image: Volume, *, progress: bool = False) -> torch.Tensor:
    """Logits of all K classes at every voxel, windows blended before any softmax (as published).

    The result is `(K, I, J, K)` float32, on the CPU.
    """
    network = as_network(network)
    check_image(image)
    network = padded(network, tuple(image.shape[1:]))
    if network.grid is not None:
        placed, _ = network.grid.push(image)
        return network.grid.fill(predict_logits(network.on_its_grid(), placed, progress=progress))
    check_logits(network, image)
    with torch.no_grad(), at_rest(network):
        by_windows = network.sides is not None
        logits = _blended_logits(network, image, progress) if by_windows else whole_logits(network, image)
    check_finite(logits, network)
    return logits


def _blended_logits(network: Network, image: Volume, progress: bool) -> torch.Tensor:
    """All windows, weighted: sum_w g_w f_w / sum_w g_w, `(K, I, J, K)` float32."""
    shape = tuple(image.shape[1:])
    total, weight = torch.zeros(1), importance(network).float()
    for box in tqdm(window_boxes(network, shape), desc="Windows", disable=not progress):
        logits = network.logits(image[None, :, *box].to(network.device, network.dtype))[0].float().cpu()
        total = torch.zeros(len(logits), *shape) if total.ndim == 1 else total
        total[:, *box] += weight * logits
    return total / total_importance(network, shape).float()


def whole_logits(network: Network, image: Volume) -> torch.Tensor:
    """One forward pass over the whole volume, zero-padded at its end to the network's stride: `(K, I, J, K)`."""
    shape = tuple(image.shape[1:])
    padded = pad_end(image, receptive_field(network, len(image)).padded(shape))
    logits = network.logits(padded[None].to(network.device, network.dtype))[0]
    return logits[:, *Box.whole(shape)].float().cpu()


def pad_end(image: Volume, shape: tuple[int, ...]) -> Volume:
    """A copy with zeros after the last voxel of each axis, up to `shape`."""
    missing = [n - have for n, have in zip(shape, image.shape[1:], strict=True)]
    return F.pad(image, [0, missing[2], 0, missing[1], 0, missing[0]])


# Logits that are none: modules that end in a softmax or sigmoid give the same mask, and gradients that are wrong.

SMALL = 32  # side in voxels of the piece of the image on which a network is first asked, two strides at least
SEVERAL = "probabilities of several sigmoids"

_remembered = Memory(weights=False)


def check_logits(network: Network, image: Volume) -> None:
    """Refuse a network that puts out probabilities, once for each network and shape, after a pass on a piece of it."""
    if network.head == "probability":
        return
    key = (tuple(image.shape), network.function)
    if wrong := _remembered(network.module, *key, make=lambda: _why_no_logits(network, piece_of(network, image))):
        raise ValueError(wrong)


def piece_of(network: Network, image: Volume) -> torch.Tensor:
    """The middle of the image, `(1, C, i, j, k)`: a small cube, or a window or all where no small one is taken."""
    shape, window = tuple(image.shape[1:]), network.sides
    if window is not None and network.stride is None:
        return _middle(network, image, window)
    stride = network.stride or receptive_field(network, len(image)).stride
    most = zip(window or shape, stride, strict=True)
    small = _middle(network, image, [-(-min(n, max(SMALL, 2 * s)) // s) * s for n, s in most])
    try:
        with torch.no_grad(), at_rest(network):
            network.logits(small)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):  # one that is built for one size
        return _middle(network, image, window or [-(-n // s) * s for n, s in zip(shape, stride, strict=True)])
    return small


def _middle(network: Network, image: Volume, sides: Sequence[int]) -> torch.Tensor:
    """So many voxels of the image, `(1, C, i, j, k)`, with zeros at the end where it has fewer."""
    shape = tuple(image.shape[1:])
    start = np.maximum(0, np.subtract(shape, sides) // 2)
    inner = image[:, *(Box.of(start, start + sides) & Box.whole(shape))]
    return pad_end(inner, tuple(sides))[None].to(network.device, network.dtype).clone()


def _why_no_logits(network: Network, x: torch.Tensor) -> str:
    """A sentence, or nothing: a softmax's or sigmoid's values lie between 0 and 1, on noise as well."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x) * 10
    with torch.no_grad(), at_rest(network):
        y = network.logits(x)
        if not bool(((y >= 0) & (y <= 1)).all()):
            return ""
        on_noise = network.logits(noise)
    single = y.shape[1] == 2 and not bool(y[:, 0].any())  # one channel, beside which stands 0
    both = [z[:, 1:] if single else z for z in (y, on_noise)]
    if not all(bool(((z >= 0) & (z <= 1)).all()) and float(z.std()) > 0 for z in both):
        return ""
    softmax = not single and all(bool(((z.sum(dim=1) - 1).abs() < 1e-3).all()) for z in both)
    kind = "probabilities of a softmax" if softmax else "probabilities of a sigmoid" if single else SEVERAL
    other = "" if kind == SEVERAL else ", or say Network(..., head='probability'), which explains the log odds"
    return (
        f"A network must put out logits; {network.name} puts out {kind} (from {float(y.min()):.3g} to "
        f"{float(y.max()):.3g}, also on noise). Take the last activation out of its forward{other}."
    )


def check_finite(values: torch.Tensor, network: Network) -> None:
    """Refuse what a network gave, logits or a map of them, if it is not finite. On a GPU this waits for it."""
    if not bool(torch.isfinite(values).all()):
        what = f"Logits and their gradients must be finite; {network.name} gave NaN or infinity."
        raise ValueError(f"{what} Check its weights and the image.")


def check_image(image: Volume) -> None:
    """Refuse what is not a finite `(C, I, J, K)` tensor."""
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or not image.is_floating_point():
        got = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise ValueError(f"An image must be a float tensor (C, I, J, K), got {got}; take subject.image.")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("An image must be finite, got NaN or infinity; load it with load_subject, which says where.")


def check_window(network: Network, shape: tuple[int, ...]) -> None:
    """Refuse an image with a side below the window's, unless `prepare` put it on a grid that is large enough."""
    if (
        network.grid is None
        and network.sides is not None
        and any(n < w for n, w in zip(shape, network.sides, strict=True))
    ):
        window, size = " x ".join(map(str, network.sides)), " x ".join(map(str, shape))
        raise ValueError(
            f"An image must be at least one window large; {network.name} looks through windows of {window} voxels "
            f"and the image has {size}. Take prepare(network, subject), which pads it as MONAI's inferer does."
        )
