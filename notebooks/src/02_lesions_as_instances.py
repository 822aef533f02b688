# %% [markdown]
# # 02 · Lesions as instances
#
# **Question.** The network gives a probability to every voxel. Which part of that is *a* lesion, and why do we explain
# one at a time?
#
# **Objectives.** You can apply the published definitions of lesion, TP, FP and FN by hand. You know what the threshold
# does to the groups. You can show that a gradient of the whole class is the sum over all its lesions.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 00 and 01 read. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## By hand first
#
# We paint a target and a prediction on a sheet of 12 × 24 voxels, one voxel thick. First the target, in three patches.

# %%
import numpy as np

TARGET = np.zeros((12, 24, 1), dtype=bool)
TARGET[1:5, 1:5] = True  # a patch of 16 that the prediction meets in one voxel
TARGET[8:11, 10:13] = True  # a patch of 9 that nothing meets
TARGET[8:11, 17:20] = True  # another patch of 9

# %% [markdown]
# Then the prediction. Patches A, B and C have probability 0.9, and patch d has 0.5.

# %%
PREDICTION = np.zeros((12, 24, 1), dtype=np.float32)
PREDICTION[4:8, 4:8] = 0.9  # A
PREDICTION[1:3, 9:12] = 0.9  # B: 6 voxels in the void
PREDICTION[1:2, 14:19] = 0.9  # C: 5 voxels in the void
PREDICTION[5:7, 14:16] = 0.5  # d: two patches of 4 ...
PREDICTION[7:9, 16:18] = 0.5  # ... that touch at an edge

# %% [markdown]
# There are four published rules:
#
# 1. A voxel is predicted lesion where its probability lies above the threshold.
# 2. A **lesion** is a connected component of more than 5 voxels. Two voxels are connected if they share a face or an
#    edge: each has 18 neighbours. A corner does not connect.
# 3. A predicted lesion is **TP** if it shares at least one voxel with the target, else **FP**.
# 4. A component of the target that shares no voxel with a predicted lesion is **FN**.
#
# Before you go on, decide: what are A, B, C and d at a threshold of 0.3, and which target patches are missed?

# %%
import torch

from ies_helpers import find_lesions

painted = find_lesions(torch.from_numpy(PREDICTION), torch.from_numpy(TARGET), threshold=0.3)
painted

# %% [markdown]
# How many voxels has each of them?

# %%
{group: [len(le) for le in painted.of(group)] for group in ("TP", "FP", "FN")}

# %% tags=["check"]
assert [[len(le) for le in painted.of(group)] for group in ("TP", "FP", "FN")] == [[16, 8], [6], [9]]

# %% [markdown]
# To draw the sheet we enlarge each voxel to a square of 9 × 9 pixels.

# %%
COLOURS = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442"}  # told apart with every common colour blindness


def enlarge(sheet):
    """Each voxel of `(I, J, 1)` as a square."""
    return np.kron(sheet[:, :, 0], np.ones((9, 9)))


# %% [markdown]
# One square is one voxel. Grey is the target, an outline is predicted (or missed), and the label says number, group and
# voxels.

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(10, 5), layout="constrained")
ax.imshow(enlarge(~TARGET), cmap="gray", vmin=-2, vmax=1)
ax.contour(enlarge(PREDICTION > 0.3), levels=[0.5], colors="black", linewidths=1.5)
for lesion in painted:
    ax.contour(enlarge(lesion.mask(TARGET.shape).numpy()), levels=[0.5], colors=COLOURS[lesion.group], linewidths=4)
    i, j = 9 * lesion.voxels[:, :2].min(axis=0)
    ax.text(j, i - 2, f"{lesion.number}: {lesion.group}, {len(lesion)}", fontsize=11)
ax.set(xticks=np.arange(-0.5, 216, 9), yticks=np.arange(-0.5, 108, 9), xticklabels=[], yticklabels=[])
ax.grid(color="0.85", lw=0.5)

