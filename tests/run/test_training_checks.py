"""What `km.fit` refuses before it makes a folder, and what a validation may give."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_meduda as km


def supervised(channels=2, overlapping=True, size=32, compiled=True, **setup):
    with km.setup(**setup):
        network = km.models.AERUNet((size, size, 3), channels, filters=(4, 8))
    method = km.methods.Supervised(network, overlapping)
    if compiled:
        method.compile(keras.optimizers.Adam(1e-3))
    return method


@pytest.mark.parametrize(("channels", "overlapping"), [(1, True), (2, False), (3, True)])
def test_a_method_of_another_task(batches, tmp_path, channels, overlapping):
    """Whose mask would be broadcast, or whose logits another activation would read."""
    network = km.models.AERUNet((32, 32, 3), channels, filters=(4, 8))
    method = km.methods.Supervised(network, overlapping)
    method.compile(keras.optimizers.Adam(1e-3))
    expected = f"overlapping={overlapping} and a network of {channels} logits.* expects True and 2"
    with pytest.raises(ValueError, match=expected):
        km.fit(method, batches, steps=1, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


BEST = {"keep": "best:dice", "validation": lambda network: {"dice": 0.5}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0; expected a whole number"),
        ({"steps": 2.0}, "steps=2.0; expected a whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every=0; expected a whole number"),
        ({"validate_every": -1}, "validate_every=-1; expected a whole number"),
        ({"window": (16, 16)}, r"window=\(16, 16\); expected km.SlidingWindow"),
        ({"keep": "best"}, "keep='best'; expected 'last' or 'best:<name of a value>'"),
        ({**BEST, "keep": "bset:dice"}, "keep='bset:dice'; expected 'last' or"),
        ({"keep": "best:dice"}, "keep='best:dice' needs a validation"),
        ({"patience": 2}, "patience=2 with keep='last'; expected 1 or more"),
        ({**BEST, "patience": 0}, "patience=0 with keep='best:dice'; expected 1 or more"),
        ({"method": "AERUNet"}, "received a str; expected a method of km.methods"),
        ({"method": {"compiled": False}}, r"call Supervised.compile\(optimizer\) first"),
        ({"method": {"size": 16}}, r"takes images of \(16, 16, 3\), .* \(32, 32, 3\)"),
        ({"method": {"precision": "mixed_float16"}}, "does not scale its loss"),
        ({"train_data": [1, 2]}, "train_data is a list; expected km.data.pipeline.Batches"),
    ],
)
def test_a_call_that_cannot_be(batches, tmp_path, settings, message):
    method = settings.get("method", {})
    method = supervised(**method) if isinstance(method, dict) else method
    call = {"train_data": batches, "steps": 2, **settings, "method": method}
    with pytest.raises(ValueError, match=message):
        km.fit(**call, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_of_half_precision_trains_where_its_loss_is_scaled(batches, tmp_path):
    with km.setup(precision="mixed_float16"):
        method = supervised(precision="mixed_float16")
    km.fit(method, batches, steps=np.int64(1), run_dir=tmp_path)  # a number of NumPy's is one too


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, "gives 0.5; expected a dictionary"),
        ({"loss": 0.1}, "expected .* named unlike .*: step, ended, segmentation, loss"),
        ({"step": 1.0}, "named unlike"),
        ({"iou": 0.1}, r"keep='best:dice', but the validation gives \['iou'\]"),
    ],
)
def test_a_validation_that_cannot_be(batches, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        km.fit(
            supervised(), batches, steps=2, run_dir=tmp_path,
            validation=lambda network: given, validate_every=1, keep="best:dice",
        )  # fmt: skip


def test_a_run_folder_of_a_newer_version_is_refused_with_its_number(run, batches, tmp_path):
    folder = shutil.copytree(run.path, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"version": 99}))
    with pytest.raises(ValueError, match="a run folder of version 99; this library reads up to"):
        km.load(folder)
    with pytest.raises(ValueError, match="a run folder of version 99; this library goes on with"):
        km.fit(supervised(), batches, steps=4, run_dir=folder)


def test_a_run_folder_without_a_version_is_of_the_first_and_loads(run, tmp_path):
    folder = shutil.copytree(run.path, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config.pop("version"), config.pop("weights")
    (folder / "config.json").write_text(json.dumps(config))
    again = km.load(folder)
    assert again.task == run.task and again.network.count_params() == run.network.count_params()
