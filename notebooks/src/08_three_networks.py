# %% [markdown]
# # 08 · Three networks, and windows
#
# **Question.** U-Net, nnU-Net and Swin UNETR mark the same lesion. Do they have the same reason?
#
# **Objectives.** You run the three networks of the paper on one patient. You see how a sliding window turns many
# answers into one, and what that does to a gradient. You compare the maps of one lesion. You see a gradient's near and
# far field, and measure what a shortcut costs. You see how the same file of weights can mean two different networks, and
# how to wrap a network of your own.
#
# **Minutes.** 3 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 03 and 04. About 6 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. `SMALL` is true where the tests run this chapter. For a real patient write `openms:patient26`; it takes a few minutes longer, because a whole head
# has 27 windows, not two.

# %%
import os
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ies_helpers as ies
from ies_helpers import plot_maps

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT = "demo"

# %% [markdown]
# ## Three networks
#
# All three were trained for this handbook on the same synthetic and real patients, small enough for a notebook; their
# model cards say how, and how good they are. `nnunet` and `swin_unetr` also had the U-Net as a teacher: they saw its
# logits beside the target. So they are *not* three independent opinions, and the comparison below shows what the
# architectures do with much the same knowledge. The paper's networks were trained on hundreds of patients, each on its own.

# %%
from ies_helpers.arrays import Box

subject = ies.load_subject(SUBJECT)
networks = {name: ies.load_network(name) for name in ("unet", "nnunet", "swin_unetr")}
if SMALL:  # the middle of the brain, through smaller windows
    middle = Box.of((16, 16, 16), (80, 112, 80))
    cut = {"image": subject.image[:, *middle], "raw": subject.raw[:, *middle], "target": subject.target[middle]}
    subject = replace(subject, **cut)
    networks = {name: replace(network, window=64) for name, network in networks.items()}

# %% [markdown]
# Each of them predicts, and we count the lesions that it finds, makes up, and misses.

# %%
found, rows = {}, []
for name, network in networks.items():
    begun = time.time()
    probability = ies.predict(network, subject.image)
    seconds = time.time() - begun
    found[name] = ies.find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
    counts = {group: len(found[name].of(group)) for group in ("TP", "FP", "FN")}
    thousands = sum(p.numel() for p in network.module.parameters()) // 1000
    rows.append({"network": name, "thousand parameters": thousands, "predicts, s": round(seconds, 1), **counts})
pd.DataFrame(rows).set_index("network")

# %% [markdown]
# The table is the first lesson: parameters do not tell the cost. The nnU-Net has the fewest and is slower than the
# U-Net, because it works at full resolution where the U-Net has halved the grid already. The groups differ, too. A
# false positive of one network need not be one of another.
#
# ## One answer from many windows
#
# None of the three sees the whole head at once when it predicts. A window of 96 voxels a side steps through the volume,
# and where windows overlap, their logits are averaged with a weight that is 1 in the middle of a window and falls
# off like a bell:
#
# $$ y(v) = \frac{\sum_w g_w(v)\, f_w(v)}{\sum_w g_w(v)} . $$

# %%
from ies_helpers.segmentation.inference import importance, total_importance, window_boxes

nnunet = networks["nnunet"]
boxes = window_boxes(nnunet, subject.shape)
share = torch.zeros(len(boxes), *subject.shape, dtype=torch.float64)
for n, box in enumerate(boxes):
    share[n][box] = importance(nnunet) / total_importance(nnunet, subject.shape)[box]
