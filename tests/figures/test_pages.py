"""Pages: each map once, from its own subject, complete, self-contained, its links and filters true to the maps."""

import base64
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ies_helpers import Subject, explain, find_lesions, load_subject, saliency_html
from ies_helpers.figures import pages
from ies_helpers.figures.pages import (
    Tile,
    draw_contact_sheets,
    draw_folder,
    draw_overview,
    index_page,
    make_tiles,
    save_figure,
    save_html,
    tile_jpeg,
    title_of,
    view_3d,
)
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects import folder as reading
from ies_helpers.subjects.folder import SavedMap, read_maps, save_lesions
from tests.folders import change_image, explain_toy, found_in
from tests.patients import AFFINE, ball, files_below, lesion_of, strays, subject_in_memory, write_patient
from tests.pictures import expected_pixels

# One map in a browser.


LARGEST = 3_000_000


def test_the_page_of_a_large_scan_is_small_and_loads_nothing(tmp_path: Path) -> None:
    subject = subject_in_memory((120, 120, 120))
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    lesion = lesion_of(ball(subject.shape, (60, 60, 60), 6))
    save_html(saliency_html(subject, saliency, lesion, title="lesion 3"), tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert 100_000 < len(page) < LARGEST
    assert "lesion 3" in page
    assert re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]*""", page) == []
    assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", page) == []
    assert files_below(tmp_path) == ["new", "new/page.html"]


@pytest.mark.parametrize("centre", [(12, 14, 10), (0, 0, 0), (23, 27, 19), (23, 0, 10)])
@pytest.mark.parametrize("modality", ["flair", "t1"])
def test_map_and_image_lie_in_the_world_where_they_belong(
    monkeypatch, centre: tuple[int, int, int], modality: str
) -> None:
    """Also for a lesion at the border, whose surroundings are cut off."""
    given = {}
    monkeypatch.setattr("nilearn.plotting.view_img", lambda overlay, **options: given.update(options, overlay=overlay))
    monkeypatch.setattr(pages, "PAGE_REACH_MM", 4.0)
    subject = subject_in_memory()
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    saliency_html(subject, saliency, lesion_of(ball(subject.shape, centre, 1)), modality=modality)
    channel = subject.channels.index(modality)
    world = nibabel.affines.apply_affine(AFFINE, centre)
    for shown, whole in ((given["overlay"], saliency[channel]), (given["bg_img"], subject.image[channel])):
        there = np.round(np.linalg.inv(shown.affine) @ [*world, 1]).astype(int)[:3]
        assert shown.get_fdata()[tuple(there)] == pytest.approx(float(whole[centre]))
        assert max(shown.shape) <= 11
    assert np.abs(np.array(given["cut_coords"]) - world).max() <= 1
    assert given["symmetric_cmap"]
    assert given["vmax"] == pytest.approx(float(saliency[channel].abs().max()))


@pytest.mark.parametrize("centre", [(0, 0, 0), (23, 27, 19)])
def test_a_lesion_in_a_corner_and_a_map_of_zeros_make_a_page(tmp_path: Path, centre: tuple[int, int, int]) -> None:
    subject = subject_in_memory()
    saliency = torch.zeros(2, *subject.shape)
    before = saliency.clone()
    save_html(saliency_html(subject, saliency, lesion_of(ball(subject.shape, centre, 1))), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert torch.equal(saliency, before)


def test_an_unknown_modality_is_refused() -> None:
    subject = subject_in_memory()
    with pytest.raises(ValueError, match="modality must be one of flair, t1, got 't2'"):
        saliency_html(subject, torch.zeros(2, *subject.shape), np.array([[1, 1, 1]]), modality="t2")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_and_a_volume_are_of_any_channel_the_first_unless_said(monkeypatch, channels: int) -> None:
    given = {}
    monkeypatch.setattr("nilearn.plotting.view_img", lambda overlay, **options: given.update(options, overlay=overlay))
    names, stack = ("dir", "t1", "flair")[:channels], [1, 0, 1][:channels]
    two = subject_in_memory()
    subject = replace(two, image=two.image[stack], channels=names)
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=subject.image.shape).astype(np.float32))
    lesion = lesion_of(ball(subject.shape, (12, 14, 10), 1))
    for n, modality in enumerate((None, *names[1:])):
        saliency_html(subject, saliency, lesion, modality=modality)
        assert given["vmax"] == pytest.approx(float(saliency[n].abs().max()))
        scan, drawn = view_3d(subject, saliency, modality=modality).volumes
        assert np.array_equal(np.asarray(nibabel.load(scan.path).dataobj), subject.image[n].numpy())
        assert np.array_equal(np.asarray(nibabel.load(drawn.path).dataobj), saliency[n].numpy())


# One map in 3D.


@pytest.fixture
def subject(tmp_path) -> Subject:
    return load_subject(write_patient(tmp_path / "patient"))


def test_scan_and_map_are_handed_over_as_they_are(subject: Subject) -> None:
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    widget = view_3d(subject, saliency, modality="t1", threshold=0.25)
    scan, drawn = widget.volumes
    for volume, wanted in ((scan, subject.image[1]), (drawn, saliency[1])):
        image = nibabel.load(volume.path)
        assert np.array_equal(np.asarray(image.dataobj), wanted.numpy())
        assert np.allclose(image.affine, subject.affine)
    peak = float(saliency[1].abs().max())
    assert (drawn.cal_min, drawn.cal_max) == pytest.approx((0.25 * peak, peak))
    assert (drawn.cal_min_neg, drawn.cal_max_neg) == pytest.approx((-0.25 * peak, -peak))
    assert drawn.colormap != drawn.colormap_negative


def test_what_cannot_be_drawn_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    some = torch.ones((2, *subject.shape))
    with pytest.raises(ValueError, match="one of flair, t1, got 't2'"):
        view_3d(subject, some, modality="t2")
    with pytest.raises(ValueError, match="map of flair is zero everywhere"):
        view_3d(subject, some * 0)
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ies-helpers\[niivue\]'"):
        view_3d(subject, some)


def test_a_map_of_all_modalities_is_drawn_over_any_of_them(subject: Subject) -> None:
    widget = view_3d(subject, torch.ones((1, *subject.shape)), modality="t1")
    assert np.asarray(nibabel.load(widget.volumes[1].path).dataobj).min() == 1


# A folder of maps drawn.


STEMS = ("gradcamppL001", "gradientmaxL001")


@pytest.fixture
def explained(tmp_path: Path) -> Path:
    """One lesion of one patient, explained in two ways."""
    subject = load_subject(write_patient(tmp_path / "in", side=24, spots={"TP": (12, 12, 12)}))
    assert subject.target is not None
    torch.manual_seed(0)
    network = replace(build("unet", (2, 3, 4)), window=None, layer="model.1.submodule.2.conv", stride=None)
    probability = subject.target.float() * 0.8
    lesions = find_lesions(probability, subject.target, threshold=0.5, affine=subject.affine)
    labels = {"TP": lesions.label_map(subject.shape, "TP")}
    save_lesions(tmp_path / "out", subject, probability, labels)
    for method in ("gradcam++", "gradient"):
        explain(subject, network, list(lesions), tmp_path / "out", method=method)
    return tmp_path / "out"


def test_every_map_becomes_a_picture_and_a_page(explained: Path) -> None:
    drawn = [str(path.relative_to(explained)) for path in draw_folder(explained)]
    expected = [f"figures/sub-p1_desc-{stem}.{kind}" for stem in STEMS for kind in ("png", "html")]
    assert drawn == expected
    assert [name for name in files_below(explained) if name.startswith("figures/")] == sorted(expected)
    assert (explained / expected[0]).read_bytes()[:4] == b"\x89PNG"


def test_a_map_is_drawn_with_its_own_values_lesion_and_unit(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(pages, "plot_saliency", lambda *args, **kwargs: seen.append((*args, kwargs)) or Figure())
    monkeypatch.setattr(pages, "saliency_html", lambda *_, **__: None)
    monkeypatch.setattr(pages, "save_html", lambda _, path: path)
    list(draw_folder(explained))
    (subject, cam, mask, told), (_, gradient, _, _) = seen
    assert (len(cam), len(gradient)) == (1, 2)
    assert torch.equal(torch.as_tensor(mask), subject.target)
    record = json.loads((explained / "sub-p1/anat/sub-p1_desc-gradcamppL001_FLAIR.json").read_text())
    assert float(cam.max()) == record["maximum"] > 0
    assert told == {"title": "p1, lesion 1 (TP, 123 voxels): gradcam++", "unit": "arbitrary (weighted activation)"}


def test_a_title_says_what_was_explained_and_how() -> None:
    record = {"subject": "p1", "lesion": 3, "group": "FN", "voxels": 40, "method": "smoothgrad"}
    saved = SavedMap(Path(), record | {"aggregate": "max", "draws": 50}, (), ())
    assert title_of(saved) == "p1, lesion 3 (FN, 40 voxels): smoothgrad max, 50 draws"


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_maps_is_refused(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold maps made by `ies explain`, .*out holds none"):
        list(draw_folder(tmp_path / "out"))


def test_a_half_written_map_is_left_out(explained: Path) -> None:
    (explained / "sub-p1/anat/sub-p1_desc-gradientmaxL001_T1w.json").unlink()
    assert {path.stem for path in draw_folder(explained)} == {"sub-p1_desc-gradcamppL001"}


def test_a_patient_that_moved_is_named(explained: Path) -> None:
    (explained.parent / "in").rename(explained.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"there is no .*in; say by --subject where it lies now"):
        list(draw_folder(explained))


def test_a_subject_that_cannot_be_loaded_again_is_refused_and_not_mistaken_for_the_demo(explained: Path) -> None:
    for path in (explained / "sub-p1" / "anat").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source": {}}))
    with pytest.raises(ValueError, match=r"p1 was made in memory and cannot be loaded again.*plot_saliency"):
        list(draw_folder(explained))


def test_a_patient_that_was_replaced_is_refused(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_subject", lambda **_: subject_in_memory(name="p1"))
    with pytest.raises(ValueError, match=r"maps of p1 have the grid \(24, 24, 24\), .* now \(24, 28, 20\)"):
        list(draw_folder(explained))


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self, path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(Figure(), tmp_path / "figures" / "a.png")
    assert files_below(tmp_path) == []


# The contact sheet.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def tiles(made: Path) -> list[Tile]:
    return list(make_tiles(read_maps(made)))


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
    change_image(saved.images[0], -np.asarray(nibabel.load(saved.images[0]).dataobj))
    before = next(t.peak for t in tiles if t.saved.stem == saved.stem)
    (tile,) = make_tiles([saved])
    assert tile.peak == -before
    assert tile.peak_in_words == f"peak {-before:+.3g} logit per unit of z-scored intensity"


def test_values_below_a_share_of_the_peak_are_hidden_and_the_others_keep_their_sign(tiles: list[Tile]) -> None:
    tile = next(t for t in tiles if t.method == "gradient mean")
    most = float(np.abs(tile.values).max() / abs(tile.peak))
    for threshold in (0.0, 0.9 * most, 0.5 * most):
        (figure,) = draw_contact_sheets([tile], threshold=threshold)
        (drawn,) = figure.axes[0].images
        want = expected_pixels(tile.grey, tile.values, abs(tile.peak), (0.0, 1.0), threshold=threshold)
        assert np.abs(drawn.get_array() - want).max() <= 1
        assert drawn.get_clim() == (-1.0, 1.0)
    bare = expected_pixels(tile.grey, None, 1.0, (0.0, 1.0))
    coloured = (np.abs(drawn.get_array() - bare).max(axis=-1) > 1).sum()
    assert 0 < coloured < np.count_nonzero(tile.values)


def test_a_lesion_is_outlined_where_it_is(tiles: list[Tile]) -> None:
    (figure,) = draw_contact_sheets(tiles[:1])
    paths = [p for c in figure.axes[0].collections for p in c.get_paths()]
    corners = np.concatenate([p.vertices for p in paths])
    rows, columns = np.nonzero(tiles[0].mask)
    assert (corners.min(axis=0) == [columns.min() - 0.5, rows.min() - 0.5]).all()
    assert (corners.max(axis=0) == [columns.max() + 0.5, rows.max() + 0.5]).all()


def test_maps_of_a_lesion_stand_side_by_side_and_a_missing_one_leaves_its_place(tiles: list[Tile]) -> None:
    (figure,) = draw_contact_sheets([t for t in tiles if (t.saved.record["lesion"], t.method) != (2, "gradcam++")])
    assert titles(figure) == [
        *("p1 L1 (TP)\ngradcam++", "p1 L1 (TP)\ngradient mean"),
        *("", "p1 L2 (FP)\ngradient mean"),
        *("p1 L3 (FN)\ngradcam++", "p1 L3 (FN)\ngradient mean"),
    ]


def test_networks_are_named_where_there_are_several(tiles: list[Tile]) -> None:
    (figure,) = draw_contact_sheets([tiles[0], replace(tiles[0], network="other")])
    assert [t.split("\n")[1] for t in titles(figure)] == ["tiny, gradcam++", "other, gradcam++"]


def test_many_maps_fill_several_pages(tiles: list[Tile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TILES_ACROSS", 2)
    monkeypatch.setattr(pages, "TILES_DOWN", 2)
    sheets = list(draw_contact_sheets(tiles))
    assert [sum(title != "" for title in titles(page)) for page in sheets] == [4, 2]


def test_the_bar_tells_units_and_each_tile_its_peak(tiles: list[Tile]) -> None:
    (figure,) = draw_contact_sheets(tiles, threshold=0.25)
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
    assert empty.peak_in_words == "zero everywhere"
    (figure,) = draw_contact_sheets([empty])
    assert figure.axes[0].texts[0].get_text() == "zero everywhere"
    assert not np.ptp(figure.axes[0].images[0].get_array(), axis=-1).any()  # grey alone


def test_a_picture_is_a_jpeg_with_the_lesion_in_its_middle(tiles: list[Tile]) -> None:
    tile = next(t for t in tiles if t.method == "gradient mean")
    shown = Image.open(BytesIO(tile_jpeg(tile, threshold=0.0)))
    assert (shown.format, shown.size) == ("JPEG", (240, 240))
    plain = Image.open(BytesIO(tile_jpeg(replace(tile, values=np.zeros_like(tile.values)))))
    changed = np.abs(np.asarray(shown, dtype=int) - np.asarray(plain, dtype=int)).sum(axis=2)
    assert changed[100:140, 100:140].mean() > 20 * changed[:40, :40].mean()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20.0, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(tiles: list[Tile], threshold: float) -> None:
    with pytest.raises(ValueError, match=f"share of the peak from 0 to below 1, got {threshold}"):
        list(draw_contact_sheets(tiles, threshold=threshold))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="There must be a map to draw, got none"):
        list(draw_contact_sheets([]))


def test_a_sheet_and_its_page_name_the_first_channel_whatever_it_is(made: Path, tiles: list[Tile]) -> None:
    other = [replace(tile, channel="DIR") for tile in tiles]
    (figure,) = draw_contact_sheets(other)
    assert figure.get_suptitle() == "Maps of DIR, axial; the patient's left is left"
    page = index_page([*tiles[:1], *other], [], made / "figures")
    assert "axial FLAIR or DIR slice" in page
    assert 'alt="DIR through p1' in page


# The index page.


TAG = tuple[str, dict[str, str]]


class Tags(HTMLParser):
    """Every opening tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[TAG] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def of(self, name: str) -> Iterator[dict[str, str]]:
        return (attributes for tag, attributes in self.found if tag == name)


