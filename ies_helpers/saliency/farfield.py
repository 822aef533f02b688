"""The maximum for networks that look at all of their window: near fields exact, far fields by a few dense passes.

Norms of one image, attention and coarse maps make every voxel's gradient reach all over its window, and so the plain
way costs one dense backward pass a voxel. But what reaches far is weak and smooth: it goes through the coordinates that
`nearfield` holds, c_v times their Jacobian J for voxel v, and the rows c_v of a lesion's voxels are nearly linear
combinations of a few. With orthonormal directions u_1 ... u_r over the voxels,

    far field of v  =  c_v J  ~  sum_k u_k(v) (u_k . C J),

r dense passes for all voxels, each through the live network, with nothing frozen. What is left out is measured: for
random signs w the pass of w less its share in the directions has, on average, exactly the energy of all that is left.
Directions are added until that is below the accuracy asked for; with as many as voxels nothing is left.

The idea is that of fast multipole methods (Greengard and Rokhlin, doi:10.1016/0021-9991(87)90140-9), the estimate that
of Hutchinson (doi:10.1080/03610918908812806).
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Box, Volume
from ies_helpers.saliency.nearfield import (
    AT_ONCE,
    NORMS,
    Coefficients,
    Cotangent,
    Graph,
    Node,
    Norm,
    Rows,
    seen,
    shape_of,
)
from ies_helpers.saliency.views import Pairs, Part, View, out_of_memory
from ies_helpers.segmentation.field import UNKNOWN
from ies_helpers.segmentation.inference import check_finite
from ies_helpers.segmentation.network import Memory, Network
from ies_helpers.segmentation.trust import CLOSE
from ies_helpers.subjects.files import one_line

ACCURACY = 1e-3  # by default: relative L2 error of the voxels' gradients, far below what 50 noise draws leave open
CHECKED = 2  # voxels of a lesion whose gradients are taken exactly as well, in its first image
STRIDES = (np.inf, 32, 16, 8, 4, 2)  # from which maps may be held, in voxels: as few maps as keeps near fields small
NEAR_SHARE = 1 / 16  # of a dense pass: what a voxel's near field may cost
LEAST = {torch.float32: 1e-5, torch.float64: 1e-12}  # accuracy that rounding leaves
MOST_SHARE = 1 / 3  # of a dense pass: above, near fields are not worth taking apart
ALREADY = 1e-6  # length of what is new in a direction, of 1, at which it is one of those that are done

# What is held, as one matrix: a row an output, a column a coordinate.


class Held:
    """The coefficients `matrix` `(V, n)` of all outputs, and how such a row goes back into the graph."""

    def __init__(self, found: Sequence[tuple[np.ndarray, Coefficients]], count: int) -> None:
        """Of groups of rows with their coefficients."""
        parts: dict[Node, list[tuple[np.ndarray, torch.Tensor | Cotangent]]] = {}
        for rows, coefficients in found:
            for node, c in coefficients.items():
                parts.setdefault(node, []).append((rows, c))
        self._slots: list[tuple[Node, Box | None, tuple[int, ...], int]] = []
        columns, scales = [], []
        for node, some in parts.items():
            values, box, scale = _columns(node, some, count)
            self._slots.append((node, box, tuple(values.shape[1:]), values[0].numel()))
            columns.append(values.flatten(1))
            scales.append(scale.expand(values.shape[1:]).flatten())
        self.matrix = torch.cat(columns, dim=1) if columns else torch.zeros(count, 0)
        # How much a coordinate counts: between all alike and as the cotangent that it makes, which did best.
        scaled = self.matrix.double() * torch.cat(scales).double().sqrt() if columns else self.matrix.double()
        energy, vectors = torch.linalg.eigh(scaled @ scaled.T)
        self.energy, self.directions = energy.flip(0).clamp(min=0), vectors.flip(1)

    def combined(self, weights: torch.Tensor) -> dict[Node, torch.Tensor]:
        """The coefficients of a combination `(V,)` of the outputs, as `Graph.far` takes them."""
        c, found = weights.to(self.matrix) @ self.matrix, {}
        for (node, box, shape, _), values in zip(self._slots, c.split([s[3] for s in self._slots]), strict=True):
            values = values.view(shape)
            if box is not None:
                whole = values.new_zeros(1, shape[0], *shape_of(node)[-3:])
                whole[0][:, *box] = values
                values = whole
            found[node] = values
        return found


def _columns(
    node: Node, some: list[tuple[np.ndarray, torch.Tensor | Cotangent]], count: int
) -> tuple[torch.Tensor, Box | None, torch.Tensor]:
    """One node's coefficients `(V, ...)`, the box of a held map, and the size of the cotangent that each makes."""
    sums = [(rows, c) for rows, c in some if isinstance(c, torch.Tensor)]
    if sums:
        norm, values = Norm.of(node), sums[0][1].new_zeros(count, *sums[0][1].shape[1:])
        for rows, c in sums:
            values[rows] += c[: len(rows)]
        n = norm.seen[0].numel() // values.shape[2]
        return values, None, norm.factor.flatten()[:: norm.per] / n**0.5
    maps = [(rows, c) for rows, c in some if isinstance(c, Cotangent)]
    box = maps[0][1].box
    for _, c in maps:
        box = box | c.box
    values = maps[0][1].values.new_zeros(count, maps[0][1].values.shape[1], *box.shape)
    for rows, c in maps:
        for row, one in zip(rows, c.plain(), strict=False):
            values[row][..., *c.box.local(box)] += one
    return values, box, values.new_ones(1, 1, 1, 1)


