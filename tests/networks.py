"""Networks with lively random weights: every path carries gradient, no slope is neutral."""

import torch
from torch import nn

from ies_helpers import Network
from ies_helpers.segmentation.architectures import build


def lively(network: Network, seed: int = 0) -> Network:
    """Float64, with random batch-norm statistics, affine weights, biases and PReLU slopes."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    network.module.double().eval().requires_grad_(False)
    for module in network.module.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                if tensor is not None:
                    uniform(tensor, low, high)
        elif isinstance(module, nn.PReLU):
            uniform(module.weight, 0.05, 0.5)
        elif isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and module.bias is not None:
            uniform(module.bias, -0.2, 0.2)
    return network


def unet(channels: tuple[int, ...] = (3, 4, 5, 6, 7)) -> Network:
    """A narrow relative of the published U-Net."""
    torch.manual_seed(len(channels))
    return lively(build("unet", channels))


def nnunet(channels: tuple[int, ...] = (3, 4, 5)) -> Network:
    """A narrow relative of the published nnU-Net."""
    torch.manual_seed(1)
    return lively(build("nnunet", channels))
