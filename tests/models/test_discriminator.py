import keras
import numpy as np
import pytest

from keras_meduda.models import Discriminator


@pytest.mark.parametrize(("in_channels", "parameters", "mean", "std", "first"), [
    (1, 2_761_728, -0.001351, 0.005410, [-0.003447, -0.009496, -0.007431]),
    (2, 2_762_752, -2.6e-5, 1.05e-4, [-6.8e-5, -1.80e-4, -1.41e-4]),
])
def test_logits_of_uda_clr(filled_outputs, in_channels, parameters, mean, std, first):
    network = Discriminator(in_channels)
    assert network.count_params() == parameters
    model = keras.Model(network.input, {"logits": network.output})
    logits = filled_outputs(model, (1, in_channels, 64, 64))["logits"]
    assert logits.shape == (1, 1, 3, 3)
    np.testing.assert_allclose([logits.mean(), logits.std(ddof=1)], [mean, std], atol=1e-6)
    np.testing.assert_allclose(logits.ravel()[:3], first, atol=1e-6)


def test_stays_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = Discriminator(1)
    finally:
        keras.config.set_dtype_policy(policy)
    assert {layer.compute_dtype for layer in network.layers[1:]} == {"float32"}


def test_volumes_have_kernels_of_three_axes():
    volumes = Discriminator(1, rank=3)
    assert volumes.count_params() == 4 * 2_761_728
    x = np.random.default_rng(0).normal(size=(1, 32, 17, 40, 1)).astype("float32")
    assert volumes(x).shape == volumes.compute_output_shape(x.shape) == (1, 2, 2, 3, 1)


def test_an_input_of_512_gives_17_by_17():
    assert Discriminator(1).compute_output_shape((8, 512, 512, 1)) == (8, 17, 17, 1)
