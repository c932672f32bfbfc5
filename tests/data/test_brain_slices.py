import cv2
import numpy as np
import pandas as pd
import pytest

from keras_meduda.data.phantoms import write_brain_slices


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brain")
    write_brain_slices(folder, cases=40, size=64)
    return folder


@pytest.fixture(scope="module")
def cases(folder):
    table = pd.read_csv(folder / "cases.csv")
    for column in ("image", "mask"):
        table[f"{column}_pixels"] = [cv2.imread(str(folder / f), -1) for f in table[column]]
    return table


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_table_lists_exactly_the_files(folder, cases):
    assert len(cases) == 40 and cases["case"].is_unique
    listed = {*cases["image"], *cases["mask"], "cases.csv"}
    assert {str(path) for path in files(folder)} == listed


def test_splits_are_by_patient_and_of_the_sizes_that_are_promised(cases):
    assert cases["split"].value_counts().to_dict() == {"train": 25, "test": 10, "labelled": 5}
    assert cases.groupby("group")["split"].nunique().max() == 1
    assert cases["group"].nunique() < 40


def test_images_are_grey_and_a_tumour_is_one_bright_piece(cases):
    for case in cases.itertuples():
        image, mask = case.image_pixels, case.mask_pixels
        assert image.shape == mask.shape == (64, 64) and image.dtype == mask.dtype == "uint8"
        assert set(np.unique(mask)) <= {0, 255}
        if mask.any():
            assert cv2.connectedComponents(mask)[0] == 2
            ring = cv2.dilate(mask, np.ones((5, 5))) > mask
            inside = np.percentile(image[mask > 0], 75)  # above a dark core
            assert inside > image[ring].mean() + 20


def test_some_patients_have_no_tumour_in_any_slice(cases):
    tumour = cases["mask_pixels"].map(np.any)
    assert 0.7 < tumour.mean() < 1
    assert (tumour.groupby(cases["group"]).nunique() == 1).all()


def test_slices_of_a_patient_share_their_anatomy_but_not_their_noise(cases):
    several = cases[cases["group"].duplicated(keep=False) & cases["mask_pixels"].map(np.any)]
    for _, rows in several.groupby("group"):
        first, second = rows["mask_pixels"].iloc[:2]
        assert not (second > cv2.dilate(first, np.ones((5, 5)))).any()  # smaller, at one place
        assert not np.array_equal(*rows["image_pixels"].iloc[:2])


def test_equal_seeds_write_equal_bytes(folder, tmp_path):
    write_brain_slices(tmp_path / "a", cases=40, size=64)
    assert files(tmp_path / "a") == files(folder)
    write_brain_slices(tmp_path / "b", cases=40, size=64, seed=1)
    assert files(tmp_path / "b") != files(folder)
