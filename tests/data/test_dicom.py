"""DICOM series in, DICOM SEG out: every plane lies where the scanner saw it, or is refused."""

import os
import shutil
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from keras_meduda.data.cases import case_table, states_of
from keras_meduda.data.catalog import cases_at
from keras_meduda.data.checks import validate
from keras_meduda.data.dicom import series_in, write_segmentation
from keras_meduda.data.io import (
    DataError,
    is_volume,
    read_affine,
    read_image,
    read_mask,
    read_shape,
    read_spacing,
    write_mask,
)
from keras_meduda.task import Task

PLANES = {  # directions of rows and of columns
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": ((0.8, 0.6, 0), (-0.48, 0.64, -0.6)),
    "upside down": ((-1, 0, 0), (0, -1, 0)),
}
ROWS, COLUMNS, SLICES = 6, 8, 5
VOXELS = np.random.default_rng(0).integers(0, 2000, (SLICES, ROWS, COLUMNS)).astype("uint16")
LESION = Task(("lesion",), unit="mm")


def series(folder, plane="axial", kind="CT", step=3.0, change=None, names="IM{:04d}", uid=None):
    """A series written slice by slice, in an order that is not that of its positions."""
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.array(PLANES[plane], float)
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    uid, frame = uid or generate_uid(), generate_uid()
    for i in range(SLICES):
        slice_ = pydicom.Dataset()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate",
                     "StudyTime", "StudyInstanceUID", "StudyID", "AccessionNumber",
                     "ReferringPhysicianName", "Manufacturer"):
            setattr(slice_, name, template.get(name, ""))
        slice_.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{2 if kind == 'CT' else 4}"
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
        slice_.Modality, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = kind, uid, frame
        slice_.SeriesDescription, slice_.SeriesNumber, slice_.InstanceNumber = "T1", 3, 99 - i
        slice_.Rows, slice_.Columns = ROWS, COLUMNS
        slice_.PixelSpacing, slice_.SliceThickness = [0.5, 0.75], 2.0
        slice_.ImageOrientationPatient = [*row, *column]
        position = np.array([10.0, 20, 30]) + i * step * np.cross(row, column)
        slice_.ImagePositionPatient = list(position)
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.RescaleSlope, slice_.RescaleIntercept = (2, -1024) if kind == "CT" else (1, 0)
        slice_.PixelData = VOXELS[i].tobytes()
        if change:
            change(i, slice_)
        slice_.save_as(folder / names.format(i * 7 % SLICES), enforce_file_format=True)
    return folder


def values(kind="CT"):
    return VOXELS.astype("float32") * (2 if kind == "CT" else 1) - (1024 if kind == "CT" else 0)


@pytest.mark.parametrize("kind", ["CT", "MR"])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_keeps_its_place_and_value(tmp_path, plane, kind):
    folder = series(tmp_path / "s", plane, kind)
    image = read_image(folder)
    row, column = np.array(PLANES[plane], float)
    for i, r, c in ((0, 0, 0), (4, 5, 7), (2, 3, 1), (1, 0, 6)):
        lps = np.array([10.0, 20, 30]) + i * 3 * np.cross(row, column) + c * 0.75 * row
        place = (lps + r * 0.5 * column) * (-1, -1, 1)
        voxel = nib.affines.apply_affine(np.linalg.inv(image.affine), place)
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)
        assert image.array[(*np.rint(voxel).astype(int), 0)] == values(kind)[i, r, c]
    assert sorted(image.spacing) == pytest.approx([0.5, 0.75, 3])
    assert read_shape(folder) == image.array.shape[:3] and read_spacing(folder) == image.spacing
    np.testing.assert_allclose(read_affine(folder), image.affine)
    assert is_volume(folder) and is_volume(next(folder.iterdir()))


def test_a_file_stands_for_its_series(tmp_path):
    one, other = generate_uid(), generate_uid()
    series(tmp_path / "s", "axial", names="a{}", uid=one)
    series(tmp_path / "s", "coronal", names="b{}", uid=other)
    (tmp_path / "s" / "._a1").write_bytes(b"left behind by a Mac")
    (tmp_path / "s" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"2 DICOM series: .* \(T1\); .*, expected one series"):
        read_image(tmp_path / "s")
    found = series_in(tmp_path)
    assert list(found) == ["s_3", "s_3_b"]
    assert {file.name[0] for file in found.values()} == {"a", "b"}
    for file in found.values():
        plane = {"a": "axial", "b": "coronal"}[file.name[0]]
        alone = read_image(series(tmp_path / plane, plane))
        np.testing.assert_array_equal(read_image(file).array, alone.array)


