# %% [markdown]
# # 14 · Uncertain?
#
# **Question.** The network marks a lesion. Had we trained it again, would it mark it again? And if each of several
# networks makes its own map of the lesion, do the maps tell us more about that than the probability does?
#
# **Objectives.** You let five networks of one recipe answer the same question, and see where they part. You measure
# their disagreement on a lesion's outline, on its voxels, on its map and on a whole patient. You know what each measure
# cannot see. And you test doubt by what it is good for: handing over the lesions that turn out to be false.
#
# **Minutes.** 2 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02, 04 and 09. No download, no patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word decides whom we look at. `phantoms` are made on the spot. `patients` are three open ones, of whom the
# networks have seen 07 and 19 in their training. `SMALL` is true where the tests run this chapter.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
COHORT = "phantoms"
SUBJECTS = {
    "phantoms": ["demo", "phantom:8", "phantom:2", "phantom:3", "phantom:4"][: 1 if SMALL else 5],
    "patients": [f"openms:patient{n}" for n in ("07", "19", "26")],
}[COHORT]

# %% [markdown]
# ## Five networks of one recipe
#
# We trained the shipped U-Net five times: the same patients, the same phantoms, the same number of steps, but another
# random start, and other patches in another order. Nothing tells us which of the five is the right one. So where they
# disagree, the recipe has not settled the answer.
#
# Together they are one network, `unet:ensemble`. It averages their *logits*. Its gradient is then the mean of their
# gradients, in the same unit, and we can make any map of this handbook with it.

# %%
from ies_helpers import load_network, members_of

network = load_network("unet:ensemble")
members = members_of(network)
[member.name for member in members]

# %% tags=["check"]
assert len(members) == 5

# %% [markdown]
# We load a subject by its name, and keep the middle of its brain, as large as the demo subject. That is quick, and
# nearly all lesions lie there.

# %%
from ies_helpers import load_subject
from ies_helpers.teaching import middle_of


def load(name):
    """The middle of a subject's brain."""
    return middle_of(load_subject(name), (96, 128, 96))


# %% [markdown]
# Now each member gives its probabilities. Together they are `(M, I, J, K)`, one volume for each of M members.

# %%
from ies_helpers import member_probabilities

subject = load(SUBJECTS[0])
answers = member_probabilities(network, subject.image)
answers.shape

# %% [markdown]
# We find the lesions of the ensemble, and those of each member alone.

# %%
from ies_helpers import find_lesions

lesions = find_lesions(network, subject)
alone = [find_lesions(one, subject.target, threshold=network.threshold) for one in answers]

# %% [markdown]
# How good is each?

# %%
import pandas as pd

names = [*(member.name for member in members), "the ensemble"]
counts = [{group: len(found.of(group)) for group in ("TP", "FP", "FN")} for found in [*alone, lesions]]
counted = pd.DataFrame(counts, index=names)
counted

# %% tags=["check"]
assert counted["TP"].iloc[-1] >= counted["TP"].iloc[:-1].max() - 1
assert counted["FP"].iloc[-1] <= counted["FP"].iloc[:-1].median()
assert counted["FP"].iloc[:-1].max() > counted["FP"].iloc[:-1].min() + 2

# %% [markdown]
# Alone, each finds about fifteen of this subject's lesions, and between two and seven that are none. Together they find
# as many true ones as the best of them, and fewer false ones than most. (One subject: the card
# `data/checkpoints/unet_ensemble.md` has eleven.)
#
# Are they the same lesions? `lesion_uncertainty` compares the answers lesion by lesion. We come to its columns in a
# moment; for now we sort the found lesions by one of them.

# %%
from ies_helpers import lesion_uncertainty

table = lesion_uncertainty(answers, lesions, threshold=network.threshold)
found = table[table["group"].isin(["TP", "FP"])].sort_values("structural")

# %% [markdown]
# We take the lesion that the members agree about best, and the one that they agree about least.

# %%
sure, doubtful = (lesions[int(found["lesion"].iloc[n])] for n in (0, -1))
print(sure, doubtful, sep="\n")

# %% [markdown]
# Each member draws its own outline. Which lesion is it on the left, and which on the right?

# %%
import matplotlib.pyplot as plt

