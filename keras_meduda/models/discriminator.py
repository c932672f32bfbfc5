"""The discriminator of adversarial adaptation: which domain does a map come from?"""

import keras
from keras import layers


def Discriminator(in_channels, name="discriminator"):
    """Five 4×4 convolutions of stride 2 that judge patches of a prediction (a PatchGAN).

    Every layer computes in float32 whatever the precision policy: its optimiser has no loss
    scaling.

    Args:
        in_channels: channels of the map that is judged: 1 for the boundary, one a class for the
            entropy.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, height, width, in_channels)` to domain logits
        `(batch, ~height / 32 + 1, ~width / 32 + 1, 1)`.

    Source:
        BEAL (arXiv 1906.11143) and UDA_CLR (arXiv 2207.03684).

    Example:
        >>> Discriminator(1).count_params()
        2761728
    """

    # Layers
    def conv(x, width, name):
        x = layers.ZeroPadding2D(2, dtype="float32")(x)
        initial = keras.initializers.RandomNormal(stddev=0.02)
        return layers.Conv2D(width, 4, strides=2, use_bias=False, kernel_initializer=initial,
                             dtype="float32", name=name)(x)

    # Functional model
    x = inputs = keras.Input((None, None, in_channels), dtype="float32", name="map")
    for i, width in enumerate((64, 128, 256, 512), start=1):
        x = layers.LeakyReLU(0.2, dtype="float32")(conv(x, width, f"conv{i}"))
    logits = conv(x, 1, "conv5")

    # Config
    return keras.Model(inputs, logits, name=name)
