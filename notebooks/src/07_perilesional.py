# %% [markdown]
# # 07 · How much surrounding tissue?
#
# **Question.** A lesion is bright, but so is much else. How far around a lesion must a network see to call it one?
#
# **Objectives.** You hide everything but a lesion and a growing rim around it, and watch the network change its mind.
# You see that *how* you hide matters more than one would like. You compare three networks. Then you put lesions
# into healthy tissue and take them away, and check a saliency map against what really happens.
#
# **Minutes.** 3 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02 and 04. About 4 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. Another patient: `openms:patient26`, some minutes more.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ies_helpers as ies
from ies_helpers import gradient, perilesional_curve, plot_perilesional, smoothgrad
from ies_helpers.arrays import Box

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT = "demo"

# %% [markdown]
# ## Hide the brain, show the lesion
#
# The experiment is the paper's: keep a lesion's voxels, dilate them by one voxel, two, up to 34, and set both images to zero
# outside. The *score* is the mean probability over the lesion's voxels; the lesion is *seen* if any of them is above
# the threshold. The paper takes lesions of more than 90 and fewer than 120 voxels. We take the three true positives
# closest to 100.

# %%
subject = ies.load_subject(SUBJECT)
network = ies.load_network("unet")
if SMALL:  # the middle of the brain, through smaller windows
    middle = Box.of((16, 16, 16), (80, 112, 80))
    subject = replace(subject, image=subject.image[:, *middle], target=subject.target[middle])
    network = replace(network, window=64)
probability = ies.predict(network, subject.image)
lesions = ies.find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
chosen = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 100))[: 1 if SMALL else 3]
print(lesions, *chosen, sep="\n")

# %% [markdown]
# First to see what the network sees: the FLAIR image with 0, 5, 15 and 30 voxels of surroundings.

# %%
from matplotlib.colors import Normalize

from ies_helpers.saliency.context import steps_from

lesion = chosen[0]
far = torch.from_numpy(steps_from(lesion.mask(subject.shape).numpy()))
style = {"colours": "gray", "scale": Normalize(-2, 4), "unit": None, "reach_mm": None}
figure, axes = plt.subplots(1, 4, figsize=(10, 3.4), layout="constrained")
for ax, steps in zip(axes, (0, 5, 15, 30), strict=True):
    shown = subject.image * (far <= steps)
    ies.plot_slice(subject, shown, {"#56B4E9": lesion}, ax=ax, title=f"{steps} voxels", **style)

# %% [markdown]
# The grey is zero, which in a z-scored image is the *mean of the brain*, not black. At 0 only the lesion stands out from a
# flat grey world; at 30 more than a third of the picture is there. The blue line is the lesion.
#
# Each of the 35 pictures must go through the network. But the score uses the lesion's voxels alone, so only windows that
# hold one of them are run: here both windows of two, in a whole head some of 27. The numbers are those of the whole
# volume, up to rounding.

# %%
rows = []
for lesion in chosen:
    curve = perilesional_curve(network, subject.image, lesion, affine=subject.affine)
    about = {"subject": subject.name, "lesion": lesion.number, "group": lesion.group, "network": "unet"}
    rows.append(curve.assign(**about, fill="zero", volume_mm3=lesion.volume_mm3))
curves = pd.concat(rows, ignore_index=True)
figure = plot_perilesional(curves)

# %% [markdown]
# Left, how many of the lesions are seen when tissue up to that distance is shown. Middle, their mean score with one standard
# deviation, as in the paper's Figure 3. Right, what an average hides: each lesion's own curve. In a small hole a
# bright lesion mostly is *no* lesion to this network: after a blip that some have at the very beginning the score lies
# near zero for several millimetres, then rises, each lesion at its own distance. Three numbers for each: the first distance at which it is seen, the one
# from which on it is always seen, and the one from which on it keeps 95 % of its full score.

# %%
from ies_helpers import summarise_curves

summarise_curves(curves).drop(columns=["subject", "network"])

# %% [markdown]
# `first_seen_mm` may be smaller than `seen_from_mm`: seen, lost again, and found for good further out.
#
# ## Is it the tissue, or the hole?
#
# A lesion on flat grey is an image that the network has never met. Perhaps it does not miss the tissue; perhaps the sharp edge
# of the hole disturbs it. So we hide in another way: behind a *blurred* copy of the image (a gaussian of 4 mm). Structure
# is gone there, the region's brightness stays, and no edge is made.

