"""Maps in structures: two measures by hand and by loops, a lesion's shells and tissues, label files, the template."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from ies_helpers import Lesion, Subject
from ies_helpers.measures.regions import (
    OTHER_LESIONS,
    OUT,
    OUTSIDE,
    OWN_LESION,
    REST,
    TISSUES,
    ZONES,
    LesionZones,
    Zone,
    below_tentorium,
    brain_tissues,
    distance_structures,
    join,
    labelled,
    lesion_table,
    read_labels,
    read_structures,
    structure_table,
    template_affine,
    tissue_structures,
    wide_table,
)
from ies_helpers.subjects.phantom import template_tissues
from ies_helpers.subjects.subject import normalise
from tests.patients import AFFINE, ball, lesion_of, subject_in_memory, write_image

EXACT = 1e-12

SHAPE = (2, 3, 1)


def map_by_hand() -> torch.Tensor:
    """Two modalities on six voxels; absolute values add to 20, positive to 12, negative to 8."""
    first = [[[3.0], [-2.0], [0.0]], [[1.0], [4.0], [-2.0]]]
    second = [[[1.0], [0.0], [-4.0]], [[3.0], [0.0], [0.0]]]
    return torch.tensor([first, second])


def at(*places: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for i, j in places:
        mask[i, j, 0] = True
    return mask


def row(table: pd.DataFrame, structure: str, part: str) -> pd.Series:
    (found,) = table[(table["structure"] == structure) & (table["part"] == part)].to_dict("records")
    return pd.Series(found)


def test_mass_and_mean_are_those_worked_out_by_hand_for_every_part() -> None:
    table = structure_table({"heart": map_by_hand()}, {"two": at((0, 0), (0, 1)), "all": np.ones(SHAPE)})
    expected = {"abs": (6 / 20, 6 / 2), "positive": (4 / 12, 4 / 2), "negative": (2 / 8, 2 / 2)}
    for part, (mass, mean) in expected.items():
        assert row(table, "two", part)[["mass", "mean"]].tolist() == pytest.approx([mass, mean], abs=EXACT)
        assert row(table, "all", part)["mass"] == pytest.approx(1, abs=EXACT)
    assert row(table, "two", "abs")["map_mean"] == pytest.approx(4 / 12, abs=EXACT)
    assert row(table, "two", "abs")["map_var"] == pytest.approx(60 / 12 - (4 / 12) ** 2, abs=EXACT)
    assert set(table["reason"]) == {""}


def test_mass_and_mean_equal_a_loop_over_voxels_and_masses_of_labels_add_to_one(rng: np.random.Generator) -> None:
    saliency, labels = torch.from_numpy(rng.standard_normal((2, 5, 6, 4))), rng.integers(0, 4, (5, 6, 4))
    names = ("background", "a", "b", "c")
    table = structure_table({"x": saliency}, labelled(labels, names))
    for part, sign in (("abs", None), ("positive", 1), ("negative", -1)):
        sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        for v in np.ndindex(labels.shape):
            counts[names[labels[v]]] += 1
            for c in range(2):
                value = float(saliency[(c, *v)])
                sums[names[labels[v]]] += abs(value) if sign is None else max(sign * value, 0)
        for name in names:
            got = row(table, name, part)
            assert got["mass"] == pytest.approx(sums[name] / sum(sums.values()), abs=EXACT)
            assert got["mean"] == pytest.approx(sums[name] / counts[name], abs=EXACT)
            assert got["voxels"] == counts[name]
    assert table.groupby("part")["mass"].sum().to_numpy() == pytest.approx([1, 1, 1], abs=EXACT)


def test_mean_and_variance_of_a_sparse_map_count_its_zeros() -> None:
    sparse = torch.zeros(1, 4, 4, 4)
    sparse[0, 0, 0, 0] = 3.0
    table = structure_table({"x": sparse}, {"all": np.ones((4, 4, 4))})
    assert table["map_mean"].tolist() == pytest.approx([3 / 64] * 3, abs=EXACT)
    assert table["map_var"].tolist() == pytest.approx([9 / 64 - (3 / 64) ** 2] * 3, abs=EXACT)


def test_what_has_no_value_is_nan_and_says_why() -> None:
    structures = {"nothing": np.zeros(SHAPE, dtype=bool), "one": at((0, 0))}
    negative = structure_table({"x": -map_by_hand().abs()}, structures)
    assert np.isnan(row(negative, "nothing", "abs")["mass"])
    assert row(negative, "nothing", "abs")["reason"] == "the structure has no voxels"
    assert row(negative, "one", "positive")[["mass", "mean"]].isna().all()
    assert row(negative, "one", "positive")["reason"] == "the map has no positive values"
    assert row(negative, "one", "negative")["mass"] == pytest.approx(4 / 20, abs=EXACT)
    empty = structure_table({"x": torch.zeros(2, *SHAPE)}, structures)
    assert set(empty.loc[empty["structure"] == "one", "reason"]) == {"the map is zero everywhere"}
    assert empty[["mass", "mean"]].isna().all(axis=None)


def test_other_grids_other_values_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 2\) of 'b'"):
        structure_table({"x": map_by_hand()}, {"a": at(), "b": np.ones((2, 3, 2), dtype=bool)})
    with pytest.raises(ValueError, match=r"'y' has \(2, 1, 3, 1\)"):
        structure_table({"x": map_by_hand(), "y": map_by_hand()[:, :1]}, {"a": at()})
    with pytest.raises(ValueError, match="'a' holds other"):
        structure_table({"x": map_by_hand()}, {"a": np.full(SHAPE, 3)})
    with pytest.raises(ValueError, match="got 0 and 1"):
        structure_table({}, {"a": at()})
    with pytest.raises(ValueError, match="got float64"):
        labelled(np.zeros(SHAPE), ["a"])
    with pytest.raises(ValueError, match="labels 7 and names for 0, 1"):
        labelled(np.full(SHAPE, 7), ["a", "b"])


def test_labels_take_names_in_order_or_by_number_and_leave_out_the_nameless() -> None:
    labels = np.array([[[0], [1], [2]], [[2], [2], [9]]])
    assert {k: int(v.sum()) for k, v in labelled(labels, ["zero", "one", "two", "three"]).items()} == {
        "zero": 1,
        "one": 1,
        "two": 3,
        "three": 0,
    }
    assert list(labelled(labels, {9: "nine"})) == ["nine"]
    assert labelled(labels, {9: "nine"})["nine"].sum() == 1


@pytest.mark.parametrize("names", [{2: "white matter", 41: "white matter", 3: "cortex"}, None])
def test_labels_of_one_name_are_one_structure(names) -> None:
    """As of the two hemispheres: two voxels left, three right."""
    labels = np.array([[[2, 2, 41, 41, 41, 3, 0]]])
    if names is None:
        names = ["outside", "", "white matter", "cortex", *[""] * 37, "white matter"]
    got = labelled(labels, names)
    assert got["white matter"].ravel().tolist() == [True] * 5 + [False] * 2
    assert int(got["cortex"].sum()) == 1


def test_the_variance_of_a_constant_map_far_from_zero_is_zero() -> None:
    flat = torch.full((1, 5, 5, 5), 1e6 + 0.1, dtype=torch.float64)
    table = structure_table({"x": flat}, {"all": np.ones((5, 5, 5))})
    assert table["map_var"].tolist() == pytest.approx([0] * 3, abs=EXACT)


def test_a_wide_table_has_the_published_columns_in_their_order() -> None:
    structures = {"a": at((0, 0)), "b": ~at((0, 0))}
    maps = {"a": map_by_hand(), "b": 2 * map_by_hand()}
    both = pd.concat([structure_table(maps, structures, subject=s) for s in ("s1", "s2")])
    wide = wide_table(both)
    assert list(wide.columns) == [
        "patient",
        *("a_explanation_in_a_mass", "a_explanation_in_a_mean", "a_explanation_in_b_mass", "a_explanation_in_b_mean"),
        *("a_explanation_var", "a_explanation_mean"),
        *("b_explanation_in_a_mass", "b_explanation_in_a_mean", "b_explanation_in_b_mass", "b_explanation_in_b_mean"),
        *("b_explanation_var", "b_explanation_mean"),
    ]
    assert wide["patient"].tolist() == ["s1", "s2"]
    assert wide["a_explanation_in_a_mass"].tolist() == pytest.approx([4 / 20] * 2)
    assert wide["b_explanation_in_b_mean"].tolist() == pytest.approx([2 * 16 / 5] * 2)
    one = torch.zeros(1, 2, 2, 2)
    one[0, 0, 0, 0] = 8.0
    single = wide_table(structure_table({"a": one}, {"b": np.ones((2, 2, 2))}, subject="s"))
    assert single[["a_explanation_mean", "a_explanation_var"]].iloc[0].tolist() == pytest.approx([1, 7])
    assert wide_table(both, "negative")["a_explanation_in_a_mass_neg"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="one row for each"):
        wide_table(pd.concat([both, both]))


# A lesion's own structures.


def two_lesions() -> tuple:
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
    subject, brain, lesion, _ = two_lesions()
    structures = distance_structures(subject, lesion)
    assert list(structures) == [OWN_LESION, "0-2 mm", "2-5 mm", "5-10 mm", "beyond 10 mm", OUTSIDE]
    assert (np.sum(list(structures.values()), axis=0) == 1).all()
    for v in np.argwhere(brain & ~lesion.mask(subject.shape).numpy())[::23]:
        away = np.linalg.norm((v - lesion.voxels[0]) * [1, 1, 2])
        name = next((n for n, end in (("0-2 mm", 2), ("2-5 mm", 5), ("5-10 mm", 10)) if away <= end), "beyond 10 mm")
        assert structures[name][tuple(v)]
    assert (structures[OUTSIDE] == ~brain).all()


def test_tissues_give_way_to_lesions_and_the_first_that_claims_a_voxel_has_it() -> None:
    subject, brain, lesion, other = two_lesions()
    white = brain & (np.indices(brain.shape)[0] > 18)
    structures = tissue_structures(subject, lesion, [lesion, other], {"white matter": white, "grey matter": white})
    assert list(structures) == [OWN_LESION, OTHER_LESIONS, "white matter", "grey matter", REST, OUTSIDE]
    assert (np.sum(list(structures.values()), axis=0) == 1).all()
    assert structures[OTHER_LESIONS].sum() == 2
    assert structures["white matter"].sum() == white.sum() - 3
    assert not structures["grey matter"].any()
    assert (structures[REST] == brain & ~white).all()


def test_a_table_of_lesions_gives_each_its_own_structures() -> None:
    subject, _, lesion, other = two_lesions()
    saliency = torch.zeros(2, *subject.shape)
    saliency[0, 20, 20, 12], saliency[1, 26, 20, 12], saliency[0, 20, 24, 12] = 5.0, -3.0, 2.0
    tissues = {"white matter": np.ones(subject.shape, dtype=bool)}
    table = lesion_table(subject, [lesion, other], {1: saliency, 2: saliency}, tissues=tissues)
    assert list(table.columns[:6]) == ["subject", "lesion", "group", "by", "explained", "structure"]

    def mass(number: int, structure: str) -> float:
        chosen = (table["lesion"] == number) & (table["structure"] == structure) & (table["part"] == "abs")
        return float(table.loc[chosen, "mass"].iloc[0])

    assert [mass(1, n) for n in (OWN_LESION, "2-5 mm", "5-10 mm", OTHER_LESIONS)] == pytest.approx([0.5, 0.2, 0.3, 0.3])
    assert [mass(2, n) for n in (OWN_LESION, "5-10 mm", OTHER_LESIONS, "white matter")] == pytest.approx(
        [0.3, 0.7, 0.5, 0.2]
    )
    assert table.groupby(["lesion", "by", "part"])["mass"].sum().to_numpy() == pytest.approx(np.ones(12))
    assert set(lesion_table(subject, [lesion], {1: saliency})["by"]) == {"distance"}
    with pytest.raises(ValueError, match=r"\[7\]"):
        lesion_table(subject, [lesion], {7: saliency})


def test_a_lesion_outside_the_brain_is_refused() -> None:
    subject, brain, lesion, _ = two_lesions()
    outside = replace(lesion, voxels=np.argwhere(~brain)[:4])
    with pytest.raises(ValueError, match=r"Lesion.* lies where toy is 0"):
        distance_structures(subject, outside)


# From files, and by the template.

LABELS = np.zeros((24, 28, 20), dtype=np.int16)
LABELS[4:8, 5:9, 6:10] = 1
LABELS[12:16, 5:9, 6:10] = 3


def test_labels_on_the_same_grid_are_taken_as_they_are_without_a_word(tmp_path: Path) -> None:
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = read_labels(path, subject_in_memory())
        named = read_structures(path, subject_in_memory(), {3: "three"})
    assert (got == LABELS).all()
    assert list(named) == ["three"]
    assert (named["three"] == (LABELS == 3)).all()
    assert list(read_structures(path, subject_in_memory())) == ["label 1", "label 3"]
    mask = write_image(tmp_path / "thalamus.nii.gz", (LABELS == 1).astype(np.uint8))
    assert list(read_structures(mask, subject_in_memory())) == ["thalamus"]


def test_a_file_on_another_grid_is_resampled_to_the_nearest_voxel_and_a_warning_says_so(tmp_path: Path) -> None:
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 23], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = write_image(tmp_path / "flipped.nii.gz", LABELS[::-1], flipped)
    with pytest.warns(UserWarning, match=r"flipped.nii.gz lies on another grid .*voxels up to 23 mm apart.* resampled"):
        got = read_labels(path, subject_in_memory())
    assert (got == LABELS).all()
    coarse = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = (AFFINE @ [0.5, 0.5, 0.5, 1])[:3]
    path = write_image(tmp_path / "coarse.nii.gz", LABELS[::2, 1::2, ::2], coarse)
    with pytest.warns(UserWarning, match=r"shape \(12, 14, 10\)"):
        got = read_labels(path, subject_in_memory())
    middle = np.repeat(np.repeat(np.repeat(LABELS[::2, 1::2, ::2], 2, 0), 2, 1), 2, 2)
    assert set(np.unique(got)) == {0, 1, 3}
    assert (got == middle)[:-1, :-1, :-1].all()


def test_what_is_no_label_image_or_elsewhere_is_refused(tmp_path: Path) -> None:
    subject = subject_in_memory()
    scores = write_image(tmp_path / "scores.nii.gz", LABELS * 0.3)
    with pytest.raises(ValueError, match=r"scores.nii.gz holds others"):
        read_labels(scores, subject)
    with pytest.raises(ValueError, match="must have 3 axes"):
        read_labels(write_image(tmp_path / "four.nii.gz", np.stack([LABELS] * 2, axis=3)), subject)
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read_labels(tmp_path / "none.nii.gz", subject)
    far = AFFINE.copy()
    far[:3, 3] += 500
    with (
        pytest.warns(UserWarning, match="another grid"),
        pytest.raises(ValueError, match=r"no label of far.nii.gz"),
    ):
        read_labels(write_image(tmp_path / "far.nii.gz", LABELS, far), subject)
    with pytest.raises(ValueError, match=r"empty.nii.gz is zero"):
        read_structures(write_image(tmp_path / "empty.nii.gz", 0 * LABELS), subject)
    noise = np.random.default_rng(0).integers(0, 99, LABELS.shape).astype(np.int16)
    path = write_image(tmp_path / "cut.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut.nii.gz is truncated"):
        read_labels(path, subject)


def test_labels_of_one_name_in_a_file_are_one_structure(tmp_path: Path) -> None:
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    both = read_structures(path, subject_in_memory(), {1: "white matter", 3: "white matter"})["white matter"]
    assert np.array_equal(both, (LABELS == 1) | (LABELS == 3))


def test_structures_without_voxels_or_outside_the_brain_are_told(tmp_path: Path) -> None:
    subject = subject_in_memory()
    subject.image[:, 10:] = 0
    path = write_image(tmp_path / "regions.nii.gz", LABELS)
    with pytest.warns(UserWarning, match="Of regions") as told:
        structures = read_structures(path, subject, {1: "inside", 2: "absent", 3: "outside"})
    assert [str(w.message) for w in told] == [
        "Of regions.nii.gz these have no voxel of toy: absent.",
        "Of regions.nii.gz these lie outside the brain of toy: outside.",
    ]
    assert [int(mask.sum()) for mask in structures.values()] == [64, 0, 64]


def test_joined_structures_are_unions_and_unknown_names_are_refused() -> None:
    parts = {"left": LABELS == 1, "right": LABELS == 3, "other": LABELS == 0}
    joined = join(parts, {"both": ["left", "right"], "all": list(parts)})
    assert (joined["both"] == (LABELS > 0)).all()
    assert joined["all"].all()
    with pytest.raises(ValueError, match=r"\['top'\]; there are left, right, other"):
        join(parts, {"both": ["left", "top"]})


def template_subject(stretch: tuple[float, float, float] = (1, 1, 1), side: float = 4.0) -> tuple[Subject, np.ndarray]:
    """The template itself as a T1 at 4 mm, its brain stretched along each world axis, and its tissue at each voxel."""
    affine = np.diag([side, side, side, 1.0])
    affine[:3, 3] = [-110, -140, -90]
    shape = (int(220 / side), int(264 / side), int(200 / side))
    world = np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3, None, None, None]
    seen = world / np.reshape(stretch, (3, 1, 1, 1))
    white, grey, csf, _ = template_tissues(seen.astype(np.float32))
    brain = ndimage.binary_fill_holes(white + grey > 0.5)
    truth = np.where(brain, np.stack([white, grey, csf]).argmax(axis=0), -1)
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, *shape))
    flair, t1 = np.array([1.0, 1.2, 0.2, 0.0])[truth], np.array([1.0, 0.6, 0.2, 0.0])[truth]
    return Subject("template", normalise((np.stack([flair, t1]) + noise) * brain), affine), truth


def test_tissues_of_the_template_itself_are_found_and_fill_the_brain() -> None:
    subject, truth = template_subject()
    tissues = brain_tissues(subject)
    assert tuple(tissues) == TISSUES
    assert (np.sum(list(tissues.values()), axis=0) == (truth >= 0)).all()
    found = np.select([tissues["white matter"], tissues["grey matter"]], [0, 1], 2)
    assert float((found == truth)[truth >= 0].mean()) > 0.98
    litres = {name: float(mask.sum()) * 64e-6 for name, mask in tissues.items()}
    assert 0.005 < litres["ventricles"] < 0.1
    middle = subject.affine[:3, :3] @ np.argwhere(tissues["ventricles"]).mean(axis=0) + subject.affine[:3, 3]
    assert np.abs(middle - [0, -16, 12]).max() < 12


def test_a_smaller_brain_is_stretched_to_the_template() -> None:
    subject, _ = template_subject((0.85, 0.9, 0.8))
    affine = template_affine(subject)
    stretched = np.diag(affine[:3, :3]) / 4
    assert stretched == pytest.approx([1 / 0.85, 1 / 0.9, 1 / 0.8], rel=0.02)
    origin = np.linalg.inv(subject.affine) @ [0, 0, 0, 1]
    assert np.abs((affine @ origin)[:3]).max() < 2


def test_a_brain_that_is_not_in_mni_space_is_refused() -> None:
    subject, _ = template_subject()
    moved = subject.affine.copy()
    moved[1, 3] += 150
    for affine in (moved, np.eye(4)):
        with pytest.raises(ValueError, match="that of template overlaps it"):
            brain_tissues(Subject("template", subject.image, affine))
    with pytest.raises(ValueError, match=r"Dice coefficient of 0\.00"):
        brain_tissues(Subject("empty", torch.zeros(2, 8, 8, 8), np.eye(4)))


# Zones


@pytest.fixture(scope="module")
def zones() -> tuple[Subject, LesionZones]:
    subject, _ = template_subject(side=2.0)
    return subject, LesionZones(subject)


def lesion_at(subject: Subject, world: tuple[float, float, float], radius_mm: float = 3.0) -> Lesion:
    centre = np.linalg.inv(subject.affine) @ [*world, 1]
    return lesion_of(ball(subject.shape, tuple(centre[:3]), radius_mm / 2))


PLACED = {  # mm of MNI space, as an atlas has them
    "cerebellum": ((25, -62, -40), "infratentorial"),
    "vermis": ((0, -60, -22), "infratentorial"),
    "pons": ((4, -26, -30), "infratentorial"),
    "medulla": ((0, -40, -52), "infratentorial"),
    "body of the ventricle": ((-23, -20, 26), "periventricular"),
    "occipital horn": ((30, -60, 12), "periventricular"),
    "precentral gyrus": ((-38, -18, 58), "juxtacortical"),
    "occipital pole": ((14, -94, 4), "juxtacortical"),
    "fusiform gyrus": ((34, -50, -14), "juxtacortical"),
    "parahippocampal gyrus": ((24, -30, -16), "juxtacortical"),
    "putamen": ((26, 4, 0), "deep grey matter"),
    "centrum semiovale": ((-26, -22, 38), "deep white matter"),
}


@pytest.mark.parametrize("place", PLACED)
def test_places_of_an_atlas_have_their_zone(zones: tuple[Subject, LesionZones], place: str) -> None:
    subject, zone_of = zones
    world, expected = PLACED[place]
    assert zone_of(lesion_at(subject, world)).name == expected


def test_how_sure_a_zone_is_is_the_share_of_27_places_by_a_loop(zones: tuple[Subject, LesionZones]) -> None:
    """On maps made by hand: ventricles are one plane, cortex another, 2 mm voxels, so a step of one voxel."""
    subject, _ = zones
    zone_of = LesionZones.__new__(LesionZones)
    i = np.indices(subject.shape)[0].astype(float) * 2
    zone_of.inside, zone_of.below, zone_of.deep = (np.full(subject.shape, v) for v in (True, False, False))
    zone_of.to_ventricles, zone_of.to_cortex, zone_of._step = np.abs(i - 40), np.abs(i - 60), np.array([1, 1, 1])
    shifts = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    for at, expected in ((20, "periventricular"), (22, "deep white matter"), (24, "deep white matter")):
        lesion = lesion_of(np.zeros(subject.shape, dtype=bool) | (np.indices(subject.shape) == at).all(axis=0))
        told = []
        for a, _, _ in shifts:
            mm = 2.0 * (at + a)
            near = min((abs(mm - 40), "periventricular"), (abs(mm - 60), "juxtacortical"))
            told.append(near[1] if near[0] <= 3 else "deep white matter")
        found = zone_of(lesion)
        assert found.name == expected == max(set(told), key=told.count)
        assert found.sure == pytest.approx(told.count(expected) / 27, abs=EXACT)
        others = {name: told.count(name) for name in set(told) - {expected}}
        assert found.why == ", ".join(f"{name} in {n} of 27" for name, n in others.items())


def test_a_lesion_outside_the_template_is_told_and_one_at_the_border_of_the_scan_has_a_zone(
    zones: tuple[Subject, LesionZones],
) -> None:
    subject, zone_of = zones
    assert zone_of(lesion_at(subject, (0, 100, 60))) == Zone(OUT, 1.0)
    corner = zone_of(lesion_of(ball(subject.shape, (0, 0, 0), 2)))
    assert (corner.name, corner.sure) == (OUT, 1.0)


def test_the_tentorium_parts_cerebellum_from_cerebrum_on_both_sides() -> None:
    below = {
        "lobule VI": (28, -62, -26),
        "tonsil": (10, -52, -48),
        "midbrain": (6, -24, -12),
        "peduncle": (18, -40, -34),
    }
    above = {
        "lingual": (12, -78, -4),
        "temporal": (48, -30, -22),
        "hippocampus": (28, -18, -18),
        "thalamus": (10, -20, 6),
    }
    for side in (-1, 1):
        for name, expected in [*((n, True) for n in below), *((n, False) for n in above)]:
            x, y, z = (below | above)[name]
            assert bool(below_tentorium(np.array([side * x, y, z], dtype=float))) == expected, name


def test_zones_need_a_brain_in_mni_space() -> None:
    subject, _ = template_subject()
    with pytest.raises(ValueError, match="needs a brain in MNI space"):
        LesionZones(Subject("template", subject.image, np.eye(4)))
    assert len(set(ZONES)) == 5
