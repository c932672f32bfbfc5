"""Random contrasts: tables, networks and curves that are not monotone."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import spearmanr

from keras_meduda.data.augment import GIN, Geometry, LabelCurves, RandomTable, change, levels
from keras_meduda.data.augment.contrast import bezier, interpolate

ALWAYS = [RandomTable(probability=1.0), GIN(probability=1.0), LabelCurves(probability=1.0)]
SHAPES = {"slice": (20, 18, 1), "colour": (20, 18, 3), "volume": (10, 9, 8, 2)}
names = {"ids": lambda x: x if isinstance(x, str) else type(x).__name__}


def scan(shape, eight_bit=False):
    """Noise in a box of a brain, 0 around it."""
    image = np.zeros(shape, "float32")
    rng = np.random.default_rng(0)
    inner = tuple(slice(2, -2) for _ in shape[:-1])
    part = rng.normal(size=image[inner].shape)
    image[inner] = np.clip(128 + 30 * part, 1, 255) if eight_bit else part
    return image


def masks(shape):
    """A class within another."""
    mask = np.zeros((*shape[:-1], 2), "float32")
    mask[4:8, 4:8, ..., 1] = 1
    mask[5:7, 5:7, ..., 0] = 1
    return mask


@lru_cache
def changed(effect, shape, eight_bit=False):
    image, mask = scan(shape, eight_bit), masks(shape)
    return tf.function(lambda seed: change((effect,), image, seed, mask, eight_bit))


def draws(effect, shape=SHAPES["slice"], count=30, eight_bit=False):
    function = changed(effect, shape, eight_bit)
    return [function(tf.constant([7, i], "int64")).numpy() for i in range(count)]


@pytest.mark.parametrize("shape", SHAPES, **names)
@pytest.mark.parametrize("effect", ALWAYS, **names)
def test_what_never_happens_is_the_identity(effect, shape):
    never = replace(effect, probability=0.0)
    np.testing.assert_array_equal(draws(never, SHAPES[shape], 1)[0], scan(SHAPES[shape]))


def test_a_network_of_no_strength_is_the_identity():
    for shape in SHAPES.values():
        np.testing.assert_allclose(draws(GIN(0.0, 1.0), shape, 1)[0], scan(shape), atol=1e-5)


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("shape", SHAPES, **names)
@pytest.mark.parametrize("effect", ALWAYS, **names)
def test_background_stays_zero_and_the_range_is_kept(effect, shape, eight_bit):
    image = scan(SHAPES[shape], eight_bit)
    for x in draws(effect, SHAPES[shape], 3, eight_bit):
        assert x.shape == image.shape and np.isfinite(x).all()
        np.testing.assert_array_equal(x[(image == 0).all(axis=-1)], 0)
        assert not np.allclose(x, image, atol=0.01)
        assert not eight_bit or 0 <= x.min() <= x.max() <= 255


@pytest.mark.parametrize("effect", ALWAYS, **names)
def test_a_seed_gives_the_same_and_another_another(effect):
    one, again = draws(effect, count=2), draws(effect, count=2)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one[0] - one[1]).max() > 0.01


@pytest.mark.parametrize("effect", ALWAYS, **names)
def test_half_of_the_images_stay_clean(effect):
    image = scan(SHAPES["slice"])
    half = draws(replace(effect, probability=0.5), count=60)
    assert 0.35 < np.mean([np.array_equal(x, image) for x in half]) < 0.65


@pytest.mark.parametrize("effect", ALWAYS, **names)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_image_gives_no_nan(effect, value):
    image = np.full((8, 8, 1), value, "float32")
    for i in range(5):
        assert np.isfinite(change((effect,), image, (3, i), np.ones((8, 8, 2), "float32"))).all()


@pytest.mark.parametrize("effect", [RandomTable(probability=1.0)], **names)
def test_z_scores_stay_z_scores(effect):
    image = scan(SHAPES["volume"])
    inside = image != 0
    for x in draws(effect, SHAPES["volume"], 5):
        for c in range(2):
            own, was = x[..., c][inside[..., c]], image[..., c][inside[..., c]]
            assert own.mean() == pytest.approx(was.mean(), abs=1e-4)
            assert own.std() == pytest.approx(was.std(), rel=1e-4)


def test_a_network_keeps_the_norm():
    image = scan(SHAPES["slice"])
    inside = image != 0
    centred = image[inside] - image[inside].mean()
    for x in draws(GIN(probability=1.0), count=5):
        found = x[inside] - image[inside].mean()
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(centred), rel=1e-3)


def test_a_table_is_a_function_of_the_grey_level_and_seldom_monotone():
    image = scan(SHAPES["slice"])
    inside = image != 0
    order = np.argsort(image[inside])
    monotone = 0
    for x in draws(RandomTable(probability=1.0)):
        steps = np.diff(x[inside][order])
        turns = (np.diff(np.sign(steps[np.abs(steps) > 1e-6])) != 0).sum()
        assert turns <= 4  # six knots have four in between
        monotone += turns == 0
    assert monotone < 5


def test_tables_are_chosen_by_the_targets():
    """Of an image that is mostly dark, a target that is mostly bright wants the reverse."""
    skewed = np.random.default_rng(1).exponential(size=(24, 24, 1)).astype("float32") + 0.1
    target = levels([-skewed + 20])
    image = (skewed - skewed.mean()) / skewed.std()

    def distances(effect):
        drawn = tf.function(lambda seed: change((effect,), image, seed))
        found = [drawn(tf.constant([1, i], "int64")).numpy() for i in range(12)]
        return [np.abs(np.subtract(levels([x])[0], target[0])).mean() for x in found]

    free = np.median(distances(RandomTable(probability=1.0)))
    assert np.median(distances(RandomTable(targets=target, probability=1.0))) < 0.5 * free


def test_targets_are_told_by_a_digest():
    one, other = (levels([scan(SHAPES["slice"]) ** p]) for p in (1, 3))
    assert repr(RandomTable(targets=one)) != repr(RandomTable(targets=other))
    assert len(repr(RandomTable(targets=one))) < 120
    assert levels([np.zeros((4, 4, 1))]) == ()


def test_background_is_reversed_and_a_class_goes_its_own_way():
    shape = SHAPES["slice"]
    image, mask = scan(shape)[..., 0], masks(shape)
    outside = (image != 0) & (np.indices(image.shape).max(axis=0) > 11)  # beyond soft edges
    rises = []
    for x in draws(LabelCurves(probability=1.0), count=20):
        assert spearmanr(image[outside], x[..., 0][outside]).statistic < -0.9
        core = mask[..., 0] == 1
        rises.append(spearmanr(image[core], x[..., 0][core]).statistic > 0)
    assert 0 < sum(rises) < 20


def test_a_bezier_curve_rises_from_corner_to_corner():
    for i in range(20):
        points = tf.random.stateless_uniform([2, 2], (0, i))
        for axis in bezier(points):
            assert axis[0] == 0 and float(axis[-1]) == pytest.approx(1.0)
            assert (np.diff(axis) >= -1e-6).all()


def test_interpolation_is_numpys():
    x = np.linspace(-2, 7, 50).astype("float32")
    knots, values = np.float32([-1, 0, 2, 2, 5]), np.float32([3, -1, 0, 4, 2])
    distinct = x != 2
    found = interpolate(tf.constant(x), tf.constant(knots), tf.constant(values)).numpy()
    np.testing.assert_allclose(found[distinct], np.interp(x, knots, values)[distinct], atol=1e-5)


def test_they_run_in_batches(batches):
    every = (RandomTable(), GIN(0.5, 0.15), LabelCurves())
    data = replace(batches, source_photometry=every, photometry=None)
    image = next(data.from_step(3).as_numpy_iterator())["source"]["image"]
    assert np.isfinite(image).all() and -1 <= image.min() <= image.max() <= 1
    still = Geometry(flip=False, rotation=0, scale=0, shift=0)
    plain = replace(data, geometry=still, source_photometry=None)
    same = replace(data, geometry=still)
    seen = [next(d.from_step(0).as_numpy_iterator())["source"] for d in (plain, same)]
    np.testing.assert_array_equal(seen[0]["mask"], seen[1]["mask"])
