"""Brain tumours: a UNet++ without masks, taught by GrabCut or by a network, against one with masks.

MEDUDA_DATA=… python benchmarks/brain2d.py            (completes brain2d.csv, then brain2d.md)
MEDUDA_DATA=… python benchmarks/brain2d.py grabcut 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/brain2d.py --page     (writes brain2d.md from brain2d.csv)

UNet++ with filters 16…256 at 128 × 128, 300 steps of 8 in mixed bfloat16, weights of the last step.
Neighbouring ids share a patient, so the images are split by blocks in the order of their ids: 200
train without masks, 40 are for choosing and teach the network that is a teacher, 60 are scored.
GrabCut is prompted by boxes around the masks, every edge moved by up to 4 px, where it teaches; the
student sees no box. The detector is a YOLO11n from random weights, 100 epochs at 256 × 256 on the
boxes of the 200.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as keras_meduda, but before Keras
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from tables import asked, complete, mean_scores, read, spread, timed
from train_meddistill import MedDistillFlags, Stage, call

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import replacing
from keras_meduda.data.roi import read_boxes
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.teachers.boxes import boxes_by_case, boxes_from_masks, write_yolo
from keras_meduda.teachers.grabcut import grabcut
from keras_meduda.teachers.network import network
from keras_meduda.teachers.targets import make_targets

HERE = Path(__file__).parent
TABLE = HERE / "brain2d.csv"
COMMAND = "python benchmarks/brain2d.py"
WORK = HERE.parent / "runs" / "brain2d_benchmark"
BLOCKS = (("train", 200), ("labelled", 40), ("test", 60))
SETTING = {"size": 128, "filters": (16, 32, 64, 128, 256), "precision": "mixed_bfloat16"}
FORMS = {  # flags of train_meddistill.py
    "bce": {"fixed_weights": (1.0, 0.0, 0.0)},
    "fixed_weights": {"fixed_weights": (1.0, 1.0, 1.0)},
    "ulwr_original_dice": {"ulwr": "original", "dice": 1.0},
    "ulwr_original": {"ulwr": "original"},
    "ulwr_entropy": {"ulwr": "entropy"},
    "ulwr_kendall": {"ulwr": "kendall"},
    "ulwr_dwa": {"ulwr": "dwa"},
    "ulwr_original_refined": {"ulwr": "original", "refine": 0.5},
}
BOXES = {"masks": 0, "jitter": 4, "detected": None}  # pixels by which edges of masks' boxes move


def blocks():
    """The case table, split by blocks of ids, and its task."""
    task = km.Task(("tumour",), overlapping=True, values={"tumour": (255,)})
    cases, _ = catalog.folders(Path(os.environ["MEDUDA_DATA"]) / "brain2d_cheng", task)
    cases = cases.sort_values("case", key=lambda names: names.str.extract(r"(\d+)")[0].astype(int))
    cases["split"] = [name for name, count in BLOCKS for _ in range(count)]
    return cases, task


def part(name):
    """The cases of a block."""
    cases, _ = blocks()
    return cases[cases["split"] == name]


def stage(folder, seed, **form):
    """A training stage of scripts/train_meddistill.py."""
    form = {"dice": 0.0, **form}  # the published terms alone, unless the form says otherwise
    flags = MedDistillFlags(out=WORK / folder, seed=seed, **SETTING, **form)
    return Stage(flags, blocks()[1], km.Preprocessing(size=(128, 128), normalise="zero_one"))


def targets(teacher, boxes="jitter"):
    """The teacher's table of targets for all cases."""
    cases, task = blocks()
    path = WORK / f"{teacher}_{boxes}.csv"
    if teacher == "network":
        make_targets(path, cases, network(teacher_network()))
    else:
        if boxes == "detected":
            table = detected(cases, task)
        else:
            table = boxes_from_masks(cases, task, BOXES[boxes], seed=0)
        make_targets(path, cases, grabcut(), boxes_by_case(table, cases))
    return path


def detected(cases, task):
    """What the detector finds (needs the extra `teacher`)."""
    folder, table, found = WORK / "detector", WORK / "cases.csv", WORK / "detected.csv"
    weights = folder / "detector.pt"
    if not weights.exists():
        found.unlink(missing_ok=True)
        data = write_yolo(part("train"), task, folder / "data", seed=0)
        call("detect_boxes.py", "train", "--data", data, "--out", folder, "--device", "cpu")
    if not found.exists():
        write_cases(cases, table)
        call("detect_boxes.py", "predict", "--weights", weights, "--cases", table, "--out", found)
    return read_boxes(found)


