"""`ies view`: every map drawn, one sheet and one index over all folders."""

from pathlib import Path

import pytest

from ies_helpers.__main__ import main
from tests.folders import explain_toy
from tests.patients import files_below


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two subjects, one lesion of each explained, in two ways."""
    root = tmp_path_factory.mktemp("toy")
    made = [explain_toy(root / name, name, (method,)) for name, method in (("p1", "gradient"), ("p2", "gradcam"))]
    for path in root.rglob("*_desc-gradientmeanL00[23]_*"):
        path.unlink()
    for path in root.rglob("*_desc-gradcamL00[12]_*"):
        path.unlink()
    return made


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_each_folder_gets_its_pictures_and_the_first_the_overview(folders, capsys) -> None:
    assert run("view", *folders) == 0
    told = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 2 * 2 + 2
    assert all(path.is_file() for path in told)
    assert told[-2:] == [folders[0] / "figures" / name for name in ("sheet.png", "index.html")]
    assert [sum(path.is_relative_to(folder) for path in told) for folder in folders] == [4, 2]
    page = told[-1].read_text(encoding="utf-8")
    assert page.count("data-method=") == 2
    assert '<select name="subject">' in page


@pytest.mark.parametrize("threshold", ["1", "-0.1", "20"])
def test_a_threshold_that_is_no_share_is_one_sentence_and_draws_nothing(threshold, folders, capsys) -> None:
    before = files_below(folders[1])
    assert run("view", folders[1], "--threshold", threshold) == 2
    assert "share of the peak from 0 to below 1" in capsys.readouterr().err
    assert files_below(folders[1]) == before


def test_a_second_folder_without_maps_is_refused_before_the_first_is_drawn(folders, tmp_path, capsys) -> None:
    assert run("view", folders[0], tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ies: A folder must hold maps made by `ies explain`")
