"""Checkpoints: weights of any origin load exactly or not at all, and no file ever runs code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ies_helpers import Network, gradcam_pp, gradient, load_network, predict
from ies_helpers.segmentation import formats
from ies_helpers.segmentation.architectures import Architecture, build
from tests.patients import write_network
from tests.results import write_results
from tests.weights import CHANNELS, floats, refused

VOXELS = np.array([[5, 6, 5], [5, 6, 6], [0, 0, 11]])


# What is right


def test_every_way_to_write_the_same_weights_loads_to_the_same_network(tmp_path: Path, state) -> None:
    parallel = {f"module.{k}": v for k, v in state.items()}
    torch.save(state, tmp_path / "plain.pth")
    torch.save(parallel, tmp_path / "parallel.pt")
    torch.save({"epoch": 3, "state_dict": parallel}, tmp_path / "wrapped.pth")
    torch.save({"model": state}, tmp_path / "model.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(floats(state), tmp_path / "safe.safetensors")
    save_file(floats(parallel), tmp_path / "safe-parallel.safetensors")
    for path in tmp_path.iterdir():
        network = load_network(path, architecture="unet")
        loaded = network.module.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in floats(state).items()), path.name
        assert network.name == path.stem


def test_the_header_of_a_file_names_its_architecture_and_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow = build("nnunet", (2, 3, 4))
    path = tmp_path / "mine.safetensors"
    unique = {k: v.clone() for k, v in narrow.module.state_dict().items()}
    save_file(unique, path, metadata={"architecture": "nnunet", "channels": "2,3,4"})
    network = load_network(path)
    image = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(network.logits(image), narrow.logits(image))
    assert (network.threshold, network.through) == (0.4, "windows")


def test_a_loaded_network_is_at_rest_and_takes_the_threshold_it_is_given(tmp_path: Path) -> None:
    network = load_network(write_network(tmp_path / "n.safetensors"), threshold=0.7)
    assert network.threshold == 0.7
    assert not network.module.training
    assert [p for p in network.module.parameters() if p.requires_grad] == []


def test_the_shipped_network_loads_by_its_name() -> None:
    network = load_network("unet")
    assert (network.name, network.channels) == ("unet", ("flair", "t1"))
    assert (network.window, network.through, network.threshold) == (96, "whole", 0.3)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("architecture", ["unet", "nnunet", "swin_unetr"])
def test_channels_and_classes_are_those_of_the_tensors(
    tmp_path: Path, architecture: str, channels: int, classes: int
) -> None:
    widths = {"unet": (3, 4, 5), "nnunet": (2, 3, 4, 5), "swin_unetr": (12,)}[architecture]
    torch.manual_seed(0)
    merging = "monai-0.9" if architecture == "swin_unetr" else None
    made = build(architecture, widths, merging, in_channels=channels, out_channels=classes)
    torch.save(made.module.state_dict(), tmp_path / "n.pth")
    network = load_network(tmp_path / "n.pth", architecture=architecture, merging=merging)
    assert network.digest() == made.digest()
    assert network.stride == made.stride
    assert network.channels is None
    with torch.no_grad():
        logits = network.logits(torch.zeros(1, channels, 64, 32, 32))
    assert logits.shape[1] == max(classes, 2)


def test_a_header_may_name_the_channels_but_not_others_than_there_are(tmp_path: Path) -> None:
    weights = floats(build("unet", CHANNELS, in_channels=1).module.state_dict())
    for inputs in ("pd", "pd; z-scored over non-zero voxels"):
        save_file(weights, tmp_path / "n.safetensors", metadata={"architecture": "unet", "inputs": inputs})
        assert load_network(tmp_path / "n.safetensors").channels == ("pd",)
        assert load_network(tmp_path / "n.safetensors", channels=["dir"]).channels == ("dir",)
    save_file(weights, tmp_path / "n.safetensors", metadata={"architecture": "unet", "inputs": "flair,t1"})
    refused(tmp_path / "n.safetensors", "its tensors take 1, got flair, t1")


def test_two_channels_without_names_are_the_papers(tmp_path: Path, state) -> None:
    save_file(floats(state), tmp_path / "n.safetensors")
    assert load_network(tmp_path / "n.safetensors", architecture="unet").channels == ("flair", "t1")


def test_the_published_network_takes_the_papers_channels(tmp_path: Path, state, monkeypatch) -> None:
    torch.save(state, tmp_path / "model.pth")
    monkeypatch.setattr(formats, "fetch", lambda name: {"checkpoint": tmp_path / "model.pth"})
    network = load_network("published:unet")
    assert (network.name, network.channels) == ("published-unet", ("flair", "t1"))


def test_a_new_architecture_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its builder, what its tensors tell, and an option that is recorded with the weights: nothing else changes."""

    def sharp(features, in_channels, out_channels, edge) -> torch.nn.Module:
        layers = (torch.nn.Conv3d(in_channels, features[0], 3, padding=1, padding_mode=edge), torch.nn.ReLU())
        return torch.nn.Sequential(*layers, torch.nn.Conv3d(features[0], out_channels, 1))

    row = Architecture(
        sharp,
        (8,),
        lambda weights: ["0.weight"],
        "2.bias",
        through="whole",
        threshold=0.25,
        layer="1",
        levels=range(1, 2),
        options=("edge",),
        recorded={"edge": "A sharp network needs its edge, {file} does not say it."},
    )
    monkeypatch.setitem(formats.ARCHITECTURES, "sharp", row)
    made = build("sharp", (5,), in_channels=3, out_channels=4, edge="circular")
    save_file(made.module.state_dict(), tmp_path / "n.safetensors")
    refused(tmp_path / "n.safetensors", "give one of unet, nnunet, swin_unetr, sharp")
    refused(tmp_path / "n.safetensors", "needs its edge, n.safetensors does not say it", architecture="sharp")
    refused(tmp_path / "n.safetensors", "edge must be for sharp, got it for unet", architecture="unet", edge="circular")
    network = load_network(tmp_path / "n.safetensors", architecture="sharp", edge="circular")
    assert (network.threshold, network.layer, network.stride) == (0.25, "1", (1, 1, 1))
    image = torch.randn(1, 3, 6, 6, 6)
    assert torch.equal(network.logits(image), made.logits(image))
    save_file(made.module.state_dict(), tmp_path / "n.safetensors", {"architecture": "sharp", "edge": "circular"})
    assert torch.equal(load_network(tmp_path / "n.safetensors").logits(image), made.logits(image))


