import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.run.sliding import SlidingWindow, sliding_window
from keras_meduda.run.sliding_graph import sliding_window_graph

WINDOWS = [
    ((20, 31), SlidingWindow((8, 9), (5, 4))),
    ((20, 31), SlidingWindow((8, 9), (5, 4), gaussian=True)),
    ((10, 12, 9), SlidingWindow((4, 5, 6), gaussian=True)),
    ((10, 12), SlidingWindow((40, 5))),
]


def picture(shape, channels=3):
    return np.random.default_rng(0).normal(size=(2, *shape, channels)).astype("float32")


def ramp(x):
    """A network that answers by the place in its window."""
    grids = np.meshgrid(*(np.arange(n) for n in x.shape[1:-1]), indexing="ij")
    return x * np.float32(1 + sum((i + 1) * g for i, g in enumerate(grids)))[..., None]


@pytest.mark.parametrize("slide", [sliding_window, sliding_window_graph])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_weighted_mean_over_all_windows_of_a_pixel(shape, window, slide):
    x = picture(shape)
    sides = [min(a, b) for a, b in zip(window.size, shape, strict=True)]
    weight = functools.reduce(np.multiply.outer, [window.profile(side) for side in sides])
    total, weights = np.zeros(x.shape), np.zeros(shape)
    for corner in itertools.product(*window.starts(shape)):
        part = tuple(slice(a, a + n) for a, n in zip(corner, sides, strict=True))
        total[(slice(None), *part)] += weight[..., None] * ramp(x[(slice(None), *part)])
        weights[part] += weight
    expected = total / weights[..., None]
    np.testing.assert_allclose(slide(ramp, x, window), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_a_pointwise_network_sees_no_windows(shape, window):
    x = picture(shape)
    signature = [tf.TensorSpec((None, *shape, 3))]
    graph = tf.function(lambda x: sliding_window_graph(tf.sin, x, window), signature)
    y = graph(x)
    np.testing.assert_allclose(y, np.sin(x), atol=1e-5)


def test_places_are_mmsegmentations():
    assert SlidingWindow((256, 256), (170, 170)).starts((512, 512)) == [[0, 170, 256]] * 2


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (5, 3), (7, 7), (8, 1)])
def test_windows_cover_every_pixel_and_stay_inside(length, side, stride):
    (starts,) = SlidingWindow((side,), (stride,)).starts((length,))
    side = min(side, length)
    assert sorted({p for a in starts for p in range(a, a + side)}) == list(range(length))
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 8),), r"size \(0, 8\), stride \(0, 4\); expected a positive whole number"),
        (((8, 8), (4,)), r"size \(8, 8\), stride \(4,\); expected"),
        (((8, 8), (9, 4)), r"stride \(9, 4\) leaves gaps between windows \(8, 8\)"),
    ],
)
def test_windows_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(*arguments)


def test_a_window_of_another_rank():
    with pytest.raises(ValueError, match=r"size \(8, 8\) for an image of shape \(8, 8, 8\)"):
        SlidingWindow((8, 8)).starts((8, 8, 8))


def test_a_window_weighs_as_a_gaussian_of_an_eighth_and_moves_by_half():
    window = SlidingWindow((16, 5), gaussian=True)
    expected = np.exp(-0.5 * ((np.arange(16) - 7.5) / 2) ** 2)
    np.testing.assert_allclose(window.profile(16), np.maximum(expected, 1e-3), rtol=1e-5)
    assert window.stride == (8, 3)


@pytest.mark.parametrize("together", [1, 2**9, 2**20])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_windows_together_give_what_they_give_one_by_one(shape, window, together):
    x, sizes = picture(shape), []

    def network(x):
        sizes.append(len(x))
        return ramp(x)

    expected = sliding_window_graph(ramp, x, window)
    found = sliding_window(network, x, window, together)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    count = np.prod([len(starts) for starts in window.starts(shape)])
    sides = [min(a, b) for a, b in zip(window.size, shape, strict=True)]
    assert sum(sizes) == len(x) * count
    assert max(sizes) == len(x) * min(count, max(1, together // (len(x) * np.prod(sides))))


def test_windows_that_do_not_fit_in_memory_go_one_by_one(capsys):
    x, sizes = picture((20, 31)), []

    def network(x):
        if len(x) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        sizes.append(len(x))
        return 2 * x

    np.testing.assert_allclose(
        sliding_window(network, x, SlidingWindow((8, 9), (5, 4))), 2 * x, rtol=1e-5
    )
    assert set(sizes) == {2}
    assert capsys.readouterr().out.count("do not fit in memory; they go one by one") == 1


def test_a_single_window_that_does_not_fit_is_an_error():
    def network(x):
        raise MemoryError

    with pytest.raises(MemoryError):
        sliding_window(network, picture((20, 31)), SlidingWindow((8, 9)))


def test_another_error_of_a_network_is_passed_on():
    def network(x):
        raise ValueError("no network")

    with pytest.raises(ValueError, match="no network"):
        sliding_window(network, picture((20, 31)), SlidingWindow((8, 9)))
