import math

import numpy as np
import pytest

from keras_meduda.models import DynUNet

VOLUME = (None, None, None, 1)
SIX_LEVELS = {"kernel_sizes": (3,) * 6, "strides": (1, 2, 2, 2, 2, 2)}
FLAT_VOXELS = {"kernel_sizes": ((3, 3, 1), 3, 3, 3), "strides": (1, (2, 2, 1), 2, 2)}


@pytest.mark.parametrize(("options", "count"), [
    ({}, 16_543_650),
    ({"residual": True}, 16_670_210),
    ({"residual": True, "deep_supervision": 2}, 16_670_598),
    (SIX_LEVELS, 31_189_410),
    ({**SIX_LEVELS, "residual": True, "deep_supervision": 1}, 31_419_140),
])
def test_parameters_of_monai(options, count):
    network = DynUNet(VOLUME, channels=2, **options)
    assert sum(math.prod(variable.shape) for variable in network.trainable_weights) == count


@pytest.mark.parametrize(("residual", "expected"), [
    (False, [0.178550, 0.227473, -0.118358, 1.968104, 0.052029, 0.075264, 0.091697]),
    (True, [0.184244, 0.223201, -0.117311, 1.803757, 0.030001, 0.054936, 0.091710]),
])
def test_logits_of_monai(filled_outputs, residual, expected):
    network = DynUNet(VOLUME, channels=2, residual=residual)
    y = filled_outputs(network, (1, 1, 32, 32, 32))["logits"]
    measured = [y.mean(), y.std(ddof=1), y.min(), y.max(), *y.ravel()[:3]]
    np.testing.assert_allclose(measured, expected, atol=1e-5)


def test_anisotropic_network_with_deep_supervision_of_monai(filled_outputs):
    network = DynUNet(VOLUME, channels=2, filters=(4, 8, 8, 16), residual=True,
                      deep_supervision=2, **FLAT_VOXELS)
    outputs = filled_outputs(network, (1, 1, 16, 16, 8))
    expected = {"logits": ((16, 16, 8), 0.782456, 0.483417),
                "aux_1": ((8, 8, 8), -0.130111, 0.408435),
                "aux_2": ((4, 4, 4), 0.050128, 0.268324)}
    for name, (size, mean, std) in expected.items():
        assert outputs[name].shape == (1, 2, *size)
        np.testing.assert_allclose([outputs[name].mean(), outputs[name].std(ddof=1)], [mean, std],
                                   atol=1e-5)


def test_image_logits_of_monai(filled_outputs):
    network = DynUNet((None, None, 1), channels=2, kernel_sizes=(3, 3, 3), strides=(1, 2, 2),
                      filters=(4, 8, 16), residual=True)
    y = filled_outputs(network, (1, 1, 16, 24))["logits"]
    np.testing.assert_allclose([y.mean(), y.std(ddof=1)], [0.565151, 0.803166], atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"strides": (1, 2)}, "2 strides, 5 kernel_sizes"),
    ({"filters": (8, 16)}, "2 filters"),
    ({"strides": (2, 2, 2, 2, 2)}, r"strides\[0\]=\(2, 2, 2\)"),
    ({"strides": (1, 2, 2, 2, (2, 2))}, "each of 3 axes"),
    ({"kernel_sizes": (3, 3, 3, 3, 2)}, "expected odd numbers"),
    ({"deep_supervision": 4}, "expected 0 to 3"),
])
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DynUNet(VOLUME, channels=2, **options)
