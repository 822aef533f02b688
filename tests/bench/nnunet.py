"""`python -m tests.bench.nnunet [FOLDER IMAGE...]`: nnU-Net's own software as the oracle of how a folder is read.

Without words a folder is made by `teaching.write_results` and the demo subject is its scan. It needs nnunetv2, which is
heavy and brings a torchvision of its own, so it runs in an environment beside `.venv`:

    python -m venv .venv-nnunet
    echo "torch==2.13.0" > constraint.txt
    .venv-nnunet/bin/pip install -c constraint.txt nnunetv2 -e ".[dev]"
    OMP_NUM_THREADS=1 .venv-nnunet/bin/python -m tests.bench.nnunet

It ends with 1 if a logit is further than `CLOSE` from nnU-Net's, or a voxel is called lesion by one of the two alone.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import torch

from ies_helpers import load_network, load_subject, predict_logits, prepare
from ies_helpers.teaching import write_results

CLOSE = 1e-4
"""Of logits around 10, both in float32."""


def theirs(folder: Path, files: list[Path], mirroring: bool) -> np.ndarray:
    """nnU-Net's logits `(K, I, J, K)` on the scan's grid, NaN where it does not look, its accumulators in float32."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(folder))  # or it complains
    torch.half = torch.float32  # pyright: ignore[reportAttributeAccessIssue] (its accumulators: off by up to 0.5)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # pyright: ignore[reportMissingImports]

    options = {"perform_everything_on_device": False, "device": torch.device("cpu"), "allow_tqdm": False}
    predictor = nnUNetPredictor(use_mirroring=mirroring, **options)
    predictor.initialize_from_trained_model_folder(str(folder), None, "checkpoint_final.pth")
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    preparing = configuration.preprocessor_class(verbose=False)
    names = [str(file) for file in files]
    data, _, known = preparing.run_case(names, None, plans, configuration, predictor.dataset_json)
    logits = predictor.predict_logits_from_preprocessed_data(torch.as_tensor(data))
    spacing = [known["spacing"][axis] for axis in plans.transpose_forward]
    sides = known["shape_after_cropping_and_before_resampling"]
    back = np.asarray(configuration.resampling_fn_probabilities(logits, sides, configuration.spacing, spacing))
    whole = np.full((len(back), *known["shape_before_cropping"]), np.nan)
    whole[(slice(None), *(slice(*ends) for ends in known["bbox_used_for_cropping"]))] = back
    turned = whole.transpose(0, *(axis + 1 for axis in plans.transpose_backward))
    return turned.transpose(0, 3, 2, 1)  # it reads (K, J, I)


def compare(folder: Path, files: list[Path]) -> bool:
    """Print how far ours is from theirs, with mirrored copies and without; whether that is near enough."""
    names = load_network(folder).channels or ()
    subject = load_subject(images=dict(zip(names, map(str, files), strict=True)))
    near = True
    for mirroring in (False, True):
        network, scan = prepare(load_network(folder, mirroring=mirroring), subject)
        ours, own = predict_logits(network, scan.image).numpy(), theirs(folder, files, mirroring)
        seen = np.isfinite(own)
        assert np.array_equal(seen, np.isfinite(ours)), "both look at the same box"
        apart = float(np.abs(ours[seen] - own[seen]).max())
        marked = [np.nan_to_num(y[network.lesion_class] - y[0], nan=-1.0) > 0 for y in (ours, own)]
        differing = int((marked[0] != marked[1]).sum())
        print(
            f"{folder.parent.name}, {network.passes} passes: logits {own[seen].min():.1f} to {own[seen].max():.1f}, "
            f"largest difference {apart:.1e}; {int(marked[1].sum())} lesion voxels, {differing} differ",
            flush=True,
        )
        near &= apart < CLOSE and not differing
    return near


def main() -> int:
    """See the top."""
    if sys.argv[2:]:
        return int(not compare(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]))
    with TemporaryDirectory() as place:
        subject, files = load_subject("demo"), []
        assert subject.raw is not None
        for n, values in enumerate(subject.raw.numpy()):
            files.append(Path(place) / f"demo_{n:04d}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(values, subject.affine), files[-1])
        return int(not compare(write_results(Path(place)), files))


if __name__ == "__main__":
    sys.exit(main())
