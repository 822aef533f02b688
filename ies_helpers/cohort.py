"""A cohort: the same work for many subjects, here or on a cluster, told in one TOML file.

    subjects = ["demo", "phantom:3", "openms:patient26", "bids", "plain/patient*"]
    out = "derivatives/ies"

    [network]
    name = "unet"             # as --network; also the other options of a network, settings and channels among them

    [[explain]]               # as often as wanted, each like one run of ies explain
    aggregate = "max"
    lesions = "TP"
    draws = 50

    [[perilesional]]          # like ies perilesional
    lesions = "TP:91-119"

    [evaluate]                # like ies evaluate, of all maps, when they are done
    faithfulness = false

A subject is a name as `load_subject` takes it, a folder, a pattern of folders, a BIDS folder, which stands for all its
`sub-*` and their `ses-*`, or files, one a channel: `{flair = "F.nii.gz", t1 = "T.nii.gz", target = "M.nii.gz"}`. How a
target is read stands beside them, or beside a name or pattern, as `{subject = "isbi/*", rater = "majority"}`, or as
`target_label` or `target_threshold`, see `load_subject`. Paths are relative to the file. `targets`, a pattern such as
`"bids/derivatives/manual/**/{sub}_*mask.nii.gz"`, finds masks that lie apart from their scans; `{sub}` is what the
FLAIR's name begins with, as `sub-01_ses-2`, or the subject's name. `threads` (1) is how many each process has; it
stands here, because another number may round a gradient otherwise, and the number of processes shall not change a bit.
"""

import glob
import hashlib
import json
import multiprocessing
import platform
import re
import time
import tomllib
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, get_args, get_type_hints

import joblib
import pandas as pd
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from ies_helpers.arrays import check_seed
from ies_helpers.figures.charts import save_perilesional
from ies_helpers.measures.context import ContextTable
from ies_helpers.measures.evaluation import add_measures
from ies_helpers.saliency.context import STEPS, check_curve, perilesional_curve
from ies_helpers.saliency.estimate import in_words
from ies_helpers.saliency.explain import make_maps
from ies_helpers.saliency.methods import Recipe
from ies_helpers.segmentation.formats import absolute_word, load_network
from ies_helpers.segmentation.lesions import GROUPS, Lesion, Lesions, check_wanted, find_lesions, segment_into_folder
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.files import read_text, write_text
from ies_helpers.subjects.folder import MAPS, open_derivative, versions, write_index, write_table
from ies_helpers.subjects.layouts import BIDS, Found, find_case, find_patients
from ies_helpers.subjects.sources import CHOICES, find_subject, is_word, load_subject
from ies_helpers.subjects.subject import Subject, torch_threads

# What a cohort shall do: the file, checked before anything is loaded.

# Keys of each table and their defaults; an empty one means not given.
TOP = {"subjects": [], "out": "ies-out", "targets": "", "threads": 1}
TOP |= {"network": {}, "explain": [], "perilesional": [], "evaluate": {}}
NETWORK = {"name": "unet", "architecture": "", "settings": "", "channels": [], "merging": "", "threshold": 0.0}
NETWORK |= {"use_checkpoint": False, "device": "auto", "mirroring": True, "checkpoint": ""}
EXPLAIN = {each.name: "" if each.default is None else each.default for each in fields(Recipe)} | {"lesions": "all"}
PERILESIONAL = {"lesions": "TP:91-119", "fill": "zero", "by": "steps"}
EVALUATE = {"faithfulness": False, "seed": 0}

# Of what type a setting of a recipe may be; other values must be of their default's.
KINDS = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Recipe).items()}


@dataclass(frozen=True)
class MapRequest:
    """One `[[explain]]`: maps by one recipe of the lesions that `lesions` names."""

    recipe: Recipe
    lesions: str = "all"

    def __post_init__(self) -> None:
        check_wanted(self.lesions)

    @property
    def name(self) -> str:
        """What the names of its maps tell beside their lesions."""
        return self.recipe.name

    def as_table(self) -> dict[str, Any]:
        """As the file has it, defaults and all; what makes a finished subject another one is hashed from it."""
        table = asdict(self.recipe) | {"through": self.recipe.through or "", "lesions": self.lesions}
        if self.recipe.accuracy == "auto":  # folders finished before there was a choice stay so
            del table["accuracy"]
        return table


