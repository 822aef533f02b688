# %% [markdown]
# # 00 · Start: why this spot?
#
# **Question.** A segmentation network marks a few voxels of a brain scan as a lesion. Why did it call *this* spot a
# lesion?
#
# **Objectives.** You go from nothing to one saliency map of one lesion. You can read the map: what is orange, what is
# blue, in which image, in which unit. You change one word and see a real patient.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU. The first run in a fresh place also installs the package.
#
# **Needs.** Nothing but this notebook. The synthetic patient and the network come with the package. Some Python; no
# knowledge of saliency.
#
# Nothing in this handbook is for clinical use. The shipped network was trained for teaching, and a map is not a
# diagnosis.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## Four steps
#
# **Who.** First we name the subject. `demo` is a synthetic brain with painted lesions; no person was scanned for it.
# (We come to `DRAWS` in the fourth step. `IES_SMALL=1` makes the chapter quicker, for tests.)

# %%
import os

SUBJECT = "demo"  # or "openms:patient26", a real patient (about 8 MB, downloaded once)
DRAWS = 2 if os.environ.get("IES_SMALL") == "1" else 8

# %% [markdown]
# A subject is one image with two channels, FLAIR and T1, on the same grid. It may come with a *target*: the voxels that
# an expert (here, the painter) calls lesion.

# %%
from ies_helpers import load_subject

subject = load_subject(SUBJECT)
subject

# %% [markdown]
# **What the network sees.** Next we load the network.

# %%
from ies_helpers import load_network

network = load_network("unet")

# %% [markdown]
# `find_lesions` shows the network the scan and gets a probability of being lesion for each voxel. It cuts that volume
# at the network's threshold, numbers each connected piece, and compares the pieces with the target:
#
# | group | the network says | the target says |
# |---|---|---|
# | TP, true positive | lesion | lesion, in at least one voxel |
# | FP, false positive | lesion | nothing there |
# | FN, false negative | nothing there | lesion |

# %%
from ies_helpers import find_lesions

lesions = find_lesions(network, subject)
lesions

# %% [markdown]
# Each lesion is a row of a table, and the table is a pandas frame. Here are its first rows.

# %%
lesions.table().round(2).head(8)

# %% [markdown]
# **Which one.** We pick a true positive of about 40 voxels, whatever its number: large enough to see, small enough to
# be quick.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 40))
lesion

# %% [markdown]
# Where is it? `plot_lesions` cuts the brain in three planes that meet in our lesion.

# %%
from ies_helpers import plot_lesions

title = f"{subject.name}, planes through lesion {lesion.number}"
figure = plot_lesions(subject, lesions, at=lesion, title=title)

# %% [markdown]
# FLAIR is above, T1 below. Each outline is one lesion with its number, and its colour says its group: blue lesions were
# found and are real, orange ones were found and are not, yellow ones were missed. Lesions are brighter than their
# surroundings in FLAIR; in T1 they are darker than white matter, often only slightly.
#
# **Why it sees it.** The network gives our lesion a score: a number for each of its voxels, the *logit*. The gradient
# of a logit with respect to the image tells us, for every voxel of FLAIR and of T1, how much the score would rise if
# that voxel were a little brighter. SmoothGrad takes this gradient on several copies of the image (`DRAWS` of them),
# each with a little noise of its own, and averages. A lesion has many voxels, and so many gradients; `max` keeps the
# strongest of them at each place.

# %%
from ies_helpers import smoothgrad

saliency = smoothgrad(network, subject.image, lesion, aggregate="max", draws=DRAWS, seed=0)

# %% [markdown]
# And here is the map.

# %%
from ies_helpers import plot_saliency

figure = plot_saliency(subject, saliency, lesion)

# %% [markdown]
# The white outline is the lesion, and the planes reach 15 mm beyond it. The unit is logit per unit of z-scored
# intensity. *Orange to red*: brighter here would raise the score of this lesion. *Blue*: brighter here would lower it.
# No colour: the score hardly depends on this voxel. The strong colours sit on the lesion and within a few millimetres
# of it; other lesions nearby, however bright, have little colour or none. FLAIR and T1 share one colour scale, so the
# paler row mattered less, voxel for voxel.
#
# Figures persuade; numbers can be checked. Let us check three regions: inside the lesion, at its rim, and a little
# farther out.

# %%
from scipy.ndimage import distance_transform_edt

inside = lesion.mask(subject.shape).numpy()
mm = distance_transform_edt(~inside, sampling=subject.spacing)
rings = {"inside": inside, "up to 1 mm": (mm > 0) & (mm <= 1), "1 to 6 mm": (mm > 1) & (mm <= 6)}

# %% [markdown]
# In each region we take the mean of the map, for both modalities.

# %%
import pandas as pd

means = {ring: saliency.numpy()[:, where].mean(axis=1) for ring, where in rings.items()}
means = pd.DataFrame(means, index=subject.channels)
means.round(3)

# %% tags=["check"]
assert means["inside"]["flair"] > means["up to 1 mm"]["flair"] > 0, "brighter in the lesion raises its score"
assert means["1 to 6 mm"]["flair"] < 0.1 * means["inside"]["flair"], "around it little or nothing speaks for it"

# %% [markdown]
# In FLAIR the mean inside the lesion is positive: *brighter in here* speaks for a lesion. So does the rim, less
# strongly. Farther out little is left, and what is left tends to be negative. That is the faint blue ring of the
# figure: the network wants the surroundings darker than the spot. The paper reports the same for real patients,
# positive inside and negative around. In T1 a negative mean inside says that *darker* in here speaks for a lesion, and
# that is how lesions look in T1.
#
# We also want the peaks: the value farthest from zero, in each modality.

