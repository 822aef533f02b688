"""Weights of a narrow U-Net as a file holds them, and what a file that is refused must say."""

from pathlib import Path

import pytest
import torch

from ies_helpers import load_network
from ies_helpers.segmentation.architectures import build

CHANNELS = (3, 4, 5)


def state_of_unet() -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in build("unet", CHANNELS).module.state_dict().items()}


def floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if v.is_floating_point()}


def refused(path: Path, rule: str, **options: str) -> None:
    """One short sentence, which commands no terminal, matches `rule`."""
    with pytest.raises(ValueError, match=rule) as caught:
        load_network(path, **options)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600
