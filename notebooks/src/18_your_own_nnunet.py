# %% [markdown]
# # 18 · Your own nnU-Net
#
# **Question.** You have trained an nnU-Net. How do you explain one of its lesions, and is what you explain really what
# nnU-Net predicts with?
#
# **Objectives.** You can say which three files of a results folder decide the answer. You load the folder, choose folds
# and mirrored copies, and see what happens to a scan before the network gets it. You explain one lesion, know which
# part of the map is exact and which is estimated, and find the map on the grid of your own scan. You recognise the
# mistakes that people make, by the sentence that each of them gets.
#
# **Minutes.** 1 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 02 to 05. It helps to know the far field of chapter 08. About 2 GB of memory. No nnU-Net and no
# patient data: we write a results folder and a scan ourselves.

# %% tags=["setup"]
# setup

# %% [markdown]
# `SMALL` is true where the tests run this chapter. It then works on the middle of the brain, with one noisy image.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
CUT, DRAWS = (24, 1) if SMALL else (0, 4)

# %% [markdown]
# The networks of nnU-Net v2 are built by a small package of its authors, which a notebook may lack. nnU-Net itself is
# not needed, and it is never run. In a terminal: `pip install --no-deps dynamic-network-architectures`.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("dynamic_network_architectures") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "dynamic-network-architectures"], check=True)

# %% [markdown]
# ## A scan and a results folder
#
# You have both already. So that everybody can run this chapter, we make them. First the scan: the shipped synthetic
# patient, saved as nnU-Net names its files (`_0000` is the first channel, `_0001` the second). Real scans have empty
# space around the brain and this one has none, so we put a rim of zeros around it.

# %%
import numpy as np

from ies_helpers import load_subject

RIM = 12
demo = load_subject("demo")
middle = (slice(None), *(slice(CUT, n - CUT) for n in demo.shape))
values = np.pad(np.stack([*demo.raw, demo.target])[middle], [(0, 0), *[(RIM, RIM)] * 3])

# %% [markdown]
# The first voxel now lies elsewhere, so the affine moves with it.

# %%
import nibabel

affine = demo.affine @ nibabel.affines.from_matvec(np.eye(3), [CUT - RIM] * 3)

# %% [markdown]
# We write the three files into a folder that you may throw away.

# %%
from pathlib import Path
from tempfile import mkdtemp

home = Path(mkdtemp())
files = {"flair": home / "ms_001_0000.nii.gz", "t1": home / "ms_001_0001.nii.gz", "target": home / "ms_001.nii.gz"}
for file, array in zip(files.values(), values, strict=True):
    nibabel.save(nibabel.Nifti1Image(array.astype("f4"), affine), file)

# %% [markdown]
# From here on we do what you would do with your own files. We load the scan and say which file is which.

# %%
subject = load_subject(**files)
print(subject)

# %% [markdown]
# Now the results folder. `write_results` makes one in nnU-Net's format.

# %%
from ies_helpers.teaching import write_results

folder = write_results(home / "nnUNet_results")

# %% [markdown]
# One thing you must know about it. Its weights were not trained: they are set by hand, so that the network calls bright
# FLAIR lesion and hardly looks at T1, plus a little noise that differs from fold to fold. Such a rule finds lesions and
# invents many more. It has one advantage over a trained network: we know what its maps must show. (The shipped
# `nnunet` cannot be put into such a folder. It is MONAI's, as in the paper, and its blocks are not those of nnU-Net
# v2.)
#
# ## What is in the folder
#
# Everything else in this chapter works the same with your folder. What does it hold?

# %%
for path in sorted(folder.rglob("*.*")):
    print(f"{path.relative_to(folder)!s:30} {path.stat().st_size / 1000:8.1f} kB")

# %% [markdown]
# The folder's own name is `TRAINER__PLANS__CONFIGURATION`. Yours holds more: `progress.png`, training logs,
# `checkpoint_best.pth`, `debug.json`, a folder `validation` in each fold. None of these changes an answer. Three kinds
# of file do:
#
# | file | what it decides |
# |---|---|
# | `dataset.json` | which channel comes first; which output means what |
# | `plans.json` | what is done to a scan; how the network is built |
# | `fold_N/checkpoint_final.pth` | the weights of a fold; the axes along which it also sees the image mirrored |
#
# Take them along when you copy a network, and keep them together. We open the first.

