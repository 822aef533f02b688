"""A subject and its channels: by name, in any order, each with a row of what is known of it."""

import re
from collections.abc import Callable, Iterator

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms.intensity.array import NormalizeIntensity
from scipy import ndimage

from ies_helpers import Subject, load_subject
from ies_helpers.subjects.subject import (
    CHANNELS,
    SHIPPED,
    channel,
    find_background,
    known_channel,
    noise_reference,
    normalise,
)
from tests.patients import ball


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


def test_names_that_networks_have_for_channels_are_known() -> None:
    names = {
        "FLAIR": "flair",
        "T1": "t1",
        "T1w": "t1",
        "t1n": "t1",
        "MPRAGE": "t1",
        "UNIT1": "t1",
        "T2w": "t2",
        "PD": "pd",
    }
    names |= {
        "T1Gd": "t1c",
        "t1ce": "t1c",
        "T1c": "t1c",
        "T1 contrast": "t1c",
        "T1_post": "t1c",
        "CT": "ct",
        "DIR": "DIR",
    }
    assert {name: known_channel(name) for name in names} == names


def test_t1_with_and_without_contrast_have_files_of_their_own_and_ct_is_no_word_of_bids() -> None:
    subject = subject_of("t1", "t1c", "ct")
    assert [(channel(name).entities, channel(name).suffix) for name in subject.channels] == [
        ("", "T1w"),
        ("ce-gadolinium", "T1w"),
        ("", "CT"),
    ]
    assert [channel(name).bids for name in (*subject.channels, "dir")] == [True, True, False, False]


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


# What is brain and what is nothing.


@pytest.fixture(scope="module")
def brain() -> tuple[np.ndarray, np.ndarray]:
    """A scan that is exactly 0 outside, with fluid about 0 in its middle, some of it exactly 0; and where it is."""
    rng, shape = np.random.default_rng(0), (40, 44, 42)
    inside, fluid = ball(shape, (20, 22, 21), 17), ball(shape, (20, 22, 21), 6)
    values = np.where(inside, rng.normal(100, 15, shape), 0) * ~fluid + fluid * rng.normal(2, 6, shape)
    values[fluid & (np.abs(values) < 0.5)] = 0
    return values.astype(np.float32), inside


def saved(values: np.ndarray, kind: type) -> np.ndarray:
    """What nibabel reads of values that it wrote as integers, with a slope and an intercept of its choice."""
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.set_data_dtype(kind)
    return nibabel.Nifti1Image.from_bytes(image.to_bytes()).get_fdata(dtype=np.float32)


def instead(values: np.ndarray, inside: np.ndarray, other: float | np.ndarray) -> np.ndarray:
    """The scan with something else outside the brain."""
    return np.where(inside, values, other).astype(np.float32)


