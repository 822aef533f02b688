"""The index page: complete, self-contained, its links and filters true to the maps."""

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from ies_helpers.figures.pages import Tile, draw_folder, draw_overview, index_page, tiles_of
from ies_helpers.subjects.folder import read_maps
from tests.folders import explain_toy
from tests.patients import files_below, strays

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def tiles(made: Path) -> list[Tile]:
    return list(tiles_of(read_maps(made)))


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