# %%
lesion = chosen[0]
zero = curves[curves["lesion"] == lesion.number]
blurred = perilesional_curve(network, subject.image, lesion, fill="blurred", affine=subject.affine)
about = {"subject": subject.name, "lesion": lesion.number, "group": lesion.group, "network": "unet"}
blurred = blurred.assign(**about, fill="blurred", volume_mm3=lesion.volume_mm3)
both = pd.concat([zero, blurred], ignore_index=True)
figure = plot_perilesional(both)
print(summarise_curves(both)[["fill", "first_seen_mm", "seen_from_mm", "keeps_mm"]].to_string(index=False))

# %% [markdown]
# The same lesion, the same network: solid lines hide behind zero, dashed ones behind the blurred image. With the blurred fill the
# lesion is seen with next to nothing of its real surroundings, and the score is high almost from the start. `keeps_mm` may
# hide that: a curve that dips once, by a little, below 95 % keeps it only from there on. Look at the curve, not at one
# number. So most of what the zero fill measures here is not a need for tissue: it is the harm done by the hole. The distances in the paper come
# from a zero fill, too. They say how far away a hole must be to do no harm, but "the network uses 10 mm of context" is
# more than they show. A third fill, each channel's mean, is
# no control at all: in a z-scored image it *is* zero.
#
# ## Three networks
#
# Now the same lesion for all three, at a few distances, since every point costs a forward pass of each window. What is compared
# is again the zero fill, as published.

# %%
some, parts = (0, 5, 15) if SMALL else (0, 3, 6, 10, 15, 20, 30), []
for name in ("unet", "nnunet") if SMALL else ("unet", "nnunet", "swin_unetr"):
    seen = replace(ies.load_network(name), window=network.window)
    curve = perilesional_curve(seen, subject.image, lesion, distances=some, affine=subject.affine)
    about = {"subject": subject.name, "lesion": lesion.number, "group": lesion.group, "network": name}
    parts.append(curve.assign(**about, fill="zero", volume_mm3=lesion.volume_mm3))
compared = pd.concat(parts, ignore_index=True)
figure = plot_perilesional(compared)

# %% [markdown]
# One colour a network (on the left one line may lie under another), and they disagree about the question itself. The U-Net needs surroundings. The two others may call
# the lone lesion a lesion at once: instance normalisation and attention measure it against the rest of its window, and
# against flat grey nothing is as bright. Then tissue can even take score away. The paper found plateaus from about 7 mm
# (U-Net) to 12 to 15 mm (Swin UNETR) over many lesions of networks that were trained otherwise; one lesion and three
# small networks that never met a hole cannot confirm or refute that. What they show is that such a curve belongs to a
# network *and* a fill. `ies perilesional` does all lesions of many subjects.
#
# ## Lesions of our own making
#
# So far we hid what is around a lesion. Now we change the lesion itself, and nothing else: we put one into healthy
# white matter, or take one away. Then we know what the right answer is, and we can turn the strength of a lesion like
# a knob.
#
# First the unit. The *contrast* of a lesion is the mean over its voxels less the median of the white matter around it,
# in z-scored units (standard deviations of the brain). How strong are this patient's own lesions?

# %%
from ies_helpers import add_lesion, remove_lesion
from ies_helpers.subjects.editing import healthy_places, lesion_contrast, lesion_pattern

rows = [(le.group, len(le), *lesion_contrast(subject, le).values()) for le in lesions]
contrasts = pd.DataFrame(rows, columns=["group", "voxels", "FLAIR", "T1"])
contrasts.groupby("group")[["voxels", "FLAIR", "T1"]].median().round(2)

# %% [markdown]
# Each row is a group of lesions, with medians over its lesions: size, contrast in FLAIR, contrast in T1. Found lesions
# are brighter in FLAIR than the white matter around them, by about one unit, and darker in T1, by about half of that:
# the proportion that the synthetic lesions have built in. Do not expect the false ones to be fainter; what looks like a
# lesion to the network is often just as bright. A lesion with hardly any white matter around has no contrast and is
# left out. Now one of 100 mm³, a ball with a soft edge, in white matter
# that the seed chooses, more than 2 mm away from every true lesion.

# %%
from ies_helpers.saliency.score import LesionScore

