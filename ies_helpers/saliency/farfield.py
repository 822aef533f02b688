"""The maximum for networks that look at all of their window: near fields exact, far fields by a few dense passes.

Norms of one image, attention and coarse maps make every voxel's gradient reach all over its window, and so the plain
way costs one dense backward pass a voxel. But what reaches far is weak and smooth: it goes through the coordinates that
`nearfield` holds, c_v times their Jacobian J for voxel v, and the rows c_v of a lesion's voxels are nearly linear
combinations of a few. With orthonormal directions u_1 ... u_r over the voxels,

    far field of v  =  c_v J  ~  sum_k u_k(v) (u_k . C J),

r dense passes for all voxels, each through the live network, with nothing frozen. What is left out is measured: for
random signs w the pass of w less its share in the directions has, on average, exactly the energy of all that is left.
Directions are added until that is below the accuracy asked for; with as many as voxels nothing is left. An output seen
through several windows has far fields in each, and what they leave out is added up (`Errors`).

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
    in_parallel,
    positions_of,
    seen,
)
from ies_helpers.saliency.views import Pairs, Part, View, freed_memory_kept, out_of_memory
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
FAR_OFF = 20  # times the accuracy: no single output of a lesion is as far off as this by what is left out alone
SMALLEST = 1e-30  # ratio of energies that still divides
RECENT = 3  # directions that tell what those to come will be worth
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
        self._last = {node for node, some in parts.items() if getattr(some[0][1], "last", False)}
        columns, scales = [], []
        for node, some in parts.items():
            values, box, scale = _columns(node, some, count)
            self._slots.append((node, box, tuple(values.shape[1:]), values[0].numel()))
            columns.append(values.flatten(1))
            scales.append(scale.expand(values.shape[1:]).flatten())
        self.matrix = torch.cat(columns, dim=1) if columns else torch.zeros(count, 0)
        # How much a coordinate counts: between all alike and as the cotangent that it makes, which did best.
        self._scales = torch.cat(scales).sqrt() if columns else torch.zeros(0)

    def directions(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Combinations of the outputs, times `weights` `(V,)`, that tell most first.

        Their energies `(V,)`, as far as coefficients tell, and the orthonormal directions `(V, V)` as columns.
        """
        scaled = (self.matrix * self._scales).detach().double()
        products = (scaled @ scaled.T).cpu() * weights[:, None] * weights  # small; their columns are read one by one
        energy, vectors = torch.linalg.eigh(products)
        return energy.flip(0).clamp(min=0), vectors.flip(1)

    def combined(self, weights: torch.Tensor) -> dict[Node, torch.Tensor]:
        """The coefficients of a combination `(V,)` of the outputs, as `Graph.far` takes them."""
        c, found = weights.to(self.matrix) @ self.matrix, {}
        for (node, box, shape, _), values in zip(self._slots, c.split([s[3] for s in self._slots]), strict=True):
            values = values.view(shape)
            if box is not None:
                last = node in self._last
                whole = values.new_zeros(1, shape[0], *positions_of(node, last))
                whole[0][:, *box] = values
                values = whole.movedim(1, -1).contiguous() if last else whole
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
    """The far fields through one view: `shares` `(V, r)` of each output in r fields `(r, C, i, j, k)` on its box."""

    box: Box
    shares: torch.Tensor
    fields: torch.Tensor
    left: np.ndarray  # (L,): of each lesion, the energy estimated to be left out, over that of its gradients


