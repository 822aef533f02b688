"""One library's methods on all cases, and what each costs on a U-Net: rows of numbers, an error where there is none."""

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.bench.measure import Peak
from tests.yardstick import cases
from tests.yardstick.cases import QUANTITIES, Case, Effort
from tests.yardstick.methods import METHODS, Method, version
from tests.yardstick.score import Scores, score

COST = "U-Net"
"""What the case is called on which seconds and memory are measured."""


@dataclass(frozen=True, eq=False)
class CostCase(Case):
    """A U-Net of random weights: of no known truth, and as heavy as networks are."""

    made: nn.Module = field(default_factory=nn.Identity)

    @property
    def network(self) -> nn.Module:
        return self.made


def cost_case(side: int = 48, channels: tuple[int, ...] = (16, 32, 64, 128, 256)) -> CostCase:
    """A lesion of 33 voxels in a cube of `side` voxels."""
    from ies_helpers.segmentation.architectures import build

    torch.manual_seed(0)
    unet = build("unet", channels)
    image = np.random.default_rng(0).standard_normal((2, side, side, side)).astype(np.float32)
    away = ((np.indices(image.shape[1:]) - side // 2) ** 2).sum(axis=0)
    effort, layer = Effort(draws=10, steps=10, side=side // 4, block=side // 4, samples=200), unet.layer or ""
    made = unet.module.requires_grad_(True)
    return CostCase(COST, "what does it cost", image, away <= 4, away < 0, layer=layer, effort=effort, made=made)


@dataclass(frozen=True)
class Row:
    """A method on a case. NaN: not asked, or not measured."""

    library: str
    version: str
    method: str
    default: bool
    quantity: str
    case: str
    place: float = np.nan
    sign: float = np.nan
    modality: float = np.nan
    amount: float = np.nan
    silence: float = np.nan
    seconds: float = np.nan
    gigabytes: float = np.nan
    error: str = ""


COLUMNS = tuple(Row.__dataclass_fields__)


def as_map(found: Any) -> np.ndarray:
    """`(C, I, J, K)` float64."""
    return np.asarray(found.detach().cpu() if isinstance(found, torch.Tensor) else found, dtype=float)


def judge(found: np.ndarray, case: Case, quantity: str) -> Scores:
    """A map that claims a quantity, against the truth of that."""
    kind = QUANTITIES[quantity]
    truths = [case.truth(quantity, reading) for reading in range(len(kind.truths))]
    may, blocks = case.counts(quantity), kind.side(case.effort) > 1
    others = case.looks_for_others & ~may
    return score(found, truths, may, others, where=case.looks if blocks else None, signed=kind.signed)


def last_line(error: BaseException) -> str:
    """`TypeError: what it says`, the last line of a traceback."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[-1][:300]


def row_of(method: Method, case: Case, found: str, **values: Any) -> Row:
    """A row without numbers, or with these."""
    said = (method.library, found, method.name, method.default, method.quantity)
    return Row(*said, case.name, **values)


def on_case(method: Method, case: Case, found: str) -> tuple[Row, np.ndarray | None]:
    """Scores of one method on one case, and its map."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saliency = as_map(method.run(case))
        scores = judge(saliency, case, method.quantity)
    except Exception as error:  # whatever a peer raises is its row
        return row_of(method, case, found, error=last_line(error)), None
    return row_of(method, case, found, **asdict(scores)), saliency


def on_unet(method: Method, case: CostCase, found: str) -> Row:
    """Seconds of the processor and memory of a network's second map: what is asked of a network once has been asked."""
    case = replace(case, made=copy.deepcopy(case.made))  # hooks that a method leaves are its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method.run(case)
            with Peak() as peak:
                begun = time.process_time()
                method.run(case)
                seconds = time.process_time() - begun
    except Exception as error:  # as above
        return row_of(method, case, found, error=last_line(error))
    return row_of(method, case, found, seconds=seconds, gigabytes=peak.gigabytes)


def measure(library: str, keep: Path | None = None) -> Iterator[Row]:
    """All methods of a library; maps go to `keep` as `TITLE, CASE.npy`."""
    found = version(library)
    made = [make() for make in cases.ALL]
    for method in (method for method in METHODS if method.library == library):
        if found is None:
            yield row_of(method, made[0], "", error="not installed here")
            continue
        errors = []
        for case in made:
            row, saliency = on_case(method, case, found)
            if saliency is not None and keep is not None:
                np.save(keep / f"{method.title}, {case.name}.npy", saliency.astype(np.float32))
            errors.append(row.error)
            yield row
        heavy = cost_case()
        # What runs nowhere is not tried on more: it may take all memory there is.
        yield row_of(method, heavy, found, error=errors[-1]) if all(errors) else on_unet(method, heavy, found)
