import json

import numpy as np
import pytest

from keras_meduda.data.spatial import resize
from keras_meduda.preprocessing import INTENSITY
from keras_meduda.task import Preprocessing, Task, to_json

NESTED = Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
DARK_CUP = Task(("cup", "disc"), True, {"cup": (0,), "disc": (0, 128)}, (255,), tolerance=64)
APART = Task(("left", "right"), True)  # overlapping, but no value of a file stands for both
ORGANS = Task(("liver", "spleen"))
TUMOUR = Task(("whole", "other"), values={"whole": (1, 2, 4), "other": (300,)})
TASKS = pytest.mark.parametrize("task", [NESTED, DARK_CUP, APART, ORGANS, TUMOUR])


def file_values(task):
    """An image in which every declared value occurs."""
    return np.random.default_rng(0).permuted(np.resize([*task.label_of_value], (7, 9)))


def boolean(task, labels):
    """One boolean mask a class."""
    return task.one_hot(labels).astype(bool)[..., 0 if task.overlapping else 1 :]


@TASKS
def test_labels_survive_a_file(task):
    labels = task.encode(file_values(task))
    np.testing.assert_array_equal(task.encode(task.decode(boolean(task, labels))), labels)


@pytest.mark.parametrize("task", [NESTED, DARK_CUP, APART, ORGANS])
def test_files_with_one_value_for_a_meaning_come_back_the_same(task):
    values = file_values(task)
    np.testing.assert_array_equal(task.decode(boolean(task, task.encode(values))), values)


@TASKS
def test_labels_say_which_classes_hold_a_value(task):
    values = file_values(task)
    masks = boolean(task, task.encode(values))
    for i, name in enumerate(task.classes):
        np.testing.assert_array_equal(masks[..., i], np.isin(values, task.values[name]))


@TASKS
def test_one_hot_has_a_channel_a_logit(task):
    hot = task.one_hot(task.encode(file_values(task)))
    assert hot.dtype == "float32"
    assert hot.shape == (7, 9, task.channels)
    assert task.channels == (2 if task.overlapping else 3)
    if not task.overlapping:
        np.testing.assert_array_equal(hot.sum(axis=-1), 1)


@TASKS
def test_one_hot_probabilities_give_back_their_masks(task):
    labels = task.encode(file_values(task))
    np.testing.assert_array_equal(task.masks(task.one_hot(labels)), boolean(task, labels))


def test_masks_of_overlapping_classes_lie_above_the_threshold():
    task = Task(("cup", "disc"), True, threshold=0.7)
    masks = task.masks(np.array([[0.7, 0.71], [0.9, 0.2]], "float32"))
    assert masks.tolist() == [[False, True], [True, False]]


def test_masks_of_exclusive_classes_are_the_most_probable_ones():
    masks = ORGANS.masks([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    assert masks.tolist() == [[False, False], [True, False], [False, True]]


def test_a_combination_without_a_value_loses_as_few_classes_as_it_can():
    cup_alone, both = [True, False], [True, True]
    assert NESTED.decode([cup_alone]).tolist() == [255]
    assert APART.decode([both]).tolist() == [1]


def test_many_exclusive_classes_decode():
    task = Task(tuple(f"region {i}" for i in range(70)))
    labels = np.arange(71, dtype="uint8")
    np.testing.assert_array_equal(task.decode(boolean(task, labels)), labels)


def test_decode_takes_the_smallest_type_that_holds_the_values():
    assert NESTED.decode(np.zeros((2, 2, 2), bool)).dtype == "uint8"
    assert TUMOUR.decode(np.zeros((2, 2, 2), bool)).dtype == "uint16"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_undeclared_values_are_listed(dtype):
    mask = np.array([[0, 7, 128], [255, 3, 3]], dtype)
    assert NESTED.undeclared(mask) == [3, 7]
    with pytest.raises(
        ValueError,
        match=r"mask values \[3(\.0)?, 7(\.0)?\] are not declared; the "
        r"task knows \{'cup': \(255,\), .*background \(0,\)",
    ):
        NESTED.encode(mask)


def test_not_a_number_is_undeclared():
    assert len(NESTED.undeclared(np.array([np.nan, 0]))) == 1


def test_tolerance_takes_the_nearest_value():
    assert DARK_CUP.encode(np.array([3, 63, 65, 128, 190, 192, 255])).tolist() == [
        3,
        3,
        2,
        2,
        2,
        0,
        0,
    ]
    narrow = Task(("a",), values={"a": (100,)}, tolerance=2)
    assert narrow.encode(np.array([98, 102, 2])).tolist() == [1, 1, 0]
    assert narrow.undeclared(np.array([97, 98, 102, 103, 3])) == [3, 97, 103]


def test_defaults():
    assert ORGANS.values == {"liver": (1,), "spleen": (2,)}
    assert Task("lesion").classes == ("lesion",)


@TASKS
def test_a_task_survives_json(task):
    assert Task(**json.loads(json.dumps(to_json(task)))) == task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ()}, r"classes \[\]; expected one or more distinct names"),
        ({"classes": ("a", "a")}, r"classes \['a', 'a'\]; expected one or more distinct names"),
        ({"values": {"a": (1,)}}, r"values are given for \['a'\], the classes are \['a', 'b'\]"),
        ({"values": {"a": (1,), "b": (2,), "c": (3,)}}, r"values are given for \['a', 'b', 'c'\]"),
        ({"values": {"a": (1,), "b": ()}}, r"mask values \(\) for b; expected whole numbers"),
        ({"values": {"a": (1,), "b": 2}}, r"mask values 2 for b; expected .* such as \(255,\)"),
        ({"values": {"a": (1,), "b": "2"}}, r"mask values '2' for b"),
        (
            {"values": {"a": (1,), "b": (0.5,)}},
            r"mask values \(0.5,\) for b; expected whole numbers",
        ),
        ({"values": {"a": (1,), "b": (-1,)}}, r"mask values \(-1,\) for b; expected .* 0…65535"),
        ({"background": ()}, r"mask values \(\) for background"),
        ({"background": (0, 2, 1)}, r"values \[1, 2\] are both background and class"),
        (
            {"values": {"a": (1,), "b": (1, 2)}},
            r"exclude each other share a mask value \(.*\); set "
            r"overlapping=True if they may overlap",
        ),
        (
            {"classes": tuple("abcdefghi"), "overlapping": True},
            "at most 8 overlapping .* received 9",
        ),
        ({"tolerance": -1}, "tolerance=-1; expected 0 or more"),
        ({"threshold": 50}, "threshold=50; expected a probability below 1"),
        ({"unit": "cm"}, "unit='cm'; expected 'px' or 'mm'"),
    ],
)
def test_a_task_says_what_is_wrong_with_it(settings, message):
    with pytest.raises(ValueError, match=f"^Task: .*{message}"):
        Task(**{"classes": ("a", "b"), **settings})


