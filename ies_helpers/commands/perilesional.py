"""`ies perilesional`."""

import warnings
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
    ThresholdOption,
    look,
    records,
    say,
)


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
    from ies_helpers.figures.perilesional import save_perilesional
    from ies_helpers.measures.context import ContextTable
    from ies_helpers.saliency.perilesional import check_curve
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
    from ies_helpers.subjects.finding import find_subject

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
    from ies_helpers.cohort.work import chosen_of

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
    from ies_helpers.measures.perilesional import wide_curves
    from ies_helpers.subjects.files import write_text

    for (network, fill), part in curves.groupby(["network", "fill"]):
        write_text(out / f"perilesional_wide_{network}_{fill}.csv", wide_curves(part).to_csv(index=False))
