"""A subject: one image with its geometry and its channels, and what is known to be a lesion."""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
from scipy import ndimage

from ies_helpers.arrays import Affine, LabelMap, Volume, plain, spacing_of


@contextmanager
def torch_threads(wanted: int) -> Iterator[None]:
    """Set the number of torch's threads inside, and put it back afterwards."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


# What is brain and what is nothing: one rule, which all that asks for either goes by.

FEWEST = 0.02  # share of a volume that a background fills at least
FINE, COARSE = 1e-3, 1e-2  # distances from its value at which a voxel may be background, as shares of the values' range
SAMPLE = 200_000  # values that tell centiles well enough
ISLAND = 1000  # voxels of a piece of background that touches no side of the volume, at least


class Background(NamedTuple):
    """What a file holds where nothing was measured."""

    outside: np.ndarray  # (I, J, K) bool, where that is
    words: str  # its value, as a person would write it: `0`, `-0.0008`, `-0.0001 to 0.0001`, `NaN` or `none found`


def find_background(values: np.ndarray) -> Background:
    """What of `(I, J, K)` finite or NaN values is nothing, and what is brain or head.

    A background that is exactly 0 is every 0, as published. It need not be: integers with a scale factor make -0.0008
    of it, resampling lets it ring, others write -1024 or NaN, and a z-score over the whole box moves it. So:

    1. NaN is background in pieces, voxels that share faces, that touch a side of the volume, where at least 2 % of all
       voxels, or 1000, are NaN. So is the lowest value of all, if it is below 0 and 2 % hold it, in pieces that touch a
       side or have 1000 voxels: smaller ones are brain that has the same value by chance.
    2. Among the others, its value is 0 where 2 % are exactly that. Otherwise, and if no lowest value was found, it is
       what most of them are, or nearly are, if 2 % are so and three times as many as any other value. Where there is
       nothing of all this, 0 is outside.
    3. It rings where fewer than 2 % hold it exactly, or others pile up at it: at least 1 % as many lie within 0.1 % of
       the values' range (0.5th to 99.5th centile) around it, and 30 % of those within 1 %. (Fluid that is about 0 by
       chance is spread evenly: 10 %.) Background is then what lies within 0.1 %, or 1 % where that is one in 1000 more.
    4. One that rings, or is not 0, is in pieces as the lowest value is.
    """
    values = np.asarray(values, dtype=np.float32)
    nan, few = np.isnan(values), FEWEST * values.size
    outside, words = np.zeros_like(nan), []
    if np.count_nonzero(nan) >= min(few, ISLAND) and (pieces := _pieces(nan, values.size)).any():
        outside, words = pieces, ["NaN"]
    known = values[~nan] if nan.any() else values.ravel(order="K")
    lowest = known.min(initial=0)
    below = lowest < 0 and np.count_nonzero(known == lowest) >= few
    if below:
        outside, words = outside | _pieces(values == lowest), [f"{lowest:.4g}", *words]
        known = values[~(nan | outside)]
    extent = _extent(known) if known.size else 0.0
    value = _constant(known, extent)
    if value is None or (below and value != 0):
        return Background(outside if words else values == 0, " and ".join(words) or "none found")
    away = np.abs(values - value)
    held, fine, coarse = (int(np.count_nonzero(away <= share * extent)) for share in (0.0, FINE, COARSE))
    if held < few or fine - held >= max(0.01 * held, 0.3 * (coarse - held), 1):
        found = _pieces(away <= (FINE if coarse - fine < 0.001 * coarse else COARSE) * extent)
        low, high = np.percentile(values[found], (0.5, 99.5)) if found.any() else (value, value)
        words = [f"{low:.2g} to {high:.2g}", *words]
    else:
        found = away == 0 if value == 0 else _pieces(away == 0)
        words = [f"{value:.4g}", *words]
    return Background(outside | found, " and ".join(words))


def _extent(known: np.ndarray) -> float:
    """From the 0.5th to the 99.5th centile, by a sample of many; between the extremes where these are one value."""
    some = known if known.size <= SAMPLE else known[np.random.default_rng(0).integers(known.size, size=SAMPLE)]
    low, high = np.percentile(some, (0.5, 99.5))
    return float(high - low) or float(known.max() - known.min())


def _constant(known: np.ndarray, extent: float) -> np.floating | None:
    """The value of a background among known ones `(V,)`; None where none stands out."""
    if known.size and np.count_nonzero(known) <= (1 - FEWEST) * known.size:
        return np.float32(0)
    low = known.min(initial=np.inf)
    for width in (FINE * extent, COARSE * extent) if extent else ():
        steps = ((known - low) / width).clip(max=1e6).astype(np.int64)  # beyond it nothing is common
        counts = np.bincount(steps, minlength=2)
        pairs = counts[:-1] + counts[1:]  # a value may lie on the border of two steps
        most = int(pairs.argmax())
        others = np.concatenate([pairs[: max(0, most - 1)], pairs[most + 2 :]])
        if pairs[most] >= max(FEWEST * known.size, 3 * others.max(initial=0)):
            return np.float32(np.median(known[(steps == most) | (steps == most + 1)]))
    return None


def _pieces(mask: np.ndarray, least: int = ISLAND) -> np.ndarray:
    """Those of its pieces that touch a side of the volume, or have at least so many voxels."""
    found: Any = ndimage.label(mask)
    labels, count = found
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= least
    for axis in range(3):
        kept[np.unique(labels.take((0, -1), axis))] = True
    kept[0] = False
    return kept[labels]


@torch_threads(1)  # the order in which torch adds up, and with it the last bit, depends on their number
def z_score(raw: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Z-score `(I, J, K)` over the voxels `inside`, as published (MONAI `NormalizeIntensity`); the others are 0."""
    from monai.transforms.intensity.array import NormalizeIntensity  # takes seconds

    normalised = torch.zeros(raw.shape, dtype=torch.float32)
    normalised[inside] = torch.as_tensor(NormalizeIntensity()(raw[inside])).as_subclass(torch.Tensor)  # MONAI wraps it
    return normalised


