"""Files written beside their place and renamed, so that a half-written one never exists; and where ours lie."""

import atexit
import codecs
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LEFTOVER = ".part-"  # how the name of every temporary folder begins; its writer's process and machine follow
DAY = 86400.0  # seconds after which the temporary folder of another machine counts as abandoned
_UNFINISHED: set[Path] = set()  # temporary folders in use; a Ctrl-C may fall between making and removing one


@atexit.register
def _remove_unfinished() -> None:
    for folder in _UNFINISHED:
        if folder.name.startswith(f"{LEFTOVER}{os.getpid()}-"):  # a forked process leaves its parent's
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A private path near `path`, renamed to `path`, in one step, if the block ends well and removed if it does not.

    Folders that `path` needs are made at the end, so that a failure leaves no trace.
    """
    near = next(folder for folder in path.absolute().parents if folder.is_dir())
    folder = near / f"{LEFTOVER}{os.getpid()}-{platform.node()}-{secrets.token_hex(4)}"
    _UNFINISHED.add(folder)
    try:
        folder.mkdir(mode=0o700)
        yield folder / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _UNFINISHED.discard(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time works on a file, which may be replaced inside; where the system has no locks, all do."""
    with ExitStack() as opened:
        while fcntl is not None:
            try:
                file = opened.enter_context(path.open("rb+"))
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # or it was replaced while we waited
                    break
            except OSError:  # a file system without locks, another user's file
                break
        yield


def one_line(text: object, most: int = 120) -> str:
    """Words of a foreign file or library for a sentence of ours: nothing that a terminal obeys, and not endless."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return words if len(words) <= most else f"{words[:most]}..."


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8 wherever it is, beside and rename it; names keep the bytes that they have on disk."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 as some editors save it; a mark at its beginning is no part of it."""
    content = path.read_bytes()
    kind = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(kind).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"A text file must be UTF-8, {path} is not ({error}); save it so.") from error


def remove_leftovers(folder: Path, deep: bool = True) -> None:
    """Remove what a killed writer left below `folder`, right in it unless `deep`; one still at work keeps its own."""
    folders = islice(os.walk(folder), None if deep else 1)  # heeds no folder that vanishes
    for left in [Path(root, name) for root, names, _ in folders for name in names]:
        if left.name.startswith(LEFTOVER) and _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _abandoned(left: Path) -> bool:
    """Whether its writer is dead, or on another machine and silent for a day."""
    process = left.name.removeprefix(LEFTOVER).partition("-")[0]
    local = left.name.startswith(f"{LEFTOVER}{process}-{platform.node()}-") and process.isdecimal()
    try:
        if local and os.name == "posix":  # elsewhere the call below would end the process
            os.kill(int(process), 0)
            return False
        return time.time() - left.stat().st_mtime > DAY
    except PermissionError:
        return False
    except OSError:
        return True


def data_folder() -> Path:
    """The folder `data`: inside the package when installed from a wheel, else at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "data", package.parent / "data"):
        if (folder / "registry.toml").is_file():
            return folder
    raise FileNotFoundError(f"the data folder is missing in and beside {package}: install ies-helpers anew")


def stand_in(path: Path) -> str | None:
    """What lies in place of a file that was never fetched: nothing, a web page or a pointer; None for none of these."""
    if path.is_symlink() and not path.exists():
        fetched = "annex/objects" not in os.readlink(path)
        return "a link to no file" if fetched else f"what git-annex has not fetched (git annex get {path.name})"
    with path.open("rb") as file:
        head = file.read(200).lstrip()
    if not head:
        return "an empty file"
    if head.lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, and not the file it points to (git lfs pull)"
    if b"annex/objects/" in head:
        return f"a git-annex pointer, and not the file it points to (git annex get {path.name})"
    return None
