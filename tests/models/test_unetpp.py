import math

import keras
import numpy as np
import pytest

from keras_meduda.models import UNetPlusPlus


def trainable(network):
    return sum(math.prod(variable.shape) for variable in network.trainable_weights)


def test_parameters():
    assert trainable(UNetPlusPlus((None, None, 3), channels=1)) == 9_163_329
    assert trainable(UNetPlusPlus((None, None, 3), channels=1, deep_supervision=True)) \
        == 9_163_329 + 3 * 33


def test_logits_of_meddistill(filled_outputs):
    logits = filled_outputs(UNetPlusPlus((None, None, 3), channels=1), (1, 3, 32, 32))["logits"]
    np.testing.assert_allclose(
        [logits.mean(), logits.std(ddof=1), logits.min(), logits.max(), *logits.ravel()[:3]],
        [0.101353, 0.010752, 0.078411, 0.125606, 0.094076, 0.090993, 0.089321], atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_pruned_network_is_what_the_shallower_head_saw(depth):
    network = UNetPlusPlus((None, None, 1), 2, filters=(4, 6, 8, 10), deep_supervision=True)
    head = f"aux_{depth}"
    pruned = keras.Model(network.input, {"logits": network.output[head],
                                         "features": network.get_layer(head).input})
    image = np.random.default_rng(0).normal(size=(1, 13, 21, 1)).astype("float32")
    np.testing.assert_array_equal(pruned(image)["logits"], network(image)[head])
    assert pruned(image)["features"].shape == (1, 13, 21, 4)
    deeper = {layer.name for layer in network.layers} - {layer.name for layer in pruned.layers}
    assert f"conv{depth + 1}_0.conv.0" in deeper and f"conv{depth}_0.conv.0" not in deeper
