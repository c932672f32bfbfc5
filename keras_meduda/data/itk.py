"""NRRD and MetaImage volumes, which SimpleITK reads and writes.

Its world runs to the left, to the back and upwards; here as everywhere to the right, to the front
and upwards. Distances are in mm.
"""

import numpy as np

from keras_meduda.data.files import DataError, Image, Problem, check_shape, replacing
from keras_meduda.data.nifti import canonical, stored, whole

FORMATS = (".nrrd", ".mha", ".mhd")
_DISTANCES = (b"spacings:", b"space directions:", b"ElementSpacing", b"ElementSize")


def read_volume(file, labels=False) -> Image:
    """A volume as float32, turned to the closest canonical orientation.

    Args:
        file: the path.
        labels: whether what lies within 0.001 of a whole number is that number. Default `False`.

    Raises:
        DataError: SimpleITK is missing; several components or times, complex numbers, a single
            slice without a place, or a header without distances of voxels.
    """
    sitk = _simpleitk(file)
    _check_header(file, _information(file))
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
    array = array.reshape((*array.shape, 1)[:3])
    return canonical(whole(array) if labels else array, _affine(_information(file)))


def write_volume(path, array, like) -> None:
    """Write values on the grid of `read_volume(like)` in the place of that file.

    Raises:
        ValueError: the array's shape is not that of the volume.
    """
    sitk, header = _simpleitk(like), _information(like)
    turned = stored(array.reshape(array.shape + (1,) * (3 - array.ndim)), _affine(header))
    check_shape(turned, (*header.GetSize(), 1)[:3], like)
    image = sitk.GetImageFromArray(np.ascontiguousarray(turned.reshape(header.GetSize()).T))
    image.SetOrigin(header.GetOrigin())
    image.SetSpacing(header.GetSpacing())
    image.SetDirection(header.GetDirection())
    with replacing(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def read_canonical_affine(file) -> np.ndarray:
    """The affine that `read_volume` gives, from the header alone."""
    return _placed(file).affine


def read_canonical_shape(file) -> tuple[int, ...]:
    """The shape that `read_volume` gives, from the header alone."""
    return _placed(file).array.shape[:3]


def _placed(file):
    """The volume's grid without its voxels: one zero stands for all of them."""
    header = _information(file)
    return canonical(np.broadcast_to(np.float32(0), (*header.GetSize(), 1)[:3]), _affine(header))


def _simpleitk(file):
    try:
        import SimpleITK
    except ImportError as error:
        found = f"a {file.suffix} file without SimpleITK"
        raise DataError(Problem(file, found, "pip install 'keras-meduda[itk]'")) from error
    return SimpleITK


def _information(file):
    """The header, as SimpleITK's reader holds it."""
    reader = _simpleitk(file).ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader


def _affine(header):
    """From voxels to mm, to the right, the front and upwards."""
    rank = header.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(header.GetDirection(), (rank, rank))
    affine[:rank, :rank] = direction * header.GetSpacing()
    affine[:rank, 3] = header.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_header(file, header):
    """Refuses what would be read as something else."""
    sitk = _simpleitk(file)
    size, components = header.GetSize(), header.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(header.GetPixelID())
    if components > 1 or "complex" in kind:
        found = f"{components} numbers a voxel ({kind})"
        raise DataError(Problem(file, found, "one real number; a file a channel, joined by |"))
    if len(size) > 3:
        found = f"a volume of shape {size}"
        raise DataError(Problem(file, found, "three axes; one file a channel, joined by |"))
    with open(file, "rb") as stream:
        text = stream.read(65536)
    spanned = abs(np.linalg.det(_affine(header)[:3, :3])) > 0
    if not any(name in text for name in _DISTANCES) or b"directions: none" in text or not spanned:
        found = "no distances of voxels in the header"
        raise DataError(Problem(file, found, "spacings, space directions or ElementSpacing, in mm"))
