"""Maps read back: what was saved, or one sentence that says why not."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ies_helpers import load_network, load_subject
from ies_helpers.subjects import folder as reading
from ies_helpers.subjects.folder import Scans, read_maps
from tests.folders import explain_toy, found_in
from tests.patients import subject_in_memory, write_image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def only(folder: Path, stem: str):
    return next(saved for saved in read_maps(folder) if saved.stem.endswith(stem))


def test_a_map_comes_back_with_its_lesion_affine_and_modalities(made: Path) -> None:
    subject = load_subject(made.parent / "in")
    _, lesions = found_in(subject)
    maps = read_maps(made)
    assert [(m.record["lesion"], m.record["method"]) for m in maps] == [
        (n, method) for n in (1, 2, 3) for method in ("gradcam++", "gradient")
    ]
    for saved in maps:
        saliency, mask, affine = saved.load()
        assert len(saliency) == len(saved.modalities) == len(saved.images)
        assert saved.modalities == (("all",) if saved.record["method"] == "gradcam++" else ("flair", "t1"))
        assert float(saliency[0].max()) == saved.record["maximum"]
        assert np.array_equal(np.argwhere(mask.numpy()), lesions[saved.record["lesion"]].voxels)
        assert np.allclose(affine, subject.affine)
    assert maps[1].stem == "sub-p1_desc-gradientmeanL001"
    assert maps[1].title == f"p1, lesion 1 (TP, {len(lesions[1])} voxels)"


def test_a_folder_named_twice_is_read_once_and_several_are_read_together(made: Path, copied: Path) -> None:
    assert len(read_maps([made, made / ".." / "out"])) == 6
    assert len(read_maps([made, copied])) == 12


def test_a_map_that_is_being_written_is_left_out(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL002_T1w.json").unlink()
    assert "sub-p1_desc-gradientmeanL002" not in {saved.stem for saved in read_maps(copied)}
    assert len(read_maps(copied)) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", r"must be JSON, .*L001_FLAIR.json is damaged"),
        ("[]", r"must say how its map was made, .*L001_FLAIR.json has no subject, network"),
        ('{"subject": "p1", "network": "unet"}', r"has no digest, lesion, group"),
    ],
)
def test_a_damaged_sidecar_is_refused(copied: Path, text: str, told: str) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_maps(copied)


def test_a_truncated_map_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"map's image must be whole, .*L001_T1w.nii.gz is truncated or damaged"):
        only(copied, "gradientmeanL001").load()


def test_a_map_that_is_gone_is_refused(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_T1w.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"map's image must be a file, there is none at .*L001_T1w.nii.gz"):
        only(copied, "gradientmeanL001").load()


def test_lesions_that_are_gone_are_told_with_the_remedy(copied: Path) -> None:
    (copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz").unlink()
    rule = r"needs its lesion beside it, there is no .*desc-tp_dseg\.nii\.gz; explain the lesion again into the same"
    with pytest.raises(FileNotFoundError, match=rule):
        read_maps(copied)


def test_lesions_on_another_grid_are_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz"
    labels = nibabel.load(path)
    write_image(path, np.asarray(labels.dataobj), labels.affine + np.diag([0.0, 0.0, 0.1, 0.0]))
    with pytest.raises(ValueError, match=r"dseg.nii.gz, must lie on one grid, their affines differ by up to 0\.1"):
        only(copied, "gradientmeanL001").load()
    write_image(path, np.zeros((24, 24, 25), dtype=np.int16), labels.affine)
    with pytest.raises(ValueError, match=r"dseg.nii.gz, must lie on one grid, got \(24, 24, 24\) and \(24, 24, 25\)"):
        only(copied, "gradientmeanL001").load()


def test_a_lesion_that_is_not_there_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-tp_dseg.nii.gz"
    labels = nibabel.load(path)
    write_image(path, 5 * np.asarray(labels.dataobj), labels.affine)
    with pytest.raises(ValueError, match=r"p1, lesion 1 \(TP, 123 voxels\) has 0 voxels in sub-p1_desc-tp_dseg.nii.gz"):
        only(copied, "gradientmeanL001").load()


def test_a_map_with_nan_is_refused(copied: Path) -> None:
    path = copied / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.nii.gz"
    saved = nibabel.load(path)
    values = np.array(saved.dataobj)
    values[0, 0, 0] = np.nan
    write_image(path, values, saved.affine)
    with pytest.raises(ValueError, match=r"must be finite, .*L001_FLAIR.nii.gz is not"):
        only(copied, "gradientmeanL001").load()


def test_a_scan_is_loaded_once_for_all_its_maps(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(reading, "load_subject", lambda **source: loaded.append(source) or load_subject(**source))
    scans = Scans()
    assert len({id(scans(saved)) for saved in read_maps(made)}) == 1
    assert loaded == [{"subject": str(made.parent / "in")}]


def test_another_scan_of_the_same_name_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_subject", lambda **_: subject_in_memory(name="p1"))
    with pytest.raises(ValueError, match=r"maps of p1 have the grid \(24, 24, 24\), its scan is now \(24, 28, 20\)"):
        Scans()(read_maps(made)[0])


def test_the_sidecar_tells_the_network_that_made_the_map(made: Path) -> None:
    network = load_network(made.parent / "tiny.safetensors", device="cpu")
    path = made / "sub-p1/anat/sub-p1_desc-gradientmeanL001_FLAIR.json"
    assert json.loads(path.read_text())["digest"] == network.digest() == only(made, "gradientmeanL001").record["digest"]
