"""`meduda evaluate`, `export` and `predict` of a trained run: what they leave, and mistakes."""

import shutil

import pytest

import keras_meduda as km
from keras_meduda.data.cases import write_cases


def test_evaluate_prints_and_keeps_the_scores(run, phantoms, tmp_path, meduda):
    copy = shutil.copytree(run.path, tmp_path / "run")
    words = ("--run", copy, "--cases", phantoms, "--domain", "camera_b")
    code, out, error = meduda("evaluate", *words)
    assert code == 0, error
    assert "cup" in out and "HD95, px" in out and "MedPy" in out
    folder = copy / "evaluation" / "cases_camera_b"
    assert {p.name for p in folder.iterdir()} == {"cases.csv", "summary.json", "report.html"}


def test_export_says_how_near_it_is(run, tmp_path, meduda):
    code, out, error = meduda("export", "--run", run.path, "--out", tmp_path / "model" / "1")
    assert code == 0 and "saved_model_cli show" in out and "largest difference" in out, error
    assert (tmp_path / "model" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict --run {tmp} --images {cases}", "expected a run folder"),
        ("predict --run {run} --images {tmp}/no.png", "no such file or folder"),
        ("predict --run {run} --images {tmp}/empty", "no image files found"),
        ("predict --run {run} --images", "--images: expected one value or more"),
        ("predict --run {run} --images {cases} --flips Z", "expected distinct"),
        ("evaluate --run {run} --cases {unlabelled}", "no mask to compare with"),
        ("evaluate --run {run} --cases {cases} --name a/b", "the plain name"),
        (
            "evaluate --run {run} --cases {cases} --split val",
            "no case of split 'val'; there are ['test', 'train']",
        ),
        ("export --run {run} --out {tmp}/empty", "exists; choose another"),
        ("export --run {run} --out {tmp}/a.onnx --warm-up 8 8", "--warm-up is for a SavedModel"),
    ],
)
def test_a_mistake_is_named(run, phantoms, tmp_path, meduda, words, message):
    (tmp_path / "empty").mkdir()
    write_cases(km.read_cases(phantoms).assign(mask=""), unlabelled := tmp_path / "unlabelled.csv")
    names = {"cases": phantoms, "unlabelled": unlabelled, "tmp": tmp_path, "run": run.path}
    code, _, error = meduda(*words.format(**names).split())
    assert code == 2 and message in " ".join(error.split())
