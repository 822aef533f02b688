"""A word, a folder or files by name -> a `Subject` that a network can read, or one sentence that says why not.

`SOURCES` has one row for each way to say who is meant. A new one is a row there and one test.
"""

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from ies_helpers.arrays import check_same_grid, door
from ies_helpers.subjects.downloads import fetch
from ies_helpers.subjects.files import data_folder
from ies_helpers.subjects.layouts import Found, find_case, find_files, name_of_file
from ies_helpers.subjects.nifti import place_note, read_image, read_scan
from ies_helpers.subjects.phantom import phantom
from ies_helpers.subjects.subject import CHANNELS, SHIPPED, Subject, channel, normalise
from ies_helpers.subjects.targets import MAJORITY, Reading, read_target
from ies_helpers.subjects.tissue import grey_levels, look_swapped


@dataclass(frozen=True)
class Source:
    """One way to say which subject is meant."""

    words: str  # how its words look, for help and errors
    claims: Callable[[str], bool]  # whether a word is one of its
    find: Callable[[str], Found]  # what would be loaded, without reading an image, making or downloading anything
    load: Callable[..., Subject]  # of a word, and with `chooses` how its target is read: `rater`, `target_label`, ...
    prepare: Callable[[str], object] = lambda word: (
        None
    )  # downloads what `load` needs, before the first of many is worked on
    chooses: bool = False  # whether a target of any kind may lie there, so that its reading can be chosen


File = str | Path | None

CHOICES = {"rater": str, "target_label": int | str, "target_threshold": int | float}  # how a target is read


@door
def load_subject(
    subject: str | Path | None = None,
    *,
    images: Mapping[str, str | Path] | None = None,
    target: File = None,
    rater: str | None = None,
    target_label: int | str | None = None,
    target_threshold: float | None = None,
    **channels: File,
) -> Subject:
    """Load one patient: its images and, where there is one, the lesions that an expert drew.

    Args:
        subject: a word of `SOURCES`: `demo` (shipped), `phantom:SEED` (made on the spot), `openms:patientNN`
            (downloaded once), or a folder, plain or BIDS, that holds at most one file of each of `CHANNELS` and one
            lesion mask; also `ROOT/<subject>/<session>` with one file a channel, as the paper's scripts want it.
        images: files by name, instead of `subject`: channel -> file, any names and number from one up, in the
            order of the image's channels; those of `CHANNELS` are normalised as their row says.
        target: with files by name, the lesion mask.
        rater: whose lesions are the target, where the masks of several raters lie in the folder; or `majority`, what
            more than half of them drew.
        target_label: which number of the target is lesion, several as `1,2`, or `instances`, each number a lesion;
            None: as its values, or the layout of the data, say. See `ies_helpers.subjects.targets`.
        target_threshold: above it a target of probabilities is lesion; None: 0.5, which is told.
        channels: the same as `images`, one by one, as `flair=..., t1=...`; these two come first.

    Returns:
        The subject on the scan's own grid, each channel z-scored over what is not background (`find_background`).
    """
    chosen = {"rater": rater, "target_label": target_label, "target_threshold": target_threshold}
    chosen = {name: value for name, value in chosen.items() if value not in (None, "")}
    if found := _find_by_name(subject, images, target, rater, **channels):
        files = {**found.images, **({"target": found.target} if found.target else {})}
        paths: dict[str, Any] = {key: str(path.absolute()) for key, path in files.items()}
        return replace(_read(found, **chosen), source=paths | chosen)
    word = str(subject or "demo")
    source = source_of(word)
    if rater and not source.chooses:
        raise ValueError(f"A rater is one of those whose masks lie in a folder, {word} has none; leave {rater} out.")
    if chosen and not source.chooses:
        raise ValueError(f"The target of {word} is a mask of 0 and 1, got {', '.join(chosen)}; leave it out.")
    where = {"subject": str(Path(word).absolute()) if source is FOLDER else word}
    return replace(source.load(word, **chosen), source=where | chosen)


def find_subject(subject: str | Path | None = None, **named: Any) -> Found:
    """What `load_subject` would load, without reading an image, making or downloading anything."""
    word = str(subject or "demo")
    files = {name: value for name, value in named.items() if not name.startswith("target_")}
    return _find_by_name(subject, **files) or source_of(word).find(word)


