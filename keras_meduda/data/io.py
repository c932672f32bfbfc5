"""Image and mask files to arrays and back: pictures, and volumes of NIfTI, NRRD, MHA or DICOM.

Every array of this package has its spatial axes first and channels last. A picture is `(H, W)` in
the order of its file. A volume is turned to the closest canonical (right, anterior, superior)
orientation and turned back when a mask is written.
"""

import re
from pathlib import Path

import numpy as np

from keras_meduda.data import dicom, itk, nifti
from keras_meduda.data.files import DataError, Image, Problem, check_shape, replacing
from keras_meduda.data.nifti import same_grid, voxel_sizes
from keras_meduda.data.pictures import (
    LOSSLESS,
    is_jpeg,
    mask_numbers,
    picture_shape,
    read_picture,
    write_picture,
)

__all__ = [
    "FORMATS",
    "DataError",
    "Image",
    "Problem",
    "image_files",
    "is_volume",
    "mask_files",
    "read_affine",
    "read_image",
    "read_mask",
    "read_shape",
    "read_spacing",
    "replacing",
    "same_grid",
    "stem",
    "write_mask",
    "write_picture",
]
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_VOLUMES = (".nii.gz", ".nii", *itk.FORMATS)
FORMATS = (*_PICTURES, *_VOLUMES)
_APART = 32  # grey values by which labels differ that JPEG does not blur into one another


def read_image(cell) -> Image:
    """The image of a case: one file, or one file a channel.

    A palette picture gives its RGB colours, a 1-bit one 0 and 255.

    Args:
        cell: a path, or several joined by `|`, stacked in this order. A DICOM series is named by
            its folder or by any of its files.

    Returns:
        An `Image`; 16-bit pictures stay 16-bit.

    Raises:
        DataError: a file that is missing, truncated or no image, or files that do not share one
            grid.

    Example:
        >>> path = getfixture("tmp_path") / "grey.png"
        >>> _ = write_picture(path, np.zeros((4, 6), "uint8"))
        >>> read_image(f"{path}|{path}").array.shape
        (4, 6, 2)
    """
    images = _read_together([Path(part) for part in image_files(cell)])
    if len(images) == 1:
        return images[0]
    array = np.concatenate([image.array for image in images], axis=-1)
    return Image(array, images[0].spacing, images[0].affine)


def read_mask(cell, task) -> np.ndarray:
    """The labels of a case: one file of values, or one binary file a class.

    The values of a single file go through `task.encode`. Those of a picture are its grey values,
    or the indices of a palette that holds colours; or colours, where the task declares such. Those
    of a volume are the nearest whole numbers, where its scaling or the last digits of real numbers
    keep it from holding them. JPEG blurs values: there each counts as the nearest that is declared,
    of those that lie apart. A file of one class is foreground above half of its range (1, 255 or
    65535, the smallest that holds its maximum), which of a soft map of several experts is the
    majority; one value beside 0, such as 2, is foreground whatever it is.

    Args:
        cell: a path, or `name=path` for every class, joined by `|`: `cup=c.png|disc=d.png`.
        task: the `Task` that declares classes and values.

    Returns:
        uint8 labels `(*spatial)`, as `task.encode` gives them: the class index, or a bit a class
        where classes overlap.

    Raises:
        DataError: as `read_image`; also colours, undeclared values, unknown or missing classes,
            several values of a class up to half of the range, and classes that exclude each other
            on the same pixel.

    Example:
        >>> from keras_meduda.task import Task
        >>> path = getfixture("tmp_path") / "mask.png"
        >>> _ = write_picture(path, np.array([[0, 255]], "uint8"))
        >>> read_mask(path, Task(classes=("lesion",), values={"lesion": (255,)})).tolist()
        [[0, 1]]
    """
    files = [(name, Path(part)) for name, part in mask_files(cell)]
    if files[0][0] or len(files) > 1:
        return _read_class_files(cell, files, task)
    file = files[0][1]
    values = _read_values(file, task.coloured).array[..., 0]
    if not is_volume(file) and is_jpeg(file):
        values = _unblurred(file, values, task)
    try:
        return task.encode(values)
    except ValueError as error:
        unknown = task.undeclared(values)
        raise DataError(
            Problem(
                file,
                f"mask values {_few(unknown)} that the task does not declare",
                f"{task.values}, background {task.background}, tolerance {task.tolerance}: "
                "declare them (--classes name=value,…), or take values near a declared one for it "
                "(--tolerance N)",
            )
        ) from error


