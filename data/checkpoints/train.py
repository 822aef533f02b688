"""Train the networks that the handbook ships: the U-Net in twenty minutes on two CPU cores, the others in two hours.

    python data/checkpoints/train.py unet --out DIR --openms FOLDER --patients 07,19 --hold-out 26 --seed 0

Recipe: 64^3 patches of phantoms, a new contrast for every patch, 60 % of them on a lesion; then patches of
patients (80 %) among the phantoms'. Dice + cross-entropy, AdamW, one-cycle learning rate, moving average of
the weights (0.99), bf16 autocast. `--patients all` takes every patient the folder holds but those held out.
The other two also follow the shipped U-Net's logits (distillation): on patients, Swin UNETR from the start.

A killed run goes on from its last state and sees the same batches. DIR gets `phantoms/` and `phantom.pt` (the
first stage, which runs under other names share; `phantom_SEED.pt` for a seed other than 0, whose first stage is its
own), then NAME.pt, NAME.log, NAME.safetensors and NAME.json.
"""

import argparse
import copy
import ctypes
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import recipe
import torch
from monai.losses.dice import DiceCELoss
from safetensors.torch import save_file
from scipy import ndimage
from torch.nn import functional

from ies_helpers.segmentation.architectures import ARCHITECTURES, build
from ies_helpers.segmentation.formats import load_network
from ies_helpers.segmentation.inference import predict
from ies_helpers.segmentation.lesions import find_lesions
from ies_helpers.segmentation.network import Network
from ies_helpers.subjects.phantom import phantom


@dataclass(frozen=True)
class Recipe:
    """What differs between the architectures: `steps` and `rates` of the two stages, patches a step.

    `last` is the convolution before the softmax; `taught` says in which stages the shipped U-Net is a teacher.
    """

    channels: tuple[int, ...]
    steps: tuple[int, int]
    rates: tuple[float, float]
    batch: int
    last: str
    taught: tuple[bool, bool] = (False, False)


RECIPES = {
    "unet": Recipe((16, 32, 64, 128, 256), (4000, 3000), (3e-3, 2e-3), 2, "model.2.conv"),
    "nnunet": Recipe((16, 32, 64), (5000, 4000), (2e-3, 1e-3), 1, "output_block.conv.conv", (False, True)),
    "swin_unetr": Recipe((12,), (2200, 2000), (1e-3, 7e-4), 1, "out.conv.conv", (True, True)),
}
THRESHOLDS = (0.3, 0.4, 0.5)
REFERENCE_LOAD = 0.001
PRIOR = 2.0
"""Half the log odds of no lesion at the start: one voxel in 55."""
CONFIDENT = 6.0
"""The teacher's log odds are followed up to here only: beyond it says nothing new."""


def save_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then rename, so that a half-written one never exists."""
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


class Run:
    """One stage of training: network, its moving average, optimiser, and the state on disk."""

    def __init__(self, path: Path, architecture: str, stage: int, steps: int, start: dict | None) -> None:
        recipe, self.path, self.steps, self.done = RECIPES[architecture], path, steps, 0
        rate = recipe.rates[stage]
        self.network = build(architecture, recipe.channels).module.requires_grad_(True)
        self.teacher = load_network("unet").module if recipe.taught[stage] else None
        # Start from "lesions are rare" in the last bias. Without it every feature learns to speak against lesions,
        # and Grad-CAM++, which keeps what speaks for them, is empty.
        self.network.get_submodule(recipe.last).bias.data = torch.tensor([PRIOR, -PRIOR])
        if start is not None:
            self.network.load_state_dict(start)
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, total_steps=steps + 1, pct_start=0.1)
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.done = state.pop("done")
            for name, value in state.items():
                getattr(self, name).load_state_dict(value)

    def save(self) -> None:
        names = ("network", "average", "optimiser", "schedule")
        state = {name: getattr(self, name).state_dict() for name in names} | {"done": self.done}
        save_beside(self.path, lambda part: torch.save(state, part))

    def step(self, images: torch.Tensor, targets: torch.Tensor, loss: DiceCELoss) -> float:
        self.network.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.network(images)
        value = loss(logits.float(), targets)
        if self.teacher is not None:
            value = value + 0.3 * distance(logits.float(), self.teacher(images))
        self.optimiser.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        if torch.isfinite(norm):  # attention in bf16 can overflow
            self.optimiser.step()
        self.schedule.step()
        self.done += 1
        self._follow(min(0.99, (1 + self.done) / (10 + self.done)))
        return value.item()

    @torch.no_grad()
    def _follow(self, keep: float) -> None:
        for mine, theirs in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            mine.lerp_(theirs, 1 - keep) if mine.is_floating_point() else mine.copy_(theirs)


def distance(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Huber distance of the log odds of lesion from the teacher's, mean over voxels; `(B, 2, P, P, P)` each."""
    mine, theirs = (x[:, 1] - x[:, 0] for x in (logits, taught))
    return functional.huber_loss(mine.clamp(-CONFIDENT, CONFIDENT), theirs.clamp(-CONFIDENT, CONFIDENT))


def train(run: Run, draw: Callable[..., recipe.Batch], seed: list[int], log: Callable[[str], None], every: int) -> None:
    """Do the steps that are left; batch `n` depends on the seed and `n` alone, also in a resumed run."""
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    recent, begun = [], time.time()
    while run.done < run.steps:
        recent.append(run.step(*draw(np.random.default_rng([*seed, run.done])), loss))
        if run.done % 50 == 0:
            log(
                f"{run.path.stem} step {run.done} of {run.steps}  loss {np.mean(recent[-50:]):.3f}  "
                f"{(time.time() - begun) / len(recent):.3f} s a step"
            )
        if run.done % every == 0 or run.done == run.steps:
            run.save()


