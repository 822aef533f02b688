"""Folders of saved maps -> what each map is worth, what methods reach in each group of lesions, and which is ahead.

mednet has two commands for it, `interpretability` for where a map lies and `completeness` for ROAD; `ies evaluate` is
both, in 3D, by lesion, and reads the maps from disk instead of making them anew. A value that does not exist (NaN) is
left out of every summary and counted beside it. What there is to measure, `maps.MEASURES` says.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ies_helpers.arrays import LabelMap, Saliency
from ies_helpers.measures.maps import MEASURES, MappedLesion, measure_map, measure_of, ranked_measures
from ies_helpers.measures.removal import Curve, Road, deletion, road
from ies_helpers.measures.resample import PERCENTILES, draw_rows
from ies_helpers.segmentation.architectures import ARCHITECTURES
from ies_helpers.segmentation.formats import PUBLISHED, load_network, seed_words
from ies_helpers.segmentation.lesions import GROUPS
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.folder import MAPS, SavedMap, Scans, fingerprint, pixels_of, read_maps, write_table

MEASURE_COLUMNS = [
    *("subject", "network", "lesion", "group", "voxels", "method", "measure", "value", "unit", "reason"),
    *("lesion_id", "path"),
]

REMOVAL_COLUMNS = ["subject", "network", "lesion", "group", "method", "curve", "voxels", "fraction", "score"]

RANKING_COLUMNS = [
    *("network", "measure", "better", "rank", "method", "mean", "low", "high", "first"),
    *("lesions", "subjects", "left_out"),
]


def evaluate_maps(
    maps: Sequence[SavedMap],
    *,
    networks: Mapping[str, Network] | None = None,
    seed: int = 0,
    progress: bool = False,
    subjects: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure every map, of any number of subjects, networks and methods, on its own lesion.

    With `networks`, those that made the maps (`networks_of`), voxels are removed and the network is asked again by
    `road` and `deletion`; subjects are loaded as the sidecars say, or from where `subjects` say that they lie now.
    `seed` is of the shuffles and of the noise.

    Returns:
        Measures, a row a map and column of `MEASURES`; where a value is NaN its `reason` says why. Then the curves: the
        score with so many voxels removed.
    """
    rows, points = list[dict[str, Any]](), list[dict[str, Any]]()
    scans, named = Scans(subjects), list(zip(maps, names_of(maps), strict=True))
    for saved, (network, method) in tqdm(named, desc="Measuring", unit="map", disable=not progress):
        saliency, lesion, affine = saved.load()
        whose = {key: saved.record[key] for key in ("subject", "lesion", "group", "voxels")}
        whose |= {"network": network, "method": method, "lesion_id": _identity(saved), "path": str(saved.images[0])}
        mapped = MappedLesion(saliency, lesion, affine, saved.modalities)
        if networks is None:
            scans.notice(saved)
        else:
            found = _ask_without(saved, saliency, lesion, networks[saved.record["digest"]], scans, seed)
            points += [whose | point for point in _points(*found)]
            mapped = replace(mapped, road=found[0], deletion=found[1])
        values, reasons = measure_map(mapped)
        for column, value in values.items():
            row = measure_of(column)
            unit = saved.record["unit"] if row is not None and row.in_unit else ""
            rows.append(whose | {"measure": column, "value": value, "unit": unit, "reason": reasons.get(column, "")})
    return pd.DataFrame(rows, columns=MEASURE_COLUMNS), pd.DataFrame(points, columns=REMOVAL_COLUMNS)


def _ask_without(
    saved: SavedMap, saliency: Saliency, lesion: LabelMap, network: Network, scans: Scans, seed: int
) -> tuple[Road, Curve]:
    """What the network says without the voxels that the map calls relevant."""
    network, subject = prepare(network, scans(saved))
    image, explained = subject.image, saved.record.get("image")
    if explained and explained != fingerprint(pixels_of(image), np.argwhere(lesion.numpy())):
        of = saved.record["subject"]
        warnings.warn(f"The image of {of} is not bit for bit the one explained; scores may differ.", stacklevel=2)
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


