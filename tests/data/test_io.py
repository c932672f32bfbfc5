"""Laws of reading and writing: nothing is lost, nothing is guessed, every fault is named."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from keras_meduda.data.io import (
    DataError,
    read_image,
    read_mask,
    replacing,
    same_grid,
    stem,
    write_mask,
    write_picture,
)
from keras_meduda.task import Task

ORGANS = Task(classes=("liver", "spleen"))
FUNDUS = Task(classes=("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
RNG = np.random.default_rng(0)


def picture(path, array):
    Pillow.fromarray(np.asarray(array)).save(path)
    return path


def affine(axes="RAS", spacing=(1.0, 2.0, 3.0), shape=(4, 5, 6)):
    """A slightly oblique affine of voxels stored along these axes."""
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    ras = tilt @ np.diag([*spacing, 1.0]) + np.array([[0, 0, 0, t] for t in (-3, 7, 11, 0)])
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(axes), nib.orientations.axcodes2ornt("RAS"))
    return ras @ nib.orientations.inv_ornt_aff(turn, shape)


def volume(path, array, axes="RAS", kind=nib.Nifti1Image):
    nib.save(kind(array, affine(axes, shape=array.shape[:3])), path)
    return path


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "nii", "nii.gz"])
def test_a_written_mask_reads_back_in_the_format_of_its_image(tmp_path, ending):
    volumetric = ending.startswith("nii")
    shape = (4, 5, 6) if volumetric else (7, 9)
    image = (volume if volumetric else picture)(tmp_path / f"i.{ending}", np.ones(shape, "uint8"))
    labels = RNG.integers(0, 3, shape).astype("uint8")
    written = write_mask(tmp_path / "mask", labels, like=image)
    assert written.name == f"mask.{'png' if ending == 'jpg' else ending}"
    np.testing.assert_array_equal(read_mask(written, ORGANS), labels)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL", "SPL"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_volume_is_turned_on_reading_and_back_on_writing(tmp_path, axes, kind):
    stored = RNG.integers(0, 3, (4, 5, 6)).astype("uint8")
    path = volume(tmp_path / "scan.nii.gz", stored, axes, kind)
    image = read_image(path)

    place = np.argwhere(image.array[..., 0] == 2)  # canonical voxels and stored ones: same points
    here = nib.affines.apply_affine(image.affine, place)
    there = nib.affines.apply_affine(affine(axes, shape=stored.shape), np.argwhere(stored == 2))
    assert sorted(map(tuple, here.round(3) + 0)) == sorted(map(tuple, there.round(3) + 0))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.spacing, nib.affines.voxel_sizes(image.affine))

    written = nib.load(write_mask(tmp_path / "mask", read_mask(path, ORGANS), like=path))
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
    assert type(written) is kind


def test_affine_and_header_survive_the_round_trip(tmp_path):
    scan = nib.Nifti1Image(np.arange(120, dtype="int16").reshape(4, 5, 6, 1), affine("LPS"))
    scan.header["descrip"] = b"T2 RARE"
    scan.header.set_xyzt_units("mm", "sec")
    scan.header.set_slope_inter(2.0, 5.0)
    scan.set_qform(affine("LPS"), code=1)
    scan.set_sform(affine("LPS"), code=2)
    nib.save(scan, tmp_path / "scan.nii.gz")
    assert read_image(tmp_path / "scan.nii.gz").array.max() == 119 * 2 + 5
    assert read_image(tmp_path / "scan.nii.gz").array.dtype == np.float32
    mask = write_mask(tmp_path / "m", np.ones((4, 5, 6), "uint8"), like=tmp_path / "scan.nii.gz")
    before, after = nib.load(tmp_path / "scan.nii.gz"), nib.load(mask)
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("descrip", "qform_code", "sform_code", "quatern_b", "xyzt_units", "srow_x"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    np.testing.assert_array_equal(after.header["pixdim"][1:4], before.header["pixdim"][1:4])
    assert after.get_data_dtype() == np.uint8 and after.shape == (4, 5, 6)
    assert (np.asarray(after.dataobj) == 1).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_keep_depth_and_channels(tmp_path, ending, dtype, channels):
    array = RNG.integers(0, np.iinfo(dtype).max, (5, 7, channels)).astype(dtype)
    image = read_image(write_picture(tmp_path / f"a.{ending}", array))
    np.testing.assert_array_equal(image.array, array)
    assert image.array.dtype == dtype and image.spacing == (1.0, 1.0) and image.affine is None


def test_exif_orientation_does_not_turn_the_pixels(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    Pillow.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").array.shape == (4, 8, 3)


def test_a_tiff_that_asks_to_be_turned_is_refused(tmp_path):
    """Pillow would turn it, and not the mask that was drawn on its pixels."""
    Pillow.new("L", (8, 4)).save(tmp_path / "a.tif", tiffinfo={274: 3})
    with pytest.raises(DataError, match="a.tif: found the orientation tag 3, expected 1"):
        read_image(tmp_path / "a.tif")


def test_channels_of_several_depths_are_refused(tmp_path):
    for name, dtype in (("a", "uint8"), ("b", "uint16")):
        write_picture(tmp_path / f"{name}.png", np.full((4, 6), 200, dtype))
    with pytest.raises(DataError, match="b.png: found uint16 values, expected uint8 as in"):
        read_image(f"{tmp_path}/a.png|{tmp_path}/b.png")


def test_channel_files_are_stacked_in_order(tmp_path):
    for value, name in enumerate(("flair", "t2")):
        volume(tmp_path / f"{name}.nii", np.full((3, 3, 3), value, "int16"))
    array = read_image(f"{tmp_path}/flair.nii|{tmp_path}/t2.nii").array
    assert array.shape == (3, 3, 3, 2) and (array[..., 1] == 1).all() and not array[..., 0].any()


def palette(path, colours, indices):
    image = Pillow.fromarray(np.array(indices, "uint8"), mode="L")
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)
    return path


@pytest.mark.parametrize(("make", "labels"), [
    (lambda path: picture(path, np.array([[0, 1, 2]], "uint8")), [0, 1, 2]),
    (lambda path: picture(path, np.array([[0, 1, 2]], "uint16")), [0, 1, 2]),
    (lambda path: picture(path, np.repeat(np.array([[[0], [1], [2]]], "uint8"), 3, 2)), [0, 1, 2]),
    (lambda path: palette(path, [(0, 0, 0), (128, 0, 0), (0, 128, 0)], [[0, 1, 2]]), [0, 1, 2]),
    (lambda path: palette(path, [(2, 2, 2), (1, 1, 1), (0, 0, 0)], [[0, 1, 2]]), [2, 1, 0]),
], ids=["grey", "16 bit", "equal RGB", "coloured palette: indices", "grey palette: its greys"])
def test_mask_values_of_every_kind_of_picture(tmp_path, make, labels):
    assert read_mask(make(tmp_path / "m.png"), ORGANS).tolist() == [labels]


@pytest.mark.parametrize(("dtype", "values", "inside"), [
    ("uint8", [0, 1, 1], [0, 1, 1]),
    ("uint8", [0, 127, 128], [0, 0, 1]),
    ("uint8", [0, 2, 2], [0, 1, 1]),  # the class's index
    ("uint8", [0, 100, 0], [0, 1, 0]),
    ("uint8", [0, 0, 0], [0, 0, 0]),
    ("uint16", [0, 32767, 65535], [0, 0, 1]),
    ("uint16", [0, 1, 255], [0, 0, 1]),
])
def test_a_class_file_is_cut_at_half_its_range(tmp_path, dtype, values, inside):
    picture(tmp_path / "cup.png", np.array([values], dtype))
    picture(tmp_path / "disc.png", np.array([[255, 255, 0]], "uint8"))
    labels = read_mask(f"cup={tmp_path}/cup.png|disc={tmp_path}/disc.png", FUNDUS)
    assert (labels & 1).tolist() == [inside]
    assert (labels >> 1).tolist() == [[1, 1, 0]]


def test_class_files_of_exclusive_classes_give_the_class_index(tmp_path):
    picture(tmp_path / "a.png", np.array([[255, 0, 0]], "uint8"))
    picture(tmp_path / "b.png", np.array([[0, 255, 0]], "uint8"))
    cell = f"spleen={tmp_path}/a.png|liver={tmp_path}/b.png"
    assert read_mask(cell, ORGANS).tolist() == [[2, 1, 0]]


def test_tolerance_gives_interpolated_values_to_the_nearest_class(tmp_path):
    task = Task(("cup", "disc"), True, {"cup": (0,), "disc": (0, 128)}, (255,), tolerance=64)
    picture(tmp_path / "m.png", np.array([[3, 60, 70, 128, 190, 193, 250]], "uint8"))
    assert read_mask(tmp_path / "m.png", task).tolist() == [[3, 3, 2, 2, 2, 0, 0]]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_mask_of_another_shape_is_not_written(tmp_path):
    like = volume(tmp_path / "scan.nii", np.ones((4, 5, 6), "uint8"))
    with pytest.raises(ValueError, match=r"shape \(4, 5, 7\), expected \(4, 5, 6\)"):
        write_mask(tmp_path / "m", np.ones((4, 5, 7), "uint8"), like=like)
    assert not (tmp_path / "m.nii").exists()


@pytest.mark.parametrize(("name", "expected"), [
    ("a/scan.nii.gz", "scan"), ("b.x.PNG", "b.x"), ("case.v2", "case.v2")])
def test_stem_drops_known_endings_alone(name, expected):
    assert stem(name) == expected


def test_grids_are_the_same_up_to_half_a_voxel():
    moved = affine()
    moved[0, 3] += 0.4
    assert same_grid((4, 5, 6), affine(), moved)
    moved[0, 3] += 0.2
    assert not same_grid((4, 5, 6), affine(), moved)


# What can be wrong with a file: how to make it, what is found, what was expected.

def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    return path


def noise(*shape):
    return RNG.integers(0, 255, shape).astype("uint8")


def written(path, data):
    path.write_bytes(data)
    return path


def folder(path, *names):
    path.mkdir()
    for name in names:
        (path / name).write_bytes(bytes(128) + b"DICM")
    return path


def with_nan(path):
    array = np.zeros((3, 3, 3), "float32")
    array[1, 1, 1] = np.nan
    return volume(path, array)


def pages(path):
    Pillow.new("L", (4, 4)).save(path, save_all=True, append_images=[Pillow.new("L", (4, 4))])
    return path


def pair(first, second, names=("liver=", "spleen=")):
    return "|".join(f"{name}{path}" for name, path in zip(names, (first, second), strict=True))


IMAGES = {
    "missing": (lambda d: d / "no.png", "no such file", "an image file"),
    "truncated png": (lambda d: cut(picture(d / "a.png", noise(99, 99))),
                      "cannot be decoded", "a complete .png file"),
    "truncated jpg": (lambda d: cut(picture(d / "a.jpg", noise(99, 99))),
                      "cannot be decoded", "a complete .jpg file"),
    "truncated tif": (lambda d: cut(picture(d / "a.tif", noise(99, 99))),
                      "cannot be decoded", "a complete .tif file"),
    "truncated nii": (lambda d: cut(volume(d / "a.nii", noise(9, 9, 9))),
                      "cannot be decoded", "a complete .nii file"),
    "truncated nii.gz": (lambda d: cut(volume(d / "a.nii.gz", noise(9, 9, 9))),
                         "cannot be decoded", "a complete .gz file"),
    "text": (lambda d: written(d / "a.png", b"Dear reader"), "cannot be decoded", "complete .png"),
    "zero bytes": (lambda d: written(d / "a.png", b""), "an empty file (0 bytes)", "an image file"),
    "folder": (lambda d: folder(d / "a.png"), "a folder", "an image file"),
    "unknown format": (lambda d: written(d / "a.mgz", b"x"), "the ending .mgz", ".nii.gz"),
    "dicom file of no series": (
        lambda d: written(d / "a.dcm", bytes(128) + b"DICM"), "DICOM", "one series"),
    "no dicom": (
        lambda d: written(d / "a.dcm", b"x"), "data that cannot be decoded", "a complete DICOM"),
    "dicom folder": (lambda d: folder(d / "scan", "IM0001"), "DICOM without", "one series"),
    "pages": (lambda d: pages(d / "a.tif"), "2 pages", "one page a file"),
    "frames": (lambda d: volume(d / "a.nii", noise(3, 3, 3, 2)),
               "shape (3, 3, 3, 2)", "joined by |"),
    "complex": (lambda d: volume(d / "a.nii", np.ones((3, 3, 3), "complex64")),
                "voxels of type complex64", "real numbers"),
    "channels of two shapes": (
        lambda d: pair(picture(d / "a.png", noise(4, 4)), picture(d / "b.png", noise(4, 5)),
                       ("", "")), "shape (4, 5)", "(4, 4) as in"),
}
MASKS = {
    "missing": (lambda d: d / "no.png", "no such file", "an image file"),
    "colours": (lambda d: picture(d / "a.png", np.array([[[255, 0, 0]]], "uint8")),
                "a mask with colours", "three equal channels"),
    "undeclared": (lambda d: picture(d / "a.png", np.array([[0, 1, 7]], "uint8")),
                   "mask values [7] that the task does not declare", "{'liver': (1,)"),
    "half": (lambda d: volume(d / "a.nii", np.full((2, 2, 2), 0.5, "float32")),
             "mask values [0.5]", "background (0,)"),
    "NaN": (lambda d: with_nan(d / "a.nii"), "NaN or infinite mask values", "whole numbers"),
    "unknown class": (lambda d: f"cup={d}/a.png", "files for the classes ['cup']",
                      "liver=…|spleen=…"),
    "missing class": (lambda d: f"liver={d}/a.png", "files for the classes ['liver']",
                      "one file each of ['liver', 'spleen']"),
    "class twice": (lambda d: f"liver={d}/a.png|liver={d}/b.png", "['liver', 'liver']",
                    "one file each"),
    "no class": (lambda d: f"{d}/a.png|{d}/b.png", "files for the classes ['', '']", "one path"),
    "class file of labels": (
        lambda d: pair(picture(d / "a.png", np.array([[0, 1, 2]], "uint8")),
                       picture(d / "b.png", np.array([[0, 0, 0]], "uint8"))),
        "mask values [0, 1, 2], none above half of 255", "0 and one value for liver"),
    "overlap": (lambda d: pair(picture(d / "a.png", np.array([[0, 255, 255]], "uint8")),
                               picture(d / "b.png", np.array([[0, 0, 255]], "uint8"))),
                "1 px of spleen that belong to another class", "overlapping=False"),
    "class files of two shapes": (
        lambda d: pair(picture(d / "a.png", noise(4, 4)), picture(d / "b.png", noise(4, 5))),
        "shape (4, 5)", "(4, 4) as in"),
}

@pytest.mark.parametrize(("make", "found", "expected"), IMAGES.values(), ids=IMAGES)
def test_what_is_wrong_with_an_image_is_named(tmp_path, make, found, expected):
    with pytest.raises(DataError) as caught:
        read_image(make(tmp_path))
    (problem,) = caught.value.problems
    assert found in problem.found and expected in problem.expected
    assert str(tmp_path) in str(problem.file)


@pytest.mark.parametrize(("make", "found", "expected"), MASKS.values(), ids=MASKS)
def test_what_is_wrong_with_a_mask_is_named(tmp_path, make, found, expected):
    with pytest.raises(DataError) as caught:
        read_mask(make(tmp_path), ORGANS)
    (problem,) = caught.value.problems
    assert found in problem.found and expected in problem.expected
    assert str(tmp_path) in str(problem.file)


def test_channels_that_lie_in_different_places_are_not_stacked(tmp_path):
    volume(tmp_path / "a.nii", noise(4, 5, 6))
    nib.save(nib.Nifti1Image(noise(4, 5, 6), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(DataError, match="another position in space, expected that of .*a.nii"):
        read_image(f"{tmp_path}/a.nii|{tmp_path}/b.nii")


def test_all_files_of_a_cell_are_reported_together(tmp_path):
    with pytest.raises(DataError) as caught:
        read_mask(f"liver={tmp_path}/a.png|spleen={tmp_path}/b.png", ORGANS)
    assert [problem.file.name for problem in caught.value.problems] == ["a.png", "b.png"]
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"error: {tmp_path}/a.png: found no such file, expected an image file")
