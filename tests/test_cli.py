"""The command line: what each command makes, and one sentence with exit code 2 for every kind of mistake."""

import errno
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ies_helpers import (
    cli,
    find_lesions,
    gradcam_pp,
    gradient,
    lesion_uncertainty,
    load_network,
    load_subject,
    member_probabilities,
    predict,
)
from ies_helpers.__main__ import main
from ies_helpers.measures.evaluation import networks_of
from ies_helpers.saliency.comparison import input_x_gradient
from ies_helpers.saliency.methods import METHODS
from ies_helpers.segmentation import formats
from ies_helpers.segmentation.architectures import ARCHITECTURES
from ies_helpers.subjects import downloads
from ies_helpers.subjects.folder import read_maps
from ies_helpers.subjects.sources import SOURCES
from tests.folders import explain_toy, list_lesions, tiny_network
from tests.patients import SPOTS, files_below, strays, write_image, write_network, write_patient
from tests.subjects.local_server import write_registry


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patient(tmp_path_factory.mktemp("patient"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "narrow.safetensors")


@pytest.fixture(scope="module")
def explained(patient: Path, network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two commands have run."""
    out = tmp_path_factory.mktemp("explained") / "out"
    common = ["explain", patient, "--network", network, "--out", out, "--json"]
    assert main([str(a) for a in [*common, "--method", "gradcam++"]]) == 0
    options = ["--lesions", "1,3", "--aggregate", "mean", "--draws", "2", "--seed", "7"]
    assert main([str(a) for a in [*common, *options]]) == 0
    return out


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@contextmanager
def refused(capsys: pytest.CaptureFixture[str], out: Path, *told: str) -> Iterator[list[int]]:
    """The block appends an exit code: it is 2, stderr holds one line with all of `told`, `out` is not made."""
    codes: list[int] = []
    capsys.readouterr()
    yield codes
    error = capsys.readouterr().err
    assert codes == [2], error
    assert error.startswith("ies: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert [words for words in told if words not in error] == [], error
    assert not out.exists()


# What is right


def test_predict_writes_probability_lesions_and_their_table(patient, network, tmp_path, capsys) -> None:
    assert run("predict", patient, "--network", network, "--out", tmp_path, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["lesion"], row["group"]) for row in rows] == [(1, "TP"), (2, "FP"), (3, "FN")]
    table = pd.read_csv(tmp_path / "sub-p1" / "lesions.tsv", sep="\t")
    assert table["volume_mm3"].tolist() == pytest.approx([row["volume_mm3"] for row in rows])
    subject = load_subject(patient)
    for row in rows:
        label = nibabel.load(tmp_path / f"sub-p1/anat/sub-p1_desc-{row['group'].lower()}_dseg.nii.gz")
        found = np.argwhere(np.asanyarray(label.dataobj) == row["lesion"])
        assert len(found) == row["voxels"]
        assert np.linalg.norm(found.mean(axis=0) - SPOTS[row["group"]]) < 1
        assert np.array_equal(label.affine, subject.affine)
    probability = nibabel.load(tmp_path / "sub-p1/anat/sub-p1_label-lesion_probseg.nii.gz")
    assert np.array_equal(np.asanyarray(probability.dataobj), predict(load_network(network), subject.image))
    assert strays(tmp_path) == []


def test_explain_writes_the_maps_that_the_functions_give(patient, network, explained) -> None:
    subject, net = load_subject(patient), load_network(network)
    tp = np.argwhere(np.asanyarray(nibabel.load(explained / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz").dataobj) == 1)
    written = nibabel.load(explained / "sub-p1/anat/sub-p1_desc-gradcamppL001_FLAIR.nii.gz")
    assert np.array_equal(np.asanyarray(written.dataobj), gradcam_pp(net, subject.image, tp)[0])
    index = pd.read_csv(explained / "maps.tsv", sep="\t", keep_default_na=False)
    assert sorted(index["path"]) == [n for n in files_below(explained) if n.endswith(("FLAIR.nii.gz", "T1w.nii.gz"))]
    drawn = index[index["method"] == "smoothgrad"]
    assert set(drawn[["lesion", "group", "aggregate", "draws", "seed"]].itertuples(index=False, name=None)) == {
        (1, "TP", "mean", "2", "7"),
        (3, "FN", "mean", "2", "7"),
    }
    assert strays(explained) == []


def test_json_is_json_and_nothing_else(explained, patient, network, capsys) -> None:
    again = ["explain", patient, "--network", network, "--out", explained, "--json", "--method", "gradcam++"]
    assert run(*again) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert captured.err == ""
    assert len(rows) == 7
    assert rows[0]["draws"] is None
    assert {row["draws"] for row in rows if row["method"] == "smoothgrad"} == {2}


def test_explain_says_which_function_it_differentiates_and_offers_the_other(patient, network, tmp_path, capsys) -> None:
    common = ["explain", patient, "--network", network, "--lesions", "1", "--method", "gradient", "--aggregate", "sum"]
    assert run(*common, "--out", tmp_path / "a") == 0
    assert "seen whole (--through windows otherwise)" in capsys.readouterr().out
    assert run(*common, "--out", tmp_path / "b", "--through", "windows") == 0
    assert "seen through its windows (--through whole otherwise)" in capsys.readouterr().out
    name = "sub-p1/anat/sub-p1_desc-gradientsumL001_FLAIR.nii.gz"
    subject, net = load_subject(patient), load_network(network).explained_through("windows")
    label = nibabel.load(tmp_path / "b/sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz")
    expected = gradient(net, subject.image, np.asanyarray(label.dataobj) == 1, aggregate="sum")
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "b" / name).dataobj), expected[0])


def test_images_are_named_by_channel_as_a_folder_names_them(patient, network, explained, tmp_path, capsys) -> None:
    """In any order: the network takes FLAIR first."""
    flair, t1, target = (patient / f"sub-p1_{s}.nii.gz" for s in ("FLAIR", "T1w", "label-lesion_mask"))
    files = ["--image", f"t1={t1}", "--image", f"flair={flair}", "--target", target]
    options = ["--network", network, "--method", "gradcam++", "--lesions", "1", "--out", tmp_path, "--json"]
    assert run("explain", *files, *options) == 0
    name = "sub-p1/anat/sub-p1_desc-gradcamppL001_FLAIR.nii.gz"
    maps = [np.asanyarray(nibabel.load(folder / name).dataobj) for folder in (tmp_path, explained)]
    assert np.array_equal(*maps)


def test_explain_says_how_much_work_a_comparison_is(patient, network, tmp_path, capsys) -> None:
    options = ["--lesions", "1", "--method", "input-x-gradient", "--out", tmp_path]
    assert run("explain", patient, "--network", network, *options) == 0
    assert "lesion voxels, 1 gradient by crop: about" in capsys.readouterr().out
    label = np.asanyarray(nibabel.load(tmp_path / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz").dataobj)
    expected = input_x_gradient(load_network(network), load_subject(patient).image, label == 1)
    written = nibabel.load(tmp_path / "sub-p1/anat/sub-p1_desc-inputxgradientmeanL001_T1w.nii.gz")
    assert np.array_equal(np.asanyarray(written.dataobj), expected[1])


def test_view_draws_every_map_and_names_what_it_drew(explained, capsys) -> None:
    assert run("view", explained) == 0
    told = capsys.readouterr().out.split()
    assert len(told) == 2 * (3 + 2) + 2
    assert [Path(path).name for path in told[-2:]] == ["sheet.png", "index.html"]
    assert [path for path in told if not Path(path).is_file()] == []


@pytest.fixture(scope="module")
def shown(patient: Path, network: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of `ies demo`, with another patient and network, and what it said."""
    out, said, segment = tmp_path_factory.mktemp("demo") / "demo", io.StringIO(), cli.segment_subject
    quick = cli.NetworkOptions(network=str(network))
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(said):
        patched.setattr(
            cli, "segment_subject", lambda _, files, __, *rest, **how: segment(patient, files, quick, *rest, **how)
        )
        assert run("demo", "--out", out) == 0
    return out, said.getvalue()


def test_the_demo_ends_with_one_page_to_open_which_leads_to_all_the_others(shown) -> None:
    out, said = shown
    (page,) = [Path(word) for word in said.split() if word.startswith(str(out))]
    links = re.findall(r'href="([^"]+)"', page.read_text())
    assert links[:2] == ["lesions.png", "sheet.png"]
    assert len(links) == 2 + 2 * 6
    assert [link for link in links if not (page.parent / link).is_file()] == []
    assert "1 are true (TP), 1 false (FP).\nIt missed 1 (FN)." in said


@pytest.mark.parametrize("checkout", [True, False])
def test_what_the_demo_proposes_can_be_typed_where_it_ran(checkout: bool, monkeypatch, tmp_path) -> None:
    """`make lab` needs a checkout, and `ies` is on the path only where its environment is active."""
    if not checkout:
        monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "ies_helpers" / "cli.py"))
    for path in (f"{Path(sys.executable).parent}:{os.environ['PATH']}", "/usr/bin:/bin"):
        monkeypatch.setenv("PATH", path)
        commands = [command.split() for command, _ in cli._next_steps()]
        assert (["make", "lab"] in commands) is checkout
        assert [c[0] for c in commands if c[0] != "make" and not shutil.which(c[0])] == []


