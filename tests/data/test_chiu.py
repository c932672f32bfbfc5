"""The Chiu data set, as MATLAB files and as PNG folders."""

import os
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from keras_meduda.data import catalog, matlab
from keras_meduda.data.catalog.oct import PUBLISHED_TEST
from keras_meduda.data.checks import validate
from keras_meduda.data.io import DataError, read_image, read_mask, write_picture

SHAPE = (12, 20, 6)
CELLS = np.frompyfunc(lambda n: np.zeros(2), 1, 1)(np.zeros(SHAPE))


def write_subject(path, seed=0, labelled=(1, 4), **changes):
    """A miniature subject: six B-scans, some with a fluid map, of which the first is empty."""
    images = np.random.default_rng(seed).uniform(0, 255, SHAPE)
    fluid = np.full(SHAPE, np.nan)
    for number, scan in enumerate(labelled):
        fluid[..., scan] = 0
        fluid[2:6, 3:9, scan] = 2 * number  # regions are numbered; these are none, 2, 4, …
    content = {"images": images, "manualFluid1": fluid, "manualFluid2": fluid * np.nan} | changes
    savemat(path, {key: value for key, value in content.items() if value is not None})
    return images, fluid


def write_subjects(root, count=2):
    root.mkdir()
    return [write_subject(root / f"Subject_{i + 1:02d}.mat", seed=i) for i in range(count)]


def write_tidy(root, count=110, test=(5, 13)):
    for n in range(count):
        write_picture(root / f"images/img_{n}.png", np.full((4, 4), n, "uint8"))
        write_picture(root / f"masks/img_{n}.png", np.eye(4, dtype="uint8"))
    (root / "splits").mkdir()
    names = {"val": test, "train": sorted(set(range(count)) - set(test))}
    for part, numbers in names.items():
        (root / "splits" / f"{part}.txt").write_text("".join(f"img_{n}\n" for n in numbers))


# MATLAB files


def test_labelled_bscans_become_pictures_of_one_class(tmp_path):
    arrays = write_subjects(tmp_path / "chiu")
    cases, task = catalog.chiu(tmp_path / "chiu", "subject", size=None)
    assert cases["case"].tolist() == ["img_0", "img_1", "img_2", "img_3"]
    assert cases["subject"].tolist() == ["subject_0"] * 2 + ["subject_1"] * 2
    scans = [(images[..., i], fluid[..., i]) for images, fluid in arrays for i in (1, 4)]
    for row, (image, fluid) in zip(cases.itertuples(), scans, strict=True):
        np.testing.assert_array_equal(read_image(row.image).array[..., 0], np.rint(image))
        np.testing.assert_array_equal(read_mask(row.mask, task), fluid > 0.3)
    assert not [p for p in validate(cases, task) if p.severity == "error"]


def test_an_image_without_fluid_is_a_labelled_case(tmp_path):
    write_subjects(tmp_path / "chiu")
    cases, task = catalog.chiu(tmp_path / "chiu", "subject")
    assert not read_mask(cases["mask"].iloc[0], task).any()
    assert read_mask(cases["mask"].iloc[1], task).any()


def test_the_published_size_is_pillows_bicubic(tmp_path):
    from PIL import Image

    ((images, fluid), _) = write_subjects(tmp_path / "chiu")
    cases, task = catalog.chiu(tmp_path / "chiu", "subject")
    grey = Image.fromarray(np.rint(images[..., 4]).astype("uint8"))
    mask = Image.fromarray((fluid[..., 4] > 0.3).astype("uint8"))
    np.testing.assert_array_equal(
        read_image(cases["image"].iloc[1]).array[..., 0], np.asarray(grey.resize((256, 256)))
    )
    np.testing.assert_array_equal(
        read_mask(cases["mask"].iloc[1], task), np.asarray(mask.resize((256, 256)))
    )


def test_pictures_are_written_once_and_said_so(tmp_path, capsys):
    write_subjects(tmp_path / "chiu")
    first, _ = catalog.chiu(tmp_path / "chiu", "subject", cache=tmp_path / "cache")
    assert f"{tmp_path / 'cache'}/256x256: wrote 4 B-scans of 2 files" in capsys.readouterr().out
    again, _ = catalog.chiu(tmp_path / "chiu", "subject", cache=tmp_path / "cache")
    assert capsys.readouterr().out == "" and again.equals(first)


