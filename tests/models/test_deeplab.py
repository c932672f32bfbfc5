import math

import keras
import numpy as np
import pytest
from keras import layers

from keras_meduda.models import DeepLabV3Plus, encoders
from keras_meduda.models.deeplab import inverted_residual, transfer_backbone
from keras_meduda.models.torch_weights import expected_shapes


@pytest.fixture(scope="module")
def network():
    return DeepLabV3Plus((None, None, 3), channels=2)


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def moments(x):
    return [x.mean(), x.std(ddof=1), x.min(), x.max()]


def test_parameters_of_uda_clr(network):
    sizes = {key: math.prod(shape) for key, shape in expected_shapes(network).items()}
    trained = {part: sum(size for key, size in sizes.items()
                         if key.startswith(part) and "running" not in key)
               for part in ("backbone.", "aspp.", "decoder.")}
    assert trained == {"backbone.": 1_811_712, "aspp.": 2_706_432, "decoder.": 1_293_991}
    assert sum(sizes.values()) - sum(trained.values()) == 36_354


def test_outputs_of_uda_clr(network, filled_outputs, parity_input):
    shape = (1, 3, 64, 64)
    outputs = filled_outputs(network, shape)
    pyramid = network.get_layer("encoder")(parity_input(shape))["pyramid"]
    outputs["pyramid"] = np.moveaxis(np.asarray(pyramid), -1, 1)
    expected = {
        "logits": [-1.779222, 0.155769, -2.247678, -1.356343],
        "boundary": [-0.413170, 0.003851, -0.420841, -0.403609],
        "pyramid": [0.551210, 0.761550, 0, 3.831323],
        "features": [0.501148, 0.670870, -0.421303, 3.831323],
    }
    for key, values in expected.items():
        np.testing.assert_allclose(moments(outputs[key]), values, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(moments(outputs["features"][:, :304])[:3], [0.504156, 0.669917, 0],
                               atol=1e-5)
    np.testing.assert_allclose(moments(outputs["logits_low"])[:2], [-1.780964, 0.172196], atol=1e-5)
    np.testing.assert_allclose(moments(outputs["boundary_low"])[:2], [-0.413115, 0.004498],
                               atol=1e-5)
    first = {
        "logits": [-2.247678, -2.239078, -2.230477],
        "boundary": [-0.411617, -0.410441, -0.409264],
        "pyramid": [2.783065, 2.398129, 2.528868],
        "logits_low": [-2.247678, -2.211556, -2.176448],
        "boundary_low": [-0.411617, -0.406676, -0.410288],
    }
    for key, values in first.items():
        np.testing.assert_allclose(outputs[key].ravel()[:3], values, atol=1e-5, err_msg=key)


def test_resolutions_at_512():
    network = DeepLabV3Plus((512, 512, 3), channels=2)
    parts = network.get_layer("encoder").output
    assert {key: parts[key].shape[1:] for key in ("pyramid", "low_level")} == {
        "pyramid": (32, 32, 256), "low_level": (128, 128, 24)}
    assert network.output["features"].shape[1:] == (128, 128, 305)
    assert network.output["logits"].shape[1:] == (512, 512, 2)
    assert network.output["boundary"].shape[1:] == (512, 512, 1)


def test_padding_ahead_of_the_expansion(filled_outputs):
    image = keras.Input((6, 6, 8))
    block = keras.Model(image, {"y": inverted_residual(image, 8, 6, 1, 1, "conv")})
    y = filled_outputs(block, (1, 8, 6, 6))["y"]
    np.testing.assert_allclose([*moments(y), *y.ravel()[:3]], [
        0.590341, 0.566954, -0.501214, 1.473221, 1.125959, 1.190612, 1.160245], atol=1e-5)


def test_only_the_head_is_stochastic(network):
    encoder, head = network.get_layer("encoder"), network.get_layer("head")
    dropouts = [[layer.rate for layer in part.layers if isinstance(layer, layers.Dropout)]
                for part in (encoder, head)]
    assert [sorted(rates) for rates in dropouts] == [[], [0.1, 0.1, 0.5, 0.5]]
    image = noise(1, 33, 40, 3)
    features = encoder(image)
    for key, y in network(image).items():
        np.testing.assert_array_equal(head(features)[key], y)


def test_without_a_boundary_the_mask_branch_reads_304_channels():
    outputs = DeepLabV3Plus((64, 64, 1), channels=3, boundary=False).output
    assert {key: y.shape[1:] for key, y in outputs.items()} == {
        "logits": (64, 64, 3), "logits_low": (16, 16, 3), "features": (16, 16, 304)}


def test_a_batch_of_one_trains_what_is_deployed():
    """The image branch has one value a channel then: batch statistics would be that value and 0."""
    network = DeepLabV3Plus((32, 32, 3), channels=2)
    norm = network.get_layer("encoder").get_layer("aspp.global_avg_pool.2")
    network(noise(1, 32, 32, 3), training=True)
    assert (np.array(norm.moving_variance) == 1).all()
    network(noise(2, 32, 32, 3), training=True)
    assert (np.array(norm.moving_variance) != 1).all()
    x = noise(1, 1, 1, 256)
    np.testing.assert_array_equal(norm(x, training=True), norm(x, training=False))


def randomise_norms(application, centred):
    """Statistics as if trained; `centred` norms keep zero at zero, whatever the padding."""
    rng = np.random.default_rng(0)
    for layer in application.layers:
        if isinstance(layer, layers.BatchNormalization):
            width = layer.gamma.shape
            shift = 0 if centred(layer.name) else 1
            layer.set_weights([rng.uniform(0.5, 1.5, width), shift * rng.normal(0, 0.1, width),
                               shift * rng.normal(0, 0.1, width), rng.uniform(0.01, 2, width)])


def test_mobilenetv2_of_keras_applications_fits_in(network):
    # The sizes 65, 33, 17… are where both pad alike, and expansions that map 0 to 0 make padding
    # before and after them the same.
    application = keras.applications.MobileNetV2(include_top=False, weights=None,
                                                 input_shape=(65, 65, 3))
    randomise_norms(application, centred=lambda name: name.endswith("_expand_BN"))
    transfer_backbone(network, application)
    image, encoder = noise(1, 65, 65, 3), network.get_layer("encoder")
    for theirs, ours in (("block_2_project_BN", "backbone.features.3.conv.7"),
                         ("block_12_project_BN", "backbone.features.13.conv.7")):
        expected = keras.Model(application.input, application.get_layer(theirs).output)(image)
        received = keras.Model(encoder.input, encoder.get_layer(ours).output)(image)
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)
    last = encoder.get_layer("backbone.features.17.conv.6").get_weights()
    np.testing.assert_array_equal(*last, *application.get_layer("block_16_project").get_weights())