@pytest.fixture(scope="module")
def page(made: Path) -> tuple[str, list[Path]]:
    drawn = list(draw_overview([made]))
    return (made / "figures" / "index.html").read_text(encoding="utf-8"), drawn


def test_sheet_and_index_lie_among_the_figures_which_bids_ignores(made: Path, page) -> None:
    _, drawn = page
    assert [str(path.relative_to(made)) for path in drawn] == ["figures/sheet.png", "figures/index.html"]
    assert strays(made) == []


def test_the_page_loads_nothing_from_elsewhere(page) -> None:
    text, _ = page
    tags = Tags(text)
    assert [tag for tag, _ in tags.found if tag in ("link", "iframe", "object", "embed", "base")] == []
    sources = [image["src"] for image in tags.of("img")]
    assert [s for s in sources if not s.startswith("data:image/jpeg;base64,")] == []
    assert all(base64.b64decode(s.partition(",")[2])[:3] == b"\xff\xd8\xff" for s in sources)
    assert all("src" not in script for script in tags.of("script"))
    assert re.findall(r"(https?:|//[a-z]|@import|url\()", re.sub(r"base64,[^\"]*", "", text)) == []


def test_every_map_has_a_row_with_a_picture_that_words_describe(page) -> None:
    text, _ = page
    tags = Tags(text)
    rows = [row for row in tags.of("tr") if "data-method" in row]
    assert [(r["data-group"], r["data-method"]) for r in rows] == [
        (group, method) for group in ("TP", "FP", "FN") for method in ("gradcam++", "gradient mean")
    ]
    words = [image["alt"] for image in tags.of("img")]
    assert len(set(words)) == len(rows) == 6
    assert words[1].startswith("FLAIR through p1, lesion 1 (TP, 123 voxels), outlined, with its map by tiny, gradient")
    assert re.search(r"peak [+-]\d\S* logit per unit of z-scored intensity$", words[1])