# The far fields of one view.


@dataclass(frozen=True, eq=False)
class Far:
    """The far fields through one view: `directions` `(V, r)`, and for each a field `(r, C, i, j, k)` on its box."""

    box: Box
    directions: torch.Tensor
    fields: torch.Tensor
    left: float  # estimated energy of what is left out, in all voxels' gradients
    largest: float  # estimate of the largest value that is left out


def compress(graph: Graph, held: Held, box: Box, target: float, random: torch.Generator) -> Far:
    """Directions, one dense pass each, until the estimated energy of what is left is at most `target`."""
    count, channels = len(held.matrix), graph.x.shape[1]
    basis = torch.zeros(count, 0, dtype=torch.float64)
    fields: list[torch.Tensor] = []
    done, ratio = 0, None  # directions of `held` that are done; energy found, over what their coefficients told

    def take(direction: torch.Tensor) -> tuple[float, float]:
        """Add the field of a direction, less its share in those there are; its energy and its largest value."""
        nonlocal basis
        rest = direction - basis @ (basis.T @ direction)
        rest = rest - basis @ (basis.T @ rest)
        if (length := float(rest.norm())) < ALREADY:
            return 0.0, 0.0
        made = graph.far(held.combined(rest))
        basis = torch.cat([basis, (rest / length)[:, None]], dim=1)
        fields.append(made / length)
        return float(made.double().square().sum()), float(made.abs().max())

    left = largest = 0.0
    while len(fields) < count and float(held.energy[done:].sum()) > 0:
        # As many directions as their coefficients say are needed.
        tails = held.energy[done:].flip(0).cumsum(0).flip(0)
        needed = 1 if ratio is None else int((tails * ratio > target / 2).sum())
        begun, found = done, 0.0
        for _ in range(min(needed, count - len(fields))):
            found += take(held.directions[:, done])[0]
            done += 1
        if needed:
            told = float(held.energy[begun:done].sum())
            ratio = max(found / told, 1e-30) if told else 1e-30
            if len(fields) == count or float(held.energy[done:].sum()) * ratio > target:
                continue
        # Is that so? Random signs tell, and their field is one direction more.
        signs = torch.randint(0, 2, (count,), generator=random).double() * 2 - 1
        left, largest = take(signs)
        if left <= target:
            break
        ratio = left / float(held.energy[done:].sum())
        left = largest = 0.0
    stacked = torch.stack(fields) if fields else torch.zeros(0, channels, *box.shape).to(graph.x)
    return Far(box, basis.to(stacked), stacked, left, largest)


# Both fields of all rows, through all their views.


