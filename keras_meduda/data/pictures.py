"""PNG, JPEG, BMP and TIFF files to arrays `(H, W, channels)` and back, no sample changed.

Pixels stay in the order of their file: EXIF orientation is not applied, because masks carry none
and are drawn on the stored pixels.
"""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.files import DataError, Image, Problem, replacing
from keras_meduda.data.tiff import is_tiff, read_tiff, tiff_shape
from keras_meduda.data.values import COLOUR

LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_ORIENTATION = 274


def read_picture(file, mask=False, colours=False) -> Image:
    """A picture as it is stored; a palette gives its RGB colours, a 1-bit picture 0 and 255.

    Args:
        file: the path.
        mask: whether the numbers are labels: of a palette with colours its indices.
        colours: whether the labels of a mask are colours: a palette gives them.

    Raises:
        DataError: what `read_tiff` refuses, a picture of several frames, or one of more pixels than
            Pillow reads.
    """
    array = read_tiff(file, mask) if is_tiff(file) and not colours else None
    if array is None:
        array = _decoded(file, mask and not colours)
    return Image(array.reshape(*array.shape[:2], -1), (1.0, 1.0))


def picture_shape(file) -> tuple[int, int]:
    """Height and width of a picture, from its header alone."""
    if is_tiff(file):
        return tiff_shape(file)
    with Pillow.open(file) as picture:
        return picture.size[::-1]


def picture_turn(file) -> int:
    """The EXIF orientation of a picture, by which viewers turn it: 1 is as stored."""
    if is_tiff(file):
        return 1  # others are refused
    with Pillow.open(file) as picture:
        return int(picture.getexif().get(_ORIENTATION, 1))


