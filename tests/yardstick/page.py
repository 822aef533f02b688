"""The yardstick's table, its list of failures and its figure, from rows and maps that were measured."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tests.yardstick import cases
from tests.yardstick.measure import COLUMNS, COST, Row
from tests.yardstick.methods import METHODS, Method
from tests.yardstick.score import NAMES, PASS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "notebooks" / "book" / "yardstick.md"
FIGURE = ROOT / "notebooks" / "book" / "images" / "yardstick.png"
RESULTS = Path(__file__).with_name("results.csv")

SHOWN = {  # in the figure: what it is called there
    "ies-helpers: SmoothGrad, mean": "ies-helpers\nSmoothGrad, mean",
    "ies-helpers: Grad-CAM++ of one lesion": "ies-helpers\nGrad-CAM++\nof one lesion",
    "captum: NoiseTunnel(Saliency)": "captum\nSmoothGrad",
    "grad-cam: HiResCAM": "grad-cam\nHiResCAM",
    "torchcam: LayerCAM": "torch-cam\nLayerCAM",
    "monai: GradCAMpp": "MONAI\nGrad-CAM++",
    "grad-cam: GradCAMPlusPlus": "grad-cam\nGrad-CAM++",
    "torchcam: GradCAMpp": "torch-cam\nGrad-CAM++",
    "nnunetv2-cam: gradcam": "nnunetv2-cam\nGrad-CAM",
    "monai: GradCAM (default)": "MONAI\nGrad-CAM,\nby default",
}
DRAWN = (cases.away, cases.painted, cases.two_lesions)


def save(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows, written to `results.csv` and read again, so that what is shown is what is kept."""
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    table.to_csv(RESULTS, index=False, float_format="%.3g", lineterminator="\n")
    return load()


def load() -> pd.DataFrame:
    """What was measured last."""
    return pd.read_csv(
        RESULTS,
        dtype={"version": str},
        keep_default_na=False,
        na_values={c: [""] for c in (*NAMES, "seconds", "gigabytes")},
    )


def rows_of(table: pd.DataFrame, method: Method) -> pd.DataFrame:
    """Those of one method."""
    same = (table["library"] == method.library) & (table["method"] == method.name)
    return table[same & (table["default"].astype(str) == str(method.default))]


def cell(rows: pd.DataFrame, name: str) -> str:
    """The worst of all cases, bold where it is not enough and then in how many; a dash where nothing is asked."""
    values = rows[name].dropna()
    if values.empty:
        return "-"
    wrong = int((values < PASS[name]).sum())
    return f"**{values.min():.2f}** {wrong}/{len(values)}" if wrong else f"{values.min():.2f}"


def line(table: pd.DataFrame, method: Method) -> str:
    """One row of the table in Markdown."""
    rows = rows_of(table, method)
    true, cost = rows[rows["case"] != COST], rows[rows["case"] == COST]
    head = f"| {method.library} {method.name} |"
    errors = [error for error in true["error"] if error]
    if len(errors) == len(true):
        return f"{head} did not run | | | | | | |"
    seconds, memory = (cost[name].dropna() for name in ("seconds", "gigabytes"))
    spent = f"{seconds.iloc[0]:.2f} | {1000 * memory.iloc[0]:.0f}" if len(seconds) else "- | -"
    return f"{head} {' | '.join(cell(true, name) for name in NAMES)} | {spent} |"


def markdown(table: pd.DataFrame, *, default: bool) -> str:
    """The table of best or of default configurations."""
    head = f"| method | {' | '.join(NAMES)} | s | MB |"
    lines = [line(table, method) for method in METHODS if method.default == default]
    return "\n".join([head, "|---|" + "---|" * 7, *lines])


def failures(table: pd.DataFrame, *, default: bool) -> list[str]:
    """One line for each reason and library: which methods, in what, on which cases."""
    found: dict[tuple[str, str], list[tuple[str, str, list[str]]]] = {}
    for method in (m for m in METHODS if m.default == default):
        rows = rows_of(table, method)
        for error in dict.fromkeys(error for error in rows["error"] if error):
            reason = f"`{error}`" + (f"; {method.fails['runs']}" if "runs" in method.fails else "")
            where = list(rows["case"][rows["error"] == error])
            found.setdefault((method.library, reason), []).append((method.name, "it does not run", where))
        for name in NAMES:
            where = list(rows["case"][rows[name] < PASS[name]])
            if where:
                reason = method.fails.get(name, "no reason was found yet")
                found.setdefault((method.library, reason), []).append((method.name, name, where))
    return [in_one_line(library, reason, entries) for (library, reason), entries in found.items()]


