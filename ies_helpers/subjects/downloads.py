"""From a row of `data/registry.toml` to a verified local file.

`IES_CACHE` moves the cache folder, `IES_MIRROR` names a copy of such a folder (`http://`, `https://` or `file://`)
that is asked before the addresses of the registry. A file lies at `<cache>/<group>/<path in its repository>`.
"""

import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import time
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pooch
import requests
from tqdm.auto import tqdm

from ies_helpers.subjects.files import data_folder, one_line, remove_leftovers, replacing

# Expected files out of a foreign archive.

LARGEST = 2**30  # bytes that a member may unpack to: no network here comes near, a decompression bomb goes far beyond

# What the standard library raises for a damaged archive (RuntimeError: an encrypted zip).
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError)


def extract_member(archive: Path, pattern: str, destination: Path) -> Path:
    """Copy the one file of `archive` (tar or zip) whose name matches `pattern`, such as `*.pth`, to `destination`.

    Nothing is written under a name that the archive chose, and nothing where its content lies already, so that a
    read-only folder with the file in it serves too.
    """
    try:
        content = _read_zip(archive, pattern) if archive.suffix == ".zip" else _read_tar(archive, pattern)
    except BROKEN as error:
        raise _no_archive(archive, error) from error
    if not (destination.is_file() and destination.read_bytes() == content):
        with replacing(destination) as part:
            part.write_bytes(content)
    return destination


def extract_members(archive: Path, pattern: str, folder: Path) -> list[Path]:
    """Copy the files of a zip whose name `pattern` matches at its end to that end of the name, below `folder`.

    A file that lies there in its size is left alone.
    """
    places = []
    try:
        with zipfile.ZipFile(archive) as container:
            for name, size in _harmless(archive, _zip_members(container)).items():
                if (match := re.search(rf"(?:^|/)({pattern})$", name)) is None:
                    continue
                place = folder / match[1]
                if not (place.is_file() and place.stat().st_size == size):
                    _check_size(archive, name, size)
                    with replacing(place) as part:
                        part.write_bytes(container.read(name))
                places.append(place)
    except BROKEN as error:
        raise _no_archive(archive, error) from error
    return places


def _no_archive(archive: Path, error: Exception) -> ValueError:
    why = one_line(error) or type(error).__name__
    return ValueError(f"{archive} is no intact archive ({why}): delete it and fetch it again")


def _read_tar(archive: Path, pattern: str) -> bytes:
    with tarfile.open(archive) as container:
        members = [(m.name, m.size, m.isfile(), m.isdir()) for m in container]
        stream = container.extractfile(_choose_member(archive, pattern, members))
        assert stream is not None, "a regular file has content"
        assert container.fileobj is not None, "the archive is open"
        content = stream.read()
        while container.fileobj.read(2**20):  # to the end, where gzip keeps its check sum
            pass
        return content


def _read_zip(archive: Path, pattern: str) -> bytes:
    with zipfile.ZipFile(archive) as container:
        return container.read(_choose_member(archive, pattern, _zip_members(container)))


def _zip_members(container: zipfile.ZipFile) -> list[tuple[str, int, bool, bool]]:
    kinds = [(m, stat.S_IFMT(m.external_attr >> 16)) for m in container.infolist()]  # 0 when made outside Unix
    return [(m.filename, m.file_size, kind in (0, stat.S_IFREG), m.is_dir()) for m, kind in kinds]


def _harmless(archive: Path, members: Iterable[tuple[str, int, bool, bool]]) -> dict[str, int]:
    """Name and size of members (name, size, file?, folder?) that are files; any that may do harm condemns them all."""
    sizes = {}
    for name, size, is_file, is_folder in members:
        path = PureWindowsPath(name)  # splits at both slashes and knows drive letters
        if path.anchor or ".." in path.parts:
            raise ValueError(f"an archive may hold relative names only, {archive} holds {name!r}: avoid it")
        if not (is_file or is_folder):
            raise ValueError(f"an archive may hold files only, {name!r} in {archive} is a link or device")
        if not is_folder:
            sizes[name] = size
    return sizes


