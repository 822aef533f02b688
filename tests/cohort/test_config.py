"""The cohort's file: what it stands for, and one sentence for every mistake in it."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ies_helpers import cohort as config
from ies_helpers.cohort import read_config
from tests.patients import write_image, write_patient


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A BIDS folder of two subjects, one of them seen twice, with masks apart, and a plain folder."""
    for name, visit in (("01", "ses-1"), ("01", "ses-2"), ("02", "")):
        folder = tmp_path / "bids" / f"sub-{name}" / visit / "anat"
        write_patient(folder, f"{name}_{visit}" if visit else name, side=8, spots={})
        mask = next(folder.glob("*mask.nii.gz"))
        masks = tmp_path / "bids/derivatives/manual" / f"sub-{name}" / visit
        masks.mkdir(parents=True)
        mask.rename(masks / mask.name)
    write_patient(tmp_path / "plain" / "patient9", "9", side=8, spots={})
    return tmp_path


def written(home: Path, text: str) -> Path:
    path = home / "cohort.toml"
    path.write_text(text)
    return path


def test_the_documented_example_is_read_as_it_says(home: Path) -> None:
    (example,) = re.findall(r"\n\n((?: {4}.*\n|\n)+)", config.__doc__ or "")
    read = read_config(written(home, textwrap.dedent(example)))
    folders = ["bids/sub-01/ses-1", "bids/sub-01/ses-2", "bids/sub-02", "plain/patient9"]
    names = ["demo", "phantom:3", "openms:patient26", *(str(home / folder) for folder in folders)]
    assert [source["subject"] for source in read.sources] == names
    assert read.out == home / "derivatives" / "ies"
    assert read.network == {"network": "unet", "device": "auto"}
    (run,) = read.explain
    run = run.as_table()
    assert {k: run[k] for k in ("method", "aggregate", "lesions", "draws", "noise", "seed")} == {
        **{"method": "smoothgrad", "aggregate": "max", "lesions": "TP", "draws": 50, "noise": 0.05, "seed": 0}
    }
    assert read.evaluate == {"faithfulness": False, "seed": 0}
    (curves,) = read.perilesional
    assert curves.as_table() == {"lesions": "TP:91-119", "fill": "zero", "by": "steps"}


def test_masks_that_lie_apart_are_found_by_name(home: Path) -> None:
    text = 'subjects = ["bids"]\ntargets = "bids/derivatives/manual/**/{sub}_*mask.nii.gz"'
    sources = read_config(written(home, text)).sources
    masks = ["sub-01_ses-1_label-lesion_mask", "sub-01_ses-2_label-lesion_mask", "sub-02_label-lesion_mask"]
    assert [Path(source["target"]).name.split(".")[0] for source in sources] == masks
    assert [Path(source["flair"]).name for source in sources] == [
        "sub-01_ses-1_FLAIR.nii.gz",
        "sub-01_ses-2_FLAIR.nii.gz",
        "sub-02_FLAIR.nii.gz",
    ]
    write_image(home / "bids/derivatives/manual/sub-02/sub-02_run-2_mask.nii.gz", np.zeros((8, 8, 8)))
    with pytest.raises(ValueError, match="must find one mask a subject, for 02 it finds 2; narrow it"):
        read_config(written(home, text))


def test_files_and_weights_are_found_from_the_file_and_not_from_here(home: Path, monkeypatch) -> None:
    (home / "weights.pth").touch()
    text = 'subjects = [{flair = "F.nii", t1 = "T.nii"}]\nnetwork = {name = "weights.pth", threshold = 0.4}'
    written(home, text)
    monkeypatch.chdir(home.parent)
    read = read_config(Path(home.name) / "cohort.toml")
    assert read.sources == ({"flair": str(home / "F.nii"), "t1": str(home / "T.nii")},)
    assert read.network == {"network": str(home / "weights.pth"), "threshold": 0.4, "device": "auto"}


