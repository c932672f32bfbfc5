"""The laws of a network, over all of them: a new network is one more line in the table."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.models import (
    UNETR,
    AERUNet,
    DeepLabV3Plus,
    DynUNet,
    RatLesNetV2,
    UNet,
    UNetPlusPlus,
    UNetS5D16,
    load_torch_weights,
)
from keras_meduda.models.encoders import BACKBONES
from keras_meduda.models.torch_weights import expected_shapes

THREE_LEVELS = {"kernel_sizes": (3, 3, 3), "strides": (1, 2, 2), "filters": (4, 6, 8)}
TINY_TRANSFORMER = {"feature_size": 2, "hidden": 8, "mlp": 8, "heads": 2}

# name: (network, shape of an image with its channels)
NETWORKS = {
    "AERUNet-2D": (partial(AERUNet, filters=(4, 6, 8)), (17, 23, 1)),
    "AERUNet-3D": (partial(AERUNet, filters=(4, 6, 8)), (9, 10, 7, 1)),
    "UNet-2D": (partial(UNet, filters=(4, 6, 8)), (17, 23, 3)),
    "UNet-3D": (partial(UNet, filters=(4, 6, 8)), (9, 10, 7, 1)),
    "DynUNet-2D": (partial(DynUNet, **THREE_LEVELS, deep_supervision=1), (17, 23, 1)),
    "DynUNet-3D": (partial(DynUNet, **THREE_LEVELS, residual=True), (9, 10, 7, 1)),
    "DeepLabV3Plus": (DeepLabV3Plus, (17, 23, 3)),
    "DeepLabV3Plus-ResNet50": (partial(DeepLabV3Plus, backbone="resnet50"), (35, 18, 3)),
    "RatLesNetV2": (RatLesNetV2, (9, 10, 7, 1)),
    "UNetPlusPlus-2D": (
        partial(UNetPlusPlus, filters=(4, 6, 8), deep_supervision=True),
        (17, 23, 1),
    ),
    "UNetPlusPlus-3D": (partial(UNetPlusPlus, filters=(4, 6, 8)), (9, 10, 7, 1)),
    "UNetS5D16": (partial(UNetS5D16, head="deeplabv3"), (17, 23, 3)),
    "UNETR-3D": (partial(UNETR, **TINY_TRANSFORMER), (32, 16, 16, 1)),
}
# A whole encoder once in the quick tests, the others cut at 1/4 or, DeepLab's, at 1/16.
WHOLE = {"filters": (4, 4, 4, 4, 4), "backbone": "mobilenetv2"}
NETWORKS["UNet-whole-mobilenetv2"] = partial(UNet, **WHOLE), (17, 23, 1)
SLOW = {  # UNet with mobilenetv2 and DeepLabV3Plus with resnet50 stand above
    f"{build.__name__}-{backbone}": (partial(build, backbone=backbone, filters=(4, 6)), (17, 23, 3))
    for build in (UNet, AERUNet, UNetPlusPlus)
    for backbone in BACKBONES
    if (build, backbone) != (UNet, "mobilenetv2")
}
for backbone in ("efficientnetv2b0", "convnexttiny"):
    SLOW[f"DeepLabV3Plus-{backbone}"] = partial(DeepLabV3Plus, backbone=backbone), (17, 23, 3)
NETWORKS |= SLOW
FIXED_SHAPE = {"UNETR-3D"}
CHANNELS = 2


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETWORKS],
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def image(name):
    return np.random.default_rng(0).normal(size=(2, *NETWORKS[name][1])).astype("float32")


@pytest.fixture(scope="module")
def network(name):
    keras.utils.set_random_seed(0)
    build, shape = NETWORKS[name]
    spatial = shape[:-1] if name in FIXED_SHAPE else (None,) * (len(shape) - 1)
    return build((*spatial, shape[-1]), CHANNELS)


@pytest.fixture(scope="module")
def outputs(network, image):
    return network(image, training=False)


def assert_close(received, expected):
    assert received.keys() == expected.keys()
    for key, values in expected.items():
        rounding = 1e-5 * max(1.0, np.abs(values).max())  # of sums whose terms are as large
        np.testing.assert_allclose(received[key], values, rtol=1e-4, atol=rounding, err_msg=key)


def test_logits_have_the_size_of_the_image(outputs, image):
    assert outputs["logits"].shape == (*image.shape[:-1], CHANNELS)
    assert outputs["logits"].dtype == "float32"
    assert len(outputs["features"].shape) == image.ndim


def test_symbolic_shapes_agree_with_real_ones(network, outputs):
    assert network.output.keys() == outputs.keys()
    for key, symbol in network.output.items():
        assert all(size in (None, real)
                   for size, real in zip(symbol.shape, outputs[key].shape, strict=True)), key


def test_an_image_does_not_depend_on_its_batch(network, image, outputs):
    assert_close(network(image[:1], training=False), {k: y[:1] for k, y in outputs.items()})


def test_a_saved_network_comes_back(network, image, outputs, tmp_path):
    path = tmp_path / "network.keras"
    network.save(path)
    assert_close(keras.saving.load_model(path)(image, training=False), outputs)


def test_a_fixed_shape_changes_nothing(name, network, image, outputs):
    build, shape = NETWORKS[name]
    fixed = build(shape, CHANNELS)
    fixed.set_weights(network.get_weights())
    assert_close(fixed(image, training=False), outputs)


def test_a_gradient_reaches_every_weight(network, image):
    with tf.GradientTape() as tape:
        outputs = network(image, training=False)
        loss = sum(tf.reduce_sum(y ** 2) for key, y in outputs.items() if key != "features")
    gradients = tape.gradient(loss, network.trainable_variables)
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.any(gradient), variable.path


def test_mixed_precision_keeps_float32_logits(name, image):
    build, shape = NETWORKS[name]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = build(shape, CHANNELS)(image[:1])
    finally:
        keras.config.set_dtype_policy(policy)
    assert outputs["features"].dtype == "bfloat16"
    assert {y.dtype for key, y in outputs.items() if key != "features"} == {tf.float32}


def test_every_weight_has_a_key_of_its_own(network, fill):
    values, before = fill(expected_shapes(network)), network.get_weights()
    load_torch_weights(network, values)
    loaded = network.get_weights()
    network.set_weights(before)
    assert len(values) == len(loaded)
    np.testing.assert_allclose(sum(np.sum(weight, dtype="float64") for weight in loaded),
                               sum(np.sum(value, dtype="float64") for value in values.values()))
