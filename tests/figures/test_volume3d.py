"""The 3D widget gets the very values of scan and map, on the scan's grid, with colours that tell the sign."""

import sys

import nibabel
import numpy as np
import pytest
import torch

from ies_helpers import Subject, load_subject
from ies_helpers.figures.pages import view_3d
from tests.patients import write_patient


@pytest.fixture
def subject(tmp_path) -> Subject:
    return load_subject(write_patient(tmp_path / "patient"))


def test_scan_and_map_are_handed_over_as_they_are(subject: Subject) -> None:
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    widget = view_3d(subject, saliency, modality="t1", threshold=0.25)
    scan, drawn = widget.volumes
    for volume, wanted in ((scan, subject.image[1]), (drawn, saliency[1])):
        image = nibabel.load(volume.path)
        assert np.array_equal(np.asarray(image.dataobj), wanted.numpy())
        assert np.allclose(image.affine, subject.affine)
    peak = float(saliency[1].abs().max())
    assert (drawn.cal_min, drawn.cal_max) == pytest.approx((0.25 * peak, peak))
    assert (drawn.cal_min_neg, drawn.cal_max_neg) == pytest.approx((-0.25 * peak, -peak))
    assert drawn.colormap != drawn.colormap_negative


def test_what_cannot_be_drawn_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    some = torch.ones((2, *subject.shape))
    with pytest.raises(ValueError, match=r"one of flair, t1 and threshold in \[0, 1\), got 't2' and 0.2"):
        view_3d(subject, some, modality="t2")
    with pytest.raises(ValueError, match="map of flair is zero everywhere"):
        view_3d(subject, some * 0)
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ies-helpers\[niivue\]'"):
        view_3d(subject, some)


def test_a_map_of_all_modalities_is_drawn_over_any_of_them(subject: Subject) -> None:
    widget = view_3d(subject, torch.ones((1, *subject.shape)), modality="t1")
    assert np.asarray(nibabel.load(widget.volumes[1].path).dataobj).min() == 1
