"""NIfTI files: every orientation comes back, headers are kept, what is wrong is named."""

import gzip
import itertools
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask, read_spacing, write_mask
from keras_meduda.data.nifti import read_canonical_shape
from keras_meduda.task import Task

LESION = Task(("lesion",))
SHAPE = (6, 7, 8)
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*order)
]


def affine(axes="RAS", spacing=(0.1, 0.2, 0.5)):
    """Of voxels stored along these axes; `spacing` is along right, anterior and superior."""
    ras = np.diag([*spacing, 1.0])
    ras[:3, 3] = (-3, 7, 11)
    stored = nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.ornt_transform(stored, nib.orientations.axcodes2ornt("RAS"))
    return ras @ nib.orientations.inv_ornt_aff(turn, SHAPE)


def save(path, array, axes="RAS", kind=nib.Nifti1Image, **options):
    nib.save(kind(np.asarray(array), affine(axes, **options)), path)
    return path


def with_header(path, array=None, **fields):
    """A file with header fields that nibabel itself would not write."""
    save(path, np.ones(SHAPE, "int16") if array is None else array)
    content = bytearray(path.read_bytes())
    with open(path, "rb") as file:
        header = nib.Nifti1Header.from_fileobj(file, check=False)
    for name, value in fields.items():
        header[name][...] = value
    content[:348] = header.structarr.tobytes()
    path.write_bytes(bytes(content))
    return path


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_every_orientation_is_read_alike_and_a_mask_lies_on_its_image(tmp_path, axes):
    """A voxel keeps its place in the scanner, from the stored image to the written mask."""
    stored = np.arange(np.prod(SHAPE), dtype="int16").reshape(SHAPE)
    path = save(tmp_path / "scan.nii", stored, axes)
    image = read_image(path)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.spacing, (0.1, 0.2, 0.5), rtol=1e-6)
    assert read_spacing(path) == image.spacing
    assert read_canonical_shape(path) == image.array.shape[:3]
    voxels = np.array(list(np.ndindex(SHAPE)))
    here = np.linalg.inv(image.affine) @ nib.load(path).affine @ np.c_[voxels, np.ones(336)].T
    here = np.rint(here[:3]).astype(int)
    np.testing.assert_array_equal(image.array[(*here, 0)], stored.ravel())

    bright = (image.array[..., 0] > 100).astype("uint8")
    written = nib.load(write_mask(tmp_path / "mask", bright, like=path))
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored > 100)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)


@pytest.mark.parametrize(("unit", "length"), [("meter", 0.001), ("mm", 1), ("micron", 1000)])
def test_distances_are_in_mm_whatever_the_header_says(tmp_path, unit, length):
    scan = nib.Nifti1Image(np.ones(SHAPE, "int16"), np.diag([length, 2 * length, 5 * length, 1]))
    scan.header.set_xyzt_units(unit)
    nib.save(scan, path := tmp_path / "scan.nii")
    image = read_image(path)
    np.testing.assert_allclose(image.spacing, (1, 2, 5), rtol=1e-5)
    np.testing.assert_allclose(image.affine, np.diag([1, 2, 5, 1]), rtol=1e-5)
    written = nib.load(write_mask(tmp_path / "mask", np.ones(SHAPE, "uint8"), like=path))
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    assert written.header.get_xyzt_units()[0] == unit


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1), (6, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_kinds_of_files(tmp_path, ending, kind, shape, dtype):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    path = save(tmp_path / f"scan.{ending}", values, "LPS", kind)
    image = read_image(path)
    assert image.array.dtype == "float32" and image.array.flags.c_contiguous
    assert image.array.shape == ((*shape, 1, 1)[:3] + (1,))
    np.testing.assert_array_equal(image.array[::-1, ::-1].reshape(shape), values)
    bright = (image.array[..., 0] > 99).astype("uint8")
    written = write_mask(tmp_path / "m", bright, like=path)
    assert type(nib.load(written)) is kind and written.name == f"m.{ending}"
    np.testing.assert_array_equal(read_mask(written, LESION), bright)


def test_a_mask_does_not_keep_how_its_scan_is_shown(tmp_path):
    scan = nib.Nifti1Image(np.ones(SHAPE, "int16"), affine())
    scan.header["cal_min"], scan.header["cal_max"] = 40, 800
    scan.header.set_intent("t test", (7,), name="effect")
    scan.header["descrip"] = b"RARE"
    nib.save(scan, tmp_path / "scan.nii")
    written = write_mask(tmp_path / "m", np.ones(SHAPE, "uint8"), like=tmp_path / "scan.nii")
    header = nib.load(written).header
    assert (header["cal_min"], header["cal_max"]) == (0, 0)
    assert header.get_intent() == ("none", (), "") and header["descrip"] == b"RARE"


def test_extensions_lie_before_the_voxels(tmp_path):
    scan = nib.Nifti1Image(np.arange(336, dtype="int16").reshape(SHAPE), affine())
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of a scanner"))
    nib.save(scan, tmp_path / "scan.nii.gz")
    array = read_image(tmp_path / "scan.nii.gz").array[..., 0]
    np.testing.assert_array_equal(array, scan.get_fdata())


@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.5, -3.0)])
def test_a_scaled_volume_is_read_without_a_copy_in_float64(tmp_path, slope):
    shape = (64, 64, 64)
    scan = nib.Nifti1Image(np.random.default_rng(0).integers(0, 999, shape, "int16"), np.eye(4))
    scan.header.set_slope_inter(*slope)
    nib.save(scan, tmp_path / "scan.nii")
    tracemalloc.start()
    image = read_image(tmp_path / "scan.nii")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 11 * np.prod(shape)  # 2 bytes stored, 4 as float32, 4 turned
    np.testing.assert_allclose(image.array[..., 0], nib.load(tmp_path / "scan.nii").get_fdata())


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])
    return path


