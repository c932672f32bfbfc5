"""What an experiment says of the Dice to expect, and that no target label is needed for it."""

import shutil
from dataclasses import replace

import pandas as pd

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.evaluation.confidence import Confidence, promised
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.promise import promise


def test_the_targets_dice_is_predicted_from_held_out_source_cases(phantoms, run, tmp_path):
    cases = km.read_cases(phantoms)
    held = cases.assign(group=cases["case"], domain="camera_a")
    target = without_masks(cases[cases["domain"] == "camera_b"])
    data = Data(run.task, {}, {"target, test": target, "source, test": held}, "phantoms")
    own = replace(run, path=shutil.copytree(run.path, tmp_path / "run"))
    said = promise(data, Options(out=tmp_path), [own])
    written = pd.read_csv(tmp_path / "evaluation" / "predicted_dice.csv")
    again = promised(run, Confidence.load(own.path), target["image"], target["case"])
    pd.testing.assert_frame_equal(written, again, atol=1e-3)
    mean = written.groupby("class")["dice"].mean()
    for name in run.task.classes:
        assert f"{name} {mean[name]:.2f} (" in said
    assert f"means over {len(target)} target images" in said


def test_too_few_patients_promise_nothing(phantoms, run, tmp_path):
    cases = km.read_cases(phantoms)
    held = cases[cases["domain"] == "camera_a"]
    data = Data(run.task, {}, {"target, test": held, "source, test": held}, "phantoms")
    said = promise(data, Options(out=tmp_path), [run])
    assert said.startswith(f"none, as {held['group'].nunique()} patients of the source")
    alone = replace(data, tests={"target, test": held})
    assert promise(alone, Options(out=tmp_path), [run]) is None
    assert not (tmp_path / "evaluation").exists()


def test_a_run_of_one_domain_is_calibrated_on_its_test_cases(phantoms, run, tmp_path):
    cases = km.read_cases(phantoms)
    own = replace(run, path=shutil.copytree(run.path, tmp_path / "run"))
    data = Data(run.task, {}, {"test": cases.assign(group=cases["case"])}, "phantoms")
    said = promise(data, Options(out=tmp_path), [own])
    assert said.startswith("meduda predict --confidence predicts the Dice of new images.")
    assert Confidence.load(own.path).classes == run.task.classes
    few = replace(data, tests={"test": cases.head(3)})
    assert promise(few, Options(out=tmp_path), [own]) is None
