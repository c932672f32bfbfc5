"""What `meduda predict` does without labels: the target's statistics, and a predicted Dice."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_meduda as km
from keras_meduda.evaluation.adjust import adjusted
from keras_meduda.evaluation.confidence import calibrate
from keras_meduda.evaluation.target_statistics import with_target_statistics
from keras_meduda.experiment.guarding import kept


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run.path, tmp_path / "run")


def test_confidence_is_a_row_a_case_and_class_with_the_lowest_first(
    folder, phantoms, tmp_path, meduda
):
    cases, out = km.read_cases(phantoms), tmp_path / "masks"
    words = ("predict", "--run", folder, "--images", phantoms, "--confidence", "--out", out)
    code, _, error = meduda(*words)
    assert code == 2 and "was not calibrated" in error and not list(out.glob("*.png"))
    calibrate(km.load(folder), cases)
    code, said, error = meduda(*words)
    assert code == 0 and "Look at these first" in said, error
    table = pd.read_csv(out / "confidence.csv")
    assert len(table) == 2 * len(cases) and set(table["class"]) == {"cup", "disc"}
    assert table["dice"].is_monotonic_increasing and table["dice"].between(0, 1).all()
    assert (table["low"] <= table["dice"]).all() and (table["dice"] <= table["high"]).all()


def test_the_targets_statistics_are_those_of_the_images_that_are_predicted(
    folder, phantoms, tmp_path, meduda
):
    image, out = km.read_cases(phantoms)["image"].iloc[0], tmp_path / "masks"
    code, _, error = meduda(
        "predict", "--run", folder, "--images", image, "--adapt-statistics", "--out", out
    )
    assert code == 0, error
    run = with_target_statistics(km.load(folder), [image])
    (file,) = out.glob("*.png")
    expected = run.task.decode(run.task.masks(km.predict(run, image)))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), expected)


@pytest.mark.parametrize("more", [("--adapt-statistics",), ("--flips", "X")])
def test_confidence_is_of_the_network_that_was_calibrated(folder, phantoms, tmp_path, meduda, more):
    words = ("predict", "--run", folder, "--images", phantoms, "--confidence", *more)
    code, _, error = meduda(*words, "--out", tmp_path / "out")
    assert code == 2 and "calibrated without them" in error


def test_votes_have_no_confidence_of_their_own(folder, phantoms, tmp_path, meduda):
    code, _, error = meduda(
        "predict", "--run", folder, folder, "--images", phantoms, "--confidence"
    )
    assert code == 2 and "of a single run" in error


def test_a_temperature_makes_an_overconfident_run_believable(run, phantoms, tmp_path, meduda):
    cases, out = km.read_cases(phantoms), tmp_path / "tempered"
    bold = kept(adjusted(run, temperature=0.1), tmp_path / "bold", run, {})
    code, said, error = meduda("temper", "--run", bold.path, "--cases", phantoms, "--out", out)
    assert code == 0 and f"fitted on {len(cases)} cases" in said, error
    assert "reliability.html" in said and "<svg" in (out / "reliability.html").read_text()
    inputs = np.random.default_rng(0).normal(size=(2, *run.preprocessing.size, 3)).astype("float32")
    first, last = (r.task.masks(r.probabilities(inputs)) for r in (bold, km.load(out)))
    assert first.any() and not first.all()
    np.testing.assert_array_equal(first, last)
    assert "Predicted Dice is calibrated on them" in said
    code, _, error = meduda(
        "predict", "--run", out, "--images", phantoms, "--confidence", "--out", tmp_path / "masks"
    )
    assert code == 0 and (tmp_path / "masks" / "confidence.csv").exists(), error
    errors = re.findall(r"(\w+), (before|after): calibration error ([\d.]+)", said)
    before, after = (
        sum(float(value) for _, when, value in errors if when == word)
        for word in ("before", "after")
    )
    assert 0 < after < before


def test_a_bundle_is_tempered_as_its_run_is(run, phantoms, tmp_path, meduda):
    packed = tmp_path / "run.zip"
    assert meduda("bundle", "--run", run.path, "--out", packed)[0] == 0
    words = ("temper", "--cases", phantoms, "--out")
    for source, out in ((packed, "a"), (run.path, "b")):
        code, _, error = meduda(*words, tmp_path / out, "--run", source)
        assert code == 0, error
    one, other = (km.load(tmp_path / name).network.get_weights() for name in "ab")
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "none"), "no case of split 'none'"),
        (("--out", "{run}"), "holds a network already"),
    ],
)
def test_a_temperature_is_refused_before_the_network_is_loaded(
    folder, phantoms, tmp_path, meduda, more, message
):
    words = ["temper", "--run", folder, "--cases", phantoms, "--out", tmp_path / "out"]
    code, _, error = meduda(*words, *(word.format(run=folder) for word in more))
    assert code == 2 and message in error
    assert not (tmp_path / "out").exists()