def noise(size: float, kind: str = "uniform") -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The scan with noise outside the brain."""
    draw = getattr(np.random.default_rng(1), kind)
    return lambda v, b: instead(v, b, draw(-size if kind == "uniform" else 0, size, v.shape))


NEARLY = r"-?0\.00\d+|-?\d\.\d+e-05"  # what is left of 0 depends on the range alone
AT_SIDE = np.indices((40, 44, 42))[0] < 3
FOUND = {
    "int16": (lambda v, b: saved(v, np.int16), NEARLY),
    "uint8": (lambda v, b: saved(v, np.uint8), r"-?0\.\d+"),
    "-1024": (lambda v, b: instead(v, b, -1024), "-1024"),
    "-1": (lambda v, b: instead(v, b, -1), "-1"),
    "-1e-7": (lambda v, b: instead(v, b, -1e-7), "-1e-07"),
    "above": (lambda v, b: instead(v, b, 300), "300"),
    "z-score over all": (lambda v, b: (v - v.mean()) / v.std(), r"-0\.\d+"),
    "from 0 to 1": (lambda v, b: (v - v.min()) / np.ptp(v), r"0\.\d+"),
    "coarse, with an outlier": (lambda v, b: np.where(b, 12 * np.round(v / 24 + 4), -4), "-4"),
    "ringing": (noise(1e-4), "-9.9e-05 to 9.9e-05"),
    "wide ringing": (noise(0.05, "normal"), r"-0\.1\d to 0\.1\d"),
    "ringing at one end": (lambda v, b: np.where(np.indices(v.shape)[2] < 20, noise(1e-4)(v, b), v), r"-.* to .*"),
    "about 0, never twice": (
        lambda v, b: instead(v, b, np.linspace(-0.5, 0.5, v.size).reshape(v.shape)),
        r"-0\.\d+ to 0\.\d+",
    ),
    "NaN": (lambda v, b: instead(v, b, np.nan), "NaN"),
    "NaN at a side of int16": (lambda v, b: np.where(AT_SIDE, np.nan, saved(v, np.int16)), f"({NEARLY}) and NaN"),
    "-1024 at a side": (lambda v, b: np.where(AT_SIDE, -1024, v), "0 and -1024"),
}


@pytest.mark.parametrize("what", FOUND)
def test_a_background_is_found_whatever_it_holds(brain: tuple[np.ndarray, np.ndarray], what: str) -> None:
    """And the z-score is that of the brain, by numpy, to the step of the integers; fluid stays brain."""
    change, words = FOUND[what]
    values = change(*brain).astype(np.float32)
    found = find_background(values)
    nothing = ~brain[1]
    assert re.fullmatch(words, found.words)
    chance = (brain[0] == 0) if what == "-1024 at a side" else np.zeros_like(nothing)  # there every 0 is outside
    rim = nothing | ~ndimage.binary_erosion(brain[1])
    assert not (found.outside ^ nothing)[rim & ~chance].any()
    assert found.outside[~rim].sum() == chance[~rim].sum()
    inside = values[~found.outside]
    wanted = np.where(found.outside, 0, (values - inside.mean(dtype=float)) / inside.std(dtype=float))
    got = normalise(values[None], ("flair",))[0].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert not got[nothing].any()


def test_a_spline_rings_and_its_rim_is_as_thin_as_three_voxels_of_the_scan(brain) -> None:
    values, share = (ndimage.zoom(brain[n].astype(np.float32), 1.7, order=order) for n, order in ((0, 3), (1, 1)))
    assert (values != 0).mean() > 0.9
    inside = ~find_background(values).outside
    assert ndimage.distance_transform_edt(share < 0.5)[inside].max() < 3 * 1.7
    assert inside[ndimage.distance_transform_edt(share > 0.5) > 1.7].all()


def test_where_it_is_exactly_0_every_0_is_outside_and_the_z_score_is_monais_to_the_last_bit(brain) -> None:
    scans = {"toy": torch.from_numpy(brain[0])[None], "demo": load_subject("demo").raw}
    scans["rounded"] = scans["toy"].round()
    scans["nowhere 0"] = torch.from_numpy(np.random.default_rng(0).normal(100, 15, (1, 20, 20, 20))).float()
    scans["few levels"] = torch.from_numpy(np.random.default_rng(0).poisson(4, (1, 20, 20, 20))).float() + 1
    scans["one tissue"] = torch.from_numpy(100 * brain[1]).float()[None]
    scans["one tissue"][0, 20, 20] = 160
    for name, raw in scans.items():
        for values, got in zip(raw, normalise(raw), strict=True):
            wanted = torch.as_tensor(NormalizeIntensity(nonzero=True)(values.clone())).as_subclass(torch.Tensor)
            assert torch.equal(got, wanted), name
            found = find_background(values.numpy())
            assert np.array_equal(found.outside, values.numpy() == 0)
            assert found.words == ("0" if (values == 0).any() else "none found")


def test_a_piece_of_nothing_inside_is_outside_and_nan_inside_is_not(brain: tuple[np.ndarray, np.ndarray]) -> None:
    """A hollow of 1000 voxels, such as a ventricle that was cut out; NaN there is damage."""
    values, inside = brain
    hollow, small = ball(values.shape, (20, 22, 21), 7), ball(values.shape, (20, 22, 33), 2)
    for other in (-1.0, np.nan):
        holed = instead(values, inside & ~hollow & ~small, other)
        outside = find_background(holed).outside
        assert outside[hollow].all() == (other == -1)
        assert not outside[small].any()
