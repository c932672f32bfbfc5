"""Random crops: where they lie, and that image and mask are cut alike."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Geometry, Photometry, RandomCrop
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import write_picture
from keras_meduda.data.pipeline import Batches, prepare
from keras_meduda.task import Preprocessing, Task

STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
SEEDS = [(3, i) for i in range(200)]


def places(crop, labels):
    sample = tf.function(crop.sample)
    return np.array([sample(seed, labels) for seed in tf.constant(SEEDS, "int64")])


def share(labels, place, size):
    """Of the most frequent label in a crop."""
    part = labels[place[0] : place[0] + size[0], place[1] : place[1] + size[1]]
    return np.bincount(part.ravel()).max() / part.size


def test_any_place_is_drawn_and_none_reaches_out():
    found = places(RandomCrop((4, 6)), np.zeros((7, 8), "uint8"))
    assert {tuple(place) for place in found} == {(y, x) for y in range(4) for x in range(3)}


def test_a_crop_of_the_whole_image_is_the_image():
    image = np.random.default_rng(0).normal(size=(5, 7, 3)).astype("float32")
    crop = RandomCrop((5, 7))
    place = crop.sample((1, 2), np.zeros((5, 7), "uint8"))
    np.testing.assert_array_equal(crop.apply(image, place), image)


def test_places_that_one_label_fills_are_drawn_again():
    labels = np.zeros((40, 40), "uint8")
    labels[:, 20:] = 1  # a crop of 10 that lies across the border has two labels
    crop, wherever = RandomCrop((10, 10)), RandomCrop((10, 10), max_share=1.0)
    chosen = np.array([share(labels, place, (10, 10)) for place in places(crop, labels)])
    random = np.array([share(labels, place, (10, 10)) for place in places(wherever, labels)])
    one = (random < 0.75).mean()  # of one draw; eleven are all in vain far more rarely
    assert 0.1 < one < 0.25 and (chosen < 0.75).mean() > 0.75


def test_the_last_draw_is_taken_where_none_fits():
    labels = np.zeros((20, 20), "uint8")
    assert len({tuple(place) for place in places(RandomCrop((8, 8)), labels)}) > 100


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Grey images whose fluid is what is brighter than 128: the mask can be told from the image."""
    folder, rows = tmp_path_factory.mktemp("crops"), []
    rng = np.random.default_rng(0)
    for i in range(4):
        grey = np.kron(rng.integers(0, 256, (8, 8)), np.ones((4, 4))).astype("uint8")
        row = {"case": str(i), "image": folder / f"i{i}.png", "mask": folder / f"m{i}.png"}
        write_picture(row["image"], grey)
        write_picture(row["mask"], (grey > 128).astype("uint8"))
        rows.append(row)
    preprocessing = Preprocessing(size=(32, 32), normalise="zero_one", channels=1)
    return prepare(case_table(rows), Task(("fluid",)), preprocessing, folder, labels=True)


def test_batches_hold_crops_of_image_and_mask_alike(source):
    batches = Batches(4, source=source, geometry=STILL, crop=RandomCrop((12, 16)))
    for batch in batches.from_step(0).take(3):
        image, mask = batch["source"]["image"].numpy(), batch["source"]["mask"].numpy()
        assert image.shape == (4, 12, 16, 1) and mask.shape == (4, 12, 16, 2)
        np.testing.assert_array_equal(mask[..., 1], image[..., 0] > 128 / 255)


def test_crops_come_back_with_the_step(source):
    batches = Batches(2, source=source, crop=RandomCrop((12, 16)))
    third = list(batches.from_step(0).take(3))[2]["source"]
    again = next(iter(batches.from_step(2)))["source"]
    np.testing.assert_array_equal(third["image"], again["image"])
    np.testing.assert_array_equal(third["mask"], again["mask"])


@pytest.mark.parametrize("size", [(40, 12), (32, 33)])
def test_a_crop_larger_than_the_image(source, size):
    with pytest.raises(ValueError, match=r"crop \(\d+, \d+\) is larger than .* images \(32, 32\)"):
        Batches(2, source=source, crop=RandomCrop(size))


def test_a_target_has_no_labels_to_choose_a_place_by(source):
    target = dataclasses.replace(source, labels=())
    with pytest.raises(ValueError, match="crop needs labels, which a target does not have"):
        Batches(2, source=source, target=target, photometry=Photometry(), crop=RandomCrop((8, 8)))


@pytest.mark.parametrize("size", [(0, 8), (8,), (8.5, 8)])
def test_a_size_that_is_none(size):
    with pytest.raises(ValueError, match="RandomCrop: size .* expected two positive whole numbers"):
        RandomCrop(size)
