"""Damaged and hostile files by the hundred: each loads as it should, or is refused in one sentence; none runs code."""

import gzip
import io
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ies_helpers import load_network, load_subject
from ies_helpers.segmentation.architectures import build
from tests.damage import Attack, damaged_bytes, damaged_header, damaged_pth, damaged_safetensors, saved

CASES = 200
FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

Load = Callable[[Random], None]


def outcomes(load: Load) -> Counter[str]:
    """How many of `CASES` loaded and were refused; anything but these two fails, and is shrunk to its smallest."""
    seen: Counter[str] = Counter()

    @settings(FIXED, max_examples=CASES)
    @given(st.randoms(use_true_random=False))
    def check(rng: Random) -> None:
        seen[_outcome(load, rng)] += 1

    check()
    assert seen.total() >= CASES
    return seen


def _outcome(load: Load, rng: Random) -> str:
    refused: Exception | None = None
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            load(rng)
    except (ValueError, OSError) as error:
        refused = error
    if refused is None:
        return "loaded"
    assert type(refused) in (ValueError, OSError, FileNotFoundError), repr(refused)
    assert 20 < len(str(refused)) < 1000
    assert str(refused).isprintable()  # one line, and nothing that a terminal obeys
    return "refused"


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is made if any file gets its code run."""
    monkeypatch.setenv("IES_ATTACK", str(tmp_path / "was-here"))
    return tmp_path / "was-here"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A narrow U-Net's weights."""
    torch.manual_seed(0)
    weights = build("unet", (3, 4, 5)).module.state_dict()
    return {key: value.clone() for key, value in weights.items() if value.is_floating_point()}


def test_of_200_malformed_nifti_headers_each_loads_z_scored_or_is_refused(tmp_path: Path, capfd) -> None:
    values = np.random.default_rng(0).integers(1, 1000, (9, 8, 7)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "whole.nii")
    whole = (tmp_path / "whole.nii").read_bytes()

    def load(rng: Random) -> None:
        content, packed = damaged_header(rng, whole), rng.randrange(2)
        path = tmp_path / ("p_FLAIR.nii.gz" if packed else "p_FLAIR.nii")
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        subject = load_subject(flair=path, t1=path)
        assert np.isfinite(subject.affine).all()
        for channel in subject.image:
            inside = channel[channel != 0].double()
            assert abs(float(inside.mean())) < 1e-2
            assert abs(float(inside.std(correction=0)) - 1) < 1e-2

    seen = outcomes(load)
    assert min(seen["loaded"], seen["refused"]) > CASES // 10
    assert capfd.readouterr().err == ""  # nibabel's own lines would follow the one sentence


def test_of_200_damaged_safetensors_each_loads_or_is_refused(tmp_path: Path, state) -> None:
    whole, path = save(state, metadata={"architecture": "unet"}), tmp_path / "n.safetensors"

    def load(rng: Random) -> None:
        path.write_bytes(damaged_safetensors(rng, whole))
        assert _finite(load_network(path).module)

    seen = outcomes(load)
    assert min(seen["loaded"], seen["refused"]) > CASES // 50


def test_of_200_damaged_or_hostile_pth_files_each_loads_or_is_refused_and_none_runs_code(
    tmp_path: Path, state, attacked: Path
) -> None:
    path = tmp_path / "n.pth"

    def load(rng: Random) -> None:
        path.write_bytes(damaged_pth(rng, state))
        try:
            assert _finite(load_network(path, architecture="unet").module)
        finally:
            assert not attacked.exists()

    seen = outcomes(load)
    assert min(seen["loaded"], seen["refused"]) > CASES // 50


def test_of_200_damaged_archives_each_loads_or_is_refused(tmp_path: Path, state, attacked: Path) -> None:
    sources = {suffix: packed(suffix, saved(state)) for suffix in ("tar.gz", "tar.xz", "tar", "zip")}

    def load(rng: Random) -> None:
        suffix = rng.choice(sorted(sources))
        path = tmp_path / f"n.{suffix}"
        path.write_bytes(damaged_bytes(rng, sources[suffix]))
        assert _finite(load_network(path, architecture="unet").module)

    seen = outcomes(load)
    assert min(seen["loaded"], seen["refused"]) > 0
    assert [name.name for name in tmp_path.iterdir() if not name.name.startswith("n.")] == []


@pytest.mark.parametrize("suffix", ["tar.xz", "tar.gz", "tar", "zip"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_malicious_pickle_inside_an_archive_does_nothing(tmp_path: Path, attacked: Path, suffix, hidden) -> None:
    path = tmp_path / f"n.{suffix}"
    path.write_bytes(packed(suffix, saved({"a": torch.zeros(1), "b": Attack()} if hidden else Attack())))
    with pytest.raises(ValueError, match=r"asks to run posix\.mkdir and was not opened"):
        load_network(path, architecture="unet")
    assert not attacked.exists()
    torch.load(io.BytesIO(saved(Attack())), weights_only=False)  # the attack is real
    assert attacked.exists()


def _finite(module: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())


def packed(suffix: str, content: bytes) -> bytes:
    """An archive with `content` as its one file, `net.pth`."""
    stream = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("net.pth", content)
        return stream.getvalue()
    mode = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[suffix]
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        info = tarfile.TarInfo("net.pth")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
