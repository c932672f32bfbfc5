"""Cases of a source-free adaptation: who is adapted to, who judges, and who labels a few."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import write_cases
from keras_meduda.data.parts import write_parts
from keras_meduda.experiment import runner
from keras_meduda.recipes import source_free


@pytest.fixture
def cases(phantoms):
    return km.read_cases(phantoms)


@pytest.fixture
def flags(run, cases, tmp_path):
    """A run without cases of its own, and unlabelled images of the other camera."""
    folder = shutil.copytree(run.path, tmp_path / "run")
    images = cases[cases["domain"] == "camera_b"].assign(mask="", split="")
    write_cases(images, tmp_path / "images.csv")
    return source_free.Flags(
        smoke=True, run=folder, images=tmp_path / "images.csv", out=tmp_path / "out"
    )


def table(cases, path):
    write_cases(cases, path)
    return path


def test_labelled_cases_of_the_source_decide_how_far_to_go(flags, cases, tmp_path, capsys):
    judges = table(cases[cases["domain"] == "camera_a"], tmp_path / "judges.csv")
    judged = replace(flags, judge=judges)
    data = source_free.data(judged)
    assert list(data.scored) == ["source, test"] and "source_only" not in data.parts
    assert "Below 8 nothing can be said" in capsys.readouterr().err, "six target images"
    runs = runner.run(source_free.recipe(judged, data), data, judged)
    assert (judged.out / "guarded" / "decision.json").exists()
    assert km.load(judged.out).path == judged.out / "guarded" and "adapted" in runs


def test_without_judges_nothing_is_decided(flags):
    assert "source, test" not in source_free.data(flags).tests


def test_who_trained_the_run_does_not_judge_it(flags, cases, tmp_path):
    own = cases[cases["domain"] == "camera_a"]
    write_parts(flags.run, {"source": own}, {})
    with pytest.raises(ValueError, match="6 of 6 evaluated cases .* Take cases that did not."):
        source_free.data(replace(flags, judge=table(own, tmp_path / "judges.csv")))
    bare = table(own.assign(mask=""), tmp_path / "bare.csv")
    with pytest.raises(ValueError, match="--judge .*bare.csv: 6 cases, 6 of them without a mask"):
        source_free.data(replace(flags, judge=bare))


def test_a_few_labels_end_the_adaptation(flags, cases, tmp_path):
    few = cases[cases["domain"] == "camera_b"].head(4)
    asked = replace(flags, few=table(few, tmp_path / "few.csv"))
    data = source_free.data(asked)
    pd.testing.assert_series_equal(data.parts["few_target"]["case"], few["case"], check_index=False)
    assert (data.parts["target"]["mask"] == "").all()
    tested = pd.concat([few.assign(split="test"), cases[cases["domain"] == "camera_b"].tail(2)])
    scored = replace(asked, images=table(tested, tmp_path / "scored.csv"))
    with pytest.raises(ValueError, match=r"--few .*few.csv: cases \["):
        source_free.data(scored)
