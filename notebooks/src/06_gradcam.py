# %% [markdown]
# # 06 · Grad-CAM++
#
# **Question.** Which parts of one layer's activations made the network call this lesion a lesion, and no other?
#
# **Objectives.** You read a layer's activations and gradients with a hook you build yourself. You compute instance
# Grad-CAM++ from the paper's equations 8 to 10 and check it against `ies_helpers.gradcam_pp`. You see what pooling
# over space does to a neighbouring lesion. You know what this map cannot say.
#
# **Minutes.** Less than 1 on two CPU cores with the demo, about 1 with patient 26. GPU: not measured.
#
# **Needs.** Chapters 03 and 04. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. `SMALL` is true where the tests run this chapter; it then takes fewer draws and lesions.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage

import ies_helpers as ies
from ies_helpers import gradcam, gradcam_pp, plot_saliency

SMALL = os.environ.get("IES_SMALL") == "1"

# %% [markdown]
# The next cell is the only one to change for another patient: write `openms:patient26` in place of `demo`.

# %%
SUBJECT = "demo"

# %% [markdown]
# We shall want a lesion with a neighbour. Among the found lesions (TP) of 20 to 400 voxels we take the two that are
# closest, but at least 20 mm from centre to centre, so that they do not touch. We explain the smaller one. The choice
# depends on size and place alone, not on how nice the map is.

# %%
subject = ies.load_subject(SUBJECT)
network = ies.load_network("unet")
probability = ies.predict(network, subject.image)
lesions = ies.find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
middling = sorted((le for le in lesions.of("TP") if 20 <= len(le) <= 400), key=len)
pairs = [
    (float(np.linalg.norm(a.centre_mm - b.centre_mm)), n, a, b)
    for n, a in enumerate(middling)
    for b in middling[n + 1 :]
]
apart, _, lesion, neighbour = min(pair for pair in pairs if pair[0] >= 20)
print(lesions, lesion, neighbour, f"{apart:.0f} mm from centre to centre", sep="\n")

# %% [markdown]
# ## A layer and a hook
#
# SmoothGrad asks about the *input*. Grad-CAM++ stops on the way, at one layer, and asks about its activations $A$:
# several maps (channels) on a coarser grid, made by the network itself. The paper reads the U-Net at the layer below,
# the last one before full resolution. PyTorch tells us what passes through a layer if we register a *hook*: a
# function that is called with the layer, its inputs and its output.

# %%
layer = network.module.get_submodule(network.layer)
print(network.layer)
print(layer)

# %% [markdown]
# Our hook keeps the output. It also cuts the graph there: what it hands on is a fresh tensor that requires a
# gradient, so the way back from the lesion ends at this layer.

# %%
kept = {}


def keep(module, inputs, output):
    kept["A"] = output.detach().requires_grad_()
    return kept["A"]


# %% [markdown]
# One forward pass with the hook in place. A hook stays until it is removed, and a forgotten one slows or changes
# every later pass, so it goes in a `finally`: removed also if the pass fails. The score is the sum of the lesion's
# logits, $y' = \sum_{v \in \mathrm{lesion}} y_v$, and no other lesion's.

# %%
from ies_helpers.segmentation.network import at_rest

padding = [p for n in reversed(subject.shape) for p in (0, -n % 16)]
x = F.pad(subject.image, padding)[None].to(network.device)
with at_rest(network):
    handle = layer.register_forward_hook(keep)
    try:
        logits = network.logits(x)[0, 1]
    finally:
        handle.remove()
    (g,) = torch.autograd.grad(logits[tuple(lesion.voxels.T)].sum(), kept["A"])
A, g = kept["A"].detach()[0].cpu().double(), g[0].cpu().double()
print(f"image {tuple(x.shape[2:])}, activations A {tuple(A.shape)}: channels, then half the resolution")
print(f"the gradient is non-zero at {int((g != 0).any(dim=0).sum())} of {A[0].numel():,} positions")

