"""Files appear whole or not at all, what a killed writer left goes, and foreign words fit into a sentence of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ies_helpers.subjects import files
from ies_helpers.subjects.files import LEFTOVER, one_line, remove_leftovers, replacing
from tests.patients import files_below


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    place = tmp_path / "kept"
    place.write_text("old")
    with pytest.raises(FileNotFoundError, match="no such source"), replacing(place) as part:
        part.write_text(Path("no such source").read_text())
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_killed_writer_left_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here = files.platform.node()
    folders = {name: tmp_path / "deep" / f"{LEFTOVER}{name}-x" for name in (f"{child.pid}-{here}", "1-far", "2-away")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "half").touch()
    os.utime(folders["2-away"], (0, 0))
    with replacing(tmp_path / "kept") as part:
        part.write_text("whole")
        remove_leftovers(tmp_path)
    assert files_below(tmp_path) == ["deep", f"deep/{LEFTOVER}1-far-x", f"deep/{LEFTOVER}1-far-x/half", "kept"]


def test_the_data_folder_of_a_checkout_and_of_a_wheel_are_both_found(tmp_path, monkeypatch):
    package = tmp_path / "ies_helpers"
    package.mkdir()
    monkeypatch.setattr(files, "__file__", str(package / "subjects" / "files.py"))
    with pytest.raises(FileNotFoundError, match="data folder is missing"):
        files.data_folder()
    for folder in (tmp_path / "data", package / "data"):  # the wheel's comes first when both are there
        folder.mkdir()
        (folder / "registry.toml").touch()
        assert files.data_folder() == folder


def test_foreign_words_become_one_short_line_that_no_terminal_obeys() -> None:
    assert one_line(" two\n\x1b[31mlines\t ") == "two [31mlines"
    assert one_line("x" * 130) == "x" * 120 + "..."
    assert one_line("x" * 120) == "x" * 120
    assert one_line("abcdef", 3) == "abc..."
