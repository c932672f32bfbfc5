"""An exported network of volumes gives what prediction gives, in any shape and spacing."""

import keras
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.data.io import read_image
from keras_meduda.evaluation.served import served_difference
from keras_meduda.run import Run

TASK = km.Task(("core", "oedema"), unit="mm")
SETTINGS = {
    "spacing": km.Preprocessing((16, 12, 8), (), "zscore_foreground", 1, "YXZ", (1.5, 1.0, 2.0),
                                "crop_foreground"),
    "own spacing": km.Preprocessing((12, 12, 12), (), "zscore", 1, "XYZ", None, "crop"),
    "window": km.Preprocessing((16, 12, 12), (), "zscore_foreground", 1, "XYZ", None, "crop"),
}


@pytest.fixture(params=SETTINGS)
def run(request, tmp_path):
    settings = SETTINGS[request.param]
    keras.utils.set_random_seed(0)
    window = km.SlidingWindow((8, 8, 8), gaussian=True) if request.param == "window" else None
    shape = window.size if window else settings.size
    network = km.models.AERUNet((*shape, 1), channels=3, filters=(4, 8))
    return Run(tmp_path, network, TASK, settings, window)


def scan(path, shape, spacing):
    image = np.zeros(shape, "int16")
    inner = image[2:-2, 1:-3, 1:-1]
    inner[...] = np.random.default_rng(0).integers(1, 900, inner.shape)
    nib.save(nib.Nifti1Image(image, np.diag([*spacing, 1])), path)
    return path


@pytest.mark.parametrize(
    ("shape", "spacing"), [((20, 18, 9), (1, 1, 2)), ((11, 25, 14), (2, 1, 1))])
def test_served_volumes_are_the_predicted_ones(run, tmp_path, shape, spacing):
    image = read_image(scan(tmp_path / "scan.nii.gz", shape, spacing))
    ours = km.predict(run, tmp_path / "scan.nii.gz")
    signatures = tf.saved_model.load(str(km.export(run, tmp_path / "model"))).signatures
    assert set(signatures) == {"serving_default", "predict_mask"}
    inputs = {"image": tf.constant(np.stack([image.array, image.array[::-1]]))}
    if run.preprocessing.spacing:
        inputs["spacing"] = tf.constant([image.spacing] * 2, "float32")
    served = signatures["serving_default"](**inputs)
    maps = np.stack([served[name][0] for name in TASK.classes], axis=-1)
    np.testing.assert_allclose(maps, ours[..., 1:], atol=1e-5)
    masks = signatures["predict_mask"](**inputs)["mask"].numpy()
    assert masks.shape == (2, *shape)
    assert (masks[0] == TASK.decode(TASK.masks(ours))).mean() > 0.999


def test_the_difference_that_the_script_prints(run, tmp_path):
    assert served_difference(run, km.export(run, tmp_path / "model")) < 1e-5
