"""Where NIfTI volumes lie and what their labels are, as scanners' tools really write them."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from keras_meduda.data.cases import case_table
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask, write_mask
from keras_meduda.task import Preprocessing, Task

SHAPE = (6, 7, 8)
LABELS = Task(("a", "b", "c"), values={"a": (1,), "b": (2,), "c": (4,)}, unit="mm")
VALUES = np.random.default_rng(0).integers(0, 900, SHAPE).astype("int16")
TURN = np.array([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]])  # a unit quaternion of (1, -1, 1, -1) / 2
HALF_TURN = np.diag([1.0, -1, -1])  # of (0, 1, 0, 0): w is 0


def with_header(path, rotation=TURN, kind=nib.Nifti1Image, **fields):
    """A scan with a qform of a rotation at 1 × 2 × 3 mm, and header fields as they are given."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * [1, 2, 3], (5, 6, 7)
    scan = kind(VALUES, affine)
    scan.set_qform(affine, code=1)
    scan.set_sform(affine, code=0)
    nib.save(scan, path)
    with open(path, "rb") as file:
        header = kind.header_class.from_fileobj(file, check=False)
    for name, value in fields.items():
        header[name][...] = value
    data = bytearray(path.read_bytes())
    data[: header.structarr.nbytes] = header.structarr.tobytes()
    path.write_bytes(bytes(data))
    return path, affine


def at(image):
    """The places of all voxels in space, and their values."""
    shape = image.array.shape[:3]
    places = nib.affines.apply_affine(image.affine, np.argwhere(np.ones(shape)))
    order = np.lexsort(places.round(3).T)
    return places[order], image.array[..., 0].ravel()[order]


def expected(affine):
    places = nib.affines.apply_affine(affine, np.argwhere(np.ones(SHAPE)))
    order = np.lexsort(places.round(3).T)
    return places[order], VALUES.ravel()[order]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("excess", [1e-7, 1e-6, 1e-5, 1e-3])
def test_a_quaternion_rounded_to_above_one(tmp_path, kind, excess):
    path, affine = with_header(
        tmp_path / "a.nii", HALF_TURN, kind, quatern_b=1 + excess, quatern_c=0, quatern_d=0
    )
    places, values = at(read_image(path))
    there, these = expected(affine)
    np.testing.assert_allclose(places, there, atol=1e-4)
    np.testing.assert_array_equal(values, these)
    written = write_mask(tmp_path / "m", (read_image(path).array[..., 0] > 400) * np.uint8(1), path)
    np.testing.assert_array_equal(read_mask(written, LABELS), read_image(path).array[..., 0] > 400)


def test_the_rounded_quaternion_lies_where_simpleitk_reads_it(tmp_path):
    path, _ = with_header(tmp_path / "a.nii", HALF_TURN, quatern_b=1 + 1e-6)
    scan, image = sitk.ReadImage(str(path)), read_image(path)
    for index in ((0, 0, 0), (5, 6, 7), (2, 3, 1)):
        place = np.array(scan.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), place)).astype(int)
        assert image.array[(*voxel, 0)] == scan[index]


BROKEN = {
    "zeros": {f"srow_{axis}": 0 for axis in "xyz"},
    "NaN": {"srow_x": np.nan},
    "infinite": {"srow_y": np.inf},
    "flat": {"srow_x": [1, 0, 0, 0], "srow_y": [1, 0, 0, 0]},
}


@pytest.mark.parametrize("code", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", BROKEN.values(), ids=BROKEN)
def test_a_sform_without_space_gives_way_to_the_qform(tmp_path, rows, code):
    path, affine = with_header(tmp_path / "a.nii", sform_code=code, **rows)
    places, values = at(read_image(path))
    there, these = expected(affine)
    np.testing.assert_allclose(places, there, atol=1e-4)
    np.testing.assert_array_equal(values, these)
    bright = (read_image(path).array[..., 0] > 400).astype("uint8")
    written = write_mask(tmp_path / "m", bright, like=path)
    np.testing.assert_array_equal(nib.load(written).dataobj, VALUES > 400)
    problems = validate(case_table([{"case": "a", "image": path, "mask": written}]), LABELS)
    assert [p.found for p in problems] == ["b in none of 1 masks", "c in none of 1 masks"]


@pytest.mark.parametrize("fields", [
    {"sform_code": 1, "srow_x": np.nan, "qform_code": 0},
    {"sform_code": 1, "srow_x": np.nan, "pixdim": [1, 1, 0, 3, 1, 1, 1, 1]},
    {"pixdim": [1, 1, np.nan, 3, 1, 1, 1, 1]},
    {"quatern_b": 0.9, "quatern_c": 0.9, "quatern_d": 0.9},
    {"quatern_b": np.nan},
], ids=["no qform", "a distance of 0", "a distance of NaN", "a long quaternion", "NaN quaternion"])
def test_a_volume_without_any_place_is_refused(tmp_path, fields):
    path, _ = with_header(tmp_path / "a.nii", **fields)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert caught.value.problems[0].file == path


# Labels behind a scaling, and of real numbers

def labels():
    values = np.zeros(SHAPE)
    values[1:4, 1:4, 1:4], values[4, 4, 4:6], values[2, 2, 2] = 1, 2, 4
    return values


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_labels_that_were_scaled_on_saving(tmp_path, dtype, ending):
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(labels(), np.eye(4), header), path := tmp_path / f"m.{ending}")
    np.testing.assert_array_equal(read_mask(path, LABELS), labels() - (labels() == 4))


