"""What a map lies in: Agg2Exp's two measures, for any explained thing i and any structure j.

With A_i the map of a class or a lesion, phi its part (`abs`, `positive` or `negative`) added over modalities, and j
a set of voxels:

    mass_ij = sum over j of phi(A_i) / sum of phi(A_i)          mean_ij = sum over j of phi(A_i) / |j|

Source: Chrabaszcz et al., "Aggregated attributions for explanatory analysis of 3D segmentation models" (WACV 2025,
arXiv 2407.16653). Departures: j need not be a class of the same network, structures may overlap, and what has no value
is NaN with a reason (there an absent structure has mass 0, and mean NaN without a word).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ies_helpers.measures.maps import SignPart, part_of
from ies_helpers.types import Saliency

Structures = Mapping[str, np.ndarray | torch.Tensor]
"""Name -> mask `(I, J, K)`, bool or 0 and 1. Masks may overlap."""

PARTS: tuple[SignPart, ...] = ("abs", "positive", "negative")

SUFFIX = {"abs": "", "positive": "_pos", "negative": "_neg"}
"""What Agg2Exp's columns end with."""


def structure_table(
    maps: Mapping[str, Saliency], structures: Structures, *, parts: Sequence[SignPart] = PARTS, subject: str = ""
) -> pd.DataFrame:
    """Mass and mean of every map in every structure, tidy: one row an explained thing, structure and part.

    Args:
        maps: name of what is explained -> its signed map, `(C, I, J, K)` or `(I, J, K)`.
        structures: name -> mask on the maps' grid; see also `labelled`, `masks.read_structures` and `surroundings`.
        parts: of the signed maps.
        subject: whose maps they are, for the first column.

    Returns:
        Columns `subject explained structure part voxels mass mean map_mean map_var reason`. `mass` is a share, 0 to 1;
        `mean` has the map's unit; `map_mean` and `map_var` are of the raw signed values. Where mass or mean is NaN,
        `reason` says why.

    Raises:
        ValueError: for a mask on another grid than a map, or with values other than 0 and 1.
    """
    if not maps or not structures:
        raise ValueError(f"There must be a map and a structure, got {len(maps)} and {len(structures)}.")
    masks = {name: _flat(name, mask, next(iter(maps.values()))) for name, mask in structures.items()}
    voxels = {name: int(mask.sum()) for name, mask in masks.items()}
    rows = []
    for explained, saliency in maps.items():
        shape, grid = tuple(saliency.shape), tuple(next(iter(structures.values())).shape)
        if shape[-3:] != grid:
            raise ValueError(f"Maps and structures must lie on one grid, {explained!r} has {shape}, not {grid}.")
        raw = np.asarray(saliency, dtype=np.float32 if saliency.dtype == torch.float32 else np.float64)
        raw = raw.reshape(-1, next(iter(masks.values())).size)
        there = np.flatnonzero(raw.any(axis=0))  # a lesion's map is zero beyond the network's reach
        some = raw[:, there].astype(np.float64)
        mean = float(some.sum() / raw.size)
        squares = float(np.square(some - mean).sum()) + (raw.size - some.size) * mean**2
        of_map = {"map_mean": mean, "map_var": squares / raw.size}
        inside = {name: mask[there] for name, mask in masks.items()}
        for part in parts:
            values = part_of(torch.from_numpy(some[:, :, None, None]), part).ravel()
            total = float(values.sum())
            for name, where in inside.items():
                whose = {"subject": subject, "explained": explained, "structure": name, "part": part}
                measured = _measured(float(values[where].sum()), total, voxels[name], part)
                rows.append(whose | {"voxels": voxels[name]} | of_map | measured)
    columns = ["subject", "explained", "structure", "part", "voxels", "mass", "mean", "map_mean", "map_var", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _measured(inside: float, total: float, voxels: int, part: SignPart) -> dict[str, Any]:
    if not voxels:
        return {"mass": np.nan, "mean": np.nan, "reason": "the structure has no voxels"}
    if not total:
        reason = "the map is zero everywhere" if part == "abs" else f"the map has no {part} values"
        return {"mass": np.nan, "mean": np.nan, "reason": reason}
    return {"mass": inside / total, "mean": inside / voxels, "reason": ""}


def _flat(name: str, mask: np.ndarray | torch.Tensor, saliency: Saliency) -> np.ndarray:
    """A mask as one row of bool, checked."""
    array = np.asarray(mask)
    if array.shape != tuple(saliency.shape[-3:]):
        shape = tuple(saliency.shape[-3:])
        raise ValueError(f"Map and structure must lie on one grid, got {shape} and {array.shape} of {name!r}.")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"A structure must be bool or 0 and 1, {name!r} holds other values; see labelled().")
    return array.astype(bool).ravel()


def labelled(labels: np.ndarray | torch.Tensor, names: Mapping[int, str] | Sequence[str]) -> dict[str, np.ndarray]:
    """Structures of a label image `(I, J, K)`, such as a network's argmax.

    Args:
        labels: whole numbers.
        names: number -> name, or names in the order of 0, 1, ...; labels of one name are one structure, a label without
            a name is left out, a name without voxels gives an empty structure.

    Raises:
        ValueError: for labels that are no whole numbers, or where none of them has a name.
    """
    numbers = np.asarray(labels)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"Labels must be whole numbers, got {numbers.dtype}; take the argmax of logits.")
    named = dict(names.items() if isinstance(names, Mapping) else enumerate(names))
    if not np.isin(numbers, list(named)).any():
        here = ", ".join(map(str, np.unique(numbers)[:6]))
        raise ValueError(f"Labels must have names, got labels {here} and names for {', '.join(map(str, named))}.")
    alike = {name: [number for number, other in named.items() if other == name] for name in named.values()}
    return {name: np.isin(numbers, some) for name, some in alike.items()}


def wide_table(table: pd.DataFrame, part: SignPart = "abs") -> pd.DataFrame:
    """The columns that Agg2Exp publishes, one row a subject.

    `patient`, then for each explained A `A_explanation_in_B_mass` and `A_explanation_in_B_mean` of every structure B,
    `A_explanation_var`, `A_explanation_mean`; all end with `_pos` or `_neg` for those parts.

    Args:
        table: of `structure_table`, of any number of subjects.
        part: which of its parts.
    """
    end, rows = SUFFIX[part], []
    chosen: Any = table[table["part"] == part]
    if chosen.duplicated(["subject", "explained", "structure"]).any():
        raise ValueError("A subject must have one row for each explained and structure; choose one of `by`.")
    for subject, own in chosen.groupby("subject", sort=False):
        flat: dict[str, Any] = {"patient": subject}
        for explained, one in own.groupby("explained", sort=False):
            for structure, mass, mean in zip(one["structure"], one["mass"], one["mean"], strict=True):
                flat[f"{explained}_explanation_in_{structure}_mass{end}"] = mass
                flat[f"{explained}_explanation_in_{structure}_mean{end}"] = mean
            flat[f"{explained}_explanation_var{end}"] = one["map_var"].iloc[0]
            flat[f"{explained}_explanation_mean{end}"] = one["map_mean"].iloc[0]
        rows.append(flat)
    return pd.DataFrame(rows)
