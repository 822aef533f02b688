# %% [markdown]
# # 14 · Uncertain?
#
# **Question.** The network marks a lesion. Had it been trained again, would it mark it, too? And does the map, made
# anew by each network, say more about that than the probability?
#
# **Objectives.** You let five networks of one recipe answer the same question, and see where they part. You measure
# their disagreement on a lesion's outline, on its voxels, on a patient and on the lesion's map. You know what each
# measure cannot see. And you test doubt by what it is for: handing over the lesions that turn out to be false.
#
# **Minutes.** 4 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02, 04 and 09. No download, no patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. One word decides who is looked at: `phantoms` are made on the spot; of the three open
# `patients` the networks have seen 07 and 19 in their training.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ies_helpers as ies

SMALL = os.environ.get("IES_SMALL") == "1"
COHORT = "phantoms"
SUBJECTS = {
    "phantoms": ["demo", "phantom:8", "phantom:2", "phantom:3", "phantom:4"][: 1 if SMALL else 5],
    "patients": [f"openms:patient{n}" for n in ("07", "19", "26")],
}[COHORT]

# %% [markdown]
# ## Five networks of one recipe
#
# The shipped U-Net was trained five times: same patients, same phantoms, same steps; another random start, and other
# patches in another order. Nothing tells which of the five is the right one, so what they disagree about is not known.
# Together they are one network, `unet:ensemble`. It averages their *logits*: so its gradient is the mean of their
# gradients, in the same unit, and every map of this handbook can be made of it.

# %%
network = ies.load_network("unet:ensemble")
members = ies.members_of(network)
[member.name for member in members]

# %% [markdown]
# A subject by its name, in the tests the middle of the brain:

# %%
from dataclasses import replace

from ies_helpers.arrays import Box


def load(name):
    subject = ies.load_subject(name)
    if not SMALL:
        return subject
    size = np.array([96, 128, 96])
    start = (subject.shape - size) // 2
    middle = Box.of(start, start + size)
    return replace(subject, image=subject.image[:, *middle], target=subject.target[middle])


# %% [markdown]
# Five probabilities of one subject, `(M, I, J, K)`, and the lesions of the ensemble. How good is each alone?

# %%
subject = load(SUBJECTS[0])
answers = ies.member_probabilities(network, subject.image)
lesions = ies.find_lesions(network, subject)
alone = [ies.find_lesions(one, subject.target, threshold=network.threshold) for one in answers]
counts = [{group: len(found.of(group)) for group in ("TP", "FP", "FN")} for found in [*alone, lesions]]
pd.DataFrame(counts, index=[*(member.name for member in members), "the ensemble"])

# %% [markdown]
# The five find much the same number of lesions. Are they the same ones? We look at two: the found lesion that they agree
# about best, and the one they agree about least.

# %%
table = ies.lesion_uncertainty(answers, lesions, threshold=network.threshold)
found = table[table["group"].isin(["TP", "FP"])].sort_values("structural")
sure, doubtful = (lesions[int(found["lesion"].iloc[n])] for n in (0, -1))
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.8), layout="constrained")
for ax, lesion in zip(axes, (sure, doubtful), strict=True):
    drawn = {c: one > network.threshold for c, one in zip(COLOURS, answers, strict=True)}
    outlines = {"white": lesion} | {c: mask for c, mask in drawn.items() if mask.any()}
    ies.plot_slice(subject, None, outlines, ax=ax, title=f"lesion {lesion.number}, {lesion.group}")

# %% [markdown]
# Each colour is what one member calls lesion, white is the ensemble's. On the left the outlines lie on top of each other.
# On the right they part: not every member has a lesion here at all, and those that do draw it differently.
#
# ## Doubt of an outline
#
# How far do outlines part? For a lesion $L$ of the ensemble, let each member offer the lesion of its own that overlaps
# $L$ best, and take the overlap as intersection over union (IoU). The **structural uncertainty** of Molchanova and
# others is
#
# $$ 1 - \frac{1}{M} \sum_m \max_{c \in C_m} \text{IoU}(L, c): $$
#
# 0 if all members draw the same, 1 if none has anything there. We count it once by hand, for the doubtful one.

# %%
mask = doubtful.mask(subject.shape).numpy()
best = []
for found_alone in alone:
    theirs = [le.mask(subject.shape).numpy() for le in found_alone if le.group != "FN"]
    best.append(max([(mask & m).sum() / (mask | m).sum() for m in theirs], default=0.0))