def networks_of(maps: Sequence[SavedMap], network: str | None = None, **options: Any) -> dict[str, Network]:
    """The networks that made maps, by the hash of their weights.

    `network` and `options` are for `load_network`; None takes what the sidecars name, if it is shipped or published.
    """
    known = {word.replace(":", "-"): word for word in (*ARCHITECTURES, PUBLISHED, *seed_words())}
    found: dict[str, Network] = {}
    for saved in maps:
        name, digest = saved.record["network"], saved.record["digest"]
        if digest in found:
            continue
        if network is None and name not in known:
            raise ValueError(f"Only shipped networks are found by name, got {name!r}; give its file by --network.")
        loaded = load_network(network or known[name], **options)
        if loaded.digest() != digest:
            met = f"{saved.title} was explained with {name} {digest}, got {loaded.name} {loaded.digest()}"
            remedy = "give its file by --network, one network at a time"
            raise ValueError(f"Only the network that made a map can be asked about it: {met}; {remedy}.")
        found[digest] = loaded
    return found


# What maps are called: network and method in as few words as tell them apart.

WORTH_TELLING = ("through", "layer", "draws", "seed", "noise")  # beside a sidecar's settings, where maps differ


def names_of(maps: Sequence[SavedMap]) -> list[tuple[str, str]]:
    """Network and method of each map; refused if two maps of one lesion have the same.

    A method is its name and aggregation (`smoothgrad max`), and of `WORTH_TELLING` what differs among the maps that
    share them (`smoothgrad max, 50 draws`). A network whose name several have is told by its hash too.
    """
    digests, kinds = defaultdict(set), defaultdict(lambda: defaultdict(set))
    for record in (saved.record for saved in maps):
        digests[record["network"]].add(record["digest"])
        for key, words in _settings_in_words(record).items():
            kinds[record["digest"], _kind(record)][key].add(words)
    named, owner = [], {}
    for saved in maps:
        record = saved.record
        several = kinds[record["digest"], _kind(record)]
        method = ", ".join([_kind(record), *(w for k, w in _settings_in_words(record).items() if len(several[k]) > 1)])
        alone = len(digests[record["network"]]) == 1
        network = record["network"] if alone else f"{record['network']} {record['digest'][:6]}"
        first = owner.setdefault((record["subject"], _identity(saved), network, method), saved)
        if first is not saved:
            where = f"that of {saved.title} by {method} is in {first.folder} and in {saved.folder}"
            raise ValueError(f"A lesion must have one map of a method; {where}. Leave one of them out.")
        named.append((network, method))
    return named


def _kind(record: dict[str, Any]) -> str:
    frozen = "frozen" if record.get("statistics") == "frozen" else ""
    return " ".join(filter(None, (record["method"], record.get("aggregate"), frozen)))


def _settings_in_words(record: dict[str, Any]) -> dict[str, str]:
    """Each setting: `50 draws`, `seed 0`, `baseline zero`."""
    words = {key: f"{key} {record.get(key)}" for key in WORTH_TELLING}
    words["draws"] = "draws auto" if record.get("tolerance") is not None else f"{record.get('draws')} draws"
    return words | {key: f"{key} {value}" for key, value in (record.get("settings") or {}).items()}


def _identity(saved: SavedMap) -> str:
    """A lesion's fingerprint; its number, if the sidecar has none."""
    return saved.record.get("image") or f"lesion {saved.record['lesion']} of {saved.record['subject']}"


# Many maps in few numbers.


