# %% [markdown]
# # 11 · From a lesion to structures and groups
#
# **Question.** A map has a million voxels. Where does it lie, in words: in the lesion, beside it, in white matter, in
# another lesion? And what do all lesions, all patients, all classes of a network have in common?
#
# **Objectives.** You measure a map in structures by two numbers, mass and mean, and know which question each answers.
# You bring structures of your own. You average maps of lesions and of patients, and check on a group with known truth
# what such an average can say. You read a published table of dependencies between the classes of another network.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 04 and 05 read. One small table (0.3 MB) is downloaded; without a network a made-up one takes its
# place.

# %% tags=["setup"]
# setup

# %% [markdown]
# With `IES_SMALL=1` in the environment, as in the tests, this chapter takes fewer draws, lesions and patients.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS = 1 if SMALL else 4

# %% [markdown]
# The patient, the network, the lesions:

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject("demo"), load_network("unet")
lesions = find_lesions(network, subject)
lesions

# %% [markdown]
# We explain them all (in a test run, three of each group).

# %%
chosen = [le for group in ("TP", "FP", "FN") for le in lesions.of(group)[: 3 if SMALL else None]]

# %% [markdown]
# Each lesion gets a SmoothGrad map. We take the mean over a lesion's voxels, which is quick. `maps_of` gives us one map
# after the other, and makes the noisy images only once.

# %%
from ies_helpers.teaching import maps_of

maps = {le.number: m for le, m in maps_of(network, subject.image, chosen, aggregate="mean", draws=DRAWS)}
print(f"{len(maps)} maps of {tuple(maps[chosen[0].number].shape)}")

# %% [markdown]
# ## One lesion, six places
#
# Take one map $A$ and cut the head into structures $j$: the lesion itself, shells around it, the rest. With
# $\varphi(A)$ the part of the signed map that we ask about (its absolute values, its positive or its negative values,
# added over FLAIR and T1), two numbers say how much of it lies in $j$:
#
# $$ \text{mass}_j = \frac{\sum_{v \in j} \varphi(A)_v}{\sum_v \varphi(A)_v}, \qquad
# \text{mean}_j = \frac{1}{|j|} \sum_{v \in j} \varphi(A)_v $$
#
# They are those of Agg2Exp (Chrabaszcz and others), where $A$ explains a class. Nothing in them needs a class: ours
# explains a lesion. Let us take a true one of about 100 voxels, and the absolute values of its map.

# %%
lesion = min((le for le in chosen if le.group == "TP"), key=lambda le: abs(len(le) - 100))
saliency, inside = maps[lesion.number], lesion.mask(subject.shape)
strength = saliency.abs().sum(dim=0, dtype=float)
lesion

# %% [markdown]
# By hand, for the lesion's own voxels:

# %%
mass = float(strength[inside].sum() / strength.sum())
print(f"mass {mass:.4f}, mean {float(strength[inside].mean()):.4f}")

# %% [markdown]
# `lesion_table` measures the same in all places at once: the lesion, shells around it, the rest. Distances are true
# millimetres from the lesion's border.

# %%
import numpy as np

from ies_helpers.measures.regions import lesion_table

table = lesion_table(subject, lesions, {lesion.number: saliency})
shown = table[table["part"] == "abs"].set_index("structure")[["voxels", "mass", "mean"]]

# %% tags=["check"]
assert np.isclose(table["mass"][0], mass)
assert np.allclose(table.groupby("part")["mass"].sum(), 1)

# %% [markdown]
# To read the means more easily we divide them by the lesion's.

# %%
shown["mean"] /= shown["mean"].iloc[0]
shown.rename(columns={"mean": "mean, lesion = 1"}).round({"mass": 3, "mean, lesion = 1": 5})

