# %% [markdown]
# # 13 · The paper's figures
#
# **Question.** Which figures of the paper can be made with open data and the shipped networks, and what do they then
# say?
#
# **Objectives.** You make Figures 1 and 2 (one periventricular lesion, its maps for nnU-Net and Swin UNETR, here also
# the U-Net's) and Figure 3 (how much tissue around a lesion is needed), cell by cell. You read a table of what is
# comparable and what is not, before anybody else asks.
#
# **Minutes.** 4 on two CPU cores with the embedded subject; patient 26 about ten times as long. Not measured on a GPU.
#
# **Needs.** Chapters 04, 07 and 08. About 5 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One parameter decides what the figures are made of: `demo`, the embedded synthetic patient, or `openms:patient26`, the
# real one that no shipped network was trained on. `AGGREGATE` is `max`, as in the paper; `mean` is faster, one pass for
# all voxels.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT, AGGREGATE = "demo", "max"
NAMES = ("unet", "nnunet") if SMALL else ("unet", "nnunet", "swin_unetr")

# %% [markdown]
# ## Figures 1 and 2: one lesion, its maps
#
# The paper shows a periventricular lesion in a coronal plane: FLAIR, then the maps of FLAIR and MPRAGE, for nnU-Net
# (Figure 1) and Swin UNETR (Figure 2), 50 draws each. Our patient, and our networks:

# %%
from ies_helpers import load_network, load_subject

subject = load_subject(SUBJECT)
networks = {name: load_network(name) for name in NAMES}

# %% [markdown]
# Where the tests run this chapter, it looks at the middle of the brain, and through smaller windows.

# %%
from dataclasses import replace

from ies_helpers.teaching import middle_of

if SMALL:
    subject = middle_of(subject, (64, 96, 64))
    networks = {name: replace(network, window=64) for name, network in networks.items()}

# %% [markdown]
# What does each network find?

# %%
from ies_helpers import find_lesions

found = {name: find_lesions(network, subject) for name, network in networks.items()}
print(*(f"{name}: {lesions}" for name, lesions in found.items()), sep="\n")

# %% [markdown]
# We want a lesion of 20 to 150 voxels that all networks found: one of the U-Net's that shares a voxel with a true
# positive of each.

# %%
true = [found[name].label_map(subject.shape, "TP") > 0 for name in NAMES]
common = found["unet"].select("TP:20-150")
common = [le for le in common if all(bool(mask[le.mask(subject.shape)].any()) for mask in true)]

# %% [markdown]
# Of these we take the one nearest to the middle of the brain.

# %%
import numpy as np

middle = np.argwhere(subject.image[0].numpy() != 0).mean(axis=0)
lesion = min(common, key=lambda le: float(np.linalg.norm(le.voxels.mean(axis=0) - middle)))
lesion

# %% [markdown]
# The maps, each network seen through its windows, of one draw to keep the time short; the pattern is there after a few,
# and chapter 04 says how sure it is. We explain U-Net and nnU-Net by all voxels of the lesion. The Swin UNETR's maximum
# is costly even so (chapter 08), and it gets only four voxels of the lesion, with a dense pass for each in each window.
# To take all voxels in every network, set `FEWER` to `()`; that takes some minutes more.

# %%
FEWER = NAMES if SMALL else ("swin_unetr",)
some = lesion.voxels[np.linspace(0, len(lesion) - 1, 2 if SMALL else 4).astype(int)]

# %% [markdown]
# One function makes the map of a network.

# %%
from ies_helpers import smoothgrad


def map_of(name):
    """A network's map through its windows, of the whole lesion or of some of its voxels."""
    few = name in FEWER and AGGREGATE == "max"
    voxels, accuracy = (some, "exact") if few else (lesion.voxels, "auto")
    network = networks[name].explained_through("windows")
    return smoothgrad(network, subject.image, voxels, aggregate=AGGREGATE, draws=1, accuracy=accuracy)


# %% [markdown]
# And `plot_maps` draws them one below the other.

