"""Volumes: from the case's grid to the network's and back, image and labels together."""

import itertools
import json

import numpy as np
import pytest

from keras_meduda.task import Preprocessing, Task, to_json

AXES = ["".join(order) for order in itertools.permutations("XYZ")]
SHAPE, SPACING = (11, 14, 6), (0.1, 0.1, 0.5)
LESION, PARTS = Task(("lesion",)), Task(("core", "whole"), overlapping=True)
FITS = pytest.mark.parametrize("fit", ["crop", "crop_foreground"])
SIZES = pytest.mark.parametrize("size", [(8, 8, 4), (16, 16, 16), (8, 16, 6), (20, 5, 3)])


def volume(shape=SHAPE, seed=0, channels=1):
    """Noise in a box off the centre, 0 around it."""
    image = np.zeros((*shape, channels), "float32")
    box = tuple(slice(1, 2 * n // 3) for n in shape)
    inner = image[box]
    inner[...] = np.random.default_rng(seed).uniform(100, 900, inner.shape)
    return image


def settings(size=(8, 8, 4), fit="crop", normalise="zscore_foreground", **other):
    return Preprocessing(size, normalise=normalise, channels=1, fit=fit, **{"axes": "XYZ", **other})


def lesion(image):
    """Labels that the image itself shows: 1 where it is bright, so that they must move with it."""
    return (image[..., 0] > 500).astype("uint8")


@pytest.mark.parametrize("axes", AXES)
def test_axes_come_in_the_order_that_is_asked_for(axes):
    """The voxel at x, y, z lies at the coordinates that the letters name."""
    size = tuple({"X": 11, "Y": 14, "Z": 6}[a] for a in axes)
    image = np.zeros((11, 14, 6, 1), "float32")
    image[7, 3, 5] = 255
    stored = settings(size, axes=axes, normalise="zero_one").stored(image)
    place = tuple({"X": 7, "Y": 3, "Z": 5}[a] for a in axes)
    assert stored.shape == (*size, 1) and stored[place] == 255 and stored.sum() == 255


def test_slices_first_is_the_order_of_ratlesnet():
    """A file holds (H, W, D); the released weights have seen (D, H, W)."""
    image = volume((64, 48, 18))
    first = settings((18, 64, 48), axes="ZXY", normalise="zero_one").stored(image)
    last = settings((64, 48, 18), axes="XYZ", normalise="zero_one").stored(image)
    np.testing.assert_array_equal(first[..., 0], np.moveaxis(last[..., 0], 2, 0))


@FITS
@pytest.mark.parametrize("axes", AXES)
@SIZES
def test_image_and_labels_move_together(size, axes, fit):
    """Labels that are the image's own bright voxels stay those of the prepared image."""
    image, preprocessing = volume(), settings(size, fit, "zscore", axes=axes)
    labels = preprocessing.stored_labels(lesion(image), image)
    assert labels.dtype == "uint8" and labels.shape == size
    bright, dark = (preprocessing.stored(image)[..., 0][labels == n] for n in (1, 0))
    assert bright.min() > dark.max()


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("fit", ["crop", "crop_foreground"])
def test_image_and_labels_are_resampled_alike(axes, fit):
    """A ball in anisotropic voxels: labels are where its grey values are above one half."""
    x, y, z = np.mgrid[:40, :44, :12]
    ball = ((x - 22) / 12) ** 2 + ((y - 18) / 12) ** 2 + ((z - 6) / 3) ** 2 < 1
    image = 1000 * ball[..., None].astype("float32")
    spacing = {"X": 0.08, "Y": 0.15, "Z": 0.2}
    preprocessing = settings((40, 40, 40), fit, "zero_one", axes=axes,
                             spacing=tuple(spacing[a] for a in axes))
    labels = preprocessing.stored_labels(ball.astype("uint8"), image, (0.1, 0.1, 0.4))
    seen = preprocessing.stored(image, (0.1, 0.1, 0.4))[..., 0] > 127
    assert 2 * (seen & (labels == 1)).sum() / (seen.sum() + labels.sum()) > 0.97
    extent = [np.ptp(np.flatnonzero(labels.any(tuple({0, 1, 2} - {i})))) + 1 for i in range(3)]
    expected = {"X": 23 * 0.1 / 0.08, "Y": 23 * 0.1 / 0.15, "Z": 5 * 0.4 / 0.2}
    np.testing.assert_allclose(extent, [expected[a] for a in axes], atol=1)


@FITS
@pytest.mark.parametrize("axes", AXES)
@SIZES
def test_invert_restores_what_the_window_shows(size, axes, fit):
    image, preprocessing = volume(), settings(size, fit, axes=axes)
    place = preprocessing.placement(image)
    labels = lesion(image)
    prepared = preprocessing.stored_labels(labels, image)
    back = preprocessing.invert(LESION.one_hot(prepared), place, LESION.one_hot(0))
    assert back.shape == (*SHAPE, 2)
    np.testing.assert_array_equal(back.sum(axis=-1), 1)
    seen = preprocessing.invert(np.ones((*size, 1)), place)[..., 0].astype(bool)
    turned = [SHAPE[a] for a in preprocessing.order]
    assert seen.sum() == np.prod(np.minimum(turned, size))
    np.testing.assert_array_equal(back.argmax(axis=-1), np.where(seen, labels, 0))


@pytest.mark.parametrize("task", [LESION, PARTS])
def test_outside_of_the_window_is_background(task):
    image = volume()
    preprocessing = settings((4, 4, 4), "crop", axes="ZYX", spacing=(0.5, 0.2, 0.2))
    place = preprocessing.placement(image, SPACING)
    sure = np.zeros((4, 4, 4, task.channels))
    sure[..., -1] = 1
    back = preprocessing.invert(sure, place, task.one_hot(0))
    assert not task.masks(back)[0].any() and not task.masks(back)[-1].any()
    assert task.masks(back)[5, 7, 3, -1]


@pytest.mark.parametrize("axes", AXES)
def test_a_ramp_returns_through_resampling_to_where_it_was(axes):
    """To an eighth of a voxel, but at the border, where a ramp has no further neighbour."""
    shape = (24, 30, 18)
    ramp = np.stack(np.mgrid[:24, :30, :18], axis=-1).astype("float32")
    spacing = dict(X=0.7, Y=1.3, Z=0.9)
    preprocessing = Preprocessing((64, 64, 64), normalise="zero_one", channels=3, axes=axes,
                                  fit="crop", spacing=tuple(spacing[a] for a in axes))
    place = preprocessing.placement(ramp, (1.0, 1.0, 1.0))
    assert place.grid == tuple({"X": 34, "Y": 23, "Z": 20}[a] for a in axes)
    window = preprocessing.stored(ramp).astype("float32")
    back = preprocessing.invert(window, place)
    assert back.shape == (*shape, 3)
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(back[inside] * 29 / 255, ramp[inside], atol=0.125)


def test_the_published_crop_of_brats_is_the_middle():
    image = np.zeros((240, 240, 155, 1), "uint8")
    image[50:190, 35:205] = 1
    place = settings((140, 170, 155), normalise="zero_one").placement(image)
    assert place.start == (50, 35, 0) and place.grid == image.shape[:-1]
    assert settings((140, 170, 155), normalise="zero_one").stored(image).all()


@pytest.mark.parametrize("corner", [(0, 0, 0), (9, 2, 5), (20, 20, 10)])
def test_the_window_lies_around_the_foreground_and_inside_the_volume(corner):
    image = np.zeros((24, 24, 14, 1), "float32")
    image[tuple(slice(c, c + 4) for c in corner)] = 7
    place = settings((8, 8, 6), "crop_foreground").placement(image)
    assert all(0 <= s <= n - w for s, n, w in zip(place.start, place.grid, (8, 8, 6), strict=True))
    window = settings((8, 8, 6), "crop_foreground", "zero_one").stored(image)
    assert (window == 255).sum() == 64
    if corner == (9, 2, 5):
        assert place.start == (7, 0, 4)


def test_an_empty_volume_is_cropped_in_its_middle_and_stays_zero():
    image = np.zeros((*SHAPE, 1), "float32")
    place = settings(fit="crop_foreground").placement(image)
    assert place == settings(fit="crop").placement(image)
    assert not settings(fit="crop_foreground").apply(image).any()


@FITS
def test_foreground_has_mean_0_and_deviation_1_and_background_stays_0(fit):
    image = volume(channels=2)
    image[..., 1] *= 40
    preprocessing = Preprocessing((16, 16, 16), normalise="zscore_foreground", channels=2,
                                  axes="XYZ", fit=fit)
    stored = preprocessing.stored(image)
    assert stored.dtype == "float32" and preprocessing.zscored
    inside = stored[..., 0] != 0
    assert inside.sum() == (image[..., 0] != 0).sum()
    for channel in range(2):
        values = stored[..., channel][inside].astype("float64")
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


def test_resampling_lets_no_grey_rim_count_as_foreground():
    image, preprocessing = volume(), settings((20, 20, 20), spacing=(0.07, 0.07, 0.3))
    labels = preprocessing.stored_labels((image[..., 0] != 0).astype("uint8"), image, SPACING)
    stored = preprocessing.stored(image, SPACING)[..., 0]
    np.testing.assert_array_equal(stored != 0, labels == 1)


def test_zscores_do_not_depend_on_the_crop_and_padding_is_the_darkest():
    image = volume() + 50
    whole = settings(SHAPE, normalise="zscore").stored(image)
    assert whole.mean() == pytest.approx(0, abs=1e-6)
    window = settings((8, 8, 4), normalise="zscore").stored(image)
    np.testing.assert_array_equal(window, whole[1:9, 3:11, 1:5])
    padded = settings((13, 14, 6), normalise="zscore").stored(image)
    assert (padded[[0, -1]] == whole.min()).all()


@pytest.mark.parametrize("spacing", [None, (1, 1, 1), np.float32([1, 1, 1])])
def test_without_a_spacing_or_at_the_same_one_voxels_stay(spacing):
    image = volume()
    same = settings(SHAPE, spacing=(1, 1, 1), normalise="zscore").stored(image, spacing)
    np.testing.assert_array_equal(same, settings(SHAPE, normalise="zscore").stored(image))


def test_settings_survive_json_and_those_of_old_runs_still_load():
    preprocessing = settings((4, 5, 6), "crop_foreground", axes="YXZ", spacing=[0.5, 0.1, 0.1])
    assert Preprocessing(**json.loads(json.dumps(to_json(preprocessing)))) == preprocessing
    assert hash(preprocessing)
    old = {"size": [192, 192], "intensity": ["clahe"], "normalise": "minus1_1", "channels": 3,
           "axes": "YX"}
    assert Preprocessing(**old) == Preprocessing(intensity=("clahe",))


@pytest.mark.parametrize(("other", "message"), [
    ({"fit": "pad"}, "fit='pad'; known for axes 'XYZ': resize, crop, crop_foreground"),
    ({"size": (8, 8), "axes": "YX"}, r"fit='crop'; known for axes 'YX': resize\."),
    ({"fit": "resize", "spacing": (1, 1, 1)}, "fit='resize' with a spacing; expected fit='crop'"),
    ({"spacing": (1, 1)}, r"spacing=\(1, 1\); expected 3 positive distances in mm"),
    ({"spacing": (1, 1, 0)}, r"spacing=\(1, 1, 0\); expected 3 positive distances"),
    ({"spacing": 1.0}, r"spacing=1.0; expected 3 positive distances"),
    ({"normalise": "zero_one", "intensity": "clahe"}, "need the 8-bit range of pictures.*'XYZ'"),
])
def test_what_is_wrong_with_the_settings_is_named(other, message):
    with pytest.raises(ValueError, match=f"^Preprocessing: .*{message}"):
        settings(**other)


def test_what_does_not_fit_a_volume_is_named():
    preprocessing = settings(spacing=(1, 1, 1))
    with pytest.raises(ValueError, match=r"spacing=\(1, 0, 1\); expected 3 positive distances"):
        preprocessing.stored(volume(), (1, 0, 1))
    with pytest.raises(ValueError, match=r"labels of shape \(3, 3, 3\); expected \(11, 14, 6\)"):
        preprocessing.stored_labels(np.zeros((3, 3, 3), "uint8"), volume())
    with pytest.raises(ValueError, match=r"image of shape \(11, 14, 6\); .* 3 spatial axes \(XYZ"):
        preprocessing.stored(volume()[..., 0])
