"""Lesions as instances: a prediction and a target -> numbered lesions in groups TP, FP and FN; TN are drawn."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.signal import fftconvolve
from torch import nn

from ies_helpers.arrays import CONNECTIVITY, Affine, LabelMap, Probability, Voxels, as_mask, check_seed, door
from ies_helpers.segmentation.inference import predict
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.folder import as_tsv, open_derivative, save_lesions, write_table
from ies_helpers.subjects.subject import Subject
from ies_helpers.subjects.targets import number_lesions, read_numbers, whole_numbers
from ies_helpers.subjects.tissue import inner_white_matter

GROUPS = ("TP", "FP", "FN", "TN", "unknown")

MIN_VOXELS = 6  # a lesion has more than 5 voxels, as published


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component that the network found (TP, FP) or missed (FN), or a control (TN).

    Attributes:
        number: from 1, in scan order: found lesions first, then missed ones.
        group: `TP` shares a voxel with the target, `FP` does not, `FN` is a component of the target that shares none
            with the prediction; `TN` a place where there is none, see `true_negatives`; `unknown`, without a target.
        voxels: `(V, 3)`: the prediction's, for FN the target's.
        volume_mm3, centre_mm: and its centre of mass `(3,)` in world mm; NaN if no affine was given.
        mean_probability, max_probability: over its voxels.
    """

    number: int
    group: str
    voxels: Voxels
    volume_mm3: float
    centre_mm: np.ndarray
    mean_probability: float
    max_probability: float

    def __len__(self) -> int:
        return len(self.voxels)

    def __repr__(self) -> str:
        return f"Lesion({self.number}: {self.group}, {len(self)} voxels, mean probability {self.mean_probability:.2f})"

    @property
    def label(self) -> str:
        """`L003` for lesion 3, as in file names."""
        return f"L{self.number:03d}"

    def mask(self, shape: tuple[int, ...]) -> LabelMap:
        """`(I, J, K)` bool, True on the lesion."""
        return torch.from_numpy(as_mask(self.voxels, shape))


class Lesions:
    """The lesions of one subject, looked up by number: `lesions[3]`, `lesions.of("FP")`, `len(lesions)`."""

    def __init__(self, lesions: Sequence[Lesion]) -> None:
        self._by_number = {lesion.number: lesion for lesion in lesions}

    def __getitem__(self, number: int) -> Lesion:
        if number not in self._by_number:
            if not self._by_number:
                raise KeyError(f"There is no lesion here, got number {number}; lower the threshold.")
            there = list(self._by_number)
            numbers = f"1 to {len(there)}" if there == list(range(1, len(there) + 1)) else ", ".join(map(str, there))
            raise KeyError(f"Lesions here are numbered {numbers}, got {number}; see the lesion table.")
        return self._by_number[number]

    def __iter__(self) -> Iterator[Lesion]:
        return iter(self._by_number.values())

    def __len__(self) -> int:
        return len(self._by_number)

    def __repr__(self) -> str:
        groups = ", ".join(f"{len(self.of(g))} {g}" for g in GROUPS if self.of(g))
        return f"Lesions({groups or 'none'})"

    def of(self, group: str) -> list[Lesion]:
        """The lesions of one group."""
        return [lesion for lesion in self if lesion.group == group]

    def select(self, wanted: str) -> list[Lesion]:
        """The lesions that `wanted` names.

        `all`, a group such as `FP`, numbers such as `3,7`, sizes in voxels as `size:90-120`, or both as `TP:90-120`.
        """
        check_wanted(wanted)
        if wanted == "all":
            chosen = list(self)
        elif wanted in GROUPS:
            chosen = self.of(wanted)
        elif ":" in wanted:
            group, _, sizes = wanted.partition(":")
            least, _, most = sizes.partition("-")
            among = self if group == "size" else self.of(group)
            chosen = [lesion for lesion in among if int(least) <= len(lesion) <= int(most or 10**9)]
        else:
            chosen = [self[number] for number in dict.fromkeys(int(part) for part in wanted.split(","))]
        if not chosen:
            group = wanted.partition(":")[0]
            sizes = sorted(map(len, self.of(group) if group in GROUPS else self))
            there = f", of {', '.join(map(str, sizes))} voxels" if sizes and ":" in wanted else ""
            raise ValueError(f"There must be a lesion to work on; of {wanted!r} there is none among {self!r}{there}.")
        return chosen

    def table(self) -> pd.DataFrame:
        """One row a lesion: group, voxels, volume in mm3, centre in world mm, probabilities."""
        names = ["lesion", "group", "voxels", "volume_mm3", *(f"centre_{axis}_mm" for axis in "xyz")]
        rows = [
            (le.number, le.group, len(le), le.volume_mm3, *le.centre_mm, le.mean_probability, le.max_probability)
            for le in self
        ]
        return pd.DataFrame(rows, columns=[*names, "mean_probability", "max_probability"])

    def label_map(self, shape: tuple[int, ...], group: str | None = None) -> LabelMap:
        """`(I, J, K)` int32: each lesion's number on its voxels, of one group or of all."""
        labels = torch.zeros(shape, dtype=torch.int32)
        for lesion in self:
            if group in (None, lesion.group):
                labels[tuple(lesion.voxels.T)] = lesion.number
        return labels


