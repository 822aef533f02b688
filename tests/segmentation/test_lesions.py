"""Lesions: components, groups, geometry, all painted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ies_helpers import Network, Subject, find_lesions, load_subject
from ies_helpers.arrays import CONNECTIVITY, as_voxels
from ies_helpers.segmentation.lesions import CLEARANCE, Lesions, _fits, components, true_negatives
from ies_helpers.subjects.tissue import inner_white_matter
from tests.patients import write_image

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 1.0, -72], [0, 0, 0, 1]])


def paint(*boxes: tuple[slice, slice, slice], value: float = 0.9) -> torch.Tensor:
    """A volume of 24^3 with boxes of one value."""
    volume = torch.zeros(24, 24, 24)
    for box in boxes:
        volume[box] = value
    return volume


FOUND = (slice(2, 4), slice(2, 4), slice(2, 4))  # 8 voxels
TOUCHED = (slice(3, 6), slice(3, 6), slice(3, 6))  # shares one voxel with FOUND
ALONE = (slice(10, 13), slice(2, 4), slice(2, 4))  # 12 voxels
MISSED = (slice(18, 20), slice(18, 20), slice(18, 20))  # 8 voxels
SPECK = (slice(18, 19), slice(18, 19), slice(18, 23))  # 5 voxels: too few to count


def test_groups_follow_their_definitions() -> None:
    lesions = find_lesions(paint(FOUND, ALONE), paint(TOUCHED, MISSED) > 0, threshold=0.5, affine=AFFINE)
    assert [(le.number, le.group, len(le)) for le in lesions] == [(1, "TP", 8), (2, "FP", 12), (3, "FN", 8)]
    assert repr(lesions) == "Lesions(1 TP, 1 FP, 1 FN)"


def test_a_speck_of_five_voxels_is_no_lesion_and_finds_none() -> None:
    lesions = find_lesions(paint(SPECK), paint(MISSED) > 0, threshold=0.5)
    assert [le.group for le in lesions] == ["FN"]
    assert len(find_lesions(paint(), paint(SPECK) > 0, threshold=0.5)) == 0
    six = (slice(18, 19), slice(18, 19), slice(17, 23))
    assert [len(le) for le in find_lesions(paint(six), threshold=0.5)] == [6]


def test_a_speck_of_the_target_makes_what_touches_it_true() -> None:
    assert [le.group for le in find_lesions(paint(MISSED), paint(SPECK) > 0, threshold=0.5)] == ["TP"]


def test_edges_connect_and_corners_do_not() -> None:
    by_edge = paint((slice(0, 2), slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4), slice(0, 2)))
    by_corner = paint((slice(0, 2), slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4), slice(2, 4)))
    assert [len(le) for le in find_lesions(by_edge, threshold=0.5)] == [16]
    assert [len(le) for le in find_lesions(by_corner, threshold=0.5)] == [8, 8]


def test_the_threshold_itself_is_not_lesion() -> None:
    assert len(find_lesions(paint(FOUND, value=0.5), threshold=0.5)) == 0
    assert len(find_lesions(paint(FOUND, value=0.5), threshold=0.499)) == 1


def test_volume_centre_and_probabilities_are_in_their_units() -> None:
    probability = paint(ALONE)
    probability[10, 2, 2] = 0.7
    lesion = find_lesions(probability, threshold=0.5, affine=AFFINE)[1]
    assert lesion.group == "unknown"
    assert lesion.volume_mm3 == pytest.approx(12 * 3.0)
    assert lesion.centre_mm == pytest.approx([90 - 2 * 11, -126 + 1.5 * 2.5, -72 + 2.5])
    assert lesion.mean_probability == pytest.approx((11 * 0.9 + 0.7) / 12)
    assert lesion.max_probability == pytest.approx(0.9)
    assert lesion.label == "L001"


def test_without_an_affine_there_are_no_millimetres() -> None:
    lesion = find_lesions(paint(ALONE), threshold=0.5)[1]
    assert np.isnan(lesion.volume_mm3)
    assert np.isnan(lesion.centre_mm).all()


def test_the_table_has_a_row_a_lesion() -> None:
    table = find_lesions(paint(FOUND, ALONE), paint(FOUND) > 0, threshold=0.5, affine=AFFINE).table()
    assert list(table.columns) == [
        *("lesion", "group", "voxels", "volume_mm3", "centre_x_mm", "centre_y_mm", "centre_z_mm"),
        *("mean_probability", "max_probability"),
    ]
    assert table.group.tolist() == ["TP", "FP"]
    assert table.volume_mm3.tolist() == pytest.approx([24.0, 36.0])


def test_label_maps_carry_the_numbers() -> None:
    lesions = find_lesions(paint(FOUND, ALONE), paint(FOUND) > 0, threshold=0.5)
    labels = lesions.label_map((24, 24, 24))
    assert torch.bincount(labels.ravel()).tolist() == [24**3 - 20, 8, 12]
    assert int(lesions.label_map((24, 24, 24), "FP").max()) == 2
    assert torch.equal(labels == 2, lesions[2].mask((24, 24, 24)))


def test_components_equal_a_mask_per_label(rng: np.random.Generator) -> None:
    mask = ndimage.gaussian_filter(rng.standard_normal((40, 40, 40)), 1) > 0.2
    labels, count = ndimage.label(mask, CONNECTIVITY)  # pyright: ignore[reportGeneralTypeIssues]
    loop = [np.argwhere(labels == n) for n in range(1, count + 1)]
    wanted = [voxels for voxels in loop if len(voxels) > 5]
    got = components(mask)
    assert len(got) == len(wanted) > 10
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_lesions_are_chosen_by_group_and_number() -> None:
    lesions = find_lesions(paint(FOUND, ALONE), paint(FOUND, MISSED) > 0, threshold=0.5)
    assert [le.number for le in lesions.select("all")] == [1, 2, 3]
    assert [le.number for le in lesions.select("FN")] == [3]
    assert [le.number for le in lesions.select("3,01,3")] == [3, 1]
    assert [le.number for le in lesions.select("size:9-12")] == [2]
    assert [le.number for le in lesions.select("size:8-")] == [1, 2, 3]
    with pytest.raises(KeyError, match="numbered 1 to 3, got 9"):
        lesions.select("1,9")
    with pytest.raises(ValueError, match="got 'largest'"):
        lesions.select("largest")
    with pytest.raises(ValueError, match="of 'unknown' there is none"):
        lesions.select("unknown")


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lie on one grid, got \(4, 4, 4\) and \(24, 24, 24\)"):
        find_lesions(paint(FOUND), torch.zeros(4, 4, 4), threshold=0.5)
    with pytest.raises(ValueError, match="between 0 and 1, got 30"):
        find_lesions(paint(FOUND), threshold=30)


def test_voxels_of_a_lesion_of_a_mask_and_of_an_array_agree() -> None:
    lesion = find_lesions(paint(ALONE), threshold=0.5)[1]
    for same in (lesion, lesion.mask((24, 24, 24)), lesion.voxels.astype(np.int16)):
        assert np.array_equal(as_voxels(same, (24, 24, 24)), lesion.voxels)


def test_a_group_and_sizes_are_chosen_together() -> None:
    """Bars of 7, 8 and 9 voxels; the target has the first and the last."""
    bars = [(slice(0, n), slice(4 * k, 4 * k + 1), slice(0, 1)) for k, n in enumerate((7, 8, 9))]
    lesions = find_lesions(paint(*bars), paint(bars[0], bars[2]) > 0, threshold=0.5)
    assert [(le.group, len(le)) for le in lesions.select("TP:8-9")] == [("TP", 9)]
    assert [(le.group, len(le)) for le in lesions.select("size:8-9")] == [("FP", 8), ("TP", 9)]
    with pytest.raises(ValueError, match=r"of 'FP:9-' there is none among Lesions\(2 TP, 1 FP\), of 8 voxels"):
        lesions.select("FP:9-")
    with pytest.raises(ValueError, match="lesions must be all"):
        lesions.select("FX:1-2")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (10 * paint(FOUND) - 5, "got values from -5 to 4; take predict, not predict_logits"),
        (torch.full((24, 24, 24), float("nan")), "got NaN or infinity; take predict"),
        (paint(FOUND)[0], r"must be a volume \(I, J, K\), got the shape \(24, 24\)"),
    ],
)
def test_what_is_no_probability_is_refused(values: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        find_lesions(values, threshold=0.5)


def test_masks_of_any_type_will_do() -> None:
    mask = paint(FOUND) > 0
    for prediction in (mask, mask.float(), mask.numpy()):
        for target in (mask, mask.float(), mask.double().numpy()):
            assert repr(find_lesions(prediction, target, threshold=0.5)) == "Lesions(1 TP)"  # pyright: ignore


def test_controls_are_counted_and_chosen_as_any_group() -> None:
    found = find_lesions(paint(FOUND), paint(FOUND) > 0, threshold=0.5)
    lesions = Lesions([found[1], replace(found[1], number=7, group="TN")])
    assert repr(lesions) == "Lesions(1 TP, 1 TN)"
    assert [le.number for le in lesions.select("TN")] == [le.number for le in lesions.select("TN:8-")] == [7]
    with pytest.raises(KeyError, match="numbered 1, 7, got 2"):
        lesions[2]
    with pytest.raises(KeyError, match="numbered 7, got 1"):
        Lesions([lesions[7]])[1]


def brightness(channels: tuple[str, ...] | None) -> Network:
    """A network whose logit of lesion is 10 (x - 0.5) of its one channel x."""
    module = torch.nn.Conv3d(1, 1, 1)
    with torch.no_grad():
        module.weight.fill_(10.0)
        module.bias.fill_(-5.0)  # pyright: ignore[reportOptionalMemberAccess]
    return Network(module, channels=channels, threshold=0.6)


def test_a_network_and_a_subject_say_all_that_lesions_need() -> None:
    """The prediction is of the channel that the network names, wherever the subject has it."""
    image = torch.stack([paint(), paint(FOUND, ALONE)])
    subject = Subject("two", image, AFFINE, ("t1", "flair"), target=paint(FOUND) > 0)
    lesions = find_lesions(brightness(("flair",)), subject)
    wanted = find_lesions(torch.sigmoid(10 * image[1] - 5), subject.target, threshold=0.6, affine=AFFINE)
    assert lesions.table().equals(wanted.table())
    assert [le.group for le in lesions] == ["TP", "FP"]
    assert find_lesions(brightness(("flair",)), subject, threshold=0.99).of("TP") == []
    with pytest.raises(ValueError, match="two has t1, flair and lacks pd"):
        find_lesions(brightness(("pd",)), subject)
    alone = Subject("one", image[1:], AFFINE, ("flair",))
    assert [le.group for le in find_lesions(brightness(None).module, alone)] == ["unknown", "unknown"]


def test_a_network_without_a_subject_or_the_other_way_round_is_refused() -> None:
    subject = Subject("one", paint(FOUND)[None], AFFINE, ("flair",))
    with pytest.raises(TypeError, match="got a Network and a Tensor"):
        find_lesions(brightness(None), subject.image, threshold=0.5)  # pyright: ignore
    with pytest.raises(TypeError, match="got a Tensor and a Subject"):
        find_lesions(subject.image[0], subject, threshold=0.5)  # pyright: ignore
    with pytest.raises(TypeError, match="affine"):
        find_lesions(brightness(None), subject, affine=AFFINE)  # pyright: ignore
    with pytest.raises(ValueError, match="got None"):
        find_lesions(subject.image[0])  # pyright: ignore


# Instances: lesions that a target or a file tells apart by their numbers.

HALF = (slice(4, 6), slice(2, 4), slice(2, 4))  # 8 voxels, a face from FOUND


def numbered(*boxes: tuple[slice, slice, slice]) -> torch.Tensor:
    """A volume of 24^3, each box with its number from 1 on."""
    volume = torch.zeros(24, 24, 24, dtype=torch.int32)
    for number, box in enumerate(boxes, 1):
        volume[box] = number
    return volume


def voxels_of(box: tuple[slice, slice, slice]) -> list[list[int]]:
    """Of a box, in scan order."""
    return np.argwhere(paint(box).numpy() > 0).tolist()


def test_touching_lesions_of_a_target_are_missed_one_by_one() -> None:
    """The network finds the first of two that touch: the other is an FN, which as one component would be found."""
    target = numbered(FOUND, HALF, MISSED)
    lesions = find_lesions(paint(FOUND, ALONE), target, threshold=0.5)
    assert [(le.group, le.voxels.tolist()) for le in lesions] == [
        *(("TP", voxels_of(FOUND)), ("FP", voxels_of(ALONE)), ("FN", voxels_of(HALF)), ("FN", voxels_of(MISSED)))
    ]
    joined = find_lesions(paint(FOUND, ALONE), target > 0, threshold=0.5)
    assert [le.group for le in joined] == ["TP", "FP", "FN"]
    over = find_lesions(paint(FOUND, HALF), target, threshold=0.5)  # one component of the prediction meets both
    assert [(le.group, len(le)) for le in over] == [("TP", 16), ("FN", 8)]


def test_a_subject_keeps_the_instances_of_its_target() -> None:
    numbers = numbered(FOUND, HALF)
    subject = Subject("one", paint(FOUND)[None], AFFINE, ("flair",), target=numbers > 0, instances=numbers)
    lesions = find_lesions(brightness(None), subject)
    assert [(le.group, le.voxels.tolist()) for le in lesions] == [("TP", voxels_of(FOUND)), ("FN", voxels_of(HALF))]
    with pytest.raises(ValueError, match="a number on each voxel of the target and 0 elsewhere"):
        replace(subject, target=numbers > 1)


def test_lesions_of_a_file_or_an_array_keep_their_numbers(tmp_path: Path) -> None:
    numbers = 3 * numbered(FOUND, HALF, SPECK)
    subject = Subject("one", paint(FOUND)[None], AFFINE, ("flair",), target=paint(FOUND) > 0)
    path = write_image(tmp_path / "numbers.nii.gz", numbers.numpy(), AFFINE)
    lesions = find_lesions(brightness(None), subject, labels=path)
    assert [(le.number, le.group, le.voxels.tolist()) for le in lesions] == [
        *((3, "TP", voxels_of(FOUND)), (6, "FP", voxels_of(HALF)), (9, "FP", voxels_of(SPECK)))
    ]
    assert lesions[3].mean_probability == pytest.approx(1 / (1 + np.exp(-4)))  # brightness of 0.9
    assert lesions[6].volume_mm3 == pytest.approx(8 * 3)
    again = find_lesions(paint(FOUND), paint(FOUND) > 0, affine=AFFINE, labels=numbers)
    assert [(le.number, le.group) for le in again] == [(3, "TP"), (6, "FP"), (9, "FP")]
    assert [le.group for le in find_lesions(paint(FOUND), labels=numbers)] == ["unknown"] * 3
    with pytest.raises(ValueError, match=r"Labels and prediction must lie on one grid, got \(4, 4, 4\)"):
        find_lesions(paint(FOUND), labels=numbered((slice(0, 4),) * 3)[:4, :4, :4])


@pytest.mark.parametrize(
    ("value", "told"), [(np.nan, "NaN voxels inside"), (-1, "no number below 0"), (0.3, "values from 0 to 0.3")]
)
def test_a_target_that_is_none_is_refused(value: float, told: str) -> None:
    target = paint(MISSED, value=1)
    target[0, 5, 5] = value
    target[MISSED] = 1 if told != "values from 0 to 0.3" else 0
    with pytest.raises(ValueError, match=told):
        find_lesions(paint(FOUND), target, threshold=0.5)
    assert len(find_lesions(paint(FOUND), 255 * (paint(MISSED) > 0), threshold=0.5).of("FN")) == 1


# True negatives: a lesion's shape in white matter, clear of every lesion, the same for a seed.


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


def test_a_lesion_too_large_to_fit_and_no_lesion_are_refused(demo) -> None:
    subject, lesions = demo
    with pytest.raises(ValueError, match="like must name a lesion"):
        true_negatives(subject, lesions, [])
    whole = find_lesions((subject.image[0] != 0).float(), threshold=0.5)
    with pytest.raises(ValueError, match=r"must fit into white matter .* of 1 shapes none does in demo"):
        true_negatives(subject, lesions, list(whole)[:1])


def test_a_number_where_there_is_no_lesion_is_told_so() -> None:
    """It said `numbered 1 to 0`."""
    with pytest.raises(KeyError, match="no lesion here, got number 7"):
        Lesions([])[7]
