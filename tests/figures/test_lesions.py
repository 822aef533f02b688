"""Figures: the lesion where it is, colours symmetric about zero with their unit, the map untouched."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ies_helpers import Lesion, Subject, plot_lesions, plot_saliency, saliency_html
from ies_helpers.figures.lesions import plot_maps
from ies_helpers.figures.pages import view_3d
from ies_helpers.figures.slices import GROUP_COLOURS, LABEL, PLANES, SIGNED, Canonical, busiest
from tests.patients import AFFINE, ball, lesion_of, subject_in_memory

CENTRE = (10, 12, 15)
SHOWN = (15, 13, 12)
"""CENTRE on the display grid: k runs to the right, i to posterior (23 - 10), j to superior."""


def scene(affine: np.ndarray = AFFINE, centre: tuple[int, int, int] = CENTRE) -> tuple[Subject, torch.Tensor, Lesion]:
    """A bright voxel in both images and the map, a ball around it as the lesion."""
    subject = subject_in_memory((24, 28, 20), affine)
    subject.image[:, centre[0], centre[1], centre[2]] = 50.0
    saliency = torch.zeros(2, *subject.shape)
    saliency[0][centre], saliency[1][centre] = 0.5, -2.0
    return subject, saliency, lesion_of(ball(subject.shape, centre, 2.2))


def panels(figure: Figure) -> dict[str, Axes]:
    """Panels by title; the colour bar has none."""
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def place(values: np.ndarray) -> tuple[int, int]:
    """Column and row of the largest absolute value."""
    row, column = np.unravel_index(np.abs(np.nan_to_num(np.ma.filled(values, 0))).argmax(), values.shape)
    return int(column), int(row)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("row", ["FLAIR", "T1"])
def test_image_map_and_outline_meet_at_the_lesion_of_a_turned_scan(plane: str, row: str) -> None:
    subject, saliency, lesion = scene()
    ax = panels(plot_saliency(subject, saliency, lesion))[f"{row}, {plane}"]
    expected = tuple(SHOWN[a] for a in range(3) if a != PLANES[plane])
    image, drawn = ax.images
    assert place(image.get_array()) == expected
    assert place(drawn.get_array()) == expected
    for contour in ax.collections:
        corners = np.concatenate([path.vertices for path in contour.get_paths()])
        assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx(expected, abs=1e-6)
        assert np.abs(corners - expected).max() == pytest.approx(2.5)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < expected[0] < right
    assert low < expected[1] < high


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_orientation_of_the_scan_the_picture_is_the_same(seed: int) -> None:
    """The same head stored with its axes turned and flipped gives the same pixels."""
    rng = np.random.default_rng(seed)
    subject, saliency, lesion = scene(np.diag([1.0, 1.0, 1.0, 1.0]))
    order, flips = rng.permutation(3), rng.integers(0, 2, 3).astype(bool)

    def turned(volume: np.ndarray) -> np.ndarray:
        return np.flip(volume.transpose(order), np.flatnonzero(flips)).copy()

    step = np.zeros((3, 3))
    step[order, range(3)] = np.where(flips, -1, 1)
    offset = np.zeros(3)
    offset[order[flips]] = np.array(subject.shape)[order[flips]] - 1
    affine = np.block([[step, offset[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    other = Subject("toy", torch.stack([torch.from_numpy(turned(c.numpy())) for c in subject.image]), affine)
    mask = turned(lesion.mask(subject.shape).numpy())
    there = torch.stack([torch.from_numpy(turned(c.numpy())) for c in saliency])
    one, two = plot_saliency(subject, saliency, lesion), plot_saliency(other, there, lesion_of(mask))
    for a, b in zip(panels(one).values(), panels(two).values(), strict=True):
        for first, second in zip(a.images, b.images, strict=True):
            assert np.array_equal(np.ma.filled(first.get_array(), 0), np.ma.filled(second.get_array(), 0))
        assert (a.get_xlim(), a.get_ylim()) == (b.get_xlim(), b.get_ylim())


@pytest.mark.parametrize(
    ("plane", "left", "right"), [("axial", "L", "R"), ("coronal", "L", "R"), ("sagittal", "P", "A")]
)
def test_the_letters_stand_where_the_world_says(plane: str, left: str, right: str) -> None:
    subject, saliency, lesion = scene()
    texts = {
        t.get_text(): t.get_position()[0]
        for t in panels(plot_saliency(subject, saliency, lesion))[f"FLAIR, {plane}"].texts
    }
    assert texts[left] < 0.5 < texts[right]
    across = 1 if plane == "sagittal" else 0
    assert Canonical(subject).affine[across, across] > 0  # columns run to the right, or to anterior


def test_colours_are_symmetric_shared_and_reach_what_is_shown() -> None:
    subject, saliency, lesion = scene()
    saliency[0, 0, 0, 0] = 99.0  # in none of the planes
    figure = plot_saliency(subject, saliency, lesion)
    limits = {(ax.images[1].norm.vmin, ax.images[1].norm.vmax) for ax in panels(figure).values()}
    assert limits == {(-2.0, 2.0)}
    assert SIGNED(0.5)[3] < 0.02  # see-through at zero
    assert SIGNED(0.9)[0] > 0.7 > 0.3 > SIGNED(0.9)[2]
    assert SIGNED(0.1)[2] > 0.7 > 0.3 > SIGNED(0.1)[0]


def test_the_colour_bar_carries_the_unit() -> None:
    subject, saliency, lesion = scene()
    for unit, given in ((LABEL, {}), ("apples", {"unit": "apples"})):
        (bar,) = [ax for ax in plot_saliency(subject, saliency, lesion, **given).axes if not ax.get_title()]
        assert bar.get_ylabel() == unit


def test_a_map_of_zeros_says_so_and_has_limits() -> None:
    subject, saliency, lesion = scene()
    figure = plot_saliency(subject, saliency * 0, lesion)
    assert "the map is zero everywhere" in figure.axes[-1].get_ylabel()
    assert panels(figure)["T1, axial"].images[1].norm.vmax == 1.0


def test_drawing_changes_neither_map_nor_image() -> None:
    subject, saliency, lesion = scene()
    before = saliency.clone(), subject.image.clone()
    plot_saliency(subject, saliency, lesion).canvas.draw()
    plot_lesions(subject, [lesion]).canvas.draw()
    assert torch.equal(saliency, before[0])
    assert torch.equal(subject.image, before[1])


@pytest.mark.parametrize("corner", [(0, 0, 0), (23, 27, 19)])
def test_a_lesion_in_a_corner_of_the_volume_is_outlined_all_around(corner: tuple[int, int, int]) -> None:
    subject, saliency, lesion = scene(centre=corner)
    figure = plot_saliency(subject, saliency, lesion)
    figure.canvas.draw()
    for ax in panels(figure).values():
        for path in ax.collections[0].get_paths():
            assert np.array_equal(path.vertices[0], path.vertices[-1])
    plot_lesions(subject, [lesion]).canvas.draw()


def test_a_map_of_all_modalities_has_one_row_and_voxels_or_a_mask_are_as_good_as_a_lesion() -> None:
    subject, saliency, lesion = scene()
    drawn = plot_saliency(subject, saliency[:1], lesion)
    assert list(panels(drawn)) == [f"FLAIR, {plane}" for plane in PLANES]
    for other in (lesion.voxels, lesion.mask(subject.shape)):
        figure = plot_saliency(subject, saliency[:1], other, title="mine")
        assert figure.get_suptitle() == "mine"
        for ax, same in zip(panels(figure).values(), panels(drawn).values(), strict=True):
            first, second = (a.collections[0].get_paths()[0].vertices for a in (ax, same))
            assert np.array_equal(first, second)


def test_voxels_that_are_no_cubes_are_drawn_in_proportion() -> None:
    subject, saliency, lesion = scene(AFFINE @ np.diag([1.0, 1.0, 3.0, 1.0]))  # k, to the right, in steps of 3 mm
    shown = {
        plane: panels(plot_saliency(subject, saliency, lesion))[f"FLAIR, {plane}"].get_aspect() for plane in PLANES
    }
    assert shown == pytest.approx({"axial": 1 / 3, "coronal": 1 / 3, "sagittal": 1.0})


def test_lesions_are_numbered_in_the_colour_of_their_group_and_counted() -> None:
    subject, _, lesion = scene()
    other = lesion_of(ball(subject.shape, (17, 12, 8), 2), 8, "FN")
    figure = plot_lesions(subject, [lesion, other], at=CENTRE)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["TP (1)", "FN (1)"]
    numbers = {t.get_text(): t.get_color() for t in panels(figure)["T1, axial"].texts if t.get_text().isdigit()}
    assert numbers == {"3": GROUP_COLOURS["TP"], "8": GROUP_COLOURS["FN"]}


def test_no_lesion_still_gives_a_picture() -> None:
    subject, _, _ = scene()
    figure = plot_lesions(subject, [])
    figure.canvas.draw()
    assert figure.get_suptitle() == "toy: 0 lesions"
    assert figure.legends == []


def test_the_busiest_slices_of_a_mask_are_found() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2:5, 3] = mask[2, 4, 3] = True
    assert busiest(mask) == (1, 4, 3)


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
    subject, _, lesion = scene()
    saliency, told = NOT_DRAWN[what]
    with pytest.raises(
        ValueError, match=rf"finite tensor on the subject's grid \(C, 24, 28, 20\), C = 2 or 1; .*{told}"
    ):
        DRAWN[draw](subject, saliency, lesion)
