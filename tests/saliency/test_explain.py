"""Explain: every map right and once, resumed where it stopped, never mixed with another's."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ies_helpers import Network, explain, gradcam_pp, gradient, smoothgrad
from ies_helpers.arrays import Box
from ies_helpers.saliency import comparison
from ies_helpers.saliency import explain as module
from ies_helpers.saliency import smoothgrad as engine
from ies_helpers.saliency import smoothgrad as noise_module
from ies_helpers.saliency.comparison import input_x_gradient, integrated_gradients, kernel_shap, occlusion
from ies_helpers.saliency.farfield import deviation
from ies_helpers.saliency.methods import METHODS
from ies_helpers.saliency.smoothgrad import smoothgrad_average
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects.folder import read_maps
from tests.networks import nnunet
from tests.patients import ball, files_below, lesion_of, strays, subject_in_memory

SUBJECT = subject_in_memory()
LESIONS = [
    lesion_of(ball(SUBJECT.shape, (10, 10, 10), 1.2), 1),
    lesion_of(ball(SUBJECT.shape, (14, 20, 8), 1.5), 4, "FN"),
]


@pytest.fixture
def network() -> Network:
    """Narrow, seen whole."""
    torch.manual_seed(3)
    return replace(build("unet", (2, 3, 4)), name="narrow", window=None, layer="model.1.submodule.2.conv", stride=None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each gradient taken."""
    made: list[int] = []
    take = engine.LesionGradient.__call__

    def counted(self, image):
        made.append(len(self.voxels))
        return take(self, image)

    monkeypatch.setattr(engine.LesionGradient, "__call__", counted)
    return made


def read(folder: Path, name: str) -> torch.Tensor:
    """The map of a `desc-`, its modalities stacked."""
    images = sorted((folder / "sub-toy" / "anat").glob(f"*_desc-{name}_*.nii.gz"))
    return torch.from_numpy(np.stack([np.asanyarray(nibabel.load(p).dataobj) for p in images]))


def run(network: Network, out: Path, lesions=LESIONS, **settings) -> pd.DataFrame:
    return explain(SUBJECT, network, lesions, out, **{"aggregate": "mean", "draws": 3} | settings)


# Truth


def test_files_hold_exactly_what_the_functions_return(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path, seed=5, noise=0.1)
    run(network, tmp_path, method="gradient", aggregate="max")
    run(network, tmp_path, method="gradcam++")
    for lesion in LESIONS:
        drawn = smoothgrad(network, SUBJECT.image, lesion, aggregate="mean", draws=3, seed=5, noise=0.1)
        assert torch.equal(read(tmp_path, f"smoothgradmean{lesion.label}"), drawn)
        expected = gradient(network, SUBJECT.image, lesion, aggregate="max")
        assert torch.equal(read(tmp_path, f"gradientmax{lesion.label}"), expected)
        assert torch.equal(read(tmp_path, f"gradcampp{lesion.label}"), gradcam_pp(network, SUBJECT.image, lesion))


def test_the_index_grows_with_every_run_in_the_folder(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path)
    index = run(network, tmp_path, method="gradcam")
    rows = {(r.lesion, r.group, r.method, r.modality) for r in index.itertuples()}
    expected = {(le.number, le.group, m, c) for le in LESIONS for m, c in PARTS}
    assert rows == expected
    assert len(index) == len(expected) == len(pd.read_csv(tmp_path / "maps.tsv", sep="\t"))


PARTS = (("smoothgrad", "flair"), ("smoothgrad", "t1"), ("gradcam", "all"))


def test_a_sidecar_tells_what_the_method_used_and_no_more(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path, noise=0.1)
    run(network, tmp_path, method="gradcam++")
    sidecars = {p.name: json.loads(p.read_text()) for p in (tmp_path / "sub-toy" / "anat").glob("*.json")}
    drawn = sidecars["sub-toy_desc-smoothgradmeanL004_T1w.json"]
    flair = SUBJECT.image[0]
    assert drawn["sigma"] == pytest.approx(0.1 * float(flair.max() - flair.min()))
    assert (drawn["voxels"], drawn["layer"], drawn["digest"]) == (len(LESIONS[1]), None, network.digest())
    assert drawn["unit"] == "logit per unit of z-scored intensity"
    cam = sidecars["sub-toy_desc-gradcamppL001_FLAIR.json"]
    assert [cam[k] for k in ("modality", "draws", "seed", "sigma", "aggregate")] == ["all", None, None, None, None]
    assert cam["layer"] == "model.1.submodule.2.conv"