def teacher_network():
    """A UNet++ trained on the 40 masks of the middle block."""
    return stage("networks", seed=0).supervised("teacher", part("labelled"))


def taught(teacher, boxes):
    """How good a teacher's own masks of the test images are; minutes for all of them."""
    path, minutes = timed(WORK / f"{teacher}_{boxes}", lambda: targets(teacher, boxes))
    frame = evaluate_teacher(path, part("test"), blocks()[1])
    return [*mean_scores(frame), ("tumour", "failed", frame["failed"].mean(), "1")], minutes


def oracle(seed):
    """The student's network, trained on the masks of the 200."""
    trainer = stage("oracle", seed)
    return timed(
        WORK / f"oracle-{seed}", lambda: trainer.supervised(f"oracle-{seed}", part("train"))
    )


def student(teacher, form, seed):
    """A student of a teacher, trained on 200 images without masks."""
    folder = f"{teacher}-{form}-{seed}"
    trainer, path = stage(folder, seed, **FORMS[form]), targets(teacher)
    return timed(WORK / folder, lambda: trainer.distil(blocks()[0], path))


def scored(split, make, *arguments):
    """Scores of a run on a block, and its milliseconds an image, reading included."""
    run, minutes = make(*arguments)
    cases = part(split)
    values = mean_scores(km.evaluate(run, cases))
    begin = time.process_time()
    list(predict_all(run, list(cases["image"])))
    milliseconds = 1000 * (time.process_time() - begin) / len(cases)
    return [*values, ("all", "inference", milliseconds, "CPU ms")], minutes


def wanted():
    """Row sets in the order in which they are made."""
    for boxes in BOXES:
        yield key("grabcut", "teacher", f"grabcut_{boxes}"), partial(taught, "grabcut", boxes)
    yield key("unetpp", "teacher", "network"), partial(taught, "network", "none")
    for seed in (0, 1, 2):
        yield key("unetpp", "oracle", "-", seed), partial(scored, "test", oracle, seed)
        for teacher in ("grabcut", "network"):
            for form in FORMS:
                made = partial(scored, "test", student, teacher, form, seed)
                yield key("unetpp", form, teacher, seed), made
    for form in ("ulwr_original", "ulwr_original_refined", "ulwr_original_dice"):  # defaults
        made = partial(scored, "labelled", student, "grabcut", form, 0)
        yield key("unetpp", form, "grabcut", 0, "blocks_choosing"), made


def key(name, method, source, seed=0, split="blocks"):
    """Which row set it is; a student's source is its teacher."""
    return name, source, "brain2d_cheng", split, method, str(seed)


def page():
    """Writes brain2d.md."""
    table = read(TABLE).astype({"value": float, "minutes": float})
    table = table[table["split"] == "blocks"]
    keys = ["source", "method", "seed"]
    wide = table.pivot_table(index=keys, columns="metric", values="value")
    minutes = table.groupby(keys)["minutes"].first()
    lines = [
        "# Brain tumours in slices: a student without masks",
        "",
        f"Made by `{COMMAND}` (2 cores, no GPU) from `brain2d.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Means over the 60 images of the last block, and over seeds ± half their range. HD95 is "
        "MedPy's, in px of the 256 × 256 images. GrabCut sees a box: around the mask itself or "
        "moved, both upper figures for what a detector gives, or detected; no box is an empty "
        "mask, whose HD95 is the image's diagonal. CPU ms is that of an image, "
        "reading included; minutes are wall time, with other jobs on the two cores.",
        "",
        "| who teaches | method | seeds | Dice | of the oracle | HD95 | CPU ms | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = wide.loc[("-", "oracle"), "dice"].mean() if ("-", "oracle", "0") in wide.index else None
    for source, method in dict.fromkeys(k[:2] for k in wide.index):
        own = wide.loc[source, method]
        share = "–" if best is None else f"{100 * own['dice'].mean() / best:.1f} %"
        has_time = "inference" in own and own["inference"].notna().all()
        cells = [
            source,
            method,
            ", ".join(own.index),
            spread(own["dice"]),
            share,
            spread(own["hd95"], 1),
            spread(own["inference"], 0) if has_time else "–",
            f"{minutes.loc[source, method].mean():.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = HERE / "brain2d_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / "brain2d.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--page"]
    if "--page" not in sys.argv:
        complete(TABLE, asked(wanted(), words), COMMAND)
    page()
