"""A run predicts in its sliding window wherever it predicts: alone, in evaluation, when served."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda import losses
from keras_meduda.data.augment import RandomCrop
from keras_meduda.data.serving import preprocess
from keras_meduda.run.sliding import sliding_window

WINDOW = km.SlidingWindow((16, 16), (12, 10))


@pytest.fixture(scope="module")
def cropped(batches, tmp_path_factory):
    """A run of two steps that was trained on crops of 16 of its 32 × 32 grid."""
    with km.setup():
        network = km.models.AERUNet((None, None, 3), channels=2, filters=(4, 8))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    data = dataclasses.replace(batches, target=None, crop=RandomCrop((16, 16)))
    return km.fit(method, data, steps=2, run_dir=tmp_path_factory.mktemp("crops"), window=WINDOW)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype="uint8")


def test_the_window_is_part_of_the_run(cropped):
    assert cropped.window == km.load(cropped.path).window == WINDOW


def test_predict_averages_logits(cropped, image):
    x = cropped.preprocessing.apply(image)[None]
    logits = sliding_window(lambda x: cropped.network(x)["logits"], x, WINDOW)
    expected = losses.probabilities(logits, overlapping=True)[0]
    np.testing.assert_allclose(km.predict(cropped, image), expected, atol=1e-5)


def test_another_window_for_one_call(cropped, run, image):
    assert not np.allclose(
        km.predict(cropped, image, km.SlidingWindow((24, 24))),
        km.predict(cropped, image),
        atol=1e-4,
    )
    whole = km.SlidingWindow((32, 32))
    np.testing.assert_allclose(km.predict(run, image, whole), km.predict(run, image), atol=1e-6)


def test_evaluation_takes_a_window(cropped, phantoms):
    cases = km.read_cases(phantoms).iloc[:2]
    own = km.evaluate(cropped, cases)["volume_prediction"]
    assert own.equals(km.evaluate(cropped, cases, window=WINDOW)["volume_prediction"])


def test_a_served_network_slides_as_well(cropped, image, tmp_path):
    served = tf.saved_model.load(str(km.export(cropped, tmp_path / "model")))
    maps = served.signatures["serving_default"](image=tf.constant(image[None]))
    x = preprocess(image[None], cropped.preprocessing)
    expected = cropped.probabilities(x)[0]
    np.testing.assert_allclose(maps["cup"][0], expected[..., 0], atol=1e-5)
