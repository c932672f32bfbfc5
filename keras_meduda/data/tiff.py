"""TIFF pictures: every number as it is stored, or a refusal that names what cannot be read.

A page may have one channel or several, interleaved or in planes, in strips or tiles, in either byte
order and under any compression that `tifffile` knows; its samples may be whole numbers of 1 to 64
bits, signed or not, or real ones of 16 to 64.
"""

import numpy as np
import tifffile

from keras_meduda.data.files import DataError, Problem

_WHITE_IS_ZERO, _PALETTE, _YCBCR, _CMYK = 0, 3, 6, 5
_READ = (_WHITE_IS_ZERO, 1, 2, _PALETTE)
_JPEG = (6, 7, 34892)  # compressions whose decoder turns YCbCr into RGB


def is_tiff(file) -> bool:
    """Whether a file holds a TIFF, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_shape(file) -> tuple[int, int]:
    """Height and width of a TIFF, from its header alone."""
    with tifffile.TiffFile(file) as tiff:
        return tiff.pages[0].imagelength, tiff.pages[0].imagewidth


def read_tiff(file, mask=False) -> np.ndarray | None:
    """The samples of a TIFF file with one page: `(H, W, channels)` of the file's own type.

    One bit becomes 0 and 255, fewer than eight bits become uint16, so that they are scaled to the
    range of a network as 12 bits are. White-is-zero pictures are inverted. A palette gives its
    colours, of a mask its indices where it has colours, else its greys.

    Args:
        file: the path.
        mask: whether the numbers are labels.

    Returns:
        The array; `None` of 8-bit CMYK and plain YCbCr, which Pillow turns into RGB.

    Raises:
        DataError: several pages, a turned page, data that are not all there, colours that are not
            grey, RGB or a palette, complex numbers, or a white-is-zero mask.
    """
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        _check_pages(file, tiff)
        _check_page(file, page, mask)
        photometric = int(page.photometric)
        eight = page.bitspersample == 8
        if photometric in (_CMYK, _YCBCR) and eight and int(page.compression) not in _JPEG:
            return None
        if photometric not in (*_READ, _YCBCR):
            colours = getattr(page.photometric, "name", photometric)
            raise DataError(Problem(file, f"a TIFF of {colours} colours", "grey, RGB or a palette"))
        array = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            array = np.moveaxis(array, 0, -1)
        bits = page.bitspersample
        if photometric == _PALETTE:
            return _coloured(array, page.colormap, mask)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array = array.reshape(*array.shape[:2], -1)
    if array.dtype.kind == "b":
        array = array.astype("uint8") * np.uint8(255)
    if photometric == _WHITE_IS_ZERO:
        top = 255 if bits == 1 else 2**bits - 1
        array = array.dtype.type(top) - array
    return array.astype("uint16") if array.dtype.kind == "u" and 1 < bits < 8 else array


def _check_pages(file, tiff):
    """Refuses a stack: which of its pages are channels, slices or times is not said."""
    pages = [p for p in tiff.pages if not (int(getattr(p, "subfiletype", 0) or 0) & 5)]
    count, first = len(pages), tiff.pages[0]
    if tiff.is_imagej:  # a long stack has one page and a remark on how many follow
        count = max(count, int((tiff.imagej_metadata or {}).get("images", 1)))
    if count > 1 or first.imagedepth > 1:
        found = f"{max(count, first.imagedepth)} pages"
        expected = "one page a file; channels as files of their own, joined by |"
        raise DataError(Problem(file, found, f"{expected}, and a volume as NIfTI"))


def _check_page(file, page, mask):
    """Refuses what a reader would fill, turn or invert in silence."""
    size = page.parent.filehandle.size
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > size or 0 in page.databytecounts:
        found = "data that cannot be decoded (strips or tiles that are empty or not all there)"
        raise DataError(Problem(file, found, f"a complete {file.suffix} file"))
    turn = page.tags.get(274)
    if turn is not None and int(turn.value) not in (0, 1):  # Pillow turns it, its mask it does not
        found = f"the orientation tag {int(turn.value)}"
        raise DataError(Problem(file, found, "1: pixels stored as they are shown"))
    if page.dtype is None or page.dtype.kind not in "buif":
        found = f"samples of the type {page.dtype or page.bitspersample}"
        raise DataError(Problem(file, found, "whole or real numbers"))
    if int(page.photometric) == _WHITE_IS_ZERO:
        if page.dtype.kind not in "bu":
            found = f"a white-is-zero TIFF of {page.dtype} samples"
            raise DataError(Problem(file, found, "unsigned numbers, or black as zero"))
        if mask:  # ImageJ's inverting table shows foreground 255 as black
            found = "a white-is-zero mask, of which foreground and background may be swapped"
            raise DataError(Problem(file, found, "black as zero (ImageJ: Invert LUT, then Invert)"))


def _coloured(indices, colormap, mask):
    """What a palette stands for: its entries are 16-bit, or 8-bit where a writer left them so."""
    table = np.asarray(colormap).T
    table = (table if table.max() < 256 else table >> 8).astype("uint8")
    grey = (table == table[:, :1]).all()
    if mask and not grey:
        return indices[..., None]
    return table[indices][..., :1] if mask else table[indices]
