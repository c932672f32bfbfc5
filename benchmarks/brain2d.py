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

import itertools
import time
from dataclasses import replace
from functools import partial

from tables import RUNS, data_root, main, markdown, mean_scores, read, spread, timed, trained

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.cases import without_masks, write_cases
from keras_meduda.data.roi import read_boxes
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.teaching import call
from keras_meduda.recipes import meddistill
from keras_meduda.teachers.boxes import boxes_by_case, boxes_from_masks, write_yolo
from keras_meduda.teachers.grabcut import grabcut
from keras_meduda.teachers.network import network
from keras_meduda.teachers.targets import make_targets

WORK = RUNS / "brain2d_benchmark"
BLOCKS = (("train", 200), ("labelled", 40), ("test", 60))
FORMS = {  # flags of the recipe; the published terms alone, unless a form says otherwise
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
    """The images, split by blocks of ids."""
    task = km.Task(("tumour",), overlapping=True, values={"tumour": (255,)})
    cases, _ = catalog.folders(data_root() / "brain2d_cheng", task)
    cases = cases.sort_values("case", key=lambda names: names.str.extract(r"(\d+)")[0].astype(int))
    cases["split"] = [name for name, count in BLOCKS for _ in range(count)]
    train, labelled, test = (cases[cases["split"] == name] for name, _ in BLOCKS)
    parts = {"target": without_masks(train), "oracle": train, "few": labelled}
    tests = {"blocks": test, "blocks_choosing": labelled}
    return Data(task, parts, tests, "slices by blocks of ids", prompted=cases)


def run_of(data, teacher, method, seed=0):
    """The student of a teacher in a form of the loss, the oracle, or the teacher itself."""
    settings = {"dice": 0.0, **FORMS.get(method, {}), "oracle": True}
    flags = meddistill.Flags(teacher=teacher, size=128, filters=(16, 32, 64, 128, 256), **settings)
    recipe = meddistill.recipe(flags, data)
    stages = {**recipe.stages, method: recipe.stages.get(method, recipe.stages["student"])}
    recipe = replace(recipe, stages=stages, teacher=lambda *_: targets(data, teacher))
    return trained(recipe, data, method, WORK / teacher, seed, precision="mixed_bfloat16")


def targets(data, teacher, boxes="jitter"):
    """The teacher's table of targets for all cases."""
    cases, path = data.prompted, WORK / f"{teacher}_{boxes}.csv"
    if teacher == "network":
        make_targets(path, cases, network(run_of(data, "network", "teacher")[0]))
    else:
        if boxes == "detected":
            table = detected(cases, data.task)
        else:
            table = boxes_from_masks(cases, data.task, BOXES[boxes], seed=0)
        make_targets(path, cases, grabcut(), boxes_by_case(table, cases))
    return path


def detected(cases, task):
    """What the detector finds (needs the extra `teacher`)."""
    folder, table, found = WORK / "detector", WORK / "cases.csv", WORK / "detected.csv"
    weights = folder / "detector.pt"
    if not weights.exists():
        found.unlink(missing_ok=True)
        data = write_yolo(cases[cases["split"] == "train"], task, folder / "data", seed=0)
        call("detect", "train", data=data, out=folder, device="cpu")
    if not found.exists():
        write_cases(cases, table)
        call("detect", "predict", weights=weights, cases=table, out=found)
    return read_boxes(found)


def taught(teacher, boxes):
    """How good a teacher's own masks of the test images are; minutes for all of them."""
    data = blocks()
    path, minutes = timed(WORK / f"{teacher}_{boxes}", lambda: targets(data, teacher, boxes))
    frame = evaluate_teacher(path, data.tests["blocks"], data.task)
    return [*mean_scores(frame), ("tumour", "failed", frame["failed"].mean(), "1")], minutes


def scored(split, teacher, method, seed):
    """Scores of a run on a block, and its milliseconds an image, reading included."""
    data = blocks()
    run, minutes = run_of(data, teacher, method, seed)
    cases = data.tests[split]
    values = mean_scores(km.evaluate(run, cases))
    begin = time.process_time()
    list(predict_all(run, list(cases["image"])))
    milliseconds = 1000 * (time.process_time() - begin) / len(cases)
    return [*values, ("all", "inference", milliseconds, "CPU ms")], minutes


def wanted():
    """Row sets in the order in which they are made; a student's source is its teacher."""
    data = "brain2d_cheng"
    for boxes in BOXES:
        key = ("grabcut", f"grabcut_{boxes}", data, "blocks", "teacher", "0")
        yield key, partial(taught, "grabcut", boxes)
    yield ("unetpp", "network", data, "blocks", "teacher", "0"), partial(taught, "network", "none")
    for seed in (0, 1, 2):
        key = ("unetpp", "-", data, "blocks", "oracle", str(seed))
        yield key, partial(scored, "blocks", "grabcut", "oracle", seed)
        for teacher, form in itertools.product(("grabcut", "network"), FORMS):
            key = ("unetpp", teacher, data, "blocks", form, str(seed))
            yield key, partial(scored, "blocks", teacher, form, seed)
    for form in ("ulwr_original", "ulwr_original_refined", "ulwr_original_dice"):  # defaults
        key = ("unetpp", "grabcut", data, "blocks_choosing", form, "0")
        yield key, partial(scored, "blocks_choosing", "grabcut", form, 0)


def page():
    """The lines of brain2d.md."""
    table = read("brain2d").astype({"value": float, "minutes": float})
    table = table[table["split"] == "blocks"]
    keys = ["source", "method", "seed"]
    wide = table.pivot_table(index=keys, columns="metric", values="value")
    minutes = table.groupby(keys)["minutes"].first()
    best = wide.loc[("-", "oracle"), "dice"].mean() if ("-", "oracle", "0") in wide.index else None

    def cells(source, method):
        own = wide.loc[source, method]
        has_time = "inference" in own and own["inference"].notna().all()
        return (
            source,
            method,
            ", ".join(own.index),
            spread(own["dice"]),
            "–" if best is None else f"{100 * own['dice'].mean() / best:.1f} %",
            spread(own["hd95"], 1),
            spread(own["inference"], 0) if has_time else "–",
            f"{minutes.loc[source, method].mean():.0f}",
        )

    yield from (
        "# Brain tumours in slices: a student without masks",
        "",
        "Made by `python benchmarks/brain2d.py` (2 cores, no GPU) from `brain2d.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Means over the 60 images of the last block, and over seeds ± half their range. HD95 is "
        "MedPy's, in px of the 256 × 256 images. GrabCut sees a box: around the mask itself or "
        "moved, both upper figures for what a detector gives, or detected; no box is an empty "
        "mask, whose HD95 is the image's diagonal. CPU ms is that of an image, "
        "reading included; minutes are wall time, with other jobs on the two cores.",
        "",
    )
    columns = ("who teaches", "method", "seeds", "Dice", "of the oracle", "HD95", "CPU ms")
    rows = dict.fromkeys(k[:2] for k in wide.index)
    yield from markdown((*columns, "minutes"), (cells(*row) for row in rows))


if __name__ == "__main__":
    main("brain2d", wanted(), page)
