# %% [markdown]
# # 15 · Fewer false lesions?
#
# **Question.** The network marks lesions, some of them false, and each has a saliency map. Can the maps help to throw
# the false ones out? And how would one come to believe so if they could not?
#
# **Objectives.** You turn a map into numbers that have units. You judge found lesions by what costs nothing (size,
# probability, uncertainty) and by their maps, each patient by a model that never saw it. You read what was removed,
# what was lost with it, and how sure that is over patients. You find a signal where there is none, in ways that were
# published, and learn which question gives each of them away.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02, 04 and 09. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ies_helpers as ies

SMALL = os.environ.get("IES_SMALL") == "1"
PERMUTATIONS = 19 if SMALL else 199

# %% [markdown]
# ## A map in numbers
#
# Chapter 09 took one number of a map, its peak. A map holds more: how strong it is in the lesion, how its sign changes
# outwards, how steeply it falls at the border, whether it is one spot or many. We look at a true and a false lesion of
# the demo subject, of about the same size.

# %%
subject, network = ies.load_subject("demo"), ies.load_network("unet")
lesions = ies.find_lesions(network, subject)
false = max(lesions.of("FP"), key=len)
true = min(lesions.of("TP"), key=lambda lesion: abs(len(lesion) - len(false)))
print(true, false, sep="\n")

# %% [markdown]
# A SmoothGrad of each, by the mean over the lesion's voxels.

# %%
maps = {le.group: ies.smoothgrad(network, subject.image, le, aggregate="mean", draws=4) for le in (true, false)}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
for ax, lesion in zip(axes, (true, false), strict=True):
    title = f"{lesion.group}, {len(lesion)} voxels"
    ies.plot_slice(subject, maps[lesion.group], lesion, ax=ax, reach_mm=12, title=title, unit="logit per unit")

# %% [markdown]
# FLAIR with the map over it, the lesion outlined; each panel has its own scale. Both are mostly warm on the lesion,
# where more FLAIR raises its score. By eye nobody would call one of them false.
#
# `map_features` says what such a picture shows. Each channel has its own; a few of FLAIR:

# %%
told = {group: ies.map_features(maps[group], le, subject.affine) for group, le in (("TP", true), ("FP", false))}
shown = ["mean", "sd", "balance", "balance_2-5", "edge_slope", "inside", "spread", "compactness", "contrast"]
pd.DataFrame({group: {name: values[f"flair_{name}"] for name in shown} for group, values in told.items()}).round(3)

# %% [markdown]
# `balance` is the sign in the lesion, from -1 to 1, `balance_2-5` that between 2 and 5 mm away. What each says:

# %%
from ies_helpers.measures.features import FEATURES

rows = [(name, FEATURES[name].unit, FEATURES[name].meaning) for name in shown]
pd.DataFrame(rows, columns=["feature", "unit", "says"])

# %% [markdown]
# `map` is the map's own unit. These numbers are *not* scaled map by map: whoever z-scores each map before measuring it
# has decided beforehand that strength says nothing (chapter 10 has met such maps). Distances are in mm.
#
# ## Lesions of many patients
#
# Two lesions prove nothing, nor do those of five patients: chapter 09 ended with intervals too wide to act upon. So a
# table comes with this chapter: the lesions that this network found and missed in 14 phantoms, each with size, mean
# probability, uncertainty and the features of its map. `tests/bench/refine.py` made it, and would make yours; `ies
# explain` and `ies refine` do it for folders.

# %%
from ies_helpers.teaching import phantom_lesions

table = phantom_lesions()
table.groupby("group")["subject"].agg(["size", "nunique"])

# %% [markdown]
# Rows are lesions and patients that have them. One found lesion in five is false, and a quarter of the target's lesions
# is missed. Missed ones stay in the table: without them sensitivity would be 1 whatever we throw out.
#
# ## What costs nothing
#
# Before any map is asked: how far does one get with what is known anyway? As in chapter 09 we say beforehand which side
# speaks for a false lesion: small, of low probability, of high uncertainty.

# %%
from ies_helpers.figures.charts import plot_roc

sides = {"voxels": "low", "probability": "low", "uncertainty": "high"}
figure = plot_roc({name: ies.roc(table, name, false_when=side) for name, side in sides.items()})

