"""What `Supervised` adds to the contract of methods: the choice of loss, and auxiliary outputs."""

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda import losses


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    low = keras.layers.AveragePooling2D(2)(x)
    outputs = {
        "logits": keras.layers.Conv2D(2, 1)(x),
        "features": x,
        "aux_1": keras.layers.Conv2D(2, 1)(low),
    }
    return keras.Model(image, outputs, name="two_heads")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (2, 8, 8))
    image = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    return {"source": {"image": image, "mask": np.eye(2, dtype="float32")[labels]}}


def test_auxiliary_logits_train_on_the_masks_grid(network, batch):
    method = km.methods.Supervised(
        network, overlapping=False, loss=losses.cross_entropy, aux_weights={"aux_1": 0.4}
    )
    outputs = method.forward(batch, training=False)
    terms = method.losses(batch, outputs)
    mask = batch["source"]["mask"]
    grown = keras.ops.image.resize(outputs["aux_1"], (8, 8), "bilinear")
    expected = 0.4 * float(losses.cross_entropy(mask, grown, overlapping=False))
    assert set(terms) == {"segmentation", "aux_1"}
    assert float(terms["aux_1"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["segmentation"]) == pytest.approx(
        float(losses.cross_entropy(mask, outputs["logits"], overlapping=False))
    )


def test_without_weights_auxiliary_outputs_are_left_alone(network, batch):
    method = km.methods.Supervised(network, overlapping=False)
    terms = method.losses(batch, method.forward(batch, training=False))
    assert set(terms) == {"segmentation"}


def test_a_weight_for_an_output_that_is_not_there(network):
    with pytest.raises(ValueError, match=r"\['aux_2'\], but 'two_heads' gives \['aux_1', 'feat"):
        km.methods.Supervised(network, overlapping=False, aux_weights={"aux_2": 0.4})
