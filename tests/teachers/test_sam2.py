"""What of the SAM2 and YOLO side needs no PyTorch: geometry, and what a user is told."""

import sys
import types

import numpy as np
import pytest

from keras_meduda.teachers import sam2, yolo
from keras_meduda.teachers.letter_box import undo_letter_box
from keras_meduda.teachers.targets import merge


def letter_boxed(image, size):
    """An image at the top left of a square, as SAM2 is shown it."""
    scale = size / max(image.shape)
    rows, columns = (round(n * scale) for n in image.shape)
    y = np.clip(((np.arange(rows) + 0.5) / scale).astype(int), 0, image.shape[0] - 1)
    x = np.clip(((np.arange(columns) + 0.5) / scale).astype(int), 0, image.shape[1] - 1)
    square = np.zeros((size, size))
    square[:rows, :columns] = image[np.ix_(y, x)]
    return square


@pytest.mark.parametrize("shape", [(256, 256), (300, 512), (512, 300), (61, 97), (33, 257)])
def test_a_box_drawn_in_the_letter_box_comes_back_where_it_was(shape):
    box = np.zeros(shape)
    top, left = shape[0] // 4, shape[1] // 3
    box[top : top + shape[0] // 3, left : left + shape[1] // 2] = 1
    back = merge(undo_letter_box(letter_boxed(box, 256), shape)[None], [1], shape).probability
    wrong = (back > 0.5) != (box > 0)
    edge = 2 * (shape[0] // 3 + shape[1] // 2) * max(1, max(shape) / 256)
    assert wrong.sum() <= 0.5 * edge
    assert wrong[top + 2 : top + 4, left + 2 : left + 4].sum() == 0


def test_boolean_masks_are_for_an_ultralytics_without_the_private_calls_alone(capsys):
    def prepare(dst_shape, src_shape, bboxes=None):
        raise ValueError("of the box, not of the version")

    def infer(features, points=None, labels=None, masks=None):
        pass

    fits = types.SimpleNamespace(_prepare_prompts=prepare, _inference_features=infer)
    assert sam2._has_private_calls(fits) and not capsys.readouterr().out
    changed = types.SimpleNamespace(_prepare_prompts=prepare, _inference_features=lambda x: x)
    for other in (changed, types.SimpleNamespace()):
        assert not sam2._has_private_calls(other)
        assert capsys.readouterr().out.count("taking boolean ones") == 1


def test_whatever_changes_the_masks_changes_the_version(monkeypatch, tmp_path):
    """By which stored targets are taken for current."""
    (tmp_path / "sam2_t.pt").write_text("weights")
    calls = {"_prepare_prompts": lambda dst, src, bboxes=None: None}
    calls["_inference_features"] = lambda features, points, labels, masks: None

    def version(size=1024, release="8.4.0", calls=calls):
        monkeypatch.setattr(
            sam2, "load_ultralytics", lambda: types.SimpleNamespace(__version__=release)
        )
        monkeypatch.setattr(sam2, "predictor", lambda *_: types.SimpleNamespace(**calls))
        return sam2.sam2(tmp_path / "sam2_t.pt", size=size).version

    versions = {version(), version(512), version(release="8.5.0"), version(calls={})}
    assert len(versions) == 4 and version() in versions


def test_an_interrupted_detector_is_not_taken_for_a_finished_one(monkeypatch, tmp_path):
    """ultralytics has written weights/best.pt by then."""
    (tmp_path / "data.yaml").touch()
    ends = [None, KeyboardInterrupt]

    class YOLO:
        def __init__(self, model):
            pass

        def train(self, project, name, **_):
            weights = tmp_path / "detector" / "weights" / "best.pt"
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.write_text("best so far")
            if end := ends.pop(0):
                raise end

    monkeypatch.setitem(sys.modules, "ultralytics", types.SimpleNamespace(YOLO=YOLO))
    finished = yolo.train(tmp_path / "data.yaml", tmp_path / "detector")
    assert finished.read_text() == "best so far"
    with pytest.raises(KeyboardInterrupt):
        yolo.train(tmp_path / "data.yaml", tmp_path / "detector")
    assert not finished.exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda: sam2.sam2("sam2_t.pt"),
        lambda: yolo.train("data.yaml", "out"),
        lambda: yolo.detect(__import__("pandas").DataFrame({"case": []}), "best.pt"),
    ],
)
def test_a_missing_ultralytics_says_how_to_get_it(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-meduda\[teacher\]'.*GrabCut"):
        call()
