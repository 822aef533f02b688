"""A bundle, a checkpoint of Auto3DSeg, a class of MONAI: the same function as MONAI's own, no code of theirs run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.unet import UNet

from ies_helpers import load_network, predict, predict_logits

UNET = {"in_channels": 2, "out_channels": 2, "channels": [4, 6], "strides": [2], "num_res_units": 1, "norm": "batch"}


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(spatial_dims=3, **UNET).eval()  # pyright: ignore[reportArgumentType]


def write_bundle(folder: Path, module: torch.nn.Module, definition: Any, **config: Any) -> Path:
    bundle = folder / "lesions"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    torch.save(module.state_dict(), bundle / "models" / "model.pt")
    (bundle / "configs" / "inference.json").write_text(json.dumps({"network_def": definition} | config))
    inputs = {"image": {"channel_def": {"0": "T1w", "1": "FLAIR"}}}
    outputs = {"pred": {"channel_def": {"0": "background", "1": "other", "2": "lesion"}}}
    formats = {"inputs": inputs, "outputs": outputs if getattr(module, "out_channels", 2) == 3 else {}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    return bundle


def test_a_class_of_monai_loads_by_its_name_and_a_settings_file(tmp_path: Path) -> None:
    module, image = unet(), torch.randn(2, 12, 14, 16)
    torch.save({"state_dict": {f"net.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "n.ckpt")
    (tmp_path / "s.json").write_text(json.dumps(UNET))
    network = load_network(tmp_path / "n.ckpt", architecture="monai:UNet", settings=tmp_path / "s.json")
    assert network.channels == ("flair", "t1")
    torch.testing.assert_close(predict_logits(network, image), module(image[None])[0].detach())
    with pytest.raises(ValueError, match="--settings"):
        load_network(tmp_path / "n.ckpt", architecture="monai:UNet")
    with pytest.raises(ValueError, match=r"4 unknown|of another shape"):
        load_network(tmp_path / "n.ckpt", architecture="monai:UNet", settings=UNET | {"channels": [4, 7]})


def test_a_bundle_predicts_as_its_inferer_does_with_its_channels_and_its_lesion(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = SegResNet(
        spatial_dims=3, in_channels=2, out_channels=3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)
    )
    definition = {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": 3,
        "in_channels": "@inputs",
        "out_channels": "@sizes::out",
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
    }
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 16], "overlap": 0.5, "mode": "gaussian"}
    setting = {"inputs": 2, "sizes": {"out": 3}, "inferer": inferer, "network": "$@network_def.to(@device)"}
    steps = {"transforms": [{"_target_": "LoadImaged"}, {"_target_": "Spacingd"}, {"_target_": "NormalizeIntensityd"}]}
    module.out_channels = 3  # pyright: ignore[reportAttributeAccessIssue]
    bundle = write_bundle(tmp_path, module.eval(), definition, **setting, preprocessing=steps)
    with pytest.warns(UserWarning, match="Spacingd, which is not done"):
        network = load_network(bundle)
    assert (network.channels, network.lesion_class, network.window) == (("t1", "flair"), 2, (8, 8, 16))
    image = torch.randn(2, 12, 16, 20)
    wanted = SlidingWindowInferer((8, 8, 16), overlap=0.5, mode="gaussian")(image[None], module)
    torch.testing.assert_close(predict_logits(network, image), wanted[0].detach(), atol=1e-5, rtol=0)


def test_a_bundle_that_ends_in_a_sigmoid_asks_each_channel_by_itself(tmp_path: Path) -> None:
    module, image = unet(), torch.randn(2, 8, 8, 8)
    after = {"transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]}
    network = load_network(
        write_bundle(tmp_path, module, {"_target_": "UNet", "spatial_dims": 3} | UNET, postprocessing=after)
    )
    assert (network.head, network.lesion_class) == ("sigmoid", 0)
    torch.testing.assert_close(predict(network, image), module(image[None])[0, 0].sigmoid().detach())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"channels": "$[4, 6]"}, r"network_def\.channels"),
        ({"act": {"_target_": "os.system", "command": "true"}}, r"network_def\.act"),
        ({"_target_": "os.system"}, "os.system"),
        ({"_target_": "torch.nn.Conv3d"}, "torch.nn.Conv3d"),
        ({"in_channels": "@nowhere"}, "@nowhere"),
    ],
)
def test_a_bundle_with_an_expression_is_refused_and_nothing_of_it_is_run(
    tmp_path: Path, change: dict, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        load_network(write_bundle(tmp_path, unet(), {"_target_": "UNet", "spatial_dims": 3} | UNET | change))


def test_a_bundle_without_its_parts_says_which(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, unet(), {"_target_": "UNet"} | UNET)
    (bundle / "models" / "model.pt").rename(bundle / "model.pt")
    with pytest.raises(FileNotFoundError, match=r"models/model\.pt"):
        load_network(bundle)
    (bundle / "configs" / "inference.json").rename(bundle / "inference.json")
    with pytest.raises(FileNotFoundError, match=r"configs/inference\.json"):
        load_network(bundle)


def test_a_checkpoint_of_auto3dseg_says_its_network_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"init_filters": 8, "blocks_down": [1, 1], "in_channels": 1, "out_channels": 2, "dsdepth": 2}
    module = SegResNetDS(spatial_dims=3, norm=("INSTANCE", {"affine": True}), **sizes).eval()  # pyright: ignore
    network = {"_target_": "SegResNetDS", "norm": "INSTANCE_NVFUSER", **sizes, "in_channels": "@input_channels"}
    config = {"network": network, "input_channels": 1, "roi_size": [16, 16, 16], "sigmoid": False}
    torch.save({"state_dict": module.state_dict(), "epoch": 3, "config": config}, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", channels=["flair"])
    assert (loaded.window, loaded.through, loaded.channels) == ((16, 16, 16), "windows", ("flair",))
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(loaded.logits(x), module(x)[0] if isinstance(module(x), list) else module(x))
