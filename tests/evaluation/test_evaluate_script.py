"""Where `meduda evaluate` writes, and what it says where it cannot."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.commands import evaluate
from keras_meduda.data.cases import without_masks, write_cases
from keras_meduda.data.io import DataError, read_image, write_mask
from keras_meduda.data.parts import read_parts, write_parts
from keras_meduda.evaluation.report import free_name, write_evaluation
from keras_meduda.run.model_card import write_model_card


@pytest.fixture
def flags(run, phantoms, tmp_path):
    """Flags of an evaluation of three cases by a copy of the run."""
    copy = shutil.copytree(run.path, tmp_path / "run")
    return evaluate.Flags(run=(copy,), cases=phantoms, domain="camera_b", split="test")


def test_the_table_comes_before_what_is_written(flags, capsys, tmp_path):
    """The run's folder has no room for it: the scores are not lost, and --out is named."""
    (flags.run[0] / "evaluation").write_text("a file in the way")
    with pytest.raises(OSError, match="The scores above stand, .* expected --out FOLDER"):
        evaluate.main(flags)
    assert "Dice" in capsys.readouterr().out
    flags = replace(flags, out=tmp_path / "elsewhere")
    evaluate.main(flags)
    assert "report: " + str(tmp_path / "elsewhere/evaluation") in capsys.readouterr().out
    (folder,) = (tmp_path / "elsewhere/evaluation").iterdir()
    assert folder.name == "cases_camera_b_test"
    names = {path.name for path in folder.iterdir()}
    assert {"cases.csv", "summary.json", "report.html"} <= names


def test_the_card_of_a_run_has_its_scores(flags, tmp_path):
    """Those of a vote, or written elsewhere, are not its own."""
    folder = flags.run[0]
    evaluate.main(replace(flags, name="without"))
    assert not (folder / "README.md").exists()
    shutil.rmtree(folder / "evaluation")
    assert "Not scored yet" in write_model_card(folder).read_text("utf-8")
    evaluate.main(replace(flags, out=tmp_path / "elsewhere"))
    assert "Not scored yet" in (folder / "README.md").read_text("utf-8")
    evaluate.main(flags)
    assert "| cases_camera_b_test |" in (folder / "README.md").read_text("utf-8")


def test_a_folder_that_cannot_be_written_is_refused_at_once(flags, capsys, tmp_path):
    (tmp_path / "file").touch()
    flags = replace(flags, out=tmp_path / "file" / "out")
    with pytest.raises(OSError, match="cannot be written .*; expected --out FOLDER"):
        evaluate.main(flags)
    assert "Dice" not in capsys.readouterr().out


def test_cases_that_have_trained_the_run_are_told(flags, phantoms, capsys, tmp_path):
    """Whatever they are called and wherever they lie; those kept back are the run's own test."""
    cases = km.read_cases(phantoms)
    source, target = (cases[cases["domain"] == f"camera_{name}"] for name in "ab")
    train, test = (source[source["split"] == part] for part in ("train", "test"))
    tests = {"target, test": target[target["split"] == "test"], "source, test": test}
    write_parts(flags.run[0], {"source": train, "target": without_masks(target[:1])}, tests)
    moved = shutil.copytree(phantoms.parent, tmp_path / "moved")
    table = km.read_cases(moved / "cases.csv").assign(case=lambda t: "x" + t["case"], split="")
    write_cases(table, moved / "cases.csv")

    flags = replace(flags, cases=moved / "cases.csv", domain="camera_a", split=None)
    evaluate.main(flags)
    said = f"{len(train)} of {len(source)} evaluated cases have trained run with their labels"
    assert f"warning: {said}" in capsys.readouterr().err
    page = (flags.run[0] / "evaluation" / "cases_camera_a" / "report.html").read_text("utf-8")
    assert "Look at this first" in page and said in page

    flags = replace(flags, split="test")  # the table names none: the run's own
    evaluate.main(flags)
    assert not capsys.readouterr().err.count("warning")
    flags = replace(flags, cases=None, domain=None, split=None)
    evaluate.main(flags)
    own = pd.read_csv(flags.run[0] / "evaluation" / "cases_test" / "cases.csv")
    assert set(own["case"]) == {case for of in tests.values() for case in of["case"]}
    page = (flags.run[0] / "evaluation" / "cases_test" / "report.html").read_text("utf-8")
    assert "on camera_b, camera_a, test" in page


def test_cases_of_a_first_run_stay_known_where_their_files_are_gone(phantoms, tmp_path):
    """As in an adaptation without the source's images."""
    moved = shutil.copytree(phantoms.parent, tmp_path / "moved")
    cases = km.read_cases(moved / "cases.csv")
    source, target = (cases[cases["domain"] == f"camera_{name}"] for name in "ab")
    write_parts(tmp_path / "first", {"source": source}, {})
    for file in source["image"]:
        Path(file).unlink()
    write_parts(tmp_path / "second", {"target": target}, {}, start=tmp_path / "first")
    first, second = (read_parts(tmp_path / name) for name in ("first", "second"))
    of_source = second[second["part"] == "source"]
    assert of_source["fingerprint"].tolist() == first["fingerprint"].tolist()


def test_masks_of_another_encoding_score_the_same(flags, phantoms, tmp_path):
    """Cup 1 and rim 2 instead of 255 and 128; without --classes such masks are refused."""
    moved = shutil.copytree(phantoms.parent, tmp_path / "recoded")
    for path in (moved / "masks").rglob("*.png"):
        mask = read_image(path).array[..., 0]
        write_mask(path, np.select([mask == 255, mask == 128], [1, 2], 0).astype("uint8"), path)
    recoded = replace(flags, cases=moved / "cases.csv", name="recoded")
    with pytest.raises(DataError, match="mask values"):
        evaluate.main(recoded)
    evaluate.main(replace(recoded, classes=("disc=1,2", "cup=1")))
    evaluate.main(replace(flags, name="before"))
    frames = [
        pd.read_csv(flags.run[0] / "evaluation" / name / "cases.csv").sort_values(["case", "class"])
        for name in ("before", "recoded")
    ]
    np.testing.assert_allclose(*(frame["dice"] for frame in frames), rtol=1e-6)
    with pytest.raises(ValueError, match="The classes cup; expected those of the run: cup, disc"):
        evaluate.main(replace(recoded, classes=("cup=1",)))


def test_another_evaluation_has_another_folder(tmp_path):
    """And the same again its own."""
    frame = pd.DataFrame(
        {"case": ["a"], "group": ["a"], "class": ["cup"], "dice": [1.0],
         "prediction_empty": [False], "reference_empty": [False]}
    )  # fmt: skip
    for of, name in (("1", "cases"), ("2", "cases_2"), ("1", "cases"), ("3", "cases_3")):
        assert free_name(tmp_path, "cases", "", of=of) == name
        write_evaluation(tmp_path, name, frame, of)
