# %% [markdown]
# # 04 · SmoothGrad
#
# **Question.** Which part of a gradient map is about the lesion, and which part is about the noise of this one image?
#
# **Objectives.** You can say what SmoothGrad averages and with how much noise. You check it against two networks
# whose answer you know. You see how many draws a map needs, and what the sign, the modality and the strength of the
# noise do to it. You recognise a wrong SmoothGrad by one test.
#
# **Minutes.** Less than 1 on two CPU cores with the demo, about 1 with patient 26. GPU: not measured.
#
# **Needs.** Chapter 03; mean, standard deviation, standard error. No patient data.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. `IES_SMALL=1` in the environment takes fewer draws.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from ies_helpers import find_lesions, gradient, load_network, load_subject, plot_saliency, predict, smoothgrad

SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS = 4 if SMALL else 16

# %% [markdown]
# The next cell is the only one to change for another patient: write `openms:patient26` in place of `demo`.

# %%
SUBJECT = "demo"

# %% [markdown]
# The lesion of this chapter is that of chapter 03: of the four found ones (TP) whose size is closest to a dozen
# voxels, the one closest to the middle of the image.

# %%
subject = load_subject(SUBJECT)
network = load_network("unet")
probability = predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
dozen = sorted(lesions.of("TP"), key=lambda le: abs(len(le) - 12))[:4]
middle = np.array(subject.shape) / 2
lesion = min(dozen, key=lambda le: np.linalg.norm(le.voxels.mean(axis=0) - middle))
mask = lesion.mask(subject.shape).numpy()
print(subject, lesions, lesion, sep="\n")

# %% [markdown]
# ## The noise
#
# SmoothGrad takes $N$ copies of the image, adds fresh noise to each, computes the gradient at each copy, and
# averages:
#
# $$ \bar g = \frac1N \sum_{n=1}^{N} g(x + \varepsilon_n), \qquad \varepsilon_n \sim \mathcal N(0, \sigma^2). $$
#
# The paper takes $N = 50$ and $\sigma$ = 5 % of the range of the FLAIR image (largest value minus smallest, after
# z-scoring), the same $\sigma$ for FLAIR and T1. The lesion's aggregation (`mean`, `sum`, `max`) is done within each
# draw, before the average over draws.

# %%
from ies_helpers.saliency.smoothgrad import noise_sigma, noisy_image

sigma = noise_sigma(subject.image, 0.05)
low, high = float(subject.image[0].min()), float(subject.image[0].max())
print(f"FLAIR from {low:.2f} to {high:.2f}, so sigma = 0.05 x {high - low:.2f} = {sigma:.3f} standard deviations")

# %% [markdown]
# A range is a fragile yardstick: one very bright voxel raises $\sigma$ for the whole image. We keep it because it is
# the published one. Next, randomness. Draw $n$ of seed $s$ comes from a generator that is seeded with the pair
# $(s, n)$. So draw 7 is the same whether or not draws 0 to 6 were made, on every machine, and every lesion of a subject
# sees the same draws.

# %%
draw7 = noisy_image(subject.image, sigma, seed=0, draw=7)
assert torch.equal(draw7, noisy_image(subject.image, sigma, seed=0, draw=7))
assert not torch.equal(draw7, noisy_image(subject.image, sigma, seed=0, draw=8))
spread = (draw7 - subject.image).std(dim=(1, 2, 3))
print(f"standard deviation of the noise in draw 7: FLAIR {spread[0]:.3f}, T1 {spread[1]:.3f}")

# %% [markdown]
# What does the network get to see?

# %%
from dataclasses import replace

from ies_helpers import plot_slice

figure, axes = plt.subplots(2, 2, figsize=(7, 8.6), layout="constrained")
for row, channel in zip(axes, ("flair", "t1"), strict=True):
    for ax, image, name in zip(row, (subject.image, draw7), ("clean", "draw 7"), strict=True):
        drawn = replace(subject, image=image)
        how = {"channel": channel, "reach_mm": None, "ax": ax, "title": f"{channel.upper()}, {name}"}
        plot_slice(drawn, lesion={"yellow": lesion}, **how)

