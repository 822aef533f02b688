"""The directive `public-names`: docstrings of the package's public names of one floor, in reading order."""

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import ies_helpers


class PublicNames(SphinxDirective):
    """`.. public-names:: saliency` documents what `ies_helpers` hands out of that floor."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of autodoc's own directives."""
        (floor,) = self.arguments
        names = [name for name, home in ies_helpers._HOMES.items() if home.split(".")[0] == floor]
        if not names:
            raise self.error(f"ies_helpers has no public name of the floor {floor!r}")
        told = self.env.temp_data.setdefault("public_names", set())
        told.update(names)
        lines = [".. py:currentmodule:: ies_helpers", ""]
        for name in names:
            kind = "autoclass" if isinstance(getattr(ies_helpers, name), type) else "autofunction"
            lines += [f".. {kind}:: {name}", *(["   :members:"] if kind == "autoclass" else []), ""]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, container)
        return container.children


def check(app: Sphinx, doctree: nodes.document) -> None:
    """A page that documents some public names documents all of them."""
    told = app.env.temp_data.get("public_names")
    if told is not None and told != set(ies_helpers.__all__):
        lost = ", ".join(sorted(set(ies_helpers.__all__) - told))
        raise ExtensionError(f"{app.env.docname} leaves out {lost}: add a `public-names` for their floor.")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("public-names", PublicNames)
    app.connect("doctree-read", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
