"""Dilated convolutions tap by tap: Keras' own result, and files of its layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_meduda.models.blocks import conv

SIZES = [(8, 8), (5, 9), (1, 1), (16, 7)]


@pytest.mark.parametrize("rate", [2, (3, 5), 8, 12])
def test_taps_give_the_convolution_and_its_gradients(rate):
    theirs = layers.Conv2D(4, 3, padding="same", dilation_rate=rate, bias_initializer="normal")
    ours = conv(4, 3, 2, dilation_rate=rate)
    for layer in (theirs, ours):
        layer.build((None, None, None, 3))
    ours.set_weights(theirs.get_weights())
    for size in SIZES:
        x = tf.random.stateless_normal((2, *size, 3), (0, 1))
        found = []
        for layer in (theirs, ours):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            found.append((y, *tape.gradient(y, [x, *layer.trainable_variables])))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_size_that_is_not_known_and_one_that_is_give_the_same():
    image = keras.Input((None, None, 3))
    network = keras.Model(image, conv(4, 3, 2, dilation_rate=6)(image))
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    unknown = tf.function(network, input_signature=[tf.TensorSpec((None, None, None, 3))])
    np.testing.assert_allclose(unknown(x), network(x), rtol=1e-5, atol=1e-5)


def test_files_of_keras_own_layers_load(tmp_path):
    def network(layer):
        image = keras.Input((8, 8, 3))
        return keras.Model(image, layer(layers.Conv2D(2, 1)(image)))

    theirs = network(layers.Conv2D(4, 3, padding="same", dilation_rate=2))
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours = network(conv(4, 3, 2, dilation_rate=2))
    ours.load_weights(tmp_path / "theirs.weights.h5")
    ours.save(tmp_path / "ours.keras")
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    again = keras.models.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(again(x), theirs(x), rtol=1e-5, atol=1e-6)
