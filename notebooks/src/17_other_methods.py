# %% [markdown]
# # 17 · Other methods, side by side
#
# **Question.** SmoothGrad is one way to explain a lesion. What do input x gradient, integrated gradients, occlusion and
# KernelSHAP ask instead, what does each cost, and what does it miss?
#
# **Objectives.** You can say in one sentence which question each of the five methods answers, and work out its answer
# for a score that fits on one line. You check whether a map adds up. You can show what a baseline, the size of a cube
# and the number of samples do to the map of one lesion, and choose the method that fits your question.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 03 to 05 read. KernelSHAP takes the package `captum`, which `make lab` installs; elsewhere, as in
# Colab, run `pip install captum` first.

# %% tags=["setup"]
# setup

# %% [markdown]
# One word chooses the patient. With `IES_SMALL=1` in the environment the chapter looks less far around the lesion, and
# takes fewer draws, steps and samples.

# %%
import os

SUBJECT = "demo"  # or "openms:patient26"
SMALL = os.environ.get("IES_SMALL") == "1"
DRAWS, STEPS, REACH, SAMPLES = (2, (2, 16), 3, 20) if SMALL else (16, (1, 2, 4, 8, 16, 32), 8, 200)

# %% [markdown]
# ## Five questions
#
# All five methods explain one number, the score $F(x)$ of an image $x$. They differ in what they ask about it.
#
# | method | it asks | its unit |
# |---|---|---|
# | gradient, SmoothGrad | how steep is the score here, if this voxel alone gets brighter? | logit per unit of z-score |
# | input x gradient | the same slope, times the value of the voxel | logit |
# | integrated gradients | of the rise on the way from a *baseline* to the image, how much is this voxel's? | logit |
# | occlusion | by how much does the score drop when this cube is hidden? | logit, a cube |
# | KernelSHAP | what is this cube's fair share, over all orders of hiding cubes? | logit, a cube |
#
# The last four compare the image with another one. In a z-scored image that other one is usually zero, the mean of the
# brain.
#
# We start where the truth is known. Our image holds FLAIR = 2 and T1 = 1 everywhere, and our "lesion" is a single
# voxel, which depends on nothing but itself.

# %%
import numpy as np
import torch

sheet = torch.ones(2, 8, 8, 8)
sheet[0] = 2
spot = np.array([[4, 4, 4]])

# %% [markdown]
# Two toy networks of `ies_helpers.teaching` you know from chapter 03. We need two more, and write them as a formula:
# one that *saturates*, because FLAIR above 1 adds nothing, and one for which *either* modality is enough.


