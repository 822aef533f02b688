"""Every chapter is derived from its source, keeps the handbook's form, and runs from top to bottom."""

import ast
import importlib.metadata
import os
import re
import statistics
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode

from notebooks import build, exercises

CHAPTERS = [source.stem for source in build.sources()]
HEAD = ("Question", "Objectives", "Minutes", "Needs")
TAIL = ["What we saw", "Limits", "Exercises", "References", "Next"]
CELL_LINES, MEDIAN_LINES = 10, 4
SECONDS = 600

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)

PROJECT = '[project]\nversion = "1.2.3"\n[project.urls]\n{address}'

SOURCE = """\
# %% [markdown]
# # 42 · A throwaway chapter

# %% tags=["setup"]
# setup

# %% [markdown]
# Twice the same sum.

# %%
1 + 1

# %% [markdown]
# Twice the same sum.

# %%
1 + 1

# %% tags=["check"]
assert 1 + 1 == 2
"""


def is_check(cell: NotebookNode) -> bool:
    """Whether a cell holds asserts that readers do not see."""
    return "check" in cell.metadata.get("tags", [])


def asserts_alone(body: list[ast.stmt]) -> bool:
    """Whether there is nothing but asserts, and loops over them."""
    return all(isinstance(s, ast.Assert) or (isinstance(s, ast.For) and asserts_alone(s.body)) for s in body)


def read(chapter: str) -> NotebookNode:
    """A chapter as its readers get it."""
    return nbformat.read(build.HERE / f"{chapter}.ipynb", as_version=4)


