"""Pictures as programs write them: alpha, palettes, colours, EXIF, JPEG masks, limits."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import PngImagePlugin

from keras_meduda.data.cases import case_table
from keras_meduda.data.checks import checked, validate
from keras_meduda.data.io import DataError, read_image, read_mask, write_mask, write_picture
from keras_meduda.task import Task, to_json

LESION = Task(("lesion",), values={"lesion": (1, 255)})
FUNDUS = Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
COLOURS = Task(
    ("cup", "disc"), True, {"cup": ("#FF0000",), "disc": ("#00ff00", "#ff0000")}, ("#000000",)
)
INSIDE = np.hypot(*np.mgrid[-12:12, -16:16]) < 8


def save(path, array, **options):
    Pillow.fromarray(np.asarray(array, "uint8")).save(path, **options)
    return path


def with_alpha(grey, alpha):
    grey, alpha = np.broadcast_arrays(grey, alpha)
    return np.stack([grey, alpha], -1)


# Alpha

@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [0, 255])
def test_a_mask_in_its_alpha_alone(tmp_path, grey, channels):
    array = with_alpha(np.full(INSIDE.shape, grey), INSIDE * 255)
    path = save(tmp_path / "m.png", array[..., [0] * channels + [1]])
    np.testing.assert_array_equal(read_mask(path, LESION), INSIDE)


@pytest.mark.parametrize("alpha", [255, 128, 0], ids=["opaque", "half", "transparent"])
def test_an_alpha_that_says_nothing_is_passed_over(tmp_path, alpha):
    path = save(tmp_path / "m.png", with_alpha(INSIDE * 255, alpha))
    np.testing.assert_array_equal(read_mask(path, LESION), INSIDE)


def test_alpha_that_agrees_with_the_values_is_passed_over(tmp_path):
    path = save(tmp_path / "m.png", with_alpha(INSIDE * 255, INSIDE * 200))
    np.testing.assert_array_equal(read_mask(path, LESION), INSIDE)


def test_values_of_transparent_pixels_are_refused(tmp_path):
    path = save(tmp_path / "m.png", with_alpha(INSIDE * 255, ~INSIDE * 255))
    with pytest.raises(DataError, match="transparent pixels have values"):
        read_mask(path, LESION)


@pytest.mark.parametrize(("mode", "channels", "severity"), [
    ("LA", 1, "error"), ("LA", 3, "error"), ("RGBA", 3, "warning"), ("RGBA", 1, "warning")])
def test_a_last_channel_that_varies_is_not_dropped_without_a_word(
    tmp_path, mode, channels, severity
):
    array = np.random.default_rng(0).integers(0, 255, (24, 32, len(mode)))
    cases = case_table([{"case": "a", "image": save(tmp_path / "a.png", array)}])
    (problem,) = validate(cases, LESION, channels=channels)
    assert problem.severity == severity and "channel" in problem.found
    assert validate(cases, LESION, channels=len(mode)) == []
    array[..., -1] = 255
    save(tmp_path / "a.png", array)
    assert validate(cases, LESION, channels=channels) == []


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bits_with_alpha(tmp_path, channels):
    """Written by hand: Pillow cuts it to 8 bits."""
    array = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    path = tmp_path / "a.png"
    path.write_bytes(png((7, 5, 16, {2: 4, 4: 6}[channels]), rows))
    np.testing.assert_array_equal(read_image(path).array, array)


def png(header, rows, *more):
    """A PNG of raw rows: width, height, bits and kind of colour, and chunks of its own."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *more,
              (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks)


# Colours

def coloured(disc=(0, 255, 0), cup=(255, 0, 0), around=(0, 0, 0)):
    radius = np.hypot(*np.mgrid[-12:12, -16:16])[..., None]
    return np.where(radius < 4, cup, np.where(radius < 8, disc, around)).astype("uint8")


LABELS = coloured()[..., 0] // 255 + (coloured().any(-1) * 2)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_colours_are_declared_beside_numbers(tmp_path, ending):
    path = save(tmp_path / f"m.{ending}", coloured())
    np.testing.assert_array_equal(read_mask(path, COLOURS), LABELS)
    rest = Task(("disc", "cup"), values={"disc": ("#00ff00",), "cup": ("#ff0000", 7)})
    assert read_mask(path, rest).max() == 2


def test_colours_of_a_palette(tmp_path):
    Pillow.fromarray(coloured()).quantize(4).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", COLOURS), LABELS)


