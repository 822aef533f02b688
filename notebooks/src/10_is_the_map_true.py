# %% [markdown]
# # 10 · Is the map true?
#
# **Question.** A map is bright on the lesion and dark around it. How would you notice that it is wrong?
#
# **Objectives.** You have seen two wrong maps that look right. You can say what energy, focus and the pointing game
# measure, and name a worthless map that passes each of them. You have tested maps on a network whose one reason you
# know.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 04 to 06 read, and 07 for one curve. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. With `IES_SMALL=1` in the environment the chapter takes fewer draws of noise.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
DRAWS = 2 if os.environ.get("IES_SMALL") == "1" else 8

# %% [markdown]
# We load patient and network, and find the lesions. This time we keep the probability map, because we are going to
# misuse it.

# %%
from ies_helpers import find_lesions, load_network, load_subject, predict

subject, network = load_subject(SUBJECT), load_network("unet")
image, probability = subject.image, predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
print(subject, lesions, sep="\n")

# %% [markdown]
# One lesion goes through the whole chapter: of those found (TP), the one whose size is closest to 100 voxels.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 100))
mask = lesion.mask(subject.shape)
lesion

# %% [markdown]
# ## Two maps
#
# Here are two maps of this lesion, made in ways that people use. The first is a Grad-CAM++. Do not read the code yet;
# we come back to it.

# %%
from ies_helpers import gradcam_pp

first = gradcam_pp(network, image, probability > network.threshold)

# %% [markdown]
# The second is a SmoothGrad. It starts from a stack of gradients, one for each noisy copy of the image, as in chapter
# 04.

# %%
import torch

from ies_helpers import gradient
from ies_helpers.saliency.smoothgrad import noise_sigma, noisy_image

sigma = noise_sigma(image, 0.05)
draws = torch.stack([gradient(network, noisy_image(image, sigma, 0, n), lesion) for n in range(DRAWS)])

# %% [markdown]
# It combines them into one map.

# %%
second = draws.square().sum(dim=0).sqrt() / DRAWS

# %% [markdown]
# We draw both over an axial plane through the lesion, which is outlined. Each panel has its own scale.

# %%
import matplotlib.pyplot as plt

from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
plot_slice(subject, first, lesion, ax=axes[0], title="first", unit="raw value", reach_mm=10)
ax = plot_slice(subject, second, lesion, ax=axes[1], title="second", unit="logit per unit", reach_mm=10)

# %% [markdown]
# Both are warm on the lesion, with a halo a voxel or two wide, and on nothing else; the second follows the outline
# almost voxel by voxel. Either would look fine in a paper. Both are wrong.
#
# ### The first is a map of no lesion in particular
#
# Look at the code now. What the first map explains is not the lesion but *every voxel above the threshold*, the whole
# class. This is what libraries for classification do with a segmentation network. Had we asked about the lesion next
# door, we would have got the same array. We only looked at one corner of it.
#
# Let us make the map of our lesion alone.

# %%
own = gradcam_pp(network, image, lesion)

# %% [markdown]
# How much of each map is near our lesion, within 10 voxels?

# %%
from ies_helpers.measures.removal import surroundings

near = surroundings(lesion, subject.shape, 10)
shares = {name: float(m[0][near].sum() / m.sum()) for name, m in (("the whole class", first), ("our lesion", own))}
for name, share in shares.items():
    print(f"Grad-CAM++ of {name}: {share:.0%} of it within 10 voxels of our lesion")

# %% tags=["check"]
assert shares["the whole class"] < 0.5 < shares["our lesion"]

# %% [markdown]
# And now the whole head. We look down through it and see the largest value along each line of sight.

# %%
outlines = {"0.6": probability > network.threshold, "lime": lesion}
style = {"through": True, "reach_mm": None, "colours": "inferno", "unit": None}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 5), layout="constrained")
plot_slice(subject, first, outlines, ax=axes[0], title="Grad-CAM++ of the whole class", **style)
ax = plot_slice(subject, own, outlines, ax=axes[1], title="Grad-CAM++ of our lesion", **style)

# %% [markdown]
# Green is our lesion, grey is every other that the network found. On the left most lesions glow, and ours is one of
# many; the printed share says how little of the map is ours. On the right only ours does. Nothing in the first figure
# could have told us.
#
# ### The second has lost its sign and its scale
#
# The second map is $\sqrt{\sum_n g_n^2}\,/\,N$, the default of one library, in place of the mean $\sum_n g_n / N$
# (chapter 04). Here is the mean.

# %%
right = draws.mean(dim=0)

# %% [markdown]
# The second map is never negative. So we look at T1, where the mean speaks *against* brightness.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
how = {"channel": "t1", "reach_mm": 10, "unit": "logit per unit"}
plot_slice(subject, second, lesion, ax=axes[0], title="T1, root of the sum of squares", **how)
ax = plot_slice(subject, right, lesion, ax=axes[1], title="T1, mean", **how)

# %% tags=["check"]
assert float(right[1][mask].mean()) < 0 < float(second[1][mask].mean())

