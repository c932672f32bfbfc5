"""Stochastic passes through the end of a network, by which it is told where it is sure."""

import keras
from keras import layers


def stochastic(network, rate=0.1):
    """A network in two: what is the same in every pass, and what dropout draws anew in each.

    `DeepLabV3Plus` has these parts, `encoder` and `head`. Any other network is divided at its
    `features`; what follows them, its classifier, reads them through a dropout of `rate`, unless it
    has one of its own. Dropout draws in every call, whatever the phase; batch norm uses its running
    statistics. All weights are shared.

    Args:
        network: a network of `km.models`, or any `keras.Model` of their contract.
        rate: share of the features that is dropped. Default 0.1, as ahead of UDA_CLR's classifier.

    Returns:
        Two models: `sure` from images to tensors, `drawn` from these to logits.

    Raises:
        ValueError: a head without dropout, so that every pass would be the same, and sure.

    Source:
        Gal and Ghahramani, Dropout as a Bayesian approximation (arXiv 1506.02142).

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=2, filters=(4, 8))
        >>> sure, drawn = stochastic(network)
        >>> tensors = sure(np.ones((1, 16, 16, 1), "float32"))
        >>> bool(np.array_equal(drawn(tensors), drawn(tensors)))
        False
    """
    parts = {layer.name: layer for layer in network.layers}
    if {"encoder", "head"} <= set(parts):
        sure, drawn = parts["encoder"], _twin(parts["head"])
        drawn = keras.Model(drawn.input, drawn.output["logits"], name="drawn")
    else:
        features = network.output["features"]
        sure = keras.Model(network.input, [network.input, features])
        twin = _twin(network)  # Keras divides a graph by changing it
        ends = [twin.input, twin.output["features"]]  # a classifier may read the image's size
        drawn = keras.Model(ends, twin.output["logits"], name="drawn")
        if not _drops(drawn):
            ends = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in sure.output]
            dropped = layers.Dropout(rate)(ends[1], training=True)
            drawn = keras.Model(ends, drawn([ends[0], dropped], training=False))
    if not _drops(drawn):
        raise ValueError(f"stochastic: no Dropout in 'head' of '{network.name}': passes are equal.")
    return sure, drawn


def _twin(model):
    """The same layers as another model: dropout as in training, batch norm as in use."""

    def call(layer, *args, **kwargs):
        if isinstance(layer, layers.Dropout):
            kwargs["training"] = True
        elif isinstance(layer, layers.BatchNormalization):
            kwargs["training"] = False
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _drops(model):
    return any(isinstance(layer, layers.Dropout) for layer in model.layers)
