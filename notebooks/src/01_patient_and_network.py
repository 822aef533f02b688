# %% [markdown]
# # 01 · The patient and the network
#
# **Question.** What exactly goes into the network, what comes out, and how far can it look?
#
# **Objectives.** You can say what FLAIR and T1 show of a lesion, what a voxel is in mm, and what z-scoring does. You
# know the U-Net's levels and its receptive field. You know why we explain logits, and why predicting through windows
# and predicting on the whole volume are two different functions.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapter 00 read. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## The patient
#
# `demo` is synthetic. Any subject will do: `"phantom:7"`, a real patient such as `"openms:patient26"`, or a folder.

# %%
from ies_helpers import load_subject

SUBJECT = "demo"  # or "openms:patient26"
subject = load_subject(SUBJECT)
subject

# %% [markdown]
# What does a subject hold? Above all, an image.

# %%
print("image", tuple(subject.image.shape), subject.image.dtype, "channels", subject.channels)

# %% [markdown]
# The image is one array `(C, I, J, K)`: channels first, FLAIR then T1. Both lie on the same grid. If they did not,
# loading would stop and say so; nothing is resampled behind your back.
#
# The three other axes are the scan's own. Which of them runs from left to right, and how long a voxel is, is written in
# the **affine**: a matrix that turns voxel indices into millimetres in the world, with x to the right, y to the front
# and z up.

# %%
subject.affine

# %% [markdown]
# Let us ask where the middle of the image lies. The affine wants a 1 behind the three indices.

# %%
import numpy as np

