"""Pictures and pages of maps: one map in a browser or in 3D, each of a folder, and all of them on one page.

Nothing written here loads anything from elsewhere: pages can be read without a network, and sent by mail.
"""

import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib.resources import files
from io import BytesIO
from itertools import product, zip_longest
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from nibabel.affines import apply_affine, from_matvec

from ies_helpers.arrays import Box, LesionLike, Saliency, as_voxels
from ies_helpers.figures.lesions import plot_saliency
from ies_helpers.figures.slices import (
    CLOSE_UP_MM,
    DARK_RIM,
    GROUP_COLOURS,
    SIGNED,
    Canonical,
    busiest,
    channel_index,
    channel_map,
    cut_plane,
    draw_outline,
    paint,
    peak_of,
    show_painted,
    symmetric,
    zoom,
)
from ies_helpers.measures.evaluation import names_of
from ies_helpers.subjects.files import replacing, write_text
from ies_helpers.subjects.folder import SavedMap, Scans, read_maps
from ies_helpers.subjects.nifti import save_image
from ies_helpers.subjects.subject import Subject

if TYPE_CHECKING:
    from nilearn.plotting.html_stat_map import StatMapView

# One map: three linked planes of nilearn in one file, or a volume to turn and to cut (the `niivue` extra).

FAINT = 0.2  # share of a map's peak below which 3D and tiles do not show it
PAGE_REACH_MM = 30.0  # how far around the lesion a page shows the image; keeps it under 3 MB


def saliency_html(
    subject: Subject,
    saliency: Saliency,
    lesion: LesionLike,
    *,
    modality: str | None = None,
    threshold: float = 0.05,
    title: str | None = None,
) -> "StatMapView":
    """The map of one channel over its image, around the lesion, for a notebook or a file.

    Args:
        saliency: `(C, I, J, K)`, or `(1, I, J, K)` for a map of all channels.
        modality: which channel; None is the first.
        threshold: values below this share of the largest are see-through.
    """
    from nilearn.plotting import view_img  # takes a second

    channel = channel_index(subject, modality, "modality")
    values, voxels = channel_map(subject, saliency, channel), as_voxels(lesion, subject.shape)
    box = Box.around(voxels).grow(np.ceil(PAGE_REACH_MM / np.asarray(subject.spacing)).astype(int), subject.shape)
    affine, top = subject.affine @ from_matvec(np.eye(3), box.start), float(np.abs(values).max())
    scan = subject.image[channel].numpy()
    over, below = (nibabel.Nifti1Image(v[box].astype(np.float32), affine) for v in (values, scan))
    look: Any = {"cmap": SIGNED, "symmetric_cmap": True, "vmax": top or 1.0, "colorbar": True, "black_bg": True}
    look |= {"threshold": threshold * top if top else None, "resampling_interpolation": "nearest", "title": title}
    return view_img(over, bg_img=below, cut_coords=tuple(apply_affine(subject.affine, voxels.mean(axis=0))), **look)


def save_html(view: "StatMapView", path: Path) -> None:
    """Write a page that fills the window and asks the network for nothing, beside and renamed.

    `save_as_html` would put a small frame around it, and nilearn's template links its icon on the web.
    """
    write_text(path, re.sub(r"""<link\b[^>]*\bhref=["']https?:[^>]*>""", "", view.html))


