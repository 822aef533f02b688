"""What lies in a folder: which file is which channel of whom, and whose lesions.

`LAYOUTS` has one row for each data set that lays out its patients in a way of its own; whatever no row knows is read
by the names of its files. Nothing is opened but headers, and those only where two files could be one channel.
"""

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import nibabel

from ies_helpers.arrays import check_same_grid
from ies_helpers.subjects.nifti import conversion, is_dicom, other_format, stem_of
from ies_helpers.subjects.subject import CHANNELS, SHIPPED, channel, known_channel


@dataclass(frozen=True)
class Found:
    """One patient, found and not yet read."""

    name: str  # letters and digits
    images: Mapping[str, Path] = field(default_factory=dict)  # by channel, in order; none of what is made or downloaded
    target: Path | None = None  # the lesions that an expert drew
    targets: Mapping[str, Path] = field(default_factory=dict)  # by rater, where several drew them
    label: int | None = None  # the value of the target that means lesion, where the layout says so
    optional: tuple[str, ...] = ()  # channels that are left out, with a remark, where they cannot join the others
    remarks: tuple[str, ...] = ()  # sentences on what was left aside

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images and, where there is one, the target, or those of all raters."""
        return (*self.images.values(), *([self.target] if self.target else []), *self.targets.values())


def find_files(folder: Path) -> Found:
    """The files of the one patient whose scans lie anywhere below a folder, maps of ours left aside."""
    listed = list(_listed(folder))
    for title, layout in LAYOUTS.items():
        if patients := _patients(layout, listed):
            if len(patients) > 1:
                raise ValueError(
                    f"A folder must hold one patient and visit, {folder} holds {len(patients)} of {title} "
                    f"({_some(patients)}); name one of them, as {_word_of(folder, next(iter(patients)), patients)}."
                )
            return _by_layout(title, layout, next(iter(patients)), listed)
    return _by_names(folder, listed)


def find_patients(folder: Path) -> list[Path]:
    """How each of the patients is named whose scans lie below a folder in a layout that is known; else the folder."""
    listed = list(_listed(folder))
    patients = next((found for layout in LAYOUTS.values() if (found := _patients(layout, listed))), {})
    return [_word_of(folder, who, patients) for who in patients] if len(patients) > 1 else [folder]


def find_case(word: Path) -> Found | None:
    """One of many patients whose files lie together: `imagesTr/case` for `imagesTr/case_0000.nii.gz` and so on."""
    if not word.name or not word.parent.is_dir():
        return None
    listed = [path for path in sorted(word.parent.iterdir()) if _is_image(path.name)]
    for title, layout in LAYOUTS.items():
        for who in _patients(layout, listed):
            if _letters(who) == _letters(word.name) != "":
                return _by_layout(title, layout, who, listed)
    return None


# What lies there.


def _is_image(name: str) -> bool:
    """Whether an image is in a file of this name, of two files the one with the values; `._x` is what macOS leaves."""
    return stem_of(name) != name and not re.search(r"(?i)\.hdr(\.gz)?$", name) and not name.startswith(".")


def _is_nifti(path: Path) -> bool:
    return bool(re.search(r"(?i)\.nii(\.gz)?$", path.name))


def _listed(folder: Path) -> Iterator[Path]:
    """Every image below a folder, through links too; hidden ones and what we made are no scans."""
    walked: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here, real = Path(root), os.path.realpath(root)
        description = here / "dataset_description.json"
        ours = description.is_file() and "ies-helpers" in description.read_text(encoding="utf-8", errors="replace")
        if ours or real in walked:  # a link may lead back to where it lies
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (here / name for name in sorted(names) if _is_image(name))


def _one(paths: Sequence[Path]) -> tuple[Path | None, str]:
    """The one image that several paths are, and a sentence if a rule chose it: links, and formats of one name.

    None where they are several images. `x.nii.gz` comes before `x.nii`, and both before other formats.
    """
    real = {os.path.realpath(path): path for path in reversed(paths)}
    rank = sorted(real.values(), key=lambda path: (not _is_nifti(path), path.suffix.lower() != ".gz"))
    if len({path.parent / stem_of(path.name) for path in rank}) > 1:
        return None, ""
    others = ", ".join(path.name for path in rank[1:])
    return rank[0], f"{rank[0].name} is read, and not {others} beside it." if others else ""


# Data sets that lay out a patient in a way of their own.


@dataclass(frozen=True)
class Layout:
    """How one data set names the files of a patient."""

    patterns: tuple[str, ...]  # how paths end, without `.nii.gz`; the groups are `who`, `kind` and, of a mask, `rater`
    kinds: Mapping[str, str] | Callable[[Path], Mapping[str, str]]
    """`kind` in small letters -> a channel, `target` or `rater`; of two that are one channel the first is taken."""
    sign: str = ""  # one path must match it, where other folders could have the same names
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)  # folder -> others that hold more of the patient
    label: int | None = None  # the value of the target that means lesion
    told: str = ""  # what is left aside

    def match(self, path: Path) -> re.Match[str] | None:
        """What the patterns say of a path."""
        text = (path.absolute().parent / stem_of(path.name)).as_posix()
        return next((m for pattern in self.patterns if (m := re.search(f"(?:^|/){pattern}$", text))), None)

    def meaning(self, path: Path) -> tuple[str, str, int, str] | None:
        """Who, which channel (or `target`, `rater`), how late its turn is, and which rater; None for another file."""
        if (match := self.match(path)) is None:
            return None
        kinds = self.kinds(path) if callable(self.kinds) else self.kinds
        kind = match["kind"].lower()
        if kind not in kinds:
            return None
        rater = match.groupdict().get("rater") or kind
        return match["who"], kinds[kind], list(kinds).index(kind), rater

    def more(self, listed: Iterable[Path]) -> list[Path]:
        """The images of the folders beside those that are listed."""
        others = {
            Path(*parts[:n], *Path(other).parts, *parts[n + 1 :])
            for parts in {path.absolute().parent.parts for path in listed}
            for n, part in enumerate(parts)
            for other in self.beside.get(part, ())
        }
        return [path for other in sorted(others) if other.is_dir() for path in _listed(other)]


def _nnunet_kinds(path: Path) -> Mapping[str, str]:
    """`0000` and so on, as the nearest `dataset.json` says."""
    for folder in list(path.absolute().parents)[:2]:
        try:
            said = json.loads((folder / "dataset.json").read_text(encoding="utf-8-sig"))
            names = said.get("channel_names") or said["modality"]
            kinds = {f"{int(number):04}": known_channel(str(name)) for number, name in names.items()}
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        return kinds | {"labelstr": "target", "labelsts": "target", "labelsval": "target"}
    return {}


LAYOUTS = {  # in the order in which they are asked; a new one is a row here and one test
    "MSLesSeg": Layout(  # T1 and T2 are visits here; the test set has none, and its names tell enough
        (r"(?P<who>P\d+_T\d+)_(?P<kind>FLAIR|T1|T2|MASK)",),
        {"flair": "flair", "t1": "t1", "t2": "t2", "mask": "target"},
    ),
    "WMH 2017": Layout(
        (
            r"(?P<who>[^/]+/[^/]+)/(?P<kind>pre/FLAIR|pre/T1|wmh)",
            r"observer_(?P<rater>[^/]+)/\w+/(?:[^/]+/)*?(?P<who>[^/]+/[^/]+)/(?P<kind>result)",
        ),
        {"pre/flair": "flair", "pre/t1": "t1", "wmh": "target", "result": "rater"},
        sign=r"/wmh\.nii",
        beside={
            "pre": (".",),
            "training": ("additional_annotations/observer_o3/training", "additional_annotations/observer_o4/training"),
        },
        label=1,
        told="the scans in pre, and label 1 of wmh; label 2 (other pathology), orig and 3DT1 are left aside",
    ),
    "MS3SEG": Layout(
        (r"(?P<who>\d{3})_(?P<kind>FLAIR|T[12]WI(?:_reg)?|abWMH_Mask)",),
        {
            **{"flair": "flair", "t1wi_reg": "t1", "t1wi": "t1", "t2wi_reg": "t2", "t2wi": "t2"},
            "abwmh_mask": "target",
        },
        sign=r"/\d{3}_(T[12]WI|abWMH)",
        beside={"MS_100_patient_nifti": ("MS_100_patient_masks/abWMH_Masks",)},
        told="abnormal hyperintensities are the target, normal ones, ventricles and scans of other planes left aside",
    ),
    "MSSEG 2016": Layout(
        (
            r"(?P<who>(?:Center_\d+/)?[^/]+)/Preprocessed_Data/(?P<kind>FLAIR|T1|T2|DP|GADO)_preprocessed",
            r"(?P<who>(?:Center_\d+/)?[^/]+)/Masks/(?P<kind>Consensus|ManualSegmentation_\d+)",
        ),
        {
            **{"flair": "flair", "t1": "t1", "t2": "t2", "dp": "pd", "gado": "t1c", "consensus": "target"},
            **{f"manualsegmentation_{n}": "rater" for n in range(1, 10)},
        },
        sign="/Preprocessed_Data/",
        beside={"Preprocessed_Data": ("Masks",)},
        told="the scans in Preprocessed_Data, and the consensus, where there is one; Raw_Data is left aside",
    ),
    "ISBI 2015": Layout(
        (r"(?P<who>(?:training|test)\d+_\d+)_(?P<kind>(?:flair|mprage|t2|pd)(?:_pp)?|mask\d)",),
        {
            **{"flair_pp": "flair", "mprage_pp": "t1", "t2_pp": "t2", "pd_pp": "pd"},
            **{"flair": "flair", "mprage": "t1", "t2": "t2", "pd": "pd", "mask1": "rater", "mask2": "rater"},
        },
        beside={"preprocessed": ("masks",)},
        told="the preprocessed scans (_pp), where there are some; those of orig are left aside",
    ),
    "Shifts": Layout(
        (r"(?P<who>\d+)_(?P<kind>FLAIR|T1|MP2RAGE|T2|PD|T1CE|gt)_isovox",),
        {"flair": "flair", "t1": "t1", "mp2rage": "t1", "t2": "t2", "pd": "pd", "t1ce": "t1c", "gt": "target"},
        beside={"flair": ("gt", "t1", "mp2rage", "t2", "pd", "t1ce")},
        told="fg_mask is the brain and no lesion, and left aside",
    ),
    "the Mendeley set of 60 patients": Layout(
        (r"(?P<who>[^/]+)/\d+-(?P<kind>Flair|T1|T2|LesionSeg-Flair)",),
        {"flair": "flair", "t1": "t1", "t2": "t2", "lesionseg-flair": "target"},
        told="the lesions drawn on FLAIR are the target, those drawn on T1 and T2 left aside",
    ),
    "BraTS": Layout(
        (r"(?P<who>(?i:brats)[^/]*?)[-_](?P<kind>(?i:flair|t1ce|t1|t2|t1n|t1c|t2w|t2f|seg))",),
        {
            **{"flair": "flair", "t2f": "flair", "t1": "t1", "t1n": "t1", "t2": "t2", "t2w": "t2"},
            **{"t1ce": "t1c", "t1c": "t1c", "seg": "target"},
        },
    ),
    "nnU-Net": Layout(
        (r"(?P<who>[^/]+)_(?P<kind>\d{4})", r"(?P<kind>labels(?:Tr|Ts|Val))/(?P<who>[^/]+)"),
        _nnunet_kinds,
        beside={f"images{split}": (f"labels{split}",) for split in ("Tr", "Ts", "Val")},
    ),
}


def _patients(layout: Layout, listed: Sequence[Path]) -> dict[str, Path]:
    """Whose scans are listed, and where the first of them lies; nobody's if they are not of this layout."""
    found: dict[str, Path] = {}
    for path in listed:
        if (said := layout.meaning(path)) and said[1] not in ("target", "rater"):
            found.setdefault(said[0], path)
    signs = [*listed, *(layout.more(listed) if found and layout.sign else ())]
    return found if not layout.sign or any(re.search(layout.sign, path.absolute().as_posix()) for path in signs) else {}