# %% [markdown]
# Each of them does well, and the mean probability, which every network gives away, does best. Whoever compares
# features with chance alone has already won.
#
# ## An honest pipeline
#
# A model of many features can learn anything by heart. Five rules keep it from telling us about itself:
#
# 1. *Patients, not lesions, are split.* Whoever is judged was seen in no step below.
# 2. *Scaling* (mean and spread of each feature) is that of the training patients.
# 3. *How simple the model is*, the ridge penalty of a logistic regression, is chosen by splitting the training patients
#    again.
# 4. *Its probabilities are calibrated*, and *the threshold is set*, on the same inner splits: 95 of 100 true lesions of
#    the training patients stay. So all judges are compared at one sensitivity.
# 5. *A removed true lesion is a missed one*, and joins those that the network had missed already.
#
# Judges are each free number by itself, a model of these together (`free`), one of the features, and one of `all`.

# %%
refined = ies.refine(table, permutations=PERMUTATIONS)
columns = ["judge", "auc", "tp", "fp", "fn", "sensitivity", "ppv", "f1", "f1_gain_low", "f1_gain_high"]
refined.judges[columns].round(2)

# %% [markdown]
# A row a judge, first what the network found. Every judge trades true lesions for false ones: PPV rises and sensitivity
# falls. The last two columns are the interval of what F1 gained.

# %%
from ies_helpers.figures.charts import plot_refined

figure = plot_refined(refined)

# %% [markdown]
# Bars are 95 % intervals over patients, the grey line is chance on the left and what was found elsewhere. Features tell
# false lesions from true ones about as well as the size does. All judges raise PPV, by five to nine hundredths, and
# lose three or four hundredths of sensitivity; what is left for F1 is two hundredths at most, and its interval holds
# zero for every judge.
#
# ## Do the features add anything?
#
# The right question is not whether features tell false lesions from true ones. A feature that merely knows the size
# does that. It is whether they tell *more than what is free*. So we look at the difference of two areas, and ask how
# large it gets when the features say nothing more: what the free numbers do not predict of them is exchanged among the
# lesions of each patient, and the whole pipeline learns again.

# %%
print(refined)

# %% [markdown]
# The difference of the two areas is about zero, and its interval holds zero: on these phantoms, with this network and
# these maps, *the features add nothing to what is free*. A small p would not contradict that: it compares with features
# of pure noise, which make `all` worse than `free`. Read both. That a paper finds a gain over *no judge at all* is no
# contradiction either; so does the size.
#
# Which features the model leans on, by their standardised weights, mean over its folds:

# %%
weights = refined.weights.groupby("column")["weight"].mean()
weights.reindex(weights.abs().sort_values(ascending=False).index).head(8).round(2)

# %% [markdown]
# The probability first, then signs and shares. Columns that go together share their weight among them, so the order
# below the first few says little.
#
# ## How to find something in nothing
#
# There are more than fifty features. We shuffle which lesions are false, within each patient: now *nothing* is there to
# be found. Then we do what one does when one looks around first: the area of every single feature, either side.

# %%
found = table[table["group"].isin(["TP", "FP"])]
names = [column for column in table if column.startswith(("flair_", "t1_"))]
rng = np.random.default_rng(0)
shuffled = found.assign(group=found.groupby("subject")["group"].transform(lambda g: rng.permutation(g)))
areas = {name: ies.roc(shuffled, name, resamples=1).auc for name in names}
best = max(areas, key=lambda name: abs(areas[name] - 0.5))
print(f"best of {len(names)}: {best}, AUC {max(areas[best], 1 - areas[best]):.2f}")

# %% [markdown]
# A tenth above the half that is there. It was chosen by the very lesions on which it is reported. The pipeline, asked
# the same:

# %%
nothing = pd.concat([shuffled, table[table["group"] == "FN"]])
judges = ies.refine(nothing, permutations=0).judges
judges[["judge", "auc", "within", "within_low", "within_high"]].round(2)

