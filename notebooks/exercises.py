"""Exercises of a chapter: where their folded solutions are, and the chapter with or without them."""

import re
from collections.abc import Callable

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

FOLDED = re.compile(r"<details><summary>Solution</summary>\n(.*?)</details>\n?", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def solutions(book: NotebookNode) -> list[str]:
    """The Python code of each folded solution, in order."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    return ["\n".join(CODE.findall(folded)) for folded in FOLDED.findall(text)]


def blanked(book: NotebookNode) -> NotebookNode:
    """The chapter with an empty cell in place of each solution."""
    return _with_cells(book, lambda _: [new_code_cell("# your answer\n")])


def solved(book: NotebookNode) -> NotebookNode:
    """The chapter with each solution unfolded: its prose, and its code as a cell."""
    return _with_cells(book, _unfolded)


def _unfolded(folded: str) -> list[NotebookNode]:
    prose, cells = CODE.split(folded), []
    for n, text in enumerate(prose):
        if text.strip():
            cells.append(new_code_cell(text.rstrip()) if n % 2 else new_markdown_cell(text.strip()))
    return cells


def _with_cells(book: NotebookNode, replacement: Callable[[str], list[NotebookNode]]) -> NotebookNode:
    cells = []
    for cell in book.cells:
        pieces = FOLDED.split(cell.source) if cell.cell_type == "markdown" else [cell.source]
        if len(pieces) == 1:
            cells.append(cell)
            continue
        for n, text in enumerate(pieces):
            if n % 2:
                cells += replacement(text)
            elif text.strip():
                cells.append(new_markdown_cell(text.strip()))
    copy = nbformat.from_dict({**book, "cells": cells})
    for n, cell in enumerate(copy.cells):
        cell.id = f"cell-{n}"
    return copy