@dataclass(frozen=True)
class CurveRequest:
    """One `[[perilesional]]`: curves of the lesions that `lesions` names."""

    lesions: str
    fill: str
    by: str

    def __post_init__(self) -> None:
        check_curve(self.by, self.fill)
        check_wanted(self.lesions)

    @property
    def name(self) -> str:
        """What its rows of the table of curves tell beside their lesions."""
        return f"curves of fill {self.fill}"

    as_table = asdict


@dataclass(frozen=True)
class Config:
    """A checked configuration, its paths absolute."""

    sources: tuple[dict[str, Any], ...]  # the arguments of `load_subject` for each subject
    out: Path  # a BIDS derivative
    threads: int  # of torch, for each process
    network: dict[str, Any]  # the arguments of `load_network`
    explain: tuple[MapRequest, ...]
    perilesional: tuple[CurveRequest, ...]
    evaluate: dict[str, Any] | None  # `faithfulness` and `seed`; None: not wanted
    path: Path  # of the file
    text: str  # of the file

    def asked(self) -> dict[str, Any]:
        """What is asked of every subject, as the file has it."""
        return {
            "network": self.network,
            "explain": [request.as_table() for request in self.explain],
            "perilesional": [request.as_table() for request in self.perilesional],
            "threads": self.threads,
        }


