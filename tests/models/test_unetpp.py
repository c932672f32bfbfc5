import math

import numpy as np
import pytest

from keras_meduda.models import UNetPlusPlus
from keras_meduda.models.unetpp import mean_of_heads, prune


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
    pruned = prune(network, depth)
    image = np.random.default_rng(0).normal(size=(1, 13, 21, 1)).astype("float32")
    np.testing.assert_array_equal(pruned(image)["logits"], network(image)[head])
    assert pruned(image)["features"].shape == (1, 13, 21, 4)
    deeper = {layer.name for layer in network.layers} - {layer.name for layer in pruned.layers}
    assert f"conv{depth + 1}_0.conv.0" in deeper and f"conv{depth}_0.conv.0" not in deeper


def test_the_mean_is_that_of_every_head():
    network = UNetPlusPlus((None, None, 1), 2, filters=(4, 6, 8), deep_supervision=True)
    image = np.random.default_rng(0).normal(size=(1, 13, 21, 1)).astype("float32")
    heads, mean = network(image), mean_of_heads(network)(image)
    expected = (np.array(heads["logits"]) + np.array(heads["aux_1"])) / 2
    np.testing.assert_allclose(mean["logits"], expected, atol=1e-6)
    np.testing.assert_array_equal(mean["features"], heads["features"])


def test_a_head_that_is_not_there_is_named():
    network = UNetPlusPlus((None, None, 1), 2, filters=(4, 6, 8))
    with pytest.raises(ValueError, match=r"depth=1; 'unetplusplus' has the heads \['logits'\]"):
        prune(network, 1)
    with pytest.raises(ValueError, match=r"has the heads \['logits'\]; expected several"):
        mean_of_heads(network)