# %% [markdown]
# Half the resolution means cells of 2 mm. The gradient $g = \partial y'/\partial A$ lives on a few of them: between
# this layer and the logits there is one small filter, so only cells beside the lesion count. This is what makes the
# map *local*, by construction.
#
# ## Equations 8 to 10
#
# With $k$ for the channel and $p$ for the position on the layer's grid:
#
# $$ \alpha^k_p = \frac{(g^k_p)^2}{2\,(g^k_p)^2 + \sum_q A^k_q\,(g^k_q)^3}, \qquad
#    w^k_p = \alpha^k_p\,\mathrm{relu}(g^k_p), \qquad
#    M_p = \mathrm{relu}\Big(\sum_k w^k_p A^k_p\Big). $$
#
# In words: keep the gradients that are positive, weigh them by $\alpha$, multiply by the activation, add the
# channels, keep what is positive. The weights stay **per position**. They are not averaged over space; we come to
# why. Where a denominator is zero, $\alpha$ is set to zero. We use float64, because the two terms of the denominator
# can cancel.

# %%
square = g**2
denominator = 2 * square + (A * g**3).sum(dim=(1, 2, 3), keepdim=True)
alpha = torch.where(denominator == 0, 0.0, square / torch.where(denominator == 0, 1.0, denominator))
weights = alpha * F.relu(g)
coarse = F.relu((weights * A).sum(dim=0))
print(f"map on the layer's grid {tuple(coarse.shape)}, largest value {float(coarse.max()):.3g}")

# %% [markdown]
# Last, from cells of 2 mm to voxels of 1 mm. Trilinear interpolation draws a straight line between the centres of
# neighbouring cells, along each axis. It adds no detail, it only avoids steps, and lowers a peak of a single
# cell somewhat.

# %%
fine = F.interpolate(coarse[None, None], size=tuple(x.shape[2:]), mode="trilinear", align_corners=False)[0]
by_hand = fine[:, : subject.shape[0], : subject.shape[1], : subject.shape[2]].float()
ours = gradcam_pp(network, subject.image, lesion)
difference = float((by_hand - ours).abs().max()) / max(float(ours.max()), 1e-30)
print(f"largest value {float(ours.max()):.3g}, ours and by hand differ by {difference:.1e} of it")
assert difference < 1e-3

# %% [markdown]
# The tolerance is a thousandth of the largest value. The package runs the network on the lesion's box (chapter 03),
# we ran it on the whole image; float32 activations then differ in the last digit, and a denominator that nearly
# cancels makes that difference larger.
#
# ## The map

# %%
unit = "weighted activation (arbitrary unit)"
title = f"{subject.name}, lesion {lesion.number}: Grad-CAM++"
figure = plot_saliency(subject, ours, lesion, title=title, unit=unit, reach_mm=20)

# %% [markdown]
# One row now, not two: the layer has mixed FLAIR and T1, and the map cannot be told apart by modality. It lies over
# the FLAIR image. The values are activations times weights, so their unit is arbitrary, and the colour bar starts
# at zero: the map is never negative. Blobs are a few millimetres wide, the size of the layer's cells.
# The planes cut the middle of the lesion, and the map may be strongest in another one. So we ask in numbers: how much
# of the map is inside the lesion, and where is its peak?


# %%
def summary(le, saliency):
    """Peak, its distance to the lesion in mm, and the share of the map inside the lesion and within 4 mm of it."""
    away = ndimage.distance_transform_edt(~le.mask(subject.shape).numpy(), sampling=subject.spacing)
    m = saliency[0].numpy()
    total = m.sum()
    if total == 0:
        return 0.0, float("nan"), float("nan"), float("nan")
    return m.max(), away.flat[m.argmax()], m[away == 0].sum() / total, m[away <= 4].sum() / total


peak, off, inside, near = summary(lesion, ours)
print(f"peak {peak:.3g}, {off:.1f} mm from the lesion; {inside:.0%} of the map inside, {near:.0%} within 4 mm")