def test_fetch_lists_what_there_is_as_text_and_json(capsys) -> None:
    assert run("fetch", "--list") == 0
    said = capsys.readouterr().out
    assert "openms:patient26" in said
    assert re.search(r"wmh2017:training/Utrecht/0 .*CC BY-NC 4\.0; 8\.8 GB.*\n +good for: .*\n +split: training", said)
    assert said.count("split: none by its authors; the shipped networks were trained on patient07") == 1
    assert run("fetch", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 35


def test_without_arguments_the_commands_are_listed(capsys) -> None:
    assert run() == 0
    told = capsys.readouterr().out
    assert [c for c in ("fetch", "predict", "explain", "view", "demo") if c not in told] == []


def test_help_names_every_architecture_and_source(capsys) -> None:
    """They are written out there, because their registries are slow to import."""
    assert run("explain", "--help") == 0
    told = " ".join(re.sub(r"[│|]", " ", capsys.readouterr().out).split())
    assert [word for word in (*ARCHITECTURES, *SOURCES) if not re.search(rf"\b{word}\b", told)] == []


def test_importing_the_package_is_quick_and_leaves_torch_alone() -> None:
    code = "import ies_helpers, ies_helpers.__main__, sys; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0


# Mistakes in what is asked for


MISTAKES = {
    "an unknown option": (["--fast"], "--fast"),
    "an option that is no number": (["--threshold", "low"], "'--threshold'"),
    "a recipe that cannot work": (["--method", "lime"], "'lime'", *METHODS),
    "settings of a recipe that do not go together": (["--statistics", "frozen", "--aggregate", "mean"], "with mean"),
    "draws that are neither number nor word": (["--draws", "-3"], "got -3"),
    "a device": (["--device", "tpu"], "'tpu'"),
    "a threshold that is no probability": (["--threshold", "30"], "got 30"),
    "a network that the recipe is not for": (["--statistics", "frozen"], "narrow"),
    "lesions": (["--lesions", "3,,7"], "'3,,7'"),
    "an unknown network": (["--network", "vnet"], "vnet"),
    "no NAME=FILE": (["--image", "flair.nii"], "'flair.nii'"),
    "mirrored copies of what has none": (["--no-mirroring"], "narrow.safetensors"),
    "a channel named twice": (["--image", "dir=a.nii", "--image", "dir=b.nii"], "dir"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_setting_is_one_sentence(mistake: str, patient, network, tmp_path, capsys) -> None:
    options, *told = MISTAKES[mistake]
    with refused(capsys, tmp_path / "out", *told) as codes:
        codes.append(run("explain", patient, "--network", network, "--out", tmp_path / "out", *options))


@pytest.mark.parametrize("command", ["predict", "explain"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nobody", "no folder nobody"),
        ("phantom:x", "named by its seed, as phantom:7"),
        ("openms:patient99", "is no name to fetch"),
    ],
)
def test_an_unknown_subject_is_one_sentence(command: str, name: str, told: str, tmp_path, capsys) -> None:
    with refused(capsys, tmp_path / "out", told) as codes:
        codes.append(run(command, name, "--out", tmp_path / "out"))


@pytest.mark.parametrize("arguments", [["predict", "--target", "m.nii"], ["predict", "x", "--target", "m.nii"]])
def test_half_a_subject_is_one_sentence(arguments: list[str], tmp_path, capsys) -> None:
    with refused(capsys, tmp_path / "out", "one name, or the files") as codes:
        codes.append(run(*arguments, "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch", "openms:patient99"], "is no name to fetch: try openms:patient"),
        (["view", "nowhere"], "must hold maps made by `ies explain`, nowhere holds none"),
        (["view"], "Missing argument"),
        (["view", "nowhere", "--threshold", "20"], "share of the peak from 0 to below 1, got 20"),
        (["evaluate", "nowhere"], "must hold maps made by `ies explain`, nowhere holds none"),
        (["evaluate"], "Missing argument"),
        (["evaluate", "nowhere", "--seed", "-1"], "seed must be 0 or more, got -1"),
        (["segment"], "No such command 'segment'"),
    ],
)
def test_other_commands_refuse_in_one_sentence_too(arguments: list[str], told: str, tmp_path, capsys) -> None:
    with refused(capsys, tmp_path / "out", told) as codes:
        codes.append(run(*arguments))


def test_a_real_process_ends_the_same_way() -> None:
    command = [sys.executable, "-m", "ies_helpers", "fetch", "nothing"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("ies: 'nothing' is no name to fetch")


def test_a_lesion_number_that_does_not_exist_is_told_which_do(patient, network, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("explain", patient, "--network", network, "--out", out, "--lesions", "2,9", "--json") == 2
    error = capsys.readouterr().err
    assert error == "ies: Lesions here are numbered 1 to 3, got 9; see the lesion table.\n"
    assert [n for n in files_below(out) if "_desc-" in n and "dseg" not in n] == []


def test_no_lesion_found_is_told_by_predict_and_refused_by_explain(patient, network, tmp_path, capsys) -> None:
    shutil.copytree(patient, tmp_path / "healthy")
    mask = tmp_path / "healthy" / "sub-p1_label-lesion_mask.nii.gz"
    write_image(mask, np.zeros((96, 96, 96), dtype=np.uint8))
    common = [tmp_path / "healthy", "--network", network, "--out", tmp_path / "out", "--threshold", "0.9999999"]
    assert run("predict", *common) == 0
    assert "Lesions(none)" in capsys.readouterr().out
    assert run("explain", *common) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "ies: There must be a lesion to work on; of 'all' there is none among Lesions(none)."
    assert strays(tmp_path) == []


def test_another_threshold_in_the_same_folder_changes_nothing(explained, patient, network, capsys) -> None:
    """It would renumber the lesions that the maps refer to."""
    before = {name: (explained / name).stat().st_mtime_ns for name in files_below(explained)}
    common = [patient, "--network", network, "--out", explained, "--threshold", "0.9", "--json"]
    assert run("explain", *common, "--method", "gradcam") == 2
    error = capsys.readouterr().err
    assert "maps of other lesions of p1" in error
    assert error.count("\n") == 1
    assert {name: (explained / name).stat().st_mtime_ns for name in files_below(explained)} == before


def test_a_changed_header_harms_no_finished_folder(patient, network, tmp_path, capsys) -> None:
    """Nothing is overwritten, and the folder can be read afterwards as before."""
    shutil.copytree(patient, tmp_path / "in")
    common = ["explain", tmp_path / "in", "--network", network, "--out", tmp_path / "out", "--method", "gradcam"]
    assert run(*common) == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files_below(tmp_path / "out")}
    for path in (tmp_path / "in").glob("*.nii.gz"):
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        write_image(path, values, image.affine + 5 * np.eye(4, k=3))
    capsys.readouterr()
    assert run(*common, "--json") == 2
    error = capsys.readouterr().err
    assert re.search(r"p1 .*their voxels lie up to 5 mm apart; .* another --out", error)
    assert error.count("\n") == 1
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files_below(tmp_path / "out")} == before
    assert len(read_maps(tmp_path / "out")) > 0


def test_other_settings_in_the_same_folder_are_refused_with_what_differs(explained, patient, network, capsys) -> None:
    common = ["explain", patient, "--network", network, "--out", explained, "--json", "--aggregate", "mean"]
    assert run(*common, "--lesions", "1", "--draws", "3", "--seed", "7") == 2
    assert "draws 2 instead of 3. Take another --out." in capsys.readouterr().err


# Mistakes in files


DAMAGES = {"missing": "lacks t1", "cut": "truncated", "header": "sub-p1_FLAIR.nii.gz"}
"""One of each kind: a file that is not there, one that ends too early, and one that nibabel cannot read."""


@pytest.mark.parametrize("how", DAMAGES)
def test_a_patient_that_cannot_be_used_is_one_sentence(how: str, patient, network, tmp_path, capsys) -> None:
    shutil.copytree(patient, tmp_path / "in")
    flair = tmp_path / "in" / "sub-p1_FLAIR.nii.gz"
    match how:
        case "missing":
            (tmp_path / "in" / "sub-p1_T1w.nii.gz").unlink()
        case "cut":
            flair.write_bytes(flair.read_bytes()[:50_000])
        case "header":
            flair.write_bytes(gzip.compress(b"no image"))
    with refused(capsys, tmp_path / "out", DAMAGES[how]) as codes:
        codes.append(run("predict", tmp_path / "in", "--network", network, "--out", tmp_path / "out"))


def test_an_image_below_one_window_is_padded_and_that_is_said(network, tmp_path, capsys) -> None:
    small = write_patient(tmp_path / "in", side=64, spots={"TP": (30, 30, 30)})
    asked = ["explain", small, "--network", network, "--lesions", "1", "--draws", "1", "--out", tmp_path / "out"]
    assert run(*asked) == 0
    assert "windows of 96 x 96 x 96 voxels and the image has 64 x 64 x 64" in capsys.readouterr().err
    (saved,) = read_maps(tmp_path / "out")
    assert saved.load()[0].shape == (2, 64, 64, 64)


def test_weights_that_do_not_fit_are_one_sentence(patient, network, tmp_path, capsys) -> None:
    for architecture in (["nnunet"], ["swin_unetr", "--merging", "monai-0.9"]):
        with refused(capsys, tmp_path / "out", "must fit the architecture", "missing", "unknown") as codes:
            options = ["--network", network, "--architecture", *architecture]
            codes.append(run("predict", patient, *options, "--out", tmp_path / "out"))
    state = load_file(network)
    save_file({k: v for k, v in state.items() if "bias" not in k}, tmp_path / "n.safetensors")
    with refused(capsys, tmp_path / "out", "n.safetensors must fit the architecture", "missing") as codes:
        options = ["--network", tmp_path / "n.safetensors", "--architecture", "unet"]
        codes.append(run("predict", patient, *options, "--out", tmp_path / "out"))


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["ATTACK"],)