def _word_of(folder: Path, who: str, patients: Mapping[str, Path]) -> Path:
    """The folder that holds this patient alone, or of files that lie together what they have in common."""
    scan = patients[who]
    inner = [place for place in scan.parents if place.is_relative_to(folder) and place != folder]
    alone = [place for place in inner if sum(path.is_relative_to(place) for path in patients.values()) == 1]
    return alone[-1] if alone else scan.parent / who.rpartition("/")[2]


def _by_layout(title: str, layout: Layout, who: str, listed: Sequence[Path]) -> Found:
    """The files of `who`, of a layout that knows them."""
    files: dict[str, dict[tuple[int, str], list[Path]]] = {}
    aside, told, raters, taken = False, [], {}, {}
    for path in dict.fromkeys([*map(Path.absolute, listed), *layout.more(listed)]):
        said = layout.meaning(path)
        aside |= said is None
        if said and said[0] == who:
            files.setdefault(said[1], {}).setdefault((said[2], said[3]), []).append(path)
    for kind, found in files.items():
        aside |= kind != "rater" and len(found) > 1
        for (_, rater), paths in sorted(found.items())[: None if kind == "rater" else 1]:
            path, remark = _one(paths)
            if path is None:
                raise ValueError(_two_of(kind, paths[0].parent, paths))
            (raters if kind == "rater" else taken)[rater if kind == "rater" else kind] = path
            told += [remark] if remark else []
    target, label = taken.pop("target", None), layout.label
    if not (target or raters) and len(_patients(layout, listed)) == 1:  # masks that are not the data set's own
        raters, drawn = _raters([p for p in listed if re.search(LESION, p.name) and kind_of(p.name) == "target"])
        target, label = drawn[0] if len(drawn) == 1 else None, None
        told += [f"{path.name}, no file of {title}, is taken for the lesions." for path in drawn if target]
        told += [f"No lesions are known: {_some(path.name for path in drawn)} could be they."] if drawn[1:] else []
    kinds = layout.kinds(next(iter(taken.values()))) if callable(layout.kinds) else layout.kinds
    order = list(kinds.values())
    images = {kind: taken[kind] for kind in sorted(taken, key=order.index)}
    remarks = (*([f"{_letters(who)} is read as {title}: {layout.told}."] if layout.told and aside else []), *told)
    return Found(_letters(who), images, target, raters, label, _optional(images), remarks)


