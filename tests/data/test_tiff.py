"""Every form of a TIFF gives the numbers that are stored, or is refused by name."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from keras_meduda.data.io import DataError, read_image, read_mask, read_shape, write_mask
from keras_meduda.task import Task

TASK = Task(("lesion",), values={"lesion": (1, 255)})
GREY = np.arange(20 * 30).reshape(20, 30) * 7 % 250
TYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
TYPES += ["float16", "float32", "float64"]


def bands(count, dtype="uint16"):
    return np.stack([GREY + 3 * i for i in range(count)], axis=-1).astype(dtype)


def write(path, array, **options):
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, array, **options)
    return path


def planes(path, array, **options):
    return write(path, np.moveaxis(array, -1, 0), planarconfig="separate", **options)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_of_every_type_and_byte_order(tmp_path, dtype, byteorder):
    array = (GREY - (0 if dtype[0] == "u" else 100)).clip(-128, 127).astype(dtype)
    found = read_image(write(tmp_path / "a.tif", array, byteorder=byteorder)).array
    np.testing.assert_array_equal(found[..., 0], array)
    assert found.dtype == dtype and found.dtype.isnative


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_channels_side_by_side_or_in_planes(tmp_path, channels, planar, tile, compression):
    array = bands(channels)
    options = {"compression": compression, "tile": tile}
    if channels in (3, 4):
        options["photometric"] = "rgb"
    if planar:
        path = planes(tmp_path / "a.tif", array, **options)
    else:
        path = write(tmp_path / "a.tif", array, planarconfig="contig", **options)
    np.testing.assert_array_equal(read_image(path).array, array)
    assert read_shape(path) == (20, 30)


@pytest.mark.parametrize("predictor", [2, 3])
def test_predictors(tmp_path, predictor):
    array = GREY.astype("uint16" if predictor == 2 else "float32")
    path = write(tmp_path / "a.tif", array, compression="zlib", predictor=predictor)
    np.testing.assert_array_equal(read_image(path).array[..., 0], array)


@pytest.mark.parametrize("bits", [*range(2, 8), 9, 10, 12, 14, 24, 31])
def test_bits_that_do_not_fill_bytes(tmp_path, bits):
    array = GREY % 2**bits
    array = array.astype("uint8" if bits <= 8 else "uint16" if bits <= 16 else "uint32")
    image = read_image(write(tmp_path / "a.tif", array, bitspersample=bits)).array[..., 0]
    np.testing.assert_array_equal(image, array)
    assert image.dtype != "uint8"  # or a network, which scales other types, would see black


@pytest.mark.parametrize("compression", [None, "group4", "tiff_lzw"])
def test_one_bit_is_black_and_white(tmp_path, compression):
    array = GREY > 99
    Pillow.fromarray(array).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[..., 0], array * 255)
    assert read_mask(tmp_path / "a.tif", TASK).tolist() == array.tolist()


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535)])
def test_white_as_zero_is_turned_over(tmp_path, dtype, top):
    path = write(tmp_path / "a.tif", GREY.astype(dtype), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path).array[..., 0], top - GREY)


def test_planar_rgb_of_16_bits_written_by_hand(tmp_path):
    """Pillow and OpenCV read bytes of it as pixels."""
    h, w = 48, 64
    y, x = np.mgrid[:h, :w]
    grey = (x * 700 + y * 300).astype("<u2")
    three = [grey, grey[::-1], grey[:, ::-1]]
    tags = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 3, 6), (277, 3, 1, 3), (278, 4, 1, h), (279, 4, 3, 18), (284, 3, 1, 2)]
    far, size = 8 + 2 + 12 * len(tags) + 4, h * w * 2
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, count, value in tags:
        out += struct.pack("<HHII", tag, kind, count, value + far if count == 3 else value)
    out += struct.pack("<I3H", 0, 16, 16, 16)
    out += struct.pack("<6I", *(far + 30 + i * size for i in range(3)), size, size, size)
    out += b"".join(np.ascontiguousarray(plane).tobytes() for plane in three)
    (tmp_path / "a.tif").write_bytes(out)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.stack(three, -1))


def test_jpeg_inside_is_rgb(tmp_path):
    rgb = bands(3, "uint8").repeat(8, 0).repeat(8, 1)
    Pillow.fromarray(rgb).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.abs(read_image(tmp_path / "a.tif").array - rgb.astype(float)).mean() < 5


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours_of_8_bits_become_rgb(tmp_path, mode):
    rgb = Pillow.fromarray(np.full((8, 8, 3), (200, 100, 50), "uint8"))
    rgb.convert(mode).save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif").array - (200.0, 100, 50)).max() < 3


@pytest.mark.parametrize(("colours", "labels"), [
    ([(0, 0, 0), (255, 0, 0), (0, 255, 0)], [0, 1, 2]),
    ([(2, 2, 2), (1, 1, 1), (0, 0, 0)], [2, 1, 0]),
])
def test_a_palette(tmp_path, colours, labels):
    table = np.zeros((3, 256), "uint16")
    table[:, :3] = np.transpose(colours) * 257
    indices = np.array([[0, 1, 2]], "uint8")
    path = write(tmp_path / "a.tif", indices, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_image(path).array, [colours])
    assert read_mask(path, Task(("a", "b"))).tolist() == [labels]


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png"])
def test_content_counts_and_not_the_name(tmp_path, name):
    write(tmp_path / "x.tif", bands(3), photometric="rgb").rename(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).array, bands(3))


def test_a_mask_lies_on_a_tiff_that_pillow_does_not_know(tmp_path):
    image = write(tmp_path / "a.tif", bands(5), planarconfig="contig")
    written = write_mask(tmp_path / "m", (GREY > 99).astype("uint8"), like=image)
    assert written.name == "m.tif"
    np.testing.assert_array_equal(read_mask(written, TASK), GREY > 99)


def test_a_big_tiff(tmp_path):
    path = write(tmp_path / "a.tif", GREY.astype("uint16"), bigtiff=True)
    np.testing.assert_array_equal(read_image(path).array[..., 0], GREY)


def test_a_pyramid_is_its_full_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(GREY.astype("uint8"), photometric="minisblack")
        tiff.write(GREY[::2, ::2].astype("uint8"), photometric="minisblack", subfiletype=1)
    assert read_image(tmp_path / "a.tif").array.shape == (20, 30, 1)


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def without_strip(path):
    """A file one of whose strips has no data, which readers fill with zeros."""
    write(path, GREY.astype("uint8"), rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
        tag.overwrite([tag.value[0], 0])
    return path


REFUSED = {
    "pages": (lambda p: write(p, np.stack([GREY] * 7).astype("uint8")), "7 pages"),
    "ImageJ stack": (lambda p: write(p, bands(4), imagej=True), "pages"),
    "turned": (lambda p: write(p, GREY.astype("uint8"), extratags=[(274, 3, 1, 6, True)]),
               "the orientation tag 6"),
    "complex": (lambda p: write(p, GREY.astype("complex64")), "samples of the type complex64"),
    "white is zero, signed": (
        lambda p: write(p, GREY.astype("int16"), photometric="miniswhite"), "white-is-zero"),
    "Lab": (lambda p: write(p, bands(3, "uint8"), photometric="cielab"), "CIELAB colours"),
    "CMYK of 16 bits": (
        lambda p: write(p, bands(4), photometric="separated"), "SEPARATED colours"),
    "a strip without data": (without_strip, "strips or tiles that are empty"),
    "volume of tiles": (
        lambda p: write(p, np.zeros((16, 32, 32), "uint8"), tile=(16, 16, 16), volumetric=True),
        "16 pages"),
    "header alone": (lambda p: cut(write(p, GREY.astype("uint8")), 0.02), "cannot be decoded"),
    "cut tiles": (lambda p: cut(write(p, GREY.astype("uint8"), tile=(16, 16))), "cannot be dec"),
} | {
    f"cut {kind}": (
        lambda p, kind=kind: cut(write(p, GREY.astype("uint8"), compression=kind)),
        "cannot be decoded")
    for kind in (None, "zlib", "lzw", "packbits", "jpeg", "zstd", "lzma", "png")
}


@pytest.mark.parametrize(("make", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(tmp_path, make, found):
    path = make(tmp_path / "a.tif")
    with pytest.raises(DataError) as caught:
        read_image(path)
    (problem,) = caught.value.problems
    assert found in problem.found and problem.file == path


@pytest.mark.parametrize(("make", "found"), [
    (lambda p: write(p, (GREY > 9).astype("uint8"), photometric="miniswhite"), "white-is-zero"),
    (lambda p: write(p, bands(5), planarconfig="contig"), "a mask of 5 channels"),
    (lambda p: write(p, bands(3, "uint8"), photometric="rgb"), "a mask with colours"),
], ids=["white is zero", "five bands", "colours"])
def test_what_no_mask_can_be(tmp_path, make, found):
    with pytest.raises(DataError, match=found):
        read_mask(make(tmp_path / "a.tif"), TASK)
