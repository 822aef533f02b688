"""From a registry row to a verified file, with servers, mirrors and caches that misbehave."""

import errno
import hashlib
import io
import json
import os
import platform
import re
import stat
import subprocess
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ies_helpers.subjects import downloads
from ies_helpers.subjects.downloads import available, cache_folder, extract_member, fetch
from tests.subjects.local_server import CONTENT, GIT, SHA256, serving, write_registry

NOWHERE = "http://127.0.0.1:9"  # the discard port: the connection is refused at once
BY_SHA256 = f'size = {len(CONTENT)}, sha256 = "{SHA256}"'
BY_GIT = f'git = "{GIT}"'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that does not exist yet, no pause between rounds, `tmp_path / "data"` for a registry."""
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IES_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def registry(tmp_path, monkeypatch, cache):
    """Writes a registry of one file, `toy:one`, that comes from the given bases."""
    monkeypatch.setattr(downloads, "data_folder", lambda: tmp_path / "data")

    def write(*bases: str, facts: str = BY_SHA256) -> Path:
        write_registry(tmp_path / "data", list(bases), facts)
        return cache / "toy" / "deep" / "one.bin"

    return write


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The shipped registry


def test_the_registry_lists_thirty_patients_the_checkpoint_and_the_table(cache):
    names = [row["name"] for row in available()]
    patients = [f"openms:patient{n:02}" for n in range(1, 31)]
    sets = ["mslesseg:P1/T1", "wmh2017:training/Utrecht/0", "ms3seg:001"]
    assert names == ["published:unet", "agg2exp", *patients, *sets]
    assert all(row["licence"] and row["size"] and row["good_for"] and row["split"] for row in available()[2:])


def test_every_file_of_the_registry_can_be_verified_and_has_an_address_of_a_fixed_commit(cache):
    files = [file for _, group in downloads._registry().values() for file in group]
    assert len(files) == 30 * 3 + 2
    for file in files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "") or re.fullmatch("[0-9a-f]{40}", file.git or "")
        pinned = r"https://raw\.githubusercontent\.com/[\w-]+/\w+/[0-9a-f]{40}/[\w/.-]+"
        assert [bool(re.fullmatch(pinned, address)) for address in file.addresses] == [True]


def test_no_two_files_of_the_registry_share_a_place_or_a_hash(cache):
    files = [file for _, group in downloads._registry().values() for file in group]
    assert len({file.local for file in files}) == len(files)
    assert len({file.git or file.sha256 for file in files}) == len(files)


def test_a_cache_in_the_layout_of_the_source_repositories_is_recognised(cache):
    rows = downloads._registry()
    mni = cache / "openms" / "cross_sectional" / "MNI" / "patient26"
    flair, t1, target = rows["openms:patient26"][1]
    assert flair.local == mni / "FLAIR_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
    assert t1.local == mni / "T1_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
    assert target.local == mni / "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"
    assert [file.kind for file in (flair, t1, target)] == ["flair", "t1", "target"]
    table = "tsv2_test_aggregated_sg_explanations_with_dice.csv"
    assert rows["agg2exp"][1][0].local == cache / "agg2exp" / table


def test_the_cache_folder_follows_the_variable_and_the_home_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IES_CACHE", "~/scans")
    assert cache_folder() == tmp_path / "scans"
    monkeypatch.setenv("IES_CACHE", "")
    assert cache_folder().name == "ies-helpers"


# Fetching


@pytest.mark.parametrize("facts", [BY_SHA256, BY_GIT])
def test_a_file_is_downloaded_once_and_verified_by_either_hash(registry, facts):
    with serving() as server:
        place = registry(server.base, facts=facts)
        assert fetch("toy:one") == {"scan": place}
        assert place.read_bytes() == CONTENT
        assert fetch("toy:one") == {"scan": place}
        assert server.requests == ["/deep/one.bin"]
    assert files_under(place.parents[2]) == ["toy", "toy/deep", "toy/deep/one.bin"]


@pytest.mark.parametrize("facts", [BY_SHA256, BY_GIT])
def test_a_corrupt_file_in_the_cache_is_reported_and_fetched_anew(registry, facts):
    with serving() as server:
        place = registry(server.base, facts=facts)
        place.parent.mkdir(parents=True)
        place.write_bytes(CONTENT[:-1] + b"x")
        with pytest.warns(UserWarning, match=r"one\.bin has another .*: it is not used, and fetched anew"):
            fetch("toy:one")
        assert place.read_bytes() == CONTENT


def test_a_corrupt_file_in_the_cache_is_never_used_when_it_cannot_be_fetched_anew(registry):
    place = registry(NOWHERE)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[:-1])
    with (
        pytest.warns(UserWarning, match="255999 bytes instead of 256000"),
        pytest.raises(FileNotFoundError, match="could not be fetched"),
    ):
        fetch("toy:one")


def test_an_unknown_name_is_answered_with_the_nearest_ones(cache):
    with pytest.raises(ValueError, match="'openms:patient31' is no name to fetch: try openms:patient30"):
        fetch("openms:patient31")
    with pytest.raises(ValueError, match="'qqq' is no name to fetch: try published:unet or another of 32"):
        fetch("qqq")


def test_offline_one_sentence_says_what_from_where_and_how_to_place_it_by_hand(registry):
    place = registry(NOWHERE)
    with pytest.raises(FileNotFoundError) as caught:
        fetch("toy:one")
    assert str(caught.value) == (
        f"toy:one (scan) could not be fetched ({NOWHERE}/deep/one.bin cannot be reached (ConnectionError)): "
        f"place the file by hand at {place}, or set IES_CACHE or IES_MIRROR to a copy of the cache"
    )
    assert not place.parents[2].exists()


def test_a_file_placed_by_hand_as_the_sentence_says_is_found(registry):
    place = registry(NOWHERE)
    with pytest.raises(FileNotFoundError, match="by hand at") as caught:
        fetch("toy:one")
    named = Path(str(caught.value).partition("by hand at ")[2].partition(",")[0])
    named.parent.mkdir(parents=True)
    named.write_bytes(CONTENT)
    assert fetch("toy:one") == {"scan": place}


def test_the_list_shows_what_is_in_the_cache_and_the_sizes_that_are_known(registry):
    place = registry(NOWHERE)
    row = {"name": "toy:one", "what": "scans of one", "bytes": 256000, "licence": "CC0", "cached": False}
    row |= {"size": "", "good_for": "", "split": ""}
    assert available() == [row]
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert available() == [row | {"cached": True}]
    place.write_bytes(CONTENT[:-1])
    assert available() == [row]
    registry(NOWHERE, facts=BY_GIT)
    assert available() == [row | {"bytes": None, "cached": True}]


# Servers that misbehave

SHORT = 0.4  # s, in place of the 20 s of a real download

MISTAKES = {
    "missing": (FileNotFoundError, "answered 404"),
    "broken": (FileNotFoundError, "answered 500"),
    "page": (ValueError, "gave 31 bytes instead of 256000"),
    "short": (ValueError, "gave 255999 bytes instead of 256000"),
    "long": (ValueError, "gave 256001 bytes instead of 256000"),
    "cut": (FileNotFoundError, "cut the connection"),
    "silent": (FileNotFoundError, r"did not answer within 0\.4 s"),
    "stalled": (FileNotFoundError, r"did not answer within 0\.4 s"),
}


@pytest.fixture(params=MISTAKES)
def mistake(request, monkeypatch):
    """Each mistake in turn; the timeout is short only where it must run out."""
    if request.param in ("silent", "stalled"):
        monkeypatch.setattr(downloads, "TIMEOUT", SHORT)
    return request.param


def test_a_server_that_fails_twice_ends_in_one_sentence_and_leaves_nothing(registry, mistake):
    error, words = MISTAKES[mistake]
    with serving(mistake, mistake) as server:
        place = registry(server.base)
        with pytest.raises(error, match=words) as caught:
            fetch("toy:one")
        assert "\n" not in str(caught.value)
        assert len(server.requests) == downloads.ROUNDS
    assert not place.parents[2].exists()


def test_a_server_that_fails_is_followed_by_the_next_mirror(registry, mistake):
    with serving(mistake) as bad, serving() as good:
        place = registry(bad.base, good.base)
        fetch("toy:one")
        assert (len(bad.requests), len(good.requests)) == (1, 1)
    assert place.read_bytes() == CONTENT


def test_a_server_that_fails_once_is_asked_again(registry, mistake):
    with serving(mistake) as server:
        place = registry(server.base, facts=BY_GIT)
        fetch("toy:one")
        assert len(server.requests) == 2
    assert place.read_bytes() == CONTENT


def test_the_right_length_with_another_hash_is_refused(registry):
    with serving(content=CONTENT[:-1] + b"x") as server:
        registry(server.base)
        with pytest.raises(ValueError, match="gave another SHA-256"):
            fetch("toy:one")
        registry(server.base, facts=BY_GIT)
        with pytest.raises(ValueError, match="gave another git blob hash"):
            fetch("toy:one")


# Mirrors


def test_the_mirror_of_the_environment_is_asked_first(registry, monkeypatch):
    with serving() as mirror, serving() as origin:
        registry(origin.base)
        monkeypatch.setenv("IES_MIRROR", mirror.base + "/copy/")
        fetch("toy:one")
        assert (mirror.requests, origin.requests) == (["/copy/toy/deep/one.bin"], [])


def test_the_cache_of_another_serves_as_a_mirror_from_disk(registry, monkeypatch, tmp_path):
    registry(NOWHERE)
    theirs = tmp_path / "a neighbour's 50 %"
    (theirs / "toy" / "deep").mkdir(parents=True)
    (theirs / "toy" / "deep" / "one.bin").write_bytes(CONTENT)
    monkeypatch.setenv("IES_MIRROR", theirs.as_uri())
    assert fetch("toy:one")["scan"].read_bytes() == CONTENT


def test_a_mirror_that_lacks_the_file_is_passed_over(registry, monkeypatch, tmp_path):
    monkeypatch.setenv("IES_MIRROR", tmp_path.as_uri())
    with serving() as server:
        registry(server.base)
        assert fetch("toy:one")["scan"].read_bytes() == CONTENT


def test_a_mirror_without_a_scheme_is_refused(registry, monkeypatch):
    registry(NOWHERE)
    monkeypatch.setenv("IES_MIRROR", "/mnt/copy")
    with pytest.raises(ValueError, match=r"IES_MIRROR must start with http://, .*, not '/mnt/copy'"):
        fetch("toy:one")


# The cache


def test_workers_that_fill_one_cache_together_never_see_a_partial_file(registry):
    seen: set[int] = set()
    done = threading.Event()

    def watch(place: Path) -> None:
        while not done.is_set():
            seen.add(place.stat().st_size if place.exists() else -1)

    with serving() as server, ThreadPoolExecutor(5) as pool:
        place = registry(server.base)
        watcher = pool.submit(watch, place)
        fetched = [job.result() for job in [pool.submit(fetch, "toy:one") for _ in range(4)]]
        done.set()
        watcher.result()
    assert fetched == [{"scan": place}] * 4
    assert seen <= {-1, len(CONTENT)}
    assert files_under(place.parent) == ["one.bin"]


def test_an_interrupt_in_the_middle_of_a_download_leaves_nothing(registry, monkeypatch):
    def interrupted(address: str, part: Path, label: str) -> None:
        part.write_bytes(CONTENT[:1000])
        raise KeyboardInterrupt

    place = registry(NOWHERE)
    place.parent.mkdir(parents=True)
    monkeypatch.setattr(downloads, "_transfer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("toy:one")
    assert files_under(place.parents[1]) == ["deep"]


def test_a_hit_in_the_cache_writes_nothing_so_that_a_read_only_cache_serves(registry, monkeypatch):
    place = registry(NOWHERE)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    place.chmod(0o444)
    place.parent.chmod(0o555)
    before = place.stat(), place.parent.stat().st_mtime_ns
    assert fetch("toy:one") == {"scan": place}
    assert (place.stat(), place.parent.stat().st_mtime_ns) == before
    place.parent.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_told_in_one_sentence(registry, monkeypatch, tmp_path):
    (tmp_path / "flat").write_text("a file where the cache folder should be")
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "flat"))
    with serving() as server:
        registry(server.base)
        with pytest.raises(OSError, match=r"toy:one \(scan\) cannot be written in .*flat.*: set IES_CACHE"):
            fetch("toy:one")


def test_a_cache_below_a_folder_of_the_system_is_told_in_one_sentence(registry, monkeypatch):
    """The system answers that there is no such file, which is not the file that could not be fetched."""
    monkeypatch.setenv("IES_CACHE", "/proc/nowhere")
    with serving() as server:
        registry(server.base)
        with pytest.raises(OSError, match=r"toy:one \(scan\) cannot be written in /proc/nowhere/.*: set IES_CACHE"):
            fetch("toy:one")


@pytest.mark.parametrize("folder", [".", "cache", "cache/toy", "cache/toy/deep"])
def test_what_a_killed_download_left_is_removed_by_the_next_and_a_living_one_keeps_its_own(registry, tmp_path, folder):
    dead, node = subprocess.Popen(["true"]), platform.node()
    dead.wait()
    with serving() as server:
        place = registry(server.base)
        for process in (dead.pid, os.getppid()):
            (tmp_path / folder / f".part-{process}-{node}-x").mkdir(parents=True)
        fetch("toy:one")
    left = [path.name for path in tmp_path.rglob(".part-*")]
    assert (left, place.read_bytes()) == ([f".part-{os.getppid()}-{node}-x"], CONTENT)


def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing(registry, monkeypatch):
    def full(address: str, part: Path, label: str) -> None:
        part.write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    place = registry(NOWHERE)
    monkeypatch.setattr(downloads, "_transfer", full)
    with pytest.raises(OSError, match=r"toy:one \(scan\) cannot be written .* \(No space left on device\)"):
        fetch("toy:one")
    assert not place.parents[2].exists()


def test_a_downloaded_file_can_be_read_by_others_who_share_the_cache(registry):
    with serving() as server:
        place = registry(server.base)
        fetch("toy:one")
    ordinary = place.with_name("ordinary")
    ordinary.touch()
    assert place.stat().st_mode == ordinary.stat().st_mode


# Data sets: a record that lists files and check sums, one archive or a file each, one patient at a time

SET = """
[group.toyset]
what = "a toy"
licence = "{licence}"
citation = "Toy et al."
size = "1 kB"
good_for = "tests"
split = "train (train/1) and test (test/2)"
item = '(?:train|test)/\\d'
example = "train/1"
files = '{{item}}/(?:FLAIR|T1)\\.nii\\.gz'
kind = "{kind}"
record = "{record}"
{more}
[row]
"""
SCANS = {
    f"{where}/{scan}.nii.gz": f"{where} {scan}".encode() * 50
    for where in ("train/1", "test/2")
    for scan in ("FLAIR", "T1")
}


@pytest.fixture
def dataset(tmp_path, monkeypatch, cache):
    """Writes a registry of one data set, `toyset:train/1` and so on; gives the folder where it is kept."""
    monkeypatch.setattr(downloads, "data_folder", lambda: tmp_path / "data")

    def write(kind: str, record: str, licence: str = "CC BY 4.0", more: str = "") -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        text = SET.format(kind=kind, record=record, licence=licence, more=more)
        (tmp_path / "data" / "registry.toml").write_text(text)
        return cache / "toyset"

    return write


def archive_of(tmp_path: Path, *more: tuple[str, bytes]) -> bytes:
    """A zip as people make them: all in a folder, with what macOS leaves."""
    files = [(f"The Set/{name}", content) for name, content in SCANS.items()]
    return zip_of(tmp_path / "made.zip", *files, ("__MACOSX/The Set/train/1/._FLAIR.nii.gz", b"x"), *more).read_bytes()


def figshare(server, content: bytes, **changes) -> bytes:
    facts = {"name": "The Set.zip", "size": len(content), "computed_md5": hashlib.md5(content).hexdigest()}
    return json.dumps({"files": [facts | {"download_url": f"{server.base}/files/1"} | changes]}).encode()


def dataverse(**changes) -> bytes:
    files = []
    for number, (name, content) in enumerate(SCANS.items()):
        sums = {"type": "SHA-1", "value": hashlib.sha1(content).hexdigest()} | changes
        place, _, label = name.rpartition("/")
        data = {"id": number, "filesize": len(content), "checksum": sums}
        files.append({"label": label, "directoryLabel": place, "dataFile": data})
    return json.dumps({"data": {"latestVersion": {"files": files}}}).encode()


IN_ZIP = 'archive = "The Set.zip"\naddress = "http://127.0.0.1:9/files/1"'


def test_one_archive_serves_all_patients_and_is_verified_by_its_record(tmp_path, dataset):
    content = archive_of(tmp_path)
    with serving() as server:
        server.content = {"/record": figshare(server, content), "/files/1": content}
        folder = dataset("figshare", f"{server.base}/record", more=IN_ZIP)
        with pytest.warns(UserWarning, match=r"toyset \(1 kB\) is under CC BY 4\.0\. Cite Toy et al\."):
            got = fetch("toyset:train/1")
        assert {name: path.read_bytes() for name, path in got.items()} == {
            name: SCANS[name] for name in ("train/1/FLAIR.nii.gz", "train/1/T1.nii.gz")
        }
        assert fetch("toyset:test/2")["test/2/T1.nii.gz"].read_bytes() == SCANS["test/2/T1.nii.gz"]
        assert server.requests == ["/record", "/files/1"]
        (folder / "train/1/T1.nii.gz").unlink()  # as if killed between two files
        assert sorted(fetch("toyset:train/1")) == sorted(got)
        (folder / "The Set.zip").unlink()
        assert sorted(fetch("toyset:train/1")) == sorted(got)
    assert available()[0] == {
        **{"name": "toyset:train/1", "what": "a toy", "bytes": None, "licence": "CC BY 4.0", "cached": True},
        **{"size": "1 kB", "good_for": "tests", "split": "train (train/1) and test (test/2)"},
    }


def test_an_archive_unlike_its_record_is_refused_and_not_kept(tmp_path, dataset):
    content = archive_of(tmp_path)
    for changes, told in (({"computed_md5": "0" * 32}, "another MD5"), ({"size": 5}, "bytes instead of 5")):
        with serving() as server:
            server.content = {"/record": figshare(server, content, **changes), "/files/1": content}
            folder = dataset("figshare", f"{server.base}/record", more=IN_ZIP)
            with pytest.warns(UserWarning, match="is under"), pytest.raises(ValueError, match=told):
                fetch("toyset:train/1")
        assert files_under(folder) == ["record.json"]
        (folder / "record.json").unlink()


def test_an_archive_placed_by_hand_needs_no_record_and_no_mirror(tmp_path, dataset):
    folder = dataset("figshare", f"{NOWHERE}/record", more=IN_ZIP)
    folder.mkdir(parents=True)
    (folder / "The Set.zip").write_bytes(archive_of(tmp_path))
    with pytest.warns(UserWarning, match=r"The record of toyset could not be read .* compared with its own alone"):
        assert len(fetch("toyset:train/1")) == 2


@pytest.mark.parametrize("evil", ["../evil.nii.gz", "/tmp/evil.nii.gz", "train/1/../../../FLAIR.nii.gz"])
def test_an_archive_with_a_name_that_leads_outside_gives_nothing(tmp_path, dataset, evil):
    folder = dataset("figshare", f"{NOWHERE}/record", more=IN_ZIP)
    folder.mkdir(parents=True)
    (folder / "The Set.zip").write_bytes(archive_of(tmp_path, (evil, b"x")))
    rule = "an archive may hold relative names only"
    with pytest.warns(UserWarning, match="The record of"), pytest.raises(ValueError, match=rule):
        fetch("toyset:train/1")
    assert files_under(folder) == ["The Set.zip"]


def test_the_files_of_one_patient_are_verified_by_the_record_of_the_repository(dataset):
    addresses = {f"/api/access/datafile/{n}": content for n, content in enumerate(SCANS.values())}
    with serving() as server:
        server.content = {"/record": dataverse(), **addresses}
        folder = dataset("dataverse", f"{server.base}/record", licence="CC BY-NC 4.0")
        with pytest.warns(UserWarning, match=r"train/1 is under CC BY-NC 4\.0; not for commercial use\. Cite Toy"):
            got = fetch("toyset:train/1")
        assert server.requests == ["/record", "/api/access/datafile/0", "/api/access/datafile/1"]
        assert {name: path.read_bytes() for name, path in got.items()} == {n: SCANS[n] for n in got}
        (folder / "train/1/T1.nii.gz").write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="fetched anew"):
            fetch("toyset:train/1")
        (folder / "record.json").write_bytes(dataverse(value="0" * 40))
        with pytest.warns(UserWarning, match="has another"), pytest.raises(ValueError, match="another SHA-1"):
            fetch("toyset:train/1")


def test_the_cache_of_another_serves_a_data_set_as_a_mirror_from_disk(tmp_path, dataset, monkeypatch):
    theirs = tmp_path / "theirs" / "toyset"
    for name, content in {"record.json": dataverse(), **SCANS}.items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_bytes(content)
    monkeypatch.setenv("IES_MIRROR", theirs.parent.as_uri())
    dataset("dataverse", f"{NOWHERE}/record")
    with pytest.warns(UserWarning, match="is under"):
        assert sorted(fetch("toyset:test/2")) == ["test/2/FLAIR.nii.gz", "test/2/T1.nii.gz"]


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b'{"data": []}'])
def test_without_the_record_what_was_fetched_serves_and_nothing_else_is_promised(dataset, content):
    with serving(*["missing"] * (2 * (not content)), content={"/record": content}) as server:
        folder = dataset("dataverse", f"{server.base}/record")
        with pytest.raises(FileNotFoundError, match="toyset can be fetched with its record alone: "):
            fetch("toyset:train/1")
        assert not (folder / "record.json").exists()
        (folder / "train/1").mkdir(parents=True)
        (folder / "train/1/FLAIR.nii.gz").write_bytes(b"x")
        with pytest.warns(UserWarning, match="The record of toyset could not be read"):
            assert list(fetch("toyset:train/1")) == ["train/1/FLAIR.nii.gz"]


@pytest.mark.parametrize("item", ["train/9", "train", "other/1", "train/../1"])
def test_a_patient_that_is_none_is_answered_with_the_split(dataset, tmp_path, item, monkeypatch):
    folder = dataset("dataverse", f"{NOWHERE}/record")
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(dataverse())
    with pytest.raises(ValueError, match=r"is no name to fetch: toyset has train \(train/1\) and test \(test/2\)"):
        fetch(f"toyset:{item}")


def test_what_no_program_unpacks_is_asked_to_be_placed_by_hand(cache):
    with pytest.raises(FileNotFoundError, match=r"ms3seg:001 is not in .*ms3seg: figshare keeps it as RAR archives"):
        fetch("ms3seg:001")
    scan = cache / "ms3seg" / "MS_100_patient_nifti" / "001" / "001_FLAIR.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"x")
    assert list(fetch("ms3seg:001").values()) == [scan]


# Archives: one expected file out, and nothing else, whatever the archive holds.

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
    monkeypatch.setattr(downloads, "LARGEST", 99_999)
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
