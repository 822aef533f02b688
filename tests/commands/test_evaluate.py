"""`ies evaluate`: folders in, tables and figures out, or one sentence."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from ies_helpers.__main__ import main
from tests.folders import explain_toy, tiny_network
from tests.patients import files_below, strays

FIGURES = ["balance", "measures", "peaks", "ranking"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another subject's folder, explained in one way only."""
    return explain_toy(tmp_path_factory.mktemp("second"), "p2", ("gradient",))


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What one sentence says."""
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ies: ")
    assert error.count("\n") == 1, error
    return error


def test_two_folders_become_one_table_a_summary_a_ranking_and_figures(made, second, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("evaluate", made, second, "--out", out) == 0
    told = capsys.readouterr().out
    assert f"9 maps measured; {out} holds" in told
    tables = ["measures.csv", "ranking.csv", "summary.csv", "summary.md", "summary.tex"]
    assert files_below(out) == ["figures", *(f"figures/{name}.png" for name in FIGURES), *tables]
    assert strays(tmp_path) == []
    measures, summary = pd.read_csv(out / "measures.csv"), pd.read_csv(out / "summary.csv")
    energy = measures[(measures["measure"] == "energy") & (measures["method"] == "gradient mean")]
    assert sorted(energy["subject"]) == ["p1"] * 3 + ["p2"] * 3
    row = summary[(summary["measure"] == "energy") & (summary["method"] == "gradient mean")].set_index("group")
    assert row.loc["all", ["subjects", "n"]].tolist() == [2, 6]
    assert row.loc["all", "mean"] == pytest.approx(energy["value"].mean(), rel=1e-4)
    assert row.loc["FP", "sd"] == pytest.approx(energy[energy["group"] == "FP"]["value"].std(), rel=1e-4)
    ranking = pd.read_csv(out / "ranking.csv")
    assert set(ranking["left_out"][ranking["measure"] == "energy"]) == {3}  # the second subject's, by one method only
    assert "| tiny    | gradient mean | all   | 6    |" in (out / "summary.md").read_text()
    assert (out / "summary.tex").read_text().startswith("\\begin{tabular}")


def test_faithfulness_asks_the_network_that_is_given_and_json_is_json(made, tmp_path, capsys) -> None:
    weights, out = made.parent / "tiny.safetensors", tmp_path / "out"
    assert run("evaluate", made, "--faithfulness", "--network", weights, "--device", "cpu", "--out", out, "--json") == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert captured.err == ""
    assert {row["group"] for row in data["summary"]} == {"all", "TP", "FP", "FN"}
    assert {"road", "deletion"} <= {row["measure"] for row in data["ranking"]}
    measures = pd.read_csv(out / "measures.csv")
    assert measures[measures["measure"].isin(["road", "deletion"])].groupby("measure").size().tolist() == [6, 6]
    assert set(pd.read_csv(out / "curves.csv")["curve"]) == {"morf", "lerf", "deletion"}
    assert (out / "figures" / "curves.png").is_file()


def test_mistakes_are_one_sentence_and_make_nothing(made, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    other = tiny_network(tmp_path / "other.safetensors", seed=5)
    damaged = Path(shutil.copytree(made, tmp_path / "damaged"))
    path = damaged / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    empty = tmp_path / "empty"
    empty.mkdir()
    for told, arguments in {
        "empty holds none": [empty],
        "one map of a method": [made, shutil.copytree(made, tmp_path / "twin")],
        "is truncated or damaged": [damaged],
        "Only shipped networks are found by name, got 'tiny'": [made, "--faithfulness"],
        "Only the network that made a map": [made, "--faithfulness", "--network", other],
        "got --network nosuch.pth, --merging monai-0.9 without it; add it, or leave them out": [
            *(made, "--network", "nosuch.pth", "--merging", "monai-0.9"),
        ],
    }.items():
        assert told in refused(capsys, "evaluate", *arguments, "--out", out, "--json")
    assert not out.exists()