def is_jpeg(file) -> bool:
    """Whether a file holds a JPEG, which blurs values, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(3) == b"\xff\xd8\xff"


def mask_numbers(file, array, colours=False) -> np.ndarray:
    """The one number of each pixel of a mask, `(H, W, channels)` to `(H, W)`.

    Of equal channels it is their grey value, of a colour `COLOUR` + 0xRRGGBB. Alpha counts where
    the other channels are the same everywhere; else it has to agree with them.

    Args:
        file: named in what is refused.
        array: a mask as `read_picture` gives it.
        colours: whether the mask's labels are colours.

    Raises:
        DataError: colours that are not declared, channels that are neither colours nor alpha, or
            alpha and greys that tell two stories.
    """
    channels = array.shape[-1]
    if channels in (2, 4):
        array, alpha = array[..., :-1], array[..., -1]
        if (alpha != alpha.flat[0]).any():
            if (array == array[:1, :1]).all():
                return alpha
            if array[alpha == 0].any():
                found = "a mask whose transparent pixels have values"
                raise DataError(Problem(file, found, "the labels in its grey values alone"))
    elif channels not in (1, 3):
        raise DataError(Problem(file, f"a mask of {channels} channels", "one channel"))
    if array.shape[-1] == 1 or (array == array[..., :1]).all():
        return array[..., 0]
    if not colours or array.dtype != "uint8":
        some = np.unique(array.reshape(-1, 3), axis=0)[::-1][:3].tolist()
        named = ", ".join("(" + ", ".join(map(str, rgb)) + ")" for rgb in some)
        raise DataError(
            Problem(
                file,
                f"a mask with colours, such as {named}",
                "grey values, a palette, or three equal channels; 8-bit colours are declared as "
                "#rrggbb: cup=#ff0000",
            )
        )
    red, green, blue = (array[..., i].astype("uint32") for i in range(3))
    grey = (red == green) & (green == blue)
    return np.where(grey, red, COLOUR + (red << 16) + (green << 8) + blue).astype("uint32")


def as_colours(numbers) -> np.ndarray:
    """The colours that the numbers of a mask stand for, as `mask_numbers` gives them.

    Args:
        numbers: uint32 `(*spatial)`.

    Returns:
        uint8 RGB `(*spatial, 3)`; the numbers as they are where one is neither a colour nor 8 bits
        of grey.

    Example:
        >>> as_colours(np.array([7, (1 << 24) + 0xFF8000], "uint32")).tolist()
        [[7, 7, 7], [255, 128, 0]]
    """
    grey = numbers[..., None]
    if ((grey >= 256) & (grey < COLOUR)).any():
        return numbers
    rgb = (grey >> np.array([16, 8, 0], "uint32")) & np.uint32(255)
    return np.where(grey < COLOUR, grey, rgb).astype("uint8")


def write_picture(path, array) -> Path:
    """Write a picture losslessly, in one step or not at all.

    Args:
        path: where to, ending in .png, .bmp, .tif or .tiff; its folder is made.
        array: uint8 or uint16, `(H, W)` or `(H, W, channels)` with 1, 3 (RGB) or 4 (RGBA) channels;
            or `(H, W)` numbers of a mask with colours, as `mask_numbers` gives them.

    Returns:
        The path.

    Raises:
        ValueError: an array that such a picture cannot hold.

    Example:
        >>> write_picture(getfixture("tmp_path") / "a.png", np.zeros((4, 6), "uint8")).name
        'a.png'
    """
    path, array = Path(path), np.asarray(array)
    if array.dtype == "uint32" and array.ndim == 2:
        array = as_colours(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    suffix, depths = path.suffix.lower(), ("uint8", "uint16")
    if (
        array.dtype not in depths[: 1 if suffix == ".bmp" else 2]
        or suffix not in LOSSLESS
        or array.ndim not in (2, 3)
        or channels not in (1, 3, 4)
    ):
        raise ValueError(
            f"{path}: received {array.dtype} {array.shape}, expected uint8 (or "
            "uint16, not in BMP) with 1, 3 or 4 channels, and an ending of "
            f"{', '.join(LOSSLESS)}."
        )
    if channels > 1:
        array = array[..., [2, 1, 0, 3][:channels]]  # OpenCV's order is blue, green, red
    data = cv2.imencode(suffix, array)[1]
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def _decoded(file, indices):
    try:
        return _through_pillow(file, file, indices)
    except Pillow.DecompressionBombError as error:
        limit = 2 * Pillow.MAX_IMAGE_PIXELS // 10**6
        found = f"more than {limit} megapixels ({str(error).split(' pixels')[0]})"
        expected = f"a picture of at most {limit} megapixels: tiles, or a smaller copy"
        raise DataError(Problem(file, found, expected)) from error
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
        return _through_pillow(BytesIO(_without_text(Path(file).read_bytes())), file, indices)


def _through_pillow(stream, file, indices):
    with Pillow.open(stream) as picture:
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if frames > 1:  # of a telephone's MPO the others are thumbnails
            raise DataError(Problem(file, f"{frames} pages", "one page a file"))
        stored = str(picture.tile)
        deep = ";16" in stored and picture.mode in ("LA", "RGB", "RGBA")
        picture.load()  # before anything else: Pillow refuses truncated data, OpenCV does not
        if deep:  # 16-bit colour, which Pillow cuts to 8 bits
            array = cv2.imdecode(np.fromfile(file, "uint8"), cv2.IMREAD_UNCHANGED)
            array = array[..., [2, 1, 0, 3][: array.shape[-1]]]
            return array[..., 2:] if "LA;16" in stored else array
        if picture.mode == "P" and indices:
            palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
            if (palette != palette[:, :1]).any():
                return np.asarray(picture)
        if picture.mode == "1":
            return np.asarray(picture.convert("L"))
        if picture.mode in ("L", "LA", "RGB", "RGBA", "F") or picture.mode.startswith("I"):
            array = np.asarray(picture)
            return array.astype(array.dtype.newbyteorder("="), copy=False)
        return np.asarray(picture.convert("RGB"))


def _without_text(png):
    """The bytes of a PNG but for its remarks, of which Pillow reads 1 MB a piece."""
    kept, at = [png[:8]], 8
    while at + 8 <= len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)
