"""A cohort from beginning to end: who works, what is there already, what is left, and the tables of all."""

import json
import multiprocessing
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from ies_helpers.cohort.config import Config
from ies_helpers.cohort.work import COLUMNS, CURVES, Task, work
from ies_helpers.figures.perilesional import save_perilesional
from ies_helpers.measures.context import ContextTable
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.finding import Found, find_subject
from ies_helpers.subjects.records import versions
from ies_helpers.subjects.saving import open_derivative, write_index, write_table

TABLE = "cohort.tsv"


@dataclass(frozen=True)
class Crew:
    """Who does the work.

    Attributes:
        workers: processes; None: all that a Dask cluster has.
        threads: of each process.
        devices: GPUs to share out, one to a process.
        dask: address or scheduler file of a cluster; empty: this machine.
    """

    workers: int | None
    threads: int = 1
    devices: int = 0
    dask: str = ""

    def __str__(self) -> str:
        if self.dask:
            return f"{self.workers or 'all'} workers of the Dask cluster"
        who = "1 process" if self.workers == 1 else f"{self.workers} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{who} of {threads}" + (", a GPU each" if self.devices else "")


def hire(workers: int | None = None, *, threads: int = 1, device: str = "auto", dask: str = "") -> Crew:
    """Who can work: `workers` processes; None takes one for each GPU, or one, or all workers of a cluster.

    Raises:
        ValueError: for fewer workers than one, more than there are GPUs, more threads in all than there are cores, or
            Dask that is not installed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"There must be at least one worker, got {workers}.")
    if dask:
        if find_spec("distributed") is None:
            raise ValueError("A Dask cluster needs dask: pip install 'ies-helpers[cluster]'.")
        return Crew(workers, threads, dask=dask)
    devices = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    wanted, cores = workers or devices or 1, joblib.cpu_count()
    if devices and wanted > devices:
        raise ValueError(f"There must be a GPU for each worker, {devices} here; got {wanted} workers.")
    if wanted * threads > cores:
        raise ValueError(
            f"There must be a core for each thread, {cores} here; got {wanted} workers of {threads}. Take fewer."
        )
    return Crew(wanted, threads, devices)


def tasks_of(config: Config, network: Network) -> tuple[list[Task], dict[str, dict[str, Any]]]:
    """The subjects that are left to do, and rows of `cohort.tsv` for all, by source, in the order of the file.

    Raises:
        ValueError: if two subjects have one name.
    """
    tasks, rows, named = [], {}, {}
    for source in config.sources:
        told, task = ", ".join(source.values()), Task(config, source, Found(""), network.digest())
        try:
            task = Task(config, source, find_subject(**source), task.digest)
        except (ValueError, OSError) as error:
            rows[told] = task.blank("failed", subject=Path(told).name, step="find", why=str(error))
            continue
        if task.name in named:
            raise ValueError(
                f"A cohort's subjects must have different names, {task.name} is both {named[task.name]} and {told}; "
                "rename the files, as sub-01_ses-1_FLAIR.nii.gz, or run them as two cohorts."
            )
        named[task.name] = told
        rows[told] = task.kept() or task.blank("waiting")
        tasks += [task] if rows[told]["status"] == "waiting" else []
    return tasks, rows


def run_cohort(config: Config, network: Network, crew: Crew, *, progress: bool = False) -> pd.DataFrame:
    """Do the work of a cohort; what is there is kept, a subject that fails does not stop the others.

    Args:
        config: see `read_config`.
        network: `load_network(**config.network)`.
        crew: see `hire`. Maps do not depend on it.
        progress: show a bar over subjects.

    Returns:
        `cohort.tsv`, one row a subject, see `work.COLUMNS`; it is written anew after each subject.

    Raises:
        ValueError: if two subjects have one name.
        OSError: if the folder cannot be written.
    """
    out = open_derivative(config.out)
    tasks, rows = tasks_of(config, network)
    write_text(out / "cohort.toml", config.text)
    write_text(out / "cohort.json", json.dumps(_provenance(config, network), indent=2) + "\n")
    table = _write(out, rows)
    for row in tqdm(_rows(tasks, crew), desc="Subjects", total=len(tasks), unit="subject", disable=not progress):
        rows[row["source"]] = row
        table = _write(out, rows)
    write_index(out)
    _gather(out, [row["subject"] for row in rows.values() if row["curves"]])
    return table


def _write(out: Path, rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows.values()), columns=COLUMNS)
    table = table.astype(dict.fromkeys(["lesions", "maps", "curves"], "Int64"))
    write_table(out / TABLE, table)
    return table


def _provenance(config: Config, network: Network) -> dict[str, Any]:
    """What the maps depend on, beside the subjects."""
    found: dict[str, Any] = versions() | {"python": platform.python_version()}
    for package in ("joblib", "scipy", "pandas", "distributed"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    asked = {"network": config.network, "explain": config.explain, "perilesional": config.perilesional}
    asked["threads"] = config.threads
    return {"config": str(config.path), **asked, "digest": network.digest(), "versions": found}


def _rows(tasks: list[Task], crew: Crew) -> Iterator[dict[str, Any]]:
    """Rows as they come. If a process dies, half as many go on; one that dies alone is told as failed."""
    waiting, workers = {task.name: task for task in tasks}, crew.workers
    with _devices(crew) as devices, _backend(crew) as deaths:
        while waiting:
            try:
                for row in _parallel(list(waiting.values()), workers, devices):
                    waiting.pop(row["subject"])
                    yield row
            except deaths:
                workers = max(1, (workers or joblib.effective_n_jobs(-1)) // 2)
                if workers == 1:
                    break
        for task in waiting.values():
            try:
                yield from _parallel([task], 2, devices)  # of two, so that it is not this process
            except deaths:
                yield task.blank("failed", step="any", why="Its process died; the usual reason is too little memory.")


def _parallel(tasks: list[Task], workers: int | None, devices: Any) -> Iterator[dict[str, Any]]:
    pool: Any = joblib.Parallel(n_jobs=workers or -1, return_as="generator_unordered", batch_size=1)  # pyright: ignore[reportArgumentType]
    return pool(joblib.delayed(work)(task, devices) for task in tasks)


@contextmanager
def _devices(crew: Crew) -> Iterator[Any]:
    """A queue of the numbers of GPUs that all processes can reach; None where there is at most one."""
    if crew.devices < 2:
        yield None
        return
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        for number in range(crew.workers or crew.devices):
            queue.put(number)
        yield queue


@contextmanager
def _backend(crew: Crew) -> Iterator[tuple[type[Exception], ...]]:
    """Joblib's processes on this machine, or those of the cluster; yields what is raised when one of them dies."""
    with ExitStack() as stack:
        if not crew.dask:
            stack.enter_context(joblib.parallel_config(backend="loky", inner_max_num_threads=crew.threads))
            yield (TerminatedWorkerError,)
            return
        from dask.distributed import Client, KilledWorker

        where: Any = {"scheduler_file": crew.dask} if Path(crew.dask).is_file() else {"address": crew.dask}
        client = stack.enter_context(Client(**where))
        stack.enter_context(joblib.parallel_config(backend="dask", client=client, wait_for_workers_timeout=600))
        yield (KilledWorker,)


def _gather(out: Path, names: list[str]) -> None:
    """The perilesional curves of all subjects in one table, and what it says, as `ies perilesional` leaves them."""
    if not names:
        return
    texts = [(out / f"sub-{name}" / CURVES).read_text().splitlines(keepends=True) for name in names]
    write_text(out / CURVES, "".join([texts[0][0], *(line for lines in texts for line in lines[1:])]))
    save_perilesional(out, ContextTable(out / CURVES).curves)
