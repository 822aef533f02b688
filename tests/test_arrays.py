"""Seeds: the same sentence wherever one is given that is none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ies_helpers import deletion, road, smoothgrad
from ies_helpers.arrays import check_seed
from ies_helpers.measures.removal import sensitivity, sensitivity_n
from ies_helpers.segmentation.lesions import Lesions, true_negatives
from ies_helpers.subjects.editing import healthy_places
from tests.networks import unet
from tests.patients import ball, lesion_of, subject_in_memory

SUBJECT = subject_in_memory()
LESION = lesion_of(ball(SUBJECT.shape, (10, 10, 10), 1.2))
ASKED = (torch.nn.Conv3d(2, 2, 3, padding=1), SUBJECT.image, LESION)
DRAWN: dict[str, Callable[[int], object]] = {
    "smoothgrad": lambda seed: smoothgrad(unet((3, 4)), SUBJECT.image, LESION, seed=seed),
    "deletion": lambda seed: deletion(*ASKED, SUBJECT.image, seed=seed),
    "road": lambda seed: road(*ASKED, SUBJECT.image, seed=seed),
    "sensitivity_n": lambda seed: sensitivity_n(*ASKED, [SUBJECT.image], seed=seed),
    "sensitivity": lambda seed: sensitivity(torch.ones_like, SUBJECT.image, seed=seed),
    "controls": lambda seed: true_negatives(SUBJECT, Lesions([LESION]), [LESION], seed=seed),
    "places": lambda seed: healthy_places(SUBJECT, 60, 1, seed=seed),
}


@pytest.mark.parametrize("what", DRAWN)
def test_a_negative_seed_is_refused_before_anything_is_drawn(what: str) -> None:
    with pytest.raises(ValueError, match=r"^seed must be 0 or more, got -1; take any whole number from 0 on\.$"):
        DRAWN[what](-1)


def test_a_seed_is_a_whole_number_of_any_kind_and_called_as_the_caller_calls_it() -> None:
    check_seed(0)
    check_seed(np.int64(7))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"seed of cohort\.toml must be 0 or more, got 1\.5"):
        check_seed(1.5, "seed of cohort.toml")  # pyright: ignore[reportArgumentType]


def test_a_seed_that_no_table_holds_is_refused() -> None:
    check_seed(2**63 - 1)
    with pytest.raises(ValueError, match=r"^seed must be below 2\^63, got 9223372036854775808; take a smaller one"):
        check_seed(2**63)
