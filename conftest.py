"""Fixtures of the tests and of the examples in docstrings."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace):
    doctest_namespace["np"] = np


@pytest.fixture(scope="session")
def data_root():
    """The folder of the research data sets, which are not part of the project."""
    root = os.environ.get("MEDUDA_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("MEDUDA_DATA does not name the folder of the research data sets")
    return Path(root)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A small two-camera fundus data set: the path of its case table."""
    from keras_meduda.data.phantoms import write_fundus

    return write_fundus(tmp_path_factory.mktemp("phantoms"), cases_per_domain=6, size=64)


@pytest.fixture(scope="session")
def batches(phantoms, tmp_path_factory):
    """Batches of both domains of the phantoms, 32 × 32."""
    from keras_meduda.data.cases import read_cases, without_masks
    from keras_meduda.data.pipeline import Batches, add_styles, prepare
    from keras_meduda.task import Preprocessing, Task

    task = Task(
        classes=("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)}
    )
    preprocessing = Preprocessing(size=(32, 32), intensity=("clahe",))
    cases, folder = read_cases(phantoms), tmp_path_factory.mktemp("prepared")
    source = prepare(cases[cases["domain"] == "camera_a"], task, preprocessing, folder, labels=True)
    target = prepare(
        without_masks(cases[cases["domain"] == "camera_b"]),
        task,
        preprocessing,
        folder,
        labels=False,
    )
    target = add_styles(target, source, folder, variants=2)
    return Batches(batch_size=2, source=source, target=target)


@pytest.fixture(scope="session")
def run(batches, tmp_path_factory):
    """A run of four steps."""
    import keras

    import keras_meduda as km

    with km.setup():
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    return km.fit(method, batches, steps=4, run_dir=tmp_path_factory.mktemp("run"))


class StopAt:
    """Batches that interrupt the process as Ctrl-C does, before the given step is taken."""

    def __init__(self, batches, step, error=KeyboardInterrupt):
        self.batches, self.step, self.error = batches, step, error
        self.task, self.preprocessing = batches.task, batches.preprocessing
        self.batch_size, self.seed = batches.batch_size, batches.seed
        self.settings = batches.settings

    def from_step(self, first):
        """The batches from a step on."""
        def generate():
            for step, batch in enumerate(self.batches.from_step(first), first + 1):
                if step == self.step:
                    raise self.error
                yield batch

        return generate()


@pytest.fixture(scope="session")
def stop_at():
    """`StopAt`."""
    return StopAt


@pytest.fixture
def meduda(monkeypatch, capsys):
    """The command `meduda` in this process: its words to (exit code, stdout, stderr)."""
    from keras_meduda.experiment import command_line

    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["meduda", *map(str, words)])
        capsys.readouterr()
        try:
            command_line.main()
            code = 0
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code or 0, said.out, said.err

    return call
