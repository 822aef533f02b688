"""Is this installation sound? What a report of a bug has to say, and a self-test against plain autograd.

It is read where something is broken: whatever cannot be found out is told in its place, and the rest is looked at.
Nothing names the user: the home folder is `~`.
"""

import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from ies_helpers.subjects.downloads import cache_folder
from ies_helpers.subjects.files import data_folder, one_line, stand_in

if TYPE_CHECKING:  # torch takes seconds, and may be what is broken
    import torch
    from torch import nn

SUMS = "SHA256SUMS"  # in the data folder, a line a file, as `sha256sum --check` reads it
OPTIONAL = ("niivue", "shap", "cluster", "notebooks")  # extras that are listed where they are installed
BESIDE = "dynamic-network-architectures"  # installed by hand, as its own requirements would bring torchvision

SIDE = 64  # voxels: of the cube of the demo subject that the self-test takes for an image; seconds on any machine
VOXELS = 3  # of the lesion in its middle
ALLOWED = 1e-4  # of the largest value, in float32: rounding, and a slope of an activation that it may flip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `said` for a person, `data` for a program, a sentence for all that is `wrong`."""

    said: str
    data: Mapping[str, Any] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()


def examine() -> Iterator[tuple[str, Finding]]:
    """Each row of `SECTIONS` and what was found there, as soon as it is known; the self-test comes last."""
    for name, look in SECTIONS.items():
        try:
            finding = look()
        except Exception as error:  # whatever it is that is broken, it shall be told
            why = f"{type(error).__name__}: {one_line(error, 300).replace(os.path.expanduser('~'), '~').rstrip('.')}"
            finding = Finding(f"cannot be told ({why})", wrong=(why,))
        yield name, finding


# What is installed, and on what machine.


def _versions() -> Finding:
    core, optional = [], [Requirement(BESIDE)]
    for need in map(Requirement, requires("ies-helpers") or ()):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            core.append(need)
        elif any(need.marker.evaluate({"extra": extra}) for extra in OPTIONAL):
            optional.append(need)
    have = {need.name: installed(need.name) for need in (*core, *optional)}
    found = {"ies-helpers": version("ies-helpers"), "Python": platform.python_version()}
    found |= {name: number for name, number in have.items() if number}
    wrong = [
        f"{need.name}{need.specifier} is needed, and there is {have[need.name] or 'none'}: install ies-helpers anew"
        for need in core
        if not need.specifier.contains(have[need.name] or "0", prereleases=True)
    ]
    return Finding(", ".join(f"{name} {number}" for name, number in found.items()), found, tuple(wrong))


