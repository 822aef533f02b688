"""One page to look through all maps: a table with pictures that loads nothing, on a phone too."""

import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from nibabel.affines import apply_affine, from_matvec

from ies_helpers.arrays import LabelMap, Saliency, Voxels, as_voxels
from ies_helpers.figures.lesions import plot_saliency
from ies_helpers.figures.slices import (
    GROUP_COLOURS,
    SIGNED,
    STROKE,
    Canonical,
    busiest,
    check_map,
    outline,
    overlay,
    plane_of,
    square,
    zoom,
)
from ies_helpers.measures.evaluation import names_of
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.files import replacing, write_text
from ies_helpers.subjects.folder import SavedMap, Scans, read_maps
from ies_helpers.subjects.nifti import save_image
from ies_helpers.subjects.subject import Subject

# A map in a browser: nilearn's three linked planes in one self-contained file.

if TYPE_CHECKING:
    from nilearn.plotting.html_stat_map import StatMapView

PAGE_REACH_MM = 30.0
"""How far around the lesion the page shows the image; keeps it under 3 MB."""


def saliency_html(
    subject: Subject,
    saliency: Saliency,
    lesion: Lesion | LabelMap | Voxels,
    *,
    modality: str = "flair",
    threshold: float = 0.05,
    title: str | None = None,
) -> "StatMapView":
    """The map of one modality over its image, around the lesion, for a notebook or a file.

    Args:
        subject: gives the image.
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all modalities.
        lesion: what is explained.
        modality: which channel.
        threshold: values below this share of the largest are see-through.
        title: shown above.

    Raises:
        ValueError: for a modality that the subject does not have, or a map on another grid or with NaN.
    """
    from nilearn.plotting import view_img  # takes a second

    if modality not in subject.channels:
        raise ValueError(f"modality must be one of {', '.join(subject.channels)}, got {modality!r}.")
    check_map(saliency, subject)
    channel = subject.channels.index(modality)
    values = saliency[min(channel, len(saliency) - 1)].numpy()
    voxels = as_voxels(lesion, subject.shape)
    reach = np.ceil(PAGE_REACH_MM / np.asarray(subject.spacing)).astype(int)
    low = np.maximum(0, voxels.min(axis=0) - reach)
    high = np.minimum(subject.shape, voxels.max(axis=0) + reach + 1)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = subject.affine @ from_matvec(np.eye(3), low)
    overlay = nibabel.Nifti1Image(values[box].astype(np.float32), affine)
    background = nibabel.Nifti1Image(subject.image[channel].numpy()[box].astype(np.float32), affine)
    top = float(np.abs(values).max())
    centre = apply_affine(subject.affine, voxels.mean(axis=0))
    return view_img(
        overlay,
        bg_img=background,
        threshold=threshold * top if top else None,
        vmax=top or 1.0,
        symmetric_cmap=True,
        cmap=SIGNED,
        cut_coords=tuple(centre),
        black_bg=True,
        colorbar=True,
        resampling_interpolation="nearest",
        title=title,
    )


def save_html(view: "StatMapView", path: Path) -> None:
    """Write a page that fills the window and asks the network for nothing, beside and renamed.

    `save_as_html` would put a small frame around it, and nilearn's template links its icon on the web.
    """
    write_text(path, re.sub(r"""<link\b[^>]*\bhref=["']https?:[^>]*>""", "", view.html))


# Every map of a folder as a picture and as a page in the browser.


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


# A contact sheet: every map as one tile, so that the odd one out is seen.

PLANE = "axial"

THRESHOLD = 0.2
"""Share of a map's peak below which a tile does not show it."""

SHEET_REACH_MM = 15.0
"""How far around a lesion a tile shows."""

ACROSS, DOWN = 6, 8
"""Tiles of a page."""

PIXELS = 240
"""Across a tile as a picture of its own."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice of one map.

    Attributes:
        saved: the map.
        network, method: as `names_of` calls them.
        grey: slice of FLAIR `(rows, columns)`, 0 to 1.
        values: slice of the map with respect to FLAIR (or to all modalities), in its own unit.
        mask: slice of the lesion.
        peak: the value of largest magnitude in the whole map, with its sign.
        frame: `(3, 2)` what to show, in voxels of the display order.
        aspect: height over width of a pixel.
    """

    saved: SavedMap
    network: str
    method: str
    grey: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    peak: float
    frame: np.ndarray
    aspect: float

    @property
    def told(self) -> str:
        """The peak and its unit, in words."""
        return f"peak {self.peak:+.3g} {self.saved.record['unit']}" if self.peak else "zero everywhere"


