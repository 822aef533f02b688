# %% [markdown]
# # 04 · SmoothGrad
#
# **Question.** Which part of a gradient map is about the lesion, and which part is about the noise of this one image?
#
# **Objectives.** You can say what SmoothGrad averages and with how much noise. You check it against two networks whose
# answer you know. You see how many draws a map needs, and what the sign, the modality and the strength of the noise do
# to it. You recognise a wrong SmoothGrad by one test.
#
# **Minutes.** Less than 1 on two CPU cores with the demo, about 1 with patient 26. GPU: not measured.
#
# **Needs.** Chapter 03; mean, standard deviation, standard error. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. `IES_SMALL=1` in the environment takes fewer draws, for tests.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS = 4 if SMALL else 16

# %% [markdown]
# The patient and the network are those of chapter 03 ...

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
print(subject, lesions, sep="\n")

# %% [markdown]
# ... and so is the lesion: of the four found ones (TP) whose size is closest to a dozen voxels, the one closest to the
# middle of the image.

# %%
import numpy as np

dozen = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 12))[:4]
middle = np.array(subject.shape) / 2
lesion = min(dozen, key=lambda le: np.linalg.norm(le.voxels.mean(axis=0) - middle))
lesion

# %% [markdown]
# ## The noise
#
# SmoothGrad takes $N$ copies of the image, adds fresh noise to each, computes the gradient at each copy, and averages:
#
# $$ \bar g = \frac1N \sum_{n=1}^{N} g(x + \varepsilon_n), \qquad \varepsilon_n \sim \mathcal N(0, \sigma^2). $$
#
# The paper takes $N = 50$ and $\sigma$ = 5 % of the range of the FLAIR image (largest value minus smallest, after
# z-scoring), the same $\sigma$ for FLAIR and T1. The lesion's aggregation (`mean`, `sum`, `max`) is done within each
# draw, before the average over draws.

# %%
flair = subject.image[0]
sigma = 0.05 * float(flair.max() - flair.min())
print(f"FLAIR from {flair.min():.2f} to {flair.max():.2f}, so sigma = {sigma:.3f} standard deviations")

# %% [markdown]
# A range is a fragile yardstick: one very bright voxel raises $\sigma$ for the whole image. We keep it because it is
# the published one.
#
# Next, randomness. Draw $n$ of seed $s$ comes from a generator that is seeded with the pair $(s, n)$. So draw 7 is the
# same whether or not draws 0 to 6 were made, on every machine, and every lesion of a subject sees the same draws.

# %%
import torch


def noisy_copy(image, share, draw, seed=0):
    """The image with noise, whose standard deviation is a share of the range of FLAIR."""
    sigma = share * float(image[0].max() - image[0].min())
    noise = np.random.default_rng([seed, draw]).standard_normal(tuple(image.shape), dtype=np.float32)
    return image + sigma * torch.from_numpy(noise)


# %% [markdown]
# Let us look at draw 7. Its noise should have the standard deviation that we computed above, in both modalities.

# %%
draw7 = noisy_copy(subject.image, 0.05, draw=7)
spread = (draw7 - subject.image).std(dim=(1, 2, 3))
print(f"standard deviation of the noise in draw 7: FLAIR {spread[0]:.3f}, T1 {spread[1]:.3f}")

# %% tags=["check"]
assert torch.equal(draw7, noisy_copy(subject.image, 0.05, draw=7))
assert not torch.equal(draw7, noisy_copy(subject.image, 0.05, draw=8))

# %% [markdown]
# What does the network get to see?

# %%
from dataclasses import replace

import matplotlib.pyplot as plt

from ies_helpers import plot_slice

