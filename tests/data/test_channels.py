"""Laws of channels: a picture's alpha and colour give way, a volume's contrasts never do."""

import nibabel as nib
import numpy as np
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.channels import to_channels
from keras_meduda.data.checks import validate
from keras_meduda.task import Task


@pytest.mark.parametrize(("found", "channels"), [(2, 1), (2, 3), (3, 1), (4, 1), (4, 3)])
def test_no_contrast_of_a_volume_vanishes(found, channels):
    assert to_channels(np.zeros((5, 6, found), "uint8"), channels).shape == (5, 6, channels)
    with pytest.raises(ValueError, match=f"has {found} channels, .* expects {channels}"):
        to_channels(np.zeros((4, 5, 6, found), "float32"), channels)


def test_no_contrast_of_a_volume_stands_for_others():
    assert to_channels(np.zeros((5, 6, 1), "uint8"), 3).shape == (5, 6, 3)
    with pytest.raises(ValueError, match="has 1 channels, .* expects 4"):
        to_channels(np.zeros((4, 5, 6, 1), "float32"), 4)


@pytest.mark.parametrize(
    ("files", "channels", "found"),
    [(1, 1, []), (2, 1, ["2 channels"]), (4, 1, ["4 channels"]), (1, 4, ["1 channels"])],
)
def test_a_table_of_other_contrasts_than_channels_is_refused(tmp_path, files, channels, found):
    scan = nib.Nifti1Image(np.arange(120, dtype="int16").reshape(4, 5, 6), np.eye(4))
    nib.save(scan, tmp_path / "scan.nii")
    cases = case_table([{"case": "a", "image": "|".join([f"{tmp_path}/scan.nii"] * files)}])
    problems = validate(cases, Task(("lesion",)), channels=channels)
    assert [problem.found for problem in problems] == found