def zipped(path):
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def padded(path):
    path.write_bytes(path.read_bytes() + b"\0")
    return path


LARGER, SMALLER = [3, 60, 7, 8, 1, 1, 1, 1], [3, 6, 7, 7, 1, 1, 1, 1]
FAULTS = {
    "truncated": (lambda d: cut(save(d / "a.nii", np.ones(SHAPE))), "cannot be decoded"),
    "truncated gz": (lambda d: cut(save(d / "a.nii.gz", np.random.random(SHAPE))), "cannot be dec"),
    "header of a larger volume": (
        lambda d: with_header(d / "a.nii", dim=LARGER), "Expected 6720 bytes, got 672 bytes"),
    "header of a larger volume, gz": (
        lambda d: zipped(with_header(d / "a.nii", dim=LARGER)), "Expected 6720 bytes, got 672"),
    "header of a smaller volume": (
        lambda d: with_header(d / "a.nii", dim=SMALLER),
        "bytes left over after the voxels of its header, (6, 7, 7) of type int16"),
    "header of a smaller volume, gz": (
        lambda d: zipped(with_header(d / "a.nii", dim=SMALLER)), "bytes left over"),
    "header of smaller voxels": (
        lambda d: with_header(d / "a.nii", datatype=2, bitpix=8), "bytes left over"),
    "padding": (lambda d: padded(save(d / "a.nii", np.ones(SHAPE))), "bytes left over"),
    "no voxels": (
        lambda d: with_header(d / "a.nii", dim=[3, 0, 7, 8, 1, 1, 1, 1]), "shape (0, 7, 8)"),
    "not zipped": (
        lambda d: save(d / "a.nii", np.ones(SHAPE)).rename(d / "a.nii.gz"), "not a gzip file"),
    "zero spacing": (
        lambda d: with_header(d / "a.nii", pixdim=[1, 0.1, 0.1, 0, 1, 1, 1, 1], sform_code=0),
        "voxels of 0.1 × 0.1 × 0 mm"),
    "zero affine": (lambda d: with_header(d / "a.nii", srow_y=0), "voxels of 0.1 × 0 × 0.5 mm"),
    "NaN affine": (lambda d: with_header(d / "a.nii", srow_y=np.nan), "nan mm in the header"),
    "flat affine": (
        lambda d: with_header(d / "a.nii", srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]),
        "axes that do not span space"),
}


@pytest.mark.parametrize(("make", "found"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_file_is_named(tmp_path, make, found):
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        read_image(path)
    (problem,) = caught.value.problems
    assert found in problem.found and "\n" not in str(problem) and problem.file == path


def test_validation_finds_all_faults_of_volumes_at_once(tmp_path):
    lesion = np.zeros(SHAPE, "uint8")
    lesion[2:4, 2:4, 2:4] = 1
    noise = np.random.default_rng(0).random(SHAPE).astype("float32")
    holed = noise.copy()
    holed[1, 1, 1] = np.nan
    faults = {  # name: image, spacing of its mask, what is found
        "sound": (noise, None, None),
        "blank": (0 * noise, None, "the value 0.0 everywhere"),
        "holed": (holed, None, "NaN or infinite values"),
        "moved": (noise, (0.1, 0.2, 0.7), "another position in space"),
        "empty": (noise[:3], None, "a mask of shape (6, 7, 8)"),
    }
    rows = []
    for name, (image, spacing, _) in faults.items():
        mask = save(tmp_path / f"{name}_mask.nii.gz", lesion, spacing=spacing or (0.1, 0.2, 0.5))
        rows.append({"case": name, "image": save(tmp_path / f"{name}.nii.gz", image), "mask": mask})
    cut(tmp_path / "sound_mask.nii.gz")
    expected = ["cannot be decoded", *(found for _, _, found in faults.values() if found)]
    told = validate(case_table(rows), LESION, channels=1)
    problems = [p for p in told if "field of view" not in p.found]  # a warning of tiny volumes
    assert [e in p.found for e, p in zip(expected, problems, strict=True)] == [True] * 5
    severe = [p.severity for p in problems]
    assert severe == ["error", "warning", "error", "error", "error"]
