"""Volumes on disk and in batches: patches are parts of them, and the laws of pictures hold."""

import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import (
    Deformation,
    Degradation,
    Geometry,
    Intensity,
    RandomCrop,
    RandomPatch,
)
from keras_meduda.data.boundary import boundary_target
from keras_meduda.data.cache import digest
from keras_meduda.data.cases import case_table, without_masks
from keras_meduda.data.io import DataError, read_image, read_mask
from keras_meduda.data.pipeline import (
    Batches,
    Prepared,
    add_styles,
    prepare,
    prepared,
    prepared_bytes,
)
from keras_meduda.task import Preprocessing, Task

LESION = Task(("lesion",))
SHAPE, SIZE = (9, 12, 8), (8, 8, 10)  # of the files, and prepared: slices first, one axis padded
SMALL = Preprocessing(SIZE, normalise="zscore_foreground", channels=1, axes="ZXY", fit="crop")
STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
PATCH = RandomPatch((4, 6, 5))


def write_volume(folder, name, seed, bright=200):
    """Noise in an ellipsoid with 0 around it; the lesion is what is bright, so they must agree."""
    grid = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    inside = ((grid / (np.array(SHAPE) / 2)) ** 2).sum(axis=-1) < 1
    image = np.where(inside, np.random.default_rng(seed).integers(1, 256, SHAPE), 0)
    files = folder / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz"
    for file, array in zip(files, (image, image > bright), strict=True):
        nib.save(nib.Nifti1Image(array.astype("int16"), np.diag([0.1, 0.1, 0.5, 1])), file)
    return dict(zip(("image", "mask"), files, strict=True))