def _optional(images: Iterable[str]) -> tuple[str, ...]:
    """Channels that may be left out: those beside the paper's."""
    known = [kind for kind in images if kind in SHIPPED]
    return tuple(kind for kind in images if known and kind not in known)


# Any other folder: what the names of its files say.

LESION = (
    r"(?i:lesion|gold|consensus|(?:ground.?|(?<![a-z]))truth|target|plaque|manual|(?<![a-z])(?:gt|wm[hl]|les)(?![a-z]))"
)
# A mask, and not said of what.
MASK = r"(?i:mask|(?<![a-z])(?:roi|seg(?:mentation)?|label|annotation|delineation)s?(?![a-z])|dseg)"
NO_LESION = (  # masks of the brain or of a tissue
    r"(?i:brain.?mask|(?:brain|bet|head|skull|fg|foreground|face|cortex|strip[a-z]*)[-_ ]?mask|mask[-_ ]?(?:brain|head)"
    r"|_pve|pveseg|mixeltype|a(?:parc|seg)|wmparc|tissue|ventric|vent[-_ ]?mask|n(?:ormal)?[-_ ]?wmh"
    r"|label-(?:gm|wm|csf)(?![a-z])|(?<![a-z])(?:gm|wm|csf|(?:white|gr[ae]y)[-_ ]?matter)[-_ ]?mask"
    r"|(?<![a-z])t1w?[-_]?(?:(?:brain|bet|biascorr|fast)[-_])*seg(?![a-z]))"
)
NO_SCAN = (  # what a program made of a scan, in which no expert drew and no lesion is left
    r"(?i:probseg|synthseg|samseg|seg-lst|lstai|(?<![a-z])(?:ples|lst)_|pred(?:iction)?(?![a-z])|fill(?:ed|ing)"
    r"|_\d?(?:inverse)?warp(?!ed)|inversewarped|jacobian|inv[-_]?[12](?!\d)|(?<![a-z])i?y_)"
    r"|(?<![A-Za-z])(?:[mwr]{0,3}c[1-6]|[mwr]{1,3}p[0-3]|p0)(?=T1|sub-|t1)"
)
RATER = (
    r"(?i)(?<![a-z])((?:rater|reader|observer|expert|annotat(?:or|ion)|manual[a-z]*|seg(?:mentation)?|mask)"
    r"[-_ ]?(?:\d+|[a-d]))(?![a-z0-9])"
)
SESSION = r"(?i)(ses|session|tp|time|timepoint|visit|v)?[-_]?\d+"  # which visit, not who: `ses-01`, `tp2`, `20190304`
BIDS = r"sub-([A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?"