# %%
import json

dataset = json.loads((folder / "dataset.json").read_text())
print(dataset["channel_names"], dataset["labels"])

# %% [markdown]
# So `_0000` must be FLAIR, and class 1 is lesion. The second is long. This is what it says about images:

# %%
plans = json.loads((folder / "plans.json").read_text())
full = plans["configurations"]["3d_fullres"]
for name in ("spacing", "patch_size", "normalization_schemes", "use_mask_for_norm"):
    print(f"{name:22} {full[name]}")
print(f"{'transpose_forward':22} {plans['transpose_forward']}")

# %% [markdown]
# The voxels of this network are 1.25 mm long on its first axis and 1 mm on the others, and it looks through patches of
# 48 x 64 x 48 of them. Each channel gets a z-score over what is not zero. The axes change places.
#
# The third is opened without running code: a checkpoint that asks for anything but tensors and plain numbers is
# refused.
#
# ## Load it
#
# The folder is the network's name.

# %%
from ies_helpers import load_network

network = load_network(folder)
print(f"{network.name}: takes {network.channels}, puts out {network.classes}, {network.passes} passes a window")

# %% [markdown]
# Four passes: two folds, and each sees a window as it is and mirrored along one axis. nnU-Net averages the logits of
# all of them. With five folds and three mirrored axes, which is nnU-Net's own default, it would be 40. You may choose:
#
# | what you write | what it is |
# |---|---|
# | `load_network(folder)` | all folds there are, mirrored copies as in training: what `nnUNetv2_predict` does |
# | `load_network(f"{folder}:0")` | fold 0 alone; `:0,1` two of them |
# | `load_network(folder, mirroring=False)` | no mirrored copies, as with `--disable_tta` |
# | `load_network(folder, checkpoint="checkpoint_best.pth")` | another file of each fold |
#
# And which output is explained?

# %%
print("explained:", network.classes[network.lesion_class], "| head:", network.head)

# %% [markdown]
# Where there are several classes or regions, an output whose name looks like *lesion* is taken, and you are told so.
# `settings={"network": {"lesion_class": "core"}}` asks for another one, by the name that `dataset.json` gives it.
#
# ## What nnU-Net does to a scan
#
# `prepare` brings the network and the scan together. From then on `scan.image` is what this network makes of the files,
# and `placed` knows where its own grid lies on this scan.

# %%
from ies_helpers import prepare

placed, scan = prepare(network, subject)

# %% [markdown]
# First it crops: nnU-Net cuts out the box around all that is not zero. It never looks beyond.

# %%
box = placed.grid.box
print("scan ", subject.shape)
print("box  ", tuple((int(side.start), int(side.stop)) for side in box))

# %% [markdown]
# The rim of 12 voxels that we added is gone. Next, each channel is normalised. We compare the values in the brain with
# those of the file.

# %%
import pandas as pd

brain = subject.raw[0] != 0
rows = {"in the file": subject.raw, "for the network": scan.image}
told = {name: [x[0][brain].mean(), x[0][brain].std(), x[0][~brain].max()] for name, x in rows.items()}
pd.DataFrame(told, index=["FLAIR mean", "FLAIR scatter", "background"], dtype=float).round(2)

# %% tags=["check"]
assert abs(float(scan.image[0][brain].mean())) < 1e-3
assert tuple(box.shape) == tuple(n - 2 * RIM for n in subject.shape)

# %% [markdown]
# Mean 0 and scatter 1: a unit of this image is one standard deviation of the patient's own brain. That is the unit that
# the map will be *per*. Last, the axes are turned and the image is resampled. `push` does to an image what happens
# inside, each time it is asked.

# %%
array, _ = placed.grid.push(scan.image)
print("on the scan's grid   ", tuple(scan.image.shape))
print("on the network's grid", tuple(array.shape))

# %% [markdown]
# To look at that array we wrap it as a subject with the spacing of the plans.

# %%
from ies_helpers import Subject

seen = Subject("network", array, np.diag([*full["spacing"], 1.0]), scan.channels)

# %% [markdown]
# Here is the middle slice along the third axis of both.

# %%
import matplotlib.pyplot as plt

from ies_helpers import plot_slice

figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
plot_slice(subject, ax=axes[0], title="the scan")
ax = plot_slice(seen, ax=axes[1], title="what the network gets")

