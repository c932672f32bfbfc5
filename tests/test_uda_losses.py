"""The losses of BEAL and UDA_CLR against numbers of the originals, and what they must not do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_meduda import losses
from keras_meduda.models.blocks import ResizeTo


def wave(*shape, scale=1.0):
    """scale · sin(0.013 k), k counted in PyTorch's order (batch, channels, height, width)."""
    x = np.sin(0.013 * np.arange(np.prod(shape), dtype="float64")).reshape(shape)
    return np.moveaxis(scale * x, 1, -1).astype("float32")


FEATURES = {"source": wave(2, 5, 8, 8)}
FEATURES["target"] = np.cos(3 * FEATURES["source"])
MASK = np.zeros((2, 8, 8, 2), "float32")
MASK[:, 2:4, 2:5, 0] = 1  # cup
MASK[:, 1:6, 1:6, 1] = 1  # disc


def target_logits():
    y, x, image = np.arange(8)[:, None], np.arange(8)[None], np.arange(2)[:, None, None]
    r2 = (y - 3) ** 2 + (x - 3 - image) ** 2
    return np.stack([4 - r2 / 2, 6 - r2 / 4], axis=-1).astype("float32")


def prototypes(features, weights):
    return losses.prototypes(*losses.prototype_sums(features, weights))


def source_prototypes():
    return prototypes(FEATURES["source"], losses.class_weights(MASK))


SOURCE = [
    [-0.336278, 0.033760, 0.381746, 0.480374, 0.265220],
    [-0.314494, 0.058392, 0.393137, 0.471083, 0.241317],
    [-0.282313, 0.090009, 0.403537, 0.453473, 0.207199],
    [-0.269986, 0.101623, 0.406851, 0.446323, 0.194256],
]
SOFT = [
    [-0.248857, -0.796184, -0.008558, 0.101179, -0.468057],
    [-0.302403, -0.747689, -0.017089, 0.097159, -0.500149],
    [-0.369663, -0.695665, -0.015068, 0.090924, -0.545805],
    [-0.489869, -0.628955, 0.026166, 0.076275, -0.643191],
]
RECTIFIED = [
    [-0.242760, -0.810024, 0.002153, 0.103271, -0.470026],
    [-0.281690, -0.760202, -0.021522, 0.097968, -0.483494],
    [-0.376173, -0.690008, -0.015706, 0.090352, -0.549847],
    [-0.574825, -0.584943, 0.060211, 0.065033, -0.713992],
]


def test_source_prototypes():
    np.testing.assert_allclose(source_prototypes(), SOURCE, atol=1e-6)


def test_soft_target_prototypes_and_their_alignment():
    soft = losses.class_weights(ops.sigmoid(target_logits()))
    target = prototypes(FEATURES["target"], soft)
    np.testing.assert_allclose(target, SOFT, atol=1e-6)
    assert float(losses.alignment(source_prototypes(), target)) == pytest.approx(
        1.2203850746, abs=1e-6
    )


def test_rectified_target_prototypes_and_their_alignment():
    logits = target_logits()
    resize = ResizeTo(align_corners=True)
    full = resize([logits, np.zeros((2, 16, 16, 1), "float32")])
    passes = ops.stack([full + 0.1 * (t - 1.5) for t in range(4)])
    moments = losses.stochastic_moments(passes)
    assert float(ops.mean(moments[1])) == pytest.approx(0.009626, abs=1e-6)
    assert float(ops.max(moments[1])) == pytest.approx(0.016129, abs=1e-6)
    mean, deviation = (resize([moment, logits]) for moment in moments)
    weights = losses.rectified_weights(ops.sigmoid(logits), mean, deviation)
    target = prototypes(FEATURES["target"], weights)
    np.testing.assert_allclose(target, RECTIFIED, atol=1e-6)
    assert float(losses.alignment(source_prototypes(), target)) == pytest.approx(
        1.2416027784, abs=1e-6
    )


def test_discriminative_loss_of_each_part():
    c, f = source_prototypes(), FEATURES["source"]
    parts = {  # (background or not, class)
        (0, 0): 0.0030118800,
        (1, 0): 0.0295729414,
        (0, 1): 0.0104962811,
        (1, 1): 0.0165327135,
    }
    d = np.mean(np.square(f[..., None, :] - np.array(c)), axis=-1)
    for (background, q), expected in parts.items():
        y = 1 - MASK[..., q] if background else MASK[..., q]
        sign = -1 if background else 1
        hinge = np.maximum(sign * (d[..., q] - d[..., 2 + q]) + 0.01, 0)
        assert np.mean(y * hinge) == pytest.approx(expected, abs=1e-6)
    assert float(losses.discriminative(f, MASK, c)) == pytest.approx(0.0596138160, abs=1e-6)


def test_segmentation_boundary_and_entropy():
    z, y = wave(2, 2, 8, 8, scale=3.0), wave(2, 2, 8, 8) > 0.3
    assert float(losses.cross_entropy(y, z, True)) == pytest.approx(0.2964511812, abs=1e-6)
    b = wave(2, 1, 8, 8)
    assert float(losses.boundary(0.5 + 0.5 * b, b)) == pytest.approx(0.0367712713, abs=1e-6)
    entropy = np.array(losses.entropy_map(losses.probabilities(z, True)))
    assert [entropy.mean(), entropy.max()] == pytest.approx([0.151388, 0.367838], abs=1e-6)


@pytest.mark.parametrize(("label", "expected"), [(1, 0.6402056217), (0, 0.7502301931)])
def test_adversarial(label, expected):
    assert float(losses.adversarial(wave(2, 1, 3, 3), label)) == pytest.approx(expected, abs=1e-6)


