# %% [markdown]
# # 07 · How much surrounding tissue?
#
# **Question.** A lesion is bright, but so is much else. How far around a lesion must a network see to call it one?
#
# **Objectives.** You hide everything but a lesion and a growing rim around it, and watch the network change its mind.
# You see that *how* you hide matters more than you would like. You compare three networks. Then you put lesions
# into healthy tissue and take them away, and check a saliency map against what really happens.
#
# **Minutes.** 3 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02 and 04. About 4 GB of memory. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# To look at another patient, change `SUBJECT`; the open ones take some minutes more.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
SUBJECT = "demo"  # or "openms:patient26"

# %% [markdown]
# The subject and the network:

# %%
from ies_helpers import load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")

# %% [markdown]
# Where the tests run this chapter, it looks at the middle of the brain, and through smaller windows.

# %%
from dataclasses import replace

from ies_helpers.teaching import middle_of

if SMALL:
    subject, network = middle_of(subject, (64, 96, 64)), replace(network, window=64)

# %% [markdown]
# ## Hide the brain, show the lesion
#
# The experiment is the paper's: keep a lesion's voxels, dilate them by one voxel, two, up to 34, and set both images to
# zero outside. The *score* is the mean probability over the lesion's voxels; the lesion is *seen* if any of them is
# above the threshold. The paper takes lesions of more than 90 and fewer than 120 voxels. We take the three true
# positives closest to 100.

# %%
from ies_helpers import find_lesions

lesions = find_lesions(network, subject)
chosen = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 100))[: 1 if SMALL else 3]
print(lesions, *chosen, sep="\n")

# %% [markdown]
# Before we ask the network, let us look at what it will get to see. For each voxel we count how many dilations it takes
# to reach it from the first lesion. Neighbours share a face or an edge: 18 of them, as in the paper.

# %%
from scipy import ndimage

lesion = chosen[0]
touching = ndimage.generate_binary_structure(3, 2)
far = ndimage.distance_transform_cdt(~lesion.mask(subject.shape).numpy(), metric=touching)

# %% [markdown]
# All four pictures get the same grey scale.

# %%
from matplotlib.colors import Normalize

style = {"colours": "gray", "scale": Normalize(-2, 4), "unit": None, "reach_mm": None}

# %% [markdown]
# Four pictures, from the lesion alone to 30 voxels:

# %%
import matplotlib.pyplot as plt
import torch

from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 4, figsize=(10, 3.4), layout="constrained")
for ax, steps in zip(axes, (0, 5, 15, 30), strict=True):
    shown = subject.image * torch.from_numpy(far <= steps)
    plot_slice(subject, shown, {"#56B4E9": lesion}, ax=ax, title=f"{steps} voxels", **style)

# %% [markdown]
# FLAIR with more and more surroundings; the blue line is the lesion. The grey is zero, which in a z-scored image is the
# *mean of the brain*, not black. At 0 only the lesion stands out from a flat grey world; at 30 more than a third of the
# picture is there.
#
# `perilesional_curve` shows the network 35 such pictures of one lesion. But the score uses the lesion's voxels alone,
# so only windows that hold one of them are run: here both windows of two, in a whole head some of 27. The numbers are
# those of the whole volume, up to rounding. We write beside each curve whose it is.

# %%
from ies_helpers import perilesional_curve


def curve_of(network, lesion, fill="zero", distances=range(35)):
    """One lesion's curve, a row for each distance, and whose it is."""
    how = {"distances": distances, "fill": fill, "affine": subject.affine}
    curve = perilesional_curve(network, subject.image, lesion, **how)
    about = {"subject": subject.name, "lesion": lesion.number, "group": lesion.group, "network": network.name}
    return curve.assign(**about, fill=fill, volume_mm3=lesion.volume_mm3)


# %% [markdown]
# All chosen lesions, one below the other:

# %%
import pandas as pd

from ies_helpers import plot_perilesional

curves = pd.concat([curve_of(network, le) for le in chosen], ignore_index=True)
figure = plot_perilesional(curves)

