"""Maps in structures: Agg2Exp's two measures by hand and by a loop over voxels, its columns, and what has no value."""

import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers.measures.regions import labelled, structure_table, wide_table

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
    assert row(empty, "one", "abs")["reason"] == "the map is zero everywhere"
    assert empty[["mass", "mean"]].isna().all(axis=None)


def test_other_grids_other_values_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one grid, got \(2, 3, 1\) and \(2, 3, 2\) of 'b'"):
        structure_table({"x": map_by_hand()}, {"a": at(), "b": np.ones((2, 3, 2), dtype=bool)})
    with pytest.raises(ValueError, match=r"one grid, 'y' has \(2, 1, 3, 1\)"):
        structure_table({"x": map_by_hand(), "y": map_by_hand()[:, :1]}, {"a": at()})
    with pytest.raises(ValueError, match="bool or 0 and 1, 'a' holds other values; see labelled"):
        structure_table({"x": map_by_hand()}, {"a": np.full(SHAPE, 3)})
    with pytest.raises(ValueError, match="a map and a structure, got 0 and 1"):
        structure_table({}, {"a": at()})
    with pytest.raises(ValueError, match="whole numbers, got float64; take the argmax"):
        labelled(np.zeros(SHAPE), ["a"])
    with pytest.raises(ValueError, match="must have names, got labels 7 and names for 0, 1"):
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
    with pytest.raises(ValueError, match="one row for each explained and structure; choose one of `by`"):
        wide_table(pd.concat([both, both]))
