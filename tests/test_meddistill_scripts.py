"""The scripts of MedDistill as a user runs them, on phantoms."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from keras_meduda.data.phantoms import write_brain_slices
from keras_meduda.data.roi import read_boxes
from keras_meduda.teachers.targets import open_targets, read_target

SCRIPTS = Path(__file__).parents[1] / "scripts"


def call(name, *flags):
    command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )


def run(name, *flags):
    done = call(name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty slices, three of them of a patient without a tumour."""
    return write_brain_slices(tmp_path_factory.mktemp("brain"), cases=20, size=64)


@pytest.fixture(scope="module")
def boxes(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    out = run("prepare_boxes", "--cases", table, "--jitter", 2, "--out", folder)
    assert "17 boxes" in out and "3 of 20 cases without" in out
    return folder / "boxes.csv"


def test_boxes_lead_to_targets_that_a_second_start_keeps(table, boxes, tmp_path):
    flags = ("--cases", table, "--boxes", boxes, "--out", tmp_path / "t.h5")
    first = run("make_teacher_targets", *flags)
    assert "17 of 20 cases taught by grabcut" in first and "at most" in first
    assert "3 without a target, skipped in training: no box: brain_" in first
    boxed = set(read_boxes(boxes)["case"])
    with open_targets(tmp_path / "t.h5") as file:
        for case in pd.read_csv(table)["case"]:
            assert (read_target(file, case) is not None) == (case in boxed)
    again = run("make_teacher_targets", *flags)
    assert "at most" not in again and "17 of 20 cases taught" in again


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("make_teacher_targets", ["--cases", "{table}"], "expected --boxes FILE"),
        ("make_teacher_targets", ["--cases", "{table}", "--boxes", "{bad}"], "0 ≤ x0 < x1 ≤ 64"),
        (
            "make_teacher_targets",
            ["--cases", "{table}", "--teacher", "network"],
            "expected --weights RUN",
        ),
        ("make_teacher_targets", ["--cases", "nowhere.csv", "--boxes", "{bad}"], "no such file"),
        ("prepare_boxes", ["--cases", "{folder}"], "found an empty folder, expected image files"),
        (
            "detect_boxes",
            ["predict", "--cases", "{table}", "--weights", "none.pt"],
            "none.pt: no such weights|pip install 'keras-meduda[teacher]'",
        ),
    ],
)
def test_a_mistake_is_named_without_a_traceback(table, tmp_path, name, flags, message):
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.csv"
    bad.write_text(f"case,x0,y0,x1,y1\n{pd.read_csv(table)['case'][0]},1,1,900,9\n")
    places = {"table": table, "bad": bad, "folder": tmp_path / "empty"}
    out = ["--out", str(tmp_path / "out")]
    done = call(name, *(flag.format(**places) for flag in flags), *out)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr


@pytest.mark.slow
def test_the_whole_way_and_a_second_start(tmp_path):
    flags = ("--smoke", "--oracle", "--legacy", "--supervised", "--out", tmp_path)
    first = run("train_meddistill", *flags)
    assert "student / oracle" in first and "as the original scores: dice" in first
    assert "no feature term" in first
    history = pd.read_csv(tmp_path / "history.csv")
    assert {"mask_bce", "segmentation", "weight_mask_bce", "variance"} <= set(history)
    scores = tmp_path / "evaluation" / "student" / "cases.csv"
    before = scores.read_text()
    second = run("train_meddistill", *flags)
    assert "step 12/12" not in second and scores.read_text() == before
    other = call("train_meddistill", *flags, "--ulwr", "kendall")
    assert other.returncode == 2 and "ulwr: original there, kendall now" in other.stderr


@pytest.mark.slow
def test_a_network_as_teacher_turns_the_feature_term_on(tmp_path):
    out = run("train_meddistill", "--smoke", "--teacher", "network", "--out", tmp_path)
    assert "taught by network" in out and "no feature term" not in out
    history = pd.read_csv(tmp_path / "history.csv")
    assert {"feature", "weight_feature"} <= set(history)
