import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.spatial import interpolation_matrix, resize

SIZES = pytest.mark.parametrize(
    ("size_in", "size_out"),
    [(1, 1), (1, 5), (5, 1), (2, 4), (7, 7), (8, 4), (9, 4), (10, 3), (16, 5), (4, 9), (5, 40)],
)
FORMS = pytest.mark.parametrize(
    "form",
    [{}, {"antialias": True}, {"align_corners": True}],
    ids=["plain", "antialias", "align_corners"],
)


@SIZES
@FORMS
def test_weights_are_shares(size_in, size_out, form):
    matrix = interpolation_matrix(size_in, size_out, **form)
    assert matrix.shape == (size_out, size_in)
    assert matrix.dtype == "float32"
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


@FORMS
def test_the_same_size_is_the_identity(form):
    np.testing.assert_array_equal(interpolation_matrix(7, 7, **form), np.eye(7))


@SIZES
@pytest.mark.parametrize("antialias", [False, True])
def test_it_resizes_as_tensorflow_does(size_in, size_out, antialias):
    matrix = interpolation_matrix(size_in, size_out, antialias=antialias)
    columns = np.eye(size_in, dtype="float32")[..., None]  # each pixel alone, beside the others
    expected = tf.image.resize(columns, (size_out, size_in), antialias=antialias)[..., 0]
    np.testing.assert_allclose(matrix, expected, atol=1e-4)


@SIZES
def test_aligned_corners_stay_corners(size_in, size_out):
    matrix = interpolation_matrix(size_in, size_out, align_corners=True)
    assert matrix[0, 0] == 1
    assert matrix[-1, -1] == 1 or size_out == 1


@SIZES
def test_aligned_corners_keep_a_line(size_in, size_out):
    line = interpolation_matrix(size_in, size_out, align_corners=True) @ np.arange(size_in)
    last = size_in - 1 if size_out > 1 else 0
    np.testing.assert_allclose(line, np.linspace(0, last, size_out), atol=1e-5)


@SIZES
def test_half_pixel_centres_keep_a_line_inside(size_in, size_out):
    line = interpolation_matrix(size_in, size_out) @ np.arange(size_in)
    expected = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    np.testing.assert_allclose(line, np.clip(expected, 0, size_in - 1), atol=1e-5)


@pytest.mark.parametrize("form", [{}, {"antialias": True}, {"align_corners": True}])
def test_mirrored_in_mirrored_out(form):
    matrix = interpolation_matrix(10, 4, **form)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_the_shared_matrix_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        interpolation_matrix(3, 5)[0, 0] = 7


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (64, 5), (33, 26), (33, 13)])
def test_an_image_is_resized_as_tensorflow_does(size):
    image = noise((33, 26, 3))
    resized = resize(image, size)
    assert resized.dtype == "float32"
    expected = tf.image.resize(image / 255, size, antialias=True)
    np.testing.assert_allclose(resized / 255, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6, 5), (9, 13, 7), (5, 20, 6)])
def test_a_volume_is_resized_axis_by_axis(size):
    volume = noise((7, 10, 6, 2))
    matrices = [
        interpolation_matrix(a, b, antialias=True) for a, b in zip(volume.shape, size, strict=False)
    ]
    expected = np.einsum("ai,bj,ck,ijkn->abcn", *matrices, volume)
    np.testing.assert_allclose(resize(volume, size), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (64, 5)])
def test_a_resized_image_stays_between_its_extremes(size):
    image = noise((33, 26, 3))
    resized = resize(image, size)
    assert image.min() - 1e-3 <= resized.min() <= resized.max() <= image.max() + 1e-3


@pytest.mark.parametrize("linear", [True, False])
def test_equal_sizes_change_nothing(linear):
    image = noise((6, 5, 3))
    np.testing.assert_array_equal(resize(image, (6, 5), linear), image)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "uint16"])
@pytest.mark.parametrize("size", [(3, 4), (20, 30), (7, 1), (6, 5)])
def test_a_mask_keeps_its_values_and_type(dtype, size):
    mask = np.random.default_rng(0).choice([0, 128, 255], (6, 5)).astype(dtype)
    resized = resize(mask, size, linear=False)
    assert resized.dtype == dtype
    assert resized.shape == size
    assert set(np.unique(resized)) <= set(np.unique(mask))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2), (4, 3, 5)])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_mask_times_a_whole_number_is_exact(shape, factor):
    rank = len(shape) - (shape[-1] == 2)
    mask = np.random.default_rng(0).integers(0, 4, shape).astype("uint8")
    grown = mask
    for axis in range(rank):
        grown = np.repeat(grown, factor, axis)
    size = grown.shape[:rank]
    np.testing.assert_array_equal(resize(mask, size, linear=False), grown)
    np.testing.assert_array_equal(resize(grown, shape[:rank], linear=False), mask)


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (5, 64)])
def test_the_nearest_pixel_is_tensorflows(size):
    mask = np.random.default_rng(0).integers(0, 255, (13, 11)).astype("uint8")
    expected = tf.image.resize(mask[..., None], size, "nearest")[..., 0]
    np.testing.assert_array_equal(resize(mask, size, linear=False), expected)


def test_a_size_of_another_rank_is_refused():
    with pytest.raises(
        ValueError,
        match=r"image of shape \(6, 5\) and the size \(3, 4\); expected 2 "
        "spatial axes, then channels",
    ):
        resize(np.zeros((6, 5)), (3, 4))
    with pytest.raises(ValueError, match=r"image of shape \(6, 5\) and the size \(3, 4, 5\)"):
        resize(np.zeros((6, 5), "uint8"), (3, 4, 5), linear=False)
