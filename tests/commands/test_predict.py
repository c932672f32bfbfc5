"""`meduda predict`: masks in the inputs' own size, and no input written over."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_meduda as km
from keras_meduda.commands import predict
from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import DataError, read_image
from keras_meduda.data.roi import paste, prepare_rois
from keras_meduda.evaluation import postprocess, target_statistics
from keras_meduda.evaluation.confidence import Confidence
from keras_meduda.evaluation.ensemble import load_together


@pytest.fixture
def data(phantoms, tmp_path):
    """A copy of the phantoms, and every byte of it."""
    folder = shutil.copytree(phantoms.parent, tmp_path / "data")
    return folder, contents(folder)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_neither_images_nor_reference_masks_are_written_over(run, data, kind):
    folder, before = data
    cases = km.read_cases(folder / "cases.csv")
    cases = cases.assign(case=[Path(path).stem for path in cases[kind[:-1]]])
    write_cases(cases, folder / "named_alike.csv")
    before[folder / "named_alike.csv"] = (folder / "named_alike.csv").read_bytes()
    out = Path(cases[kind[:-1]].iloc[0]).parent
    images = (folder / "named_alike.csv",) if kind == "masks" else (out,)
    with pytest.raises(ValueError, match="--out: .* such as .*; expected another folder"):
        predict.main(predict.Flags(run=(run.path,), images=images, out=out))
    assert contents(folder) == before


def test_overlays_are_looked_at_too(run, tmp_path):
    images = tmp_path / "out" / "overlays"
    images.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(images / "a.jpg")
    flags = predict.Flags(
        run=(run.path,), images=(images,), out=tmp_path / "out", overlays=True
    )
    with pytest.raises(ValueError, match=r"overlays/a\.jpg"):
        predict.main(flags)
    assert len(contents(tmp_path)) == 1
    flags = replace(flags, overlays=False)
    predict.main(flags)
    assert (tmp_path / "out" / "a.png").exists()


def test_an_earlier_mask_is_replaced_only_when_asked(run, tmp_path):
    image = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(image)
    flags = predict.Flags(run=(run.path,), images=(image,), out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"a reference of another format")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"1 files .* such as .*a\.nii\.gz; .* --overwrite"):
        predict.main(flags)
    assert contents(tmp_path) == before
    flags = replace(flags, overwrite=True)
    for _ in range(2):
        predict.main(flags)
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize(
    "names, message", [(("../a", "b"), "lead out of it"), (("a.png", "a.tif"), "ending alone")]
)
def test_every_case_has_a_mask_of_its_own_in_the_folder(run, phantoms, tmp_path, names, message):
    table = tmp_path / "cases.csv"
    write_cases(km.read_cases(phantoms)[:2].assign(case=names), table)
    flags = predict.Flags(run=(run.path,), images=(table,), out=tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        predict.main(flags)
    assert list(contents(tmp_path)) == [table]


def test_a_file_of_no_format_is_named_beside_good_ones(tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(FileNotFoundError, match="notes.txt: no image files found"):
        predict.cases_of((tmp_path / "a.png", tmp_path / "notes.txt"))
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="no image files found"):
        predict.cases_of((tmp_path / "other",))


def picture(path, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3)).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
    return path


BROKEN = {  # what takes the place of one picture among many, and what is said of it
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:900]), "cannot be decoded"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "text": (lambda path: path.write_text("Dear reader"), "cannot be decoded"),
    "gone": (lambda path: (path.unlink(), path.symlink_to("nowhere.png")), "no longer there"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), None),
    "two channels": (
        lambda path: Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 2))
                                     .astype("uint8")).save(path), "2 channels"),
}


@pytest.mark.parametrize(("spoil", "found"), BROKEN.values(), ids=BROKEN)
def test_one_broken_picture_ends_no_other(run, tmp_path, capsys, spoil, found):
    """A second start goes on: with the broken one alone, and once it is mended to the end."""
    for i in range(12):
        picture(tmp_path / "d" / f"p{i:02}.png", i)
    broken = tmp_path / "d" / "p10.png"
    spoil(broken)
    flags = predict.Flags(
        run=(run.path,), images=(tmp_path / "d",), out=tmp_path / "o", overlays=True
    )
    if found is None:  # a folder is no picture, whatever its name
        predict.main(flags)
        return
    stamps = []
    for count in ("11 masks in", "11 masks in"):
        with pytest.raises(DataError, match=f"p10.png: found .*{found}") as caught:
            predict.main(flags)
        assert len(caught.value.problems) == 1 and count in capsys.readouterr().out
        masks = sorted((tmp_path / "o").glob("*.png"))
        assert [mask.name for mask in masks] == [f"p{i:02}.png" for i in range(12) if i != 10]
        stamps.append([mask.stat().st_mtime_ns for mask in masks])
    assert stamps[0] == stamps[1]
    broken.unlink()
    picture(broken)
    predict.main(flags)
    assert "12 masks in" in (out := capsys.readouterr().out) and "11 of them from before" in out


def test_a_second_start_makes_what_has_changed_only_when_asked(run, tmp_path, capsys):
    for i in range(3):
        picture(tmp_path / "d" / f"p{i}.png", i)
    flags = predict.Flags(run=(run.path,), images=(tmp_path / "d",), out=tmp_path / "o")
    predict.main(flags)
    picture(tmp_path / "d" / "p3.png")
    predict.main(flags)
    assert "4 masks in" in (out := capsys.readouterr().out) and "3 of them from before" in out
    picture(tmp_path / "d" / "p1.png", 9)
    with pytest.raises(ValueError, match="1 files of these names are there, such as .*p1.png"):
        predict.main(flags)
    flags = replace(flags, flips="X")
    with pytest.raises(ValueError, match="4 files of these names are there"):
        predict.main(flags)
    flags = replace(flags, overwrite=True)
    predict.main(flags)
    (tmp_path / "o" / "p2.png").unlink()
    flags = replace(flags, overwrite=False)
    predict.main(flags)
    assert "4 masks in" in (out := capsys.readouterr().out) and "3 of them from before" in out


def stopped(flags, after, monkeypatch):
    """A prediction that Ctrl-C ends after some masks."""
    write, left = predict.write, iter(range(after))

    def until(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predict, "write", until)
        predict.main(flags)


@pytest.fixture
def six(run, tmp_path):
    """Flags of the prediction of six pictures, into the folder o."""
    for i in range(6):
        picture(tmp_path / "d" / f"p{i}.png", i)
    return predict.Flags(run=(run.path,), images=(tmp_path / "d",), out=tmp_path / "o")


def test_statistics_are_those_of_all_images_also_after_an_interruption(six, tmp_path, monkeypatch):
    flags = replace(six, adapt_statistics=True)
    seen = []
    with_target_statistics = target_statistics.with_target_statistics

    def listed(run, images):
        seen.append([Path(image).name for image in images])
        return with_target_statistics(run, images)

    monkeypatch.setattr(target_statistics, "with_target_statistics", listed)
    stopped(flags, 3, monkeypatch)
    predict.main(flags)
    assert seen == [[f"p{i}.png" for i in range(6)]] * 2
    predict.main(flags)
    assert len(seen) == 2, "nothing was left"
    picture(tmp_path / "d" / "p6.png", 6)
    with pytest.raises(ValueError, match="6 files of these names are there"):
        predict.main(flags)


@pytest.mark.parametrize("lost", [False, True])
def test_no_row_of_the_confidence_is_lost(six, tmp_path, monkeypatch, lost):
    """Neither by Ctrl-C nor where the process was killed; masks that are there stay as they are."""
    run = shutil.copytree(six.run[0], tmp_path / "calibrated")
    two = (0.5, 0.5)
    Confidence(("cup", "disc"), two, two, two, two, 0.9, 8, two).save(run)
    flags, table = replace(six, run=(run,), confidence=True), tmp_path / "o" / "confidence.csv"
    stopped(flags, 3, monkeypatch)
    assert pd.read_csv(table)["case"].nunique() == 3
    if lost:
        table.unlink()
        (tmp_path / "o" / "p0.png").write_bytes(b"drawn by hand")
    predict.main(flags)
    assert sorted(pd.read_csv(table)["case"]) == [f"p{i // 2}" for i in range(12)]
    assert not lost or (tmp_path / "o" / "p0.png").read_bytes() == b"drawn by hand"


def test_where_a_mask_is_there_its_overlay_is_too(six, tmp_path, monkeypatch):
    """A second start goes on beside an overlay whose mask was not written."""
    flags = replace(six, overlays=True)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("keras_meduda.data.io.write_mask", stop)
        predict.main(flags)
    assert [path.name for path in (tmp_path / "o" / "overlays").iterdir()] == ["p0.png"]
    predict.main(flags)
    names = [f"p{i}.png" for i in range(6)]
    assert sorted(path.name for path in (tmp_path / "o" / "overlays").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "o").glob("*.png")) == names


def test_names_that_end_like_images_are_found_again(run, tmp_path, capsys):
    """Files are named without that ending, whoever writes or looks for them."""
    for name in ("a", "b"):
        picture(tmp_path / "d" / f"{name}.png")
    (tmp_path / "cases.csv").write_text("case,image\nimg1.png,d/a.png\nimg2.nii.gz,d/b.png\n")
    flags = predict.Flags(
        run=(run.path,), images=(tmp_path / "cases.csv",), out=tmp_path / "o", overlays=True
    )
    predict.main(flags)
    for folder in (tmp_path / "o", tmp_path / "o" / "overlays"):
        assert sorted(path.name for path in folder.glob("*.png")) == ["img1.png", "img2.png"]
    predict.main(flags)
    assert "2 masks in" in (out := capsys.readouterr().out) and "2 of them from before" in out


@pytest.mark.parametrize("name", ["._p1.png", ".p2.png", "Thumbs.db", ".DS_Store", "notes.txt"])
def test_what_systems_leave_behind_is_not_predicted(tmp_path, name):
    picture(tmp_path / "p1.png")
    (tmp_path / name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    assert predict.cases_of((tmp_path,))["case"].tolist() == ["p1"]


def test_a_table_may_end_in_capitals(tmp_path):
    picture(tmp_path / "p1.png")
    (tmp_path / "CASES.CSV").write_text("case,image\np1,p1.png\n")
    assert predict.cases_of((tmp_path / "CASES.CSV",))["case"].tolist() == ["p1"]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_predicted(run, tmp_path):
    picture(tmp_path / "p1.png")
    (tmp_path / "file").touch()
    flags = predict.Flags(
        run=(run.path,), images=(tmp_path / "p1.png",), out=tmp_path / "file" / "out"
    )
    with pytest.raises(OSError, match="file/out cannot be written .*; expected --out FOLDER"):
        predict.main(flags)


def test_pictures_that_viewers_turn_are_a_warning(run, tmp_path, capsys):
    exif = Image.Exif()
    exif[274] = 6
    for i in range(5):
        Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(tmp_path / f"{i}.jpg", exif=exif)
    flags = predict.Flags(run=(run.path,), images=(tmp_path,), out=tmp_path / "o")
    predict.main(flags)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "EXIF" in line]
    assert line.startswith("warning: 5 files (") and "the EXIF orientation 6" in line


def test_names_of_postprocessing(run):
    p = np.random.default_rng(0).random((64, 64, 2))
    masks = run.task.masks(p)
    assert (postprocess.named("none", run.task)(p) == masks).all()
    cleaned = postprocess.named("islands_and_holes", run.task)(p)
    assert (cleaned == postprocess.islands_and_holes(masks)).all()
    assert postprocess.named("beal", run.task) is postprocess.beal
    with pytest.raises(ValueError, match="received 'median', expected one of"):
        postprocess.named("median", run.task)


def test_masks_of_regions_return_to_the_full_picture(run, phantoms, tmp_path):
    cases = km.read_cases(phantoms)[:2]
    regions = prepare_rois(cases, run.task, tmp_path / "rois", scale=1.2)
    flags = predict.Flags(
        run=(run.path,), images=(tmp_path / "rois" / "cases.csv",), out=tmp_path / "masks"
    )
    predict.main(flags)
    for case, region in zip(cases.itertuples(), regions.to_dict("records"), strict=True):
        full = read_image(tmp_path / "masks" / f"{case.case}.png").array[..., 0]
        assert full.shape == read_image(case.image).array.shape[:2]
        inside = run.task.decode(run.task.masks(km.predict(run, region["image"])))
        np.testing.assert_array_equal(full, paste(inside, region))


def test_what_lies_outside_a_region_is_background_whatever_its_value(run, phantoms, tmp_path):
    """In REFUGE's masks 0 is the cup."""
    shutil.copytree(run.path, tmp_path / "dark")
    config = json.loads((run.path / "config.json").read_text())
    config["task"] |= {"values": {"cup": [0], "disc": [0, 128]}, "background": [255]}
    (tmp_path / "dark" / "config.json").write_text(json.dumps(config))
    cases = km.read_cases(phantoms)[:1]
    row = prepare_rois(cases, run.task, tmp_path / "rois", scale=1.2).iloc[0]
    flags = predict.Flags(
        run=(tmp_path / "dark",), images=(tmp_path / "rois" / "cases.csv",), out=tmp_path / "masks"
    )
    predict.main(flags)
    full = read_image(tmp_path / "masks" / f"{row.case}.png").array[..., 0]
    outside = paste(np.zeros(read_image(row.image).array.shape[:2], bool), row, background=True)
    assert outside.any() and (full[outside] == 255).all()


