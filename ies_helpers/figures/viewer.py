"""The maps of a subject's lesions, to be moved through in a notebook; a picture where no kernel runs."""

from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import HTML, display
from nibabel.affines import apply_affine

from ies_helpers.arrays import LabelMap, Saliency, Voxels, as_voxels
from ies_helpers.figures.slices import MODALITY_NAMES, PLANES, Look, Place, Slices, check_map
from ies_helpers.saliency.methods import GRADIENT_UNIT, METHODS
from ies_helpers.segmentation.lesions import GROUPS, Lesion, Lesions, lesion_of
from ies_helpers.subjects.folder import SavedMap, Scans, groups_path, read_maps, subject_folder
from ies_helpers.subjects.nifti import read_image, read_values
from ies_helpers.subjects.subject import Subject

# What there is to look at: one subject, its lesions, and maps of them by method and aggregation.

Key: TypeAlias = tuple[str, str]
"""Method and aggregation, `""` where a method has none."""

Some: TypeAlias = Lesion | Lesions | Iterable[Lesion] | LabelMap | Voxels
"""One lesion or several."""

KEPT = 4
"""Maps of a folder that are held in memory; one of 182 x 218 x 182 voxels takes 58 MB."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One subject, its lesions, and their maps.

    Attributes:
        subject, lesions: who.
        maps: method and aggregation -> number of a lesion -> `(C, I, J, K)`; not every lesion needs one.
        units: method and aggregation -> unit.
    """

    subject: Subject
    lesions: Lesions
    maps: Mapping[Key, Mapping[int, Saliency]]
    units: Mapping[Key, str]

    @property
    def mapped(self) -> set[int]:
        """Numbers of the lesions of which there is any map."""
        return {number for some in self.maps.values() for number in some}


class Stored(Mapping[int, Saliency]):
    """Maps in a folder, by lesion, read when they are first asked for."""

    def __init__(self) -> None:
        self.saved: dict[int, SavedMap] = {}
        self._read = lru_cache(KEPT)(lambda number: self.saved[number].load()[0])

    def __getitem__(self, number: int) -> Saliency:
        return self._read(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self.saved)

    def __len__(self) -> int:
        return len(self.saved)


def scene_of(subject: Subject, maps: Any, lesions: Some) -> Scene:
    """A scene out of what a notebook has at hand.

    Args:
        subject: whose.
        maps: of one lesion a map `(C, I, J, K)`, or `{name: map}`; of several `{number: map}`, or
            `{name: {number: map}}`. A name is a method, or a method and an aggregation: `("smoothgrad", "max")`.
        lesions: a `Lesion`, a mask or voxels; `Lesions`, or several of them.

    Raises:
        ValueError: for a map on another grid or with NaN, or one of which it is not clear whose it is.
    """
    numbered = _lesions(lesions, subject)
    named = {"": {} if maps is None else maps} if not isinstance(maps, Mapping) or _by_number(maps) else maps
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
    return Scene(subject, numbered, sorted_out, units)


def scene_in(folder: Path, name: str | None = None) -> Scene:
    """The scene of one subject in a folder that `ies explain` wrote.

    Args:
        folder: the derivative's root.
        name: of the subject; None takes the only one.

    Raises:
        FileNotFoundError: if the folder holds no maps, or the subject has moved.
        ValueError: for a name that is not there, none where there are several, or a subject that is another one now.
    """
    found = read_maps(folder)
    names = sorted({saved.record["subject"] for saved in found})
    if name not in names and (name is not None or len(names) != 1):
        raise ValueError(f"name must be one of {', '.join(names)}, whose maps are in {folder}; got {name!r}.")
    mine = [saved for saved in found if saved.record["subject"] == (name or names[0])]
    subject = Scans()(mine[0])
    maps: dict[Key, Stored] = {}
    units: dict[Key, str] = {}
    for saved in mine:
        frozen = "frozen" if saved.record.get("statistics") == "frozen" else ""
        key = (saved.record["method"], f"{saved.record['aggregate'] or ''} {frozen}".strip())
        maps.setdefault(key, Stored()).saved[saved.record["lesion"]] = saved
        units[key] = saved.record["unit"]
    return Scene(subject, _saved_lesions(folder, subject), maps, units)


def _by_number(maps: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, int | np.integer) for key in maps)


def _lesions(lesions: Some, subject: Subject) -> Lesions:
    if isinstance(lesions, Lesions):
        return lesions
    if isinstance(lesions, Lesion):
        return Lesions([lesions])
    if isinstance(lesions, torch.Tensor | np.ndarray):
        score = np.full(subject.shape, np.nan, dtype=np.float32)
        return Lesions([lesion_of(1, "unknown", as_voxels(lesions, subject.shape), score, subject.affine)])
    return Lesions(list(lesions))