middle = tuple(n // 2 for n in subject.shape)
figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
axes.plot(share[:, middle[0], :, middle[2]].T)
axes.set(xlabel="voxel along the second axis", ylabel="share of each window", ylim=(0, 1.05))
text = f"{len(boxes)} windows on {' x '.join(map(str, subject.shape))} voxels"
title = axes.set_title(text)

# %% [markdown]
# Each line is one window's share of the answer along a line through the middle of the volume; at each voxel the shares
# add up to 1. Near the ends only one window answers. In the middle, where two overlap, they take turns
# smoothly.
#
# For an explanation this matters twice. A voxel's logit is a *fixed* weighted sum of windows, so its gradient is the
# same weighted sum of the windows' gradients: exact, one window in memory at a time, and windows that do not hold the
# voxel need not be run. And an nnU-Net or a Swin UNETR is *another function* in another window: instance normalisation
# and attention look at all of it. Cutting a smaller window out to save time would explain a network that nobody ran.
#
# ## A gradient through windows, by hand
#
# We take a lesion that all three networks found, with 20 to 150 voxels, the one nearest to the middle of the brain: on
# most brains that is near a ventricle, as in the paper's figures.


# %%
def everywhere(lesion):
    """Whether the other two networks mark a voxel of this lesion, too."""
    mask = lesion.mask(subject.shape)
    return all((others.label_map(subject.shape, "TP") > 0)[mask].any() for others in found.values())


brain = np.argwhere(subject.image[0].numpy() != 0).mean(axis=0)
common = [le for le in found["unet"].of("TP") if 20 <= len(le) <= 150 and everywhere(le)]
lesion = min(common, key=lambda le: float(np.linalg.norm(le.voxels.mean(axis=0) - brain)))
print(lesion, "is found by all three;", len(common), "such lesions")

# %% [markdown]
# Now the sum of the lesion's logits, differentiated window by window. `share` is what we plotted.

# %%
index = tuple(torch.as_tensor(lesion.voxels).T)
by_hand = torch.zeros_like(subject.image)
for n, box in enumerate(boxes):
    if not bool((share[n][index] > 0).any()):
        continue
    x = subject.image[(slice(None), *box)][None].clone().requires_grad_()
    inside = torch.zeros(subject.shape)
    inside[index] = share[n][index].float()
    score = (nnunet.module(x)[0, 1] * inside[box]).sum()
    by_hand[(slice(None), *box)] += torch.autograd.grad(score, x)[0][0]
ours = ies.gradient(nnunet, subject.image, lesion, aggregate="sum")
print(f"largest difference from ies.gradient: {float((by_hand - ours).abs().max() / ours.abs().max()):.1e} of the peak")

# %% [markdown]
# At most rounding. `ies.gradient` does this loop and nothing else for `sum` and `mean`. For `max` it needs the gradient of
# each voxel of the lesion, and adds a voxel's windows *before* it takes the maximum. How it gets them without a loop
# over voxels we see below.
#
# ## The same lesion, three maps
#
# SmoothGrad with the `max` over the lesion's voxels, as in the paper's Figures 1 and 2, of one draw, for the lesion that the
# U-Net found. Each network is explained as it predicts, through its windows. The Swin UNETR's maximum is dear, so it gets
# four voxels spread over the lesion: compare its row with that in mind.


# %%
def kept(module, x):
    """Gigabytes that a forward pass keeps for its way back."""
    sizes = {}
    count = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.data_ptr(): t.nbytes}) or t, lambda t: t)
    with count:
        module(x.clone().requires_grad_())
    return sum(sizes.values()) / 1e9


# %% [markdown]
# That function counts the bytes that autograd keeps; we ask it of one window, beside the time of a draw.

# %%
few = lesion.voxels[np.linspace(0, len(lesion) - 1, 4).astype(int)]
maps, rows, one_window = {}, [], subject.image[(slice(None), *boxes[0])][None]
for name, network in networks.items():
    seen, begun, dear = network.explained_through("windows"), time.time(), name == "swin_unetr"
    voxels = few[:2] if SMALL else few if dear else lesion.voxels
    how = {"aggregate": "max", "accuracy": "exact" if dear else "auto"}
    maps[name] = ies.smoothgrad(seen, subject.image, voxels, draws=1, **how)
    seconds, memory = round(time.time() - begun, 1), round(kept(seen.module, one_window), 1)
    rows.append({"network": name, "voxels": len(voxels), "s a draw": seconds, "GB a window": memory})
pd.DataFrame(rows).set_index("network")

# %% [markdown]
# The U-Net's voxels cost little, the nnU-Net's more, and for its few the Swin UNETR took two dense passes for each, one a
# window. The memory is what one such pass keeps for its way back; all windows at once would need that many times more.

# %%
figure = plot_maps(subject, maps, lesion)