# %% [markdown]
# On the left we cut the scan along its third axis and get an axial slice: third is up, in this patient. On the right we
# cut the network's array along *its* third axis and get a sagittal one: there, third is left to right. (So the letters
# L and R are wrong on the right. They are what a viewer would tell you if you handed it this array.) For the network
# the brain lies on its side, and nothing is wrong with that, since all of its training images lay like this. But hand
# it a scan in the scan's own axes, and you ask it about a patient such as it has never seen. Nothing warns you: the
# sizes fit, and a segmentation comes out. Chapter 08 leaves out each of these steps in turn and measures what it costs.
#
# ## Predict, and find lesions
#
# `find_lesions` takes the network as it was loaded and the subject as it was loaded, and prepares by itself.

# %%
from ies_helpers import find_lesions

lesions = find_lesions(network, subject)
print(lesions)

# %% [markdown]
# As announced, a rule this simple finds most lesions and invents many more. Never mind; yours is better.
#
# **Is this nnU-Net's own answer?** It must be, or we would explain something else. We tested it in two ways, against
# nnU-Net's own software:
#
# | folder | against | furthest logit | lesion voxels that differ |
# |---|---|---|---|
# | this one, on the demo | nnU-Net 2.8.1, no mirrored copies | 9e-6, of −10 to 17 | 0 of 15,522 |
# | the same | nnU-Net 2.8.1, mirrored copies | 7e-6 | 0 of 15,233 |
# | trained; thick slices, axes turned | its answers, saved | below 5e-5 | 0 |
# | residual encoder, regions, mirrored copies | its answers, saved | below 5e-5 | not counted |
# | a scan smaller than a patch | its answers, saved | below 5e-5 | 0 |
#
# One remark on these numbers. nnU-Net as shipped adds up its windows in float16, and that alone moves its logits by up
# to 0.5 at the corners of the volume. We compared with nnU-Net adding up in float32.
#
# ## One lesion, explained
#
# We take a lesion that was found and is real, of about 20 voxels.

# %%
lesion = min(lesions.of("TP"), key=lambda le: abs(len(le) - 20))
lesion

# %% [markdown]
# A map needs the pair that `prepare` gave us: `placed` and `scan.image`. First the mean over the lesion's voxels.

# %%
from ies_helpers import smoothgrad

average = smoothgrad(placed, scan.image, lesion, aggregate="mean", draws=DRAWS)

# %% [markdown]
# And the picture.

# %%
from ies_helpers import plot_saliency

figure = plot_saliency(scan, average, lesion, title=f"lesion {lesion.number}, {len(lesion)} voxels: mean")

# %% [markdown]
# FLAIR above, T1 below, one scale for both. FLAIR is red inside the outline and pale a voxel further: brighter here,
# and the score rises. T1 has hardly any colour. That is what the rule says, so the map tells the truth. Had we got the
# axes wrong somewhere on the way, the red would lie in another place.
#
# How strong is T1 really?

# %%
mask = lesion.mask(scan.shape)
for name, values in zip(scan.channels, average, strict=True):
    print(f"{name:6} mean inside {values[mask].mean():+.3f}, peak {values.abs().max():.3f} logit per unit")

# %% tags=["check"]
assert average[0][mask].mean() > 5 * average[1][mask].mean().abs()
assert mask[np.unravel_index(int(average[0].abs().argmax()), scan.shape)]

# %% [markdown]
# Now the maximum. `smoothgrad_average` makes the same map as `smoothgrad`, and also reports how.

# %%
from ies_helpers import smoothgrad_average

strongest = smoothgrad_average(placed, scan.image, lesion, aggregate="max", draws=DRAWS)
largest = strongest.full(scan.shape)

# %% [markdown]
# The picture has the same form.

# %%
figure = plot_saliency(scan, largest, lesion, title=f"lesion {lesion.number}, {len(lesion)} voxels: max")

# %% [markdown]
# The same place and the same signs, but look at the bar: the peak is 17 times that of the mean, and the lesion has 18
# voxels. This network decides each voxel by hardly more than that voxel. So at any place the mean shares one strong
# gradient among all of the lesion's voxels, and the maximum keeps it (chapter 05).
#
# **What is exact, and what is estimated?** A mean takes one backward pass for each window and copy, and is exact up to
# rounding. A maximum needs the gradient of every single voxel. An nnU-Net has instance norms, so each of them reaches
# over the whole patch, and one pass for each voxel is dear. The package takes the near part of all of them exactly, and
# the weak far part from a few passes. It says how well that went:

