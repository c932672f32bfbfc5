"""Dice and focal loss as MMSegmentation has them."""

import numpy as np
import pytest

from keras_meduda.losses import cross_entropy, focal_loss, joint_dice_loss

U = np.sin(0.013 * np.arange(72)).reshape(2, 6, 6).astype("float32")
LOGITS = np.stack([2 * U, -U], axis=-1)
MASK = np.eye(2, dtype="float32")[(np.sin(5 * U) > 0.5).astype(int)]


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (cross_entropy, 0.7445666790),
        (joint_dice_loss, 0.3468649983),
        (focal_loss, 0.1061372757),
    ],
)
def test_value_of_pytorch(loss, value):
    assert float(loss(MASK, LOGITS, overlapping=False)) == pytest.approx(value, abs=1e-6)


def test_focal_loss_without_focus_is_half_the_binary_cross_entropy():
    expected = float(cross_entropy(MASK, LOGITS, overlapping=True)) / 2
    assert float(focal_loss(MASK, LOGITS, True, gamma=0.0)) == pytest.approx(expected, rel=1e-6)


def test_alpha_weighs_foreground_against_background():
    ones = np.ones_like(MASK)
    for alpha in (0.0, 0.25, 1.0):
        fore, back = (
            float(focal_loss(m, z, True, alpha=alpha))
            for m, z in ((ones, LOGITS), (0 * ones, -LOGITS))
        )
        assert fore * (1 - alpha) == pytest.approx(back * alpha, abs=1e-7)


@pytest.mark.parametrize("loss", [joint_dice_loss, focal_loss])
@pytest.mark.parametrize("overlapping", [True, False])
def test_a_perfect_prediction_costs_nothing_and_a_batch_is_the_mean(loss, overlapping):
    sure = 200 * (2 * MASK - 1)
    assert float(loss(MASK, sure, overlapping)) == pytest.approx(0, abs=5e-5)
    single = [float(loss(MASK[i : i + 1], LOGITS[i : i + 1], overlapping)) for i in range(2)]
    assert float(loss(MASK, LOGITS, overlapping)) == pytest.approx(np.mean(single), rel=1e-5)


@pytest.mark.parametrize("loss", [joint_dice_loss, focal_loss])
def test_ignored_pixels_do_not_count(loss):
    mask, logits = MASK.copy(), LOGITS.copy()
    mask[:, :2] = 0
    share = 4 / 6 if loss is focal_loss else 1.0  # a mean over all pixels, a ratio of sums
    kept = share * float(loss(mask[:, 2:], logits[:, 2:], False))
    for noise in (0, 50):
        logits[:, :2] += noise
        assert float(loss(mask, logits, False)) == pytest.approx(kept, rel=1e-5)


def test_an_image_without_fluid_has_a_finite_loss_and_gradient():
    import tensorflow as tf

    empty = np.eye(2, dtype="float32")[np.zeros((2, 6, 6), int)]
    for loss in (cross_entropy, joint_dice_loss, focal_loss):
        z = tf.Variable(LOGITS)
        with tf.GradientTape() as tape:
            value = loss(empty, z, False)
        assert np.isfinite(value) and np.isfinite(tape.gradient(value, z)).all()
