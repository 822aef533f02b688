"""What a cohort run shall do: a TOML file, checked before anything is loaded.

    subjects = ["demo", "phantom:3", "openms:patient26", "bids", "plain/patient*"]
    out = "derivatives/ies"

    [network]
    name = "unet"             # as --network; also architecture, merging, threshold, use_checkpoint, device

    [[explain]]               # as often as wanted, each like one run of ies explain
    aggregate = "max"
    lesions = "TP"
    draws = 50

    [[perilesional]]          # like ies perilesional
    lesions = "TP:91-119"

    [evaluate]                # like ies evaluate, of all maps, when they are done
    faithfulness = false

A subject is a name as `load_subject` takes it, a folder, a pattern of folders, a BIDS folder, which stands for all its
`sub-*` and their `ses-*`, or files: `{flair = "F.nii.gz", t1 = "T.nii.gz", target = "M.nii.gz"}`. Paths are relative to
the file. `targets`, a pattern such as `"bids/derivatives/manual/**/{sub}_*mask.nii.gz"`, finds masks that lie apart
from their scans; `{sub}` is what the FLAIR's name begins with, as `sub-01_ses-2`, or the subject's name. `threads` (1)
is how many each process has; it stands here, because another number may round a gradient otherwise, and the number of
processes shall not change a bit.
"""

import glob
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ies_helpers.saliency.perilesional import check_curve
from ies_helpers.saliency.settings import AGGREGATED, check_settings
from ies_helpers.segmentation.lesions import GROUPS, check_choice
from ies_helpers.subjects.finding import BIDS, find_subject
from ies_helpers.subjects.seeds import check_seed

NETWORK = {
    "name": "unet",
    "architecture": "",
    "merging": "",
    "threshold": 0.0,
    "use_checkpoint": False,
    "device": "auto",
}
EXPLAIN = {
    "method": "smoothgrad",
    "aggregate": "max",
    "lesions": "all",
    "draws": 50,
    "noise": 0.05,
    "seed": 0,
    "through": "",
    "statistics": "exact",
    "baseline": "zero",
}
EVALUATE = {"faithfulness": False, "seed": 0}
PERILESIONAL = {"lesions": "TP:91-119", "fill": "zero", "by": "steps"}
TOP = {
    "subjects": [],
    "out": "ies-out",
    "targets": "",
    "threads": 1,
    "network": {},
    "explain": [],
    "perilesional": [],
    "evaluate": {},
}
"""Allowed keys and their defaults, an empty one meaning not given; a value must be of its default's kind."""


@dataclass(frozen=True)
class Config:
    """A checked configuration, its paths absolute.

    Attributes:
        sources: one entry a subject, the arguments of `load_subject`.
        out: a BIDS derivative.
        threads: of torch, for each process.
        network: the arguments of `load_network`.
        explain: for each wanted kind of map, the settings of `explain`, with `lesions` and `through`.
        perilesional: for each wanted kind of curve `lesions`, `fill` and `by`.
        evaluate: `faithfulness` and `seed`, or None: not wanted.
        path: the file.
        text: of the file.
    """

    sources: tuple[dict[str, str], ...]
    out: Path
    threads: int
    network: dict[str, Any]
    explain: tuple[dict[str, Any], ...]
    perilesional: tuple[dict[str, Any], ...]
    evaluate: dict[str, Any] | None
    path: Path
    text: str


