"""The folder that holds what was made of subjects: a BIDS derivative, the one place that knows its files.

    dataset_description.json, .bidsignore       that it is a derivative, and what a validator need not know
    maps.tsv                                    an index of all maps
    sub-<S>/anat/sub-<S>_label-lesion_probseg   the prediction
    sub-<S>/anat/sub-<S>_desc-<group>_dseg      lesions by their numbers, a file a group
    sub-<S>/anat/sub-<S>_desc-<map>L<number>_<suffix>   a map, a file a channel, and its sidecar

BIDS has no suffix for saliency, so `desc-` carries method, aggregation and lesion, and the suffix is the channel's
that the map is a gradient with respect to. A map of all channels at once has the first one's. A file is written beside
its place and renamed; a map is there when its last sidecar is.
"""

import csv
import fnmatch
import hashlib
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ies_helpers.arrays import Affine, LabelMap, Saliency, Volume, Voxels, check_same_grid, door
from ies_helpers.subjects.files import locked, read_text, remove_leftovers, replacing, write_text
from ies_helpers.subjects.nifti import read_image, read_values, save_image
from ies_helpers.subjects.sources import CHOICES, find_subject, load_subject
from ies_helpers.subjects.subject import SHIPPED, Subject, channel

# The folder itself, and where its files lie.

# What a BIDS validator need not know: the index, and what `ies` puts beside the maps of one folder.
IGNORED = ("maps.tsv", "**/lesions.tsv", "figures", "**/.running", "**/cohort.*", "**/perilesional*", "evaluation")
ALL = "all"  # the modality of a map of all channels at once
MAPS = "*_desc-*L[0-9]*_*.json"  # the sidecars of maps, in a subject's folder


