"""Evaluation of saved maps: each row is the measure of its own map, named apart, NaN with its reason."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ies_helpers import deletion, load_network, load_subject, road
from ies_helpers.measures.evaluation import CURVES, MEASURES, evaluate_maps, names_of, networks_of
from ies_helpers.measures.maps import measure_map
from ies_helpers.subjects import folder as reading
from ies_helpers.subjects.folder import SavedMap, read_maps
from tests.folders import explain_toy, tiny_network
from tests.patients import write_image

FEW = pytest.mark.filterwarnings("ignore:A measure of this map is NaN")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def maps(made: Path) -> list[SavedMap]:
    return read_maps(made)


def values_of(table: pd.DataFrame, lesion: int, method: str) -> dict[str, float]:
    rows = table[(table["lesion"] == lesion) & (table["method"] == method)]
    return dict(zip(rows["measure"], rows["value"], strict=True))


def other(saved: SavedMap, **told) -> SavedMap:
    """The same map with another sidecar."""
    return replace(saved, record=saved.record | told)


@FEW
def test_every_row_is_a_measure_of_its_own_map_and_lesion(maps: list[SavedMap]) -> None:
    table, curves = evaluate_maps(maps)
    assert table.columns.tolist() == MEASURES
    assert curves.empty
    for saved in maps:
        saliency, lesion, affine = saved.load()
        wanted = measure_map(saliency, lesion, affine, saved.modalities)
        method = "gradient mean" if saved.record["method"] == "gradient" else "gradcam++"
        got = values_of(table, saved.record["lesion"], method)
        wanted["relative_focus"] = wanted["focus"] / float(saliency.abs().sum(dim=0).max())
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
        write_image(path, np.zeros((24, 24, 24), dtype=np.float32), load_subject(made.parent / "in").affine)
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
    with pytest.raises(ValueError, match=r"one map of a method; that of p1, lesion 1 \(.*gradcam\+\+ is in .*again"):
        evaluate_maps([*maps, twin])


def test_lesions_are_told_by_where_they_lie_not_by_their_number(maps: list[SavedMap]) -> None:
    """Another threshold numbers lesions otherwise: number 1 of two folders need not be one lesion."""
    first, second = maps[0], other(maps[0], image="elsewhere", draws=None)
    table, _ = evaluate_maps([first, second])
    assert table.groupby("lesion_id").ngroups == 2
    assert names_of([first, second])[0] == names_of([first, second])[1]


@FEW
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
    assert curves.columns.tolist() == CURVES
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
    with pytest.raises(ValueError, match=rf"explained with tiny {digest}, got other [0-9a-f]+; give its file"):
        networks_of(maps, str(tiny_network(tmp_path / "other.safetensors", seed=1)), device="cpu")
    with pytest.raises(ValueError, match=r"Only shipped networks are found by name, got 'tiny'; give its file by"):
        networks_of(maps)
    assert list(networks_of(maps, str(made.parent / "tiny.safetensors"), device="cpu")) == [digest]


@FEW
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
