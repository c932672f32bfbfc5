import itertools
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Geometry, Intensity, Photometry, RandomPatch
from keras_meduda.data.cases import case_table, without_masks
from keras_meduda.data.io import DataError, read_image, read_mask, write_picture
from keras_meduda.data.pipeline import Batches, Prepared, add_styles, prepare, prepared_bytes
from keras_meduda.data.spatial import resize
from keras_meduda.task import Preprocessing, Task

FUNDUS = Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
ORGANS = Task(("liver", "spleen"), values={"liver": (128,), "spleen": (255,)})
SMALL = Preprocessing(size=(16, 12))
STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)


def write_cases(folder, count=5, seed=0):
    """A case table of noise images with block masks, 21 × 18 pixels."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        image, mask = folder / f"images/{i}.png", folder / f"masks/{i}.png"
        write_picture(image, rng.integers(0, 256, (21, 18, 3)).astype("uint8"))
        blocks = rng.choice([0, 128, 255], (7, 6)).astype("uint8")
        write_picture(mask, np.kron(blocks, np.ones((3, 3), "uint8")))
        rows.append({"case": i, "image": image, "mask": mask})
    return case_table(rows)


def write_prepared(folder, images, labels=(), preprocessing=SMALL, task=FUNDUS):
    """Prepared files of arrays `(16, 12, 3)` and `(16, 12)`."""
    folder.mkdir(exist_ok=True)

    def write(kind, arrays):
        paths = tuple(str(folder / f"{i}.{kind}") for i in range(len(arrays)))
        for path, array in zip(paths, arrays, strict=True):
            np.asarray(array, "uint8").tofile(path)
        return paths

    return Prepared(task, preprocessing, write("image", images), write("label", labels))


def constant(*levels):
    return [np.full((16, 12, 3), level) for level in levels]


def take(batches, count, first=0):
    return list(batches.from_step(first).take(count).as_numpy_iterator())


def grey(images):
    """The grey levels of network inputs."""
    return (images + 1) * 127.5


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    )


# Preparation


def test_prepared_files_hold_the_stored_images_and_labels(tmp_path):
    cases = write_cases(tmp_path)
    prepared = prepare(cases, FUNDUS, SMALL, tmp_path / "store", labels=True)
    for row, image, labels in zip(
        cases.itertuples(), prepared.images, prepared.labels, strict=True
    ):
        expected = SMALL.stored(read_image(row.image).array)
        np.testing.assert_array_equal(np.fromfile(image, "uint8").reshape(16, 12, 3), expected)
        expected = resize(read_mask(row.mask, FUNDUS), (16, 12), linear=False)
        np.testing.assert_array_equal(np.fromfile(labels, "uint8").reshape(16, 12), expected)


def test_what_is_prepared_is_reused(tmp_path, stamps):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    first = prepare(cases, FUNDUS, SMALL, store, labels=True)
    first = add_styles(first, first, store, variants=2)
    before = stamps(store)
    again = prepare(cases, FUNDUS, SMALL, store, labels=True)
    assert add_styles(again, again, store, variants=2) == first
    assert stamps(store) == before


@pytest.mark.parametrize("name", ["plain", "site=a"])
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_changed_file_makes_its_own_case_anew(tmp_path, name, kind, stamps):
    cases, store = write_cases(tmp_path / name), tmp_path / "store"
    first = prepare(cases, FUNDUS, SMALL, store, labels=True)
    before = stamps(store)
    shape = (21, 18, 3) if kind == "image" else (21, 18)
    write_picture(cases.loc[2, kind], np.zeros(shape, "uint8"))
    second = prepare(cases, FUNDUS, SMALL, store, labels=True)
    old, new = (
        (p.images, p.labels) if kind == "image" else (p.labels, p.images) for p in (first, second)
    )
    changed = [a != b for a, b in zip(old[0], new[0], strict=True)]
    assert changed == [False, False, True, False, False]
    checked = [a != b for a, b in zip(old[1], new[1], strict=True)]
    assert checked == [False, False, kind == "image", False, False]  # the mask fits the new image
    assert not np.fromfile(new[0][2], "uint8").any()
    del before["contents.json"]
    assert before.items() <= stamps(store).items()


def test_copies_with_another_time_and_place_are_not_prepared_again(tmp_path, stamps):
    cases, store = write_cases(tmp_path / "here"), tmp_path / "store"
    first = prepare(cases, FUNDUS, SMALL, store, labels=True)
    before = stamps(store)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    moved = cases.replace(str(tmp_path / "here"), str(tmp_path / "there"), regex=True)
    assert not set(moved["image"]) & set(cases["image"])
    assert prepare(moved, FUNDUS, SMALL, store, labels=True) == first
    del before["contents.json"]
    assert before.items() <= stamps(store).items() and len(stamps(store)) == len(before) + 1


def test_equal_masks_are_checked_beside_each_image(tmp_path):
    """Empty masks hold the same; the second lies beside an image of another shape."""
    rows = []
    for name, shape in (("a", (16, 12)), ("b", (20, 12))):
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"
        write_picture(image, np.full((*shape, 3), 99, "uint8"))
        write_picture(mask, np.zeros((16, 12), "uint8"))
        rows.append({"case": name, "image": image, "mask": mask})
    cases = case_table(rows)
    prepare(cases[:1], FUNDUS, SMALL, tmp_path / "store", labels=True)
    with pytest.raises(DataError, match=r"b_mask.png.*\(16, 12\)"):
        prepare(cases[1:], FUNDUS, SMALL, tmp_path / "store", labels=True)


def test_a_changed_setting_makes_everything_anew_that_depends_on_it(tmp_path):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    first = prepare(cases, FUNDUS, SMALL, store, labels=True)
    equalised = Preprocessing(size=(16, 12), intensity=("clahe",))
    second = prepare(cases, FUNDUS, equalised, store, labels=True)
    assert not set(first.images) & set(second.images)
    assert first.labels == second.labels
    third = prepare(cases, ORGANS, SMALL, store, labels=True)
    assert first.images == third.images
    assert not set(first.labels) & set(third.labels)


def test_swapped_class_files_are_other_labels(tmp_path):
    cases = write_cases(tmp_path, count=2)
    a, b = cases["mask"]
    task, first = Task(("cup", "disc"), True), cases[:1]
    made = [
        prepare(first.assign(mask=cell), task, SMALL, tmp_path / "store", labels=True).labels
        for cell in (f"cup={a}|disc={b}", f"disc={a}|cup={b}")
    ]
    assert made[0] != made[1]


def test_masks_of_a_target_are_never_read(tmp_path):
    cases = write_cases(tmp_path)
    for mask in cases["mask"]:
        os.remove(mask)
    prepared = prepare(cases, FUNDUS, SMALL, tmp_path / "store", labels=False)
    assert len(prepared.images) == 5
    assert prepared.labels == ()
    batch = take(Batches(2, target=prepared), 1)[0]
    assert set(batch) == {"target"}
    assert set(batch["target"]) == {"image", "strong"}


def test_an_interrupted_preparation_leaves_no_half_file(tmp_path, full_disk):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    with full_disk(300), pytest.raises(OSError, match="large"):  # an image has 576 bytes
        prepare(cases, FUNDUS, SMALL, store, labels=True)
    assert list(store.iterdir()) == []
    prepared = prepare(cases, FUNDUS, SMALL, store, labels=True)
    assert {os.path.getsize(image) for image in prepared.images} == {576}


@pytest.mark.parametrize("normalise", ["minus1_1", "zscore"])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("styles", [0, 3])
def test_the_announced_bytes_are_those_on_disk(tmp_path, normalise, labels, styles):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    cases = cases if labels else without_masks(cases)
    preprocessing = Preprocessing(size=(16, 12), normalise=normalise)
    prepared = prepare(cases, FUNDUS, preprocessing, store, labels)
    if styles:
        add_styles(prepared, prepared, store, styles)
    on_disk = sum(path.stat().st_size for path in store.iterdir() if path.suffix != ".json")
    assert prepared_bytes(cases, preprocessing, styles) == on_disk


def test_a_missing_image_or_mask_is_named(tmp_path):
    cases = write_cases(tmp_path)
    with pytest.raises(
        DataError, match=r"5 files .*images/0.png.*found no mask, expected one for every case"
    ):
        prepare(without_masks(cases), FUNDUS, SMALL, tmp_path / "store", labels=True)
    os.remove(cases.loc[3, "image"])
    with pytest.raises(DataError, match=r"images/3.png: found no such file"):
        prepare(cases, FUNDUS, SMALL, tmp_path / "store", labels=False)


# Style twins


def noise(count, low, high, seed=0):
    return list(np.random.default_rng(seed).integers(low, high, (count, 16, 12, 3)))


def test_style_twins_have_the_grey_levels_of_their_references(tmp_path):
    dark = write_prepared(tmp_path / "dark", noise(3, 0, 100))
    bright = write_prepared(tmp_path / "bright", noise(1, 120, 250, seed=1))
    styled = add_styles(dark, bright, tmp_path / "store")
    assert styled.images == dark.images
    reference = np.fromfile(bright.images[0], "uint8").reshape(-1, 3)
    for image, (twin,) in zip(dark.images, styled.styles, strict=True):
        image, twin = (np.fromfile(p, "uint8").reshape(-1, 3) for p in (image, twin))
        np.testing.assert_allclose(twin.mean(axis=0), reference.mean(axis=0), atol=1)
        order = np.argsort(image[:, 0], kind="stable")
        assert (np.diff(twin[order, 0].astype(int)) >= 0).all()  # darker stays darker


def test_style_twins_come_from_different_references(tmp_path):
    images = write_prepared(tmp_path / "images", noise(4, 0, 100))
    references = write_prepared(tmp_path / "references", noise(6, 0, 250))
    styles = [add_styles(images, references, tmp_path / "store", 3, seed).styles for seed in (0, 1)]
    for row in itertools.chain(*styles):
        assert len(set(row)) == 3
    assert styles[0] != styles[1]


def test_there_are_no_more_style_twins_than_references(tmp_path):
    images = write_prepared(tmp_path / "images", noise(4, 0, 100))
    references = write_prepared(tmp_path / "references", noise(2, 0, 250))
    styles = add_styles(images, references, tmp_path / "store", variants=4).styles
    assert [len(set(row)) for row in styles] == [2, 2, 2, 2]


# Batches


@pytest.fixture
def both(tmp_path):
    """Source and target with everything random switched on."""
    source = write_prepared(
        tmp_path / "source", noise(5, 0, 256), np.random.default_rng(1).integers(0, 4, (5, 16, 12))
    )
    target = write_prepared(tmp_path / "target", noise(4, 0, 256, seed=2))
    return {
        "source": add_styles(source, target, tmp_path / "store", variants=2),
        "target": add_styles(target, source, tmp_path / "store", variants=3),
        "source_photometry": Photometry(),
    }


def test_the_nth_batch_is_a_function_of_seed_and_n(both):
    batches = Batches(batch_size=3, seed=1, **both)
    seven = take(batches, 7)
    assert equal(take(batches, 2, first=5), seven[5:])
    assert not equal(seven[4], seven[5])
    other = take(Batches(batch_size=3, seed=2, **both), 2)
    assert not any(equal(a, b) for a, b in zip(other, seven, strict=False))


def test_batches_hold_what_the_contract_says(both):
    batches = Batches(batch_size=3, **both)
    image, mask = (3, 16, 12, 3), (3, 16, 12, 2)
    shapes = {
        "source": {"image": image, "mask": mask},
        "target": {"image": image, "strong": image, "style": image},
    }
    spec = batches.from_step(0).element_spec
    assert tf.nest.map_structure(lambda s: tuple(s.shape), spec) == shapes
    assert {s.dtype for s in tf.nest.flatten(spec)} == {tf.float32}
    for batch in take(batches, 4):
        for half in batch.values():
            for name, values in half.items():
                assert values.min() >= (0 if name == "mask" else -1)
                assert values.max() <= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_style_share_is_the_share_of_source_images_that_twins_replace(tmp_path, share):
    labels = np.zeros((4, 16, 12), int)
    dark = write_prepared(tmp_path / "dark", noise(4, 0, 100), labels)
    bright = write_prepared(tmp_path / "bright", noise(2, 120, 250, seed=1))
    styled = add_styles(dark, bright, tmp_path / "store")
    for batch in take(Batches(4, source=styled, style_share=share), 2):
        means = batch["source"]["image"].mean(axis=(1, 2, 3))
        assert ((means > 0) == (share == 1)).all()  # in -1 … 1


@pytest.mark.parametrize("half", ["source", "target"])
@pytest.mark.parametrize(("count", "batch_size"), [(5, 3), (4, 9)])
def test_every_pass_visits_every_case_once(tmp_path, half, count, batch_size):
    """Also where a batch is larger than the data."""
    levels = [10 * i for i in range(count)]
    data = write_prepared(tmp_path / "data", constant(*levels), np.zeros((count, 16, 12)))
    batches = Batches(batch_size, geometry=STILL, photometry=None, **{half: data})
    images = np.concatenate([batch[half]["image"] for batch in take(batches, 4 * count)])
    visited = np.rint(grey(images[:, 0, 0, 0])).astype(int)
    passes = visited.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes), np.tile(levels, (len(passes), 1)))
    assert len({tuple(order) for order in passes}) > 1


def test_source_and_target_come_in_orders_of_their_own(tmp_path):
    data = write_prepared(tmp_path / "data", constant(*range(8)), np.zeros((8, 16, 12)))
    batches = Batches(8, source=data, target=data, geometry=STILL, photometry=None)
    batch = take(batches, 1)[0]
    assert not np.array_equal(batch["source"]["image"], batch["target"]["image"])


@pytest.mark.parametrize("task", [FUNDUS, ORGANS])
def test_masks_are_one_hot_labels(tmp_path, task):
    labels = np.random.default_rng(0).integers(0, 4 if task.overlapping else 3, (1, 16, 12))
    data = write_prepared(tmp_path / "data", constant(0), labels, task=task)
    mask = take(Batches(1, source=data, geometry=STILL), 1)[0]["source"]["mask"]
    np.testing.assert_array_equal(mask, task.one_hot(labels))


def test_image_and_mask_move_together(tmp_path):
    """Between the pixels of an outline the image is a mixture, everywhere else they are equal."""
    labels = np.kron(np.random.default_rng(0).integers(0, 2, (6, 4, 3)), np.ones((1, 4, 4), int))
    images = np.repeat(100 * labels[..., None], 3, axis=-1)
    data = write_prepared(tmp_path / "data", images, labels, task=ORGANS)
    for batch in take(Batches(6, source=data), 3):
        image, mask = grey(batch["source"]["image"][..., 0]), batch["source"]["mask"][..., 1]
        pure = (image < 0.01) | (image > 99.99)
        assert pure.mean() > 0.2
        np.testing.assert_allclose(image[pure], 100 * mask[pure], atol=0.01)


def test_all_views_of_a_target_move_together(tmp_path):
    """Twins that are the images themselves stay so, and so do strong views without a change."""
    data = write_prepared(tmp_path / "data", noise(4, 0, 256))
    twins = Prepared(FUNDUS, SMALL, data.images, styles=tuple((p,) for p in data.images))
    for photometry in (None, Photometry(probability=0.0)):
        for batch in take(Batches(4, target=twins, photometry=photometry), 3):
            views = batch["target"]
            np.testing.assert_array_equal(views["style"], views["image"])
            np.testing.assert_allclose(views["strong"], views["image"], atol=1e-5)


def test_strong_views_are_recoloured_and_plain_ones_are_not(tmp_path):
    data = write_prepared(tmp_path / "data", constant(100, 100, 100, 100))
    views = take(Batches(4, target=data, photometry=Photometry(probability=1.0)), 1)[0]["target"]
    np.testing.assert_allclose(grey(views["image"]), 100, atol=1e-3)
    assert (np.abs(grey(views["strong"]) - 100).reshape(4, -1).max(axis=1) > 1).all()


def test_source_styles_replace_about_half_of_the_images(tmp_path):
    data = write_prepared(tmp_path / "data", constant(0, 0, 0), np.zeros((3, 16, 12)))
    twins = write_prepared(tmp_path / "twins", constant(100, 200)).images
    data = Prepared(FUNDUS, SMALL, data.images, data.labels, 3 * (twins,))
    images = np.concatenate([b["source"]["image"] for b in take(Batches(50, source=data), 6)])
    levels, counts = np.unique(np.rint(grey(images[:, 0, 0, 0])), return_counts=True)
    assert levels.tolist() == [0, 100, 200]
    assert counts / 300 == pytest.approx([0.5, 0.25, 0.25], abs=0.08)


def test_z_scored_images_are_moved_but_not_recoloured(tmp_path):
    preprocessing = Preprocessing(size=(16, 12), normalise="zscore")
    cases = write_cases(tmp_path)
    data = prepare(cases, FUNDUS, preprocessing, tmp_path / "store", labels=True)
    batch = take(Batches(5, source=data, target=data, geometry=STILL, photometry=None), 1)[0]
    for half in batch.values():
        mean, deviation = (f(half["image"], axis=(1, 2, 3)) for f in (np.mean, np.std))
        np.testing.assert_allclose(mean, 0, atol=1e-5)
        np.testing.assert_allclose(deviation, 1, atol=1e-5)
    np.testing.assert_array_equal(batch["target"]["strong"], batch["target"]["image"])


def empty(preprocessing=SMALL, images=("a.image",), labels=("a.label",)):
    return Prepared(FUNDUS, preprocessing, images, labels)


ZSCORE = Preprocessing((16, 12), normalise="zscore")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ValueError, r"expected a source, a target or both, with cases in each; received \[\]"),
        ({"source": empty(), "target": empty(images=())}, ValueError, r"received \[1, 0\] cases"),
        ({"source": empty(labels=())}, ValueError, r"the source has no labels; .* labels=True"),
        (
            {"source": empty(), "target": empty(ZSCORE)},
            ValueError,
            "source and target are prepared diff",
        ),
        (
            {"target": empty(ZSCORE)},
            ValueError,
            r"photometry=Photometry\(...\) .* normalise='zscore'; expected an Intensity or None",
        ),
        (
            {"source": empty(), "source_photometry": Intensity()},
            ValueError,
            "source_photometry=Intensity.* Degradation for 8-bit ones",
        ),
        ({"source": empty(), "patch": RandomPatch((4, 4, 4))}, ValueError, "expected one rank"),
        (
            {"source": empty(ZSCORE), "source_photometry": Photometry()},
            ValueError,
            "source_photometry",
        ),
    ],
)
def test_batches_say_what_is_wrong_with_them(settings, error, message):
    with pytest.raises(error, match=f"^Batches.*{message}"):
        Batches(batch_size=2, **settings)


def test_a_picture_and_its_mask_are_of_one_shape(tmp_path):
    cases = write_cases(tmp_path)
    write_picture(cases["mask"][3], np.zeros((18, 21), "uint8"))
    with pytest.raises(DataError, match=r"3.png: found a mask of shape \(18, 21\), expected \(21"):
        prepare(cases, FUNDUS, SMALL, tmp_path / "store", labels=True)


def test_patches_of_pictures_are_parts_of_them_and_those_of_the_source_hold_labels(tmp_path):
    rows, columns = np.indices((16, 12))
    image = np.stack([10 * rows, 10 * columns, 0 * rows], -1)
    labels = np.zeros((16, 12))
    labels[9, 7] = 3
    data = write_prepared(tmp_path / "data", [image], [labels])
    patch = RandomPatch((4, 6), foreground=1.0)
    batches = Batches(20, source=data, target=data, geometry=STILL, photometry=None, patch=patch)
    batch = take(batches, 1)[0]
    part = image[:4, :6]
    for half in batch.values():
        seen = grey(half["image"])
        np.testing.assert_allclose(seen, seen[:, :1, :1] + part, atol=1e-3)
    assert (batch["source"]["mask"].sum(axis=(1, 2)) == 1).all(), "the one labelled pixel"
    assert len(np.unique(batch["target"]["image"][:, 0, 0, :2], axis=0)) > 10, "anywhere"
