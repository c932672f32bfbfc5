"""`meduda check`: what there is in a case table or a data set, and all that is wrong with it."""

from pathlib import Path

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import write_cases

TIDY = ("--classes", "cup=255", "disc=128,255")


def test_what_there_is_is_counted(phantoms, meduda):
    code, out, _ = meduda("check", "--cases", phantoms, *TIDY)
    assert code == 0 and "camera_a" in out and "no problems found\n" in out
    _, out, _ = meduda("check", "--cases", phantoms)
    assert "no problems found; masks were not read, for want of --classes" in out


def test_all_problems_come_in_one_message(phantoms, tmp_path, meduda):
    cases = km.read_cases(phantoms)
    for row, kind in ((0, "image"), (1, "mask")):
        cases.loc[row, kind] = str(tmp_path / f"{kind}.png")
        Path(cases.loc[row, kind]).write_bytes(b"not an image")
    write_cases(cases, tmp_path / "cases.csv")
    code, _, error = meduda("check", "--cases", tmp_path / "cases.csv", *TIDY)
    assert code == 2 and "image.png" in error and "mask.png" in error


@pytest.mark.parametrize(
    "words", ["", "--dataset refuge", "--cases . --dataset refuge --root ."]
)
def test_one_source_of_data_is_expected(meduda, words):
    code, _, error = meduda("check", *words.split())
    assert code == 2 and "expected --cases, or --dataset with --root" in error


@pytest.mark.parametrize("name", ["a.nii.gz", "a.NII", "a.nrrd"])
def test_a_volume_of_any_format_has_one_channel(tmp_path, meduda, name):
    sitk = pytest.importorskip("SimpleITK")
    array = np.random.default_rng(0).integers(0, 99, (8, 8, 4)).astype("int16")
    written = tmp_path / name.lower()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(written))
    written.rename(tmp_path / name)
    (tmp_path / "cases.csv").write_text(f"case,image\na,{name}\n")
    code, out, error = meduda("check", "--cases", tmp_path / "cases.csv")
    assert code == 0 and "no problems found" in out, error


def test_a_table_without_a_case_is_said(tmp_path, meduda):
    (tmp_path / "cases.csv").write_text("case,image\n")
    code, _, error = meduda("check", "--cases", tmp_path / "cases.csv", *TIDY)
    assert code == 2 and "cases.csv: found a header and no case below it" in error