# %% [markdown]
# **A**, the large blue square, is a TP because of one shared voxel, though most of it lies outside the target. **B**,
# orange, 6 voxels, is an FP. **C**, 5 voxels in a row, has only a thin black line: it is predicted, but too small to be
# a lesion, so it is in no group. **d** is one lesion of 8 voxels, because its halves touch at an edge, and it is a TP.
# The grey patch with a yellow line, met by nothing, is the FN; its voxels are those of the target.
#
# Two things follow that are easily forgotten. TP says *found*, not *drawn well*. And the number of TP counts predicted
# lesions: one prediction across two target patches is one TP.
#
# In three dimensions edges matter more. Here are two cubes of 27 voxels that touch in an edge, and two that touch in a
# corner.

# %%
edge, corner = np.zeros((2, 8, 8, 8), dtype=bool)
edge[1:4, 1:4, 1:4] = corner[1:4, 1:4, 1:4] = True
edge[4:7, 4:7, 1:4] = True  # shares an edge with the first
corner[4:7, 4:7, 4:7] = True  # shares a corner with the first

# %% [markdown]
# How many components is each pair, under the three usual rules?

# %%
from scipy.ndimage import generate_binary_structure, label

for neighbours, order in ((6, 1), (18, 2), (26, 3)):
    rule = generate_binary_structure(3, order)
    print(f"{neighbours:2} neighbours: edge {label(edge, rule)[1]}, corner {label(corner, rule)[1]}")

# %% [markdown]
# With 18 neighbours an edge joins and a corner does not. Counts of lesions made under another rule cannot be compared
# with these.
#
# ## The subject
#
# Now the same on a brain. One word changes the subject.

# %%
from ies_helpers import load_network, load_subject

SUBJECT = "demo"  # or "openms:patient26"
subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
lesions

# %% [markdown]
# `table()` has one row a lesion. Let us look at the medians of each group.

# %%
lesions.table().groupby("group")[["voxels", "mean_probability", "max_probability"]].median().round(2)

# %% [markdown]
# Compare FN with TP: it is the small ones that are missed. Inside a missed lesion there are at most specks of up to 5
# voxels above the threshold, so its mean probability is low; its largest may not be.
#
# Where are they?

# %%
from ies_helpers import plot_lesions

figure = plot_lesions(subject, lesions)

# %% [markdown]
# The planes are chosen so that every group is seen, if three planes can show them all, and each shows what it cuts.
# Numbers go up in scan order, found lesions first. To see *all* of them at once we look through the head: each lesion
# is projected onto the plane, as a shadow.

# %%
from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
for ax, plane in zip(axes, ("axial", "coronal", "sagittal"), strict=True):
    plot_slice(subject, lesion=lesions, plane=plane, through=True, ax=ax, title=f"all lesions, {plane} projection")

# %% [markdown]
# Blue are true positives, orange false positives, yellow missed ones. The grey is the mean of FLAIR along the line of
# sight, as in an X-ray. Many lesions lie along the ventricles, in the middle of each view. Outlines that overlap here
# may lie far apart in depth.
#
# ## What the threshold does
#
# The published U-Net takes 0.3. What if it took another value? We predict once, and cut at eleven thresholds.

# %%
from ies_helpers import predict

probability = predict(network, subject.image)
thresholds = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98]
found = [find_lesions(probability, subject.target, threshold=t) for t in thresholds]

# %% [markdown]
# Then we count each group.

# %%
counts = {group: [len(one.of(group)) for one in found] for group in ("TP", "FP", "FN")}
for group, numbers in counts.items():
    print(group, numbers)

# %% [markdown]
# As curves:

# %%
figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.set(facecolor="0.25", xlabel="threshold on the probability", ylabel="lesions")
for group, numbers in counts.items():
    ax.plot(thresholds, numbers, "o-", color=COLOURS[group], label=group)
ax.axvline(network.threshold, color="0.5", ls="--")
legend = ax.legend(facecolor="0.25", labelcolor="white")

