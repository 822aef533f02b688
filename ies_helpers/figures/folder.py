"""Every map of a folder as a picture and as a page in the browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import torch
from matplotlib.figure import Figure

from ies_helpers.figures.html import saliency_html, save_html
from ies_helpers.figures.plots import plot_saliency
from ies_helpers.subjects.files import replacing
from ies_helpers.subjects.loading import load_subject
from ies_helpers.subjects.saving import MAPS, SUFFIX, groups_path, sidecar
from ies_helpers.subjects.subject import Subject


def draw_folder(folder: Path) -> Iterator[Path]:
    """Draw every map that `explain` left in `folder`: yields each PNG and HTML below `figures/` as it is written.

    Raises:
        FileNotFoundError: if the folder holds no maps, or a subject of theirs has moved.
        ValueError: if a subject cannot be loaded again, or is another one now.
    """
    sidecars = sorted(folder.glob(f"sub-*/anat/{MAPS}"))
    if not sidecars:
        raise FileNotFoundError(f"A folder to view must hold maps made by `ies explain`, {folder} holds none.")
    subjects: dict[str, Subject] = {}
    for path in sidecars:
        record = json.loads(path.read_text())
        if record["modality"] not in ("flair", "all"):
            continue
        name = record["subject"]
        subjects[name] = subjects.get(name) or _subject_of(record)
        yield from _draw(folder, path, record, subjects[name])


def _subject_of(record: dict[str, Any]) -> Subject:
    if not record["source"]:
        raise ValueError(
            f"{record['subject']} was made in memory and cannot be loaded again; draw its maps with plot_saliency."
        )
    return load_subject(**record["source"])


def _draw(folder: Path, path: Path, record: dict[str, Any], subject: Subject) -> Iterator[Path]:
    images = [path.with_name(path.name.replace("_FLAIR.json", f"_{SUFFIX[m]}.nii.gz")) for m in subject.modalities]
    if record["modality"] == "all":
        images = images[:1]
    if any(not sidecar(image).is_file() for image in images):
        return
    values = [np.asarray(nibabel.load(i).dataobj, dtype=np.float32) for i in images]  # pyright: ignore
    saliency = torch.from_numpy(np.stack(values))
    if saliency.shape[1:] != subject.image.shape[1:]:
        raise ValueError(
            f"The maps of {subject.name} have the grid {tuple(saliency.shape[1:])}, its scan is now {subject.shape}; "
            "explain it anew in another folder."
        )
    labels = nibabel.load(groups_path(folder, subject.name, record["group"]))
    mask = np.asarray(labels.dataobj) == record["lesion"]  # pyright: ignore[reportAttributeAccessIssue]
    title = title_of(record)
    stem = folder / "figures" / path.name.removesuffix("_FLAIR.json")
    figure = plot_saliency(subject, saliency, mask, title=title, unit=record["unit"])
    yield save_figure(figure, stem.with_suffix(".png"))
    page = stem.with_suffix(".html")
    save_html(saliency_html(subject, saliency, mask, title=title), page)
    yield page


def title_of(record: dict[str, Any]) -> str:
    """`patient26, lesion 3 (TP, 107 voxels): smoothgrad max, 50 draws`."""
    how = [str(record["method"]), *([record["aggregate"]] if record["aggregate"] else [])]
    draws = f", {record['draws']} draws" if record["draws"] else ""
    what = f"lesion {record['lesion']} ({record['group']}, {record['voxels']} voxels)"
    return f"{record['subject']}, {what}: {' '.join(how)}{draws}"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG beside and rename it; the figure is closed."""
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    plt.close(figure)
    return path