row = table[table["lesion"] == doubtful.number].iloc[0]
print(f"best overlaps {np.round(best, 2)}: 1 - mean = {1 - np.mean(best):.3f}, table {row['structural']:.3f}")
assert np.isclose(1 - np.mean(best), row["structural"])

# %% [markdown]
# A member that draws one lesion as two is treated as if it had lost one of them. `structural_all` takes everything of a
# member that touches $L$ as one; where the two differ, members split.
#
# A missed lesion (FN) has no such number. No member may have marked it, so they agree; and an overlap with nothing
# would call that the greatest doubt of all.
#
# ## Doubt of a voxel
#
# The other way begins with voxels. Five probabilities $p_m$, their mean $p$, and the entropy of a yes or no, $h$:
#
# - `entropy_of_mean`, $h(p)$: all that is open;
# - `expected_entropy`, the mean of $h(p_m)$: what each member leaves open by itself;
# - `mutual_information`, the difference: what is open because members differ.
#
# A lesion gets the mean over its voxels. Two members at 0.5 and two members of which one says 0 and the other 1 have
# the same mean, and the same entropy of it. Only the second pair *disagrees*.

# %%
for pair in ((0.5, 0.5), (0.0, 1.0)):
    two = np.stack([np.full(subject.shape, p, dtype=np.float32) for p in pair])
    line = ies.lesion_uncertainty(two, [sure], threshold=0.4).iloc[0]
    print(
        pair,
        {name: round(float(line[name]), 3) for name in ("entropy_of_mean", "expected_entropy", "mutual_information")},
    )

# %% [markdown]
# ## A cheaper question
#
# Five networks cost five trainings. One network can be asked about noisy copies of the image, with the noise that
# SmoothGrad adds. This asks another question: not "would another network say so?" but "would this one say so of another
# scan?" Do they doubt the same lesions?

# %%
from ies_helpers import load_network

one = load_network("unet")
noisy = ies.member_probabilities(one, subject.image, source="noise", draws=len(members), seed=0)
by_noise = ies.lesion_uncertainty(noisy, lesions, threshold=network.threshold)
both = table.assign(noise=by_noise["structural"])[["structural", "noise", "voxels", "probability"]].dropna()
both.corr(method="spearman").round(2)

# %% [markdown]
# READ_NOISE
#
# ## All subjects, and their maps
#
# Now every found lesion of every subject. For some of them, drawn at random, each member also makes its map: the
# gradient of the lesion's mean logit, five times. `map_spread` measures how far the five maps agree, as they are, in
# their unit: the deviation between members as a share of the mean map, and the correlation of pairs.

# %%
MOST = 3 if SMALL else 12


def doubts(subject):
    answers, lesions = ies.member_probabilities(network, subject.image), ies.find_lesions(network, subject)
    rows = ies.lesion_uncertainty(answers, lesions, threshold=network.threshold).assign(subject=subject.name)
    rows[["map_deviation", "map_correlation"]] = np.nan
    rows = rows[rows["group"].isin(["TP", "FP"])].set_index("lesion")
    for group in ("TP", "FP"):
        some = np.random.default_rng(0).permutation([le.number for le in lesions.of(group)])[:MOST]
        for n in some:
            maps = [ies.gradient(m, subject.image, lesions[int(n)], aggregate="mean") for m in members]
            spread = ies.map_spread(maps).table.set_index("channel").loc["all"]
            rows.loc[n, ["map_deviation", "map_correlation"]] = spread[["relative_deviation", "correlation"]].to_numpy()
    return rows.reset_index()


# %% [markdown]
# This takes most of the chapter's time.

