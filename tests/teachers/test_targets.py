"""A table of targets: nothing is done twice, nothing damaged is believed."""

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.teachers import targets
from keras_meduda.teachers.targets import (
    Failure,
    Target,
    Teacher,
    make_targets,
    merge,
    open_targets,
    read_target,
    self_agreement,
)

BOXES = {f"c{i}": np.array([[2, 3, 9, 8]], "float32") for i in range(4)}


@pytest.fixture
def cases(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        image = rng.integers(0, 256, (12, 16)).astype("uint8")
        rows.append({"case": f"c{i}", "image": write_picture(tmp_path / f"{i}.png", image)})
    return case_table(rows)


class Counting:
    """A teacher that counts its pupils."""

    def __init__(self):
        self.seen = 0

    def __call__(self, image, boxes):
        self.seen += 1
        p = image[..., 0] / 255.0
        return merge(p[None], [self_agreement(p)], p.shape, np.ones((3, 4, 5)))


def teacher(teach, version="1"):
    return Teacher("counting", version, teach)


def test_what_is_written_comes_back(cases, tmp_path):
    teach = Counting()
    done = make_targets(tmp_path / "t.csv", cases, teacher(teach), BOXES)
    assert done["status"].tolist() == ["done"] * 4 and teach.seen == 4
    image = targets.read_image(cases["image"][1]).array
    found, expected = read_target(open_targets(tmp_path / "t.csv"), "c1"), teach(image, None)
    assert found.probability.dtype == found.embedding.dtype == "float16"
    np.testing.assert_allclose(found.probability, expected.probability, atol=5e-4)
    assert found.variance == expected.variance
    assert found.embedding.shape == (3, 4, 5) and found.boxes.tolist() == [[2, 3, 9, 8]]


def test_a_second_start_does_nothing_and_a_change_is_done_anew(cases, tmp_path):
    teach, path = Counting(), tmp_path / "t.csv"

    def start(version="1", boxes=BOXES):
        before = teach.seen
        make_targets(path, cases, teacher(teach, version), boxes)
        return teach.seen - before

    assert (start(), start()) == (4, 0)
    write_picture(cases["image"][2], np.full((12, 16), 9, "uint8"))
    assert (start(), start()) == (1, 0)
    moved = {**BOXES, "c0": BOXES["c0"] + 1}
    assert (start(boxes=moved), start(boxes=moved)) == (1, 0)
    assert (start(version="2", boxes=moved), start(version="2", boxes=moved)) == (4, 0)


def test_an_interrupted_run_goes_on_where_it_stopped(cases, tmp_path):
    """Killed outright after two cases, in a process of its own."""
    script = f"""
import os, signal
import numpy as np
import test_targets as t
from keras_meduda.data.cases import read_cases
teach = t.Counting()
def killed(image, boxes):
    if teach.seen == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return teach(image, boxes)
t.make_targets({str(tmp_path / "t.csv")!r}, read_cases({str(tmp_path / "cases.csv")!r}),
               t.teacher(killed), t.BOXES)
"""
    cases.to_csv(tmp_path / "cases.csv", index=False)
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": here})
    assert done.returncode == -signal.SIGKILL
    teach = Counting()
    make_targets(tmp_path / "t.csv", cases, teacher(teach), BOXES)
    assert teach.seen == 2


def stored(path, case, kind):
    """The file of a case, `.target` or `.features`."""
    return Path(open_targets(path)["target"][case]).with_suffix(kind)


@pytest.mark.parametrize("kind", [".target", ".features"])
@pytest.mark.parametrize("kept", [None, 0.0, 0.5])
def test_damage_is_noticed_and_only_that_case_is_made_anew(cases, tmp_path, capsys, kind, kept):
    """A flipped byte, an empty file, half a file."""
    path, teach = tmp_path / "t.csv", Counting()
    make_targets(path, cases, teacher(teach), BOXES)
    expected, file = content(path, cases), stored(path, "c2", kind)
    damaged = bytearray(file.read_bytes())
    damaged[60] ^= 0xFF
    file.write_bytes(damaged if kept is None else damaged[: int(kept * len(damaged))])
    with pytest.raises(DataError, match="missing or damaged data of 'c2'.*makes this case anew"):
        read_target(open_targets(path), "c2")
    read_target(open_targets(path), "c1")
    teach.seen = 0
    make_targets(path, cases, teacher(teach), BOXES)
    assert teach.seen == 1 and content(path, cases) == expected
    assert "damaged and made anew, the target of 'c2'" in capsys.readouterr().out


def content(path, cases):
    """Everything that is stored, as bytes, but for the seconds that it took."""
    targets = {case: read_target(open_targets(path), case) for case in cases["case"]}
    assert all(target.seconds > 0 for target in targets.values())
    return {
        case: {n: np.asarray(v).tobytes() for n, v in vars(target).items() if n != "seconds"}
        for case, target in targets.items()
    }


def test_wherever_a_byte_flips_nothing_else_is_believed(cases, tmp_path):
    """What the archive has no checksum of, such as times and names, may flip unseen."""
    path, cases = tmp_path / "t.csv", cases[:1]
    make_targets(path, cases, teacher(Counting()), BOXES)
    expected, file = content(path, cases), stored(path, "c0", ".target")
    whole, noticed = file.read_bytes(), 0
    for place in range(0, len(whole), 23):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert content(path, cases) == expected
        except DataError:
            noticed += 1
        make_targets(path, cases, teacher(Counting()), BOXES)
        assert content(path, cases) == expected, place
    assert noticed > 15


@pytest.mark.parametrize("text", ["case,x0,y0\na,1,2\n", "HDF"])
def test_what_is_not_ours_stays_as_it_is(cases, tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="t.csv: found .*expected a table of targets"):
        make_targets(path, cases, teacher(Counting()), BOXES)
    assert path.read_text() == text and not (tmp_path / "prepared").exists()


def test_tables_in_a_folder_share_what_they_have_in_common(cases, tmp_path):
    teach = Counting()
    make_targets(tmp_path / "a.csv", cases.iloc[:3], teacher(teach), BOXES)
    make_targets(tmp_path / "b.csv", cases.iloc[2:], teacher(teach), BOXES)
    assert teach.seen == 4
    a, b = (open_targets(tmp_path / name)["target"]["c2"] for name in ("a.csv", "b.csv"))
    assert a == b


def test_images_that_cannot_be_read_are_all_named_before_the_first_is_taught(cases, tmp_path):
    for i in (1, 3):
        os.remove(cases["image"][i])
    teach = Counting()
    with pytest.raises(DataError) as caught:
        make_targets(tmp_path / "t.csv", cases, teacher(teach), BOXES)
    assert len(caught.value.problems) == 2 and teach.seen == 0


def test_a_failure_is_recorded_with_its_reason_and_not_tried_again(cases, tmp_path):
    calls = []

    def teach(image, boxes):
        calls.append(boxes)
        if len(calls) == 1:
            raise Failure("empty mask: nothing there")
        level = {2: 0.0, 3: 1.0}.get(len(calls), 0.6)
        p = np.full(image.shape[:2], level)
        p[0, 0] = 0.4
        return Target(np.full(image.shape[:2], level) if level != 0.6 else p, 0.0, np.ones(1))

    boxes = {**BOXES, "c3": np.zeros((0, 4), "float32")}
    done = make_targets(tmp_path / "t.csv", cases, teacher(teach), boxes)
    reasons = ["empty mask: nothing there", "empty mask", "full mask", "no box"]
    assert done["status"].tolist() == ["failed"] * 4 and done["reason"].tolist() == reasons
    again = make_targets(tmp_path / "t.csv", cases, teacher(teach), boxes)
    assert again.equals(done) and len(calls) == 3
    assert read_target(open_targets(tmp_path / "t.csv"), "c0") is None


def test_the_size_is_announced(cases, tmp_path, capsys):
    make_targets(tmp_path / "t.csv", cases, teacher(Counting()), BOXES)
    assert "at most 0.00 GB for 4 cases" in capsys.readouterr().out


def test_the_size_is_that_of_a_case_that_was_taught(cases, tmp_path, capsys):
    boxes = {**BOXES, "c0": np.zeros((0, 4), "float32")}
    wide = Target(np.eye(2000), 0.1, np.ones(1))  # 8 MB in float16
    make_targets(tmp_path / "t.csv", cases, teacher(lambda *_: wide), boxes)
    assert "at most 0.02 GB for 3 cases" in capsys.readouterr().out


def test_a_teacher_without_prompts_needs_no_box(cases, tmp_path):
    alone = Teacher("network", "1", Counting(), prompted=False)
    assert (make_targets(tmp_path / "t.csv", cases, alone)["status"] == "done").all()


def test_entropy_is_that_within_the_boxes():
    p = np.zeros((10, 10))
    p[2:4, 2:6] = 0.5
    inside = Target(p, 0.0, np.ones(1), boxes=np.array([[2, 2, 6, 4]], "float32"))
    assert inside.entropy == pytest.approx(1.0)
    assert Target(p, 0.0, np.ones(1)).entropy == pytest.approx(0.08, abs=1e-5)


def test_the_variance_is_that_of_the_teachers_own_grid():
    maps = np.random.default_rng(0).random((3, 5, 4))
    target = merge(maps, [1, 1, 1], (50, 40))
    assert target.variance == pytest.approx(np.mean([m.var() for m in maps]))
    assert target.probability.shape == (50, 40)


@pytest.mark.parametrize(
    ("content", "found"), [(None, "no such file"), (b"no table", "the columns no table")]
)
def test_what_is_no_file_of_targets_is_named(tmp_path, content, found):
    if content:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"found {found}.*meduda teach"):
        open_targets(tmp_path / "t.csv")


def test_a_missing_case_is_named(cases, tmp_path):
    make_targets(tmp_path / "t.csv", cases, teacher(Counting()), BOXES)
    with pytest.raises(DataError, match="no case 'c9'.*run meduda teach again"):
        read_target(open_targets(tmp_path / "t.csv"), "c9")


def test_too_little_room_is_refused(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match="needs .* GB, 0.00 GB are free"):
        make_targets(tmp_path / "t.csv", cases, teacher(Counting()), BOXES)


def test_a_mask_agrees_with_itself_as_far_as_it_is_sure():
    assert self_agreement(np.array([1.0, 0.0])) == 1 == self_agreement(np.zeros(3))
    assert self_agreement(np.array([0.75, 0.25])) == pytest.approx(0.75 / 1.25)