def picture(shape=(33, 26, 3), dtype="uint8", seed=0):
    return (
        np.random.default_rng(seed)
        .integers(0, np.iinfo(dtype).max, shape, endpoint=True)
        .astype(dtype)
    )


@pytest.mark.parametrize(("normalise", "low", "high"), [("minus1_1", -1, 1), ("zero_one", 0, 1)])
def test_the_range_of_the_input(normalise, low, high):
    preprocessing = Preprocessing(size=(20, 30), normalise=normalise)
    image = np.zeros((20, 30, 3), "uint8")
    image[:, 15:] = 255
    assert preprocessing.stored(image).dtype == "uint8"
    np.testing.assert_array_equal(preprocessing.stored(image), image)
    network_input = preprocessing.apply(image)
    assert network_input.dtype == "float32"
    assert (network_input.min(), network_input.max()) == (low, high)


def test_z_scores_have_mean_0_and_deviation_1():
    stored = Preprocessing(size=(20, 30), normalise="zscore").stored(picture())
    assert stored.dtype == "float32"
    assert stored.mean(dtype="float64") == pytest.approx(0, abs=1e-6)
    assert stored.std(dtype="float64") == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_z_scores_of_a_constant_image_are_zero(level):
    preprocessing = Preprocessing(size=(20, 30), normalise="zscore")
    assert not preprocessing.apply(np.full((33, 26, 3), level, "uint8")).any()


@pytest.mark.parametrize("normalise", ["minus1_1", "zero_one", "zscore"])
def test_apply_is_the_normalised_stored_image(normalise):
    preprocessing = Preprocessing(size=(20, 30), normalise=normalise)
    stored = preprocessing.stored(picture()).astype("float32")
    np.testing.assert_array_equal(preprocessing.apply(picture()), preprocessing.normalised(stored))


def test_intensity_steps_come_after_the_resize():
    image, plain = picture(), Preprocessing(size=(20, 30))
    equalised = Preprocessing(size=(20, 30), intensity="clahe").stored(image)
    np.testing.assert_array_equal(equalised, INTENSITY["clahe"](plain.stored(image)))


