"""`ies perilesional`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ies_helpers.commands.options import (
    ArchitectureOption,
    DeviceOption,
    JsonOption,
    MergingOption,
    NetworkOption,
    Out,
    ThresholdOption,
    look,
    say,
)


def perilesional(
    subjects: Annotated[list[str], typer.Argument(help="demo, phantom:SEED, openms:patientNN or folders.")],
    network: NetworkOption = "unet",
    lesions: Annotated[str, typer.Option(help="As of explain; published: 91 to 119 voxels.")] = "TP:91-119",
    fill: Annotated[str, typer.Option(help="What hides tissue: zero (as published), mean or blurred.")] = "zero",
    by: Annotated[str, typer.Option(help="Dilations as steps (published), or true mm.")] = "steps",
    wide: Annotated[bool, typer.Option("--wide", help="Also tables laid out as the published script's.")] = False,
    out: Out = Path("ies-out"),
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """How much surrounding tissue a network needs; run it again after an interruption and it goes on."""
    from ies_helpers.figures.folder import save_figure
    from ies_helpers.figures.perilesional import plot_perilesional
    from ies_helpers.measures.context import ContextTable
    from ies_helpers.measures.perilesional import summarise_curves, wide_curves
    from ies_helpers.saliency.perilesional import check_curve
    from ies_helpers.segmentation.lesions import check_choice
    from ies_helpers.subjects.files import write_text
    from ies_helpers.subjects.saving import write_table

    check_curve(by, fill)
    check_choice(lesions)
    table = ContextTable(out / "perilesional.csv")
    for name in subjects:
        options: Any = (architecture, merging, threshold, device, not as_json)
        subject, net, found = look(name, network, out, None, None, None, *options)
        table.add(subject, net, found.select(lesions), fill=fill, by=by, progress=not as_json)  # pyright: ignore[reportArgumentType]
    summary = summarise_curves(table.curves)
    write_table(out / "perilesional_summary.tsv", summary)
    for (name, kind), part in table.curves.groupby(["network", "fill"]) if wide else ():  # pyright: ignore[reportGeneralTypeIssues]
        write_text(out / f"perilesional_wide_{name}_{kind}.csv", wide_curves(part).to_csv(index=False))
    save_figure(plot_perilesional(table.curves), out / "figures" / "perilesional.png")
    last = f"Written to {out}: perilesional.csv, perilesional_summary.tsv, figures/perilesional.png."
    say([summary.round(1).to_string(index=False), last], summary, as_json)