def _saved_lesions(folder: Path, subject: Subject) -> Lesions:
    probability = subject_folder(folder, subject.name) / f"sub-{subject.name}_label-lesion_probseg.nii.gz"
    score = np.full(subject.shape, np.nan, dtype=np.float32)  # of lesions that no prediction of ours found
    if probability.is_file():
        score = read_values(read_image(probability, "probability's"), "probability's").astype(np.float32)
    found = []
    for group in GROUPS:
        path = groups_path(folder, subject.name, group)
        if not path.is_file():
            continue
        labels = read_values(read_image(path, "lesions'"), "lesions'")
        for number in np.unique(labels[labels > 0]):
            found.append(lesion_of(int(number), group, np.argwhere(labels == number), score, subject.affine))
    return Lesions(sorted(found, key=lambda lesion: lesion.number))


# The viewer's widgets: what can be chosen, the picture, and how clicks on it reach Python.
#
# Nothing but ipywidgets is needed: what the mouse does is written into a hidden text field, which ipywidgets sends to
# the kernel like any other. Every control has a name and can be reached and moved with the keyboard alone.

SEND = (
    "const b=this.getBoundingClientRect(),f=this.closest('.ies-viewer').querySelector('.ies-pointer input');"
    "f.value=[kind,(event.clientX-b.left)/b.width,(event.clientY-b.top)/b.height,steps,Date.now()].join(' ');"
    "f.dispatchEvent(new Event('input',{bubbles:true}));"
)
"""What happened where, into the hidden field; the time makes each message a new one."""

CLICK = f"this.focus({{preventScroll:true}});const kind='click',steps=0;{SEND}"
WHEEL = (
    "if(document.activeElement!==this)return;event.preventDefault();"
    "this.turned=(this.turned||0)-Math.sign(event.deltaY);"
    "if(!this.waiting)this.waiting=setTimeout(()=>{"
    f"const kind='wheel',steps=this.turned;this.turned=this.waiting=0;{SEND}}},40)"
)
"""Only once the picture was clicked, so that a page can be scrolled past it; turns within 40 ms are one message."""

KEYS = (
    "const v=this.closest('.ies-viewer');"
    "if(v)v.onkeydown=e=>{if(!(e.ctrlKey||e.metaKey||e.altKey||e.shiftKey))e.stopPropagation()}"
)
"""Else JupyterLab takes the plain keys from a list: arrows move between cells, letters add and delete them."""

GLASS = """<style onload="{keys}">.ies-{id}.ies-static {{ display: none }} .ies-stage {{ position: relative }}
.ies-stage .widget-html, .ies-stage .widget-html-content {{ position: static }}
.ies-glass {{ position: absolute; inset: 0; cursor: crosshair }}</style>
<div class="ies-glass" tabindex="0" role="img" onclick="{click}" onwheel="{wheel}" aria-label="Three planes through one
voxel; click to move there or to choose a lesion, then turn the wheel to change the slice."></div>"""
"""Lies over the picture and takes the mouse; hides the static picture that follows a viewer that is alive."""

STATIC = """<figure class="ies-{id} ies-static" style="margin: 0"><img src="data:image/png;base64,{png}" alt="{alt}"
style="max-width: 100%"><figcaption>{told}</figcaption></figure>"""
"""What is seen where no kernel runs."""

WIDE = {"style": {"description_width": "5.5em"}, "layout": {"width": "22em"}}


