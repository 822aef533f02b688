"""`ies cohort`."""

from pathlib import Path
from typing import Annotated

import typer

from ies_helpers.commands.evaluate import measure
from ies_helpers.commands.options import JsonOption, say


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
    from ies_helpers.cohort.config import read_config
    from ies_helpers.cohort.plan import plan
    from ies_helpers.cohort.run import TABLE, hire, run_cohort, tasks_of
    from ies_helpers.saliency.frozen import frozen
    from ies_helpers.segmentation.checkpoints import load_network
    from ies_helpers.subjects.saving import MAPS
    from ies_helpers.subjects.subject import MODALITIES

    asked = read_config(config)
    crew = hire(workers, threads=asked.threads, device=asked.network["device"], dask=dask)
    network = load_network(**asked.network)
    if any(run["statistics"] == "frozen" for run in asked.explain):
        frozen(network, len(MODALITIES))  # refuses a network that cannot be
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
