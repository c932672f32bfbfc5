"""A run: set-up and devices, the training loop, the folder that it leaves, loading and export.

What trains loads TensorFlow, when it is first used.
"""

from keras_meduda import modules_of
from keras_meduda.run.decided import chosen
from keras_meduda.run.loading import Run, check_run, load, parts, settings_of

__all__ = ["Callback", "Run", "check_run", "chosen", "fit", "load", "parts", "settings_of", "setup"]

_LATER = {"Callback": "training", "fit": "training", "setup": "scope"}
_module = modules_of(__name__)


def __getattr__(name):
    return getattr(_module(_LATER[name]), name) if name in _LATER else _module(name)