@dataclass
class Report:
    """What the fields of one image cost, and how far off they are."""

    accuracy: float  # asked for; infinite: far fields are left out
    passes: int = 0  # dense backward passes for far fields
    estimate: float = 0.0  # relative L2 error of the rows' gradients, estimated
    largest: float = 0.0  # estimated largest error over the largest value
    voxels: int = 0  # whose gradients were taken exactly as well
    deviation: dict[str, float] = field(default_factory=dict)  # of these, the largest of each measure

    def worst(self, other: "Report") -> "Report":
        """The larger of each."""
        return replace(
            self if self.deviation else other,
            passes=max(self.passes, other.passes),
            estimate=max(self.estimate, other.estimate),
            largest=max(self.largest, other.largest),
        )

    def in_words(self) -> str:
        """One sentence."""
        measured = ", ".join(f"{name} {share:.2g}" for name, share in self.deviation.items())
        checked = (
            f"on {self.voxels} voxels taken exactly it is {measured}" if measured else "no voxel was taken exactly"
        )
        if self.accuracy == np.inf:
            return f"Far fields were left out, which is an approximation: {checked}."
        return (
            f"Gradients by near and far fields, {self.passes} dense passes a lesion and image at most: the error is "
            f"estimated at {self.estimate:.1g} (L2, relative; asked for {self.accuracy:g}); {checked}."
        )


