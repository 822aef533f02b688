"""A run that is killed or interrupted at any moment goes on to the very maps that it would have made."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.patients import Commands, commands, files_below, strays, write_network, write_patient

DRAWS, LESIONS = 3, 2
ANAT = "sub-p1/anat/sub-p1"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("shell")) as ready:
        yield ready


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Two lesions explained, some seconds of work; the folder is still to be named."""
    folder = tmp_path_factory.mktemp("scene")
    patient, network = write_patient(folder / "patient"), write_network(folder / "narrow.safetensors")
    how = ["--lesions", "1,2", "--aggregate", "mean", "--draws", DRAWS, "--json"]
    return ["explain", patient, "--network", network, *how, "--out"]


@pytest.fixture(scope="module")
def straight(shell: Commands, command: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody stops leaves."""
    out = tmp_path_factory.mktemp("straight")
    assert shell.run(*command, out) == 0, shell.told
    return out


def images(folder: Path) -> dict[str, np.ndarray]:
    """Every image by its path."""
    return {n: np.asanyarray(nibabel.load(folder / n).dataobj) for n in files_below(folder) if n.endswith(".nii.gz")}


def assert_same(folder: Path, other: Path) -> None:
    """The same files, bit by bit the same values, the same index, nothing left over."""
    assert files_below(folder) == files_below(other)
    assert strays(folder) == []
    one, two = images(folder), images(other)
    assert len(one) == 4 + 2 * LESIONS
    assert [name for name in one if not np.array_equal(one[name], two[name])] == []
    assert (folder / "maps.tsv").read_text() == (other / "maps.tsv").read_text()


def drawn(out: Path) -> int:
    """Draws in the sums that were saved."""
    return sum(int(np.load(path)["draws"]) for path in out.glob("sub-p1/.running/*.npz"))


MOMENTS: dict[str, Callable[[Path], object]] = {
    "before anything was saved": lambda out: (out / "dataset_description.json").is_file(),
    "after the first draw": lambda out: any(out.glob("sub-p1/.running/*.npz")),
    "while something is written": lambda out: any(out.glob("sub-p1/.running/.part-*")),
    "while a map is written": lambda out: any(out.glob("sub-p1/anat/.part-*/*smoothgrad*.nii.gz")),
    "after half a map": lambda out: (out / f"{ANAT}_desc-smoothgradmeanL001_FLAIR.json").is_file(),
    "after a whole map": lambda out: (out / f"{ANAT}_desc-smoothgradmeanL001_T1w.json").is_file(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_maps(
    shell: Commands, command, straight: Path, tmp_path: Path, moment: str
) -> None:
    code = shell.run(*command, tmp_path, stop=signal.SIGKILL, when=lambda: MOMENTS[moment](tmp_path))
    assert code == -signal.SIGKILL
    for name, values in images_whole(tmp_path).items():
        assert np.array_equal(values, images(straight)[name]), name
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, straight)


def images_whole(folder: Path) -> dict[str, np.ndarray]:
    """Every image outside temporary folders; each must be whole."""
    names = [n for n in files_below(folder) if n.endswith(".nii.gz") and ".part" not in n]
    return {name: np.asanyarray(nibabel.load(folder / name).dataobj) for name in names}


def test_a_run_killed_again_and_again_gets_there(shell: Commands, command, straight: Path, tmp_path: Path) -> None:
    """Each time it is killed once it has made one more draw: work adds up over the runs."""
    for _ in range(DRAWS - 1):
        before = drawn(tmp_path)
        shell.run(*command, tmp_path, stop=signal.SIGKILL, when=lambda before=before: saved(tmp_path) > before)
    assert saved(tmp_path) >= DRAWS - 1
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, straight)


def saved(out: Path) -> int:
    """`drawn`, or 0 while a file is being replaced or the maps are done."""
    try:
        return drawn(out) or DRAWS * LESIONS * (out / "maps.tsv").is_file()
    except (OSError, ValueError):
        return 0


def test_ctrl_c_ends_in_one_sentence_and_the_run_goes_on(shell, command, straight, tmp_path) -> None:
    code = shell.run(*command, tmp_path, stop=signal.SIGINT, when=lambda: MOMENTS["after the first draw"](tmp_path))
    assert code == 130
    assert shell.told == "ies: interrupted; run the same command again and it goes on where it was.\n"
    assert [name for name in strays(tmp_path) if ".part" in name] == []
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, straight)


def test_after_a_kill_other_settings_start_anew_and_do_not_mix(shell, command, straight, tmp_path) -> None:
    """Sums of another seed lie in the folder; they are neither used nor lost."""
    shell.run(*command, tmp_path, stop=signal.SIGKILL, when=lambda: MOMENTS["after the first draw"](tmp_path))
    kept = {path.name for path in tmp_path.glob("sub-p1/.running/*.npz")}
    assert shell.run(*command, tmp_path, "--seed", 5) == 0, shell.told
    other, first = images(tmp_path), images(straight)
    assert not np.array_equal(
        other[f"{ANAT}_desc-smoothgradmeanL001_FLAIR.nii.gz"], first[f"{ANAT}_desc-smoothgradmeanL001_FLAIR.nii.gz"]
    )
    assert {path.name for path in tmp_path.glob("sub-p1/.running/*.npz")} == kept
    assert shell.run(*command, tmp_path) == 2
    assert "seed 5 instead of 0" in shell.told


def test_view_after_a_kill_draws_the_maps_that_are_whole(shell, command, tmp_path) -> None:
    shell.run(*command, tmp_path, stop=signal.SIGKILL, when=lambda: MOMENTS["after a whole map"](tmp_path))
    assert shell.run("view", tmp_path) == 0, shell.told
    drawn_maps = {path.stem for path in (tmp_path / "figures").glob("sub-*")}
    assert "sub-p1_desc-smoothgradmeanL001" in drawn_maps
    complete = {json.loads(p.read_text())["lesion"] for p in tmp_path.glob("sub-p1/anat/*_T1w.json")}
    assert len(drawn_maps) == len(complete)
