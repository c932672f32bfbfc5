import math

import numpy as np
import pytest

from keras_meduda.models import UNet

VOLUME = (None, None, None, 1)


def trainable(network):
    return sum(math.prod(variable.shape) for variable in network.trainable_weights)


@pytest.mark.parametrize(("options", "count"), [
    ({}, 4_808_917),
    ({"norm": "instance"}, 4_806_481),
    ({"norm": "instance", "res_units": 0}, 1_979_610),
])
def test_parameters_of_monai(options, count):
    assert trainable(UNet(VOLUME, channels=2, **options)) == count


def test_logits_of_monai(filled_outputs):
    logits = filled_outputs(UNet(VOLUME, channels=2), (1, 1, 32, 32, 16))["logits"]
    np.testing.assert_allclose([logits.mean(), logits.std(ddof=1)], [-0.425790, 17.058408],
                               atol=1e-4)
    np.testing.assert_allclose(logits[0, 0, 0, 0, :3], [3.491254, 5.261598, 8.294105], rtol=1e-4)


@pytest.mark.parametrize(("shape", "filters", "options", "mean", "std"), [
    ((1, 3, 16, 24), (4, 8, 8), {}, 2.359933, 88.125384),
    ((1, 1, 16, 24), (4, 8, 8), {"res_units": 0, "norm": "instance"}, 0.046301, 0.478736),
    ((2, 1, 8, 12, 6), (4, 6, 8), {"res_units": 1, "strides": ((2, 2, 1), 1)}, 1.030489, 65.266210),
])
def test_variants_of_monai(filled_outputs, shape, filters, options, mean, std):
    network = UNet((*[None] * (len(shape) - 2), shape[1]), channels=2, filters=filters, **options)
    logits = filled_outputs(network, shape)["logits"]
    np.testing.assert_allclose([logits.mean(), logits.std(ddof=1)], [mean, std], rtol=1e-4)


@pytest.mark.parametrize(("options", "message"), [
    ({"strides": (2, 2)}, "expected 4 of 1 or 2"),
    ({"strides": (2, 2, 2, 3)}, "expected 4 of 1 or 2"),
    ({"strides": (2, 2, 2, (2, 2))}, "each of 3 axes"),
    ({"norm": "layer"}, "norm='layer'"),
])
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(VOLUME, channels=2, **options)
