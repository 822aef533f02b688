# %% [markdown]
# # 12 · Your own patients, and many of them
#
# **Question.** How do your own scans get in, what goes wrong on the way, and how does a whole cohort go through?
#
# **Objectives.** You load a BIDS folder and plain files. You break a scan in several ways, see which of them are
# refused and which draw a warning, and what the network makes of the others. You write a cohort's file, read the plan,
# run it on two processes, lose a subject on purpose and carry on. You know what changes on a cluster. You make the page
# of a patient of your own.
#
# **Minutes.** 2 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 00 and 02. About 3 GB of memory. No patient data: the patients are synthetic, and we write them to
# disk first.

# %% tags=["setup"]
# setup

# %% [markdown]
# `SMALL` is true where the tests run this chapter; there are then two patients in place of three, and one process.

# %%
import os

SMALL = os.environ.get("IES_SMALL") == "1"
WORKERS = "1" if SMALL or os.cpu_count() == 1 else "2"

# %% [markdown]
# ## Three patients on disk
#
# A BIDS dataset has one folder a subject, with the raw scans in `anat/`, and what experts drew lies under
# `derivatives/`. We write synthetic patients in that form. `phantom` draws one, and `raw` holds its scans in the units
# of a scanner.

# %%
from ies_helpers import phantom

patients = {f"0{seed}": phantom(seed) for seed in ((1, 2) if SMALL else (1, 2, 3))}

# %% [markdown]
# To keep this chapter quick we cut them to the middle of the brain.

# %%
BOX = (slice(43, 139), slice(45, 141 if SMALL else 173), slice(40, 136))
scans = {name: [values.numpy()[BOX] for values in (*p.raw, p.target)] for name, p in patients.items()}

# %% [markdown]
# A cut moves the origin, so the affine must be cut with it.

# %%
import nibabel
import numpy as np

CUT = patients["01"].affine @ nibabel.affines.from_matvec(np.eye(3), [side.start for side in BOX])

# %% [markdown]
# All files of this chapter go into a folder that you may throw away.

# %%
import tempfile
from pathlib import Path

home = Path(tempfile.mkdtemp())

# %% [markdown]
# We will write many of them, so we give that a name.


# %%
def write(name, values, affine=CUT):
    """Write an array as the NIfTI file `home / name`; its path."""
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), home / name)
    return home / name


# %% [markdown]
# Here is the dataset: two scans and a mask for each patient.

# %%
for name, (flair, t1, target) in scans.items():
    write(f"bids/sub-{name}/anat/sub-{name}_FLAIR.nii.gz", flair)
    write(f"bids/sub-{name}/anat/sub-{name}_T1w.nii.gz", t1)
    write(f"bids/derivatives/manual/sub-{name}/sub-{name}_label-lesion_mask.nii.gz", target.astype("u1"))

# %% [markdown]
# A folder with one FLAIR and one T1 anywhere in it is a subject; the file names tell which is which (`FLAIR`; `T1`,
# `T1w`, `MPRAGE`). Folders of BraTS, ISBI, MSLesSeg, MSSEG, WMH and nnU-Net are read as they lie. Where two files could
# be one channel, copies that tools made of one scan are told apart by their grid, and anything else is refused, with a
# list of what was found.

# %%
from ies_helpers import load_subject

subject = load_subject(home / "bids" / "sub-01")
print(subject)

# %% [markdown]
# We see the grid, the voxel size, and *target unknown*. The mask lies elsewhere, so nobody said what is a lesion, and
# all lesions would be in the group `unknown`. We do better if we name the files one by one. The command line has the
# same three options: `ies explain --flair F --t1 T --target M`.
#
# A target need not be a mask of 0 and 1. Where each lesion has a number of its own, the numbers are kept and touching
# lesions stay apart. If it has several classes, you say which one is lesion (`target_label=2`); if it has several
# raters, you say which one you trust (`rater="majority"`). What was decided for you is a warning, and where two
# readings are possible you are asked.

# %%
anat = home / "bids/sub-01/anat"
files = {"flair": anat / "sub-01_FLAIR.nii.gz", "t1": anat / "sub-01_T1w.nii.gz"}
mask = home / "bids/derivatives/manual/sub-01/sub-01_label-lesion_mask.nii.gz"
subject = load_subject(**files, target=mask)
print(subject)