def _choose_member(archive: Path, pattern: str, members: Iterable[tuple[str, int, bool, bool]]) -> str:
    """The one name that matches, of members that may do no harm."""
    sizes = _harmless(archive, members)
    bases = {name: PureWindowsPath(name).name for name in sizes}
    found = [name for name, base in bases.items() if fnmatch(base, pattern) and not base.startswith(".")]
    if len(found) != 1:  # hidden files (macOS leaves `._name`) do not count
        held = f"{len(found)} ({', '.join(sorted(sizes)[:5])})"
        raise ValueError(f"{archive} must hold one file {pattern}, it holds {held}: unpack it and give the file")
    _check_size(archive, found[0], sizes[found[0]])
    return found[0]


def _check_size(archive: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"{name} in {archive} may unpack to {LARGEST} bytes, not {size}")


# One row of the registry.

TIMEOUT = 20.0  # seconds without a byte
ROUNDS = 2  # times the list of addresses is gone through
PAUSE = 1.0  # seconds between two rounds


@dataclass(frozen=True)
class RemoteFile:
    """One file of one registry row: where it comes from, where it lies, how it is recognised."""

    name: str
    kind: str
    group: str
    path: str
    bases: tuple[str, ...] = ()
    git: str | None = None
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    size: int | None = None
    member: str | None = None
    address: str | None = None  # where it is, in place of a base and its path

    @property
    def local(self) -> Path:
        """Its place in the cache."""
        return cache_folder() / self.group / self.path

    @property
    def addresses(self) -> list[str]:
        """Where to ask, in order: the mirror of `IES_MIRROR`, then the registry's."""
        mirror = os.environ.get("IES_MIRROR", "").rstrip("/")
        if mirror and not mirror.startswith(("http://", "https://", "file://")):
            raise ValueError(f"IES_MIRROR must start with http://, https:// or file://, not {mirror!r}")
        bases = [f"{mirror}/{self.group}"] if mirror else []
        own = [self.address] if self.address else []
        return [*(f"{base}/{quote(self.path)}" for base in (*bases, *self.bases)), *own]


def cache_folder() -> Path:
    """Where downloads are kept: `IES_CACHE`, else the operating system's cache folder for `ies-helpers`."""
    return Path(os.environ.get("IES_CACHE") or pooch.os_cache("ies-helpers")).expanduser().absolute()


def fetch(name: str) -> dict[str, Path]:
    """The files of one registry row by kind, downloaded where the cache lacks them, each verified.

    Args:
        name: as listed by `available`, such as `openms:patient26`, `published:unet` or `agg2exp`. Kinds are `flair`,
            `t1` and `target` of a patient, `checkpoint` of a network (taken out of its archive), `table` of a table;
            of a patient of a data set, as `mslesseg:P1/T1`, the names of its files.
    """
    rows = _registry()
    key, _, item = name.partition(":")
    if item and "item" in (dataset := _groups().get(key, {})):
        return _fetch_item(key, item, dataset)
    if name not in rows:
        near = ", ".join(get_close_matches(name, rows)) or f"{next(iter(rows))} or another of {len(rows)}"
        raise ValueError(f"{name!r} is no name to fetch: try {near} (`ies fetch --list` shows all)")
    return {file.kind: _place(file) for file in rows[name][1]}


def available() -> list[dict[str, Any]]:
    """One row for each name; of a data set one for all its patients, under an example.

    `bytes` is None where not known, `cached` looks at presence and size, not at the hash; `good_for` and `split` are of
    the whole data set.
    """
    rows = [
        {
            "name": name,
            "what": group["what"].format(item=name.partition(":")[2]),
            "bytes": sum(f.size or 0 for f in files) if all(f.size for f in files) else None,
            "licence": group["licence"],
            "cached": all(f.local.is_file() and f.size in (None, f.local.stat().st_size) for f in files),
        }
        | {fact: group.get(fact, "") for fact in FACTS}
        for name, (group, files) in _registry().items()
    ]
    for key, group in _groups().items():
        if "item" in group:
            facts = {fact: group.get(fact, "") for fact in ("what", "licence", *FACTS)}
            here = any((cache_folder() / key).rglob("*.nii*"))
            rows.append({"name": f"{key}:{group['example']}", "bytes": None, "cached": here} | facts)
    return rows


FACTS = ("size", "good_for", "split")  # of a group, in words


