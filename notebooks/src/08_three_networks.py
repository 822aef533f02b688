# %% [markdown]
# # 08 · Three networks, and windows
#
# **Question.** U-Net, nnU-Net and Swin UNETR mark the same lesion. Do they have the same reason?
#
# **Objectives.** You run the three networks of the paper on one patient. You see how a sliding window turns many
# answers into one, and what that does to a gradient. You compare the maps of one lesion. You see a gradient's near and
# far field, and measure what a shortcut costs. You see how the same file of weights can mean two different networks,
# and how to wrap a network of your own.
#
# **Minutes.** 3 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 03 and 04. About 6 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. `openms:patient26` takes a few minutes longer, because a whole head has 27 windows, not
# two. `SMALL` is true where the tests run this chapter.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"

# %% [markdown]
# ## Three networks
#
# All three were trained for this handbook on the same synthetic and real patients, small enough for a notebook; their
# model cards say how, and how good they are. `nnunet` and `swin_unetr` also had the U-Net as a teacher: they saw its
# logits beside the target. So they are *not* three independent opinions, and the comparison below shows what the
# architectures do with much the same knowledge. The paper's networks were trained on hundreds of patients, each on its
# own.

# %%
from ies_helpers import load_network, load_subject

subject = load_subject(SUBJECT)
networks = {name: load_network(name) for name in ("unet", "nnunet", "swin_unetr")}

# %% [markdown]
# The tests are content with the middle of the brain, through smaller windows.

# %%
from dataclasses import replace

if SMALL:
    middle = (slice(16, 80), slice(16, 112), slice(16, 80))
    cut = {"image": subject.image[:, *middle], "raw": subject.raw[:, *middle], "target": subject.target[middle]}
    subject = replace(subject, **cut)
    networks = {name: replace(network, window=64) for name, network in networks.items()}

# %% [markdown]
# Each of them predicts, and we take the time.

# %%
import time

from ies_helpers import find_lesions

found, seconds = {}, {}
for name, network in networks.items():
    begun = time.time()
    found[name] = find_lesions(network, subject)
    seconds[name] = round(time.time() - begun, 1)

# %% [markdown]
# How large is each network, how long does it take, and how many lesions does it find, make up, and miss?

# %%
import pandas as pd

