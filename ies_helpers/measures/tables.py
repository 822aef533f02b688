"""Summaries as people print them: a table of means in Markdown and LaTeX."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ies_helpers.measures.ranking import RANKED

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
