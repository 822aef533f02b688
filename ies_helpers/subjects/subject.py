"""A subject: one image with its geometry and its channels, and what is known to be a lesion."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import nibabel
import numpy as np
import torch

from ies_helpers.arrays import Affine, LabelMap, Volume, spacing_of


@contextmanager
def torch_threads(wanted: int) -> Iterator[None]:
    """Set the number of torch's threads inside, and put it back afterwards."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


@torch_threads(1)  # the order in which torch adds up, and with it the last bit, depends on their number
def z_score(raw: torch.Tensor) -> torch.Tensor:
    """Z-score `(I, J, K)` over its own non-zero voxels, as published (MONAI `NormalizeIntensity`); zeros stay zero."""
    from monai.transforms.intensity.array import NormalizeIntensity  # takes seconds

    normalised = torch.as_tensor(NormalizeIntensity(nonzero=True)(raw), dtype=torch.float32)
    return normalised.as_subclass(torch.Tensor)  # MONAI wraps what it returns


@dataclass(frozen=True)
class Channel:
    """One modality: everything that any floor asks about it."""

    name: str  # as `subject.channels`, sidecars and tables have it
    label: str  # as figures have it
    suffix: str  # of its files in BIDS; letters and digits
    pattern: str  # regular expression that a file name must contain to be this modality
    entities: str = ""  # what stands before the suffix in BIDS, such as `ce-gadolinium`
    bright: float = 0.0  # share of a lesion's contrast in FLAIR that it has, below 0 where lesions are dark
    noise_reference: bool = False  # whether its range gives the noise of SmoothGrad, as FLAIR's does as published
    normalise: Callable[[torch.Tensor], torch.Tensor] = z_score  # raw `(I, J, K)` values -> those that networks take


_T1 = r"(?<![A-CE-Z])T1(?!\d)|(?<![A-Za-z])t1(?!\d)|(?i:mprage|mp2rage)"

CHANNELS = {  # every modality that the house knows; a new one is a row here and one test
    row.name: row
    for row in (
        Channel("flair", "FLAIR", "FLAIR", r"(?i:flair)", bright=1.0, noise_reference=True),
        Channel("t1", "T1", "T1w", _T1, bright=-0.5),
        Channel("t2", "T2", "T2w", r"(?<![A-Za-z])(?i:t2)(?!\d|(?i:[-_ ]?(?:flair|star)))", bright=0.8),
        Channel("pd", "PD", "PDw", r"(?<![A-Za-z])(?i:pd)w?(?![a-z])", bright=0.5),
    )
}

SHIPPED = ("flair", "t1")  # the channels that the paper's networks and the shipped ones take, in their order


def channel(name: str) -> Channel:
    """The row of `CHANNELS`, or one made for a name that has none: `dir` is `DIR` in figures and file names."""
    if name in CHANNELS:
        return CHANNELS[name]
    suffix = "".join(c for c in name if c.isascii() and c.isalnum())
    if not suffix:
        raise ValueError(f"A channel's name must hold letters or digits, got {name!r}; name it as dwi or t1ce.")
    return Channel(name, name.upper(), suffix.upper(), rf"(?i:{re.escape(name)})")


def noise_reference(channels: Sequence[str] | None) -> int:
    """Which channel's range gives the noise: FLAIR, and without one, or without names, the first."""
    marked = [n for n, name in enumerate(channels or ()) if channel(name).noise_reference]
    return marked[0] if marked else 0


@dataclass(frozen=True, eq=False)
class Subject:
    """One patient, synthetic or real, ready for a network.

    Attributes:
        name: letters and digits, as in a BIDS `sub-<name>`.
        image: `(C, I, J, K)`, normalised, one channel for each of `channels`.
        channels: what each channel of `image` is, such as `("flair", "t1")`.
        target: `(I, J, K)` bool, the lesions an expert (or the phantom) drew; None when unknown.
        header: the NIfTI header of the first channel, whose space every map is written in.
        source: the arguments of `load_subject` that load it again.
        raw: the values of the files, for networks that normalise by themselves; None for an image edited in memory.
        notes: a sentence for each thing that was decided, or is unusual, where the files were read.
    """

    name: str
    image: Volume
    affine: Affine
    channels: tuple[str, ...] = SHIPPED
    target: LabelMap | None = None
    header: nibabel.Nifti1Header | None = None
    source: dict[str, Any] = field(default_factory=dict)
    raw: Volume | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = ", ".join(self.channels)
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"A channel must have a name of its own, got {names}; leave one out.")
        if len(self.channels) != len(self.image):
            raise ValueError(f"An image must have one channel for each name, got {len(self.image)} for {names}.")
        files = {f"{row.entities}_{row.suffix}".lower() for row in map(channel, self.channels)}
        if len(files) != len(self.channels) or "all" in self.channels:  # `all` is a map of all channels at once
            raise ValueError(f"A channel must have a file name of its own, not all, got {names}; name it otherwise.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The older name of `channels`."""
        return self.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(I, J, K)`, in voxels."""
        i, j, k = self.image.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along each axis, in mm."""
        return spacing_of(self.affine)

    def with_channels(self, wanted: Sequence[str] | None, by: str = "The network") -> "Subject":
        """The subject with the channels that `by` wants, by name, in its order (a new one is warned of)."""
        if wanted is None or tuple(wanted) == self.channels:
            return self
        if lacking := [name for name in wanted if name not in self.channels]:
            raise ValueError(
                f"{by} takes {', '.join(wanted)}; {self.name} has {', '.join(self.channels)} and lacks "
                f"{', '.join(lacking)}: give it, as --image {lacking[0]}=FILE, or choose what does without."
            )
        order = [self.channels.index(name) for name in wanted]
        if order != sorted(order):
            own, new = ", ".join(self.channels), ", ".join(wanted)
            warnings.warn(f"The channels of {self.name} are {own}; they are taken in the order {new}.", stacklevel=2)
        raw = None if self.raw is None else self.raw[order]
        return replace(self, image=self.image[order], channels=tuple(wanted), raw=raw)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing)
        lesion = "unknown" if self.target is None else f"{int(self.target.sum())} lesion voxels"
        return f"Subject({self.name}: {', '.join(self.channels)}; {size} voxels of {spacing} mm; target {lesion})"


def normalise(raw: np.ndarray | torch.Tensor, channels: Sequence[str] = SHIPPED) -> Volume:
    """Each channel of `(C, I, J, K)` as its row of `CHANNELS` says: z-scored over its own non-zero voxels."""
    image = torch.as_tensor(raw, dtype=torch.float32).clone()
    rows = [channel(name) for name in channels] if len(channels) == len(image) else [CHANNELS["t1"]] * len(image)
    return torch.stack([row.normalise(values) for row, values in zip(rows, image, strict=True)])