# %%
from ies_helpers import plot_maps

maps = {name: map_of(name) for name in NAMES}
figure = plot_maps(subject, maps, lesion)

# %% [markdown]
# One row for each network; the second row is the paper's Figure 1, the third its Figure 2, the first an addition. White
# is the lesion's outline. In all rows FLAIR is positive (orange to red) inside the lesion, as in the paper. Close to
# the border signs mix, and two to five voxels out it is slightly negative (blue) on average, weaker than the paper
# reports. T1 is mostly negative inside: a dark spot in T1 speaks for a lesion.
#
# Compare colours within a row only. With `AGGREGATE = "mean"` values are several times smaller, by at most as many
# times as the lesion has voxels, since they are divided by their number, and the maps are smoother (chapter 05).
#
# Slice by slice, a network at a time:

# %%
from ies_helpers import view

view(subject, {(name, AGGREGATE): m for name, m in maps.items()}, lesion)

# %% [markdown]
# The paper's plane is the coronal one; the other two show as well how close to the border the colours end.
#
# Now in numbers. We need two places: the lesion itself, and the shell from two to five voxels beyond it.

# %%
from scipy import ndimage

inside = lesion.mask(subject.shape).numpy()
away = ndimage.distance_transform_edt(~inside)
shell = (away > 2) & (away <= 5)

# %% [markdown]
# For each network the mean of the map in these places, and the share of its absolute values that FLAIR has:

# %%
import pandas as pd

rows = {}
for name, values in maps.items():
    flair, t1 = values.numpy()
    rows[name] = {"FLAIR inside": flair[inside].mean(), "FLAIR 2 to 5": flair[shell].mean()}
    rows[name] |= {"T1 inside": t1[inside].mean(), "share of FLAIR": abs(flair).sum() / float(values.abs().sum())}
pd.DataFrame(rows).T.round(4)

# %% [markdown]
# `FLAIR inside` should be positive and `T1 inside` negative, and FLAIR should count more than half: these are the three
# statements of the paper about modalities that we can hold a single lesion against. `FLAIR 2 to 5` is the mean of the
# shell.
#
# ## Figure 3: how much tissue around
#
# The paper's experiment of chapter 07 for all networks: the number of lesions seen, and the mean score with one
# standard deviation, against the distance. The paper takes true positives of 91 to 119 voxels from 35 patients. We take
# those true positives of the U-Net that come closest to that.

# %%
chosen = sorted(found["unet"].of("TP"), key=lambda le: abs(len(le) - 105))[: 1 if SMALL else 2]
distances = (0, 7, 20) if SMALL else (0, 2, 4, 7, 10, 15, 20, 30)

# %% [markdown]
# As in chapter 07, we write beside each curve whose it is.

# %%
from ies_helpers import perilesional_curve


def curve_of(network, lesion, fill="zero"):
    """One lesion's curve, a row for each distance, and whose it is."""
    how = {"distances": distances, "fill": fill, "affine": subject.affine}
    curve = perilesional_curve(network, subject.image, lesion, **how)
    about = {"subject": subject.name, "lesion": lesion.number, "group": lesion.group, "network": network.name}
    return curve.assign(**about, fill=fill, volume_mm3=lesion.volume_mm3)


# %% [markdown]
# All networks, all chosen lesions:

# %%
from ies_helpers import plot_perilesional

curves = [curve_of(network, le) for network in networks.values() for le in chosen]
curves = pd.concat(curves, ignore_index=True)
figure = plot_perilesional(curves)

# %% [markdown]
# Left and middle are the paper's two panels, right each lesion by itself. In the paper the mean score climbs and is
# flat from about 7 mm for the U-Net and 12 to 15 mm for Swin UNETR. Ours do not line up like that, and with two lesions
# they could not. (Where two networks see all lesions at every distance, their lines on the left lie on each other.)
#
# From which distance on does a lesion keep 95 % of its score?

# %%
from ies_helpers import summarise_curves

