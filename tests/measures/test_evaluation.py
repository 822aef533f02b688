"""Folders of maps measured: each row is its own map's, NaN has its reason; what follows from the rows."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers import deletion, load_network, load_subject, road
from ies_helpers.figures.charts import plot_measures
from ies_helpers.measures import evaluation
from ies_helpers.measures.evaluation import (
    MEASURE_COLUMNS,
    REMOVAL_COLUMNS,
    add_measures,
    evaluate_maps,
    headline,
    latex,
    markdown,
    names_of,
    networks_of,
    rank_methods,
    standings,
    summarise_measures,
)
from ies_helpers.measures.maps import MEASURES, MappedLesion, Measure, measure_map, measure_of
from ies_helpers.segmentation import lesions as finding
from ies_helpers.segmentation.lesions import segment_into_folder
from ies_helpers.subjects import folder as reading
from ies_helpers.subjects.folder import SavedMap, read_maps, write_table
from tests.folders import change_image, explain_toy, found_in, tiny_network
from tests.tables import NAN, table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of maps with the table of its lesions, beside the scan and the network that made them."""
    folder = tmp_path_factory.mktemp("toy")
    out = explain_toy(folder)
    _, lesions = found_in(load_subject(folder / "in"))
    write_table(out / "sub-p1/lesions.tsv", lesions.table())
    return out


@pytest.fixture(scope="module")
def maps(made: Path) -> list[SavedMap]:
    return read_maps(made)


def values_of(table: pd.DataFrame, lesion: int, method: str) -> dict[str, float]:
    rows = table[(table["lesion"] == lesion) & (table["method"] == method)]
    return dict(zip(rows["measure"], rows["value"], strict=True))


def other(saved: SavedMap, **told) -> SavedMap:
    """The same map with another sidecar."""
    return replace(saved, record=saved.record | told)


def test_every_row_is_a_measure_of_its_own_map_and_lesion(maps: list[SavedMap]) -> None:
    table, curves = evaluate_maps(maps)
    assert table.columns.tolist() == MEASURE_COLUMNS
    assert curves.empty
    for saved in maps:
        saliency, lesion, affine = saved.load()
        wanted, _ = measure_map(MappedLesion(saliency, lesion, affine, saved.modalities))
        method = "gradient mean" if saved.record["method"] == "gradient" else "gradcam++"
        got = values_of(table, saved.record["lesion"], method)
        assert wanted["relative_focus"] == wanted["focus"] / float(saliency.abs().sum(dim=0).max())
        assert got == pytest.approx(wanted, nan_ok=True)
    assert set(table["group"]) == {"TP", "FP", "FN"}
    assert set(table.loc[table["measure"].isin(["flair_max", "focus"]), "unit"]) == {
        "logit per unit of z-scored intensity",
        "arbitrary (weighted activation)",
    }
    assert set(table.loc[table["measure"].isin(["energy", "relative_focus", "gini"]), "unit"]) == {""}


def test_a_map_of_zeros_gives_nan_with_its_reason(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "out")
    for suffix in ("FLAIR", "T1w"):
        path = folder / f"sub-p1/anat/sub-p1_desc-gradientmeanL001_{suffix}.nii.gz"
        change_image(path, np.zeros((24, 24, 24), dtype=np.float32))
    table, _ = evaluate_maps([m for m in read_maps(folder) if m.stem.endswith("gradientmeanL001")])
    rows = table.set_index("measure")
    why = "the map is zero everywhere"
    names = ["energy", "focus", "pointing", "rank_accuracy", "gini", "complexity", "relative_focus", "flair_share"]
    assert rows.loc[names, "value"].isna().all()
    assert set(rows.loc[names, "reason"]) == {why}
    assert rows.loc["balance_inside", "reason"] == "the map is zero there"
    assert ((table["reason"] == "") == table["value"].notna()).all()


