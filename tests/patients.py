"""Tiny patients with known spots, on disk and in memory, and a narrow U-Net that calls bright FLAIR a lesion."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import torch
from safetensors.torch import save_file

from ies_helpers import Lesion, Subject
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects.subject import normalise

SPOTS = {"TP": (30, 40, 50), "FP": (60, 40, 44), "FN": (48, 64, 40)}
"""Centres on the 96-voxel patient: bright and in the target, bright only, in the target only."""

AFFINE = np.array([[0.0, 0.0, 1.0, -40.0], [-1.0, 0.0, 0.0, 60.0], [0.0, 1.0, 0.0, -50.0], [0.0, 0.0, 0.0, 1.0]])
"""1 mm, axes permuted and one of them flipped: i runs to posterior, j to superior, k to the right."""

UNEVEN = np.array([[0.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""Voxels of 1 x 2 x 3 mm, axes permuted: its columns have these lengths, its rows others."""


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Boolean volume, True within `radius` voxels of `centre`."""
    return np.linalg.norm(np.indices(shape) - np.reshape(centre, (3, 1, 1, 1)), axis=0) <= radius


def write_image(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """A NIfTI image in scanner and MNI space, in mm and s."""
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_patient(
    folder: Path,
    name: str = "p1",
    side: int = 96,
    spots: dict = SPOTS,
    seed: int = 0,
    radius: float = 3,
    suffixes: Sequence[str] = ("FLAIR", "T1w"),
) -> Path:
    """A folder `sub-<name>` with a scan for each suffix as int16, the first of them with spots, and the target."""
    rng, shape = np.random.default_rng(seed), (side,) * 3
    brain = ball(shape, (side / 2,) * 3, side * 0.45)
    scan = brain * (100 + 5 * rng.standard_normal((len(suffixes), *shape)))
    target = np.zeros(shape, dtype=np.uint8)
    for group, centre in spots.items():
        spot = ball(shape, centre, radius)
        scan[0] += 60 * spot * (group != "FN")
        target |= (spot & (group != "FP")).astype(np.uint8)
    for suffix, values in zip(suffixes, scan, strict=True):
        write_image(folder / f"sub-{name}_{suffix}.nii.gz", values.round().astype(np.int16))
    write_image(folder / f"sub-{name}_label-lesion_mask.nii.gz", target)
    return folder


def write_network(path: Path, gain: float = 2.0, channels: Sequence[str] = (), classes: int = 2) -> Path:
    """A U-Net of four features a level: logit = gain (blurred FLAIR - 4), and a faint random rest.

    Its channels are FLAIR and another, unless they are named; without FLAIR the first stands for it. Classes beyond
    the first two are faint.
    """
    torch.manual_seed(0)
    network = build("unet", (4,) * 5, in_channels=len(channels) or 2, out_channels=classes)
    state = {k: v.clone() for k, v in network.module.state_dict().items() if v.is_floating_point()}
    for key in state:
        if key.endswith("conv.weight"):
            state[key] *= 0.3
    state["model.0.conv.weight"][0] = 0
    state["model.0.conv.weight"][0, channels.index("flair") if "flair" in channels else 0] = 1 / 27
    state["model.0.conv.bias"][0] = 0
    between = torch.tensor([0.5, 1.0, 0.5])
    state["model.2.conv.weight"][0, 0] = 0
    state["model.2.conv.weight"][0, 1] = gain * torch.einsum("i,j,k->ijk", between, between, between)
    state["model.2.conv.bias"][:2] = torch.tensor([0.0, -4 * gain])
    save_file(state, path, metadata={"architecture": "unet", **({"inputs": ",".join(channels)} if channels else {})})
    return path


def subject_in_memory(
    shape: tuple[int, int, int] = (24, 28, 20), affine: np.ndarray = AFFINE, name: str = "toy", seed: int = 0
) -> Subject:
    """A noisy subject without target or files."""
    rng = np.random.default_rng(seed)
    header = nibabel.Nifti1Image(np.zeros(shape, dtype=np.int16), affine).header
    raw = 100 + rng.standard_normal((2, *shape)).astype(np.float32)
    return Subject(name, normalise(raw), affine, header=header, source={"subject": "elsewhere"})


def lesion_of(mask: np.ndarray, number: int = 3, group: str = "TP") -> Lesion:
    """A lesion on the true voxels of a mask."""
    return Lesion(number, group, np.argwhere(mask), float(mask.sum()), np.zeros(3), 0.5, 0.9)


def files_below(folder: Path) -> list[str]:
    """Every file and folder, hidden ones too, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def strays(folder: Path) -> list[str]:
    """What no finished run leaves: temporary folders and running sums."""
    return [name for name in files_below(folder) if ".part" in name or ".running" in name]


