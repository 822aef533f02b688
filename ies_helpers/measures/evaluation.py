"""Folders of saved maps -> one tidy table of what each map is worth: a row a map and measure.

mednet has two commands for it, `interpretability` for where a map lies and `completeness` for ROAD; `ies evaluate` is
both, in 3D, by lesion, and reads the maps from disk instead of making them anew.
"""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ies_helpers.measures.faithfulness import Curve, deletion
from ies_helpers.measures.maps import measure_map
from ies_helpers.measures.road import Road, road
from ies_helpers.segmentation.checkpoints import load_network
from ies_helpers.segmentation.networks import ARCHITECTURES, Network
from ies_helpers.subjects.reading import SavedMap, Scans
from ies_helpers.subjects.records import fingerprint, pixels_of
from ies_helpers.types import Affine, LabelMap, Saliency

MEASURES = [
    *("subject", "network", "lesion", "group", "voxels", "method", "measure", "value", "unit", "reason"),
    *("lesion_id", "path"),
]
"""Columns of the tidy table."""

CURVES = ["subject", "network", "lesion", "group", "method", "curve", "voxels", "fraction", "score"]
"""Columns of the table of curves: the score with that many voxels removed."""

SETTINGS = ("through", "layer", "draws", "seed", "noise")
"""What a method is told by only where the maps differ in it, with what else a sidecar records as its settings."""

PUBLISHED = "published:unet"

IN_UNITS = ("_max", "_min", "focus")
"""Names of measures in the map's own unit end in these; all others are shares, ranks or correlations."""


