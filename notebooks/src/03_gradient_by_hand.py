# %% [markdown]
# # 03 · The gradient by hand
#
# **Question.** Which voxels of the images move the network's score for one lesion, and in which direction?
#
# **Objectives.** You can say what one value of a gradient map means, with its unit. You work out three maps on paper
# and find them again in the computer. You build the map of one real lesion with nothing but `torch.autograd.grad`, and
# see that `ies_helpers.gradient` gives the same. You know why a box of about 80 x 80 x 80 voxels is enough, and why we
# differentiate logits and not probabilities.
#
# **Minutes.** Less than 1 on two CPU cores with the demo, about 1 with patient 26. GPU: not measured.
#
# **Needs.** Chapters 00 to 02 (the subject, the network, lesions as instances), partial derivatives, no patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. `SMALL` is true where the tests run this chapter; it then looks at fewer voxels.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"

# %% [markdown]
# ## What a gradient map is
#
# The network turns an image $x$ into a logit $y_v$ for each output voxel $v$: above zero (roughly) it says lesion,
# below it says no lesion. The gradient of $y_v$ asks, for every input voxel $u$ and every modality $c$: how much would
# $y_v$ change if only that one value changed a little?
#
# $$ g_v(c, u) = \frac{\partial y_v}{\partial x_c(u)}, \qquad
#    y_v(x + \varepsilon) \approx y_v(x) + \sum_{c,u} g_v(c, u)\, \varepsilon_c(u). $$
#
# So the map has the size of the image, one channel for each modality, and a sign. Its unit is **logits per unit of
# z-scored intensity**. A value of $+2$ in FLAIR means: make this voxel brighter by a tenth of a standard deviation, and
# the logit rises by about 0.2. A negative value means that brightness there speaks against a lesion.
#
# A lesion has many output voxels. Its map combines theirs, one input voxel at a time:
#
# - `sum`: $\sum_v g_v$, and `mean`: the same divided by the number of lesion voxels (equation 2 of the paper);
# - `max`: the $g_v$ of the largest absolute value, with its sign (equation 3).
#
# ## Three networks you can solve on paper
#
# `ies_helpers.teaching` holds networks that are one line of mathematics. Before you go on, work out each gradient:
#
# | network | logit at voxel $v$ | gradient, FLAIR | gradient, T1 |
# |---|---|---|---|
# | `Linear` | $2\,\mathrm{FLAIR}(v) - \mathrm{T1}(v)$ | $2$ at $v$, else 0 | $-1$ at $v$, else 0 |
# | `Quadratic` | $\mathrm{FLAIR}(v)^2 + \mathrm{T1}(v)^2$ | $2\,\mathrm{FLAIR}(v)$ at $v$, else 0 | $2\,\mathrm{T1}(v)$ at $v$, else 0 |
# | `Shifted` | $3\,\mathrm{FLAIR}(v + 5\,\mathrm{voxels})$ | $3$ at $v + 5$, else 0 | 0 |
#
# We need an image (noise will do) and a lesion. Ours has three voxels in a row. They do not share an input voxel, so
# `sum` and `max` are the same here.

# %%
import numpy as np
import torch

toy_image = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(4))
toy_lesion = np.array([[4, 7, 8], [4, 8, 8], [4, 9, 8]])

# %% [markdown]
# Two sets of voxels matter: those of the lesion, and those five voxels beyond.

# %%
at = tuple(toy_lesion.T)
beyond = tuple((toy_lesion + np.array([5, 0, 0])).T)

# %% [markdown]
# Here are the three maps as the table has them, one line a network.

# %%
paper = {name: torch.zeros_like(toy_image) for name in ("Linear", "Quadratic", "Shifted")}
paper["Linear"][0][at], paper["Linear"][1][at] = 2.0, -1.0
paper["Quadratic"][:, *at] = 2 * toy_image[:, *at]
paper["Shifted"][0][beyond] = 3.0