def write_mask(path, array, like) -> Path:
    """Write a mask in the format and the grid of an image, in one step or not at all.

    A volume's orientation and place return unchanged, of NIfTI its header too; DICOM becomes NIfTI.
    A picture becomes the same lossless format. A JPEG becomes PNG, and so does a mask of colours,
    and a BMP whose mask values do not fit into 8 bits.

    Args:
        path: where to; its ending is replaced by that of the format.
        array: integer values `(*spatial)` as `task.decode` gives them, on the grid of `read_image`.
        like: the image file, or cell of files, that the mask belongs to.

    Returns:
        The path written.

    Raises:
        ValueError: the array's shape is not that of the image.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> image = write_picture(folder / "image.png", np.zeros((4, 6, 3), "uint8"))
        >>> write_mask(folder / "mask.jpg", np.ones((4, 6), "uint8"), like=image).name
        'mask.png'
    """
    like = Path(image_files(like)[0])
    array, reader = np.asarray(array), _reader(like)
    name = like.name.lower()
    if not reader:
        suffix = like.suffix.lower() if like.suffix.lower() in LOSSLESS else ".png"
        check_shape(array, picture_shape(like), like)
        deep = array.dtype == "uint32" or (suffix == ".bmp" and array.dtype != "uint8")
        suffix = ".png" if deep else suffix
        return write_picture(Path(path).with_name(stem(path) + suffix), array)
    if array.dtype == "uint32":
        raise ValueError(f"{like}: received a mask with colours, expected numbers: a volume.")
    suffix = ".nii" if name.endswith(".nii") else ".nii.gz"
    if reader is itk:  # the voxels of .mhd would be a second file
        suffix = ".mha" if name.endswith(".mhd") else like.suffix.lower()
    path = Path(path).with_name(stem(path) + suffix)
    reader.write_volume(path, array, like)
    return path


def read_affine(cell) -> np.ndarray | None:
    """The affine of a cell's first file, as `read_image` gives it, from the header alone.

    Args:
        cell: an image or mask cell.

    Returns:
        `(4, 4)` array, `None` for pictures.
    """
    file = Path(mask_files(cell)[0][1])
    reader = _reader(file)
    return reader.read_canonical_affine(file) if reader else None


def read_spacing(cell) -> tuple[float, ...]:
    """The spacing of a cell's first file, as `read_image` gives it, from the header alone.

    Args:
        cell: an image or mask cell.

    Returns:
        mm along each axis of a volume, 1 px along those of a picture.
    """
    affine = read_affine(cell)
    return (1.0, 1.0) if affine is None else voxel_sizes(affine)


def read_shape(cell) -> tuple[int, ...]:
    """The spatial shape of a cell's first file, as `read_image` gives it, from the header alone."""
    file = Path(image_files(cell)[0])
    reader = _reader(file)
    return reader.read_canonical_shape(file) if reader else picture_shape(file)


def is_volume(path) -> bool:
    """Whether a path, or a cell's last, is a volume: by its name, or a DICOM file or folder."""
    return _reader(Path(str(path).rpartition("|")[2])) is not None


