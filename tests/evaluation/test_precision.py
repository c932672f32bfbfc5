"""Predictions in another precision, and compiled by XLA: the same masks, nearly."""

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.models.stages import leaves


@pytest.fixture
def image(run):
    return np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32")


def test_half_precision_is_near(run, image):
    half = km.load(run.path, precision="mixed_bfloat16")
    computed = {layer.compute_dtype for layer in leaves(half.network)}
    assert computed == {"bfloat16", "float32"}  # the classifier stays
    assert all(weight.dtype == "float32" for weight in half.network.weights)
    received, expected = half.probabilities(image), run.probabilities(image)
    assert 0 < np.abs(received - expected).max() < 0.03


def test_xla_changes_no_more_than_rounding(run, image):
    compiled = km.load(run.path, xla=True)
    np.testing.assert_allclose(compiled.probabilities(image), run.probabilities(image), atol=1e-5)


def test_an_unknown_precision_is_refused(run):
    with pytest.raises(ValueError, match="load: precision='half'; expected one of .*bfloat16"):
        km.load(run.path, precision="half")
