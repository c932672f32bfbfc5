"""The stages of any network of the contract, found in its graph, and another precision for them."""

import keras
from keras import layers

from keras_meduda.models.blocks import ResizeTo

_UPSAMPLING = (
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.UpSampling2D,
    layers.UpSampling3D,
    ResizeTo,
)


def leaves(network):
    """All layers of a network, those of the models that it is made of among them."""
    for layer in network.layers:
        yield from leaves(layer) if isinstance(layer, keras.Model) else [layer]


def head_layers(network) -> set:
    """The layers that `"features"` does not need: the classifier and any auxiliary head."""
    last = _last_model(network)
    return set(leaves(last)) - _needed_by(last, last.output["features"])


def encoder_layers(network) -> set:
    """The backbone, else all that the first upsampling needs, or the features where there is none.

    What a decoder of pyramids such as DeepLabV3+'s reads the backbone with is no part of it.
    """
    if backbone := backbone_layers(network):
        return backbone
    last = _last_model(network)
    needs = {
        layer: _needed_by(last, keras.tree.flatten(layer.input)[0])
        for layer in last.layers
        if isinstance(layer, _UPSAMPLING)
    }
    first = [need for need in needs.values() if not need & set(needs)]
    own = set().union(*first) if first else _needed_by(last, last.output["features"])
    return own | (set(leaves(network)) - set(leaves(last)))


def backbone_layers(network) -> set:
    """The layers of an encoder of keras.applications; none where a network has its own encoder.

    They are the model `"backbone"`, or what is called `backbone.…` in the model `"encoder"`.
    """
    for model in (layer for layer in network.layers if isinstance(layer, keras.Model)):
        if model.name == "backbone":
            return set(leaves(model))
        if model.name == "encoder":
            named = {layer for layer in leaves(model) if layer.name.startswith("backbone.")}
            return named or backbone_layers(model)
    return set()


def set_precision(network, precision):
    """Lets a network compute in another precision; its weights and its classifier stay as they are.

    Args:
        network: a network of `km.models`, changed in place.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> set_precision(network, "mixed_bfloat16")
        >>> network.get_layer("features").compute_dtype, network.get_layer("logits").compute_dtype
        ('bfloat16', 'float32')
    """
    head = head_layers(network)
    for layer in leaves(network):
        if layer not in head:
            layer.dtype_policy = keras.DTypePolicy(precision)


def _last_model(network):
    """The network itself, or the part of it that gives the logits (DeepLabV3+ is of two)."""
    models = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return next((m for m in models if isinstance(m.output, dict) and "logits" in m.output), network)


def _needed_by(network, tensor):
    return set(leaves(keras.Model(network.inputs, tensor)))