# %% [markdown]
# As a rule, false positives become fewer from left to right and missed lesions become more; the dashed line is the
# published threshold. The curves are flat over a wide middle: the probabilities are saturated (chapter 01), so few
# lesions change sides. TP need not fall all the time. A higher threshold can cut one large prediction into two lesions,
# and each is a TP.
#
# So the groups are not a property of the brain alone. They belong to brain, network, threshold and rules. Write all
# four beside every count.
#
# ## Why one at a time
#
# The usual explanation of a segmentation sums the logits of *all* voxels of the class and takes the gradient of that.
# The gradient of a sum is the sum of the gradients:
#
# $$
# \nabla_x \sum_{v \in \text{class}} z_1(v) \;=\; \sum_{\text{lesions } \Omega}\; \nabla_x \sum_{v \in \Omega} z_1(v).
# $$
#
# So the map of the class *is* the maps of all lesions added up, and cannot tell us which of them a voxel belongs to.
# First we check the equation. We take the three lesions whose size is nearest to 30 voxels, as if they were one lesion
# ...

# %%
from ies_helpers import gradient

three = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 30))[:3]
joined = np.concatenate([le.voxels for le in three])
together = gradient(network, subject.image, joined, aggregate="sum")

# %% [markdown]
# ... and one by one.

# %%
added = sum(gradient(network, subject.image, le, aggregate="sum") for le in three)
largest_value = float(together.abs().max())
print("largest difference relative to the largest value:", float((together - added).abs().max()) / largest_value)

# %% tags=["check"]
assert torch.allclose(together, added, atol=1e-4 * largest_value)

# %% [markdown]
# They are equal, up to rounding. Now the class: every voxel above the threshold.

# %%
every = gradient(network, subject.image, probability > network.threshold, aggregate="sum")

# %% [markdown]
# Beside it we want one small lesion (of 20 to 100 voxels), and of the small ones the one that lies nearest to the
# largest lesion.

# %%
largest = max(lesions.of("TP"), key=len)


def gap(le):
    """How far the middle of a lesion is from the largest one, in voxels."""
    return np.linalg.norm(le.voxels.mean(0) - largest.voxels, axis=1).min()


lesion = min([le for le in lesions.of("TP") if 20 < len(le) < 100], key=gap)
print(f"{lesion}; its centre is {gap(lesion):.0f} voxels from the largest lesion, which has {len(largest)}")

# %% [markdown]
# Its own map is the sum over its own voxels.

# %%
single = gradient(network, subject.image, lesion, aggregate="sum")

# %% [markdown]
# We draw both maps with the same outline, the small lesion.

# %%
from ies_helpers import plot_saliency

for values, what in ((every[:1], "whole class"), (single[:1], "one lesion")):
    title = f"{subject.name}, sum of gradients in FLAIR: {what}"
    figure = plot_saliency(subject, values, lesion, reach_mm=35, title=title)

# %% [markdown]
# In the upper figure several lesions have colour, and the small outlined one is one spot among them. In the lower
# figure only the outlined lesion and its surroundings have colour. Mind the colour bars: each figure has its own scale.
# A large lesion sets the scale of the class map, and small ones pale beside it. Where colours alternate from voxel to
# voxel like a chessboard, you do not see anatomy: the network halves its resolution in steps of two, and plain
# gradients show the steps. Chapter 04 averages much of this away.
#
# Here are both to move through. Choose between them in the list, and untick the close-up to see the whole head.

# %%
from ies_helpers import view

view(subject, {"one lesion": single, "whole class": every}, lesion)

# %% [markdown]
# How much of what the class map shows *near our lesion* comes from our lesion? We go outwards in rings.

# %%
from itertools import pairwise

from scipy.ndimage import distance_transform_edt

distance = distance_transform_edt(~lesion.mask(subject.shape).numpy(), sampling=subject.spacing)
rings = {}
for near, far in pairwise((-1, 0, 5, 10, 20, 30)):
    name = f"{near} to {far} mm" if far else "inside"
    rings[name] = torch.from_numpy((distance > near) & (distance <= far))

# %% [markdown]
# In each ring we compare the lesion's own map with that of all others, which is the class map minus its own.

# %%
own, others = single[0].abs(), (every - single)[0].abs()
shares = {name: float(others[ring].sum() / (own + others)[ring].sum()) for name, ring in rings.items()}
for name, share in shares.items():
    print(f"{name:>12}: other lesions' share {share:.0%}")

