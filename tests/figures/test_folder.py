"""A folder of maps drawn: each map once, from its own subject, or one sentence that says why not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from ies_helpers import explain, find_lesions, load_subject
from ies_helpers.figures import pages as module
from ies_helpers.figures.pages import draw_folder, save_figure, title_of
from ies_helpers.segmentation.architectures import build
from ies_helpers.subjects import folder as reading
from ies_helpers.subjects.folder import SavedMap, save_lesions
from tests.patients import files_below, subject_in_memory, write_patient

STEMS = ("gradcamppL001", "gradientmaxL001")


@pytest.fixture
def explained(tmp_path: Path) -> Path:
    """One lesion of one patient, explained in two ways."""
    subject = load_subject(write_patient(tmp_path / "in", side=24, spots={"TP": (12, 12, 12)}))
    assert subject.target is not None
    torch.manual_seed(0)
    network = replace(build("unet", (2, 3, 4)), window=None, layer="model.1.submodule.2.conv", stride=None)
    probability = subject.target.float() * 0.8
    lesions = find_lesions(probability, subject.target, threshold=0.5, affine=subject.affine)
    labels = {"TP": lesions.label_map(subject.shape, "TP")}
    save_lesions(tmp_path / "out", subject, probability, labels)
    for method in ("gradcam++", "gradient"):
        explain(subject, network, list(lesions), tmp_path / "out", method=method)
    return tmp_path / "out"


def test_every_map_becomes_a_picture_and_a_page(explained: Path) -> None:
    drawn = [str(path.relative_to(explained)) for path in draw_folder(explained)]
    expected = [f"figures/sub-p1_desc-{stem}.{kind}" for stem in STEMS for kind in ("png", "html")]
    assert drawn == expected
    assert [name for name in files_below(explained) if name.startswith("figures/")] == sorted(expected)
    assert (explained / expected[0]).read_bytes()[:4] == b"\x89PNG"


def test_a_map_is_drawn_with_its_own_values_lesion_and_unit(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "plot_saliency", lambda *args, **kwargs: seen.append((*args, kwargs)) or Figure())
    monkeypatch.setattr(module, "saliency_html", lambda *_, **__: None)
    monkeypatch.setattr(module, "save_html", lambda _, path: path)
    list(draw_folder(explained))
    (subject, cam, mask, told), (_, gradient, _, _) = seen
    assert (len(cam), len(gradient)) == (1, 2)
    assert torch.equal(torch.as_tensor(mask), subject.target)
    record = json.loads((explained / "sub-p1/anat/sub-p1_desc-gradcamppL001_FLAIR.json").read_text())
    assert float(cam.max()) == record["maximum"] > 0
    assert told == {"title": "p1, lesion 1 (TP, 123 voxels): gradcam++", "unit": "arbitrary (weighted activation)"}


def test_a_title_says_what_was_explained_and_how() -> None:
    record = {"subject": "p1", "lesion": 3, "group": "FN", "voxels": 40, "method": "smoothgrad"}
    saved = SavedMap(Path(), record | {"aggregate": "max", "draws": 50}, (), ())
    assert title_of(saved) == "p1, lesion 3 (FN, 40 voxels): smoothgrad max, 50 draws"


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_maps_is_refused(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold maps made by `ies explain`, .*out holds none"):
        list(draw_folder(tmp_path / "out"))


def test_a_half_written_map_is_left_out(explained: Path) -> None:
    (explained / "sub-p1/anat/sub-p1_desc-gradientmaxL001_T1w.json").unlink()
    assert {path.stem for path in draw_folder(explained)} == {"sub-p1_desc-gradcamppL001"}


def test_a_patient_that_moved_is_named(explained: Path) -> None:
    (explained.parent / "in").rename(explained.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*in"):
        list(draw_folder(explained))


def test_a_subject_that_cannot_be_loaded_again_is_refused_and_not_mistaken_for_the_demo(explained: Path) -> None:
    for path in (explained / "sub-p1" / "anat").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source": {}}))
    with pytest.raises(ValueError, match=r"p1 was made in memory and cannot be loaded again.*plot_saliency"):
        list(draw_folder(explained))


def test_a_patient_that_was_replaced_is_refused(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_subject", lambda **_: subject_in_memory(name="p1"))
    with pytest.raises(ValueError, match=r"maps of p1 have the grid \(24, 24, 24\), .* now \(24, 28, 20\)"):
        list(draw_folder(explained))


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self, path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(Figure(), tmp_path / "figures" / "a.png")
    assert files_below(tmp_path) == []
