"""Kill -9, full disks and exhausted memory at moments that nobody chose: what is left is whole, and the rest comes."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from ies_helpers.__main__ import main
from ies_helpers.segmentation import inference
from ies_helpers.subjects import downloads
from tests.patients import Commands, commands, files_below, strays, write_network, write_patient
from tests.subjects.local_server import Server, serving, write_registry
from tests.test_faults import assert_same, images, images_whole
from tests.test_hypothesis import packed

MOMENTS = int(os.environ.get("IES_MOMENTS", "2"))
"""Of `ies explain`: 2 in `make test`, since each costs seconds; IES_MOMENTS=20 tries twenty."""

FULL = MOMENTS // 2
"""Moments at which its disk is full."""


# ies explain


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the registry that `ies fetch` reads, and a home with its cache."""
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "home").mkdir()
    return folder


@pytest.fixture(scope="module")
def shell(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    prepare = (
        "from ies_helpers.subjects import downloads\n"
        f"downloads.data_folder = lambda: downloads.Path({str(place / 'data')!r})\n"
        f"os.environ.update(IES_CACHE={str(place / 'home' / 'cache')!r}, NO_PROXY='127.0.0.1', IES_MIRROR='')\n"
    )
    with commands(tmp_path_factory.mktemp("shell"), prepare) as ready:
        yield ready


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Two lesions explained; the folder is still to be named."""
    folder = tmp_path_factory.mktemp("scene")
    patient, network = write_patient(folder / "patient"), write_network(folder / "narrow.safetensors")
    how = ["--lesions", "1,2", "--aggregate", "mean", "--draws", 2, "--json"]
    return ["explain", patient, "--network", network, *how, "--out"]


@pytest.fixture(scope="module")
def straight(shell: Commands, command: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What a run that nobody stops leaves, and its seconds."""
    out, begun = tmp_path_factory.mktemp("straight"), time.monotonic()
    assert shell.run(*command, out) == 0, shell.told
    return out, time.monotonic() - begun


@pytest.mark.parametrize("seed", range(MOMENTS))
def test_explain_killed_at_a_random_moment_goes_on_to_the_same_maps(shell, command, straight, tmp_path, seed) -> None:
    """Even seeds: after a random share of a run's time; odd ones: before a random change of the file system."""
    rng, (whole, seconds) = Random(seed), straight
    if seed % 2:
        code = shell.run(*command, tmp_path, change=rng.randint(1, CHANGES))
    else:
        end = time.monotonic() + seconds * rng.uniform(0.05, 0.85)
        code = shell.run(*command, tmp_path, stop=signal.SIGKILL, when=lambda: time.monotonic() > end)
    assert code in (-signal.SIGKILL, 0)  # 0: this run was faster than the one that was timed
    for name, values in images_whole(tmp_path).items():
        assert np.array_equal(values, images(whole)[name]), name
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, whole)


CHANGES = 100
"""A run of `command` makes so many changes of the file system, and some more."""


def test_a_run_makes_at_least_as_many_changes_as_are_drawn_from(shell, command, tmp_path) -> None:
    assert shell.run(*command, tmp_path, change=CHANGES) == -signal.SIGKILL


# A disk that fills up


def test_files_that_cannot_grow_are_one_sentence_and_the_run_goes_on(shell, command, straight, tmp_path) -> None:
    """A real limit of the system, as a quota is; no permission is needed to set it."""
    assert shell.run(*command, tmp_path, largest=50_000) == 2
    assert shell.told.startswith("ies: ")
    assert shell.told.count("\n") == 1
    assert "File too large" in shell.told
    assert [name for name in strays(tmp_path) if ".part" in name] == []
    for name, values in images_whole(tmp_path).items():
        assert np.array_equal(values, images(straight[0])[name]), name
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, straight[0])


