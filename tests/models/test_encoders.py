"""Encoders of keras.applications: cut, channels, sizes, weights and parts."""

import hashlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_meduda as km
from keras_meduda.methods.finetuning import discriminative, train_only
from keras_meduda.models.encoders import (
    BACKBONES,
    PadToMultiple,
    application,
    encode,
    kept_file,
    transfer,
)
from keras_meduda.models.stages import leaves

SMALL = {"filters": (4, 6)}


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def encoder(backbone, channels=3, levels=2):
    image = keras.Input((None, None, channels))
    return keras.Model(image, encode(image, backbone, levels))


def randomise(network):
    """Statistics and scales as if trained, which a random start has at 0 and 1."""
    rng = np.random.default_rng(0)
    for layer in leaves(network):
        if type(layer).__name__ in ("BatchNormalization", "LayerScale"):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])


def built_by_keras(name):
    """An encoder with its own preprocessing, from 0…255, as a user of Keras would build it."""
    network = getattr(keras.applications, BACKBONES[name].application)(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    randomise(network)
    return network


@pytest.fixture(scope="module", params=BACKBONES)
def original(request):
    """The name of an encoder, and the encoder."""
    return request.param, built_by_keras(request.param)


@pytest.fixture
def float64():
    """Arithmetic in which two hundred layers add up no rounding that could be seen."""
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


def own_range(backbone, image):
    """What keras.applications' own function makes of a picture in 0…255."""
    module = {"mobilenetv2": "mobilenet_v2", "resnet50": "resnet"}.get(backbone)
    picture = 127.5 * (image + 1)
    return getattr(keras.applications, module).preprocess_input(picture) if module else picture


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(n, marks=pytest.mark.slow if n != "mobilenetv2" else ()) for n in BACKBONES],
)
def test_the_cut_gives_what_keras_applications_gives(backbone, float64):
    theirs, ours = built_by_keras(backbone), encoder(backbone, levels=5)
    transfer(ours, theirs)
    image = noise(1, 64, 96, 3).astype("float64")
    ends = [end for end in BACKBONES[backbone].ends(theirs.get_layer) if end is not None]
    expected = keras.Model(theirs.input, ends)(own_range(backbone, image))
    whole, *received = ours(image)
    np.testing.assert_array_equal(whole, image)
    if len(ends) < 5:
        halved = received.pop(0)
        mean = image.reshape(1, 32, 2, 48, 2, 3).mean((2, 4))
        np.testing.assert_allclose(halved, mean, atol=1e-6)
    sizes = [(64 // stride, 96 // stride) for stride in (2, 4, 8, 16, 32)]
    assert [y.shape[1:3] for y in received] == sizes[-len(ends) :]
    for y, x in zip(received, expected, strict=True):
        assert x.dtype == y.dtype == "float64"
        np.testing.assert_allclose(y / np.abs(x).max(), x / np.abs(x).max(), atol=1e-5)


def test_a_grey_image_gives_what_its_three_copies_give(original):
    backbone, theirs = original
    image, deepest = noise(1, 32, 40, 1), []
    for channels in (3, 1, 4):
        ours = encoder(backbone, channels)
        transfer(ours, theirs)
        deepest.append(np.array(ours(np.repeat(image, channels, -1))[-1]))
    for y in deepest[1:]:
        np.testing.assert_allclose(y, deepest[0], atol=1e-5 * np.abs(y).max())


def test_sizes_are_padded_by_repeating_the_border():
    image = noise(2, 5, 9, 1)
    expected = np.pad(image, ((0, 0), (0, 3), (0, 7), (0, 0)), "edge")
    np.testing.assert_array_equal(PadToMultiple(8)(image), expected)
    np.testing.assert_array_equal(PadToMultiple(8)(expected), expected)


def test_a_small_picture_is_seen_as_its_padded_one():
    network = km.models.UNet((None, None, 3), 2, **SMALL, backbone="mobilenetv2")
    image = noise(1, 17, 22, 3)
    whole = network(np.pad(image, ((0, 0), (0, 3), (0, 2), (0, 0)), "edge"))["logits"]
    np.testing.assert_allclose(network(image)["logits"], whole[:, :17, :22], atol=1e-5)


def test_batch_norm_follows_small_batches_and_keeps_its_epsilon(original):
    """MobileNetV2's own momentum, 0.999, would still be ImageNet's after hundreds of steps."""
    backbone, theirs = original
    norms = [n for n in leaves(encoder(backbone)) if isinstance(n, layers.BatchNormalization)]
    expected = [n for n in leaves(theirs) if isinstance(n, layers.BatchNormalization)]
    assert bool(norms) == bool(expected)
    assert {n.momentum for n in norms} <= {0.9}
    assert [n.epsilon for n in norms] == [n.epsilon for n in expected[: len(norms)]]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_gives_what_full_does_and_learns(backbone, batches):
    """The ranges' offsets and the sums of batch norm stay in float32, ReLU6 ends at 6."""
    methods = []
    for precision in ("float32", "mixed_float16"):
        with km.setup(precision=precision, seed=0):
            network = km.models.UNet((32, 32, 3), 2, **SMALL, backbone=backbone)
            method = km.methods.Supervised(network, overlapping=True)
            method.compile(keras.optimizers.Adam(1e-3))
        randomise(network)
        methods.append(method)
    full, half = methods
    half.network.set_weights(full.network.get_weights())
    assert half.network.get_layer("backbone").layers[-1].compute_dtype == "float16"
    expected, received = (m.network(noise(2, 32, 32, 3))["logits"] for m in methods)
    assert received.dtype == "float32"
    np.testing.assert_allclose(received, expected, atol=0.02 * np.abs(expected).max())
    data = next(iter(batches.from_step(0)))
    a, b = (float(m.train_step(data)["loss"]) for m in methods)
    assert b == pytest.approx(a, rel=0.02)
    for weight, before in zip(half.network.weights, full.network.weights, strict=True):
        np.testing.assert_allclose(weight, before, atol=0.02, err_msg=weight.path)


# Weights


@pytest.fixture(scope="module")
def theirs():
    network = application("mobilenetv2")
    randomise(network)
    return network


@pytest.mark.parametrize("form", ["weights.h5", "keras", "h5"])
def test_a_file_in_the_form_of_keras_applications(form, theirs, tmp_path):
    path = tmp_path / f"theirs.{form}"
    (theirs.save_weights if form == "weights.h5" else theirs.save)(path)
    network = km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2", weights=path)
    ours = [layer for layer in network.get_layer("backbone").layers if layer.weights]
    assert len(ours) == 18
    for layer in ours:
        pairs = zip(layer.weights, theirs.get_layer(layer.name).weights, strict=True)
        for received, weight in pairs:
            np.testing.assert_array_equal(received, weight)
    name, digest = network.start.split(", SHA-256 ")
    assert (name, digest) == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("backbone", [None, "mobilenetv2"])
def test_a_file_of_the_whole_network(backbone, tmp_path):
    path = tmp_path / "whole.weights.h5"
    first = km.models.UNetPlusPlus((32, 32, 3), 2, **SMALL, backbone=backbone)
    first.save_weights(path)
    second = km.models.UNetPlusPlus((32, 32, 3), 2, **SMALL, backbone=backbone, weights=path)
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert second.start.startswith("whole.weights.h5, SHA-256 ")


@pytest.mark.parametrize("form", ["weights.h5", "h5"])
def test_a_file_of_another_network_is_refused(form, tmp_path):
    image = keras.Input((8, 8, 3))
    other = keras.Model(image, layers.Conv2D(32, 5, name="first")(image))
    path = tmp_path / f"other.{form}"
    (other.save_weights if form == "weights.h5" else other.save)(path)
    with pytest.raises(ValueError) as error:
        km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2", weights=path)
    text = str(error.value)
    assert "of its weights do not fit 'mobilenetv2_1." in text
    assert "Conv1/kernel: received (5, 5, 3, 32), expected (3, 3, 3, 32)" in text
    assert "of its weights do not fit 'unet', which stays as it is" in text


@pytest.mark.parametrize("form", ["weights.h5", "h5"])
def test_a_download_that_broke_off_is_named(form, theirs, tmp_path):
    path = tmp_path / f"theirs.{form}"
    (theirs.save_weights if form == "weights.h5" else theirs.save)(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path.name}: expected weights.*has to be fetched again"):
        km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2", weights=path)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Keras' folder of downloads is empty, and nothing can be reached."""
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_failed_download_says_where_a_file_can_be_put(backbone, offline):
    with pytest.raises(ConnectionError, match="could not be downloaded") as error:
        km.models.UNet((32, 32, 3), 2, **SMALL, backbone=backbone, weights="imagenet")
    file = kept_file(backbone)
    assert f"/{file.name}: " in str(error.value)  # Keras asked for that file
    assert f"weights=, or put it into {file.parent};" in str(error.value)


def test_a_damaged_file_in_the_folder_of_keras_is_named(offline, theirs):
    file = kept_file("mobilenetv2")
    file.parent.mkdir()
    theirs.save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{file}: expected ImageNet's .*; delete the file"):
        km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2", weights="imagenet")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "vgg16"}, ValueError, "'vgg16', expected one of mobilenetv2, resnet50, eff"),
        ({"filters": (4,) * 6}, ValueError, "with 6 filters; expected 2 to 5"),
        ({"filters": (4,)}, ValueError, "with 1 filters; expected 2 to 5"),
        ({"input_shape": (8, 8, 8, 1)}, ValueError, "backbones are of pictures, a volume has none"),
        ({"backbone": None, "weights": "imagenet"}, ValueError, "expected backbone= as well"),
        ({"weights": "absent.h5"}, FileNotFoundError, "absent.h5: no such checkpoint"),
        ({"strides": (2, 2)}, ValueError, "a backbone has strides of its own"),
    ],
)
def test_mistakes_are_named(options, error, message):
    settings = {"input_shape": (32, 32, 3), "backbone": "mobilenetv2", **SMALL, **options}
    with pytest.raises(error, match=message):
        km.models.UNet(channels=2, **settings)


