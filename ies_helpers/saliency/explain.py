"""Every wanted lesion's map of one subject, on disk: nothing computed twice, nothing lost."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.arrays import LabelMap, Saliency, Volume, Voxels, as_voxels
from ies_helpers.saliency.context import Fill
from ies_helpers.saliency.frozen import deviation
from ies_helpers.saliency.gradcam import gradcam, gradcam_pp
from ies_helpers.saliency.gradients import Aggregate, LesionGradient, Statistics
from ies_helpers.saliency.methods import OTHERS, Comparison, check_settings, settings_of
from ies_helpers.saliency.smoothgrad import NOISE, TARGET, Average, Draws, RunState, noise_sigma, smoothgrad_each
from ies_helpers.segmentation.lesions import Lesion, lesion_of
from ies_helpers.segmentation.network import Network, as_network
from ies_helpers.subjects.folder import (
    UNITS,
    MapRecord,
    add_lesions,
    fingerprint,
    finished,
    open_derivative,
    pixels_of,
    save_map,
    subject_folder,
    write_index,
)
from ies_helpers.subjects.subject import Subject

EVERY = 30.0
"""Seconds of work that a killed run may lose."""


def explain(
    subject: Subject,
    network: Network | nn.Module,
    lesions: Sequence[Lesion | LabelMap | Voxels],
    out: Path,
    *,
    method: str = "smoothgrad",
    aggregate: Aggregate = "max",
    draws: Draws = 50,
    noise: float = NOISE,
    seed: int = 0,
    statistics: Statistics = "exact",
    baseline: Fill = "zero",
    progress: bool = False,
    command: str = "",
) -> pd.DataFrame:
    """Compute and save the maps of `lesions`; a finished map is kept, an interrupted run goes on.

    Args:
        subject, network: what to explain, see `smoothgrad`.
        lesions: a mask or voxels among them get their position, from 1, for a number, and the group `unknown`.
        out: a folder, made a BIDS derivative; lesions that it does not hold yet are written into it.
        method: `smoothgrad`, `gradcam++`, `gradcam` or `gradient`; for comparison, of the lesion's mean logit and with
            the settings of `comparison.settings_of`, `input-x-gradient`, `integrated-gradients`, `occlusion` or
            `kernel-shap`.
        aggregate, draws, noise, seed: see `smoothgrad`.
        statistics: `frozen` holds instance norms still, an approximation for `max` of `smoothgrad` and `gradient`; its
            error is measured on a few voxels of this image, told in a warning and in the sidecars.
        baseline: `zero`, `mean` or `blurred`, what the last three methods compare the image with.
        progress: show bars.
        command: the command line, for the sidecars.

    Returns:
        The index of all maps in `out`, as in `maps.tsv`.

    Raises:
        ValueError: for an unknown method, no lesion, or a folder that holds a map of the same name made otherwise, or
            other lesions under these numbers.
    """
    check_settings(method, aggregate, draws, noise, seed=seed, statistics=statistics, baseline=baseline)
    network, lesions = as_network(network), _numbered(lesions, subject)
    if not lesions:
        raise ValueError("There must be a lesion to explain, got none; lower the threshold or choose another group.")
    folder = open_derivative(out)
    settings = {"aggregate": aggregate, "draws": draws, "noise": noise, "seed": seed, "statistics": statistics}
    settings = {"baseline": baseline, "seed": seed} if method in OTHERS else settings
    digest, pixels = network.digest(), pixels_of(subject.image)
    records = [_record(subject, network, digest, pixels, lesion, method, settings) for lesion in lesions]
    todo = [(le, r) for le, r in zip(lesions, records, strict=True) if not finished(folder, subject, r)]
    add_lesions(folder, subject, [(lesion.number, lesion.group, lesion.voxels) for lesion in lesions])
    measured = _measured(network, subject.image, lesions) if todo and statistics == "frozen" else {}
    notes = {"command": command} | measured
    try:
        state = _state(folder, subject, network, f"{digest}{pixels}{sorted(settings.items())}")
        maps = _maps(subject, network, [lesion for lesion, _ in todo], method, settings, state, progress)
        for n, saliency, told in maps:
            save_map(folder, subject, saliency, todo[n][1], notes | told)
    finally:
        index = write_index(folder)
    return index


def _numbered(lesions: Sequence[Lesion | LabelMap | Voxels], subject: Subject) -> list[Lesion]:
    """Lesions as they are; masks and voxels as lesions of group `unknown`, by position, of unknown probability."""
    unknown, found = np.full(subject.shape, np.nan, dtype=np.float32), []
    for n, given in enumerate(lesions, 1):
        voxels = as_voxels(given, subject.shape)
        lesion = given if isinstance(given, Lesion) else lesion_of(n, "unknown", voxels, unknown, subject.affine)
        found.append(lesion)
    numbers = [lesion.number for lesion in found]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Lesions must have different numbers, got {numbers}; give Lesions alone, or masks alone.")
    return found


def _record(
    subject: Subject,
    network: Network,
    digest: str,
    pixels: str,
    lesion: Lesion,
    method: str,
    settings: dict[str, Any],
) -> MapRecord:
    cam = method.startswith("gradcam")
    used: dict[str, Any]
    if method == "smoothgrad":
        used = settings | {"sigma": noise_sigma(subject.image, settings["noise"])}
        used |= {"draws": None, "tolerance": TARGET} if settings["draws"] == "auto" else {}
    elif method in OTHERS:
        used = {"aggregate": "mean", "settings": settings_of(method, settings["baseline"])}
        used |= {"seed": settings["seed"]} if method == "kernel-shap" else {}
    else:
        used = {"layer": network.layer} if cam else {k: settings[k] for k in ("aggregate", "statistics")}
    windows = _windows(network) if network.through == "windows" else None
    what = (subject.name, network.name, digest, lesion.number, lesion.group, len(lesion))
    seen = fingerprint(pixels, lesion.voxels)
    return MapRecord(*what, method, network.through, UNITS[method], **used, windows=windows, image=seen)


def _told(subject: Subject, average: Average) -> dict[str, Any]:
    """For the sidecars: the draws made, the largest value of the map, and its standard error, None from one draw."""
    peak = average.peak
    error = peak.standard_error if np.isfinite(peak.standard_error) else None
    where = {"modality": subject.channels[peak.channel], "voxel": list(peak.voxel)}
    return {"draws": average.draws, "peak": {"value": peak.value, "standard_error": error} | where}


def _windows(network: Network) -> str:
    """`96 x 96 x 96 voxels, overlap 0.25, gaussian`."""
    return f"{' x '.join(map(str, network.sides or ()))} voxels, overlap {network.overlap:g}, {network.weighting}" + (
        ", placed as nnU-Net does" if network.placing == "nnunet" else ""
    )


def _state(folder: Path, subject: Subject, network: Network, key: str) -> RunState:
    """Where the sums of a subject's lesions are kept while they grow."""
    running = subject_folder(folder, subject.name).parent / ".running"
    return RunState(running, f"{key}{network.through}{_windows(network)}", every=EVERY)