voxel = np.array([*(n // 2 for n in subject.shape), 1])
print("voxel", voxel[:3], "lies at", (subject.affine @ voxel)[:3], "mm")

# %% [markdown]
# The volume of a voxel, in mm³, is the determinant of the affine's first three rows and columns.

# %%
volume = abs(np.linalg.det(subject.affine[:3, :3]))
print(f"spacing {subject.spacing} mm, so a voxel has {volume:.3g} mm³")

# %% tags=["check"]
assert np.allclose(volume, np.prod(subject.spacing))

# %% [markdown]
# A lesion of 100 voxels has 100 mm³ here, and only because the spacing is 1 mm. At 0.7 mm it would have 34 mm³, and the
# network, which was trained at 1 mm, would see everything enlarged.
#
# ## What MS lesions look like
#
# FLAIR suppresses fluid: the ventricles are dark and lesions are bright. In T1 fluid is dark too, white matter is
# bright, and lesions are darker than white matter, some only slightly, some nearly as dark as fluid. No network has
# looked yet, so we number the lesions of the target alone. Their group is `unknown`.

# %%
from ies_helpers import find_lesions

drawn = find_lesions(subject.target.float(), threshold=0.5, affine=subject.affine)
drawn

# %% [markdown]
# Let us look at them.

# %%
from ies_helpers import plot_lesions

figure = plot_lesions(subject, drawn, title=f"{subject.name}: {len(drawn)} lesions in the target")

# %% [markdown]
# The planes are chosen so that they cut many lesions. Multiple sclerosis has its favourite places: around the
# ventricles, where a lesion's long axis often points away from them; close to the cortex; in the brainstem and the
# cerebellum. Most lesions are small. How small?

# %%
sizes = np.array([lesion.volume_mm3 for lesion in drawn])
print(f"{len(sizes)} lesions: smallest {sizes.min():.0f}, median {np.median(sizes):.0f}, largest {sizes.max():.0f} mm³")
print(f"the largest alone holds {sizes.max() / sizes.sum():.0%} of the lesion volume")

# %% [markdown]
# So an average over lesion *voxels* describes the largest lesion, and an average over *lesions* describes the small
# ones. Chapter 02 builds on this.
#
# ## Z-scores
#
# MRI has no unit. The same brain gives different numbers on another scanner. The published network therefore reads
# z-scores: from each channel we subtract its mean and divide by its standard deviation, both taken over the **non-zero
# voxels**. Outside the brain the image is zero and stays zero.

# %%
for name, channel in zip(subject.channels, subject.image, strict=True):
    values = channel[channel != 0]
    print(f"{name:5} mean {values.mean():+.3f}, standard deviation {values.std():.3f} over {len(values)} voxels")

# %% [markdown]
# Mean 0, standard deviation 1. (On a crop such as `demo` the z-score was taken over the crop.) What if the scanner had
# been three times as loud? `rescanned` gives us the same patient from another scanner, z-scored anew.

# %%
from ies_helpers.teaching import rescanned

louder = rescanned(subject, gain=3)
print("three times as loud, largest difference:", float((louder.image - subject.image).abs().max()))

# %% [markdown]
# No difference beyond rounding. The unit of every map in this handbook follows from here: *logit per unit of z-scored
# intensity*. One unit is one standard deviation of that channel.
#
# “Non-zero” works where the background is exactly 0, as here. A file that was saved once more may hold something else:
# integers with a scale factor turn 0 into -0.0008, resampling makes it ring between tiny values, some programs write
# -1024 or NaN, and a z-score over the whole box shifts it. None of these is zero, so a z-score over the non-zero voxels
# would be one over the whole box, and in such an image a network finds ten times as many lesions.
#
# So the background is *found*, by one rule for every channel. It is every 0, if at least 2 % of the voxels are exactly
# 0. Otherwise it is the one value that far more voxels hold than any other, or around which they pile up. A lowest
#    value below 0, or NaN, counts too, where it reaches a side of the volume. Small spots inside the brain stay brain.
#    If the background is not exactly 0, you are told on screen; `subject.background` and the sidecar of each map say
#    what was found, and after the z-score it is zero. We try it with -1024:

# %%
padded = rescanned(subject, background=-1024)
print("a background of -1024, largest difference:", float((padded.image - subject.image).abs().max()))

# %% [markdown]
# Again the image is the same. Now that we have a unit: how bright are lesions, in standard deviations?


# %%
import pandas as pd


def parts(channel):
    """The values of a channel on lesions, and elsewhere in the brain."""
    return {"lesion": channel[subject.target], "elsewhere": channel[~subject.target & (channel != 0)]}


medians = [{what: float(values.median()) for what, values in parts(channel).items()} for channel in subject.image]
pd.DataFrame(medians, index=["FLAIR", "T1"]).round(2)

# %% [markdown]
# And as histograms.

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained", sharey=True)
for ax, name, channel in zip(axes, ("FLAIR", "T1"), subject.image, strict=True):
    for what, values in parts(channel).items():
        ax.hist(values.numpy(), bins=np.linspace(-4, 5, 37), density=True, alpha=0.6, label=what)
    ax.set(xlabel=f"{name}, z-score", ylabel="share of voxels per unit")
legend = ax.legend()

# %% [markdown]
# In FLAIR the lesion voxels lie to the right of the rest, by about one standard deviation or more (the medians above).
# But the two histograms overlap, so a threshold on brightness would not do. In T1 the lesions lie in the middle of the
# rest: T1 alone could not tell them apart. That is one reason to expect FLAIR to count for more in the maps.
#
# **A trap.** After z-scoring, zero is the *average*. So `image > 0` is not the brain: it is the brighter part of it.
# Raw intensities do not help either, since in the open patients' FLAIR the fluid is about 0 or below. What lies outside
# is *exactly* zero, and a few voxels inside may be so by chance. So we take what is not zero, and fill its holes.

# %%
from scipy.ndimage import binary_fill_holes

flair = subject.image[0].numpy()
positive, brain = flair > 0, binary_fill_holes(flair != 0)
print(f"image > 0 keeps {positive[brain].mean():.0%} of the brain's voxels")

# %% tags=["check"]
assert positive[brain].mean() < 0.9

# %% [markdown]
# To see the two masks, we draw each as if it were a scan.

# %%
from dataclasses import replace

import torch


def as_scan(mask):
    """The subject with a mask for its image."""
    return replace(subject, image=torch.from_numpy(mask)[None].float(), channels=("mask",))


# %% [markdown]
# `plot_slice` draws one slice into axes of ours.

# %%
from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
plot_slice(subject, ax=axes[0])
plot_slice(as_scan(positive), ax=axes[1], title="image > 0")
ax = plot_slice(as_scan(brain), ax=axes[2], title="holes of image != 0 filled")

# %% [markdown]
# On the left is an axial slice of FLAIR. In the middle, what `image > 0` keeps is white: the ventricles and sulci are
# holes, and so is much of the tissue. On the right is the brain. If you see a black spot left in it, as in `demo`, it
# is part of the cleft between the hemispheres: in another slice it opens to the outside, and only what is closed all
# around, in three dimensions, counts as a hole. A measure that divides by “brain voxels” must use the right mask.
#
# ## The network
#
# The shipped network has the form of the published U-Net, with half of its channels. It goes down through five levels,
# of which the first four halve the resolution and the last keeps it, and comes back up; on the way up the fine features
# of the way down are put beside the coarse ones.

# %%
from ies_helpers import load_network

network = load_network("unet")
parameters = sum(p.numel() for p in network.module.parameters())
print(f"{parameters / 1e6:.1f} million weights; window {network.window} voxels, threshold {network.threshold}")

# %% [markdown]
# Two of these facts belong to the network as much as its weights do. It predicts through **windows** of 96 voxels a
# side; and a voxel is called lesion where its probability exceeds the **threshold**, 0.3 as published.
#
# The levels are its convolutions, from the first one down.

# %%
levels = [m for m in network.module.modules() if isinstance(m, torch.nn.Conv3d)]
sides = np.cumprod([level.stride[0] for level in levels])
features = [level.out_channels for level in levels]
pd.DataFrame({"side of a cell, voxels": sides, "features": features}, index=range(1, len(levels) + 1))

# %% [markdown]
# At each level one value describes a cell of the image. On the way down the cells become coarser and their features
# more.
#
# ## How far can it look?
#
# A convolution looks at its neighbours. Stacked over levels, one output voxel depends on a box of input: the
# **receptive field**. Nothing outside can change the score, whatever it is. `reach_table` tries it out: it makes all
# weights positive, so that nothing can cancel, and looks how far a gradient reaches.

# %%
from ies_helpers.teaching import reach_table

reach_table(network, subject.spacing)

# %% [markdown]
# One row an axis: the cell, how far one looks before and after it, and the whole box, in voxels and in mm. All output
# voxels of one cell share the box, because the deepest level has one value per cell. So a voxel at a cell's left edge
# looks far to the right and less far to the left. The published U-Net can look no farther than that, and an exact
# gradient needs no more of the image. This is what makes explaining one lesion cheap.
#
# Where it *can* look is not where it *does* look. We choose one lesion ...

# %%
lesions = find_lesions(network, subject)
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 60))
lesion

# %% [markdown]
# ... and take the gradient of its logits. Chapter 03 does this by hand; here its absolute value will do.

# %%
from ies_helpers import gradient

g = gradient(network, subject.image, lesion, aggregate="mean").abs().numpy()

# %% [markdown]
# For each voxel we also need its distance to the lesion.

# %%
from scipy.ndimage import distance_transform_edt

distance = distance_transform_edt(~lesion.mask(subject.shape).numpy(), sampling=subject.spacing)
print("the farthest voxel with a gradient is", round(float(distance[(g > 0).any(axis=0)].max())), "mm away")

# %% [markdown]
# How much of the absolute gradient lies within so many mm of the lesion?

# %%
reach = np.arange(0, 61)
within = np.array([g[:, distance <= r].sum(axis=1) for r in reach]) / g.sum()
half, most = (np.argmax(within.sum(axis=1) >= share) for share in (0.5, 0.9))
print(f"half of it lies within {half} mm, 90 % within {most} mm")

# %% [markdown]
# Here is the whole curve.

# %%
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(reach, within, label=["FLAIR", "T1"])
ax.plot(reach, within.sum(axis=1), "k--", label="both")
ax.set(xlabel="distance from the lesion, mm", ylabel="share of the absolute gradient", ylim=(0, 1.05))
legend = ax.legend()

# %% [markdown]
# At 0 mm we read off the share of the lesion itself, and it is small. The curves climb fastest within the first one or
# two centimetres and are flat well before the receptive field ends. The two solid curves add up to the dashed one; the
# higher of them is the modality with more of the gradient.
#
# Is the lesion unimportant, then? We compare voxel for voxel.

# %%
near, far = g[:, distance == 0].mean(), g[:, (distance > 10) & (distance <= 20)].mean()
print(f"a voxel of the lesion has {near / far:.0f} times the gradient of a voxel 10 to 20 mm away")

# %% [markdown]
# Voxel for voxel the lesion counts by far the most. But there are so many voxels farther off that their faint gradients
# add up. How much of this context the network *needs* is another question; [chapter 07](07_perilesional.ipynb) asks it.
#
# ## Logits, not probabilities
#
# For each voxel the network gives two numbers, the logits of background and lesion, $z_0$ and $z_1$. The softmax makes
# a probability of them:
#
# $$
# p = \frac{e^{z_1}}{e^{z_0} + e^{z_1}}, \qquad
# \frac{\partial p}{\partial x} = p\,(1 - p)
# \left(\frac{\partial z_1}{\partial x} - \frac{\partial z_0}{\partial x}\right).
# $$
#
# The factor $p(1-p)$ is the trouble. Where the network is sure, it vanishes, and the gradient vanishes with it. How
# small is it for lesions that were found? First the logits.

# %%
from ies_helpers import predict_logits

logits = predict_logits(network, subject.image)

# %% [markdown]
# Then, for the voxels of true and of false positives, $z_1 - z_0$ and the factor.

# %%
z, factor = {}, {}
for group in ("TP", "FP"):
    z[group] = torch.cat([(logits[1] - logits[0])[tuple(le.voxels.T)] for le in lesions.of(group)])
    factor[group] = torch.sigmoid(z[group]) * (1 - torch.sigmoid(z[group]))
    print(f"{group}: median factor {factor[group].median():.4f}")

# %% [markdown]
# We draw one against the other.

# %%
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for group, colour in (("TP", "tab:blue"), ("FP", "tab:orange")):
    ax.scatter(z[group], factor[group], s=8, color=colour, alpha=0.4, label=f"{group}, {len(z[group])} voxels")
ax.set(xlabel="difference of logits, $z_1 - z_0$", ylabel="$p\\,(1 - p)$")
legend = ax.legend()

# %% [markdown]
# Each dot is a voxel of a found lesion. The factor is at most 0.25, where the probability is one half, and falls to
# almost nothing on the right. Most voxels of true positives lie far out there. So a gradient of probabilities would say
# “nothing matters” about the very voxels the network is surest of, and what is left of it would come from the uncertain
# rim.
#
# Does that not at least tell us which lesions are real? We count those that peak above 0.95.

# %%
for group in ("TP", "FP"):
    sure = np.mean([le.max_probability > 0.95 for le in lesions.of(group)])
    print(f"{group}: lesions that peak above 0.95: {sure:.0%}")

# %% [markdown]
# *False* positives peak above 0.95 as well. A network trained with the Dice loss saturates; its softmax does not tell
# how confident you should be. So we explain $z_1$. It keeps its slope where the softmax has none.
#
# ## Through windows, or whole
#
# The network predicts windows of 96³ voxels that overlap by a quarter, and blends their logits with a Gaussian weight.
# The maps of the published U-Net are gradients of *one* pass over the whole volume. These are two functions. Without a
# window, the network takes the volume whole:

# %%
whole = replace(network, window=None)
print("through windows:", lesions)
print("on the whole   :", find_lesions(whole, subject))

# %% [markdown]
# The lesions of the two predictions need not be the same. How far apart are the logits?

# %%
difference = (predict_logits(whole, subject.image)[1] - logits[1]).abs()
apart = difference.numpy()[brain]
print(f"logits differ by {np.median(apart):.3f} (median), {apart.max():.1f} at most")

# %% tags=["check"]
assert apart.max() > 1e-3, "two functions"

# %% [markdown]
# There are two reasons. Near a window's border the network meets the zeros of its own padding instead of tissue. And
# its cells of 16 voxels are counted from where the window starts: a window that starts at voxel 72 cuts the brain into
# other cells than the whole volume does, and the network cares where they fall. Where do windows start?

# %%
import math


def window_starts(length, side=network.window, step=int(network.window * (1 - network.overlap))):
    """Where windows start along an axis: every `step` voxels, and the last one ends with the volume."""
    return [min(n * step, length - side) for n in range(math.ceil((length - side) / step) + 1)]


# %% [markdown]
# Along each axis we look at the starts, and at what is left of them after division by 16.

# %%
for letter, length in zip("IJK", subject.shape, strict=True):
    starts = window_starts(length)
    print(f"along {letter}: windows start at {starts}, remainders by 16: {[s % 16 for s in starts]}")

# %% [markdown]
# Where all remainders are 0, only the borders are left as a cause. Where they are not, we expect a difference
# everywhere. Let us see where it lies, on a logarithmic scale.

# %%
from matplotlib.colors import LogNorm

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
plot_slice(subject, ax=axes[0])
how = {"colours": "viridis", "scale": LogNorm(1e-4, 10, clip=True), "unit": "logits", "title": "difference"}
ax = plot_slice(subject, difference[None], at=[n // 2 for n in subject.shape], ax=axes[1], **how)

# %% [markdown]
# On the left is the slice; on the right, how far apart the two predictions are. Straight edges are not anatomy: they
# are borders of windows and of cells. If all remainders are 0, the difference keeps to a band where windows overlap,
# and farther from the inner borders than the receptive field reaches, the two agree to the last digit or nearly so.
# Otherwise it covers the whole slice.
#
# The handbook does as the paper does: lesions come from the windows, maps of the U-Net from the whole volume. The
# network carries both facts, and you can ask for the other one.

# %%
through_windows = network.explained_through("windows")
print("predicts through windows of", network.window, "; is explained through:", network.through)

# %% [markdown]
# How much of our lesion's map changes?

# %%
g_windows = gradient(through_windows, subject.image, lesion, aggregate="mean").abs().numpy()
print(f"share of the map that changes: {np.abs(g_windows - g).sum() / g.sum():.1%}")

# %% [markdown]
# Compare this with the remainders above: aligned windows change the map less, misaligned ones more. So a map must say
# which of the two it explains, and the files that the package writes do.
#
# ## What we saw
#
# - A subject is two channels on one grid, with an affine that turns voxels into millimetres.
# - Z-scores make scans comparable and give maps their unit; zero is average, not empty.
# - The U-Net's field is bounded: beyond it nothing counts. Within it, voxel for voxel, what is near counts most.
# - The softmax saturates, for wrong lesions too. Logits keep their slope.
# - Through windows and on the whole volume are two functions: borders and the grid of cells set them apart.
#
# ## Limits
#
# - A z-score is taken over all voxels that are not background, so it depends on the field of view and on how the skull
#   was stripped.
# - The curve of distances is one lesion's plain gradient. It counts positive and negative alike and says nothing about
#   what the network needs.
# - $z_1$ alone is half of the story: the network can also raise a probability by lowering $z_0$. Exercise 2 looks at
#   it.
# - The contrast of a synthetic brain was drawn at random; no histogram here says what a scanner would give.
#
# ## Exercises
#
# **1.** How many windows does the image of this subject need, and how many of them hold the chosen lesion?
#
# <details><summary>Solution</summary>
#
# ```python
# from itertools import product
#
# starts = np.array(list(product(*map(window_starts, subject.shape))))[:, None]
# holds = ((lesion.voxels >= starts) & (lesion.voxels < starts + network.window)).all(axis=2).any(axis=1)
# print(len(starts), holds.sum())
# ```
#
# Expected: 2 windows for the 96 × 128 × 96 voxels of the demo, of which 1 or 2 hold the lesion; 27 windows for an open
# patient, of which up to 8 hold it.
#
# *The usual wrong answer:* “128 divided by 96, so one window and a third of another.” Windows overlap and none is
# smaller than 96: the last one is moved back until it ends with the volume. A voxel may therefore lie in several, and
# its logit is a blend of all of them.
#
# </details>
#
# **2.** Is $z_0$ the mirror image of $z_1$? Correlate them over the brain.
#
# <details><summary>Solution</summary>
#
# ```python
# print(np.corrcoef(logits[0][brain], logits[1][brain])[0, 1])
# ```
#
# Expected: a number near −1. The two outputs are trained against each other, so explaining $z_1$ loses little here. For
# another network, check before you rely on it.
#
# *The usual wrong answer:* “It must be exactly −1, because the two probabilities add up to 1.” The probabilities do,
# the logits need not: add the same number to both, and the softmax stays as it was. What we see was learned, not built
# in.
#
# </details>
#
# **3.** Add 5 to every voxel outside the receptive field of the chosen lesion. How much do its logits change, seen
# whole?
#
# <details><summary>Solution</summary>
#
# ```python
# from ies_helpers.teaching import receptive_box
#
# box = receptive_box(network, subject.image, lesion)
# changed = subject.image + 5
# changed[:, *box] = subject.image[:, *box]
# at = tuple(lesion.voxels.T)
# print(float((predict_logits(whole, changed) - predict_logits(whole, subject.image))[1][at].abs().max()))
# ```
#
# Expected: 0, or a rounding error below 1e-4. In the small demo the box may cover nearly everything; patient 26 makes
# the better experiment.
#
# *The usual wrong answer:* “A little, since everything is connected in a deep network.” In a network of convolutions it
# is not: outside the box there is no path to these logits, however large the change. (Networks with attention or
# instance normalisation look at all of their window, and there the answer would be right; see chapter 08.)
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, Scientific Reports 2026,
#   [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335): input, windows, threshold.
# - Ž. Lesjak and others, Neuroinformatics 2017,
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7): the open patients.
# - O. Ronneberger, P. Fischer, T. Brox, *U-Net*, 2015, [arXiv 1505.04597](https://arxiv.org/abs/1505.04597).
#
# ## Next
#
# [02 · Lesions as instances](02_lesions_as_instances.ipynb): from a cloud of probabilities to lesions one can count,
# and explain, one by one.