from ies_helpers import plot_slice

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")
drawn = {c: one > network.threshold for c, one in zip(COLOURS, answers, strict=True)}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.8), layout="constrained")
for ax, lesion in zip(axes, (sure, doubtful), strict=True):
    title = f"lesion {lesion.number}, {lesion.group}"
    plot_slice(subject, None, {"white": lesion} | drawn, ax=ax, title=title)

# %% [markdown]
# Each colour is what one member marks, and white is the ensemble's lesion. On the left the outlines lie on top of each
# other; one member draws a corner less. On the right is a thin bright rim above a ventricle. One member marks all of
# the rim as one large lesion, others a few voxels of it, and they do not mark the same voxels. (The two places further
# down are other lesions.)
#
# ## Doubt about an outline
#
# How far do outlines part? Let $L$ be a lesion of the ensemble. Each member offers the lesion of its own that overlaps
# $L$ best, and we take the overlap as intersection over union (IoU). The **structural uncertainty** of Molchanova and
# others is
#
# $$ 1 - \frac{1}{M} \sum_m \max_{c \in C_m} \text{IoU}(L, c), $$
#
# where $C_m$ are the lesions of member $m$. It is 0 if all members draw $L$ exactly, and 1 if none has anything there.
# Let us compute it once by hand, for the doubtful lesion.


# %%
def iou(mine, theirs):
    """Intersection over union of two lesions."""
    a, b = mine.mask(subject.shape), theirs.mask(subject.shape)
    return int((a & b).sum()) / int((a | b).sum())


# %% [markdown]
# Each member's best overlap, 0 where nothing of it touches $L$:

# %%
best = [max((iou(doubtful, le) for le in its if le.group != "FN"), default=0.0) for its in alone]
by_hand = 1 - sum(best) / len(best)
[round(overlap, 2) for overlap in best], round(by_hand, 3)

# %% [markdown]
# Three of the five offer nothing, or next to nothing. One has marked no voxel of it; one has marked two, and fewer than
# six do not make a lesion; and one has swallowed it in a large lesion, of which it is a hundredth. What does the table
# say?

# %%
row = table.set_index("lesion").loc[doubtful.number]
row[["structural", "structural_all"]]

# %% tags=["check"]
assert abs(by_hand - row["structural"]) < 1e-9

# %% [markdown]
# The first number is ours. The second, `structural_all`, treats a split lesion more kindly. If a member draws one
# lesion as two pieces, as one of the five does here, `structural` takes the better piece, as if the member had lost the
# other; `structural_all` takes everything of the member's that touches $L$ as one. Where the two differ, members split.
#
# A missed lesion (FN) has no such number. Where no member marked anything they all agree, and yet an overlap with
# nothing would make it the greatest doubt of all.
#
# ## Doubt about a voxel
#
# The other way begins with voxels. Take the five probabilities $p_m$ of a voxel, their mean $p$, and the entropy $h$ of
# a yes or no:
#
# - `entropy_of_mean`, $h(p)$: all that is open;
# - `expected_entropy`, the mean of $h(p_m)$: what each member leaves open by itself;
# - `mutual_information`, the difference: what is open because members differ.
#
# A lesion gets the mean over its voxels. Suppose one pair of members says 0.5 and 0.5, another pair 0 and 1. The mean
# is the same. Is the doubt?

# %%
import numpy as np

shown = ["entropy_of_mean", "expected_entropy", "mutual_information"]
pairs = {pair: np.stack([np.full(subject.shape, p, dtype=np.float32) for p in pair]) for pair in ((0.5, 0.5), (0, 1))}
doubts = {pair: lesion_uncertainty(two, [sure], threshold=0.4).iloc[0][shown] for pair, two in pairs.items()}
pd.DataFrame(doubts).astype(float).round(3)

# %% tags=["check"]
assert abs(doubts[0.5, 0.5]["mutual_information"]) < 1e-6
assert abs(doubts[0, 1]["mutual_information"] - np.log(2)) < 1e-6

# %% [markdown]
# All that is open is $\ln 2 \approx 0.693$ in both. In the first pair each member is undecided by itself, and they
# agree about that. In the second each is sure, and they *disagree*: only there is the mutual information above 0.
#
# Voxels have an entropy in missed lesions, too. How much do the five doubt them?

# %%
missed = table[table["group"] == "FN"]
missed[["voxels", "probability", "entropy_of_mean"]].round(3)

# %% tags=["check"]
assert missed["entropy_of_mean"].max() < 0.1

