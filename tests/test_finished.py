"""A folder that version 0.1.0 finished: the same commands find all of it done, and read every table and sidecar.

`finished/make.py` says what the folder holds and how it was made.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ies_helpers import view
from ies_helpers.__main__ import main
from tests.finished.make import COMMANDS, FAINT, NETWORK, PLACE

FINISHED = Path(__file__).resolve().parent / "finished"

TEXT = {".json", ".csv", ".tsv", ".toml", ".md", ".tex"}

SIX_DIGITS = 1e-5
"""Relative: tables are rounded to six digits, and another order of summation may turn the last one."""

NEAR_ZERO = 1e-9
"""Absolute: what is left of a difference of two sums that are equal."""

ROUNDING = 1e-5
"""Relative to a map's largest value: float32, summed in another order."""

REFUSED = {
    "predict": ["gradients"],
    "explain": ["gradients"],
    "perilesional": ["gradients"],
    "cohort": ["gradients", "convolutions"],
}
"""What a command that finds its work done may not ask for; `evaluate` asks the network anew."""

TABLES = sorted(str(path.relative_to(FINISHED)) for path in FINISHED.rglob("*") if path.suffix in {".csv", ".tsv"})

Stamps = dict[str, tuple[bytes, int]]


@dataclass
class Work:
    """What torch was asked for.

    Attributes:
        gradients: calls of `torch.autograd.grad` and `backward`.
        convolutions: calls of `conv3d`, a fixed number for each forward pass of a network.
    """

    gradients: int = 0
    convolutions: int = 0


@dataclass
class Again:
    """All commands run once more in one copy of the folder.

    Attributes:
        folder: the copy.
        before, after: bytes and time of every file.
        codes, work: exit code, None where it was stopped, and work of each command.
    """

    folder: Path
    before: Stamps
    after: Stamps
    codes: list[int | None]
    work: list[Work]

    def of(self, name: str) -> list[Work]:
        """The work of every command of that name."""
        return [work for command, work in zip(COMMANDS, self.work, strict=True) if command[0] == name]


class AskedError(BaseException):
    """Something was computed; no command may take this for a mistake of its own, or a subject that failed."""


