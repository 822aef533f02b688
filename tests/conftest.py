"""What every test shares: one thread, fixed randomness, no window, never the user's own cache, and an order."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before numpy and torch are imported.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", MPLBACKEND="Agg", NO_COLOR="1", COLUMNS="200")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

RUN_FIRST = (
    *("08_three", "18_your", "12_own", "09_true", "13_papers", "07_peri", "04_smooth", "16_what", "11_str", "14_unc"),
    *("test_cohort.py", "cohort/", "test_faults_random.py", "test_faults.py", "03_grad", "02_les", "06_grad"),
    *("05_agg", "17_oth", "01_pat", "00_start", "test_colab.py", "test_gradients.py", "test_smoothgrad.py"),
)
"""What takes longest, by a part of its name: begun first, so that no worker is left with a long one at the end."""

torch.set_num_threads(1)
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")


def unit_of(nodeid: str) -> str:
    """What one worker does in one piece: a file, whose fixtures are then made once, or a chapter's execution."""
    return nodeid if "::test_a_chapter_runs" in nodeid else nodeid.split("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Units as in `RUN_FIRST`, then the others as they were."""

    def rank(item: pytest.Item) -> int:
        unit = unit_of(item.nodeid)
        return next((n for n, name in enumerate(RUN_FIRST) if name in unit), len(RUN_FIRST))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)  # known where pytest-xdist is installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hands units to workers in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # else the units of most tests would come first
    return Units(config, log)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of the whole run, empty at its start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IES_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """The same global random state before each test, whichever tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)  # for libraries that still draw from it


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close what a test drew."""
    yield
    plt.close("all")


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


def shared_folder(name: str) -> Path:
    """The folder that the variable `IES_NAME` names, else the one that lies in `shared` beside the checkout."""
    variable = f"IES_{name.upper()}"
    named = os.environ.get(variable)
    folder = Path(named) if named else ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"needs real data: {folder} does not exist; name their folder in {variable}")
    return folder


@pytest.fixture(scope="session")
def openms() -> Path:
    """The folder that holds the open patients, as their repository lays it out."""
    return shared_folder("openms")


@pytest.fixture(scope="session")
def nnunet() -> Path:
    """The folder that holds real nnU-Net v2 results folders with nnU-Net's own answers."""
    return shared_folder("nnunet")
