"""What stands around the chapters in the book agrees with them: glossary, references, timing, and no way to the web."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from notebooks import build

ROOT = build.HERE.parent
BOOK = build.HERE / "book"
CHAPTERS = {source.stem: source.read_text(encoding="utf-8") for source in build.sources()}
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
CONFIG = yaml.safe_load((BOOK / "_config.yml").read_text())
TEXTS = (
    PAGES
    | CHAPTERS
    | {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", *ROOT.glob("data/**/*.md"))
    }
)
SHORTEST_ALT = 10  # letters, as in tests/browser
LINK = re.compile(r"\]\(\.\./([^)#]+)\.ipynb(?:#([^)]+))?\)")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch):
    """The book's own extension for figures."""
    monkeypatch.syspath_prepend(str(BOOK / "_ext"))
    yield __import__("figures")
    sys.modules.pop("figures")


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and MyST write it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_page_beside_the_chapters_is_in_the_contents() -> None:
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text())
    listed = {Path(entry["file"]).name for part in contents["parts"][1:] for entry in part["chapters"]}
    assert listed | {Path(contents["root"]).name} == set(PAGES)


def test_links_to_chapters_name_a_section_that_is_there() -> None:
    anchors = {
        name: {slug(h) for h in re.findall(r"^# #+ (.+)$", text, re.MULTILINE)} for name, text in CHAPTERS.items()
    }
    links = {(page, *link) for page, text in PAGES.items() for link in LINK.findall(text)}
    assert len(links) > 40
    assert [link for link in links if link[1] not in anchors or (link[2] and link[2] not in anchors[link[1]])] == []


def test_the_glossary_is_sorted_and_every_term_leads_to_a_chapter() -> None:
    block = PAGES["glossary"].split("```{glossary}\n")[1].split("```")[0]
    entries = re.findall(r"^(\S.*)\n((?:  .*\n)+)", block, flags=re.MULTILINE)
    terms = [term for term, _ in entries]
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)
    assert [term for term, text in entries if not LINK.search(text)] == []
    assert [term for term, text in entries if not text.strip().endswith(").")] == []


def test_whatever_chapters_cite_stands_in_the_references() -> None:
    known = (BOOK / "references.bib").read_text(encoding="utf-8")
    cited = {
        key
        for t in CHAPTERS.values()
        for key in re.findall(r"\((?:https://doi\.org/|https://arxiv\.org/abs/)([^)]+)\)", t)
    }
    assert len(cited) > 15
    assert sorted(key for key in cited if f"{{{key}}}" not in known) == []


def test_the_timing_tables_repeat_the_minutes_of_the_chapters_and_add_up() -> None:
    minutes = {name: int(re.search(r"\*\*Minutes\.\*\* (?:Less than )?(\d+)", t)[1]) for name, t in CHAPTERS.items()}
    tables = re.findall(r"^### [^\n]*, (\d) h ?(\d*)\n(.*?)(?=^#|^If )", PAGES["instructor"], re.MULTILINE | re.DOTALL)
    assert len(tables) == 3
    for hours, more, table in tables:
        rows = [
            [cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if re.match(r"\| \d", row)
        ]
        at = [60 * int(row[0].split(":")[0]) + int(row[0].split(":")[1]) for row in rows]
        takes = [int(row[3] or 0) + int(row[4] or 0) for row in rows]
        assert at == [sum(takes[:n]) for n in range(len(rows))]
        assert sum(takes) == 60 * int(hours) + int(more or 0)
        for _, chapter, runs, *_ in rows:
            named = [name for name, _ in LINK.findall(chapter)]
            assert [minutes[name] for name in named] == [int(runs or 0)] * len(named)


def pictures(text: str) -> list[str]:
    """The text that stands for each picture of a Markdown source, empty where it has none."""
    inline = re.findall(r"!\[([^\]]*)\]\(", text)
    tags = re.findall(r"<img\b[^>]*>", text)
    bodies = re.findall(r"^[`:]{3,}\{(?:figure|image)\}[^\n]*\n(.*?)^[`:]{3,}$", text, re.MULTILINE | re.DOTALL)
    of_tags = [re.search(r'\balt="([^"]*)"', tag) for tag in tags]
    of_bodies = [re.search(r"^:?alt: *(?:>-?)?\s*(.*?)(?=^\S|\Z)", body, re.MULTILINE | re.DOTALL) for body in bodies]
    return inline + [found[1].strip() if found else "" for found in of_tags + of_bodies]


def test_every_picture_of_a_page_has_a_text() -> None:
    mute = {name: [alt for alt in pictures(text) if len(alt) < SHORTEST_ALT] for name, text in TEXTS.items()}
    assert {name: found for name, found in mute.items() if found} == {}
    assert sum(len(pictures(text)) for text in TEXTS.values()) >= 2


@pytest.mark.parametrize(
    "mute",
    [
        "![](a.png)",
        "```{figure} a.png\nA caption is no text.\n```\n",
        "```{figure} a.png\n---\nalt: >-\nwidth: 3em\n---\nA caption.\n```\n",
        ":::{image} a.png\n:width: 3em\n:::\n",
        '<img src="a.png">',
    ],
)
def test_a_picture_without_a_text_is_found(mute: str) -> None:
    assert pictures(f"Above.\n\n{mute}\n\nBelow.") == [""]


def test_the_book_warns_and_stops_and_knows_no_address() -> None:
    settings = CONFIG["sphinx"]["config"]
    assert settings["nb_ipywidgets_js"] == {}
    assert not {"sphinx_thebe", "sphinx.ext.intersphinx"} & set(settings["extensions"])
    assert re.search(r"jupyter-book build \. --warningiserror", (ROOT / "Makefile").read_text())
    assert [p.name for p in BOOK.rglob("*") if p.suffix in {".yml", ".css", ".js"} and "://" in p.read_text()] == []


def test_a_figures_text_is_the_first_sentences_of_what_is_said_below_it(figures) -> None:
    assert figures.opening("Read it aloud: each dot is a voxel. It falls.") == "Each dot is a voxel. It falls."
    assert figures.opening("Each dot\nis 0.25 wide. " + "More. " * 60).startswith("Each dot is 0.25 wide. More.")
    assert len(figures.opening("Each dot is a voxel. " + "More. " * 60)) <= figures.TEXT_LENGTH
    assert figures.opening("") == ""


def test_a_page_in_a_page_gets_a_name_and_loses_its_links_to_the_web(figures) -> None:
    from docutils import nodes

    link = "&lt;link rel=&quot;icon&quot; href=&quot;https://example.org/i.png&quot;&gt;"
    kept = "&lt;link href=&quot;data:,x&quot;&gt;"
    parent = nodes.container()
    parent += nodes.raw(text=f'<iframe srcdoc="{kept}{link}{kept}"></iframe>', format="html")
    figures.frame(parent[0], "Planes")
    assert parent[0].astext() == f'<iframe title="Planes" srcdoc="{kept}{kept}"></iframe>'


def test_an_article_of_the_references_names_its_journal() -> None:
    """Without one the build of the book, which takes warnings for errors, ends at its last page."""
    entries = re.findall(r"^@article\{(\w+),(.*?)^\}", (BOOK / "references.bib").read_text(), re.DOTALL | re.MULTILINE)
    assert len(entries) > 10
    assert [name for name, fields in entries if not re.search(r"^ *journal *=", fields, re.MULTILINE)] == []
