# %% [markdown]
# # 06 · Grad-CAM++
#
# **Question.** Which parts of one layer's activations made the network call this lesion a lesion, and no other?
#
# **Objectives.** You read a layer's activations and gradients with a hook that you build yourself. You compute
# instance Grad-CAM++ from the paper's equations 8 to 10 and check it against `ies_helpers.gradcam_pp`. You see what
# pooling over space does to a neighbouring lesion. You know what this map cannot say.
#
# **Minutes.** Less than 1 on two CPU cores with the demo, about 1 with patient 26. GPU: not measured.
#
# **Needs.** Chapters 03 and 04. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# To look at another patient, change `SUBJECT` and nothing else. `SMALL` is true where the tests run this chapter: it
# then takes fewer draws and lesions.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT = "demo"  # or "openms:patient26"

# %% [markdown]
# As in every chapter we begin with a subject, a network, and the lesions that it finds or misses.

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
lesions

# %% [markdown]
# Today we want a lesion that has a neighbour, to see whether its map keeps clear of that neighbour. So we measure how
# far two lesions are apart.

# %%
import numpy as np


def apart(pair):
    """Millimetres from centre to centre."""
    return float(np.linalg.norm(pair[0].centre_mm - pair[1].centre_mm))


# %% [markdown]
# Among the lesions that were found (TP) and have 20 to 400 voxels, we take the two that are closest to each other, but
# at least 20 mm apart, so that they do not touch. We explain the smaller one. Size and place alone decide; whether the
# map looks nice does not.

# %%
from itertools import combinations

middling = sorted(lesions.select("TP:20-400"), key=len)
pairs = [pair for pair in combinations(middling, 2) if apart(pair) >= 20]
lesion, neighbour = min(pairs, key=apart)
print(lesion, neighbour, f"{apart((lesion, neighbour)):.0f} mm from centre to centre", sep="\n")

# %% [markdown]
# ## A layer and a hook
#
# SmoothGrad asks about the *input*. Grad-CAM++ stops halfway, at one layer, and asks about its activations $A$:
# several maps (channels) on a coarser grid, made by the network itself. The paper reads the U-Net at the layer below,
# the last one before full resolution.

# %%
layer = network.module.get_submodule(network.layer)
print(network.layer, layer, sep="\n")

# %% [markdown]
# PyTorch shows us what passes through a layer if we register a *hook*: a function that PyTorch calls with the layer,
# its inputs and its output. Our hook keeps the output. It also cuts the graph there: it hands on a fresh tensor that
# requires a gradient, so the way back from the lesion ends at this layer.

# %%
kept = {}


def keep(module, inputs, output):
    kept["A"] = output.detach().requires_grad_()
    return kept["A"]


# %% [markdown]
# The network halves the image four times, so each side must be a multiple of 16. Where one is not, we add zeros at its
# end.

# %%
import torch.nn.functional as F

padding = [p for n in reversed(subject.shape) for p in (0, -n % 16)]
x = F.pad(subject.image, padding)[None].to(network.device)

# %% [markdown]
# Now one forward pass with the hook in place. A hook stays until somebody removes it, and a forgotten one slows or
# changes every later pass. So we remove it in a `finally`, which runs even if the pass fails.

# %%
handle = layer.register_forward_hook(keep)
try:
    logits = network.lesion_logit(x)[0]
finally:
    handle.remove()

# %% [markdown]
# The score is the sum of the lesion's logits, $y' = \sum_{v \in \mathrm{lesion}} y_v$, and no other lesion's. We ask
# for its gradient at the layer.

# %%
import torch

score = logits[tuple(lesion.voxels.T)].sum()
(g,) = torch.autograd.grad(score, kept["A"])
A, g = (values.detach()[0].cpu().double() for values in (kept["A"], g))

# %% [markdown]
# What have we got?

# %%
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
# In words: keep the gradients that are positive, weight them by $\alpha$, multiply by the activation, add up the
# channels, keep what is positive. The weights stay **per position**. They are not averaged over space; we come back
# to why. First the denominator, in float64, because its two terms can cancel.

# %%
square = g**2
denominator = 2 * square + (A * g**3).sum(dim=(1, 2, 3), keepdim=True)

# %% [markdown]
# Where the denominator is zero, $\alpha$ is set to zero.

