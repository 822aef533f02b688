"""Figures that cells draw: each gets a text for those who cannot see it, a link to its full size, and an anchor.

The directive `figure-gallery` shows them small, each linked to the cell that draws it.
"""

import re
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

LOGGER = logging.getLogger(__name__)
TEXT_LENGTH = 300
WEB_LINK = re.compile(r"&lt;link\b(?:(?!&gt;).)*?href=&quot;https?:.*?&gt;", re.DOTALL)  # nilearn's icon


class Gallery(nodes.General, nodes.Element):
    """Stands where the gallery will be, until all chapters have been read."""


class FigureGallery(SphinxDirective):
    """`.. figure-gallery:: CHAPTER` with `:section: HEADING`; of all chapters where none is named."""

    optional_arguments = 1
    option_spec: ClassVar = {"section": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """A place to fill."""
        self.env.figure_galleries.add(self.env.docname)
        chapter, section = " ".join(self.arguments), self.options.get("section")
        gallery = Gallery(chapter=chapter, section=section)
        self.set_source_info(gallery)
        return [gallery]


def opening(prose: str) -> str:
    """The first sentences of a paragraph, as many as fit in `TEXT_LENGTH`."""
    text = re.sub(r"^Read it aloud: (.)", lambda m: m[1].upper(), " ".join(prose.split()))
    ends = [m.end() for m in re.finditer(r"[.!?](?= |$)", text)]
    return text[: max([e for e in ends if e <= TEXT_LENGTH], default=ends[0] if ends else len(text))]


def prose_about(cell: nodes.Element) -> str:
    """The paragraph below a cell, which reads its figure aloud; else the one above."""
    around = list(cell.parent.children)
    place = around.index(cell)
    for neighbours in (around[place + 1 :], around[:place][::-1]):
        for node in neighbours:
            if isinstance(node, nodes.paragraph):
                return node.astext()
            if isinstance(node, nodes.section) or node.get("nb_element") == "cell_code":
                break
    return ""


def heading(node: nodes.Node) -> str:
    """Title of the section a node stands in."""
    while not isinstance(node, nodes.section):
        node = node.parent
    return node[0].astext()


def read(app: Sphinx, doctree: nodes.document) -> None:
    """Give every figure and every page in a page its text; note figures for the gallery."""
    notes = app.env.figure_notes[app.env.docname] = []
    for cell in list(doctree.findall(lambda n: isinstance(n, nodes.container) and n.get("nb_element") == "cell_code")):
        images = [image for image in cell.findall(nodes.image) if "candidates" in image]
        where, prose = heading(cell), opening(prose_about(cell))
        for n, image in enumerate(images, 1):
            which = f"Figure {n} of {len(images)}" if len(images) > 1 else "Figure"
            image.setdefault("alt", f"{which} in “{where}”. {prose}")
        if images:
            cell["ids"].append(f"figure-{len(notes) + 1}")
            notes.append((cell["ids"][-1], where, [(image["uri"], image["alt"]) for image in images]))
        for raw in list(cell.findall(nodes.raw)):
            frame(raw, f"Movable planes in “{where}”. {prose}")


def frame(raw: nodes.raw, title: str) -> None:
    """Name a page in a page for screen readers, and take its links to the web away."""
    text = raw.astext()
    if raw.get("format") == "html" and "<iframe" in text and "title=" not in text.split(">")[0]:
        text = WEB_LINK.sub("", text).replace("<iframe", f'<iframe title="{escape(title)}"', 1)
        raw.replace_self(nodes.raw(text=text, format="html", classes=raw["classes"]))


def resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link each figure to its file, where it can be enlarged, and fill galleries."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image.get("uri") in app.env.images and not isinstance(image.parent, nodes.reference):
            link = nodes.reference("", "", refuri=image_uri(app, docname, image["uri"]), internal=True)
            link["classes"].append("figure-link")
            image.replace_self(link)
            link += image
    for gallery in list(doctree.findall(Gallery)):
        lists = [figure_list(app, docname, chapter, gallery) for chapter in sorted(app.env.figure_notes)]
        if not any(lists):
            LOGGER.warning("no figure in %s, %s", gallery["chapter"], gallery["section"], location=gallery)
        gallery.replace_self(nodes.raw(text="\n".join(lists), format="html"))


def image_uri(app: Sphinx, docname: str, image: str) -> str:
    """Path from a page to the file of an image."""
    page = app.builder.get_target_uri(docname)
    return relative_uri(page, f"{app.builder.imagedir}/{app.env.images[image][1]}")


def figure_list(app: Sphinx, docname: str, chapter: str, gallery: Gallery) -> str:
    """The figures of a chapter that a gallery wants, or nothing."""
    wanted, section = gallery["chapter"] or chapter, gallery["section"]
    items, page = [], app.builder.get_relative_uri(docname, chapter)
    for anchor, where, images in app.env.figure_notes[chapter] if chapter == wanted != docname else ():
        for uri, alt in images if section in (None, where) else ():
            small = f'<img src="{image_uri(app, docname, uri)}" alt="{escape(alt)}" loading="lazy" />'
            items.append(f'<li><a href="{page}#{anchor}">{small}<span>{escape(where)}</span></a></li>')
    title = "" if gallery["chapter"] else f'<p class="rubric">{escape(app.env.titles[chapter].astext())}</p>'
    return f'{title}<ul class="figure-gallery">{"".join(items)}</ul>' if items else ""


def begin(app: Sphinx) -> None:
    """Make room in the environment."""
    for name, empty in (("figure_notes", dict), ("figure_galleries", set)):
        if not hasattr(app.env, name):
            setattr(app.env, name, empty())


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is about to be read again."""
    env.figure_notes.pop(docname, None)
    env.figure_galleries.discard(docname)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_node(Gallery)
    app.add_directive("figure-gallery", FigureGallery)
    app.connect("builder-inited", begin)
    app.connect("env-purge-doc", purge)
    app.connect("doctree-read", read)
    app.connect("env-updated", lambda app, env: sorted(env.figure_galleries))
    app.connect("doctree-resolved", resolved)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