# Weights that do not fit


def test_weights_of_another_architecture_are_refused(tmp_path: Path, state) -> None:
    save_file(floats(state), tmp_path / "unet.safetensors")
    rule = (
        r"must fit the architecture, its tensors do not: \d+ missing \(.*\d+ unknown \(.* Name the right architecture"
    )
    refused(tmp_path / "unet.safetensors", rule, architecture="nnunet")


def test_what_is_missing_unknown_misshapen_or_not_finite_is_counted_and_named(tmp_path: Path, state) -> None:
    weights = floats(state)
    del weights["model.0.conv.bias"]
    weights["head.weight"] = torch.zeros(2)
    weights["model.2.conv.weight"] = weights["model.2.conv.weight"][:, :1].contiguous()
    weights["model.0.adn.N.running_var"][0] = float("nan")
    save_file(weights, tmp_path / "n.safetensors")
    rule = (
        r"1 missing \(model\.0\.conv\.bias\); 1 unknown \(head\.weight\); "
        r"1 of another shape \(model\.2\.conv\.weight is \(6, 1, 3, 3, 3\) instead of \(6, 2, 3, 3, 3\)\); "
        r"1 not finite \(model\.0\.adn\.N\.running_var\)"
    )
    refused(tmp_path / "n.safetensors", rule, architecture="unet")