# %% [markdown]
# The share within 4 mm is all of it or nearly so: the map cannot be elsewhere. The rest of the share is not inside
# but on the rim: the cells are 2 mm wide and reach over the border.
#
# ## Every lesion, and empty maps
#
# A single map is an anecdote again. Here are the found and the missed lesions, with what `summary` says of each.

# %%
shown = list(lesions)[:: 3 if SMALL else 1]
rows = [(le.number, le.group, len(le), *summary(le, gradcam_pp(network, subject.image, le))) for le in shown]
table = pd.DataFrame(rows, columns=["lesion", "group", "voxels", "peak", "peak off by (mm)", "inside", "within 4 mm"])
spread = table["peak"][table["peak"] > 0]
print(f"{int((table['peak'] == 0).sum())} of {len(table)} maps are empty")
print(f"peaks of the others: {spread.min():.1e} to {spread.max():.1e}, median {spread.median():.1e}")
top = table.loc[table["peak"].idxmax()]
print(f"the largest peak belongs to lesion {top['lesion']}, {top['group']}, {top['voxels']} voxels")
table.round({"peak": 6, "peak off by (mm)": 1, "inside": 2, "within 4 mm": 2})

# %% [markdown]
# Look at the column of peaks: they differ by orders of magnitude, and neighbours in size and group can be far apart.
# The largest need not belong to the lesion that the network is most sure of, nor even to one that it found. So do not
# compare peaks of Grad-CAM++ between lesions, and even less between networks. The share inside grows with the lesion:
# of a small one much of the map lies outside, because a cell of the layer is nearly as large as the lesion. Should a
# line show an *empty* map (peak 0, the rest undefined), that is no error. It means that no channel had a positive
# gradient where its activation could add to the map. To see how that can be, we look at the channels of our lesion.

# %%
active = (g != 0).any(dim=0)
up = F.relu(g).sum(dim=(1, 2, 3))
down = F.relu(-g).sum(dim=(1, 2, 3))
flipped = (denominator < 0) & active
figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
ax.bar(range(len(g)), up, color="#d55e00", label="positive gradients: used")
ax.bar(range(len(g)), -down, color="#56b4e9", label="negative gradients: cut off")
ax.axhline(0, color="black", lw=0.8)
ax.set(xlabel="channel of the layer", ylabel="sum of gradient (logit per activation)")
figure.legend(loc="outside upper center", ncols=2)
print(f"positive part of all gradients: {float(up.sum() / (up + down).sum()):.0%}")
print(f"denominators below zero: {float(flipped.sum() / (active.sum() * len(g))):.0%} of those beside the lesion")

# %% [markdown]
# Each channel is a pair of bars. Upwards: more of this channel, more lesion. Downwards: more of this channel, less
# lesion. Grad-CAM++ keeps the upward bars and cuts off the downward ones. A network may well express a lesion by
# *less* of a channel, a detector of healthy tissue that falls silent. Then its evidence stands below the line, and
# the map does not show it. The printed lines say how much is left for this lesion, and how many denominators are
# negative.
#
# ## Two networks that compute the same
#
# Is that a detail? We write one network in two ways. Its logit is the FLAIR value itself. In the first version the
# layer holds $A = x$ and the logit is $+A$, in the second the layer holds $A = -x$ and the logit is $-A$. For every
# image they give the same prediction, and the same gradient to the input.


# %%
class Signed(torch.nn.Module):
    """Logit of a voxel: its FLAIR value, carried through a layer as sign * FLAIR."""

    def __init__(self, sign):
        super().__init__()
        self.sign, self.features = sign, torch.nn.Identity()

    def forward(self, x):
        a = self.features(self.sign * x[:, :1])
        return torch.cat([torch.zeros_like(a), self.sign * a], dim=1)