def mismatch(path: Path, file: RemoteFile) -> str | None:
    """What tells `path` from `file`, in a few words; None if size and hash agree."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"{size} bytes instead of {file.size}"
    with path.open("rb") as stream:
        for label, algorithm, wanted in (
            ("SHA-256", "sha256", file.sha256),
            ("SHA-1", "sha1", file.sha1),
            ("MD5", "md5", file.md5),
        ):
            if wanted:
                digest = hashlib.file_digest(stream, partial(hashlib.new, algorithm, usedforsecurity=False))
                return None if digest.hexdigest() == wanted.lower() else f"another {label}"
        if not file.git:  # nothing is known to compare it with
            return None
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)  # how git names a file's content
        return None if hashlib.file_digest(stream, lambda: blob).hexdigest() == file.git else "another git blob hash"


def _registry() -> dict[str, tuple[dict[str, Any], list[RemoteFile]]]:
    """Name to its group's facts and its files, in the order of `data/registry.toml`."""
    registry = _read_registry()
    rows = {}
    for name, row in registry["row"].items():
        key, _, item = name.partition(":")
        group = registry["group"][key]
        paths = {kind: path.format(item=item) for kind, path in group["paths"].items()}
        bases = tuple(group["bases"])
        rows[name] = group, [RemoteFile(name, k, key, paths[k], bases, **facts) for k, facts in row.items()]
    return rows


def _read_registry() -> dict[str, Any]:
    return tomllib.loads((data_folder() / "registry.toml").read_text(encoding="utf-8"))


def _groups() -> dict[str, dict[str, Any]]:
    return _read_registry()["group"]


# One patient of a data set that a repository keeps: its record lists files, sizes and check sums.


def _figshare(record: Any) -> list[RemoteFile]:
    return [
        RemoteFile(
            "", "file", "", f["name"], size=f["size"], md5=f.get("computed_md5") or None, address=f["download_url"]
        )
        for f in record["files"]
    ]


def _dataverse(record: Any) -> list[RemoteFile]:
    found = []
    for entry in record["data"]["latestVersion"]["files"]:
        data, said = entry["dataFile"], entry["dataFile"].get("checksum") or {}
        path = "/".join(part for part in (entry.get("directoryLabel"), entry["label"]) if part)
        sums = {said.get("type", "MD5").replace("-", "").lower(): said.get("value") or data.get("md5")}
        known = {name: value for name, value in sums.items() if name in ("md5", "sha1", "sha256")}
        address = f"/api/access/datafile/{int(data['id'])}"
        found.append(RemoteFile("", "file", "", path, size=data["filesize"], address=address, **known))
    return found


RECORDS: Mapping[str, Callable[[Any], list[RemoteFile]]] = {"figshare": _figshare, "dataverse": _dataverse}


def _fetch_item(key: str, item: str, group: Mapping[str, Any]) -> dict[str, Path]:
    """The files of one patient by their path in the data set, downloaded where the cache lacks them."""
    name, folder = f"{key}:{item}", cache_folder() / key
    if not re.fullmatch(group["item"], item) or ".." in item.split("/"):
        raise ValueError(f"{name!r} is no name to fetch: {key} has {group['split']}")
    pattern = group["files"].format(item=re.escape(item))
    if "archive" in group:
        archive, here = folder / group["archive"], _here(folder, pattern)
        if archive.is_file() or not here:  # else a patient may be there in part
            extract_members(archive if here else _whole(key, group), pattern, folder)
    elif "by_hand" not in group:
        listed = _record(key, group, needed=not _here(folder, pattern))
        files = [file for file in listed if re.fullmatch(pattern, file.path)]
        if not all(file.local.is_file() for file in files):
            _tell_licence(name, group)
        for file in files:
            _place(file)
    if here := _here(folder, pattern):
        return here
    if "by_hand" in group:
        raise FileNotFoundError(f"{name} is not in {folder}: {group['by_hand']}")
    raise ValueError(f"{name!r} is no name to fetch: {key} has {group['split']}, but none of that name")


def _here(folder: Path, pattern: str) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.nii*"))}
    return {name: path for name, path in found.items() if re.search(rf"(?:^|/)(?:{pattern})$", name)}


def _tell_licence(name: str, group: Mapping[str, Any]) -> None:
    limits = "; not for commercial use" if "NC" in group["licence"] else ""
    warnings.warn(f"{name} is under {group['licence']}{limits}. Cite {group['citation']}.", stacklevel=5)


