"""Logits on another scale: one temperature, a bias a class, and what a few labels are worth."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import read_mask, write_picture
from keras_meduda.evaluation.adjust import adjusted, few, temper
from keras_meduda.evaluation.calibration import expected_calibration_error
from keras_meduda.run import Run

TASKS = {
    "overlapping": km.Task(("a", "b"), overlapping=True, values={"a": (1, 3), "b": (2, 3)}),
    "exclusive": km.Task(("a", "b")),
}


def readout(task, folder, gain=4.0, offset=0.0):
    """A run whose logits are the image's own channels: it sees what is drawn into them."""
    image = keras.Input((16, 16, 3), name="image")
    weights = np.eye(3, dtype="float32")[:, 3 - task.channels :] * gain
    x = keras.layers.Conv2D(task.channels, 1, name="logits")
    network = keras.Model(image, {"logits": x(image), "features": image}, name="readout")
    x.set_weights([weights[None, None], np.full(task.channels, offset, "float32")])
    return Run(folder / "run", network, task, km.Preprocessing((16, 16)))


def drawn(folder, task, count=8, noise=0.0, seed=0):
    """Cases with a square of each class; channels 1 and 2 are bright where a and b are."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        top, left = rng.integers(1, 6, 2)
        label = np.zeros((16, 16), "uint8")
        label[top : top + 8, left : left + 4] = 1
        label[top : top + 8, left + 4 : left + 8] = 2
        shown = np.stack([label == 0, label == 1, label == 2], axis=-1) * 1.0
        shown = 128 + 60 * (2 * shown - 1) + noise * rng.normal(size=shown.shape)
        files = [folder / f"{i}.png", folder / f"m{i}.png"]
        write_picture(files[0], np.clip(shown, 0, 255).astype("uint8"))
        write_picture(files[1], label)
        rows.append({"case": f"c{i}", "image": files[0], "mask": files[1], "group": f"p{i}"})
    return case_table(rows)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_logits_are_scaled_and_shifted_and_the_file_keeps_it(task, tmp_path):
    run = readout(task, tmp_path)
    other = adjusted(run, 2.0, (0.5, -1.0))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    before, after = (np.asarray(r.logits(x)) for r in (run, other))
    bias = ([] if task.overlapping else [0]) + [0.5, -1.0]
    np.testing.assert_allclose(after, before / 2 + bias, atol=1e-5)
    other.network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(again(x)["logits"], after, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(run.logits(x)), before)
    np.testing.assert_allclose(adjusted(run).logits(x), before, atol=1e-6)


def sampled(folder, task, count=8):
    """Cases whose labels are drawn with the very probabilities of `readout` at a gain of 4."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        shown = rng.integers(0, 256, (16, 16, 3)).astype("uint8")
        z = 4.0 * (shown / 127.5 - 1)
        if task.overlapping:
            label = (rng.random((16, 16, 2)) < 1 / (1 + np.exp(-z[..., 1:]))) @ [1, 2]
        else:
            shares = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
            label = (rng.random((16, 16, 1)) > shares.cumsum(axis=-1)).sum(axis=-1)
        files = [folder / f"{i}.png", folder / f"m{i}.png"]
        write_picture(files[0], shown)
        write_picture(files[1], label.clip(0, 3 if task.overlapping else 2).astype("uint8"))
        rows.append({"case": f"c{i}", "image": files[0], "mask": files[1], "group": f"p{i}"})
    return case_table(rows)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_network_that_is_too_sure_is_cooled_and_decides_as_before(task, tmp_path):
    cases = sampled(tmp_path, task)
    run = readout(task, tmp_path, gain=12.0)
    found = temper(run, cases)
    assert found.temperature == pytest.approx(3, rel=0.15)
    error = [
        np.mean([expected_calibration_error(c) for c in counts])
        for counts in (found.before, found.after)
    ]
    assert error[1] < 0.5 * error[0]
    for cell in cases["image"][:2]:
        one, other = (task.masks(km.predict(r, cell)) for r in (run, found.run))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_labels_undo_an_offset_and_say_what_they_were_worth(task, tmp_path):
    """Logits shifted against the classes: a network that draws too little."""
    run = readout(task, tmp_path, gain=6.0)
    meant = run.network.get_layer("logits")
    kernel, bias = meant.get_weights()
    bias[-2:] -= 4.0
    meant.set_weights([kernel, bias])
    found = few(run, drawn(tmp_path, task, count=5, noise=40.0))
    assert found.run is not None and found.after.mean() > found.before.mean() + 0.1
    assert min(found.bias) > 0
    assert "5 patients set a temperature" in found.reason
    new = tmp_path / "new"
    new.mkdir()
    cases = drawn(new, task, count=3, noise=40.0, seed=5)
    scores = [km.evaluate(r, cases)["dice"].mean() for r in (run, found.run)]
    assert scores[1] > scores[0] + 0.1


def test_labels_that_teach_nothing_are_not_used(tmp_path):
    task = TASKS["exclusive"]
    found = few(readout(task, tmp_path), drawn(tmp_path, task, count=4))
    assert found.run is None and (found.before == 1).all()
    assert "are not used" in found.reason


def test_masks_are_read_in_their_own_encoding(tmp_path):
    task = TASKS["exclusive"]
    run, cases = readout(task, tmp_path), drawn(tmp_path, task, count=4, noise=60.0)
    other = km.Task(("a", "b"), values={"a": (200,), "b": (100,)})
    (tmp_path / "other").mkdir()
    files = [tmp_path / "other" / Path(mask).name for mask in cases["mask"]]
    for mask, file in zip(cases["mask"], files, strict=True):
        write_picture(file, np.uint8([0, 200, 100])[read_mask(mask, task)])
    encoded = cases.assign(mask=list(map(str, files)), encoding=other.encoding)
    plain, found = few(run, cases), few(run, encoded)
    np.testing.assert_array_equal(plain.before, found.before)
    assert plain.temperature == found.temperature


def test_a_table_of_few_labels_that_cannot_be_used_is_refused(tmp_path):
    task = TASKS["exclusive"]
    run, cases = readout(task, tmp_path), drawn(tmp_path, task, count=4)
    with pytest.raises(ValueError, match=r"few: cases \['c1'\] are of patients of the test part"):
        few(run, cases, test=cases[1:2])
    elsewhere = cases[1:2].assign(domain="another", image="another.png")
    with pytest.raises(ValueError, match=r"few: cases \['c1'\] are of patients of the test part"):
        few(run, cases, test=elsewhere)
    with pytest.raises(ValueError, match="few: cases of 2 patients; expected 3 or more"):
        few(run, cases[:2])
    other = km.Task(("a", "b", "c"))
    with pytest.raises(ValueError, match=r"few: no mask has the class \['c'\]"):
        few(readout3(other, tmp_path), cases)


def readout3(task, folder):
    image = keras.Input((16, 16, 3), name="image")
    logits = keras.layers.Conv2D(4, 1)(image)
    network = keras.Model(image, {"logits": logits, "features": image})
    return Run(folder / "run", network, task, km.Preprocessing((16, 16)))
