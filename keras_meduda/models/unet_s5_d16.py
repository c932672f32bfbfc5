"""UNet-S5-D16 of MMSegmentation: a five-stage U-Net under one of three decode heads."""

import keras
from keras import layers, ops

from keras_meduda.models.blocks import (
    ResizeTo,
    batch_norm,
    check_rank,
    conv,
    kaiming_normal,
    max_pool,
)
from keras_meduda.models.needs import needs


@needs(ranks=(2,))
def UNetS5D16(input_shape, channels, head="psp", auxiliary=True, name="unet_s5_d16"):
    """Five-stage U-Net, 64 to 1024 wide, with a full-resolution FCN, PSP or DeepLabV3 head.

    Odd sizes: max pooling keeps the last row (35 → 18), upsampling interpolates to the size of the
    skip connection. MMSegmentation takes multiples of 16 alone, with equal results.

    Args:
        input_shape: `(height, width, image channels)`; the spatial sizes may be `None` and need
            not divide the stride.
        channels: number of logit channels.
        head: `"psp"` (pyramid pooling to 1, 2, 3, 6), `"fcn"` (one convolution) or `"deeplabv3"`
            (atrous rates 1, 12, 24, 36 and image pooling). Default `"psp"`.
        auxiliary: whether an FCN head reads the last but one decoder stage. Default `True`.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, height, width, in)` to `{"logits": (batch, height,
        width, channels) float32, "features": (batch, height, width, 64 for "fcn", else 16)}` and
        with `auxiliary` the logits `"aux_1"` at their own resolution `(batch, ⌈height / 2⌉,
        ⌈width / 2⌉, channels)`.

    Raises:
        ValueError: for a head of another name, or an `input_shape` that is not of pictures.

    Source:
        MMSegmentation 1.2.1, `unet-s5-d16_{pspnet,fcn,deeplabv3}`. Layers carry its names.

    Example:
        >>> UNetS5D16((256, 256, 3), channels=2).count_params()  # 29,046,276 train
        29060260
    """
    check_rank("UNetS5D16", input_shape, 2)

    # Layers
    def conv_norm_relu(x, width, size, name, dilation=1):
        x = conv(width, size, 2, dilation_rate=dilation, use_bias=False,
                 kernel_initializer=kaiming_normal("fan_out"), name=f"{name}.conv")(x)
        return layers.ReLU()(batch_norm(f"{name}.bn")(x))

    def conv_block(x, width, name):
        x = conv_norm_relu(x, width, 3, f"{name}.convs.0")
        return conv_norm_relu(x, width, 3, f"{name}.convs.1")

    def fcn(x, name="decode_head"):
        return conv_norm_relu(x, 64, 3, f"{name}.convs.0")

    def psp(x):
        branches = [x]
        for i, bins in enumerate((1, 2, 3, 6)):
            pooled = AdaptiveAveragePool(bins)(x)
            pooled = conv_norm_relu(pooled, 16, 1, f"decode_head.psp_modules.{i}.1")
            branches.append(ResizeTo()([pooled, x]))
        return conv_norm_relu(layers.Concatenate()(branches), 16, 3, "decode_head.bottleneck")

    def deeplabv3(x):
        pooled = conv_norm_relu(AdaptiveAveragePool(1)(x), 16, 1, "decode_head.image_pool.1")
        branches = [ResizeTo()([pooled, x])]
        for i, dilation in enumerate((1, 12, 24, 36)):
            branches.append(conv_norm_relu(x, 16, 1 if i == 0 else 3,
                                           f"decode_head.aspp_modules.{i}", dilation))
        return conv_norm_relu(layers.Concatenate()(branches), 16, 3, "decode_head.bottleneck")

    def classify(x, name):
        x = layers.SpatialDropout2D(0.1)(x)
        return conv(channels, 1, 2, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                    dtype="float32", name=f"{name}.conv_seg")(x)

    heads = {"psp": psp, "fcn": fcn, "deeplabv3": deeplabv3}
    if head not in heads:
        raise ValueError(f"UNetS5D16: head is one of {', '.join(heads)}; received {head!r}")

    # Functional model
    image = keras.Input(input_shape, name="image")
    x, skips = conv_block(image, 64, "backbone.encoder.0.0"), []
    for i, width in enumerate((128, 256, 512, 1024), start=1):
        skips.append(x)
        x = conv_block(max_pool(2)(x), width, f"backbone.encoder.{i}.1")
    stages = []
    for i in reversed(range(4)):
        skip, stage = skips[i], f"backbone.decoder.{i}"
        up = ResizeTo()([x, skip])
        up = conv_norm_relu(up, skip.shape[-1], 1, f"{stage}.upsample.interp_upsample.1")
        x = conv_block(layers.Concatenate()([skip, up]), skip.shape[-1], f"{stage}.conv_block")
        stages.append(x)
    features = layers.Identity(name="features")(heads[head](stages[-1]))
    outputs = {"logits": classify(features, "decode_head"), "features": features}
    if auxiliary:
        outputs["aux_1"] = classify(fcn(stages[-2], "auxiliary_head"), "auxiliary_head")

    # Config
    return keras.Model(image, outputs, name=name)


@keras.saving.register_keras_serializable("keras_meduda")
class AdaptiveAveragePool(layers.Layer):
    """Averages over a fixed number of bins an axis, `(b, h, w, c)` to `(b, bins, bins, c)`.

    Bin i covers ⌊i·n/bins⌋ … ⌈(i + 1)·n/bins⌉, as PyTorch's `AdaptiveAvgPool2d` does: bins may
    overlap and there may be more of them than pixels.

    Args:
        bins: number of bins along each axis.
    """

    def __init__(self, bins, **kwargs):
        super().__init__(**kwargs)
        self.bins = bins

    def call(self, x):
        """Two matrix products: one row of averages a bin."""
        rows, columns = (self._averages(ops.shape(x)[axis], x.dtype) for axis in (1, 2))
        return ops.einsum("bhwc,ih,jw->bijc", x, rows, columns)

    def _averages(self, size, dtype):
        i, pixel = ops.arange(self.bins)[:, None], ops.arange(size)[None, :]
        inside = (pixel >= i * size // self.bins) & (pixel < -(-(i + 1) * size // self.bins))
        inside = ops.cast(inside, dtype)
        return inside / ops.sum(inside, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape):
        """One value a bin."""
        return (input_shape[0], self.bins, self.bins, input_shape[-1])

    def get_config(self):
        """The number of bins."""
        return {**super().get_config(), "bins": self.bins}
