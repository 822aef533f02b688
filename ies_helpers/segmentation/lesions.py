"""Probability + target -> numbered lesions in groups TP, FP and FN; TN are drawn by `controls`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.signal import fftconvolve

from ies_helpers.arrays import CONNECTIVITY, Affine, LabelMap, Probability, Voxels, check_seed
from ies_helpers.segmentation.inference import check_window, predict
from ies_helpers.segmentation.network import Network
from ies_helpers.subjects.folder import open_derivative, save_lesions, write_table
from ies_helpers.subjects.phantom import GRID
from ies_helpers.subjects.subject import Subject

GROUPS = ("TP", "FP", "FN", "TN", "unknown")

MIN_VOXELS = 6
"""A lesion has more than 5 voxels, as published."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected component that the network found (TP, FP) or missed (FN), or a control (TN).

    Attributes:
        number: from 1, in scan order: found lesions first, then missed ones.
        group: `TP` shares a voxel with the target, `FP` does not, `FN` is a component of the target that
            shares none with the prediction; `TN` is a place where there is none, see `controls`; `unknown` where there
            is no target.
        voxels: `(V, 3)` indices: the prediction's voxels, for FN the target's.
        volume_mm3: NaN if no affine was given.
        centre_mm: centre of mass in world mm, `(3,)`; NaN if no affine was given.
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
        return mask_of(self.voxels, shape)


class Lesions:
    """The lesions of one subject, looked up by number: `lesions[3]`, `lesions.of("FP")`, `len(lesions)`."""

    def __init__(self, lesions: Sequence[Lesion]) -> None:
        self._by_number = {lesion.number: lesion for lesion in lesions}

    def __getitem__(self, number: int) -> Lesion:
        if number not in self._by_number:
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

        Raises:
            ValueError: for anything else, or where it names none.
            KeyError: for a number that does not exist.
        """
        check_choice(wanted)
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
        columns = ["lesion", "group", "voxels", "volume_mm3", "centre_x_mm", "centre_y_mm", "centre_z_mm"]
        rows = [
            (le.number, le.group, len(le), le.volume_mm3, *le.centre_mm, le.mean_probability, le.max_probability)
            for le in self
        ]
        return pd.DataFrame(rows, columns=[*columns, "mean_probability", "max_probability"])

    def label_map(self, shape: tuple[int, ...], group: str | None = None) -> LabelMap:
        """`(I, J, K)` int32: each lesion's number on its voxels, of one group or of all.

        Where a missed lesion and a found one overlap in space (they never do by definition) the later wins.
        """
        labels = torch.zeros(shape, dtype=torch.int32)
        for lesion in self:
            if group in (None, lesion.group):
                labels[tuple(lesion.voxels.T)] = lesion.number
        return labels


def check_choice(wanted: str) -> None:
    """Refuse what `Lesions.select` cannot mean, before anything is computed."""
    if not re.fullmatch(rf"all|{'|'.join(GROUPS)}|(size|{'|'.join(GROUPS)}):\d+-\d*|\d+(, ?\d+)*", wanted):
        groups = ", ".join(GROUPS)
        raise ValueError(f"lesions must be all, {groups}, numbers as 3,7, size:90-120 or TP:90-120; got {wanted!r}.")


def find_lesions(
    probability: Probability, target: LabelMap | None = None, *, threshold: float, affine: Affine | None = None
) -> Lesions:
    """Number the lesions of a prediction and sort them against the target.

    A lesion is an 18-connected component of more than 5 voxels (as published). Smaller components of the
    prediction do not count, neither as FP nor for finding a target component; smaller components of the
    target are no FN, but a prediction that touches one is TP.

    Args:
        probability: `(I, J, K)`, from 0 to 1; a voxel is predicted lesion above `threshold`.
        target: `(I, J, K)` bool or 0/1; None leaves the group `unknown`.
        threshold: the published U-Net's is 0.3, the others' 0.4: `network.threshold`.
        affine: gives volumes and centres their mm; without it they are NaN.

    Raises:
        ValueError: for what is no probability, a target on another grid, or a threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"A threshold must lie between 0 and 1, got {threshold}; take network.threshold.")
    score = np.asarray(probability, dtype=np.float32)
    if score.ndim != 3:
        raise ValueError(f"A probability must be a volume (I, J, K), got the shape {score.shape}; take predict.")
    if not ((score >= 0) & (score <= 1)).all():
        held = f"values from {score.min():g} to {score.max():g}" if np.isfinite(score).all() else "NaN or infinity"
        raise ValueError(f"A probability must lie between 0 and 1, got {held}; take predict, not predict_logits.")
    if target is not None and tuple(target.shape) != score.shape:
        raise ValueError(
            f"Target and prediction must share their grid, got {tuple(target.shape)} and {score.shape}; "
            "resample the target."
        )
    truth = None if target is None else np.asarray(target) > 0
    found = components(score > threshold)
    groups = ["unknown" if truth is None else "TP" if truth[tuple(v.T)].any() else "FP" for v in found]
    if truth is not None:
        predicted = mask_of(np.concatenate([np.empty((0, 3), dtype=np.int64), *found]), score.shape).numpy()
        missed = [v for v in components(truth) if not predicted[tuple(v.T)].any()]
        found, groups = found + missed, groups + ["FN"] * len(missed)
    return Lesions([lesion_of(n, g, v, score, affine) for n, (g, v) in enumerate(zip(groups, found, strict=True), 1)])


