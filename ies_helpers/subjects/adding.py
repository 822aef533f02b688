"""Lesions put into a folder of maps that no prediction of ours numbered: masks drawn by hand, controls."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ies_helpers.subjects.saving import groups_path, numbered, read_numbers, save_image
from ies_helpers.subjects.subject import Subject
from ies_helpers.types import Voxels


def add_lesions(folder: Path, subject: Subject, lesions: Iterable[tuple[int, str, Voxels]]) -> None:
    """Write lesions, each a number, a group and voxels, beside those that the folder holds; all of them, or none.

    Raises:
        ValueError: if the folder has another lesion under a number, or in the place of one, or lesions elsewhere.
    """
    held = {path: read_numbers(path, subject) for path in numbered(folder, subject.name)}
    changed = set()
    for number, group, voxels in lesions:
        path, at = groups_path(folder, subject.name, group), tuple(voxels.T)
        numbers = held.setdefault(path, np.zeros(subject.shape, dtype=np.int16))
        size = int((numbers == number).sum())
        same = size == len(voxels) and bool((numbers[at] == number).all())
        free = size == 0 and not numbers[at].any() and not any((other == number).any() for other in held.values())
        if not same and not free:
            raise ValueError(
                f"A folder holds one set of lesions a subject, {folder} has another lesion {number} of {subject.name}, "
                "or one in its place. Take another --out."
            )
        if free:
            numbers[at] = number
            changed.add(path)
    for path in changed:
        save_image(path, held[path], subject)
