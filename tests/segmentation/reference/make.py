"""Logits of MONAI 0.9.0 for the paper's networks, with seeded weights: what today's MONAI must reproduce.

    python -m venv old && old/bin/pip install torch "numpy<2" monai==0.9.0 einops
    old/bin/python tests/segmentation/reference/make.py

writes `monai-0.9.0.npz` beside this file. The weights are made from their names, so they need not be kept.
"""

import zlib
from pathlib import Path

import numpy as np

SIDE, STEP = 64, 4
"""Side of the input, and the grid on which logits are kept: every fourth voxel."""


def seeded(key, shape):
    """Weights of one tensor: normal, scaled by fan-in; variances positive; scales of norms around 1."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    return values * np.float32(0.1) + np.float32(key.endswith("weight"))


def seeded_weights(network):
    """A state_dict with each tensor once: DynUNet registers its blocks twice."""
    import torch

    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {k: torch.from_numpy(seeded(k, tuple(v.shape))) for k, v in tensors if v.is_floating_point()}


def image():
    """`(1, 2, 64, 64, 64)` float32."""
    return np.random.default_rng(9).standard_normal((1, 2, SIDE, SIDE, SIDE), dtype=np.float32)


def networks():
    """The three networks as the paper's scripts build them; Swin UNETR also at half its width."""
    from monai.networks.nets import DynUNet, SwinUNETR, UNet

    widths = (32, 64, 128, 256, 512)
    same = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2}
    dynunet = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [16, 32, 64]}
    return {
        "unet": UNet(**same, channels=widths, strides=(2, 2, 2, 2), norm="batch", num_res_units=0),
        "nnunet": DynUNet(**same, **dynunet, dropout=0.1, res_block=True, norm_name="instance", act_name="leakyrelu"),
        "swin_unetr": SwinUNETR(img_size=(SIDE,) * 3, in_channels=2, out_channels=2),
        "swin_unetr_12": SwinUNETR(img_size=(SIDE,) * 3, in_channels=2, out_channels=2, feature_size=12),
    }


def main():
    """Fill each network with seeded weights, run it, keep its logits."""
    import monai
    import torch

    assert monai.__version__ == "0.9.0", monai.__version__
    kept = {}
    for name, network in networks().items():
        network.load_state_dict(seeded_weights(network), strict=False)
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(image()))
        kept[name] = logits[0, :, ::STEP, ::STEP, ::STEP].numpy()
    np.savez_compressed(Path(__file__).with_name("monai-0.9.0.npz"), **kept)


if __name__ == "__main__":
    main()
