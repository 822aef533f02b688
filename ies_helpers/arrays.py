"""The arrays that travel through the house, and the checks that every floor needs.

Axes are written in array letters: C channels, I J K voxels along the three axes of the scan's own grid, V voxels of one
lesion, B images of one batch. Distances are in mm.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

Volume: TypeAlias = torch.Tensor  # (C, I, J, K) float32 image, each channel normalised as the network wants it
LabelMap: TypeAlias = torch.Tensor  # (I, J, K) integer or boolean map: 0 is background
Probability: TypeAlias = torch.Tensor  # (I, J, K) float32 probability of the lesion class, 0 to 1
Saliency: TypeAlias = torch.Tensor  # (C, I, J, K) float32 signed map, in logits per unit of z-scored intensity
Voxels: TypeAlias = np.ndarray  # (V, 3) integer indices of voxels
Affine: TypeAlias = np.ndarray  # (4, 4) float64 matrix that takes voxel indices to world mm


@runtime_checkable
class HasVoxels(Protocol):
    """Anything with `voxels` `(V, 3)`, such as a `Lesion`."""

    @property
    def voxels(self) -> Voxels:
        """`(V, 3)` integer indices."""
        ...


class HasGrid(Protocol):
    """Anything that lies on a grid: a `Subject`, a NIfTI image."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(I, J, K)`, in voxels."""
        ...

    @property
    def affine(self) -> Any:
        """`(4, 4)`, voxel indices to world mm."""
        ...


LesionLike: TypeAlias = HasVoxels | LabelMap | Voxels  # a `Lesion`, a boolean mask (I, J, K) or voxels (V, 3)

CONNECTIVITY = ndimage.generate_binary_structure(3, 2)  # of the paper: 18 voxels that share a face or an edge
SAME_PLACE = 0.1  # of a voxel's shortest side: two grids that lie no further apart are one
NEAR_PLACE = 0.4  # the same: up to here they are taken for one, with a warning; a shift by half a voxel is a mistake
SEED_LIMIT = 2**63  # seeds are below it, so that a table's column of whole numbers holds them


