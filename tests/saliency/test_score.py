"""A lesion's score on edited images: what the whole volume gives, from the box that matters alone."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from ies_helpers import Network
from ies_helpers.saliency import score as module
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.networks import Through
from ies_helpers.segmentation.toys import Linear, Shifted
from tests import oracles
from tests.lively import nnunet, unet

EXACT = 1e-12
"""Float64 probabilities: rounding alone."""

LESION = np.array([[40, 34, 25], [20, 10, 21], [21, 10, 21], [22, 11, 23]])
SHAPE = (48, 44, 37)  # no multiple of the stride


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, *SHAPE, dtype=torch.float64)


NETWORKS = {
    "U-Net, whole": (unet, None, "whole"),
    "U-Net, windows": (unet, 32, "windows"),
    "nnU-Net, whole": (nnunet, None, "whole"),
    "nnU-Net, windows": (nnunet, 32, "windows"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_what_the_whole_volume_gives_for_any_edit_in_the_box(name: str, image: torch.Tensor) -> None:
    make, window, through = NETWORKS[name]
    network = replace(make(), window=window, through=through)
    score = LesionScore(network, image, LESION)
    volumes, edited = [], []
    for scale in (0.0, 1.0, 3.0):
        volume = image.clone()
        score.crop(volume)[:] += scale * torch.randn_like(score.image)
        volumes.append(volume)
        edited.append(score.crop(volume))
    wanted = torch.stack([oracles.lesion_probabilities(network, volume, LESION) for volume in volumes])
    assert float((score.probabilities(torch.stack(edited)) - wanted).abs().max()) < EXACT
    mean, largest = score(iter(edited))
    assert torch.allclose(mean, wanted.mean(dim=1), rtol=0, atol=EXACT)
    assert torch.allclose(largest, wanted.amax(dim=1), rtol=0, atol=EXACT)


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_no_edit_beyond_the_box_changes_the_score(through: Through, image: torch.Tensor) -> None:
    network, lesion = replace(unet((3, 4)), window=24), LESION[1:]
    score = LesionScore(network, image, lesion, through=through)
    assert np.prod(score.image.shape[1:]) < 0.5 * np.prod(SHAPE)
    far = torch.randn_like(image)
    score.crop(far)[:] = score.image
    wanted = oracles.lesion_probabilities(network.explained_through(through), far, lesion)
    assert torch.allclose(score.probabilities([score.image])[0], wanted, rtol=0, atol=EXACT)


def test_a_linear_network_scores_a_voxel_by_itself(image: torch.Tensor) -> None:
    score = LesionScore(Linear((2.0, -1.0)), image, LESION)
    assert [s.stop - s.start for s in score.box] == [21, 25, 5], "the hull of the voxels"
    at = tuple(torch.as_tensor(LESION).T)
    logits = 2 * image[0][at] - image[1][at]
    assert torch.allclose(score.logits([score.image])[0, 1], logits, atol=1e-5)  # its weights are float32
    assert torch.equal(score.logits([score.image])[0, 0], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("affordable", [0, 2**40])
def test_a_lesion_scored_crop_by_crop_is_the_same(affordable: int, image: torch.Tensor, monkeypatch) -> None:
    monkeypatch.setattr(module, "AFFORDABLE", affordable)
    score = LesionScore(unet((3, 4, 5)), image, LESION)
    wanted = oracles.lesion_probabilities(unet((3, 4, 5)), image, LESION)
    assert torch.allclose(score.probabilities([score.image])[0], wanted, rtol=0, atol=EXACT)


def test_windows_that_an_edit_does_not_touch_run_once(image: torch.Tensor) -> None:
    """Two windows hold the lesion: two forward passes unedited, then one for each edit of one window."""
    network = replace(nnunet(), window=24, overlap=0.0, through="windows")
    passes = []
    network.module.register_forward_hook(lambda *_: passes.append(None))
    lesion = np.array([[30, 30, 26], [30, 30, 10]])
    score = LesionScore(network, image, lesion)

    def edits() -> Iterator[torch.Tensor]:
        yield score.image
        for n in range(3):
            edited = score.image.clone()
            edited[:, n, 0, 0] += 1
            yield edited

    got = score.probabilities(edits())
    assert len(passes) == 2 + 3
    assert len(set(got[:, 1].tolist())) == 4
    assert len(set(got[:, 0].tolist())) == 1


def test_a_cue_some_voxels_away_is_inside_the_box(image: torch.Tensor) -> None:
    score = LesionScore(Shifted(steps=5), image, LESION[1:2])
    cue = [20 + 5 - score.box[0].start, 10 - score.box[1].start, 21 - score.box[2].start]
    edited = score.image.clone()
    edited[(0, *cue)] = 2.0
    assert score.logits([edited])[0, 1].tolist() == pytest.approx([6.0])


def test_the_network_comes_back_as_it_was_also_after_an_exception(image: torch.Tensor) -> None:
    network = unet((3, 4))
    network.module.train()
    before = score_state(network)
    score = LesionScore(network, image, LESION)

    def broken() -> Iterator[torch.Tensor]:
        yield score.image
        raise RuntimeError("no more edits")

    with pytest.raises(RuntimeError, match="no more edits"):
        score(broken())
    assert score_state(network) == before
    assert torch.equal(score.image, score.crop(image))


def score_state(network: Network) -> list[object]:
    """Modes, gradients wanted, weights and running statistics."""
    modes = [m.training for m in network.module.modules()]
    return [modes, [p.requires_grad for p in network.module.parameters()], network.digest()]


def test_what_cannot_be_scored_is_refused(image: torch.Tensor) -> None:
    score = LesionScore(Linear(), image, LESION)
    with pytest.raises(ValueError, match=r"shape of the box, \(2, 21, 25, 5\), got \(2, 48, 44, 37\)"):
        score([image])
    with pytest.raises(ValueError, match="There must be an edited image to score, got none"):
        score([])
    with pytest.raises(ValueError, match="needs one; give window=96"):
        LesionScore(Linear(), image, LESION, through="windows")
