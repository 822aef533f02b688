"""What the commands share: their options, how each begins, and how it speaks."""

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ies_helpers.subjects.downloads import available
from ies_helpers.subjects.downloads import fetch as fetch_files

SubjectArgument = Annotated[
    str | None, typer.Argument(help="demo (the default), phantom:SEED, openms:patientNN or a folder with FLAIR and T1.")
]
File = Annotated[Path | None, typer.Option(help="A NIfTI file, instead of SUBJECT.")]
NetworkOption = Annotated[
    str,
    typer.Option(help="unet, nnunet, swin_unetr, published:unet or a file of weights (.safetensors, .pth, .tar.xz)."),
]
ArchitectureOption = Annotated[str | None, typer.Option(help="Of a file of weights: unet, nnunet or swin_unetr.")]
MergingOption = Annotated[
    str | None, typer.Option(help="Of a Swin UNETR's file: monai-0.9 (as published), monai-1.5 or mergingv2.")
]
ThresholdOption = Annotated[float | None, typer.Option(help="Lesion above this probability; default: the network's.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Out = Annotated[Path, typer.Option(help="Folder for what is made.")]


def look(
    subject: str | None,
    network: str,
    out: Path,
    flair: Path | None = None,
    t1: Path | None = None,
    target: Path | None = None,
    architecture: str | None = None,
    merging: str | None = None,
    threshold: float | None = None,
    device: str = "auto",
    progress: bool = True,
    use_checkpoint: bool = False,
    statistics: str = "exact",
) -> tuple[Any, Any, Any]:
    """Load, predict, number the lesions and write them: what every command begins with."""
    from ies_helpers.saliency.frozen import frozen
    from ies_helpers.segmentation.architectures import load_network
    from ies_helpers.segmentation.lesions import segment_into_folder
    from ies_helpers.subjects.sources import load_subject

    loaded = load_subject(subject, flair=flair, t1=t1, target=target)
    built = {"architecture": architecture, "merging": merging, "use_checkpoint": use_checkpoint}
    net = load_network(network, **built, threshold=threshold, device=device)  # pyright: ignore[reportArgumentType]
    if statistics == "frozen":
        frozen(net, len(loaded.image))  # refuses a network that cannot be, before it predicts
    return loaded, net, segment_into_folder(loaded, net, out, progress=progress)


def say(lines: Sequence[str], data: Any, as_json: bool) -> None:
    """Print lines for a person, or the same as JSON."""
    if hasattr(data, "to_dict"):
        data = records(data)
    print(json.dumps(data, indent=2, default=str) if as_json else "\n".join(lines))


def records(table: Any) -> list[dict[str, Any]]:
    """Rows without NaN, which is no JSON."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


# `ies fetch`.


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="What to download, as listed by --list.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what there is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download checkpoints, open patients and published tables, each verified."""
    if list_ or not names:
        rows = available()
        lines = [f"{r['name']:20} {'here' if r['cached'] else '-':5} {r['what']} ({r['licence']})" for r in rows]
        say(lines, rows, as_json)
        return
    got = {name: {kind: str(path) for kind, path in fetch_files(name).items()} for name in names}
    say([f"{name}: {kind} {path}" for name, files in got.items() for kind, path in files.items()], got, as_json)


# `ies demo`.


def demo(out: Out = Path("demo")) -> None:
    """Explain one true, one false and one missed lesion of the shipped synthetic patient."""
    from ies_helpers.figures.lesions import plot_lesions
    from ies_helpers.figures.pages import draw_folder, save_figure
    from ies_helpers.saliency.explain import explain as explain_lesions

    subject, network, lesions = look("demo", "unet", out, progress=False)
    print(f"{subject}\n{lesions}\n{lesions.table().round(2).to_string(index=False)}\n")
    chosen = [max(lesions.of(group), key=lambda le: (len(le) < 150, len(le))) for group in ("TP", "FP", "FN")]
    save_figure(plot_lesions(subject, lesions), out / "figures" / "lesions.png")
    for method, draws in (("smoothgrad", 8), ("gradcam++", 1)):
        explain_lesions(subject, network, chosen, out, method=method, draws=draws, progress=True, command="ies demo")
    pictures = [str(path) for path in draw_folder(out)]
    print(f"\nWhy did the network call this spot a lesion? Open {out / 'figures' / 'lesions.png'}, then:")
    print("\n".join(f"  {path}" for path in pictures))
    print(
        "\nGo on:  make lab                                 the chapters, in JupyterLab\n"
        "        ies explain demo --lesions TP --out mine   all true lesions, 50 draws\n"
        "        ies explain openms:patient26 --out mine    a real patient (downloads 8 MB)\n"
        "(from a checkout, ies is .venv/bin/ies)"
    )


# `ies predict`.


def predict(
    subject: SubjectArgument = None,
    network: NetworkOption = "unet",
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Segment a subject; write the probability, the numbered lesions and their table."""
    _, _, lesions = look(
        subject, network, out, flair, t1, target, architecture, merging, threshold, device, not as_json
    )
    table = lesions.table()
    say([repr(lesions), table.round(2).to_string(index=False), f"Written to {out}."], table, as_json)


# `ies explain`.

METHODS = (
    "smoothgrad, gradcam++, gradcam or gradient; for comparison input-x-gradient, integrated-gradients, occlusion or "
    "kernel-shap, of the lesion's mean logit."
)
CHOICE = "all, a group (TP, FP, FN, unknown), numbers as 3,7, voxels as size:90-120, or both as TP:90-120."
SEEN = {"whole": "whole", "windows": "through its windows"}
StatisticsOption = Annotated[str, typer.Option(help="exact, or frozen: approximate, for instance-norm networks.")]
BaselineOption = Annotated[
    str, typer.Option(help="zero, mean or blurred: what the last three methods compare the image with.")
]


def explain(
    subject: SubjectArgument = None,
    network: NetworkOption = "unet",
    method: Annotated[str, typer.Option(help=METHODS)] = "smoothgrad",
    aggregate: Annotated[str, typer.Option(help="max, mean or sum over the lesion's voxels.")] = "max",
    lesions: Annotated[str, typer.Option(help=CHOICE)] = "all",
    draws: Annotated[str, typer.Option(help="Noisy images (smoothgrad): a number, or auto, see chapter 04.")] = "50",
    noise: Annotated[float, typer.Option(help="Noise as a share of the FLAIR range (smoothgrad).")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the noise (smoothgrad).")] = 0,
    through: Annotated[str | None, typer.Option(help="Explain the network seen whole or through its windows.")] = None,
    statistics: StatisticsOption = "exact",
    baseline: BaselineOption = "zero",
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    use_checkpoint: Annotated[bool, typer.Option(help="Swin UNETR: less memory, more time.")] = False,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compute saliency maps of lesions; run it again after an interruption and it goes on."""
    from ies_helpers.saliency.explain import explain as explain_lesions
    from ies_helpers.saliency.methods import check_settings
    from ies_helpers.segmentation.lesions import check_choice

    wanted: Any = int(draws) if draws.isdecimal() else draws
    how: Any = {"seed": seed, "statistics": statistics, "baseline": baseline}
    check_settings(method, aggregate, wanted, noise, through=through, **how)
    check_choice(lesions)
    network_options = (architecture, merging, threshold, device, not as_json, use_checkpoint, statistics)
    loaded, net, numbered = look(subject, network, out, flair, t1, target, *network_options)
    if through:
        net = net.explained_through(through)  # pyright: ignore[reportArgumentType]
    chosen = numbered.select(lesions)
    if not as_json:
        print(_plan(loaded, net, chosen, method, aggregate, wanted, statistics))
    settings: Any = how | {"method": method, "aggregate": aggregate, "draws": wanted, "noise": noise}
    index = explain_lesions(
        loaded, net, chosen, out, **settings, progress=not as_json, command=shlex.join(["ies", *sys.argv[1:]])
    )
    _close(out, loaded.name, index, as_json)


def _close(out: Path, subject: str, index: Any, as_json: bool) -> None:
    """Put what the maps measure into the lesions' table, and say what there is."""
    from ies_helpers.measures.evaluation import add_measures

    add_measures(out, subject)
    table = out / f"sub-{subject}" / "lesions.tsv"
    held = f"{out} holds {len(index)} maps, listed in maps.tsv; {table} says what they measure."
    say([f"{held} See them: ies view {out}"], index, as_json)


def _plan(subject: Any, network: Any, lesions: Any, method: str, aggregate: Any, draws: Any, statistics: Any) -> str:
    """Two sentences: what is explained, how long it takes and how."""
    from ies_helpers.saliency.methods import OTHERS, estimate_other, estimate_seconds, in_words

    voxels, other = sum(map(len, lesions)), "windows" if network.through == "whole" else "whole"
    seen = f"{network.name} seen {SEEN[network.through]} (--through {other} otherwise)"
    many = f"{len(lesions)} lesions" if len(lesions) != 1 else "1 lesion"
    told = f"Explaining {many} of {subject.name}: {seen}.\n{voxels} lesion voxels"
    if method.startswith("gradcam"):
        return f"{told}, one forward pass a lesion."
    if method in OTHERS:
        seconds, passes = estimate_other(network, subject.image, lesions, method)
        return f"{told}, {passes}: about {in_words(seconds)}, less what is there already."
    draws = draws if method == "smoothgrad" else 1
    how = {"aggregate": aggregate, "draws": draws, "statistics": statistics}
    seconds, way = estimate_seconds(network, subject.image, lesions, **how)
    about = "at most" if draws == "auto" else "about"
    return f"{told} x {draws} draws by {way}: {about} {in_words(seconds)}, less what is there already."


# `ies perilesional`.


def perilesional(
    subjects: Annotated[
        list[str] | None, typer.Argument(help="demo, phantom:SEED, openms:patientNN or folders.")
    ] = None,
    network: NetworkOption = "unet",
    lesions: Annotated[str, typer.Option(help="As of explain; published: 91 to 119 voxels.")] = "TP:91-119",
    fill: Annotated[str, typer.Option(help="What hides tissue: zero (as published), mean or blurred.")] = "zero",
    by: Annotated[str, typer.Option(help="Dilations as steps (published), or true mm.")] = "steps",
    wide: Annotated[bool, typer.Option("--wide", help="Also tables laid out as the published script's.")] = False,
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """How much surrounding tissue a network needs; run it again after an interruption and it goes on."""
    from ies_helpers.figures.charts import save_perilesional
    from ies_helpers.measures.context import ContextTable
    from ies_helpers.saliency.context import check_curve
    from ies_helpers.segmentation.lesions import check_choice

    check_curve(by, fill)
    check_choice(lesions)
    names = _found(subjects, {"flair": flair, "t1": t1, "target": target})
    table = ContextTable(out / "perilesional.csv")
    options = (network, out, flair, t1, target, architecture, merging, threshold, device, not as_json)
    _compute(table, names, options, lesions, {"fill": fill, "by": by, "progress": not as_json})
    summary, medians = save_perilesional(out, table.curves)
    if wide:
        _write_wide(out, table.curves)
    told = [made.round(1).to_string(index=False, na_rep="n/a") for made in (summary, medians)]
    files = "perilesional.csv, perilesional_summary.tsv, _medians.tsv and _average.tsv, figures/perilesional.png"
    data = {"lesions": records(summary), "medians": records(medians)}
    say([*told, f"Written to {out}: {files}."], data, as_json)


def _found(subjects: list[str] | None, files: dict[str, Path | None]) -> list[str | None]:
    """The names of the subjects, all of them checked, and downloaded where they must be, before any is worked on."""
    from ies_helpers.subjects.downloads import fetch
    from ies_helpers.subjects.sources import find_subject

    given = {key: str(path) for key, path in files.items() if path}
    found = {}
    for name in subjects or [None]:
        one = find_subject(name, **given)
        if found.setdefault(one.name, one) != one:
            raise ValueError(
                f"The subjects of a table must have different names, {name} is the second {one.name}; rename its "
                "files, as sub-01_ses-1_FLAIR.nii.gz, or take another --out."
            )
        if name and name.startswith("openms:"):
            fetch(name)
    return list(subjects or [None])


def _compute(table: Any, names: list[str | None], options: tuple[Any, ...], lesions: str, how: dict[str, Any]) -> None:
    """The curves of each subject's lesions; one without such a lesion is noted, none with one is refused."""
    from ies_helpers.cohort import chosen_of

    without: list[str] = []
    for name in names:
        subject, net, found = look(name, *options)
        notes: list[str] = []
        table.add(subject, net, chosen_of(found, lesions, notes), **how)
        without += [f"{subject.name}: {note}" for note in notes]
    if len(without) == len(names):
        raise ValueError(" ".join(without))
    for note in without:
        warnings.warn(note, stacklevel=1)


def _write_wide(out: Path, curves: Any) -> None:
    from ies_helpers.measures.context import wide_curves
    from ies_helpers.subjects.files import write_text

    for (network, fill), part in curves.groupby(["network", "fill"]):
        write_text(out / f"perilesional_wide_{network}_{fill}.csv", wide_curves(part).to_csv(index=False))


# `ies evaluate`.

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


def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `ies explain` wrote.")],
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Also ROAD and deletion, which ask the network: seconds a map.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="Of --faithfulness: a file of weights; default: what the sidecars name.")
    ] = None,
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Of the intervals' draws, and of the shuffle and noise of ROAD.")] = 0,
    out: Out = Path("ies-evaluation"),
    as_json: JsonOption = False,
) -> None:
    """Measure saved maps: each map, each method and group, a ranking with intervals, and figures of all."""
    from ies_helpers.arrays import check_seed
    from ies_helpers.measures.evaluation import headline

    check_seed(seed)
    named = {"network": network, "architecture": architecture, "merging": merging}
    told = ", ".join(f"--{option} {value}" for option, value in named.items() if value)
    if told and not faithfulness:
        raise ValueError(f"Only --faithfulness asks a network, got {told} without it; add it, or leave them out.")
    built = named | {"device": device}
    maps, measures, summary, ranking = measure(folders, out, built if faithfulness else None, seed, not as_json)
    lost = measures.loc[measures["value"].isna(), "reason"].value_counts()
    told = [f"{count} values do not exist: {why}." for why, count in lost.items()]
    made = f"{len(maps)} maps measured; {out} holds measures.csv, summary.csv, .md and .tex, ranking.csv and figures/."
    data = {"summary": records(summary), "ranking": records(ranking)}
    say([headline(summary).to_string(index=False), *told, made], data, as_json)


def measure(folders: list[Path], out: Path, networks: dict[str, Any] | None, seed: int, progress: bool) -> Any:
    """Measure all maps of folders and write tables and figures; `networks`, for faithfulness, as of `networks_of`."""
    from ies_helpers.measures.evaluation import evaluate_maps, networks_of, rank_methods, summarise_measures
    from ies_helpers.subjects.folder import read_maps

    maps = read_maps(folders)
    asked = None if networks is None else networks_of(maps, **networks)
    measures, curves = evaluate_maps(maps, networks=asked, seed=seed, progress=progress)
    summary, ranking = summarise_measures(measures), rank_methods(measures, seed=seed)
    _write(out, measures, curves, summary, ranking)
    return maps, measures, summary, ranking


def _write(out: Path, measures: Any, curves: Any, summary: Any, ranking: Any) -> None:
    from ies_helpers.figures import charts as draw
    from ies_helpers.figures.pages import save_figure
    from ies_helpers.measures.evaluation import headline, latex, markdown, standings
    from ies_helpers.subjects.files import write_text

    tables = {"measures": measures, "summary": summary, "ranking": ranking, "curves": curves}
    for name, table in tables.items():
        if len(table):
            write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    short = headline(summary)
    write_text(out / "summary.md", f"{NOTE}\n{markdown(short)}\n{RANKED_NOTE}\n{markdown(standings(ranking))}")
    write_text(out / "summary.tex", latex(short))
    figures = {"measures": draw.plot_measures(measures), "peaks": draw.plot_peaks(measures)}
    figures |= {"balance": draw.plot_balance(measures), "ranking": draw.plot_ranking(ranking)}
    figures |= {"curves": draw.plot_faithfulness(curves)} if len(curves) else {}
    for name, figure in figures.items():
        save_figure(figure, out / "figures" / f"{name}.png")


# `ies cohort`.


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
    from ies_helpers.cohort import TABLE, hire, plan, read_config, run_cohort, tasks_of
    from ies_helpers.saliency.frozen import frozen
    from ies_helpers.segmentation.architectures import load_network
    from ies_helpers.subjects.folder import MAPS
    from ies_helpers.subjects.subject import SHIPPED

    asked = read_config(config)
    crew = hire(workers, threads=asked.threads, device=asked.network["device"], dask=dask)
    network = load_network(**asked.network)
    if any(run["statistics"] == "frozen" for run in asked.explain):
        frozen(network, len(SHIPPED))  # refuses a network that cannot be
    planned = plan(asked, network, *tasks_of(asked, network), crew)
    if dry_run:
        say([str(planned)], planned.as_json(), as_json)
        return 0
    if not as_json:
        print(planned)
    table = run_cohort(asked, network, crew, progress=not as_json)
    if asked.evaluate is not None and any(asked.out.glob(f"sub-*/anat/{MAPS}")):
        networks = asked.network if asked.evaluate["faithfulness"] else None
        measure([asked.out], asked.out / "evaluation", networks, asked.evaluate["seed"], not as_json)
    failed = table[table["status"] == "failed"]
    told = [f"{row['subject']} failed at {row['step']}: {row['why']}" for _, row in failed.iterrows()]
    done = f"{len(table) - len(failed)} of {len(table)} subjects are done, see {asked.out / TABLE}."
    say([*told, done], table, as_json)
    return 1 if len(failed) else 0


# `ies view`.


def view(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `ies explain` wrote.")],
    threshold: Annotated[
        float, typer.Option(help="Sheet and index hide values below this share of a map's peak.")
    ] = 0.2,
) -> None:
    """Draw every map, three planes and a page for the browser, and all on one sheet and in one index.html."""
    from ies_helpers.figures.pages import check_threshold, draw_folder, draw_overview
    from ies_helpers.measures.evaluation import names_of
    from ies_helpers.subjects.folder import read_maps

    check_threshold(threshold)
    names_of(read_maps(folders))  # what cannot be shown together is told before an hour of drawing
    for folder in folders:
        for path in draw_folder(folder):
            print(path)
    for path in draw_overview(folders, threshold=threshold):
        print(path)
