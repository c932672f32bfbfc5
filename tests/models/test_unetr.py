import math

import numpy as np
import pytest

from keras_meduda.models import UNETR, load_torch_weights
from keras_meduda.models.torch_weights import expected_shapes

SMALL = {"feature_size": 8, "hidden": 48, "mlp": 96, "heads": 4}


def trainable(network):
    return sum(math.prod(variable.shape) for variable in network.trainable_weights)


def test_parameters_of_monai():
    assert trainable(UNETR((96, 96, 96, 1), channels=2)) == 92_783_842


def test_logits_of_monai(filled_outputs):
    network = UNETR((32, 32, 32, 1), channels=2, **SMALL)
    assert trainable(network) == 1_060_738
    y = filled_outputs(network, (1, 1, 32, 32, 32))["logits"]
    measured = [y.mean(), y.std(ddof=1), y.min(), y.max(), *y.ravel()[:3]]
    expected = [0.053132, 1.657767, -4.303463, 4.788764, 0.927365, 0.581637, 0.687907]
    np.testing.assert_allclose(measured, expected, atol=2e-5)


def test_image_logits_of_monai(filled_outputs):
    network = UNETR((32, 48, 1), channels=2, feature_size=4, hidden=24, mlp=48, heads=4)
    y = filled_outputs(network, (1, 1, 32, 48))["logits"]
    np.testing.assert_allclose([y.mean(), y.std(ddof=1)], [1.121082, 0.944116], atol=1e-5)


def test_norms_that_monai_never_calls_are_ignored(fill):
    network = UNETR((16, 16, 1), channels=2, feature_size=2, hidden=4, mlp=4, heads=2)
    unused = {f"vit.blocks.0.norm_cross_attn.{part}": np.ones(4) for part in ("weight", "bias")}
    load_torch_weights(network, {**fill(expected_shapes(network)), **unused})


@pytest.mark.parametrize(("input_shape", "options", "message"), [
    ((None, 32, 32, 1), {}, "expected fixed spatial sizes"),
    ((32, 40, 32, 1), {}, "multiples of 16"),
    ((32, 32, 32, 1), {"hidden": 50, "heads": 4}, "hidden=50 and heads=4"),
])
def test_mistakes_are_named(input_shape, options, message):
    with pytest.raises(ValueError, match=message):
        UNETR(input_shape, channels=2, **options)
