"""What `explain` can be asked for, and one sentence for what it cannot."""

from typing import get_args

from ies_helpers.saliency.comparison import check_other
from ies_helpers.saliency.convergence import Draws
from ies_helpers.saliency.gradients import Aggregate, Statistics
from ies_helpers.saliency.noise import check_noise
from ies_helpers.subjects.records import UNITS

METHODS = tuple(UNITS)

AGGREGATED = ("smoothgrad", "gradient")
"""Methods that heed `aggregate` and `statistics`."""


def check_settings(
    method: str,
    aggregate: str,
    draws: Draws,
    noise: float,
    *,
    through: str | None = None,
    seed: int = 0,
    statistics: str = "exact",
    baseline: str = "zero",
) -> None:
    """Refuse settings that `explain` cannot work with, before anything is loaded."""
    for name, value, allowed in (
        ("method", method, METHODS),
        ("aggregate", aggregate, get_args(Aggregate)),
        ("through", through, (None, "whole", "windows")),
        ("statistics", statistics, get_args(Statistics)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, allowed))}, got {value!r}.")
    check_noise(draws, noise, seed)
    check_other(method, baseline)
    if statistics == "frozen" and (method not in AGGREGATED or aggregate != "max"):
        raise ValueError(
            f"statistics='frozen' is for {' and '.join(AGGREGATED)} with max, got {method} with {aggregate}; leave "
            "it out, which is exact."
        )