def test_pictures_of_other_files_are_not_taken_for_these(tmp_path):
    """Dates that an archive or `cp -p` keeps are older than the table; a cache may be shared."""
    cache = {"cache": tmp_path / "cache"}
    write_subjects(tmp_path / "chiu")
    write_subject(tmp_path / "Subject_03.mat", seed=2)
    os.utime(tmp_path / "Subject_03.mat", (0, 0))
    assert len(catalog.chiu(tmp_path / "chiu", "subject", **cache)[0]) == 4
    shutil.copy2(tmp_path / "Subject_03.mat", tmp_path / "chiu")
    assert len(catalog.chiu(tmp_path / "chiu", "subject", **cache)[0]) == 6
    assert len(catalog.chiu(tmp_path, "subject", **cache)[0]) == 2


def test_a_conversion_that_was_interrupted_begins_again(tmp_path, monkeypatch):
    write_subjects(tmp_path / "chiu")
    whole, _ = catalog.chiu(tmp_path / "chiu", "subject")
    write_subject(tmp_path / "chiu" / "Subject_03.mat", seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(matlab, "write_cases", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            catalog.chiu(tmp_path / "chiu", "subject")
    (tmp_path / "chiu" / "Subject_03.mat").unlink()
    written = os.stat(whole["image"].iloc[0]).st_mtime_ns
    catalog.chiu(tmp_path / "chiu", "subject")
    assert os.stat(whole["image"].iloc[0]).st_mtime_ns > written


def test_a_pixel_without_a_number_is_background_and_counted(tmp_path, capsys):
    (tmp_path / "chiu").mkdir()
    fluid = np.full(SHAPE, np.nan)
    fluid[:6, :, 2] = 1
    write_subject(tmp_path / "chiu" / "Subject_01.mat", manualFluid1=fluid)
    cases, task = catalog.chiu(tmp_path / "chiu", "subject", size=None)
    np.testing.assert_array_equal(read_mask(cases["mask"].iloc[0], task)[:, 0], [1] * 6 + [0] * 6)
    assert "120 pixels without a number count as background" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"manualFluid1": None},
            "found the keys images, manualFluid2, expected a MATLAB file with",
        ),
        ({"manualFluid1": np.full(SHAPE, np.nan)}, "found manualFluid1 that is NaN everywhere"),
        ({"images": np.zeros((3, 4, 5))}, r"found the shapes \(3, 4, 5\) and \(12, 20, 6\)"),
        ({"manualFluid1": CELLS}, "found manualFluid1 that holds no numbers"),
        ({"images": np.full(SHAPE, 0.9)}, r"found images\(:, :, 2\) without a value above 1"),
        ({"images": np.full(SHAPE, np.nan)}, r"found images\(:, :, 2\) without a value above 1"),
    ],
)
def test_a_file_that_does_not_hold_what_is_needed(tmp_path, changes, message):
    (tmp_path / "chiu").mkdir()
    write_subject(tmp_path / "chiu" / "Subject_01.mat", **changes)
    with pytest.raises(DataError, match=f"Subject_01.mat: {message}"):
        catalog.chiu(tmp_path / "chiu", "subject")
    assert not (tmp_path / "chiu_png").exists()


def test_a_file_that_is_not_matlabs(tmp_path):
    (tmp_path / "Subject_01.mat").write_bytes(b"<html>404</html>" * 20)
    with pytest.raises(DataError, match="Subject_01.mat: found no MATLAB file"):
        catalog.chiu(tmp_path, "subject", cache=tmp_path / "png")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path, kept):
    write_subject(tmp_path / "Subject_01.mat")
    content = (tmp_path / "Subject_01.mat").read_bytes()
    (tmp_path / "Subject_01.mat").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="Subject_01.mat: found"):
        catalog.chiu(tmp_path, "subject", cache=tmp_path / "png")


def test_all_files_are_read_before_a_picture_is_written(tmp_path):
    write_subjects(tmp_path / "chiu", count=3)
    write_subject(tmp_path / "chiu" / "Subject_02.mat", manualFluid1=None)
    (tmp_path / "chiu" / "Subject_03.mat").write_bytes(b"<html>404</html>" * 20)
    with pytest.raises(DataError) as caught:
        catalog.chiu(tmp_path / "chiu", "subject")
    files = [problem.file.name for problem in caught.value.problems]
    assert files == ["Subject_02.mat", "Subject_03.mat"]
    assert not (tmp_path / "chiu_png").exists()