# %%
every = pd.concat([doubts(load(name)) for name in SUBJECTS], ignore_index=True)
every.groupby(["subject", "group"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# A row a subject, a column a group. First the outlines and the maps, true lesions beside false ones.

# %%
names = {"structural": "outline: structural", "map_deviation": "map: relative deviation"}
figure = ies.plot_groups(every, names, unit="share", title="What members disagree about, lesion by lesion")

# %% [markdown]
# READ_GROUPS

# %%
known = ["structural", "mutual_information", "probability", "voxels", "map_deviation", "map_correlation"]
every[known].corr(method="spearman").round(2)

# %% [markdown]
# READ_CORRELATIONS
#
# ## What doubt is for
#
# A measure of doubt is good if it lies on the wrong answers. The **error-retention curve** asks just that: hand over the
# most doubtful lesion to an expert, then the next, and so on. A false lesion that is handed over disappears, a true one
# stays. How quickly does the precision of what is marked rise? At the right end nothing is handed over, at the left end
# everything; the higher the curve stays while we come from the left, the better.

# %%
doubt = {"structural": "high", "mutual_information": "high", "probability": "low", "voxels": "low"}
curves = {name: ies.retention_curve(every, name, false_when=side) for name, side in doubt.items()}
figure = ies.plot_retention(curves)

# %% [markdown]
# READ_RETENTION
#
# And the maps? We compare on the lesions that have one, all measures on the same ones.

# %%
mapped = every.dropna(subset=["map_deviation"])
doubt |= {"map_deviation": "high", "map_correlation": "low"}
curves = {name: ies.retention_curve(mapped, name, false_when=side) for name, side in doubt.items()}
rows = [(curve.area, *curve.interval, curve.gain, curve.true, curve.false) for curve in curves.values()]
pd.DataFrame(rows, index=list(curves), columns=["area", "low", "high", "gain", "true", "false"]).round(3)

# %% [markdown]
# `gain` is 0 for a random order and 1 for the best there is. READ_MAPS
#
# ## Where do the maps differ?
#
# A number a lesion hides where. For the doubtful lesion of the beginning, the mean of the five maps beside their
# deviation, both in logits per unit.

# %%
maps = [ies.gradient(member, subject.image, doubtful, aggregate="mean") for member in members]
spread = ies.map_spread(maps)
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
ies.plot_slice(subject, spread.mean, doubtful, ax=axes[0], title="mean of five maps")
ax = ies.plot_slice(subject, spread.deviation, doubtful, ax=axes[1], title="deviation over members", colours="viridis")
spread.table.round(2)

# %% [markdown]
# READ_DEVIATION
#
# ## What we saw
#
# SAW
#
# ## Limits
#
# Five members of one recipe, on the same two patients: what all of them learnt wrongly they agree about, and no measure
# here sees it. Doubt is of the network, not of the patient. Phantoms are not patients; five subjects make wide
# intervals. The ensemble averages logits, the entropies use mean probabilities; a lesion at the threshold can be in
# one and not in the other.
#
# ## Exercises
#
# **1.** How many members are enough? Compare the structural uncertainty of two members with that of all five.
#
# <details><summary>Solution</summary>
#
# ```python
# for count in (2, 3, 4):
#     few = ies.lesion_uncertainty(answers[:count], lesions, threshold=network.threshold)["structural"]
#     print(count, round(few.corr(table["structural"], method="spearman"), 2))
# ```
#
# Expected: the order of lesions is nearer to that of all five with each member more.
#
# </details>
#
# **2.** Is the patient's number the mean of its lesions'? Look at `patient_uncertainty`.
#
# <details><summary>Solution</summary>
#
# ```python
# row = ies.patient_uncertainty(answers, lesions, threshold=network.threshold)
# print(round(row["structural"], 3), round(row["mean_structural"], 3))
# ```
#
# Expected: the first is lower. It is an overlap of volumes, so large lesions, which members agree about, rule it; in the
# second a lesion of six voxels counts as much as the largest.
#
# </details>
#
# **3.** Turn a doubt around: hand over the *surest* lesions first. What does `gain` become, and what would you conclude
# from a gain far below zero?
#
# <details><summary>Solution</summary>
#
# ```python
# print(round(ies.retention_curve(every, "structural", false_when="low").gain, 2))
# ```
#
# Expected: below zero. A measure far below zero is as informative as one far above, but its side must be known *before*
# the data is seen: whoever chooses it afterwards finds a gain in pure chance.
#
# </details>
#
# ## References
#
# - Molchanova N. and others (2024). Structural-based uncertainty in deep learning across anatomical scales: analysis in
#   white matter lesion segmentation. [arXiv 2311.08931](https://arxiv.org/abs/2311.08931). Structural uncertainty,
#   error retention at the scale of lesions.
# - Lakshminarayanan B., Pritzel A., Blundell C. (2017). Simple and scalable predictive uncertainty estimation using
#   deep ensembles. *NeurIPS*. [arXiv 1612.01474](https://arxiv.org/abs/1612.01474).
#
# ## Next
#
# Chapter 12 shows how your own patients get in; `ies uncertainty SUBJECT --network unet:ensemble` asks the same of them.
