# %% [markdown]
# # 05 · Aggregation: mean or max
#
# **Question.** A lesion has many voxels, and each has its own gradient. How do they become one map, and what does the
# choice do to lesions of different size?
#
# **Objectives.** You can write down equations (2) and (3) of the paper and predict their outcome for a toy. You can
# show on real lesions that `mean` fades with size and `max` does not. You know what each costs, and how the published
# scripts differ from the equations.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02 to 04 read. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## Two equations
#
# Let $\Omega$ be the voxels of one lesion, and $g_v^{(n)}$ the gradient of the logit of voxel $v \in \Omega$ with
# respect to the image, taken at noise draw $n$ of $N$. It is itself an image: it has a value at every input voxel $x$.
# Equation (2) averages over the lesion's voxels:
#
# $$M_\text{mean}(x) = \frac{1}{N} \sum_{n} \frac{1}{|\Omega|} \sum_{v \in \Omega} g_v^{(n)}(x).$$
#
# Equation (3) keeps, at each input voxel, the gradient of largest absolute value, with its sign:
#
# $$
# M_\text{max}(x) = \frac{1}{N} \sum_{n} g_{v^*}^{(n)}(x), \qquad
# v^* = \arg\max_{v \in \Omega} \left| g_v^{(n)}(x) \right|.
# $$
#
# The third, `sum`, is (2) without the division. All three average over draws; they differ in how the *voxels* of the
# lesion are put together.
#
# One word chooses the patient. Where `IES_SMALL=1` is set, as in the tests, we take fewer draws, lesions and voxels.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS, LESIONS, SAMPLED, PICTURED = (2, 6, 8, 40) if SMALL else (6, 10, 30, 200)

# %% [markdown]
# ## A toy that can be solved by hand
#
# The toy network `Neighbourhood` scores a voxel by the sum of FLAIR over the 3 × 3 × 3 cube around it. The gradient of
# one voxel's logit is therefore 1 on its 27 neighbours and 0 elsewhere. Take a lesion that is a cube of side $s$ and
# look at its centre. How many lesion voxels have the centre among their 27? All of them while $s \le 3$; afterwards 27,
# however large the lesion. So
#
# $$\text{sum} = \min(s, 3)^3, \qquad \text{mean} = \min(s, 3)^3 / s^3, \qquad \text{max} = 1.$$
#
# (For odd $s$, so that there is a centre.) Work out the numbers for $s$ = 1, 3, 5 and 7 before you go on. We paint such
# cubes ...

# %%
import torch