# %% tags=["check"]
assert shares["20 to 30 mm"] > shares["inside"], "farther off, the class map is about others"

# %% [markdown]
# Inside the lesion the class map is mostly its own. But the share of the others grows fast, and within a centimetre or
# two most of the map belongs to other lesions. The surroundings of a lesion are just what we want to know about: which
# tissue around it argues for it, and which against? A class map cannot tell us. Grad-CAM and its kin, asked for a
# class, inherit this; chapter 06 shows what pooling adds.
#
# ## What we saw
#
# - A lesion is an 18-connected component of more than 5 voxels; groups follow from shared voxels.
# - The threshold moves lesions between groups; with saturated probabilities it moves few.
# - The class gradient is the sum over lesions. Asking for one lesion takes the sum apart.
#
# ## Limits
#
# - One shared voxel makes a TP. A stricter rule (half of the voxels, say) gives other groups, and other studies use
#   other rules.
# - Lesions that have grown together are one instance, however many an expert would see.
# - Instances are taken apart in the *output*. A lesion's map may still lie on a neighbour: not because maps are mixed,
#   but because the network uses the neighbour as context.
# - TN, the fourth group, has no components: it needs a rule for drawing “lesions” where nothing is.
#   [Chapter 09](09_true_or_false.ipynb) has one.
#
# ## Exercises
#
# **1.** Join the two target patches that d and A meet by one prediction. How many TP are there, and how many target
# patches are found?
#
# <details><summary>Solution</summary>
#
# ```python
# bridge = PREDICTION.copy()
# bridge[6, 4:18] = 0.9
# print(find_lesions(torch.from_numpy(bridge), torch.from_numpy(TARGET), threshold=0.3))
# ```
#
# Expected: `Lesions(1 TP, 1 FP, 1 FN)`. One TP finds two patches. This is why the sensitivity of a network, per lesion,
# must be counted over the target's components, not over TP.
#
# *The usual wrong answer:* “Two TP, because two patches were found.” TP counts what was *predicted*, and there is one
# prediction. TP + FN is then 2, though the target has three patches: TP / (TP + FN) gives 1/2, where 2 of 3 were found.
#
# </details>
#
# **2.** At a threshold of 0.6, what becomes of d and of the patch that it met?
#
# <details><summary>Solution</summary>
#
# ```python
# print(find_lesions(torch.from_numpy(PREDICTION), torch.from_numpy(TARGET), threshold=0.6))
# ```
#
# Expected: `Lesions(1 TP, 1 FP, 2 FN)`. d has probability 0.5 and is gone; its patch becomes an FN.
#
# *The usual wrong answer:* “d becomes an FN.” An FN is a patch of the *target*. d was a prediction; below the threshold
# it is nothing at all, and what is missed is the patch that it met, with other voxels and another size.
#
# </details>
#
# **3.** How much of the absolute gradients, summed over all lesions, comes from the largest lesion alone? Compare with
# its share of the voxels.
#
# <details><summary>Solution</summary>
#
# ```python
# found = lesions.of("TP") + lesions.of("FP")
# totals = {le.number: float(gradient(network, subject.image, le, aggregate="sum").abs().sum()) for le in found}
# print(totals[largest.number] / sum(totals.values()), len(largest) / sum(map(len, found)))
# ```
#
# Expected: two numbers of the same order, and not small. In a sum a lesion speaks with the weight of its size. Measure
# before you believe that “the map of the class” shows the typical lesion.
#
# *The usual wrong answer:* “One lesion among so many, so one part in that many.” That would be so if the class map
# averaged over lesions. It sums over voxels.
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, Scientific Reports 2026,
#   [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335): definitions of lesion and groups, instance-level saliency.
# - Ž. Lesjak and others, Neuroinformatics 2017,
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7): consensus lesions of the open patients.
#
# ## Next
#
# [03 · The gradient by hand](03_gradient_by_hand.ipynb): what one backward pass gives, and how to do it yourself.