def read_config(path: Path) -> Config:
    """Read and check a cohort's TOML file; what cannot work, names nothing or says two things of one is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"A cohort is a TOML file, there is none at {path}; chapter 12 shows one to copy.")
    text = read_text(path)
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        slashes = " Paths with backslashes stand between single quotes, or take /." if "\\" in text else ""
        raise ValueError(f"{path.name} must be a TOML file, it is not readable as one ({error}).{slashes}") from error
    home, where = path.absolute().parent, f"of {path.name}"
    top = _checked(given, TOP, path.name)
    if top["threads"] < 1:
        raise ValueError(f"threads {where} must be 1 or more, got {top['threads']}.")
    network = _network(_checked(top["network"], NETWORK, f"[network] {where}"), home)
    maps, curves = [], []
    for table in top["explain"]:
        settings = _checked(table, EXPLAIN, f"[[explain]] {where}")
        lesions, through = settings.pop("lesions"), settings.pop("through") or None
        maps.append(MapRequest(Recipe(**settings, through=through), lesions))
    for table in top["perilesional"]:
        curves.append(CurveRequest(**_checked(table, PERILESIONAL, f"[[perilesional]] {where}")))
    _check_names(maps, f"[[explain]] {where}", "choose lesions of two groups, or make")
    _check_names(curves, f"[[perilesional]] {where}", "or make")
    evaluate = _checked(top["evaluate"], EVALUATE, f"[evaluate] {where}") if "evaluate" in given else None
    if evaluate:
        check_seed(evaluate["seed"], f"seed {where}")
    sources, out = tuple(_sources(top["subjects"], home, top["targets"], path.name)), (home / top["out"]).resolve()
    return Config(sources, out, top["threads"], network, tuple(maps), tuple(curves), evaluate, path.absolute(), text)


def _checked(given: Any, allowed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of one table, defaults filled in."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a table of settings, got {given!r}.")
    for key, value in given.items():
        if key not in allowed:
            raise ValueError(f"{where} has no key {key!r}; allowed are {', '.join(allowed)}.")
        kind = type(allowed[key])
        fits = KINDS[key] if allowed is EXPLAIN and key in KINDS else (kind,)
        if type(value) not in fits and not (float in fits and type(value) is int):
            raise ValueError(f"{key} of {where} must be of type {kind.__name__}, as {allowed[key]!r}, got {value!r}.")
    return dict(allowed) | given


def _network(settings: dict[str, Any], home: Path) -> dict[str, Any]:
    """The arguments of `load_network`: only what was given, files and folders by their absolute path."""
    name, given = settings.pop("name"), {k: v for k, v in settings.items() if k == "device" or v != NETWORK[k]}
    if "settings" in given:
        given["settings"] = str(home / Path(given["settings"]).expanduser())
    return given | {"network": absolute_word(name, home)}


def _check_names(requests: Sequence[MapRequest | CurveRequest], where: str, remedy: str) -> None:
    """Refuse two entries that would make what has one name in two ways.

    Maps of lesions of two groups never have one name; curves of all lesions are averaged.
    """
    for one, other in combinations(requests, 2):
        first, second = one.as_table(), other.as_table()
        groups = {request.lesions.partition(":")[0] for request in (one, other)}
        differ = [
            f"{k} {first.get(k)!r} and {second.get(k)!r}" for k in first | second if first.get(k) != second.get(k)
        ]
        differ = [words for words in differ if not words.startswith("lesions ")]
        apart = isinstance(one, MapRequest) and len(groups) == 2 and groups <= set(GROUPS)
        if one.name == other.name and differ and not apart:
            met = f"two {where} make {one.name}, with {', '.join(differ)}"
            raise ValueError(f"A folder holds one result of a name; {met}. Take one out, {remedy} two cohorts.")


def _sources(entries: list[Any], home: Path, targets: str, where: str) -> Iterator[dict[str, Any]]:
    """The arguments of `load_subject` for every subject that the entries stand for, none twice."""
    if not entries:
        raise ValueError(f'{where} must name its subjects, as subjects = ["demo", "bids"].')
    seen: list[dict[str, Any]] = []
    for source in (s for entry in entries for s in _expanded(entry, home, where)):
        if source in seen:
            raise ValueError(f"{where} names a subject twice: {_words_of(source)}; take one of them out.")
        seen.append(source)
        yield _with_target(source, home, targets) if targets and not {"target", "rater"} & set(source) else source


def _words_of(source: Mapping[str, Any]) -> str:
    """What tables and errors call a subject by."""
    return ", ".join(f"{key} {value}" if key in CHOICES else str(value) for key, value in source.items())


def _expanded(entry: Any, home: Path, where: str) -> Iterator[dict[str, Any]]:
    """What one entry stands for: files by name, one subject, or all that match a pattern or lie in a BIDS folder."""
    table = entry if isinstance(entry, dict) else {"subject": entry}
    chosen = {key: value for key, value in table.items() if key in CHOICES and isinstance(value, CHOICES[key])}
    files = {key: value for key, value in table.items() if key not in chosen and isinstance(value, str)}
    if len(chosen) + len(files) < len(table) or not set(files) - {"target"}:
        raise ValueError(
            f"A subject of {where} is a name, or files as {{flair = ..., t1 = ..., target = ...}}, got {entry!r}; "
            f"beside them, or beside subject = ..., may stand {', '.join(CHOICES)}."
        )
    if set(files) == {"subject"}:
        yield from (source | chosen for source in _named(files["subject"], home, where))
    else:
        yield {name: str((home / file).resolve()) for name, file in files.items()} | chosen


def _named(entry: str, home: Path, where: str) -> Iterator[dict[str, Any]]:
    """What a name, a folder or a pattern of folders stands for."""
    if is_word(entry):
        yield {"subject": entry}
    else:
        matches = sorted(glob.glob(str(home / Path(entry).expanduser()), recursive=True))
        folders = [Path(match) for match in matches if Path(match).is_dir()]
        if not matches and find_case(case := home / Path(entry).expanduser()):
            yield {"subject": str(case.resolve())}
        elif not folders:
            raise FileNotFoundError(f"A subject of {where} must be a name or a folder; nothing matches {entry}.")
        for folder in folders:
            yield from ({"subject": str(visit.resolve())} for visit in _visits(folder))


def _visits(folder: Path) -> list[Path]:
    """A BIDS folder's subjects, a subject's sessions, the patients of another layout, or the folder itself."""
    for pattern in ("sub-*", "ses-*"):
        if inner := [f for f in sorted(folder.glob(pattern)) if f.is_dir()]:
            return [visit for f in inner for visit in _visits(f)]
    return find_patients(folder)


def _with_target(source: dict[str, Any], home: Path, targets: str) -> dict[str, Any]:
    """A subject of folders as its files, with the one mask that the pattern finds for its name."""
    try:
        found = find_subject(**source)
    except (ValueError, FileNotFoundError):  # told when its turn comes
        return source
    if not found.files:
        return source
    bids = re.match(BIDS, found.files[0].name)
    masks = sorted(glob.glob(str(home / targets.replace("{sub}", bids[0] if bids else found.name)), recursive=True))
    if len(masks) > 1:
        raise ValueError(f"targets must find one mask a subject, for {found.name} it finds {len(masks)}; narrow it.")
    chosen = {key: value for key, value in source.items() if key in CHOICES}
    return {n: str(path) for n, path in found.images.items()} | {"target": masks[0]} | chosen if masks else source


# What is done with one subject: all of it, or as far as the step at which it failed.

# Of `cohort.tsv`. `status` is `done`, `kept` (from an earlier run), `failed` (at `step`, `why`) or `waiting`.
COLUMNS = ["subject", "status", "lesions", "maps", "curves", "seconds", "step", "why", "notes", "source"]

CURVES = "perilesional.csv"


@dataclass(frozen=True)
class Task:
    """One subject of a cohort, ready to be sent to a worker."""

    config: Config
    source: dict[str, Any]  # the arguments of `load_subject`
    found: Found
    digest: str  # of the network's weights
    channels: tuple[str, ...] | None = None  # that the network takes; None: all

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
        """Equal for equal scans (path, size, time) of the channels taken, target, network and settings."""
        beside = set() if self.channels is None else {*self.found.images} - {*self.channels}
        files = [path for path in self.found.files if path not in [self.found.images[name] for name in beside]]
        stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        source = {name: word for name, word in self.source.items() if name not in beside}
        asked = self.config.asked()
        network = {k: v for k, v in asked.pop("network").items() if k != "device"}
        parts = [source, stamps, self.digest, network, *asked.values()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def blank(self, status: str, **known: Any) -> dict[str, Any]:
        """A row of `cohort.tsv`."""
        source = _words_of(self.source)
        return dict.fromkeys(COLUMNS) | {"subject": self.name, "status": status, "source": source} | known

    def kept(self) -> dict[str, Any] | None:
        """The row of an earlier run of the same key, if everything that it made is still there."""
        try:
            record = json.loads(read_text(self.folder / "cohort.json"))
            there = all((self.folder / name).is_file() for name in record["files"])
            cut = [n for n, size in record.get("tables", {}).items() if (self.folder / n).stat().st_size < size]
            if record["key"] == self.key and there and not cut:
                return record["row"] | {"status": "kept"}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None


def work_on(task: Task, devices: Any = None) -> dict[str, Any]:
    """Do everything that is asked for one subject, its row of `cohort.tsv`; a mistake ends there and nowhere else.

    `devices` is a queue of numbers of GPUs, of which one is borrowed; None: whatever `device` says.
    """
    if kept := task.kept():
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
    row["notes"] = " ".join(" ".join(dict.fromkeys([*(str(w.message) for w in caught), *notes])).split()) or None
    if row["status"] == "done":
        files = sorted(str(p.relative_to(task.folder)) for p in task.folder.rglob("*.*") if p.is_file())
        tables = {name: (task.folder / name).stat().st_size for name in files if name.endswith((".csv", ".tsv"))}
        files = [name for name in files if name != "cohort.json"]
        record = {"key": task.key, "row": row, "files": files, "tables": tables}  # whole tables only grow
        write_text(task.folder / "cohort.json", json.dumps(record, indent=2) + "\n")
    return row


def _steps(task: Task, row: dict[str, Any], notes: list[str]) -> Iterator[str]:
    """The name of each step, before it is done."""
    config = task.config
    yield "load"
    subject = load_subject(**task.source)
    network, subject = prepare(load_network(**config.network), subject)
    yield "predict"
    lesions = segment_into_folder(subject, network, config.out)
    row["lesions"] = len(lesions)
    made: list[Path] = []
    for request in config.explain:
        yield f"explain {request.recipe.method} of {request.lesions}"
        chosen, note = select_lesions(lesions, request.lesions)
        notes.append(note)
        if chosen:
            command = f"ies cohort {config.path.name}"
            made += make_maps(subject, network, chosen, config.out, request.recipe, command=command)
    if any((task.folder / "anat").glob(MAPS)):
        add_measures(config.out, subject.name, made)
    row["maps"] = sum(1 for _ in (task.folder / "anat").glob(MAPS))
    for request in config.perilesional:
        yield f"perilesional {request.fill} of {request.lesions}"
        table, (chosen, note) = ContextTable(task.folder / CURVES), select_lesions(lesions, request.lesions)
        notes.append(note)
        table.add(subject, network, chosen, fill=request.fill, by=request.by)  # pyright: ignore[reportArgumentType]
        row["curves"] = len(table.curves.drop_duplicates(["lesion", "network", "fill"]))


def select_lesions(lesions: Lesions, wanted: str) -> tuple[list[Lesion], str]:
    """The lesions of one of many subjects that `wanted` names; where it names none, a sentence that says so."""
    try:
        return lesions.select(wanted), ""
    except (ValueError, KeyError) as error:
        return [], str(error.args[0])


def _why(error: Exception) -> str:
    """The error in one line; if it is not one of ours, with the place where it happened."""
    message = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, ValueError | OSError | KeyError):
        return message or type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {message} ({Path(last.filename).name}, line {last.lineno})"


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


# Who works, and how the work is handed out.

TABLE = "cohort.tsv"


@dataclass(frozen=True)
class Workforce:
    """Who does the work."""

    workers: int | None  # processes; None: all that a Dask cluster has
    threads: int = 1  # of each process
    devices: int = 0  # GPUs to share out, one to a process
    dask: str = ""  # address or scheduler file of a cluster; empty: this machine

    def __str__(self) -> str:
        if self.dask:
            return f"{self.workers or 'all'} workers of the Dask cluster"
        who = "1 process" if self.workers == 1 else f"{self.workers} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{who} of {threads}" + (", a GPU each" if self.devices else "")


def find_workers(workers: int | None = None, *, threads: int = 1, device: str = "auto", dask: str = "") -> Workforce:
    """Who can work: `workers` processes; None takes one for each GPU, or one, or all workers of a cluster."""
    if workers is not None and workers < 1:
        raise ValueError(f"There must be at least one worker, got {workers}.")
    if dask:
        if find_spec("distributed") is None:
            raise ValueError("A Dask cluster needs dask: pip install 'ies-helpers[cluster]'.")
        return Workforce(workers, threads, dask=dask)
    devices = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    wanted, cores = workers or devices or 1, joblib.cpu_count()
    if wanted > 1 and not _has_processes():
        raise ValueError(
            f"Several workers are processes, which are switched off here (JOBLIB_MULTIPROCESSING); got {wanted} "
            "workers. Take one, or switch them on."
        )
    if devices and wanted > devices:
        raise ValueError(f"There must be a GPU for each worker, {devices} here; got {wanted} workers.")
    if wanted * threads > cores:
        raise ValueError(
            f"There must be a core for each thread, {cores} here; got {wanted} workers of {threads}. Take fewer."
        )
    return Workforce(wanted, threads, devices)


def _has_processes() -> bool:
    """Whether joblib may start processes: a variable, or a system without semaphores, takes them away."""
    return getattr(joblib.parallel, "mp", None) is not None


def list_tasks(config: Config, network: Network) -> tuple[list[Task], dict[str, dict[str, Any]]]:
    """The subjects that are left to do, and rows of `cohort.tsv` for all, by source, in the order of the file."""
    tasks, rows, named, of_network = [], {}, {}, (network.digest(), network.channels)
    for source in config.sources:
        words = _words_of(source)
        try:
            task = Task(config, source, find_subject(**source), *of_network)
        except (ValueError, OSError) as error:
            lost = Task(config, source, Found(Path(words).name), *of_network)
            rows[words] = lost.blank("failed", step="find", why=str(error))
            continue
        if task.name in named:
            raise ValueError(
                f"A cohort's subjects must have different names, {task.name} is both {named[task.name]} and {words}; "
                "rename the files, as sub-01_ses-1_FLAIR.nii.gz, or run them as two cohorts."
            )
        named[task.name] = words
        rows[words] = task.kept() or task.blank("waiting")
        tasks += [task] if rows[words]["status"] == "waiting" else []
    return tasks, rows


def run_cohort(config: Config, network: Network, crew: Workforce, *, progress: bool = False) -> pd.DataFrame:
    """Do the work of a cohort; what is there is kept, a subject that fails does not stop the others.

    `network` is `load_network(**config.network)`; maps do not depend on `crew`. Returns `cohort.tsv`, one row a
    subject, see `COLUMNS`; it is written anew after each.
    """
    out = open_derivative(config.out)
    tasks, rows = list_tasks(config, network)
    write_text(out / "cohort.toml", config.text)
    also = {name: version(name) if find_spec(name) else None for name in ("joblib", "scipy", "pandas", "distributed")}
    found = versions() | {"python": platform.python_version()} | also
    known = {"config": str(config.path), **config.asked(), "digest": network.digest(), "versions": found}
    write_text(out / "cohort.json", json.dumps(known, indent=2) + "\n")
    table = _write(out, rows)
    for row in tqdm(_rows(tasks, crew), desc="Subjects", total=len(tasks), unit="subject", disable=not progress):
        rows[row["source"]] = row
        table = _write(out, rows)
    write_index(out, anew=True)
    if curves := [out / f"sub-{row['subject']}" / CURVES for row in rows.values() if row["curves"]]:
        texts = [read_text(path).splitlines(keepends=True) for path in curves]
        write_text(out / CURVES, "".join([texts[0][0], *(line for lines in texts for line in lines[1:])]))
        save_perilesional(out, ContextTable(out / CURVES).curves)  # as `ies perilesional` leaves it
    return table


def _write(out: Path, rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    kinds = dict.fromkeys(["lesions", "maps", "curves"], "Int64")
    table = pd.DataFrame(list(rows.values()), columns=COLUMNS).astype(kinds)
    write_table(out / TABLE, table)
    return table


def _rows(tasks: list[Task], crew: Workforce) -> Iterator[dict[str, Any]]:
    """Rows as they come. If a process dies, half as many go on; one that dies alone is told as failed."""
    waiting, workers = {task.name: task for task in tasks}, crew.workers
    with _devices(crew) as devices, _backend(crew) as death:
        while waiting:
            try:
                for row in _parallel(list(waiting.values()), workers, devices):
                    waiting.pop(row["subject"])
                    yield row
            except death:
                workers = max(1, (workers or joblib.effective_n_jobs(-1)) // 2)
                if workers == 1:
                    break
        for task in waiting.values():
            try:
                yield from _parallel([task], 2, devices)  # of two, so that it is not this process
            except death:
                yield task.blank("failed", step="any", why="Its process died; the usual reason is too little memory.")


def _parallel(tasks: list[Task], workers: int | None, devices: Any) -> Iterator[dict[str, Any]]:
    pool: Any = joblib.Parallel(n_jobs=workers or -1, return_as="generator_unordered", batch_size=1)  # pyright: ignore
    return pool(joblib.delayed(work_on)(task, devices) for task in tasks)


@contextmanager
def _devices(crew: Workforce) -> Iterator[Any]:
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
def _backend(crew: Workforce) -> Iterator[type[Exception]]:
    """Joblib's processes on this machine, or those of the cluster; yields what is raised when one of them dies."""
    if not crew.dask and not _has_processes():
        with joblib.parallel_config(backend="sequential"):
            yield TerminatedWorkerError
        return
    if not crew.dask:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=crew.threads):
            yield TerminatedWorkerError
        return
    from dask.distributed import Client, KilledWorker

    where: Any = {"scheduler_file" if Path(crew.dask).is_file() else "address": crew.dask}
    with Client(**where) as it, joblib.parallel_config(backend="dask", client=it, wait_for_workers_timeout=600):
        yield KilledWorker