# %% [markdown]
# One row a network, coronal as in the paper: the FLAIR image with the lesion's outline, then what FLAIR and T1 count. Each
# row has its own colour scale, because logits of different networks have different scales; compare shapes between
# rows, and values only within one. In every row FLAIR is orange to red inside the lesion: brighter there means more
# lesion. Around it signs mix: blue patches, where darker surroundings would help, plain in the first row, hardly to be
# seen in the others. T1 is the weaker of the two and mostly blue inside. What differs is the texture and the reach. Go through the slices yourself, a network at a time:

# %%
ies.view(subject, {(name, "max"): m for name, m in maps.items()}, lesion)

# %% [markdown]
# Above all look for colour far from the lesion, where a window makes it possible. The numbers:

# %%
distance = np.linalg.norm(np.indices(subject.shape).T - lesion.voxels.mean(axis=0), axis=-1).T
mask = lesion.mask(subject.shape)
rows = []
for name, values in maps.items():
    flair, total = values[0], values.abs().sum()
    order = np.argsort(distance, axis=None)
    mass = values.abs().sum(dim=0).numpy().ravel()[order].cumsum()
    half = distance.ravel()[order][np.searchsorted(mass, [0.5 * mass[-1], 0.9 * mass[-1]])]
    inside = {"FLAIR, mean inside": float(flair[mask].mean()), "share of FLAIR": float(flair.abs().sum() / total)}
    reach = {"half within, voxels": half[0], "90 % within": half[1]}
    rows.append({"network": name, **inside, **reach})
pd.DataFrame(rows).set_index("network").round(3)

# %% [markdown]
# FLAIR's mean inside is positive for all three. The last two columns say within which distance from the lesion's centre
# half, and nine tenths, of the map's absolute values lie. The U-Net's map ends where its receptive field does. The
# others have a faint far field over the whole window: instance normalisation and attention let every voxel of the
# window take part a little, and a little times a million voxels is a lot of mass. A picture on one scale does not show
# it, a sum does.
#
# ## Near and far
#
# The far field can be had alone. Hold the nnU-Net's norms still, their means and variances as they are on this image: then
# every layer is local, and what is left of a voxel's gradient is its *near field*, zero beyond a box. What goes through
# the means and variances is the *far field*. Their sum is the gradient, exactly: it is the chain rule, sorted. So for
# one voxel in the middle of the lesion we take the near field, the whole gradient, and the difference.

# %%
from ies_helpers.saliency.gradients import LesionGradient

