"""`ies doctor`: a sound installation passes, and whatever is broken on purpose is found, named and ends in 1."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from ies_helpers import doctor, load_network
from ies_helpers.__main__ import main
from ies_helpers.doctor import SECTIONS, deviation, shown
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.subjects.files import data_folder

SMALL = 48
"""Side of the self-test's cube where it shall fail: less than a voxel of the U-Net sees, and enough to be wrong in."""


@pytest.fixture
def self_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is looked at, and it is quick."""
    monkeypatch.setattr(doctor, "SIDE", SMALL)
    monkeypatch.setattr(doctor, "SECTIONS", {"self-test": SECTIONS["self-test"]})


# What is right


def test_a_sound_installation_passes_and_says_what_a_report_needs(capsys) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[-1] == "PASS"
    assert [name for name in SECTIONS if not any(line.startswith(f"{name} ") for line in lines)] == []
    assert max(len(line) for line in lines if " " in line.strip()) <= 120
    digest = hashlib.sha256((data_folder() / "checkpoints" / "unet.safetensors").read_bytes()).hexdigest()
    expected = (f"torch {torch.__version__}", "GB free of", f"checkpoints/unet.safetensors {digest[:12]}", "by cone")
    words = " ".join(told.split())
    assert [word for word in expected if word not in words] == []


def test_json_is_json_and_nothing_else(capsys, self_test_alone) -> None:
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is True
    assert said["wrong"] == []
    assert 0 <= said["self-test"]["deviation"] <= said["self-test"]["allowed"]
    assert said["self-test"]["voxels"] == doctor.VOXELS


def test_the_shipped_weights_and_the_demo_all_have_their_sums() -> None:
    finding = SECTIONS["data"]()
    files = [*data_folder().glob("checkpoints/*.safetensors"), *data_folder().glob("demo/*.nii.gz")]
    remedy = f"in data/: sha256sum checkpoints/*.safetensors demo/*.nii.gz > {doctor.SUMS}"
    assert finding.wrong == (), remedy
    assert sorted(finding.data["sha256"]) == sorted(p.relative_to(data_folder()).as_posix() for p in files), remedy


def test_the_cache_is_counted_by_what_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "there"))
    assert SECTIONS["cache"]().data["held"] == {}
    for name, size in (("openms/a.nii.gz", 5), ("openms/deep/b.nii.gz", 7), ("agg2exp/t.csv", 3)):
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    held = SECTIONS["cache"]().data["held"]
    assert held == {"openms": {"files": 2, "bytes": 12}, "agg2exp": {"files": 1, "bytes": 3}}


def test_no_path_tells_the_name_of_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "someone" / "kept"))
    assert shown(tmp_path / "someone" / "a" / "b") == "~/a/b"
    assert shown(tmp_path / "someone else") == str(tmp_path / "someone else")
    finding = SECTIONS["cache"]()
    assert finding.data["folder"] == "~/kept"
    assert "someone" not in finding.said
    lost = tmp_path / "someone" / "data"
    monkeypatch.setattr(doctor, "SECTIONS", {"data": lambda: (lost / "x").read_text()})
    ((_, broken),) = doctor.examine()
    assert "FileNotFoundError" in broken.said
    assert "~/data/x" in broken.said
    assert "someone" not in f"{broken}"


def test_of_two_gradients_of_one_size_and_opposite_sign_either_will_do_and_nothing_else() -> None:
    each = torch.tensor([[[4.0, 1.0]], [[-4.0 - 1e-6, 0.5]]])
    assert deviation(torch.tensor([[4.0, 1.0]]), each) < 1e-6
    assert deviation(torch.tensor([[-4.0, 1.0]]), each) < 1e-6
    assert deviation(torch.tensor([[4.0, 0.5]]), each) == pytest.approx(0.125)  # a gradient, but not the largest
    assert deviation(torch.tensor([[4.0, -1.0]]), each) == pytest.approx(0.375)  # of the right size, but no gradient
    assert not deviation(torch.tensor([[4.0, torch.nan]]), each) <= 1


# What is broken


def loud(g: torch.Tensor) -> torch.Tensor:
    return 1.001 * g


def turned(g: torch.Tensor) -> torch.Tensor:
    """The sign of its largest value alone."""
    g.view(-1)[g.abs().argmax()] *= -1
    return g


def moved(g: torch.Tensor) -> torch.Tensor:
    return g.roll(1, dims=-1)


def half_blind(g: torch.Tensor) -> torch.Tensor:
    """Nothing of the second channel."""
    return g * torch.tensor([1.0, 0.0])[:, None, None, None]


def cut_off(g: torch.Tensor) -> torch.Tensor:
    """Without its outermost voxels, where a field that is too small would end."""
    g[:, :8] = g[:, -8:] = 0
    return g


def hollow(g: torch.Tensor) -> torch.Tensor:
    g[0, 0, 0, 0] = torch.nan
    return g


@pytest.mark.parametrize("breaking", [loud, turned, moved, half_blind, cut_off, hollow])
def test_a_wrong_gradient_fails(
    breaking: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch, capsys, self_test_alone
) -> None:
    right = LesionGradient.__call__
    monkeypatch.setattr(LesionGradient, "__call__", lambda self, image: breaking(right(self, image)))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL self-test: ")


def test_a_weight_that_is_another_one_in_use_fails(monkeypatch: pytest.MonkeyPatch, capsys, self_test_alone) -> None:
    """As on a device whose memory errs: the weights of the maps, not those of the oracle on the CPU."""

    def load(word: str, **options: Any):
        network = load_network(word, **options)
        if not options:
            next(network.module.parameters()).data.view(-1)[0] += 0.05
        return network

    monkeypatch.setattr("ies_helpers.segmentation.formats.load_network", load)
    assert main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is False
    assert said["self-test"]["deviation"] > said["self-test"]["allowed"]
    assert [sentence.split(":")[0] for sentence in said["wrong"]] == ["self-test"]


def test_shipped_files_that_are_others_or_gone_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = {"a.nii.gz": b"one", "b.nii.gz": b"two", "c.nii.gz": b"three", "d.nii.gz": b"four"}
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in kept.items()]
    (tmp_path / doctor.SUMS).write_text("".join(sums))
    lying = kept | {"b.nii.gz": b"twp", "c.nii.gz": b"version https://git-lfs.github.com/spec/v1\n"}
    for name, content in lying.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.nii.gz").unlink()
    monkeypatch.setattr(doctor, "data_folder", lambda: tmp_path)
    finding = SECTIONS["data"]()
    assert [sentence.split(":")[0] for sentence in finding.wrong] == [
        "b.nii.gz is another file than the one that was shipped",
        "c.nii.gz is a Git LFS pointer, and not the file it points to (git lfs pull)",
        "d.nii.gz is missing",
    ]
    assert "not all as shipped" in finding.said


@pytest.mark.parametrize(("have", "told"), [("1.4.0", "monai>=1.5.1 is needed, and there is 1.4.0"), (None, "none")])
def test_a_package_that_is_too_old_or_gone_is_named(have: str | None, told: str, monkeypatch) -> None:
    installed = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: have if name == "monai" else installed(name))
    (sentence,) = SECTIONS["versions"]().wrong
    assert sentence.startswith("monai>=1.5.1 is needed")
    assert told in sentence


def test_where_torch_cannot_be_imported_the_rest_is_told() -> None:
    code = "import sys; sys.modules['torch'] = None; from ies_helpers.__main__ import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True)
    assert ended.returncode == 1
    said = json.loads(ended.stdout)
    assert [sentence.split(":")[:2] for sentence in said["wrong"]] == [
        [name, " ModuleNotFoundError"] for name in ("cores", "gpu", "self-test")
    ]
    assert said["versions"]["torch"] == version("torch")
    assert len(said["data"]["sha256"]) >= 6
