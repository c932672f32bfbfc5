"""Classes that exclude each other: background is in no score, and no class is another."""

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import write_picture
from keras_meduda.evaluation import validation
from keras_meduda.evaluation.label_free import label_free
from keras_meduda.run import Run


class Saying(Run):
    """Surely says the labels 0, 1, 2 that an image shows as black, grey and white."""

    def probabilities(self, x):
        return np.eye(3, dtype="float32")[np.rint(2 * np.asarray(x)[..., 0]).astype(int)]


class Unsure(Run):
    """Says that all classes are as likely, which makes background of everything."""

    def probabilities(self, x):
        return np.full((*x.shape[:-1], 3), 1 / 3, "float32")


@pytest.fixture
def cases(tmp_path):
    """A blank case, then one with all classes; images show their masks."""
    labels = np.random.default_rng(0).integers(0, 3, (16, 16)).astype("uint8")
    rows = []
    for i, mask in enumerate((0 * labels, labels)):
        image = write_picture(tmp_path / f"{i}.png", (127.5 * mask).astype("uint8"))
        file = write_picture(tmp_path / f"m{i}.png", mask)
        rows.append({"case": i, "image": image, "mask": file})
    return case_table(rows)


def parts(tmp_path):
    task = km.Task(("a", "b"), values={"a": (1,), "b": (2,)})
    preprocessing = km.Preprocessing((16, 16), normalise="zero_one", channels=1)
    return tmp_path, km.models.AERUNet((16, 16, 1), 3, filters=(4, 8)), task, preprocessing


def test_classes_are_scored_apart(cases, tmp_path):
    seen = []
    frame = km.evaluate(Saying(*parts(tmp_path)), cases, observe=lambda *pr: seen.append(pr))
    assert (frame["dice"] == 1).all()
    assert frame["reference_empty"].tolist() == [True, True, False, False]
    for p, reference in seen:
        np.testing.assert_array_equal(p, reference)


@pytest.mark.parametrize(("says", "dice"), [(Saying, 1.0), (Unsure, 0.5)])
def test_validation_leaves_out_background_and_counts_empty_masks(
    cases, tmp_path, monkeypatch, says, dice
):
    monkeypatch.setattr(validation, "Run", says)
    _, network, task, preprocessing = parts(tmp_path)
    assert validation.mean_dice(cases, task, preprocessing)(network)["dice"] == dice


def test_disagreement_is_with_the_first_run_and_entropy_of_the_last(cases, tmp_path):
    runs = {"source_only": Unsure(*parts(tmp_path)), "adapted": Saying(*parts(tmp_path))}
    table = label_free(runs, cases)
    assert table["disagreement"].tolist() == [0, 0, 1, 1] and (table["entropy"] < 1e-6).all()
