"""Laws of the cache: made once, made anew where a cause changed, never half."""

import os

import pytest

from keras_meduda.data.cache import (
    contents,
    digest,
    made,
    recorded,
    remove_outdated,
    states,
    stored,
)
from keras_meduda.data.io import DataError


def test_a_result_is_made_once_and_anew_for_every_other_cause(tmp_path):
    path, done = tmp_path / "a.txt", []

    def start(of):
        made(path, of, lambda: (done.append(of), path.write_text(str(of))))
        return path.read_text()

    assert [start(of) for of in (1, 1, 2, 1)] == ["1", "1", "2", "1"] and done == [1, 2, 1]


@pytest.mark.parametrize("done", [0, 1])
def test_interrupted_work_stands_for_nothing(tmp_path, done):
    """Whether it is interrupted before or after the result is there; also where it goes back."""
    path = tmp_path / "a.txt"
    made(path, 1, lambda: path.write_text("1"))

    def interrupted():
        if done:
            path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(path, 2, interrupted)
    assert path.exists() == bool(done)
    for of in (2, 1):
        made(path, of, lambda of=of: path.write_text(str(of)))
        assert path.read_text() == str(of)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def write(file):
        file.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        stored(tmp_path, "txt", 1, write)
    assert not list(tmp_path.iterdir())


def test_of_many_results_only_those_of_other_causes_go(tmp_path):
    remove_outdated(tmp_path, {"a": 1, "b": 1})
    for name in "abc":
        (tmp_path / name).touch()
    remove_outdated(tmp_path, {"a": 1, "b": 2})
    assert [(tmp_path / name).exists() for name in "abc"] == [True, False, True]
    assert recorded(tmp_path) == {"a": digest(1), "b": digest(2)}


def test_a_record_of_an_earlier_version_makes_everything_anew(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "made_from.json").write_text('[["Subject_01.mat", 1, 2]]')
    made(tmp_path / "a", 1, lambda: (tmp_path / "a").write_text("anew"))
    assert (tmp_path / "a").read_text() == "anew"


def test_files_are_told_apart_by_state_or_by_content(tmp_path):
    file, copy = tmp_path / "a", tmp_path / "b"
    file.write_text("same")
    copy.write_text("same")
    assert states([file]) != states([copy]) and contents([file]) == contents([copy])
    before = states([file])
    os.utime(file, (1, 1))
    assert states([file]) != before
    file.unlink()
    assert states([file]) == [[str(file)]]
    with pytest.raises(DataError, match="a: found no such file"):
        contents([file])