def is_word(entry: str) -> bool:
    """Whether an entry is a word of `SOURCES`, and neither a folder nor a pattern of folders."""
    return any(row.claims(entry) for row in SOURCES.values() if row is not FOLDER)


def source_of(word: str) -> Source:
    """The row of `SOURCES` that a word belongs to; a folder only if it is nothing else."""
    rows = sorted(SOURCES.values(), key=lambda row: row is FOLDER)
    if (row := next((row for row in rows if row.claims(word)), None)) is not None:
        return row
    if Path(word).is_file():
        raise ValueError(f"A subject is a folder or files by name; name this one, as --flair {word} (flair=...).")
    *others, last = (row.words for row in rows)
    raise FileNotFoundError(f"A subject is {', '.join(others)} or {last}; there is no folder {word}.")


# Files by name: any channels.


def _find_by_name(
    subject: object = None,
    images: Mapping[str, File] | None = None,
    target: File = None,
    rater: str | None = None,
    **channels: File,
) -> Found | None:
    """The patient of all files that were named; None where a word is given, or nothing."""
    pairs = [*(dict.fromkeys(SHIPPED) | channels).items(), *(images or {}).items()]
    given = [(name.lower() if name.lower() in CHANNELS else name, Path(path)) for name, path in pairs if path]
    files = dict(given)
    if len(files) < len(given):
        twice = Counter(name for name, _ in given).most_common(1)[0][0]
        raise ValueError(f"A channel must be named once, got {twice} twice; leave one out.")
    if (files and subject) or (target and not files):
        names = ", ".join([*(["subject"] if subject else []), *files, *(["target"] if target else [])])
        rule = "A subject is one name, or the files of its channels (and target) by name, as flair=..., t1=..."
        raise ValueError(f"{rule}; got {names}.")
    if rater and files:
        rule = "A rater is one of those whose masks lie in a folder"
        raise ValueError(f"{rule}, got {rater} and files by name; name the mask, as target=... (--target).")
    name = name_of_file(given[0][1], given[0][0]) if given else ""
    return Found(name, files, Path(target) if target else None) if given else None


# What was found, read and judged.

SPACING_TOLERANCE = 0.15  # mm off 1 mm, from which on a warning says so
LARGEST_BRAIN = 2.2  # litres with ventricles and sulci; a head has twice as much
UNEQUAL = 1.2  # times the volume of the smallest channel that the largest may have; a scalp alone adds a third
FEWEST_LEVELS = 4  # different values of a mask or a map of labels; a scan has more
SQUARE_TOLERANCE = 0.01  # cosine of the angle between voxel axes that count as square; rounding leaves 0.0001
ORIENTATIONS = ("LAS", "RAS")  # of the scans that the shipped networks were trained on; left and right were swapped