def test_methods_are_told_apart_by_what_differs_and_by_nothing_else(maps: list[SavedMap]) -> None:
    one = maps[1]
    assert names_of(maps) == [("tiny", "gradcam++"), ("tiny", "gradient mean")] * 3
    drawn = [other(one, method="smoothgrad", draws=n, seed=0, noise=0.05) for n in (3, 50)]
    assert [method for _, method in names_of(drawn)] == ["smoothgrad mean, 3 draws", "smoothgrad mean, 50 draws"]
    auto = [other(drawn[0], draws=n, tolerance=0.05, lesion=n, image=str(n)) for n in (7, 9)]
    assert [method for _, method in names_of(auto)] == ["smoothgrad mean"] * 2
    both = [method for _, method in names_of([*auto, drawn[1]])]
    assert both == ["smoothgrad mean, draws auto", "smoothgrad mean, draws auto", "smoothgrad mean, 50 draws"]
    frozen = names_of([one, other(one, statistics="frozen")])
    assert [method for _, method in frozen] == ["gradient mean", "gradient mean frozen"]
    compared = [other(one, method="occlusion", settings={"baseline": b, "side": 4}) for b in ("zero", "mean")]
    assert [method for _, method in names_of(compared)] == [
        "occlusion mean, baseline zero",
        "occlusion mean, baseline mean",
    ]


def test_networks_of_one_name_and_other_weights_are_told_apart(maps: list[SavedMap]) -> None:
    digest = maps[0].record["digest"]
    names = names_of([maps[0], other(maps[0], digest="abcdef0123456789")])
    assert [network for network, _ in names] == [f"tiny {digest[:6]}", "tiny abcdef"]


def test_two_maps_of_one_lesion_made_alike_are_refused(maps: list[SavedMap], tmp_path: Path) -> None:
    twin = replace(maps[0], folder=tmp_path / "again")
    with pytest.raises(ValueError, match=r"p1, lesion 1 \(.*gradcam\+\+ is in .*again"):
        evaluate_maps([*maps, twin])


def test_lesions_are_told_by_where_they_lie_not_by_their_number(maps: list[SavedMap]) -> None:
    """Another threshold numbers lesions otherwise: number 1 of two folders need not be one lesion."""
    first, second = maps[0], other(maps[0], image="elsewhere", draws=None)
    table, _ = evaluate_maps([first, second])
    assert table.groupby("lesion_id").ngroups == 2
    assert names_of([first, second])[0] == names_of([first, second])[1]


def test_faithfulness_is_what_road_and_deletion_say(made: Path, maps: list[SavedMap]) -> None:
    weights = made.parent / "tiny.safetensors"
    chosen = maps[1:2]
    table, curves = evaluate_maps(chosen, networks=networks_of(chosen, str(weights), device="cpu"), seed=3)
    subject, network = load_subject(made.parent / "in"), load_network(weights, device="cpu")
    saliency, lesion, _ = chosen[0].load()
    asked = (network, subject.image, lesion, saliency)
    roaded, deleted = road(*asked, seed=3), deletion(*asked, seed=3)
    got = values_of(table, 1, "gradient mean")
    assert (got["road"], got["deletion"]) == (roaded.mean, deleted.log_area)
    assert curves.columns.tolist() == REMOVAL_COLUMNS
    for name, voxels, scores in (
        ("morf", [0, *roaded.voxels], [roaded.clean, *roaded.morf]),
        ("lerf", [0, *roaded.voxels], [roaded.clean, *roaded.lerf]),
        ("deletion", deleted.voxels, deleted.scores),
    ):
        rows = curves[curves["curve"] == name]
        assert rows["voxels"].tolist() == list(voxels)
        assert rows["score"].tolist() == [float(s) for s in scores]


def test_only_the_network_that_made_a_map_is_asked(made: Path, maps: list[SavedMap], tmp_path: Path) -> None:
    digest = maps[0].record["digest"]
    with pytest.raises(ValueError, match=rf"tiny {digest}, got other [0-9a-f]+"):
        networks_of(maps, str(tiny_network(tmp_path / "other.safetensors", seed=1)), device="cpu")
    with pytest.raises(ValueError, match="'tiny'"):
        networks_of(maps)
    assert list(networks_of(maps, str(made.parent / "tiny.safetensors"), device="cpu")) == [digest]