def write_cases(folder, count=3, seed=0, **settings):
    folder.mkdir(exist_ok=True)
    rows = [write_volume(folder, i, seed + i, **settings) for i in range(count)]
    return case_table([{"case": str(i), **row} for i, row in enumerate(rows)])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Source and target with everything random switched on."""
    folder = tmp_path_factory.mktemp("volumes")
    store = folder / "store"
    source = prepare(write_cases(folder / "source"), LESION, SMALL, store, labels=True)
    target = write_cases(folder / "target", count=4, seed=10)
    target = prepare(without_masks(target), LESION, SMALL, store, labels=False)
    return {
        "source": add_styles(source, target, store, variants=2),
        "target": add_styles(target, source, store, variants=3),
        "photometry": Intensity(),
        "source_photometry": Intensity(),
    }


def image_of(path, data):
    return np.fromfile(path, data.dtype).reshape(data.shape)


def labels_of(path):
    return np.fromfile(path, "uint8").reshape(SIZE)


def take(batches, count, first=0):
    return list(batches.from_step(first).take(count).as_numpy_iterator())


def assert_equal(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


# Preparation


def test_prepared_files_hold_the_stored_volumes_in_half_precision(tmp_path):
    cases = write_cases(tmp_path)
    data = prepare(cases, LESION, SMALL, tmp_path / "store", labels=True)
    assert data.dtype == "float16" and data.shape == (*SIZE, 1)
    files = zip(cases.itertuples(), data.images, data.labels, data.voxels, strict=True)
    for row, image, labels, voxels in files:
        scan, mask = read_image(row.image), read_mask(row.mask, LESION)
        expected = SMALL.stored(scan.array, scan.spacing)
        np.testing.assert_array_equal(image_of(image, data), expected.astype("float16"))
        expected = SMALL.stored_labels(mask, scan.array, scan.spacing)
        np.testing.assert_array_equal(labels_of(labels), expected)
        np.testing.assert_array_equal(np.fromfile(voxels, "int32"), np.flatnonzero(expected))


def test_8_bit_volumes_stay_8_bit(tmp_path):
    preprocessing = replace(SMALL, normalise="zero_one")
    data = prepare(write_cases(tmp_path), LESION, preprocessing, tmp_path / "store", labels=True)
    assert os.path.getsize(data.images[0]) == np.prod(SIZE) and data.dtype == "uint8"
    batch = take(Batches(2, source=data, target=data, patch=PATCH), 1)[0]
    assert 0 <= batch["target"]["strong"].min() < batch["target"]["strong"].max() <= 1


def test_the_list_of_labelled_voxels_is_bounded_and_fair(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "VOXELS", 5)
    cases = write_cases(tmp_path, bright=100)
    data = prepare(cases, LESION, SMALL, tmp_path / "store", labels=True)
    for labels, voxels in zip(data.labels, data.voxels, strict=True):
        found = np.fromfile(voxels, "int32")
        assert len(set(found.tolist())) == 5
        assert np.fromfile(labels, "uint8")[found].all()
        assert np.ptp(found) > np.prod(SIZE) / 4  # not the first that come


def test_what_is_prepared_is_reused_and_what_changed_made_anew(tmp_path, stamps):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    first = prepare(cases, LESION, SMALL, store, labels=True)
    first = add_styles(first, first, store, variants=2)
    before = stamps(store)
    again = prepare(cases, LESION, SMALL, store, labels=True)
    assert add_styles(again, again, store, variants=2) == first and stamps(store) == before

    write_volume(tmp_path, 1, seed=99)
    second = prepare(cases, LESION, SMALL, store, labels=True)
    for name in ("images", "labels", "voxels"):
        old, new = getattr(first, name), getattr(second, name)
        assert [a != b for a, b in zip(old, new, strict=True)] == [False, True, False], name
    del before["contents.json"]
    assert before.items() <= stamps(store).items()


@pytest.mark.parametrize(
    ("setting", "labels_too"),
    [
        ({"normalise": "zscore"}, False),
        ({"axes": "XYZ"}, True),
        ({"spacing": (0.5, 0.2, 0.2)}, True),
        ({"fit": "crop_foreground"}, True),
    ],
)
def test_a_changed_setting_makes_anew_what_depends_on_it(tmp_path, setting, labels_too):
    cases, store = write_cases(tmp_path, count=1), tmp_path / "store"
    first = prepare(cases, LESION, SMALL, store, labels=True)
    second = prepare(cases, LESION, replace(SMALL, **setting), store, labels=True)
    assert first.images != second.images
    assert (first.labels != second.labels) == labels_too


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_half_written_volume_is_never_taken_for_whole(tmp_path, limit, stamps, full_disk):
    """The disk is full within the image (1280 bytes) or within the labels (640)."""
    cases, store = write_cases(tmp_path), tmp_path / "store"
    if limit == 100:
        prepare(cases, LESION, SMALL, store, labels=False)
    kept = stamps(store) if limit == 100 else {}
    with full_disk(limit), pytest.raises(OSError, match="large"):
        prepare(cases, LESION, SMALL, store, labels=True)
    assert stamps(store).keys() == kept.keys()
    data = prepare(cases, LESION, SMALL, store, labels=True)
    assert {os.path.getsize(image) for image in data.images} == {1280}
    assert {os.path.getsize(labels) for labels in data.labels} == {640}
    kept.pop("contents.json", None)
    assert kept.items() <= stamps(store).items()


@pytest.mark.parametrize("styles", [0, 2])
def test_the_announced_bytes_are_those_on_disk(tmp_path, styles):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    data = prepare(cases, LESION, SMALL, store, labels=True)
    if styles:
        add_styles(data, data, store, styles)
    sizes = {path: path.stat().st_size for path in store.iterdir()}
    lists = sum(size for path, size in sizes.items() if path.suffix == ".voxels")
    del sizes[store / "contents.json"]
    assert prepared_bytes(cases, SMALL, styles) == sum(sizes.values()) - lists
    assert lists <= 3 * 16384


def test_what_does_not_fit_is_named(tmp_path):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    picture = Preprocessing((8, 8), channels=1)
    with pytest.raises(DataError, match=r"0.nii.gz: found image of shape .* 2 spatial axes"):
        prepare(cases, LESION, picture, store, labels=True)
    moved = nib.Nifti1Image(np.eye(12)[:9, :, None].repeat(8, -1), np.diag([0.1, 0.1, 0.7, 1]))
    nib.save(moved, cases.loc[0, "mask"])
    with pytest.raises(DataError, match=r"0_mask.nii.gz: found another position in space"):
        prepare(cases, LESION, SMALL, store, labels=True)
    mask = nib.Nifti1Image(np.ones((9, 12, 7), "int16"), np.diag([0.1, 0.1, 0.5, 1]))
    nib.save(mask, cases.loc[0, "mask"])
    with pytest.raises(DataError, match=r"0_mask.nii.gz: found a mask of shape \(9, 12, 7\)"):
        prepare(cases, LESION, SMALL, store, labels=True)
    assert len(list(store.glob("*.label"))) <= 2  # those of the two sound cases


@pytest.mark.parametrize("normalise", ["zscore", "zscore_foreground", "zero_one"])
def test_one_nan_is_named_and_not_spread(tmp_path, normalise):
    cases, store = write_cases(tmp_path), tmp_path / "store"
    voxels = np.ones(SHAPE, "float32")
    voxels[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.diag([0.1, 0.1, 0.5, 1])), cases.loc[1, "image"])
    with pytest.raises(DataError, match=r"1.nii.gz: found NaN or infinite values"):
        prepare(cases, LESION, replace(SMALL, normalise=normalise), store, labels=False)
    assert len(list(store.iterdir())) <= 2


# Style twins


def test_twins_have_the_foreground_of_their_reference_and_their_own_background(both):
    for data, reference in (("source", "target"), ("target", "source")):
        data, reference = both[data], both[reference]
        for path, twins in zip(data.images, data.styles, strict=True):
            image = image_of(path, data)
            levels = {
                digest([Path(path).stem, Path(other).stem]): image_of(other, reference)
                for other in reference.images
            }
            for file in twins:
                twin = image_of(file, data)
                wanted = levels[Path(file).stem]
                np.testing.assert_array_equal(twin == 0, image == 0)
                shares = np.linspace(0.02, 0.98, 20)
                np.testing.assert_allclose(
                    *(np.quantile(v[v != 0].astype("f4"), shares) for v in (twin, wanted)), atol=0.1
                )


def test_what_is_darkest_is_background_where_zero_is_not(tmp_path):
    preprocessing = replace(SMALL, normalise="zscore")
    cases, store = write_cases(tmp_path), tmp_path / "store"
    data = prepare(cases, LESION, preprocessing, store, labels=False)
    for path, twins in zip(data.images, add_styles(data, data, store).styles, strict=True):
        image = image_of(path, data)
        for twin in twins:
            same = image_of(twin, data) == image
            assert same[image == image.min()].all()


def test_each_channel_has_a_foreground_of_its_own_and_a_blank_one_stays(tmp_path):
    preprocessing, rng = replace(SMALL, channels=2), np.random.default_rng(0)
    files = [str(tmp_path / f"{i}.image") for i in range(2)]
    own, wanted = rng.normal(size=(2, *SIZE, 2)).astype("float16")
    own[:4, ..., 0] = 0
    wanted[..., 1] = 0
    for file, array in zip(files, (own, wanted), strict=True):
        array.tofile(file)
    data, reference = (Prepared(LESION, preprocessing, (file,)) for file in files)
    twin = image_of(add_styles(data, reference, tmp_path).styles[0][0], data)
    np.testing.assert_array_equal(twin[..., 1], own[..., 1])
    np.testing.assert_array_equal(twin[..., 0] == 0, own[..., 0] == 0)
    assert not np.array_equal(twin[4:, ..., 0], own[4:, ..., 0])


# Batches


def test_the_nth_batch_is_a_function_of_seed_and_n(both):
    batches = Batches(3, seed=1, patch=PATCH, **both)
    six = take(batches, 6)
    assert_equal(take(batches, 2, first=4), six[4:])
    other = take(replace(batches, seed=2), 1)[0]
    for half in ("source", "target"):
        assert not np.array_equal(six[4][half]["image"], six[5][half]["image"])
        assert not np.array_equal(other[half]["image"], six[0][half]["image"])


def test_workers_read_slices_of_the_same_batch(both):
    target = replace(both["target"], styles=())
    batches = Batches(4, target=target, photometry=Intensity(), patch=PATCH)
    whole = take(batches, 2, first=3)
    parts = [list(batches.from_step(3, w, 2).take(2).as_numpy_iterator()) for w in range(2)]
    pairs = zip(*parts, strict=True)
    joined = [tf.nest.map_structure(lambda *v: np.concatenate(v), *pair) for pair in pairs]
    assert_equal(joined, whole)


@pytest.mark.parametrize(("patch", "size"), [(PATCH, PATCH.size), (None, SIZE)])
def test_batches_hold_what_the_contract_says(both, patch, size):
    data = Batches(3, patch=patch, boundary=True, **both).from_step(0)
    image, mask = (3, *size, 1), (3, *size, 2)
    shapes = {
        "source": {"image": image, "mask": mask, "boundary": image},
        "target": {"image": image, "strong": image, "style": image},
    }
    assert tf.nest.map_structure(lambda s: tuple(s.shape), data.element_spec) == shapes
    assert {s.dtype for s in tf.nest.flatten(data.element_spec)} == {tf.float32}
    batch = next(data.as_numpy_iterator())
    assert all(np.isfinite(v).all() for v in tf.nest.flatten(batch))
    np.testing.assert_array_equal(batch["source"]["mask"].sum(axis=-1), 1)
    outline = boundary_target(batch["source"]["mask"][0, ..., 1:])
    np.testing.assert_array_equal(batch["source"]["boundary"][0], outline)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Volumes whose three channels say where a voxel lies, and labels that say it as well."""
    folder, shape = tmp_path_factory.mktemp("places"), (11, 9, 10)
    grid = np.moveaxis(np.indices(shape), 0, -1)
    files = {"image": grid.astype("float16"), "label": grid.sum(axis=-1).astype("uint8") % 3}
    files["voxels"] = np.flatnonzero(files["label"] == 2).astype("int32")
    for name, array in files.items():
        array.tofile(folder / f"0.{name}")
    image, labels, voxels = ((str(folder / f"0.{name}"),) for name in files)
    preprocessing = Preprocessing(shape, normalise="zscore", channels=3, axes="XYZ", fit="crop")
    return Prepared(Task(("a", "b")), preprocessing, image, labels, (image,), voxels=voxels)


