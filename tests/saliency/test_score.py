"""A lesion's score on edited images: what the whole volume gives, from the box that matters alone."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, integrated_gradients, occlusion, perilesional_curve, predict, predict_logits, road
from ies_helpers.saliency import score as module
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.network import Through
from ies_helpers.teaching import Linear, Shifted
from tests import oracles
from tests.networks import nnunet, unet

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
    for scale in (0.0, 2.0):
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
    passes.clear()  # of the look at whether it puts out logits

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


@pytest.mark.parametrize(("at_once", "most"), [(2, 2), (3, 2), (100, 4)])
def test_images_taken_at_once_score_as_one_by_one(
    at_once: int, most: int, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five edits, of which one touches nothing and two touch one window of two."""
    network = replace(nnunet(), window=24, overlap=0.0, through="windows")
    score = LesionScore(network, image, np.array([[30, 30, 26], [30, 30, 10]]))
    edited = [score.image + 0.1 * n for n in range(3)] + [score.image.clone() for _ in range(2)]
    edited[3][:, 3, 0, 0] += 1
    edited[4][:, 5, 0, 0] -= 1
    wanted = torch.cat([score.logits([one]) for one in edited])
    passes: list[int] = []
    network.module.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    monkeypatch.setattr(LesionScore, "_at_once", lambda _: at_once)
    assert float((score.logits(iter(edited)) - wanted).abs().max()) < EXACT
    assert sum(passes) == 2 * 2 + 2 + 2, "two edits through both windows, two through one, the unedited windows once"
    assert max(passes) == most


def test_a_gpu_takes_as_many_images_as_memory_holds_and_fewer_where_it_holds_less(
    image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = LesionScore(replace(nnunet(), window=24, through="windows"), image, LESION)
    assert score._at_once() == 1, "a CPU takes one"
    wanted = score.logits([score.image, score.image + 1, score.image - 1, score.image * 2, score.image * 3])
    one = receptive_field(score.network, 2).activations * 24**3 * 8
    monkeypatch.setattr(Network, "device", torch.device("meta"))
    for room, taken in ((0.5, 1), (3.5, 3), (100.5, 100)):
        monkeypatch.setattr(module, "BUDGET", room * one)
        assert score._at_once() == taken
    monkeypatch.undo()
    monkeypatch.setattr(LesionScore, "_at_once", lambda _: 5)
    forward, sizes = Network.logits, []

    def scarce(network: Network, x: torch.Tensor, number: int | None = None) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return forward(network, x)

    monkeypatch.setattr(Network, "logits", scarce)
    got = score.logits([score.image, score.image + 1, score.image - 1, score.image * 2, score.image * 3])
    assert torch.equal(got, wanted)
    assert max(sizes) == 4


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


def test_a_network_whose_logits_are_not_finite_has_no_score(image: torch.Tensor) -> None:
    network = replace(unet((3, 4, 5)), window=32)
    network.module.model[0].conv.bias[0] = float("nan")
    lesion, saliency = LESION[1:], torch.ones(1, *SHAPE)
    for ask in (
        lambda: perilesional_curve(network, image, lesion),
        lambda: occlusion(network, image, lesion),
        lambda: integrated_gradients(network, image, lesion),
        lambda: road(network, image, lesion, saliency, fill="zero"),
    ):
        with pytest.raises(ValueError, match="must be finite; unet gave NaN or infinity"):
            ask()


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_of_more_classes_it_scores_the_same_one_that_predict_shows(through: Through, image: torch.Tensor) -> None:
    module = nn.Conv3d(2, 3, 3, padding=1).double()
    network = Network(module, window=24 if through == "windows" else None, through=through)
    score = LesionScore(network, image, LESION)
    at = tuple(torch.as_tensor(LESION).T)
    wanted = predict_logits(network, image)[(slice(None), *at)]
    assert torch.allclose(score.logits([score.image])[0], wanted.double(), atol=1e-5)  # predictions are float32
    assert torch.allclose(score.probabilities([score.image])[0], predict(network, image)[at].double(), atol=1e-6)


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_of_several_regions_each_has_a_sigmoid_of_its_own(through: Through, image: torch.Tensor) -> None:
    module = nn.Conv3d(2, 3, 3, padding=1).double()
    window = 24 if through == "windows" else None
    network = Network(module, window=window, through=through, lesion_class=2, head="sigmoid", stride=(1, 1, 1))
    score = LesionScore(network, image, LESION)
    wanted = oracles.lesion_probabilities(network, image, LESION)
    assert torch.allclose(score.probabilities([score.image])[0], wanted, rtol=0, atol=EXACT)
    at = tuple(torch.as_tensor(LESION).T)
    assert torch.allclose(predict(network, image)[at].double(), wanted, atol=1e-6)
    (curve,) = perilesional_curve(network, image, LESION, distances=[9])["full_score"]
    assert curve == pytest.approx(float(wanted.mean()), abs=EXACT)
    softmax = replace(network, head="softmax")
    assert float((LesionScore(softmax, image, LESION).probabilities([score.image])[0] - wanted).abs().max()) > 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_channels_are_scored(channels: int) -> None:
    image, voxels = torch.randn(channels, 20, 16, 24, dtype=torch.float64), np.array([[9, 8, 11], [10, 8, 11]])
    network = replace(unet((3, 4, 5), inputs=channels), window=None, through="whole")
    score = LesionScore(network, image, voxels)
    wanted = oracles.lesion_probabilities(network, image, voxels)
    assert torch.allclose(score.probabilities([score.image])[0], wanted, rtol=0, atol=EXACT)


def test_a_class_beyond_the_head_is_refused_before_anything_is_scored(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"below the 2 classes .* got 5"):
        LesionScore(replace(unet((3, 4)), lesion_class=5), image, LESION, through="whole")
