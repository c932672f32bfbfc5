"""A teacher's targets on their way into batches: nothing shifts, nothing that failed takes part."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Geometry, RandomPatch, on_grid, warp
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError, read_image, write_picture
from keras_meduda.data.pipeline import Batches, add_styles, add_teacher, prepare
from keras_meduda.data.spatial import resize
from keras_meduda.task import Preprocessing, Task
from keras_meduda.teachers.targets import Failure, Target, Teacher, make_targets

TASK = Task(("tumour",), overlapping=True)
SMALL = Preprocessing(size=(16, 12), normalise="zero_one", channels=1)
STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)


def looks(image, boxes):
    """A teacher whose soft mask is the image and whose embedding is the image on a coarse grid."""
    p = image[..., 0] / 255.0
    if p[0, 0] == 0:
        raise Failure("a black corner")
    coarse = resize(p[..., None], (8, 6))
    return Target(p, p[0, 0] / 4, np.ones(1), np.concatenate([coarse, 1 - coarse], axis=-1))


@pytest.fixture
def cases(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        coarse = rng.integers(60, 250, (4, 3, 1))
        image = np.rint(resize(coarse, (32, 24))).astype("uint8")
        image[0, 0] = 0 if i == 2 else 40 * (i + 1)
        path = write_picture(tmp_path / f"{i}.png", image[..., 0])
        rows.append({"case": f"c{i}", "image": path})
    return case_table(rows)


def teach(cases, folder, function=looks):
    make_targets(folder / "t.csv", cases, Teacher("looks", "1", function, prompted=False))
    prepared = prepare(cases, TASK, SMALL, folder / "prepared", labels=False)
    return add_teacher(prepared, cases, folder / "t.csv", folder / "prepared")


def take(target, count, geometry=STILL, first=0):
    batches = Batches(1, target=target, geometry=geometry, photometry=None)
    return [b["target"] for b in batches.from_step(first).take(count).as_numpy_iterator()]


def test_a_case_in_which_the_teacher_failed_is_left_out(cases, tmp_path):
    target = teach(cases, tmp_path)
    assert len(target.images) == len(target.teacher.masks) == 3
    assert target.teacher.feature_shape == (8, 6, 2)
    assert sorted({float(t["teacher_variance"][0]) for t in take(target, 6)}) == pytest.approx(
        sorted(read_image(f).array[0, 0, 0] / 255 / 4 for f in cases["image"].drop(2))
    )


def test_twins_stay_with_their_image_where_another_case_failed(cases, tmp_path):
    folder = tmp_path / "prepared"
    make_targets(tmp_path / "t.csv", cases, Teacher("looks", "1", looks, prompted=False))
    styled = prepare(cases, TASK, SMALL, folder, labels=False)
    styled = add_styles(styled, styled, folder, variants=1)
    target = add_teacher(styled, cases, tmp_path / "t.csv", folder)
    assert [(i, s) for i, s in zip(target.images, target.styles, strict=True)] == [
        (i, s) for i, s in zip(styled.images, styled.styles, strict=True) if i != styled.images[2]
    ]


@pytest.mark.parametrize("geometry", [STILL, Geometry(rotation=40, scale=0.4, shift=0.2)])
def test_mask_and_embedding_move_with_the_image(cases, tmp_path, geometry):
    """Both show the image itself, so that wherever it goes they must agree with it."""
    target = teach(cases, tmp_path)
    for taught in take(target, 6, geometry):
        np.testing.assert_allclose(taught["teacher"], taught["image"], atol=0.003)
        coarse = resize(taught["image"][0], (8, 6))
        inner = np.s_[1:-1, 1:-1]
        features = taught["teacher_features"][0]
        assert np.abs(features[..., :1] - coarse)[inner].mean() < 0.02
        np.testing.assert_allclose(features.sum(axis=-1), 1, atol=1e-3)


def test_the_batch_after_a_resume_is_that_of_an_uninterrupted_run(cases, tmp_path):
    target, geometry = teach(cases, tmp_path), Geometry()
    whole, resumed = take(target, 4, geometry), take(target, 2, geometry, first=2)
    for name in ("image", "teacher", "teacher_variance", "teacher_entropy", "teacher_features"):
        np.testing.assert_array_equal(whole[3][name], resumed[1][name])


def test_without_an_embedding_there_are_no_features(cases, tmp_path):
    def blind(image, boxes):
        found = looks(image, boxes)
        return Target(found.probability, found.variance, found.quality)

    target = teach(cases, tmp_path, blind)
    assert target.teacher.features == () and "teacher_features" not in take(target, 1)[0]


def test_new_targets_replace_those_that_were_prepared(cases, tmp_path):
    before = teach(cases, tmp_path)

    def opposite(image, boxes):
        return Target(1 - image[..., 0] / 255.0, 0.1, np.ones(1))

    make_targets(tmp_path / "t.csv", cases, Teacher("opposite", "1", opposite, prompted=False))
    prepared = prepare(cases, TASK, SMALL, tmp_path / "prepared", labels=False)
    after = add_teacher(prepared, cases, tmp_path / "t.csv", tmp_path / "prepared")
    assert not set(before.teacher.masks) & set(after.teacher.masks)
    for taught in take(after, 3):
        np.testing.assert_allclose(taught["teacher"], 1 - taught["image"], atol=0.01)


def test_targets_of_another_image_of_the_same_name_are_refused(cases, tmp_path):
    teach(cases, tmp_path)
    other = cases.assign(case=["c1", "c0", "c2", "c3"])
    prepared = prepare(other, TASK, SMALL, tmp_path / "prepared", labels=False)
    with pytest.raises(DataError, match="a target of 'c1' made of another image than .*0.png"):
        add_teacher(prepared, other, tmp_path / "t.csv", tmp_path / "prepared")


def test_a_teacher_that_always_failed_is_named(cases, tmp_path):
    def fail(image, boxes):
        raise Failure("nothing")

    with pytest.raises(DataError, match="t.csv: found no case that succeeded"):
        teach(cases, tmp_path, fail)


def test_embeddings_of_several_shapes_come_to_the_grid_of_the_first(cases, tmp_path):
    """As SAM2's do, which have the aspect of their image."""

    def uneven(image, boxes):
        found, number = looks(image, boxes), int(image[0, 0, 0]) // 40  # 1, 2 and 4
        embedding = resize(image / 255.0, (4 + 4 * number, 6))
        return Target(found.probability, found.variance, found.quality, embedding)

    target = teach(cases, tmp_path, uneven)
    assert target.teacher.feature_shape == (8, 6, 1)
    assert len(set(target.teacher.features)) == 3
    for taught in take(target, 3):
        coarse = resize(taught["image"][0], (8, 6))
        assert np.abs(taught["teacher_features"][0] - coarse).mean() < 0.02


