"""Stochastic passes, of a network in two parts and of any other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.methods.stochastic import stochastic

IMAGE = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
PLAIN = {  # a classifier of one layer, of many with batch norm in them, with a dropout of its own
    "UNetPlusPlus": lambda: km.models.UNetPlusPlus((32, 32, 3), 2, filters=(8, 8)),
    "UNet": lambda: km.models.UNet((32, 32, 3), 2, filters=(8, 8, 8)),
    "UNetS5D16": lambda: km.models.UNetS5D16((32, 32, 3), 2),
}


@pytest.fixture(params=["two_parts", *PLAIN])
def network(request, two_part_network):
    keras.utils.set_random_seed(0)
    if request.param == "two_parts":
        return two_part_network(dropout=0.5)
    return PLAIN[request.param]()


def test_passes_differ_and_leave_batch_norm_alone(network):
    before = [np.array(w) for w in network.weights]
    sure, drawn = stochastic(network)
    encoded = sure(IMAGE, training=False)
    first, second = (np.array(drawn(encoded)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-4
    for w, b in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(w, b)


def test_without_dropout_a_pass_is_the_network(network):
    sure, drawn = stochastic(network, rate=0.0)
    for layer in drawn._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    received = drawn(sure(IMAGE, training=False))
    np.testing.assert_allclose(received, network(IMAGE)["logits"], rtol=1e-4, atol=1e-4)


def test_the_network_itself_is_not_changed(network, tmp_path):
    before = network(IMAGE)["logits"]
    sure, drawn = stochastic(network)
    drawn(sure(IMAGE, training=False))
    np.testing.assert_array_equal(network(IMAGE)["logits"], before)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(loaded(IMAGE)["logits"], before, rtol=1e-5, atol=1e-6)


def test_all_weights_are_the_networks_own(network):
    own = {id(w) for w in network.weights}
    assert all(id(w) in own for model in stochastic(network) for w in model.weights)


def test_shared_encoding_equals_whole_passes_on_average(two_part_network):
    network = two_part_network(dropout=0.3)
    sure, drawn = stochastic(network)
    encoded = sure(IMAGE, training=False)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # Keras' own way to hold its statistics in training
    passes = tf.function(lambda: (drawn(encoded), network(IMAGE, training=True)["logits"]))
    a, b = (np.array(p) for p in zip(*[passes() for _ in range(400)], strict=True))
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / len(a))
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error + 1e-6).mean() > 0.999


def test_parts_without_dropout_are_refused(two_part_network):
    head = two_part_network().get_layer("head")
    encoder = two_part_network().get_layer("encoder")
    sure = keras.Model(head.input, {"logits": head.input["pyramid"]}, name="head")
    network = keras.Model(encoder.input, sure(encoder(encoder.input)), name="sure")
    with pytest.raises(ValueError, match="no Dropout in 'head' of 'sure'"):
        stochastic(network)
