"""Predictions come back in the image's own grid, and evaluation scores them there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.io import DataError, read_image, write_picture
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.run import Run, parts


@pytest.fixture(scope="module")
def cases(phantoms):
    table = km.read_cases(phantoms)
    return table[table["domain"] == "camera_b"]


@pytest.mark.parametrize("shape", [(64, 64, 3), (50, 41, 3), (33, 70, 1), (40, 40, 4)])
def test_probabilities_in_the_images_own_grid(run, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    probabilities = km.predict(run, image)
    assert probabilities.shape == (*shape[:2], 2) and probabilities.dtype == np.float32
    assert 0 <= probabilities.min() and probabilities.max() <= 1


def test_a_path_and_its_array_give_the_same(run, cases):
    path = cases["image"].iloc[0]
    np.testing.assert_array_equal(km.predict(run, path), km.predict(run, read_image(path).array))


def test_many_equal_one_by_one(run, cases):
    """A batch is not mixed up, whatever the sizes of its images and however many there are."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (30 + 3 * i, 40, 3), dtype="uint8") for i in range(11)]
    for image, together in zip(images, predict_all(run, images), strict=True):
        np.testing.assert_allclose(together, km.predict(run, image), atol=1e-5)


def test_a_broken_picture_gives_its_error_in_its_place(run, cases, tmp_path):
    whole = cases["image"].iloc[0]
    (broken := tmp_path / "broken.png").write_bytes(b"no picture")
    images = [whole, broken, *[whole] * 8, np.full((8, 8, 3), np.nan)]
    found = list(predict_all(run, images, keep_going=True))
    assert [isinstance(p, DataError) for p in found] == [i in (1, 10) for i in range(11)]
    assert "broken.png" in str(found[1]) and "NaN" in str(found[10])
    np.testing.assert_allclose(found[9], found[0], atol=1e-6)
    predictions = predict_all(run, images)
    next(predictions)
    with pytest.raises(DataError, match="broken.png"):
        next(predictions)
    only_broken = list(predict_all(run, [broken] * 9, keep_going=True))
    assert all(isinstance(error, DataError) for error in only_broken)


def test_pictures_are_read_a_few_ahead_of_what_is_taken(run, monkeypatch):
    """A folder of any length takes the memory of some batches."""
    from keras_meduda.evaluation import predict as module

    began, original = [], module.network_input
    monkeypatch.setattr(
        module, "network_input", lambda run, image: began.append(0) or original(run, image)
    )
    predictions = predict_all(run, [np.zeros((8, 8, 3), "uint8")] * 200)
    next(predictions)
    assert len(began) <= 6 * module.BATCH
    predictions.close()
    assert len(began) <= 6 * module.BATCH


def test_evaluation_has_a_row_a_case_and_class(run, cases):
    frame = km.evaluate(run, cases)
    assert len(frame) == 2 * len(cases) and set(frame["class"]) == {"cup", "disc"}
    assert frame["dice"].between(0, 1).all() and frame["hd95"].ge(0).all()
    assert frame[frame["class"] == "cup"]["vcdr_reference"].notna().all()


def test_medpy_confirms_every_figure(run, cases):
    pytest.importorskip("medpy")
    ours, medpys = km.evaluate(run, cases), km.evaluate(run, cases, medpy=True)
    pd.testing.assert_frame_equal(ours, medpys, rtol=0, atol=1e-6)
    assert ours["case"].drop_duplicates().tolist() == cases["case"].tolist()


def test_a_perfect_prediction_scores_perfectly(run, cases, monkeypatch):
    """Evaluation compares in the grid of the mask: the reference as prediction gives Dice 1."""
    from keras_meduda.data.io import read_mask
    from keras_meduda.evaluation import predict as module

    truth = [run.task.one_hot(read_mask(cell, run.task)) for cell in cases["mask"]]
    monkeypatch.setattr(module, "predict_all", lambda *_: iter(truth))
    frame = km.evaluate(run, cases)
    assert (frame["dice"] == 1).all() and (frame["hd95"] == 0).all()
    assert frame["vcdr_error"].dropna().eq(0).all()


