"""Every wanted lesion's map of one subject, on disk: nothing computed twice, nothing lost."""

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ies_helpers.arrays import LesionLike, as_voxels, door
from ies_helpers.saliency.context import BLUR_MM
from ies_helpers.saliency.farfield import Report, check_accuracy
from ies_helpers.saliency.methods import METHODS, Recipe
from ies_helpers.saliency.smoothgrad import PEAK_TARGET, RunState, noise_sigma
from ies_helpers.segmentation.field import far_leaves
from ies_helpers.segmentation.lesions import Lesion, lesion_of
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.folder import (
    MapRecord,
    add_lesions,
    fingerprint,
    finished,
    open_derivative,
    pixels_of,
    read_index,
    save_map,
    subject_folder,
    write_index,
)
from ies_helpers.subjects.subject import Subject

SAVE_EVERY_S = 30.0  # seconds of work that a killed run may lose


@door
def explain(
    subject: Subject,
    network: Network | nn.Module,
    lesions: Sequence[LesionLike],
    out: Path,
    *,
    recipe: Recipe | None = None,
    progress: bool = False,
    command: str = "",
    **settings: Any,
) -> pd.DataFrame:
    """Compute and save the maps of `lesions`; a finished map is kept, an interrupted run goes on.

    Args:
        subject, network: are fitted to each other, see `prepare`.
        lesions: a mask or voxels among them get their position, from 1, for a number, and the group `unknown`.
        out: a folder, made a BIDS derivative; lesions that it does not hold yet are written into it.
        recipe: how a map is made; None: as `settings` say.
        command: the command line, for the sidecars.
        settings: the fields of `Recipe` by name, such as `method="gradcam++"` or `draws=8`; beside a `recipe` they
            change it. Of maps to an `accuracy` the error is measured on a few voxels, and told in a warning and in the
            sidecars.

    Returns:
        The index of all maps in `out`, as in `maps.tsv`. Of a folder that holds a map of the same name made otherwise,
        or other lesions under these numbers, nothing is changed: it is refused.
    """
    recipe = replace(recipe, **settings) if recipe else Recipe(**settings)
    make_maps(subject, network, lesions, out, recipe, progress=progress, command=command)
    return read_index(out)


@door
def make_maps(
    subject: Subject,
    network: Network | nn.Module,
    lesions: Sequence[LesionLike],
    out: Path,
    recipe: Recipe,
    *,
    progress: bool = False,
    command: str = "",
) -> list[Path]:
    """What `explain` does; gives the images of the maps that were made, and not found finished."""
    network, subject = prepare(network, subject)
    network = recipe.view_of(network, len(subject.channels))
    numbered = _numbered(lesions, subject)
    if not numbered:
        raise ValueError("There must be a lesion to explain, got none; lower the threshold or choose another group.")
    folder, made = open_derivative(out), []
    digest, pixels = network.digest(), pixels_of(subject.image)
    todo = _todo(subject, network, digest, pixels, numbered, folder, recipe)
    add_lesions(folder, subject, [(lesion.number, lesion.group, lesion.voxels) for lesion in numbered])
    notes: dict[str, Any] = {"command": command}
    notes |= {f"{who}_notes": list(it.notes) for who, it in (("network", network), ("subject", subject)) if it.notes}
    notes |= {"network_origin": network.origin} if network.origin else {}
    report: Report | None = None
    try:
        running = subject_folder(folder, subject.name).parent / ".running"
        key = f"{digest}{pixels}{sorted(recipe.heeded.items())}{network.through}{_windows_in_words(network)}"
        state = RunState(running, key, every=SAVE_EVERY_S)
        maps = recipe.maps(subject, network, [lesion for lesion, _ in todo], state, progress)
        for n, saliency, more in maps:
            made += save_map(folder, subject, saliency, todo[n][1], notes | more)
            if "fields" in more:
                found = Report(**more["fields"])
                report = found if report is None else report.worst(found)
    finally:
        write_index(folder)
    if report is not None and report.voxels:
        warnings.warn(report.in_words(), stacklevel=3)
    return made


