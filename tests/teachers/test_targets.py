"""One file of targets: nothing is done twice, nothing damaged is believed."""

import os
import shutil
import signal
import subprocess
import sys
import types

import h5py
import numpy as np
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.teachers import targets
from keras_meduda.teachers.targets import (
    Failure,
    Target,
    Teacher,
    attributes_of,
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
    done = make_targets(tmp_path / "t.h5", cases, teacher(teach), BOXES)
    assert done["status"].tolist() == ["done"] * 4 and teach.seen == 4
    image = targets.read_image(cases["image"][1]).array
    with open_targets(tmp_path / "t.h5") as file:
        found, expected = read_target(file, "c1"), teach(image, None)
        attributes = attributes_of(file["c1"])
        assert file["c1/probability"].dtype == "float16" and file["c1/variance"].dtype == "float64"
        assert file["c1/probability"].compression == "gzip"
    np.testing.assert_allclose(found.probability, expected.probability, atol=5e-4)
    assert found.variance == expected.variance
    assert found.embedding.shape == (3, 4, 5) and found.boxes.tolist() == [[2, 3, 9, 8]]
    assert attributes["teacher"] == "counting" and len(attributes["image_sha256"]) == 64


def test_a_second_start_does_nothing_and_a_change_is_done_anew(cases, tmp_path):
    teach, path = Counting(), tmp_path / "t.h5"

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
t.make_targets({str(tmp_path / "t.h5")!r}, read_cases({str(tmp_path / "cases.csv")!r}),
               t.teacher(killed), t.BOXES)
"""
    cases.to_csv(tmp_path / "cases.csv", index=False)
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": here})
    assert done.returncode == -signal.SIGKILL
    teach = Counting()
    make_targets(tmp_path / "t.h5", cases, teacher(teach), BOXES)
    assert teach.seen == 2


def flip_a_byte(path, case, name):
    """Damages the stored bytes of one data set."""
    with h5py.File(path, "r") as file:
        dataset = file[case][name]
        chunked = dataset.chunks is not None
        place = dataset.id.get_chunk_info(0).byte_offset if chunked else dataset.id.get_offset()
    with open(path, "r+b") as file:
        file.seek(place + 4)
        byte = file.read(1)
        file.seek(place + 4)
        file.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.parametrize("name", ["probability", "embedding", "boxes", "quality"])
def test_damage_is_noticed_and_only_that_case_is_made_anew(cases, tmp_path, name):
    path, teach = tmp_path / "t.h5", Counting()
    make_targets(path, cases, teacher(teach), BOXES)
    flip_a_byte(path, "c2", name)
    with open_targets(path) as file:
        with pytest.raises(DataError, match="data of 'c2' that do not fit their checksum"):
            read_target(file, "c2")
        read_target(file, "c1")
    teach.seen = 0
    make_targets(path, cases, teacher(teach), BOXES)
    assert teach.seen == 1
    with open_targets(path) as file:
        assert read_target(file, "c2").boxes.tolist() == [[2, 3, 9, 8]]


def test_a_file_that_cannot_be_opened_is_set_aside(cases, tmp_path, capsys):
    path, teach = tmp_path / "t.h5", Counting()
    make_targets(path, cases, teacher(teach), BOXES)
    path.write_bytes(path.read_bytes()[:1000])
    make_targets(path, cases, teacher(teach), BOXES)
    assert teach.seen == 8 and (tmp_path / "t.h5.unreadable").stat().st_size == 1000
    assert "every case is done anew" in capsys.readouterr().out


def content(path, cases):
    """Everything that is stored, as bytes."""
    found = {}
    with open_targets(path) as file:
        for case in cases["case"]:
            target = read_target(file, case)
            found[case] = target and {
                name: np.asarray(value).tobytes() for name, value in vars(target).items()
            }
    return found


def test_wherever_a_byte_flips_all_cases_come_back(cases, tmp_path, capsys):
    """Data, attributes, names and HDF5's own structures; h5py raises all there is to raise."""
    path, boxes = tmp_path / "t.h5", {**BOXES, "c3": np.zeros((0, 4), "float32")}
    make_targets(path, cases, teacher(Counting()), boxes)
    whole, expected, noticed = path.read_bytes(), content(path, cases), 0
    for seed in range(150):
        rng, damaged = np.random.default_rng(seed), bytearray(whole)
        places = rng.integers(len(whole), size=1 + seed % 3)
        if seed % 2:  # where nothing is stored there is nothing to damage
            places[0] = rng.choice(np.flatnonzero(np.frombuffer(whole, "uint8")))
        for place in places:
            damaged[place] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            assert content(path, cases) == expected
        except DataError:
            noticed += 1
        make_targets(path, cases, teacher(Counting()), boxes)
        assert content(path, cases) == expected, seed
    assert noticed > 50
    assert "damaged or unfinished and made anew: 'c" in capsys.readouterr().out


def test_a_name_that_flips_into_another_brings_no_other_target(cases, tmp_path):
    path = tmp_path / "t.h5"
    make_targets(path, cases, teacher(Counting()), BOXES)
    expected, whole = content(path, cases), path.read_bytes()
    assert whole.count(b"c1\0") == 1
    path.write_bytes(whole.replace(b"c1\0", b"c2\0"))
    make_targets(path, cases, teacher(Counting()), BOXES)
    assert content(path, cases) == expected


def test_a_file_that_another_process_writes_is_no_damage(cases, tmp_path):
    path = tmp_path / "t.h5"
    make_targets(path, cases, teacher(Counting()), BOXES)
    script = f"import h5py; file = h5py.File({str(path)!r}, 'a'); print('open'); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as writer:
        writer.stdout.readline()
        for call in (open_targets, lambda path: make_targets(path, cases, teacher(None), BOXES)):
            with pytest.raises(DataError, match="another process has open for writing"):
                call(path)
        writer.communicate("\n")
    assert not (tmp_path / "t.h5.unreadable").exists() and len(content(path, cases)) == 4


def test_files_of_earlier_versions_are_read(cases, tmp_path):
    """Their attributes are of variable length; the checksum is the same."""
    path, teach = tmp_path / "t.h5", Counting()
    make_targets(path, cases, teacher(teach), BOXES)
    expected = content(path, cases)
    with h5py.File(path, "a") as file:
        for group in file.values():
            group.attrs.update(attributes_of(group))
    assert content(path, cases) == expected
    make_targets(path, cases, teacher(teach), BOXES)
    assert teach.seen == 4


@pytest.mark.parametrize("ours", [False, True])
def test_what_is_not_ours_stays_as_it_is(cases, tmp_path, ours):
    path = tmp_path / "t.h5"
    if ours:
        make_targets(path, cases, teacher(Counting()), BOXES)
    with h5py.File(path, "a") as file:
        file["study/volume"] = np.arange(5)
        file["age"] = 40
    before = path.read_bytes()
    with pytest.raises(DataError, match="found other data, such as 'age', expected teacher targ"):
        make_targets(path, cases, teacher(Counting()), BOXES)
    assert path.read_bytes() == before


def test_cases_of_another_table_stay_in_the_file(cases, tmp_path):
    path, teach = tmp_path / "t.h5", Counting()
    make_targets(path, cases.iloc[:3], teacher(teach), BOXES)
    make_targets(path, cases.iloc[2:], teacher(teach), BOXES)
    assert teach.seen == 4 and len(content(path, cases)) == 4


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
    done = make_targets(tmp_path / "t.h5", cases, teacher(teach), boxes)
    reasons = ["empty mask: nothing there", "empty mask", "full mask", "no box"]
    assert done["status"].tolist() == ["failed"] * 4 and done["reason"].tolist() == reasons
    again = make_targets(tmp_path / "t.h5", cases, teacher(teach), boxes)
    assert again.equals(done) and len(calls) == 3
    with open_targets(tmp_path / "t.h5") as file:
        assert read_target(file, "c0") is None


def test_the_size_is_announced(cases, tmp_path, capsys):
    make_targets(tmp_path / "t.h5", cases, teacher(Counting()), BOXES)
    assert "at most 0.00 GB for 4 cases" in capsys.readouterr().out


def test_the_size_is_that_of_a_case_that_was_taught(cases, tmp_path, capsys):
    boxes = {**BOXES, "c0": np.zeros((0, 4), "float32")}
    wide = Target(np.eye(2000), 0.1, np.ones(1))  # 8 MB in float16
    make_targets(tmp_path / "t.h5", cases, teacher(lambda *_: wide), boxes)
    assert "at most 0.02 GB for 3 cases" in capsys.readouterr().out


def test_a_teacher_without_prompts_needs_no_box(cases, tmp_path):
    alone = Teacher("network", "1", Counting(), prompted=False)
    assert (make_targets(tmp_path / "t.h5", cases, alone)["status"] == "done").all()


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
    ("content", "found"), [(None, "no such file"), (b"no hdf5", "no readable HDF5")]
)
def test_what_is_no_file_of_targets_is_named(tmp_path, content, found):
    if content:
        (tmp_path / "t.h5").write_bytes(content)
    with pytest.raises(DataError, match=f"found {found}.*make_teacher_targets.py"):
        open_targets(tmp_path / "t.h5")


def test_a_missing_case_is_named(cases, tmp_path):
    make_targets(tmp_path / "t.h5", cases, teacher(Counting()), BOXES)
    with open_targets(tmp_path / "t.h5") as file:
        with pytest.raises(DataError, match="no case 'c9'.*run make_teacher_targets.py again"):
            read_target(file, "c9")


def test_too_little_room_is_refused(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match="needs .* GB, 0.00 GB are free"):
        make_targets(tmp_path / "t.h5", cases, teacher(Counting()), BOXES)


def test_a_mask_agrees_with_itself_as_far_as_it_is_sure():
    assert self_agreement(np.array([1.0, 0.0])) == 1 == self_agreement(np.zeros(3))
    assert self_agreement(np.array([0.75, 0.25])) == pytest.approx(0.75 / 1.25)