def test_series_are_unlabelled_cases(tmp_path):
    for name in ("t1", "t2"):
        series(tmp_path / "study" / name)
    cases = cases_at(tmp_path / "study")
    assert cases["case"].tolist() == ["t1", "t2"] and set(cases["domain"]) == {"study"}
    assert validate(cases, LESION, channels=1) == []


@pytest.mark.parametrize("plane", PLANES)
def test_masks_become_segments_in_the_place_of_their_series(tmp_path, plane):
    folder = series(tmp_path / "s", plane)
    image = read_image(folder)
    masks = np.random.default_rng(1).random((*image.array.shape[:3], 2)) > 0.5
    path = write_segmentation(tmp_path / "case.dcm", masks, folder, ("cup", "disc"))
    seg = highdicom.seg.segread(path)
    assert path.name == "case.dcm" and [s.SegmentLabel for s in seg.SegmentSequence] == [
        "cup", "disc"]
    sources = {pydicom.dcmread(file).SOPInstanceUID for file in folder.iterdir()}
    referenced = {uid for _, _, uid in seg.get_source_image_uids()}
    assert referenced == sources
    grid = seg.get_volume()  # (slice, row, column, segment), with the affine of its own
    affine = np.diag([-1, -1, 1, 1]) @ grid.affine
    places = np.argwhere(grid.array)
    back = nib.affines.apply_affine(np.linalg.inv(image.affine) @ affine, places[:, :3])
    np.testing.assert_allclose(back, np.rint(back), atol=1e-3)
    found = np.column_stack([np.rint(back).astype(int), places[:, 3]])
    assert set(map(tuple, found.tolist())) == set(map(tuple, np.argwhere(masks).tolist()))


def test_an_empty_mask_is_a_segmentation_too(tmp_path):
    folder = series(tmp_path / "s")
    masks = np.zeros((*read_shape(folder), 1), bool)
    seg = highdicom.seg.segread(write_segmentation(tmp_path / "c.dcm", masks, folder, ("lesion",)))
    assert not seg.pixel_array.any()
    with pytest.raises(ValueError, match=r"received masks of shape \(1, 2, 3, 1\)"):
        write_segmentation(tmp_path / "c.dcm", np.zeros((1, 2, 3, 1)), folder, ("lesion",))


def test_the_nifti_beside_lies_on_the_series(tmp_path):
    folder = series(tmp_path / "s", "oblique")
    bright = (read_image(folder).array[..., 0] > 500).astype("uint8")
    written = write_mask(tmp_path / "case", bright, like=folder)
    assert written.name == "case.nii.gz"
    np.testing.assert_array_equal(read_mask(written, LESION), bright)
    rows = [{"case": "a", "image": folder, "mask": written}]
    assert validate(case_table(rows), LESION, channels=1) == []


@pytest.mark.parametrize("name", [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
    "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"])
def test_files_of_pydicom(tmp_path, name):
    """One slice each, under the compressions that are usual."""
    file = shutil.copy(get_testdata_file(name), tmp_path)
    dataset = pydicom.dcmread(file)
    image = read_image(file)
    assert sorted(image.array.shape[:3]) == sorted((1, dataset.Rows, dataset.Columns))
    stored = dataset.pixel_array * float(dataset.get("RescaleSlope", 1))
    stored = stored + float(dataset.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(np.sort(image.array.ravel()), np.sort(stored.ravel()))
    masks = image.array > np.median(image.array)
    seg = highdicom.seg.segread(write_segmentation(tmp_path / "m", masks, file, ("bright",)))
    assert seg.pixel_array.sum() == masks.sum()


def test_series_of_pydicom():
    """A study as a hospital hands it over: many series below one folder."""
    root = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests"
    if not root.is_dir():
        pytest.skip("this pydicom comes without its study")
    found = series_in(root)
    shapes = []
    for file in found.values():
        try:
            shapes.append(read_image(file).array.shape)
        except DataError as error:  # scouts and single planes in two directions
            assert error.problems[0].expected
    assert len(found) > 5 and any(min(shape[:3]) > 2 for shape in shapes)


def remove(folder, i):
    """The file of the i-th position."""
    files = {pydicom.dcmread(f).InstanceNumber: f for f in folder.iterdir()}
    files[99 - i].unlink()
    return folder


def spoiled(**tags):
    """A change to the third slice."""
    def change(i, slice_):
        for name, value in tags.items():
            if i == 2:
                if value is None:
                    delattr(slice_, name)
                else:
                    setattr(slice_, name, value)
    return change


def sheared(i, slice_):
    slice_.ImagePositionPatient = [10.0, 20 + i, 30 + 3 * i]


def twice(i, slice_):
    if i == 3:
        slice_.ImagePositionPatient = [10, 20, 30 + 3 * 2]


def cut(folder):
    file = sorted(folder.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-40])
    return folder


