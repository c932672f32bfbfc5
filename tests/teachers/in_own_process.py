"""SAM2 and YOLO as they are, with random weights; run by test_ultralytics.py in its own process.

Random weights show shapes, geometry, and that every call exists. They cannot show that a mask is
any good, nor that a detector finds a tumour.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ultralytics.models.sam.build import build_sam2_t

from keras_meduda.data.cases import read_cases
from keras_meduda.data.phantoms import write_brain_slices
from keras_meduda.data.roi import read_boxes
from keras_meduda.teachers._ultralytics import weights_file
from keras_meduda.teachers.boxes import boxes_by_case
from keras_meduda.teachers.sam2 import predictor, teacher_of
from keras_meduda.teachers.yolo import detect

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZE = 256  # of the letter-boxed image; 1024 is the same with sixteen times the work
BOXES = np.array([[20, 10, 60, 40], [5, 5, 15, 50]], "float32")


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return predictor("sam2_t.pt", "cpu", SIZE, model=build_sam2_t())


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 1)).astype("uint8")


def test_sam2_gives_soft_masks_and_an_embedding_of_the_image(sam, image):
    target = teacher_of(sam, "random").teach(image, BOXES)
    assert target.probability.shape == (60, 90)
    assert 0 <= target.probability.min() < target.probability.max() <= 1
    assert len(np.unique(target.probability)) > 100  # soft
    assert target.embedding.shape == (11, 16, 256)  # 16 · 60/90 rows hold the image
    assert target.quality.shape == (2,) and 0 < target.variance <= 0.25


def test_sam2_is_shown_every_box_where_it_is(sam, image, monkeypatch):
    """The decoder is replaced by one that draws the prompt into its letter-boxed grid."""

    def draw(features, points, labels, masks):
        logits = torch.full((len(points), SIZE // 4, SIZE // 4), -20.0)
        for logit, corners in zip(logits, points / 4, strict=True):
            (x0, y0), (x1, y1) = corners.round().int().tolist()
            logit[y0:y1, x0:x1] = 20.0
        assert labels.tolist() == [[2, 3]] * len(points)
        return logits, torch.ones(len(points))

    monkeypatch.setattr(sam, "_inference_features", draw)
    found = teacher_of(sam, "drawn").teach(image, BOXES).probability > 0.5
    expected = np.zeros_like(found)
    for x0, y0, x1, y1 in BOXES.astype(int):
        expected[y0:y1, x0:x1] = True
    rows, columns = np.nonzero(found != expected)
    assert len(rows) < 0.1 * expected.sum()
    for y, x in zip(rows, columns, strict=True):  # only along the edges
        assert 0 < expected[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean() < 1


def test_sam2_without_the_private_call_gives_boolean_masks(sam, image, capsys):
    class Public:
        """The predictor without what ultralytics does not promise to keep."""

        set_image, inference_features = sam.set_image, sam.inference_features
        features = property(lambda self: sam.features)

    target = teacher_of(Public(), "random").teach(image, BOXES)
    assert set(np.unique(target.probability)) <= {0, 1} and target.probability.shape == (60, 90)
    assert target.embedding.shape == (11, 16, 256) and target.quality.shape == (2,)
    assert "taking boolean ones" in capsys.readouterr().out


def test_weights_that_are_nowhere_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"Fetch missing.pt .* put it at {tmp_path}"):
        weights_file("missing.pt")


def run(script, *flags):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, flags)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_yolo_learns_and_its_boxes_lie_in_the_images(tmp_path):
    table = write_brain_slices(tmp_path / "phantoms", cases=20, size=64)
    run("prepare_boxes.py", "--cases", table, "--out", tmp_path / "boxes")
    data, weights = tmp_path / "boxes/yolo/data.yaml", tmp_path / "detector/detector.pt"
    run(
        *("detect_boxes.py", "train", "--data", data, "--out", tmp_path / "detector"),
        *("--epochs", 6, "--size", 64, "--batch", 4, "--device", "cpu"),
    )
    history = pd.read_csv(tmp_path / "detector/results.csv")
    history.columns = history.columns.str.strip()
    loss = history["train/cls_loss"]  # that of boxes starts at 0: no box is near a tumour yet
    assert len(loss) == 6 and loss.iloc[-2:].min() < loss.iloc[0]
    run(
        *("detect_boxes.py", "predict", "--weights", weights, "--cases", table, "--size", 64),
        *("--confidence", 1e-4, "--out", tmp_path / "found.csv", "--device", "cpu"),
    )
    boxes = read_boxes(tmp_path / "found.csv")
    assert len(boxes) and boxes["score"].between(0, 1).all()
    boxes_by_case(boxes, read_cases(table))


def test_a_detector_of_several_classes_is_refused(tmp_path):
    """Every one of them would prompt the teacher as a tumour."""
    from ultralytics import YOLO

    YOLO("yolo11n.yaml").save(tmp_path / "several.pt")
    cases = read_cases(write_brain_slices(tmp_path / "phantoms", cases=2, size=64))
    with pytest.raises(ValueError, match=r"several.pt: a detector of 80 classes \(0, 1, "):
        detect(cases, tmp_path / "several.pt")
