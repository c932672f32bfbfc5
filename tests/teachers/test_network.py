"""A network of this library as teacher."""

import dataclasses

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.teachers.network import network


@pytest.mark.parametrize("overlapping", [True, False])
def test_a_run_with_a_window_teaches_by_it_and_gives_no_embedding(run, overlapping):
    """Windows over all of the image are the whole image."""
    task = km.Task(("a", "b"), True) if overlapping else km.Task(("a",))
    run = dataclasses.replace(run, task=task)
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype("uint8")
    whole = network(run).teach(image, None)
    assert whole.embedding.shape == (32, 32, 4)
    same = dataclasses.replace(run, window=km.SlidingWindow((32, 32)))
    taught = network(same).teach(image, None)
    assert taught.embedding is None
    np.testing.assert_allclose(taught.probability, whole.probability, atol=1e-5)


def test_the_network_of_a_run_with_a_window_is_smaller_than_its_images(run):
    small = km.models.AERUNet((16, 16, 3), channels=2, filters=(4, 8))
    run = dataclasses.replace(run, network=small, window=km.SlidingWindow((16, 16)))
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype("uint8")
    assert network(run).teach(image, None).probability.shape == (50, 40)


def test_the_foreground_of_a_network_is_any_class(run):
    three = km.models.AERUNet((32, 32, 3), channels=3, filters=(4, 8))
    run = dataclasses.replace(run, network=three, task=km.Task(("a", "b")))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype("uint8")
    expected = 1 - km.predict(run, image)[..., 0]
    np.testing.assert_allclose(network(run).teach(image, None).probability, expected, atol=1e-5)
