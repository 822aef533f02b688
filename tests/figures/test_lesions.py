"""Figures: the lesion where it is, colours symmetric about zero with their unit, the map untouched."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ies_helpers import Lesion, Subject, plot_lesions, plot_saliency, saliency_html
from ies_helpers.figures.lesions import plot_group_map, plot_maps
from ies_helpers.figures.pages import view_3d
from ies_helpers.figures.slices import GROUP_COLOURS, PLANES
from ies_helpers.measures.groupmaps import centred_affine, group_map
from ies_helpers.saliency.methods import GRADIENT_UNIT
from tests.patients import AFFINE, ball, lesion_of, subject_in_memory
from tests.pictures import expected_pixels, strongest_pixel

CENTRE = (10, 12, 15)
SHOWN = (15, 13, 12)
"""CENTRE on the display grid: k runs to the right, i to posterior (23 - 10), j to superior."""


def bright_voxel(
    affine: np.ndarray = AFFINE, centre: tuple[int, int, int] = CENTRE
) -> tuple[Subject, torch.Tensor, Lesion]:
    """A bright voxel in both images and the map, a ball around it as the lesion."""
    subject = subject_in_memory((24, 28, 20), affine)
    subject.image[:, centre[0], centre[1], centre[2]] = 50.0
    saliency = torch.zeros(2, *subject.shape)
    saliency[0][centre], saliency[1][centre] = 0.5, -2.0
    return subject, saliency, lesion_of(ball(subject.shape, centre, 2.2))


def panels(figure: Figure) -> dict[str, Axes]:
    """Panels by title; the colour bar has none."""
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("row", ["FLAIR", "T1"])
def test_image_map_and_outline_meet_at_the_lesion_of_a_turned_scan(plane: str, row: str) -> None:
    subject, saliency, lesion = bright_voxel()
    ax = panels(plot_saliency(subject, saliency, lesion))[f"{row}, {plane}"]
    expected = tuple(SHOWN[a] for a in range(3) if a != PLANES[plane])
    assert strongest_pixel(ax.images[0].get_array()) == expected
    bare = panels(plot_lesions(subject, [lesion]))[f"{row}, {plane}"].images[0].get_array()[..., 0]
    assert bare[expected[::-1]] == bare.max()
    for contour in ax.collections:
        corners = np.concatenate([path.vertices for path in contour.get_paths()])
        assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx(expected, abs=1e-6)
        assert np.abs(corners - expected).max() == pytest.approx(2.5)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < expected[0] < right
    assert low < expected[1] < high


def test_colours_are_symmetric_shared_and_reach_what_is_shown() -> None:
    subject, saliency, lesion = bright_voxel()
    saliency[0, 0, 0, 0] = 99.0  # in none of the planes
    figure = plot_saliency(subject, saliency, lesion)
    limits = {(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in panels(figure).values()}
    assert limits == {(-2.0, 2.0)}


def test_the_colour_bar_carries_the_unit() -> None:
    subject, saliency, lesion = bright_voxel()
    for unit, given in ((GRADIENT_UNIT, {}), ("apples", {"unit": "apples"})):
        (bar,) = [ax for ax in plot_saliency(subject, saliency, lesion, **given).axes if not ax.get_title()]
        assert bar.get_ylabel() == unit


def test_a_map_of_zeros_says_so_and_has_limits() -> None:
    subject, saliency, lesion = bright_voxel()
    figure = plot_saliency(subject, saliency * 0, lesion)
    assert "the map is zero everywhere" in figure.axes[-1].get_ylabel()
    assert panels(figure)["T1, axial"].images[0].norm.vmax == 1.0


def test_drawing_changes_neither_map_nor_image() -> None:
    subject, saliency, lesion = bright_voxel()
    before = saliency.clone(), subject.image.clone()
    plot_saliency(subject, saliency, lesion).canvas.draw()
    plot_lesions(subject, [lesion]).canvas.draw()
    assert torch.equal(saliency, before[0])
    assert torch.equal(subject.image, before[1])


@pytest.mark.parametrize("corner", [(0, 0, 0), (23, 27, 19)])
def test_a_lesion_in_a_corner_of_the_volume_is_outlined_all_around(corner: tuple[int, int, int]) -> None:
    subject, saliency, lesion = bright_voxel(centre=corner)
    figure = plot_saliency(subject, saliency, lesion)
    figure.canvas.draw()
    for ax in panels(figure).values():
        for path in ax.collections[0].get_paths():
            assert np.array_equal(path.vertices[0], path.vertices[-1])
    plot_lesions(subject, [lesion]).canvas.draw()


def test_a_map_of_all_modalities_has_one_row_and_voxels_or_a_mask_are_as_good_as_a_lesion() -> None:
    subject, saliency, lesion = bright_voxel()
    drawn = plot_saliency(subject, saliency[:1], lesion)
    assert list(panels(drawn)) == [f"FLAIR, {plane}" for plane in PLANES]
    for other in (lesion.voxels, lesion.mask(subject.shape)):
        figure = plot_saliency(subject, saliency[:1], other, title="mine")
        assert figure.get_suptitle() == "mine"
        for ax, same in zip(panels(figure).values(), panels(drawn).values(), strict=True):
            first, second = (a.collections[0].get_paths()[0].vertices for a in (ax, same))
            assert np.array_equal(first, second)


def test_lesions_are_numbered_in_the_colour_of_their_group_and_counted() -> None:
    subject, _, lesion = bright_voxel()
    other = lesion_of(ball(subject.shape, (17, 12, 8), 2), 8, "FN")
    figure = plot_lesions(subject, [lesion, other], at=CENTRE)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["TP (1)", "FN (1)"]
    numbers = {t.get_text(): t.get_color() for t in panels(figure)["T1, axial"].texts if t.get_text().isdigit()}
    assert numbers == {"3": GROUP_COLOURS["TP"], "8": GROUP_COLOURS["FN"]}


def test_no_lesion_still_gives_a_picture() -> None:
    subject, _, _ = bright_voxel()
    figure = plot_lesions(subject, [])
    figure.canvas.draw()
    assert figure.get_suptitle() == "toy: 0 lesions"
    assert figure.legends == []


@pytest.mark.parametrize("channels", [1, 3])
def test_one_channel_or_three_have_a_row_or_a_column_each(channels: int) -> None:
    subject, saliency, lesion = bright_voxel()
    names, stack = ("dir", "t1", "flair")[:channels], [0, 1, 0][:channels]
    subject, saliency = replace(subject, image=subject.image[stack], channels=names), saliency[stack]
    labels = ["DIR", "T1", "FLAIR"][:channels]
    wanted = [f"{label}, {plane}" for label in labels for plane in PLANES]
    assert list(panels(plot_saliency(subject, saliency, lesion))) == wanted
    assert list(panels(plot_lesions(subject, [lesion]))) == wanted
    titles = list(panels(plot_maps(subject, {"net": saliency}, lesion)))
    assert titles == ["DIR, coronal", *(f"net: map of {label}" for label in labels)]
    assert list(panels(plot_saliency(subject, saliency[:1], lesion))) == wanted[:3]


def test_the_planes_of_many_lesions_show_every_group() -> None:
    """The largest lesion alone, in the middle of the volume, is met by no plane through the small ones of a corner."""
    subject, _, _ = bright_voxel()
    centres = {"TP": ((6, 6, 5), 3.2), "FP": ((18, 22, 15), 1.2), "FN": ((12, 14, 12), 1.0)}
    lesions = [lesion_of(ball(subject.shape, *at), n, group) for n, (group, at) in enumerate(centres.items(), 1)]
    shown = {text.get_color() for ax in panels(plot_lesions(subject, lesions)).values() for text in ax.texts}
    assert shown - {"white"} == {GROUP_COLOURS[group] for group in centres}


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_each_row_shows_its_map_at_the_lesion_on_its_own_scale(plane: str) -> None:
    subject, saliency, lesion = bright_voxel()
    saliency[0][0, 0, 0] = 100.0  # far from the lesion: outside the frame it must not set the colours
    figure = plot_maps(subject, {"one": saliency, "two": 10 * saliency}, lesion, plane=plane, reach_mm=4)
    panels = {ax.get_title(): ax for ax in figure.axes if "map of" in ax.get_title()}
    assert list(panels) == ["one: map of FLAIR", "one: map of T1", "two: map of FLAIR", "two: map of T1"]
    for title, ax in panels.items():
        (drawn,) = ax.images
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        near = drawn.get_array()[int(low + 0.5) : int(high + 1), int(left + 0.5) : int(right + 1)]
        column, row = strongest_pixel(near)
        assert (column + int(left + 0.5), row + int(low + 0.5)) == tuple(
            SHOWN[a] for a in range(3) if a != PLANES[plane]
        )
        assert drawn.get_clim() == ((-2.0, 2.0) if title.startswith("one") else (-20.0, 20.0))


def test_a_map_that_is_nowhere_negative_has_a_bar_from_zero() -> None:
    subject, saliency, lesion = bright_voxel()
    bars = [plot_saliency(subject, s, lesion).axes[-1].get_ylim() for s in (saliency.abs()[:1], saliency)]
    assert bars[0] == (0.0, 0.5)
    assert bars[1] == (-2.0, 2.0)


def test_another_plane_and_no_map_are_refused() -> None:
    subject, saliency, lesion = bright_voxel()
    with pytest.raises(ValueError, match="plane of axial, coronal, sagittal, got 1 maps, 'side'"):
        plot_maps(subject, {"one": saliency}, lesion, plane="side")
    with pytest.raises(ValueError, match=r"needs a map .* got 0 maps"):
        plot_maps(subject, {}, lesion)


def test_a_map_of_all_modalities_stands_beside_others() -> None:
    """As of Grad-CAM: one panel over FLAIR, and no empty frame after it."""
    subject, saliency, lesion = bright_voxel()
    figure = plot_maps(subject, {"cam": saliency[:1].abs(), "gradient": saliency}, lesion, reach_mm=4)
    assert [ax.get_title() for ax in figure.axes if "map of" in ax.get_title()] == [
        "cam: map of all",
        "gradient: map of FLAIR",
        "gradient: map of T1",
    ]
    assert [ax.axison for ax in figure.axes[:6]] == [True, True, False, True, True, True]


def test_group_maps_stand_in_three_planes_above_the_individual_ones_on_symmetric_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 7, 7, 7, generator=generator) + 1 for _ in range(5)]
    maps[0][:, 0] = float("nan")
    group = group_map(maps, centred_affine(3))
    figure = plot_group_map(group, maps, [f"lesion {n}" for n in range(5)], modality=1)
    axes = {ax.get_title(): ax for ax in figure.findobj(plt.Axes) if ax.get_title()}
    assert list(axes)[:3] == ["mean, axial", "mean, coronal", "mean, sagittal"]
    assert len(axes) == 9 + 5
    cuts = {kind: getattr(group, kind)[1, :, :, 3].T.numpy() for kind in ("mean", "t", "sign")}
    tops = {"mean": axes["mean, axial"].images[0].get_clim()[1], "t": 10.0, "sign": 1.0}
    for kind, cut in cuts.items():
        want = expected_pixels(np.full(cut.shape, 0.35), np.nan_to_num(cut), tops[kind], (0.0, 1.0))
        assert np.abs(axes[f"{kind}, axial"].images[0].get_array() - want).max() <= 1
    limits = {axes[f"t, {plane}"].images[0].get_clim() for plane in ("axial", "coronal", "sagittal")}
    assert limits == {(-10, 10)}
    own = [axes[f"lesion {n}"].images[0].get_clim() for n in range(5)]
    top = max(float(np.nanmax(np.abs(m[1, :, :, 3].numpy()))) for m in maps)
    assert own == [pytest.approx((-top, top))] * 5
    alone = plot_group_map(group, background=np.ones((7, 7, 7)))
    assert len([ax for ax in alone.axes if ax.get_title()]) == 9
    grey = np.full((7, 7), 1 / 1.7)
    want = expected_pixels(grey, group.mean[0, :, :, 3].T.numpy(), alone.axes[0].images[0].get_clim()[1], (0.0, 1.0))
    assert np.abs(alone.axes[0].images[0].get_array() - want)[1:-1, 1:-1].max() <= 1


DRAWN = {
    "plot_saliency": plot_saliency,
    "saliency_html": saliency_html,
    "plot_maps": lambda subject, saliency, lesion: plot_maps(subject, {"unet": saliency}, lesion),
    "view_3d": lambda subject, saliency, _: view_3d(subject, saliency),
}
NOT_DRAWN = {
    "another grid": (torch.zeros(2, 20, 30, 30), r"has the shape \(2, 20, 30, 30\); give the subject"),
    "no channels": (torch.zeros(24, 28, 20), r"has the shape \(24, 28, 20\); give the subject"),
    "three channels": (torch.zeros(3, 24, 28, 20), r"has the shape \(3, 24, 28, 20\); give the subject"),
    "NaN": (torch.full((2, 24, 28, 20), torch.nan), "has 26880 NaN or infinite values; explain anew"),
    "numpy": (np.zeros((2, 24, 28, 20)), "is of type ndarray; torch.from_numpy makes one"),
}


@pytest.mark.parametrize("what", NOT_DRAWN)
@pytest.mark.parametrize("draw", DRAWN)
def test_a_map_that_cannot_lie_over_the_image_is_refused(draw: str, what: str) -> None:
    subject, _, lesion = bright_voxel()
    saliency, told = NOT_DRAWN[what]
    with pytest.raises(
        ValueError, match=rf"finite tensor on the subject's grid \(C, 24, 28, 20\), C = 2 \(flair, t1\) or 1; .*{told}"
    ):
        DRAWN[draw](subject, saliency, lesion)
