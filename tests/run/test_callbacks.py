"""What `km.fit` tells its callbacks, and the page that says so."""

import re
from pathlib import Path

import keras
import pandas as pd
import pytest

import keras_meduda as km

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"


@pytest.fixture
def method():
    with km.setup():
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    return method


class Told(km.Callback):
    def __init__(self):
        self.steps, self.validations, self.runs = {}, {}, []

    def on_step(self, step, terms):
        self.steps[step] = terms

    def on_validation(self, step, values):
        self.validations[step] = values

    def on_end(self, run):
        self.runs.append(run)


def test_callbacks_are_told_what_the_history_says(method, batches, tmp_path):
    told = Told()
    run = km.fit(
        method, batches, steps=12, run_dir=tmp_path, validation=lambda network: {"dice": 0.5},
        validate_every=6, callbacks=[told],
    )  # fmt: skip
    history = pd.read_csv(tmp_path / "history.csv").set_index("step")
    assert list(told.steps) == list(history.index)
    for step, terms in told.steps.items():
        assert terms["loss"] == pytest.approx(history.loc[step, "loss"])
    assert told.validations == {6: {"dice": 0.5}, 12: {"dice": 0.5}}
    assert [r.path for r in told.runs] == [run.path]


@pytest.mark.parametrize("logger", ["MLflow", "Your own"])
def test_the_examples_of_the_page_log(method, batches, tmp_path, monkeypatch, logger):
    if logger == "MLflow":
        pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.chdir(tmp_path)
    block = re.search(rf"## {logger}\n\n```py\n(.*?)```", PAGE.read_text(), re.S)[1]
    exec(compile(block, str(PAGE), "exec"), {"km": km, "method": method, "batches": batches})
    written = tmp_path / ("mlruns" if logger == "MLflow" else "losses.txt")
    lines = [f for f in written.rglob("metrics/loss")] if written.is_dir() else [written]
    assert len(lines[0].read_text().splitlines()) == 2, "steps 10 and 20"
