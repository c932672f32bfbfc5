import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal
from skimage.exposure import match_histograms

from keras_meduda.data.intensity import clahe, clahe_graph, in_proportion, match_histogram, zscore


def sines(shape):
    k = np.arange(np.prod(shape))
    return np.clip(50 * (np.sin(0.05 * k) + np.sin(0.0011 * k)) + 120, 0, 255).astype(
        "uint8").reshape(shape)


def images(size, seed=0):
    """Noise, a smooth image, two grey levels and one: few and many values in a tile."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 9).reshape(shape) * 600 + 120
    kinds = rng.integers(0, 256, shape), smooth, rng.integers(0, 2, shape) * 255, np.full(shape, 77)
    return np.stack([np.clip(kind, 0, 255).astype("uint8") for kind in kinds])


SIZES = [(64, 64), (128, 96), (97, 131), (64, 65), (65, 64), (7, 5), (1, 1)]


def test_clahe_gives_the_published_sums():
    image = sines((64, 64, 3))
    assert image.sum() == 1_488_241
    equalised = clahe(image)
    assert equalised.sum() == 1_601_778
    assert equalised[0, 0].tolist() == [111, 112, 116]
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., 0]
    assert luminance.sum() == 496_055
    assert clahe(luminance).sum() == 533_921


def test_clahe_of_grey_ignores_the_channel_axis():
    grey = sines((40, 52))
    np.testing.assert_array_equal(clahe(grey[..., None])[..., 0], clahe(grey))


@pytest.mark.parametrize("size", SIZES)
def test_clahe_graph_is_opencvs(size):
    batch = images(size)
    graph = tf.function(
        clahe_graph, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    np.testing.assert_array_equal(graph(batch), [clahe(image) for image in batch])


@pytest.mark.parametrize("size", SIZES)
def test_clahe_graph_of_grey_is_opencvs(size):
    batch = images(size)[..., :1]
    equalised = clahe_graph(batch.astype("float32"))
    assert equalised.dtype == "float32"
    np.testing.assert_array_equal(equalised, [clahe(image) for image in batch])


@pytest.mark.parametrize(("clip_limit", "grid"), [(1.0, 4), (4.0, 8), (0.01, 2)])
def test_clahe_graph_follows_opencvs_settings(clip_limit, grid):
    batch = images((50, 70))
    expected = [clahe(image, clip_limit, grid) for image in batch]
    np.testing.assert_array_equal(clahe_graph(batch, clip_limit, grid), expected)


def test_clahe_graph_survives_export(tmp_path):
    module = tf.Module()
    module.equalise = tf.function(
        clahe_graph, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    batch = images((30, 41))
    served = tf.saved_model.load(str(tmp_path)).equalise(batch.astype("float32"))
    np.testing.assert_array_equal(served, [clahe(image) for image in batch])


@pytest.mark.parametrize("image", [np.zeros((8, 8, 2), "uint8"), np.zeros((8, 8, 3)),
                                   np.zeros(8, "uint8")])
def test_clahe_says_what_it_received(image):
    with pytest.raises(ValueError, match=f"received {image.dtype} of shape"):
        clahe(image)


def test_clahe_graph_says_what_it_received():
    with pytest.raises(ValueError, match=r"received \(2, 8, 8, 4\)"):
        clahe_graph(np.zeros((2, 8, 8, 4), "uint8"))


def test_opencv_without_graphics_libraries_names_the_cure(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", "import keras_meduda.data._cv2"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    for expected in ("libGL.so.1", "apt-get install libgl1 libglib2.0-0",
                     "pip install opencv-python-headless"):
        assert expected in result.stderr


def test_intensity_loads_no_tensorflow():
    code = "import sys, keras_meduda.data.intensity; sys.exit('tensorflow' in sys.modules)"
    path = os.pathsep.join(sys.path)
    assert subprocess.run([sys.executable, "-c", code],
                          env={**os.environ, "PYTHONPATH": path}).returncode == 0


def test_match_histogram_gives_the_published_values():
    k = np.arange(120)
    image = np.round(100 * np.sin(0.1 * k), 3)[:, None]
    reference = np.round(50 * np.cos(0.07 * k) ** 2 + 3, 3)[:, None]
    matched = match_histogram(image, reference)[:, 0]
    assert matched.mean() == pytest.approx(26.8335167, abs=1e-7)
    assert matched.std() == pytest.approx(17.9094257, abs=1e-7)
    assert matched[:4] == pytest.approx([22.652, 25.694, 28.770, 31.834], abs=1e-9)
    assert (matched.min(), matched.max()) == pytest.approx((3.01, 53), abs=1e-9)


def test_match_histogram_rounds_whole_numbers():
    image, reference = images((32, 32))[:2]
    matched = match_histogram(image, reference)
    assert matched.dtype == "uint8"
    exact = match_histograms(image.astype("float64"), reference.astype("float64"), channel_axis=-1)
    np.testing.assert_array_equal(matched, np.rint(exact))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_match_histogram_with_itself_changes_nothing(dtype):
    image = images((16, 16))[1].astype(dtype)
    matched = match_histogram(image, image)
    assert matched.dtype == dtype
    np.testing.assert_array_equal(matched, image)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_match_histogram_sees_the_foreground_alone(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 100, (6, 7, 8, 1)).astype(dtype)
    reference = rng.integers(100, 200, (5, 9, 4, 1)).astype("uint8")
    mask, reference_mask = rng.random(image.shape[:3]) < 0.5, rng.random(reference.shape[:3]) < 0.7
    matched = match_histogram(image, reference, mask, reference_mask)
    np.testing.assert_array_equal(matched[~mask], image[~mask])
    np.testing.assert_array_equal(
        matched[mask], match_histogram(image[mask], reference[reference_mask]))
    assert matched[mask].min() >= 100


def nuclei(share, dark, bright, seed=0, size=64):
    """A picture of dark and bright noise, `(size, size, 1)`, and its labels; its top is bright."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), "uint8")
    labels[: round(share * size)] = 1
    return (np.where(labels, bright, dark) + rng.normal(0, 3, labels.shape))[..., None], labels


