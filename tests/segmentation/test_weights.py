"""Files of weights: every tensor by its name, in float32, and no file ever runs code."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ies_helpers import load_network
from ies_helpers.segmentation.weights import read_weights
from tests.weights import floats, refused


def test_half_precision_weights_become_float32(tmp_path: Path, state) -> None:
    save_file({k: v.half() for k, v in floats(state).items()}, tmp_path / "half.safetensors")
    with pytest.warns(UserWarning, match="float16"):
        network = load_network(tmp_path / "half.safetensors", architecture="unet")
    assert network.dtype == torch.float32
    key = "model.0.conv.weight"
    assert torch.equal(network.module.state_dict()[key], state[key].half().float())


def test_weights_one_level_down_are_found_or_how_to_get_at_them_is_told(tmp_path: Path, state) -> None:
    for content in ({"model": {"state_dict": state}}, {"state_dict": {"model": state}}):
        torch.save(content, tmp_path / "n.pth")
        assert load_network(tmp_path / "n.pth", architecture="unet").name == "n"
    torch.save({"epoch": 3, "model": {"lr": 0.1, "weird": state}}, tmp_path / "n.pth")
    rule = r"n\.pth holds a dict of lr, weird; take its weights out: torch\.save\(torch\.load\(.*\['model'\]\['weird'\]"
    refused(tmp_path / "n.pth", rule, architecture="unet")
    torch.save(torch.load(tmp_path / "n.pth")["model"]["weird"], tmp_path / "another.pth")
    assert load_network(tmp_path / "another.pth", architecture="unet").name == "another"


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "model.",
        "_model.",
        "net.",
        "network.",
        "model.module.",
        "_model._model.",
    ],
)
def test_what_a_wrapper_writes_before_every_name_is_taken_off_and_what_lies_beside_is_told(
    tmp_path, state, prefix
) -> None:
    """The network's own names begin with `model.` too: stripped once too often they would not fit."""
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "n.ckpt")
    loaded = load_network(tmp_path / "n.ckpt", architecture="unet").module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in floats(state).items())
    torch.save(
        {"state_dict": {prefix + k: v for k, v in state.items()} | {"loss.w": torch.ones(2)}}, tmp_path / "n.ckpt"
    )
    with pytest.warns(UserWarning, match=r"left aside: loss\.w"):
        loaded = load_network(tmp_path / "n.ckpt", architecture="unet").module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in floats(state).items())


def test_what_a_trainer_logs_beside_the_weights_runs_no_code_and_is_no_obstacle(tmp_path: Path, state) -> None:
    logged = {
        "best": np.float64(0.5),
        "epochs": np.arange(3),
        "options": argparse.Namespace(lr=0.1),
        "folder": Path("somewhere"),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    for key in ("state_dict", "model", "network_weights", "model_state", "net", "ema"):
        torch.save({key: state} | logged, tmp_path / "n.pt")
        loaded = load_network(tmp_path / "n.pt", architecture="unet").module.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in floats(state).items()), key


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_rounded_weights_are_raised_and_it_is_said(tmp_path: Path, state, kind: torch.dtype) -> None:
    torch.save({k: v.to(kind) for k, v in floats(state).items()}, tmp_path / "n.pth")
    found = read_weights(tmp_path / "n.pth")
    assert all(torch.equal(found.tensors[k], v.to(kind).float()) for k, v in floats(state).items())
    assert str(kind).removeprefix("torch.") in found.notes[0]


def test_shards_are_read_by_their_index_and_a_missing_one_is_named(tmp_path: Path, state) -> None:
    names = sorted(floats(state))
    for n, some in enumerate((names[::2], names[1::2])):
        save_file({k: state[k] for k in some}, tmp_path / f"n-{n}.safetensors")
    where = {k: f"n-{i % 2}.safetensors" for i, k in enumerate(names)}
    index = tmp_path / "n.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    network = load_network(index, architecture="unet")
    assert network.name == "n"
    assert all(torch.equal(network.module.state_dict()[k], v) for k, v in floats(state).items())
    index.write_text(json.dumps({"weight_map": where | {names[0]: "../n-0.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"no \.\./n-0\.safetensors"):
        load_network(index, architecture="unet")
    index.write_text("[]")
    refused(index, "weight_map", architecture="unet")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>sign in</html>", "a web page"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["n.pth", "n.safetensors"])
def test_what_is_saved_in_place_of_weights_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, told, architecture="unet")


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
    rule = rf"{kind} must be a \w+ \w+, it cannot be read as one \(.+\)" if share else f"{kind} is an empty file"
    refused(path, rule, architecture="unet")


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


@pytest.mark.parametrize(("content", "why"), [(b"\x80\x02.", "pop from empty"), (b"\0" * 200, "Unsupported operand 0")])
def test_a_file_that_cannot_be_read_is_told_what_to_give(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "n.pth").write_bytes(content)
    rule = rf"cannot be read as one \({why}.*\): fetch it again, or write it with torch\.save"
    refused(tmp_path / "n.pth", rule, architecture="unet")
