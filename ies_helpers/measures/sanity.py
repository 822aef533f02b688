"""Does a map depend on what it claims to explain? Randomised layers, and a cue planted where nobody would look.

Source of the first: Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018, arXiv 1810.03292). A map that
stays the same when the network's weights are replaced by random ones shows the image, not the network.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn

from ies_helpers.measures.similarity import shuffled, similarity
from ies_helpers.segmentation.networks import Network, as_network
from ies_helpers.segmentation.toys import Shifted
from ies_helpers.types import LabelMap, Saliency, Volume, Voxels

How = Literal["cascading", "independent"]
"""`cascading` keeps every layer from the output down to this one random; `independent` this one alone."""

AS_TRAINED, SHUFFLED = "as trained", "shuffled map"


def randomise_layers(
    network: Network | nn.Module,
    explain: Callable[[Network], Saliency],
    *,
    how: How = "cascading",
    layers: Sequence[str] | None = None,
    region: LabelMap | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How alike a map stays while the network's layers are made random, from the output backwards.

    Every parameter of a layer is drawn anew from a normal distribution of its own mean and standard deviation;
    running statistics of batch norms stay. Departure from the source, which initialises as before a training:
    so drawn, activations keep their range, and the maps differ by what was learned alone. All is done on a copy
    of the module: the caller's is never touched.

    Args:
        network: whose layers are randomised.
        explain: network -> map `(C, I, J, K)`, for example `lambda n: gradient(n, image, lesion)`; it must use the
            network it is given.
        how: `cascading` or `independent`.
        layers: names of submodules, each randomised with all below it, in the order to take them; None takes
            every module with a matrix of weights, with the vectors that follow it (norms, slopes), last first in
            the order of definition, which is the order of computation in the three architectures.
        region: `(I, J, K)` bool, where maps are compared; None: where the trained network's map is not zero.
        seed: of the weights; a parameter's are the same in both ways and at every step.

    Returns:
        One row a map, `AS_TRAINED` first, then one a layer, then the `SHUFFLED` original as the random baseline:
        `layer`, `peak` (largest absolute value), and the fields of `Similarity`.
    """
    network = as_network(network)
    if how not in get_args(How):
        raise ValueError(f"how must be cascading or independent, got {how!r}.")
    other = replace(network, module=copy.deepcopy(network.module))
    drawn = [(name, [_Drawn(p, seed, n) for n, p in parameters]) for name, parameters in _layers(other.module, layers)]
    original = explain(network)
    region = (original != 0).any(dim=0) if region is None else torch.as_tensor(region).bool()
    rows = [_row(AS_TRAINED, original, original, region)]
    for name, parameters in drawn:
        for parameter in parameters:
            parameter.randomise()
        rows.append(_row(name, original, explain(other), region))
        for parameter in parameters if how == "independent" else ():
            parameter.restore()
    rows.append(_row(SHUFFLED, original, shuffled(original, region, seed), region))
    return pd.DataFrame(rows)


class _Drawn:
    """A parameter, and how to make it random and trained again."""

    def __init__(self, parameter: nn.Parameter, seed: int, number: int) -> None:
        self.parameter, self.trained = parameter, parameter.detach().clone()
        self.seed = [seed, number]

    def randomise(self) -> None:
        normal = np.random.default_rng(self.seed).standard_normal(tuple(self.trained.shape))
        sd, mean = self.trained.std(unbiased=False), self.trained.mean()
        self.parameter.data.copy_(torch.from_numpy(np.asarray(normal)).to(self.trained) * sd + mean)

    def restore(self) -> None:
        self.parameter.data.copy_(self.trained)


Layer = tuple[str, list[tuple[int, nn.Parameter]]]
"""Its name, and its parameters with their numbers in the whole module."""


def _layers(module: nn.Module, names: Sequence[str] | None) -> list[Layer]:
    number = {id(p): n for n, p in enumerate(module.parameters())}
    if names is not None:
        known = dict(module.named_modules())
        for name in names:
            if name not in known or not list(known[name].parameters()):
                raise ValueError(f"layers must name submodules with parameters, got {name!r}; see named_modules().")
        return [(name, [(number[id(p)], p) for p in known[name].parameters()]) for name in names]
    layers: list[Layer] = []
    for name, sub in module.named_modules():
        own = [(number[id(p)], p) for p in sub.parameters(recurse=False)]
        if any(p.ndim > 1 for _, p in own) or (own and not layers):
            layers.append((name, own))
        elif own:
            layers[-1][1].extend(own)
    if not layers:
        raise ValueError("A network must have weights to randomise, got none.")
    return layers[::-1]


def _row(layer: str, original: Saliency, saliency: Saliency, region: LabelMap) -> dict[str, Any]:
    return {"layer": layer, "peak": float(saliency.abs().max()), **similarity(original, saliency, region)._asdict()}


@dataclass(frozen=True, eq=False)
class PlantedCue:
    """A network that looks at a cue some voxels beside a lesion, at nothing else, and a scan to try it on.

    Whoever explains it must point at the cue: a map that is bright on the lesion is wrong, however plausible.

    Attributes:
        network: logit of a voxel = 3 times FLAIR `steps` voxels further along the first axis (`toys.Shifted`).
        image: `(2, I, J, K)`, noise of sd 0.1 with a lesion of 1 and a cue of 1 in FLAIR.
        lesion: `(V, 3)`.
        cue: `(V, 3)`, the lesion moved by `steps`.
    """

    network: Network
    image: Volume
    lesion: Voxels
    cue: Voxels

    def shares(self, saliency: Saliency) -> dict[str, float]:
        """Shares of a map's absolute values on the `cue`, on the `lesion` and `elsewhere`; NaN for an empty map."""
        strength = saliency.abs().sum(dim=0, dtype=torch.float64)
        total = float(strength.sum()) or float("nan")
        cue, lesion = (float(strength[tuple(v.T)].sum()) / total for v in (self.cue, self.lesion))
        return {"cue": cue, "lesion": lesion, "elsewhere": 1 - cue - lesion}


def planted_cue(steps: int = 6, seed: int = 0) -> PlantedCue:
    """A lesion of 3^3 voxels in a noisy cube of 32^3, and the cue `steps` voxels (from 4 to 12) away from it."""
    if not 4 <= steps <= 12:
        raise ValueError(f"steps must lie from 4 to 12, so that cue and lesion are apart and inside, got {steps}.")
    image = torch.from_numpy(0.1 * np.random.default_rng(seed).standard_normal((2, 32, 32, 32))).float()
    lesion = np.argwhere(np.ones((3, 3, 3))) + 15
    cue = lesion + np.array([steps, 0, 0])
    for voxels in (lesion, cue):
        image[(0, *voxels.T)] = 1.0
    return PlantedCue(Network(Shifted(steps), name="planted cue", layer="look"), image, lesion, cue)
