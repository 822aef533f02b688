"""True negatives: a lesion's shape in white matter, clear of every lesion, the same for a seed."""

import numpy as np
import pytest
from scipy import ndimage

from ies_helpers import find_lesions, load_subject
from ies_helpers.arrays import CONNECTIVITY
from ies_helpers.segmentation.lesions import CLEARANCE, _fits, true_negatives
from ies_helpers.subjects.tissue import inner_white_matter


@pytest.fixture(scope="module")
def demo():
    subject = load_subject("demo")
    assert subject.target is not None
    return subject, find_lesions(subject.target.float(), subject.target, threshold=0.5, affine=subject.affine)


def test_controls_have_the_shape_of_lesions_and_keep_clear_of_all_of_them(demo) -> None:
    subject, lesions = demo
    like = [lesion for lesion in lesions if len(lesion) < 200]
    controls = true_negatives(subject, lesions, like, seed=3)
    near = ndimage.binary_dilation(lesions.label_map(subject.shape).numpy() > 0, CONNECTIVITY, CLEARANCE)
    white, shapes = inner_white_matter(subject), {frozenset(map(tuple, le.voxels - le.voxels.min(0))) for le in like}
    assert len(controls) > 0.8 * len(like)
    for number, control in enumerate(controls, start=len(lesions) + 1):
        at = tuple(control.voxels.T)
        assert (control.number, control.group) == (number, "TN")
        assert white[at].all()
        assert not near[at].any()
        assert frozenset(map(tuple, control.voxels - control.voxels.min(0))) in shapes
        world = subject.affine[:3, :3] @ control.voxels.mean(axis=0) + subject.affine[:3, 3]
        assert control.centre_mm == pytest.approx(world)


def test_places_depend_on_the_seed_alone(demo) -> None:
    subject, lesions = demo
    like = [lesion for lesion in lesions if len(lesion) < 100][:4]
    one, same, other = (true_negatives(subject, lesions, like, seed=s) for s in (0, 0, 1))
    assert [c.voxels.tolist() for c in one] == [c.voxels.tolist() for c in same]
    assert [c.voxels.tolist() for c in one] != [c.voxels.tolist() for c in other]
    alone = true_negatives(subject, lesions, like[:1], seed=0)
    assert alone[0].voxels.tolist() == one[0].voxels.tolist()


def test_a_shape_fits_exactly_where_all_its_voxels_are_free() -> None:
    """By trying every corner."""
    free = np.random.default_rng(0).random((9, 8, 7)) < 0.8
    shape = np.array([[5, 5, 5], [6, 5, 5], [6, 6, 5], [6, 6, 7]])
    local = shape - shape.min(axis=0)
    corners = [c for c in np.ndindex(8, 7, 5) if free[tuple((local + c).T)].all()]
    assert [tuple(c) for c in _fits(free, shape)] == corners
    assert len(_fits(free, np.array([[0, 0, 0], [9, 0, 0]]))) == 0


def test_white_matter_is_bright_in_t1_and_free_of_lesions(demo) -> None:
    subject, _ = demo
    white, target = inner_white_matter(subject), subject.target.numpy()
    assert 0.15 < white.sum() / (subject.image[0].numpy() != 0).sum() < 0.5
    assert subject.image[1].numpy()[white].mean() > 0.8
    assert (white & target).sum() < 0.05 * target.sum()


def test_a_lesion_too_large_to_fit_and_no_lesion_are_refused(demo) -> None:
    subject, lesions = demo
    with pytest.raises(ValueError, match="like must name a lesion"):
        true_negatives(subject, lesions, [])
    whole = find_lesions((subject.image[0] != 0).float(), threshold=0.5)
    with pytest.raises(ValueError, match=r"must fit into white matter .* of 1 shapes none does in demo"):
        true_negatives(subject, lesions, list(whole)[:1])
