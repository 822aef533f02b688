"""Dose and response: how visible a lesion must be before a network sees it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.networks import Network, as_network
from ies_helpers.subjects.subject import Subject
from ies_helpers.subjects.synthetic import lesion_pattern

COLUMNS = [
    *("subject", "network", "i", "j", "k", "size_mm3", "voxels"),
    *("contrast", "score", "highest", "seen", "logit"),
]


def dose_response(
    network: Network | nn.Module, subject: Subject, place: Any, size: float, contrasts: Sequence[float]
) -> pd.DataFrame:
    """What a network says of a synthetic lesion at each contrast: see `subjects.synthetic.add_lesion`.

    Equal to adding the lesion and running the network on the whole subject each time, but only what the lesion's score
    depends on goes through it. The network is seen as its maps are: `network.through`.

    Args:
        network: any.
        subject: without a lesion there.
        place: voxel `(i, j, k)` of the centre.
        size: mm3.
        contrasts: what FLAIR gains in the mean over the lesion's voxels, in z-scored units; 0 tells what the network
            says of the place without the lesion.

    Returns:
        One row a contrast, in their order: subject, network, i, j, k, size_mm3, voxels, contrast; score, the mean
        probability over the lesion's voxels; highest, the largest; seen, whether that is above the network's threshold;
        logit, the mean class-1 logit, whose slope at a contrast is the sum of the `mean` gradient times the pattern.

    Raises:
        ValueError: for no contrast, one that is not finite, or a lesion that cannot be there.
    """
    doses = np.asarray(contrasts, dtype=np.float64)
    if doses.ndim != 1 or not len(doses) or not np.isfinite(doses).all():
        raise ValueError(f"Contrasts must be a list of finite numbers, at least one, got {contrasts}.")
    network = as_network(network)
    pattern, mask = lesion_pattern(subject, place, size)
    score = LesionScore(network, subject.image, mask)
    unit = score.crop(pattern)
    logits = score.logits(score.image + float(dose) * unit for dose in doses)
    probability = logits.softmax(dim=1)[:, 1].numpy()
    table = pd.DataFrame({"subject": subject.name, "network": network.name, "contrast": doses})
    table[["i", "j", "k"]] = [int(a) for a in place]
    table["size_mm3"], table["voxels"] = float(size), len(score.voxels)
    table["score"], table["highest"] = probability.mean(axis=1), probability.max(axis=1)
    table["seen"] = table["highest"] > network.threshold
    table["logit"] = logits[:, 1].mean(dim=1).numpy()
    return table.reindex(columns=COLUMNS)
