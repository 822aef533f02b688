# %% [markdown]
# # 01 · The patient and the network
#
# **Question.** What exactly goes into the network, what comes out, and how far can it look?
#
# **Objectives.** You can say what FLAIR and T1 show of a lesion, what a voxel is in mm, and what z-scoring does. You know the U-Net's levels and its receptive field. You know why we explain logits, and why prediction through windows and on the whole volume are two functions.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapter 00 read. No download.

# %% tags=["setup"]
# setup

# %% [markdown]
# ## The patient
#
# `demo` is synthetic. Any subject will do: `"phantom:7"`, a real patient such as `"openms:patient26"`, or a folder.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from ies_helpers import load_subject

SUBJECT = "demo"  # or "openms:patient26"
subject = load_subject(SUBJECT)
print(subject)
print("image", tuple(subject.image.shape), subject.image.dtype, "channels", subject.channels)

# %% [markdown]
# The image is one array `(C, I, J, K)`: channels first, FLAIR then T1. Both lie on the same grid. If they did not, loading would stop with a sentence; nothing is resampled behind your back.
#
# The three other axes are the scan's own. Which of them runs from left to right, and how long a voxel is, stands in the **affine**: a matrix that takes voxel indices to millimetres in the world, with x to the right, y to the front and z up.

# %%
voxel = np.array([*(n // 2 for n in subject.shape), 1])
print(subject.affine)
print("spacing in mm:", subject.spacing)
print("voxel", voxel[:3], "lies at", (subject.affine @ voxel)[:3], "mm")
assert np.allclose(np.abs(np.linalg.det(subject.affine[:3, :3])), np.prod(subject.spacing))

# %% [markdown]
# The assertion says: the volume of a voxel, in mm³, is the determinant of the affine. A lesion of 100 voxels has 100 mm³ here, and only because the spacing is 1 mm. At 0.7 mm it would have 34 mm³, and the network, which was trained at 1 mm, would see everything enlarged.
#
# ## What MS lesions look like
#
# FLAIR suppresses fluid: the ventricles are dark and lesions are bright. In T1 fluid is dark too, white matter is bright, and lesions are darker than white matter: some hardly, some nearly as dark as fluid. We outline the lesions of the target alone; no network has looked yet, so their group is `unknown`.

# %%
from ies_helpers import find_lesions, plot_lesions

drawn = find_lesions(subject.target.float(), threshold=0.5, affine=subject.affine)
figure = plot_lesions(subject, drawn, title=f"{subject.name}: {len(drawn)} lesions in the target")

# %% [markdown]
# The planes are chosen so that they cut many of them. Lesions of multiple sclerosis like certain places: around the ventricles, often with the long axis pointing away from them; close to the cortex; in brainstem and cerebellum. Small ones are the rule.

# %%
sizes = np.array([lesion.volume_mm3 for lesion in drawn])
print(f"{len(sizes)} lesions: smallest {sizes.min():.0f}, median {np.median(sizes):.0f}, largest {sizes.max():.0f} mm³")
print(f"the largest alone holds {sizes.max() / sizes.sum():.0%} of the lesion volume")

# %% [markdown]
# So the average over lesion *voxels* describes the largest lesion, and the average over *lesions* describes the small ones. Chapter 02 builds on this.
#
# ## Z-scores
#
# MRI has no unit. The same brain gives other numbers on another scanner. The published network therefore reads z-scores: from each channel its mean is subtracted, and the rest is divided by its standard deviation, both taken over the **non-zero voxels**. Outside the brain the image is zero and stays zero.
#
# That holds where the background is exactly 0, as here. A file that was saved once more may hold something else there: integers with a scale factor turn 0 into -0.0008, resampling lets it ring between tiny values, some programs write -1024 or NaN, and a z-score over the whole box moves it. None of these is zero, and a z-score over "non-zero" would be one of the box, in which a network finds ten times as many lesions. So the background is *found*, by one rule for every channel: every 0, where at least 2 % of the voxels are that; else the one value that far more voxels hold than any other, or around which they pile up; a lowest value below 0, or NaN, that reaches a side of the volume. Small spots inside the brain stay brain. What was found is said on screen where it is not exactly 0, stands in `subject.background` and in each map's sidecar, and is zero after the z-score.

# %%
from ies_helpers.subjects.subject import normalise

for name, channel in zip(subject.channels, subject.image, strict=True):
    values = channel[channel != 0]
    print(f"{name:5} mean {values.mean():+.3f}, standard deviation {values.std():.3f} over {len(values)} voxels")
louder = normalise(3 * subject.image)
print("three times as loud, largest difference:", float((louder - normalise(subject.image)).abs().max()))
padded = torch.where(subject.raw == 0, -1024, subject.raw)
print("a background of -1024, largest difference:", float((normalise(padded) - subject.image).abs().max()))

# %% [markdown]
# Mean 0, standard deviation 1; a scanner three times as loud makes no difference, nor does another background. (On a crop such as `demo` the z-score was taken over the crop.)
#
# The unit of every map in this handbook follows from here: *logit per unit of z-scored intensity*. One unit is one standard deviation of that channel.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained", sharey=True)
lesion_mask = subject.target
for ax, name, channel in zip(axes, ("FLAIR", "T1"), subject.image, strict=True):
    for mask, what in ((lesion_mask, "lesion"), (~lesion_mask & (channel != 0), "elsewhere")):
        ax.hist(channel[mask].numpy(), bins=np.linspace(-4, 5, 37), density=True, alpha=0.6, label=what)
        print(f"{name:5} {what:9} median {channel[mask].median():+.2f}")
    ax.set_xlabel(f"{name}, z-score")
axes[0].set_ylabel("share of voxels per unit")
legend = axes[0].legend()

# %% [markdown]
# Read it aloud: in FLAIR the lesion voxels lie to the right of the rest, by about one standard deviation or more (the printed medians). The heaps overlap, so a threshold on brightness would not do. In T1 they lie in the midst of the rest, and T1 alone could not tell them apart. That is one reason to expect FLAIR to count for more in the maps.
#
# **A trap.** After z-scoring, zero is the *average*, so `image > 0` is not the brain: it is the brighter part of it. Raw intensities do not help either: in the open patients' FLAIR the fluid is about 0 or below. What is outside is *exactly* zero, and a few voxels inside may be so by chance. Hence: not zero, holes filled.

# %%
from dataclasses import replace

from scipy.ndimage import binary_fill_holes

from ies_helpers import plot_slice

flair = subject.image[0].numpy()
positive, brain = flair > 0, binary_fill_holes(flair != 0)
figure, axes = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
plot_slice(subject, ax=axes[0])
for ax, mask, title in zip(axes[1:], (positive, brain), ("image > 0", "holes of image != 0 filled"), strict=True):
    plot_slice(replace(subject, image=torch.from_numpy(mask)[None].float(), channels=("mask",)), ax=ax, title=title)
print(f"image > 0 keeps {positive[brain].mean():.0%} of the brain's voxels")
assert positive[brain].mean() < 0.9

# %% [markdown]
# Read it aloud: on the left an axial slice of FLAIR; in the middle, white, what `image > 0` keeps: ventricles and sulci are holes, and so is much of the tissue; on the right the brain. Should a black spot be left within it, as in `demo`, it is part of the cleft between the hemispheres: in another slice it opens to the outside, and only what is closed all around, in three dimensions, counts as a hole. A measure that divides by "brain voxels" must use the right one.
#
# ## The network
#
# The shipped network has the form of the published U-Net, with half of its channels. It goes down through five levels, of which the first four halve the resolution and the last keeps it, and comes back up; on the way up the fine features of the way down are put beside the coarse ones.

# %%
from ies_helpers import load_network

network = load_network("unet")
convolutions = [m for m in network.module.modules() if isinstance(m, torch.nn.Conv3d)]
side = 1
print("level  side of a cell  features")
for level, convolution in enumerate(convolutions, 1):
    side *= convolution.stride[0]
    print(f"{level:5}  {side:9} voxels  {convolution.out_channels:8}")
parameters = sum(p.numel() for p in network.module.parameters())
print(f"{parameters / 1e6:.1f} million weights; window {network.window} voxels, threshold {network.threshold}")

# %% [markdown]
# The last line holds two facts that belong to the network as much as its weights do. It predicts through **windows** of 96 voxels a side; and a voxel is called lesion where its probability exceeds the **threshold**, 0.3 as published.
#
# ## How far can it look?
#
# A convolution looks at its neighbours. Stacked over levels, one output voxel depends on a box of input: the **receptive field**. Nothing outside can change the score, whatever it is. `receptive_field` finds the box by a probe.

# %%
from ies_helpers.segmentation.field import receptive_field

field = receptive_field(network, channels=2)
sides = [b + s + a for b, s, a in zip(field.before, field.stride, field.after, strict=True)]
print(f"cells of {field.stride[0]} voxels; each looks {field.before[0]} before and {field.after[0]} after itself")
print("one cell's box in mm:", [round(n * mm) for n, mm in zip(sides, subject.spacing, strict=True)])

# %% [markdown]
# All output voxels of one cell share the box, because the deepest level has one value per cell. A voxel at a cell's left edge looks far to the right and less far to the left. That is where the published U-Net can look; an exact gradient needs no more of the image than that, which is what makes explaining one lesion cheap.
#
# Where it *can* look is not where it *does*. We take the gradient of one lesion's logits and ask: how much of its absolute sum lies within so many mm of the lesion?

# %%
from scipy.ndimage import distance_transform_edt

from ies_helpers import gradient, predict

probability = predict(network, subject.image)
lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 60))
g = gradient(network, subject.image, lesion, aggregate="mean").abs().numpy()
distance = distance_transform_edt(~lesion.mask(subject.shape).numpy(), sampling=subject.spacing)
print(lesion, "; the farthest voxel with a gradient is", round(float(distance[(g > 0).any(0)].max())), "mm away")

# %% [markdown]
# Now the same as a curve.

# %%
reach = np.arange(0, 61)
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, channel in zip(("FLAIR", "T1"), g, strict=True):
    ax.plot(reach, [channel[distance <= r].sum() / g.sum() for r in reach], label=name)
within = np.array([g[:, distance <= r].sum() / g.sum() for r in reach])
ax.plot(reach, within, "k--", label="both")
ax.set_xlabel("distance from the lesion, mm")
ax.set_ylabel("share of the absolute gradient")
ax.set_ylim(0, 1.05)
legend = ax.legend()
near, far = g[:, distance == 0].mean(), g[:, (distance > 10) & (distance <= 20)].mean()
print(f"a voxel of the lesion has {near / far:.0f} times the gradient of a voxel 10 to 20 mm away")
print(f"half of it lies within {np.argmax(within >= 0.5)} mm, 90 % within {np.argmax(within >= 0.9)} mm")

# %% [markdown]
# Read it aloud: at 0 mm stands the share of the lesion itself, and it is small. The curves climb fastest within the first one or two centimetres and are flat well before the receptive field ends. The two solid curves add up to the dashed one; the higher of them is the modality with more of the gradient. Voxel for voxel the lesion counts by far the most (the printed ratio); but there are so many voxels farther off that their faint gradients add up. How much of this context the network *needs* is another question; [chapter 07](07_perilesional.ipynb) asks it.
#
# ## Logits, not probabilities
#
# For each voxel the network gives two numbers, the logits of background and lesion, $z_0$ and $z_1$. The softmax makes a probability of them:
#
# $$p = \frac{e^{z_1}}{e^{z_0} + e^{z_1}}, \qquad \frac{\partial p}{\partial x} = p\,(1 - p)\left(\frac{\partial z_1}{\partial x} - \frac{\partial z_0}{\partial x}\right).$$
#
# The factor $p(1-p)$ is the trouble. Where the network is sure, it vanishes, and so does the gradient.

# %%
from ies_helpers import predict_logits

logits = predict_logits(network, subject.image)
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for group, colour in (("TP", "tab:blue"), ("FP", "tab:orange")):
    z = torch.cat([(logits[1] - logits[0])[tuple(le.voxels.T)] for le in lesions.of(group)])
    p = torch.sigmoid(z)
    ax.scatter(z, p * (1 - p), s=8, color=colour, alpha=0.4, label=f"{group}, {len(z)} voxels")
    sure = np.mean([le.max_probability > 0.95 for le in lesions.of(group)])
    print(f"{group}: median factor {(p * (1 - p)).median():.4f}; lesions that peak above 0.95: {sure:.0%}")
ax.set_xlabel("difference of logits, $z_1 - z_0$")
ax.set_ylabel("$p\\,(1 - p)$")
legend = ax.legend()

# %% [markdown]
# Read it aloud: each dot is a voxel of a found lesion. The factor is at most 0.25, where the probability is one half, and falls towards nothing on the right. Most voxels of true positives lie far out, so a gradient of probabilities would say "nothing matters" about the very voxels the network is surest of, and would be carried by the uncertain rim. The printed share shows a second thing: *false* positives peak above 0.95 as well. A network trained with the Dice loss saturates; its softmax is no confidence.
#
# So we explain $z_1$. It keeps its slope where the softmax has none.
#
# ## Through windows, or whole
#
# The network predicts windows of 96³ voxels that overlap by a quarter, and blends their logits with a Gaussian weight. The maps of the published U-Net are gradients of *one* pass over the whole volume. These are two functions.

# %%
from dataclasses import replace

whole = replace(network, window=None)
difference = (predict_logits(whole, subject.image)[1] - logits[1]).numpy()
lesions_whole = find_lesions(predict(whole, subject.image), subject.target, threshold=network.threshold)
print("through windows:", lesions)
print("on the whole   :", lesions_whole)
brain_difference = np.abs(difference)[brain]
print(f"logits differ by {np.median(brain_difference):.3f} (median), {brain_difference.max():.1f} at most")
assert brain_difference.max() > 1e-3, "two functions"

# %% [markdown]
# Two things set them apart. Near a window's border the network meets the zeros of its own padding instead of tissue. And its cells of 16 voxels are counted from where the window starts: a window that starts at voxel 72 cuts the brain into other cells than the whole volume does, and the network is not indifferent to where they fall.

# %%
from ies_helpers.segmentation.inference import window_boxes

boxes = window_boxes(network, subject.shape)
for axis, letter in enumerate("IJK"):
    starts = sorted({int(box[axis].start) for box in boxes})
    print(f"along {letter}: windows start at {starts}, remainders by 16: {[s % 16 for s in starts]}")

# %% [markdown]
# Where all remainders are 0, only the borders are left as a cause. Where they are not, expect a difference everywhere.

# %%
from matplotlib.colors import LogNorm

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
apart, middle = torch.from_numpy(difference)[None].abs(), [n // 2 for n in subject.shape]
plot_slice(subject, ax=axes[0])
how = {"colours": "viridis", "scale": LogNorm(1e-4, 10, clip=True), "unit": "logits"}
ax = plot_slice(subject, apart, at=middle, ax=axes[1], title="difference", **how)

# %% [markdown]
# Read it aloud: on the left the slice, on the right how far the two predictions are apart, on a logarithmic scale. Straight edges are no anatomy: they are borders of windows and of cells. If all remainders are 0, the difference keeps to a band where windows overlap, and farther from the inner borders than the receptive field reaches, the two agree to the last digit or nearly so. Otherwise it covers the whole slice. The lesions of the two predictions need not be the same, as the two printed lines tell.
#
# The handbook does as the paper does: lesions come from the windows, maps of the U-Net from the whole volume. The network carries both facts, and you can ask for the other one.

# %%
through_windows = network.explained_through("windows")
print("predicts through windows of", network.window, "; is explained through:", network.through)
g_windows = gradient(through_windows, subject.image, lesion, aggregate="mean").abs().numpy()
print(f"share of the map that changes: {np.abs(g_windows - g).sum() / g.sum():.1%}")

# %% [markdown]
# Read it with the remainders above: aligned windows change the map less, misaligned ones more. So a map must say which of the two it explains; files written by the package do.
#
# ## What we saw
#
# - A subject is two channels on one grid, with an affine that makes voxels millimetres.
# - Z-scores make scans comparable and give maps their unit; zero is average, not empty.
# - The U-Net's field is bounded: beyond it nothing counts. Within it, voxel for voxel, what is near counts most.
# - The softmax saturates, for wrong lesions too. Logits keep their slope.
# - Through windows and on the whole volume are two functions: borders and the grid of cells set them apart.
#
# ## Limits
#
# - A z-score is taken over all voxels that are not background, so it depends on the field of view and on how the skull was stripped.
# - The curve of distances is one lesion's plain gradient. It counts positive and negative alike and says nothing about need.
# - $z_1$ alone is half of the story: the network can also raise a probability by lowering $z_0$. Exercise 2 looks at it.
# - The contrast of a synthetic brain was drawn at random; no histogram here says what a scanner would give.
#
# ## Exercises
#
# **1.** How many windows does the image of this subject need, and how many of them hold the chosen lesion?
#
# <details><summary>Solution</summary>
#
# ```python
# from ies_helpers.saliency.views import window_views
#
# print(len(boxes), len(window_views(network, subject.shape, lesion.voxels)))
# ```
#
# Expected: 2 windows for the 96 × 128 × 96 voxels of the demo, of which 1 or 2 hold the lesion; 27 windows for an open patient, of which up to 8 hold it.
#
# </details>
#
# **2.** Is $z_0$ the mirror image of $z_1$? Correlate them over the brain.
#
# <details><summary>Solution</summary>
#
# ```python
# print(np.corrcoef(logits[0][brain], logits[1][brain])[0, 1])
# ```
#
# Expected: a number near −1. The two outputs are trained against each other, so explaining $z_1$ loses little here. For another network, check before you rely on it.
#
# </details>
#
# **3.** Add 5 to every voxel outside the receptive field of the chosen lesion. How much do its logits change, seen whole?
#
# <details><summary>Solution</summary>
#
# ```python
# from ies_helpers.arrays import Box
#
# box = field.crop(Box.around(lesion.voxels), subject.shape)
# changed = subject.image + 5
# changed[(slice(None), *box)] = subject.image[(slice(None), *box)]
# at = tuple(lesion.voxels.T)
# print(float((predict_logits(whole, changed) - predict_logits(whole, subject.image))[1][at].abs().max()))
# ```
#
# Expected: 0, or a rounding error below 1e-4. In the small demo the box may cover nearly everything; patient 26 makes the better experiment.
#
# </details>
#
# ## References
#
# - F. Spagnolo and others, Scientific Reports 2026, [doi 10.1038/s41598-026-36560-9](https://doi.org/10.1038/s41598-026-36560-9), [arXiv 2406.09335](https://arxiv.org/abs/2406.09335): input, windows, threshold.
# - Ž. Lesjak and others, Neuroinformatics 2017, [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7): the open patients.
# - O. Ronneberger, P. Fischer, T. Brox, *U-Net*, 2015, [arXiv 1505.04597](https://arxiv.org/abs/1505.04597).
#
# ## Next
#
# [02 · Lesions as instances](02_lesions_as_instances.ipynb): from a cloud of probabilities to lesions one can count, and explain, one by one.
