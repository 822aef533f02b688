"""Models by name: their files' own names and sizes, their preparation of a scan, and what is explained of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers import gradcam_pp, gradient, load_network, predict
from ies_helpers.segmentation.adapters import LstAiNetwork, LstAiPlans, MindGlidePlans, mindglide_network
from ies_helpers.segmentation.network import prepare
from ies_helpers.subjects.subject import Subject
from tests import oracles

MEMBER = {"in_channels": 2, "n_conv_blocks": 2, "n_filters": 2, "n_classes": 1, "bottleneck_filters": 5}


def write_members(folder: Path, count: int = 3) -> Path:
    """Files as LST-AI 2 ships them, with the heads of deep supervision that prediction leaves aside."""
    folder.mkdir(parents=True)
    for n in range(count):
        torch.manual_seed(n)
        state = LstAiNetwork(2, 2, 2, 5).state_dict() | {
            "ds_heads.0.weight": torch.ones(1),
            "ds_heads.0.bias": torch.ones(1),
        }
        config = MEMBER | {"ds_layers": [-2]}
        torch.save({"config": config, "state_dict": state}, folder / f"UNet3D_MS_final_mdl{'ABC'[n]}.pt")
    return folder


def subject(shape: tuple[int, int, int], channels: tuple[str, ...], affine: np.ndarray | None = None) -> Subject:
    raw = torch.zeros(len(channels), *shape)
    inner = tuple(slice(2, n - 3) for n in shape)
    drawn = 50 + 10 * torch.randn((len(channels), *(n - 5 for n in shape)), generator=torch.Generator().manual_seed(0))
    raw[:, *inner] = drawn
    affine = np.eye(4) if affine is None else affine
    return Subject(name="toy", image=raw.clone(), target=None, affine=affine, channels=channels, raw=raw)


def test_the_names_and_sizes_of_lst_ais_tensors_are_those_of_its_own_files() -> None:
    """Member A: 28 filters, five levels, 168 at the bottom; counted from its own module, without heads."""
    with torch.device("meta"):
        state = LstAiNetwork(2, 5, 28, 168).state_dict()
    assert sum(v.numel() for v in state.values()) == LST_AI_A
    assert state["dec_up.0.block.0.weight"].shape == (168, 140, 4, 4, 4)
    assert state["dec_conv.4.block.0.weight"].shape == (28, 56, 3, 3, 3)
    assert state["enc_down.3.block.1.weight"].shape == (140,)


LST_AI_A = 14_356_301


def test_lst_ai_is_explained_through_the_mean_of_its_members_probabilities(tmp_path: Path) -> None:
    """By a plain loop over the members on the cube that its own software cuts out."""

    with pytest.warns(UserWarning, match="3 members, whose probabilities are averaged"):
        network = load_network(f"lst-ai:{write_members(tmp_path / 'model')}")
    small = replace(network, plans=LstAiPlans(16))
    placed, scan = prepare(small, subject((19, 16, 21), ("t1", "flair")))
    assert scan.channels == ("flair", "t1")
    # Of 19 voxels two are cut at the start and one at the end, of 21 three and two.
    cube = (slice(2, 18), slice(0, 16), slice(3, 19))
    members = [m.double() for m in network.module.members]
    placed.module.double()

    def mean(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([m(x[None, :, *cube])[0, 0].sigmoid() for m in members]).mean(dim=0)

    image = scan.image.double()
    probability = predict(placed, image)
    torch.testing.assert_close(probability[cube].double(), mean(image), atol=1e-6, rtol=0)
    assert not probability[0].any()
    voxels = np.array([[9, 8, 10], [9, 8, 11]])
    for how in ("mean", "max"):
        each = []
        for voxel in voxels:
            x = image.clone().requires_grad_()
            p = mean(x)[tuple(voxel - [2, 0, 3])]
            each.append(torch.autograd.grad((p / (1 - p)).log(), x)[0])
        stacked = torch.stack(each)
        wanted = oracles.aggregate(stacked, how)
        got = gradient(placed, image, voxels, aggregate=how).double()
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    with pytest.raises(ValueError, match="where the network looks"):
        gradient(placed, image, np.array([[0, 0, 0]]))
    assert gradcam_pp(placed, image, voxels, layer="members.1.dec_conv.1.block.0").shape == (1, 19, 16, 21)


def test_lst_ai_scales_each_channel_between_two_percentiles_of_what_is_not_zero() -> None:
    raw = subject((19, 16, 21), ("flair", "t1")).raw
    assert raw is not None
    grid, image = LstAiPlans(16).place(raw, np.eye(4))
    inner = raw[:, *grid.box].numpy()
    for got, values in zip(image[:, *grid.box].numpy(), inner, strict=True):
        low, high = np.percentile(values[values != 0], [0.5, 99.5])
        wanted = np.where(values != 0, (np.clip(values, low, high) - low) / (high - low), 0)
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    for other in (-0.0008, -1024.0):
        assert torch.equal(LstAiPlans(16).place(torch.where(raw == 0, other, raw), np.eye(4))[1], image)


@pytest.mark.parametrize(
    ("word", "told"), [("lst-ai", "lst-ai:FOLDER"), ("lst-ai:", "lst-ai:FOLDER"), ("mindglide:absent", "huggingface")]
)
def test_where_the_files_are_not_it_says_where_they_are_to_be_had(word: str, told: str) -> None:
    with pytest.raises(FileNotFoundError, match=told):
        load_network(word)


def test_a_member_of_another_kind_is_refused_before_it_is_built(tmp_path: Path) -> None:
    folder = write_members(tmp_path / "model", 1)
    path = next(folder.iterdir())
    content = torch.load(path)
    for change in ({"n_filters": 10**6}, {"n_classes": 3}, {"n_conv_blocks": "5"}):
        torch.save({**content, "config": MEMBER | change}, path)
        with pytest.raises(ValueError, match="mdlA"):
            load_network(f"lst-ai:{folder}")


def test_mindglide_sees_one_channel_and_its_lesion_is_class_18(tmp_path: Path, monkeypatch) -> None:
    """Its module's own keys and strides; the map is autograd's through the turned, cropped, padded scan."""
    torch.manual_seed(0)
    torch.save(mindglide_network().state_dict(), tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match="t1 alone; class 18 of 20"):
        network = load_network(f"mindglide:{tmp_path / 'weights.pt'}", channels=["t1"])
    assert (network.channels, network.lesion_class, network.window) == (("t1",), 18, (128, 128, 64))
    with pytest.raises(ValueError, match="flair, t1"):
        load_network(f"mindglide:{tmp_path / 'weights.pt'}", channels=["flair", "t1"])
    shape = [tuple(p.shape) for p in network.module.parameters()]
    assert shape[0] == (32, 1, 3, 3, 3)
    assert len(network.module.upsamples) == 5
    assert network.module(torch.zeros(1, 1, 64, 32, 16)).shape == (1, 20, 64, 32, 16)


AFFINES = {
    "turned": np.array([[0, -1.0, 0, 3], [0, 0, 1.0, 0], [-1.0, 0, 0, 5], [0, 0, 0, 1]]),
    "finer": np.diag([0.9, 1.1, 0.8, 1]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_mindglide_turns_crops_resamples_and_z_scores_what_is_not_zero(name: str) -> None:
    """What its own preparation gives: RAS, the box of positive values, cubic to 1 mm, then the z-score of the rest."""
    affine, scan = AFFINES[name], subject((20, 18, 22), ("flair",), AFFINES[name])
    assert scan.raw is not None
    grid, image = MindGlidePlans((8, 8, 8)).place(scan.raw, affine)
    got, _ = grid.push(image)
    inner = scan.raw[0, 2:17, 2:15, 2:19].numpy()
    if name == "turned":  # world x runs against j, y along k, z against i
        inner = inner[::-1, ::-1].transpose(1, 2, 0)
    else:
        sides = [int(n * s) for n, s in zip(inner.shape, (0.9, 1.1, 0.8), strict=True)]
        ratio = np.divide(sides, inner.shape)
        grown = ndimage.zoom(inner.astype(float), ratio, order=3, mode="nearest", grid_mode=True)
        inner = np.clip(grown, inner.min(), inner.max())
    values = inner[inner != 0]
    wanted = np.where(inner != 0, (inner - values.mean()) / values.std(), 0)
    np.testing.assert_allclose(got[0].numpy(), wanted, atol=2e-4)