# %% [markdown]
# The lesion has three voxels with FLAIR values 1, 2 and 3. On paper, for the first version: $g = 1$ on the lesion,
# the denominator is $2 + (1 + 2 + 3) = 8$, and the map is $(1, 2, 3) / 8$. For the second version $g = -1$, and relu
# leaves nothing. The third line takes the first version and a *dark* lesion, $-1, -2, -3$: the denominator is
# $2 - 6 = -4$, two minus signs meet, and the map is $(1, 2, 3) / 4$.

# %%
toy_lesion = np.array([[4, 4, 4], [4, 4, 5], [4, 4, 6]])
bright = torch.zeros(2, 8, 8, 8)
bright[0][tuple(toy_lesion.T)] = torch.tensor([1.0, 2.0, 3.0])
for text, sign, image in (("A = x", 1, bright), ("A = -x", -1, bright), ("A = x, dark lesion", 1, -bright)):
    cam = gradcam_pp(Signed(sign), image, toy_lesion, layer="features")
    print(f"{text:20s} logits {image[0][tuple(toy_lesion.T)].tolist()}  map {cam[0][tuple(toy_lesion.T)].tolist()}")

# %% [markdown]
# Line one and two: the same function, one map full, the other empty. So Grad-CAM++ explains how a network is
# *written* as well as what it computes. Line three is stranger. Every logit is negative, the network says no lesion,
# and the map is not only positive but twice as high as for the bright lesion. The denominator did that. In the
# original derivation it comes from exponentials of the score, and nothing keeps it positive. Where the sum of $A g^3$
# over space falls below $-2 g^2$, the weights change sign.
#
# ## Why not pool over space
#
# Grad-CAM, the older method, averages the gradient over all positions: one weight for each channel,
# $w^k = \frac1Z \sum_p g^k_p$, and the map is $\mathrm{relu}(\sum_k w^k A^k)$. For a picture of one dog that is fine. For one lesion
# among many it is not: the weights come from this lesion, but they are applied *everywhere* the channels are active.
# We compute both maps for our lesion.

# %%
from ies_helpers import plot_slice

pooled = gradcam(network, subject.image, lesion)
others = sum(le.mask(subject.shape) for le in lesions if le.number != lesion.number) > 0
masks = [lesion.mask(subject.shape), neighbour.mask(subject.shape), others]
outlines = dict(zip(("0.6", "deepskyblue", "lime"), masks[::-1], strict=True))
style = {"through": True, "reach_mm": None, "colours": "inferno", "unit": "arbitrary unit"}
figure, axes = plt.subplots(1, 2, figsize=(10, 6), layout="constrained")
for ax, values, name in zip(axes, (pooled, ours), ("Grad-CAM, pooled", "Grad-CAM++, per position"), strict=True):
    plot_slice(subject, values, outlines, ax=ax, title=f"{name}, for lesion {lesion.number}", **style)

# %% [markdown]
# We look from above through the whole image and see at each point the largest value along the line of sight, each
# panel on its own scale from zero. Green is the lesion we ask about, blue its neighbour, grey all others. On the left
# the map is spread over the image: it lights up wherever the channels with a large weight are active, and so at other
# lesions. It may be brighter there than at our own. It is a map of what this layer calls lesion, not of our lesion.
# On the right everything is dark but a spot at the green outline (or all of it, should this map be empty). The
# neighbour gets nothing.

# %%
away = ndimage.distance_transform_edt(~masks[0].numpy(), sampling=subject.spacing)
rows = []
for name, m in (("Grad-CAM", pooled[0].numpy()), ("Grad-CAM++", ours[0].numpy())):
    total = max(float(m.sum()), 1e-30)
    parts = [float(m[where].sum()) / total for where in (away <= 4, masks[1].numpy(), away > 10)]
    rows.append((name, *parts, m[away <= 4].max() / max(float(m.max()), 1e-30)))
columns = ["map", "within 4 mm of the lesion", "in the neighbour", "beyond 10 mm", "peak within 4 mm / peak"]
table = pd.DataFrame(rows, columns=columns)
assert table["in the neighbour"][1] == table["beyond 10 mm"][1] == 0
assert table["beyond 10 mm"][0] > 0.5 or not pooled.any()
table.round(4)