def test_an_image_that_changed_since_is_told(made: Path, maps: list[SavedMap], monkeypatch) -> None:
    def brighter(**source):
        subject = load_subject(**source)
        return replace(subject, image=subject.image * 1.01)

    networks = networks_of(maps, str(made.parent / "tiny.safetensors"), device="cpu")
    monkeypatch.setattr(reading, "load_subject", brighter)
    with pytest.warns(UserWarning, match="image of p1 is not bit for bit the one explained"):
        evaluate_maps(maps[:1], networks=networks)


def test_the_table_survives_its_own_file(maps: list[SavedMap], tmp_path: Path) -> None:
    """What a reader of measures.csv gets: the same numbers, and paths that lead to maps and their sidecars."""
    table, _ = evaluate_maps(maps[1:2])
    table.to_csv(tmp_path / "measures.csv", index=False)
    again = pd.read_csv(tmp_path / "measures.csv", keep_default_na=False)
    assert torch.equal(torch.tensor(again["value"].astype(float)), torch.tensor(table["value"].astype(float)))
    record = json.loads(Path(again["path"].iloc[0].replace(".nii.gz", ".json")).read_text())
    assert (record["lesion"], record["method"]) == (1, "gradient")


# A measure is one row.


def test_a_measure_added_in_one_place_is_in_every_table_and_figure(maps: list[SavedMap], monkeypatch) -> None:
    """Share of voxels that are not zero: in measures.csv, the summary under its title, the ranking and a panel."""
    share = Measure("filled", lambda m: float((m.saliency != 0).double().mean()), "share filled", better="lower")
    monkeypatch.setitem(MEASURES, "filled", share)
    measures, _ = evaluate_maps(maps)
    rows = measures[measures["measure"] == "filled"]
    assert rows["value"].tolist() == [float((m.load()[0] != 0).double().mean()) for m in maps]
    assert set(rows["unit"]) == {""}
    assert "share filled ↓" in headline(summarise_measures(measures))
    ranking = rank_methods(measures, resamples=20)
    best = ranking[(ranking["measure"] == "filled") & (ranking["rank"] == 1)]
    assert best["mean"].tolist() == [pytest.approx(rows.groupby("method")["value"].mean().min())]
    assert "share filled" in set(standings(ranking)["measure"])
    titles = [ax.get_title() for ax in plot_measures(measures).axes]
    assert "share filled (lower is better)" in titles


@pytest.mark.parametrize(
    ("column", "name"),
    [("flair_max", "peak"), ("dir_share", "share"), ("balance_2-5", "balance"), ("balance_inside", "balance_inside")],
)
def test_a_column_belongs_to_its_measure(column: str, name: str) -> None:
    found = measure_of(column)
    assert found is not None
    assert found.name == name
    for unknown in ("_max", "balance_", "volume_mm3", "max_probability"):
        assert measure_of(unknown) is None


# Summaries and rankings.


def test_a_summary_by_hand() -> None:
    """1, 2, 4 and nothing: mean 7/3, squares about it 42/9, sd sqrt(42/18), quartiles 1.5, 2, 3."""
    summary = summarise_measures(table({"m": [1.0, 2.0, 4.0, NAN]}, subjects="aabb"))
    row = summary[summary["group"] == "all"].iloc[0]
    assert (row["subjects"], row["n"], row["nan"]) == (2, 3, 1)
    assert (row["mean"], row["sd"]) == (pytest.approx(7 / 3), pytest.approx(np.sqrt(42 / 18)))
    assert row[["q25", "median", "q75"]].tolist() == [1.5, 2.0, 3.0]
    by_group = summary.set_index("group")
    assert by_group.loc[["TP", "FN"], "n"].tolist() == [2, 1]
    assert by_group.loc[["TP", "FN"], "mean"].tolist() == [2.5, 2.0]
    assert by_group.loc["TP", "sd"] == pytest.approx(np.sqrt(4.5))


def test_a_subject_counts_where_it_has_a_value_and_not_where_it_has_none() -> None:
    summary = summarise_measures(table({"m": [1.0, 2.0, NAN, NAN]}, subjects="aabb"))
    assert summary.set_index("group").loc["all", ["subjects", "n", "nan"]].tolist() == [1, 2, 2]


