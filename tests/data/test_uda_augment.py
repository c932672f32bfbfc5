"""The deformation and degradation of UDA_CLR."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Deformation, Degradation, Photometry, displace, recolour

SEEDS = np.stack([np.full(60, 7), np.arange(60)], axis=-1).astype("int64")
RIGID = {"stretch": 0.0, "turns": False, "flips": False, "elastic": 0.0}


def picture(height=40, width=40, channels=3):
    shape = (height, width, channels)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@tf.function
def _deformed(image, settings, seed, nearest):
    return settings.apply(image, settings.sample(seed, *image.shape[:2]), nearest)


@tf.function
def _degraded(image, settings, seed):
    return settings.apply(image, settings.sample(seed))


def deformed(image, settings, seed, nearest=False):
    return _deformed(tf.constant(image), settings, tf.constant(seed), nearest).numpy()


def degraded(image, settings, seed):
    return _degraded(tf.constant(image), settings, tf.constant(seed)).numpy()


@pytest.mark.parametrize("size", [(40, 40), (33, 50)])
@pytest.mark.parametrize("still", [Deformation(**RIGID), Deformation(flips=False, probability=0.0)])
def test_no_deformation_is_the_identity(still, size):
    image = picture(*size)
    np.testing.assert_allclose(deformed(image, still, (1, 2)), image, atol=1e-3)
    labels = (image[..., :1] > 128).astype("uint8")
    np.testing.assert_array_equal(deformed(labels, still, (1, 2), nearest=True), labels)


@pytest.mark.parametrize("seed", range(5))
def test_an_image_deforms_as_its_mask_does(seed):
    """Within a class and on the border between image and black they are equal."""
    blocks = np.kron(np.random.default_rng(1).integers(0, 2, (8, 8)), np.ones((8, 8)))
    mask = (200 * blocks[..., None]).astype("uint8")
    settings = Deformation(probability=1.0)
    image = deformed(mask.astype("float32"), settings, (3, seed))
    moved = deformed(mask, settings, (3, seed), nearest=True)
    pure = (image < 0.01) | (image > 199.99)
    assert (np.abs(image - moved)[pure] < 0.01).mean() > 0.98
    assert pure.mean() > 0.4


def test_quarter_turns_and_flips_are_numpys():
    image = picture()
    settings = Deformation(stretch=0.0, elastic=0.0, probability=1.0)
    possible = [np.rot90(f, k) for f in (image, image[:, ::-1]) for k in range(4)]
    found = set()
    for seed in SEEDS:
        errors = [np.abs(deformed(image, settings, seed) - p).max() for p in possible]
        assert min(errors) < 1e-2
        found.add(int(np.argmin(errors)))
    assert found == set(range(8))


def test_axes_are_stretched_on_their_own_and_what_shrinks_stays_whole():
    settings = Deformation(**{**RIGID, "stretch": 0.5}, probability=1.0)
    grown = []
    sample = tf.function(lambda seed: settings.sample(seed, 40, 60)["transform"])
    for seed in tf.constant(SEEDS):
        a, b, x0, c, d, y0, *_ = sample(seed).numpy()
        assert b == c == 0
        for factor, offset, side in ((a, x0, 60), (d, y0, 40)):
            first, last = offset, offset + factor * (side - 1)
            if factor <= 1:  # a part of the image, no black
                assert -0.5 < first and last < side - 0.5
            else:
                assert first < 0 and last > side - 1
        grown.append((1 / a, 1 / d))
    grown = np.array(grown)
    assert 0.5 <= grown.min() < 0.6 and 1.4 < grown.max() <= 1.5
    assert np.abs(grown[:, 0] - grown[:, 1]).max() > 0.5


def test_displacement_has_the_named_deviation_and_is_smooth():
    settings = Deformation(**{**RIGID, "elastic": 0.01}, probability=1.0)
    sample = tf.function(lambda seed: settings.sample(seed, 64, 64)["displacement"])
    fields = np.stack([sample(seed) for seed in tf.constant(SEEDS)])
    assert fields.std() == pytest.approx(0.64, rel=0.1)
    # neighbours are correlated as Gaussian bumps of σ 0.08 · 64 are: exp(−1 / 4σ²)
    expected = fields.std() * np.sqrt(2 - 2 * np.exp(-1 / (4 * 5.12**2)))
    assert np.diff(fields, axis=1).std() == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(fields[:, 8].std(), fields[:, 32].std(), rtol=0.2)


def test_a_whole_displacement_reads_the_pixel_there():
    shift = np.zeros((40, 40, 2), "float32") + np.array([2, -3], "float32")
    expected = np.pad(picture(), ((0, 2), (3, 0), (0, 0)), "edge")[2:, :-3]
    for nearest in (True, False):
        np.testing.assert_allclose(displace(picture(), shift, nearest), expected, atol=1e-4)
    half = np.zeros((40, 40, 2), "float32") + np.array([0, 0.5], "float32")
    between = (picture()[:, :-1] + picture()[:, 1:]) / 2
    np.testing.assert_allclose(displace(picture(), half)[:, :-1], between, atol=1e-4)


@pytest.mark.parametrize(
    "neutral",
    [Degradation(probability=0.0), Degradation(speckle=0.0, gamma=(1.0, 1.0), eraser=(0.0, 0.0))],
)
def test_no_degradation_is_the_identity(neutral):
    np.testing.assert_allclose(degraded(picture(), neutral, (1, 2)), picture(), atol=1e-3)


def test_degrading_keeps_the_range_and_is_a_function_of_its_seed():
    settings = Degradation()
    for image in (picture(), 0 * picture(), 0 * picture() + 255):
        for seed in SEEDS[:20]:
            changed = degraded(image, settings, seed)
            assert 0 <= changed.min() <= changed.max() <= 255
            np.testing.assert_array_equal(changed, degraded(image, settings, seed))


def test_speckle_is_white_or_black_and_as_rare_as_named():
    grey = np.full((100, 100, 3), 128, "float32")
    settings = Degradation(speckle=0.1, gamma=(1.0, 1.0), eraser=(0.0, 0.0), probability=1.0)
    shares = {0: [], 255: []}
    for seed in SEEDS:
        changed = degraded(grey, settings, seed)
        changed = changed[np.abs(changed - 128) > 1]
        assert len(np.unique(changed)) == 1  # salt or pepper, never both
        shares[int(changed[0])].append(len(changed) / grey.size)
    assert np.mean(shares[255]) == pytest.approx(0.02, rel=0.05)
    assert np.mean(shares[0]) == pytest.approx(0.08, rel=0.05)
    assert 0.3 < len(shares[0]) / len(SEEDS) < 0.7


def test_gamma_and_eraser_are_within_their_bounds():
    grey = np.full((200, 200, 3), 128, "float32")
    settings = Degradation(speckle=0.0, probability=1.0)
    levels = []
    for seed in SEEDS:
        changed = degraded(grey, settings, seed)
        levels.append(np.median(changed))
        erased = np.abs(changed[..., 0] - levels[-1]) > 1e-3
        height, width = (np.ptp(np.nonzero(erased)[axis]) + 1 for axis in (0, 1))
        assert erased.sum() == height * width
        assert 0.018 < erased.mean() < 0.062
        assert 0.28 < height / width < 0.62
    expected = [255 * (128 / 255) ** (1 / g) for g in (0.5, 3.5)]
    assert expected[0] - 1e-2 <= min(levels) < 90 and 200 < max(levels) <= expected[1] + 1e-2


def test_hue_turns_colours_and_grey_takes_them():
    still = {"brightness": 0, "contrast": 0, "gamma": 0, "colour": 0, "saturation": 0,
             "blur": 0, "noise": 0, "probability": 1.0}  # fmt: skip
    image = picture()
    turning, greying = Photometry(**still, hue=0.1), Photometry(**still, grey=1.0)
    draw = turning.sample((1, 2))
    assert 0 < abs(draw["hue"]) <= 0.1
    turned = recolour(image, draw).numpy()
    value, saturation = (f(image, axis=-1) for f in (np.max, np.min))
    np.testing.assert_allclose(turned.max(axis=-1), value, atol=0.01)
    np.testing.assert_allclose(turned.min(axis=-1), saturation, atol=0.01)
    assert np.abs(turned - image).max() > 5
    assert np.ptp(recolour(image, greying.sample((1, 2))), axis=-1).max() < 1e-3


MANY = np.stack([np.full(200, 7), np.arange(200)], axis=-1).astype("int64")


def test_stretches_and_turns_are_made_apart_and_what_is_cut_off_varies():
    moves = tf.function(lambda s: Deformation(flips=False, elastic=0).sample(s, 40, 40))
    a, b, offset, *_ = np.array([moves(seed)["transform"] for seed in tf.constant(MANY)]).T
    stretched = np.abs(np.maximum(np.abs(a), np.abs(b)) - 1) > 1e-3
    turned = (np.abs(b) > 1e-3) | (a < 0)
    assert 0.1 < (turned & ~stretched).mean() < 0.4 and 0.1 < (stretched & ~turned).mean() < 0.4
    grown = (a > 0) & (a < 0.95) & (np.abs(b) < 1e-3)
    assert np.ptp((offset - 19.5 * (1 - a))[grown]) > 4  # px from where the middle stays


def test_hue_turns_both_ways_and_grey_is_as_rare_as_named():
    draw = tf.function(lambda s: Photometry(hue=0.1, grey=0.3, probability=1.0).sample(s))
    draws = [draw(seed) for seed in tf.constant(MANY)]
    hue = np.array([d["hue"] for d in draws])
    assert hue.min() < -0.08 and hue.max() > 0.08
    assert np.mean([d["saturation"] == 0 for d in draws]) == pytest.approx(0.3, abs=0.1)
