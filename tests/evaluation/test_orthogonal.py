import numpy as np
import pytest

from keras_meduda.evaluation.orthogonal import PREDICTION, REFERENCE, SIDE, orthogonal_slices


def ball(centre, radius, shape=(40, 48, 30)):
    place = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return np.sqrt((place**2).sum(axis=0)) <= radius


IMAGE = np.random.default_rng(0).normal(size=(40, 48, 30))


def colours(picture, colour):
    return (picture == np.array(colour, "uint8")).all(axis=-1)


@pytest.mark.parametrize("axis", range(3))
def test_slices_go_through_the_largest_lesion(axis):
    """In an image of one coordinate, the slice across it has one grey value, that of its place."""
    lesion = ball((10, 12, 8), 5) | ball((30, 36, 20), 3)
    ramp = np.indices(lesion.shape)[axis] + 1.0
    picture = orthogonal_slices(ramp, np.zeros_like(lesion), lesion)
    widths = [round(SIDE * 48 / 30), round(SIDE * 40 / 30), round(SIDE * 40 / 48)]
    begin = sum(width + 6 for width in widths[:axis])
    tile = picture[24:, begin : begin + widths[axis]]
    low, high = np.percentile(ramp, [0.5, 99.5])
    expected = round(255 * ((10, 12, 8)[axis] + 1 - low) / (high - low))
    inside = tile[~colours(tile, REFERENCE)]
    assert set(np.unique(inside)) == {expected} and colours(tile, REFERENCE).any()


def test_the_fourth_shows_the_largest_error():
    reference = ball((20, 24, 15), 8)
    prediction = reference.copy()
    prediction[30:38, 30:40, 3] = True  # wrong in the slice Z = 3 alone
    picture = orthogonal_slices(IMAGE, prediction, reference, (1.0, 1.0, 1.2))
    fourth = picture[24:, -(SIDE * 40 // 48) :]
    assert colours(fourth, PREDICTION).any() and not colours(fourth, REFERENCE).any()


def test_the_slices_of_isotropic_volumes_are_coronal():
    reference = ball((20, 24, 15), 8)
    prediction = reference.copy()
    prediction[30:38, 3, 10:20] = True  # wrong in the slice Y = 3 alone
    picture = orthogonal_slices(IMAGE, prediction, reference)
    fourth = picture[24:, -(SIDE * 40 // 30) :]
    assert colours(fourth, PREDICTION).any() and not colours(fourth, REFERENCE).any()


def test_equal_masks_show_one_outline_and_no_reference_three_slices():
    lesion = ball((20, 24, 15), 8)
    four = orthogonal_slices(IMAGE, lesion, lesion)
    three = orthogonal_slices(IMAGE, lesion)
    assert colours(three[24:], PREDICTION).any() and not colours(three[24:], REFERENCE).any()
    assert not colours(four[24:], REFERENCE).any()  # covered by the prediction
    assert four.shape[0] == three.shape[0] == SIDE + 24 and four.shape[1] > three.shape[1]


def test_tiles_have_the_proportions_of_the_spacing():
    lesion = ball((20, 24, 15), 5)
    narrow, wide = (
        orthogonal_slices(IMAGE, lesion, spacing=(1.0, 1.0, z)).shape[1] for z in (1.0, 2.0)
    )
    sagittal_and_coronal = (48 + 40) / 30 * SIDE
    assert narrow - wide == pytest.approx(sagittal_and_coronal / 2, abs=2)


def test_left_of_the_picture_is_the_patients_right_and_up_is_the_head():
    lesion = ball((20, 24, 15), 9)
    image = np.ones(lesion.shape)
    image[30:, :, 22:] = 2  # X rises to the patient's right, Z upwards
    begin = round(SIDE * 48 / 30) + 6
    coronal = orthogonal_slices(image, lesion)[24:, begin : begin + round(SIDE * 40 / 30)]
    assert coronal[:60, :60].min() == 255 and not coronal[-60:].any()
    assert not coronal[:, -60:].any()


def test_nan_is_background_and_the_rest_is_seen():
    lesion = ball((20, 24, 15), 5)
    inside = ball((20, 24, 15), 12)
    image = np.where(inside, 100 + IMAGE, 0)
    expected = orthogonal_slices(image, lesion)
    found = orthogonal_slices(np.where(inside, image, np.nan), lesion)
    np.testing.assert_array_equal(found, expected)
    assert np.unique(expected).size > 50


@pytest.mark.parametrize("masks", [(True, True), (False, True), (True, False), (False, False)])
def test_empty_masks(masks):
    prediction, reference = (ball((20, 24, 15), 6 * there) & there for there in masks)
    assert orthogonal_slices(IMAGE[..., None], prediction, reference).dtype == np.uint8


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"reference of shape \(40, 48, 29\)"):
        orthogonal_slices(IMAGE, IMAGE > 0, IMAGE[..., 1:] > 0)
    with pytest.raises(ValueError, match=r"image of shape \(8, 8\)"):
        orthogonal_slices(np.ones((8, 8)), np.ones((8, 8), bool))
