"""From a row of `data/registry.toml` to a verified local file.

`IES_CACHE` moves the cache folder, `IES_MIRROR` names a copy of such a folder (`http://`, `https://` or `file://`)
that is asked before the addresses of the registry. A file lies at `<cache>/<group>/<path in its repository>`.
"""

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import time
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pooch
import requests
from tqdm.auto import tqdm

from ies_helpers.subjects.files import data_folder, one_line, remove_leftovers, replacing

# One expected file out of a foreign archive.

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
        why = one_line(error) or type(error).__name__
        raise ValueError(f"{archive} is no intact archive ({why}): delete it and fetch it again") from error
    if not (destination.is_file() and destination.read_bytes() == content):
        with replacing(destination) as part:
            part.write_bytes(content)
    return destination


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
        kinds = [(m, stat.S_IFMT(m.external_attr >> 16)) for m in container.infolist()]  # 0 when made outside Unix
        members = [(m.filename, m.file_size, kind in (0, stat.S_IFREG), m.is_dir()) for m, kind in kinds]
        return container.read(_choose_member(archive, pattern, members))


def _choose_member(archive: Path, pattern: str, members: Iterable[tuple[str, int, bool, bool]]) -> str:
    """The one name that matches, of members (name, size, file?, folder?); any that may do harm condemns them all."""
    sizes = {}
    for name, size, is_file, is_folder in members:
        path = PureWindowsPath(name)  # splits at both slashes and knows drive letters
        if path.anchor or ".." in path.parts:
            raise ValueError(f"an archive may hold relative names only, {archive} holds {name!r}: avoid it")
        if not (is_file or is_folder):
            raise ValueError(f"an archive may hold files only, {name!r} in {archive} is a link or device")
        if not is_folder:
            sizes[name] = size
    bases = {name: PureWindowsPath(name).name for name in sizes}
    found = [name for name, base in bases.items() if fnmatch(base, pattern) and not base.startswith(".")]
    if len(found) != 1:  # hidden files (macOS leaves `._name`) do not count
        held = f"{len(found)} ({', '.join(sorted(sizes)[:5])})"
        raise ValueError(f"{archive} must hold one file {pattern}, it holds {held}: unpack it and give the file")
    if sizes[found[0]] > LARGEST:
        raise ValueError(f"{found[0]} in {archive} may unpack to {LARGEST} bytes, not {sizes[found[0]]}")
    return found[0]


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
    bases: tuple[str, ...]
    git: str | None = None
    sha256: str | None = None
    size: int | None = None
    member: str | None = None

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
        return [f"{base}/{quote(self.path)}" for base in (*bases, *self.bases)]


def cache_folder() -> Path:
    """Where downloads are kept: `IES_CACHE`, else the operating system's cache folder for `ies-helpers`."""
    return Path(os.environ.get("IES_CACHE") or pooch.os_cache("ies-helpers")).expanduser().absolute()


def fetch(name: str) -> dict[str, Path]:
    """The files of one registry row by kind, downloaded where the cache lacks them, each verified.

    Args:
        name: as listed by `available`, such as `openms:patient26`, `published:unet` or `agg2exp`. Kinds are `flair`,
            `t1` and `target` of a patient, `checkpoint` of a network (taken out of its archive), `table` of a table.
    """
    rows = _registry()
    if name not in rows:
        near = ", ".join(get_close_matches(name, rows)) or f"{next(iter(rows))} or another of {len(rows)}"
        raise ValueError(f"{name!r} is no name to fetch: try {near} (`ies fetch --list` shows all)")
    return {file.kind: _place(file) for file in rows[name][1]}


def available() -> list[dict[str, Any]]:
    """One row for each name; `bytes` is None where not known, `cached` looks at presence and size, not at the hash."""
    return [
        {
            "name": name,
            "what": group["what"].format(item=name.partition(":")[2]),
            "bytes": sum(f.size or 0 for f in files) if all(f.size for f in files) else None,
            "licence": group["licence"],
            "cached": all(f.local.is_file() and f.size in (None, f.local.stat().st_size) for f in files),
        }
        for name, (group, files) in _registry().items()
    ]


def mismatch(path: Path, file: RemoteFile) -> str | None:
    """What tells `path` from `file`, in a few words; None if size and hash agree."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"{size} bytes instead of {file.size}"
    with path.open("rb") as stream:
        if file.sha256:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            return None if same else "another SHA-256"
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)  # how git names a file's content
        return None if hashlib.file_digest(stream, lambda: blob).hexdigest() == file.git else "another git blob hash"


def _registry() -> dict[str, tuple[dict[str, Any], list[RemoteFile]]]:
    """Name to its group's facts and its files, in the order of `data/registry.toml`."""
    registry = tomllib.loads((data_folder() / "registry.toml").read_text(encoding="utf-8"))
    rows = {}
    for name, row in registry["row"].items():
        key, _, item = name.partition(":")
        group = registry["group"][key]
        paths = {kind: path.format(item=item) for kind, path in group["paths"].items()}
        bases = tuple(group["bases"])
        rows[name] = group, [RemoteFile(name, k, key, paths[k], bases, **facts) for k, facts in row.items()]
    return rows


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
            f"set IES_CACHE to a folder of yours, or have {file.bases[0]}/{quote(file.path)} placed at {file.local}"
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