# %% [markdown]
# Now the same by `torch.autograd.grad`. It takes a number and what the number was computed from, and gives the
# derivative of the one with respect to the other. We ask it for the sum of the lesion's logits. It changes no weight
# and leaves nothing behind, unlike `.backward()`.


# %%
def by_autograd(toy):
    """The gradient of the summed logits of the toy lesion."""
    x = toy_image[None].clone().requires_grad_()
    score = toy(x)[0, 1][at].sum()
    (g,) = torch.autograd.grad(score, x)
    return g[0]


# %% [markdown]
# We do this for each network, and ask the package for the same.

# %%
from ies_helpers import gradient
from ies_helpers.teaching import Linear, Quadratic, Shifted

toys = {"Linear": Linear(), "Quadratic": Quadratic(), "Shifted": Shifted()}
computed = {name: by_autograd(toy) for name, toy in toys.items()}
packaged = {name: gradient(toy, toy_image, toy_lesion, aggregate="sum") for name, toy in toys.items()}

# %% [markdown]
# Do the three agree?

# %%
for name, map_on_paper in paper.items():
    off = [float((maps[name] - map_on_paper).abs().max()) for maps in (computed, packaged)]
    print(f"{name}: autograd is off by {off[0]:.0e} at most, ies_helpers.gradient by {off[1]:.0e}")

# %% tags=["check"]
for name in toys:
    assert torch.allclose(computed[name], paper[name], rtol=1e-6)
    assert torch.allclose(packaged[name], paper[name], rtol=1e-6)

# %% [markdown]
# They do, up to one part in a million: float32 carries about seven digits, and these networks do one multiplication or
# two. Let us look at the FLAIR maps.

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for ax, (name, g) in zip(axes, computed.items(), strict=True):
    drawn = ax.imshow(g[0, :, :, 8].T, cmap="RdBu_r", vmin=-3, vmax=3, origin="lower")
    ax.add_patch(plt.Rectangle((3.5, 6.5), 1, 3, fill=False, lw=2))
    ax.set_title(f"{name}: gradient to FLAIR", fontsize=11)
    ax.set(xlabel="first axis (voxels)", ylabel="second axis (voxels)")
bar = figure.colorbar(drawn, ax=axes, shrink=0.9, label="logit per unit of z-scored intensity")

# %% [markdown]
# The black frame is the lesion, three voxels high. On the left its voxels are all the same red: 2 logits per unit,
# whatever the image holds. In the middle their colours differ and one is blue: the gradient is twice the intensity, so
# the map follows the image. On the right the frame is **white inside**, and a red bar of value 3 stands five voxels
# further along the first axis. This network calls a voxel lesion because of something 5 mm away, and the map gives it
# away. That is what we want maps for.
#
# ## Does the number mean what it says? A finite difference
#
# A derivative is a promise about small changes, so let us make a small change. We add $+h$ to one input voxel, then
# $-h$, and divide the difference of the scores by $2h$. In float64 rounding is small enough for us to see that the
# promise holds.


# %%
def nudge(network, image, score, voxel, h):
    """(score(x + h) - score(x - h)) / 2h, for one value of the image, in float64."""
    up, down = image.double().clone(), image.double().clone()
    up[voxel] += h
    down[voxel] -= h
    with torch.no_grad():
        return float((score(network(up[None])) - score(network(down[None]))) / (2 * h))


# %% [markdown]
# We try it on `Quadratic`, at the middle voxel of the lesion.

# %%
slope = nudge(Quadratic(), toy_image, lambda logits: logits[0, 1][at].sum(), (0, 4, 8, 8), h=1e-3)
on_paper = 2 * float(toy_image[0, 4, 8, 8])
print(f"finite difference {slope:.9f}, on paper {on_paper:.9f}")

# %% tags=["check"]
assert abs(slope - on_paper) < 1e-9

