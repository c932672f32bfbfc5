"""Laws of targets that know what they do not know."""

import numpy as np
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.task import Task
from keras_meduda.teachers.doubt import agreement, averaged, jittered
from keras_meduda.teachers.targets import (
    Failure,
    Target,
    Teacher,
    calibrate,
    make_targets,
    of_boxes,
    open_targets,
    read_target,
)

IMAGE, BOX = np.zeros((40, 50, 1), "uint8"), np.array([[10, 12, 30, 28]], "float32")


def whole_box(image, boxes):
    """The mask is the box itself; its embedding counts how often images were encoded."""
    whole_box.encoded += 1
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    inside = [(x > x0) & (x < x1) & (y > y0) & (y < y1) for x0, y0, x1, y1 in boxes]
    return np.array(inside, "float32"), np.ones(len(boxes)), np.ones((2, 2, 1))


whole_box.encoded = 0
PLAIN = of_boxes("box", "1", whole_box)


def constant(level, name="constant"):
    def teach(image, boxes):
        if level is None:
            raise Failure("nothing")
        return Target(np.full(image.shape[:2], level), 0.1, np.ones(1))

    return Teacher(name, "1", teach)


def test_a_jittered_teacher_is_sure_within_and_without_and_in_doubt_at_the_edge():
    before = whole_box.encoded
    target = jittered(PLAIN).teach(IMAGE, BOX)
    assert whole_box.encoded == before + 1
    y, x = np.mgrid[:40, :50] + 0.5
    edge = np.minimum(np.minimum(abs(x - 10), abs(x - 30)), np.minimum(abs(y - 12), abs(y - 28)))
    far = edge > 2.5  # a tenth of the width, and half a pixel
    assert (target.doubt[far] == 0).all() and 0.2 < target.doubt.max() <= 0.25
    plain = PLAIN.teach(IMAGE, BOX).probability
    np.testing.assert_array_equal(target.probability[far], plain[far])
    again = jittered(PLAIN).teach(IMAGE, BOX)
    np.testing.assert_array_equal(again.probability, target.probability)


def test_without_a_move_nothing_is_in_doubt():
    target, plain = (t.teach(IMAGE, BOX) for t in (jittered(PLAIN, share=0.0), PLAIN))
    np.testing.assert_array_equal(target.probability, plain.probability)
    assert not target.doubt.any() and target.variance == pytest.approx(plain.variance)


def test_masks_that_do_not_agree_teach_nothing():
    def wild(image, boxes):
        maps, quality, embedding = whole_box(image, boxes)
        return maps * (np.random.default_rng(0).random(maps.shape) > 0.5), quality, embedding

    with pytest.raises(Failure, match="masks of moved boxes agree to less than 0.7"):
        jittered(of_boxes("wild", "1", wild)).teach(IMAGE, BOX)


def test_a_teacher_without_boxes_cannot_be_jittered():
    with pytest.raises(ValueError, match="'constant' is not prompted by boxes"):
        jittered(constant(0.5))


def test_the_doubt_of_several_teachers_is_theirs_and_that_between_them():
    both = averaged(constant(0.9), constant(0.7))
    target = both.teach(IMAGE, BOX)
    np.testing.assert_allclose(target.probability, 0.8, atol=1e-6)
    np.testing.assert_allclose(target.doubt, 0.01, atol=1e-6)
    own = averaged(jittered(PLAIN), jittered(PLAIN)).teach(IMAGE, BOX)
    np.testing.assert_allclose(own.doubt, jittered(PLAIN).teach(IMAGE, BOX).doubt, atol=1e-6)
    assert own.embedding is not None and both.version != averaged(constant(0.9)).version


def test_a_teacher_that_fails_has_no_say():
    target = averaged(constant(None), constant(0.7)).teach(IMAGE, BOX)
    np.testing.assert_allclose(target.probability, 0.7, atol=1e-6)
    with pytest.raises(Failure, match="one: nothing; two: nothing"):
        averaged(constant(None, "one"), constant(None, "two")).teach(IMAGE, BOX)
    with pytest.raises(Failure, match="masks of teachers agree to less than 0.7"):
        averaged(constant(0.9), constant(0.2)).teach(IMAGE, BOX)


def test_agreement_is_dice():
    a, b = np.zeros((2, 1, 10))
    a[0, :6] = b[0, :4] = 1  # their mean is above a half where both are
    assert agreement([a, b]) == pytest.approx((2 * 4 / (6 + 4) + 1) / 2)
    assert agreement(np.zeros((3, 4, 4))) == 1


@pytest.fixture
def cases(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(3):
        image = write_picture(tmp_path / f"{i}.png", rng.integers(0, 256, (40, 50)).astype("uint8"))
        mask = np.zeros((40, 50), "uint8")
        mask[12:28, 10:30] = 1
        mask = write_picture(tmp_path / f"m{i}.png", mask)
        rows.append({"case": f"c{i}", "image": image, "mask": mask})
    return case_table(rows)


@pytest.mark.parametrize("truth", [0.6, 0.75])
def test_the_temperature_makes_probabilities_come_true(cases, tmp_path, truth):
    """A teacher that says 0.9 and 0.1 where `truth` of the pixels, or of the others, are tumour."""
    rng = np.random.default_rng(0)
    says = rng.random((40, 50)) > 0.5
    for mask in cases["mask"]:
        right = rng.random(says.shape) < truth
        write_picture(mask, np.where(right, says, ~says).astype("uint8"))

    def teach(image, boxes):
        return Target(np.where(says, 0.9, 0.1), 0.1, np.ones(1))

    make_targets(tmp_path / "t.csv", cases, Teacher("sure", "1", teach, prompted=False))
    temperature = calibrate(tmp_path / "t.csv", cases, Task(("any",), True))
    found = read_target(open_targets(tmp_path / "t.csv"), "c1").probability
    np.testing.assert_allclose(found, np.where(says, truth, 1 - truth), atol=0.03)
    assert temperature > 1


def test_nothing_can_be_calibrated_on_cases_that_were_not_taught(cases, tmp_path):
    make_targets(tmp_path / "t.csv", cases, constant(None))
    with pytest.raises(DataError, match="found no labelled case that was taught"):
        calibrate(tmp_path / "t.csv", cases, Task(("any",), True))
