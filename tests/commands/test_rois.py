"""`meduda rois`: square regions around the optic disc, and a user's mistakes."""

import pytest

from keras_meduda.data.cases import read_cases


def test_a_case_table_is_cut(phantoms, tmp_path, meduda):
    code, out, error = meduda("rois", "--cases", phantoms, "--out", tmp_path / "out")
    assert code == 0 and out.startswith("12 regions, 12 with masks")
    assert error.startswith("peak memory ")
    assert len(read_cases(tmp_path / "out" / "cases.csv")) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset refuge --root nowhere", "--root nowhere: expected one that is there"),
        ("--cases nowhere.csv", "found no such file or folder"),
        ("--dataset refuge", "expected --cases, or --dataset with --root"),
        ("--cases nowhere.csv --scale 0", "--scale 0.0: expected a number above 0"),
    ],
)
def test_a_mistake_is_named(tmp_path, meduda, words, message):
    code, _, error = meduda("rois", *words.split(), "--out", tmp_path / "out")
    assert code == 2 and message in error and not (tmp_path / "out").exists()
