"""The viewer's widgets: what can be chosen, the picture, and how clicks on it reach Python.

Nothing but ipywidgets is needed: what the mouse does is written into a hidden text field, which ipywidgets sends to
the kernel like any other. Every control has a name and can be reached and moved with the keyboard alone.
"""

from html import escape
from typing import Any

import ipywidgets as widgets

from ies_helpers.figures.panels import MODALITY_NAMES, PLANES
from ies_helpers.figures.scene import Scene
from ies_helpers.segmentation.lesions import GROUPS, Lesion

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
    modalities = [(MODALITY_NAMES[m], n) for n, m in enumerate(scene.subject.modalities)]
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
