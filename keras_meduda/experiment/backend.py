"""Keras and its backend in a command: without their start-up lines and what no command uses."""

import os
import sys

# Keras and TensorFlow import these where they are installed, for conversions and plots that no
# command asks for: a quarter of the time that loading takes.
UNUSED = ("jax", "matplotlib")


def load_backend() -> None:
    """Loads Keras and its backend; their lines, which bypass every log level, are lost."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    unused = [] if os.environ["KERAS_BACKEND"] == "jax" else UNUSED
    hidden = [name for name in unused if name not in sys.modules]
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        sys.modules.update(dict.fromkeys(hidden))  # None: an import of it fails
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