# %% [markdown]
# For each scan below we keep the lesions and the Dice overlap with the target: twice the shared voxels, over the sum of
# both.

# %%
from ies_helpers import find_lesions, load_network, predict

network = load_network("unet")
results, dice = {}, {}

# %% [markdown]
# One function does it for any image and target, and prints a line.


# %%
def look(name, image, target):
    """Print and keep which lesions the network finds in an image, and how well they overlap with the target."""
    probability = predict(network, image)
    found = probability > network.threshold
    results[name] = find_lesions(probability, target, threshold=network.threshold)
    dice[name] = 2 * float((found & target).sum() / (found.sum() + target.sum()))
    print(f"{name}: {results[name]}, Dice {dice[name]:.2f}")


look("as it is", subject.image, subject.target)

# %% [markdown]
# ## What can be wrong with a scan
#
# Seven things are common. Two of them, FLAIR and T1 on different grids and a file that is cut short, are refused with
# one sentence, and need no chapter. The other five are below: a file saved once more, axes turned, slices too thick, a
# skull, a modality missing. For each we ask three things. Does it load? Are we warned? And if it goes through, what
# does the network find?
#
# To see the warnings among the output, we catch and print them.

# %%
import warnings


def told(load, *what, **files):
    """What `load` returns, after printing the warnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load(*what, **files)
    print(*(warning.message for warning in caught), sep="\n")
    return loaded


# %% [markdown]
# **Saved once more.** Somebody moves a scan and saves it as 16-bit integers. Integers need a scale factor, the program
# chooses one, and what was 0 outside the brain is now only nearly 0, because of rounding. The file looks the same in
# every viewer.


# %%
def as_integers(path):
    """Save a scan once more, as 16-bit integers; the new path."""
    image = nibabel.Nifti1Image(nibabel.load(path).get_fdata(), CUT)
    image.set_data_dtype(np.int16)
    (home / "integers").mkdir(exist_ok=True)
    nibabel.save(image, home / "integers" / path.name)
    return home / "integers" / path.name


# %% [markdown]
# We load both scans from their copies.

# %%
stored = told(load_subject, **{key: as_integers(path) for key, path in files.items()})
look("saved once more", stored.image, subject.target)

# %% [markdown]
# We are warned, and the lesions are the same. The published scripts have a simpler rule: a z-score over everything that
# is not 0.


# %%
import torch


def published_z_score(values):
    """Z-scored over what is not 0; the rest is 0."""
    inside = values[values != 0]
    return torch.where(values != 0, (values - inside.mean()) / inside.std(correction=0), 0)


# %% [markdown]
# In this FLAIR nothing is 0. What does the rule make of the same two files?

# %%
published = torch.stack([published_z_score(values) for values in stored.raw])
look("and z-scored over what is not 0", published, subject.target)

# %% [markdown]
# The mean and the deviation are now those of the box: all of the brain is bright, and lesions are hardly brighter. Here
# most are missed; in another patient such a file brings false ones by the dozen. Nothing failed, and without the
# warning nobody would know.
#
# **Turned.** A scanner that acquires sagittal slices writes its axes in another order. Programs that read the affine
# show the same brain. A network sees the array alone, and knows nothing of the affine. Here is the same scan with its
# axes reordered: the old axes become the second (backwards), the third and the first.

# %%
turn, turned = np.array([[1, -1], [2, 1], [0, 1]]), {}
for key, path in {**files, "target": mask}.items():
    image = nibabel.load(path).as_reoriented(turn)
    turned[key] = write(f"turned/{path.name}", np.asarray(image.dataobj), image.affine)

# %% [markdown]
# Does it load, and are we warned?

# %%
sideways = told(load_subject, **turned)

# %% [markdown]
# We are, and nothing is turned behind our back: maps must lie on the grid of the scan. What does the network find?

# %%
look("turned", sideways.image, sideways.target)

# %% [markdown]
# The remedy is one call, `nibabel.as_closest_canonical`, on every file before it is loaded.

# %%
back = {}
for key, path in turned.items():
    image = nibabel.as_closest_canonical(nibabel.load(path))
    back[key] = write(f"back/{path.name}", np.asarray(image.dataobj), image.affine)
again = load_subject(**back)
look("turned back", again.image, again.target)

# %% [markdown]
# *Turned back* is better than *turned*, but it need not equal *as it is*. `as_closest_canonical` ends in the order
# right, anterior, superior, and our file had left, anterior, superior. The network was trained with left and right
# swapped at random, so neither is wrong. But the network is not exactly symmetric, and lesions near the threshold
# change sides. No other axis was ever swapped in training.
#
# **Thick slices.** A clinical FLAIR may have slices of 3 mm. We keep every third slice of ours.

# %%
thick = CUT @ np.diag([1, 1, 3, 1])
flair, t1 = (values[:, :, ::3] for values in scans["01"][:2])
paths = {"flair": write("thick/FLAIR.nii.gz", flair, thick), "t1": write("thick/T1.nii.gz", t1, thick)}

# %% [markdown]
# We load it, and predict.

# %%
flat = told(load_subject, **paths)
probability = told(predict, network, flat.image)

# %% [markdown]
# Two sentences: one warning is about the voxels, the other about the window. Too few slices are left for it, so zeros
# are put around the scan, as MONAI's inferer does; the network then looks at more emptiness than it did in training.
# Neither is an error, and neither prediction means much. If you resample to 1 mm first, say so in your methods: a map
# then has a resolution that the scan never had, and a lesion of 6 voxels may be the work of the interpolation.
#
# **With a skull.** Each channel is z-scored over what is not its background. In a brain that has been stripped, this is
# the brain. In a whole head it is scalp, fat, marrow and the noise of the air as well. So let us put a bright shell
# around the brain of patient 01, uncut this time. It begins 4 voxels beyond the brain and ends 11 beyond it.

# %%
from scipy import ndimage

flair, t1 = (values.numpy() for values in patients["01"].raw)
inner, outer = (ndimage.binary_dilation(flair != 0, iterations=n) for n in (4, 11))
shell = outer & ~inner

# %% [markdown]
# Everything outside the brain also gets some noise.

# %%
noise = np.random.default_rng(0).gamma(2.0, 2.0, flair.shape)
heads = {}
for key, values, level in (("flair", flair, 150), ("t1", t1, 500)):
    whole = np.where(values != 0, values, shell * level + noise).astype(np.float32)
    heads[key] = write(f"head/{key}.nii.gz", whole, patients["01"].affine)

# %% [markdown]
# We load the head, and cut out the same box as before.

# %%
skull = told(load_subject, **heads)
look("with a skull", skull.image[:, *BOX], subject.target)

# %% [markdown]
# We are warned again: more litres are not 0 than a brain has. Every channel is judged. A scalp in T1 alone draws a
# warning, and so do a channel that is cut or nearly empty, a mask in the place of a scan, and a FLAIR and a T1 that
# look swapped. But no program here can tell you whether a scan was stripped *well*; look at it.
#
# **One modality missing.** The networks have two channels, and a folder without a T1 is refused.

# %%
lonely = write("lonely/p7_FLAIR.nii.gz", scans["01"][0])
try:
    load_subject(lonely.parent)
except FileNotFoundError as error:
    print(str(error).replace(str(home), "..."))

# %% [markdown]
# People then fill the channel with zeros, because the network takes them without complaint. In a z-scored image 0 is
# the mean of the brain: to the network it is a T1 in which all tissue looks alike. We do it in memory, first for T1,
# then for FLAIR.

# %%
for channel, name in ((1, "T1 is zero"), (0, "FLAIR is zero")):
    image = subject.image.clone()
    image[channel] = 0
    look(name, image, subject.target)

# %% tags=["check"]
assert max(dice.values()) in [dice[n] for n in ("as it is", "saved once more", "turned back")], (
    "nothing that was broken is better"
)
assert dice["FLAIR is zero"] < 0.5 * dice["as it is"], "without FLAIR little is found"

# %% [markdown]
# Let us put all of them into one table, and that into one figure.

# %%
import pandas as pd

colours = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442"}
counts = pd.DataFrame({name: {g: len(found.of(g)) for g in colours} for name, found in results.items()}).T
counts.index = [f"{name}, Dice {dice[name]:.2f}" for name in counts.index]

# %% [markdown]
# A bar is a scan, and its length is the number of lesions.

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
bars = counts.plot.barh(ax=ax, stacked=True, legend=False, color=colours, edgecolor="0.25", width=0.8)
ax.invert_yaxis()
ax.set_xlabel("lesions of patient 01")
legend = figure.legend(ncols=3, loc="outside upper right", fontsize=9)

# %% [markdown]
# Blue is found and real, orange is found and not real, yellow is missed. `as it is` is what the network can do. Each
# other bar is the same brain with the same lesions, so whatever is lost or made up there is the fault of the file. The
# skull draws the longest orange: noise and scalp look like lesions to a network that never saw any. Without FLAIR
# nothing real is left. A turned brain only loses some lesions, which is worse in a way: nobody would notice. The bars
# differ in length mostly by their false positives, which come on top of the real lesions. A little comes from lesions
# that fall to pieces, and from single predictions that cover several.
#
# A zero channel raises no error and gives no warning, and its maps look like maps. That is why `load_subject` refuses
# to make one up: a network for one modality must be trained with one.
#
# **DICOM.** Scanners write DICOM; this package reads NIfTI. [dcm2niix](https://github.com/rordenlab/dcm2niix) converts
# a folder and keeps what the scanner said in a JSON file beside it:
#
# ```sh
# dcm2niix -z y -f %p_%s -o nifti/ dicom/
# ```
#
# After that the usual order is: correct the bias field (N4), register T1 to FLAIR or both to a common space, strip the
# skull (SynthStrip or HD-BET), turn to the canonical axes. A name in a file or header may say who the patient is:
# remove it before a scan leaves the hospital.
#
# ## Other people's folders, and what their masks hold
#
# Every data set has its own names. In MSLesSeg `P1/T1/P1_T1_FLAIR.nii.gz` is the FLAIR of patient 1 at *timepoint* 1,
# and its T1 is `P1_T1_T1.nii.gz`: a program that looks for T1 in a name finds it in all of them. We lay out our patient
# like that.

# %%
flair, t1, target = scans["01"]
for name, values in {"FLAIR": flair, "T1": t1, "MASK": target.astype("u1")}.items():
    write(f"MSLesSeg/P1/T1/P1_T1_{name}.nii.gz", values)

# %% [markdown]
# Does the package know which is which?

# %%
theirs = load_subject(home / "MSLesSeg/P1/T1")
print(theirs)

# %% tags=["check"]
assert torch.equal(theirs.image, subject.image)

# %% [markdown]
# It does: the image is the same, and the mask came with it. How a data set names its files is a row of a table,
# `LAYOUTS`. BIDS, BraTS, WMH 2017, MSSEG, ISBI 2015, MS3SEG and nnU-Net's raw folders have theirs. Where several
# experts drew the lesions, name one by `rater=`, or take their `"majority"`.
#
# A mask is no simpler. It may hold 255 for lesion, a number for each lesion, or classes of which one is lesion.

# %%
numbered = ndimage.label(target)[0]
masks = {
    "0 and 255": target * np.uint8(255),
    "a number a lesion": numbered.astype("i2"),
    "0, 1 and 2": np.where(numbered == 1, 2, target).astype("u1"),
}

# %% [markdown]
# We load each of them as the target.

# %%
for name, values in masks.items():
    path = write(f"masks/{name.replace(' ', '')}.nii.gz", values)
    print(f"\n{name}:")
    try:
        print(f"{int(told(load_subject, **files, target=path).target.sum())} lesion voxels")
    except ValueError as error:
        print(error)

# %% [markdown]
# The values decide what a mask means, and a warning says what was decided. With 0, 1 and 2 nobody can know whether 2 is
# a second lesion or another disease, so you are asked: `target_label=1`, or `--target-label 1`. Lesions that have
# numbers of their own stay apart where they touch; connected components would join them. A file of such numbers can
# also say what to explain, whatever the network found: `ies explain ... --lesions numbers.nii.gz`.
#
# ## What comes out
#
# `explain` writes a BIDS derivative. We ask for two lesions, the true positives nearest to 40 voxels.

# %%
chosen = sorted(results["as it is"].of("TP"), key=lambda le: abs(len(le) - 40))[:2]
chosen

# %% [markdown]
# Two draws are enough to see the files.

# %%
from ies_helpers import explain

out = home / "bids" / "derivatives" / "first"
index = explain(subject, network, chosen, out, aggregate="mean", draws=2)
print(*sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()), sep="\n")

# %% [markdown]
# Each map is a NIfTI in the space of the scan, with a sidecar that says how it was made. `maps.tsv` lists them all, and
# `explain` returns the same table:

# %%
index.drop(columns="path")

# %% [markdown]
# The official validator accepts such a folder (`bids-validator-deno FOLDER`; a test of this project asks it).
# `ies explain` adds the probability, the numbered lesions and their table.
#
# ## A cohort
#
# Now for the whole dataset. A cohort is a file: who, with which network, what, and where to. Paths start from the
# folder of the file.

# %%
TEXT = """
subjects = ["bids"]                 # all sub-*, and their ses-*
targets = "bids/derivatives/manual/**/{sub}_*mask.nii.gz"
out = "bids/derivatives/ies"
network.name = "unet"

