"""NIfTI volumes: turned to one orientation when read, and back when a mask is written.

An array's axes run to the right, to the front and upwards, as far as the volume is not oblique.
Distances are in mm, also of headers in metres or micrometres. The place is that of the sform, or
of the qform where the sform is missing or spans no space.
"""

import nibabel as nib
import numpy as np
from nibabel.quaternions import fillpositive

from keras_meduda.data.files import DataError, Image, Problem, check_shape, replacing

_CANONICAL = nib.orientations.axcodes2ornt("RAS")
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of the header's codes for metre and micrometre
_EPSILON = np.finfo("float32").eps


class _Place:
    """A header whose place is read as other programs read it, where nibabel gives up."""

    def get_qform_quaternion(self):
        """A unit quaternion, also of one whose three written parts were rounded to above 1."""
        parts = np.array([self[f"quatern_{part}"] for part in "bcd"], "float64")
        length = np.linalg.norm(parts)
        return fillpositive(parts / length if 1 < length < 1.01 else parts, 3 * _EPSILON)

    def get_best_affine(self):
        """The sform, or the qform where the sform spans no space."""
        return self.get_qform() if by_qform(self) else super().get_best_affine()


class _Header1(_Place, nib.Nifti1Header):
    pass


class _Header2(_Place, nib.Nifti2Header):
    pass


class _Nifti1(nib.Nifti1Image):
    header_class = _Header1


class _Nifti2(nib.Nifti2Image):
    header_class = _Header2


def by_qform(header) -> bool:
    """Whether a header's place is that of its qform: there is no sform, or one without space."""
    if header["qform_code"] == 0 or header["sform_code"] == 0:
        return bool(header["sform_code"] == 0)
    sform = np.array([header[f"srow_{axis}"][:3] for axis in "xyz"], "float64")
    return not (np.isfinite(sform).all() and np.linalg.det(sform) != 0)


def read_volume(file, labels=False) -> Image:
    """A NIfTI file as float32, turned to the closest canonical orientation.

    Args:
        file: the path.
        labels: whether the numbers are labels: what lies within half a step of the file's scaling,
            or within 0.001, of a whole number is that number. Default `False`.

    Raises:
        DataError: voxels that are no numbers or none, several frames, a header without distances
            along three directions, or bytes after the voxels that the header declares.
    """
    volume = _load(file)
    if volume.get_data_dtype().kind not in "iuf":
        raise DataError(
            Problem(file, f"voxels of type {volume.get_data_dtype()}", "integers or real numbers")
        )
    if len(volume.shape) > 3 and any(n > 1 for n in volume.shape[3:]):
        raise DataError(
            Problem(
                file,
                f"a volume of shape {volume.shape}",
                "three axes; one file a channel, joined by |",
            )
        )
    if 0 in volume.shape:
        raise DataError(Problem(file, f"a volume of shape {volume.shape}", "at least one voxel"))
    _check_spacing(file, volume)
    turn, affine = _canonical(volume)
    # Scaled here: get_fdata() and, of scaled integers, asarray() make a float64 copy on the way.
    array = _unscaled(file, volume).astype(np.float32)
    slope, intercept = volume.dataobj.slope, volume.dataobj.inter
    if (slope, intercept) != (1, 0):
        array *= np.float32(slope)
        array += np.float32(intercept)
    if labels:
        scaled = volume.get_data_dtype().kind in "iu" and abs(slope) < 1
        array = whole(array, abs(slope) / 2 if scaled else 0.0)
    array = nib.apply_orientation(array.reshape((volume.shape + (1, 1))[:3]), turn)
    array = np.ascontiguousarray(array)
    return Image(array[..., None], voxel_sizes(affine), affine)


def canonical(array, affine) -> Image:
    """A volume `(*spatial)` of other readers turned as this one turns its own."""
    turn = nib.io_orientation(affine)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, array.shape)
    array = np.ascontiguousarray(nib.apply_orientation(array, turn).astype("float32", copy=False))
    return Image(array[..., None], voxel_sizes(affine), affine)


def stored(array, affine) -> np.ndarray:
    """Undoes the turn of `canonical`: `(*spatial)` in the order of the file with that affine."""
    turn = nib.orientations.ornt_transform(_CANONICAL, nib.io_orientation(affine))
    return nib.apply_orientation(array, turn)


def whole(values, half_step=0.0) -> np.ndarray:
    """Values with those near a whole number in its place; the others stay, to be refused."""
    near = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity stays, to be refused
        return np.where(np.abs(values - near) <= half_step * 1.001 + 1e-3, near, values)


