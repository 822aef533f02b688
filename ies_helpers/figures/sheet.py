"""A contact sheet: every map as one tile, so that the odd one out is seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ies_helpers.figures.panels import (
    GROUP_COLOURS,
    STROKE,
    Canonical,
    busiest,
    outline,
    overlay,
    plane_of,
    square,
    zoom,
)
from ies_helpers.measures.evaluation import names_of
from ies_helpers.subjects.reading import SavedMap, Scans

PLANE = "axial"

THRESHOLD = 0.2
"""Share of a map's peak below which a tile does not show it."""

REACH_MM = 15.0
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
        frame = square(mask, REACH_MM, space.spacing)
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
