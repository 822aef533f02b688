"""Notebooks from their sources: `src/NN_name.py` (jupytext percent) becomes `NN_name.ipynb`, without outputs.

python notebooks/build.py            write the notebooks that differ from their source
python notebooks/build.py --check    only list them, and notebooks without a source; exit 1 if there are any

The same source always gives the same bytes. The cell tagged `setup` gets its text from here. Cells tagged `check` hold
the chapter's asserts: the book leaves them out, JupyterLab and Colab fold their code, and they run everywhere.
"""

import hashlib
import re
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
import sys
from importlib.metadata import distributions
from pathlib import Path

ADDRESS = "{address}"
if not any(distributions(name="ies-helpers")):
    here = Path.cwd()
    clone = next((f for f in (here, *here.parents) if (f / "ies_helpers/__init__.py").is_file()), None)
    if clone is None and not ADDRESS:
        raise ImportError("ies_helpers is not installed and has no address yet: open this notebook in a clone.")
    source = f'-e "{{clone}}"' if clone else ADDRESS
    %pip install -q {{source}}
    if not any(distributions(name="ies-helpers")):
        raise ImportError("pip could not install ies_helpers, see above: choose .venv of a clone after `make lab`.")
    sys.path.append(str(clone or here))  # an editable installation shows only in the next session"""

COLAB = re.compile(r"\s*<!-- colab -->.*?<!-- /colab -->", re.DOTALL)
"""What `make notebooks` writes into the README."""

FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
"""How JupyterLab and Colab are told to fold a cell's code."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def project(folder: Path = HERE) -> tuple[str, str]:
    """Repository's address (empty while none is set) and the tag of this version: from `pyproject.toml` alone."""
    told = tomllib.loads((folder.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return told.get("urls", {}).get("Repository", "").rstrip("/"), f"v{told['version']}"


def setup_cell(folder: Path = HERE) -> str:
    """Text of the set-up cell."""
    repository, tag = project(folder)
    return SETUP.format(address=f"git+{repository}@{tag}" if repository else "")


def colab(path: str, folder: Path = HERE) -> str:
    """Address that opens a file of the repository in Colab; empty where that cannot be, as it must lie on GitHub."""
    repository, tag = project(folder)
    github, _, name = repository.partition("https://github.com/")
    return "" if github or not name else f"https://colab.research.google.com/github/{name}/blob/{tag}/{path}"


def notebook(source: Path) -> str:
    """The `.ipynb` text of one percent source, with a link to Colab below its title.

    A cell's id is the hash of its content (with a number where content repeats), so that an edit
    changes that cell alone. Cells tagged `check` are marked so that a reader does not see them.
    """
    book = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    seen: Counter[str] = Counter()
    setups = [cell for cell in book.cells if "setup" in cell.metadata.get("tags", [])]
    if len(setups) != 1:
        raise ValueError(
            f'{source.name} needs one cell `# %% tags=["setup"]`, got {len(setups)}: put it after the title.'
        )
    setups[0].source = setup_cell(source.parents[1])
    if link := colab(f"notebooks/{source.stem}.ipynb", source.parents[1]):
        title, _, rest = book.cells[0].source.partition("\n")
        book.cells[0].source = f"{title}\n\n[Open this chapter in Colab]({link})\n{rest}"
    for cell in book.cells:
        if "check" in cell.metadata.get("tags", []):
            cell.metadata.update(nbformat.from_dict({**FOLDED, "tags": [*cell.metadata.tags, "remove-cell"]}))
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


def readme(folder: Path = HERE) -> str:
    """The README with the links to Colab that the address gives, behind its words on Colab."""
    text = (folder.parent / "README.md").read_text(encoding="utf-8")
    links = [f"[{s.stem[:2]}]({link})" for s in sources(folder) if (link := colab(f"notebooks/{s.stem}.ipynb", folder))]
    block = f"\n  Chapters in Colab: {', '.join(links)}." if links else ""
    return COLAB.sub(lambda _: f"\n  <!-- colab -->{block}<!-- /colab -->", text)


def drift(folder: Path = HERE) -> dict[Path, str]:
    """Notebooks that are not what their source gives, and the README's links to Colab: path -> right text."""
    right = {folder / f"{source.stem}.ipynb": notebook(source) for source in sources(folder)}
    right[folder.parent / "README.md"] = readme(folder)
    return {p: text for p, text in right.items() if not p.is_file() or p.read_text(encoding="utf-8") != text}


def orphans(folder: Path = HERE) -> list[Path]:
    """Notebooks without a source."""
    stems = {source.stem for source in sources(folder)}
    return sorted(p for p in folder.glob("*.ipynb") if p.stem not in stems)


def main(arguments: list[str], folder: Path = HERE) -> int:
    """Write or check the notebooks; the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = drift(folder)
    for path, text in stale.items():
        if arguments:
            print(f"{path.name} differs from what its source and pyproject.toml give: run `make notebooks`.")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    lost = orphans(folder)
    for path in lost:
        print(f"{path.name} has no source src/{path.stem}.py: remove it, or write the source.")
    return int(bool(lost or (arguments and stale)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