# Parts


@pytest.mark.parametrize("build", [km.models.UNet, km.models.AERUNet, km.models.UNetPlusPlus])
@pytest.mark.parametrize("backbone", ["mobilenetv2", "convnexttiny"])
def test_the_encoder_is_the_backbone(build, backbone, capsys):
    network = build((32, 32, 3), 2, **SMALL, backbone=backbone)
    parameters = sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    inner = network.get_layer("backbone")
    own = sum(int(np.prod(w.shape)) for w in inner.trainable_weights)
    assert train_only(network, "encoder") == own
    assert train_only(network, "decoder") == parameters - own
    assert train_only(network, "head") == 2 * SMALL["filters"][0] + 2
    assert train_only(network, "all") == parameters
    discriminative(keras.optimizers.Adam(1e-3), network, {"encoder": 0.1, "head": 2.0})
    assert "(all)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backbone", "own"),
    [
        ("mobilenetv2", "backbone.features."),
        pytest.param("efficientnetv2b0", "backbone/", marks=pytest.mark.slow),
    ],
)
def test_the_pyramid_of_deeplab_is_part_of_the_decoder(backbone, own):
    """ImageNet has weights for the backbone alone; the atrous pyramid is as new as the decoder."""
    network = km.models.DeepLabV3Plus((32, 32, 3), 2, backbone)
    train_only(network, "decoder", freeze_batch_norm="encoder")
    pyramid = {w.path for w in network.trainable_weights if "aspp." in w.path}
    assert len(pyramid) == 3 * 6
    train_only(network, "encoder")
    inner = network.get_layer("encoder")
    if backbone == "efficientnetv2b0":
        inner = inner.get_layer("backbone")
    count = sum(own in w.path or inner.name == "backbone" for w in inner.trainable_weights)
    assert count == len(inner.trainable_weights) == len(network.trainable_weights) > 100