def test_a_file_that_does_not_say_its_architecture_is_refused(tmp_path: Path, state) -> None:
    save_file(floats(state), tmp_path / "n.safetensors")
    refused(tmp_path / "n.safetensors", "does not say its architecture; give one of unet, nnunet, swin_unetr")
    refused(tmp_path / "n.safetensors", "architecture must be one of unet, .* got 'vnet'", architecture="vnet")


# Files that are damaged or hostile


@pytest.mark.parametrize("channels", ["3", "a,b", "0,4,5", "-1,4", "3,99999999", "2," * 8 + "2", ""])
def test_a_header_that_asks_for_an_absurd_network_is_refused_before_it_is_built(tmp_path, state, channels) -> None:
    save_file(floats(state), tmp_path / "n.safetensors", metadata={"architecture": "unet", "channels": channels})
    rule = "unet must have 1 to 1024 features at each of 2 to 8 levels, n.safetensors asks for .*; name the right"
    refused(tmp_path / "n.safetensors", rule)


@pytest.mark.parametrize("first", [torch.zeros(97, 2, 2, 2, 2), torch.zeros(0, 2), torch.tensor(3.0)])
def test_a_swin_unetr_of_absurd_width_is_refused_before_it_is_built(tmp_path: Path, first: torch.Tensor) -> None:
    torch.save({"swinViT.patch_embed.proj.weight": first}, tmp_path / "n.pth")
    rule = "swin_unetr must have 1 to 96 features at each of 1 to 1 levels"
    refused(tmp_path / "n.pth", rule, architecture="swin_unetr", merging="monai-0.9")


def test_names_in_a_file_neither_fill_the_screen_nor_command_it(tmp_path: Path, state) -> None:
    name = "\x1b[31m" + "weight\n" * 100
    save_file(floats(state) | {name: torch.zeros(2)}, tmp_path / "n.safetensors", metadata={"architecture": name})
    refused(tmp_path / "n.safetensors", r"architecture must be one of .*, got '\[31mweight weight .*\.\.\.'")
    refused(tmp_path / "n.safetensors", r"1 unknown \(\[31mweight weight .*\.\.\.\)", architecture="unet")


# Names and settings


def test_an_unknown_network_is_told_what_there_is() -> None:
    with pytest.raises(
        FileNotFoundError, match="one of unet, nnunet, swin_unetr, published:unet or a file; no file nonet"
    ):
        load_network("nonet")


def test_an_architecture_without_shipped_weights_is_told_which_have_some() -> None:
    have = {p.stem for p in (formats.data_folder() / "checkpoints").glob("*.safetensors")}
    for name in {"unet", "nnunet", "swin_unetr"} - have:
        with pytest.raises(ValueError, match=f"Shipped networks are .*unet.*no weights for {name} yet"):
            load_network(name)


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """Narrow networks shipped as `unet` and its seeds 1 and 10."""
    monkeypatch.setattr(formats, "data_folder", lambda: tmp_path)
    (tmp_path / "checkpoints").mkdir()
    names = ("unet", "unet_1", "unet_10")
    files = [tmp_path / "checkpoints" / f"{name}.safetensors" for name in names]
    for gain, path in enumerate(files, 1):
        write_network(path, gain=gain)
    write_network(tmp_path / "checkpoints" / "unet_old.safetensors")
    return [load_network(path) for path in files]


def test_the_seeds_of_a_shipped_network_are_one_ensemble(seeds) -> None:
    network = load_network("unet:ensemble", threshold=0.4)
    assert (network.name, network.passes, network.threshold) == ("unet-ensemble", 3, 0.4)
    assert (network.channels, network.window, network.through) == (seeds[0].channels, 96, "whole")
    assert "0, 1, 10; logits averaged" in network.origin
    x = torch.randn(1, 2, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.logits(x), sum(n.logits(x) for n in seeds) / 3)
    shares = [gradcam_pp(n, x[0], VOXELS).sum() for n in (network, *seeds)]
    assert float(shares[0]) > 0


