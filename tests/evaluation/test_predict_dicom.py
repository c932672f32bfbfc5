"""A DICOM folder in: a mask a series out, as NIfTI and as DICOM SEG."""

import json
import sys
from pathlib import Path

import highdicom
import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.commands import predict
from keras_meduda.data.io import DataError, read_image, read_mask
from keras_meduda.task import to_json

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from test_dicom import remove, series  # noqa: E402

TASK = km.Task(("bright",), unit="mm")
SETTINGS = km.Preprocessing((8, 8, 8), (), "zscore", 1, "XYZ", fit="crop")


@pytest.fixture
def run(tmp_path):
    """A network to which every voxel above the mean is bright."""
    x = keras.Input((8, 8, 8, 1))
    logits = keras.layers.Conv3D(2, 1)(x)
    network = keras.Model(x, {"logits": logits, "features": x})
    network.layers[-1].set_weights([np.array([[[[[0.0, 4.0]]]]]), np.zeros(2)])
    (folder := tmp_path / "run").mkdir()
    config = {"task": to_json(TASK), "preprocessing": to_json(SETTINGS)}
    (folder / "config.json").write_text(json.dumps(config))
    network.save(folder / "network.keras")
    return folder


def test_every_series_of_a_study_gets_nifti_and_seg(run, tmp_path, capsys):
    for name, plane in (("t1", "axial"), ("t2", "oblique")):
        series(tmp_path / "study" / name, plane, "MR")
    flags = predict.Flags(run=(run,), images=(tmp_path / "study",), out=tmp_path / "o")
    predict.main(flags)
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["made_from.json", "t1.dcm", "t1.nii.gz", "t2.dcm", "t2.nii.gz"]
    for name in ("t1", "t2"):
        image = read_image(tmp_path / "study" / name).array[..., 0]
        mask = read_mask(tmp_path / "o" / f"{name}.nii.gz", TASK)
        np.testing.assert_array_equal(mask, image > image.mean())
        seg = highdicom.seg.segread(tmp_path / "o" / f"{name}.dcm")
        assert seg.pixel_array.sum() == mask.sum()
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["bright"]
    predict.main(flags)
    assert "2 of them from before" in capsys.readouterr().out


def test_a_broken_series_ends_no_other(run, tmp_path):
    series(tmp_path / "study" / "whole")
    remove(series(tmp_path / "study" / "lacking"), 2)
    (tmp_path / "study" / "noise").mkdir()
    (tmp_path / "study" / "noise" / "IM1.dcm").write_bytes(b"no DICOM at all")
    flags = predict.Flags(run=(run,), images=(tmp_path / "study",), out=tmp_path / "o")
    with pytest.raises(DataError, match="lacking.* a slice is missing") as caught:
        predict.main(flags)
    assert "IM1.dcm: found data that cannot be decoded" in str(caught.value)
    assert (tmp_path / "o" / "whole.dcm").exists()


def test_an_own_dcm_beside_is_not_replaced(run, tmp_path):
    series(tmp_path / "study" / "t1")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "t1.dcm").write_bytes(b"a file of someone else")
    flags = predict.Flags(run=(run,), images=(tmp_path / "study",), out=tmp_path / "o")
    with pytest.raises(ValueError, match="t1.dcm; expected another folder, or --overwrite"):
        predict.main(flags)