seen, voxel = nnunet.explained_through("windows"), lesion.voxels[len(lesion) // 2]
alone = LesionGradient(seen, subject.image, voxel[None], "max", statistics="frozen")
near = alone.place(alone(subject.image))
far = ies.gradient(seen, subject.image, voxel[None], accuracy="exact") - near
size, whole = float(far.abs().max() / near.abs().max()), (near + far).abs()
print(f"largest value of the far field: {size:.2%} of the near field's")
print(f"share in the length of the gradient {float(far.norm() / whole.norm()):.1%},", end=" ")
print(f"in the sum of absolute values {float(far.abs().sum() / whole.sum()):.0%}")

# %% [markdown]
# We draw the FLAIR part of both in size, on one logarithmic scale, then the far field with its signs on a scale of its own.

# %%
from matplotlib.colors import LogNorm

figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
how = {"plane": "coronal", "at": tuple(int(n) for n in voxel), "unit": "logit per unit"}
log = {"colours": "viridis", "scale": LogNorm(1e-6, 1, clip=True), "threshold": 1e-8, "opacity": 0.7}
ies.plot_slice(subject, near.abs(), ax=axes[0], title="near field, size", **log, **how)
ies.plot_slice(subject, far.abs(), ax=axes[1], title="far field, size", **log, **how)
ax = ies.plot_slice(subject, far, ax=axes[2], title="far field, own scale", **how)

# %% [markdown]
# Left, the near field: a box with a bright middle, a step of the bar ten times more. In the middle, the far field on the same scale:
# everywhere, as far as the window goes, and dark. Right, the same enlarged some thousand times, with signs. It does not
# point at the voxel. It looks like the *brain*: white matter, borders and dark spaces each have their sign, because
# a norm asks of every place how it moves the window's mean and variance, and that depends on what is there.
#
# The far field's picture hardly depends on the voxel: the same means and variances stand between, and voxels differ in how
# they weigh them. So the far fields of a whole lesion are mixtures of a few, and each of those costs one dense pass a window.
# The package takes such passes until a random estimate of what is left is below the accuracy: a thousandth of the
# gradients' length, unless told otherwise (`accuracy=`, `--accuracy`). Its error we measure with the four voxels,
# against a dense pass for each of them in each window, `accuracy="exact"`.

# %%
truth = ies.gradient(seen, subject.image, few, accuracy="exact")
engine = LesionGradient(seen, subject.image, few, "max", way="fields")
apart = (engine.place(engine(subject.image)) - truth).abs()
print(f"error of the map: {float(apart.norm() / truth.norm()):.1e} in length,", end=" ")
print(f"{float(apart.max() / truth.abs().max()):.1e} of the peak at worst")
print(engine.report.in_words())

# %% [markdown]
# The first line is what we measured, the rest what the package says of itself: its estimate, and two voxels that it
# always takes exactly as well in a lesion's first draw. The error is one of the whole lesion, so a single voxel may be
# off by somewhat more than a thousandth; a draw's noise changes the map far more. For four voxels little is saved. For the
# 44 of this lesion it takes 14 dense passes in place of 88, and for larger lesions ever fewer for each voxel. The U-Net has
# norms that are fixed after training, so it has no far field: its maximum is all near, and exact. The Swin UNETR's far
# field goes through attention and is no such simple mixture: for 55 voxels of a patient's lesion, even an error of
# three thousandths took nearly half of the 110 passes. That is why it got four voxels above, and `accuracy="exact"`.
#
# ## The same weights, another network
#
# A Swin UNETR halves its grid by laying eight neighbours side by side, then a matrix mixes them. Which neighbour comes
# first is not written in the file. MONAI 0.9, with which the paper's network was trained, had a mistake in that order:
# two of the eight neighbours were taken twice, two never. MONAI 1.5 repaired it *under the same name*. Old weights
# still load, without an error or a warning, and the network is another one. We do it on purpose with ours, which was
# trained in the third order there is.

# %%
from ies_helpers.segmentation.architectures import MERGINGS, build

weights = networks["swin_unetr"].module.state_dict()
box = boxes[0]
logits = {}
for merging in MERGINGS:
    swin = build("swin_unetr", (12,), merging).module
    swin.load_state_dict(weights)
    with torch.no_grad():
        y = swin(subject.image[(slice(None), *box)][None])[0]
    logits[merging] = (y[1] - y[0]).numpy()
right = logits["mergingv2"]
apart = {name: float(np.abs(values - right).mean()) for name, values in logits.items()}
print({name: round(value, 2) for name, value in apart.items()}, "logits apart on average, with the same weights")

# %% [markdown]
# The figure shows one slice of that window: the log odds of lesion as they should be, then what the other two orders add
# or take. The titles say how many voxels of the window each calls lesion.

# %%
edge = np.log(networks["swin_unetr"].threshold / (1 - networks["swin_unetr"].threshold))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
z = right.max(axis=(0, 1)).argmax()
shown = {"mergingv2": right, **{name: logits[name] - right for name in ("monai-0.9", "monai-1.5")}}
for ax, (name, values) in zip(axes, shown.items(), strict=True):
    top = np.abs(values[:, :, z]).max()
    drawn = ax.imshow(values[:, :, z].T, vmin=-top, vmax=top, cmap="RdBu_r", origin="lower")
    what = "log odds" if name == "mergingv2" else "difference"
    ax.set(title=f"{name}: {int((logits[name] > edge).sum())} voxels", xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=ax, label=what, shrink=0.7)

# %% [markdown]
# The left panel is the network as it was trained. The other two have the same parameters to the last bit, and differ most
# where it matters, at lesions and their borders; the count of lesion voxels changes, too. Their segmentations still look
# like segmentations, which is what makes the trap good: nobody who did not know the right answer would notice. How far
# apart they are depends on the weights: with random ones it is about a tenth of the largest logit at the worst voxel.
# So `load_network` never guesses: our file says `mergingv2`, and a Swin UNETR's file that says nothing is refused until
# you say `merging="monai-0.9"`, as the published one needs.
#
# ## Less memory for more time
#
# The published script can compute attention again in the backward pass in place of keeping it (`use_checkpoint`). Here it
# is an argument of `build` and `load_network`. The gradient is the same.

# %%
for again in (False, True) if not SMALL else (True,):
    swin = build("swin_unetr", (12,), use_checkpoint=again).module
    swin.load_state_dict(weights)
    leaf, begun = one_window.clone().requires_grad_(), time.time()
    g = torch.autograd.grad(swin(leaf)[0, 1].sum(), leaf)[0]
    seconds = time.time() - begun
    print(f"use_checkpoint={again}: {seconds:.1f} s, keeps {kept(swin, one_window):.1f} GB, sum {float(g.sum()):.2f}")

# %% [markdown]
# One window at a time already bounds memory, so you need this only where a single window is too much.
#
# ## Your own network
#
# Anything that maps `(B, C, I, J, K)` to logits on the same grid is wrapped in one line: two channels (class 1 is lesion) or
# one (a sigmoid's), a list from deep supervision, windows of any size. A toy that looks at smoothed FLAIR:


# %%
class Brightness(torch.nn.Module):
    """One logit a voxel: the mean FLAIR of 3^3 voxels, minus 1.5."""

    def forward(self, x):
        return torch.nn.functional.avg_pool3d(x[:, :1], 3, 1, 1) - 1.5


mine = ies.Network(Brightness(), "brightness", window=(64, 96, 64), through="windows", overlap=0.5, threshold=0.5)
g = ies.gradient(mine, subject.image, lesion, aggregate="max")
print(ies.find_lesions(ies.predict(mine, subject.image), subject.target, threshold=mine.threshold))
print(f"peak {float(g.max()):.4f}, which should be 1 / 27 = {1 / 27:.4f}; T1 counts {float(g[1].abs().max())}")

# %% [markdown]
# An **nnU-Net v2** results folder is a network by its path, with `:0` behind it for one fold alone:
#
# ```python
# network = ies.load_network("results/Dataset501_ms/nnUNetTrainer__nnUNetPlans__3d_fullres")
# network, subject = ies.prepare(network, subject)
# lesions = ies.find_lesions(network, subject)
# ```
#
# `prepare` brings scan and network together: from then on `subject.image` is the scan as this network normalises it.
# On the command line a folder stands where `unet` would: `ies explain ... --network FOLDER`. The folder is read without
# nnunetv2 and without running its code; only nnU-Net's own architectures are needed, which a notebook may lack:

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("dynamic_network_architectures") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "dynamic-network-architectures"], check=True)

