"""Networks with lively random weights: every path carries gradient, no slope is neutral."""

from dataclasses import replace

import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.unet import UNet
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


def unet(channels: tuple[int, ...] = (3, 4, 5, 6, 7), inputs: int = 2, outputs: int = 2) -> Network:
    """A narrow relative of the published U-Net."""
    torch.manual_seed(len(channels))
    network = build("unet", channels)
    if (inputs, outputs) == (2, 2):
        return lively(network)
    strides = (2,) * (len(channels) - 1)
    module = UNet(3, inputs, outputs, channels, strides, norm="batch", num_res_units=0)
    return lively(replace(network, module=module))


def nnunet(channels: tuple[int, ...] = (3, 4, 5), inputs: int = 2, outputs: int = 2) -> Network:
    """A narrow relative of the published nnU-Net."""
    torch.manual_seed(1)
    network = build("nnunet", channels)
    if (inputs, outputs) == (2, 2):
        return lively(network)
    sides = {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": channels}
    module = DynUNet(3, inputs, outputs, **sides, res_block=True, norm_name="instance", act_name="leakyrelu")
    return lively(replace(network, module=module))


def hollow(network: Network) -> Network:
    """The same network without values, on torch's `meta` device: no step of it may mix in the CPU."""
    return replace(network, module=network.module.to("meta"))