def make_controls(scene: Scene, shape: tuple[int, ...]) -> dict[str, Any]:
    """Every control by name, for a volume of `shape` in display order."""
    groups = [(f"{g} ({len(scene.lesions.of(g))})", g) for g in GROUPS if scene.lesions.of(g)]
    methods = [(method or "map", method) for method in dict.fromkeys(method for method, _ in scene.maps)]
    modalities = [(MODALITY_NAMES[m], n) for n, m in enumerate(scene.subject.channels)]
    controls: dict[str, Any] = {
        "group": widgets.Dropdown(options=[(f"all ({len(scene.lesions)})", "all"), *groups], **WIDE),
        "lesion": widgets.Select(rows=7, **WIDE | {"layout": {"width": "27em"}}),
        "method": widgets.Dropdown(options=methods or [("none", "")], **WIDE),
        "aggregate": widgets.Dropdown(**WIDE),
        "modality": widgets.Dropdown(options=modalities, **WIDE),
        "threshold": widgets.FloatSlider(0.05, min=0, max=1, step=0.01, readout_format=".0%", **WIDE),
        "opacity": widgets.FloatSlider(0.9, min=0, max=1, step=0.05, readout_format=".0%", **WIDE),
    }
    for plane, axis in PLANES.items():
        controls[plane] = widgets.IntSlider(shape[axis] // 2, min=0, max=shape[axis] - 1, **WIDE)
    for name, control in controls.items():
        control.description = name
    controls["closeup"] = widgets.Checkbox(True, description="close-up of the lesion", **WIDE)
    controls["peak"] = widgets.Button(description="jump to the peak", layout={"width": "15em"})
    return controls


def arrange(controls: dict[str, Any], picture: Any, told: Any, pointer: Any) -> Any:
    """Controls in three columns above the picture, what is told below it, one box around all."""
    columns = [
        ("group", "lesion"),
        ("method", "aggregate", "modality", "threshold", "opacity"),
        (*PLANES, "closeup", "peak"),
    ]
    above = widgets.HBox(
        [widgets.VBox([controls[name] for name in column]) for column in columns], layout={"flex_flow": "row wrap"}
    )
    glass = widgets.HTML()
    stage = widgets.Box([picture, glass], layout={"max_width": "1100px", "overflow": "hidden"})
    whole = widgets.VBox([above, stage, told, pointer])
    glass.value = GLASS.format(id=whole.model_id, keys=escape(KEYS), click=escape(CLICK), wheel=escape(WHEEL))
    for widget, name in ((whole, "ies-viewer"), (stage, "ies-stage"), (pointer, "ies-pointer")):
        widget.add_class(name)
    return whole


def rows(scene: Scene, group: str) -> list[tuple[str, int]]:
    """Lesions of a group, or of `all`, as a table's rows; those that have no map say so."""
    chosen = [lesion for lesion in scene.lesions if group in ("all", lesion.group)]
    return [(_row(lesion) + ("" if lesion.number in scene.mapped else " · no map"), lesion.number) for lesion in chosen]


def aggregates(scene: Scene, method: str) -> list[tuple[str, str]]:
    """The aggregations that there are of a method."""
    return [(how or "–", how) for name, how in scene.maps if name == method] or [("–", "")]


def _row(lesion: Lesion) -> str:
    return f"{lesion.number} · {lesion.group} · {len(lesion)} voxels · p {lesion.mean_probability:.2f}"


WIDGET = "application/vnd.jupyter.widget-view+json"

AXES = ("sagittal", "coronal", "axial")
"""The plane that cuts each axis of the display."""


def view(subject: Subject | Path | str, maps: Any = None, lesions: Some = (), *, name: str | None = None) -> "Viewer":
    """Look at the maps of a subject's lesions: three planes with a crosshair, in a notebook.

    Args:
        subject: whose maps; or a folder that `ies explain` wrote, and nothing more is needed.
        maps: of one lesion a map `(C, I, J, K)`, or `{name: map}`; of several `{number: map}`, or
            `{name: {number: map}}`. A name is a method, or a method and an aggregation: `("smoothgrad", "max")`.
        lesions: whose maps they are, and others to outline.
        name: of the subject, where a folder holds several.

    Raises:
        ValueError: for no lesion, a map on another grid, or one of which it is not clear whose it is.
        FileNotFoundError: for a folder without maps.
    """
    if isinstance(subject, Subject):
        return Viewer(scene_of(subject, maps, lesions))
    return Viewer(scene_in(Path(subject), name))


class Viewer:
    """A picture and its controls; setting the `value` of a control moves the picture.

    Attributes:
        scene: what there is to look at.
        controls: `group lesion method aggregate modality axial coronal sagittal threshold opacity closeup peak`.
        picture: the PNG on the screen is its `value`.
        told: what the picture shows and what lies under the crosshair, in words.
        widget: all of it.
    """

    def __init__(self, scene: Scene) -> None:
        if not len(scene.lesions):
            raise ValueError("There must be a lesion to look at, got none; plot_lesions draws the image alone.")
        self.scene, self.slices = scene, Slices(scene.subject, scene.lesions)
        self._to_scan = np.linalg.inv(scene.subject.affine) @ self.slices.space.affine
        self._shown, self._busy = 0, False
        self.controls = make_controls(scene, self.slices.labels.shape)
        self.picture = widgets.Image(format="png", layout={"width": "100%", "margin": "0"})
        self.told = widgets.HTML()
        self.pointer = widgets.Text(layout={"display": "none"})
        self.widget = arrange(self.controls, self.picture, self.told, self.pointer)
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
        return self.scene.lesions[self.controls["lesion"].value]

    @property
    def look(self) -> Look:
        """What is shown, as the controls say."""
        names = ("modality", "threshold", "opacity", "closeup")
        return Look(self._at, *(self.controls[name].value for name in names))

    @property
    def voxel(self) -> Place:
        """What is under the crosshair, in scan order, as an index into the subject's image and map."""
        return tuple(int(n) for n in apply_affine(self._to_scan, self._at).round())  # pyright: ignore

    def static(self) -> str:
        """The current picture with what is told of it, as HTML that needs neither kernel nor widgets."""
        png, told = b64encode(self.picture.value).decode(), self.told.value
        return STATIC.format(id=self.widget.model_id, alt=escape(self._title()), png=png, told=told)

    def _ipython_display_(self) -> None:
        here = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        display({WIDGET: here, "text/plain": "Controls need a running kernel; run this cell."}, raw=True)
        display(HTML(self.static()))

    @property
    def _at(self) -> Place:
        return tuple(self.controls[plane].value for plane in AXES)  # pyright: ignore[reportReturnType]

    def _change(self, control: str, message: str = "") -> None:
        """Let the other controls follow one of them, then draw once."""
        if self._busy:
            return
        self._busy = True
        try:
            if control == "pointer":
                self._point(*message.split())
            if control == "group":
                self._offer("lesion", rows(self.scene, self.controls["group"].value), self.scene.mapped)
            if control in ("group", "method"):
                self._offer("aggregate", aggregates(self.scene, self.controls["method"].value))
            moved = control == "peak" or (control != "pointer" and self._shown != self.lesion.number)
            if control in ("method", "aggregate") or self._shown != self.lesion.number:
                self._take_map()
            if moved:
                self._go(self.slices.peak(self.look.channel))
        finally:
            self._busy = False
        self.picture.value = self.slices.png(self.look)
        self.told.value = f'<span aria-live="polite">{escape(self._title())}<br>{escape(self._here())}</span>'

    def _offer(self, control: str, options: list[tuple[str, Any]], better: Collection[Any] = ()) -> None:
        """New options: the chosen one is kept if it is still there, else the first of the `better` ones is taken."""
        one, values = self.controls[control], [value for _, value in options]
        chosen = one.value if one.value in values else next((v for v in values if v in better), values[0])
        one.options = options
        one.value = chosen

    def _take_map(self) -> None:
        key = (self.controls["method"].value, self.controls["aggregate"].value)
        saliency = self.scene.maps.get(key, {}).get(self.lesion.number)
        self.slices.show(self.lesion, saliency, self.scene.units.get(key, ""))
        self._shown = self.lesion.number

    def _go(self, at: Place) -> None:
        for plane, index in zip(AXES, at, strict=True):
            self.controls[plane].value = index

    def _point(self, kind: str, x: str, y: str, steps: str, _: str) -> None:
        """A click moves the crosshair, and chooses the lesion that it hits; the wheel turns the plane below it."""
        hit = self.slices.voxel_at(float(x), float(y), self._at)
        if hit is None:
            return
        axis, at = hit
        if kind == "wheel":
            at = list(self._at)
            at[axis] = min(max(at[axis] + int(steps), 0), self.slices.labels.shape[axis] - 1)
        self._go(at)  # pyright: ignore[reportArgumentType]
        number = int(self.slices.labels[self._at])
        if kind == "click" and number in [n for _, n in self.controls["lesion"].options]:
            self.controls["lesion"].value = number

    def _title(self) -> str:
        """`patient26, lesion 3 (TP, 107 voxels): smoothgrad max, map of FLAIR`."""
        lesion, look = self.lesion, self.look
        how = " ".join(filter(None, (self.controls["method"].value, self.controls["aggregate"].value)))
        modality = MODALITY_NAMES[self.scene.subject.channels[look.channel]]
        shown = f"map of {modality}" if len(self.slices.maps) > 1 else f"over {modality}"
        what = f"{self.scene.subject.name}, lesion {lesion.number} ({lesion.group}, {len(lesion)} voxels)"
        return f"{what}: {how or 'map'}, {shown}" if self.slices.maps else f"{what}: no map"

    def _here(self) -> str:
        """The crosshair's voxel, where it lies, and the values there."""
        image, value = self.slices.value(self.look)
        mm = ", ".join(f"{n:.1f}" for n in apply_affine(self.scene.subject.affine, self.voxel))
        number = int(self.slices.labels[self._at])
        where = f"in lesion {number} ({self.scene.lesions[number].group})" if number else "in no lesion"
        told = f"Voxel {self.voxel} at ({mm}) mm, {where}. Image {image:+.2f} (z-score)"
        if not self.slices.maps:
            return f"{told}."
        share = f", {abs(value) / self.slices.top:.0%} of the map's peak" if self.slices.top else ""
        return f"{told}; map {value:+.3g} {self.slices.unit}{share}."
