"""DynUNet: nnU-Net's network, its kernels and strides chosen level by level."""

import keras
from keras import layers

from keras_meduda.models.blocks import (
    CropToMatch,
    conv,
    instance_block,
    kaiming_normal,
    per_axis,
)
from keras_meduda.models.needs import needs
from keras_meduda.models.transposed import conv_transpose


@needs(spacing=True, small={"filters": (8, 8, 16, 16, 16)})
def DynUNet(input_shape, channels, kernel_sizes=None, strides=None, filters=None, residual=False,
            deep_supervision=0, spacing=None, name="dynunet"):
    """U-Net of instance-normalised convolutions, 2D or 3D by the length of `input_shape`.

    Block: (conv, instance norm, LeakyReLU 0.01) × 2, strided in its first convolution. Decoder:
    a transposed convolution with kernel = stride, concatenate [up, skip], a block. Voxels that are
    longer along one axis call for smaller kernels and strides along it in the first levels, as
    `kernel_sizes=((3, 3, 1), 3, 3, 3, 3), strides=(1, (2, 2, 1), 2, 2, 2)`.

    Odd sizes: a strided convolution pads (k − 1)/2 zeros on both sides (35 → 18), a transposed one
    is cropped at its end (36 → 35). MONAI takes multiples of all strides alone, with equal results.

    Args:
        input_shape: `(*spatial, image channels)`; spatial sizes may be `None` and need not divide
            the strides.
        channels: number of logit channels.
        kernel_sizes: for each level an odd number, or one per axis. Default 3 in five levels, but 1
            in the first along an axis of far longer voxels.
        strides: for each level a number, or one per axis; the first is 1. Default
            `(1, 2, 2, 2, 2)`, but 1 in the second along an axis of far longer voxels.
        filters: width of each level. Default 32, doubled at each level up to 320.
        residual: whether the encoder's blocks are residual. Default `False`.
        deep_supervision: number of levels below the topmost with logits of their own. Default 0.
        spacing: voxels in mm along the axes, for the defaults of `kernel_sizes` and `strides`: an
            axis is far longer above twice the smallest. Default `None`, all alike.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in)` to `{"logits": (batch, *spatial,
        channels) float32, "features": (batch, *spatial, filters[0])}` and, with deep supervision,
        `"aux_1"`… : float32 logits at the resolution of level 1 (½ if its stride is 2), 2, ….

    Raises:
        ValueError: the lengths of `kernel_sizes`, `strides` and `filters` differ, a kernel size is
            even, the first stride is not 1, or `deep_supervision` asks for more levels than the
            decoder has.

    Source:
        Isensee et al. 2021, "nnU-Net"; MONAI's `DynUNet`, whose state dicts `load_torch_weights`
        takes.

    Example:
        >>> DynUNet((64, 64, 1), channels=2, kernel_sizes=(3, 3, 3), strides=(1, 2, 2),
        ...         filters=(8, 16, 32)).count_params()
        29466
    """
    rank = len(input_shape) - 1
    long = [s > 2 * min(spacing) for s in spacing] if spacing else [False] * rank
    kernel_sizes = kernel_sizes or (tuple(1 if far else 3 for far in long), 3, 3, 3, 3)
    strides = strides or (1, tuple(1 if far else 2 for far in long), 2, 2, 2)
    depth = len(strides)
    filters = filters or [min(32 * 2**level, 320) for level in range(depth)]
    if not depth == len(kernel_sizes) == len(filters):
        raise ValueError(f"received {depth} strides, {len(kernel_sizes)} kernel_sizes and "
                         f"{len(filters)} filters, expected one of each per level")
    kernel_sizes = [per_axis(size, rank) for size in kernel_sizes]
    strides = [per_axis(stride, rank) for stride in strides]
    if any(size % 2 == 0 for sizes in kernel_sizes for size in sizes):
        raise ValueError(f"received kernel_sizes={kernel_sizes}, expected odd numbers")
    if strides[0] != (1,) * rank:
        raise ValueError(f"received strides[0]={strides[0]!r}, expected 1: the logits have the "
                         "size of the image")
    if not 0 <= deep_supervision < depth - 1:
        raise ValueError(f"received deep_supervision={deep_supervision}, expected 0 to {depth - 2} "
                         f"for {depth} levels")

    # Layers
    def encode(x, level, name):
        return instance_block(x, filters[level], kernel_sizes[level], strides[level], residual,
                              name=name)

    def decode(x, skip, level, name):
        up = conv_transpose(filters[level], strides[level + 1], rank, strides=strides[level + 1],
                            use_bias=False, kernel_initializer=kaiming_normal(),
                            name=f"{name}.transp_conv.conv")(x)
        joined = layers.Concatenate()([CropToMatch()([up, skip]), skip])
        return instance_block(joined, filters[level], kernel_sizes[level + 1],
                              name=f"{name}.conv_block")

    def classify(x, name):
        return conv(channels, 1, rank, dtype="float32", kernel_initializer=kaiming_normal(),
                    name=f"{name}.conv.conv")(x)

    # Functional model
    image = keras.Input(input_shape, name="image")
    skips = [encode(image, 0, "input_block")]
    for level in range(1, depth - 1):
        skips.append(encode(skips[-1], level, f"downsamples.{level - 1}"))
    x = encode(skips[-1], depth - 1, "bottleneck")
    outputs = {}
    for level in reversed(range(depth - 1)):
        x = decode(x, skips[level], level, f"upsamples.{depth - 2 - level}")
        if 1 <= level <= deep_supervision:
            outputs[f"aux_{level}"] = classify(x, f"deep_supervision_heads.{level - 1}")
    features = layers.Identity(name="features")(x)
    logits = classify(features, "output_block")

    # Config
    return keras.Model(image, {"logits": logits, "features": features, **outputs}, name=name)
