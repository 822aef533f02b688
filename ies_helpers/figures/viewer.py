"""The maps of a subject's lesions, to be moved through in a notebook; a picture where no kernel runs.

Four parts, each of which knows only those before it: the maps of one subject, three planes through a voxel drawn fast,
the controls, and the viewer that ties them together.
"""

from base64 import b64encode
from collections import UserDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import HTML, display
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from nibabel.affines import apply_affine
from PIL import Image

from ies_helpers.arrays import LesionLike, Saliency, as_voxels
from ies_helpers.figures.slices import (
    GROUP_COLOURS,
    IN_PLANE,
    OKABE_ITO,
    PLANES,
    SIGNED,
    Canonical,
    Place,
    busiest,
    check_map,
    cut_plane,
    letter_sides,
    paint,
    peak_of,
    show_painted,
    symmetric,
    zoom,
)
from ies_helpers.saliency.methods import GRADIENT_UNIT, METHODS
from ies_helpers.segmentation.lesions import GROUPS, Lesion, Lesions, lesion_of
from ies_helpers.subjects.folder import Scans, groups_path, read_maps, subject_folder
from ies_helpers.subjects.nifti import read_image, read_values
from ies_helpers.subjects.subject import Subject

# The maps of one subject, by method and aggregation, from memory or from a folder.

Key: TypeAlias = tuple[str, str]  # method and aggregation, "" where a method has none
LesionOrLesions: TypeAlias = LesionLike | Iterable[Lesion]


@dataclass(frozen=True, eq=False)
class SubjectMaps:
    """One subject, its lesions, and their maps."""

    subject: Subject
    lesions: Lesions
    maps: Mapping[Key, Mapping[int, Saliency]]  # by number of a lesion, of which not every one needs a map
    units: Mapping[Key, str]

    @property
    def mapped(self) -> set[int]:
        """Numbers of the lesions of which there is any map."""
        return {number for some in self.maps.values() for number in some}


class FolderMaps(UserDict[int, Any]):
    """Maps in a folder, by lesion: a `SavedMap` is put in, and its values are read when they are first asked for."""

    def __init__(self) -> None:
        super().__init__()
        # four are held in memory; one of 182 x 218 x 182 voxels takes 58 MB
        self._read = lru_cache(4)(lambda number: self.data[number].load()[0])

    def __getitem__(self, number: int) -> Saliency:
        return self._read(number)


def gather_maps(subject: Subject, maps: Any, lesions: LesionOrLesions) -> SubjectMaps:
    """The maps that a notebook has at hand, in whichever of the forms that `view` takes."""
    numbered, maps = _as_lesions(lesions, subject), {} if maps is None else maps
    by_number = isinstance(maps, Mapping) and all(isinstance(key, int | np.integer) for key in maps)
    named = maps if isinstance(maps, Mapping) and not by_number else {"": maps}
    sorted_out: dict[Key, dict[int, Saliency]] = {}
    for name, some in named.items():
        key = (name, "") if isinstance(name, str) else tuple(str(part or "") for part in name)
        if not isinstance(some, Mapping):
            if len(numbered) != 1:
                raise ValueError(f"One map belongs to one lesion, got {len(numbered)}; give {{number: map}}.")
            some = {next(iter(numbered)).number: some}
        for number, saliency in some.items():
            check_map(saliency, subject, f" of lesion {numbered[number].number}")
        sorted_out[key] = dict(some)  # pyright: ignore[reportArgumentType]
    units = {key: METHODS[key[0]].unit if key[0] in METHODS else GRADIENT_UNIT for key in sorted_out}
    return SubjectMaps(subject, numbered, sorted_out, units)


def read_subject_maps(folder: Path, name: str | None = None) -> SubjectMaps:
    """The maps of one subject in a folder that `ies explain` wrote; None takes the only subject."""
    found = read_maps(folder)
    names = sorted({saved.record["subject"] for saved in found})
    if name not in names and (name is not None or len(names) != 1):
        raise ValueError(f"name must be one of {', '.join(names)}, whose maps are in {folder}; got {name!r}.")
    mine = [saved for saved in found if saved.record["subject"] == (name or names[0])]
    subject = Scans()(mine[0])
    maps: dict[Key, FolderMaps] = {}
    units: dict[Key, str] = {}
    for saved in mine:
        frozen = "frozen" if saved.record.get("statistics") == "frozen" else ""
        key = (saved.record["method"], f"{saved.record['aggregate'] or ''} {frozen}".strip())
        maps.setdefault(key, FolderMaps())[saved.record["lesion"]] = saved
        units[key] = saved.record["unit"]
    return SubjectMaps(subject, _saved_lesions(folder, subject), maps, units)


