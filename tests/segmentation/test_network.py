"""Networks: heads and classes of every kind, state and precision that come back, what is remembered of them."""

import gc
import hashlib
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ies_helpers import Network, gradient, predict, predict_logits
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.inference import importance, total_importance, window_boxes
from ies_helpers.segmentation.network import Averaged, Memory, as_network, at_rest, ensemble, one_class, true_float32
from ies_helpers.teaching import Linear


class Head(nn.Module):
    """Answers with what it was made to answer, given FLAIR."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor):
        z = x[:, :1]
        two = torch.cat([torch.zeros_like(z), z], dim=1)
        stacked = torch.stack([two, -two], dim=1)
        half = two[..., ::2]
        kinds = {"two": two, "one": z, "list": [two, half], "half first": (half, [two]), "small": half, "empty": []}
        several = {"nested": ([two], -two), "named": {"out": two, "aux": -two}}
        return {**kinds, **several, "stacked": stacked, "dict": {"out": two, "features": half}}[self.kind]


@pytest.mark.parametrize("kind", ["two", "one", "list", "half first", "stacked", "dict"])
def test_every_kind_of_head_gives_the_same_probability(kind: str) -> None:
    """Of several entries the one at full resolution is meant, wherever it stands."""
    image = torch.randn(2, 8, 8, 8)
    assert torch.allclose(predict(Head(kind), image), image[0].sigmoid())


@pytest.mark.parametrize(("kind", "output", "sign"), [("nested", 0, 1), ("nested", -1, -1), ("named", "aux", -1)])
def test_of_several_at_full_resolution_one_must_be_named_and_is_part_of_the_digest(kind, output, sign) -> None:
    image, head = torch.randn(2, 8, 8, 8), Head(kind)
    with pytest.raises(ValueError, match="puts out 2"):
        predict(head, image)
    network = Network(head, output=output)
    assert torch.allclose(predict(network, image), (sign * image[0]).sigmoid())
    assert network.digest() != Network(head, output="out" if kind == "named" else 1).digest()
    with pytest.raises(ValueError, match="'other'"):
        predict(Network(head, output="other"), image)


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mapped \(1, 2, 8, 8, 8\) to \(1, 2, 8, 8, 4\)"):
        predict(Head("small"), torch.randn(2, 8, 8, 8))


def test_an_output_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head mapped \(1, 2, 8, 8, 8\) to a list of 0 entries"):
        predict(Head("empty"), torch.randn(2, 8, 8, 8))


def unet_parameters(c: tuple[int, ...]) -> int:
    """Kernels of 3^3 and biases, with two batch-norm and one PReLU parameter sets behind all but the last."""
    down = [(2, c[0]), *pairwise(c)]
    up = [(c[-1] + c[-2], c[-3]), *((2 * c[n], c[n - 1]) for n in range(len(c) - 3, 0, -1))]
    behind = sum(27 * a * b + b + 2 * b + 1 for a, b in [*down, *up])
    return behind + 27 * 2 * c[0] * 2 + 2


@pytest.mark.parametrize(("architecture", "stride"), [("unet", 16), ("nnunet", 4), ("swin_unetr", 32)])
def test_architectures_are_used_as_published(architecture: str, stride: int) -> None:
    network = build(architecture)
    assert network.stride == (stride, stride, stride)
    assert network.window == 96
    assert network.threshold == (0.3 if architecture == "unet" else 0.4)
    assert network.through == ("whole" if architecture == "unet" else "windows")
    assert network.layer in dict(network.module.named_modules())


@pytest.mark.parametrize("channels", [(32, 64, 128, 256, 512), (16, 32, 64, 128, 256), (4, 8, 16)])
def test_the_unet_has_the_parameters_of_its_kernels(channels: tuple[int, ...]) -> None:
    assert sum(p.numel() for p in build("unet", channels).module.parameters()) == unet_parameters(channels)


def test_the_nnunet_has_the_published_342_thousand_parameters() -> None:
    assert sum(p.numel() for p in build("nnunet").module.parameters()) == 341_922


def test_a_network_rests_inside_and_wakes_as_it_was_also_after_an_error() -> None:
    module = nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2), nn.Dropout3d()).train()
    module[1].eval()
    module[0].bias.requires_grad_(False)  # pyright: ignore
    tf32 = torch.backends.cudnn.allow_tf32

    def fail() -> None:
        with at_rest(as_network(module)):
            assert not any(m.training for m in module.modules())
            assert not any(p.requires_grad for p in module.parameters())
            assert not torch.backends.cudnn.allow_tf32
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_the_digest_knows_the_weights() -> None:
    torch.manual_seed(1)
    first, second = build("unet", (2, 3)), build("unet", (2, 3))
    assert first.digest() != second.digest()
    second.module.load_state_dict(first.module.state_dict())
    assert first.digest() == second.digest()
    assert len(first.digest()) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_digest_hashes_names_and_bytes_of_any_precision(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)).to(dtype)
    sha = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        sha.update(key.encode() + bytes(value.contiguous().untyped_storage()))
    assert Network(module).digest() == sha.hexdigest()[:16]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        *(({"window": w}, r"window must be a side of 1 .* None; got") for w in (0, -4, 32.5, (32, 32), (), [96] * 3)),
        *(({"overlap": o}, r"overlap must be a share .* from 0 to below 1, got") for o in (-1, 1.0, float("nan"))),
        *(({"threshold": t}, "threshold must lie between 0 and 1, got") for t in (3.0, 0, float("nan"))),
        ({"placing": "mine"}, "placing must be one of monai, nnunet, got 'mine'"),
        ({"weighting": "flat"}, "weighting must be one of gaussian, constant, got 'flat'"),
    ],
)
def test_a_setting_that_is_not_as_said_is_refused_at_once(setting: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Network(nn.Identity(), **setting)


def test_a_window_may_be_counted_in_whole_numbers_of_any_kind() -> None:
    assert Network(nn.Identity(), window=np.int64(32)).sides == (32, 32, 32)
    assert Network(nn.Identity(), window=(np.int64(32), 24, 16), overlap=0).sides == (32, 24, 16)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="one of unet, nnunet, swin_unetr, got 'vnet'"):
        build("vnet")
    with pytest.raises(ValueError, match="through windows needs one"):
        Network(nn.Identity(), through="windows")
    with pytest.raises(ValueError, match="one of whole, windows, got 'both'"):
        Network(nn.Identity(), through="both")  # pyright: ignore[reportArgumentType]


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


PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = [p.fp32_precision for p in PRODUCTS] if NEWER else []
    yield
    torch.set_float32_matmul_precision("highest")
    for products, precision in zip(PRODUCTS, before, strict=False):
        products.fp32_precision = precision  # pyright: ignore


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_matrix_products_are_exact_inside_and_as_they_were_afterwards(asked: str) -> None:
    torch.set_float32_matmul_precision(asked)
    seen = [p.fp32_precision for p in PRODUCTS] if NEWER else []
    with warnings.catch_warnings(action="error"), at_rest(as_network(Linear())):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == asked
    assert torch.backends.cuda.matmul.allow_tf32 == (asked != "highest")
    assert seen == ([p.fp32_precision for p in PRODUCTS] if NEWER else [])


def test_the_older_flag_comes_back_also_after_an_error() -> None:
    def fail() -> None:
        with true_float32():
            assert not torch.backends.cuda.matmul.allow_tf32
            raise RuntimeError("inside")

    torch.backends.cuda.matmul.allow_tf32 = True
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not NEWER, reason="torch before 2.9 has the older names alone")
@pytest.mark.parametrize("which", [0, 1], ids=["cuda", "cpu"])
def test_what_was_set_by_the_newer_names_is_kept_by_them(which: int) -> None:
    """Torch then refuses to read the older ones."""
    products = PRODUCTS[which]
    products.fp32_precision = "tf32"  # pyright: ignore
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    with warnings.catch_warnings(action="error"), true_float32():
        assert products.fp32_precision == "ieee"
    assert products.fp32_precision == "tf32"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_of_several_regions_each_is_asked_by_itself(number: int) -> None:
    network, image = Network(nn.Conv3d(2, 3, 1), lesion_class=number, head="sigmoid"), torch.randn(2, 5, 5, 5)
    wanted = predict_logits(network, image)[number].sigmoid()
    assert torch.equal(predict(network, image), wanted)
    assert network.digest() != replace(network, head="softmax").digest()
    with pytest.raises(ValueError, match="got 'tanh'"):
        replace(network, head="tanh")  # pyright: ignore[reportArgumentType]


CHANGES = {
    "weights": lambda m: m[0].weight.data.mul_(2),
    "a buffer": lambda m: m[1].running_mean.add_(1),
    "a norm": lambda m: m.__setitem__(1, nn.InstanceNorm3d(3)),
    "an equal class": lambda m: m.__setitem__(2, type("ReLU", (nn.ReLU,), {})()),
    "a slope": lambda m: setattr(m[3], "negative_slope", 0.5),
    "a table of settings": lambda m: m.settings["nested"]["scale"].append(3),
    "a hidden attribute": lambda m: setattr(m, "_scale", 2.0),
    "an object of settings": lambda m: setattr(m.options, "scale", 2.0),
    "a small tensor": lambda m: m.shift.add_(1),
    "its code": lambda m: setattr(type(m), "method", lambda self: 2),
    "a hook": lambda m: m[2].register_forward_hook(lambda *_: None),
    "precision": lambda m: m.double(),
    "device": lambda m: m.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("weights", [True, False])
def test_what_was_remembered_is_found_out_again_when_the_module_changes(change: str, weights: bool) -> None:
    class Module(nn.Sequential):
        def method(self) -> int:
            return 1

    module = Module(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.ReLU(), nn.LeakyReLU()).requires_grad_(False)
    settings: dict[str, Any] = {"settings": {"nested": {"scale": [2]}}, "options": SimpleNamespace(scale=1.0)}
    vars(module).update(settings | {"shift": torch.zeros(3)})
    memory, made = Memory(weights=weights), []

    def ask(*depends: object) -> int:
        return memory(module, *depends, make=lambda: made.append(1) or len(made))

    assert [ask(8), ask(8), ask(4), ask(8)] == [1, 1, 2, 1]
    module.train()
    module.features = torch.zeros(2, 3, 4, 5, 6)  # pyright: ignore
    assert ask(8) == 3
    module.features = torch.ones(2, 3, 4, 5, 6)  # kept of another image, which changes nothing
    assert ask(8) == 3
    if change == "device" and weights:
        return  # values that are nowhere have no hash
    CHANGES[change](module)
    assert ask(8) == (4 if weights or change not in ("weights", "a buffer") else 3)


def test_a_module_that_is_gone_is_forgotten() -> None:
    memory, module = Memory(), nn.Conv3d(1, 1, 1)
    memory(module, make=lambda: 1)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def member(outputs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv3d(2, outputs, 3, padding=1).double().requires_grad_(False)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_an_ensemble_of_averaged_probabilities_is_explained_as_what_it_is(outputs: int) -> None:
    """Its probability is the mean of its members'; its map the gradient of that mean's log odds, numerically."""
    members, image = [member(outputs, n) for n in range(3)], torch.randn(2, 6, 6, 6, dtype=torch.float64)
    network, voxel = Network(Averaged(members)), (3, 2, 4)

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        each = [m(x[None])[0] for m in members]
        return torch.stack([y.sigmoid() if outputs == 1 else y.softmax(dim=0) for y in each]).mean(dim=0)

    def logit(x: torch.Tensor) -> torch.Tensor:
        p = probabilities(x)[(slice(None), *voxel)]
        return (p / (1 - p)).log()[0] if outputs == 1 else p.log()[1]

    torch.testing.assert_close(predict(network, image), probabilities(image)[min(1, outputs - 1)].float())
    step = 1e-5 * torch.randn(2, 6, 6, 6, dtype=torch.float64)
    wanted = (logit(image + step) - logit(image - step)) / 2
    got = gradient(network, image, np.array([voxel]), aggregate="sum").double()
    offset = float(len(members)) if outputs > 1 else 0.0  # log of a sum in place of a mean: a constant
    assert torch.allclose(network.lesion_logit(image[None])[0][voxel], logit(image) + np.log(offset or 1.0))
    assert float((got * step).sum()) == pytest.approx(float(wanted), rel=1e-5)


def test_an_ensemble_averages_logits_and_reads_its_layer_in_the_first_member() -> None:
    networks = [Network(nn.Sequential(member(2, n)), f"n{n}", layer="0", threshold=0.3) for n in range(3)]
    both, x = ensemble(networks, "three"), torch.randn(1, 2, 6, 6, 6, dtype=torch.float64)
    assert (both.name, both.passes, both.threshold, both.layer) == ("three", 3, 0.3, "members.0.0")
    torch.testing.assert_close(both.logits(x), torch.stack([n.logits(x) for n in networks]).mean(dim=0))
    assert len({both.digest(), *(n.digest() for n in networks)}) == 4


def test_an_ensemble_of_one_or_of_unlike_members_is_refused() -> None:
    one, other = Network(member(2, 0), "one"), Network(member(3, 1), "other")
    with pytest.raises(ValueError, match="two members or more, got 1"):
        ensemble([one], "alone")
    with pytest.raises(ValueError, match="built alike; other differs at bias"):
        ensemble([one, other], "unlike")
    with pytest.raises(ValueError, match="alike in their sides; one and other have None and"):
        ensemble([one, Network(member(2, 1), "other", window=8)], "unlike")
    with pytest.raises(ValueError, match="alike in their channels"):
        ensemble([one, Network(member(2, 1), "other", channels=("flair", "t1"))], "unlike")


def test_an_image_of_a_side_that_a_network_does_not_take_is_one_sentence() -> None:
    network = Network(build("nnunet", (2, 3, 4)).module, "narrow", stride=(2, 2, 2))
    with pytest.raises(ValueError, match=r"narrow does not take 18 x 16 x 16 .*stride \(2, 2, 2\), which may be wrong"):
        predict(network, torch.randn(2, 18, 16, 16))


def test_a_network_without_a_stride_is_padded_to_what_it_takes() -> None:
    """41 x 46 x 39 of an instance norm's network ended in PyTorch's words."""
    module = build("nnunet", (2, 3, 4)).module
    image = torch.randn(2, 21, 18, 19)
    wanted = module(torch.nn.functional.pad(image, [0, 1, 0, 2, 0, 3])[None]).softmax(dim=1)[0, 1, :21, :18, :19]
    torch.testing.assert_close(predict(Network(module), image), wanted)


class Elsewhere(nn.Module):
    """What a TorchScript says that was traced on a GPU and is run on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
        )


def test_a_network_with_values_on_another_device_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"elsewhere holds values of another one .*cuda:0 and cpu"):
        predict(Network(Elsewhere(), "elsewhere", stride=(1, 1, 1)), torch.randn(2, 8, 8, 8))