def test_embeddings_of_several_widths_are_refused(cases, tmp_path):
    def uneven(image, boxes):
        found, width = looks(image, boxes), 1 + int(image[0, 0, 0]) // 40
        return Target(found.probability, found.variance, found.quality, np.ones((8, 6, width)))

    with pytest.raises(DataError, match="t.csv: found embeddings 2 and, of 'c1', 3 wide"):
        teach(cases, tmp_path, uneven)


def test_a_transform_on_a_grid_of_equal_size_is_itself():
    move = Geometry().sample(tf.constant([1, 2]), 32, 24)
    np.testing.assert_allclose(on_grid(move, (32, 24), (32, 24)), move, atol=1e-4)


def test_a_shift_by_whole_cells_moves_the_grid_by_whole_cells():
    grid = np.random.default_rng(0).random((8, 6, 2)).astype("float32")
    shift = tf.constant([1, 0, 8.0, 0, 1, -4.0, 0, 0])  # two cells of 4 px right, one up
    moved = warp(tf.constant(grid), on_grid(shift, (32, 24), (8, 6))).numpy()
    np.testing.assert_allclose(moved[1:, :-2], grid[:-1, 2:], atol=1e-6)


def test_entropies_are_the_targets_own(cases, tmp_path):
    found = {float(t["teacher_entropy"][0]) for t in take(teach(cases, tmp_path), 6)}
    expected = (looks(read_image(file).array, None).entropy for file in cases["image"].drop(2))
    assert sorted(found) == pytest.approx(sorted(expected), abs=0.01)