@dataclass(frozen=True)
class Channel:
    """One modality: everything that any floor asks about it."""

    name: str  # as `subject.channels`, sidecars and tables have it
    label: str  # as figures have it
    suffix: str  # of its files in BIDS; letters and digits
    pattern: str  # regular expression that a file name must contain to be this modality
    entities: str = ""  # what stands before the suffix in BIDS, such as `ce-gadolinium`
    bright: float = 0.0  # share of a lesion's contrast in FLAIR that it has, below 0 where lesions are dark
    bids: bool = True  # whether the suffix is one of BIDS; else its files are named in `.bidsignore`
    noise_reference: bool = False  # whether its range gives the noise of SmoothGrad, as FLAIR's does as published
    # raw `(I, J, K)` values, and which are not background -> the values that networks take, 0 in the background
    normalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = z_score


_MEDIUM = r"(?:gd|gad[a-z]*|km|contrast|post(?:con[a-z]*|gd|gad[a-z]*)?)(?![a-z])"  # T1 with contrast medium ...
_WITH = rf"(?<!no[-_ ])(?<!non[-_ ])(?<!pre[-_ ])(?<!without[-_ ]){_MEDIUM}"
_GIVEN = rf"(?i:w?[-_ ]?(?:ce|c|{_MEDIUM})(?![a-z])|(?:.*[-_ ])?{_WITH})"  # ... said behind T1, at once or later
_BEFORE = "".join(rf"(?<!{word}[-_ ])" for word in ("gd", "gad", "gado", "post", "contrast"))  # ... said before it
_NAME = r"(?:(?<![A-CE-Z])T1|(?<![A-Za-z])t1|(?i:mp[-_ ]?rage|mp2rage|fspgr|(?<![a-z])bravo(?![a-z])))"
_T1 = rf"(?i:{_BEFORE}){_NAME}(?!\d|{_GIVEN}|(?i:[-_ ]?(?:map|rho)))|UNIT1"
_T1C = (
    rf"{_NAME}(?!\d){_GIVEN}|(?i:(?<![a-z])(?:gd|gado?|post|contrast)[-_ ]){_NAME}|(?<![A-Za-z])(?i:gado)(?![A-Za-z])"
)
_FLAIR = r"(?i:flair(?![-_ ]?star)|dark[-_ ]?fluid|tirm|(?<![a-z])t2f(?![a-z]))"
_T2 = r"(?<![A-Za-z])(?i:t2)(?!\d|(?i:[-_ ]?(?:flair|star|map)|f(?![a-z])))"

