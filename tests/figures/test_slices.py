"""The painter: each pixel what it must be, for one, two and three channels, and axes turned as the world says."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, to_hex

from ies_helpers import Lesions, Subject, plot_saliency, plot_slice
from ies_helpers.figures.slices import (
    GROUP_COLOURS,
    PLANES,
    SIGNED,
    Canonical,
    busiest,
    check_map,
    cut_plane,
    grey_window,
    paint,
    symmetric,
)
from ies_helpers.saliency.methods import GRADIENT_UNIT
from tests.patients import AFFINE, ball, lesion_of, subject_in_memory
from tests.pictures import expected_pixels

SHAPE = (24, 28, 20)
CENTRE = (10, 12, 15)
SHOWN = (15, 13, 12)
"""CENTRE on the display grid: k runs to the right, i to posterior (23 - 10), j to superior."""

NAMES = ("flair", "t1", "dir")


def subject_of(channels: int) -> tuple[Subject, torch.Tensor]:
    """A noisy turned scan of so many channels, black at one side, and a map of each."""
    rng = np.random.default_rng(channels)
    image, saliency = (torch.from_numpy(rng.normal(size=(channels, *SHAPE)).astype(np.float32)) for _ in range(2))
    image[:, :, :, 0] = 0.0
    return replace(subject_in_memory(SHAPE), image=image, channels=NAMES[:channels]), saliency


LESION = lesion_of(ball(SHAPE, CENTRE, 2.2))


def expected_slice(subject: Subject, saliency: torch.Tensor | None, channel: int, plane: str, top: float) -> np.ndarray:
    """The pixels of the plane through CENTRE."""
    space, at = Canonical(subject), SHOWN[PLANES[plane]]
    image = np.take(space.image[channel], at, axis=PLANES[plane]).T
    window = np.percentile(subject.image[channel][subject.image[channel] != 0], [1, 99.7])
    values = None
    if saliency is not None:
        values = np.take(space.turn(saliency[min(channel, len(saliency) - 1)].numpy()), at, axis=PLANES[plane]).T
    return expected_pixels(image, values, top, (window[0], window[1]))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_pixel_of_a_slice_is_the_scan_and_the_map_over_it(channels: int, plane: str) -> None:
    subject, saliency = subject_of(channels)
    for n, name in enumerate(subject.channels):
        for given in (saliency, saliency[:1], None):
            ax = plot_slice(subject, given, LESION, plane=plane, channel=name, scale=2.5)
            want = expected_slice(subject, given, n, plane, 2.5)
            assert np.abs(ax.images[0].get_array().astype(float) - want).max() <= 1
            assert ax.get_title() == f"{name.upper()}, {plane}"
            plt.close(ax.figure)


def test_a_slice_goes_through_the_lesion_and_shows_its_surroundings() -> None:
    subject, saliency = subject_of(2)
    ax = plot_slice(subject, saliency, LESION, reach_mm=4)
    (outline,) = ax.collections
    corners = np.concatenate([path.vertices for path in outline.get_paths()])
    assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx(SHOWN[:2])
    assert [*ax.get_xlim(), *ax.get_ylim()] == pytest.approx([15 - 6.5, 15 + 6.5, 13 - 6.5, 13 + 6.5])
    cut = cut_plane(Canonical(subject).turn(saliency[0].numpy()), "axial", SHOWN)[7:20, 9:20]
    assert ax.images[0].get_clim() == pytest.approx((-np.abs(cut).max(), np.abs(cut).max()))
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == GRADIENT_UNIT
    assert [text.get_text() for text in ax.texts] == ["L", "R"]


def test_it_draws_on_axes_of_ones_own_and_without_a_bar_where_none_is_wanted() -> None:
    subject, saliency = subject_of(1)
    figure, axes = plt.subplots(1, 2)
    assert plot_slice(subject, saliency, LESION, ax=axes[1], unit=None, title="mine") is axes[1]
    assert [len(ax.images) for ax in axes] == [0, 1]
    assert axes[1].get_title() == "mine"
    assert len(figure.axes) == 2


@pytest.mark.parametrize("plane", PLANES)
def test_without_a_lesion_the_peak_of_the_map_is_shown_and_without_a_map_the_middle(plane: str) -> None:
    subject, saliency = subject_of(2)
    saliency[0][CENTRE] = -9.0
    shown = plot_slice(subject, saliency, plane=plane).images[0]
    assert np.abs(shown.get_array().astype(float) - expected_slice(subject, saliency, 0, plane, 9.0)).max() <= 1
    middle = [n // 2 for n in Canonical(subject).image[0].shape]
    alone = plot_slice(subject, plane=plane).images[0].get_array()
    there = Canonical(subject).grey(0, plane, middle)
    assert np.array_equal(alone[..., 0], (255 * there).round().astype(np.uint8))


def test_a_voxel_or_another_lesion_says_which_plane() -> None:
    subject, saliency = subject_of(2)
    here = plot_slice(subject, saliency, LESION).images[0].get_array()
    for at in (CENTRE, LESION, ball(SHAPE, CENTRE, 1)):
        assert np.array_equal(plot_slice(subject, saliency, LESION, at=at).images[0].get_array(), here)
    elsewhere = plot_slice(subject, saliency, LESION, at=(3, 3, 3)).images[0].get_array()
    assert (elsewhere != here).any()


def test_several_lesions_have_the_colours_of_their_groups_and_a_mapping_its_own() -> None:
    subject, _ = subject_of(2)
    small = lesion_of(ball(SHAPE, (17, 12, 8), 1.2), 8, "FN")
    ax = plot_slice(subject, lesion=Lesions([small, LESION]), plane="axial")  # the planes cut the larger one
    colours = [to_hex(c.get_edgecolor()[0]).upper() for c in ax.collections]
    assert colours == [GROUP_COLOURS["TP"], GROUP_COLOURS["FN"]]
    own = plot_slice(subject, lesion={"lime": small, "#56B4E9": LESION}, through=True)
    assert [to_hex(c.get_edgecolor()[0]) for c in own.collections] == [to_hex("lime"), "#56b4e9"]


@pytest.mark.parametrize("plane", PLANES)
def test_the_view_through_the_head_keeps_the_largest_value_with_its_sign(plane: str) -> None:
    subject, saliency = subject_of(1)
    saliency[0][CENTRE] = -9.0
    volume = Canonical(subject).turn(saliency[0].numpy())
    seen = cut_plane(volume, plane, None)
    for row, column in np.ndindex(seen.shape):
        line = np.moveaxis(volume, PLANES[plane], 0)[:, column, row]
        assert seen[row, column] == line[np.abs(line).argmax()]
    ax = plot_slice(subject, saliency, LESION, plane=plane, through=True, reach_mm=None)
    assert ax.images[0].get_clim() == (-9.0, 9.0)
    assert len(ax.collections) == 1


def test_colours_without_a_sign_begin_at_zero_and_a_norm_of_ones_own_is_kept() -> None:
    subject, saliency = subject_of(1)
    assert plot_slice(subject, saliency.abs(), LESION, colours="magma", scale=3.0).images[0].get_clim() == (0.0, 3.0)
    norm = LogNorm(1e-3, 10)
    ax = plot_slice(subject, saliency.abs() + 0.01, LESION, colours="magma", scale=norm)
    assert ax.figure.axes[-1].get_ylim() == pytest.approx((1e-3, 10))
    column, row = SHOWN[:2]
    want = plt.get_cmap("magma")(norm(float(saliency[0][CENTRE].abs()) + 0.01))[:3]
    assert list(ax.images[0].get_array()[row, column] / 255) == pytest.approx(want, abs=0.003)


def test_values_below_the_threshold_and_nan_let_the_scan_through() -> None:
    grey, values = np.full((1, 4), 0.5), np.array([[0.1, -0.5, 1.0, np.nan]])
    painted = paint(grey, values, symmetric(1.0), threshold=0.4)
    assert painted[0, 0].tolist() == painted[0, 3].tolist() == [128, 128, 128]
    assert painted[0, 1, 2] > 128 > painted[0, 1, 0]  # blue
    assert painted[0, 2, 0] > 128 > painted[0, 2, 2]  # red
    faint = paint(grey, values, symmetric(1.0), opacity=0.0)
    assert (faint == 128).all()


def test_signed_colours_are_see_through_at_zero() -> None:
    assert SIGNED(0.5)[3] < 0.02
    assert SIGNED(0.9)[0] > 0.7 > 0.3 > SIGNED(0.9)[2]
    assert SIGNED(0.1)[2] > 0.7 > 0.3 > SIGNED(0.1)[0]


def test_a_mask_and_an_empty_scan_have_a_window_too() -> None:
    mask = np.zeros((3, 3, 3))
    assert grey_window(mask)[0] < grey_window(mask)[1]
    mask[1] = 1.0
    subject, _ = subject_of(1)
    ax = plot_slice(replace(subject, image=(subject.image != 0).float()), title="the head")
    assert set(np.unique(ax.images[0].get_array())) <= {0, 255}
    plot_slice(replace(subject, image=subject.image * 0)).figure.canvas.draw()


def test_the_busiest_slices_of_a_mask_are_found() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2:5, 3] = mask[2, 4, 3] = True
    assert busiest(mask) == (1, 4, 3)


@pytest.mark.parametrize(
    ("plane", "left", "right"), [("axial", "L", "R"), ("coronal", "L", "R"), ("sagittal", "P", "A")]
)
def test_the_letters_stand_where_the_world_says(plane: str, left: str, right: str) -> None:
    subject, saliency = subject_of(2)
    texts = {t.get_text(): t.get_position()[0] for t in plot_slice(subject, saliency, LESION, plane=plane).texts}
    assert texts[left] < 0.5 < texts[right]
    across = 1 if plane == "sagittal" else 0
    assert Canonical(subject).affine[across, across] > 0  # columns run to the right, or to anterior


def test_voxels_that_are_no_cubes_are_drawn_in_proportion() -> None:
    subject = replace(subject_of(1)[0], affine=AFFINE @ np.diag([1.0, 1.0, 3.0, 1.0]))  # k, to the right, of 3 mm
    shown = {plane: plot_slice(subject, lesion=LESION, plane=plane).get_aspect() for plane in PLANES}
    assert shown == pytest.approx({"axial": 1 / 3, "coronal": 1 / 3, "sagittal": 1.0})


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_orientation_of_the_scan_the_picture_is_the_same(seed: int) -> None:
    """The same head stored with its axes turned and flipped gives the same pixels."""
    rng = np.random.default_rng(seed)
    subject, saliency = subject_of(2)
    subject = replace(subject, affine=np.eye(4))
    order, flips = rng.permutation(3), rng.integers(0, 2, 3).astype(bool)

    def turned(volumes: torch.Tensor) -> torch.Tensor:
        moved = volumes.numpy().transpose(0, *(order + 1))
        return torch.from_numpy(np.flip(moved, np.flatnonzero(flips) + 1).copy())

    step = np.zeros((3, 3))
    step[order, range(3)] = np.where(flips, -1, 1)
    offset = np.zeros(3)
    offset[order[flips]] = np.array(subject.shape)[order[flips]] - 1
    affine = np.block([[step, offset[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    other = replace(subject, image=turned(subject.image), affine=affine)
    mask = turned(LESION.mask(SHAPE)[None])[0]
    one, two = plot_saliency(subject, saliency, LESION), plot_saliency(other, turned(saliency), lesion_of(mask.numpy()))
    pairs = [(a, b) for a, b in zip(one.axes, two.axes, strict=True) if a.get_title()]
    assert len(pairs) == 6
    for a, b in pairs:
        assert np.array_equal(a.images[0].get_array(), b.images[0].get_array())
        assert (a.get_xlim(), a.get_ylim()) == (b.get_xlim(), b.get_ylim())


def test_what_fits_a_subject_is_said_with_its_channels() -> None:
    for channels, fitting in ((1, r"C = 1 \(flair\);"), (3, r"C = 3 \(flair, t1, dir\) or 1;")):
        subject, _ = subject_of(channels)
        with pytest.raises(ValueError, match=rf"{fitting}.*\(2, 24, 28, 20\)"):
            check_map(torch.zeros(2, *SHAPE), subject)
    subject, saliency = subject_of(3)
    with pytest.raises(ValueError, match="one of flair, t1, dir, got 't2'"):
        plot_slice(subject, saliency, channel="t2")
    with pytest.raises(ValueError, match="one of axial, coronal, sagittal, got 'side'"):
        plot_slice(subject, saliency, plane="side")


def test_drawing_changes_neither_map_nor_image() -> None:
    subject, saliency = subject_of(2)
    before = saliency.clone(), subject.image.clone()
    plot_slice(subject, saliency, LESION, through=True).figure.canvas.draw()
    assert torch.equal(saliency, before[0])
    assert torch.equal(subject.image, before[1])