def _read(
    found: Found,
    rater: str | None = None,
    target_label: int | str | None = None,
    target_threshold: float | None = None,
) -> Subject:
    """What was found, read and judged; each thing that was decided on the way is a warning and one of its notes."""
    reading = Reading(target_label, target_threshold, found.label)
    found = of_rater(found, rater)
    if not (found.target or found.targets) and (asked := [target_label, target_threshold]) != [None, None]:
        name, value = ("target_label", asked[0]) if asked[0] is not None else ("target_threshold", asked[1])
        raise ValueError(f"{name} says how a target is read, {found.name} has none, got {value}; give a target.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject = _read_target(found, _read_images(found), reading)
    notes = tuple(dict.fromkeys([*(str(warning.message) for warning in caught), *remarks(subject)]))
    for note in notes:
        warnings.warn(note, stacklevel=5)
    return replace(subject, notes=notes)


def _read_images(found: Found) -> Subject:
    """The images of a patient on one grid, and its target; an optional one that cannot join them is left out."""
    opened: dict[str, nibabel.Nifti1Image] = {}
    raw, backgrounds, left_out = [], [], list(found.remarks)
    for name, path in found.images.items():
        label = channel(name).label
        try:
            image = read_image(path, label)
            for first, other in list(opened.items())[:1]:
                what = f"{channel(first).label} and {label}"
                check_same_grid(what, other, image, "resample one onto the other first")
            values, background = read_scan(image, label)
            raw.append(values)
            backgrounds.append(background)
            opened[name] = image
        except ValueError as error:
            if name not in found.optional:
                raise
            left_out.append(f"{label} of {found.name} is left out. {error}")
    names, first = tuple(opened), next(iter(opened.values()))
    affine = np.asarray(first.affine, dtype=np.float64)
    values = torch.from_numpy(np.stack(raw).astype(np.float32))
    for remark in (*left_out, place_note(first, found.images[names[0]].name)):
        if remark:
            warnings.warn(remark, stacklevel=2)
    told = {name: background.words for name, background in zip(names, backgrounds, strict=True)}
    image = normalise(values, names, backgrounds)
    return Subject(found.name, image, affine, names, header=first.header, raw=values, background=told)


def of_rater(found: Found, rater: str | None = None) -> Found:
    """The patient with one target: that of a rater, else the only one; several raters and no word are refused.

    Of `majority` it has none, and its `targets` are read together.
    """
    if rater and rater in found.targets:
        return replace(found, target=found.targets[rater], targets={})
    if rater == MAJORITY and found.targets:
        return replace(found, target=None)
    if rater or (found.targets and not found.target):
        met = f"{found.name} has {', '.join(found.targets) or 'no several'}" + (f", got {rater}" if rater else "")
        raise ValueError(
            f"A target is the mask of one rater; {met}. Name one, as rater=NAME (--rater NAME on the command line), or "
            f"take what more than half of them drew, as {MAJORITY}."
        )
    return found


def _read_target(found: Found, subject: Subject, reading: Reading) -> Subject:
    """The subject with its target, if one was found."""
    paths = found.target or found.targets
    if not paths:
        return subject
    brain = int((subject.image[0] != 0).sum())
    target = read_target(paths, subject, channel(subject.channels[0]).label, brain, reading)
    instances = None if target.instances is None else torch.from_numpy(target.instances)
    return replace(subject, target=torch.from_numpy(target.mask), instances=instances)


def remarks(subject: Subject) -> list[str]:
    """One sentence for each way in which a scan is unlike those that the shipped networks were trained on."""
    found, axes = [], [str(axis) for axis in nibabel.aff2axcodes(subject.affine)]
    if max(abs(s - 1) for s in subject.spacing) > SPACING_TOLERANCE:
        sides = " x ".join(f"{s:.2f}" for s in subject.spacing)
        found.append(
            f"{subject.name} has voxels of {sides} mm; the networks were trained at 1 mm, so sizes in voxels, window "
            "extents and distances mean something else here, and predictions may be poor. Nothing was resampled."
        )
    along = subject.affine[:3, :3] / subject.spacing
    cosine = float(np.abs(along.T @ along - np.eye(3)).max())
    if cosine > SQUARE_TOLERANCE:
        found.append(
            f"The voxel axes of {subject.name} meet at {np.degrees(np.arccos(cosine)):.0f} degrees and not at 90 (a "
            "tilted gantry?); distances in mm are wrong. Nothing was resampled; resample onto a square grid."
        )
    if "".join(axes) not in ORIENTATIONS:
        found.append(
            f"The axes of {subject.name} run to {', '.join(axes)}; the networks were trained on L, A, S and may find "
            "less in a turned brain. Nothing was turned; nibabel.as_closest_canonical turns a file."
        )
    return [*found, *_on_channels(subject)]


def _on_channels(subject: Subject) -> list[str]:
    """One sentence for each way in which channels, all of them judged, are unlike stripped brains or each other."""
    name, found, labels = subject.name, [], {n: channel(n).label for n in subject.channels}
    said = [f"{words} in {labels[n]}" for n, words in subject.background.items() if words not in ("0", "none found")]
    if said:
        found.append(
            f"The background of {name} is not exactly 0: it is {', '.join(said)}. It lies outside the brain and is 0 "
            "in the z-scored image; a network that normalises by itself gets the values of the file, and 0 for NaN."
        )
    voxel = abs(float(np.linalg.det(subject.affine[:3, :3]))) / 1e6
    litres = {labels[n]: int((v != 0).sum()) * voxel for n, v in zip(labels, subject.image, strict=True)}
    heads = {label: volume for label, volume in litres.items() if volume > LARGEST_BRAIN}
    least, most = min(litres, key=lambda of: litres[of]), max(litres, key=lambda of: litres[of])
    if heads:
        (first, volume), *others = heads.items()
        more = "".join(f" and {volume:.1f} of {label}" for label, volume in others)
        found.append(
            f"{name} has {volume:.1f} litres of {first} that is not 0{more}, more than a brain: it seems not to be "
            "skull-stripped. Its z-scores are then those of a head, and the networks know brains only; strip it first."
        )
    elif litres[most] > UNEQUAL * litres[least]:
        found.append(
            f"{name} has {litres[most]:.2g} litres of {most} that is not 0 and {litres[least]:.2g} of {least}: either "
            f"{most} is not skull-stripped, or {least} is cut or nearly empty. Compare the two scans."
        )
    levels = {n: grey_levels(values) for n, values in zip(labels, subject.image, strict=True)}
    flat = [n for n in labels if levels[n] <= FEWEST_LEVELS]
    for n in flat:
        found.append(
            f"{labels[n]} of {name} has {levels[n]} different values in 98 % of what is not 0: it seems to be a mask, "
            "a map of labels or all but constant, and no scan."
        )
    pairs = itertools.combinations(zip(labels.values(), subject.image, strict=True), 2)
    same = [f"{other} of {name} holds the same values as {one}" for (one, v), (other, w) in pairs if v.equal(w)]
    found += [f"{sentence}: one file seems to stand for both." for sentence in same]
    brains = set(SHIPPED) <= set(labels) and not heads and not flat
    if brains and look_swapped(*subject.image[[*map([*labels].index, SHIPPED)]]):
        found.append(
            f"FLAIR and T1 of {name} look as if they were swapped: fluid stands out from grey and white matter in T1 "
            "more than in FLAIR, and it should be the other way. Look which file is which."
        )
    return found


# The rows.


def _seed_of(word: str) -> int:
    seed = word.partition(":")[2]
    if not seed.isdecimal():
        raise ValueError(f"A phantom is named by its seed, as phantom:7; got {word!r}.")
    return int(seed)


def _load_downloaded(word: str) -> Subject:
    files = fetch(word)
    return _read(Found(word.partition(":")[2], {kind: files[kind] for kind in SHIPPED}, files["target"]))


def _find_in_set(word: str) -> Found:
    """One patient of a downloaded data set, whose folder its layout reads."""
    item = word.partition(":")[2]
    files = sorted(fetch(word).values(), key=lambda path: len(path.parts))  # scans lie higher than other trees' masks
    return find_files(next(folder for folder in files[0].parents if folder.as_posix().endswith(f"/{item}")))


def _data_set(key: str, example: str) -> Source:
    return Source(
        f"{key}:{example}",
        claims=lambda word: word.startswith(f"{key}:") and word != f"{key}:",
        find=lambda word: Found("".join(c for c in "".join(word.partition(":")[2].split("/")[-2:]) if c.isalnum())),
        load=lambda word, **chosen: _read(_find_in_set(word), **chosen),
        prepare=fetch,
        chooses=True,
    )


def _load_demo(word: str) -> Subject:
    folder = data_folder() / "demo"
    files = {kind: folder / f"sub-demo_{channel(kind).suffix}.nii.gz" for kind in SHIPPED}
    return _read(Found("demo", files, folder / "sub-demo_label-lesion_mask.nii.gz"))


def _find_on_disk(word: str) -> Found:
    return find_files(Path(word)) if Path(word).is_dir() else find_case(Path(word)) or Found(Path(word).name)


FOLDER = Source(
    "a folder with one file a channel",
    claims=lambda word: Path(word).is_dir() or find_case(Path(word)) is not None,
    find=_find_on_disk,
    load=lambda word, **chosen: _read(_find_on_disk(word), **chosen),
    chooses=True,
)

SOURCES = {  # every way to say who is meant by a word; files by name are the other; a folder is what no other claims
    "demo": Source("demo", claims=lambda word: word == "demo", find=lambda word: Found("demo"), load=_load_demo),
    "phantom": Source(
        "phantom:SEED",
        claims=lambda word: word.partition(":")[0] == "phantom",
        find=lambda word: Found(f"phantom{_seed_of(word)}"),
        load=lambda word: phantom(_seed_of(word)),
    ),
    "openms": Source(
        "openms:patientNN",
        claims=lambda word: word.startswith("openms:") and word != "openms:",
        find=lambda word: Found(word.partition(":")[2]),
        load=_load_downloaded,
        prepare=fetch,
    ),
    **{
        key: _data_set(key, example)
        for key, example in (("mslesseg", "P1/T1"), ("wmh2017", "training/Utrecht/0"), ("ms3seg", "001"))
    },
    "folder": FOLDER,
}
