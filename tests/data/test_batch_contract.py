"""Nothing of a target's labels can be reached from its batches."""

import os
from dataclasses import replace

import numpy as np
import tensorflow as tf

from keras_meduda.data.augment import LabelCurves, Photometry
from keras_meduda.data.pipeline import Batches


def first(batches):
    return next(batches.from_step(0).as_numpy_iterator())


def test_a_target_has_images_and_no_word_on_their_labels(batches):
    target = first(replace(batches, boundary=True))["target"]
    assert set(target) == {"image", "strong", "style"}
    assert not any("label" in path or "voxel" in path for path in batches.target.images)


def test_labels_given_with_a_target_are_forgotten(batches):
    both = Batches(2, source=batches.source, target=batches.source)
    assert both.source.labels and not both.target.labels and not both.target.voxels


def test_the_files_of_a_target_s_labels_are_never_opened(batches, tmp_path):
    """The label files are gone before the first batch, and the batches are the same."""
    labels = []
    for number, file in enumerate(batches.source.labels):
        labels.append(str(tmp_path / f"{number}.label"))
        with open(file, "rb") as given, open(labels[-1], "wb") as copy:
            copy.write(given.read())
    target = replace(batches.source, labels=tuple(labels))
    kept, gone = (Batches(2, target=target, photometry=Photometry()) for _ in range(2))
    before = first(kept)
    for label in labels:
        os.unlink(label)
    tf.nest.map_structure(np.testing.assert_array_equal, before, first(gone))


def test_effects_of_labels_change_the_source_alone(batches):
    plain = first(replace(batches, source_photometry=None))
    curved = first(replace(batches, source_photometry=LabelCurves(probability=1.0)))
    tf.nest.map_structure(np.testing.assert_array_equal, plain["target"], curved["target"])
    assert not np.array_equal(plain["source"]["image"], curved["source"]["image"])
