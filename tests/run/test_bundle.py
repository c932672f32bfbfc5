"""A run's card says what it is and how good; its bundle predicts as the run does."""

import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml

import keras_meduda as km
from keras_meduda.evaluation.report import write_evaluation
from keras_meduda.run.bundle import bundle, unpacked
from keras_meduda.run.model_card import model_card, write_model_card


@pytest.fixture
def folder(run, tmp_path):
    """A copy of a run with one evaluation of four cases."""
    folder = shutil.copytree(run.path, tmp_path / "my: run")
    rows = [
        {"case": f"patient_{i}", "group": f"p{i}", "class": name, "dice": 0.5 + i / 10,
         "hd95": 3.0 + i, "prediction_empty": False, "reference_empty": False}
        for i in range(4) for name in ("cup", "disc")
    ]
    write_evaluation(folder, "target_test", pd.DataFrame(rows))
    return folder


def head(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_head_is_what_the_hub_reads(folder):
    card = head(model_card(folder))
    assert card["library_name"] == "keras" and card["pipeline_tag"] == "image-segmentation"
    (model,) = card["model-index"]
    (result,) = model["results"]
    assert model["name"] == "my: run" and result["dataset"]["name"] == "target_test"
    metrics = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert metrics == {"Dice, cup": 0.65, "Dice, disc": 0.65, "HD95, cup": 4.5, "HD95, disc": 4.5}


def test_the_text_names_task_scores_and_intervals(folder):
    text = model_card(folder)
    summary = json.loads((folder / "evaluation/target_test/summary.json").read_text())
    low, high = summary["classes"]["cup"]["dice"]["ci95"]
    assert f"| target_test | 4 | 4 | cup | Dice | 0.65 | {low:.4g} to {high:.4g} |" in text
    assert "Segments cup and disc in pictures" in text and "| disc | 128, 255 |" in text
    assert "no medical device" in text and "patient_0" not in text
    assert "Source: 6 images, with labels. Target: 6 images, without labels" in text
    assert "HD95, px" in text and 'km.load("my: run")' in text


def test_a_run_without_scores_says_so(run):
    text = model_card(run.path)
    assert "Not scored yet" in text and "model-index" not in head(text)


def test_a_card_is_renewed_but_a_person_s_readme_stays(folder):
    first = write_model_card(folder).read_text(encoding="utf-8")
    shutil.rmtree(folder / "evaluation")
    assert write_model_card(folder).read_text(encoding="utf-8") != first
    (folder / "README.md").write_text("My notes")
    assert write_model_card(folder).read_text() == "My notes"
    with pytest.raises(FileNotFoundError, match="config.json"):
        write_model_card(folder / "evaluation")


def test_a_bundle_predicts_as_its_run_and_names_no_case(folder, run, tmp_path):
    path = bundle(folder, tmp_path / "out" / "run.zip")
    names = zipfile.ZipFile(path).namelist()
    assert names == ["README.md", "config.json", "network.keras",
                     "evaluation/target_test/summary.json"]
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype("uint8")
    with unpacked(path) as inside:
        loaded = km.load(inside)
    np.testing.assert_array_equal(km.predict(loaded, image), km.predict(run, image))
    with unpacked(folder) as same:
        assert same == folder


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda d: bundle(d / "no", d / "a.zip"), FileNotFoundError, "expected a finished run"),
    (lambda d: bundle(d / "run", d / "a.tar"), ValueError, "ends in .zip"),
])
def test_what_cannot_be_packed_is_named(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"Dear reader"])
def test_what_is_no_bundle_is_named(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match="a.zip: expected a whole bundle"), unpacked(
        tmp_path / "a.zip"
    ):
        pass
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as other:
        other.writestr("../../config.json", "{}")
    with pytest.raises(ValueError, match="config.json', 'network.keras'. missing"), unpacked(
        tmp_path / "b.zip"
    ):
        pass


def test_a_bundle_loads_and_predicts_as_its_folder(run, phantoms, tmp_path):
    image = km.read_cases(phantoms)["image"].iloc[0]
    packed = km.load(bundle(run.path, tmp_path / "run.zip"))
    np.testing.assert_array_equal(km.predict(packed, image), km.predict(run, image))