def kind_of(name: str) -> str | None:
    """A channel, `target` or nothing; a BIDS name tells by its suffix, another by what it names first.

    The paper's channels come before the others, so that `T2_FLAIR` is FLAIR.
    """
    stem = re.sub(r"^sub-[A-Za-z0-9]+_", "sub-_", stem_of(name))
    words = [word for word in stem.split("_") if "-" not in word] if stem.startswith("sub-") else [stem]
    drawn = re.search(LESION, stem)
    if re.search(NO_SCAN, stem) or (not drawn and (re.search(NO_LESION, stem) or words == ["dseg"])):
        return None
    if drawn or re.search(MASK, stem):
        return "target"
    for rows in (SHIPPED, [row for row in CHANNELS if row not in SHIPPED]):
        starts = {row: m.start() for row in rows if (m := re.search(CHANNELS[row].pattern, "_".join(words)))}
        if starts:
            found = min(starts, key=lambda row: starts[row])
            return "t1c" if found == "t1" and "_ce-" in stem else found  # BIDS says contrast by an entity
    return None


def _by_names(folder: Path, listed: Sequence[Path]) -> Found:
    """One file of each channel and the lesions of the patient; channels beside the paper's are optional."""
    found: dict[str, list[Path]] = {kind: [] for kind in (*CHANNELS, "target")}
    known = [(kind, path) for path in listed if (kind := kind_of(path.name))]
    nifti = [(kind, path) for kind, path in known if _is_nifti(path)]
    for kind, path in nifti if any(kind != "target" for kind, _ in nifti) else known:
        found[kind].append(path)
    raters, drawn = _raters(found.pop("target"))
    held = {kind: _raw_first(paths, folder) for kind, paths in found.items() if paths}
    main = [kind for kind in held if kind in SHIPPED] or list(held)
    if not held:
        raise FileNotFoundError(_what_lacks(folder, listed))
    wanted = {kind: held[kind] for kind in main} | ({"target": drawn} if drawn else {})
    taken, told = _settle(folder, wanted)
    for kind in [kind for kind in held if kind not in main]:
        try:
            taken, more = _settle(folder, {name: [path] for name, path in taken.items()} | {kind: held[kind]})
            told += more
        except ValueError:
            told.append(f"{channel(kind).label} is left out: {_holds(folder, held[kind])}.")
    target = taken.pop("target", None)
    if not target and not raters and (masks := [p.name for p in listed if re.search(f"{MASK}|{NO_LESION}", p.name)]):
        told.append(f"No lesions are known: {_some(masks)} are no expert's lesion mask by their names.")
    if target and not re.search(f"{LESION}|(?i:mask|dseg)", target.name):
        told.append(f"{target.name} is taken for the lesions, by its name alone.")
    if nifti and (
        others := [p.name for _, p in known if not _is_nifti(p) and p.parent in {f.parent for _, f in nifti}]
    ):
        told.append(f"{_some(others)} beside NIfTI files is not read; name it as a file if it shall be.")
    images = {kind: taken[kind] for kind in CHANNELS if kind in taken}
    first = next(iter(images.values()))
    name = _bids_name(first.name) or plain_name(folder.resolve())
    return Found(name, images, target, raters, optional=_optional(images), remarks=tuple(told))