# %% [markdown]
# Inside patients (`within`) every area is one half, as it must be: what was found in the training patients is not there
# in the others. Over all pairs the models lie far *below* one half, and the free numbers above. That is the trap of
# chapter 09: patients differ in their share of false lesions, and one with many is judged by a model that met few.
#
# ## What we saw
#
# - A map holds more than its peak; what it holds has units, and can be tested.
# - Size, probability and uncertainty tell false lesions from true ones well, and cost nothing.
# - Beside them the texture of the maps adds nothing here.
# - Removing lesions buys PPV with sensitivity. Count the missed ones, before and after.
# - Of many features one always looks good on the lesions by which it was chosen.
#
# ## Limits
#
# Phantoms, whose false lesions are made by rules of ours; one small network; one draw a map; 14 patients, so that a
# gain of less than a few hundredths could hide in the intervals. Patients of one kind were judged by others of the same
# kind: nothing here says what happens on another scanner. Found lesions that meet the same target lesion are each
# counted as one true lesion.
#
# ## Exercises
#
# **1.** Let lesions be patients: give each its own name as `subject`, and refine again. What happens to the intervals,
# and to the area? Which of the two would a reviewer see?
#
# <details><summary>Solution</summary>
#
# ```python
# alone = table.assign(subject=[f"{s}-{n}" for n, s in enumerate(table["subject"])])
# wrong = ies.refine(alone, permutations=0)
# for name, one in {"patients": refined, "lesions": wrong}.items():
#     low, high = one.curves["all"].interval
#     print(f"{name} drawn: AUC {one.curves['all'].auc:.2f} ({low:.2f} to {high:.2f})")
# ```
#
# Expected: a much narrower interval, though no patient was added. The area may move as well, as each lesion is now
# judged by a model that knows its neighbours. Nobody who reads "95 % interval by bootstrap" can see it; ask what was
# drawn.
#
# </details>
#
# **2.** Fit the scaler on the test set. Let ten patients teach and four be judged. Standardise the features of the four
# by *their own* mean and spread before the model sees them, as one published script does. Then judge only a few of
# their lesions: does what is said of them stay the same?
#
# <details><summary>Solution</summary>
#
# ```python
# def scaled(part):
#     numbers = part[names]
#     return part.assign(**((numbers - numbers.mean()) / numbers.std()))
#
# ten = sorted(table["subject"].unique())[:10]
# learned, others = table[table["subject"].isin(ten)], table[~table["subject"].isin(ten)]
# few = others.groupby("group").head(8)
# for how, change in {"as they are": lambda part: part, "scaled by themselves": scaled}.items():
#     judged = [ies.refine(change(learned), unseen=change(part), permutations=0).lesions for part in (others, few)]
#     both = judged[0].merge(judged[1], on=["subject", "lesion"])
#     print(f"{how}: moved by up to {(both['evidence all_x'] - both['evidence all_y']).abs().max():.2f}")
# ```
#
# Expected: 0.00 as they are. Scaled by themselves, the probability that a lesion is false depends on which other
# lesions lie beside it. No clinic has a test set to scale by when the next patient comes.
#
# </details>
#
# **3.** Leave the missed lesions out of the table. Which numbers change, and which headline becomes possible?
#
# <details><summary>Solution</summary>
#
# ```python
# without = ies.refine(found, permutations=0)
# for name, one in {"with": refined, "without": without}.items():
#     first, last = one.judges.iloc[0], one.judges.iloc[-1]
#     print(f"{name} missed ones: sensitivity {first['sensitivity']:.2f} to {last['sensitivity']:.2f}")
# ```
#
# Expected: the sensitivity as found becomes 1, though no lesion was found that was not found before.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2024). Exploiting XAI maps to improve MS lesion segmentation and detection in MRI. MICCAI
#   workshop iMIMIC. [arXiv 2409.03772](https://arxiv.org/abs/2409.03772). Texture of maps against false lesions.
# - Zwanenburg A. and others (2020). The Image Biomarker Standardization Initiative. *Radiology* 295:328-338.
#   [doi 10.1148/radiol.2020191145](https://doi.org/10.1148/radiol.2020191145). Co-occurrence and runs.
# - Freedman D. and Lane D. (1983). A nonstochastic interpretation of reported significance levels. *Journal of Business
#   & Economic Statistics* 1:292-298.
#   [doi 10.1080/07350015.1983.10509354](https://doi.org/10.1080/07350015.1983.10509354). Permuting what is left.
#
# ## Next
#
# [Chapter 12](12_own_data_and_cohorts.ipynb) takes your own patients through; `ies explain` and `ies refine` judge
# theirs.
