"""`ies view`."""

from pathlib import Path
from typing import Annotated

import typer


def view(folder: Annotated[Path, typer.Argument(help="A folder that `ies explain` wrote.")]) -> None:
    """Draw every map of a folder: a PNG of three planes, and a page for the browser."""
    from ies_helpers.figures.folder import draw_folder

    for path in draw_folder(folder):
        print(path)
