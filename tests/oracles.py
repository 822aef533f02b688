"""Plain loops: what the methods mean, written as the definitions say, with no thought for time or memory.

All work on the whole volume, in the precision they are given, through torch's autograd alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map
from monai.inferers.utils import sliding_window_inference

from ies_helpers import Network

Logits = Callable[[torch.Tensor], torch.Tensor]
"""`(1, C, I, J, K)` -> logits of the lesion class `(I, J, K)`; one output is taken for it."""


def whole(network: Network, multiple: int = 16) -> Logits:
    """The network on the whole volume, padded at the end to a multiple of its stride."""

    def logits(x: torch.Tensor) -> torch.Tensor:
        missing = [-n % multiple for n in x.shape[2:]]
        padded = F.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]])
        y = network.module(padded)[0, :, : x.shape[2], : x.shape[3], : x.shape[4]]
        return y[network.lesion_class if len(y) > 1 else 0]

    return logits


def blended(network: Network) -> Logits:
    """The network through MONAI's own sliding-window inferer."""

    def logits(x: torch.Tensor) -> torch.Tensor:
        assert network.sides is not None
        how = {"overlap": network.overlap, "mode": network.weighting}
        y = sliding_window_inference(x, network.sides, 1, network.module, **how)
        return y[0, network.lesion_class]  # pyright: ignore[reportIndexIssue, reportArgumentType, reportReturnType]

    return logits


def blended_on(network: Network, boxes: Sequence[tuple[slice, slice, slice]]) -> Logits:
    """The blend again, by hand, of the windows at `boxes` alone: enough for voxels that no other window holds."""
    assert network.sides is not None
    weight = compute_importance_map(network.sides, mode=network.weighting)

    def logits(x: torch.Tensor) -> torch.Tensor:
        total, weights = torch.zeros(x.shape[2:]), torch.zeros(x.shape[2:])
        for box in boxes:
            placed = torch.zeros_like(total)
            placed[box] = weight * network.module(x[(..., *box)])[0, network.lesion_class]
            total = total + placed
            weights[box] += weight
        return total / weights.clamp(min=1e-6)

    return logits


def voxel_gradients(logits: Logits, image: torch.Tensor, voxels: np.ndarray) -> torch.Tensor:
    """`(V, C, I, J, K)`: one backward pass over everything for each voxel, as the published loop does."""
    x = image[None].clone().requires_grad_()
    y = logits(x)
    return torch.stack([torch.autograd.grad(y[tuple(v)], x, retain_graph=True)[0][0] for v in voxels])


def aggregate(gradients: torch.Tensor, how: str) -> torch.Tensor:
    """`(V, C, I, J, K)` -> `(C, I, J, K)`: sum, mean, or the entry of largest absolute value with its sign."""
    if how == "sum":
        return gradients.sum(dim=0)
    if how == "mean":
        return gradients.sum(dim=0) / len(gradients)
    return gradients.gather(0, gradients.abs().argmax(dim=0, keepdim=True))[0]


def smoothgrad(
    logits: Logits,
    image: torch.Tensor,
    voxels: np.ndarray,
    how: str,
    draws: int,
    noise: float,
    seed: int,
    reference: int = 0,
) -> torch.Tensor:
    """The mean over draws of the aggregated gradient of the noisy image, its noise a share of one channel's range."""
    sigma = noise * float(image[reference].max() - image[reference].min())
    total = torch.zeros_like(image)
    for draw in range(draws):
        normal = np.random.default_rng([seed, draw]).standard_normal(tuple(image.shape), dtype=np.float32)
        noisy = image + torch.from_numpy(normal * np.float32(sigma)).to(image.dtype)
        total += aggregate(voxel_gradients(logits, noisy, voxels), how)
    return total / draws


def gradcam_pp(network: Network, logits: Logits, image: torch.Tensor, voxels: np.ndarray) -> torch.Tensor:
    """`(I, J, K)`: equations 8 to 10 on the whole volume, channel by channel, after one backward pass to the input."""
    kept = []
    layer = network.module.get_submodule(network.layer or "")
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    y = logits(image[None].clone().requires_grad_())
    handle.remove()
    kept[0].retain_grad()
    y[tuple(torch.as_tensor(voxels).T)].sum().backward()
    g = kept[0].grad
    low = torch.zeros_like(g[0, 0])
    for a_k, g_k in zip(kept[0][0].detach(), g[0], strict=True):
        denominator = 2 * g_k**2 + (a_k * g_k**3).sum()
        alpha = torch.where(denominator == 0, 0.0, g_k**2 / denominator.masked_fill(denominator == 0, 1.0))
        low += alpha * g_k.relu() * a_k
    shape = [-(-n // 16) * 16 for n in image.shape[1:]]
    up = F.interpolate(low.relu()[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]
    return up[: image.shape[1], : image.shape[2], : image.shape[3]]


def finite_difference(logits: Logits, image: torch.Tensor, voxels: np.ndarray, at: np.ndarray) -> torch.Tensor:
    """`(N,)`: central difference of the summed lesion logits for each input entry `(c, i, j, k)` of `at`."""
    step, slopes = 1e-5, []
    index = tuple(torch.as_tensor(voxels).T)
    with torch.no_grad():
        for entry in at:
            ends = []
            for sign in (1, -1):
                moved = image.clone()
                moved[tuple(entry)] += sign * step
                ends.append(logits(moved[None])[index].sum())
            slopes.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(slopes)


@torch.no_grad()
def lesion_probabilities(network: Network, image: torch.Tensor, voxels: np.ndarray) -> torch.Tensor:
    """`(V,)` probabilities of the lesion class, everything through the network, as it is seen (`through`)."""
    stride = max(network.stride or (1,))
    if network.through == "windows":
        y = sliding_window_inference(
            image[None], network.sides or (0, 0, 0), 1, network.module, overlap=network.overlap, mode=network.weighting
        )
    else:
        missing = [-n % stride for n in image.shape[1:]]
        y = network.module(F.pad(image[None], [0, missing[2], 0, missing[1], 0, missing[0]]))
    p = y[0].sigmoid() if network.head == "sigmoid" else y[0].softmax(dim=0)  # pyright: ignore
    return p[(network.lesion_class, *torch.as_tensor(voxels).T)]


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest value wanted."""
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max())