class ReadsSecond(nn.Module):
    """The lesion's logit is the second channel's square, in a network that names no channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([0 * x[:, 1], x[:, 1] ** 2], dim=1)


def test_with_t1_first_noise_and_names_are_those_of_the_channels(tmp_path: Path) -> None:
    """Sigma is 5 % of the range of FLAIR, not of the first; its file has its map, and that of T1 is empty."""
    image = torch.stack([3 * SUBJECT.image[1], SUBJECT.image[0]])
    turned = replace(SUBJECT, image=image, channels=("t1", "flair"))
    explain(turned, ReadsSecond(), LESIONS[:1], tmp_path, draws=2)
    flair, t1 = (
        json.loads((tmp_path / f"sub-toy/anat/sub-toy_desc-smoothgradmaxL001_{suffix}.json").read_text())
        for suffix in ("FLAIR", "T1w")
    )
    assert flair["sigma"] == t1["sigma"] == noise_module.noise_sigma(SUBJECT.image, 0.05, SUBJECT.channels)
    assert flair["sigma"] != noise_module.noise_sigma(image, 0.05)
    assert (flair["status"], t1["status"]) == ("ok", "empty")
    given = smoothgrad(ReadsSecond(), image, LESIONS[0], draws=2, channels=turned.channels)
    saved = read(tmp_path, f"smoothgradmax{LESIONS[0].label}")  # FLAIR first, as files are sorted
    assert torch.equal(saved, given.flip(0))
    noisy = [noise_module.noisy_image(image, flair["sigma"], 0, draw)[1] for draw in range(2)]
    wanted = 2 * sum(noisy) / 2 * torch.from_numpy(ball(SUBJECT.shape, (10, 10, 10), 1.2))
    assert torch.allclose(saved[0], wanted, rtol=1e-5, atol=1e-6)


def test_the_path_through_windows_is_told_and_its_size_is_part_of_the_map(network: Network, tmp_path: Path) -> None:
    windows = replace(network, window=16, through="windows")
    run(windows, tmp_path, method="gradient")
    with pytest.raises(
        ValueError,
        match=r"windows 16 x 16 x 16 voxels, overlap 0\.25, gaussian instead of 20 x 20 x 20 voxels, overlap 0.25",
    ):
        run(replace(windows, window=20), tmp_path, method="gradient")
    with pytest.raises(
        ValueError, match=r"through windows instead of whole, windows 16 x 16 x 16 voxels.* instead of None"
    ):
        run(network, tmp_path, method="gradient")


def test_channels_in_another_order_are_put_into_the_networks_and_it_is_said(network: Network, tmp_path: Path) -> None:
    turned = replace(SUBJECT, image=SUBJECT.image.flip(0), channels=("t1", "flair"))
    named = replace(network, channels=("flair", "t1"))
    with pytest.warns(UserWarning, match="t1, flair.*order flair, t1"):
        explain(turned, named, LESIONS, tmp_path, aggregate="mean", draws=2)
    wanted = smoothgrad(network, SUBJECT.image, LESIONS[0], aggregate="mean", draws=2)
    assert torch.equal(read(tmp_path, "smoothgradmeanL001"), wanted)
    with pytest.raises(ValueError, match=r"has flair and lacks t1"):
        explain(turned.with_channels(["flair"]), named, LESIONS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sidecar_tells_the_peak_with_its_standard_error(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path / "three", noise=0.1)
    run(network, tmp_path / "one", draws=1)
    average = smoothgrad_average(network, SUBJECT.image, LESIONS[1], aggregate="mean", draws=3, noise=0.1)
    for suffix in ("FLAIR", "T1w"):
        told = sidecar_of(tmp_path / "three", f"smoothgradmeanL004_{suffix}")
        peak = told["peak"]
        assert (told["draws"], told["tolerance"]) == (3, None)
        assert (peak["value"], peak["standard_error"]) == (average.peak.value, average.peak.standard_error)
        assert read(tmp_path / "three", "smoothgradmeanL004")[:, *peak["voxel"]].abs().max() == pytest.approx(
            abs(peak["value"]), rel=1e-6
        )
        assert peak["modality"] == SUBJECT.channels[average.peak.channel]
        assert sidecar_of(tmp_path / "one", f"smoothgradmeanL004_{suffix}")["peak"]["standard_error"] is None


def sidecar_of(folder: Path, name: str) -> dict:
    """What is told of the map of a `desc-` and suffix."""
    return json.loads((folder / "sub-toy" / "anat" / f"sub-toy_desc-{name}.json").read_text())


def test_auto_writes_how_many_draws_there_were_and_is_finished_with_them(network, tmp_path, calls) -> None:
    index = run(network, tmp_path, draws="auto")
    made = [sidecar_of(tmp_path, f"smoothgradmean{lesion.label}_FLAIR") for lesion in LESIONS]
    assert [told["tolerance"] for told in made] == [0.02, 0.02]
    assert len(calls) == sum(told["draws"] for told in made)
    assert index["draws"].tolist() == [told["draws"] for told in made for _ in range(2)]
    for told, lesion in zip(made, LESIONS, strict=True):
        assert told["peak"]["standard_error"] <= 0.02 * abs(told["peak"]["value"])
        same = smoothgrad(network, SUBJECT.image, lesion, aggregate="mean", draws=told["draws"])
        assert torch.equal(read(tmp_path, f"smoothgradmean{lesion.label}"), same)
    calls.clear()
    run(network, tmp_path, draws="auto")
    assert calls == []
    with pytest.raises(ValueError, match=r"was made with tolerance 0\.02 instead of None"):
        run(network, tmp_path, draws=made[0]["draws"])
    with pytest.raises(ValueError, match="was made with seed 0 instead of 1"):
        run(network, tmp_path, draws="auto", seed=1)


# Nothing twice, nothing lost, nothing mixed


def test_a_finished_map_is_not_computed_again(network: Network, tmp_path: Path, calls: list[int]) -> None:
    run(network, tmp_path, LESIONS[:1])
    assert len(calls) == 3
    stamps = {n: (tmp_path / n).stat().st_mtime_ns for n in files_below(tmp_path) if n.endswith(".nii.gz")}
    run(network, tmp_path)
    assert calls[3:] == [len(LESIONS[1])] * 3
    run(network, tmp_path)
    assert len(calls) == 6
    assert stamps.items() <= {n: (tmp_path / n).stat().st_mtime_ns for n in files_below(tmp_path)}.items()


class StoppedError(Exception):
    """Something that happens to a run from outside."""


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_run_that_stops_goes_on_to_the_same_maps(network, tmp_path, calls, monkeypatch, last: int) -> None:
    """The draws before the stop are not made again."""
    run(network, tmp_path / "straight")
    calls.clear()
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    noise = noise_module.noisy_image

    def stopping(image, sigma, seed, draw):
        if draw == last:
            raise StoppedError
        return noise(image, sigma, seed, draw)

    monkeypatch.setattr(noise_module, "noisy_image", stopping)
    with pytest.raises(StoppedError):
        run(network, tmp_path / "broken")
    assert (tmp_path / "broken" / "maps.tsv").is_file()
    monkeypatch.setattr(noise_module, "noisy_image", noise)
    run(network, tmp_path / "broken")
    assert len(calls) == 6
    for lesion in LESIONS:
        name = f"smoothgradmean{lesion.label}"
        assert torch.equal(read(tmp_path / "broken", name), read(tmp_path / "straight", name))
    assert strays(tmp_path) == []


def test_sums_of_more_draws_are_not_taken_for_those_of_fewer(network, tmp_path, monkeypatch) -> None:
    """Stopped after two of three draws, then asked for one: a third of the sum of two would be wrong."""
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    noise = noise_module.noisy_image
    monkeypatch.setattr(
        noise_module, "noisy_image", lambda *a: noise(*a) if a[3] < 2 else (_ for _ in ()).throw(StoppedError)
    )
    with pytest.raises(StoppedError):
        run(network, tmp_path)
    run(network, tmp_path, draws=1)
    expected = smoothgrad(network, SUBJECT.image, LESIONS[0], aggregate="mean", draws=1)
    assert torch.equal(read(tmp_path, "smoothgradmeanL001"), expected)


def test_two_subjects_in_one_folder_keep_their_own_state(network, tmp_path, monkeypatch, calls) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    noise = noise_module.noisy_image
    monkeypatch.setattr(
        noise_module, "noisy_image", lambda *a: noise(*a) if a[3] < 2 else (_ for _ in ()).throw(StoppedError)
    )
    with pytest.raises(StoppedError):
        run(network, tmp_path)
    monkeypatch.setattr(noise_module, "noisy_image", noise)
    explain(subject_in_memory(name="other", seed=1), network, LESIONS, tmp_path, aggregate="mean", draws=2)
    calls.clear()
    run(network, tmp_path)
    assert len(calls) == 2
    assert strays(tmp_path) == []


def test_two_methods_and_aggregates_share_a_folder(network: Network, tmp_path: Path) -> None:
    for method, aggregate in (("smoothgrad", "mean"), ("smoothgrad", "max"), ("gradient", "mean"), ("gradcam", "mean")):
        index = run(network, tmp_path, LESIONS[:1], method=method, aggregate=aggregate)
    assert len(index) == 7
    assert index["path"].nunique() == 7


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"draws": 4}, "draws 3 instead of 4"),
        ({"seed": 9}, "seed 0 instead of 9"),
        ({"noise": 0.2}, "noise 0.05 instead"),
    ],
)
def test_other_settings_under_the_same_name_are_refused_before_any_work(
    network, tmp_path, calls, settings, told
) -> None:
    run(network, tmp_path)
    calls.clear()
    with pytest.raises(ValueError, match=f"was made with {told}"):
        run(network, tmp_path, **settings)
    assert calls == []


def test_another_network_image_or_lesion_under_the_same_name_is_refused(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path, method="gradcam")
    torch.manual_seed(4)
    other = replace(network, module=build("unet", (2, 3, 4)).module)
    with pytest.raises(ValueError, match=f"digest {network.digest()} instead of {other.digest()}"):
        run(other, tmp_path, method="gradcam")
    with pytest.raises(ValueError, match=r"was made with image \w+ instead of"):
        explain(subject_in_memory(seed=1), network, LESIONS, tmp_path, method="gradcam")
    moved = [replace(le, voxels=le.voxels + 1) for le in LESIONS]
    with pytest.raises(ValueError, match=r"was made with image \w+ instead of"):
        run(network, tmp_path, moved, method="gradcam")


def test_a_full_disk_keeps_what_was_finished(network, tmp_path, monkeypatch, calls) -> None:
    save = module.save_map

    def full(folder, subject, saliency, record, command):
        if record.lesion == 4:
            raise OSError(28, "No space left on device")
        return save(folder, subject, saliency, record, command)

    monkeypatch.setattr(module, "save_map", full)
    with pytest.raises(OSError, match="No space left"):
        run(network, tmp_path)
    assert pd.read_csv(tmp_path / "maps.tsv", sep="\t")["lesion"].tolist() == [1, 1]
    monkeypatch.setattr(module, "save_map", save)
    calls.clear()
    run(network, tmp_path)
    assert set(calls) == {len(LESIONS[1])}
    assert strays(tmp_path) == []


# Mistakes


@pytest.mark.parametrize(
    ("settings", "met"),
    [
        ({"method": "lime"}, "'lime'"),
        ({"noise": -0.1}, "-0.1"),
        ({"method": "input-x-gradient", "baseline": "mean"}, "'mean'"),
        ({"method": "gradcam", "layer": None}, "None"),
    ],
)
def test_what_a_recipe_or_network_cannot_is_refused_before_the_folder_is_made(
    network: Network, tmp_path: Path, settings: dict, met: str
) -> None:
    network = replace(network, layer=settings.pop("layer", network.layer))
    with pytest.raises(ValueError, match=met):
        run(network, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_no_lesion_is_refused_before_the_folder_is_made(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a lesion to explain, got none; lower the threshold"):
        run(network, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*zeros are put around")
def test_an_image_below_one_window_is_explained_as_with_zeros_around_it(network: Network, tmp_path: Path) -> None:
    """MONAI's inferer puts half of the missing voxels before the image, the odd one behind it."""
    windowed = replace(network, window=44, through="windows", stride=(4, 4, 4))
    run(windowed, tmp_path, LESIONS[:1], method="gradient", aggregate="max")
    start = [(44 - n) // 2 for n in SUBJECT.shape]
    box = Box.of(start, np.add(start, SUBJECT.shape))
    whole = torch.zeros(2, 44, 44, 44)
    whole[:, *box] = SUBJECT.image
    wanted = gradient(windowed, whole, LESIONS[0].voxels + box.start, aggregate="max")[:, *box]
    got = read(tmp_path, "gradientmaxL001")
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


def test_the_network_comes_back_as_it_was(network: Network, tmp_path: Path) -> None:
    network.module.train()
    network.module.requires_grad_(True)
    run(network, tmp_path)
    assert all(m.training for m in network.module.modules())
    assert all(p.requires_grad and p.grad is None for p in network.module.parameters())
    assert not any(isinstance(m, nn.Module) and m._forward_hooks for m in network.module.modules())


def test_what_fields_leave_out_is_named_measured_and_kept_apart(tmp_path) -> None:
    """Frozen leaves all far fields out; an accuracy is estimated, and measured on two voxels; exact tells nothing."""
    subject = subject_in_memory((20, 20, 20))
    lesion = lesion_of(ball(subject.shape, (10, 10, 10), 1.8), 1)
    network = replace(nnunet((2, 3, 4)), window=20)
    network.module.float()
    settings = {"method": "smoothgrad", "draws": 1}
    with pytest.warns(
        UserWarning, match=r"asked for 0\.001\); on 2 voxels taken exactly it is largest .*, l2 .*, l1 .*"
    ):
        explain(subject, network, [lesion], tmp_path / "auto", **settings)
    with pytest.warns(
        UserWarning, match=r"left out, which is an approximation: on 2 voxels taken exactly it is largest"
    ):
        explain(subject, network, [lesion], tmp_path / "frozen", **settings, statistics="frozen")
    explain(subject, network, [lesion], tmp_path / "exact", **settings, accuracy="exact")
    told, maps = {}, {}
    for name in ("auto", "frozen", "exact"):
        (path,) = (tmp_path / name).rglob("*FLAIR.nii.gz")
        told[name] = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        maps[name] = torch.from_numpy(np.asarray(nibabel.load(path).dataobj))  # pyright: ignore
        assert ("frozen" in path.name) == (name == "frozen")
    assert [told[name]["accuracy"] for name in told] == [1e-3, None, None]
    assert "fields" not in told["exact"]
    assert told["auto"]["fields"]["estimate"] <= 1e-3
    assert told["auto"]["fields"]["deviation"]["l2"] < 5e-3 < told["frozen"]["fields"]["deviation"]["l2"]
    apart = {name: deviation(maps[name], maps["exact"])["l2"] for name in ("auto", "frozen")}
    assert apart["auto"] < 5e-3 < apart["frozen"]


# Lesions and networks of one's own


def test_any_module_and_any_mask_will_do_and_the_folder_can_be_read(network: Network, tmp_path: Path) -> None:
    mask = torch.from_numpy(ball(SUBJECT.shape, (10, 10, 10), 1.2))
    control = replace(LESIONS[1], number=7, group="TN", mean_probability=np.nan)
    explain(SUBJECT, network.module, [mask, LESIONS[1].voxels], tmp_path, method="gradient")
    index = explain(SUBJECT, network.module, [control], tmp_path, method="gradient")
    assert set(zip(index["lesion"], index["group"], strict=True)) == {(1, "unknown"), (2, "unknown"), (7, "TN")}
    wanted = {1: mask, 2: LESIONS[1].mask(SUBJECT.shape), 7: LESIONS[1].mask(SUBJECT.shape)}
    for saved in read_maps(tmp_path):
        saliency, where, affine = saved.load()
        assert torch.equal(where, wanted[saved.record["lesion"]])
        assert torch.equal(saliency, gradient(network.module, SUBJECT.image, where))
        assert np.array_equal(affine, SUBJECT.affine)
    assert saved.record["network"] == "unet"


def test_a_subject_that_lies_elsewhere_is_refused_though_every_map_is_there(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path, method="gradcam")
    moved = replace(SUBJECT, affine=SUBJECT.affine @ np.diag([1, 1, 1.2, 1]))
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path) if name.endswith("gz")}
    with pytest.raises(ValueError, match=r"toy .*their voxels lie .* another --out"):
        explain(moved, network, LESIONS, tmp_path, method="gradcam")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_another_lesion_of_the_same_number_is_refused_before_any_work(network, tmp_path, calls) -> None:
    run(network, tmp_path, LESIONS[:1], method="gradcam")
    with pytest.raises(ValueError, match=r"has another lesion 1 of toy, or one in its place\. Take another --out"):
        run(network, tmp_path, [replace(LESIONS[1], number=1)])
    assert calls == []
    with pytest.raises(ValueError, match=r"must have different numbers, got \[4, 2, 4\]; give Lesions alone"):
        run(network, tmp_path, [LESIONS[1], LESIONS[0].voxels, LESIONS[1]])