# %% [markdown]
# They agree to at least nine decimals. (For a quadratic the two-sided difference is exact; what is left is rounding,
# about $10^{-16}$ divided by $h$.)
#
# ## The real network, one lesion, by hand
#
# We load the patient and the U-Net, and find the lesions, as in chapter 02.

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
print(subject, lesions, sep="\n")

# %% [markdown]
# We are going to walk back through the network once for each voxel, so we choose a small found lesion (TP): of the four
# whose size is closest to a dozen voxels, the one closest to the middle of the image.

# %%
dozen = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 12))[:4]
middle = np.array(subject.shape) / 2
lesion = min(dozen, key=lambda le: np.linalg.norm(le.voxels.mean(axis=0) - middle))
lesion

# %% [markdown]
# Three details before the loop. First, the U-Net halves its grid four times, so each side of the image must be a
# multiple of 16. We add zeros **at the end** of each axis where needed (the demo needs none). Zeros in front would
# shift the network's grid and give a different map.

# %%
import torch.nn.functional as F

padding = [p for n in reversed(subject.shape) for p in (0, -n % 16)]
padded = F.pad(subject.image, padding)

# %% [markdown]
# Second, the network must be in evaluation mode (batch normalisation then uses its stored statistics) and its weights
# frozen. On a GPU we also ask for full float32. `gradient` does all of this by itself, and puts everything back
# afterwards.

# %%
network.module.eval().requires_grad_(False)
torch.backends.cudnn.allow_tf32 = False

# %% [markdown]
# Third, we keep the graph (`retain_graph=True`), because we walk back through the same forward pass once for each
# voxel. `total` is the sum over the lesion's voxels, and `largest` the maximum by absolute value.

# %%
x = padded[None].to(network.device).requires_grad_()
logits = network.logits(x)[0, 1]
total, largest = torch.zeros_like(x[0]), torch.zeros_like(x[0])
for i, j, k in lesion.voxels:
    (g,) = torch.autograd.grad(logits[i, j, k], x, retain_graph=True)
    total += g[0]
    largest = torch.where(g[0].abs() > largest.abs(), g[0], largest)
del logits  # and the graph with it

# %% [markdown]
# That is all there is to it. We cut the padding off again.

# %%
I, J, K = subject.shape
by_hand = {"sum": total[:, :I, :J, :K].cpu(), "max": largest[:, :I, :J, :K].cpu()}
by_hand["mean"] = by_hand["sum"] / len(lesion)
print(f"{len(lesion)} gradients of {by_hand['sum'].numel():,} values each")

# %% [markdown]
# The package does the same in less time (we come to how).

# %%
maps = {aggregate: gradient(network, subject.image, lesion, aggregate=aggregate) for aggregate in by_hand}

# %% [markdown]
# How far apart are the two?

# %%
import pandas as pd

table = pd.DataFrame({"largest value": {how: float(mine.abs().max()) for how, mine in by_hand.items()}})
errors = {how: (mine - maps[how]).abs() / mine.abs().max() for how, mine in by_hand.items()}
table["largest difference / largest value"] = {how: float(error.max()) for how, error in errors.items()}
table["share of values off by > 1e-5"] = {how: float((error > 1e-5).float().mean()) for how, error in errors.items()}
table

# %% tags=["check"]
assert (table["share of values off by > 1e-5"] < 1e-3).all()
assert (table["largest difference / largest value"] < 1e-2).all()

# %% [markdown]
# Every line should show differences of about $10^{-6}$. Our test states its tolerance as two numbers, and the reason is
# worth knowing. The network's activation, PReLU, has a kink at zero. Where an intermediate value is zero up to
# rounding, float32 can land on either side of the kink, and the slope there flips. Then a handful of map values differ
# by more than rounding, though nothing is wrong. So we ask for two things: fewer than one value in a thousand is off by
# more than $10^{-5}$ of the largest, and none by more than $10^{-2}$.
#
# ## The map of this lesion
#
# Here is our lesion's map, the maximum over its voxels.

