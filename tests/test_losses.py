import keras
import numpy as np
import pytest
from keras import ops

from keras_meduda.losses import (
    cross_entropy,
    dice_loss,
    kl_divergence,
    marginal_kl,
    probabilities,
    segmentation,
)

FORMS = pytest.mark.parametrize("overlapping", [True, False], ids=["overlapping", "exclusive"])


def logits(seed=0, shape=(3, 6, 5, 4), scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype("float32")


def mask(overlapping, seed=9, shape=(3, 6, 5, 4)):
    rng = np.random.default_rng(seed)
    if overlapping:
        return rng.integers(0, 2, shape).astype("float32")
    return np.eye(shape[-1], dtype="float32")[rng.integers(0, shape[-1], shape[:-1])]


def gradient(function, x):
    """Of a scalar function of one tensor."""
    import tensorflow as tf

    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = function(x)
    return tape.gradient(value, x)


@FORMS
def test_probabilities_are_keras_activations(overlapping):
    activation = keras.activations.sigmoid if overlapping else keras.activations.softmax
    np.testing.assert_allclose(
        probabilities(logits(), overlapping), activation(logits()), atol=1e-7
    )
    assert probabilities(logits().astype("float16"), overlapping).dtype == "float32"


# Cross-entropy


@FORMS
def test_cross_entropy_is_keras(overlapping):
    y, z = mask(overlapping), logits()
    peer = (
        keras.losses.BinaryCrossentropy(from_logits=True)
        if overlapping
        else keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    assert float(cross_entropy(y, z, overlapping)) == pytest.approx(float(peer(y, z)), rel=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, dice_loss])
def test_ignored_pixels_add_nothing(loss):
    y, z = mask(False), logits()
    y[:, :2] = 0
    kept = float(loss(y[:, 2:], z[:, 2:], False))
    share = 4 / 6 if loss is cross_entropy else 1.0  # a mean over all pixels, a ratio of sums
    assert float(loss(y, z, False)) == pytest.approx(share * kept, rel=1e-5)
    z[:, :2] = 1e3 * logits(seed=1)[:, :2]
    assert float(loss(y, z, False)) == pytest.approx(share * kept, rel=1e-5)


@FORMS
def test_certain_and_right_costs_nothing_certain_and_wrong_stays_finite(overlapping):
    y = mask(overlapping)
    assert float(cross_entropy(y, 200 * (2 * y - 1), overlapping)) == pytest.approx(0, abs=1e-6)
    assert 100 < float(cross_entropy(y, -200 * (2 * y - 1), overlapping)) < 500


# Dice


@FORMS
def test_dice_of_a_perfect_prediction_is_0(overlapping):
    y = mask(overlapping)
    assert float(dice_loss(y, 200 * (2 * y - 1), overlapping)) == pytest.approx(0, abs=1e-6)


def test_dice_of_a_disjoint_prediction_goes_to_1():
    left = np.zeros((2, 40, 40, 1), "float32")
    left[:, :, :20] = 1
    value = float(dice_loss(left, 200 * (1 - 2 * left), True))
    assert value == pytest.approx(1 - 1 / 1601, abs=1e-6)
    exclusive = float(
        dice_loss(
            np.concatenate([1 - left, left], -1), 200 * np.concatenate([left, 1 - left], -1), False
        )
    )
    assert exclusive == pytest.approx(value, abs=1e-6)


@FORMS
def test_an_absent_class_costs_nothing_unless_it_is_predicted(overlapping):
    y = mask(overlapping)
    y[..., 1], y[..., 2] = 0, np.maximum(y[..., 1], y[..., 2])
    sure = 200 * (2 * y - 1)
    assert float(dice_loss(y, sure, overlapping)) == pytest.approx(0, abs=1e-6)
    sure[0, 0, 0] = -200
    sure[0, 0, 0, 1] = 200
    assert 0.02 < float(dice_loss(y, sure, overlapping)) < 1


def test_background_is_no_class_of_its_own():
    y, z = mask(False), logits()
    p = np.array(probabilities(z, False))[..., 1:]
    space, t = (1, 2), y[..., 1:]
    dice = (2 * (p * t).sum(space) + 1) / (p.sum(space) + t.sum(space) + 1)
    assert float(dice_loss(y, z, False)) == pytest.approx(1 - dice.mean(), rel=1e-5)


@FORMS
def test_what_weighs_nothing_does_not_count_in_dice(overlapping):
    y, z = mask(overlapping), logits()
    weight = np.ones((*y.shape[:-1], 1), "float32")
    plain = float(dice_loss(y, z, overlapping))
    assert float(dice_loss(y, z, overlapping, weight=weight)) == pytest.approx(plain, rel=1e-6)
    weight[:, :2] = 0
    kept = float(dice_loss(y[:, 2:], z[:, 2:], overlapping))
    assert float(dice_loss(y, z, overlapping, weight=weight)) == pytest.approx(kept, rel=1e-5)
    halves = float(dice_loss(y, z, overlapping, weight=0.5 * weight))
    assert halves == pytest.approx(0.5 * kept, rel=1e-5), "an image counts as its surest pixel"
    assert float(dice_loss(y, z, overlapping, weight=0 * weight)) == 0


@FORMS
@pytest.mark.parametrize("loss", [cross_entropy, dice_loss, segmentation])
def test_the_loss_of_a_batch_is_the_mean_of_its_images(loss, overlapping):
    y, z = mask(overlapping), logits()
    single = [float(loss(y[i : i + 1], z[i : i + 1], overlapping)) for i in range(len(y))]
    assert float(loss(y, z, overlapping)) == pytest.approx(np.mean(single), rel=1e-5)


@FORMS
def test_segmentation_is_the_mean_of_both(overlapping):
    y, z = mask(overlapping), logits()
    mean = (float(cross_entropy(y, z, overlapping)) + float(dice_loss(y, z, overlapping))) / 2
    assert float(segmentation(y, z, overlapping)) == pytest.approx(mean, rel=1e-6)


# Kullback-Leibler divergence


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1, 0.0340883508), (2, 0.0382786320), (4, 0.0401828736)]
)
def test_kl_has_the_published_values(temperature, expected):
    u = np.sin(0.013 * np.arange(32)).reshape(2, 4, 4)
    teacher = np.stack([2 * u, -u, 0.3 * u], axis=-1).astype("float32")
    student = np.stack([u, 0.5 * u, -u], axis=-1).astype("float32")
    value = float(kl_divergence(teacher, student, False, temperature))
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
def test_kl_is_that_of_keras_distillation(temperature):
    peer = keras.distillation.LogitsDistillation(temperature, keras.losses.KLDivergence())
    teacher, student = logits(0, scale=1.5), logits(1, scale=1.5)
    expected = float(peer.compute_loss(teacher, student))
    value = float(kl_divergence(teacher, student, False, temperature))
    assert value == pytest.approx(expected, rel=1e-6)