def _raters(drawn: Sequence[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Masks by rater, where their names differ in that alone, and those that are left; lesions before mere masks."""
    best = [path for path in drawn if re.search(LESION, path.name)] or list(drawn)
    named: dict[str, list[Path]] = {}
    for path in best:
        if match := re.search(RATER, _with_folder(path)):
            named.setdefault(match[1], []).append(path)
    others = {re.sub(RATER, "", _with_folder(path)) for paths in named.values() for path in paths}
    if len(named) < 2 or len(others) > 1 or any(len(paths) > 1 for paths in named.values()):
        return {}, best
    raters = {name: paths[0] for name, paths in named.items()}
    return raters, [path for path in best if path not in raters.values()]


def _with_folder(path: Path) -> str:
    return f"{path.parent.name}/{stem_of(path.name)}"


def _raw_first(paths: list[Path], folder: Path) -> list[Path]:
    """Scans before what lies under `derivatives`."""
    return [path for path in paths if "derivatives" not in path.relative_to(folder).parts] or paths


STRIPPED = r"[-_ ](?:brain|hd-?bet|bet\d?|[a-z]*strip[a-z]*|ss|mas(?:ked)?)(?![a-z])"
TREATED = (  # what tools put in front of or behind the name of a scan that they made anew
    rf"(?i)^[rwmsu]{{1,4}}(?=sub-|3D|T[12]|FLAIR)|{STRIPPED}"
    r"|[-_ ](?:(?:co)?reg(?:istered)?(?:to[a-z0-9]+)?|to[-_]?(?:flair|t[12]w?|mni)|mni[a-z0-9]*)(?![a-z])"
    r"|[-_ ]space-[a-z0-9]+"
    r"|[-_ ](?:n[34]|bias[a-z]*|restore|corrected|desc-[a-z0-9]+|pp|preproc[a-z]*|iso[a-z]*)(?![a-z])"
    r"|[-_ ](?:warped|resampled|resliced)(?![a-z])"
)


def _treatment(path: Path) -> frozenset[str]:
    return frozenset(match[0].lower().strip("-_ ") for match in re.finditer(TREATED, stem_of(path.name)))


def _settle(folder: Path, found: Mapping[str, list[Path]]) -> tuple[dict[str, Path], list[str]]:
    """One file for each kind and how it was chosen: on one grid, then treated alike, then skull-stripped.

    Only among copies of one scan that tools made of it; which of two runs, visits or patients is meant, nobody knows.
    """
    told, options = [], {}
    for kind, paths in found.items():
        path, remark = _one(paths)
        places = {path.parent / re.sub(TREATED, "", stem_of(path.name)).lower() for path in paths}
        if path is None and len(places) > 1:
            raise ValueError(_two_of(kind, folder, paths))
        options[kind], told = [path] if path else paths, told + ([remark] if remark else [])
    sets = [dict(zip(options, paths, strict=True)) for paths in product(*options.values())]
    if len(sets) == 1:
        return sets[0], told
    grids = {path: _grid(path) for paths in options.values() for path in paths}
    scans = [kind for kind in options if kind != "target"]
    why = ""
    for rule, fits in (
        ("on one grid", lambda one: _on_one_grid([grids[path] for path in one.values()])),
        ("treated alike", lambda one: len({_treatment(one[kind]) for kind in scans}) == 1),
        ("skull-stripped", lambda one: all(re.search(f"(?i){STRIPPED}", stem_of(one[kind].name)) for kind in scans)),
    ):
        kept = [one for one in sets if fits(one)] if len(sets) > 1 else []
        sets, why = (kept, rule) if kept else (sets, why)
    if len(sets) > 1:
        kind = next(kind for kind, paths in options.items() if len(paths) > 1)
        raise ValueError(_two_of(kind, folder, options[kind]))
    read = [path for kind, path in sets[0].items() if len(options[kind]) > 1]
    others = [path for paths in options.values() if len(paths) > 1 for path in paths if path not in read]
    it, they = ("it is", "is") if len(read) == 1 else ("they are", "are")
    names, aside = ", ".join(path.name for path in read), ", ".join(path.name for path in others)
    told.append(f"{names} {they} read, since {it} {why}, and not {aside}.")
    return sets[0], told


def _grid(path: Path) -> Any:
    try:
        return nibabel.load(path)
    except Exception:  # what is no image is told when it is read
        return None


def _on_one_grid(images: Sequence[Any]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how near they are is told when they are read
            for other in images[1:]:
                check_same_grid("scans", images[0], other, "")
    except (ValueError, AttributeError):
        return False
    return images[0] is not None


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _holds(folder: Path, paths: Sequence[Path]) -> str:
    names = [str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name for path in paths]
    return f"{folder} holds {len(paths)} ({_some(names)})"


def _two_of(kind: str, folder: Path, paths: Sequence[Path]) -> str:
    return (
        f"A folder must hold one {kind} image, {_holds(folder, paths)}; name a smaller folder, or the files by "
        f"{kind}=... and the like (--flair, --image NAME=FILE on the command line)."
    )


def _what_lacks(folder: Path, listed: Sequence[Path]) -> str:
    files = [] if listed else [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if other := next(((path, how) for path in files if (how := other_format(path))), None):
        path, how = other
        how = f"DICOM; {conversion(folder)}" if is_dicom(path) else how  # a scan is a folder of these
        return f"A subject needs its images as NIfTI, {path} is {how}."
    numbered = any(re.search(r"_\d{4}$", stem_of(path.name)) for path in listed)
    return (
        f"A subject needs an image; {folder} has no file named like {', '.join(CHANNELS)}"
        + (f" among {_some(path.name for path in listed)}" if listed else "")
        + (", nor the dataset.json that says what _0000 is" if numbered else "")
        + ". Name the files by flair=..., t1=... (--flair, --t1, --image NAME=FILE on the command line)."
    )


# What the patient is called.


def name_of_file(path: Path, name: str = "flair") -> str:
    """`p1` for `p1_FLAIR.nii.gz` of the channel `name`; where nothing is left, the folder's name."""
    rest = re.sub(channel(name).pattern, "", stem_of(path.name))
    named = Path(rest) if re.search("[A-Za-z0-9]", rest) else path.absolute().parent
    return _bids_name(path.name) or plain_name(named)


def _bids_name(name: str) -> str | None:
    """`p01` for `sub-p01_FLAIR.nii.gz`, `p01ses2` for `sub-p01_ses-2_FLAIR.nii.gz`: two sessions have two names."""
    bids = re.search(BIDS, name)
    return bids and bids[1] + (bids[2] or "").replace("-", "")


def plain_name(path: Path) -> str:
    """Letters and digits of a name, as BIDS wants them; `ROOT/p01/ses-2/FLAIR.nii.gz`, as published, is `p01ses2`."""
    if re.fullmatch(SESSION, path.name):
        return plain_name(path.parent) + _letters(path.name)
    return _bids_name(path.name) or _letters(path.name.split(".")[0]) or "subject"


def _letters(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", name)
