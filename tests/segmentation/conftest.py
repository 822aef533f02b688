"""What several tests of this floor begin with."""

import pytest
import torch

from tests.weights import state_of_unet


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return state_of_unet()