# %% [markdown]
# Hardly at all. All five give these lesions a probability near 0, and are sure of it, though one of them has more than
# two hundred voxels. Doubt helps to find what was
# marked in error. It does not lead you to what was overlooked.
#
# ## A cheaper question
#
# Five networks cost five trainings. But we can also ask *one* network about noisy copies of the image, with the noise
# that SmoothGrad adds. That is another question: not “would another network say so?” but “would this one say so of
# another scan?”

# %%
one = load_network("unet")
noisy = member_probabilities(one, subject.image, source="noise", draws=len(members), seed=0)
by_noise = lesion_uncertainty(noisy, lesions, threshold=network.threshold)

# %% [markdown]
# Do the two doubt the same lesions? We rank the lesions by each, and by size and probability, and correlate the ranks.

# %%
both = table.assign(noise=by_noise["structural"])[["structural", "noise", "voxels", "probability"]].dropna()
ranks = both.corr(method="spearman")
ranks.round(2)

# %% tags=["check"]
assert ranks.loc["structural", "noise"] > 0.6
assert ranks.loc["noise", "probability"] < -0.7

# %% [markdown]
# Noise and members rank this subject's lesions much alike. Most of what five trainings doubt, one network doubts as
# well when its image is shaken. But look at the last row: noise goes even closer with the mean probability, which you
# have anyway. Twenty lesions make rough correlations, so do not read their second decimal.
#
# ## All subjects, and their maps
#
# Now we take every found lesion of every subject, and for some of them, drawn at random, each member also makes its
# map: the gradient of the lesion's mean logit, five times over. `map_spread` says how far the five maps agree. It takes
# them as they are, in their unit, and gives the deviation between members as a share of the mean map, and the
# correlation of pairs.

# %%
from ies_helpers import gradient, map_spread


def spread_of(subject, lesion):
    """How far the members' maps of a lesion agree: deviation, and correlation."""
    maps = [gradient(member, subject.image, lesion, aggregate="mean") for member in members]
    row = map_spread(maps).table.set_index("channel").loc["all"]
    return row["relative_deviation"], row["correlation"]


# %% [markdown]
# Which lesions get maps? At most a handful of each group and subject.

# %%
MOST = 2 if SMALL else 8


def some_of(every):
    """At most `MOST` lesions of a group, drawn by a seed."""
    return [every[n] for n in np.random.default_rng(0).permutation(len(every))[:MOST]]


# %% [markdown]
# A row for each found lesion of a subject, with what members disagree about:


# %%
def doubts_of(subject):
    """Uncertainty of a subject's found lesions, and of the maps of some of them."""
    answers, lesions = member_probabilities(network, subject.image), find_lesions(network, subject)
    rows = lesion_uncertainty(answers, lesions, threshold=network.threshold).set_index("lesion")
    for lesion in some_of(lesions.of("TP")) + some_of(lesions.of("FP")):
        rows.loc[lesion.number, ["map_deviation", "map_correlation"]] = spread_of(subject, lesion)
    return rows[rows["group"].isin(["TP", "FP"])].assign(subject=subject.name)


# %% [markdown]
# All subjects, one after the other. This takes most of the chapter's time.

