# %% [markdown]
# # 16 · What a map depends on
#
# **Question.** Does a map depend on what the network has learned, and does the lesion's score follow the map?
#
# **Objectives.** You can run the randomisation test, ROAD, deletion and insertion for one lesion, and read their
# figures. You can say what each of them asks, and name a worthless map that passes it. You know why we report several
# measures, with controls beside them.
#
# **Minutes.** 2 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapter 10 read (it makes the two wrong maps). No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. With `IES_SMALL=1` in the environment the chapter takes fewer draws and steps.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS, STEPS = (2, 10) if SMALL else (8, 20)

# %% [markdown]
# Patient, network and lesions are those of chapter 10.

# %%
from ies_helpers import find_lesions, load_network, load_subject, predict

subject, network = load_subject(SUBJECT), load_network("unet")
image, probability = subject.image, predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)

# %% [markdown]
# So is the lesion: of those found (TP), the one whose size is closest to 100 voxels.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 100))
mask = lesion.mask(subject.shape)
lesion

# %% [markdown]
# ## The maps that we judge
#
# We make the maps of chapter 10 once more. The gradients of a few noisy images give two of them: their mean is the
# SmoothGrad, the root of the sum of their squares is the wrong map without a sign.

# %%
import torch

from ies_helpers import gradient
from ies_helpers.saliency.smoothgrad import noise_sigma, noisy_image

sigma = noise_sigma(image, 0.05)
draws = torch.stack([gradient(network, noisy_image(image, sigma, 0, n), lesion) for n in range(DRAWS)])
right = draws.mean(dim=0)

# %% [markdown]
# Two are of Grad-CAM++: one of our lesion, and one, the other wrong map, of the whole class.

# %%
from ies_helpers import gradcam_pp

own = gradcam_pp(network, image, lesion)
maps = {"SmoothGrad": right, "Grad-CAM++": own}
maps["wrong: whole class"] = gradcam_pp(network, image, probability > network.threshold)
maps["wrong: root of squares"] = draws.square().sum(dim=0).sqrt() / DRAWS

# %% [markdown]
# Two *controls* know nothing of the network: the FLAIR image itself, and the lesion's own mask painted white.

# %%
maps |= {"control: FLAIR": image[:1], "control: the mask": mask[None].float()}

# %% [markdown]
# Chapter 10 asked where they lie. Two kinds of questions are left: does a map *depend on the network* at all, and does
# the *score follow* it? We begin with the first.
#
# ## Random layers
#
# If a map shows what the network learned, it must change when we destroy what the network learned. Adebayo and others
# proposed to make the network's layers random one after another, from the output backwards (*cascading*), and to
# compare each map with the trained network's by rank correlation. A map that stays is a map of the image.
#
# `randomise_layers` needs a function that makes a map from a network. We write three, the last one a control.

# %%
explained = {
    "gradient": lambda n: gradient(n, image, lesion, aggregate="mean"),
    "Grad-CAM++": lambda n: gradcam_pp(n, image, lesion),
    "control: FLAIR": lambda n: image[:1],
}

# %% [markdown]
# We compare maps within 10 voxels of the lesion.

# %%
from ies_helpers.measures.removal import surroundings

near = surroundings(lesion, subject.shape, 10)

# %% [markdown]
# `randomise_layers` works on a copy, so our network stays as it is. (Its digest, a number made from all weights, would
# tell.)

# %%
from ies_helpers import randomise_layers

before = network.digest()
tables = {name: randomise_layers(network, explain, region=near) for name, explain in explained.items()}

# %% tags=["check"]
assert network.digest() == before

# %% [markdown]
# The figure has one line for each of the three.

# %%
from ies_helpers.figures.charts import plot_randomisation

figure = plot_randomisation(tables)

# %% [markdown]
# From left to right more and more layers are random, until nothing trained is left. The dotted line at zero is the
# shuffled map: nothing in common. What are the numbers at the right end?

# %%
alike = {name: table["spearman"].iloc[-2] for name, table in tables.items()}
print("rank correlation when every layer is random:", {name: round(float(r), 2) for name, r in alike.items()})

