"""AERUNet: a U-Net of residual blocks with spatial attention on its skip connections."""

import keras
from keras import layers, ops

from keras_meduda.models.blocks import CropToMatch, batch_norm, conv, max_pool
from keras_meduda.models.checkpoints import begin
from keras_meduda.models.encoders import encode
from keras_meduda.models.needs import needs
from keras_meduda.models.transposed import conv_transpose


@needs(small={"filters": (8, 16)})
def AERUNet(input_shape, channels, filters=(32, 64, 128, 256, 512), name="aerunet",
            backbone=None, weights=None):
    """Attention-enhanced residual U-Net, 2D or 3D by the length of `input_shape`.

    Residual block: y = ReLU(BN(conv3(ReLU(BN(conv3 x)))) + shortcut(x)). Spatial attention on each
    skip: x · sigmoid(conv7[mean_c x, max_c x]) (CBAM, Woo et al. 2018, section 3.2).

    Odd sizes: max pooling keeps the last row (35 → 18), the transposed convolution doubles and is
    cropped at its end (36 → 35). The thesis pads its volumes to multiples of 16.

    Args:
        input_shape: `(*spatial, image channels)`; spatial sizes may be `None` and need not divide
            the stride.
        channels: number of logit channels.
        filters: width of each level. Default `(32, 64, 128, 256, 512)`; the original has
            `(16, 32, 64, 128, 256)` in 3D. With a backbone the decoder's widths at strides 1, 2,
            4…, two to five of them, each with the skip of that stride; at stride 1 it is the image.
        name: name of the model.
        backbone: an encoder of keras.applications instead of the network's own, for pictures in
            −1…1: one of `encoders.BACKBONES`; see `encoders.encode`. Default `None`.
        weights: `None` (random), `"imagenet"` (the backbone's, a download), or a file of the
            backbone in keras.applications' form or of the whole network. Default `None`.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in)` to `{"logits": (batch, *spatial,
        channels) float32, "features": (batch, *spatial, filters[0])}`.

    Raises:
        ValueError: what `encoders.encode` refuses, or a file of another network.
        FileNotFoundError: no such file of weights.
        ConnectionError: the ImageNet weights cannot be downloaded.

    Source:
        The reconstruction of AERUNet (KD-UDA thesis, Ashraf Ul Alam).

    Example:
        >>> AERUNet((64, 64, 3), channels=2, filters=(8, 16, 32)).count_params()
        32014
    """
    rank = len(input_shape) - 1

    # Layers
    def residual_block(x, width):
        shortcut = x
        if x.shape[-1] != width:
            shortcut = batch_norm()(conv(width, 1, rank)(x))
        x = layers.ReLU()(batch_norm()(conv(width, 3, rank)(x)))
        x = batch_norm()(conv(width, 3, rank)(x))
        return layers.ReLU()(layers.Add()([x, shortcut]))

    def attend(x):
        pooled = ChannelPool()(x)
        gate = conv(1, 7, rank, use_bias=False, activation="sigmoid")(pooled)
        return layers.Multiply()([x, gate])

    # Functional model
    image = keras.Input(input_shape, name="image")
    if backbone:
        *skips, x = encode(image, backbone, len(filters))
    else:
        x, skips = image, []
        for width in filters[:-1]:
            x = residual_block(x, width)
            skips.append(x)
            x = max_pool(rank)(x)
        x = residual_block(x, filters[-1])
    for width, skip in reversed(list(zip(filters, skips, strict=False))):
        up = conv_transpose(width, 2, rank, strides=2)(x)
        up = CropToMatch()([up, skip])
        x = residual_block(layers.Concatenate()([attend(skip), up]), width)
    if backbone:
        x = CropToMatch()([x, image])
    features = layers.Identity(name="features")(x)
    logits = conv(channels, 1, rank, dtype="float32", name="logits")(features)

    # Config
    network = keras.Model(image, {"logits": logits, "features": features}, name=name)
    return begin(network, weights, backbone)


@keras.saving.register_keras_serializable("keras_meduda")
class ChannelPool(layers.Layer):
    """Mean and maximum over channels, `(..., c)` to `(..., 2)`: what spatial attention looks at."""

    def call(self, x):
        return ops.concatenate([ops.mean(x, -1, keepdims=True), channel_max(x)], -1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


@ops.custom_gradient
def channel_max(x):
    """The largest channel, `(..., c)` to `(..., 1)`; equal ones share its gradient.

    XLA may compute x again for the way back and round its last bit otherwise. The gradient of
    `ops.max` on JAX then finds no channel that is equal to the maximum, and divides 0 by 0.
    """
    largest = ops.max(x, -1, keepdims=True)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        found = ops.cast(x >= largest - 1e-6 * ops.abs(largest), x.dtype)
        return found / ops.maximum(ops.sum(found, -1, keepdims=True), 1) * upstream

    return largest, gradient
