"""Cases whose truth is known: an image, a network made by hand, a lesion, and what any map of it must say.

Every network here adds up evidence, so that all truths are sums that can be written down:

    evidence of a voxel     q(x) = w . x + x' A x,    x the voxel's modalities
    logit of a voxel        f(v) = sum over offsets o of kernel(o) q(x(v + o)), less a bias
    score of a lesion       F = mean of f over the lesion's V voxels = sum over voxels u of m(u) q(x(u)) - bias
    where it looks          m(u) = 1/V sum over the lesion's voxels v of kernel(u - v)

The truths below follow from F with pen and paper, and are computed by numpy in float64: no network is run for them,
and none of our own package is used. This file needs numpy, scipy and torch alone, and may be copied.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

SHAPE = (40, 32, 24)  # no two sides alike, so that exchanged axes are noticed; 1 mm a voxel
MODALITIES = ("FLAIR", "T1")
NEIGHBOURS = ndimage.generate_binary_structure(3, 2)  # lesions are 18-connected


class Known(nn.Module):
    """`(B, 2, I, J, K)` -> logits `(B, 2, I, J, K)`, class 0 at zero, class 1 as the head of this file says.

    `relu` holds four features, the positive and negative parts of both modalities: a layer as a Grad-CAM wants it, not
    negative, at the input's resolution, and before the network looks aside. Their difference is the image again, so
    that the network is exactly linear or quadratic, though it has a ReLU.
    """

    def __init__(self, w: np.ndarray, a: np.ndarray, kernel: np.ndarray, bias: float) -> None:
        """`w` `(2,)`, `a` `(2, 2)` symmetric, `kernel` `(i, j, k)` with odd sides."""
        super().__init__()
        self.features = _convolution(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[..., None, None, None])
        self.relu = nn.ReLU()
        self.image = _convolution(np.array([[1, -1, 0, 0], [0, 0, 1, -1]])[..., None, None, None])
        self.linear = _convolution(w[None, :, None, None, None])
        self.quadratic = _convolution(a[..., None, None, None])
        self.look = _convolution(kernel[None, None])
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.image(self.relu(self.features(x)))
        evidence = self.linear(x) + (x * self.quadratic(x)).sum(dim=1, keepdim=True)
        logit = self.look(evidence) - self.bias
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def _convolution(kernel: np.ndarray) -> nn.Conv3d:
    o, c, i, j, k = kernel.shape
    made = nn.Conv3d(c, o, (i, j, k), padding=(i // 2, j // 2, k // 2), bias=False)
    made.weight.data = torch.from_numpy(kernel.astype(np.float32))
    return made


@dataclass(frozen=True)
class Effort:
    """How much a method may do: the same for all."""

    draws: int = 25  # of noise
    noise: float = 0.05  # its standard deviation, as a share of the first modality's range
    steps: int = 32  # of an integral
    side: int = 8  # of a hidden block
    block: int = 12  # side of a supervoxel
    samples: int = 300  # images that KernelSHAP may score


@dataclass(frozen=True, eq=False)
class Case:
    """One question with a known answer. Maps are compared on the image's grid `(2, I, J, K)`."""

    name: str
    asks: str
    image: np.ndarray  # (2, I, J, K) float32
    lesion: np.ndarray  # (I, J, K) bool: the lesion that is explained, one component of the network's answer
    other: np.ndarray  # (I, J, K) bool: every other lesion that the network finds
    w: np.ndarray = field(default_factory=lambda: np.zeros(2))
    a: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    kernel: np.ndarray = field(default_factory=lambda: np.ones((1, 1, 1)))
    bias: float = 1.0
    layer: str = "relu"
    effort: Effort = Effort()

    @property
    def network(self) -> nn.Module:
        """A new copy each time, in eval mode: a method that leaves something behind spoils its own copy alone."""
        return Known(self.w, self.a, self.kernel, self.bias).eval()

    @property
    def sigma(self) -> float:
        """Of the noise, in the image's unit."""
        return self.effort.noise * float(np.ptp(self.image[0]))

    def _spread(self, mask: np.ndarray) -> np.ndarray:
        """`(V, I, J, K)`: kernel(u - v), one slab a voxel v of the mask."""
        pad = [s // 2 for s in self.kernel.shape]
        slabs = np.zeros((int(mask.sum()), *(n + 2 * p for n, p in zip(mask.shape, pad, strict=True))))
        for slab, v in zip(slabs, np.argwhere(mask), strict=True):
            slab[tuple(slice(at, at + s) for at, s in zip(v, self.kernel.shape, strict=True))] = self.kernel
        inside = tuple(slice(p, p + n) for n, p in zip(mask.shape, pad, strict=True))
        return slabs[(slice(None), *inside)]

    @cached_property
    def weight(self) -> np.ndarray:
        """m: `(I, J, K)`."""
        return self._spread(self.lesion).mean(axis=0)

    @cached_property
    def largest(self) -> np.ndarray:
        """kernel(u - v) of the lesion voxel v for which it is largest in absolute value, `(I, J, K)`."""
        slabs = self._spread(self.lesion)
        return np.take_along_axis(slabs, np.abs(slabs).argmax(axis=0)[None], axis=0)[0]

    @cached_property
    def looks(self) -> np.ndarray:
        """`(I, J, K)` bool: the voxels that this lesion's score depends on; no other voxel does anything."""
        return self._reached(self.lesion)

    @cached_property
    def looks_for_others(self) -> np.ndarray:
        """`(I, J, K)` bool: what the other lesions' scores depend on, and this one's does not."""
        return self._reached(self.other) & ~self.looks

    def _reached(self, mask: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(mask, self.kernel != 0)

    @property
    def slope(self) -> np.ndarray:
        """Of the evidence, w + 2 A x: `(2, I, J, K)`."""
        x = self.image.astype(float)
        return self.w[:, None, None, None] + 2 * np.einsum("cd,dijk->cijk", self.a, x)

    def score(self, image: np.ndarray | None = None) -> float:
        """F of an image."""
        x = (self.image if image is None else image).astype(float)
        evidence = np.einsum("c,cijk->ijk", self.w, x) + np.einsum("cd,cijk,dijk->ijk", self.a, x, x)
        return float((self.weight * evidence).sum() - self.bias)

    def truth(self, quantity: str, reading: int = 0) -> np.ndarray:
        """What a map that claims this quantity must hold, `(2, I, J, K)`, or `(1, I, J, K)` for a Grad-CAM."""
        return QUANTITIES[quantity].truths[reading](self)

    def counts(self, quantity: str) -> np.ndarray:
        """`(I, J, K)` bool: where such a map may be bright: `looks`, or the whole blocks that hold a voxel of it."""
        side = QUANTITIES[quantity].side(self.effort)
        return self.looks if side == 1 else _over_blocks(self.looks[None].astype(float), side)[0] > 0


def _over_blocks(values: np.ndarray, side: int) -> np.ndarray:
    """Each voxel holds the sum over its block; blocks of `side` stand at multiples of it."""
    out = np.zeros_like(values)
    for at in np.ndindex(*(-(-n // side) for n in values.shape[1:])):
        block = (slice(None), *(slice(side * a, side * a + side) for a in at))
        out[block] = values[block].sum(axis=(1, 2, 3), keepdims=True)
    return out


# What methods claim, in closed form. Readings are the ways in which libraries write one published formula.

Truth = Callable[[Case], np.ndarray]


@dataclass(frozen=True)
class Quantity:
    """What a kind of map holds, by its own definition, and what it can be asked about."""

    formula: str
    truths: tuple[Truth, ...]
    signed: bool = True  # it tells for from against
    modalities: bool = True  # it tells the modalities apart
    side: Callable[[Effort], int] = lambda effort: 1  # of the blocks that share a value


def _gradient(case: Case) -> np.ndarray:
    return case.weight * case.slope


def _summed(case: Case) -> np.ndarray:
    return _gradient(case) * case.lesion.sum()


def _largest(case: Case) -> np.ndarray:
    return case.largest * case.slope


def _input_x_gradient(case: Case) -> np.ndarray:
    return case.image * _gradient(case)


def _integrated(case: Case) -> np.ndarray:
    """The gradient at t x is w + 2 t A x; its mean over t from 0 to 1 is w + A x."""
    x = case.image.astype(float)
    return case.weight * x * (case.w[:, None, None, None] + np.einsum("cd,dijk->cijk", case.a, x))


def _drops(case: Case) -> np.ndarray:
    """Hiding modality c takes w_c x_c + A_cc x_c^2, and what c has in common with the others twice."""
    x, own = case.image.astype(float), np.diag(case.a)[:, None, None, None]
    shared = np.einsum("cd,dijk->cijk", case.a - np.diag(np.diag(case.a)), x)
    each = case.weight * x * (case.w[:, None, None, None] + own * x + 2 * shared)
    return _over_blocks(each, case.effort.side)


def _shapley(case: Case) -> np.ndarray:
    """Players of a game that adds up get what they add; what two have in common is halved: the integral again."""
    return _over_blocks(_integrated(case), case.effort.block)


def _features(case: Case, total: bool) -> tuple[np.ndarray, np.ndarray]:
    """Activations A and gradients g of the layer `relu`, `(4, I, J, K)` each: of the summed score, or of its mean."""
    x, g = case.image.astype(float), _gradient(case) * (case.lesion.sum() if total else 1)
    return np.stack([np.maximum(s * c, 0) for c in x for s in (1, -1)]), np.stack([s * c for c in g for s in (1, -1)])


def _cam(total: bool) -> Truth:
    """Selvaraju et al.: weights are means of the gradient over space."""

    def truth(case: Case) -> np.ndarray:
        a, g = _features(case, total)
        return np.maximum((g.mean(axis=(1, 2, 3), keepdims=True) * a).sum(axis=0, keepdims=True), 0)

    return truth


def _cam_pp(total: bool, *, product: bool, voxel: bool = False, exponential: bool = False) -> Truth:
    """Chattopadhay et al.: alpha = g^2 / (2 g^2 + s), s = g^3 sum A as printed, or sum (A g^3) as often coded.

    Weights are sums of alpha relu(g) over space, times exp(score) where a library counts Y = exp(score); `voxel` takes
    no sum, as in the equations that this project follows.
    """

    def truth(case: Case) -> np.ndarray:
        a, g = _features(case, total)
        space = (1, 2, 3)
        s = (a * g**3).sum(axis=space, keepdims=True) if product else g**3 * a.sum(axis=space, keepdims=True)
        below = 2 * g**2 + s
        weights = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0) * np.maximum(g, 0)
        weights = weights if voxel else weights.sum(axis=space, keepdims=True)
        if exponential:
            weights = weights * np.exp(case.score() * (case.lesion.sum() if total else 1))
        return np.maximum((weights * a).sum(axis=0, keepdims=True), 0)

    return truth


def _elementwise(how: str) -> Truth:
    def truth(case: Case) -> np.ndarray:
        a, g = _features(case, total=True)
        values = {"hires": g * a, "layer": np.maximum(g, 0) * a, "elementwise": np.maximum(g * a, 0)}[how]
        return np.maximum(values.sum(axis=0, keepdims=True), 0)

    return truth


def _per_lesion(truth: Truth) -> Truth:
    """Of the mean score in place of the summed one."""
    return lambda case: truth(case) / case.lesion.sum()


def _kind(formula: str, *truths: Truth) -> Quantity:
    return Quantity(formula, truths, signed=False, modalities=False)


QUANTITIES: dict[str, Quantity] = {
    "gradient": Quantity(
        "dF/dx, the same as its mean over noise in these networks",
        (_gradient, _summed),
    ),
    "largest gradient": Quantity(
        "df(v)/dx of the lesion voxel v for which it is largest in absolute value", (_largest,)
    ),
    "input x gradient": Quantity("x dF/dx", (_input_x_gradient,)),
    "integrated gradients": Quantity("x times the mean of dF/dx on the way from 0 to x", (_integrated,)),
    "occlusion": Quantity("F(x) - F(x with a block of one modality at 0)", (_drops,), side=lambda e: e.side),
    "Shapley value": Quantity(
        "of a block of one modality, in the game whose worth is F, absent blocks at 0",
        (_shapley,),
        side=lambda e: e.block,
    ),
    "Grad-CAM": _kind("relu(sum_k mean(g_k) A_k)", _cam(total=True), _cam(total=False)),
    "Grad-CAM++": _kind(
        "relu(sum_k w_k A_k), w_k = sum(alpha relu(g_k)), alpha = g^2 / (2 g^2 + s)",
        *(
            _cam_pp(total, product=product, exponential=exponential)
            for product in (False, True)
            for total, exponential in ((True, False), (False, False), (False, True))
        ),
    ),
    "Grad-CAM++, by voxel": _kind("relu(sum_k alpha relu(g_k) A_k)", _cam_pp(True, product=True, voxel=True)),
    "HiResCAM": _kind("relu(sum_k g_k A_k)", _elementwise("hires"), _per_lesion(_elementwise("hires"))),
    "LayerCAM": _kind("relu(sum_k relu(g_k) A_k)", _elementwise("layer"), _per_lesion(_elementwise("layer"))),
    "element-wise Grad-CAM": _kind("sum_k relu(g_k A_k)", _elementwise("elementwise")),
}


# The cases.


def _noise(seed: int) -> np.ndarray:
    return 0.05 * np.random.default_rng(seed).standard_normal((2, *SHAPE))


def _ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    away = np.indices(SHAPE) - np.array(centre)[:, None, None, None]
    return (away**2).sum(axis=0) <= radius**2


def _case(name: str, asks: str, image: np.ndarray, at: tuple[int, int, int], **rest: object) -> Case:
    """Its lesion is the component of the network's own answer that holds the voxel `at`."""
    image = image.astype(np.float32)
    empty = np.zeros(SHAPE, dtype=bool)
    draft = Case(name, asks, image, empty, empty, **rest)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        found = draft.network(torch.from_numpy(image)[None])[0].argmax(dim=0).numpy()
    labels, _ = ndimage.label(found, NEIGHBOURS)
    lesion = labels == labels[at]
    return Case(name, asks, image, lesion, (labels > 0) & ~lesion, **rest)  # pyright: ignore[reportArgumentType]


def linear() -> Case:
    """Evidence for in FLAIR, against in T1, at the voxel itself."""
    image, at = _noise(1), (20, 16, 12)
    image += np.array([2.0, -1.0])[:, None, None, None] * _ball(at, 2)
    asks = "the logit of a voxel is 2 FLAIR - T1 there"
    return _case("linear", asks, image, at, w=np.array([2.0, -1.0]), bias=2.0)


def quadratic() -> Case:
    """Evidence that bends, with a product of both modalities."""
    image, at = _noise(2), (18, 15, 13)
    image += np.array([2.0, 1.0])[:, None, None, None] * _ball(at, 2)
    a = np.array([[0.6, 0.4], [0.4, -0.9]])
    return _case("quadratic", "the logit is 0.6 FLAIR^2 + 0.8 FLAIR T1 - 0.9 T1^2", image, at, a=a, bias=0.8)


def one_modality() -> Case:
    """The lesion is bright in FLAIR, which the network does not look at."""
    image, at = _noise(3), (20, 16, 12)
    image += np.array([3.0, -2.0])[:, None, None, None] * _ball(at, 2)
    asks = "the network looks at T1 alone, though the lesion is brighter in FLAIR"
    return _case("T1 alone", asks, image, at, w=np.array([0.0, -2.0]), bias=2.0)


def away() -> Case:
    """The network looks at a cue 12 mm from the lesion, and not at the lesion."""
    image, at = _noise(4), (8, 16, 12)
    image += np.array([1.0, -1.0])[:, None, None, None] * _ball(at, 2)
    image[0] += 1.5 * _ball((at[0] + 12, at[1], at[2]), 2)
    kernel = np.zeros((25, 1, 1))
    kernel[-1] = 1
    asks = "the network looks 12 mm away, at a cue, and not at the lesion, though it is bright"
    return _case("12 mm away", asks, image, at, w=np.array([3.0, 0.0]), kernel=kernel, bias=2.0)


def planted_cue() -> Case:
    """The network looks at the lesion, and a little at a cue beside it."""
    image, at = _noise(5), (12, 16, 12)
    for centre in (at, (at[0] + 8, at[1], at[2])):
        image[0] += 1.5 * _ball(centre, 2)
    kernel = np.zeros((17, 1, 1))
    kernel[8], kernel[-1] = 1.0, 0.6
    asks = "the network looks at the lesion, and with 0.6 of the weight at a cue 8 mm away"
    return _case("planted cue", asks, image, at, w=np.array([2.0, 0.0]), kernel=kernel, bias=3.8)


def painted() -> Case:
    """A brain with four painted lesions; the network compares a voxel's surroundings with what lies further out."""
    rng, centre = np.random.default_rng(6), np.array([20, 16, 12])[:, None, None, None]
    brain = (((np.indices(SHAPE) - centre) / np.array([19, 15, 11])[:, None, None, None]) ** 2).sum(axis=0) <= 1
    tissue = ndimage.gaussian_filter(rng.standard_normal((2, *SHAPE)), (0, 4, 4, 4))
    image = np.where(brain, tissue / tissue.std() * 0.2, -0.5) + _noise(6)
    at = (14, 16, 12)
    for place, radius in ((at, 2.3), ((26, 11, 13), 3.2), ((26, 22, 11), 2.6), ((20, 16, 17), 2.0)):
        image += np.array([2.0, -1.0])[:, None, None, None] * _ball(place, radius)
    kernel = np.full((7, 7, 7), -0.6 / (343 - 27))
    kernel[2:5, 2:5, 2:5] = 1.0 / 27
    asks = (
        "a brain with four painted lesions; 2 FLAIR - T1 in the 3^3 voxels around, "
        "less 0.6 of that in the 7^3 around those"
    )
    return _case("painted lesions", asks, image, at, w=np.array([2.0, -1.0]), kernel=kernel, bias=2.2)


def two_lesions() -> Case:
    """A faint lesion, explained, 11 mm from a large bright one."""
    image, at = _noise(7), (14, 16, 12)
    image += np.array([1.5, -0.7])[:, None, None, None] * _ball(at, 2)
    image += np.array([3.0, -1.5])[:, None, None, None] * _ball((25, 16, 12), 3.5)
    asks = "2 FLAIR - T1 in the 3^3 voxels around; is the map of a faint lesion silent about a bright one?"
    return _case("two lesions", asks, image, at, w=np.array([2.0, -1.0]), kernel=np.ones((3, 3, 3)) / 27, bias=1.2)


ALL: tuple[Callable[[], Case], ...] = (linear, quadratic, one_modality, away, planted_cue, painted, two_lesions)


# As files, for methods that run elsewhere.


def write(folder: Path) -> list[Path]:
    """One `.npz` a case: image, lesion, other, looks, the network's numbers, and `truth: NAME` for each quantity."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for make in ALL:
        case = make()
        numbers = {name: getattr(case, name) for name in ("image", "lesion", "other", "w", "a", "kernel", "bias")}
        truths = {f"truth: {name}": case.truth(name).astype(np.float32) for name in QUANTITIES}
        said = {"name": case.name, "asks": case.asks, "layer": case.layer}
        paths.append(folder / f"{case.name.replace(' ', '_')}.npz")
        np.savez_compressed(paths[-1], looks=case.looks, **numbers, **truths, **said)  # pyright: ignore
    return paths


def read(path: Path) -> Case:
    """A case that `write` wrote."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in ("image", "lesion", "other", "w", "a", "kernel")}
        said = {name: str(saved[name]) for name in ("name", "asks", "layer")}
        return Case(**said, **arrays, bias=float(saved["bias"]))
