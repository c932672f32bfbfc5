"""Encoders of keras.applications: the features of a picture at strides 1, 2, 4, 8, 16 and 32.

One range serves all of them, −1…1 (`Preprocessing(normalise="minus1_1")`, the default): the first
layer of an encoder takes it to the range that the encoder was trained on.

What differs from keras.applications, and why:

* Batch norm has the momentum 0.9 of all networks here, not MobileNetV2's 0.999 or ResNet-50's 0.99,
  with which statistics of a few hundred steps would still be ImageNet's; it is synchronised over
  replicas. Its ε stays the encoder's own. Where batches are too small for statistics (below four or
  so), keep ImageNet's: `train_only(network, "all", freeze_batch_norm="encoder")`. Each call of the
  network normalises by the batch it is given: source and target in one batch share a mean, apart
  each has its own, as the method calls it.
* Any size of picture: its last row and column are repeated up to a multiple of the deepest stride,
  so that every level is exactly half of the one before, and what was added is cut off at the end.
  keras.applications pads odd sizes otherwise where they are `None` than where they are fixed.
* ConvNeXt's GELU goes through erf, and its grouped convolutions are depthwise ones: the same
  values, which ONNX knows and a CPU can train.
* ReLU6 and half precision: what a ReLU6 gives is at most 6 and stays exact enough in both;
  batch norm keeps its sums in float32, and so do the ranges' offsets.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_meduda.models.blocks import batch_norm, gelu
from keras_meduda.models.stages import backbone_layers, leaves


def _outputs(*names):
    return lambda layer: [layer(name).output for name in names]


def _convnext_stages(layer):
    """Sums without a name: what the next downsampling reads. Nothing stands at stride 2."""
    stages = [layer(f"convnext_tiny_downsampling_block_{i}").input for i in range(3)]
    return [None, *stages, layer(index=-1).output]


class Backbone(NamedTuple):
    """An encoder's name in keras.applications, its file there, its last features, its range."""

    application: str
    file: str  # of ImageNet's weights, in Keras' folder of models
    ends: Callable  # gives those at strides 2 to 32
    mean: tuple = ()  # of red, green and blue in −1…1; none: that range is its own
    deviation: tuple = ()


_IMAGENET = {"mean": (-0.03, -0.088, -0.188), "deviation": (0.458, 0.448, 0.45)}
_CAFFE = {
    "mean": tuple(grey / 127.5 - 1 for grey in (123.68, 116.779, 103.939)),
    "deviation": (1 / 127.5,) * 3,
}

BACKBONES = {
    "mobilenetv2": Backbone("MobileNetV2",
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", _outputs(
        "expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add",
        "block_16_project_BN")),
    "resnet50": Backbone("ResNet50",
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", _outputs(
        "conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out",
        "conv5_block3_out"), **_CAFFE),
    "efficientnetv2b0": Backbone("EfficientNetV2B0",
        "efficientnetv2-b0_notop.h5", _outputs(
        "block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"),
        **_IMAGENET),
    "convnexttiny": Backbone("ConvNeXtTiny",
        "convnext_tiny_notop.h5", _convnext_stages, **_IMAGENET),
}  # fmt: skip


def encode(image, backbone, levels=5):
    """Features of a picture at strides 1, 2, 4 … 2^levels, each half the size of the one before.

    Args:
        image: Keras tensor `(batch, height, width, channels)` in −1…1, of any size. Where it has
            not three channels, each of them counts as a grey picture: it is repeated to three, and
            the first convolution averages over them, so that a grey image gives what its three
            copies give.
        backbone: a name in `BACKBONES`.
        levels: 2 to 5. Default 5.

    Returns:
        The `levels + 1` tensors: the picture itself, brought to a multiple of 2^levels, then the
        encoder's last features at each stride. ConvNeXt has none at stride 2: there the picture
        stands, halved. All but these two come from one layer, `network.get_layer("backbone")`. The
        sizes of the last ones are exact fractions; crop what is made of them to
        the image (`CropToMatch`).

    Raises:
        ValueError: an unknown backbone, a volume, or another number of levels.

    Source:
        keras.applications: MobileNetV2 (arXiv 1801.04381), ResNet-50 (arXiv 1512.03385),
        EfficientNetV2-B0 (arXiv 2104.00298), ConvNeXt-Tiny (arXiv 2201.03545), each cut at its
        named layers.

    Example:
        >>> image = keras.Input((100, 80, 1))
        >>> [tuple(x.shape[1:]) for x in encode(image, "mobilenetv2", levels=3)]
        [(104, 80, 1), (52, 40, 16), (26, 20, 24), (13, 10, 32)]
    """
    check(backbone, image.shape[1:])
    if not 2 <= levels <= 5:
        raise ValueError(
            f"backbone={backbone!r} with {levels} filters; expected 2 to 5, the widths of the "
            "decoder at strides 1, 2, 4, 8 and 16."
        )
    known = BACKBONES[backbone]
    whole = PadToMultiple(2**levels)(image)
    x, copies = whole, 1
    if image.shape[-1] != 3:
        x, copies = layers.Concatenate()([whole] * 3), image.shape[-1]
    if known.mean:
        mean, deviation = (np.repeat(value, copies) for value in (known.mean, known.deviation))
        x = layers.Rescaling(
            (1 / deviation).tolist(), (-mean / deviation).tolist(), dtype="float32"
        )(x)
    original = application(backbone)
    ends = known.ends(original.get_layer)[:levels]
    cut = keras.Model(original.input, [end for end in ends if end is not None], name="backbone")
    picture = keras.Input(x.shape[1:])
    cut = keras.models.clone_model(cut, input_tensors=picture, clone_function=_adapted)
    halved = [layers.AveragePooling2D(2)(whole) for end in ends if end is None]
    return [whole, *halved, *keras.tree.flatten(cut(x))]