# %%
print(strongest.report.in_words())

# %% [markdown]
# The error is estimated for the gradients of the whole lesion, as a share of their length (L2). Two voxels are taken
# exactly as well, and there the error is *measured*: the largest, in length (l2), and in the sum of absolute values
# (l1). The last is the largest of the three, because the far field is very many tiny values: add them up over the brain
# with care. `accuracy="exact"` takes a pass for every voxel; `accuracy=0.01` is faster. Chapter 08 compares such a map
# with the exact one.
#
# ## What mirrored copies and folds cost, and what they change
#
# A map of fewer passes is cheaper. Is it the same map? We try four networks of one folder.

# %%
choices = {"all": network, "one fold": load_network(f"{folder}:0")}
choices["not mirrored"] = load_network(folder, mirroring=False)
choices["one pass"] = load_network(f"{folder}:0", mirroring=False)

# %% [markdown]
# We take the gradient of the mean with each, of the same lesion, and count the seconds of computing.

# %%
import time

from ies_helpers import gradient

maps, seconds = {}, {}
for name, choice in choices.items():
    partly, image = prepare(choice, subject)
    begun = time.process_time()
    maps[name] = gradient(partly, image.image, lesion, aggregate="mean")
    seconds[name] = time.process_time() - begun

# %% [markdown]
# How far is each from the map of all passes, as a share of its length?

# %%
apart = {name: float((g - maps["all"]).norm() / maps["all"].norm()) for name, g in maps.items()}
passes = {name: choice.passes for name, choice in choices.items()}
cost = pd.DataFrame({"passes": passes, "seconds": seconds, "apart": apart})
cost["seconds"] /= cost["seconds"]["one pass"]
cost.rename(columns={"seconds": "times one pass"}).round(2)

# %% tags=["check"]
assert apart["one pass"] > apart["one fold"] > 0
assert apart["one pass"] > 0.01

# %% [markdown]
# Time grows with the passes, here by less than their number: the network is tiny, and the way to its grid and back
# costs the same each time. Memory hardly grows, since one pass is taken after the other. The maps are *not* the same,
# though our folds differ by a little noise only. In networks that were really trained the difference is larger: with
# one that we trained briefly on five patients, leaving out the mirrored copies moved a map by 39 % of its length, and
# so did leaving out one of two folds. **So a map of one pass explains another network than the one that you publish.**
# Take one fold without mirrors to look around, and all of them for the figure.
#
# Logits are averaged, and a gradient of an average is the average of the gradients. So nothing is estimated here. Each
# fold by itself, then the mean:

# %%
folds = []
for fold in (0, 1):
    one, image = prepare(load_network(f"{folder}:{fold}"), subject)
    folds.append(gradient(one, image.image, lesion, aggregate="mean"))
difference = float((sum(folds) / 2 - maps["all"]).norm() / maps["all"].norm())
print(f"mean of two folds, against the map of all passes: {difference:.0e} apart")

# %% tags=["check"]
assert difference < 1e-5

# %% [markdown]
# The two agree up to rounding. (For `max` this does not hold: the passes of a voxel are averaged first, and only then
# the largest is taken.)
#
# ## The same from the command line
#
# In a terminal the folder stands where `unet` would. `main` is that command line. We ask for the mean again, of one
# lesion by its number.

# %%
from ies_helpers.__main__ import main

words = ["explain", "--flair", files["flair"], "--t1", files["t1"], "--target", files["target"]]
words += ["--network", folder, "--lesions", lesion.number, "--aggregate", "mean", "--draws", DRAWS]
words = [str(word) for word in (*words, "--out", home / "out")]
print("ies", *words)

# %% [markdown]
# We run it.

# %%
code = main(words)

# %% [markdown]
# Lesions are counted in the same way in Python and on the command line, so the number means the same lesion. Which
# function was explained stands in the sidecar beside each map:

# %%
(map_file,) = (home / "out").rglob("*mean*_FLAIR.nii.gz")
record = json.loads(Path(str(map_file).replace(".nii.gz", ".json")).read_text())
print({key: record[key] for key in ("network", "lesion", "voxels", "method", "aggregate", "draws")})

# %% tags=["check"]
assert code == 0
assert record["voxels"] == len(lesion)