def test_resnet50_of_keras_applications_fits_in():
    application = keras.applications.ResNet50(include_top=False, weights=None,
                                              input_shape=(None, None, 3))
    randomise_norms(application, centred=lambda name: False)
    network = DeepLabV3Plus((None, None, 3), channels=2, backbone="resnet50")
    transfer_backbone(network, application)
    image, encoder = noise(1, 97, 97, 3), network.get_layer("encoder")
    features = encoder(image)
    assert features["pyramid"].shape == (1, 7, 7, 256)
    caffe = keras.applications.resnet.preprocess_input(127.5 * (image + 1))
    theirs = keras.Model(application.input, application.get_layer("conv2_block3_out").output)
    inside = (slice(None), slice(7, -7), slice(7, -7))
    np.testing.assert_allclose(features["low_level"][inside], theirs(caffe)[inside], rtol=1e-3,
                               atol=1e-3)


@pytest.mark.parametrize("backbone", ["mobilenetv2", "resnet50"])
def test_a_grey_image_gives_what_its_three_copies_give(backbone):
    application = encoders.application(backbone)
    image, received = noise(1, 32, 40, 1), []
    for channels in (3, 1, 4):
        network = DeepLabV3Plus((None, None, channels), channels=2, backbone=backbone)
        transfer_backbone(network, application)
        copies = np.repeat(image, channels, axis=-1)
        received.append(network.get_layer("encoder")(copies)["low_level"])
    for low_level in received[1:]:
        np.testing.assert_allclose(low_level, received[0], atol=1e-4)


def test_a_weights_file_is_read(network, tmp_path):
    network.save_weights(tmp_path / "network.weights.h5")
    other = DeepLabV3Plus((None, None, 3), channels=2, weights=tmp_path / "network.weights.h5")
    image = noise(1, 32, 32, 3)
    np.testing.assert_allclose(other(image)["logits"], network(image)["logits"], atol=1e-5)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"backbone": "vgg16"}, ValueError, "'vgg16', expected one of mobilenetv2, resnet50"),
    ({"weights": "absent.weights.h5"}, FileNotFoundError, "absent.weights.h5: no such checkpoint"),
])
def test_mistakes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        DeepLabV3Plus((64, 64, 1), channels=2, **options)
