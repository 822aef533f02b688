"""Notebooks from their sources: `src/NN_name.py` (jupytext percent) becomes `NN_name.ipynb`, without outputs.

python notebooks/build.py            write the notebooks that differ from their source
python notebooks/build.py --check    only list them, and notebooks without a source; exit 1 if there are any

The same source always gives the same bytes. The cell tagged `setup` gets its text from here.
"""

import hashlib
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent

# Dependencies have lower bounds only, so pip leaves the torch and numpy it finds as they are.
SETUP = """\
# Installs ies_helpers where it is missing (in Colab, for example); elsewhere it does nothing.
import importlib.util
import sys
from pathlib import Path

REPOSITORY = "{repository}"
if importlib.util.find_spec("ies_helpers") is None:
    here = Path.cwd()
    clone = next((f for f in (here, *here.parents) if (f / "ies_helpers/__init__.py").is_file()), None)
    if clone is None and not REPOSITORY:
        raise ImportError("ies_helpers is not installed: open this notebook in a clone of its repository.")
    source = f'-e "{{clone}}"' if clone else f"git+{{REPOSITORY}}"
    %pip install -q {{source}}
    sys.path.append(str(clone or here))  # an editable installation shows only in the next session"""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def setup_cell() -> str:
    """Text of the set-up cell, with the repository's address from `[project.urls]`."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    return SETUP.format(repository=project.get("urls", {}).get("Repository", ""))


def notebook(source: Path) -> str:
    """The `.ipynb` text of one percent source.

    A cell's id is the hash of its content (with a number where content repeats), so that an edit
    changes that cell alone.
    """
    book = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    seen: Counter[str] = Counter()
    setups = [cell for cell in book.cells if "setup" in cell.metadata.get("tags", [])]
    if len(setups) != 1:
        raise ValueError(
            f'{source.name} needs one cell `# %% tags=["setup"]`, got {len(setups)}: put it after the title.'
        )
    setups[0].source = setup_cell()
    for cell in book.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[key] += 1
        cell.id = key if seen[key] == 1 else f"{key}-{seen[key]}"
    book.metadata = nbformat.from_dict(METADATA)
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    return nbformat.writes(book).rstrip("\n") + "\n"


def sources(folder: Path = HERE) -> list[Path]:
    """The percent sources in the order of their numbers."""
    return sorted((folder / "src").glob("[0-9][0-9]_*.py"))


def drift(folder: Path = HERE) -> dict[Path, str]:
    """Notebooks that are not what their source gives: path -> right text."""
    right = {folder / f"{source.stem}.ipynb": notebook(source) for source in sources(folder)}
    return {p: text for p, text in right.items() if not p.is_file() or p.read_text(encoding="utf-8") != text}


def orphans(folder: Path = HERE) -> list[Path]:
    """Notebooks without a source."""
    stems = {source.stem for source in sources(folder)}
    return sorted(p for p in folder.glob("*.ipynb") if p.stem not in stems)


def main(arguments: list[str]) -> int:
    """Write or check the notebooks; the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = drift()
    for path, text in stale.items():
        if arguments:
            print(f"{path.name} differs from src/{path.stem}.py: run `make notebooks`.")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    lost = orphans()
    for path in lost:
        print(f"{path.name} has no source src/{path.stem}.py: remove it, or write the source.")
    return int(bool(lost or (arguments and stale)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