# %%
from ies_helpers import plot_saliency

title = f"{subject.name}, lesion {lesion.number}: gradient, max over voxels"
figure = plot_saliency(subject, maps["max"], lesion, title=title, reach_mm=15)

# %% [markdown]
# Both rows show the brain in grey and the map in colour, FLAIR above and T1 below; the outline is the lesion. The unit
# is logits per unit of z-scored intensity, and both rows share one scale, so you may compare them. The strong colours
# sit on the lesion and within a few millimetres of it; further out there is nothing to see. In FLAIR the lesion is
# warm: brighter there, and the logit rises. In T1 it is blue: darker there, and the logit rises. That is what a
# radiologist would expect, since these lesions are bright in FLAIR and dark in T1. Around the lesion, pale voxels of
# both colours mix. This fringe is ragged: the gradient is taken at one image with its own noise, and the network's grid
# shows through. Chapter 04 deals with the noise.
#
# Here are all aggregations, slice by slice:

# %%
from ies_helpers import view

view(subject, {("gradient", how): m for how, m in maps.items()}, lesion)

# %% [markdown]
# Do not trust your eye alone. What is the mean inside the lesion?

# %%
best, mask = maps["max"], lesion.mask(subject.shape)
inside = best[:, mask].mean(dim=1)
print(f"mean inside the lesion: FLAIR {inside[0]:+.2f}, T1 {inside[1]:+.2f} logits per unit")

# %% tags=["check"]
assert inside[0] > 0 > inside[1]

# %% [markdown]
# And where is the largest value?

# %%
peak = np.unravel_index(int(best[0].abs().argmax()), subject.shape)
off = float(np.linalg.norm((lesion.voxels - np.array(peak)) * np.array(subject.spacing), axis=1).min())
print(f"largest FLAIR value {float(best[0][peak]):+.2f}, {off:.1f} mm from the nearest lesion voxel")

# %% [markdown]
# ## Why a box is enough
#
# One output voxel of this U-Net cannot see the whole image. Five levels of small filters reach a certain way and no
# further: the *receptive field* of chapter 01. Outside of it the gradient is not small, it is exactly zero. (The
# package finds the field with a copy of the network that has positive weights only, so that no path can cancel
# another.)

# %%
from ies_helpers.teaching import reach_table

reach_table(network, subject.spacing)

# %% [markdown]
# The network's four halvings cut the image into cells of 16 x 16 x 16 voxels. All voxels of a cell see about the same:
# 80 voxels along each axis, once rounded up to whole cells. A lesion in one cell needs one such box, clipped at the
# image's border. A lesion across two cells needs a longer one. The box starts at a multiple of 16, so the network's
# grid lies on it as it lies on the whole image. Which box does our lesion need?

# %%
from ies_helpers.teaching import receptive_box

box = receptive_box(network, subject.image, lesion)
print("box of this lesion:", " x ".join(map(str, box.shape)), "voxels")

# %% [markdown]
# Our own map was computed without any box. If all this is true, it must be zero outside it.

# %%
outside = torch.ones_like(best, dtype=torch.bool)
outside[:, *box] = False
print("largest value of our whole-volume map outside the box:", float(by_hand["max"][outside].abs().max()))

# %% tags=["check"]
assert not by_hand["max"][outside].any()

# %% [markdown]
# Not small: zero. So we may cut the box out before we start, and walk back through it alone. Let us time one voxel,
# forward and back.

# %%
import time


def seconds(image, voxel):
    """One forward pass and the gradient of one voxel's logit, in seconds."""
    start = time.perf_counter()
    x = image[None].to(network.device).requires_grad_()
    torch.autograd.grad(network.logits(x)[0, 1][tuple(voxel)], x)[0].cpu()
    return time.perf_counter() - start


