"""Folders of saved maps -> one tidy table of what each map is worth: a row a map and measure.

mednet has two commands for it, `interpretability` for where a map lies and `completeness` for ROAD; `ies evaluate` is
both, in 3D, by lesion, and reads the maps from disk instead of making them anew.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ies_helpers.arrays import Affine, LabelMap, Saliency
from ies_helpers.measures.maps import measure_map
from ies_helpers.measures.removal import Curve, Road, deletion, road
from ies_helpers.segmentation.architectures import ARCHITECTURES, load_network
from ies_helpers.segmentation.lesions import GROUPS
from ies_helpers.segmentation.network import Network
from ies_helpers.subjects.folder import SavedMap, Scans, fingerprint, pixels_of, read_maps, write_table

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


# Many maps in few numbers: what methods reach in each group of lesions, and which of them is ahead, how surely.
#
# A value that does not exist (NaN) is left out of every number and counted beside it.

RANKED = {
    "energy": "higher",
    "relative_focus": "higher",
    "pointing": "higher",
    "rank_accuracy": "higher",
    "gini": "higher",
    "complexity": "lower",
    "road": "higher",
    "deletion": "lower",
}
"""Measures without a unit, and which end of each counts as better."""

ALL = "all"
"""The group of every lesion together."""

RANKING = ["network", "measure", "better", "rank", "method", "mean", "low", "high", "first"]
"""Columns of a ranking, before `lesions`, `subjects` and `left_out`."""


def summarise_measures(measures: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method, group of lesions (`all` too) and measure.

    Args:
        measures: tidy, as `evaluate_maps` gives it.

    Returns:
        `network, method, group, measure, unit, subjects, n, nan, mean, sd` (ddof 1, NaN from one value)`, q25, median,
        q75`: `n` maps, of so many subjects, have a value, `nan` have none.

    Raises:
        ValueError: for a table without measures.
    """
    if measures.empty:
        raise ValueError("There must be a measured map to summarise, the table has none.")
    every = pd.concat([measures.assign(group=ALL), measures], ignore_index=True)
    keys, rows = ["network", "method", "group", "measure"], []
    for key, part in every.groupby(keys, sort=False):
        names: Any = key
        values = part["value"].dropna()
        low, middle, high = values.quantile([0.25, 0.5, 0.75])
        told = {"unit": part["unit"].iloc[0], "subjects": part.loc[values.index, "subject"].nunique()}
        told |= {"n": len(values), "nan": len(part) - len(values), "mean": values.mean(), "sd": values.std(ddof=1)}
        rows.append(dict(zip(keys, names, strict=True)) | told | {"q25": low, "median": middle, "q75": high})
    order = {group: n for n, group in enumerate((ALL, *GROUPS))}
    return pd.DataFrame(rows).sort_values("group", key=lambda names: names.map(order), kind="stable")


