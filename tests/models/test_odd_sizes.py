"""What networks do at sizes that their strides do not divide, by NumPy's own arithmetic."""

import math
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_meduda.models import DeepLabV3Plus, RatLesNetV2, UNetPlusPlus, UNetS5D16
from keras_meduda.models.blocks import CropToMatch, ResizeTo

NETWORKS = runpy.run_path(str(Path(__file__).with_name("test_contract.py")))["NETWORKS"]
KEEP = ("AERUNet-2D", "AERUNet-3D", "RatLesNetV2", "UNetS5D16")
DROP = ("UNetPlusPlus-2D", "UNetPlusPlus-3D")
STRIDED = ("UNet-2D", "UNet-3D", "DynUNet-2D", "DynUNet-3D", "DeepLabV3Plus")
CROPPED = ("AERUNet-2D", "AERUNet-3D", "UNet-2D", "UNet-3D", "DynUNet-2D", "DynUNet-3D")
RESIZED = ("RatLesNetV2", "UNetPlusPlus-2D", "UNetPlusPlus-3D", "UNetS5D16", "DeepLabV3Plus")


def parts(name):
    """The models that a network is made of, each with what it is shown."""
    build, shape = NETWORKS[name]
    network = build(shape, 2)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    models = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    if not models:
        return [(network, image)]
    encoder, head = models
    return [(encoder, image), (head, encoder(image))]


def each(name, kind):
    """Input and output of every layer of a kind."""
    found = []
    for model, shown in parts(name):
        pairs = [(x.input, x.output) for x in model.layers if isinstance(x, kind)]
        if pairs:
            values = keras.Model(model.input, keras.tree.flatten(pairs))(shown)
            values = [np.asarray(value) for value in keras.tree.flatten(values)]
            found += keras.tree.pack_sequence_as(pairs, values)
    assert found
    return found


def pooled(x, partial):
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        ends = range(2, n + 1 + partial, 2)
        x = np.stack([x.take(range(e - 2, min(e, n)), axis).max(axis) for e in ends], axis)
    return x


def interpolated(x, size, align_corners):
    for axis, m in enumerate(size, 1):
        n = x.shape[axis]
        if align_corners:
            place = np.linspace(0, n - 1, m)
        else:
            place = (np.arange(m) + 0.5) * n / m - 0.5
        x = np.apply_along_axis(lambda v, p=place: np.interp(p, np.arange(len(v)), v), axis, x)
    return x


@pytest.mark.parametrize("name", [*KEEP, *DROP])
def test_the_last_window_of_pooling_is_kept_or_dropped(name):
    pairs = each(name, (layers.MaxPool2D, layers.MaxPool3D))
    assert any(n % 2 for x, _ in pairs for n in x.shape[1:-1])
    for x, y in pairs:
        np.testing.assert_array_equal(y, pooled(x, partial=name in KEEP))


@pytest.mark.parametrize("name", RESIZED)
def test_upsampling_interpolates_to_the_size_that_it_joins(name):
    pairs = each(name, ResizeTo)
    assert any(b != 2 * a for (x, _), y in pairs for a, b in zip(x.shape, y.shape, strict=True))
    for (x, reference), y in pairs:
        expected = interpolated(x, reference.shape[1:-1], name.startswith("DeepLab"))
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("name", CROPPED)
def test_a_doubled_map_is_cropped_at_its_end(name):
    pairs = each(name, CropToMatch)
    assert any(x.shape != reference.shape for (x, reference), _ in pairs)
    for (x, reference), y in pairs:
        corner = tuple(slice(n) for n in reference.shape[1:-1])
        np.testing.assert_array_equal(y, x[(slice(None), *corner)])


@pytest.mark.parametrize("name", STRIDED)
def test_a_strided_convolution_rounds_up_and_pads_alike_on_both_sides(name):
    """A picture that is its own mirror image gives one as well, by kernels that are their own."""
    build, shape = NETWORKS[name]
    odd = tuple(n + 1 - n % 2 for n in shape[:-1])
    network = build((*odd, shape[-1]), 2)
    encoder = network.get_layer("encoder") if name.startswith("DeepLab") else network
    convolutions = [x for x in encoder.layers if isinstance(x, (layers.Conv2D, layers.Conv3D))]
    for layer in convolutions:
        layer.set_weights([np.ones_like(w) / w.size for w in layer.get_weights()])
    first = next(layer for layer in convolutions if max(layer.strides) == 2)
    image = np.random.default_rng(0).normal(size=(1, *odd, shape[-1])).astype("float32")
    axes = tuple(range(1, len(odd) + 1))
    y = keras.Model(encoder.input, first.output)(image + np.flip(image, axes))
    np.testing.assert_allclose(y, np.flip(y, axes), atol=1e-5)
    assert y.shape[1:-1] == tuple(math.ceil(n / 2) for n in odd)


def test_what_a_network_is_not_for_is_refused():
    for build in (DeepLabV3Plus, UNetS5D16):
        with pytest.raises(ValueError, match=r"\(8, 8, 8, 1\), expected that of pictures.*AERUNet"):
            build((8, 8, 8, 1), 2)
    with pytest.raises(ValueError, match="expected that of volumes"):
        RatLesNetV2((32, 32, 1), 2)
    with pytest.raises(ValueError, match="expected sizes of 16 or more"):
        UNetPlusPlus((35, 15, 1), 2)