# %% [markdown]
# Left, how many of the lesions are seen when tissue up to that distance is shown. Middle, their mean score with one
# standard deviation, as in the paper's Figure 3. Right, what an average hides: each lesion's own curve. In a small hole
# a bright lesion is mostly *no* lesion to this network: after a blip that some have at the very beginning, the score
# lies near zero for several millimetres, then rises, each lesion at its own distance.
#
# Three numbers for each: the first distance at which it is seen, the one from which on it is always seen, and the one
# from which on it keeps 95 % of its full score.

# %%
from ies_helpers import summarise_curves

summarise_curves(curves).drop(columns=["subject", "network"])

# %% [markdown]
# `first_seen_mm` may be smaller than `seen_from_mm`: seen, lost again, and found for good further out.
#
# ## Is it the tissue, or the hole?
#
# A lesion on flat grey is an image that the network has never met. Perhaps it does not miss the tissue at all; perhaps
# the sharp edge of the hole disturbs it. So let us hide in another way: behind a *blurred* copy of the image (a
# Gaussian of 4 mm). Structure is gone there, the region's brightness stays, and no edge is made.

# %%
zero = curves[curves["lesion"] == lesion.number]
both = pd.concat([zero, curve_of(network, lesion, fill="blurred")], ignore_index=True)
figure = plot_perilesional(both)

# %% [markdown]
# The same lesion, the same network: solid lines hide behind zero, dashed ones behind the blurred image. With the
# blurred fill the lesion is seen with next to nothing of its real surroundings, and the score is high almost from the
# start.

# %%
summarise_curves(both)[["fill", "first_seen_mm", "seen_from_mm", "keeps_mm"]]

# %% [markdown]
# `keeps_mm` may hide that: a curve that dips once, by a little, below 95 % keeps it only from there on. Look at the
# curve, not at one number.
#
# So most of what the zero fill measures here is not a need for tissue: it is the harm that the hole does. The distances
# in the paper come from a zero fill, too. They say how far away a hole must be to do no harm, but "the network uses
# 10 mm of context" is more than they show. A third fill, each channel's mean, is no control at all: in a z-scored image
# it *is* zero (exercise 3).
#
# ## Three networks
#
# Now the same lesion for all three, at a few distances, since every point costs a forward pass of each window. What we
# compare is again the zero fill, as published.

# %%
names = ("unet", "nnunet") if SMALL else ("unet", "nnunet", "swin_unetr")
networks = [replace(load_network(name), window=network.window) for name in names]
some = (0, 5, 15) if SMALL else (0, 3, 6, 10, 15, 20, 30)

# %% [markdown]
# The three curves of our lesion:

# %%
compared = pd.concat([curve_of(each, lesion, distances=some) for each in networks], ignore_index=True)
figure = plot_perilesional(compared)

# %% [markdown]
# One colour for each network (on the left one line may lie under another), and they disagree about the question itself.
# The U-Net needs surroundings. The two others may call the lone lesion a lesion at once: instance normalisation and
# attention measure it against the rest of its window, and against flat grey nothing is as bright. Then tissue can even
# take score away.
#
# The paper found plateaus from about 7 mm (U-Net) to 12 to 15 mm (Swin UNETR) over many lesions, with networks that
# were trained on other data. One lesion and three small networks that never met a hole cannot confirm or refute that.
# What they show is that such a curve belongs to a network *and* a fill. `ies perilesional` does all lesions of many
# subjects.
#
# ## Lesions of our own making
#
# So far we hid what is around a lesion. Now we change the lesion itself, and nothing else: we put one into healthy
# white matter, or take one away. Then we know what the right answer is, and we can turn the strength of a lesion up and
# down like the volume of a radio.
#
# First the unit. The *contrast* of a lesion is the mean over its voxels less the median of the white matter around it,
# in z-scored units (standard deviations of the brain). How strong are this patient's own lesions?

# %%
from ies_helpers.subjects.editing import lesion_contrast

rows = [{"group": le.group, "voxels": len(le)} | lesion_contrast(subject, le) for le in lesions]
contrasts = pd.DataFrame(rows)
contrasts.groupby("group")[["voxels", "flair", "t1"]].median().round(2)

