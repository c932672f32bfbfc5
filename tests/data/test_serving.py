import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.serving import preprocess, resize
from keras_meduda.data.spatial import resize as resize_array
from keras_meduda.task import Preprocessing

GREY_LEVEL = 1 / 127.5  # of images in −1…1
IMAGES = pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 50), (200, 151), (21, 20)])
INPUTS = pytest.mark.parametrize("goal", [(48, 40), (64, 64), (31, 33)])


def photographs(size, channels=3):
    """A smooth image, noise, and black, white and grey ones."""
    rng = np.random.default_rng(0)
    smooth = resize_array(rng.uniform(0, 255, (6, 7, channels)), size)
    noise = rng.integers(0, 256, (*size, channels))
    blank = [np.full((*size, channels), level) for level in (0, 77, 255)]
    return np.stack([smooth, noise, *blank]).astype("uint8")


def both(size, preprocessing, channels=3):
    images = photographs(size, channels)
    return preprocess(images, preprocessing), np.stack([preprocessing.apply(i) for i in images])


@IMAGES
@INPUTS
@pytest.mark.parametrize("normalise", ["minus1_1", "zero_one"])
def test_a_served_image_is_the_applied_one_within_a_grey_level(size, goal, normalise):
    served, applied = both(size, Preprocessing(size=goal, normalise=normalise))
    assert served.dtype == "float32"
    difference = np.abs(served - applied)
    assert difference.max() <= 1.001 * GREY_LEVEL
    assert np.mean(difference > 1e-6) <= 1e-3  # almost all are equal


@IMAGES
@pytest.mark.parametrize("goal", [(96, 80), (83, 101)])
def test_equalised_images_are_equal_but_for_single_pixels(size, goal):
    """One that the resize has rounded the other way is a share of its tile's contrast."""
    served, applied = both(size, Preprocessing(size=goal, intensity=("clahe",)))
    assert np.mean(np.abs(served - applied) > 1.001 * GREY_LEVEL) <= 1e-3


@pytest.mark.parametrize("intensity", [(), ("clahe",)])
def test_images_of_the_networks_size_are_exactly_equal(intensity):
    served, applied = both((48, 40), Preprocessing(size=(48, 40), intensity=intensity))
    np.testing.assert_array_equal(served, applied)


@IMAGES
@INPUTS
def test_served_z_scores_are_the_applied_ones(size, goal):
    served, applied = both(size, Preprocessing(size=goal, normalise="zscore", channels=1), 1)
    np.testing.assert_allclose(served, applied, atol=1e-4)
    assert not np.any(served[2:])  # blank images


@IMAGES
@INPUTS
def test_served_z_scores_of_the_foreground_are_the_applied_ones(size, goal):
    settings, images = Preprocessing(size=goal, normalise="zscore_foreground"), photographs(size)
    images[:2, : size[0] // 3] = 0
    served, applied = preprocess(images, settings), [settings.apply(image) for image in images]
    np.testing.assert_allclose(served[:2], applied[:2], atol=1e-4)
    assert np.any(served[:2]) and not np.any(served[2])  # a black image


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=(48, 40), intensity=("clahe",)),
        Preprocessing(size=(48, 40), normalise="zscore"),
    ],
    ids=["clahe", "zscore"],
)
def test_one_graph_serves_all_sizes(preprocessing):
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def served(images):
        traces.append(images)
        return preprocess(images, preprocessing)

    for size in [(64, 64), (97, 131)]:
        images = photographs(size)
        np.testing.assert_allclose(served(images), preprocess(images, preprocessing), atol=1e-5)
    assert len(traces) == 1


@IMAGES
@INPUTS
def test_graph_and_array_resize_alike(size, goal):
    image = np.random.default_rng(0).uniform(0, 1, (*size, 2)).astype("float32")
    np.testing.assert_allclose(resize(image[None], goal)[0], resize_array(image, goal), atol=1e-4)
