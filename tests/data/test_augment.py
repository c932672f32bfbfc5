import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Geometry, Photometry, blur, recolour, warp

STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
NEUTRAL = Photometry(brightness=0, contrast=0, gamma=0, colour=0, saturation=0, blur=0, noise=0)
STRONG = Photometry(probability=1.0)
SEEDS = np.stack([np.full(200, 7), np.arange(200)], axis=-1).astype("int64")


def picture(height=24, width=31, channels=3, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def labels(height=24, width=31, classes=4):
    """Coarse blocks of 0 … classes − 1."""
    coarse = np.random.default_rng(1).integers(0, classes, (height // 4 + 1, width // 4 + 1))
    return np.kron(coarse, np.ones((4, 4)))[:height, :width, None].astype("uint8")


def draws(settings, *size):
    """What `settings` draws for every seed: name or index -> values."""
    sample = tf.function(lambda seed: settings.sample(seed, *size))
    drawn = [sample(seed) for seed in tf.constant(SEEDS)]
    if isinstance(drawn[0], dict):
        return {name: np.array([draw[name] for draw in drawn]) for name in drawn[0]}
    return np.array(drawn)


@pytest.mark.parametrize("size", [(24, 31), (32, 32), (5, 4)])
def test_no_geometry_is_the_identity(size):
    move = STILL.sample((1, 2), *size)
    np.testing.assert_allclose(warp(picture(*size), move), picture(*size), atol=1e-4)
    np.testing.assert_array_equal(warp(labels(*size), move, nearest=True), labels(*size))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("neutral", [NEUTRAL, Photometry(probability=0.0)])
def test_no_photometry_is_the_identity(neutral, channels):
    image = picture(channels=channels)
    np.testing.assert_allclose(recolour(image, neutral.sample((1, 2))), image, atol=1e-4)


@pytest.mark.parametrize("settings", [Geometry(), STRONG])
def test_a_draw_is_a_function_of_its_seed(settings):
    size = (24, 31) if isinstance(settings, Geometry) else ()
    draw = settings.sample((1, 2), *size)
    again, other = settings.sample((1, 2), *size), settings.sample((1, 3), *size)
    tf.nest.map_structure(np.testing.assert_array_equal, draw, again)
    assert any(
        np.any(a != b) for a, b in zip(tf.nest.flatten(draw), tf.nest.flatten(other), strict=True)
    )


def test_recolouring_is_a_function_of_its_seed():
    first, again, other = (
        recolour(picture(), STRONG.sample(seed)).numpy() for seed in [(1, 2), (1, 2), (1, 3)]
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


@pytest.mark.parametrize("seed", range(5))
def test_a_label_map_moves_as_its_channels_do(seed):
    move = Geometry().sample((3, seed), 24, 31)
    channels = np.arange(4, dtype="uint8")
    moved = warp(labels(), move, nearest=True)
    hot = warp((labels() == channels).astype("float32"), move, nearest=True)
    np.testing.assert_array_equal(moved == channels, hot)


@pytest.mark.parametrize("seed", range(5))
def test_an_image_moves_as_its_mask_does(seed):
    """Between the pixels of an outline the image is a mixture, everywhere else they are equal."""
    mask = np.where(labels(classes=2), 200, 0).astype("uint8")
    move = Geometry().sample((3, seed), 24, 31)
    moved = warp(mask, move, nearest=True).numpy()
    image = warp(mask.astype("float32"), move).numpy()
    pure = (image < 0.01) | (image > 199.99)
    np.testing.assert_allclose(image[pure], moved[pure], atol=0.01)
    assert pure.mean() > 0.4


def test_two_flips_restore():
    geometry = Geometry(flip=True, rotation=0, scale=0, shift=0)
    moves = [geometry.sample(seed, 24, 31) for seed in SEEDS[:20]]
    flips = [move for move in moves if move[0] < 0]
    assert 0 < len(flips) < len(moves)
    once = warp(picture(), flips[0])
    np.testing.assert_allclose(once, picture()[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(warp(once, flips[0]), picture(), atol=1e-4)


def test_a_quarter_turn_is_numpys():
    """The transform takes output (x, y) to input: x_in = y, y_in = 23 − x."""
    quarter = tf.constant([0, 1, 0, -1, 0, 23, 0, 0], "float32")
    image = picture(24, 24)
    np.testing.assert_allclose(warp(image, quarter), np.rot90(image, -1), atol=1e-4)
    np.testing.assert_array_equal(
        warp(labels(24, 24), quarter, nearest=True), np.rot90(labels(24, 24), -1)
    )


def test_a_border_is_mirrored():
    shift = tf.constant([1, 0, 3, 0, 1, 0, 0, 0], "float32")
    expected = np.concatenate([picture()[:, 3:], picture()[:, :-4:-1]], axis=1)
    np.testing.assert_allclose(warp(picture(), shift), expected, atol=1e-4)


def test_a_transform_turns_scales_and_shifts_within_its_bounds():
    height, width = 24, 31
    geometry = Geometry(flip=True, rotation=30, scale=0.25, shift=0.1)
    moves = draws(geometry, height, width)
    a, b, x0, c, d, y0, *projective = moves.T
    assert not np.any(projective)

    zoom = np.hypot(c, d)
    np.testing.assert_allclose(np.hypot(a, b), zoom, rtol=1e-5)
    np.testing.assert_allclose(a * c + b * d, 0, atol=1e-5)  # no shear
    assert 1 / 1.25 <= zoom.min() < 0.85
    assert 1.2 < zoom.max() <= 1.25

    angle = np.degrees(np.arctan2(c, d))
    assert -30.01 <= angle.min() < -25
    assert 25 < angle.max() <= 30.01

    flipped = a * d - b * c < 0
    assert 0.3 < flipped.mean() < 0.7

    cx, cy = (width - 1) / 2, (height - 1) / 2
    for shift, side in [(a * cx + b * cy + x0 - cx, width), (c * cx + d * cy + y0 - cy, height)]:
        assert 0.08 * side < np.abs(shift).max() <= 0.1 * side + 1e-4


FACTORS = {"contrast": 0.3, "gamma": 0.5, "colour": 0.2, "saturation": 0.4}
AMOUNTS = {"brightness": (-0.2, 0.2), "blur": (0, 1.5), "noise": (0, 0.03)}
RANGES = {**{name: (1 / (1 + v), 1 + v) for name, v in FACTORS.items()}, **AMOUNTS}


def test_each_change_stays_within_its_bounds_and_fills_them():
    drawn = draws(STRONG)
    assert set(RANGES) <= set(drawn)
    for name, (low, high) in RANGES.items():
        values = drawn[name]
        assert low - 1e-5 <= values.min() <= low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) <= values.max() <= high + 1e-5, name
    assert np.ptp(drawn["colour"], axis=-1).min() > 0


def test_each_change_is_made_as_often_as_its_probability_says():
    drawn = draws(Photometry(probability=0.3))
    for name in RANGES:
        neutral = 1.0 if name in FACTORS else 0.0
        made = (drawn[name].reshape(len(SEEDS), -1) != neutral).any(axis=-1)
        assert 0.15 < made.mean() < 0.45, name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "image", [picture(), picture() * 0, picture() * 0 + 255], ids=["noise", "black", "white"]
)
def test_recolouring_keeps_shape_and_range(image, channels):
    image = image[..., :channels]
    change = tf.function(lambda seed: recolour(image, STRONG.sample(seed)))
    for seed in tf.constant(SEEDS[:30]):
        changed = change(seed).numpy()
        assert changed.shape == image.shape
        assert changed.dtype == "float32"
        assert 0 <= changed.min() <= changed.max() <= 255  # and no NaN


def test_brightness_shifts_and_contrast_stretches_about_the_mean():
    image = 100 + picture() / 10
    draw = NEUTRAL.sample((1, 2))
    np.testing.assert_allclose(
        recolour(image, {**draw, "brightness": 0.1}), image + 25.5, atol=1e-3
    )
    np.testing.assert_allclose(
        recolour(image, {**draw, "contrast": 1.5}), 1.5 * image - 0.5 * image.mean(), atol=1e-3
    )
    np.testing.assert_allclose(recolour(image, {**draw, "gamma": 2.0}), image**2 / 255, atol=1e-3)
    np.testing.assert_allclose(
        recolour(image, {**draw, "saturation": 0.0}),
        np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1),
        atol=1e-3,
    )
    colour = np.array([1.1, 1.0, 0.9], "float32")
    np.testing.assert_allclose(
        recolour(image, {**draw, "colour": colour}), image * colour, atol=1e-3
    )


def test_noise_has_the_drawn_deviation():
    grey = np.full((64, 64, 3), 128, "float32")
    noise = recolour(grey, {**NEUTRAL.sample((1, 2)), "noise": 0.02}).numpy() - grey
    assert noise.std() == pytest.approx(0.02 * 255, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.5])
def test_blur_keeps_constants_and_the_mean(sigma):
    grey = tf.fill((11, 9, 2), 77.0)
    np.testing.assert_allclose(blur(grey, sigma), grey, rtol=1e-5)
    image = picture(11, 9)
    np.testing.assert_allclose(
        np.mean(blur(image, sigma), axis=(0, 1)), image.mean(axis=(0, 1)), rtol=1e-5
    )


def test_blur_is_the_gaussian():
    point = np.zeros((21, 21, 1), "float32")
    point[10, 10] = 1
    spread = blur(point, 1.2).numpy()[..., 0]
    offset = np.arange(-10, 11)
    assert (spread * offset**2).sum() == pytest.approx(1.2**2, rel=0.02)
    assert (spread * offset[:, None] ** 2).sum() == pytest.approx(1.2**2, rel=0.02)
    np.testing.assert_allclose(
        spread, np.outer(spread[10], spread[:, 10]) / spread[10, 10], atol=1e-6
    )
    np.testing.assert_array_equal(blur(point, 0.0), point)


def test_a_picture_is_blurred():
    still = Photometry(probability=0.0).sample((1, 2))
    image = np.random.default_rng(0).uniform(50, 200, (24, 31, 3)).astype("float32")
    found = recolour(image, {**still, "blur": 1.2})
    np.testing.assert_allclose(found, blur(image, 1.2), atol=1e-2)