def open_derivative(folder: Path) -> Path:
    """Make `folder` a BIDS derivative that can be written to, before long work; what a killed run left is removed."""
    folder = Path(folder)
    if folder.is_symlink() and not folder.exists():
        raise FileNotFoundError(f"{folder} is a link to {os.readlink(folder)}, which is not there; take another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(2**16))
        probe.flush()
    remove_leftovers(folder)
    made_by = [{"Name": "ies-helpers", "Version": versions()["ies-helpers"]}]
    description = {"Name": "Instance-level saliency maps", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    text = json.dumps(description | {"GeneratedBy": made_by}, indent=2) + "\n"
    path = folder / "dataset_description.json"
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
    _ignore(folder, IGNORED)
    return folder


def _ignore(folder: Path, patterns: Iterable[str]) -> None:
    """Let a BIDS validator ignore these patterns, beside those that it ignores already."""
    path = folder / ".bidsignore"
    known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = list(dict.fromkeys([*known, *patterns]))
    if lines != known:
        write_text(path, "\n".join(lines) + "\n")


def versions() -> dict[str, str]:
    """Versions of what a map depends on."""
    found = {}
    for package in ("ies-helpers", "torch", "monai", "numpy", "nibabel"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def subject_folder(folder: Path, name: str) -> Path:
    """`<folder>/sub-<name>/anat`."""
    return Path(folder) / f"sub-{name}" / "anat"


def groups_path(folder: Path, name: str, group: str) -> Path:
    """Where the numbered lesions of one group lie: `sub-<S>_desc-<group>_dseg.nii.gz`."""
    return subject_folder(folder, name) / f"sub-{name}_desc-{group.lower()}_dseg.nii.gz"


def map_path(folder: Path, subject: str, description: str, modality: str) -> Path:
    """`sub-<S>/anat/sub-<S>_<entities of the channel>_desc-<method><aggregate>L<number>_<suffix>.nii.gz`."""
    row = channel(modality)
    parts = [f"sub-{subject}", *([row.entities] if row.entities else []), f"desc-{description}", row.suffix]
    return subject_folder(folder, subject) / f"{'_'.join(parts)}.nii.gz"


def sidecar(path: Path) -> Path:
    """The JSON beside a `.nii.gz`."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


# How a map was made: what its sidecar says, and what makes two maps the same.


@dataclass(frozen=True)
class MapRecord:
    """How one map was made; equal records mean equal maps. None is what the method does not have."""

    subject: str
    network: str
    digest: str  # of the network's weights
    lesion: int
    group: str
    voxels: int
    method: str
    through: str  # `whole` or `windows`, which function of the image was differentiated
    unit: str
    aggregate: str | None = None
    draws: int | None = None
    seed: int | None = None
    noise: float | None = None
    sigma: float | None = None  # standard deviation of the noise, in z-scored intensity
    windows: str | None = None  # their size, overlap and weighting
    layer: str | None = None  # that Grad-CAM read
    statistics: str = "exact"  # `frozen` if far fields were left out, an approximation
    accuracy: float | None = None  # relative error allowed to the voxels' gradients; None: exact, or as it came
    image: str | None = None  # see `fingerprint`
    tolerance: float | None = None  # relative standard error of the peak at which draws ended; None: a number of draws
    settings: dict[str, Any] | None = None  # what else it was given, as the baseline of integrated gradients

    @property
    def description(self) -> str:
        """The `desc-` entity: letters and digits, such as `smoothgradmaxL003`."""
        method = self.method.replace("+", "p").replace("-", "")
        frozen = "frozen" if self.statistics == "frozen" else ""
        return f"{method}{self.aggregate or ''}{frozen}L{self.lesion:03d}"


def pixels_of(image: Volume) -> str:
    """SHA-256 of an image's values."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def values_of(values: np.ndarray) -> str:
    """16 hexadecimal digits that tell the values of one image of a map from any others."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()[:16]


def fingerprint(pixels: str, voxels: Voxels) -> str:
    """What tells a lesion from any other, whatever its number: of the image (`pixels_of`) and of its voxels."""
    return hashlib.sha256(pixels.encode() + voxels.astype(np.int64).tobytes()).hexdigest()[:16]


# Maps written, and whether they are there.


@door
def save_map(
    folder: Path, subject: Subject, saliency: Saliency, record: MapRecord, notes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write a saliency map, one NIfTI and one sidecar for each channel, whole or not at all; gives the images' paths.

    Args:
        folder: the derivative's root; see `open_derivative`.
        subject: gives channels, affine and header.
        saliency: `(C, I, J, K)`, one map a channel, or `(1, I, J, K)` for a map of all at once.
        record, notes: go into the sidecar; the notes are such as the command line.
    """
    if tuple(saliency.shape[1:]) != subject.shape or not bool(torch.isfinite(saliency).all()):
        raise ValueError(
            f"A map must be finite and on the subject's grid {subject.shape}, got {tuple(saliency.shape)} with "
            f"{int((~torch.isfinite(saliency)).sum())} values that are not finite."
        )
    at_once = len(saliency) == 1 and (len(subject.channels) > 1 or record.layer is not None)
    modalities = (ALL,) if at_once else subject.channels
    if len(saliency) != len(modalities):
        raise ValueError(
            f"A map must have one channel for each of {', '.join(subject.channels)}, or one for all, got "
            f"{len(saliency)}; give the subject with the network's channels."
        )
    _ignore(Path(folder), [f"**/*_{channel(name).suffix}.*" for name in subject.channels if not channel(name).bids])
    paths, scan = _paths(folder, subject, record, modalities), subject.scan
    for path, modality, values in zip(paths, modalities, saliency, strict=True):
        save_image(path, values.numpy().astype(np.float32), subject)
        details = asdict(record) | {
            "Description": f"{record.method} saliency map of lesion {record.lesion}",
            "SkullStripped": False,  # nothing was set to zero outside the brain
            "modality": modality,
            "channels": subject.channels,
            "status": "ok" if bool(values.any()) else "empty",
            "minimum": float(values.min()),
            "maximum": float(values.max()),
            "path": str(path.relative_to(folder)),
            "values": values_of(values.numpy()),  # of this image
            "source": {key: portable(word) for key, word in subject.source.items()},
            "source_from_here": _from_here(Path(folder), subject.source),  # the same paths, seen from the folder
            "scan": scan,
            "background": {name: subject.background.get(name, "unknown") for name in subject.channels},
            "versions": versions(),
            **(notes or {}),
        }
        write_text(sidecar(path), json.dumps(details, indent=2) + "\n")
    return paths


def _paths(folder: Path, subject: Subject, record: MapRecord, modalities: Sequence[str]) -> list[Path]:
    """The images of a map, one a modality; one of all channels at once has the first channel's suffix."""
    names = [subject.channels[0] if modality == ALL else modality for modality in modalities]
    return [map_path(folder, record.subject, record.description, name) for name in names]


def finished(folder: Path, subject: Subject, record: MapRecord) -> bool:
    """Whether the map of `record` is there, whole; another one of its name is refused."""
    for modalities in (subject.channels, (ALL,)):
        paths = _paths(folder, subject, record, modalities)
        if all(path.is_file() and sidecar(path).is_file() for path in paths):
            saved = [read_record(sidecar(path)) for path in paths]
            if [s["modality"] for s in saved] == list(modalities):
                return all(_same(path, s, record, subject) for path, s in zip(paths, saved, strict=True))
    return False


def _same(path: Path, saved: dict[str, Any], record: MapRecord, subject: Subject) -> bool:
    wanted = asdict(record)
    if record.tolerance is not None:  # the draws decided how many they are
        wanted["draws"] = saved.get("draws")
    if record.statistics == "exact" and saved.get("accuracy") is None:  # an exact map will do for any accuracy
        wanted["accuracy"] = None
    if other := [f"{k} {saved.get(k)} instead of {v}" for k, v in wanted.items() if saved.get(k) != v]:
        made = f"{path.name} in {path.parent} was made with {', '.join(other)}"
        raise ValueError(f"A folder holds one map of a name; {made}. Take another --out.")
    _check_place(read_image(path, "map's"), subject)
    return True


def _check_place(image: Any, subject: Subject) -> None:
    """Refuse an image of an earlier run where the subject lies elsewhere now."""
    remedy = "a folder holds one set of lesions a subject, so take another --out"
    check_same_grid(f"{image.get_filename()} and {subject.name} as it is now", image, subject, remedy)


# Lesions: those of a prediction, and those that no prediction of ours numbered (masks drawn by hand, controls).


def save_lesions(folder: Path, subject: Subject, probability: torch.Tensor, labels: dict[str, torch.Tensor]) -> None:
    """Write the probability map `(I, J, K)`, and for each group in `labels` a map of its lesions' numbers.

    Controls (TN) that `explain` wrote stay: no prediction numbers them.
    """
    anat = subject_folder(folder, subject.name)
    wanted = {groups_path(folder, subject.name, g): n.numpy().astype(np.int16) for g, n in labels.items()}
    here = set(numbered(folder, subject.name)) - {groups_path(folder, subject.name, "TN")}
    if any(anat.glob(MAPS)) and (
        any((read_numbers(path, subject) != wanted.get(path, 0)).any() for path in here) or here != set(wanted)
    ):
        raise ValueError(
            f"A folder holds one set of lesions a subject, {folder} has maps of other lesions of {subject.name} "
            "(another network, threshold, image or target). Take another --out."
        )
    for stale in here - set(wanted):
        stale.unlink()
    path = anat / f"sub-{subject.name}_label-lesion_probseg.nii.gz"
    save_image(path, probability.numpy().astype(np.float32), subject)
    for path, numbers in wanted.items():
        save_image(path, numbers, subject)


def numbered(folder: Path, name: str) -> list[Path]:
    """The files of a subject's numbered lesions, one a group, in a folder."""
    return sorted(subject_folder(folder, name).glob(f"sub-{name}_desc-*_dseg.nii.gz"))


def read_numbers(path: Path, subject: Subject) -> np.ndarray:
    """`(I, J, K)` numbers of lesions that an earlier run wrote."""
    image = read_image(path, "lesions'")
    _check_place(image, subject)
    return read_values(image, "lesions'").astype(np.int16)


def add_lesions(folder: Path, subject: Subject, lesions: Iterable[tuple[int, str, Voxels]]) -> None:
    """Write lesions, each a number, a group and voxels, beside those that the folder holds; all of them, or none."""
    held = {path: read_numbers(path, subject) for path in numbered(folder, subject.name)}
    changed = set()
    for number, group, voxels in lesions:
        path, at = groups_path(folder, subject.name, group), tuple(voxels.T)
        numbers = held.setdefault(path, np.zeros(subject.shape, dtype=np.int16))
        size = int((numbers == number).sum())
        same = size == len(voxels) and bool((numbers[at] == number).all())
        free = size == 0 and not numbers[at].any() and not any((other == number).any() for other in held.values())
        if not same and not free:
            raise ValueError(
                f"A folder holds one set of lesions a subject, {folder} has another lesion {number} of {subject.name}, "
                "or one in its place. Take another --out."
            )
        if free:
            numbers[at] = number
            changed.add(path)
    for path in changed:
        save_image(path, held[path], subject)


# The index of all maps.

INDEX = ["subject", "network", "lesion", "group", "method", "aggregate", "draws", "seed", "modality", "path"]
WHOLE = ("lesion", "draws", "seed")  # columns of whole numbers
_HEADER = "\t".join(INDEX) + "\n"
_MARK = 10**6  # nanoseconds of which an index of ours has a whole number, and another's by chance alone


def write_index(folder: Path, *, anew: bool = False) -> None:
    """Bring `maps.tsv` up to date: one row a map, from the sidecars of all finished maps.

    Only folders that it does not list, or that changed since it was begun, are read (`anew`: all), and rows are
    appended unless some must go. Its time is when it was begun, in whole milliseconds: after a writer that was
    interrupted, or somebody's edit, it has another, and is written anew.
    """
    path = Path(folder) / "maps.tsv"
    with suppress(FileExistsError), path.open("x") as empty:
        empty.write(_HEADER)
    with locked(path):
        with tempfile.TemporaryFile(dir=folder) as probe:  # the file system's clock, before anything is looked at
            begun = os.fstat(probe.fileno()).st_mtime_ns // _MARK * _MARK
        text, written = path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime_ns
        if anew or written % _MARK or not text.startswith(_HEADER):
            text, written = _HEADER, 0
        listed, stamps = set(re.findall(r"\n([^\t]+)", text)), {}
        for name in fnmatch.filter(os.listdir(folder), "sub-*"):
            with suppress(FileNotFoundError, NotADirectoryError):
                stamps[name[4:]] = os.stat(f"{folder}/{name}/anat").st_mtime_ns  # of many, paths are slow
        read = [name for name, stamp in stamps.items() if stamp >= written or name not in listed]
        rows = {name: _index_rows(f"{folder}/sub-{name}/anat") for name in read}
        for name in rows.keys() & listed:
            if text.count(f"\n{name}\t") == len(rows[name]) and "".join(rows[name]) in text:
                del rows[name]  # listed as it is
        lost = (rows.keys() & listed) | (listed - stamps.keys())
        new = [line for name in sorted(rows) for line in rows[name]]
        if not written or lost or not _append(path, "".join(new), begun):
            old = [line for line in text.splitlines(keepends=True)[1:] if line.partition("\t")[0] not in lost]
            with replacing(path) as part:
                rows = sorted([*old, *new], key=lambda line: line.rpartition("\t")[2])
                part.write_text(_HEADER + "".join(rows), encoding="utf-8")
                os.utime(part, ns=(begun, begun))


def _append(path: Path, lines: str, begun: int) -> bool:
    """Add lines to the index, all of them or none; False where that is another user's."""
    size = path.stat().st_size
    try:
        with path.open("a", encoding="utf-8") as index:
            index.write(lines)
        os.utime(path, ns=(begun, begun))
    except PermissionError:
        return False
    except BaseException:
        os.truncate(path, size)
        raise
    return True


def _index_rows(anat: str) -> list[str]:
    """Lines of the index for the sidecars in a folder."""
    found = [read_record(Path(anat, name)) for name in sorted(fnmatch.filter(os.listdir(anat), MAPS))]
    lines = io.StringIO()
    rows = (["n/a" if row.get(column) is None else row[column] for column in INDEX] for row in found)
    csv.writer(lines, delimiter="\t", lineterminator="\n").writerows(rows)
    return lines.getvalue().splitlines(keepends=True)


def read_index(folder: Path) -> pd.DataFrame:
    """`maps.tsv` as a table."""
    kinds: Any = dict.fromkeys(INDEX, "object") | dict.fromkeys(WHOLE, "Int64")
    return pd.read_csv(Path(folder) / "maps.tsv", sep="\t", dtype=kinds, na_values="n/a", keep_default_na=False)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as TSV; see `as_tsv`."""
    write_text(path, as_tsv(table))


def as_tsv(table: pd.DataFrame) -> str:
    """A table as TSV, `n/a` where there is no value (BIDS)."""
    return table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")


# Maps read back: what the folder holds, whose lesions they are of, and who was looked at.

# what a sidecar must say
NEEDED = ("subject", "network", "digest", "lesion", "group", "voxels", "method", "through", "unit", "modality")


@dataclass(frozen=True, eq=False)
class SavedMap:
    """One map in a folder: the sidecar of its first channel, and its images, one a modality."""

    folder: Path
    record: dict[str, Any]
    images: tuple[Path, ...]
    modalities: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What its files' names share: `sub-demo_desc-smoothgradmaxL003`."""
        return f"{self.images[0].name.partition('_')[0]}_desc-{_description(self.images[0].name)}"

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of the image that it explains, in their order."""
        return channels_of(self.record)

    @property
    def title(self) -> str:
        """`patient26, lesion 3 (TP, 107 voxels)`."""
        return "{subject}, lesion {lesion} ({group}, {voxels} voxels)".format_map(self.record)

    def open(self) -> tuple[list[Any], Any]:
        """Its images and the lesions of its group, their values not yet read."""
        where = groups_path(self.folder, self.record["subject"], self.record["group"])
        if not where.is_file():
            remedy = "explain the lesion again into the same folder, which writes what lacks"
            raise FileNotFoundError(f"A map needs its lesion beside it, there is no {where}; {remedy}.")
        files, labels = [read_image(path, "map's") for path in self.images], read_image(where, "lesions'")
        for path, other in zip((*self.images[1:], where), (*files[1:], labels), strict=True):
            what = f"Map and lesions, {self.images[0].name} and {path.name},"
            check_same_grid(what, files[0], other, "explain the subject anew in another folder")
        return files, labels

    def load(self) -> tuple[Saliency, LabelMap, Affine]:
        """The map `(C, I, J, K)`, where its lesion is `(I, J, K)`, and their affine."""
        files, labels = self.open()
        values = [read_values(file, "map's").astype(np.float32) for file in files]
        for path, one in zip(self.images, values, strict=True):
            if not np.isfinite(one).all():
                raise ValueError(f"A map must be finite, {path.name} is not; delete it and explain the lesion again.")
            _check_told(path, one)
        mask = read_values(labels, "lesions'") == self.record["lesion"]
        if (held := int(mask.sum())) != self.record["voxels"]:
            met = f"{self.title} has {held} voxels in {Path(labels.get_filename() or '').name}"
            raise ValueError(f"A map must be of a lesion that is there; {met}. Explain it anew in another folder.")
        return torch.from_numpy(np.stack(values)), torch.from_numpy(mask), np.asarray(files[0].affine, dtype=np.float64)


def read_maps(folders: Path | Iterable[Path], subject: str = "*") -> list[SavedMap]:
    """The finished maps of folders, of one subject or all, by subject and lesion; one being written is left out."""
    given = [Path(folders)] if isinstance(folders, str | os.PathLike) else [Path(f) for f in folders]
    maps = []
    for folder in {path.resolve(): path for path in given}.values():
        found = [_read(folder, path) for path in sorted(folder.glob(f"sub-{subject}/anat/{MAPS}"))]
        if not found:
            raise FileNotFoundError(f"A folder must hold maps made by `ies explain`, {folder} holds none.")
        maps += [saved for saved in found if saved is not None]
    for saved in maps:
        saved.open()
    return sorted(maps, key=lambda saved: (saved.record["subject"], saved.record["lesion"]))


def _read(folder: Path, path: Path) -> SavedMap | None:
    """The map whose first sidecar `path` is; None for the sidecars of its other channels, and while some lack."""
    record = read_record(path)
    lacking = [key for key in NEEDED if not isinstance(record, dict) or record.get(key) is None]
    if lacking:
        raise ValueError(f"A sidecar must say how its map was made, {path} has no {', '.join(lacking)}.")
    modalities = (ALL,) if record["modality"] == ALL else channels_of(record)
    if record["modality"] != modalities[0]:
        return None
    name, description = path.parents[1].name.removeprefix("sub-"), _description(path.name)
    others = tuple(map_path(folder, name, description, modality) for modality in modalities[1:])
    images = (path.with_name(f"{path.stem}.nii.gz"), *others)
    return SavedMap(folder, record, images, modalities) if all(sidecar(i).is_file() for i in images) else None


def read_record(path: Path) -> Any:
    """What a sidecar says."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"A sidecar must be JSON, {path} is damaged ({error}); explain the lesion again.") from error


def channels_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The channels of the image that a map explains, in their order; sidecars of old, which do not say, had two."""
    return tuple(record.get("channels", SHIPPED))


def _description(name: str) -> str:
    """`smoothgradmaxL003` of a map's file."""
    return name.partition("_desc-")[2].rpartition("_")[0]


def _check_told(path: Path, values: np.ndarray) -> None:
    """Refuse an image of a map that is not the one its sidecar tells of; those of old tell its ends alone."""
    record = read_record(sidecar(path))
    ends = [record.get(key, end) for key, end in (("minimum", float(values.min())), ("maximum", float(values.max())))]
    same = values_of(values) == record["values"] if "values" in record else ends == [values.min(), values.max()]
    if not same:
        rule = "A map must be the one that its sidecar tells of"
        raise ValueError(f"{rule}, {path.name} was changed afterwards; delete both and explain the lesion again.")


# Who was looked at, found again: where the scan lay, at the same place seen from the folder, or where one says.


def portable(word: Any) -> Any:
    """A word for a sidecar: a file's name in UTF-8, whatever encoding the system has."""
    return os.fsencode(word).decode("utf-8", "surrogateescape") if isinstance(word, str) else word


def _local(word: Any) -> Any:
    """And back."""
    return os.fsdecode(word.encode("utf-8", "surrogateescape")) if isinstance(word, str) else word


def _from_here(folder: Path, source: Mapping[str, Any]) -> dict[str, str]:
    """The paths among the words of a source, relative to the folder, which may be moved with them."""
    found = {}
    for key, word in source.items():
        if isinstance(word, str) and os.path.isabs(word):
            with suppress(ValueError):  # on another drive
                found[key] = portable(Path(os.path.relpath(os.path.realpath(word), folder.resolve())).as_posix())
    return found


class Scans:
    """The subjects that maps are of, loaded again; the last one is kept.

    `subjects` say where scans lie that are no longer where they were: words as `load_subject` takes them.
    """

    def __init__(self, subjects: Sequence[str] = ()) -> None:
        self._words = {word: find_subject(word).name for word in subjects}
        self._source: dict[str, Any] | None = None
        self._subject: Subject | None = None
        self._told: set[str] = set()

    def __call__(self, saved: SavedMap) -> Subject:
        """The subject of a map, which must be the one that was explained."""
        name, source = saved.record["subject"], self._source_of(saved)
        if self._subject is None or source != self._source:
            self._subject, self._source = load_subject(**source), source
        shape, now = tuple(read_image(saved.images[0], "map's").shape), self._subject.shape
        if shape != now:
            met = f"The maps of {name} have the grid {shape}, its scan is now {now}"
            raise ValueError(f"{met}; explain it anew in another folder.")
        subject = self._subject.with_channels(saved.channels)
        if (scan := saved.record.get("scan")) and scan != subject.scan:
            raise ValueError(
                f"The maps of {name} are of another scan than {', '.join(map(str, source.values()))} is now; explain "
                "it anew in another folder, or say by --subject where the one that was explained lies."
            )
        return subject

    def notice(self, saved: SavedMap) -> None:
        """Warn, once a subject, where the scan of a map is there and is another one now."""
        name, record = saved.record["subject"], saved.record
        if name in self._told or not (record.get("scan") and record.get("source_from_here")):
            return
        try:
            self(saved)
        except FileNotFoundError:  # nothing is asked of it
            return
        except ValueError as error:
            self._told.add(name)
            warnings.warn(f"{error} What its maps measure is of the scan before.", stacklevel=3)

    def _source_of(self, saved: SavedMap) -> dict[str, Any]:
        """The arguments of `load_subject`, as far as one can say."""
        name = saved.record["subject"]
        source = {key: _local(word) for key, word in (saved.record.get("source") or {}).items()}
        chosen = {key: word for key, word in source.items() if key in CHOICES}
        if named := [word for word, found in self._words.items() if found == name]:
            return {"subject": named[0]} | chosen
        if not source and not self._words:
            raise ValueError(f"{name} was made in memory and cannot be loaded again; draw its maps with plot_saliency.")
        here = {key: _local(word) for key, word in (saved.record.get("source_from_here") or {}).items()}
        moved = source | {key: os.path.realpath(saved.folder / word) for key, word in here.items()}
        for tried in (source, moved) if source else ():
            if not _lost(tried):
                return tried
        if len(self._words) == 1:
            return {"subject": next(iter(self._words))} | chosen
        raise FileNotFoundError(
            f"The scan of {name} must lie where it was explained, there is no {', '.join(_lost(source))}; say by "
            "--subject where it lies now."
        )


def _lost(source: Mapping[str, Any]) -> list[str]:
    """The paths of a source that are not there."""
    words = [word for word in source.values() if isinstance(word, str) and os.path.isabs(word)]
    return [word for word in words if not os.path.exists(word)]