# %% [markdown]
# One axial plane, clean and with the noise of draw 7, for both modalities; the lesion has a yellow outline. The noisy
# images are grainy but a reader would still find the same structures, and the larger lesions. The noise is
# everywhere, also outside the brain. There the clean image is zero, which the clean panels show as black; zero is the
# mean of the z-scored brain, so with noise it turns into grey grain. The network never saw such a background in
# training.
#
# ## Two networks whose answer we know
#
# `Linear` has the same gradient everywhere, so noise cannot move it: SmoothGrad must return $(2, -1)$ on the lesion,
# to the last digit. For `Quadratic` the gradient at $x + \varepsilon$ is $2x + 2\varepsilon$. Its mean over the noise
# is exactly $2x$, and with $N$ draws a value misses it by about $2\sigma/\sqrt N$, its standard error.

# %%
from ies_helpers.teaching import Linear, Quadratic

toy_image = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(4))
toy_lesion = np.argwhere(np.ones((16, 16, 16), dtype=bool))
settings = {"aggregate": "sum", "draws": 100}
linear = smoothgrad(Linear(), toy_image, toy_lesion, **settings)
assert torch.allclose(linear, gradient(Linear(), toy_image, toy_lesion, aggregate="sum"), rtol=0, atol=1e-6)
quadratic = smoothgrad(Quadratic(), toy_image, toy_lesion, **settings)
miss = float((quadratic - 2 * toy_image).std())
standard_error = 2 * noise_sigma(toy_image, 0.05) / 100**0.5
print(f"Quadratic, 100 draws: misses 2x by {miss:.4f} (expected {standard_error:.4f})")
assert abs(miss / standard_error - 1) < 0.05

# %% [markdown]
# The toy lesion is the whole cube, 8192 values, so the spread of the misses is known to about one per cent, and we
# allow five. This test is worth remembering. It compares *values*, and it would catch a wrong divisor, a wrong
# $\sigma$, or absolute values taken where a sign belongs. We come back to it.
#
# ## One lesion, draw by draw
#
# Now the U-Net. `LesionGradient` is the engine of chapter 03, set up once for this lesion and used for each noisy
# image. We keep each draw's map, on the lesion's box of about 80 x 80 x 80 voxels, to look into the average
# afterwards.

# %%
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.inference import whole_logits

engine = LesionGradient(network, subject.image, lesion, "max")
draws = torch.stack([engine(noisy_image(subject.image, sigma, 0, n)).cpu() for n in range(DRAWS)])
running = draws.cumsum(dim=0) / torch.arange(1, DRAWS + 1).reshape(-1, 1, 1, 1, 1)
ours = smoothgrad(network, subject.image, lesion, aggregate="max", draws=DRAWS, seed=0)
difference = (engine.place(running[-1]) - ours).abs().max() / ours.abs().max()
print(f"our average and ies_helpers.smoothgrad differ by {difference:.1e} of the largest value")
assert difference < 1e-5

# %% [markdown]
# The tolerance is float32 rounding, as before; both took the very same draws. The figure shows the FLAIR map after
# one draw, after some, and after all, and below it what each still lacks: its difference to the last.