def test_two_values_of_one_lesion_are_not_ranked() -> None:
    rows = table({"m": [1.0, 2.0], "n": [3.0, 4.0]})
    with pytest.raises(ValueError, match="unet1 of a has more of m"):
        rank_methods(pd.concat([rows, rows.iloc[[1]]]))


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    summary = summarise_measures(table({"one": [3.0], "none": [NAN]})).set_index(["method", "group"])
    assert summary.loc[("one", "all"), ["mean", "median"]].tolist() == [3.0, 3.0]
    assert np.isnan(summary.loc[("one", "all"), "sd"])
    assert summary.loc[("none", "all"), ["n", "nan"]].tolist() == [0, 1]
    assert np.isnan(summary.loc[("none", "all"), "mean"])


def test_nothing_to_summarise_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a measured map to summarise"):
        summarise_measures(table({"m": []}))


def test_methods_are_compared_on_the_lesions_that_all_have() -> None:
    """Without that rule `easy`, which has only the first two lesions' values, would win by 0.9 to 0.65."""
    ranking = rank_methods(table({"easy": [0.9, 0.9, NAN, NAN], "fair": [1.0, 1.0, 0.3, 0.3]}))
    assert ranking["method"].tolist() == ["fair", "easy"]
    assert ranking["mean"].tolist() == [1.0, 0.9]
    assert ranking["rank"].tolist() == [1, 2]
    assert set(ranking["lesions"]) == {2}
    assert set(ranking["left_out"]) == {2}
    assert ranking["first"].tolist() == [1.0, 0.0]


def test_lower_is_better_where_it_is_and_equals_share_a_rank() -> None:
    values = {"a": [0.5, 0.5], "b": [0.1, 0.1], "c": [0.1, 0.1]}
    ranking = rank_methods(table(values, "complexity"))
    assert dict(zip(ranking["method"], ranking["rank"], strict=True)) == {"a": 3, "b": 1, "c": 1}
    assert set(ranking["better"]) == {"lower"}
    assert dict(zip(ranking["method"], ranking["first"], strict=True)) == {"a": 0.0, "b": 1.0, "c": 1.0}
    higher = rank_methods(table(values, "energy"))
    assert dict(zip(higher["method"], higher["rank"], strict=True)) == {"a": 1, "b": 2, "c": 2}


def test_measures_with_a_unit_are_not_ranked() -> None:
    assert rank_methods(table({"a": [1.0], "b": [2.0]}, "focus")).empty


