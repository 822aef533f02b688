# %% [markdown]
# # 00 · Start: why this spot?
#
# **Question.** A segmentation network marks a few voxels of a brain scan as a lesion. Why did it call *this* spot a lesion?
#
# **Objectives.** You go from nothing to one saliency map of one lesion. You read the map aloud: what is orange, what is blue, in which image, in which unit. You change one word and see a real patient.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU. The first run in a fresh place also installs the package.
#
# **Needs.** Nothing but this notebook. The synthetic patient and the network come with the package. Some Python; no knowledge of saliency.
#
# Nothing in this handbook is for clinical use. The shipped network was trained to teach, and a map is no diagnosis.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## Four steps
#
# **Who.** The next cell names the subject. `demo` is a synthetic brain with painted lesions; no person was scanned for it. `DRAWS` is explained at the fourth step.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26", a real patient (about 8 MB, downloaded once)
DRAWS = 2 if os.environ.get("IES_SMALL") else 8

# %% [markdown]
# A subject is one image with two channels, FLAIR and T1, on one grid. With it may come a *target*: the voxels that an expert (here: the painter) calls lesion.

# %%
from ies_helpers import find_lesions, load_network, load_subject, plot_lesions, plot_saliency, predict, smoothgrad

subject = load_subject(SUBJECT)
subject

# %% [markdown]
# **What the network sees.** `predict` gives each voxel a probability of being lesion. `find_lesions` cuts that volume at the network's threshold, numbers each connected piece, and compares it with the target:
#
# | group | the network says | the target says |
# |---|---|---|
# | TP, true positive | lesion | lesion, in at least one voxel |
# | FP, false positive | lesion | nothing there |
# | FN, false negative | nothing there | lesion |

# %%
network = load_network("unet")
probability = predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
lesions

# %% [markdown]
# Each lesion is a row of a table, and the table is a pandas frame. Here are the first few rows.

# %%
lesions.table().round(2).head(8)

# %% [markdown]
# **Which one.** We take a true positive of about 40 voxels, whatever its number: large enough to see, small enough to be quick.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 40))
figure = plot_lesions(subject, lesions, at=lesion, title=f"{subject.name}, planes through lesion {lesion.number}")
lesion

# %% [markdown]
# Read it aloud: FLAIR is above, T1 below. The three planes meet in the chosen lesion. Each outline is one lesion with its number; the colour says its group. Blue ones were found and are real, orange ones were found and are not, yellow ones were missed. Lesions are brighter than their surroundings in FLAIR, and in T1 darker than white matter, often only slightly.
#
# **Why it sees it.** The network's score for our lesion is a number for each of its voxels: the *logit*. The gradient of a logit with respect to the image says, for every voxel of FLAIR and of T1, how much the score would rise if that voxel were a little brighter. SmoothGrad takes this gradient on several copies of the image with a little noise on each (`DRAWS` copies) and averages. Of the lesion's voxels, `max` keeps the strongest gradient at each place.

# %%
saliency = smoothgrad(network, subject.image, lesion, aggregate="max", draws=DRAWS, seed=0)
figure = plot_saliency(subject, saliency, lesion)

# %% [markdown]
# Read it aloud: the white outline is the lesion, and the planes reach 15 mm beyond it. The unit is logit per unit of z-scored intensity. *Orange to red*: brighter here would raise the score of this lesion. *Blue*: brighter here would lower it. No colour: the score hardly depends on this voxel. The strong colours sit on the lesion and within a few millimetres of it; other lesions nearby, however bright, have little colour or none. FLAIR and T1 share one colour scale, so the paler row mattered less, voxel for voxel.
#
# Figures persuade, numbers can be checked. So we also print what the figure shows: in each modality the peak, and the mean inside the lesion, at its rim, and a little farther out.

# %%
from scipy.ndimage import distance_transform_edt

inside = lesion.mask(subject.shape).numpy()
mm = distance_transform_edt(~inside, sampling=subject.spacing)
rings = {"inside": inside, "up to 1 mm": (mm > 0) & (mm <= 1), "1 to 6 mm": (mm > 1) & (mm <= 6)}
print("in logit per unit of z-scored intensity")
for name, values in zip(subject.channels, saliency.numpy(), strict=True):
    peak = values.flat[abs(values).argmax()]
    means = ", ".join(f"{ring} {values[where].mean():+.3f}" for ring, where in rings.items())
    print(f"{name:5} peak {peak:+.2f}; mean {means}")

# %% [markdown]
# In FLAIR the mean inside the lesion is positive: *brighter in here* speaks for a lesion. So does the rim, less strongly. Farther out little is left, and what is left tends to be negative, the faint blue ring of the figure: the network wants the surroundings darker than the spot. The paper reports the same for real patients, positive inside and negative around. In T1 a negative mean inside says that *darker* in here speaks for a lesion, and that is how lesions look in T1.
#
# The same map, to move through. Click into the picture, then turn the wheel or use the arrow keys; the value under the crosshair stands below it. In the book,
# without a kernel, this is a picture; run the chapter to move it.

# %%
from ies_helpers import view

view(subject, {("smoothgrad", "max"): {lesion.number: saliency}}, lesions)

# %% [markdown]
# In every slice that cuts the lesion, the strongest colour lies in it or at its border. Last, the reading as a check that fails if it is wrong:

# %%
flair = {ring: saliency[0].numpy()[where].mean() for ring, where in rings.items()}
assert flair["inside"] > flair["up to 1 mm"] > 0, "brighter in the lesion raises its score, most of all inside"
assert flair["1 to 6 mm"] < 0.1 * flair["inside"], "around it little or nothing speaks for it"

# %% [markdown]
# ## A real patient, by one word
#
# Change the word in the first cell to `SUBJECT = "openms:patient26"` and run all cells again. This fetches FLAIR, T1 and expert lesions of one open patient (Lesjak et al. 2017, CC-BY), who was in no training set of the shipped network. Your own patient is a folder with one FLAIR and one T1 on the same grid: `SUBJECT = "path/to/folder"`. Without a target, all lesions are in the group `unknown`; write that instead of `TP`.
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
# - Four steps lead to a map: load a subject, predict, choose a lesion, explain it.
# - The map belongs to *one* lesion, is signed, and has a unit.
# - For this lesion, brightness inside it raised the score.
#
# ## Limits
#
# - A gradient says what a *small* change would do. It does not say what the network would do without the lesion.
# - With so few draws the map is rough. The paper takes 50; chapter 04 shows what that changes.
# - One map of one lesion is an anecdote. Whether such maps are true is a question of its own, and a convincing figure does not answer it.
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
# Expected: yes, the printed mean is above 0. A wrong lesion is wrong for the same reason: a spot brighter than its surroundings. The map shows what the network went by, not whether it was right.
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
# Expected: a number above 1, so the mean map is weaker. The mean of many gradients is never larger than the largest of them. Chapter 05 shows what decides the factor.
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, *Instance-level quantitative saliency in multiple sclerosis lesion segmentation*, Scientific Reports 2026, [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9), [arXiv 2406.09335](https://arxiv.org/abs/2406.09335).
# - D. Smilkov and others, *SmoothGrad: removing noise by adding noise*, 2017, [arXiv 1706.03825](https://arxiv.org/abs/1706.03825).
# - Ž. Lesjak and others, *A novel public MR image dataset of multiple sclerosis patients with lesion segmentations based on multi-rater consensus*, Neuroinformatics 2017, [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7).
#
# ## Next
#
# [01 · The patient and the network](01_patient_and_network.ipynb): what goes in, and how far the network can look.