def test_subjects_come_in_the_order_of_their_numbers(tmp_path):
    """B-scans are numbered in the order of the files, and the published split names numbers."""
    for number in range(1, 12):
        images = np.full(SHAPE, 10 * number)
        write_subject(tmp_path / f"Subject_{number}.mat", labelled=(1,), images=images)
    cases, _ = catalog.chiu(tmp_path, "subject", cache=tmp_path / "png", size=None)
    greys = [read_image(image).array.max() for image in cases["image"]]
    assert greys == list(range(10, 120, 10))


def test_the_published_split_knows_110_bscans(tmp_path):
    write_subjects(tmp_path / "chiu")
    with pytest.raises(DataError, match="found 4 labelled B-scans in 2 files, expected 110"):
        catalog.chiu(tmp_path / "chiu")


# PNG folders


def test_the_published_split_leaks_and_the_table_says_by_whom(tmp_path):
    write_tidy(tmp_path)
    cases, task = catalog.chiu(tmp_path)
    test = cases[cases["split"] == "test"]
    assert test["case"].tolist() == ["img_5", "img_13"]
    assert test["subject"].tolist() == ["subject_0", "subject_1"]
    assert set(test["subject"]) <= set(cases.loc[cases["split"] == "train", "subject"])
    assert not [p for p in validate(cases, task) if p.severity == "error"]


def test_subjects_are_left_out_two_by_two(tmp_path):
    write_tidy(tmp_path)
    tested = []
    for fold in range(5):
        cases, task = catalog.chiu(tmp_path, "subject", fold)
        parts = {part: set(rows["subject"]) for part, rows in cases.groupby("split")}
        assert len(parts["test"]) == 2 and not parts["test"] & parts["train"]
        assert (cases["group"] == cases["subject"]).all()
        tested += cases.loc[cases["split"] == "test", "case"].tolist()
    assert sorted(tested) == sorted(cases["case"])


def test_the_lists_of_the_real_data_set_are_those_in_the_code(data_root):
    cases, task = catalog.chiu(data_root / "oct_chiu")
    assert set(cases.loc[cases["split"] == "test", "case"]) == PUBLISHED_TEST
    fluid = {part: [] for part in ("train", "test")}
    for row in cases.itertuples():
        fluid[row.split].append(read_mask(row.mask, task).mean())
    assert [len(v) for v in fluid.values()] == [88, 22]
    assert [np.count_nonzero(v) for v in fluid.values()] == [67, 11]
    np.testing.assert_allclose(
        [100 * np.mean(v) for v in fluid.values()], [0.848, 0.745], atol=5e-4
    )


@pytest.mark.parametrize(("split", "fold"), [("image", 0), ("subject", 5), ("subject", -1)])
def test_a_split_that_is_none(tmp_path, split, fold):
    write_tidy(tmp_path)
    with pytest.raises(ValueError, match=f"chiu: (split='{split}'; expected|fold={fold}; 10 subj)"):
        catalog.chiu(tmp_path, split, fold)


def test_the_published_split_has_no_folds(tmp_path):
    with pytest.raises(ValueError, match="chiu: fold=1; split='published' has no folds"):
        catalog.chiu(tmp_path, fold=1)


def test_lists_that_do_not_fit_the_images(tmp_path):
    write_tidy(tmp_path, count=22)
    with open(tmp_path / "splits/val.txt", "a") as file:
        file.write("img_99\n")
    with pytest.raises(DataError, match="1 cases in images/ or splits/ alone.*img_99"):
        catalog.chiu(tmp_path)
    (tmp_path / "splits/val.txt").unlink()
    with pytest.raises(DataError, match="val.txt: found no such file"):
        catalog.chiu(tmp_path)
    assert len(catalog.chiu(tmp_path, "subject")[0]) == 22  # needs no lists


def test_an_unknown_layout(tmp_path):
    with pytest.raises(DataError, match=r"an empty folder, expected Subject_<n>.mat, or images/"):
        catalog.chiu(tmp_path)
