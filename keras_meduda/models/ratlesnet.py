"""RatLesNetV2: a small residual 3D U-Net for lesions in rodent brain MRI."""

import keras
from keras import layers

from keras_meduda.models.blocks import (
    ResizeTo,
    batch_norm,
    check_rank,
    conv,
    kaiming_normal,
    max_pool,
)
from keras_meduda.models.needs import needs


@needs(ranks=(3,), axes="slices")
def RatLesNetV2(input_shape, channels, name="ratlesnetv2"):
    """Three-level 3D encoder and decoder of constant width with trilinear upsampling.

    Block: y = x + f(f(x)), f(x) = conv3(BN(ReLU(x))); bottleneck: conv1(BN(ReLU(x))), the ReLU
    before the norm. Every decoder level reads [up(bottleneck(x)), skip].

    Odd sizes, as in the original: max pooling keeps the last plane (9 → 5), upsampling interpolates
    to the size of the skip connection.

    Args:
        input_shape: `(slices, rows, columns, image channels)`, slices first as in the published
            weights; spatial sizes may be `None` and need not divide the stride.
        channels: number of logit channels. The published weights have 2: background, lesion.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, D, H, W, in)` to `{"logits": (batch, D, H, W, channels)
        float32, "features": (batch, D, H, W, 64)}`. Softmax is left to the loss.

    Raises:
        ValueError: an `input_shape` that is not of volumes.

    Source:
        RatLesNetV2 (Valverde et al. 2020, Front. Neurosci. 14:610239). Layers carry the names of
        its PyTorch release.

    Example:
        >>> RatLesNetV2((18, None, None, 1), channels=2).count_params()  # 837,026 train
        838626
    """
    check_rank("RatLesNetV2", input_shape, 3)

    # Layers
    def conv_layer(x, width, size, name, **kwargs):
        return conv(width, size, 3, kernel_initializer=kaiming_normal(), name=name, **kwargs)(x)

    def relu_norm_conv(x, width, size, names, **kwargs):
        norm_name, conv_name = names
        x = batch_norm(norm_name)(layers.ReLU()(x))
        return conv_layer(x, width, size, conv_name, **kwargs)

    def block(x, name):
        width = x.shape[-1]
        y = relu_norm_conv(x, width, 3, (f"{name}.seq.1", f"{name}.seq.2"))
        y = relu_norm_conv(y, width, 3, (f"{name}.seq.4", f"{name}.seq.5"))
        return layers.Add()([x, y])

    def bottleneck(x, width, name, **kwargs):
        return relu_norm_conv(x, width, 1, (f"{name}.seq.1", f"{name}.seq.2"), **kwargs)

    # Functional model
    image = keras.Input(input_shape, name="image")
    skip1 = block(conv_layer(image, 32, 1, "conv1"), "block1")
    skip2 = block(max_pool(3)(skip1), "block2")
    skip3 = block(max_pool(3)(skip2), "block3")
    x = max_pool(3)(skip3)
    for i, skip in enumerate((skip3, skip2, skip1), start=1):
        up = ResizeTo()([bottleneck(x, 32, f"bottleneck{i}"), skip])
        x = block(layers.Concatenate()([up, skip]), f"block{i + 3}")
    features = layers.Identity(name="features")(x)
    logits = bottleneck(features, channels, "bottleneck4", dtype="float32")

    # Config
    return keras.Model(image, {"logits": logits, "features": features}, name=name)
