"""One expected file out of a foreign archive."""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from fnmatch import fnmatch
from pathlib import Path, PureWindowsPath

from ies_helpers.subjects.files import one_line, replacing

LARGEST = 2**30
"""Bytes that a member may unpack to: no network here comes near, a decompression bomb goes far beyond."""

BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,
)
"""What the standard library raises for a damaged archive (RuntimeError: an encrypted zip)."""


def extract_member(archive: Path, pattern: str, destination: Path) -> Path:
    """Copy the one file of `archive` whose name matches `pattern` to `destination`.

    Nothing is written under a name that the archive chose. A `destination` that already holds the content is
    left alone, so that a read-only folder with the file in it serves too.

    Args:
        archive: `.tar`, `.tar.gz`, `.tar.xz` or `.zip`.
        pattern: shell pattern for the file's base name, such as `*.pth`.
        destination: the local file, replaced in one step.

    Raises:
        ValueError: an absolute or `..` name, a link or a device anywhere in the archive, a damaged archive,
            or any number of matching files other than one. Nothing is written.
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
        files = [info for info in container if _accepted(archive, info.name, info.isfile(), info.isdir())]
        stream = container.extractfile(_only(archive, pattern, {info.name: info.size for info in files}))
        assert stream is not None, "a regular file has content"
        assert container.fileobj is not None, "the archive is open"
        content = stream.read()
        while container.fileobj.read(2**20):  # to the end, where gzip keeps its check sum
            pass
        return content


def _read_zip(archive: Path, pattern: str) -> bytes:
    with zipfile.ZipFile(archive) as container:
        files = [info for info in container.infolist() if _accepted(archive, info.filename, *_zip_kind(info))]
        return container.read(_only(archive, pattern, {info.filename: info.file_size for info in files}))


def _zip_kind(info: zipfile.ZipInfo) -> tuple[bool, bool]:
    """Is it a regular file, is it a folder. A zip made outside Unix states no kind, which is then 0."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind in (0, stat.S_IFREG) and not info.is_dir(), info.is_dir()


def _accepted(archive: Path, name: str, is_file: bool, is_folder: bool) -> bool:
    """True for a file to consider, False for a folder; anything else condemns the whole archive."""
    path = PureWindowsPath(name)  # splits at both slashes and knows drive letters
    if path.anchor or ".." in path.parts:
        raise ValueError(f"an archive may hold relative names only, {archive} holds {name!r}: avoid it")
    if not (is_file or is_folder):
        raise ValueError(f"an archive may hold files only, {name!r} in {archive} is a link or device")
    return is_file


def _only(archive: Path, pattern: str, sizes: dict[str, int]) -> str:
    """The one name that matches `pattern`; hidden files (macOS leaves `._name`) do not count."""
    bases = {name: PureWindowsPath(name).name for name in sizes}
    found = [name for name, base in bases.items() if fnmatch(base, pattern) and not base.startswith(".")]
    if len(found) != 1:
        held = f"{len(found)} ({', '.join(sorted(sizes)[:5])})"
        raise ValueError(f"{archive} must hold one file {pattern}, it holds {held}: unpack it and give the file")
    if sizes[found[0]] > LARGEST:
        raise ValueError(f"{found[0]} in {archive} may unpack to {LARGEST} bytes, not {sizes[found[0]]}")
    return found[0]