@pytest.mark.parametrize("error", [0, 2.4e-7, -1e-4, 9e-4, -9e-4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_near_a_label_are_that_label(tmp_path, dtype, error):
    values = (labels() * (1 + error / 4)).astype(dtype)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "m.nii")
    np.testing.assert_array_equal(
        read_mask(tmp_path / "m.nii", LABELS), labels() - (labels() == 4)
    )


@pytest.mark.parametrize(("slope", "values"), [(0.5, [0.5]), (1.5, [1.5]), (0.6, [0.6]), (1, [])])
def test_a_scaling_makes_no_labels_of_other_numbers(tmp_path, slope, values):
    array = np.zeros(SHAPE, "uint8")
    array[2:4, 2:4, 2:4] = 1
    scan = nib.Nifti1Image(array, np.eye(4))
    scan.header.set_slope_inter(slope, 0)
    nib.save(scan, tmp_path / "m.nii")
    data = bytearray((tmp_path / "m.nii").read_bytes())
    data[352:] = array.tobytes(order="F")
    data[112:120] = np.array([slope, 0], "<f4").tobytes()
    (tmp_path / "m.nii").write_bytes(bytes(data))
    if not values:
        return np.testing.assert_array_equal(read_mask(tmp_path / "m.nii", LABELS), array)
    with pytest.raises(DataError, match=rf"mask values \[{slope}"):
        read_mask(tmp_path / "m.nii", LABELS)


@pytest.mark.parametrize("value", [0.5, 0.99, 1.002, -1, 3, np.nan, np.inf])
def test_what_is_no_label_is_refused(tmp_path, value):
    values = np.where(labels() == 4, value, labels()).astype("float32")
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "m.nii")
    with pytest.raises(DataError, match="mask values|NaN or infinite"):
        read_mask(tmp_path / "m.nii", LABELS)


# Sizes in another unit, NaN as background

@pytest.mark.parametrize(("spacing", "target", "words"), [
    ((1, 1, 1), None, []), ((0.1, 0.1, 0.2), None, ["a field of view of 0.6 × 0.7 × 1.6 mm"]),
    ((300, 300, 300), None, ["a field of view of 1800 × 2100 × 2400 mm"]),
    ((1, 1, 1), (2, 2, 2), []), ((1, 1, 11), (1, 1, 1), ["voxels of 1 × 1 × 11 mm"]),
    ((1, 1, 1), (1, 1, 11), ["voxels of 1 × 1 × 1 mm"]),
])
def test_a_size_in_another_unit_is_a_warning(tmp_path, spacing, target, words):
    nib.save(nib.Nifti1Image(VALUES, np.diag([*spacing, 1])), tmp_path / "a.nii")
    cases = case_table([{"case": "a", "image": tmp_path / "a.nii"}])
    problems = validate(cases, LABELS, spacing=target)
    assert [p.found for p in problems] == words and all(p.severity == "warning" for p in problems)


def test_nan_is_background_where_that_is_said(tmp_path):
    values = VALUES.astype("float32")
    zero = values.copy()
    values[:2], zero[:2] = np.nan, 0
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    cases = case_table([{"case": "a", "image": tmp_path / "a.nii"}])
    (problem,) = validate(cases, LABELS)
    assert problem.found == "NaN or infinite values"
    assert validate(cases, LABELS, nan_background=True) == []
    for normalise, fit in (("zscore_foreground", "crop_foreground"), ("zscore", "crop")):
        settings = {"normalise": normalise, "channels": 1, "axes": "XYZ", "fit": fit}
        plain = Preprocessing((4, 4, 4), **settings)
        told = Preprocessing((4, 4, 4), **settings, nan_background=True)
        np.testing.assert_array_equal(told.apply(values[..., None]), plain.apply(zero[..., None]))
    values[3, 3, 3] = np.inf
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert len(validate(cases, LABELS, nan_background=True)) == 1