def score(found: torch.Tensor, target: torch.Tensor, threshold: float, brain: np.ndarray) -> dict[str, float]:
    """Dice, Dice normalised to a load of 0.1 % of the brain (Raina et al. 2023), and lesion counts."""
    lesions = find_lesions(found, target, threshold=threshold)
    counts = {group: len(lesions.of(group)) for group in ("TP", "FP", "FN")}
    missed = lesions.label_map(target.shape, "FN") > 0
    predicted = (lesions.label_map(target.shape) > 0) & ~missed
    tp, fp, fn = (int(m.sum()) for m in (predicted & target, predicted & ~target, target & ~predicted))
    load = float(target.sum() / brain.sum())
    k = (1 - REFERENCE_LOAD) / REFERENCE_LOAD * load / (1 - load)
    dice, normalised = (2 * tp / max(2 * tp + weight * fp + fn, 1) for weight in (1, k))
    return {"dice": round(dice, 4), "ndsc": round(normalised, 4), **counts, "voxels": int(target.sum())}


def score_all(network: Network, subjects: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> dict[str, dict]:
    """Scores of each `(name, image, target)` at each threshold."""
    table = {}
    for name, image, target in subjects:
        found, brain = predict(network, image), ndimage.binary_fill_holes(image[0].numpy() != 0)
        table[name] = {str(t): score(found, target, t, brain) for t in THRESHOLDS}
    return table


def export(network: torch.nn.Module, architecture: str, path: Path, notes: dict[str, str]) -> None:
    """Weights as float16 safetensors, each tensor once, with what a reader needs to use them."""
    tensors = [*network.named_parameters(), *network.named_buffers()]  # a state_dict holds shared blocks twice
    state = {k: v.detach().half().contiguous() for k, v in tensors if v.is_floating_point()}
    channels, threshold = ",".join(map(str, RECIPES[architecture].channels)), ARCHITECTURES[architecture].threshold
    said = {"architecture": architecture, "channels": channels, "threshold": str(threshold), "window": "96"}
    said |= {"merging": "mergingv2"} if architecture == "swin_unetr" else {}
    said["inputs"] = "flair,t1; z-scored over non-zero voxels"
    save_beside(path, lambda part: save_file(state, part, said | notes))
    path.chmod(0o644)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=RECIPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--openms", type=Path, required=True, help="folder with cross_sectional/MNI/patientNN")
    parser.add_argument("--patients", default="07,19", help="numbers, or all")
    parser.add_argument("--hold-out", default="26", help="patients to test on, never trained on")
    parser.add_argument("--name", help="of the files; default: the architecture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs=2, help="on phantoms, then with patients; default: the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args()
    args.name = args.name or args.architecture
    args.steps = args.steps or RECIPES[args.architecture].steps
    return args


def choose_patients(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Patients to train on and to test on, never the same."""
    present, held = recipe.find_patients(args.openms), args.hold_out.split(",")
    chosen = [n for n in present if n not in held] if args.patients == "all" else args.patients.split(",")
    absent = {*chosen, *held} - set(present)
    for rule, wrong in (("both trained on and held out", set(chosen) & set(held)), ("not there", absent)):
        if wrong:
            raise SystemExit(f"{', '.join(sorted(wrong))}: {rule}; {args.openms} holds {', '.join(present)}.")
    return chosen, held


def train_stages(args: argparse.Namespace, chosen: list[str], log: Callable[[str], None]) -> torch.nn.Module:
    """Phantoms first, then mostly patients; the moving average of the weights."""
    phantoms = recipe.load_phantoms(range(1000, 1000 + args.phantoms), args.out / "phantoms", args.threads)
    patients = [recipe.load_patient(args.openms, number) for number in chosen]
    log(f"{len(phantoms)} phantoms and patients {', '.join(chosen)} are ready")
    weights, first = None, f"phantom_{args.seed}" if args.seed else "phantom"
    for number, (name, real) in enumerate(((first, 0.0), (args.name, 0.8))):
        run = Run(args.out / f"{name}.pt", args.architecture, number, args.steps[number], weights)
        size = RECIPES[args.architecture].batch
        draw = partial(recipe.draw_batch, phantoms=phantoms, patients=patients, real=real, size=size)
        train(run, draw, [args.seed, number], log, args.save_every)
        weights = run.average.state_dict()
    return run.average


def keep_memory() -> None:
    """Tell glibc to keep freed memory: attention asks for 200 MB at a time, and fresh pages take half the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, -1)  # M_TRIM_THRESHOLD


def main() -> None:
    """Train, export, score."""
    keep_memory()
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    chosen, held = choose_patients(args)
    args.out.mkdir(parents=True, exist_ok=True)
    begun = time.time()

    def log(line: str) -> None:
        with (args.out / f"{args.name}.log").open("a") as file:
            file.write(f"{time.time() - begun:7.0f} s  {line}\n")

    average = train_stages(args, chosen, log)
    notes = {"patients": ",".join(chosen), "held_out": ",".join(held), "seed": str(args.seed)}
    export(average, args.architecture, args.out / f"{args.name}.safetensors", notes)
    log("exported, scoring")
    tests = [(f"patient{n}", *recipe.load_scan(args.openms, n)) for n in held]
    tests += [(s.name, s.image, torch.as_tensor(s.target)) for s in map(phantom, range(10))]
    scored = replace(build(args.architecture, RECIPES[args.architecture].channels), module=average)
    scores = score_all(scored, tests)
    table = {"command": vars(args), "seconds": round(time.time() - begun), "scores": scores}
    text = json.dumps(table, indent=1, default=str)
    save_beside(args.out / f"{args.name}.json", lambda part: part.write_text(text))
    log("done")


if __name__ == "__main__":
    main()