def stem(path) -> str:
    """A file's name without the ending of a known format: `scan` of `a/scan.nii.gz`."""
    name = Path(path).name
    ending = next((e for e in FORMATS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def image_files(cell) -> list[str]:
    """The paths of an image cell, `a.png` or `a.nii.gz|b.nii.gz`."""
    return [part.strip() for part in str(cell).split("|")]


def mask_files(cell) -> list[tuple[str, str]]:
    """The `(class, path)` pairs of a mask cell `cup=a.png|disc=b.png`; no class is `""`."""
    parts = [re.fullmatch(r"(?:([\w -]+)=)?(.*)", part, re.DOTALL) for part in image_files(cell)]
    return [(part[1] or "", part[2]) for part in parts]


def _reader(file):
    """The module that reads a volume; `None` of a picture."""
    name = str(file).lower()
    if nifti.is_nifti(name):
        return nifti
    if name.endswith(itk.FORMATS):
        return itk
    return dicom if not name.endswith(_PICTURES) and dicom.is_dicom(file) else None


def _few(values):
    return f"{values[:8]}{' …' if len(values) > 8 else ''}"


def _read_together(files, mask=False):
    """The files of one case, every problem of theirs at once; they lie on one grid."""
    images, problems = [], []
    for file in files:
        try:
            images.append(_read_values(file) if mask else _read(file))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    expected, affine = images[0].array.shape[:-1], images[0].affine
    for file, image in zip(files, images, strict=True):
        shape = image.array.shape[:-1]
        if shape != expected:
            problems.append(Problem(file, f"shape {shape}", f"{expected} as in {files[0]}"))
        elif not same_grid(shape, image.affine, affine):
            problems.append(Problem(file, "another position in space", f"that of {files[0]}"))
        elif not mask and image.array.dtype != images[0].array.dtype:
            types = image.array.dtype, images[0].array.dtype
            problems.append(Problem(file, f"{types[0]} values", f"{types[1]} as in {files[0]}"))
    if problems:
        raise DataError(*problems)
    return images


def _read_class_files(cell, files, task):
    names = [name for name, _ in files]
    if sorted(names) != sorted(task.classes):
        raise DataError(
            Problem(
                cell,
                f"files for the classes {names}",
                f"one path, or one file each of "
                f"{list(task.classes)} as {'|'.join(f'{name}=…' for name in task.classes)}",
            )
        )
    masks = _read_together([file for _, file in files], mask=True)
    labels = np.zeros(masks[0].array.shape[:-1], "uint8")
    for (name, file), mask in zip(files, masks, strict=True):
        values, index = mask.array[..., 0], task.classes.index(name)
        top = next((top for top in (1, 255, 65535) if values.max() <= top), values.max())
        inside = values > top / 2
        if not inside.any() and values.max() > 0:
            inside = values == values.max()
            if values[~inside].any():
                found = f"mask values {_few(np.unique(values).tolist())}, none above half of {top}"
                raise DataError(Problem(file, found, f"0 and one value for {name}, or a soft map"))
        if task.overlapping:
            labels |= inside.astype("uint8") << index
        elif twice := np.count_nonzero(labels[inside]):
            raise DataError(
                Problem(
                    file,
                    f"{twice} px of {name} that belong to another class too",
                    "classes that exclude each other (overlapping=False)",
                )
            )
        else:
            labels[inside] = index + 1
    return labels


def _read_values(file, colours=False):
    """A mask file as an image of one channel."""
    image = _read(file, mask=True, colours=colours)
    array = image.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(Problem(file, "NaN or infinite mask values", "whole numbers"))
    if image.affine is None:
        array = mask_numbers(file, array, colours)[..., None]
    return Image(_narrow(array), image.spacing, image.affine)


def _unblurred(file, values, task):
    """Values of a JPEG as the nearest declared ones, of those that lie apart from all others."""
    labels = task.label_of_value
    if task.coloured or not _close(np.unique(values), task):
        return values
    none = labels[task.background[0]]
    kept = [
        v
        for v, label in labels.items()
        if label == none or all(abs(v - w) >= _APART for w in labels if labels[w] != label)
    ]
    lost = sorted(v for v in set(labels) - set(kept) if labels[v] not in {labels[w] for w in kept})
    nearest = np.array(kept)[np.abs(np.arange(256)[:, None] - kept).argmin(axis=1)]
    found = nearest[values]
    if lost or (values.any() and (found == found.flat[0]).all() and values.max() < _APART):
        blurred = f"a JPEG mask, which blurs the values {lost or _few(np.unique(values).tolist())}"
        expected = f"a lossless format, or values at least {_APART} apart"
        raise DataError(Problem(file, f"{blurred} into one another", expected))
    return found.astype("uint8")


def _close(present, task):
    """Whether a mask's values are no labels yet, or lie so close that JPEG may have made them."""
    if task.undeclared(present):
        return True
    labels = task.encode(present)
    near = np.abs(present[:, None].astype(int) - present) < _APART
    return bool((near & (labels[:, None] != labels)).any())


def _narrow(values):
    """Whole numbers as uint8 or uint16 where they fit: ten times faster to sort than float32."""
    if values.dtype.kind != "f" or values.min() < 0 or values.max() > 65535:
        return values
    whole = values.astype("uint8" if values.max() < 256 else "uint16")
    return whole if np.array_equal(whole, values) else values


def _read(file, mask=False, colours=False):
    try:
        reader = _reader(file)
        _check_file(file, reader)
        return reader.read_volume(file, mask) if reader else read_picture(file, mask, colours)
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly every type on damaged bytes
        raise DataError(
            Problem(
                file,
                f"data that cannot be decoded ({' '.join(str(error).split())})",
                f"a complete {file.suffix} file",
            )
        ) from error


def _check_file(file, reader):
    """What can be said without a decoder."""
    expected = "an image file (" + ", ".join(FORMATS) + ")"
    if not file.exists():
        link = "a link to what is no longer there" if file.is_symlink() else "no such file"
        raise DataError(Problem(file, link, expected))
    if reader is dicom:
        return
    if file.is_dir():
        raise DataError(Problem(file, "a folder", expected))
    if file.stat().st_size == 0:
        raise DataError(Problem(file, "an empty file (0 bytes)", expected))
    if not file.name.lower().endswith(FORMATS):
        raise DataError(Problem(file, f"the ending {file.suffix or 'of no format'}", expected))