# %%
steps = [1, DRAWS // 4, DRAWS]
maps = [engine.place(running[n - 1]) for n in steps]
close = {"reach_mm": 8, "unit": None}
figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
for column, (values, n) in enumerate(zip(maps, steps, strict=True)):
    how = {"ax": axes[0, column], "scale": 2.5, "title": f"mean of {n} draw{'s' * (n > 1)}"}
    plot_slice(subject, values, lesion, **close, **how)
    how = {"ax": axes[1, column], "scale": 0.5, "title": f"minus mean of {DRAWS}"}
    plot_slice(subject, values - maps[-1], lesion, **close, **how)
for row in axes:
    figure.colorbar(row[0].images[0], ax=row, label="logit per unit")

# %% [markdown]
# A square around the lesion, 8 mm beyond its longest side, warm colours above zero and blue below. The upper row has one scale of
# 2.5 logits per unit, the lower row one of 0.5. Look at the upper row first: the three panels are much alike. The
# warm lesion is there from the first draw on, and so is most of its fringe. SmoothGrad was invented for large
# classifiers whose gradients look like noise. This U-Net is small and its gradient is quiet already. The lower row
# shows what the average does: after one draw single voxels are off by some tenths of a logit in either direction,
# after a few by less, and the last panel is empty because it is compared with itself. More draws do not make the map
# sharper. They make it *reproducible*.
#
# ## How many draws?
#
# If single draws scatter with standard deviation $s$, the mean of $n$ of them still differs from the mean of all $N$
# by about
#
# $$ s\,\sqrt{\tfrac1n - \tfrac1N}\,, $$
#
# which for $n$ well below $N$ is the familiar $1/\sqrt n$. We measure both sides, as root mean square over the voxels
# within 5 mm of the lesion.

# %%
near = torch.from_numpy(ndimage.distance_transform_edt(~mask, sampling=subject.spacing) <= 5)[engine.box]
counts = [n for n in (1, 2, 4, 8, 16) if n < DRAWS]
measured = [float((running[n - 1] - running[-1])[:, near].square().mean().sqrt()) for n in counts]
scatter = float(draws[:, :, near].var(dim=0).mean().sqrt())
expected = [scatter * (1 / n - 1 / DRAWS) ** 0.5 for n in counts]
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.loglog(counts, measured, "o", label=f"difference to {DRAWS} draws")
ax.loglog(counts, expected, "-", label="s sqrt(1/n - 1/N)")
ax.set(xlabel="draws n", ylabel="logit per unit (root mean square)", xticks=counts, xticklabels=counts)
ax.xaxis.set_minor_formatter(plt.NullFormatter())
ax.legend()
ratio = [round(m / e, 2) for m, e in zip(measured, expected, strict=True)]
print(f"measured over expected: {ratio}; a draw scatters by {scatter:.3f}, the peak is {float(ours.abs().max()):.2f}")
assert all(0.5 < r < 2 for r in ratio)

# %% [markdown]
# Both axes are logarithmic; the points are the measured differences in logits per unit, the line the expectation.
# They fall together, by about half for every fourfold number of draws. (The last point drops faster, because the map
# we compare with is made of finitely many draws, the same ones among them.) The points do not sit on the line: we
# have one sequence of few draws, and neighbouring voxels err together. The assertion allows a factor of two. Read the
# figure the other way round to choose $N$: decide what difference you could live with, and look up the draws. The
# price is linear, one aggregated gradient for each draw.
#
# ## An error bar for the map
#
# To judge $n$ draws we needed all $N$. But the draws bring their own error bar: if the values of a voxel scatter by
# $s$ between draws, their mean has the *Monte-Carlo standard error*
#
# $$ \mathrm{SE} = \frac{s}{\sqrt n}, \qquad s^2 = \frac1{n-1} \sum_{m=1}^{n} (g_m - \bar g)^2 . $$
#
# `Average` collects both as the draws come, without keeping them. We ask it after each draw how large the standard
# error of the *peak* is, as a share of the peak, and stop when it says 2 %, but not before ten draws: the scatter of
# two or three values can be small by luck.

# %%
from ies_helpers.saliency.smoothgrad import FEWEST_DRAWS, PEAK_TARGET, Average, has_enough_draws

average, peaks = Average(2, engine.box), []
while not has_enough_draws(average, "auto"):
    average.add(engine(noisy_image(subject.image, sigma, 0, average.draws)).cpu())
    peaks.append(average.peak)
    if average.draws == DRAWS:
        by_hand = draws.double().std(dim=0) / DRAWS**0.5
        assert torch.allclose(average.error.values, by_hand, rtol=1e-6, atol=1e-9)
peak = peaks[-1]
print(f"{average.draws} draws: the peak is {peak.value:.3f} +- {peak.standard_error:.3f} logits per unit")
shown = f"{subject.channels[peak.channel]}, voxel {peak.voxel}"
print(f"it lies in {shown}; its standard error is {peak.relative:.1%} of it")

# %% [markdown]
# That loop is what `smoothgrad(..., draws="auto")` does. The figure shows the error of the peak on its way, and the
# error of every voxel at the end.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(3, 2), layout="constrained")
count = np.arange(1, average.draws + 1)
for place in dict.fromkeys(p.voxel for p in peaks[1:]):
    here = [n for n in count[1:] if peaks[n - 1].voxel == place]
    left.plot(here, [100 * peaks[n - 1].relative for n in here], "o", ms=5, label=f"peak at {place}")
left.plot(count, 100 * peak.relative * np.sqrt(average.draws / count), "k--", lw=1, label="1 / sqrt(n)")
left.axhline(100 * PEAK_TARGET, color="0.6")
left.axvspan(0, FEWEST_DRAWS - 0.5, color="0.92")
left.set(xlabel="draws n", ylabel="standard error, % of the peak", xlim=(0, average.draws + 1), ylim=0)
left.legend()
how = {"colours": "magma", "reach_mm": 8, "unit": "logit per unit", "title": "standard error, FLAIR"}
ax = plot_slice(subject, average.error.full(subject.shape), lesion, ax=right, **how)

# %% [markdown]
# Left, the standard error of the peak in per cent of it, one colour for each voxel that was the peak for a while; the
# grey line is the 2 % that we want, and on the grey ground, below ten draws, we do not trust what we see: the scatter
# of a handful of values is badly known. The dots of one voxel fall like $1/\sqrt n$, dashed for the last. Where
# the colour changes the peak has moved, to a voxel about as high with an error of its own, and the curve jumps. It may
# jump over the line, as it may have done here. Right, the standard error of each voxel in the axial plane. It is
# largest at the lesion and just around it, where the gradient is large too. So a small error is not a sign of an
# important voxel, and a large one not of an unimportant one.
#
# What do we know now? Less than it seems, and it is worth spelling out.
#
# - The 2 % belong to *one* voxel. Most are weaker, and relative to themselves less certain; the cell below counts.
# - The draws that chose this voxel also gave its value. Where several voxels are about as high, the highest is too
#   high on average, and the run ends as soon as one with a small error comes out on top.
# - We looked after each draw and stopped when we liked what we saw. That favours runs that happen to scatter little,
#   and two standard errors then hold the truth in 91 to 95 of 100 runs (simulated), a little less often than usual.
# - The error is about the *average over the noise*, of this network at this image. A wrong map can have a small one.
#
# For planning: the error falls like $1/\sqrt n$, so half of it costs four times the draws.

# %%
certain, inside_box = average.values.abs() > 2 * average.error.values, torch.from_numpy(mask)[engine.box]
for name, channel in zip(("FLAIR", "T1"), certain, strict=True):
    told = f"{float(channel[inside_box].float().mean()):.0%} in the lesion, {float(channel[near].float().mean()):.0%}"
    print(f"{name}: farther from zero than two standard errors are {told} within 5 mm of it")
print(f"for 1 % this lesion would take about {average.draws * (peak.relative / 0.01) ** 2:.0f} draws")

# %% [markdown]
# In the lesion nearly every value is certain in this sense, around it fewer are. Where the map is not, its sign is a
# matter of the seed. Keep this in mind for the next section, which is about signs.
#
# ## The sign, and how far it reaches
#
# The paper reports that in FLAIR the map is positive inside the lesion and negative around it. Is that so here? We
# sort all voxels by their distance to the lesion's border, below zero inside, and average the map in shells of 1 mm.

# %%
depth = ndimage.distance_transform_edt(mask, sampling=subject.spacing)
distance = ndimage.distance_transform_edt(~mask, sampling=subject.spacing) - np.maximum(depth - 1, 0)
shells = np.round(distance).clip(-9, 13).astype(int)
present = np.unique(shells)[:-1]
profile = [[float(channel[shells == d].mean()) for d in present] for channel in ours.numpy()]
figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for name, values in zip(("FLAIR", "T1"), profile, strict=True):
    ax.plot(present, values, "o-", label=name)
ax.axhline(0, color="black", lw=0.8)
ax.set_yscale("symlog", linthresh=0.01)
ax.set(xlabel="distance to the lesion (mm), 0 and below: inside", ylabel="mean, logit per unit")
legend = ax.legend()

# %% [markdown]
# From left to right we walk out of the lesion. The vertical scale is linear between -0.01 and 0.01 and logarithmic
# beyond, or the surroundings would be a flat line. In FLAIR the lesion itself is clearly positive, and so is the
# first millimetre outside. Then the curve crosses zero and stays below for some millimetres, with values of a few
# hundredths of those inside and less. Then it fades, or wavers about zero. T1 starts below zero and rises above it
# just outside the lesion. So the network looks for *contrast*: bright in FLAIR on a surround that is not, dark in T1
# on a surround that is not.

# %%
inside, surround = shells <= 0, (shells >= 3) & (shells <= 6)
for name, channel in zip(("FLAIR", "T1"), ours.numpy(), strict=True):
    negative = float((channel[surround] < 0).mean())
    means = f"inside {channel[inside].mean():+.3f}, 3 to 6 mm around {channel[surround].mean():+.4f} logits per unit"
    print(f"{name}: {means}; {negative:.0%} of the voxels around are negative")
assert ours[0][torch.from_numpy(inside)].mean() > 0 > ours[0][torch.from_numpy(surround)].mean()

# %% [markdown]
# The claim holds for the *mean* of this lesion's surroundings. Read the percentage as well: of the single voxels
# around, many are positive. "Negative around the lesion" is a statement about an average.
#
# The whole map, both modalities on one scale:

# %%
title = f"{subject.name}, lesion {lesion.number}: SmoothGrad, {DRAWS} draws"
figure = plot_saliency(subject, ours, lesion, title=title, reach_mm=15)

# %% [markdown]
# FLAIR above, T1 below, 15 mm around the lesion, in logits per unit. The FLAIR lesion is warm throughout, with a
# faint blue fringe a few voxels away. T1 shows it the other way round and paler: dark in T1 speaks for a lesion, and
# counts less.
#
# What noise and averaging did, side by side: choose `gradient` or `smoothgrad` in the list. Click into the picture, then turn the wheel or use the arrow keys; the value under the crosshair stands below it. In the book,
# without a kernel, this is a picture.

# %%
from ies_helpers import view

raw = gradient(network, subject.image, lesion, aggregate="max")
view(subject, {("gradient", "max"): raw, ("smoothgrad", "max"): ours}, lesion)

# %% [markdown]
# The average is a little smoother. In both the strong values lie at the lesion, and a few millimetres away little is
# left: this gradient was quiet already.
#
# In true 3D, to turn and to cut, where you have installed `ies-helpers[niivue]` and the browser has WebGL 2: set `SHOW_3D = True`.

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
# One lesion is an anecdote. We take up to eight found lesions across all sizes. To keep it short we use few draws and
# the `sum` aggregation, which needs a single backward pass per draw. The FLAIR share is
# $\sum|\mathrm{FLAIR}| / (\sum|\mathrm{FLAIR}| + \sum|\mathrm{T1}|)$.

# %%
by_size = sorted(lesions.of("TP"), key=len)
several = [by_size[n] for n in np.linspace(0, len(by_size) - 1, min(4 if SMALL else 8, len(by_size))).astype(int)]
rows = []
for le in several:
    g = smoothgrad(network, subject.image, le, aggregate="sum", draws=2 if SMALL else 4).numpy()
    far = ndimage.distance_transform_edt(~le.mask(subject.shape).numpy(), sampling=subject.spacing)
    shell = (far >= 3) & (far <= 6)
    share = np.abs(g[0]).sum() / np.abs(g).sum()
    rows.append((le.number, len(le), *(c[m].mean() for c in g for m in (far == 0, shell)), share))
columns = ["lesion", "voxels", "FLAIR inside", "FLAIR 3-6 mm", "T1 inside", "T1 3-6 mm", "FLAIR share"]
table = pd.DataFrame(rows, columns=columns).round(3)
table

# %% [markdown]
# Each row is a lesion, from small to large; the four columns in the middle are means of the `sum` map in logits per
# unit. Look down the columns, not at one row: FLAIR inside is the largest in size and positive; its surround tends to
# be negative; T1 inside is negative. The last column says that FLAIR moves the network more than T1, though not by
# much. The line below counts.

# %%
positive = int((table["FLAIR inside"] > 0).sum())
negative = int((table["FLAIR 3-6 mm"] < 0).sum())
print(f"of {len(table)} lesions: FLAIR positive inside {positive}, negative 3 to 6 mm around {negative}")
print(f"FLAIR share {table['FLAIR share'].min():.2f} to {table['FLAIR share'].max():.2f}")
assert positive == len(table)
assert table["FLAIR share"].mean() > 0.5

# %% [markdown]
# One caution. The unit of each map is its own modality's standard deviation. If T1 varies less across a lesion's
# border than FLAIR does, an equal gradient means less in T1. The share compares sensitivities, not contributions.
#
# ## How strong should the noise be?
#
# We make the map of our lesion with four strengths, and print how alike they are. We also ask the network whether it
# still sees the lesion under that noise: a map at an image where the lesion is gone explains something else.

# %%
levels, found, results = (0.0, 0.01, 0.05, 0.2), [], []
here = tuple((lesion.voxels - [s.start for s in engine.box]).T)
for level in levels:
    count = (2 if SMALL else 8) if level else 1
    results.append(smoothgrad(network, subject.image, lesion, draws=count, noise=level))
    level_sigma, p = noise_sigma(subject.image, level), []
    for draw in range(count):
        noisy = noisy_image(subject.image, level_sigma, 0, draw)[(slice(None), *engine.box)]
        with torch.no_grad():
            p.append(float(whole_logits(network, noisy).softmax(dim=0)[1][here].mean()))
    found.append(np.mean(p))
assert found[-1] < found[0] / 2
reference = results[levels.index(0.05)].flatten()
alike = [float(torch.corrcoef(torch.stack([r.flatten(), reference]))[0, 1]) for r in results]

# %% [markdown]
# Each panel of the figure has its own scale, printed above it, since we compare patterns here and not sizes.

# %%
figure, axes = plt.subplots(2, 2, figsize=(8, 8.6), layout="constrained")
for ax, level, result, r, p in zip(axes.flat, levels, results, alike, found, strict=True):
    top = float(result[0].abs().max())
    plot_slice(subject, result, lesion, ax=ax, scale=top, **close)
    told = f"noise {level:.0%}: peak {top:.2f} logits per unit\ncorrelation with the 5 % map: {r:.2f}, lesion p {p:.2f}"
    ax.set_title(told, fontsize=10)

# %% [markdown]
# FLAIR maps, from no noise (the plain gradient of chapter 03) to 20 % of the range. Look at the patterns first: the
# warm centre stays, the fringe changes a little, and under the strongest noise the peak is lower. Now read $p$, the
# mean probability that the network gives the lesion's voxels under that noise, over the same draws. At 1 % it
# hardly moves. For a lesion as small as ours the published 5 % is felt already, and under 20 % the network rarely
# sees a lesion there. The map does not tell: it still looks like the map of a lesion, since we ask about these
# voxels, and brightness at a voxel speaks for a lesion whether or not there is one. So with strong noise we average
# answers about images without the lesion we wanted to explain. Look at $p$ before you choose the noise; the map will
# not warn you.
#
# ## A mistake to know
#
# A widely used library returns, as its default, not the mean of the gradients but $\sqrt{\sum_n g_n^2}\,/\,N$
# (MONAI's `SmoothGrad` with `magnitude=True`). It looks like a magnitude. Watch its size as draws are added: the sum
# of $n$ squares grows like $n$, its root like $\sqrt n$, and division by $n$ leaves $1/\sqrt n$. Two lines show it.

# %%
for n in [*counts, DRAWS]:
    wrong, right = draws[:n].square().sum(dim=0).sqrt() / n, draws[:n].mean(dim=0)
    print(f"{n:3d} draws: peak of the mean {float(right.abs().max()):.3f}, of sqrt(sum g^2)/n {float(wrong.max()):.3f}")
assert float(wrong.max()) < 1.5 * float(draws[0].abs().max()) / DRAWS**0.5

# %% [markdown]
# The mean settles on a value. The other number keeps falling, to nearly nothing, and no amount of draws makes it
# converge; its sign is lost too. A picture scaled to its own maximum hides all of this, which is why it can live
# long. The two toys above find it at once: `Linear` would return 0.2 for 2 with a hundred draws, and 0.1 for $-1$.
#
# ## What we saw
#
# - SmoothGrad is the mean of the gradient over noisy copies of the image; a map depends on the seed and the number of
#   draws, and on nothing else.
# - What stays after averaging is at the lesion. The error falls like $1/\sqrt n$, as the scatter of the draws
#   predicts.
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
# - $\sigma$ hangs on the single brightest and darkest voxel of FLAIR, and T1 gets the same $\sigma$.
# - Less grain is no proof of truth. A smooth map can be wrong (chapter 10).
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
# Expected: high already for one draw (most of the map is the lesion itself), and closer to 1 for all. What is missing
# to 1 is the variance of the noise. It falls like $1/n$: with four times the draws, about a quarter of it is left.
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
