"""Networks of many classes: each class explained by its own gradient, whole and through windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradient, predict, predict_logits
from ies_helpers.segmentation.inference import importance, total_importance, window_boxes
from ies_helpers.segmentation.network import one_class

FLOAT32 = 1e-5


class FourClasses(nn.Module):
    """Logit of class c: w_c . x at the voxel and a third of it at its neighbour below; classes mix nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv3d(2, 4, kernel_size=(3, 1, 1), padding=(1, 0, 0), bias=True)
        weights = torch.tensor([[0.5, 0.5], [2.0, -1.0], [-1.5, 1.0], [0.3, 2.5]])
        self.look.weight.data = torch.stack([weights / 3, weights, 0 * weights], dim=2)[..., None, None]
        self.look.bias.data = torch.tensor([0.2, 0.0, 0.1, -0.3])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.look(x)


def four_classes(**settings) -> tuple[Network, torch.Tensor]:
    image = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 10, 8, 8))).float()
    return Network(FourClasses(), "toy", threshold=0.3, **settings), image


@pytest.mark.parametrize("through", ["whole", "windows"])
def test_each_class_of_a_network_of_four_is_explained_by_its_own_gradient(through: str) -> None:
    network, image = four_classes(window=6, through=through, overlap=0.5)
    predicted = predict_logits(network, image).argmax(dim=0)
    maps = {}
    for number in range(4):
        mask = predicted == number
        maps[number] = gradient(one_class(network, number), image, mask, aggregate="sum")
        expected = torch.zeros_like(image)
        for v in np.argwhere(mask.numpy()):
            for step, tap in ((-1, 0), (0, 1)):
                if v[0] + step < 0:
                    continue
                share = share_of_windows(network, v, step) if through == "windows" else 1.0
                weight = network.module.look.weight.detach()[number, :, tap, 0, 0]  # pyright: ignore
                expected[(slice(None), v[0] + step, v[1], v[2])] += share * weight
        assert float((maps[number] - expected).abs().max()) < FLOAT32 * float(expected.abs().max())
    assert float((maps[1] - maps[2]).abs().max()) > 1  # Agg2Exp's published code gives one map for all classes


def share_of_windows(network: Network, voxel: np.ndarray, step: int) -> float:
    """Weight of the windows that hold a voxel and its neighbour, over that of all which hold the voxel."""
    weight, total, shape = importance(network), 0.0, (10, 8, 8)
    for box in window_boxes(network, shape):
        local = voxel - [s.start for s in box]
        inside = all(s.start <= x < s.stop for s, x in zip(box, voxel, strict=True))
        if inside and local[0] + step >= 0:
            total += float(weight[tuple(local)])
    return total / float(total_importance(network, shape)[tuple(voxel)])


def test_the_probability_of_one_class_is_the_softmax_over_all_and_its_digest_its_own() -> None:
    network, image = four_classes()
    every = predict_logits(network, image).softmax(dim=0)
    for number in range(4):
        got = predict(one_class(network, number), image)
        assert float((got - every[number]).abs().max()) < 1e-6
    assert len({one_class(network, number).digest() for number in range(4)}) == 4
    assert one_class(network, 2).threshold == 0.3
    layered = one_class(replace(network, layer="look"), 2)
    assert layered.module.get_submodule(layered.layer or "") is network.module.look
    with pytest.raises(ValueError, match=r"below the 4 classes .*, got 4"):
        predict(one_class(network, 4), image)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        one_class(network, -1)
