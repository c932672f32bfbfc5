"""MedDistill's terms and weights against the original's numbers."""

import numpy as np
import pytest

from keras_meduda import losses


def wave(*shape):
    """The test input of the original: sin(0.013 k) in channels-first order, given channels last."""
    x = np.sin(0.013 * np.arange(np.prod(shape))).reshape(shape)
    return np.moveaxis(x, 1, -1)


TABLE = [
    (0.0, 0.99999887, 7.31e-7, 4.00e-7, 0.0666664),
    (0.001, 0.9988693, 0.0007308, 0.0003999, 0.0664407),
    (0.01, 0.9888341, 0.0072102, 0.0039557, 0.0644527),
    (0.05, 0.9469187, 0.0341426, 0.0189388, 0.0564846),
    (0.1, 0.9000122, 0.0639871, 0.0360008, 0.0482079),
    (0.2, 0.8210208, 0.1132972, 0.0656820, 0.0357892),
    (0.25, 0.7875282, 0.1337186, 0.0787531, 0.0310950),
]


def test_weights_and_their_spread_are_the_originals():
    variance, *weights, spread = np.array(TABLE).T
    found = np.array(losses.ulwr_weights(variance))
    np.testing.assert_allclose(found, np.stack(weights, axis=-1), atol=1e-6)
    np.testing.assert_allclose(losses.weight_spread(found), spread, atol=1e-6)


def test_a_whole_example_is_the_originals():
    teacher = 1 / (1 + np.exp(-3 * wave(1, 1, 16, 16)))
    variance = teacher.var()
    bce, mse = losses.mask_distances(teacher, 2 * wave(1, 1, 16, 16) - 0.5)
    weights = losses.ulwr_weights(np.array([variance]))
    assert variance == pytest.approx(0.0242990740, abs=1e-8)
    expected = [0.9733609939, 0.0171779084, 0.0094610977]
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)
    assert float(bce[0]) == pytest.approx(0.4832902551, abs=1e-6)
    assert float(mse[0]) == pytest.approx(0.0265267938, abs=1e-6)
    total = float(np.array(weights)[0] @ [float(bce[0]), float(mse[0]), 0.5])
    spread = float(losses.weight_spread(weights)[0])
    assert total == pytest.approx(0.4756021067, abs=1e-6)
    assert spread == pytest.approx(0.0614482884, abs=1e-6)
    assert total + spread == pytest.approx(0.5370503951, abs=1e-6)


@pytest.mark.parametrize("terms", [2, 3])
def test_weights_sum_to_one_and_favour_the_cross_entropy(terms):
    weights = np.array(losses.ulwr_weights(np.linspace(0, 0.25, 20), terms))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    assert (weights[:, 0] > 0.78).all() and (np.diff(weights[:, 0]) < 0).all()


def test_distances_are_one_an_image_and_zero_only_at_the_mask():
    teacher = np.stack([np.full((4, 4, 1), 0.3), np.full((4, 4, 1), 0.8)])
    logits = np.log(teacher / (1 - teacher))
    bce, mse = losses.mask_distances(teacher, logits)
    entropy = -0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    assert float(bce[0]) == pytest.approx(entropy, abs=1e-6)
    np.testing.assert_allclose(mse, [0, 0], atol=1e-12)
    further, _ = losses.mask_distances(teacher, logits + [[[[1.0]]], [[[0.0]]]])
    assert float(further[0]) > float(bce[0]) and float(further[1]) == float(bce[1])


def test_the_normalised_feature_distance_is_free_of_scale_and_bounded():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5, 6))
    distance = np.array(losses.feature_distance(a, b))
    np.testing.assert_allclose(losses.feature_distance(7 * a, 0.1 * b), distance, rtol=1e-5)
    np.testing.assert_allclose(losses.feature_distance(2 * a, a), 0, atol=1e-7)
    np.testing.assert_allclose(losses.feature_distance(-a, a), 4 / 6, rtol=1e-5)
    cosine = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(distance, (2 - 2 * cosine).mean((1, 2)) / 6, rtol=1e-5)
    plain = losses.feature_distance(a, b, normalised=False)
    np.testing.assert_allclose(plain, ((a - b) ** 2).mean((1, 2, 3)), rtol=1e-5)


def test_dynamic_weights_follow_the_slower_term():
    w = np.array(losses.dynamic_weights(np.array([0.5, 1.0, 1.5]), np.ones(3)))
    expected = 3 * np.exp([0.25, 0.5, 0.75]) / np.exp([0.25, 0.5, 0.75]).sum()
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    np.testing.assert_allclose(losses.dynamic_weights(np.zeros(3), np.zeros(3)), 1, rtol=1e-6)


def test_distances_of_half_precision_are_taken_in_full():
    z = np.full((1, 300, 300, 1), 20, "float16")  # whose squares add up to more than it can hold
    found = (*losses.mask_distances(0 * z, z), losses.feature_distance(z, 0 * z, False))
    assert all(d.dtype == "float32" and np.isfinite(d).all() for d in found)