# %%
safe = torch.where(denominator == 0, 1.0, denominator)
alpha = torch.where(denominator == 0, 0.0, square / safe)

# %% [markdown]
# The weights, and the map on the layer's grid:

# %%
weights = alpha * F.relu(g)
coarse = F.relu((weights * A).sum(dim=0))
print(f"map on the layer's grid {tuple(coarse.shape)}, largest value {float(coarse.max()):.3g}")

# %% [markdown]
# Last, from cells of 2 mm to voxels of 1 mm. Trilinear interpolation draws a straight line between the centres of
# neighbouring cells, along each axis. It adds no detail. It only smooths the steps, and lowers a peak of a single cell
# somewhat.

# %%
fine = F.interpolate(coarse[None, None], size=tuple(x.shape[2:]), mode="trilinear", align_corners=False)[0]
i, j, k = subject.shape
by_hand = fine[:, :i, :j, :k].float()

# %% [markdown]
# That was Grad-CAM++ by hand. Does the package agree?

# %%
from ies_helpers import gradcam_pp

ours = gradcam_pp(network, subject.image, lesion)
difference = float((by_hand - ours).abs().max()) / max(float(ours.max()), 1e-30)
print(f"largest value {float(ours.max()):.3g}, ours and by hand differ by {difference:.1e} of it")

# %% tags=["check"]
assert difference < 1e-3

# %% [markdown]
# It does, to a thousandth of the largest value and better. Not to the last digit: the package runs the network on the
# lesion's box (chapter 03), we ran it on the whole image. The float32 activations then differ in their last digit, and
# a denominator that nearly cancels makes that difference larger.
#
# ## The map

# %%
from ies_helpers import plot_saliency

title = f"{subject.name}, lesion {lesion.number}: Grad-CAM++"
unit = "weighted activation (arbitrary unit)"
figure = plot_saliency(subject, ours, lesion, title=title, unit=unit, reach_mm=20)

# %% [markdown]
# One row now, not two: the layer has mixed FLAIR and T1, and the map can no longer be split by modality. It lies over
# the FLAIR image. The values are activations times weights, so their unit is arbitrary, and the colour bar starts
# at zero: the map is never negative. The blobs are a few millimetres wide, the size of the layer's cells.
#
# These planes cut the middle of the lesion, and the map may be strongest in another plane. So let us ask in numbers
# how much of the map is inside the lesion, and where its peak is. For that we need to know how far each voxel is from
# the lesion.

# %%
from scipy import ndimage


def distance(le):
    """Millimetres from each voxel to the nearest voxel of a lesion, 0 inside."""
    return ndimage.distance_transform_edt(~le.mask(subject.shape).numpy(), sampling=subject.spacing)


# %% [markdown]
# Four numbers sum up a map. An empty one has a peak of 0, and the other three are undefined.


# %%
def summary(le, saliency):
    """Peak, its distance to the lesion in mm, and the shares of the map inside the lesion and within 4 mm of it."""
    m, away = saliency[0].numpy(), distance(le)
    if not m.any():
        return 0.0, np.nan, np.nan, np.nan
    inside, near = (m[away <= mm].sum() / m.sum() for mm in (0, 4))
    return m.max(), away.flat[m.argmax()], inside, near


# %% [markdown]
# For our lesion:

# %%
peak, off, inside, near = summary(lesion, ours)
print(f"peak {peak:.3g}, {off:.1f} mm from the lesion; {inside:.0%} of the map inside, {near:.0%} within 4 mm")

# %% [markdown]
# All of the map, or nearly all, lies within 4 mm: it cannot be anywhere else. What is not inside the lesion is on its
# rim, because the cells are 2 mm wide and reach over the border.
#
# ## Every lesion, and empty maps
#
# One map is an anecdote. Here are the lesions that were found and those that were missed, with what `summary` says of
# each.

# %%
shown = list(lesions)[:: 3 if SMALL else 1]
rows = [(le.number, le.group, len(le), *summary(le, gradcam_pp(network, subject.image, le))) for le in shown]

# %% [markdown]
# As a table:

# %%
import pandas as pd

