"""The engine's one interface: the voxels of a lesion -> their aggregated gradient, in bounded memory."""

from typing import Literal, get_args

import torch
from torch import nn

from ies_helpers.arrays import LabelMap, Saliency, Volume, Voxels, as_voxels
from ies_helpers.saliency.cone import Cone, cone_of, trusted
from ies_helpers.saliency.frozen import Frozen, frozen
from ies_helpers.saliency.views import (
    BUDGET,
    Boxed,
    Each,
    Largest,
    Part,
    add_up,
    by_autograd,
    cell_parts,
    crop_parts,
    does_not_fit,
    extremes,
    forward,
    out_of_memory,
    shared_parts,
    union,
    window_part,
    window_parts,
)
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.inference import check_finite, check_image
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.network import Network, as_network, at_rest

Aggregate = Literal["mean", "sum", "max"]

Way = Literal["cone", "crop", "windows", "whole"]
"""How a gradient is computed, all exact: see the modules of these names; `whole` is one pass over everything.

Where statistics are frozen, `cone` is that of `frozen_cone`, `crop` is autograd; each is exact for the network so held.
"""

Statistics = Literal["exact", "frozen"]
"""`frozen` holds instance norms still, an approximation: see the module of this name."""

KEPT = 2
"""Values that a backward pass keeps per activation: itself and its gradient."""

LEAST = 2**20
"""Bytes to which running out of memory may halve the budget: less than one voxel's gradient in any real network."""


def gradient(
    network: Network | nn.Module,
    image: Volume,
    lesion: Lesion | LabelMap | Voxels,
    *,
    aggregate: Aggregate = "max",
    way: Way | None = None,
) -> Saliency:
    """Gradient of a lesion's logits with respect to the image, aggregated over its voxels.

    With g_v the gradient of the lesion logit at lesion voxel v: `sum` is sum_v g_v, `mean` is that over the
    number of voxels (equation 2), `max` is at each input voxel the g_v of largest absolute value with its
    sign (equation 3; of two exactly opposite ones the positive).

    Args:
        network: explained on the whole volume or through its windows: `network.through`.
        image: `(C, I, J, K)`, z-scored.
        lesion: a `Lesion`, a boolean mask `(I, J, K)` or integer voxels `(V, 3)`.
        aggregate: `mean`, `sum` or `max`.
        way: how to compute it; None takes the fastest. All are exact.

    Returns:
        `(C, I, J, K)` float32, in logits per unit of z-scored intensity.

    Raises:
        ValueError: for an image, lesion or aggregate that breaks the rules above, or a map that is not finite.
    """
    engine = LesionGradient(network, image, lesion, aggregate, way=way)
    return engine.place(engine(image))


