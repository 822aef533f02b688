"""What the numbers of a target mean: a mask, one lesion a number, classes, probabilities, or what several raters drew.

The values of a file decide, in this order:

1. NaN is background where all corners of the volume are NaN and every NaN hangs together with one of them, or where
   the file holds no 0. Any other NaN, infinity and whole numbers below 0 are refused.
2. Values within 0.01 of whole numbers are these: scaled integers hold 0.99999 for 1. Others from 0 to 1 are
   probabilities, or a mask that was resampled: what is above 0.5 is lesion.
3. One number beside 0, whichever it is, is a mask. Its lesions are its connected components.
4. Several numbers are lesions, one a number, where they are 1 to n, at least three, and each lies in one piece; or
   where they are five or more, and nine of ten lie in one piece. They are kept as they are, also where they touch.
5. Any others may be classes as well, of which one is lesion: that is asked for, unless the layout of the data says it.
6. More than half a litre, or than a third of what is not background in the scan, is a brain and no lesion.

Whatever was decided is told, unless the file holds nothing but 0 and 1.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from ies_helpers.arrays import CONNECTIVITY, HasGrid, check_same_grid
from ies_helpers.subjects.layouts import LESION, NO_LESION
from ies_helpers.subjects.nifti import read_image, read_values

WHOLE = 0.01  # how far from a whole number a value may be and still mean it
OVERSHOOT = 0.25  # how far below 0 and above 1 a smoothly resampled mask may go
PROBABLE = 0.5  # above it, of probabilities, is lesion
FEW, MANY = 3, 5  # numbers 1 to n, and any numbers, from which on one a lesion is the only reading
IN_ONE_PIECE = 0.9  # share of many numbers that must lie in one piece
LARGEST, LARGE = (0.5, 1 / 3), (0.2, 0.15)  # litres, and share of the brain: no lesions; many, which is told
SURELY = 0.05  # litres, below which a share of the brain says nothing
MAJORITY = "majority"
INSTANCES = "instances"


@dataclass(frozen=True)
class Reading:
    """What a user says of a target, and what a layout says where the user says nothing."""

    label: str | int | None = None  # the number that is lesion, several as `1,2`, or `instances`
    threshold: float | None = None  # above it is lesion
    known: int | None = None  # the number that is lesion in data of a known layout

    def __post_init__(self) -> None:
        if self.label not in (None, INSTANCES) and not self.labels:
            raise ValueError(
                f"target_label must be a label's number, several as 1,2, or {INSTANCES} where each number is a lesion; "
                f"got {self.label!r}."
            )
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"target_threshold must be above 0, got {self.threshold}; 0.5 is usual.")
        if self.label is not None and self.threshold is not None:
            raise ValueError(
                f"A target has labels or values above a threshold, got target_label {self.label} and target_threshold "
                f"{self.threshold}; leave one out."
            )

    @property
    def labels(self) -> list[int]:
        """The numbers of `label`."""
        parts = str(self.label).split(",")
        return [int(part) for part in parts] if all(part.strip().isdecimal() and int(part) for part in parts) else []


class Target(NamedTuple):
    """Where lesions are, and which voxel belongs to which of them where the file says so."""

    mask: np.ndarray  # (I, J, K) bool
    instances: np.ndarray | None  # (I, J, K) int32, a number a lesion; None: connected components of the mask
    note: str = ""  # a sentence on what was decided; empty where nothing was


def interpret(values: np.ndarray, name: str, reading: Reading = Reading()) -> Target:
    """The lesions of `(I, J, K)` values of a file `name`; see the module."""
    values = _without_nan(np.asarray(values), "A target", name)
    if reading.threshold is not None:
        return Target(_above(values, name, reading.threshold), None)
    labels = whole_numbers(values, "A target", name)
    if labels is None:
        return _scores(values, name, reading)
    present = sorted(int(n) for n in pd.unique(labels.ravel()) if n)  # by hashes, and not by sorting all voxels
    if reading.label is not None:
        return _chosen(labels, present, name, reading)
    if reading.known is not None:
        others = ", ".join(str(n) for n in present if n != reading.known)
        note = f"Of {name} label {reading.known} is taken for lesion, and {others} left aside." if others else ""
        return Target(labels == reading.known, None, note)
    if len(present) < 2:
        note = f"{name} holds 0 and {present[0]}: {present[0]} is taken for lesion." if present not in ([], [1]) else ""
        return Target(labels > 0, None, note)
    return _several(labels, present, name)


def whole_numbers(values: np.ndarray, what: str, name: str) -> np.ndarray | None:
    """`(I, J, K)` int32 labels from 0 on, of values within 0.01 of them; None where others are among them.

    What must not be at all is refused: `what` it shall be, as `A target`, and what it is called.
    """
    values = _without_nan(values, what, name)
    whole = np.rint(values) if values.dtype.kind == "f" else values.astype(np.int64)
    if np.abs(values - whole).max(initial=0) > WHOLE:
        return None
    if (low := whole.min(initial=0)) < 0:
        raise ValueError(f"{what} must hold no number below 0, {name} holds {low:g}; write 0 where there is no lesion.")
    if (top := whole.max(initial=0)) >= 2**31:
        raise ValueError(f"{what} must hold labels, {name} holds {top:g}; number the lesions from 1.")
    return whole.astype(np.int32)


def _without_nan(values: np.ndarray, what: str, name: str) -> np.ndarray:
    """The values, with 0 for a background of NaN."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values
    nan, remedy = np.isnan(values), "write 0 where there is no lesion"
    if np.isinf(values).any():
        raise ValueError(f"{what} must be finite, {name} holds infinity; {remedy}.")
    labels, _ = ndimage.label(nan, np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    corners = labels[np.ix_(*((0, -1) for _ in nan.shape))]
    around = corners.all() and np.isin(labels[nan], corners).all()
    if not around and (values == 0).any():
        raise ValueError(f"{what} must be finite, {name} has {int(nan.sum())} NaN voxels inside; {remedy}.")
    return np.where(nan, 0, values)


def _scores(values: np.ndarray, name: str, reading: Reading) -> Target:
    """Lesions where values between 0 and 1 are above a half."""
    low, top = float(values.min()), float(values.max())
    held = f"{name} holds others, from {low:.3g} to {top:.3g}"
    if reading.label is not None:
        remedy = "leave it out, or take target_threshold (--target-threshold)"
        raise ValueError(f"target_label chooses among whole numbers, {held}; {remedy}.")
    if low < -OVERSHOOT or top > 1 + OVERSHOOT:
        remedy = "say above which value is lesion, by target_threshold (--target-threshold)"
        raise ValueError(f"A target must hold whole numbers or probabilities, {held}; {remedy}.")
    mask = _above(values, name, PROBABLE)
    note = (
        f"{name} holds values from {low:.3g} to {top:.3g}, which are read as probabilities: lesion is what is above "
        f"{PROBABLE:g}, {int(mask.sum())} voxels. target_threshold (--target-threshold) sets another."
    )
    return Target(mask, None, note)


def _above(values: np.ndarray, name: str, threshold: float) -> np.ndarray:
    mask = values > threshold
    if values.any() and not mask.any():
        raise ValueError(
            f"A target's lesions must be above its threshold, {name} has none above {threshold:g}, its largest value "
            f"is {values.max():.3g}; take another target_threshold (--target-threshold)."
        )
    return mask


def _chosen(labels: np.ndarray, present: list[int], name: str, reading: Reading) -> Target:
    """The lesions by the label that the user chose."""
    if reading.label == INSTANCES:
        return Target(labels > 0, labels)
    if lacking := [n for n in reading.labels if n not in present]:
        held = ", ".join(map(str, present[:9])) + (", ..." if present[9:] else "")
        met = f"{name} has {held or 'none but 0'}, and not {', '.join(map(str, lacking))}"
        raise ValueError(f"target_label must be a label of the target, {met}; choose another (--target-label).")
    return Target(np.isin(labels, reading.labels), None)


def _several(labels: np.ndarray, present: list[int], name: str) -> Target:
    """The lesions of labels that are several, if they can be read in one way alone."""
    pieces = count_pieces(labels)
    single = float(np.mean([n == 1 for n in pieces.values()]))
    counted = len(present) >= FEW and present[-1] == len(present) and single == 1
    if counted or (len(present) >= MANY and single >= IN_ONE_PIECE):
        held = f"{len(present)} numbers from {present[0]} to {present[-1]}"
        whole = "each in one piece" if single == 1 else f"{single:.0%} of them in one piece"
        note = (
            f"{name} holds {held}, {whole}: each is taken for a lesion of its own. If one of them means lesion, say "
            "which by target_label (--target-label)."
        )
        return Target(labels > 0, labels, note)
    sizes = {n: int((labels == n).sum()) for n in present[:6]}
    held = ", ".join(f"{n} ({size} voxels in {_counted(pieces[n])})" for n, size in sizes.items())
    raise ValueError(
        f"A target must say which of its labels is lesion, {name} holds {held}{', ...' if present[6:] else ''}; give "
        f"target_label=N, or target_label='{INSTANCES}' where each number is a lesion (--target-label N)."
    )


def _counted(pieces: int) -> str:
    return "1 piece" if pieces == 1 else f"{pieces} pieces"


def count_pieces(labels: np.ndarray) -> dict[int, int]:
    """In how many pieces, which share not even a corner, each number of `(I, J, K)` labels above 0 lies."""
    found = {}
    for number, voxels in ndimage.value_indices(labels, ignore_value=0).items():
        box = tuple(slice(along.min(), along.max() + 1) for along in voxels)
        _, found[int(number)] = ndimage.label(labels[box] == number, np.ones((3, 3, 3)))  # pyright: ignore
    return found


# Lesions that are to be explained, by a file of their numbers.

LARGEST_NUMBER = 2**15 - 1  # that a folder's files of lesions hold


def number_lesions(values: np.ndarray, name: str) -> np.ndarray:
    """`(I, J, K)` int32, a number a lesion: those of the values, or of the pieces of a mask that has one number."""
    what = "A file of lesions"
    numbers = whole_numbers(np.asarray(values), what, name)
    if numbers is None or not numbers.any() or numbers.max() > LARGEST_NUMBER:
        held = "no number but 0" if numbers is not None and not numbers.any() else f"{float(np.nanmax(values)):.6g}"
        raise ValueError(f"{what} must hold whole numbers from 1 to {LARGEST_NUMBER}, {name} holds {held}.")
    pieces = count_pieces(numbers)
    if len(pieces) > 1 or set(pieces.values()) == {1}:
        return numbers
    labels, count = ndimage.label(numbers > 0, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    warnings.warn(
        f"{name} holds one number on {count} pieces: each piece is taken for a lesion, numbered in scan order.",
        stacklevel=3,
    )
    return labels.astype(np.int32)


def read_numbers(path: str | Path, grid: HasGrid) -> np.ndarray:
    """The numbers of `number_lesions` in a file that lies on the grid of a subject."""
    path, what = Path(path), "lesions'"
    image = read_image(path, what)
    check_same_grid(f"Scan and lesions, {path.name},", grid, image, "resample the lesions, nearest neighbour, first")
    return number_lesions(read_values(image, what), path.name)


# Targets on the disk.


def read_target(
    paths: Path | Mapping[str, Path], reference: HasGrid, first: str, brain: int, reading: Reading = Reading()
) -> Target:
    """The lesions of one file, or those that more than half of several raters drew; what was decided is a warning.

    Args:
        paths: a file, or one a rater.
        reference, first: the image whose grid it must share, and what that image is called.
        brain: how many voxels of that image are not background.
        reading: what is said of the labels.
    """
    if isinstance(paths, Path):
        target = _read_one(paths, reference, first, reading)
        name = paths.name
        if re.search(NO_LESION, name) and not re.search(LESION, name):
            warnings.warn(
                f"{name} is named as a mask of the brain or of a tissue; it is read as lesions.", stacklevel=2
            )
    else:
        each = [_read_one(path, reference, first, reading).mask for path in paths.values()]
        mask = np.asarray(2 * np.sum(each, axis=0, dtype=np.int16) > len(each))
        name = f"the {MAJORITY} of {', '.join(paths)}"
        drawn = ", ".join(f"{who} {int(one.sum())}" for who, one in zip(paths, each, strict=True))
        note = f"Lesion is what more than half of {len(each)} raters drew, {int(mask.sum())} voxels (of {drawn})."
        target = Target(mask, None, note)
    if target.note:
        warnings.warn(target.note, stacklevel=2)
    _check_size(target.mask, name, reference, first, brain, chosen=reading.label is not None)
    return target


def _read_one(path: Path, reference: HasGrid, first: str, reading: Reading) -> Target:
    image = read_image(path, "target")
    check_same_grid(f"{first} and target", reference, image, "resample one onto the other first")
    return interpret(read_values(image, "target"), path.name, reading)


def _check_size(mask: np.ndarray, name: str, grid: HasGrid, first: str, brain: int, *, chosen: bool) -> None:
    """Refuse a target as large as a brain, unless its label was chosen, and tell of one that is large."""
    count = int(mask.sum())
    litres = count * abs(float(np.linalg.det(np.asarray(grid.affine)[:3, :3]))) / 1e6
    share = count / max(brain, 1) if litres > SURELY else 0.0
    met = f"{name} covers {litres:.2g} litres, {count / max(brain, 1):.0%} of what is not background in {first}"
    if (litres > LARGEST[0] or share > LARGEST[1]) and not chosen:
        raise ValueError(
            f"A target must be lesions, {met}: it seems to be a mask of the brain or of a tissue. Give the lesions' "
            "mask, or say by target_label (--target-label) that it is one."
        )
    if litres > LARGE[0] or share > LARGE[1]:
        warnings.warn(f"{met}: see that it is a mask of lesions, and not of a tissue.", stacklevel=3)