def installed(name: str) -> str | None:
    """The version of a package; None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _system() -> Finding:
    data = {"platform": platform.platform(), "machine": platform.machine(), "python": shown(sys.executable)}
    return Finding(", ".join(data.values()), data)


def _cores() -> Finding:
    import joblib
    import torch

    data: dict[str, Any] = {
        "cores": os.cpu_count(),
        "usable": joblib.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    data |= {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    said = f"{data['cores']}, of which this process may use {data['usable']}; threads of torch: {data['torch_threads']}"
    variables = "".join(f"; {name}={value}" for name, value in data.items() if name.isupper())
    return Finding(f"{said}{variables}", data)


def _memory() -> Finding:
    import psutil

    now, limit = psutil.virtual_memory(), _memory_limit()
    data = {"free": now.available, "total": now.total, "limit": limit}
    held = f"; this process is held to {gigabytes(limit)}" if limit else ""
    return Finding(f"{gigabytes(now.available)} free of {gigabytes(now.total)}{held}", data)


def _memory_limit() -> int | None:
    """Bytes that a container or a job on a cluster may take (cgroup v2), if it is held to any."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("::")[2].strip()
        said = Path(f"/sys/fs/cgroup/{own.lstrip('/')}/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(said) if said.isdecimal() else None


def _gpu() -> Finding:
    import torch

    built = torch.version.cuda
    if not torch.cuda.is_available():
        why = f"torch is built for CUDA {built} and finds no GPU or driver" if built else "torch is built for the CPU"
        return Finding(f"none ({why})", {"cuda": built, "devices": []})
    devices = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        devices.append({"name": torch.cuda.get_device_name(number), "free": free, "total": total})
    named = (f"{each['name']}, {gigabytes(each['free'])} free of {gigabytes(each['total'])}" for each in devices)
    return Finding(f"{'; '.join(named)} (CUDA {built})", {"cuda": built, "devices": devices})


# What lies on the disk.


def _cache() -> Finding:
    folder = cache_folder()
    held: dict[str, dict[str, int]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            group = held.setdefault(path.relative_to(folder).parts[0], {"files": 0, "bytes": 0})
            group["files"] += 1
            group["bytes"] += path.stat().st_size
    near = next(each for each in (folder, *folder.parents) if each.is_dir())
    data = {"folder": shown(folder), "held": held, "free": shutil.disk_usage(near).free}
    holds = ", ".join(f"{name} ({one['files']} files, {gigabytes(one['bytes'])})" for name, one in held.items())
    return Finding(f"{data['folder']} holds {holds or 'nothing'}; {gigabytes(data['free'])} free on its disk", data)


def _data() -> Finding:
    folder = data_folder()
    found, wrong = {}, []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing: install ies-helpers anew")
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if found[name] != wanted:
            what = stand_in(path) or "another file than the one that was shipped"
            wrong.append(f"{name} is {what}: install ies-helpers anew")
    hashes = ", ".join(f"{name} {digest[:12]}" for name, digest in found.items())
    intact = "not all as shipped" if wrong else "all as shipped"
    return Finding(f"{intact} in {shown(folder)}: {hashes}", {"folder": shown(folder), "sha256": found}, tuple(wrong))


# The self-test.


def _self_test() -> Finding:
    from ies_helpers.saliency.gradients import LesionGradient
    from ies_helpers.segmentation.formats import load_network

    image, voxels = _some_voxels()
    network, started = load_network("unet"), time.perf_counter()
    engine = LesionGradient(network, image, voxels, "max")
    made = engine.place(engine(image))
    ours = time.perf_counter() - started
    each = plain_gradients(load_network("unet", device="cpu").module, image, voxels)
    plain = time.perf_counter() - started - ours
    off = deviation(made, each)
    data: dict[str, Any] = {"deviation": off, "allowed": ALLOWED, "device": str(network.device), "way": engine.way}
    data |= {"voxels": len(voxels), "seconds": ours, "plain_seconds": plain}
    wrong = () if off <= ALLOWED else (f"maps are off by {off:.2g} of their largest value and must not be used",)
    said = f"gradient of {len(voxels)} voxels of a lesion of the demo, U-Net on {network.device} by {engine.way}"
    differs = f"largest difference from plain autograd {off:.1e} of the largest value, {ALLOWED:.0e} allowed"
    return Finding(f"{said}: {differs} ({ours:.1f} s, plain {plain:.1f} s)", data, wrong)


def _some_voxels() -> "tuple[torch.Tensor, Any]":
    """A cube of the demo subject `(C, SIDE, SIDE, SIDE)`, and the first, a middle and the last voxel of a lesion."""
    import numpy as np

    from ies_helpers.arrays import Box
    from ies_helpers.segmentation.lesions import find_lesions
    from ies_helpers.subjects.sources import load_subject

    subject = load_subject("demo")
    assert subject.target is not None, "the demo has its lesions"
    lesions = find_lesions(subject.target.float(), threshold=0.5)
    voxels = max(lesions, key=lambda lesion: (len(lesion) < 150, len(lesion))).voxels  # a focal one, not the plaque
    start = np.clip(voxels.mean(axis=0).astype(int) - SIDE // 2, 0, np.array(subject.shape) - SIDE)
    some = voxels[np.linspace(0, len(voxels) - 1, VOXELS).astype(int)]
    return subject.image[:, *Box.of(start, start + SIDE)], some - start


def plain_gradients(module: "nn.Module", image: "torch.Tensor", voxels: Any) -> "torch.Tensor":
    """`(V, C, I, J, K)`: for each voxel a backward pass of its lesion logit over the whole image, by autograd alone."""
    import torch

    with torch.enable_grad():
        x = image[None].clone().requires_grad_()
        logits = module(x)[0, 1]
        return torch.stack([torch.autograd.grad(logits[tuple(v)], x, retain_graph=True)[0][0] for v in voxels])


def deviation(made: "torch.Tensor", each: "torch.Tensor") -> float:
    """How far a maximum `(C, I, J, K)` is off the gradients `(V, C, I, J, K)` it is of, over their largest value.

    Of two gradients of nearly one size and opposite sign rounding may keep either, so its size is compared with the
    largest one, and its value with the nearest of them. NaN where any of them is.
    """
    import torch

    size = (made.abs() - each.abs().amax(dim=0)).abs()
    value = (made - each).abs().amin(dim=0)
    return float(torch.maximum(size, value).max() / each.abs().max())


SECTIONS: Mapping[str, Callable[[], Finding]] = {
    "versions": _versions,
    "system": _system,
    "cores": _cores,
    "memory": _memory,
    "gpu": _gpu,
    "cache": _cache,
    "data": _data,
    "self-test": _self_test,
}


def shown(path: str | Path) -> str:
    """A path as others may see it: the home folder is `~`."""
    try:
        return f"~/{Path(path).relative_to(Path.home())}"
    except (ValueError, RuntimeError):  # elsewhere; there is no home
        return str(path)


def gigabytes(count: int) -> str:
    """Bytes as `8.2 GB`, and as `31 MB` where they are fewer."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
