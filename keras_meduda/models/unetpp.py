"""UNet++: a U-Net whose skip connections are themselves grids of convolution blocks."""

import keras
from keras import layers

from keras_meduda.models.blocks import CropToMatch, ResizeTo, batch_norm, conv, max_pool
from keras_meduda.models.checkpoints import begin
from keras_meduda.models.encoders import encode
from keras_meduda.models.needs import needs


@needs(small={"filters": (4, 8, 16)})
def UNetPlusPlus(input_shape, channels, filters=(32, 64, 128, 256, 512), deep_supervision=False,
                 name="unetplusplus", backbone=None, weights=None):
    """Nested U-Net with linear upsampling, 2D or 3D by the length of `input_shape`.

    Node: X^{i,j} = H([X^{i,0}, …, X^{i,j−1}, up(X^{i+1,j−1})]), H = (conv3, BN, ReLU) twice;
    X^{i,0} = H(pool(X^{i−1,0})).

    Odd sizes, as in MedDistill: pooling by 2 drops the last row (35 → 17), upsampling interpolates
    to the size of the skip connection.

    Args:
        input_shape: `(*spatial, image channels)`; spatial sizes may be `None`, need not divide the
            stride, and are at least the stride, 2^(levels − 1): 16 by default.
        channels: number of logit channels.
        filters: width of each level. Default `(32, 64, 128, 256, 512)`. With a backbone the widths
            at strides 1, 2, 4…, two to five of them, of the nodes X^{i,j} with j > 0; X^{i,0} is
            the backbone's feature at stride 2^i, at stride 1 the image.
        deep_supervision: whether every X^{0,j} has a head of its own. Default `False`. See `prune`
            and `mean_of_heads` for what is deployed.
        name: name of the model.
        backbone: an encoder of keras.applications instead of the network's own, for pictures in
            −1…1: one of `encoders.BACKBONES`; see `encoders.encode`. Default `None`.
        weights: `None` (random), `"imagenet"` (the backbone's, a download), or a file of the
            backbone in keras.applications' form or of the whole network. Default `None`.

    Returns:
        `keras.Model` from float32 `(batch, *spatial, in)` to `{"logits": (batch, *spatial,
        channels) float32, "features": (batch, *spatial, filters[0])}`; with deep supervision also
        the logits `"aux_1"`, `"aux_2"`… of X^{0,1}, X^{0,2}… at the same size.

    Raises:
        ValueError: a spatial size below the stride, where there is no backbone; what
            `encoders.encode` refuses, or a file of another network.
        FileNotFoundError: no such file of weights.
        ConnectionError: the ImageNet weights cannot be downloaded.

    Source:
        UNet++ (Zhou et al. 2018, arXiv 1807.10165), the student of MedDistill. Layers carry the
        names of the usual PyTorch port. The original is 2D; in 3D each layer is its counterpart.

    Example:
        >>> UNetPlusPlus((256, 256, 3), channels=1).count_params()  # 9,163,329 train
        9170625
    """
    rank, stride = len(input_shape) - 1, 2 ** (len(filters) - 1)
    if not backbone and any(n is not None and n < stride for n in input_shape[:-1]):
        raise ValueError(f"UNetPlusPlus: received input_shape={tuple(input_shape)} for "
                         f"{len(filters)} filters, expected sizes of {stride} or more")

    # Layers
    def node(x, width, name):
        for i in (0, 3):
            x = conv(width, 3, rank, name=f"{name}.conv.{i}")(x)
            x = layers.ReLU()(batch_norm(f"{name}.conv.{i + 1}")(x))
        return x

    def head(x, name):
        return conv(channels, 1, rank, dtype="float32", name=name)(x)

    # Functional model
    x = image = keras.Input(input_shape, name="image")
    column = encode(image, backbone, len(filters)) if backbone else []
    for i, width in enumerate([] if backbone else filters):
        x = node(x if i == 0 else max_pool(rank, partial=False)(x), width, f"conv{i}_0")
        column.append(x)
    rows = [[x] for x in column]
    for j in range(1, len(column)):
        for i in range(len(column) - j):
            up = ResizeTo()([rows[i + 1][j - 1], rows[i][0]])
            x = layers.Concatenate()([*rows[i], up])
            rows[i].append(node(x, filters[i], f"conv{i}_{j}"))
    if backbone:
        rows[0] = [CropToMatch()([x, image]) for x in rows[0]]
    features = layers.Identity(name="features")(rows[0][-1])
    outputs = {"logits": head(features, "finalconv"), "features": features}
    if deep_supervision:
        for j, x in enumerate(rows[0][1:-1], start=1):
            outputs[f"aux_{j}"] = head(x, f"aux_{j}")

    # Config
    return begin(keras.Model(image, outputs, name=name), weights, backbone)


def prune(network, depth):
    """The part of a deeply supervised UNet++ that ends in the head of X^{0,depth}: fast mode.

    Args:
        network: a `UNetPlusPlus` with deep supervision; its weights are shared.
        depth: 1, 2… of the heads `"aux_1"`, `"aux_2"`…; the deepest is `network`'s own.

    Returns:
        `keras.Model` that gives `"logits"` and `"features"`; what lies deeper is not in it.

    Raises:
        ValueError: no head at that depth.

    Example:
        >>> network = UNetPlusPlus((32, 32, 3), 1, (4, 6, 8), deep_supervision=True)
        >>> prune(network, 1).count_params() < network.count_params()
        True

    Source:
        UNet++ (Zhou et al. 2018), section 2.2.
    """
    name = f"aux_{depth}"
    if name not in _heads(network):
        raise ValueError(f"prune: depth={depth}; '{network.name}' has the heads {_heads(network)}.")
    head = {"logits": network.output[name], "features": network.get_layer(name).input}
    return keras.Model(network.input, head, name=f"{network.name}_{depth}")


def mean_of_heads(network):
    """A deeply supervised UNet++ whose logits are the mean of those of all heads: accurate mode.

    Args:
        network: a `UNetPlusPlus` with deep supervision; its weights are shared.

    Returns:
        `keras.Model` that gives `"logits"` and `"features"`.

    Raises:
        ValueError: a network with one head alone.

    Source:
        UNet++ (Zhou et al. 2018), section 2.2, which averages after the sigmoid.
    """
    if len(_heads(network)) < 2:
        raise ValueError(
            f"mean_of_heads: '{network.name}' has the heads {_heads(network)}; expected several."
        )
    logits = layers.Average(dtype="float32")([network.output[name] for name in _heads(network)])
    outputs = {"logits": logits, "features": network.output["features"]}
    return keras.Model(network.input, outputs, name=f"{network.name}_mean")


def _heads(network):
    return sorted(name for name in network.output if name == "logits" or name.startswith("aux_"))
