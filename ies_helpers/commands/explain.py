"""`ies explain`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ies_helpers.commands.options import (
    ArchitectureOption,
    DeviceOption,
    File,
    JsonOption,
    MergingOption,
    NetworkOption,
    Out,
    SubjectArgument,
    ThresholdOption,
    look,
    say,
)

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
    from ies_helpers.saliency.settings import check_settings
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
    from ies_helpers.measures.columns import add_measures

    add_measures(out, subject)
    table = out / f"sub-{subject}" / "lesions.tsv"
    held = f"{out} holds {len(index)} maps, listed in maps.tsv; {table} says what they measure."
    say([f"{held} See them: ies view {out}"], index, as_json)


def _plan(subject: Any, network: Any, lesions: Any, method: str, aggregate: Any, draws: Any, statistics: Any) -> str:
    """Two sentences: what is explained, how long it takes and how."""
    from ies_helpers.saliency.comparison import OTHERS, estimate_other
    from ies_helpers.saliency.estimate import estimate_seconds, in_words

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
