"""How the folder beside this file was finished: by version 0.1.0, main at commit f66fd27, run once.

It is what a user of that version has on the disk: one small patient, predicted, explained by four methods, asked for
its surroundings and evaluated, and a cohort of two phantoms. `tests/test_finished.py` runs the same commands again
and shows that nothing of it is computed anew. Made again by a newer version it would show nothing, so it is not.

    python tests/finished/make.py FOLDER

Changed after the commands had run: pictures are left out, the folder's own place reads `@FIXTURE@`, and probabilities
below 0.2 are zero, because three whole ones take 56 MB and no command reads them back.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import torch
from safetensors.torch import save_file

PLACE = "@FIXTURE@"
"""Stands in every text file where the path of the folder was."""

SIDE = 96
"""Voxels along each axis, one window of the network."""

SPOTS = {"TP": (40, 44, 50), "FP": (60, 50, 44), "FN": (48, 64, 40)}
"""Centres of the lesions: bright and in the target, bright only, in the target only."""

AFFINE = np.array([[0.0, 0.0, 1.0, -40.0], [-1.0, 0.0, 0.0, 60.0], [0.0, 1.0, 0.0, -50.0], [0.0, 0.0, 0.0, 1.0]])
"""1 mm, axes permuted and one of them flipped."""

FAINT = 0.2
"""Probability below which it is set to zero."""

NETWORK = ("--network", "narrow.safetensors")

COMMANDS = (
    ("predict", "patient", *NETWORK, "--out", "out"),
    ("perilesional", "patient", *NETWORK, "--lesions", "TP", "--fill", "blurred", "--out", "out"),
    ("perilesional", "patient", *NETWORK, "--lesions", "TP", "--wide", "--out", "out"),
    ("explain", "patient", *NETWORK, "--lesions", "1,3", "--draws", "3", "--seed", "7", "--out", "out"),
    ("explain", "patient", *NETWORK, "--method", "gradcam++", "--out", "out"),
    ("explain", "patient", *NETWORK, "--lesions", "TP", "--method", "gradient", "--aggregate", "mean", "--out", "out"),
    ("explain", "patient", *NETWORK, "--lesions", "FP", "--method", "integrated-gradients", "--out", "out"),
    ("evaluate", "out", *NETWORK, "--faithfulness", "--seed", "3", "--out", "evaluation"),
    ("cohort", "cohort.toml"),
)
"""As they were typed, in this order."""

COHORT = """\
subjects = ["phantom:0", "phantom:1"]
out = "cohort"

[network]
name = "unet"

[[explain]]
method = "gradcam++"
lesions = "TP:100-101"

[[explain]]
method = "gradient"
aggregate = "mean"
lesions = "FP"

[[perilesional]]
lesions = "TP:100-101"

[evaluate]
seed = 3
"""


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    """True within `radius` voxels of `centre`."""
    return np.linalg.norm(np.indices((SIDE,) * 3) - np.reshape(centre, (3, 1, 1, 1)), axis=0) <= radius


def write_patient(folder: Path) -> None:
    """FLAIR, T1w and the target, spots of radius 3.

    Values are small whole numbers, so that their sums, and with them the z-scores, are exact in float32 whatever the
    order and the number of threads: the hash of the image in the sidecars is the same on every machine.
    """
    rng, brain = np.random.default_rng(0), ball((SIDE / 2,) * 3, 30)
    coarse = rng.integers(-2, 3, (2, SIDE // 4, SIDE // 4, SIDE // 4)).repeat(4, 1).repeat(4, 2).repeat(4, 3)
    scan, target = brain * np.stack([40 + coarse[0], 60 + 2 * coarse[1]]), np.zeros((SIDE,) * 3, dtype=np.uint8)
    for group, centre in SPOTS.items():
        spot = ball(centre, 3)
        scan[0] += 20 * spot * (group != "FN")
        target |= (spot & (group != "FP")).astype(np.uint8)
    folder.mkdir()
    for suffix, values in (("FLAIR", scan[0]), ("T1w", scan[1]), ("label-lesion_mask", target)):
        image = nibabel.Nifti1Image(values.astype(np.uint8), AFFINE)
        image.header.set_qform(AFFINE, code=1)
        image.header.set_sform(AFFINE, code=4)
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / f"sub-p1_{suffix}.nii.gz")


def write_network(path: Path) -> None:
    """A U-Net of three levels and four features: logit = 2 (blurred FLAIR - 4), and a faint random rest."""
    from monai.networks.nets.unet import UNet  # takes seconds

    torch.manual_seed(0)
    module = UNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=2,
        channels=(4,) * 3,
        strides=(2,) * 2,
        norm="batch",
        num_res_units=0,
    )
    state = {k: v.clone() for k, v in module.state_dict().items() if v.is_floating_point()}
    for key in state:
        if key.endswith("conv.weight"):
            state[key] *= 0.3
    state["model.0.conv.weight"][0] = 0
    state["model.0.conv.weight"][0, 0] = 1 / 27
    state["model.0.conv.bias"][0] = 0
    between = torch.tensor([0.5, 1.0, 0.5])
    state["model.2.conv.weight"][0, 0] = 0
    state["model.2.conv.weight"][0, 1] = 2 * torch.einsum("i,j,k->ijk", between, between, between)
    narrow = "model.1.submodule.1.submodule.conv.weight"  # one tap: maps that reach less far are smaller files
    state[narrow] *= torch.from_numpy(np.indices((3,) * 3) == 1).all(dim=0)
    state["model.2.conv.bias"][:] = torch.tensor([0.0, -8.0])
    save_file(state, path, metadata={"architecture": "unet"})


def thin(path: Path) -> None:
    """Set faint probabilities to zero."""
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.where(values < FAINT, 0, values), image.affine, image.header), path)


def main(folder: Path) -> None:
    """Make everything in `folder`, which must not exist."""
    folder.mkdir()
    write_patient(folder / "patient")
    write_network(folder / "narrow.safetensors")
    (folder / "cohort.toml").write_text(COHORT)
    for command in COMMANDS:
        print("ies", *command, flush=True)
        subprocess.run([sys.executable, "-m", "ies_helpers", *command], cwd=folder, check=True)
    for pictures in sorted(folder.rglob("figures")):
        shutil.rmtree(pictures)
    for path in folder.rglob("*_probseg.nii.gz"):
        thin(path)
    for path in folder.rglob("*"):
        if path.suffix in {".json", ".csv", ".tsv", ".toml", ".md", ".tex"}:
            path.write_text(path.read_text().replace(str(folder.resolve()), PLACE))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]))