# %% tags=["check"]
assert alike["control: FLAIR"] > 0.999
assert abs(alike["gradient"]) < 0.5 < alike["Grad-CAM++"]

# %% [markdown]
# The FLAIR control stays at 1, as it must, and so fails the test. The gradient falls to the dotted line with the first
# layers: it passes. Grad-CAM++ stays high *to the very end*. It would give nearly this map for a network that has
# learned nothing! The reason is the one we met at the planted cue: where its map can be non-zero is set by the lesion's
# place and the layer, not by the weights.
#
# You may have two doubts. Most of the region is zero in any Grad-CAM++ of this lesion, and a rank correlation counts
# that as agreement. So we compare once more where the trained network's map is *not* zero, which is what
# `randomise_layers` does unless told otherwise. `layers` names what to make random in one step, here everything.

# %%
inside = randomise_layers(network, explained["Grad-CAM++"], layers=["model"])["spearman"].iloc[1]
print(f"all layers random: Grad-CAM++ where it is not zero {inside:.2f}")

# %% tags=["check"]
assert inside > 0.2

# %% [markdown]
# And what about the gradient without its sign?

# %%
unsigned = float(tables["gradient"]["spearman_abs"].iloc[-2])
print(f"all layers random: absolute gradient {unsigned:.2f}")

# %% tags=["check"]
assert unsigned > alike["gradient"]

# %% [markdown]
# Both are far from zero. A gradient's *absolute* values are larger near the lesion in a random network, too; only its
# signs are all learned. Grad-CAM++ fades towards the lesion's border whatever the weights. That does not make it
# worthless: its peak still differs from network to network and from lesion to lesion. But "the map is on the lesion" is
# no finding for this method.
#
# ## ROAD: remove and look
#
# Now to the score. Take away what the map calls relevant, and the lesion's score should fall. Take away what it calls
# irrelevant, and the score should stay. The two orders are called MoRF and LeRF (most and least relevant first).
#
# First we must agree on *how many* voxels are the most relevant 20 %. Most tools take a percentile of the map as a
# threshold. Let us try that on Grad-CAM++.

# %%
import numpy as np

values = own[0][surroundings(lesion, subject.shape)].numpy()
print(f"non-zero: {(values > 0).mean():.1%} of the voxels within 15 of the lesion")
for asked in (0.01, 0.05, 0.2):
    cut = np.percentile(values, 100 * (1 - asked))
    print(f"asked to remove {asked:.0%}: threshold {cut:.3g}, removed {(values >= cut).mean():.1%}")

# %% tags=["check"]
assert (values >= np.percentile(values, 80)).all()

# %% [markdown]
# Most of the map is exactly zero, so the percentile is zero, and "everything that is at least zero" is the whole
# region. The image is blanked, the score falls to nothing, and the method gets an excellent mark for no merit. (One
# such tool returns NaN for 3D images, without a word. That at least you notice.) Our `road` removes by exact rank, and
# breaks ties by a seeded shuffle.
#
# Second, *what stands in the place* of a removed voxel? A hole of zeros is an object of its own, which the network
# may see as such. ROAD fills with the weighted mean of the 26 neighbours, removed ones included (one linear system),
# plus a little noise. `Removal` does just this one step; we let it take away the most relevant 2 %.

# %%
from ies_helpers.measures.removal import Removal


