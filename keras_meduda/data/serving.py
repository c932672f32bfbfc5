"""`Preprocessing` as TensorFlow graph code: what runs inside an exported model."""

import tensorflow as tf

from keras_meduda.data.intensity import clahe_graph
from keras_meduda.task import ROUNDING, Preprocessing

STEPS = {"clahe": clahe_graph}  # the counterparts of task.INTENSITY


def preprocess(images, preprocessing: Preprocessing):
    """The network's input of a batch of uint8 images, as `Preprocessing.apply` makes it.

    Args:
        images: uint8 `(batch, H, W, channels)`; H and W may differ from call to call.
        preprocessing: its settings.

    Returns:
        float32 `(batch, *size, channels)`, with the grey levels of `Preprocessing.stored` but for
        single pixels that rounding after the resize puts one level apart.

    Example:
        >>> import numpy as np
        >>> preprocess(np.zeros((2, 50, 40, 3), "uint8"), Preprocessing(size=(32, 32))).shape
        TensorShape([2, 32, 32, 3])
    """
    x = tf.cast(images, "float32")
    if preprocessing.normalise == "zscore":
        x = resize(x - tf.reduce_min(x, axis=[1, 2, 3], keepdims=True), preprocessing.size)
        mean, variance = tf.nn.moments(x, axes=[1, 2, 3], keepdims=True)
        return tf.math.divide_no_nan(x - mean, tf.sqrt(variance))
    x = tf.floor(tf.clip_by_value(resize(x, preprocessing.size), 0.0, 255.0) + ROUNDING)
    for name in preprocessing.intensity:
        x = STEPS[name](x)
    return preprocessing.normalised(x)


def resize(images, size):
    """Linear resizing with half-pixel centres, antialiased when shrinking; see `spatial.resize`."""
    return tf.image.resize(images, size, antialias=True)
