"""Statistics of the target take the place of the source's, and nothing else changes."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_meduda as km
from keras_meduda.data.io import DataError
from keras_meduda.evaluation.target_statistics import (
    batch_norms,
    re_estimate,
    statistics_batches,
    with_target_statistics,
)
from keras_meduda.models.blocks import batch_norm, conv
from keras_meduda.run import Run
from keras_meduda.run.sliding import SlidingWindow


def small(dropout=0.5):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    x = batch_norm()(layers.Dropout(dropout)(image))
    features = batch_norm()(conv(3, 3, 2)(x))
    return keras.Model(image, {"logits": conv(1, 1, 2)(features), "features": features})


def inputs(count, scale=3.0, shift=5.0):
    x = np.random.default_rng(0).normal(shift, scale, (count, 8, 8, 1))
    return x.astype("float32")


def test_the_first_layer_gets_the_moments_of_the_images_whatever_was_there():
    x, network = inputs(32), small()
    first = batch_norms(network)[0]
    first.moving_mean.assign([100.0])
    re_estimate(network, statistics_batches(x))
    assert float(first.moving_mean[0]) == pytest.approx(x.mean(), abs=1e-4)  # and no dropout
    assert float(first.moving_variance[0]) == pytest.approx(x.var(), rel=0.01)
    assert first.momentum == pytest.approx(0.9) and first.trainable


def test_no_weight_moves_and_the_order_of_equal_batches_does_not_matter():
    x = inputs(16)
    one, other = small(), small()
    weights = [w.numpy() for w in one.trainable_weights]
    re_estimate(one, statistics_batches(x))
    re_estimate(other, statistics_batches(x[::-1]))
    for w, before in zip(one.trainable_weights, weights, strict=True):
        np.testing.assert_array_equal(w, before)
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_gain_and_an_offset_of_the_scanner_are_undone():
    """A network that normalises its input sees the target as it saw the source."""
    task, preprocessing = km.Task(("a",), overlapping=True), km.Preprocessing(
        (8, 8), normalise="zero_one", channels=1
    )
    x = np.random.default_rng(0).integers(0, 60, (16, 8, 8, 1)).astype("uint8")
    run = with_target_statistics(Run(Path(), small(), task, preprocessing), x)
    brighter = with_target_statistics(run, 3 * x + 40)
    for image in x[:2]:
        seen = km.predict(brighter, 3 * image + 40)
        np.testing.assert_allclose(seen, km.predict(run, image), atol=1e-3)


def test_the_given_run_is_left_as_it_is(run):
    before = [w.numpy() for w in run.network.weights]
    images = [np.full((40, 40, 3), v, "uint8") for v in (10, 200)]
    adapted = with_target_statistics(run, images)
    for w, b in zip(run.network.weights, before, strict=True):
        np.testing.assert_array_equal(w, b)
    weights = adapted.network.weights
    changed = [w.name for w, b in zip(weights, before, strict=True) if not np.array_equal(w, b)]
    assert changed and all("moving" in name for name in changed)


def test_images_that_cannot_be_predicted_are_left_out(run, tmp_path):
    """One NaN would spread to every statistic, and every mask would be empty."""
    good = [np.full((40, 40, 3), v, "uint8") for v in (10, 200)]
    (tmp_path / "b.png").write_bytes(b"not an image")
    bad = [np.full((40, 40, 3), np.nan, "float32"), tmp_path / "b.png", tmp_path / "none.png"]
    expected = with_target_statistics(run, good).network.get_weights()
    found = with_target_statistics(run, [bad[0], good[0], *bad[1:], good[1]]).network.get_weights()
    for w, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(w, e)
    with pytest.raises(DataError, match="NaN or infinite") as caught:
        with_target_statistics(run, bad)
    assert len(caught.value.problems) == 3


def test_windows_of_large_images_pass_instead_of_the_whole():
    x = np.arange(10 * 9 * 8, dtype="float32").reshape(10, 9, 8, 1)
    batches = list(statistics_batches([x] * 9, SlidingWindow((4, 12, 5))))
    assert [b.shape for b in batches] == [(8, 4, 9, 5, 1), (1, 4, 9, 5, 1)]
    assert len({float(w[0, 0, 0, 0]) for b in batches for w in b}) > 3
    assert [b.shape for b in statistics_batches([x] * 2)] == [(1, *x.shape)] * 2


def test_what_has_no_statistics_is_said(run):
    network = km.models.UNet((32, 32, 3), 2, filters=(4, 8), norm="instance")
    with pytest.raises(ValueError, match="'unet' has no batch normalisation"):
        with_target_statistics(replace(run, network=network), [np.zeros((32, 32, 3), "uint8")])
    with pytest.raises(ValueError, match="no images"):
        with_target_statistics(run, [])
