"""The transposed convolution that JAX gets is Keras' own, and so is its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_meduda.models.transposed import conv_transpose, transposed_conv


@pytest.mark.parametrize(
    ("kernel_size", "strides"),
    [
        ((2, 2), (2, 2)),
        ((3, 3), (2, 2)),
        ((4, 5), (2, 3)),
        ((1, 3), (2, 1)),
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 3), (1, 2, 2)),
    ],
)
def test_it_equals_keras_forward_and_backward(kernel_size, strides):
    rank = len(strides)
    layer = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[rank](
        5, kernel_size, strides=strides, use_bias=False
    )
    rng = np.random.default_rng(0)
    x = tf.Variable(rng.normal(size=(2, *(4, 5, 3)[:rank], 3)).astype("float32"))
    with tf.GradientTape(persistent=True) as tape:
        expected = layer(x)
        received = transposed_conv(x, layer.kernel.value, strides)
        weights = rng.normal(size=expected.shape).astype("float32")
        sums = {"keras": expected * weights, "ours": received * weights}
    np.testing.assert_allclose(received, expected, atol=1e-5)
    gradients = {
        name: tape.gradient(product, [x, layer.kernel.value]) for name, product in sums.items()
    }
    for ours, theirs in zip(gradients["ours"], gradients["keras"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_files_of_weights_of_keras_own_layer_fit(tmp_path):
    """A file names its layers after their class, and files of before hold Keras' own."""
    image = np.random.default_rng(0).normal(size=(1, 3, 3, 2)).astype("float32")
    own, ours = (
        keras.Sequential([keras.Input((3, 3, 2)), layer])
        for layer in (layers.Conv2DTranspose(4, 2, 2), conv_transpose(4, 2, rank=2, strides=2))
    )
    own.save_weights(tmp_path / "own.weights.h5")
    ours.load_weights(tmp_path / "own.weights.h5")
    np.testing.assert_array_equal(ours(image), own(image))
