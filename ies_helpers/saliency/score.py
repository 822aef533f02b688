"""A lesion's probability on edited copies of one image, exact, from the few voxels that can change it.

Hiding tissue, removing voxels or occluding blocks asks the same network about the same lesion many times. Its
score depends on a box of the image alone: the crop of a bounded receptive field, or the windows that hold a
lesion voxel. Edits are made on that box, and nothing else goes through the network.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ies_helpers.arrays import Box, LesionLike, Volume, Voxels, as_voxels, door
from ies_helpers.saliency.views import BUDGET, Part, View, cut, out_of_memory, shared_parts, union, window_part
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.inference import check_finite, check_image, check_logits
from ies_helpers.segmentation.network import Network, Through, as_network, at_rest
from ies_helpers.segmentation.trust import image_field

AFFORDABLE = 2**23  # voxels of the largest crop: a larger lesion is scored crop by crop


class LesionScore:
    """What a network says of one lesion, ready to be asked on any number of edited images.

    Attributes:
        voxels: `(V, 3)` of the lesion.
        box: where the image can change the score, inside the volume. No voxel beyond it can.
        image: `(C, i, j, k)`, the unedited image on `box`. Edit clones of it.
    """

    def __new__(cls, network: Network | nn.Module, *_: Any, **__: Any) -> "LesionScore":
        """A network that `prepare` placed on a grid of its own is asked through that grid."""
        placed = isinstance(network, Network) and network.grid is not None
        return object.__new__(PlacedScore if placed and cls is LesionScore else cls)

    @door
    def __init__(
        self, network: Network | nn.Module, image: Volume, lesion: LesionLike, *, through: Through | None = None
    ) -> None:
        """Find the box; `through` None takes `network.through`, but the published U-Net finds lesions by `windows`."""
        check_image(image)
        network = as_network(network)
        self.network = network if through is None else network.explained_through(through)
        shape = tuple(image.shape[1:])
        self.voxels = as_voxels(lesion, shape)
        check_logits(self.network, image)
        if self.network.through == "windows":
            parts = [window_part(self.network, shape, self.voxels)]
        else:
            parts = shared_parts(image_field(self.network, image, self.voxels), shape, self.voxels, AFFORDABLE)
        self.box: Box = union(part.box for part in parts)
        self.image = self.crop(image)
        self._passes = [one for part in parts for one in _passes(part, self.voxels)]

    @property
    def looked_at(self) -> int:
        """Voxels that go through the network for one edited image, at most."""
        return sum(one.view.box.size for one in self._passes)

    def crop(self, volume: torch.Tensor) -> torch.Tensor:
        """`(..., I, J, K)` on the box."""
        return volume[(..., *self.box)]

    @door
    def __call__(self, edited: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and largest probability over the lesion's voxels, each `(B,)` float64; see `logits`."""
        probabilities = self.probabilities(edited)
        return probabilities.mean(dim=1), probabilities.amax(dim=1)

    @door
    def probabilities(self, edited: Iterable[torch.Tensor]) -> torch.Tensor:
        """Probabilities of the lesion class at the lesion's voxels, `(B, V)` float64; see `logits`."""
        return self.network.probability(self.logits(edited), dim=1)

    @door
    def logits(self, edited: Iterable[torch.Tensor]) -> torch.Tensor:
        """Logits at the lesion's voxels, windows blended before any softmax.

        Args:
            edited: B images `(C, i, j, k)` on `box`: a `(B, C, i, j, k)` tensor, a list, or a generator that makes
                each when it is asked for. A GPU takes as many at once as its share of memory holds.

        Returns:
            `(B, K, V)` float64 of all K classes, on the CPU.
        """
        unedited: dict[View, torch.Tensor] = {}
        images, batch, scored = self._checked(edited), self._at_once(), []
        with torch.no_grad(), at_rest(self.network):
            while some := list(itertools.islice(images, batch)):
                scored.append(self._halving(some, unedited))
        if not scored:
            raise ValueError("There must be an edited image to score, got none.")
        return torch.cat(scored)

    def _at_once(self) -> int:
        """Edited images to take as one batch: what memory holds on a GPU. A CPU is busy with one."""
        if self.network.device.type == "cpu":
            return 1
        kept = receptive_field(self.network, len(self.image)).activations * self.network.dtype.itemsize
        largest = max(one.view.box.size for one in self._passes)
        return max(1, int(BUDGET / kept / largest)) if kept else 1

    def _checked(self, edited: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for image in edited:
            if image.shape != self.image.shape:
                raise ValueError(
                    f"Edited images must have the shape of the box, {tuple(self.image.shape)}, got "
                    f"{tuple(image.shape)}; edit clones of score.image, or take score.crop(image)."
                )
            yield image

    def _halving(self, images: list[torch.Tensor], unedited: dict[View, torch.Tensor]) -> torch.Tensor:
        try:
            return self._score(images, unedited)
        except RuntimeError as error:
            if not out_of_memory(error) or len(images) == 1:
                raise
        half = len(images) // 2
        return torch.cat([self._halving(some, unedited) for some in (images[:half], images[half:])])

    def _score(self, images: list[torch.Tensor], unedited: dict[View, torch.Tensor]) -> torch.Tensor:
        """`(B, K, V)` logits; a view that an edit does not touch is run once a call, and kept in `unedited`."""
        logits = torch.empty(0)
        for one in self._passes:
            # Inputs (1, C, i, j, k) of this view, and which of them an edit touches.
            clean = self._cut(self.image, one.view)
            cuts = [self._cut(image, one.view) for image in images]
            touched = [not torch.equal(x, clean) for x in cuts]
            if not all(touched) and one.view not in unedited:
                (unedited[one.view],) = one.shares(self.network, clean)
            # Their shares (K, v), the touched as one batch, the others as they were, added at the voxels they hold.
            inputs = [x for x, changed in zip(cuts, touched, strict=True) if changed]
            shares = iter(one.shares(self.network, torch.cat(inputs)) if inputs else ())
            added = torch.stack([next(shares) if changed else unedited[one.view] for changed in touched])
            logits = logits if len(logits) else added.new_zeros(*added.shape[:2], len(self.voxels))
            logits[..., one.which] += added
        check_finite(logits, self.network)
        return logits

    def _cut(self, image: torch.Tensor, view: View) -> torch.Tensor:
        """The network's input for a view, from an image on `box`."""
        return cut(image, view.box.local(self.box), self.network)


class _Pass(NamedTuple):
    """One forward pass, the positions `(v,)` of the voxels that it holds in the lesion's list, and in its box."""

    view: View
    which: torch.Tensor
    local: tuple[torch.Tensor, ...]

    def shares(self, network: Network, x: torch.Tensor) -> torch.Tensor:
        """`(B, K, v)` float64: what this view adds to the blended logits of each input `(B, C, i, j, k)`."""
        y = network.logits(x, self.view.number)[(..., *self.local)]
        return y.double().cpu() * self.view.weights_at(self.local)


def _passes(part: Part, voxels: Voxels) -> Iterator[_Pass]:
    position = {tuple(v): n for n, v in enumerate(voxels.tolist())}
    for view in part.views:
        held = part.voxels[view.holds(part.voxels)]
        yield _Pass(view, torch.tensor([position[tuple(v)] for v in held.tolist()]), view.local(held))


class PlacedScore(LesionScore):
    """The same through a network's own grid: images on the scan's grid, forward passes on the network's."""

    @door
    def __init__(self, network: Network, image: Volume, lesion: LesionLike, *, through: Through | None = None) -> None:
        """As `LesionScore`."""
        check_image(image)
        self.network, self.grid, self._whole = network, network.grid, image
        self.voxels = as_voxels(lesion, tuple(image.shape[1:]))
        self.box = self.grid.box
        self.image = self.crop(image)
        rows, places, self._weights = self.grid.spread(self.voxels)
        # Scan voxel n is the weighted sum over the support's columns that `_columns` names, where `_rows` is n.
        support, which = np.unique(places, axis=0, return_inverse=True)
        self._rows, self._columns = torch.as_tensor(rows), torch.as_tensor(which.ravel())
        inner = network.on_its_grid()
        self.inner = LesionScore(inner, self.grid.push(image)[0], support, through=through)

    @property
    def looked_at(self) -> int:
        """As `LesionScore.looked_at`."""
        return self.inner.looked_at

    @door
    def logits(self, edited: Iterable[torch.Tensor]) -> torch.Tensor:
        """As `LesionScore.logits`."""
        found = self.inner.logits(self.inner.crop(self._place(image)) for image in self._checked(edited))
        weighted = found[..., self._columns] * torch.as_tensor(self._weights)
        return found.new_zeros(*found.shape[:2], len(self.voxels)).index_add_(2, self._rows, weighted)

    def _place(self, image: torch.Tensor) -> torch.Tensor:
        """An edited image on the scan's box -> what the network gets."""
        whole = self._whole.clone()
        whole[:, *self.box] = image
        return self.grid.push(whole)[0]
