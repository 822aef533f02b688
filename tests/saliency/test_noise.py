"""Noise made ahead is the noise made in time."""

import pytest
import torch

from ies_helpers.saliency.smoothgrad import NoisyImages, noise_sigma, noisy_image
from tests.networks import unet


@pytest.mark.parametrize("ahead", [True, False])
def test_images_made_early_are_those_of_their_draws_in_any_order(ahead: bool) -> None:
    image, network = torch.randn(2, 5, 6, 7), unet((3, 4))
    noisy = NoisyImages(image, 0.3, 11, network, ahead=ahead)
    for draw in (0, 1, 2, 7, 3, 3):
        wanted = noisy_image(image, 0.3, 11, draw).double()
        assert torch.equal(noisy(draw), wanted)
        assert noisy(draw).dtype == network.dtype
    noisy.close()


def test_the_noise_is_a_share_of_the_range_of_flair_alone() -> None:
    image = torch.zeros(2, 3, 3, 3)
    image[0, 0, 0, 0], image[0, 1, 1, 1], image[1, 0, 0, 0] = 2.0, -1.0, 50.0
    assert noise_sigma(image, 0.05) == pytest.approx(0.15)


def test_a_draw_is_numpys_and_scaled() -> None:
    import numpy as np

    wanted = np.random.default_rng([5, 2]).standard_normal((2, 3, 4, 5), dtype=np.float32)
    got = noisy_image(torch.ones(2, 3, 4, 5), 0.25, 5, 2)
    assert torch.allclose(got, 1 + 0.25 * torch.from_numpy(wanted), rtol=1e-7)
