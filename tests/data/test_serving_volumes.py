"""What a served graph makes of a volume is what the library makes of it."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.serving import invert_volume, preprocess_volume
from keras_meduda.task import Preprocessing, Task

SPACING = (0.1, 0.1, 0.4)
AXES = ["".join(order) for order in itertools.permutations("XYZ")]


def volume(shape, channels=1):
    rng = np.random.default_rng(0)
    image = np.zeros((*shape, channels), "float32")
    inner = image[2:-1, 1:-4, 1:]
    inner[...] = rng.integers(1, 999, inner.shape)
    return image


def both(image, preprocessing, spacing=SPACING):
    applied = preprocessing.apply(image, spacing)
    place = preprocessing.placement(image, spacing)
    served, found = preprocess_volume(image, tf.constant(spacing), preprocessing)
    assert tuple(found[0].numpy()) == place.grid and tuple(found[1].numpy()) == place.start
    return served.numpy(), applied, found, place


@pytest.mark.parametrize("shape", [(20, 22, 9), (31, 17, 12)])
@pytest.mark.parametrize("spacing", [None, (0.2, 0.2, 0.2), (0.07, 0.3, 0.15)])
@pytest.mark.parametrize("fit", ["crop", "crop_foreground", "resize"])
@pytest.mark.parametrize("normalise", ["zscore", "zscore_foreground", "minus1_1"])
def test_the_input_and_the_way_back(shape, spacing, fit, normalise):
    if fit == "resize" and spacing:
        pytest.skip("volumes that keep a spacing are not resized")
    preprocessing = Preprocessing((16, 12, 14), (), normalise, 1, "YXZ", spacing, fit)
    served, applied, found, place = both(volume(shape), preprocessing)
    if normalise == "minus1_1":  # the grey levels, but for single ones that rounding puts apart
        apart = np.abs(served - applied) * 127.5
        assert apart.max() < 1.01 and np.mean(apart > 0.01) <= 2e-3
    else:
        np.testing.assert_allclose(served, applied, atol=1e-5)
    background = Task(("a", "b")).one_hot(0)
    guess = np.random.default_rng(1).dirichlet((1, 1, 1), (16, 12, 14)).astype("float32")
    back = invert_volume(guess, found, tf.constant(shape), preprocessing, background)
    expected = preprocessing.invert(guess, place, background)
    np.testing.assert_allclose(back, expected, atol=1e-5)


@pytest.mark.parametrize("axes", AXES)
def test_every_order_of_axes_and_several_channels(axes):
    preprocessing = Preprocessing((12, 13, 14), (), "zscore_foreground", 2, axes, (0.2, 0.15, 0.3),
                                  "crop_foreground")
    served, applied, _, _ = both(volume((20, 22, 9), 2), preprocessing)
    np.testing.assert_allclose(served, applied, atol=1e-5)


@pytest.mark.parametrize("level", [0, 7])
@pytest.mark.parametrize("normalise", ["zscore", "zscore_foreground", "zero_one"])
@pytest.mark.parametrize("fit", ["crop", "crop_foreground"])
def test_blank_volumes_are_zero(level, normalise, fit):
    preprocessing = Preprocessing((8, 8, 8), (), normalise, 1, "XYZ", None, fit)
    served, applied, _, _ = both(np.full((9, 7, 12, 1), level, "float32"), preprocessing)
    assert not served.any() and not applied.any()


def test_one_graph_serves_all_shapes_and_integers():
    preprocessing = Preprocessing((16, 16, 16), (), "zscore_foreground", 1, "ZXY", (0.2, 0.2, 0.2),
                                  "crop_foreground")
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 1), "int16"),
                                  tf.TensorSpec((3,), "float32")])
    def served(image, spacing):
        traces.append(image)
        return preprocess_volume(image, spacing, preprocessing)[0]

    for shape in [(20, 22, 9), (11, 40, 30)]:
        image = volume(shape)
        expected = preprocessing.apply(image, SPACING)
        np.testing.assert_allclose(served(image.astype("int16"), SPACING), expected, atol=1e-5)
    assert len(traces) == 1
