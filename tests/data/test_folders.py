"""Folders and tables as systems leave them: links, hidden files, accents, long names."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image as Pillow

from keras_meduda.data import catalog
from keras_meduda.data.cases import case_table, read_cases, write_cases
from keras_meduda.data.checks import validate
from keras_meduda.data.files import by_cause, replacing, visible_files
from keras_meduda.data.io import DataError, Problem, read_image, write_mask
from keras_meduda.task import Task

LEFT_BEHIND = ["._p1.png", ".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini", ".hidden.png",
               ".ipynb_checkpoints/p1.png", "__MACOSX/._p1.png", "__MACOSX/p1.png", "@eaDir/p1.png",
               ".git/p1.png", "$RECYCLE.BIN/p1.png"]
NFC, NFD = (unicodedata.normalize(form, "Müller_ñandú") for form in ("NFC", "NFD"))


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# Links

def refuge(root):
    for part in ("Training", "Validation", "Test"):
        touch(root / f"{part}400" / f"{part[0]}1.jpg",
              root / f"{part}400-GT" / "Disc_Cup_Masks" / f"{part[0]}1.bmp")


def drishti(root):
    for part in ("Training", "Test"):
        touch(root / part / "Images" / f"drishtiGS_{len(part)}.png")


def rois(root):
    for part in ("train", "test"):
        touch(*(root / "camera" / part / "ROIs" / kind / "a.png" for kind in ("image", "mask")))


def brats(root):
    touch(*(root / "p1" / f"p1_{kind}.nii.gz" for kind in ("flair", "t1", "seg")))


def rat(root):
    touch(*(root / "study" / "2h" / "7" / f"{kind}.nii" for kind in ("scan", "scan_lesion")))


def mouse(root):
    touch(root / "train_image" / "a.nii", root / "train_mask" / "a_mask.nii")


def plain(root):
    touch(*(root / "clinic" / kind / "a.png" for kind in ("images", "masks")))


LAYOUTS = {
    "refuge": refuge, "drishti_gs": drishti, "fundus_rois": rois, "brats": brats, "ratlesnet": rat,
    "mouse_mcao": mouse, "folders": plain,
}


@pytest.mark.parametrize("level", ["root", "every folder of the root", "the last folders", "files"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_links_are_followed_by_every_reader(tmp_path, name, level):
    LAYOUTS[name](store := tmp_path / "store" / "data")
    (linked := tmp_path / "linked").mkdir()
    root = linked / "data"
    if level == "root":
        root.symlink_to(store)
    for home, folders, files in os.walk(store):
        here = root / os.path.relpath(home, store)
        if level == "every folder of the root" and home == str(store):
            here.mkdir()
            for folder in folders:
                (here / folder).symlink_to(store / folder)
        elif level in ("the last folders", "files") and (folders or level == "files"):
            here.mkdir(exist_ok=True)
            if level == "files":
                for file in files:
                    (here / file).symlink_to(os.path.join(home, file))
        elif level == "the last folders":
            here.symlink_to(home)
    linked, own = (getattr(catalog, name)(folder)[0] for folder in (root, store))
    same = ["case", "domain", "split", "group"]
    assert linked[same].equals(own[same]) and len(own)
    for column in ("image", "mask"):
        assert [os.path.realpath(c.rpartition("=")[2]) for c in linked[column]] == [
            os.path.realpath(c.rpartition("=")[2]) for c in own[column]]


def test_a_link_to_a_folder_above_has_an_end(tmp_path):
    touch(tmp_path / "a" / "b" / "p1.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert [path.name for path in visible_files(tmp_path)] == ["p1.png"]


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "p1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="a link to what is no longer there"):
        read_image(tmp_path / "p1.png")


# What systems leave behind

@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_passed_over(tmp_path, name):
    touch(tmp_path / "plain" / "p1.png", tmp_path / "plain" / name)
    touch(*(tmp_path / "pairs" / kind / "p1.png" for kind in ("images", "masks")))
    touch(*(tmp_path / "pairs" / kind / name for kind in ("images", "masks")))
    touch(tmp_path / "domains" / "a" / "images" / "p1.png")
    touch(tmp_path / "domains" / name.replace("p1.png", "images/p1.png"))
    for root in ("plain", "pairs", "domains"):
        assert catalog.cases_at(tmp_path / root)["case"].tolist() == ["p1"]


# Accents, long names, every script

@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_two_spellings_of_an_accent_are_one_name(tmp_path, image, mask):
    touch(tmp_path / "images" / f"{image}.png", tmp_path / "masks" / f"{mask}.png")
    (case,) = catalog.folders(tmp_path)[0].itertuples()
    assert case.case == NFC and os.path.exists(case.image) and os.path.exists(case.mask)


@pytest.mark.parametrize(("table", "disk"), [(NFC, NFD), (NFD, NFC)])
def test_a_table_may_spell_accents_in_another_way_than_the_disk(tmp_path, table, disk):
    touch(tmp_path / f"{disk}.png")
    (tmp_path / "cases.csv").write_text(f"case,image\n{table},{table}.png\n", encoding="utf-8")
    cases = read_cases(tmp_path / "cases.csv")
    assert cases.loc[0, "case"] == NFC and os.path.exists(cases.loc[0, "image"])


def test_one_case_in_two_spellings_is_named_twice(tmp_path):
    with pytest.raises(DataError, match="twice in domain"):
        case_table([{"case": NFC, "image": "a.png"}, {"case": NFD, "image": "b.png"}])


@pytest.mark.parametrize("name", [
    "a" * 251, "眼底" * 41 + "abcde", "ש" * 125, "ü" * 125, "🫀" * 62, "a b", "a;b", "a,b", "#1",
    "a'b", 'a"b', "100%", "a=b", "-1", "~a", "a.b.c", "(1)", "a&b", "$a", "*", "?"])
def test_names_of_every_script_and_length_are_written(tmp_path, name):
    image = tmp_path / f"{name}.png"
    Pillow.new("L", (6, 4), 9).save(image)
    written = write_mask(tmp_path / "out" / name, np.ones((4, 6), "uint8"), like=image)
    assert written.name == f"{name}.png" and written.exists()
    write_cases(case_table([{"case": name, "image": image, "mask": written}]), tmp_path / "c.csv")
    (case,) = read_cases(tmp_path / "c.csv").itertuples()
    assert (case.case, case.image) == (unicodedata.normalize("NFC", name), str(image))
    assert validate(read_cases(tmp_path / "c.csv"), Task(("a",)))[0].found.startswith("the value 9")


def test_a_temporary_file_keeps_the_ending(tmp_path):
    with replacing(tmp_path / f"{'a' * 248}.nii.gz") as unfinished:
        unfinished.touch()
        assert unfinished.name.endswith(".nii.gz") and len(unfinished.name) < 255


# Tables from spreadsheets

@pytest.mark.parametrize("text", [
    "sep=;\r\ncase;image\r\np1;sub/p1.png\r\n", '"sep=,"\ncase,image\np1,sub/p1.png\n',
    "SEP=|\ncase|image\np1|sub/p1.png\n", "sep=\t\ncase\timage\np1\tsub/p1.png\n",
    "sep=;\ncase;image;;\np1;sub/p1.png;;\n", "\ufeffsep=;\ncase;image\np1;sub/p1.png\n",
    "case,image\np1,sub\\p1.png\n", "case;image\np1;.\\sub\\p1.png\n",
    'case,image\n"p1","sub/p1.png"\n', "case , image \n p1 , sub/p1.png \n",
    "case,image\n\np1,sub/p1.png\n\n", "case,image\r\np1,sub/p1.png"])
@pytest.mark.parametrize("name", ["cases.csv", "CASES.CSV", "cases.txt"])
def test_forms_of_one_table(tmp_path, text, name):
    touch(tmp_path / "sub" / "p1.png")
    (tmp_path / name).write_bytes(text.encode())
    for cases in (read_cases(tmp_path / name), catalog.cases_at(tmp_path / name)):
        assert cases["image"].tolist() == [str(tmp_path / "sub" / "p1.png")]
        assert cases["case"].tolist() == ["p1"]


def test_backslashes_in_masks_of_several_files(tmp_path):
    touch(tmp_path / "m" / "c.png", tmp_path / "m" / "d.png", tmp_path / "a.png")
    (tmp_path / "cases.csv").write_text("case,image,mask\np,a.png,cup=m\\c.png|disc=m\\d.png\n")
    mask = read_cases(tmp_path / "cases.csv").loc[0, "mask"]
    assert mask == f"cup={tmp_path}/m/c.png|disc={tmp_path}/m/d.png"


@pytest.mark.parametrize(("data", "found"), [
    ("case,image\np1,a.png\n".encode("utf-16"), "bytes that are not UTF-8 text"),
    ("case,image\nMüller,a.png\n".encode("latin-1"), "bytes that are not UTF-8 text"),
    (b"PK\x03\x04\x14\x00\xff\xfe", "bytes that are not UTF-8 text"),
    (b"case,image\np1,\0a.png\n", "NUL"), (b"sep=;\n", "the columns (none)"),
    (b"case image\np1 a.png\n", "the columns case image"),
    (b"Case,Image\np1,a.png\n", "the columns Case, Image"),
    (b'case,image\n"p1,a.png\n', "cells in row 1"),
], ids=["UTF-16", "Latin-1", "a spreadsheet", "NUL", "sep alone", "blanks", "capitals", "a quote"])
def test_tables_that_are_none(tmp_path, data, found):
    (tmp_path / "cases.csv").write_bytes(data)
    with pytest.raises((DataError, ValueError)) as caught:
        cases = read_cases(tmp_path / "cases.csv")
        problems = validate(cases, Task(("a",)))
        raise DataError(*problems)
    assert found in str(caught.value) or "NUL" in found and "no such file" in str(caught.value)


# One cause

@pytest.mark.parametrize(("problems", "lines"), [
    ([Problem(f"{i}.png", "no such file", "an image") for i in range(3)], 3),
    ([Problem(f"{i}.png", "no such file", "an image") for i in range(4)], 1),
    ([Problem(f"{i}.png", f"shape ({i}, 4)", f"(5, 5) as in /d/{i}.png") for i in range(9)], 1),
    ([Problem(f"{i}.png", "NaN", "numbers", ["error", "warning"][i % 2]) for i in range(10)], 2),
    ([Problem(f"{i}.png", "abcdefghi"[i], "an image") for i in range(9)], 9),
])
def test_problems_are_told_by_their_cause(problems, lines):
    assert len(by_cause(problems)) == lines
    assert len(str(DataError(*problems)).splitlines()) == lines