SIZE, CONTRAST = 100, 1.5
place = healthy_places(subject, SIZE, 1, seed=0)[0]
_, synthetic = lesion_pattern(subject, place, SIZE)
grown = add_lesion(subject, place, SIZE, CONTRAST)
score = LesionScore(network, subject.image, synthetic)
(before, after), _ = score([score.image, score.crop(grown.image)])
print(f"at voxel {tuple(int(a) for a in place)}: score {before:.3f} without the lesion, {after:.3f} with it")
assert torch.equal(grown.image[:, subject.target], subject.image[:, subject.target])
assert before < network.threshold < after

# %% [markdown]
# The score is again the mean probability over the lesion's voxels. The image was *not* z-scored anew: all voxels that
# we did not edit keep their value to the last bit, so what changes in the score is the lesion's doing. The other way
# round: we take away the found lesion that is closest to 100 voxels and fill the hole with the level and the grain of
# the white matter around.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 100))
shrunk = remove_lesion(subject, lesion, seed=0)
score = LesionScore(network, subject.image, lesion)
(before, after), _ = score([score.image, score.crop(shrunk.image)])
print(f"lesion {lesion.number}: score {before:.3f}, without it {after:.3f}")
how = {"aggregate": "mean", "draws": 2 if SMALL else 8}
maps = [smoothgrad(network, image, lesion, **how) for image in (subject.image, shrunk.image)]
shares = [float(g[0].abs().max()) for g in maps]
print(f"peak of the FLAIR map: {shares[0]:.4f} with the lesion, {shares[1]:.4f} without, logits per unit")

# %% [markdown]
# And to look at: the two images, and the two maps.

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
names = ("FLAIR", "lesion taken away", "map", "map, lesion taken away")
for ax, drawn, values, name in zip(axes, (subject, shrunk) * 2, (None, None, *maps), names, strict=True):
    ies.plot_slice(drawn, values, lesion, ax=ax, scale=max(shares), unit=None, title=name)
bar = figure.colorbar(axes[-1].images[0], ax=axes, label="logit per unit", shrink=0.9)

# %% [markdown]
# One axial plane around the lesion, its outline in white. Where the lesion was there is now ordinary white
# matter, and the score has fallen. The maps to the right share one scale, in logits per unit: warm above zero, blue
# below. With the lesion and without it, both are mostly warm inside the outline, though the second one explains voxels
# that the network no longer calls lesion. The map answers "what would raise the logit *here*", and brightness would,
# whether or not there is any. How large the values are changes, and so does the pattern around; but nobody can tell
# from a map alone that a lesion is there. Read the score beside it. Slice by slice, the map of the image as it is:

# %%
ies.view(subject, {("smoothgrad", "mean"): maps[0]}, lesion)

# %% [markdown]
# Turn to T1: there it is the other way round, darker raises the logit.
#
# ## Dose and response
#
# How visible must a lesion be? We put the same ball into some places of healthy white matter, one at a time, raise its
# contrast from nothing, and ask the network for its score. `dose_response` runs only what the score depends on, so a
# point costs a forward pass on a crop or on a few windows.

# %%
from ies_helpers import dose_response, plot_dose

doses = np.arange(0, 2.6, 0.5 if SMALL else 0.25)
places = healthy_places(subject, SIZE, 2 if SMALL else 6, seed=1)
parts = [dose_response(network, subject, place, SIZE, doses) for place in places]
for name in () if SMALL else ("nnunet", "swin_unetr"):
    other = ies.load_network(name)
    parts += [dose_response(other, subject, place, SIZE, doses[::2]) for place in places[:2]]
table = pd.concat(parts)
figure = plot_dose(table, title=f"{subject.name}: lesions of {SIZE} mm³, one at a time")

# %% [markdown]
# Above, the score against the contrast: a thin line for each place, a thick one for their mean, one colour a network;
# the two slower networks have two places and every second contrast. Below, the share of the places where at least one
# voxel is above the network's threshold. The response is no straight line. It stays near zero, rises steeply over
# about one unit of contrast or less, and saturates: beyond, a lesion can become brighter and the score hardly notices. The thin
# lines of the U-Net are mostly steeper than their mean, and shifted against each other: the same lesion is seen earlier
# in one place than in another, though all places are white matter. The three networks rise close to each other; here,
# unlike behind a hole, the lesion lies in tissue as they know it.
# Where on this curve do the patient's own lesions lie?

