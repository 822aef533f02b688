"""A network and how it looks at an image: what an explanation must know of any of them."""

import copy
import functools
import hashlib
import re
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import nn

from ies_helpers.arrays import Box, check_choice, door
from ies_helpers.segmentation.grid import Grid
from ies_helpers.subjects.files import one_line
from ies_helpers.subjects.subject import Subject

Through = Literal["whole", "windows"]
Weighting = Literal["gaussian", "constant"]
Placing = Literal["monai", "nnunet"]
Head = Literal["softmax", "sigmoid", "probability"]
"""How logits become probabilities: one class a voxel, one question a channel (regions), or not at all: the module ends
in a softmax, or in a sigmoid of one channel, and is explained by the logarithm of the odds that it puts out."""


class Copies(nn.Module):
    """Several networks, and mirrored copies of them, whose logits are averaged: an nnU-Net's folds and mirrors.

    Attributes:
        members: modules as `Network.module`.
        passes: for each pass the number of its member, and the axes of `(B, C, I, J, K)` along which it sees the image
            mirrored, and its logits are turned back.
    """

    def __init__(self, members: Sequence[nn.Module], flips: Sequence[tuple[int, ...]] = ((),)) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.passes = [(n, tuple(flip)) for n in range(len(members)) for flip in flips]
        self.order = self.passes  # part of the digest: with other mirrors it is another function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of all passes; a gradient through it keeps every graph, so maps are taken pass by pass."""
        return sum(self.run(x, n) for n in range(len(self.passes))) / len(self.passes)  # pyright: ignore

    def run(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """One pass, its output turned back."""
        member, flip = self.passes[number]
        y = self.members[member](x.flip(flip) if flip else x)
        return y.flip(flip) if flip else y


class Averaged(nn.Module):
    """Several networks whose probabilities are averaged, and not their logits: the logit of what such an ensemble says.

    With p_m the probabilities of member m, of a softmax or of one sigmoid channel, the output is the logarithm of their
    sum (one channel: of the odds of their mean), so that its softmax (sigmoid) is the mean of p_m. All members' graphs
    are in memory at once. Seen through windows, probabilities are averaged window by window.

    Attributes:
        members: modules as `Network.module`, of one tensor.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, I, J, K)` -> `(B, K, I, J, K)`."""
        logits = torch.stack([member(x) for member in self.members])
        if logits.shape[2] > 1:
            return logits.log_softmax(dim=2).logsumexp(dim=0)
        sigmoid = nn.functional.logsigmoid
        return sigmoid(logits).logsumexp(dim=0) - sigmoid(-logits).logsumexp(dim=0)


@dataclass(frozen=True, eq=False)
class Network:
    """A module, and how it looks at an image.

    The published U-Net predicts through sliding windows and is explained on the whole volume: two
    different functions. `window` says how it predicts, `through` which of the two a saliency map
    differentiates, and `explained_through` gives the same network with the other one.

    Attributes:
        module: `(B, C, I, J, K)` -> `(B, K, I, J, K)` logits of K classes or regions; one channel is taken for the
            lesion under a sigmoid and becomes the two classes (0, z); of a list or dictionary (deep supervision) the
            one entry at full resolution, of `(B, n, K, I, J, K)` the first.
        name: what files and tables call it.
        window: side of the sliding window in voxels, or a tuple of its three; None predicts on the whole volume.
        through: `whole` or `windows`, what a saliency map is a gradient of.
        overlap: share of the window's side that neighbouring windows share, from 0 to below 1.
        weighting: `gaussian` or `constant`, how windows are blended.
        placing: where windows stop and how the gaussian ends: as in MONAI's inferer, or as in nnU-Net v2 (whose
            mirrored copies are not made).
        threshold: probability above which a voxel is called lesion.
        layer: name of the submodule that Grad-CAM++ reads.
        stride: total stride along each axis; sides must be a multiple of it. None: found by a probe.
        channels: the names of the channels it takes, in its order; None takes an image as it comes.
        lesion_class: the channel of its output that means lesion, by number or by its name in `classes`.
        classes: names of the channels of its output, where they are known.
        plans: how an nnU-Net sees a scan on a grid of its own; `prepare` then brings the scan there.
        grid: where `prepare` placed one scan; images are then normalised as `plans` says.
        head: `softmax` over all classes, or `sigmoid` of each channel by itself.
        output: number or key of the entry to explain, where the module puts out several at full resolution.
        notes: what was decided when it was loaded, for the screen and the sidecar.
        origin: what is known of its weights and what cannot be, for the sidecar.
    """

    module: nn.Module
    name: str = "network"
    window: int | tuple[int, int, int] | None = None
    through: Through = "whole"
    overlap: float = 0.25
    weighting: Weighting = "gaussian"
    placing: Placing = "monai"
    threshold: float = 0.5
    layer: str | None = None
    stride: tuple[int, ...] | None = None
    channels: tuple[str, ...] | None = None
    lesion_class: int = 1
    classes: tuple[str, ...] = ()
    head: Head = "softmax"
    plans: Any = None
    grid: Any = None
    output: int | str | None = None
    notes: tuple[str, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        for name, values in {"through": Through, "weighting": Weighting, "placing": Placing, "head": Head}.items():
            check_choice(name, getattr(self, name), get_args(values))
        sides = (1, 1, 1) if self.sides is None else self.sides
        if len(sides) != 3 or not all(isinstance(n, Integral) and n > 0 for n in sides):
            raise ValueError(
                f"window must be a side of 1 voxel or more, three as (96, 96, 64), or None; got {self.window!r}."
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be a share of the window's side, from 0 to below 1, got {self.overlap}.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"A threshold must lie between 0 and 1, got {self.threshold}.")
        if isinstance(self.lesion_class, str) and self.lesion_class in self.classes:
            object.__setattr__(self, "lesion_class", self.classes.index(self.lesion_class))
        if not isinstance(self.lesion_class, Integral) or self.lesion_class < 0:
            names = f", or one of its names ({', '.join(self.classes)})" if self.classes else ""
            raise ValueError(
                f"lesion_class must be the number of a class, 0 or more{names}, got {self.lesion_class!r}."
            )
        if self.channels is not None and len(set(self.channels)) != len(self.channels):
            raise ValueError(f"A network takes each channel once, got {', '.join(self.channels)}; leave one out.")
        if self.through == "windows" and self.window is None:
            raise ValueError("A network explained through windows needs one; give window=96, or through='whole'.")

    @property
    def sides(self) -> tuple[int, int, int] | None:
        """The window's three sides in voxels; None without a window."""
        side = self.window
        return side if side is None or isinstance(side, tuple) else (side, side, side)

    @property
    def passes(self) -> int:
        """How many forward passes are averaged: one, or those of `Copies`."""
        return len(self.module.passes) if isinstance(self.module, Copies) else 1

    def logits(self, x: torch.Tensor, number: int | None = None) -> torch.Tensor:
        """`(B, C, I, J, K)` -> logits of all classes `(B, K, I, J, K)`, K at least 2, whatever the module puts out.

        With a `number`, those of one of the averaged `passes` alone.
        """
        if self.plans is not None or self.grid is not None:
            raise ValueError(
                f"{self.name} sees scans on a grid of its own: bring both together by network, subject = "
                "prepare(network, subject), and take the subject's image then."
            )
        module = self.module
        if number is not None and isinstance(module, Copies):
            module = functools.partial(module.run, number=number)
        y = logits_of(module, x, self)
        if self.lesion_class >= y.shape[1]:
            raise ValueError(
                f"lesion_class must be below the {y.shape[1]} classes that {self.name} puts out, got "
                f"{self.lesion_class}; classes count from 0."
            )
        return y

    def lesion_logit(self, x: torch.Tensor, number: int | None = None) -> torch.Tensor:
        """`(B, C, I, J, K)` -> the logit of the lesion class, `(B, I, J, K)`: what every map explains; see `logits`."""
        return self.logits(x, number)[:, self.lesion_class]

    def probability(self, logits: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """Blended logits with all classes along `dim` -> the probability of the lesion class, without that axis."""
        if self.head == "sigmoid":
            return logits.select(dim, self.lesion_class).sigmoid()
        return logits.softmax(dim=dim).select(dim, self.lesion_class)

    def on_its_grid(self) -> "Network":
        """A network that `prepare` placed, for images that lie on its own grid already."""
        return replace(self, plans=None, grid=None)

    def explained_through(self, through: Through) -> "Network":
        """The same network, explained `through` the whole volume or its windows."""
        return replace(self, through=through)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU if it has none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are; float32 if it has none."""
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    @property
    def function(self) -> tuple[Any, ...]:
        """What beside the module decides which function of an image is explained: for keys of `Memory`."""
        stride = self.stride and tuple(self.stride)
        return self.sides, stride, self.dtype, self.device, self.lesion_class, self.head, self.output

    def digest(self) -> str:
        """`hash_of` the module, and of class, head and output where they are not the usual ones."""
        usual = (self.lesion_class, self.head) == (1, "softmax")
        other = "" if usual else f"{self.lesion_class} {self.head}"
        return hash_of(self.module, other if self.output is None else f"{other} {self.output}")


def as_network(network: Network | nn.Module) -> Network:
    """A `Network` as it is; a bare module wrapped, seen on the whole volume."""
    if isinstance(network, Network):
        return network
    if isinstance(network, nn.Module):
        return Network(network, name=type(network).__name__.lower())
    raise TypeError(f"A network must be a Network or a torch.nn.Module, got {type(network).__name__}.")


@door
def prepare(network: Network | nn.Module, subject: Subject) -> tuple[Network, Subject]:
    """A network and a subject that fit each other: what every command does first.

    The subject gets the channels that the network takes, in its order. A network with `plans` brings its own
    normalisation and grid: the subject's image is then the scan so normalised, on the scan's own grid, and the network
    knows where its grid lies. A scan that is smaller than a window gets zeros around it, as in MONAI's inferer.

    Raises:
        ValueError: if a channel lacks, or a network with plans meets an image without its raw values.
    """
    network = as_network(network)
    subject = subject.with_channels(network.channels)
    if network.plans is None:
        return (padded(network, subject.shape) if network.through == "windows" else network), subject
    if subject.raw is None:
        raise ValueError(
            f"{network.name} normalises by itself, from raw values; {subject.name} was made in memory and has none. "
            "Load it from its files."
        )
    grid, image = network.plans.place(subject.raw, subject.affine)
    return replace(network, grid=grid), replace(subject, image=image)


def padded(network: Network, shape: tuple[int, ...]) -> Network:
    """The network on a grid with zeros around a volume `(I, J, K)` that is smaller than its window; else as it is."""
    sides = network.sides
    if network.grid is not None or sides is None or all(n >= w for n, w in zip(shape, sides, strict=True)):
        return network
    size, window = (" x ".join(map(str, n)) for n in (shape, sides))
    warnings.warn(
        f"{network.name} looks through windows of {window} voxels and the image has {size}: zeros are put around it, "
        "as MONAI's inferer does.",
        stacklevel=3,
    )
    return replace(network, grid=Grid(shape, Box.whole(shape), least=sides))


def one_class(network: Network | nn.Module, number: int) -> Network:
    """The same network with class `number` for the lesion, so that every method here explains that class."""
    network = as_network(network)
    return replace(network, lesion_class=number, name=f"{network.name}-class{number}")


def ensemble(networks: Sequence[Network], name: str) -> Network:
    """Several networks of one architecture, such as one recipe's seeds, as one whose logits are averaged (`Copies`).

    Logits, as an nnU-Net's folds have it, and not probabilities (`Averaged`): so a gradient of the ensemble's logit is
    the mean of its members', in the same unit, and it is taken member by member, exactly and in the memory of one. Maps
    of aggregate `mean` and `sum` are therefore the means of the members' maps. (The logarithm of a mean probability
    flattens where it nears 1, and so would its map.) The price: a member far surer than the others outweighs them.

    The modules are shared with the networks given, and all else is the first one's.

    Raises:
        ValueError: for fewer than two, or if one differs from the first in what it takes or puts out, or in its build.
    """
    if len(networks) < 2:
        raise ValueError(f"An ensemble must have two members or more, got {len(networks)}; give more networks.")
    check_alike(networks, "channels", "classes", "lesion_class", "head", "sides", "overlap", "weighting", "plans")
    first, *others = networks
    for other in others:
        apart = _first_difference(first.module, other.module)
        if apart:
            raise ValueError(f"The members of an ensemble must be built alike; {other.name} differs at {apart}.")
    layer = first.layer and f"members.0.{first.layer}"
    return replace(first, module=Copies([each.module for each in networks]), name=name, layer=layer)


def check_alike(networks: Sequence[Network], *attributes: str) -> None:
    """Refuse networks of which one differs from the first in an attribute, so that they answer different questions."""
    first, *others = networks
    for name in attributes:
        wanted = getattr(first, name)
        for other in others:
            if (got := getattr(other, name)) != wanted:
                values = " and ".join(one_line(str(value), 60) for value in (wanted, got))
                who = f"{first.name} and {other.name} have {values}"
                raise ValueError(f"Members must be alike in their {name.replace('_', ' ')}; {who}. Leave one out.")


def _first_difference(one: nn.Module, other: nn.Module) -> str:
    """The first weight that two modules do not both have, of one shape; empty if there is none."""
    shapes = [{name: tuple(t.shape) for name, t in module.state_dict().items()} for module in (one, other)]
    return next((k for k in sorted({*shapes[0], *shapes[1]}) if shapes[0].get(k) != shapes[1].get(k)), "")


# What a module puts out, of whatever kind, as logits `(B, K, I, J, K)` of K classes.


def logits_of(module: Callable[[torch.Tensor], Any], x: torch.Tensor, network: Network) -> torch.Tensor:
    """`(B, C, I, J, K)` -> logits of all classes that the module of a network puts out, at least 2.

    The module gets a copy, so that one which works in place changes neither image nor gradient.
    """
    try:
        y = module(x.clone())
    except (RuntimeError, ValueError, AssertionError) as error:
        if why := _misfit(str(error), x, network):
            raise ValueError(why) from error
        raise
    y = _one_output(y, x, network, network.output).as_subclass(torch.Tensor)
    if network.head == "probability":
        y = _log_odds(y)
    return torch.cat([torch.zeros_like(y), y], dim=1) if y.shape[1] == 1 else y


def _misfit(said: str, x: torch.Tensor, network: Network) -> str:
    """One sentence for an image that a module does not take, from what it or PyTorch `said`; else nothing."""
    name, sides = network.name, " x ".join(map(str, x.shape[2:]))
    if wanted := re.search(rf"expected input{re.escape(str(list(x.shape)))} to have (\d+) channels", said):
        return (
            f"{name} takes {wanted[1]} modalities, got an image of {len(x[0])}: give all that it was trained with, in "
            "its order. Chapter 12 shows that zeros are no stand-in for a missing one."
        )
    if "same device" in said:
        return (
            f"A network must keep to the device that it is on; {name} holds values of another one ({one_line(said)}). "
            "Trace or save it again on the CPU, or take the device it was traced on."
        )
    if not re.search(r"(?i)sizes? of tensors|must match|divisible|multiple of|spatial size|size mismatch", said):
        return ""
    stride = f"it was given the stride {network.stride}, which may be wrong" if network.stride else "give its stride"
    return (
        f"An image must have sides that a network takes; {name} does not take {sides} voxels "
        f"({one_line(said, 100)}): {stride}, as Network(..., stride=(16, 16, 16)), or a window."
    )


def _one_output(y: Any, x: torch.Tensor, network: Network, wanted: int | str | None) -> torch.Tensor:
    """The `(B, K, I, J, K)` that is explained, of all that a module put out for `x`."""
    if isinstance(y, torch.Tensor) and y.ndim == 6:
        y = y[:, 0]  # MONAI stacks its heads, the final one first
    if isinstance(y, torch.Tensor) and y.ndim == 5 and y.shape[2:] == x.shape[2:]:
        return y
    there: dict[Any, Any] = {}
    if isinstance(y, Mapping | list | tuple):
        there = dict(y) if isinstance(y, Mapping) else dict(enumerate(y))
    if wanted is not None and there:
        key = wanted + len(there) if isinstance(wanted, int) and wanted < 0 else wanted
        if key not in there:
            raise ValueError(f"output must be one of {', '.join(map(str, there))} of {network.name}, got {wanted!r}.")
        return _one_output(there[key], x, network, None)
    full = [key for key, one in there.items() if _is_full(one, x)]
    if len(full) > 1:
        raise ValueError(
            f"A network must put out one map at full resolution; {network.name} puts out {len(full)}: "
            f"{', '.join(map(str, full))}. Say which it predicts with, Network(..., output={full[0]!r})"
            f"{'; the last is -1.' if isinstance(full[0], int) else '.'}"
        )
    if full:
        return _one_output(there[full[0]], x, network, None)
    got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__} of {len(there)} entries"
    raise ValueError(
        f"A network must map (B, C, I, J, K) to logits of the same I, J, K; {network.name} mapped {tuple(x.shape)} to "
        f"{got}. Wrap it in a module that does."
    )


def _is_full(one: Any, x: torch.Tensor) -> bool:
    """Whether an entry is a map at the resolution of `x`, or holds one."""
    if isinstance(one, torch.Tensor):
        return one.ndim in (5, 6) and one.shape[-3:] == x.shape[2:]
    inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()
    return any(_is_full(each, x) for each in inner)


def _log_odds(p: torch.Tensor) -> torch.Tensor:
    """Probabilities `(B, K, I, J, K)` -> logits with this softmax; of one or two classes one channel, log p / (1 - p).

    A probability that rounds to 0 or 1 has no slope left: there the gradient is 0.
    """
    least = torch.finfo(p.dtype).tiny
    log = p.clamp_min(least).log()
    if p.shape[1] == 1:
        return log - (1 - p).clamp_min(least).log()
    return log[:, 1:] - log[:, :1] if p.shape[1] == 2 else log


# A network at rest: evaluation mode, no gradients of its own, and float32 that is float32.


@contextmanager
def true_float32() -> Iterator[None]:
    """No TF32 inside, which rounds to 10 bits (an error of about 1e-3); the caller's settings afterwards."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), ExitStack() as afterwards:
        try:
            before = torch.get_float32_matmul_precision()
            if before != "highest":
                afterwards.callback(torch.set_float32_matmul_precision, before)
                torch.set_float32_matmul_precision("highest")
        except RuntimeError:  # set by torch's newer names, and then this older one must not be read
            for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):  # pyright: ignore
                afterwards.callback(setattr, products, "fp32_precision", products.fp32_precision)
                products.fp32_precision = "ieee"
        yield


@contextmanager
def at_rest(network: Network) -> Iterator[None]:
    """Evaluation mode, frozen parameters, true float32 inside; everything as it was afterwards."""
    modes = [(m, m.training) for m in network.module.modules()]
    grads = [(p, p.requires_grad) for p in network.module.parameters() if not p.is_inference()]
    try:
        network.module.eval()
        for parameter, _ in grads:  # one by one: TorchScript knows no other way
            parameter.requires_grad_(False)
        with true_float32():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)


# What was found out about a module, for as long as it stays the same.


def hash_of(module: nn.Module, *also: object) -> str:
    """16 hexadecimal digits of a SHA-256 over a module's weights with their names, and what else is given.

    Of the module, too, an `order`: of patch merging, of mirrors, with which the same weights are another function.
    """
    sha = hashlib.sha256()
    for part in (*(getattr(m, "order", "") for m in module.modules()), *also):
        sha.update(str(part).encode())
    for key, value in sorted(module.state_dict().items()):
        sha.update(key.encode())
        sha.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())  # NumPy has no bfloat16
    return sha.hexdigest()[:16]


