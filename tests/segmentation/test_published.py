"""The paper's networks are what MONAI 0.9.0 made of them, whatever MONAI is installed."""

import datetime
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ies_helpers import load_network
from ies_helpers.segmentation.architectures import MERGINGS, build
from ies_helpers.segmentation.network import Network
from tests import oracles
from tests.segmentation.reference import make

SAME = 1e-4
"""Largest difference allowed, relative to the largest logit; with the same merging it is rounding."""

OLD = dict(np.load(Path(__file__).parent / "reference" / "monai-0.9.0.npz"))
PAPERS = {"unet": None, "nnunet": None, "swin_unetr": "monai-0.9"}


def published(architecture: str, path: Path, merging: str | None, channels: tuple[int, ...] | None = None) -> Path:
    """A checkpoint as the paper's authors saved theirs, from DataParallel, with seeded weights."""
    weights = make.seeded_weights(build(architecture, channels, merging).module)
    torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    return path


def apart(network: Network, wanted: np.ndarray) -> float:
    with torch.no_grad():
        logits = network.module(torch.from_numpy(make.image()))[0]
    step = make.STEP
    return oracles.relative(logits[:, ::step, ::step, ::step], torch.from_numpy(wanted))


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """A `.tar.xz` of some files."""
    with tarfile.open(path, "w:xz", preset=0) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("architecture", PAPERS)
def test_a_published_checkpoint_gives_the_logits_of_monai_0_9_0(architecture: str, tmp_path: Path) -> None:
    path = published(architecture, tmp_path / "epoch_31.pth", PAPERS[architecture])
    network = load_network(path, architecture=architecture, merging=PAPERS[architecture])
    assert apart(network, OLD[architecture]) < SAME


@pytest.mark.parametrize("merging", sorted(set(MERGINGS) - {"monai-0.9"}))
def test_another_merging_is_another_network_without_any_error(merging: str, tmp_path: Path) -> None:
    path = published("swin_unetr", tmp_path / "swin.pth", merging, (12,))
    right = load_network(path, architecture="swin_unetr", merging="monai-0.9")
    wrong = load_network(path, architecture="swin_unetr", merging=merging)
    assert apart(right, OLD["swin_unetr_12"]) < SAME
    assert apart(wrong, OLD["swin_unetr_12"]) > 0.1
    assert right.digest() != wrong.digest()


@pytest.mark.parametrize("merging", MERGINGS)
def test_merging_takes_the_neighbours_in_the_order_it_says(merging: str) -> None:
    """On a grid whose value is its own place: one voxel's eighth of the concatenation names the offset."""
    layer = build("swin_unetr", (12,), merging).module.swinViT.layers1[0].downsample
    layer.norm = torch.nn.Identity()
    layer.reduction = torch.nn.Identity()
    place = torch.cartesian_prod(*[torch.arange(4.0)] * 3).reshape(1, 4, 4, 4, 3)
    got = layer(place)[0, 0, 1, 1].reshape(8, 3) - torch.tensor([0.0, 2.0, 2.0])
    assert ["".join(str(int(o)) for o in offset) for offset in got] == MERGINGS[merging].split()
    odd = layer(place[:, :3])
    assert odd.shape[1:4] == (2, 2, 2)
    assert odd[0, 1, 0, 0].reshape(8, 3)[[o[0] == "1" for o in MERGINGS[merging].split()]].abs().max() == 0


def test_todays_monai_merges_as_two_of_the_three_say() -> None:
    from monai.networks.nets.swin_unetr import MERGING_MODE

    x = torch.randn(1, 4, 6, 8, 12, generator=torch.Generator().manual_seed(0))
    for theirs, ours in (("mergingv2", "mergingv2"), ("merging", "monai-1.5")):
        layer = build("swin_unetr", (12,), ours).module.swinViT.layers1[0].downsample
        other = MERGING_MODE[theirs](12)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), other(x))


