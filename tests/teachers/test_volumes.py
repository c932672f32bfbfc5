"""Volumes are taught slice by slice, and boxes of volumes lead there and back."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from keras_meduda.data.boxes import read_boxes
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.task import Task
from keras_meduda.teachers.boxes import (
    CORNERS_3D,
    boxes_by_case,
    boxes_from_masks,
    boxes_from_probabilities,
    boxes_of,
    write_boxes,
)
from keras_meduda.teachers.doubt import jittered
from keras_meduda.teachers.grabcut import grabcut
from keras_meduda.teachers.targets import Failure, make_targets, of_boxes, open_targets, read_target
from keras_meduda.teachers.volumes import by_slices

TASK, SHAPE = Task(("lesion",)), (24, 20, 12)


def ellipsoid(shape=SHAPE, centre=(12, 9, 6), radii=(7, 6, 4)):
    grid = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    return (((grid - centre) / radii) ** 2).sum(axis=-1) < 1


def bright(mask, seed=0):
    noise = np.random.default_rng(seed).normal(0, 8, mask.shape)
    return (60 + 100 * mask + noise)[..., None].astype("float32")


def of_centre(image, boxes):
    """A teacher that finds what is brighter than the middle of its grey levels within the box."""
    found = image[..., 0] > 110
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    maps = [found & (x > a) & (x < c) & (y > b) & (y < d) for a, b, c, d in boxes]
    if not np.any(maps):
        raise Failure("nothing")
    return np.array(maps, float), np.ones(len(boxes)), None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_stacked_where_they_were(axis):
    mask = ellipsoid()
    target = by_slices(of_boxes("t", "1", of_centre), axis).teach(bright(mask), boxes_of(mask))
    found = target.probability > 0.5
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.95
    assert target.embedding is None and target.probability.shape == SHAPE


def test_grabcut_finds_an_ellipsoid_and_doubts_its_edge():
    mask = ellipsoid((64, 56, 24), (30, 28, 12), (16, 14, 9))
    target = by_slices(jittered(grabcut(), draws=3)).teach(bright(mask), boxes_of(mask))
    found = target.probability > 0.5
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9
    assert target.doubt.shape == mask.shape and target.doubt[30, 28, 12] == 0 < target.doubt.max()


def test_a_volume_fails_where_all_slices_do():
    with pytest.raises(Failure, match="no slice was taught; slice 2: nothing"):
        by_slices(of_boxes("t", "1", of_centre)).teach(
            bright(np.zeros(SHAPE)), boxes_of(ellipsoid())
        )


@pytest.mark.parametrize("axis", [0, 2])
def test_within_the_box_of_a_slice_that_fails_nothing_is_known(axis):
    """There is no background to learn from it; around the box there is."""
    mask = ellipsoid()
    image, (box,) = bright(mask), boxes_of(mask)
    middle = (box[axis] + box[axis + 3]) // 2
    np.moveaxis(image, axis, 0)[middle] = 0  # the teacher sees nothing in this slice
    target = by_slices(of_boxes("t", "1", of_centre), axis).teach(image, box[None])
    weight = np.moveaxis(1 - 4 * target.doubt, axis, 0)
    expected = np.ones_like(mask, float)
    expected[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = 0
    expected = np.moveaxis(expected, axis, 0)
    np.testing.assert_array_equal(weight[middle], expected[middle])
    assert (np.delete(weight, middle, axis=0) == 1).all() and 0 in weight[middle]


@pytest.fixture
def cases(tmp_path):
    rows = []
    for i, centre in enumerate([(12, 9, 6), (10, 11, 5)]):
        mask = ellipsoid(centre=centre)
        for name, array in (("", bright(mask)[..., 0]), ("m", mask.astype("uint8"))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}{i}.nii.gz")
        files = {"image": tmp_path / f"{i}.nii.gz", "mask": tmp_path / f"m{i}.nii.gz"}
        rows.append({"case": f"c{i}", **files})
    return case_table(rows)


def test_boxes_of_volumes_lead_to_targets(cases, tmp_path):
    boxes = boxes_from_masks(cases, TASK)
    write_boxes(boxes, tmp_path / "boxes.csv")
    back = read_boxes(tmp_path / "boxes.csv")
    pd.testing.assert_frame_equal(back, boxes, check_dtype=False)
    by_case = boxes_by_case(back, cases)
    assert by_case["c0"].tolist() == [[5, 3, 2, 19, 15, 10, 1]]
    teacher = by_slices(of_boxes("t", "1", of_centre))
    assert (make_targets(tmp_path / "t.csv", cases, teacher, by_case)["status"] == "done").all()
    target = read_target(open_targets(tmp_path / "t.csv"), "c0")
    assert ((target.probability > 0.5) == ellipsoid()).mean() > 0.99 and 0 <= target.entropy < 0.1


def test_a_teacher_of_volumes_is_scored_in_millimetres(cases, tmp_path):
    """Twice the spacing, twice the distance."""
    teacher = by_slices(of_boxes("t", "1", lambda image, boxes: of_centre(image, boxes - 1)))
    boxes, frames = boxes_by_case(boxes_from_masks(cases, TASK), cases), []
    for spacing in (1, 2):
        for file in [*cases["image"], *cases["mask"]]:
            array = np.asarray(nib.load(file).dataobj)
            nib.save(nib.Nifti1Image(array, np.diag([spacing] * 3 + [1])), file)
        make_targets(tmp_path / "t.csv", cases, teacher, boxes)
        frames.append(evaluate_teacher(tmp_path / "t.csv", cases, TASK))
    near, far = frames
    assert (near["dice"] > 0.7).all() and (near["hd95"] > 0).all()
    np.testing.assert_allclose(far["hd95"], 2 * near["hd95"], rtol=1e-5)


def test_boxes_and_teachers_of_another_rank_are_named(cases, tmp_path):
    boxes = boxes_from_masks(cases, TASK)
    with pytest.raises(DataError, match="found boxes with x0, y0, x1, y1, expected those of"):
        boxes_by_case(boxes.drop(columns=["z0", "z1"]), cases)
    with pytest.raises(DataError, match=r"0 ≤ z0 < z1 ≤ 12"):
        boxes_by_case(boxes.assign(z1=13), cases)
    plain = of_boxes("t", "1", of_centre)
    with pytest.raises(
        DataError, match=r"0.nii.gz: found shape \(24, 20, 12\), expected a picture"
    ):
        make_targets(tmp_path / "t.csv", cases, plain, {"c0": [[1, 1, 5, 5]]})


def test_jitter_moves_edges_of_volumes_and_keeps_them_within(cases):
    exact, moved = (boxes_from_masks(cases, TASK, jitter)[CORNERS_3D] for jitter in (0, 2))
    away = (moved - exact).to_numpy()
    assert 0 < np.abs(away).max() <= 2 and (moved.to_numpy() >= 0).all()


def test_what_a_student_finds_in_a_volume_is_boxed(cases):
    probability = 0.75 * ellipsoid()[..., None]
    found = boxes_from_probabilities(cases, [probability, 0 * probability], Task(("t",), True))
    assert found[["case", *CORNERS_3D, "score"]].to_numpy().tolist() == [
        ["c0", 5, 3, 2, 19, 15, 10, 0.75]
    ]


def test_of_pieces_of_a_volume_the_largest_comes_first():
    mask = ellipsoid() | ellipsoid(centre=(2, 17, 10), radii=(2, 2, 2))
    assert boxes_of(mask).tolist() == [[5, 3, 2, 19, 15, 10], [0, 15, 8, 4, 19, 12]]