def summarise_measures(measures: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method, group of lesions (`all` too) and measure of what `evaluate_maps` gives.

    Its columns: `network, method, group, measure, unit, subjects, n, nan, mean, sd` (ddof 1, NaN from one value)`, q25,
    median, q75`; `n` maps, of so many subjects, have a value, `nan` have none.
    """
    if measures.empty:
        raise ValueError("There must be a measured map to summarise, the table has none.")
    every = pd.concat([measures.assign(group="all"), measures], ignore_index=True)
    keys, rows = ["network", "method", "group", "measure"], []
    for key, part in every.groupby(keys, sort=False):
        names: Any = key
        values = part["value"].dropna()
        low, middle, high = values.quantile([0.25, 0.5, 0.75])
        numbers = {"unit": part["unit"].iloc[0], "subjects": part.loc[values.index, "subject"].nunique()}
        numbers |= {"n": len(values), "nan": len(part) - len(values), "mean": values.mean(), "sd": values.std(ddof=1)}
        rows.append(dict(zip(keys, names, strict=True)) | numbers | {"q25": low, "median": middle, "q75": high})
    order = {group: n for n, group in enumerate(("all", *GROUPS))}
    return pd.DataFrame(rows).sort_values("group", key=lambda names: names.map(order), kind="stable")


def rank_methods(measures: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Methods in order, for each network and measure of which one end is better, with intervals.

    Compared are only lesions for which every method has a value: methods that explained other lesions would be
    compared on those. The intervals resample subjects, and within each drawn subject its lesions (`draw_rows`), the
    same for all methods. With one subject only lesions are resampled, and the interval is about that subject alone.
    Networks find different lesions, so each has a ranking of its own.

    Returns:
        `network, measure, better, rank` (methods of equal mean share the smaller)`, method, mean, low, high, first`
        (share of resamples in which its mean is the best, or shares it)`, lesions, subjects, left_out`: lesions
        without a value of every method. Where no lesion is left the numbers are NaN.
    """
    chosen: Any = measures[measures["measure"].isin(list(ranked_measures()))]
    tables = [
        _rank(part, measure, resamples, seed).assign(network=network)
        for (network, measure), part in chosen.groupby(["network", "measure"], sort=False)
    ]
    if not tables:
        return pd.DataFrame(columns=RANKING_COLUMNS)
    return pd.concat(tables, ignore_index=True).reindex(columns=RANKING_COLUMNS)


def _rank(part: pd.DataFrame, measure: str, resamples: int, seed: int) -> pd.DataFrame:
    twice = part[part.duplicated(["subject", "lesion_id", "method"])]
    if len(twice):
        row: Any = twice.iloc[0]
        more = f"{row['lesion_id']} of {row['subject']} has more of {row['method']}"
        raise ValueError(f"A lesion must have one {measure} of each method, {more}; drop repeated rows.")
    # (lesions, methods), and of these only the lesions that every method has a value for
    wide = part.pivot(index=["subject", "lesion_id"], columns="method", values="value")
    whole, better = wide.dropna(), MEASURES[measure].better
    table = pd.DataFrame({"measure": measure, "better": better, "method": wide.columns})
    if whole.empty:
        return table.assign(rank=np.nan, mean=np.nan, lesions=0, subjects=0, left_out=len(wide))
    # (resamples, methods) means of the same resamples for all methods
    values, subjects = whole.to_numpy(), whole.index.get_level_values("subject")
    means = np.stack([values[rows].mean(axis=0) for rows in draw_rows(subjects, resamples, seed)])
    sign = 1.0 if better == "higher" else -1.0
    low, high = np.percentile(means, PERCENTILES, axis=0)
    first = (sign * means == (sign * means).max(axis=1, keepdims=True)).mean(axis=0)
    table = table.assign(mean=values.mean(axis=0), low=low, high=high, first=first)
    table = table.assign(lesions=len(whole), subjects=subjects.nunique(), left_out=len(wide) - len(whole))
    table["rank"] = (-sign * table["mean"]).rank(method="min").astype(int)
    return table.sort_values("rank", kind="stable")


# The same in print: tables of strings, in Markdown and LaTeX.

# what pandas writes or leaves, and what is wanted in its place: rules that need no package, signs
IN_LATEX: dict[str, str] = dict.fromkeys((r"\toprule", r"\midrule", r"\bottomrule"), r"\hline")
IN_LATEX |= {"±": r"$\pm$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def headline(summary: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method and group: how many maps, then `mean ± sd` of each measure that is ranked."""
    shown: Any = summary[summary["measure"].isin(list(ranked_measures()))]
    ranked = {name: row for name, row in ranked_measures().items() if name in set(shown["measure"])}
    rows = []
    for names, part in shown.groupby(["network", "method", "group"], sort=False):
        cells: dict[str, str] = dict(zip(("network", "method", "group"), names, strict=True))
        cells["maps"], numbers = str(int((part["n"] + part["nan"]).max())), part.set_index("measure")
        for name, row in ranked.items():
            heading = f"{row.title} {'↑' if row.better == 'higher' else '↓'}"
            cells[heading] = _spread(numbers.loc[name]) if name in numbers.index else "–"
        rows.append(cells)
    return pd.DataFrame(rows)


def standings(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking as people print it: one row for each network, measure and method, the best first."""
    rows = []
    for row in ranking.to_dict("records"):
        known = not pd.isna(row["mean"])
        cells = {"network": row["network"], "measure": MEASURES[row["measure"]].title}
        cells |= {"rank": f"{row['rank']:.0f}" if known else "–", "method": row["method"], "mean": _number(row["mean"])}
        cells["95 % interval"] = f"{_number(row['low'])} to {_number(row['high'])}" if known else "–"
        cells |= {"first": f"{row['first']:.0%}" if known else "–", "lesions": str(row["lesions"])}
        rows.append(cells)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of strings in Markdown, its columns aligned."""
    cells = [[str(c).replace("|", "\\|") for c in row] for row in (list(table.columns), *table.to_numpy().tolist())]
    widths = [max(3, *(len(row[n]) for row in cells)) for n in range(len(table.columns))]
    cells.insert(1, ["-" * width for width in widths])
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "".join(f"| {line} |\n" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """A table of strings as a LaTeX `tabular`, which needs no package."""
    text = table.to_latex(index=False, escape=True)
    return re.sub("|".join(map(re.escape, IN_LATEX)), lambda found: IN_LATEX[found[0]], text)


def _spread(row: Any) -> str:
    spread = "" if pd.isna(row["sd"]) else f" ± {_number(row['sd'])}"
    missing = f" ({int(row['nan'])} NaN)" if row["nan"] else ""
    return f"{_number(row['mean'])}{spread}{missing}"


def _number(value: float) -> str:
    """Three decimals, or two digits where these would be zero."""
    if pd.isna(value):
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


# The lesion table of a subject, with what its maps say as further columns.


def add_measures(folder: Path, subject: str, maps: Iterable[Path | str] | None = None) -> pd.DataFrame:
    """Bring `sub-<subject>/lesions.tsv` up to date with what the finished maps of the subject's lesions measure.

    A column is called by the map and the measure, `smoothgradmax_flair_max`: the largest value in FLAIR, in the map's
    unit; which measures, `Measure.kept` says. What was not explained, or does not exist, has no value. Only maps that
    the table lacks, that are newer than it, or whose images, as `save_map` or `maps.tsv` name them, are among `maps`,
    are read from disk. Returns the table.
    """
    folder = Path(folder)
    path = folder / f"sub-{subject}" / "lesions.tsv"
    table = pd.read_csv(path, sep="\t", encoding="utf-8-sig").dropna(subset=["lesion"]).astype({"lesion": int})
    table, written = table.set_index("lesion", drop=False), path.stat().st_mtime_ns
    just_made = {(folder / image).resolve() for image in maps or ()}
    before = table[[column for column in table if _is_kept(column.partition("_")[2])]].copy()
    table[before.columns], methods = np.nan, dict[str, None]()  # in the order of lesions and files, whoever ran first
    for saved in read_maps(folder, subject) if any((folder / f"sub-{subject}" / "anat").glob(MAPS)) else ():
        lesion = saved.record["lesion"]
        method = saved.stem.rpartition("_desc-")[2].rpartition("L")[0]  # sub-demo_desc-smoothgradmaxL003
        methods[method] = None
        if lesion not in table.index:  # a control, or a mask drawn by hand: no prediction numbered it
            row = {key: [saved.record[key]] for key in ("lesion", "group", "voxels")}
            table = pd.concat([table, pd.DataFrame(row, index=[lesion])])
        own = [column for column in before if column.startswith(f"{method}_")]
        newer = any(i.stat().st_mtime_ns > written or i.resolve() in just_made for i in saved.images)
        if not newer and lesion in before.index and before.loc[lesion, own].notna().any():
            table.loc[lesion, own] = before.loc[lesion, own]
            continue
        values, _ = measure_map(MappedLesion(*saved.load(), saved.modalities))
        for column in filter(_is_kept, values):
            table.loc[lesion, f"{method}_{column}"] = values[column]
    measured = [column for column in table if _is_kept(column.partition("_")[2])]
    by_method = [column for method in methods for column in measured if column.startswith(f"{method}_")]
    table = table.reindex(columns=[*table.columns.difference(measured, sort=False), *by_method]).reset_index(drop=True)
    write_table(path, table)
    return table


def _is_kept(column: str) -> bool:
    row = measure_of(column)
    return row is not None and row.kept
