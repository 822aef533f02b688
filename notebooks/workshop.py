"""A workshop in one zip, for a room without internet: chapters to work on, their solutions, wheels, and `start.py`.

    python notebooks/workshop.py OUT.zip

On each seat: unpack, then `python start.py`. It makes an environment of the wheels and opens JupyterLab. The wheels are
those of the machine that made the bundle: its system and its Python version.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from notebooks import build, exercises

START = '''\
"""Set this seat up from the folder `wheels`, then open the chapters: python start.py [--no-browser]"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
WANTED = ({major}, {minor})
if sys.version_info[:2] != WANTED:
    sys.exit(f"These wheels are for Python {major}.{minor}, this is {{sys.version.split()[0]}}: take that Python.")
python = HERE / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
if not (HERE / "env" / "ready").exists():
    print("Setting up, once, about a minute ...", flush=True)
    venv.create(HERE / "env", with_pip=True, clear=True)
    offline = ["--no-index", "--find-links", str(HERE / "wheels"), "--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *offline, "ies-helpers[notebooks]"], check=True)
    (HERE / "env" / "ready").touch()
sys.exit(subprocess.run([python, "-m", "jupyterlab", *sys.argv[1:]], cwd=HERE / "notebooks").returncode)
'''

README = """\
The IES handbook, workshop bundle

    python start.py

makes an environment from the folder `wheels` (no internet needed; Python {major}.{minor} and the system the bundle was
made on) and opens JupyterLab in `notebooks/`. Exercises have an empty cell for you; `solutions/` has the answers.
"""


def chapters(folder: Path, source: Path = build.HERE) -> None:
    """Write `notebooks/` with empty cells in place of solutions, and `solutions/` with all of them unfolded."""
    for name, change in (("notebooks", exercises.blanked), ("solutions", exercises.solved)):
        (folder / name).mkdir(parents=True)
        for path in sorted(source.glob("[0-9][0-9]_*.ipynb")):
            nbformat.write(change(nbformat.read(path, as_version=4)), folder / name / path.name)


def wheels(folder: Path, project: Path = build.HERE.parent) -> None:
    """Fetch or build the wheels of the package and of all it needs, in the tested versions."""
    wanted = ["-c", project / "constraints.txt", f"{project}[notebooks]"]
    quiet = ["-qq", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, *wanted], check=True)


def pack(folder: Path, out: Path) -> None:
    """One zip with everything below the folder; written beside, then renamed."""
    part = out.with_name(out.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            bundle.write(path, Path("ies-workshop") / path.relative_to(folder))
    part.replace(out)


def main(arguments: list[str]) -> int:
    """Make the bundle; the exit code."""
    if len(arguments) != 1 or not arguments[0].endswith(".zip"):
        print(__doc__, file=sys.stderr)
        return 2
    version = {"major": sys.version_info.major, "minor": sys.version_info.minor}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        chapters(folder)
        (folder / "start.py").write_text(START.format(**version), encoding="utf-8")
        (folder / "README.txt").write_text(README.format(**version), encoding="utf-8")
        wheels(folder / "wheels")
        pack(folder, Path(arguments[0]))
    print(
        f"{arguments[0]} ({Path(arguments[0]).stat().st_size / 1e6:.0f} MB): unpack it on each seat, python start.py."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
