"""The networks in `weights/` are the ones that the manifest describes."""

import json
import shutil

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.released import FOLDER

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