def check_wanted(wanted: str) -> None:
    """Refuse what `Lesions.select` cannot mean, before anything is computed."""
    if not re.fullmatch(rf"all|{'|'.join(GROUPS)}|(size|{'|'.join(GROUPS)}):\d+-\d*|\d+(, ?\d+)*", wanted):
        groups = ", ".join(GROUPS)
        raise ValueError(f"lesions must be all, {groups}, numbers as 3,7, size:90-120 or TP:90-120; got {wanted!r}.")


@overload
def find_lesions(
    probability: Network | nn.Module,
    target: Subject,
    *,
    threshold: float | None = None,
    affine: None = None,
    labels: str | Path | LabelMap | None = None,
) -> Lesions:
    """Predict, and sort what is found against the subject's target."""


@overload
def find_lesions(
    probability: Probability,
    target: LabelMap | None = None,
    *,
    threshold: float | None = None,
    affine: Affine | None = None,
    labels: LabelMap | None = None,
) -> Lesions:
    """Sort what a prediction found, or what `labels` hold, against a target."""


@door
def find_lesions(
    probability: Probability | Network | nn.Module,
    target: LabelMap | Subject | None = None,
    *,
    threshold: float | None = None,
    affine: Affine | None = None,
    labels: str | Path | LabelMap | None = None,
) -> Lesions:
    """Number the lesions of a prediction and sort them against the target.

    `find_lesions(network, subject)` predicts, and takes threshold, target and affine from the two;
    `find_lesions(probability, target, threshold=..., affine=...)` takes them one by one.

    A lesion is an 18-connected component of more than 5 voxels (as published). Smaller ones of the prediction do not
    count, neither as FP nor for finding a target component; smaller ones of the target are no FN, but a prediction that
    touches one is TP. Where the target gives each of its lesions a number, these are its lesions, and not components.

    Args:
        probability: `(I, J, K)`, from 0 to 1; a voxel is predicted lesion above `threshold`. Or a network.
        target: `(I, J, K)` bool or 0/1, or one lesion a number; None leaves the group `unknown`. Or, with a network,
            the subject.
        threshold: the published U-Net's is 0.3, the others' 0.4; None: the network's own.
        affine: gives volumes and centres their mm.
        labels: `(I, J, K)`, one lesion a number, or with a subject a file of them on its grid: they take the place of
            the prediction's and keep their numbers, whatever their size; those that meet the target are TP, others FP.
            One number alone stands for as many lesions as it has pieces.
    """
    if isinstance(probability, Network | nn.Module) or isinstance(target, Subject):
        return _lesions_of_subject(probability, target, threshold, affine, labels)
    score = _checked_score(probability, 0.5 if labels is not None and threshold is None else threshold)
    truth, instances = (None, None) if target is None else _checked_target(target, score.shape)
    if labels is not None:
        return _lesions_of_labels(number_lesions(np.asarray(labels), "this array"), truth, score, affine)
    found = components(score > threshold)
    groups = ["unknown" if truth is None else "TP" if truth[tuple(v.T)].any() else "FP" for v in found]
    if truth is not None:
        predicted = np.zeros(score.shape, dtype=bool)
        for voxels in found:
            predicted[tuple(voxels.T)] = True
        parts = components(truth) if instances is None else _parts(instances)
        missed = [v for v in parts if not predicted[tuple(v.T)].any()]
        found, groups = found + missed, groups + ["FN"] * len(missed)
    return Lesions([lesion_of(n, g, v, score, affine) for n, (g, v) in enumerate(zip(groups, found, strict=True), 1)])


