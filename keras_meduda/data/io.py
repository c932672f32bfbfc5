"""Image and mask files to arrays and back: pictures through Pillow, volumes through nibabel.

Every array of this package has its spatial axes first and channels last. A picture is `(H, W)` in
the order of its file: EXIF orientation is ignored (of a TIFF refused), because masks carry none and
are drawn on the stored pixels. A volume is turned to the closest canonical (right, anterior,
superior) orientation and turned back when a mask is written.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.files import DataError, Image, Problem, check_shape, replacing
from keras_meduda.data.nifti import (
    is_volume,
    read_canonical_affine,
    read_canonical_shape,
    read_volume,
    same_grid,
    voxel_sizes,
    write_volume,
)

FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii.gz", ".nii")
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def read_image(cell) -> Image:
    """The image of a case: one file, or one file a channel.

    A palette picture gives its RGB colours, a 1-bit one 0 and 255.

    Args:
        cell: a path, or several joined by `|`, stacked in this order.

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
    or the indices of a palette that holds colours. A file of one class is foreground above half of
    its range (1, 255 or 65535, the smallest that holds its maximum), which of a soft map of several
    experts is the majority; one value beside 0, such as 2, is foreground whatever it is.

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
    values = _read_values(file).array[..., 0]
    try:
        return task.encode(values)
    except ValueError as error:
        unknown = task.undeclared(values)
        raise DataError(
            Problem(
                file,
                f"mask values {_few(unknown)} that the task does not declare",
                f"{task.values}, background {task.background}, tolerance {task.tolerance}",
            )
        ) from error


def write_mask(path, array, like) -> Path:
    """Write a mask in the format and the grid of an image, in one step or not at all.

    A NIfTI image's orientation, affine and header return unchanged; a picture becomes the same
    lossless format, a JPEG becomes PNG.

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
    array = np.asarray(array)
    if not is_volume(like):
        suffix = like.suffix.lower() if like.suffix.lower() in _LOSSLESS else ".png"
        with Pillow.open(like) as picture:
            check_shape(array, picture.size[::-1], like)
        return write_picture(Path(path).with_name(stem(path) + suffix), array)
    suffix = ".nii.gz" if like.name.lower().endswith(".gz") else ".nii"
    path = Path(path).with_name(stem(path) + suffix)
    write_volume(path, array, like)
    return path


def write_picture(path, array) -> Path:
    """Write a picture losslessly, in one step or not at all.

    Args:
        path: where to, ending in .png, .bmp, .tif or .tiff; its folder is made.
        array: uint8 or uint16, `(H, W)` or `(H, W, channels)` with 1, 3 (RGB) or 4 (RGBA) channels.

    Returns:
        The path.

    Raises:
        ValueError: an array that such a picture cannot hold.

    Example:
        >>> write_picture(getfixture("tmp_path") / "a.png", np.zeros((4, 6), "uint8")).name
        'a.png'
    """
    path, array = Path(path), np.asarray(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    suffix, depths = path.suffix.lower(), ("uint8", "uint16")
    if (
        array.dtype not in depths[: 1 if suffix == ".bmp" else 2]
        or suffix not in _LOSSLESS
        or array.ndim not in (2, 3)
        or channels not in (1, 3, 4)
    ):
        raise ValueError(
            f"{path}: received {array.dtype} {array.shape}, expected uint8 (or "
            "uint16, not in BMP) with 1, 3 or 4 channels, and an ending of "
            f"{', '.join(_LOSSLESS)}."
        )
    if channels > 1:
        array = array[..., [2, 1, 0, 3][:channels]]  # OpenCV's order is blue, green, red
    data = cv2.imencode(suffix, array)[1]
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def read_affine(cell) -> np.ndarray | None:
    """The affine of a cell's first file, as `read_image` gives it, from the header alone.

    Args:
        cell: an image or mask cell.

    Returns:
        `(4, 4)` array, `None` for pictures.
    """
    file = Path(mask_files(cell)[0][1])
    return read_canonical_affine(file) if is_volume(file) else None


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
    if is_volume(file):
        return read_canonical_shape(file)
    with Pillow.open(file) as picture:
        return picture.size[::-1]


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


def _read_values(file):
    """A mask file as an image of one channel."""
    image = _read(file, mask=True)
    array = image.array
    if array.shape[-1] > 2 and not (array[..., :1] == array[..., :3]).all():
        raise DataError(
            Problem(file, "a mask with colours", "grey values, a palette, or three equal channels")
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(Problem(file, "NaN or infinite mask values", "whole numbers"))
    return Image(_narrow(array[..., :1]), image.spacing, image.affine)


def _narrow(values):
    """Whole numbers as uint8 or uint16 where they fit: ten times faster to sort than float32."""
    if values.dtype.kind != "f" or values.min() < 0 or values.max() > 65535:
        return values
    whole = values.astype("uint8" if values.max() < 256 else "uint16")
    return whole if np.array_equal(whole, values) else values


def _read(file, mask=False):
    try:
        _check_file(file)
        return read_volume(file) if is_volume(file) else _read_picture(file, mask)
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


def _check_file(file):
    """What can be said without a decoder."""
    expected = "an image file (" + ", ".join(FORMATS) + ")"
    if not file.exists():
        raise DataError(Problem(file, "no such file", expected))
    if _is_dicom(file):
        folder = file if file.is_dir() else file.parent
        raise DataError(
            Problem(file, "DICOM", f"NIfTI; convert it with `dcm2niix -z y -o OUTPUT {folder}`")
        )
    if file.is_dir():
        raise DataError(Problem(file, "a folder", expected))
    if file.stat().st_size == 0:
        raise DataError(Problem(file, "an empty file (0 bytes)", expected))
    if not file.name.lower().endswith(FORMATS):
        raise DataError(Problem(file, f"the ending {file.suffix or 'of no format'}", expected))


def _is_dicom(file):
    if file.is_dir():
        return any(_is_dicom(child) for child in file.iterdir() if child.is_file())
    with open(file, "rb") as stream:
        return file.suffix.lower() == ".dcm" or stream.read(132)[128:] == b"DICM"


def _read_picture(file, mask):
    with Pillow.open(file) as picture:
        if picture.format == "TIFF" and picture.n_frames > 1:
            raise DataError(Problem(file, f"{picture.n_frames} pages", "one page a file"))
        if picture.format == "TIFF" and (turn := picture.getexif().get(274, 1)) != 1:
            raise DataError(  # which Pillow would turn, but not the mask that lies on it
                Problem(file, f"the orientation tag {turn}", "1: pixels stored as they are shown")
            )
        deep = ";16" in str(picture.tile) and picture.mode in ("LA", "RGB", "RGBA")
        picture.load()  # before anything else: Pillow refuses truncated data, OpenCV does not
        if deep:  # 16-bit colour, which Pillow cuts to 8 bits
            array = cv2.imdecode(np.fromfile(file, "uint8"), cv2.IMREAD_UNCHANGED)
            array = array[..., [2, 1, 0, 3][: array.shape[-1]]]
        elif picture.mode == "P" and mask and _has_colours(picture):
            array = np.asarray(picture)
        elif picture.mode == "1":
            array = np.asarray(picture.convert("L"))
        elif picture.mode in ("L", "LA", "RGB", "RGBA", "F") or picture.mode.startswith("I"):
            array = np.asarray(picture)
        else:
            array = np.asarray(picture.convert("RGB"))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Image(array.reshape(*array.shape[:2], -1), (1.0, 1.0))


def _has_colours(picture):
    palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((palette != palette[:, :1]).any())
