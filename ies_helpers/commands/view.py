"""`ies view`."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `ies explain` wrote.")],
    threshold: Annotated[
        float, typer.Option(help="Sheet and index hide values below this share of a map's peak.")
    ] = 0.2,
) -> None:
    """Draw every map, three planes and a page for the browser, and all on one sheet and in one index.html."""
    from ies_helpers.figures.browser import draw_overview
    from ies_helpers.figures.folder import draw_folder
    from ies_helpers.figures.sheet import check_threshold
    from ies_helpers.measures.evaluation import names_of
    from ies_helpers.subjects.reading import read_maps

    check_threshold(threshold)
    names_of(read_maps(folders))  # what cannot be shown together is told before an hour of drawing
    for folder in folders:
        for path in draw_folder(folder):
            print(path)
    for path in draw_overview(folders, threshold=threshold):
        print(path)
