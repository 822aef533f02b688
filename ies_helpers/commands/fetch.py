"""`ies fetch`."""

from typing import Annotated

import typer

from ies_helpers.commands.options import JsonOption, say
from ies_helpers.subjects.downloads import available
from ies_helpers.subjects.downloads import fetch as fetch_files


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
