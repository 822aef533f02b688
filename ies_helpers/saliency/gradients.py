"""The engine's one interface: the voxels of a lesion -> their aggregated gradient, in bounded memory."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Box, LesionLike, Saliency, Volume, Voxels, as_voxels, check_choice, door
from ies_helpers.saliency.farfield import (
    CHECKED,
    FROZEN_REMEDY,
    FROZEN_RULE,
    Fields,
    Report,
    Split,
    check_accuracy,
    split_of,
)
from ies_helpers.saliency.nearfield import AT_ONCE, Rows, near_extremes
from ies_helpers.saliency.views import (
    BUDGET,
    Boxed,
    Largest,
    Pairs,
    Part,
    View,
    add_up,
    by_autograd,
    cell_parts,
    crop_parts,
    does_not_fit,
    extremes,
    forward,
    freed_memory_kept,
    group_voxels,
    out_of_memory,
    shared_parts,
    union,
    window_part,
    window_parts,
    window_views,
)
from ies_helpers.segmentation.field import ReceptiveField, receptive_field
from ies_helpers.segmentation.inference import check_finite, check_image
from ies_helpers.segmentation.network import Network, as_network, at_rest
from ies_helpers.segmentation.trust import check_answers, image_field

Aggregate = Literal["mean", "sum", "max"]

# How a gradient is computed. Exact: `cone` by a backward pass on the positions that a voxel reaches (`nearfield`), the
# others by autograd on the crop that decides a lesion, on the windows that hold it, or on everything. To an accuracy
# that is asked for and measured: `fields`, near fields with a few far fields for all voxels (`farfield`).
Way = Literal["cone", "crop", "fields", "windows", "whole"]
# `frozen` holds norms still and leaves far fields out, whatever that does.
Statistics = Literal["exact", "frozen"]
FEW_VOXELS = 8  # up to which a dense pass for each is no dearer than fields
VALUES_KEPT = 2  # values that a backward pass keeps per activation: itself and its gradient
TOGETHER = 2500  # outputs whose near fields are kept at once, about three quarters of a megabyte each
SMALLEST_BUDGET = 2**20  # bytes to which it may be halved: less than one voxel's gradient in any real network


@door
def gradient(
    network: Network | nn.Module,
    image: Volume,
    lesion: LesionLike,
    *,
    aggregate: Aggregate = "max",
    way: Way | None = None,
    accuracy: float | str = "auto",
) -> Saliency:
    """Gradient of a lesion's logits with respect to the image, aggregated over its voxels.

    With g_v the gradient of the lesion logit at lesion voxel v: `sum` is sum_v g_v, `mean` is that over the number of
    voxels (equation 2), `max` is at each input voxel the g_v of largest absolute value with its sign (equation 3; of
    two exactly opposite ones the positive).

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: whose logits.
        aggregate: `mean`, `sum` or `max`.
        way: how to compute it; None takes the fastest.
        accuracy: relative L2 error allowed to the voxels' gradients of a `max`, where exact ones are dear: in networks
            that look at all of their window. `auto` allows 1e-3, `exact` nothing; see `farfield`.

    Returns:
        `(C, I, J, K)` float32, in logits per unit of z-scored intensity.
    """
    engine = LesionGradient(network, image, lesion, aggregate, way=way, accuracy=accuracy)
    return engine.place(engine(image))


class LesionGradient:
    """The aggregated gradient of one lesion, ready to be taken on any number of images of one shape.

    The network's structure is looked at when it is made; weights that change later are seen, where statistics are
    exact. Calls return the gradient on `box` alone, where it can be non-zero, computed by `way`.
    """

    def __new__(cls, network: Network | nn.Module, *_: Any, **__: Any) -> "LesionGradient":
        """A network that `prepare` placed on a grid of its own is looked at through that grid."""
        placed = isinstance(network, Network) and network.grid is not None
        return object.__new__(PlacedGradient if placed and cls is LesionGradient else cls)

    @door
    def __init__(
        self,
        network: Network | nn.Module,
        image: Volume,
        lesion: LesionLike,
        aggregate: Aggregate,
        *,
        way: Way | None = None,
        accuracy: float | str = "auto",
        statistics: Statistics = "exact",
        budget: int | None = None,
    ) -> None:
        """Choose the fastest way by looking at the network, or take `way` where it applies.

        Args:
            network, image, lesion, aggregate: see `gradient`; any image of this shape can be given later.
            way: how to compute; None takes the fastest.
            accuracy: see `gradient`.
            statistics: `frozen` leaves far fields out: the accuracy is what it is, see `report`.
            budget: bytes of working memory, beside network and volume; None works in about 1 GiB, or in what
                one forward pass needs if that is more.
        """
        check_image(image)
        check_choice("aggregate", aggregate, get_args(Aggregate))
        check_choice("statistics", statistics, get_args(Statistics))
        self.network, self.aggregate, self.budget = as_network(network), aggregate, budget or BUDGET
        if self.network.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Gradients need float32 or float64, {self.network.name} is {self.network.dtype}: near-ties of "
                "opposite sign flip and move the maximum by 12 to 97 % of its largest value (measured). "
                "Call network.module.float()."
            )
        if statistics == "frozen" and aggregate != "max":
            raise ValueError(f"statistics='frozen' is for max; {aggregate} takes one exact pass, leave it out.")
        self.accuracy = np.inf if statistics == "frozen" else check_accuracy(accuracy, self.network.dtype)
        self.shape = tuple(image.shape)
        self.voxels = as_voxels(lesion, self.shape[1:])
        check_answers(self.network, image)
        self._found: ReceptiveField | None = None
        if self.network.through == "whole":
            self._found = image_field(self.network, image, self.voxels)
        self.split: Split | None = None
        self._at_once: int | None = None
        self.report: Report | None = None
        self._of_image: Report | None = None
        self.way: Way = self._choose(image, way)
        self.parts = self._split()
        self.box = union(part.box for part in self.parts)
        if budget is not None and budget < self.need:
            raise ValueError(
                f"budget must hold one forward pass and one gradient, {self.need} bytes for {self.network.name} here; "
                f"got {budget}. Give more, or a Network with a smaller window."
            )

    @property
    def field(self) -> ReceptiveField:
        """How far the network looks."""
        if self._found is None:
            self._found = receptive_field(self.network, self.shape[0])
        return self._found

    @property
    def need(self) -> int:
        """Bytes without which no gradient can be taken: the largest forward pass, and one voxel's gradient."""
        kept = VALUES_KEPT * self.field.activations * self.network.dtype.itemsize
        passes = [max(kept * view.box.size for view in part.views) for part in self.parts]
        return int(max(p + self._gradient_bytes(part) for p, part in zip(passes, self.parts, strict=True)))

    @door
    def __call__(self, image: Volume) -> torch.Tensor:
        """The aggregated gradient on `box`: `(C, i, j, k)`, in the network's precision and on its device."""
        with at_rest(self.network), torch.enable_grad():
            while True:
                try:
                    made = self._largest(image) if self.aggregate == "max" else self._added(image)
                    if self.way != "fields" or not self._distrusts():
                        return made
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    if not self._halve():
                        what = f"The gradient of {self.network.name} by {self.way} on {self.network.device}"
                        raise does_not_fit(what, "free some, take device='cpu' or a smaller window", error) from error

    @door
    def place(self, values: torch.Tensor) -> Saliency:
        """`values` on the box -> the whole map `(C, I, J, K)`, float32 on the CPU, zero elsewhere; must be finite."""
        whole = Boxed(values, self.box).full(self.shape[1:])
        check_finite(whole, self.network)
        return whole

    def _choose(self, image: Volume, wanted: Way | None) -> Way:
        """The fastest way, or the one `wanted`."""
        seen = self.network.through
        plain: Way = "windows" if seen == "windows" else "crop" if self.field.bounded else "whole"
        possible: list[Way] = [plain]
        if self.aggregate == "max" and (wanted != plain or self.accuracy == np.inf):
            self.split = self._look(image)
            fast: Way = "cone" if plain == "crop" else "fields"
            if self.accuracy == np.inf:
                possible = [fast]
            elif self.split.local if plain == "crop" or not self.accuracy else self.split.pays:
                few = len(self.voxels) <= FEW_VOXELS and not self.split.local
                possible = [plain, fast] if few else [fast, plain]
        if wanted not in (None, *possible):
            name = self.network.name
            raise ValueError(f"{name} seen {seen} can be explained by {' or '.join(possible)}, got {wanted!r}.")
        return wanted or possible[0]

    def _look(self, image: Volume) -> Split:
        """How the gradient of a voxel comes apart; refused where it was asked to and does not."""
        shape, bounded = self.shape[1:], self.network.through == "whole" and self.field.bounded
        view = (cell_parts(self.field, shape, self.voxels)[0] if bounded else self._all_views(self.voxels)).views[0]
        voxel = self.voxels[view.holds(self.voxels)][0]
        with at_rest(self.network):
            split = split_of(self.network, image, view, voxel, whole=self.accuracy == np.inf, everywhere=bounded)
        if self.accuracy == np.inf and not split.norms:
            raise ValueError(f"{FROZEN_RULE}; {self.network.name} {split.otherwise}. {FROZEN_REMEDY}")
        return split

    def _all_views(self, voxels: Voxels) -> Part:
        """Voxels through all that they are seen through, for fields."""
        if self.network.through == "windows":
            return window_part(self.network, self.shape[1:], voxels)
        whole, passes = Box.whole(self.field.padded(self.shape[1:])), self.network.passes
        share = None if passes == 1 else torch.full(whole.shape, 1 / passes, dtype=torch.float64)
        views = [View(whole, share, number=n if passes > 1 else None) for n in range(passes)]
        return Part.through(views, voxels, self.shape[1:])

    def _split(self) -> list[Part]:
        shape = self.shape[1:]
        if self.way == "fields":
            return [self._all_views(some) for some in slabs(self.voxels, TOGETHER)]
        if self.way == "windows":
            split = window_parts if self.aggregate == "max" else lambda *given: [window_part(*given)]
            return split(self.network, shape, self.voxels)
        if self.way != "cone" and self.aggregate == "max":
            return cell_parts(self.field, shape, self.voxels)
        bytes_a_voxel = (VALUES_KEPT * self.field.activations + self.shape[0]) * self.network.dtype.itemsize
        split = shared_parts if self.way == "cone" else crop_parts
        return split(self.field, shape, self.voxels, self.budget / bytes_a_voxel)

    def _halve(self) -> bool:
        """Halve the near fields taken at once, or the budget that sizes crops; False where nothing smaller is left."""
        if self.way in ("cone", "fields") and self._at_once != 1:
            self._at_once = (self._at_once or AT_ONCE[self.network.device.type == "cuda"]) // 2
            return True
        sized = self.way == "cone" or (self.way == "crop" and self.aggregate != "max")
        if not sized or self.budget <= SMALLEST_BUDGET:
            return False
        self.budget //= 2
        self.parts = self._split()
        return True

    def _added(self, image: Volume) -> torch.Tensor:
        """The sum over voxels, or their mean."""
        total = Boxed(self._zeros(self.box.shape), self.box)
        for part in self.parts:
            add_up(total, lambda view: forward(self.network, image, view), part)
        return total.values / len(self.voxels) if self.aggregate == "mean" else total.values

    def _largest(self, image: Volume) -> torch.Tensor:
        """The maximum over voxels."""
        largest, self._of_image = Largest(self._zeros, self.box), None
        for part in self.parts:
            for box, high, low in self._pairs(image, part):
                largest.take(box, high, low)
        self.told(self._of_image)
        return largest.map()

    def _pairs(self, image: Volume, part: Part) -> Pairs:
        """The largest and smallest gradients of a part's voxels."""
        if self.way == "cone":
            yield from near_extremes(self.network, image, part, self._at_once)
        elif self.way == "fields":
            fields = self.fields(image, part, [Rows.of(part.voxels)])
            yield from fields.pairs(self.budget // self.network.dtype.itemsize)
        else:
            each = by_autograd(lambda view: forward(self.network, image, view))
            with freed_memory_kept():
                yield from extremes(each, part, self._zeros, max(1, self.budget // self._gradient_bytes(part)))

    def fields(self, image: Volume, part: Part, lesions: Sequence[Rows], check: bool = True) -> Fields:
        """Near and far fields of the outputs of some lesions; of this one alone the first are compared with exact ones.

        See `report`.
        """
        assert self.split is not None
        some = CHECKED if check and self.report is None and not self.split.local else 0
        made = Fields(self.network, image, part, lesions, self.accuracy, self.split.coarse, some, self._at_once)
        if len(lesions) == 1:
            report = made.reports[0]
            self._of_image = report if self._of_image is None else self._of_image.plus(report)
        return made

    def _distrusts(self) -> bool:
        """Whether fields are not what exact voxels say, which is told; then they are taken no more."""
        if self.report is None or not self.report.wrong:
            return False
        off = self.report.deviation["l2"]
        warnings.warn(
            f"Near and far fields of {self.network.name} are {off:.2g} off on voxels taken exactly, where "
            f"{self.accuracy:g} was asked for; every voxel is taken exactly, which is slow.",
            stacklevel=4,
        )
        self.way = "windows" if self.network.through == "windows" else "whole"
        self.parts, self.report = self._split(), None
        return True

    def told(self, report: Report | None) -> None:
        """Keep the worst of all images' reports."""
        if report is not None:
            self.report = report if self.report is None else self.report.worst(report)

    def _gradient_bytes(self, part: Part) -> int:
        return self.shape[0] * part.box.size * self.network.dtype.itemsize

    def _zeros(self, sides: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(self.shape[0], *sides, device=self.network.device, dtype=self.network.dtype)


def slabs(voxels: Voxels, most: int) -> list[Voxels]:
    """Voxels `(V, 3)` in groups of up to `most`, cut across their longest side."""
    along = voxels[:, np.ptp(voxels, axis=0).argmax()]
    return np.array_split(voxels[np.argsort(along, kind="stable")], -(-len(voxels) // most))


class PlacedGradient(LesionGradient):
    """The same through a network's own grid: images and maps on the scan's, forward passes on the network's.

    A scan voxel's logit is a weighted sum of logits on the network's grid (one, where nothing is resampled). `mean` and
    `sum` are one weighted sum of all; for `max` each scan voxel's gradient goes back to the scan before the maximum.
    """

    @door
    def __init__(
        self, network: Network, image: Volume, lesion: LesionLike, aggregate: Aggregate, **options: Any
    ) -> None:
        """As `LesionGradient`."""
        check_image(image)
        self.grid, self.network, self.aggregate = network.grid, network, aggregate
        self.shape, self.box = tuple(image.shape), network.grid.box
        self.voxels = as_voxels(lesion, self.shape[1:])
        # Each scan voxel's places and weights on the network's grid.
        rows, places, weights = self.grid.spread(self.voxels)
        self._rows = [(places[rows == n], weights[rows == n]) for n in range(len(self.voxels))]
        self.resampled = self.grid.resamples
        inner, (placed, _) = network.on_its_grid(), self.grid.push(image)
        support = np.unique(places, axis=0)
        self.inner = LesionGradient(inner, placed, support, aggregate if aggregate == "max" else "sum", **options)
        if aggregate != "max":
            self.inner.parts = [part.weighted(places, weights, self.grid.shape) for part in self.inner.parts]

    @property
    def parts(self) -> list[Part]:
        """Those on the network's grid."""
        return self.inner.parts

    @property
    def way(self) -> Way:
        """Always through windows."""
        return self.inner.way

    @property
    def split(self) -> Split | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As `LesionGradient.split`."""
        return self.inner.split

    @property
    def accuracy(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As `LesionGradient.accuracy`."""
        return self.inner.accuracy

    @property
    def report(self) -> Report | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As `LesionGradient.report`."""
        return self.inner.report

    @property
    def need(self) -> int:
        """As `LesionGradient.need`."""
        return self.inner.need

    @door
    def __call__(self, image: Volume) -> torch.Tensor:
        """The aggregated gradient on `box`, `(C, i, j, k)`."""
        placed, passes = self.grid.push(image)
        if self.aggregate == "max" and self.resampled:
            g = self._largest_of_rows(placed, passes)
        else:
            g = self.pull(self.inner(placed), self.inner.box, passes)
        return g / len(self.voxels) if self.aggregate == "mean" else g

    def _largest_of_rows(self, placed: torch.Tensor, passes: torch.Tensor | None) -> torch.Tensor:
        """One gradient a scan voxel, its places' logits weighted, taken to the scan before the maximum."""
        largest = Largest(self._zeros, self.box)
        with at_rest(self.network), torch.enable_grad():
            for box, g in self._fields_of_rows(placed) if self.way in ("cone", "fields") else self._dense_rows(placed):
                one = self.pull(g, box, passes)
                largest.take(self.box, one, one)
        return largest.map()

    def _fields_of_rows(self, placed: torch.Tensor) -> Iterator[tuple[Box, torch.Tensor]]:
        """`(C, i, j, k)` on a box for each scan voxel, by near and far fields."""
        self.inner._of_image = None
        for first in range(0, len(self._rows), TOGETHER):
            rows = self._rows[first : first + TOGETHER]
            row = np.repeat(np.arange(len(rows)), [len(places) for places, _ in rows])
            places, weights = (np.concatenate(some) for some in zip(*rows, strict=True))
            part = self.inner._all_views(np.unique(places, axis=0))
            fields = self.inner.fields(placed, part, [Rows(places, row, weights)])
            for n in range(len(rows)):
                yield part.box, fields.row(n)
        self.inner.told(self.inner._of_image)

    def _dense_rows(self, placed: torch.Tensor) -> Iterator[tuple[Box, torch.Tensor]]:
        """The same, by a dense pass for each."""
        for part, rows in self._parts_of_rows():
            for g in self._each_row(placed, part, rows):
                yield part.box, g

    def _parts_of_rows(self) -> Iterator[tuple[Part, list[int]]]:
        """Scan voxels by the windows that hold any of their places."""
        inner, shape = self.inner.network, self.grid.shape
        whole = [View(Box.whole(self.inner.field.padded(shape)))] if inner.through == "whole" else []
        views = whole or window_views(inner, shape, np.concatenate([p for p, _ in self._rows]))
        held = np.array([[view.holds(places).any() for view in views] for places, _ in self._rows])
        for row, some in group_voxels(np.arange(len(held))[:, None], held):
            chosen = [view for view, holds in zip(views, row, strict=True) if holds]
            yield Part.through(chosen, some, shape), [int(n) for n in some[:, 0]]

    def _each_row(self, placed: torch.Tensor, part: Part, rows: list[int]) -> Iterator[torch.Tensor]:
        """`(C, i, j, k)` on the part's box for each scan voxel; each view's graph serves a chunk of them."""
        chunk = max(1, BUDGET // (self.shape[0] * part.box.size * self.network.dtype.itemsize))
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            added = torch.stack([self._zeros(part.box.shape)] * len(some))
            for view in part.views:
                x, logits = forward(self.inner.network, placed, view)
                for total, row in zip(added, some, strict=True):
                    places, weights = self._rows[row]
                    here = view.holds(places)
                    if here.any():
                        index = view.local(places[here])
                        share = view.cotangent(logits, index) * torch.as_tensor(weights[here]).to(logits)
                        (g,) = torch.autograd.grad((logits[index] * share).sum(), x, retain_graph=True)
                        Boxed(total, part.box).add(g[0], view.box)
            yield from added

    def pull(self, g: torch.Tensor, box: Box, passes: torch.Tensor | None) -> torch.Tensor:
        """A gradient on a box of the network's grid -> on the scan's box."""
        return self.grid.pull(Boxed(g, box).whole(self.grid.shape), passes)[:, *self.box]


# Many lesions of one image: those that are seen through the same windows share what these cost.


def together(engines: Sequence[LesionGradient], image: Volume) -> Iterator[tuple[int, torch.Tensor]]:
    """The aggregated gradient of each of some lesions, all of one network: its position and its values on its box.

    Lesions that go by fields, and whose windows one of them has all, share forward passes and far fields; that of each
    stays within its accuracy.
    """
    for group in _sharing(engines):
        shared = _shared([engines[n] for n in group], image) if len(group) > 1 else None
        for k, n in enumerate(group):
            yield n, engines[n](image) if shared is None else shared[k]


def _sharing(engines: Sequence[LesionGradient]) -> list[list[int]]:
    """Positions of the engines that share, the one of most windows first."""
    groups: list[tuple[set[str], int, list[int]]] = []
    for n in sorted(range(len(engines)), key=lambda n: -len(engines[n].parts[0].views)):
        engine = engines[n]
        alone = len(engine.parts) > 1 or (isinstance(engine, PlacedGradient) and engine.resampled)
        if engine.way != "fields" or alone:
            groups.append((set(), TOGETHER, [n]))
            continue
        views, size = {f"{view.box} {view.number}" for view in engine.parts[0].views}, len(engine.voxels)
        for k, (seen, used, group) in enumerate(groups):
            if views <= seen and used + size <= TOGETHER:
                groups[k] = seen, used + size, [*group, n]
                break
        else:
            groups.append((views, size, [n]))
    return [group for _, _, group in groups]


@door
def _shared(engines: Sequence[LesionGradient], image: Volume) -> list[torch.Tensor] | None:
    """The gradients of lesions that share windows; None where there is no memory for all at once."""
    first = engines[0]
    if isinstance(first, PlacedGradient):
        placed, passes = first.grid.push(image)
        inner = _shared([engine.inner for engine in engines if isinstance(engine, PlacedGradient)], placed)
        pairs = zip(engines, inner or [], strict=False)
        return inner and [e.pull(g, e.inner.box, passes) for e, g in pairs if isinstance(e, PlacedGradient)]
    with at_rest(first.network), torch.enable_grad():
        try:
            rows = [Rows.of(engine.parts[0].voxels) for engine in engines]
            check = any(engine.report is None for engine in engines)
            fields, found = first.fields(image, first.parts[0], rows, check), []
            for n, engine in enumerate(engines):
                engine.told(fields.reports[n])
                if engine._distrusts():
                    return None
                part, largest = engine.parts[0], Largest(engine._zeros, engine.box)
                for box, high, low in fields.pairs(engine.budget // engine.network.dtype.itemsize, n, part):
                    largest.take(box, high, low)
                found.append(largest.map())
            return found
        except RuntimeError as error:
            if out_of_memory(error):
                return None
            raise