# %% [markdown]
# Read both columns. By *mass* most of the map lies outside the lesion, and a good part of it far away. By *mean*, per
# voxel, the lesion leads by a wide margin, and the map falls with every shell, to almost nothing far away. Both are
# true. A faint value times a million voxels is a large mass: a gradient of a network with a wide view is nowhere quite
# zero, and noise draws add to it. So if you report that "only so many percent of the map lie in the lesion", report
# also how many percent of the *voxels* do.
#
# The absolute values mix two things, and the signs tell them apart:

# %%
signed = table[table["part"] != "abs"].pivot(index="structure", columns="part", values="mass")
signed = signed.loc[table["structure"].unique()]
signed.round(3)

# %% tags=["check"]
assert signed["positive"]["this lesion"] > signed["negative"]["this lesion"]
assert signed["positive"]["2-5 mm"] < signed["negative"]["2-5 mm"]

# %% [markdown]
# Each column adds up to 1. The lesion has a larger share of the positive values ("brighter would mean more lesion")
# than of the negative ones; in the shell from 2 to 5 mm it is the other way round: there the network wants darkness. It
# compares a spot with its surroundings.
#
# ## By tissue, and by masks of your own
#
# The second way to cut: white matter, grey matter, ventricles, other CSF. `brain_tissues` finds them by nilearn's MNI
# template and the patient's own intensities. It is a rough segmentation.

# %%
import torch

from ies_helpers.measures.regions import brain_tissues

tissues = brain_tissues(subject)
labels = sum(n * torch.as_tensor(mask) for n, mask in enumerate(tissues.values(), 1))[None]

# %% [markdown]
# Look before you trust. A colour for each tissue:

# %%
from matplotlib.colors import ListedColormap, Normalize

colours = ListedColormap(["#E8E4D8", "#8C8C8C", "#0072B2", "#56B4E9"])
style = {"colours": colours, "scale": Normalize(0.5, 4.5), "threshold": 0.2, "unit": None}

# %% [markdown]
# We lay them over T1.

# %%
import matplotlib.pyplot as plt

from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 2, figsize=(9, 5.4), layout="constrained")
where = {"at": tissues["ventricles"], "channel": "t1"}
plot_slice(subject, ax=axes[0], **where)
ax = plot_slice(subject, labels, ax=axes[1], **style, **where)

# %% [markdown]
# T1 in the plane with most of the ventricles, and over it the tissues: pale white matter, grey cortex and deep nuclei,
# dark blue ventricles, light blue other fluid. Compare the outlines with the scan on the left: the borders of white and
# grey matter are followed, the rim of the brain has somewhat too much fluid and too little cortex, and the grey seam
# along the ventricles is partial volume and lesion, no grey matter. (Below, lesions are taken out first.)
#
# Where it matters, bring your own: any NIfTI label image in the patient's space. We make one on a coarser grid, as an
# atlas might come: 1 in one half of the head, 2 in the other.

