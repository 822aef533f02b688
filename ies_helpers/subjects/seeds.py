"""The rule that every seed obeys."""

from numbers import Integral

MOST = 2**63
"""Seeds are below it, so that a table's column of whole numbers holds them."""


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse what numpy's generators take for no seed, under the `name` that the caller knows it by."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"{name} must be 0 or more, got {seed}; take any whole number from 0 on.")
    if seed >= MOST:
        raise ValueError(f"{name} must be below 2^63, got {seed}; take a smaller one, none is better than another.")