def read_config(path: Path) -> Config:
    """Read and check a cohort's TOML file.

    Raises:
        FileNotFoundError: there is no such file, or nothing matches a pattern.
        ValueError: the file is no TOML, a key is unknown, a value is of the wrong kind or cannot work, there is
            nothing to do, or a subject is named twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"A cohort is a TOML file, there is none at {path}; chapter 12 shows one to copy.")
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} must be a TOML file, it is not readable as one ({error}).") from error
    top = _checked(given, TOP, path.name)
    network = _checked(top["network"], NETWORK, f"[network] of {path.name}")
    explain = tuple(_checked(run, EXPLAIN, f"[[explain]] of {path.name}") for run in top["explain"])
    curves = tuple(_checked(run, PERILESIONAL, f"[[perilesional]] of {path.name}") for run in top["perilesional"])
    for run in explain:
        named: Any = {key: value for key, value in run.items() if key != "lesions"}
        check_settings(**named | {"through": run["through"] or None})
        check_choice(run["lesions"])
    for run in curves:
        check_curve(run["by"], run["fill"])
        check_choice(run["lesions"])
    _check_files(explain, _map, f"[[explain]] of {path.name}", by_group=True)
    _check_files(curves, _curves, f"[[perilesional]] of {path.name}", by_group=False)
    home = path.absolute().parent
    sources = tuple(_sources(top["subjects"], home, top["targets"], path.name))
    options = {key: value for key, value in network.items() if value not in ("", 0.0)}
    options["network"] = _weights(options.pop("name"), home)
    evaluate = _checked(top["evaluate"], EVALUATE, f"[evaluate] of {path.name}") if "evaluate" in given else None
    if top["threads"] < 1:
        raise ValueError(f"threads of {path.name} must be 1 or more, got {top['threads']}.")
    if evaluate:
        check_seed(evaluate["seed"], f"seed of {path.name}")
    out = (home / top["out"]).resolve()
    return Config(sources, out, top["threads"], options, explain, curves, evaluate, path.absolute(), text)


def _checked(given: Any, allowed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of one table, defaults filled in."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a table of settings, got {given!r}.")
    for key, value in given.items():
        if key not in allowed:
            raise ValueError(f"{where} has no key {key!r}; allowed are {', '.join(allowed)}.")
        default = allowed[key]
        fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if not (fits or (key == "draws" and value == "auto")):
            kind = type(default).__name__
            raise ValueError(f"{key} of {where} must be of type {kind}, as {default!r}, got {value!r}.")
    return dict(allowed) | given


def _map(run: dict[str, Any]) -> str:
    """What the name of a map tells, beside its lesion."""
    return " ".join([run["method"], *([run["aggregate"], run["statistics"]] if run["method"] in AGGREGATED else [])])


def _curves(run: dict[str, Any]) -> str:
    return f"curves of fill {run['fill']}"


def _check_files(
    runs: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str], where: str, *, by_group: bool
) -> None:
    """Refuse two entries that would make what has one name in two ways.

    Maps of lesions of two groups (`by_group`) never have one name; curves of all lesions are averaged.
    """
    for one, other in combinations(runs, 2):
        groups = {run["lesions"].partition(":")[0] for run in (one, other)}
        differ = [f"{k} {one[k]!r} and {other[k]!r}" for k in one if k != "lesions" and one[k] != other[k]]
        apart = by_group and len(groups) == 2 and groups <= set(GROUPS)
        if name(one) == name(other) and differ and not apart:
            remedy = "choose lesions of two groups, or make two cohorts" if by_group else "or make two cohorts"
            raise ValueError(
                f"A folder holds one result of a name; two {where} make {name(one)}, with {', '.join(differ)}. Take "
                f"one out, {remedy}."
            )


def _weights(name: str, home: Path) -> str:
    """A file of weights by its absolute path; other names as they are."""
    return str(home / name) if (home / name).is_file() else name


def _sources(entries: list[Any], home: Path, targets: str, where: str) -> Iterator[dict[str, str]]:
    """The arguments of `load_subject` for every subject that the entries stand for, none twice."""
    if not entries:
        raise ValueError(f'{where} must name its subjects, as subjects = ["demo", "bids"].')
    seen: list[dict[str, str]] = []
    for source in (s for entry in entries for s in _expanded(entry, home, where)):
        if source in seen:
            raise ValueError(f"{where} names a subject twice: {', '.join(source.values())}; take one of them out.")
        seen.append(source)
        yield _with_target(source, home, targets) if targets and "target" not in source else source


def _expanded(entry: Any, home: Path, where: str) -> Iterator[dict[str, str]]:
    """What one entry stands for: files by name, one subject, or all that match a pattern or lie in a BIDS folder."""
    if isinstance(entry, dict) and set(entry) <= {"flair", "t1", "target"} and {"flair", "t1"} <= set(entry):
        yield {key: str((home / str(value)).resolve()) for key, value in entry.items()}
        return
    if not isinstance(entry, str):
        raise ValueError(f"A subject of {where} is a name or {{flair = ..., t1 = ..., target = ...}}, got {entry!r}.")
    if entry == "demo" or entry.partition(":")[0] in ("phantom", "openms"):
        yield {"subject": entry}
        return
    matches = sorted(glob.glob(str(home / Path(entry).expanduser()), recursive=True))
    folders = [Path(match) for match in matches if Path(match).is_dir()]
    if not folders:
        raise FileNotFoundError(f"A subject of {where} must be a name or a folder; nothing matches {entry}.")
    for folder in folders:
        yield from ({"subject": str(visit.resolve())} for visit in _visits(folder))


def _visits(folder: Path) -> list[Path]:
    """A BIDS folder's subjects, a subject's sessions, or the folder itself."""
    for pattern in ("sub-*", "ses-*"):
        inner = [f for f in sorted(folder.glob(pattern)) if f.is_dir()]
        if inner:
            return [visit for f in inner for visit in _visits(f)]
    return [folder]


def _with_target(source: dict[str, str], home: Path, targets: str) -> dict[str, str]:
    """A subject of folders as its files, with the one mask that the pattern finds for its name."""
    try:
        found = find_subject(**source)
    except (ValueError, FileNotFoundError):  # told when its turn comes
        return source
    if not found.files:
        return source
    bids = re.match(BIDS, found.files[0].name)
    masks = sorted(glob.glob(str(home / targets.replace("{sub}", bids[0] if bids else found.name)), recursive=True))
    if not masks:
        return source
    if len(masks) > 1:
        raise ValueError(f"targets must find one mask a subject, for {found.name} it finds {len(masks)}; narrow it.")
    flair, t1, *_ = map(str, found.files)
    return {"flair": flair, "t1": t1, "target": masks[0]}
