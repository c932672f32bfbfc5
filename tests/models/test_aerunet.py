"""AERUNet has no original to be compared with: its size is that of the definition."""

import math

import pytest

from keras_meduda.models import AERUNet

PICTURE, VOLUME = (None, None, 3), (None, None, None, 1)


@pytest.mark.parametrize(
    ("input_shape", "channels", "filters", "parameters"),
    [
        (PICTURE, 3, (32, 64, 128, 256, 512), 8_119_115),
        (PICTURE, 2, (32, 64, 128, 256, 512), 8_119_082),
        (VOLUME, 2, (16, 32, 64, 128, 256), 5_739_882),
        (VOLUME, 4, (16, 32, 64, 128, 256), 5_739_916),
        (VOLUME, 2, (8, 16, 32, 64, 128), 1_438_866),
    ],
)
def test_parameters(input_shape, channels, filters, parameters):
    network = AERUNet(input_shape, channels, filters)
    assert sum(math.prod(weight.shape) for weight in network.trainable_weights) == parameters
