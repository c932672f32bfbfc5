"""Where `meduda evaluate` writes, and what it says where it cannot."""

import shutil

import pytest

from keras_meduda.commands import evaluate


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
    flags.out = tmp_path / "elsewhere"
    evaluate.main(flags)
    assert "report: " + str(tmp_path / "elsewhere/evaluation") in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "elsewhere/evaluation/evaluation").iterdir()}
    assert {"cases.csv", "summary.json", "report.html"} <= names


def test_a_folder_that_cannot_be_written_is_refused_at_once(flags, capsys, tmp_path):
    (tmp_path / "file").touch()
    flags.out = tmp_path / "file" / "out"
    with pytest.raises(OSError, match="cannot be written .*; expected --out FOLDER"):
        evaluate.main(flags)
    assert "Dice" not in capsys.readouterr().out