# What a cohort will make and take, judged by one of its subjects before it begins.


@dataclass(frozen=True)
class Plan:
    """What is left to do for the subjects that are `waiting`, if all are like the pilot."""

    waiting: int  # subjects left to do
    kept: int  # done by an earlier run
    failed: int  # not to be found
    crew: Workforce
    pilot: str = ""  # the subject that was looked at; empty if none could be
    maps: int = 0  # files, one for each lesion, setting and channel
    curves: int = 0  # perilesional ones
    seconds: float = 0.0  # of one process
    gigabytes: float = 0.0  # of the maps on disk
    why: tuple[str, ...] = ()  # for each that cannot be found, or could not be a pilot, a sentence

    def __str__(self) -> str:
        subjects = "1 subject" if self.waiting == 1 else f"{self.waiting} subjects"
        lines = [f"{subjects} to do, {self.kept} done before, {self.failed} not to be found."]
        if self.pilot:
            made = f"{self.maps} maps" + (f" and {self.curves} perilesional curves" if self.curves else "")
            lines.append(
                f"If all are like {self.pilot}: {made}, {self.gigabytes:.2g} GB on disk, "
                f"about {in_words(self.seconds / (self.crew.workers or 1))} with {self.crew}."
            )
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.why)])

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"crew": str(self.crew)}


