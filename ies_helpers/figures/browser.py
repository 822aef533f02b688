"""One page to look through all maps: a table with pictures that loads nothing, on a phone too."""

import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from ies_helpers.figures.folder import picture_of, save_figure
from ies_helpers.figures.sheet import PIXELS, THRESHOLD, Tile, check_threshold, draw_sheets, picture, tiles_of
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.reading import read_maps

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
