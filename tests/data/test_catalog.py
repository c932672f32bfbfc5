"""Every layout is read from a miniature tree with its owner's names, nested or not."""

import os

import numpy as np
import pytest

from keras_meduda.data import catalog
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_mask, write_picture
from keras_meduda.task import Task

CUP, RIM, BACKGROUND = [1, 1], [0, 1], [0, 0]


def grow(root, *names, values=(0, 0, 0)):
    """Files of one row of grey values; a PNG whatever the ending, or a JPEG would change them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(write_picture(root / "new.png", np.array([values], "uint8")), root / name)


def classes_of(cases, task, case):
    """Cup and disc of a case, pixel by pixel."""
    mask = cases.loc[cases["case"] == case, "mask"].item()
    return task.one_hot(read_mask(mask, task))[0].astype(int).tolist()


def of(cases, column):
    return dict(zip(cases["case"], cases[column], strict=True))


@pytest.mark.parametrize(("training", "validation", "test"), [
    ("", "Disc_Cup_Masks/", "Disc_Cup_Masks/"),
    ("REFUGE-Training400/", "REFUGE-Validation400-GT/Disc_Cup_Masks/",
     "REFUGE-Test-GT/Disc_Cup_Masks/G/"),
    ("REFUGE-Training400/", "REFUGE-Validation400/Disc_Cup_Masks/", "Test400/Disc_Cup_Masks/"),
])
def test_refuge_as_shipped_has_two_cameras(tmp_path, training, validation, test):
    grow(tmp_path, f"{training}Training400/Glaucoma/g0001.jpg",
         f"{training}Training400/Non-Glaucoma/n0001.jpg", "REFUGE-Validation400/V0001.jpg",
         "Test400/T0001.jpg", "Test400/T0002.jpg", "Test400/._T0001.jpg")
    grow(tmp_path, "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp",
         "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001.bmp", f"{validation}V0001.bmp",
         f"{test}T0001.bmp", values=(0, 128, 255))
    cases, task = catalog.refuge(tmp_path)
    assert of(cases, "domain") == {"g0001": "zeiss", "n0001": "zeiss", "V0001": "canon",
                                   "T0001": "canon", "T0002": "canon"}
    assert of(cases, "split") == {"g0001": "train", "n0001": "train", "V0001": "train",
                                  "T0001": "test", "T0002": "test"}
    for case in ("g0001", "n0001", "V0001", "T0001"):
        assert classes_of(cases, task, case) == [CUP, RIM, BACKGROUND]
    assert of(cases, "mask")["T0002"] == ""


def test_refuge_tidy_is_split_in_the_proportion_of_the_benchmark(tmp_path):
    for i in range(321):
        for name in (f"images/n{i:04}.jpg", f"masks/n{i:04}.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    cases, task = catalog.refuge(tmp_path)
    assert cases["split"].value_counts().to_dict() == {"train": 220, "test": 101}
    assert set(cases["domain"]) == {"refuge"} and task == catalog.FUNDUS


@pytest.mark.parametrize(("files", "train", "test"), [
    ("", "GT", "GT"), ("Drishti-GS1_files/Drishti-GS1_files/", "GT", "Test_GT")])
def test_drishti_as_shipped_takes_the_majority_of_the_experts(tmp_path, files, train, test):
    for part, truth, name in (("Training", train, "002"), ("Test", test, "001")):
        image = f"drishtiGS_{name}"
        grow(tmp_path, f"{files}{part}/Images/GLAUCOMA/{image}.png")
        soft = f"{files}{part}/{truth}/{image}/SoftMap/{image}"
        grow(tmp_path, f"{soft}_ODsegSoftmap.png", values=(255, 191, 64))
        grow(tmp_path, f"{soft}_cupsegSoftmap.png", values=(191, 64, 0))
    cases, task = catalog.drishti_gs(tmp_path)
    assert of(cases, "split") == {"drishtiGS_001": "test", "drishtiGS_002": "train"}
    for case in cases["case"]:
        assert classes_of(cases, task, case) == [CUP, RIM, BACKGROUND]


def test_drishti_tidy_takes_the_official_split_from_the_names(tmp_path):
    grow(tmp_path, "images/train_gdrishtiGS_002.jpg", "images/test_ndrishtiGS_001.jpg")
    grow(tmp_path, "masks/train_gdrishtiGS_002.png", "masks/test_ndrishtiGS_001.png",
         values=(255, 128, 0))
    cases, task = catalog.drishti_gs(tmp_path)
    assert of(cases, "split") == {"test_ndrishtiGS_001": "test", "train_gdrishtiGS_002": "train"}
    assert classes_of(cases, task, "test_ndrishtiGS_001") == [CUP, RIM, BACKGROUND]


@pytest.mark.parametrize(("train", "test"), [
    ("training_set/normal", "test_set/glaucoma"), ("images/train", "images/test")])
def test_rim_one_dl_has_binary_masks_and_two_partitions(tmp_path, train, test):
    grow(tmp_path, f"RIM-ONE_DL_images/partitioned_randomly/{train}/r1_Im001.png",
         f"RIM-ONE_DL_images/partitioned_randomly/{test}/r3_Im002.png",
         "RIM-ONE_DL_images/partitioned_by_hospital/test_set/normal/r1_Im001.png")
    for name in ("normal/r1_Im001", "glaucoma/r3_Im002"):
        truth = f"RIM-ONE_DL_reference_segmentations/{name}-1"
        grow(tmp_path, f"{truth}-Disc-T.png", values=(255, 255, 0))
        grow(tmp_path, f"{truth}-Cup-T.png", values=(255, 0, 0))
    cases, task = catalog.rim_one_dl(tmp_path)
    assert of(cases, "split") == {"r1_Im001": "train", "r3_Im002": "test"}
    assert of(cases, "domain") == {"r1_Im001": "rim_one_dl_r1", "r3_Im002": "rim_one_dl_r3"}
    for case in cases["case"]:
        assert classes_of(cases, task, case) == [CUP, RIM, BACKGROUND]
    assert of(catalog.rim_one_dl(tmp_path, "by_hospital")[0], "split") == {"r1_Im001": "test"}
    assert of(catalog.rim_one_r3(tmp_path)[0], "domain") == {"r3_Im002": "rim_one_r3"}


@pytest.mark.parametrize("root", [".", "Drishti-GS"])
def test_fundus_rois_are_domains_and_interpolated_values_fall_into_bands(tmp_path, root):
    rois = tmp_path / "Drishti-GS" / "train" / "ROIs"
    grow(rois, "image/a.png")
    grow(rois, "mask/a.png", values=(20, 110, 230))
    grow(tmp_path / "Drishti-GS" / "test" / "ROIs", "image/a.png")
    cases, task = catalog.fundus_rois(tmp_path / root)
    assert of(cases, "domain") == {"test_a": "Drishti-GS", "train_a": "Drishti-GS"}
    assert of(cases, "split") == {"test_a": "test", "train_a": "train"}
    assert classes_of(cases, task, "train_a") == [CUP, RIM, BACKGROUND]


def test_fundus_rois_declare_every_grey(tmp_path):
    grow(tmp_path, "refuge/train/ROIs/image/a.png")
    grow(tmp_path, "refuge/train/ROIs/mask/a.png", values=range(256))
    cases, task = catalog.fundus_rois(tmp_path)
    labels = read_mask(cases.loc[0, "mask"], task)[0]
    assert (labels[:64] == 3).all() and (labels[65:192] == 2).all() and (labels[192:] == 0).all()


def test_folders_pair_equal_stems_below_every_domain(tmp_path):
    grow(tmp_path, "ge/images/p1_a.png", "ge/images/p1_b.jpg", "philips/images/p2.png",
         "ge/masks/p1_a_mask.png", values=(0, 1, 255))
    cases, task = catalog.folders(tmp_path, group=r"^(p\d+)")
    assert of(cases, "domain") == {"p1_a": "ge", "p1_b": "ge", "p2": "philips"}
    assert of(cases, "group") == {"p1_a": "p1", "p1_b": "p1", "p2": "p2"}
    assert [bool(mask) for mask in cases["mask"]] == [True, False, False]
    assert read_mask(cases.loc[0, "mask"], task).tolist() == [[0, 1, 1]]
    inner, _ = catalog.folders(tmp_path / "ge")
    assert of(inner, "domain") == {"p1_a": "ge", "p1_b": "ge"}


@pytest.mark.parametrize("reader", [
    catalog.refuge, catalog.drishti_gs, catalog.rim_one_dl, catalog.rim_one_r3,
    catalog.fundus_rois, catalog.folders])
def test_an_unknown_layout_names_what_was_looked_for_and_what_is_there(tmp_path, reader):
    (tmp_path / "Downloads").mkdir()
    with pytest.raises(DataError, match=r"found 1 entries: Downloads, expected .*(/|\*)"):
        reader(tmp_path)
    with pytest.raises(DataError, match="found an empty folder, expected"):
        reader(tmp_path / "Downloads")
    with pytest.raises(DataError, match="found no such folder, expected"):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize(("names", "message"), [
    (["images/a.png", "masks/b.png"], "1 masks without an image: b, expected equal names"),
    (["images/a.png", "images/a.jpg", "masks/a.png"], "a second file named 'a', expected one file"),
    (["images/x7.png", "masks/x7.png"], r"the case 'x7', expected a name that matches '\^p"),
])
def test_pairs_that_do_not_fit_are_named(tmp_path, names, message):
    grow(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        catalog.folders(tmp_path, group=r"^p\d+")


def test_drishti_tidy_without_a_split_in_its_names_is_refused(tmp_path):
    grow(tmp_path, "images/train_1.png", "images/2.png", "masks/train_1.png")
    with pytest.raises(DataError, match=r"expected .*images/\{train,test\}_\*"):
        catalog.drishti_gs(tmp_path)


def test_real_fundus_data_are_read_without_a_problem(data_root):
    source, task = catalog.refuge(data_root / "fundus" / "refuge")
    target, _ = catalog.drishti_gs(data_root / "fundus" / "drishti_gs")
    assert source["split"].value_counts().to_dict() == {"train": 220, "test": 101}
    assert target["split"].value_counts().to_dict() == {"test": 51, "train": 50}
    assert validate(source[::8], task, channels=3) == []
    assert validate(target[::4], task, channels=3) == []


def test_real_masks_read_the_other_way_round_are_all_reported(data_root):
    cases = catalog.drishti_gs(data_root / "fundus" / "drishti_gs")[0][::10]
    inverted = Task(("cup", "disc"), True, {"cup": (0,), "disc": (0, 128)}, background=(255,))
    problems = validate(cases, inverted)
    assert [problem.file for problem in problems] == cases["mask"].tolist()
    assert all("an inverted mask?" in problem.found for problem in problems)
