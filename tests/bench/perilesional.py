"""The perilesional curve of one lesion against the plain loop, which runs the whole volume at each dilation."""

import torch
from scipy import ndimage

from ies_helpers import Lesion, Network, perilesional_curve
from ies_helpers.arrays import CONNECTIVITY, as_mask
from tests import oracles
from tests.bench.measure import Row, pair

DILATIONS = tuple(range(1, 35))
"""As published."""

MEASURED = (3, 20)
"""Dilations at which the plain loop is run; its time is scaled to all."""


def curve(network: Network, image: torch.Tensor, lesion: Lesion) -> Row:
    """All 34 dilations of one lesion, zero fill, through windows; the scores are compared where both have one."""
    mask, seen = as_mask(lesion, image.shape[1:]), network.explained_through("windows")

    def plain() -> torch.Tensor:
        scores = []
        for n in MEASURED:
            near = torch.from_numpy(ndimage.binary_dilation(mask, CONNECTIVITY, n))
            scores.append(oracles.lesion_probabilities(seen, image * near, lesion.voxels).mean())
        return torch.stack(scores)

    def ours(dilations: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(perilesional_curve(network, image, lesion, distances=dilations)["score"].to_numpy())

    same = pair("", lambda: ours(MEASURED), plain, repeats=1)
    every = pair("", lambda: ours(DILATIONS), lambda: torch.ones(1), repeats=1)
    seconds = same.plain * len(DILATIONS) / len(MEASURED)
    case = f"{network.name}, perilesional, {len(lesion)} voxels, 34 dilations (plain: {len(MEASURED)}, scaled)"
    return Row(case, every.ours, seconds, every.memory, same.plain_memory, same.error, same.share)
