# %% [markdown]
# # 10 · Is the map true?
#
# **Question.** A map is bright on the lesion and dark around it. How would you notice that it is wrong?
#
# **Objectives.** You have seen wrong maps that look right. You can say what each measure asks (where the map lies,
# whether it depends on the network, whether the score follows it) and name a worthless map that passes it. You can run
# the randomisation test, ROAD, deletion and insertion for one lesion, and read their figures.
#
# **Minutes.** 2 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 04 to 06 read. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. With `IES_SMALL=1` in the environment this chapter takes fewer draws and steps.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ies_helpers as ies
from ies_helpers import find_lesions, gradcam_pp, gradient, load_network, load_subject, predict, smoothgrad

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT = "demo"  # or "openms:patient26"
DRAWS, STEPS = (2, 10) if SMALL else (8, 20)

# %% [markdown]
# One lesion goes through the whole chapter: of the found ones (TP) the one whose size is closest to 100 voxels.

# %%
subject, network = load_subject(SUBJECT), load_network("unet")
image, probability = subject.image, predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 100))
mask = lesion.mask(subject.shape)
print(subject, lesions, lesion, sep="\n")

# %% [markdown]
# ## Two maps
#
# Two maps of this lesion, made in ways that are in use. The first is a Grad-CAM++, the second a SmoothGrad. Do not
# read the code for now; look at the figure below it.

# %%
from ies_helpers.saliency.smoothgrad import noise_sigma, noisy_image

sigma = noise_sigma(image, 0.05)
first = gradcam_pp(network, image, probability > network.threshold)
draws = torch.stack([gradient(network, noisy_image(image, sigma, 0, n), lesion) for n in range(DRAWS)])
second = draws.square().sum(dim=0).sqrt() / DRAWS

# %% [markdown]
# We draw them over an axial plane through the lesion, which is outlined. Each panel has its own scale.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
ies.plot_slice(subject, first, lesion, ax=axes[0], title="first", unit="raw value", reach_mm=10)
ax = ies.plot_slice(subject, second, lesion, ax=axes[1], title="second", unit="logit per unit", reach_mm=10)

# %% [markdown]
# Both are warm on the lesion, with a halo a voxel or two wide, and on nothing else; the second follows the outline
# almost voxel by voxel. One could put either into a paper. Both are wrong.
#
# ### The first is a map of no lesion in particular
#
# Look at the code now: what the first map explains is not the lesion but *every voxel above the threshold*, the whole
# class. This is what libraries for classification do with a segmentation network. Had we asked about the lesion next
# door, we would have got the same array. We only looked at one corner of it.

# %%
from ies_helpers.measures.removal import surroundings

near = surroundings(lesion, subject.shape, 10)
own = gradcam_pp(network, image, lesion)
outlines = {"0.6": probability > network.threshold, "lime": lesion}
style = {"through": True, "reach_mm": None, "colours": "inferno", "unit": None}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 5), layout="constrained")
for ax, values, name in zip(axes, (first, own), ("of the whole class", "of our lesion"), strict=True):
    ies.plot_slice(subject, values, outlines, ax=ax, title=f"Grad-CAM++ {name}", **style)
    print(f"{name}: {float(values[0][near].sum() / values.sum()):.0%} of the map within 10 voxels of our lesion")
assert float(first[0][near].sum() / first.sum()) < 0.5 < float(own[0][near].sum() / own.sum())

# %% [markdown]
# We look from above through the head and see the largest value along each line of sight. Green is our lesion, grey
# every other that the network found. On the left most lesions glow, and ours is one of many; the printed share says
# how little of the map is ours. On the right only ours does. Nothing in the first picture could have told.
#
# ### The second has lost its sign and its scale
#
# The second map is $\sqrt{\sum_n g_n^2}\,/\,N$, one library's default, in place of the mean $\sum_n g_n / N$ (chapter
# 04). It is never negative, so we look at T1, where the mean speaks *against* brightness.