def write_volume(path, array, like) -> None:
    """Write values on the grid of `read_volume(like)` with the orientation and header of that file.

    The window of grey values and the intent of the header are the scan's alone and not kept.

    Raises:
        ValueError: the array's shape is not that of the volume.
    """
    original = _load(like)
    shape = (original.shape + (1, 1))[:3]
    turned = stored(array.reshape(array.shape + (1,) * (3 - array.ndim)), original.affine)
    check_shape(turned, shape, like)
    header = original.header.copy()
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0  # or a viewer shows a mask of 0 and 1 all black
    header.set_intent("none")
    volume = type(original)(turned.reshape(original.shape[:3]), None, header)
    with replacing(path) as temporary:
        nib.save(volume, temporary)


def read_canonical_affine(file) -> np.ndarray:
    """The affine that `read_volume` gives, from the header alone."""
    return _canonical(_load(file))[1]


def read_canonical_shape(file) -> tuple[int, ...]:
    """The three-dimensional shape that `read_volume` gives, from the header alone."""
    volume = _load(file)
    shape, turn = (volume.shape + (1, 1))[:3], nib.io_orientation(volume.affine)
    return tuple(shape[stored] for stored in np.argsort(turn[:, 0]))


def slice_axis(spacing) -> int:
    """The axis across the acquired slices, that of the thickest voxels.

    Where voxels are alike along several axes it is Y: rodents are cut from front to back.

    Args:
        spacing: distance of neighbouring voxels along X, Y and Z.

    Example:
        >>> slice_axis((0.1, 0.1, 0.5)), slice_axis((0.15, 0.15, 0.15))
        (2, 1)
    """
    return max(range(3), key=lambda axis: (round(spacing[axis], 3), axis == 1, axis))


def same_grid(shape, affine, other) -> bool:
    """Whether two affines place every voxel of a volume within half a voxel of each other.

    Args:
        shape: spatial shape.
        affine: `(4, 4)`, or `None` for pictures.
        other: the same.

    Returns:
        `True` as well where either is `None`.
    """
    if affine is None or other is None:
        return True
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    apart = nib.affines.apply_affine(affine, corners) - nib.affines.apply_affine(other, corners)
    return bool(np.abs(apart).max() <= nib.affines.voxel_sizes(affine).min() / 2)


def is_nifti(path) -> bool:
    """Whether a file name is NIfTI's."""
    return str(path).lower().endswith((".nii", ".nii.gz"))


def _load(file):
    """The file with a header of `_Place`; whatever else nibabel knows as it is."""
    for kind in (_Nifti1, _Nifti2):
        if kind.path_maybe_image(file)[0]:
            return kind.from_filename(file)
    return nib.load(file)


def _unscaled(file, volume):
    """The numbers in the file; nibabel reads the first of too many without a word."""
    stored = volume.dataobj
    with nib.openers.ImageOpener(file) as stream:
        array = nib.volumeutils.array_from_file(stored.shape, stored.dtype, stream, stored.offset)
        stream.seek(stored.offset + array.nbytes)
        if stream.read(1):
            raise DataError(
                Problem(
                    file,
                    f"bytes left over after the voxels of its header, {volume.shape} of type "
                    f"{volume.get_data_dtype()}",
                    "the shape and type of the data in the header, and nothing after the data",
                )
            )
    return array


def _check_spacing(file, volume):
    """Zero distances are an error; nibabel replaces them by 1 mm without a word."""
    found = nib.affines.voxel_sizes(_affine(volume))
    volumetric = np.isfinite(found).all() and np.linalg.det(volume.affine[:3, :3]) != 0
    with nib.openers.ImageOpener(file) as stream:
        header = volume.header_class.from_fileobj(stream, check=False)
    if volumetric and by_qform(header):
        found = header["pixdim"][1 : 1 + min(3, len(volume.shape))]
    if not volumetric or (found == 0).any():
        sizes = " × ".join(f"{size:g}" for size in found)
        raise DataError(
            Problem(
                file,
                f"voxels of {sizes} mm in the header, or axes that do not span space",
                "positive distances along three directions (pixdim, and srow or quatern)",
            )
        )


def voxel_sizes(affine) -> tuple[float, ...]:
    """Distance of neighbouring voxels along each axis, mm."""
    return tuple(nib.affines.voxel_sizes(affine).tolist())


def _canonical(volume):
    """The turn to canonical orientation, and the affine after it."""
    turn = nib.io_orientation(volume.affine)
    shape = (volume.shape + (1, 1))[:3]
    return turn, _affine(volume) @ nib.orientations.inv_ornt_aff(turn, shape)


def _affine(volume):
    """The affine to mm, whatever unit of length the header names; nibabel looks at none."""
    unit = int(volume.header["xyzt_units"]) & 7
    return np.diag([*[_MILLIMETRES.get(unit, 1.0)] * 3, 1.0]) @ volume.affine
