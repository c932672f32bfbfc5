"""How near a served model comes to `km.predict`."""

import numpy as np
import tensorflow as tf

from keras_meduda.data.io import Image
from keras_meduda.evaluation.predict import predict


def served_difference(run, path) -> float:
    """Largest difference between the probabilities of a SavedModel and those of `km.predict`.

    The graph resizes, resamples and equalises by itself what `km.predict` leaves to OpenCV and
    NumPy, on one image of noise that is a quarter larger than the network's input.

    Args:
        run: the run that was exported.
        path: what `km.export` wrote.

    Example:
        >>> import keras_meduda as km
        >>> run = getfixture("run")
        >>> served_difference(run, km.export(run, getfixture("tmp_path") / "model")) < 0.02
        True
    """
    p = run.preprocessing
    shape = [side + side // 4 for side in p.size]
    dtype = "uint8" if len(p.size) == 2 else "float32"
    image = np.random.default_rng(0).integers(0, 256, (*shape, p.channels)).astype(dtype)
    inputs, spacing = {"image": tf.constant(image[None])}, None
    if p.spacing:
        spacing = tuple(p.spacing[p.order.index(axis)] for axis in range(3))
        inputs["spacing"] = tf.constant([spacing], tf.float32)
    served = tf.saved_model.load(str(path)).signatures["serving_default"](**inputs)
    expected = predict(run, Image(image, spacing))
    maps = np.stack([served[name][0] for name in run.task.classes], axis=-1)
    return float(np.abs(maps - expected[..., -maps.shape[-1] :]).max())