def tiles_of(maps: Sequence[SavedMap]) -> Iterator[Tile]:
    """One tile a map: the axial slice that holds most of the lesion."""
    scans, spaces = Scans(), {}
    for saved, (network, method) in zip(maps, names_of(maps), strict=True):
        subject = scans(saved)
        if subject not in spaces:
            flair = subject.image[0].numpy()
            spaces = {subject: (Canonical(subject), np.percentile(flair[flair != 0], [1, 99.7]))}
        space, (low, high) = spaces[subject]
        saliency, lesion, _ = saved.load()
        turned, mask = space.turn(saliency[0].numpy()), space.turn(lesion.numpy())
        index = busiest(mask)[2]
        image = plane_of(space.image[0], PLANE, index)
        grey = np.where(image == 0, 0, np.clip((image - low) / (high - low), 0, 1))
        where = np.unravel_index(np.abs(turned).argmax(), turned.shape)
        cuts = (plane_of(turned, PLANE, index), plane_of(mask, PLANE, index))
        frame = square(mask, SHEET_REACH_MM, space.spacing)
        yield Tile(saved, network, method, grey, *cuts, float(turned[where]), frame, space.aspect(PLANE))


def draw_sheets(tiles: Sequence[Tile], *, threshold: float = THRESHOLD) -> Iterator[Figure]:
    """Pages of tiles, a lesion's maps side by side in the same order; where one is missing the place is empty.

    Each tile has its own colours, symmetric about zero up to its own peak, which stands in it: compare shapes
    between tiles, and values by their numbers.

    Args:
        tiles: of `tiles_of`.
        threshold: values below this share of a map's peak are not shown.

    Raises:
        ValueError: for no tile, or a threshold that is no share.
    """
    check_threshold(threshold)
    if not tiles:
        raise ValueError("There must be a map to draw, got none.")
    ways = list(dict.fromkeys((tile.network, tile.method) for tile in tiles))
    placed = {(_lesion(tile), (tile.network, tile.method)): tile for tile in tiles}
    places = [placed.get((lesion, way)) for lesion in dict.fromkeys(map(_lesion, tiles)) for way in ways]
    across = len(ways) * max(1, ACROSS // len(ways))
    for start in range(0, len(places), across * DOWN):
        yield _page(places[start : start + across * DOWN], across, threshold, len({t.network for t in tiles}) > 1)


def check_threshold(threshold: float) -> None:
    """Refuse what is no share of a peak."""
    if not 0 <= threshold < 1:
        raise ValueError(f"A threshold is a share of the peak from 0 to below 1, got {threshold}.")


def picture(tile: Tile, *, threshold: float = THRESHOLD) -> bytes:
    """A tile as a JPEG of its own, without words."""
    figure = plt.figure(figsize=(2, 2), facecolor="black")
    _draw(figure.add_axes((0, 0, 1, 1)), tile, threshold)
    content = BytesIO()
    figure.savefig(content, format="jpeg", dpi=PIXELS / 2, pil_kwargs={"quality": 85, "subsampling": 0})
    plt.close(figure)
    return content.getvalue()


def _page(places: Sequence[Tile | None], across: int, threshold: float, several: bool) -> Figure:
    columns, rows = min(across, len(places)), -(-len(places) // across)
    size = (max(1.9 * columns, 5.5), 2.25 * rows + 1.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", facecolor="black")
    drawn = None
    for place, ax in enumerate(axes.ravel()):
        tile = places[place] if place < len(places) else None
        if tile is None:
            ax.set_axis_off()
            continue
        drawn = _draw(ax, tile, threshold)
        record = tile.saved.record
        way = f"{tile.network}, {tile.method}" if several else tile.method
        ax.set_title(
            f"{record['subject']} L{record['lesion']} ({record['group']})\n{way}",
            color=GROUP_COLOURS.get(record["group"], "white"),
            fontsize=8,
        )
        style = {"color": "white", "fontsize": 8, "path_effects": STROKE, "transform": ax.transAxes, "va": "top"}
        ax.text(0.03, 0.97, f"{tile.peak:+.3g}" if tile.peak else "zero everywhere", **style)
    assert drawn is not None  # a page has a lesion, and a lesion a map
    _bar(figure, drawn, axes.ravel().tolist(), [tile for tile in places if tile], threshold)
    figure.suptitle("Maps of FLAIR, axial; the patient's left is left", color="white", fontsize=11)
    return figure


def _draw(ax: Axes, tile: Tile, threshold: float) -> AxesImage:
    """FLAIR in grey, the map over it from -peak to peak, the lesion outlined in black and white."""
    ax.set_facecolor("black")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.imshow(tile.grey, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=tile.aspect)
    top = abs(tile.peak) or 1.0
    shown = np.where(np.abs(tile.values) >= threshold * top, tile.values, 0) / top
    drawn = overlay(ax, shown, 1.0, tile.aspect)
    outline(ax, tile.mask, "black", 2.0)
    outline(ax, tile.mask, "white", 0.9)
    zoom(ax, PLANE, tile.frame)
    return drawn


def _bar(figure: Figure, drawn: AxesImage, axes: list[Axes], tiles: Sequence[Tile], threshold: float) -> None:
    """One bar for all tiles, in shares of each one's peak, and the unit of the numbers in them."""
    units: dict[str, list[str]] = {}
    for tile in tiles:
        units.setdefault(tile.saved.record["unit"], []).append(tile.saved.record["method"])
    told = [f"{', '.join(dict.fromkeys(methods))} in {unit}" for unit, methods in units.items()]
    hidden = f"; below {threshold:.0%} not shown" if threshold else ""
    bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", fraction=0.02, pad=0.02, aspect=60)
    bar.ax.set_facecolor("0.4")
    shares = dict.fromkeys((-1.0, -threshold, 0.0, threshold, 1.0))
    bar.set_ticks(list(shares), labels=[f"{s:+.0%}" if s else "0" for s in shares])
    bar.ax.tick_params(colors="white", labelsize=8)
    bar.set_label(f"of each map's peak, the number in its tile{hidden}\n" + "\n".join(told), color="white", fontsize=8)


def _lesion(tile: Tile) -> tuple[str, str]:
    """What tells a lesion from others."""
    record = tile.saved.record
    return record["subject"], record.get("image") or str(record["lesion"])


FILTERS = ("subject", "network", "method", "group")
"""What the table can be narrowed by, where there is a choice."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif; }}
body {{ max-width: 62rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .5rem; }}
form {{ display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: 1rem 0; align-items: center; }}
select {{ font: inherit; max-width: 100%; padding: .3rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ text-align: left; }}
th, td {{ padding: .4rem .6rem; border-top: 1px solid #8886; vertical-align: middle; }}
img {{ display: block; width: 100%; max-width: {pixels}px; height: auto; background: #000; }}
td a {{ display: inline-block; padding: .25rem .6rem .25rem 0; }}
@media (max-width: 44rem) {{
  thead {{ display: none; }}
  tbody tr {{ display: grid; grid-template-columns: 8rem 1fr; column-gap: .8rem; padding: .6rem 0;
    border-top: 1px solid #8886; }}
  td {{ border: 0; padding: .05rem 0; overflow-wrap: anywhere; }}
  td:first-child {{ grid-row: 1 / span 6; }}
}}
tbody tr[hidden] {{ display: none; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{lead}</p>
<form hidden>{filters}<output></output></form>
<table>
<thead><tr><th>Map</th><th>Lesion</th><th>Group</th><th>Method</th><th>Peak</th><th>Look closer</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<script>
const form = document.querySelector("form"), rows = [...document.querySelectorAll("tbody tr")];
const choices = [...form.querySelectorAll("select")];
function choose() {{
  for (const row of rows)
    row.hidden = choices.some(c => c.value && c.value !== row.dataset[c.name]);
  form.querySelector("output").value = rows.filter(row => !row.hidden).length + " of " + rows.length + " maps";
}}
form.addEventListener("change", choose);
form.hidden = false;
choose();
</script>
</body>
</html>
"""


def draw_overview(folders: Sequence[Path], *, threshold: float = THRESHOLD) -> Iterator[Path]:
    """Draw all maps of folders together: yields contact sheets and `index.html`, in `figures/` of the first folder.

    Args:
        folders: that `explain` wrote; the index links what `draw_folder` draws of each.
        threshold: values below this share of a map's peak are not shown.

    Raises:
        FileNotFoundError: if a folder holds no maps, or a subject of theirs has moved.
        ValueError: for a threshold that is no share, two maps of one lesion made alike, or files that are damaged.
    """
    check_threshold(threshold)
    tiles = list(tiles_of(read_maps(folders)))
    out = Path(folders[0]) / "figures"
    for stale in out.glob("sheet*.png"):
        stale.unlink()
    sheets = []
    for n, figure in enumerate(draw_sheets(tiles, threshold=threshold), 1):
        sheets.append(save_figure(figure, out / ("sheet.png" if n == 1 else f"sheet-{n}.png")))
    yield from sheets
    write_text(out / "index.html", index_page(tiles, sheets, out, threshold=threshold))
    yield out / "index.html"


def index_page(tiles: Sequence[Tile], sheets: Sequence[Path], out: Path, *, threshold: float = THRESHOLD) -> str:
    """The page: a row a map, its picture inside the page, links to its PNG and page relative to the folder `out`."""
    subjects = {tile.saved.record["subject"] for tile in tiles}
    whose = ", ".join(sorted(subjects)) if len(subjects) < 4 else f"{len(subjects)} subjects"
    title = f"{len(tiles)} saliency maps of {whose}"
    links = " ".join(f'<a href="{_href(sheet, out)}">{sheet.name}</a>' for sheet in sheets)
    lead = (
        "Each picture is the axial FLAIR slice that holds most of a lesion, which is outlined, and the map over it: "
        "orange to red where it is positive, blue where it is negative (of a gradient: where a brighter voxel would "
        "raise the score of the lesion, or lower it). Colours reach to the peak of each map; "
        f"below {threshold:.0%} of it nothing is shown. All in one picture: {links}"
    )
    filters = "".join(map(_select, FILTERS, ([_data(tile)[name] for tile in tiles] for name in FILTERS)))
    rows = "\n".join(_row(tile, out, threshold) for tile in tiles)
    return PAGE.format(title=escape(title), lead=lead, filters=filters, rows=rows, pixels=PIXELS)


def _data(tile: Tile) -> dict[str, str]:
    """What a row can be chosen by."""
    record = tile.saved.record
    return {"subject": record["subject"], "network": tile.network, "method": tile.method, "group": record["group"]}


def _select(name: str, values: Sequence[str]) -> str:
    """A drop-down list; nothing where there is nothing to choose."""
    found = list(dict.fromkeys(values))
    if len(found) < 2:
        return ""
    options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in found)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _row(tile: Tile, out: Path, threshold: float) -> str:
    record = tile.saved.record
    data = "".join(f' data-{key}="{escape(value)}"' for key, value in _data(tile).items())
    how = f"{tile.network}, {tile.method}"
    alt = escape(f"FLAIR through {tile.saved.title}, outlined, with its map by {how}: {tile.told}")
    inside = b64encode(picture(tile, threshold=threshold)).decode()
    png = picture_of(tile.saved)
    cells = [
        f'<img src="data:image/jpeg;base64,{inside}" alt="{alt}" width="{PIXELS}" height="{PIXELS}" loading="lazy">',
        escape(f"{record['subject']}, lesion {record['lesion']}, {record['voxels']} voxels"),
        escape(record["group"]),
        escape(how),
        escape(tile.told),
        f'<a href="{_href(png.with_suffix(".html"), out)}">in the browser</a> '
        f'<a href="{_href(png, out)}">three planes</a>',
    ]
    return f"<tr{data}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _href(path: Path, out: Path) -> str:
    """A link from a page in `out`."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())


# A map over its scan in true 3D, to turn and to cut, in a notebook: the `niivue` extra.

SHARE = 0.2
"""Of the largest absolute value: what is weaker is not drawn, or it would hide the rest."""


def view_3d(subject: Subject, saliency: Saliency, *, modality: str = "flair", threshold: float = SHARE) -> Any:
    """An ipyniivue widget: the scan, and over it one modality's map, red where positive, blue where negative.

    Needs a running kernel, WebGL 2 in the browser, and `pip install 'ies-helpers[niivue]'`.

    Args:
        subject: gives the scan.
        saliency: `(C, I, J, K)`, one channel a modality, or `(1, I, J, K)` for a map of all modalities.
        modality: whose map and scan.
        threshold: share of the map's largest absolute value below which nothing is drawn.

    Raises:
        ModuleNotFoundError: ipyniivue is not installed.
        ValueError: for a modality that the subject does not have, a threshold outside 0 to 1, or a map of zeros, on
            another grid or with NaN.
    """
    if modality not in subject.channels or not 0 <= threshold < 1:
        raise ValueError(
            f"modality must be one of {', '.join(subject.channels)} and threshold in [0, 1), got {modality!r} and "
            f"{threshold}."
        )
    check_map(saliency, subject)
    channel = subject.channels.index(modality)
    values = saliency[min(channel, len(saliency) - 1)]
    peak = float(values.abs().max())
    if peak == 0:
        raise ValueError(f"The map of {modality} is zero everywhere, there is nothing to draw; choose another one.")
    try:
        from ipyniivue import NiiVue
    except ImportError as error:
        raise ModuleNotFoundError("view_3d needs ipyniivue: pip install 'ies-helpers[niivue]'.") from error
    folder = tempfile.TemporaryDirectory(prefix="ies-3d-")
    scan, drawn = Path(folder.name) / f"{modality}.nii.gz", Path(folder.name) / "map.nii.gz"
    save_image(scan, subject.image[channel].numpy(), subject)
    save_image(drawn, values.numpy(), subject)
    signed = {"colormap": "warm", "colormap_negative": "winter", "cal_min": threshold * peak, "cal_max": peak}
    signed |= {"cal_min_neg": -threshold * peak, "cal_max_neg": -peak, "opacity": 0.8}
    widget = NiiVue(height=420)
    widget.load_volumes([{"path": scan, "colormap": "gray"}, {"path": drawn, **signed}])
    vars(widget)["files"] = folder  # they live as long as the widget, which reads them when it is shown
    return widget