summary = summarise_curves(curves)
summary.pivot_table(index="lesion", columns="network", values="keeps_mm", dropna=False)

# %% [markdown]
# An empty entry (NaN) means that the score is not there at the last distance: not yet reached, or reached and lost
# again. The curves tell which: one still climbs, the other has come down.
#
# ## The peaks of four groups
#
# The paper compares the largest values of SmoothGrad maps: they fall from true to false positives, to missed lesions,
# to true negatives. It does not say what a true negative is; ours is a true lesion's shape moved into healthy white
# matter. We ask for eight of them; a shape that fits nowhere in healthy white matter is left out.

# %%
from ies_helpers import true_negatives

controls = true_negatives(subject, found["unet"], found["unet"].of("TP")[:8])

# %% [markdown]
# So that size plays no part, we explain each lesion by the `max` of six of its voxels (chapter 09 says why that
# matters).

# %%
from ies_helpers import peak


def peaks_of(le):
    """Largest values of one lesion's map, by modality."""
    six = le.voxels[np.linspace(0, len(le) - 1, 6).astype(int)]
    top = peak(smoothgrad(networks["unet"], subject.image, six, aggregate="max", draws=1 if SMALL else 2))
    return {"subject": subject.name, "group": le.group, "flair": top["flair_max"], "t1": top["t1_max"]}


# %% [markdown]
# All lesions that the U-Net found or missed, and the controls:

# %%
from ies_helpers import plot_groups

peaks = pd.DataFrame([peaks_of(le) for le in [*found["unet"], *controls]])
figure = plot_groups(peaks, {"flair": "FLAIR, max of six voxels", "t1": "T1, max of six voxels"})

