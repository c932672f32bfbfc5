"""Losses of RatLesNetV2 and of the mouse study, with the numbers of their PyTorch code."""

import numpy as np
import pytest

from keras_meduda.losses import cross_entropy, joint_dice_loss, mouse_dice, ratlesnet

U = np.sin(0.013 * np.arange(120)).reshape(2, 3, 4, 5).astype("float32")
LOGITS = np.stack([U, -2 * U], axis=-1)
MASK = np.eye(2, dtype="float32")[(np.sin(7 * U) > 0.2).astype(int)]


def test_values_of_pytorch():
    assert float(cross_entropy(MASK, LOGITS, False)) == pytest.approx(1.0573265553, abs=1e-6)
    assert float(mouse_dice(MASK, LOGITS, False)) == pytest.approx(0.5382807255, abs=1e-6)
    dice = [
        float(joint_dice_loss(MASK[i : i + 1], LOGITS[i : i + 1], False, 5e-7)) for i in range(2)
    ]
    assert dice == pytest.approx([0.3088480234, 0.4512806535], abs=1e-6)
    # The original's term for the batch of two, 1 − Σ_n, is the sum of both less 1.
    total = float(ratlesnet(MASK, LOGITS, False))
    assert total == pytest.approx(1.0573265553 + sum(dice) / 2, abs=1e-6)
    assert 1.0573265553 + sum(dice) - 1 == pytest.approx(0.8174552917, abs=1e-6)


@pytest.mark.parametrize("loss", [ratlesnet, mouse_dice])
def test_the_loss_of_a_batch_is_the_mean_of_its_volumes(loss):
    single = [float(loss(MASK[i : i + 1], LOGITS[i : i + 1], False)) for i in range(2)]
    assert float(loss(MASK, LOGITS, False)) == pytest.approx(np.mean(single), rel=1e-6)


@pytest.mark.parametrize("loss", [ratlesnet, mouse_dice])
def test_right_costs_nothing_and_wrong_much(loss):
    sure = 200 * (2 * MASK - 1)
    assert float(loss(MASK, sure, False)) == pytest.approx(0, abs=1e-6)
    assert float(loss(MASK, -sure, False)) > 0.99


@pytest.mark.parametrize("loss", [ratlesnet, mouse_dice])
def test_ignored_voxels_add_nothing(loss):
    mask, logits = MASK.copy(), LOGITS.copy()
    mask[:, 0] = 0
    value = float(loss(mask, logits, False))
    logits[:, 0] *= -50
    assert float(loss(mask, logits, False)) == pytest.approx(value, rel=1e-6)


def test_an_absent_class_costs_its_whole_share():
    mask = np.zeros_like(MASK)
    mask[..., 0] = 1
    assert float(mouse_dice(mask, 200 * (2 * mask - 1), False)) == pytest.approx(0.5, abs=1e-6)