# %% [markdown]
# A computer with other work to do is slow at times, so we take the best of three.

# %%
voxel = lesion.voxels[0]
seconds_whole = min(seconds(padded, voxel) for _ in range(3))
seconds_box = min(seconds(padded[:, *box], voxel - box.start) for _ in range(3))
print(f"whole volume {seconds_whole:.2f} s, box {seconds_box:.2f} s: {seconds_whole / seconds_box:.1f} times faster")

# %% [markdown]
# How does that compare with the size of the box?

# %%
share = box.size / padded[0].numel()
print(f"the box holds {share:.0%} of the image and takes {seconds_box / seconds_whole:.0%} of the time")

# %% [markdown]
# On a computer with nothing else to do the two shares are about the same. (On a busy one the two times can be
# anything.)
#
# And this is what the box looks like. We draw the absolute value on a logarithmic scale, to see how far the last trace
# reaches, and the two times beside it.

# %%
from matplotlib.colors import LogNorm

scale = LogNorm(1e-6, 1, clip=True)
how = {"colours": "viridis", "scale": scale, "threshold": 1e-8, "opacity": 0.7, "reach_mm": None, "at": mask}
size, in_box = by_hand["max"].abs(), {"white": ~outside[0]}

# %% [markdown]
# Three planes through the lesion, over the FLAIR image; the white line is the box.

# %%
from ies_helpers import plot_slice

figure, axes = plt.subplots(2, 2, figsize=(9, 7.6), layout="constrained")
for ax, plane in zip(axes.flat, ("sagittal", "coronal", "axial"), strict=False):
    unit = "|gradient|, logit per unit" if plane == "coronal" else None
    plot_slice(subject, size, in_box, plane=plane, ax=ax, title=plane, unit=unit, **how)
axes[1, 1].set(title="time for one voxel", ylabel="seconds")
bars = axes[1, 1].bar(["whole", "box"], [seconds_whole, seconds_box], color="grey")

# %% [markdown]
# Colour is the order of magnitude of the FLAIR gradient: yellow is about 1 logit per unit, each step of the bar ten
# times less. (Where you see no white line, the box reaches the edge of the image.) The coloured patch fills the box or
# nearly so, and ends sharply: nothing lies beyond it. It falls off in square steps. These are the levels of the
# network, whose grids are 2, 4, 8 and 16 voxels wide: the coarser the level, the further it looks and the less it
# counts here. Most of the box is dark, a thousandth of the peak and less. The network *can* look 30 to 45 voxels far.
# For this lesion it hardly does. The bars are the two times in seconds. The larger the image, the more the box saves: a
# whole head of 182 x 218 x 182 voxels is six times the demo.
#
# ## One value of the map, checked by a finite difference
#
# The box makes the check cheap for the real network too. We copy the network to float64, and cut the box out.

# %%
import copy

double = copy.deepcopy(network.module).cpu().double()
cut = padded[:, *box]
here = tuple((lesion.voxels - box.start).T)

# %% [markdown]
# Then we take the strongest FLAIR value of the `sum` map and nudge this one voxel. The kinks of PReLU matter again: the
# step must be small enough not to cross one.

# %%
strongest = np.unravel_index(int(maps["sum"][0].abs().argmax()), subject.shape)
slope = nudge(double, cut, lambda out: out[0, 1][here].sum(), (0, *(np.array(strongest) - box.start)), h=1e-6)
expected = float(maps["sum"][0][strongest])
print(f"finite difference {slope:+.5f}, gradient {expected:+.5f} logits per unit")

# %% tags=["check"]
assert abs(slope - expected) < 1e-4 * abs(expected)