def test_pixels_weigh_by_doubt_and_cases_by_score(cases, tmp_path):
    def doubtful(image, boxes):
        found = looks(image, boxes)
        return replace(found, doubt=found.probability / 4)

    scores = {f"c{i}": np.array([[1, 1, 9, 9, score]]) for i, score in enumerate([0.5, 1, 1, 0.25])}
    make_targets(tmp_path / "t.csv", cases, Teacher("doubtful", "1", doubtful), scores)
    prepared = prepare(cases, TASK, SMALL, tmp_path / "prepared", labels=False)
    target = add_teacher(prepared, cases, tmp_path / "t.csv", tmp_path / "prepared")
    for file, mask, score in zip(
        target.teacher.weights, target.teacher.masks, [0.5, 1, 0.25], strict=True
    ):
        weight, p = (np.fromfile(name, "float16").astype("float32") for name in (file, mask))
        np.testing.assert_allclose(weight, score * (1 - p), atol=2e-3)
    assert take(target, 1)[0]["teacher_weight"].shape == (1, 16, 12, 1)


def test_cases_in_doubt_and_sure_ones_train_together(cases, tmp_path):
    def sometimes(image, boxes):
        found = looks(image, boxes)
        return replace(found, doubt=found.probability / 4) if image[0, 0, 0] > 60 else found

    make_targets(tmp_path / "t.csv", cases, Teacher("some", "1", sometimes, prompted=False))
    prepared = prepare(cases, TASK, SMALL, tmp_path / "prepared", labels=False)
    target = add_teacher(prepared, cases, tmp_path / "t.csv", tmp_path / "prepared")
    weights = [np.fromfile(file, "float16") for file in target.teacher.weights]
    assert [weight.min() < 1 for weight in weights] == [False, True, True]


def test_where_all_is_sure_there_are_no_weights(cases, tmp_path):
    target = teach(cases, tmp_path)
    assert target.teacher.weights == () and "teacher_weight" not in take(target, 1)[0]


def test_another_temperature_makes_other_masks(cases, tmp_path):
    before = teach(cases, tmp_path)
    table = pd.read_csv(tmp_path / "t.csv").assign(temperature=2.0)
    table.to_csv(tmp_path / "t.csv", index=False)
    prepared = prepare(cases, TASK, SMALL, tmp_path / "prepared", labels=False)
    after = add_teacher(prepared, cases, tmp_path / "t.csv", tmp_path / "prepared")
    assert not set(before.teacher.masks) & set(after.teacher.masks)
    assert before.teacher.features == after.teacher.features


@pytest.mark.parametrize(
    "geometry", [Geometry(flip=True, rotation=20, scale=0.1, shift=0.1), STILL]
)
def test_targets_of_volumes_follow_their_patch(tmp_path, geometry):
    """The soft mask is the volume itself, in a crop whose axes are turned."""
    rng, rows = np.random.default_rng(0), []
    for i in range(2):
        volume = rng.integers(1, 255, (9, 12, 8)).astype("uint8")
        volume[0, 0, :2] = 0, 255
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{i}.nii.gz")
        rows.append({"case": f"c{i}", "image": tmp_path / f"{i}.nii.gz"})
    cases = case_table(rows)

    def itself(image, boxes):
        return Target(image[..., 0] / 255.0, 0.1, np.ones(1))

    make_targets(tmp_path / "t.csv", cases, Teacher("itself", "1", itself, False, rank=3))
    crop = Preprocessing((8, 8, 10), normalise="zero_one", channels=1, axes="ZXY", fit="crop")
    prepared = prepare(cases, TASK, crop, tmp_path / "prepared", labels=False)
    target = add_teacher(prepared, cases, tmp_path / "t.csv", tmp_path / "prepared")
    batches = Batches(
        2, target=target, geometry=geometry, photometry=None, patch=RandomPatch((4, 6, 5))
    )
    for batch in batches.from_step(0).take(3).as_numpy_iterator():
        views = batch["target"]
        assert views["teacher"].shape == (2, 4, 6, 5, 1)
        np.testing.assert_allclose(views["teacher"], views["image"], atol=0.004)