# %% [markdown]
# So that the cell below runs without your results, we write a folder in nnU-Net's format. Its network is tiny and made by
# hand: it calls bright FLAIR lesion. It has two folds, mirrored copies, axes of its own and a spacing of 1.25 mm.

# %%
from pathlib import Path
from tempfile import mkdtemp

from ies_helpers.teaching import left_out, write_results

folder = write_results(Path(mkdtemp()))
results = ies.load_network(folder)
placed, scan = ies.prepare(results, subject)
found_here = ies.find_lesions(results, subject)
saliency = ies.gradient(placed, scan.image, found_here.of("TP")[0], aggregate="mean")
print(found_here, "| passes a window:", placed.passes, "| map on the scan's grid:", tuple(saliency.shape))

# %% [markdown]
# It finds lesions and invents many more, as a rule so simple must. The map lies on the scan's own grid, though the network
# never saw that grid.
#
# Why not simply wrap its module, as above? Because nnU-Net's prediction is more than its module. We leave out one step
# at a time, and compare what is called lesion with the right answer:

# %%
rows = []
whole = ies.predict(placed, scan.image) > 0.5
for name, other in left_out(results, subject.spacing).items():
    wrong, image = ies.prepare(other, subject)
    marked = ies.predict(wrong, image.image) > 0.5
    both = float((marked & whole).sum())
    rows.append({"without": name, "Dice with the right answer": 2 * both / float(marked.sum() + whole.sum())})
pd.DataFrame(rows).set_index("without").round(2)

