"""One expected file comes out of a foreign archive, and nothing else does anything."""

import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from ies_helpers.subjects import downloads
from ies_helpers.subjects import downloads as archives
from ies_helpers.subjects.downloads import extract_member, fetch
from ies_helpers.subjects.files import replacing
from tests.subjects.local_server import serving, write_registry

WEIGHTS = b"weights" * 1000


def tar_of(path: Path, *entries: tuple[str, bytes | str], kind: bytes = tarfile.SYMTYPE) -> Path:
    """A tar archive; an entry with text in place of bytes is a link (or `kind`) to that text."""
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, *entries: tuple[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["net.tar.xz", "net.tar.gz", "net.zip"])
def test_the_expected_member_alone_is_taken_out(tmp_path, name):
    make = zip_of if name.endswith("zip") else tar_of
    entries = [("run/notes.txt", b"read me"), ("run/._unet.pth", b"of macOS"), ("./run/unet.pth", WEIGHTS)]
    archive = make(tmp_path / name, *entries)
    out = extract_member(archive, "*.pth", tmp_path / "out" / "net.pth")
    assert out.read_bytes() == WEIGHTS
    assert [path.name for path in out.parent.iterdir()] == ["net.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


UNSAFE_NAMES = ["../evil.pth", "run/../../evil.pth", "/tmp/evil.pth", "..\\evil.pth", "C:\\evil.pth"]


@pytest.mark.parametrize("evil", UNSAFE_NAMES)
@pytest.mark.parametrize("suffix", ["tar.xz", "zip"])
def test_an_archive_with_a_name_that_leads_outside_is_refused(tmp_path, evil, suffix):
    make = zip_of if suffix == "zip" else tar_of
    archive = make(tmp_path / f"net.{suffix}", ("unet.pth", WEIGHTS), (evil, b"evil"))
    with pytest.raises(ValueError, match=r"an archive may hold relative names only, .* holds '"):
        extract_member(archive, "unet.pth", tmp_path / "out" / "unet.pth")
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{suffix}"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "net.tar.gz", ("secret", b"s"), ("unet.pth", "secret"), kind=kind)
    with pytest.raises(ValueError, match=r"'unet\.pth' in .* is a link or device"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_a_zip_with_a_link_is_refused(tmp_path):
    archive = zip_of(tmp_path / "net.zip", ("unet.pth", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ValueError, match=r"'unet\.pth' in .* is a link or device"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")


@pytest.mark.parametrize(("names", "held"), [(["a.pth", "b.pth"], "2 .a.pth, b.pth."), (["a.pt"], "0 .a.pt.")])
def test_none_or_two_matching_members_are_refused(tmp_path, names, held):
    archive = tar_of(tmp_path / "net.tar.xz", *((name, WEIGHTS) for name in names))
    with pytest.raises(ValueError, match=rf"must hold one file \*\.pth, it holds {held}.*: unpack it and give"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")


def test_a_member_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    archive = zip_of(tmp_path / "net.zip", ("unet.pth", bytes(100_000)))
    monkeypatch.setattr(archives, "LARGEST", 99_999)
    with pytest.raises(ValueError, match="may unpack to 99999 bytes, not 100000"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")


def test_a_zip_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    archive = zip_of(tmp_path / "net.zip", ("unet.pth", bytes(10_000_000)))
    content = bytearray(archive.read_bytes())
    size = content.index(b"PK\x01\x02") + 24  # in the list at the end, which is what is read
    content[size : size + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no intact archive .*CRC"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", ["net.tar.xz", "net.tar.gz", "net.zip"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_truncated_archive_is_refused_in_one_sentence(tmp_path, name, kept):
    content = hashlib.shake_256(b"incompressible").digest(200_000)
    archive = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, ("unet.pth", content))
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    with pytest.raises(ValueError, match="is no intact archive"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", ["net.tar.xz", "net.tar.gz", "net.zip"])
def test_an_archive_with_overwritten_bytes_is_refused_in_one_sentence(tmp_path, name):
    content = hashlib.shake_256(b"text packs to half").hexdigest(200_000).encode()
    archive = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, ("unet.pth", content))
    damaged = bytearray(archive.read_bytes())
    damaged[100_000:100_100] = bytes([255] * 100)
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match="is no intact archive"):
        extract_member(archive, "*.pth", tmp_path / "out.pth")


@pytest.mark.parametrize("name", ["net.tar", "net.zip"])
def test_what_the_library_says_of_a_damaged_archive_is_told_in_one_short_line(tmp_path, name):
    """Of an empty tar Python writes five lines, of a zip with a wrong length all its bytes."""
    archive = tmp_path / name
    archive.write_bytes(b"")
    if name == "net.zip":
        content = bytearray(zip_of(archive, ("unet.pth", bytes(range(256)) * 99)).read_bytes())
        content[26:28] = (20_000).to_bytes(2, "little")  # length of the name in front of the member
        archive.write_bytes(content)
    with pytest.raises(ValueError, match="is no intact archive") as caught:
        extract_member(archive, "*.pth", tmp_path / "out.pth")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(archive)) + 200


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    place = tmp_path / "kept"
    place.write_text("old")
    with pytest.raises(FileNotFoundError, match="no such source"), replacing(place) as part:
        part.write_text(Path("no such source").read_text())
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


@pytest.fixture
def row(tmp_path, monkeypatch):
    """The row `toy:one`, an archive with one `.pth`; gives the served bytes, and the place of the weights."""
    archive = tar_of(tmp_path / "made.xz", ("unet_epoch_31.pth", WEIGHTS)).read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(archive) + archive).hexdigest()
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IES_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "data_folder", lambda: tmp_path / "data")

    def write(base: str) -> None:
        write_registry(tmp_path / "data", [base], f'git = "{git}", member = "*.pth"', path="net_31.tar.xz")

    return archive, write, tmp_path / "cache" / "toy" / "net_31.pth"


def test_a_fetched_archive_gives_the_file_in_it(row):
    archive, write, weights = row
    with serving(content=archive) as server:
        write(server.base)
        assert fetch("toy:one") == {"scan": weights}
        assert weights.read_bytes() == WEIGHTS
        written = weights.stat()
        assert fetch("toy:one") == {"scan": weights}
        assert weights.stat() == written
        assert len(server.requests) == 1


def test_an_unpacked_file_that_was_changed_is_unpacked_anew(row):
    archive, write, weights = row
    with serving(content=archive) as server:
        write(server.base)
        fetch("toy:one")
        weights.write_bytes(b"tampered")
        assert fetch("toy:one")["scan"].read_bytes() == WEIGHTS
        assert len(server.requests) == 1
