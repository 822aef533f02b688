# %% [markdown]
# # 09 · True or false?
#
# **Question.** The network marks a lesion, and nobody knows whether it is one. Does its saliency map give it away?
#
# **Objectives.** You sort lesions into four groups and compare the peaks of their maps. You find out what such a peak
# measures besides: mostly the lesion's size. You compare groups with lesions as the unit and with subjects as the unit,
# and see how much a p-value can promise. You ask whether one number gives a false lesion away. And you turn a true
# negative into a lesion by hand and watch its peak.
#
# **Minutes.** 3 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02, 04 and 05. About 4 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word decides whom we look at. `phantoms` are made on the spot. `patients` are three open ones, of whom the shipped
# network has seen 07 and 19 in its training. `thirty` are all open patients; they are downloaded once, and take much
# longer.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
COHORT = "phantoms"
SUBJECTS = {
    "phantoms": ["demo", "phantom:8", "phantom:2", "phantom:3", "phantom:4"][: 3 if SMALL else 5],
    "patients": [f"openms:patient{n}" for n in ("07", "19", "26")],
    "thirty": [f"openms:patient{n:02d}" for n in range(1, 31)],
}[COHORT]

# %% [markdown]
# ## Four groups
#
# A found lesion that touches one of the target is true positive (TP), one that touches none false positive (FP); a
# target lesion that was not found is false negative (FN). The paper compares a fourth group, true negatives (TN):
# places where neither has a lesion. It leaves open which. Ours: for each chosen TP its shape, moved to a place in
# healthy-looking white matter that a seed draws, clear of all lesions. So a TN has a TP's size.
#
# A subject by its name (in a test run, the middle of its brain):

# %%
from ies_helpers import load_subject
from ies_helpers.teaching import middle_of


def load(name):
    """A subject that is ready for the network."""
    subject = load_subject(name)
    return middle_of(subject, (96, 128, 96)) if SMALL else subject


# %% [markdown]
# We take at most a handful of each group and subject, so that no subject drowns out the others.

# %%
import numpy as np

MOST, DRAWS = (4, 1) if SMALL else (8, 2)


def some_of(every):
    """At most `MOST` lesions of a group, drawn by a seed."""
    return [every[n] for n in np.random.default_rng(0).permutation(len(every))[:MOST]]


# %% [markdown]
# The sorting, as a function of the subject:

# %%
from ies_helpers import find_lesions, load_network, true_negatives

network = load_network("unet")


def groups_of(subject):
    """Some lesions of each group, and a control for each of the true ones."""
    lesions = find_lesions(network, subject)
    true, false, missed = (some_of(lesions.of(group)) for group in ("TP", "FP", "FN"))
    return [*true, *false, *missed, *(true_negatives(subject, lesions, true) if true else [])]


# %% [markdown]
# How many are there in the first subject?

# %%
import pandas as pd

subject = load(SUBJECTS[0])
pd.Series([lesion.group for lesion in groups_of(subject)], name=subject.name).value_counts()

# %% [markdown]
# ## A peak for each lesion
#
# The peak of a map is its largest value, in logits per unit, one for each modality.

# %%
from ies_helpers import peak
from ies_helpers.teaching import maps_of


def peaks_of(subject, lesions, aggregate):
    """Largest value of each lesion's map in FLAIR, and in T1."""
    maps = maps_of(network, subject.image, lesions, aggregate=aggregate, draws=DRAWS)
    tops = [peak(saliency) for _, saliency in maps]
    return [(top["flair_max"], top["t1_max"]) for top in tops]


# %% [markdown]
# We make two maps of each lesion:
#
# - `mean`, equation 2: the gradient of the *mean* logit of the lesion's voxels. Times the number of voxels it is the
#   gradient of their `sum`, which is what the published scripts compute for most lesions (chapter 05);
# - `max`, equation 3: at each voxel of the image the largest of the gradients of *single* lesion voxels.
#
# For the `max` we take six voxels of each lesion, which a seed draws: the smallest lesion has no more, and the largest
# of many values is larger than that of a few, for no other reason than their number. Six are also quick.

# %%
from dataclasses import replace


