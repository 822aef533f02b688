"""What every test shares: two cores, fixed randomness, no window, and never the user's own cache."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before numpy and torch are imported.
os.environ.update(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE", MPLBACKEND="Agg", NO_COLOR="1", COLUMNS="200")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(2)
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")


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


@pytest.fixture(scope="session")
def openms() -> Path:
    """The folder that holds the open patients, as their repository lays it out."""
    named = os.environ.get("IES_OPENMS")
    folder = Path(named) if named else ROOT.parent / "shared" / "openms"
    if not folder.is_dir():
        pytest.skip(f"needs real patients: {folder} does not exist; name their folder in IES_OPENMS")
    return folder