# %% [markdown]
# The first three numbers are shares of each map's sum. Most of the pooled map lies more than a centimetre from the
# lesion it claims to explain. The map per position has nothing there, not even rounding. The last column compares the
# brightest point at our lesion with the brightest of the map: 1 means that the peak is ours.
#
# The same mistake has a second form. Some tools run a network through sliding windows and rescale the map of each
# window to 0..1 before they put them together. A window without the lesion, whose true map is almost nothing, then
# gets a maximum of 1, as bright as the window with the lesion. Scale once, for display, after everything is added up;
# on disk keep raw values. `ies_helpers` does so, and `figures` alone knows about colours.
#
# ## Next to SmoothGrad
#
# The same lesion by the two methods. SmoothGrad's FLAIR map has a sign; to compare we show it as it is.

# %%
smooth = ies.smoothgrad(network, subject.image, lesion, aggregate="sum", draws=2 if SMALL else 10)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
plot_slice(subject, ours, lesion, ax=axes[0], reach_mm=10, unit="arbitrary", title="Grad-CAM++")
for ax, channel in zip(axes[1:], ("flair", "t1"), strict=True):
    how = {"channel": channel, "unit": "logit per unit", "title": f"SmoothGrad, {channel.upper()}"}
    plot_slice(subject, smooth, lesion, ax=ax, reach_mm=10, **how)

# %% [markdown]
# An axial plane, 10 mm beyond the lesion on each side; each panel has its own scale, since the units differ. On the left one smooth patch in
# one colour. In the middle and on the right voxels of 1 mm, with signs: mostly warm in the FLAIR lesion, faint
# colours of both signs around it, and T1 the other way round. SmoothGrad says *what* would have to change, in which
# image and in which direction. Grad-CAM++ says that something at this place in the layer supports the lesion, and no
# more.
#
# The same to move through; choose the method in the list. Click into the picture, then turn the wheel or use the arrow keys. In the
# book, without a kernel, this is a picture.

# %%
ies.view(subject, {"gradcam++": ours, ("smoothgrad", "sum"): smooth}, lesion)

# %% [markdown]
# Grad-CAM++ has no modality to choose and no blue. We put a number on how alike they are.

# %%
strength = smooth.abs().sum(dim=0)
box = torch.from_numpy(away <= 10)
if ours[0][box].any():
    r = float(torch.corrcoef(torch.stack([ours[0][box], strength[box]]))[0, 1])
    print(f"correlation of Grad-CAM++ with |SmoothGrad| within 10 mm: {r:.2f}")
    assert r < 0.9
for name, m in (("Grad-CAM++", ours[0]), ("|SmoothGrad|", strength)):
    print(f"{name}: {float(m[masks[0]].sum() / max(float(m.sum()), 1e-30)):.0%} inside the lesion")

