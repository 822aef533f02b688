"""What a module puts out, of whatever kind, as logits `(B, 2, I, J, K)`."""

import re

import torch
from torch import nn


def logits_of(module: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    """`(B, C, I, J, K)` -> `(B, 2, I, J, K)`, or as many classes as the module has, of which 1 is lesion.

    A list, or `(B, n, 2, I, J, K)`, gives its first entry; a sigmoid head z becomes the two classes (0, z). The module
    gets a copy, so that one which works in place changes neither image nor gradient.

    Raises:
        ValueError: for an image of another number of modalities, or an output that is no such tensor.
    """
    try:
        y = module(x.clone())
    except RuntimeError as error:
        _check_modalities(x, name, error)
        raise
    while isinstance(y, list | tuple) and y:
        y = y[0]
    if isinstance(y, torch.Tensor) and y.ndim == 6:
        y = y[:, 0]
    if not isinstance(y, torch.Tensor) or y.ndim != 5 or y.shape[2:] != x.shape[2:]:
        got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
        raise ValueError(
            f"A network must map (B, C, I, J, K) to logits of the same I, J, K; {name} mapped {tuple(x.shape)} to "
            f"{got}. Wrap it in a module that does."
        )
    return torch.cat([torch.zeros_like(y), y], dim=1) if y.shape[1] == 1 else y


def _check_modalities(x: torch.Tensor, name: str, error: RuntimeError) -> None:
    """Say plainly what torch says of a first convolution that gets too few or too many channels."""
    seen = re.escape(str(list(x.shape)))
    if wanted := re.search(rf"expected input{seen} to have (\d+) channels", str(error)):
        raise ValueError(
            f"{name} takes {wanted[1]} modalities, got an image of {len(x[0])}: give all that it was trained with, in "
            "its order. Chapter 12 shows that zeros are no stand-in for a missing one."
        ) from error
