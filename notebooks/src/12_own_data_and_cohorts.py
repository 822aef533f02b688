# %% [markdown]
# # 12 · Your own patients, and many of them
#
# **Question.** How do your own scans get in, what goes wrong on the way, and how does a whole cohort go through?
#
# **Objectives.** You load a BIDS folder and plain files. You break a scan in several ways, see which of them are refused
# or told, and what the network makes of those that are not. You write a cohort's file, read the plan, run it on two processes, lose a subject
# on purpose and go on. You know what changes on a cluster. You make the page of a patient of your own.
#
# **Minutes.** 2 on two CPU cores; not measured on a GPU.
#
# **Needs.** Chapters 00 and 02. About 3 GB of memory. No patient data: the patients are synthetic, and written to disk first.

# %% tags=["setup"]
# setup

# %% [markdown]
# We import what we need. All files of this chapter go into a folder that may be thrown away.

# %%
import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
import torch

from ies_helpers import explain, find_lesions, load_network, load_subject, predict

SMALL = os.environ.get("IES_SMALL") == "1"
WORKERS = "1" if SMALL or os.cpu_count() == 1 else "2"

# %% [markdown]
# ## Three patients on disk
#
# A BIDS dataset has one folder a subject, raw scans in `anat/`, and what experts drew under `derivatives/`. We write synthetic
# patients in that form, cut to the middle of the brain so that this chapter is quick: a cut moves the origin, so the
# affine must be cut with it.

# %%
from ies_helpers.subjects.phantom import AFFINE

BOX = (slice(43, 139), slice(45, 141 if SMALL else 173), slice(40, 136))
CUT = AFFINE @ nibabel.affines.from_matvec(np.eye(3), [side.start for side in BOX])
home = Path(tempfile.mkdtemp())