def test_intervals_are_those_of_plain_loops(rng: np.random.Generator) -> None:
    subjects, values = "aabbbc", rng.random(6)
    got = rank_methods(table({"m": values.tolist()}, subjects=subjects), resamples=50, seed=4).iloc[0]
    drawing, means = np.random.default_rng(4), []
    of = [[n for n in range(6) if subjects[n] == s] for s in "abc"]
    for _ in range(50):
        rows: list[int] = []
        for subject in drawing.integers(3, size=3):
            rows += drawing.choice(of[subject], len(of[subject])).tolist()
        means.append(sum(values[n] for n in rows) / len(rows))
    assert (got["low"], got["high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_subjects_are_resampled_not_their_lesions_alone() -> None:
    """Two subjects, all lesions of one 0 and of the other 1: a quarter of the draws holds one of them twice."""
    got = rank_methods(table({"m": [0.0] * 20 + [1.0] * 20}, subjects="a" * 20 + "b" * 20)).iloc[0]
    assert (got["low"], got["high"], got["mean"]) == (0.0, 1.0, 0.5)
    assert (got["subjects"], got["lesions"]) == (2, 40)


def test_the_same_draws_serve_all_methods() -> None:
    """A method that is better by 0.001 on every lesion is first in every resample."""
    values = np.random.default_rng(1).random(8)
    ranking = rank_methods(table({"a": values.tolist(), "b": (values + 0.001).tolist()}, subjects="aabbccdd"))
    assert ranking["method"].tolist() == ["b", "a"]
    assert ranking["first"].tolist() == [1.0, 0.0]
    assert (ranking["high"] - ranking["low"]).min() > 0.1


def test_each_network_has_its_ranking_and_no_common_lesion_leaves_it_without_numbers() -> None:
    apart = table({"a": [0.4, NAN], "b": [NAN, 0.6]}, network="nnunet")
    ranking = rank_methods(pd.concat([table({"a": [0.1], "b": [0.2]}), apart]))
    assert ranking["network"].tolist() == ["unet", "unet", "nnunet", "nnunet"]
    assert ranking["method"].tolist()[:2] == ["b", "a"]
    nothing = ranking[ranking["network"] == "nnunet"]
    assert nothing[["rank", "mean", "low", "high", "first"]].isna().all(axis=None)
    assert set(nothing["lesions"]) == {0}
    assert set(nothing["left_out"]) == {2}


# In print.


def test_a_headline_has_a_row_a_group_and_counts_what_is_lost() -> None:
    measures = pd.concat([table({"m": [0.1, 0.3, NAN]}), table({"m": [0.000123, 0.000123, 0.000123]}, "complexity")])
    rows = headline(summarise_measures(measures)).set_index("group")
    assert rows.columns.tolist() == ["network", "method", "maps", "energy ↑", "complexity ↓"]
    assert rows.loc["all"].tolist() == ["unet", "m", "3", "0.200 ± 0.141 (1 NaN)", "1.2e-04 ± 0.000"]
    assert rows.loc["FN"].tolist() == ["unet", "m", "1", "0.300", "1.2e-04"]


def test_a_method_without_a_measure_has_a_dash() -> None:
    measures = pd.concat([table({"m": [0.5], "n": [0.5]}), table({"m": [0.25]}, "road")])
    rows = headline(summarise_measures(measures)).set_index(["method", "group"])
    assert rows["ROAD ↑"].loc[[("m", "all"), ("n", "all")]].tolist() == ["0.250", "–"]


def test_standings_tell_rank_interval_and_the_lack_of_one() -> None:
    rows = standings(rank_methods(table({"a": [0.25, 0.25], "b": [0.5, 0.5]})))
    assert rows.iloc[0].tolist() == ["unet", "energy", "1", "b", "0.500", "0.500 to 0.500", "100%", "2"]
    nothing = standings(rank_methods(table({"a": [NAN], "b": [0.5]})))
    assert nothing.iloc[0].tolist()[2:] == ["–", "a", "–", "–", "–", "0"]


def test_markdown_by_hand() -> None:
    assert markdown(pd.DataFrame({"a": ["x|y", "1"], "long": ["2", ""]})) == (
        "| a    | long |\n| ---- | ---- |\n| x\\|y | 2    |\n| 1    |      |\n"
    )


def test_latex_by_hand_with_what_it_would_read_otherwise() -> None:
    text = latex(pd.DataFrame({"rank ↑": ["grad_cam++ & 5 %"], "b": ["1 ± 2–\\3 ^~"]}))
    assert text == (
        "\\begin{tabular}{ll}\n\\hline\nrank $\\uparrow$ & b \\\\\n\\hline\n"
        "grad\\_cam++ \\& 5 \\% & 1 $\\pm$ 2--\\textbackslash 3 "
        "\\textasciicircum \\textasciitilde  \\\\\n\\hline\n\\end{tabular}\n"
    )


def test_numbers_have_three_decimals_down_to_a_thousandth() -> None:
    told = standings(rank_methods(table({"a": [0.001, 0.001], "b": [0.0009996, 0.0009996]})))
    assert told["mean"].tolist() == ["0.001", "1.0e-03"]


# The table of lesions.


def test_each_lesion_has_the_numbers_of_its_own_maps(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "out")
    before = pd.read_csv(folder / "sub-p1/lesions.tsv", sep="\t")
    gone = next(saved for saved in read_maps(folder) if saved.record["method"] == "gradient")
    for path in folder.glob(f"sub-p1/anat/{gone.stem}_*"):
        path.unlink()
    add_measures(folder, "p1")
    table = pd.read_csv(folder / "sub-p1/lesions.tsv", sep="\t").set_index("lesion")
    assert before["lesion"].is_unique
    assert table.reset_index()[before.columns.tolist()].equals(before)
    for saved in read_maps(folder):
        saliency, lesion, _ = saved.load()
        row, name = table.loc[saved.record["lesion"]], saved.stem.split("desc-")[1][:-4]
        for channel, modality in zip(saliency.numpy(), saved.modalities, strict=True):
            assert row[f"{name}_{modality}_max"] == pytest.approx(channel.max(), rel=1e-5)
            assert row[f"{name}_{modality}_min"] == pytest.approx(channel.min(), rel=1e-5)
        inside = float(saliency.abs()[:, lesion].sum() / saliency.abs().sum())
        assert row[f"{name}_energy"] == pytest.approx(inside, rel=1e-5)
    lost = table.loc[gone.record["lesion"], [c for c in table if c.startswith("gradientmean")]]
    assert lost.isna().all()
    assert len(lost) == 8


def test_a_second_time_changes_nothing(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "out")
    table = add_measures(folder, "p1")
    written = (folder / "sub-p1/lesions.tsv").read_bytes()
    again = add_measures(folder, "p1")
    assert (folder / "sub-p1/lesions.tsv").read_bytes() == written
    assert table.columns.tolist() == again.columns.tolist()
    kept = {"flair_max", "flair_min", "t1_max", "t1_min", "flair_share", "t1_share", "all_max", "all_min", "all_share"}
    assert {c.partition("_")[2] for c in table.columns[9:]} == kept | {"energy", "balance_inside"}
    assert np.isfinite(table.loc[:, [c for c in table if c.endswith("energy")]].to_numpy(dtype=float)).any()


def measured_maps(monkeypatch) -> list[MappedLesion]:
    """Grows by each map that is measured from now on."""
    measured, measure = [], evaluation.measure_map
    monkeypatch.setattr(evaluation, "measure_map", lambda mapped: measured.append(mapped) or measure(mapped))
    return measured


def test_only_maps_that_are_new_to_the_table_are_read_again(made: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    path, measured = folder / "sub-p1/lesions.tsv", measured_maps(monkeypatch)
    wanted = add_measures(folder, "p1")
    written = path.read_bytes()
    assert len(measured) == 6
    one, *_, last = read_maps(folder)
    assert add_measures(folder, "p1").columns.tolist() == wanted.columns.tolist()
    add_measures(folder, "p1", maps=[one.images[-1].relative_to(folder)])
    assert len(measured) == 7
    os.utime(last.images[0], ns=(2**62, 2**62))  # made anew since
    add_measures(folder, "p1")
    assert len(measured) == 8
    assert torch.equal(measured[-1].saliency, last.load()[0])
    assert path.read_bytes() == written


def test_maps_that_are_gone_leave_no_numbers_and_a_lesion_that_nobody_predicted_gets_a_row(
    made: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    whole = add_measures(folder, "p1")
    for path in folder.glob("sub-p1/anat/*gradcam*"):
        path.unlink()
    path = folder / "sub-p1/lesions.tsv"
    write_table(path, whole[whole["lesion"] != 2])
    again = add_measures(folder, "p1")
    assert [c for c in whole if "gradcam" in c] == [c for c in whole if c not in again]
    assert again["lesion"].tolist() == [1, 3, 2]
    row = again.iloc[2]
    assert row[["group", "voxels"]].tolist() == whole.loc[1, ["group", "voxels"]].tolist()
    assert row["gradientmean_flair_max"] == pytest.approx(whole.loc[1, "gradientmean_flair_max"], rel=1e-5)
    assert np.isnan(row["volume_mm3"])


def test_finding_the_same_lesions_again_keeps_what_their_maps_measured(made: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    subject, network = load_subject(made.parent / "in"), load_network(made.parent / "tiny.safetensors", device="cpu")
    network = replace(network, threshold=0.5, window=None)
    probability, _ = found_in(subject)
    monkeypatch.setattr(finding, "predict", lambda *_, **__: probability)
    add_measures(folder, "p1")
    written = (folder / "sub-p1/lesions.tsv").read_bytes()
    segment_into_folder(subject, network, folder)
    assert (folder / "sub-p1/lesions.tsv").read_bytes() == written
    surer = torch.where(probability > 0, 0.9, 0.0)
    monkeypatch.setattr(finding, "predict", lambda *_, **__: surer)
    table = segment_into_folder(subject, network, folder).table()
    again = pd.read_csv(folder / "sub-p1/lesions.tsv", sep="\t")
    assert again.columns.tolist() == table.columns.tolist()
    assert again["max_probability"].max() == pytest.approx(0.9)