def test_consistency():
    z, y = wave(2, 2, 8, 8, scale=3.0), (wave(2, 2, 8, 8) > 0.3).astype("float32")
    certain = np.full(z.shape, 2.0, "float32")
    certain[:, :4, :, 0] = 0
    certain[:, :, :2, 1] = 0
    entropy, count = losses.consistency_sums(z, y, certain)
    assert float(entropy / count) == pytest.approx(0.2468860149, abs=1e-6)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.590343), (26, 0.593112), (50, 0.599582), (100, 0.638823), (200, 0.762462),
     (500, 0.762462)],
)  # fmt: skip
def test_threshold_of_an_epoch_of_500(epoch, expected):
    assert float(losses.rising_threshold(epoch / 500)) == pytest.approx(expected, abs=1e-6)


def test_absent_classes_have_a_prototype_of_zeros_and_do_not_count():
    mask = MASK * np.array([0, 1], "float32")
    c = prototypes(FEATURES["source"], losses.class_weights(mask))
    assert np.array(losses.seen(c)).tolist() == [0, 1, 1, 1]
    assert not np.array(c[0]).any()
    np.testing.assert_allclose(c[1::2], np.array(source_prototypes())[1::2], atol=1e-7)
    other = ops.zeros_like(c)
    assert float(losses.alignment(c, other)) == 0.0
    assert float(losses.alignment(c, c)) == 0.0
    alone = losses.discriminative(FEATURES["source"], mask[..., 1:], c[1::2])
    assert float(losses.discriminative(FEATURES["source"], mask, c)) == pytest.approx(float(alone))


def test_nothing_certain_gives_no_prototype():
    p = np.full((1, 4, 4, 2), 0.9, "float32")
    weights = losses.rectified_weights(p, p, deviation=p)
    assert not np.array(prototypes(wave(1, 5, 4, 4), weights)).any()


def test_sums_of_two_workers_add_up():
    weights = losses.class_weights(MASK)
    halves = [losses.prototype_sums(FEATURES["source"][i : i + 1], weights[i : i + 1])
              for i in range(2)]  # fmt: skip
    sums, counts = (sum(parts) for parts in zip(*halves, strict=True))
    np.testing.assert_allclose(losses.prototypes(sums, counts), source_prototypes(), atol=1e-6)


def test_a_prototype_moves_stays_or_begins():
    previous = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], "float32")
    batch = np.array([[3, 2], [0, 0], [3, 2], [0, 0]], "float32")
    moved = losses.moving_prototypes(previous, batch, share=0.9)
    np.testing.assert_allclose(moved, [[2.8, 1.9], [1, 1], [3, 2], [0, 0]], atol=1e-6)


def test_passes_that_agree_have_no_deviation():
    z = wave(2, 2, 4, 4, scale=3.0)
    mean, deviation = losses.stochastic_moments(ops.stack([z, z, z]))
    np.testing.assert_allclose(mean, ops.sigmoid(z), atol=1e-7)
    np.testing.assert_allclose(deviation, 0, atol=1e-7)


def test_deviation_is_the_unbiased_one_of_softened_probabilities():
    z = np.stack([wave(2, 2, 4, 4, scale=s) for s in (1.0, 2.0, 4.0)])
    _, deviation = losses.stochastic_moments(z)
    expected = np.std(1 / (1 + np.exp(-z / 2)), axis=0, ddof=1)
    np.testing.assert_allclose(deviation, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
def test_binary_logits_of_exclusive_classes_give_the_softmax(channels):
    z = np.random.default_rng(0).normal(0, 5, (3, 5, channels)).astype("float32")
    binary = losses.binary_logits(z, overlapping=False)
    np.testing.assert_allclose(ops.sigmoid(binary), ops.softmax(z), atol=1e-6)
    np.testing.assert_array_equal(losses.binary_logits(z, overlapping=True), z)


@pytest.mark.parametrize(("before", "after"), [(8, 2), (9, 4), (3, 7)])
def test_nearest_pixels_are_pytorchs(before, after):
    x = np.arange(before, dtype="float32")[None, :, None, None]
    expected = [i * before // after for i in range(after)]
    assert np.array(losses.nearest(x, (after, 1)))[0, :, 0, 0].tolist() == expected


def test_gradients_reach_features_and_augmented_logits_but_no_pseudo_label():
    import tensorflow as tf

    features, z = tf.Variable(FEATURES["target"]), tf.Variable(target_logits())
    with tf.GradientTape(persistent=True) as tape:
        p = ops.sigmoid(z)
        weights = losses.rectified_weights(p, p, deviation=0 * p)
        aligned = losses.alignment(source_prototypes(), prototypes(features, weights))
        entropy, _ = losses.consistency_sums(z, ops.ones_like(p), ops.ones_like(p))
    assert np.abs(tape.gradient(aligned, features)).max() > 0
    assert tape.gradient(aligned, z) is None
    assert np.abs(tape.gradient(entropy, z)).max() > 0


def test_the_ramp_ends_at_one():
    values = [float(losses.ramp(t, 0.4)) for t in (0.0, 0.2, 0.4, 0.9)]
    assert values == pytest.approx([np.exp(-5), np.exp(-1.25), 1, 1])


def test_half_precision_features_are_summed_in_full():
    ones = keras.ops.ones((1, 300, 300, 3), "float16")
    np.testing.assert_allclose(prototypes(ones, ops.ones((1, 300, 300, 2))), 1.0)


def test_moments_of_passes_have_no_gradient():
    passes = tf.Variable(wave(2, 1, 4, 4, 1))
    with tf.GradientTape() as tape:
        mean, deviation = losses.stochastic_moments(passes)
        total = ops.sum(mean) + ops.sum(deviation)
    assert tape.gradient(total, passes) is None
