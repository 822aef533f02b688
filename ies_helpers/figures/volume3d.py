"""A map over its scan in true 3D, to turn and to cut, in a notebook: the `niivue` extra."""

import tempfile
from pathlib import Path
from typing import Any

from ies_helpers.figures.panels import check_map
from ies_helpers.subjects.saving import save_image
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Saliency

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
    if modality not in subject.modalities or not 0 <= threshold < 1:
        raise ValueError(
            f"modality must be one of {', '.join(subject.modalities)} and threshold in [0, 1), got {modality!r} and "
            f"{threshold}."
        )
    check_map(saliency, subject)
    channel = subject.modalities.index(modality)
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