columns = ["lesion", "group", "voxels", "peak", "peak off by (mm)", "inside", "within 4 mm"]
table = pd.DataFrame(rows, columns=columns)
table.round({"peak": 6, "peak off by (mm)": 1, "inside": 2, "within 4 mm": 2})

# %% [markdown]
# And three lines about its column of peaks:

# %%
spread, top = table["peak"][table["peak"] > 0], table.loc[table["peak"].idxmax()]
print(f"{int((table['peak'] == 0).sum())} of {len(table)} maps are empty")
print(f"peaks of the others: {spread.min():.1e} to {spread.max():.1e}, median {spread.median():.1e}")
print(f"the largest peak belongs to lesion {top['lesion']}, {top['group']}, {top['voxels']} voxels")

# %% [markdown]
# The peaks differ by orders of magnitude, and two lesions of similar size and group can be far apart. The largest peak
# need not belong to the lesion that the network is most sure of, nor even to one that it found. So do not compare
# peaks of Grad-CAM++ between lesions, and even less between networks.
#
# The share inside grows with the lesion. Much of a small lesion's map lies outside it, because a cell of the layer is
# nearly as large as the lesion.
#
# If a row shows an *empty* map (peak 0, the rest undefined), nothing has gone wrong. It means that no channel had a
# positive gradient where its activation could add to the map. How can that be? We look at the channels for our lesion:
# how much of the gradient is positive, and how much negative?

# %%
up = F.relu(g).sum(dim=(1, 2, 3))
down = F.relu(-g).sum(dim=(1, 2, 3))
print(f"positive part of all gradients: {float(up.sum() / (up + down).sum()):.0%}")

# %% [markdown]
# Both, channel by channel:

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
ax.bar(range(len(g)), up, color="#d55e00", label="positive gradients: used")
ax.bar(range(len(g)), -down, color="#56b4e9", label="negative gradients: cut off")
ax.axhline(0, color="black", lw=0.8)
ax.set(xlabel="channel of the layer", ylabel="sum of gradient (logit per activation)")
legend = figure.legend(loc="outside upper center", ncols=2)

# %% [markdown]
# Each channel of the layer is a pair of bars. Upwards: more of this channel, more lesion. Downwards: more of this
# channel, less lesion. Grad-CAM++ keeps the upward bars and cuts off the downward ones. Yet a network may well express
# a lesion by *less* of a channel, a detector of healthy tissue that falls silent. Then its evidence stands below the
# line, and the map does not show it. The number above the figure says how much is left for this lesion.
#
# The denominator has a surprise, too. Let us count how often it is negative.

# %%
active = (g != 0).any(dim=0)
flipped = (denominator < 0) & active
print(f"denominators below zero: {float(flipped.sum() / (active.sum() * len(g))):.0%} of those beside the lesion")

# %% [markdown]
# ## Two networks that compute the same
#
# Are these mere details? We write one network in two ways. Its logit is the FLAIR value itself. In the first version
# the layer holds $A = x$ and the logit is $+A$, in the second the layer holds $A = -x$ and the logit is $-A$. For every
# image both give the same prediction, and the same gradient to the input.


# %%
class Signed(torch.nn.Module):
    """Logit of a voxel: its FLAIR value, carried through a layer as sign * FLAIR."""

    def __init__(self, sign):
        super().__init__()
        self.sign, self.features = sign, torch.nn.Identity()

    def forward(self, x):
        return self.sign * self.features(self.sign * x[:, :1])


# %% [markdown]
# The lesion has three voxels with FLAIR values 1, 2 and 3.

# %%
toy_lesion = np.array([[4, 4, 4], [4, 4, 5], [4, 4, 6]])
bright = torch.zeros(2, 8, 8, 8)
bright[0, 4, 4, 4:7] = torch.tensor([1.0, 2.0, 3.0])

# %% [markdown]
# Take a pencil first. In the first version $g = 1$ on the lesion, the denominator is $2 + (1 + 2 + 3) = 8$, and the map
# is $(1, 2, 3) / 8$. In the second version $g = -1$, and relu leaves nothing. The third line takes the first version
# and a *dark* lesion, $-1, -2, -3$: the denominator is $2 - 6 = -4$, two minus signs meet, and the map is
# $(1, 2, 3) / 4$.