def test_channels_are_repeated_dropped_or_merged():
    grey, colour = picture((33, 26, 1)), picture()
    preprocessing = Preprocessing(size=(20, 30))
    alpha, opaque = picture((33, 26, 1), seed=1), np.full((33, 26, 1), 255, "uint8")
    np.testing.assert_array_equal(
        preprocessing.stored(np.concatenate([grey, opaque], -1)),
        preprocessing.stored(np.repeat(grey, 3, -1)),
    )
    with pytest.raises(ValueError, match="2 channels"):  # the second may be a contrast
        preprocessing.stored(np.concatenate([grey, alpha], -1))
    np.testing.assert_array_equal(
        preprocessing.stored(np.concatenate([colour, alpha], -1)), preprocessing.stored(colour)
    )
    one = Preprocessing(size=(33, 26), channels=1)
    np.testing.assert_array_equal(one.stored(np.repeat(grey, 3, -1)), grey)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_deeper_images_are_scaled_from_their_own_range(dtype):
    image = np.repeat(np.linspace(1000, 5000, 256).astype(dtype).reshape(16, 16, 1), 3, axis=-1)
    stored = Preprocessing(size=(16, 16)).stored(image)
    np.testing.assert_array_equal(stored[..., 0].ravel(), np.arange(256))


def test_the_darkest_bright_and_blank_images_stay_in_range():
    preprocessing = Preprocessing(size=(20, 30), intensity=("clahe",))
    for image in (
        np.zeros((33, 26, 3), "uint8"),
        np.full((33, 26, 3), 255, "uint8"),
        np.full((33, 26, 3), 4000, "uint16"),
    ):
        network_input = preprocessing.apply(image)
        assert np.isfinite(network_input).all()
        assert np.abs(network_input).max() <= 1


SIZES = pytest.mark.parametrize("shape", [(33, 26), (20, 30), (7, 100), (64, 48)])


@SIZES
def test_invert_returns_to_the_grid_of_the_case(shape):
    preprocessing = Preprocessing(size=(20, 30))
    place = preprocessing.placement(picture((*shape, 3)))
    back = preprocessing.invert(np.full((20, 30, 2), 0.3, "float32"), place)
    assert back.shape == (*shape, 2)
    np.testing.assert_allclose(back, 0.3, atol=1e-6)


@SIZES
def test_invert_puts_a_ramp_where_it_was(shape):
    """To a tenth of a pixel, but at the border, where the ramp has no further neighbour."""
    size = (20, 30)
    ramp = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).astype("float32")
    place = Preprocessing(size).placement(ramp)
    back = Preprocessing(size).invert(resize(ramp, size), place)
    margin = [round(2 * max(1, a / b)) for a, b in zip(shape, size, strict=True)]
    inside = tuple(slice(m, -m) for m in margin)
    np.testing.assert_allclose(back[inside], ramp[inside], atol=0.1)
    assert back[inside].size


def test_a_volume_is_prepared_like_a_picture():
    preprocessing = Preprocessing((8, 9, 10), normalise="zscore", channels=1, axes="XYZ")
    volume = picture((11, 12, 6, 1))
    assert preprocessing.apply(volume).shape == (8, 9, 10, 1)
    place = preprocessing.placement(volume)
    assert preprocessing.invert(preprocessing.apply(volume), place).shape == volume.shape


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing((8, 9, 10), normalise="zscore", channels=1, axes="XYZ"),
        Preprocessing([64, 32], ["clahe"], "zero_one"),
    ],
)
def test_a_preprocessing_survives_json(preprocessing):
    assert Preprocessing(**json.loads(json.dumps(to_json(preprocessing)))) == preprocessing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"size": 192},
            r"size=192; expected a positive whole number an axis, such as \(192, 192\)",
        ),
        ({"size": (0, 64)}, r"size=\(0, 64\); expected a positive"),
        ({"size": (64.5, 64)}, r"size=\(64.5, 64\); expected a positive whole"),
        (
            {"size": (64, 64, 64)},
            r"axes='YX' with size \(64, 64, 64\); expected 'YX' with two axes",
        ),
        ({"axes": "XY"}, r"axes='XY' with size \(192, 192\); expected 'YX' with two axes, 'XYZ'"),
        ({"axes": "XXZ", "size": (8, 8, 8)}, "axes='XXZ' .* 'XYZ' in any order with three"),
        (
            {"intensity": ("clahe", "sharpen")},
            r"intensity steps \['sharpen'\] are unknown; known: "
            r"\['clahe'\]",
        ),
        ({"intensity": "clahe", "normalise": "zscore"}, r"steps \('clahe',\) need the 8-bit range"),
        ({"normalise": "none"}, "'none'; known: 'minus1_1', 'zero_one', 'imagenet', 'zscore'"),
        ({"channels": 0}, "channels=0; expected 1 or more"),
    ],
)
def test_a_preprocessing_says_what_is_wrong_with_it(settings, message):
    with pytest.raises(ValueError, match=f"^Preprocessing: .*{message}"):
        Preprocessing(**settings)


def test_images_that_do_not_fit_are_named():
    preprocessing = Preprocessing(size=(20, 30))
    with pytest.raises(ValueError, match=r"image of shape \(33, 26\); .* 2 spatial axes \(YX\)"):
        preprocessing.stored(picture((33, 26)))
    with pytest.raises(ValueError, match="image has 5 channels, the preprocessing expects 3"):
        preprocessing.stored(picture((33, 26, 5)))
