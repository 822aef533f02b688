"""The page: one small file that asks the network for nothing and shows the map in its place."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ies_helpers import saliency_html
from ies_helpers.figures import pages as html
from ies_helpers.figures.pages import save_html
from tests.patients import AFFINE, ball, files_below, lesion_of, subject_in_memory

LARGEST = 3_000_000


def test_the_page_of_a_large_scan_is_small_and_loads_nothing(tmp_path: Path) -> None:
    subject = subject_in_memory((120, 120, 120))
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    lesion = lesion_of(ball(subject.shape, (60, 60, 60), 6))
    save_html(saliency_html(subject, saliency, lesion, title="lesion 3"), tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert 100_000 < len(page) < LARGEST
    assert "lesion 3" in page
    assert re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]*""", page) == []
    assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", page) == []
    assert files_below(tmp_path) == ["new", "new/page.html"]


@pytest.mark.parametrize("centre", [(12, 14, 10), (0, 0, 0), (23, 27, 19), (23, 0, 10)])
@pytest.mark.parametrize("modality", ["flair", "t1"])
def test_map_and_image_lie_in_the_world_where_they_belong(
    monkeypatch, centre: tuple[int, int, int], modality: str
) -> None:
    """Also for a lesion at the border, whose surroundings are cut off."""
    given = {}
    monkeypatch.setattr("nilearn.plotting.view_img", lambda overlay, **options: given.update(options, overlay=overlay))
    monkeypatch.setattr(html, "REACH_MM", 4.0)
    subject = subject_in_memory()
    saliency = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *subject.shape)).astype(np.float32))
    saliency_html(subject, saliency, lesion_of(ball(subject.shape, centre, 1)), modality=modality)
    channel = subject.channels.index(modality)
    world = nibabel.affines.apply_affine(AFFINE, centre)
    for shown, whole in ((given["overlay"], saliency[channel]), (given["bg_img"], subject.image[channel])):
        there = np.round(np.linalg.inv(shown.affine) @ [*world, 1]).astype(int)[:3]
        assert shown.get_fdata()[tuple(there)] == pytest.approx(float(whole[centre]))
        assert max(shown.shape) <= 11
    assert np.abs(np.array(given["cut_coords"]) - world).max() <= 1
    assert given["symmetric_cmap"]
    assert given["vmax"] == pytest.approx(float(saliency[channel].abs().max()))


@pytest.mark.parametrize("centre", [(0, 0, 0), (23, 27, 19)])
def test_a_lesion_in_a_corner_and_a_map_of_zeros_make_a_page(tmp_path: Path, centre: tuple[int, int, int]) -> None:
    subject = subject_in_memory()
    saliency = torch.zeros(2, *subject.shape)
    before = saliency.clone()
    save_html(saliency_html(subject, saliency, lesion_of(ball(subject.shape, centre, 1))), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert torch.equal(saliency, before)


def test_an_unknown_modality_is_refused() -> None:
    subject = subject_in_memory()
    with pytest.raises(ValueError, match="modality must be one of flair, t1, got 't2'"):
        saliency_html(subject, torch.zeros(2, *subject.shape), np.array([[1, 1, 1]]), modality="t2")
