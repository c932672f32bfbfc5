"""Volumes are read from miniature trees with their owners' names."""

import nibabel as nib
import numpy as np
import pytest

from keras_meduda.data import catalog
from keras_meduda.data.cases import split_cases
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask

PARTS = np.arange(27, dtype="uint8").reshape(3, 3, 3) % 5  # labels 0 to 4


def grow(root, *names, values=PARTS):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.eye(4)), root / name)


def column(cases, name):
    return dict(zip(zip(cases["domain"], cases["case"], strict=True), cases[name], strict=True))


@pytest.mark.parametrize(("folder", "ending"), [
    ("BraTS2021_{:05}/BraTS2021_{:05}", "nii.gz"),
    ("HGG/Brats18_{:02}_1/Brats18_{:02}_1", "nii.gz"),
    ("MICCAI_BraTS2020/BraTS20_Training_{:03}/BraTS20_Training_{:03}", "nii"),
    ("Brats18_{:02}_1", "nii.gz"),
])
def test_brats_has_a_row_a_case_and_contrast(tmp_path, folder, ending):
    for number in range(5):
        for kind in ("flair", "t1", "t1ce", "t2", "seg"):
            grow(tmp_path, f"{folder.format(number, number)}_{kind}.{ending}")
    cases, task = catalog.brats(tmp_path)
    contrasts = ("flair", "t1", "t1ce", "t2")
    assert cases["domain"].value_counts().to_dict() == dict.fromkeys(contrasts, 5)
    assert (cases["group"] == cases["case"]).all() and task.unit == "mm"
    for row in cases.itertuples():
        assert row.image.endswith(f"{row.case}_{row.domain}.{ending}")
        assert row.mask.endswith(f"{row.case}_seg.{ending}")
    whole = read_mask(cases["mask"][0], task)
    np.testing.assert_array_equal(whole, PARTS > 0)
    # No case is on one side of the split in one contrast and on the other in another.
    assert (cases.groupby("case")["split"].nunique() == 1).all()
    assert cases["split"].value_counts().to_dict() == {"train": 16, "test": 4}


def test_brats_tidy_and_a_mask_of_a_name_of_its_own(tmp_path):
    grow(tmp_path, "images/A_1_flair.nii.gz", "images/A_1_t2.nii.gz", "masks/A_1_seg.nii.gz",
         "B_2/B_2_flair.nii", "B_2/W39_1998.09.19_Segm.nii", "C_3/C_3_flair.nii")
    masks = column(catalog.brats(tmp_path)[0], "mask")
    assert {key: mask.rpartition("/")[2] for key, mask in masks.items()} == {
        ("flair", "A_1"): "A_1_seg.nii.gz", ("t2", "A_1"): "A_1_seg.nii.gz",
        ("flair", "B_2"): "W39_1998.09.19_Segm.nii", ("flair", "C_3"): ""}


def test_a_second_mask_of_a_case_is_named(tmp_path):
    grow(tmp_path, "a/A_flair.nii", "a/A_seg.nii", "b/A_seg.nii")
    with pytest.raises(DataError, match=r"b/A_seg.nii: found a second mask of 'A'"):
        catalog.brats(tmp_path)


def test_a_mask_of_a_name_of_its_own_among_several_cases_is_nobodys(tmp_path):
    grow(tmp_path, "A_flair.nii", "A_seg.nii", "B_flair.nii", "B_segmentation.nii", "C_flair.nii")
    with pytest.raises(DataError, match="B_segmentation.nii: found a mask of no case, expected <c"):
        catalog.brats(tmp_path)


