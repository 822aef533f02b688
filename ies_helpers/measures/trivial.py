"""A group with known truth: ClinicaDL's "trivial data", a known mask changed in one class, and a classifier of it.

Whoever explains the classifier must point at the mask, and at nothing else; the map of the opposite node has the
opposite sign.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ies_helpers.segmentation.networks import Network
from ies_helpers.types import LabelMap, Volume, Voxels


class WholeImage(nn.Module):
    """A classifier of whole images: node n is w_n . x + b_n, the same at every voxel of its output.

    So the engine explains it as it explains any network: its "lesion" is any one voxel.
    """

    def __init__(self, weights: np.ndarray, biases: np.ndarray) -> None:
        """`weights` `(N, C, I, J, K)`, `biases` `(N,)`."""
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights).float())
        self.biases = nn.Parameter(torch.from_numpy(biases).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> `(B, N, I, J, K)`."""
        nodes = torch.einsum("bcijk,ncijk->bn", x, self.weights) + self.biases
        return nodes[:, :, None, None, None].expand(*nodes.shape, *x.shape[2:])


@dataclass(frozen=True, eq=False)
class Trivial:
    """Images of two classes that differ in a known mask, and a classifier trained on them.

    Attributes:
        network: nodes 0 (healthy) and 1 (atrophied); explain node 0 by `one_class(network, 0)`.
        images: `(1, I, J, K)` each.
        atrophied: for each image, whether the mask was changed.
        mask: `(I, J, K)` bool, what was changed.
        voxel: `(1, 3)`, any voxel: what the engine is asked about.
        correct: share of the images that the network sorts rightly.
    """

    network: Network
    images: list[Volume]
    atrophied: np.ndarray
    mask: LabelMap
    voxel: Voxels
    correct: float


def trivial_group(count: int = 20, *, atrophy: float = 0.4, steps: int = 200, seed: int = 0) -> Trivial:
    """`count` noisy images of 12^3 voxels, every second with its mask's values lowered, and a logistic regression.

    Departure from ClinicaDL, whose mask is an atlas region and whose change per voxel is noisy: a cube of 4^3 voxels,
    lowered by `atrophy` (share of its value) without further noise.

    Args:
        count: images, of both classes together.
        atrophy: 0 leaves both classes alike.
        steps: of gradient descent on cross-entropy, from zero, both nodes by themselves.
        seed: of images.
    """
    rng, shape = np.random.default_rng(seed), (12, 12, 12)
    mask = np.zeros(shape, dtype=bool)
    mask[2:6, 3:7, 4:8] = True
    atrophied = np.arange(count) % 2 == 1
    images = 1 + 0.2 * rng.standard_normal((count, *shape))
    images[atrophied] *= np.where(mask, 1 - atrophy, 1)
    x = (images - images.mean(axis=0)).reshape(count, -1)
    wanted, w, b = np.eye(2)[atrophied.astype(int)], np.zeros((2, x.shape[1])), np.zeros(2)
    for _ in range(steps):
        odds = np.exp(x @ w.T + b)
        wrong = (odds / odds.sum(axis=1, keepdims=True) - wanted) / count
        w, b = w - 0.05 * wrong.T @ x, b - 0.05 * wrong.sum(axis=0)
    network = WholeImage(w.reshape(2, 1, *shape), b - w @ images.mean(axis=0).ravel())
    correct = float(((x @ w.T + b).argmax(axis=1) == atrophied).mean())
    volumes = [torch.from_numpy(image[None]).float() for image in images]
    voxel = np.array([[6, 6, 6]])
    return Trivial(Network(network, "trivial"), volumes, atrophied, torch.from_numpy(mask), voxel, correct)
