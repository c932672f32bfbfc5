"""The discriminator of adversarial adaptation: which domain does a map come from?"""

import keras
from keras import layers

from keras_meduda.models.blocks import conv


def Discriminator(in_channels, rank=2, name="discriminator"):
    """Five convolutions of width 4 and stride 2 that judge patches of a prediction (a PatchGAN).

    Every layer computes in float32 whatever the precision policy: its optimiser has no loss
    scaling.

    Args:
        in_channels: channels of the map that is judged: 1 for the boundary, one a class for the
            entropy.
        rank: 2 for maps of pictures (default), 3 for those of volumes.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in_channels)` to domain logits `(batch,
        *sizes, 1)`, each size about n / 32 + 1.

    Source:
        BEAL (arXiv 1906.11143) and UDA_CLR (arXiv 2207.03684), which are 2D.

    Example:
        >>> Discriminator(1).count_params()
        2761728
    """

    # Layers
    def halve(x, width, name):
        pad = {2: layers.ZeroPadding2D, 3: layers.ZeroPadding3D}[rank](2, dtype="float32")
        initial = keras.initializers.RandomNormal(stddev=0.02)
        return conv(width, 4, rank, strides=2, padding="valid", use_bias=False,
                    kernel_initializer=initial, dtype="float32", name=name)(pad(x))

    # Functional model
    x = inputs = keras.Input((*[None] * rank, in_channels), dtype="float32", name="map")
    for i, width in enumerate((64, 128, 256, 512), start=1):
        x = layers.LeakyReLU(0.2, dtype="float32")(halve(x, width, f"conv{i}"))
    logits = halve(x, 1, "conv5")

    # Config
    return keras.Model(inputs, logits, name=name)