# %%
every = pd.concat([doubts_of(load(name)) for name in SUBJECTS], ignore_index=True)
every.groupby(["subject", "group"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# A row for each subject, a column for each group. First the outlines and the maps, true lesions beside false ones.

# %%
from ies_helpers import plot_groups

measures = {"structural": "outline: structural", "map_deviation": "map: relative deviation"}
figure = plot_groups(every, measures, unit="share", title="What members disagree about, lesion by lesion")

# %% [markdown]
# Each dot is a lesion, each subject a column. The medians:

# %%
middle = every.groupby("group")[["structural", "map_deviation"]].median()
middle.round(2)

# %% tags=["check"]
assert middle.loc["FP", "structural"] > middle.loc["TP", "structural"] + 0.15
assert SMALL or abs(middle.loc["FP", "map_deviation"] - middle.loc["TP", "map_deviation"]) < 0.15
assert middle["map_deviation"].min() > 0.5

# %% [markdown]
# Left, the outlines. The boxes, which hold the middle half, do not overlap: of a false lesion the members' outlines
# part by about a half, of a true one by less than a fifth. There are exceptions on both sides, as there are dots.
#
# Right, the maps. True and false lesions lie side by side. And look at the height: between members the maps of *any*
# lesion scatter by some eight tenths of what they have in common. Five networks that draw the same outline do not have
# the same map.
#
# Which measures say the same?

# %%
known = ["structural", "mutual_information", "probability", "voxels", "map_deviation", "map_correlation"]
alike = every[known].corr(method="spearman")
alike.round(2)

# %% tags=["check"]
assert alike.loc["structural", "probability"] < -0.7
assert SMALL or alike.loc["map_deviation", "map_correlation"] < -0.8
assert SMALL or abs(alike.loc["map_deviation", "structural"]) < 0.3
assert SMALL or alike.loc["map_deviation", "voxels"] > 0.3

# %% [markdown]
# `structural`, `mutual_information` and `probability` say much the same, and smaller lesions are the more doubtful
# ones. The two measures of the maps mirror each other. They have next to nothing to do with the doubt about the lesion;
# if with anything, they go with its size: in large lesions the maps agree less.
#
# ## What doubt is good for
#
# A measure of doubt is good if it lies on the wrong answers. The **error-retention curve** asks just that. We hand the
# most doubtful lesion over to an expert, then the next, and so on. A false lesion that is handed over disappears, a
# true one stays. How quickly does the share of true lesions among those marked rise?
#
# At the right end of the curve nothing has been handed over, at the left end everything. The higher it stays on the way
# from left to right, the better the doubt. We say beforehand which side of each measure is doubt.

# %%
from ies_helpers import plot_retention, retention_curve

doubt = {"structural": "high", "mutual_information": "high", "probability": "low", "voxels": "low"}
curves = {name: retention_curve(every, name, false_when=side) for name, side in doubt.items()}
figure = plot_retention(curves)

# %% tags=["check"]
assert SMALL or all(curve.gain > 0.4 for curve in curves.values())
assert SMALL or all(0.83 < curve.ppv[60] < 0.93 for curve in curves.values())
assert SMALL or abs(curves["structural"].area - curves["probability"].area) < 0.03

# %% [markdown]
# At the right end seven of ten marked lesions are true. Hand over four of ten, and by any of these measures it is
# between 85 and 91 of a hundred. All four curves lie far above the dashed one, the random order, and most of the way to
# the ideal. The intervals overlap widely. What five subjects do *not* show is that the structural uncertainty does
# better than the mean probability. (That one is the mean of five networks here. So it is not free either.)
#
# And the maps? We compare all measures on the lesions that have maps, so that each is asked about the same ones.

# %%
mapped = every.dropna(subset=["map_deviation"])
doubt |= {"map_deviation": "high", "map_correlation": "low"}
curves = {name: retention_curve(mapped, name, false_when=side) for name, side in doubt.items()}

# %% [markdown]
# One row for each measure: the area under its curve with its 95 % interval over subjects, and `gain`, which is 0 for a
# random order and 1 for the best there is.

# %%
rows = [(curve.area, *curve.interval, curve.gain) for curve in curves.values()]
worth = pd.DataFrame(rows, index=list(curves), columns=["area", "low", "high", "gain"])
worth.round(2)

# %% tags=["check"]
assert SMALL or (worth["gain"].iloc[:4] > 0.4).all()
assert SMALL or (worth["gain"].iloc[4:].abs() < 0.35).all()

# %% [markdown]
# On the same lesions, the outline, the voxels and even the size have most of the gain that can be had. The spread of
# the maps has none: to hand lesions over by it is as good as drawing lots.
#
# ## Where do the maps differ?
#
# One number for each lesion hides the place. For the doubtful lesion from the beginning, let us see the mean of the
# five maps beside their deviation, both in logits per unit.

# %%
maps = [gradient(member, subject.image, doubtful, aggregate="mean") for member in members]
spread = map_spread(maps)
spread.table.round(2)

# %% [markdown]
# A row for FLAIR, for T1, and for both together. The FLAIR maps:

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
plot_slice(subject, spread.mean, doubtful, ax=axes[0], title="mean of five maps")
ax = plot_slice(subject, spread.deviation, doubtful, ax=axes[1], title="deviation over members", colours="viridis")

# %% [markdown]
# Left, in the mean map, the lesion is orange: brighter there, and the logit rises. Right, the deviation is largest in
# the lesion and right around it, and it ends in square steps, because the members share the grid of their layers.
# Compare the two scales. In the lesion the mean is several times the deviation; a few millimetres away it is no larger.
# Let us put numbers to that.

# %%
mask = doubtful.mask(subject.shape)
parts = {"in the lesion": mask, "outside": ~mask}
shares = {place: float(spread.deviation[0][at].norm() / spread.mean[0][at].norm()) for place, at in parts.items()}
{place: round(share, 2) for place, share in shares.items()}

# %% tags=["check"]
assert shares["in the lesion"] < 0.4
assert shares["outside"] > 0.7

# %% [markdown]
# In this lesion the members' maps differ by about a fifth of their mean. (In large lesions, whose mean logit leans on
# each voxel less, it is up to six tenths: try one.) Outside, they differ by as much as they agree. So the place and the
# sign of the map on the lesion belong to the recipe. The fine pattern around it belongs to one network, and another
# training would have drawn another one.
#
# ## What we saw
#
# - Five networks of one recipe are equally good, but they do not mark the same lesions, nor draw the same outlines.
# - Of false lesions their outlines part far more than of true ones.
# - Structural uncertainty, mutual information and mean probability say much the same. By any of them you hand over false
#   lesions far better than by lot. Noisy copies of one network doubt mostly the same lesions.
# - No doubt lies on the lesions that all members miss.
# - The maps of five networks agree in the lesion better than around it. Their spread does not tell true from false.
#
# ## Limits
#
# Five members of one recipe, on the same two patients: what all of them learnt wrongly they agree about, and no measure
# here sees it. The doubt is the network's, not a doctor's. Phantoms are not patients, and five subjects make wide
# intervals. The ensemble averages logits, while the entropies use mean probabilities, so a lesion at the threshold can
# be in one and not in the other.
#
# ## Exercises
#
# **1.** How many members are enough? Compare the structural uncertainty of two, three and four members with that of all
# five.
#
# <details><summary>Solution</summary>
#
# ```python
# def doubt_of(some):
#     return lesion_uncertainty(some, lesions, threshold=network.threshold)["structural"]
#
# for count in (2, 3, 4):
#     print(count, round(doubt_of(answers[:count]).corr(table["structural"], method="spearman"), 2))
# others = doubt_of(answers[2:])
# print("the first two, and the other three:", round(doubt_of(answers[:2]).corr(others, method="spearman"), 2))
# ```
#
# Expected: two members already rank the lesions nearly as all five do, and each member more brings the order closer.
# The first two agree a little less with the other three.
#
# *The usual wrong answer:* “Two are enough, since their order is that of all five.” The two are among the five, so in
# part they agree with themselves. The last line compares them with strangers.
#
# </details>
#
# **2.** Is the patient's number the mean of the lesions' numbers? Look at `patient_uncertainty`.
#
# <details><summary>Solution</summary>
#
# ```python
# from ies_helpers import patient_uncertainty
#
# whole = patient_uncertainty(answers, lesions, threshold=network.threshold)
# print(round(whole["structural"], 3), round(whole["mean_structural"], 3))
# ```
#
# Expected: the first is only half of the second. It is an overlap of volumes, so large lesions, which members mostly
# agree about, rule it. In the second a lesion of six voxels counts as much as the largest.
#
# *The usual wrong answer:* “Yes, a patient is the sum of the lesions.” Then report both, and see how a patient with one
# large lesion and ten small ones looks sure by the first and doubtful by the second.
#
# </details>
#
# **3.** Turn the doubt around and hand over the *surest* lesions first. What becomes of `gain`, and what would you
# conclude from a gain far below zero?
#
# <details><summary>Solution</summary>
#
# ```python
# print(round(retention_curve(every, "structural", false_when="low").gain, 2))
# ```
#
# Expected: below zero. False lesions are now kept to the last, so precision rises more slowly than by a random order.
#
# *The usual wrong answer:* “Below zero, so I turn it round, and have a good measure.” A measure far below zero does say
# as much as one far above. But its side must be known *before* you see the data: if you choose it afterwards, you find
# a gain in pure chance.
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
# [Chapter 15](15_fewer_false_lesions.ipynb) asks whether the texture of maps helps to throw false lesions out. For
# patients of your own, `ies uncertainty SUBJECT --network unet:ensemble` asks what this chapter asked.