# Other attributions, for comparison

INCOMPLETE = pytest.mark.filterwarnings("ignore:Integrated gradients add up")

SMALL = {
    "input-x-gradient": {"baseline": "zero"},
    "integrated-gradients": {"steps": 3},
    "occlusion": {"side": 6, "stride": 6, "reach": 4, "modalities": "each"},
    "kernel-shap": {"side": 8, "reach": 4, "samples": 90},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, large blocks."""
    for method, settings in SMALL.items():
        monkeypatch.setitem(METHODS, method, replace(METHODS[method], settings=settings))


OTHERS = {
    "input-x-gradient": (input_x_gradient, "zero"),
    "integrated-gradients": (lambda *a, **k: integrated_gradients(*a, **k).saliency, "blurred"),
    "occlusion": (occlusion, "mean"),
    "kernel-shap": (kernel_shap, "zero"),
}


@INCOMPLETE
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", OTHERS)
def test_other_attributions_are_saved_as_their_functions_give_them(method, network: Network, tmp_path: Path) -> None:
    function, baseline = OTHERS[method]
    index = run(network, tmp_path, method=method, baseline=baseline, seed=3, aggregate="max")
    assert set(index["aggregate"]) == {"mean"}
    given = {} if method == "input-x-gradient" else SMALL[method] | {"baseline": baseline}
    given |= {"seed": 3} if method == "kernel-shap" else {}
    for lesion in LESIONS:
        wanted = function(network, SUBJECT.image, lesion, **given)
        name = f"{method.replace('-', '')}mean{lesion.label}"
        assert torch.equal(read(tmp_path, name), wanted)
        told = sidecar_of(tmp_path, f"{name}_T1w")
        blur = {"blur_mm": 4.0} if baseline == "blurred" else {}
        assert told["settings"] == {"baseline": baseline} | blur | SMALL[method]
        assert (told["unit"], told["seed"]) == ("logit", 3 if method == "kernel-shap" else None)
        assert ("captum" in told) == (method == "kernel-shap")


@INCOMPLETE
@pytest.mark.usefixtures("small")
def test_the_completeness_error_is_told_beside_the_map(network: Network, tmp_path: Path) -> None:
    run(network, tmp_path, method="integrated-gradients")
    for lesion in LESIONS:
        found = integrated_gradients(network, SUBJECT.image, lesion, steps=3)
        told = sidecar_of(tmp_path, f"integratedgradientsmean{lesion.label}_FLAIR")
        assert told["completeness"] == {"change": found.change, "error": found.error}


@INCOMPLETE
@pytest.mark.usefixtures("small")
def test_another_baseline_or_number_of_steps_is_refused_in_the_same_folder(network, tmp_path, monkeypatch) -> None:
    run(network, tmp_path, method="integrated-gradients")
    with pytest.raises(ValueError, match=r"settings .*'zero'.* instead of .*'mean'.* Take another --out"):
        run(network, tmp_path, method="integrated-gradients", baseline="mean")
    monkeypatch.setitem(
        METHODS, "integrated-gradients", replace(METHODS["integrated-gradients"], settings={"steps": 4})
    )
    with pytest.raises(ValueError, match=r"'steps': 3.* instead of .*'steps': 4"):
        run(network, tmp_path, method="integrated-gradients")


@pytest.mark.usefixtures("small")
def test_a_seed_and_draws_that_a_method_has_not_make_no_other_map(network, tmp_path, monkeypatch) -> None:
    run(network, tmp_path, method="occlusion", seed=1, draws=5)
    monkeypatch.setattr(comparison, "occlusion", lambda *_, **__: pytest.fail("it was computed again"))
    assert len(run(network, tmp_path, method="occlusion", seed=2, draws=6)) == 4


def test_kernel_shap_without_captum_is_refused_before_the_folder_is_made(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ValueError, match=r"pip install 'ies-helpers\[shap\]'"):
        run(network, tmp_path / "out", method="kernel-shap")
    assert not (tmp_path / "out").exists()