def test_a_grey_colour_is_its_number(tmp_path):
    task = Task(("cup", "disc"), values={"cup": ("#FFFFFF",), "disc": ("#808080", "#0000ff")})
    assert task.values == {"cup": (255,), "disc": (128, "#0000ff")}
    path = save(tmp_path / "m.png", [[[255] * 3, [128] * 3, [0, 0, 255], [0] * 3]])
    assert read_mask(path, task).tolist() == [[1, 2, 2, 0]]


def test_colours_of_interpolated_pixels_count_as_the_nearest_within_the_tolerance(tmp_path):
    path = save(tmp_path / "m.png", np.clip(coloured().astype(int) + [3, -2, 5], 0, 255))
    with pytest.raises(DataError, match=r"mask values \['#030005', '#03fd05', '#ff0005'\] that"):
        read_mask(path, COLOURS)
    task = Task(**(to_json(COLOURS) | {"tolerance": 5}))
    np.testing.assert_array_equal(read_mask(path, task), LABELS)


def test_a_predicted_mask_has_the_colours_that_were_declared(tmp_path):
    image = save(tmp_path / "a.jpg", coloured())
    masks = np.stack([LABELS & 1, LABELS >> 1], -1)
    written = write_mask(tmp_path / "m", COLOURS.decode(masks), like=image)
    np.testing.assert_array_equal(np.asarray(Pillow.open(written)), coloured())
    np.testing.assert_array_equal(read_mask(written, COLOURS), LABELS)


@pytest.mark.parametrize(("value", "ending"), [(255, ".bmp"), (300, ".png")])
def test_a_mask_beside_a_bmp_is_a_png_where_its_values_need_16_bits(tmp_path, value, ending):
    image = write_picture(tmp_path / "image.bmp", np.zeros((2, 3, 3), "uint8"))
    task = Task(("a",), values={"a": (value,)})
    masks = np.array([[[True], [False], [True]]] * 2)
    path = write_mask(tmp_path / "mask", task.decode(masks), like=image)
    assert path.suffix == ending
    np.testing.assert_array_equal(read_mask(path, task), masks[..., 0])


def test_colours_survive_a_run_s_settings():
    assert Task(**to_json(COLOURS)) == COLOURS and COLOURS.values["cup"] == ("#ff0000",)


@pytest.mark.parametrize("value", ["#f00", "red", "#gg0000", "#ff00000", "0xff0000"])
def test_what_is_no_colour_is_refused(value):
    with pytest.raises(ValueError, match=r"expected whole numbers .* or colours such as"):
        Task(("cup",), values={"cup": (value,)})


def test_a_mask_with_colours_says_how_to_declare_them(tmp_path):
    path = save(tmp_path / "m.png", coloured())
    with pytest.raises(DataError, match=r"such as \(255, 0, 0\), .* cup=#ff0000"):
        read_mask(path, FUNDUS)


# JPEG

def jpeg(path, values, quality=80):
    Pillow.fromarray(np.asarray(values, "uint8")).resize((320, 240), 0).save(path, quality=quality)
    return path


@pytest.mark.parametrize("quality", [50, 80, 95, 100])
@pytest.mark.parametrize("name", ["m.jpg", "m.JPEG", "m.png"], ids=["jpg", "JPEG", "named png"])
def test_a_jpeg_mask_is_cut_at_half_with_a_word(tmp_path, capsys, name, quality):
    path = jpeg(tmp_path / "m.jpg", INSIDE * 255, quality).rename(tmp_path / name)
    exact = np.asarray(Pillow.fromarray(INSIDE).resize((320, 240), 0))
    assert (read_mask(path, LESION) != exact).mean() < 0.002
    assert len(np.unique(read_mask(path, LESION))) == 2
    image = save(tmp_path / "i.png", np.random.default_rng(0).integers(0, 255, (240, 320)))
    checked(case_table([{"case": "a", "image": image, "mask": path}]), LESION)
    assert "a JPEG mask, expected a lossless format" in capsys.readouterr().err


def test_a_jpeg_mask_of_three_values(tmp_path):
    levels = INSIDE * 128 + (np.hypot(*np.mgrid[-12:12, -16:16]) < 4) * 127
    exact = np.asarray(Pillow.fromarray(levels.astype("uint8")).resize((320, 240), 0))
    labels = read_mask(jpeg(tmp_path / "m.jpg", levels), FUNDUS)
    assert (labels != FUNDUS.encode(exact)).mean() < 0.01


