"""A subject and its channels: by name, in any order, each with a row of what is known of it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ies_helpers import Subject
from ies_helpers.subjects.subject import CHANNELS, SHIPPED, channel, noise_reference, normalise


def subject_of(*channels: str) -> Subject:
    """Channel n is n everywhere."""
    image = torch.arange(len(channels), dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, 3, 4).clone()
    return Subject("toy", image, np.diag([1.0, 2.0, 3.0, 1.0]), channels)


def test_channels_are_taken_by_name_in_the_order_asked_for() -> None:
    subject = subject_of("flair", "t1", "dir")
    with pytest.warns(UserWarning, match=r"flair, t1, dir; .* dir, flair"):
        taken = subject.with_channels(("dir", "flair"))
    assert taken.channels == taken.modalities == ("dir", "flair")
    assert taken.image[:, 0, 0, 0].tolist() == [2, 0]
    assert subject.with_channels(None) is subject
    assert subject.with_channels(["flair", "t1", "dir"]) is subject
    assert (taken.shape, taken.spacing) == ((2, 3, 4), (1, 2, 3))


def test_a_channel_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"swin takes t2, flair, pd; toy has flair, t1 and lacks t2, pd"):
        subject_of("flair", "t1").with_channels(("t2", "flair", "pd"), by="swin")


def test_each_channel_has_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="got t1, t1"):
        subject_of("t1", "t1")
    with pytest.raises(ValueError, match="got 2 for flair"):
        Subject("toy", torch.zeros(2, 3, 3, 3), np.eye(4), ("flair",))


def test_a_name_without_a_row_gets_one() -> None:
    assert (channel("dir").label, channel("dir").suffix) == ("DIR", "DIR")
    assert channel("t1-ce").suffix == "T1CE"
    assert channel("flair") is CHANNELS["flair"]
    with pytest.raises(ValueError, match="'--'"):
        channel("--")


@pytest.mark.parametrize(
    ("channels", "place"), [(None, 0), ((), 0), (SHIPPED, 0), (("t1", "flair"), 1), (("dir", "t2"), 0)]
)
def test_the_noise_is_measured_by_flair_or_else_by_the_first(channels: tuple[str, ...] | None, place: int) -> None:
    assert noise_reference(channels) == place


@pytest.mark.parametrize("names", [SHIPPED, ("dir", "t2")])
def test_each_channel_is_z_scored_over_its_own_voxels(names: tuple[str, ...]) -> None:
    raw = np.random.default_rng(0).gamma(2, 50, (2, 12, 12, 12))
    raw[0, :4], raw[1, :, :3] = 0, 0
    for values, got in zip(raw, normalise(raw, names), strict=True):
        inside = values != 0
        wanted = np.where(inside, (values - values[inside].mean()) / values[inside].std(), 0)
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5)


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of torch's threads comes back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_z_scores_are_the_same_bits_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    raw = rng.gamma(2.0, 50.0, (2, 96, 100, 96)) * (rng.random((96, 100, 96)) < 0.6)
    found = []
    for count in (1, 8):
        torch.set_num_threads(count)
        found.append(normalise(raw).numpy().tobytes())
        assert torch.get_num_threads() == count
    assert found[0] == found[1]
