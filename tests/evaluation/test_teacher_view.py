"""The teacher's view: agreement under turns, distance of statistics, ties to the image as it is."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_meduda as km
from keras_meduda.evaluation.teacher_view import agreement, choose_view, statistics_distance
from keras_meduda.models.blocks import batch_norm
from keras_meduda.run import Run


def threshold(normed=False, size=(12, 12), slope=0.0):
    """A run that finds what is brighter than 0; `slope` adds a ramp along X, which flips turn."""
    image = keras.Input((*size, 1), name="image")
    x = batch_norm()(image) if normed else image
    ramp = np.linspace(-slope, slope, size[-1], dtype="float32")[:, None]
    logits = layers.Rescaling(9.0, (9.0 * ramp).tolist())(x)
    network = keras.Model(image, {"logits": logits, "features": logits})
    preprocessing = km.Preprocessing(size, normalise="zscore", channels=1,
                                     axes="YX" if len(size) == 2 else "XYZ")
    return Run(Path(), network, km.Task(("a",), overlapping=True), preprocessing)


def noise(seed=0, size=(12, 12), count=8):
    return list(np.random.default_rng(seed).normal(size=(count, *size, 1)).astype("float32"))


@pytest.mark.parametrize("size", [(12, 12), (10, 12), (6, 7, 8)])
def test_a_network_that_does_not_care_about_turns_agrees_wholly(size):
    assert agreement(threshold(size=size), noise(size=size)[0]) == pytest.approx(1)


def test_the_more_a_network_depends_on_the_side_the_less_it_agrees():
    agreed = [agreement(threshold(slope=s), noise()[0]) for s in (0.0, 0.5, 3.0)]
    assert agreed[0] > agreed[1] > agreed[2] > 0


def test_finding_nothing_is_no_agreement():
    assert agreement(threshold(), noise()[0] - 100) == 0


def test_statistics_are_as_far_as_the_images_are_shifted():
    run = threshold(normed=True)  # mean 0, variance 1
    assert statistics_distance(run, [x * 0 + 3 for x in noise()]) == pytest.approx(3, rel=1e-3)
    assert statistics_distance(run, noise()) < 0.1
    assert statistics_distance(threshold(), noise()) == 0


def test_a_better_view_is_chosen_and_a_tie_goes_to_the_image_as_it_is():
    run, images = threshold(slope=0.5), noise()
    stronger = [3 * x for x in images]  # in which the ramp weighs less
    groups = np.arange(len(images))
    better = choose_view(run, {"as it is": images, "stronger": stronger}, groups)
    assert better.view == "stronger" and better.scores["difference"][1] > 0
    assert choose_view(run, {"as it is": stronger, "weaker": images}, groups).view == "as it is"
    assert choose_view(run, {"as it is": images, "same": images}, groups).view == "as it is"


def test_statistics_that_are_far_count_against_a_view():
    run, images = threshold(normed=True), noise()
    views = {"as it is": [x + 9 for x in images], "near": images}
    groups = np.arange(len(images))
    assert choose_view(run, views, groups, beta=0.0).scores["score"].is_monotonic_decreasing
    assert choose_view(run, views, groups, beta=1.0).view == "near"


def test_views_of_other_cases_are_refused():
    images = noise()
    with pytest.raises(ValueError, match="choose_view: .*expected as many"):
        choose_view(threshold(), {"a": images, "b": images[:2]}, range(8))
