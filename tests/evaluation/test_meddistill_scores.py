
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from keras_meduda.data.cases import case_table
from keras_meduda.data.io import read_image, write_picture
from keras_meduda.evaluation.legacy import evaluate_meddistill, hausdorff
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.run import Run
from keras_meduda.task import Preprocessing, Task
from keras_meduda.teachers.targets import Failure, Target, Teacher, make_targets

TASK = Task(("tumour",), overlapping=True, values={"tumour": (255,)})


@pytest.fixture
def cases(tmp_path):
    """Images whose grey value is the probability; the mask of the last one is empty."""
    rng, rows = np.random.default_rng(0), []
    for i in range(3):
        image = rng.integers(0, 256, (10, 12)).astype("uint8")
        mask = np.zeros((10, 12), "uint8")
        mask[2:6, 3:9] = 255 if i < 2 else 0
        rows.append(
            {
                "case": f"c{i}",
                "image": write_picture(tmp_path / f"{i}.png", image),
                "mask": write_picture(tmp_path / f"{i}_mask.png", mask),
            }
        )
    return case_table(rows)


def grey(image):
    return image[..., 0] / 255.0


class Grey(Run):
    """A run whose probability is the grey value."""

    def probabilities(self, x):
        return np.asarray(x)


def test_the_originals_scores(cases, tmp_path):
    """0.6225, not ½, is where foreground begins."""
    preprocessing = Preprocessing(size=(10, 12), normalise="zero_one", channels=1)
    run = Grey(tmp_path, None, TASK, preprocessing)
    frame = evaluate_meddistill(run, cases)
    for row, image in zip(frame.itertuples(), cases["image"], strict=True):
        a = grey(read_image(image).array) > 1 / (1 + np.exp(-0.5))
        b = np.zeros_like(a)
        b[2:6, 3:9] = row.case != "c2"
        assert row.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum() + 1e-8))
        assert row.iou == pytest.approx((a & b).sum() / ((a | b).sum() + 1e-8))
    assert frame["hausdorff"].isna().tolist() == [False, False, True]


def test_hausdorff_is_the_larger_direction_over_all_pixels():
    a, b = np.random.default_rng(1).random((2, 20, 15)) > 0.97
    between = cdist(np.argwhere(a), np.argwhere(b))
    expected = max(between.min(axis=0).max(), between.min(axis=1).max())
    assert hausdorff(a, b) == pytest.approx(expected)
    assert hausdorff(a, a) == 0 and np.isnan(hausdorff(a, np.zeros_like(a)))


def test_a_teacher_is_scored_and_its_failures_count_as_empty(cases, tmp_path):
    def teach(image, boxes):
        if grey(image)[0, 0] == grey(first)[0, 0]:
            raise Failure("nothing")
        return Target(grey(image), 0.1, np.ones(1))

    first = read_image(cases["image"][0]).array
    make_targets(tmp_path / "t.csv", cases, Teacher("grey", "1", teach, prompted=False))
    frame = evaluate_teacher(tmp_path / "t.csv", cases, TASK)
    assert frame["failed"].tolist() == [True, False, False]
    assert frame["prediction_empty"].tolist() == [True, False, False]
    assert frame["reference_empty"].tolist() == [False, False, True]
    second = grey(read_image(cases["image"][1]).array) > 0.5
    mask = np.zeros_like(second)
    mask[2:6, 3:9] = True
    dice = 2 * (second & mask).sum() / (second.sum() + mask.sum())
    assert frame["dice"].tolist() == pytest.approx([0, dice, 0], abs=1e-3)
    assert set(frame["class"]) == {"tumour"}