# %% [markdown]
# If both measured the same thing, the correlation would be near 1. It is clearly lower. The share inside differs even
# more, and not because SmoothGrad missed the lesion: about half of its absolute values lie within ten voxels around
# it, and faint tails fill a box of 80 voxels a side, where they add up. Grad-CAM++ cannot have such tails. Neither
# map is the truth; chapter 10 tests maps against something other than each other.
#
# ## What we saw
#
# - A hook of three lines gives a layer's activations; equations 8 to 10 are five lines more. `gradcam_pp` agrees.
# - Weights per position keep the map at the lesion. Pooled weights, as in Grad-CAM, light up the whole image.
# - Peaks vary by orders of magnitude between lesions and carry no unit.
# - Negative gradients are cut off. Two networks that compute the same can get a full and an empty map.
#
# ## Limits
#
# - **No sign.** The map cannot show what speaks against the lesion, nor evidence that the network writes as less of a
#   channel.
# - **No modality.** FLAIR and T1 are mixed before the layer.
# - **The layer's resolution.** Cells of 2 mm are as large as a small lesion; interpolation hides this, it does not
#   help.
# - **Local by construction.** Only cells beside the lesion can be non-zero at this layer. That the map is at the
#   lesion is no evidence that the network looks there. For this question ask SmoothGrad, or chapter 07.
# - **The denominator** can be negative or nearly zero, and then flips or inflates weights.
# - **The choice of layer** is free, and changes the map (exercise 1).
#
# ## Exercises
#
# **1.** Take a deeper layer, `model.1.submodule.1.submodule.2.conv`, with cells of 4 mm. How wide is the map?
#
# <details><summary>Solution</summary>
#
# ```python
# deeper = gradcam_pp(network, subject.image, lesion, layer="model.1.submodule.1.submodule.2.conv")
# for name, m in (("published", ours), ("deeper", deeper)):
#     print(name, f"reaches {float(away[m[0].numpy() > 0].max(initial=0)):.1f} mm from the lesion")
# ```
#
# Expected: the deeper map reaches clearly further, by several millimetres. Its cells are larger, and more of them
# have a way to the lesion.
#
# </details>
#
# **2.** On paper: `Signed(1)` and a lesion of three voxels with FLAIR $-0.2, -0.3, -0.5$. Is the map empty?
#
# <details><summary>Solution</summary>
#
# The denominator is $2 - 1 = 1$, positive, so the weights are $+1$ and the sum of weight times activation is
# negative. Relu leaves zero: empty. A slightly darker lesion ($-1, -2, -3$) had a bright map.
#
# ```python
# faint = torch.zeros(2, 8, 8, 8)
# faint[0][tuple(toy_lesion.T)] = torch.tensor([-0.2, -0.3, -0.5])
# print(float(gradcam_pp(Signed(1), faint, toy_lesion, layer="features").max()))
# ```
#
# Expected: `0.0`
#
# </details>
#
# **3.** Our score is the *sum* of the lesion's logits. What would change if it were the mean? Think first.
#
# <details><summary>Solution</summary>
#
# Every $g$ is divided by the number of voxels $V$. In $\alpha$ the numerator and $2g^2$ shrink by $V^2$, the sum of
# $A g^3$ by $V^3$; so $\alpha$ changes, and by another factor in each channel. Check:
#
# ```python
# h = g / len(lesion)
# d = 2 * h**2 + (A * h**3).sum(dim=(1, 2, 3), keepdim=True)
# a = torch.where(d == 0, 0.0, h**2 / torch.where(d == 0, 1.0, d))
# m = F.relu((a * F.relu(h) * A).sum(dim=0))
# print(f"{float(coarse.max()):.3g} {float(m.max()):.3g}")
# ```
#
# Expected: two numbers whose ratio is not $V$ in general. In the weight $\alpha\,\mathrm{relu}(g)$ the numerator is
# $g^3$ and shrinks by $V^3$. Where $2g^2$ rules the denominator, that shrinks by $V^2$, and the map by $V$. Where the
# sum over space rules, the denominator shrinks by $V^3$, too, and the map stays. So Grad-CAM++ depends on the scale of
# the score in no simple way; a gradient just scales with it.
#
# </details>
#
# ## References
#
# - Chattopadhyay A. and others (2018). Grad-CAM++: generalized gradient-based visual explanations for deep
#   convolutional networks. [arXiv 1710.11063](https://arxiv.org/abs/1710.11063).
# - Selvaraju R. R. and others (2017). Grad-CAM: visual explanations from deep networks via gradient-based
#   localization. [arXiv 1610.02391](https://arxiv.org/abs/1610.02391).
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Equations 8 to 10.
# - Lesjak Ž. and others (2017). A novel public MR image dataset of multiple sclerosis patients with lesion
#   segmentations based on multi-rater consensus. *Neuroinformatics* 16:51-63.
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7).
#
# ## Next
#
# [07 · How much surrounding tissue?](07_perilesional.ipynb) leaves gradients: it hides the tissue around a lesion and
# watches when the network stops seeing it.
