"""Every line of code on the cheat sheet runs, on a small patient and a narrow network; and it fits on a page."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import ies_helpers
from ies_helpers.__main__ import main
from ies_helpers.teaching import write_results
from notebooks import build
from tests.patients import write_network, write_patient

SHEET = (build.HERE / "book" / "cheat_sheet.md").read_text(encoding="utf-8")
PYTHON, COMMANDS = (re.findall(rf"```{kind}\n(.*?)```", SHEET, re.DOTALL) for kind in ("python", "sh"))
LINES, COLUMNS = 80, 100
"""Of A4, printed with 9 points of text and 8 of code."""

SPOTS = {"TP": (15, 22, 26), "FP": (32, 22, 22), "FN": (24, 33, 21)}
COHORT = 'subjects = ["patient"]\nnetwork.name = "narrow.safetensors"\nout = "cohort"\n\n[[explain]]\ndraws = 2\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the sheet names: a patient, its files alone, networks and a cohort's file."""
    folder = tmp_path_factory.mktemp("sheet")
    write_patient(folder / "patient", side=48, spots=SPOTS, radius=2.3)
    plain = write_patient(folder / "plain", side=48, spots=SPOTS, radius=6)  # spots alone are bright for an nnU-Net
    shutil.copy(plain / "sub-p1_FLAIR.nii.gz", folder / "F.nii.gz")
    shutil.copy(plain / "sub-p1_T1w.nii.gz", folder / "T.nii.gz")
    write_network(folder / "narrow.safetensors")
    write_results(folder, folds=(0,)).rename(folder / "trainer__plans__3d_fullres")
    (folder / "cohort.toml").write_text(COHORT)
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In that folder, and without figures that stay open."""
    monkeypatch.chdir(place)
    yield
    plt.close("all")


def small(text: str) -> str:
    """The sheet's words, with the patient and networks of this test in their place, and few draws."""
    text = re.sub(r"\bdemo\b", "patient", text).replace("NNUNET_FOLDER", "trainer__plans__3d_fullres")
    text = text.replace("--aggregate mean", "--aggregate mean --draws 2")
    return re.sub(r"(draws[ =])\d+", r"\g<1>2", text).replace(
        'load_network("unet")', 'load_network("narrow.safetensors")'
    )


@pytest.mark.filterwarnings("ignore:.*zeros are put around it")
def test_the_lines_of_python_run_one_after_the_other() -> None:
    (block,) = PYTHON
    known: dict[str, object] = {}
    exec(small(block), known)
    assert len(known["lesion"]) > 6  # pyright: ignore[reportArgumentType]
    assert 0.05 < known["share"] <= 1  # pyright: ignore[reportOperatorIssue]
    assert known["placed"].grid is not None  # pyright: ignore[reportAttributeAccessIssue]
    assert Path("out/maps.tsv").is_file()


@pytest.mark.filterwarnings("ignore")
def test_the_commands_run_one_after_the_other() -> None:
    (block,) = COMMANDS
    shutil.rmtree("out", ignore_errors=True)
    for line in block.splitlines():
        program, command, *words = shlex.split(small(line), comments=True)
        own = ["--network", "narrow.safetensors"] if "patient" in words else []
        assert (program, main([command, *words, *own])) == ("ies", 0), line
    assert len([*Path("out").rglob("index.html"), *Path("page").rglob("*_report.html")]) == 2
    assert len(list(Path("mine").rglob("*smoothgradmean*_FLAIR.nii.gz"))) > 0


def test_the_sheet_fits_on_a_page_and_every_name_in_it_is_public() -> None:
    assert len(SHEET.splitlines()) <= LINES
    assert max(len(line) for block in (*PYTHON, *COMMANDS) for line in block.splitlines()) <= COLUMNS
    called = set(re.findall(r"(?<![.\w])([a-z_]+)\(", PYTHON[0])) - {"min", "len", "abs"}
    assert called <= set(ies_helpers.__all__)
    assert len(called) > 15