def rank_methods(measures: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Methods in order, for each network and measure of `RANKED`, with intervals.

    Compared are only lesions for which every method has a value: methods that explained other lesions would be
    compared on those. Lesions of one subject are alike, so the intervals resample subjects, and within each drawn
    subject its lesions (a two-stage bootstrap, percentiles 2.5 to 97.5), the same for all methods. With one subject
    only lesions are resampled, and the interval is about that subject alone. Networks find different lesions, so each
    has a ranking of its own.

    Args:
        measures: tidy, as `evaluate_maps` gives it.
        resamples: of the bootstrap.
        seed: of the draws.

    Returns:
        `network, measure, better, rank` (methods of equal mean share the smaller)`, method, mean, low, high, first`
        (share of resamples in which its mean is the best, or shares it)`, lesions, subjects, left_out`: lesions
        without a value of every method. Where no lesion is left the numbers are NaN.

    Raises:
        ValueError: for more than one value of a lesion, method and measure.
    """
    chosen: Any = measures[measures["measure"].isin(list(RANKED))]
    tables = [
        _ranked(part, measure, resamples, seed).assign(network=network)
        for (network, measure), part in chosen.groupby(["network", "measure"], sort=False)
    ]
    columns = [*RANKING, "lesions", "subjects", "left_out"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns) if tables else pd.DataFrame(columns=columns)


def _ranked(part: pd.DataFrame, measure: str, resamples: int, seed: int) -> pd.DataFrame:
    twice = part[part.duplicated(["subject", "lesion_id", "method"])]
    if len(twice):
        row: Any = twice.iloc[0]
        raise ValueError(
            f"A lesion must have one {measure} of each method, {row['lesion_id']} of {row['subject']} has more of "
            f"{row['method']}; drop repeated rows."
        )
    wide = part.pivot(index=["subject", "lesion_id"], columns="method", values="value")
    whole = wide.dropna()
    sign = 1.0 if RANKED[measure] == "higher" else -1.0
    table = pd.DataFrame({"measure": measure, "better": RANKED[measure], "method": wide.columns})
    if whole.empty:
        nothing = dict.fromkeys(["rank", "mean", "low", "high", "first"], np.nan)
        return table.assign(**nothing, lesions=0, subjects=0, left_out=len(wide))
    values, subjects = whole.to_numpy(), whole.index.get_level_values("subject")
    means = np.stack([values[rows].mean(axis=0) for rows in resampled_rows(subjects, resamples, seed)])
    best = sign * means
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    table = table.assign(
        mean=values.mean(axis=0),
        low=low,
        high=high,
        first=(best == best.max(axis=1, keepdims=True)).mean(axis=0),
        lesions=len(whole),
        subjects=subjects.nunique(),
        left_out=len(wide) - len(whole),
    )
    table["rank"] = (-sign * table["mean"]).rank(method="min").astype(int)
    return table.sort_values("rank", kind="stable")


def resampled_rows(subjects: pd.Index, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each resample: as many subjects as there are, with replacement, and of each as many of its lesions."""
    rng = np.random.default_rng(seed)
    of = [np.flatnonzero(subjects == subject) for subject in subjects.unique()]
    for _ in range(resamples):
        drawn = [of[n] for n in rng.integers(len(of), size=len(of))]
        yield np.concatenate([rng.choice(lesions, len(lesions)) for lesions in drawn])


# Summaries as people print them: a table of means in Markdown and LaTeX.

TITLES = {
    "energy": "energy",
    "relative_focus": "relative focus",
    "pointing": "pointing",
    "rank_accuracy": "rank accuracy",
    "gini": "Gini",
    "complexity": "complexity",
    "road": "ROAD",
    "deletion": "deletion",
}
"""How measures are called in print."""

SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
"""What LaTeX would read otherwise."""


def headline(summary: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method and group: how many maps, then `mean ± sd` of each measure of `RANKED`.

    Args:
        summary: of `summarise_measures`.
    """
    shown: Any = summary[summary["measure"].isin(list(RANKED))]
    rows = []
    for names, part in shown.groupby(["network", "method", "group"], sort=False):
        row: dict[str, str] = dict(zip(("network", "method", "group"), names, strict=True))
        row["maps"] = str(int((part["n"] + part["nan"]).max()))
        told = part.set_index("measure")
        for measure in (m for m in RANKED if m in set(shown["measure"])):
            heading = f"{TITLES[measure]} {'↑' if RANKED[measure] == 'higher' else '↓'}"
            row[heading] = _spread(told.loc[measure]) if measure in told.index else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def standings(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking as people print it: one row for each network, measure and method, the best first."""
    rows = []
    for row in ranking.to_dict("records"):
        lost = pd.isna(row["mean"])
        told = {
            "network": row["network"],
            "measure": TITLES[row["measure"]],
            "rank": "–" if lost else f"{row['rank']:.0f}",
        }
        told |= {"method": row["method"], "mean": _number(row["mean"])}
        told["95 % interval"] = "–" if lost else f"{_number(row['low'])} to {_number(row['high'])}"
        rows.append(told | {"first": "–" if lost else f"{row['first']:.0%}", "lesions": str(row["lesions"])})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of strings in Markdown, its columns aligned."""
    cells = [[str(c).replace("|", "\\|") for c in row] for row in (list(table.columns), *table.to_numpy().tolist())]
    widths = [max(3, *(len(row[n]) for row in cells)) for n in range(len(table.columns))]
    lines = [_joined([c.ljust(w) for c, w in zip(row, widths, strict=True)]) for row in cells]
    return "\n".join([lines[0], _joined(["-" * w for w in widths]), *lines[1:]]) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A table of strings as a LaTeX `tabular`, which needs no package."""
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (list(table.columns), *table.to_numpy().tolist())]
    lines = [r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: object) -> str:
    return "".join(SPECIAL.get(character, character) for character in str(text))


def _spread(row: Any) -> str:
    spread = "" if pd.isna(row["sd"]) else f" ± {_number(row['sd'])}"
    lost = f" ({int(row['nan'])} NaN)" if row["nan"] else ""
    return f"{_number(row['mean'])}{spread}{lost}"


def _number(value: float) -> str:
    """Three decimals, or two digits where these would be zero."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


# The lesion table of a subject, with what its maps say as further columns.

KEPT = ("_max", "_min", "_share", "energy", "balance_inside")
"""Names of the measures that the table holds end in these; `ies evaluate` has them all."""


def add_measures(folder: Path, subject: str) -> pd.DataFrame:
    """Write `sub-<subject>/lesions.tsv` anew, with columns for every finished map of the subject's lesions.

    A column is called by the map and the measure, `smoothgradmax_flair_max`: the largest value in FLAIR, in the map's
    unit. A lesion that was not explained by a method has no value there; nor has a measure that does not exist.

    Args:
        folder: that `ies explain` wrote.
        subject: whose table.

    Returns:
        The table.

    Raises:
        ValueError: for a damaged file.
    """
    path = Path(folder) / f"sub-{subject}" / "lesions.tsv"
    table = pd.read_csv(path, sep="\t").set_index("lesion", drop=False)
    for saved in read_maps(folder):
        if saved.record["subject"] != subject:
            continue
        saliency, lesion, affine = saved.load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the empty cell says it
            values = measure_map(saliency, lesion, affine, saved.modalities)
        for name, value in values.items():
            if name.endswith(KEPT):
                table.loc[saved.record["lesion"], f"{_method(saved.stem)}_{name}"] = value
    table = table.reset_index(drop=True)
    write_table(path, table)
    return table


def _method(stem: str) -> str:
    """`sub-demo_desc-smoothgradmaxL003` -> `smoothgradmax`."""
    return stem.rpartition("_desc-")[2].rpartition("L")[0]