class Compression:
    """The far fields of one view as they are added, direction by direction, and what is known to be left out."""

    def __init__(self, graph: Graph, held: Held, box: Box, owner: np.ndarray, weights: np.ndarray) -> None:
        """Nothing added yet.

        Args:
            graph, held, box: of the view.
            owner: `(V,)`, which of L lesions an output is of.
            weights: `(V,)`, one over the root of the energy of its lesion's gradients; 0 if it is not in the view.
        """
        self.graph, self.held, self.box = graph, held, box
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        energy, self.directions = held.directions(self.weights)
        # (V + 1, L): what coefficients tell to be left of each lesion after so many directions.
        told = np.zeros((len(owner) + 1, int(owner.max()) + 1))
        np.add.at(told[:-1].T, owner, (self.directions.square() * energy).numpy())
        self.tails = told[::-1].cumsum(axis=0)[::-1]
        self.basis = torch.zeros(len(owner), 0, dtype=torch.float64)
        self.fields: list[torch.Tensor] = []
        self.worth = 0.0

    def add(self, direction: torch.Tensor) -> float:
        """Add the field of a direction `(V,)`, less its share in those there are: its energy."""
        rest = direction - self.basis @ (self.basis.T @ direction)
        rest = rest - self.basis @ (self.basis.T @ rest)
        if (length := float(rest.norm())) < ALREADY:
            return 0.0
        made = self.graph.far(self.held.combined(rest * self.weights))
        self.basis = torch.cat([self.basis, (rest / length)[:, None]], dim=1)
        self.fields.append(made / length)
        return float(made.double().square().sum())

    def until(self, target: np.ndarray, random: torch.Generator, worth: float = 0.0) -> Far:
        """Directions, one dense pass each, until of no lesion more than its `target` `(L,)` is estimated to be left.

        `worth`, 0 if unknown, is what a unit of energy told by coefficients was worth in another view; kept as found.
        """
        count, done, left = int((self.weights > 0).sum()), 0, np.zeros_like(target)
        told, recent = self.tails.sum(axis=1), [(worth, 1.0)] if worth else []
        with np.errstate(divide="ignore", invalid="ignore"):
            over = np.nan_to_num(self.tails / target, posinf=np.inf).max(axis=1)  # (V + 1,) times what is allowed
        while len(self.fields) < count and told[done]:
            self.worth = max(sum(e for e, _ in recent) / sum(t for _, t in recent), SMALLEST) if recent else 0.0
            if not recent or over[done] * self.worth > 1:
                energy = self.add(self.directions[:, done])
                done += 1
                # What coefficients tell is worth less and less, or more and more: the last directions know.
                recent = [*recent, (energy, told[done - 1] - told[done])][-RECENT:]
                continue
            # Is so little left? Random signs tell, and their field is one direction more.
            signs = torch.randint(0, 2, (len(self.weights),), generator=random).double() * 2 - 1
            energy = self.add(signs * (self.weights > 0))
            left = energy / told[done] * self.tails[done] * (len(self.fields) < count)  # the last leaves nothing
            if (left <= target).all():
                break
            recent, left = [(energy, told[done])], np.zeros_like(target)
        empty = torch.zeros(0, self.graph.x.shape[1], *self.box.shape).to(self.graph.x)
        fields = torch.stack(self.fields) if self.fields else empty
        inverse = torch.where(self.weights > 0, 1 / self.weights, 0.0)
        return Far(self.box, (self.basis * inverse[:, None]).to(fields), fields, left)


class Errors:
    """How the error allowed to L lesions is shared by the views, and what they make of it together.

    Far fields fill their windows. So what two views leave out of one gradient may lie alike where their windows
    overlap, and adds up there: with a_n what view n leaves, and o the overlap of two boxes as a share of their size,
    the square of the whole error is at most sum_nm o_nm a_n a_m. Windows apart add squares, equal windows add errors.
    """

    def __init__(self, views: Sequence[View], rows: Rows, owner: np.ndarray, accuracy: float) -> None:
        """`owner` `(V,)`: whose each of the rows is."""
        self.accuracy, count = accuracy, int(owner.max()) + 1
        # The fewest passes in all: their number goes about as the root of a view's energy over what it may leave, and
        # so that is the cube root of its energy, which goes with the squares of its shares; an error its root.
        self.portions = np.array([np.bincount(owner, rows.shares(v) ** 2, count) for v in views]) ** (1 / 6)
        sizes = np.sqrt([[a.box.size * b.box.size for a in views] for b in views])
        self.overlap = np.array([[(a.box & b.box).size for a in views] for b in views]) / sizes
        self.left = np.zeros((len(views), count))

    def allowed(self, number: int) -> np.ndarray:
        """`(L,)`: the energy that a view may leave, views before it done, views after it in proportion."""
        if not np.isfinite(self.accuracy):
            return np.full(self.left.shape[1], np.inf)
        before, after, o = self.left[:number], self.portions[number:], self.overlap
        done, both, rest = (
            np.einsum("nl,nm,ml->l", x, part, y)
            for x, part, y in (
                (before, o[:number, :number], before),
                (before, o[:number, number:], after),
                (after, o[number:, number:], after),
            )
        )
        # The share c of `after` with done + 2 c both + c^2 rest = accuracy^2.
        room = np.sqrt(both**2 + rest * np.maximum(self.accuracy**2 - done, 0)) - both
        share = np.divide(room, rest, out=np.zeros_like(rest), where=rest > 0)
        return np.where(after[0] > 0, (share * after[0]) ** 2, np.inf)

    def total(self) -> np.ndarray:
        """`(L,)`: the relative L2 error of each lesion's gradients, as estimated."""
        return np.sqrt(np.einsum("nl,nm,ml->l", self.left, self.overlap, self.left))