def view_3d(subject: Subject, saliency: Saliency, *, modality: str | None = None, threshold: float = FAINT) -> Any:
    """An ipyniivue widget: the scan, and over it one channel's map, red where positive, blue where negative.

    Needs a running kernel, WebGL 2 in the browser, and `pip install 'ies-helpers[niivue]'`. Below the share `threshold`
    of the map's largest absolute value nothing is drawn, or it would hide the rest. See `saliency_html`.
    """
    channel = channel_index(subject, modality, "modality")
    check_threshold(threshold)
    values = channel_map(subject, saliency, channel)
    peak = float(np.abs(values).max())
    if peak == 0:
        what = f"The map of {subject.channels[channel]} is zero everywhere"
        raise ValueError(f"{what}, there is nothing to draw; choose another one.")
    try:
        from ipyniivue import NiiVue
    except ImportError as error:
        raise ModuleNotFoundError("view_3d needs ipyniivue: pip install 'ies-helpers[niivue]'.") from error
    folder = tempfile.TemporaryDirectory(prefix="ies-3d-")
    scan, drawn = Path(folder.name) / "scan.nii.gz", Path(folder.name) / "map.nii.gz"
    save_image(scan, subject.image[channel].numpy(), subject)
    save_image(drawn, values, subject)
    signed = {"colormap": "warm", "colormap_negative": "winter", "cal_min": threshold * peak, "cal_max": peak}
    signed |= {"cal_min_neg": -threshold * peak, "cal_max_neg": -peak, "opacity": 0.8}
    widget = NiiVue(height=420)
    widget.load_volumes([{"path": scan, "colormap": "gray"}, {"path": drawn, **signed}])
    vars(widget)["files"] = folder  # they live as long as the widget, which reads them when it is shown
    return widget


# Every map of a folder, as a picture and as a page.


def draw_folder(folder: Path, *, subjects: Sequence[str] = ()) -> Iterator[Path]:
    """Draw every map that `explain` left in `folder`: yields each PNG and HTML below `figures/` as it is written.

    `subjects` say where scans lie now that were moved, see `Scans`.
    """
    scans = Scans(subjects)
    for saved in read_maps(folder):
        subject = scans(saved)
        saliency, mask, _ = saved.load()
        title, picture = title_of(saved), picture_path(saved)
        page = picture.with_suffix(".html")
        yield save_figure(plot_saliency(subject, saliency, mask, title=title, unit=saved.record["unit"]), picture)
        save_html(saliency_html(subject, saliency, mask, title=title), page)
        yield page


def picture_path(saved: SavedMap) -> Path:
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


# All maps together as tiles of a contact sheet, so that the odd one out is seen.

TILES_ACROSS, TILES_DOWN = 6, 8  # of a page
TILE_PIXELS = 240  # across a tile as a picture of its own


@dataclass(frozen=True, eq=False)
class Tile:
    """One axial slice `(rows, columns)` of one map; network and method as `names_of` calls them."""

    saved: SavedMap
    network: str
    method: str
    channel: str  # the first, as figures call it
    grey: np.ndarray  # its image, 0 to 1
    values: np.ndarray  # of the map of that channel (or of all), in its own unit
    mask: np.ndarray
    peak: float  # the value of largest magnitude in the whole map, with its sign
    frame: np.ndarray  # (3, 2) what to show, in voxels of the display order
    aspect: float  # height over width of a pixel

    @property
    def record(self) -> dict[str, Any]:
        """How its map was made."""
        return self.saved.record

    @property
    def peak_in_words(self) -> str:
        """The peak and its unit."""
        return f"peak {self.peak:+.3g} {self.record['unit']}" if self.peak else "zero everywhere"

    @property
    def columns(self) -> dict[str, str]:
        """What a row of the index can be chosen by, where there is a choice."""
        about = self.record
        return {"subject": about["subject"], "network": self.network, "method": self.method, "group": about["group"]}


def make_tiles(maps: Sequence[SavedMap], *, subjects: Sequence[str] = ()) -> Iterator[Tile]:
    """One tile a map: the axial slice that holds most of the lesion."""
    scans, turn = Scans(subjects), lru_cache(1)(Canonical)
    for saved, (network, method) in zip(maps, names_of(maps), strict=True):
        space = turn(scans(saved))
        saliency, lesion, _ = saved.load()
        turned, mask = space.turn(saliency[0].numpy()), space.turn(lesion.numpy())
        at, peak = busiest(mask), float(turned[peak_of(turned)])
        cuts = space.grey(0, "axial", at), cut_plane(turned, "axial", at), cut_plane(mask, "axial", at)
        frame, aspect = space.frame_around(mask, CLOSE_UP_MM), space.aspect("axial")
        yield Tile(saved, network, method, space.channels[0], *cuts, peak, frame, aspect)