# %% [markdown]
# A dot is a lesion, the thick line a median; the axis says how many there are (of the eight true negatives the largest
# shapes found no place). In FLAIR the true negatives of this subject lie lowest, as in the paper, but in T1 they lie
# highest. True, false and missed lesions overlap, and no step leads down from one to the next. One subject proves
# nothing: chapter 09 takes several, with intervals, and there false lesions rather stand above. FLAIR counts more than
# T1 in all groups, as in the paper.
#
# ## Paper and ours
#
# | | paper | here | comparable? |
# |---|---|---|---|
# | networks | U-Net 32 to 512, nnU-Net, Swin UNETR 24 | half the U-Net's width, the same nnU-Net, Swin UNETR 12 | architecture yes, training no |
# | training | hundreds of patients of one hospital | 64 phantoms and two patients; two networks taught by the third | no |
# | test | 35 patients, not public | one synthetic or one open patient | no |
# | sign inside the lesion: FLAIR positive | yes | printed above | direction |
# | FLAIR counts more than T1 | yes | printed above | direction |
# | context: flat from 7 mm (U-Net), 12 to 15 mm (Swin UNETR) | over many lesions | two lesions, a zero fill | no; and see chapter 07 on the fill |
# | peaks: TP > FP > FN > TN | of lesions explained whole | TN lowest in FLAIR, highest in T1; no order of the others | no: another network, and size is taken out |
# | axis of Figure 3 | 34 dilations stretched to end at 35 | each where it is | differs by up to 1 mm |
#
# ## What we saw
#
# - A few lines make the paper's maps for any patient and network, exact or to an error that is stated.
# - Signs and shares agree in direction. Distances do not carry over to other networks, and depend on the fill. Of the
#   order of peaks we found little again.
#
# ## Limits
#
# A figure of one lesion is an illustration. Nothing here confirms or refutes the paper's statistics. For that you need
# its patients, or many of your own: `ies explain` and `ies perilesional` run over them and go on after an interruption.
#
# ## Exercises
#
# **1.** How much of the maximum is left in the mean? Compare them for the U-Net.
#
# <details><summary>Solution</summary>
#
# ```python
# both = {}
# for aggregate in ("max", "mean"):
#     both[aggregate] = smoothgrad(networks["unet"], subject.image, lesion.voxels, aggregate=aggregate, draws=2)
# print(f"{float(both['max'].abs().max() / both['mean'].abs().max()):.0f} times the mean's peak")
# figure = plot_maps(subject, both, lesion)
# ```
#
# Expected: a peak several times higher, at most as many times as the lesion has voxels.
#
# *The usual wrong answer:* “As many times higher as the lesion has voxels, since the mean divides by that.” It would be
# so if only one voxel had a gradient at the place of the peak. Several neighbours have one there, mostly of the same
# sign, and the mean adds them up before it divides.
#
# </details>
#
# **2.** Repeat the context experiment with the blurred fill. Does the order of the networks stay?
#
# <details><summary>Solution</summary>
#
# ```python
# for name, network in networks.items():
#     print(name, curve_of(network, chosen[0], fill="blurred")["score"].round(2).tolist())
# ```
#
# Expected: higher scores from the first distances on, but an order all the same. In the demo Swin UNETR is near 1 at
# once, nnU-Net follows, and the U-Net stays below both until the longest distances.
#
# *The usual wrong answer:* “The order stays, so it shows which network needs the most tissue.” The distances have
# changed with the fill, and a number that does so is not the network's alone. One lesion of one patient would be too
# little in any case.
#
# </details>
#
# **3.** *The project: which of four sees what it should?* Somebody handed you four copies of the U-Net. One is `sound`.
# One is `deaf`: its first layer no longer hears T1. One is `tired`: the weights of its deepest level are zero. And one
# has a `cue`: it also listens to one FLAIR voxel some millimetres away. Three of them find about the same lesions. One
# finds clearly fewer, and more false ones; from the counts alone you cannot tell what is wrong with it.
#
# ```python
# from ies_helpers.teaching import accuse, suspects
#
# four = suspects(networks["unet"], seed=1)
# accuse({"A": "cue", "B": "sound", "C": "deaf", "D": "tired"}, seed=1)  # a guess
# ```
#
# `accuse` answers with one sentence for each network that you named wrongly, and an empty list when all are right. Use
# whatever the handbook taught you. Do not read the code of `suspects`: it knows.
#
# <details><summary>Solution</summary>
#
# The maps tell. A deaf network's map of T1 is zero. A tired one's reaches less far. A cue is a second, shifted lesion
# in FLAIR, and of the two that are left it has the stronger values more than six voxels away. We take `max`, which
# keeps one voxel's cue where the mean would thin it out, and only some voxels, because a network with a side entrance
# is explained by a slower way.
#
# ```python
# from ies_helpers.teaching import accuse, suspects
#
# four, rows = suspects(networks["unet"], seed=1), {}
# some, away = lesion.voxels[:8], np.ones(subject.shape)
# away[tuple(some.T)] = 0
# away = ndimage.distance_transform_edt(away)
# for letter, network in four.items():
#     flair, t1 = smoothgrad(network, subject.image, some, aggregate="max", draws=2).abs().numpy()
#     rows[letter] = {"T1": t1.max(), "reach": away[flair > 0].max(), "far": flair[away > 6].max() / flair.max()}
# clues = pd.DataFrame(rows).T
# print(clues.round(3))
# answer = {clues["T1"].idxmin(): "deaf", clues["reach"].idxmin(): "tired"}
# sound, cue = clues.drop(index=list(answer))["far"].sort_values().index
# answer |= {sound: "sound", cue: "cue"}
# print(answer, accuse(answer, seed=1))
# ```
#
# Expected: an empty list behind the answer.
#
# *The usual wrong answer:* “The network that finds the most lesions is the sound one.” Counting tells that one of the
# four is poor, and hardly which of the other three is sound: a network can be right for a wrong reason, and that is why
# we explain it.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Figures 1 to 3.
#
# ## Next
#
# [Chapter 14](14_uncertain.ipynb) asks how sure a network is of a lesion. Your own patients:
# `ies explain --flair F.nii.gz --t1 T.nii.gz --out mine`.