def check(backbone, input_shape):
    """Refuses a backbone that is not known, and one for volumes.

    Raises:
        ValueError: what was received and what was expected.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"received backbone={backbone!r}, expected one of {', '.join(BACKBONES)}")
    if len(input_shape) != 3:
        raise ValueError(
            f"received backbone={backbone!r} for images of {tuple(input_shape)}, expected (height, "
            "width, channels): backbones are of pictures, a volume has none"
        )


def application(backbone, weights=None):
    """A backbone as keras.applications has it, of pictures of three channels.

    Raises:
        ConnectionError: ImageNet's weights cannot be downloaded.
        ValueError: their file in Keras' folder is damaged.
    """
    build = getattr(keras.applications, BACKBONES[backbone].application)
    own_range = {} if backbone in ("mobilenetv2", "resnet50") else {"include_preprocessing": False}
    size = 224 if weights else None  # without a size, MobileNetV2 warns
    try:
        return build(include_top=False, weights=weights, input_shape=(size, size, 3), **own_range)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if weights is None:
            raise
        file = kept_file(backbone)
        if file.exists():  # of a download that fails Keras leaves nothing
            raise ValueError(
                f"{file}: expected ImageNet's weights of {backbone}, but {error}; delete the file, "
                "so that it is fetched again."
            ) from error
        raise ConnectionError(
            f"weights='imagenet': those of {backbone} could not be downloaded ({error}). Fetch "
            "this file where there is a network and pass its path as weights=, or put it into "
            f"{file.parent}; weights=None starts from random ones."
        ) from error


def kept_file(backbone) -> Path:
    """Where Keras keeps ImageNet's weights of a backbone, once it has them."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home, "models", BACKBONES[backbone].file)


def transfer(network, original):
    """Copies the weights of a keras.applications network into the encoder cut from it."""
    own = {layer.name: layer for layer in leaves(network) if layer.weights}
    sources = [layer for layer in leaves(original) if layer.weights]
    for layer in sources:
        if layer.name not in own:  # deeper than the network
            continue
        target, values = own[layer.name], layer.get_weights()
        if layer is sources[0]:
            # ResNet-50 reads blue first
            kernel = values[0][:, :, ::-1] if layer.name == "conv1_conv" else values[0]
            copies = target.kernel.shape[2] // 3
            values[0] = np.repeat(kernel, copies, axis=2) / copies
        target.set_weights(
            [value.reshape(w.shape) for value, w in zip(values, target.weights, strict=True)]
        )


def has_backbone(network) -> bool:
    """Whether a network has an encoder of keras.applications, which takes images in −1…1."""
    padded = any(isinstance(layer, PadToMultiple) for layer in leaves(network))
    return padded or any(layer.name.startswith("backbone.") for layer in backbone_layers(network))


def _adapted(layer):
    """A layer of keras.applications as it is built here; see the head of this file."""
    config = layer.get_config()
    if isinstance(layer, keras.Sequential):  # its own configuration would fix the channels
        return keras.Sequential(list(map(_adapted, layer.layers)), name=layer.name)
    if isinstance(layer, layers.BatchNormalization):
        return batch_norm(config["name"], config["epsilon"])
    if isinstance(layer, layers.Activation) and config["activation"] == "gelu":
        return layers.Activation(gelu, name=config["name"])
    if isinstance(layer, layers.Conv2D) and layer.groups == layer.filters:
        return layers.DepthwiseConv2D(
            layer.kernel_size,
            padding=layer.padding,
            depthwise_initializer=layer.kernel_initializer,
            name=config["name"],
        )
    return layer.__class__.from_config(config)


@keras.saving.register_keras_serializable("keras_meduda")
class PadToMultiple(layers.Layer):
    """Repeats the last row and column of `(b, h, w, c)` until both sizes are a multiple.

    Args:
        multiple: of pixels.
    """

    def __init__(self, multiple, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x):
        for axis in (1, 2):
            size = ops.shape(x)[axis]
            missing = -size % self.multiple
            if isinstance(missing, int) and not missing:
                continue
            x = ops.take(x, ops.minimum(ops.arange(size + missing), size - 1), axis=axis)
        return x

    def compute_output_shape(self, input_shape):
        batch, *spatial, channels = input_shape
        sizes = (size and size + -size % self.multiple for size in spatial)
        return (batch, *sizes, channels)

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}