def six_of(lesion):
    """A lesion with six of its voxels alone."""
    drawn = np.random.default_rng([0, lesion.number]).permutation(lesion.voxels)[:6]
    return replace(lesion, voxels=drawn)


# %% [markdown]
# All that we want to know of a subject, in a table with one row for each lesion:


# %%
def table_of(subject):
    """Group, size, probability and peaks of a subject's lesions."""
    chosen = groups_of(subject)
    table = pd.DataFrame({"subject": subject.name, "group": [le.group for le in chosen]})
    table["voxels"], table["p"] = [len(le) for le in chosen], [le.mean_probability for le in chosen]
    table[["mean_flair", "mean_t1"]] = peaks_of(subject, chosen, "mean")
    table[["max_flair", "max_t1"]] = peaks_of(subject, [six_of(le) for le in chosen], "max")
    return table


# %% [markdown]
# Now all subjects, one after the other; this is what takes the time.

# %%
table = pd.concat([table_of(load(name)) for name in SUBJECTS], ignore_index=True)
table.groupby(["subject", "group"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# A row for each subject, a column for each group. We chose these synthetic subjects: of the phantoms at hand, some on
# which this network marks false lesions.
#
# First the peaks of the `mean` map, and of the `sum`, in FLAIR.

# %%
from ies_helpers import plot_groups

table["sum_flair"] = table["mean_flair"] * table["voxels"]
figure = plot_groups(table, {"mean_flair": "FLAIR, mean", "sum_flair": "FLAIR, sum"})

# %% [markdown]
# Each dot is a lesion. Each subject has a marker and a column of dots, each group a colour; the box holds the middle
# half, the thick line is the median. The two panels show the same gradients, and they contradict each other. By the
# `mean`, false lesions have the *higher* peaks, and missed ones come next. By the `sum`, true lesions lie above false
# ones, as in the paper, and so do the true negatives, where there is no lesion at all. What do TP and TN have in common
# here? Their size. So let us see how each peak goes with it.

# %%
for measure in ("mean_flair", "sum_flair", "max_flair"):
    rho = table[[measure, "voxels"]].corr(method="spearman").iloc[0, 1]
    print(f"{measure}: rank correlation with the lesion's size {rho:+.2f}")

# %% [markdown]
# And how large are the lesions of each group? The table has the middle half of the sizes and of each measure.

# %%
from ies_helpers import group_table

group_table(table, ["voxels", "mean_flair", "sum_flair", "max_flair"]).round(2)

# %% [markdown]
# False and missed lesions are small, true ones large: a network misses and invents what is small. The `mean` divides by
# the number of voxels, so its peak falls with size, almost as if it were nothing else; the `sum` grows with it. Any
# difference in size between two groups becomes a difference in peaks. The peak of six voxels depends on size least;
# what is left of the correlation may be real: voxels inside a large lesion and voxels at the border of a small one are
# not alike. So we look at that one.

# %%
figure = plot_groups(table, {"max_flair": "FLAIR, max of six voxels", "max_t1": "T1, max of six voxels"})

# %% [markdown]
# The boxes overlap widely. A unit more of FLAIR where it matters most moves a voxel's logit by about two, and that is
# so in a true lesion, in a false one, and in healthy tissue. T1 counts for about a quarter of that; more FLAIR than T1
# is what the paper reports, too. If a group stands out it is the false lesions, and they stand *above*.
#
# ## A hundred lesions are not a hundred patients
#
# The paper compares groups with the Mann-Whitney U test: how often is a value of the one group larger than one of the
# other? `delta` says how much more often than smaller, from -1 (never) over 0 to 1 (always): Cliff's delta. The test
# takes every lesion as an independent witness. But lesions of one subject share its contrast, its noise, and the
# network's luck with it: twenty of them are fewer than twenty witnesses.

# %%
from ies_helpers import compare_groups

compared = compare_groups(table, "max_flair")
compared["pair"] = compared["first"] + " > " + compared["second"]
compared[["pair", "n_first", "n_second", "p_holm", "delta", "naive_low", "naive_high", "low", "high"]].round(3)

# %% [markdown]
# A row for each pair of groups. `p_holm` is the p-value of the usual test, corrected for six comparisons. Of the two
# intervals of delta, `naive_low` to `naive_high` resamples lesions, `low` to `high` resamples whole subjects. Where
# `low` and `high` lie on one side of zero the difference holds over subjects. The interval over subjects is usually the
# wider one, but not always: with a handful of subjects it is itself uncertain, and more likely too narrow than too
# wide. The note in the table says so:

# %%
print("; ".join(sorted(set(compared["note"]))))

# %% [markdown]
# We can ask one more question of few subjects: *in the same subject*, is the peak of a true lesion larger than that of
# a false one? Then no difference between subjects can play a part.

# %%
compared[["pair", "delta", "within", "within_low", "within_high"]].round(2)

# %% [markdown]
# `within` is delta over pairs of lesions of one subject, with its interval over subjects.
#
# ## Is this one false?
#
# Groups may differ, and still you cannot tell what a single lesion is. What you have before you is a *found* lesion, TP
# or FP, and a number. Put a threshold anywhere, call what lies on one side false: the ROC curve shows which share of
# the false lesions is caught, and which share of the true ones is called false, for all thresholds. The area below it
# (AUC) is the chance that of a false and a true lesion the false one looks more false: 0.5 is a coin.
#
# We say beforehand which side is which, as the paper's order has it: a *low* peak speaks for a false lesion. Beside the
# peaks we ask two numbers that need no map at all, the size and the mean probability.

# %%
from ies_helpers import roc

asked = {"low peak, max": "max_flair", "low peak, sum": "sum_flair", "small size": "voxels", "low probability": "p"}
curves = {name: roc(table, column, false_when="low") for name, column in asked.items()}

# %% [markdown]
# All four curves:

# %%
from ies_helpers.figures.charts import plot_roc

figure = plot_roc(curves)

# %% tags=["check"]
assert SMALL or curves["low peak, max"].auc < 0.45
assert SMALL or curves["small size"].auc > curves["low peak, sum"].auc + 0.05
assert SMALL or curves["low probability"].auc > 0.8

# %% [markdown]
# The further a curve bends to the upper left the better; the band belongs to the first. The low peak of `max` runs
# *below* the diagonal: the rule from the paper points the wrong way for this network. (Do not turn an AUC below 0.5
# round and call it a success. If you pick the side afterwards, you find more than 0.5 in pure chance.) The low peak of
# the `sum` does better, with an area of 0.7, because it knows the size. The size alone does better still, at 0.84. And
# the mean probability, which comes free, does best.
#
# One number mixes two questions. Over all pairs a false lesion of one subject is compared with a true lesion of another,
# so the area also says how subjects differ. The area inside subjects does not:

# %%
for name, curve in curves.items():
    low, high = curve.within_interval
    print(f"{name}: {curve.auc:.2f} over all pairs, {curve.within:.2f} ({low:.2f} to {high:.2f}) inside subjects")

# %% [markdown]
# Here the two tell the same. Where they differ much, subjects differ in more than their lesions.
#
# Does a peak know anything *beyond* size and probability? For that we need a model of several numbers, which must judge
# subjects it has never seen, and more than five of them. [Chapter 15](15_fewer_false_lesions.ipynb) does this with
# fifty features of a map, its peak among them. Here we take another way, and make a lesion ourselves.
#
# ## Turn a true negative into a lesion
#
# Groups differ in many ways at once: size, place, subject. With a synthetic lesion we change one thing. We put a ball
# of 100 mm³ into healthy white matter, always the same voxels; its contrast grows from nothing (a true negative) to
# that of a plain lesion (chapter 07). If the peak told lesions from healthy tissue, it would have to change on the way.

# %%
from ies_helpers.subjects.editing import healthy_places

SIZE = 100
places = healthy_places(subject, SIZE, 2 if SMALL else 4, seed=1)
contrasts = (0.0, 1.0, 2.0) if SMALL else (0.0, 0.5, 1.0, 1.5, 2.0)

# %% [markdown]
# The voxels of the ball are those that `add_lesion` adds to the target.

# %%
from ies_helpers import add_lesion


def ball_at(place):
    """Voxels of the ball around a place."""
    grown = add_lesion(subject, place, SIZE, 1.0)
    return np.argwhere((grown.target & ~subject.target).numpy())


# %% [markdown]
# At one contrast we ask for three numbers: the score, and the peaks of both maps.

# %%
from ies_helpers import predict, smoothgrad


def answers(place, contrast, voxels, six):
    """Mean probability of the ball, and the peaks of its maps in FLAIR."""
    image = add_lesion(subject, place, SIZE, contrast).image
    top = smoothgrad(network, image, six, aggregate="max", draws=DRAWS)[0].max()
    mean = smoothgrad(network, image, voxels, aggregate="mean", draws=DRAWS)[0].max()
    score = predict(network, image)[tuple(voxels.T)].mean()
    return {"contrast": contrast, "score": float(score), "max": float(top), "mean": float(mean)}


# %% [markdown]
# All places, all contrasts:

# %%
rows = []
for n, place in enumerate(places):
    voxels = ball_at(place)
    six = np.random.default_rng([0, n]).permutation(voxels)[:6]
    rows += [{"place": n} | answers(place, contrast, voxels, six) for contrast in contrasts]
grown = pd.DataFrame(rows)

# %% [markdown]
# A line for each place:

# %%
import matplotlib.pyplot as plt

names = {"score": "mean probability", "max": "FLAIR peak, max of six", "mean": "FLAIR peak, mean"}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (column, name) in zip(axes, names.items(), strict=True):
    lines = grown.pivot(index="contrast", columns="place", values=column)
    ax.plot(lines.index, lines, color="#0072B2", marker="o", alpha=0.8)
    unit = "" if column == "score" else "logit per unit"
    ax.set(title=name, xlabel="contrast in FLAIR", ylabel=unit, ylim=(0, None))

# %% [markdown]
# Left, the score: at first the network is sure that there is no lesion, at the end that there is one. Middle, the peak
# of single voxels: it goes up and down by place and noise, and has no direction. The network's answer changes
# completely, its sensitivity hardly. Right, the peak of the `mean`: mostly largest on the way, just before the score
# rises, and lower at both ends.
#
# A peak tells how steep the logit is at this image, not how high. It is steep where a decision is about to fall. That
# is why small, doubtful lesions, false ones among them, may peak above plain ones. And it is why you should not expect a
# peak to know more than the probability: both say how decided the network is.
#
# ## Paper and ours
#
# The medians of the groups, highest first:

# %%
for measure in ("mean_flair", "sum_flair", "max_flair"):
    medians = table.groupby("group")[measure].median().sort_values(ascending=False)
    print(f"{measure}: " + " > ".join(f"{group} ({value:.2f})" for group, value in medians.items()))

# %% [markdown]
# | | paper | here | comparable? |
# |---|---|---|---|
# | subjects | 35 patients of one hospital, not public | phantoms, or open patients | no |
# | network | U-Net trained on that hospital's patients | half its width, trained on phantoms and two patients | no |
# | TP, FP, FN | overlap with the target, more than 5 voxels | the same | yes |
# | TN | left open | shape of a TP in healthy white matter | no |
# | map | SmoothGrad, 50 draws; scripts that add gradients up | `mean`, `sum`, `max` of six voxels, few draws | `sum`, by its order |
# | test | Mann-Whitney U over lesions, p < 0.001 | the same with Holm, and intervals over subjects | direction of an effect; not p, which falls with the number of lesions |
# | order of peaks | TP > FP > FN > TN | printed above, for each map | direction and order; no value |
#
# Two groups that differ in size differ in the peak of any map that adds up or divides. Whether that is the reason for
# the paper's order we cannot know without its data. It is the first thing to rule out.
#
# Do patients say the same? Try `COHORT = "patients"`. When we ran them with ten draws and up to twenty lesions a group,
# the `sum` put TP above the other three groups, TN of the same shape included, while FP and FN lay below TN. With six
# voxels each, TP, FP and FN were alike, and all above TN. So the `sum` found the first place of the paper's order,
# `max` the last, and neither the order between. Two of the three patients had been in the network's training. Over
# these patients and ten phantoms together, a model of size and peaks was no better than size alone.
#
# ## What we saw
#
# - Peaks of `mean` and `sum` maps go mostly with the lesion's size, in opposite directions.
# - With the same number of voxels for all, peaks of the four groups overlap, and the paper's order does not appear.
# - Lesions are not subjects: a p-value over lesions promises more than is known.
# - Size and probability, which need no map, tell false lesions from true ones better than a peak does.
# - A peak is a slope. That of the `mean` is largest on the way from no lesion to a plain one.
#
# ## Limits
#
# One small network; synthetic brains, on which its false lesions need not be like those in patients; few subjects; few
# draws. Of five subjects an interval is a rough guess. Six voxels of a lesion are a sample of it. That size explains
# our peaks does not prove that it explains the paper's. And other features of a map than its peak may tell more: chapter
# 15 asks them.
#
# ## Exercises
#
# **1.** Compare like with like: only lesions of up to 50 voxels. Which differences in the `sum` go, which stay?
# Remember that TN have the shapes of TP.
#
# <details><summary>Solution</summary>
#
# ```python
# alike = table[table["voxels"] <= 50]
# print(alike.groupby("group")["voxels"].median())
# print(compare_groups(alike, "sum_flair")[["first", "second", "n_first", "n_second", "delta", "low", "high", "note"]])
# ```
#
# Expected: TP lie above FP and FN, but TP are still the larger ones. They also lie above TN, and those are of the same
# size: among small lesions, where the network is less sure, a true one does have a higher peak than healthy tissue.
# Over all sizes this was hidden. A group of fewer than five is not compared, and the note says so.
#
# *The usual wrong answer:* “All lesions are small now, so size is ruled out, and TP above FP is a finding.” Up to 50
# voxels is still a range, and within it true lesions are the larger ones: look at the medians. Only TN are matched to
# TP lesion by lesion.
#
# </details>
#
# **2.** What AUC does chance give? Shuffle TP and FP within each subject, 200 times, and look where the real one lies.
#
# <details><summary>Solution</summary>
#
# ```python
# rng = np.random.default_rng(0)
# found, areas = table[table["group"].isin(["TP", "FP"])], []
# for _ in range(200):
#     shuffled = found.groupby("subject")["group"].transform(lambda groups: rng.permutation(groups))
#     areas.append(roc(found.assign(group=shuffled), "max_flair", resamples=1).auc)
# print(np.quantile(areas, [0.025, 0.5, 0.975]).round(2), round(roc(table, "max_flair").auc, 2))
# ```
#
# Expected: a middle near 0.5, though not exactly, as subjects have different levels and shares of false lesions; 95 %
# of the shuffled areas lie within 0.15 or 0.2 of it. A real one outside is more than chance mostly does.
#
# *The usual wrong answer:* “Chance gives 0.5, so an AUC of 0.6 is something.” It gives 0.5 on average. With so few
# lesions it often gives 0.6, and 0.4 as often.
#
# </details>
#
# **3.** On paper: five true lesions all peak above five false ones. Which p does the test give? Could it be any smaller
# with five against five? And what do we know if all ten are of one subject?
#
# <details><summary>Solution</summary>
#
# There are 252 ways to choose five of ten, two of them (all above, all below) are this extreme: 2/252. It cannot get
# smaller.
#
# ```python
# ten = pd.DataFrame({"subject": "one", "group": ["TP"] * 5 + ["FP"] * 5, "peak": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]})
# row = compare_groups(ten, "peak").iloc[0]
# print(f"{row['p']:.4f}, {2 / 252:.4f}; interval over subjects: {row['low']} to {row['high']} ({row['note']})")
# ```
#
# Expected: `0.0079` twice, and no interval: about other subjects nothing is known.
#
# *The usual wrong answer:* “p is below 0.01, so true lesions peak higher.” In this subject they do, and you did not
# need a test to see it. The test takes its ten lesions as ten witnesses for all subjects. There is one witness.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). The order of peaks.
# - Cliff N. (1993). Dominance statistics: ordinal analyses to answer ordinal questions. *Psychological Bulletin*
#   114:494-509. [doi 10.1037/0033-2909.114.3.494](https://doi.org/10.1037/0033-2909.114.3.494).
# - Holm S. (1979). A simple sequentially rejective multiple test procedure. *Scandinavian Journal of Statistics*
#   6:65-70.
#
# ## Next
#
# [Chapter 10](10_is_the_map_true.ipynb) asks of the maps themselves whether they are true.
