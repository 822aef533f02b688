"""Every map of a folder as a picture and as a page in the browser."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ies_helpers.figures.html import saliency_html, save_html
from ies_helpers.figures.plots import plot_saliency
from ies_helpers.subjects.files import replacing
from ies_helpers.subjects.reading import SavedMap, Scans, read_maps


def draw_folder(folder: Path) -> Iterator[Path]:
    """Draw every map that `explain` left in `folder`: yields each PNG and HTML below `figures/` as it is written.

    Raises:
        FileNotFoundError: if the folder holds no maps, or a subject of theirs has moved.
        ValueError: if a file is damaged, a subject cannot be loaded again, or is another one now.
    """
    scans = Scans()
    for saved in read_maps(folder):
        subject = scans(saved)
        saliency, mask, _ = saved.load()
        title, picture = title_of(saved), picture_of(saved)
        figure = plot_saliency(subject, saliency, mask, title=title, unit=saved.record["unit"])
        yield save_figure(figure, picture)
        save_html(saliency_html(subject, saliency, mask, title=title), picture.with_suffix(".html"))
        yield picture.with_suffix(".html")


def picture_of(saved: SavedMap) -> Path:
    """Where the PNG of a map lies; its page is beside it."""
    return saved.folder / "figures" / f"{saved.stem}.png"


def title_of(saved: SavedMap) -> str:
    """`patient26, lesion 3 (TP, 107 voxels): smoothgrad max, 50 draws`."""
    how = " ".join(filter(None, (saved.record["method"], saved.record["aggregate"])))
    return f"{saved.title}: {how}" + (f", {saved.record['draws']} draws" if saved.record["draws"] else "")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG beside and rename it; the figure is closed."""
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    plt.close(figure)
    return path