@pytest.mark.parametrize(("values", "task"), [
    (INSIDE * 2 + 3 * (np.mgrid[:24, :32][0] < 5), Task(("a", "b"), values={"a": (3,), "b": (5,)})),
    (INSIDE * 1, LESION),
], ids=["labels 3 and 5", "labels 0 and 1"])
def test_values_that_jpeg_cannot_tell_apart_are_refused(tmp_path, values, task):
    with pytest.raises(DataError, match="a JPEG mask, which blurs the values"):
        read_mask(jpeg(tmp_path / "m.jpg", values), task)


# EXIF, limits, remarks

@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_that_viewers_turn_is_a_warning(tmp_path, ending, turn):
    exif = Pillow.Exif()
    exif[274] = turn
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3))
    path = save(tmp_path / f"a.{ending}", noise, exif=exif)
    problems = validate(case_table([{"case": "a", "image": path}]), LESION)
    found = [(p.severity, p.found) for p in problems]
    assert found == ([] if turn == 1 else [("warning", f"the EXIF orientation {turn}")])


def test_long_remarks_do_not_keep_a_png_from_being_read(tmp_path):
    remarks = PngImagePlugin.PngInfo()
    remarks.add_text("history", "x" * 2_000_000, zip=True)
    array = coloured()
    save(tmp_path / "a.png", array, pnginfo=remarks)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, array)


def test_more_pixels_than_are_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(png((20000, 20000, 8, 0), b""))
    with pytest.raises(DataError, match="more than 178 megapixels .* tiles, or a smaller copy"):
        read_image(tmp_path / "a.png")


def test_a_moving_png_is_refused(tmp_path):
    frames = [Pillow.new("L", (8, 8), i) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="3 pages"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PPM", "JPEG"])
def test_another_format_under_the_name_of_png_is_read_by_its_content(tmp_path, kind):
    grey = np.full((16, 16, 3), 120, "uint8")
    Pillow.fromarray(grey).save(tmp_path / "a", format=kind)
    (tmp_path / "a").rename(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png").array - 120.0).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
def test_every_mode_of_pillow(tmp_path, mode):
    ending = {"CMYK": "jpg", "F": "tif", "I": "tif"}.get(mode, "png")
    value = {"I;16": 1000, "I": 1000, "F": 0.5, "1": 1}.get(mode, 7 if mode in "LP" else None)
    image = Pillow.new(mode, (6, 4), value) if value else Pillow.new(mode, (6, 4))
    image.save(tmp_path / f"a.{ending}")
    array = read_image(tmp_path / f"a.{ending}").array
    assert array.shape[:2] == (4, 6)
    if value and mode != "P":
        assert (array == (255 if mode == "1" else value)).all()


@pytest.mark.parametrize("array", [
    np.zeros((4, 4), "uint32") + 300, np.zeros((4, 4), "int16"), np.zeros((4, 4, 2), "uint8")])
def test_what_a_picture_cannot_hold_is_not_written(tmp_path, array):
    with pytest.raises(ValueError, match="expected uint8"):
        write_picture(tmp_path / "a.png", array)


# Masks that fill their image, and one cause in many files

def tiles(folder, full, count=6):
    rows = []
    for i in range(count):
        image = save(folder / f"i{i}.png", np.random.default_rng(i).integers(0, 255, (24, 32)))
        mask = save(folder / f"m{i}.png", (INSIDE | (i < full)) * 255)
        rows.append({"case": str(i), "image": image, "mask": mask})
    return case_table(rows)


@pytest.mark.parametrize(("full", "severity"), [(1, "warning"), (3, "warning"), (4, "error")])
def test_full_masks_are_an_error_only_where_most_are(tmp_path, full, severity):
    problems = validate(tiles(tmp_path, full), LESION)
    assert [problem.severity for problem in problems] == [severity] * full


def test_one_cause_in_many_files_is_one_message_with_its_remedy(tmp_path):
    cases = tiles(tmp_path, 0, count=12)
    for i, cell in enumerate(cases["mask"]):
        save(cell, INSIDE * (10 + i))
    (tmp_path / "i3.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        checked(cases, LESION)
    first, second = str(caught.value).splitlines()
    assert len(caught.value.problems) == 13 and "i3.png: found an empty file" in second
    assert first.startswith(f"error: 12 files ({tmp_path}/m0.png, ") and "m3.png" not in first
    assert "mask values [10] that the task does not declare in the first" in first
    assert "declare them (--classes name=value,…)" in first
