"""DICOM series of CT or MR to volumes, and masks back as DICOM SEG.

A series is named by its folder, or by any one of its files where a folder holds several. Slices are
put in order along the normal of their plane by their position, whatever their names and numbers.
"""

from pathlib import Path

import nibabel as nib
import numpy as np

from keras_meduda.data.files import DataError, Image, Problem, replacing, visible_files
from keras_meduda.data.nifti import canonical, stored, whole

_HEADER = (
    "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "SOPInstanceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows",
    "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope",
    "RescaleIntercept",
)  # fmt: skip
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_OTHERS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".gz", ".csv", ".txt")
_PARALLEL = 1e-3  # how far the cosines of one series may differ
_GAP = 0.05  # of the distance of slices, by which single ones may differ


def is_dicom(path) -> bool:
    """Whether a path is a DICOM file, or a folder that holds one."""
    path = Path(path)
    if path.is_dir():
        return any(is_dicom(file) for file in visible_files(path, deep=False))
    if not path.is_file() or path.name.startswith("DICOMDIR"):
        return False
    if path.suffix.lower() == ".dcm" or path.suffix.lower() in _OTHERS:
        return path.suffix.lower() == ".dcm"
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def series_in(folder) -> dict[str, Path]:
    """Every series of images in a folder and those below it, by a name of its own.

    Args:
        folder: where to look.

    Returns:
        `{name: path}`: a folder of one series by the folder's name, of several one file of each by
        that name and the series' number; and a file that cannot be read by its own name, so that
        whoever reads it says why.
    """
    found, named = {}, {}
    for file in filter(is_dicom, visible_files(folder)):
        try:
            header = _header(file)
        except DataError:
            named[file.name] = file
            continue
        if _is_image(header):
            number = int(header.get("SeriesNumber") or 0)
            found.setdefault(file.parent, {}).setdefault((number, header.SeriesInstanceUID), file)
    top = Path(folder).absolute()
    for home, files in sorted(found.items()):
        below = "_".join(home.relative_to(top).parts) or top.name
        for (number, _), file in sorted(files.items()):
            name = below if len(files) == 1 else f"{below}_{number}"
            while name in named:
                name += "_b"
            named[name] = home if len(files) == 1 else file
    return named


def read_volume(path, labels=False) -> Image:
    """The volume of a series as float32, turned to the closest canonical orientation.

    Each slice's own slope and intercept are applied.

    Args:
        path: the series' folder, or one of its files.
        labels: whether what lies within 0.001 of a whole number is that number. Default `False`.

    Raises:
        DataError: pydicom is missing; another number of series than one; a slice that is missing,
            there twice, of another size, spacing or plane; slices that are sheared (a tilted
            gantry); an image without a place, in colour, of several frames, or inverted; pixels
            under a compression that pydicom does not read.
    """
    headers = _series(path)
    affine, array = _affine(path, headers), None
    for i, header in enumerate(headers):
        plane = _pixels(header.filename)
        if array is None:
            array = np.empty((plane.shape[1], plane.shape[0], len(headers)), "float32")
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        array[..., i] = plane.T * np.float32(1 if slope is None else slope)
        array[..., i] += np.float32(intercept or 0)
    return canonical(whole(array) if labels else array, affine)


def read_canonical_affine(path) -> np.ndarray:
    """The affine that `read_volume` gives, from the headers alone."""
    return _placed(path).affine


def read_canonical_shape(path) -> tuple[int, ...]:
    """The shape that `read_volume` gives, from the headers alone."""
    return _placed(path).array.shape[:3]


def write_volume(path, array, like) -> None:
    """Write values on the grid of `read_volume(like)` as NIfTI.

    Raises:
        ValueError: the array's shape is not that of the volume.
    """
    placed = _placed(like)
    if array.shape != (expected := placed.array.shape[:3]):
        raise ValueError(f"{like}: received a mask of shape {array.shape}, expected {expected}.")
    with replacing(path) as temporary:
        nib.save(nib.Nifti1Image(array, placed.affine), temporary)


