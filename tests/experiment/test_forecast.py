"""What a training will take of disk, memory and time is said before it begins."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import keras
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.forecast import (
    COPIES,
    LIBRARIES,
    REPORT,
    disk_forecast,
    memory_forecast,
    window_forecast,
)
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


def test_the_disk_that_a_training_takes_is_forecast_within_a_third(batches, tmp_path):
    """Of a teacher, two moments and two checkpoints; a third is there while it is made."""
    with km.setup():
        network = km.models.AERUNet((32, 32, 3), 2, filters=(16, 32, 64))
        method = km.methods.KLDistillation(network, overlapping=True, ema=0.9)
        method.compile(keras.optimizers.Adam(1e-3))
    run = km.fit(method, batches, steps=2, run_dir=tmp_path, checkpoint_every=1)
    checkpoint, *others = (f.stat().st_size for f in (tmp_path / "checkpoints").iterdir())
    assert len(others) == 1
    taken = 3 * checkpoint + (tmp_path / "network.keras").stat().st_size
    stage = Stage(supervised, uses=("source", "target"))
    data = Data(batches.task, {"source": read(batches), "target": read(batches)}, {}, "")
    recipe = Recipe("Test", batches.preprocessing, {"adapted": stage})
    prepared, kept = disk_forecast(recipe, data, run.network)
    assert kept - REPORT[2] == pytest.approx(taken, rel=0.3)
    assert prepared > 0


def read(batches):
    """As many cases as were prepared."""
    count = len(batches.source.images)
    return pd.DataFrame({"image": batches.source.images[:count], "case": "", "mask": ""})


def memory(network, batch_size=4, uses=("source",), size=(32, 32)):
    stages = {"trained": Stage(supervised, uses=uses)}
    recipe = Recipe("Test", km.Preprocessing(size=size), stages, batch_size=batch_size)
    return memory_forecast(recipe, network)


def test_memory_is_that_of_libraries_weights_and_every_image():
    network = km.models.AERUNet((32, 32, 3), 2, filters=(4, 8))
    image = memory(network, 5) - memory(network, 4)
    assert image > 0
    rest = memory(network, 4) - 4 * image
    assert rest == LIBRARIES + COPIES * 4 * network.count_params()
    assert memory(network, 4, ("source", "target")) == memory(network, 8)
    twice_as_wide = km.models.AERUNet((32, 32, 3), 2, filters=(8, 16))
    assert memory(twice_as_wide) > memory(network)


def test_memory_of_a_network_of_any_size_is_that_of_the_recipe_s():
    fixed, free = (km.models.UNetS5D16((side, side, 3), 2, "fcn") for side in (32, None))
    assert memory(free) == memory(fixed)
    assert memory(free, size=(64, 64)) > memory(free)


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [
        "--weights random --size 128 --batch-size 16 --filters 8 16 32 64",
        "--volumes --filters 8 16 32",
    ],
)
def test_the_memory_that_a_training_takes_is_forecast_within_a_third(of, tmp_path):
    """What a command says first and what it says last; below 3 GB, two steps a stage."""
    command = f"-m keras_meduda adapt --steps 2 {of} --out".split()
    called = subprocess.run(
        [sys.executable, *command, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    said = re.search(r"memory: about ([\d.]+) GB", called.stdout)
    taken = re.search(r"peak memory ([\d.]+) GB", called.stderr)
    assert float(said[1]) == pytest.approx(float(taken[1]), rel=0.3)