class LesionGradient:
    """The aggregated gradient of one lesion, ready to be taken on any number of images of one shape.

    Attributes:
        box: where the gradient can be non-zero; calls return it there only.
        way: how it is computed: `cone`, `crop`, `windows` or `whole`, all exact.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        image: Volume,
        lesion: Lesion | LabelMap | Voxels,
        aggregate: Aggregate,
        *,
        way: Way | None = None,
        statistics: Statistics = "exact",
        budget: int | None = None,
    ) -> None:
        """Choose the fastest exact way by looking at the network, or take `way` where it applies.

        Args:
            network, image, lesion, aggregate: see `gradient`; any image of this shape can be given later.
            way: how to compute; None takes the fastest.
            statistics: `frozen` holds instance norms still, an approximation (see `frozen`).
            budget: bytes of working memory, beside network and volume; None works in about 1 GiB, or in what
                one forward pass needs if that is more.
        """
        check_image(image)
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate must be one of mean, sum, max, got {aggregate!r}.")
        self.network, self.aggregate, self.budget = as_network(network), aggregate, budget or BUDGET
        if self.network.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Gradients need float32 or float64, {self.network.name} is {self.network.dtype}: near-ties of "
                "opposite sign flip and move the maximum by 12 to 97 % of its largest value (measured). "
                "Call network.module.float()."
            )
        self.shape = tuple(image.shape)
        self.voxels = as_voxels(lesion, self.shape[1:])
        self.cone = None
        self.frozen: Frozen | None = self._frozen(statistics)
        self.way: Way = self._choose(way)
        self.parts = self._split()
        self.box = union(part.box for part in self.parts)
        if budget is not None and budget < self.need:
            raise ValueError(
                f"budget must hold one forward pass and one gradient, {self.need} bytes for {self.network.name} here; "
                f"got {budget}. Give more, or a Network with a smaller window."
            )

    @property
    def need(self) -> int:
        """Bytes without which no gradient can be taken: the largest forward pass, and one voxel's gradient."""
        network = self.frozen.network if self.frozen else self.network
        kept = KEPT * receptive_field(network, self.shape[0]).activations * network.dtype.itemsize
        passes = [max(kept * view.box.size for view in part.views) for part in self.parts]
        return int(max(p + self._gradient_bytes(part) for p, part in zip(passes, self.parts, strict=True)))

    def _gradient_bytes(self, part: Part) -> int:
        return self.shape[0] * part.box.size * self.network.dtype.itemsize

    def _choose(self, wanted: Way | None) -> Way:
        if self.frozen is not None:
            possible: list[Way] = ["cone", "crop"] if self.frozen.cone else ["crop"]
        elif self.network.through == "windows":
            possible = ["windows"]
        elif not receptive_field(self.network, self.shape[0]).bounded:
            possible = ["whole"]
        else:
            self.cone = cone_of(self.network.module, self.network.lesion_class)
            possible = ["cone", "crop"] if self.cone else ["crop"]
        if wanted not in (None, *possible):
            name, seen = self.network.name, self.network.through
            raise ValueError(f"{name} seen {seen} can be explained by {' or '.join(possible)}, got {wanted!r}.")
        return wanted or possible[0]

    def _frozen(self, statistics: str) -> Frozen | None:
        if statistics not in ("exact", "frozen"):
            raise ValueError(f"statistics must be exact or frozen, got {statistics!r}.")
        if statistics == "exact":
            return None
        if self.aggregate != "max":
            raise ValueError(f"statistics='frozen' is for max; {self.aggregate} takes one exact pass, leave it out.")
        return frozen(self.network, self.shape[0])

    def _split(self) -> list[Part]:
        shape = self.shape[1:]
        if self.frozen is not None:
            return self.frozen.parts(self.network, shape, self.voxels)
        if self.way == "windows":
            if self.aggregate == "max":
                return window_parts(self.network, shape, self.voxels)
            return [window_part(self.network, shape, self.voxels)]
        field = receptive_field(self.network, self.shape[0])
        affordable = self.budget / (KEPT * field.activations + self.shape[0]) / self.network.dtype.itemsize
        if self.way == "cone":
            return shared_parts(field, shape, self.voxels, affordable)
        if self.aggregate == "max":
            return cell_parts(field, shape, self.voxels)
        return crop_parts(field, shape, self.voxels, affordable)

    def __call__(self, image: Volume) -> torch.Tensor:
        """The aggregated gradient on `box`: `(C, i, j, k)`, in the network's precision and on its device.

        Raises:
            MemoryError: there is too little for the smallest pieces that it can be taken in.
        """
        with at_rest(self.network), torch.enable_grad():
            while True:
                try:
                    return self._largest(image) if self.aggregate == "max" else self._added(image)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    if not self._halve():
                        what = f"The gradient of {self.network.name} by {self.way} on {self.network.device}"
                        raise does_not_fit(what, "free some, take device='cpu' or a smaller window", error) from error

    def _halve(self) -> bool:
        """Halve the budget, which sizes crops and the cone's batches; False where nothing smaller is left."""
        sized = self.way == "cone" or (self.way == "crop" and self.aggregate != "max")
        if not sized or self.frozen is not None or self.budget <= LEAST:
            return False
        self.budget //= 2
        self.parts = self._split()
        return True

    def place(self, values: torch.Tensor) -> Saliency:
        """`values` on the box -> the whole map `(C, I, J, K)`, float32 on the CPU, zero elsewhere; must be finite."""
        whole = Boxed(values, self.box).full(self.shape[1:])
        check_finite(whole, self.network)
        return whole

    def _each(self, image: Volume) -> Each:
        """Each voxel's gradient through a view of this image."""
        if self.frozen is None:
            return by_autograd(lambda view: forward(self.network, image, view))
        held, recorded = self.frozen, self.frozen.record(image, self.parts)
        if self.way == "cone" and held.trusted(image, self.parts[0], recorded):
            return held.by_cone(image, recorded, self.budget)
        return by_autograd(lambda view: held.forward(image, view, recorded))

    def _added(self, image: Volume) -> torch.Tensor:
        total = Boxed(self._zeros(self.box.shape), self.box)
        for part in self.parts:
            if cone := self._cone(image, part):
                box, g = cone.summed(self.network, image, part)
                total.add(g, box)
            else:
                add_up(total, lambda view: forward(self.network, image, view), part)
        return total.values / len(self.voxels) if self.aggregate == "mean" else total.values

    def _largest(self, image: Volume) -> torch.Tensor:
        each, largest = self._each(image), Largest(self._zeros, self.box)
        for part in self.parts:
            if cone := self._cone(image, part):
                pairs = cone.extremes(self.network, image, part, self.budget)
            else:
                pairs = extremes(each, part, self._zeros, max(1, self.budget // self._gradient_bytes(part)))
            for box, high, low in pairs:
                largest.take(box, high, low)
        return largest.map()

    def _cone(self, image: Volume, part: Part) -> Cone | None:
        """The cone, where it is the way and can be trusted."""
        if self.way != "cone" or self.cone is None or not trusted(self.cone, self.network, image, part):
            return None
        return self.cone

    def _zeros(self, sides: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(self.shape[0], *sides, device=self.network.device, dtype=self.network.dtype)