def write_segmentation(path, masks, like, classes) -> Path:
    """Write masks as DICOM SEG, one segment a class, in the frame of reference of their series.

    Args:
        path: the file, ending in `.dcm`.
        masks: boolean `(*spatial, classes)` on the grid of `read_volume(like)`.
        like: the series, a folder or one of its files.
        classes: their names.

    Returns:
        The path written.

    Raises:
        DataError: highdicom is missing, or what `read_volume` refuses.
        ValueError: masks of another shape.

    Source:
        DICOM PS3.3, C.8.20 Segmentation.
    """
    try:
        import highdicom
        from pydicom import dcmread
        from pydicom.sr.codedict import codes

        from keras_meduda import __version__
    except ImportError as error:
        raise DataError(_missing(like, "highdicom")) from error
    headers = _series(like)
    affine, masks = _affine(like, headers), np.asarray(masks, bool)
    if masks.shape != (expected := (*read_canonical_shape(like), len(classes))):
        raise ValueError(f"{like}: received masks of shape {masks.shape}, expected {expected}.")
    frames = [stored(masks[..., i], affine).T for i in range(len(classes))]
    maker = highdicom.AlgorithmIdentificationSequence(
        name="keras_meduda", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=i + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=maker,
        )
        for i, name in enumerate(classes)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=[dcmread(header.filename, stop_before_pixels=True) for header in headers],
        pixel_array=np.stack(frames, axis=-1).astype("uint8"),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        series_description=f"Segmentation: {', '.join(classes)}"[:64],
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="keras_meduda",
        manufacturer_model_name="keras_meduda",
        software_versions=__version__,
        device_serial_number="0",
        omit_empty_frames=bool(masks.any()),
    )
    with replacing(path) as temporary:
        segmentation.save_as(temporary)
    return Path(path)


def _missing(path, package):
    """The problem that a package of the extra is not there."""
    return Problem(path, f"DICOM without {package}", "pip install 'keras-meduda[dicom]'")


def _header(file):
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise DataError(_missing(file, "pydicom")) from error
    try:
        header = dcmread(file, stop_before_pixels=True, specific_tags=list(_HEADER))
    except Exception as error:  # the reader raises nearly every type on damaged bytes
        found = f"data that cannot be decoded ({' '.join(str(error).split())})"
        raise DataError(Problem(file, found, "a complete DICOM file")) from error
    if "SeriesInstanceUID" not in header:
        found = "DICOM without the number of its series"
        raise DataError(Problem(file, found, "a complete file of one series"))
    return header


def _is_image(header):
    """Whether a file is one: no report, no plan, and no segmentation of this library."""
    return "Rows" in header and header.get("Modality") != "SEG"


def _pixels(file):
    from pydicom import dcmread

    try:
        return dcmread(file).pixel_array
    except Exception as error:
        found = f"pixels that cannot be decoded ({' '.join(str(error).split())[:200]})"
        expected = "a complete file; of a rare compression a copy made by `gdcmconv --raw`"
        raise DataError(Problem(file, found, expected)) from error


