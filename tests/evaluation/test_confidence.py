"""Predicted Dice: right on average, its intervals as wide as they say, empties never trusted."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.evaluation.confidence import (
    WIDTH,
    Confidence,
    calibrate,
    dice,
    fitted,
    promised,
    soft_dice,
)


def cases(count, seed, per_patient=1):
    """Confidences, true Dice that scatters more where it is low, and patients."""
    rng = np.random.default_rng(seed)
    said = rng.uniform(0.3, 1, (count, 2))
    true = 1.2 * said - 0.25
    true = np.clip(true + rng.normal(size=true.shape) * 0.2 * (WIDTH + 1 - true), 0, 1)
    return said, true, np.arange(count) // per_patient


def test_intervals_cover_what_they_say_on_cases_of_the_same_kind():
    covered, widths = [], []
    for seed in range(40):
        said, true, groups = cases(30, seed)
        confidence = fitted(("a", "b"), said, true, groups)
        new, truth, _ = cases(50, 1000 + seed)
        predicted, low, high = confidence.of(new)
        assert (low <= predicted).all() and (predicted <= high).all()
        covered.append((low - 1e-9 <= truth) & (truth <= high + 1e-9))
        widths.append((high - low)[new > 0.8].mean() / (high - low)[new < 0.5].mean())
    assert 0.88 < np.mean(covered) < 0.97
    assert np.mean(widths) < 0.7  # a sure prediction has the narrower interval


def test_intervals_hold_in_the_view_that_is_predicted_worst():
    rng, covered, on_average = np.random.default_rng(0), [], []
    for seed in range(20):
        said, true, groups = cases(90, seed)
        views = np.arange(90) % 3
        noise = 0.2 * (views == 2)[:, None] * rng.normal(size=true.shape)
        true = np.clip(true + noise, 0, 1)
        each = fitted(("a", "b"), said, true, groups, views=views).of(said)
        every = fitted(("a", "b"), said, true, groups).of(said)
        for (_, low, high), found in ((each, covered), (every, on_average)):
            found.append(((low <= true) & (true <= high))[views == 2])
    assert np.mean(covered) > 0.88 > np.mean(on_average)


def test_beyond_the_confidences_that_were_seen_the_interval_widens_and_the_line_ends():
    said, true, groups = cases(200, 0)
    confidence = fitted(("a", "b"), 0.5 + 0.2 * said, 0.8 * true, groups)
    assert confidence.most == pytest.approx((0.69, 0.69), abs=0.02)
    assert min(confidence.slope) > 2
    dice, low, high = confidence.of([confidence.most, np.add(confidence.most, 0.03)])
    np.testing.assert_array_equal(*dice)
    assert (low[1] < low[0] - 0.05).all() and (high[1] > high[0] + 0.05).all()


def test_a_prediction_is_a_line_that_never_falls():
    said, true, groups = cases(200, 0)
    confidence = fitted(("a", "b"), said, true, groups)
    assert confidence.slope == pytest.approx((1.1, 1.1), abs=0.15)
    assert max(confidence.error) < 0.12
    falling = fitted(("a", "b"), said, 1 - said, groups)
    assert falling.slope == (0.0, 0.0)  # less confident is never better


def test_fewer_patients_make_wider_intervals():
    said, true, _ = cases(60, 3)
    many = fitted(("a", "b"), said, true, np.arange(60))
    few = fitted(("a", "b"), said, true, np.arange(60) // 10)
    assert min(np.subtract(few.spread, many.spread)) >= 0


def test_an_empty_mask_is_told_by_those_of_the_calibration_and_never_trusted():
    said, true, groups = cases(20, 0)
    said[:4, 0], true[:4, 0] = 0, [1, 1, 1, 0]
    confidence = fitted(("a", "b"), said, true, groups)
    predicted, low, high = confidence.of([[0.0, 0.0]])
    assert predicted.tolist() == [[0.75, 0.0]]
    assert (low == 0).all() and (high == 1).all()


def test_a_class_that_was_found_nowhere_is_not_known_at_all():
    confidence = fitted(("a",), np.zeros((9, 1)), np.zeros((9, 1)), np.arange(9))
    _, low, high = confidence.of([[0.9]])
    assert (low, high) == (0, 1)


def test_soft_dice_is_dice_where_there_is_no_doubt_and_zero_where_nothing_is_found():
    rng = np.random.default_rng(0)
    p, m = rng.uniform(size=(6, 7, 2)), rng.random((6, 7, 2)) < 0.4
    np.testing.assert_allclose(soft_dice(m.astype("float32"), m), 1)
    np.testing.assert_array_equal(soft_dice(p, np.zeros_like(m)), 0)
    np.testing.assert_allclose(soft_dice(p > 0.5, m), dice(p > 0.5, m), rtol=1e-6)
    assert dice(np.zeros((3, 3, 1)), np.zeros((3, 3, 1))) == 1


def test_it_is_kept_in_the_run_and_predicts_from_probabilities(run, phantoms, tmp_path):
    table = km.read_cases(phantoms)
    run = replace(run, path=shutil.copytree(run.path, tmp_path / "run"))
    confidence = calibrate(run, table)
    assert Confidence.load(run.path) == confidence
    assert confidence.classes == ("cup", "disc") and confidence.groups == table["group"].nunique()
    p = km.predict(run, table["image"][0])
    predicted, low, high = confidence.predict(p)
    said = soft_dice(p, run.task.masks(p))
    np.testing.assert_array_equal(predicted, confidence.of(said)[0])
    assert ((low <= predicted) & (predicted <= high)).all()
    with pytest.raises(FileNotFoundError, match="this run was not calibrated"):
        Confidence.load(tmp_path)


def test_masks_are_those_of_the_task():
    """Exclusive classes: the winner, and no background among the classes."""
    confidence = fitted(("a", "b"), *cases(20, 0))
    p = np.zeros((4, 4, 3), "float32")
    p[..., 0], p[:2, :, 0], p[:2, :, 1] = 1, 0.3, 0.7
    predicted, low, _ = confidence.predict(p)
    expected = confidence.of(np.array([2 * 8 * 0.7 / (8 * 0.7 + 8), 0]))[0]
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    assert low[1] == 0


def test_too_few_patients_are_refused(run, phantoms):
    table = km.read_cases(phantoms)
    with pytest.raises(ValueError, match="cases of 3 patients; expected 8 or more"):
        calibrate(run, table[:3])
    unlabelled = pd.concat([table[:9], table[9:].assign(mask="")])
    with pytest.raises(ValueError, match="calibrate"):
        calibrate(run, unlabelled)


def test_images_without_labels_get_what_each_is_promised(run):
    confidence = Confidence(
        run.task.classes, (0.5, 1.0), (0.2, 0.0), (1.0, 2.0), (0.0, 1.0), 0.9, 8, (0.1, 0.1)
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 40, 3), "uint8") for _ in range(2)]
    table = promised(run, confidence, images, ["a", "b"])
    assert list(table["case"]) == ["a", "a", "b", "b"]
    assert tuple(table["class"][:2]) == run.task.classes
    for name, image in zip("ab", images, strict=True):
        own = table[table["case"] == name][["dice", "low", "high"]].to_numpy().T
        np.testing.assert_allclose(own, confidence.predict(km.predict(run, image)), atol=1e-6)