# %%
right = draws.mean(dim=0)
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
how = {"channel": "t1", "reach_mm": 10, "unit": "logit per unit"}
ies.plot_slice(subject, second, lesion, ax=axes[0], title="T1, root of the sum of squares", **how)
ies.plot_slice(subject, right, lesion, ax=axes[1], title="T1, mean", **how)
for n in (1, DRAWS // 2, DRAWS):
    wrong = draws[:n].square().sum(dim=0).sqrt() / n
    print(f"{n} draws: peak of the mean {draws[:n].mean(dim=0).abs().max():.2f}, of the other {wrong.max():.2f}")
assert float(right[1][mask].mean()) < 0 < float(second[1][mask].mean())

# %% [markdown]
# On the left all is warm, as in FLAIR: "brighter here means more lesion", in T1 as well. The mean on the right is
# mostly blue in the lesion: in T1 *darker* means lesion. And the peak of the wrong map depends on how many draws were
# paid for. Two lesions explained with different numbers of draws cannot be compared by it.
#
# Look at all four yourself, slice by slice: the first two by method `gradcam++`, the others by `smoothgrad`. It opens at
# the peak of the first, which need not be at our lesion. Go to T1, where the wrong sign shows.

# %%
four = {("gradcam++", "whole class"): first, ("gradcam++", "our lesion"): own}
four |= {("smoothgrad", "root of squares"): second, ("smoothgrad", "mean"): right}
ies.view(subject, four, lesion)

# %% [markdown]
# At the lesion nothing but the sign gives either of the two away, and to miss it one must know that it should be there. So
# looking is no test. We need questions that a wrong map answers wrongly. There are three kinds:
#
# 1. *Where does it lie?* Energy, focus, pointing game.
# 2. *Does it depend on the network at all?* A planted cue, random layers.
# 3. *Does the score follow it?* ROAD, deletion, insertion, correlation.
#
# ## Where does it lie?
#
# With $S$ the map (absolute values) and $M$ the lesion's mask:
#
# $$ \text{energy} = \frac{\sum S M}{\sum S}, \qquad \text{focus} = \frac{\sum S M}{\sum M}, \qquad \text{pointing game:
# is the peak of } S \text{ in } M? $$
#
# We collect maps to judge: good ones, the two wrong ones, and two *controls* that know nothing of the network: the
# FLAIR image itself, and the lesion's own mask painted white.

# %%
maps = {
    "SmoothGrad": right,
    "Grad-CAM++": own,
    "wrong: whole class": first,
    "wrong: root of squares": second,
    "control: FLAIR": image[:1],
    "control: the mask": mask[None].float(),
}

# %% [markdown]
# Three questions to each.

# %%
location = pd.DataFrame(index=list(maps))
location["energy"] = [ies.proportional_energy(m, mask) for m in maps.values()]
location["focus"] = [ies.average_saliency_focus(m, mask) for m in maps.values()]
location["peak in the lesion"] = [ies.pointing_game(m, mask) for m in maps.values()]
assert location["energy"].idxmax() == "control: the mask"
location.round(3)

# %% [markdown]
# Energy catches the map of the whole class: only a sliver of it lies in our lesion. It hardly minds the lost sign.
# And the best energy of all, a perfect 1, has the mask, which says nothing about the network. Energy and focus measure
# whether a map lies where *we* believe the lesion to be. They are worth reporting, but a network that looks elsewhere
# should get a low energy, and a true map of it must have one. (Focus has the unit of each map: compare it within one
# method only. And the energy of a SmoothGrad is small though its peak is at the lesion: about half of it lies in the
# ten voxels around, about a quarter in a faint field beyond.)
#
# ## A cue that we planted
#
# To test maps against a known truth we need a network whose reasons we know. `planted_cue` gives one: it calls a voxel
# lesion if FLAIR is bright *six voxels further along the first axis*, and looks at nothing else. Its scan is noise
# with two bright cubes: a "lesion", and the cue beside it. Who points at the lesion is wrong, however pretty.

# %%
from ies_helpers.teaching import planted_cue

cue = planted_cue(steps=6)
claims = {
    "gradient": gradient(cue.network, cue.image, cue.lesion, aggregate="max"),
    "SmoothGrad": smoothgrad(cue.network, cue.image, cue.lesion, draws=2),
    "Grad-CAM++": gradcam_pp(cue.network, cue.image, cue.lesion),
    "control: the mask": surroundings(cue.lesion, (32, 32, 32), 0)[None].float(),
}
truth = pd.DataFrame({name: cue.shares(m) for name, m in claims.items()}).T
assert truth.loc["SmoothGrad", "cue"] > 0.99 > 0.01 > truth.loc["Grad-CAM++", "cue"]
truth.round(3)

# %% [markdown]
# Shares of each map's absolute values. Gradient and SmoothGrad put everything on the cue. Grad-CAM++ puts everything
# on the lesion, exactly where nobody looks: it reads a layer, and at a layer close to the output only the cells at the
# lesion itself have a gradient (chapter 06). Measured by energy, the wrong answer would have won.
#
# Another witness needs no gradient. The perilesional curve of chapter 07 hides everything but the lesion and its near
# surroundings, and watches the score while more and more comes into sight.

# %%
curve = ies.perilesional_curve(cue.network, cue.image, cue.lesion, distances=range(11), by="mm")
assert not curve["seen"][curve["distance_mm"] < 4].any()
assert curve["seen"][curve["distance_mm"] >= 4].all()
curve.set_index("distance_mm")[["score", "seen"]].T.round(2)

# %% [markdown]
# The score stays at one half, which is "no idea", as long as the cue is hidden. It rises while the three layers of the
# cue come into sight, at 4, 5 and 6 voxels from the lesion's border, and is flat from there on. Gradient and hiding
# agree on the place, and neither looked at the other.
#
# ## Random layers
#
# If a map shows what the network learned, it must change when we destroy what the network learned. Adebayo and others
# proposed to make the network's layers random one after another, from the output backwards (*cascading*), and to
# compare each map with the trained network's by rank correlation. A map that stays is a map of the image.
#
# `randomise_layers` works on a copy; the network is not touched. It needs a function that makes a map from a network.
# We compare within 10 voxels of the lesion.

# %%
explained = {
    "gradient": lambda n: gradient(n, image, lesion, aggregate="mean"),
    "Grad-CAM++": lambda n: gradcam_pp(n, image, lesion),
    "control: FLAIR": lambda n: image[:1],
}
before = network.digest()
tables = {name: ies.randomise_layers(network, explain, region=near) for name, explain in explained.items()}
assert network.digest() == before

# %% [markdown]
# The figure has one line for each of the three.

# %%
from ies_helpers.figures.charts import plot_randomisation

figure = plot_randomisation(tables)
alike = {name: table["spearman"].iloc[-2] for name, table in tables.items()}
print("rank correlation when every layer is random:", {name: round(float(r), 2) for name, r in alike.items()})
assert alike["control: FLAIR"] > 0.999
assert abs(alike["gradient"]) < 0.5 < alike["Grad-CAM++"]

# %% [markdown]
# From left to right ever more layers are random, until nothing trained is left. The dotted line at zero is the
# shuffled map: nothing in common. The FLAIR control stays at 1, as it must, and so fails the test. The gradient falls
# to the dotted line with the first layers: it passes. Grad-CAM++ stays high *to the very end*. It would give nearly
# this map for a network that has learned nothing! The reason is the one we met at the cue: where its map can be
# non-zero is set by the lesion's place and the layer, not by the weights.
#
# Two doubts. Most of the region is zero in any Grad-CAM++ of this lesion, and a rank correlation counts that as
# agreement; so we compare once more where the trained network's map is *not* zero (what `randomise_layers` does unless
# told otherwise). And what of the gradient without its sign?

# %%
inside = ies.randomise_layers(network, explained["Grad-CAM++"], layers=["model"])["spearman"].iloc[1]
unsigned = float(tables["gradient"]["spearman_abs"].iloc[-2])
print(f"all layers random: Grad-CAM++ where it is not zero {inside:.2f}, absolute gradient {unsigned:.2f}")
assert inside > 0.2
assert unsigned > alike["gradient"]

# %% [markdown]
# Both are far from zero. A gradient's *absolute* values are larger near the lesion in a random network, too; only its
# signs are all learned. Grad-CAM++ fades towards the lesion's border whatever the weights. That does not make it
# worthless: its peak still differs from network to network and from lesion to lesion. But "the map is on the lesion" is
# no finding for this method.
#
# ## ROAD: remove and look
#
# The third question: take away what the map calls relevant. The lesion's score should fall. Take away what it calls
# irrelevant, and the score should stay. The two orders are called MoRF and LeRF (most and least relevant first).
#
# First we must agree on *how many* voxels are the most relevant 20 %. Usual tools take a percentile of the map as a
# threshold. Try that on Grad-CAM++.

# %%
values = own[0][surroundings(lesion, subject.shape)].numpy()
print(f"non-zero: {(values > 0).mean():.1%} of the voxels within 15 of the lesion")
for asked in (0.01, 0.05, 0.2):
    cut = np.percentile(values, 100 * (1 - asked))
    print(f"asked to remove {asked:.0%}: threshold {cut:.3g}, removed {(values >= cut).mean():.1%}")
assert (values >= np.percentile(values, 80)).all()

# %% [markdown]
# Most of the map is exactly zero, so the percentile is zero, and "everything that is at least zero" is the whole
# region. The image is blanked, the score falls to nothing, and the method gets an excellent mark for no merit. (One
# such tool returns NaN for 3D images, without a word. That at least is noticed.) Our `road` removes by exact rank, and
# breaks ties by a seeded shuffle.
#
# Second, *what stands in the place* of a removed voxel? A hole of zeros is an object of its own, which the network
# may see as such. ROAD fills with the weighted mean of the 26 neighbours, removed ones included (one linear system),
# plus a little noise. We look at 2 % removed, three times.

# %%
from dataclasses import replace

from ies_helpers.measures.removal import Removal

figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
for ax, fill in zip(axes, (None, "zero", "linear"), strict=True):
    removal = Removal(network, image, lesion, region=None, fill=fill or "zero", seed=0)
    removed = removal.rank(right)[: len(removal) // 50 if fill else 0]
    edited = image.clone()
    removal.score.crop(edited)[:] = removal.without(removed)
    p = float(removal.score([removal.score.crop(edited)])[0])
    title = f"{fill or 'unedited'}: score {p:.2f}"
    ies.plot_slice(replace(subject, image=edited), lesion=lesion, ax=ax, reach_mm=10, title=title)

# %% [markdown]
# FLAIR in the plane of the lesion, unedited, with zeros, and imputed. In the middle the hole shows the shape of what
# was removed (our figures draw 0 in black; in z-scored images it is the mean of the brain, and still a hole without
# any texture). On the right one hardly sees that anything was there: the lesion's light is gone.
#
# Now the curves. The score is the mean probability over the lesion's voxels. We add a third control: random numbers.

# %%
maps["control: random"] = torch.from_numpy(np.random.default_rng(0).random((1, *subject.shape)))
results = {name: ies.road(network, image, lesion, m) for name, m in maps.items()}
shown = [name for name in maps if name != "wrong: root of squares"]

# %% [markdown]
# Left the scores themselves, right (LeRF − MoRF) / 2, the ROAD score. The root of squares is not drawn, as its lines lie
# on those of SmoothGrad; its numbers stand in the tables.

# %%
from ies_helpers.figures.charts import plot_road

figure = plot_road({name: results[name] for name in shown}, title=f"ROAD, lesion {lesion.number} of {subject.name}")
road_mean = pd.Series({name: result.mean for name, result in results.items()})
assert road_mean["SmoothGrad"] > road_mean["control: FLAIR"] > road_mean["control: random"]
assert abs(road_mean["control: random"]) < 0.1

# %% [markdown]
# Follow the full lines on the left. With SmoothGrad the score is near zero after about half a percent of the
# surroundings. Random removal hardly hurts: what is missing is guessed well from the neighbours. FLAIR, bright in many
# places, must remove several percent before it hits our lesion. The dashed lines stay near the grey one: what the maps
# call irrelevant is irrelevant.
#
# And the mask, the control that knows nothing of the network? It does as well as the good maps. Remove a lesion, and
# the lesion is gone; one need not ask the network for that. The map of the whole class can pass as well: where ours is
# the only lesion within 15 voxels, it ranks ours first. ROAD tells bad rankings from good ones. Among good ones, look
# at the very first fraction, where the question is *which* voxels of the lesion count.
#
# The same with other fills, one column each.

# %%
road_table = pd.DataFrame({"linear": road_mean})
for fill in ("mean",) if SMALL else ("mean", "zero"):
    road_table[fill] = [ies.road(network, image, lesion, m, fill=fill).mean for m in maps.values()]
road_table.round(3)

# %% [markdown]
# The controls stay where they were. Good maps lie close together, and their order may change with the fill: a
# difference of that size between two methods is no finding, and the fill belongs in the report.
#
# ## Deletion and insertion
#
# The same game to the end: delete voxel by voxel until the surroundings are gone, or start with emptied surroundings
# and put voxels back. We plot over the *number* of voxels on a logarithmic axis, since on a linear one all happens in
# the first pixel. The number in the legend is the mean height along this axis.

# %%
from ies_helpers.figures.charts import plot_curves

settings = {"steps": STEPS, "fill": "mean"}
deletions = {name: ies.deletion(network, image, lesion, m, **settings) for name, m in maps.items()}
insertions = {name: ies.insertion(network, image, lesion, m, **settings) for name, m in maps.items()}
figure = plot_curves({n: deletions[n] for n in shown}, {n: insertions[n] for n in shown})
assert deletions["SmoothGrad"].log_area < deletions["control: FLAIR"].log_area < deletions["control: random"].log_area
assert insertions["SmoothGrad"].log_area > insertions["control: FLAIR"].log_area

# %% [markdown]
# On the left a good map falls early. How many voxels does it take until the score is below the network's threshold? A
# part of the lesion is enough. On the right a good map rises early, but later than the other fell: to lose a lesion a
# few voxels suffice; to see one, the network wants most of it. Follow the mask: it rises with the others and then
# stays on a shelf below them, while the lesion is complete and more and more of the rest returns in random order. Maps
# that bring the *right* surroundings next are above that shelf. Here at last a measure prefers what the network knows
# over what we know.
#
# ## Correlation and stability
#
# Two more questions in numbers. *Faithfulness correlation*: remove random subsets of voxels; does the logit fall by
# what the map gives to the subset? For this a map must be in logits: gradient times image. All maps see the same
# subsets. *Sensitivity*: add a little noise to the image; how much does the map change, relative to itself?

# %%
from ies_helpers import faithfulness_correlation

around = surroundings(lesion, subject.shape, 3)
judged = {"SmoothGrad × image": right * image, "Grad-CAM++": own, "control: FLAIR": image[:1]}
judged["control: the mask"] = mask[None].float()
subsets = 20 if SMALL else 100
r = faithfulness_correlation(network, image, lesion, list(judged.values()), region=around, subsets=subsets)
print("correlation:", {name: round(float(value), 2) for name, value in zip(judged, r, strict=True)})

# %% [markdown]
# And the sensitivity, of three ways to make a map.

# %%
from ies_helpers.measures.removal import sensitivity

methods = {
    "gradient": lambda x: gradient(network, x, lesion, aggregate="mean"),
    "Grad-CAM++": lambda x: gradcam_pp(network, x, lesion),
    "control: the mask": lambda _: mask[None].float(),
}
moved = {name: sensitivity(method, image, draws=3).mean() for name, method in methods.items()}
print("sensitivity:", {name: round(float(value), 2) for name, value in moved.items()})


# %% [markdown]
# The correlation is highest for the map in logits. The mask correlates as well, since lesion voxels count more than
# others, but it cannot say which. The sensitivities: the mask never moves, a perfect 0. Stability is easily had by
# a map that ignores its input; it is a virtue only beside the other tests.
#
# ## All together
#
# One row a map. The column `random layers` is the rank correlation with the map of a network that is random
# throughout, near 1 if the network does not matter. For SmoothGrad and the two wrong maps we still need it; `layers`
# names what to make random in one step, here everything.

# %%
few = 1 if SMALL else 3


def root_of_squares(n):
    g = torch.stack([gradient(n, noisy_image(image, sigma, 0, draw), lesion) for draw in range(few)])
    return g.square().sum(dim=0).sqrt() / few


late = {
    "SmoothGrad": lambda n: smoothgrad(n, image, lesion, draws=few),
    "wrong: whole class": lambda n: gradcam_pp(n, image, probability > network.threshold),
    "wrong: root of squares": root_of_squares,
}
at_once = {name: ies.randomise_layers(network, f, layers=["model"], region=near) for name, f in late.items()}
alike |= {name: table["spearman"].iloc[1] for name, table in at_once.items()} | {"control: the mask": 1.0}

# %% [markdown]
# The table.

# %%
together = location[["energy"]].join(road_mean.rename("ROAD"))
together["deletion"] = pd.Series({name: curve.log_area for name, curve in deletions.items()})
together["insertion"] = pd.Series({name: curve.log_area for name, curve in insertions.items()})
together["random layers"] = pd.Series(alike)
assert together["insertion"].idxmax() in ("SmoothGrad", "Grad-CAM++")
assert together["random layers"]["SmoothGrad"] < 0.3 < together["random layers"]["wrong: root of squares"]
together.round(3)

# %% [markdown]
# High is good for energy, ROAD and insertion, low for deletion and random layers. Insertion alone puts the true maps
# first and the controls last, and even it hardly tells SmoothGrad from the two wrong maps. Energy crowns the mask. ROAD
# and deletion hardly tell the mask from a map. Random layers tell it at once, but would pass a map of fresh noise, and
# Grad-CAM++ fails there. Read together they do their work: each control and each wrong map fails somewhere. The map
# without signs does so in the last column alone: like the absolute gradient, it keeps much of its order when nothing
# trained is left. In ROAD, deletion and insertion it is as good as SmoothGrad, and that its signs are *wrong* no column
# says. A table of good numbers is not the end of looking.
#
# ### A true map of a wrong decision
#
# One thing none of them measures: whether the *network* is right. We take the largest false positive of fewer than 200
# voxels and ask the same.

# %%
false = max((le for le in lesions.of("FP") if len(le) < 200), key=len)
rows = []
for le in (lesion, false):
    m = smoothgrad(network, image, le, aggregate="mean", draws=DRAWS)
    result = ies.road(network, image, le, m)
    energy = ies.proportional_energy(m, le.mask(subject.shape))
    rows.append((f"{le.number} ({le.group})", len(le), result.clean, energy, result.mean))
columns = ["lesion", "voxels", "score", "energy", "ROAD"]
both = pd.DataFrame(rows, columns=columns).set_index("lesion").round(3)
assert (both["ROAD"] > 0.2).all()
both

# %% [markdown]
# The map of the false positive is about as faithful as that of the true one: remove what it points at, and the false
# alarm is gone. A faithful map tells why the network decided, not whether it should have. Chapter 09 asks whether maps
# of true and false lesions differ.
#
# ## What we saw
#
# - A map of the whole class, cut out around a lesion, looks like a map of the lesion. So does one without sign and
#   scale.
# - Energy and focus ask whether a map lies where *we* look. A mask has the best energy there is.
# - With a planted cue, whose place is known, gradients and hiding point at the cue, and Grad-CAM++ at the lesion.
# - With all layers random the gradient's map is gone. That of Grad-CAM++ stays nearly as it was: its place is no
#   finding.
# - ROAD removes by exact rank and fills from neighbours. A percentile as a threshold blanks the image where a map is
#   mostly zero.
# - Every measure has a worthless map that passes it. Report several, with controls beside them.
#
# ## Limits
#
# - One lesion, one small network, a synthetic patient. The order of good maps may be another elsewhere.
# - Imputed images are smoother than real ones. In a large blob the fill is a blur, and a network may notice; this is
#   the known leak of ROAD, and the reason for more than one fill.
# - All removals take away both modalities at a voxel. Which modality counts is not tested.
# - The region is 15 voxels around the lesion. Reasons farther away are neither ranked nor removed.
# - A fall of the probability is not linear in the evidence: a saturated score hides what the first voxels do.
# - Making layers random, with batch norms as they were, gives a network that never existed. It must change a map, but
#   how fast is no measure of quality.
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
# shares = {le.number: ies.proportional_energy(first, le.mask(subject.shape)) for le in found}
# print({number: round(share, 2) for number, share in shares.items()}, round(sum(shares.values()), 2))
# ```
#
# Expected: every lesion has a part, mostly the large ones the larger, and together they have most of the map. No
# lesion has half.
#
# </details>
#
# **2.** Turn ROAD round: give it `1 - m` for a map `m` scaled to 0..1. What must happen to the score? Try
# `m = right.abs().sum(0, keepdim=True)`.
#
# <details><summary>Solution</summary>
#
# The order is reversed, so MoRF and LeRF change places, and the score changes its sign exactly.
#
# ```python
# m = right.abs().sum(dim=0, keepdim=True).double()
# forth, back = (ies.road(network, image, lesion, x).mean for x in (m, m.max() - m))
# print(f"{forth:.3f} {back:.3f}")
# ```
#
# Expected: two numbers that differ in their sign alone.
#
# </details>
#
# **3.** Make only *one* layer random at a time (`how="independent"`), for the gradient. Which layers matter most?
#
# <details><summary>Solution</summary>
#
# ```python
# table = ies.randomise_layers(network, explained["gradient"], how="independent", region=near)
# print(table[["layer", "spearman", "peak"]].round(2))
# ```
#
# Expected: the map survives one of the layers at the bottom of the U nearly unharmed (a lesion of this size hardly needs
# it), another in part, and none of those at full resolution.
#
# </details>
#
# ## References
#
# - Adebayo J. and others (2018). Sanity checks for saliency maps. *NeurIPS*.
#   [arXiv 1810.03292](https://arxiv.org/abs/1810.03292).
# - Rong Y. and others (2022). A consistent and efficient evaluation strategy for attribution methods. *ICML*.
#   [arXiv 2202.00449](https://arxiv.org/abs/2202.00449). ROAD.
# - Petsiuk V. and others (2018). RISE: randomized input sampling for explanation of black-box models. *BMVC*.
#   [arXiv 1806.07421](https://arxiv.org/abs/1806.07421). Deletion and insertion.
# - Bhatt U. and others (2020). Evaluating and aggregating feature-based model explanations. *IJCAI*.
#   [arXiv 2005.00631](https://arxiv.org/abs/2005.00631). Faithfulness correlation.
# - Yeh C.-K. and others (2019). On the (in)fidelity and sensitivity of explanations. *NeurIPS*.
#   [arXiv 1901.09392](https://arxiv.org/abs/1901.09392).
# - Ancona M. and others (2018). Towards better understanding of gradient-based attribution methods for deep neural
#   networks. *ICLR*. [arXiv 1711.06104](https://arxiv.org/abs/1711.06104). Sensitivity-n.
#
# ## Next
#
# [Chapter 11](11_structures_and_groups.ipynb) goes from one lesion to structures, to a patient, to a group.