def _series(path):
    """The headers of a series, in the order of its slices."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    headers = [_header(file) for file in visible_files(folder, deep=False) if is_dicom(file)]
    headers = [header for header in headers if _is_image(header)]
    if not path.is_dir():
        uid = _header(path).get("SeriesInstanceUID")
        headers = [header for header in headers if header.get("SeriesInstanceUID") == uid]
    by_uid = {header.get("SeriesInstanceUID"): header for header in headers}
    if len(by_uid) != 1:
        names = "; ".join(
            f"{Path(h.filename).name} ({h.get('SeriesDescription', 'no name')})"
            for h in list(by_uid.values())[:4]
        )
        found = f"{len(by_uid)} DICOM series: {names}" if by_uid else "DICOM without an image"
        raise DataError(Problem(path, found, "one series; of several a file of that wanted"))
    _check_images(headers)
    normal = np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype("float64"))
    return sorted(headers, key=lambda header: _position(header) @ normal)


def _position(header):
    return np.array(header.ImagePositionPatient, "float64")


def _check_images(headers):
    """Every image of the series on its own, and against the first."""
    problems, first = [], headers[0]
    for header in headers:
        found = expected = None
        places = [header.get(name) for name in _PLACE]
        if int(header.get("NumberOfFrames") or 1) > 1:
            found, expected = f"{header.NumberOfFrames} frames", "a file a slice (`dcm2niix`)"
        elif header.get("SamplesPerPixel", 1) > 1 or "PALETTE" in str(
            header.get("PhotometricInterpretation")
        ):
            found, expected = "a DICOM picture in colour", "CT or MR; a photograph as PNG or TIFF"
        elif any(place is None or len(place) == 0 for place in places):
            found = f"a DICOM image ({header.get('Modality', '?')}) without a place in space"
            expected = "position, orientation and pixel spacing; a plain picture as PNG or TIFF"
        elif header.get("PhotometricInterpretation") == "MONOCHROME1":
            found, expected = "an inverted image (MONOCHROME1)", "MONOCHROME2, larger is brighter"
        elif min(header.PixelSpacing) <= 0:
            found, expected = f"pixels of {list(header.PixelSpacing)} mm", "positive distances"
        elif (header.Rows, header.Columns) != (first.Rows, first.Columns):
            found = f"{header.Rows} × {header.Columns} pixels"
            expected = f"{first.Rows} × {first.Columns} as in {Path(first.filename).name}"
        elif not np.allclose(header.PixelSpacing, first.PixelSpacing, rtol=1e-3) or not np.allclose(
            header.ImageOrientationPatient, first.ImageOrientationPatient, atol=_PARALLEL
        ):
            found, expected = "another plane or spacing", f"that of {Path(first.filename).name}"
        if found:
            problems.append(Problem(header.filename, found, expected))
    if problems:
        raise DataError(*problems)


def _affine(path, headers):
    """From `(column, row, slice)` to mm, to the right, the front and upwards."""
    first = headers[0]
    row, column = np.reshape(first.ImageOrientationPatient, (2, 3)).astype("float64")
    positions = np.array([_position(header) for header in headers])
    normal = np.cross(row, column)
    step = normal * float(first.get("SliceThickness") or 1.0)
    if len(headers) > 1:
        step = _step(path, headers, positions, normal)
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _step(path, headers, positions, normal):
    """From one slice to the next, the same all through."""
    gaps = np.diff(positions @ normal)
    usual = np.median(gaps)
    names = [Path(header.filename).name for header in headers]
    problems = []
    for i, gap in enumerate(gaps):
        pair = f"{names[i]} and {names[i + 1]}"
        if gap < 1e-4:
            expected = "one slice a position; a series for each time, echo or contrast"
            problems.append(Problem(path, f"{pair} in the same position", expected))
        elif abs(gap - usual) > _GAP * usual:
            found = f"{gap:.2f} mm between {pair}: a slice is missing?"
            problems.append(Problem(path, found, f"{usual:.2f} mm, as between the others"))
    if problems:
        raise DataError(*problems)
    step = (positions[-1] - positions[0]) / len(gaps)
    if np.linalg.norm(step - normal * (step @ normal)) > 0.02 * np.linalg.norm(step):
        found = "slices that are shifted against one another (a tilted gantry)"
        raise DataError(Problem(path, found, "upright ones: `dcm2niix` straightens them"))
    return step


def _placed(path):
    """The series' grid without its voxels: one zero stands for all of them."""
    headers = _series(path)
    shape = (headers[0].Columns, headers[0].Rows, len(headers))
    return canonical(np.broadcast_to(np.float32(0), shape), _affine(path, headers))