def write(path: Path, values: np.ndarray, affine: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return str(path)


# %% [markdown]
# `phantom_scan` draws the scans of a synthetic patient in the units of a scanner.

# %%
from ies_helpers.subjects.phantom import phantom_scan

scans = {f"0{seed}": phantom_scan(seed) for seed in ((1, 2) if SMALL else (1, 2, 3))}
for name, (flair, t1, target) in scans.items():
    anat = f"bids/sub-{name}/anat/sub-{name}"
    write(home / f"{anat}_FLAIR.nii.gz", flair[BOX], CUT)
    write(home / f"{anat}_T1w.nii.gz", t1[BOX], CUT)
    drawn = f"bids/derivatives/manual/sub-{name}/sub-{name}_label-lesion_mask.nii.gz"
    write(home / drawn, target[BOX].astype("u1"), CUT)

# %% [markdown]
# A folder with one FLAIR and one T1 anywhere in it is a subject; the file names tell which is which (`FLAIR`; `T1`, `T1w`, `MPRAGE`).
# Folders of BraTS, ISBI, MSLesSeg, MSSEG, WMH and nnU-Net are read as they lie. Where two files could be one channel, copies that
# tools made of one scan are told apart by their grid, and anything else is refused with what was found.

# %%
subject = load_subject(home / "bids" / "sub-01")
print(subject)

# %% [markdown]
# Read it aloud: the grid, the voxel size, and *target unknown*. The mask lies elsewhere, so nobody said what is a lesion, and
# all lesions would be in the group `unknown`. Plain files by name do better. The same three options exist on the
# command line: `ies explain --flair F --t1 T --target M`.
#
# A target need not be a mask of 0 and 1. Where each lesion has a number of its own, the numbers are kept and touching
# lesions stay apart; of several classes you say which is lesion (`target_label=2`), of several raters whom you trust
# (`rater="majority"`). What was decided for you is a warning, and where two readings are possible you are asked.

# %%
anat = home / "bids/sub-01/anat"
files = {"flair": anat / "sub-01_FLAIR.nii.gz", "t1": anat / "sub-01_T1w.nii.gz"}
mask = home / "bids/derivatives/manual/sub-01/sub-01_label-lesion_mask.nii.gz"
subject = load_subject(**files, target=mask)
network = load_network("unet")
print(subject)

# %% [markdown]
# For each scan below we keep the lesions and the Dice overlap with the target, twice the shared voxels over the sum of both.

# %%
results, dice = {}, {}


def look(name: str, image, target) -> None:
    probability = predict(network, image)
    results[name] = find_lesions(probability, target, threshold=network.threshold)
    found = probability > network.threshold
    dice[name] = 2 * float((found & target).sum() / (found.sum() + target.sum()))
    print(f"{name}: {results[name]}, Dice {dice[name]:.2f}")


look("as it is", subject.image, subject.target)

# %% [markdown]
# ## What can be wrong with a scan
#
# Seven things are common. FLAIR and T1 on different grids, or a file that is cut short, are refused with one sentence, and need no
# chapter. The other five are below: a file saved once more, axes turned, slices too thick, a skull, a modality missing. For
# each we ask: does it load, are we told, and if it goes through, what does the network find?
#
# **Saved once more.** Somebody moves a scan and saves it as 16-bit integers. Integers need a scale factor, the program chooses
# one, and what was 0 outside the brain is then 0 but for a rounding error. The file looks the same in every viewer.

# %%
integers = {}
for key, path in files.items():
    image = nibabel.Nifti1Image(nibabel.load(path).get_fdata(), CUT)
    image.set_data_dtype(np.int16)
    integers[key] = home / "integers" / path.name
    integers[key].parent.mkdir(exist_ok=True)
    nibabel.save(image, integers[key])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    stored = load_subject(**integers)
print(*(warning.message for warning in told), sep="\n")
look("saved once more", stored.image, subject.target)

# %% [markdown]
# We are told, and the lesions are the same. The rule of the published scripts is a z-score over what is not 0, and in this FLAIR
# nothing is 0. This is what it makes of the same two files.

# %%
from ies_helpers.subjects.subject import z_score

published = torch.stack([z_score(values, values != 0) for values in stored.raw])
look("and z-scored over what is not 0", published, subject.target)

# %% [markdown]
# Mean and deviation are now those of the box: all of the brain is bright, and lesions hardly brighter. Most are missed here; in
# another patient such a file brings false ones by the dozen. Nothing failed, and nobody would be told.
#
# **Turned.** A scanner that acquires sagittal slices writes its axes in another order. Programs that heed the affine show the same
# brain; a network sees the array, and knows nothing of the affine. Here the same scan with its axes reordered.

# %%
turn = [[1, -1], [2, 1], [0, 1]]  # the old axes become the 2nd (backwards), the 3rd and the 1st
turned = {}
for key, path in {**files, "target": mask}.items():
    image = nibabel.load(path).as_reoriented(np.array(turn))
    turned[key] = home / "turned" / path.name
    write(turned[key], np.asarray(image.dataobj), image.affine)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    sideways = load_subject(**turned)
print(*(warning.message for warning in told), sep="\n")

# %% [markdown]
# We are told, and nothing is turned behind our back: maps must lie on the grid of the scan. The remedy is one call,
# `nibabel.as_closest_canonical`, on every file before it is loaded.

# %%
look("turned", sideways.image, sideways.target)
back = {}
for key, path in turned.items():
    image = nibabel.as_closest_canonical(nibabel.load(path))
    back[key] = write(home / "back" / path.name, np.asarray(image.dataobj), image.affine)
again = load_subject(**back)
look("turned back", again.image, again.target)

# %% [markdown]
# *Turned back* is better than *turned* and need not equal *as it is*: `as_closest_canonical` ends in the order right, anterior,
# superior, and our file had left, anterior, superior. The network was trained with left and right swapped at random, so neither is
# wrong, but it is no mirror-symmetric function, and lesions near the threshold change sides. No other axis was ever swapped.
#
# **Thick slices.** A clinical FLAIR may have slices of 3 mm. Here every third slice of ours.

# %%
thick = CUT @ np.diag([1, 1, 3, 1])
flair, t1, target = (values[BOX][:, :, ::3] for values in scans["01"])
paths = {"flair": write(home / "thick/FLAIR.nii.gz", flair, thick), "t1": write(home / "thick/T1.nii.gz", t1, thick)}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    flat = load_subject(**paths)
    predict(network, flat.image)
print(*(warning.message for warning in told), sep="\n")

# %% [markdown]
# Two sentences: a warning about the voxels, and another about the window. Too few slices are left for it, so zeros are put
# around the scan, as MONAI's inferer does; the network then looks at more nothing than it did in training. Neither is an
# error, and neither prediction means much. If you resample to 1 mm first, say so in your methods: a map then has a resolution that the scan never had, and a lesion of
# 6 voxels may be the work of the interpolation.
#
# **With a skull.** Each channel is z-scored over what is not its background. In a brain that has been stripped these are the brain. In a
# whole head they are scalp, fat, marrow and the noise of the air. We paint a bright shell around the whole head of patient
# 01, some noise around everything, and load that.

# %%
from scipy import ndimage

flair, t1, target = scans["01"]
grown = [ndimage.binary_dilation(flair != 0, iterations=n) for n in (4, 11)]
shell, noise = grown[1] & ~grown[0], np.random.default_rng(0).gamma(2.0, 2.0, flair.shape)
paths = {}
for key, values, level in (("flair", flair, 150), ("t1", t1, 500)):
    whole = np.where(values != 0, values, shell * level + noise).astype(np.float32)
    paths[key] = write(home / f"head/{key}.nii.gz", whole, AFFINE)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    skull = load_subject(**paths)
print(*(warning.message for warning in told), sep="\n")
look("with a skull", skull.image[(slice(None), *BOX)], subject.target)

# %% [markdown]
# We are told again: more litres are not 0 than a brain has. Every channel is judged: a scalp in T1 alone is told, and so are a channel
# that is cut or nearly empty, a mask in the place of a scan, and a FLAIR and a T1 that look swapped. Whether a scan was stripped *well* no program here will tell you; look at it.
#
# **One modality missing.** The networks have two channels, and a folder without a T1 is refused.

# %%
lonely = home / "lonely" / "p7_FLAIR.nii.gz"
write(lonely, scans["01"][0][BOX], CUT)
try:
    load_subject(lonely.parent)
except FileNotFoundError as error:
    print(str(error).replace(str(home), "..."))

# %% [markdown]
# People then fill the channel with zeros, because the network takes them without complaint. In a z-scored image 0 is the mean of the
# brain: to the network it is a T1 in which all tissue looks alike. We do it in memory, for T1 and for FLAIR.

# %%
for channel, name in ((1, "T1 is zero"), (0, "FLAIR is zero")):
    image = subject.image.clone()
    image[channel] = 0
    look(name, image, subject.target)

# %% [markdown]
# All of them in one figure.

# %%
colours = {"TP": "#56B4E9", "FP": "#D55E00", "FN": "#F0E442"}
counts = pd.DataFrame({name: {g: len(found.of(g)) for g in ("TP", "FP", "FN")} for name, found in results.items()}).T
labels = [f"{name}, Dice {dice[name]:.2f}" for name in counts.index]
figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
left = np.zeros(len(counts))
for group in ("TP", "FP", "FN"):
    ax.barh(labels, counts[group], left=left, color=colours[group], edgecolor="0.25", label=group)
    left += counts[group].to_numpy()
ax.invert_yaxis()
ax.set_xlabel("lesions of patient 01")
legend = figure.legend(ncols=3, loc="outside upper right", fontsize=9)

# %% [markdown]
# Read it aloud: blue is found and real, orange found and not real, yellow missed. `as it is` is what the network can do. Each other bar
# is the same brain with the same lesions. The skull draws the longest orange: noise and scalp look like lesions to a network that never saw any. Without
# FLAIR nothing real is left. A turned brain only loses some, which is worse in a way: nobody would notice. What is lost, or made up, is lost or made up by the file. Bars differ in length mostly
# by their false positives, which come on top of the real lesions. A little comes from lesions that fall to pieces, and from single
# predictions that cover several.
#
# A zero channel raises no error and gives no warning, and its maps look like maps. That is why `load_subject` refuses it: a network for
# one modality must be trained with one.

# %%
assert max(dice.values()) in [dice[n] for n in ("as it is", "saved once more", "turned back")], (
    "nothing that was broken is better"
)
assert dice["FLAIR is zero"] < 0.5 * dice["as it is"], "without FLAIR little is found"

# %% [markdown]
# **DICOM.** Scanners write DICOM; this package reads NIfTI. [dcm2niix](https://github.com/rordenlab/dcm2niix) converts a folder and
# keeps what the scanner said in a JSON file beside it:
#
# ```sh
# dcm2niix -z y -f %p_%s -o nifti/ dicom/
# ```
#
# After that the usual order is: bias field (N4), register T1 to FLAIR or both to a common space, strip the skull (SynthStrip or HD-BET), turn
# to the canonical axes. A name in a file or header may say who the patient is: remove it before a scan leaves the hospital.
#
# ## Other people's folders, and what their masks hold
#
# Every data set has its own names. In MSLesSeg `P1/T1/P1_T1_FLAIR.nii.gz` is the FLAIR of patient 1 at *timepoint* 1, and its
# T1 is `P1_T1_T1.nii.gz`: a program that looks for T1 in a name finds it in all of them. We lay out our patient like that.

# %%
flair, t1, target = (values[BOX] for values in scans["01"])
visit = home / "MSLesSeg" / "P1" / "T1"
for name, values in {"FLAIR": flair, "T1": t1, "MASK": target.astype("u1")}.items():
    write(visit / f"P1_T1_{name}.nii.gz", values, CUT)
theirs = load_subject(visit)
print(theirs)
assert torch.equal(theirs.image, subject.image)

# %% [markdown]
# The same image, and the mask came with it. What is known of how a data set names its files is a row of a table, `LAYOUTS`; BIDS,
# BraTS, WMH 2017, MSSEG, ISBI 2015, MS3SEG and nnU-Net's raw folders have theirs. Where several experts drew the lesions, name one by `rater=`, or
# take their `"majority"`.
#
# A mask is no simpler. It may hold 255 for lesion, a number for each lesion, or classes of which one is lesion.

# %%
numbered = ndimage.label(target)[0]
masks = {
    "0 and 255": target * np.uint8(255),
    "a number a lesion": numbered.astype("i2"),
    "0, 1 and 2": np.where(numbered == 1, 2, target).astype("u1"),
}
for name, values in masks.items():
    path = write(home / "masks" / f"{name.replace(' ', '')}.nii.gz", values, CUT)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            print(f"{name}: {int(load_subject(**files, target=path).target.sum())} lesion voxels")
        except ValueError as error:
            print(f"{name}: {error}")
    print(*(f"   {warning.message}" for warning in told), sep="\n")

# %% [markdown]
# The values decide what a mask means, and what was decided is told. Of 0, 1 and 2 nobody can know whether 2 is a second lesion or
# another disease, so that is asked for: `target_label=1`, or `--target-label 1`. Lesions that have numbers of their own stay
# apart where they touch; connected components would join them. A file of such numbers can also say what to explain, whatever
# the network found: `ies explain ... --lesions numbers.nii.gz`.
#
# ## What comes out
#
# `explain` writes a BIDS derivative, here for the two true positives nearest to 40 voxels.

# %%
out = home / "bids" / "derivatives" / "first"
chosen = sorted(results["as it is"].of("TP"), key=lambda le: abs(len(le) - 40))[:2]
index = explain(subject, network, chosen, out, aggregate="mean", draws=2)
print(*sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()), sep="\n")
index.drop(columns="path")

