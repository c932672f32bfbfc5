from dataclasses import replace

import keras
import pytest
from keras import layers

import keras_meduda as km
from keras_meduda.models.blocks import ResizeTo, batch_norm, conv


def two_parts(dropout=0.1, channels=2, width=6):
    """A small network with the outputs and the two parts of DeepLabV3Plus."""

    def conv_norm_relu(x, strides=1):
        return layers.ReLU()(batch_norm()(conv(width, 3, 2, strides=strides)(x)))

    image = keras.Input((32, 32, 3), name="image")
    low_level = conv_norm_relu(image, strides=2)
    parts = {"image": image, "low_level": low_level, "pyramid": conv_norm_relu(low_level, 2)}
    encoder = keras.Model(image, parts, name="encoder")

    inputs = {key: keras.Input(x.shape[1:], name=key) for key, x in parts.items()}
    pyramid = layers.Dropout(dropout)(inputs["pyramid"])
    x = ResizeTo(align_corners=True)([pyramid, inputs["low_level"]])
    x = layers.Concatenate()([x, inputs["low_level"]])
    boundary = conv(1, 1, 2, dtype="float32")(layers.Dropout(dropout)(conv_norm_relu(x)))
    features = layers.Concatenate()([x, boundary])
    x = layers.Dropout(dropout)(layers.ReLU()(batch_norm()(features)))
    logits = conv(channels, 1, 2, dtype="float32", name="classifier")(x)
    full = ResizeTo(align_corners=True, dtype="float32")
    outputs = {
        "logits": full([logits, inputs["image"]]),
        "logits_low": logits,
        "features": features,
        "boundary": full([boundary, inputs["image"]]),
    }
    head = keras.Model(inputs, outputs, name="head")
    return keras.Model(image, head(encoder(image)), name="two_parts")


@pytest.fixture(scope="session")
def two_part_network():
    """Builder of `two_parts`."""
    return two_parts


@pytest.fixture(scope="module")
def data(batches):
    """A batch with boundaries."""
    return next(iter(replace(batches, boundary=True).from_step(0)))


@pytest.fixture
def make(two_part_network):
    """Builder of a `CategoryRegularization` of 100 steps."""

    def make(dropout=0.1, seed=0, **settings):
        with km.setup(seed=seed):
            network = two_part_network(dropout)
            settings = {"passes": 2, **settings}
            method = km.methods.CategoryRegularization(network, True, **settings)
            method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2, momentum=0.9))
        method.total_steps = 100
        return method

    return make
