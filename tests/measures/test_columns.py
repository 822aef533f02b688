"""The lesion table holds, for every map of a lesion, its own measures, and nothing where there is no map."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ies_helpers import load_subject
from ies_helpers.measures.evaluation import KEPT, add_measures
from ies_helpers.subjects.folder import read_maps, write_table
from tests.folders import explain_toy, found_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    out = explain_toy(folder)
    _, lesions = found_in(load_subject(folder / "in"))
    write_table(out / "sub-p1/lesions.tsv", lesions.table())
    return out


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
    assert all(c.endswith(KEPT) for c in table.columns[9:])
    assert np.isfinite(table.loc[:, [c for c in table if c.endswith("energy")]].to_numpy(dtype=float)).any()