# %% [markdown]
# Each map is a NIfTI in the space of the scan, with a sidecar that says how it was made; `maps.tsv` lists them all. The official
# validator accepts such a folder (`bids-validator-deno FOLDER`; a test of this project asks it). `ies explain` adds the
# probability, the numbered lesions and their table.
#
# ## A cohort
#
# Now the whole dataset. A cohort is a file: who, with which network, what, and where to. Paths count from the file.

# %%
config = home / "cohort.toml"
TEXT = """
subjects = ["bids"]                 # all sub-*, and their ses-*
targets = "bids/derivatives/manual/**/{sub}_*mask.nii.gz"
out = "bids/derivatives/ies"

[network]
name = "unet"

[[explain]]                         # like one run of ies explain; write as many as you want
aggregate = "mean"
lesions = "TP:20-60"
draws = 2
"""
written = config.write_text(TEXT)

# %% [markdown]
# `--dry-run` prints the plan and stops. It predicts one subject, times a little of its work and counts for all. In a terminal
# you would write `ies cohort cohort.toml --dry-run`; from Python the same is

# %%
from ies_helpers.__main__ import main

code = main(["cohort", str(config), "--dry-run"])

# %% [markdown]
# Read it aloud: how many subjects, maps, gigabytes, and how long. Look at the gigabytes before you ask for 50 lesions of 500 patients.
# The time is that of loading, predicting and explaining. Starting the processes, measuring the maps and writing the files are not in it:
# with two draws, as here, they take most of the run, and it lasts several times as long; with fifty draws they hardly count.
#
# Now on two processes. Each process has one thread, so that two of them need two cores. A map does not depend on who made it: the files are
# the same bits with one process, two, or a cluster.

