"""Every entry of the table in docs/prepare_data.md does what its column says."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image as Pillow
from PIL import PngImagePlugin

from keras_meduda.data import catalog
from keras_meduda.data.boxes import read_boxes
from keras_meduda.data.cases import case_table, read_cases
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask
from keras_meduda.task import Task

sys.path.insert(0, str(Path(__file__).parent))
from test_dicom import PLANES, remove, series, sheared, spoiled, twice  # noqa: E402
from test_pictures import png  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "prepare_data.md"
GREY = np.random.default_rng(0).integers(0, 250, (24, 32)).astype("uint8")
RGB = np.random.default_rng(1).integers(0, 250, (24, 32, 3)).astype("uint8")
INSIDE = np.hypot(*np.mgrid[-12:12, -16:16]) < 8
LESION = Task(("lesion",), values={"lesion": (1, 255)})
TWO = Task(("a", "b"), values={"a": (3,), "b": (5,)})
COLOURS = Task(("a", "b"), values={"a": ("#ff0000",), "b": ("#00ff00",)})
VOLUME = np.random.default_rng(2).integers(0, 900, (6, 7, 8)).astype("int16")


def table():
    """`(format, column, entry)` of the page."""
    lines = PAGE.read_text(encoding="utf-8").split("| format | read |")[1].splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        form, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for column, cell in zip(("read", "warned of", "refused"), cells, strict=True):
            for entry in filter(None, cell.replace("`sep=;`", "`sep=`").split("; ")):
                yield form, column, entry


def save(path, array, **options):
    Pillow.fromarray(np.asarray(array)).save(path, **options)
    return path


def tif(path, array, **options):
    tifffile.imwrite(path, array, **{"photometric": "minisblack"} | options)
    return path


def pyramid(path):
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            level = GREY[:: 2**i, :: 2**i]
            tiff.write(level, photometric="minisblack", subfiletype=int(i > 0))
    return path


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def exif(path):
    tag = Pillow.Exif()
    tag[274] = 6
    return save(path, RGB, exif=tag)


def palette(path, array=GREY):
    image = Pillow.fromarray(np.asarray(array, "uint8"), mode="L")
    image.putpalette([v for i in range(256) for v in (i, 255 - i, 0)])
    image.save(path)
    return path


def reads(path, array=None):
    found = read_image(path).array
    if array is not None:
        np.testing.assert_array_equal(found.squeeze(), np.asarray(array).squeeze())


def masks(path, expected, task=LESION):
    np.testing.assert_array_equal(read_mask(path, task), expected)


def problems(image, mask="", **options):
    return validate(case_table([{"case": "a", "image": image, "mask": mask}]), LESION, **options)


def warns(words, image, mask="", **options):
    (problem,) = problems(image, mask, **options)
    assert problem.severity == "warning" and words in problem.found, problem


def refuses(words, function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert words in str(caught.value) and all(p.expected for p in caught.value.problems)


def errs(words, image, mask="", **options):
    found = problems(image, mask, **options)
    assert [p.severity for p in found] == ["error"] and words in found[0].found, found


def nifti(path, array=VOLUME, affine=None, slope=None, **fields):
    scan = nib.Nifti1Image(array, np.diag([0.5, 0.6, 0.7, 1]) if affine is None else affine)
    nib.save(scan, path)
    if fields or slope:
        data = bytearray(path.read_bytes())
        for name, value in fields.items():
            scan.header[name][...] = value
        head = bytearray(scan.header.structarr.tobytes())
        head[108:112] = data[108:112]  # where the voxels begin
        data[:348] = head
        if slope:
            data[112:120] = np.array([slope, 0], "<f4").tobytes()
        path.write_bytes(bytes(data))
    return path


def whole(path):
    """Labels of a volume, 1 in a corner, and where they are."""
    values = np.zeros(VOLUME.shape)
    values[:3, :3, :3] = 1
    return path, values


def itk(path, array=VOLUME, vector=False, keep=True, direction=None):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=vector)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    if not keep:
        head, _, rest = path.read_bytes().partition(b"\n\n")
        lines = [line for line in head.split(b"\n") if not line.startswith((b"space", b"kinds"))]
        path.write_bytes(b"\n".join(lines) + b"\n\n" + rest)
    return path


def cases(folder, text, name="cases.csv"):
    (folder / "sub").mkdir(exist_ok=True)
    save(folder / "sub" / "p1.png", GREY)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def one(folder, text):
    assert Path(read_cases(cases(folder, text)).loc[0, "image"]).exists()


def boxes(folder, text, **options):
    path = cases(folder, text, "boxes.csv")
    image = case_table([{"case": "p1", "image": folder / "sub" / "p1.png"}])
    return read_boxes(path, cases=image, **options).iloc[0, 1:5].tolist()


def many(folder, full):
    """Six cases of which so many masks are full."""
    rows = []
    for i in range(6):
        mask = save(folder / f"m{i}.png", ((INSIDE | (i < full)) * 255).astype("uint8"))
        rows.append({"case": str(i), "image": save(folder / f"i{i}.png", GREY), "mask": mask})
    return [p.severity for p in validate(case_table(rows), LESION)]


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def remark(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 2_000_000, zip=True)
    return save(path, GREY, pnginfo=text)


def frames(path):
    images = [Pillow.new("L", (8, 8), i) for i in range(3)]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def alpha(channels):
    return np.dstack([RGB[..., :channels - 1], GREY])


TURNED = (0, -1, 0, 1, 0, 0, 0, 0, 1)
EXAMPLES = {
    "PNG": {
        "1, 8 and 16 bits": lambda d: [
            reads(save(d / f"{i}.png", a), np.asarray(a) * (255 if a.dtype == bool else 1))
            for i, a in enumerate([GREY > 9, GREY, GREY.astype("uint16") * 99])],
        "a palette as its colours": lambda d: reads(
            palette(d / "a.png"), np.dstack([GREY, 255 - GREY, GREY * 0])),
        "remarks of any length": lambda d: reads(remark(d / "a.png"), GREY),
        "another format under this name": lambda d: reads(
            save(d / "a.bmp", GREY).rename(d / "a.png"), GREY),
        "an EXIF orientation, which is not applied": lambda d: warns(
            "the EXIF orientation 6", exif(d / "a.png")),
        "a varying alpha beside colours, which is dropped": lambda d: warns(
            "a fourth channel that varies", save(d / "a.png", alpha(4)), channels=3),
        "a varying second channel": lambda d: errs(
            "2 channels", save(d / "a.png", alpha(2)), channels=3),
        "several frames": lambda d: refuses("3 pages", read_image, frames(d / "a.png")),
        "more than 178 megapixels": lambda d: refuses(
            "more than 178 megapixels", read_image,
            [(d / "a.png").write_bytes(png((20000, 20000, 8, 0), b"")), d / "a.png"][1]),
        "truncated data": lambda d: refuses(
            "cannot be decoded", read_image, cut(save(d / "a.png", RGB))),
    },
    "JPEG": {
        "grey and colours": lambda d: [
            reads(save(d / "a.jpg", GREY // 250)), reads(save(d / "a.jpg", RGB))],
        "CMYK as RGB": lambda d: [
            Pillow.new("CMYK", (8, 8)).save(d / "a.jpg"),
            np.testing.assert_equal(read_image(d / "a.jpg").array.shape, (8, 8, 3))],
        "an EXIF orientation, which is not applied": lambda d: warns(
            "the EXIF orientation 6", exif(d / "a.jpg")),
        "truncated data": lambda d: refuses(
            "cannot be decoded", read_image, cut(save(d / "a.jpg", RGB))),
    },
    "BMP": {
        "grey and colours": lambda d: [
            reads(save(d / "a.bmp", array), array) for array in (GREY, RGB)],
        "truncated data": lambda d: refuses(
            "cannot be decoded", read_image, cut(save(d / "a.bmp", RGB))),
    },
    "TIFF": {
        "1 to 64 bits, signed or real, either byte order": lambda d: [
            reads(tif(d / "a.tif", GREY.astype(kind), byteorder=order), GREY)
            for kind in ("uint8", "int16", "uint32", "int64", "float16", "float64")
            for order in "<>"],
        "one to five channels, side by side or in planes": lambda d: [
            (reads(tif(d / "a.tif", a, planarconfig="contig"), a),
             reads(tif(d / "a.tif", np.moveaxis(a, -1, 0), planarconfig="separate"), a))
            for a in (np.stack([GREY.astype("uint16") + i for i in range(n)], -1)
                      for n in (2, 3, 5))],
        "strips, tiles and pyramids": lambda d: [
            reads(tif(d / "a.tif", GREY, **options), GREY)
            for options in ({"rowsperstrip": 5}, {"tile": (16, 16)})]
        + [reads(pyramid(d / "a.tif"), GREY)],
        "common compressions": lambda d: [
            reads(tif(d / "a.tif", GREY, compression=kind), GREY)
            for kind in ("zlib", "lzw", "packbits", "zstd")],
        "white as zero, turned over": lambda d: reads(
            tif(d / "a.tif", GREY, photometric="miniswhite"), 255 - GREY),
        "a palette as its colours": lambda d: reads(
            palette(d / "a.tif"), np.dstack([GREY, 255 - GREY, GREY * 0])),
        "CMYK and YCbCr of 8 bits as RGB": lambda d: [
            (Pillow.fromarray(RGB).convert(mode).save(d / "a.tif"),
             np.testing.assert_allclose(read_image(d / "a.tif").array, RGB, atol=4))
            for mode in ("CMYK", "YCbCr")],
        "several pages": lambda d: refuses(
            "3 pages", read_image, tif(d / "a.tif", np.stack([GREY] * 3))),
        "a turned page": lambda d: refuses(
            "orientation tag 3", read_image,
            tif(d / "a.tif", GREY, extratags=[(274, 3, 1, 3, True)])),
        "complex numbers": lambda d: refuses(
            "complex64", read_image, tif(d / "a.tif", GREY.astype("complex64"))),
        "other colours": lambda d: refuses(
            "CIELAB", read_image, tif(d / "a.tif", RGB, photometric="cielab")),
        "strips without data": lambda d: refuses(
            "empty or not all there", read_image,
            cut(tif(d / "a.tif", GREY, compression="jpeg", rowsperstrip=8), 0.9)),
        "truncated data": lambda d: refuses(
            "cannot be decoded", read_image, cut(tif(d / "a.tif", GREY))),
    },
    "mask picture": {
        "grey values": lambda d: masks(save(d / "m.png", INSIDE * np.uint8(255)), INSIDE),
        "equal channels": lambda d: masks(
            save(d / "m.png", np.dstack([INSIDE * np.uint8(255)] * 3)), INSIDE),
        "indices of a palette": lambda d: masks(palette(d / "m.png", INSIDE), INSIDE),
        "alpha alone": lambda d: masks(
            save(d / "m.png", np.dstack([INSIDE * 0, INSIDE * 255]).astype("uint8")), INSIDE),
        "declared colours": lambda d: masks(
            save(d / "m.png", (INSIDE[..., None] * (255, 0, 0)).astype("uint8")), INSIDE, COLOURS),
        "a JPEG, whose values count as the nearest declared ones": lambda d: warns(
            "a JPEG mask", save(d / "a.png", GREY),
            save(d / "m.jpg", INSIDE * np.uint8(255), quality=60)),
        "single masks that fill their image": lambda d: np.testing.assert_equal(
            many(d, 2), ["warning"] * 2),
        "undeclared values": lambda d: refuses(
            "mask values [7]", read_mask, save(d / "m.png", INSIDE * np.uint8(7)), LESION),
        "undeclared colours": lambda d: refuses(
            "a mask with colours", read_mask, save(d / "m.png", RGB), LESION),
        "values under transparent pixels": lambda d: refuses(
            "transparent pixels have values", read_mask,
            save(d / "m.png", np.dstack([INSIDE * 255, ~INSIDE * 255]).astype("uint8")), LESION),
        "JPEG of values less than 32 apart": lambda d: refuses(
            "which blurs the values", read_mask,
            save(d / "m.jpg", (INSIDE * 3 + np.roll(INSIDE, 4)).astype("uint8")), TWO),
        "white as zero": lambda d: refuses(
            "white-is-zero", read_mask,
            tif(d / "m.tif", INSIDE * np.uint8(1), photometric="miniswhite"), LESION),
        "five channels": lambda d: refuses(
            "a mask of 5 channels", read_mask,
            tif(d / "m.tif", np.dstack([GREY] * 5), planarconfig="contig"), LESION),
        "most masks that fill their image": lambda d: np.testing.assert_equal(
            many(d, 5), ["error"] * 5),
    },
    "NIfTI": {
        "mm, metres and micrometres": lambda d: [
            np.testing.assert_allclose(read_image(nifti(
                d / "a.nii", affine=np.diag([mm, mm, mm, 1]), xyzt_units=unit)).spacing, 1)
            for mm, unit in ((1, 2), (0.001, 1), (1000, 3))],
        "sform, or qform where that spans no space": lambda d: reads(nifti(
            d / "a.nii", affine=np.eye(4), qform_code=1, srow_x=0), VOLUME),
        "quaternions rounded to above one": lambda d: reads(nifti(
            d / "a.nii", qform_code=1, sform_code=0, quatern_b=1 + 1e-6), VOLUME[:, ::-1, ::-1]),
        "labels behind a scaling, or within 0.001 of a whole number": lambda d: [
            masks(nifti(*whole(d / "a.nii"), slope=None), whole(None)[1]),
            masks(nifti(d / "a.nii", whole(None)[1].astype("float32") * 0.9995), whole(None)[1]),
            masks(nifti(d / "a.nii", (whole(None)[1] * 64).astype("uint8"), slope=4 / 255),
                  whole(None)[1])],
        "NaN, where it is declared background": lambda d: np.testing.assert_equal(problems(nifti(
            d / "a.nii", np.where(VOLUME > 99, VOLUME, np.nan).astype("float32")),
            nan_background=True), []),
        "a field of view below 2 or above 1,000 mm": lambda d: [
            warns("a field of view", nifti(d / "a.nii", affine=np.diag([mm, mm, mm, 1])))
            for mm in (0.01, 200)],
        "voxels that are resampled more than tenfold": lambda d: warns(
            "voxels of", nifti(d / "a.nii"), spacing=(6, 6, 6)),
        "NaN": lambda d: errs("NaN", nifti(
            d / "a.nii", np.where(VOLUME > 99, VOLUME, np.nan).astype("float32"))),
        "several frames": lambda d: refuses(
            "(6, 7, 8, 2)", read_image, nifti(d / "a.nii", np.stack([VOLUME] * 2, -1))),
        "complex numbers": lambda d: refuses(
            "complex64", read_image, nifti(d / "a.nii", VOLUME.astype("complex64"))),
        "no distances": lambda d: refuses(
            "in the header", read_image, nifti(d / "a.nii", srow_x=0)),
        "bytes left over": lambda d: refuses(
            "bytes left over", read_image,
            [nifti(d / "a.nii"), open(d / "a.nii", "ab").write(b"!"), d / "a.nii"][2]),
        "truncated data": lambda d: refuses("cannot be decoded", read_image, cut(nifti(
            d / "a.nii"))),
    },
    "NRRD, MHA, MHD": {
        "every orientation": lambda d: [
            reads(itk(d / f"a.{ending}", direction=TURNED),
                  read_image(itk(d / "a.nii", direction=TURNED)).array)
            for ending in ("nrrd", "mha", "mhd")],
        "several numbers a voxel": lambda d: refuses(
            "3 numbers a voxel", read_image,
            itk(d / "a.nrrd", np.zeros((3, 4, 5, 6), "float32"), vector=True)),
        "four axes": lambda d: refuses(
            "a volume of shape", read_image, itk(d / "a.mha", np.zeros((3, 4, 5, 2), "float32"))),
        "no distances": lambda d: refuses(
            "no distances", read_image, itk(d / "a.nrrd", keep=False)),
        "truncated data": lambda d: refuses("cannot be dec", read_image, cut(itk(d / "a.mha"))),
    },
    "DICOM": {
        "a series, by its folder or one of its files": lambda d: reads(
            series(d / "s"), read_image(next((d / "s").iterdir())).array),
        "oblique planes": lambda d: [reads(series(d / plane, plane)) for plane in PLANES],
        "slope and intercept": lambda d: np.testing.assert_equal(
            read_image(series(d / "s")).array.min() < -900, True),
        "a missing slice": lambda d: refuses(
            "a slice is missing?", read_image, remove(series(d / "s"), 2)),
        "two slices in one place": lambda d: refuses(
            "in the same position", read_image, series(d / "s", change=twice)),
        "several series": lambda d: refuses(
            "2 DICOM series", read_image, [series(d / "s", names="a{}"),
                                           series(d / "s", names="b{}")][0]),
        "a tilted gantry": lambda d: refuses(
            "a tilted gantry", read_image, series(d / "s", change=sheared)),
        "colour": lambda d: refuses(
            "in colour", read_image, series(d / "s", change=spoiled(SamplesPerPixel=3))),
        "several frames": lambda d: refuses(
            "2 frames", read_image, series(d / "s", change=spoiled(NumberOfFrames=2))),
        "inverted greys": lambda d: refuses(
            "MONOCHROME1", read_image,
            series(d / "s", change=spoiled(PhotometricInterpretation="MONOCHROME1"))),
        "no place in space": lambda d: refuses(
            "without a place", read_image,
            series(d / "s", change=spoiled(ImagePositionPatient=None))),
    },
    "case table": {
        "commas, semicolons and tabs": lambda d: [
            one(d, f"case{sign}image\np1{sign}sub/p1.png\n") for sign in ",;\t"],
        "a line `sep=`": lambda d: one(d, "sep=;\r\ncase;image\r\np1;sub/p1.png\r\n"),
        "a byte order mark": lambda d: one(d, "\ufeffcase,image\np1,sub/p1.png\n"),
        "backslashes": lambda d: one(d, "case,image\np1,sub\\p1.png\n"),
        "accents as one sign or two": lambda d: [
            (save(d / f"{b}.png", GREY), one(d, f"case,image\np1,{a}.png\n"))
            for a, b in (("\u00e9", "e\u0301"), ("o\u0308", "\u00f6"))],
        "other encodings than UTF-8": lambda d: refuses(
            "not UTF-8", read_cases, cases(d, "case,image\né,sub/p1.png\n".encode("latin-1"))),
        "a row of another length": lambda d: refuses(
            "3 cells in row 1", read_cases, cases(d, "case,image\np1,sub/p1.png,x\n")),
        "a missing column": lambda d: refuses(
            "the columns case", read_cases, cases(d, "case,mask\np1,sub/p1.png\n")),
        "one case twice": lambda d: refuses(
            "twice in domain", read_cases, cases(d, "case,image\np,sub/p1.png\np,sub/p1.png\n")),
    },
    "folder": {
        "links": lambda d: [
            files(d / "store", "images/a.png"), (d / "data").mkdir(),
            (d / "data" / "clinic").symlink_to(d / "store"),
            np.testing.assert_equal(len(catalog.folders(d / "data")[0]), 1)],
        "hidden files and those of systems, passed over": lambda d: np.testing.assert_equal(
            catalog.folders(files(d, "images/a.png", "images/._a.png", "images/Thumbs.db"))[0]
            ["case"].tolist(), ["a"]),
        "names of 255 bytes": lambda d: reads(save(d / f"{'ü' * 125}a.png", GREY), GREY),
        "a link to nothing": lambda d: refuses(
            "no longer there", read_image,
            [(d / "a.png").symlink_to(d / "b.png"), d / "a.png"][1]),
        "a mask without an image": lambda d: refuses(
            "1 masks without an image", catalog.folders,
            files(d, "images/a.png", "masks/a.png", "masks/b.png")),
        "two files of one name": lambda d: refuses(
            "a second file named", catalog.folders, files(d, "images/a.png", "images/a.jpg")),
    },
    "box table": {
        "corners, `x, y, width, height`, or centre and size": lambda d: [
            np.testing.assert_equal(boxes(d, text, form=form), [8, 6, 24, 18])
            for form, text in (("corners", "case,x0,y0,x1,y1\np1,8,6,24,18\n"),
                               ("xywh", "case,x,y,width,height\np1,8,6,16,12\n"),
                               ("centre", "case,xc,yc,width,height\np1,16,12,16,12\n"))],
        "pixels or shares": lambda d: np.testing.assert_equal(
            boxes(d, "case,x0,y0,x1,y1\np1,0.25,0.25,0.75,0.75\n", unit="share"), [8, 6, 24, 18]),
        "shares that nobody declared": lambda d: refuses(
            "the box 0.25", boxes, d, "case,x0,y0,x1,y1\np1,0.25,0.25,0.75,0.75\n"),
        "shares beyond the image": lambda d: refuses(
            "the box 8", lambda: boxes(d, "case,x0,y0,x1,y1\np1,8,6,24,18\n", unit="share")),
        "an empty box": lambda d: refuses(
            "the box 8 6 8 18", boxes, d, "case,x0,y0,x1,y1\np1,8,6,8,18\n"),
    },
}
ENTRIES = list(table())


def test_the_page_and_the_examples_name_the_same():
    assert [(form, entry) for form, _, entry in ENTRIES] == [
        (form, entry) for form, examples in EXAMPLES.items() for entry in examples]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("form", "column", "entry"), ENTRIES, ids=[" - ".join(e) for e in ENTRIES])
def test_an_entry_holds(tmp_path, form, column, entry):
    EXAMPLES[form][entry](tmp_path)