CHANNELS = {  # every modality that the house knows; a new one is a row here and one test
    row.name: row
    for row in (
        Channel("flair", "FLAIR", "FLAIR", _FLAIR, bright=1.0, noise_reference=True),
        Channel("t1", "T1", "T1w", _T1, bright=-0.5),
        Channel("t2", "T2", "T2w", _T2, bright=0.8),
        Channel("pd", "PD", "PDw", r"(?<![A-Za-z])(?i:pd|dp)w?(?![a-z])", bright=0.5),
        Channel("t1c", "T1 contrast", "T1w", _T1C, entities="ce-gadolinium", bright=-0.5),
        Channel("ct", "CT", "CT", r"(?<![A-Za-z])(?i:nc)?(?i:ct)(?![A-Za-z0-9])", bids=False),
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
    return Channel(name, name.upper(), suffix.upper(), rf"(?i:{re.escape(name)})", bids=False)


def known_channel(name: str) -> str:
    """A channel of `dataset.json` by the name that a row of `CHANNELS` has for it, else as it is, in small letters."""
    for row in CHANNELS.values():
        if name.lower() in (row.name, row.label.lower(), row.suffix.lower()) or re.search(row.pattern, name):
            return row.name
    return name


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
        instances: `(I, J, K)` int32, a number a lesion on the target's voxels, where the target's file tells its
            lesions apart; None: they are its connected components.
        header: the NIfTI header of the first channel, whose space every map is written in.
        source: the arguments of `load_subject` that load it again.
        raw: the values of the files, for networks that normalise by themselves; None for an image edited in memory.
        notes: a sentence for each thing that was decided, or is unusual, where the files were read.
        background: what each channel's file holds outside the brain, in words; see `find_background`.
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
    background: Mapping[str, str] = field(default_factory=dict)
    instances: LabelMap | None = None

    def __post_init__(self) -> None:
        for name in ("image", "target", "raw", "instances"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.instances is not None and (self.target is None or not torch.equal(self.instances > 0, self.target)):
            raise ValueError("Instances must have a number on each voxel of the target and 0 elsewhere; change both.")
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

    @cached_property
    def scan(self) -> str | None:
        """16 hexadecimal digits that tell a scan from others: of its files' values and place; None if made in memory.

        Kept, since each map of a subject asks for it and it is of all voxels.
        """
        if self.raw is None:
            return None
        place = np.round(self.affine, 3) + 0.0  # minus zero is zero
        return hashlib.sha256(self.raw.numpy().tobytes() + place.tobytes()).hexdigest()[:16]

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
                f"{', '.join(lacking)}: give it, as --image {lacking[0]}=FILE, or choose a network that does without."
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
        if self.instances is not None:
            lesion += f" of {len(self.instances.unique()) - 1} lesions"
        return f"Subject({self.name}: {', '.join(self.channels)}; {size} voxels of {spacing} mm; target {lesion})"


def normalise(
    raw: np.ndarray | torch.Tensor, channels: Sequence[str] = SHIPPED, found: Sequence[Background] = ()
) -> Volume:
    """Each channel of `(C, I, J, K)` as its row of `CHANNELS` says: z-scored over what is not its own background.

    `found` is each channel's background, where it is known already; see `find_background`.
    """
    image = torch.as_tensor(raw, dtype=torch.float32)
    rows = [channel(name) for name in channels] if len(channels) == len(image) else [CHANNELS["t1"]] * len(image)
    inside = [~torch.from_numpy(b.outside) for b in found or (find_background(values.numpy()) for values in image)]
    return torch.stack([row.normalise(v, brain) for row, v, brain in zip(rows, image, inside, strict=True)])