# %% [markdown]
# They agree to $10^{-4}$ of the value. The difference itself, in float64 with a step of $10^{-6}$, is good to about
# $10^{-8}$; the float32 gradient is the coarser of the two.
#
# ## Logits or probabilities?
#
# The network's last step turns the logits of its two classes into a probability $p$. Why not differentiate that? By the
# chain rule, with $z$ the lesion's logit minus the background's,
#
# $$ \frac{\partial p}{\partial x} = p\,(1 - p)\,\frac{\partial z}{\partial x}. $$
#
# Where the network is sure, $p(1-p)$ is nearly zero, and the map fades with it. The evidence is as strong as before,
# but the probability has no room left to rise. Let us compare both on a larger lesion, for voxels from the least to the
# most certain.

# %%
from ies_helpers import predict

large = min(lesions.of("TP"), key=lambda le: abs(len(le) - 100))
certainty = predict(network, subject.image)[tuple(large.voxels.T)].numpy()
steps = np.linspace(0, len(large) - 1, 6 if SMALL else 16).astype(int)
chosen = large.voxels[certainty.argsort()[steps]]

# %% [markdown]
# In float32 a probability above 0.9999999 is 1. So we compute the doubt $1 - p$, which is the softmax of the *other*
# class. Its gradient has the same size, and float32 can hold a doubt of $10^{-20}$.

# %%
around = receptive_box(network, subject.image, large)
x = padded[:, *around][None].to(network.device).requires_grad_()
logits = network.logits(x)[0]
doubt = logits.softmax(dim=0)[0]

# %% [markdown]
# For each of these voxels we want the doubt, and the largest absolute value of both gradients.


# %%
def steepest(score):
    """The largest absolute value of a score's gradient."""
    return torch.autograd.grad(score, x, retain_graph=True)[0].abs().max().item()


rows = [(doubt[v].item(), steepest(logits[1][v]), steepest(doubt[v])) for v in map(tuple, chosen - around.start)]
doubts, of_logit, of_p = np.array(rows).T
print(f"least certain to most certain: logit x {of_logit[-1] / of_logit[0]:.2g}, p x {of_p[-1] / of_p[0]:.2g}")

# %% tags=["check"]
assert of_logit[-1] / of_logit[0] > 10 * of_p[-1] / of_p[0]

# %% [markdown]
# Both axes of the figure are logarithmic.

# %%
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.loglog(doubts, of_logit, "o", label="gradient of the logit")
ax.loglog(doubts, of_p, "s", label="gradient of the probability")
ax.invert_xaxis()
ax.set(xlabel="1 - p: doubt of the network (more certain to the right)", ylabel="largest |gradient|, per unit")
legend = ax.legend()

