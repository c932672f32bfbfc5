"""ONNX Runtime and OpenVINO compute what TensorFlow does, from a file that is made once."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.run import Run, engines
from keras_meduda.task import probabilities

pytest.importorskip("tf2onnx", reason="the extra `export` is not installed")

both = pytest.mark.parametrize("engine", engines.ENGINES[1:])


def volumes(path, window=None):
    network = km.models.AERUNet((16, 16, 16, 1), channels=3, filters=(4, 8))
    settings = km.Preprocessing((16, 20, 24), normalise="zscore", channels=1, axes="XYZ")
    return Run(path, network, km.Task(("a", "b")), settings, window)


@both
def test_probabilities_of_a_picture(engine, run, tmp_path, capsys):
    pytest.importorskip(engine)
    other = replace(run, path=tmp_path, engine=engine)
    image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype="uint8")
    np.testing.assert_allclose(km.predict(other, image), km.predict(run, image), atol=1e-4)
    assert f"engine {engine}: masks of a random image are TensorFlow's" in capsys.readouterr().out


@both
def test_probabilities_of_a_volume_in_windows(engine, tmp_path):
    pytest.importorskip(engine)
    run = volumes(tmp_path, km.SlidingWindow((16, 16, 16), gaussian=True))
    image = np.random.default_rng(0).normal(size=(16, 20, 24, 1)).astype("float32")
    other = replace(run, engine=engine)
    np.testing.assert_allclose(km.predict(other, image), km.predict(run, image), atol=1e-4)


def test_the_file_is_made_once_and_again_for_a_network_that_changed(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    network = keras.models.clone_model(run.network)
    first = Run(tmp_path, network, run.task, run.preprocessing, engine="onnxruntime")
    x = np.zeros((1, 32, 32, 3), "float32")
    before = first.probabilities(x)
    (file,) = (tmp_path / "engines").iterdir()
    capsys.readouterr()
    np.testing.assert_array_equal(replace(first).probabilities(x), before)
    assert not capsys.readouterr().out
    network.set_weights([weight + 0.1 for weight in network.get_weights()])
    assert abs(replace(first).probabilities(x) - before).max() > 1e-3
    (other,) = (tmp_path / "engines").iterdir()
    assert other != file


def test_once_it_is_kept_no_tensorflow_is_loaded_until_the_folder_changes(run, tmp_path):
    pytest.importorskip("onnxruntime")
    for name in ("config.json", "network.keras"):
        shutil.copy(run.path / name, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype="uint8")
    np.save(tmp_path / "image.npy", image)
    first = km.predict(km.load(tmp_path, engine="onnxruntime"), image)
    code = f"""
import sys, numpy as np, keras_meduda as km
run = km.load({str(tmp_path)!r}, engine="onnxruntime")
km.predict(run, np.load({str(tmp_path / "image.npy")!r}), km.SlidingWindow((32, 32)))
np.save({str(tmp_path / "again.npy")!r}, km.predict(run, np.load({str(tmp_path / "image.npy")!r})))
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), first)
    np.testing.assert_allclose(first, km.predict(run, image), atol=1e-4)
    network = keras.models.clone_model(run.network)
    network.set_weights([weight / 2 for weight in run.network.get_weights()])
    network.save(tmp_path / "network.keras")
    changed = km.load(tmp_path, engine="onnxruntime")
    assert abs(km.predict(changed, image) - first).max() > 1e-3
    assert len(list((tmp_path / "engines").iterdir())) == 1
    np.testing.assert_array_equal(changed.network.get_weights()[0], network.get_weights()[0])


@pytest.mark.parametrize("overlapping", [True, False])
def test_probabilities_of_logits_without_keras(overlapping):
    logits = np.random.default_rng(0).normal(0, 300, (2, 5, 4, 3)).astype("float32")
    with np.errstate(over="raise", invalid="raise"):  # a sure network's logits are large
        found = probabilities(logits, overlapping)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, km.losses.probabilities(logits, overlapping), atol=1e-6)


def test_a_folder_that_cannot_be_written_is_replaced_by_the_cache(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "engines").write_text("no folder can be here")
    other = replace(run, path=tmp_path, engine="onnxruntime")
    other.probabilities(np.zeros((1, 32, 32, 3), "float32"))
    assert len(list((tmp_path / "cache").rglob("onnxruntime-*.onnx"))) == 1


def test_a_killed_export_leaves_no_file(run, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "_compared", killed)
    with pytest.raises(KeyboardInterrupt):
        _ = replace(run, path=tmp_path, engine="onnxruntime").logits
    assert not list((tmp_path / "engines").iterdir())


def test_a_damaged_graph_is_written_again(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    x = np.zeros((1, 32, 32, 3), "float32")
    first = replace(run, path=tmp_path, engine="onnxruntime").probabilities(x)
    (kept,) = (tmp_path / "engines").iterdir()
    kept.write_bytes(kept.read_bytes()[:2000])
    again = replace(run, path=tmp_path, engine="onnxruntime").probabilities(x)
    np.testing.assert_array_equal(first, again)
    assert f"{kept} cannot be read" in capsys.readouterr().out


def test_what_a_killed_process_left_is_removed_once_it_is_old(run, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "engines").mkdir()
    old, new = (tmp_path / "engines" / f".{name}-network.onnx" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, times=(time.time() - 2 * engines.ABANDONED,) * 2)
    _ = replace(run, path=tmp_path, engine="onnxruntime").logits
    assert not old.exists() and new.exists(), "another process may be at it"


class Strange(keras.layers.Layer):
    """An operation that ONNX does not have."""

    def call(self, x):
        return keras.ops.erfinv(keras.ops.clip(x, -0.9, 0.9))


@both
def test_an_operation_that_is_lacking_names_its_layer(engine, run, tmp_path):
    pytest.importorskip(engine)
    image = keras.Input((8, 8, 3))
    logits = Strange(name="strange")(keras.layers.Conv2D(2, 1)(image))
    network = keras.Model(image, {"logits": logits, "features": logits}, name="functional")
    other = Run(tmp_path, network, run.task, km.Preprocessing(size=(8, 8)), engine=engine)
    with pytest.raises(ValueError, match=rf"'{engine}': it lacks .* layer 'strange' \(Erfinv\)"):
        _ = other.logits
    assert not list((tmp_path / "engines").iterdir())


def test_masks_that_differ_far_from_the_threshold_are_refused(run):
    network = run.network
    with pytest.raises(ValueError, match="more than 0.001 from the threshold"):
        engines._compared(network, lambda x: -network(x)["logits"], (32, 32, 3), run.task)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "torch"}, ValueError, r"engine='torch'; expected one of \('tensorflow', "),
        ({"engine": "openvino", "precision": "mixed_bfloat16"}, ValueError, "expected float32"),
    ],
)
def test_engines_that_cannot_be(run, arguments, error, message):
    with pytest.raises(error, match=message):
        km.load(run.path, **arguments)


def test_an_engine_that_is_not_installed_names_its_extra(run, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnxruntime; pip install 'keras-meduda\[engines"):
        km.load(run.path, engine="onnxruntime")
    assert engines.suggestion("tensorflow") is None


def test_the_fastest_engine_is_suggested_until_it_is_used():
    pytest.importorskip("openvino")
    assert "--engine openvino" in engines.suggestion("tensorflow")
    assert engines.suggestion("onnxruntime") is None
    assert engines.suggestion("tensorflow", "mixed_bfloat16") is None