DRIVER = """
import errno, gc, json, os, resource, signal, sys
import ies_helpers.figures.pages
import monai.networks.nets.unet, monai.transforms.intensity.array
from ies_helpers import __main__, saliency
from ies_helpers.saliency import explain
from ies_helpers.subjects import files
explain.SAVE_EVERY_S = 0.0
exec(sys.argv[1])
CHANGES = {"os.rename", "os.rmdir", "os.remove", "os.truncate"}
def end_at(left, full):
    def heard(event, arguments):
        nonlocal left
        writes = event == "os.mkdir" or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in CHANGES and not full:
            left -= 1
            if left <= 0 and full:
                raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(heard)
gc.collect()
gc.freeze()  # else every child looks through, and so copies, what was imported here
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arguments, errors, largest, change, full = json.loads(line)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv[1:] = arguments
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        if change:
            end_at(change, full)
        code = __main__.main(arguments)
        files._remove_unfinished()  # at the end of a process of its own Python calls it
        os._exit(code)
    print("started", child, flush=True)
    sys.stdin.readline()  # until nobody will stop it any more: its number belongs to no other process so long
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, then runs each command line in a process of its own: its id, and when asked its exit code."""


class Commands:
    """Command lines run one after another in killable processes; sums are saved after every draw."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self.errors = process, errors

    def run(
        self,
        *arguments: object,
        stop: signal.Signals | None = None,
        when: Callable[[], object] = bool,
        largest: int | None = None,
        change: int | None = None,
        full: bool = False,
    ) -> int:
        """The exit code.

        Args:
            stop: is sent as soon as `when` is true.
            largest: bytes beyond which no file may grow.
            change: the process kills itself before this one of the changes that it makes to the file system.
            full: instead the disk is full from that change on.
        """
        self._say(json.dumps([[str(a) for a in arguments], str(self.errors), largest, change, full]))
        child = self._number("started")
        try:
            if stop is not None:
                self._wait(when)
                os.kill(child, stop)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            self._say("")
            code = self._number("ended")
        return code

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _wait(self, when: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):  # a folder that vanished while it was looked through
                if when():
                    return
            time.sleep(0.001)
        raise AssertionError(f"the moment never came: {self.told}")

    def _number(self, word: str) -> int:
        """What the driver says next; never taken for anything else, because it is a process to kill."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line[:1] == [word], line
        return int(line[1])

    @property
    def told(self) -> str:
        """What the last command line wrote on stderr."""
        return self.errors.read_text()


@contextmanager
def commands(folder: Path, prepare: str = "") -> Iterator[Commands]:
    """A process that is ready to run command lines, once it has run the Python lines in `prepare`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # on a busy machine threads that wait for each other are slow
    alone |= {"PYTHONWARNINGS": "ignore:The axes of"}  # as pyproject.toml has it for the tests themselves
    with subprocess.Popen([sys.executable, "-c", DRIVER, prepare], env=alone, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Commands(process, folder / "stderr")
        assert process.stdin is not None
        process.stdin.close()