# %%
class Formula(torch.nn.Module):
    """A network whose logit at a voxel is a formula of FLAIR and T1 there."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        logit = self.formula(x[:, 0], x[:, 1])
        return torch.stack([0 * logit, logit], dim=1)


# %% [markdown]
# Here are all four.

# %%
from ies_helpers.teaching import Linear, Quadratic

toys = {"2 FLAIR - T1": Linear(), "FLAIR² + T1²": Quadratic()}
toys["min(FLAIR, 1)"] = Formula(lambda flair, t1: flair.clamp(max=1))
toys["max(FLAIR, T1)"] = Formula(torch.maximum)

# %% [markdown]
# And these are the five methods. For the toys we take the plain gradient in place of SmoothGrad, which is its average
# over a little noise. A cube of side 1 is a voxel, and `reach=0` tries no others.

# %%
from ies_helpers import gradient, input_x_gradient, integrated_gradients, kernel_shap, occlusion

methods = {
    "gradient": lambda toy: gradient(toy, sheet, spot, aggregate="mean"),
    "input x gradient": lambda toy: input_x_gradient(toy, sheet, spot),
    "integrated": lambda toy: integrated_gradients(toy, sheet, spot).saliency,
    "occlusion": lambda toy: occlusion(toy, sheet, spot, side=1, reach=0),
    "KernelSHAP": lambda toy: kernel_shap(toy, sheet, spot, side=1, reach=0, samples=400),
}

# %% [markdown]
# Before you go on, work out the twenty pairs (FLAIR, T1) on paper. To hide a modality is to set it to 0. For a fair
# share, let FLAIR appear before T1 and then T1 before FLAIR, note what each adds when it appears, and take the mean.

# %%
import pandas as pd

solved = pd.DataFrame(index=list(toys))
for name, explain in methods.items():
    maps = [explain(toy)[:, 4, 4, 4].tolist() for toy in toys.values()]
    solved[name] = [tuple(round(value, 1) + 0.0 for value in pair) for pair in maps]
solved["score"] = [float(toy(sheet[None]).detach()[0, 1, 4, 4, 4]) for toy in toys.values()]
solved

# %% tags=["check"]
assert solved["gradient"].tolist() == [(2, -1), (4, 2), (0, 0), (1, 0)]
assert solved["input x gradient"].tolist() == [(4, -1), (8, 2), (0, 0), (2, 0)]
assert solved["integrated"].tolist() == [(4, -1), (4, 1), (1, 0), (2, 0)]
assert solved["occlusion"].tolist() == [(4, -1), (4, 1), (1, 0), (1, 0)]
assert solved["KernelSHAP"].tolist() == [(4, -1), (4, 1), (1, 0), (1.5, 0.5)]

# %% [markdown]
# All scores are 0 at the baseline, so a map that adds up has the score as its sum. Line by line:
#
# - **Linear.** The last four agree. Here a slope times a value *is* a drop. The gradient alone says another thing: per
#   unit, T1 counts half as much as FLAIR.
# - **Quadratic.** Input x gradient adds up to 10, twice the score of 5: it takes the steep slope at the end for the
#   whole way. Integrated gradients average the slopes of the way, and add up.
# - **Saturated.** The slope here is 0, so gradient, SmoothGrad and input x gradient see nothing, though hiding FLAIR
#   would cost the whole score. The other three say so.
# - **Either.** Hiding T1 costs nothing, and hiding FLAIR only 1 of 2, because T1 steps in. The two drops of occlusion
#   add up to half the score. KernelSHAP gives T1 its half for the orders in which it comes first. Integrated gradients
#   give FLAIR everything: on the straight way it leads from the first step to the last.
#
# Nobody is wrong here. They were asked different questions.
#
# ## Five maps of one lesion
#
# Now the patient, and a found lesion (TP) of about 60 voxels.

# %%
from ies_helpers import find_lesions, load_network, load_subject

subject, network = load_subject(SUBJECT), load_network("unet")
lesions = find_lesions(network, subject)
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 60))
lesion

# %% [markdown]
# $F$ is now the *mean logit* of the lesion class over the lesion's voxels. All five can explain this number, so we take
# SmoothGrad with `mean` here and not with `max` (chapter 05).
#
# We want to know what each map costs, so we let a hook count how often the network runs.

# %%
image, calls = subject.image, []
hook = network.module.register_forward_hook(lambda *_: calls.append(1))

# %% [markdown]
# The plain gradient comes first. With it the package finds out how far this network looks, once for all that follow.

# %%
slope = gradient(network, image, lesion, aggregate="mean")

# %% [markdown]
# `measured` makes a map, and notes passes and seconds beside its name.

# %%
import time

costs = {}


def measured(name, make):
    """What `make` gives; its passes and seconds go into `costs`."""
    calls.clear()
    start = time.perf_counter()
    made = make()
    costs[name] = {"passes": len(calls), "seconds": time.perf_counter() - start}
    return made


# %% [markdown]
# The two slopes first: SmoothGrad, and input x gradient.

# %%
from ies_helpers import smoothgrad

maps = {}
maps["SmoothGrad"] = measured("SmoothGrad", lambda: smoothgrad(network, image, lesion, aggregate="mean", draws=DRAWS))
maps["input x gradient"] = measured("input x gradient", lambda: input_x_gradient(network, image, lesion))

# %% [markdown]
# Integrated gradients take one gradient a step, on the straight way from zero to the image. They return the map, by how
# much the score has changed from end to end, and by how much the map's sum misses that.

# %%
path = measured("integrated gradients", lambda: integrated_gradients(network, image, lesion, steps=STEPS[-1]))
maps["integrated gradients"] = path.saliency
print(f"the score changed by {path.change:.2f} logits, the map adds up to {float(path.saliency.sum()):.2f}")

# %% tags=["check"]
assert path.error < 0.1 * path.change

# %% [markdown]
# Occlusion takes one forward pass for each cube and modality. A head has too many cubes, so we try those within `REACH`
# voxels of the lesion.

# %%
maps["occlusion"] = measured("occlusion", lambda: occlusion(network, image, lesion, side=5, reach=REACH))

# %% [markdown]
# KernelSHAP hides random sets of cubes, one set a sample, and fits each cube's share to the scores. Each share is one
# unknown, and it needs more samples than unknowns. So its cubes are larger here: 10 voxels a side.


# %%
def shares(seed):
    """The KernelSHAP of our lesion, for one seed of its random sets."""
    return kernel_shap(network, image, lesion, side=10, reach=REACH, samples=SAMPLES, seed=seed)


maps["KernelSHAP"] = measured("KernelSHAP", lambda: shares(0))

# %% [markdown]
# All five are in the same layout: an axial plane of FLAIR, the map over FLAIR, the map over T1. SmoothGrad has a unit
# of its own.

# %%
from ies_helpers import plot_maps

how = {"plane": "axial", "reach_mm": 12}
figure = plot_maps(subject, {"SmoothGrad": maps["SmoothGrad"]}, lesion, **how)

# %% [markdown]
# The colours are logits per unit of z-score: how steep the score is. FLAIR is orange to red in the lesion, T1 blue:
# brighter there in FLAIR speaks for a lesion, brighter in T1 against it.
#
# The other four are in logits: shares, or drops, of the score.

# %%
in_logits = {name: saliency for name, saliency in maps.items() if name != "SmoothGrad"}
figure = plot_maps(subject, in_logits, lesion, unit="logit", **how)

# %% [markdown]
# Each row has its own scale, in logits: a voxel's share in the first two rows, a whole cube's drop or share in the last
# two, painted on each of its voxels. That is why the numbers of the last two bars are ten times as large. All five
# agree that FLAIR on the lesion comes first. In T1 they do not agree. SmoothGrad shows the lesion in plain blue, the
# first two rows show next to nothing there, and in the last two a cube holds so much else that nobody can tell. Why
# nothing?

# %%
inside = lesion.mask(subject.shape)
values = {"image (z-score)": image, "gradient": slope, "input x gradient": maps["input x gradient"]}
means = {name: v[:, inside].mean(dim=1).tolist() for name, v in values.items()}
pd.DataFrame(means, index=subject.channels).T.round(3)

# %% [markdown]
# In T1 this lesion has just the brightness of an average voxel of the brain: its z-score is near 0. A slope times 0 is
# 0, and replacing 0 by 0 changes nothing. The network *is* sensitive to T1 there, as the gradient shows. But a method
# that compares with zero cannot see it. This is the first thing to know about these four: what looks like the baseline
# stays out of their maps.
#
# ## Does it add up?
#
# Integrated gradients promise *completeness*: the map's sum is the change of the score. Input x gradient looks similar.
# Does it keep the promise?

# %%
total, own = float(maps["input x gradient"].sum()), float(maps["input x gradient"][:, inside].sum())
print(f"the score changed by {path.change:.1f} logits, input x gradient adds up to {total:.1f}")
print(f"{own:.1f} of it on the lesion, {total - own:.1f} elsewhere")

# %% tags=["check"]
assert abs(total - path.change) > 0.5 * path.change

# %% [markdown]
# Not even the sign is right. The lesion's own voxels get more than the whole change, and a hundred thousand faint
# voxels of brain take it away again. Slopes at one image do not know how far they hold.
#
# Integrated gradients add up only as well as the sum over steps replaces the integral. So let us take fewer steps. (The
# package warns when the error exceeds a tenth of the change. We know, and silence it.)

# %%
import warnings

errors = {STEPS[-1]: path.error}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for n in STEPS[:-1]:
        errors[n] = integrated_gradients(network, image, lesion, steps=n).error
print({n: f"{errors[n] / path.change:.0%} of the change" for n in STEPS})

# %% [markdown]
# With two steps the error is larger than the change itself, and larger than with one. From there it falls, to a percent
# or so with 32. Report this number with every map of integrated gradients. It costs two forward passes.
#
# ## Compared with what?
#
# The map explains the *difference from the baseline*, here an image that is 0 everywhere. Does such an image mean
# anything? A more natural question for a lesion is: why does the network score this higher than the same place without
# the lesion? `remove_lesion` fills it with white matter like that around it.

# %%
import matplotlib.pyplot as plt

from ies_helpers import plot_slice, remove_lesion

healed = remove_lesion(subject, lesion)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for ax, (title, each) in zip(axes, {"scan": subject, "lesion filled": healed}.items(), strict=True):
    plot_slice(each, lesion=lesion, ax=ax, title=title, reach_mm=12)

# %% [markdown]
# On the left is the scan, on the right the same with the lesion filled in: the outline is still drawn, but the bright
# spot within it is gone.
#
# What happens on the way? We walk from each baseline to the image in ten steps and ask for the score at each. The
# package's `LesionScore` answers for any number of edited images, and looks only at the box that matters.

# %%
from ies_helpers.saliency.comparison import mean_logits
from ies_helpers.saliency.score import LesionScore

score = LesionScore(network, image, lesion)
baselines = {"zero": torch.zeros_like(image), "the filled lesion": healed.image}
way = {}
for name, baseline in baselines.items():
    walk = (torch.lerp(score.crop(baseline), score.image, t) for t in torch.linspace(0, 1, 11))
    way[name] = mean_logits(score, walk)

# %% [markdown]
# We draw the two.

# %%
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, logits in way.items():
    ax.plot(np.linspace(0, 100, 11), logits, "o-", label=f"from {name}")
ax.set(xlabel="per cent of the way from the baseline to the image", ylabel="mean logit of the lesion")
legend = ax.legend()

# %% [markdown]
# Both lines end at the same score, that of our image. From zero, most of the rise is over before half of the way, in
# images as pale as no scanner makes them. The end of the way is flat and even falls a little: in this direction the
# score is *saturated*. From the filled lesion it is the other way round. Little happens at first, and the score rises
# fastest near the end, when the lesion becomes brighter than its surroundings.
#
# Integrated gradients average the slopes along such a line. So the two maps are averages over quite different images.
# Here is the second, next to the first.

# %%
filled = integrated_gradients(network, image, lesion, baseline=healed.image, steps=16)
both = {"from zero": path.saliency, "from filled": filled.saliency}
figure = plot_maps(subject, both, lesion, unit="logit", **how)

# %% [markdown]
# Two rows in logits a voxel, each on its own scale. In FLAIR the lesion looks alike. In T1 the second row shows some of
# it: the lesion is darker than the white matter in its place, though not than the average of the brain. Around it the
# second row is empty. Where the two images are the same, the difference is zero, and so is the map. How much of each
# lies on the lesion?

# %%
from ies_helpers import proportional_energy

for name, saliency in both.items():
    total, own = float(saliency.sum()), float(saliency[:, inside].sum())
    share = proportional_energy(saliency, inside)
    print(f"{name}: {total:.1f} logits, {own:.1f} on the lesion, with {share:.0%} of the absolute values")

# %% tags=["check"]
assert filled.error < 0.1 * filled.change
assert not filled.saliency[healed.image == image].any()

# %% [markdown]
# From zero, nearly the whole change is counted on the lesion, though it has only an eighth of the map's absolute
# values: the others are faint, spread over the head, of both signs, and cancel. The filled baseline looks much tidier,
# but it has to. It may not blame anything that we did not change, and we changed the lesion and its halo. A map that
# stays on the lesion *because of its baseline* is no evidence that the network looks at the lesion.
#
# ## How large a cube?
#
# Occlusion must choose what to hide at a time. We hid cubes of 5 voxels; let us double that.

# %%
larger = measured("occlusion, 10", lambda: occlusion(network, image, lesion, side=10, reach=REACH))
sizes = {"side 5": maps["occlusion"], "side 10": larger}
figure = plot_maps(subject, sizes, lesion, unit="logit", **how)

# %% [markdown]
# Each square is a cube in section, its colour the drop of the score in logits when it is hidden. The cubes lie on a
# grid that knows nothing of the lesion. With side 5 the lesion falls into a few of them, and each drop says what the
# *rest* of the lesion cannot make up for. With side 10 nearly all of it lies in one cube, together with much that is no
# lesion, and that one cube costs over ten logits. Do the drops add up? First we need one number for each cube.

# %%
from torch.nn.functional import avg_pool3d


def added(saliency, side):
    """The sum of a map over each cube."""
    return avg_pool3d(saliency, side, ceil_mode=True, divisor_override=1)


def worth(saliency, side):
    """What a map of cubes says of each cube; voxels out of reach are 0, and left aside."""
    return (added(saliency, side) / added((saliency != 0).float(), side)).nan_to_num()


# %% [markdown]
# With these numbers:

# %%
for side, (name, saliency) in zip((5, 10), sizes.items(), strict=True):
    drops = worth(saliency, side)
    print(f"{name}: largest drop {float(drops.max()):.1f}, all drops together {float(drops.sum()):.1f} logits")

# %% [markdown]
# About the same tissue, hidden in other pieces, gives another sum, and neither is the 18 logits of integrated gradients
# from zero, which take the whole head away. There is no right size. A cube smaller than the lesion misses what is there
# twice; a larger one cannot say where.
#
# ## A fair share, but how sure?
#
# KernelSHAP draws its sets at random. We run it again with another seed.

# %%
again = shares(1)
seeds = {"seed 0": maps["KernelSHAP"], "seed 1": again}
figure = plot_maps(subject, seeds, lesion, unit="logit", **how)

# %% [markdown]
# The two rows agree on the cube of the lesion, in FLAIR. Look at the pale cubes around it and in T1: some change their
# sign from one seed to the next. We put numbers to it, one a cube.

# %%
cubes = pd.DataFrame({name: worth(saliency, 10).ravel().numpy() for name, saliency in seeds.items()})
cubes = cubes[(cubes != 0).any(axis=1)].astype(float)
print(cubes.sum().round(1).to_dict(), "logits in all,", len(cubes), "cubes")
difference = (cubes["seed 1"] - cubes["seed 0"]).abs()
print(f"median share {cubes.abs().stack().median():.2f}, median difference {difference.median():.2f}")

# %% tags=["check"]
assert abs(cubes["seed 0"].sum() - cubes["seed 1"].sum()) < 0.05

# %% [markdown]
# The sums agree: shares always add up to what it costs to hide all cubes at once. But the median share is no larger
# than the median difference between the seeds. With these samples only the strongest cubes are known well, and a pale
# one may have either sign. Four times as many samples would halve the difference. Run two seeds before you read
# anything into a pale cube.
#
# ## Something far away
#
# Chapter 10 planted a cue: a network that looks 6 voxels beside the lesion. Let us move the cue 12 voxels away, and
# take the same reach as above, and then 15.

# %%
from ies_helpers.teaching import planted_cue

cue = planted_cue(steps=12)
asked = cue.network, cue.image, cue.lesion
claims = {"input x gradient": input_x_gradient(*asked), "integrated": integrated_gradients(*asked).saliency}
claims |= {f"occlusion, reach {reach}": occlusion(*asked, side=3, reach=reach) for reach in (8, 15)}
claims["KernelSHAP, reach 15"] = kernel_shap(*asked, side=8, reach=15, samples=400)

# %% [markdown]
# How much of each map lies on the cue?

# %%
found = pd.DataFrame({name: cue.shares(saliency) for name, saliency in claims.items()}).T
found.round(2)

# %% tags=["check"]
assert (found.loc[["input x gradient", "integrated", "occlusion, reach 15"], "cue"] > 0.99).all()
assert found.loc["occlusion, reach 8"].isna().all()

# %% [markdown]
# The gradients find it, however far it is: they look everywhere at no extra cost. Occlusion finds it where it looks.
# With a reach of 8 it does not, and its map is empty (no shares: `NaN`). On a real lesion it would not be empty, and
# you would not notice. KernelSHAP has cubes of 8 voxels, and shares out the cue's credit over the whole cube.
#
# ## What each costs
#
# Here is what we noted on the way. A pass of the first three goes forward and back, one of the others only forward. A
# gradient is worth two to three forward passes.

# %%
hook.remove()
pd.DataFrame(costs).T.round(1)

# %% [markdown]
# Input x gradient is next to free. SmoothGrad and integrated gradients take as many passes as you give them, whatever
# the size of the lesion. Occlusion and KernelSHAP pay for every cube, and so for the *volume* that they try: half the
# side means up to eight times the cubes, and so does twice the reach.
#
# ## Do they agree?
#
# First voxel by voxel, within 8 voxels of the lesion: the correlation of the maps, both modalities together.

# %%
from ies_helpers.measures.removal import surroundings

near = surroundings(lesion, subject.shape, 8)
pd.DataFrame({name: saliency[:, near].ravel().numpy() for name, saliency in maps.items()}).corr().round(2)

# %% [markdown]
# The three gradients resemble each other; the two that hide cubes do not resemble them. But is that a matter of
# opinion, or of resolution? We add up what the first three say within each cube of 10 voxels. A cube's drop and share
# stay as they are.

# %%
coarse = {name: added(saliency, 10) for name, saliency in maps.items()}
coarse |= {"occlusion": worth(larger, 10), "KernelSHAP": worth(maps["KernelSHAP"], 10)}
tried = coarse["occlusion"] != 0
by_cube = pd.DataFrame({name: saliency[tried].numpy() for name, saliency in coarse.items()})
by_cube.corr().round(2)

# %% tags=["check"]
assert by_cube.corr().loc["integrated gradients", "occlusion"] > 0.8

# %% [markdown]
# Now they agree almost perfectly! Do not stop here. A correlation is easily carried by one strong value, and one cube
# holds the lesion. We leave out the two strongest cubes.

# %%
strongest = by_cube["occlusion"].abs().nlargest(2).index
by_cube.drop(strongest).corr().round(2)

# %% [markdown]
# Much of the agreement is gone. All five say that FLAIR on the lesion matters most, and from there on it depends on
# whom you ask. What about the share of the modalities, and the place of the strongest voxel?

# %%
from ies_helpers import pointing_game
from ies_helpers.measures.maps import channel_shares

rows = {name: channel_shares(saliency, subject.channels) for name, saliency in maps.items()}
summary = pd.DataFrame(rows).T
summary["peak in lesion"] = [pointing_game(saliency, lesion) for saliency in maps.values()]
summary.round(2)

# %% [markdown]
# "How much does the network use T1?" has an answer between a third and a half, depending on the method. A share of this
# kind is no property of the network alone: it depends on the question, and for four of the five on the baseline. The
# strongest voxel lies in the lesion for the three gradients. For the cubes it cannot be told: all voxels of the
# strongest cube tie, and the number is the share of them that lies in the lesion.
#
# ## Which question fits which method?
#
# | you ask | take | it misses |
# |---|---|---|
# | what would move this lesion's score, and in which direction? | SmoothGrad | what is saturated |
# | the same, in a hurry, in logits | input x gradient | what is saturated or looks average; it does not add up |
# | why is the score higher than at this baseline? | integrated gradients | what looks like the baseline |
# | does the network need this piece? | occlusion | what is there twice, what lies out of reach, detail |
# | what is this piece's fair share? | KernelSHAP | weak pieces (noise), what lies out of reach, detail |
# | what moves *any* voxel of the lesion most? | SmoothGrad with `max` | how voxels act together (chapter 05) |
#
# This is why the handbook keeps to SmoothGrad for lesions. It keeps sign, modality and place, needs no baseline, looks
# as far as the network does, and its noise can be measured. What it cannot say is what happens when something is taken
# away. For that, hide it and look (chapters 07 and 16).
#
# ## What we saw
#
# - On a linear score the methods agree, up to the unit. On a quadratic, a saturated or a redundant one they part, and
#   each is right for its own question.
# - Four of the five compare with a baseline, and cannot see what looks like it. Here that was the lesion's T1.
# - Integrated gradients add up, given enough steps. Input x gradient does not.
# - From zero, most of the score's rise happens in images that no scanner makes. From the filled lesion the map is tidy
#   because it must be.
# - Cubes and samples are choices, too: the picture changes with them. Weak shares of KernelSHAP change with the seed.
# - All agree on the strongest cube. Beyond it they do not.
#
# ## Limits
#
# - One lesion, one small network, a synthetic patient. The order of the methods' costs will hold elsewhere; the numbers
#   will not.
# - The score is the mean logit. The `max` of chapter 05 is no score but a choice among gradients, so only gradients
#   have it.
# - Occlusion's cubes may overlap (`stride`). That makes its map smoother, and costs more passes.
# - Zero, filled and blurred baselines are three of many. None is a healthy scan of this patient.
# - KernelSHAP had 200 samples for some fifty cubes. The package's default is 1000, which takes five times as long.
# - For networks with instance norm (nnU-Net) the way from zero is worse still: take `baseline="blurred"`.
#
# ## Exercises
#
# **1.** On paper: a network that needs both, FLAIR times T1. What do the five methods say for FLAIR = 2 and T1 = 1?
#
# <details><summary>Solution</summary>
#
# The slopes are the *other* modality: 1 for FLAIR, 2 for T1. Times the values, both get 2. On the straight way the
# slopes grow from 0, so integrated gradients give half, 1 and 1. Hiding either costs the whole score, 2 and 2. In a
# fair share each adds nothing when it comes first and 2 when it comes second: 1 and 1.
#
# ```python
# product = Formula(torch.mul)
# print({name: [round(v, 1) for v in explain(product)[:, 4, 4, 4].tolist()] for name, explain in methods.items()})
# ```
#
# Expected: `[1.0, 2.0]`, `[2.0, 2.0]`, `[1.0, 1.0]`, `[2.0, 2.0]`, `[1.0, 1.0]`.
#
# *The usual wrong answer:* “Occlusion says 1 and 1, since the score is 2 and they share it.” Occlusion does not share:
# whatever cannot be spared gets everything, each time. Its drops add up to 4, here too much; for `max` they added up to
# too little.
#
# </details>
#
# **2.** Hide FLAIR and T1 of a cube together, `modalities="all"`. Is the drop the sum of the two single drops?
#
# <details><summary>Solution</summary>
#
# ```python
# together = occlusion(network, image, lesion, side=10, reach=REACH, modalities="all")[0]
# cube = np.unravel_index(int(together.argmax()), subject.shape)
# print(f"each {[round(float(v), 1) for v in larger[(slice(None), *cube)]]}, together {float(together[cube]):.1f}")
# ```
#
# Expected: `each [10.3, 0.0], together 9.0`. Hiding T1 alone costs nothing, and once FLAIR is hidden, hiding T1 as well
# gives more than a logit *back*: the T1 that was left spoke against a lesion.
#
# *The usual wrong answer:* “Yes: two drops, one after the other.” That would be so for a score that is a sum of what
# each modality brings. This network combines them.
#
# </details>
#
# **3.** How many times as many samples does KernelSHAP need to be twice as precise? Try it on the toy `max(FLAIR, T1)`,
# whose true shares you know.
#
# <details><summary>Solution</summary>
#
# ```python
# either = toys["max(FLAIR, T1)"]
# for samples in (50, 200):
#     drawn = [kernel_shap(either, sheet, spot, side=1, reach=0, samples=samples, seed=s) for s in range(12)]
#     flair = torch.stack(drawn)[:, 0, 4, 4, 4]
#     print(f"{samples} samples: {flair.mean():.2f}, scatter {flair.std():.3f}")
# ```
#
# Expected: means near 1.5, and a scatter that falls to about a half. Four times as many.
#
# *The usual wrong answer:* “Twice as many.” The error of a mean falls with the *root* of the number of draws, for SHAP
# as for SmoothGrad (chapter 04).
#
# </details>
#
# ## References
#
# - Ancona M. and others (2018). Towards better understanding of gradient-based attribution methods for deep neural
#   networks. [arXiv 1711.06104](https://arxiv.org/abs/1711.06104). Input x gradient beside the others.
# - Sundararajan M. and others (2017). Axiomatic attribution for deep networks.
#   [arXiv 1703.01365](https://arxiv.org/abs/1703.01365). Integrated gradients.
# - Sturmfels P., Lundberg S., Lee S.-I. (2020). Visualizing the impact of feature attribution baselines. *Distill*.
#   [doi 10.23915/distill.00022](https://doi.org/10.23915/distill.00022).
# - Zeiler M. D., Fergus R. (2014). Visualizing and understanding convolutional networks.
#   [arXiv 1311.2901](https://arxiv.org/abs/1311.2901). Occlusion.
# - Lundberg S., Lee S.-I. (2017). A unified approach to interpreting model predictions.
#   [arXiv 1705.07874](https://arxiv.org/abs/1705.07874). KernelSHAP.
#
# ## Next
#
# Methods disagree, and [chapter 16](16_what_a_map_depends_on.ipynb) has the means to judge each of their maps.
# [Chapter 11](11_structures_and_groups.ipynb) goes on with SmoothGrad, from one lesion to many.
