"""A teacher that boxes prompt: which cases it may see, and what is made anew when."""

import pytest

from keras_meduda.data.cases import case_table, read_cases, write_cases
from keras_meduda.data.phantoms import write_brain_slices
from keras_meduda.experiment import teaching
from keras_meduda.recipes import meddistill


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty slices, three of them of a patient without a tumour."""
    return write_brain_slices(tmp_path_factory.mktemp("brain"), cases=20, size=64)


def with_splits(table, folder, change):
    """A table in which the column `split` was changed."""
    cases = read_cases(table)
    write_cases(cases.assign(split=change(cases["split"])), folder / "changed.csv")
    return folder / "changed.csv"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--cases typo.csv", "typo.csv: expected one that is there"),
        ("--cases {table} --boxes typo.csv", "typo.csv: expected one that is there"),
        ("--cases {half}", "no split in 5 of 20 rows (brain_"),
        ("--cases {unlabelled} --teacher network", "no case of split 'labelled'"),
        ("--teacher network --teacher-weights typo", "typo: expected a run folder"),
        ("--teacher sam2 --teacher-weights runs/typo.pt", "runs/typo.pt: no such"),
        ("--teacher sam2 --teacher-weights sam2.1_x.pt", "sam2.1_x.pt: no such"),
        ("--detector typo.pt", "typo.pt: no such weights, expected .pt, or a .yaml"),
        ("--detector {tmp}", "expected a run folder with network.keras"),
        ("--refine 2", "--refine 2.0: expected 0 to 1"),
        ("--fixed-weights -1 0 0", "--fixed-weights -1.0: expected 0 or more"),
        ("--fixed-weights 0 0 1", "not all 0 (grabcut has no third)"),
        ("--detector a.yaml --teacher network", "--teacher network does without"),
        ("--detector a.yaml --boxes {table}", "finds what --boxes has"),
        ("--teacher-weights runs/a", "--teacher grabcut has no weights"),
        (
            "--teacher sam --encoder {table} --decoder {table} --teacher-weights a",
            "--teacher sam has no weights; expected no --teacher-weights",
        ),
        ("--encoder {table}", "--teacher grabcut with --encoder {table} and --decoder None: sam"),
        ("--teacher sam --encoder {table}", "sam needs both ONNX files"),
        ("--teacher network --draws 8", "--teacher network does without; expected no --draws"),
        ("--draws -2", "--draws -2: expected 0 or more"),
        ("--calibrate --supervised", "--calibrate needs labelled cases from which nothing learns"),
        ("--calibrate --detector a.yaml", "cases from which nothing learns; here a detector"),
        ("--calibrate --cases {unlabelled}", "no case of split 'labelled' with a mask, which"),
        ("--cases {few}", "no masks of train cases to take boxes from; expected --boxes or --det"),
        (
            "--cases {few} --teacher network --oracle",
            "10 train cases without a mask; --oracle needs all",
        ),
        ("--cases {table} --patch 16 16", "--patch is for volumes; received pictures"),
        ("--cases {table} --spacing 1 1 1", "--spacing and --fit are for volumes"),
        ("--cases {table} --network RatLesNetV2", "RatLesNetV2 takes no pictures"),
        ("--cases {table} --network UNet --deep-supervision", "UNet takes no --deep-supervision"),
        ("--volumes --smoke --network DeepLabV3Plus", "DeepLabV3Plus takes no volumes"),
        ("--volumes --smoke --detector a.yaml", "YOLO sees pictures alone; received volumes"),
        ("--volumes --smoke --teacher network", "--teacher network teaches pictures alone"),
        ("--volumes --smoke --legacy", "the original scores pictures alone; received volumes"),
        (
            "--volumes --smoke --teacher sam --encoder {table} --decoder {table} "
            "--fixed-weights 0 0 1",
            "not all 0 of the first two (slices of volumes give no third)",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(table, tmp_path, meduda, flags, message):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unlabelled = with_splits(table, tmp_path, lambda split: split.replace("labelled", "train"))
    half = with_splits(table, tmp_path / "a", lambda split: split.where(split != "test", ""))
    cases = read_cases(table).assign(split="train")
    cases.loc[:9, ["split", "mask"]] = ["labelled", cases["mask"][0]]
    cases.loc[10:, "mask"] = ""
    write_cases(cases, few := tmp_path / "b" / "few.csv")
    places = {"table": table, "unlabelled": unlabelled, "half": half, "few": few, "tmp": tmp_path}
    words = flags.format(**places).split()
    code, _, error = meduda("distil", *words, "--out", tmp_path / "out")
    assert code == 2 and message.format(table=table) in " ".join(error.split())
    assert not (tmp_path / "out" / "teaching").exists()
    assert not (tmp_path / "out" / "config.json").exists()


def test_only_masks_that_something_learns_from_are_needed(table, tmp_path):
    cases = read_cases(table)
    cases["mask"] = cases["mask"].where(cases["split"] == "labelled", "")
    write_cases(cases, tmp_path / "cases.csv")
    flags = meddistill.Flags(cases=tmp_path / "cases.csv", out=tmp_path, teacher="network")
    data = meddistill.data(flags)
    assert set(data.parts) == {"target", "few"} and len(data.prompted) == 20
    assert not data.scored, "no test case has a mask"


def test_the_student_never_sees_a_mask_of_a_train_case(table, tmp_path):
    data = meddistill.data(meddistill.Flags(cases=table, out=tmp_path, supervised=True))
    assert (data.parts["target"]["mask"] == "").all() and "oracle" not in data.parts
    assert not set(data.parts["few"]["group"]) & set(data.tests["test"]["group"])


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
    split = teaching._split(cases, seed=0)
    assert split["split"].value_counts().to_dict() == counts
    assert set(split["split"][split["mask"] == ""]) <= {"train"}
    assert split["case"].equals(cases["case"])


def test_no_image_of_a_patient_who_is_tested_trains(capsys):
    """Ten patients of four images, the first of each with a mask; and four without masks."""
    rows = [{"case": f"{i}", "image": "a.png", "group": i // 4} for i in range(56)]
    cases = case_table(rows)
    cases.loc[range(0, 40, 4), "mask"] = "m.png"
    cases = teaching._split(cases, seed=0)
    assert cases["split"].value_counts().to_dict() == {"train": 16, "test": 6, "labelled": 4}
    assert cases.groupby("group")["split"].nunique().max() == 1
    assert "30 cases without a mask are left out" in capsys.readouterr().out


def test_boxes_from_masks_are_no_masks(table, tmp_path):
    """They follow the masks of the cases as they are now, and their edges move as asked."""
    data = meddistill.data(meddistill.Flags(cases=table, out=tmp_path))
    flags = [meddistill.Flags(cases=table, jitter=jitter) for jitter in (0, 4)]
    exact, moved = (teaching.find_boxes(f, data, tmp_path).read_text() for f in flags)
    assert exact != moved and len(exact.splitlines()) == len(moved.splitlines()) == 1 + 17


def test_a_detector_of_too_few_cases_is_refused(tmp_path):
    table = write_brain_slices(tmp_path / "drawn", cases=16, size=64)
    flags = meddistill.Flags(cases=table, out=tmp_path, detector="yolo11n.yaml")
    with pytest.raises(ValueError, match="2 labelled cases of 1 groups, expected at"):
        teaching.find_boxes(flags, meddistill.data(flags), tmp_path)
