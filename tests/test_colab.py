"""A notebook alone, in an environment like Colab's: it installs the package from the address and runs to the end.

The environment is new, and its packages are links to the installed ones, without ours; nothing comes from a network.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest

from notebooks import build
from tests.test_project import PROJECT, tracked

ROOT = build.HERE.parent
OURS = ("ies_helpers", "_ies_helpers", "__editable__")

ASK = """\
import json
import ies_helpers, numpy, torch
print(json.dumps([m.__file__ for m in (ies_helpers, numpy, torch)]))"""

RUN = """\
import nbclient, nbformat
book = nbformat.read("alone.ipynb", as_version=4)
nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
nbformat.write(book, "../done.ipynb")"""


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The working tree as a tagged repository that knows its own address, its notebooks generated anew."""
    folder = tmp_path / "repository"
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    project = folder / "pyproject.toml"
    address = f'[project.urls]\nRepository = "{folder.as_uri()}"'
    project.write_text(project.read_text().replace("[project.urls]", address))
    run([sys.executable, folder / "notebooks" / "build.py"], folder)
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    run(["git", "init", "-q"], folder)
    run(["git", "add", "-A"], folder)
    run(["git", *who, "commit", "-q", "-m", "State"], folder)
    run(["git", *who, "tag", f"v{PROJECT['version']}"], folder)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Python of a new environment that has everything but our package."""
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], tmp_path)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    new = tmp_path / "env" / "bin" / "python"
    target = Path(run([new, "-c", ask], tmp_path).strip())
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith(OURS):
            (target / path.name).symlink_to(path)
    return new


def test_one_notebook_alone_installs_the_package_and_leaves_torch_and_numpy(
    repository: Path, python: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    book = nbformat.read(repository / "notebooks" / "00_start.ipynb", as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(ASK))
    nbformat.write(book, alone / "alone.ipynb")
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0 means without isolation: pip's own negation
    run([python, "-c", RUN], alone, IES_SMALL="1", PYTHONPATH="", **inline, **offline)
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    ours, *others = json.loads(done.cells[-1].outputs[0]["text"])
    site = python.parents[1] / "lib"
    assert Path(ours).is_relative_to(site)
    assert not Path(ours).is_relative_to(repository)
    assert [Path(other).parent.is_symlink() and Path(other).is_relative_to(site) for other in others] == [True, True]
    assert [path.name for path in alone.iterdir()] == ["alone.ipynb"]
    assert any("image/png" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", []))