# %%
for text, sign, image in (("A = x", 1, bright), ("A = -x", -1, bright), ("A = x, dark lesion", 1, -bright)):
    cam = gradcam_pp(Signed(sign), image, toy_lesion, layer="features")
    print(f"{text:20s} logits {image[0, 4, 4, 4:7].tolist()}  map {cam[0, 4, 4, 4:7].tolist()}")

# %% [markdown]
# Lines one and two: the same function, one map full, the other empty. So Grad-CAM++ explains how a network is
# *written* as well as what it computes. Line three is stranger. Every logit is negative, the network says that there
# is no lesion, and the map is not only positive but twice as high as for the bright lesion. The denominator did that.
# In the original derivation it comes from exponentials of the score, and nothing keeps it positive. Where the sum of
# $A g^3$ over space falls below $-2 g^2$, the weights change sign.
#
# ## Why not pool over space
#
# Grad-CAM, the older method, averages the gradient over all positions: one weight for each channel,
# $w^k = \frac1Z \sum_p g^k_p$, and the map is $\mathrm{relu}(\sum_k w^k A^k)$. For a picture of one dog that is fine.
# For one lesion among many it is not: the weights come from this lesion, but they are applied *everywhere* the channels
# are active. We compute it for our lesion, too.

# %%
from ies_helpers import gradcam

pooled = gradcam(network, subject.image, lesion)

# %% [markdown]
# Green is the lesion that we ask about, blue its neighbour, grey are all others.

# %%
others = sum(le.mask(subject.shape) for le in lesions if le.number != lesion.number) > 0
outlines = {"0.6": others, "deepskyblue": neighbour, "lime": lesion}

# %% [markdown]
# With `through=True` we see at each point the largest value along the line of sight.

# %%
from ies_helpers import plot_slice

style = {"through": True, "reach_mm": None, "colours": "inferno", "unit": "arbitrary unit"}
figure, axes = plt.subplots(1, 2, figsize=(10, 6), layout="constrained")
for ax, values, name in zip(axes, (pooled, ours), ("Grad-CAM, pooled", "Grad-CAM++, per position"), strict=True):
    plot_slice(subject, values, outlines, ax=ax, title=f"{name}, for lesion {lesion.number}", **style)

# %% [markdown]
# We look from above through the whole image, each panel on its own scale from zero. On the left the map is spread over
# the image: it lights up wherever the channels with a large weight are active, and so at other lesions, too. It may
# even be brighter there than at our own. It is a map of what this layer calls lesion, not of our lesion. On the right
# everything is dark but a spot at the green outline (or all of it, should this map be empty). The neighbour gets
# nothing.
#
# The same in numbers. Which share of each map's sum lies where?

# %%
away, beside = distance(lesion), neighbour.mask(subject.shape).numpy()
places = {"within 4 mm of the lesion": away <= 4, "in the neighbour": beside, "beyond 10 mm": away > 10}


def shares(m):
    """Share of a map's sum in each place."""
    return {name: m[where].sum() / max(m.sum(), 1e-30) for name, where in places.items()}


# %% [markdown]
# And we compare the brightest point at our lesion with the brightest point of the whole map: 1 means that the peak is
# ours.

# %%
maps = {"Grad-CAM": pooled[0].numpy(), "Grad-CAM++": ours[0].numpy()}
table = pd.DataFrame({name: shares(m) for name, m in maps.items()}).T
table["peak within 4 mm / peak"] = [m[away <= 4].max() / max(m.max(), 1e-30) for m in maps.values()]
table.round(4)

# %% tags=["check"]
assert table.loc["Grad-CAM++", "in the neighbour"] == table.loc["Grad-CAM++", "beyond 10 mm"] == 0
assert table.loc["Grad-CAM", "beyond 10 mm"] > 0.5 or not pooled.any()

# %% [markdown]
# Most of the pooled map lies more than a centimetre from the lesion that it claims to explain. The map per position
# has nothing there, not even rounding.
#
# The same mistake has a second form. Some tools run a network through sliding windows and rescale the map of each
# window to 0..1 before they put them together. A window without the lesion, whose true map is almost nothing, then
# gets a maximum of 1, as bright as the window with the lesion. Scale once, for display, after everything is added up;
# on disk keep raw values. `ies_helpers` does so: only its figures know about colours.
#
# ## Next to SmoothGrad
#
# The same lesion, explained by SmoothGrad:

# %%
from ies_helpers import smoothgrad

smooth = smoothgrad(network, subject.image, lesion, aggregate="sum", draws=2 if SMALL else 10)

# %% [markdown]
# SmoothGrad's map has a sign, and one part for each modality. We leave it as it is and put the three side by side.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
plot_slice(subject, ours, lesion, ax=axes[0], reach_mm=10, unit="arbitrary", title="Grad-CAM++")
for ax, channel in zip(axes[1:], ("flair", "t1"), strict=True):
    how = {"channel": channel, "unit": "logit per unit", "title": f"SmoothGrad, {channel.upper()}"}
    plot_slice(subject, smooth, lesion, ax=ax, reach_mm=10, **how)

# %% [markdown]
# An axial plane, 10 mm beyond the lesion on each side; each panel has its own scale, since the units differ. On the
# left one smooth patch in one colour. In the middle and on the right voxels of 1 mm, with signs: mostly warm in the
# FLAIR lesion, faint colours of both signs around it, and T1 the other way round. SmoothGrad says *what* would have to
# change, in which image and in which direction. Grad-CAM++ says that something at this place in the layer supports the
# lesion, and no more.
#
# Now move through both yourself; choose the method in the list. Click into the picture, then turn the wheel or use the
# arrow keys. In the book, where no kernel runs, you see a picture.

# %%
from ies_helpers import view

view(subject, {"gradcam++": ours, ("smoothgrad", "sum"): smooth}, lesion)

# %% [markdown]
# Grad-CAM++ has no modality to choose and no blue. How alike are the two? We compare it with the absolute values of
# SmoothGrad, both modalities added, within 10 mm of the lesion.

# %%
strength, box = smooth.abs().sum(dim=0), torch.from_numpy(away <= 10)
both = torch.stack([ours[0][box], strength[box]])
r = float(torch.corrcoef(both)[0, 1]) if ours[0][box].any() else float("nan")
print(f"correlation of Grad-CAM++ with |SmoothGrad| within 10 mm: {r:.2f}")

# %% tags=["check"]
assert r < 0.9 or not ours[0][box].any()

# %% [markdown]
# If both measured the same thing, the correlation would be near 1. It is clearly lower. And how much of each map lies
# inside the lesion?

# %%
for name, m in (("Grad-CAM++", ours[0]), ("|SmoothGrad|", strength)):
    print(f"{name}: {float(m[lesion.mask(subject.shape)].sum() / max(float(m.sum()), 1e-30)):.0%} inside the lesion")

# %% [markdown]
# Here the two differ even more, and not because SmoothGrad missed the lesion: about half of its absolute values lie
# within ten voxels around it, and faint tails fill a box 80 voxels wide, where they add up. Grad-CAM++ cannot have
# such tails. Neither map is the truth; chapter 10 tests maps against something other than each other.
#
# ## What we saw
#
# - A hook of three lines gives a layer's activations; equations 8 to 10 are six lines more. `gradcam_pp` agrees.
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
#   lesion is no evidence that the network looks there. To find out where it looks, ask SmoothGrad, or chapter 07.
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
# *The usual wrong answer:* “So the network uses more of the surroundings than the first map showed.” It is
# the same network with the same prediction. What changed is the layer that we read, and with it the size of the cells
# and the length of the way from them to the logits. The width of a Grad-CAM++ map measures that, not what the network
# looks at.
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
# faint[0, 4, 4, 4:7] = torch.tensor([-0.2, -0.3, -0.5])
# print(float(gradcam_pp(Signed(1), faint, toy_lesion, layer="features").max()))
# ```
#
# Expected: `0.0`
#
# *The usual wrong answer:* “The dark lesion above had a bright map, so this one, which is less dark, has a
# fainter map.” That takes the map for a smooth function of the image. It is not: the map of the dark lesion came from
# a denominator below zero, and here the denominator is above zero. In between it passes through zero, where the
# weights jump from one sign to the other.
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
# sum over space rules, the denominator shrinks by $V^3$, too, and the map stays.
#
# *The usual wrong answer:* “Nothing but a constant factor: mean is sum over $V$.” That holds for a gradient,
# which scales with its score. Grad-CAM++ depends on the scale of the score in no simple way.
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