@contextmanager
def counted(*refused: str) -> Iterator[Work]:
    """Counts the gradients and convolutions of the block; the first of a kind that is refused ends it."""
    work = Work()

    def watched(ask: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def asked(*arguments: Any, **options: Any) -> Any:
            setattr(work, kind, getattr(work, kind) + 1)
            if kind in refused:
                raise AskedError(f"{kind} were asked for")
            return ask(*arguments, **options)

        return asked

    with pytest.MonkeyPatch.context() as patch:
        for home, name in ((torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")):
            patch.setattr(home, name, watched(getattr(home, name), "gradients"))
        patch.setattr(torch.nn.functional, "conv3d", watched(torch.nn.functional.conv3d, "convolutions"))
        yield work


def copy(home: Path) -> Path:
    """A copy of the folder that knows where it lies."""
    folder = shutil.copytree(FINISHED, home / "finished", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in folder.rglob("*"):
        if path.suffix in TEXT and PLACE in (text := path.read_text(encoding="utf-8")):
            path.write_text(text.replace(PLACE, str(folder)), encoding="utf-8")
    return folder


def stamps(folder: Path) -> Stamps:
    """Bytes and time of every file, by relative path; pictures are not told."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "figures" not in path.parts]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def of_maps(found: Stamps) -> Stamps:
    """Those of maps and their sidecars."""
    return {name: stamp for name, stamp in found.items() if "_desc-" in name and "_dseg" not in name}


def run(*arguments: object) -> int:
    """A command line; `explain` says nothing beforehand, since it would time a gradient to say how long it takes."""
    return main([str(a) for a in (*arguments, *(["--json"] if arguments[0] == "explain" else []))])


def values(path: Path) -> np.ndarray:
    """Those of a NIfTI file."""
    return np.asanyarray(nibabel.load(path).dataobj)


def read(path: Path) -> pd.DataFrame:
    """A table."""
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def told_by(name: str, key: str) -> str:
    """What the sidecar of a map of FLAIR says."""
    sidecar = FINISHED / f"out/sub-p1/anat/sub-p1_desc-{name}_FLAIR.json"
    return f"{key} {json.loads(sidecar.read_text(encoding='utf-8'))[key]}"


def check_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Two tables are equal; a standard deviation of nearly equal values is off by as much as they are."""
    if {"mean", "sd"} <= set(expected.columns):
        off = (found["sd"] - expected["sd"]).abs().fillna(0)
        assert found["sd"].isna().equals(expected["sd"].isna())
        assert (off <= SIX_DIGITS * expected["mean"].abs().fillna(0) + NEAR_ZERO).all()
        found, expected = found.assign(sd=0), expected.assign(sd=0)
    pd.testing.assert_frame_equal(found, expected, rtol=SIX_DIGITS, atol=NEAR_ZERO)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder to work in."""
    made = copy(tmp_path)
    monkeypatch.chdir(made)
    return made


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Again:
    """The commands that made the folder, run again in the same order."""
    made = copy(tmp_path_factory.mktemp("again"))
    before, codes, done = stamps(made), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for command in COMMANDS:
            code = None
            with suppress(AskedError), counted(*REFUSED.get(command[0], [])) as work:
                done.append(work)
                code = run(*command)
            codes.append(code)
    return Again(made, before, stamps(made), codes, done)


# Nothing is computed again


def test_every_command_that_made_the_folder_runs_again(again: Again) -> None:
    assert again.codes == [0] * len(COMMANDS)


def test_no_gradient_is_computed_again(again: Again) -> None:
    asked = [work for name in REFUSED for work in again.of(name)]
    assert len(asked) == len(COMMANDS) - 1
    assert [work.gradients for work in asked] == [0] * len(asked)


def test_the_patient_is_predicted_once_a_command_and_its_curves_are_kept(again: Again) -> None:
    (predicted,) = again.of("predict")
    asked = [work.convolutions for name in ("explain", "perilesional") for work in again.of(name)]
    assert max(asked) <= predicted.convolutions


def test_the_cohort_asks_no_network(again: Again) -> None:
    assert again.of("cohort") == [Work(gradients=0, convolutions=0)]


def test_every_map_and_sidecar_is_left_as_it_was(again: Again) -> None:
    before, after = of_maps(again.before), of_maps(again.after)
    assert len(before) == 2 * (4 + 3 + 2 + 2) + 2 * 2
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []


def test_every_file_of_a_subject_of_the_cohort_is_left_as_it_was(again: Again) -> None:
    names = [name for name in again.before if name.startswith("cohort/sub-")]
    assert len(names) == 2 * 8
    assert [name for name in names if again.after.get(name) != again.before[name]] == []


def test_the_table_of_curves_is_left_as_it_was(again: Again) -> None:
    assert again.after["out/perilesional.csv"] == again.before["out/perilesional.csv"]


def test_no_file_comes_or_goes(again: Again) -> None:
    assert sorted(again.after) == sorted(again.before)


# Everything is read


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_what_it_said(name: str, again: Again, tmp_path: Path) -> None:
    (tmp_path / Path(name).name).write_bytes(again.before[name][0])
    expected, found = read(tmp_path / Path(name).name), read(again.folder / name)
    assert len(expected) > 0
    if name == "cohort/cohort.tsv":
        assert found["status"].tolist() == ["kept", "kept"]
        expected["status"] = "kept"
    check_same(found, expected)


def test_the_lesions_have_the_same_numbers_and_the_same_probability(again: Again) -> None:
    anat = Path("out/sub-p1/anat")
    for group in ("tp", "fp", "fn"):
        name = anat / f"sub-p1_desc-{group}_dseg.nii.gz"
        assert np.array_equal(values(again.folder / name), values(FINISHED / name)), group
    name = anat / "sub-p1_label-lesion_probseg.nii.gz"
    expected, found = values(FINISHED / name), values(again.folder / name)
    assert np.abs(np.where(expected > 0, found, 0) - expected).max() < ROUNDING
    assert found[expected == 0].max() < FAINT + ROUNDING


def test_view_draws_every_map(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = {Path(path).name.rpartition("_")[0] for path in of_maps(stamps(folder / "out"))}
    assert run("view", "out") == 0
    drawn = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path for path in drawn if not (path.is_file() and path.stat().st_size)] == []
    pictures = {f"{stem}{suffix}" for stem in maps for suffix in (".png", ".html")}
    assert sorted(path.name for path in drawn) == sorted({*pictures, "sheet.png", "index.html"})


def test_the_viewer_of_a_notebook_opens_the_folder(folder: Path) -> None:
    controls = view(folder / "out").controls
    methods = {str(option[-1]) for option in controls["method"].options}
    assert {"smoothgrad", "gradcam++"} <= methods


# What is not the same is refused


OTHER = {
    "another seed": ("seed", ["--lesions", "1,3", "--draws", "3", "--seed", "8"]),
    "more draws": ("draws", ["--lesions", "1,3", "--draws", "4", "--seed", "7"]),
    "as many draws as are needed": ("tolerance", ["--lesions", "1,3", "--draws", "auto", "--seed", "7"]),
    "more noise": ("noise", ["--lesions", "1,3", "--draws", "3", "--seed", "7", "--noise", "0.1"]),
    "another baseline": ("baseline", ["--lesions", "FP", "--method", "integrated-gradients", "--baseline", "mean"]),
    "another function": ("through", ["--lesions", "2", "--method", "gradcam++", "--through", "windows"]),
}


@pytest.mark.parametrize("change", OTHER)
def test_a_map_with_other_settings_is_refused(change: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (told, options), before = OTHER[change], stamps(folder)
    with counted() as work:
        assert run("explain", "patient", *NETWORK, *options, "--out", "out") == 2
    assert told in capsys.readouterr().err
    assert work.gradients == 0
    assert of_maps(stamps(folder)) == of_maps(before)


def test_a_map_of_other_weights_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, before = load_file("narrow.safetensors"), stamps(folder)
    weights["model.0.conv.weight"][3, 1] *= 1 + 1e-6
    Path("other").mkdir()
    save_file(weights, "other/narrow.safetensors", metadata={"architecture": "unet"})
    options = ["--network", "other/narrow.safetensors", "--method", "gradcam++", "--out", "out"]
    assert run("explain", "patient", *options) == 2
    assert told_by("gradcamppL001", "digest") in capsys.readouterr().err
    assert of_maps(stamps(folder)) == of_maps(before)


def test_a_map_of_another_image_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flair, before = Path("patient/sub-p1_FLAIR.nii.gz"), stamps(folder)
    image, changed = nibabel.load(flair), values(flair).copy()
    changed[48, 30, 48] += 1
    nibabel.save(nibabel.Nifti1Image(changed, image.affine, image.header), flair)
    assert run("explain", "patient", *NETWORK, "--method", "gradcam++", "--out", "out") == 2
    assert told_by("gradcamppL001", "image") in capsys.readouterr().err
    assert of_maps(stamps(folder)) == of_maps(before)


def test_curves_with_other_settings_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Path("out/perilesional.csv").read_bytes()
    options = ["--lesions", "TP", "--by", "mm", "--out", "out"]
    assert run("perilesional", "patient", *NETWORK, *options) == 2
    assert "by steps" in capsys.readouterr().err
    assert Path("out/perilesional.csv").read_bytes() == table


# What is not there is computed, so that the tests above could fail


LOST = {
    "smoothgrad": ("out/sub-p1/anat/sub-p1_desc-smoothgradmaxL003", COMMANDS[3]),
    "gradcam++": ("out/sub-p1/anat/sub-p1_desc-gradcamppL002", COMMANDS[4]),
    "gradient": ("out/sub-p1/anat/sub-p1_desc-gradientmeanL001", COMMANDS[5]),
    "integrated-gradients": ("out/sub-p1/anat/sub-p1_desc-integratedgradientsmeanL002", COMMANDS[6]),
}


@pytest.mark.parametrize("method", LOST)
def test_a_map_that_is_gone_is_computed_as_it_was_and_no_other(method: str, folder: Path) -> None:
    (stem, command), before = LOST[method], of_maps(stamps(folder))
    files = [name for name in before if name.startswith(stem)]
    images = {name: values(folder / name) for name in files if name.endswith(".nii.gz")}
    for name in files:
        os.remove(name)
    with counted() as work:
        assert run(*command) == 0
    assert work.gradients > 0
    after = of_maps(stamps(folder))
    assert [name for name in before if name not in files and after[name] != before[name]] == []
    for name, expected in images.items():
        assert np.abs(values(folder / name) - expected).max() <= ROUNDING * np.abs(expected).max()


def test_a_curve_that_is_gone_is_computed_as_it_was(folder: Path) -> None:
    table, expected = Path("out/perilesional.csv"), read(Path("out/perilesional.csv"))
    expected[expected["fill"] == "blurred"].to_csv(table, index=False)
    with counted() as kept:
        assert run(*COMMANDS[1]) == 0
    with counted() as computed:
        assert run(*COMMANDS[2]) == 0
    assert computed.convolutions > kept.convolutions
    check_same(read(table), expected)


def test_a_cohort_with_other_settings_is_not_kept(folder: Path) -> None:
    config = folder / "cohort.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("TP:100-101", "TP:100-102"), encoding="utf-8")
    with counted("convolutions"), pytest.raises(AskedError, match="convolutions were asked for"):
        run("cohort", config)