class Fields:
    """The gradients of all rows through some views of one image: near fields, and a few far fields for all."""

    def __init__(
        self,
        network: Network,
        image: Volume,
        part: Part,
        rows: Rows,
        accuracy: float,
        coarse: float,
        check: int = 0,
        at_once: int | None = None,
    ) -> None:
        """Run every view forward, and take what is needed.

        Args:
            network, image: in evaluation mode, see `at_rest`.
            part: the views, and the box that holds them.
            rows: the outputs.
            accuracy: relative L2 error of the rows' gradients; infinite leaves far fields out.
            coarse: maps of this stride in voxels or more are held, see `can_be_split`.
            check: how many rows are taken exactly as well.
            at_once: how many near fields are taken together; None: as many as the device likes.
        """
        self.part, self.rows, self.accuracy = part, rows, accuracy
        self.network, self.image, self.coarse = network, image, coarse
        self.groups = rows.groups(at_once or AT_ONCE[network.device.type == "cuda"])
        self.near: list[Cotangent | None] = [None] * len(self.groups)
        self.far: list[Far] = []
        self.report = Report(accuracy)
        self._checked = (
            np.unique(np.linspace(0, len(rows) - 1, check).round().astype(int)) if check else np.zeros(0, int)
        )
        self._exact: dict[int, torch.Tensor] = {}
        self._random = torch.Generator().manual_seed(len(rows))
        for view in part.views:
            self._see(view)
        self._measure()

    def _see(self, view: View) -> None:
        """One view: forward, near fields, coefficients, far fields."""
        x, logits = seen(self.network, self.image, view)
        graph = Graph(x, logits, self.coarse)
        found, energy, origin = [], 0.0, view.box.start
        for n, rows in enumerate(self.groups):
            if (seed := self.rows.seed(view, logits, rows)) is None:
                continue
            with torch.no_grad():
                near, held = graph.back(seed[0])
            found.append((rows, held))
            if near is not None:
                near = near.shifted(origin)
                squares = near.plain()[: len(rows)].double().square().sum(dim=(1, 2, 3, 4)).cpu().numpy()
                share = np.where(seed[1] == 0, np.inf, seed[1])
                energy += float((squares / share**2).sum())
                self.near[n] = near if (before := self.near[n]) is None else before.plus(near)
        for row in self._checked:
            if (seed := self.rows.seed(view, logits, np.array([row]))) is not None:
                score = (logits[:, *seed[0].box] * seed[0].values[:1, 0]).sum()
                self._add_exact(int(row), torch.autograd.grad(score, x, retain_graph=True)[0][0], view.box)
        if np.isfinite(self.accuracy):
            target = self.accuracy**2 * energy / len(self.part.views)
            self.far.append(compress(graph, Held(found, len(self.rows)), view.box, target, self._random))
            self.report.estimate += self.far[-1].left
            self.report.largest = max(self.report.largest, self.far[-1].largest)
            self.report.passes += len(self.far[-1].fields)

    def _add_exact(self, row: int, g: torch.Tensor, box: Box) -> None:
        total = self._exact.setdefault(row, g.new_zeros(len(g), *self.part.box.shape))
        both = self.part.box & box
        total[:, *both.local(self.part.box)] += g[:, *both.local(box)]

    def _measure(self) -> None:
        """Turn energies into shares of the near fields, and compare the rows that were taken exactly."""
        near = [g.plain()[: len(rows)] for g, rows in zip(self.near, self.groups, strict=True) if g is not None]
        total = sum(float(g.double().square().sum()) for g in near)
        largest = max((float(g.abs().max()) for g in near), default=0.0)
        self.report.estimate = (self.report.estimate / total) ** 0.5 if total else 0.0
        self.report.largest = self.report.largest / largest if largest else 0.0
        found = [deviation(self.row(n), exact) for n, exact in self._exact.items()]
        self.report.voxels, self._exact = len(found), {}
        self.report.deviation = {name: max(f[name] for f in found) for name in found[0]} if found else {}

    def row(self, number: int) -> torch.Tensor:
        """The gradient of one row on the part's box, `(C, i, j, k)`."""
        return self._totals(self.part.box, np.array([number]))[0]

    def pairs(self, values_at_once: int) -> Pairs:
        """The largest and the smallest gradients of all rows, block by block of the part's box."""
        channels = len(self.image)
        for box in blocks(self.part, max(1, values_at_once // (len(self.rows) * channels))):
            total = self._totals(box, np.arange(len(self.rows)))
            yield box, total.amax(dim=0), total.amin(dim=0)

    def _totals(self, box: Box, rows: np.ndarray) -> torch.Tensor:
        """`(len(rows), C, i, j, k)`: gradients of some rows on a box."""
        network, channels = self.network, len(self.image)
        total = torch.zeros(len(rows), channels, *box.shape, device=network.device, dtype=network.dtype)
        for far in self.far:
            both = far.box & box
            if both.size and len(far.fields):
                there = far.fields[..., *both.local(far.box)]
                made = far.directions[rows] @ there.flatten(1)
                total[..., *both.local(box)] += made.view(len(rows), *there.shape[1:])
        where = {int(row): n for n, row in enumerate(rows)}
        for group, near in zip(self.groups, self.near, strict=True):
            if near is None or not (both := near.box & box).size:
                continue
            pairs = [(n, where[int(row)]) for n, row in enumerate(group) if int(row) in where]
            if pairs:
                mine, theirs = (list(t) for t in zip(*pairs, strict=True))
                total[theirs, ..., *both.local(box)] += near.plain()[mine, ..., *both.local(near.box)]
        return total


def blocks(part: Part, largest: int) -> Iterator[Box]:
    """The part's box cut at its windows' faces, and along its first axis into blocks of up to `largest` voxels."""
    edges = []
    for axis in range(3):
        cuts = {end for view in part.views for end in (view.box[axis].start, view.box[axis].stop)}
        low, high = part.box[axis].start, part.box[axis].stop
        edges.append(sorted({low, high} | {c for c in cuts if low < c < high}))
    for sides in itertools.product(*(list(itertools.pairwise(e)) for e in edges)):
        (start, stop), plane = sides[0], (sides[1][1] - sides[1][0]) * (sides[2][1] - sides[2][0])
        step = max(1, largest // plane)
        for first in range(start, stop, step):
            yield Box.of([first, sides[1][0], sides[2][0]], [min(first + step, stop), sides[1][1], sides[2][1]])


def deviation(one: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """How far a map is from the exact one: largest difference over the largest value, and L2 and L1 shares."""
    apart, exact = (one - exact).double(), exact.double()
    return {
        "largest": float(apart.abs().max() / exact.abs().max()),
        "l2": float(apart.norm() / exact.norm()),
        "l1": float(apart.abs().sum() / exact.abs().sum()),
    }


# Whether it pays, and from which stride on maps are held: looked at once in a network as it is.

FROZEN_RULE = "statistics='frozen' is for networks that are local but for norms"
FROZEN_REMEDY = "Take statistics='exact'."
_SPLITS = Memory()


def check_accuracy(accuracy: float | str, dtype: torch.dtype = torch.float32) -> float:
    """The accuracy meant, 0 for `exact` and the usual one for `auto`; refused where rounding is worse."""
    if accuracy in ("auto", "exact"):
        return ACCURACY if accuracy == "auto" else 0.0
    if isinstance(accuracy, str) or not (accuracy == 0 or LEAST[dtype] <= accuracy < 1):
        raise ValueError(
            f"accuracy must be auto ({ACCURACY:g}), exact, or a relative error from {LEAST[dtype]:g}, which is what "
            f"{str(dtype).removeprefix('torch.')} can give, to below 1; got {accuracy!r}."
        )
    return float(accuracy)


def check_norms(network: Network) -> None:
    """Refuse frozen statistics, before any long work, for a network whose parts show no norm of one image."""
    if not any(isinstance(m, nn.modules.instancenorm._InstanceNorm | nn.GroupNorm) for m in network.module.modules()):
        raise ValueError(f"{FROZEN_RULE}; {network.name} has none. {FROZEN_REMEDY}")


@dataclass(frozen=True)
class Split:
    """How a network's gradients come apart."""

    coarse: float = np.inf  # maps of this stride or more are held
    share: float = 1.0  # arithmetic of one voxel's near field, of a dense pass
    held: tuple[str, ...] = ()  # the operations of which coordinates are held
    off: float = np.inf  # how far near field and untruncated far field are from autograd, at one voxel
    why: str = ""  # it cannot be split

    @property
    def right(self) -> bool:
        """Whether the two fields add up to what autograd gives."""
        return self.off <= CLOSE

    @property
    def local(self) -> bool:
        """Whether nothing is held: the near field is all."""
        return self.right and not self.held

    @property
    def norms(self) -> bool:
        """Whether norms, and nothing else, are held."""
        return self.right and bool(self.held) and set(self.held) <= set(NORMS)

    @property
    def pays(self) -> bool:
        """Whether it is right, and near fields are small."""
        return self.right and self.share <= MOST_SHARE

    @property
    def otherwise(self) -> str:
        """Why it is not local but for norms."""
        others = sorted({name.removesuffix("0").removesuffix("Backward") for name in self.held} - set(NORMS))
        return self.why or ("has none" if not self.held else f"has {', '.join(others)} besides")


def split_of(
    network: Network, image: Volume, view: View, voxel: np.ndarray, *, whole: bool = False, everywhere: bool = False
) -> Split:
    """How the gradient of `voxel` through a view comes apart, looked at once for each size of view.

    Args:
        network: at rest.
        image, view, voxel: where to look.
        whole: whether no map may be held.
        everywhere: whether a look at one size tells of all.
    """
    key = ("split", None if everywhere else view.box.shape, len(image), whole, network.function)
    return _SPLITS(
        network.module, *key, make=lambda: _split(network, image, view, voxel, STRIDES[: 1 if whole else None])
    )


def _split(network: Network, image: Volume, view: View, voxel: np.ndarray, strides: Sequence[float]) -> Split:
    try:
        x, logits = seen(network, image, view)
        rows = Rows.of(voxel[None])
        seed = rows.seed(view, logits, np.array([0]))
        assert seed is not None
        (wanted,) = torch.autograd.grad((logits[:, *seed[0].box] * seed[0].values[:1, 0]).sum(), x, retain_graph=True)
        check_finite(wanted, network)
        split, graph, near, held = _smallest(x, logits, seed[0], strides)
        apart = wanted[0].clone()
        if held:
            apart -= graph.far(Held([(np.array([0]), held)], 1).combined(torch.ones(1)))
        if near is not None:
            apart[:, *near.box] -= near.plain()[0]
    except UNKNOWN as error:
        if out_of_memory(error) or isinstance(error, ValueError):
            raise
        return Split(why=f"shows no graph that can be read ({one_line(error, 80)})")
    largest = float(wanted.abs().max())
    split = replace(split, off=float(apart.abs().max()) / largest if largest else 0.0)
    if not split.right:
        warnings.warn(
            f"The gradient of {network.name} by near and far fields is {split.off:.2g} off; it is taken by autograd, "
            "which is slow.",
            stacklevel=2,
        )
    return split


def _smallest(
    x: torch.Tensor, logits: torch.Tensor, seed: Cotangent, strides: Sequence[float]
) -> tuple[Split, Graph, Cotangent | None, Coefficients]:
    """The first of the strides at which near fields are small, else that at which they are smallest."""
    best = None
    for coarse in strides:
        graph = Graph(x, logits, coarse)
        with torch.no_grad():
            near, held = graph.back(seed)
        if best is None or graph.share < best[0].share:
            names = tuple(sorted({node.name() for node in held}))
            best = Split(coarse, graph.share if near is not None else 1.0, names), graph, near, held
        if graph.share <= NEAR_SHARE or not held:
            break
    assert best is not None
    return best
