"""What the commands share: their options, how each begins, and how it speaks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

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
    from ies_helpers.segmentation.checkpoints import load_network
    from ies_helpers.segmentation.segment import segment
    from ies_helpers.subjects.loading import load_subject

    loaded = load_subject(subject, flair=flair, t1=t1, target=target)
    built = {"architecture": architecture, "merging": merging, "use_checkpoint": use_checkpoint}
    net = load_network(network, **built, threshold=threshold, device=device)  # pyright: ignore[reportArgumentType]
    if statistics == "frozen":
        frozen(net, len(loaded.image))  # refuses a network that cannot be, before it predicts
    return loaded, net, segment(loaded, net, out, progress=progress)


def say(lines: Sequence[str], data: Any, as_json: bool) -> None:
    """Print lines for a person, or the same as JSON."""
    if hasattr(data, "to_dict"):
        data = records(data)
    print(json.dumps(data, indent=2, default=str) if as_json else "\n".join(lines))


def records(table: Any) -> list[dict[str, Any]]:
    """Rows without NaN, which is no JSON."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