def test_in_proportion_leaves_a_reference_of_equal_proportions_alone():
    image, labels = nuclei(0.25, 40, 120)
    reference, there = nuclei(0.25, 90, 200, seed=1)
    levels = in_proportion(reference, there, labels)
    assert levels.shape == (labels.size, 1)
    assert_array_equal(np.sort(levels.ravel()), np.sort(reference.ravel()))
    assert_array_equal(match_histogram(image, levels), match_histogram(image, reference))


def test_in_proportion_gives_each_class_its_own_levels_where_proportions_differ():
    image, labels = nuclei(0.0625, 40, 120)
    reference, there = nuclei(0.5, 90, 200, seed=1)
    plain = match_histogram(image, reference)
    assert (plain[labels == 0] > 150).mean() > 0.4, "background takes the levels of nuclei"
    twin = match_histogram(image, in_proportion(reference, there, labels))
    assert (twin[labels == 0] < 110).all() and (twin[labels == 1] > 180).all()


def test_in_proportion_of_a_class_that_the_reference_lacks_takes_all_levels():
    reference = np.arange(10.0).reshape(10, 1)
    levels = in_proportion(reference, np.zeros(10), [0, 1, 1, 1])
    assert_array_equal(levels.ravel(), [0, 0, 4, 9])


def test_match_histogram_says_what_it_received():
    image = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="equal channels"):
        match_histogram(image, np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match="0 voxels"):
        match_histogram(image, image, mask=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"received shape \(4, 5\)"):
        match_histogram(image, image, reference_mask=np.ones((4, 5)))


def test_zscore_standardises_the_population():
    standard = zscore(np.random.default_rng(0).normal(5, 3, (9, 10, 11)))
    assert standard.dtype == "float32"
    assert (standard.mean(), standard.std()) == pytest.approx((0, 1), abs=1e-6)


def test_zscore_ignores_scale_and_offset():
    volume = np.random.default_rng(0).random((6, 6, 6))
    np.testing.assert_allclose(zscore(40 * volume - 7), zscore(volume), atol=1e-5)


def test_zscore_over_a_mask_is_zero_outside():
    volume = np.random.default_rng(0).random((6, 6, 6))
    mask = volume > 0.4
    standard = zscore(volume, mask)
    np.testing.assert_array_equal(standard[mask], zscore(volume[mask]))
    assert not standard[~mask].any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_image_becomes_zeros(value):
    scaled = zscore(np.full((7, 7, 7), value))
    assert scaled.dtype == "float32"
    assert not scaled.any()