# %% [markdown]
# ## Back on the scan's own grid
#
# The network worked with other axes, another spacing and a smaller box. Each of these steps is linear, so the gradient
# goes back through its transpose, and the map lies on the scan. Does it, in the file? Shape and affine must be the
# scan's.

# %%
ours, theirs = nibabel.load(map_file), nibabel.load(files["flair"])
print("shape ", ours.shape, theirs.shape)
print("affine", np.abs(ours.affine - theirs.affine).max(), "apart")

# %% tags=["check"]
assert ours.shape == theirs.shape
assert np.allclose(ours.affine, theirs.affine)

# %% [markdown]
# Is it the map that we made in Python? And what is there beyond the crop, where nnU-Net does not look?

# %%
written = ours.get_fdata()
beyond = np.ones(scan.shape, dtype=bool)
beyond[box] = False
print(f"furthest from ours {np.abs(written - average[0].numpy()).max():.0e}, beyond the box {written[beyond].max()}")

# %% tags=["check"]
assert np.allclose(written, average[0].numpy(), atol=1e-5)
assert not written[beyond].any()

# %% [markdown]
# The same map, and nothing beyond the box. Any viewer will lay it over the scan.
#
# ## What goes wrong
#
# Most mistakes get one sentence: the rule, what was found, what to do. Here are real ones. `attempt` prints the
# sentence in place of the long traceback.


# %%
def attempt(what, do):
    """Print what somebody did, and what came of it."""
    try:
        do()
    except (ValueError, OSError) as error:
        print(f"{what}\n  -> {type(error).__name__}: {error}\n")


# %% [markdown]
# Somebody asks for a fold that was never trained, and gives the checkpoint without its folder.

# %%
import shutil

alone = shutil.copy(folder / "fold_0/checkpoint_final.pth", home / "mine.pth")
attempt("fold 4", lambda: load_network(f"{folder}:4"))
attempt("a checkpoint alone", lambda: load_network(alone))

# %% [markdown]
# The next mistakes are in the folder, so we need copies of it with something changed in a JSON file.


# %%
def edited(file, change):
    """A copy of the results folder, in which `change` was made to a JSON file."""
    copied = Path(mkdtemp()) / folder.name
    shutil.copytree(folder, copied)
    content = json.loads((copied / file).read_text())
    change(content)
    (copied / file).write_text(json.dumps(content))
    return copied


# %% [markdown]
# Weights of another trainer with a network of its own, or plans that were made anew since the training, do not fit
# together.


# %%
def widen(plans):
    """Ask for more features than the weights have."""
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 4]


attempt("plans of another network", lambda: load_network(edited("plans.json", widen)))

# %% [markdown]
# A cascade's second stage needs the first one's answer, and a 2D configuration has no volume.

# %%
cascade = edited("plans.json", lambda p: p["configurations"]["3d_fullres"].update(previous_stage="3d_lowres"))
attempt("a cascade", lambda: load_network(cascade))

# %% [markdown]
# The network was trained with a channel that this patient does not have.

# %%
other = edited("dataset.json", lambda d: d.update(channel_names={"0": "FLAIR", "1": "T2"}))
attempt("a channel lacks", lambda: prepare(load_network(other), subject))

# %% [markdown]
# Somebody forgets `prepare`, or asks about a voxel in the rim.

# %%
attempt("without prepare", lambda: gradient(network, subject.image, lesion))
attempt("beyond the crop", lambda: gradient(placed, scan.image, np.array([[0, 0, 0]])))

# %% [markdown]
# And the classic: **channels in the wrong order**. If `dataset.json` names them in another order, nothing goes wrong,
# because channels are handed over by name and not by place:

# %%
turned = load_network(edited("dataset.json", lambda d: d.update(channel_names={"0": "T1", "1": "FLAIR"})))
print("takes", turned.channels, "| gets", prepare(turned, subject)[1].channels)

# %% [markdown]
# But names can lie. If the FLAIR file is given as T1, no rule of nnU-Net notices. We look at the values, and warn.

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the same sentence stands in the notes
    swapped = load_subject(flair=files["t1"], t1=files["flair"], target=files["target"])
print(*swapped.notes, sep="\n")

# %% [markdown]
# A warning, not an error, because other contrasts may look like that. If your channels have names such as `MR1` and
# `MR2`, give them names that mean something: they are all that ties a file to its place.

