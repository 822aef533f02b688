"""The contact sheet: each tile the right slice of the right map, faint values hidden, lesions in line."""

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ies_helpers import load_subject
from ies_helpers.figures import pages as sheet
from ies_helpers.figures.pages import Tile, draw_sheets, picture, tiles_of
from ies_helpers.subjects.folder import read_maps
from tests.folders import explain_toy, found_in
from tests.patients import write_image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def tiles(made: Path) -> list[Tile]:
    return list(tiles_of(read_maps(made)))


def titles(figure: Figure) -> list[str]:
    """What stands above each place of a sheet, row by row; nothing above an empty one."""
    return [ax.get_title() for ax in figure.axes if ax.get_label() != "<colorbar>"]


def test_a_tile_is_the_axial_slice_that_holds_most_of_the_lesion(made: Path, tiles: list[Tile]) -> None:
    """Against nibabel's own turning to right, anterior, superior; the scan's axes are permuted and flipped."""
    subject = load_subject(made.parent / "in")
    _, lesions = found_in(subject)
    for tile in tiles:
        mask = lesions[tile.saved.record["lesion"]].mask(subject.shape).numpy().astype(np.uint8)
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask, subject.affine)).get_fdata()
        index = int(turned.sum(axis=(0, 1)).argmax())
        assert np.array_equal(tile.mask, turned[:, :, index].T)
        saved = nibabel.as_closest_canonical(nibabel.load(tile.saved.images[0])).get_fdata()
        assert np.allclose(tile.values, saved[:, :, index].T)
        assert tile.peak == pytest.approx(saved.flat[np.abs(saved).argmax()])
        scan = nibabel.Nifti1Image(subject.image[0].numpy(), subject.affine)
        image = nibabel.as_closest_canonical(scan).get_fdata()[:, :, index].T
        low, high = np.percentile(subject.image[0][subject.image[0] != 0], [1, 99.7])
        assert np.allclose(tile.grey, (image != 0) * np.clip((image - low) / (high - low), 0, 1))


def test_the_peak_keeps_its_sign(made: Path, tmp_path: Path, tiles: list[Tile]) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    saved = next(m for m in read_maps(folder) if m.stem.endswith("gradientmeanL001"))
    image = nibabel.load(saved.images[0])
    write_image(saved.images[0], -np.asarray(image.dataobj), image.affine)
    before = next(t.peak for t in tiles if t.saved.stem == saved.stem)
    (tile,) = tiles_of([saved])
    assert tile.peak == -before
    assert tile.told == f"peak {-before:+.3g} logit per unit of z-scored intensity"


def test_values_below_a_share_of_the_peak_are_hidden_and_the_others_keep_their_sign(tiles: list[Tile]) -> None:
    tile = next(t for t in tiles if t.method == "gradient mean")
    most = float(np.abs(tile.values).max() / abs(tile.peak))
    for threshold in (0.0, 0.9 * most, 0.5 * most):
        (figure,) = draw_sheets([tile], threshold=threshold)
        drawn = np.asarray(figure.axes[0].images[1].get_array())
        wanted = np.where(np.abs(tile.values) >= threshold * abs(tile.peak), tile.values / abs(tile.peak), 0)
        assert np.allclose(drawn, wanted)
        assert figure.axes[0].images[1].get_clim() == (-1.0, 1.0)
    assert 0 < np.count_nonzero(drawn) < np.count_nonzero(tile.values)


def test_a_lesion_is_outlined_where_it_is(tiles: list[Tile]) -> None:
    (figure,) = draw_sheets(tiles[:1])
    paths = [p for c in figure.axes[0].collections for p in c.get_paths()]
    corners = np.concatenate([p.vertices for p in paths])
    rows, columns = np.nonzero(tiles[0].mask)
    assert (corners.min(axis=0) == [columns.min() - 0.5, rows.min() - 0.5]).all()
    assert (corners.max(axis=0) == [columns.max() + 0.5, rows.max() + 0.5]).all()


def test_maps_of_a_lesion_stand_side_by_side_and_a_missing_one_leaves_its_place(tiles: list[Tile]) -> None:
    (figure,) = draw_sheets([t for t in tiles if (t.saved.record["lesion"], t.method) != (2, "gradcam++")])
    assert titles(figure) == [
        *("p1 L1 (TP)\ngradcam++", "p1 L1 (TP)\ngradient mean"),
        *("", "p1 L2 (FP)\ngradient mean"),
        *("p1 L3 (FN)\ngradcam++", "p1 L3 (FN)\ngradient mean"),
    ]


def test_networks_are_named_where_there_are_several(tiles: list[Tile]) -> None:
    (figure,) = draw_sheets([tiles[0], replace(tiles[0], network="other")])
    assert [t.split("\n")[1] for t in titles(figure)] == ["tiny, gradcam++", "other, gradcam++"]


def test_many_maps_fill_several_pages(tiles: list[Tile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "ACROSS", 2)
    monkeypatch.setattr(sheet, "DOWN", 2)
    pages = list(draw_sheets(tiles))
    assert [sum(title != "" for title in titles(page)) for page in pages] == [4, 2]


def test_the_bar_tells_units_and_each_tile_its_peak(tiles: list[Tile]) -> None:
    (figure,) = draw_sheets(tiles, threshold=0.25)
    bar = next(ax for ax in figure.axes if ax.get_label() == "<colorbar>")
    assert bar.get_xlabel().splitlines() == [
        "of each map's peak, the number in its tile; below 25% not shown",
        "gradcam++ in arbitrary (weighted activation)",
        "gradient in logit per unit of z-scored intensity",
    ]
    assert [t.get_text() for t in bar.get_xticklabels()] == ["-100%", "-25%", "0", "+25%", "+100%"]
    assert figure.axes[1].texts[0].get_text() == f"{tiles[1].peak:+.3g}"


def test_a_map_of_zeros_says_so(tiles: list[Tile]) -> None:
    empty = replace(tiles[0], values=np.zeros_like(tiles[0].values), peak=0.0)
    assert empty.told == "zero everywhere"
    (figure,) = draw_sheets([empty])
    assert figure.axes[0].texts[0].get_text() == "zero everywhere"
    assert not np.asarray(figure.axes[0].images[1].get_array()).any()


def test_a_picture_is_a_jpeg_with_the_lesion_in_its_middle(tiles: list[Tile]) -> None:
    tile = next(t for t in tiles if t.method == "gradient mean")
    shown = Image.open(BytesIO(picture(tile, threshold=0.0)))
    assert (shown.format, shown.size) == ("JPEG", (240, 240))
    plain = Image.open(BytesIO(picture(replace(tile, values=np.zeros_like(tile.values)))))
    changed = np.abs(np.asarray(shown, dtype=int) - np.asarray(plain, dtype=int)).sum(axis=2)
    assert changed[100:140, 100:140].mean() > 20 * changed[:40, :40].mean()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20.0, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(tiles: list[Tile], threshold: float) -> None:
    with pytest.raises(ValueError, match=f"share of the peak from 0 to below 1, got {threshold}"):
        list(draw_sheets(tiles, threshold=threshold))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="There must be a map to draw, got none"):
        list(draw_sheets([]))
