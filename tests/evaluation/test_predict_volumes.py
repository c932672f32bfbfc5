"""Volumes: probabilities in the case's own grid, distances in mm, memory for one case."""

import json
from dataclasses import asdict

import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import case_table, write_cases
from keras_meduda.data.io import DataError, read_image, read_mask, write_mask, write_picture
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.run import Run
from keras_meduda.task import to_json

TASK = km.Task(("lesion",), unit="mm")
SETTINGS = km.Preprocessing(
    (10, 24, 20), (), "zscore_foreground", 1, "YXZ", (1.0, 0.5, 0.5), "crop_foreground")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network to which every voxel is a lesion whose z-score is above 2."""
    x = keras.Input((None, None, None, 1))
    logits = keras.layers.Conv3D(2, 1)(x)
    network = keras.Model(x, {"logits": logits, "features": x})
    network.layers[-1].set_weights([np.array([[[[[0.0, 4.0]]]]]), np.array([0.0, -8.0])])
    folder = tmp_path_factory.mktemp("run")
    config = {"task": to_json(TASK), "preprocessing": to_json(SETTINGS)}
    (folder / "config.json").write_text(json.dumps(config))
    network.save(folder / "network.keras")
    return km.load(folder)


def write_case(
    folder, name, axes="RAS", spacing=(0.5, 1.0, 0.5), shape=(22, 12, 18), corner=(4, 4, 4)
):
    """A dim brain with a bright cuboid, 5 × 4 × 6 voxels, and its mask, stored along `axes`."""
    image, mask = np.zeros(shape, "int16"), np.zeros(shape, "uint8")
    image[2:-2, 1:-1, 2:-2] = 100
    lesion = tuple(slice(c, c + n) for c, n in zip(corner, (5, 4, 6), strict=True))
    image[lesion], mask[lesion] = 900, 1
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    for kind, array in (("image", image), ("mask", mask)):
        affine = np.diag([*spacing, 1]) @ nib.orientations.inv_ornt_aff(turn, shape)
        stored = nib.Nifti1Image(nib.apply_orientation(array, turn), affine)
        (folder / f"{kind}s").mkdir(exist_ok=True)
        nib.save(stored, folder / f"{kind}s" / f"{name}.nii.gz")
    image, mask = (str(folder / f"{kind}s" / f"{name}.nii.gz") for kind in ("image", "mask"))
    return {"case": name, "image": image, "mask": mask}


@pytest.fixture
def cases(tmp_path):
    return case_table([
        write_case(tmp_path, "as trained"),
        write_case(tmp_path, "turned", "LPS"),
        write_case(tmp_path, "lying", "SLA"),
        write_case(tmp_path, "wide", shape=(60, 12, 40), corner=(26, 3, 20)),
        write_case(tmp_path, "coarse", spacing=(1.0, 1.0, 1.0), shape=(18, 14, 16)),
    ])


def test_probabilities_come_back_to_the_voxels_they_are_of(run, cases):
    for row, probabilities in zip(
        cases.itertuples(), predict_all(run, list(cases["image"])), strict=True
    ):
        image = read_image(row.image)
        assert probabilities.shape == (*image.array.shape[:-1], 2)
        np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
        mask = read_mask(row.mask, TASK)
        found = TASK.masks(probabilities)[..., 0]
        dice = 2 * (found & (mask == 1)).sum() / (found.sum() + mask.sum())
        assert dice > (0.9 if row.case == "coarse" else 0.999), row.case


def test_spacing_comes_with_a_path_or_an_image_and_is_1_for_an_array(run, cases):
    path = cases["image"][0]
    image, expected = read_image(path), km.predict(run, path)
    np.testing.assert_array_equal(km.predict(run, image), expected)
    assert not np.array_equal(km.predict(run, image.array), expected)


def test_outside_of_the_network_s_window_is_background(run, tmp_path):
    row = write_case(tmp_path, "long", shape=(120, 12, 18))
    probabilities = km.predict(run, row["image"])
    np.testing.assert_array_equal(probabilities[-10:], np.broadcast_to([1, 0], (10, 12, 18, 2)))


def test_images_that_cannot_be_predicted_are_named(run, cases, tmp_path):
    holed = np.full((22, 12, 18), np.nan, "float32")
    nib.save(nib.Nifti1Image(holed, np.eye(4)), tmp_path / "holed.nii")
    with pytest.raises(DataError, match="holed.nii: found NaN or infinite values"):
        km.predict(run, tmp_path / "holed.nii")
    picture = write_picture(tmp_path / "picture.png", np.zeros((9, 9, 1), "uint8"))
    with pytest.raises(DataError, match=r"picture.png: found image of shape .* 3 spatial axes"):
        km.predict(run, picture)
    with pytest.raises(DataError, match="image has 5 channels"):
        km.predict(run, np.zeros((9, 9, 9, 5), "float32"))


def test_distances_are_in_mm_by_the_header(run, cases, tmp_path):
    frame = km.evaluate(run, cases)
    assert len(frame) == len(cases) and (frame["dice"] > 0.9).all()
    volumes = dict(zip(frame["case"], frame["volume_reference"], strict=True))
    assert volumes["turned"] == pytest.approx(120 * 0.25) and volumes["coarse"] == 120

    image = cases["image"][0]  # three voxels to the front: 3 mm, or 3 px
    moved = write_mask(tmp_path / "moved", np.roll(read_mask(cases["mask"][0], TASK), 3, 1), image)
    wrong = cases[:1].assign(mask=str(moved))
    assert km.evaluate(run, wrong)["hd95"].item() == pytest.approx(3.0)
    wide = np.roll(read_mask(cases["mask"][0], TASK), 4, 0)  # four to the right: 2 mm, or 4 px
    wrong = cases[:1].assign(mask=str(write_mask(tmp_path / "wide", wide, image)))
    assert km.evaluate(run, wrong)["hd95"].item() == pytest.approx(2.0)
    pixels = km.Task(**{**asdict(TASK), "unit": "px"})
    assert km.evaluate(run, wrong, pixels)["hd95"].item() == pytest.approx(4.0)


@pytest.fixture
def predict(run, meduda):
    """The command `meduda predict` with the run of volumes."""

    def call(*words):
        code, _, error = meduda("predict", "--run", run.path, *words)
        assert code == 0, error

    return call


def test_the_command_writes_masks_with_the_header_of_their_images(predict, cases, tmp_path):
    predict("--images", tmp_path / "images", "--out", tmp_path / "out", "--overlays")
    for row in cases.itertuples():
        image, mask = nib.load(row.image), nib.load(tmp_path / "out" / f"{row.case}.nii.gz")
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.shape == image.shape and mask.get_data_dtype() == "uint8"
        assert read_image(tmp_path / "out" / "overlays" / f"{row.case}.png").array.shape[-1] == 3
        reference = np.asarray(nib.load(row.mask).dataobj)
        if row.case != "coarse":
            np.testing.assert_array_equal(np.asarray(mask.dataobj), reference)


def test_cases_of_one_name_in_two_domains_keep_a_mask_each(predict, cases, tmp_path):
    both = pd.concat([cases[:1].assign(domain="t2"), cases[3:4].assign(domain="flair")])
    write_cases(both.assign(case="brain"), tmp_path / "cases.csv")
    predict("--images", tmp_path / "cases.csv", "--out", tmp_path / "out")
    for domain, row in zip(("t2", "flair"), both.itertuples(), strict=True):
        found = nib.load(tmp_path / "out" / domain / "brain.nii.gz")
        np.testing.assert_array_equal(found.dataobj, nib.load(row.mask).dataobj)


def test_a_run_of_volumes_is_loaded_with_its_settings(run):
    assert isinstance(run, Run) and run.preprocessing == SETTINGS and run.task == TASK


def test_a_mask_that_lies_elsewhere_is_not_scored(run, tmp_path):
    affine, voxels = np.diag([-1.0, -1.0, 1.0, 1.0]), np.arange(24**3, dtype="int16")
    nib.save(nib.Nifti1Image(voxels.reshape(24, 24, 24), affine), tmp_path / "a.nii")
    for name, place, size in (("turned", np.eye(4), 24), ("small", affine, 23)):
        mask = tmp_path / f"{name}.nii"
        nib.save(nib.Nifti1Image(np.ones((size, 24, 24), "uint8"), place), mask)
        cases = case_table([{"case": "a", "image": str(tmp_path / "a.nii"), "mask": str(mask)}])
        with pytest.raises(DataError, match="another position in|a mask of shape \\(23, 2"):
            km.evaluate(run, cases)
