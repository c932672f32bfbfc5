"""Boxes in every usual form and unit are one box, or refused: never cut to a pixel."""

import numpy as np
import pandas as pd
import pytest

from keras_meduda.data.boxes import read_boxes
from keras_meduda.data.cases import case_table
from keras_meduda.data.catalog import FUNDUS
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.data.roi import prepare_rois

FORMS = {
    ("corners", "px"): "case,x0,y0,x1,y1\neye,24,12,72,36\n",
    ("xywh", "px"): "case,x,y,width,height\neye,24,12,48,24\n",
    ("centre", "px"): "case,xc,yc,width,height\neye,48,24,48,24\n",
    ("corners", "share"): "case,x0,y0,x1,y1\neye,0.25,0.25,0.75,0.75\n",
    ("xywh", "share"): "case;x;y;width;height;score\neye;0.25;0.25;0.5;0.5;0.9\n",
    ("centre", "share"): "case,xc,yc,width,height\neye,0.5,0.5,0.5,0.5\n",
}


@pytest.fixture
def cases(tmp_path):
    """One picture of 48 rows and 96 columns."""
    image = write_picture(tmp_path / "eye.png", np.ones((48, 96, 3), "uint8"))
    return case_table([{"case": "eye", "image": image}])


def table(folder, text):
    (folder / "boxes.csv").write_text(text)
    return folder / "boxes.csv"


@pytest.mark.parametrize(("form", "unit"), FORMS)
def test_one_box_in_every_form_and_unit(tmp_path, cases, form, unit):
    boxes = read_boxes(table(tmp_path, FORMS[form, unit]), form, unit, cases)
    assert boxes.loc[0, ["x0", "y0", "x1", "y1"]].tolist() == [24, 12, 72, 36]
    (region,) = prepare_rois(cases, FUNDUS, tmp_path / "out", boxes).itertuples()
    assert (region.x0, region.y0) == ("9", "-15")  # a square of 1.6 × 48 px around (48, 24)


REFUSED = {
    "shares without a word": ("corners", "px", "0.25 0.25 0.75 0.75", "pixels; shares of"),
    "whole shares": ("corners", "px", "0 0 1 1", "pixels; shares of"),
    "a share among pixels": ("corners", "px", "24 12 72 36|0.25 0.25 0.75 0.75", "pixels; shares"),
    "COCO's shares": ("xywh", "px", "0.25 0.25 0.5 0.5", "pixels; shares of"),
    "YOLO's without a word": ("centre", "px", "0.5 0.5 0.5 0.5", "pixels; shares of"),
    "pixels as shares": ("corners", "share", "24 12 72 36", "shares of the image within 0…1"),
    "shares beyond 1": ("xywh", "share", "0.75 0.5 0.5 0.5", "shares of the image within 0…1"),
    "a centre at the border": ("centre", "share", "0.1 0.5 0.5 0.5", "shares of the image within"),
    "per cent": ("corners", "share", "25 25 75 75", "shares of the image within 0…1"),
    "no width": ("xywh", "px", "24 12 0 24", "a width and height above 0"),
    "negative height": ("centre", "px", "24 12 5 -24", "a width and height above 0"),
    "swapped": ("corners", "px", "72 12 24 36", "finite numbers x0 < x1"),
    "empty": ("corners", "px", "24 12 24 36", "finite numbers x0 < x1"),
    "NaN": ("xywh", "px", "24 nan 48 24", "finite numbers"),
    "infinite": ("corners", "px", "24 12 inf 36", "finite numbers"),
    "words": ("corners", "px", "24 12 a 36", "finite numbers"),
    "decimal commas": ("corners", "px", "24,5 12 72 36", ""),
    "another form": ("xywh", "px", None, "the columns case, x, y, width, height"),
}


@pytest.mark.parametrize(("form", "unit", "rows", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_impossible_is_refused(tmp_path, cases, form, unit, rows, expected):
    text = FORMS["corners", "px"]
    if rows:
        head = FORMS[form, "px"].split("\n")[0]
        lines = [f"eye,{row.replace(' ', ',')}" for row in rows.split("|")]
        text = "\n".join([head, *lines]) + "\n"
    with pytest.raises(DataError) as caught:
        read_boxes(table(tmp_path, text), form, unit, cases)
    assert expected in caught.value.problems[0].expected
    assert str(caught.value.problems[0].file).endswith("boxes.csv")


@pytest.mark.parametrize("form", ["xywh", "centre"])
def test_a_table_in_another_form_is_told_its_flag(tmp_path, form):
    with pytest.raises(DataError, match=f"columns case, x0, .* these are of --box-form {form}"):
        read_boxes(table(tmp_path, FORMS[form, "px"]))
    with pytest.raises(DataError, match="with the columns case, x0, y0, x1, y1$"):
        read_boxes(table(tmp_path, "case,left,top\neye,1,2\n"))


def test_a_folder_of_text_files_without_flags_is_told_them(tmp_path):
    with pytest.raises(DataError, match="found a folder, .* --box-form centre --box-unit share"):
        read_boxes(tmp_path)


def test_a_box_of_one_pixel_may_lie_among_others(tmp_path):
    text = "case,x0,y0,x1,y1\na,0,0,1,1\nb,24,12,72,36\n"
    assert len(read_boxes(table(tmp_path, text))) == 2


@pytest.mark.parametrize("settings", [{"form": "coco"}, {"unit": "%"}, {"unit": "share"}])
def test_an_unknown_form_or_unit_is_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="expected one of corners, xywh, centre"):
        read_boxes(table(tmp_path, FORMS["corners", "px"]), **settings)


def test_shares_of_other_cases_stay(tmp_path, cases):
    text = FORMS["corners", "share"] + "nobody,0.1,0.1,0.2,0.2\n"
    boxes = read_boxes(table(tmp_path, text), unit="share", cases=cases)
    assert isinstance(boxes, pd.DataFrame) and boxes.loc[1, "x1"] == 0.2
    with pytest.raises(DataError, match="boxes: found boxes of 1 cases that the table lacks"):
        prepare_rois(cases, FUNDUS, tmp_path / "out", boxes)


def test_the_text_files_of_a_detector_are_a_table(tmp_path, cases):
    (folder := tmp_path / "labels").mkdir()
    (folder / "eye.txt").write_text("0 0.5 0.5 0.5 0.5 0.75\n0 0.25 0.5 0.25 1\n")
    (folder / "empty.txt").write_text("\n")
    boxes = read_boxes(folder, "centre", "share", cases)
    assert boxes["case"].tolist() == ["eye", "eye"] and boxes["score"].tolist() == [0.75, 1]
    assert boxes[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
        [24, 12, 72, 36],
        [12, 0, 36, 48],
    ]
    (folder / "eye.txt").write_text("24 12 72\n")
    with pytest.raises(DataError, match="eye.txt: found the line '24 12 72', expected class xc yc"):
        read_boxes(folder, "centre", "share", cases)
    (folder / "eye.txt").unlink()
    with pytest.raises(DataError, match="labels: found no box in a text file"):
        read_boxes(folder, "centre", "share", cases)