def components(mask: np.ndarray) -> list[Voxels]:
    """Voxels `(V, 3)` of each 18-connected component of at least `MIN_VOXELS`, in scan order, in one pass."""
    labels, count = ndimage.label(mask, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    inside = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[inside], kind="stable")
    sizes = np.bincount(labels.ravel()[inside], minlength=count + 1)[1:]
    indices = np.stack(np.unravel_index(inside[order], mask.shape), axis=1)
    parts = np.split(indices, np.cumsum(sizes)[:-1]) if count else []
    return [part for part in parts if len(part) >= MIN_VOXELS]


def lesion_of(number: int, group: str, voxels: Voxels, score: np.ndarray, affine: Affine | None) -> Lesion:
    """A lesion with what is measured on its voxels in the probability `score` `(I, J, K)`."""
    inside = score[tuple(voxels.T)]
    matrix = np.full((4, 4), np.nan) if affine is None else affine
    volume = len(voxels) * abs(float(np.linalg.det(matrix[:3, :3]))) if affine is not None else float("nan")
    centre = matrix[:3, :3] @ voxels.mean(axis=0) + matrix[:3, 3]
    return Lesion(number, group, voxels, volume, centre, float(inside.mean()), float(inside.max()))


def mask_of(voxels: Voxels, shape: tuple[int, ...]) -> LabelMap:
    """`(I, J, K)` bool, True at `voxels` `(V, 3)`."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(torch.as_tensor(voxels).T)] = True
    return mask


# True negatives: places like a lesion in shape, where neither network nor expert sees one.
#
# The paper compares peaks of saliency in TP, FP, FN and TN but leaves open what a TN is. Ours: the voxels of a lesion,
# shifted to a place drawn at random among all where they fit into normal-looking white matter, clear of every lesion.

CLEAR = 3
"""Dilations that keep a control away from every lesion."""


def true_negatives(subject: Subject, lesions: Lesions, like: Sequence[Lesion], *, seed: int = 0) -> list[Lesion]:
    """One control of group `TN` for each lesion of `like` whose shape fits anywhere.

    Args:
        subject: gives white matter, see `inner_white_matter`.
        lesions: all lesions, found and missed, to keep clear of by three voxels.
        like: lesions whose shapes to take; a shape that fits nowhere gives none.
        seed: of the places; control n depends on seed and n alone.

    Returns:
        Lesions of group `TN`, numbered after the last of `lesions`. Controls may overlap each other. Their
        probabilities are NaN: predict, or explain them.

    Raises:
        ValueError: for an empty `like`, or where none of its shapes fits.
    """
    if not like:
        raise ValueError("like must name a lesion whose shape a control takes, got none.")
    check_seed(seed)
    taken = lesions.label_map(subject.shape).numpy() > 0
    if subject.target is not None:
        taken |= subject.target.numpy()
    near = np.asarray(ndimage.binary_dilation(taken, CONNECTIVITY, CLEAR), dtype=bool)
    free = inner_white_matter(subject) & ~near
    last, controls = max((lesion.number for lesion in lesions), default=0), []
    for n, lesion in enumerate(like):
        corners = _fits(free, lesion.voxels)
        if len(corners):
            corner = corners[np.random.default_rng([seed, n]).integers(len(corners))]
            voxels = lesion.voxels - lesion.voxels.min(axis=0) + corner
            centre = subject.affine[:3, :3] @ voxels.mean(axis=0) + subject.affine[:3, 3]
            known = {"volume_mm3": lesion.volume_mm3, "centre_mm": centre}
            unknown = {"mean_probability": np.nan, "max_probability": np.nan}
            last += 1
            controls.append(replace(lesion, number=last, group="TN", voxels=voxels, **known, **unknown))
    if not controls:
        raise ValueError(
            f"A control must fit into white matter clear of lesions; of {len(like)} shapes none does in "
            f"{subject.name}, which has {int(free.sum())} such voxels. Take smaller lesions."
        )
    return controls


def inner_white_matter(subject: Subject) -> np.ndarray:
    """`(I, J, K)` bool: normal-looking white matter, away from its border.

    Stricter than `surround.white_matter`, which is sure enough of a level but holds some cortex: a control has to lie
    in white matter with all its voxels.

    By intensity, three voxels and more inside the brain: T1 above its median there, FLAIR from the 10th to the 80th
    centile of such voxels; small holes closed, and one voxel taken off its border. In a scan on the MNI152 grid also
    white matter of the template (nilearn's map, above 0.5).
    """
    flair, t1 = subject.image[0].numpy(), subject.image[1].numpy()
    brain = np.asarray(ndimage.binary_erosion(ndimage.binary_fill_holes(flair != 0), CONNECTIVITY, 3), dtype=bool)
    white = brain & (t1 > np.median(t1[brain]))
    low, high = np.quantile(flair[white], (0.1, 0.8))
    white &= (flair > low) & (flair < high)
    white = np.asarray(ndimage.binary_closing(white, CONNECTIVITY), dtype=bool) & brain
    if subject.shape == GRID:
        white &= _template(subject.affine)
    return np.asarray(ndimage.binary_erosion(white, ndimage.generate_binary_structure(3, 1)), dtype=bool)


def _template(affine: np.ndarray) -> np.ndarray:
    import nibabel
    from nilearn.datasets import load_mni152_wm_template
    from nilearn.image import resample_to_img

    grid = nibabel.Nifti1Image(np.zeros(GRID, dtype=np.uint8), affine)
    template = load_mni152_wm_template(resolution=1)
    on_grid = resample_to_img(template, grid, force_resample=True, copy_header=True)
    return np.asarray(on_grid.dataobj) > 0.5


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


def segment(subject: Subject, network: Network, out: Path, *, progress: bool = False) -> Lesions:
    """Predict, number the lesions, and write the probability, the numbered groups and their table.

    Args:
        subject, network: what to segment, and with what; the network's threshold says what a lesion is.
        out: a folder, made a BIDS derivative.
        progress: show a bar over windows.

    Raises:
        ValueError: for an image smaller than a window, or a folder that holds maps of other lesions of this subject.
        OSError: if `out` cannot be written, before the prediction starts.
    """
    check_window(network, subject.shape)
    open_derivative(out)
    probability = predict(network, subject.image, progress=progress)
    lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
    groups = {lesion.group for lesion in lesions}
    save_lesions(out, subject, probability, {g: lesions.label_map(subject.shape, g) for g in groups})
    write_table(out / f"sub-{subject.name}" / "lesions.tsv", lesions.table())
    return lesions
