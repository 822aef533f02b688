"""One class of a network with any number of them, put to the engine as its class 1."""

from dataclasses import replace

import torch
from torch import nn

from ies_helpers.segmentation.networks import Network, as_network


class _OneOf(nn.Module):
    """Logits (log of the other classes' summed exponentials, class c): their softmax is class c's probability."""

    def __init__(self, network: Network, number: int) -> None:
        super().__init__()
        self.module = network.module
        self.register_buffer("number", torch.tensor(number))  # so that the digest of each class differs
        self._logits, self._class = network.logits, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._logits(x)
        if self._class >= y.shape[1]:
            raise ValueError(f"number must be below the network's {y.shape[1]} classes, got {self._class}.")
        others = torch.cat([y[:, : self._class], y[:, self._class + 1 :]], dim=1)
        return torch.stack([others.logsumexp(dim=1), y[:, self._class]], dim=1)


def one_class(network: Network | nn.Module, number: int) -> Network:
    """The same network with class `number` in the place of lesion, so that every method here explains that class.

    Its class-1 logit is the network's logit of that class to the bit, its probability is the softmax over all
    classes. Through windows the logit is blended before the softmax as ever; of the other classes their combined
    logit is blended, so a probability where windows overlap can differ from that of all classes blended one by one.

    Args:
        network: `(B, C, I, J, K)` -> `(B, K, I, J, K)` logits of K >= 2 classes.
        number: of the class, from 0.

    Raises:
        ValueError: for a negative number here, for one that is too large when the network is first asked.
    """
    if number < 0:
        raise ValueError(f"number must be a class, 0 or more, got {number}.")
    network = as_network(network)
    layer = f"module.{network.layer}" if network.layer else None
    return replace(network, module=_OneOf(network, number), name=f"{network.name}-class{number}", layer=layer)
