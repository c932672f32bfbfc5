"""UNet: MONAI's U-Net of residual units, the comparator of many 3D studies."""

import keras
from keras import layers

from keras_meduda.models.blocks import (
    CropToMatch,
    batch_norm,
    conv,
    instance_norm,
    padded_conv,
    per_axis,
)
from keras_meduda.models.checkpoints import begin
from keras_meduda.models.encoders import encode
from keras_meduda.models.needs import needs
from keras_meduda.models.transposed import conv_transpose


@needs(small={"filters": (8, 16, 32)})
def UNet(input_shape, channels, filters=(16, 32, 64, 128, 256), strides=None, res_units=2,
         norm="batch", name="unet", backbone=None, weights=None):
    """U-Net with strided convolutions and residual units, 2D or 3D by the length of `input_shape`.

    Residual unit: y = f(x) + r(x), with f = (conv3, norm, PReLU) × `res_units`, strided in its
    first convolution, and r a convolution where stride or width change, else the identity.
    Decoder: concatenate skip and below, transposed conv3, norm, PReLU, one residual unit.

    Odd sizes: a strided convolution pads one zero on both sides (35 → 18), a transposed one
    doubles and is cropped at its end (36 → 35). MONAI takes multiples of all strides alone, with
    equal results.

    Args:
        input_shape: `(*spatial, image channels)`; spatial sizes may be `None` and need not divide
            the strides.
        channels: number of logit channels.
        filters: width of each level. Default `(16, 32, 64, 128, 256)`. With a backbone the
            decoder's widths at strides 1, 2, 4…, two to five of them, each with the skip of that
            stride; at stride 1 it is the image.
        strides: for every level but the last 1 or 2, or one such number per axis. Default 2
            everywhere.
        res_units: convolutions in a residual unit; 0 for plain convolutions. Default 2.
        norm: `"batch"` or `"instance"` (without scale and offset). Default `"batch"`.
        name: name of the model.
        backbone: an encoder of keras.applications instead of the network's own, for pictures in
            −1…1: one of `encoders.BACKBONES`; see `encoders.encode`. Default `None`.
        weights: `None` (random), `"imagenet"` (the backbone's, a download), or a file of the
            backbone in keras.applications' form or of the whole network. Default `None`.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in)` to `{"logits": (batch, *spatial,
        channels) float32, "features": (batch, *spatial / strides[0], 2 · filters[0])}`. The whole
        topmost decoder level is only `channels` wide, so it counts as the classifier, and the
        features are what it reads: the topmost skip and all that lies below it. With a backbone
        the features are the topmost decoder level, `(batch, height, width, filters[0])`.

    Raises:
        ValueError: `strides` does not fit `filters` or holds others than 1 and 2, or `norm` is
            neither of the two; strides with a backbone, which has its own; what
            `encoders.encode` refuses, or a file of another network.
        FileNotFoundError: no such file of weights.
        ConnectionError: the ImageNet weights cannot be downloaded.

    Source:
        Kerfoot et al. 2018, "Left-Ventricle Quantification Using Residual U-Net"; MONAI's `UNet`,
        whose state dicts `load_torch_weights` takes.

    Example:
        >>> UNet((64, 64, 1), channels=2, filters=(8, 16, 32)).count_params()
        24737
    """
    rank = len(input_shape) - 1
    if backbone and strides:
        raise ValueError(f"received strides={strides} with backbone={backbone!r}, expected None: a "
                         "backbone has strides of its own")
    strides = [per_axis(stride, rank) for stride in strides or (2,) * (len(filters) - 1)]
    if len(strides) != len(filters) - 1 or not set().union(*strides) <= {1, 2}:
        raise ValueError(f"received strides={strides} for {len(filters)} filters, expected "
                         f"{len(filters) - 1} of 1 or 2: the last level is not strided")
    if norm not in ("batch", "instance"):
        raise ValueError(f"received norm={norm!r}, expected 'batch' or 'instance'")

    # Layers
    def norm_and_activation(x, key):
        normalise = batch_norm(f"{key}.adn.N") if norm == "batch" else instance_norm(affine=False)
        slope = layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25),
                             shared_axes=list(range(1, rank + 2)), name=f"{key}.adn.A")
        return slope(normalise(x))

    def unit(x, width, stride, key):
        if res_units == 0:
            x = padded_conv(width, 3, rank, stride, name=f"{key}.conv")(x)
            return norm_and_activation(x, key)
        strided = stride != (1,) * rank
        shortcut = x
        if strided or x.shape[-1] != width:
            shortcut = padded_conv(width, 3 if strided else 1, rank, stride,
                                   name=f"{key}.residual")(x)
        for index in range(res_units):
            part = f"{key}.conv.unit{index}"
            x = padded_conv(width, 3, rank, stride if index == 0 else 1,
                            name=f"{part}.conv")(x)
            x = norm_and_activation(x, part)
        return layers.Add()([x, shortcut])

    def upsample(x, reference, width, stride, key, dtype=None):
        # PyTorch's transposed convolution, padding 1: the full one without its first pixel.
        x = conv_transpose(width, 3, rank, strides=stride, name=f"{key}.conv", dtype=dtype)(x)
        crop = {2: layers.Cropping2D, 3: layers.Cropping3D}[rank]
        x = crop(tuple((1, 2 - step) for step in stride), dtype=dtype)(x)
        return CropToMatch(dtype=dtype)([x, reference])

    def decode(x, reference, width, stride, key):
        first = f"{key}.0" if res_units else key
        x = norm_and_activation(upsample(x, reference, width, stride, first), first)
        if res_units == 0:
            return x
        part = f"{key}.1.conv.unit0"
        y = norm_and_activation(conv(width, 3, rank, name=f"{part}.conv")(x), part)
        return layers.Add()([y, x])

    def classify(x, reference, key):
        if res_units == 0:
            return upsample(x, reference, channels, strides[0], key, dtype="float32")
        x = upsample(x, reference, channels, strides[0], f"{key}.0")
        x = norm_and_activation(x, f"{key}.0")
        y = conv(channels, 3, rank, name=f"{key}.1.conv.unit0.conv", dtype="float32")(x)
        return layers.Add(dtype="float32")([y, x])

    def level(x, index, key):
        if index == len(filters) - 1:
            return unit(x, filters[index], (1,) * rank, key)
        skip = unit(x, filters[index], strides[index], f"{key}.0")
        below = level(skip, index + 1, f"{key}.1.submodule")
        joined = layers.Concatenate()([skip, below])
        return decode(joined, x, filters[index - 1], strides[index], f"{key}.2")

    def rise(x, skip, width, key):
        x = norm_and_activation(upsample(x, skip, width, (2, 2), f"{key}.0"), f"{key}.0")
        return unit(layers.Concatenate()([skip, x]), width, (1, 1), f"{key}.1")

    # Functional model
    image = keras.Input(input_shape, name="image")
    if backbone:
        *skips, x = encode(image, backbone, len(filters))
        for stage in reversed(range(len(filters))):
            x = rise(x, skips[stage], filters[stage], f"decoder.{stage}")
        features = layers.Identity(name="features")(CropToMatch()([x, image]))
        logits = conv(channels, 1, 2, dtype="float32", name="logits")(features)
    else:
        skip = unit(image, filters[0], strides[0], "model.0")
        below = level(skip, 1, "model.1.submodule")
        features = layers.Concatenate(name="features")([skip, below])
        logits = classify(features, image, "model.2")

    # Config
    network = keras.Model(image, {"logits": logits, "features": features}, name=name)
    return begin(network, weights, backbone)
