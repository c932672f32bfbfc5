"""ONNX Runtime and OpenVINO compute what TensorFlow does, from a file that is made once."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda import engines
from keras_meduda.run import Run

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


class Strange(keras.layers.Layer):
    """An operation that ONNX does not have."""

    def call(self, x):
        return keras.ops.erfinv(keras.ops.clip(x, -0.9, 0.9))


@both
def test_an_operation_that_is_lacking_names_its_layer(engine, run, tmp_path):
    pytest.importorskip(engine)
    image = keras.Input((8, 8, 3))
    logits = Strange(name="strange")(keras.layers.Conv2D(2, 1)(image))
    network = keras.Model(image, {"logits": logits, "features": logits})
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
    pytest.importorskip("onnxruntime")
    assert "--engine onnxruntime" in engines.suggestion("tensorflow")
    assert engines.suggestion("onnxruntime") is None