def in_one_line(library: str, reason: str, entries: list[tuple[str, str, list[str]]]) -> str:
    """`- **captum**, LayerGradCam: place, silence (two lesions). Weights are ...`"""
    methods, what = (", ".join(dict.fromkeys(entry[n] for entry in entries)) for n in range(2))
    hit = {case for _, _, where in entries for case in where}
    order = [*(make().name for make in cases.ALL), COST]
    reason = reason if reason.startswith("`") else reason[0].upper() + reason[1:]
    return f"- **{library}**, {methods}: {what} ({whose([c for c in order if c in hit])}). {reason}."


def whose(names: Iterable[str]) -> str:
    """Cases in words."""
    names = list(names)
    return "all cases" if len(set(names) - {COST}) == len(cases.ALL) else ", ".join(names)


def settings(table: pd.DataFrame, *, default: bool) -> list[str]:
    """How each method was called."""
    chosen = [m for m in METHODS if m.default == default]
    numbers = {m.library: (rows_of(table, m)["version"].iloc[0] or "not installed") for m in chosen}
    return [f"- {m.library} {numbers[m.library]}, {m.name}, which claims *{m.quantity}*: {m.how}." for m in chosen]


def put(text: str, name: str, content: str) -> str:
    """The page with what stands between its two comments of this name replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"The page must have a place for {name!r}, between two comments; it has none.")
    return re.sub(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL)


def renew(text: str, table: pd.DataFrame) -> str:
    """The page with all that was measured in its places."""
    rows = [f"| {case.name} | {case.asks} |" for case in (make() for make in cases.ALL)]
    text = put(text, "table of cases", "\n".join(["| case | what is true of it |", "|---|---|", *rows]))
    formulas = [f"- *{name}*: `{kind.formula}`" for name, kind in cases.QUANTITIES.items()]
    text = put(text, "formulas", "\n".join(formulas))
    for name, default in (("best", False), ("default", True)):
        text = put(text, f"table of {name}", markdown(table, default=default))
        text = put(text, f"failures of {name}", "\n".join(failures(table, default=default)))
        text = put(text, f"settings of {name}", "\n".join(settings(table, default=default)))
    return text


# The figure.


def draw(maps: Path, path: Path = FIGURE) -> None:
    """A slice of three cases: the image, where the network looks, and what methods show, each to its own maximum."""
    made = [make() for make in DRAWN]
    plt.rcParams["font.size"] = 10
    figure, axes = plt.subplots(len(SHOWN) + 2, len(made), figsize=(7.2, 19.5), layout="constrained")
    for column, case in zip(axes.T, made, strict=True):
        k = int(np.argwhere(case.lesion)[:, 2].mean().round())
        column[0].imshow(case.image[0, :, :, k].T, cmap="gray", origin="lower")
        column[0].set_title(case.name)
        panel(column[1], case, case.truth("gradient"), k)
        for ax, title in zip(column[2:], SHOWN, strict=True):
            file = maps / f"{title}, {case.name}.npy"
            panel(ax, case, np.load(file) if file.exists() else None, k)
        for ax in column:
            ax.contour(case.lesion[:, :, k].T, [0.5], colors="tab:green", linewidths=1.5)
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, title in zip(axes[:, 0], ["FLAIR", "the truth:\nthe gradient", *SHOWN.values()], strict=True):
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def panel(ax: plt.Axes, case: cases.Case, values: np.ndarray | None, k: int) -> None:
    """One map's FLAIR, or all of it where it does not tell modalities apart."""
    if values is None:
        ax.text(0.5, 0.5, "did not run", ha="center", va="center", transform=ax.transAxes)
        return
    cut = values[0, :, :, k].T
    top = np.abs(cut).max() or 1
    ax.imshow(cut, cmap="RdBu_r", vmin=-top, vmax=top, origin="lower")
    ax.contour(case.looks[:, :, k].T, [0.5], colors="black", linewidths=0.8, linestyles="dotted")