# %% [markdown]
# ## What we saw
#
# - `dataset.json`, `plans.json` and the folds' checkpoints decide the answer. They are read without nnU-Net and without
#   running code.
# - `prepare` turns, crops, normalises and resamples as nnU-Net does; the logits are nnU-Net's to about 1e-5, and the
#   maps lie on the scan's own grid.
# - A mean is exact. A maximum is exact nearby and estimated far away, with an error that it reports.
# - Folds and mirrored copies are part of the function. Leave them out and you explain another one.
#
# ## Limits
#
# - The network here is a rule set by hand. It shows that the way there and back is right, and nothing about lesions.
# - Two things are held while the gradient is taken: the mean and scatter of the normalisation, and the range to which a
#   resampled image is clipped. The map is per unit of the *normalised* image.
# - Not read: cascades, 2D configurations, trainers with a network of their own, normalisations and resamplings beyond
#   nnU-Net's own. Each is refused by name.
# - A full-size nnU-Net with five folds and mirrored copies takes 40 passes a window. Plan for a GPU, or for the night.
#
# ## Exercises
#
# **1.** Is the map right through the whole chain? Raise FLAIR by 0.01 at the map's peak, and compare the change of the
# lesion's mean logit with the gradient's value there.
#
# <details><summary>Solution</summary>
#
# ```python
# from ies_helpers import predict_logits
#
# peak = np.unravel_index(int(maps["all"][0].abs().argmax()), scan.shape)
# nudged = scan.image.clone()
# nudged[0][peak] += 0.01
# before, after = (predict_logits(placed, x)[1][mask].mean() for x in (scan.image, nudged))
# print(float(after - before) / 0.01, float(maps["all"][0][peak]))
# ```
#
# Expected: two numbers that agree to about three digits. The change is small and logits are float32, so not many more.
#
# *The usual wrong answer:* “They need not agree, because the network sees another voxel size.” It does, but the way to
# its grid belongs to the function. The map is a gradient by the scan's own voxels, so it must predict what a change of
# such a voxel does.
#
# </details>
#
# **2.** Somebody z-scores FLAIR and T1 before saving them, “so that the network gets what it wants”. Does that change the
# answer of this network?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# from dataclasses import replace
#
# brains = subject.raw != 0
# scored = replace(subject, raw=torch.where(brains, 3 * subject.raw + 7, 0.0))
# print(float((prepare(network, scored)[1].image - scan.image).abs().max()))
# ```
#
# Expected: about 0 (rounding). Any gain and offset *inside the brain* is undone by the z-score, as long as the
# background stays exactly 0.
#
# *The usual wrong answer:* “Yes, it is normalised twice.” A z-score of a z-score is the same z-score. What does harm is
# a background that is no longer 0: then the box is the whole scan, and mean and scatter are those of the air as well.
#
# </details>
#
# **3.** Your folder has five folds, and you want a map of 200 voxels by `max` with 50 draws, in 4 windows, 8 mirrored
# copies. How many single passes would an exact map take, and how many does a mean take?
#
# <details><summary>Solution</summary>
#
# ```python
# windows, copies, draws = 4, 5 * 8, 50
# print(f"mean {windows * copies * draws:,}, exact max {200 * windows * copies * draws:,} backward passes")
# ```
#
# Expected: `mean 8,000, exact max 1,600,000 backward passes`. With the far field estimated it is about a tenth of the
# latter: on the shipped nnU-Net, a lesion of 250 voxels in 10 windows took 240 passes in place of 2,500.
#
# *The usual wrong answer:* “250: five folds, fifty draws.” Mirrored copies and windows are passes, too.
#
# </details>
#
# ## References
#
# - Isensee F. and others (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
#   segmentation. *Nature Methods* 18:203-211. [doi
# 10.1038/s41592-020-01008-z](https://doi.org/10.1038/s41592-020-01008-z).
# - Spagnolo F. and others (2026). Instance-level quantitative saliency in multiple sclerosis lesion segmentation.
#   *Scientific Reports*. [arXiv 2406.09335](https://arxiv.org/abs/2406.09335): equations (2) and (3).
#
# ## Next
#
# [13 · The paper's figures](13_papers_figures.ipynb): which of them can be made with open data. To run a whole cohort
# through your network, put its folder where the cohort's file of
# [chapter 12](12_own_data_and_cohorts.ipynb#a-cohort) says `unet`.
