"""The plan: right counts, a size near the true one, and nothing written."""

from pathlib import Path

import pytest

from ies_helpers import load_network
from ies_helpers.cohort import Plan, Workforce, list_tasks, plan_cohort, read_config, run_cohort
from tests.patients import files_below, write_network, write_patient

TEXT = """
subjects = ["a", "b", "nobody"]

[network]
name = "narrow.safetensors"

[[explain]]
aggregate = "sum"
draws = 1

[[explain]]
method = "gradcam++"
lesions = "TP"

[[perilesional]]
lesions = "TP"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_network(tmp_path / "narrow.safetensors")
    for seed, name in enumerate("ab"):
        write_patient(tmp_path / name, name, seed=seed)
    (tmp_path / "nobody").mkdir()
    (tmp_path / "cohort.toml").write_text(TEXT)
    return tmp_path


def test_maps_curves_and_gigabytes_are_those_of_the_run(home: Path) -> None:
    config = read_config(home / "cohort.toml")
    network, before = load_network(**config.network), files_below(home)
    planned = plan_cohort(config, network, *list_tasks(config, network), Workforce(2))
    assert files_below(home) == before
    assert (planned.waiting, planned.kept, planned.failed, planned.pilot) == (2, 0, 1, "a")
    assert (planned.maps, planned.curves) == (2 * (3 * 2 + 1), 2)
    assert planned.why == (
        f"nobody: A subject needs FLAIR and T1; {home / 'nobody'} has no file named like flair and t1. "
        "Name the files by flair=..., t1=... (--flair, --t1 on the command line).",
    )
    run_cohort(config, network, Workforce(1))
    maps = list(config.out.rglob("*_desc-*L00*.nii.gz"))
    assert len(maps) == planned.maps
    assert planned.gigabytes == pytest.approx(sum(p.stat().st_size for p in maps) / 1e9, rel=0.2)
    after = plan_cohort(config, network, *list_tasks(config, network), Workforce(2))
    assert (after.waiting, after.kept, after.failed, after.pilot) == (0, 2, 1, "")


def test_a_plan_is_two_sentences_with_the_time_of_all_processes_together() -> None:
    told = str(Plan(4, 1, 0, Workforce(2), "p1", maps=80, curves=8, seconds=7200.0, gigabytes=1.234))
    assert told == (
        "4 subjects to do, 1 done before, 0 not to be found.\n"
        "If all are like p1: 80 maps and 8 perilesional curves, 1.2 GB on disk, "
        "about 60 min with 2 processes of 1 thread."
    )
    assert str(Plan(1, 0, 0, Workforce(1))) == "1 subject to do, 0 done before, 0 not to be found."
    assert "all workers of the Dask cluster." in str(Plan(1, 0, 0, Workforce(None, dask="tcp://x:1"), "p1"))