figure, axes = plt.subplots(2, 2, figsize=(7, 8.6), layout="constrained")
for column, (name, image) in zip(axes.T, {"clean": subject.image, "draw 7": draw7}.items(), strict=True):
    for ax, channel in zip(column, ("flair", "t1"), strict=True):
        how = {"channel": channel, "reach_mm": None, "ax": ax, "title": f"{channel.upper()}, {name}"}
        plot_slice(replace(subject, image=image), lesion={"yellow": lesion}, **how)

# %% [markdown]
# You see one axial plane, clean and with the noise of draw 7, for both modalities; the lesion has a yellow outline. The
# noisy images are grainy, but a reader would still find the same structures and the larger lesions. The noise is
# everywhere, also outside the brain. There the clean image is zero, which the clean panels show as black; zero is the
# mean of the z-scored brain, so with noise it turns into grey grain. The network never saw such a background in
# training.
#
# ## Two networks whose answer we know
#
# `Linear` has the same gradient everywhere, so noise cannot move it: SmoothGrad must return $(2, -1)$ on the lesion, to
# the last digit. Our toy lesion is a whole cube of noise, 8192 values with both modalities.

# %%
toy_image = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(4))
toy_lesion = np.argwhere(np.ones((16, 16, 16), dtype=bool))

# %% [markdown]
# Now SmoothGrad, with 100 draws.

# %%
from ies_helpers import gradient, smoothgrad
from ies_helpers.teaching import Linear, Quadratic

linear = smoothgrad(Linear(), toy_image, toy_lesion, aggregate="sum", draws=100)
print("Linear: FLAIR", linear[0].unique().tolist(), "T1", linear[1].unique().tolist())

# %% tags=["check"]
assert torch.allclose(linear, gradient(Linear(), toy_image, toy_lesion, aggregate="sum"), rtol=0, atol=1e-6)

# %% [markdown]
# For `Quadratic` the gradient at $x + \varepsilon$ is $2x + 2\varepsilon$. Its mean over the noise is exactly $2x$, and
# with $N$ draws a value misses it by about $2\sigma/\sqrt N$, its standard error.

# %%
quadratic = smoothgrad(Quadratic(), toy_image, toy_lesion, aggregate="sum", draws=100)
miss = float((quadratic - 2 * toy_image).std())
standard_error = 2 * 0.05 * float(toy_image[0].max() - toy_image[0].min()) / 100**0.5
print(f"Quadratic, 100 draws: misses 2x by {miss:.4f} (expected {standard_error:.4f})")

# %% tags=["check"]
assert abs(miss / standard_error - 1) < 0.05

# %% [markdown]
# With 8192 values the spread of the misses is known to about one per cent, and our test allows five. It is worth
# remembering, because it compares *values*: it would catch a wrong divisor, a wrong $\sigma$, or absolute values taken
# where a sign belongs. We come back to it.
#
# ## One lesion, draw by draw
#
# Now the U-Net. We take the gradient at each noisy copy, and keep each draw's map to look into the average afterwards.

# %%
noisy = (noisy_copy(subject.image, 0.05, n) for n in range(DRAWS))
draws = torch.stack([gradient(network, image, lesion, aggregate="max") for image in noisy])

# %% [markdown]
# Their mean is SmoothGrad. Does `smoothgrad` agree?

# %%
ours = smoothgrad(network, subject.image, lesion, aggregate="max", draws=DRAWS, seed=0)
difference = (draws.mean(dim=0) - ours).abs().max() / ours.abs().max()
print(f"our average and ies_helpers.smoothgrad differ by {difference:.1e} of the largest value")

# %% tags=["check"]
assert difference < 1e-5

# %% [markdown]
# What is left is float32 rounding, as before: both took the very same draws. How does the map become what it is? We
# average one draw, some, and all.