def test_weights_that_want_to_run_code_are_one_sentence_and_run_nothing(patient, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("ATTACK", str(tmp_path / "was here"))
    torch.save({"state_dict": Attack()}, tmp_path / "n.pth")
    with refused(capsys, tmp_path / "out", "n.pth asks to run posix.mkdir and was not opened") as codes:
        options = ["--network", tmp_path / "n.pth", "--architecture", "unet"]
        codes.append(run("predict", patient, *options, "--out", tmp_path / "out"))
    assert not (tmp_path / "was here").exists()


def test_an_archive_that_wants_out_of_its_folder_is_one_sentence(tmp_path, capsys, monkeypatch) -> None:
    for name in ("weights.pth", "evil"):
        (tmp_path / name).write_bytes(b"x")
    archive = tmp_path / "mirror" / "toy" / "deep" / "one.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as container:
        container.add(tmp_path / "weights.pth", "weights.pth")
        container.add(tmp_path / "evil", "../../../evil-was-here")
    monkeypatch.setattr(downloads, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setenv("IES_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    base = (tmp_path / "mirror" / "toy").as_uri()
    write_registry(tmp_path / "data", [base], f'sha256 = "{digest}", member = "*.pth"', "deep/{item}.tar.xz")
    with refused(capsys, tmp_path / "out", "relative names only", "../../../evil-was-here") as codes:
        codes.append(run("fetch", "toy:one"))
    assert list(tmp_path.rglob("*was-here")) == []


# Folders that cannot be written


def test_an_output_below_a_file_is_one_sentence(patient, network, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    with refused(capsys, tmp_path / "file" / "out", "file") as codes:
        codes.append(run("predict", patient, "--network", network, "--out", tmp_path / "file" / "out"))


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_whole_files_only(
    patient, network, tmp_path, capsys, monkeypatch
) -> None:
    save, out, made = nibabel.save, tmp_path / "out", []

    def filling(image, path) -> None:
        made.append(path)
        if len(made) > 6:  # probability, three groups, one map and its second modality
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(image, path)

    monkeypatch.setattr(nibabel, "save", filling)
    common = ["explain", patient, "--network", network, "--out", out, "--json", "--aggregate", "mean", "--draws", "1"]
    assert run(*common) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert pd.read_csv(out / "maps.tsv", sep="\t")["lesion"].tolist() == [1, 1]
    assert all(len(np.asanyarray(nibabel.load(p).dataobj)) == 96 for p in out.rglob("*.nii.gz"))
    assert strays(out) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where this user may mount one; else a message tells why not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_is_one_sentence(small_disk: Path, patient, network, capsys) -> None:
    assert run("predict", patient, "--network", network, "--out", small_disk / "out", "--json") == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "make room" in error
    assert error.count("\n") == 1
    assert [name for name in files_below(small_disk) if name.endswith(".nii.gz")] == []
    assert strays(small_disk) == []


# `ies uncertainty`


def test_uncertainty_writes_a_row_a_lesion_and_one_for_the_patient(patient, network, tmp_path, capsys) -> None:
    arguments = ["--network", network, "--source", "noise", "--draws", 3, "--seed", 2, "--noise", 0.1]
    assert run("uncertainty", patient, *arguments, "--out", tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    subject, net = load_subject(patient), load_network(network)
    answers = member_probabilities(net, subject.image, source="noise", draws=3, seed=2, noise=0.1)
    wanted = lesion_uncertainty(answers, find_lesions(net, subject), threshold=net.threshold)
    table = pd.read_csv(tmp_path / "sub-p1" / "uncertainty.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    for name in ("structural", "structural_all", "entropy_of_mean", "mutual_information"):
        assert table[name].tolist() == pytest.approx(wanted[name].tolist(), rel=1e-5, nan_ok=True)
    assert [row["structural"] is None for row in told["lesions"]] == [False, False, True]  # FN
    row = pd.read_csv(tmp_path / "sub-p1" / "uncertainty_patient.tsv", sep="\t").iloc[0]
    assert row["structural"] == pytest.approx(told["patient"]["structural"], rel=1e-5)
    assert (row["subject"], row["source"], row["members"], row["lesions"]) == ("p1", "noise", 3, 2)


def test_an_ensemble_is_predicted_explained_and_asked_for_its_doubt(patient, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "checkpoints").mkdir()
    for gain, name in enumerate(("unet", "unet_1"), 2):
        write_network(tmp_path / "checkpoints" / f"{name}.safetensors", gain=gain)
    monkeypatch.setattr(formats, "data_folder", lambda: tmp_path)
    common = [patient, "--network", "unet:ensemble", "--out", tmp_path / "out"]
    assert run("uncertainty", *common) == 0
    assert "p1, 2 members: structural" in capsys.readouterr().out
    assert run("explain", *common, "--lesions", "1", "--aggregate", "mean", "--draws", "1", "--noise", "0") == 0
    (saved,) = read_maps([tmp_path / "out"])
    values, mask, _ = saved.load()
    image, lesion = load_subject(patient).image, torch.from_numpy(np.asarray(mask))
    parts = [gradient(load_network(f"unet:{n}"), image, lesion, aggregate="mean") for n in (0, 1)]
    wanted = (parts[0] + parts[1]) / 2
    assert (values - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert list(networks_of([saved])) == [load_network("unet:ensemble").digest()]


def test_one_network_has_no_members_and_is_told_before_anything_is_written(patient, network, tmp_path, capsys) -> None:
    with refused(capsys, tmp_path / "out", "is one network", "source='noise'", "unet:ensemble") as codes:
        codes.append(run("uncertainty", patient, "--network", network, "--out", tmp_path / "out"))


# `ies perilesional`


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, two patients with a true positive, one without."""
    home = tmp_path_factory.mktemp("home")
    write_network(home / "narrow.safetensors")
    for seed, (name, spots) in enumerate({"a": SPOTS, "b": SPOTS, "c": {"FP": SPOTS["FP"]}}.items()):
        write_patient(home / name, name, seed=seed, spots=spots)
    return home


def curves_of(home: Path, *arguments: object, lesions: str = "TP") -> int:
    return run("perilesional", *arguments, "--network", home / "narrow.safetensors", "--lesions", lesions)


def test_a_subject_without_a_lesion_is_noted_and_the_others_are_finished(home, tmp_path, capsys) -> None:
    assert curves_of(home, home / "a", home / "c", home / "b", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    assert "Note: c: There must be a lesion to work on; of 'TP' there is none among Lesions(1 FP)." in captured.err
    assert "only 2 subjects: their interval is likely too narrow" in captured.out
    made = {name: pd.read_csv(tmp_path / f"perilesional_{name}.tsv", sep="\t") for name in ("summary", "medians")}
    assert made["summary"]["subject"].tolist() == ["a", "b"]
    assert made["medians"][["measure", "subjects"]].to_numpy().tolist() == [["first_seen_mm", 2], ["keeps_mm", 2]]
    curves = pd.read_csv(tmp_path / "perilesional.csv")
    average = pd.read_csv(tmp_path / "perilesional_average.tsv", sep="\t")
    assert average["mean"].to_numpy() == pytest.approx(curves.groupby("distance_mm")["score"].mean(), rel=1e-5)
    assert (average["low"] <= average["mean"]).all()
    assert (average["mean"] <= average["high"]).all()
    assert (tmp_path / "figures" / "perilesional.png").is_file()


def test_without_any_lesion_it_is_refused_with_every_subject_s_reason(home, tmp_path, capsys) -> None:
    assert curves_of(home, home / "a", home / "c", "--out", tmp_path, lesions="TP:2-3") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ies: a: There must be a lesion to work on; of 'TP:2-3' there is none among Lesions(1 TP")
    assert "c: There must be a lesion to work on; of 'TP:2-3' there is none among Lesions(1 FP)." in error
    assert not (tmp_path / "perilesional.csv").exists()


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("phantom:x", "A phantom is named by its seed, as phantom:7; got 'phantom:x'."),
        ("openms:patient99", "'openms:patient99' is no name to fetch"),
        ("nowhere", "there is no folder nowhere"),
        ("again/a", "must have different names, {home}/again/a is the second a; rename its files"),
    ],
)
def test_a_mistake_in_the_last_name_is_met_before_the_first_is_worked_on(
    second, told, home, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(cli, "segment_subject", lambda *_: pytest.fail("work was begun"))
    write_patient(home / "again" / "a", "a")
    second = home / second if "/" in second else second
    assert curves_of(home, home / "a", second, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert told.format(home=home) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_files_by_name_are_a_subject_as_in_other_commands(home, tmp_path, capsys) -> None:
    flair, t1, target = (home / "a" / f"sub-a_{s}.nii.gz" for s in ("FLAIR", "T1w", "label-lesion_mask"))
    files = ["--flair", flair, "--t1", t1]
    assert curves_of(home, *files, "--target", target, "--out", tmp_path / "files", "--json") == 0
    data = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [row["subject"] for row in data["lesions"]] == ["a"]
    assert {row["note"] for row in data["medians"]} == {"one subject: no interval over subjects"}
    assert data["medians"][0]["low"] is None
    assert curves_of(home, home / "a", "--out", tmp_path / "folder") == 0
    assert (tmp_path / "files/perilesional.csv").read_bytes() == (tmp_path / "folder/perilesional.csv").read_bytes()
    capsys.readouterr()
    assert curves_of(home, home / "b", *files, "--out", tmp_path / "both") == 2
    assert "got subject, flair, t1" in capsys.readouterr().err


def test_a_corrected_header_is_no_finished_curve(tmp_path, capsys) -> None:
    """The curves of 1 mm were kept for an image of 2 mm."""
    write_network(tmp_path / "narrow.safetensors")
    patient, out = write_patient(tmp_path / "p", "p"), tmp_path / "out"
    assert curves_of(tmp_path, patient, "--out", out) == 0
    before = (out / "perilesional.csv").read_bytes()
    for path in patient.glob("*.nii.gz"):
        values = np.asanyarray(nibabel.load(path).dataobj)
        write_image(path, values, np.diag([2.0, 2.0, 2.0, 1.0]))
    capsys.readouterr()
    assert curves_of(tmp_path, patient, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("lesion 1 of p with another image, affine or place; take another --out to make it anew.")
    assert (out / "perilesional.csv").read_bytes() == before
    assert [name for name in files_below(out) if ".part" in name] == []


# `ies evaluate`


FIGURES = ["balance", "measures", "peaks", "ranking"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another subject's folder, explained in one way only."""
    return explain_toy(tmp_path_factory.mktemp("second"), "p2", ("gradient",))


def test_two_folders_become_one_table_a_summary_a_ranking_and_figures(made, second, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("evaluate", made, second, "--out", out) == 0
    told = capsys.readouterr().out
    assert f"9 maps measured; {out} holds" in told
    tables = ["measures.csv", "ranking.csv", "summary.csv", "summary.md", "summary.tex"]
    assert files_below(out) == ["figures", *(f"figures/{name}.png" for name in FIGURES), *tables]
    assert strays(tmp_path) == []
    measures, summary = pd.read_csv(out / "measures.csv"), pd.read_csv(out / "summary.csv")
    energy = measures[(measures["measure"] == "energy") & (measures["method"] == "gradient mean")]
    assert sorted(energy["subject"]) == ["p1"] * 3 + ["p2"] * 3
    row = summary[(summary["measure"] == "energy") & (summary["method"] == "gradient mean")].set_index("group")
    assert row.loc["all", ["subjects", "n"]].tolist() == [2, 6]
    assert row.loc["all", "mean"] == pytest.approx(energy["value"].mean(), rel=1e-4)
    assert row.loc["FP", "sd"] == pytest.approx(energy[energy["group"] == "FP"]["value"].std(), rel=1e-4)
    ranking = pd.read_csv(out / "ranking.csv")
    assert set(ranking["left_out"][ranking["measure"] == "energy"]) == {3}  # the second subject's, by one method only
    assert "| tiny    | gradient mean | all   | 6    |" in (out / "summary.md").read_text()
    assert (out / "summary.tex").read_text().startswith("\\begin{tabular}")


def test_faithfulness_asks_the_network_that_is_given_and_json_is_json(made, tmp_path, capsys) -> None:
    weights, out = made.parent / "tiny.safetensors", tmp_path / "out"
    assert run("evaluate", made, "--faithfulness", "--network", weights, "--device", "cpu", "--out", out, "--json") == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert captured.err == ""
    assert {row["group"] for row in data["summary"]} == {"all", "TP", "FP", "FN"}
    assert {"road", "deletion"} <= {row["measure"] for row in data["ranking"]}
    measures = pd.read_csv(out / "measures.csv")
    assert measures[measures["measure"].isin(["road", "deletion"])].groupby("measure").size().tolist() == [6, 6]
    assert set(pd.read_csv(out / "curves.csv")["curve"]) == {"morf", "lerf", "deletion"}
    assert (out / "figures" / "curves.png").is_file()


def test_mistakes_are_one_sentence_and_make_nothing(made, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    other = tiny_network(tmp_path / "other.safetensors", seed=5)
    damaged = Path(shutil.copytree(made, tmp_path / "damaged"))
    path = damaged / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    empty = tmp_path / "empty"
    empty.mkdir()
    for told, arguments in {
        "empty holds none": [empty],
        "one map of a method": [made, shutil.copytree(made, tmp_path / "twin")],
        "is truncated or damaged": [damaged],
        "Only shipped networks are found by name, got 'tiny'": [made, "--faithfulness"],
        "Only the network that made a map": [made, "--faithfulness", "--network", other],
        "got --network nosuch.pth, --merging monai-0.9 without it; add it, or leave them out": [
            *(made, "--network", "nosuch.pth", "--merging", "monai-0.9"),
        ],
    }.items():
        with refused(capsys, out, told) as codes:
            codes.append(run("evaluate", *arguments, "--out", out, "--json"))


# `ies refine`


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six subjects of a true, a false and a missed lesion each, explained in one way, and one missed without a map."""
    root = tmp_path_factory.mktemp("several")
    made = [explain_toy(root / f"p{n}", f"p{n}", ("gradient",)) for n in range(6)]
    return [list_lesions(out, "4\tFN\t9\t0.01") for out in made]


def test_false_lesions_are_judged_and_what_was_used_is_written(several, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("refine", *several, "--permutations", "4", "--keep", "0.9", "--seed", "3", "--out", out, "--json") == 0
    data = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    tables = [f"{name}.csv" for name in ("judges", "lesions", "used", "weights")]
    assert files_below(out) == sorted(["figures", "figures/refined.png", "refined.json", *tables])
    assert strays(tmp_path) == []
    judges = pd.read_csv(out / "judges.csv").set_index("judge")
    assert list(judges.index) == ["as found", "size", "probability", "free", "features", "all"]
    assert judges.loc["as found", ["tp", "fp", "fn"]].tolist() == [6, 6, 12]
    assert judges.loc["as found", "sensitivity"] == pytest.approx(6 / 18, rel=1e-5)
    assert [row["f1"] for row in data["judges"]] == pytest.approx(judges["f1"].tolist(), rel=1e-5)
    told = json.loads((out / "refined.json").read_text())
    assert [told["keep"], told["permutations"], told["seed"], told["free"]] == [0.9, 4, 3, ["size", "probability"]]
    assert told["features"]["gradientmean_flair_spread"]["unit"] == "mm"
    assert set(told["networks"]) == {f"p{n}" for n in range(6)}
    assert told["p"] in (0.2, 0.4, 0.6, 0.8, 1.0)
    assert "only 6 subjects: their interval is likely too narrow" in told["notes"]
    learned = pd.read_csv(out / "used.csv").query("judge == 'all'")
    assert [name for row in learned.itertuples() for name in row.judged.split() if name in row.learned_from] == []


def test_folders_that_cannot_be_refined_are_one_sentence(several, made, tmp_path, capsys) -> None:
    for told, arguments in {
        "got 1 TP and 1 FP": several[:1],
        "there is no": [made],
        "got 1.5": [*several, "--keep", "1.5"],
        "got -1": [*several, "--permutations", "-1"],
    }.items():
        with refused(capsys, tmp_path / "out", told) as codes:
            codes.append(run("refine", *arguments, "--out", tmp_path / "out", "--json"))


# `ies view`


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two subjects, one lesion of each explained, in two ways."""
    root = tmp_path_factory.mktemp("toy")
    made = [explain_toy(root / name, name, (method,)) for name, method in (("p1", "gradient"), ("p2", "gradcam"))]
    for path in root.rglob("*_desc-gradientmeanL00[23]_*"):
        path.unlink()
    for path in root.rglob("*_desc-gradcamL00[12]_*"):
        path.unlink()
    return made


def test_each_folder_gets_its_pictures_and_the_first_the_overview(folders, capsys) -> None:
    assert run("view", *folders) == 0
    told = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 2 * 2 + 2
    assert all(path.is_file() for path in told)
    assert told[-2:] == [folders[0] / "figures" / name for name in ("sheet.png", "index.html")]
    assert [sum(path.is_relative_to(folder) for path in told) for folder in folders] == [4, 2]
    page = told[-1].read_text(encoding="utf-8")
    assert page.count("data-method=") == 2
    assert '<select name="subject">' in page


@pytest.mark.parametrize("threshold", ["1", "-0.1", "20"])
def test_a_threshold_that_is_no_share_is_one_sentence_and_draws_nothing(threshold, folders, capsys) -> None:
    before = files_below(folders[1])
    assert run("view", folders[1], "--threshold", threshold) == 2
    assert "share of the peak from 0 to below 1" in capsys.readouterr().err
    assert files_below(folders[1]) == before


def test_a_second_folder_without_maps_is_refused_before_the_first_is_drawn(folders, tmp_path, capsys) -> None:
    assert run("view", folders[0], tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ies: A folder must hold maps made by `ies explain`")


# Where a command runs: streams of any encoding, a reader that leaves, settings of others, no folder.


class Narrow(io.TextIOWrapper):
    """A stream that knows ASCII alone."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)

    def written(self) -> str:
        return self.buffer.getvalue().decode("ascii")  # pyright: ignore[reportAttributeAccessIssue]


def test_names_that_a_terminal_cannot_write_are_written_otherwise(folders, tmp_path, monkeypatch) -> None:
    """Müller, and the arrows of a table, ended the command when all was computed."""
    out, stdout, stderr = tmp_path / "Müller", Narrow(), Narrow()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run("evaluate", folders[0], "--out", out) == 0
    assert "M\\xfcller" in stdout.written()
    assert "\\u2191" in stdout.written()
    assert run("view", tmp_path / "Jürgen") == 2
    assert "J\\xfcrgen" in stderr.written()
    assert "↑" in (out / "summary.md").read_text(encoding="utf-8")


ELSEWHERE: dict[str, tuple[str, int, str]] = {
    "a reader that leaves": ("{ies} fetch --list | head -1", 0, ""),
    "settings of others": (
        "MPLBACKEND=nonsense PYTHONWARNINGS=error {ies} view none",
        2,
        "ies: A folder must hold maps",
    ),
    "settings that cannot be read": ("MATPLOTLIBRC=$PWD/rc {ies} view none", 2, "ies: matplotlib's settings cannot be"),
    "a folder that is gone": ("mkdir gone; cd gone; rmdir ../gone; {ies} fetch --list", 2, "ies: the working folder"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_command_ends_well_wherever_it_runs(where: str, tmp_path: Path) -> None:
    (tmp_path / "rc").write_bytes(b"\xff\xfe\x00")
    line, code, told = ELSEWHERE[where]
    command = line.format(ies=f"PYTHONPATH={Path(cli.__file__).parents[1]} {sys.executable} -m ies_helpers")
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


EMPTY = [("explain", "demo", "--out", ""), ("view", ""), ("evaluate", "", "--out", "x"), ("explain", "", "--out", "x")]
EMPTY += [("predict", "demo", "--network", "", "--out", "x"), ("perilesional", "demo", "", "--out", "x")]


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_name_is_none(command: tuple[str, ...], tmp_path, monkeypatch, capsys) -> None:
    """As of a variable that is not set: maps of the demo were made, or went beside whatever was there."""
    monkeypatch.chdir(tmp_path)
    with refused(capsys, tmp_path / "x", "got an empty") as codes:
        codes.append(run(*command))
    assert list(tmp_path.iterdir()) == []


def test_view_and_evaluate_are_told_where_a_moved_scan_lies(tmp_path, capsys) -> None:
    out = explain_toy(tmp_path / "toy", methods=("gradient",))
    shutil.move(tmp_path / "toy" / "in", tmp_path / "elsewhere")
    with refused(capsys, tmp_path / "none", "there is no", "by --subject where it lies now") as codes:
        codes.append(run("view", out))
    assert run("view", out, "--subject", tmp_path / "elsewhere") == 0
    assert len(list((out / "figures").glob("sub-p1*.png"))) == 3
    assert run("evaluate", out, "--out", tmp_path / "ev") == 0  # which asks nothing of the scan
