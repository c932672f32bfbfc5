"""Laws of crops and padding, by rank: what a window shows returns to its place."""

import numpy as np
import pytest

from keras_meduda.data.spatial import (
    crop_or_pad,
    foreground_centre,
    paste,
    resampled_size,
    resize,
    window_start,
)

WINDOWS = pytest.mark.parametrize(("shape", "start", "size"), [
    ((9,), (2,), (4,)),
    ((9, 7), (-2, 3), (13, 4)),
    ((9, 7), (0, 0), (9, 7)),
    ((9, 7, 5), (-3, 2, 4), (15, 3, 9)),
    ((9, 7, 5), (20, 0, -9), (4, 7, 3)),  # nothing of it is seen
])


@WINDOWS
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool"])
def test_a_window_shows_the_pixels_at_its_place(shape, start, size, channels, dtype):
    array = np.random.default_rng(0).integers(0, 2, (*shape, *channels)).astype(dtype)
    window = crop_or_pad(array, start, size)
    assert window.shape == (*size, *channels) and window.dtype == dtype
    for place in np.ndindex(size):
        there = tuple(np.add(place, start))
        inside = all(0 <= t < n for t, n in zip(there, shape, strict=True))
        np.testing.assert_array_equal(window[place], array[there] if inside else 0)


@WINDOWS
def test_paste_returns_what_the_window_shows_and_fills_the_rest(shape, start, size):
    array = np.random.default_rng(0).uniform(1, 9, (*shape, 2))
    fill = np.array([0.25, -1.0])
    back = paste(crop_or_pad(array, start, size, fill), start, shape, fill)
    seen = paste(np.ones(size, bool), start, shape)
    np.testing.assert_array_equal(back, np.where(seen[..., None], array, fill))


@WINDOWS
def test_padding_is_undone_by_the_opposite_crop(shape, start, size):
    array = np.random.default_rng(0).uniform(1, 9, shape)
    wide = [n + 6 for n in shape]
    padded = paste(array, [3] * len(shape), wide, fill=7)
    np.testing.assert_array_equal(crop_or_pad(padded, [3] * len(shape), shape), array)
    assert (np.delete(padded.ravel(), np.flatnonzero(padded.ravel() != 7)) == 7).all()


@pytest.mark.parametrize("size", [(1,), (8,), (9,), (40,)])
@pytest.mark.parametrize("centre", [None, (0.0,), (3.5,), (12.0,), (13.0,)])
def test_a_window_stays_inside_or_has_the_image_in_its_middle(size, centre):
    (start,) = window_start((13,), size, centre)
    if size[0] <= 13:
        assert 0 <= start <= 13 - size[0]
        if centre and size[0] / 2 <= centre[0] <= 13 - size[0] / 2:
            assert abs(start + size[0] / 2 - centre[0]) <= 0.5
    else:
        before, after = -start, size[0] - 13 + start
        assert abs(before - after) <= 1


def test_the_centre_of_the_foreground():
    foreground = np.zeros((10, 12, 14), bool)
    assert foreground_centre(foreground) is None
    foreground[2:5, 3, 13] = True
    assert foreground_centre(foreground) == (3.5, 3.5, 13.5)
    assert foreground_centre(foreground[:, 3]) == (3.5, 13.5)


@pytest.mark.parametrize(("size", "spacing", "target", "expected"), [
    ((256, 256, 32), (0.1, 0.1, 0.5), (0.1, 0.1, 0.5), (256, 256, 32)),
    ((10, 10), (2.0, 1.0), (1.0, 2.0), (20, 5)),
    ((11, 13), (0.5, 0.5), (1.0, 1.0), (6, 7)),  # ties go up
    ((11, 13), np.float32((0.1, 0.1)), (0.2, 0.2), (6, 7)),  # also those a header has blurred
    ((3,), (0.1,), (9.0,), (1,)),
])
def test_sizes_at_another_spacing(size, spacing, target, expected):
    assert resampled_size(size, spacing, target) == expected


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 1.5)])
def test_resampling_keeps_the_field_of_view(spacing):
    """The centre of mass of a blob stays where it is, in mm, to a tenth of a voxel."""
    grid = np.stack(np.mgrid[:20, :24, :16], axis=-1) + 0.5
    blob = np.exp(-0.5 * (((grid - (9, 14, 7)) / 2.5) ** 2).sum(axis=-1))[..., None]
    size = resampled_size(blob.shape[:3], (1, 1, 1), spacing)
    moved = resize(blob, size)
    places = (np.stack(np.mgrid[tuple(slice(n) for n in size)], axis=-1) + 0.5) * (
        np.array(blob.shape[:3]) / size)
    for array, points in ((blob, grid), (moved, places)):
        centre = (array * points).sum(axis=(0, 1, 2)) / array.sum()
        np.testing.assert_allclose(centre, (9, 14, 7), atol=0.1)


def test_ties_of_a_window_go_up():
    assert window_start((20,), (5,), (4.5 - 1e-9,)) == window_start((20,), (5,), (4.5,)) == (2,)