# %% [markdown]
# Each row is a group of lesions, with medians over its lesions: size, contrast in FLAIR, contrast in T1. Found lesions
# are brighter in FLAIR than the white matter around them, by about one unit, and darker in T1, by about half of that:
# the proportion that the synthetic lesions have built in. Do not expect the false ones to be fainter; what looks like a
# lesion to the network is often just as bright. A lesion with hardly any white matter around it has no contrast and is
# left out.
#
# Now one of our own, 100 mm³ in size. `healthy_places` draws a place for it in white matter, more than 2 mm away from
# every true lesion.

# %%
from ies_helpers.subjects.editing import healthy_places

SIZE, CONTRAST = 100, 1.5
place = healthy_places(subject, SIZE, 1, seed=0)[0]
print("centre at voxel", tuple(int(a) for a in place))

# %% [markdown]
# `add_lesion` puts a ball with a soft edge there and gives us a new subject, with the ball in its target. The image is
# *not* z-scored anew: all voxels that we did not edit keep their value to the last bit, so whatever changes in the
# score, the lesion did it.

# %%
from ies_helpers import add_lesion

grown = add_lesion(subject, place, SIZE, CONTRAST)
ball = grown.target & ~subject.target

# %% tags=["check"]
assert torch.equal(grown.image[:, subject.target], subject.image[:, subject.target])

# %% [markdown]
# Does the network see it? The score is again the mean probability over the lesion's voxels.

# %%
from ies_helpers import predict


def score(image, where):
    """Mean probability over the voxels of a mask."""
    return float(predict(network, image)[where].mean())


# %% [markdown]
# At the same voxels, before and after:

# %%
before, after = score(subject.image, ball), score(grown.image, ball)
print(f"score {before:.3f} without the lesion, {after:.3f} with it")

# %% tags=["check"]
assert before < network.threshold < after

# %% [markdown]
# The other way round: we take away the found lesion that is closest to 100 voxels, the one whose curves we know, and
# fill the hole with the level and the grain of the white matter around.

# %%
from ies_helpers import remove_lesion

shrunk, mask = remove_lesion(subject, lesion, seed=0), lesion.mask(subject.shape)
print(f"lesion {lesion.number}: score {score(subject.image, mask):.3f}, without it {score(shrunk.image, mask):.3f}")

# %% [markdown]
# And what does a saliency map say of the two images? We explain the same voxels in both.

# %%
from ies_helpers import smoothgrad

how = {"aggregate": "mean", "draws": 2 if SMALL else 8}
maps = [smoothgrad(network, image, lesion, **how) for image in (subject.image, shrunk.image)]
peaks = [float(g[0].abs().max()) for g in maps]
print(f"peak of the FLAIR map: {peaks[0]:.4f} with the lesion, {peaks[1]:.4f} without, logits per unit")

# %% [markdown]
# The two images, and the two maps, on one scale:

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
titles = ("FLAIR", "lesion taken away", "map", "map, lesion taken away")
for ax, drawn, values, title in zip(axes, (subject, shrunk) * 2, (None, None, *maps), titles, strict=True):
    plot_slice(drawn, values, lesion, ax=ax, scale=max(peaks), unit=None, title=title)
bar = figure.colorbar(axes[-1].images[0], ax=axes, label="logit per unit", shrink=0.9)

# %% [markdown]
# One axial plane around the lesion, its outline in white. Where the lesion was there is now ordinary white matter, and
# the score has fallen. The maps to the right are in logits per unit: warm above zero, blue below. With the lesion and
# without it, both are mostly warm inside the outline, though the second one explains voxels that the network no longer
# calls lesion. The map answers "what would raise the logit *here*?", and brightness would, whether or not there is any.
# How large the values are changes, and so does the pattern around them; but nobody can tell from a map alone that a
# lesion is there. So read the score beside it.
#
# Slice by slice, the map of the image as it is:

# %%
from ies_helpers import view

view(subject, {("smoothgrad", "mean"): maps[0]}, lesion)