# %% [markdown]
# On the left all is warm, as in FLAIR: "brighter here means more lesion", in T1 as well. The mean on the right is
# mostly blue in the lesion: in T1 *darker* means lesion.
#
# That is the sign. And the scale? We make both maps again from fewer draws.

# %%
for n in (1, DRAWS // 2, DRAWS):
    wrong = draws[:n].square().sum(dim=0).sqrt() / n
    print(f"{n} draws: peak of the mean {draws[:n].mean(dim=0).abs().max():.2f}, of the other {wrong.max():.2f}")

# %% [markdown]
# The peak of the wrong map depends on how many draws we paid for. Two lesions explained with different numbers of draws
# cannot be compared by it.
#
# Look at all four maps yourself, slice by slice: the first two by method `gradcam++`, the others by `smoothgrad`. The
# viewer opens at the peak of the first, which need not be at our lesion. Go to T1, where the wrong sign shows.

# %%
from ies_helpers import view

four = {("gradcam++", "whole class"): first, ("gradcam++", "our lesion"): own}
four |= {("smoothgrad", "root of squares"): second, ("smoothgrad", "mean"): right}
view(subject, four, lesion)

# %% [markdown]
# At the lesion nothing but the sign gives either of the two away, and you miss a sign only if you know that it should
# be there. So looking is no test. We need questions that a wrong map answers wrongly. There are three kinds:
#
# 1. *Where does it lie?* Energy, focus, pointing game.
# 2. *Does it depend on the network at all?* A planted cue, random layers.
# 3. *Does the score follow it?* ROAD, deletion, insertion, correlation.
#
# This chapter asks the first, and plants a cue for the second. [Chapter 16](16_what_a_map_depends_on.ipynb) asks the
# rest, and puts all answers side by side.
#
# ## Where does it lie?
#
# With $S$ the map (absolute values) and $M$ the lesion's mask:
#
# $$ \text{energy} = \frac{\sum S M}{\sum S}, \qquad \text{focus} = \frac{\sum S M}{\sum M}, \qquad \text{pointing game:
# is the peak of } S \text{ in } M? $$
#
# We collect maps to judge: good ones, and the two wrong ones.

# %%
maps = {"SmoothGrad": right, "Grad-CAM++": own}
maps |= {"wrong: whole class": first, "wrong: root of squares": second}

# %% [markdown]
# To these we add two *controls* that know nothing of the network: the FLAIR image itself, and the lesion's own mask
# painted white.

# %%
maps |= {"control: FLAIR": image[:1], "control: the mask": mask[None].float()}

# %% [markdown]
# We ask each of them the three questions.

# %%
import pandas as pd

from ies_helpers import average_saliency_focus, pointing_game, proportional_energy

location = pd.DataFrame(index=list(maps))
location["energy"] = [proportional_energy(m, mask) for m in maps.values()]
location["focus"] = [average_saliency_focus(m, mask) for m in maps.values()]
location["peak in the lesion"] = [pointing_game(m, mask) for m in maps.values()]
location.round(3)

# %% tags=["check"]
assert location["energy"].idxmax() == "control: the mask"

# %% [markdown]
# Energy catches the map of the whole class: only a sliver of it lies in our lesion. It hardly minds the lost sign. And
# the best energy of all, a perfect 1, goes to the mask, which says nothing about the network.
#
# Energy and focus measure whether a map lies where *we* believe the lesion to be. They are worth reporting. But a
# network that looks elsewhere should get a low energy, and a true map of it must have one.
#
# Two remarks on the numbers. Focus has the unit of each map: compare it within one method only. And the energy of a
# SmoothGrad is small though its peak is at the lesion: about half of it lies in the ten voxels around, about a quarter
# in a faint field beyond.
#
# ## A cue that we planted
#
# To test maps against a known truth we need a network whose reasons we know. `planted_cue` gives us one: it calls a
# voxel lesion if FLAIR is bright *six voxels further along the first axis*, and looks at nothing else. Its scan is
# noise with two bright cubes: a "lesion", and the cue beside it. A map that points at the lesion is wrong, however
# pretty it is.

# %%
from ies_helpers.teaching import planted_cue

cue = planted_cue(steps=6)

# %% [markdown]
# Three methods explain the lesion.

# %%
from ies_helpers import smoothgrad

claims = {
    "gradient": gradient(cue.network, cue.image, cue.lesion, aggregate="max"),
    "SmoothGrad": smoothgrad(cue.network, cue.image, cue.lesion, draws=2),
    "Grad-CAM++": gradcam_pp(cue.network, cue.image, cue.lesion),
}

# %% [markdown]
# A control joins them: the lesion's mask again.

# %%
claims["control: the mask"] = surroundings(cue.lesion, (32, 32, 32), 0)[None].float()

# %% [markdown]
# What share of each map's absolute values lies where?

# %%
truth = pd.DataFrame({name: cue.shares(m) for name, m in claims.items()}).T
truth.round(3)

# %% tags=["check"]
assert truth.loc["SmoothGrad", "cue"] > 0.99 > 0.01 > truth.loc["Grad-CAM++", "cue"]

# %% [markdown]
# Gradient and SmoothGrad put everything on the cue. Grad-CAM++ puts everything on the lesion, exactly where nobody
# looks: it reads a layer, and at a layer close to the output only the cells at the lesion itself have a gradient
# (chapter 06). Had we measured energy, the wrong answer would have won.
#
# There is another witness, which needs no gradient. The perilesional curve of chapter 07 hides everything but the
# lesion and its near surroundings, and watches the score while more and more comes into sight.

# %%
from ies_helpers import perilesional_curve

curve = perilesional_curve(cue.network, cue.image, cue.lesion, distances=range(11), by="mm")
curve.set_index("distance_mm")[["score", "seen"]].T.round(2)

# %% tags=["check"]
assert not curve["seen"][curve["distance_mm"] < 4].any()
assert curve["seen"][curve["distance_mm"] >= 4].all()

# %% [markdown]
# As long as the cue is hidden, the score stays at one half, which is "no idea". It rises while the three layers of the
# cue come into sight, at 4, 5 and 6 voxels from the lesion's border, and is flat from there on. Gradient and hiding
# agree on the place, and neither looked at the other.
#
# ## What we saw
#
# - A map of the whole class, cut out around a lesion, looks like a map of the lesion. So does a map without sign and
#   scale.
# - Energy and focus ask whether a map lies where *we* look. A mask has the best energy there is.
# - With a planted cue, whose place is known, gradients and hiding point at the cue, and Grad-CAM++ at the lesion.
# - Each measure so far has a worthless map that passes it. Put controls beside your maps.
#
# ## Limits
#
# - One lesion, one small network, a synthetic patient.
# - Energy, focus and the pointing game need a mask, and take it for the truth.
# - The planted network is one line of mathematics, and its Grad-CAM++ reads the only layer that it has. That a method
#   finds the cue there does not prove that it finds the reason in a U-Net.
#
# ## Exercises
#
# **1.** Which lesion's map is the map of the whole class? Compute the energy of `first` for every found lesion of more
# than 50 voxels, and add them up.
#
# <details><summary>Solution</summary>
#
# ```python
# found = [le for le in lesions if le.group != "FN" and len(le) > 50]
# energies = {le.number: proportional_energy(first, le.mask(subject.shape)) for le in found}
# print({number: round(share, 2) for number, share in energies.items()}, round(sum(energies.values()), 2))
# ```
#
# Expected: every lesion has a part, mostly the large ones the larger, and together they have most of the map. No
# lesion has half.
#
# *The usual wrong answer:* “Ours: it is bright there, and dark around it.” It is bright at every lesion that you would
# care to cut out.
#
# </details>
#
# **2.** Move the cue: `planted_cue(steps=9)`. At which distances does the perilesional curve rise, and where does it
# end? Predict before you run it.
#
# <details><summary>Solution</summary>
#
# ```python
# far = planted_cue(steps=9)
# curve = perilesional_curve(far.network, far.image, far.lesion, distances=range(11), by="mm")
# print(curve.set_index("distance_mm")["score"].round(2).to_dict())
# ```
#
# Expected: 0.5 up to 6, a rise at 7, 8 and 9, and the same value at 9 and 10.
#
# *The usual wrong answer:* “It jumps at 9, where the cue is.” Each lesion voxel has its own cue voxel, nine further
# along. Distances count from the lesion's border, so the layer of the cue nearest to it is only seven voxels away.
#
# </details>
#
# **3.** A colleague makes the second map with four times as many draws, to be on the safe side. What happens to its
# peak?
#
# <details><summary>Solution</summary>
#
# ```python
# for n in (1, DRAWS):
#     peak = float(draws[:n].square().sum(dim=0).sqrt().max() / n)
#     print(f"{n} draws: peak {peak:.2f}, times the root of their number {peak * n ** 0.5:.2f}")
# ```
#
# Expected: the peak falls, while the number behind it stays of the same order. The sum of $N$ squares grows like $N$,
# its root like $\sqrt N$, and we divide by $N$: the map shrinks like $1/\sqrt N$. Four times the draws halve it.
#
# *The usual wrong answer:* “It only gets more precise, as any average does.” Under the root stands a sum, not an
# average. Divide that sum by $N$, under the root, and the map has the size of a gradient again, though not its sign.
#
# </details>
#
# ## References
#
# - Adebayo J. and others (2018). Sanity checks for saliency maps. *NeurIPS*.
#   [arXiv 1810.03292](https://arxiv.org/abs/1810.03292). Why looking is no test.
# - Chattopadhyay A. and others (2018). Grad-CAM++: generalized gradient-based visual explanations for deep
#   convolutional networks. [arXiv 1710.11063](https://arxiv.org/abs/1710.11063). The method of the first map.
#
# ## Next
#
# [Chapter 16](16_what_a_map_depends_on.ipynb) makes the network's layers random, takes voxels away and puts them back,
# and sets all measures side by side.