# %% [markdown]
# None of these is an error: sizes fit, a segmentation comes out, and it looks like one. How much each step matters
# depends on the network and the scan: here axes, mask and spacing do most, and the crop nothing, because this scan ends
# where its brain does. What each of them is, and what happens without it:
#
# | nnU-Net | what happens to whoever leaves it out |
# |---|---|
# | turns the axes to (K, J, I), then as the plans say | the network gets a brain that lies on its side |
# | crops to what is not zero before it places windows | every window lies elsewhere |
# | normalises as the plans say, with a mask or without | without one the background is not 0 |
# | resamples to the plans' spacing, and back | sizes and shapes are not those it learned |
# | averages mirrored copies and folds, as logits | a map of one of sixteen functions |
# | answers regions by sigmoids, classes by a softmax | probabilities of something else |
#
# All of these but the normalisation are linear, so a gradient goes back through each of them exactly: maps lie on the
# scan's own grid. The two clips are held: the normalisation's mean and scatter, and the range of a resampled channel.
#
# Other ways in, each by `load_network` and by `--network`:
#
# | what you have | what to say |
# |---|---|
# | any network of MONAI, and its weights | `load_network("w.pt", architecture="monai:SegResNet", settings="s.json")`; the file holds the arguments it was trained with, and under `"network"` its window, head or lesion class |
# | a MONAI bundle, a checkpoint of Auto3DSeg | the folder, or the file: both say what they are; a bundle's expressions are not run |
# | TorchScript | the file; gradients and perilesional curves, no Grad-CAM++, since nobody can read its layers |
# | a module of your own | `python:package.module:function`, which runs your code, or `ies.Network(module)` |
# | LST-AI 2, MindGlide | `lst-ai:FOLDER`, `mindglide:FILE`, with their owners' files |
# | FLAMeS, the lesion models of the Spinal Cord Toolbox | they are nnU-Net results folders |
# | several classes or regions, and the wrong one was taken (which one is said) | `settings={"network": {"lesion_class": "wmh"}}`, its name or number |
# | several networks whose *probabilities* are averaged | `ies_helpers.segmentation.network.Averaged([...])` |
#
# ## What we saw
#
# - Three architectures with much the same training: the same signs inside the lesion, another texture and reach.
# - A blended prediction is a fixed sum of windows, and its gradient is the same sum; only windows that hold the lesion count.
# - Instance normalisation and attention give a map a far field over the whole window. It is weak, has the shape of the
#   brain, and a few passes hold that of all of a lesion's voxels.
# - A file of weights is not yet a network.
#
# ## Limits
#
# Two of the networks were taught by the third, so what they share says little about lesions. The shipped networks are small
# and know few patients. One lesion is an example. The paper's comparison is of three networks, each trained on its own on
# hundreds of patients of one hospital; see chapter 13 for what we can compare.
#
# ## Exercises
#
# **1.** How many windows would a head of 182 x 218 x 182 voxels need with an overlap of one half?
#
# <details><summary>Solution</summary>
#
# ```python
# print(len(window_boxes(replace(nnunet, overlap=0.5), (182, 218, 182))))
# ```
#
# Expected: `36`. Along 182 voxels three windows, along 218 four.
#
# </details>
#
# **2.** Does the Swin UNETR give the same logits, shifted, if its window is shifted by one voxel? Why not?
#
# <details><summary>Solution</summary>
#
# ```python
# with torch.no_grad():
#     one, two = (swin(subject.image[:, :64, s : s + 64, :64][None])[0, 1] for s in (0, 1))
# apart = (one[:, 1:] - two[:, :-1])[16:-16, 16:-16, 16:-16].abs().mean()  # far from the border, which shifts, too
# print(float(apart), float(one.abs().mean()))
# ```
#
# Expected: clearly above 0. The network halves its grid five times and attends in blocks of 7, so a shift by one voxel
# lands on another grid; and the window's statistics change. Only convolutions without stride commute with shifts.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Figures 1 and 2.
# - Isensee F. and others (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
#   segmentation. *Nature Methods* 18:203-211. [doi 10.1038/s41592-020-01008-z](https://doi.org/10.1038/s41592-020-01008-z).
# - Hatamizadeh A. and others (2022). Swin UNETR: Swin transformers for semantic segmentation of brain tumors in MRI
#   images. [arXiv 2201.01266](https://arxiv.org/abs/2201.01266).
#
# ## Next
#
# [Chapter 09](09_true_or_false.ipynb) asks whether a map tells a true lesion from a false one.