thousands = {name: sum(p.numel() for p in n.module.parameters()) // 1000 for name, n in networks.items()}
table = pd.DataFrame({"thousand parameters": thousands, "predicts, s": seconds})
for group in ("TP", "FP", "FN"):
    table[group] = {name: len(lesions.of(group)) for name, lesions in found.items()}
table.rename_axis("network")

# %% [markdown]
# The table is the first lesson: the number of parameters does not tell you the cost. The nnU-Net has the fewest and is
# slower than the U-Net, because it works at full resolution where the U-Net has already halved the grid. The groups
# differ, too. A false positive of one network need not be one of another.
#
# ## One answer from many windows
#
# None of the three sees the whole head at once when it predicts. A window of 96 voxels a side steps through the volume,
# and where windows overlap, their logits are averaged with a weight that is 1 in the middle of a window and falls off
# like a bell:
#
# $$ y(v) = \frac{\sum_w g_w(v)\, f_w(v)}{\sum_w g_w(v)} . $$
#
# Here are the windows of the nnU-Net, each a box of voxels.

# %%
from ies_helpers.segmentation import inference

nnunet = networks["nnunet"]
boxes = inference.window_boxes(nnunet, subject.shape)
[[f"{side.start} to {side.stop}" for side in box] for box in boxes]

# %% [markdown]
# A window's share of the answer at a voxel is $g_w(v)$ over the sum of all windows' weights there.

# %%
import torch

share = torch.zeros(len(boxes), *subject.shape, dtype=torch.float64)
total = inference.total_importance(nnunet, subject.shape)
for n, box in enumerate(boxes):
    share[n][box] = inference.importance(nnunet) / total[box]

# %% [markdown]
# We plot the shares along a line through the middle of the volume.

# %%
import matplotlib.pyplot as plt

I, J, K = subject.shape
figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
lines = ax.plot(share[:, I // 2, :, K // 2].T)
ax.set(xlabel="voxel along the second axis", ylabel="share of each window", ylim=(0, 1.05))
title = ax.set_title(f"{len(boxes)} windows on {I} x {J} x {K} voxels")

# %% [markdown]
# Each line is one window; at each voxel the shares add up to 1. Near the ends only one window answers. In the middle,
# where two overlap, one hands over to the other smoothly.
#
# For an explanation this matters twice. First, a voxel's logit is a *fixed* weighted sum of windows, so its gradient is
# the same weighted sum of the windows' gradients. That is exact, it needs one window in memory at a time, and windows
# that do not hold the voxel need not be run. Second, an nnU-Net or a Swin UNETR is *another function* in another
# window: instance normalisation and attention look at all of it. If we cut out a smaller window to save time, we would
# explain a network that nobody ran.
#
# ## A gradient through windows, by hand
#
# We need a lesion that all three networks found.


# %%
def everywhere(lesion):
    """Whether all networks mark a voxel of this lesion."""
    mask = lesion.mask(subject.shape)
    return all((lesions.label_map(subject.shape, "TP") > 0)[mask].any() for lesions in found.values())


common = [le for le in found["unet"].of("TP") if 20 <= len(le) <= 150 and everywhere(le)]
print(len(common), "lesions of 20 to 150 voxels are found by all three")

# %% [markdown]
# Of these we take the one nearest to the middle of the brain: on most brains that is near a ventricle, as in the
# paper's figures.

# %%
import numpy as np

brain = np.argwhere(subject.image[0].numpy() != 0).mean(axis=0)
lesion = min(common, key=lambda le: float(np.linalg.norm(le.voxels.mean(axis=0) - brain)))
lesion

# %% [markdown]
# Which windows have a share in it?

# %%
index = tuple(torch.as_tensor(lesion.voxels).T)
concerned = [n for n in range(len(boxes)) if bool((share[n][index] > 0).any())]
concerned

# %% [markdown]
# Now the sum of the lesion's logits, differentiated in one window. Each voxel counts with the window's share, which is
# what we plotted.


# %%
def part(n):
    """What window n adds to the gradient of the lesion's summed logits, on the window's box."""
    weights = torch.zeros(subject.shape)
    weights[index] = share[n][index].float()
    x = subject.image[:, *boxes[n]][None].clone().requires_grad_()
    score = (nnunet.module(x)[0, 1] * weights[boxes[n]]).sum()
    return torch.autograd.grad(score, x)[0][0]


# %% [markdown]
# We add up the windows.

# %%
by_hand = torch.zeros_like(subject.image)
for n in concerned:
    by_hand[:, *boxes[n]] += part(n)

# %% [markdown]
# Does the package give the same?

# %%
from ies_helpers import gradient

ours = gradient(nnunet, subject.image, lesion, aggregate="sum")
print(f"largest difference from `gradient`: {float((by_hand - ours).abs().max() / ours.abs().max()):.1e} of the peak")

# %% [markdown]
# It does, up to rounding at most. `gradient` does this loop and nothing else for `sum` and `mean`. For `max` it needs
# the gradient of each voxel of the lesion, and adds a voxel's windows *before* it takes the maximum. How it gets them
# without a loop over voxels we see below.
#
# ## The same lesion, three maps
#
# We make a SmoothGrad of one draw with the `max` over the lesion's voxels, as in the paper's Figures 1 and 2, for the
# lesion that the U-Net found. Each network is explained as it predicts, through its windows. The Swin UNETR's maximum
# is expensive, so it gets four voxels spread over the lesion: compare its row with that in mind.

# %%
few = lesion.voxels[np.linspace(0, len(lesion) - 1, 4).astype(int)]
asked = {"unet": lesion.voxels, "nnunet": lesion.voxels, "swin_unetr": few}
if SMALL:
    asked = dict.fromkeys(asked, few[:2])

# %% [markdown]
# The Swin UNETR also gets `accuracy="exact"`. Why, we will see below.

# %%
from ies_helpers import smoothgrad

maps, spent = {}, {}
for name, network in networks.items():
    begun, accuracy = time.time(), "exact" if name == "swin_unetr" else "auto"
    seen = network.explained_through("windows")
    maps[name] = smoothgrad(seen, subject.image, asked[name], draws=1, aggregate="max", accuracy=accuracy)
    spent[name] = round(time.time() - begun, 1)

# %% [markdown]
# And how much memory does that need? autograd lets us look at each tensor that it keeps. We count their bytes.


# %%
def kept(module, x):
    """Gigabytes that a forward pass keeps for its way back."""
    sizes = {}
    hooks = (lambda t: sizes.update({t.data_ptr(): t.nbytes}) or t, lambda t: t)  # on keeping, on using
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        module(x.clone().requires_grad_())
    return sum(sizes.values()) / 1e9


# %% [markdown]
# We ask it of one window, and put it beside the time of a draw.

# %%
one_window = subject.image[:, *boxes[0]][None]
table = pd.DataFrame({"voxels": {name: len(voxels) for name, voxels in asked.items()}, "s a draw": spent})
table["GB a window"] = {name: round(kept(network.module, one_window), 1) for name, network in networks.items()}
table.rename_axis("network")

# %% [markdown]
# The U-Net's voxels cost little, the nnU-Net's more. For its few the Swin UNETR took two dense passes for each, one a
# window. The memory is what one such pass keeps for its way back; all windows at once would need that many times more.
#
# Now the maps.

# %%
from ies_helpers import plot_maps

figure = plot_maps(subject, maps, lesion)

# %% [markdown]
# We see one row a network, coronal as in the paper: the FLAIR image with the lesion's outline, then what FLAIR and T1
# count. Each row has its own colour scale, because logits of different networks have different scales. So compare
# shapes between rows, and values only within one. In every row FLAIR is orange to red inside the lesion: brighter there
# means more lesion. Around it the signs mix: blue patches, where darker surroundings would help, are plain in the first
# row and hardly to be seen in the others. T1 is the weaker of the two and mostly blue inside. What differs is the
# texture and the reach.
#
# Go through the slices yourself, a network at a time. Look above all for colour far from the lesion, where a window
# makes it possible.

# %%
from ies_helpers import view

view(subject, {(name, "max"): m for name, m in maps.items()}, lesion)

# %% [markdown]
# Let us put numbers to it. How far is each voxel from the lesion's centre?

# %%
distance = np.linalg.norm(np.indices(subject.shape).T - lesion.voxels.mean(axis=0), axis=-1).T
nearest_first = np.argsort(distance, axis=None)

# %% [markdown]
# We walk outwards and add up the map's absolute values, until we have a given share of them.


# %%
def within(values, share):
    """Distance from the centre, in voxels, within which a share of a map's absolute values lies."""
    mass = values.abs().sum(dim=0).numpy().ravel()[nearest_first].cumsum()
    return distance.ravel()[nearest_first][np.searchsorted(mass, share * mass[-1])]


# %% [markdown]
# One row a network.

# %%
mask = lesion.mask(subject.shape)
table = pd.DataFrame({"FLAIR, mean inside": {name: float(m[0][mask].mean()) for name, m in maps.items()}})
table["share of FLAIR"] = {name: float(m[0].abs().sum() / m.abs().sum()) for name, m in maps.items()}
table["half within, voxels"] = {name: within(m, 0.5) for name, m in maps.items()}
table["90 % within"] = {name: within(m, 0.9) for name, m in maps.items()}
table.rename_axis("network").round(3)

# %% [markdown]
# FLAIR's mean inside is positive for all three. The last two columns say within which distance from the lesion's centre
# half, and nine tenths, of the map's absolute values lie. The U-Net's map ends where its receptive field does. The
# others have a faint far field over the whole window: instance normalisation and attention let every voxel of the
# window take part a little, and a little times a million voxels is a lot of mass. A picture on one scale does not show
# it, a sum does.
#
# ## Near and far
#
# We can look at the far field alone. Hold the nnU-Net's norms still, with their means and variances as they are on this
# image. Then every layer is local, and what is left of a voxel's gradient is its *near field*, zero beyond a box. What
# goes through the means and variances is the *far field*. Their sum is the gradient, exactly: it is the chain rule,
# sorted.
#
# So we take one voxel in the middle of the lesion, and its near field. (SmoothGrad without noise is the plain
# gradient.)

# %%
seen, voxel = nnunet.explained_through("windows"), lesion.voxels[len(lesion) // 2]
plain = {"draws": 1, "noise": 0.0, "aggregate": "max"}
near = smoothgrad(seen, subject.image, voxel[None], statistics="frozen", **plain)

# %% [markdown]
# The far field is what the whole gradient has beyond that.

# %%
whole = gradient(seen, subject.image, voxel[None], accuracy="exact")
far = whole - near

# %% [markdown]
# How large is it? The answer depends on how we measure.

# %%
print(f"largest value of the far field: {float(far.abs().max() / near.abs().max()):.2%} of the near field's")
print(f"share in the length of the gradient: {float(far.norm() / whole.norm()):.1%}")
print(f"share in the sum of absolute values: {float(far.abs().sum() / whole.abs().sum()):.0%}")

# %% [markdown]
# Let us draw both. First we choose how: one coronal slice through the voxel, and for their size one logarithmic scale.

# %%
from matplotlib.colors import LogNorm

how = {"plane": "coronal", "at": tuple(int(n) for n in voxel), "unit": "logit per unit"}
log = {"colours": "viridis", "scale": LogNorm(1e-6, 1, clip=True), "threshold": 1e-8, "opacity": 0.7}

# %% [markdown]
# We draw the FLAIR part of both in size, then the far field with its signs on a scale of its own.

# %%
from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
plot_slice(subject, near.abs(), ax=axes[0], title="near field, size", **log, **how)
plot_slice(subject, far.abs(), ax=axes[1], title="far field, size", **log, **how)
ax = plot_slice(subject, far, ax=axes[2], title="far field, own scale", **how)

# %% [markdown]
# On the left, the near field is a box with a bright middle; each step of the bar is ten times more. In the middle, the
# far field on the same scale is everywhere, as far as the window goes, and dark. On the right it is enlarged some
# thousand times, with signs. It does not point at the voxel. It looks like the *brain*: white matter, borders and dark
# spaces each have their sign, because a norm asks of every place how it moves the window's mean and variance, and that
# depends on what is there.
#
# The far field's picture hardly depends on the voxel: the same means and variances stand between, and voxels differ
# only in how they weigh them. So the far fields of a whole lesion are mixtures of a few, and each of those costs one
# dense pass a window. The package takes such passes until a random estimate of what is left is below the accuracy: a
# thousandth of the gradients' length, unless told otherwise (`accuracy=`, `--accuracy`).
#
# How large is the error really? We measure it with the four voxels, against a dense pass for each of them in each
# window, `accuracy="exact"`.

# %%
truth = gradient(seen, subject.image, few, accuracy="exact")

# %% [markdown]
# `way="fields"` asks for the shortcut. We take `smoothgrad_average`, because it also reports what it did.

# %%
from ies_helpers import smoothgrad_average

short = smoothgrad_average(seen, subject.image, few, way="fields", **plain)
apart = (short.full(subject.shape) - truth).abs()

# %% [markdown]
# First the error as we measure it, then what the package says of itself.

# %%
print(f"error of the map: {float(apart.norm() / truth.norm()):.1e} in length,", end=" ")
print(f"{float(apart.max() / truth.abs().max()):.1e} of the peak at worst")
print(short.report.in_words())

# %% [markdown]
# The package gives its estimate, and the error of two voxels that it always takes exactly as well in a lesion's first
# draw. The error is one of the whole lesion, so a single voxel may be off by somewhat more than a thousandth; a draw's
# noise changes the map far more. For four voxels little is saved. For the 44 of this lesion it takes 14 dense passes in
# place of 88, and for larger lesions ever fewer for each voxel. The U-Net has norms that are fixed after training, so
# it has no far field: its maximum is all near, and exact. The Swin UNETR's far field goes through attention and is no
# such simple mixture: for 55 voxels of a patient's lesion, even an error of three thousandths took nearly half of the
# 110 passes. That is why it got four voxels above, and `accuracy="exact"`.
#
# ## The same weights, another network
#
# A Swin UNETR halves its grid by laying eight neighbours side by side, then a matrix mixes them. Which neighbour comes
# first is not written in the file. MONAI 0.9, with which the paper's network was trained, had a mistake in that order:
# two of the eight neighbours were taken twice, two never. MONAI 1.5 repaired it *under the same name*. Old weights
# still load, without an error or a warning, and the network is another one.
#
# We do it on purpose with ours, which was trained in the third order there is, `mergingv2`. We save its weights alone,
# as many people share them.

# %%
from pathlib import Path
from tempfile import mkdtemp

file = Path(mkdtemp()) / "weights.pt"
torch.save(networks["swin_unetr"].module.state_dict(), file)

# %% [markdown]
# Now we load the one file in each of the three orders.

# %%
orders = ("mergingv2", "monai-0.9", "monai-1.5")
swins = {order: load_network(file, architecture="swin_unetr", merging=order).module for order in orders}

# %% [markdown]
# What does each of them answer in the first window? We take the log odds of lesion.

# %%
with torch.no_grad():
    answers = {order: swin(one_window)[0] for order, swin in swins.items()}
logits = {order: (y[1] - y[0]).numpy() for order, y in answers.items()}
right = logits["mergingv2"]

# %% [markdown]
# How far apart are they on average, with the same weights?

# %%
{order: round(float(np.abs(values - right).mean()), 2) for order, values in logits.items()}

# %% [markdown]
# Let us look at one slice of that window, through the voxel of the highest log odds. For each order we count the voxels
# that it calls lesion.

# %%
z = right.max(axis=(0, 1)).argmax()
threshold = networks["swin_unetr"].threshold
called = {order: int((values > np.log(threshold / (1 - threshold))).sum()) for order, values in logits.items()}
called

# %% [markdown]
# A panel is a slice, with colours that are symmetric about zero.


# %%
def panel(ax, order, values, label):
    """Draw the slice of an order's values, and a bar for its colours."""
    top = np.abs(values[:, :, z]).max()
    drawn = ax.imshow(values[:, :, z].T, vmin=-top, vmax=top, cmap="RdBu_r", origin="lower")
    ax.set(title=f"{order}: {called[order]} voxels", xticks=[], yticks=[])
    ax.figure.colorbar(drawn, ax=ax, label=label, shrink=0.7)


# %% [markdown]
# First the log odds as they should be, then what the other two orders add or take.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
panel(axes[0], "mergingv2", right, "log odds")
for ax, order in zip(axes[1:], orders[1:], strict=True):
    panel(ax, order, logits[order] - right, "difference")

# %% [markdown]
# The left panel is the network as it was trained. The other two have the same parameters to the last bit, and differ
# most where it matters, at lesions and their borders; the count of lesion voxels changes, too. Their segmentations
# still look like segmentations, and that is what makes the trap so good: if you did not know the right answer, you
# would not notice. How far apart they are depends on the weights: with random ones it is about a tenth of the largest
# logit at the worst voxel. So `load_network` never guesses: our file says `mergingv2`, and a Swin UNETR's file that
# says nothing is refused until you say `merging="monai-0.9"`, as the published one needs.
#
# ## Less memory for more time
#
# The published script can compute attention again in the backward pass in place of keeping it (`use_checkpoint`). Here
# it is an argument of `load_network`. The gradient is the same.

# %%
for less in (True,) if SMALL else (False, True):
    how = {"merging": "mergingv2", "use_checkpoint": less}
    swin = load_network(file, architecture="swin_unetr", **how).module
    leaf, begun = one_window.clone().requires_grad_(), time.time()
    g = torch.autograd.grad(swin(leaf)[0, 1].sum(), leaf)[0]
    took = time.time() - begun
    print(f"use_checkpoint={less}: {took:.1f} s, keeps {kept(swin, one_window):.1f} GB, sum {float(g.sum()):.2f}")

# %% [markdown]
# One window at a time already bounds memory, so you need this only where a single window is too much.
#
# ## Your own network
#
# Anything that maps `(B, C, I, J, K)` to logits on the same grid is wrapped in one line. It may have two channels
# (class 1 is lesion) or one (a sigmoid's), give a list from deep supervision, and have windows of any size. Here is a
# toy that looks at smoothed FLAIR:


# %%
class Brightness(torch.nn.Module):
    """One logit a voxel: the mean FLAIR of 3^3 voxels, minus 1.5."""

    def forward(self, x):
        return torch.nn.functional.avg_pool3d(x[:, :1], 3, 1, 1) - 1.5


# %% [markdown]
# We wrap it, and from then on it is a network like any other.

# %%
from ies_helpers import Network

mine = Network(Brightness(), "brightness", window=(64, 96, 64), through="windows", overlap=0.5, threshold=0.5)
find_lesions(mine, subject)

# %% [markdown]
# What should its map be? A voxel of FLAIR is one of the 27 that are averaged, and T1 is not looked at.

# %%
g = gradient(mine, subject.image, lesion, aggregate="max")
print(f"peak {float(g.max()):.4f}, which should be 1 / 27 = {1 / 27:.4f}; T1 counts {float(g[1].abs().max())}")

# %% [markdown]
# An **nnU-Net v2** results folder is a network by its path, with `:0` behind it for one fold alone
# ([chapter 18](18_your_own_nnunet.ipynb) goes through such a folder):
#
# ```python
# network = load_network("results/Dataset501_ms/nnUNetTrainer__nnUNetPlans__3d_fullres")
# network, subject = prepare(network, subject)
# lesions = find_lesions(network, subject)
# ```
#
# `prepare` brings scan and network together: from then on `subject.image` is the scan as this network normalises it. On
# the command line a folder stands where `unet` would: `ies explain ... --network FOLDER`. The folder is read without
# nnunetv2 and without running its code; only nnU-Net's own architectures are needed. A notebook may lack them:

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("dynamic_network_architectures") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "dynamic-network-architectures"], check=True)

# %% [markdown]
# So that you can run the next cells without results of your own, we write a folder in nnU-Net's format. Its network is
# tiny and made by hand: it calls bright FLAIR lesion. It has two folds, mirrored copies, axes of its own and a spacing
# of 1.25 mm.

# %%
from ies_helpers.teaching import write_results

folder = write_results(Path(mkdtemp()))
results = load_network(folder)

# %% [markdown]
# We prepare it, and find lesions.

# %%
from ies_helpers import prepare

placed, scan = prepare(results, subject)
lesions = find_lesions(results, subject)
print(lesions, "| passes a window:", placed.passes)

# %% [markdown]
# We explain one of them.

# %%
saliency = gradient(placed, scan.image, lesions.of("TP")[0], aggregate="mean")
print("map on the scan's grid:", tuple(saliency.shape))

# %% [markdown]
# The network finds lesions and invents many more, as so simple a rule must. The map lies on the scan's own grid, though
# the network never saw that grid.
#
# Why not simply wrap its module, as above? Because nnU-Net's prediction is more than its module. To see it, we leave
# out one step at a time. Here is what is called lesion with none left out:

# %%
from ies_helpers import predict

answer = predict(placed, scan.image) > 0.5

# %% [markdown]
# And how well does each of the others agree with it?

# %%
from ies_helpers.teaching import left_out

dice = {}
for name, other in left_out(results, subject.spacing).items():
    wrong, image = prepare(other, subject)
    marked = predict(wrong, image.image) > 0.5
    dice[name] = 2 * float((marked & answer).sum()) / float(marked.sum() + answer.sum())
pd.Series(dice, name="Dice with the right answer").rename_axis("without").to_frame().round(2)

# %% [markdown]
# None of these is an error: sizes fit, a segmentation comes out, and it looks like one. How much each step matters
# depends on the network and the scan: here axes, mask and spacing do most, and the crop nothing, because this scan ends
# where its brain does. This is what each of them is, and what happens without it:
#
# | nnU-Net | what happens if you leave it out |
# |---|---|
# | turns the axes to (K, J, I), then as the plans say | the network gets a brain that lies on its side |
# | crops to what is not zero before it places windows | every window lies elsewhere |
# | normalises as the plans say, with a mask or without | without one the background is not 0 |
# | resamples to the plans' spacing, and back | sizes and shapes are not those it learned |
# | averages mirrored copies and folds, as logits | a map of one of sixteen functions |
# | answers regions by sigmoids, classes by a softmax | probabilities of something else |
#
# All of these but the normalisation are linear, so a gradient goes back through each of them exactly: maps lie on the
# scan's own grid. Two things are held fixed: the normalisation's mean and scatter, and the range to which a resampled
# channel is clipped.
#
# There are other ways in, each by `load_network` and by `--network`:
#
# | what you have | what to say |
# |---|---|
# | any network of MONAI, and its weights | `load_network("w.pt", architecture="monai:SegResNet", settings="s.json")`; the file holds the arguments it was trained with, and under `"network"` its window, head or lesion class |
# | a MONAI bundle, a checkpoint of Auto3DSeg | the folder, or the file: both say what they are; a bundle's expressions are not run |
# | TorchScript | the file; gradients and perilesional curves, no Grad-CAM++, since nobody can read its layers |
# | a module of your own | `python:package.module:function`, which runs your code, or `Network(module)` |
# | LST-AI 2, MindGlide | `lst-ai:FOLDER`, `mindglide:FILE`, with their owners' files |
# | FLAMeS, the lesion models of the Spinal Cord Toolbox | they are nnU-Net results folders |
# | several classes or regions, and the wrong one was taken (which one is said) | `settings={"network": {"lesion_class": "wmh"}}`, its name or number |
# | several networks whose *probabilities* are averaged | `ies_helpers.segmentation.network.Averaged([...])` |
#
# ## What we saw
#
# - Three architectures with much the same training: the same signs inside the lesion, another texture and reach.
# - A blended prediction is a fixed sum of windows, and its gradient is the same sum; only windows that hold the lesion
#   count.
# - Instance normalisation and attention give a map a far field over the whole window. It is weak, has the shape of the
#   brain, and a few passes hold that of all of a lesion's voxels.
# - A file of weights is not yet a network.
#
# ## Limits
#
# Two of the networks were taught by the third, so what they share says little about lesions. The shipped networks are
# small and know few patients. One lesion is an example. The paper's comparison is of three networks, each trained on
# its own on hundreds of patients of one hospital; see chapter 13 for what we can compare.
#
# ## Exercises
#
# **1.** How many windows would a head of 182 x 218 x 182 voxels need with an overlap of one half?
#
# <details><summary>Solution</summary>
#
# ```python
# print(len(inference.window_boxes(replace(nnunet, overlap=0.5), (182, 218, 182))))
# ```
#
# Expected: `36`. Along 182 voxels three windows, along 218 four.
#
# *The usual wrong answer:* “Twelve: 182 / 96 and 218 / 96, rounded up, are 2 and 3.” That is the number of windows that
# lie side by side. With an overlap of one half they step by 48 voxels, not by 96.
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
# *The usual wrong answer:* “Yes, because a network treats all places alike.” Each of its filters does. But halving
# keeps every second place, and a shift by one decides which.
#
# </details>
#
# **3.** Where two windows overlap, can one of them have all of the answer, a share of 1?
#
# <details><summary>Solution</summary>
#
# ```python
# covered = sum((share[n] > 0).int() for n in range(len(boxes)))
# print(float(share[:, covered > 1].max()))
# ```
#
# Expected: a number close to 1, and below it. At the rim of an overlap one window is near its middle and the other at
# its edge, where its weight is small but never 0.
#
# *The usual wrong answer:* “No, each of the two gets one half.” That would be so with constant weights. The bell lets
# the window that sees more around the voxel decide.
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