# %%
half = np.zeros([n // 2 for n in subject.shape], dtype=np.int16)
half[: len(half) // 2], half[len(half) // 2 :] = 1, 2

# %% [markdown]
# It goes into a file, with an affine that says that its voxels are twice as large.

# %%
from pathlib import Path
from tempfile import mkdtemp

import nibabel

path = Path(mkdtemp()) / "sides.nii.gz"
coarse = subject.affine @ np.diag([2.0, 2, 2, 1])
nibabel.save(nibabel.Nifti1Image(half, coarse), path)

# %% [markdown]
# And back again. `read_structures` has something to say about the grid, and we listen.

# %%
import warnings

from ies_helpers import read_structures

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    sides = read_structures(path, subject, {1: "right", 2: "left"})
print(told[0].message)

# %% [markdown]
# The labels were resampled to the nearest voxel, and we were told. A file whose grid is another is not silently laid
# over the scan voxel by voxel, which is how maps end up in the wrong hemisphere.
#
# Structures are masks, so we can join them. `structure_table` measures any map in any masks.

# %%
from ies_helpers import structure_table

sides["both"] = sides["left"] | sides["right"]
by_side = structure_table({lesion.label: saliency}, sides, parts=("abs",))
by_side[["structure", "voxels", "mass", "mean", "reason"]].round(4)

# %% tags=["check"]
assert np.isclose(by_side["mass"][2], by_side["mass"][:2].sum())

# %% [markdown]
# The map of one lesion lies on the lesion's side. (What is missing to 1 lies in the last row of voxels, which the
# coarse file does not reach.) The column `reason` would say why a number is missing: a structure without voxels, a map
# without negative values. There is no 0 that means "not known".
#
# ## A patient: all lesions
#
# Now all lesions at once. Each gets structures of its own: its shells, and the *other* lesions.

# %%
from ies_helpers.figures.charts import plot_lesion_structures

table = lesion_table(subject, lesions, maps, tissues=tissues)
figure = plot_lesion_structures(table)

# %% [markdown]
# One bar for each lesion, cut by distance; in each group the lesions with the largest share in themselves come first.
# The bars vary a lot. The red part grows with the size of a lesion as much as with anything the network thinks, since a
# mass counts voxels. Missed lesions (FN) are explained, too: what would make the network see them?
#
# The same maps, cut by tissue:

# %%
figure = plot_lesion_structures(table, by="tissue")

# %% tags=["check"]
assert table.query("structure == 'other lesions' and part == 'abs'")["mass"].mean() < 0.1

# %% [markdown]
# By tissue, most of the mass is in white matter, where most of the surroundings are. The pink share of *other lesions*
# is thin. It must be: together they have few voxels, and a mass counts voxels. By the way, only an instance map can
# answer this question at all. A map of the whole class cannot tell "this" from "other".
#
# So we divide: each structure's average mass by group, over its share of the grid's voxels. 1 is what it would get if
# the map were spread evenly.

# %%
rows = table[(table["part"] == "abs") & (table["by"] == "tissue")]
sums = rows.pivot_table(["mass", "voxels"], "structure", "group", sort=False)
times = sums["mass"] / (sums["voxels"] / np.prod(subject.shape))
times.dropna().round(2)

# %% tags=["check"]
assert (times.loc["this lesion"] > 20).all()

# %% [markdown]
# The lesion itself is far ahead. Other lesions get about as much per voxel as the white matter in which they lie, in
# one group somewhat more: their share was thin because they are small. Whether they matter to the score, a map cannot
# say: take them out (`remove_lesion`, chapter 07) and look. With a handful of lesions of one synthetic patient,
# differences between the groups are no finding. Chapter 09 shows how to test them.
#
# ## A group: lesions laid on top of each other
#
# Every paper shows figures of single lesions. What do the lesions have in common? We cut a cube of each map around the
# middle of its lesion, turned to right, anterior and superior.

# %%
from ies_helpers.measures.groupmaps import aligned_at_centre

true = [le for le in lesions.of("TP") if le.number in maps]
cubes = [aligned_at_centre(maps[le.number], le, subject.affine, reach_mm=12) for le in true]

# %% [markdown]
# `group_map` stacks the cubes. At each voxel it gives the mean, the t (mean over its standard error), and the share of
# lesions with a positive value less that with a negative one.

# %%
from ies_helpers import group_map
from ies_helpers.measures.groupmaps import centred_affine

group = group_map(cubes, centred_affine(12))

# %% [markdown]
# The three of them, and some of the single maps:

# %%
from ies_helpers.figures.lesions import plot_group_map

names = [f"lesion {le.number}" for le in true]
figure = plot_group_map(group, cubes, names, title=f"FLAIR, {len(cubes)} TP")

# %% [markdown]
# Three planes through the middle: above the mean, then t, then the sign; below, the first eight of the lesions on one
# common scale (all of them are in the means). The mean shows a warm centre in a faint blue surround. But look at the
# single maps: the smallest lesions have by far the strongest (the mean over few voxels is not thinned out), the large
# ones are hardly to be seen, and the mean is mostly that of a few small lesions. Sign and t do not care about scale.
# They say how *many* agree. Away from the middle the sign flickers between plus and minus, as it must where nothing is
# in common: with few maps even chance reaches one half. A centre that is warm in all three rows is what the lesions
# share.
#
# To open a group map in any viewer, or to compare two groups, we write it to files: the mean, t, the sign, and how many
# maps reach each voxel. Zero millimetres is the middle of the lesion.

# %%
from ies_helpers.measures.groupmaps import save_group_map

for file in save_group_map(path.parent, "tp", group):
    image = nibabel.load(file)
    print(file.name, image.shape, "from", image.affine[:3, 3], "mm")

# %% [markdown]
# ### What a group map can know: a group with known truth
#
# Is a group map true? As in chapter 10, let us ask where we know the answer. ClinicaDL, software for the classification
# of brain scans, has *trivial* data for that: images of two classes, of which one has the values lowered in a known
# mask. Here it is 200 images of noise, a cube of 4³ voxels lowered by 40 % in every second, and a logistic regression
# trained on them.

# %%
from ies_helpers.teaching import trivial_group

known = trivial_group(200)
print(f"{known.correct:.0%} sorted rightly; the mask has {float(known.mask.double().mean()):.1%} of the voxels")

# %% [markdown]
# We explain ten of the images with atrophy.

# %%
changed = [image for image, atrophied in zip(known.images, known.atrophied, strict=True) if atrophied][:10]

# %% [markdown]
# A classifier has one output for each class and no lesion; "the voxels of the lesion" are then any single voxel.
# `one_class` puts any class of any network in the lesion's place; for the healthy node the question is "what would have
# to change to become healthy?".

# %%
from ies_helpers import gradient, one_class


def node_map(number):
    """The mean map of one output over the changed images."""
    node = one_class(known.network, number)
    return group_map((gradient(node, image, known.voxel) for image in changed), np.eye(4)).mean


# %% [markdown]
# Both outputs, explained on the *same* images:

# %%
nodes = {"atrophied": node_map(1), "healthy": node_map(0)}
truth = structure_table(nodes, {"changed mask": known.mask, "elsewhere": ~known.mask})
truth = truth.set_index(["explained", "structure", "part"])[["voxels", "mass", "mean"]]
truth.round(4)

# %% tags=["check"]
assert np.allclose(nodes["healthy"], -nodes["atrophied"], atol=1e-6)
assert truth["mean"]["atrophied", "changed mask", "negative"] > 10 * truth["mean"]["atrophied", "elsewhere", "negative"]

# %% [markdown]
# By mean the mask is more than ten times as strong as elsewhere, and negative for "atrophied". For how many of its
# voxels?

# %%
against = float((nodes["atrophied"][0][known.mask] < 0).double().mean())
print(f"voxels of the mask where a higher value speaks against atrophy: {against:.0%}")

# %% [markdown]
# The map of the opposite node is the same with the opposite sign. It holds no second opinion: if you show both as two
# findings, you count one twice. By *mass* a good part lies elsewhere, again: the regression fitted some of the noise,
# and nearly all voxels are elsewhere. So even a perfect explanation of a classifier that makes no mistakes does not put
# its whole mass on the truth.
#
# Our own network has two classes as well. What does the background say, at the lesion's voxels?

# %%
for_lesion = gradient(network, subject.image, lesion, aggregate="mean")
for_background = gradient(one_class(network, 0), subject.image, lesion, aggregate="mean")
r = np.corrcoef(for_lesion.flatten(), for_background.flatten())[0, 1]
print(f"correlation of the two maps: {r:.3f}")

# %% tags=["check"]
assert r < -0.9

# %% [markdown]
# Nearly the same with the other sign, though nothing in a softmax forces the two logits to be opposite: training does.
#
# ### Patients in one space
#
# Over *patients* we align brains, not lesions. Phantoms and the open patients lie in MNI space. We make one map for
# each patient, the mean over its largest true lesions, on a grid of 2 mm. The lesions are those of the target, so we
# give `find_lesions` the target in place of a prediction.

# %%
from ies_helpers.measures.groupmaps import in_mni


def patient_map(name):
    """The mean map of a patient's largest true lesions, in MNI space."""
    patient = load_subject(name)
    drawn = find_lesions(patient.target.float(), patient.target, threshold=0.5)
    largest = sorted(drawn, key=len)[-2 if SMALL else -5 :]
    some = [gradient(network, patient.image, le, aggregate="mean") for le in largest]
    return in_mni(sum(some) / len(some), patient.affine)


# %% [markdown]
# Three patients (two in a test run), and their group map:

# %%
from ies_helpers.measures.groupmaps import MNI_AFFINE

names = ("demo", "phantom:1") if SMALL else ("demo", "phantom:1", "phantom:2")
one_a_patient = [patient_map(name) for name in names]
patients = group_map(one_a_patient, MNI_AFFINE)

# %% [markdown]
# The planes go through the strongest voxel of the mean.

# %%
strongest = int(patients.mean[0].nan_to_num().abs().argmax())
at = np.unravel_index(strongest, tuple(patients.count.shape))

# %% [markdown]
# In grey the template's tissues:

# %%
from ies_helpers.teaching import mni_picture

picture = {"at": at, "background": mni_picture(), "title": f"FLAIR, {len(names)} patients in MNI space"}
figure = plot_group_map(patients, one_a_patient, names, **picture)

# %% [markdown]
# The mean shows single lesions of single patients: they lie in different places, and hardly a voxel is shared. The rows
# t and sign show boxes of noise: the fields of view of the gradients, inside which chance makes some values agree. With
# two or three patients t has no meaning at all. For organs that everybody has in the same place, such a map of many
# patients says something. For scattered lesions, align at the lesions, or count by structure as above. (The open
# patients were moved into MNI space but not stretched; `template_affine` matches the size of their brains.)
#
# ## Many classes: a published table
#
# Agg2Exp explains a network that segments 17 classes in CT scans of the chest, and publishes for 32 patients the mass
# and mean of each class's map in each class: 17 × 17 × 2 columns, one row for each patient. `wide_table` makes such
# columns of any tidy table. Those of our patient, by distance, with lesions in the place of classes:

# %%
from ies_helpers.measures.regions import wide_table

wide = wide_table(table[table["by"] == "distance"])
print(wide.shape, *wide.columns[:3], sep="\n")

# %% tags=["check"]
assert np.isclose(wide[f"{lesion.label}_explanation_in_this lesion_mass"][0], mass)

# %% [markdown]
# Now we fetch theirs. Where there is no way to the Internet we get a made-up one, and are told; then everything below
# only demonstrates the tools, and says nothing about organs.

# %%
from ies_helpers.measures.agg2exp import explained
from ies_helpers.teaching import dependency_table

ct, source = dependency_table()
classes = explained(ct)
print(f"{source}: {len(ct)} patients, {len(classes)} classes")

# %% [markdown]
# The means over patients, class by class:

# %%
from ies_helpers.figures.charts import plot_matrix
from ies_helpers.measures.agg2exp import dependency_matrix

matrix = dependency_matrix(ct)
figure = plot_matrix(matrix, title=source)
print("the heart's mass:", matrix.loc["heart", ["heart", "background"]].round(3).to_dict())

# %% tags=["check"]
assert np.allclose(matrix.sum(axis="columns"), 1, atol=1e-3)

# %% [markdown]
# A row is what is explained, a column where its map lies, in percent; each row adds up to 100; the class in itself is
# framed. In the published table the first column is dark throughout: most of *every* map lies in the background. That
# is once more the lesson of this chapter's first table. Background has most of the voxels. Before you say that the
# network "looks at the background", divide by volume, which is what the columns `mean` are for.
#
# Without the background, for two classes:

# %%
from ies_helpers.figures.charts import plot_boxes

figure = plot_boxes(ct, ["heart", "ribs"])

# %% [markdown]
# The spread over patients, sorted; green is the class itself. For a compact organ such as the heart the class itself
# tends to lead, and neighbours follow. In the published table thin, scattered ribs are beaten by the organs that they
# surround.
#
# The strongest dependencies make a graph: for each class two arrows to where, itself and background aside, its map
# lies.

# %%
from ies_helpers.figures.charts import plot_graph
from ies_helpers.measures.agg2exp import strongest_dependencies

edges = strongest_dependencies(matrix, 2)
figure = plot_graph(edges, title=f"Two strongest dependencies of each class, {source}")
edges.head(5).round(3)

# %% [markdown]
# An arrow goes from what is explained to where its map lies. Many arrows between two neighbours are plausible anatomy;
# an arrow to a large organ may again be volume. In the published table one arrow stands out, from the thyroid gland to
# a lobe of the lung. Is it anatomy, an artefact of how the scans are cut, or a few patients? The table cannot tell, but
# it says where to look.
#
# ## Patients unlike the others
#
# If the maps of a class usually lie in certain places, then a patient whose map lies elsewhere deserves a look: a bad
# scan, a rare anatomy, a failed segmentation. An isolation forest on the masses of each class gives a score, low for
# odd ones.

# %%
from ies_helpers.figures.charts import plot_outliers
from ies_helpers.measures.agg2exp import outliers

found = outliers(ct)
figure = plot_outliers(found)
title = figure.suptitle(source)

# %% [markdown]
# On the left there is a point for each patient, the mean over the classes' forests, on the right one for each class of
# each patient. Red is a score below 0: on the right that is what a forest calls an outlier.
#
# Does the score know something about the quality of the segmentation? Spearman's correlation with Dice, class by class:

# %%
from ies_helpers.measures.agg2exp import dice_correlation

correlation = dice_correlation(found).set_index("explained")
correlation[["patients", "score_rho", "score_p", "own_mass_rho"]].round(3)

# %% [markdown]
# In the published table several coefficients are positive: odd maps go with somewhat worse segmentations. Three
# cautions. The forest was fitted to the same patients that it judges, since no training table is published. There are
# as many P values as classes, uncorrected. And the patient of the lowest Dice need not be an outlier: find it on the
# left.
#
# ## What we saw
#
# - Mass counts voxels, mean does not. By mass most of a map lies outside the lesion, by mean the lesion leads by far.
# - Positive and negative parts lie differently: the lesion has about three times as large a share of the positive part
#   as of the negative, the shell from 2 to 5 mm has less of it. Most of either lies outside the lesion.
# - Structures of your own come in by NIfTI files; another grid is resampled, and you are told.
# - Lesions aligned at their middles share a centre. Strong maps rule the mean; they do not rule sign and t.
# - In a group with known truth the mask leads by mean, and the opposite node is the same map with the opposite sign.
# - Another network's table reads the same way: most mass in the background, neighbours next, odd patients to look at.
#
# ## Limits
#
# - Tissues by template are rough, and need a brain in MNI space. Lesions are taken out first; what they touch is not.
# - We used the mean map over a lesion's voxels throughout; the maximum (chapter 05) has other masses.
# - A gradient's faint far field holds a large part of the mass. More draws do not take it away: from 1 to 16 of them
#   the share beyond 10 mm rather grew.
# - Aligned lesions are neither turned nor scaled. A centre is shared by all shapes, an edge is not.
# - t maps here have no correction for the number of voxels. They are pictures, not tests.
# - The published table stands for one network and one method, on 32 patients.
#
# ## Exercises
#
# **1.** Divide by volume. For each row of `matrix`, who leads if masses are replaced by the published `mean` columns?
#
# <details><summary>Solution</summary>
#
# The simulated table has no means, so we fall back on masses there.
#
# ```python
# import pandas as pd
#
# kind = "mean" if f"{classes[0]}_explanation_in_{classes[0]}_mean" in ct else "mass"
# values = [[ct[f"{a}_explanation_in_{b}_{kind}"].mean() for b in classes] for a in classes]
# per_voxel = pd.DataFrame(values, index=classes, columns=classes)
# print(kind, per_voxel.idxmax(axis="columns").to_string(), sep="\n")
# ```
#
# Expected: in the published table most classes now lead their own rows, and the background leads none.
#
# *The usual wrong answer:* “The background still leads: most of every map lies there, the matrix says so.” The matrix
# adds up, and the background has most of the voxels. Divided by their number, its share leads no row.
#
# </details>
#
# **2.** Does the mass in the lesion itself depend on its size? Correlate them over all lesions by rank, and do the same
# for the mean.
#
# <details><summary>Solution</summary>
#
# ```python
# own = table[(table["structure"] == "this lesion") & (table["part"] == "abs") & (table["by"] == "distance")]
# print(own[["voxels", "mass", "mean"]].corr("spearman")["voxels"].round(2))
# ```
#
# Expected: mass goes up with size, mean goes down.
#
# *The usual wrong answer:* “The mass goes up, so the network looks more at large lesions, and is surer of them.” By the
# same right the mean would say the opposite. Both follow from counting: a larger lesion holds more voxels of its own
# map, and the mean over its voxels is thinned out by their number. Neither says how sure the network is.
#
# </details>
#
# **3.** Take the known truth away: `trivial_group(200, atrophy=0)`. What is left of the mask?
#
# <details><summary>Solution</summary>
#
# ```python
# nothing = trivial_group(200, atrophy=0.0)
# map_of_noise = gradient(nothing.network, nothing.images[1], nothing.voxel)
# print(structure_table({"nothing": map_of_noise}, {"mask": nothing.mask}, parts=("abs",))["mass"].round(3).tolist())
# print(f"share of the voxels {float(nothing.mask.double().mean()):.3f}, sorted rightly {nothing.correct:.0%}")
# ```
#
# Expected: the mask has about as much mass as voxels. The classifier still sorts its own training images, by heart.
#
# *The usual wrong answer:* “With nothing to find, the classifier guesses, and its map is empty.” It found something all
# right: the noise of its training images. A map shows what a network uses, and never that this means anything. That the
# network is right says nothing about why.
#
# </details>
#
# ## References
#
# - Chrabaszcz M. and others (2025). Aggregated attributions for explanatory analysis of 3D segmentation models. *WACV*.
#   [arXiv 2407.16653](https://arxiv.org/abs/2407.16653). Mass and mean, the table, its outliers.
# - Thibeau-Sutre E. and others (2022). ClinicaDL: an open-source deep learning software for reproducible
#   neuroimaging processing. *Computer Methods and Programs in Biomedicine*.
#   [doi 10.1016/j.cmpb.2022.106818](https://doi.org/10.1016/j.cmpb.2022.106818). Trivial data, group maps.
# - Liu F. T., Ting K. M., Zhou Z.-H. (2008). Isolation forest. *ICDM*.
#   [doi 10.1109/ICDM.2008.17](https://doi.org/10.1109/ICDM.2008.17).
# - Fonov V. and others (2011). Unbiased average age-appropriate atlases for pediatric studies. *NeuroImage*.
#   [doi 10.1016/j.neuroimage.2010.07.033](https://doi.org/10.1016/j.neuroimage.2010.07.033). The template.
#
# ## Next
#
# [Chapter 12](12_own_data_and_cohorts.ipynb) takes your own patients, and many of them.
