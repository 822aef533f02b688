"""A group of known truth: its maps point at the changed mask, the opposite node says the opposite."""

import numpy as np
import pytest

from ies_helpers import gradient
from ies_helpers.measures.groupmaps import group_map
from ies_helpers.measures.regions import structure_table
from ies_helpers.segmentation.network import one_class
from ies_helpers.teaching import trivial_group


def test_the_maps_of_a_known_group_lie_in_the_mask_and_those_of_the_opposite_node_are_opposite() -> None:
    known = trivial_group(40)
    assert known.correct == 1
    maps = {n: [gradient(one_class(known.network, n), x, known.voxel) for x in known.images[1:9:2]] for n in (0, 1)}
    group = {n: group_map(some, np.eye(4)).mean for n, some in maps.items()}
    inside, outside = (group[1][0][m].mean() for m in (known.mask, ~known.mask))
    assert inside < 0  # atrophy lowers values: a higher one speaks against it
    assert abs(float(inside)) > 10 * abs(float(outside))
    table = structure_table({"atrophied": group[1], "healthy": group[0]}, {"mask": known.mask})
    masses = table[table["part"] == "negative"].set_index("explained")["mass"]
    assert masses["atrophied"] > 4 * float(known.mask.double().mean())
    assert group[0].numpy() == pytest.approx(-group[1].numpy(), abs=1e-7)


def test_without_a_change_the_group_map_does_not_point_at_the_mask() -> None:
    known = trivial_group(40, atrophy=0.0)
    saliency = gradient(known.network, known.images[0], known.voxel)
    (share,) = structure_table({"x": saliency}, {"mask": known.mask}, parts=("abs",))["mass"]
    assert share == pytest.approx(float(known.mask.double().mean()), rel=0.3)
