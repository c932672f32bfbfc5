"""Labelled cases read from Python: a mask that lies elsewhere and NaN are refused by name."""

import numpy as np
import pytest
import tifffile

from keras_meduda.data.cases import case_table
from keras_meduda.data.checks import read_labelled
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.evaluation.confidence import labelled_inputs
from keras_meduda.evaluation.legacy import evaluate_meddistill
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.run import Run
from keras_meduda.task import Preprocessing, Task
from keras_meduda.teachers.boxes import write_yolo
from keras_meduda.teachers.targets import Teacher, calibrate, make_targets, merge

TASK = Task(("tumour",), overlapping=True, values={"tumour": (255,)})


class Grey(Run):
    """A run whose probability is the grey value."""

    def probabilities(self, x):
        return np.asarray(x)


def cases(folder, image, mask):
    """Five patients of one image and one mask."""
    tifffile.imwrite(folder / "i.tif", image)
    files = {"image": folder / "i.tif", "mask": write_picture(folder / "m.png", mask)}
    return case_table([{"case": f"c{i}", **files} for i in range(5)])


def grey_run(folder):
    size = Preprocessing(size=(10, 12), normalise="zero_one", channels=1)
    return Grey(folder, None, TASK, size)


def taught(folder, table):
    def teach(image, boxes):
        return merge(image[None, ..., 0] / 255.0, [1.0], image.shape[:2])

    make_targets(folder / "t.csv", table, Teacher("grey", "1", teach, prompted=False))
    return folder / "t.csv"


READERS = {
    "a run's calibration": lambda f, t: list(labelled_inputs(grey_run(f), t, "reading")),
    "a teacher's temperature": lambda f, t: calibrate(taught(f, t), t, TASK),
    "a teacher's scores": lambda f, t: evaluate_teacher(taught(f, t), t, TASK),
    "published scores": lambda f, t: evaluate_meddistill(grey_run(f), t),
    "a detector's data": lambda f, t: write_yolo(t, TASK, f / "yolo"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_transposed_mask_is_refused(reader, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (10, 12)).astype("uint8")
    mask = np.zeros((10, 12), "uint8")
    mask[2:6, 3:9] = 255
    READERS[reader](tmp_path, cases(tmp_path, image, mask))
    with pytest.raises(DataError, match=r"m\.png: .*a mask of shape \(12, 10\)"):
        READERS[reader](tmp_path, cases(tmp_path, image, mask.T))


@pytest.mark.parametrize("reader", ["a run's calibration", "published scores", "a detector's data"])
def test_an_image_with_nan_is_refused(reader, tmp_path):
    image = np.random.default_rng(0).random((10, 12)).astype("float32")
    image[4, 4] = np.nan
    table = cases(tmp_path, image, np.full((10, 12), 255, "uint8"))
    with pytest.raises(DataError, match=r"i\.tif: .*NaN"):
        READERS[reader](tmp_path, table)
    row = next(table.itertuples())
    read_labelled(row, TASK, nan_background=True)
