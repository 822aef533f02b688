"""The viewer: every control shows what it says, voxel for voxel; a picture remains where nothing can move."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from ies_helpers import Subject, explain, find_lesions, load_subject
from ies_helpers.figures.slices import GROUP_COLOURS, PLANES, Canonical, cut_plane
from ies_helpers.figures.viewer import WIDGET_VIEW, Viewer, label_borders, view
from ies_helpers.saliency.methods import CAM_UNIT, GRADIENT_UNIT, LOGIT
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects.folder import save_lesions
from tests.patients import write_patient
from tests.pictures import CENTRES, PEAKS, SHAPE, click, expected_pixels, subject_with_maps

NO_MAPS = [(1, "TP", " · no map"), (2, "FP", ""), (3, "FN", " · no map")]

ROUNDING = 1
"""Of 255, how far a pixel may be off."""


@pytest.fixture
def viewer() -> Viewer:
    """Lesion 1 of three, two methods, two aggregations."""
    return view(*subject_with_maps())


def pixels(viewer: Viewer) -> np.ndarray:
    """The picture on the screen."""
    return np.asarray(Image.open(io.BytesIO(viewer.picture.value))).astype(int)


def shown(viewer: Viewer, plane: str) -> tuple[np.ndarray, np.ndarray]:
    """What a plane has to show now: the image's slice and the map's, `(rows, columns)`."""
    subject, maps, _ = subject_with_maps()
    space = Canonical(subject)
    key = (viewer.controls["method"].value, viewer.controls["aggregate"].value)
    saliency = maps[key if key in maps else key[0]][viewer.lesion.number]
    channel, at = viewer.controls["modality"].value, viewer.state.at
    values = space.turn(saliency[min(channel, len(saliency) - 1)].numpy())
    return cut_plane(space.image[channel], plane, at), cut_plane(values, plane, at)


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("axial", 3),
        ("coronal", 20),
        ("sagittal", 6),
        ("modality", 1),
        ("aggregate", "mean"),
        ("method", "gradcam++"),
        ("lesion", 2),
        ("threshold", 0.6),
        ("opacity", 0.3),
    ],
)
def test_a_control_shows_the_slices_of_image_and_map_that_it_names(viewer: Viewer, control: str, value: object) -> None:
    before = pixels(viewer)
    viewer.controls[control].value = value
    assert (pixels(viewer) != before).any()
    subject, state = viewer.content.subject, viewer.state
    channel = subject.image[state.channel].numpy()
    window = tuple(np.percentile(channel[channel != 0], [1, 99.7]))
    for plane in PLANES:
        image, values = shown(viewer, plane)
        want = expected_pixels(image, values, viewer.planes.top, window, state.opacity, state.threshold)
        assert np.abs(viewer.planes.paint(plane, state) - want).max() <= ROUNDING


@pytest.mark.parametrize("closeup", [False, True])
def test_the_picture_on_the_screen_holds_the_painted_voxels_in_place(viewer: Viewer, closeup: bool) -> None:
    viewer.controls["closeup"].value = closeup
    screen, planes, state = pixels(viewer), viewer.planes, viewer.state
    height, width = screen.shape[:2]
    seen = set()
    for x in np.linspace(0.005, 0.995, 61):
        for y in np.linspace(0.12, 0.98, 31):
            hit = planes.voxel_at(x, y, state.at)
            pixel = screen[int(y * height), int(x * width)]
            if hit is None:
                continue
            plane, voxel = hit
            axis = PLANES[plane]
            column, row = (voxel[a] for a in range(3) if a != axis)
            around = planes.paint(plane, state)[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            near_line = any(abs(voxel[a] - state.at[a]) <= 1 for a in range(3) if a != axis)
            labels = cut_plane(planes.labels, plane, state.at)
            on_border = np.ptp(labels[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]) > 0
            if near_line or on_border or y > 0.9:
                continue  # crosshair, outlines and letters lie over the voxels
            assert np.abs(around.reshape(-1, 3).astype(int) - pixel).max(axis=1).min() <= 1
            seen.add(plane)
    assert seen == set(PLANES)


def test_the_crosshair_tells_the_values_of_the_image_and_the_map_in_scan_order(viewer: Viewer) -> None:
    subject, maps, _ = subject_with_maps()
    rng = np.random.default_rng(1)
    for _ in range(4):
        for plane, axis in PLANES.items():
            viewer.controls[plane].value = int(rng.integers(0, viewer.planes.labels.shape[axis]))
        viewer.controls["modality"].value = channel = int(rng.integers(2))
        here = (channel, *viewer.voxel)
        image, value = float(subject.image[here]), float(maps["smoothgrad", "max"][1][here])
        assert viewer.planes.value(viewer.state) == (image, value)
        assert f"Voxel {viewer.voxel} at" in viewer.caption.value
        assert f"Image {image:+.2f} (z-score); map {value:+.3g} {GRADIENT_UNIT}" in viewer.caption.value
        world = ", ".join(f"{n:.1f}" for n in subject.affine[:3] @ [*viewer.voxel, 1])
        assert f"({world}) mm" in viewer.caption.value


@pytest.mark.parametrize("key", PEAKS)
def test_jump_to_the_peak_goes_to_the_largest_absolute_value(viewer: Viewer, key: tuple[str, str]) -> None:
    viewer.controls["aggregate"].value = key[1]
    for plane in PLANES:
        viewer.controls[plane].value = 0
    viewer.controls["peak"].click()
    assert viewer.voxel == PEAKS[key]
    flair = viewer.content.maps[key][1][0]
    assert abs(float(flair[viewer.voxel])) == float(flair.abs().max()) == 2.0
    assert "100% of the map&#x27;s peak" in viewer.caption.value
    viewer.controls["modality"].value = 1
    viewer.controls["peak"].click()
    t1 = viewer.content.maps[key][1][1]
    assert abs(float(t1[viewer.voxel])) == float(t1.abs().max())


@pytest.mark.parametrize(("group", "number"), [("TP", 1), ("FP", 2), ("FN", 3)])
def test_the_filter_leaves_the_lesions_of_one_group_and_chooses_one(viewer: Viewer, group: str, number: int) -> None:
    viewer.controls["group"].value = group
    assert [value for _, value in viewer.controls["lesion"].options] == [number]
    assert viewer.lesion.group == group
    assert f"lesion {number} ({group}, 33 voxels)" in viewer.caption.value
    viewer.controls["group"].value = "all"
    assert [value for _, value in viewer.controls["lesion"].options] == [1, 2, 3]
    assert viewer.lesion.number == number


def test_the_filter_does_not_move_the_crosshair_of_a_lesion_that_stays(viewer: Viewer) -> None:
    viewer.controls["axial"].value = 2
    viewer.controls["group"].value = "TP"
    assert viewer.controls["axial"].value == 2


def test_a_lesion_without_a_map_is_shown_as_such_with_the_crosshair_in_its_middle(viewer: Viewer) -> None:
    viewer.controls["lesion"].value = 3
    assert viewer.voxel == CENTRES["FN"]
    assert "lesion 3 (FN, 33 voxels): no map" in viewer.caption.value
    assert "in lesion 3 (FN). Image" in viewer.caption.value
    painted = viewer.planes.paint("axial", viewer.state)
    assert (painted == painted[..., :1]).all()
    assert viewer.planes.figure.axes[-1].get_ylabel() == "no map of this lesion"


def test_the_first_lesion_shown_is_one_that_has_a_map_and_the_others_say_that_they_have_none() -> None:
    subject, maps, lesions = subject_with_maps()
    viewer = view(subject, {2: maps["smoothgrad", "max"][2]}, lesions)
    assert viewer.lesion.number == 2
    told = [text for text, _ in viewer.controls["lesion"].options]
    assert told == [f"{n} · {g} · 33 voxels · p 0.50{m}" for n, g, m in NO_MAPS]
    viewer.controls["group"].value = "TP"
    viewer.controls["group"].value = "all"
    assert viewer.lesion.number == 1


def test_aggregations_are_those_of_the_method(viewer: Viewer) -> None:
    offered = viewer.controls["aggregate"]
    assert [value for _, value in offered.options] == ["max", "mean"]
    offered.value = "mean"
    viewer.controls["method"].value = "gradcam++"
    assert [value for _, value in offered.options] == [""]
    viewer.controls["method"].value = "smoothgrad"
    assert offered.value == "max"


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("closeup", [False, True])
def test_a_click_moves_the_crosshair_to_the_voxel_below_it_in_its_plane(
    viewer: Viewer, plane: str, closeup: bool
) -> None:
    viewer.controls["closeup"].value = closeup
    before, aim = viewer.state.at, (4, 7, 9)
    click(viewer, plane, aim)
    want = tuple(before[a] if a == PLANES[plane] else aim[a] for a in range(3))
    assert viewer.state.at == want


@pytest.mark.parametrize("plane", PLANES)
def test_the_wheel_turns_the_plane_below_it_and_stops_at_the_end(viewer: Viewer, plane: str) -> None:
    before, axis = viewer.state.at, PLANES[plane]
    click(viewer, plane, before, "wheel", 2)
    assert viewer.state.at == tuple(n + 2 * (a == axis) for a, n in enumerate(before))
    click(viewer, plane, before, "wheel", -1)
    assert viewer.state.at[axis] == before[axis] + 1
    click(viewer, plane, before, "wheel", 1000)
    assert viewer.state.at[axis] == viewer.planes.labels.shape[axis] - 1


def test_a_click_on_another_lesion_chooses_it_where_it_was_clicked(viewer: Viewer) -> None:
    where = np.argwhere(viewer.planes.labels == 2)[0]
    viewer.controls["axial"].value = int(where[2])
    click(viewer, "axial", tuple(where))
    assert viewer.lesion.number == 2
    assert viewer.state.at == tuple(where)
    assert float(viewer.content.maps["smoothgrad", "max"][2].abs().max()) == viewer.planes.top


def test_a_click_beside_the_image_does_nothing(viewer: Viewer) -> None:
    before = viewer.state
    for x, y in ((0.99, 0.5), (0.1, 0.02), (0.002, 0.5)):
        viewer.pointer.value = f"click {x} {y} 0 {x}"
        assert viewer.state == before


def test_colours_are_symmetric_and_the_same_for_every_slice_and_modality(viewer: Viewer) -> None:
    bar = viewer.planes.figure.axes[-1]
    for control, value in (("axial", 1), ("modality", 1), ("threshold", 0.5)):
        viewer.controls[control].value = value
        assert bar.get_ylim() == (-2.0, 2.0)
        assert bar.get_ylabel() == GRADIENT_UNIT
    viewer.controls["method"].value = "gradcam++"
    assert bar.get_ylim() == (0.0, 200.0)
    assert bar.get_ylabel() == CAM_UNIT


def test_a_map_of_zeros_says_so(viewer: Viewer) -> None:
    subject, _, lesions = subject_with_maps()
    empty = view(subject, torch.zeros(2, *SHAPE), lesions[1])
    assert "the map is zero everywhere" in empty.planes.figure.axes[-1].get_ylabel()
    assert empty.voxel == CENTRES["TP"]
    assert "map +0 " in empty.caption.value
    assert "peak" not in empty.caption.value


def test_looking_changes_neither_map_nor_image(viewer: Viewer) -> None:
    subject, maps, _ = subject_with_maps()
    for plane in PLANES:
        viewer.controls[plane].value = 1
    assert torch.equal(viewer.content.subject.image, subject.image)
    assert torch.equal(viewer.content.maps["smoothgrad", "max"][1], maps["smoothgrad", "max"][1])


def test_borders_are_the_edges_between_voxels_of_different_labels() -> None:
    labels = np.zeros((4, 5), dtype=int)
    labels[1:3, 2] = 7
    labels[0, 0] = 2  # at the end of the slice
    segments, numbers = label_borders(labels)
    found = {(*map(tuple, np.sort(ends, axis=0).tolist()), int(n)) for ends, n in zip(segments, numbers, strict=True)}
    want = set()
    for row, column in np.ndindex(4, 5):
        number = int(labels[row, column])
        for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            inside = 0 <= row + dr < 4 and 0 <= column + dc < 5
            if number and (not inside or labels[row + dr, column + dc] != number):
                x, y = column + dc / 2, row + dr / 2
                ends = ((x, y - 0.5), (x, y + 0.5)) if dc else ((x - 0.5, y), (x + 0.5, y))
                want.add((*ends, number))
    assert found == want
    assert len(segments) == len(want) == 10


def test_the_chosen_lesion_is_outlined_in_white_and_others_in_their_groups_colours(viewer: Viewer) -> None:
    for number, group in ((2, "FP"), (1, "TP")):
        viewer.controls["lesion"].value = 1 if number == 2 else 2
        where = np.argwhere(viewer.planes.labels == number)[0]
        viewer.controls["axial"].value = int(where[2])
        colours = {tuple(c) for c in viewer.planes.panels["axial"].collections[0].get_colors().round(3).tolist()}
        red, green, blue = (int(GROUP_COLOURS[group][n : n + 2], 16) / 255 for n in (1, 3, 5))
        assert tuple(np.round((red, green, blue, 1.0), 3)) in colours


def test_the_sliders_reach_every_slice_and_every_control_has_a_name(viewer: Viewer) -> None:
    ends = {plane: (viewer.controls[plane].min, viewer.controls[plane].max) for plane in PLANES}
    assert ends == {plane: (0, viewer.planes.labels.shape[axis] - 1) for plane, axis in PLANES.items()}
    assert all(control.description for control in viewer.controls.values())


@pytest.mark.parametrize("plain", [False, True])
def test_one_map_of_one_lesion_is_enough(plain: bool) -> None:
    subject, maps, lesions = subject_with_maps()
    saliency = maps["smoothgrad", "max"][1]
    viewer = view(subject, saliency, lesions[1].mask(SHAPE) if plain else lesions[1])
    assert viewer.voxel == PEAKS["smoothgrad", "max"]
    assert viewer.lesion.group == ("unknown" if plain else "TP")
    named = view(subject, {"max": saliency, "mean": saliency / 2}, lesions[1])
    assert [value for _, value in named.controls["method"].options] == ["max", "mean"]


@pytest.mark.parametrize("channels", [1, 3])
def test_one_channel_or_three_can_be_chosen_each_with_its_own_scan_and_map(channels: int) -> None:
    subject, maps, lesions = subject_with_maps()
    stack, names = [1, 0, 1][:channels], ("dir", "flair", "t2")[:channels]
    subject = replace(
        subject, image=subject.image[stack] * torch.arange(1, channels + 1).view(-1, 1, 1, 1), channels=names
    )
    saliency = maps["smoothgrad", "max"][1][stack]
    viewer = view(subject, saliency, lesions[1])
    assert viewer.controls["modality"].options == tuple((name.upper(), n) for n, name in enumerate(names))
    for n, name in enumerate(names):
        viewer.controls["modality"].value = n
        assert viewer.planes.value(viewer.state) == (
            float(subject.image[n][viewer.voxel]),
            float(saliency[n][viewer.voxel]),
        )
        assert f"map of {name.upper()}" in viewer.caption.value
        assert viewer.planes.panels["axial"].get_title() == f"{name.upper()}, axial"
    alone = view(subject, saliency[:1], lesions[1]).caption.value
    assert ("over DIR" if channels > 1 else "map of DIR") in alone


def test_units_follow_the_method() -> None:
    subject, maps, lesions = subject_with_maps()
    saliency = maps["smoothgrad", "max"]
    viewer = view(subject, dict.fromkeys(("occlusion", "gradcam", "smoothgrad", "mine"), saliency), lesions)
    units = {key[0]: unit for key, unit in viewer.content.units.items()}
    assert units == {"occlusion": LOGIT, "gradcam": CAM_UNIT, "smoothgrad": GRADIENT_UNIT, "mine": GRADIENT_UNIT}


def test_what_cannot_be_shown_is_refused_in_one_sentence() -> None:
    subject, maps, lesions = subject_with_maps()
    saliency = maps["smoothgrad", "max"][1]
    with pytest.raises(ValueError, match=r"must be a lesion to look at, got none"):
        view(subject, {}, [])
    with pytest.raises(ValueError, match=r"One map belongs to one lesion, got 3; give \{number: map\}"):
        view(subject, saliency, lesions)
    with pytest.raises(ValueError, match=r"on the subject's grid \(C, 24, 28, 20\), .* of lesion 1 .* \(2, 23, 28"):
        view(subject, {1: saliency[:, 1:]}, lesions)
    with pytest.raises(ValueError, match=r"must be a finite tensor .* of lesion 1 has 26880 NaN"):
        view(subject, {1: saliency * float("nan")}, lesions)
    with pytest.raises(KeyError, match=r"numbered 1 to 3, got 9"):
        view(subject, {9: saliency}, lesions)


@pytest.fixture
def explained(tmp_path: Path) -> tuple[Path, Subject]:
    """A folder with two maps of one lesion, and whose they are."""
    subject = load_subject(write_patient(tmp_path / "in", side=24, spots={"TP": (12, 12, 12)}))
    assert subject.target is not None
    network = replace(build("unet", (2, 3, 4)), window=None, layer="model.1.submodule.2.conv", stride=None)
    lesions = find_lesions(subject.target.float() * 0.8, subject.target, threshold=0.5, affine=subject.affine)
    save_lesions(tmp_path / "out", subject, subject.target.float() * 0.8, {"TP": lesions.label_map(subject.shape)})
    for method in ("gradcam++", "gradient"):
        explain(subject, network, list(lesions), tmp_path / "out", method=method)
    return tmp_path / "out", subject


def test_a_folder_of_maps_is_shown_with_its_own_values_lesions_and_units(explained: tuple[Path, Subject]) -> None:
    folder, subject = explained
    viewer = view(folder)
    assert [value for _, value in viewer.controls["method"].options] == ["gradcam++", "gradient"]
    assert viewer.content.units == {("gradcam++", ""): CAM_UNIT, ("gradient", "max"): GRADIENT_UNIT}
    assert viewer.lesion.group == "TP"
    assert np.array_equal(viewer.lesion.mask(subject.shape), subject.target)
    assert viewer.lesion.mean_probability == pytest.approx(0.8)
    viewer.controls["method"].value = "gradient"
    saved = nibabel.load(folder / "sub-p1" / "anat" / "sub-p1_desc-gradientmaxL001_T1w.nii.gz").get_fdata()
    viewer.controls["modality"].value = 1
    viewer.controls["peak"].click()
    assert abs(saved[viewer.voxel]) == np.abs(saved).max() > 0


def test_a_folder_without_maps_or_without_the_subject_is_refused(explained: tuple[Path, Subject]) -> None:
    folder, _ = explained
    with pytest.raises(FileNotFoundError, match=r"must hold maps made by `ies explain`"):
        view(folder / "sub-p1")
    with pytest.raises(ValueError, match=r"name must be one of p1, whose maps are in .*; got 'p2'"):
        view(folder, name="p2")


def test_without_a_kernel_the_output_holds_the_current_picture_and_what_it_shows(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed = []
    monkeypatch.setattr("ies_helpers.figures.viewer.display", lambda shown, **_: displayed.append(shown))
    viewer.controls["axial"].value = 5
    viewer._ipython_display_()
    widget, static = displayed
    assert widget[WIDGET_VIEW]["model_id"] == viewer.widget.model_id
    assert widget["text/plain"] == "Controls need a running kernel; run this cell."
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', static.data)
    assert encoded is not None
    assert b64decode(encoded[1]) == viewer.picture.value
    assert 'alt="toy, lesion 1 (TP, 33 voxels): smoothgrad max, map of FLAIR"' in static.data
    assert viewer.caption.value in static.data
    assert f"ies-{viewer.widget.model_id} ies-static" in static.data
    assert f".ies-{viewer.widget.model_id}.ies-static" in "".join(child.value for child in _html(viewer.widget))


def _html(widget: object) -> list:
    """HTML widgets anywhere below."""
    children = getattr(widget, "children", ())
    return [w for child in children for w in ([child] if type(child).__name__ == "HTML" else _html(child))]