MISTAKES = {
    "an unknown key": ('subject = ["demo"]', r"cohort.toml has no key 'subject'; allowed are subjects, out, targets"),
    "an unknown key of the network": (
        'subjects = ["demo"]\n[network]\nweights = "w.pth"',
        r"\[network\] of cohort.toml has no key 'weights'; allowed are name, architecture, merging, threshold",
    ),
    "an unknown key of explain": (
        'subjects = ["demo"]\n[[explain]]\nlesion = "TP"',
        r"\[\[explain\]\] of cohort.toml has no key 'lesion'; allowed are method, aggregate, draws, noise",
    ),
    "an unknown key of perilesional": (
        'subjects = ["demo"]\n[[perilesional]]\nsteps = 3',
        r"\[\[perilesional\]\] of cohort.toml has no key 'steps'; allowed are lesions, fill, by",
    ),
    "a word for a number": ('subjects = ["demo"]\n[[explain]]\ndraws = "50"', "draws must be at least 1 .* got '50' "),
    "a number for a list": ("subjects = 3", r"subjects of cohort.toml must be of type list, as \[\], got 3"),
    "one table for many": ('subjects = ["demo"]\n[explain]\ndraws = 5', "explain of cohort.toml must be of type list"),
    "an unknown method": ('subjects = ["demo"]\n[[explain]]\nmethod = "lime"', "method must be one of .* 'lime'"),
    "unknown lesions": ('subjects = ["demo"]\n[[explain]]\nlesions = "big"', "lesions must be all, .* got 'big'"),
    "an unknown fill": (
        'subjects = ["demo"]\n[[perilesional]]\nfill = "one"',
        "fill must be one of zero, mean, blurred, got 'one'",
    ),
    "a seed below 0": ('subjects = ["demo"]\n[evaluate]\nseed = -1', "seed of cohort.toml must be 0 or more, got -1"),
    "frozen without max": (
        'subjects = ["demo"]\n[[explain]]\nstatistics = "frozen"\naggregate = "mean"',
        "smoothgrad and gradient with max, got smoothgrad with mean; leave it out",
    ),
    "unknown statistics": (
        'subjects = ["demo"]\n[[explain]]\nstatistics = "frzen"',
        "statistics must be one of exact, frozen, got 'frzen'",
    ),
    "two maps of one name": (
        'subjects = ["demo"]\n[[explain]]\ndraws = 2\nlesions = "TP"\n[[explain]]\ndraws = 3\nlesions = "TP:90-120"',
        r"two \[\[explain\]\] of cohort.toml make smoothgrad max exact, with draws 2 and 3\. Take one out, choose",
    ),
    "curves of two groups by two measures, which are averaged": (
        'subjects = ["demo"]\n[[perilesional]]\nlesions = "TP"\n[[perilesional]]\nlesions = "FN"\nby = "mm"',
        r"make curves of fill zero, with by 'steps' and 'mm'\. Take one out, or make two cohorts\.",
    ),
    "two curves of one fill": (
        'subjects = ["demo"]\n[[perilesional]]\nlesions = "all"\n[[perilesional]]\nby = "mm"',
        r"two \[\[perilesional\]\] of cohort.toml make curves of fill zero, with by 'steps' and 'mm'\. Take one out",
    ),
    "no subjects": ('out = "here"', "must name its subjects, as subjects"),
    "no threads": ('subjects = ["demo"]\nthreads = 0', "threads of cohort.toml must be 1 or more, got 0"),
    "one subject twice": ('subjects = ["demo", "demo"]', "names a subject twice: demo; take one of them out"),
    "no scan": ('subjects = [{target = "F.nii"}]', "is a name, or files as {flair = ..., t1 = ..., target = ...}, got"),
    "no TOML": ("subjects = [", "cohort.toml must be a TOML file, it is not readable as one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(home: Path, mistake: str) -> None:
    text, rule = MISTAKES[mistake]
    with pytest.raises(ValueError, match=rule) as caught:
        read_config(written(home, text))
    assert "\n" not in str(caught.value)


def test_entries_of_one_name_that_cannot_meet_or_differ_are_kept(home: Path) -> None:
    groups = [f'[[explain]]\nlesions = "{lesions}"\ndraws = {n}' for n, lesions in enumerate(("TP:9-", "FP", "FN"), 2)]
    same = ['[[explain]]\nmethod = "gradcam"\nlesions = "TP"', '[[explain]]\nmethod = "gradcam"']
    other = ['[[explain]]\naggregate = "mean"\ndraws = 9', '[[explain]]\nstatistics = "frozen"\ndraws = 9']
    curves = ['[[perilesional]]\nby = "mm"\nfill = "mean"', "[[perilesional]]"]
    entries = [*groups, *same, *other, *curves]
    read = read_config(written(home, "\n".join(['subjects = ["demo"]', *entries])))
    assert (len(read.explain), len(read.perilesional)) == (7, 2)


def test_what_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a name or a folder; nothing matches nobody"):
        read_config(written(home, 'subjects = ["nobody*"]'))
    with pytest.raises(FileNotFoundError, match=r"A cohort is a TOML file, there is none at .*none\.toml"):
        read_config(home / "none.toml")
