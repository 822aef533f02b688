"""Five numbers that say whether a map is right, each from 0 to 1, where 1 is right. numpy alone; may be copied.

What is below a tenth of a map's largest absolute value does not count for place, modality and silence, so that a faint
haze over a whole volume, which nobody sees in a figure, is not held against a map.
"""

from dataclasses import dataclass, fields

import numpy as np

FAINT = 0.1
"""Share of a map's peak below which it does not count for place, modality and silence."""


@dataclass(frozen=True)
class Scores:
    """NaN where a map of this kind cannot be asked."""

    place: float = np.nan
    sign: float = np.nan
    modality: float = np.nan
    amount: float = np.nan
    silence: float = np.nan


RULES = {
    "place": "share of the map's absolute mass on voxels that the lesion's score depends on",
    "sign": "share of the truth's absolute mass where the map has its sign",
    "modality": "1 - half the sum over modalities of |share of the map's mass - share of the truth's|",
    "amount": "1 - ||map - truth|| / ||truth||, as the map comes, not rescaled; 0 if that is less",
    "silence": "1 - share of the map's absolute mass on what only other lesions depend on",
}
PASS = {"place": 0.95, "sign": 0.95, "modality": 0.95, "amount": 0.9, "silence": 0.95}
"""What is enough. SmoothGrad's noise alone costs up to 0.05 of the amount."""

NAMES = tuple(f.name for f in fields(Scores))


def score(
    found: np.ndarray,
    truths: list[np.ndarray],
    looks: np.ndarray,
    others: np.ndarray | None = None,
    *,
    where: np.ndarray | None = None,
    signed: bool = True,
) -> Scores:
    """Score a map against the truth of what it claims.

    Args:
        found: the map, `(C, I, J, K)`, or `(1, I, J, K)` of all modalities together.
        truths: `(C, I, J, K)` or `(1, I, J, K)` each: more than one where a definition can be read in several ways;
            the amount is that of the one which fits best, sign and modality are asked of the first.
        looks: `(I, J, K)` bool: where the map may be bright.
        others: `(I, J, K)` bool: where it may be bright for other lesions only; None or empty: silence is not asked.
        where: `(I, J, K)` bool: where sign and amount are compared; None: everywhere.
        signed: whether the map tells for from against.
    """
    found = np.asarray(found, dtype=float)
    if found.ndim != 4 or found.shape[1:] != looks.shape:
        raise ValueError(f"A map must be (C, {', '.join(map(str, looks.shape))}), got {found.shape}.")
    if not np.isfinite(found).all() or not found.any():
        return Scores(0.0, *(0.0 if asked else np.nan for asked in (signed, len(found) > 1)), 0.0, 0.0)
    strong, first = _strong(found), truths[0]
    amount = np.nan
    if len(found) == len(first):
        amount = max(_amount(found, t, where) for t in truths)
    asked = others is not None and others.any()
    return Scores(
        place=_share(strong, looks),
        sign=_sign(found, first, where) if signed and len(found) == len(first) else np.nan,
        modality=_modality(strong, _strong(first)) if len(found) == len(first) > 1 else np.nan,
        amount=amount,
        silence=1 - _share(strong, others) if asked and others is not None else np.nan,
    )


def passed(scores: Scores) -> dict[str, bool]:
    """Of what was asked."""
    values = {name: getattr(scores, name) for name in NAMES}
    return {name: value >= PASS[name] for name, value in values.items() if not np.isnan(value)}


def _strong(values: np.ndarray) -> np.ndarray:
    size = np.abs(values)
    return np.where(size >= FAINT * size.max(), size, 0.0)


def _share(strong: np.ndarray, mask: np.ndarray) -> float:
    return float(strong[:, mask].sum() / strong.sum())


def _sign(found: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> float:
    if where is not None:
        found, truth = found[:, where], truth[:, where]
    size = np.abs(truth)
    return float(size[np.sign(found) == np.sign(truth)].sum() / size.sum())


def _modality(found: np.ndarray, truth: np.ndarray) -> float:
    shares = [values.sum(axis=(1, 2, 3)) / values.sum() for values in (found, truth)]
    return float(1 - np.abs(shares[0] - shares[1]).sum() / 2)


def _amount(found: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> float:
    if where is not None:
        found, truth = found[:, where], truth[:, where]
    return float(max(0.0, 1 - np.linalg.norm(found - truth) / np.linalg.norm(truth)))