def test_a_patch_is_the_part_of_the_volume_that_begins_at_its_place(places):
    batches = Batches(
        8,
        source=places,
        target=replace(places, labels=(), voxels=()),
        geometry=STILL,
        photometry=None,
        patch=RandomPatch((5, 4, 6), foreground=0.5),
    )
    grid, starts = np.moveaxis(np.indices((5, 4, 6)), 0, -1), []
    for batch in take(batches, 10):
        for half in batch.values():
            first = half["image"][:, :1, :1, :1]
            np.testing.assert_array_equal(half["image"], first + grid)
            starts.append(first.reshape(-1, 3))
        labels = np.argmax(batch["source"]["mask"], axis=-1)
        np.testing.assert_array_equal(labels, batch["source"]["image"].sum(axis=-1) % 3)
        np.testing.assert_array_equal(batch["target"]["style"], batch["target"]["image"])
    for side in (starts[::2], starts[1::2]):
        side = np.concatenate(side)
        np.testing.assert_array_equal(side.min(axis=0), 0)
        np.testing.assert_array_equal(side.max(axis=0), (6, 5, 4))


def test_source_patches_lie_around_labelled_voxels_and_target_patches_do_not(places):
    one = replace(places, voxels=(places.voxels[0] + "_one",))
    np.array([np.ravel_multi_index((7, 4, 5), (11, 9, 10))], "int32").tofile(one.voxels[0])
    patch = RandomPatch((3, 3, 3), foreground=1.0)
    batches = Batches(30, source=one, target=one, geometry=STILL, photometry=None, patch=patch)
    batch = take(batches, 1)[0]
    np.testing.assert_array_equal(batch["source"]["image"][:, 1, 1, 1], np.tile((7, 4, 5), (30, 1)))
    assert len(np.unique(batch["target"]["image"][:, 0, 0, 0], axis=0)) > 20


