"""Laws of the case table: tables round-trip, splits tear no group, every fault is listed."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from keras_meduda.data.cases import (
    COLUMNS,
    case_table,
    read_cases,
    split_cases,
    split_or_given,
    without_masks,
    write_cases,
)
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.task import Task

FUNDUS = Task(classes=("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
RNG = np.random.default_rng(0)


def table(path, text):
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("text", [
    "case,image,mask\nA 1,i/a.png,cup=m/c.png|disc=/abs/d.png\n",
    "case;image;mask\r\nA 1;i/a.png;cup=m/c.png|disc=/abs/d.png\r\n",
    "\ufeffcase;image;mask\n A 1 ; i/a.png ;cup=m/c.png|disc=/abs/d.png\n\n",
    "case\timage\tmask\nA 1\ti/a.png\tcup=m/c.png|disc=/abs/d.png\n",
    "case,image,mask,,\nA 1,i/a.png,cup=m/c.png|disc=/abs/d.png,,\n,,,,\n",
], ids=["commas", "semicolons", "Excel", "tabs", "empty columns"])
def test_a_table_is_read_with_absolute_paths_and_defaults(tmp_path, text):
    cases = read_cases(table(tmp_path / "cases.csv", text))
    assert cases.to_dict("records") == [{
        "case": "A 1", "domain": "unknown", "split": "", "group": "A 1",
        "image": f"{tmp_path}/i/a.png", "mask": f"cup={tmp_path}/m/c.png|disc=/abs/d.png"}]


def test_reading_undoes_writing_wherever_the_table_stands(tmp_path):
    cases = case_table([
        {"case": "a", "domain": "zeiss", "image": tmp_path / "i" / "a.nii.gz", "age": 61},
        {"case": "a", "domain": "canon", "image": f"{tmp_path}/f.png|{tmp_path}/t.png",
         "mask": f"cup={tmp_path}/c.png|disc={tmp_path}/d.png", "group": "p1", "split": "test"}])
    write_cases(cases, tmp_path / "deep" / "down" / "cases.csv")
    again = read_cases(tmp_path / "deep" / "down" / "cases.csv")
    assert again.to_dict("records") == cases.to_dict("records")
    assert list(again.columns) == [*COLUMNS, "age"]
    assert str(tmp_path) not in (tmp_path / "deep" / "down" / "cases.csv").read_text()


def test_a_folder_that_looks_like_a_class_is_a_folder(tmp_path):
    """Folders such as `fold=1` are common where tables are partitioned."""
    mask = f"{tmp_path}/fold=1/m.png"
    write_cases(case_table([{"case": "a", "image": "a.png", "mask": mask}]), tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv").loc[0, "mask"] == mask


def many(domains=("a", "b"), groups=20):
    """Groups of one to three cases."""
    return case_table([
        {"case": f"{g}-{i}", "group": f"g{g}", "domain": domain, "image": f"{domain}{g}{i}.png"}
        for domain in domains for g in range(groups) for i in range(1 + g % 3)])


@pytest.mark.parametrize("seed", range(5))
def test_a_split_tears_no_group_and_keeps_shares_in_every_domain(seed):
    cases = split_cases(many(), {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    assert (cases.groupby(["domain", "group"])["split"].nunique() == 1).all()
    share = cases.groupby("domain")["split"].value_counts(normalize=True).unstack()
    assert np.allclose(share[["train", "val", "test"]], [0.6, 0.2, 0.2], atol=0.08)


def test_a_split_depends_on_the_seed_alone():
    whole = split_cases(many(), {"train": 1, "test": 1})
    shuffled = split_cases(many().sample(frac=1, random_state=3), {"train": 1, "test": 1})
    pd.testing.assert_frame_equal(shuffled.sort_index(), whole)
    alone = split_cases(many(domains=("b",)), {"train": 1, "test": 1})
    assert alone["split"].tolist() == whole.loc[whole["domain"] == "b", "split"].tolist()
    assert split_cases(many(), {"train": 1, "test": 1}, seed=1)["split"].ne(whole["split"]).any()


def test_contrasts_of_a_patient_are_on_one_side_of_a_split_that_is_made():
    parts = split_or_given(many(), {"train": 0.8, "test": 0.2})
    assert (parts.groupby("group")["split"].nunique() == 1).all()
    assert set(parts["split"]) == {"train", "test"}


def test_shares_of_single_cases_are_exact():
    cases = case_table([{"case": str(i), "image": "a.png"} for i in range(321)])
    counts = split_cases(cases, {"train": 220, "test": 101})["split"].value_counts()
    assert counts.to_dict() == {"train": 220, "test": 101}


@pytest.mark.parametrize(("text", "found", "expected"), [
    ("case,mask\na,b.png\n", "the columns case, mask", "with the columns case, image"),
    ("", "the columns (none)", "with the columns case, image"),
    ("case,image,case\na,b,c\n", "the columns case, image, case", "a CSV file in UTF-8"),
    (b"\x89PNG\r\n\x1a\n", "bytes that are not UTF-8 text", "a CSV file in UTF-8"),
    ("case,image\na,b.png,c.png\n", "3 cells in row 1", "2, as in the header"),
    ("case,image\na,a.png\na,b.png\n", "case 'a' twice in domain 'unknown'", "one row a case"),
    ("case,image\n,a.png\n", "row 1 without case", "a value in every row"),
    ("case,image\na,\n", "row 1 without image", "a value in every row"),
])
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, found, expected):
    path = table(tmp_path / "cases.csv", text)
    with pytest.raises(DataError) as caught:
        read_cases(path)
    (problem,) = caught.value.problems
    assert found in problem.found and expected in problem.expected and problem.file == path


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match="no.csv: found no such file or directory, expected a CSV"):
        read_cases(tmp_path / "no.csv")


# Validation. A sound case first, then one fault at a time.

def photograph():
    return RNG.integers(0, 255, (20, 24, 3)).astype("uint8")


def mask(cup=4, disc=8):
    values = np.zeros((20, 24), "uint8")
    values[4:4 + disc, 4:4 + disc] = 128
    values[4:4 + cup, 4:4 + cup] = 255
    return values


@pytest.fixture
def cases(tmp_path):
    """Two sound cases."""
    for name in "ab":
        write_picture(tmp_path / f"{name}.png", photograph())
        write_picture(tmp_path / f"{name}_mask.png", mask())
    return case_table([{"case": name, "image": tmp_path / f"{name}.png",
                        "mask": tmp_path / f"{name}_mask.png"} for name in "ab"])


def test_sound_cases_have_no_problems(cases):
    assert validate(cases, FUNDUS, channels=3) == []


def class_files(path, cup, disc):
    write_picture(path / "c.png", cup.astype("uint8") * 255)
    write_picture(path / "d.png", disc.astype("uint8") * 255)
    return f"cup={path}/c.png|disc={path}/d.png"


def nan_tiff(path):
    array = np.ones((20, 24), "float32")
    array[3, 3], array[4, 4] = np.nan, 2
    Pillow.fromarray(array).save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


FAULTS = {  # what is done to the files of case a, or to its cells; severity; found; expected
    "missing image": (lambda d, c: os.remove(d / "a.png"), "error", "no such file", "an image"),
    "missing mask": (lambda d, c: os.remove(d / "a_mask.png"), "error", "no such file", "an image"),
    "truncated": (lambda d, c: truncate(d / "a.png"), "error", "cannot be decoded", "a complete"),
    "mask of another shape": (
        lambda d, c: write_picture(d / "a_mask.png", mask()[1:]),
        "error", "a mask of shape (19, 24)", "(20, 24), the shape of"),
    "undeclared values": (
        lambda d, c: write_picture(d / "a_mask.png", mask() + 1),
        "error", "mask values [1, 129]", "background (0,)"),
    "inverted": (
        lambda d, c: write_picture(d / "a_mask.png", np.where(mask(), 0, 255).astype("uint8")),
        "warning", "classes on 100% of its border: an inverted mask?", "background"),
    "all foreground": (
        lambda d, c: write_picture(d / "a_mask.png", np.full((20, 24), 255, "uint8")),
        "warning", "classes on 100% of the image: an inverted mask?", "background"),
    "cup outside its disc": (
        lambda d, c: c.__setitem__("mask", class_files(d, mask() == 255, np.roll(mask(), 2) > 0)),
        "warning", "8 px of cup outside disc", "every cup within its disc"),
    "black image": (
        lambda d, c: write_picture(d / "a.png", photograph() * 0),
        "warning", "the value 0 everywhere", "contrast"),
    "NaN": (lambda d, c: (nan_tiff(d / "a.tif"), c.__setitem__("image", f"{d}/a.tif")),
            "error", "NaN or infinite values", "finite numbers"),
    "two contrasts": (
        lambda d, c: c.__setitem__("image", "|".join(
            str(write_picture(d / f"{i}.png", photograph()[..., :1])) for i in range(2))),
        "error", "2 channels", "3"),
    "five contrasts": (
        lambda d, c: c.__setitem__("image", "|".join(
            str(write_picture(d / f"{i}.png", photograph()[..., :1])) for i in range(5))),
        "error", "5 channels", "3"),
}


@pytest.mark.parametrize(("spoil", "severity", "found", "expected"), FAULTS.values(), ids=FAULTS)
def test_every_fault_is_found_and_named(tmp_path, cases, spoil, severity, found, expected):
    cells = cases.iloc[0].to_dict()
    spoil(tmp_path, cells)
    cases.loc[0, list(cells)] = list(cells.values())
    (problem,) = validate(cases, FUNDUS, channels=3)
    assert found in problem.found and expected in problem.expected
    assert problem.severity == severity and str(tmp_path) in str(problem.file)


def test_all_problems_are_reported_together(tmp_path, cases):
    os.remove(tmp_path / "a.png")
    truncate(tmp_path / "b.png")
    os.remove(tmp_path / "b_mask.png")
    problems = validate(cases, FUNDUS)
    assert [problem.file.name for problem in problems] == ["a.png", "b.png", "b_mask.png"]


def test_an_empty_table_is_a_problem():
    (problem,) = validate(case_table([]), FUNDUS)
    assert (problem.found, problem.expected) == ("0 cases", "at least one")


def test_a_group_in_two_splits_of_a_domain_is_a_problem(cases):
    cases = cases.assign(group="patient 7", split=["train", "test"])
    (problem,) = validate(cases, FUNDUS)
    assert problem.found == "group 'patient 7' of domain 'unknown' in test and train"
    assert problem.expected == "a group in one split alone"
    assert validate(cases.assign(domain=["zeiss", "canon"]), FUNDUS) == []


def test_an_image_that_is_its_own_mask_is_a_problem(cases):
    problems = validate(cases.assign(mask=cases["image"]), FUNDUS)
    assert "the same file as image and mask" in {problem.found for problem in problems}


def test_labels_that_may_not_be_read_are_not_opened(tmp_path, cases):
    (tmp_path / "a_mask.png").write_text("unreadable on purpose")
    assert validate(cases, FUNDUS, read_masks=[False, True]) == []
    assert validate(without_masks(cases), FUNDUS) == []
    assert (cases["mask"] != "").all()  # a copy was blanked


def test_a_class_in_no_mask_is_a_warning(cases):
    overlapping = {**FUNDUS.values, "vessel": (77,)}
    exclusive = {"rim": (128,), "cup": (255,), "vessel": (77,)}
    for classes, overlap in (overlapping, True), (exclusive, False):
        task = Task(tuple(classes), overlap, classes)
        (problem,) = validate(cases, task)
        assert problem.found == "vessel in none of 2 masks" and problem.severity == "warning"
        assert validate(without_masks(cases), task) == []


def test_labelled_rows_without_any_mask_are_a_problem(cases):
    (problem,) = validate(without_masks(cases), FUNDUS, read_masks=[True, False])
    assert problem.found.startswith("no mask in 1 of 1 labelled rows (")
    assert problem.expected == "a mask in each of them"