# %% [markdown]
# Turn to T1: there it is the other way round, darker raises the logit.
#
# ## Dose and response
#
# How visible must a lesion be? We put the same ball into some places of healthy white matter, one at a time, raise its
# contrast from nothing, and ask the network for its score. `dose_response` runs only what the score depends on, so a
# point costs a forward pass on a crop or on a few windows.

# %%
import numpy as np

from ies_helpers import dose_response

doses = np.arange(0, 2.6, 0.5 if SMALL else 0.25)
places = healthy_places(subject, SIZE, 2 if SMALL else 6, seed=1)
parts = [dose_response(network, subject, at, SIZE, doses) for at in places]

# %% [markdown]
# The two slower networks get two places and every second contrast.

# %%
for name in () if SMALL else ("nnunet", "swin_unetr"):
    other = load_network(name)
    parts += [dose_response(other, subject, at, SIZE, doses[::2]) for at in places[:2]]

# %% [markdown]
# All together:

# %%
from ies_helpers import plot_dose

table = pd.concat(parts)
figure = plot_dose(table, title=f"{subject.name}: lesions of {SIZE} mm³, one at a time")

# %% [markdown]
# Above, the score against the contrast: a thin line for each place, a thick one for their mean, one colour for each
# network. Below, the share of the places where at least one voxel is above the network's threshold. The response is no
# straight line. It stays near zero, rises steeply over about one unit of contrast or less, and saturates: from then on
# a lesion can become brighter and the score hardly notices.
#
# The thin lines of the U-Net are mostly steeper than their mean, and shifted against each other: the same lesion is
# seen earlier in one place than in another, though all places are white matter. The three networks rise close to each
# other; here, unlike behind a hole, the lesion lies in tissue as they know it.
#
# Where on this curve do the patient's own lesions lie?

# %%
own = contrasts.loc[contrasts["group"] == "TP", "flair"].quantile([0.25, 0.5, 0.75])
print(f"own lesions that were found, contrast in FLAIR: {own[0.25]:.2f} to {own[0.75]:.2f}, median {own[0.5]:.2f}")

# %% [markdown]
# And at which contrast does each network give half the score?

# %%
for name, rows in table.groupby("network", sort=False):
    mean = rows.groupby("contrast")["score"].mean()
    half = np.interp(0.5, mean.to_numpy(), mean.index) if mean.max() > 0.5 else np.nan
    print(f"{name}: half the score at contrast {half:.2f}, {mean.iloc[-1]:.2f} at {mean.index[-1]:.2f}")

# %% [markdown]
# If the contrast of half the score lies within the range of the patient's own lesions, the network works at its edge: a
# lesion a little fainter than usual is lost. If it lies below, there is some room. All this is about balls of one size
# in white matter. Real lesions are larger or smaller, ragged, and most often where the network expects them.
#
# ## The map predicts the slope
#
# Here is a test that a map can fail. The synthetic lesion is *added*, so the image moves along a straight line as the
# contrast grows: $x(c) = x + c\,p$, with $p$ the ball, positive in FLAIR and half as negative in T1.

# %%
pattern = add_lesion(subject, place, SIZE, 1.0).image - subject.image

# %% [markdown]
# The chain rule says how fast the mean logit $\bar z$ of its voxels grows:
#
# $$ \frac{d \bar z}{dc} = \sum_{\text{modalities, voxels}} p \; \frac{\partial \bar z}{\partial x} , $$
#
# the sum of pattern times gradient. That is what the map predicts.

# %%
from ies_helpers import gradient


def predicted(contrast):
    """Slope from the gradient: the sum of pattern times gradient."""
    image = add_lesion(subject, place, SIZE, contrast).image
    return float((gradient(network, image, ball, aggregate="mean") * pattern).sum())


# %% [markdown]
# What really happens we measure by a small step of the contrast.


# %%
def measured(contrast, step=0.02):
    """Slope of the mean logit, from a little less contrast to a little more."""
    low, high = dose_response(network, subject, place, SIZE, [contrast - step, contrast + step])["logit"]
    return (high - low) / (2 * step)