@pytest.mark.parametrize("seed", range(FULL))
def test_a_disk_that_is_full_from_a_random_write_on_is_one_sentence_and_the_run_goes_on(
    shell, command, straight, tmp_path, seed
) -> None:
    assert shell.run(*command, tmp_path, change=Random(seed).randint(1, CHANGES // 2), full=True) == 2
    assert "No space left on device" in shell.told
    assert shell.told.count("\n") == 1
    assert [name for name in strays(tmp_path) if ".part" in name] == []
    assert shell.run(*command, tmp_path) == 0, shell.told
    assert_same(tmp_path, straight[0])


# Memory


class Starved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")


def test_out_of_memory_in_a_command_is_one_sentence(command, tmp_path, capsys, monkeypatch) -> None:
    real = inference.predict_logits
    monkeypatch.setattr(inference, "predict_logits", lambda n, *a, **k: real(Starved(), *a, **k))
    assert main([str(a) for a in [*command, tmp_path / "out"]]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ies: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert told.count("\n") == 1


# ies fetch


WEIGHTS = Random(0).randbytes(300_000)
ARCHIVE = packed("tar.xz", WEIGHTS)


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    """Gives the archive `toy:one`, piece by piece."""
    facts = f'sha256 = "{hashlib.sha256(ARCHIVE).hexdigest()}", member = "*.pth"'
    with serving(content=ARCHIVE) as running:
        running.pace = 0.002
        write_registry(place / "data", [running.base], facts, path="deep/{item}.tar.xz")
        yield running


FETCHED = ["toy", "toy/deep", "toy/deep/one.pth", "toy/deep/one.tar.xz"]


def assert_resumes(shell: Commands, cache: Path) -> None:
    """What lies there is whole; fetching again brings the rest and leaves nothing beside it."""
    for name, content in (("one.tar.xz", ARCHIVE), ("one.pth", WEIGHTS)):
        place = cache / "toy" / "deep" / name
        assert not place.exists() or place.read_bytes() == content
    assert shell.run("fetch", "toy:one") == 0, shell.told
    assert (cache / "toy/deep/one.pth").read_bytes() == WEIGHTS
    assert files_below(cache.parent) == ["cache", *(f"cache/{name}" for name in FETCHED)]
    for name in reversed(FETCHED):
        (cache / name).rmdir() if (cache / name).is_dir() else (cache / name).unlink()
    cache.rmdir()


def test_a_download_killed_at_twenty_random_moments_is_made_whole_by_the_next(shell, place: Path, server) -> None:
    cache, rng, killed, begun = place / "home" / "cache", Random(0), 0, time.monotonic()
    assert_resumes(shell, cache)
    seconds = time.monotonic() - begun
    for _ in range(20):
        end = time.monotonic() + seconds * rng.random()
        code = shell.run("fetch", "toy:one", stop=signal.SIGKILL, when=lambda end=end: time.monotonic() > end)
        killed += code == -signal.SIGKILL
        assert code in (-signal.SIGKILL, 0)
        assert_resumes(shell, cache)
    assert killed >= 5  # the others were faster than the first


def test_a_download_killed_before_each_of_its_changes_of_the_disk_is_made_whole_by_the_next(
    shell, place: Path, server, monkeypatch
) -> None:
    monkeypatch.setattr(server, "pace", 0.0)
    change, cache = 1, place / "home" / "cache"
    while shell.run("fetch", "toy:one", change=change) == -signal.SIGKILL:
        assert_resumes(shell, cache)
        change += 1
    assert change > 10
    assert_resumes(shell, cache)


def test_two_processes_that_fill_one_cache_at_the_same_time_both_get_it_whole(
    shell, place: Path, server, monkeypatch
) -> None:
    """This process begins while the other one's download is under way."""
    monkeypatch.setenv("IES_CACHE", str(place / "home" / "cache"))
    monkeypatch.setattr(downloads, "data_folder", lambda: place / "data")
    before, mine = len(server.requests), []

    def second() -> bool:
        if len(server.requests) > before and not mine:
            mine.append(main(["fetch", "toy:one"]))
        return bool(mine)

    theirs = shell.run("fetch", "toy:one", stop=signal.SIGCONT, when=second)  # that signal does nothing to it
    assert (theirs, mine, len(server.requests) - before) == (0, [0], 2)
    assert_resumes(shell, place / "home" / "cache")


@pytest.mark.parametrize("below", ["flat", "/proc/version"])
def test_a_cache_that_nobody_can_write_is_one_sentence(tmp_path, capsys, monkeypatch, below) -> None:
    """Root may write to any read-only folder, so the cache lies below a file, once below one of the system's."""
    (tmp_path / "flat").touch()
    monkeypatch.setenv("IES_CACHE", str(tmp_path / below / "cache"))
    monkeypatch.setattr(downloads, "data_folder", lambda: tmp_path / "data")
    with serving() as server:
        write_registry(tmp_path / "data", [server.base], f'sha256 = "{hashlib.sha256(server.content).hexdigest()}"')
        assert main(["fetch", "toy:one"]) == 2
    told = capsys.readouterr().err
    assert "toy:one (scan) cannot be written in" in told
    assert "set IES_CACHE to a folder of yours" in told
    assert told.count("\n") == 1