def test_a_missed_class_scores_zero_and_is_counted(run, cases, monkeypatch):
    from keras_meduda.evaluation import predict as module
    from keras_meduda.evaluation.statistics import summarise

    shape = read_image(cases["image"].iloc[0]).array.shape[:2]
    monkeypatch.setattr(module, "predict_all", lambda *_: iter([np.zeros((*shape, 2))] * 99))
    frame = km.evaluate(run, cases)
    assert (frame["dice"] == 0).all()
    np.testing.assert_allclose(frame["hd95"], np.hypot(*shape))
    cup = frame[frame["class"] == "cup"]
    assert cup["vcdr"].isna().all() and cup["vcdr_reference"].gt(0).all()
    assert cup["vcdr_error"].equals(cup["vcdr_reference"])
    summary = summarise(frame)["classes"]["cup"]
    assert summary["empty"]["prediction_only"] == len(cases)


@pytest.mark.parametrize(
    "task",
    [
        km.Task(("disc", "cup"), True, {"cup": (255,), "disc": (128, 255)}),
        km.Task(("cup",), True, {"cup": (255,)}, (0, 128)),
        km.Task(("cup", "disc"), False, {"cup": (255,), "disc": (128,)}),
    ],
)
def test_a_task_of_other_channels_is_refused(run, cases, task):
    with pytest.raises(ValueError, match=r"expected the run's: \('cup', 'disc'\)"):
        km.evaluate(run, cases, task)


def test_other_mask_values_need_the_other_task(run, cases, tmp_path):
    """A target whose files say 0 for the cup is scored with a task that declares it so."""
    from keras_meduda.data.io import read_mask

    other = km.Task(
        ("cup", "disc"), overlapping=True, background=(255,), values={"cup": (0,), "disc": (0, 128)}
    )
    row = cases.iloc[[0]].copy()
    masks = run.task.one_hot(read_mask(row["mask"].iloc[0], run.task)).astype(bool)
    row["mask"] = str(write_picture(tmp_path / "mask.png", other.decode(masks)))
    for metric in ("dice", "hd95"):
        a = km.evaluate(run, cases.iloc[[0]])[metric]
        np.testing.assert_array_equal(km.evaluate(run, row, other)[metric], a)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cases": "cases.csv"}, "received 'cases.csv'; expected what km.read_cases"),
        ({"mask": ""}, "6 cases, 6 of them without a mask"),
        ({"run": "runs/a"}, "received 'runs/a' as run; expected what km.load"),
        ({"window": (16, 16)}, r"window=\(16, 16\); expected km.SlidingWindow"),
    ],
)
def test_what_cannot_be_evaluated(run, cases, changed, message):
    cases = cases.assign(mask=changed["mask"]) if "mask" in changed else cases
    call = {"run": run, "cases": cases, "task": run.task, **changed}
    call.pop("mask", None)
    with pytest.raises(ValueError, match=message):
        km.evaluate(**call)


def test_pixels_are_no_millimetres(run, cases):
    with pytest.raises(DataError, match="found a picture, in px, expected a volume, or unit='px'"):
        km.evaluate(run, cases, replace(run.task, unit="mm"))


def test_what_is_no_image(run):
    with pytest.raises(DataError, match="found a list, expected a path, an array or what"):
        km.predict(run, ["a.png"])


def test_pictures_that_do_not_fit_in_memory_together_go_one_by_one(run, capsys):
    sizes = []

    class Small(Run):
        def probabilities(self, x):
            if len(x) > 1:
                raise MemoryError("Unable to allocate 9 TiB")
            sizes.append(len(x))
            return super().probabilities(x)

    images = list(np.random.default_rng(0).integers(0, 256, (20, 40, 30, 3), dtype="uint8"))
    found = list(predict_all(Small(**parts(run)), images))
    assert sizes == [1] * 20 and capsys.readouterr().out.count("do not fit in memory") == 1
    np.testing.assert_allclose(found, list(predict_all(run, images)), atol=1e-5)