def draw_contact_sheets(tiles: Sequence[Tile], *, threshold: float = FAINT) -> Iterator[Figure]:
    """Pages of tiles, a lesion's maps side by side in the same order; where one is missing the place is empty.

    Each tile has its own colours, symmetric about zero up to its own peak, which stands in it: compare shapes
    between tiles, and values by their numbers. Values below the share `threshold` of the peak are not shown.
    """
    check_threshold(threshold)
    if not tiles:
        raise ValueError("There must be a map to draw, got none.")
    placed = {}  # by lesion, which its place tells from others, and by what made the map
    for tile in tiles:
        lesion = tile.record["subject"], tile.record.get("image") or tile.record["lesion"]
        placed[lesion, (tile.network, tile.method)] = tile
    lesions, ways = (list(dict.fromkeys(keys)) for keys in zip(*placed, strict=True))
    places = [placed.get(place) for place in product(lesions, ways)]
    across = len(ways) * max(1, TILES_ACROSS // len(ways))
    several = len({tile.network for tile in tiles}) > 1
    for start in range(0, len(places), across * TILES_DOWN):
        yield _draw_page(places[start : start + across * TILES_DOWN], across, threshold, several)


def check_threshold(threshold: float) -> None:
    """Refuse what is no share of a peak."""
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is a share of the peak from 0 to below 1, got {threshold}.")


def tile_jpeg(tile: Tile, *, threshold: float = FAINT) -> bytes:
    """A tile as a JPEG of its own, without words."""
    figure = plt.figure(figsize=(2, 2), facecolor="black")
    _draw_tile(figure.add_axes((0, 0, 1, 1)), tile, threshold)
    content = BytesIO()
    figure.savefig(content, format="jpeg", dpi=TILE_PIXELS / 2, pil_kwargs={"quality": 85, "subsampling": 0})
    plt.close(figure)
    return content.getvalue()


def _draw_page(places: Sequence[Tile | None], across: int, threshold: float, several: bool) -> Figure:
    columns, rows = min(across, len(places)), -(-len(places) // across)
    size = (max(1.9 * columns, 5.5), 2.25 * rows + 1.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", facecolor="black")
    shown = [tile for tile in places if tile]
    for ax, tile in zip_longest(axes.ravel(), places):
        if tile is None:
            ax.set_axis_off()
            continue
        _draw_tile(ax, tile, threshold)
        way = f"{tile.network}, {tile.method}" if several else tile.method
        title = "{subject} L{lesion} ({group})\n".format_map(tile.record) + way
        ax.set_title(title, color=GROUP_COLOURS.get(tile.record["group"], "white"), fontsize=8)
        style = {"color": "white", "fontsize": 8, "path_effects": DARK_RIM, "transform": ax.transAxes, "va": "top"}
        ax.text(0.03, 0.97, f"{tile.peak:+.3g}" if tile.peak else "zero everywhere", **style)
    _add_bar_of_shares(figure, axes.ravel().tolist(), shown, threshold)
    channels = " or ".join(dict.fromkeys(tile.channel for tile in shown))
    figure.suptitle(f"Maps of {channels}, axial; the patient's left is left", color="white", fontsize=11)
    return figure


def _draw_tile(ax: Axes, tile: Tile, threshold: float) -> None:
    """The image in grey, the map over it in shares of its peak, the lesion's outline."""
    shares, scale = tile.values / (abs(tile.peak) or 1.0), symmetric(1.0)
    show_painted(ax, paint(tile.grey, shares, scale, threshold=threshold), tile.aspect, scale)
    draw_outline(ax, tile.mask, "white", 0.9)
    zoom(ax, "axial", tile.frame)


def _add_bar_of_shares(figure: Figure, axes: list[Axes], tiles: Sequence[Tile], threshold: float) -> None:
    """One bar for all tiles, in shares of each one's peak, and the unit of the numbers in them."""
    units: dict[str, list[str]] = {}
    for tile in tiles:
        units.setdefault(tile.record["unit"], []).append(tile.record["method"])
    lines = [f"{', '.join(dict.fromkeys(methods))} in {unit}" for unit, methods in units.items()]
    hidden = f"; below {threshold:.0%} not shown" if threshold else ""
    scale = ScalarMappable(symmetric(1.0), SIGNED)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.02, pad=0.02, aspect=60)
    bar.ax.set_facecolor("0.4")
    shares = dict.fromkeys((-1.0, -threshold, 0.0, threshold, 1.0))
    bar.set_ticks(list(shares), labels=[f"{s:+.0%}" if s else "0" for s in shares])
    bar.ax.tick_params(colors="white", labelsize=8)
    bar.set_label("\n".join([f"of each map's peak, the number in its tile{hidden}", *lines]), color="white", fontsize=8)


# All maps together as a table on one page that can be narrowed, on a phone too.

LESIONS_PICTURE = "lesions.png"  # all lesions of the patient, where `ies demo` drew them


def draw_overview(folders: Sequence[Path], *, threshold: float = FAINT, subjects: Sequence[str] = ()) -> Iterator[Path]:
    """Draw all maps of folders together: yields contact sheets and `index.html`, in `figures/` of the first folder.

    The index links what `draw_folder` draws of each. Values below the share `threshold` of a map's peak are not shown.
    """
    check_threshold(threshold)
    tiles = list(make_tiles(read_maps(folders), subjects=subjects))
    out = Path(folders[0]) / "figures"
    for stale in out.glob("sheet*.png"):
        stale.unlink()
    pages = enumerate(draw_contact_sheets(tiles, threshold=threshold), 1)
    sheets = [save_figure(page, out / ("sheet.png" if n == 1 else f"sheet-{n}.png")) for n, page in pages]
    yield from sheets
    write_text(out / "index.html", index_page(tiles, sheets, out, threshold=threshold))
    yield out / "index.html"


def index_page(tiles: Sequence[Tile], sheets: Sequence[Path], out: Path, *, threshold: float = FAINT) -> str:
    """The page: a row a map, its picture inside the page, links to its PNG and page relative to the folder `out`."""
    subjects = {tile.record["subject"] for tile in tiles}
    whose = ", ".join(sorted(subjects)) if len(subjects) < 4 else f"{len(subjects)} subjects"
    lesions = [out / LESIONS_PICTURE] if (out / LESIONS_PICTURE).is_file() else []
    parts = {
        "title": escape(f"{len(tiles)} saliency maps of {whose}"),
        "channels": escape(" or ".join(dict.fromkeys(tile.channel for tile in tiles))),
        "threshold": f"{threshold:.0%}",
        "links": ", ".join(f'<a href="{_link(sheet, out)}">{sheet.name}</a>' for sheet in (*lesions, *sheets)),
        "filters": "".join(_choice(name, [tile.columns[name] for tile in tiles]) for name in tiles[0].columns),
        "rows": "\n".join(_table_row(tile, out, threshold) for tile in tiles),
        "pixels": TILE_PIXELS,
    }
    return Template((files("ies_helpers.figures") / "index_page.html").read_text(encoding="utf-8")).substitute(parts)


def _choice(name: str, values: Sequence[str]) -> str:
    """A drop-down list; nothing where there is nothing to choose."""
    found = list(dict.fromkeys(values))
    if len(found) < 2:
        return ""
    options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in found)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _table_row(tile: Tile, out: Path, threshold: float) -> str:
    record, how, png = tile.record, f"{tile.network}, {tile.method}", picture_path(tile.saved)
    data = "".join(f' data-{key}="{escape(value)}"' for key, value in tile.columns.items())
    alt = f"{tile.channel} through {tile.saved.title}, outlined, with its map by {how}: {tile.peak_in_words}"
    source = f"data:image/jpeg;base64,{b64encode(tile_jpeg(tile, threshold=threshold)).decode()}"
    size = f'width="{TILE_PIXELS}" height="{TILE_PIXELS}"'
    cells = [
        f'<img src="{source}" alt="{escape(alt)}" {size} loading="lazy">',
        escape("{subject}, lesion {lesion}, {voxels} voxels".format_map(record)),
        escape(record["group"]),
        escape(how),
        escape(tile.peak_in_words),
        f'<a href="{_link(png.with_suffix(".html"), out)}">in the browser</a> '
        f'<a href="{_link(png, out)}">three planes</a>',
    ]
    return f"<tr{data}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _link(path: Path, out: Path) -> str:
    """The address of a file from a page in `out`."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