@pytest.mark.parametrize("mask", ["scan_lesion.nii.gz", "scan_lesionIAM.nii.gz"])
@pytest.mark.parametrize("above", ["", "Data/"])
def test_rats_are_groups_over_all_times(tmp_path, mask, above):
    for place in ("s1/2h/r1", "s1/24h/r1", "s2/2h/r1"):
        grow(tmp_path, f"{above}{place}/scan.nii.gz", f"{above}{place}/{mask}")
    grow(tmp_path, f"{above}s2/2h/r2/scan.nii.gz")
    cases, task = catalog.ratlesnet(tmp_path)
    assert column(cases, "group") == {
        ("s1", "s1_2h_r1"): "s1_r1", ("s1", "s1_24h_r1"): "s1_r1",
        ("s2", "s2_2h_r1"): "s2_r1", ("s2", "s2_2h_r2"): "s2_r2"}
    assert cases["case"].is_unique
    assert cases["time"].tolist() == ["24h", "2h", "2h", "2h"]
    assert [cell.endswith(mask) for cell in cases["mask"]] == [True, True, True, False]
    assert (task.classes, task.unit) == (("lesion",), "mm")
    assert (split_cases(cases, {"a": 1, "b": 1}).groupby("group")["split"].nunique() == 1).all()


def test_rats_of_one_study_go_without_its_name(tmp_path):
    grow(tmp_path, "s1/2h/r1/scan.nii.gz", "s1/24h/r1/scan.nii.gz")
    assert catalog.ratlesnet(tmp_path)[0]["case"].tolist() == ["24h_r1", "2h_r1"]


def test_mice_keep_the_split_of_their_folders(tmp_path):
    for part, case in (("train", "m1"), ("train", "m2"), ("val", "m3"), ("test", "m4")):
        grow(tmp_path, f"{part}_image/{case}.nii", f"{part}_mask/{case}_mask.nii")
    cases, _ = catalog.mouse_mcao(tmp_path)
    assert dict(zip(cases["case"], cases["split"], strict=True)) == {
        "m1": "train", "m2": "train", "m3": "val", "m4": "test"}
    assert set(cases["domain"]) == {"mouse_mcao"} and all(cases["mask"])
    grow(tmp_path, "val_mask/m9_mask.nii")
    with pytest.raises(DataError, match="val_mask: found 1 masks without an image: m9, expected "
                       "equal names in val_image/ and val_mask/"):
        catalog.mouse_mcao(tmp_path)


def test_a_strain_in_the_name_is_the_domain(tmp_path):
    for name in ("tg_1_2013_UT", "tg_2_2013_WT"):
        grow(tmp_path, f"images/{name}.nii.gz", f"masks/{name}_mask.nii.gz")
    cases, _ = catalog.folders(tmp_path, domain="(UT|WT)$", group=r"^tg_\d+")
    assert cases["domain"].tolist() == ["UT", "WT"] and cases["group"].tolist() == ["tg_1", "tg_2"]
    assert all(cases["mask"])


@pytest.mark.parametrize("reader", [catalog.brats, catalog.ratlesnet, catalog.mouse_mcao])
def test_an_unknown_layout_names_what_was_looked_for_and_what_is_there(tmp_path, reader):
    (tmp_path / "Downloads").mkdir()
    with pytest.raises(DataError, match=r"found 1 entries: Downloads, expected .*\.nii"):
        reader(tmp_path)
    with pytest.raises(DataError, match="found no such folder, expected"):
        reader(tmp_path / "nowhere")


def test_real_volumes_are_read_without_a_problem(data_root):
    cases, task = catalog.brats(data_root / "brats")
    assert cases["domain"].value_counts().to_dict() == {"flair": 3, "t2": 3}
    assert validate(cases, task, channels=1) == []
    mice, task = catalog.brain_mouse(data_root / "brain_mouse")
    assert mice["domain"].value_counts().to_dict() == {"transgenic": 6, "wild_type": 6}
    assert validate(mice[::6], task, channels=1) == []
    image = read_image(mice["image"][0])
    assert image.array.shape == (112, 128, 80, 1)
    np.testing.assert_allclose(image.spacing, 0.15, rtol=1e-4)
