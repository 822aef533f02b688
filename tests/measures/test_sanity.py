"""Randomised layers and planted cues: maps that ignore the network are caught, and the network comes back."""

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import nn

from ies_helpers import Network, gradient
from ies_helpers.measures.sanity import (
    AS_TRAINED,
    SHUFFLED,
    How,
    _ssim_map,
    randomise_layers,
    shuffled,
    similarity,
    ssim,
)
from ies_helpers.segmentation.architectures import build
from ies_helpers.teaching import Linear
from tests.networks import unet

EXACT = 1e-12
SINGLE = 1e-5

LESION = np.array([[10, 9, 8], [10, 10, 8], [11, 10, 8]])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 24, 20, 16)


def state(network: Network) -> list[object]:
    """Everything a caller could see changed."""
    module = network.module
    flags = [(p.requires_grad, p.grad is None, p.data_ptr()) for p in module.parameters()]
    return [network.digest(), [m.training for m in module.modules()], flags]


def test_a_map_that_ignores_the_network_stays_the_same_and_a_gradient_does_not(image: torch.Tensor) -> None:
    network = unet((3, 4, 5))
    network.module.float()
    edges = randomise_layers(network, lambda _: image)
    assert edges["spearman"].iloc[:-1].tolist() == pytest.approx([1.0] * (len(edges) - 1))
    assert edges["ssim"].iloc[:-1].tolist() == pytest.approx([1.0] * (len(edges) - 1))
    assert abs(edges["spearman"].iloc[-1]) < 0.05
    found = randomise_layers(network, lambda n: gradient(n, image, LESION, aggregate="sum"))
    assert found["spearman"].iloc[0] == pytest.approx(1.0)
    assert found["spearman"].iloc[-2] < 0.5


@pytest.mark.parametrize("how", ["cascading", "independent"])
def test_layers_are_taken_from_the_output_and_replaced_by_their_own_distribution(how: How) -> None:
    """What is random at each step is seen from the networks that `explain` gets."""
    network, seen = unet((3, 4, 5)), []

    def note(given: Network) -> torch.Tensor:
        seen.append({k: v.clone() for k, v in given.module.state_dict().items()})
        return torch.rand(1, 4, 4, 4)

    table = randomise_layers(network, note, how=how, seed=3)
    names = table["layer"].tolist()
    assert names[0] == AS_TRAINED
    assert names[-1] == SHUFFLED
    assert names[1] == "model.2.conv"
    assert names[-2] == "model.0.conv"
    convolutions = [n for n, m in network.module.named_modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    assert names[1:-1] == convolutions[::-1]
    trained = network.module.state_dict()
    changed = [{k.rsplit(".", 1)[0] for k, v in s.items() if not torch.equal(v, trained[k])} for s in seen]
    assert changed[0] == set()
    for step, name in enumerate(names[1:-1], 1):
        assert name in changed[step]
        expected = set(names[1 : step + 1]) if how == "cascading" else {name}
        assert changed[step] & set(convolutions) == expected
    assert any("adn.N" in name for name in changed[2])  # the norm goes with its convolution
    assert not any("running" in k and not torch.equal(v, trained[k]) for s in seen for k, v in s.items())


def test_a_drawn_layer_has_the_mean_and_spread_of_the_trained_one_and_depends_on_the_seed() -> None:
    network, seen = build("unet", (8, 16, 32)), []
    network.module.get_submodule("model.1.submodule.0.conv").weight.data += 0.5

    def note(given: Network) -> torch.Tensor:
        seen.append(given.module.get_submodule("model.1.submodule.0.conv").weight.clone())
        return torch.rand(1, 3, 3, 3)

    for seed in (0, 0, 1):
        randomise_layers(network, note, layers=["model.1.submodule.0"], seed=seed)
    trained, first, _, again, _, other = seen
    spread, count = float(trained.std()), trained.numel()
    assert float(first.std()) == pytest.approx(spread, rel=4 / (2 * count) ** 0.5)
    assert float(first.mean()) == pytest.approx(
        float(trained.mean()), abs=5 * float(trained.std()) / len(first.ravel()) ** 0.5
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(np.corrcoef(first.ravel(), trained.ravel())[0, 1])) < 0.05


@pytest.mark.parametrize("fails_at", [None, 0, 2])
def test_the_network_comes_back_as_it_was_also_after_an_exception(fails_at: int | None, image: torch.Tensor) -> None:
    network, calls = unet((3, 4)), []
    network.module.train()
    before = state(network)

    def explain(given: Network) -> torch.Tensor:
        calls.append(None)
        if len(calls) - 1 == fails_at:
            raise RuntimeError("the map failed")
        return gradient(given, image.double(), LESION, aggregate="sum")

    if fails_at is None:
        randomise_layers(network, explain)
    else:
        with pytest.raises(RuntimeError, match="the map failed"):
            randomise_layers(network, explain)
    assert state(network) == before


def test_an_empty_map_has_a_reason_and_no_number() -> None:
    table = randomise_layers(unet((3, 4)), lambda _: torch.zeros(1, 4, 4, 4))
    assert table[["spearman", "spearman_abs", "ssim"]].isna().all(axis=None)
    assert set(table["reason"]) == {"the region is empty"}
    maps = [torch.rand(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)]
    table = randomise_layers(unet((3, 4)), lambda _: maps.pop(0), layers=["model.0", "model"])
    assert table["reason"].tolist() == ["", "a map is constant in the region", "a map is constant in the region", ""]


def test_similarity_is_spearmans_and_the_structural_one_of_monai(image: torch.Tensor) -> None:
    one, other = image, image + torch.randn_like(image)
    region = torch.zeros(24, 20, 16, dtype=torch.bool)
    region[6:18, 6:14, 6:10] = True
    found = similarity(one, other, region)
    a, b = one[:, region].ravel(), other[:, region].ravel()
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic, abs=EXACT)
    assert found.spearman_abs == pytest.approx(spearmanr(a.abs(), b.abs()).statistic, abs=EXACT)
    everywhere = torch.ones(24, 20, 16, dtype=torch.bool)
    inner = torch.zeros_like(everywhere)
    inner[5:-5, 5:-5, 5:-5] = True
    scaled = [(m / m.abs().max())[None].double() for m in (one[:1], other[:1])]
    full, _ = compute_ssim_and_cs(
        *scaled,
        3,
        (11,) * 3,
        (1.5,) * 3,
        2.0,
        kernel_type="gaussian",  # pyright: ignore[reportCallIssue]
    )
    assert full.shape[2:] == (14, 10, 6)
    got = _ssim_map(*[m[0, 0].numpy() for m in scaled])[inner.numpy()]
    assert got == pytest.approx(full[0, 0].numpy().ravel(), abs=SINGLE)
    assert ssim(one, one * 7, everywhere) == pytest.approx(1.0)