def _as_lesions(lesions: LesionOrLesions, subject: Subject) -> Lesions:
    if isinstance(lesions, Lesions):
        return lesions
    if isinstance(lesions, torch.Tensor | np.ndarray):
        score = np.full(subject.shape, np.nan, dtype=np.float32)
        lesions = lesion_of(1, "unknown", as_voxels(lesions, subject.shape), score, subject.affine)
    return Lesions([lesions] if isinstance(lesions, Lesion) else list(lesions))  # pyright: ignore[reportArgumentType]


def _saved_lesions(folder: Path, subject: Subject) -> Lesions:
    probability = subject_folder(folder, subject.name) / f"sub-{subject.name}_label-lesion_probseg.nii.gz"
    score = np.full(subject.shape, np.nan, dtype=np.float32)  # of lesions that no prediction of ours found
    if probability.is_file():
        score = read_values(read_image(probability, "probability's"), "probability's").astype(np.float32)
    found = {}
    for group in GROUPS:
        if (path := groups_path(folder, subject.name, group)).is_file():
            labels = read_values(read_image(path, "lesions'"), "lesions'")
            for number in map(int, np.unique(labels[labels > 0])):
                found[number] = lesion_of(number, group, np.argwhere(labels == number), score, subject.affine)
    return Lesions([found[number] for number in sorted(found)])


# Three planes through one voxel, drawn fast: what does not move is drawn once and kept.

# Inches: a panel's side, the space between two, above for titles, to the right for the colour bar.
PANEL, GAP, HEAD, BAR = 3.1, 0.06, 0.32, 1.05

VIEWER_REACH_MM = 20.0  # how far around the lesion a close-up shows


@dataclass(frozen=True)
class ViewState:
    """What of a map is shown, and how."""

    at: Place  # the voxel where the planes meet, in display order: towards right, anterior, superior
    channel: int = 0
    threshold: float = 0.05  # values below this share of the map's largest are see-through
    opacity: float = 0.9
    close: bool = False  # the surroundings of the lesion instead of the whole image