def headings(book: NotebookNode, level: int) -> list[str]:
    """Headings of one level, in order."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    return re.findall(rf"^#{{{level}}} (.+?) *$", text, flags=re.MULTILINE)


@pytest.fixture
def throwaway(tmp_path: Path) -> Path:
    """The notebooks folder of a project with one source."""
    folder = tmp_path / "notebooks"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "42_throwaway.py").write_text(SOURCE)
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(address=""))
    (tmp_path / "README.md").write_text("In Colab.\n<!-- colab --><!-- /colab -->\n\nThe rest.\n")
    build.main([], folder)
    return folder


def test_the_generator_gives_the_same_bytes_each_time_and_no_id_twice(throwaway: Path) -> None:
    text = build.notebook(throwaway / "src" / "42_throwaway.py")
    assert text == build.notebook(throwaway / "src" / "42_throwaway.py")
    ids = [cell.id for cell in nbformat.reads(text, as_version=4).cells]
    assert len(set(ids)) == len(ids) == 7


def test_a_check_is_left_out_of_the_book_and_folded_elsewhere_and_nothing_else_is(throwaway: Path) -> None:
    *others, check = nbformat.read(throwaway / "42_throwaway.ipynb", as_version=4).cells
    assert check.source == "assert 1 + 1 == 2"
    assert check.metadata == {"tags": ["check", "remove-cell"], "jupyter": {"source_hidden": True}, "cellView": "form"}
    assert [dict(cell.metadata) for cell in others if cell.metadata] == [{"tags": ["setup"]}]


def test_an_edit_of_one_cell_leaves_the_ids_of_the_others(throwaway: Path) -> None:
    source = throwaway / "src" / "42_throwaway.py"
    before = [cell.id for cell in nbformat.reads(build.notebook(source), as_version=4).cells]
    source.write_text(SOURCE.replace("A throwaway chapter", "Another title"))
    after = [cell.id for cell in nbformat.reads(build.notebook(source), as_version=4).cells]
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_an_edited_notebook_and_a_lost_one_are_found(throwaway: Path) -> None:
    written = throwaway / "42_throwaway.ipynb"
    assert build.drift(throwaway) == {}
    written.write_text(written.read_text(encoding="utf-8").replace("1 + 1", "1 + 2"), encoding="utf-8")
    (throwaway / "41_gone.ipynb").write_text("{}")
    assert list(build.drift(throwaway)) == [written]
    assert build.orphans(throwaway) == [throwaway / "41_gone.ipynb"]


def test_the_address_stands_in_one_place_and_goes_from_there_into_cells_and_links(throwaway: Path) -> None:
    readme, chapter = throwaway.parent / "README.md", throwaway / "42_throwaway.ipynb"
    project = throwaway.parent / "pyproject.toml"
    before = readme.read_text(), chapter.read_text()
    assert 'ADDRESS = \\"\\"' in before[1]
    project.write_text(PROJECT.format(address='Repository = "https://github.com/some/place/"'))
    assert sorted(build.drift(throwaway)) == sorted([readme, chapter])
    assert build.main([], throwaway) == 0
    assert build.drift(throwaway) == {}
    assert "git+https://github.com/some/place@v1.2.3" in chapter.read_text()
    link = "https://colab.research.google.com/github/some/place/blob/v1.2.3/notebooks/42_throwaway.ipynb"
    assert (
        f'# 42 · A throwaway chapter\\n",\n    "\\n",\n    "[Open this chapter in Colab]({link})' in chapter.read_text()
    )
    assert f"[42]({link})." in readme.read_text()
    project.write_text(PROJECT.format(address='Repository = "https://forge.example/place"'))
    build.main([], throwaway)
    assert "git+https://forge.example/place@v1.2.3" in chapter.read_text()
    assert "colab.research" not in chapter.read_text() + readme.read_text()
    project.write_text(PROJECT.format(address=""))
    build.main([], throwaway)
    assert (readme.read_text(), chapter.read_text()) == before


def test_a_source_without_a_setup_cell_is_refused(throwaway: Path) -> None:
    source = throwaway / "src" / "42_throwaway.py"
    source.write_text(SOURCE.replace(' tags=["setup"]', ""))
    with pytest.raises(ValueError, match=r"42_throwaway\.py needs one cell .* got 0"):
        build.notebook(source)


def set_up(monkeypatch: pytest.MonkeyPatch, folder: Path, installed: list[bool]) -> list[str]:
    """What the set-up cell asks of pip in a folder, if the package is found, or not, each time it looks."""
    asked: list[str] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [name] * installed.pop(0))
    exec(build.setup_cell().replace("%pip install -q {source}", "asked.append(source)"), {"asked": asked})
    return asked


@pytest.mark.parametrize("folder", [build.HERE, build.HERE.parent])
def test_the_setup_installs_the_clone_from_any_of_its_folders(folder: Path, monkeypatch) -> None:
    """Editors start kernels beside the notebook or at the root, where the package could be imported half."""
    assert set_up(monkeypatch, folder, [True]) == []
    assert set_up(monkeypatch, folder, [False, True]) == [f'-e "{build.HERE.parent}"']


def test_the_setup_stops_where_pip_failed_which_it_does_without_an_error(monkeypatch) -> None:
    with pytest.raises(ImportError, match="pip could not install"):
        set_up(monkeypatch, build.HERE, [False, False])


def test_notebooks_are_what_their_sources_give() -> None:
    assert list(build.drift()) == [], "run `make notebooks`"
    assert build.orphans() == []


def test_the_book_lists_every_chapter_once() -> None:
    contents = yaml.safe_load((build.HERE / "book" / "_toc.yml").read_text())
    assert sorted(entry["file"] for entry in contents["parts"][0]["chapters"]) == CHAPTERS


@each_chapter
def test_a_chapter_opens_with_title_question_objectives_minutes_and_needs(chapter: str) -> None:
    head = read(chapter).cells[0].source
    assert re.match(rf"# {chapter[:2]} · \S", head)
    assert [re.search(rf"^\**{word}\b", head, re.MULTILINE) is not None for word in HEAD] == [True] * 4


@each_chapter
def test_a_chapter_has_one_title_and_closes_with_the_fixed_sections(chapter: str) -> None:
    assert len(headings(read(chapter), 1)) == 1
    assert headings(read(chapter), 2)[-len(TAIL) :] == TAIL


@each_chapter
def test_prose_stands_between_code_cells_and_cells_are_short(chapter: str) -> None:
    cells = read(chapter).cells
    kinds = [cell.cell_type for cell in cells if not is_check(cell)]
    assert [i for i in range(1, len(kinds)) if kinds[i - 1 : i + 1] == ["code", "code"]] == []
    taught = {i: c for i, c in enumerate(cells) if c.cell_type == "code" and not c.metadata.get("tags")}
    sizes = {i: len(re.findall(r"^ *[^ #\n]", c.source, re.MULTILINE)) for i, c in taught.items()}  # lines of code
    assert {i: lines for i, lines in sizes.items() if lines > CELL_LINES} == {}
    assert statistics.median(sizes.values()) <= MEDIAN_LINES


@each_chapter
def test_a_check_follows_the_cell_that_it_checks_and_where_there_are_checks_no_assert_stands_elsewhere(
    chapter: str,
) -> None:
    cells = read(chapter).cells
    checks = [i for i, cell in enumerate(cells) if is_check(cell)]
    assert [i for i in checks if cells[i - 1].cell_type != "code" or is_check(cells[i - 1])] == []
    assert [i for i in checks if not asserts_alone(ast.parse(cells[i].source).body)] == []
    shown = [c.source for c in cells if c.cell_type == "code" and not is_check(c)]
    assert [source for source in shown if checks and re.search(r"^\s*assert\b", source, re.MULTILINE)] == []


@each_chapter
def test_the_first_code_cell_sets_up_and_nothing_stored_is_output(chapter: str) -> None:
    code = [cell for cell in read(chapter).cells if cell.cell_type == "code"]
    assert code[0].source == build.setup_cell()
    assert [c.id for c in code if c.outputs or c.execution_count is not None] == []


@each_chapter
def test_every_exercise_has_a_solution_in_code_says_what_to_expect_and_what_people_get_wrong(chapter: str) -> None:
    book = read(chapter)
    tail = next(cell.source for cell in reversed(book.cells) if "## Exercises" in cell.source)
    asked = re.findall(r"^\*\*(\d)\.\*\*", tail, flags=re.MULTILINE)
    assert len(asked) >= 2
    assert len(exercises.solutions(book)) == tail.count("Expected:") == tail.count("usual wrong answer:*") == len(asked)
    assert all(exercises.solutions(book))


def test_solutions_are_unfolded_or_blanked_and_nothing_else_changes() -> None:
    folded = "Why.\n\n```python\n1 + 1\n```\n\nExpected: 2"
    text = f"Before.\n\n<details><summary>Solution</summary>\n\n{folded}\n\n</details>\n\nAfter."
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("2")])
    kinds = [(c.cell_type, c.source) for c in exercises.solved(book).cells]
    assert kinds == [
        ("markdown", "Before."),
        ("markdown", "Why."),
        ("code", "1 + 1"),
        ("markdown", "Expected: 2"),
        ("markdown", "After."),
        ("code", "2"),
    ]
    blank = [(c.cell_type, c.source) for c in exercises.blanked(book).cells]
    assert blank == [("markdown", "Before."), ("code", "# your answer\n"), ("markdown", "After."), ("code", "2")]
    nbformat.validate(exercises.solved(book))


@each_chapter
def test_a_chapter_runs_from_top_to_bottom_with_the_solutions_of_its_exercises(chapter: str, tmp_path: Path) -> None:
    end = time.monotonic() + SECONDS
    client = NotebookClient(
        exercises.solved(read(chapter)),
        timeout_func=lambda _: max(1, int(end - time.monotonic())),
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**os.environ, "IES_SMALL": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