def _checked_target(target: LabelMap, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Where the target is, `(I, J, K)` bool, and its lesions' numbers where it has several."""
    if tuple(target.shape) != shape:
        shapes = f"{tuple(target.shape)} and {shape}"
        raise ValueError(f"Target and prediction must lie on one grid, got {shapes}; resample the target.")
    labels = np.asarray(target)
    if labels.dtype == bool:
        return labels, None
    numbers = whole_numbers(labels, "A target", "this one")
    if numbers is None:
        held = f"values from {labels.min():g} to {labels.max():g}"
        raise ValueError(f"A target must be a mask or one lesion a number, got {held}; compare it with a threshold.")
    return numbers > 0, numbers if len(np.unique(numbers[numbers > 0])) > 1 else None


def _lesions_of_labels(
    numbers: np.ndarray, truth: np.ndarray | None, score: np.ndarray, affine: Affine | None
) -> Lesions:
    """The lesions of `(I, J, K)` labels, which keep their numbers."""
    if numbers.shape != score.shape:
        raise ValueError(f"Labels and prediction must lie on one grid, got {numbers.shape} and {score.shape}.")
    found = ndimage.value_indices(numbers, ignore_value=0)
    parts = {int(n): np.stack(found[n], axis=1) for n in sorted(found)}
    groups = {n: "unknown" if truth is None else "TP" if truth[tuple(v.T)].any() else "FP" for n, v in parts.items()}
    return Lesions([lesion_of(n, groups[n], voxels, score, affine) for n, voxels in parts.items()])


def _lesions_of_subject(
    network: object, subject: object, threshold: float | None, affine: object, labels: Any
) -> Lesions:
    """What `find_lesions(network, subject)` is: a prediction of the channels that the network takes."""
    if not (isinstance(network, Network | nn.Module) and isinstance(subject, Subject)):
        kinds = f"a {type(network).__name__} and a {type(subject).__name__}"
        raise TypeError(f"find_lesions takes a network and a subject, or a probability and a target; got {kinds}.")
    if affine is not None:
        raise TypeError("affine is for a probability by itself, a subject has its own; leave it out.")
    network, subject = prepare(network, subject)
    numbers = torch.from_numpy(read_numbers(labels, subject)) if isinstance(labels, str | Path) else labels
    probability = predict(network, subject.image)
    threshold = network.threshold if threshold is None else threshold
    return find_lesions(probability, drawn(subject), threshold=threshold, affine=subject.affine, labels=numbers)


def drawn(subject: Subject) -> LabelMap | None:
    """The subject's target, `(I, J, K)`, with a number a lesion where its file tells them apart."""
    return subject.target if subject.instances is None else subject.instances


def _checked_score(probability: Probability, threshold: float | None) -> np.ndarray:
    """`(I, J, K)` float32 probability, refused where it is none or the threshold cuts none."""
    if threshold is None or not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}; take network.threshold.")
    score = np.asarray(probability, dtype=np.float32)
    if score.ndim != 3:
        raise ValueError(f"A probability must be a volume (I, J, K), got the shape {score.shape}; take predict.")
    if not ((score >= 0) & (score <= 1)).all():
        held = f"values from {score.min():g} to {score.max():g}" if np.isfinite(score).all() else "NaN or infinity"
        raise ValueError(f"A probability must lie between 0 and 1, got {held}; take predict, not predict_logits.")
    return score


