"""Checkpoints: weights of any origin load exactly or not at all, and no file ever runs code."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ies_helpers import load_network
from ies_helpers.segmentation import architectures as checkpoints
from ies_helpers.segmentation.architectures import Architecture, build
from tests.patients import write_network

CHANNELS = (3, 4, 5)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in build("unet", CHANNELS).module.state_dict().items()}


def floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if v.is_floating_point()}


def refused(path: Path, rule: str, **options: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        load_network(path, **options)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


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


def test_half_precision_weights_become_float32(tmp_path: Path, state) -> None:
    save_file({k: v.half() for k, v in floats(state).items()}, tmp_path / "half.safetensors")
    network = load_network(tmp_path / "half.safetensors", architecture="unet")
    assert network.dtype == torch.float32
    key = "model.0.conv.weight"
    assert torch.equal(network.module.state_dict()[key], state[key].half().float())


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
    monkeypatch.setattr(checkpoints, "fetch", lambda name: {"checkpoint": tmp_path / "model.pth"})
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
    monkeypatch.setitem(checkpoints.ARCHITECTURES, "sharp", row)
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


class Attack:
    """Unpickling it would call `open(path, "w")`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["torch", "torch, inside weights", "pickle", "pickle, inside weights"])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not_run_it(tmp_path: Path, how: str, protocol: int) -> None:
    trace, path = tmp_path / "was here", tmp_path / "weights.pth"
    content = {"a": torch.zeros(1), "b": Attack(trace)} if "inside" in how else Attack(trace)
    if how.startswith("torch"):
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    refused(
        path,
        r"weights\.pth (asks to run \S+ and was not opened|must be a PyTorch checkpoint)",
        architecture="unet",
    )
    assert not trace.exists()
    if how == "torch":  # the attack is real
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_a_name_that_promises_safetensors_does_not_open_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save(Attack(tmp_path / "was here"), path)
    refused(path, "must be a safetensors file, it cannot be read as one")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["n.safetensors", "n.pth"])
def test_a_file_cut_short_is_refused(tmp_path: Path, state, kind: str, share: float) -> None:
    path = tmp_path / kind
    save_file(floats(state), path) if kind.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, rf"{kind} must be a \w+ \w+, it cannot be read as one \(.+\)", architecture="unet")


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02.", b"PK\x03\x04", b"\x00" * 200])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "n.pth").write_bytes(content)
    refused(tmp_path / "n.pth", r"n\.pth must be a PyTorch checkpoint", architecture="unet")


@pytest.mark.parametrize(("content", "told"), [([1, 2], "list"), ({"a": 3}, "dict"), (torch.ones(2), "Tensor")])
def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "n.pth")
    refused(tmp_path / "n.pth", f"must be a state_dict of tensors, n.pth holds a {told}", architecture="unet")


STRANGE = {
    "sparse": torch.eye(3).to_sparse(),
    "without values": torch.zeros(3, device="meta"),
    "one value for 4 TB": torch.zeros(1).expand(2**40),
}


@pytest.mark.parametrize("how", STRANGE)
def test_a_tensor_that_does_not_hold_its_values_is_refused(tmp_path: Path, state, how: str) -> None:
    torch.save(state | {"model.0.conv.bias": STRANGE[how]}, tmp_path / "n.pth")
    rule = r"must hold tensors with their values, in n\.pth model\.0\.conv\.bias has not"
    refused(tmp_path / "n.pth", rule, architecture="unet")


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
    have = {p.stem for p in (checkpoints.data_folder() / "checkpoints").glob("*.safetensors")}
    for name in {"unet", "nnunet", "swin_unetr"} - have:
        with pytest.raises(ValueError, match=f"Shipped networks are .*unet.*no weights for {name} yet"):
            load_network(name)


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
    assert checkpoints._device("auto") == torch.device("cpu")


def test_the_tiny_network_of_the_scenes_is_on_disk_what_it_is_in_memory(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.safetensors")
    network = load_network(path)
    stored = load_file(path)
    assert all(torch.equal(network.module.state_dict()[key], value) for key, value in stored.items())
    assert network.digest() == load_network(path).digest()


@pytest.mark.parametrize("other", ["nnunet", "swin_unetr", "vnet"])
@pytest.mark.parametrize("name", ["unet", "published:unet"])
def test_a_name_that_says_its_architecture_takes_no_other(name: str, other: str, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "fetch", lambda _: {"checkpoint": Path("not read")})
    with pytest.raises(ValueError, match=f"{name} is a unet; got '{other}': leave it out"):
        load_network(name, architecture=other)


def test_a_merging_is_for_a_swin_unetr_alone() -> None:
    with pytest.raises(ValueError, match="for swin_unetr, got it for unet"):
        load_network("unet", merging="monai-0.9")
    assert load_network("unet", architecture="unet").name == "unet"


def test_weights_one_level_down_are_found_or_how_to_get_at_them_is_told(tmp_path: Path, state) -> None:
    for content in ({"model": {"state_dict": state}}, {"state_dict": {"model": state}}):
        torch.save(content, tmp_path / "n.pth")
        assert load_network(tmp_path / "n.pth", architecture="unet").name == "n"
    torch.save({"epoch": 3, "model": {"lr": 0.1, "net": state}}, tmp_path / "n.pth")
    rule = r"n\.pth holds a dict of lr, net; take its weights out: torch\.save\(torch\.load\(file\)\['model'\]\['net'\]"
    refused(tmp_path / "n.pth", rule, architecture="unet")
    torch.save(torch.load(tmp_path / "n.pth")["model"]["net"], tmp_path / "another.pth")
    assert load_network(tmp_path / "another.pth", architecture="unet").name == "another"


def test_weights_that_are_not_finite_are_told_from_those_of_another_architecture(tmp_path: Path, state) -> None:
    state["model.0.conv.bias"][0] = float("nan")
    torch.save(state, tmp_path / "n.pth")
    rule = r"must hold finite weights, of its tensors 1 not finite \(model\.0\.conv\.bias\).* take an earlier file"
    refused(tmp_path / "n.pth", rule, architecture="unet")


@pytest.mark.parametrize(("content", "why"), [(b"\x80\x02.", "pop from empty"), (b"\0" * 200, "Unsupported operand 0")])
def test_a_file_that_cannot_be_read_is_told_what_to_give(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "n.pth").write_bytes(content)
    rule = rf"cannot be read as one \({why}.*\): fetch it again, or write it with torch\.save"
    refused(tmp_path / "n.pth", rule, architecture="unet")