def test_target_patches_know_nothing_of_labels(both):
    """The same bits whether or not the target's labels have been prepared."""
    settings = {"photometry": Intensity(), "patch": RandomPatch((4, 6, 5), foreground=1.0)}
    labelled = both["source"]
    blank = replace(labelled, labels=(), voxels=())
    one, other = (take(Batches(2, target=t, **settings), 3) for t in (labelled, blank))
    assert_equal(one, other)


@pytest.mark.parametrize("patch", [PATCH, None])
def test_image_and_mask_move_together(tmp_path, patch):
    """Wherever the moved image is as bright as a lesion, or as dark as none, the mask says so."""
    cases = write_cases(tmp_path)
    data = prepare(cases, LESION, SMALL, tmp_path / "store", labels=True)
    for path, labels in zip(data.images, data.labels, strict=True):
        labels_of(labels).astype("float16").tofile(path)
    for batch in take(Batches(3, source=data, patch=patch), 4):
        image, mask = batch["source"]["image"][..., 0], batch["source"]["mask"][..., 1]
        pure = (image < 1e-4) | (image > 1 - 1e-4)
        assert pure.mean() > 0.2
        np.testing.assert_allclose(image[pure], mask[pure], atol=1e-3)


def test_all_views_of_a_target_move_together(both):
    """Twins that are the images themselves stay so, and so do strong views without a change."""
    data = replace(both["target"], styles=tuple((p,) for p in both["target"].images))
    photometry = Intensity(probability=0.0)
    for batch in take(Batches(4, target=data, photometry=photometry, patch=PATCH), 2):
        views = batch["target"]
        np.testing.assert_array_equal(views["style"], views["image"])
        np.testing.assert_allclose(views["strong"], views["image"], atol=1e-4)


