"""Small results and tables that charts are drawn of, and measures averaged."""

import numpy as np
import pandas as pd

from ies_helpers.measures.refine import Refined, refine
from ies_helpers.measures.removal import Curve, Road
from ies_helpers.measures.sanity import AS_TRAINED, SHUFFLED

NAN = float("nan")

# Scores as voxels go, layers are made random, lesions grow brighter or tissue is shown.


def road_that_falls(fall: float) -> Road:
    """A lesion of 0.8 whose score falls by `fall` at each fraction."""
    morf = 0.8 - fall * np.arange(1, 4)
    return Road(np.array([0.001, 0.01, 0.1]), np.array([1, 10, 100]), 0.8, morf, np.full(3, 0.8), 0.0)


def curve_of(scores: list[float]) -> Curve:
    """Scores after 0, 1, 10 and 100 voxels."""
    return Curve(np.array([0, 1, 10, 100]), np.array(scores), 0.0)


def layers_table(
    values: list[float], names: tuple[str, ...] = ("model.2.conv", "model.1.submodule.0.conv")
) -> pd.DataFrame:
    """A row a layer made random, from first to last the trained network's map and the shuffled one."""
    return pd.DataFrame({"layer": [AS_TRAINED, *names, SHUFFLED], "spearman": values, "ssim": np.flip(values)})


CONTRASTS = [0.0, 1.0, 2.0]
SCORES = {("unet", 5): [0.0, 0.2, 0.8], ("unet", 9): [0.1, 0.6, 1.0], ("nnunet", 5): [0.3, 0.5, 0.7]}


def doses() -> pd.DataFrame:
    """Two lesions of one network, one of another; seen above 0.45; the rows shuffled."""
    rows = [
        ("toy", network, i, 1, 1, 60.0, contrast, score, score > 0.45)
        for (network, i), scores in SCORES.items()
        for contrast, score in zip(CONTRASTS, scores, strict=True)
    ]
    columns = ["subject", "network", "i", "j", "k", "size_mm3", "contrast", "score", "seen"]
    return pd.DataFrame(rows, columns=columns)


def hidden_tissue(subjects: int = 1, network: str = "unet", fill: str = "zero", spacing: float = 1.0) -> pd.DataFrame:
    """Two lesions a subject at 0, 1, 2 voxels; the n-th subject's scores rise by n / 10."""
    rows = pd.DataFrame({"distance_mm": np.arange(3) * spacing, "score": [0.1, 0.3, 0.5], "seen": [False, True, True]})
    about = {"group": "TP", "network": network, "fill": fill, "full_score": 0.5, "volume_mm3": 90.0}
    return pd.concat(
        [
            rows.assign(**about, subject=f"s{spacing}{n}", lesion=k, score=rows["score"] + n / 10)
            for n in range(subjects)
            for k in (1, 2)
        ]
    )


def mean_scores(name: str, lesion: int, voxels: list[int], scores: list[float]) -> pd.DataFrame:
    """Rows of one curve of one lesion, as `ies evaluate` keeps them."""
    told = {"subject": "a", "network": "unet", "lesion": lesion, "group": "TP", "method": "m", "curve": name}
    rows = {"voxels": voxels, "fraction": [v / 1000 for v in voxels], "score": scores}
    return pd.DataFrame(rows).assign(**told)


# Lesions of groups, and what maps of them measure.


def lesions(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """(subject, group) -> values, as a table."""
    rows = [(subject, group, value) for (subject, group), many in values.items() for value in many]
    return pd.DataFrame(rows, columns=["subject", "group", "peak"])


PEAKS_OF_LESIONS = {
    ("b", "TP"): [5.0, 6.0, 7.0],
    ("a", "TP"): [3.0, 4.0],
    ("b", "FP"): [2.0, 1.0],
    ("c", "FP"): [3.0, 4.0, 5.0],
    ("a", "TN"): [0.5, 0.6, 0.7, 0.8],
}


def peaks_of_lesions() -> pd.DataFrame:
    """A row a lesion of `PEAKS_OF_LESIONS`, by its peak and the same below zero."""
    rows = [(subject, group, value, -value) for (subject, group), many in PEAKS_OF_LESIONS.items() for value in many]
    return pd.DataFrame(rows, columns=["subject", "group", "peak", "other"])


def table(values: dict[str, list[float]], measure: str = "energy", subjects: str = "", network: str = "unet"):
    """Tidy rows: a list of values a method, one a lesion; `subjects` names each lesion's subject by a letter."""
    rows = [
        (subject, network, "FN" if n % 2 else "TP", method, measure, value, "", f"{network}{n}")
        for method, its in values.items()
        for n, (value, subject) in enumerate(zip(its, subjects or "a" * len(its), strict=True))
    ]
    columns = ["subject", "network", "group", "method", "measure", "value", "unit", "lesion_id"]
    return pd.DataFrame(rows, columns=columns)


def judged_by_size() -> Refined:
    """Six subjects whose false lesions are smaller, beside a feature that knows nothing; one was missed in each."""
    rng = np.random.default_rng(0)
    table = lesions({(s, g): [0.0] * n for s in "abcdef" for g, n in (("TP", 6), ("FP", 4), ("FN", 1))})
    size = np.where(table["group"] == "FP", 20.0, 60.0) * np.exp(rng.standard_normal(len(table)) / 2)
    table = table.assign(voxels=np.ceil(size), probability=rng.random(len(table)), x_mean=rng.random(len(table)))
    return refine(table, folds=3, resamples=50, permutations=0)