def components(mask: np.ndarray) -> list[Voxels]:
    """Voxels `(V, 3)` of each 18-connected component of at least `MIN_VOXELS`, in scan order."""
    labels, _ = ndimage.label(mask, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    return _parts(labels)


def _parts(labels: np.ndarray) -> list[Voxels]:
    """Voxels `(V, 3)` of each number of at least `MIN_VOXELS`, in the order of the numbers."""
    found = ndimage.value_indices(labels, ignore_value=0)
    return [np.stack(found[n], axis=1) for n in sorted(found) if len(found[n][0]) >= MIN_VOXELS]


def lesion_of(number: int, group: str, voxels: Voxels, score: np.ndarray, affine: Affine | None) -> Lesion:
    """A lesion with what is measured on its voxels in the probability `score` `(I, J, K)`."""
    inside = score[tuple(voxels.T)]
    matrix = np.full((4, 4), np.nan) if affine is None else affine
    volume = float("nan") if affine is None else len(voxels) * abs(float(np.linalg.det(affine[:3, :3])))
    centre = apply_affine(matrix, voxels.mean(axis=0))
    return Lesion(number, group, voxels, volume, centre, float(inside.mean()), float(inside.max()))


# True negatives: places like a lesion in shape, where neither network nor expert sees one.
#
# The paper compares peaks of saliency in TP, FP, FN and TN but leaves open what a TN is. Ours: the voxels of a lesion,
# shifted to a place drawn at random among all where they fit into normal-looking white matter, clear of every lesion.

CLEARANCE = 3  # dilations that keep a control away from every lesion


def true_negatives(subject: Subject, lesions: Lesions, like: Sequence[Lesion], *, seed: int = 0) -> list[Lesion]:
    """One control of group `TN` for each lesion of `like` whose shape fits anywhere in white matter.

    They are clear of all `lesions` by three voxels and numbered after the last of them; control n depends on `seed` and
    n alone. Controls may overlap each other. Their probabilities are NaN: predict, or explain them.
    """
    if not like:
        raise ValueError("like must name a lesion whose shape a control takes, got none.")
    check_seed(seed)
    taken = lesions.label_map(subject.shape).numpy() > 0
    if subject.target is not None:
        taken |= subject.target.numpy()
    near = np.asarray(ndimage.binary_dilation(taken, CONNECTIVITY, CLEARANCE), dtype=bool)
    free = inner_white_matter(subject) & ~near
    last, controls = max((lesion.number for lesion in lesions), default=0), []
    for n, lesion in enumerate(like):
        corners = _fits(free, lesion.voxels)
        if len(corners):
            corner = corners[np.random.default_rng([seed, n]).integers(len(corners))]
            voxels = lesion.voxels - lesion.voxels.min(axis=0) + corner
            centre = apply_affine(subject.affine, voxels.mean(axis=0))
            last += 1
            unknown = {"mean_probability": np.nan, "max_probability": np.nan}
            controls.append(replace(lesion, number=last, group="TN", voxels=voxels, centre_mm=centre, **unknown))
    if not controls:
        raise ValueError(
            f"A control must fit into white matter clear of lesions; of {len(like)} shapes none does in "
            f"{subject.name}, which has {int(free.sum())} such voxels. Take smaller lesions."
        )
    return controls


def _fits(free: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Corners `(N, 3)` at which the bounding box of `voxels` can start so that all of them are free."""
    local = voxels - voxels.min(axis=0)
    if (local.max(axis=0) >= free.shape).any():
        return np.empty((0, 3), dtype=int)
    shape = np.zeros(local.max(axis=0) + 1, dtype=np.float32)
    shape[tuple(local.T)] = 1
    hits = fftconvolve(free.astype(np.float32), shape[::-1, ::-1, ::-1], mode="valid")
    return np.argwhere(hits > len(voxels) - 0.5)


# One subject's lesions found and written: what every command and every cohort begins with.


def segment_into_folder(
    subject: Subject, network: Network, out: Path, *, labels: Path | None = None, progress: bool = False
) -> Lesions:
    """Predict, number the lesions, and write the probability, the numbered groups and their table into a folder.

    `labels` is a file of lesions that take the place of the prediction's, see `find_lesions`. `out` becomes a BIDS
    derivative; if it cannot be written, that shows before the prediction starts.
    """
    network, subject = prepare(network, subject)
    numbers = None if labels is None else torch.from_numpy(read_numbers(labels, subject))
    open_derivative(out)
    probability = predict(network, subject.image, progress=progress)
    how: Any = {"threshold": network.threshold, "affine": subject.affine, "labels": numbers}
    lesions = find_lesions(probability, drawn(subject), **how)
    groups = {lesion.group for lesion in lesions}
    save_lesions(out, subject, probability, {g: lesions.label_map(subject.shape, g) for g in groups})
    _write_lesions(out / f"sub-{subject.name}" / "lesions.tsv", lesions.table())
    return lesions


def _write_lesions(path: Path, table: pd.DataFrame) -> None:
    """Write the table, unless the file holds these lesions already: behind them stands what their maps measured."""
    held = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    wanted = as_tsv(table).splitlines()
    if len(held) < len(wanted) or any(not f"{h}\t".startswith(f"{w}\t") for h, w in zip(held, wanted, strict=False)):
        write_table(path, table)