# Both fields of all rows, through all their views.


@dataclass
class Report:
    """What the fields of one image cost, and how far off they are."""

    accuracy: float  # asked for; infinite: far fields are left out
    passes: int = 0  # dense backward passes for far fields
    estimate: float = 0.0  # relative L2 error of the rows' gradients, estimated
    voxels: int = 0  # whose gradients were taken exactly as well
    deviation: dict[str, float] = field(default_factory=dict)  # of these, by measures of `Fields`

    def worst(self, other: "Report") -> "Report":
        """The larger of each."""
        return replace(
            self if self.deviation else other,
            passes=max(self.passes, other.passes),
            estimate=max(self.estimate, other.estimate),
        )

    def plus(self, other: "Report") -> "Report":
        """With other voxels of the same lesion in the same image: passes add up."""
        worse = {name: max(share, other.deviation.get(name, 0.0)) for name, share in self.deviation.items()}
        voxels = self.voxels + other.voxels
        return replace(self.worst(other), passes=self.passes + other.passes, voxels=voxels, deviation=worse)

    @property
    def wrong(self) -> bool:
        """Whether outputs taken exactly are much further off than was asked for: something is not understood."""
        return np.isfinite(self.accuracy) and self.deviation.get("l2", 0.0) > FAR_OFF * self.accuracy

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
    """The gradients of the outputs of some lesions, through some views of one image.

    Near fields each, and a few far fields for all: lesions that share their views share forward passes and far fields.
    """

    def __init__(
        self,
        network: Network,
        image: Volume,
        part: Part,
        lesions: Sequence[Rows],
        accuracy: float,
        coarse: float,
        check: int = 0,
        at_once: int | None = None,
    ) -> None:
        """Run every view forward, and take what is needed.

        Args:
            network, image: in evaluation mode, see `at_rest`.
            part: the views, and the box that holds them.
            lesions: the outputs of each.
            accuracy: relative L2 error of each lesion's gradients; infinite leaves far fields out.
            coarse: maps of this stride in voxels or more are held, see `split_of`.
            check: how many outputs of each lesion are taken exactly as well.
            at_once: how many near fields are taken together; None: as many as the device likes.
        """
        self.network, self.image, self.part, self.accuracy, self.coarse = network, image, part, accuracy, coarse
        counts = [len(rows) for rows in lesions]
        self.first, self.owner = np.cumsum([0, *counts]), np.repeat(np.arange(len(counts)), counts)
        self.rows = Rows.joined(lesions)
        self.groups = self.rows.groups(at_once or AT_ONCE[network.device.type == "cuda"])
        self.near: list[Cotangent | None] = [None] * len(self.groups)
        self.far: list[Far] = []
        self._exact: dict[int, torch.Tensor] = {}
        self._shared = Errors(part.views, self.rows, self.owner, accuracy)
        self._worth = 0.0
        chosen = [np.linspace(a, b - 1, check).round() for a, b in itertools.pairwise(self.first)]
        self._random, checked = torch.Generator().manual_seed(len(self.rows)), np.unique(np.concatenate(chosen))
        for n, view in enumerate(part.views):
            self._see(n, view, checked.astype(int))
        self.reports = self._measured()

    def _see(self, number: int, view: View, checked: np.ndarray) -> None:
        """One view: forward, near fields, coefficients, far fields."""
        x, logits = seen(self.network, self.image, view)
        graph, still = Graph(x, logits, self.coarse), logits.detach()
        found, energy = [], np.zeros(len(self.first) - 1)

        def near_of(rows: np.ndarray) -> tuple[Cotangent | None, Coefficients, np.ndarray] | None:
            seed = self.rows.seed(view, still, rows)
            return None if seed is None else (*graph.back(seed[0]), seed[1])

        for n, made in enumerate(in_parallel(near_of, self.groups, self.network.device)):
            if made is None:
                continue
            (near, held, share), rows = made, self.groups[n]
            found.append((rows, held))
            if near is not None:
                near = near.shifted(view.box.start)
                squares = near.plain()[: len(rows)].square().sum(dim=(1, 2, 3, 4)).cpu().numpy()
                # Of the whole gradient, as far as this view's share in it tells.
                np.add.at(energy, self.owner[rows], squares / np.where(share == 0, np.inf, share) ** 2)
                self.near[n] = near if (before := self.near[n]) is None else before.plus(near)
        for row in checked:
            if (seed := self.rows.seed(view, logits, np.array([row]))) is not None:
                score = (logits[:, *seed[0].box] * seed[0].values[:1, 0]).sum()
                self._add_exact(int(row), torch.autograd.grad(score, x, retain_graph=True)[0][0], view.box)
        if np.isfinite(self.accuracy) and found:
            # Without any near field nothing tells what is little: all directions are taken.
            blind = not energy.any()
            weights = np.where(energy > 0, 1 / np.sqrt(np.where(energy > 0, energy, 1.0)), float(blind))[self.owner]
            compression = Compression(graph, Held(found, len(self.rows)), view.box, self.owner, weights)
            target = self._shared.allowed(number) * (not blind)
            with freed_memory_kept():
                self.far.append(compression.until(target, self._random, self._worth))
            self._shared.left[number], self._worth = np.sqrt(self.far[-1].left), compression.worth

    def _add_exact(self, row: int, g: torch.Tensor, box: Box) -> None:
        total = self._exact.setdefault(row, g.new_zeros(len(g), *self.part.box.shape))
        both = self.part.box & box
        total[:, *both.local(self.part.box)] += g[:, *both.local(box)]

    def _measured(self) -> list[Report]:
        """Of each lesion what it cost, what is left out, and how far the outputs taken exactly are off."""
        passes = sum(len(far.fields) for far in self.far)
        reports = [Report(self.accuracy, passes, float(error)) for error in self._shared.total()]
        for n, report in enumerate(reports):
            rows = [row for row in self._exact if self.owner[row] == n]
            if rows:
                exact = torch.stack([self._exact[row] for row in rows])
                off = self.totals(self.part.box, np.array(rows)) - exact
                report.voxels, report.deviation = len(rows), self._deviation(off, exact, n)
        self._exact = {}
        return reports

    def _deviation(self, off: torch.Tensor, exact: torch.Tensor, lesion: int) -> dict[str, float]:
        """How far some outputs of a lesion are off, as `accuracy` measures: over all its gradients' mean energy."""
        energy, largest = 0.0, float(exact.abs().max())
        for group, near in zip(self.groups, self.near, strict=True):
            if near is not None and (mine := np.flatnonzero(self.owner[group] == lesion)).size:
                values = near.plain()[mine]
                energy, largest = energy + float(values.square().sum()), max(largest, float(values.abs().max()))
        mean = energy / int((self.owner == lesion).sum()) or float(exact.square().sum()) / len(exact)
        return {
            "largest": float(off.abs().max()) / largest if largest else 0.0,
            "l2": float(off.square().sum() / len(off) / mean) ** 0.5 if mean else 0.0,
            "l1": float(off.abs().sum() / exact.abs().sum()) if largest else 0.0,
        }

    def row(self, number: int, lesion: int = 0) -> torch.Tensor:
        """The gradient of one output of a lesion on the part's box, `(C, i, j, k)`."""
        return self.totals(self.part.box, self.first[lesion] + np.array([number]))[0]

    def pairs(self, values_at_once: int, lesion: int = 0, part: Part | None = None) -> Pairs:
        """The largest and the smallest gradients of a lesion's outputs, block by block of its `part`'s box."""
        rows = np.arange(self.first[lesion], self.first[lesion + 1])
        for box in blocks(part or self.part, max(1, values_at_once // (len(rows) * len(self.image)))):
            total = self.totals(box, rows)
            yield box, total.amax(dim=0), total.amin(dim=0)

    def totals(self, box: Box, rows: np.ndarray) -> torch.Tensor:
        """`(len(rows), C, i, j, k)`: gradients of some outputs, of all lesions in a row, on a box."""
        network, channels = self.network, len(self.image)
        total = torch.zeros(len(rows), channels, *box.shape, device=network.device, dtype=network.dtype)
        for far in self.far:
            both = far.box & box
            if both.size and len(far.fields):
                there = far.fields[..., *both.local(far.box)]
                made = far.shares[rows] @ there.flatten(1)
                total[..., *both.local(box)] += made.view(len(rows), *there.shape[1:])
        for group, near in zip(self.groups, self.near, strict=True):
            if near is None or not (both := near.box & box).size:
                continue
            _, mine, theirs = np.intersect1d(group, rows, return_indices=True)
            if len(mine):
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
