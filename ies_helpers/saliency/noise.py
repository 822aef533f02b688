"""The noise of SmoothGrad: the same on every machine, ready before it is needed."""

from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral

import numpy as np
import torch

from ies_helpers.saliency.convergence import Draws
from ies_helpers.saliency.views import upload
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.seeds import check_seed
from ies_helpers.types import Volume

NOISE = 0.05
"""Standard deviation of the noise as a share of the range of the FLAIR channel, as published."""


def check_noise(draws: Draws, noise: float, seed: int) -> None:
    """Refuse fewer than one draw, noise that is negative or above the range itself, or a seed that is none."""
    check_seed(seed)
    if not (draws == "auto" or (isinstance(draws, Integral) and draws >= 1)) or not 0 <= noise <= 1:
        told = f"got {draws} and {noise}; for draws give a whole number, or auto"
        raise ValueError(f"draws must be at least 1 and noise a share from 0 to 1, {told}.")


def noise_sigma(image: Volume, noise: float) -> float:
    """Standard deviation of the noise: a share of max - min of the FLAIR channel, in z-scored intensity."""
    return noise * float(image[0].max() - image[0].min())


def noisy_image(image: Volume, sigma: float, seed: int, draw: int) -> Volume:
    """The image of one draw, `(C, I, J, K)`: numpy's generator seeded with (seed, draw), in float32."""
    if sigma == 0:
        return image
    normal = np.random.default_rng([seed, draw]).standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(normal).to(image.device).mul_(sigma).to(image.dtype)


class NoisyImages:
    """The noisy images of one run where the network is.

    Beside a GPU the next one is made by another thread, and copied from pinned memory, while the GPU works on this
    one. On the CPU all cores have enough to do. Not measured on a GPU.
    """

    def __init__(self, image: Volume, sigma: float, seed: int, network: Network, ahead: bool | None = None) -> None:
        """`ahead`: whether to make the next one early; None: beside a GPU."""
        self._make = lambda draw: noisy_image(image, sigma, seed, draw)
        self._network = network
        ahead = network.device.type == "cuda" if ahead is None else ahead
        self._worker = ThreadPoolExecutor(1) if ahead else None
        self._next: dict[int, Future[Volume]] = {}

    def __call__(self, draw: int) -> Volume:
        """The image of one draw; asked for in order, the next is on its way."""
        if self._worker is None:
            noisy = self._make(draw)
        else:
            waiting = self._next.get(draw) or self._worker.submit(self._make, draw)
            noisy = waiting.result()
            self._next = {draw + 1: self._worker.submit(self._make, draw + 1)}
        return upload(noisy, self._network.device).to(self._network.dtype)

    def close(self) -> None:
        """Let the thread go."""
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)
