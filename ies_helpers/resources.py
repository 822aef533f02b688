"""Where the files that come with the package lie: registry, shipped weights, demo subject."""

from pathlib import Path


def data_folder() -> Path:
    """The folder `data`: inside the package when installed from a wheel, else at the top of the checkout.

    Raises:
        FileNotFoundError: neither is there, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "registry.toml").is_file():
            return folder
    raise FileNotFoundError(f"the data folder is missing in and beside {package}: install ies-helpers anew")