# %%
steps = [1, DRAWS // 4, DRAWS]
maps = [draws[:n].mean(dim=0) for n in steps]

# %% [markdown]
# The figure shows the FLAIR maps, and below each what it still lacks: its difference to the last.

# %%
close = {"reach_mm": 8, "unit": None}
figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
for above, below, values, n in zip(*axes, maps, steps, strict=True):
    title = f"mean of {n} draw{'s' * (n > 1)}"
    plot_slice(subject, values, lesion, ax=above, scale=2.5, title=title, **close)
    plot_slice(subject, values - maps[-1], lesion, ax=below, scale=0.5, title=f"minus mean of {DRAWS}", **close)
for row in axes:
    figure.colorbar(row[0].images[0], ax=row, label="logit per unit")

# %% [markdown]
# Each panel is a square around the lesion, 8 mm beyond its longest side, with warm colours above zero and blue below.
# The upper row has one scale of 2.5 logits per unit, the lower row one of 0.5. Look at the upper row first: the three
# panels are much alike. The warm lesion is there from the first draw on, and so is most of its fringe. SmoothGrad was
# invented for large classifiers whose gradients look like noise. This U-Net is small and its gradient is quiet already.
# The lower row shows what the average does: after one draw single voxels are off by some tenths of a logit in either
# direction, after a few by less, and the last panel is empty because it is compared with itself. More draws do not make
# the map sharper. They make it *reproducible*.
#
# ## How many draws?
#
# If single draws scatter with standard deviation $s$, the mean of $n$ of them still differs from the mean of all $N$ by
# about
#
# $$ s\,\sqrt{\tfrac1n - \tfrac1N}\,, $$
#
# which for $n$ well below $N$ is the familiar $1/\sqrt n$. We measure both sides, over the voxels within 5 mm of the
# lesion.

# %%
from scipy.ndimage import distance_transform_edt

mask = lesion.mask(subject.shape).numpy()
mm = distance_transform_edt(~mask, sampling=subject.spacing)
near = torch.from_numpy(mm <= 5)
around = draws[:, :, near]

# %% [markdown]
# First the differences that we see, as root mean square.

# %%
counts = [n for n in (1, 2, 4, 8, 16) if n < DRAWS]
differences = [around[:n].mean(dim=0) - around.mean(dim=0) for n in counts]
measured = [float(d.square().mean().sqrt()) for d in differences]

# %% [markdown]
# Then what the formula expects.

# %%
scatter = float(around.var(dim=0).mean().sqrt())
expected = [scatter * (1 / n - 1 / DRAWS) ** 0.5 for n in counts]
ratio = [round(m / e, 2) for m, e in zip(measured, expected, strict=True)]
print(f"measured over expected: {ratio}; a draw scatters by {scatter:.3f}, the peak is {float(ours.abs().max()):.2f}")

# %% tags=["check"]
assert all(0.5 < r < 2 for r in ratio)

# %% [markdown]
# And both as a figure.

# %%
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.loglog(counts, measured, "o", label=f"difference to {DRAWS} draws")
ax.loglog(counts, expected, "-", label="s sqrt(1/n - 1/N)")
ax.set(xlabel="draws n", ylabel="logit per unit (root mean square)", xticks=counts, xticklabels=counts)
ax.xaxis.set_minor_formatter(plt.NullFormatter())
legend = ax.legend()

# %% [markdown]
# Both axes are logarithmic; the points are the measured differences in logits per unit, the line the expectation. They
# fall together, by about half for every fourfold number of draws. (The last point drops faster, because the map we
# compare with is made of finitely many draws, the same ones among them.) The points do not sit on the line: we have one
# sequence of few draws, and neighbouring voxels err together. Our test allows a factor of two. Read the figure the
# other way round to choose $N$: decide what difference you could live with, and look up the draws. The price is linear,
# one aggregated gradient for each draw.
#
# ## An error bar for the map
#
# To judge $n$ draws we needed all $N$. But the draws bring their own error bar: if the values of a voxel scatter by $s$
# between draws, their mean has the *Monte-Carlo standard error*
#
# $$ \mathrm{SE} = \frac{s}{\sqrt n}, \qquad s^2 = \frac1{n-1} \sum_{m=1}^{n} (g_m - \bar g)^2 . $$
#
# For the first ten draws we can work it out by hand.

# %%
ten = min(10, DRAWS)
by_hand = draws[:ten].double().std(dim=0) / ten**0.5

# %% [markdown]
# Do we have to keep all draws for this? No: two sums are enough. `smoothgrad(..., draws="auto")` collects them as the
# draws come, and after each draw it asks how large the standard error of the *peak* is, as a share of the peak. It
# stops when the answer is 2 % or less, but not before ten draws: the scatter of two or three values can be small by
# luck. `draw_by_draw` is the same in slow motion.

# %%
from ies_helpers.teaching import draw_by_draw

peaks = []
for average in draw_by_draw(network, subject.image, lesion, aggregate="max", draws="auto"):
    peaks.append(average.peak)
    if average.draws == ten:
        error = average.error.full(subject.shape)

# %% tags=["check"]
assert torch.allclose(error.double(), by_hand, rtol=1e-6, atol=1e-9)

# %% [markdown]
# Where is the peak, and how well do we know it?

# %%
peak = peaks[-1]
print(f"{average.draws} draws: the peak is {peak.value:.3f} +- {peak.standard_error:.3f} logits per unit")
shown = f"{subject.channels[peak.channel]}, voxel {peak.voxel}"
print(f"it lies in {shown}; its standard error is {peak.relative:.1%} of it")

# %% [markdown]
# The peak need not stay in one voxel. The figure shows its error on the way, with one colour for each voxel that was
# the peak for a while.

# %%
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
count = np.arange(1, average.draws + 1)
for place in dict.fromkeys(p.voxel for p in peaks[1:]):
    here = [n for n in count[1:] if peaks[n - 1].voxel == place]
    ax.plot(here, [100 * peaks[n - 1].relative for n in here], "o", ms=5, label=f"peak at {place}")
ax.plot(count, 100 * peak.relative * np.sqrt(average.draws / count), "k--", lw=1, label="1 / sqrt(n)")
ax.axhline(2, color="0.6")
ax.axvspan(0, 9.5, color="0.92")
ax.set(xlabel="draws n", ylabel="standard error, % of the peak", xlim=(0, average.draws + 1), ylim=0)
legend = ax.legend()

# %% [markdown]
# The grey line is the 2 % that we want. On the grey ground, below ten draws, we do not trust what we see: the scatter
# of a handful of values is badly known. The dots of one voxel fall like $1/\sqrt n$, dashed for the last. Where the
# colour changes the peak has moved, to a voxel about as high with an error of its own, and the curve jumps. It may jump
# over the line, as it may have done here.
#
# And the standard error of every voxel, at the end:

# %%
error = average.error.full(subject.shape)
title = "standard error, FLAIR"
ax = plot_slice(subject, error, lesion, colours="magma", reach_mm=8, unit="logit per unit", title=title)

# %% [markdown]
# The error is largest at the lesion and just around it, where the gradient is large too. So a small error is not a sign
# of an important voxel, and a large one not of an unimportant one.
#
# What do we know now? Less than it seems, and it is worth spelling out.
#
# - The 2 % belong to *one* voxel. Most are weaker, and relative to themselves less certain; the cell below counts.
# - The draws that chose this voxel also gave its value. Where several voxels are about as high, the highest is too high
#   on average, and the run ends as soon as one with a small error comes out on top.
# - We looked after each draw and stopped when we liked what we saw. That favours runs that happen to scatter little,
#   and two standard errors then hold the truth in 91 to 95 of 100 runs (simulated), a little less often than usual.
# - The error is about the *average over the noise*, of this network at this image. A wrong map can have a small one.
#
# How many voxels can tell their sign?

# %%
certain = average.full(subject.shape).abs() > 2 * error
for name, channel in zip(("FLAIR", "T1"), certain.float(), strict=True):
    told = f"{float(channel[mask].mean()):.0%} in the lesion, {float(channel[near].mean()):.0%} within 5 mm of it"
    print(f"{name}: farther from zero than two standard errors are {told}")

# %% [markdown]
# In the lesion nearly every value is certain in this sense, around it fewer are. Where the map is not, its sign depends
# on the seed. Keep this in mind for the next section, which is about signs.
#
# For planning: the error falls like $1/\sqrt n$, so half of it costs four times the draws.

# %%
print(f"for 1 % this lesion would take about {average.draws * (peak.relative / 0.01) ** 2:.0f} draws")

# %% [markdown]
# ## The sign, and how far it reaches
#
# The paper reports that in FLAIR the map is positive inside the lesion and negative around it. Is that so here? We sort
# all voxels into shells of 1 mm by their distance to the lesion's border, below zero inside.

# %%
depth = distance_transform_edt(mask, sampling=subject.spacing)
shells = np.round(mm - np.maximum(depth - 1, 0)).clip(-9, 13).astype(int)
present = np.unique(shells)[:-1]

# %% [markdown]
# In each shell we average the map.

# %%
profile = np.array([ours.numpy()[:, shells == d].mean(axis=1) for d in present])
figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
ax.plot(present, profile, "o-", label=["FLAIR", "T1"])
ax.axhline(0, color="black", lw=0.8)
ax.set_yscale("symlog", linthresh=0.01)
ax.set(xlabel="distance to the lesion (mm), 0 and below: inside", ylabel="mean, logit per unit")
legend = ax.legend()

# %% [markdown]
# From left to right we walk out of the lesion. The vertical scale is linear between -0.01 and 0.01 and logarithmic
# beyond, or the surroundings would be a flat line. In FLAIR the lesion itself is clearly positive, and so is the first
# millimetre outside. Then the curve crosses zero and stays below for some millimetres, with values of a few hundredths
# of those inside and less. Then it fades, or wavers about zero. T1 starts below zero and rises above it just outside
# the lesion. So the network looks for *contrast*: bright in FLAIR on a surround that is not, dark in T1 on a surround
# that is not.
#
# How clear is it, voxel by voxel?

# %%
import pandas as pd

inside, surround = (ours.numpy()[:, where] for where in (shells <= 0, (shells >= 3) & (shells <= 6)))
signs = pd.DataFrame({"mean inside": inside.mean(axis=1), "mean 3 to 6 mm around": surround.mean(axis=1)})
signs["share negative around"] = (surround < 0).mean(axis=1)
signs.set_axis(["FLAIR", "T1"]).round(4)

# %% tags=["check"]
assert inside[0].mean() > 0 > surround[0].mean()

# %% [markdown]
# The claim holds for the *mean* of this lesion's surroundings. But look at the last column as well: of the single
# voxels around, many are positive. “Negative around the lesion” is a statement about an average.
#
# Here is the whole map, both modalities on one scale:

# %%
from ies_helpers import plot_saliency

title = f"{subject.name}, lesion {lesion.number}: SmoothGrad, {DRAWS} draws"
figure = plot_saliency(subject, ours, lesion, title=title, reach_mm=15)

# %% [markdown]
# FLAIR is above, T1 below, 15 mm around the lesion, in logits per unit. The FLAIR lesion is warm throughout, with a
# faint blue fringe a few voxels away. T1 shows it the other way round and paler: dark in T1 speaks for a lesion, and
# counts less.
#
# What did noise and averaging do? Compare side by side: choose `gradient` or `smoothgrad` in the list. Click into the
# picture, then turn the wheel or use the arrow keys; the value under the crosshair stands below it. (The book has no
# kernel and shows a still picture.)

# %%
from ies_helpers import view

raw = gradient(network, subject.image, lesion, aggregate="max")
view(subject, {("gradient", "max"): raw, ("smoothgrad", "max"): ours}, lesion)

# %% [markdown]
# The average is a little smoother. In both the strong values lie at the lesion, and a few millimetres away little is
# left: this gradient was quiet already.
#
# You can also turn and cut the map in true 3D, if you have installed `ies-helpers[niivue]` and your browser has WebGL
# 2: set `SHOW_3D = True`.

# %%
SHOW_3D = False

if SHOW_3D:
    from IPython.display import display

    from ies_helpers import view_3d

    display(view_3d(subject, ours))

# %% [markdown]
# In it, red is positive and blue negative; what is below a fifth of the peak is not drawn, or it would hide the rest.
#
# ## More lesions, and the share of each modality
#
# One lesion is an anecdote. We take up to eight found lesions across all sizes.

# %%
by_size = sorted(lesions.of("TP"), key=len)
places = np.linspace(0, len(by_size) - 1, min(4 if SMALL else 8, len(by_size))).astype(int)
several = [by_size[n] for n in places]

# %% [markdown]
# To keep it short we use few draws and the `sum` aggregation, which needs a single backward pass per draw. The FLAIR
# share is $\sum|\mathrm{FLAIR}| / (\sum|\mathrm{FLAIR}| + \sum|\mathrm{T1}|)$.


# %%
def measures(le):
    """A lesion's `sum` map: means inside and 3 to 6 mm around, FLAIR before T1, and the share of FLAIR."""
    g = smoothgrad(network, subject.image, le, aggregate="sum", draws=2 if SMALL else 4).numpy()
    far = distance_transform_edt(~le.mask(subject.shape).numpy(), sampling=subject.spacing)
    regions = (far == 0, (far >= 3) & (far <= 6))
    return [*(channel[where].mean() for channel in g for where in regions), np.abs(g[0]).sum() / np.abs(g).sum()]


# %% [markdown]
# One row a lesion, from small to large.

# %%
columns = ["lesion", "voxels", "FLAIR inside", "FLAIR 3-6 mm", "T1 inside", "T1 3-6 mm", "FLAIR share"]
table = pd.DataFrame([[le.number, len(le), *measures(le)] for le in several], columns=columns).round(3)
table

# %% [markdown]
# The four columns in the middle are means of the `sum` map in logits per unit. Look down the columns, not at one row:
# FLAIR inside is the largest in size and positive; its surround tends to be negative; T1 inside is negative. The last
# column says that FLAIR moves the network more than T1, though not by much. Let us count.

# %%
positive, negative = int((table["FLAIR inside"] > 0).sum()), int((table["FLAIR 3-6 mm"] < 0).sum())
print(f"of {len(table)} lesions: FLAIR positive inside {positive}, negative 3 to 6 mm around {negative}")
print(f"FLAIR share {table['FLAIR share'].min():.2f} to {table['FLAIR share'].max():.2f}")

# %% tags=["check"]
assert positive == len(table)
assert table["FLAIR share"].mean() > 0.5

# %% [markdown]
# One caution. The unit of each map is its own modality's standard deviation. If T1 varies less across a lesion's border
# than FLAIR does, an equal gradient means less in T1. The share compares sensitivities, not contributions.
#
# ## How strong should the noise be?
#
# We make the map of our lesion with four strengths of noise.

# %%
draws_at = {level: (2 if SMALL else 8) if level else 1 for level in (0.0, 0.01, 0.05, 0.2)}
results = [smoothgrad(network, subject.image, lesion, draws=n, noise=level) for level, n in draws_at.items()]

# %% [markdown]
# How alike are they? We correlate each with the third, that of the published 5 %.

# %%
alike = [float(torch.corrcoef(torch.stack([r.flatten(), results[2].flatten()]))[0, 1]) for r in results]
print("correlation with the 5 % map:", np.round(alike, 2))

# %% [markdown]
# There is a second question: does the network still see the lesion under that noise? A map at an image where the lesion
# is gone explains something else. For a quick answer we show the network only the box on which this lesion depends
# (chapter 03).

# %%
from ies_helpers.teaching import receptive_box

whole, box = replace(network, window=None), receptive_box(network, subject.image, lesion)
here = tuple((lesion.voxels - box.start).T)

# %% [markdown]
# We ask for the mean probability of the lesion's voxels, over the same draws.

# %%
from ies_helpers import predict

found = []
for level, n in draws_at.items():
    noisy = [noisy_copy(subject.image, level, draw)[:, *box] for draw in range(n)]
    found.append(np.mean([float(predict(whole, image)[here].mean()) for image in noisy]))
print("mean probability of the lesion's voxels:", np.round(found, 2))

# %% tags=["check"]
assert found[-1] < found[0] / 2

# %% [markdown]
# Each panel of the figure has its own scale, printed above it, since we compare patterns here and not sizes.

# %%
figure, axes = plt.subplots(2, 2, figsize=(8, 8.6), layout="constrained")
for ax, level, result, r, p in zip(axes.flat, draws_at, results, alike, found, strict=True):
    top = float(result[0].abs().max())
    plot_slice(subject, result, lesion, ax=ax, scale=top, **close)
    told = f"noise {level:.0%}: peak {top:.2f} logits per unit\ncorrelation with the 5 % map: {r:.2f}, lesion p {p:.2f}"
    ax.set_title(told, fontsize=10)

# %% [markdown]
# These are FLAIR maps, from no noise (the plain gradient of chapter 03) to 20 % of the range. Look at the patterns
# first: the warm centre stays, the fringe changes a little, and under the strongest noise the peak is lower. Now look
# at $p$, the mean probability that the network gives the lesion's voxels under that noise. At 1 % it hardly moves. For
# a lesion as small as ours the published 5 % is felt already, and under 20 % the network rarely sees a lesion there.
# The map does not tell: it still looks like the map of a lesion, since we ask about these voxels, and brightness at a
# voxel speaks for a lesion whether or not there is one. So with strong noise we average answers about images without
# the lesion we wanted to explain. Look at $p$ before you choose the noise; the map will not warn you.
#
# ## A mistake to know
#
# A widely used library returns, as its default, not the mean of the gradients but $\sqrt{\sum_n g_n^2}\,/\,N$ (MONAI's
# `SmoothGrad` with `magnitude=True`). It looks like a magnitude. Watch its size as draws are added: the sum of $n$
# squares grows like $n$, its root like $\sqrt n$, and division by $n$ leaves $1/\sqrt n$.

# %%
for n in [*counts, DRAWS]:
    wrong, right = draws[:n].square().sum(dim=0).sqrt() / n, draws[:n].mean(dim=0)
    print(f"{n:3d} draws: peak of the mean {float(right.abs().max()):.3f}, of sqrt(sum g^2)/n {float(wrong.max()):.3f}")

# %% tags=["check"]
assert float(wrong.max()) < 1.5 * float(draws[0].abs().max()) / DRAWS**0.5

# %% [markdown]
# The mean settles on a value. The other number keeps falling, to nearly nothing, and no amount of draws makes it
# converge; its sign is lost too. A picture scaled to its own maximum hides all of this, and that is how such a mistake
# survives. The two toys above find it at once: with a hundred draws, `Linear` would return 0.2 where 2 is right, and
# 0.1 where $-1$ is.
#
# ## What we saw
#
# - SmoothGrad is the mean of the gradient over noisy copies of the image; a map depends on the seed and the number of
#   draws, and on nothing else.
# - What stays after averaging is at the lesion. The error falls like $1/\sqrt n$, as the scatter of the draws predicts.
# - In FLAIR the map is positive inside the lesion and, on average, negative some millimetres around it. T1 has the
#   opposite sign inside. FLAIR has the larger share.
# - The scatter between draws gives every voxel an error bar, and `draws="auto"` stops when that of the peak is small.
#   It vouches for the peak's value, and for little else.
# - Under strong noise the network loses the lesion, and the map looks much the same: check the prediction as well.
# - Compare values with a case you can solve, before you look at pictures.
#
# ## Limits
#
# - The average removes what varies between draws. A pattern that every draw shares, such as the grid of the network's
#   strides, stays, and is not evidence about the patient.
# - White noise is not scanner noise, and is added outside the brain too. The noisy images lie off the training data.
# - $\sigma$ depends on the single brightest and darkest voxel of FLAIR, and T1 gets the same $\sigma$.
# - Less grain does not prove a map true. A smooth map can be wrong (chapter 10).
# - The signs and shares here are of one small network and one patient. Compare before you generalise.
#
# ## Exercises
#
# **1.** Repeat the map of `lesion` with `seed=1` and correlate it with `ours`. What correlation do you expect with 1
# draw, and with all of them?
#
# <details><summary>Solution</summary>
#
# ```python
# for n in (1, DRAWS):
#     a, b = (smoothgrad(network, subject.image, lesion, draws=n, seed=s).flatten() for s in (0, 1))
#     print(n, f"{float(torch.corrcoef(torch.stack([a, b]))[0, 1]):.3f}")
# ```
#
# Expected: high already for one draw (most of the map is the lesion itself), and closer to 1 for all. The gap to 1
# comes from the noise. It falls like $1/n$: with four times the draws, about a quarter of it is left.
#
# *The usual wrong answer:* “Near 0 for one draw, since the two noises have nothing in common.” The noises have not, but
# the image, the network and the lesion are the same, and they decide most of the map.
#
# </details>
#
# **2.** On paper: `Quadratic`, but with noise that has mean 0.1 instead of 0. What does SmoothGrad converge to?
#
# <details><summary>Solution</summary>
#
# To $2(x + 0.1) = 2x + 0.2$: the gradient at the *average noisy image*. Check with the toy:
#
# ```python
# shifted = smoothgrad(Quadratic(), toy_image + 0.1, toy_lesion, aggregate="sum", draws=100)
# print(f"{float((shifted - 2 * toy_image).mean()):.2f}")
# ```
#
# Expected: `0.20`
#
# *The usual wrong answer:* “To $2x$: with enough draws noise averages out.” Only its scatter does. More draws bring us
# closer to the mean over the noise, and the mean of this noise is not the clean image.
#
# </details>
#
# **3.** Write the wrong SmoothGrad of the last section for `Linear` with 4 and with 100 draws. What does it return on
# the lesion in FLAIR?
#
# <details><summary>Solution</summary>
#
# Every draw gives 2, so the result is $\sqrt{n \cdot 4}/n = 2/\sqrt n$.
#
# ```python
# for n in (4, 100):
#     g = torch.full((n,), 2.0)
#     print(n, float(g.square().sum().sqrt() / n))
# ```
#
# Expected: `4 1.0` and `100 0.2` (up to rounding)
#
# *The usual wrong answer:* “2 both times: it is the root mean square of numbers that are all 2.” The root mean square
# is $\sqrt{\sum g^2 / n}$, with the $n$ under the root. Here it stands outside, and the result falls with every draw.
#
# </details>
#
# ## References
#
# - Smilkov D. and others (2017). SmoothGrad: removing noise by adding noise.
#   [arXiv 1706.03825](https://arxiv.org/abs/1706.03825).
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335). Equations 2 and 3, and the signs reported there.
# - Lesjak Ž. and others (2017). A novel public MR image dataset of multiple sclerosis patients with lesion
#   segmentations based on multi-rater consensus. *Neuroinformatics* 16:51-63.
#   [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7).
#
# ## Next
#
# [05 · Aggregation: mean or max](05_aggregation.ipynb): what the two do to lesions of different size, and why it
# matters which one you take.