# %% [markdown]
# Do they agree? Both in logits per unit:

# %%
rows = [(contrast, measured(contrast), predicted(contrast)) for contrast in (0.5, 1.0, 1.5)]
slopes = pd.DataFrame(rows, columns=["contrast", "measured", "from the gradient"])
slopes.round(2)

# %% tags=["check"]
assert (slopes["measured"] / slopes["from the gradient"] - 1).between(-0.1, 0.1).all()

# %% [markdown]
# They do. Not to the last digit: the measured slope is that of a step of 0.04 units, the gradient's that of an
# infinitely small one, and a network with rectifiers has kinks in between. This is what a gradient map knows, and all
# that it knows: what a *small* change would do. The slope is that of the logit, which rises all the way. That the score
# of the figure above stays flat, rises and stays flat again is the softmax's doing more than the network's.
#
# ## What we saw
#
# - On flat grey, the U-Net no longer calls most lesions a lesion, and the score comes back at another distance for
#   each. The two other networks may still call a lone lesion one.
# - Hidden behind a blurred image, the same lesion is seen at once. The fill is part of the experiment.
# - With a synthetic lesion we know the right answer beforehand, and a gradient map passes the test of the slope.
#
# ## Limits
#
# The shipped networks are small. Three lesions are an illustration; to make a statement, take all subjects you have and
# the intervals of `average_curves`, which resample subjects. Any fill makes an image that no scanner makes. The blurred
# one still shows the mean brightness of the region, which is a hint, too.
#
# ## Exercises
#
# **1.** A false positive: from which distance on is it seen? Take the largest one.
#
# <details><summary>Solution</summary>
#
# ```python
# false = max(lesions.of("FP"), key=len)
# curve_of(network, false, distances=(0, 5, 10, 20, 30))[["distance_mm", "score", "seen"]].round(2)
# ```
#
# Expected: a curve of the same kind. Needing surroundings does not tell a false lesion from a true one.
#
# *The usual wrong answer:* “A false lesion needs more surroundings, because it is the surroundings that
# mislead the network.” That is a story, and the curve does not tell it. It says at which distance a hole stops doing
# harm, for a false lesion as for a true one.
#
# </details>
#
# **2.** Hide the *lesion*, not the rest: what is the score then?
#
# <details><summary>Solution</summary>
#
# ```python
# hidden = subject.image.clone()
# hidden[:, mask] = 0
# print(f"{score(hidden, mask):.3f}")
# ```
#
# Expected: near 0. The lesion is necessary. Whether it is sufficient is what the curves at their left end say.
#
# *The usual wrong answer:* “Well above 0: the network knows from the surroundings where lesions are.” It may
# well use them. But they alone do not make a lesion of this place. (Zero is an edit that no scanner makes, here as
# before. `remove_lesion` is the fairer test, and there the score has fallen, too.)
#
# </details>
#
# **3.** A colleague repeats the experiment with each channel's mean in place of zero, gets the same curve, and calls it
# robust. Is it?
#
# <details><summary>Solution</summary>
#
# ```python
# by_mean = curve_of(network, lesion, fill="mean", distances=(0, 5, 15))
# by_zero = curve_of(network, lesion, fill="zero", distances=(0, 5, 15))
# print(f"largest difference {(by_mean['score'] - by_zero['score']).abs().max():.0e}")
# ```
#
# Expected: next to nothing. Each channel was z-scored over the brain, so its mean over the brain is zero up to
# rounding: the colleague made the same experiment twice.
#
# *The usual wrong answer:* “Two fills that agree show that the result does not depend on the fill.” Two
# fills that *differ* would. The blurred image differs, and with it the curve is another one.
#
# </details>
#
# ## References
#
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Figure 3.
# - Sturmfels P., Lundberg S., Lee S.-I. (2020). Visualizing the impact of feature attribution baselines. *Distill*.
#   [doi 10.23915/distill.00022](https://doi.org/10.23915/distill.00022). What stands in for "missing" decides the
#   answer.
#
# ## Next
#
# [Chapter 08](08_three_networks.ipynb) looks at the three networks and their windows more closely.
