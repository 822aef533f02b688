"""The maps of a subject's lesions, to be moved through in a notebook; a picture where no kernel runs."""

from base64 import b64encode
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML, display
from nibabel.affines import apply_affine

from ies_helpers.figures.controls import STATIC, aggregates, arrange, make_controls, rows
from ies_helpers.figures.panels import MODALITY_NAMES
from ies_helpers.figures.scene import Scene, Some, scene_in, scene_of
from ies_helpers.figures.slices import Look, Place, Slices
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.subjects.subject import Subject

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
        modality = MODALITY_NAMES[self.scene.subject.modalities[look.channel]]
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
