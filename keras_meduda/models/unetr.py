"""UNETR: a vision transformer as encoder, a convolutional decoder."""

import math

import keras
from keras import layers, ops

from keras_meduda.models.blocks import conv, gelu, instance_block
from keras_meduda.models.needs import needs
from keras_meduda.models.transposed import conv_transpose

_PATCH = 16
_DEPTH = 12


@needs(multiple=16, small={"feature_size": 4, "hidden": 24, "mlp": 48, "heads": 2})
def UNETR(input_shape, channels, feature_size=16, hidden=768, mlp=3072, heads=12, name="unetr"):
    """U-Net transformer, 2D or 3D by the length of `input_shape`.

    Patches of 16 pixels a side become tokens, x = patches·W + position. Twelve blocks x ← x +
    attention(norm x), x ← x + MLP(norm x) follow; the tokens after blocks 3, 6, 9 (counted from 0)
    and 12 are laid out as images and brought to ½, ¼, ⅛ and 1/16 of the resolution.

    Args:
        input_shape: `(*spatial, image channels)`; every spatial size is a fixed multiple of 16,
            because each patch has a learned position.
        channels: number of logit channels.
        feature_size: width at full resolution. Default 16.
        hidden: width of a token. Default 768.
        mlp: width inside a transformer block's MLP. Default 3072.
        heads: number of attention heads, a divisor of `hidden`. Default 12.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in)` to `{"logits": (batch, *spatial,
        channels) float32, "features": (batch, *spatial, feature_size)}`.

    Raises:
        ValueError: a spatial size is `None` or no multiple of 16, or `heads` does not divide
            `hidden`.

    Source:
        Hatamizadeh et al. 2022, "UNETR: Transformers for 3D Medical Image Segmentation" (arXiv
        2103.10504); MONAI's `UNETR`, whose state dicts `load_torch_weights` takes.

    Example:
        >>> UNETR((32, 32, 32, 1), channels=2, feature_size=8, hidden=48, mlp=96,
        ...       heads=4).count_params()
        1060738
    """
    *spatial, _ = input_shape
    rank = len(spatial)
    if any(size is None or size % _PATCH for size in spatial):
        raise ValueError(f"received input_shape={tuple(input_shape)}, expected fixed spatial sizes "
                         f"that are multiples of {_PATCH}: UNETR learns a position for each patch")
    if hidden % heads:
        raise ValueError(f"received hidden={hidden} and heads={heads}, expected a divisor")
    grid = [size // _PATCH for size in spatial]
    tokens = math.prod(grid)

    # Layers
    def norm(x, key):
        return layers.LayerNormalization(epsilon=1e-5, name=key)(x)

    def attend(x, key):
        qkv = layers.Dense(3 * hidden, use_bias=False, name=f"{key}.qkv")(x)
        split = layers.Reshape((tokens, heads, hidden // heads))
        mixed = ops.dot_product_attention(*(split(part) for part in ops.split(qkv, 3, axis=-1)))
        return layers.Dense(hidden, name=f"{key}.out_proj")(layers.Reshape((tokens, hidden))(mixed))

    def transformer_block(x, key):
        x = layers.Add()([x, attend(norm(x, f"{key}.norm1"), f"{key}.attn")])
        y = layers.Dense(mlp, name=f"{key}.mlp.linear1")(norm(x, f"{key}.norm2"))
        y = layers.Dense(hidden, name=f"{key}.mlp.linear2")(gelu(y))
        return layers.Add()([x, y])

    def up(x, width, key):
        return conv_transpose(width, 2, rank, strides=2, use_bias=False, name=f"{key}.conv")(x)

    def block(x, width, key):
        return instance_block(x, width, residual=True, affine=False, name=key)

    def project(x, width, doublings, key):
        x = up(layers.Reshape((*grid, hidden))(x), width, f"{key}.transp_conv_init")
        for index in range(doublings):
            x = block(up(x, width, f"{key}.blocks.{index}.0"), width, f"{key}.blocks.{index}.1")
        return x

    def decode(x, skip, key):
        x = up(x, skip.shape[-1], f"{key}.transp_conv")
        return block(layers.Concatenate()([x, skip]), skip.shape[-1], f"{key}.conv_block")

    # Functional model
    image = keras.Input(input_shape, name="image")
    x = conv(hidden, _PATCH, rank, strides=_PATCH, padding="valid",
             name="vit.patch_embedding.patch_embeddings")(image)
    x = PositionEmbedding(name="vit.patch_embedding")(layers.Reshape((tokens, hidden))(x))
    states = []
    for index in range(_DEPTH):
        x = transformer_block(x, f"vit.blocks.{index}")
        states.append(x)
    skips = [
        project(states[9], 8 * feature_size, 0, "encoder4"),
        project(states[6], 4 * feature_size, 1, "encoder3"),
        project(states[3], 2 * feature_size, 2, "encoder2"),
        block(image, feature_size, "encoder1.layer"),
    ]
    x = layers.Reshape((*grid, hidden))(norm(x, "vit.norm"))
    for skip, level in zip(skips, (5, 4, 3, 2), strict=True):
        x = decode(x, skip, f"decoder{level}")
    features = layers.Identity(name="features")(x)
    logits = conv(channels, 1, rank, dtype="float32", name="out.conv.conv")(features)

    # Config
    return keras.Model(image, {"logits": logits, "features": features}, name=name)


@keras.saving.register_keras_serializable("keras_meduda")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to each token, `(batch, tokens, width)` to the same."""

    def build(self, input_shape):
        """Makes the vectors, near zero."""
        self.position_embeddings = self.add_weight(
            name="position_embeddings", shape=(1, *input_shape[1:]),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02))

    def call(self, x):
        """Adds them."""
        return x + self.position_embeddings