def test_a_map_and_its_negative_are_less_alike_than_a_map_and_its_shuffled_self() -> None:
    """Also where the map is smooth, so that its means differ from zero as much as its values."""
    everywhere = torch.ones(30, 30, 30, dtype=torch.bool)
    for width in (0, 1, 2, 3):
        smooth = gaussian_filter(np.random.default_rng(0).standard_normal((1, 30, 30, 30)), (0, width, width, width))
        one = torch.from_numpy(smooth)
        assert ssim(one, -one, everywhere) < -0.3
        assert abs(ssim(one, shuffled(one, everywhere), everywhere)) < 0.2


def test_a_map_is_divided_by_its_largest_absolute_value_also_where_that_is_negative(rng: np.random.Generator) -> None:
    one, other = (-0.1 - torch.from_numpy(rng.random((1, 6, 6, 6))) for _ in range(2))
    one[0, 0, 0, 0], one[0, 1, 1, 1] = 0.01, -4.0
    other[0, 2, 2, 2] = -2.0
    wanted = _ssim_map(1 + one[0].numpy() / 4, 1 + other[0].numpy() / 2).mean()
    assert ssim(one, other, torch.ones(6, 6, 6, dtype=torch.bool)) == pytest.approx(wanted, abs=EXACT)


def test_a_region_of_zeros_and_ones_is_the_same_as_one_of_bool(image: torch.Tensor) -> None:
    region = torch.rand(24, 20, 16) < 0.3
    other = image + torch.randn_like(image)
    assert similarity(image, other, region.int()) == similarity(image, other, region)


def test_what_has_no_similarity_is_nan_and_says_why(image: torch.Tensor) -> None:
    region = torch.ones(24, 20, 16, dtype=torch.bool)
    signs = similarity(image.sign(), image.flip(1), region)
    assert np.isfinite([signs.spearman, signs.ssim]).all()
    assert np.isnan(signs.spearman_abs)
    assert signs.reason == "the absolute values of a map are constant in the region"
    broken = image.clone()
    broken[1, 3, 3, 3] = np.nan
    lost = similarity(image, broken, region)
    assert np.isnan(lost[:3]).all()
    assert lost.reason == "a map has NaN or infinite values"


def test_the_shuffled_map_keeps_its_values_and_its_region() -> None:
    saliency, region = torch.arange(54.0).reshape(2, 3, 3, 3), torch.zeros(3, 3, 3, dtype=torch.bool)
    region[1:] = True
    other = shuffled(saliency, region)
    assert torch.equal(other[:, region].sort(dim=1).values, saliency[:, region])
    assert torch.equal(other[1, region] - other[0, region], torch.full((18,), 27.0))
    assert not torch.equal(other[:, region], saliency[:, region])
    assert not other[:, ~region].any()


def test_what_cannot_be_randomised_is_refused() -> None:
    with pytest.raises(ValueError, match="'both'"):
        randomise_layers(Linear(), lambda _: torch.zeros(1, 2, 2, 2), how="both")  # pyright: ignore[reportArgumentType]
    for name in ("mixed", "model.1.submodule.1.adn.D"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            randomise_layers(unet((3, 4)), lambda _: torch.zeros(1, 2, 2, 2), layers=[name])
    with pytest.raises(ValueError, match="got none"):
        randomise_layers(nn.Identity(), lambda _: torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match=r"\(3, 3, 3\)"):
        randomise_layers(Linear(), lambda _: torch.ones(1, 2, 2, 2), region=torch.ones(3, 3, 3))
