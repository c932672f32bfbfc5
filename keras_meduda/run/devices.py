"""Prediction on all GPUs of a machine: each computes an equal part of a batch."""

import tensorflow as tf


def all_devices() -> tuple[str, ...]:
    """Names of the devices that predict together: this machine's GPUs, or else its processor.

    Where TensorFlow was told to see one processor as several, all of these. Of several workers each
    predicts by itself, so those of the others are left out.
    """
    here = tf.constant(0).device.partition("/device:")[0]
    own = [
        device.name
        for kind in ("GPU", "CPU")
        for device in tf.config.list_logical_devices(kind)
        if device.name.startswith(("/device:", f"{here}/"))
    ]
    return tuple(name for name in own if "GPU" in name) or tuple(own)


def shared_out(network, devices):
    """A function of a batch that has every device compute an equal part of it.

    The weights stay where they are and are read from there: what is trained on meanwhile, as in a
    validation, is never out of date. A batch of fewer images than devices goes through the first.

    Args:
        network: function of a batch, in graph code.
        devices: names of devices.

    Returns:
        Function of a batch of any size, in graph code.

    Example:
        >>> double = shared_out(lambda x: 2 * x, all_devices())
        >>> double(tf.constant([[1.0], [2.0]])).numpy().tolist()
        [[2.0], [4.0]]
    """
    if len(devices) == 1:
        return network

    def each_a_part(x):
        firsts = [tf.shape(x)[0] * i // len(devices) for i in range(len(devices) + 1)]
        parts = []
        for device, first, last in zip(devices, firsts[:-1], firsts[1:], strict=True):
            with tf.device(device):
                parts.append(network(x[first:last]))
        return tf.concat(parts, axis=0)

    def shared(x):
        few = tf.shape(x)[0] < len(devices)
        return tf.cond(few, lambda: network(x), lambda: each_a_part(x))

    return shared
