"""The command line: `ies` and `python -m ies_helpers`, a thin layer over the functions of the package."""

import json
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ies_helpers.subjects.downloads import available, fetch

UsageError: Any = typer.BadParameter.__bases__[0]
"""Click's, or that of the copy of Click that newer Typer carries."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    help="Explain a lesion-segmentation network one lesion at a time.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

SubjectArgument = Annotated[
    str | None, typer.Argument(help="demo, phantom:SEED, openms:patientNN or a folder with FLAIR and T1.")
]
File = Annotated[Path | None, typer.Option(help="A NIfTI file, instead of SUBJECT.")]
NetworkOption = Annotated[str, typer.Option(help="unet, published:unet or a file of weights.")]
ArchitectureOption = Annotated[str | None, typer.Option(help="Of a file of weights: unet, nnunet or swin_unetr.")]
ThresholdOption = Annotated[float | None, typer.Option(help="Lesion above this probability; default: the network's.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Out = Annotated[Path, typer.Option(help="Folder for what is made.")]


@app.command("fetch")
def fetch_command(
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
    got = {name: {kind: str(path) for kind, path in fetch(name).items()} for name in names}
    say([f"{name}: {kind} {path}" for name, files in got.items() for kind, path in files.items()], got, as_json)


@app.command()
def predict(
    subject: SubjectArgument = None,
    network: NetworkOption = "unet",
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Segment a subject; write the probability, the numbered lesions and their table."""
    _, _, lesions = _look(subject, network, out, flair, t1, target, architecture, threshold, device, not as_json)
    table = lesions.table()
    say([repr(lesions), table.to_string(index=False), f"Written to {out}."], table, as_json)


