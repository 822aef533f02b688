"""A tiny nnU-Net v2 results folder in the real format, with random weights; and the real ones, where they lie."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ies_helpers.segmentation.grid import Grid
from ies_helpers.segmentation.nnunet import build_network, read_plans


def plans(**changes: Any) -> dict[str, Any]:
    """`plans.json` of a network of three stages; `changes` replace entries of the configuration."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    stages = {"n_stages": 3, "features_per_stage": [4, 6, 8], "n_conv_per_stage": [1, 1, 1]}
    network = stages | {
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "patch_size": [8, 16, 16],
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [True, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset900_toy",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "image_reader_writer": "SimpleITKIO",
        "configurations": {"3d_fullres": configuration | changes},
    }


DATASET = {
    "channel_names": {"0": "FLAIR", "1": "T1"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def write_results(
    folder: Path, folds: tuple[int, ...] = (0,), dataset: dict[str, Any] = DATASET, **changes: Any
) -> Path:
    """A results folder, below `folder`, of networks with random weights of some size, so that maps are not flat."""
    results = folder / "Dataset900_toy" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    results.mkdir(parents=True)
    written = plans(**changes)
    (results / "plans.json").write_text(json.dumps(written))
    (results / "dataset.json").write_text(json.dumps(dataset))
    for fold in folds:
        torch.manual_seed(fold)
        network = build_network(read_plans(written, dataset, "3d_fullres"))
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.4)
        content = {
            "network_weights": network.state_dict(),
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float32(0.5)], "epoch_start_timestamps": [np.float64(1.0)]},
            "_best_ema": np.float32(0.5),
            "current_epoch": 1,
            "init_args": {"configuration": "3d_fullres", "fold": fold},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        (results / f"fold_{fold}").mkdir()
        torch.save(content, results / f"fold_{fold}" / "checkpoint_final.pth")
    return results


AFFINES = {
    "isotropic": np.diag([1.0, 1.0, 1.0, 1.0]),
    "finer": np.diag([0.9, 1.2, 0.8, 1.0]),
    "thick": np.diag([0.9, 4.0, 0.8, 1.0]),
    "turned": np.array([[0, -1.0, 0, 3], [0, 0, 1.1, 0], [-1.2, 0, 0, 5], [0, 0, 0, 1]]),
}


def scan(seed: int = 0, shape: tuple[int, int, int] = (20, 18, 22)) -> torch.Tensor:
    """Raw values `(2, I, J, K)` with a rim of zeros."""
    raw = torch.zeros(2, *shape)
    generator = torch.Generator().manual_seed(seed)
    raw[:, 2:-1, 1:-3, 3:-2] = 50 + 10 * torch.randn(
        (2, *(n - 4 if n == 18 else n - 3 if n == 20 else n - 5 for n in shape)), generator=generator
    )
    return raw


def placed_scan(affine: np.ndarray, **changes: Any) -> tuple[Grid, torch.Tensor]:
    """`scan` on the grid of `plans`, and its normalised image."""
    return read_plans(plans(**changes), DATASET, "3d_fullres").place(scan(), affine)
