"""No page loads anything from elsewhere: MathJax is copied beside the pages, from an installed package."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset

# One script that draws formulas as paths: no fonts, which some browsers refuse to a page on disk.
SCRIPT = "tex-svg.js"


def copy_mathjax(app: Sphinx) -> None:
    """Put the script among the book's own static files."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("The book needs the package sphinx-mathjax-offline: `make book` installs it.")
    script = Path(spec.origin).parent / "static" / "mathjax" / SCRIPT
    copy_asset(str(script), str(Path(app.outdir) / "_static"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.config.mathjax_path = SCRIPT
    # The menu would fetch its speech engine when opened.
    app.config.mathjax3_config = {"options": {"enableMenu": False}}
    app.connect("builder-inited", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
