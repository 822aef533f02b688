"""What a cohort does with one subject: whole, or told at which step it failed and why."""

import hashlib
import json
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ies_helpers.cohort.config import Config
from ies_helpers.measures.columns import add_measures
from ies_helpers.measures.context import ContextTable
from ies_helpers.saliency.explain import explain
from ies_helpers.segmentation.checkpoints import load_network
from ies_helpers.segmentation.lesions import Lesion, Lesions
from ies_helpers.segmentation.segment import segment
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.finding import Found
from ies_helpers.subjects.loading import load_subject
from ies_helpers.subjects.saving import MAPS

COLUMNS = ["subject", "status", "lesions", "maps", "curves", "seconds", "step", "why", "notes", "source"]
"""Of `cohort.tsv`. `status` is `done`, `kept` (from an earlier run), `failed` (at `step`, `why`) or `waiting`."""

CURVES = "perilesional.csv"


@dataclass(frozen=True)
class Task:
    """One subject of a cohort, ready to be sent to a worker.

    Attributes:
        config: what to do.
        source: the arguments of `load_subject`.
        found: its name and files.
        digest: of the network's weights.
    """

    config: Config
    source: dict[str, str]
    found: Found
    digest: str

    @property
    def name(self) -> str:
        """Of the subject, as in its files."""
        return self.found.name

    @property
    def folder(self) -> Path:
        """Where what is made of this subject lies."""
        return self.config.out / f"sub-{self.name}"

    @property
    def key(self) -> str:
        """Equal for equal scans (path, size, time), network and settings."""
        stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.found.files]
        network = {k: v for k, v in self.config.network.items() if k != "device"}
        config = self.config
        asked = [self.source, stamps, self.digest, network, config.explain, config.perilesional, config.threads]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]

    def blank(self, status: str, **known: Any) -> dict[str, Any]:
        """A row of `cohort.tsv`."""
        source = ", ".join(self.source.values())
        return dict.fromkeys(COLUMNS) | {"subject": self.name, "status": status, "source": source} | known

    def kept(self) -> dict[str, Any] | None:
        """The row of an earlier run of the same key, if everything that it made is still there."""
        try:
            record = json.loads((self.folder / "cohort.json").read_text())
            if record["key"] == self.key and all((self.folder / name).is_file() for name in record["files"]):
                return record["row"] | {"status": "kept"}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None


def work(task: Task, devices: Any = None) -> dict[str, Any]:
    """Do everything that is asked for one subject; a mistake ends in its row and nowhere else.

    Args:
        task: the subject, and what to do with it.
        devices: a queue of numbers of GPUs, of which one is borrowed; None: whatever `device` says.

    Returns:
        A row of `cohort.tsv`.
    """
    kept = task.kept()
    if kept:
        return kept
    row, begun, notes = task.blank("failed"), time.perf_counter(), []
    with warnings.catch_warnings(record=True) as caught, torch_threads(task.config.threads), _borrowed(devices):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"ies_helpers\.")
        try:
            for step in _steps(task, row, notes):
                row["step"] = step
            row |= {"status": "done", "step": None}
        except Exception as error:
            row["why"] = _why(error)
    row["seconds"] = round(time.perf_counter() - begun, 1)
    row["notes"] = " ".join(dict.fromkeys([*(" ".join(str(w.message).split()) for w in caught), *notes])) or None
    if row["status"] == "done":
        files = sorted(str(p.relative_to(task.folder)) for p in task.folder.rglob("*.*") if p.is_file())
        record = {"key": task.key, "row": row, "files": [name for name in files if name != "cohort.json"]}
        write_text(task.folder / "cohort.json", json.dumps(record, indent=2) + "\n")
    return row


def _steps(task: Task, row: dict[str, Any], notes: list[str]) -> Iterator[str]:
    """The name of each step, before it is done."""
    config = task.config
    yield "load"
    subject = load_subject(**task.source)
    network = load_network(**config.network)
    yield "predict"
    lesions = segment(subject, network, config.out)
    row["lesions"] = len(lesions)
    for settings in config.explain:
        yield f"explain {settings['method']} of {settings['lesions']}"
        how = dict(settings)
        through, chosen = how.pop("through"), chosen_of(lesions, how.pop("lesions"), notes)
        net = network.explained_through(through) if through else network
        if chosen:
            explain(subject, net, chosen, config.out, **how, command=f"ies cohort {config.path.name}")
    if any((task.folder / "anat").glob(MAPS)):
        add_measures(config.out, subject.name)
    row["maps"] = sum(1 for _ in (task.folder / "anat").glob(MAPS))
    for settings in config.perilesional:
        yield f"perilesional {settings['fill']} of {settings['lesions']}"
        table, chosen = ContextTable(task.folder / CURVES), chosen_of(lesions, settings["lesions"], notes)
        table.add(subject, network, chosen, fill=settings["fill"], by=settings["by"])
        row["curves"] = len(table.curves.drop_duplicates(["lesion", "network", "fill"]))


def chosen_of(lesions: Lesions, wanted: str, notes: list[str]) -> list[Lesion]:
    """The lesions that `wanted` names; in a cohort none is no failure, but told."""
    try:
        return lesions.select(wanted)
    except (ValueError, KeyError) as error:
        notes.append(str(error.args[0]))
        return []


def _why(error: Exception) -> str:
    """One line; for what nobody foresaw also where it happened."""
    told = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, ValueError | OSError | KeyError):
        return told or type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {told} ({Path(last.filename).name}, line {last.lineno})"


@contextmanager
def torch_threads(wanted: int) -> Iterator[None]:
    """So many threads of torch inside, as many as before afterwards."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _borrowed(devices: Any) -> Iterator[None]:
    """A GPU of one's own while the block runs."""
    if devices is None:
        yield
        return
    number = devices.get()
    try:
        with torch.cuda.device(number):
            yield
    finally:
        devices.put(number)
