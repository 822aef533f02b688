"""Tables of masses: the matrix, its strongest edges, outliers; the published table; what is no such table."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import IsolationForest

from ies_helpers import fetch
from ies_helpers.measures.agg2exp import (
    dependency_matrix,
    dice_correlation,
    explained,
    masses,
    outliers,
    read_dependencies,
    simulated_table,
    strongest_dependencies,
    structures,
)

ROOT = Path(__file__).resolve().parents[2]


def table(**columns: list[float]) -> pd.DataFrame:
    """Two classes, two patients."""
    names = [f"{a}_explanation_in_{b}_mass" for a in ("a", "b_c") for b in ("a", "b_c")]
    values = dict(zip(names, ([0.5, 0.7], [0.5, 0.3], [0.1, 0.0], [0.9, 1.0]), strict=True))
    return pd.DataFrame({"patient": ["s1", "s2"], **values, **columns})


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published table, verified, in a folder laid out as the cache is."""
    shared = Path(os.environ.get("IES_AGG2EXP", ROOT.parent / "shared" / "agg2exp"))
    if not shared.is_dir():
        pytest.skip(f"needs Agg2Exp's table: {shared} does not exist; name its folder in IES_AGG2EXP")
    monkeypatch.setenv("IES_CACHE", str(shared.parent))
    return fetch("agg2exp")["table"]


def test_the_matrix_is_the_mean_over_patients_and_leaves_out_what_is_not_known() -> None:
    some = table()
    some.loc[0, "a_explanation_in_b_c_mass"] = np.nan
    matrix = dependency_matrix(some)
    assert list(matrix.index) == list(matrix.columns) == ["a", "b_c"]
    assert matrix.to_numpy() == pytest.approx(np.array([[0.6, 0.3], [0.05, 0.95]]))
    some["a_explanation_in_b_c_mass"] = np.nan
    assert np.isnan(dependency_matrix(some).loc["a", "b_c"])


def test_the_strongest_edges_leave_out_the_class_itself_and_what_is_named() -> None:
    names = ["background", "a", "b", "c"]
    values = [[0.7, 0.1, 0.1, 0.1], [0.5, 0.2, 0.05, 0.25], [0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]
    matrix = pd.DataFrame(values, index=names, columns=names)
    edges = strongest_dependencies(matrix, 1)
    assert edges.to_numpy().tolist() == [["b", "a", 0.3], ["c", "b", 0.3], ["a", "c", 0.25]]
    assert len(strongest_dependencies(matrix, 9)) == 5  # b has nothing in c
    assert strongest_dependencies(matrix, 1, without=()).iloc[0].tolist() == ["a", "background", 0.5]
    with pytest.raises(ValueError, match="got 0"):
        strongest_dependencies(matrix, 0)


def test_outliers_are_those_of_a_forest_on_each_class_of_its_own() -> None:
    some = simulated_table(20, odd=2)
    found = outliers(some, seed=5)
    heart = found[found["explained"] == "heart"]
    columns = [f"heart_explanation_in_{b}_mass" for b in structures(some)]
    forest = IsolationForest(random_state=5).fit(some[columns].to_numpy())
    assert heart["score"].to_numpy() == pytest.approx(forest.decision_function(some[columns].to_numpy()))
    assert (heart["outlier"] == (heart["score"] < 0)).all()
    assert heart["own_mass"].tolist() == some["heart_explanation_in_heart_mass"].tolist()
    assert heart["dice"].tolist() == some["heart_dice"].tolist()
    means = found.groupby("patient")["score"].mean()
    assert set(means.nsmallest(2).index) == {"s0018", "s0019"}


def test_a_forest_fitted_on_others_judges_by_them() -> None:
    some = simulated_table(12, odd=0)[["patient", *(f"aorta_explanation_in_{b}_mass" for b in ("aorta", "heart"))]]
    strange = some.assign(aorta_explanation_in_aorta_mass=0.9)
    assert outliers(strange, some)["score"].max() < outliers(some)["score"].median()
    with pytest.raises(ValueError, match="the same classes in the same order"):
        outliers(some, table())
    holey = some.assign(aorta_explanation_in_heart_mass=np.nan)
    with pytest.raises(ValueError, match="Masses must have values for outliers, some are NaN"):
        outliers(holey)


def test_dice_is_correlated_by_rank_within_each_class_and_over_means() -> None:
    found = pd.DataFrame(
        {
            "patient": list("pqrst") * 3,
            "explained": ["a"] * 5 + ["b"] * 5 + ["c"] * 5,
            "score": [1, 2, 3, 4, 5, 5, 3, 4, 1, 2, 1, 2, 3, 4, 5],
            "own_mass": [0.5] * 5 + [0.1, 0.2, 0.3, 0.4, 0.6] + [0.1, 0.3, 0.2, 0.4, 0.5],
            "dice": [0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.5, 0.7, 0.6, 0.8, *[np.nan] * 3, 0.4, 0.2],
        }
    )
    got = dice_correlation(found).set_index("explained")
    assert got.loc["a", "score_rho"] == pytest.approx(1)
    assert np.isnan(got.loc["a", "own_mass_rho"])
    assert got.loc["a", "reason"] == "own_mass constant or unknown"
    second = found.iloc[5:10]
    rho, p = spearmanr(second["dice"], second["score"])
    assert got.loc["b", ["score_rho", "score_p"]].tolist() == pytest.approx([rho, p])
    assert got.loc["c", "reason"] == "2 patients with dice"
    assert np.isnan(got.loc["c", ["score_rho", "own_mass_rho"]].astype(float)).all()
    assert got.index[-1] == "mean over classes"
    assert got.loc["mean over classes", "patients"] == 5


def test_the_mass_in_the_class_itself_is_correlated_as_the_score_is() -> None:
    found = outliers(simulated_table(12, seed=1))
    heart = found[found["explained"] == "heart"]
    rho, p = spearmanr(heart["dice"], heart["own_mass"])
    got = dice_correlation(found).set_index("explained").loc["heart", ["own_mass_rho", "own_mass_p"]]
    assert got.tolist() == pytest.approx([rho, p])


def test_four_patients_have_a_correlation_and_three_have_none() -> None:
    found = outliers(simulated_table(4, odd=0))
    four, three = (dice_correlation(some).iloc[-1] for some in (found, found[found["patient"] != "s0003"]))
    assert [four["patients"], four["reason"]] == [4, ""]
    assert np.isfinite(four["score_rho"])
    assert three["reason"] == "3 patients with dice"
    assert np.isnan(three["score_rho"])


def test_one_unknown_mass_leaves_no_correlation_and_says_so() -> None:
    found = outliers(simulated_table(8, odd=0))
    found.loc[found.index[found["explained"] == "heart"][0], "own_mass"] = np.nan
    heart = dice_correlation(found).set_index("explained").loc["heart"]
    assert np.isnan(heart["own_mass_rho"])
    assert np.isfinite(heart["score_rho"])
    assert heart["reason"] == "own_mass constant or unknown"


def test_a_table_without_dice_says_so_in_place_of_a_correlation() -> None:
    some = simulated_table(6, odd=0).drop(columns="heart_dice")
    got = dice_correlation(outliers(some)).set_index("explained")
    assert got.loc["heart", "reason"] == "0 patients with dice"
    assert np.isfinite(got.loc["aorta", "score_rho"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop(columns="b_c_explanation_in_a_mass"), "lacks 1, such as b_c_explanation_in_a_mass"),
        (lambda t: t.drop(columns="patient"), "lacks 1, such as patient"),
        (lambda t: t[["patient"]], "has none"),
        (lambda t: t.iloc[:0], "has no row"),
    ],
)
def test_missing_columns_are_one_clear_error(tmp_path: Path, change, told: str) -> None:
    path = tmp_path / "made.csv"
    change(table()).to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"made\.csv {told}"):
        read_dependencies(path)