def test_one_seed_is_a_network_of_its_own(seeds) -> None:
    for word, seed in zip(("unet", "unet:0", "unet:1", "unet:10"), (seeds[0], *seeds), strict=True):
        network = load_network(word)
        assert network.name == word.replace(":", "-")
        assert network.digest() == seed.digest()


def test_the_file_of_a_seed_that_is_not_there_is_named_with_what_to_do(seeds, tmp_path: Path) -> None:
    there = "unet:0 or unet:1 or unet:10 or unet:ensemble"
    refused("unet:2", rf"needs unet_2\.safetensors .* --name unet_2 --seed 2 .* or take {there}\.")  # pyright: ignore
    refused("nnunet:ensemble", r"needs nnunet_1\.safetensors .* --seed 1 .* or take nnunet\.")  # pyright: ignore
    for path in (tmp_path / "checkpoints").glob("unet_*"):
        path.unlink()
    refused("unet:ensemble", r"needs unet_1\.safetensors .* --seed 1 .* or take unet\.")  # pyright: ignore
    assert load_network("unet:0").digest() == seeds[0].digest()


def test_a_results_folder_keeps_its_name_beside_seeds(seeds, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "plans.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"dataset\.json"):
        load_network("unet:1")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 30, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused_before_anything_is_read(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold must lie between 0 and 1, got {threshold}"):
        load_network("nonet", threshold=threshold)


def test_an_unknown_device_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="got 'tpu'"):
        load_network("nonet", device="tpu")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA GPU, and torch sees none; take device='cpu'"):
        load_network("nonet", device="cuda")
    assert formats._device("auto") == torch.device("cpu")


def test_the_tiny_network_of_the_scenes_is_on_disk_what_it_is_in_memory(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.safetensors")
    network = load_network(path)
    stored = load_file(path)
    assert all(torch.equal(network.module.state_dict()[key], value) for key, value in stored.items())
    assert network.digest() == load_network(path).digest()


@pytest.mark.parametrize("other", ["nnunet", "swin_unetr", "vnet"])
@pytest.mark.parametrize("name", ["unet", "published:unet"])
def test_a_name_that_says_its_architecture_takes_no_other(name: str, other: str, monkeypatch) -> None:
    monkeypatch.setattr(formats, "fetch", lambda _: {"checkpoint": Path("not read")})
    with pytest.raises(ValueError, match=f"{name} is a unet; got '{other}': leave it out"):
        load_network(name, architecture=other)


def test_a_merging_is_for_a_swin_unetr_alone() -> None:
    with pytest.raises(ValueError, match="for swin_unetr, got it for unet"):
        load_network("unet", merging="monai-0.9")
    assert load_network("unet", architecture="unet").name == "unet"


def test_weights_that_are_not_finite_are_told_from_those_of_another_architecture(tmp_path: Path, state) -> None:
    state["model.0.conv.bias"][0] = float("nan")
    torch.save(state, tmp_path / "n.pth")
    rule = r"must hold finite weights, of its tensors 1 not finite \(model\.0\.conv\.bias\).* take an earlier file"
    refused(tmp_path / "n.pth", rule, architecture="unet")


# What else can be brought


def small(inputs: int = 2, outputs: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(inputs, 4, 3, padding=1), torch.nn.PReLU(), torch.nn.Conv3d(4, outputs, 3, padding=1)
    return torch.nn.Sequential(*layers).requires_grad_(False)


def test_torchscript_is_explained_as_the_module_it_was(tmp_path: Path) -> None:
    module, image = small(), torch.randn(2, 12, 12, 12)
    for kind, made in (("script", torch.jit.script(module)), ("trace", torch.jit.trace(module, image[None]))):
        torch.jit.save(made, tmp_path / f"{kind}.ts")
        network = load_network(tmp_path / f"{kind}.ts", channels=["flair", "t1"])
        assert network.channels == ("flair", "t1")
        for how in ("max", "mean"):
            wanted = gradient(Network(module), image, VOXELS, aggregate=how)
            got = gradient(network, image, VOXELS, aggregate=how)
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
        torch.testing.assert_close(predict(network, image), predict(Network(module), image))
        with pytest.raises(ValueError, match="TorchScript"):
            gradcam_pp(network, image, VOXELS, layer="0")
    (tmp_path / "broken.ts").write_bytes((tmp_path / "trace.ts").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"broken\.ts"):
        load_network(tmp_path / "broken.ts")


def test_a_function_of_python_is_called_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom ies_helpers import Network\n"
        "def bare():\n    return torch.nn.Conv3d(2, 2, 1)\n"
        "def told():\n    return Network(torch.nn.Conv3d(1, 1, 1), 'told', channels=('flair',))\n"
        "def nothing():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="code of mine was run"):
        assert load_network("python:mine:bare").name == "bare"
    with pytest.warns(UserWarning, match="code of mine was run"):
        assert load_network("python:mine:told", threshold=0.2).channels == ("flair",)
    for word, told in (
        ("mine:nothing", "int"),
        ("mine:absent", "absent"),
        ("absent:f", "absent"),
        ("mine", "FUNCTION"),
    ):
        with pytest.raises(ValueError, match=told):
            load_network(f"python:{word}")


def test_settings_say_what_is_to_be_known_of_a_network(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(small(outputs=3)), tmp_path / "n.ts")
    (tmp_path / "s.json").write_text('{"network": {"window": [8, 8, 8], "lesion_class": 2, "head": "sigmoid"}}')
    network = load_network(tmp_path / "n.ts", settings=tmp_path / "s.json")
    assert (network.window, network.through, network.lesion_class, network.head) == ((8, 8, 8), "windows", 2, "sigmoid")
    with pytest.raises(ValueError, match="windw"):
        load_network(tmp_path / "n.ts", settings={"network": {"windw": 8}})
    with pytest.raises(ValueError, match="arguments is for a file of weights"):
        load_network(tmp_path / "n.ts", settings={"in_channels": 2})
    (tmp_path / "s.json").write_text("window = 8")
    with pytest.raises(ValueError, match=r"s\.json"):
        load_network(tmp_path / "n.ts", settings=tmp_path / "s.json")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        load_network(tmp_path / "n.ts", settings=tmp_path / "absent.json")


def test_an_option_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(small()), tmp_path / "n.ts")
    for options in ({"architecture": "unet"}, {"mirroring": False}, {"merging": "monai-0.9"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            load_network(tmp_path / "n.ts", **options)
    with pytest.raises(ValueError, match="neither"):
        load_network(tmp_path)


def test_an_nnunets_checkpoint_by_itself_leads_to_its_folder(tmp_path: Path) -> None:
    results = write_results(tmp_path)
    content = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save(content, tmp_path / "alone.pth")
    torch.save(content["network_weights"], tmp_path / "weights.pth")
    for name in ("alone.pth", "weights.pth"):
        refused(tmp_path / name, "results folder")
        refused(tmp_path / name, "results folder", architecture="nnunet")
    assert load_network(results / "fold_0" / "checkpoint_final.pth").plans is not None


def test_a_file_that_does_not_say_its_architecture_is_told_what_its_tensors_look_like(tmp_path: Path, state) -> None:
    torch.save(state, tmp_path / "n.pth")
    refused(tmp_path / "n.pth", "named like those of unet")


def test_what_cannot_be_known_of_weights_is_kept_for_the_sidecar(tmp_path: Path) -> None:
    """Tensors that fit may be of another variant, and then the logits are other ones."""
    state = load_network("unet").module.state_dict()
    torch.save(state, tmp_path / "mine.pth")
    network = load_network(tmp_path / "mine.pth", architecture="unet")
    assert "mine.pth was read as unet, as asked for: that its tensors fit does not show" in network.origin