def test_masks_have_the_inputs_size(run, tmp_path, meduda):
    images = tmp_path / "images"
    images.mkdir()
    sizes = {"a.png": (50, 40), "b.jpg": (31, 64), "c.tif": (64, 64)}
    for i, (name, size) in enumerate(sizes.items()):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype="uint8")
        Image.fromarray(noise).save(images / name)
    (images / "notes.txt").write_text("not an image")
    code, _, error = meduda(
        "predict", "--run", run.path, "--images", images, "--out", tmp_path / "masks", "--overlays",
        "--precision", "mixed_bfloat16", "--xla",
    )  # fmt: skip
    assert code == 0, error
    for name, size in {"a.png": (50, 40), "b.png": (31, 64), "c.tif": (64, 64)}.items():
        with Image.open(tmp_path / "masks" / name) as mask:
            assert mask.size == size and set(np.unique(mask)) <= {0, 128, 255}
    assert len(list((tmp_path / "masks" / "overlays").iterdir())) == 3


def test_three_runs_under_flips_vote(run, phantoms, tmp_path, meduda):
    image, out = km.read_cases(phantoms)["image"].iloc[0], tmp_path / "masks"
    runs = [run.path] * 3
    code, _, error = meduda(
        "predict", "--run", *runs, "--flips", "X", "--images", image, "--out", out
    )
    assert code == 0, error
    (file,) = out.glob("*.png")
    voted = km.predict(load_together(runs, "X"), image)
    np.testing.assert_array_equal(Image.open(file), run.task.decode(run.task.masks(voted)))
