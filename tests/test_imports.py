"""What an import brings with it: seconds are spent when they are needed, not when a name is."""

import json
import subprocess
import sys

import pytest

from ies_helpers import __all__ as names
from ies_helpers.__main__ import app

SLOW = {"monai", "nilearn", "sklearn", "captum", "dask", "distributed", "ipyniivue"}
"""Each takes a second or more to import."""

NUMERIC = {"torch", "numpy", "pandas", "scipy", "nibabel", "matplotlib"}

COMMANDS = sorted(info.name or info.callback.__name__ for info in app.registered_commands if info.callback)


def brought_in(code: str) -> set[str]:
    """Packages beside Python's own and ours that a fresh Python has after `code`."""
    told = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    ended = subprocess.run([sys.executable, "-c", code + told], capture_output=True, text=True, check=True)
    found = set(json.loads(ended.stdout.splitlines()[-1]))
    return {name for name in found - sys.stdlib_module_names - {"ies_helpers"} if not name.startswith("_")}


def test_importing_the_package_brings_nothing_with_it() -> None:
    assert brought_in("import ies_helpers") - brought_in("pass") == set()


def test_no_public_name_brings_a_slow_package_with_it() -> None:
    """Not timed: it is the packages that take the time."""
    assert len(names) > 25
    assert brought_in(f"from ies_helpers import {', '.join(names)}") & SLOW == set()


def test_fetching_needs_no_torch() -> None:
    assert brought_in("from ies_helpers import fetch") & (SLOW | NUMERIC) == set()


def test_the_help_of_every_command_needs_no_torch() -> None:
    """One process asks for all: what none of them brings, no single one does."""
    asked = [["--help"], *([command, "--help"] for command in COMMANDS), ["fetch", "--list"]]
    code = f"from ies_helpers.__main__ import main\nassert [main(a) for a in {asked!r}] == [0] * {len(asked)}"
    assert brought_in(code) & (SLOW | NUMERIC) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ies_helpers.__main__ import main

    assert main([command, "--help"]) == 0
    assert f" {command} " in capsys.readouterr().out
