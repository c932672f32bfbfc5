"""What windows over large images will cost, said before a training begins."""

import time
from pathlib import Path

import keras
import numpy as np

from keras_meduda.progress import duration
from keras_meduda.run import Run
from keras_meduda.sliding import WINDOW_PIXELS, windows_together

SHOWN = 6  # cases that the pictures of a report predict once more
MANY = 1000  # windows: with fewer it is not worth while to time one


def window_forecast(recipe, data, network) -> str | None:
    """How long validations and the test will take; `None` where few windows or none are needed.

    Args:
        recipe: what is trained.
        data: on which cases.
        network: one as the recipe trains, of which a batch of windows is timed.
    """
    window, preprocessing = recipe.window, recipe.preprocessing
    if not window:
        return None
    networks = len(recipe.given) + len(recipe.stages)
    chosen, tested = len(data.parts.get("validation", ())), sum(map(len, data.tests.values()))
    tested = networks * (tested + SHOWN)
    validations = sum(map(_validations, recipe.stages.values(), [recipe.steps] * networks))
    one, coarse = window.count(preprocessing.size), window.apart.count(preprocessing.size)
    if one * tested + coarse * chosen * validations < MANY:
        return None
    sides = tuple(map(min, window.size, preprocessing.size))
    each = _seconds(Run(Path(), network, data.task, preprocessing, window), sides)
    said = [f"windows of {' × '.join(map(str, sides))}:"]
    if validations:
        took = duration(each * coarse * chosen)
        said.append(
            f"a validation has {chosen * coarse:,}, about {took}, and there are up to "
            f"{validations};"
        )
    took = duration(each * one * tested)
    return " ".join([*said, f"test and pictures have {tested * one:,}, about {took}"])


def _validations(stage, steps):
    """How often a stage validates at most."""
    if not stage.keep:
        return 0
    steps = stage.steps or steps
    return -(-steps // (stage.keep.get("validate_every") or max(1, steps // 10)))


def _seconds(run, sides):
    """A window takes so long, as one of as many as go through the network together."""
    device = "gpu" if keras.distribution.list_devices("gpu") else "cpu"
    count = windows_together(1, sides, WINDOW_PIXELS[device])
    batch = np.zeros((count, *sides, run.preprocessing.channels), "float32")
    took = []
    for _ in range(4):  # the first compiles, others may share the machine
        began = time.perf_counter()
        np.asarray(run.logits(batch))
        took.append(time.perf_counter() - began)
    return min(took) / count