def test_what_is_no_table_of_shares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 0 to 70"):
        masses(table(a_explanation_in_a_mass=[50.0, 70.0]))
    with pytest.raises(ValueError, match="from 0 to 70"):
        masses(table(a_explanation_in_a_mass=[np.nan, 70.0]))
    with pytest.raises(ValueError, match="s1 has more in the table"):
        dependency_matrix(pd.concat([table(), table().iloc[[0]]]))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"empty\.csv is not readable"):
        read_dependencies(tmp_path / "empty.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_dependencies(tmp_path / "none.csv")


def test_a_word_among_the_masses_is_refused_with_its_place_and_an_empty_cell_is_not(tmp_path: Path) -> None:
    made = table().astype({"b_c_explanation_in_a_mass": object})
    made.loc[1, "b_c_explanation_in_a_mass"] = "foo"
    made.to_csv(tmp_path / "made.csv", index=False)
    place = rf"row 2 \(patient {made['patient'][1]}\), column b_c_explanation_in_a_mass"
    with pytest.raises(ValueError, match=rf"made\.csv has 'foo' in {place}"):
        read_dependencies(tmp_path / "made.csv")
    made.loc[1, "b_c_explanation_in_a_mass"] = None
    made.to_csv(tmp_path / "made.csv", index=False)
    assert np.isnan(masses(read_dependencies(tmp_path / "made.csv"))).sum() == 1


def test_the_published_table_reads_as_its_authors_say(published: Path) -> None:
    found = read_dependencies(published)
    assert found.shape == (32, 647)
    assert len(explained(found)) == len(structures(found)) == 17
    assert masses(found).sum(axis=2) == pytest.approx(np.ones((32, 17)), abs=1e-5)
    matrix = dependency_matrix(found)
    assert matrix.loc["heart", ["heart", "background"]].tolist() == pytest.approx([0.065, 0.664], abs=5e-4)
    edges = strongest_dependencies(matrix, 2)
    assert edges.loc[0, ["explained", "structure"]].tolist() == ["thyroid_gland", "lung_upper_lobe_right"]
    assert len(edges) == 32
    own = found[["patient", *(f"aorta_explanation_in_{b}_mass" for b in structures(found)), "aorta_dice"]]
    row = dice_correlation(outliers(own)).iloc[0]
    rho = spearmanr(found["aorta_dice"], found["aorta_explanation_in_aorta_mass"])[0]
    assert [row["patients"], row["own_mass_rho"]] == [32, pytest.approx(rho)]


def test_the_simulated_table_has_the_published_form_and_its_odd_patients_are_odd() -> None:
    some = simulated_table()
    assert masses(some).sum(axis=2) == pytest.approx(np.ones((32, 6)))
    assert [simulated_table(seed=1).equals(simulated_table(seed=s)) for s in (1, 2)] == [True, False]
    assert some["heart_dice"][-3:].max() < some["heart_dice"][:-3].min()
