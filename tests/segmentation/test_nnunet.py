"""An nnU-Net results folder: plans, placement on its grid and back, checkpoints opened without running code."""

import copy
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers import (
    Network,
    Subject,
    gradcam_pp,
    gradient,
    load_network,
    load_subject,
    predict,
    predict_logits,
)
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.score import LesionScore
from ies_helpers.segmentation.inference import importance, window_boxes
from ies_helpers.segmentation.network import Copies, prepare
from ies_helpers.segmentation.nnunet import build_network, mirrors, read_plans, read_results
from ies_helpers.segmentation.weights import read_pickle
from tests import oracles
from tests.results import AFFINES, DATASET, placed_scan, plans, scan, write_results


def test_a_z_score_with_a_mask_leaves_zero_where_nothing_was_and_one_without_does_not() -> None:
    (placed, (masked, plain)), raw = placed_scan(np.eye(4)), scan()
    mask = ndimage.binary_fill_holes((raw != 0).any(dim=0).numpy())[placed.box]
    inside = raw[0][placed.box][mask]
    np.testing.assert_allclose(
        masked[placed.box][mask], (inside - inside.mean()) / inside.std(unbiased=False), atol=1e-5
    )
    box = raw[1][placed.box]
    np.testing.assert_allclose(plain[placed.box], (box - box.mean()) / box.std(unbiased=False), atol=1e-5)