def structure_of(module: nn.Module) -> tuple[Any, ...]:
    """All but values that makes a module this function of its input: a norm replaced in place is another structure.

    Of each part its name, class and code, attributes (a stride, a slope, a table of settings) and hooks, and of its
    weights shape, precision and device.
    """

    def describe(part: nn.Module) -> tuple[Any, ...]:
        own = {k: _told(v) for k, v in vars(part).items() if k not in _TORCHS_OWN}
        tensors = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        return (
            type(part),
            _code_of(type(part)),
            str(own),
            (*part._forward_hooks, *part._forward_pre_hooks),
            tuple((tuple(t.shape), t.dtype, t.device) for t in tensors),
        )

    return tuple((name, *describe(part)) for name, part in module.named_modules())


_TORCHS_OWN = frozenset(vars(nn.Module()))  # attributes that every module has: the mode, and what is told by itself
_PLAIN = (str, bytes, int, float, complex, type(None), slice, torch.dtype, torch.device)
_FEW = 64  # values up to which a tensor is told by these
_MANY = 1000  # entries from which on a list or table is told by its identity


def _told(value: Any, deep: int = 4) -> Any:
    """An attribute in a way that changes as it does: what holds settings by these, any other object by its identity."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, torch.Tensor):  # a few numbers are settings, many are features that it keeps
        few = value.numel() <= _FEW and value.device.type != "meta"
        return value.dtype, value.ndim, value.tolist() if few else None
    if isinstance(value, Mapping) and deep and len(value) < _MANY:
        return "table", [(str(key), _told(one, deep - 1)) for key, one in value.items()]
    if isinstance(value, list | tuple | set) and deep and len(value) < _MANY:
        tensors = value and all(isinstance(one, torch.Tensor) for one in value)
        return type(value).__name__, None if tensors else [_told(one, deep - 1) for one in value]
    settings = None if callable(value) else getattr(value, "__dict__", None)
    return (id(value), _told(settings, deep - 1)) if settings and deep else id(value)


def _code_of(kind: type) -> tuple[Any, ...]:
    """The code of a class that is not torch's own: a notebook may replace it under a module that is in use."""
    kinds = [one for one in kind.__mro__ if not one.__module__.startswith(("torch.", "builtins"))]
    return tuple(code for one in kinds for f in vars(one).values() if (code := getattr(f, "__code__", None)))


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy, in which what cannot be copied (kept features with their graph, a lock) is the module's own."""
    shared: dict[int, Any] = {}
    for part in module.modules():
        for value in (v for k, v in vars(part).items() if k not in _TORCHS_OWN):
            try:
                copy.deepcopy(value, dict(shared))
            except (RuntimeError, TypeError, AttributeError):
                shared[id(value)] = copy.copy(value) if isinstance(value, list | dict) else value
    return copy.deepcopy(module, shared)


class Memory:
    """Values found out about modules, each forgotten as soon as the module's structure or its weights change."""

    def __init__(self, *, weights: bool = True) -> None:
        """`weights`: whether values depend on them. To hash those of the shipped U-Net takes 0.03 s."""
        self._weights = weights
        self._kept: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, Any]]] = weakref.WeakKeyDictionary()

    def __call__(self, module: nn.Module, *depends: Any, make: Callable[[], Any]) -> Any:
        """The value that `make` gave for this module and these hashable dependencies, or gives now."""
        state = (structure_of(module), hash_of(module) if self._weights else None)
        before, known = self._kept.get(module, (None, {}))
        if before != state:
            known = {}
            self._kept[module] = (state, known)
        if depends not in known:
            known[depends] = make()
        return known[depends]
