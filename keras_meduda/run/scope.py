"""What a method is built and compiled in: seeds, dtype policy, the scope of its devices."""

import contextlib
import functools
import os
import warnings

import keras
import tensorflow as tf

from keras_meduda.run import distribution
from keras_meduda.run.loading import POLICIES


@contextlib.contextmanager
def setup(strategy: str = "none", precision: str = "float32", seed: int = 0):
    """Seeds, dtype policy and distribution scope for building and compiling a method.

    Args:
        strategy: `"none"`, `"mirrored"` (all GPUs of this machine; without any, all logical CPUs)
            or `"multiworker"` (all machines of `TF_CONFIG`, see docs/scaling.md). The batch size is
            that of all replicas together, and the same batches make the same network.
        precision: `"float32"` (the default), `"mixed_bfloat16"` or `"mixed_float16"`.
        seed: of weights, dropout and a method's noise. Order and augmentation have their own, that
            of `Batches`. Default 0.

    Raises:
        ValueError: an unknown word, or a `TF_CONFIG` that is missing or makes no sense.

    Example:
        >>> import keras_meduda as km
        >>> with km.setup(seed=1):
        ...     network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
    """
    if precision not in POLICIES:
        raise ValueError(f"setup: precision={precision!r}; expected one of {POLICIES}.")
    _hint_at_onednn()
    scope = distribution.strategy(strategy).scope()
    previous = keras.config.dtype_policy()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    try:
        with scope:
            yield
    finally:
        keras.config.set_dtype_policy(previous)


@functools.cache
def _hint_at_onednn():
    """Says once what TensorFlow does not: that its fast kernels for processors are off."""
    try:
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled, IsX86Available
    except ImportError:  # nothing public tells
        return
    wanted = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1" and IsX86Available()
    if wanted and not IsMklEnabled() and not tf.config.list_physical_devices("GPU"):
        warnings.warn(
            "TensorFlow was imported before keras_meduda and left oneDNN off, as it does on "
            "processors without AVX-512 VNNI; training takes up to 6 times as long. Import "
            "keras_meduda first, or set TF_ENABLE_ONEDNN_OPTS=1 before Python starts.",
            stacklevel=4,
        )