class ThreePlanes:
    """A subject's image, one lesion and its map in three planes.

    Colours are symmetric about zero up to the map's largest absolute value in all channels, in every slice the same.
    """

    def __init__(self, subject: Subject, lesions: Lesions) -> None:
        self.space = Canonical(subject)
        self.labels = self.space.turn(lesions.label_map(subject.shape).numpy())
        self._colours = {lesion.number: to_rgba(GROUP_COLOURS[lesion.group]) for lesion in lesions}
        self.maps: list[np.ndarray] = []
        self.unit, self.top, self._number = "", 0.0, 0
        head = np.any(self.space.image, axis=0)
        self._whole = self._close = self.space.frame_around(head if head.any() else ~head, 3.0)
        self._kept: tuple[object, object] = (None, None)
        self._build()

    def show_map(self, lesion: Lesion, saliency: Saliency | None, unit: str) -> None:
        """Take another lesion or map; None is a lesion without one."""
        self._number, self.unit = lesion.number, unit
        self._close = self.space.frame_around(self.space.turn_mask(lesion), VIEWER_REACH_MM)
        self.maps = [] if saliency is None else [self.space.turn(channel) for channel in saliency.numpy()]
        low, high = (0.0, 0.0) if saliency is None else (float(saliency.min()), float(saliency.max()))
        self.top = max(-low, high)
        end = self.top or 1.0
        self._bar.mappable.set_clim(-end, end)
        self._bar.ax.set_ylim(0 if low >= 0 and high > 0 else -end, end)
        none = "no map of this lesion" if saliency is None else f"{unit} (the map is zero everywhere)"
        self._bar.set_label(unit if self.top else none, fontsize=11)
        self._kept = (None, None)

    def peak(self, channel: int) -> Place:
        """Where the map of one channel has its largest absolute value; without a map, the middle of the lesion."""
        return peak_of(self._map(channel)) if self.top else busiest(self.labels == self._number)

    def value(self, state: ViewState) -> tuple[float, float]:
        """The image's value and the map's at the crosshair; NaN without a map."""
        here = float(self._map(state.channel)[state.at]) if self.maps else float("nan")
        return float(self.space.image[state.channel][state.at]), here

    def paint(self, plane: str, state: ViewState) -> np.ndarray:
        """One slice with its map, `(rows, columns, 3)` uint8."""
        grey = self.space.grey(state.channel, plane, state.at)
        values = cut_plane(self._map(state.channel), plane, state.at) if self.top else None
        return paint(grey, values, self._bar.norm, opacity=state.opacity, threshold=state.threshold)

    def png(self, state: ViewState) -> bytes:
        """The whole picture."""
        self._keep(state)
        for plane, ax in self.panels.items():
            across, up = (state.at[axis] for axis in IN_PLANE[plane])
            (picture,), (borders,), (down, along) = ax.images, ax.collections, ax.lines
            picture.set_data(self.paint(plane, state))
            segments, numbers = label_borders(cut_plane(self.labels, plane, state.at))
            chosen = numbers == self._number
            colours = ["white" if c else self._colours[n] for c, n in zip(chosen, numbers, strict=True)]
            borders.set(segments=list(segments), color=colours, linewidth=[1.6 if c else 1.0 for c in chosen])
            down.set_xdata([across, across])
            along.set_ydata([up, up])
            for artist in _what_moves(ax):
                ax.draw_artist(artist)
        stream = BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(stream, "png", compress_level=1)
        return stream.getvalue()

    def voxel_at(self, x: float, y: float, at: Place) -> tuple[str, Place] | None:
        """What lies under a point of the picture: the plane and the voxel; None beside the image.

        `x` and `y` run from the upper left corner, in shares of width and height; the planes meet `at` a voxel.
        """
        point = np.array([x, 1 - y]) * self.canvas.get_width_height()
        for plane, ax in self.panels.items():
            if ax.bbox.contains(*point):
                there = np.array(at)
                there[list(IN_PLANE[plane])] = np.floor(ax.transData.inverted().transform(point) + 0.5)
                i, j, k = there.tolist()
                inside = (there >= 0).all() and (there < self.labels.shape).all()
                return (plane, (i, j, k)) if inside else None
        return None

    def _map(self, channel: int) -> np.ndarray:
        return self.maps[min(channel, len(self.maps) - 1)]

    def _build(self) -> None:
        width, height = 3 * (PANEL + GAP) + BAR, PANEL + HEAD
        self.figure = Figure(figsize=(width, height), dpi=100)
        self.canvas = FigureCanvasAgg(self.figure)
        self.panels: dict[str, Axes] = {}
        for n, plane in enumerate(PLANES):
            ax = self.figure.add_axes((n * (PANEL + GAP) / width, 0, PANEL / width, PANEL / height))
            empty = np.zeros((*cut_plane(self.labels, plane, (0, 0, 0)).shape, 3), np.uint8)
            show_painted(ax, empty, "auto", None).set_interpolation("nearest")
            ax.add_collection(LineCollection([]), autolim=False)
            for draw_line in (ax.axvline, ax.axhline):
                draw_line(0, color=OKABE_ITO["yellow"], lw=0.8, alpha=0.7)
            letter_sides(ax, plane)
            for artist in _what_moves(ax):
                artist.set_animated(True)
            self.panels[plane] = ax
        place = ((3 * (PANEL + GAP) + 0.05) / width, 0.02, 0.14 / width, PANEL / height - 0.04)
        scale, cax = ScalarMappable(symmetric(1.0), SIGNED), self.figure.add_axes(place, facecolor="0.4")
        self._bar = self.figure.colorbar(scale, cax=cax)

    def _keep(self, state: ViewState) -> None:
        """Restore what does not move; draw it anew where channel, frame or map are others."""
        key = (state.channel, state.close)
        if self._kept[0] != key:
            for plane, ax in self.panels.items():
                zoom(ax, plane, self._close if state.close else self._whole)
                ax.set_title(f"{self.space.channels[state.channel]}, {plane}", fontsize=12)
            self.canvas.draw()
            self._kept = (key, self.canvas.copy_from_bbox(self.figure.bbox))  # pyright: ignore
        self.canvas.restore_region(self._kept[1])  # pyright: ignore


