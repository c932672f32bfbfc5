import numpy as np
import pytest
from scipy import ndimage, signal

from keras_meduda.evaluation.postprocess import beal


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
