import numpy as np
import pytest
from scipy import ndimage, signal

from keras_meduda.evaluation.metrics import case_metrics
from keras_meduda.evaluation.postprocess import beal, islands_and_holes


def ball(radius, centre=(64, 64), size=128):
    y, x = np.ogrid[:size, :size]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def one(mask, threshold=0.5):
    return beal(mask[..., None].astype("float32"), (threshold,))[..., 0]


def test_equals_the_steps_of_the_original_by_scipy():
    rng = np.random.default_rng(0)
    p = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 12)
    p = (p - p.min()) / np.ptp(p)
    mask = (p > 0.55).astype(float)
    for _ in range(5):
        mask = signal.medfilt2d(mask, 7)
    y, x = np.ogrid[-7:8, -7:8]
    mask = ndimage.binary_erosion(mask, abs(y) + abs(x) <= 7, border_value=1)
    labels, count = ndimage.label(mask)
    assert count > 1
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    np.testing.assert_array_equal(
        beal(p[..., None], (0.55,))[..., 0], ndimage.binary_fill_holes(largest)
    )


def test_keeps_the_largest_component_and_fills_its_hole():
    mask = ball(40) & ~ball(12) | ball(9, (10, 10))
    kept = one(mask)
    assert ndimage.label(kept)[1] == 1 and kept[64, 64] and not kept[:20, :20].any()


def test_specks_are_filtered_out():
    mask = ball(30)
    mask[::9, ::9] ^= True
    assert ndimage.label(mask)[1] > 50
    assert (one(mask) != one(ball(30))).mean() < 0.01


def test_each_class_has_its_threshold():
    p = np.stack([0.3 * ball(30), 0.6 * ball(40)], axis=-1)
    assert beal(p, (0.1, 0.5)).any(axis=(0, 1)).tolist() == [True, True]
    assert not beal(p).any()


@pytest.mark.parametrize("mask", [ball(3), np.zeros((64, 64), bool)])
def test_what_is_too_small_vanishes(mask):
    assert not one(mask).any()


def test_an_image_that_is_all_one_class_stays():
    """But for its corners: beyond the border the filters see none of it, the erosion all."""
    assert one(np.ones((128, 128), bool)).mean() > 0.97


def test_thresholds_for_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 8, 3\); expected .* thresholds \(0.75, 0.75\)"):
        beal(np.zeros((8, 8, 3)))


# Islands and holes


def rodent():
    """Prediction and reference of 8 × 24 × 24 whose scores the original's code gave."""
    prediction, reference = np.zeros((2, 8, 24, 24), bool)
    prediction[2:6, 5:15, 5:15] = True
    prediction[3, 9:11, 9:11] = False
    prediction[0, 0, 0] = prediction[7, 20:24, 20:24] = True
    reference[2:6, 6:16, 5:15] = True
    return prediction, reference


def compactness(mask):
    border = mask & ~ndimage.binary_erosion(mask)
    return border.sum() ** 1.5 / mask.sum()


def test_islands_then_holes_as_the_original():
    prediction, reference = rodent()
    cleaned = islands_and_holes(prediction[..., None])[..., 0]
    assert (prediction.sum(), cleaned.sum()) == (413, 400)
    scores = case_metrics(cleaned, reference, (1, 1, 1))
    assert scores["dice"] == pytest.approx(0.9, abs=1e-7)
    assert compactness(prediction) == pytest.approx(12.644443, abs=1e-6)
    assert compactness(cleaned) == pytest.approx(11.214847, abs=1e-6)
    assert case_metrics(prediction, reference, (1, 1, 1))["dice"] == pytest.approx(0.8757688)


def test_20_voxels_stay_and_corners_touch():
    mask = np.zeros((9, 9, 9, 1), bool)
    mask[0, :5, :4] = True  # 20
    mask[5, :4, :4] = mask[6, 4, 4] = mask[7, 5, 5:8] = True  # 16 + 1 + 3, by their corners
    np.testing.assert_array_equal(islands_and_holes(mask), mask)
    mask[7, 5, 7] = False  # 19
    assert not islands_and_holes(mask)[5:].any()


def test_an_island_in_a_hole_goes_first():
    mask = np.ones((15, 15, 1), bool)
    mask[5:8, 5:8] = False
    mask[6, 6] = True
    assert islands_and_holes(mask).all()


def test_cleaning_twice_is_cleaning_once_and_classes_are_apart():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(20, 20, 20, 2)), (1, 1, 1, 0))
    masks = smooth > 0.1
    cleaned = islands_and_holes(masks)
    assert (cleaned != masks).any()
    np.testing.assert_array_equal(islands_and_holes(cleaned), cleaned)
    np.testing.assert_array_equal(islands_and_holes(masks[..., 1:]), cleaned[..., 1:])


@pytest.mark.parametrize("value", [False, True])
def test_all_or_nothing_stays(value):
    mask = np.full((8, 8, 8, 1), value)
    np.testing.assert_array_equal(islands_and_holes(mask), mask)