# %%
code = main(["cohort", str(config), "--workers", WORKERS])
table = pd.read_csv(home / "bids/derivatives/ies/cohort.tsv", sep="\t", dtype={"subject": str})
table[["subject", "status", "lesions", "maps", "seconds"]]

# %% [markdown]
# `cohort.tsv` has a row a subject. Below the same folder are `cohort.toml`, a copy of the file, and `cohort.json`, the versions of
# everything the maps depend on. Anything that was worth a warning stands in the column `notes`.
#
# ### When something fails
#
# Somebody saves over the T1 of patient 02, and the file is cut short. And we want Grad-CAM++ maps, too.

# %%
broken = home / "bids/sub-02/anat/sub-02_T1w.nii.gz"
whole = broken.read_bytes()
broken.write_bytes(whole[: len(whole) // 2])
config.write_text(TEXT + '[[explain]]\nmethod = "gradcam++"\nlesions = "TP:30-40"\n')
code = main(["cohort", str(config)])
print("exit code", code)

# %% [markdown]
# Patient 02 failed, with a reason, and the others were done: of them only the new maps were computed. Exit code 1 tells a script that
# something is missing. We mend the file, ask for an evaluation of all maps at the end, and run the same command again.

# %%
broken.write_bytes(whole)
config.write_text(config.read_text() + "[evaluate]\nseed = 0\n")
code = main(["cohort", str(config)])
table = pd.read_csv(home / "bids/derivatives/ies/cohort.tsv", sep="\t", dtype={"subject": str})
assert code == 0
assert set(table["status"]) == {"kept", "done"}
table[["subject", "status", "maps", "seconds"]]

# %% [markdown]
# *kept* was there already: same scans, same weights, same settings, all files in place. *done* was done now. A run that was killed goes on
# in the same way, within a subject lesion by lesion.
#
# The tables of all subjects together are what chapters 09 to 11 start from. `maps.tsv` names every map:

# %%
maps = pd.read_csv(home / "bids/derivatives/ies/maps.tsv", sep="\t", dtype={"subject": str})
maps.groupby(["subject", "method", "group"]).size().rename("files")

# %% [markdown]
# `[evaluate]` measured them as `ies evaluate` does, see chapters 09 and 10 for what the columns mean; tables and figures lie in `evaluation/`.

# %%
from IPython.display import Markdown

Markdown((home / "bids/derivatives/ies/evaluation/summary.md").read_text())

# %% [markdown]
# Two draws, lesions of two ranges of size and three synthetic patients: read the table for its form, not for who is ahead.

# %% [markdown]
# ## The page of your own patient
#
# Maps and tables are for those who study many lesions. Whoever looks at one patient wants one page: where does this lesion lie, what
# does the network's answer rest on, how firm is it? `report` makes it. In a terminal that is
# `ies report SUBJECT --network NETWORK --out FOLDER`; here, for one lesion that the network finds and one that is not real or that it
# misses.

# %%
from ies_helpers import report
from ies_helpers.figures.report import SENTENCES
from ies_helpers.saliency.methods import Recipe

least = {len(le): le for le in results["as it is"] if le.group != "TP"}
pair = [chosen[0], least[max(least)]] if least else chosen[:2]
quick = Recipe(aggregate="mean", draws=2)
mine = report(subject, network, pair, home / "report", recipe=quick, tell=print)

# %% [markdown]
# The page is one file. It loads nothing and runs nothing, so it can be sent by mail, read on a phone, or printed.

# %%
mine

# %% [markdown]
# Read it from the top: not for clinical use; which network, which settings; then the lesions by *doubt*, the most doubtful first. Each
# lesion has three sentences. They are made from the numbers below them by rules that stand at the end of the page, and each can say
# that it is *not sure*, and why. Here the sentences alone:

# %%
for facts in mine.facts:
    print(f"\nLesion {facts.lesion} ({facts.group}, {facts.voxels} voxels)")
    for sentence in SENTENCES:
        print(" ", sentence(facts))

# %% [markdown]
# *Where* comes from a template of a brain, laid over this one in 27 places: a lesion whose zone changes when the template moves by
# 2 mm is not sure. *What it rests on* is about the score: a channel in which small changes move it, and the rim of tissue with which
# it keeps 95 % of its value (chapter 07). *How firm* is about the answer: the change of brightness that turns it, as
# `dose_to_flip` finds it. None of them says whether the lesion is real: a false one can lie in a plausible place and be held
# firmly.

# %%
table = mine.table()
assert table["doubt"].is_monotonic_decreasing
table[["lesion", "group", "zone", "zone_sure", "needs_mm", "dose", "doubt"]].round(2)

# %% [markdown]
# ## On a cluster
#
# The same command takes the address of a [Dask](https://docs.dask.org) cluster, `--dask tcp://...`, or its scheduler file. joblib, which runs
# the processes here, hands the subjects to the cluster instead; nothing else changes. Under SLURM the extra
# `ies-helpers[cluster]` brings dask-jobqueue:
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
# For GPUs take `processes=1` and `job_extra_directives=["--gres=gpu:1"]`. The folders of the file must be seen by all nodes, and the package
# installed on them. What is tested here is a local cluster of two workers, not SLURM: try the plan
# and two subjects first. On one machine with several GPUs no cluster is needed: `ies cohort` then starts a process for
# each GPU.
#
# ## What we saw
#
# - A folder, plain files or a whole BIDS dataset go in; masks may lie apart.
# - Axes, voxel size, a skull, a background that is not 0 and channels that look swapped are told in a warning; different grids, damage and a missing modality are refused. Nothing is resampled, turned or filled.
# - A zero channel is accepted by the network, and is no answer.
# - A cohort is one file and one command. It says before what it will cost and after what failed, and goes on where it was.
# - One patient is one page: three sentences a lesion, each with the form in which it is not sure.
#
# ## Limits
#
# - The patients here are synthetic, the skull is a shell, and the counts are those of one of them. What a broken file costs on your data you must measure there.
# - A scan can be wrong in ways that nobody sees in its header: motion, a poor strip, another contrast. Look at every scan, or at least at every outlier of `lesions` in `cohort.tsv`.
# - The plan judges all subjects by one. Where the number of lesions differs by a factor of ten, so may the hours.
# - A network from elsewhere may fail on your scanner. A map explains the network that you have, not the one that you would need.
#
# ## Exercises
#
# **1.** Is a brain upside down worse than a mirrored one? Flip the image of `subject` along its third axis, then along its first.
#
# <details><summary>Solution</summary>
#
# ```python
# for axis, name in ((3, "upside down"), (1, "mirrored")):
#     look(name, subject.image.flip(axis), subject.target.flip(axis - 1))
# look("as it is", subject.image, subject.target)
# ```
#
# Expected: three lines, and Dice says more than the counts. The network saw mirrored brains when it was trained, and none upside down; a lesion is
# bright either way, so that one patient may hardly tell. `load_subject("demo")` tells more clearly.
#
# </details>
#
# **2.** Ask for the smallest lesions, too: what does the plan say for `lesions = "TP"`, and how many of those maps are there already?
#
# <details><summary>Solution</summary>
#
# ```python
# more = TEXT.replace("TP:20-60", "TP")
# config.write_text(more)
# code = main(["cohort", str(config), "--dry-run"])
# ```
#
# Expected: all subjects are *to do* again, since the settings are others, and the plan has more maps than the table above. The maps that are there are not
# computed again when it runs: a map is kept by its own record, a subject by that of all its settings.
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
# Expected: exit code 2, at once: the key is unknown, and the sentence names the allowed ones. A misspelt key that is ignored costs a night on the
# cluster.
#
# </details>
#
# ## References
#
# - K. Gorgolewski and others, *The brain imaging data structure*, Scientific Data 2016, [doi 10.1038/sdata.2016.44](https://doi.org/10.1038/sdata.2016.44).
# - X. Li and others, *The first step for neuroimaging data analysis: DICOM to NIfTI conversion*, Journal of Neuroscience Methods 2016, [doi 10.1016/j.jneumeth.2016.03.001](https://doi.org/10.1016/j.jneumeth.2016.03.001).
# - A. Hoopes and others, *SynthStrip: skull-stripping for any brain image*, NeuroImage 2022, [doi 10.1016/j.neuroimage.2022.119474](https://doi.org/10.1016/j.neuroimage.2022.119474).
#
# ## Next
#
# [13 · The paper's figures](13_papers_figures.ipynb): which of them can be made with open data.
