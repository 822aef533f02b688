"""The workshop's bundle: chapters without answers, the answers apart, and a start that needs no network."""

import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from notebooks import build, exercises, workshop

CHAPTERS = [source.stem for source in build.sources()]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's folder, without wheels."""
    folder = tmp_path_factory.mktemp("bundle")
    workshop.chapters(folder)
    return folder


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_answers_of_a_chapter_are_in_its_solutions_alone(bundle: Path, chapter: str) -> None:
    answers = exercises.solutions(nbformat.read(build.HERE / f"{chapter}.ipynb", as_version=4))
    asked, solved = (bundle / name / f"{chapter}.ipynb" for name in ("notebooks", "solutions"))
    assert "<details>" not in asked.read_text()
    assert code(asked).count("# your answer\n") == len(answers)
    for answer in answers:
        assert all(line in "\n".join(code(solved)) for line in answer.splitlines())
        assert answer not in "\n".join(code(asked))


def test_the_zip_holds_the_folder_and_nothing_half_written_is_left(bundle: Path, tmp_path: Path) -> None:
    workshop.pack(bundle, tmp_path / "room.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["room.zip"]
    names = zipfile.ZipFile(tmp_path / "room.zip").namelist()
    assert sorted(names) == sorted(f"ies-workshop/{d}/{c}.ipynb" for c in CHAPTERS for d in ("notebooks", "solutions"))


def test_another_python_is_told_which_one_the_wheels_are_for(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text(workshop.START.format(major=2, minor=7))
    done = subprocess.run([sys.executable, tmp_path / "start.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("These wheels are for Python 2.7, this is 3.")
    assert [path.name for path in tmp_path.iterdir()] == ["start.py"]
