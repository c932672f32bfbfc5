"""NRRD and MetaImage: the same places and numbers as NIfTI, or a refusal."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from keras_meduda.data.io import (
    DataError,
    is_volume,
    read_affine,
    read_image,
    read_mask,
    read_shape,
    read_spacing,
    same_grid,
    write_mask,
)
from keras_meduda.task import Task

SHAPE = (4, 5, 6)
LESION = Task(("lesion",), unit="mm")
VALUES = np.arange(np.prod(SHAPE), dtype="int16").reshape(SHAPE)
ENDINGS = ["nrrd", "mha", "mhd"]
DIRECTIONS = [
    np.diag(signs)[list(order)].astype(float).ravel()
    for order in itertools.permutations(range(3))
    for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, 1))
]
TILT = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)


def scan(path, array=VALUES, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), spacing=(0.5, 1, 2)):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    image.SetOrigin((3, 4, 5))
    image.SetDirection([float(d) for d in direction])
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("direction", [*DIRECTIONS, TILT])
def test_a_volume_lies_as_its_nifti_does(tmp_path, ending, direction):
    path = scan(tmp_path / f"a.{ending}", direction=direction)
    image, other = read_image(path), read_image(scan(tmp_path / "a.nii", direction=direction))
    np.testing.assert_array_equal(image.array, other.array)
    np.testing.assert_allclose(image.affine, other.affine, atol=1e-5)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and image.array.dtype == "float32"
    assert read_shape(path) == image.array.shape[:3] and read_spacing(path) == image.spacing
    assert is_volume(path)

    bright = (image.array[..., 0] > 50).astype("uint8")
    written = write_mask(tmp_path / "m", bright, like=path)
    assert written.suffix == (".mha" if ending == "mhd" else f".{ending}")
    np.testing.assert_array_equal(read_mask(written, LESION), bright)
    assert same_grid(SHAPE, read_affine(written), read_affine(path))
    stored = sitk.ReadImage(str(written))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored).T, VALUES > 50)
    np.testing.assert_allclose(stored.GetDirection(), np.array(direction, float), atol=1e-6)
    assert stored.GetOrigin() == (3, 4, 5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_of_every_type(tmp_path, ending, dtype):
    path = scan(tmp_path / f"a.{ending}", VALUES.astype(dtype))
    assert sorted(read_image(path).array.ravel()) == sorted(VALUES.ravel())


def test_a_scan_and_a_mask_may_have_two_formats(tmp_path):
    image, mask = scan(tmp_path / "a.nrrd"), scan(tmp_path / "a.nii.gz", (VALUES > 50) * 1)
    np.testing.assert_array_equal(read_mask(mask, LESION), read_image(image).array[..., 0] > 50)


def without(path, *lines):
    """A header without some of its lines."""
    head, _, voxels = path.read_bytes().partition(
        b"\n\n" if path.suffix == ".nrrd" else b"LOCAL\n")
    kept = [line for line in head.split(b"\n") if not line.startswith(lines)]
    path.write_bytes(b"\n".join(kept) + (b"\n\n" if path.suffix == ".nrrd" else b"LOCAL\n")
                     + voxels)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])
    return path


def vector(path):
    image = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), "float32"), isVector=True)
    sitk.WriteImage(image, str(path))
    return path


def four_axes(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, *SHAPE), "float32"), isVector=False),
                    str(path))
    return path


REFUSED = {
    "no distances, nrrd": (
        lambda d: without(scan(d / "a.nrrd"), b"space", b"kinds"), "no distances of voxels"),
    "no distances, mha": (
        lambda d: without(scan(d / "a.mha"), b"ElementSpacing"), "no distances of voxels"),
    "vectors, nrrd": (lambda d: vector(d / "a.nrrd"), "3 numbers a voxel"),
    "vectors, mha": (lambda d: vector(d / "a.mha"), "3 numbers a voxel"),
    "times, nrrd": (lambda d: four_axes(d / "a.nrrd"), "a volume of shape (6, 5, 4, 2)"),
    "times, mha": (lambda d: four_axes(d / "a.mha"), "a volume of shape (6, 5, 4, 2)"),
    "cut nrrd": (lambda d: cut(scan(d / "a.nrrd")), "cannot be decoded"),
    "cut mha": (lambda d: cut(scan(d / "a.mha")), "cannot be decoded"),
    "voxels of an mhd missing": (
        lambda d: (scan(d / "a.mhd"), (d / "a.raw").unlink())[0], "cannot be decoded"),
    "text": (lambda d: ((d / "a.nrrd").write_text("Dear reader"), d / "a.nrrd")[1],
             "cannot be decoded"),
}


@pytest.mark.parametrize(("make", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_file_is_named(tmp_path, make, found):
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        read_image(path)
    (problem,) = caught.value.problems
    assert found in problem.found and problem.file == path and "\n" not in str(problem)