def evaluate_maps(
    maps: Sequence[SavedMap],
    *,
    networks: Mapping[str, Network] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure every map on its own lesion.

    Args:
        maps: from `read_maps`, of any number of subjects, networks and methods.
        networks: those that made the maps (`networks_of`), to remove voxels and ask again (`road`, `deletion`); None
            leaves these out. Subjects are loaded again as the sidecars say.
        seed: of the shuffles and of the noise.
        progress: show a bar.

    Returns:
        Measures, with the columns `MEASURES`: those of `measure_map`, `relative_focus` (focus over the map's largest
        absolute value, so that methods of different units compare), and of the network `road` (mean over fractions
        of (LeRF - MoRF) / 2) and `deletion` (mean height of the curve, log scale). A value that does not exist is
        NaN and its `reason` says why. Then the curves, with the columns `CURVES`.

    Raises:
        ValueError: for two maps of one lesion made alike, or a damaged file.
    """
    named = names_of(maps)
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    scans = Scans()
    for saved, (network, method) in tqdm(
        list(zip(maps, named, strict=True)), desc="Measuring", unit="map", disable=not progress
    ):
        saliency, lesion, affine = saved.load()
        told = {key: saved.record[key] for key in ("subject", "lesion", "group", "voxels")}
        told |= {"network": network, "method": method}
        values, reasons = _measured(saliency, lesion, affine, saved.modalities)
        if networks is not None:
            tested = _tested(saved, saliency, lesion, networks[saved.record["digest"]], scans, seed)
            values |= {"road": tested[0].mean, "deletion": tested[1].log_area}
            points += [told | point for point in _points(*tested)]
        where = {"lesion_id": _identity(saved), "path": str(saved.images[0])}
        for measure, value in values.items():
            unit = saved.record["unit"] if measure.endswith(IN_UNITS) and measure != "relative_focus" else ""
            rows.append(
                told | where | {"measure": measure, "value": value, "unit": unit, "reason": reasons.get(measure, "")}
            )
    return pd.DataFrame(rows, columns=MEASURES), pd.DataFrame(points, columns=CURVES)


def names_of(maps: Sequence[SavedMap]) -> list[tuple[str, str]]:
    """Network and method of each map, in as few words as tell them apart.

    A method is its name and aggregation (`smoothgrad max`), and of `SETTINGS` what differs among the maps that share
    them (`smoothgrad max, 50 draws`). A network whose name several have is told by its hash too.

    Raises:
        ValueError: if two maps of one lesion have the same network and method.
    """
    digests, kinds = defaultdict(set), defaultdict(lambda: defaultdict(set))
    for record in (saved.record for saved in maps):
        digests[record["network"]].add(record["digest"])
        for key, words in _settings(record).items():
            kinds[record["digest"], _kind(record)][key].add(words)
    named, owner = [], {}
    for saved in maps:
        record = saved.record
        several = kinds[record["digest"], _kind(record)]
        method = ", ".join([_kind(record), *(w for k, w in _settings(record).items() if len(several[k]) > 1)])
        alone = len(digests[record["network"]]) == 1
        network = record["network"] if alone else f"{record['network']} {record['digest'][:6]}"
        first = owner.setdefault((record["subject"], _identity(saved), network, method), saved)
        if first is not saved:
            raise ValueError(
                f"A lesion must have one map of a method; that of {saved.title} by {method} is in {first.folder} and "
                f"in {saved.folder}. Leave one of them out."
            )
        named.append((network, method))
    return named


def _kind(record: dict[str, Any]) -> str:
    frozen = "frozen" if record.get("statistics") == "frozen" else None
    return " ".join(filter(None, (record["method"], record.get("aggregate"), frozen)))


def _settings(record: dict[str, Any]) -> dict[str, str]:
    """Each setting in words: `50 draws`, `seed 0`, `baseline zero`."""
    told = {key: f"{key} {record.get(key)}" for key in SETTINGS}
    told["draws"] = "draws auto" if record.get("tolerance") is not None else f"{record.get('draws')} draws"
    return told | {key: f"{key} {value}" for key, value in (record.get("settings") or {}).items()}


def _identity(saved: SavedMap) -> str:
    """A lesion's fingerprint; its number, if the sidecar has none."""
    return saved.record.get("image") or f"lesion {saved.record['lesion']} of {saved.record['subject']}"


def _measured(
    saliency: Saliency, lesion: LabelMap, affine: Affine, modalities: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Measures that need nothing but the map; why those that are NaN are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = measure_map(saliency, lesion, affine, modalities)
    why = [str(w.message).partition("NaN: ")[2].rstrip(".") for w in caught if "NaN: " in str(w.message)]
    reasons = dict(zip([name for name, value in values.items() if np.isnan(value)], why, strict=True))
    top = float(saliency.abs().sum(dim=0).max())
    if top == 0:
        reasons["relative_focus"] = "the map is zero everywhere"
    return values | {"relative_focus": values["focus"] / top if top else float("nan")}, reasons


def networks_of(maps: Sequence[SavedMap], network: str | None = None, **options: Any) -> dict[str, Network]:
    """The networks that made maps, by the hash of their weights.

    Args:
        maps: from `read_maps`.
        network: a name or file for `load_network`; None takes what the sidecars name, if it is shipped or published.
        options: for `load_network`.

    Raises:
        ValueError: for a network whose weights are neither named nor given, or with other weights than made the maps.
    """
    found: dict[str, Network] = {}
    for saved in maps:
        name, digest = saved.record["network"], saved.record["digest"]
        if digest in found:
            continue
        known = {**{a: a for a in ARCHITECTURES}, PUBLISHED.replace(":", "-"): PUBLISHED}
        if network is None and name not in known:
            raise ValueError(f"Only shipped networks are found by name, got {name!r}; give its file by --network.")
        loaded = load_network(network or known[name], **options)
        if loaded.digest() != digest:
            raise ValueError(
                f"Only the network that made a map can be asked about it: {saved.title} was explained with {name} "
                f"{digest}, got {loaded.name} {loaded.digest()}; give its file by --network, one network at a time."
            )
        found[digest] = loaded
    return found


def _tested(
    saved: SavedMap, saliency: Saliency, lesion: LabelMap, network: Network, scans: Scans, seed: int
) -> tuple[Road, Curve]:
    """What the network says without the voxels that the map calls relevant."""
    image, seen = scans(saved).image, saved.record.get("image")
    if seen and seen != fingerprint(pixels_of(image), np.argwhere(lesion.numpy())):
        warnings.warn(
            f"The image of {saved.record['subject']} is not bit for bit the one explained; its scores may be others.",
            stacklevel=2,
        )
    asked = (network.explained_through(saved.record["through"]), image, lesion, saliency)
    return road(*asked, seed=seed), deletion(*asked, seed=seed)


def _points(roaded: Road, deleted: Curve) -> list[dict[str, Any]]:
    """Rows of the table of curves: `morf` and `lerf` from nothing removed on, and `deletion`."""
    voxels, fractions = np.r_[0, roaded.voxels], np.r_[0.0, roaded.fractions]
    curves = {name: (voxels, fractions, np.r_[roaded.clean, getattr(roaded, name)]) for name in ("morf", "lerf")}
    curves["deletion"] = (deleted.voxels, deleted.fractions, deleted.scores)
    return [
        {"curve": name, "voxels": int(v), "fraction": float(f), "score": float(s)}
        for name, columns in curves.items()
        for v, f, s in zip(*columns, strict=True)
    ]
