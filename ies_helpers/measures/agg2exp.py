"""What a network's classes depend on, over many patients: from a table of masses such as Agg2Exp publishes.

One row a patient, columns `A_explanation_in_B_mass` for every explained A and structure B; `A_dice` where the quality
of the segmentation is known. `wide_table` makes such tables of our own maps, with lesions or classes for A.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

MASS_COLUMN = re.compile(r"^(.+)_explanation_in_(.+)_mass$")


def read_dependencies(path: str | Path) -> pd.DataFrame:
    """A table of masses, checked: `fetch("agg2exp")["table"]` is the path of the published one."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"A table of masses must be a CSV file, there is none at {path}; see fetch('agg2exp').")
    try:
        table = pd.read_csv(path, dtype={"patient": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"A table of masses must be CSV, {path.name} is not readable as one ({error}).") from error
    masses(table, path.name)
    return table


def masses(table: pd.DataFrame, name: str = "the table") -> np.ndarray:
    """`(patients, explained, structures)` masses, in the order of `explained` and `structures`."""
    rows, columns = explained(table), structures(table)
    wanted = [_mass(a, b) for a in rows for b in columns] + ["patient"]
    missing = [column for column in wanted if column not in table.columns]
    if missing or not rows or table.empty:
        lacks = f"lacks {len(missing)}, such as {missing[0]}" if missing else "has no row"
        needed = "`patient` and A_explanation_in_B_mass for every explained A and structure B"
        met = f"{name} {lacks if rows else 'has none'}"
        raise ValueError(f"A table of masses needs {needed}; {met}. Fetch it anew, or write it by wide_table.")
    cells = table[wanted[:-1]]
    numbers = cells.apply(pd.to_numeric, errors="coerce")
    for row, column in np.argwhere((numbers.isna() & cells.notna()).to_numpy())[:1]:
        where = f"row {row + 1} (patient {table['patient'].iat[row]}), column {wanted[column]}"
        met = f"{name} has {cells.iat[row, column]!r} in {where}"
        raise ValueError(f"Masses must be numbers, or empty where not known; {met}. Mend it.")
    values = numbers.to_numpy(dtype=np.float64)
    if (values < 0).any() or (values > 1 + 1e-6).any():
        ends = f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
        raise ValueError(f"Masses must be shares, 0 to 1; {name} has values from {ends}.")
    for patient in table.loc[table["patient"].duplicated(), "patient"]:
        raise ValueError(f"A patient must have one row, {patient} has more in {name}; drop repeated rows.")
    return values.reshape(len(table), len(rows), len(columns))


def explained(table: pd.DataFrame) -> list[str]:
    """Names of what is explained, in the table's order."""
    return list(dict.fromkeys(match[1] for match in map(MASS_COLUMN.match, table.columns) if match))


def structures(table: pd.DataFrame) -> list[str]:
    """Names of the structures, in the table's order."""
    return list(dict.fromkeys(match[2] for match in map(MASS_COLUMN.match, table.columns) if match))


def dependency_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Mean mass over patients, explained (rows) x structures (columns); patients without a value are left out."""
    values = masses(table)
    known = (~np.isnan(values)).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.where(known, known, np.nan)
    return pd.DataFrame(mean, index=explained(table), columns=structures(table))


def strongest_dependencies(
    matrix: pd.DataFrame, each: int = 3, *, without: Sequence[str] = ("background",)
) -> pd.DataFrame:
    """Edges of a directed graph: for each explained thing the structures that have most of its map, itself aside.

    At most `each` edges leave one; what is `without`, being no thing, is left out, but masses are not divided anew.
    Columns `explained structure mass`, strongest first.
    """
    if each < 1:
        raise ValueError(f"each must be at least one edge, got {each}.")
    kept = matrix.drop(index=list(without), columns=list(without), errors="ignore")
    edges = []
    for name in kept.index:
        row = kept.loc[name].drop(name, errors="ignore").dropna()
        edges += [(name, other, mass) for other, mass in row.nlargest(each).items() if mass > 0]
    table = pd.DataFrame(edges, columns=["explained", "structure", "mass"])
    return table.sort_values("mass", ascending=False, kind="stable", ignore_index=True)


def outliers(table: pd.DataFrame, reference: pd.DataFrame | None = None, *, seed: int = 123) -> pd.DataFrame:
    """Patients whose map of a class lies elsewhere than usual: an isolation forest on its masses, a class at a time.

    Source: Agg2Exp's notebook, which fits on training patients. Only the table of 32 test patients is published, so
    without a `reference` the forest is fitted to the very patients it judges: it then finds the odd ones among them,
    and `outlier` follows the forest's own threshold, not a known rate. The seed is that of the notebook.

    Returns:
        One row a patient and class: `patient explained score outlier own_mass dice`. `score` is the forest's decision
        function, below 0 an outlier; `own_mass` the share of the map in the class itself; `dice` NaN if not known.
    """
    from sklearn.ensemble import IsolationForest

    values, fitted = masses(table), masses(table if reference is None else reference)
    names = explained(table)
    if reference is not None and (explained(reference) != names or structures(reference) != structures(table)):
        raise ValueError("table and reference must have the same classes in the same order; keep their common columns.")
    if np.isnan(values).any() or np.isnan(fitted).any():
        raise ValueError("Masses must have values for outliers, some are NaN; leave out structures that are not there.")
    rows = []
    for n, name in enumerate(names):
        score = IsolationForest(random_state=seed).fit(fitted[:, n]).decision_function(values[:, n])
        columns = {"patient": table["patient"], "explained": name, "score": score, "outlier": score < 0}
        columns |= {"own_mass": table.get(_mass(name, name), np.nan), "dice": table.get(f"{name}_dice", np.nan)}
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def dice_correlation(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of Dice with the outlier score and with the mass in the class itself, by class.

    Of what `outliers` found; the last row, `mean over classes`, is that of the patients' means. Where it has no value
    (fewer than four patients with a Dice coefficient, or all alike, or one unknown) it is NaN and `reason` says why.
    Columns `explained patients score_rho score_p own_mass_rho own_mass_p reason`; p is not corrected for many classes.
    """
    means, rows = found.groupby("patient", as_index=False)[["score", "own_mass", "dice"]].mean(), []
    for name, rest in [*found.groupby("explained", sort=False), ("mean over classes", means)]:
        some = rest.dropna(subset=["dice"])
        few = len(some) < 4
        flat = [c for c in ("dice", "score", "own_mass") if not few and (some[c].nunique() < 2 or some[c].isna().any())]
        reason = f"{len(some)} patients with dice" if few else f"{', '.join(flat)} constant or unknown" if flat else ""
        row = {"explained": name, "patients": len(some)}
        for column in ("score", "own_mass"):
            alike = few or "dice" in flat or column in flat
            rho, p = (np.nan, np.nan) if alike else spearmanr(some["dice"], some[column])
            row |= {f"{column}_rho": rho, f"{column}_p": p}
        rows.append(row | {"reason": reason})
    return pd.DataFrame(rows)


def simulated_table(patients: int = 32, *, odd: int = 3, seed: int = 0) -> pd.DataFrame:
    """A made-up table in the published form, for trying things where nothing can be downloaded: it shows no finding.

    Six classes in a row, of which each has neighbours; masses are Dirichlet. The last `odd` patients are scanned
    amiss: their maps lie in the background more, and their Dice coefficients are lower.
    """
    names = ["background", "aorta", "heart", "lung_left", "lung_right", "ribs"]
    rng, rows, near = np.random.default_rng(seed), [], np.arange(6)
    for n in range(patients):
        amiss = n >= patients - odd
        row: dict[str, object] = {"patient": f"s{n:04d}"}
        for a, name in enumerate(names):
            strength = 40 * np.exp(-np.abs(near - a) / 1.5) * np.where(near == 0, 8.0 if amiss else 3.0, 1.0)
            shares = rng.dirichlet(strength)
            row |= {_mass(name, other): share for other, share in zip(names, shares, strict=True)}
            row[f"{name}_dice"] = float(np.clip(rng.normal(0.7 if amiss else 0.9, 0.03), 0, 1))
        rows.append(row)
    return pd.DataFrame(rows)


def _mass(explained: str, structure: str) -> str:
    return f"{explained}_explanation_in_{structure}_mass"