[[explain]]                         # like one run of ies explain; write as many as you want
aggregate = "mean"
lesions = "TP:20-60"
draws = 2"""

# %% [markdown]
# We save it.

# %%
config = home / "cohort.toml"
written = config.write_text(TEXT)

# %% [markdown]
# `--dry-run` prints the plan and stops. It predicts one subject, times a little of its work and multiplies. In a
# terminal you would write `ies cohort cohort.toml --dry-run`. `main` is the same command line, from Python.

# %%
from ies_helpers.__main__ import main

code = main(["cohort", str(config), "--dry-run"])

# %% [markdown]
# The plan says how many subjects, how many maps, how many gigabytes, and how long. Look at the gigabytes before you ask
# for 50 lesions of 500 patients. The time is that of loading, predicting and explaining. It does not include starting
# the processes, measuring the maps and writing the files. With two draws, as here, these take most of the run, and it
# lasts several times as long; with fifty draws they hardly count.
#
# Now we run it on two processes. Each process has one thread, so two of them need two cores. A map does not depend on
# who made it: the files are the same bits with one process, two, or a cluster.

# %%
code = main(["cohort", str(config), "--workers", WORKERS])

# %% [markdown]
# `cohort.tsv` has a row a subject.


# %%
def cohort_table():
    """`cohort.tsv`, as it is now."""
    return pd.read_csv(home / "bids/derivatives/ies/cohort.tsv", sep="\t", dtype={"subject": str})


cohort_table()[["subject", "status", "lesions", "maps", "seconds"]]

# %% [markdown]
# In the same folder are `cohort.toml`, a copy of the file, and `cohort.json`, the versions of everything that the maps
# depend on. Anything that was worth a warning stands in the column `notes`.
#
# ### When something fails
#
# Somebody saves over the T1 of patient 02, and the file is cut short.

# %%
broken = home / "bids/sub-02/anat/sub-02_T1w.nii.gz"
whole = broken.read_bytes()
written = broken.write_bytes(whole[: len(whole) // 2])

# %% [markdown]
# We do not know that yet. We want Grad-CAM++ maps, too, so we add them to the file and run the cohort again.

# %%
written = config.write_text(TEXT + '\n[[explain]]\nmethod = "gradcam++"\nlesions = "TP:30-40"\n')
code = main(["cohort", str(config)])
print("exit code", code)

# %% [markdown]
# Patient 02 failed, with a reason. The others went through, and only their new maps were computed. Exit code 1 tells a
# script that something is missing. We mend the file, ask for an evaluation of all maps at the end, and run the same
# command again.

# %%
broken.write_bytes(whole)
config.write_text(config.read_text() + "[evaluate]\nseed = 0\n")
code = main(["cohort", str(config)])

# %% [markdown]
# What does the table say now?

# %%
table = cohort_table()
table[["subject", "status", "maps", "seconds"]]

# %% tags=["check"]
assert code == 0
assert set(table["status"]) == {"kept", "done"}

# %% [markdown]
# *kept* was there already: same scans, same weights, same settings, all files in place. *done* was done now. A run that
# was killed carries on in the same way, within a subject lesion by lesion.
#
# Chapters 09 to 11 start from the tables of all subjects together. `maps.tsv` names every map:

# %%
maps = pd.read_csv(home / "bids/derivatives/ies/maps.tsv", sep="\t", dtype={"subject": str})
maps.groupby(["subject", "method", "group"]).size().rename("files")

# %% [markdown]
# `[evaluate]` measured them as `ies evaluate` does. Tables and figures lie in `evaluation/`; chapters 09 and 10 say
# what the columns mean.

# %%
from IPython.display import Markdown

Markdown((home / "bids/derivatives/ies/evaluation/summary.md").read_text())

# %% [markdown]
# These are two draws, lesions of two ranges of size and three synthetic patients: read the table for its form, not for
# who is ahead.
#
# ## The page of your own patient
#
# Maps and tables are for those who study many lesions. If you look at one patient, you want one page: where does this
# lesion lie, what does the network's answer rest on, how firm is it? `report` makes it. In a terminal that is
# `ies report SUBJECT --network NETWORK --out FOLDER`. Here we make it for one lesion that the network finds and for one
# that is not real or that it misses.

# %%
least = {len(le): le for le in results["as it is"] if le.group != "TP"}
pair = [chosen[0], least[max(least)]] if least else chosen[:2]

# %% [markdown]
# A `Recipe` says how the maps are made. Ours is quick.

# %%
from ies_helpers import report
from ies_helpers.saliency.methods import Recipe

quick = Recipe(aggregate="mean", draws=2)
mine = report(subject, network, pair, home / "report", recipe=quick, tell=print)

# %% [markdown]
# The page is one file. It loads nothing and runs nothing, so you can send it by mail, read it on a phone, or print it.

# %%
mine

# %% [markdown]
# We read it from the top: not for clinical use; which network, which settings; then the lesions by *doubt*, the most
# doubtful first. Each lesion has three sentences. They are made from the numbers below them, by rules that stand at the
# end of the page, and each can say that it is *not sure*, and why. Here are the sentences alone:

# %%
from ies_helpers.figures.report import SENTENCES

for facts in mine.facts:
    print(f"\nLesion {facts.lesion} ({facts.group}, {facts.voxels} voxels)")
    print(*(f"  {sentence(facts)}" for sentence in SENTENCES), sep="\n")

# %% [markdown]
# *Where* comes from a template of a brain, laid over this one in 27 places: a lesion whose zone changes when the
# template moves by 2 mm is not sure. *What it rests on* is about the score: a channel in which small changes move it,
# and the rim of tissue with which it keeps 95 % of its value (chapter 07). *How firm* is about the answer: the change
# of brightness that turns it, as `dose_to_flip` finds it. None of them says whether the lesion is real: a false one can
# lie in a plausible place and be held firmly.
#
# The same facts as numbers:

# %%
table = mine.table()
table[["lesion", "group", "zone", "zone_sure", "needs_mm", "dose", "doubt"]].round(2)

# %% tags=["check"]
assert table["doubt"].is_monotonic_decreasing

# %% [markdown]
# ## On a cluster
#
# The same command takes the address of a [Dask](https://docs.dask.org) cluster, `--dask tcp://...`, or its scheduler
# file. joblib, which runs the processes here, then hands the subjects to the cluster; nothing else changes. Under SLURM
# the extra `ies-helpers[cluster]` brings dask-jobqueue:
#
# ```python
# from dask_jobqueue import SLURMCluster
#
# cluster = SLURMCluster(
#     queue="cpu",                    # as your cluster calls it
#     cores=8, processes=8,           # eight workers a job, one thread each
#     memory="24GB", walltime="08:00:00",
#     job_script_prologue=["source ~/ies/.venv/bin/activate"],
# )
# cluster.scale(jobs=10)
# print(cluster.scheduler_address)    # ies cohort cohort.toml --dask tcp://...
# ```
#
# For GPUs take `processes=1` and `job_extra_directives=["--gres=gpu:1"]`. All nodes must see the folders of the file,
# and have the package installed. What is tested here is a local cluster of two workers, not SLURM: try the plan and two
# subjects first. On one machine with several GPUs you need no cluster: `ies cohort` then starts a process for each GPU.
#
# ## What we saw
#
# - A folder, plain files or a whole BIDS dataset go in; masks may lie apart.
# - A warning tells us of turned axes, of the voxel size, a skull, a background that is not 0 and channels that look
#   swapped. Different grids, damage and a missing modality are refused. Nothing is resampled, turned or filled.
# - The network accepts a zero channel, but what comes out is no answer.
# - A cohort is one file and one command. It says before what it will cost and after what failed, and carries on where
#   it was.
# - One patient is one page: three sentences a lesion, each with the form in which it is not sure.
#
# ## Limits
#
# - The patients here are synthetic, the skull is a shell, and the counts are those of one of them. What a broken file
#   costs on your data you must measure there.
# - A scan can be wrong in ways that nobody sees in its header: motion, a poor strip, another contrast. Look at every
#   scan, or at least at every outlier of `lesions` in `cohort.tsv`.
# - The plan judges all subjects by one. Where the number of lesions differs by a factor of ten, so may the hours.
# - A network from elsewhere may fail on your scanner. A map explains the network that you have, not the one that you
#   would need.
#
# ## Exercises
#
# **1.** Is a brain upside down worse than a mirrored one? Flip the image of `subject` along its third axis, then along
# its first.
#
# <details><summary>Solution</summary>
#
# ```python
# for axis, name in ((3, "upside down"), (1, "mirrored")):
#     look(name, subject.image.flip(axis), subject.target.flip(axis - 1))
# look("as it is", subject.image, subject.target)
# ```
#
# Expected: three lines, and Dice says more than the counts. The network saw mirrored brains when it was trained, and
# none upside down; a lesion is bright either way, so one patient may hardly tell. `load_subject("demo")` tells more
# clearly.
#
# *The usual wrong answer:* “Neither matters, because a convolution treats all places alike.” It does treat all places
# alike, so a *shifted* brain is no problem. But its filters have an up and a down, a left and a right, and a flipped
# brain meets them the wrong way round. That mirrored brains do little harm comes from the training, not from the
# architecture.
#
# </details>
#
# **2.** Ask for the smallest lesions, too: what does the plan say for `lesions = "TP"`, and how many of those maps are
# there already?
#
# <details><summary>Solution</summary>
#
# ```python
# more = TEXT.replace("TP:20-60", "TP")
# config.write_text(more)
# code = main(["cohort", str(config), "--dry-run"])
# ```
#
# Expected: all subjects are *to do* again, since the settings are others, and the plan has more maps than the table
# above. The maps that are there are not computed again when it runs: a map is kept by its own record, a subject by that
# of all its settings.
#
# *The usual wrong answer:* “*To do* means that all maps are made anew, so I must not touch the file once a cohort has
# run.” *To do* is said of the subject. Within it, every map whose record still fits is kept, and the run adds what is
# missing.
#
# </details>
#
# **3.** A colleague's file has `lesion = "TP"` in its `[[explain]]`. What happens, and when?
#
# <details><summary>Solution</summary>
#
# ```python
# config.write_text(TEXT.replace("lesions =", "lesion ="))
# code = main(["cohort", str(config)])
# print(code)
# config.write_text(TEXT)
# ```
#
# Expected: exit code 2, at once: the key is unknown, and the sentence names the allowed ones. A misspelt key that is
# ignored costs a night on the cluster.
#
# *The usual wrong answer:* “Nothing: keys that a program does not know are skipped.” Many programs do that. Here it
# would mean that every lesion of every subject is explained, not only the true positives, and you would find out in the
# morning.
#
# </details>
#
# ## References
#
# - K. Gorgolewski and others, *The brain imaging data structure*, Scientific Data 2016,
#   [doi 10.1038/sdata.2016.44](https://doi.org/10.1038/sdata.2016.44).
# - X. Li and others, *The first step for neuroimaging data analysis: DICOM to NIfTI conversion*, Journal of
#   Neuroscience Methods 2016, [doi 10.1016/j.jneumeth.2016.03.001](https://doi.org/10.1016/j.jneumeth.2016.03.001).
# - A. Hoopes and others, *SynthStrip: skull-stripping for any brain image*, NeuroImage 2022,
#   [doi 10.1016/j.neuroimage.2022.119474](https://doi.org/10.1016/j.neuroimage.2022.119474).
#
# ## Next
#
# [13 · The paper's figures](13_papers_figures.ipynb): which of them can be made with open data.