def _measured(network: Network, image: Volume, lesions: Sequence[Lesion]) -> dict[str, Any]:
    """How far frozen statistics are from exact on up to nine voxels of three lesions; the largest of each measure."""
    found: list[dict[str, float]] = []
    for lesion in list(lesions)[:: max(1, len(lesions) // 3)][:3]:
        for n in np.unique(np.linspace(0, len(lesion) - 1, 3).round().astype(int)):
            one = lesion.voxels[n : n + 1]
            both = [LesionGradient(network, image, one, "max", statistics=s) for s in ("frozen", "exact")]
            found.append(deviation(*(engine.place(engine(image)) for engine in both)))
    most = {name: max(f[name] for f in found) for name in found[0]}
    told = ", ".join(f"{name} {share:.1%}" for name, share in most.items())
    warnings.warn(f"frozen statistics are an approximation: on {len(found)} voxels it is off by {told}.", stacklevel=3)
    return {"frozen_deviation": most | {"voxels": len(found)}}


def _maps(
    subject: Subject,
    network: Network,
    lesions: Sequence[Lesion],
    method: str,
    settings: dict[str, Any],
    state: RunState,
    progress: bool,
) -> Iterator[tuple[int, Saliency, dict[str, Any]]]:
    """Position in `lesions`, map, and what of its making goes into the sidecar."""
    image = subject.image
    if method == "smoothgrad":
        for n, average in smoothgrad_each(network, image, lesions, **settings, progress=progress, state=state):
            yield n, average.full(subject.shape), _told(subject, average)
        state.clear()
        return
    if method in OTHERS:
        attribute = Comparison(subject, network, method, **settings)
        for n, lesion in enumerate(tqdm(lesions, desc=method, unit="lesion", disable=not progress)):
            yield n, *attribute(lesion)
        return
    for n, lesion in enumerate(lesions):
        if method == "gradient":
            how = {"aggregate": settings["aggregate"], "statistics": settings["statistics"]}
            engine = LesionGradient(network, image, lesion, **how)
            yield n, engine.place(engine(image)), {}
        else:
            yield n, {"gradcam": gradcam, "gradcam++": gradcam_pp}[method](network, image, lesion), {}