# %% [markdown]
# Each voxel is a pair of points, one above the other; certainty grows to the right. The circles stay within one band:
# certain or not, a logit moves by about as much. The squares fall by orders of magnitude, in step with $1 - p$: a tenth
# of the doubt, a tenth of the gradient. A map of probabilities would be blank in the core of every clear lesion, and
# would show its doubtful rim. It would also rank lesions by doubt and call it importance. So this handbook explains
# logits, as the paper does. (The published target is the lesion class's logit alone, not the difference $z$ of the two.
# We keep to that.)
#
# ## What we saw
#
# - A gradient map holds, for each voxel and modality, logits per unit of z-scored intensity, with a sign.
# - A network that looks only at a cue 5 mm away is caught: its map is empty in the lesion and bright at the cue.
# - A loop over `torch.autograd.grad` gives the map of a real lesion. `ies_helpers.gradient` gives the same.
# - Beyond the receptive field the gradient is exactly zero, so a box of about 80 voxels a side is enough, and faster.
# - Gradients of probabilities fade where the network is certain. Gradients of logits do not.
#
# ## Limits
#
# - A gradient is about *small* changes at *this* image. It does not say what happens if a lesion is removed.
# - It speaks of single voxels, one by one. No scanner changes one voxel alone, and neighbours are correlated.
# - It is noisy at the scale of single voxels (chapter 04), and depends on the aggregation (chapter 05).
# - A large gradient says that the network is sensitive there. It does not say that the network is right.
# - The box is exact for networks whose layers are all local. Instance normalisation and attention see a whole window;
#   then a box holds only the near field, and what lies beyond must be found in other ways (chapter 08).
# - The lesion was found through sliding windows and is explained on the whole volume, as published. These are two
#   functions that differ a little.
#
# ## Exercises
#
# **1.** On paper: `Shifted()` and a lesion of two voxels, (2, 8, 8) and (7, 8, 8). Where is the `sum` map non-zero, and
# with which values? Check with `gradient`.
#
# <details><summary>Solution</summary>
#
# Each voxel looks five steps along the first axis: at (7, 8, 8) and (12, 8, 8), with a gain of 3. One cue happens to
# lie on a voxel of the lesion, so the map alone does not tell that the network looks elsewhere.
#
# ```python
# g = gradient(Shifted(), toy_image, np.array([[2, 8, 8], [7, 8, 8]]), aggregate="sum")
# print(g.nonzero().tolist(), g[g != 0].tolist())
# ```
#
# Expected: `[[0, 7, 8, 8], [0, 12, 8, 8]] [3.0, 3.0]`
#
# *The usual wrong answer:* “At (2, 8, 8) and (7, 8, 8), because that is the lesion.” The lesion says whose *logits* we
# differentiate. Where the map is non-zero is up to the network.
#
# </details>
#
# **2.** Make the FLAIR image brighter by 1 everywhere. How do the `sum` maps of `Linear` and `Quadratic` change on the
# lesion?
#
# <details><summary>Solution</summary>
#
# `Linear` does not change: its gradient does not depend on the image. `Quadratic` gains $2 \cdot 1$ in FLAIR at each
# lesion voxel. A gradient map is a property of network *and* image.
#
# ```python
# brighter = toy_image.clone()
# brighter[0] += 1
# for toy in (Linear(), Quadratic()):
#     change = gradient(toy, brighter, toy_lesion) - gradient(toy, toy_image, toy_lesion)
#     print(type(toy).__name__, [round(v, 4) for v in change[0][at].tolist()])
# ```
#
# Expected: `Linear [0.0, 0.0, 0.0]` and `Quadratic [2.0, 2.0, 2.0]`
#
# *The usual wrong answer:* “Both maps rise, since both scores rise.” The score of `Linear` does rise, by 2 a voxel. But
# a map shows slopes, not scores, and the slope of a straight line is the same everywhere.
#
# </details>
#
# **3.** Explain a lesion that the network missed: take the smallest of `lesions.of("FN")`. Is the mean FLAIR gradient
# inside it positive, though the network says no?
#
# <details><summary>Solution</summary>
#
# ```python
# missed = min(lesions.of("FN"), key=len)
# g = gradient(network, subject.image, missed)
# print(f"{float(g[0][missed.mask(subject.shape)].mean()):+.2f}")
# ```
#
# Expected: a positive number, of the same order as that of the found lesion above. Brightness still speaks for a lesion
# there; there was not enough of it, or the surroundings spoke against it.
#
# *The usual wrong answer:* “Zero or negative: the network said no, so nothing there speaks for a lesion.” The sign of a
# gradient is not the sign of the score. A low logit can still be on its way up.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Equations 2 and 3.
# - Simonyan K., Vedaldi A., Zisserman A. (2013). Deep inside convolutional networks: visualising image classification
#   models and saliency maps. [arXiv 1312.6034](https://arxiv.org/abs/1312.6034).
# - Lesjak Ž. and others (2017). A novel public MR image dataset of multiple sclerosis patients with lesion
#   segmentations based on multi-rater consensus. *Neuroinformatics* 16:51-63.
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7). The open patients, among them patient
#   26.
#
# ## Next
#
# [04 · SmoothGrad](04_smoothgrad.ipynb): the same gradient at many noisy copies of the image, and what they agree on.