def unfinished(
    subject: Subject, network: Network, lesions: Sequence[LesionLike], out: Path, recipe: Recipe
) -> list[Lesion]:
    """The lesions of which `out` does not hold the map yet; refused if it holds another one of its name.

    Subject and network are fitted to each other already, the network seen as the recipe says.
    """
    numbered, digest = _numbered(lesions, subject), network.digest()
    return [le for le, _ in _todo(subject, network, digest, pixels_of(subject.image), numbered, Path(out), recipe)]


def _todo(
    subject: Subject,
    network: Network,
    digest: str,
    pixels: str,
    lesions: Sequence[Lesion],
    folder: Path,
    recipe: Recipe,
) -> list[tuple[Lesion, MapRecord]]:
    records = [_record(subject, network, digest, pixels, lesion, recipe) for lesion in lesions]
    return [(le, r) for le, r in zip(lesions, records, strict=True) if not finished(folder, subject, r)]


def _numbered(lesions: Sequence[LesionLike], subject: Subject) -> list[Lesion]:
    """Lesions as they are; masks and voxels as lesions of group `unknown`, by position, of unknown probability."""
    unknown, numbered = np.full(subject.shape, np.nan, dtype=np.float32), []
    for n, given in enumerate(lesions, 1):
        voxels = as_voxels(given, subject.shape)
        lesion = given if isinstance(given, Lesion) else lesion_of(n, "unknown", voxels, unknown, subject.affine)
        numbered.append(lesion)
    numbers = [lesion.number for lesion in numbered]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Lesions must have different numbers, got {numbers}; give Lesions alone, or masks alone.")
    return numbered


def _record(subject: Subject, network: Network, digest: str, pixels: str, lesion: Lesion, recipe: Recipe) -> MapRecord:
    """What the sidecar says, and what another map of the same name is compared by: all that the method heeds."""
    method, told = METHODS[recipe.method], recipe.heeded
    used: dict[str, Any] = {each.name: told.pop(each.name) for each in fields(MapRecord) if each.name in told}
    if method.aggregate:
        used["aggregate"] = method.aggregate
    if method.reads_layer:
        used["layer"] = network.layer
    if "accuracy" in used and not _approximates(network, recipe):
        used["accuracy"] = None
    elif "accuracy" in used:
        used["accuracy"] = check_accuracy(recipe.accuracy)
    if "noise" in used:
        used["sigma"] = noise_sigma(subject.image, recipe.noise, network.channels or subject.channels)
    if used.get("draws") == "auto":
        used |= {"draws": None, "tolerance": PEAK_TARGET}
    if told.get("baseline") == "blurred":
        told["blur_mm"] = BLUR_MM
    return MapRecord(
        subject.name,
        network.name,
        digest,
        lesion.number,
        lesion.group,
        len(lesion),
        recipe.method,
        network.through,
        method.unit,
        **used,
        windows=_windows_in_words(network) if network.through == "windows" else None,
        image=fingerprint(pixels, lesion.voxels),
        settings=told | dict(method.settings) or None,
    )


def _approximates(network: Network, recipe: Recipe) -> bool:
    """Whether a map may be made to an accuracy: a maximum, of a network that may look at all that it is given."""
    if recipe.aggregate != "max" or recipe.statistics == "frozen" or check_accuracy(recipe.accuracy) == 0:
        return False
    return network.through == "windows" or bool(far_leaves(network.module))


def _windows_in_words(network: Network) -> str:
    """`96 x 96 x 96 voxels, overlap 0.25, gaussian`."""
    return f"{' x '.join(map(str, network.sides or ()))} voxels, overlap {network.overlap:g}, {network.weighting}" + (
        ", placed as nnU-Net does" if network.placing == "nnunet" else ""
    )
