"""The networks in `weights/` are the ones that the manifest describes."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.models.saved import load_network
from keras_meduda.run.released import FOLDER

MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def test_the_manifest_and_the_folder_agree():
    assert set(MANIFEST) == {path.name for path in FOLDER.iterdir() if path.is_dir()}
    for name, entry in MANIFEST.items():
        files = {path.name for path in (FOLDER / name).iterdir() if path.is_file()}
        assert files == set(entry["sha256"]) == {"config.json", "network.keras"}
        assert sum((FOLDER / name / file).stat().st_size for file in files) < 3e6
        wanted = {"network", "parameters", "task", "data", "score", "licence", "command", "sha256"}
        assert set(entry) == wanted


@pytest.mark.parametrize("name", MANIFEST)
def test_a_released_network_scores_as_the_manifest_says(name, tmp_path):
    """On the phantoms that it was scored on, drawn anew."""
    run, entry = km.weights(name), MANIFEST[name]
    assert run.network.count_params() == entry["parameters"]
    cases = km.read_cases(write_fundus(tmp_path, 72, seed=0, domains=("camera_b",)))
    cases = cases[cases["split"] == "test"]
    assert (len(cases), cases["group"].nunique()) == (entry["score"]["n"], entry["score"]["groups"])
    dice = km.evaluate(run, cases).groupby("class")["dice"].mean()
    for label, score in entry["score"]["dice"].items():
        assert dice[label] == pytest.approx(score, abs=0.005)


def test_predict_works_right_after_the_installation():
    (name, *_) = MANIFEST
    probabilities = km.predict(km.load(FOLDER / name), np.zeros((50, 40, 3), "uint8"))
    assert probabilities.shape == (50, 40, 2)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"received 'liver', expected one of \['fundus_phantom"):
        km.weights("liver")
    with pytest.raises(FileNotFoundError, match="expected a folder with the released"):
        km.weights("liver", tmp_path)
    copy = shutil.copytree(FOLDER, tmp_path / "weights")
    (name, *_) = MANIFEST
    with open(copy / name / "network.keras", "ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match="fetch the file again"):
        km.weights(name, copy)


def test_released_and_older_networks_load_on_jax(tmp_path):
    """Keras' own synchronised batch normalisation, which older files have, does not."""
    x = keras.Input((8, 8, 3))
    y = keras.layers.BatchNormalization(synchronized=True)(keras.layers.Conv2D(2, 3)(x))
    network = keras.Model(x, {"logits": y})
    network.layers[-1].moving_mean.assign([0.5, -0.5])
    network.save(tmp_path / "old.keras")
    np.save(tmp_path / "x.npy", image := np.random.default_rng(0).random((1, 8, 8, 3), "float32"))
    script = (
        "import sys, numpy as np, keras_meduda as km\n"
        "from keras_meduda.models.saved import load_network\n"
        f"for name in {list(MANIFEST)}: km.weights(name)\n"
        "y = load_network(sys.argv[1] + '/old.keras')(np.load(sys.argv[1] + '/x.npy'))['logits']\n"
        "np.save(sys.argv[1] + '/y.npy', np.asarray(y))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = np.asarray(network(image)["logits"])
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
    renewed = load_network(tmp_path / "old.keras")
    assert type(renewed.layers[-1]).__module__ == "keras_meduda.models.blocks"
    np.testing.assert_array_equal(np.asarray(renewed(image)["logits"]), expected)
