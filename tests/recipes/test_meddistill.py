"""`recipes/meddistill.py`: GrabCut from boxes to a student, a second start, and two workers."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.boxes import read_boxes
from keras_meduda.data.cases import read_cases, without_masks, write_cases
from keras_meduda.data.phantoms import write_brain, write_brain_slices
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.recipes import meddistill
from keras_meduda.task import Task
from keras_meduda.teachers.boxes import (
    CORNERS_3D,
    boxes_from_masks,
    boxes_from_probabilities,
    write_boxes,
)
from keras_meduda.teachers.targets import open_targets, read_target

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "steps"),
    [({"cases": True}, 1500), ({}, 300), ({"cases": True, "steps": 7}, 7), ({"smoke": True}, 12)],
)
def test_a_student_of_real_images_is_no_smoke_test(table, tmp_path, words, steps):
    words = {**words, "cases": table} if "cases" in words else words
    flags = meddistill.Flags(out=tmp_path, **words)
    assert meddistill.recipe(flags, meddistill.data(flags)).steps == steps


@pytest.fixture
def table(tmp_path):
    """Twenty slices, three of them of a patient without a tumour."""
    return write_brain_slices(tmp_path / "brain", cases=20, size=64)


@pytest.fixture
def boxes(table, tmp_path):
    """A box table of the slices."""
    task = Task(("tumour",), True, {"tumour": (1, 255)})
    write_boxes(boxes_from_masks(read_cases(table), task), tmp_path / "boxes.csv")
    return tmp_path / "boxes.csv"


def test_the_whole_way_from_boxes_and_a_second_start(table, boxes, tmp_path, meduda):
    out = tmp_path / "out"
    words = ("distil", "--smoke", "--cases", table, "--boxes", boxes, "--legacy", "--out", out)
    code, said, error = meduda(*words)
    assert code == 0, error
    assert "As the original scores: dice" in said and "no feature term" in said
    assert re.search(r"Student: \d+ ms an image, .* [\d,]+ parameters, [\d.]+ MB\.", said)
    assert re.search(r"Teacher grabcut: \d+ ms an image, .*; it has no weights\.", said)
    page = (out / "report.html").read_text()
    shown = re.findall(r"<option [^>]*>(teacher|student|reference)<", page)
    assert shown[:3] == ["teacher", "student", "reference"]
    history = pd.read_csv(out / "history.csv")
    assert {"mask_bce", "weight_mask_bce", "variance"} <= set(history)
    assert {"teacher", "student"} <= {path.name for path in (out / "evaluation").iterdir()}
    code, _, error = meduda(*words, "--ulwr", "kendall")
    assert code == 2 and "ulwr: original there, kendall now" in error
    frame = read_boxes(boxes)
    write_boxes(frame.assign(x1=frame["x1"] - 1), boxes)
    code, _, error = meduda(*words)
    assert code == 2 and "holds a run with other settings (data.target" in error


def test_a_student_with_an_encoder_of_keras(table, boxes, tmp_path, meduda):
    words = ("--cases", table, "--boxes", boxes, "--backbone", "mobilenetv2", "--oracle")
    code, _, error = meduda("distil", "--smoke", *words, "--out", tmp_path / "out")
    assert code == 0, error
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["preprocessing"]["normalise"] == "minus1_1"


def test_boxes_of_another_form_prompt_the_same(table, boxes, tmp_path, meduda):
    frame, size = read_boxes(boxes), 64
    width, height = frame["x1"] - frame["x0"], frame["y1"] - frame["y0"]
    yolo = pd.DataFrame({
        "case": frame["case"], "xc": frame["x0"] + width / 2, "yc": frame["y0"] + height / 2,
        "width": width, "height": height,
    }).set_index("case") / size  # fmt: skip
    yolo.to_csv(tmp_path / "yolo.csv")
    words = ("distil", "--smoke", "--steps", 1, "--cases", table, "--boxes")
    other = (tmp_path / "yolo.csv", "--box-form", "centre", "--box-unit", "share")
    for name, given in {"corners": (boxes,), "centre": other}.items():
        code, _, error = meduda(*words, *given, "--out", tmp_path / name)
        assert code == 0, error
    paths = (tmp_path / name / "teaching" / "targets.csv" for name in ("corners", "centre"))
    tables = map(pd.read_csv, paths)
    pd.testing.assert_frame_equal(*(t.drop(columns="target", errors="ignore") for t in tables))
    code, _, error = meduda(*words, tmp_path / "yolo.csv", "--box-form", "centre")
    assert code == 2 and "shares of the image's width and height are --box-unit share" in error


def test_without_masks_a_student_is_trained_and_not_scored(table, boxes, tmp_path, meduda):
    write_cases(without_masks(read_cases(table)), unlabelled := tmp_path / "unlabelled.csv")
    out = tmp_path / "out"
    words = ("--smoke", "--cases", unlabelled, "--boxes", boxes, "--out", out)
    code, said, error = meduda("distil", *words)
    assert code == 0, error
    assert "no labels in its test part, so no accuracy can be given" in said
    assert not (out / "evaluation").exists() and (out / "report.html").exists()


def test_of_several_workers_one_prepares(tmp_path):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for free in sockets:
            free.bind(("localhost", 0))
        addresses = [f"localhost:{free.getsockname()[1]}" for free in sockets]
    command = [sys.executable, "-m", "keras_meduda", "distil", "--smoke", "--teacher", "network"]
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        workers.append(
            subprocess.Popen(
                [*command, "--strategy", "multiworker", "--out", tmp_path],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TF_CONFIG": config},
            )
        )
    texts = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(texts)
    assert ["taught by network" in text for text in texts] == [True, False]
    assert ["report: " in text for text in texts] == [True, False]


def test_a_student_learns_from_targets_that_know_what_they_do_not_know(table, tmp_path, meduda):
    """Moved boxes leave doubt in the targets, and labelled cases their temperature."""
    words = ("distil", "--smoke", "--cases", table, "--draws", 3, "--calibrate")
    code, said, error = meduda(*words, "--out", tmp_path / "out")
    assert code == 0, error
    targets = open_targets(tmp_path / "out" / "teaching" / "targets.csv")
    (temperature,) = set(targets["temperature"])
    assert temperature != 1 and f"temperature {temperature:g}" in said
    taught = targets.index[targets["status"] == "done"]
    assert all(read_target(targets, case).doubt.any() for case in taught)
    assert list((tmp_path / "out" / "prepared").glob("*.weight"))


def test_volumes_teach_a_student_that_opens_no_mask(tmp_path, meduda):
    """Files that cannot be read take the place of the train cases' masks, once boxes are drawn."""
    table = write_brain(tmp_path / "brains", 6, (24, 28, 20), domains=["flair"])
    boxes, out = tmp_path / "boxes" / "boxes.csv", tmp_path / "out"
    code, said, error = meduda("boxes", "--cases", table, "--jitter", 1, "--out", boxes.parent)
    assert code == 0 and "no YOLO data" in said, error
    assert set(CORNERS_3D) <= set(read_boxes(boxes))
    cases = read_cases(table)
    for mask in cases["mask"][cases["split"] == "train"]:
        Path(mask).write_bytes(b"not an image")
    words = ("distil", "--smoke", "--cases", table, "--boxes", boxes, "--out", out)
    code, said, error = meduda(*words)
    assert code == 0, error
    assert "the teacher's targets: 4 of 4 cases" in said
    run = km.load(out)
    assert run.network.name == "aerunet" and run.window.size == (16, 16, 16)
    targets = open_targets(out / "teaching" / "targets.csv")
    assert read_target(targets, cases["case"][0]).probability.shape == (24, 28, 20)
    page = (out / "report.html").read_text()
    shown = re.findall(r"<option [^>]*>(teacher|student|reference)<", page)
    assert shown[:3] == ["teacher", "student", "reference"]
    scores = [pd.read_csv(out / "evaluation" / who / "cases.csv") for who in ("teacher", "student")]
    assert all(set(frame["case"]) == {"flair_004", "flair_005"} for frame in scores)
    history = (out / "history.csv").read_text()
    code, _, error = meduda(*words)
    assert code == 0 and (out / "history.csv").read_text() == history, "all is there already"


def test_a_student_gives_the_boxes_of_a_second_round(table, boxes, tmp_path, meduda):
    words = ("--cases", table, "--size", 32, "--filters", 4, 8, 16, "--learning-rate", 0.01)
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, error = meduda("distil", *words, "--boxes", boxes, "--steps", 80, "--out", first)
    assert code == 0, error
    code, _, error = meduda("distil", *words, "--detector", first, "--steps", 1, "--out", second)
    assert code == 0, error
    run, cases = km.load(first), read_cases(table)
    own = boxes_from_probabilities(cases, predict_all(run, list(cases["image"])), run.task)
    found = read_boxes(second / "teaching" / "boxes.csv")
    pd.testing.assert_frame_equal(found, own, check_dtype=False, atol=0.011)
    code, _, error = meduda("distil", *words, "--detector", first, "--out", first)
    assert code == 2 and "expected another folder for a second round" in error
