"""`ies evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ies_helpers.commands.options import (
    ArchitectureOption,
    DeviceOption,
    JsonOption,
    MergingOption,
    Out,
    records,
    say,
)

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
    from ies_helpers.measures.tables import headline
    from ies_helpers.subjects.seeds import check_seed

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
    from ies_helpers.measures.evaluation import evaluate_maps, networks_of
    from ies_helpers.measures.ranking import rank_methods, summarise_measures
    from ies_helpers.subjects.reading import read_maps

    maps = read_maps(folders)
    asked = None if networks is None else networks_of(maps, **networks)
    measures, curves = evaluate_maps(maps, networks=asked, seed=seed, progress=progress)
    summary, ranking = summarise_measures(measures), rank_methods(measures, seed=seed)
    _write(out, measures, curves, summary, ranking)
    return maps, measures, summary, ranking


def _write(out: Path, measures: Any, curves: Any, summary: Any, ranking: Any) -> None:
    from ies_helpers.figures import evaluation as draw
    from ies_helpers.figures.folder import save_figure
    from ies_helpers.measures.tables import headline, latex, markdown, standings
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
