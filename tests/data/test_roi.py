"""Laws of disc regions: a crop is undone by paste, and the disc is in the middle of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_meduda.data.cases import case_table, read_cases, without_masks
from keras_meduda.data.catalog import FUNDUS
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask, write_picture
from keras_meduda.data.roi import disc_box, paste, prepare_rois, roi_square
from keras_meduda.data.spatial import crop_or_pad
from keras_meduda.task import Task


def photographs(folder):
    """Two photographs, one with its disc at the border."""
    y, x = np.mgrid[:90, :120]
    rows = []
    for name, (cx, cy) in {"middle": (69.5, 39.5), "corner": (5, 84)}.items():
        distance = np.hypot(x - cx, y - cy)
        values = np.select([distance < 5, distance < 10], [255, 128], 0).astype("uint8")
        image = np.random.default_rng(0).integers(1, 255, (90, 120, 3)).astype("uint8")
        rows.append({"case": name, "domain": "zeiss", "age": 60,
                     "image": write_picture(folder / f"{name}.png", image),
                     "mask": write_picture(folder / f"{name}_mask.png", values)})
    return case_table(rows)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3)])
@pytest.mark.parametrize("square", [(5, 6, 10), (-4, -7, 20), (30, 20, 25), (-50, 3, 10)])
def test_paste_undoes_crop(shape, square):
    array = np.random.default_rng(0).integers(1, 9, shape)
    x0, y0, side = square
    row = {"x0": x0, "y0": y0, "full_width": 40, "full_height": 30}
    region = crop_or_pad(array, (y0, x0), (side, side))
    assert region.shape[:2] == (side, side)
    inside = np.zeros(shape, bool)
    inside[max(y0, 0):max(y0 + side, 0), max(x0, 0):max(x0 + side, 0)] = True
    np.testing.assert_array_equal(paste(region, row), np.where(inside, array, 0))


def test_a_disc_fills_about_a_third_of_its_region():
    y, x = np.mgrid[:200, :200]
    disc = (np.hypot(x - 90, y - 110) < 40).astype("uint8")
    x0, y0, side = roi_square(disc_box(disc))
    region = crop_or_pad(disc, (y0, x0), (side, side))
    assert region.sum() == disc.sum()
    assert region.mean() == pytest.approx(np.pi / 4 / 1.6**2, abs=0.01)
    assert disc_box(region) == disc_box(region[::-1, ::-1])  # centred


def test_regions_come_with_a_table_that_leads_back(tmp_path):
    cases = photographs(tmp_path)
    prepare_rois(cases, FUNDUS, tmp_path / "out")
    rois = read_cases(tmp_path / "out" / "cases.csv")
    assert validate(rois, FUNDUS) == [] and rois["age"].tolist() == ["60", "60"]
    for (_, case), (_, roi) in zip(cases.iterrows(), rois.iterrows(), strict=True):
        whole = read_mask(case["mask"], FUNDUS)
        np.testing.assert_array_equal(paste(read_mask(roi["mask"], FUNDUS), roi), whole)
        image, back = read_image(case["image"]).array, paste(read_image(roi["image"]).array, roi)
        np.testing.assert_array_equal(back[whole > 0], image[whole > 0])


def boxes(folder, text="middle,60,30,80,50\ncorner,-4,75,15,94\n"):
    (folder / "boxes.csv").write_text(f"case,x0,y0,x1,y1\n{text}")
    return folder / "boxes.csv"


def test_a_box_replaces_the_mask_and_no_label_is_read(tmp_path):
    cases = photographs(tmp_path)
    by_mask = prepare_rois(cases, FUNDUS, tmp_path / "a", scale=2)
    by_box = prepare_rois(without_masks(cases), FUNDUS, tmp_path / "b", boxes(tmp_path), scale=2)
    assert by_box.loc[0, ["x0", "y0"]].tolist() == by_mask.loc[0, ["x0", "y0"]].tolist()
    assert by_box["mask"].tolist() == ["", ""]


def test_of_several_boxes_the_surest_counts(tmp_path):
    text = "case,x0,y0,x1,y1,score\nmiddle,50,20,70,40,0.9\nmiddle,1,2,5,6,0.2\n"
    (tmp_path / "boxes.csv").write_text(text)
    rois = prepare_rois(photographs(tmp_path)[:1], FUNDUS, tmp_path / "out", tmp_path / "boxes.csv")
    assert rois.loc[0, ["x0", "y0"]].tolist() == ["44", "14"]


def test_boxes_of_other_names_do_not_leave_the_cut_to_the_masks(tmp_path):
    named = boxes(tmp_path, "middle.png,60,30,80,50\n")
    with pytest.raises(DataError, match="boxes of 1 cases that the table lacks, such as 'middle.p"):
        prepare_rois(photographs(tmp_path), FUNDUS, tmp_path / "out", named)


def test_size_is_the_side_in_pixels(tmp_path):
    rois = prepare_rois(photographs(tmp_path), FUNDUS, tmp_path / "out", size=32)
    assert {read_image(path).array.shape for path in rois["image"]} == {(32, 32, 3)}


def test_a_second_start_goes_on_and_keeps_what_is_there(tmp_path):
    cases = photographs(tmp_path)
    rois = prepare_rois(cases, FUNDUS, tmp_path / "out")
    first, second = (Path(path) for path in rois["image"])
    before, content = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    prepare_rois(cases, FUNDUS, tmp_path / "out")
    assert first.stat().st_mtime_ns == before and second.read_bytes() == content
    with pytest.raises(DataError, match="the same cases cut in another way, expected the same set"):
        prepare_rois(cases, FUNDUS, tmp_path / "out", scale=2)


def test_a_corrected_file_is_cut_anew_and_no_other(tmp_path):
    cases = photographs(tmp_path)
    rois = prepare_rois(cases, FUNDUS, tmp_path / "out")
    other, before = Path(rois.loc[1, "image"]), read_image(rois.loc[0, "image"]).array
    stamp = other.stat().st_mtime_ns
    disc = read_image(cases.loc[0, "mask"]).array > 0
    write_picture(cases.loc[0, "mask"], disc * np.uint8(128))  # no cup any more, in the same box
    prepare_rois(cases, FUNDUS, tmp_path / "out")
    assert set(np.unique(read_image(rois.loc[0, "mask"]).array)) == {0, 128}
    np.testing.assert_array_equal(read_image(rois.loc[0, "image"]).array, before)
    assert other.stat().st_mtime_ns == stamp


def test_masks_of_other_values_are_cut_anew(tmp_path):
    cases, values = photographs(tmp_path), {"cup": (128,), "disc": (128, 255)}
    swapped = Task(FUNDUS.classes, overlapping=True, values=values)
    prepare_rois(cases, swapped, tmp_path / "out")
    rois = prepare_rois(cases, FUNDUS, tmp_path / "out")
    alone = prepare_rois(cases, FUNDUS, tmp_path / "alone")
    for mask, expected in zip(rois["mask"], alone["mask"], strict=True):
        np.testing.assert_array_equal(read_image(mask).array, read_image(expected).array)


def test_cases_that_would_share_a_file_are_refused(tmp_path):
    cases = photographs(tmp_path).assign(case=["p 1", "p_1"])
    with pytest.raises(DataError, match=r"p_1.png: found the cases \['p 1', 'p_1'\]"):
        prepare_rois(cases, FUNDUS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "found"), [
    ("middle,60,30,80,fifty\n", "the box 60 30 80 fifty of 'middle'"),
    ("middle,80,30,60,50\n", "the box 80 30 60 50 of 'middle'"),
    ("middle,60,30\n", "3 cells in row 1"),
])
def test_what_is_wrong_with_a_box_is_named(tmp_path, text, found):
    with pytest.raises(DataError, match=found):
        prepare_rois(photographs(tmp_path), FUNDUS, tmp_path / "out", boxes(tmp_path, text))


def test_cases_without_disc_and_box_are_named_together(tmp_path):
    cases = photographs(tmp_path)
    write_picture(tmp_path / "middle_mask.png", np.zeros((90, 120), "uint8"))
    cases.loc[1, "mask"] = ""
    with pytest.raises(DataError) as caught:
        prepare_rois(cases, FUNDUS, tmp_path / "out")
    found = [problem.found for problem in caught.value.problems]
    assert found == ["no box and no disc in a mask"] * 2
    assert not (tmp_path / "out").exists()


def test_no_photograph_is_taken_for_an_earlier_region(phantoms, tmp_path):
    """Where the photographs lie as regions would, in DOMAIN/images/CASE.png."""
    rows = []
    for row in read_cases(phantoms)[:2].itertuples():
        folder, name = tmp_path / row.domain, f"{row.case}.png"
        image, mask = folder / "images" / name, folder / "masks" / name
        for file, source in ((image, row.image), (mask, row.mask)):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, file)
        rows.append({"case": row.case, "domain": row.domain, "image": image, "mask": mask})
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.png")}
    with pytest.raises(DataError, match="an input in place of its region, expected another --out"):
        prepare_rois(case_table(rows), FUNDUS, tmp_path)
    with pytest.raises(DataError, match="a file that is no region, expected another --out"):
        prepare_rois(read_cases(phantoms)[:2], FUNDUS, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.png")} == before
    assert not (tmp_path / "cases.csv").exists()