def test_a_phone_gets_its_own_layout(page) -> None:
    text, _ = page
    assert any(m.get("name") == "viewport" and "width=device-width" in m["content"] for m in Tags(text).of("meta"))
    assert "@media (max-width" in text


def test_only_what_differs_can_be_chosen(tiles: list[Tile], made: Path, page) -> None:
    text, _ = page
    tags = Tags(text)
    assert [s["name"] for s in tags.of("select")] == ["method", "group"]
    assert [o["value"] for o in tags.of("option")] == ["", "gradcam++", "gradient mean", "", "TP", "FP", "FN"]
    one = Tags(index_page(tiles[:1], [], made / "figures"))
    assert list(one.of("select")) == []


def test_links_lead_to_what_view_draws_from_any_folder(made: Path, tmp_path: Path) -> None:
    """Two folders, one with a blank in its name: the index of the first links the pages of both."""
    second = Path(shutil.copytree(made, tmp_path / "a second"))
    first = Path(shutil.copytree(made, tmp_path / "first"))
    for folder, kept in ((first, "gradientmeanL001"), (second, "gradcamppL001")):
        for path in folder.glob("sub-p1/anat/*_desc-grad*"):
            if kept not in path.name:
                path.unlink()
        list(draw_folder(folder))
    *_, index = draw_overview([first, second])
    written = [a["href"] for a in Tags(index.read_text()).of("a")]
    assert [href for href in written if " " in href] == []
    links = [unquote(href) for href in written]
    assert len(links) == 1 + 2 * 2
    assert [link for link in links if not (index.parent / link).is_file()] == []
    assert sum("a second" in link for link in links) == 2


def test_names_cannot_break_the_page(tiles: list[Tile], made: Path) -> None:
    bad = '<b>"me" & co'
    record = tiles[0].saved.record | {"subject": bad, "group": bad}
    odd = replace(tiles[0], saved=replace(tiles[0].saved, record=record), method=bad)
    tags = Tags(index_page([odd], [], made / "figures"))
    assert [tag for tag, _ in tags.found if tag == "b"] == []
    row = next(r for r in tags.of("tr") if "data-method" in r)
    assert row["data-method"] == row["data-subject"] == row["data-group"] == bad
    assert all(f"through {bad}, lesion 1 ({bad}," in image["alt"] for image in tags.of("img"))


def test_a_sheet_of_a_former_run_does_not_stay(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "sheet-7.png").touch()
    list(draw_overview([folder]))
    assert [n for n in files_below(folder) if "sheet" in n] == ["figures/sheet.png"]
