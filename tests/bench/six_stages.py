"""`python -m tests.bench.six_stages KIND`: train a network of the size that nnU-Net gives real data, for a few minutes.

What near and far fields are worth shows on trained networks alone: far fields of random weights have nothing in common.
A quarter of an hour on phantoms (64^3 patches, bf16) makes a poor network whose far fields are a network's; `make
bench` takes its weights where they are, and says so.
"""

import os
import sys
import time

import numpy as np
import torch
from monai.losses.dice import DiceCELoss

from tests.bench import fields
from tests.conftest import ROOT

PHANTOMS, STEPS, RATE, CLIP = range(1000, 1008), 400, 1e-3, 5.0


def main(kind: str = "PlainConvUNet", steps: int = STEPS) -> None:
    """Train, and keep what there is every twenty steps, written beside and renamed."""
    sys.path.insert(0, str(ROOT / "data" / "checkpoints"))
    import recipe

    path = fields.weights_of(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    phantoms = recipe.load_phantoms(PHANTOMS, path.parent / "phantoms", 2)
    module = fields.six_stages(kind).module.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1, pct_start=0.1)
    measure = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    begun, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        image, target = recipe.draw_batch(np.random.default_rng([6, step]), phantoms, [], 0.0, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = module(image)
        loss = measure(logits.float(), target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 0:
            pace = (time.perf_counter() - begun) / step
            print(f"{step}: loss {np.mean(losses[-20:]):.3f}, {pace:.2f} s a step", flush=True)
            torch.save(module.state_dict(), path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