def test_a_swin_unetr_of_unknown_merging_is_refused_and_a_recorded_one_is_kept(tmp_path: Path) -> None:
    path = published("swin_unetr", tmp_path / "swin.pth", "mergingv2", (12,))
    with pytest.raises(ValueError, match=r"needs the order .* swin\.pth does not say it: give merging='monai-0\.9'"):
        load_network(path, architecture="swin_unetr")
    with pytest.raises(ValueError, match=r"merging must be one of monai-0\.9, monai-1\.5, mergingv2, got 'new'"):
        load_network(path, architecture="swin_unetr", merging="new")
    weights = make.seeded_weights(build("swin_unetr", (12,)).module)
    save_file(weights, tmp_path / "said.safetensors", {"architecture": "swin_unetr", "merging": "monai-1.5"})
    network = load_network(tmp_path / "said.safetensors")
    assert network.module.swinViT.layers1[0].downsample.order == MERGINGS["monai-1.5"]
    with pytest.raises(ValueError, match=r"trained with merging='monai-1\.5', got 'monai-0\.9'"):
        load_network(tmp_path / "said.safetensors", merging="monai-0.9")
    with pytest.raises(ValueError, match="for swin_unetr, got it for unet"):
        build("unet", merging="monai-0.9")


def test_an_archive_with_one_checkpoint_loads_and_one_with_two_does_not(tmp_path: Path) -> None:
    path = published("unet", tmp_path / "model_epoch_31.pth", None, (4, 8))
    archive = packed(tmp_path / "model_epoch_31.tar.xz", {"deep/model_epoch_31.pth": path.read_bytes()})
    one, two = (load_network(p, architecture="unet") for p in (path, archive))
    assert one.digest() == two.digest()
    assert two.name == "model_epoch_31"
    packed(archive, {"a.pth": path.read_bytes(), "b.pth": path.read_bytes()})
    with pytest.raises(ValueError, match=r"must hold one file \*\.pth, it holds 2 \(a\.pth, b\.pth\)"):
        load_network(archive, architecture="unet")


def test_a_checkpoint_that_asks_to_run_code_is_told_how_to_convert(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "when": datetime.timedelta(1)}, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"asks to run datetime.* and was not opened.*convert it, which runs that"):
        load_network(tmp_path / "old.pth", architecture="unet")


def test_a_published_network_without_address_is_told_to_bring_the_file() -> None:
    with pytest.raises(ValueError, match="only published:unet has a public address, published:nnunet has none"):
        load_network("published:nnunet")


def test_blocks_that_dynunet_registers_twice_may_be_stored_once_or_twice(tmp_path: Path) -> None:
    module = build("nnunet").module
    once = make.seeded_weights(module)
    module.load_state_dict(once, strict=False)
    torch.save(module.state_dict(), tmp_path / "twice.pth")
    torch.save(once, tmp_path / "once.pth")
    assert len(once) < len(module.state_dict())
    loaded = [load_network(tmp_path / f"{name}.pth", architecture="nnunet") for name in ("once", "twice")]
    assert loaded[0].digest() == loaded[1].digest() == Network(module).digest()


def test_every_difference_is_in_the_notes_of_the_error(tmp_path: Path) -> None:
    path = published("unet", tmp_path / "unet.pth", None, (4, 8, 16))
    with pytest.raises(ValueError, match="must fit the architecture") as caught:
        load_network(path, architecture="nnunet")
    notes = "\n".join(caught.value.__notes__)
    absent = [key for key in make.seeded_weights(build("unet", (4, 8, 16)).module) if key not in notes]
    assert absent == []


def test_attention_computed_again_gives_the_same_gradient() -> None:
    x = torch.from_numpy(make.image())
    gradients = []
    for again in (False, True):
        module = build("swin_unetr", (12,), use_checkpoint=again).module
        module.load_state_dict(make.seeded_weights(module), strict=False)
        leaf = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(module(leaf)[0, 1, 30, 30, 30], leaf)[0])
        assert sum(getattr(m, "use_checkpoint", False) for m in module.modules()) == (12 if again else 0)
    assert oracles.relative(*gradients) < 1e-6