def _what_moves(ax: Axes) -> list[Artist]:
    """Of a panel, from below: the picture, borders, the crosshair; and the letters, which lie over them."""
    return [*ax.images, *ax.collections, *ax.lines, *ax.texts]


def label_borders(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxel edges between different labels of a slice: `(N, 2, 2)` ends as (column, row), `(N,)` larger label."""
    padded = np.pad(labels, 1)
    parts, numbers = [], []
    for turned in (False, True):
        cells = padded.T if turned else padded
        row, column = np.nonzero(cells[1:-1, 1:] != cells[1:-1, :-1])
        numbers.append(np.maximum(cells[row + 1, column], cells[row + 1, column + 1]))
        ends = np.stack([np.stack([column - 0.5, row + half], axis=1) for half in (-0.5, 0.5)], axis=1)
        parts.append(ends[..., ::-1] if turned else ends)
    return np.concatenate(parts), np.concatenate(numbers)


# The viewer's widgets: what can be chosen, the picture, and how clicks on it reach Python.
# Nothing but ipywidgets is needed: what the mouse does is written into a hidden text field, which ipywidgets sends to
# the kernel like any other. Every control has a name and can be reached and moved with the keyboard alone.

# What happened where, into the hidden field; the time makes each message a new one.
SEND = (
    "const box = this.getBoundingClientRect(), viewer = this.closest('.ies-viewer');"
    "const field = viewer.querySelector('.ies-pointer input');"
    "const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;"
    "field.value = [kind, x, y, steps, Date.now()].join(' ');"
    "field.dispatchEvent(new Event('input', {bubbles: true}));"
)
# What is seen where no kernel runs.
STATIC = """<figure class="ies-{id} ies-static" style="margin: 0"><img src="data:image/png;base64,{png}" alt="{alt}"
style="max-width: 100%"><figcaption>{caption}</figcaption></figure>"""
CONTROL_SIZE = {"style": {"description_width": "5.5em"}, "layout": {"width": "22em"}}


def make_controls(content: SubjectMaps, space: Canonical) -> dict[str, Any]:
    """Every control by name."""
    groups = [(f"{g} ({len(content.lesions.of(g))})", g) for g in GROUPS if content.lesions.of(g)]
    methods = [(method or "map", method) for method in dict.fromkeys(method for method, _ in content.maps)]
    modalities = [(label, n) for n, label in enumerate(space.channels)]
    controls: dict[str, Any] = {
        "group": widgets.Dropdown(options=[(f"all ({len(content.lesions)})", "all"), *groups], **CONTROL_SIZE),
        "lesion": widgets.Select(rows=7, **CONTROL_SIZE | {"layout": {"width": "27em"}}),
        "method": widgets.Dropdown(options=methods or [("none", "")], **CONTROL_SIZE),
        "aggregate": widgets.Dropdown(**CONTROL_SIZE),
        "modality": widgets.Dropdown(options=modalities, **CONTROL_SIZE),
        "threshold": widgets.FloatSlider(0.05, min=0, max=1, step=0.01, readout_format=".0%", **CONTROL_SIZE),
        "opacity": widgets.FloatSlider(0.9, min=0, max=1, step=0.05, readout_format=".0%", **CONTROL_SIZE),
    }
    for plane, axis in PLANES.items():
        count = space.image[0].shape[axis]
        controls[plane] = widgets.IntSlider(count // 2, min=0, max=count - 1, **CONTROL_SIZE)
    for name, control in controls.items():
        control.description = name
    controls["closeup"] = widgets.Checkbox(True, description="close-up of the lesion", **CONTROL_SIZE)
    controls["peak"] = widgets.Button(description="jump to the peak", layout={"width": "15em"})
    return controls


def arrange(controls: dict[str, Any], picture: Any, caption: Any, pointer: Any) -> Any:
    """Controls in three columns above the picture, what is told below it, one box around all."""
    middle = ("method", "aggregate", "modality", "threshold", "opacity")
    columns = [("group", "lesion"), middle, (*PLANES, "closeup", "peak")]
    boxes = [widgets.VBox([controls[name] for name in column]) for column in columns]
    above = widgets.HBox(boxes, layout={"flex_flow": "row wrap"})
    glass = widgets.HTML()
    stage = widgets.Box([picture, glass], layout={"max_width": "1100px", "overflow": "hidden"})
    whole = widgets.VBox([above, stage, caption, pointer])
    template = Template((files("ies_helpers.figures") / "viewer.html").read_text(encoding="utf-8"))
    glass.value = template.substitute(id=whole.model_id, send=SEND)
    for widget, name in ((whole, "ies-viewer"), (stage, "ies-stage"), (pointer, "ies-pointer")):
        widget.add_class(name)
    return whole


def lesion_rows(content: SubjectMaps, group: str) -> list[tuple[str, int]]:
    """Lesions of a group, or of `all`, as a table's rows; those that have no map say so."""
    row = "{0.number} · {0.group} · {1} voxels · p {0.mean_probability:.2f}{2}"
    lesions = content.lesions if group == "all" else content.lesions.of(group)
    lacking = {le.number: "" if le.number in content.mapped else " · no map" for le in lesions}
    return [(row.format(le, len(le), lacking[le.number]), le.number) for le in lesions]


WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PLANE_OF_AXIS = tuple(sorted(PLANES, key=PLANES.__getitem__))  # which plane cuts the first, second and third axis


def view(
    subject: Subject | Path | str, maps: Any = None, lesions: LesionOrLesions = (), *, name: str | None = None
) -> "Viewer":
    """Look at the maps of a subject's lesions: three planes with a crosshair, in a notebook.

    Args:
        subject: whose maps; or a folder that `ies explain` wrote, and nothing more is needed.
        maps: of one lesion a map `(C, I, J, K)`, or `{name: map}`; of several `{number: map}`, or
            `{name: {number: map}}`. A name is a method, or a method and an aggregation: `("smoothgrad", "max")`.
        lesions: whose maps they are, and others to outline.
        name: of the subject, where a folder holds several.
    """
    if isinstance(subject, Subject):
        return Viewer(gather_maps(subject, maps, lesions))
    return Viewer(read_subject_maps(Path(subject), name))


class Viewer:
    """A picture and its controls; setting the `value` of a control moves the picture.

    Attributes:
        controls: `group lesion method aggregate modality axial coronal sagittal threshold opacity closeup peak`.
        picture: the PNG on the screen is its `value`.
        caption: what the picture shows and what lies under the crosshair, in words.
        widget: all of it.
    """

    def __init__(self, content: SubjectMaps) -> None:
        if not len(content.lesions):
            raise ValueError("There must be a lesion to look at, got none; plot_lesions draws the image alone.")
        self.content, self.planes = content, ThreePlanes(content.subject, content.lesions)
        self._to_scan = np.linalg.inv(content.subject.affine) @ self.planes.space.affine
        self._shown, self._busy = 0, False
        self.controls = make_controls(content, self.planes.space)
        self.picture = widgets.Image(format="png", layout={"width": "100%", "margin": "0"})
        self.caption, self.pointer = widgets.HTML(), widgets.Text(layout={"display": "none"})
        self.widget = arrange(self.controls, self.picture, self.caption, self.pointer)
        for control, one in self.controls.items():
            if control == "peak":
                one.on_click(lambda _: self._change("peak"))
            else:
                one.observe(lambda _, control=control: self._change(control), "value")
        self.pointer.observe(lambda event: self._change("pointer", event["new"]), "value")
        self._change("group")

    @property
    def lesion(self) -> Lesion:
        """The chosen one."""
        return self.content.lesions[self.controls["lesion"].value]

    @property
    def state(self) -> ViewState:
        """What is shown, as the controls say."""
        at: Any = tuple(self.controls[plane].value for plane in PLANE_OF_AXIS)
        names = ("modality", "threshold", "opacity", "closeup")
        return ViewState(at, *(self.controls[name].value for name in names))

    @property
    def voxel(self) -> Place:
        """What is under the crosshair, in scan order, as an index into the subject's image and map."""
        return tuple(int(n) for n in apply_affine(self._to_scan, self.state.at).round())  # pyright: ignore

    def static(self) -> str:
        """The current picture with its caption, as HTML that needs neither kernel nor widgets."""
        png, alt = b64encode(self.picture.value).decode(), escape(self._title())
        return STATIC.format(id=self.widget.model_id, alt=alt, png=png, caption=self.caption.value)

    def _ipython_display_(self) -> None:
        here = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        display({WIDGET_VIEW: here, "text/plain": "Controls need a running kernel; run this cell."}, raw=True)
        display(HTML(self.static()))

    def _change(self, control: str, message: str = "") -> None:
        """Let the other controls follow one of them, then draw once."""
        if self._busy:
            return
        self._busy = True
        try:
            if control == "pointer":
                self._point(*message.split())
            if control == "group":
                self._offer("lesion", lesion_rows(self.content, self.controls["group"].value), self.content.mapped)
            if control in ("group", "method"):
                method = self.controls["method"].value
                hows = [(how or "–", how) for name, how in self.content.maps if name == method]
                self._offer("aggregate", hows or [("–", "")])
            moved = control == "peak" or (control != "pointer" and self._shown != self.lesion.number)
            if control in ("method", "aggregate") or self._shown != self.lesion.number:
                key = (self.controls["method"].value, self.controls["aggregate"].value)
                saliency = self.content.maps.get(key, {}).get(self.lesion.number)
                self.planes.show_map(self.lesion, saliency, self.content.units.get(key, ""))
                self._shown = self.lesion.number
            if moved:
                self._go(self.planes.peak(self.state.channel))
        finally:
            self._busy = False
        self.picture.value = self.planes.png(self.state)
        self.caption.value = f'<span aria-live="polite">{escape(self._title())}<br>{escape(self._here())}</span>'

    def _offer(self, control: str, options: list[tuple[str, Any]], better: Collection[Any] = ()) -> None:
        """New options: the chosen one is kept if it is still there, else the first of the `better` ones is taken."""
        one, values = self.controls[control], [value for _, value in options]
        chosen = one.value if one.value in values else next((v for v in values if v in better), values[0])
        one.options = options
        one.value = chosen

    def _go(self, at: Place) -> None:
        for plane, index in zip(PLANE_OF_AXIS, at, strict=True):
            self.controls[plane].value = index

    def _point(self, kind: str, x: str, y: str, steps: str, _: str) -> None:
        """A click moves the crosshair, and chooses the lesion that it hits; the wheel turns the plane below it."""
        hit = self.planes.voxel_at(float(x), float(y), self.state.at)
        if hit is None:
            return
        plane, at = hit
        if kind == "wheel":
            self.controls[plane].value += int(steps)  # the slider keeps to its ends
        else:
            self._go(at)
        number = int(self.planes.labels[self.state.at])
        if kind == "click" and number in [n for _, n in self.controls["lesion"].options]:
            self.controls["lesion"].value = number

    def _title(self) -> str:
        """`patient26, lesion 3 (TP, 107 voxels): smoothgrad max, map of FLAIR`."""
        lesion, subject = self.lesion, self.content.subject
        how = " ".join(filter(None, (self.controls["method"].value, self.controls["aggregate"].value)))
        channel = self.planes.space.channels[self.state.channel]
        shown = f"map of {channel}" if len(self.planes.maps) == len(subject.channels) else f"over {channel}"
        what = f"{subject.name}, lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)"
        return f"{what}: {how or 'map'}, {shown}" if self.planes.maps else f"{what}: no map"

    def _here(self) -> str:
        """The crosshair's voxel, where it lies, and the values there."""
        image, value = self.planes.value(self.state)
        mm = ", ".join(f"{n:.1f}" for n in apply_affine(self.content.subject.affine, self.voxel))
        number = int(self.planes.labels[self.state.at])
        where = f"in lesion {number} ({self.content.lesions[number].group})" if number else "in no lesion"
        here = f"Voxel {self.voxel} at ({mm}) mm, {where}. Image {image:+.2f} (z-score)"
        if not self.planes.maps:
            return f"{here}."
        share = f", {abs(value) / self.planes.top:.0%} of the map's peak" if self.planes.top else ""
        return f"{here}; map {value:+.3g} {self.planes.unit}{share}."
