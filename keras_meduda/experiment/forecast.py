"""What an experiment will take of disk, memory and time, said before it begins."""

import math
import time
from pathlib import Path

import keras
import numpy as np

from keras_meduda.data.pipeline import prepared_bytes
from keras_meduda.models.stages import leaves
from keras_meduda.progress import duration
from keras_meduda.run import Run
from keras_meduda.run.sliding import WINDOW_PIXELS, windows_together

SHOWN = 6  # cases that the pictures of a report predict once more
REPORT = {2: 2_000_000, 3: 10_000_000}  # bytes of a page with its pictures, by rank
LIBRARIES = 1_300_000_000  # bytes of TensorFlow, with the graphs of a training, and of this library
COPIES = 6  # of the weights: themselves, gradient, two moments, teacher, a checkpoint in the making
MANY = 1000  # windows: with fewer it is not worth while to time one


def disk_forecast(recipe, data, network) -> tuple[int, int]:
    """Bytes of prepared data, and of what the stages leave: networks, checkpoints and the report.

    A stage keeps its network and three checkpoints while it writes the third; each holds weights,
    two moments and, where a stage learns from the target, a teacher. Networks that a method trains
    beside its own are not counted.

    Args:
        recipe: what is trained.
        data: on which cases.
        network: one as the recipe trains.
    """
    needed = {}  # prepared once, however many stages use it
    for stage in recipe.stages.values():
        for part in stage.uses:
            part = "target" if part == "taught" else part
            twins = stage.target_styles if part == "target" else stage.source_styles
            needed[part] = max(twins, needed.get(part, 0))
    prepared = sum(
        prepared_bytes(data.parts[part], recipe.preprocessing, twins)
        for part, twins in needed.items()
    )
    weights = 4 * network.count_params()
    copies = sum(1 + 3 * (4 if "target" in s.uses else 3) for s in recipe.stages.values())
    return prepared, weights * copies + REPORT[len(recipe.preprocessing.size)]


def memory_forecast(recipe, network) -> int:
    """Bytes of memory that a training takes on a processor, the libraries' own among them.

    Of each image in a step the output of every layer is held for the way back; a source and a
    target pass the network together. Views that only some methods have are not counted, such as the
    third of `CategoryRegularization`; what a teacher makes is not held.

    Args:
        recipe: what is trained.
        network: one as the recipe trains.
    """
    domains = max((len(stage.uses) for stage in recipe.stages.values()), default=1)
    images = recipe.batch_size * domains
    values = COPIES * network.count_params() + images * _values(network, recipe.shape)
    return LIBRARIES + 4 * values


def _values(network, shape):
    """How many numbers all layers of a network give for one image of that shape."""
    if None in network.input.shape[1:]:
        network = keras.models.clone_model(network, input_tensors=keras.Input(shape))
    outputs = keras.tree.flatten([layer.output for layer in leaves(network)])
    return sum(math.prod(output.shape[1:]) for output in outputs)


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
    pixels = WINDOW_PIXELS["gpu" if "GPU" in run.devices[0] else "cpu"]
    count = len(run.devices) * windows_together(1, sides, pixels)
    batch = np.zeros((count, *sides, run.preprocessing.channels), "float32")
    took = []
    for _ in range(4):  # the first compiles, others may share the machine
        began = time.perf_counter()
        np.asarray(run.logits(batch))
        took.append(time.perf_counter() - began)
    return min(took) / count
