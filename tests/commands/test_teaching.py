"""`meduda boxes`, `teach` and `detect`: from masks to boxes to a teacher's targets."""

import pandas as pd
import pytest

from keras_meduda.data.phantoms import write_brain, write_brain_slices
from keras_meduda.data.roi import read_boxes
from keras_meduda.teachers.targets import open_targets, read_target


@pytest.fixture
def table(tmp_path):
    """Twenty slices, three of them of a patient without a tumour."""
    return write_brain_slices(tmp_path / "brain", cases=20, size=64)


def test_boxes_and_teacher_are_wrong_together(table, tmp_path, meduda):
    """Before an image is encoded everything is told, also to who distils."""
    bad, text = tmp_path / "bad.csv", tmp_path / "text.onnx"
    bad.write_text(f"case,x0,y0,x1,y1\n{pd.read_csv(table)['case'][0]},1,1,900,9\n")
    text.write_text("no ONNX")
    words = ("--cases", table, "--boxes", bad, "--teacher", "sam")
    for command in ("teach", "distil"):
        files = ("--encoder", text, "--decoder", text, "--out", tmp_path / command)
        code, _, error = meduda(command, *words, *files)
        assert code == 2 and "bad.csv: found the box 1 1 900 9" in error, error
        assert "text.onnx: found no ONNX that can be loaded" in error
        assert not (tmp_path / command).exists()


def test_every_image_without_a_box_is_named_before_the_teacher_begins(table, tmp_path, meduda):
    cases = pd.read_csv(table)
    (boxes := tmp_path / "one.csv").write_text(f"case,x0,y0,x1,y1\n{cases['case'][0]},9,9,30,30\n")
    _, _, error = meduda("teach", "--cases", table, "--boxes", boxes, "--out", tmp_path / "t.csv")
    for image in cases["image"][1:]:
        assert f"{image}: no box" in error
    assert f"{cases['image'][0]}: no box" not in error


def test_boxes_lead_to_targets_that_a_second_start_keeps(table, tmp_path, meduda):
    _, out, _ = meduda("boxes", "--cases", table, "--jitter", 2, "--out", tmp_path / "boxes")
    assert "17 boxes" in out and "3 of 20 cases without" in out
    boxes = tmp_path / "boxes" / "boxes.csv"
    words = ("teach", "--cases", table, "--boxes", boxes, "--out", tmp_path / "t.csv")
    code, first, _ = meduda(*words)
    assert code == 0 and "17 of 20 cases taught by grabcut" in first and "at most" in first
    assert "3 without a target, skipped in training: no box: brain_" in first
    boxed = set(read_boxes(boxes)["case"])
    targets = open_targets(tmp_path / "t.csv")
    for case in pd.read_csv(table)["case"]:
        assert (read_target(targets, case) is not None) == (case in boxed)
    _, again, _ = meduda(*words)
    assert "at most" not in again and "17 of 20 cases taught" in again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("teach --cases {table}", "expected --boxes FILE"),
        ("teach --cases {table} --boxes {bad}", "0 ≤ x0 < x1 ≤ 64"),
        ("teach --cases {table} --teacher network", "expected --weights RUN"),
        ("teach --cases {table} --boxes {bad} --draws -2", "--draws -2: expected 0 or more"),
        ("teach --cases {table} --teacher network --draws 8", "does without; expected no --draws"),
        ("teach --cases {table} --boxes {bad} --decoder {bad}", "the others have none"),
        ("teach --cases {table} --boxes {bad} --weights a.pt", "grabcut has no weights"),
        ("teach --cases {table} --boxes {bad} --device 0", "grabcut takes no --device"),
        ("teach --cases nowhere.csv --boxes {bad}", "no such file"),
        ("teach --cases {none} --teacher network", "none.csv: found a header and no case below"),
        ("teach --cases {table} --out {bad}", "a table of targets"),
        ("teach --cases {volumes} --teacher network", "teaches pictures alone; received"),
        ("detect predict --cases {volumes} --weights none.pt", "YOLO detector sees pictures alone"),
        ("boxes --cases {tmp}/empty", "found an empty folder, expected image files"),
        ("boxes --cases {table} --out {tmp}/drawn", "boxes.csv is there"),
        ("boxes --cases {table} --split val", "no case of split 'val'"),
        (
            "detect predict --cases {table} --weights none.pt",
            "none.pt: no such weights|pip install 'keras-meduda[teacher]'",
        ),
    ],
)
def test_a_mistake_is_named_and_writes_over_nothing(table, tmp_path, meduda, words, message):
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.csv"
    bad.write_text(f"case,x0,y0,x1,y1\n{pd.read_csv(table)['case'][0]},1,1,900,9\n")
    (none := tmp_path / "none.csv").write_text("case,image\n")
    volumes = write_brain(tmp_path / "brains", 1, (16, 18, 14), domains=["flair"])
    (drawn := tmp_path / "drawn").mkdir()
    (drawn / "boxes.csv").write_text("by hand")
    out = "" if "--out" in words else " --out {tmp}/out.csv"
    places = {"table": table, "bad": bad, "none": none, "volumes": volumes, "tmp": tmp_path}
    words = (words + out).format(**places).split()
    code, _, error = meduda(*words)
    assert code == 2 and any(part in error for part in message.split("|")), error
    assert (drawn / "boxes.csv").read_text() == "by hand" and bad.read_text().startswith("case")