# %%
own = contrasts.loc[contrasts["group"] == "TP", "FLAIR"].quantile([0.25, 0.5, 0.75])
print(f"own lesions that were found, contrast in FLAIR: {own[0.25]:.2f} to {own[0.75]:.2f}, median {own[0.5]:.2f}")
for name, rows in table.groupby("network", sort=False):
    mean = rows.groupby("contrast")["score"].mean()
    half = np.interp(0.5, mean.to_numpy(), mean.index) if mean.max() > 0.5 else np.nan
    print(f"{name}: half the score at contrast {half:.2f}, {mean.iloc[-1]:.2f} at {mean.index[-1]:.2f}")

# %% [markdown]
# If the contrast of half the score lies within the range of the patient's own lesions, the network works at its edge:
# a lesion a little fainter than the common one is lost. If it lies below, there is some room. This is a statement about
# balls of one size in white matter. Real lesions are larger or smaller, ragged, and most often where the network expects them.
#
# ## The map predicts the slope
#
# Here is a test that a map can fail. The synthetic lesion is *added*, so the image moves along a straight line as the
# contrast grows: $x(c) = x + c\,p$, with $p$ the ball, positive in FLAIR and half as negative in T1. The chain rule
# says how fast the mean logit $\bar z$ of its voxels grows:
#
# $$ \frac{d \bar z}{dc} = \sum_{\text{modalities, voxels}} p \; \frac{\partial \bar z}{\partial x} , $$
#
# the sum of pattern times gradient. We measure the slope by a small step, and compare.

# %%
for contrast in (0.5, 1.0, 1.5):
    step = dose_response(network, subject, place, SIZE, [contrast - 0.02, contrast + 0.02])["logit"]
    measured = float(step[1] - step[0]) / 0.04
    image = add_lesion(subject, place, SIZE, contrast).image
    pattern, mask = lesion_pattern(subject, place, SIZE)
    predicted = float((gradient(network, image, mask, aggregate="mean") * pattern).sum())
    print(f"contrast {contrast:.1f}: slope {measured:.2f} measured, {predicted:.2f} from the gradient, logits per unit")
    assert abs(measured / predicted - 1) < 0.1

# %% [markdown]
# The two agree. They need not agree to the last digit: the measured slope is that of a step of 0.04 units, the
# gradient's that of an endless small one, and a network with rectifiers has kinks in between. This is what a gradient
# map knows, and all that it knows: what a *small* change would do. The slope is that of the logit, which rises all the
# way; that the score of the figure above stays flat, rises and stays flat again is the softmax's doing more than the network's.
#
# ## What we saw
#
# - On flat grey, most lesions alone are none to the U-Net, and the score comes back at another distance for each. To the
#   two other networks a lone lesion may be one.
# - Hidden behind a blurred image, the same lesion is seen at once. The fill is part of the experiment.
# - A synthetic lesion gives the right answer beforehand, and a gradient map passes the test of the slope.
#
# ## Limits
#
# The shipped networks are small. Three lesions are an illustration; for a statement take all subjects you have and the
# intervals of `average_curves`, which resample subjects. Any fill makes an image that no scanner makes. The blurred one still
# shows the mean brightness of the region, which is a hint, too.
#
# ## Exercises
#
# **1.** A false positive: from which distance on is it seen? Take the largest one.
#
# <details><summary>Solution</summary>
#
# ```python
# false = max(lesions.of("FP"), key=len)
# curve = perilesional_curve(network, subject.image, false, distances=(0, 5, 10, 20, 30), affine=subject.affine)
# print(curve[["distance_mm", "score", "seen"]].round(2).to_string(index=False))
# ```
#
# Expected: a curve of the same kind. Needing surroundings does not tell a false lesion from a true one.
#
# </details>
#
# **2.** Hide the *lesion*, not the rest: what is the score then?
#
# <details><summary>Solution</summary>
#
# ```python
# hidden = subject.image.clone()
# hidden[:, lesion.mask(subject.shape)] = 0
# print(float(ies.predict(network, hidden)[lesion.mask(subject.shape)].mean()))
# ```
#
# Expected: near 0. The lesion is necessary. Whether it is sufficient is what the curves at their left end say.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Figure 3.
# - Sturmfels P., Lundberg S., Lee S.-I. (2020). Visualizing the impact of feature attribution baselines. *Distill*.
#   [doi 10.23915/distill.00022](https://doi.org/10.23915/distill.00022). What stands in for "missing" decides the answer.
#
# ## Next
#
# [Chapter 08](08_three_networks.ipynb) looks at the three networks and their windows more closely.