@FORMS
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_is_zero_at_equality_and_positive_else(overlapping, temperature):
    assert float(kl_divergence(logits(), logits(), overlapping, temperature)) == 0
    for seed in range(1, 20):
        assert float(kl_divergence(logits(), logits(seed), overlapping, temperature)) > 0
    near = logits() + 1e-2 * logits(1)
    assert 0 < float(kl_divergence(logits(), near, overlapping, temperature)) < 1e-3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_an_overlapping_class_is_a_softmax_of_two(temperature):
    teacher, student = logits(0, (3, 6, 5, 1)), logits(1, (3, 6, 5, 1))
    pair = [np.concatenate([z, np.zeros_like(z)], axis=-1) for z in (teacher, student)]
    assert float(kl_divergence(teacher, student, True, temperature)) == pytest.approx(
        float(kl_divergence(*pair, False, temperature)), rel=1e-5
    )


def test_overlapping_channels_are_summed():
    single = [
        float(kl_divergence(logits(0)[..., c : c + 1], logits(1)[..., c : c + 1], True))
        for c in range(4)
    ]
    value = float(kl_divergence(logits(0), logits(1), True))
    assert value == pytest.approx(sum(single), rel=1e-5)


@FORMS
def test_the_teacher_gets_no_gradient(overlapping):
    assert gradient(lambda z: kl_divergence(z, logits(1), overlapping), logits()) is None
    to_student = gradient(lambda z: kl_divergence(logits(1), z, overlapping, 2.0), logits())
    assert np.abs(to_student).max() > 0


@FORMS
def test_at_high_temperature_the_gradient_keeps_its_size(overlapping):
    """What T² is for: as T grows the gradient goes to a limit, not to zero."""
    sizes = [
        np.abs(gradient(lambda z, t=t: kl_divergence(logits(1), z, overlapping, t), logits())).sum()
        for t in (50.0, 100.0)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@FORMS
def test_weights_count_pixels(overlapping):
    a, b = logits(0), logits(1)
    every = float(kl_divergence(a, b, overlapping))
    ones = np.ones((3, 6, 5), "float32")
    assert float(kl_divergence(a, b, overlapping, weight=ones)) == pytest.approx(every, rel=1e-6)
    half = ones.copy()
    half[:, 3:] = 0
    upper = float(kl_divergence(a[:, :3], b[:, :3], overlapping))
    weighted = float(kl_divergence(a, b, overlapping, weight=half))
    assert weighted == pytest.approx(upper / 2, rel=1e-5)


@FORMS
def test_half_precision_of_a_large_image_does_not_overflow(overlapping):
    y = np.zeros((1, 512, 512, 2), "float16")
    y[..., 1] = 1
    right, wrong = 80 * y - 40, 40 - 80 * y
    assert right.dtype == "float16"
    difference = 40 if overlapping else 80
    assert float(cross_entropy(y, wrong, overlapping)) == pytest.approx(difference, rel=1e-5)
    assert float(kl_divergence(right, wrong, overlapping)) == pytest.approx(80, rel=1e-5)
    assert float(dice_loss(y, wrong, overlapping)) == pytest.approx(1, abs=1e-4)
    assert float(dice_loss(y, right, overlapping)) == pytest.approx(0, abs=1e-4)


# Marginal distributions


@FORMS
def test_marginal_kl_is_zero_at_equality_and_positive_else(overlapping):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20).astype("float32")
    for a, b in zip(p, np.roll(p, 1, axis=0), strict=True):
        assert float(marginal_kl(ops.array(a), ops.array(a), overlapping)) == 0
        assert float(marginal_kl(ops.array(a), ops.array(b), overlapping)) > 0


@FORMS
def test_marginal_kl_is_the_divergence_of_one_pixel(overlapping):
    a, b = logits(0, (1, 1, 1, 4)), logits(1, (1, 1, 1, 4))
    p, q = (probabilities(z, overlapping)[0, 0, 0] for z in (a, b))
    expected = float(kl_divergence(a, b, overlapping))
    assert float(marginal_kl(p, q, overlapping)) == pytest.approx(expected, rel=1e-4)


@FORMS
def test_marginal_kl_of_absent_classes_is_finite(overlapping):
    p, q = ops.array([1.0, 0.0, 0.0]), ops.array([0.0, 1.0, 0.0])
    assert 10 < float(marginal_kl(p, q, overlapping)) < 50