def _record(key: str, group: Mapping[str, Any], needed: bool) -> list[RemoteFile]:
    """What the repository lists; where it cannot be asked and is not `needed`, nothing, with a warning."""
    file = RemoteFile(key, "record", key, "record.json", address=group["record"])
    try:
        listed = RECORDS[group["kind"]](json.loads(_place(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not isinstance(error, OSError):  # no record but, say, a page of the host
            file.local.unlink(missing_ok=True)
        if needed:
            raise FileNotFoundError(f"{key} can be fetched with its record alone: {one_line(error, 500)}") from error
        told = "so that sizes and check sums are not known; what lies in the cache is compared with its own alone"
        warnings.warn(f"The record of {key} could not be read ({one_line(error, 300)}), {told}.", stacklevel=4)
        return []
    home = f"{urlsplit(group['record']).scheme}://{urlsplit(group['record']).netloc}"
    found = []
    for file in listed:
        address = file.address if "://" in (file.address or "") else f"{home}{file.address}"
        if str(address).startswith(("http://", "https://")) and ".." not in file.path.split("/"):
            found.append(replace(file, name=key, group=key, address=address))
    return found


def _whole(key: str, group: Mapping[str, Any]) -> Path:
    """The archive of a data set, verified when it is downloaded; one placed by hand by its size and its members."""
    known = next((file for file in _record(key, group, needed=False) if file.path == group["archive"]), None)
    file = known or RemoteFile(key, "archive", key, group["archive"], address=group["address"])
    if not file.local.is_file() or file.size not in (None, file.local.stat().st_size):
        _tell_licence(f"{key} ({group['size']})", group)
        if not (file.md5 or file.sha256):
            warnings.warn(f"No check sum of {file.path} is known: it is checked as it is unpacked.", stacklevel=4)
        _place(file)
    return file.local


def _place(file: RemoteFile) -> Path:
    """The verified local file: from the cache if there, else downloaded; unpacked if it is an archive."""
    for folder in file.local.parents[: len(Path(file.path).parts) + 2]:  # the last one holds the cache folder
        remove_leftovers(folder, deep=False)
    wrong = mismatch(file.local, file) if file.local.is_file() else None
    if wrong:
        warnings.warn(f"{file.local} has {wrong}: it is not used, and fetched anew", stacklevel=3)
    try:
        if wrong or not file.local.exists():
            with replacing(file.local) as part:
                _download(file, part)
        if file.member is None:
            return file.local
        unpacked = file.local.with_name(file.local.name.partition(".")[0] + Path(file.member).suffix)
        return extract_member(file.local, file.member, unpacked)
    except OSError as error:
        if error.errno is None:  # not the system's but ours: no address gave the file
            raise
        why = error.strerror or error
        raise OSError(
            f"{file.name} ({file.kind}) cannot be written in {file.local.parent} ({why}): "
            f"set IES_CACHE to a folder of yours, or have {file.addresses[-1]} placed at {file.local}"
        ) from error


def _download(file: RemoteFile, part: Path) -> None:
    """Fill `part` from the first address that gives the right file."""
    failures: dict[str, str] = {}
    error: type[Exception] = FileNotFoundError
    for attempt in range(ROUNDS):
        time.sleep(PAUSE if attempt else 0)
        for address in file.addresses:
            try:
                _transfer(address, part, label=f"{file.name} {file.kind}")
            except ConnectionError as failure:
                failures[address] = str(failure)
                continue
            if (wrong := mismatch(part, file)) is None:
                return
            failures[address], error = f"gave {wrong}", ValueError
    told = "; ".join(f"{address} {failure}" for address, failure in failures.items())
    raise error(
        f"{file.name} ({file.kind}) could not be fetched ({told}): place the file by hand at {file.local}, "
        "or set IES_CACHE or IES_MIRROR to a copy of the cache"
    )


def _transfer(address: str, part: Path, label: str) -> None:
    """Copy what `address` holds to `part`; a ConnectionError says why it gave nothing."""
    if address.startswith("file://"):
        source = Path(url2pathname(urlsplit(address).path))
        if not source.is_file():
            raise ConnectionError("is not there")
        shutil.copyfile(source, part)
        return
    # identity: a server that compresses on the fly would hide the length of the file; total: pooch sets it
    headers = {"Accept-Encoding": "identity"}
    with tqdm(desc=label, total=1, unit="B", unit_scale=True, leave=False, delay=0.5) as bar:
        download = pooch.HTTPDownloader(bar, 2**16, timeout=TIMEOUT, headers=headers)  # pyright: ignore
        try:
            download(address, str(part), None)
        except requests.RequestException as error:
            raise ConnectionError(_reason(error)) from error


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"did not answer within {TIMEOUT:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "cut the connection"
    return f"cannot be reached ({type(error).__name__})"
