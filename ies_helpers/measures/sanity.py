"""Does a map depend on the network that it claims to explain? How alike two maps are, and randomised layers.

Source: Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018, arXiv 1810.03292). A map that stays the same
when the network's weights are replaced by random ones shows the image, not the network. `teaching.planted_cue` is the
opposite check: a network that looks where nobody would.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import nn

from ies_helpers.arrays import Box, LabelMap, Saliency, check_choice, door
from ies_helpers.segmentation.network import Network, as_network, copy_of


class Similarity(NamedTuple):
    """How alike two maps are: 1 if the same, about 0 with nothing in common (but see `ssim`), less if opposite."""

    spearman: float = np.nan  # rank correlation of the signed values in the region, all channels together
    spearman_abs: float = np.nan  # of the absolute values
    ssim: float = np.nan
    reason: str = ""  # why they are NaN


@door
def similarity(one: Saliency, other: Saliency, region: LabelMap) -> Similarity:
    """Compare two maps `(C, I, J, K)` on a region `(I, J, K)`, bool or 0 and 1."""
    region = torch.as_tensor(region).bool()
    if one.shape != other.shape or tuple(region.shape) != tuple(one.shape[1:]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (one, other, region))
        raise ValueError(f"Maps and region must share their grid, got {shapes}.")
    if not bool(region.any()):
        return Similarity(reason="the region is empty")
    if not (one.isfinite().all() and other.isfinite().all()):
        return Similarity(reason="a map has NaN or infinite values")
    a, b = (np.asarray(m[:, region], dtype=np.float64).ravel() for m in (one, other))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Similarity(reason="a map is constant in the region")
    signed, absolute = (pearson(rankdata(f(a)), rankdata(f(b))) for f in (np.positive, np.abs))
    flat = "the absolute values of a map are constant in the region" if np.isnan(absolute) else ""
    return Similarity(signed, absolute, ssim(one, other, region), flat)


@door
def ssim(one: Saliency, other: Saliency, region: LabelMap) -> float:
    """Mean structural similarity on the region, each map a divided by its largest absolute value first, as 1 + a.

    Source: Wang et al. (IEEE TIP 2004): a gaussian window of sigma 1.5 (11^3 voxels), K1 = 0.01, K2 = 0.03, range 2.
    It is made for images, which are never negative: of a map and its negative both the luminances and the structures
    are opposite, and their product would call the two alike. Hence 1 + a, from 0 to 2. Where both maps are nearly zero
    it is nearly 1, so for sparse maps it is high whatever they show: read it beside the random baseline only.
    """
    weights = np.asarray(region, dtype=bool)
    box = Box.around(weights)
    scaled = [values / np.abs(values).max() for values in (np.asarray(m[:, *box], dtype=float) for m in (one, other))]
    return sum(float(_ssim_map(1 + a, 1 + b)[weights[box]].mean()) for a, b in zip(*scaled, strict=True)) / len(one)


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def local(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, sigma=1.5, radius=5)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b, cov = local(a * a) - mean_a**2, local(b * b) - mean_b**2, local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


@door
def shuffled(saliency: Saliency, region: LabelMap, seed: int = 0) -> Saliency:
    """The map with its voxels in the region in random order, channels kept together, zero elsewhere."""
    values, other = saliency[:, region], torch.zeros_like(saliency)
    order = np.random.default_rng([seed, 3]).permutation(values.shape[1])
    other[:, region] = values[:, torch.from_numpy(order)]
    return other


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; NaN where either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


# Layers made random.

How = Literal["cascading", "independent"]  # each layer random with all from the output down to it, or alone
AS_TRAINED, SHUFFLED = "as trained", "shuffled map"


@door
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
    of the module.

    Args:
        network: whose layers are randomised.
        explain: network -> map, for example `lambda n: gradient(n, image, lesion)`; it must use the network given.
        how: `cascading` keeps every layer from the output down to this one random, `independent` this one alone.
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
    check_choice("how", how, get_args(How))
    other = replace(network, module=copy_of(network.module))
    chosen = _layers(other.module, layers)
    trained = [p.detach().clone() for p in other.module.parameters()]
    original = explain(network)
    region = (original != 0).any(dim=0) if region is None else torch.as_tensor(region).bool()
    rows = [_row(AS_TRAINED, original, original, region)]
    for name, parameters in chosen:
        for n, parameter in parameters:
            normal = np.asarray(np.random.default_rng([seed, n]).standard_normal(tuple(parameter.shape)))
            was = trained[n]
            parameter.data.copy_(torch.from_numpy(normal).to(was) * was.std(unbiased=False) + was.mean())
        rows.append(_row(name, original, explain(other), region))
        for n, parameter in parameters if how == "independent" else ():
            parameter.data.copy_(trained[n])
    rows.append(_row(SHUFFLED, original, shuffled(original, region, seed), region))
    return pd.DataFrame(rows)


Layer = tuple[str, list[tuple[int, nn.Parameter]]]  # its name, and its parameters with their numbers in the module


def _layers(module: nn.Module, names: Sequence[str] | None) -> list[Layer]:
    number = {id(p): n for n, p in enumerate(module.parameters())}
    if names is not None:
        known = dict(module.named_modules())
        for name in (name for name in names if name not in known or not list(known[name].parameters())):
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