def test_batch_norm_of_the_encoder_alone_is_frozen(batches):
    network = km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2")
    train_only(network, "all", freeze_batch_norm="encoder")
    method = km.methods.Supervised(network, overlapping=True)
    method.compile(keras.optimizers.Adam(1e-2))
    before = {w.path: np.array(w) for w in network.weights}
    method.train_step(next(iter(batches.from_step(0))))
    moved = {w.path for w in network.weights if not np.array_equal(w, before[w.path])}
    inner = network.get_layer("backbone")
    norms = {
        w.path: norm in inner.layers
        for norm in leaves(network)
        if isinstance(norm, layers.BatchNormalization)
        for w in norm.weights
    }
    assert all((path in moved) != of_encoder for path, of_encoder in norms.items())
    assert {w.path for w in network.trainable_weights} <= moved


RANGED = {
    "UNet": lambda: km.models.UNet((32, 32, 3), 2, **SMALL, backbone="mobilenetv2"),
    "DeepLabV3Plus": lambda: km.models.DeepLabV3Plus((32, 32, 3), 2),
    "DeepLabV3Plus-ResNet50": lambda: km.models.DeepLabV3Plus((32, 32, 3), 2, "resnet50"),
}


@pytest.mark.parametrize("name", RANGED)
def test_a_range_that_does_not_fit_is_refused(name, batches, tmp_path):
    with km.setup():
        network = RANGED[name]()
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))

    class InZeroOne:
        task, from_step = batches.task, batches.from_step
        preprocessing = km.Preprocessing((32, 32), normalise="zero_one")

    with pytest.raises(ValueError, match="takes images in −1…1.*received normalise='zero_one'"):
        km.fit(method, InZeroOne, steps=1, run_dir=tmp_path)