def cube(side):
    """A mask `(13, 13, 13)` of a cube in the middle."""
    mask = torch.zeros(13, 13, 13, dtype=torch.bool)
    mask[tuple([slice(6 - side // 2, 7 + side // 2)] * 3)] = True
    return mask


# %% [markdown]
# ... and ask the package for the largest value of each map.

# %%
import pandas as pd

from ies_helpers import gradient
from ies_helpers.teaching import Neighbourhood

toy, sheet = Neighbourhood(), torch.zeros(2, 13, 13, 13)
solved = pd.DataFrame({"voxels": [1, 27, 125, 343]}, index=pd.Index([1, 3, 5, 7], name="side"))
for how in ("sum", "mean", "max"):
    solved[how] = [float(gradient(toy, sheet, cube(side), aggregate=how).max()) for side in solved.index]
solved.round(3)

# %% tags=["check"]
for side, found in solved.iterrows():
    assert abs(found["sum"] - min(side, 3) ** 3) < 1e-5
    assert abs(found["mean"] - min(side, 3) ** 3 / side**3) < 1e-5
    assert abs(found["max"] - 1) < 1e-5

# %% [markdown]
# Nothing about the network changed from row to row, only the size of the lesion. `sum` grows until the lesion is as
# large as the network's reach, then stays. `mean` stays at first, then falls like one over the volume. `max` says 1 in
# every row: the largest influence that this voxel has on any voxel of the lesion.
#
# ## Real lesions of different size
#
# Does the U-Net behave like the toy? We load both, as in the last chapters.

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
lesions

# %% [markdown]
# We take true positives, spread over all sizes.

# %%
import numpy as np

by_size = sorted(lesions.of("TP"), key=len)
chosen = [by_size[n] for n in np.unique(np.linspace(0, len(by_size) - 1, LESIONS).astype(int))]
sizes = np.array([len(le) for le in chosen])
sizes

# %% [markdown]
# One plain gradient each is enough here (no noise), so that the chapter stays short. For `mean` and `sum` one backward
# pass is enough for all voxels.

# %%
means = [gradient(network, subject.image, le, aggregate="mean") for le in chosen]

# %% [markdown]
# For `max` every voxel needs its own, and a large lesion has thousands. We save time in a way that cannot flatter
# `max`: we take it over a few voxels of the lesion only, spread evenly. Leaving voxels out can only make the largest
# *smaller*.


# %%
def spread(lesion, count=SAMPLED):
    """At most `count` voxels of a lesion, evenly along its list."""
    return lesion.voxels[np.unique(np.linspace(0, len(lesion) - 1, count).astype(int))]


maxima = [gradient(network, subject.image, spread(le), aggregate="max") for le in chosen]

# %% [markdown]
# A map has one peak: its largest absolute value, here over both modalities.

# %%
peaks = pd.DataFrame(index=pd.Index(sizes, name="voxels"))
peaks["mean"] = [float(m.abs().max()) for m in means]
peaks["sum"] = peaks["mean"] * sizes
peaks["max"] = [float(m.abs().max()) for m in maxima]
peaks.round(3)

# %% [markdown]
# How fast do they change with size? The slope of a straight line through the logarithms says it: −1 would be one over
# the volume, 0 no change at all.

# %%
slopes = {how: np.polyfit(np.log(sizes), np.log(peaks[how]), 1)[0] for how in peaks}
pd.Series(slopes).round(2)

# %% tags=["check"]
assert slopes["mean"] < -0.4, "mean fades"
assert abs(slopes["max"]) < 0.3, "max does not"

# %% [markdown]
# Now as a figure.

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for how, marker in (("mean", "o"), ("sum", "s"), ("max", "^")):
    ax.loglog(sizes, peaks[how], marker, label=how)
ax.set(xlabel="voxels of the lesion", ylabel="peak, logit per unit of z-score")
legend = ax.legend()

# %% [markdown]
# Each lesion is three marks, one above the other, and both axes are logarithmic. The circles (`mean`) fall from left to
# right: the peak of a large lesion is a small fraction of a small one's. The triangles (`max`) stay about level. The
# squares (`sum`) rise, more slowly than the volume does.
#
# The cause is the same as in the toy. Only lesion voxels within a few millimetres of $x$ have a strong gradient there.
# Their number is set by the network, not by the lesion; the divisor $|\Omega|$ is set by the lesion. If a lesion of
# 1000 voxels has a faint `mean` map, that does not mean that the network cared less about it.
#
# Let us see the same as pictures: a lesion of about 40 voxels, and the largest. First the maps.

# %%
lesion, large = min(lesions.of("TP"), key=lambda le: abs(len(le) - 40)), chosen[-1]
pair = {}
for le in (lesion, large):
    pair[le, "mean"] = gradient(network, subject.image, le, aggregate="mean")
    pair[le, "max"] = gradient(network, subject.image, spread(le, PICTURED), aggregate="max")

# %% [markdown]
# Then a plane through each; all four panels share one colour scale.

# %%
from ies_helpers import plot_slice

figure, axes = plt.subplots(2, 2, figsize=(7.6, 7), layout="constrained")
for ax, ((le, how), values) in zip(axes.flat, pair.items(), strict=True):
    style = {"scale": peaks["max"].max(), "reach_mm": 8, "unit": None, "title": f"{how}, {len(le)} voxels"}
    plot_slice(subject, values, le, ax=ax, **style)
bar = figure.colorbar(axes[0, 0].images[0], ax=axes, label="FLAIR, logit per unit of z-score", shrink=0.7)

# %% [markdown]
# Each panel is an axial plane of FLAIR, the lesion outlined in white, and 8 mm of its surroundings. Above is the small
# lesion: `mean` is faint beside `max`, but may just be seen. Below is the large one: with `mean` there is hardly
# anything left to see (the white is FLAIR itself), with `max` there is colour all over, in the same range as above. (It
# comes in patches, because we asked only some voxels of the large lesion. With all of them it would be fuller.) The
# colours run from minus to plus the strongest `max` of all chosen lesions. A viewer that gives each map its own scale
# hides the fading; a comparison of peaks over lesions does not.
#
# This is why the paper compares lesions of different size by `max`.
#
# ## With noise: SmoothGrad of both kinds
#
# Now one lesion properly: all its voxels, both aggregations, a few noisy draws.

# %%
from ies_helpers import smoothgrad

maps = {how: smoothgrad(network, subject.image, lesion, aggregate=how, draws=DRAWS) for how in ("mean", "max")}
for how, values in maps.items():
    print(f"{how:4}: peak {values.abs().max():.2f} in {DRAWS} draws")

# %% [markdown]
# We draw one above the other.

# %%
from ies_helpers import plot_saliency

for how, values in maps.items():
    figure = plot_saliency(subject, values, lesion, title=f"lesion {lesion.number}, {len(lesion)} voxels: {how}")

# %% [markdown]
# The two figures have colour bars of their own, and the lower one (`max`) reaches higher. Both are orange to red inside
# the outline in FLAIR. `max` is fuller: at each place one strong gradient is enough. In `mean`, gradients of opposite
# sign cancel: it is weaker towards the rim, may have gaps, and in T1 little may be left of it.
#
# Slice by slice, with the aggregation to choose. Click into the picture, then turn the wheel or use the arrow keys; the
# value under the crosshair stands below it. (The book has no kernel and shows a still picture.)

# %%
from ies_helpers import view

view(subject, {("smoothgrad", how): {lesion.number: m} for how, m in maps.items()}, lesions)

# %% [markdown]
# Jump to the peak of each: they need not be in the same voxel, and their values are not of the same size.
#
# ## Signs
#
# Suppose that at some input voxel three lesion voxels have the gradients +0.5, +0.4 and −0.6. Their mean is +0.1, their
# max −0.6: not only another value, another sign. `max` reports the strongest voice, `mean` the outcome of the vote. How
# often do they disagree?

# %%
disagree = (maps["mean"] * maps["max"] < 0)[0]
strong = maps["max"][0].abs() > 0.1 * maps["max"][0].abs().max()
print(f"opposite signs in FLAIR: {disagree[strong].float().mean():.0%} of voxels above a tenth of the peak")

# %% [markdown]
# And inside the lesion, what sign have they there?

# %%
own = {how: values[0][lesion.mask(subject.shape)] for how, values in maps.items()}
for how, values in own.items():
    share = (values > 0).float().mean()
    print(f"{how:4}: {share:.0%} of the lesion's own voxels are positive, mean there {values.mean():+.3f}")

# %% tags=["check"]
assert own["mean"].mean() > 0, "brighter inside the lesion raises its logits"

# %% [markdown]
# Where the signs differ, neither is wrong; they answer different questions. Write beside each map which one it is.
#
# A second difference lies in the order of things. Averaging over draws and averaging over voxels can change places, so
# for `mean` the order is free. A maximum cannot: the paper takes it *within each draw*, and so does the package.
#
# ## Cost
#
# `mean` takes one backward pass per draw, `max` one for each voxel of the lesion. We time both on the same lesion,
# without noise.

# %%
import time

seconds = {}
for how in ("mean", "max"):
    start = time.perf_counter()
    gradient(network, subject.image, lesion, aggregate=how)
    seconds[how] = time.perf_counter() - start
print(f"max took {seconds['max'] / seconds['mean']:.1f} times as long as mean, for {len(lesion)} voxels")

# %% [markdown]
# What would that be for the whole subject?

# %%
voxels = sum(map(len, lesions))
hours = voxels * seconds["max"] / len(lesion) * 50 / 3600
print(f"all {voxels} lesion voxels of this subject, 50 draws, on this machine: {hours:.1f} h for max")

# %% [markdown]
# The ratio grows with the lesion, but stays below its number of voxels: they share one forward pass, and the way back
# from each voxel visits only what that voxel can reach. You cannot get the largest of many gradients from their sum.
# Every shortcut that sums first computes something else, and that brings us to the scripts.
#
# ## What the published scripts do
#
# The paper's repository departs from its equations, and if you compare numbers you must know how. With $L$ lesions in
# the subject:
#
# | script | what it computes for one lesion | factor |
# |---|---|---|
# | `ies.py` | summed gradient, divided by draws and by the number of *lesions* $L$ | ours (`mean`) × $\lvert\Omega\rvert / L$ |
# | `ies.py` | starts from uninitialised memory | none: it may add anything |
# | `ies_maxpool_nets.py` | *sums* gradients over chunks of 512 voxels, then the largest over chunks | up to 512 voxels: ours (`mean`) × $\lvert\Omega\rvert$, which is `sum` |
#
# The first is a `sum` under the name of a mean, scaled alike for all lesions of a subject. It does not fade with size;
# it grows. Let us compute it for the largest lesion.

# %%
L = len(lesions.of("TP") + lesions.of("FP"))
like_average = gradient(network, subject.image, large, aggregate="sum") / L
print(f"peak by equation (2) {means[-1].abs().max():.3f}, as ies.py scales it {like_average.abs().max():.3f}")

# %% tags=["check"]
assert torch.allclose(like_average, means[-1] * len(large) / L, rtol=1e-3, atol=1e-4 * float(like_average.abs().max()))

# %% [markdown]
# The two peaks differ by the factor of the table: the voxels of the lesion over the number of lesions found.
#
# The second script is the `sum` under the name of a max for every lesion of up to 512 voxels, and something in between
# for larger ones. We rebuild it as well, chunk by chunk.

# %%
chunks = [large.voxels[n : n + 512] for n in range(0, len(large), 512)]
parts = torch.stack([gradient(network, subject.image, chunk, aggregate="sum") for chunk in chunks])
like_max = parts.gather(0, parts.abs().argmax(dim=0, keepdim=True))[0]
print(f"{len(large)} voxels in {len(chunks)} chunks; {L} lesions found")

# %% [markdown]
# How does its peak compare with that of equation (3)?

# %%
print(f"peak by equation (3) at least {maxima[-1].abs().max():.3f}, in chunks of 512 {like_max.abs().max():.3f}")

# %% [markdown]
# For a lesion of up to 512 voxels there is one chunk, and the last number would be the plain sum. In this handbook
# `mean`, `sum` and `max` are what their names say; the docstring of `smoothgrad` repeats the factor.
#
# ## What we saw
#
# - `mean` divides by the lesion's volume, though the network's reach does not grow with it. Large lesions fade.
# - `max` is the strongest influence on any one voxel of the lesion. It hardly depends on size, keeps its sign, and
#   costs one backward pass per voxel.
# - `sum` grows with size until the reach is filled.
# - The published scripts compute sums; the factor to ours is known.
#
# ## Limits
#
# - Size is not all that differs between these lesions: large ones may be brighter, or lie elsewhere. The toy isolates
#   size, the patient does not.
# - `max` picks an extreme, and the extreme of more numbers is larger by chance alone. In noisy gradients it grows
#   slowly with the number of voxels.
# - Our `max` of the large lesions was taken over a sample of voxels: a lower bound of the peak, and a patchy map.
# - No aggregation says how lesion voxels act *together*. Raising one voxel's logit is not raising the lesion's.
#
# ## Exercises
#
# **1.** In the toy, take a line of $n$ voxels instead of a cube. What are the three peaks for $n = 9$?
#
# <details><summary>Solution</summary>
#
# ```python
# line = torch.zeros(13, 13, 13, dtype=torch.bool)
# line[2:11, 6, 6] = True
# print([round(float(gradient(toy, sheet, line, aggregate=how).max()), 3) for how in ("sum", "mean", "max")])
# ```
#
# Expected: `[3.0, 0.333, 1.0]`. Only three voxels of a line lie within one step of any place, so `sum` is 3 and `mean`
# 3/9.
#
# *The usual wrong answer:* “9, 1 and 1: nine voxels, so nine gradients of 1.” The number of voxels alone does not
# decide: what counts is how many of them lie within the network's reach of the same place. A thin lesion fades sooner
# than a round one.
#
# </details>
#
# **2.** Show that leaving out voxels can only lower `max`, but may raise `mean`.
#
# <details><summary>Solution</summary>
#
# ```python
# few, everything = (gradient(network, subject.image, v, aggregate="max").abs() for v in (spread(lesion, 8), lesion))
# print(bool((few <= everything + 1e-5).all()))
# few, everything = (gradient(network, subject.image, v, aggregate="mean") for v in (spread(lesion, 8), lesion))
# print(float(few.abs().max() / everything.abs().max()))
# ```
#
# Expected: `True`, and a number near 1 or above: the sum is smaller, but so is the divisor.
#
# *The usual wrong answer:* “With fewer voxels both maps get weaker.” That is right for `sum` and `max`. A mean over the
# few voxels with strong gradients is larger than a mean over all.
#
# </details>
#
# **3.** A colleague scales each map by its own peak before comparing lesions. Which of the differences between `mean`
# and `max` are left?
#
# <details><summary>Solution</summary>
#
# ```python
# scaled = {how: values / maps[how].abs().max() for how, values in own.items()}
# print({how: round(float(values.mean()), 2) for how, values in scaled.items()})
# ```
#
# Expected: two numbers between −1 and 1 of similar order. The fading with size is gone, because scaling removes it;
# with it goes every statement about strength, such as “true positives have higher peaks than false ones”. Shape and
# signs are left.
#
# *The usual wrong answer:* “None: scaled to the same peak, the two maps are the same.” They would be if one were a
# multiple of the other. They are not: in places they have opposite signs.
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, Scientific Reports 2026,
#   [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9),
#   [arXiv 2406.09335](https://arxiv.org/abs/2406.09335): equations (2) and (3).
# - D. Smilkov and others, *SmoothGrad*, 2017, [arXiv 1706.03825](https://arxiv.org/abs/1706.03825): the mean over
#   draws.
#
# ## Next
#
# [06 · Grad-CAM++](06_gradcam.ipynb): a look inside the network, for one lesion.