def test_the_mirrored_axis_is_the_one_that_runs_to_the_right(both):
    """X is the second axis here, and the only one along which a patch that is all of it flips."""
    mirror = Geometry(rotation=0, scale=0, shift=0)
    data = replace(both["target"], images=both["target"].images[:1], styles=())
    batch = take(Batches(20, target=data, geometry=mirror, photometry=None), 1)[0]
    image = image_of(data.images[0], data).astype("float32")
    found = {view.tobytes() for view in batch["target"]["image"]}
    assert found == {image.tobytes(), np.flip(image, 1).tobytes()}


def unread(**settings):
    """Prepared volumes that are refused before a file is read."""
    settings = {"normalise": "zscore", "channels": 1, "fit": "crop", **settings}
    preprocessing = Preprocessing(SIZE, axes="ZXY", **settings)
    return Prepared(LESION, preprocessing, ("a.image",), ("a.label",), voxels=("a.voxels",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": unread()}, r"photometry=Photometry\(...\) .* expected an Intensity or None"),
        ({"target": unread(normalise="zscore_foreground")}, "normalise='zscore_foreground'"),
        ({"source": unread(), "geometry": Deformation()}, "a Deformation of volumes .* Geometry"),
        (
            {"source": unread(normalise="zero_one"), "source_photometry": Degradation()},
            r"a Degradation of volumes \(8, 8, 10\); that is for pictures",
        ),
        ({"source": unread(), "crop": RandomCrop((4, 4))}, r"crop of .* patch=RandomPatch\(...\)"),
        (
            {"source": unread(), "patch": RandomPatch((4, 9, 4))},
            r"patch \(4, 9, 4\) is larger than the prepared images \(8, 8, 10\)",
        ),
    ],
)
def test_batches_say_what_is_wrong_with_volumes(settings, message):
    with pytest.raises(ValueError, match=f"^Batches: .*{message}"):
        Batches(2, **settings)
