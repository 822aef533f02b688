"""The command line, a thin layer: what each command is asked, what it calls, and what it prints.

A command's options are its parameters. Those that several commands share stand in a dataclass, which `with_options`
spreads out into one option a field; `Recipe` is one of them, so that a setting of a map is said there alone. Heavy
modules are imported inside the functions: help is quick.
"""

import inspect
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from shutil import which
from textwrap import TextWrapper
from typing import Annotated, Any, get_type_hints

import typer

from ies_helpers.saliency.methods import METHODS, Recipe, methods_heeding
from ies_helpers.subjects.downloads import available
from ies_helpers.subjects.downloads import fetch as fetch_files
from ies_helpers.subjects.files import write_text

# What commands share: their options, how each begins, and how it ends.

PATIENTS = "phantom:SEED, openms:patientNN, mslesseg:P1/T1, wmh2017:training/Utrecht/0, ms3seg:001"


def _word(given: Any) -> str:
    """A word as it was given; `''`, as of a variable that is not set, is none."""
    if not str(given):
        raise typer.BadParameter("got an empty word; is a variable not set?")
    return str(given)


SubjectArgument = Annotated[
    str | None,
    typer.Argument(help=f"demo (the default), {PATIENTS} or a folder of scans.", parser=_word, metavar="SUBJECT"),
]
File = Annotated[Path | None, typer.Option(help="A NIfTI file, instead of SUBJECT.")]
WORDS = (
    "unet, nnunet, swin_unetr, unet:ensemble, published:unet, a file of weights, an nnU-Net results folder (FOLDER or "
    "FOLDER:FOLD), a MONAI bundle, TorchScript, python:PACKAGE.MODULE:FUNCTION, lst-ai:FOLDER or mindglide:FILE"
)
LesionsOption = Annotated[
    str,
    typer.Option(
        help="all, a group (TP, FP, FN, unknown), numbers as 3,7, voxels as size:90-120, both as TP:90-120; or a file "
        "in which each lesion has a number of its own."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]


def _folder(given: Any) -> Path:
    """A folder as it was given; `''`, as of a variable that is not set, is none."""
    if not str(given):
        raise typer.BadParameter("a folder must have a name, got an empty one; this folder is `.`.")
    return Path(given)


Out = Annotated[Path, typer.Option(help="Folder for what is made.", parser=_folder, metavar="PATH")]
Folders = Annotated[
    list[Path], typer.Argument(help="Folders that `ies explain` wrote.", parser=_folder, metavar="FOLDERS")
]
Moved = Annotated[
    list[str] | None,
    typer.Option("--subject", help="Where a scan that was moved lies now, as of explain; once a subject."),
]


@dataclass(frozen=True)
class FileOptions:
    """A subject as files by name."""

    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A NIfTI file of one channel, instead of SUBJECT; once a channel."),
    ] = None
    flair: File = None
    t1: File = None
    target: File = None
    rater: Annotated[
        str | None, typer.Option(help="Whose lesions are the target, where several drew them; or majority.")
    ] = None
    target_label: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Which number of the target is lesion, as 1 or 1,2; or instances, one a lesion."
        ),
    ] = None
    target_threshold: Annotated[
        float | None, typer.Option(help="Above it a target of probabilities is lesion; else 0.5.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The arguments of `load_subject` that name files."""
        images: dict[str, str] = {}
        for word in self.image or ():
            name, _, path = word.partition("=")
            if not name or not path:
                raise ValueError(f"--image takes NAME=FILE, as --image dir=sub-01_DIR.nii.gz, got {word!r}.")
            if name in images:
                raise ValueError(f"A channel must be named once, got two images of {name}; take one of them out.")
            images[name] = path
        files = {"images": images} | {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        given = {key: value for key, value in files.items() if value not in (None, {})}
        return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


@dataclass(frozen=True)
class LoadingOptions:
    """How a network is loaded, of which its kind heeds some."""

    architecture: Annotated[
        str | None,
        typer.Option(help="Of a file of weights: unet, nnunet, swin_unetr, or monai:NAME of MONAI, with --settings."),
    ] = None
    settings: Annotated[
        Path | None,
        typer.Option(help='JSON: arguments of monai:NAME, and in "network" its window, lesion_class, head, ...'),
    ] = None
    channels: Annotated[str | None, typer.Option(help="What the network takes, in its order, as flair,t1.")] = None
    merging: Annotated[
        str | None, typer.Option(help="Of a Swin UNETR's file: monai-0.9 (as published), monai-1.5 or mergingv2.")
    ] = None
    mirroring: Annotated[bool, typer.Option(help="nnU-Net: average mirrored copies, as it predicts.")] = True
    checkpoint: Annotated[str | None, typer.Option(help="nnU-Net: the file in each fold, if not the final one.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"


@dataclass(frozen=True)
class NetworkOptions(LoadingOptions):
    """A network by its name or file, and how it shall be loaded."""

    network: Annotated[str, typer.Option(help=f"{WORDS}.", parser=_word, metavar="TEXT")] = "unet"
    threshold: Annotated[float | None, typer.Option(help="Lesion above this probability; else the network's.")] = None

    def load(self, *, use_checkpoint: bool = False) -> Any:
        """The network."""
        from ies_helpers.segmentation.formats import load_network

        return load_network(**vars(self), use_checkpoint=use_checkpoint)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer reads it: a parameter that is a dataclass becomes one option for each of its fields."""
    kinds = get_type_hints(command, include_extras=True)
    shared: dict[str, Any] = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}

    @wraps(command)
    def flat(**given: Any) -> Any:
        for name, kind in shared.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        return command(**given)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in shared:
            parameters += _parameters_of(shared[parameter.name])
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kinds[parameter.name]))
    flat.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return flat


def _parameters_of(kind: Any) -> Iterator[inspect.Parameter]:
    """One keyword for each field of a dataclass; those of `Recipe` have their help beside their default."""
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = _recipe_option(each, hints[each.name]) if kind is Recipe else hints[each.name]
        yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hint)


def _recipe_option(each: Field[Any], hint: Any) -> Any:
    """What the command line says of a setting: its help, the words that it may be, and the methods that heed it."""
    choices = tuple(METHODS) if each.name == "method" else each.metadata["choices"]
    heeding = methods_heeding(each.name)
    known = [f"{word} {', '.join(names)}" for word, names in (("one of", choices), ("for", heeding)) if names]
    told = each.metadata["help"] + (f" ({'; '.join(known)})" if known else "")
    if hint in (int | str, float | str):
        return Annotated[Any, typer.Option(help=told, parser=_number_or_word, metavar="NUMBER or WORD")]
    return Annotated[hint, typer.Option(help=told)]


def _number_or_word(given: Any) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(given)
    return given


def segment_subject(
    word: str | None, files: FileOptions, network: NetworkOptions, out: Path, progress: bool, labels: Path | None = None
) -> Any:
    """Load a subject and a network, predict, and write the numbered lesions: subject, network and lesions."""
    from ies_helpers.segmentation.lesions import segment_into_folder
    from ies_helpers.subjects.sources import load_subject

    subject, net = load_subject(word, **files.given()), network.load()
    return subject, net, segment_into_folder(subject, net, out, labels=labels, progress=progress)


def wanted_lesions(given: str) -> tuple[str, Path | None]:
    """Which lesions are wanted, and of which file where they are not the prediction's."""
    from ies_helpers.segmentation.lesions import check_wanted
    from ies_helpers.subjects.nifti import ENDINGS

    if given.lower().endswith(ENDINGS):
        if not Path(given).is_file():
            raise FileNotFoundError(f"lesions must be numbers, a group or a file, there is none at {given}.")
        return "all", Path(given)
    check_wanted(given)
    return given, None


def print_result(lines: Sequence[str], data: Any, as_json: bool) -> None:
    """Print lines for a person, or the same as JSON; a table as its rows."""
    if hasattr(data, "to_dict"):
        data = rows_of(data)
    print(json.dumps(data, indent=2, default=str) if as_json else "\n".join(lines))


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Rows of a table without NaN, which is no JSON."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="What to download, as listed by --list.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what there is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download checkpoints, open patients and published tables, each verified."""
    if list_ or not names:
        rows = available()
        print_result(list(_list_lines(rows)), rows, as_json)
        return
    got = {name: {kind: str(path) for kind, path in fetch_files(name).items()} for name in names}
    lines = [f"{name}: {kind} {path}" for name, files in got.items() for kind, path in files.items()]
    print_result(lines, got, as_json)


def _list_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each name, and after the first of a group what all of it is good for and how it is split."""
    told = set()
    for row in rows:
        size = row["size"] or (f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "")
        facts = "; ".join(fact for fact in (row["licence"], size) if fact)
        yield f"{row['name']:26} {'here' if row['cached'] else '-':5} {row['what']} ({facts})"
        for fact in ("good_for", "split"):
            if row[fact] and row[fact] not in told:
                told.add(row[fact])
                yield f"{'':26} {'':5} {fact.replace('_', ' ')}: {row[fact]}"


def demo(out: Out = Path("demo")) -> None:
    """Explain one true, one false and one missed lesion of the shipped synthetic patient."""
    from ies_helpers.figures.lesions import plot_lesions
    from ies_helpers.figures.pages import LESIONS_PICTURE, draw_folder, draw_overview, save_figure
    from ies_helpers.saliency.explain import explain as explain_lesions

    subject, network, lesions = segment_subject("demo", FileOptions(), NetworkOptions(), out, progress=False)
    true, false, missed = (lesions.of(group) for group in ("TP", "FP", "FN"))
    found = f"The network found {len(true) + len(false)} lesions: {len(true)} are true (TP), {len(false)} false (FP)."
    print(
        f"{subject}\n{found}\nIt missed {len(missed)} (FN). We explain one of each kind, by two methods.\n", flush=True
    )
    chosen = [max(group, key=lambda le: (len(le) < 150, len(le))) for group in (true, false, missed)]
    save_figure(plot_lesions(subject, lesions), out / "figures" / LESIONS_PICTURE)
    for method, draws in (("smoothgrad", 8), ("gradcam++", 1)):
        explain_lesions(subject, network, chosen, out, method=method, draws=draws, progress=True, command="ies demo")
    *_, page = [*draw_folder(out), *draw_overview([out])]
    print(f"\nWhy did the network call these spots lesions? Open {page} in a browser.\n\nGo on:")
    steps = list(_next_steps())
    width = max(len(command) for command, _ in steps)
    print("\n".join(f"  {command:{width}}   {what}" for command, what in steps))


def _next_steps() -> Iterator[tuple[str, str]]:
    """What to type after the demo, and why. Only a checkout has chapters, and `ies` may not be on the path."""
    if (Path(__file__).parents[1] / "notebooks" / "src").is_dir():
        yield "make lab", "the chapters, in JupyterLab"
    beside = Path(sys.executable).with_name("ies")
    here = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
    ies = "ies" if which("ies") else str(here) if beside.exists() else "python -m ies_helpers"
    yield f"{ies} explain demo --lesions TP --out mine", "all true lesions, 50 draws"
    yield f"{ies} explain --flair F.nii.gz --t1 T.nii.gz --out mine", "scans of your own"
    yield f"{ies} explain openms:patient26 --out mine", "a real patient (downloads 8 MB)"


@with_options
def predict(
    files: FileOptions,
    network: NetworkOptions,
    subject: SubjectArgument = None,
    out: Out = Path("ies-out"),
    as_json: JsonOption = False,
) -> None:
    """Segment a subject; write the probability, the numbered lesions and their table."""
    _, _, lesions = segment_subject(subject, files, network, out, progress=not as_json)
    table = lesions.table()
    print_result([repr(lesions), table.round(2).to_string(index=False), f"Written to {out}."], table, as_json)


@with_options
def explain(
    files: FileOptions,
    network: NetworkOptions,
    recipe: Recipe,
    subject: SubjectArgument = None,
    lesions: LesionsOption = "all",
    use_checkpoint: Annotated[bool, typer.Option(help="Swin UNETR: less memory, more time.")] = False,
    out: Out = Path("ies-out"),
    as_json: JsonOption = False,
) -> None:
    """Compute saliency maps of lesions; run it again after an interruption and it goes on."""
    from ies_helpers.measures.evaluation import add_measures
    from ies_helpers.saliency.explain import make_maps, unfinished
    from ies_helpers.segmentation.lesions import segment_into_folder
    from ies_helpers.segmentation.network import prepare
    from ies_helpers.subjects.folder import read_index
    from ies_helpers.subjects.sources import load_subject

    wanted, labels = wanted_lesions(lesions)
    loaded = load_subject(subject, **files.given())
    net, loaded = prepare(network.load(use_checkpoint=use_checkpoint), loaded)
    view = recipe.view_of(net, len(loaded.channels))
    chosen = segment_into_folder(loaded, net, out, labels=labels, progress=not as_json).select(wanted)
    todo = unfinished(loaded, view, chosen, out, recipe)
    if not as_json:
        print(describe_work(loaded, view, todo, recipe) if todo else f"All {len(chosen)} maps are there already.")
    command = shlex.join(["ies", *sys.argv[1:]])
    made = make_maps(loaded, view, chosen, out, recipe, progress=not as_json, command=command)
    add_measures(out, loaded.name, made)
    index = read_index(out)
    table = out / f"sub-{loaded.name}" / "lesions.tsv"
    held = f"{out} holds {len(index)} maps, listed in maps.tsv; {table} says what they measure."
    print_result([f"{held} See them: ies view {out}"], index, as_json)


@with_options
def uncertainty(
    files: FileOptions,
    network: NetworkOptions,
    subject: SubjectArgument = None,
    source: Annotated[
        str, typer.Option(help="Whose answers are compared: members (of an ensemble), noise or dropout (draws of one).")
    ] = "members",
    draws: Annotated[int, typer.Option(help="Of noise and dropout.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    noise: Annotated[float, typer.Option(help="Of source noise: a share of FLAIR's range, as of explain.")] = 0.05,
    out: Out = Path("ies-out"),
    as_json: JsonOption = False,
) -> None:
    """How far an ensemble's members, or the draws of one network, agree on each lesion and on the patient."""
    from ies_helpers.measures.uncertainty import check_source, subject_uncertainty
    from ies_helpers.segmentation.lesions import segment_into_folder
    from ies_helpers.subjects.folder import write_table
    from ies_helpers.subjects.sources import load_subject

    loaded, net = load_subject(subject, **files.given()), network.load()
    how: Any = {"source": source, "draws": draws, "seed": seed, "noise": noise}
    check_source(net, **how)
    lesions = segment_into_folder(loaded, net, out, progress=not as_json)
    table, patient = subject_uncertainty(loaded, net, lesions, **how)
    folder = out / f"sub-{loaded.name}"
    write_table(folder / "uncertainty.tsv", table)
    write_table(folder / "uncertainty_patient.tsv", patient)
    row = rows_of(patient)[0]
    shown = table.drop(columns="note").round(3).to_string(index=False, na_rep="n/a")
    told = [f"{key.replace('_', ' ')} {value:.3g}" for key, value in row.items() if isinstance(value, float)]
    lines = [shown, f"{loaded.name}, {row['members']} {source}: {', '.join(told)}."]
    made = f"Written to {folder}: uncertainty.tsv and uncertainty_patient.tsv."
    print_result([*lines, made], {"lesions": rows_of(table), "patient": row}, as_json)


def describe_work(subject: Any, network: Any, lesions: Sequence[Any], recipe: Recipe) -> str:
    """Two sentences: what is explained, how long it takes and how."""
    from ies_helpers.saliency.estimate import in_words

    seen, other = ("whole", "windows") if network.through == "whole" else ("through its windows", "whole")
    many = f"{len(lesions)} lesions" if len(lesions) != 1 else "1 lesion"
    what = f"Explaining {many} of {subject.name}: {network.name} seen {seen} (--through {other} otherwise)."
    cost, voxels = recipe.cost(subject, network, lesions), sum(map(len, lesions))
    if cost is None:
        return f"{what}\n{voxels} lesion voxels, one forward pass a lesion."
    about = f"{'at most' if cost.at_most else 'about'} {in_words(cost.seconds)}"
    return f"{what}\n{voxels} lesion voxels, {cost.passes}: {about}."


@with_options
def perilesional(
    files: FileOptions,
    network: NetworkOptions,
    subjects: Annotated[
        list[str] | None, typer.Argument(help=f"demo, {PATIENTS} or folders.", parser=_word, metavar="SUBJECTS")
    ] = None,
    lesions: Annotated[str, typer.Option(help="As of explain; published: 91 to 119 voxels.")] = "TP:91-119",
    fill: Annotated[str, typer.Option(help="What hides tissue: zero (as published), mean or blurred.")] = "zero",
    by: Annotated[str, typer.Option(help="Dilations as steps (published), or true mm.")] = "steps",
    wide: Annotated[bool, typer.Option("--wide", help="Also tables laid out as the published script's.")] = False,
    out: Out = Path("ies-out"),
    as_json: JsonOption = False,
) -> None:
    """How much surrounding tissue a network needs; run it again after an interruption and it goes on."""
    from ies_helpers.cohort import select_lesions
    from ies_helpers.figures.charts import save_perilesional
    from ies_helpers.measures.context import ContextTable, wide_curves
    from ies_helpers.saliency.context import check_curve

    check_curve(by, fill)
    wanted, labels = wanted_lesions(lesions)
    words = subjects or [None]
    _check_subjects(words, files)
    table, without = ContextTable(out / "perilesional.csv"), []
    for word in words:
        subject, net, found = segment_subject(word, files, network, out, not as_json, labels)
        chosen, note = select_lesions(found, wanted)
        table.add(subject, net, chosen, fill=fill, by=by, progress=not as_json)  # pyright: ignore[reportArgumentType]
        without += [f"{subject.name}: {note}"] if note else []
    if len(without) == len(words):
        raise ValueError(" ".join(without))
    for note in without:
        warnings.warn(note, stacklevel=1)
    summary, medians = save_perilesional(out, table.curves)
    for (named, filled), part in table.curves.groupby(["network", "fill"]) if wide else ():  # pyright: ignore
        write_text(out / f"perilesional_wide_{named}_{filled}.csv", wide_curves(part).to_csv(index=False))
    lines = [made.round(1).to_string(index=False, na_rep="n/a") for made in (summary, medians)]
    made = "perilesional.csv, perilesional_summary.tsv, _medians.tsv and _average.tsv, figures/perilesional.png"
    data = {"lesions": rows_of(summary), "medians": rows_of(medians)}
    print_result([*lines, f"Written to {out}: {made}."], data, as_json)


def _check_subjects(words: Sequence[str | None], files: FileOptions) -> None:
    """Find every subject, and download it where it must be, before any is worked on; no two may have one name."""
    from ies_helpers.subjects.sources import find_subject, source_of

    found = {}
    for word in words:
        one = find_subject(word, **files.given())
        if found.setdefault(one.name, one) != one:
            raise ValueError(
                f"The subjects of a table must have different names, {word} is the second {one.name}; rename its "
                "files, as sub-01_ses-1_FLAIR.nii.gz, or take another --out."
            )
        if word:
            source_of(word).prepare(word)


NOTE = """\
Mean ± standard deviation (ddof 1) over maps; group `all` is every lesion; quartiles are in summary.csv. Arrows say
which end counts as better. Energy, focus, pointing and rank accuracy reward a map that looks like the lesion, whether
or not the network looked there; ROAD and deletion (`--faithfulness`) ask the network. A missed lesion's score is low
to begin with, so both are near zero for FN whatever the map: compare methods within a group. Peaks and focus have the
map's unit, so they are in summary.csv only.
"""

RANKED_NOTE = """\
Ranking on the lesions for which every method of a network has a value. Intervals: subjects drawn with replacement, then
their lesions; `first` is the share of draws in which a method is the best, or shares it.
"""


@with_options
def evaluate(
    folders: Folders,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Also ROAD and deletion, which ask the network: seconds a map.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="Of --faithfulness: as of explain; default: what the sidecars name.")
    ] = None,
    loading: LoadingOptions = LoadingOptions(),
    seed: Annotated[int, typer.Option(help="Of the intervals' draws, and of the shuffle and noise of ROAD.")] = 0,
    moved: Moved = None,
    out: Out = Path("ies-evaluation"),
    as_json: JsonOption = False,
) -> None:
    """Measure saved maps: each map, each method and group, a ranking with intervals, and figures of all."""
    from ies_helpers.arrays import check_seed
    from ies_helpers.measures.evaluation import headline

    check_seed(seed)
    named = {"network": network} | vars(loading)
    usual = vars(LoadingOptions()) | {"network": None, "device": loading.device}
    idle = ", ".join(f"--{option} {value}" for option, value in named.items() if value != usual[option])
    if idle and not faithfulness:
        raise ValueError(f"Only --faithfulness asks a network, got {idle} without it; add it, or leave them out.")
    asked = named if faithfulness else None
    maps, measures, summary, ranking = evaluate_folders(folders, out, asked, seed, not as_json, moved or ())
    lost = measures.loc[measures["value"].isna(), "reason"].value_counts()
    lacking = [f"{count} values do not exist: {why}." for why, count in lost.items()]
    made = f"{len(maps)} maps measured; {out} holds measures.csv, summary.csv, .md and .tex, ranking.csv and figures/."
    data = {"summary": rows_of(summary), "ranking": rows_of(ranking)}
    print_result([headline(summary).to_string(index=False), *lacking, made], data, as_json)


def evaluate_folders(
    folders: list[Path],
    out: Path,
    networks: dict[str, Any] | None,
    seed: int,
    progress: bool,
    moved: Sequence[str] = (),
) -> Any:
    """Measure all maps of folders and write tables and figures; `networks`, for faithfulness, as of `networks_of`."""
    from ies_helpers.figures import charts as draw
    from ies_helpers.figures.pages import save_figure
    from ies_helpers.measures import evaluation as judge
    from ies_helpers.subjects.folder import read_maps

    maps = read_maps(folders)
    asked = None if networks is None else judge.networks_of(maps, **networks)
    measures, curves = judge.evaluate_maps(maps, networks=asked, seed=seed, progress=progress, subjects=moved)
    summary, ranking = judge.summarise_measures(measures), judge.rank_methods(measures, seed=seed)
    for name, table in {"measures": measures, "summary": summary, "ranking": ranking, "curves": curves}.items():
        if len(table):
            write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    short, ranked = judge.headline(summary), judge.markdown(judge.standings(ranking))
    write_text(out / "summary.md", f"{NOTE}\n{judge.markdown(short)}\n{RANKED_NOTE}\n{ranked}")
    write_text(out / "summary.tex", judge.latex(short))
    figures = {"measures": draw.plot_measures(measures), "peaks": draw.plot_peaks(measures)}
    figures |= {"balance": draw.plot_balance(measures), "ranking": draw.plot_ranking(ranking)}
    figures |= {"curves": draw.plot_faithfulness(curves)} if len(curves) else {}
    for name, figure in figures.items():
        save_figure(figure, out / "figures" / f"{name}.png")
    return maps, measures, summary, ranking


@with_options
def refine(
    folders: Folders,
    keep: Annotated[
        float,
        typer.Option(help="Share of true lesions that shall stay, by which training subjects set thresholds."),
    ] = 0.95,
    permutations: Annotated[int, typer.Option(help="Of the test that features add nothing; 0 for none.")] = 199,
    seed: Annotated[int, typer.Option(help="Of the intervals' draws, and of the permutations.")] = 0,
    out: Out = Path("ies-refined"),
    as_json: JsonOption = False,
) -> None:
    """Tell false lesions from true ones by size, probability and their maps' features, and say what that is worth."""
    from ies_helpers.figures.charts import plot_refined
    from ies_helpers.figures.pages import save_figure
    from ies_helpers.measures.refine import FREE, check_refining, describe_features, read_lesions, refine
    from ies_helpers.subjects.folder import versions

    check_refining(keep, permutations, seed)
    table = read_lesions(folders, progress=not as_json)
    refined = refine(table, keep=keep, permutations=permutations, seed=seed)
    tables = {"judges": refined.judges, "lesions": refined.lesions, "used": refined.used, "weights": refined.weights}
    for name, each in tables.items():
        write_text(out / f"{name}.csv", each.to_csv(index=False, float_format="%.6g"))
    save_figure(plot_refined(refined), out / "figures" / "refined.png")
    told = {"keep": keep, "permutations": permutations, "seed": seed, "folders": [str(folder) for folder in folders]}
    told |= {"networks": dict(zip(table["subject"], table["network"], strict=True)), "gain": refined.gain}
    told |= {"gain_interval": refined.gain_interval, "p": refined.p, "notes": refined.notes}
    told |= {"free": [name for name in FREE if name in refined.curves], "features": describe_features(refined)}
    told |= {"command": shlex.join(["ies", *sys.argv[1:]]), "versions": versions()}
    write_text(out / "refined.json", json.dumps(_without_nan(told), indent=2) + "\n")
    made = f"{out} holds judges.csv, lesions.csv, used.csv, weights.csv, refined.json and figures/refined.png."
    shown = ["judge", "auc", "tp", "fp", "fn", "sensitivity", "ppv", "f1", "f1_gain", "f1_gain_low", "f1_gain_high"]
    lines = [refined.judges[shown].round(3).to_string(index=False, na_rep="n/a"), str(refined), made]
    print_result(lines, {"judges": rows_of(refined.judges)} | _without_nan(told), as_json)


def _without_nan(told: Any) -> Any:
    """Of words, numbers and lists, with None for NaN, which is no JSON."""
    if isinstance(told, dict):
        return {key: _without_nan(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [_without_nan(value) for value in told]
    return None if isinstance(told, float) and told != told else told


def cohort(
    config: Annotated[Path, typer.Argument(help="A TOML file: subjects, network, what to run, out; see chapter 12.")],
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one a GPU, without a GPU one, on a cluster all.")
    ] = None,
    dask: Annotated[str, typer.Option(help="Address or scheduler file of a Dask cluster.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Predict, explain and evaluate many subjects; run it again after an interruption and it goes on."""
    from ies_helpers.cohort import TABLE, find_workers, list_tasks, plan_cohort, read_config, run_cohort
    from ies_helpers.segmentation.formats import load_network
    from ies_helpers.subjects.folder import MAPS
    from ies_helpers.subjects.subject import SHIPPED

    asked = read_config(config)
    crew = find_workers(workers, threads=asked.threads, device=asked.network["device"], dask=dask)
    network = load_network(**asked.network)
    for request in asked.explain:
        request.recipe.view_of(network, len(network.channels or SHIPPED))
    planned = plan_cohort(asked, network, *list_tasks(asked, network), crew)
    if dry_run:
        print_result([str(planned)], planned.as_json(), as_json)
        return 0
    if not as_json:
        print(planned)
    table = run_cohort(asked, network, crew, progress=not as_json)
    if asked.evaluate is not None and any(asked.out.glob(f"sub-*/anat/{MAPS}")):
        networks = asked.network if asked.evaluate["faithfulness"] else None
        evaluate_folders([asked.out], asked.out / "evaluation", networks, asked.evaluate["seed"], not as_json)
    failed = table[table["status"] == "failed"]
    failures = [f"{row['subject']} failed at {row['step']}: {row['why']}" for _, row in failed.iterrows()]
    done = f"{len(table) - len(failed)} of {len(table)} subjects are done, see {asked.out / TABLE}."
    print_result([*failures, done], table, as_json)
    return 1 if len(failed) else 0


def view(
    folders: Folders,
    threshold: Annotated[
        float, typer.Option(help="Sheet and index hide values below this share of a map's peak.")
    ] = 0.2,
    moved: Moved = None,
) -> None:
    """Draw every map, three planes and a page for the browser, and all on one sheet and in one index.html."""
    from ies_helpers.figures.pages import check_threshold, draw_folder, draw_overview
    from ies_helpers.measures.evaluation import names_of
    from ies_helpers.subjects.folder import read_maps

    check_threshold(threshold)
    names_of(read_maps(folders))  # what cannot be shown together is refused before an hour of drawing
    for folder in folders:
        for path in draw_folder(folder, subjects=moved or ()):
            print(path)
    for path in draw_overview(folders, threshold=threshold, subjects=moved or ()):
        print(path)


@with_options
def report(
    files: FileOptions,
    network: NetworkOptions,
    recipe: Recipe,
    subject: SubjectArgument = None,
    lesions: LesionsOption = "all",
    out: Out = Path("ies-out"),
    as_json: JsonOption = False,
) -> None:
    """One page a patient, a section a lesion: where it lies, what the answer rests on, how firm it is."""
    from ies_helpers.figures.report import report as write_report
    from ies_helpers.subjects.sources import load_subject

    wanted, labels = wanted_lesions(lesions)
    how: Any = {"labels": labels, "recipe": recipe, "command": shlex.join(["ies", *sys.argv[1:]])}
    how |= {"progress": not as_json, "tell": None if as_json else print}
    made = write_report(load_subject(subject, **files.given()), network.load(), wanted, out, **how)
    table = made.table()
    shown = ["lesion", "group", "voxels", "zone", "probability", "dose", "doubt"]
    lines = [table[shown].round(2).to_string(index=False, na_rep="n/a"), f"Open {made.path} in a browser."]
    print_result(lines, table.replace([float("inf"), -float("inf")], float("nan")), as_json)


def doctor(as_json: JsonOption = False) -> int:
    """Say what is installed on what machine, and test it against plain autograd, in seconds; for reports of bugs."""
    from ies_helpers.doctor import examine

    lines = TextWrapper(110, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
    data: dict[str, Any] = {}
    wrong: list[str] = []
    for name, finding in examine():
        data[name] = dict(finding.data)
        wrong += [f"{name}: {sentence}." for sentence in finding.wrong]
        if not as_json:
            print(lines.fill(f"{name:10} {finding.said}"), flush=True)
    data |= {"passed": not wrong, "wrong": wrong}
    print_result([f"FAIL {sentence}" for sentence in wrong] or ["PASS"], _without_nan(data), as_json)
    return 1 if wrong else 0


COMMANDS = (demo, fetch, predict, explain, perilesional, uncertainty, evaluate, refine, cohort, view, report, doctor)
"""In the order of `ies --help`."""