@app.command()
def explain(
    subject: SubjectArgument = None,
    network: NetworkOption = "unet",
    method: Annotated[str, typer.Option(help="smoothgrad, gradcam++, gradcam or gradient.")] = "smoothgrad",
    aggregate: Annotated[str, typer.Option(help="max, mean or sum over the lesion's voxels.")] = "max",
    lesions: Annotated[str, typer.Option(help="all, TP, FP, FN, numbers as 3,7, or voxels as size:90-120.")] = "all",
    draws: Annotated[int, typer.Option(help="Noisy images (smoothgrad).")] = 50,
    noise: Annotated[float, typer.Option(help="Noise as a share of the FLAIR range (smoothgrad).")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the noise (smoothgrad).")] = 0,
    through: Annotated[str | None, typer.Option(help="Explain the network seen whole or through its windows.")] = None,
    statistics: Annotated[
        str, typer.Option(help="exact, or frozen: approximate, for instance-norm networks.")
    ] = "exact",
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compute saliency maps of lesions; run it again after an interruption and it goes on."""
    from ies_helpers.saliency.explain import check_settings
    from ies_helpers.saliency.explain import explain as explain_lesions
    from ies_helpers.segmentation.lesions import check_choice

    check_settings(method, aggregate, draws, noise, through, seed)
    check_choice(lesions)
    found = _look(subject, network, out, flair, t1, target, architecture, threshold, device, not as_json)
    loaded, net, numbered = found
    if through:
        net = net.explained_through(through)  # pyright: ignore[reportArgumentType]
    chosen = numbered.select(lesions)
    other = "windows" if net.through == "whole" else "whole"
    if not as_json:
        seen = f"{net.name} seen {net.through} (--through {other} otherwise)"
        print(f"Explaining {len(chosen)} lesions of {loaded.name}: {seen}.")
        print(_plan(loaded, net, chosen, method, aggregate, draws, statistics))
    settings: dict[str, Any] = {"method": method, "aggregate": aggregate, "draws": draws, "noise": noise, "seed": seed}
    settings["statistics"] = statistics
    command = shlex.join(["ies", *sys.argv[1:]])
    index = explain_lesions(loaded, net, chosen, out, **settings, progress=not as_json, command=command)
    say([f"{out} holds {len(index)} maps, listed in {out / 'maps.tsv'}. See them: ies view {out}"], index, as_json)


def _plan(subject: Any, network: Any, lesions: Any, method: str, aggregate: Any, draws: int, statistics: Any) -> str:
    """One sentence: how long at most, and how."""
    from ies_helpers.saliency.estimate import estimate_seconds, in_words

    voxels = sum(map(len, lesions))
    if method.startswith("gradcam"):
        return f"{voxels} lesion voxels, one forward pass a lesion."
    draws = draws if method == "smoothgrad" else 1
    how = {"aggregate": aggregate, "draws": draws, "statistics": statistics}
    seconds, way = estimate_seconds(network, subject.image, lesions, **how)
    return f"{voxels} lesion voxels x {draws} draws by {way}: about {in_words(seconds)}, less what is there already."


@app.command()
def view(folder: Annotated[Path, typer.Argument(help="A folder that `ies explain` wrote.")]) -> None:
    """Draw every map of a folder: a PNG of three planes, and a page for the browser."""
    from ies_helpers.figures.folder import draw_folder

    for path in draw_folder(folder):
        print(path)


@app.command()
def demo(out: Out = Path("demo")) -> None:
    """Explain one true, one false and one missed lesion of the shipped synthetic patient."""
    from ies_helpers.figures.folder import draw_folder, save_figure
    from ies_helpers.figures.plots import plot_lesions
    from ies_helpers.saliency.explain import explain as explain_lesions

    subject, network, lesions = _look("demo", "unet", out, progress=False)
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


def _look(
    subject: str | None,
    network: str,
    out: Path,
    flair: Path | None = None,
    t1: Path | None = None,
    target: Path | None = None,
    architecture: str | None = None,
    threshold: float | None = None,
    device: str = "auto",
    progress: bool = True,
) -> tuple[Any, Any, Any]:
    """Load, predict, number the lesions and write them: what every command begins with."""
    from ies_helpers.segmentation.checkpoints import load_network
    from ies_helpers.segmentation.inference import check_window
    from ies_helpers.segmentation.inference import predict as predict_lesions
    from ies_helpers.segmentation.lesions import find_lesions
    from ies_helpers.subjects.loading import load_subject
    from ies_helpers.subjects.saving import open_derivative, save_lesions, write_table

    loaded = load_subject(subject, flair=flair, t1=t1, target=target)
    net = load_network(network, architecture=architecture, threshold=threshold, device=device)
    check_window(net, loaded.shape, net.window)
    open_derivative(out)
    probability = predict_lesions(net, loaded.image, progress=progress)
    lesions = find_lesions(probability, loaded.target, threshold=net.threshold, affine=loaded.affine)
    groups = {lesion.group for lesion in lesions}
    save_lesions(out, loaded, probability, {g: lesions.label_map(loaded.shape, g) for g in groups})
    write_table(out / f"sub-{loaded.name}" / "lesions.tsv", lesions.table())
    return loaded, net, lesions


def say(lines: Sequence[str], data: Any, as_json: bool) -> None:
    """Print lines for a person, or the same as JSON."""
    if hasattr(data, "to_dict"):
        data = data.astype(object).where(data.notna(), None).to_dict("records")
    print(json.dumps(data, indent=2, default=str) if as_json else "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a mistake ends with one sentence on stderr and exit code 2."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"Note: {message}", file=sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(lambda: app(args=given or ["--help"], standalone_mode=False))


def _guarded(run: Callable[[], Any]) -> int:
    try:
        code = run() or 0
    except UsageError as error:
        return _fail(error.format_message(), 2)
    except KeyError as error:
        return _fail(str(error.args[0]), 2)
    except OSError as error:
        return _fail(f"{error.filename} cannot be used, {error.strerror}." if error.filename else str(error), 2)
    except ValueError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort) as error:  # Typer takes the end of a damaged file for Ctrl-D
        if isinstance(error.__cause__, EOFError):
            return _fail(f"a file ends too early ({error.__cause__}); make it anew.", 2)
        code = INTERRUPTED
    if code == INTERRUPTED:  # newer Typer returns it
        return _fail("interrupted; run the same command again and it goes on where it was.", code)
    return code


def _fail(message: str, code: int) -> int:
    print(f"ies: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
