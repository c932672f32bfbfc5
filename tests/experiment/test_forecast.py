"""What windows will take is said before a training begins, where it takes long."""

import re
from dataclasses import replace
from functools import partial

import keras_meduda as km
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.forecast import window_forecast
from keras_meduda.experiment.recipe import Recipe, Stage, supervised


def test_windows_are_counted_and_one_is_timed(phantoms):
    cases = km.read_cases(phantoms)
    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    data = Data(task, {"source": cases[:4], "validation": cases[4:6]}, {"test": cases[6:]}, "")
    recipe = Recipe(
        "Test",
        km.Preprocessing(size=(64, 64)),
        {"trained": Stage(supervised, keep={"keep": "best:dice", "validate_every": 3})},
        partial(km.models.AERUNet, filters=(4, 8)),
        steps=10,
        window=km.SlidingWindow((8, 8)),
    )
    said = window_forecast(recipe, data, km.models.AERUNet((8, 8, 3), 2, filters=(4, 8)))
    # 8 windows an axis side by side for each of 2 validation cases, 15 where they overlap
    assert re.search(r"windows of 8 × 8: a validation has 128, about .* up to 4;", said)
    assert f"test and pictures have {(len(cases) - 6 + 6) * 15 * 15:,}, about" in said
    few = replace(recipe, window=km.SlidingWindow((64, 64)))
    assert window_forecast(few, data, None) is None
    assert window_forecast(replace(recipe, window=None), data, None) is None