# %%
for name, values in zip(subject.channels, saliency, strict=True):
    print(f"{name:5} peak {values.flatten()[values.abs().argmax()]:+.2f} logit per unit of z-scored intensity")

# %% [markdown]
# Now the same map to move through. Click into the picture, then turn the wheel or use the arrow keys; the value under
# the crosshair stands below it. (The book has no kernel and shows a still picture: run the chapter to move it.)

# %%
from ies_helpers import view

view(subject, {("smoothgrad", "max"): {lesion.number: saliency}}, lesions)

# %% [markdown]
# In every slice that cuts the lesion, the strongest colour lies in it or at its border.
#
# ## A real patient, by one word
#
# Change the word in the first cell to `SUBJECT = "openms:patient26"` and run all cells again. This fetches FLAIR, T1
# and expert lesions of one open patient (Lesjak et al. 2017, CC-BY), who was in no training set of the shipped network.
# For a patient of your own, give a folder with one FLAIR and one T1 on the same grid: `SUBJECT = "path/to/folder"`.
# Without a target, all lesions are in the group `unknown`; write that instead of `TP`.
#
# ## What the handbook holds
#
# | chapter | its question |
# |---|---|
# | 01 | What goes into the network, and how far can it look? |
# | 02 | What is *a* lesion, and why not explain the whole class? |
# | 03 | What is the gradient of one lesion, by hand? |
# | 04 | Why add noise, and how much, how often? |
# | 05 | Many voxels, one map: mean or max? |
# | 06 | What does Grad-CAM++ show, and what does pooling spoil? |
# | 07 | How much surrounding tissue does a network need? |
# | 08 | Do three networks have the same reason? |
# | 09 | Do maps tell a true lesion from a false one? |
# | 10 | Is the map true? |
# | 11 | Where does a map lie, and what do lesions, patients and classes have in common? |
# | 12 | How do I do all this with my own patients? |
# | 13 | Which of the paper's figures can be made with open data? |
#
# ## What we saw
#
# - Four steps lead to a map: load a subject, find its lesions, choose one, explain it.
# - The map belongs to *one* lesion, is signed, and has a unit.
# - For this lesion, brightness inside it raised the score.
#
# ## Limits
#
# - A gradient says what a *small* change would do. It does not say what the network would do without the lesion.
# - With so few draws the map is rough. The paper takes 50; chapter 04 shows what that changes.
# - One map of one lesion is an anecdote. Whether such maps are true is a question of its own, and a convincing figure
#   does not answer it.
# - The demo is synthetic. It is made to resemble patients, not to replace them.
#
# ## Exercises
#
# **1.** Explain a false positive instead. Is its map positive inside, too?
#
# <details><summary>Solution</summary>
#
# ```python
# wrong = min(lesions.of("FP"), key=lambda le: abs(len(le) - 20))
# wrong_map = smoothgrad(network, subject.image, wrong, draws=DRAWS)
# figure = plot_saliency(subject, wrong_map, wrong)
# print(wrong_map[0][wrong.mask(subject.shape)].mean())
# ```
#
# Expected: yes, the printed mean is above 0. A wrong lesion is wrong for the same reason: a spot brighter than its
# surroundings. The map shows what the network went by, not whether it was right.
#
# *The usual wrong answer:* “No, there is nothing there, so the map must be blank or negative.” That takes the map for a
# second opinion about the scan. It only explains the first one: the network did give these voxels a high score, and
# something in the image made it do so.
#
# </details>
#
# **2.** What changes if you ask for `aggregate="mean"`?
#
# <details><summary>Solution</summary>
#
# ```python
# average = smoothgrad(network, subject.image, lesion, aggregate="mean", draws=DRAWS)
# print(saliency.abs().max() / average.abs().max())
# ```
#
# Expected: a number above 1, so the mean map is weaker. The mean of many gradients is never larger than the largest of
# them. Chapter 05 shows what decides the factor.
#
# *The usual wrong answer:* “Only the noise changes, since an average is smoother.” The draws are averaged in both maps.
# `aggregate` says how the gradients of the lesion's *voxels* become one, and that is another question.
#
# </details>
#
# **3.** In FLAIR the map is about zero at a bright lesion a centimetre away. Does the network not see that lesion?
# Explain it, and look at its own map at its own place.
#
# <details><summary>Solution</summary>
#
# ```python
# far = [le for le in lesions.of("TP") if mm[tuple(le.voxels.T)].min() > 10]
# other = min(far, key=lambda le: abs(len(le) - 40))
# own = smoothgrad(network, subject.image, other, aggregate="max", draws=DRAWS)
# for whose, values in (("our lesion's", saliency), ("its own", own)):
#     print(f"{whose} map on lesion {other.number}: {values[0][tuple(other.voxels.T)].abs().mean():.4f}")
# ```
#
# Expected: the second number is many times the first. The network sees the other lesion well, and says so when it is
# asked about that one.
#
# *The usual wrong answer:* “No colour there, so the network missed it.” A map answers for one lesion only. What is
# without colour does not matter *for this lesion's score*; it may decide another one.
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, *Instance-level quantitative saliency in multiple sclerosis lesion segmentation*, Scientific
#   Reports 2026, [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335).
# - D. Smilkov and others, *SmoothGrad: removing noise by adding noise*, 2017,
#   [arXiv 1706.03825](https://arxiv.org/abs/1706.03825).
# - Ž. Lesjak and others, *A novel public MR image dataset of multiple sclerosis patients with lesion segmentations
#   based on multi-rater consensus*, Neuroinformatics 2017,
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7).
#
# ## Next
#
# [01 · The patient and the network](01_patient_and_network.ipynb): what goes in, and how far the network can look.
