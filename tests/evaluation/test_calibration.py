import math

import numpy as np
import pytest

from keras_meduda.evaluation.calibration import (
    entropy,
    expected_calibration_error,
    largest_entropy,
    reliability,
)


def drawn(seed=0, shape=(40, 50, 2)):
    """Probabilities, and masks that come true just as often as they promise."""
    rng = np.random.default_rng(seed)
    p = rng.random(shape)
    return p, rng.random(shape) < p


def test_honest_probabilities_have_no_error_and_certain_wrong_ones_have_all():
    p, y = drawn(shape=(400, 500, 1))
    assert expected_calibration_error(reliability(p, y)[0]) < 0.01
    assert expected_calibration_error(reliability(y.astype(float), y)[0]) == 0
    assert expected_calibration_error(reliability(y.astype(float), ~y)[0]) == 1


def test_counts_of_images_add_up_to_those_of_their_pixels():
    p, y = drawn()
    halves = reliability(p[:13], y[:13]) + reliability(p[13:], y[13:])
    np.testing.assert_allclose(halves, reliability(p, y))
    assert halves[..., 0].sum() == p.size and halves[..., 2].sum() == y.sum()


def test_counts_agree_with_a_loop_over_bins():
    p, y = drawn(1)
    for c in range(2):
        for b, (pixels, promised, found) in enumerate(reliability(p, y, bins=4)[c]):
            inside = (p[..., c] >= b / 4) & (p[..., c] < (b + 1) / 4)
            assert pixels == inside.sum() and found == y[..., c][inside].sum()
            assert promised == pytest.approx(p[..., c][inside].sum())


def test_certainty_belongs_to_the_last_bin():
    counts = reliability(np.ones((3, 1), "float32"), np.ones((3, 1), bool))
    assert counts[0, -1].tolist() == [3, 3, 3] and not counts[0, :-1].any()


def test_easy_background_hides_an_error_that_the_likely_pixels_show():
    p = np.concatenate([np.full(9900, 0.001), np.full(100, 0.9)])[:, None]
    counts = reliability(p, np.zeros_like(p, bool))[0]
    assert expected_calibration_error(counts) < 0.01
    assert expected_calibration_error(counts[1:]) == pytest.approx(0.9)
    assert math.isnan(expected_calibration_error(np.zeros((15, 3))))


@pytest.mark.parametrize(("overlapping", "channels"), [(True, 1), (True, 3), (False, 4)])
def test_entropy_is_nothing_where_certain_and_largest_where_ignorant(overlapping, channels):
    certain = np.zeros((2, channels))
    certain[:, 0] = 1
    np.testing.assert_allclose(entropy(certain, overlapping), 0, atol=1e-12)
    ignorant = np.full((2, channels), 0.5 if overlapping else 1 / channels)
    largest = largest_entropy(channels, overlapping)
    np.testing.assert_allclose(entropy(ignorant, overlapping), largest)
    p = np.random.default_rng(0).random((100, channels))
    p = p if overlapping else p / p.sum(axis=-1, keepdims=True)
    assert (entropy(p, overlapping) <= largest).all()


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"shape \(4, 1\) and reference masks of shape \(4, 2\)"):
        reliability(np.zeros((4, 1)), np.zeros((4, 2), bool))
