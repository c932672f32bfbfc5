"""A plain Keras model becomes a network of the contract, or one message says what it lacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_meduda as km

IMAGE = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")


def plain(shape=(16, 16, 1), channels=2, **last):
    """A small encoder and decoder, as a user has it."""
    conv = {3: layers.Conv2D, 4: layers.Conv3D}[len(shape)]
    up = {3: layers.UpSampling2D, 4: layers.UpSampling3D}[len(shape)]
    image = keras.Input(shape)
    x = skip = conv(4, 3, padding="same", activation="relu")(image)
    x = conv(8, 3, padding="same", strides=2, activation="relu")(x)
    x = layers.Concatenate()([up(2)(layers.BatchNormalization()(x)), skip])
    return keras.Model(image, conv(channels, 1, **last)(x), name="plain")


def test_it_gives_what_the_model_gives_and_shares_its_weights():
    model = plain()
    network = km.models.from_keras(model)
    outputs = network(IMAGE)
    np.testing.assert_array_equal(outputs["logits"], model(IMAGE))
    assert outputs["features"].shape == (2, 16, 16, 12)
    assert all(a is b for a, b in zip(network.weights, model.weights, strict=True))


def test_a_sequential_model_is_one_as_well():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, padding="same"),
                              layers.Conv2D(1, 1)])  # fmt: skip
    network = km.models.from_keras(model)
    assert network.output["features"].shape == (None, 8, 8, 4)


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16, 16, 1)])
@pytest.mark.parametrize("name", sorted(km.methods.__all__))
def test_every_method_trains_it(name, shape):
    network = km.models.from_keras(plain(shape))
    settings = {"overlapping": True}
    if name == "CategoryRegularization":
        settings |= {"warm_up": 0.0, "passes": 2}
    if name == "SourceFree":  # the divergence of equal networks has no gradient
        settings |= {"shares": (0.9, 0.9)}
    method = getattr(km.methods, name)(network, **settings)
    method.compile(keras.optimizers.SGD(1e-2), keras.optimizers.SGD(1e-2))
    method.total_steps = 1
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    mask = np.repeat((image > 0).astype("float32"), 2, axis=-1)
    target = {"image": image, "strong": image, "style": image, "teacher": mask}
    batch = {
        "source": {"image": image, "mask": mask, "boundary": mask[..., :1]},
        "target": target | {"teacher_variance": np.full(2, 0.1, "float32")},
    }
    before = [np.array(w) for w in network.trainable_weights]
    assert np.isfinite(float(method.train_step(batch)["loss"]))
    assert all(np.any(w != b) for w, b in zip(network.trainable_weights, before, strict=True))


def test_keras_own_fit_trains_it_on_a_data_set():
    mask = (IMAGE > 0).astype("float32")
    data = tf.data.Dataset.from_tensors({"source": {"image": IMAGE, "mask": mask}}).repeat()
    method = km.methods.Supervised(km.models.from_keras(plain(channels=1)), overlapping=True)
    method.compile(keras.optimizers.Adam(1e-2))
    history = method.fit(data, steps_per_epoch=5, epochs=4, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert {"segmentation", "loss"} <= set(history)


def flat():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(image)), name="flat")


def two_outputs():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, [image, layers.Conv2D(1, 1)(image)], name="two")


def half():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Conv2D(2, 1, strides=2)(image), name="half")


def softmax_last():
    image = keras.Input((8, 8, 1))
    x = layers.Softmax(name="s")(layers.Conv2D(2, 1)(image))
    return keras.Model(image, x, name="soft")


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Subclassed(name="own"), "'own' has 0 inputs and 0 outputs; expected a functional"),
        (two_outputs, "'two' has 1 inputs and 2 outputs"),
        (flat, r"an output of \(None, 2\); .*; and 'dense.*', which does not read one map"),
        (half, r"an output of \(None, 4, 4, 2\); expected the image's size, \(None, 8, 8, 1\)"),
        (softmax_last, "'s' as its last layer; expected logits, from the layer before"),
        (lambda: plain(activation="sigmoid"), "sigmoid in its last layer .*activation=None"),
        (lambda: plain(dtype="mixed_float16"), "logits of float16; expected dtype='float32'"),
    ],
)
def test_what_a_model_lacks_is_said_at_once(build, message):
    with pytest.raises(ValueError, match=f"from_keras: .*{message}"):
        km.models.from_keras(build())