def noise(folder):
    (folder / "IM9999").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    return folder


def copied(d, name):
    return shutil.copy(get_testdata_file(name), d)


REFUSED = {
    "missing slice": (lambda d: remove(series(d / "s"), 2), "6.00 mm between IM", "3.00 mm"),
    "slice twice": (lambda d: series(d / "s", change=twice), "in the same position", "echo"),
    "tilted gantry": (lambda d: series(d / "s", change=sheared), "tilted gantry", "dcm2niix"),
    "another size": (
        lambda d: series(d / "s", change=spoiled(Rows=3, PixelData=bytes(48))),
        "3 × 8 pixels", "6 × 8 as in"),
    "another spacing": (
        lambda d: series(d / "s", change=spoiled(PixelSpacing=[1, 1])), "another plane", "IM"),
    "another plane": (
        lambda d: series(d / "s", change=spoiled(ImageOrientationPatient=[0, 1, 0, 1, 0, 0])),
        "another plane or spacing", "that of"),
    "no position": (
        lambda d: series(d / "s", change=spoiled(ImagePositionPatient=None)),
        "without a place in space", "position, orientation"),
    "no spacing": (
        lambda d: series(d / "s", change=spoiled(PixelSpacing=None)), "without a place", "spacing"),
    "spacing of 0": (
        lambda d: series(d / "s", change=spoiled(PixelSpacing=[0, 1])), "pixels of", "positive"),
    "inverted": (
        lambda d: series(d / "s", change=spoiled(PhotometricInterpretation="MONOCHROME1")),
        "MONOCHROME1", "MONOCHROME2"),
    "cut pixels": (lambda d: cut(series(d / "s")), "pixels that cannot be decoded", "complete"),
    "no pixels": (
        lambda d: series(d / "s", change=spoiled(PixelData=None)), "cannot be decoded", "complete"),
    "a broken file among the slices": (
        lambda d: noise(series(d / "s")), "without the number of its series", "a complete file"),
    "colour": (lambda d: copied(d, "SC_rgb_jpeg.dcm"), "in colour", "photograph as PNG"),
    "palette": (lambda d: copied(d, "examples_palette.dcm"), "in colour", "photograph as PNG"),
    "frames": (lambda d: copied(d, "rtdose.dcm"), "15 frames", "a file a slice"),
    "report": (lambda d: copied(d, "test-SR.dcm"), "DICOM without an image", "one series"),
    "plan": (lambda d: copied(d, "rtplan.dcm"), "DICOM without an image", "one series"),
    "waveform": (lambda d: copied(d, "waveform_ecg.dcm"), "DICOM without an image", "one series"),
    "truncated": (lambda d: copied(d, "MR_truncated.dcm"), "cannot be decoded", "complete"),
    "text": (lambda d: ((d / "a.dcm").write_text("Dear reader"), d / "a.dcm")[1],
             "cannot be decoded", "a complete DICOM file"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "found", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_series_is_named(tmp_path, make, found, expected):
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        read_image(path)
    problem = caught.value.problems[0]
    assert found in problem.found and expected in problem.expected
    assert str(tmp_path) in str(problem.file) and "\n" not in str(problem)


def test_a_slice_that_has_changed_is_seen(tmp_path):
    """What was made of a series is made again, though its folder says nothing of it."""
    folder = series(tmp_path / "ct")
    cases = case_table([{"case": "a", "image": folder}])
    before = states_of(cases)
    assert len(before) == SLICES and states_of(cases) == before
    one = sorted(folder.iterdir())[1]
    content, times = one.read_bytes(), folder.stat()
    one.write_bytes(content + bytes(2))
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert states_of(cases) != before
