"""What the shipped U-Net finds in open patient 26 as it is, and saved in other ways: `python -m tests.bench.scans`.

The scans are written, loaded as anybody's files and predicted; an image that is equal to the original's to the last bit
is not predicted again. `before` is the z-score over what is not exactly 0, whatever the background holds. The peak is
that of the gradient, mean over the voxels, of the largest true lesion.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms.intensity.array import NormalizeIntensity

from ies_helpers import Network, Subject, find_lesions, gradient, load_network, load_subject, predict
from ies_helpers.subjects.downloads import fetch
from tests.patients import write_network

Scan = tuple[np.ndarray, type | None]  # values, and the integers that they are stored as with a scale factor
Way = Callable[[np.ndarray, np.ndarray], Scan]

BACKGROUNDS: dict[str, Way] = {
    "int16, scaled": lambda v, out: (v, np.int16),
    "uint8, scaled": lambda v, out: (v, np.uint8),
    "-1024": lambda v, out: (np.where(out, -1024, v), None),
    "-1": lambda v, out: (np.where(out, -1, v), None),
    "ringing, 0.0001": lambda v, out: (np.where(out, np.random.default_rng(0).uniform(-1e-4, 1e-4, v.shape), v), None),
    "NaN": lambda v, out: (np.where(out, np.nan, v), None),
    "z-scored over all": lambda v, out: ((v - v.mean()) / v.std(), None),
}
WAYS: dict[str, dict[str, Way]] = {
    "FLAIR int16, scaled": {"flair": BACKGROUNDS["int16, scaled"]},
    "T1 int16, scaled": {"t1": BACKGROUNDS["int16, scaled"]},
    **{f"both {name}": {"flair": way, "t1": way} for name, way in BACKGROUNDS.items()},
}


def other_file(image: Any, stem: Path, kind: str) -> Path:
    """The same scan in another format, or with another geometry."""
    values, affine, header = np.asanyarray(image.dataobj), image.affine, image.header
    if kind == "MGZ":
        path = stem.with_suffix(".mgz")
        nibabel.save(nibabel.MGHImage(values.astype(np.float32), affine), path)
        return path
    if kind == "NIfTI-2":
        made: Any = nibabel.Nifti2Image(values, affine)
    elif kind == "big-endian":
        made = nibabel.Nifti1Image(values.astype(values.dtype.newbyteorder(">")), affine, header.as_byteswapped(">"))
    elif kind == "4D":
        made = nibabel.Nifti1Image(values[..., None], affine)
    elif kind == "oblique, 20 degrees":
        c, s = np.cos(np.pi / 9), np.sin(np.pi / 9)
        made = nibabel.Nifti1Image(values, np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine)
    else:
        made = image.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
    path = stem.with_suffix(".nii.gz")
    nibabel.save(made, path)
    return path


FILES = ("big-endian", "NIfTI-2", "MGZ", "4D", "oblique, 20 degrees", "axes turned")


def save(path: Path, scan: Scan, affine: np.ndarray) -> Path:
    """Written as people's programs do."""
    values, kind = scan
    image = nibabel.Nifti1Image(values.astype(np.float32), affine)
    image.header.set_data_dtype(kind or np.float32)
    nibabel.save(image, path)
    return path


def write(folder: Path, original: Mapping[str, Any], ways: dict[str, Way]) -> dict[str, Path]:
    """The files of a patient, some channels changed."""
    files = {}
    for name, image in original.items():
        values = np.asanyarray(image.dataobj)
        scan = ways[name](values, values == 0) if name in ways else (values, None)
        files[name] = save(folder / f"p26_{name}.nii.gz", scan, image.affine)
    return files


def found(network: Network, subject: Subject) -> str:
    """TP, FP and FN, the Dice of the voxels, and the largest value of a map."""
    subject = subject.with_channels(network.channels)
    probability, truth = predict(network, subject.image), subject.target
    assert truth is not None
    lesions = find_lesions(probability, truth, threshold=network.threshold, affine=subject.affine)
    predicted = probability > network.threshold
    dice = 2 * int((predicted & truth).sum()) / int(predicted.sum() + truth.sum())
    true = sorted(lesions.of("TP"), key=len)
    peak = float(gradient(network, subject.image, true[-1], aggregate="mean").abs().max()) if true else 0.0
    return f"{' '.join(str(len(lesions.of(group))) for group in ('TP', 'FP', 'FN'))}, {dice:.3f}, {peak:.4f}"


def as_before(subject: Subject) -> Subject:
    """The same values, z-scored over what is not exactly 0."""
    assert subject.raw is not None
    images = [torch.as_tensor(NormalizeIntensity(nonzero=True)(raw.clone())) for raw in subject.raw]
    return replace(subject, image=torch.stack([image.as_subclass(torch.Tensor) for image in images]))


def row(way: str, subject: Subject, now: str, before: str) -> str:
    """A line of the table."""
    return f"| {way} | {', '.join(subject.background.values())} | {now} | {before} |"


def main() -> None:
    """Print a row a way."""
    warnings.simplefilter("ignore")
    files, network = fetch("openms:patient26"), load_network("unet", device="cpu")
    original = {name: nibabel.load(files[name]) for name in ("flair", "t1")}
    target = files["target"]
    plain = load_subject(flair=files["flair"], t1=files["t1"], target=target)
    as_it_is = found(network, plain)
    print("| saved as | background of FLAIR, T1 | TP FP FN, Dice, peak | before |\n|---|---|---|---|")
    print(row("float32, as it is", plain, as_it_is, as_it_is), flush=True)
    turned = load_subject(images={"t1": files["t1"], "flair": files["flair"]}, target=target)
    print(row("T1 named first", turned, found(network, turned), as_it_is), flush=True)
    with tempfile.TemporaryDirectory() as name:
        toy = load_network(write_network(Path(name) / "toy.safetensors", channels=("flair",)), device="cpu")
        toy = replace(toy, threshold=0.02)  # it calls bright FLAIR a lesion
        alone = load_subject(flair=files["flair"], target=target)
        print(row("FLAIR alone, by a toy that takes no more", alone, found(toy, alone), found(toy, plain)), flush=True)
        for way, changes in WAYS.items():
            made = load_subject(**write(Path(name), original, changes), target=target)
            if torch.equal(made.image, plain.image):
                way, now = f"{way}: the same image", as_it_is
            else:
                now = found(network, made)
            before = "refused" if "NaN" in made.background.values() else found(network, as_before(made))
            print(row(way, made, now, before), flush=True)
        for kind in FILES:
            folder = Path(name) / kind
            folder.mkdir()
            images = {**original, "target": nibabel.load(target)}
            made = load_subject(**{key: other_file(image, folder / key, kind) for key, image in images.items()})
            same = torch.equal(made.image, plain.image)
            print(row(kind + ": the same image" * same, made, as_it_is if same else found(network, made), "-"))


if __name__ == "__main__":
    main()
