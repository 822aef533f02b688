"""A lesion's own structures: shells in true mm, tissues that give way to lesions, and the table of a patient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ies_helpers.measures.regions import (
    OTHERS,
    OUTSIDE,
    OWN,
    REST,
    distance_structures,
    lesion_table,
    tissue_structures,
)
from tests.patients import ball, lesion_of, subject_in_memory


def scene() -> tuple:
    """A brain of 30 mm in a cube of 40, voxels of 1 x 1 x 2 mm along i, j, k; a lesion in its middle and another."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    subject = subject_in_memory((40, 40, 24), affine)
    brain = ball((40, 40, 24), (20, 20, 12), 15) & (np.abs(np.arange(24) - 12) < 8)
    subject.image[:, torch.from_numpy(~brain)] = 0
    own, other = np.zeros((2, 40, 40, 24), dtype=bool)
    own[20, 20, 12] = True
    other[26:28, 20, 12] = True
    return subject, brain, lesion_of(own, 1), lesion_of(other, 2)


def test_shells_are_in_true_mm_and_every_voxel_lies_in_exactly_one() -> None:
    subject, brain, lesion, _ = scene()
    structures = distance_structures(subject, lesion)
    assert list(structures) == [OWN, "0-2 mm", "2-5 mm", "5-10 mm", "beyond 10 mm", OUTSIDE]
    assert (np.sum(list(structures.values()), axis=0) == 1).all()
    for v in np.argwhere(brain & ~lesion.mask(subject.shape).numpy())[::23]:
        away = np.linalg.norm((v - lesion.voxels[0]) * [1, 1, 2])
        name = next((n for n, end in (("0-2 mm", 2), ("2-5 mm", 5), ("5-10 mm", 10)) if away <= end), "beyond 10 mm")
        assert structures[name][tuple(v)]
    assert (structures[OUTSIDE] == ~brain).all()


def test_tissues_give_way_to_lesions_and_the_first_that_claims_a_voxel_has_it() -> None:
    subject, brain, lesion, other = scene()
    white = brain & (np.indices(brain.shape)[0] > 18)
    structures = tissue_structures(subject, lesion, [lesion, other], {"white matter": white, "grey matter": white})
    assert list(structures) == [OWN, OTHERS, "white matter", "grey matter", REST, OUTSIDE]
    assert (np.sum(list(structures.values()), axis=0) == 1).all()
    assert structures[OTHERS].sum() == 2
    assert structures["white matter"].sum() == white.sum() - 3
    assert not structures["grey matter"].any()
    assert (structures[REST] == brain & ~white).all()


def test_a_table_of_lesions_gives_each_its_own_structures() -> None:
    subject, _, lesion, other = scene()
    saliency = torch.zeros(2, *subject.shape)
    saliency[0, 20, 20, 12], saliency[1, 26, 20, 12], saliency[0, 20, 24, 12] = 5.0, -3.0, 2.0
    tissues = {"white matter": np.ones(subject.shape, dtype=bool)}
    table = lesion_table(subject, [lesion, other], {1: saliency, 2: saliency}, tissues=tissues)
    assert list(table.columns[:6]) == ["subject", "lesion", "group", "by", "explained", "structure"]

    def mass(number: int, structure: str) -> float:
        chosen = (table["lesion"] == number) & (table["structure"] == structure) & (table["part"] == "abs")
        return float(table.loc[chosen, "mass"].iloc[0])

    assert [mass(1, n) for n in (OWN, "2-5 mm", "5-10 mm", OTHERS)] == pytest.approx([0.5, 0.2, 0.3, 0.3])
    assert [mass(2, n) for n in (OWN, "5-10 mm", OTHERS, "white matter")] == pytest.approx([0.3, 0.7, 0.5, 0.2])
    assert table.groupby(["lesion", "by", "part"])["mass"].sum().to_numpy() == pytest.approx(np.ones(12))
    assert set(lesion_table(subject, [lesion], {1: saliency})["by"]) == {"distance"}
    with pytest.raises(ValueError, match=r"lesions that are there, got maps of \[7\]"):
        lesion_table(subject, [lesion], {7: saliency})


def test_a_lesion_outside_the_brain_is_refused() -> None:
    subject, brain, lesion, _ = scene()
    outside = replace(lesion, voxels=np.argwhere(~brain)[:4])
    with pytest.raises(ValueError, match=r"must lie in the brain, Lesion.* lies where toy is 0 in all modalities"):
        distance_structures(subject, outside)