def test_the_copies_are_all_subsets_of_the_axes_mirrored_in_training() -> None:
    assert mirrors((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(mirrors((0, 1, 2))) == 8


def test_plans_that_another_kind_of_network_needs_are_refused() -> None:
    for change, told in (
        ({"previous_stage": "3d_lowres"}, "a cascade"),
        ({"patch_size": [16, 16]}, "2D"),
        ({"normalization_schemes": ["Mine", "ZScoreNormalization"]}, "Mine"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
    ):
        with pytest.raises(ValueError, match=told):
            read_plans(plans(**change), DATASET, "3d_fullres")
    written = plans()
    written["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["nonlin"] = "os.system"
    with pytest.raises(ValueError, match=r"os\.system"):
        read_plans(written, DATASET, "3d_fullres")


def test_plans_of_nnunet_2_0_name_the_same_network_in_other_words() -> None:
    new, old = plans(), plans()
    configuration = old["configurations"]["3d_fullres"]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    }
    new["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 6]
    shapes = [
        {k: v.shape for k, v in build_network(read_plans(p, DATASET, "3d_fullres")).state_dict().items()}
        for p in (new, old)
    ]
    assert shapes[0] == shapes[1]


def test_a_checkpoint_that_wants_to_run_code_is_not_opened(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"network_weights": {}, "logging": Malicious()}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(Exception, match=r"system"):
        read_pickle(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_numpys_numbers_beside_the_weights_opens(tmp_path: Path) -> None:
    content = read_pickle(write_results(tmp_path) / "fold_0" / "checkpoint_final.pth")
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert content["_best_ema"] == np.float32(0.5)


# The whole network: predictions, gradients, scores and layers through its own grid.

EXACT = 1e-6
"""Maps are stored in float32; all else is float64."""

LESION = np.array([[8, 7, 9], [8, 7, 10], [9, 7, 9]])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"), folds=(0, 1))


def meet(word: str, affine: np.ndarray, mirroring: bool = True) -> tuple[Network, Subject]:
    """The network of a folder in float64, placed on the scan, and the scan as it wants it."""
    network = read_results(word, mirroring=mirroring)
    network.module.double()
    raw = scan().double()
    return prepare(network, Subject("toy", raw, affine, network.channels or (), raw=raw))


def written_out(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """The chain as its definition says, through autograd: the image on the scan -> logits `(K, I, J, K)`."""
    grid, inner = copy.copy(network.grid), network.on_its_grid()
    grid._range = lambda x: tuple(end.detach() for end in network.grid._range(x))  # what splines are clipped to is held
    boxes, bell = window_boxes(inner, grid.shape), importance(inner)

    def logits(image: torch.Tensor) -> torch.Tensor:
        x = grid.push(image)[0]
        total, weights = torch.zeros(2, *grid.shape, dtype=torch.float64), torch.zeros(grid.shape, dtype=torch.float64)
        for box in boxes:
            copies = [network.module.run(x[None, :, *box], n)[0] for n in range(network.passes)]
            placed = torch.zeros_like(total)
            placed[:, *box] = torch.stack(copies).mean(dim=0) * bell
            total = total + placed
            weights[box] += bell
        return grid.fill(total / weights)

    return logits


@pytest.mark.parametrize("name", ["finer", "thick"])
def test_predictions_gradients_and_scores_are_those_of_the_chain_written_out(results: Path, name: str) -> None:
    """Two folds, eight mirrored copies, axes turned, resampled, padded; `thick` with an axis by itself."""
    network, subject = meet(f"{results}:0,1" if name == "thick" else f"{results}:1", AFFINES[name])
    image, chain = subject.image, written_out(network)
    with torch.no_grad():
        wanted = chain(image)
    torch.testing.assert_close(predict_logits(network, image).double(), wanted, atol=1e-5, rtol=0, equal_nan=True)
    score = LesionScore(network, image, LESION)
    edited = score.image.clone()
    edited[0, 3:6, 2:5] = 0
    whole = image.clone()
    whole[:, *score.box] = edited
    with torch.no_grad():
        after = chain(whole)[:, *LESION.T]
    torch.testing.assert_close(score.logits([score.image, edited]), torch.stack([wanted[:, *LESION.T], after]))
    x = image.clone().requires_grad_()
    y = chain(x)[1]
    each = torch.stack([torch.autograd.grad(y[tuple(v)], x, retain_graph=True)[0] for v in LESION])
    for how in ("mean", "max"):
        got = gradient(network, image, LESION, aggregate=how, accuracy="exact").double()
        assert oracles.relative(got, oracles.aggregate(each, how)) < EXACT, how
    fields = LesionGradient(network, image, LESION, "max", way="fields")
    # Of two voxels whose gradients are almost opposite either may be the larger: sizes are compared.
    made = fields.place(fields(image)).double().abs()
    assert oracles.relative(made, oracles.aggregate(each, "max").abs()) < 5e-3


def test_a_mirrored_pass_is_the_network_on_the_mirrored_image_turned_back(results: Path) -> None:
    module = read_results(f"{results}:0", mirroring=False).module.members[0].double()
    image = torch.randn((2, 8, 16, 16), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = Network(Copies([module]), window=(8, 16, 16), through="windows", layer="members.0.decoder.stages.0")
    turned = replace(plain, module=Copies([module], [(2, 4)]))
    flip = (1, 3)
    voxels = np.array([[3, 7, 9], [3, 8, 9]])
    there = voxels.copy()
    there[:, [0, 2]] = np.array([7, 15]) - there[:, [0, 2]]
    for explain in (gradient, gradcam_pp):
        wanted = explain(plain, image.flip(flip), there).flip(flip)
        torch.testing.assert_close(explain(turned, image, voxels), wanted, atol=1e-6, rtol=1e-5)
    assert turned.digest() != plain.digest()


def test_a_fold_or_a_network_of_other_plans_is_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folds 0, 1, got 7"):
        read_results(f"{results}:7")
    other = write_results(tmp_path)
    written = json.loads((other / "plans.json").read_text())
    written["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 9]
    (other / "plans.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="another plan"):
        read_results(other)


def test_a_region_is_chosen_by_name_and_one_that_was_guessed_is_said(results: Path, tmp_path: Path) -> None:
    """Two regions, one inside the other, each under a sigmoid of its own."""
    folder = tmp_path / results.name
    shutil.copytree(results, folder)
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "abnormal": [1, 2], "lesion": 2}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.warns(UserWarning, match=r"\(abnormal, lesion\) the lesion is taken to be lesion"):
        guessed = load_network(f"{folder}:0", mirroring=False)
    assert (guessed.lesion_class, guessed.head, len(guessed.notes)) == (1, "sigmoid", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = load_network(f"{folder}:0", mirroring=False, settings={"network": {"lesion_class": "abnormal"}})
    assert chosen.lesion_class == 0
    raw = scan()
    network, subject = prepare(chosen, Subject("toy", raw, AFFINES["finer"], chosen.channels or (), raw=raw))
    wanted = predict_logits(network, subject.image)[0].sigmoid().nan_to_num(0.0)
    torch.testing.assert_close(predict(network, subject.image), wanted)
    with pytest.raises(ValueError, match=r"abnormal, lesion\), got 'core'"):
        load_network(f"{folder}:0", settings={"network": {"lesion_class": "core"}})


def test_a_network_that_was_not_brought_to_the_scan_is_refused(results: Path) -> None:
    """Its maps would be of a brain that lies on its side; a scan prepared twice is as prepared once."""
    network = read_results(f"{results}:0", mirroring=False)
    subject = Subject("toy", scan(), AFFINES["finer"], ("flair", "t1"), raw=scan())
    for explain in (predict, lambda network, image: gradient(network, image, LESION)):
        with pytest.raises(ValueError, match="prepare"):
            explain(network, subject.image)
    once = prepare(network, subject)
    twice = prepare(*once)
    torch.testing.assert_close(twice[1].image, once[1].image, atol=0, rtol=0)
    swapped = replace(subject, channels=("t1", "flair"))
    with pytest.warns(UserWarning, match="flair, t1"):
        assert torch.equal(prepare(network, swapped)[1].raw[0], scan()[1])  # pyright: ignore[reportOptionalSubscript]


def test_a_lesion_beyond_what_is_not_zero_is_refused(results: Path) -> None:
    network, subject = meet(f"{results}:0", AFFINES["finer"], mirroring=False)
    with pytest.raises(ValueError, match="1 of its 2 voxels"):
        gradient(network, subject.image, np.array([[0, 0, 0], [8, 7, 9]]))
    assert float(predict(network, subject.image)[0].max()) == 0.0  # nnU-Net: background


REAL = (
    ("Dataset604_small", "nnUNetTrainer", "", False, "images_folds0_plain.npz"),
    ("Dataset601_resenc_regions", "nnUNetTrainer", "", True, "images_folds0_mirrored.npz"),
    ("Dataset502_msaniso", "nnUNetTrainer_tiny", "", False, "images_folds0_plain.npz"),
)


@pytest.mark.parametrize("case", REAL, ids=lambda case: case[0])
def test_a_real_folder_gives_the_logits_that_nnunet_gave(case: tuple[str, str, str, bool, str], nnunet: Path) -> None:
    """Its own, with float32 accumulators; as shipped it adds up in float16, up to 0.5 off at corners."""
    name, trainer, fold, mirroring, answer = case
    word = f"{nnunet / name / trainer}__nnUNetPlans__3d_fullres{fold}"
    network = load_network(word, mirroring=mirroring)
    files = sorted((nnunet / name / "images").glob("*.nii.gz"))
    subject = load_subject(images=dict(zip(network.channels or (), files, strict=True)))
    network, subject = prepare(network, subject)
    wanted = np.load(nnunet / name / answer)
    got = predict_logits(network, subject.image)[:, *wanted["voxels"].astype(int).T].T.numpy()
    np.testing.assert_allclose(got, wanted["logits"], atol=5e-5)
    if network.head == "softmax":
        found = predict(network, subject.image).numpy() > 0.5
        assert int((found != (wanted["segmentation"] == 1)).sum()) == 0