def plan_cohort(
    config: Config, network: Network, tasks: Sequence[Task], rows: dict[str, dict[str, Any]], crew: Workforce
) -> Plan:
    """Load and predict the first subject that can be, time a little of its work, and count for all; writes nothing."""
    status = [row["status"] for row in rows.values()]
    why = [f"{row['subject']}: {row['why']}" for row in rows.values() if row["status"] == "failed"]
    count = {"waiting": len(tasks), "kept": status.count("kept"), "failed": len(why), "crew": crew}
    for task in tasks[:3]:
        try:
            with torch_threads(config.threads):
                one = _pilot(config, network, task)
        except (ValueError, OSError) as error:
            why.append(f"{task.name}: {error}")  # its row will say so, too, when its turn comes
            continue
        scaled = {key: value * len(tasks) for key, value in one.items()}
        return Plan(**count, pilot=task.name, why=tuple(why), **scaled)
    return Plan(**count, why=tuple(why))


def _pilot(config: Config, network: Network, task: Task) -> Mapping[str, Any]:
    """Maps, curves, seconds and gigabytes of one subject."""
    begun = time.perf_counter()
    network, subject = prepare(network, load_subject(**task.source))
    lesions = find_lesions(network, subject)
    total: Any = Counter()
    total["seconds"] = time.perf_counter() - begun
    for request in config.explain:
        if chosen := select_lesions(lesions, request.lesions)[0]:
            total.update(_maps_of_one(subject, network, chosen, request.recipe))
    for request in config.perilesional:
        total["curves"] += len(select_lesions(lesions, request.lesions)[0])
    if total["curves"]:  # of the first lesion's curve one distance and the full score: two passes of all
        _, seconds = _timed(lambda: perilesional_curve(network, subject.image, lesions[1], distances=[STEPS[-1]]))
        total["seconds"] += total["curves"] * seconds * (len(STEPS) + 1) / 2
    return total


def _maps_of_one(subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe) -> dict[str, Any]:
    """The same of the maps by one recipe; the middle lesion's map, or its gradient, is weighed."""
    view = recipe.view_of(network, len(subject.channels))
    cost, middle = recipe.cost(subject, view, lesions), sorted(lesions, key=len)[len(lesions) // 2]
    weighed = recipe if cost is None else Recipe("gradient", "mean")
    saliency, once = _timed(lambda: next(weighed.maps(subject, view, [middle]))[1])
    size = sum(len(zlib.compress(channel.numpy().tobytes(), 1)) for channel in saliency)
    seconds, many = once * len(lesions) if cost is None else cost.seconds, len(lesions)
    return {"maps": many * len(saliency), "seconds": seconds, "gigabytes": many * size / 1e9}


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    made = run()
    return made, time.perf_counter() - begun
