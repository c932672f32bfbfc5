"""Knowledge distillation and unsupervised domain adaptation for medical image segmentation.

The public names are loaded when first used, so that importing the package loads no TensorFlow.
"""

import importlib
import os

# TensorFlow reads this once, when it is imported, and by itself turns oneDNN on only where the
# processor has AVX-512 VNNI: elsewhere a training step takes 1.5 (2D) to 6 times (3D) as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_MODULES = {"models", "methods", "losses", "optimizers", "data", "evaluation", "run"}
_ALIASES = {
    "catalog": "keras_meduda.data.catalog",
    "metrics": "keras_meduda.evaluation.metrics",
    "training": "keras_meduda.run",  # as `run` was called before
}
_NAMES = {
    "Task": "keras_meduda.task",
    "Preprocessing": "keras_meduda.task",
    "SlidingWindow": "keras_meduda.run.sliding",
    "read_cases": "keras_meduda.data.cases",
    "Callback": "keras_meduda.run.training",
    "setup": "keras_meduda.run.scope",
    "fit": "keras_meduda.run.training",
    "load": "keras_meduda.run",
    "predict": "keras_meduda.evaluation.predict",
    "evaluate": "keras_meduda.evaluation.predict",
    "export": "keras_meduda.run.saved_model",
    "export_network": "keras_meduda.run.exchange",
    "weights": "keras_meduda.run.released",
}
__all__ = sorted({*_MODULES, *_ALIASES, *_NAMES})


def modules_of(package):
    """A `__getattr__` for a package, which loads a module of it when it is first used."""

    def module(name):
        full = f"{package}.{name}"
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:  # what the module itself imports is missing
                raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return module


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _ALIASES:
        return importlib.import_module(_ALIASES[name])
    if name in _MODULES:
        return importlib.import_module(f"keras_meduda.{name}")
    raise AttributeError(f"module 'keras_meduda' has no attribute {name!r}")


def __dir__():
    return __all__