class Box(tuple[slice, slice, slice]):
    """A box of voxels that never changes: three slices with a start and a stop.

    Index an array with it, `volume[box]`, or behind other axes, `image[:, *box]`.
    """

    __slots__ = ()

    @classmethod
    def of(cls, start: Sequence[int] | np.ndarray, stop: Sequence[int] | np.ndarray) -> "Box":
        """The box from voxel `start` `(3,)` up to, and without, voxel `stop` `(3,)`."""
        return cls(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Box":
        """The box of a whole volume `(I, J, K)`."""
        return cls.of((0, 0, 0), shape)

    @classmethod
    def around(cls, where: Voxels | np.ndarray) -> "Box":
        """The smallest box that holds voxels `(V, 3)`, or all True of a mask `(I, J, K)`; there must be one."""
        voxels = np.argwhere(where) if where.dtype == bool else where
        return cls.of(voxels.min(axis=0), voxels.max(axis=0) + 1)

    @property
    def start(self) -> np.ndarray:
        """`(3,)` its first voxel."""
        return np.array([s.start for s in self])

    @property
    def stop(self) -> np.ndarray:
        """`(3,)` one past its last voxel."""
        return np.array([s.stop for s in self])

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(i, j, k)` its sides in voxels, 0 where it is empty."""
        i, j, k = (max(0, s.stop - s.start) for s in self)
        return i, j, k

    @property
    def size(self) -> int:
        """How many voxels it holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __and__(self, other: "Box") -> "Box":
        """What both hold."""
        return Box.of(np.maximum(self.start, other.start), np.minimum(self.stop, other.stop))

    def __or__(self, other: "Box") -> "Box":
        """The smallest box that holds both."""
        return Box.of(np.minimum(self.start, other.start), np.maximum(self.stop, other.stop))

    def grow(self, by: int | Sequence[int] | np.ndarray, shape: Sequence[int] | None = None) -> "Box":
        """Larger by so many voxels on each side, but not beyond a volume of `shape`."""
        grown = Box.of(self.start - by, self.stop + by)
        return grown if shape is None else grown & Box.whole(shape)

    def local(self, outer: "Box") -> "Box":
        """The same box in the coordinates of `outer`."""
        return Box.of(self.start - outer.start, self.stop - outer.start)


# What comes in from a caller: tensors of any kind, and torch in any state.

Function = TypeVar("Function", bound=Callable[..., Any])


def plain(values: Any) -> Any:
    """A tensor, or each of a list, without what others hang on it: metadata (MONAI), a graph, inference mode."""
    if type(values) in (list, tuple):
        return type(values)(map(plain, values))
    if not isinstance(values, torch.Tensor):
        return values
    if type(values) is not torch.Tensor or values.requires_grad:
        values = values.detach().as_subclass(torch.Tensor)
    return values.clone() if values.is_inference() and not torch.is_inference_mode_enabled() else values


@contextmanager
def usual_torch() -> Iterator[None]:
    """Torch inside as it starts: no autocast or inference mode, gradients on, and factories that make float32 here."""
    with ExitStack() as inside:
        if torch.is_inference_mode_enabled():
            inside.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                inside.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            inside.enter_context(torch.device("cpu"))
        if (kind := torch.get_default_dtype()) != torch.float32:
            inside.callback(torch.set_default_dtype, kind)
            torch.set_default_dtype(torch.float32)
        inside.enter_context(torch.enable_grad())
        yield


def door(function: Function) -> Function:
    """What a caller calls: tensors come in `plain`, and values do not depend on the state that torch is in."""

    @functools.wraps(function)
    def opened(*args: Any, **named: Any) -> Any:
        with usual_torch():
            return function(*map(plain, args), **{name: plain(value) for name, value in named.items()})

    return opened  # pyright: ignore[reportReturnType]


def as_voxels(lesion: LesionLike, shape: Sequence[int]) -> Voxels:
    """The voxels `(V, 3)` int64 of whatever says where a lesion is, in a volume of `shape` `(I, J, K)`."""
    given = lesion.voxels if isinstance(lesion, HasVoxels) else lesion
    array = np.asarray(plain(given).cpu() if isinstance(given, torch.Tensor) else given)
    if array.dtype == bool and array.shape == tuple(shape):
        voxels = np.argwhere(array)
    elif array.ndim == 2 and array.shape[1] == 3 and np.issubdtype(array.dtype, np.integer):
        voxels = array
    else:
        raise ValueError(
            f"A lesion must be a Lesion, a boolean mask of shape {tuple(shape)} or integer voxels (V, 3), "
            f"got {array.dtype} of shape {array.shape}."
        )
    if len(voxels) == 0:
        raise ValueError("A lesion must have at least one voxel, got none; check the mask and its threshold.")
    if (voxels < 0).any() or (voxels >= np.asarray(shape)).any():
        met = f"got voxels from {voxels.min(axis=0)} to {voxels.max(axis=0)}"
        raise ValueError(f"A lesion must lie inside the image {tuple(shape)}, {met}.")
    if len(np.unique(np.ravel_multi_index(tuple(voxels.T), tuple(shape)))) != len(voxels):
        raise ValueError("A lesion must hold each voxel once, got duplicates; apply numpy.unique(voxels, axis=0).")
    return np.ascontiguousarray(voxels, dtype=np.int64)


def as_mask(lesion: LesionLike, shape: Sequence[int]) -> np.ndarray:
    """The same as a boolean mask `(I, J, K)` of its own; see `as_voxels`."""
    mask = np.zeros(tuple(shape), dtype=bool)
    mask[tuple(as_voxels(lesion, shape).T)] = True
    return mask


def apart_mm(one: Affine, other: Affine, shape: Sequence[int]) -> float:
    """The largest distance in mm between the places of a voxel of a volume `(I, J, K)`: that of one of its corners."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))))
    places = [apply_affine(np.asarray(affine, dtype=np.float64), corners) for affine in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max())


def check_same_grid(what: str, one: HasGrid, other: HasGrid, remedy: str) -> None:
    """Refuse two images (`what`: `FLAIR and T1`) of two shapes, or of which a voxel lies in two places.

    Up to a tenth of the shortest side of a voxel, anywhere in the volume, is rounding; up to four tenths is told.
    """
    if tuple(one.shape) != tuple(other.shape):
        raise ValueError(f"{what} must lie on one grid, got {tuple(one.shape)} and {tuple(other.shape)}; {remedy}.")
    apart, side = apart_mm(one.affine, other.affine, one.shape), min(spacing_of(one.affine))
    if not apart <= NEAR_PLACE * side:
        raise ValueError(f"{what} must lie on one grid, their voxels lie up to {apart:.3g} mm apart; {remedy}.")
    if apart > SAME_PLACE * side:
        share = f"{apart:.2g} mm apart, {apart / side:.0%} of a voxel's side"
        warnings.warn(f"{what} lie up to {share}; they are taken for one grid, and nothing is resampled.", stacklevel=3)


def check_finite(values: torch.Tensor | np.ndarray, what: str, remedy: str) -> None:
    """Refuse values of which some are NaN or infinite. On a GPU this waits for them."""
    finite = torch.isfinite(torch.as_tensor(values))
    if not bool(finite.all()):
        raise ValueError(f"{what} must be finite, {int((~finite).sum())} values are NaN or infinite; {remedy}.")


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a `value` that is not one of those `allowed`, under the `name` that the caller knows it by."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}.")


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse what numpy's generators take for no seed, under the `name` that the caller knows it by."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"{name} must be 0 or more, got {seed}; take any whole number from 0 on.")
    if seed >= SEED_LIMIT:
        raise ValueError(f"{name} must be below 2^63, got {seed}; take a smaller one, none is better than another.")


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size along each axis of the grid, in mm."""
    i, j, k = (float(s) for s in voxel_sizes(np.asarray(affine, dtype=np.float64)))
    return i, j, k
