"""A folder of maps: one small patient with a true, a false and a missed lesion, a tiny network of random weights."""

import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from safetensors.torch import save_file

from ies_helpers import Lesions, Network, Subject, explain, find_lesions, load_network, load_subject
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects.folder import save_lesions, values_of
from tests.patients import ball, write_image, write_patient

SIDE = 24
SPOTS = {"TP": (8, 8, 8), "FP": (16, 9, 8), "FN": (12, 16, 15)}


def tiny_network(path: Path, seed: int = 0) -> Path:
    """A file of random weights for a U-Net of three levels."""
    torch.manual_seed(seed)
    state = {k: v for k, v in build("unet", (2, 3, 4)).module.state_dict().items() if v.is_floating_point()}
    save_file(state, path, metadata={"architecture": "unet"})
    return path


def found_in(subject: Subject) -> tuple[torch.Tensor, Lesions]:
    """A made-up prediction, sure of TP and FP, and its lesions: numbers 1 TP, 2 FP, 3 FN."""
    probability = torch.zeros(subject.shape)
    for group in ("TP", "FP"):
        probability[torch.from_numpy(ball(subject.shape, SPOTS[group], 3))] = 0.8
    return probability, find_lesions(probability, subject.target, threshold=0.5, affine=subject.affine)


def change_image(path: Path, values: np.ndarray) -> None:
    """Another map in the place of one, its sidecar too."""
    write_image(path, values.astype(np.float32), nibabel.load(path).affine)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"values": values_of(values)}))


def explain_toy(folder: Path, name: str = "p1", methods: tuple[str, ...] = ("gradient", "gradcam++")) -> Path:
    """`folder/out` with maps of every lesion by every method, of `folder/in` and `folder/tiny.safetensors`."""
    subject = load_subject(write_patient(folder / "in", name, side=SIDE, spots=SPOTS))
    network: Network = load_network(tiny_network(folder / "tiny.safetensors"), device="cpu")
    probability, lesions = found_in(subject)
    labels = {group: lesions.label_map(subject.shape, group) for group in SPOTS}
    save_lesions(folder / "out", subject, probability, labels)
    for method in methods:
        explain(subject, network, list(lesions), folder / "out", method=method, aggregate="mean")
    return folder / "out"


def list_lesions(out: Path, *more: str) -> Path:
    """Write the table of the lesions that have maps, and `more` lines of it: what `ies explain` leaves in a folder."""
    for subject in sorted(out.glob("sub-*")):
        records = [json.loads(path.read_text()) for path in sorted(subject.glob("anat/*L[0-9]*_FLAIR.json"))]
        lines = dict.fromkeys(f"{r['lesion']}\t{r['group']}\t{r['voxels']}\t0.{r['lesion']}" for r in records)
        text = "\n".join(["lesion\tgroup\tvoxels\tmean_probability", *lines, *more])
        (subject / "lesions.tsv").write_text(f"{text}\n")
    return out
