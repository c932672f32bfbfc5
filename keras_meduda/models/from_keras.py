"""A network of one's own under the contract that methods, prediction and export rely on."""

import keras


def from_keras(model):
    """The network of a plain Keras model: `"logits"`, its output, and `"features"` before it.

    Args:
        model: a functional or sequential `keras.Model` from images `(batch, *spatial, in)`, 2D or
            3D, to one map of logits `(batch, *spatial, channels)` of the same size; its last layer
            has no sigmoid or softmax, which losses and prediction add. Layers and weights are
            shared with the network.

    Returns:
        `keras.Model` from the same images to `{"logits": float32 (batch, *spatial, channels),
        "features": what the last layer reads}`.

    Raises:
        ValueError: all that the model lacks, in one message.

    Example:
        >>> image = keras.Input((None, None, 1))
        >>> x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
        >>> network = from_keras(keras.Model(image, keras.layers.Conv2D(2, 1)(x)))
        >>> {name: y.shape for name, y in network.output.items()}
        {'logits': (None, None, None, 2), 'features': (None, None, None, 8)}
    """
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if not (len(inputs) == len(outputs) == 1):
        raise ValueError(
            f"from_keras: '{model.name}' has {len(inputs)} inputs and {len(outputs)} outputs; "
            "expected a functional or sequential keras.Model of one each."
        )
    (image,), (logits,) = inputs, outputs
    last = logits._keras_history.operation  # the only place where Keras keeps what made a tensor
    features, activation = last.input, getattr(last, "activation", None)
    problems = []
    if len(image.shape) not in (4, 5) or image.dtype != "float32":
        problems.append(
            f"an input of {image.dtype} {image.shape}; expected float32 pictures or volumes, "
            "(batch, *spatial, channels)"
        )
    if len(logits.shape) != len(image.shape) or any(
        a is not None and b is not None and a != b
        for a, b in zip(image.shape[1:-1], logits.shape[1:-1], strict=False)
    ):
        problems.append(f"an output of {logits.shape}; expected the image's size, {image.shape}")
    if activation is not None and activation is not keras.activations.linear:
        name = activation.__name__
        problems.append(f"{name} in its last layer '{last.name}'; expected activation=None, logits")
    if isinstance(last, keras.layers.Softmax):
        problems.append(f"'{last.name}' as its last layer; expected logits, from the layer before")
    if logits.dtype != "float32":
        problems.append(f"logits of {logits.dtype}; expected dtype='float32' in '{last.name}'")
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != len(image.shape):
        problems.append(f"'{last.name}', which does not read one map; expected a convolution, say")
    if problems:
        raise ValueError(f"from_keras: '{model.name}' has {'; and '.join(problems)}.")
    return keras.Model(image, {"logits": logits, "features": features}, name=model.name)