def without(fill):
    """The image without the 2 % of the region that the SmoothGrad calls most relevant."""
    removal, edited = Removal(network, image, lesion, fill=fill), image.clone()
    removal.score.crop(edited)[:] = removal.without(removal.rank(right)[: len(removal) // 50])
    return edited


# %% [markdown]
# We look at the image three times: unedited, with zeros, and imputed.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt

from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
for ax, fill in zip(axes, (None, "zero", "linear"), strict=True):
    edited = without(fill) if fill else image
    title = f"{fill or 'unedited'}: score {predict(network, edited)[mask].mean():.2f}"
    plot_slice(replace(subject, image=edited), lesion=lesion, ax=ax, reach_mm=10, title=title)

# %% [markdown]
# Each panel is FLAIR in the plane of the lesion. In the middle the hole shows the shape of what was removed (our
# figures draw 0 in black; in z-scored images it is the mean of the brain, and still a hole without any texture). On the
# right you hardly see that anything was there: the lesion's light is gone.
#
# Now the curves. The score is the mean probability over the lesion's voxels. We add a third control: random numbers.

# %%
noise = torch.from_numpy(np.random.default_rng(0).random((1, *subject.shape)))
ranked = maps | {"control: random": noise}

# %% [markdown]
# `road` removes more and more, in both orders, and asks the network each time.

# %%
import pandas as pd

from ies_helpers import road

results = {name: road(network, image, lesion, m) for name, m in ranked.items()}
road_mean = pd.Series({name: result.mean for name, result in results.items()})

# %% tags=["check"]
assert road_mean["SmoothGrad"] > road_mean["control: FLAIR"] > road_mean["control: random"]
assert abs(road_mean["control: random"]) < 0.1

# %% [markdown]
# Left are the scores themselves, right is (LeRF − MoRF) / 2, the ROAD score. The root of squares is not drawn, as its
# lines lie on those of SmoothGrad; its numbers stand in the tables.

# %%
from ies_helpers.figures.charts import plot_road

shown = [name for name in ranked if name != "wrong: root of squares"]
figure = plot_road({name: results[name] for name in shown}, title=f"ROAD, lesion {lesion.number} of {subject.name}")

# %% [markdown]
# Follow the full lines on the left. With SmoothGrad the score is near zero after about half a percent of the
# surroundings. Random removal hardly hurts: what is missing is guessed well from the neighbours. FLAIR, bright in many
# places, must remove several percent before it hits our lesion. The dashed lines stay near the grey one: what the maps
# call irrelevant is irrelevant.
#
# And the mask, the control that knows nothing of the network? It does as well as the good maps. Remove a lesion, and
# the lesion is gone; nobody has to ask the network for that. The map of the whole class can pass as well: where ours is
# the only lesion within 15 voxels, it ranks ours first. ROAD tells bad rankings from good ones. Among good ones, look
# at the very first fraction, where the question is *which* voxels of the lesion count.
#
# We repeat it with other fills, one column each.

# %%
road_table = pd.DataFrame({"linear": road_mean})
for fill in ("mean",) if SMALL else ("mean", "zero"):
    road_table[fill] = [road(network, image, lesion, m, fill=fill).mean for m in ranked.values()]
road_table.round(3)

# %% [markdown]
# The controls stay where they were. Good maps lie close together, and their order may change with the fill: a
# difference of that size between two methods is no finding, and the fill belongs in the report.
#
# ## Deletion and insertion
#
# We can play the same game to the end: delete voxel by voxel until the surroundings are gone, or start with emptied
# surroundings and put voxels back.

# %%
from ies_helpers import deletion, insertion

settings = {"steps": STEPS, "fill": "mean"}
deletions = {name: deletion(network, image, lesion, m, **settings) for name, m in ranked.items()}
insertions = {name: insertion(network, image, lesion, m, **settings) for name, m in ranked.items()}

# %% tags=["check"]
assert deletions["SmoothGrad"].log_area < deletions["control: FLAIR"].log_area < deletions["control: random"].log_area
assert insertions["SmoothGrad"].log_area > insertions["control: FLAIR"].log_area

# %% [markdown]
# We plot the score over the *number* of voxels on a logarithmic axis, since on a linear one all happens in the first
# pixel. The number in the legend is the mean height along this axis.

# %%
from ies_helpers.figures.charts import plot_curves

figure = plot_curves({name: deletions[name] for name in shown}, {name: insertions[name] for name in shown})

# %% [markdown]
# On the left a good map falls early. How many voxels does it take until the score is below the network's threshold? A
# part of the lesion is enough. On the right a good map rises early, but later than it fell on the left: a few missing
# voxels are enough to lose a lesion, but to see one, the network wants most of it.
#
# Follow the mask on the right: it rises with the others and then stays on a shelf below them, while the lesion is
# complete and more and more of the rest returns in random order. Maps that bring the *right* surroundings next are
# above that shelf. Here at last a measure prefers what the network knows over what we know.
#
# ## Correlation and stability
#
# Two more questions have a number for an answer. *Faithfulness correlation*: we remove random subsets of voxels; does
# the logit fall by what the map gives to the subset? For this a map must be in logits: gradient times image.

# %%
judged = {"SmoothGrad × image": right * image}
judged |= {name: maps[name] for name in ("Grad-CAM++", "control: FLAIR", "control: the mask")}

# %% [markdown]
# All maps see the same subsets, within 3 voxels of the lesion.

# %%
from ies_helpers import faithfulness_correlation

around, subsets = surroundings(lesion, subject.shape, 3), 20 if SMALL else 100
r = faithfulness_correlation(network, image, lesion, list(judged.values()), region=around, subsets=subsets)
print("correlation:", {name: round(float(value), 2) for name, value in zip(judged, r, strict=True)})

# %% [markdown]
# The correlation is highest for the map in logits. The mask correlates as well, since lesion voxels count more than
# others, but it cannot say which.
#
# *Sensitivity*: we add a little noise to the image; how much does the map change, relative to itself? Here are three
# ways to make a map from an image.

# %%
methods = {
    "gradient": lambda x: gradient(network, x, lesion, aggregate="mean"),
    "Grad-CAM++": lambda x: gradcam_pp(network, x, lesion),
    "control: the mask": lambda _: mask[None].float(),
}

# %% [markdown]
# How far does each of them move?

# %%
from ies_helpers.measures.removal import sensitivity

moved = {name: sensitivity(method, image, draws=3).mean() for name, method in methods.items()}
print("sensitivity:", {name: round(float(value), 2) for name, value in moved.items()})

# %% [markdown]
# The mask never moves, a perfect 0. A map that ignores its input is always stable, so stability is a virtue only beside
# the other tests.
#
# ## All together
#
# We want one row for each map, and for that some numbers are missing: how alike are the SmoothGrad and the two wrong
# maps to those of a network that is random throughout? The root of squares needs a function of its own.

# %%
few = 1 if SMALL else 3


def root_of_squares(n):
    """The wrong map without a sign, of any network."""
    g = torch.stack([gradient(n, noisy_image(image, sigma, 0, draw), lesion) for draw in range(few)])
    return g.square().sum(dim=0).sqrt() / few


# %% [markdown]
# For the other two a line is enough.

# %%
from ies_helpers import smoothgrad

late = {
    "SmoothGrad": lambda n: smoothgrad(n, image, lesion, draws=few),
    "wrong: whole class": lambda n: gradcam_pp(n, image, probability > network.threshold),
    "wrong: root of squares": root_of_squares,
}

# %% [markdown]
# All layers become random at once. The mask knows no network, so it stays: 1.

# %%
at_once = {name: randomise_layers(network, f, layers=["model"], region=near) for name, f in late.items()}
alike |= {name: table["spearman"].iloc[1] for name, table in at_once.items()} | {"control: the mask": 1.0}

# %% [markdown]
# The table begins with the energy of chapter 10. In its last column, `random layers`, a number near 1 says that the
# network does not matter.

# %%
from ies_helpers import proportional_energy

together = pd.DataFrame({"energy": {name: proportional_energy(m, mask) for name, m in maps.items()}})
together["ROAD"] = road_mean
together["deletion"] = pd.Series({name: curve.log_area for name, curve in deletions.items()})
together["insertion"] = pd.Series({name: curve.log_area for name, curve in insertions.items()})
together["random layers"] = pd.Series(alike)
together.round(3)

# %% tags=["check"]
assert together["insertion"].idxmax() in ("SmoothGrad", "Grad-CAM++")
assert together["random layers"]["SmoothGrad"] < 0.3 < together["random layers"]["wrong: root of squares"]

# %% [markdown]
# High is good for energy, ROAD and insertion, low for deletion and random layers. Go through the columns:
#
# - Energy crowns the mask.
# - ROAD and deletion hardly tell the mask from a map.
# - Insertion alone puts the true maps first and the controls last, and even it hardly tells SmoothGrad from the two
#   wrong maps.
# - Random layers tell the mask at once, but would pass a map of fresh noise, and Grad-CAM++ fails there.
#
# Read together, they work: each control and each wrong map fails somewhere. The map without signs does so in
# the last column alone: like the absolute gradient, it keeps much of its order when nothing trained is left. In ROAD,
# deletion and insertion it is as good as SmoothGrad, and no column says that its signs are *wrong*. A table of good
# numbers is not the end of looking.
#
# ### A true map of a wrong decision
#
# There is one thing that none of them measures: whether the *network* is right. We take the largest false positive of
# fewer than 200 voxels and ask the same of it.

# %%
false = max((le for le in lesions.of("FP") if len(le) < 200), key=len)
false

# %% [markdown]
# Each of the two gets a SmoothGrad, its energy and its ROAD.

# %%
rows = {}
for le in (lesion, false):
    m = smoothgrad(network, image, le, aggregate="mean", draws=DRAWS)
    result, energy = road(network, image, le, m), proportional_energy(m, le.mask(subject.shape))
    rows[f"{le.number} ({le.group})"] = (len(le), result.clean, energy, result.mean)
both = pd.DataFrame.from_dict(rows, orient="index", columns=["voxels", "score", "energy", "ROAD"])
both.round(3)

# %% tags=["check"]
assert (both["ROAD"] > 0.2).all()

# %% [markdown]
# The map of the false positive is about as faithful as that of the true one: remove what it points at, and the false
# alarm is gone. A faithful map tells why the network decided, not whether it should have. Chapter 09 asks whether maps
# of true and false lesions differ.
#
# ## What we saw
#
# - With all layers random the gradient's map is gone. That of Grad-CAM++ stays nearly as it was: its place is no
#   finding.
# - ROAD removes by exact rank and fills from neighbours. A percentile as a threshold blanks the image where a map is
#   mostly zero.
# - Only insertion prefers what the network knows over what we know.
# - Every measure has a worthless map that passes it. Report several, with controls beside them.
# - A faithful map of a false lesion is faithful. It tells why, not whether.
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
# **1.** Turn ROAD round: give it `1 - m` for a map `m` scaled to 0..1. What must happen to the score? Try
# `m = right.abs().sum(dim=0, keepdim=True)`.
#
# <details><summary>Solution</summary>
#
# The order is reversed, so MoRF and LeRF change places, and the score changes its sign exactly.
#
# ```python
# m = right.abs().sum(dim=0, keepdim=True).double()
# forth, back = (road(network, image, lesion, x).mean for x in (m, m.max() - m))
# print(f"{forth:.3f} {back:.3f}")
# ```
#
# Expected: two numbers that differ in their sign alone.
#
# *The usual wrong answer:* “It falls to about zero, as for random numbers.” A random order is wrong half of the time. A
# reversed one is wrong always, and knows as much as the right one.
#
# </details>
#
# **2.** Make only *one* layer random at a time (`how="independent"`), for the gradient. Which layers matter most?
#
# <details><summary>Solution</summary>
#
# ```python
# table = randomise_layers(network, explained["gradient"], how="independent", region=near)
# print(table[["layer", "spearman", "peak"]].round(2))
# ```
#
# Expected: the map survives one of the layers at the bottom of the U nearly unharmed (a lesion of this size hardly
# needs it), another in part, and none of those at full resolution.
#
# *The usual wrong answer:* “The deepest, where the network has its most abstract knowledge.” A skip connection carries
# a small lesion past the bottom of the U.
#
# </details>
#
# **3.** Invent a worthless map that passes the test of random layers, and show that it fails ROAD.
#
# <details><summary>Solution</summary>
#
# Noise that starts from the network's digest is another noise for every other network.
#
# ```python
# def fresh(n):
#     seed = int(n.digest()[:8], 16)
#     return torch.from_numpy(np.random.default_rng(seed).random((1, *subject.shape)))
#
#
# table = randomise_layers(network, fresh, layers=["model"], region=near)
# print(f"random layers {table['spearman'].iloc[1]:.2f}, ROAD {road(network, image, lesion, fresh(network)).mean:.2f}")
# ```
#
# Expected: two numbers near 0. The first is a perfect mark, the second the mark of chance.
#
# *The usual wrong answer:* “There is none: a map that changes with the weights shows what was learned.” It shows that
# the map depends on the weights, not that it says anything true about them.
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
